//! What a campaign writes: a row and samples for each point, and the provenance of
//! its process.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::device::DeviceInfo;
use crate::measure::{PointOutcome, Sample};
use crate::point::{PROTOCOL, Point};
use crate::record::{Row, Run, SCHEMA_VERSION, SampleRow};
use crate::residency::spell_caches;
use crate::statistics;
use crate::suite::Suite;

/// One entry of the order in which points are measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// What to measure.
    pub point: Point,
    /// 0 for a planned point; the sentinel's repeats count up from there.
    pub repeat: u32,
}

/// What a campaign's rows have in common.
pub(super) struct RowAuthor<'a> {
    pub info: &'a DeviceInfo,
    pub suite: &'a Suite,
    pub seed: u64,
    pub run_id: &'a str,
}

impl RowAuthor<'_> {
    pub(super) fn row(
        &self,
        scheduled: &Scheduled,
        order_index: usize,
        outcome: &PointOutcome,
    ) -> Row {
        let point = &scheduled.point;
        let info = self.info;
        let (work, routed) = (point.problem.work(), point.problem.routed());
        let rotation = outcome.rotation;
        let kernel = outcome.kernel.clone().unwrap_or_default();
        let compiled = outcome.kernel.is_some();
        Row {
            run_id: self.run_id.to_owned(),
            point_id: point.id(),
            repeat: scheduled.repeat,
            order_index: order_index as u32,
            suite: self.suite.name.clone(),
            device: info.name.clone(),
            device_kind: info.kind.name().to_owned(),
            op: point.problem.op().to_string(),
            kernel: point.kernel.to_string(),
            cache_state: point.cache.to_string(),
            problem: point.problem.to_string(),
            matrix_flops_model: work.matrix_flops(),
            vector_flops_model: work.vector_flops(),
            bytes_read_model: work.bytes_read(),
            bytes_written_model: work.bytes_written(),
            experts_touched_model: routed.map(|r| r.experts_touched),
            bytes_read_bound_model: routed.map(|r| r.bytes_read_bound),
            bytes_read_expected_model: routed.map(|r| r.bytes_read_expected),
            slots: rotation.map(|r| r.slots as u64),
            footprint_bytes: rotation.map(|r| r.footprint_bytes),
            reuse_distance_bytes: rotation.map(|r| r.reuse_distance_bytes),
            residency: rotation.map_or(String::new(), |r| r.residency(info).to_string()),
            grid: kernel.grid,
            block: kernel.block,
            registers: compiled.then_some(kernel.registers),
            spill_bytes: compiled.then_some(kernel.spill_bytes),
            shared_bytes_per_block: compiled.then_some(kernel.shared_bytes),
            blocks_per_sm: compiled.then_some(kernel.blocks_per_sm),
            code_hash: kernel.code_hash,
            timer: info.timer.clone(),
            repro_command: format!(
                "ridgepoint measure --device {} --seed {} --point '{point}'",
                info.backend, self.seed
            ),
            ..measured_columns(outcome)
        }
    }

    pub(super) fn sample_rows(
        &self,
        scheduled: &Scheduled,
        outcome: &PointOutcome,
        started_s: f64,
    ) -> Vec<SampleRow> {
        let row = |(index, sample): (usize, &Sample)| SampleRow {
            run_id: self.run_id.to_owned(),
            point_id: scheduled.point.id(),
            repeat: scheduled.repeat,
            sample_index: index as u32,
            first_slot: sample.first_slot as u64,
            launches: sample.launches as u64,
            elapsed_s: sample.elapsed_s,
            sm_clock_hz: sample.sm_clock_hz,
            since_start_s: started_s + sample.since_point_s,
        };
        outcome.samples.iter().enumerate().map(row).collect()
    }
}

/// The columns of a row that come from the measurement alone.
fn measured_columns(outcome: &PointOutcome) -> Row {
    let summary = outcome.summary;
    let median = summary.map(|s| s.median);
    let percentile = |i: usize| summary.map(|s| s.percentiles[i]);
    let check = outcome.check.as_ref();
    let clocks: Vec<f64> = outcome.samples.iter().filter_map(|s| s.sm_clock_hz).collect();
    Row {
        status: Some(outcome.status),
        reason: outcome.reason.clone(),
        bytes_extra: outcome.bytes_extra,
        launches_per_sample: (outcome.launches > 0).then_some(outcome.launches as u64),
        n_samples: outcome.samples.len() as u64,
        time_s_median: median.map(|m| m.value),
        time_s_ci_lo: median.map(|m| m.lo),
        time_s_ci_hi: median.map(|m| m.hi),
        time_s_mean: summary.map(|s| s.mean),
        time_s_sd: summary.map(|s| s.sd),
        time_s_min: summary.map(|s| s.min),
        time_s_p05: percentile(0),
        time_s_p25: percentile(1),
        time_s_p75: percentile(2),
        time_s_p95: percentile(3),
        sm_clock_hz_median: (!clocks.is_empty()).then(|| statistics::median(&clocks)),
        check: check.map_or("none", |c| c.verdict.name()).to_owned(),
        max_abs_err: check.map(|c| c.max_abs_err).filter(|e| e.is_finite()),
        max_rel_err: check.map(|c| c.max_rel_err).filter(|e| e.is_finite()),
        setup_s: outcome.durations.setup_s,
        check_s: outcome.durations.check_s,
        warmup_s: outcome.durations.warmup_s,
        sample_s: outcome.durations.sample_s,
        ..Row::default()
    }
}

/// The provenance of this process.
pub(super) fn provenance(
    info: &DeviceInfo,
    suite: &Suite,
    seed: u64,
    command_line: &str,
) -> Run {
    let started = jiff::Timestamp::now();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let unique = format!("{}-{}-{host}", nanos_now(), std::process::id());
    let short = |text: &str| blake3::hash(text.as_bytes()).to_hex()[..12].to_owned();
    let mut run = Run::default();
    run.set("schema_version", SCHEMA_VERSION);
    run.set("run_id", short(&unique));
    run.set("started_utc", format!("{started:.0}"));
    run.set("command_line", command_line);
    run.set("suite", &suite.name);
    run.set("suite_hash", short(&suite.text));
    run.set("seed", seed);
    run.set("protocol", PROTOCOL);
    run.set("harness_version", env!("CARGO_PKG_VERSION"));
    run.set("git_sha", env!("RIDGEPOINT_GIT_SHA"));
    run.set("git_dirty", env!("RIDGEPOINT_GIT_DIRTY"));
    run.set("rustc", env!("RIDGEPOINT_RUSTC"));
    run.set("build_profile", if cfg!(debug_assertions) { "debug" } else { "release" });
    run.set("os", std::env::consts::OS);
    run.set("arch", std::env::consts::ARCH);
    run.set("host_hash", short(&host));
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
    run
}

pub(super) fn nanos_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64
}
