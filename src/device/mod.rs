//! Where kernels run. A device says what it is, prepares one point at a time
//! and times launches with its own clock; the protocol above it is the same
//! for every device.

mod contract;
pub mod cpu;
pub mod cuda;
pub mod executor;
mod open;
pub mod simulated;
pub mod vm;

pub use contract::{
    AskedTelemetry, ClockLimit, Device, DeviceInfo, DeviceKind, DeviceOptions, FixedCosts,
    KernelFacts, LaunchError, Layout, Look, NEAR_CACHE, PrepareError, Prepared, Refusal,
    SearchSpace, Telemetry, Timing,
};
pub use open::{Opened, is_gpu, open};
