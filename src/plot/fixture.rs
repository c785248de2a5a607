//! Made-up campaigns to draw.

use std::path::Path;

use crate::analysis::Campaign;
use crate::device::DeviceKind;
use crate::format::DType;
use crate::model::machine::DataSheet;
use crate::op::Problem;
use crate::point::{CacheState, KernelName, Point};
use crate::record::{Records, Row, Run, Status, Witnesses};
use crate::residency::{CacheSize, read_caches};
use crate::roofline::{Bandwidth, ComputePeak, Peaks};

/// Of 132 multiprocessors with 248 KiB each.
const NEAR: &str = "L1=33521664";

/// A machine that times are made up for.
struct MadeUpMachine {
    name: &'static str,
    caches: &'static str,
    kernel: &'static str,
    last_level: u64,
    read: f64,
    flops_per_s: &'static [(DType, f64)],
    launch_s: f64,
    rows: Vec<Row>,
}

impl MadeUpMachine {
    /// Adds a measured row.
    fn push(&mut self, problem: &str, cache: CacheState, reuse: u64, time_s: f64) {
        let problem: Problem = problem.parse().expect("a valid problem");
        let point = Point {
            problem,
            kernel: self.kernel.parse().unwrap(),
            cache,
            launch: None,
            load: None,
        };
        let spread = 0.004 + 0.03 * noise(&point);
        let work = problem.work();
        self.rows.push(Row {
            point_id: point.id(),
            order_index: self.rows.len() as u32,
            suite: "default".to_owned(),
            device: self.name.to_owned(),
            device_kind: DeviceKind::Measured.name().to_owned(),
            op: problem.op().name().to_owned(),
            kernel: point.kernel.to_string(),
            cache_state: cache.name().to_owned(),
            status: Some(Status::Ok),
            problem: problem.to_string(),
            matrix_flops_model: work.matrix_flops(),
            vector_flops_model: work.vector_flops(),
            bytes_read_model: work.bytes_read(),
            bytes_written_model: work.bytes_written(),
            reuse_distance_bytes: Some(reuse),
            residency: problem
                .residency(reuse, &read_caches(self.caches).0, self.near())
                .to_string(),
            n_samples: 30,
            time_s_median: Some(time_s),
            time_s_ci_lo: Some(time_s * (1.0 - spread)),
            time_s_ci_hi: Some(time_s * (1.0 + spread)),
            started_utc: format!("2026-11-23T10:{:02}:00Z", self.rows.len() / 60),
            ..Row::default()
        });
    }

    /// The L1 of an H100's multiprocessors.
    fn near(&self) -> Option<CacheSize> {
        self.name.contains("H100").then(|| NEAR.parse().unwrap())
    }

    /// Adds a read of several passes at a bandwidth.
    fn passes(&mut self, reuse: &str, bytes: u64, bytes_per_s: f64) {
        let problem = format!("stream:access=read,bytes={bytes},passes=64,reuse={reuse}");
        self.push(&problem, CacheState::Hot, bytes, 64.0 * bytes as f64 / bytes_per_s);
    }

    /// Adds a stream at a bandwidth.
    fn stream(&mut self, access: &str, bytes: u64, bytes_per_s: f64) {
        let problem = format!("stream:access={access},bytes={bytes}");
        self.push(&problem, CacheState::Hot, bytes, bytes as f64 / bytes_per_s);
    }

    /// Adds a kernel that reaches 60 to 95% of its roof after a launch.
    fn kernel(&mut self, problem: &str, cache: CacheState) {
        let parsed: Problem = problem.parse().expect("a valid problem");
        let work = parsed.work();
        let dtype = parsed.math_dtype();
        let peak = self.flops_per_s.iter().find(|(d, _)| Some(*d) == dtype);
        let compute_s = peak.map_or(0.0, |(_, rate)| work.flops() as f64 / rate);
        let hot = cache == CacheState::Hot;
        let reuse = if hot { work.bytes() } else { work.bytes().max(2 * self.last_level) };
        let fits = reuse < self.last_level;
        let bandwidth = if fits { 1.6 * self.read } else { self.read };
        let roof = compute_s.max(work.bytes() as f64 / bandwidth);
        let point = Point {
            problem: parsed,
            kernel: KernelName::none(),
            cache,
            launch: None,
            load: None,
        };
        let share = 0.6 + 0.35 * noise(&point);
        self.push(problem, cache, reuse, roof / share + self.launch_s);
    }

    fn made(self, spec: Option<DataSheet>) -> MadeUp {
        let mut run = Run::default();
        run.set("device", self.name);
        run.set("caches", self.caches);
        if let Some(near) = self.near() {
            run.set("near_cache", near);
        }
        run.set("seed", 42);
        MadeUp { rows: self.rows, runs: vec![run], spec }
    }
}

/// Records of a campaign, to be altered before they are read.
#[derive(Clone, Debug)]
pub struct MadeUp {
    pub rows: Vec<Row>,
    pub runs: Vec<Run>,
    pub spec: Option<DataSheet>,
}

impl MadeUp {
    /// The records, read.
    pub fn campaign(&self) -> Campaign {
        self.with_rows(self.rows.clone())
    }

    /// The same with other rows.
    pub fn with_rows(&self, rows: Vec<Row>) -> Campaign {
        self.read(rows, Witnesses::default())
    }

    /// The same with what counters and the virtual machine say.
    pub fn with_witnesses(&self, witnesses: Witnesses) -> Campaign {
        self.read(self.rows.clone(), witnesses)
    }

    fn read(&self, rows: Vec<Row>, witnesses: Witnesses) -> Campaign {
        let runs = self.runs.clone();
        let records = Records { runs, rows, witnesses, ..Records::default() };
        let folder = Path::new("made-up");
        let campaign = Campaign::from_records(folder, records, self.spec.clone()).unwrap();
        assert_eq!(campaign.unreadable, []);
        campaign
    }
}

/// A number in 0..1 that depends on the point alone.
fn noise(point: &Point) -> f64 {
    let id = u64::from_str_radix(&point.id(), 16).expect("hexadecimal");
    (id % 1000) as f64 / 1000.0
}

const MIB: u64 = 1 << 20;

fn decode(batch: u64, context: u64, q_heads: u64, dtype: &str) -> String {
    format!(
        "decode_attention:batch={batch},context={context},q_heads={q_heads},kv_heads=8,\
         head_dim=128,dtype={dtype},kv_dtype={dtype},layout=contiguous"
    )
}

/// A server with two cores and a last-level cache larger than its curve shows.
pub fn cpu() -> MadeUp {
    let mut machine = MadeUpMachine {
        name: "Example CPU, 2 cores",
        caches: "L1=98304;L2=4194304;L3=503316480",
        kernel: "cpu",
        last_level: 480 * MIB,
        read: 31e9,
        flops_per_s: &[(DType::F32, 300e9), (DType::Bf16, 240e9)],
        launch_s: 4e-6,
        rows: Vec::new(),
    };
    let read = [(1, 96), (16, 47), (64, 55), (128, 46), (256, 31), (1024, 31), (2048, 31)];
    for (mib, rate) in read {
        machine.stream("read", mib * MIB, rate as f64 * 1e9);
    }
    for (mib, write, copy) in [(1, 44, 60), (64, 24, 33), (512, 20, 27), (2048, 20, 27)] {
        machine.stream("write", mib * MIB, write as f64 * 1e9);
        machine.stream("copy", mib * MIB, copy as f64 * 1e9);
    }
    machine.kernel("peak:unit=fma,dtype=f32,lanes=256,steps=1048576", CacheState::Hot);
    for (dtype, rate) in [("f32", 290e9), ("bf16", 230e9)] {
        let problem = format!("gemm:m=2048,n=4096,k=4096,dtype={dtype}");
        let flops = 2.0 * 2048.0 * 4096.0 * 4096.0;
        machine.push(&problem, CacheState::Cold, 1 << 30, flops / rate);
        for m in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] {
            machine.kernel(
                &format!("gemm:m={m},n=4096,k=4096,dtype={dtype}"),
                CacheState::Cold,
            );
        }
    }
    for q_heads in [8, 16, 32, 64] {
        for batch in [1, 2, 4, 8] {
            for context in [1024, 4096, 16384, 32768] {
                machine.kernel(&decode(batch, context, q_heads, "bf16"), CacheState::Cold);
            }
        }
        machine.kernel(&decode(1, 1024, q_heads, "bf16"), CacheState::Hot);
    }
    for context in [1024, 4096, 16384, 32768] {
        let shape = "kv_heads=8,head_dim=128,dtype=bf16,layout=contiguous";
        let problem = format!("kv_read:batch=4,context={context},{shape}");
        machine.kernel(&problem, CacheState::Cold);
    }
    for tokens in [128, 512, 2048] {
        machine.kernel(
            &format!(
                "prefill_attention:batch=1,prefix=0,new_tokens={tokens},q_heads=32,\
                 kv_heads=8,head_dim=128,causal=true,dtype=f32,kv_dtype=f32"
            ),
            CacheState::Cold,
        );
    }
    machine.made(None)
}

/// The data sheet of an H100 SXM.
fn h100_spec() -> DataSheet {
    let peak = |dtype, flops_per_s| ComputePeak { dtype, flops_per_s };
    let peaks = Peaks {
        bandwidth: Bandwidth::flat(3.35e12),
        links: Vec::new(),
        compute: vec![
            peak(DType::F32, 67e12),
            peak(DType::Bf16, 989e12),
            peak(DType::Fp8E4m3, 1979e12),
        ],
    };
    DataSheet {
        machine: "h100-sxm".to_owned(),
        source: "a test".to_owned(),
        peaks,
        l2_bytes: Some(50e6),
    }
}

/// A GPU with a data sheet and many points.
pub fn gpu() -> MadeUp {
    let mut machine = MadeUpMachine {
        name: "Example H100 80GB HBM3",
        caches: "L2=52428800",
        kernel: "gemm_mma",
        last_level: 50 * MIB,
        read: 3.02e12,
        flops_per_s: &[(DType::F32, 52e12), (DType::Bf16, 720e12)],
        launch_s: 2.5e-6,
        rows: Vec::new(),
    };
    for (mib, rate) in [(4, 5.2), (16, 5.6), (32, 5.5), (64, 3.6)] {
        machine.stream("read", mib * MIB, rate * 1e12);
    }
    for mib in [128, 256, 512, 2048, 8192] {
        // A line with a fixed cost of 4 us.
        let bytes = (mib * MIB) as f64;
        machine.stream("read", mib * MIB, bytes / (4e-6 + bytes / 3.02e12));
    }
    for mib in [512, 2048, 8192] {
        machine.stream("write", mib * MIB, 2.9e12);
        machine.stream("copy", mib * MIB, 2.8e12);
    }
    for dtype in ["f32", "bf16"] {
        for n in [4096, 8192, 14336] {
            for m in (0..14).map(|e| 1 << e) {
                let problem = format!("gemm:m={m},n={n},k=4096,dtype={dtype}");
                machine.kernel(&problem, CacheState::Cold);
                if m < 256 {
                    machine.kernel(&problem, CacheState::Hot);
                }
            }
        }
    }
    for q_heads in [8, 16, 32, 64, 128] {
        for batch in [1, 2, 4, 8, 16, 32, 64] {
            for context in (9..17).map(|e| 1 << e) {
                machine.kernel(&decode(batch, context, q_heads, "bf16"), CacheState::Cold);
                if batch == 1 {
                    machine
                        .kernel(&decode(batch, context, q_heads, "bf16"), CacheState::Hot);
                }
            }
        }
    }
    for tokens in [128, 512, 2048, 8192] {
        machine.kernel(
            &format!(
                "prefill_attention:batch=4,prefix=0,new_tokens={tokens},q_heads=32,\
                 kv_heads=8,head_dim=128,causal=true,dtype=bf16,kv_dtype=bf16"
            ),
            CacheState::Cold,
        );
    }
    machine.made(Some(h100_spec()))
}

/// An H100 that has no row yet.
fn h100_of_streams() -> MadeUpMachine {
    MadeUpMachine {
        name: "Example H100 80GB HBM3",
        caches: "L2=52428800",
        kernel: "stream",
        last_level: 50 * MIB,
        read: 3.02e12,
        flops_per_s: &[],
        launch_s: 0.0,
        rows: Vec::new(),
    }
}

/// The same GPU with reads of several passes, by each core of its own share and by all.
pub fn gpu_with_caches() -> MadeUp {
    let gpu = gpu();
    let mut machine = h100_of_streams();
    for (mib, rate) in [(4, 20.0), (8, 26.0), (16, 28.5), (24, 28.7), (32, 6.0)] {
        machine.passes("own", mib * MIB, rate * 1e12);
    }
    for (mib, rate) in [(4, 5.6), (16, 5.9), (32, 5.7)] {
        machine.passes("shared", mib * MIB, rate * 1e12);
    }
    MadeUp { rows: [gpu.rows, machine.rows].concat(), ..gpu }
}

/// The same GPU without a data sheet, but with a driver that reports its clocks.
pub fn gpu_without_sheet() -> MadeUp {
    let gpu = gpu();
    let mut run = gpu.runs[0].clone();
    for (name, value) in [
        ("compute_capability", "9.0"),
        ("sm_count", "132"),
        ("sm_clock_max_hz", "1980000000"),
        ("memory_clock_max_hz", "2619000000"),
        ("memory_bus_bits", "5120"),
    ] {
        run.set(name, value);
    }
    MadeUp { runs: vec![run], spec: None, ..gpu }
}

/// Rates in bf16 of several kernels on an H100, at the clock that each ran at.
pub fn h100_by_implementation() -> MadeUp {
    let mut machine = h100_of_streams();
    machine.stream("read", 8192 * MIB, 3.02e12);
    let peak = "peak:unit=tensor,dtype=bf16,lanes=33792,steps=4096";
    let gemm = "gemm:m=8192,n=8192,k=8192,dtype=bf16";
    for (kernel, problem, rate, clock) in [
        ("peak", peak, 632e12, 1.788e9),
        ("peak_wgmma", peak, 771e12, 1.44e9),
        ("gemm", gemm, 458e12, 1.76e9),
        ("cublaslt", gemm, 726e12, 1.45e9),
    ] {
        let flops = problem.parse::<Problem>().unwrap().work().flops() as f64;
        machine.kernel = kernel;
        machine.push(problem, CacheState::Hot, 1 << 30, flops / rate);
        let row = machine.rows.last_mut().unwrap();
        row.sm_clock_hz_median = Some(clock);
        if kernel == "cublaslt" {
            row.implementation = "cuBLASLt 13".to_owned();
        }
    }
    let mut made = machine.made(Some(h100_spec()));
    for (name, value) in [
        ("compute_capability", "9.0"),
        ("sm_count", "132"),
        ("sm_clock_max_hz", "1980000000"),
        ("memory_clock_max_hz", "2619000000"),
        ("memory_bus_bits", "5120"),
    ] {
        made.runs[0].set(name, value);
    }
    made
}
