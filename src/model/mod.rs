//! Facts about machines, from their makers and from the devices themselves.
//! Needs problem and roofline only.

pub mod derived;
pub mod identity;
pub mod launch;
pub mod machine;
