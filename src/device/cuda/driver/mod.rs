//! The CUDA driver behind safe types. Only `ffi` calls it.

mod error;
mod ffi;
mod launch;
mod properties;
mod symbols;
mod tensor_map;

pub use error::{DriverError, Result, Unavailable};
pub use ffi::{
    Buffer, Context, CudaStream, Event, Function, Graph, HostBuffer, HostCopy, HostPage,
    gpu_count, load, load_ptx, version,
};
pub use launch::LaunchShape;
pub use properties::Properties;
pub use tensor_map::encode;
