//! Other libraries' kernels beside a campaign, with the script's fake peers: one is right,
//! one answers wrongly, one kills its process, one hangs, and one is not installed. They
//! need python3 (3.9 or later) without any package.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ridgepoint::analysis::Campaign;
use ridgepoint::campaign::{
    Observer, OpenDevice, PeersRequest, PeersSummary, Process, Request, Scheduled, Silent,
    measure_peers, run,
};
use ridgepoint::device::simulated::{Fault, SimulatedDevice};
use ridgepoint::device::{
    Device, DeviceInfo, Layout, PrepareError, Prepared, Refusal, Telemetry,
};
use ridgepoint::model::machine::Machines;
use ridgepoint::op::Problem;
use ridgepoint::plot::figures;
use ridgepoint::record::{Records, Row, Status};
use ridgepoint::suite::Suite;
use ridgepoint::verdict::{Verdict, judge};

const SUITE: &str = r#"
name = "peers"
[protocol]
warmup_s = 0.003
min_samples = 18
min_sample_s = 0.003
max_sample_s = 0.3
rounds = 3
sentinel_every = 2
[sentinel]
op = "stream"
access = "read"
bytes = "64 KiB"
cache = "hot"
[[points]]
op = "stream"
access = "read"
bytes = "4 MiB"
cache = "hot"
[[points]]
op = "gemm"
m = [3, 17]
n = 5
k = 7
dtype = "f32"
cache = "hot"
"#;

/// A finished campaign of the simulated device.
fn campaign_in(parent: &Path) -> PathBuf {
    campaign_of(SimulatedDevice::default(), parent)
}

fn campaign_of(device: SimulatedDevice, parent: &Path) -> PathBuf {
    let folder = parent.join("campaign");
    let request = Request {
        suite: Some(Suite::parse("peers.toml", SUITE).unwrap()),
        out: Some(folder.clone()),
        resume: None,
        seed: Some(7),
        budget_s: None,
        given_up: None,
        process: Process::ALONE,
        command_line: "test".to_owned(),
        tuning: None,
    };
    let mut device = SimulatedDevice { clock_hz: Some(1.5e9), ..device };
    run(&mut device, &request, &mut Silent).unwrap();
    folder
}

fn request(folder: &Path, only: &[&str]) -> PeersRequest {
    PeersRequest {
        folder: folder.to_owned(),
        python: "python3".to_owned(),
        budget_s: None,
        only: only.iter().map(|name| (*name).to_owned()).collect(),
        filter: None,
        job_limit_s: 2.0,
        command_line: "test".to_owned(),
    }
}

fn peers(folder: &Path, only: &[&str]) -> anyhow::Result<PeersSummary> {
    measure_peers(&request(folder, only), None, &mut Silent)
}

fn opens<D: Device + 'static>(device: D) -> Option<Box<OpenDevice<'static>>> {
    Some(Box::new(|| Ok(Box::new(device))))
}

/// The same with own kernels in turn.
fn peers_in_turn(folder: &Path, only: &[&str]) -> PeersSummary {
    let device = SimulatedDevice { clock_hz: Some(1.4e9), ..SimulatedDevice::default() };
    measure_peers(&request(folder, only), opens(device), &mut Silent).unwrap()
}

fn judged(folder: &Path) -> (Campaign, Verdict) {
    let campaign = Campaign::load(folder, &Machines::load(None).unwrap()).unwrap();
    let verdict = judge(&campaign);
    (campaign, verdict)
}

fn files(folder: &Path) -> Vec<String> {
    let names = ["run.csv", "results.csv", "rounds.csv", "samples.csv"];
    names.map(|name| fs::read_to_string(folder.join(name)).unwrap()).to_vec()
}

/// Claims but for those of ceilings, which are of all rows.
fn claims(verdict: &Verdict) -> Vec<(&str, String)> {
    let of_kernels = verdict.claims.iter().filter(|claim| !claim.id.starts_with("sheet-"));
    of_kernels.map(|claim| (&*claim.id, claim.evidence.clone())).collect()
}

#[test]
fn peers_are_measured_checked_and_kept_apart() {
    let parent = tempfile::tempdir().unwrap();
    let folder = campaign_in(parent.path());
    let own_rows = Records::read(&folder).unwrap().rows.len();
    let (_, before) = judged(&folder);
    assert_eq!(before.faults, [""; 0]);
    let summary = peers(&folder, &[]).unwrap();
    assert_eq!((summary.rows, summary.there_before, summary.rows_left), (10, 0, 0));

    let records = Records::read(&folder).unwrap();
    assert_eq!(records.runs.len(), 2);
    assert_eq!(records.runs[1].get("planned_peer_rows"), Some("10"));
    assert!(records.runs[1].get("peers").unwrap().starts_with("python 3."));
    assert_eq!(records.rows.len(), own_rows + 10);
    let mut statuses: BTreeMap<&str, Vec<Status>> = BTreeMap::new();
    for row in &records.rows[..own_rows] {
        assert!(row.is_own() && row.implementation.starts_with("ridgepoint "), "{row:?}");
    }
    for row in &records.rows[own_rows..] {
        assert!(!row.is_own() && !row.implementation.is_empty(), "{row:?}");
        statuses.entry(&row.kernel).or_default().push(row.status.unwrap());
        let rounds = records.rounds.iter().filter(|r| r.point_id == row.point_id).count();
        assert_eq!(rounds, if row.kernel == "fake_right" { 3 } else { 0 });
    }
    let of = |kernel: &str| statuses[kernel].clone();
    assert_eq!(of("fake_right"), [Status::Ok; 2]);
    assert_eq!(of("fake_wrong"), [Status::Wrong; 2]);
    assert_eq!(of("fake_crash"), [Status::Failed; 2]);
    assert_eq!(of("fake_hang"), [Status::Failed; 2]);
    assert_eq!(of("fake_missing"), [Status::Skipped; 2]);
    let reasons: String = records.rows.iter().map(|row| row.reason.as_str()).collect();
    for told in ["ended with code 9", "no progress for 2 s", "fake is not there"] {
        assert!(reasons.contains(told), "{reasons}");
    }
}

#[test]
fn peers_enter_their_table_and_figure_and_no_claim() {
    let parent = tempfile::tempdir().unwrap();
    let folder = campaign_in(parent.path());
    let (_, before) = judged(&folder);
    peers(&folder, &["fake_right", "fake_wrong"]).unwrap();
    let (campaign, after) = judged(&folder);
    assert_eq!(after.faults, [""; 0]);
    assert_eq!(claims(&before), claims(&after));
    assert!(after.warnings.iter().any(|w| w.contains("the peer fake_wrong gave a wrong")));
    let beside = campaign.beside_peers();
    assert_eq!(beside.len(), 2);
    for both in &beside {
        assert_eq!((&*both.own.kernel, &*both.peer.kernel), ("simulated", "fake_right"));
        assert!(both.speed.lo <= both.speed.value && both.speed.value <= both.speed.hi);
    }
    // At 1.2 GHz beside ours at 1.5 the peer took fewer clocks than times.
    for both in &beside {
        assert_eq!(both.clocks_hz(), Some([1.5e9, 1.2e9]));
        let in_clocks = both.speed_in_clocks().unwrap();
        assert!((in_clocks / both.speed.value - 0.8).abs() < 1e-12, "{in_clocks}");
    }
    let each = after.sections.iter().find(|s| s.heading.contains("each problem")).unwrap();
    let at = |name: &str| each.columns.iter().position(|column| *column == name).unwrap();
    let (speed, in_clocks) = (at("speed"), at("speed_in_clocks"));
    assert!(each.rows.iter().all(|row| row[speed] != row[in_clocks]), "{:?}", each.rows);
    assert!(each.paragraphs[0].contains("a matter of heat"), "{:?}", each.paragraphs);
    assert_eq!(campaign.own_points().count() + 4, campaign.points.len());
    let headings: Vec<&str> = after.sections.iter().map(|s| s.heading.as_str()).collect();
    assert!(headings.contains(&"Beside peers: each problem (SIMULATED)"), "{headings:?}");
    let drawn = figures(&campaign);
    let (_, figure) = drawn.iter().find(|(name, _)| *name == "peers").unwrap();
    assert_eq!(figure.as_ref().unwrap().marks.len(), 2);
}

/// Where `run.csv` does not say that clocks were read in samples, they were polled beside them:
/// an older record's are left out.
#[test]
fn polled_clocks_are_not_used() {
    let parent = tempfile::tempdir().unwrap();
    let folder = campaign_in(parent.path());
    peers(&folder, &["fake_right"]).unwrap();
    let clocks = || {
        let (campaign, _) = judged(&folder);
        let beside = campaign.beside_peers();
        beside.iter().map(|both| both.peer.sm_clock_hz).collect::<Vec<_>>()
    };
    assert_eq!(clocks(), [Some(1.2e9); 2]);
    let runs = folder.join("run.csv");
    let text = fs::read_to_string(&runs).unwrap();
    assert_eq!(text.matches(",samples").count(), 1, "{text}");
    fs::write(&runs, text.replace(",samples", ",")).unwrap();
    assert_eq!(clocks(), [None; 2]);
}

/// A second run adds nothing, one with other names adds theirs, and own rows can still be
/// finished.
#[test]
fn rows_are_never_doubled() {
    let parent = tempfile::tempdir().unwrap();
    let folder = campaign_in(parent.path());
    peers(&folder, &["fake_right"]).unwrap();
    let once = files(&folder);
    let again = peers(&folder, &["fake_right"]).unwrap();
    assert_eq!((again.rows, again.there_before), (0, 2));
    assert_eq!(files(&folder), once);
    let others = peers(&folder, &["fake_right", "fake_missing"]).unwrap();
    assert_eq!((others.rows, others.there_before), (2, 2));
    let resumed = Request {
        suite: None,
        out: None,
        resume: Some(folder.clone()),
        seed: None,
        budget_s: None,
        given_up: None,
        process: Process::ALONE,
        command_line: "test".to_owned(),
        tuning: None,
    };
    let summary = run(&mut SimulatedDevice::default(), &resumed, &mut Silent).unwrap();
    assert_eq!((summary.rows, summary.rows_left), (0, 0));
    assert_eq!(judged(&folder).1.faults, [""; 0]);
}

/// The problem, the kernel and the round of each row of `rounds.csv` that a process of
/// `ridgepoint peers` wrote, in their order.
fn rounds_in_turn(folder: &Path) -> Vec<(String, String, u32)> {
    let records = Records::read(folder).unwrap();
    let run_id = records.runs[1].get("run_id").unwrap();
    let of_peers = records.rounds.iter().filter(|round| round.run_id == run_id);
    let named = of_peers.map(|round| {
        let row = records.rows.iter().find(|row| row.point_id == round.point_id).unwrap();
        (row.problem.clone(), row.kernel.clone(), round.round)
    });
    named.collect()
}

/// Own kernels are measured again between the peers of their problem, and compared with them
/// by pairs of rounds. They enter nothing else.
#[test]
fn own_kernels_take_turns_with_peers() {
    let parent = tempfile::tempdir().unwrap();
    let folder = campaign_in(parent.path());
    let own_rows = Records::read(&folder).unwrap().rows.len();
    let (own, before) = judged(&folder);
    let summary = peers_in_turn(&folder, &["fake_right", "fake_missing"]);
    assert_eq!((summary.rows, summary.there_before, summary.rows_left), (6, 0, 0));

    let records = Records::read(&folder).unwrap();
    assert_eq!(records.rows.len(), own_rows + 6);
    let again: Vec<&Row> =
        records.rows.iter().filter(|row| row.load == "in_turn").collect();
    assert_eq!(again.len(), 2);
    for row in &again {
        assert!(row.is_own() && !row.is_planned() && row.status == Some(Status::Ok));
        assert_eq!((&*row.kernel, row.sm_clock_hz_median), ("simulated", Some(1.4e9)));
    }
    let rounds = rounds_in_turn(&folder);
    assert_eq!(rounds.len(), 2 * 2 * 3);
    for pair in rounds.chunks(2) {
        let [(first, a, round), (second, b, other)] = pair else { panic!("{pair:?}") };
        assert_eq!((first, round), (second, other), "{rounds:?}");
        assert_ne!(a, b, "{rounds:?}");
    }

    let (campaign, after) = judged(&folder);
    assert_eq!(after.faults, [""; 0]);
    assert_eq!(claims(&before), claims(&after));
    assert_eq!(campaign.own_points().count(), own.own_points().count());
    assert_eq!(campaign.in_turn.len(), 2);
    let beside = campaign.beside_peers();
    assert_eq!(beside.len(), 2);
    for both in &beside {
        assert!(both.in_turn.is_some());
        assert_eq!(both.clocks_hz(), Some([1.4e9, 1.2e9]));
    }
    let each = after.sections.iter().find(|s| s.heading.contains("each problem")).unwrap();
    let at = each.columns.iter().position(|column| *column == "in_turn").unwrap();
    assert!(each.rows.iter().all(|row| row[at] == "yes"), "{:?}", each.rows);
    assert!(each.paragraphs.iter().any(|text| text.contains("pairs of rounds")));

    let once = files(&folder);
    let summary = peers_in_turn(&folder, &["fake_right", "fake_missing"]);
    assert_eq!((summary.rows, summary.there_before), (0, 6));
    assert_eq!(files(&folder), once);
    // Named later, they follow nobody.
    let summary = peers_in_turn(&folder, &["fake_wrong"]);
    assert_eq!((summary.rows, summary.there_before), (2, 6));
}

/// The vendor's kernel, which the campaign itself has, takes turns too, and is a peer.
#[test]
fn the_vendors_kernel_takes_turns_too() {
    let parent = tempfile::tempdir().unwrap();
    let vendor =
        || SimulatedDevice { vendor: Some("vendor"), ..SimulatedDevice::default() };
    let folder = campaign_of(vendor(), parent.path());
    let request = request(&folder, &["fake_missing"]);
    let summary = measure_peers(&request, opens(vendor()), &mut Silent).unwrap();
    assert_eq!(summary.rows, 4, "of the vendor only where it is named");
    let request = PeersRequest { only: Vec::new(), ..request };
    let summary = measure_peers(&request, opens(vendor()), &mut Silent).unwrap();
    assert_eq!((summary.rows, summary.there_before), (2 * 5, 4));
    let records = Records::read(&folder).unwrap();
    let again = records.rows.iter().filter(|row| row.load == "in_turn");
    let mut kernels: Vec<&str> = again.map(|row| &*row.kernel).collect();
    kernels.sort_unstable();
    assert_eq!(kernels, ["simulated", "simulated", "vendor", "vendor"]);
    let (campaign, verdict) = judged(&folder);
    assert_eq!(verdict.faults, [""; 0]);
    let in_turn = campaign.in_turn.iter().filter(|point| !point.is_own());
    assert_eq!(in_turn.count(), 2);
}

/// A device that is slower by a third in one round is so for both: the ratio and its interval
/// do not know.
#[test]
fn what_changes_from_round_to_round_cancels() {
    let parent = tempfile::tempdir().unwrap();
    let folder = campaign_in(parent.path());
    peers_in_turn(&folder, &["fake_right"]);
    let speeds = |campaign: &Campaign| {
        let beside = campaign.beside_peers();
        beside.iter().map(|both| both.speed).collect::<Vec<_>>()
    };
    let (mut campaign, _) = judged(&folder);
    let cool = speeds(&campaign);
    let run_id = campaign.runs[1].get("run_id").unwrap().to_owned();
    let mut slowed = 0;
    for round in &mut campaign.rounds {
        if round.run_id == run_id && round.round == 1 {
            round.time_s_median *= 4.0 / 3.0;
            slowed += 1;
        }
    }
    assert_eq!(slowed, 4);
    for (cool, warm) in cool.iter().zip(speeds(&campaign)) {
        assert!((cool.value / warm.value - 1.0).abs() < 1e-9);
        assert!((cool.lo / warm.lo - 1.0).abs() < 1e-9);
        assert!(warm.half_width() < 0.01, "{warm:?}");
    }
    // What only one of them has does not.
    let own: Vec<String> = campaign.in_turn.iter().map(|p| p.point_id.clone()).collect();
    let of_own = campaign.rounds.iter_mut().filter(|r| own.contains(&r.point_id));
    of_own.for_each(|round| round.time_s_median *= 2.0);
    for (cool, other) in cool.iter().zip(speeds(&campaign)) {
        assert!((cool.value / other.value - 2.0).abs() < 1e-9, "{other:?}");
    }
}

/// A kernel that panics in turn costs its own row, and is a fault of the campaign; the peers
/// are measured on.
#[test]
fn an_own_kernel_that_breaks_in_turn_costs_its_row() {
    let parent = tempfile::tempdir().unwrap();
    let folder = campaign_in(parent.path());
    let device =
        SimulatedDevice { fault: Some((Fault::Panics, 0)), ..SimulatedDevice::default() };
    let request = request(&folder, &["fake_right"]);
    let summary = measure_peers(&request, opens(device), &mut Silent).unwrap();
    assert_eq!((summary.rows, summary.rows_left), (4, 0));
    let (campaign, verdict) = judged(&folder);
    let faults = &verdict.faults;
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains("kernel simulated panicked: planned panic"), "{faults:?}");
    let beside = campaign.beside_peers();
    assert!(beside.iter().all(|both| both.in_turn.is_none()));
    assert_eq!(beside.len(), 2);
}

/// A device that is lost with its first launch in turn.
struct Losing(SimulatedDevice, bool);

impl Device for Losing {
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }
    fn kernel(&self, problem: &Problem) -> Result<&'static str, Refusal> {
        self.0.kernel(problem)
    }
    fn prepare<'a>(
        &'a mut self,
        problem: &Problem,
        kernel: &str,
        layout: Layout,
    ) -> Result<Box<dyn Prepared + 'a>, PrepareError> {
        self.1 = true;
        self.0.prepare(problem, kernel, layout)
    }
    fn lost(&self) -> Option<String> {
        self.1.then(|| "an illegal address".to_owned())
    }
}

/// Takes down what it is told.
#[derive(Default)]
struct Told(Vec<String>);

impl Observer for Told {
    fn begin(&mut self, _: &Path, _: usize, _: usize) {}
    fn start(&mut self, _: &Scheduled) {}
    fn measured(&mut self, _: &Scheduled, _: Option<&Row>) {}
    fn note(&mut self, text: &str) {
        self.0.push(text.to_owned());
    }
}

#[test]
fn peers_outlive_the_device_of_own_kernels() {
    let parent = tempfile::tempdir().unwrap();
    let folder = campaign_in(parent.path());
    let device = Losing(SimulatedDevice::default(), false);
    let mut told = Told::default();
    let request = request(&folder, &["fake_right"]);
    let summary = measure_peers(&request, opens(device), &mut told).unwrap();
    assert_eq!((summary.rows, summary.rows_left), (2, 2));
    assert_eq!(told.0.len(), 1, "{:?}", told.0);
    assert!(
        told.0[0].contains("an illegal address. Peers are measured on"),
        "{:?}",
        told.0
    );
    let (campaign, verdict) = judged(&folder);
    assert_eq!(verdict.faults, [""; 0]);
    assert_eq!(campaign.beside_peers().len(), 2);
}

/// Heat that slows a device down in one of the rounds: its round does not count, and the rest
/// make a row, of a peer as of an own kernel.
#[test]
fn rounds_that_heat_slows_down_are_left_out() {
    let parent = tempfile::tempdir().unwrap();
    let folder = campaign_in(parent.path());
    // Between the two looks of the first round.
    let reports = |asked: usize| Telemetry {
        thermal_slowdown: Some(u64::from(asked > 0)),
        power_w: Some(650.0),
        other_processes: vec![7],
        ..Telemetry::default()
    };
    let device = SimulatedDevice { reports, ..SimulatedDevice::default() };
    let request = request(&folder, &["fake_right"]);
    let summary = measure_peers(&request, opens(device), &mut Silent).unwrap();
    assert_eq!((summary.rows, summary.rows_left), (4, 0));
    let records = Records::read(&folder).unwrap();
    let run_id = records.runs[1].get("run_id").unwrap();
    let rounds: Vec<_> = records.rounds.iter().filter(|r| r.run_id == run_id).collect();
    assert_eq!(rounds.len(), 12);
    let disturbed: Vec<_> = rounds.iter().filter(|round| round.disturbed).collect();
    assert_eq!(disturbed.len(), 1, "{disturbed:?}");
    assert_eq!(disturbed[0].disturbed_by, "the device was slowed down for its heat");
    assert!(rounds.iter().all(|round| round.power_w == Some(650.0)));
    let rows = records.rows.iter().filter(|row| row.run_id == run_id);
    assert!(rows.clone().all(|row| row.status == Some(Status::Ok)));
    assert_eq!(rows.filter(|row| row.power_w == Some(650.0)).count(), 4);
    let (campaign, verdict) = judged(&folder);
    assert_eq!(verdict.faults, [""; 0]);
    assert!(campaign.beside_peers().iter().all(|both| both.in_turn.is_some()));
}

/// A GPU that lets in one process at a time has the script's already.
#[test]
fn a_device_that_cannot_be_opened_leaves_peers_alone() {
    let parent = tempfile::tempdir().unwrap();
    let folder = campaign_in(parent.path());
    let mut told = Told::default();
    let request = request(&folder, &["fake_right"]);
    let open: Box<OpenDevice<'_>> = Box::new(|| anyhow::bail!("the device is in use"));
    let summary = measure_peers(&request, Some(open), &mut told).unwrap();
    assert_eq!((summary.rows, summary.rows_left), (2, 0));
    assert_eq!(told.0.len(), 1, "{:?}", told.0);
    assert!(told.0[0].ends_with("in turn: the device is in use"), "{:?}", told.0);
    let (campaign, verdict) = judged(&folder);
    assert_eq!((campaign.peer_rows(), campaign.in_turn.len()), ((2, 2), 0));
    assert_eq!(verdict.faults, [""; 0]);
}

/// Lets time pass before the third round of the first point.
struct Slow;

impl Observer for Slow {
    fn begin(&mut self, _: &Path, _: usize, _: usize) {}
    fn start(&mut self, scheduled: &Scheduled) {
        if scheduled.round == 2 {
            std::thread::sleep(std::time::Duration::from_secs(8));
        }
    }
    fn measured(&mut self, _: &Scheduled, _: Option<&Row>) {}
}

/// When time is up, two rounds make a row.
#[test]
fn time_that_is_up_leaves_rows_of_two_rounds() {
    let parent = tempfile::tempdir().unwrap();
    let folder = campaign_in(parent.path());
    let request = PeersRequest {
        budget_s: Some(7.0),
        job_limit_s: 20.0,
        ..request(&folder, &["fake_right"])
    };
    let summary = measure_peers(&request, None, &mut Slow).unwrap();
    assert_eq!((summary.rows, summary.rows_left), (2, 0));
    let records = Records::read(&folder).unwrap();
    let rounds = |row: &&Row| {
        let of_row = records.rounds.iter().filter(|round| round.point_id == row.point_id);
        of_row.count()
    };
    let of_peers: Vec<&Row> = records.rows.iter().filter(|row| !row.is_own()).collect();
    let counts: Vec<usize> = of_peers.iter().map(rounds).collect();
    assert_eq!(counts, [3, 2]);
    assert!(of_peers.iter().all(|row| row.status == Some(Status::Ok)), "{of_peers:?}");
    assert_eq!(judged(&folder).1.faults, [""; 0]);
}

#[test]
fn mistakes_are_told_before_anything_is_written() {
    let parent = tempfile::tempdir().unwrap();
    let folder = campaign_in(parent.path());
    let before = files(&folder);
    let error = peers(&folder, &["cublas"]).unwrap_err().to_string();
    assert!(error.contains("`cublas` is no peer on simulated"), "{error}");
    let request =
        PeersRequest { python: "no-such-python".to_owned(), ..request(&folder, &[]) };
    let error = measure_peers(&request, None, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("cannot start `no-such-python`"), "{error}");
    // Rows of another machine would not belong to the campaign.
    let run_csv = folder.join("run.csv");
    let text = fs::read_to_string(&run_csv).unwrap();
    let host = Records::read(&folder).unwrap().runs[0].get("host_hash").unwrap().to_owned();
    fs::write(&run_csv, text.replace(&host, "0123456789ab")).unwrap();
    let error = peers(&folder, &[]).unwrap_err().to_string();
    assert!(error.contains("was begun with host_hash = `0123456789ab`"), "{error}");
    fs::write(&run_csv, text).unwrap();
    assert_eq!(files(&folder), before);
}
