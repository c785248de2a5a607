//! The program on a mock of the driver: `tests/mock_driver.c`, which
//! runs the stream kernels and no others.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ridgepoint::toolchain::nvrtc::Nvrtc;
use tempfile::TempDir;

/// The compiled program on the mock driver.
struct Mock {
    folder: TempDir,
}

impl Mock {
    fn new(macros: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libcuda.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mock_driver.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-w", "-o"]).arg(&library).arg(source);
        let status = cc.args(macros.iter().map(|m| format!("-D{m}"))).status();
        assert!(status.expect("a C compiler builds the mock driver").success());
        std::fs::copy(&library, folder.path().join("libcuda.so.1")).unwrap();
        Mock { folder }
    }

    /// Puts the mock of the management library beside the driver.
    fn with_management(self, macros: &[&str]) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mock_nvml.c");
        // What the mock driver answers, as the library spells it.
        let uuid = "-DUUID=\"GPU-07070707-0707-0707-0707-070707070707\"";
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-w", uuid, "-o"]);
        cc.arg(self.path("libnvidia-ml.so.1")).arg(source);
        let status = cc.args(macros.iter().map(|m| format!("-D{m}"))).status();
        assert!(status.expect("a C compiler builds the mock library").success());
        self
    }

    /// Puts the mock of the vendor's matrix products beside the driver.
    fn with_products(self, macros: &[&str]) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mock_cublaslt.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O2", "-w", "-o"]);
        cc.arg(self.path("libcublasLt.so.13")).arg(source);
        let status = cc.args(macros.iter().map(|m| format!("-D{m}"))).status();
        assert!(status.expect("a C compiler builds the mock library").success());
        self
    }

    /// Measures a suite of this text, and returns files of the campaign.
    fn measure<const N: usize>(&self, suite: &str, files: [&str; N]) -> [String; N] {
        let suite = self.suite(suite);
        let out = self.path("campaign");
        let (suite, folder) = (suite.to_str().unwrap(), out.to_str().unwrap());
        let run = self.run(&["measure", suite, "--out", folder]);
        files.map(|file| {
            std::fs::read_to_string(out.join(file))
                .unwrap_or_else(|e| panic!("{file}: {e}: {}", text(&run.stderr)))
        })
    }

    /// Measures a suite of this text, and returns `results.csv`.
    fn results(&self, suite: &str) -> String {
        let [results] = self.measure(suite, ["results.csv"]);
        results
    }

    /// Measures reads of 4 KiB in two rounds, and returns `run.csv`, `results.csv` and
    /// `rounds.csv`.
    fn measure_reads(&self) -> [String; 3] {
        self.measure(READS, ["run.csv", "results.csv", "rounds.csv"])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn suite(&self, text: &str) -> PathBuf {
        let path = self.path("suite.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, &[])
    }

    fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ridgepoint"))
            .args(arguments)
            .env("LD_LIBRARY_PATH", self.folder.path())
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether there is the compiler that the device needs.
fn compiler_found() -> bool {
    common::need(Nvrtc::find(&common::search(), None)).is_some()
}

/// One row of a CSV file by column.
fn column(csv: &str, row: usize, name: &str) -> String {
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let at = reader.headers().unwrap().iter().position(|header| header == name).unwrap();
    reader.records().nth(row).unwrap().unwrap()[at].to_owned()
}

/// Whether a column holds the 1.5 GHz that the mock's clocks run at.
fn is_mock_clock(value: &str) -> bool {
    value.parse::<f64>().is_ok_and(|clock| (clock / 1.5e9 - 1.0).abs() < 1e-3)
}

const STREAMS: &str = r#"
name = "streams"
[protocol]
warmup_s = 0.01
min_samples = 6
min_sample_s = 0.01
max_sample_s = 0.05
[[points]]
op = "stream"
access = ["read", "write", "copy"]
bytes = [128, 1048704]
"#;

const ONE_OF_MANY: &str = r#"
name = "two"
[protocol]
warmup_s = 0.01
min_samples = 6
min_sample_s = 0.01
max_sample_s = 0.05
[[points]]
op = "stream"
access = ["read", "write", "copy"]
bytes = 4096
"#;

const READS: &str = r#"
name = "reads"
[protocol]
warmup_s = 0.01
min_samples = 6
min_sample_s = 0.01
max_sample_s = 0.05
rounds = 2
[[points]]
op = "stream"
access = "read"
bytes = 4096
"#;

#[test]
fn rounds_say_how_hot_the_gpu_was_and_what_disturbed_it() {
    if !compiler_found() {
        return;
    }
    let [run, results, rounds] = Mock::new(&[]).measure_reads();
    assert!(column(&run, 0, "nvml").starts_with("no: libnvidia-ml.so.1"), "{run}");
    assert_eq!(column(&rounds, 0, "temperature_c"), "");
    assert!(["ok", "noisy"].contains(&column(&results, 0, "status").as_str()), "{results}");

    // Asked before and after each round: slowed down within the first.
    let hot = Mock::new(&[]).with_management(&["HEAT_FROM=1", "HEAT_FOR=1"]);
    let [run, results, rounds] = hot.measure_reads();
    assert_eq!(column(&run, 0, "nvml"), "yes, 580.65.06");
    assert_eq!(rounds.lines().count(), 1 + 3, "{rounds}");
    let disturbed = [0, 1, 2].map(|row| column(&rounds, row, "disturbed"));
    assert_eq!(disturbed, ["true", "false", "false"], "{rounds}");
    assert!(column(&rounds, 0, "disturbed_by").contains("heat"), "{rounds}");
    assert_eq!(column(&rounds, 0, "temperature_c"), "61.0");
    assert!(["ok", "noisy"].contains(&column(&results, 0, "status").as_str()), "{results}");

    let [_, results, rounds] = Mock::new(&[]).with_management(&["BUSY"]).measure_reads();
    assert_eq!(column(&results, 0, "status"), "disturbed");
    // The process that started the one that measures: its supervisor.
    let who = column(&rounds, 0, "disturbed_by");
    let pid = who.strip_prefix("processes ").and_then(|rest| rest.split_once(' '));
    assert!(pid.is_some_and(|(pid, _)| pid.parse::<u32>().is_ok()), "{who}");
    assert!(who.ends_with("computed on the device"), "{who}");
}

#[test]
fn auto_takes_the_gpu_and_its_rows_say_how_they_were_made() {
    if !compiler_found() {
        return;
    }
    let mock = Mock::new(&[]);
    let suite = mock.suite(STREAMS);
    let out = mock.path("campaign");
    let run =
        mock.run(&["measure", suite.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let errors = text(&run.stderr);
    assert!(
        errors.contains("device: Mock GPU 9000 (cuda:0): the one GPU here"),
        "{errors}"
    );
    let results = std::fs::read_to_string(out.join("results.csv")).unwrap();
    assert_eq!(results.lines().count(), 7, "{results}");
    for row in 0..6 {
        let get = |name| column(&results, row, name);
        assert!(["ok", "noisy"].contains(&get("status").as_str()), "{results}");
        assert_eq!((get("kernel"), get("check")), ("stream".into(), "pass".into()));
        assert_eq!((get("registers"), get("spill_bytes")), ("40".into(), "0".into()));
        assert_eq!((get("block"), get("blocks_per_sm")), ("512x1x1".into(), "4".into()));
        assert_eq!(get("code_hash").len(), 12);
        assert!(is_mock_clock(&get("sm_clock_hz_median")), "{results}");
        assert!(get("repro_command").contains("--device cuda:0"));
    }
    let samples = std::fs::read_to_string(out.join("samples.csv")).unwrap();
    assert!(is_mock_clock(&column(&samples, 0, "sm_clock_hz")), "{samples}");
    let runs = std::fs::read_to_string(out.join("run.csv")).unwrap();
    for (name, value) in [
        ("compute_capability", "9.0"),
        ("sm_count", "4"),
        ("memory_clock_max_hz", "2619000000"),
        ("memory_bus_bits", "5120"),
        ("caches", "L2=1048576"),
        ("cuda_driver", "13.0"),
    ] {
        assert_eq!(column(&runs, 0, name), value);
    }
}

#[test]
fn kernels_that_do_nothing_are_wrong() {
    if !compiler_found() {
        return;
    }
    let mock = Mock::new(&["WITHOUT_PARAM_INFO"]);
    let suite = mock.suite(
        "name = \"x\"\n[[points]]\nop = \"peak\"\nunit = \"fma\"\ndtype = \"f32\"\n\
         lanes = 64\nsteps = 2\n",
    );
    let run = mock.run(&["check", suite.to_str().unwrap()]);
    assert!(!run.status.success());
    let printed = text(&run.stdout);
    assert!(printed.contains("0 right, 1 wrong or failed"), "{printed}");
}

/// A driver before CUDA 12.4 does not tell what kernels declare; their images do.
#[test]
fn an_old_driver_runs_kernels_too() {
    if !compiler_found() {
        return;
    }
    let mock = Mock::new(&["WITHOUT_PARAM_INFO"]);
    let suite = mock.suite(ONE_OF_MANY);
    let run = mock.run(&["check", suite.to_str().unwrap(), "--device", "cuda:0"]);
    assert!(run.status.success(), "{}{}", text(&run.stdout), text(&run.stderr));
}

/// The mock takes machine code by one call and PTX by another.
#[test]
fn a_driver_is_given_ptx_where_it_is_asked_for() {
    if !compiler_found() {
        return;
    }
    let mock = Mock::new(&["REFUSE_PTX=\"stream_write\""]);
    let suite = mock.suite(ONE_OF_MANY);
    let check = |image| {
        let asked = ["check", &*suite.to_string_lossy(), "--device", "cuda:0"];
        mock.run_with(&asked, &[("RIDGEPOINT_IMAGE", image)])
    };
    let run = check("cubin");
    assert!(run.status.success(), "{}{}", text(&run.stdout), text(&run.stderr));
    let run = check("ptx");
    assert!(!run.status.success());
    let printed = text(&run.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(printed.contains("ptxas fatal : not by the mock"), "{printed}");
    let errors = text(&check("sass").stderr);
    assert!(errors.contains("RIDGEPOINT_IMAGE=sass: it can be ptx or cubin"), "{errors}");
}

/// A kernel that declares another parameter than the plan passes is not launched: the driver
/// would read beyond the end of what it is given.
#[test]
fn a_kernel_that_declares_other_parameters_is_not_launched() {
    if !compiler_found() {
        return;
    }
    let mock = Mock::new(&["STREAM_PARAM_BYTES=72"]);
    let suite = mock.suite(ONE_OF_MANY);
    let run = mock.run(&["check", suite.to_str().unwrap(), "--device", "cuda:0"]);
    assert!(!run.status.success());
    // The table breaks lines within a reason.
    let printed = text(&run.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "kernel stream, entry stream_read: the compiled kernel declares 72 bytes",
        "the launch passes 64 bytes (ridgepoint::kernel::stream::StreamParams)",
        "0 right, 3 wrong or failed",
    ] {
        assert!(printed.contains(part), "{printed}");
    }
}

/// A kernel that faults ends the process's use of the GPU, but costs its own
/// row only: the next process continues after it.
#[test]
fn a_fault_ends_the_campaign_and_resuming_continues_after_it() {
    if !compiler_found() {
        return;
    }
    let mock = Mock::new(&["FAULT=\"stream_write\""]);
    let suite = mock.suite(ONE_OF_MANY);
    let out = mock.path("campaign");
    let out = out.to_str().unwrap();
    let mut run =
        mock.run(&["measure", suite.to_str().unwrap(), "--seed", "1", "--out", out]);
    let errors = text(&run.stderr);
    assert!(!run.status.success());
    assert!(errors.contains("can no longer be used after stream:access=write"), "{errors}");
    assert!(errors.contains(&format!("--resume {out}")), "{errors}");
    for _ in 0..2 {
        run = mock.run(&["measure", "--resume", out]);
    }
    assert!(!text(&run.stderr).contains("any more"), "{}", text(&run.stderr));
    let results = std::fs::read_to_string(Path::new(out).join("results.csv")).unwrap();
    let mut statuses: Vec<_> = (0..3).map(|row| column(&results, row, "status")).collect();
    statuses.sort();
    assert_eq!(statuses[0], "failed", "{results}");
    assert!(results.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{results}");
    assert!(statuses[1..].iter().all(|s| s == "ok" || s == "noisy"), "{results}");
}

#[test]
fn a_host_that_is_too_slow_is_told_from_a_slow_kernel() {
    if !compiler_found() {
        return;
    }
    let mock = Mock::new(&["HOLD_TIMES_OUT"]);
    let run = mock.run(&["doctor", "--device", "cuda:0"]);
    let errors = text(&run.stderr);
    assert!(!run.status.success());
    assert!(
        errors.contains("Mock GPU 9000, cannot be used: the host took more"),
        "{errors}"
    );
}

#[test]
fn memory_that_is_short_is_a_skipped_row() {
    if !compiler_found() {
        return;
    }
    let mock = Mock::new(&["MEMORY_BYTES=4000000"]);
    let suite = mock.suite(STREAMS);
    let out = mock.path("campaign");
    mock.run(&["measure", suite.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let results = std::fs::read_to_string(out.join("results.csv")).unwrap();
    assert!(results.contains("skipped"), "{results}");
    assert!(results.contains("bytes of GPU memory, more than is free"), "{results}");
    assert!(!results.contains("failed"), "{results}");
}

/// Every direction and both kinds of host memory. On the mock, pageable memory that is copied
/// while launches are recorded, or while the GPU is held, is an error.
const TRANSFERS: &str = r#"
name = "transfers"
[protocol]
warmup_s = 0.01
min_samples = 6
min_sample_s = 0.01
max_sample_s = 0.05
[[points]]
op = "transfer"
direction = ["host_to_device", "device_to_host", "both"]
memory = ["pinned", "pageable"]
bytes = [256, 1048832]
cache = ["cold", "hot"]
"#;

#[test]
fn transfers_are_timed_and_right() {
    if !compiler_found() {
        return;
    }
    let mock = Mock::new(&[]);
    let suite = mock.suite(TRANSFERS);
    let out = mock.path("campaign");
    let run =
        mock.run(&["measure", suite.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let results = std::fs::read_to_string(out.join("results.csv")).unwrap();
    assert_eq!(results.lines().count(), 25, "{results}");
    for row in 0..24 {
        let get = |name| column(&results, row, name);
        assert!(["ok", "noisy"].contains(&get("status").as_str()), "{results}");
        assert_eq!((get("kernel"), get("check")), ("transfer".into(), "pass".into()));
        assert_eq!((get("grid"), get("code_hash")), (String::new(), String::new()));
        assert!(is_mock_clock(&get("sm_clock_hz_median")), "{results}");
    }
}

/// One half each way.
const BOTH_WAYS: &str = "name = \"x\"\n[[points]]\nop = \"transfer\"\ndirection = \"both\"\n\
                         memory = [\"pinned\", \"pageable\"]\nbytes = 2097664\ncache = \"hot\"\n";

#[test]
fn a_copy_that_arrives_damaged_is_wrong() {
    if !compiler_found() {
        return;
    }
    let mock = Mock::new(&["COPY_DAMAGE=1048832"]);
    let suite = mock.suite(BOTH_WAYS);
    let run = mock.run(&["check", suite.to_str().unwrap(), "--device", "cuda:0"]);
    assert!(!run.status.success());
    let printed = text(&run.stdout) + &text(&run.stderr);
    assert!(printed.contains("0 right, 2 wrong or failed"), "{printed}");
    assert!(printed.contains("expected 0x"), "{printed}");
}

#[test]
fn a_copy_that_faults_is_a_failed_row() {
    if !compiler_found() {
        return;
    }
    let mock = Mock::new(&["COPY_FAULT=1048832"]);
    let suite = mock.suite(BOTH_WAYS);
    let run = mock.run(&["check", suite.to_str().unwrap(), "--device", "cuda:0"]);
    assert!(!run.status.success());
    let printed = text(&run.stdout) + &text(&run.stderr);
    assert!(printed.contains("0 right, 1 wrong or failed, 0 skipped"), "{printed}");
    // A table folds the sentence.
    let unfolded = printed.split_whitespace().collect::<Vec<_>>().join(" ");
    let sentence = "cuMemcpyHtoDAsync_v2 answered CUDA_ERROR_ILLEGAL_ADDRESS";
    assert!(unfolded.contains(sentence), "{printed}");
}

#[test]
fn host_memory_that_cannot_be_pinned_is_a_skipped_row() {
    if !compiler_found() {
        return;
    }
    let mock = Mock::new(&["HOST_BYTES=65536"]);
    let suite = mock.suite(BOTH_WAYS);
    let out = mock.path("campaign");
    mock.run(&["measure", suite.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let results = std::fs::read_to_string(out.join("results.csv")).unwrap();
    assert!(
        results.contains("bytes of pinned host memory, more than is free"),
        "{results}"
    );
    assert!(!results.contains("failed"), "{results}");
}

/// The mock's kernels do nothing, which is wrong about every program.
#[test]
fn a_selftest_on_a_gpu_that_does_nothing_is_wrong() {
    if !compiler_found() {
        return;
    }
    let mock = Mock::new(&["WITHOUT_PARAM_INFO"]);
    let run = mock.run(&["doctor", "--selftest", "--format", "csv"]);
    let (printed, errors) = (text(&run.stdout), text(&run.stderr));
    assert_eq!(run.status.code(), Some(1), "{errors}");
    let line = "add.sat.s32,\"add.sat.s32 of 0x0, 0x1\",0x1,0x00000001,0xa5a5a5a5";
    assert!(printed.contains(line), "{printed}");
    assert!(errors.contains("on Mock GPU 9000 (cuda:0) 0 right"), "{errors}");
    assert!(errors.contains("selftest 1/"), "{errors}");
}

#[test]
fn a_selftest_reports_what_the_driver_does_not_compile() {
    if !compiler_found() {
        return;
    }
    let mock = Mock::new(&["WITHOUT_PARAM_INFO", "REFUSE_PTX=\"add.sat.s32\""]);
    let run = mock.run(&["doctor", "--selftest", "--format", "csv"]);
    let printed = text(&run.stdout);
    assert!(!run.status.success());
    let line = printed.lines().find(|line| line.starts_with("add.sat.s32,does not run"));
    let line = line.unwrap_or_else(|| panic!("{printed}"));
    assert!(line.contains("CUDA_ERROR_INVALID_PTX"), "{line}");
    assert!(line.contains("ptxas fatal : not by the mock"), "{line}");
}

/// A fault takes the GPU away from its process, and the next program runs in another one.
/// Where all fault, the GPU is given up.
#[test]
fn a_selftest_gives_up_a_gpu_on_which_everything_faults() {
    if !compiler_found() {
        return;
    }
    let mock = Mock::new(&["WITHOUT_PARAM_INFO", "FAULT=\"k\""]);
    let run = mock.run(&["doctor", "--selftest", "--format", "csv"]);
    let (printed, errors) = (text(&run.stdout), text(&run.stderr));
    assert_eq!(run.status.code(), Some(1), "{errors}");
    assert!(errors.contains("8 programs in a row had taken the device away"), "{errors}");
    assert!(printed.contains("add.u16,takes the device away"), "{printed}");
    assert!(printed.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{printed}");
    assert!(errors.contains("selftest 8/") && !errors.contains("selftest 9/"), "{errors}");
}

const PRODUCTS: &str = r#"
name = "products"
[protocol]
warmup_s = 0.01
min_samples = 6
max_sample_s = 0.05
rounds = 2
memory_bytes = "64 MiB"
[[points]]
op = "gemm"
m = 5
n = 24
k = 136
dtype = ["bf16", "f32"]
kernel = "cublaslt"
[[points]]
op = "gemm"
m = 16
n = 48
k = 128
dtype = "bf16"
w_dtype = "fp8_e4m3"
a_dtype = "fp8_e4m3_token"
kernel = "cublaslt"
[[points]]
op = "gemm"
m = 16
n = 48
k = 128
dtype = "bf16"
w_dtype = "fp8_e4m3_tensor"
a_dtype = "fp8_e4m3_tensor"
kernel = "cublaslt"
"#;

#[test]
fn the_vendors_products_are_rows_that_are_checked_and_say_whose_they_are() {
    if !compiler_found() {
        return;
    }
    let results = Mock::new(&[]).with_products(&["SLOW=1"]).results(PRODUCTS);
    for row in 0..4 {
        let get = |name| column(&results, row, name);
        assert!(["ok", "noisy"].contains(&get("status").as_str()), "{results}");
        assert_eq!((get("kernel"), get("check")), ("cublaslt".into(), "pass".into()));
        assert_eq!(get("launch_mode"), "graph");
        assert_eq!(get("implementation"), "cuBLASLt 13.1.0, algorithm 2 of 2");
    }
    // An algorithm that cannot be run costs itself only.
    let results = Mock::new(&[]).with_products(&["FAILS=2"]).results(PRODUCTS);
    assert_eq!(column(&results, 0, "implementation"), "cuBLASLt 13.1.0, algorithm 1 of 2");
}

#[test]
fn what_the_vendors_library_cannot_do_or_does_wrong_is_a_row_with_the_reason() {
    if !compiler_found() {
        return;
    }
    for (macros, status, reason) in [
        (&["SLOW=2", "WRONG=1"][..], "wrong", "c at row"),
        (&["FAILS=1", "WRONG=2"], "wrong", "c at row"),
        (&["NONE"], "skipped", "CUBLAS_STATUS_NOT_SUPPORTED"),
    ] {
        let results = Mock::new(&[]).with_products(macros).results(PRODUCTS);
        assert_eq!(column(&results, 0, "status"), status, "{macros:?}: {results}");
        let found = column(&results, 0, "reason");
        assert!(found.contains(reason), "{macros:?}: {found}");
    }
    // Without the library the row says where to get it.
    let results = Mock::new(&[]).results(PRODUCTS);
    assert_eq!(column(&results, 0, "status"), "skipped");
    assert!(column(&results, 0, "reason").contains("RIDGEPOINT_CUBLASLT"), "{results}");
}
