//! The measuring protocol, the same code for all devices. Only how a series of
//! launches is timed is left to the device.
//!
//! For each point: lay out the rotation, check a launch on poisoned outputs,
//! warm up by time, take samples until the median is known well enough or time
//! is up, check the outputs of the timed launches, summarise.

use std::time::{Duration, Instant};

use crate::device::{
    Device, DeviceInfo, KernelFacts, LaunchError, Layout, PrepareError, Prepared, Refusal,
    Timing,
};
use crate::op::{OfProblem, Problem, Stream};
use crate::point::{CacheState, LaunchMode, Load, Point};
use crate::record::Status;
use crate::reference::{self, Check, NoReference};

use crate::residency::Residency;
use crate::statistics::{Summary, summarise};
use crate::tuning::Chosen;

/// How long and how precisely to measure a point. Samples and seconds are those of all of
/// its rounds together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Seconds of warm-up launches before the first sample.
    pub warmup_s: f64,
    /// Fewest samples.
    pub min_samples: usize,
    /// Fewest seconds of samples; 0 where the number of samples and their interval alone
    /// decide.
    pub min_sample_s: f64,
    /// Most seconds of samples; a point that is not precise enough by then is
    /// `noisy`.
    pub max_sample_s: f64,
    /// Wanted half-width of the median's 95% interval, as a share of it.
    pub half_width: f64,
    /// Longest launch worth measuring; slower points are skipped.
    pub max_launch_s: f64,
    /// How many points are measured between two repeats of the sentinel.
    pub sentinel_every: usize,
    /// Most bytes that the buffers of one point may take.
    pub memory_bytes: u64,
    /// Times that a point is laid out anew and measured, spread over the campaign.
    pub rounds: usize,
    /// After how many rounds half of the points that are one problem in several
    /// configurations of a kernel is measured no further; 0 where all are measured to the
    /// end.
    pub halving_rounds: usize,
    /// Whether the vendor's library is measured beside own kernels, where the device has
    /// one for a problem.
    pub vendor: bool,
    /// Share of the CPU that others may have during a round of a device whose kernels run
    /// on the CPU; with 1 no round is disturbed.
    pub disturbed_share: f64,
}

impl Settings {
    /// Names of the settings as suites spell them.
    pub const KEYS: [&str; 12] = [
        "warmup_s",
        "min_samples",
        "min_sample_s",
        "max_sample_s",
        "half_width",
        "max_launch_s",
        "sentinel_every",
        "memory_bytes",
        "rounds",
        "halving_rounds",
        "vendor",
        "disturbed_share",
    ];

    /// The share of one round: its samples, and its seconds of warm-up and samples.
    pub(crate) fn of_round(&self) -> Settings {
        let share = self.rounds.max(1) as f64;
        Settings {
            warmup_s: self.warmup_s / share,
            min_samples: self.min_samples.div_ceil(self.rounds.max(1)).max(FEWEST_SAMPLES),
            min_sample_s: self.min_sample_s / share,
            max_sample_s: self.max_sample_s / share,
            ..*self
        }
    }
}

impl Default for Settings {
    /// The protocol of docs/METHODOLOGY.md.
    fn default() -> Self {
        Settings {
            warmup_s: 0.5,
            min_samples: 30,
            min_sample_s: 0.0,
            max_sample_s: 15.0,
            half_width: 0.005,
            max_launch_s: 2.0,
            sentinel_every: 16,
            memory_bytes: u64::MAX,
            rounds: 3,
            halving_rounds: 0,
            vendor: true,
            disturbed_share: 0.05,
        }
    }
}

/// Distinct bytes that an instance of a problem moves between two uses of the same one: those
/// of its work, which has the bytes of a stream once for each pass.
fn distinct_bytes(problem: &Problem) -> u64 {
    Stream::of(problem).map_or_else(|| problem.work().bytes(), |stream| stream.bytes)
}

/// Instances of a problem that launches take in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Number of instances.
    pub slots: usize,
    /// Bytes of all of their buffers.
    pub footprint_bytes: u64,
    /// Distinct bytes touched between two uses of the same byte.
    pub reuse_distance_bytes: u64,
}

impl Rotation {
    /// Plans the rotation of a point: one instance when hot, enough instances
    /// to touch twice the last-level cache between two uses when cold.
    ///
    /// # Errors
    /// A refusal when that takes more than `memory_bytes`.
    pub fn plan(
        point: &Point,
        cache_bytes: u64,
        memory_bytes: u64,
    ) -> Result<Self, Refusal> {
        let slot_bytes: u64 = point.problem.tensors().iter().map(|t| t.bytes()).sum();
        let touched = distinct_bytes(&point.problem);
        if point.cache == CacheState::Cold && touched < point.problem.work().bytes() {
            return Err(Refusal(
                "reads the same bytes in several passes, which a cache may hold after the \
                 first; use cache = \"hot\", or passes = 1"
                    .to_owned(),
            ));
        }
        let wanted = match point.cache {
            CacheState::Hot => 1,
            CacheState::Cold => (2 * cache_bytes).div_ceil(touched).max(1),
        };
        let footprint_bytes = wanted.saturating_mul(slot_bytes);
        if footprint_bytes > memory_bytes {
            let why = match wanted {
                1 => String::new(),
                n => format!(
                    " for the {n} instances that keep a {} MiB cache cold",
                    cache_bytes >> 20
                ),
            };
            return Err(Refusal(format!(
                "needs {} MiB{why}, {} MiB are allowed; raise memory_bytes or take a larger \
                 machine",
                footprint_bytes >> 20,
                memory_bytes >> 20
            )));
        }
        Ok(Rotation {
            slots: wanted as usize,
            footprint_bytes,
            reuse_distance_bytes: wanted * touched,
        })
    }

    /// What holds the bytes of a problem's rotation between two uses.
    pub fn residency(&self, problem: &Problem, info: &DeviceInfo) -> Residency {
        problem.residency(self.reuse_distance_bytes, &info.caches, info.near_cache())
    }
}

/// Launches timed together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Slot of the first launch.
    pub first_slot: usize,
    /// Number of launches.
    pub launches: usize,
    /// Seconds of all of them by the device's clock.
    pub elapsed_s: f64,
    /// Clock of the multiprocessors meanwhile, in Hz, where the device reports it.
    pub sm_clock_hz: Option<f64>,
    /// Host seconds from the beginning of the point's measurement to the sample's end.
    pub since_point_s: f64,
}

/// Host seconds spent on the parts of one point.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Durations {
    /// Laying out and filling buffers.
    pub setup_s: f64,
    /// Launches and comparisons for correctness.
    pub check_s: f64,
    /// Warm-up.
    pub warmup_s: f64,
    /// Timed samples.
    pub sample_s: f64,
    /// Giving buffers back.
    pub release_s: f64,
}

/// What became of a point.
#[derive(Clone, Debug, Default)]
pub struct PointOutcome {
    /// Status of the row.
    pub status: Status,
    /// Why it is not `ok`; empty when it is.
    pub reason: String,
    /// The rotation, unless it could not be planned.
    pub rotation: Option<Rotation>,
    /// Bytes that the kernel moves beyond the compulsory ones.
    pub bytes_extra: Option<u64>,
    /// How the kernel was compiled and launched.
    pub kernel: Option<KernelFacts>,
    /// The library that the kernel is of, with its version; `None` of this program's own.
    pub implementation: Option<String>,
    /// In which of its configurations it ran, where it has any.
    pub chosen: Option<Chosen>,
    /// Launches in each sample.
    pub launches: usize,
    /// How they were queued, on devices with a queue.
    pub launch_mode: Option<LaunchMode>,
    /// All samples in the order taken.
    pub samples: Vec<Sample>,
    /// Energy of one launch in joules, where it was measured.
    pub energy_per_launch_j: Option<f64>,
    /// Seconds of one launch, over the samples.
    pub summary: Option<Summary>,
    /// The last check, if one was made.
    pub check: Option<Check>,
    /// What is still to be checked, in order.
    pub pending: Vec<PendingCheck>,
    /// Host time by part.
    pub durations: Durations,
}

impl PointOutcome {
    /// The outcome of a point whose measurement broke.
    pub fn failed(reason: String) -> Self {
        PointOutcome { status: Status::Failed, reason, ..PointOutcome::default() }
    }

    /// Takes in what became of its pending checks, up to the first that failed.
    pub fn settle(&mut self, checks: Vec<Result<Check, NoReference>>) {
        self.pending.clear();
        for check in checks {
            if let Err(PointEnd(status, reason)) = self.take(check) {
                self.status = status;
                self.reason = reason;
                return;
            }
        }
    }

    fn take(&mut self, check: Result<Check, NoReference>) -> Result<(), PointEnd> {
        let check = check.map_err(|e| PointEnd(Status::Failed, e.0))?;
        let wrong = (check.verdict == reference::CheckVerdict::Fail)
            .then(|| PointEnd(Status::Wrong, check.message.clone()));
        self.check = Some(check);
        wrong.map_or(Ok(()), Err)
    }
}

/// What a launch left, still to be held against the reference.
#[derive(Clone, Debug)]
pub struct PendingCheck {
    problem: Problem,
    seed: u64,
    slot: usize,
    round: u64,
    left: LaunchOutput,
}

#[derive(Clone, Debug)]
enum LaunchOutput {
    Bytes(Vec<u8>),
    Digest(u64),
}

/// Outputs of this size and more are checked by their digest, where they have one.
const DIGESTED_BYTES: u64 = 16 << 20;

impl PendingCheck {
    /// Holds it against the reference.
    ///
    /// # Errors
    /// When there is no reference for the problem.
    pub fn run(&self) -> Result<Check, NoReference> {
        let PendingCheck { problem, seed, slot, round, left } = self;
        match left {
            LaunchOutput::Bytes(output) => {
                reference::check(problem, *seed, *slot, *round, output)
            }
            LaunchOutput::Digest(found) => {
                reference::check_digest(problem, *seed, *slot, *found)
            }
        }
    }

    /// Bytes of memory that it takes until then.
    pub fn bytes(&self) -> usize {
        match &self.left {
            LaunchOutput::Bytes(output) => output.len(),
            LaunchOutput::Digest(_) => 0,
        }
    }
}

/// Fewest samples of any point, even when time is up: a median of five samples
/// or fewer has no 95% interval within their range.
const FEWEST_SAMPLES: usize = 6;

/// Ends a point early: its status and the reason.
struct PointEnd(Status, String);

impl From<Refusal> for PointEnd {
    fn from(refusal: Refusal) -> Self {
        PointEnd(Status::Skipped, refusal.0)
    }
}

impl From<LaunchError> for PointEnd {
    fn from(error: LaunchError) -> Self {
        PointEnd(Status::Failed, error.0)
    }
}

/// Measures a round of a point with the settings of a round. `seed` makes its inputs.
/// Failures are outcomes too.
pub fn measure(
    device: &mut dyn Device,
    (point, round): (&Point, u32),
    settings: &Settings,
    seed: u64,
) -> PointOutcome {
    let mut outcome = PointOutcome::default();
    let asked = (point, round == 0);
    if let Err(PointEnd(status, reason)) = run(device, asked, settings, seed, &mut outcome)
    {
        outcome.status = status;
        outcome.reason = reason;
    }
    outcome
}

impl From<PrepareError> for PointEnd {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::Refused(refusal) => refusal.into(),
            PrepareError::Failed(error) => error.into(),
        }
    }
}

/// Checks one point and times nothing: two instances, each launched more than
/// once, to find kernels that depend on what an earlier launch left, or that
/// mix up instances. Failures are outcomes too.
pub fn verify(device: &mut dyn Device, point: &Point, seed: u64) -> PointOutcome {
    let mut outcome = PointOutcome::default();
    if let Err(PointEnd(status, reason)) = verify_slots(device, point, seed, &mut outcome) {
        outcome.status = status;
        outcome.reason = reason;
    }
    outcome
}

fn verify_slots(
    device: &mut dyn Device,
    point: &Point,
    seed: u64,
    outcome: &mut PointOutcome,
) -> Result<(), PointEnd> {
    const SLOTS: usize = 2;
    let slot_bytes: u64 = point.problem.tensors().iter().map(|t| t.bytes()).sum();
    let rotation = Rotation {
        slots: SLOTS,
        footprint_bytes: SLOTS as u64 * slot_bytes,
        reuse_distance_bytes: SLOTS as u64 * distinct_bytes(&point.problem),
    };
    outcome.rotation = Some(rotation);
    device.kernel(&point.problem)?;
    let mut prepared =
        device.prepare(&point.problem, &point.kernel, Layout::new(SLOTS, seed))?;
    outcome.bytes_extra = prepared.extra_bytes();
    outcome.kernel = prepared.kernel_facts();
    outcome.implementation = prepared.implementation();
    outcome.chosen = prepared.chosen();
    let mut bench = Bench {
        prepared: &mut *prepared,
        rotation,
        next_slot: 0,
        began: Instant::now(),
        launched: 0,
        settled_hz: None,
        defers_checks: false,
    };
    for launches in [2, 3] {
        bench.poison(outcome)?;
        bench.launch(launches)?;
        for slot in 0..SLOTS {
            bench.compare(&point.problem, seed, slot, launches as u64, outcome)?;
        }
    }
    Ok(())
}

/// Launches of a hot point before it is profiled: the first finds what filling left.
const HOT_WARMUPS: usize = 2;

/// Lays a point out as a campaign does, goes once through its rotation if it is to warm up,
/// and launches it `launches` times, one by one, with a profiler told to watch only these. Times and answers
/// are not looked at. Returns how the kernel was compiled, where that is known.
///
/// # Errors
/// What keeps the point from being laid out or launched, in a sentence.
pub fn replay(
    device: &mut dyn Device,
    point: &Point,
    seed: u64,
    (launches, warms_up): (usize, bool),
) -> Result<Option<KernelFacts>, String> {
    let info = device.info();
    let (cache_bytes, memory_bytes) = (info.last_level_cache_bytes(), info.memory_bytes);
    let rotation =
        Rotation::plan(point, cache_bytes, memory_bytes).map_err(|refusal| refusal.0)?;
    let slots = rotation.slots;
    // A profiler sees kernels one by one, and some do not see those of graphs.
    let launch = info.queues_launches().then_some(LaunchMode::Stream);
    let layout = Layout { slots, seed, launch };
    let prepared = device.prepare(&point.problem, &point.kernel, layout);
    let mut prepared = prepared.map_err(|why| why.to_string())?;
    let facts = prepared.kernel_facts();
    let run = |prepared: &mut dyn Prepared| -> Result<(), LaunchError> {
        let warmups = if warms_up { slots.max(HOT_WARMUPS) } else { 0 };
        if warmups > 0 {
            prepared.launch(0, warmups)?;
        }
        prepared.profile(true)?;
        let first = warmups % slots;
        let done = (0..launches)
            .try_for_each(|launch| prepared.launch((first + launch) % slots, 1).map(drop));
        prepared.profile(false)?;
        done
    };
    run(&mut *prepared).map_err(|why| why.to_string())?;
    Ok(facts)
}

/// The protocol. The first round of a point is checked more thoroughly than later ones, in
/// which only the place of the buffers is new.
fn run(
    device: &mut dyn Device,
    (point, is_first): (&Point, bool),
    settings: &Settings,
    seed: u64,
    outcome: &mut PointOutcome,
) -> Result<(), PointEnd> {
    let began = Instant::now();
    let cache_bytes = device.info().last_level_cache_bytes();
    let quantum_s = device.info().timer_quantum_s;
    let memory_bytes = settings.memory_bytes.min(device.info().memory_bytes);
    // Kernels of the CPU would be slowed down by checks beside them.
    let defers_checks = !device.info().runs_on_host();
    let settled_hz = device.info().sm_clock_max_hz().map(|hz| SETTLED_SHARE * hz);
    let rotation = Rotation::plan(point, cache_bytes, memory_bytes)?;
    outcome.rotation = Some(rotation);
    let layout = Layout { slots: rotation.slots, seed, launch: point.launch };
    let mut prepared = device.prepare(&point.problem, &point.kernel, layout)?;
    outcome.bytes_extra = prepared.extra_bytes();
    outcome.kernel = prepared.kernel_facts();
    outcome.implementation = prepared.implementation();
    outcome.chosen = prepared.chosen();
    // Launches that warm the device up, whatever else they are for.
    let tuning_s = prepared.tuning_s();
    outcome.durations.warmup_s = tuning_s;
    outcome.durations.setup_s = began.elapsed().as_secs_f64() - tuning_s;

    let bench = Bench {
        prepared: &mut *prepared,
        rotation,
        next_slot: 0,
        began,
        launched: 0,
        settled_hz,
        defers_checks,
    };
    let result =
        run_prepared(bench, (point, is_first), (settings, quantum_s), seed, outcome);
    let ended = Instant::now();
    drop(prepared);
    outcome.durations.release_s = ended.elapsed().as_secs_f64();
    result
}

/// The protocol from the first launch on.
fn run_prepared(
    mut bench: Bench<'_, '_>,
    (point, is_first): (&Point, bool),
    (settings, quantum_s): (&Settings, f64),
    seed: u64,
    outcome: &mut PointOutcome,
) -> Result<(), PointEnd> {
    let launch_s = match is_first {
        true => bench.check_first_launch(&point.problem, seed, outcome)?,
        false => bench.launch(1)?.seconds,
    };
    if launch_s > settings.max_launch_s {
        let reason = format!(
            "one launch takes {launch_s:.2} s, the suite allows {} s; measure it alone or \
             raise max_launch_s",
            settings.max_launch_s
        );
        return Err(PointEnd(Status::Skipped, reason));
    }
    let launch_s = match point.load {
        None | Some(Load::InTurn) => bench.warm_up(settings.warmup_s, launch_s, outcome)?,
        Some(Load::Burst) => bench.rest(launch_s, outcome)?,
        Some(Load::Sustained) => bench.work(launch_s, outcome)?,
    };
    let settings = &match point.load {
        Some(Load::Burst) => {
            Settings { max_sample_s: BURST_S, min_samples: FEWEST_SAMPLES, ..*settings }
        }
        Some(Load::Sustained | Load::InTurn) | None => *settings,
    };
    let wanted = launches_per_sample(launch_s, quantum_s, settings);
    outcome.launches = bench.prepared.row_launches(wanted);
    outcome.launch_mode = bench.prepared.launch_mode(outcome.launches);
    bench.poison(outcome)?;
    bench.sample(settings, outcome)?;
    bench.check_timed_launches(&point.problem, seed, is_first, outcome)
}

/// Seconds of work that are a burst, of rest before it, and of work that settles heat and
/// power and is long enough for a counter of energy.
const BURST_S: f64 = 0.05;
const REST_S: f64 = 0.5;
const SUSTAINED_S: f64 = 2.0;

/// Seconds in which the limit of power settles the clocks: an H100 that multiplies matrices
/// ran its first 0.1 s at 1.59 GHz and then at 1.37.
const SETTLE_S: f64 = 0.25;

/// Share of its highest clock below which a device is at a limit.
const SETTLED_SHARE: f64 = 0.9;

fn is_below(clock_hz: Option<f64>, limit_hz: Option<f64>) -> bool {
    clock_hz.zip(limit_hz).is_some_and(|(clock, limit)| clock < limit)
}

/// Least seconds of one sample.
const SAMPLE_S: f64 = 0.5e-3;

/// Launches in one sample: at least half a millisecond, a thousandth of the shortest
/// sampling time and 50 ticks of the clock, so that neither the clock nor its reading shows.
fn launches_per_sample(launch_s: f64, quantum_s: f64, settings: &Settings) -> usize {
    let sample_s = (settings.min_sample_s / 1000.0).max(50.0 * quantum_s).max(SAMPLE_S);
    (sample_s / launch_s.max(1e-9)).ceil().clamp(1.0, 1e7) as usize
}

/// A prepared point and its place in the rotation.
struct Bench<'a, 'd> {
    prepared: &'a mut (dyn Prepared + 'd),
    rotation: Rotation,
    next_slot: usize,
    began: Instant,
    /// Launches so far, or since somebody began to count.
    launched: usize,
    /// Clock below which the device is at a limit, where its highest is known.
    settled_hz: Option<f64>,
    /// Whether outputs are checked later, beside the next measurement.
    defers_checks: bool,
}

impl Bench<'_, '_> {
    /// Launches on the next slots in turn, timed by the device's clock.
    fn launch(&mut self, launches: usize) -> Result<Timing, LaunchError> {
        let timing = self.prepared.launch(self.next_slot, launches)?;
        let elapsed_s = timing.seconds;
        self.next_slot = (self.next_slot + launches) % self.rotation.slots;
        self.launched += launches;
        if !elapsed_s.is_finite() || elapsed_s < 0.0 {
            return Err(LaunchError(format!(
                "the device's clock gave {elapsed_s} s for {launches} launches; its times \
                 cannot be used"
            )));
        }
        Ok(timing)
    }

    /// Poisons every output, launches once and compares.
    fn check_first_launch(
        &mut self,
        problem: &Problem,
        seed: u64,
        outcome: &mut PointOutcome,
    ) -> Result<f64, PointEnd> {
        self.poison(outcome)?;
        let start = Instant::now();
        let launch_s = self.launch(1)?.seconds;
        let result = self.compare(problem, seed, 0, 0, outcome);
        outcome.durations.check_s += start.elapsed().as_secs_f64();
        result.map(|()| launch_s)
    }

    fn poison(&mut self, outcome: &mut PointOutcome) -> Result<(), LaunchError> {
        let start = Instant::now();
        self.prepared.poison()?;
        outcome.durations.check_s += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Compares outputs of timed launches: the last, and in a point's first round, where all
    /// slots were written, one half a rotation away from it.
    fn check_timed_launches(
        &mut self,
        problem: &Problem,
        seed: u64,
        is_first: bool,
        outcome: &mut PointOutcome,
    ) -> Result<(), PointEnd> {
        let start = Instant::now();
        let slots = self.rotation.slots;
        let last = (self.next_slot + slots - 1) % slots;
        let mut result = self.compare(problem, seed, last, 1, outcome);
        let launches: usize = outcome.samples.iter().map(|s| s.launches).sum();
        if is_first && slots > 1 && launches >= slots && result.is_ok() {
            result = self.compare(problem, seed, (last + slots / 2) % slots, 2, outcome);
        }
        outcome.durations.check_s += start.elapsed().as_secs_f64();
        result
    }

    fn compare(
        &mut self,
        problem: &Problem,
        seed: u64,
        slot: usize,
        round: u64,
        outcome: &mut PointOutcome,
    ) -> Result<(), PointEnd> {
        if !self.defers_checks {
            let output = self.prepared.output(slot)?;
            return outcome.take(reference::check(problem, seed, slot, round, &output));
        }
        let left = self.left_by_launch(problem, slot)?;
        outcome.pending.push(PendingCheck { problem: *problem, seed, slot, round, left });
        Ok(())
    }

    /// What is to be held against the reference: the output, or its digest where copying
    /// it takes long.
    fn left_by_launch(
        &mut self,
        problem: &Problem,
        slot: usize,
    ) -> Result<LaunchOutput, LaunchError> {
        if problem.output().bytes() >= DIGESTED_BYTES
            && reference::has_digest(problem)
            && let Some(digest) = self.prepared.digest(slot)?
        {
            return Ok(LaunchOutput::Digest(digest));
        }
        Ok(LaunchOutput::Bytes(self.prepared.output(slot)?.into_owned()))
    }

    /// Launches until `warmup_s` have passed; the mean seconds of a
    /// launch over the second half, when caches and clocks have settled. Where the clock is
    /// far below what it may be, the limit of power lowers it in steps of a tenth of a second,
    /// and settling takes longer.
    fn warm_up(
        &mut self,
        warmup_s: f64,
        first_launch_s: f64,
        outcome: &mut PointOutcome,
    ) -> Result<f64, PointEnd> {
        let start = Instant::now();
        let batch_s = warmup_s / 20.0;
        let settle_s = SETTLE_S.min(5.0 * warmup_s);
        let mut launch_s = first_launch_s;
        let mut second_half = (0usize, 0.0);
        loop {
            let wanted = (batch_s / launch_s.max(1e-9)).clamp(1.0, 1e7) as usize;
            let launches = self.prepared.row_launches(wanted);
            let Timing { seconds: elapsed_s, sm_clock_hz: clock_hz } =
                self.launch(launches)?;
            launch_s = elapsed_s / launches as f64;
            let so_far = start.elapsed().as_secs_f64();
            if so_far > warmup_s / 2.0 {
                second_half = (second_half.0 + launches, second_half.1 + elapsed_s);
            }
            let has_settled = !is_below(clock_hz, self.settled_hz) || so_far > settle_s;
            if so_far > warmup_s && has_settled {
                break;
            }
        }
        outcome.durations.warmup_s += start.elapsed().as_secs_f64();
        Ok(second_half.1 / second_half.0.max(1) as f64)
    }

    /// Lets the device rest, so that what follows is a burst; seconds of a launch before.
    fn rest(
        &mut self,
        first_launch_s: f64,
        outcome: &mut PointOutcome,
    ) -> Result<f64, PointEnd> {
        let launch_s = self.warm_up(BURST_S / 10.0, first_launch_s, outcome)?;
        std::thread::sleep(Duration::from_secs_f64(REST_S));
        outcome.durations.warmup_s += REST_S;
        Ok(launch_s)
    }

    /// Launches for so long that heat and power have settled, and sees what energy a launch
    /// takes; seconds of a launch.
    fn work(
        &mut self,
        first_launch_s: f64,
        outcome: &mut PointOutcome,
    ) -> Result<f64, PointEnd> {
        self.launched = 0;
        let before_j = self.prepared.energy_j();
        let launch_s = self.warm_up(SUSTAINED_S, first_launch_s, outcome)?;
        let used_j = self.prepared.energy_j().zip(before_j).map(|(now, then)| now - then);
        outcome.energy_per_launch_j =
            used_j.filter(|j| *j > 0.0).map(|j| j / self.launched as f64);
        Ok(launch_s)
    }

    /// Takes samples until the median is precise enough or time is up.
    ///
    /// The interval is looked at when the number of samples has grown by half
    /// since the last look: looking costs time, and stopping at the first
    /// lucky look among many would make intervals too narrow.
    fn sample(
        &mut self,
        settings: &Settings,
        outcome: &mut PointOutcome,
    ) -> Result<(), PointEnd> {
        let start = Instant::now();
        let mut seconds = Vec::new();
        let mut next_look = settings.min_samples;
        let mut half_width = f64::INFINITY;
        loop {
            let first_slot = self.next_slot;
            let Timing { seconds: elapsed_s, sm_clock_hz } =
                self.launch(outcome.launches)?;
            outcome.samples.push(Sample {
                first_slot,
                launches: outcome.launches,
                elapsed_s,
                sm_clock_hz,
                since_point_s: self.began.elapsed().as_secs_f64(),
            });
            seconds.push(elapsed_s / outcome.launches as f64);
            let spent_s = start.elapsed().as_secs_f64();
            let is_due = seconds.len() >= next_look && spent_s >= settings.min_sample_s;
            if is_due {
                next_look = seconds.len() + seconds.len().div_ceil(2);
                outcome.summary = summarise(&seconds);
                half_width = outcome.summary.map_or(half_width, |s| s.median.half_width());
                if half_width <= settings.half_width {
                    break;
                }
            }
            if spent_s >= settings.max_sample_s && seconds.len() >= FEWEST_SAMPLES {
                outcome.summary = summarise(&seconds);
                break;
            }
        }
        outcome.durations.sample_s = start.elapsed().as_secs_f64();
        if outcome.summary.is_none_or(|s| s.median.value <= 0.0) {
            let reason = "the median time is zero: the clock is too coarse for this point";
            return Err(PointEnd(Status::Failed, reason.to_owned()));
        }
        judge_precision(settings, seconds.len(), outcome);
        Ok(())
    }
}

/// Whether the samples are as many and as alike as the suite wants; else the outcome is noisy.
pub(crate) fn judge_precision(
    settings: &Settings,
    samples: usize,
    outcome: &mut PointOutcome,
) {
    let half_width = outcome.summary.map_or(f64::INFINITY, |s| s.median.half_width());
    if half_width > settings.half_width || samples < settings.min_samples {
        outcome.status = Status::Noisy;
        outcome.reason = format!(
            "after {samples} samples in {:.1} s the half-width is {:.2}% of the median, \
                 {:.2}% with {} samples were wanted",
            outcome.durations.sample_s,
            100.0 * half_width,
            100.0 * settings.half_width,
            settings.min_samples
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::NEAR_CACHE;
    use crate::device::simulated::{Fault, SimulatedDevice};
    use crate::residency::{CacheLevel, CacheSize};

    const GEMM: &str = "gemm:m=3,n=5,k=7,dtype=f32@simulated@cold";

    fn quick() -> Settings {
        Settings {
            warmup_s: 0.002,
            min_samples: 10,
            min_sample_s: 0.002,
            max_sample_s: 0.05,
            ..Settings::default()
        }
    }

    fn measured(device: &mut SimulatedDevice, point: &str) -> PointOutcome {
        let mut outcome = measure(device, (&point.parse().unwrap(), 0), &quick(), 7);
        assert!(outcome.check.is_none(), "checks are left for later");
        let checks = outcome.pending.iter().map(PendingCheck::run).collect();
        outcome.settle(checks);
        outcome
    }

    #[test]
    fn a_steady_point_is_ok_and_timed_by_the_device() {
        let outcome = measured(&mut SimulatedDevice::default(), GEMM);
        assert_eq!((outcome.status, outcome.reason.as_str()), (Status::Ok, ""));
        let bytes = 4.0 * (21.0 + 35.0 + 15.0);
        let expected_s = bytes / 1e11 + 1e-6;
        let median = outcome.summary.unwrap().median;
        assert!((median.value / expected_s - 1.0).abs() < 1e-9, "{median:?}");
        assert_eq!(outcome.check.unwrap().verdict, reference::CheckVerdict::Pass);
        assert!(outcome.samples.len() >= 10);
    }

    #[test]
    fn a_restless_point_is_noisy_and_keeps_its_samples() {
        let mut device = SimulatedDevice { noise: 0.5, ..Default::default() };
        let settings = Settings { half_width: 1e-7, ..quick() };
        let outcome = measure(&mut device, (&GEMM.parse().unwrap(), 0), &settings, 7);
        assert_eq!(outcome.status, Status::Noisy);
        assert!(outcome.reason.contains("half-width"), "{}", outcome.reason);
        assert!(outcome.summary.is_some());
    }

    #[test]
    fn faults_end_in_their_status_with_a_reason() {
        let cases = [
            (Fault::WrongOutput, 0, Status::Wrong, "c"),
            (Fault::Unwritten, 0, Status::Wrong, "c"),
            (Fault::WrongOutput, 100, Status::Wrong, "c"),
            (Fault::Unwritten, 100, Status::Wrong, "c"),
            (Fault::LaunchFails, 0, Status::Failed, "as planned"),
            (Fault::LaunchFails, 100, Status::Failed, "as planned"),
            (Fault::BadClock, 0, Status::Failed, "clock"),
        ];
        for (fault, from, status, part) in cases {
            let mut device =
                SimulatedDevice { fault: Some((fault, from)), ..Default::default() };
            let outcome = measured(&mut device, GEMM);
            assert_eq!(outcome.status, status, "{fault:?} from launch {from}");
            assert!(outcome.reason.contains(part), "{}", outcome.reason);
        }
    }

    #[test]
    fn what_a_device_cannot_run_is_skipped() {
        let mut device = SimulatedDevice::default();
        let outcome = measured(&mut device, "stream:access=copy,bytes=1 MiB@none@cold");
        assert_eq!(outcome.status, Status::Skipped);
        assert!(outcome.reason.contains("no stream"), "{}", outcome.reason);
        let outcome = measured(&mut device, "stream:access=read,bytes=1 GiB@simulated@hot");
        assert_eq!(outcome.status, Status::Skipped);
        assert!(outcome.reason.contains("1024 MiB"), "{}", outcome.reason);
    }

    #[test]
    fn slow_launches_are_skipped_before_they_cost_time() {
        let mut device = SimulatedDevice { bytes_per_s: 1.0, ..Default::default() };
        let outcome = measured(&mut device, GEMM);
        assert_eq!(outcome.status, Status::Skipped);
        assert!(outcome.reason.contains("max_launch_s"), "{}", outcome.reason);
    }

    fn rotation(point: &str, cache_bytes: u64) -> Result<Rotation, Refusal> {
        Rotation::plan(&point.parse().unwrap(), cache_bytes, 1 << 30)
    }

    #[test]
    fn passes_are_of_sets_that_stay_where_they_are() {
        let hot =
            rotation("stream:access=read,bytes=4 KiB,passes=9@x@hot", 1 << 20).unwrap();
        assert_eq!((hot.slots, hot.reuse_distance_bytes), (1, 4096));
        let cold = rotation("stream:access=read,bytes=4 KiB,passes=9@x@cold", 1 << 20);
        let why = cold.unwrap_err().0;
        assert!(why.contains("several passes") && why.contains("passes = 1"), "{why}");
    }

    #[test]
    fn cold_rotations_touch_twice_the_cache_before_reuse() {
        let cache = 1 << 20;
        for bytes in [128, 4096, 1 << 20, (1 << 21) - 128, 1 << 21, 1 << 22] {
            let point = format!("stream:access=read,bytes={bytes}@x@cold");
            let r = rotation(&point, cache).unwrap();
            assert!(r.reuse_distance_bytes >= 2 * cache, "{bytes}: {r:?}");
            assert!(r.reuse_distance_bytes < 2 * cache + bytes, "{bytes}: {r:?}");
            assert_eq!(r.reuse_distance_bytes, r.slots as u64 * bytes);
        }
        assert_eq!(rotation("stream:access=read,bytes=128@x@hot", cache).unwrap().slots, 1);
        let error = rotation("gemm:m=1,n=1,k=1,dtype=f32@x@cold", 1 << 40).unwrap_err();
        assert!(error.0.contains("to keep a") || error.0.contains("cold"), "{error}");
    }

    #[test]
    fn residency_names_the_cache_that_holds_the_rotation() {
        let mut info = SimulatedDevice::default().info;
        info.caches.push(CacheSize { level: CacheLevel::L3, bytes: 1 << 22 });
        for (mib, expected) in
            [(1, "L2"), (2, "L3"), (4, "L3"), (5, "L3+dram"), (8, "dram"), (99, "dram")]
        {
            let point: Point =
                format!("stream:access=read,bytes={mib} MiB@x@hot").parse().unwrap();
            let rotation = Rotation::plan(&point, 0, 1 << 30).unwrap();
            assert_eq!(
                rotation.residency(&point.problem, &info).to_string(),
                expected,
                "{mib} MiB"
            );
        }
    }

    /// The cache of each core serves only what the core itself reads again.
    #[test]
    fn own_shares_are_in_the_near_cache_as_far_as_it_holds_them() {
        let mut info = SimulatedDevice::default().info;
        info.facts.push((NEAR_CACHE.to_owned(), "L1=2097152".to_owned()));
        let of = |mib: u32, rest: &str| {
            let text = format!("stream:access=read,bytes={mib} MiB{rest}@x@hot");
            let point: Point = text.parse().unwrap();
            let rotation = Rotation::plan(&point, 0, 1 << 30).unwrap();
            rotation.residency(&point.problem, &info).to_string()
        };
        let own = ",passes=9,reuse=own";
        assert_eq!([1, 2, 3].map(|mib| of(mib, own)), ["L1", "L1", "dram"]);
        assert_eq!(of(1, ",passes=9"), "L2");
        assert_eq!(of(1, ""), "L2");
    }

    /// Seconds of warm-up of a device whose clock is this share of its highest.
    fn warmup_s(share: f64) -> f64 {
        let mut device = SimulatedDevice::default();
        device.info.facts.push(("sm_clock_max_hz".into(), "2000000000".into()));
        device.clock_hz = Some(share * 2e9);
        measured(&mut device, GEMM).durations.warmup_s
    }

    #[test]
    fn a_device_at_a_limit_warms_up_until_its_clock_has_settled() {
        let asked_s = quick().warmup_s;
        assert!(warmup_s(0.8) >= 5.0 * asked_s);
        let free_s = (0..5).map(|_| warmup_s(0.95)).fold(f64::MAX, f64::min);
        assert!((asked_s..5.0 * asked_s).contains(&free_s), "{free_s}");
    }

    #[test]
    fn sustained_load_is_long_and_tells_the_energy_of_a_launch() {
        let mut device =
            SimulatedDevice { launch_j: Some(0.25), ..SimulatedDevice::default() };
        let outcome = measured(&mut device, &format!("{GEMM}@sustained"));
        assert_eq!(outcome.status, Status::Ok);
        let joules = outcome.energy_per_launch_j.unwrap();
        assert!((joules / 0.25 - 1.0).abs() < 1e-9, "{joules}");
        assert!(outcome.durations.warmup_s >= SUSTAINED_S);
        // Without a counter nothing is said.
        let silent = measured(&mut SimulatedDevice::default(), &format!("{GEMM}@burst"));
        assert_eq!((silent.status, silent.energy_per_launch_j), (Status::Ok, None));
        assert!(silent.durations.warmup_s >= REST_S, "it rests first");
    }

    #[test]
    fn samples_wrap_the_rotation() {
        let outcome = measured(&mut SimulatedDevice::default(), GEMM);
        let slots = outcome.rotation.unwrap().slots;
        for pair in outcome.samples.windows(2) {
            let next = (pair[0].first_slot + pair[0].launches) % slots;
            assert_eq!(pair[1].first_slot, next);
        }
    }
}
