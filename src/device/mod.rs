//! Where kernels run. A device says what it is, prepares one point at a time
//! and times launches with its own clock; the protocol above it is the same
//! for every device.

pub mod cpu;
pub mod simulated;

use std::borrow::Cow;

use anyhow::{Result, bail};
use thiserror::Error;

pub use crate::kernel::Refusal;
use crate::problem::Problem;

/// Opens a device by name: `cpu`, or `auto` for the best there is.
///
/// # Errors
/// An unknown name, a machine that cannot be read.
pub fn open(name: &str) -> Result<Box<dyn Device>> {
    match name {
        "auto" | "cpu" => Ok(Box::new(cpu::CpuDevice::new())),
        other => bail!("no device `{other}`; this version measures on `cpu`, or `auto`"),
    }
}

/// Whether times come from hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Real executions, timed.
    Measured,
    /// Made up, for tests. Such rows must never pass for measured ones.
    Simulated,
}

impl DeviceKind {
    /// The spelling used in CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            DeviceKind::Measured => "measured",
            DeviceKind::Simulated => "simulated",
        }
    }
}

/// A cache level that all of the device's cores can fill together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// `L2`, `L3`.
    pub name: String,
    /// Capacity over the whole device, in bytes.
    pub bytes: u64,
}

/// What a device is.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Whether its times come from hardware.
    pub kind: DeviceKind,
    /// `cpu`, `cuda:0`.
    pub backend: String,
    /// The vendor's name for it.
    pub name: String,
    /// A short name for folders: lower case letters, digits and dashes.
    pub slug: String,
    /// Data caches, smallest first, each summed over its instances.
    pub caches: Vec<Cache>,
    /// Bytes that buffers may take together.
    pub memory_bytes: u64,
    /// The clock that times launches.
    pub timer: String,
    /// Smallest difference that the clock shows, in seconds.
    pub timer_quantum_s: f64,
    /// Median seconds that the launch of an empty kernel takes.
    pub launch_overhead_s: f64,
    /// Further provenance: names and values, in a fixed order.
    pub facts: Vec<(String, String)>,
}

impl DeviceInfo {
    /// Capacity of the last cache before DRAM, in bytes; 0 without caches.
    pub fn last_level_cache_bytes(&self) -> u64 {
        self.caches.iter().map(|c| c.bytes).max().unwrap_or(0)
    }
}

/// A launch that went wrong.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct LaunchError(pub String);

/// A machine with kernels.
pub trait Device {
    /// What it is.
    fn info(&self) -> &DeviceInfo;

    /// The kernel that this device runs a problem with when the suite names
    /// none.
    ///
    /// # Errors
    /// A refusal when the device has no kernel for the problem.
    fn kernel(&self, problem: &Problem) -> Result<&'static str, Refusal>;

    /// Allocates `slots` instances of the problem and fills their inputs, each
    /// tensor with [`crate::data::Key::new`]`(seed, slot, position in
    /// Problem::tensors)`.
    ///
    /// # Errors
    /// A refusal when the kernel does not take the problem or memory is short.
    fn prepare<'a>(
        &'a mut self,
        problem: &Problem,
        kernel: &str,
        slots: usize,
        seed: u64,
    ) -> Result<Box<dyn Prepared + 'a>, Refusal>;
}

/// A problem laid out on a device, ready to launch.
pub trait Prepared {
    /// Bytes that the kernel moves by its own choice, beyond the compulsory
    /// ones, in one launch; `None` where it does not know, as a blocked product
    /// that relies on caches.
    fn extra_bytes(&self) -> Option<u64>;

    /// Overwrites every output of every slot with the byte 0xff: a NaN in all
    /// floating-point formats.
    fn poison(&mut self);

    /// Runs `launches` times back to back, on slot `first_slot` and the ones
    /// after it in turn, and returns the seconds of the whole row of launches
    /// by the device's clock.
    ///
    /// # Errors
    /// A launch that the device reports as failed.
    fn launch(&mut self, first_slot: usize, launches: usize) -> Result<f64, LaunchError>;

    /// The bytes of a slot's output or witness tensor.
    ///
    /// # Errors
    /// A copy that the device reports as failed.
    fn output(&mut self, slot: usize) -> Result<Cow<'_, [u8]>, LaunchError>;
}
