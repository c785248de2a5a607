//! Why a kernel does not run a problem.

use thiserror::Error;

/// Why a problem is not run. Not a failure: the row says `skipped`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Refusal(pub String);

/// The refusal of a kernel: what it supports, what it was given and what to use.
pub(super) fn supports(what: impl std::fmt::Display) -> Refusal {
    Refusal(format!("the CUDA kernel supports {what}"))
}

/// Refuses unless `right`, with [`supports`].
pub(super) fn refuse_unless(
    right: bool,
    what: impl FnOnce() -> String,
) -> Result<(), Refusal> {
    if right { Ok(()) } else { Err(supports(what())) }
}
