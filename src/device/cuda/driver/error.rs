//! What the driver cannot do, in words.

use thiserror::Error;

use crate::device::executor::ParamMismatch;
use crate::toolchain::image::ImageError;

/// Why there is no GPU to measure on.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unavailable {
    /// No libcuda.
    #[error(
        "no NVIDIA driver was found (libcuda.so.1 is not in the loader's path); install the \
         driver, or in a container ask for the GPU"
    )]
    NoDriver,
    /// A libcuda that cannot be loaded.
    #[error(
        "the NVIDIA driver cannot be loaded: {why}; install the driver anew, or in a container \
         ask for the GPU: without it, {} may be an empty file in place of the host's",
        LIBRARY
    )]
    NotLoaded {
        /// The loader's reason.
        why: String,
    },
    /// A libcuda that lacks a function.
    #[error(
        "the NVIDIA driver has no function {symbol}, so it is older than CUDA 12.0; update it \
         to version 525 or later"
    )]
    MissingSymbol {
        /// The first function that is missing.
        symbol: &'static str,
    },
    /// A driver that is too old.
    #[error(
        "the NVIDIA driver is made for CUDA {}.{}, and 12.0 is the oldest that works; update it \
         to version 525 or later", .version / 1000, .version % 1000 / 10
    )]
    OldDriver {
        /// What the driver says, `1000 * major + 10 * minor`.
        version: i32,
    },
    /// A driver that sees no GPU.
    #[error(
        "the NVIDIA driver is there but sees no GPU; look at nvidia-smi, and at \
         CUDA_VISIBLE_DEVICES{}",
        visible_devices()
    )]
    NoGpu,
    /// A GPU number that does not exist.
    #[error("there is no GPU {wanted}; the driver sees {count}, numbered from 0")]
    NoSuchGpu {
        /// The number asked for.
        wanted: usize,
        /// How many there are.
        count: usize,
    },
    /// A driver that does not start.
    #[error("the NVIDIA driver does not start: {0}")]
    Broken(#[from] DriverError),
}

/// The driver's library, by the name that the loader knows.
pub const LIBRARY: &str = "libcuda.so.1";

fn visible_devices() -> String {
    std::env::var("CUDA_VISIBLE_DEVICES").map_or(String::new(), |v| format!(" (now `{v}`)"))
}

/// A driver call that failed, or that was not made because it would be wrong.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DriverError {
    /// The driver reports a failure.
    #[error("{call} answered {name} ({description})")]
    Call {
        /// The function.
        call: &'static str,
        /// The code's name.
        name: String,
        /// The driver's words for it.
        description: String,
    },
    /// A launch with parameters of other sizes than the kernel declares.
    #[error(transparent)]
    Params(#[from] ParamMismatch),
    /// A kernel that cannot be launched, since nothing says what its parameters are.
    #[error("kernel {kernel}, entry {entry}, has parameters of unknown size: {why}")]
    UnknownParams {
        /// Name of the kernel's source.
        kernel: String,
        /// The function in it.
        entry: String,
        /// What was looked at, and what is wrong with it.
        why: ImageError,
    },
    /// A library that queues work of its own reports a failure.
    #[error("{library}: {why}")]
    Library {
        /// Which.
        library: &'static str,
        /// The function, and what it answered.
        why: String,
    },
    /// A function that was not loaded with its kernel.
    #[error("entry {entry} of the kernel was not loaded; this is a bug, please report it")]
    NotLoaded {
        /// The function.
        entry: &'static str,
    },
}

impl DriverError {
    /// Whether the driver reports this failure, such as `CUDA_ERROR_NO_DEVICE`.
    pub fn is(&self, code: &str) -> bool {
        matches!(self, DriverError::Call { name, .. } if name == code)
    }

    /// Whether memory was short.
    pub fn is_out_of_memory(&self) -> bool {
        self.is("CUDA_ERROR_OUT_OF_MEMORY")
    }

    /// Whether every further call of this process will fail the same way: a
    /// kernel has faulted, and the context cannot be used again.
    pub fn is_final(&self) -> bool {
        const FINAL: [&str; 14] = [
            "ILLEGAL_ADDRESS",
            "LAUNCH_TIMEOUT",
            "LAUNCH_FAILED",
            "ASSERT",
            "HARDWARE_STACK_ERROR",
            "ILLEGAL_INSTRUCTION",
            "MISALIGNED_ADDRESS",
            "INVALID_ADDRESS_SPACE",
            "INVALID_PC",
            "ECC_UNCORRECTABLE",
            "NVLINK_UNCORRECTABLE",
            "DEINITIALIZED",
            "CONTEXT_IS_DESTROYED",
            "UNKNOWN",
        ];
        let DriverError::Call { name, .. } = self else { return false };
        let name = name.strip_prefix("CUDA_ERROR_").unwrap_or_default();
        FINAL.contains(&name)
    }
}

/// What a driver call gives.
pub type Result<T, E = DriverError> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_faulted_context_is_told_from_a_failed_call() {
        let error = |name: &str| DriverError::Call {
            call: "cuStreamSynchronize",
            name: name.to_owned(),
            description: String::new(),
        };
        assert!(error("CUDA_ERROR_ILLEGAL_ADDRESS").is_final());
        assert!(!error("CUDA_ERROR_OUT_OF_MEMORY").is_final());
        assert!(error("CUDA_ERROR_OUT_OF_MEMORY").is_out_of_memory());
        assert!(!DriverError::NotLoaded { entry: "k" }.is_final());
    }
}
