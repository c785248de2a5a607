//! Shards of made-up machines, merged.

use super::*;
use crate::analysis::Campaign;
use crate::campaign::{Process, Request, Silent, run};
use crate::compare::{Change, Rules, ranked};
use crate::device::simulated::SimulatedDevice;
use crate::model::machine::Machines;
use crate::verdict::{Verdict, judge};

const SUITE: &str = r#"
name = "tiny"
[protocol]
warmup_s = 0.001
min_samples = 6
min_sample_s = 0.001
max_sample_s = 0.01
rounds = 2
sentinel_every = 4
[sentinel]
op = "stream"
access = "read"
bytes = "4 MiB"
cache = "hot"
[[points]]
op = "stream"
access = "read"
bytes = ["4 MiB", "6 MiB", "8 MiB"]
cache = "hot"
[[points]]
op = "gemm"
m = [1, 2, 3, 4, 5, 6, 7]
n = 8
k = 16
dtype = "f32"
"#;

fn device(bytes_per_s: f64) -> SimulatedDevice {
    SimulatedDevice { bytes_per_s, noise: 0.001, ..SimulatedDevice::default() }
}

fn measured(folder: &Path, shard: &str, device: &mut SimulatedDevice) -> PathBuf {
    let shard = (!shard.is_empty()).then(|| shard.parse().unwrap());
    let request = Request {
        suite: Some(Suite::parse("tiny.toml", SUITE).unwrap().sharded(shard).unwrap()),
        out: Some(folder.to_owned()),
        resume: None,
        seed: None,
        budget_s: None,
        given_up: None,
        process: Process::ALONE,
        command_line: "test".into(),
        tuning: None,
    };
    run(device, &request, &mut Silent).unwrap().folder
}

/// Three shards, the second of a machine with half the bandwidth.
fn three(dir: &Path) -> Vec<PathBuf> {
    let of = |(shard, rate): (&str, f64)| {
        let folder = dir.join(format!("node-{}", &shard[..1]));
        measured(&folder, shard, &mut device(rate))
    };
    [("1/3", 1e11), ("2/3", 0.5e11), ("3/3", 1e11)].map(of).to_vec()
}

fn judged(folder: &Path) -> (Campaign, Verdict) {
    let campaign = Campaign::load(folder, &Machines::default()).unwrap();
    let verdict = judge(&campaign);
    (campaign, verdict)
}

fn error_of(folders: &[PathBuf], out: &Path) -> String {
    let error = format!("{:#}", merge(folders, out).unwrap_err());
    assert!(!out.exists(), "something is left of a refused merge");
    error
}

#[test]
fn shards_are_merged_into_the_whole_plan_and_the_slow_node_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let folders = three(dir.path());
    let summary = merge(&folders, &dir.path().join("all")).unwrap();
    assert!(summary.is_complete(), "{summary:?}");
    let (campaign, verdict) = judged(&summary.folder);
    assert!(verdict.is_valid(), "{:?}", verdict.faults);
    assert_eq!(campaign.points.len(), 10, "each point once");
    assert_eq!(campaign.nodes.len(), 3);
    // Gemms once, the three streams on each machine, under its own ceiling.
    let all = campaign.points_by_node();
    assert_eq!(all.len(), 7 + 3 * 3);
    for (name, of_node, point) in all {
        let rate = of_node.ceilings.as_ref().unwrap().read.rate.value;
        assert_eq!(rate < 0.7e11, name == "node-2", "{name}: {rate}");
        assert!(point.fraction().is_none_or(|share| share.value < 1.1), "{name}");
    }
    let ranked = ranked(&campaign, Rules::default());
    assert_eq!((&*ranked[0].node.name, ranked[0].common), ("node-2", 3));
    assert_eq!(ranked[0].change, Some(Change::Slower));
    assert!((ranked[0].speed.unwrap().value - 0.5).abs() < 0.05, "{ranked:?}");
    assert!(ranked[1..].iter().all(|node| node.change != Some(Change::Slower)));
    let told = "node node-2 takes 9";
    let notes = &verdict.warnings;
    assert!(notes.iter().any(|note| note.starts_with(told)), "{notes:?}");
    let section = verdict.sections.iter().find(|s| s.heading.starts_with("Nodes")).unwrap();
    assert_eq!((section.rows.len(), &*section.rows[0][1]), (3, "node-2"));
}

/// A node that dies leaves a torn file or nothing: what is missing is told and planned still.
#[test]
fn what_a_dead_node_did_not_measure_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let folders = three(dir.path());
    let path = folders[1].join("results.csv");
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    // The header and one row stay, and half of the next.
    let half = &lines[2][..lines[2].len() / 2];
    fs::write(&path, format!("{}{}{half}", lines[0], lines[1])).unwrap();
    let summary = merge(&folders[..2], &dir.path().join("cut")).unwrap();
    assert!(!summary.is_complete());
    assert_eq!((summary.missing_shards.as_slice(), summary.shards[1].rows), (&[3][..], 1));
    // Gemms of shards 2 and 3.
    assert_eq!(summary.missing.len(), 4, "{:?}", summary.missing);
    let with = |part: &str| {
        summary.missing.iter().filter(|missing| missing.reason.contains(part)).count()
    };
    assert_eq!((with("node-2 ended before it"), with("shard 3 was not among")), (2, 2));
    let (campaign, verdict) = judged(&summary.folder);
    assert_eq!((campaign.points.len(), campaign.unmeasured().count()), (10, 4));
    let told = |part: &str| verdict.faults.iter().any(|fault| fault.contains(part));
    assert!(told("no node measured shard 3/3"), "{:?}", verdict.faults);
    assert!(told("4 planned points were measured by no node"), "{:?}", verdict.faults);
    assert!(told("node node-2: 1 of 7 planned rows are there"), "{:?}", verdict.faults);
}

/// The same plan on several machines: every point is common.
#[test]
fn whole_campaigns_of_several_machines_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let folders: Vec<PathBuf> = ["a", "b"]
        .map(|name| measured(&dir.path().join(name), "", &mut device(1e11)))
        .to_vec();
    let summary = merge(&folders, &dir.path().join("all")).unwrap();
    let (campaign, verdict) = judged(&summary.folder);
    assert!(verdict.is_valid(), "{:?}", verdict.faults);
    assert_eq!((campaign.points.len(), campaign.points_by_node().len()), (10, 20));
    let ranked = ranked(&campaign, Rules::default());
    assert!(ranked.iter().all(|node| node.common == 10), "{ranked:?}");
    assert!(ranked.iter().all(|node| node.change != Some(Change::Slower)), "{ranked:?}");
}

/// A file that a spreadsheet has saved, and one that was compressed, say the same.
#[test]
fn files_that_were_saved_again_or_compressed_are_merged_too() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let folders = three(dir.path());
    let plain = merge(&folders, &dir.path().join("plain")).unwrap();
    let path = folders[2].join("results.csv");
    let text = fs::read_to_string(&path).unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let mut writer =
        csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let header: csv::StringRecord = reader.headers().unwrap().iter().rev().collect();
    writer.write_record(&header).unwrap();
    for record in reader.records() {
        let record = record.unwrap();
        writer.write_record(record.iter().rev().collect::<Vec<_>>()).unwrap();
    }
    fs::write(&path, writer.into_inner().unwrap()).unwrap();
    let samples = folders[0].join("samples.csv");
    let packed = fs::File::create(folders[0].join("samples.csv.gz")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
    packed.write_all(&fs::read(&samples).unwrap()).unwrap();
    packed.finish().unwrap();
    fs::remove_file(&samples).unwrap();
    let again = merge(&folders, &dir.path().join("again")).unwrap();
    for name in ["run.csv", "results.csv", "rounds.csv", "samples.csv", "suite.toml"] {
        let [a, b] = [&plain, &again].map(|of| fs::read(of.folder.join(name)).unwrap());
        assert_eq!(String::from_utf8_lossy(&a), String::from_utf8_lossy(&b), "{name}");
    }
}

#[test]
fn campaigns_that_do_not_belong_together_are_refused_with_the_difference() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let folders = three(dir.path());
    let with = |name: &str, file: &str, from: &str, to: &str| {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        for entry in fs::read_dir(&folders[2]).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
        let path = folder.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        error_of(&[folders[0].clone(), folder], &out)
    };
    for (name, file, from, to, told) in [
        (
            "protocol",
            "run.csv",
            ",0.05,3,",
            ",0.05,2,",
            "column protocol, the first has `3`",
        ),
        ("machine", "run.csv", "Simulated Device", "Other", "column device, the first"),
        ("suite", "suite.toml", "rounds = 2", "rounds = 3", "is `rounds = 2` in the first"),
        ("count", "suite.toml", "3/3", "3/4", "is shard 3/4"),
        ("columns", "rounds.csv", "since_start_s", "since_s", "missing are since_start_s"),
    ] {
        let error = with(name, file, from, to);
        assert!(error.contains(told), "{name}: {error}");
    }
    let twice = error_of(&[folders[0].clone(), folders[0].clone()], &out);
    assert!(twice.contains("given twice"), "{twice}");
    fs::create_dir(dir.path().join("x")).unwrap();
    let moved = dir.path().join("x/node-1");
    fs::rename(&folders[1], &moved).unwrap();
    let named = error_of(&[folders[0].clone(), moved], &out);
    assert!(named.contains("have one name"), "{named}");
    fs::create_dir(&out).unwrap();
    let error = format!("{:#}", merge(&folders[..1], &out).unwrap_err());
    assert!(error.contains("never overwritten"), "{error}");
}

/// A shard that is resumed stays the shard that it was.
#[test]
fn a_shard_is_resumed_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let folder = measured(&dir.path().join("node"), "2/3", &mut device(1e11));
    let whole = Records::read(&folder).unwrap();
    let path = folder.join("results.csv");
    let text = fs::read_to_string(&path).unwrap();
    let kept: String = text.split_inclusive('\n').take(3).collect();
    fs::write(&path, kept).unwrap();
    let request = Request {
        suite: None,
        out: None,
        resume: Some(folder.clone()),
        seed: None,
        budget_s: None,
        given_up: None,
        process: Process::ALONE,
        command_line: "test".into(),
        tuning: None,
    };
    run(&mut device(1e11), &request, &mut Silent).unwrap();
    let resumed = Records::read(&folder).unwrap();
    let keys = |records: &Records| -> BTreeSet<(String, u32)> {
        records.rows.iter().map(Row::key).collect()
    };
    assert_eq!(keys(&resumed), keys(&whole));
    assert!(resumed.runs.iter().all(|run| run.get("shard") == Some("2/3")));
}

/// 64 shards of 10,000 rows, merged in less than 5 s by a program that was compiled for speed.
#[test]
#[ignore = "640,000 rows, for a program that was compiled for speed"]
fn many_large_shards_are_merged_in_seconds() {
    const ROWS: usize = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let first = measured(&dir.path().join("first"), "1/64", &mut device(1e11));
    let parts: Vec<PathBuf> =
        (1..=64).map(|shard| many_rows(&first, dir.path(), shard, ROWS)).collect();
    let began = std::time::Instant::now();
    let summary = merge(&parts, &dir.path().join("all")).unwrap();
    let seconds = began.elapsed().as_secs_f64();
    println!("{} rows in {seconds:.2} s", 64 * ROWS);
    assert_eq!(summary.shards.iter().map(|shard| shard.rows).sum::<usize>(), 64 * ROWS);
    assert!(seconds < 5.0, "{seconds} s");
}

/// A shard with so many rows and rounds, made of a small one.
fn many_rows(first: &Path, dir: &Path, shard: usize, rows: usize) -> PathBuf {
    let folder = dir.join(format!("node-{shard}"));
    fs::create_dir(&folder).unwrap();
    let read = |name: &str| fs::read_to_string(first.join(name)).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    let run_id = format!("{shard:012x}");
    let own = Records::read_runs(first).unwrap()[0].get("run_id").unwrap().to_owned();
    write("suite.toml", &read("suite.toml").replace("1/64", &format!("{shard}/64")));
    write("run.csv", &read("run.csv").replace(&own, &run_id));
    write("plan.csv", &read("plan.csv"));
    write("samples.csv", read("samples.csv").lines().next().unwrap());
    for name in ["results.csv", "rounds.csv"] {
        let text = read(name);
        let mut lines = text.split_inclusive('\n');
        let mut made = lines.next().unwrap().to_owned();
        let line = lines.next_back().unwrap();
        let rest = line.splitn(3, ',').nth(2).unwrap();
        for row in 0..rows {
            made.push_str(&format!("{run_id},{:012x},{rest}", shard * rows + row));
        }
        write(name, &made);
    }
    folder
}
