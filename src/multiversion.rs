//! Functions that run on the widest vectors of the CPU at hand.

/// Compiles a function for AVX-512, for AVX2 and for the baseline of the
/// target (NEON on aarch64), and calls the best that the CPU has. What it
/// calls must be `#[inline(always)]`, or it would be compiled for the oldest.
macro_rules! multiversioned {
    ($($function:tt)*) => {
        #[multiversion::multiversion(targets(
            "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512cd+fma+avx2+f16c+bmi2",
            "x86_64+avx2+fma+f16c",
        ))]
        $($function)*
    };
}
pub(crate) use multiversioned;

/// The same for AVX-512 with products of pairs of bf16 and for the baseline of the target. The
/// two bodies differ, which [`match_target`](multiversion::target::match_target) tells apart.
macro_rules! multiversioned_for_pairs {
    ($($function:tt)*) => {
        #[multiversion::multiversion(targets(
            "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512cd+avx512bf16+fma+avx2+f16c+bmi2",
        ))]
        $($function)*
    };
}
pub(crate) use multiversioned_for_pairs;
