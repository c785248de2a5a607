//! `ridgepoint counters` on a copy of a committed campaign, with a stand-in for Nsight
//! Compute that prints the tool's own output of an H100.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ridgepoint::record::{CacheControl, CounterRow, Witnesses};
use tempfile::TempDir;

const POINTS: usize = 54;
const KNOWN: usize = 6;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Kernels with the blocks and grids that the tool told of, and those of today's plans, which
/// are held against what it tells.
const PLANS: [(&str, &str, &str); 2] = [
    (
        "attention_decode",
        r#""(128, 1, 1)","(264, 1, 1)""#,
        r#""(256, 1, 1)","(132, 1, 1)""#,
    ),
    ("gemm_skinny", r#""(128, 1, 1)","(261, 1, 1)""#, r#""(128, 1, 1)","(256, 1, 1)""#),
];

fn in_todays_plans(mut raw: String) -> String {
    for (kernel, told, planned) in PLANS {
        let told = format!("\"{kernel}\",{told}");
        assert!(raw.contains(&told), "{kernel}");
        raw = raw.replace(&told, &format!("\"{kernel}\",{planned}"));
    }
    raw
}

/// A folder with a campaign and a tool.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new(campaign: &str, mode: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bench = Bench { folder };
        fs::create_dir(bench.campaign()).unwrap();
        for name in ["run.csv", "results.csv", "suite.toml"] {
            let from = root().join("results").join(campaign).join(name);
            fs::copy(from, bench.campaign().join(name)).unwrap();
        }
        fs::copy(root().join("tests/ncu/ncu.sh"), bench.tool()).unwrap();
        let raw = fs::read_to_string(root().join("tests/ncu/raw.txt")).unwrap();
        fs::write(bench.path("raw.txt"), in_todays_plans(raw)).unwrap();
        fs::set_permissions(bench.tool(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut points =
            csv::Reader::from_path(root().join("tests/ncu/points.csv")).unwrap();
        let lines = points.records().map(|record| {
            let record = record.unwrap();
            format!("{}\t{}@{}\n", &record[0], &record[2], &record[1])
        });
        fs::write(bench.path("list"), lines.collect::<String>()).unwrap();
        bench.set_mode(mode);
        bench
    }

    fn head_a(mode: &str) -> Self {
        Self::new("2026-11-26-nvidia-h100-80gb-hbm3-head-a", mode)
    }

    fn set_mode(&self, mode: &str) {
        fs::write(self.path("mode"), mode).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn campaign(&self) -> PathBuf {
        self.path("campaign")
    }

    fn tool(&self) -> PathBuf {
        self.path("ncu.sh")
    }

    fn counters_with(&self, tool: &Path, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
        command.arg("counters").arg(self.campaign()).arg("--ncu").arg(tool).args(more);
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        // Where nothing could be counted, that is what the exit code says.
        let code = if self.rows().iter().any(CounterRow::is_counted) { 0 } else { 1 };
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert_eq!(
            errors.contains("ridgepoint: nothing was counted: "),
            code == 1,
            "{errors}"
        );
        output
    }

    fn counters(&self, more: &[&str]) -> Vec<CounterRow> {
        self.counters_with(&self.tool(), more);
        self.rows()
    }

    fn rows(&self) -> Vec<CounterRow> {
        Witnesses::read(&self.campaign()).unwrap().counters.unwrap()
    }

    /// Calls of the tool that profiled.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

fn assert_all_say(rows: &[CounterRow], why: &str) {
    assert_eq!(rows.len(), 2 * POINTS);
    for row in rows {
        assert!(!row.is_counted() && row.reason.contains(why), "{row:?}");
    }
}

#[test]
fn counters_of_the_tool_join_their_points() {
    let bench = Bench::head_a("rows");
    let rows = bench.counters(&[]);
    assert_eq!(rows.len(), 2 * POINTS);
    let counted: Vec<_> = rows.iter().filter(|row| row.is_counted()).collect();
    assert_eq!(counted.len(), 2 * KNOWN);
    let decode = counted.iter().find(|row| row.point_id == "e6eebd28bd1f").unwrap();
    assert_eq!(decode.cache_control, CacheControl::All);
    assert_eq!(decode.dram_bytes_read, Some(2_148_935_936.0));
    assert_eq!(decode.dram_bytes_written_max, Some(3_738_880.0));
    assert_eq!(
        (decode.launches, decode.kernels_per_launch, decode.passes),
        (2, 1, Some(12))
    );
    assert_eq!(decode.code_hash, "639730182935");
    assert!((decode.l2_hit_share.unwrap() - 0.0173).abs() < 1e-9);
    assert_eq!(decode.tool, "Nsight Compute 2025.3.1.0");
    let others = rows.iter().filter(|row| !row.is_counted());
    assert!(others.into_iter().all(|row| row.reason == "there is no row of it"));

    // The largest of each kind come first, and each batch twice.
    let calls = bench.calls();
    assert_eq!(calls.len(), 2 * POINTS.div_ceil(6));
    for kernel in ["@attention_decode@cold", "@stream@hot", "@gemm_skinny@cold"] {
        assert!(calls[0].contains(kernel) || calls[2].contains(kernel), "{kernel}");
    }
    assert!(calls[0].contains("--cache-control all --replay-mode kernel"), "{}", calls[0]);
    assert!(calls[1].contains("--cache-control none"), "{}", calls[1]);
    assert!(
        calls[0].contains("replay --device cuda:0 --seed 7 --launches 2"),
        "{}",
        calls[0]
    );

    // Again: only what is missing, and what was counted stays.
    fs::remove_file(bench.path("calls")).unwrap();
    let again = bench.counters(&[]);
    assert_eq!(again.iter().filter(|row| row.is_counted()).count(), 2 * KNOWN);
    assert!(
        bench.calls().iter().all(|call| !call.contains("m=16,n=8192,k=8192,dtype=bf16@"))
    );
}

#[test]
fn the_report_sets_the_witnesses_side_by_side() {
    let bench = Bench::head_a("rows");
    bench.counters(&[]);
    let output = Command::new(env!("CARGO_BIN_EXE_ridgepoint"))
        .arg("report")
        .arg(bench.campaign())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    let page = fs::read_to_string(bench.campaign().join("report.html")).unwrap();
    assert!(page.contains("Three witnesses of bytes"));
    assert!(page.contains("6 points: the witnesses agree"), "the audit");
    assert!(page.contains("(c) counted bytes over those of the model"), "the figure");
    let mut points = csv::Reader::from_path(bench.campaign().join("points.csv")).unwrap();
    let header = points.headers().unwrap().clone();
    let at = |name: &str| header.iter().position(|column| column == name).unwrap();
    let rows: Vec<csv::StringRecord> = points.records().map(Result::unwrap).collect();
    let decode = rows.iter().find(|row| &row[0] == "e6eebd28bd1f").unwrap();
    assert_eq!(&decode[at("byte_audit")], "agrees");
    assert_eq!(&decode[at("oi_measured_flops_source")], "model");
    let measured: f64 = decode[at("oi_measured_flops_per_byte")].parse().unwrap();
    let model: f64 = decode[at("oi_model_flops_per_byte")].parse().unwrap();
    assert!((measured / model - 1.0).abs() < 0.03, "{measured} and {model}");
    // Where a counter of another campaign is mixed in, the run is invalid.
    let path = bench.campaign().join("counters.csv");
    let text =
        fs::read_to_string(&path).unwrap().replacen("e6eebd28bd1f", "0123456789ab", 1);
    fs::write(&path, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ridgepoint"))
        .arg("verdict")
        .arg(bench.campaign())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("counters.csv line"));
}

#[test]
fn without_permission_each_point_says_so_after_one_attempt() {
    let bench = Bench::head_a("refuse");
    assert_all_say(&bench.counters(&[]), "ERR_NVGPUCTRPERM");
    assert_eq!(bench.calls().len(), 1);
    // With permission, it is made good.
    bench.set_mode("rows");
    let rows = bench.counters(&[]);
    assert_eq!(rows.iter().filter(|row| row.is_counted()).count(), 2 * KNOWN);
}

#[test]
fn a_tool_that_hangs_is_ended() {
    let bench = Bench::head_a("hang");
    let rows = bench.counters(&["--minutes", "0.1"]);
    let ended =
        rows.iter().filter(|row| row.reason.contains("was ended after 6 s")).count();
    let others =
        rows.iter().filter(|row| row.reason.contains("not reached within")).count();
    assert_eq!((ended, others), (6, 2 * POINTS - 6));
}

#[test]
fn without_a_gpu_or_the_tool_the_reason_is_told() {
    let bench = Bench::head_a("no_gpu");
    assert_all_say(&bench.counters(&[]), "no GPU can be used");
    assert_eq!(bench.calls().len(), 1);
    let output = bench.counters_with(Path::new("/nowhere/ncu"), &[]);
    assert_all_say(&bench.rows(), "/nowhere/ncu cannot be run");
    assert!(String::from_utf8_lossy(&output.stderr).contains("108 rows without counters"));
    let cpu = Bench::new("2026-11-23-cpu-intel-xeon-2c-quick", "rows");
    let rows = cpu.counters(&[]);
    assert!(
        rows.iter().all(|row| row.reason.contains("NVIDIA GPUs only")),
        "{:?}",
        rows[0]
    );
}

/// On the CPU, which no profiler watches, the launches themselves can be tried.
#[test]
fn points_are_replayed_and_told_one_by_one() {
    let output = Command::new(env!("CARGO_BIN_EXE_ridgepoint"))
        .args(["replay", "--device", "cpu"])
        .arg("stream:access=read,bytes=4096@cpu_stream@hot")
        .arg("stream:access=read,bytes=4096@no_such_kernel@hot")
        .arg("stream:access=read,bytes=4096@cpu_stream@hot")
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    assert!(output.status.success() && lines.len() == 3, "{printed}");
    assert!(lines[0].starts_with("replay 0 done"), "{printed}");
    assert!(lines[1].starts_with("replay 1 failed "), "{printed}");
    assert!(lines[2].starts_with("replay 2 done"), "{printed}");
}
