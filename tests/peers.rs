//! Other libraries' kernels beside a campaign, with the script's fake peers: one is right,
//! one answers wrongly, one kills its process, one hangs, and one is not installed. They
//! need python3 (3.9 or later) without any package.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ridgepoint::analysis::Campaign;
use ridgepoint::campaign::{
    Observer, PeersRequest, PeersSummary, Process, Request, Scheduled, Silent,
    measure_peers, run,
};
use ridgepoint::device::simulated::SimulatedDevice;
use ridgepoint::model::machine::Machines;
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
    let mut device =
        SimulatedDevice { clock_hz: Some(1.5e9), ..SimulatedDevice::default() };
    run(&mut device, &request, &mut Silent).unwrap();
    folder
}

fn peers(folder: &Path, only: &[&str]) -> anyhow::Result<PeersSummary> {
    let request = PeersRequest {
        folder: folder.to_owned(),
        python: "python3".to_owned(),
        budget_s: None,
        only: only.iter().map(|name| (*name).to_owned()).collect(),
        filter: None,
        job_limit_s: 2.0,
        command_line: "test".to_owned(),
    };
    measure_peers(&request, &mut Silent)
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
        folder: folder.clone(),
        python: "python3".to_owned(),
        budget_s: Some(7.0),
        only: vec!["fake_right".to_owned()],
        filter: None,
        job_limit_s: 20.0,
        command_line: "test".to_owned(),
    };
    let summary = measure_peers(&request, &mut Slow).unwrap();
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
    let request = PeersRequest {
        folder: folder.clone(),
        python: "no-such-python".to_owned(),
        budget_s: None,
        only: Vec::new(),
        filter: None,
        job_limit_s: 2.0,
        command_line: "test".to_owned(),
    };
    let error = measure_peers(&request, &mut Silent).unwrap_err().to_string();
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
