//! Copies of a small campaign with one thing altered, judged.

use std::fs;
use std::path::{Path, PathBuf};

use csv::StringRecord;
use tempfile::TempDir;

use crate::analysis::Campaign;
use crate::campaign::{self, Request, Silent};
use crate::device::simulated::SimulatedDevice;
use crate::model::machine::Machines;
use crate::point::Point;
use crate::record::SCHEMA_VERSION;
use crate::suite::Suite;
use crate::verdict::{Verdict, judge};

const SUITE: &str = r#"
name = "tiny"
[protocol]
warmup_s = 0.001
min_samples = 6
min_sample_s = 0.001
max_sample_s = 0.01
[[points]]
op = "stream"
access = "read"
bytes = ["64 KiB", "4 MiB"]
cache = "hot"
[[points]]
op = "gemm"
m = [1, 4]
n = 8
k = 16
dtype = "f32"
"#;

/// A campaign whose processes say how many threads they have.
fn measured() -> (TempDir, PathBuf) {
    measured_with(SUITE, ("threads", "2"))
}

/// A campaign of a suite whose processes say one thing more.
fn measured_with(suite: &str, (fact, value): (&str, &str)) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let mut device = SimulatedDevice::default();
    device.info.facts.push((fact.into(), value.into()));
    let request = Request {
        suite: Some(Suite::parse("tiny.toml", suite).unwrap()),
        out: Some(dir.path().join("c")),
        resume: None,
        seed: Some(5),
        budget_s: None,
        given_up: None,
        process: campaign::Process::ALONE,
        command_line: "test".into(),
        tuning: None,
    };
    let folder = campaign::run(&mut device, &request, &mut Silent).unwrap().folder;
    (dir, folder)
}

fn judged(folder: &Path) -> Verdict {
    judge(&Campaign::load(folder, &Machines::default()).unwrap())
}

/// A CSV file in memory.
struct Table {
    path: PathBuf,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn read(folder: &Path, file: &str) -> Self {
        let path = folder.join(file);
        let mut reader = csv::Reader::from_path(&path).unwrap();
        let texts = |r: &StringRecord| r.iter().map(str::to_owned).collect::<Vec<_>>();
        let header = texts(reader.headers().unwrap());
        let rows = reader.records().map(|record| texts(&record.unwrap())).collect();
        Table { path, header, rows }
    }

    fn write(&self) {
        let mut writer = csv::Writer::from_path(&self.path).unwrap();
        writer.write_record(&self.header).unwrap();
        self.rows.iter().for_each(|row| writer.write_record(row).unwrap());
        writer.flush().unwrap();
    }

    fn at(&self, column: &str) -> usize {
        self.header.iter().position(|name| name == column).unwrap()
    }

    fn cell(&mut self, row: usize, column: &str) -> &mut String {
        let at = self.at(column);
        &mut self.rows[row][at]
    }

    /// The first gemm.
    fn gemm(&self) -> usize {
        let at = self.at("op");
        self.rows.iter().position(|row| row[at] == "gemm").unwrap()
    }
}

/// Faults of a copy in which one value of a gemm's row is another, without the start that
/// names its place.
fn with(column: &str, change: impl Fn(&str) -> String) -> Vec<String> {
    let (_dir, folder) = measured();
    let mut table = Table::read(&folder, "results.csv");
    let row = table.gemm();
    let cell = table.cell(row, column);
    *cell = change(cell);
    let place =
        format!("inconsistent: results.csv line {}, column {column}: `{cell}`: ", row + 2);
    table.write();
    let found = judged(&folder).faults.into_iter();
    found.filter_map(|fault| Some(fault.strip_prefix(&place)?.to_owned())).collect()
}

fn same(value: &str) -> String {
    value.to_owned()
}

#[test]
fn records_as_they_were_written_have_no_fault() {
    let (_dir, folder) = measured();
    let verdict = judged(&folder);
    assert_eq!(verdict.faults, [""; 0]);
    assert!(!verdict.warnings.iter().any(|w| w.contains("samples.csv")));
    assert_eq!(with("point_id", same), [""; 0]);
}

#[test]
fn what_the_problem_contradicts_is_a_fault() {
    let cases = [
        ("point_id", "0123456789ab", "the id of `gemm:m="),
        ("matrix_flops_model", "17", "this version computes `"),
        ("vector_flops_model", "17", "this version computes `"),
        ("bytes_read_model", "17", "this version computes `"),
        ("bytes_written_model", "17", "this version computes `"),
        ("experts_touched_model", "3", "this version computes ``"),
        ("op", "stream", "is a gemm"),
        ("shape_n", "9", "has `8`"),
        ("shape_n", "", "has `8`"),
        ("shape_batch", "1", "has ``"),
        ("residency", "L2", "bytes between two uses are in dram"),
        ("device", "Another", "ran on `Simulated Device`"),
        ("run_id", "0123456789ab", "run.csv has no such run"),
    ];
    for (column, value, part) in cases {
        let faults = with(column, |_| value.to_owned());
        assert_eq!(faults.len(), 1, "{column}: {faults:?}");
        assert!(faults[0].contains(part), "{column}: {faults:?}");
    }
}

#[test]
fn a_count_is_exact() {
    let plus_one = |value: &str| (value.parse::<u64>().unwrap() + 1).to_string();
    assert_eq!(with("bytes_read_model", plus_one).len(), 1);
}

/// Faults of a copy in which a gemm's times are so many times as long.
fn with_times(factor: f64) -> Vec<String> {
    let (_dir, folder) = measured();
    let mut table = Table::read(&folder, "results.csv");
    let row = table.gemm();
    for column in ["time_s_median", "time_s_ci_lo", "time_s_ci_hi"] {
        let cell = table.cell(row, column);
        *cell = (cell.parse::<f64>().unwrap() * factor).to_string();
    }
    table.write();
    judged(&folder).faults
}

#[test]
fn a_median_that_the_samples_contradict_is_a_fault() {
    assert_eq!(with_times(1.0 + 1e-9), [""; 0], "a spreadsheet rounds");
    for factor in [0.99, 1.001, 2.0] {
        let faults = with_times(factor);
        assert_eq!(faults.len(), 1, "{factor}: {faults:?}");
        assert!(faults[0].starts_with("inconsistent: results.csv line "), "{faults:?}");
        assert!(faults[0].contains("column time_s_median"), "{faults:?}");
        assert!(faults[0].contains("samples in samples.csv is "), "{faults:?}");
    }
}

#[test]
fn samples_that_are_not_all_there_are_a_fault() {
    let (_dir, folder) = measured();
    let mut table = Table::read(&folder, "samples.csv");
    table.rows.pop();
    table.write();
    let faults = judged(&folder).faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains("column n_samples"), "{faults:?}");
    *table.cell(0, "launches") = "none".into();
    table.write();
    let faults = judged(&folder).faults.join("\n");
    assert!(faults.contains("unreadable: samples.csv line 2, column launches: `none`"));
}

#[test]
fn without_samples_medians_are_not_checked_and_that_is_said() {
    let (_dir, folder) = measured();
    let mut table = Table::read(&folder, "samples.csv");
    table.rows.clear();
    table.write();
    let of = |folder: &Path| {
        let verdict = judged(folder);
        assert_eq!(verdict.faults, [""; 0]);
        verdict.warnings.join("\n")
    };
    assert!(of(&folder).contains("samples.csv has no samples of 4 rows"));
    fs::remove_file(folder.join("samples.csv")).unwrap();
    assert!(of(&folder).contains("samples.csv is not there"));
}

/// Own shares are where the near cache of `run.csv` holds them, and nothing else is.
#[test]
fn own_shares_are_held_against_the_near_cache() {
    let own = "[[points]]\nop = \"stream\"\naccess = \"read\"\nbytes = \"64 KiB\"\n\
               passes = 3\nreuse = [\"shared\", \"own\"]\ncache = \"hot\"\n";
    let suite = format!("{SUITE}{own}");
    let (_dir, folder) = measured_with(&suite, ("near_cache", "L1=131072"));
    assert_eq!(judged(&folder).faults, [""; 0]);
    let mut table = Table::read(&folder, "results.csv");
    let near = (0..table.rows.len()).filter(|&row| *table.cell(row, "residency") == "L1");
    let near: Vec<usize> = near.collect();
    assert_eq!(near.len(), 1);
    assert!(table.cell(near[0], "problem").ends_with("reuse=own"));
    *table.cell(near[0], "residency") = "L2".into();
    table.write();
    let faults = judged(&folder).faults;
    assert!(faults.len() == 1 && faults[0].contains("are in L1"), "{faults:?}");
    // Records of before name no such cache.
    let mut runs = Table::read(&folder, "run.csv");
    *runs.cell(0, "near_cache") = String::new();
    runs.write();
    assert_eq!(judged(&folder).faults, [""; 0]);
}

/// Faults of a copy with a second process that differs in one column.
fn with_second_run(column: &str, value: &str) -> Verdict {
    let (_dir, folder) = measured();
    let mut table = Table::read(&folder, "run.csv");
    table.rows.push(table.rows[0].clone());
    *table.cell(1, "run_id") = "0123456789ab".into();
    *table.cell(1, column) = value.to_owned();
    table.write();
    judged(&folder)
}

#[test]
fn rows_of_two_machines_are_a_fault() {
    assert_eq!(with_second_run("seed", "6").faults, [""; 0]);
    for (column, value) in [
        ("device", "Another"),
        ("caches", "L2=2097152"),
        ("host_hash", "0123456789ab"),
        ("backend", "cuda:0"),
        ("threads", "1"),
        ("device_kind", "measured"),
    ] {
        let faults = with_second_run(column, value).faults;
        let place = format!("inconsistent: run.csv line 3, column {column}: `{value}`: ");
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with(&place), "{faults:?}");
        assert!(faults[0].contains("rows of two machines"), "{faults:?}");
    }
}

#[test]
fn rows_of_two_builds_are_said() {
    let verdict = with_second_run("build_profile", "other");
    assert_eq!(verdict.faults, [""; 0]);
    assert!(verdict.warnings.join("\n").contains("two builds"), "{:?}", verdict.warnings);
}

#[test]
fn columns_that_are_missing_and_newer_versions_are_faults() {
    let (_dir, folder) = measured();
    for (file, column) in [
        ("results.csv", "bytes_read_model"),
        ("results.csv", "residency"),
        ("run.csv", "protocol"),
    ] {
        let whole = fs::read(folder.join(file)).unwrap();
        let mut table = Table::read(&folder, file);
        let at = table.at(column);
        table.header[at] = "other".into();
        table.write();
        let faults = judged(&folder).faults.join("\n");
        let place = format!("inconsistent: {file} line 1, column {column}: ``: ");
        assert!(faults.contains(&place), "{faults}");
        fs::write(folder.join(file), whole).unwrap();
    }
    let newer = (SCHEMA_VERSION + 1).to_string();
    for (version, part) in
        [(newer.as_str(), "newer than this program"), ("x", "a version is a number")]
    {
        let mut table = Table::read(&folder, "run.csv");
        *table.cell(0, "schema_version") = version.to_owned();
        table.write();
        let faults = judged(&folder).faults;
        assert_eq!(faults.len(), 1, "{faults:?}");
        let place =
            format!("inconsistent: run.csv line 2, column schema_version: `{version}`: ");
        assert!(faults[0].starts_with(&place) && faults[0].contains(part), "{faults:?}");
    }
}

#[test]
fn ids_are_those_of_the_rows_own_protocol() {
    let (_dir, folder) = measured();
    let mut runs = Table::read(&folder, "run.csv");
    *runs.cell(0, "protocol") = "0".into();
    runs.write();
    let faults = judged(&folder).faults;
    assert_eq!(faults.len(), 4, "ids of another protocol: {faults:?}");
    for file in ["results.csv", "samples.csv"] {
        let mut table = Table::read(&folder, file);
        let results = Table::read(&folder, "results.csv");
        let text = |row: &Vec<String>| {
            ["problem", "kernel", "cache_state"]
                .map(|c| row[results.at(c)].clone())
                .join("@")
        };
        let ids: Vec<(String, String)> = results
            .rows
            .iter()
            .map(|row| text(row).parse::<Point>().unwrap())
            .map(|point| (point.id(), point.id_under("0")))
            .collect();
        for row in 0..table.rows.len() {
            let cell = table.cell(row, "point_id");
            if let Some((_, id)) = ids.iter().find(|(id, _)| id == cell) {
                *cell = id.clone();
            }
        }
        table.write();
    }
    assert_eq!(judged(&folder).faults, [""; 0]);
}

#[test]
fn many_findings_of_one_kind_are_counted() {
    let (_dir, folder) = measured();
    let mut table = Table::read(&folder, "samples.csv");
    let rows = table.rows.len();
    for row in 0..rows {
        *table.cell(row, "launches") = "0".into();
    }
    table.write();
    let faults = judged(&folder).faults;
    assert_eq!(faults.len(), 6, "{faults:?}");
    let rest = format!("{} more lines are in samples.csv as the above", rows - 5);
    assert!(faults[5].contains(&rest), "{faults:?}");
}

/// A campaign of so many rows, made of a small one: its linear layer again and again, of other
/// shapes, each with its rounds and samples. Line by line: this process is to stay small.
fn made_large(folder: &Path, rows: usize) {
    let results = Table::read(folder, "results.csv");
    let problem = results.at("problem");
    let is_gemm = |row: &&Vec<String>| row[problem].starts_with("gemm:m=1,");
    let template = results.rows.iter().find(is_gemm).unwrap();
    let mut streams = results.rows.clone();
    streams.retain(|row| row[problem].starts_with("stream"));
    let mut writer = csv::Writer::from_path(&results.path).unwrap();
    writer.write_record(&results.header).unwrap();
    streams.iter().for_each(|row| writer.write_record(row).unwrap());
    let mut ids = Vec::new();
    for made in streams.len()..rows {
        let (m, n, k) =
            (1 + made % 100, 8 * (1 + made / 100 % 100), 16 * (1 + made / 10_000));
        let text = format!("gemm:m={m},n={n},k={k},dtype=f32");
        let point: Point = format!("{text}@simulated@cold").parse().unwrap();
        let work = point.problem.work();
        let mut row = template.clone();
        for (column, value) in [
            ("point_id", point.id()),
            ("problem", text),
            ("order_index", made.to_string()),
            ("matrix_flops_model", work.matrix_flops().to_string()),
            ("bytes_read_model", work.bytes_read().to_string()),
            ("bytes_written_model", work.bytes_written().to_string()),
            ("shape_m", m.to_string()),
            ("shape_n", n.to_string()),
            ("shape_k", k.to_string()),
        ] {
            row[results.at(column)] = value;
        }
        writer.write_record(&row).unwrap();
        ids.push(point.id());
    }
    writer.flush().unwrap();
    for file in ["rounds.csv", "samples.csv"] {
        let table = Table::read(folder, file);
        let of = table.at("point_id");
        let mut writer = csv::Writer::from_path(&table.path).unwrap();
        writer.write_record(&table.header).unwrap();
        let is_of = |row: &&Vec<String>, id: &str| row[of] == id;
        let id = &template[results.at("point_id")];
        let lines: Vec<_> = table.rows.iter().filter(|row| is_of(row, id)).collect();
        for id in &ids {
            for line in &lines {
                let cells = line.iter().enumerate();
                let cells = cells.map(|(at, cell)| if at == of { id } else { cell });
                writer.write_record(cells).unwrap();
            }
        }
        for stream in &streams {
            let id = &stream[results.at("point_id")];
            let lines = table.rows.iter().filter(|row| is_of(row, id));
            lines.for_each(|line| writer.write_record(line).unwrap());
        }
        writer.flush().unwrap();
    }
    let mut run = Table::read(folder, "run.csv");
    *run.cell(0, "planned_rows") = rows.to_string();
    run.write();
}

/// Bytes of memory that this process has had at most.
#[cfg(target_os = "linux")]
fn most_memory_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

/// 100,000 rows with three rounds each, judged in less than 5 s and 600 MB.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "100,000 rows, for a program that was compiled for speed"]
fn a_large_campaign_is_judged_in_seconds() {
    let (_dir, folder) = measured();
    made_large(&folder, 100_000);
    // What was made is not what is measured.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let began = std::time::Instant::now();
    let verdict = judged(&folder);
    let (seconds, bytes) = (began.elapsed().as_secs_f64(), most_memory_bytes());
    println!("100,000 rows in {seconds:.2} s and {} MB", bytes / 1_000_000);
    assert!(verdict.is_valid(), "{:?}", &verdict.faults[..verdict.faults.len().min(3)]);
    assert!(seconds < 5.0 && bytes < 600_000_000, "{seconds} s, {bytes} bytes");
}
