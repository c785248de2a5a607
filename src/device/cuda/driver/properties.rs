//! What a GPU is made of.

use super::error::Result;
use super::ffi::{Attribute, Context};

/// What a GPU is made of, as the driver tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Major and minor number.
    pub compute_capability: [u32; 2],
    /// Multiprocessors.
    pub sms: u32,
    /// Threads that an SM holds.
    pub threads_per_sm: u32,
    /// Shared memory of an SM, in bytes.
    pub shared_bytes_per_sm: u32,
    /// Most shared memory of a block, in bytes.
    pub shared_bytes_per_block: u32,
    /// Shared memory of an SM that the system takes for each block.
    pub reserved_shared_bytes: u32,
    /// L2 cache, in bytes.
    pub l2_bytes: u32,
    /// Highest SM clock, in kHz.
    pub sm_clock_khz: u32,
    /// Highest memory clock, in kHz.
    pub memory_clock_khz: u32,
    /// Width of the memory bus, in bits.
    pub memory_bus_bits: u32,
    /// Whether memory is protected by ECC.
    pub ecc: bool,
}

impl Context {
    /// What the GPU is made of.
    pub fn properties(&self) -> Result<Properties> {
        let get = |attribute| self.attribute(attribute);
        Ok(Properties {
            compute_capability: [
                get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ],
            sms: get(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            threads_per_sm: get(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
            )?,
            shared_bytes_per_sm: get(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
            )?,
            shared_bytes_per_block: get(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
            reserved_shared_bytes: get(
                Attribute::CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK,
            )?,
            l2_bytes: get(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
            sm_clock_khz: get(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
            memory_clock_khz: get(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
            memory_bus_bits: get(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
            ecc: get(Attribute::CU_DEVICE_ATTRIBUTE_ECC_ENABLED)? != 0,
        })
    }
}
