//! The driver's management library: heat, power, clocks and what keeps them down, memory
//! errors, and who else computes on the GPU. It is part of the driver, but not of every
//! container, and a campaign does without it.
//!
//! What passes, as power and the limits of clocks, is looked at again and again by a thread
//! of its own while the GPU is measured: right after a row of launches it is gone.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nvml_wrapper::Device as Gpu;
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PerformancePolicy, TemperatureSensor,
};
use nvml_wrapper::error::NvmlError;

use crate::device::{ClockLimit, Telemetry};

/// Its name on systems without the development files.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// Time between two looks. The GPU itself updates its power about as often.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One GPU, as the library sees it.
pub(super) struct Nvidia {
    library: Arc<Nvml>,
    uuid: String,
    /// Timestamp of the last sample of processes, in microseconds.
    seen_us: Cell<u64>,
    watch: Watch,
}

impl Nvidia {
    /// Opens the library for the GPU with this id, 32 hexadecimal digits.
    ///
    /// # Errors
    /// Why it is not there, or does not know the GPU.
    pub fn open(uuid: &str) -> Result<Self, String> {
        let library = Nvml::builder().lib_path(OsStr::new(LIBRARY)).init();
        let library = Arc::new(library.map_err(|e| format!("{LIBRARY}: {e}"))?);
        let uuid = with_dashes(uuid);
        library
            .device_by_uuid(uuid.as_str())
            .map_err(|e| format!("{LIBRARY} does not know {uuid}: {e}"))?;
        let watch = Watch::begin(&library, &uuid);
        Ok(Nvidia { library, uuid, seen_us: Cell::new(0), watch })
    }

    /// Version of the driver that it belongs to.
    pub fn driver_version(&self) -> Option<String> {
        self.library.sys_driver_version().ok()
    }

    /// Power that the GPU may draw, in watts.
    pub fn power_limit_w(&self) -> Option<f64> {
        Some(f64::from(self.gpu().ok()?.enforced_power_limit().ok()?) * 1e-3)
    }

    /// Energy that the GPU has used since the driver was loaded.
    pub fn energy_j(&self) -> Option<f64> {
        Some(self.gpu().ok()?.total_energy_consumption().ok()? as f64 * 1e-3)
    }

    fn gpu(&self) -> Result<Gpu<'_>, NvmlError> {
        self.library.device_by_uuid(self.uuid.as_str())
    }

    /// What it says now, and what was seen since it was last asked. What this GPU does not
    /// tell is left out.
    pub fn telemetry(&self) -> Telemetry {
        let Ok(gpu) = self.gpu() else { return Telemetry::default() };
        let celsius = gpu.temperature(TemperatureSensor::Gpu).ok();
        let slowed = gpu.violation_status(PerformancePolicy::Thermal).ok();
        let errors = gpu.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile);
        let seen = self.watch.take();
        Telemetry {
            temperature_c: celsius.map(f64::from),
            thermal_slowdown: slowed.map(|slowed| slowed.violation_time),
            other_processes: self.other_processes(&gpu),
            power_w: seen.mean_power_w(),
            memory_clock_hz: seen.memory_clock_hz,
            clock_limits: seen.limits,
            memory_errors: errors.ok(),
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

/// What was seen since somebody asked.
#[derive(Debug, Default)]
struct Seen {
    power_w: f64,
    looks: u32,
    memory_clock_hz: Option<f64>,
    limits: BTreeSet<ClockLimit>,
}

impl Seen {
    fn look(&mut self, gpu: &Gpu<'_>) {
        if let Ok(milliwatts) = gpu.power_usage() {
            self.power_w += f64::from(milliwatts) * 1e-3;
            self.looks += 1;
        }
        if let Ok(mhz) = gpu.clock_info(Clock::Memory) {
            let now = f64::from(mhz) * 1e6;
            self.memory_clock_hz = Some(self.memory_clock_hz.map_or(now, |hz| hz.min(now)));
        }
        if let Ok(reasons) = gpu.current_throttle_reasons() {
            self.limits.extend(limits(reasons));
        }
    }

    fn mean_power_w(&self) -> Option<f64> {
        (self.looks > 0).then(|| self.power_w / f64::from(self.looks))
    }
}

/// What keeps clocks down, by the library's reasons. An idle GPU is not kept down.
fn limits(reasons: ThrottleReasons) -> impl Iterator<Item = ClockLimit> {
    let known = [
        (ThrottleReasons::SW_POWER_CAP, ClockLimit::Power),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, ClockLimit::Heat),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, ClockLimit::Heat),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, ClockLimit::PowerBrake),
        (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, ClockLimit::Setting),
        (ThrottleReasons::SYNC_BOOST, ClockLimit::Sync),
    ];
    let set = known.into_iter().filter(move |(reason, _)| reasons.contains(*reason));
    set.map(|(_, limit)| limit)
}

/// A thread that looks at a GPU again and again.
struct Watch {
    seen: Arc<Mutex<Seen>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn begin(library: &Arc<Nvml>, uuid: &str) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let ends = Arc::new(AtomicBool::new(false));
        let (library, uuid) = (Arc::clone(library), uuid.to_owned());
        let (to, until) = (Arc::clone(&seen), Arc::clone(&ends));
        let looks = move || {
            let Ok(gpu) = library.device_by_uuid(uuid.as_str()) else { return };
            while !until.load(Ordering::Relaxed) {
                let mut now = Seen::default();
                // Before others have to wait for the result.
                now.look(&gpu);
                locked(&to).add(now);
                thread::park_timeout(LOOK_EVERY);
            }
        };
        // Without the thread nothing is seen, which is what records then say.
        let thread = thread::Builder::new().name("nvml".to_owned()).spawn(looks).ok();
        Watch { seen, ends, thread }
    }

    /// What was seen since the last time, and begins anew.
    fn take(&self) -> Seen {
        std::mem::take(&mut *locked(&self.seen))
    }
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.power_w += other.power_w;
        self.looks += other.looks;
        let clocks = [self.memory_clock_hz, other.memory_clock_hz];
        self.memory_clock_hz = clocks.into_iter().flatten().reduce(f64::min);
        self.limits.extend(other.limits);
    }
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
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
    fn reasons_become_limits_and_idleness_is_none() {
        let found = |reasons| limits(reasons).collect::<BTreeSet<_>>();
        assert!(found(ThrottleReasons::GPU_IDLE).is_empty());
        let both = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        assert_eq!(ClockLimit::spell(&found(both)), "power+heat");
    }

    #[test]
    fn looks_add_up_to_means_and_lowest_clocks() {
        let look = |power_w, memory_clock_hz| Seen {
            power_w,
            looks: 1,
            memory_clock_hz,
            limits: BTreeSet::new(),
        };
        let mut seen = Seen::default();
        assert_eq!(seen.mean_power_w(), None);
        seen.add(look(500.0, Some(2e9)));
        seen.add(look(700.0, Some(1e9)));
        seen.add(look(600.0, None));
        assert_eq!((seen.mean_power_w(), seen.memory_clock_hz), (Some(600.0), Some(1e9)));
    }

    #[test]
    fn ids_are_spelled_as_the_library_does() {
        let spelled = with_dashes("0123456789abcdef0123456789abcdef");
        assert_eq!(spelled, "GPU-01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(with_dashes("0123"), "GPU-0123----");
    }
}
