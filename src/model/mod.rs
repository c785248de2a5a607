//! Facts about machines, from their makers. Needs problem and roofline only.

pub mod machine;
