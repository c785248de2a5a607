//! What a device is to the rest of the program, and what it says of itself.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use ptxvm::conformance::Program;
use thiserror::Error;

use crate::kernel::Candidate;
pub use crate::kernel::{Refusal, SearchSpace};
use crate::op::Problem;
use crate::point::LaunchMode;
use crate::residency::{CacheLevel, CacheSize};
use crate::toolchain::Arch;
use crate::tuning::{Chosen, Tuning};

/// What a device may need to know before it is opened.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// A folder that `ridgepoint kernels build` wrote, for machines that have
    /// a GPU but no compiler.
    pub kernels: Option<PathBuf>,
}

/// A name for folders: lower case letters and digits, everything else as
/// single dashes.
pub(super) fn slug(name: &str) -> String {
    // Words that vendors add and that do not tell machines apart.
    let noise = ["r", "tm", "processor", "cpu", ""];
    let name = name.to_lowercase();
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| !noise.contains(word)).collect::<Vec<_>>().join("-")
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

impl FromStr for DeviceKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = [DeviceKind::Measured, DeviceKind::Simulated].into_iter();
        all.find(|kind| kind.name() == text)
            .ok_or_else(|| "known are measured and simulated".to_owned())
    }
}

/// Fact of a GPU, and column of `run.csv`: the L1 of its multiprocessors, summed over them, as
/// `L1=bytes`. It keeps nothing from one launch to the next, and nothing of other
/// multiprocessors.
pub const NEAR_CACHE: &str = "near_cache";

/// The fact [`NEAR_CACHE`] of a GPU of an architecture with so many multiprocessors.
pub(crate) fn near_cache_fact(arch: Arch, sms: u32) -> (String, String) {
    let bytes = u64::from(sms) * u64::from(arch.l1_bytes());
    (NEAR_CACHE.to_owned(), CacheSize { level: CacheLevel::L1, bytes }.to_string())
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
    pub caches: Vec<CacheSize>,
    /// Cores or multiprocessors: what work is spread over.
    pub units: u64,
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

    /// The cache that each core has beside the caches of `caches` and that a launch finds
    /// empty, by its facts; none where `caches` has that of the cores already.
    pub fn near_cache(&self) -> Option<CacheSize> {
        self.fact(NEAR_CACHE)?.parse().ok()
    }

    fn fact(&self, name: &str) -> Option<&str> {
        self.facts.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Highest clock of a GPU's multiprocessors in Hz, by its facts.
    pub fn sm_clock_max_hz(&self) -> Option<f64> {
        self.fact("sm_clock_max_hz")?.parse().ok()
    }

    /// Whether launches are queued, so that there are several ways to do so.
    pub fn queues_launches(&self) -> bool {
        self.backend.starts_with("cuda")
    }

    /// Whether kernels run on the CPU, where other programs take time from them.
    pub fn runs_on_host(&self) -> bool {
        self.backend == "cpu"
    }
}

/// A launch that went wrong.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct LaunchError(pub String);

/// Why a problem could not be laid out.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PrepareError {
    /// The device does not run it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The device runs such problems, but this time something broke.
    #[error(transparent)]
    Failed(#[from] LaunchError),
}

/// What a row of launches took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Seconds of all launches together, by the device's clock.
    pub seconds: f64,
    /// Mean clock of the multiprocessors meanwhile, in Hz, where the device
    /// can tell.
    pub sm_clock_hz: Option<f64>,
}

/// How a kernel was compiled and launched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelFacts {
    /// Blocks, as `132x1x1`.
    pub grid: String,
    /// Threads of a block, as `128x1x1`.
    pub block: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread that the compiler moved between registers and memory.
    pub spill_bytes: u32,
    /// Shared memory of a block, static and dynamic, in bytes.
    pub shared_bytes: u32,
    /// Blocks that one multiprocessor holds at a time.
    pub blocks_per_sm: u32,
    /// First digits of the BLAKE3 hash of the machine code.
    pub code_hash: String,
}

/// What a device reports of itself between launches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Telemetry {
    /// Temperature of the chip in degrees Celsius.
    pub temperature_c: Option<f64>,
    /// How much it was slowed down for its heat so far, in whatever the device counts:
    /// events or nanoseconds. Only differences tell.
    pub thermal_slowdown: Option<u64>,
    /// Other processes that computed on it since it was last asked. The CPU's are not listed:
    /// their share of the time is known.
    pub other_processes: Vec<u32>,
    /// Mean power that it drew since it was last asked.
    pub power_w: Option<f64>,
    /// Clock of its memory, the lowest that was seen since it was last asked.
    pub memory_clock_hz: Option<f64>,
    /// What kept its clocks down since it was last asked.
    pub clock_limits: BTreeSet<ClockLimit>,
    /// Memory errors that could not be corrected, so far.
    pub memory_errors: Option<u64>,
    /// What it was seen to do since it was last asked, in the order of time.
    pub looks: Vec<Look>,
}

/// What a device was seen to do at one moment. What it does not tell is left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// When.
    pub at: Instant,
    /// Power that it drew, in watts.
    pub power_w: Option<f64>,
    /// Clock of its memory.
    pub memory_clock_hz: Option<f64>,
    /// Temperature of the chip in degrees Celsius.
    pub temperature_c: Option<f64>,
    /// What kept its clocks down.
    pub clock_limits: BTreeSet<ClockLimit>,
}

/// What keeps the clocks of a device down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClockLimit {
    /// It draws as much power as it may.
    Power,
    /// It is too hot.
    Heat,
    /// Its power supply asks for it.
    PowerBrake,
    /// Somebody has set its clocks.
    Setting,
    /// It goes along with other devices.
    Sync,
}

impl ClockLimit {
    /// The spelling used in CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            ClockLimit::Power => "power",
            ClockLimit::Heat => "heat",
            ClockLimit::PowerBrake => "power_brake",
            ClockLimit::Setting => "setting",
            ClockLimit::Sync => "sync",
        }
    }

    /// The names of several, as CSV files have them.
    pub fn spell(limits: &BTreeSet<ClockLimit>) -> String {
        let names: Vec<&str> = limits.iter().map(|limit| limit.name()).collect();
        names.join("+")
    }
}

impl Telemetry {
    /// Whether the device was slowed down for its heat since `earlier`.
    pub fn was_slowed_since(&self, earlier: &Telemetry) -> bool {
        let both = self.thermal_slowdown.zip(earlier.thermal_slowdown);
        both.is_some_and(|(now, then)| now > then)
    }

    /// Memory errors since `earlier` that could not be corrected.
    pub fn memory_errors_since(&self, earlier: &Telemetry) -> u64 {
        let both = self.memory_errors.zip(earlier.memory_errors);
        both.map_or(0, |(now, then)| now.saturating_sub(then))
    }
}

/// What a device was asked for. Where an answer takes long, other work need not wait for it.
#[derive(Debug)]
pub enum AskedTelemetry {
    /// The answer.
    Known(Telemetry),
    /// Where it will come from; from nowhere means that nothing is reported.
    Asked(Receiver<Telemetry>),
}

impl AskedTelemetry {
    /// Whether the answer is there.
    pub fn is_known(&mut self) -> bool {
        let AskedTelemetry::Asked(from) = self else { return true };
        let answer = match from.try_recv() {
            Ok(answer) => answer,
            Err(TryRecvError::Empty) => return false,
            Err(TryRecvError::Disconnected) => Telemetry::default(),
        };
        *self = AskedTelemetry::Known(answer);
        true
    }

    /// The answer, after waiting for it.
    pub fn wait(self) -> Telemetry {
        match self {
            AskedTelemetry::Known(answer) => answer,
            AskedTelemetry::Asked(from) => from.recv().unwrap_or_default(),
        }
    }
}

/// Fixed costs of measuring, as they are now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FixedCosts {
    /// Median seconds of an empty launch.
    pub launch_s: Option<f64>,
    /// Smallest difference that the clock shows, in seconds.
    pub timer_quantum_s: Option<f64>,
}

/// How a problem is laid out and launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Instances of the problem that launches take in turn.
    pub slots: usize,
    /// What inputs are drawn from.
    pub seed: u64,
    /// How rows of launches are queued; `None` for the best way that the device has.
    pub launch: Option<LaunchMode>,
}

impl Layout {
    /// Launched in the device's own way.
    pub const fn new(slots: usize, seed: u64) -> Self {
        Layout { slots, seed, launch: None }
    }

    /// Refuses to launch in any way but the device's own.
    ///
    /// # Errors
    /// A launch mode that was asked for.
    pub fn refuse_launch_mode(self, device: &str) -> Result<(), Refusal> {
        match self.launch {
            None => Ok(()),
            Some(mode) => Err(Refusal(format!(
                "{device} has no queue of launches, and so no launch mode `{mode}`; leave \
                 `launch` out"
            ))),
        }
    }
}

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

    /// Every kernel that runs a problem, in each of its configurations in which it does: what
    /// a tuner may choose between. Empty where kernels have no configurations.
    fn candidates(&self, problem: &Problem) -> Vec<Candidate> {
        let _ = problem;
        Vec::new()
    }

    /// The search space of one of its kernels, if it has such a kernel.
    fn search_space(&self, kernel: &str) -> Option<SearchSpace> {
        let _ = kernel;
        None
    }

    /// From now on kernels run as a tuning says, where points ask for no configuration.
    fn use_tuning(&mut self, tuning: Tuning) {
        let _ = tuning;
    }

    /// The kernel of the vendor's library for such problems, if there is one: what own
    /// kernels are measured beside. Whether the library is there is seen when it is asked to
    /// run.
    fn vendor_kernel(&self, problem: &Problem) -> Option<&'static str> {
        let _ = problem;
        None
    }

    /// Allocates the instances of the problem and fills their inputs, each
    /// tensor with [`crate::data::Key::new`]`(seed, slot, position in
    /// Problem::tensors)`.
    ///
    /// # Errors
    /// A refusal when the kernel does not take the problem, the device does not launch so
    /// or memory is short; a failure when compiling or filling breaks.
    fn prepare<'a>(
        &'a mut self,
        problem: &Problem,
        kernel: &str,
        layout: Layout,
    ) -> Result<Box<dyn Prepared + 'a>, PrepareError>;

    /// Begins a round of a campaign: buffers laid out from now on shall lie in other
    /// physical memory than those before. Devices that allocate anew for each point do
    /// nothing.
    fn begin_round(&mut self) {}

    /// What launches and the clock cost now. Campaigns ask again and again: what else runs
    /// makes it more.
    ///
    /// # Errors
    /// A launch that the device reports as failed.
    fn probe(&self) -> Result<FixedCosts, LaunchError> {
        Ok(FixedCosts::default())
    }

    /// Asks what the device reports of itself now; nothing where it reports nothing.
    fn ask_telemetry(&self) -> AskedTelemetry {
        AskedTelemetry::Known(Telemetry::default())
    }

    /// Whether it can run PTX that it is given.
    fn runs_programs(&self) -> bool {
        false
    }

    /// Runs a conformance program once and returns its output.
    ///
    /// # Errors
    /// A refusal where the device does not have the program's instructions; a
    /// failure where the program does not load or does not finish.
    fn run_program(&self, program: &Program) -> Result<Vec<u8>, PrepareError> {
        Err(Refusal(format!(
            "{} does not run PTX, such as {}",
            self.info().name,
            program.name
        ))
        .into())
    }

    /// Why the device cannot be used again by this process, if that is so: on
    /// a GPU, a kernel that faulted ends all further work.
    fn lost(&self) -> Option<String> {
        None
    }
}

/// A problem laid out on a device, ready to launch.
pub trait Prepared {
    /// Bytes that the kernel moves by its own choice, beyond the compulsory
    /// ones, in one launch; `None` where it does not know, as a blocked product
    /// that relies on caches.
    fn extra_bytes(&self) -> Option<u64>;

    /// How the kernel was compiled and launched, where that is known.
    fn kernel_facts(&self) -> Option<KernelFacts> {
        None
    }

    /// The library that the kernel is of, with its version, where it is not this program's.
    fn implementation(&self) -> Option<String> {
        None
    }

    /// In which of its configurations the kernel runs, and who chose that; `None` of what has
    /// no configurations, such as another library.
    fn chosen(&self) -> Option<Chosen> {
        None
    }

    /// Seconds of launches by which the fastest of several ways was chosen while the problem
    /// was laid out.
    fn tuning_s(&self) -> f64 {
        0.0
    }

    /// How a row of so many launches is queued; `None` where launches are calls and nothing
    /// is queued.
    fn launch_mode(&self, launches: usize) -> Option<LaunchMode> {
        let _ = launches;
        None
    }

    /// The number of launches, at least `wanted`, that rows are best made of: on a device
    /// that queues graphs, so many that all rows are the same graphs.
    fn row_launches(&self, wanted: usize) -> usize {
        wanted
    }

    /// Energy that the device has used so far, in joules, where it counts that. Only
    /// differences tell.
    fn energy_j(&self) -> Option<f64> {
        None
    }

    /// Overwrites every output of every slot with the byte 0xff: a NaN in all
    /// floating-point formats.
    ///
    /// # Errors
    /// A device that reports a failure.
    fn poison(&mut self) -> Result<(), LaunchError>;

    /// Runs `launches` times back to back, on slot `first_slot` and the ones
    /// after it in turn, and times the whole row of launches by the device's
    /// clock.
    ///
    /// # Errors
    /// A launch that the device reports as failed.
    fn launch(&mut self, first_slot: usize, launches: usize)
    -> Result<Timing, LaunchError>;

    /// The [digest](crate::data::digest) of a slot's output, worked out where it lies;
    /// `None` where the device does not do that.
    ///
    /// # Errors
    /// A launch that the device reports as failed.
    fn digest(&mut self, slot: usize) -> Result<Option<u64>, LaunchError> {
        let _ = slot;
        Ok(None)
    }

    /// Tells a profiler that watches this process that what is launched from now on is, or
    /// is not, to be profiled. Nothing where no profiler can watch the device.
    ///
    /// # Errors
    /// A device that reports a failure.
    fn profile(&mut self, _on: bool) -> Result<(), LaunchError> {
        Ok(())
    }

    /// The bytes of a slot's output or witness tensor.
    ///
    /// # Errors
    /// A copy that the device reports as failed.
    fn output(&mut self, slot: usize) -> Result<Cow<'_, [u8]>, LaunchError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_more_slowdown_than_before_is_an_event() {
        let of = |count| Telemetry { thermal_slowdown: count, ..Telemetry::default() };
        assert!(of(Some(8)).was_slowed_since(&of(Some(7))));
        for (now, then) in [(Some(7), Some(7)), (Some(8), None), (None, Some(7))] {
            assert!(!of(now).was_slowed_since(&of(then)));
        }
    }

    #[test]
    fn slugs_are_lower_case_words_with_dashes() {
        assert_eq!(slug("Intel(R) Xeon(R) CPU @ 2.60GHz"), "intel-xeon-2-60ghz");
        assert_eq!(slug("AMD EPYC 9684X 96-Core Processor"), "amd-epyc-9684x-96-core");
        assert_eq!(slug("NVIDIA H100 80GB HBM3"), "nvidia-h100-80gb-hbm3");
    }
}
