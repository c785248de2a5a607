//! ridgepoint measures kernels of LLM inference and sets every measurement
//! beside an analytical model. DESIGN.md is the way into the code.
//! Its layers are listed there, and a test holds them.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod analysis;
pub mod campaign;
pub mod claims;
pub mod cmd;
pub mod compare;
pub mod counters;
pub mod data;
pub mod device;
pub mod elasticity;
pub mod expectation;
pub mod files;
pub mod format;
mod host_load;
pub mod inventory;
pub mod kernel;
pub mod line_fit;
pub mod measure;
pub mod model;
mod multiversion;
pub mod op;
pub mod output;
pub mod page;
pub mod plot;
pub mod point;
pub mod provenance;
pub mod quant;
pub mod quantity;
pub mod record;
pub mod reference;
pub mod residency;
pub mod resource;
pub mod roofline;
pub mod section;
pub mod selftest;
pub mod statistics;
pub mod suite;
pub mod summary;
pub mod toolchain;
pub mod tune;
pub mod tuning;
pub mod verdict;
pub mod weights;
