//! Hardware counters of a campaign's points, by NVIDIA Nsight Compute. The tool starts this
//! program again, which lays points out as the campaign did and launches them (`ridgepoint
//! replay`); what the tool prints is read, matched with the launches that each point's plan
//! has, and becomes rows of `counters.csv`. A point without counters has a row with the
//! reason.
//!
//! ```text
//! output <- {plan, tool} <- collect
//! ```

mod collect;
mod output;
mod plan;
mod tool;

pub use collect::{Collected, Collector, Request};
pub use output::{KernelProfile, Metric, Output};
pub use plan::{LAUNCHES, Replay, ReplayLine, Replayed, rows_of};
pub use tool::{Finished, Tool, ToolError};
