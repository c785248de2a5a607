//! How many blocks of a kernel an SM runs at once, from the kernel's resources and the
//! architecture's limits: the arithmetic of NVIDIA's occupancy calculator.

use super::arch::{Arch, Target};
use super::nvrtc::Resources;

/// Threads of a warp.
const WARP: u32 = 32;
/// Registers of an SM, the same on all architectures that are supported.
const REGISTERS: u32 = 65_536;
/// Parts of an SM, each with its own registers.
const PARTS: u32 = 4;
/// Registers are given to a warp in units of so many.
const REGISTER_UNIT: u32 = 256;
/// Shared memory is given to a block in units of so many bytes.
const SHARED_UNIT: u32 = 128;

impl Arch {
    /// Most blocks on an SM (CUDA C++ Programming Guide, table "Technical
    /// Specifications per Compute Capability").
    const fn blocks_per_sm(self) -> u32 {
        match (self.major, self.minor) {
            (8, 0) | (9 | 10, _) => 32,
            (8, 9) | (11.., _) => 24,
            _ => 16,
        }
    }
}

/// Blocks of `threads` threads with `dynamic_bytes` of dynamic shared memory
/// that an SM runs at once; 0 where not even one fits.
pub fn blocks_per_sm(
    resources: &Resources,
    threads: u32,
    dynamic_bytes: u32,
    target: &Target,
) -> u32 {
    let limits = &target.limits;
    let asked_bytes = resources.shared_bytes + dynamic_bytes;
    if threads == 0 || asked_bytes > limits.shared_bytes_per_block {
        return 0;
    }
    let warps = threads.div_ceil(WARP);
    let warp_registers =
        (resources.registers.max(1) * WARP).next_multiple_of(REGISTER_UNIT);
    let by_registers = REGISTERS / PARTS / warp_registers * PARTS / warps;
    let by_threads = limits.threads_per_sm / WARP / warps;
    let block_bytes =
        (asked_bytes + limits.reserved_shared_bytes).next_multiple_of(SHARED_UNIT);
    let by_shared = limits.shared_bytes_per_sm / block_bytes;
    by_registers.min(by_threads).min(by_shared).min(target.arch.blocks_per_sm())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blocks(arch: Arch, registers: u32, threads: u32, shared: u32) -> u32 {
        let resources = Resources { registers, ..Resources::default() };
        blocks_per_sm(&resources, threads, shared, &Target::new(arch, 1))
    }

    #[test]
    fn every_limit_binds_somewhere() {
        // Worked by hand. Registers: 65 * 32 = 2080 go as 2304, 7 warps in each
        // part of 16,384, 28 on the SM, 3 blocks of 8.
        assert_eq!(blocks(Arch::SM_90, 65, 256, 0), 3);
        assert_eq!(blocks(Arch::SM_90, 64, 512, 0), 2);
        assert_eq!(blocks(Arch::SM_90, 255, 256, 0), 1);
        assert_eq!(blocks(Arch::SM_90, 168, 384, 0), 1);
        // Threads.
        assert_eq!(blocks(Arch::SM_90, 16, 512, 0), 4);
        assert_eq!(blocks(Arch::SM_120, 16, 512, 0), 3);
        // Shared memory: 227 KiB and the reserved KiB fill an SM of 228 KiB.
        assert_eq!(blocks(Arch::SM_90, 32, 128, 232_448), 1);
        assert_eq!(blocks(Arch::SM_90, 32, 128, 232_449), 0);
        assert_eq!(blocks(Arch::SM_90, 32, 128, 113 << 10), 2);
        assert_eq!(blocks(Arch::SM_80, 32, 128, 100 << 10), 1);
        // Blocks.
        assert_eq!(blocks(Arch::SM_90, 16, 32, 0), 32);
        assert_eq!(blocks(Arch::SM_89, 16, 32, 0), 24);
        assert_eq!(blocks(Arch { major: 8, minor: 6 }, 16, 32, 0), 16);
        assert_eq!(blocks(Arch::SM_90, 16, 0, 0), 0);
    }

    proptest! {
        #[test]
        fn more_of_anything_never_fits_more_blocks(
            registers in 1u32..255,
            threads in 1u32..1024,
            shared in 0u32..232_448,
        ) {
            for arch in [Arch::SM_80, Arch::SM_89, Arch::SM_90, Arch::SM_120] {
                let here = blocks(arch, registers, threads, shared);
                prop_assert!(blocks(arch, registers + 1, threads, shared) <= here);
                prop_assert!(blocks(arch, registers, threads + 1, shared) <= here);
                prop_assert!(blocks(arch, registers, threads, shared + 1) <= here);
                prop_assert!(here * threads <= arch.limits().threads_per_sm);
            }
        }
    }
}
