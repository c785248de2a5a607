//! Devices by name.

use anyhow::{Result, bail};

use super::contract::{Device, DeviceOptions};
use super::{cpu, cuda, vm};
use crate::toolchain::Arch;

/// A device, and why it is this one.
pub struct Opened {
    /// The device.
    pub device: Box<dyn Device>,
    /// One sentence for people.
    pub why: String,
}

/// Whether a name means a GPU here. Opens none.
pub fn is_gpu(name: &str) -> bool {
    match name {
        "auto" => cuda::gpu_count().is_ok(),
        other => other.starts_with("cuda"),
    }
}

/// Opens a device by name: `cpu`, `cuda:0` (or `cuda`), `auto` for a GPU
/// where there is one and the CPU otherwise, or `vm:sm_80` (or `vm`) for the virtual machine.
///
/// # Errors
/// An unknown name, a GPU that was asked for or is there but cannot be used.
pub fn open(name: &str, options: &DeviceOptions) -> Result<Opened> {
    let cuda = |ordinal, why: String| {
        let device = Box::new(cuda::CudaDevice::open(ordinal, options)?);
        Ok(Opened { device, why })
    };
    let vm = |arch| {
        let device = Box::new(vm::VmDevice::open(arch, options)?);
        Ok(Opened { device, why: "asked for".to_owned() })
    };
    let cpu = |why: String| Opened { device: Box::new(cpu::CpuDevice::new()), why };
    match name {
        "cpu" => Ok(cpu("asked for".to_owned())),
        "auto" => match cuda::gpu_count() {
            Ok(1) => cuda(0, "the one GPU here".to_owned()),
            Ok(count) => cuda(0, format!("the first of {count} GPUs here")),
            Err(why) => Ok(cpu(format!("no GPU can be used: {why}"))),
        },
        "cuda" => cuda(0, "asked for".to_owned()),
        "vm" => vm(Arch::SM_90),
        other if other.starts_with("vm:") => match other["vm:".len()..].parse() {
            Ok(arch) => vm(arch),
            Err(why) => bail!("{why}"),
        },
        other => match other.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(ordinal)) => cuda(ordinal, "asked for".to_owned()),
            _ => bail!(
                "no device `{other}`; write `auto`, `cpu`, `cuda` or `cuda:1` for a GPU, or \
                 `vm` or `vm:sm_80` for the virtual machine, which measures nothing"
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_devices_are_answered_with_the_known_ones() {
        for name in ["gpu", "cuda:", "cuda:x", "cuda:-1", ""] {
            let error = open(name, &DeviceOptions::default()).err().unwrap().to_string();
            assert!(error.contains("cuda:1") && error.contains("`vm:sm_80`"), "{error}");
        }
    }

    #[test]
    fn a_virtual_machine_has_an_architecture_that_exists() {
        for name in ["vm:sm_999", "vm:sm_75", "vm:", "vm:90"] {
            let error = open(name, &DeviceOptions::default()).err().unwrap().to_string();
            assert!(error.contains("sm_90a"), "{name}: {error}");
        }
    }
}
