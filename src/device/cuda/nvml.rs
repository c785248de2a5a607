//! The driver's management library: heat, power, clocks and what keeps them down, memory
//! errors, and who else computes on the GPU. It is part of the driver, but not of every
//! container, and a campaign does without it.
//!
//! A thread of its own talks to it. What passes, as power and the limits of clocks, it looks
//! at again and again while the GPU is measured: right after a row of launches that is gone.
//! The rest it asks for when somebody wants to know, which takes milliseconds, and nobody
//! needs to wait.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nvml_wrapper::Device as Gpu;
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PerformancePolicy, TemperatureSensor,
};
use nvml_wrapper::error::NvmlError;

use crate::device::{AskedTelemetry, ClockLimit, Look, Telemetry};
use crate::toolchain::library;

/// Its name on systems without the development files.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// Time between two looks. The GPU itself updates its power about as often.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Most looks that are kept until somebody asks: about ten minutes.
const MOST_LOOKS: usize = 60_000;

/// One GPU, as the library sees it.
pub(super) struct Nvidia {
    library: Arc<Nvml>,
    uuid: String,
    watch: Watch,
}

impl Nvidia {
    /// Opens the library for the GPU with this id, 32 hexadecimal digits.
    ///
    /// # Errors
    /// Why it is not there, or does not know the GPU.
    pub fn open(uuid: &str) -> Result<Self, String> {
        library::refuse_cut(Path::new(LIBRARY))?;
        let opened = Nvml::builder().lib_path(OsStr::new(LIBRARY)).init();
        let library = Arc::new(opened.map_err(|error| match error {
            NvmlError::LibloadingError(why) => library::loader_message(why),
            other => format!("{LIBRARY}: {other}"),
        })?);
        let uuid = with_dashes(uuid);
        library
            .device_by_uuid(uuid.as_str())
            .map_err(|e| format!("{LIBRARY} does not know {uuid}: {e}"))?;
        let watch = Watch::begin(&library, &uuid);
        Ok(Nvidia { library, uuid, watch })
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

    /// Asks what it says now, and what was seen since it was last asked. What this GPU does
    /// not tell is left out.
    pub fn ask_telemetry(&self) -> AskedTelemetry {
        AskedTelemetry::Asked(self.watch.ask())
    }
}

/// Processes that compute on a GPU beside this one.
#[derive(Default)]
struct OtherProcesses {
    /// Timestamp of the last sample of processes, in microseconds.
    seen_us: u64,
}

impl OtherProcesses {
    /// Those that computed since they were last asked for.
    fn look(&mut self, gpu: &Gpu<'_>) -> Vec<u32> {
        let seen_us = self.seen_us;
        let samples = gpu.process_utilization_stats(seen_us).unwrap_or_default();
        let latest = samples.iter().map(|sample| sample.timestamp).max();
        self.seen_us = latest.unwrap_or(seen_us).max(seen_us);
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
    looks: VecDeque<Look>,
}

/// What the library says at one moment.
fn look(gpu: &Gpu<'_>) -> Look {
    let hz = |mhz: u32| f64::from(mhz) * 1e6;
    let reasons = gpu.current_throttle_reasons().ok();
    Look {
        at: Instant::now(),
        power_w: gpu.power_usage().ok().map(|milliwatts| f64::from(milliwatts) * 1e-3),
        memory_clock_hz: gpu.clock_info(Clock::Memory).ok().map(hz),
        temperature_c: gpu.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
        clock_limits: reasons.into_iter().flat_map(limits).collect(),
    }
}

impl Seen {
    fn add(&mut self, look: Look) {
        if self.looks.len() == MOST_LOOKS {
            self.looks.pop_front();
        }
        self.looks.push_back(look);
    }

    fn mean_power_w(&self) -> Option<f64> {
        let powers = || self.looks.iter().filter_map(|look| look.power_w);
        let count = powers().count();
        (count > 0).then(|| powers().sum::<f64>() / count as f64)
    }

    fn lowest_memory_clock_hz(&self) -> Option<f64> {
        self.looks.iter().filter_map(|look| look.memory_clock_hz).reduce(f64::min)
    }

    /// With what the GPU says now.
    fn telemetry(self, gpu: &Gpu<'_>, others: &mut OtherProcesses) -> Telemetry {
        let slowed = gpu.violation_status(PerformancePolicy::Thermal).ok();
        let errors = gpu.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile);
        let limits = self.looks.iter().flat_map(|look| look.clock_limits.iter().copied());
        Telemetry {
            temperature_c: self.looks.back().and_then(|last| last.temperature_c),
            thermal_slowdown: slowed.map(|slowed| slowed.violation_time),
            other_processes: others.look(gpu),
            power_w: self.mean_power_w(),
            memory_clock_hz: self.lowest_memory_clock_hz(),
            clock_limits: limits.collect(),
            memory_errors: errors.ok(),
            looks: self.looks.into(),
        }
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

/// A thread that looks at a GPU again and again, and answers.
struct Watch {
    /// Where answers are to go. `None` ends the thread.
    asks: Option<Sender<Sender<Telemetry>>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn begin(library: &Arc<Nvml>, uuid: &str) -> Self {
        let (asks, asked) = mpsc::channel();
        let (library, uuid) = (Arc::clone(library), uuid.to_owned());
        let watches = move || {
            if let Ok(gpu) = library.device_by_uuid(uuid.as_str()) {
                watch(&gpu, &asked);
            }
        };
        // Without the thread nothing is seen, which is what records then say.
        let thread = thread::Builder::new().name("nvml".to_owned()).spawn(watches).ok();
        Watch { asks: Some(asks), thread }
    }

    /// Where the answer will come from; from nowhere where nobody answers.
    fn ask(&self) -> Receiver<Telemetry> {
        let (to, from) = mpsc::channel();
        if let Some(asks) = &self.asks {
            // Nobody answers.
            let _ = asks.send(to);
        }
        from
    }
}

/// Looks until nobody can ask any more.
fn watch(gpu: &Gpu<'_>, asked: &Receiver<Sender<Telemetry>>) {
    let (mut seen, mut others) = (Seen::default(), OtherProcesses::default());
    loop {
        seen.add(look(gpu));
        match asked.recv_timeout(LOOK_EVERY) {
            Ok(to) => {
                let answer = std::mem::take(&mut seen).telemetry(gpu, &mut others);
                // Who asked may be gone.
                let _ = to.send(answer);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.asks = None;
        if let Some(thread) = self.thread.take() {
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
    use std::collections::BTreeSet;

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
        let mut seen = Seen::default();
        assert_eq!((seen.mean_power_w(), seen.lowest_memory_clock_hz()), (None, None));
        let look = |power_w, memory_clock_hz| Look {
            at: Instant::now(),
            power_w,
            memory_clock_hz,
            temperature_c: None,
            clock_limits: BTreeSet::new(),
        };
        seen.add(look(Some(500.0), Some(2e9)));
        seen.add(look(Some(700.0), Some(1e9)));
        seen.add(look(Some(600.0), None));
        seen.add(look(None, Some(3e9)));
        assert_eq!(seen.mean_power_w(), Some(600.0));
        assert_eq!(seen.lowest_memory_clock_hz(), Some(1e9));
        for _ in 0..MOST_LOOKS {
            seen.add(look(Some(1.0), None));
        }
        assert_eq!((seen.looks.len(), seen.mean_power_w()), (MOST_LOOKS, Some(1.0)));
    }

    #[test]
    fn ids_are_spelled_as_the_library_does() {
        let spelled = with_dashes("0123456789abcdef0123456789abcdef");
        assert_eq!(spelled, "GPU-01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(with_dashes("0123"), "GPU-0123----");
    }
}
