//! Peaks that follow from what a device reports: its clocks, its memory bus and its
//! multiprocessors. A data sheet states peaks for a clock that the maker chose; these are
//! for the device at hand.
//!
//! Nothing is faster than the clocks allow, so a rate above these peaks is an error:
//! bytes or FLOPs counted wrongly, hits in a cache, or a driver that reports wrong
//! numbers. Some products run below the rate of their architecture. Where such a product
//! is not listed here, its peaks are too high, never too low.

use super::identity::Identity;
use crate::format::DType::{self, Bf16, F16, F32, F64, Fp8E4m3, Fp8E5m2, Int8, Tf32};
use crate::roofline::{Bandwidth, ComputePeak, Peaks};
use crate::toolchain::Arch;

/// Factor by which a rate may exceed a derived peak: clocks and bus widths are reported
/// as whole numbers, and some drivers count bus lanes that are switched off.
pub const MARGIN: f64 = 1.02;

/// The same for arithmetic on desktop boards. Their drivers report the rated boost clock,
/// and the boards exceed it: an RTX 5090 reports 2407 MHz and clocks up to 3105 MHz.
pub const BOOST_MARGIN: f64 = 1.3;

/// A compute capability, and its dense FLOPs per clock and multiprocessor by format.
type RatesPerClock = ((u32, u32), &'static [(DType, u32)]);

/// FLOPs per clock and multiprocessor by architecture; a multiply-add counts as two. `f32`
/// and `f64` are the rates of the ordinary units, never of TF32 or of tensor cores that
/// multiply in f64. All others are rates of the tensor
/// cores with accumulation in f32 (int8: in 32-bit integers).
///
/// Sources: for f32 and f64 the table "Throughput of Native Arithmetic Instructions"
/// in <https://docs.nvidia.com/cuda/cuda-c-programming-guide/>; for the tensor
/// cores, multiply-adds per clock and core times cores per multiprocessor in
/// NVIDIA's architecture papers:
/// * 7.0 <https://images.nvidia.com/content/volta-architecture/pdf/volta-architecture-whitepaper.pdf>
/// * 7.5 <https://images.nvidia.com/aem-dam/en-zz/Solutions/design-visualization/technologies/turing-architecture/NVIDIA-Turing-Architecture-Whitepaper.pdf>
/// * 8.0 <https://images.nvidia.com/aem-dam/en-zz/Solutions/data-center/nvidia-ampere-architecture-whitepaper.pdf>
/// * 8.6 <https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf>
/// * 8.9 <https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf>
/// * 9.0 <https://resources.nvidia.com/en-us-hopper-architecture/nvidia-h100-tensor-c>
/// * 10.0: twice Hopper's in each format,
///   <https://github.com/NVIDIA/cutlass/blob/main/media/docs/cpp/blackwell_functionality.md>
/// * 12.0 <https://images.nvidia.com/aem-dam/Solutions/geforce/blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf>
const RATES: &[RatesPerClock] = &[
    ((7, 0), &[(F64, 64), (F32, 128), (F16, 1024)]),
    ((7, 5), &[(F64, 4), (F32, 128), (F16, 1024), (Int8, 2048)]),
    (
        (8, 0),
        &[(F64, 64), (F32, 128), (Tf32, 1024), (Bf16, 2048), (F16, 2048), (Int8, 4096)],
    ),
    ((8, 6), &[(F64, 4), (F32, 256), (Tf32, 512), (Bf16, 1024), (F16, 1024), (Int8, 2048)]),
    (
        (8, 9),
        &[
            (F64, 4),
            (F32, 256),
            (Tf32, 512),
            (Bf16, 1024),
            (F16, 1024),
            (Fp8E4m3, 2048),
            (Fp8E5m2, 2048),
            (Int8, 2048),
        ],
    ),
    (
        (9, 0),
        &[
            (F64, 128),
            (F32, 256),
            (Tf32, 2048),
            (Bf16, 4096),
            (F16, 4096),
            (Fp8E4m3, 8192),
            (Fp8E5m2, 8192),
            (Int8, 8192),
        ],
    ),
    (
        (10, 0),
        &[
            (F64, 128),
            (F32, 256),
            (Tf32, 4096),
            (Bf16, 8192),
            (F16, 8192),
            (Fp8E4m3, 16384),
            (Fp8E5m2, 16384),
            (Int8, 16384),
        ],
    ),
    (
        (12, 0),
        &[
            (F64, 4),
            (F32, 256),
            (Tf32, 512),
            (Bf16, 1024),
            (F16, 1024),
            (Fp8E4m3, 2048),
            (Fp8E5m2, 2048),
            (Int8, 2048),
        ],
    ),
];

/// Products whose tensor cores run below the rate of their architecture: words of the
/// name, formats, and their share of that rate. The data sheets in `machines.toml` state
/// the rates that result.
const CUTS: &[(&str, &[DType], f64)] = &[
    // Half the rate with accumulation in f32, all of it with accumulation in f16.
    ("GeForce", &[Tf32, Bf16, F16, Fp8E4m3, Fp8E5m2], 0.5),
    ("L40", &[Tf32, Bf16, F16, Fp8E4m3, Fp8E5m2, Int8], 0.5),
    ("H20", &[Tf32, Bf16, F16, Fp8E4m3, Fp8E5m2, Int8], 0.25),
];

/// Words in the names of desktop boards.
const DESKTOP: [&str; 4] = ["GeForce", "RTX", "Quadro", "TITAN"];

/// Bytes per second of a memory bus: two transfers per clock on each line.
pub fn bytes_per_s(memory_clock_hz: f64, memory_bus_bits: u64) -> f64 {
    2.0 * memory_clock_hz * memory_bus_bits as f64 / 8.0
}

/// Dense FLOPs in a format per clock and multiprocessor of an architecture, where known.
pub fn flops_per_clock(arch: Arch, dtype: DType) -> Option<f64> {
    let is_arch = |(cc, _): &&RatesPerClock| *cc == (arch.major, arch.minor);
    let (_, rates) = RATES.iter().find(is_arch)?;
    rates.iter().find(|(of, _)| *of == dtype).map(|(_, flops)| f64::from(*flops))
}

/// Dense peaks of a device at a clock of its multiprocessors: the highest that it reports,
/// or one that was measured. Empty for a device that does not report its number of
/// multiprocessors, or whose architecture is not in the table.
pub fn compute(device: &Identity, sm_clock_hz: f64) -> Vec<ComputePeak> {
    let rates = RATES.iter().find(|(cc, _)| Some(*cc) == device.compute_capability);
    let (Some((_, rates)), Some(sm_count)) = (rates, device.sm_count) else {
        return Vec::new();
    };
    let share = |dtype: DType| {
        let cut = |(words, dtypes, _): &&(&str, &[DType], f64)| {
            device.is_named(words) && dtypes.contains(&dtype)
        };
        CUTS.iter().find(cut).map_or(1.0, |(_, _, share)| *share)
    };
    let peak = |&(dtype, flops): &(DType, u32)| {
        let per_clock = sm_count as f64 * f64::from(flops) * share(dtype);
        ComputePeak { dtype, flops_per_s: per_clock * sm_clock_hz }
    };
    rates.iter().map(peak).collect()
}

/// All peaks that can be derived, at the highest clocks. `None` without a memory clock or a
/// bus width.
pub fn peaks(device: &Identity) -> Option<Peaks> {
    let bytes_per_s = bytes_per_s(device.memory_clock_hz?, device.memory_bus_bits?);
    Some(Peaks {
        bandwidth: Bandwidth::flat(bytes_per_s),
        compute: device.sm_clock_hz.map_or(Vec::new(), |clock| compute(device, clock)),
        links: Vec::new(),
    })
}

/// Factor by which arithmetic may exceed the peaks at the highest clock that the device
/// reports.
pub fn compute_margin(device: &Identity) -> f64 {
    let is_desktop = DESKTOP.iter().any(|words| device.is_named(words));
    if is_desktop { BOOST_MARGIN } else { MARGIN }
}

/// FLOPs in f32 that a core does in a cycle, by instruction set: two multiply-adds of a
/// vector, of which server and desktop cores of the last ten years have as many; without a
/// fused one, an addition and a multiplication.
const CPU_UNITS: [(&str, f64); 4] =
    [("avx512", 64.0), ("avx2+fma", 32.0), ("sse2", 8.0), ("neon", 16.0)];

/// FLOPs in f32 that a core of a CPU does in a cycle with an instruction set, by the name
/// that records have for it.
pub fn cpu_flops_per_cycle(simd: &str) -> Option<f64> {
    CPU_UNITS.iter().find(|(name, _)| *name == simd).map(|(_, flops)| *flops)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, compute_capability: (u32, u32), sm_count: u64) -> Identity {
        Identity {
            name: name.into(),
            compute_capability: Some(compute_capability),
            sm_count: Some(sm_count),
            ..Identity::default()
        }
    }

    #[track_caller]
    fn assert_near(value: f64, golden: f64) {
        assert!((value / golden - 1.0).abs() < 5e-4, "{value:e} and not {golden:e}");
    }

    #[test]
    fn bandwidth_is_two_transfers_per_clock_on_each_line() {
        assert_near(bytes_per_s(2619e6, 5120), 3.352e12);
        assert_near(bytes_per_s(3201e6, 6144), 4.917e12);
        assert_near(bytes_per_s(1215e6, 5120), 1.555e12);
        assert_near(bytes_per_s(10_501e6, 384), 1.008e12);
    }

    #[test]
    fn arithmetic_is_multiprocessors_by_flops_by_clock() {
        let golden: &[(Identity, f64, DType, f64)] = &[
            (device("NVIDIA H100 80GB HBM3", (9, 0), 132), 1.83e9, Bf16, 989.4e12),
            (device("NVIDIA H100 80GB HBM3", (9, 0), 132), 1.83e9, Fp8E4m3, 1978.9e12),
            (device("NVIDIA H100 80GB HBM3", (9, 0), 132), 1.98e9, F32, 66.9e12),
            (device("NVIDIA A100-SXM4-40GB", (8, 0), 108), 1.41e9, F16, 311.9e12),
            (device("NVIDIA A100-SXM4-40GB", (8, 0), 108), 1.41e9, F32, 19.49e12),
            (device("NVIDIA GeForce RTX 4090", (8, 9), 128), 2.52e9, F32, 82.58e12),
            (device("NVIDIA GeForce RTX 4090", (8, 9), 128), 2.52e9, Bf16, 165.15e12),
            (device("NVIDIA GeForce RTX 4090", (8, 9), 128), 2.52e9, Fp8E4m3, 330.3e12),
            (device("NVIDIA GeForce RTX 4090", (8, 9), 128), 2.52e9, Int8, 660.6e12),
            (device("NVIDIA L40S", (8, 9), 142), 2.52e9, Bf16, 366.4e12),
        ];
        for (identity, clock, dtype, flops_per_s) in golden {
            let peaks = compute(identity, *clock);
            let peak = peaks.iter().find(|p| p.dtype == *dtype).unwrap();
            assert_near(peak.flops_per_s, *flops_per_s);
        }
    }

    #[test]
    fn what_is_not_known_is_not_derived() {
        let mut h100 = device("NVIDIA H100 80GB HBM3", (9, 0), 132);
        assert_eq!(peaks(&h100), None, "no memory clock");
        h100.memory_clock_hz = Some(2619e6);
        assert_eq!(peaks(&h100), None, "no bus width");
        h100.memory_bus_bits = Some(5120);
        assert_eq!(peaks(&h100).unwrap().compute, [], "no clock");
        h100.sm_clock_hz = Some(1.98e9);
        assert_near(peaks(&h100).unwrap().flops_per_s(Bf16).unwrap(), 1070.5e12);
        h100.compute_capability = Some((9, 9));
        assert_eq!(peaks(&h100).unwrap().compute, [], "an unknown architecture");
        assert_eq!(peaks(&Identity { name: "CPU".into(), ..Identity::default() }), None);
    }

    #[test]
    fn desktop_boards_exceed_the_clock_that_they_report() {
        let margin = |name| compute_margin(&device(name, (8, 9), 1));
        assert_eq!(margin("NVIDIA L40S"), MARGIN);
        assert_eq!(margin("NVIDIA H100 80GB HBM3"), MARGIN);
        assert_eq!(margin("NVIDIA GeForce RTX 4090"), BOOST_MARGIN);
        assert_eq!(margin("NVIDIA RTX 6000 Ada Generation"), BOOST_MARGIN);
    }
}
