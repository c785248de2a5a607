//! What a campaign writes: a row and samples for each point, and the provenance of
//! its process.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use super::looks::Looks;
use crate::device::{ClockLimit, DeviceInfo, FixedCosts, Telemetry};
use crate::measure::{PointOutcome, Sample, Settings};
use crate::point::{PROTOCOL, Point};
use crate::record::{
    RecordedRound, RoundRow, Row, Run, SCHEMA_VERSION, SampleRow, Status,
    own_implementation,
};
use crate::residency::spell_caches;
use crate::statistics;
use crate::suite::Suite;
use crate::tuning::{ChosenBy, TuningTable, USED_TUNING};

/// One entry of the order in which points are measured: a round of a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// What to measure.
    pub point: Point,
    /// 0 for a planned point; the sentinel's repeats count up from there.
    pub repeat: u32,
    /// Which round of it.
    pub round: u32,
    /// Rounds that the point has without disturbed ones.
    pub rounds: u32,
}

/// Fewest undisturbed rounds that make a time, of a point that is to have several.
const FEWEST_ROUNDS: usize = 2;

/// The rounds of a point so far.
pub(super) struct Rounds<'a> {
    all: &'a [RecordedRound],
    wanted: usize,
}

impl<'a> Rounds<'a> {
    pub fn of(all: &'a [RecordedRound], scheduled: &Scheduled) -> Self {
        Rounds { all, wanted: scheduled.rounds as usize }
    }

    fn usable(&self) -> Vec<&'a RecordedRound> {
        self.all.iter().filter(|round| !round.row.disturbed).collect()
    }

    /// Whether no more rounds are wanted: enough are undisturbed, or as many again were
    /// measured for the disturbed ones. The sentinel's are not measured again.
    pub fn are_complete(&self) -> bool {
        let most = if self.wanted > 1 { 2 * self.wanted } else { 1 };
        self.usable().len() >= self.wanted || self.all.len() >= most
    }

    fn last_disturbance(&self) -> &str {
        let disturbed = self.all.iter().rfind(|round| round.row.disturbed);
        let why = disturbed.map_or("", |round| round.row.disturbed_by.as_str());
        if why.is_empty() { "others used the machine" } else { why }
    }

    /// Whether an interval can be made of them.
    pub fn are_enough(&self) -> bool {
        self.usable().len() >= FEWEST_ROUNDS.min(self.wanted)
    }

    /// The number of the next round, beyond those that were scheduled.
    pub fn next(&self) -> u32 {
        let last = self.all.iter().map(|round| round.row.round + 1).max();
        last.unwrap_or(0).max(self.wanted as u32)
    }

    /// What the rounds say together: the columns of a row that come from them.
    fn columns(&self) -> Row {
        let usable = self.usable();
        // Of the rounds that the time is from, where there is one.
        let shares = usable.iter().filter_map(|round| round.row.other_cpu_share);
        let started = self.all.first().map(|round| round.row.started_utc.clone());
        let mut row = Row {
            started_utc: started.unwrap_or_default(),
            other_cpu_share: shares.fold(None, |most, share| {
                Some(most.map_or(share, |most: f64| most.max(share)))
            }),
            ..time_columns(&usable)
        };
        if !self.are_enough() {
            let for_heat = self.last_disturbance().starts_with(SLOWED_FOR_HEAT);
            row.status = Some(if for_heat { Status::Throttled } else { Status::Disturbed });
            row.reason = format!(
                "{} of {} rounds were disturbed, the last of them because {}, and \
                 {FEWEST_ROUNDS} undisturbed ones are needed; measure on an idle machine",
                self.all.len() - usable.len(),
                self.all.len(),
                self.last_disturbance()
            );
        } else if let Some(worst) = least_precise(&usable) {
            row.status = Some(Status::Noisy);
            row.reason = format!(
                "after {} samples of round {} the half-width is {:.2}% of the median, which \
                 is more than the suite wants",
                worst.n_samples,
                worst.round,
                100.0 * half_width(worst)
            );
        }
        let sum = |of: fn(&RoundRow) -> f64| self.all.iter().map(|r| of(&r.row)).sum();
        row.setup_s = sum(|row| row.setup_s);
        row.check_s = sum(|row| row.check_s);
        row.warmup_s = sum(|row| row.warmup_s);
        row.sample_s = sum(|row| row.sample_s);
        row
    }
}

fn half_width(row: &RoundRow) -> f64 {
    (row.time_s_ci_hi - row.time_s_ci_lo) / 2.0 / row.time_s_median
}

/// The round with the widest interval among those that are wider than the suite wants.
fn least_precise<'a>(rounds: &[&'a RecordedRound]) -> Option<&'a RoundRow> {
    let rows = rounds.iter().map(|round| &round.row).filter(|row| !row.precise);
    rows.max_by(|a, b| half_width(a).total_cmp(&half_width(b)))
}

/// Time over rounds: where there are several, their geometric mean with an interval from
/// the spread between them.
fn time_columns(rounds: &[&RecordedRound]) -> Row {
    let seconds = |s: &SampleRow| s.elapsed_s / s.launches as f64;
    let samples = || rounds.iter().flat_map(|round| &round.samples);
    let all: Vec<f64> = samples().map(seconds).collect();
    let clocks: Vec<f64> = samples().filter_map(|s| s.sm_clock_hz).collect();
    let Some(summary) = statistics::summarise(&all) else { return Row::default() };
    let medians: Vec<f64> = rounds.iter().map(|round| round.row.time_s_median).collect();
    let time = statistics::of_rounds(&medians, None).unwrap_or(summary.median);
    let [p05, p25, p75, p95] = summary.percentiles;
    Row {
        status: Some(Status::Ok),
        launches_per_sample: rounds.last().map(|round| round.row.launches_per_sample),
        n_samples: all.len() as u64,
        time_s_median: Some(time.value),
        time_s_ci_lo: Some(time.lo),
        time_s_ci_hi: Some(time.hi),
        time_s_mean: Some(summary.mean),
        time_s_sd: Some(summary.sd),
        time_s_min: Some(summary.min),
        time_s_p05: Some(p05),
        time_s_p25: Some(p25),
        time_s_p75: Some(p75),
        time_s_p95: Some(p95),
        sm_clock_hz_median: (!clocks.is_empty()).then(|| statistics::median(&clocks)),
        power_w: mean(rounds.iter().filter_map(|round| round.row.power_w)),
        clock_limits: {
            let named = rounds.iter().flat_map(|round| round.row.clock_limits.split('+'));
            let names: BTreeSet<&str> = named.filter(|name| !name.is_empty()).collect();
            names.into_iter().collect::<Vec<_>>().join("+")
        },
        ..Row::default()
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// When a round was measured, and what else ran meanwhile.
pub(super) struct Circumstances {
    pub started_utc: String,
    /// Seconds since the process began to measure.
    pub since_start_s: f64,
    /// Share of the CPU time that others had.
    pub other_cpu_share: Option<f64>,
    /// What was probed just before.
    pub probes: Probes,
}

/// What the device reports of a round.
#[derive(Default)]
pub(super) struct Reports {
    /// At the end.
    pub telemetry: Telemetry,
    /// What slowed the round down; empty where nothing is known to have.
    pub disturbed_by: String,
}

/// What is measured beside the sentinel again and again.
#[derive(Default)]
pub(super) struct Probes {
    pub fixed: FixedCosts,
    /// Median seconds of a launch of the compute probe.
    pub compute_s: Option<f64>,
    /// How long that took.
    pub seconds: f64,
}

/// How a round that heat slowed down says so.
const SLOWED_FOR_HEAT: &str = "the device was slowed down for its heat";

/// What slowed a round down between two looks at the machine; empty if nothing is known to.
pub(super) fn disturbed_by(
    info: &DeviceInfo,
    settings: &Settings,
    other_cpu_share: Option<f64>,
    (before, after): (&Telemetry, &Telemetry),
) -> String {
    let mut found = Vec::new();
    let share = other_cpu_share.filter(|share| *share > settings.disturbed_share);
    if let Some(share) = share.filter(|_| info.runs_on_host()) {
        found.push(format!("others had {:.0}% of the CPU", 100.0 * share));
    }
    if after.was_slowed_since(before) {
        found.push(SLOWED_FOR_HEAT.to_owned());
    }
    let errors = after.memory_errors_since(before);
    if errors > 0 {
        found.push(format!("{errors} memory errors could not be corrected"));
    }
    if !after.other_processes.is_empty() {
        let pids: Vec<String> = after.other_processes.iter().map(u32::to_string).collect();
        found.push(format!("processes {} computed on the device", pids.join(", ")));
    }
    found.join("; ")
}

/// What a campaign's rows have in common.
pub(super) struct RowAuthor<'a> {
    pub info: &'a DeviceInfo,
    pub suite: &'a Suite,
    pub seed: u64,
    pub run_id: &'a str,
}

/// The columns of a row that follow from its point.
pub(super) fn point_columns(point: &Point) -> Row {
    let (work, routed) = (point.problem.work(), point.problem.routed());
    Row {
        point_id: point.id(),
        op: point.problem.op().to_string(),
        kernel: point.kernel.to_string(),
        cache_state: point.cache.to_string(),
        load: point.load.map_or(String::new(), |load| load.to_string()),
        problem: point.problem.to_string(),
        matrix_flops_model: work.matrix_flops(),
        vector_flops_model: work.vector_flops(),
        bytes_read_model: work.bytes_read(),
        bytes_written_model: work.bytes_written(),
        experts_touched_model: routed.map(|r| r.experts_touched),
        bytes_read_bound_model: routed.map(|r| r.bytes_read_bound),
        bytes_read_expected_model: routed.map(|r| r.bytes_read_expected),
        ..Row::default()
    }
}

/// The option that makes a kernel run in the same configuration again, where the point does
/// not say it.
fn tuning_option(outcome: &PointOutcome, info: &DeviceInfo) -> String {
    match outcome.chosen.as_ref().map(|chosen| chosen.by) {
        Some(ChosenBy::Tuned) => format!(" --tuning {}", USED_TUNING),
        Some(ChosenBy::Default) if TuningTable::built_in(&info.name).is_some() => {
            " --tuning none".to_owned()
        }
        _ => String::new(),
    }
}

impl RowAuthor<'_> {
    pub(super) fn row(
        &self,
        scheduled: &Scheduled,
        order_index: usize,
        outcome: &PointOutcome,
        rounds: &Rounds<'_>,
    ) -> Row {
        let point = &scheduled.point;
        let info = self.info;
        let rotation = outcome.rotation;
        let kernel = outcome.kernel.clone().unwrap_or_default();
        let compiled = outcome.kernel.is_some();
        let of_point = point_columns(point);
        Row {
            run_id: self.run_id.to_owned(),
            point_id: of_point.point_id,
            repeat: scheduled.repeat,
            order_index: order_index as u32,
            suite: self.suite.name.clone(),
            device: info.name.clone(),
            device_kind: info.kind.name().to_owned(),
            op: of_point.op,
            kernel: of_point.kernel,
            cache_state: of_point.cache_state,
            load: of_point.load,
            launch_mode: outcome.launch_mode.map_or(String::new(), |mode| mode.to_string()),
            problem: of_point.problem,
            matrix_flops_model: of_point.matrix_flops_model,
            vector_flops_model: of_point.vector_flops_model,
            bytes_read_model: of_point.bytes_read_model,
            bytes_written_model: of_point.bytes_written_model,
            experts_touched_model: of_point.experts_touched_model,
            bytes_read_bound_model: of_point.bytes_read_bound_model,
            bytes_read_expected_model: of_point.bytes_read_expected_model,
            slots: rotation.map(|r| r.slots as u64),
            footprint_bytes: rotation.map(|r| r.footprint_bytes),
            reuse_distance_bytes: rotation.map(|r| r.reuse_distance_bytes),
            residency: rotation
                .map_or(String::new(), |r| r.residency(&point.problem, info).to_string()),
            grid: kernel.grid,
            block: kernel.block,
            registers: compiled.then_some(kernel.registers),
            spill_bytes: compiled.then_some(kernel.spill_bytes),
            shared_bytes_per_block: compiled.then_some(kernel.shared_bytes),
            blocks_per_sm: compiled.then_some(kernel.blocks_per_sm),
            code_hash: kernel.code_hash,
            timer: info.timer.clone(),
            repro_command: format!(
                "ridgepoint measure --device {} --seed {} --point '{point}'{}",
                info.backend,
                self.seed,
                tuning_option(outcome, info)
            ),
            implementation: outcome
                .implementation
                .clone()
                .unwrap_or_else(own_implementation),
            ..outcome_columns(outcome, rounds)
        }
    }

    /// The row of a round that was measured; `None` where there is no time.
    pub(super) fn round_row(
        &self,
        scheduled: &Scheduled,
        outcome: &PointOutcome,
        circumstances: Circumstances,
        reports: Reports,
    ) -> Option<RoundRow> {
        let median = outcome.summary.filter(|_| outcome.status.has_time())?.median;
        let clocks: Vec<f64> =
            outcome.samples.iter().filter_map(|s| s.sm_clock_hz).collect();
        Some(RoundRow {
            run_id: self.run_id.to_owned(),
            point_id: scheduled.point.id(),
            repeat: scheduled.repeat,
            round: scheduled.round,
            disturbed: !reports.disturbed_by.is_empty(),
            started_utc: circumstances.started_utc,
            since_start_s: circumstances.since_start_s,
            launches_per_sample: outcome.launches as u64,
            n_samples: outcome.samples.len() as u64,
            time_s_median: median.value,
            time_s_ci_lo: median.lo,
            time_s_ci_hi: median.hi,
            sm_clock_hz_median: (!clocks.is_empty()).then(|| statistics::median(&clocks)),
            other_cpu_share: circumstances.other_cpu_share,
            setup_s: outcome.durations.setup_s,
            check_s: outcome.durations.check_s,
            warmup_s: outcome.durations.warmup_s,
            sample_s: outcome.durations.sample_s,
            precise: outcome.status == Status::Ok,
            launch_overhead_s: circumstances.probes.fixed.launch_s,
            timer_quantum_s: circumstances.probes.fixed.timer_quantum_s,
            compute_probe_s: circumstances.probes.compute_s,
            temperature_c: reports.telemetry.temperature_c,
            disturbed_by: reports.disturbed_by,
            power_w: reports.telemetry.power_w,
            memory_clock_hz: reports.telemetry.memory_clock_hz,
            clock_limits: ClockLimit::spell(&reports.telemetry.clock_limits),
            probe_s: circumstances.probes.seconds,
            release_s: outcome.durations.release_s,
        })
    }

    pub(super) fn sample_rows(
        &self,
        scheduled: &Scheduled,
        outcome: &PointOutcome,
        (started_s, looks): (f64, &Looks<'_>),
    ) -> Vec<SampleRow> {
        let row = |(index, sample): (usize, &Sample)| {
            // When it ended.
            let since_start_s = started_s + sample.since_point_s;
            SampleRow {
                run_id: self.run_id.to_owned(),
                point_id: scheduled.point.id(),
                repeat: scheduled.repeat,
                sample_index: index as u32,
                first_slot: sample.first_slot as u64,
                launches: sample.launches as u64,
                elapsed_s: sample.elapsed_s,
                sm_clock_hz: sample.sm_clock_hz,
                since_start_s,
                round: scheduled.round,
                ..looks.during((since_start_s - sample.elapsed_s, since_start_s))
            }
        };
        outcome.samples.iter().enumerate().map(row).collect()
    }
}

/// The columns of a row that come from the measurement alone: of a point that could not be
/// measured from its last outcome, of others from its rounds.
fn outcome_columns(outcome: &PointOutcome, rounds: &Rounds<'_>) -> Row {
    let check = outcome.check.as_ref();
    let mut row = rounds.columns();
    if !outcome.status.has_time() || row.status.is_none() {
        row.status = Some(outcome.status);
        row.reason = outcome.reason.clone();
    }
    let chosen = outcome.chosen.as_ref();
    Row {
        bytes_extra: outcome.bytes_extra,
        check: check.map_or("none", |c| c.verdict.name()).to_owned(),
        energy_per_launch_j: outcome.energy_per_launch_j,
        configuration: chosen.map_or(String::new(), |c| c.configuration.clone()),
        configuration_from: chosen.map_or(String::new(), |c| c.by.name().to_owned()),
        max_abs_err: check.map(|c| c.max_abs_err).filter(|e| e.is_finite()),
        max_rel_err: check.map(|c| c.max_rel_err).filter(|e| e.is_finite()),
        ..row
    }
}

/// The provenance of this process.
pub(super) fn provenance(
    info: &DeviceInfo,
    suite: &Suite,
    seed: u64,
    command_line: &str,
) -> Run {
    let of_process = process_columns(command_line);
    let mut run = Run::default();
    let copy = |run: &mut Run, columns: &[&str]| {
        for column in columns {
            run.set(column, of_process.get(column).unwrap_or_default());
        }
    };
    copy(&mut run, &["schema_version", "run_id", "started_utc", "command_line"]);
    run.set("suite", &suite.name);
    run.set("suite_hash", short_hash(&suite.text));
    run.set("seed", seed);
    run.set("disturbed_share", suite.settings.disturbed_share);
    copy(&mut run, &["protocol", "harness_version", "git_sha", "git_dirty", "rustc"]);
    copy(&mut run, &["build_profile", "os", "arch", "host_hash"]);
    run.set("device", &info.name);
    run.set("device_kind", info.kind.name());
    run.set("backend", &info.backend);
    run.set("caches", spell_caches(&info.caches));
    run.set("memory_bytes", info.memory_bytes);
    run.set("timer", &info.timer);
    run.set("timer_quantum_s", info.timer_quantum_s);
    run.set("launch_overhead_s", info.launch_overhead_s);
    for (name, value) in &info.facts {
        run.set(name, value);
    }
    // Of processes that measure other libraries' kernels.
    run.set("peers", "");
    run.set("planned_peer_rows", "");
    run.set("peer_clocks", "");
    run
}

fn short_hash(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..12].to_owned()
}

/// The columns of `run.csv` that are of the process and the program, not of a device or a
/// suite.
pub(super) fn process_columns(command_line: &str) -> Run {
    let started = jiff::Timestamp::now();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let unique = format!("{}-{}-{host}", nanos_now(), std::process::id());
    let mut run = Run::default();
    run.set("schema_version", SCHEMA_VERSION);
    run.set("run_id", short_hash(&unique));
    run.set("started_utc", format!("{started:.0}"));
    run.set("command_line", command_line);
    run.set("protocol", PROTOCOL);
    run.set("harness_version", env!("CARGO_PKG_VERSION"));
    run.set("git_sha", env!("RIDGEPOINT_GIT_SHA"));
    run.set("git_dirty", env!("RIDGEPOINT_GIT_DIRTY"));
    run.set("rustc", env!("RIDGEPOINT_RUSTC"));
    run.set("build_profile", if cfg!(debug_assertions) { "debug" } else { "release" });
    run.set("os", std::env::consts::OS);
    run.set("arch", std::env::consts::ARCH);
    run.set("host_hash", short_hash(&host));
    run
}

pub(super) fn nanos_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64
}
