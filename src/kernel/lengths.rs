//! Lengths of requests in kernels: the host half of `kernels/lengths.cuh`.

use bytemuck::{Pod, Zeroable};

use crate::op::Lengths;

/// From what a kernel makes the tokens of each request, see [`Lengths::of`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct KernelLengths {
    least: u64,
    span: u64,
}

impl KernelLengths {
    /// Lengths of requests of at most `context` tokens.
    pub const fn new(lengths: Lengths, context: u64) -> Self {
        let least = lengths.least(context);
        KernelLengths { least, span: context - least + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's formula.
    fn of(lengths: KernelLengths, request: u64) -> u64 {
        let fraction = (request + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        lengths.least + ((u128::from(fraction) * u128::from(lengths.span)) >> 64) as u64
    }

    #[test]
    fn kernels_have_the_lengths_of_the_problem() {
        for lengths in Lengths::ALL {
            for context in [1, 8, 999, 131_072] {
                let made = KernelLengths::new(lengths, context);
                for request in 0..1000 {
                    assert_eq!(of(made, request), lengths.of(request, context));
                }
            }
        }
    }
}
