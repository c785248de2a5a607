//! Every CUDA kernel, and how one is found.

use super::argmax::FindLargest;
use super::attention_decode::AttentionDecode;
use super::attention_mla::AttentionMla;
use super::attention_mla_wgmma::AttentionMlaWgmma;
use super::attention_prefill::AttentionPrefill;
use super::attention_prefill_wgmma::AttentionPrefillWgmma;
use super::configuration::{Candidate, Configuration, split_name};
use super::contract::{Choose, Configured, Kernel};
use super::decode_step::ComposedStep;
use super::embedding::LookUpTokens;
use super::gated_activation::GateTokens;
use super::gemm::TiledGemm;
use super::gemm_skinny::SkinnyGemm;
use super::gemm_swapped::SwappedGemm;
use super::gemm_wgmma::WgmmaGemm;
use super::gemv::Gemv;
use super::kv_append::AppendToPages;
use super::kv_read::ReadCache;
use super::moe_gemm::ExpertGemm;
use super::moe_gemm_wgmma::WgmmaExpertGemm;
use super::outline::Outline;
use super::peak::PeakChains;
use super::peak_wgmma::WarpgroupProducts;
use super::refusal::Refusal;
use super::rmsnorm::NormalizeTokens;
use super::rope_append::RotateAndAppend;
use super::stream::VectorStream;
use super::stream_bulk::BulkStream;
use super::transfer::HostCopies;
use crate::op::Problem;
use crate::toolchain::{Arch, Target};

/// Every CUDA kernel. Where several run the same problem, the default is the first one that
/// expects to be no slower than those after it. Of matrix products those of few rows come
/// first, which refuse others: with 16 to 64 rows, or 17 and more with quantized weights,
/// those of `gemm_swapped` take the time of their weights' bytes where there is wgmma. With
/// 65 to 256 rows and weights of 16 bits estimates decide between it and `gemm_wgmma`.
pub static KERNELS: &[Kernel] = &[
    Kernel::of::<VectorStream>(),
    Kernel::of::<BulkStream>(),
    Kernel::of::<WarpgroupProducts>(),
    Kernel::of::<PeakChains>(),
    Kernel::of::<ReadCache>(),
    Kernel::of::<AppendToPages>(),
    Kernel::of::<SwappedGemm>(),
    Kernel::of::<Gemv>(),
    Kernel::of::<SkinnyGemm>(),
    Kernel::of::<WgmmaGemm>(),
    Kernel::of::<TiledGemm>(),
    Kernel::of::<WgmmaExpertGemm>(),
    Kernel::of::<ExpertGemm>(),
    Kernel::of::<AttentionDecode>(),
    Kernel::of::<AttentionMlaWgmma>(),
    Kernel::of::<AttentionMla>(),
    Kernel::of::<AttentionPrefillWgmma>(),
    Kernel::of::<AttentionPrefill>(),
    Kernel::of::<NormalizeTokens>(),
    Kernel::of::<GateTokens>(),
    Kernel::of::<RotateAndAppend>(),
    Kernel::of::<LookUpTokens>(),
    Kernel::of::<FindLargest>(),
    Kernel::of_stages::<ComposedStep>(),
    Kernel::of_copies::<HostCopies>(),
];

impl Kernel {
    /// The kernel named `name`.
    pub fn named(name: &str) -> Option<&'static Kernel> {
        KERNELS.iter().find(|kernel| kernel.name == name)
    }

    /// The kernel named `name`, or `name.configuration`, configured for a problem on an
    /// architecture: in the default configuration where none is named.
    ///
    /// # Errors
    /// A name that no kernel for the operation has, with the one to use; a configuration that
    /// the kernel does not have; why the kernel does not run the problem.
    pub fn asked_for(
        name: &str,
        problem: &Problem,
        arch: Arch,
    ) -> Result<Configured, Refusal> {
        Kernel::asked_with(name, problem, arch, &|_, _| Configuration::DEFAULT)
    }

    /// As [`Kernel::asked_for`], in the configurations that `choose` says where none is
    /// named.
    ///
    /// # Errors
    /// As [`Kernel::asked_for`].
    pub fn asked_with(
        name: &str,
        problem: &Problem,
        arch: Arch,
        choose: &Choose<'_>,
    ) -> Result<Configured, Refusal> {
        let (name, configuration) = split_name(name);
        let found = Kernel::named(name).filter(|found| found.op == problem.op());
        let Some(kernel) = found else {
            let known = Kernel::for_problem(problem, arch)?;
            return Err(Refusal(format!(
                "there is no CUDA kernel `{name}` for {}; use `{}`",
                problem.op(),
                known.kernel.name
            )));
        };
        match configuration {
            Some(name) => {
                kernel.configure_as(problem, arch, kernel.search_space().find(name)?)
            }
            None => kernel.configure_with(problem, arch, choose),
        }
    }

    /// The kernel that runs a problem where no kernel is named, configured for it.
    ///
    /// # Errors
    /// Why the first kernel for the operation does not run the problem.
    pub fn for_problem(problem: &Problem, arch: Arch) -> Result<Configured, Refusal> {
        let (mut slower, mut refusal) = (None, None);
        for kernel in KERNELS.iter().filter(|kernel| kernel.op == problem.op()) {
            match kernel.configure(problem, arch) {
                Ok(configured) if configured.is_fast => return Ok(configured),
                Ok(configured) => slower = slower.or(Some(configured)),
                Err(why) => refusal = refusal.or(Some(why)),
            }
        }
        if let Some(configured) = slower {
            return Ok(configured);
        }
        Err(refusal.unwrap_or_else(|| {
            Refusal(format!("there is no CUDA kernel for {}", problem.op()))
        }))
    }

    /// Every kernel that runs a problem on a GPU, with each of its configurations in which it
    /// does, but for those that are one before them by another name.
    pub fn candidates(problem: &Problem, target: &Target) -> Vec<Candidate> {
        let of_op = KERNELS.iter().filter(|kernel| kernel.op == problem.op());
        of_op.flat_map(|kernel| kernel.candidates_of(problem, target)).collect()
    }

    fn candidates_of(&'static self, problem: &Problem, target: &Target) -> Vec<Candidate> {
        let runs = |configuration: &'static Configuration| {
            let configured = self.configure_as(problem, target.arch, configuration).ok()?;
            Some((Candidate { kernel: self.name, configuration }, configured))
        };
        let all: Vec<_> = self.configurations().filter_map(runs).collect();
        if all.len() < 2 {
            return all.into_iter().map(|(candidate, _)| candidate).collect();
        }
        let mut known = Vec::new();
        let mut candidates = Vec::new();
        for (candidate, configured) in all {
            let outline = Outline::of(&configured, problem, target);
            if !known.contains(&outline) {
                known.push(outline);
                candidates.push(candidate);
            }
        }
        candidates
    }

    /// Every kernel that runs a problem, configured for it.
    pub fn all_for(problem: &Problem, arch: Arch) -> impl Iterator<Item = Configured> {
        let of_op = KERNELS.iter().filter(|kernel| kernel.op == problem.op());
        of_op.filter_map(move |kernel| kernel.configure(problem, arch).ok())
    }
}
