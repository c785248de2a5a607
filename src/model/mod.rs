//! Facts about machines, from their makers and from the devices themselves, facts about
//! language models, and what both predict for a step. Needs problem and roofline only.

pub mod claims;
pub mod derived;
pub mod identity;
pub mod import;
pub mod issue;
pub mod launch;
pub mod llm;
pub mod machine;
pub mod mix;
pub mod predict;
pub mod published;
pub mod routing;
mod shape;
pub mod step;
pub mod sweep;
pub mod table;
pub mod task;
pub mod weights;
pub mod workload;

#[cfg(test)]
mod tests;
