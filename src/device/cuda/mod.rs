//! An NVIDIA GPU as a device: kernels of `kernels/` in machine code for exactly
//! this architecture, timed by events in a queue that is held until it is filled.

mod cublaslt;
mod device;
mod driver;
mod fill;
mod gpu;
mod nvml;
mod prepared;
mod program;
mod queue;
mod timing;

pub use cublaslt::NAME as CUBLASLT;
pub use driver::{DriverError, Unavailable, gpu_count};
pub use gpu::CudaDevice;

#[cfg(test)]
mod tests;
