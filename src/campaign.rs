//! A campaign: every point of a suite, in random order, measured and recorded
//! one by one, with the sentinel in between.

use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;

use crate::device::{Device, DeviceInfo};
use crate::host_load::HostLoad;
use crate::measure::{Durations, Outcome, Settings, measure};
use crate::point::{PROTOCOL, Point};
use crate::record::{Recorder, Records, Row, Run, SCHEMA_VERSION, SampleRow};
use crate::statistics;
use crate::suite::{Plan, Suite};

/// One entry of the order in which points are measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// What to measure.
    pub point: Point,
    /// 0 for a planned point; the sentinel's repeats count up from there.
    pub repeat: u32,
}

/// The order of a campaign: the points shuffled by `seed`, the sentinel first,
/// last and after every `sentinel_every` points. The same plan and seed give
/// the same order, so a resumed campaign goes on where it stopped.
pub fn schedule(plan: &Plan, seed: u64, sentinel_every: usize) -> Vec<Scheduled> {
    let mut points = plan.points.clone();
    points.shuffle(&mut Pcg64Mcg::seed_from_u64(seed));
    let Some(sentinel) = &plan.sentinel else {
        return points.into_iter().map(|point| Scheduled { point, repeat: 0 }).collect();
    };
    points.retain(|point| point != sentinel);
    let mut order = Vec::new();
    let mut repeats = (0..).map(|repeat| Scheduled { point: sentinel.clone(), repeat });
    for chunk in points.chunks(sentinel_every.max(1)) {
        order.extend(repeats.next());
        order.extend(chunk.iter().map(|p| Scheduled { point: p.clone(), repeat: 0 }));
    }
    order.extend(repeats.next());
    order
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Request {
    /// The suite; `None` to take the one of the campaign resumed.
    pub suite: Option<Suite>,
    /// Where to write; `None` for `results/<date>-<device>-<suite>`.
    pub out: Option<PathBuf>,
    /// A campaign to finish.
    pub resume: Option<PathBuf>,
    /// Seed of the order and the inputs; `None` for a new one.
    pub seed: Option<u64>,
    /// Seconds after which no further point is begun; the rest is left to a
    /// process that resumes.
    pub budget_s: Option<f64>,
    /// The command line, for provenance.
    pub command_line: String,
}

/// What a finished campaign did.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Its folder.
    pub folder: PathBuf,
    /// Rows written by this process.
    pub rows: usize,
    /// Rows that were there before.
    pub resumed_rows: usize,
    /// Rows that the time did not suffice for.
    pub rows_left: usize,
    /// Host seconds of this process's campaign, from the first point on.
    pub total_s: f64,
    /// The same by part.
    pub durations: Durations,
}

impl Summary {
    /// Share of the time spent outside warm-up, checks and samples, with
    /// `after_s` seconds of drawing and judging added to the campaign. `None`
    /// when nothing was measured.
    pub fn overhead(&self, after_s: f64) -> Option<f64> {
        let d = &self.durations;
        let useful_s = d.check_s + d.warmup_s + d.sample_s;
        (self.rows > 0).then(|| 1.0 - useful_s / (self.total_s + after_s))
    }
}

/// Told about every step, for progress bars.
pub trait Observer {
    /// The folder is known and `total` points are planned, `done` of them
    /// measured by an earlier process.
    fn begin(&mut self, folder: &Path, total: usize, done: usize);
    /// A point is about to be measured.
    fn start(&mut self, scheduled: &Scheduled);
    /// Its row is on disk.
    fn recorded(&mut self, row: &Row);
}

/// Observes nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn begin(&mut self, _: &Path, _: usize, _: usize) {}
    fn start(&mut self, _: &Scheduled) {}
    fn recorded(&mut self, _: &Row) {}
}

/// Runs a campaign to its end, or finishes one that was interrupted.
///
/// # Errors
/// A mistake in the suite, a folder that cannot be written, a campaign to
/// resume that belongs to another device or suite. What happens to a single
/// point is a row, not an error.
pub fn run(
    device: &mut dyn Device,
    request: &Request,
    observer: &mut dyn Observer,
) -> Result<Summary> {
    let earlier = request.resume.as_deref().map(Earlier::read).transpose()?;
    let (suite, seed) = match (&earlier, &request.suite) {
        (Some(earlier), asked) => earlier.go_on(asked.as_ref(), request.seed)?,
        (None, Some(suite)) => (suite.clone(), request.seed.unwrap_or_else(new_seed)),
        (None, None) => bail!("name a suite to measure, or a folder to resume"),
    };
    let plan = suite.plan(device)?;
    let order = schedule(&plan, seed, suite.settings.sentinel_every);
    let mut run = provenance(device.info(), &suite, seed, &request.command_line);
    run.set("planned_rows", order.len());
    run.set("plan_hash", plan_hash(&order));
    if let Some(earlier) = &earlier {
        earlier.agree(&run)?;
    }
    let recorder = match &request.resume {
        Some(folder) => Recorder::resume(folder, &run)?,
        None => {
            let wanted = request.out.clone().unwrap_or_else(|| {
                default_folder(Path::new("results"), device.info(), &suite.name)
            });
            if request.out.is_some() && wanted.exists() {
                bail!(
                    "{} exists and is never overwritten; finish it with `--resume {}`, or \
                     give another folder",
                    wanted.display(),
                    wanted.display()
                );
            }
            Recorder::create(&wanted, &run, &suite.text)?
        }
    };
    let budget_s = request.budget_s.unwrap_or(f64::INFINITY);
    Runner { device, suite: &suite, seed, recorder, began: Instant::now(), budget_s }
        .run(&order, observer)
}

/// `<date>-<device>-<suite>` in `parent`.
pub fn default_folder(parent: &Path, info: &DeviceInfo, suite: &str) -> PathBuf {
    let date = jiff::Zoned::now().date();
    parent.join(format!("{date}-{}-{suite}", info.slug))
}

/// A campaign on disk that is to be finished.
struct Earlier {
    folder: PathBuf,
    suite: Suite,
    run: Run,
}

impl Earlier {
    fn read(folder: &Path) -> Result<Self> {
        let records = Records::read(folder)?;
        let run = records.runs.into_iter().next();
        Ok(Earlier {
            folder: folder.to_owned(),
            suite: Suite::load_file(&folder.join("suite.toml"))?,
            run: run.with_context(|| format!("{} has no run", folder.display()))?,
        })
    }

    /// The suite and seed to go on with.
    fn go_on(&self, asked: Option<&Suite>, seed: Option<u64>) -> Result<(Suite, u64)> {
        let folder = self.folder.display();
        if asked.is_some_and(|suite| suite.text != self.suite.text) {
            bail!(
                "{folder} was begun with another text of its suite; leave the suite out, or \
                 start anew"
            );
        }
        let recorded: u64 = self
            .run
            .get("seed")
            .and_then(|s| s.parse().ok())
            .with_context(|| format!("{folder}/run.csv has no seed"))?;
        if seed.is_some_and(|seed| seed != recorded) {
            bail!("{folder} was begun with seed {recorded}; leave --seed out");
        }
        Ok((self.suite.clone(), recorded))
    }

    /// Refuses to go on where rows would not belong together.
    fn agree(&self, run: &Run) -> Result<()> {
        for name in ["schema_version", "protocol", "device", "caches", "plan_hash"] {
            let value = |run: &Run| run.get(name).unwrap_or_default().to_owned();
            let (was, is) = (value(&self.run), value(run));
            if was != is {
                bail!(
                    "{} was begun with {name} = `{was}`, now it is `{is}`; its rows would not \
                     belong together, so start anew",
                    self.folder.display()
                );
            }
        }
        Ok(())
    }
}

/// Which points in which order: what a resumed campaign must share with the
/// one it finishes. Sizes in caches make it depend on the machine.
fn plan_hash(order: &[Scheduled]) -> String {
    let ids: Vec<String> = order.iter().map(|s| s.point.id()).collect();
    blake3::hash(ids.concat().as_bytes()).to_hex()[..12].to_owned()
}

struct Runner<'a> {
    device: &'a mut dyn Device,
    suite: &'a Suite,
    seed: u64,
    recorder: Recorder,
    began: Instant,
    budget_s: f64,
}

impl Runner<'_> {
    fn run(mut self, order: &[Scheduled], observer: &mut dyn Observer) -> Result<Summary> {
        let is_done = |r: &Recorder, s: &Scheduled| r.has(&s.point.id(), s.repeat);
        let done = order.iter().filter(|s| is_done(&self.recorder, s)).count();
        observer.begin(self.recorder.folder(), order.len(), done);
        let mut durations = Durations::default();
        let mut rows = 0;
        for (order_index, scheduled) in order.iter().enumerate() {
            if is_done(&self.recorder, scheduled) {
                continue;
            }
            if self.began.elapsed().as_secs_f64() > self.budget_s {
                break;
            }
            observer.start(scheduled);
            let started_s = self.began.elapsed().as_secs_f64();
            let started_utc = jiff::Timestamp::now();
            let load = HostLoad::now();
            let outcome = self.measure(&scheduled.point);
            let mut row = self.row(scheduled, order_index, &outcome);
            row.other_cpu_share =
                HostLoad::now().zip(load).and_then(|(b, a)| b.others_since(&a));
            row.started_utc = format!("{started_utc:.3}");
            let samples = self.sample_rows(scheduled, &outcome, started_s);
            self.recorder.record(&row, &samples)?;
            observer.recorded(&row);
            add(&mut durations, &outcome.durations);
            rows += 1;
            if let Some(why) = self.device.lost() {
                let folder = self.recorder.folder().display();
                bail!(
                    "{} cannot be used any more after {}: {why}. What was measured is safe; \
                     `ridgepoint measure --resume {folder}` goes on behind this point",
                    self.device.info().name,
                    scheduled.point
                );
            }
        }
        Ok(Summary {
            folder: self.recorder.folder().to_owned(),
            rows,
            resumed_rows: done,
            rows_left: order.len() - done - rows,
            total_s: self.began.elapsed().as_secs_f64(),
            durations,
        })
    }

    /// Measures a point. A kernel that panics costs its own row only.
    fn measure(&mut self, point: &Point) -> Outcome {
        let settings: &Settings = &self.suite.settings;
        let device = &mut *self.device;
        let seed = self.seed;
        let attempt = AssertUnwindSafe(|| measure(device, point, settings, seed));
        panic::catch_unwind(attempt).unwrap_or_else(|payload| {
            let text = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied());
            Outcome::failed(format!(
                "kernel {} panicked: {}; this is a bug, please report it",
                point.kernel,
                text.unwrap_or("no message")
            ))
        })
    }

    fn row(&self, scheduled: &Scheduled, order_index: usize, outcome: &Outcome) -> Row {
        let point = &scheduled.point;
        let info = self.device.info();
        let (work, routed) = (point.problem.work(), point.problem.routed());
        let summary = outcome.summary;
        let median = summary.map(|s| s.median);
        let percentile = |i: usize| summary.map(|s| s.percentiles[i]);
        let rotation = outcome.rotation;
        let check = outcome.check.as_ref();
        let kernel = outcome.kernel.as_ref();
        let clocks: Vec<f64> =
            outcome.samples.iter().filter_map(|s| s.sm_clock_hz).collect();
        Row {
            run_id: self.recorder.run_id().to_owned(),
            point_id: point.id(),
            repeat: scheduled.repeat,
            order_index: order_index as u32,
            suite: self.suite.name.clone(),
            device: info.name.clone(),
            device_kind: info.kind.name().to_owned(),
            op: point.problem.op().to_string(),
            kernel: point.kernel.clone(),
            cache_state: point.cache.to_string(),
            status: Some(outcome.status),
            reason: outcome.reason.clone(),
            problem: point.problem.to_string(),
            matrix_flops_model: work.matrix_flops,
            vector_flops_model: work.vector_flops,
            bytes_read_model: work.bytes_read,
            bytes_written_model: work.bytes_written,
            experts_touched_model: routed.map(|r| r.experts_touched),
            bytes_read_bound_model: routed.map(|r| r.bytes_read_bound),
            bytes_read_expected_model: routed.map(|r| r.bytes_read_expected),
            bytes_extra: outcome.bytes_extra,
            slots: rotation.map(|r| r.slots as u64),
            footprint_bytes: rotation.map(|r| r.footprint_bytes),
            reuse_distance_bytes: rotation.map(|r| r.reuse_distance_bytes),
            residency: rotation.map(|r| r.residency(info)).unwrap_or_default(),
            grid: kernel.map(|k| k.grid.clone()).unwrap_or_default(),
            block: kernel.map(|k| k.block.clone()).unwrap_or_default(),
            registers: kernel.map(|k| k.registers),
            spill_bytes: kernel.map(|k| k.spill_bytes),
            shared_bytes_per_block: kernel.map(|k| k.shared_bytes),
            blocks_per_sm: kernel.map(|k| k.blocks_per_sm),
            code_hash: kernel.map(|k| k.code_hash.clone()).unwrap_or_default(),
            timer: info.timer.clone(),
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
            other_cpu_share: None,
            started_utc: String::new(),
            setup_s: outcome.durations.setup_s,
            check_s: outcome.durations.check_s,
            warmup_s: outcome.durations.warmup_s,
            sample_s: outcome.durations.sample_s,
            repro_command: format!(
                "ridgepoint measure --device {} --seed {} --point '{point}'",
                info.backend, self.seed
            ),
        }
    }

    fn sample_rows(
        &self,
        scheduled: &Scheduled,
        outcome: &Outcome,
        started_s: f64,
    ) -> Vec<SampleRow> {
        let row = |(index, sample): (usize, &crate::measure::Sample)| SampleRow {
            run_id: self.recorder.run_id().to_owned(),
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

fn add(sum: &mut Durations, d: &Durations) {
    sum.setup_s += d.setup_s;
    sum.check_s += d.check_s;
    sum.warmup_s += d.warmup_s;
    sum.sample_s += d.sample_s;
}

fn nanos_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64
}

/// A seed that differs from run to run. It is recorded, so it need not be more.
fn new_seed() -> u64 {
    u64::from(u32::from_le_bytes(hash(&nanos_now().to_le_bytes())))
}

fn hash(bytes: &[u8]) -> [u8; 4] {
    let hash = blake3::hash(bytes);
    [0, 1, 2, 3].map(|i| hash.as_bytes()[i])
}

/// The provenance of this process.
fn provenance(info: &DeviceInfo, suite: &Suite, seed: u64, command_line: &str) -> Run {
    let started = jiff::Timestamp::now();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let unique = format!("{}-{}-{host}", nanos_now(), std::process::id());
    let caches: Vec<String> =
        info.caches.iter().map(|c| format!("{}={}", c.name, c.bytes)).collect();
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
    run.set("caches", caches.join(";"));
    run.set("memory_bytes", info.memory_bytes);
    run.set("timer", &info.timer);
    run.set("timer_quantum_s", info.timer_quantum_s);
    run.set("launch_overhead_s", info.launch_overhead_s);
    for (name, value) in &info.facts {
        run.set(name, value);
    }
    run
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Campaign;
    use crate::device::simulated::{Fault, SimulatedDevice};
    use crate::model::machine::Machines;
    use crate::record::Status;
    use crate::verdict::judge;
    use proptest::prelude::*;

    const SUITE: &str = r#"
name = "tiny"
[protocol]
warmup_s = 0.001
min_samples = 3
min_sample_s = 0.001
max_sample_s = 0.01
sentinel_every = 2
[sentinel]
op = "stream"
access = "read"
bytes = "64 KiB"
cache = "hot"
[[points]]
op = "stream"
access = ["read", "copy"]
bytes = ["64 KiB", "4 MiB"]
cache = "hot"
[[points]]
op = "gemm"
m = [1, 4]
n = 8
k = 16
dtype = "f32"
"#;

    fn request(dir: &Path) -> Request {
        Request {
            suite: Some(Suite::parse("tiny.toml", SUITE).unwrap()),
            out: Some(dir.join("campaign")),
            resume: None,
            seed: Some(5),
            budget_s: None,
            command_line: "test".into(),
        }
    }

    fn resume(folder: &Path) -> Request {
        Request {
            suite: None,
            out: None,
            resume: Some(folder.to_owned()),
            seed: None,
            budget_s: None,
            command_line: "test".into(),
        }
    }

    fn start(dir: &Path, device: &mut SimulatedDevice) -> Summary {
        run(device, &request(dir), &mut Silent).unwrap()
    }

    fn load(folder: &Path) -> Campaign {
        Campaign::load(folder, &Machines::default()).unwrap()
    }

    fn statuses(folder: &Path) -> Vec<Status> {
        Records::read(folder).unwrap().rows.iter().filter_map(|r| r.status).collect()
    }

    #[test]
    fn every_planned_point_has_a_row_and_the_sentinel_its_repeats() {
        let dir = tempfile::tempdir().unwrap();
        let summary = start(dir.path(), &mut SimulatedDevice::default());
        // Five points besides the sentinel, which comes after every two.
        assert_eq!((summary.rows, summary.resumed_rows), (5 + 4, 0));
        let campaign = load(&summary.folder);
        assert_eq!(campaign.points.len(), 6);
        assert_eq!(campaign.sentinel.as_ref().unwrap().times_s.len(), 4);
        let skipped =
            statuses(&summary.folder).iter().filter(|s| **s == Status::Skipped).count();
        assert_eq!(skipped, 2, "the device cannot copy");
        assert!(campaign.is_simulated());
        assert!(judge(&campaign).is_valid());
    }

    #[test]
    fn rows_carry_what_it_takes_to_repeat_them() {
        let dir = tempfile::tempdir().unwrap();
        let summary = start(dir.path(), &mut SimulatedDevice::default());
        for row in Records::read(&summary.folder).unwrap().rows {
            let (_, point) = row.repro_command.split_once("--point '").unwrap();
            let point = point.strip_suffix('\'').unwrap();
            assert_eq!(point.parse::<Point>().unwrap().id(), row.point_id);
            assert!(row.repro_command.contains("--seed 5"));
        }
    }

    #[test]
    fn a_campaign_cut_after_any_row_is_finished_without_loss() {
        let dir = tempfile::tempdir().unwrap();
        let whole = start(dir.path(), &mut SimulatedDevice::default());
        let all = Records::read(&whole.folder).unwrap().rows;
        for kept in 0..all.len() {
            let dir = tempfile::tempdir().unwrap();
            let folder = start(dir.path(), &mut SimulatedDevice::default()).folder;
            let path = folder.join("results.csv");
            let text = std::fs::read_to_string(&path).unwrap();
            let cut: String =
                text.lines().take(kept + 1).map(|l| format!("{l}\n")).collect();
            std::fs::write(&path, cut).unwrap();
            let before = load(&folder);
            assert!(!judge(&before).is_valid(), "{kept} rows are not all");
            let summary =
                run(&mut SimulatedDevice::default(), &resume(&folder), &mut Silent)
                    .unwrap();
            assert_eq!((summary.rows, summary.resumed_rows), (all.len() - kept, kept));
            let keys = |rows: &[Row]| rows.iter().map(Row::key).collect::<Vec<_>>();
            assert_eq!(keys(&Records::read(&folder).unwrap().rows), keys(&all));
        }
    }

    #[test]
    fn a_campaign_out_of_time_is_finished_by_resuming() {
        let dir = tempfile::tempdir().unwrap();
        // Less than one point takes, so exactly one is begun.
        let short = Request { budget_s: Some(1e-9), ..request(dir.path()) };
        let first = run(&mut SimulatedDevice::default(), &short, &mut Silent).unwrap();
        assert!(first.rows_left > 0 && first.rows + first.rows_left == 9, "{first:?}");
        let rest =
            run(&mut SimulatedDevice::default(), &resume(&first.folder), &mut Silent)
                .unwrap();
        assert_eq!((rest.rows + rest.resumed_rows, rest.rows_left), (9, 0));
    }

    #[test]
    fn a_finished_campaign_resumes_to_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folder = start(dir.path(), &mut SimulatedDevice::default()).folder;
        let summary =
            run(&mut SimulatedDevice::default(), &resume(&folder), &mut Silent).unwrap();
        assert_eq!((summary.rows, summary.overhead(0.0)), (0, None));
    }

    #[test]
    fn overhead_is_what_is_neither_warm_up_nor_check_nor_sample() {
        let summary = Summary {
            folder: PathBuf::new(),
            rows: 1,
            resumed_rows: 0,
            rows_left: 0,
            total_s: 9.0,
            durations: Durations {
                setup_s: 1.0,
                check_s: 2.0,
                warmup_s: 3.0,
                sample_s: 3.0,
            },
        };
        assert!((summary.overhead(1.0).unwrap() - 0.2).abs() < 1e-12);
    }

    #[test]
    fn faults_are_rows_and_make_the_run_invalid() {
        for (fault, status) in [
            (Fault::Panics, Status::Failed),
            (Fault::LaunchFails, Status::Failed),
            (Fault::WrongOutput, Status::Wrong),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut device =
                SimulatedDevice { fault: Some((fault, 0)), ..Default::default() };
            let summary = start(dir.path(), &mut device);
            assert_eq!(summary.rows, 9);
            assert_eq!(
                statuses(&summary.folder).iter().filter(|s| **s == status).count(),
                7
            );
            let verdict = judge(&load(&summary.folder));
            assert!(!verdict.is_valid());
        }
    }

    #[test]
    fn a_resume_that_does_not_fit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = start(dir.path(), &mut SimulatedDevice::default()).folder;
        let refused = |device: &mut SimulatedDevice, request: Request| {
            run(device, &request, &mut Silent).unwrap_err().to_string()
        };
        let mut other = SimulatedDevice::default();
        other.info.name = "Another".into();
        assert!(
            refused(&mut other, resume(&folder)).contains("device = `Simulated Device`")
        );
        let mut grown = SimulatedDevice::default();
        grown.info.caches[0].bytes *= 2;
        assert!(refused(&mut grown, resume(&folder)).contains("caches"));
        let device = &mut SimulatedDevice::default();
        let seeded = Request { seed: Some(6), ..resume(&folder) };
        assert!(refused(device, seeded).contains("seed 5"));
        let suite = Suite::parse("x.toml", &SUITE.replace("[1, 4]", "2")).unwrap();
        let other_suite = Request { suite: Some(suite), ..resume(&folder) };
        assert!(refused(device, other_suite).contains("another text"));
        assert!(refused(device, request(dir.path())).contains("never overwritten"));
        assert!(refused(device, resume(dir.path())).contains("run.csv"));
    }

    fn plan(points: u64, sentinel: Option<u64>) -> Plan {
        let point =
            |n| format!("gemm:m={n},n=1,k=1,dtype=f32@x@cold").parse::<Point>().unwrap();
        Plan { points: (1..=points).map(point).collect(), sentinel: sentinel.map(point) }
    }

    proptest! {
        #[test]
        fn schedules_hold_every_point_once_and_the_sentinel_in_between(
            points in 1u64..40,
            sentinel in prop::option::of(1u64..60),
            seed: u64,
            every in 1usize..10,
        ) {
            let plan = plan(points, sentinel);
            let order = schedule(&plan, seed, every);
            let mut keys: Vec<_> = order.iter().map(|s| (s.point.id(), s.repeat)).collect();
            keys.sort();
            keys.dedup();
            prop_assert_eq!(keys.len(), order.len(), "a key twice");
            for point in &plan.points {
                let first = |s: &&Scheduled| s.point == *point && s.repeat == 0;
                prop_assert_eq!(order.iter().filter(first).count(), 1);
            }
            if let Some(sentinel) = &plan.sentinel {
                prop_assert_eq!(&order[0].point, sentinel);
                prop_assert_eq!(&order[order.len() - 1].point, sentinel);
                let is_other = |s: &&Scheduled| s.point != *sentinel;
                for run in order.split(|s| s.point == *sentinel) {
                    prop_assert!(run.iter().filter(is_other).count() <= every);
                }
            }
            prop_assert_eq!(schedule(&plan, seed, every), order);
        }
    }

    #[test]
    fn seeds_shuffle_differently() {
        let plan = plan(30, None);
        assert_ne!(schedule(&plan, 1, 8), schedule(&plan, 2, 8));
        assert_ne!(schedule(&plan, 1, 8)[0].point, schedule(&plan, 3, 8)[0].point);
    }
}
