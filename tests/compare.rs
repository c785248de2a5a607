//! `compare`, `history`, `merge` and `measure --shard` as a person runs them, on the committed
//! campaigns and on damaged copies of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const QUICK: &str = "results/2026-11-27-nvidia-h100-80gb-hbm3-quick";
const AGAIN: &str = "results/2026-11-27-nvidia-h100-80gb-hbm3-quick-again";
const H100: &str = "results/2026-11-27-nvidia-h100-80gb-hbm3-headline";
const H200: &str = "results/2026-11-27-nvidia-h200-headline";
const OTHER_PROTOCOL: &str = "results/2026-11-26-nvidia-h100-80gb-hbm3-quick";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
    command.current_dir(root()).args(arguments).env_remove("COLUMNS").output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A column of what is printed as CSV.
fn column(arguments: &[&str], name: &str) -> Vec<String> {
    let output = run(&[arguments, &["--format", "csv"]].concat());
    let text = out(&output);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().unwrap().clone();
    let at = header.iter().position(|column| column == name).unwrap_or_else(|| {
        panic!("no {name} in {header:?}; {}", told(&output));
    });
    reader.records().map(|row| row.unwrap()[at].to_owned()).collect()
}

fn count(values: &[String], of: &str) -> usize {
    values.iter().filter(|value| *value == of).count()
}

/// The same program on the same card twice: nothing is told to differ.
#[test]
fn the_same_measured_twice_has_no_false_alarm() {
    let findings = column(&["compare", QUICK, AGAIN], "finding");
    assert!(findings.len() > 50, "{findings:?}");
    assert_eq!((count(&findings, "faster"), count(&findings, "slower")), (0, 0));
    let output = run(&["compare", QUICK, AGAIN, "--fail-on", "slower"]);
    assert!(output.status.success(), "{}", told(&output));
    let text = out(&output);
    for part in ["smallest difference that can be told", "whose code is the same in both"] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
}

/// An H200 has 43% more bandwidth: reads from DRAM are that much faster, each under its own
/// roof, and the other way round scripts can be told.
#[test]
fn one_gpu_stands_beside_another() {
    let filter = ["compare", H100, H200, "--filter", "op=decode_attention,context>=8192"];
    let findings = column(&filter, "finding");
    assert!(findings.len() >= 10 && count(&findings, "faster") == findings.len());
    for share in column(&filter, "roof_after_share") {
        assert!((0.5..1.1).contains(&share.parse::<f64>().unwrap()), "{share}");
    }
    let back = ["compare", H200, H100, "--filter", "op=decode_attention"];
    assert_eq!(run(&back).status.code(), Some(0));
    let fails = [&back[..], &["--fail-on", "slower"]].concat();
    assert_eq!(run(&fails).status.code(), Some(4));
}

#[test]
fn own_kernels_stand_beside_peers() {
    let peers = column(&["compare", H200, "--peers"], "peer");
    assert!(peers.len() > 10 && peers.iter().any(|peer| peer == "cublaslt"), "{peers:?}");
    let none = run(&["compare", OTHER_PROTOCOL, "--peers"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(told(&none).contains("`ridgepoint peers "), "{}", told(&none));
}

#[test]
fn markdown_has_what_changed_before_the_rest() {
    let output = run(&["compare", H100, H200, "--format", "markdown"]);
    let text = out(&output);
    let (changed, all) = text.split_once("<details>").unwrap();
    let rows = |text: &str, word: &str| {
        text.lines().filter(|line| line.contains(&format!("| {word} |"))).count()
    };
    assert!(rows(changed, "faster") > 30 && rows(changed, "cannot tell") == 0);
    assert!(rows(all, "cannot tell") > 0 && all.trim_end().ends_with("</details>"));
    // No cell ends a row early.
    let widths: Vec<usize> = changed
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.replace("\\|", "").matches('|').count())
        .collect();
    assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{widths:?}");
}

#[test]
fn a_figure_is_drawn_where_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for (name, begins) in [("c.svg", &b"<svg"[..]), ("c.png", &b"\x89PNG"[..])] {
        let output = run(&["compare", H100, H200, "--figure", &at(name)]);
        assert!(output.status.success(), "{}", told(&output));
        let bytes = fs::read(at(name)).unwrap();
        assert!(bytes.starts_with(begins) || bytes.starts_with(b"<?xml"), "{name}");
    }
    let text = fs::read_to_string(at("c.svg")).unwrap();
    roxmltree::Document::parse(&text).unwrap();
    let output = run(&["compare", H100, H200, "--figure", &at("c.gif")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        told(&output).contains("c.gif: a figure is .svg, .pdf or .png"),
        "{}",
        told(&output)
    );
}

#[test]
fn what_cannot_be_compared_says_why() {
    let protocol = run(&["compare", OTHER_PROTOCOL, QUICK]);
    assert_eq!(protocol.status.code(), Some(1));
    let why = told(&protocol);
    assert!(why.contains("was measured under protocol 1 and"), "{why}");
    let nothing = run(&["compare", QUICK, AGAIN, "--filter", "op=rmsnorm,m=77"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(told(&nothing).contains("no point with a time in both"), "{}", told(&nothing));
    let devices = run(&["history", "results"]);
    assert_eq!(devices.status.code(), Some(1));
    assert!(told(&devices).contains("campaigns of 3 devices"), "{}", told(&devices));
    let shard = run(&["measure", "quick", "--device", "cpu", "--shard", "5/3"]);
    assert_eq!(shard.status.code(), Some(2));
    assert!(told(&shard).contains("write `3/8`"), "{}", told(&shard));
}

/// A copy of a campaign without its large files.
fn copied(to: &Path) -> PathBuf {
    fs::create_dir(to).unwrap();
    for name in ["run.csv", "results.csv", "rounds.csv", "suite.toml"] {
        fs::copy(root().join(AGAIN).join(name), to.join(name)).unwrap();
    }
    to.to_owned()
}

/// Values that cannot be read cost their rows, which are named, and nothing else; a torn file
/// is compared as far as it goes, and records of a later version are refused.
#[test]
fn damaged_records_are_named_and_the_rest_is_compared() {
    let dir = tempfile::tempdir().unwrap();
    let folder = copied(&dir.path().join("damaged"));
    let (path, name) = (folder.join("results.csv"), folder.to_str().unwrap().to_owned());
    let text = fs::read_to_string(&path).unwrap();
    let whole = column(&["compare", QUICK, &name], "point_id").len();
    let header: Vec<&str> = text.lines().next().unwrap().split(',').collect();
    let at = header.iter().position(|column| *column == "n_samples").unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(reader.headers().unwrap()).unwrap();
    for (row, record) in reader.records().enumerate() {
        let record = record.unwrap();
        let cells = record.iter().enumerate();
        let cells = cells.map(|(column, cell)| match (row, column == at) {
            (1, true) => "many",
            _ => cell,
        });
        writer.write_record(cells).unwrap();
    }
    fs::write(&path, writer.into_inner().unwrap()).unwrap();
    let output = run(&["compare", QUICK, &name]);
    assert!(output.status.success(), "{}", told(&output));
    let why = told(&output);
    let found = "unreadable: results.csv line 3, column n_samples: `many`";
    assert!(why.contains(found), "{why}");
    let left = column(&["compare", QUICK, &name], "point_id").len();
    assert!(left + 1 >= whole && left <= whole, "{left} of {whole}");

    let torn = &text[..text.len() / 2];
    fs::write(&path, torn).unwrap();
    let output = run(&["compare", QUICK, &name]);
    assert!(output.status.success(), "{}", told(&output));
    assert!(told(&output).contains("planned rows are there"), "{}", told(&output));
    let half = column(&["compare", QUICK, &name], "point_id").len();
    assert!(0 < half && half < whole, "{half} of {whole}");

    let without = text.replacen("time_s_median", "time_s_middle", 1);
    fs::write(&path, without).unwrap();
    let output = run(&["compare", QUICK, &name]);
    assert_eq!(output.status.code(), Some(1));
    let why = told(&output);
    assert!(why.contains("results.csv line 1, column time_s_median"), "{why}");

    fs::write(&path, &text).unwrap();
    let run_path = folder.join("run.csv");
    let later = fs::read_to_string(&run_path).unwrap().replacen("\n6,", "\n99,", 1);
    fs::write(&run_path, later).unwrap();
    let output = run(&["compare", QUICK, &name]);
    assert_eq!(output.status.code(), Some(1));
    let why = told(&output);
    assert!(why.contains("run.csv line 2, column schema_version: `99`"), "{why}");
}

/// Three shards of a small suite on this machine's CPU, merged: every planned row is there,
/// and a report is drawn.
#[test]
fn shards_of_this_machine_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let suite = root().join("tests/tiny.toml");
    let measure = ["measure", suite.to_str().unwrap(), "--device", "cpu"];
    let filter = ["--filter", "op!=prefill_attention,op!=decode_attention"];
    for shard in ["1/3", "2/3", "3/3"] {
        let of = ["--shard", shard, "--out", &at(&shard[..1])];
        let output = run(&[&measure[..], &filter, &of].concat());
        assert!(output.status.success(), "{}", told(&output));
    }
    let parts = [at("1"), at("2"), at("3")];
    let all = at("all");
    let merge: Vec<&str> = parts.iter().map(String::as_str).collect();
    let output = run(&[&["merge"], &merge[..], &["--out", &all]].concat());
    assert!(output.status.success(), "{}", told(&output));
    let rows = fs::read_to_string(Path::new(&all).join("run.csv")).unwrap();
    assert_eq!(rows.lines().count(), 1 + 3, "{rows}");
    let output = run(&["report", &all]);
    assert!(output.status.success(), "{}", told(&output));
    let points = fs::read_to_string(Path::new(&all).join("points.csv")).unwrap();
    assert!(points.lines().next().unwrap().ends_with(",node"), "{points}");
    let two = run(&["merge", merge[0], merge[2], "--out", &at("two")]);
    assert_eq!(two.status.code(), Some(3), "{}", told(&two));
    assert!(told(&two).contains("missing: shard 2 of the plan"), "{}", told(&two));
}
