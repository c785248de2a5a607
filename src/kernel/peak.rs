//! Host half of `kernels/peak.cu`.

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::plan::{Launch, Params, Plan};
use super::refusal::{Refusal, refuse_unless};
use crate::format::DType;
use crate::op::{Peak, PeakData, Unit};
use crate::reference::fma_step;
use crate::toolchain::{Arch, Defines, Target};

/// Threads of a block.
const THREADS: u32 = 256;
/// Steps between two tests of the loop counter.
const UNROLL: u32 = 8;
/// Chains of a thread or warp that there are entries for, most first.
const CHAINS: [u32; 4] = [8, 4, 2, 1];
/// Warps that keep the tensor units of an SM busy when each has some chains.
const TENSOR_WARPS_PER_SM: u32 = 16;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PeakParams {
    start: u64,
    end: u64,
    lanes: u64,
    steps: u64,
    factor: f32,
    summand: f32,
    data: u32,
    unused: u32,
}

/// What chooses the operands: a macro for multiply-adds, a struct of `prelude.cuh` for
/// tensor units, where the architecture's support them.
fn operand(p: &Peak, arch: Arch) -> Result<&'static str, Refusal> {
    let Peak { unit, dtype, .. } = *p;
    let why = match (unit, dtype) {
        (Unit::Fma, DType::F32) => return Ok("OPERAND_F32"),
        (Unit::Fma, DType::F64) => return Ok("OPERAND_F64"),
        (Unit::Fma, DType::Bf16) => return Ok("OPERAND_BF16"),
        (Unit::Fma, DType::F16) => return Ok("OPERAND_F16"),
        (Unit::Tensor, DType::Bf16) => return Ok("Bf16"),
        (Unit::Tensor, DType::F16) => return Ok("F16"),
        (Unit::Tensor, DType::Tf32) => return Ok("Tf32"),
        (Unit::Tensor, DType::F32) => {
            "no tensor unit takes f32 operands; use unit = fma, or tf32".to_owned()
        }
        (Unit::Tensor, DType::F64) => {
            "there is no kernel yet for tensor units that multiply in f64; use unit = fma"
                .to_owned()
        }
        (_, DType::Fp4E2m1) => {
            "fp4_e2m1 is the format of elements of mxfp4 and nvfp4, and there is no peak of its \
             own; use fp8_e4m3"
                .to_owned()
        }
        (_, DType::Int4) => {
            "int4 is a format of weights, and has no peak of its own; use int8".to_owned()
        }
        (Unit::Fma, DType::Fp8E4m3 | DType::Fp8E5m2 | DType::Int8 | DType::Tf32) => format!(
            "no GPU has multiply-adds in {dtype} outside of its tensor units; use unit = \
             tensor, or dtype = f32, f64, bf16 or f16"
        ),
        (Unit::Tensor, DType::Fp8E4m3 | DType::Fp8E5m2) if arch < Arch::SM_89 => {
            format!(
                "the tensor units of {arch} do not support {dtype}; those of sm_89 and later do"
            )
        }
        (Unit::Tensor, DType::Fp8E4m3 | DType::Fp8E5m2) if matches!(arch.major, 9 | 10) => {
            format!(
                "on {arch} mma.sync turns {dtype} into f16 first, so its rate is not that of \
                 the fp8 units; use `peak_wgmma`, which runs on sm_90a, or dtype = bf16, f16 \
                 or int8"
            )
        }
        (Unit::Tensor, DType::Fp8E4m3) => return Ok("E4m3"),
        (Unit::Tensor, DType::Fp8E5m2) => return Ok("E5m2"),
        (Unit::Tensor, DType::Int8) => return Ok("Int8"),
    };
    Err(Refusal(why))
}

/// Refuses what no unit of the architecture can do through `mma.sync` or `fma`.
pub(super) fn refuse_tensor(p: &Peak, arch: Arch) -> Result<(), Refusal> {
    operand(p, arch).map(|_| ())
}

/// The number of a kind of data in `peak_operands.cuh`.
pub(super) const fn data_code(data: PeakData) -> u32 {
    match data {
        PeakData::Small => 0,
        PeakData::Zeros => 1,
        PeakData::Random => 2,
    }
}

/// Most steps of 8-bit floats: a step adds up to two units to sums of 14 bits.
const MOST_STEPS_FP8: u64 = 1 << 13;

/// Instructions that a tensor unit does for each tile: one adds the products of 32 bytes of
/// a row.
pub(super) fn products(p: &Peak) -> Result<u64, Refusal> {
    let bytes = 16 * p.dtype.bytes() * p.steps;
    let is_fp8 = matches!(p.dtype, DType::Fp8E4m3 | DType::Fp8E5m2);
    if is_fp8 && p.steps > MOST_STEPS_FP8 {
        return Err(Refusal(format!(
            "tensor units may keep 14 bits of a sum in {}, which hold up to {MOST_STEPS_FP8} \
             steps of these data, not {}; use fewer steps and more lanes",
            p.dtype, p.steps
        )));
    }
    if !bytes.is_multiple_of(32) {
        return Err(Refusal(format!(
            "one instruction does two steps in {}, and steps = {} is odd; make it even",
            p.dtype, p.steps
        )));
    }
    Ok(bytes / 32)
}

/// Lanes that one chain of a thread or warp computes at once.
const fn lanes_per_chain(peak: Peak) -> u32 {
    match (peak.unit, peak.dtype) {
        (Unit::Fma, DType::Bf16 | DType::F16) => 2,
        _ => 1,
    }
}

/// Chains of multiply-adds.
pub(super) struct PeakChains {
    peak: Peak,
    /// What chooses the operands.
    operand: &'static str,
    /// Threads of a block.
    threads: u32,
    /// Steps between two tests of the loop counter.
    unroll: u32,
    /// Chains of a thread or warp; `None` for as many as fill a GPU.
    chains: Option<u32>,
}

impl HostHalf for PeakChains {
    type Operation = Peak;
    const NAME: &'static str = "peak";
    const SOURCE: &'static str = include_str!("../../kernels/peak.cu");
    const MEMORY_BOUND: bool = false;
    const CONFIGURATIONS: &[Configuration] = &[
        // More chains cover a unit's latency with fewer threads, fewer leave more threads to
        // choose from.
        Configuration::new("chains_2", &[("chains", 2)]),
        Configuration::new("chains_4", &[("chains", 4)]),
        Configuration::new("chains_8", &[("chains", 8)]),
        // The loop costs less, or fits an instruction cache.
        Configuration::new("unroll_4", &[("unroll", 4)]),
        Configuration::new("unroll_16", &[("unroll", 16)]),
        Configuration::new("threads_128", &[("threads", 128)]),
    ];

    fn configure(peak: &Peak, arch: Arch, choice: &Configuration) -> Result<Self, Refusal> {
        let operand = operand(peak, arch)?;
        if peak.unit == Unit::Tensor {
            products(peak)?;
        }
        let chains = Some(choice.or("chains", 0)).filter(|chains| *chains > 0);
        if let Some(chains) = chains {
            let least = u64::from(chains * lanes_per_chain(*peak));
            refuse_unless(peak.lanes >= least, || {
                format!("{least} lanes and more in {chains} chains, not {}", peak.lanes)
            })?;
        }
        let (threads, unroll) =
            (choice.or("threads", THREADS), choice.or("unroll", UNROLL));
        Ok(PeakChains { peak: *peak, operand, threads, unroll, chains })
    }

    fn defines(&self) -> Defines {
        let defines =
            Defines::new().with("THREADS", self.threads).with("UNROLL", self.unroll);
        match self.peak.unit {
            Unit::Fma => defines.with("UNIT_FMA", 1).with(self.operand, 1),
            Unit::Tensor => defines.with("UNIT_TENSOR", 1).with("FORMAT", self.operand),
        }
    }

    fn plan(&self, target: &Target) -> Plan {
        let PeakChains { peak, threads, .. } = *self;
        // First every thread or warp of the GPU has a chain, then each has more.
        let (places, per_block) = match peak.unit {
            Unit::Fma => (target.sms * target.limits.threads_per_sm, threads),
            Unit::Tensor => (target.sms * TENSOR_WARPS_PER_SM, threads / 32),
        };
        let share = peak.lanes.div_ceil(u64::from(places * lanes_per_chain(peak)));
        let filling = CHAINS.into_iter().find(|c| u64::from(*c) <= share).unwrap_or(1);
        let chains = self.chains.unwrap_or(filling);
        let workers = peak.lanes.div_ceil(u64::from(chains * lanes_per_chain(peak)));
        let blocks = workers.div_ceil(u64::from(per_block)).min(u64::from(i32::MAX as u32));
        let entry = match chains {
            8 => "peak_8",
            4 => "peak_4",
            2 => "peak_2",
            _ => "peak_1",
        };
        let (factor, summand) = fma_step(peak.dtype);
        let params = Params::of(move |bound| PeakParams {
            start: bound.tensor("start"),
            end: bound.tensor("end"),
            lanes: peak.lanes,
            steps: peak.steps,
            factor,
            summand,
            data: data_code(peak.data),
            unused: 0,
        });
        Plan::of(Launch::new(entry, blocks as u32, threads, params))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::contract::testing::{
        configured, configured_as, plan, refusal, refusal_as,
    };

    fn entry(text: &str) -> (&'static str, u32) {
        let plan = plan::<PeakChains>(text, &Target::new(Arch::SM_90, 132));
        (plan.launches[0].entry, plan.launches[0].grid[0])
    }

    #[test]
    fn a_gpu_is_filled_before_chains_are_stacked() {
        // 132 SMs hold 270,336 threads.
        let fma =
            |lanes: u32| entry(&format!("peak:unit=fma,dtype=f32,lanes={lanes},steps=8"));
        assert_eq!(fma(65_536), ("peak_1", 256));
        assert_eq!(fma(132 * 16_384), ("peak_8", 132 * 8));
        let tensor = |lanes: u32| {
            entry(&format!("peak:unit=tensor,dtype=bf16,lanes={lanes},steps=8"))
        };
        assert_eq!(tensor(132 * 64), ("peak_4", 132 * 2));
        assert_eq!(tensor(1), ("peak_1", 1));
    }

    #[test]
    fn configurations_choose_chains_and_loops() {
        let text = "peak:unit=tensor,dtype=bf16,lanes=8448,steps=8";
        let of = |name| {
            let half = configured_as::<PeakChains>(text, Arch::SM_90, name).unwrap();
            let plan = half.plan(&Target::new(Arch::SM_90, 132));
            (half.unroll, plan.launches[0].entry, plan.launches[0].grid[0])
        };
        assert_eq!(of("chains_8"), (8, "peak_8", 132));
        assert_eq!(of("chains_2"), (8, "peak_2", 528));
        assert_eq!(of("unroll_16"), (16, "peak_4", 264));
        assert_eq!(of("threads_128"), (8, "peak_4", 528));
        let few = "peak:unit=fma,dtype=bf16,lanes=15,steps=8";
        let why = refusal_as::<PeakChains>(few, Arch::SM_90, "chains_8");
        assert!(why.contains("16 lanes and more in 8 chains, not 15"), "{why}");
    }

    #[test]
    fn formats_that_a_unit_lacks_are_refused() {
        let refusal = |text: &str, arch| refusal::<PeakChains>(text, arch);
        let fp8 = "peak:unit=tensor,dtype=fp8_e4m3,lanes=1,steps=2";
        assert!(refusal(fp8, Arch::SM_80).contains("do not support"));
        assert!(refusal(fp8, Arch::SM_90).contains("mma.sync"));
        let odd = "peak:unit=tensor,dtype=int8,lanes=1,steps=3";
        assert!(refusal(odd, Arch::SM_80).contains("even"));
        let fma = "peak:unit=fma,dtype=int8,lanes=1,steps=3";
        assert!(refusal(fma, Arch::SM_80).contains("unit = tensor"));
        assert!(configured::<PeakChains>(fp8, Arch::SM_120).is_ok());
    }
}
