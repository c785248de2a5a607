//! The program on the virtual driver (`vdriver/`): the CUDA device itself, from the calls
//! of the driver to the records, on a machine without a GPU, and with faults at every call.

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use ridgepoint::kernel::KERNELS;
use ridgepoint::toolchain::nvrtc::Nvrtc;
use tempfile::TempDir;

/// Longest that any run takes; more is a hang.
const HANG: Duration = Duration::from_secs(60);

/// The program in a folder whose loader finds the virtual driver.
struct Virtual {
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
}

/// How a run ended, and what it printed.
struct Ran {
    status: ExitStatus,
    out: String,
    errors: String,
}

impl Virtual {
    fn new() -> Self {
        // Cargo builds it for the tests, beside them.
        let test = std::env::current_exe().unwrap();
        let library = test.with_file_name("libvirtual_driver.so");
        assert!(library.is_file(), "{} is not there", library.display());
        let folder = tempfile::tempdir().unwrap();
        for name in ["libcuda.so", "libcuda.so.1"] {
            symlink(&library, folder.path().join(name)).unwrap();
        }
        Virtual { folder, variables: Vec::new() }
    }

    /// With one of the driver's settings.
    fn set(mut self, name: &'static str, value: impl ToString) -> Self {
        self.variables.push((name, value.to_string()));
        self
    }

    fn with_faults(faults: &str) -> Self {
        Virtual::new().set("RIDGEPOINT_VDRIVER_FAULTS", faults)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn suite(&self, text: &str) -> String {
        let path = self.path("suite.toml");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The folder that campaigns are written to.
    fn campaign(&self) -> String {
        self.path("campaign").to_str().unwrap().to_owned()
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let variables = self.variables.iter().map(|(name, value)| (*name, value.as_str()));
        self.run_with(arguments, &variables.collect::<Vec<_>>())
    }

    /// Runs the program to its end; one that hangs fails the test.
    fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
        let logs = tempfile::tempdir().unwrap();
        let [out, errors] = ["out", "errors"].map(|name| logs.path().join(name));
        let file = |path: &Path| Stdio::from(std::fs::File::create(path).unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_ridgepoint"))
            .args(arguments)
            .env("LD_LIBRARY_PATH", self.folder.path())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(file(&out))
            .stderr(file(&errors))
            .spawn()
            .unwrap();
        let status = wait(child);
        let read = |path: &Path| {
            String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
        };
        let (out, errors) = (read(&out), read(&errors));
        let Some(status) = status else {
            panic!("{arguments:?} with {variables:?} hangs: {errors}")
        };
        assert!(!errors.contains("panicked"), "{arguments:?}, {variables:?}: {errors}");
        Ran { status, out, errors }
    }
}

/// How a process ended; `None` if it had to be ended.
fn wait(mut child: Child) -> Option<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < HANG {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

/// Whether there is the compiler that the device needs.
fn compiler_found() -> bool {
    common::need(Nvrtc::find(&common::search(), None)).is_some()
}

/// A file of a campaign, row by row: the values of these columns.
fn columns(folder: &str, file: &str, names: &[&str]) -> Vec<Vec<String>> {
    let path = Path::new(folder).join(file);
    let mut reader = csv::Reader::from_path(&path)
        .unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let headers = reader.headers().unwrap().clone();
    let at = |name: &&str| headers.iter().position(|header| header == *name).unwrap();
    let at: Vec<usize> = names.iter().map(at).collect();
    let row =
        |record: csv::StringRecord| at.iter().map(|&n| record[n].to_owned()).collect();
    reader.records().map(|record| row(record.unwrap())).collect()
}

/// A point of every kernel, each small.
const EVERY_KERNEL: &str = r#"
name = "every"
[protocol]
warmup_s = 1e-6
min_samples = 3
min_sample_s = 1e-6
max_sample_s = 1e-5
rounds = 1
vendor = false
disturbed_share = 1
[[points]]
op = "stream"
access = ["read", "write", "copy", "triad"]
bytes = 98688
cache = "hot"
[[points]]
op = "stream"
access = "read"
bytes = 98688
passes = 3
reuse = ["shared", "own"]
cache = "hot"
[[points]]
op = "stream"
kernel = "stream_bulk"
access = ["read", "write", "copy"]
bytes = 16512
cache = "hot"
[[points]]
op = "transfer"
direction = ["host_to_device", "device_to_host", "both"]
memory = ["pinned", "pageable"]
bytes = 4352
cache = "hot"
[[points]]
op = "peak"
unit = ["fma", "tensor"]
dtype = "bf16"
lanes = 9
steps = 2
cache = "hot"
[[points]]
op = "kv_read"
batch = 2
context = 17
kv_heads = 2
head_dim = 64
dtype = "bf16"
layout = ["contiguous", "paged16"]
cache = "hot"
[[points]]
op = "kv_append"
batch = 2
context = 17
new_tokens = 3
kv_heads = 2
head_dim = 64
dtype = "bf16"
kv_dtype = "fp8_e4m3"
layout = "paged16"
cache = "hot"
[[points]]
op = "gemm"
kernel = ["gemm", "gemm_skinny"]
m = 9
n = 72
k = 64
dtype = "bf16"
cache = "hot"
[[points]]
op = "gemm"
kernel = "gemv"
m = 2
n = 80
k = 128
dtype = "bf16"
w_dtype = ["bf16", "int4"]
cache = "hot"
[[points]]
op = "gemm"
kernel = "gemm_swapped"
m = 17
n = 136
k = 136
dtype = "bf16"
cache = "hot"
[[points]]
op = "gemm"
kernel = "gemm_wgmma"
m = 65
n = 72
k = 72
dtype = "bf16"
cache = "hot"
[[points]]
op = "moe_gemm"
kernel = "moe_gemm_wgmma"
tokens = 5
experts = 6
top_k = 2
n = 136
k = 64
dtype = "bf16"
routing = "zipf"
inputs = "per_expert"
rows = "contiguous"
cache = "hot"
[[points]]
op = "moe_gemm"
tokens = 5
experts = 6
top_k = 2
n = 136
k = 64
dtype = "bf16"
w_dtype = "int8"
routing = "zipf"
cache = "hot"
[[points]]
op = "decode_attention"
batch = 2
context = 65
q_heads = 8
kv_heads = 2
head_dim = 64
dtype = "bf16"
layout = "paged16"
cache = "hot"
[[points]]
op = "mla_decode"
kernel = "attention_mla"
batch = 1
context = 17
q_heads = 16
dtype = "bf16"
layout = "paged16"
cache = "hot"
[[points]]
op = "mla_decode"
kernel = "attention_mla_wgmma"
batch = 1
context = 65
q_heads = 33
dtype = "bf16"
layout = "paged64"
cache = "hot"
[[points]]
op = "prefill_attention"
kernel = ["attention_prefill", "attention_prefill_wgmma"]
batch = 1
prefix = 7
new_tokens = 15
q_heads = 4
kv_heads = 2
head_dim = 64
dtype = "bf16"
cache = "hot"
[[points]]
op = "prefill_attention"
kernel = "attention_prefill_wgmma"
batch = 2
new_tokens = 3
q_heads = 2
kv_heads = 1
head_dim = 64
dtype = "bf16"
lengths = "ragged"
cache = "hot"
[[points]]
op = "prefill_attention"
kernel = "attention_prefill_wgmma"
batch = 2
prefix = 7
new_tokens = 15
q_heads = 2
kv_heads = 1
head_dim = 64
dtype = "bf16"
kv_dtype = "fp8_e4m3_tensor"
q_dtype = "fp8_e4m3_tensor"
lengths = "ragged"
cache = "hot"
[[points]]
op = "rmsnorm"
m = 3
n = 136
dtype = "bf16"
cache = "hot"
[[points]]
op = "gated_activation"
m = 3
n = 136
dtype = "bf16"
cache = "hot"
[[points]]
op = "embedding"
m = 3
vocab = 50
n = 136
dtype = "bf16"
cache = "hot"
[[points]]
op = "argmax"
m = 2
n = 2056
dtype = "bf16"
cache = "hot"
[[points]]
op = "rope_append"
batch = 2
context = 17
q_heads = 3
kv_heads = 1
head_dim = 64
dtype = "bf16"
layout = "paged16"
pages = ["touched", "whole"]
cache = "hot"
[[points]]
op = "decode_step"
launch = ["graph", "programmatic"]
layers = 2
batch = 2
context = 40
hidden = 128
q_heads = 4
kv_heads = 2
head_dim = 64
intermediate = 192
vocab = 200
dtype = "bf16"
layout = "paged16"
"#;

#[test]
fn every_kernel_is_right_and_is_measured_on_the_cuda_device() {
    if !compiler_found() {
        return;
    }
    let driver = Virtual::new().set("RIDGEPOINT_VDRIVER_SMS", 4);
    let suite = driver.suite(EVERY_KERNEL);
    let ran = driver.run(&["check", &suite, "--device", "cuda:0", "--format", "csv"]);
    assert!(ran.status.success(), "{}{}", ran.out, ran.errors);
    let mut reader = csv::Reader::from_reader(ran.out.as_bytes());
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let kernels: BTreeSet<&str> = rows.iter().map(|row| &row[1]).collect();
    let known: BTreeSet<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
    assert_eq!(kernels, known, "EVERY_KERNEL has no point of a kernel");
    assert!(rows.iter().all(|row| &row[2] == "ok"), "{}", ran.out);

    let out = driver.campaign();
    let ran = driver.run(&["measure", &suite, "--out", &out]);
    assert!(ran.status.success(), "{}", ran.errors);
    let measured = columns(&out, "results.csv", &["device_kind", "status", "check"]);
    assert_eq!(measured.len(), rows.len());
    assert!(measured.iter().all(|row| row[..] == ["simulated", "ok", "pass"]));
}

/// A configuration that overlaps launches decides how rows are queued, unless the point does.
const LAUNCH_MODES: &str = r#"
name = "modes"
[protocol]
warmup_s = 1e-6
min_samples = 3
min_sample_s = 1e-6
max_sample_s = 1e-5
rounds = 1
disturbed_share = 1
vendor = false
[[points]]
op = "gemm"
m = 1
n = 32
k = 256
dtype = "bf16"
cache = "hot"
kernel = ["gemv", "gemv.programmatic"]
[[points]]
op = "gemm"
m = 1
n = 32
k = 256
dtype = "bf16"
cache = "hot"
kernel = "gemv.programmatic"
launch = "graph"
"#;

#[test]
fn a_configuration_may_choose_the_launch_mode() {
    if !compiler_found() {
        return;
    }
    let driver = Virtual::new().set("RIDGEPOINT_VDRIVER_SMS", 4);
    let suite = driver.suite(LAUNCH_MODES);
    let out = driver.campaign();
    let ran = driver.run(&["measure", &suite, "--device", "cuda:0", "--out", &out]);
    assert!(ran.status.success(), "{}", ran.errors);
    let wanted = ["kernel", "launch_mode", "configuration", "status", "check"];
    let mut rows: Vec<String> =
        columns(&out, "results.csv", &wanted).iter().map(|row| row.join(" ")).collect();
    rows.sort();
    let expected = [
        "gemv graph default ok pass",
        "gemv.programmatic graph programmatic ok pass",
        "gemv.programmatic programmatic programmatic ok pass",
    ];
    assert_eq!(rows, expected);
}

/// Configurations of a kernel that compete, in a moment of the virtual GPU's time.
const COMPETITION: &str = r#"
name = "tune"
[protocol]
warmup_s = 1e-6
min_samples = 3
min_sample_s = 1e-6
max_sample_s = 1e-5
rounds = 2
halving_rounds = 1
disturbed_share = 1
[[points]]
op = "stream"
access = "read"
bytes = 98688
cache = "hot"
kernel = [KERNELS]
"#;

/// Kernels are tuned on a GPU as on a CPU, in workers: every configuration is compiled, loaded
/// and checked there. A table of another kind of device is refused.
#[test]
fn kernels_are_tuned_on_the_cuda_device() {
    if !compiler_found() {
        return;
    }
    let driver = Virtual::new().set("RIDGEPOINT_VDRIVER_SMS", 4);
    let space = ridgepoint::kernel::Kernel::named("stream").unwrap().search_space();
    let named =
        space.configurations.iter().map(|choice| format!("\"stream.{}\"", choice.name));
    let kernels: Vec<String> = ["\"stream\"".to_owned()].into_iter().chain(named).collect();
    let suite = driver.suite(&COMPETITION.replace("KERNELS", &kernels.join(", ")));
    let out = driver.campaign();
    let ran = driver.run(&["measure", &suite, "--device", "cuda:0", "--out", &out]);
    assert!(ran.status.success(), "{}", ran.errors);
    let ran = driver.run(&["tune", "--resume", &out, "--device", "cuda:0"]);
    assert!(ran.status.success(), "{}", ran.errors);
    let names = ["device_kind", "status", "check", "configuration", "configuration_from"];
    let rows = columns(&out, "results.csv", &names);
    for row in &rows {
        assert!(row[0] == "simulated" && row[1] != "failed", "{row:?}");
        // Some configurations do not run a set as small as this.
        assert!(row[1] == "skipped" || row[2] == "pass", "{row:?}");
    }
    assert_eq!(rows.len(), kernels.len());
    let asked = rows.iter().filter(|row| row[2] == "pass" && row[4] == "asked");
    assert!(asked.count() > 3, "{rows:?}");
    let table = ridgepoint::tuning::TuningTable::load(&Path::new(&out).join("tuning.toml"));
    let table = table.unwrap();
    assert_eq!((table.tuned.len(), table.tuned[0].kernel.as_str()), (1, "stream"));
    let path = Path::new(&out).join("tuning.toml").to_str().unwrap().to_owned();
    let ran = driver.run(&["measure", &suite, "--device", "cpu", "--tuning", &path]);
    assert!(ran.errors.contains("was tuned on"), "{}", ran.errors);
}

#[test]
fn doctor_describes_a_virtual_gpu() {
    if !compiler_found() {
        return;
    }
    let ran = Virtual::new().set("RIDGEPOINT_VDRIVER_SMS", 3).run(&["doctor"]);
    assert!(ran.status.success(), "{}", ran.errors);
    for part in ["virtual sm_90a (ptxvm)", "the one GPU here", "counted instructions"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let sms = ran.out.lines().find(|line| line.contains("SM count")).unwrap();
    assert!(sms.trim().ends_with('3'), "{sms}");
    let counters = ran.out.lines().find(|line| line.trim().starts_with("counters"));
    assert!(counters.unwrap().contains("Nsight Compute"), "{}", ran.out);
    // What it is told and does not understand, it does not do.
    let ran = Virtual::with_faults("cuInit=1").run(&["doctor", "--device", "cuda:0"]);
    assert!(!ran.status.success());
    assert!(ran.errors.contains("RIDGEPOINT_VDRIVER_FAULTS: `cuInit=1`"), "{}", ran.errors);
}

/// Rows that take no time: kernels with one launch and with more, and copies on two
/// streams.
const SHORT: &str = r#"
name = "short"
[protocol]
warmup_s = 1e-6
min_samples = 3
min_sample_s = 1e-6
max_sample_s = 1e-5
rounds = 1
vendor = false
disturbed_share = 1
[[points]]
op = "stream"
access = "read"
bytes = 4096
cache = "hot"
[[points]]
op = "gemm"
m = 1
n = 64
k = 64
dtype = "bf16"
cache = "hot"
[[points]]
op = "transfer"
direction = "both"
memory = "pinned"
bytes = 512
cache = "hot"
"#;

/// Rows of the campaign [`SHORT`].
const SHORT_ROWS: usize = 3;

/// A sample has more launches than a graph, so that graphs are launched too.
const GRAPHS: &str = r#"
name = "graphs"
[protocol]
warmup_s = 1e-6
min_samples = 3
min_sample_s = 2.0
max_sample_s = 2.1
rounds = 1
disturbed_share = 1
[[points]]
op = "transfer"
direction = "both"
memory = "pinned"
bytes = 512
cache = "hot"
"#;

/// A kernel that has tensor maps.
const TENSOR_MAPS: &str = r#"
name = "tensor-maps"
[[points]]
op = "mla_decode"
kernel = "attention_mla_wgmma"
batch = 1
context = 1
q_heads = 33
dtype = "bf16"
layout = "paged64"
cache = "hot"
"#;

#[test]
fn rows_are_simulated_and_never_pass_for_measured_ones() {
    if !compiler_found() {
        return;
    }
    let driver = Virtual::new();
    let (suite, out) = (driver.suite(SHORT), driver.campaign());
    let ran = driver.run(&["measure", &suite, "--seed", "1", "--out", &out]);
    assert!(ran.status.success(), "{}", ran.errors);
    let names = ["device_kind", "status", "check", "registers", "timer"];
    let rows = columns(&out, "results.csv", &names);
    assert_eq!(rows.len(), SHORT_ROWS);
    for row in &rows {
        assert_eq!(row[..3], ["simulated", "ok", "pass"], "{row:?}");
        assert!(row[4].starts_with("counted instructions"), "{row:?}");
    }
    let run = columns(&out, "run.csv", &["device", "device_kind", "compiler"]);
    assert_eq!(run[0][..2], ["virtual sm_90a (ptxvm)", "simulated"]);
    assert!(run[0][2].ends_with(", PTX"), "{run:?}");
    // Time is counted, so it is the same again.
    let again = Virtual::new();
    let out_again = again.campaign();
    again.run(&["measure", &again.suite(SHORT), "--seed", "1", "--out", &out_again]);
    let times = |out: &str| {
        let mut times = columns(out, "results.csv", &["problem", "time_s_median"]);
        times.sort();
        times
    };
    assert_eq!(times(&out), times(&out_again));
}

#[test]
fn the_selftest_runs_on_the_cuda_device() {
    if !compiler_found() {
        return;
    }
    let ran = Virtual::new().run(&["doctor", "--selftest", "--device", "cuda:0"]);
    assert!(ran.status.success(), "{}{}", ran.out, ran.errors);
    let count = ptxvm::conformance::programs().len();
    let summary = format!("on virtual sm_90a (ptxvm) (cuda:0) {count} right, 0 wrong");
    assert!(ran.errors.contains(&summary), "{}", ran.errors);
}

/// A program that faults takes the GPU away from its process. The others are judged all
/// the same, those behind it too.
#[test]
fn a_selftest_survives_programs_that_fault_or_hang() {
    if !compiler_found() {
        return;
    }
    let programs = ptxvm::conformance::programs();
    let with = |text: &str| -> Vec<&str> {
        let found = programs.iter().filter(|program| program.ptx.contains(text));
        found.map(|program| program.name.as_str()).collect()
    };
    let faulting = with("popc.b64");
    let (hanging, unloaded) = (with("brev.b64"), with("add.sat.s32"));
    assert!(faulting.len() == 1 && hanging.len() == 1 && unloaded.len() == 1);
    let driver =
        Virtual::with_faults("ptx popc.b64=715; ptx brev.b64=hang; load add.sat.s32=218");
    let asked = ["doctor", "--selftest", "--device", "cuda:0", "--patience-s", "3"];
    let ran = driver.run(&[&asked[..], &["--format", "csv"]].concat());
    assert_eq!(ran.status.code(), Some(1), "{}", ran.errors);
    let summary = format!(
        "{} right, 3 wrong, of these 2 that took the device away",
        programs.len() - 3
    );
    assert!(ran.errors.contains(&summary), "{}", ran.errors);
    for (name, what, why) in [
        (faulting[0], "takes the device away", "CUDA_ERROR_ILLEGAL_INSTRUCTION"),
        (hanging[0], "takes the device away", "no end after 3 s"),
        (unloaded[0], "does not run", "CUDA_ERROR_INVALID_PTX"),
    ] {
        let line = ran.out.lines().find(|line| line.starts_with(&format!("{name},{what}")));
        assert!(line.is_some_and(|line| line.contains(why)), "{name}: {}", ran.out);
    }
}

/// Where nothing works the self-test does not go through all programs.
#[test]
fn a_selftest_gives_up_a_gpu_that_is_broken() {
    if !compiler_found() {
        return;
    }
    let driver = Virtual::with_faults("kernel k=700");
    let ran = driver.run(&["doctor", "--selftest", "--device", "cuda:0"]);
    assert_eq!(ran.status.code(), Some(1), "{}", ran.errors);
    assert!(ran.errors.contains("8 programs in a row had taken"), "{}", ran.errors);
}

#[test]
fn a_kernel_that_faults_costs_its_own_row() {
    if !compiler_found() {
        return;
    }
    let driver = Virtual::with_faults("kernel stream_read:5=700");
    let (suite, out) = (driver.suite(SHORT), driver.campaign());
    let ran = driver.run(&["measure", &suite, "--seed", "1", "--out", &out]);
    assert!(!ran.status.success());
    assert!(ran.errors.contains("can no longer be used after stream:"), "{}", ran.errors);
    driver.run_with(&["measure", "--resume", &out], &[]);
    let mut rows = columns(&out, "results.csv", &["op", "status", "reason"]);
    rows.sort();
    let statuses: Vec<&str> = rows.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(statuses, ["ok", "failed", "ok"], "{rows:?}");
    assert!(rows[1][2].contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{rows:?}");
}

#[test]
fn memory_that_is_short_is_a_skipped_row_and_damage_a_wrong_one() {
    if !compiler_found() {
        return;
    }
    for (name, value, why) in [
        // 3000 beside what the device takes for itself.
        ("RIDGEPOINT_VDRIVER_MEMORY_BYTES", "1248184", "MiB are allowed"),
        (
            "RIDGEPOINT_VDRIVER_HOST_BYTES",
            "500",
            "of pinned host memory, more than is free",
        ),
        ("RIDGEPOINT_VDRIVER_FAULTS", "call cuMemAlloc_v2:3=2", "of GPU memory, more than"),
    ] {
        let driver = Virtual::new().set(name, value);
        let (suite, out) = (driver.suite(SHORT), driver.campaign());
        let ran = driver.run(&["measure", &suite, "--out", &out]);
        let rows = columns(&out, "results.csv", &["status", "reason"]);
        let skipped = rows.iter().filter(|row| row[0] == "skipped");
        let reasons: Vec<&str> = skipped.map(|row| row[1].as_str()).collect();
        assert!(!reasons.is_empty() && reasons.len() < rows.len(), "{}", ran.errors);
        assert!(reasons.iter().all(|reason| reason.contains(why)), "{reasons:?}");
    }
    let driver = Virtual::with_faults("copy 256=damage");
    let suite = driver.suite(SHORT);
    let ran = driver.run(&["check", &suite, "--device", "cuda:0", "--format", "csv"]);
    assert!(!ran.status.success());
    assert!(ran.errors.contains("2 right, 1 wrong or failed"), "{}{}", ran.out, ran.errors);
}

// --- A fault at every call --------------------------------------------------------------

/// `CUDA_ERROR_OPERATING_SYSTEM`, after which a context can be used on.
const FAILS: &str = "304";

/// `CUDA_ERROR_LAUNCH_FAILED`, after which it cannot.
const BREAKS: &str = "719";

/// How often a campaign calls each function.
fn calls(suite: &str) -> Vec<(String, u64)> {
    let driver = Virtual::new();
    let file = driver.path("calls");
    let driver = driver.set("RIDGEPOINT_VDRIVER_CALLS", file.display());
    let (suite, out) = (driver.suite(suite), driver.campaign());
    driver.run(&["measure", &suite, "--seed", "1", "--device", "cuda:0", "--out", &out]);
    let text = std::fs::read_to_string(file).unwrap();
    let count = |line: &str| {
        let (name, count) = line.split_once(' ').unwrap();
        (name.to_owned(), count.parse().unwrap())
    };
    text.lines().map(count).collect()
}

/// Every function of the driver that the device calls.
fn called_by_the_device() -> Vec<&'static str> {
    let table = include_str!("../src/device/cuda/driver/symbols.rs");
    let names = table.split('"').skip(1).step_by(2);
    names.filter(|name| name.starts_with("cu") && name.len() > "culib".len()).collect()
}

/// Calls whose failure changes nothing: what ends, and words for another failure.
fn is_harmless(call: &str) -> bool {
    let ends = ["Destroy", "Free", "Unload", "Release"];
    ends.iter().any(|part| call.contains(part)) || call == "cuGetErrorString"
}

/// Whether a verdict has nothing against the records but that rows failed or are missing.
fn has_no_faults(errors: &str) -> bool {
    let faults = errors.lines().filter_map(|line| line.strip_prefix("invalid: "));
    faults
        .into_iter()
        .all(|fault| fault.starts_with("failed: ") || fault.contains("planned rows"))
}

/// Fails with a text.
macro_rules! ensure {
    ($holds:expr, $($why:tt)*) => {
        if !$holds {
            return Err(format!($($why)*));
        }
    };
}

/// A fault of a campaign of so many rows.
#[derive(Clone, Debug)]
struct Case {
    suite: &'static str,
    rows: usize,
    call: String,
    number: u64,
    code: &'static str,
}

/// Measures with one fault, and finishes without. What is wrong then.
fn survives(case: &Case) -> Result<(), String> {
    let Case { suite, call, number, code, .. } = case;
    let driver = Virtual::with_faults(&format!("call {call}:{number}={code}"));
    let (suite, out) = (driver.suite(suite), driver.campaign());
    let asked = ["measure", &suite, "--seed", "1", "--device", "cuda:0", "--out", &out];
    let Ran { status, errors, .. } = driver.run(&asked);
    ensure!(!status.success() || is_harmless(call), "nobody noticed: {errors}");
    // 3 where a row has failed, which makes a campaign invalid.
    ensure!(matches!(status.code(), Some(0 | 1 | 3)), "{status}: {errors}");
    let names_call = |text: &str| text.contains(call.as_str()) || is_harmless(call);
    if !Path::new(&out).exists() {
        // It does not come to a campaign.
        ensure!(status.code() == Some(1) && names_call(&errors), "{status}: {errors}");
        return Ok(());
    }
    if status.code() == Some(1) {
        ensure!(errors.contains(&format!("--resume {out}")), "{errors}");
        // What was written can be read, though rows are missing.
        let verdict = driver.run_with(&["verdict", &out], &[]);
        ensure!(has_no_faults(&verdict.errors), "{}", verdict.errors);
        let resumed = driver.run_with(&["measure", "--resume", &out], &[]);
        ensure!(matches!(resumed.status.code(), Some(0 | 3)), "{}", resumed.errors);
        ensure!(has_no_faults(&resumed.errors), "{}", resumed.errors);
    } else {
        // It judges itself.
        ensure!(has_no_faults(&errors), "{errors}");
    }
    let rows = columns(&out, "results.csv", &["point_id", "status", "reason", "check"]);
    let points: BTreeSet<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    ensure!(rows.len() == case.rows && points.len() == case.rows, "{rows:?}");
    for row in &rows {
        let is_right = match row[1].as_str() {
            "ok" => row[3] == "pass",
            "failed" => names_call(&row[2]),
            _ => false,
        };
        ensure!(is_right, "{row:?}");
    }
    ensure!(rows.iter().filter(|row| row[1] == "failed").count() <= 1, "{rows:?}");
    let rounds = columns(&out, "rounds.csv", &["point_id", "repeat", "round"]);
    let once: BTreeSet<&Vec<String>> = rounds.iter().collect();
    ensure!(once.len() == rounds.len(), "{rounds:?}");
    Ok(())
}

#[test]
fn a_fault_at_any_call_is_told_and_survived() {
    if !compiler_found() {
        return;
    }
    let case = |suite, rows, call: &str, number, code| Case {
        suite,
        rows,
        call: call.to_owned(),
        number,
        code,
    };
    let of_short = calls(SHORT);
    let mut cases = Vec::new();
    let called = called_by_the_device();
    for (call, count) in of_short.iter().filter(|(call, _)| called.contains(&&**call)) {
        // NVRTC starts the driver too, and does without.
        let count = if call == "cuInit" { 1 } else { *count };
        let numbers: BTreeSet<u64> = [1, count / 2 + 1].into();
        let of_call = |number| case(SHORT, SHORT_ROWS, call, number, FAILS);
        cases.extend(numbers.into_iter().map(of_call));
    }
    for call in ["cuLaunchKernelEx", "cuStreamSynchronize", "cuMemcpyDtoHAsync_v2"] {
        let (_, count) = of_short.iter().find(|(name, _)| name == call).unwrap();
        cases.push(case(SHORT, SHORT_ROWS, call, count * 3 / 4, BREAKS));
    }
    cases.extend([1, 5].map(|number| case(GRAPHS, 1, "cuGraphLaunch", number, FAILS)));
    cases.push(case(TENSOR_MAPS, 1, "cuTensorMapEncodeTiled", 1, FAILS));
    let mut missing = called;
    missing.retain(|name| cases.iter().all(|case| case.call != *name));
    // Machine code, which the virtual driver does not take, and marks for profilers.
    let not_called = ["cuModuleLoadData", "cuProfilerStart", "cuProfilerStop"];
    missing.sort_unstable();
    assert_eq!(missing, not_called, "no campaign here calls them");
    let judge = |case: Case| {
        let why = survives(&case).err()?;
        let Case { call, number, code, .. } = case;
        Some(format!("{call}, time {number}, answers {code}: {why}"))
    };
    let wrong: Vec<String> = cases.into_par_iter().filter_map(judge).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A worker that hangs is ended, and the point with which two of them hung is given up.
#[test]
fn a_kernel_that_hangs_costs_its_own_row() {
    if !compiler_found() {
        return;
    }
    let faults = Virtual::with_faults("kernel stream_read=hang");
    let driver = faults.set("RIDGEPOINT_PATIENCE_S", 6);
    let (suite, out) = (driver.suite(SHORT), driver.campaign());
    let ran = driver.run(&["measure", &suite, "--seed", "1", "--out", &out]);
    let mut rows = columns(&out, "results.csv", &["op", "status", "reason"]);
    rows.sort();
    let statuses: Vec<&str> = rows.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(statuses, ["ok", "failed", "ok"], "{rows:?}\n{}", ran.errors);
    assert!(rows[1][2].contains("said nothing for"), "{rows:?}");
}

/// Kills of workers and of their supervisor, at random moments: whatever is killed, the
/// campaign that is resumed has every row once, and is sound.
#[test]
fn kills_lose_and_double_nothing() {
    if !compiler_found() {
        return;
    }
    const KILLS: u64 = 8;
    let driver = Virtual::new();
    let (suite, out) = (driver.suite(SHORT), driver.campaign());
    let mut moment = 0x9e37_79b9_7f4a_7c15u64;
    for kill in 0..KILLS {
        // A fixed sequence that looks random: xorshift64.
        moment ^= moment << 13;
        moment ^= moment >> 7;
        moment ^= moment << 17;
        let exists = Path::new(&out).join("run.csv").exists();
        let begin = ["measure", &suite, "--seed", "1", "--out", &out];
        let resume = ["measure", "--resume", &out];
        let mut supervisor = Command::new(env!("CARGO_BIN_EXE_ridgepoint"))
            .args(if exists { &resume[..] } else { &begin })
            .env("LD_LIBRARY_PATH", driver.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(200 + moment % 1500));
        let workers = children(supervisor.id());
        for pid in &workers {
            if kill % 2 == 0 {
                Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
            }
        }
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
        // A worker ends behind its supervisor, after the row in hand.
        let began = Instant::now();
        while workers.iter().any(|pid| is_alive(*pid)) {
            assert!(began.elapsed() < HANG, "a worker goes on without its supervisor");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let ran = match Path::new(&out).join("run.csv").exists() {
        true => driver.run(&["measure", "--resume", &out]),
        false => driver.run(&["measure", &suite, "--seed", "1", "--out", &out]),
    };
    assert!(ran.status.success(), "{}", ran.errors);
    let mut rows = columns(&out, "results.csv", &["point_id", "repeat", "status"]);
    assert_eq!(rows.len(), SHORT_ROWS, "{rows:?}");
    assert!(rows.iter().all(|row| row[2] == "ok"), "{rows:?}");
    rows.sort();
    rows.dedup();
    assert_eq!(rows.len(), SHORT_ROWS, "{rows:?}");
    let verdict = driver.run(&["verdict", &out]);
    assert!(verdict.status.success(), "{}{}", verdict.out, verdict.errors);
}

/// Processes that a process has started.
fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Whether a process is there and not merely waited for.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// What `scripts/peers.py` does to read clocks in a stream, without torch: two readings, and
/// one of a multiprocessor that the second left out.
const READ_TWICE: &str = r#"
import ctypes, importlib.util, sys
spec = importlib.util.spec_from_file_location("peers", sys.argv[1])
peers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peers)
cuda, sms = ctypes.CDLL("libcuda.so.1"), 3
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    assert code == 0, (name, code)
context, words, stream = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_void_p()
call("cuInit", 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
call("cuCtxSetCurrent", context)
call("cuStreamCreate", ctypes.byref(stream), 1)
size = 4 * sms * 8
call("cuMemAlloc_v2", ctypes.byref(words), ctypes.c_size_t(size))
call("cuMemsetD8Async", words, 0, ctypes.c_size_t(size), stream)
clocks = peers.ClockKernel(cuda, sms)
for at in range(2):
    clocks.queue(words.value + at * size // 2, stream.value)
read = (ctypes.c_uint64 * (4 * sms))()
call("cuMemcpyDtoHAsync_v2", read, words, ctypes.c_size_t(size), stream)
call("cuStreamSynchronize", stream)
print(*read)
print(clocks.hz([1000, 0, 1000, 50, 0, 60], [3400, 900, 2200, 1050, 950, 1060]))
print(clocks.hz([0, 0, 0, 0, 0, 0], [3400, 900, 2200, 1050, 950, 1060]))
"#;

/// Cycles and nanoseconds of every multiprocessor, later ones in the second reading.
#[test]
fn clocks_of_peers_are_read_in_the_stream() {
    let driver = Virtual::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/peers.py");
    let output = Command::new("python3")
        .args(["-B", "-c", READ_TWICE])
        .arg(script)
        .env("LD_LIBRARY_PATH", driver.folder.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let told = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = told.lines().collect();
    let words: Vec<u64> = lines[0].split(' ').map(|word| word.parse().unwrap()).collect();
    assert_eq!(words.len(), 12);
    assert!(words.iter().any(|word| *word > 0), "{words:?}");
    for (before, after) in words[..6].iter().zip(&words[6..]) {
        assert!(before <= after, "{words:?}");
    }
    // 2.4 and 1.2 cycles a nanosecond, of two multiprocessors; then none.
    assert_eq!(lines[1..], ["1800000000.0", "None"]);
}
