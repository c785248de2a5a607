//! The program as a person runs it: real measurements on this machine's CPU,
//! small enough for tests.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tiny.toml");

fn ridgepoint(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
    command.current_dir(directory).args(arguments);
    command
}

fn run(directory: &Path, arguments: &[&str]) -> Output {
    ridgepoint(directory, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Standard output of a run that must succeed.
fn succeed(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments);
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {:?}\n{errors}", output.status);
    text(&output.stdout)
}

/// Standard error of a run that must fail with exit code 1 and without panic.
fn fail(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}\n{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    errors
}

/// Column `name` of a CSV file of the campaign.
fn column(file: &Path, name: &str) -> Vec<String> {
    let mut reader = csv::Reader::from_path(file).unwrap();
    let index = reader.headers().unwrap().iter().position(|h| h == name).unwrap();
    reader.records().map(|record| record.unwrap()[index].to_owned()).collect()
}

fn keys(folder: &Path) -> Vec<(String, String)> {
    let results = folder.join("results.csv");
    column(&results, "point_id").into_iter().zip(column(&results, "repeat")).collect()
}

fn planned(folder: &Path) -> usize {
    column(&folder.join("run.csv"), "planned_rows")[0].parse().unwrap()
}

/// The tiny suite with the one point that figures cannot do without, a read
/// from DRAM.
fn with_dram(directory: &Path) -> String {
    let stream = "[[points]]\nop = \"stream\"\naccess = \"read\"\nbytes = \"2 llc\"\n\
                  cache = \"hot\"\n";
    let path = directory.join("dram.toml");
    fs::write(&path, fs::read_to_string(TINY).unwrap() + stream).unwrap();
    path.display().to_string()
}

/// Where a command's output goes in tests of outputs that take nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sink {
    /// A pipe that nobody reads any more.
    Closed,
    /// A device without room.
    #[cfg(target_os = "linux")]
    Full,
}

impl Sink {
    fn open(self) -> Stdio {
        match self {
            // The reader is dropped here.
            Sink::Closed => std::io::pipe().unwrap().1.into(),
            #[cfg(target_os = "linux")]
            Sink::Full => {
                fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into()
            }
        }
    }
}

/// Commands that print, with the exit code that they have, on a folder `c` with a campaign.
const PRINTING: [(&[&str], i32); 16] = [
    (&["--help"], 0),
    (&["--version"], 0),
    (&["predict", "step", "--help"], 0),
    (&["list", TINY], 0),
    (&["list", TINY, "--format", "csv"], 0),
    (&["doctor", "--device", "cpu"], 0),
    (&["check", TINY, "--device", "cpu"], 0),
    (&["check", TINY, "--device", "cpu", "--format", "csv"], 0),
    (&["predict", "--format", "json"], 0),
    (&["predict", "--batch", "1..20000", "--format", "csv"], 0),
    (&["predict", "--explain"], 0),
    (&["predict", "task"], 0),
    (&["predict", "figures", "figures"], 0),
    (&["verdict", "c"], 0),
    (&["report", "c"], 0),
    (&["measure", "--resume", "c"], 0),
];

/// `ridgepoint ... | head` is no error, and what is not printed is written all the same.
#[test]
fn a_reader_that_stops_early_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    succeed(dir.path(), &["measure", TINY, "--device", "cpu", "--out", "c"]);
    for (arguments, code) in PRINTING {
        fs::remove_file(dir.path().join("c/report.html")).ok();
        let mut command = ridgepoint(dir.path(), arguments);
        let output = command.stdout(Sink::Closed.open()).output().unwrap();
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(!errors.contains("panicked") && !errors.contains("pipe"), "{errors}");
        if ["report", "measure"].contains(&arguments[0]) {
            assert!(dir.path().join("c/report.html").exists(), "{arguments:?}");
        }
        let mut command = ridgepoint(dir.path(), arguments);
        let output = command.stderr(Sink::Closed.open()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}, no reader of remarks");
        assert!(!output.stdout.is_empty(), "{arguments:?}, no reader of remarks");
    }
    assert!(dir.path().join("figures").is_dir());
}

/// A campaign goes on when its log is gone, to its last row.
#[test]
fn a_closed_log_does_not_end_a_measurement() {
    let dir = tempfile::tempdir().unwrap();
    let mut command =
        ridgepoint(dir.path(), &["measure", TINY, "--device", "cpu", "--out", "c"]);
    let status = command.stdout(Sink::Closed.open()).stderr(Sink::Closed.open()).status();
    assert_eq!(status.unwrap().code(), Some(0));
    let folder = dir.path().join("c");
    assert_eq!(keys(&folder).len(), planned(&folder));
    assert!(folder.join("report.html").is_file());
}

/// Output that cannot be written is a sentence and exit code 1, not a panic and not success.
#[cfg(target_os = "linux")]
#[test]
fn a_full_device_is_an_error_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    succeed(dir.path(), &["measure", TINY, "--device", "cpu", "--out", "c"]);
    for (arguments, _) in PRINTING {
        fs::remove_file(dir.path().join("c/report.html")).ok();
        let mut command = ridgepoint(dir.path(), arguments);
        let output = command.stdout(Sink::Full.open()).output().unwrap();
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {errors}");
        let told = "ridgepoint: cannot write to standard output: No space left on device";
        let lines = errors.lines().filter(|line| line.starts_with(told)).count();
        assert_eq!(lines, 1, "{arguments:?}: {errors}");
        assert!(!errors.contains("panicked"), "{errors}");
        if ["report", "measure"].contains(&arguments[0]) {
            assert!(dir.path().join("c/report.html").exists(), "{arguments:?}");
        }
    }
    // A log that is lost is one too, at the end.
    for arguments in
        [&["measure", TINY, "--device", "cpu", "--out", "d"][..], &["--nonsense"]]
    {
        let output = ridgepoint(dir.path(), arguments).stderr(Sink::Full.open()).output();
        let code = output.unwrap().status.code();
        assert!([Some(1), Some(2)].contains(&code), "{arguments:?}: {code:?}");
    }
    assert_eq!(keys(&dir.path().join("d")).len(), planned(&dir.path().join("d")));
}

/// A command that did nothing of what it is there for does not end as if it had, and says
/// why.
#[test]
fn what_did_nothing_fails_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let point = "gemm:m=8,n=8,k=8,dtype=fp8_e4m3@none@cold";
    let measured = run(dir.path(), &["measure", "--device", "cpu", "--point", point]);
    let errors = text(&measured.stderr);
    assert_eq!(measured.status.code(), Some(3), "{errors}");
    let told =
        "invalid: nothing was measured: of 1 point, 1 skipped; the first is gemm:m=8";
    assert!(errors.contains(told), "{errors}");
    assert!(errors.contains("fp8_e4m3"), "{errors}");
    let folder = names_in(&dir.path().join("results")).remove(0);
    let folder = format!("results/{folder}");
    for command in ["verdict", "report"] {
        let output = run(dir.path(), &[command, &folder]);
        assert_eq!(output.status.code(), Some(3), "{command}");
        assert!(text(&output.stderr).contains(told), "{command}");
    }
    let suite = "name = \"none\"\n[[points]]\nop = \"gemm\"\nm = [8, 16]\nn = 8\nk = 8\n\
                 dtype = \"fp8_e4m3\"\n";
    fs::write(dir.path().join("none.toml"), suite).unwrap();
    let refused = ["--tensor", "3", "--model", "llama-3.1-8b"];
    let predict = |more: &[&'static str]| [&["predict"], more, &refused].concat();
    let cases: [(Vec<&str>, &str); 10] = [
        (vec!["check", "none.toml", "--device", "cpu"], "nothing was checked: gemm:m=8"),
        (vec!["check", TINY, "--device", "cpu", "--skip", "999"], "--skip 999 leaves none"),
        (
            vec!["selfcheck", "none.toml", "--device", "cpu"],
            "no point of none was measured in both campaigns",
        ),
        (predict(&["step", "--batch", "1,2"]), "nothing could be predicted: "),
        (predict(&["step", "--format", "csv"]), "nothing could be predicted: "),
        (predict(&["step", "--format", "json"]), "nothing could be predicted: "),
        (predict(&["step", "--explain"]), "nothing could be predicted: "),
        (predict(&["task"]), "nothing could be predicted: "),
        (predict(&["disaggregate"]), "nothing could be predicted: "),
        (predict(&["offload"]), "nothing could be predicted: "),
    ];
    for (arguments, part) in cases {
        let errors = fail(dir.path(), &arguments);
        assert!(errors.contains(&format!("ridgepoint: {part}")), "{arguments:?}: {errors}");
    }
    // What is refused in part is not.
    succeed(dir.path(), &["predict", "--tensor", "1,3", "--model", "llama-3.1-8b"]);
}

/// A driver that is an empty file, as in containers without the GPU's runtime, and libraries
/// whose download broke off: the reason is told, and no signal ends the program.
#[cfg(target_os = "linux")]
#[test]
fn libraries_that_are_cut_or_empty_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let with = |name: &str, value: &Path, device: &str| {
        let mut command = ridgepoint(dir.path(), &["doctor", "--device", device]);
        let output = command.env(name, value).output().unwrap();
        assert!(output.status.code().is_some(), "{name}: {}", output.status);
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    for name in ["libcuda.so", "libcuda.so.1"] {
        fs::write(path(name), "").unwrap();
    }
    let (opened, _, errors) = with("LD_LIBRARY_PATH", dir.path(), "cuda:0");
    assert!(!opened, "{errors}");
    assert!(errors.contains("the NVIDIA driver cannot be loaded: "), "{errors}");
    assert!(errors.contains("libcuda.so.1: file too short"), "{errors}");
    // This program is as good a library as any, for as long as it is not opened.
    let whole = fs::read(std::env::current_exe().unwrap()).unwrap();
    let cut = &whole[..whole.len() / 2];
    for name in ["libcuda.so", "libcuda.so.1", "libnvrtc.so.13", "libnvidia-ml.so.1"] {
        fs::write(path(name), cut).unwrap();
    }
    let (opened, _, errors) = with("LD_LIBRARY_PATH", dir.path(), "cuda:0");
    assert!(!opened && errors.contains("libcuda.so.1 is cut: it has "), "{errors}");
    for chosen in [path("libnvrtc.so.13"), dir.path().to_owned()] {
        let (opened, printed, errors) = with("RIDGEPOINT_NVRTC", &chosen, "cpu");
        assert!(opened, "{errors}");
        let words = printed.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("libnvrtc.so.13 is cut: it has "), "{words}");
    }
}

/// A path is what the file system has, whether it is text or not, and the command line that
/// a campaign records is one that a shell reads back.
#[cfg(target_os = "linux")]
#[test]
fn a_path_that_is_no_text_is_a_path() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let suite = OsStr::from_bytes(b"it's \xff.toml");
    fs::copy(TINY, dir.path().join(suite)).unwrap();
    for command in ["list", "check", "measure"] {
        let mut command = ridgepoint(dir.path(), &[command, "--device", "cpu"]);
        let output = command.arg(suite).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let folder = names_in(&dir.path().join("results")).remove(0);
    let folder = dir.path().join("results").join(folder);
    let recorded = column(&folder.join("run.csv"), "command_line").remove(0);
    let words = recorded.strip_prefix("ridgepoint ").unwrap();
    let script = format!("printf '%s\\0' {words}");
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let read: Vec<&[u8]> = output.stdout.split(|byte| *byte == 0).collect();
    assert_eq!(read, [&b"measure"[..], b"--device", b"cpu", suite.as_bytes(), b""]);
    fs::remove_file(dir.path().join(suite)).unwrap();
    let mut command = ridgepoint(dir.path(), &["list", "--device", "cpu"]);
    let output = command.arg(suite).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot read suite it's"));
}

/// A row whose problem was changed is named by everything that reads the records, and a
/// campaign is not continued with it.
#[test]
fn rows_that_were_edited_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read_to_string(TINY).unwrap();
    let suite = whole.replace("context = [1, 100]", "context = 128");
    assert_ne!(suite, whole);
    fs::write(dir.path().join("suite.toml"), suite).unwrap();
    succeed(dir.path(), &["measure", "suite.toml", "--device", "cpu", "--out", "c"]);
    let path = dir.path().join("c/results.csv");
    let results = fs::read_to_string(&path).unwrap();
    // As `sed 's/context=128/context=1024/'` does.
    let edit = |line: &str| line.replacen("context=128", "context=1024", 1) + "\n";
    let edited: String = results.lines().map(edit).collect();
    let lines: Vec<usize> = (1..)
        .zip(results.lines().zip(edited.lines()))
        .filter_map(|(number, (before, after))| (before != after).then_some(number))
        .collect();
    assert!(lines.len() >= 4, "{lines:?}");
    fs::write(&path, edited).unwrap();
    let commands: [(&[&str], i32); 3] =
        [(&["verdict", "c"], 3), (&["report", "c"], 3), (&["measure", "--resume", "c"], 1)];
    for (arguments, code) in commands {
        let output = run(dir.path(), arguments);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        for column in ["point_id", "bytes_read_model", "shape_context"] {
            let place = format!("results.csv line {}, column {column}", lines[0]);
            assert!(errors.contains(&place), "{arguments:?}: {errors}");
        }
    }
}

/// A command in a shell that lets no file grow beyond so many blocks of 512 bytes: as a full
/// disk does, writes fail.
#[cfg(target_os = "linux")]
fn with_small_files(directory: &Path, blocks: u32, arguments: &[&str]) -> Output {
    let mut command = Command::new("sh");
    let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    command.args(["-c", &limited, "sh", env!("CARGO_BIN_EXE_ridgepoint")]);
    command.current_dir(directory).args(arguments).output().unwrap()
}

/// Names of everything in a folder, hidden files too.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// A disk that is full when a campaign begins: what cannot be written is named with what to
/// do, and nothing is left of it.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let measure = |out| ["measure", TINY, "--device", "cpu", "--out", out];
    for out in ["c", "deep/folder/c"] {
        let output = with_small_files(dir.path(), 1, &measure(out));
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        let told = errors.lines().last().unwrap();
        assert!(told.contains("/suite.toml: "), "{told}");
        assert!(told.contains(out) && told.contains("--out"), "{told}");
        assert_eq!(names_in(dir.path()), ["file"], "{out}");
    }
    let errors = fail(dir.path(), &measure("file/c"));
    assert!(errors.contains("cannot begin a campaign in file/c"), "{errors}");
    let output = with_small_files(dir.path(), 1, &["predict", "figures", "figures"]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("cannot write figures/"), "{errors}");
    assert!(names_in(&dir.path().join("figures")).iter().all(|name| !name.contains("new")));
}

/// A disk that is full in the midst of a campaign: which file it was, and that it can go on.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["measure", TINY, "--device", "cpu", "--out", "c"];
    let output = with_small_files(dir.path(), 16, &arguments);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let told = errors.lines().last().unwrap();
    assert!(told.contains("cannot write c/"), "{errors}");
    assert!(told.contains("`ridgepoint measure --resume c` goes on"), "{errors}");
    succeed(dir.path(), &["measure", "--resume", "c", "--device", "cpu"]);
    let folder = dir.path().join("c");
    assert_eq!(keys(&folder).len(), planned(&folder));
}

/// What a cache gives is not a limit of the machine: there is no roofline from it,
/// and the program says why.
#[test]
fn without_dram_there_are_records_and_no_ridge() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["measure", TINY, "--out", "c"]);
    let (printed, remarks) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{remarks}");
    assert!(remarks.contains("no read stream was measured from DRAM"), "{remarks}");
    assert!(printed.contains("not tested"), "{printed}");
    let verdict = fs::read_to_string(dir.path().join("c/verdict.csv")).unwrap();
    let mut limits = verdict.lines().filter(|line| line.starts_with("limit,"));
    assert!(limits.all(|line| !line.contains("_ridge,")), "{verdict}");
    assert!(!dir.path().join("c/roofline.svg").exists());
    assert!(dir.path().join("c/report.html").exists());
}

#[test]
fn measure_writes_records_figures_and_a_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let suite = with_dram(dir.path());
    let output = run(dir.path(), &["measure", &suite, "--out", "campaign"]);
    let (printed, remarks) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{remarks}");
    assert!(printed.contains("Decode attention is memory bound."), "{printed}");
    assert!(remarks.contains("outside warm-up, checks and samples"), "{remarks}");
    assert!(remarks.contains("expect at least "), "{remarks}");
    let folder = dir.path().join("campaign");
    assert_eq!(keys(&folder).len(), planned(&folder));
    let statuses = column(&folder.join("results.csv"), "status");
    let reasons = column(&folder.join("results.csv"), "reason");
    for (status, reason) in statuses.iter().zip(&reasons) {
        assert!(
            ["ok", "noisy", "skipped"].contains(&status.as_str()),
            "{status}: {reason}"
        );
        assert_eq!(status == "ok", reason.is_empty());
    }
    // bf16 multiply-adds, tensor units and int8 gemms are beyond this device; products of
    // pairs of bf16 are not, where the CPU has them.
    let lacks_pairs = reasons.iter().any(|reason| reason.contains("AVX512-BF16"));
    let skipped = statuses.iter().filter(|s| *s == "skipped").count();
    assert_eq!(skipped, 4 + usize::from(lacks_pairs), "{reasons:?}");
    for name in ["roofline", "oi", "bandwidth"] {
        let png = fs::read(folder.join(format!("{name}.png"))).unwrap();
        assert!(png.starts_with(b"\x89PNG"), "{name}");
        let svg = fs::read_to_string(folder.join(format!("{name}.svg"))).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{name}");
        assert!(!svg.contains("<text"), "{name} needs a font");
        let pdf = fs::read(folder.join(format!("{name}.pdf"))).unwrap();
        assert!(pdf.starts_with(b"%PDF-1."), "{name}");
        let csv = fs::read_to_string(folder.join(format!("{name}.csv"))).unwrap();
        assert!(csv.starts_with("panel,series,point_id,") && csv.lines().count() > 1);
    }
    for name in ["report.html", "headline.tex", "points.csv", "verdict.csv", "suite.toml"] {
        assert!(folder.join(name).is_file(), "{name}");
    }
}

#[test]
fn verdict_and_report_need_the_records_alone() {
    let dir = tempfile::tempdir().unwrap();
    let points = succeed(
        dir.path(),
        &["measure", &with_dram(dir.path()), "--out", "a", "--format", "csv"],
    );
    assert_eq!(points, fs::read_to_string(dir.path().join("a/points.csv")).unwrap());
    let copy = dir.path().join("b");
    fs::create_dir(&copy).unwrap();
    for name in ["run.csv", "results.csv", "rounds.csv"] {
        fs::copy(dir.path().join("a").join(name), copy.join(name)).unwrap();
    }
    let table = succeed(dir.path(), &["verdict", "b"]);
    assert_eq!(table, succeed(dir.path(), &["verdict", "a"]));
    let json = succeed(dir.path(), &["verdict", "b", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["claims"][0]["statement"], "Decode attention is memory bound.");
    assert_eq!(json["valid"], true);
    let limits = json["limits"].as_array().unwrap();
    let ridge = limits.iter().find(|row| row["id"] == "f32_ridge").unwrap();
    assert!(ridge["value"].as_f64().unwrap() > 0.0);
    succeed(dir.path(), &["report", "b"]);
    for name in
        ["roofline.svg", "roofline.png", "roofline.pdf", "roofline.csv", "points.csv"]
    {
        let read = |folder: &str| fs::read(dir.path().join(folder).join(name)).unwrap();
        assert_eq!(read("a"), read("b"), "{name} is not the same twice");
    }
}

#[test]
fn results_go_to_a_dated_folder_and_never_over_another() {
    let dir = tempfile::tempdir().unwrap();
    let point = "stream:access=read,bytes=1 MiB@cpu_stream@hot";
    for _ in 0..2 {
        // On a machine that others use nothing may be measured, and there are folders as well.
        let code = run(dir.path(), &["measure", "--point", point]).status.code();
        assert!([Some(0), Some(3)].contains(&code), "{code:?}");
    }
    let mut names: Vec<String> = fs::read_dir(dir.path().join("results"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 2);
    assert_eq!(names[1], format!("{}.2", names[0]));
    assert!(names[0].contains("-cpu-") && names[0].ends_with("-point"), "{names:?}");
}

/// Each row's own command, in a fresh process, gives a row of the same id.
#[test]
fn a_point_runs_alone_by_its_recorded_command() {
    let dir = tempfile::tempdir().unwrap();
    succeed(dir.path(), &["measure", TINY, "--out", "all"]);
    let results = dir.path().join("all/results.csv");
    let commands = column(&results, "repro_command");
    let ids = column(&results, "point_id");
    for index in [0, ids.len() / 2, ids.len() - 1] {
        let command = commands[index].replace('\'', "");
        let arguments: Vec<&str> = command.split(' ').skip(1).collect();
        let out = format!("alone{index}");
        let mut all = arguments.clone();
        all.extend(["--out", &out]);
        run(dir.path(), &all);
        let alone = column(&dir.path().join(out).join("results.csv"), "point_id");
        assert_eq!(alone, [ids[index].clone()]);
    }
}

/// The folder of a committed campaign.
fn result(name: &str) -> String {
    format!("{}/results/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn bad_input_says_where_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let suite = fs::read_to_string(TINY).unwrap();
    write("zero.toml", &suite.replace("n = 64", "n = 0"));
    write("key.toml", &suite.replace("head_dim = 64", "head_dims = 64"));
    write("heads.toml", &suite.replace("q_heads = [2, 8]", "q_heads = [3]"));
    fs::create_dir(dir.path().join("taken")).unwrap();
    write("models.toml", "[[model]]\nname = \"x\"\nlayers = 0\n");
    write(
        "comma.toml",
        "[[machine]]\nname = \"a,b\"\ndevice = \"x\"\nbytes_per_s = 1e12\n\
         flops_per_s = { f32 = 1e12 }\nsource = \"me\"\n",
    );
    let h100 = result("2026-11-27-nvidia-h100-80gb-hbm3-quick");
    let h200 = result("2026-11-27-nvidia-h200-headline");
    let cpu = result("2026-11-23-cpu-intel-xeon-2c-quick");
    let cases: [(&[&str], &str); 31] = [
        (&["measure", "zero.toml"], "zero.toml:43: n = 0; it must be at least 1"),
        (
            &["measure", "key.toml"],
            "key.toml:53: kv_read has no key `head_dims`; did you mean",
        ),
        (
            &["measure", "heads.toml"],
            "heads.toml:63: q_heads = 3 is not a multiple of kv_heads = 2",
        ),
        (&["measure", "none.toml"], "cannot read suite none.toml"),
        (&["measure", "quik"], "did you mean `quick`?"),
        (
            &["measure"],
            "name a suite (quick, headline, decode, weights, mla, products, step, roofline, elasticity, tune, paper",
        ),
        (&["measure", "quick", "--device", "tpu"], "no device `tpu`"),
        (&["measure", "quick", "--device", "gpu"], "`vm` or `vm:sm_80` for the virtual"),
        (&["list", "quick", "--device", "vm:sm_999"], "`sm_999` is not an architecture"),
        (
            &["kernels", "plan", "decode", "--machine", "mi300x"],
            "has no compute capability",
        ),
        (&["kernels", "plan", "decode", "--machine", "t4"], "sm_80 is the oldest"),
        (&["kernels", "plan", "--arch", "sm_80"], "is sm_90a, not sm_80; leave --arch out"),
        (&["kernels", "plan", "--campaign", &cpu], "name a campaign of an NVIDIA GPU"),
        (&["kernels", "plan", "--campaign", "nowhere"], "nowhere"),
        (&["kernels", "plan", "--campaign", &h200, "--against", &h100], "of the same GPU"),
        (&["kernels", "plan", "--against", &h200], "the times are of h100-sxm; name"),
        (
            &["kernels", "plan", "--against", &h100, "--filter", "op=peak"],
            "has no measured point meeting `op=peak`",
        ),
        (&["predict", "--machines", "comma.toml"], "comma.toml:1: machine `a,b` cannot be"),
        (&["predict", "--new-tokens", "64"], "a decode step has one new token"),
        (&["measure", TINY, "--out", "taken"], "never overwritten"),
        (&["measure", "--resume", "taken"], "run.csv"),
        (&["verdict", "nowhere"], "nowhere is not a folder"),
        (&["predict", "--model", "lama-3.1-70b"], "nearest are llama-3.1-70b"),
        (&["predict", "--machine", "h10-sxm"], "nearest are h100-sxm"),
        (&["predict", "--workload", "codin"], "nearest are coding"),
        (&["predict", "--batch", "8..1"], "--batch: `8..1` ends before it begins"),
        (&["predict", "--cache", "int4"], "int4 is a format of weights"),
        (&["predict", "task", "--cache-hit", "2"], "give a share from 0 to 1"),
        (&["predict", "--models", "models.toml"], "models.toml:"),
        (&["predict", "--step", "models.toml"], "models.toml:"),
        (&["predict", "--step", "none.toml"], "cannot read the mix none.toml"),
    ];
    for (arguments, part) in cases {
        let errors = fail(dir.path(), arguments);
        assert!(errors.contains(part), "{arguments:?}: {errors}");
    }
    assert!(!dir.path().join("results").exists(), "a refused run writes nothing");
    let bad_point =
        run(dir.path(), &["measure", "--point", "gemm:m=0,n=1,k=1,dtype=f32@x@hot"]);
    assert!(text(&bad_point.stderr).contains("m = 0; it must be at least 1"));
}

/// A batch that does not fit is a row that says what is short. `predict` alone and
/// `predict step` are the same.
#[test]
fn predicted_steps_say_whether_they_fit() {
    let dir = tempfile::tempdir().unwrap();
    let options = ["--model", "llama-3.1-8b", "--batch", "1,4096", "--format", "csv"];
    let text = succeed(dir.path(), &[&["predict"], &options[..]].concat());
    let same = succeed(dir.path(), &[&["predict", "step"], &options[..]].concat());
    assert_eq!(text, same);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().unwrap().clone();
    let at = |name: &str| header.iter().position(|column| column == name).unwrap();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 6);
    for row in &rows {
        let fits = &row[at("batch")] == "1";
        assert_eq!(&row[at("fits")], if fits { "true" } else { "false" });
        assert_eq!(row[at("short_bytes")].is_empty(), fits);
    }
}

/// Predictions need nothing but the program: every subcommand prints in every format, and
/// figures are files.
#[test]
fn predictions_are_printed_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/mix.toml");
    let cases: [(&[&str], &str); 10] = [
        (&["--step", example, "--tensor", "4"], "mixed"),
        (&["--step", example, "--explain", "--model", "deepseek-v3"], "absorb keys"),
        (&["--tensor", "4"], "Predictions"),
        (&["step", "--tensor", "4"], "Predictions"),
        (&["step", "--explain", "--tensor", "4"], "2 m n k"),
        (&["task", "--tensor", "4", "--workload", "coding"], "Turns and tasks"),
        (&["disaggregate", "--tensor", "4", "--cache-hit", "0.9"], "apart"),
        (&["offload", "--tensor", "4", "--context", "8192,131072"], "Caches elsewhere"),
        (&["published"], "Published measurements"),
        (&["claims"], "The paper's claims"),
    ];
    for (arguments, part) in cases {
        for format in ["table", "csv", "json"] {
            let all = [&["predict"], arguments, &["--format", format]].concat();
            let printed = succeed(dir.path(), &all);
            assert!(printed.lines().count() > 3, "{all:?}: {printed}");
            match format {
                "table" => assert!(printed.contains(part), "{all:?}: {printed}"),
                "json" => assert!(
                    serde_json::from_str::<serde_json::Value>(&printed).is_ok(),
                    "{all:?}"
                ),
                _ => {}
            }
        }
    }
    let printed = succeed(dir.path(), &["predict", "figures", "figures"]);
    let files = fs::read_dir(dir.path().join("figures")).unwrap().count();
    assert_eq!((files, printed.lines().count()), (5 * 4, 5 * 4));
}

/// A figure that cannot be written is named, with the command that makes it later, and
/// nothing half written stays.
#[test]
fn a_figure_that_cannot_be_written_says_how_to_make_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("c");
    fs::create_dir(&folder).unwrap();
    let committed = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("results/2026-11-23-cpu-intel-xeon-2c-quick");
    for name in ["run.csv", "results.csv", "suite.toml"] {
        fs::copy(committed.join(name), folder.join(name)).unwrap();
    }
    fs::create_dir(folder.join("roofline.svg")).unwrap();
    let errors = fail(dir.path(), &["report", "c"]);
    for part in ["roofline.svg", "`ridgepoint report c`", "all records are written"] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    let files = fs::read_dir(&folder).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let staged: Vec<String> = names.filter(|name| name.ends_with(".new")).collect();
    assert!(staged.is_empty(), "{staged:?}");
    fs::remove_dir(folder.join("roofline.svg")).unwrap();
    succeed(dir.path(), &["report", "c"]);
    assert!(folder.join("roofline.svg").is_file());
}

/// A model from its own file is the row that states it, and its row written out is too.
#[test]
fn a_model_is_predicted_from_its_own_file() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("mine");
    fs::create_dir(&folder).unwrap();
    let config = r#"{"model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288,
        "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960,
        "novel_gate": 7}"#;
    fs::write(folder.join("config.json"), config).unwrap();
    let csv = |arguments: &[&str]| {
        let all = [&["predict", "--format", "csv", "--model"], arguments].concat();
        succeed(dir.path(), &all).replace("mine,", "qwen3-8b,")
    };
    let of_row = csv(&["qwen3-8b"]);
    assert_eq!(csv(&["mine/config.json"]), of_row);
    assert_eq!(csv(&["./mine"]), of_row);
    // Names and paths in one list, in its order.
    let both = csv(&["qwen3-8b,mine/config.json,qwen3-8b", "--machine", "h200"]);
    assert_eq!(both.lines().skip(1).collect::<HashSet<_>>().len(), 1);
    assert_eq!(both.lines().count(), 4);
    let row = succeed(dir.path(), &["predict", "model", "import", "mine"]);
    assert!(row.starts_with("# `novel_gate` = 7 is not mapped\n[[model]]"), "{row}");
    fs::write(dir.path().join("mine.toml"), row).unwrap();
    assert_eq!(csv(&["mine", "--models", "mine.toml"]), of_row);
    let explained = succeed(dir.path(), &["predict", "--model", "./mine", "--explain"]);
    for part in
        ["num_hidden_layers", "`novel_gate` = 7 is not mapped.", "8190735360 parameters"]
    {
        assert!(explained.contains(part), "{part}: {explained}");
    }
    fs::write(
        folder.join("config.json"),
        config.replace("\"head_dim\": 128", "\"head_dim\": -1"),
    )
    .unwrap();
    let errors = fail(dir.path(), &["predict", "--model", "mine/config.json"]);
    assert!(
        errors.contains("config.json: `head_dim` = -1 is not a whole number"),
        "{errors}"
    );
    let errors = fail(dir.path(), &["predict", "--model", "nowhere/config.json"]);
    assert!(errors.contains("cannot read nowhere/config.json"), "{errors}");
}

/// Formats by part, and those in which a model is published.
#[test]
fn weights_have_a_format_for_each_part() {
    let dir = tempfile::tempdir().unwrap();
    let rows = |weights: &str| {
        let asked = ["--model", "gpt-oss-120b,llama-3.1-8b", "--machine", "b200"];
        let rest = ["--weights", weights, "--format", "csv"];
        let text = succeed(dir.path(), &[&["predict"], &asked[..], &rest[..]].concat());
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let rows = reader.deserialize().map(Result::unwrap);
        let cells = rows.map(|row: std::collections::HashMap<String, String>| {
            (row["weights"].clone(), row["resident_bytes"].parse::<f64>().unwrap())
        });
        cells.collect::<Vec<_>>()
    };
    let shipped = rows("shipped");
    assert_eq!(shipped[0].0, "bf16+experts:mxfp4");
    assert_eq!(shipped[1].0, "bf16");
    assert_eq!(shipped[0], rows("bf16+experts:mxfp4")[0]);
    // The published checkpoint has 65.2 GB; 0.6 GB here are a cache of 8192 tokens.
    assert!((64e9..67e9).contains(&shipped[0].1), "{shipped:?}");
    assert!(rows("bf16")[0].1 > 3.0 * shipped[0].1);
    // Groups of 128 do not divide 2880 columns.
    assert!(rows("int4")[0].1 < shipped[0].1 + 2e9);
    let refused = run(dir.path(), &["predict", "--weights", "bf16+expert:mxfp4"]);
    let errors = text(&refused.stderr);
    assert!(!refused.status.success(), "{errors}");
    assert!(errors.contains("`expert` is not a part of a model"), "{errors}");
}

/// A mix of equal requests is a row that says the same as their batch; only what a mix has
/// no one of is empty.
#[test]
fn a_mix_of_equal_requests_is_their_batch() {
    let dir = tempfile::tempdir().unwrap();
    let mix = "[[segment]]\nrequests = 5\ncontext = 16\n".repeat(3);
    fs::write(dir.path().join("mix.toml"), mix).unwrap();
    let row = |asked: &[&str]| -> Vec<(String, String)> {
        let served =
            ["--model", "qwen3-235b-a22b", "--weights", "fp8_e4m3", "--tensor", "4"];
        let rest = ["--routing", "zipf:0.5", "--machine", "h200", "--format", "csv"];
        let text =
            succeed(dir.path(), &[&["predict"], asked, &served[..], &rest[..]].concat());
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let header = reader.headers().unwrap().clone();
        let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 1);
        let pairs = header.iter().zip(&rows[0]);
        pairs.map(|(name, cell)| (name.to_owned(), cell.to_owned())).collect()
    };
    let of_mix = row(&["--step", "mix.toml"]);
    let of_batch = row(&["--batch", "15", "--context", "16"]);
    let different: Vec<_> = of_mix.iter().zip(&of_batch).filter(|(a, b)| a != b).collect();
    let cells = different.iter().map(|((name, cell), _)| (name.as_str(), cell.as_str()));
    assert_eq!(
        cells.collect::<Vec<_>>(),
        [
            ("workload", "mix"),
            ("phase", "mixed"),
            ("context", ""),
            ("new_tokens", "15"),
            ("batch_at_ridge", ""),
            ("wall_comes_first", ""),
        ]
    );
}

/// The committed campaigns are measurements too: none is faster than the roofline at
/// achievable peaks by more than 5%, none implies more than the data sheet, and how far off
/// predictions are is said for every group and for all.
#[test]
fn campaigns_are_measurements_that_predictions_are_held_against() {
    let dir = tempfile::tempdir().unwrap();
    let results = concat!(env!("CARGO_MANIFEST_DIR"), "/results");
    let arguments = ["predict", "published", "--campaigns", results];
    let printed = succeed(dir.path(), &[&arguments[..], &["--format", "csv"]].concat());
    let (measured, errors) = printed.split_once("\n\n").unwrap();
    let table = |text: &str| -> Vec<HashMap<String, String>> {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        reader.deserialize().map(Result::unwrap).collect()
    };
    let (measured, errors) = (table(measured), table(errors));
    let of_campaigns = measured.iter().filter(|row| row["source"].contains("results"));
    assert!(of_campaigns.count() > 800 && measured.len() > 850, "{}", measured.len());
    for row in &measured {
        let number = |name: &str| row[name].parse::<f64>().unwrap();
        assert!(number("predicted_over_measured") <= 1.05, "{row:?}");
        let shares = (number("bandwidth_share"), number("compute_share"));
        assert!(shares.0 <= 1.0 && shares.1 <= 1.0, "{row:?}");
    }
    let counted = |is_counted: &dyn Fn(&HashMap<String, String>) -> bool| -> usize {
        let rows = errors.iter().filter(|row| is_counted(row));
        rows.map(|row| row["measurements"].parse::<usize>().unwrap()).sum()
    };
    let is_all = |row: &HashMap<String, String>, name: &str| row[name] == "all";
    let names = ["machine", "model", "regime"];
    let each = counted(&|row| names.iter().all(|name| !is_all(row, name)));
    let all = counted(&|row| names.iter().all(|name| is_all(row, name)));
    assert_eq!((each, all), (measured.len(), measured.len()));
    for name in names {
        let others = |row: &HashMap<String, String>| {
            names.iter().all(|other| is_all(row, other) == (*other != name))
        };
        assert_eq!(counted(&others), measured.len(), "{name}");
    }
    // People are shown what others have published, and the errors of all.
    let shown = succeed(dir.path(), &arguments);
    assert!(shown.contains("measurements of campaigns"), "{shown}");
    assert!(shown.lines().count() < 200);
    let empty = dir.path().display().to_string();
    let error = fail(dir.path(), &["predict", "published", "--campaigns", &empty]);
    assert!(error.contains("is no campaign"), "{error}");
}

/// A context that a model was not made for is predicted, and the note says so.
#[test]
fn a_context_beyond_the_models_limit_has_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let part = "llama-3.1-8b was made for contexts up to 131072";
    let of = |subject: &str, more: &[&str]| {
        let arguments = [&["predict", subject, "--model", "llama-3.1-8b"], more].concat();
        let output = run(dir.path(), &arguments);
        let (printed, remarks) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {remarks}");
        printed.split_whitespace().collect::<Vec<_>>().join(" ") + &remarks
    };
    let subjects: [(&str, &[&str]); 4] = [
        ("step", &["--format", "csv"]),
        ("step", &["--explain"]),
        ("step", &[]),
        ("offload", &[]),
    ];
    for (subject, more) in subjects {
        let with = |context| of(subject, &[more, &["--context", context]].concat());
        assert!(with("131073").contains(part), "{subject} {more:?}: {}", with("131073"));
        assert!(!with("131072").contains("was made for"), "{subject} {more:?}");
    }
    let long = "[[workload]]\nname = \"long\"\ncontext = 200000\noutput_tokens = 100\n\
                new_tokens = 1000\nsource = \"me\"\nnote = \"none\"\n";
    fs::write(dir.path().join("long.toml"), long).unwrap();
    for subject in ["task", "disaggregate"] {
        let told = of(subject, &["--workloads", "long.toml", "--workload", "long"]);
        assert!(told.contains(part) || told.contains("was made for"), "{subject}: {told}");
    }
}

/// A limit on the batch that decodes is one, also where it is 1.
#[test]
fn disaggregated_decode_has_as_many_requests_as_fit_or_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let batches = |batch: &[&str]| -> HashSet<u64> {
        let arguments = ["predict", "disaggregate", "--tensor", "4", "--format", "csv"];
        let text = succeed(dir.path(), &[&arguments[..], batch].concat());
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        reader.records().map(|record| record.unwrap()[7].parse().unwrap()).collect()
    };
    assert!(batches(&[]).iter().any(|batch| *batch > 8));
    assert_eq!(batches(&["--batch", "1"]), HashSet::from([1]));
}

/// A subcommand has the options that it uses and no others, and the flags of before say
/// what has taken their place.
#[test]
fn an_option_that_a_prediction_does_not_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str); 28] = [
        (&["--step", "mix.toml", "--batch", "8"], "cannot be used with"),
        (&["--step", "mix.toml", "--context", "8"], "cannot be used with"),
        (&["--step", "mix.toml", "--workload", "coding"], "cannot be used with"),
        (&["--routing", "even"], "write balanced, uniform, zipf"),
        (&["--graph", "maybe"], "possible values: on, off"),
        (&["--cache-hit", "0.9"], "--cache-hit"),
        (&["step", "--cache-hit", "0.9"], "--cache-hit"),
        (&["step", "--tasks"], "--tasks"),
        (&["--context", "8", "--workload", "coding"], "cannot be used with"),
        (&["offload", "--context", "8", "--workload", "coding"], "cannot be used with"),
        (&["task", "--phase", "prefill"], "--phase"),
        (&["task", "--context", "8"], "--context"),
        (&["task", "--explain"], "--explain"),
        (&["disaggregate", "--new-tokens", "8"], "--new-tokens"),
        (&["disaggregate", "--batch", "0"], "--batch"),
        (&["offload", "--phase", "prefill"], "--phase"),
        (&["offload", "--cache-hit", "0.9"], "--cache-hit"),
        (&["published", "--tensor", "4"], "--tensor"),
        (&["published", "--models", "x.toml"], "--models"),
        (&["claims", "--machine", "h200"], "--machine"),
        (&["figures", "dir", "--format", "csv"], "--format"),
        (&["--tensor", "4", "claims"], "claims"),
        (&["--tasks", "--workload", "coding"], "write `ridgepoint predict task`"),
        (&["--tensor", "4", "--disaggregate"], "write `ridgepoint predict disaggregate`"),
        (&["--offload"], "write `ridgepoint predict offload`"),
        (&["--published"], "write `ridgepoint predict published`"),
        (&["--claims", "--format", "csv"], "write `ridgepoint predict claims`"),
        (&["--figures", "dir"], "write `ridgepoint predict figures DIR`"),
    ];
    for (arguments, part) in cases {
        let output = run(dir.path(), &[&["predict"], arguments].concat());
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}\n{errors}");
        assert!(errors.contains(part), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a refused run wrote a file");
}

#[test]
fn an_incomplete_campaign_is_invalid_and_says_how_to_finish() {
    let dir = tempfile::tempdir().unwrap();
    succeed(dir.path(), &["measure", TINY, "--out", "c"]);
    let path = dir.path().join("c/results.csv");
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, whole.lines().take(5).map(|l| format!("{l}\n")).collect::<String>())
        .unwrap();
    let output = run(dir.path(), &["verdict", "c"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("measure --resume"));
}

/// A committed campaign of a CPU, whose records are sound.
const CPU_CAMPAIGN: &str = "results/2026-11-23-cpu-intel-xeon-2c-quick";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The claims of the example, each with its verdict, value, rows and reason.
#[test]
fn claims_of_a_file_are_judged_beside_the_built_in_ones() {
    let claims = ["--claims", "examples/claims.toml"];
    let of = |more: &[&str]| {
        let arguments = [&["verdict", CPU_CAMPAIGN, "--format", "json"], more].concat();
        let json: serde_json::Value =
            serde_json::from_str(&succeed(root(), &arguments)).unwrap();
        json["claims"].as_array().unwrap().clone()
    };
    let (without, with) = (of(&[]), of(&claims));
    assert_eq!(with.len(), without.len() + 4);
    assert_eq!(with[4..], without);
    let findings = [
        ("decode-near-the-roof", "contradicted", 10),
        ("most-of-the-sheet", "not tested", 1),
        ("heads-are-free", "within tolerance", 2),
        ("time-grows-as-bytes", "reproduced", 2),
    ];
    for (claim, (id, finding, rows)) in with.iter().zip(findings) {
        assert_eq!((&claim["id"], &claim["finding"]), (&id.into(), &finding.into()));
        assert_eq!(claim["rows"].as_array().unwrap().len(), rows, "{claim}");
        let [lo, value, hi] =
            ["value_lo", "value", "value_hi"].map(|key| claim[key].as_f64().unwrap());
        assert!(lo <= value && value <= hi, "{claim}");
        assert!(claim["reason"].as_str().unwrap().len() > 20, "{claim}");
    }
    let only = of(&["--only", "decode-memory-bound,sheet-l*"]);
    let ids: Vec<&str> = only.iter().map(|claim| claim["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["decode-memory-bound", "sheet-l2"]);
    let csv = succeed(root(), &["verdict", CPU_CAMPAIGN, "--format", "csv"]);
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let header = reader.headers().unwrap().clone();
    for name in ["claimed", "rows_used", "reason", "source"] {
        assert!(header.iter().any(|column| column == name), "{name}");
    }
}

/// A claim that is not so changes no exit code unless a script asks for it; what spoils the run
/// comes first.
#[test]
fn claims_fail_a_script_only_where_asked() {
    let folder = root().join(CPU_CAMPAIGN);
    let folder = folder.to_str().unwrap();
    let claims = ["--claims", "examples/claims.toml"];
    let reproduced = ["--require", "reproduced"];
    let tolerated = ["--require", "within-tolerance"];
    let grows = ["--only", "time-grows-as-bytes"];
    let decode = ["--only", "decode-memory-bound"];
    let follows = ["--only", "decode-follows-bytes"];
    let untested = ["--only", "experts-follow-bytes"];
    let cases: [(&[&[&str]], i32); 12] = [
        (&[], 0),
        (&[&claims], 0),
        (&[&reproduced], 4),
        (&[&tolerated], 4),
        (&[&claims, &reproduced], 4),
        (&[&claims, &grows, &reproduced], 0),
        (&[&decode, &reproduced], 0),
        (&[&follows, &reproduced], 4),
        (&[&follows, &tolerated], 0),
        (&[&untested, &tolerated], 4),
        (&[&["--require", "contradicted"]], 2),
        (&[&["--only", "no-such-claim"]], 1),
    ];
    for (more, code) in cases {
        let arguments = [&["verdict", folder], &more.concat()[..]].concat();
        let output = run(root(), &arguments);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert_eq!(errors.contains("required: "), code == 4, "{errors}");
    }
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("c");
    fs::create_dir(&copy).unwrap();
    for name in ["run.csv", "results.csv"] {
        let whole = fs::read_to_string(Path::new(folder).join(name)).unwrap();
        let fewer: String = whole.lines().take(9).map(|l| format!("{l}\n")).collect();
        fs::write(copy.join(name), fewer).unwrap();
    }
    let output = run(dir.path(), &["verdict", "c", "--require", "reproduced"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
}

#[test]
fn a_broken_file_of_claims_says_where_and_what_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let example = fs::read_to_string(root().join("examples/claims.toml")).unwrap();
    let broken =
        example.replace("quantity = \"memory_share\"", "quantity = \"memory_shar\"");
    fs::write(dir.path().join("mine.toml"), broken).unwrap();
    let folder = root().join(CPU_CAMPAIGN);
    let arguments = ["verdict", folder.to_str().unwrap(), "--claims", "mine.toml"];
    let errors = fail(dir.path(), &arguments);
    let line = 1 + example.lines().position(|l| l.contains("memory_share")).unwrap();
    let wanted = format!(
        "mine.toml:{line}: `quantity`: the list of quantities has no key `memory_shar`; did \
         you mean `memory_share`?"
    );
    assert!(errors.contains(&wanted), "{errors}");
    let errors = fail(dir.path(), &["verdict", arguments[1], "--claims", "none.toml"]);
    assert!(errors.contains("cannot read claims none.toml"), "{errors}");
}

#[test]
fn list_and_doctor_print_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    for suite in [
        "quick",
        "headline",
        "decode",
        "weights",
        "mla",
        "products",
        "roofline",
        "elasticity",
        "tune",
        "paper",
    ] {
        let listed = succeed(dir.path(), &["list", suite, "--format", "csv"]);
        let mut reader = csv::Reader::from_reader(listed.as_bytes());
        let ids: HashSet<String> =
            reader.records().map(|r| r.unwrap()[0].to_owned()).collect();
        assert!(ids.len() > 20, "{suite}");
    }
    let listed = succeed(dir.path(), &["list", TINY]);
    assert!(listed.contains("of warm-up and samples"), "{listed}");
    let doctor = succeed(dir.path(), &["doctor", "--format", "json"]);
    let doctor: serde_json::Value = serde_json::from_str(&doctor).unwrap();
    assert_eq!(doctor.as_array().map(Vec::len), Some(2));
    assert!(succeed(dir.path(), &["doctor"]).contains("CUDA"));
    for command in ["list", "measure", "check", "doctor", "selfcheck"] {
        let help = succeed(dir.path(), &[command, "--help"]);
        assert!(help.contains("vm or vm:sm_80"), "{command}: {help}");
    }
}

/// Kills the campaign at random moments, at least 20 times, then lets it end.
/// Nothing that was recorded is lost, changed or measured twice.
#[test]
fn killed_at_any_moment_a_campaign_resumes_to_completion() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("c");
    // Longer samples, so that there is something to kill 20 times.
    let slow = fs::read_to_string(TINY)
        .unwrap()
        .replace("min_sample_s = 0.01", "min_sample_s = 0.1");
    fs::write(
        dir.path().join("slow.toml"),
        slow.replace("max_sample_s = 0.03", "max_sample_s = 0.1"),
    )
    .unwrap();
    let (mut kills, mut before) = (0, String::new());
    for round in 0..200 {
        let begun = folder.join("run.csv").is_file();
        let arguments: &[&str] = match begun {
            true => &["measure", "--resume", "c"],
            false => &["measure", "slow.toml", "--out", "c"],
        };
        let mut child = ridgepoint(dir.path(), arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if round < 25 {
            std::thread::sleep(Duration::from_millis(random_below(300)));
        } else {
            child.wait().unwrap();
        }
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            kills += 1;
        }
        let status = child.wait().unwrap();
        if folder.join("results.csv").is_file() {
            let after = whole_lines(&folder.join("results.csv"));
            assert!(after.starts_with(&before), "a row was lost or changed");
            before = after;
        }
        if status.success() {
            break;
        }
    }
    let all = keys(&folder);
    let distinct: HashSet<_> = all.iter().collect();
    println!(
        "{kills} kills, {} rows, {} distinct, {} planned",
        all.len(),
        distinct.len(),
        planned(&folder)
    );
    assert_eq!(all.len(), planned(&folder));
    assert_eq!(distinct.len(), all.len(), "a row was doubled");
    assert!(kills >= 20, "only {kills} kills hit a running campaign");
    // Those of disturbed rounds are in no row of results.csv.
    let counts = column(&folder.join("rounds.csv"), "n_samples");
    let expected: usize = counts.iter().map(|n| n.parse::<usize>().unwrap()).sum();
    assert_eq!(column(&folder.join("samples.csv"), "point_id").len(), expected);
    succeed(dir.path(), &["verdict", "c"]);
}

/// A suite of which a point takes so many seconds.
fn slow_suite(directory: &Path, sample_s: f64) -> &'static str {
    let text = fs::read_to_string(TINY).unwrap();
    let text = text.replace("min_sample_s = 0.01", &format!("min_sample_s = {sample_s}"));
    let text = text.replace("max_sample_s = 0.03", &format!("max_sample_s = {sample_s}"));
    fs::write(directory.join("slow.toml"), text).unwrap();
    "slow.toml"
}

/// A campaign into `c` that has as many lines in a file there.
fn begun(directory: &Path, suite: &str, file: &str, lines: usize) -> Child {
    let mut child = ridgepoint(directory, &["measure", suite, "--out", "c"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let path = directory.join("c").join(file);
    let count = || fs::read_to_string(&path).map_or(0, |text| text.lines().count());
    while count() < lines {
        assert!(child.try_wait().unwrap().is_none(), "the campaign has ended early");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[cfg(unix)]
fn send(child: &Child, signal: &str) {
    let command = format!("kill -{signal} {}", child.id());
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
}

/// The row in hand is finished, the way to continue is said, and what is there is whole.
#[cfg(unix)]
#[test]
fn a_signal_stops_after_the_row_in_hand() {
    for (signal, name, code) in [("INT", "Ctrl-C", 130), ("TERM", "SIGTERM", 143)] {
        let dir = tempfile::tempdir().unwrap();
        let suite = slow_suite(dir.path(), 0.1);
        let child = begun(dir.path(), suite, "results.csv", 3);
        send(&child, signal);
        let output = child.wait_with_output().unwrap();
        let remarks = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{remarks}");
        assert!(
            remarks.contains("`ridgepoint measure --resume c` measures them"),
            "{remarks}"
        );
        assert!(remarks.contains(&format!("stopped by {name} with ")), "{remarks}");
        assert!(output.stdout.is_empty(), "no table of half a campaign");
        let folder = dir.path().join("c");
        let rows = keys(&folder).len();
        assert!((2..planned(&folder)).contains(&rows), "{rows} rows");
        let results = fs::read_to_string(folder.join("results.csv")).unwrap();
        assert!(results.ends_with('\n'));
        succeed(dir.path(), &["measure", "--resume", "c"]);
        assert_eq!(keys(&folder).len(), planned(&folder));
    }
}

#[cfg(unix)]
#[test]
fn a_second_signal_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let suite = slow_suite(dir.path(), 600.0);
    let mut child = begun(dir.path(), suite, "run.csv", 2);
    // The folder is there a moment before the first point is begun.
    std::thread::sleep(Duration::from_millis(1000));
    send(&child, "INT");
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "the first signal waits for the row");
    send(&child, "INT");
    let output = child.wait_with_output().unwrap();
    let remarks = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{remarks}");
    assert!(remarks.contains("stopping after this point"), "{remarks}");
}

#[test]
fn resuming_a_finished_folder_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    succeed(dir.path(), &["measure", &with_dram(dir.path()), "--out", "c"]);
    let read = || {
        let entries = fs::read_dir(dir.path().join("c")).unwrap().map(Result::unwrap);
        let mut files: Vec<_> = entries
            .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = read();
    assert!(before.len() > 8);
    let output = run(dir.path(), &["measure", "--resume", "c"]);
    let remarks = text(&output.stderr);
    assert!(output.status.success(), "{remarks}");
    assert!(remarks.contains("nothing is left"), "{remarks}");
    for (now, then) in read().iter().zip(&before) {
        assert!(now == then, "{:?} has changed", now.0);
    }
    assert_eq!(read().len(), before.len());
}

/// A number below `limit` from the standard library's random hash keys.
fn random_below(limit: u64) -> u64 {
    RandomState::new().hash_one(0) % limit
}

/// A file up to its last line end: what a kill may leave after it is torn.
fn whole_lines(path: &Path) -> String {
    let mut text = fs::read_to_string(path).unwrap();
    text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    text
}

#[test]
fn a_selftest_without_a_gpu_runs_on_the_virtual_machine() {
    let dir = tempfile::tempdir().unwrap();
    let printed = succeed(dir.path(), &["doctor", "--selftest", "--device", "cpu"]);
    assert!(printed.contains("only the virtual machine did"), "{printed}");
    assert!(printed.contains("wgmma") && !printed.contains("Wrong"), "{printed}");
}
