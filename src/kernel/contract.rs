//! What a CUDA kernel is to the rest of the program.

use super::plan::Plan;
use super::refusal::Refusal;
use super::sources::HEADERS;
use crate::problem::{Op, Problem};
use crate::toolchain::nvrtc::Source;
use crate::toolchain::{Arch, Defines, Target};

/// A CUDA kernel: a source file and its host half.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Base name of both files, and the name in records.
    pub name: &'static str,
    /// What it computes.
    pub op: Op,
    /// Text of the CUDA source.
    pub source: &'static str,
    /// Whether it runs a problem on an architecture, and if not, why not and
    /// what it would run.
    pub supports: fn(&Problem, Arch) -> Result<(), Refusal>,
    /// What the source is compiled with for a supported problem. Depends on
    /// the architecture but not on the size of the GPU, so that kernels can be
    /// compiled where there is none.
    pub defines: fn(&Problem, Arch) -> Defines,
    /// How a supported problem is launched.
    pub plan: fn(&Problem, &Target) -> Plan,
}

impl Kernel {
    /// The source with its file name and what it includes.
    pub fn file(&self) -> Source<'static> {
        Source { name: self.name, text: self.source, headers: HEADERS }
    }
}
