//! Campaigns on the simulated device, cut and finished.

use std::collections::BTreeSet;
use std::fs;

use super::*;
use crate::analysis::Campaign;
use crate::device::simulated::{Fault, SimulatedDevice};
use crate::device::{ClockLimit, Look, Telemetry};
use crate::kernel::Configuration;
use crate::model::machine::Machines;
use crate::point::Point;
use crate::record::{Records, SampleRow, Status};
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
rounds = 1
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
        given_up: None,
        process: Process::ALONE,
        command_line: "test".into(),
        tuning: None,
    }
}

fn resume(folder: &Path) -> Request {
    Request {
        suite: None,
        out: None,
        resume: Some(folder.to_owned()),
        seed: None,
        budget_s: None,
        given_up: None,
        process: Process::ALONE,
        command_line: "test".into(),
        tuning: None,
    }
}

fn start(dir: &Path, device: &mut SimulatedDevice) -> CampaignSummary {
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

/// Holds that as many rounds are measured as are announced, in the plan and later.
#[derive(Default)]
struct Counting {
    announced: usize,
    measured: usize,
}

impl Observer for Counting {
    fn begin(&mut self, _: &Path, total: usize, done: usize) {
        self.announced = total - done;
    }

    fn start(&mut self, _: &Scheduled) {}

    fn measured(&mut self, _: &Scheduled, _: Option<&Row>) {
        self.measured += 1;
        assert!(self.measured <= self.announced, "{} of {}", self.measured, self.announced);
    }

    fn again(&mut self, rounds: usize) {
        self.announced += rounds;
    }
}

/// A device that is asked before and after every round; the campaign has two rounds.
fn reporting(dir: &Path, reports: fn(usize) -> Telemetry) -> Records {
    let mut device = SimulatedDevice { reports, ..SimulatedDevice::default() };
    // Without the copies, which this device skips.
    let text = SUITE.replace("rounds = 1", "rounds = 2").replace(r#", "copy"]"#, "]");
    let suite = Some(Suite::parse("tiny.toml", &text).unwrap());
    let request = Request { suite, ..request(dir) };
    let mut counting = Counting::default();
    let folder = run(&mut device, &request, &mut counting).unwrap().folder;
    assert_eq!(counting.measured, counting.announced);
    Records::read(&folder).unwrap()
}

#[test]
fn a_round_that_heat_slowed_down_is_measured_again() {
    let dir = tempfile::tempdir().unwrap();
    // The counter grows during the second round of the campaign and no other.
    let records = reporting(dir.path(), |asked| Telemetry {
        temperature_c: Some(40.0 + asked as f64),
        thermal_slowdown: Some(if asked < 3 { 7 } else { 9 }),
        ..Telemetry::default()
    });
    let disturbed: Vec<_> = records.rounds.iter().filter(|r| r.disturbed).collect();
    assert_eq!(disturbed.len(), 1);
    assert!(disturbed[0].disturbed_by.contains("heat"), "{}", disturbed[0].disturbed_by);
    assert_eq!(disturbed[0].temperature_c, Some(43.0));
    let key = disturbed[0].point_key();
    let of_point: Vec<_> = records.rounds.iter().filter(|r| r.point_key() == key).collect();
    assert_eq!(of_point.len(), 3, "two calm rounds and the disturbed one");
    let row = records.rows.iter().find(|row| row.key() == key).unwrap();
    let calm = of_point.iter().filter(|r| !r.disturbed);
    assert_eq!(row.n_samples, calm.map(|r| r.n_samples).sum::<u64>());
    assert!(row.status.unwrap().has_time());
}

#[test]
fn samples_say_what_the_device_was_seen_to_do_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    // The simulated device is done in a moment, and a look after each round is near.
    reporting(dir.path(), |asked| Telemetry {
        looks: vec![Look {
            at: Instant::now(),
            power_w: Some(600.0 + asked as f64),
            memory_clock_hz: Some(2.6e9),
            temperature_c: Some(55.0),
            clock_limits: [ClockLimit::Power].into(),
        }],
        ..Telemetry::default()
    });
    let folder = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let mut samples = csv::Reader::from_path(folder.join("samples.csv")).unwrap();
    let samples: Vec<SampleRow> = samples.deserialize().map(Result::unwrap).collect();
    let seen = samples.iter().filter_map(|sample| sample.power_w).collect::<Vec<_>>();
    assert!(seen.len() > 3, "{} of {} samples", seen.len(), samples.len());
    // The first look was before the first round.
    assert!(seen.iter().all(|power_w| *power_w > 600.0), "{seen:?}");
    let of_rounds: BTreeSet<u64> = seen.iter().map(|power_w| *power_w as u64).collect();
    assert!(of_rounds.len() > 3, "each round has a look of its own: {of_rounds:?}");
    for sample in samples.iter().filter(|sample| sample.power_w.is_some()) {
        assert_eq!(
            (sample.memory_clock_hz, sample.temperature_c),
            (Some(2.6e9), Some(55.0))
        );
        assert_eq!(sample.clock_limits, "power");
    }
}

#[test]
fn points_that_others_always_disturb_have_no_time_and_say_who_did() {
    let dir = tempfile::tempdir().unwrap();
    let records = reporting(dir.path(), |_| Telemetry {
        other_processes: vec![812],
        ..Telemetry::default()
    });
    assert!(records.rounds.iter().all(|round| round.disturbed));
    assert!(records.rows.len() > 3);
    for row in &records.rows {
        assert_eq!(row.status, Some(Status::Disturbed));
        assert!(
            row.reason.contains("processes 812 computed on the device"),
            "{}",
            row.reason
        );
    }
}

#[test]
fn points_that_heat_always_slows_down_are_throttled() {
    let dir = tempfile::tempdir().unwrap();
    let records = reporting(dir.path(), |asked| Telemetry {
        thermal_slowdown: Some(asked as u64),
        ..Telemetry::default()
    });
    assert!(records.rows.len() > 3);
    for row in &records.rows {
        assert_eq!(row.status, Some(Status::Throttled), "{}", row.reason);
        assert!(row.reason.contains("heat"), "{}", row.reason);
    }
}

#[test]
fn what_slowed_a_round_down_is_told_in_words() {
    let mut info = SimulatedDevice::default().info;
    let settings = Settings::default();
    let calm = Telemetry::default();
    let told = |info: &DeviceInfo, share| {
        rows::disturbed_by(info, &settings, Some(share), (&calm, &calm))
    };
    assert_eq!(told(&info, 0.5), "", "a GPU computes without the host");
    info.backend = "cpu".into();
    assert_eq!(told(&info, 0.04), "");
    assert_eq!(told(&info, 0.5), "others had 50% of the CPU");
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
        let cut: String = text.lines().take(kept + 1).map(|l| format!("{l}\n")).collect();
        std::fs::write(&path, cut).unwrap();
        let before = load(&folder);
        assert!(!judge(&before).is_valid(), "{kept} rows are not all");
        let summary =
            run(&mut SimulatedDevice::default(), &resume(&folder), &mut Silent).unwrap();
        assert_eq!((summary.rows, summary.resumed_rows), (all.len() - kept, kept));
        // A row that was lost after its rounds is written at the end.
        let keys = |rows: &[Row]| {
            let mut keys: Vec<_> = rows.iter().map(Row::key).collect();
            keys.sort();
            keys
        };
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
        run(&mut SimulatedDevice::default(), &resume(&first.folder), &mut Silent).unwrap();
    assert_eq!((rest.rows + rest.resumed_rows, rest.rows_left), (9, 0));
}

#[test]
fn a_finished_campaign_resumes_to_nothing_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = start(dir.path(), &mut SimulatedDevice::default()).folder;
    let files = ["run.csv", "results.csv", "samples.csv", "suite.toml"];
    let read = || files.map(|name| std::fs::read(folder.join(name)).unwrap());
    let before = read();
    let summary =
        run(&mut SimulatedDevice::default(), &resume(&folder), &mut Silent).unwrap();
    assert_eq!((summary.rows, summary.overhead(0.0)), (0, None));
    assert_eq!(read(), before);
}

/// Asks to stop once so many rows are recorded.
struct StopAfter(usize);

impl Observer for StopAfter {
    fn begin(&mut self, _: &Path, _: usize, _: usize) {}
    fn start(&mut self, _: &Scheduled) {}
    fn measured(&mut self, _: &Scheduled, row: Option<&Row>) {
        self.0 = self.0.saturating_sub(row.is_some().into());
    }
    fn should_stop(&self) -> bool {
        self.0 == 0
    }
}

#[test]
fn a_campaign_that_is_stopped_finishes_the_row_in_hand_and_is_resumed() {
    for rows in [0, 1, 4] {
        let dir = tempfile::tempdir().unwrap();
        let device = &mut SimulatedDevice::default();
        let first = run(device, &request(dir.path()), &mut StopAfter(rows)).unwrap();
        // What is still being checked when the campaign is stopped is recorded too.
        assert!(first.rows >= rows && first.rows + first.rows_left == 9, "{first:?}");
        let rows = first.rows;
        assert_eq!(Records::read(&first.folder).unwrap().rows.len(), rows);
        let rest = run(device, &resume(&first.folder), &mut Silent).unwrap();
        assert_eq!((rest.rows, rest.resumed_rows, rest.rows_left), (9 - rows, rows, 0));
        assert!(judge(&load(&first.folder)).is_valid());
    }
}

#[test]
fn overhead_is_what_is_neither_warm_up_nor_check_nor_sample() {
    let summary = CampaignSummary {
        folder: PathBuf::new(),
        rows: 1,
        resumed_rows: 0,
        rows_left: 0,
        total_s: 9.0,
        durations: Durations {
            setup_s: 0.5,
            check_s: 2.0,
            warmup_s: 3.0,
            sample_s: 3.0,
            release_s: 0.5,
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
        let mut device = SimulatedDevice { fault: Some((fault, 0)), ..Default::default() };
        let summary = start(dir.path(), &mut device);
        assert_eq!(summary.rows, 9);
        assert_eq!(statuses(&summary.folder).iter().filter(|s| **s == status).count(), 7);
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
    let facts = |threads: &str, simd: &str| {
        let mut device = SimulatedDevice::default();
        for (name, value) in [("threads", threads), ("simd", simd)] {
            device.info.facts.push((name.into(), value.into()));
        }
        device
    };
    let threaded = tempfile::tempdir().unwrap();
    let threaded = start(threaded.path(), &mut facts("2", "avx512")).folder;
    let mut other = SimulatedDevice::default();
    other.info.name = "Another".into();
    assert!(refused(&mut other, resume(&folder)).contains("device = `Simulated Device`"));
    let mut grown = SimulatedDevice::default();
    grown.info.caches[0].bytes *= 2;
    assert!(refused(&mut grown, resume(&folder)).contains("caches"));
    let both = refused(&mut facts("1", "avx2"), resume(&threaded));
    assert!(both.contains("threads = `2`, now it is `1`; with simd = `avx512`"), "{both}");
    run(&mut facts("2", "avx512"), &resume(&threaded), &mut Silent).unwrap();
    let device = &mut SimulatedDevice::default();
    let seeded = Request { seed: Some(6), ..resume(&folder) };
    assert!(refused(device, seeded).contains("seed 5"));
    let suite = Suite::parse("x.toml", &SUITE.replace("[1, 4]", "2")).unwrap();
    let other_suite = Request { suite: Some(suite), ..resume(&folder) };
    assert!(refused(device, other_suite).contains("another text"));
    assert!(refused(device, request(dir.path())).contains("never overwritten"));
    assert!(refused(device, resume(dir.path())).contains("run.csv"));
}

/// What `verdict` says of it is true: an empty `results.csv` is completed by resuming.
#[test]
fn a_campaign_whose_results_are_empty_is_finished_by_resuming() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = SimulatedDevice::default();
    let folder = run(&mut device, &in_rounds(dir.path()), &mut Silent).unwrap().folder;
    let keys = || {
        let mut keys: Vec<_> =
            Records::read(&folder).unwrap().rows.iter().map(Row::key).collect();
        keys.sort();
        keys
    };
    let before = keys();
    std::fs::write(folder.join("results.csv"), "").unwrap();
    let faults = judge(&load(&folder)).faults;
    assert!(faults.iter().any(|fault| fault.contains("measure --resume")), "{faults:?}");
    run(&mut device, &resume(&folder), &mut Silent).unwrap();
    assert_eq!(keys(), before);
    assert_eq!(judge(&load(&folder)).faults, [""; 0]);
}

fn settings(sentinel_every: usize, rounds: usize) -> Settings {
    Settings { sentinel_every, rounds, ..Settings::default() }
}

/// The tiny suite in three rounds.
fn in_rounds(dir: &Path) -> Request {
    let text = SUITE.replace("rounds = 1", "rounds = 3");
    Request { suite: Some(Suite::parse("tiny.toml", &text).unwrap()), ..request(dir) }
}

/// Three rounds of each point, spread over the campaign, one row, an interval from the
/// spread between them.
#[test]
fn rounds_are_recorded_and_make_one_row() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = SimulatedDevice { noise: 0.1, ..Default::default() };
    let summary = run(&mut device, &in_rounds(dir.path()), &mut Silent).unwrap();
    // 5 points in 3 rounds, and the sentinel after every two.
    assert_eq!((summary.rows, summary.rows_left), (5 + 9, 0));
    let records = Records::read(&summary.folder).unwrap();
    // The device cannot copy: those two points have no round.
    assert_eq!(records.rounds.len(), 3 * 3 + 9);
    let campaign = load(&summary.folder);
    let spread = campaign.repeatability.as_ref().unwrap();
    assert_eq!(spread.ranges.len(), 4, "the sentinel's repeats are its rounds");
    let gemm = campaign.points.iter().find(|p| p.problem.op() == crate::op::Op::Gemm);
    let gemm = gemm.unwrap();
    assert_eq!(gemm.round_medians_s.len(), 3);
    let of_gemm = records.rounds.iter().filter(|round| round.point_id == gemm.point_id);
    let starts: Vec<f64> = of_gemm.map(|round| round.since_start_s).collect();
    let others = records.rounds.iter().filter(|round| round.point_id != gemm.point_id);
    let between =
        others.filter(|r| starts[0] < r.since_start_s && r.since_start_s < starts[2]);
    assert!(between.count() >= 2, "rounds are spread");
    assert!(judge(&campaign).is_valid(), "{:?}", judge(&campaign).faults);
}

/// Cut after any round, the campaign is finished with every round measured once.
#[test]
fn a_campaign_cut_after_any_round_is_finished_without_loss() {
    let whole = tempfile::tempdir().unwrap();
    let device = SimulatedDevice::default;
    let folder = run(&mut device(), &in_rounds(whole.path()), &mut Silent).unwrap().folder;
    let keys = |folder: &Path| {
        let records = Records::read(folder).unwrap();
        let key = |r: &crate::record::RoundRow| (r.point_id.clone(), r.repeat, r.round);
        let mut rounds: Vec<_> = records.rounds.iter().map(key).collect();
        let mut rows: Vec<_> = records.rows.iter().map(Row::key).collect();
        rounds.sort();
        rows.sort();
        (rounds, rows)
    };
    let all = keys(&folder);
    let cut_to = |folder: &Path, name: &str, lines: usize| {
        let path = folder.join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        let cut: String = text.lines().take(lines + 1).map(|l| format!("{l}\n")).collect();
        std::fs::write(&path, cut).unwrap();
    };
    for kept in (0..all.0.len()).step_by(3) {
        let dir = tempfile::tempdir().unwrap();
        let folder =
            run(&mut device(), &in_rounds(dir.path()), &mut Silent).unwrap().folder;
        cut_to(&folder, "rounds.csv", kept);
        // Rows are written with a point's last round: keep those whose rounds are all kept.
        let records = Records::read(&folder).unwrap();
        let measured = |row: &Row| {
            let of_row = records.rounds.iter().filter(|r| r.point_key() == row.key());
            row.status.is_none_or(|s| !s.has_time()) || of_row.count() >= 1
        };
        let rows = records.rows.iter().take_while(|row| measured(row)).count();
        cut_to(&folder, "results.csv", rows.min(kept));
        run(&mut device(), &resume(&folder), &mut Silent).unwrap();
        assert_eq!(keys(&folder).1, all.1, "{kept} rounds kept");
        let samples = std::fs::read_to_string(folder.join("samples.csv")).unwrap();
        let mut lines: Vec<&str> = samples.lines().collect();
        lines.sort_unstable();
        let count = lines.len();
        lines.dedup();
        assert_eq!(lines.len(), count, "no sample twice");
    }
}

/// Rounds shared by processes, each with a row in run.csv.
#[test]
fn processes_share_the_rounds() {
    let dir = tempfile::tempdir().unwrap();
    let first = Process { index: 0, count: 3 };
    let request = Request { process: first, ..in_rounds(dir.path()) };
    let summary = run(&mut SimulatedDevice::default(), &request, &mut Silent).unwrap();
    // Sentinels, and what the device cannot run.
    assert_eq!((summary.rows, summary.rows_left), (9 + 2, 3));
    for index in [1, 2] {
        let process = Process { index, count: 3 };
        let request = Request { process, ..resume(&summary.folder) };
        run(&mut SimulatedDevice::default(), &request, &mut Silent).unwrap();
    }
    let records = Records::read(&summary.folder).unwrap();
    assert_eq!((records.rows.len(), records.runs.len()), (14, 3));
    let campaign = load(&summary.folder);
    let unit = campaign.repeatability.as_ref().unwrap().unit;
    assert_eq!(unit, crate::analysis::RoundUnit::Processes);
    assert!(judge(&campaign).is_valid(), "{:?}", judge(&campaign).faults);
}

/// Sleeps through the budget of 0.6 s in a step.
struct Sleeper {
    steps: usize,
}

impl Observer for Sleeper {
    fn begin(&mut self, _: &Path, _: usize, _: usize) {}

    fn start(&mut self, _: &Scheduled) {
        self.steps = self.steps.saturating_sub(1);
        if self.steps == 1 {
            std::thread::sleep(std::time::Duration::from_millis(650));
        }
    }

    fn measured(&mut self, _: &Scheduled, _: Option<&Row>) {}
}

/// When time is up, what has two rounds gets its row; `--resume` measures the rest.
#[test]
fn a_budget_that_ends_in_a_round_keeps_what_has_two() {
    for steps in [8, 12, 14, 16] {
        let dir = tempfile::tempdir().unwrap();
        let request = Request { budget_s: Some(0.6), ..in_rounds(dir.path()) };
        let device = &mut SimulatedDevice::default();
        let summary = run(device, &request, &mut Sleeper { steps }).unwrap();
        let records = Records::read(&summary.folder).unwrap();
        assert!(summary.rows_left > 0 && summary.rows + summary.rows_left == 14);
        let mut rounds = std::collections::BTreeMap::new();
        for round in &records.rounds {
            *rounds.entry(round.point_id.clone()).or_insert(0) += 1;
        }
        let sentinel = &records.rows.iter().find(|row| row.repeat > 0).unwrap().point_id;
        let mut enough: Vec<_> = rounds.iter().filter(|(_, n)| **n >= 2).collect();
        enough.retain(|(id, _)| *id != sentinel);
        let timed = records.rows.iter().filter(|row| row.time_s_median.is_some());
        let of_points = timed.filter(|row| row.point_id != *sentinel);
        assert_eq!(of_points.count(), enough.len(), "after {steps} steps");
        let rest = run(device, &resume(&summary.folder), &mut Silent).unwrap();
        assert_eq!((rest.rows + rest.resumed_rows, rest.rows_left), (14, 0));
    }
}

/// Another host, commit or build, as the row of `run.csv` of the first process says it.
#[test]
fn a_resume_by_another_program_or_host_is_refused_with_the_difference() {
    let dir = tempfile::tempdir().unwrap();
    let folder = start(dir.path(), &mut SimulatedDevice::default()).folder;
    let path = folder.join("run.csv");
    let text = std::fs::read_to_string(&path).unwrap();
    let header: Vec<&str> = text.lines().next().unwrap().split(',').collect();
    let with = |column: &str, value: &str| {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let record = reader.records().next().unwrap().unwrap();
        let at = header.iter().position(|name| *name == column).unwrap();
        let cells = record.iter().enumerate();
        let cells = cells.map(|(i, cell)| if i == at { value } else { cell });
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(&header).unwrap();
        writer.write_record(cells).unwrap();
        std::fs::write(&path, writer.into_inner().unwrap()).unwrap();
        run(&mut SimulatedDevice::default(), &resume(&folder), &mut Silent)
    };
    for column in ["host_hash", "git_sha", "git_dirty", "build_profile", "rustc", "arch"] {
        let told = with(column, "other").unwrap_err().to_string();
        assert!(told.contains(&format!("was begun with {column} = `other`")), "{told}");
        with(column, "").unwrap();
    }
}

fn plan(points: u64, sentinel: Option<u64>) -> PlannedPoints {
    let point =
        |n| format!("gemm:m={n},n=1,k=1,dtype=f32@x@cold").parse::<Point>().unwrap();
    PlannedPoints {
        points: (1..=points).map(point).collect(),
        sentinel: sentinel.map(point),
    }
}

proptest! {
    #[test]
    fn schedules_hold_every_point_once_and_the_sentinel_in_between(
        points in 1u64..40,
        sentinel in prop::option::of(1u64..60),
        seed: u64,
        every in 1usize..10,
        rounds in 1usize..4,
    ) {
        let plan = plan(points, sentinel);
        let order = schedule(&plan, seed, &settings(every, rounds));
        let key = |s: &Scheduled| (s.point.id(), s.repeat, s.round);
        let mut keys: Vec<_> = order.iter().map(key).collect();
        keys.sort();
        keys.dedup();
        prop_assert_eq!(keys.len(), order.len(), "a key twice");
        for point in &plan.points {
            let is_sentinel = plan.sentinel.as_ref() == Some(point);
            let first = |s: &&Scheduled| s.point == *point && s.repeat == 0;
            let wanted = if is_sentinel { 1 } else { rounds };
            prop_assert_eq!(order.iter().filter(first).count(), wanted);
        }
        if let Some(sentinel) = &plan.sentinel {
            prop_assert_eq!(&order[0].point, sentinel);
            prop_assert_eq!(&order[order.len() - 1].point, sentinel);
            let is_other = |s: &&Scheduled| s.point != *sentinel;
            for run in order.split(|s| s.point == *sentinel) {
                prop_assert!(run.iter().filter(is_other).count() <= every);
            }
        }
        prop_assert_eq!(schedule(&plan, seed, &settings(every, rounds)), order);
    }
}

#[test]
fn seeds_shuffle_differently() {
    let plan = plan(30, None);
    let order = |seed| schedule(&plan, seed, &settings(8, 2));
    assert_ne!(order(1), order(2));
    assert_ne!(order(1)[0].point, order(3)[0].point);
    // Each round has an order of its own.
    assert_ne!(order(1)[0].point, order(1)[30].point);
}

/// Fifteen configurations beside the default, of which `t90` is the fastest.
static COMPETING: [Configuration; 15] = [
    Configuration::new("t150", &[("time_percent", 150)]),
    Configuration::new("t90", &[("time_percent", 90)]),
    Configuration::new("t101", &[("time_percent", 101)]),
    Configuration::new("t102", &[("time_percent", 102)]),
    Configuration::new("t103", &[("time_percent", 103)]),
    Configuration::new("t104", &[("time_percent", 104)]),
    Configuration::new("t105", &[("time_percent", 105)]),
    Configuration::new("t106", &[("time_percent", 106)]),
    Configuration::new("t107", &[("time_percent", 107)]),
    Configuration::new("t108", &[("time_percent", 108)]),
    Configuration::new("t109", &[("time_percent", 109)]),
    Configuration::new("t110", &[("time_percent", 110)]),
    Configuration::new("t120", &[("time_percent", 120)]),
    Configuration::new("t130", &[("time_percent", 130)]),
    Configuration::new("t95", &[("time_percent", 95)]),
];

/// Two problems in all configurations, halved after each of four rounds of six.
fn competition() -> (SimulatedDevice, Suite) {
    let mut names: Vec<String> =
        vec!["\"simulated\"".into(), "\"simulated.default\"".into()];
    names.extend(COMPETING.iter().map(|c| format!("\"simulated.{}\"", c.name)));
    let text = format!(
        "name = \"compete\"\n[protocol]\nwarmup_s = 0.001\nmin_samples = 36\n\
         max_sample_s = 0.01\nrounds = 6\nhalving_rounds = 4\n[[points]]\nop = \"stream\"\n\
         access = \"read\"\nbytes = [\"16 KiB\", \"64 KiB\"]\ncache = \"hot\"\nkernel = [{}]\n",
        names.join(", ")
    );
    let mut device = SimulatedDevice {
        configurations: &COMPETING,
        noise: 0.002,
        ..SimulatedDevice::default()
    };
    device.info.launch_overhead_s = 0.0;
    (device, Suite::parse("compete.toml", &text).unwrap())
}

/// Rounds of each configuration of one of the problems.
fn rounds_of(folder: &Path, bytes: u64) -> std::collections::BTreeMap<String, usize> {
    let records = Records::read(folder).unwrap();
    let of_problem =
        records.rows.iter().filter(|row| row.problem.ends_with(&format!("bytes={bytes}")));
    let count = |row: &Row| {
        let rounds = records.rounds.iter().filter(|round| round.point_id == row.point_id);
        (row.kernel.clone(), rounds.count())
    };
    of_problem.map(count).collect()
}

fn assert_halved(folder: &Path) {
    for bytes in [16 << 10, 64 << 10] {
        let rounds = rounds_of(folder, bytes);
        assert_eq!(rounds.len(), 17, "every configuration has a row");
        let of = |name: &str| rounds[name];
        for kept in ["simulated", "simulated.default", "simulated.t90"] {
            assert_eq!(of(kept), 6, "{rounds:?}");
        }
        // Fifteen, then eight, four, two and one.
        let mut counts: Vec<usize> = rounds.values().copied().collect();
        counts.sort_unstable();
        assert_eq!(counts[..7], [1; 7], "{rounds:?}");
        assert_eq!(counts[7..11], [2; 4], "{rounds:?}");
        assert_eq!(counts[11..14], [3, 3, 4], "{rounds:?}");
        assert_eq!((of("simulated.t150"), of("simulated.t95")), (1, 4), "{rounds:?}");
    }
}

#[test]
fn half_of_the_configurations_of_a_problem_are_given_up_after_each_round() {
    let dir = tempfile::tempdir().unwrap();
    let (mut device, suite) = competition();
    let asked = Request { suite: Some(suite), ..request(dir.path()) };
    let summary = run(&mut device, &asked, &mut Silent).unwrap();
    assert_eq!((summary.rows, summary.rows_left), (34, 0));
    assert_halved(&summary.folder);
    let rows = Records::read(&summary.folder).unwrap().rows;
    for row in rows {
        assert_eq!(row.status, Some(Status::Ok), "{}", row.reason);
        let (configuration, from) = match row.kernel.split_once('.') {
            Some((_, name)) => (name, "asked"),
            None => ("default", "default"),
        };
        assert_eq!(
            (row.configuration.as_str(), row.configuration_from.as_str()),
            (configuration, from)
        );
    }
}

/// Wherever it was cut, what is measured to the end is the same.
#[test]
fn a_competition_that_is_cut_and_resumed_gives_up_as_many() {
    for seconds in [0.02, 0.1, 0.3, 0.6] {
        let dir = tempfile::tempdir().unwrap();
        let (mut device, suite) = competition();
        let asked =
            Request { suite: Some(suite), budget_s: Some(seconds), ..request(dir.path()) };
        let folder = run(&mut device, &asked, &mut Silent).unwrap().folder;
        let summary = run(&mut device, &resume(&folder), &mut Silent).unwrap();
        assert_eq!(summary.rows_left, 0);
        for bytes in [16 << 10, 64 << 10] {
            let rounds = rounds_of(&folder, bytes);
            for kept in ["simulated", "simulated.default", "simulated.t90"] {
                assert!(rounds[kept] >= 2, "{rounds:?}");
            }
            let all: usize = rounds.values().sum();
            assert!(all < 17 * 4, "after {seconds} s: {rounds:?}");
        }
    }
}
