//! `ridgepoint tune`, from shapes to a table, and `measure --tuning` by it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Shapes that take a moment, on a machine on which others may compute.
const SHAPES: &str = r#"
name = "shapes"
[protocol]
disturbed_share = 1
[[points]]
op = "stream"
access = "read"
bytes = ["256 KiB", "2 MiB", "2560 KiB"]
cache = "hot"
"#;

fn run(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
    command.current_dir(directory).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output of a run that succeeds.
fn succeed(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments);
    assert!(output.status.success(), "{arguments:?}\n{}", text(&output.stderr));
    text(&output.stdout)
}

/// Standard error of a run that fails without panic.
fn fail(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}\n{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    errors
}

/// These columns of a CSV text.
fn columns(csv_text: &str, names: &[&str]) -> Vec<Vec<String>> {
    let mut reader = csv::Reader::from_reader(csv_text.as_bytes());
    let headers = reader.headers().unwrap().clone();
    let at = names.iter().map(|name| headers.iter().position(|h| h == *name).unwrap());
    let at: Vec<usize> = at.collect();
    let rows = reader.records().map(Result::unwrap);
    rows.map(|row| at.iter().map(|&at| row[at].to_owned()).collect()).collect()
}

#[test]
fn kernels_of_the_cpu_are_tuned_and_run_by_the_table() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("shapes.toml"), SHAPES).unwrap();
    let tune = ["tune", "cpu_stream", "--device", "cpu", "--shapes", "shapes.toml"];
    let options = ["--minutes", "0.13", "--out", "tuned", "--format", "csv"];
    let printed = succeed(dir.path(), &[&tune[..], &options].concat());
    // Two classes, for 2 and 2.5 MiB are one.
    let classes = printed.split("\n\n").next().unwrap();
    let found = columns(classes, &["kernel", "class", "use"]);
    let of: Vec<&str> = found.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(
        of,
        ["stream:access=read from 256 KiB", "stream:access=read from 1 MiB"],
        "{printed}"
    );
    let path = dir.path().join("tuned/tuning.toml");
    let table = fs::read_to_string(&path).unwrap();
    assert!(
        table.contains("kernel = \"cpu_stream\"") && table.contains("aa_ratio_lo"),
        "{table}"
    );
    // A campaign like others: it is judged, and it can be resumed.
    assert!(dir.path().join("tuned/report.html").exists());
    succeed(dir.path(), &["verdict", "tuned"]);
    let before = fs::read(dir.path().join("tuned/results.csv")).unwrap();
    succeed(dir.path(), &["tune", "--resume", "tuned", "--device", "cpu"]);
    assert_eq!(fs::read(dir.path().join("tuned/results.csv")).unwrap(), before);

    // Whatever won, the table is now made to say something else than the default.
    let forced: Vec<String> = table
        .lines()
        .map(|line| match line.starts_with("configuration = ") {
            true => "configuration = \"chunks_of_64_kib\"".to_owned(),
            false => line.to_owned(),
        })
        .collect();
    fs::write(&path, forced.join("\n")).unwrap();
    let measured = |out: &str, options: &[&str]| {
        let measure = ["measure", "shapes.toml", "--device", "cpu", "--out", out];
        let protocol = SHAPES
            .replace("[protocol]", "[protocol]\nwarmup_s = 0.01\nmax_sample_s = 0.05");
        fs::write(dir.path().join("shapes.toml"), protocol).unwrap();
        // What a loaded machine measures may be unusable; which code ran is what counts here.
        run(dir.path(), &[&measure[..], options].concat());
        let results = fs::read_to_string(dir.path().join(out).join("results.csv")).unwrap();
        let mut rows = columns(&results, &["configuration", "configuration_from"]);
        rows.dedup();
        (rows, columns(&results, &["repro_command"]))
    };
    let (tuned, commands) = measured("by-table", &["--tuning", "tuned/tuning.toml"]);
    assert_eq!(tuned, [["chunks_of_64_kib", "tuned"]]);
    assert!(commands[0][0].ends_with(" --tuning used-tuning.toml"), "{commands:?}");
    assert_eq!(
        fs::read_to_string(dir.path().join("by-table/used-tuning.toml")).unwrap().len(),
        toml::to_string(&forced.join("\n").parse::<toml::Table>().unwrap()).unwrap().len()
    );
    let (default, _) = measured("by-default", &["--tuning", "none"]);
    assert_eq!(default, [["default", "default"]]);
    assert!(!dir.path().join("by-default/used-tuning.toml").exists());
}

#[test]
fn what_cannot_be_tuned_or_used_is_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("shapes.toml"), SHAPES).unwrap();
    let tune = |kernel| ["tune", kernel, "--device", "cpu", "--shapes", "shapes.toml"];
    let why = fail(dir.path(), &tune("gemm_skinny"));
    assert!(why.contains("has no kernel `gemm_skinny`"), "{why}");
    let why = fail(dir.path(), &tune("cpu_argmax"));
    assert!(why.contains("there is nothing to choose"), "{why}");
    let measure = ["measure", "shapes.toml", "--device", "cpu", "--tuning", "t.toml"];
    let why = fail(dir.path(), &measure);
    assert!(why.contains("cannot read the tuning table t.toml"), "{why}");
    fs::write(dir.path().join("t.toml"), "device = \"Another\"\n").unwrap();
    let why = fail(dir.path(), &measure);
    assert!(why.contains("t.toml was tuned on Another, and this is"), "{why}");
    fs::write(dir.path().join("t.toml"), "device = \"X\"\n[[tuned]]\nkernel = 3\n")
        .unwrap();
    let why = fail(dir.path(), &measure);
    assert!(why.contains("t.toml: line 3: "), "{why}");
    let point = "stream:access=read,bytes=65536@cpu_stream.huge@hot";
    // A campaign of skipped rows alone may not be used, and says so.
    run(dir.path(), &["measure", "--point", point, "--device", "cpu", "--out", "p"]);
    let results = fs::read_to_string(dir.path().join("p/results.csv")).unwrap();
    let reason = &columns(&results, &["reason"])[0][0];
    assert!(
        reason.contains("no configuration `huge`; it has default, chunks_of_64_kib"),
        "{reason}"
    );
}
