//! What a CPU kernel is to its device.

use std::sync::{Mutex, PoisonError};

use crate::device::Refusal;
use crate::format::DType;
use crate::kernel::{Configuration, SearchSpace};
use crate::op::{OfProblem, Op, Problem};
use crate::quant::Quant;

/// One way to run a problem.
pub(super) trait Kernel: Send {
    /// See [`Prepared::extra_bytes`](crate::device::Prepared::extra_bytes).
    fn extra_bytes(&self) -> Option<u64> {
        Some(0)
    }

    /// Runs once: `inputs` and `output` are those of [`Problem::tensors`].
    fn run(&mut self, slot: usize, inputs: &InputBytes, output: &mut [u8]);
}

/// The inputs of one instance, by the names of their tensors.
#[derive(Default)]
pub(super) struct InputBytes<'a>(pub Vec<(&'static str, &'a [u8])>);

impl<'a> InputBytes<'a> {
    /// The bytes of a tensor, if the problem has one of this name.
    pub fn find(&self, name: &str) -> Option<&'a [u8]> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
    }

    /// The bytes of a tensor that every problem of the operation has.
    ///
    /// # Panics
    /// If there is none of this name: the operation and its kernel disagree.
    pub fn get(&self, name: &str) -> &'a [u8] {
        match self.find(name) {
            Some(bytes) => bytes,
            None => panic!("the CPU kernel found no tensor `{name}`"),
        }
    }
}

/// A CPU kernel, before it is made for a problem.
pub(super) struct CpuKernel {
    /// The name in records.
    pub name: &'static str,
    /// What it computes.
    pub op: Op,
    /// The texts that its code is in, beside those that all kernels share.
    pub sources: &'static [&'static str],
    /// Its search space beyond the default.
    pub configurations: &'static [Configuration],
    /// Whether it runs a problem in a configuration, and how it is made for it.
    pub configure: fn(&Problem, &'static Configuration) -> Result<Configured, Refusal>,
}

/// The texts that all kernels share.
const SHARED_SOURCES: [&str; 5] = [
    include_str!("../../multiversion.rs"),
    include_str!("cache.rs"),
    include_str!("product.rs"),
    include_str!("simd.rs"),
    include_str!("threads.rs"),
];

impl CpuKernel {
    /// Its search space.
    pub fn search_space(&self) -> SearchSpace {
        let sources = self.sources.iter().chain(&SHARED_SOURCES).copied();
        SearchSpace::new(self.name, self.configurations, sources)
    }
}

/// For kernels that memory binds: fewer threads may reach as much, and one on each core more
/// than two. What it means is up to the device.
pub(super) const HALF_OF_THE_THREADS: Configuration =
    Configuration::new("half_of_the_threads", &[("thread_divisor", 2)]);

/// Makes the kernel of one problem.
pub(super) type Configured = Box<dyn FnOnce(RunSettings) -> Box<dyn Kernel>>;

/// What a kernel is made for, beside its problem.
#[derive(Clone, Copy)]
pub(super) struct RunSettings {
    pub seed: u64,
    pub threads: usize,
}

/// Gives the operation's own struct to a kernel.
pub(super) fn configured<P: OfProblem>(
    problem: &Problem,
    configure: impl FnOnce(&P) -> Result<Configured, Refusal>,
) -> Result<Configured, Refusal> {
    match P::of(problem) {
        Some(p) => configure(p),
        None => Err(Refusal(format!("this CPU kernel does not compute {}", problem.op()))),
    }
}

/// A format that CPU kernels take operands in. They compute in f32.
#[derive(Clone, Copy)]
pub(super) enum CpuFormat {
    F32,
    Bf16,
    F16,
}

impl CpuFormat {
    /// The format that a key asks for.
    pub fn of(key: &str, scheme: impl Into<Quant>) -> Result<CpuFormat, Refusal> {
        let scheme = scheme.into();
        match scheme.dtype() {
            DType::F32 => Ok(CpuFormat::F32),
            DType::Bf16 => Ok(CpuFormat::Bf16),
            DType::F16 => Ok(CpuFormat::F16),
            _ => Err(Refusal(format!(
                "the CPU kernels compute in f32 on f32, bf16 and f16 operands, not on {key} = \
                 {scheme}; choose one of those"
            ))),
        }
    }
}

/// Scratch memory that is allocated once for each thread.
pub(super) struct PerThread<T>(Vec<Mutex<T>>);

impl<T> PerThread<T> {
    pub fn new(threads: usize, make: impl Fn() -> T) -> Self {
        PerThread((0..threads).map(|_| Mutex::new(make())).collect())
    }

    /// Runs `work` with the scratch of this thread. Never nested and never
    /// around a parallel call, so the lock is free.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let thread = rayon::current_thread_index().unwrap_or(0) % self.0.len();
        work(&mut self.0[thread].lock().unwrap_or_else(PoisonError::into_inner))
    }
}
