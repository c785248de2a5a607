//! The driver's management library: heat, and who else computes on the GPU. It is part of the
//! driver, but not of every container, and a campaign does without it.

use std::cell::Cell;
use std::ffi::OsStr;
use std::path::Path;

use nvml_wrapper::Device as Gpu;
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{PerformancePolicy, TemperatureSensor};
use nvml_wrapper::error::NvmlError;

use crate::device::Telemetry;

/// Its name on systems without the development files.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// One GPU, as the library sees it.
pub(super) struct Nvidia {
    library: Nvml,
    uuid: String,
    /// Timestamp of the last sample of processes, in microseconds.
    seen_us: Cell<u64>,
}

impl Nvidia {
    /// Opens the library for the GPU with this id, 32 hexadecimal digits.
    ///
    /// # Errors
    /// Why it is not there, or does not know the GPU.
    pub fn open(uuid: &str) -> Result<Self, String> {
        let library = Nvml::builder().lib_path(OsStr::new(LIBRARY)).init();
        let library = library.map_err(|e| format!("{LIBRARY}: {e}"))?;
        let nvidia = Nvidia { library, uuid: with_dashes(uuid), seen_us: Cell::new(0) };
        nvidia
            .gpu()
            .map_err(|e| format!("{LIBRARY} does not know {}: {e}", nvidia.uuid))?;
        Ok(nvidia)
    }

    /// Version of the driver that it belongs to.
    pub fn driver_version(&self) -> Option<String> {
        self.library.sys_driver_version().ok()
    }

    fn gpu(&self) -> Result<Gpu<'_>, NvmlError> {
        self.library.device_by_uuid(self.uuid.as_str())
    }

    /// What it says now. What this GPU does not tell is left out.
    pub fn telemetry(&self) -> Telemetry {
        let Ok(gpu) = self.gpu() else { return Telemetry::default() };
        let celsius = gpu.temperature(TemperatureSensor::Gpu).ok();
        let slowed = gpu.violation_status(PerformancePolicy::Thermal).ok();
        Telemetry {
            temperature_c: celsius.map(f64::from),
            thermal_slowdown: slowed.map(|slowed| slowed.violation_time),
            other_processes: self.other_processes(&gpu),
        }
    }

    /// Processes that computed since they were last asked for.
    fn other_processes(&self, gpu: &Gpu<'_>) -> Vec<u32> {
        let seen_us = self.seen_us.get();
        let samples = gpu.process_utilization_stats(seen_us).unwrap_or_default();
        let latest = samples.iter().map(|sample| sample.timestamp).max();
        self.seen_us.set(latest.unwrap_or(seen_us).max(seen_us));
        let busy = samples.iter().filter(|s| s.sm_util > 0 && s.timestamp > seen_us);
        // In a container the numbers are the host's, and this process has another one.
        let is_seen = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
        let mut pids: Vec<u32> = busy.map(|sample| sample.pid).collect();
        pids.retain(|pid| *pid != std::process::id() && is_seen(pid));
        pids.sort_unstable();
        pids.dedup();
        pids
    }
}

/// `GPU-8-4-4-4-12` out of 32 digits.
fn with_dashes(digits: &str) -> String {
    let mut rest = digits;
    let mut groups = vec!["GPU".to_owned()];
    for length in [8, 4, 4, 4, 12] {
        let (group, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        groups.push(group.to_owned());
        rest = after;
    }
    groups.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_spelled_as_the_library_does() {
        let spelled = with_dashes("0123456789abcdef0123456789abcdef");
        assert_eq!(spelled, "GPU-01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(with_dashes("0123"), "GPU-0123----");
    }
}
