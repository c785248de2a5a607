//! Divisors of kernels: the host half of `kernels/divisor.cuh`.

use bytemuck::{Pod, Zeroable};

/// A divisor of a kernel: n / by = n * multiplier >> shift for n below 2^31.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Divisor {
    by: u32,
    multiplier: u32,
    shift: u32,
}

impl Divisor {
    /// Division by 1 up to 2^31. With `2^log >= by` the multiplier is
    /// `2^(31 + log) / by` rounded up, which errs by less than `by <= 2^log`, so the
    /// product by less than `2^(31 + log) / by`: too little to reach the next quotient.
    pub fn new(by: u32) -> Self {
        let shift = 31 + by.next_power_of_two().ilog2();
        let multiplier = (1u64 << shift).div_ceil(u64::from(by)) as u32;
        Divisor { by, multiplier, shift }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn divisors_divide(n in 0..1u32 << 31, by in 1..=1u32 << 31, log in 0u32..31) {
            for (n, by) in [(n, by), (n, by >> log), (u32::MAX / 2, by), (n >> log, by >> log)] {
                let by = by.max(1);
                let divisor = Divisor::new(by);
                let quotient =
                    (u64::from(n) * u64::from(divisor.multiplier)) >> divisor.shift;
                prop_assert_eq!(quotient, u64::from(n / by));
            }
        }
    }
}
