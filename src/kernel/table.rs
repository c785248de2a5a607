//! Every CUDA kernel, and how one is found.

use super::contract::Kernel;
use super::refusal::Refusal;
use super::{
    attention_decode, attention_mla, attention_mla_wgmma, attention_prefill, gemm,
    gemm_skinny, kv_append, kv_read, moe_gemm, peak, stream, stream_bulk,
};
use crate::problem::Problem;
use crate::toolchain::Arch;

/// Every CUDA kernel. Where several run the same problem, the first one that
/// supports it is the default.
pub static KERNELS: &[Kernel] = &[
    stream::KERNEL,
    stream_bulk::KERNEL,
    peak::KERNEL,
    kv_read::KERNEL,
    kv_append::KERNEL,
    gemm_skinny::KERNEL,
    gemm::KERNEL,
    moe_gemm::KERNEL,
    attention_decode::KERNEL,
    attention_mla_wgmma::KERNEL,
    attention_mla::KERNEL,
    attention_prefill::KERNEL,
];

impl Kernel {
    /// The kernel named `name`.
    pub fn named(name: &str) -> Option<&'static Kernel> {
        KERNELS.iter().find(|kernel| kernel.name == name)
    }

    /// The kernel named `name`, if it runs a problem on an architecture.
    ///
    /// # Errors
    /// A name that no kernel for the operation has, with the one to use; why the
    /// kernel does not run the problem.
    pub fn asked_for(
        name: &str,
        problem: &Problem,
        arch: Arch,
    ) -> Result<&'static Kernel, Refusal> {
        let found = Kernel::named(name).filter(|found| found.op == problem.op());
        let Some(kernel) = found else {
            let known = Kernel::for_problem(problem, arch)?;
            return Err(Refusal(format!(
                "there is no CUDA kernel `{name}` for {}; use `{}`",
                problem.op(),
                known.name
            )));
        };
        (kernel.supports)(problem, arch)?;
        Ok(kernel)
    }

    /// The kernel that runs a problem when nobody names one.
    ///
    /// # Errors
    /// Why the first kernel for the operation does not run the problem.
    pub fn for_problem(problem: &Problem, arch: Arch) -> Result<&'static Kernel, Refusal> {
        let mut refusal = None;
        for kernel in KERNELS.iter().filter(|kernel| kernel.op == problem.op()) {
            match (kernel.supports)(problem, arch) {
                Ok(()) => return Ok(kernel),
                Err(why) => refusal = refusal.or(Some(why)),
            }
        }
        Err(refusal.unwrap_or_else(|| {
            Refusal(format!("there is no CUDA kernel for {}", problem.op()))
        }))
    }
}
