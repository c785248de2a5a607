//! Why a kernel does not run a problem.

use thiserror::Error;

/// Why a problem is not run. Not a failure: the row says `skipped`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Refuses unless `right`: `the CUDA kernel takes`, and then what it takes,
/// what it was given and what to use.
pub(super) fn refuse_unless(
    right: bool,
    takes: impl FnOnce() -> String,
) -> Result<(), Refusal> {
    if right { Ok(()) } else { Err(Refusal(format!("the CUDA kernel takes {}", takes()))) }
}
