//! The CPU as a device: kernels in safe Rust on every core, over buffers in
//! one kept mapping, timed with the monotonic clock.

mod arena;
mod argmax;
mod attend;
mod cache;
mod contract;
mod decode_attention;
mod decode_step;
mod device;
mod embedding;
mod gated_activation;
mod gemm;
mod host;
mod kv_append;
mod kv_read;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod peak;
mod prefetch;
mod prefill_attention;
mod product;
mod rmsnorm;
mod rope_append;
mod simd;
mod stream;
mod threads;
mod transfer;

pub use device::CpuDevice;

#[cfg(test)]
mod tests;
