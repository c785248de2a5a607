//! Simulated devices whose nature is known, with the verdict that each must give, and
//! records of a real campaign that were altered so that a claim is false.

use std::collections::BTreeMap;
use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::Finding::{self, Contradicted, NotTested, Reproduced, WithinTolerance};
use super::{Judge, Verdict, judge};
use crate::analysis::Campaign;
use crate::claims::built_in;
use crate::op::{DecodeAttention, OfProblem, Problem};
use crate::point::{CacheState, Point};
use crate::record::{Records, Row, Run, Status};

/// Bytes per second of the simulated memories.
const READ: f64 = 30e9;

/// The decode points of the suite `quick`: batch, context, query heads, KV heads.
const SHAPES: [(u64, u64, u64, u64); 14] = [
    (8, 8192, 8, 8),
    (8, 8192, 16, 8),
    (8, 8192, 32, 8),
    (8, 8192, 64, 8),
    (8, 8192, 8, 4),
    (1, 1024, 8, 8),
    (1, 8192, 8, 8),
    (1, 32768, 8, 8),
    (1, 1024, 32, 8),
    (1, 8192, 32, 8),
    (1, 32768, 32, 8),
    (8, 1024, 32, 8),
    (64, 1024, 32, 8),
    (16, 4096, 32, 8),
];

/// A device, as far as decode attention can tell.
#[derive(Clone, Copy)]
struct Device {
    /// FLOPs per byte at which memory and arithmetic take the same time.
    ridge: f64,
    /// Share of the memory's rate that the kernel reaches: from, to.
    memory_share: (f64, f64),
    /// Share of the arithmetic units' rate that the kernel reaches.
    compute_share: f64,
    /// Share of the memory's rate that the read stream reaches.
    stream_share: f64,
    /// Seconds that every launch takes beside its work.
    launch_s: f64,
    /// Standard deviation of a median; `None` for a random one of 0.2 to 2%.
    sigma: Option<f64>,
    /// Share of the CPU that others use, on a CPU; no load on a GPU.
    load: Option<f64>,
    /// Factor on the time of a point, by its place in the list of shapes.
    factor: fn(usize) -> f64,
    /// Points that are skipped, by their place.
    is_skipped: fn(usize) -> bool,
}

const GOOD: Device = Device {
    ridge: 20.0,
    memory_share: (0.8, 0.97),
    compute_share: 0.95,
    stream_share: 1.0,
    launch_s: 0.0,
    sigma: None,
    load: None,
    factor: |_| 1.0,
    is_skipped: |_| false,
};

/// A device's name, the device, and the findings that it must give: that decode is memory
/// bound, and that its time follows bytes.
type Case = (&'static str, Device, Finding, Finding);

const TABLE: [Case; 13] = [
    ("memory bound", GOOD, Reproduced, Reproduced),
    ("memory bound CPU", Device { load: Some(0.01), ..GOOD }, Reproduced, Reproduced),
    ("compute bound", Device { ridge: 0.5, ..GOOD }, Contradicted, Contradicted),
    (
        "slow arithmetic below every ceiling",
        Device { compute_share: 0.045, memory_share: (0.88, 0.97), ..GOOD },
        Contradicted,
        Contradicted,
    ),
    ("latency bound", Device { launch_s: 0.03, ..GOOD }, Contradicted, NotTested),
    (
        "mixed: group 8 past the ridge",
        Device { ridge: 5.5, memory_share: (0.9, 0.97), ..GOOD },
        WithinTolerance,
        WithinTolerance,
    ),
    (
        "noisy",
        Device { memory_share: (0.75, 0.75), sigma: Some(0.2), ..GOOD },
        NotTested,
        NotTested,
    ),
    ("disturbed CPU", Device { load: Some(0.5), ..GOOD }, NotTested, NotTested),
    (
        "low read ceiling",
        Device { stream_share: 0.6, memory_share: (0.5, 0.58), ..GOOD },
        NotTested,
        Reproduced,
    ),
    (
        "13 of 14 kernels at half speed",
        Device {
            memory_share: (0.88, 0.91),
            factor: |at| if at == 12 { 1.0 } else { 2.0 },
            ..GOOD
        },
        NotTested,
        NotTested,
    ),
    ("slow kernels", Device { memory_share: (0.3, 0.45), ..GOOD }, NotTested, NotTested),
    (
        "most points skipped",
        Device { is_skipped: |at| at % 7 > 2, ..GOOD },
        NotTested,
        NotTested,
    ),
    (
        "some slow kernels outside of pairs",
        Device { factor: |at| if at < 8 { 1.0 } else { 2.5 }, ..GOOD },
        Reproduced,
        Reproduced,
    ),
];

/// A row of a median with its interval.
fn row(text: &str, kernel: &str, time_s: f64, sigma: f64) -> Row {
    let problem: Problem = text.parse().unwrap();
    let (kernel, cache) = (kernel.parse().unwrap(), CacheState::Cold);
    let point = Point { problem, kernel, cache, launch: None, load: None };
    Row {
        point_id: point.id(),
        device_kind: "measured".into(),
        op: problem.op().to_string(),
        kernel: point.kernel.to_string(),
        cache_state: cache.name().into(),
        status: Some(Status::Ok),
        problem: problem.to_string(),
        reuse_distance_bytes: Some(1 << 30),
        residency: "dram".into(),
        time_s_median: Some(time_s),
        time_s_ci_lo: Some((time_s * (1.0 - 1.96 * sigma)).max(1e-9)),
        time_s_ci_hi: Some(time_s * (1.0 + 1.96 * sigma)),
        ..Row::default()
    }
}

fn decode_text((batch, context, q_heads, kv_heads): (u64, u64, u64, u64)) -> String {
    format!(
        "decode_attention:batch={batch},context={context},q_heads={q_heads},\
         kv_heads={kv_heads},head_dim=128,dtype=bf16"
    )
}

impl Device {
    fn flops_per_s(&self) -> f64 {
        self.ridge * READ
    }

    /// What its driver reports: of a GPU, clocks that allow a little more than it does.
    fn run(&self, rows: usize) -> Run {
        let mut run = Run::default();
        run.set("planned_rows", rows);
        run.set("launch_overhead_s", self.launch_s);
        if self.load.is_some() {
            run.set("backend", "cpu");
            return run;
        }
        run.set("device", "NVIDIA Test");
        run.set("compute_capability", "8.0");
        run.set("sm_count", "1");
        // 2048 FLOPs per clock.
        run.set("sm_clock_max_hz", self.flops_per_s() / 0.94 / 2048.0);
        run.set("memory_clock_max_hz", READ / 0.95 / 16.0);
        run.set("memory_bus_bits", "64");
        run
    }

    /// A campaign on it, with noise of `sigma` or as the device has it.
    fn campaign(&self, rng: &mut Pcg64Mcg, is_noisy: bool) -> Campaign {
        let random_sigma = rng.random_range(0.002..0.02);
        let sigma = self.sigma.unwrap_or(if is_noisy { random_sigma } else { 0.0 });
        let noise = if is_noisy { sigma } else { 0.0 };
        let (lo, hi) = self.memory_share;
        let memory_share = lo + (hi - lo) * rng.random_range(0.0..1.0);
        let mut median = |time_s: f64| {
            // The sum of twelve uniform numbers has a standard deviation of 1.
            let z: f64 = (0..12).map(|_| rng.random_range(-0.5..0.5_f64)).sum();
            (time_s + self.launch_s) * (1.0 + noise * z).max(0.1)
        };
        let probe = match self.load {
            Some(_) => "peak:unit=fma,dtype=f32,lanes=1024,steps=4096",
            None => "peak:unit=tensor,dtype=bf16,lanes=1024,steps=4096",
        };
        let probe_flops = probe.parse::<Problem>().unwrap().work().flops() as f64;
        let stream_s = (1u64 << 30) as f64 / READ / self.stream_share;
        let probe_s = probe_flops / self.flops_per_s();
        let mut rows = vec![
            row("stream:access=read,bytes=1 GiB", "stream", median(stream_s), sigma),
            row(probe, "peak", median(probe_s), sigma),
        ];
        for (at, shape) in SHAPES.into_iter().enumerate() {
            let text = decode_text(shape);
            let work = text.parse::<Problem>().unwrap().work();
            let memory_s = work.bytes() as f64 / READ / memory_share;
            let compute_s = work.flops() as f64 / self.flops_per_s() / self.compute_share;
            let time_s = median((self.factor)(at) * memory_s.max(compute_s));
            rows.push(row(&text, "decode", time_s, sigma));
            if (self.is_skipped)(at) {
                skip(rows.last_mut().unwrap());
            }
        }
        for row in &mut rows {
            row.other_cpu_share = self.load;
        }
        let runs = vec![self.run(rows.len())];
        let records = Records { runs, rows, ..Records::default() };
        Campaign::from_records(Path::new("simulated"), records, None).unwrap()
    }
}

/// Makes a row what a device writes that cannot run the point.
fn skip(row: &mut Row) {
    *row = Row {
        status: Some(Status::Skipped),
        kernel: "none".into(),
        residency: String::new(),
        reuse_distance_bytes: None,
        time_s_median: None,
        time_s_ci_lo: None,
        time_s_ci_hi: None,
        ..row.clone()
    };
}

/// What a campaign says of decode: memory bound, and follows bytes.
fn findings(campaign: &Campaign) -> (Finding, Finding) {
    let judge = Judge::new(campaign);
    let pairs = judge.pairs();
    let of = |name: &str| {
        let entry = built_in().unwrap().iter().find(|entry| entry.name == name);
        judge.claim(entry.unwrap(), &pairs).finding
    };
    (of(IS_MEMORY_BOUND), of(FOLLOWS_BYTES))
}

#[test]
fn devices_without_noise_give_what_they_are() {
    for (name, device, bound, follows) in TABLE {
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let campaign = device.campaign(&mut rng, false);
        let verdict = judge(&campaign);
        assert!(verdict.is_valid(), "{name}: {:?}", verdict.faults);
        assert_eq!(findings(&campaign), (bound, follows), "{name}: {}", told(&verdict));
    }
}

/// Of 1,000 campaigns on each device, each with noise of its own, how many give another
/// finding than the device must.
#[test]
fn few_campaigns_with_noise_give_another_finding() {
    const CAMPAIGNS: u32 = 1000;
    const MOST_WRONG: f64 = 0.05;
    println!("{:<36} {:>13} {:>14}", "device", "memory bound", "follows bytes");
    let mut too_many = Vec::new();
    for (at, (name, device, bound, follows)) in TABLE.into_iter().enumerate() {
        let mut rng = Pcg64Mcg::seed_from_u64(100 + at as u64);
        let mut wrong = [0.0; 2];
        for _ in 0..CAMPAIGNS {
            let found = findings(&device.campaign(&mut rng, true));
            wrong[0] += f64::from(u8::from(found.0 != bound)) / f64::from(CAMPAIGNS);
            wrong[1] += f64::from(u8::from(found.1 != follows)) / f64::from(CAMPAIGNS);
        }
        let [a, b] = wrong.map(|share| format!("{:.1}% wrong", 100.0 * share));
        println!("{name:<36} {a:>13} {b:>14}");
        if wrong.iter().any(|share| *share > MOST_WRONG) {
            too_many.push((name, wrong));
        }
    }
    assert!(too_many.is_empty(), "{too_many:?}");
}

fn told(verdict: &Verdict) -> String {
    let of = |c: &super::Claim| format!("\n{}: {}: {}", c.id, c.finding.name(), c.evidence);
    verdict.claims.iter().map(of).collect()
}

/// The committed records of a CPU, of which `change` alters each row with its work.
fn altered(change: impl Fn(&mut Row, &Problem)) -> Verdict {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("results/2026-11-23-cpu-intel-xeon-2c-quick");
    let mut records = Records::read(&folder).unwrap();
    for row in &mut records.rows {
        let problem: Problem = row.problem.parse().unwrap();
        change(row, &problem);
    }
    judge(&Campaign::from_records(&folder, records, None).unwrap())
}

fn scale(row: &mut Row, factor: f64) {
    for time in [&mut row.time_s_median, &mut row.time_s_ci_lo, &mut row.time_s_ci_hi] {
        *time = time.map(|time| time * factor);
    }
}

/// Sets the median and keeps the relative width of the interval.
fn set(row: &mut Row, time_s: f64) {
    let factor = time_s / row.time_s_median.unwrap();
    scale(row, factor);
}

fn finding(verdict: &Verdict, id: &str) -> Finding {
    verdict.claims.iter().find(|claim| claim.id == id).unwrap().finding
}

const IS_MEMORY_BOUND: &str = "decode-memory-bound";
const FOLLOWS_BYTES: &str = "decode-follows-bytes";

#[test]
fn decode_whose_time_is_its_flops_contradicts() {
    let verdict = altered(|row, problem| {
        if DecodeAttention::of(problem).is_some() {
            set(row, problem.work().flops() as f64 / 30e9);
        }
    });
    assert_eq!(finding(&verdict, IS_MEMORY_BOUND), Contradicted, "{}", told(&verdict));
    assert_eq!(finding(&verdict, FOLLOWS_BYTES), Contradicted, "{}", told(&verdict));
}

#[test]
fn one_fast_kernel_of_fourteen_supports_nothing() {
    let verdict = altered(|row, problem| {
        let is_fast =
            DecodeAttention::of(problem).is_some_and(|p| p.batch == 8 && p.q_heads == 16);
        if DecodeAttention::of(problem).is_some() && !is_fast {
            scale(row, 2.0);
        }
    });
    assert_eq!(finding(&verdict, IS_MEMORY_BOUND), NotTested, "{}", told(&verdict));
    assert_ne!(finding(&verdict, FOLLOWS_BYTES), Reproduced, "{}", told(&verdict));
}

#[test]
fn bytes_doubled_and_time_tripled_is_neither() {
    let verdict = altered(|row, problem| {
        if DecodeAttention::of(problem).is_some_and(|p| p.kv_heads == 4) {
            scale(row, 2.0 / 3.0);
        }
    });
    let section = verdict.sections.iter().find(|s| s.heading.starts_with("What does time"));
    let pair =
        section.unwrap().rows.iter().find(|row| row[2] == "kv_heads 4 -> 8").unwrap();
    assert_eq!((&*pair[8], &*pair[16]), ("neither", "disagrees"), "{pair:?}");
    assert!(pair[10].starts_with("1.5"), "an elasticity of bytes of 1.5: {pair:?}");
    assert_ne!(finding(&verdict, FOLLOWS_BYTES), Reproduced, "{}", told(&verdict));
}

#[test]
fn arithmetic_six_times_that_of_its_units_is_a_fault() {
    let is_bf16_gemm = |row: &Row| row.op == "gemm" && row.problem.contains("dtype=bf16");
    let verdict = altered(|row, problem| {
        if is_bf16_gemm(row) {
            set(row, problem.work().flops() as f64 / (6.0 * 430e9));
        }
    });
    let fault = verdict.faults.iter().find(|fault| fault.contains("the probe cpu_peak"));
    let fault = fault.unwrap_or_else(|| panic!("{:?}", verdict.faults));
    assert!(fault.contains("600% of the 430 GFLOP/s"), "{fault}");
    assert!(fault.contains("reached in f32"), "{fault}");
    assert_eq!(altered(|_, _| ()).faults, [""; 0]);
}

/// Everything that sets the ceiling of arithmetic on a CPU at half its speed: its clock would
/// be half of what it is.
#[test]
fn arithmetic_at_half_its_speed_is_said() {
    let noted = |verdict: Verdict| {
        verdict.warnings.into_iter().find(|w| w.contains("the f32 ceiling of"))
    };
    assert_eq!(noted(altered(|_, _| ())), None);
    let halved = noted(altered(|row, problem| {
        if problem.math_dtype().is_some() && row.op != "decode_attention" {
            scale(row, 2.0);
        }
    }));
    assert!(halved.is_some_and(|note| note.contains("at 1.68 GHz")));
}

/// The elasticities of decode attention, as the table has them: bytes, FLOPs, and what time
/// follows.
fn decode_elasticities(verdict: &Verdict) -> (f64, f64, String) {
    let section = verdict.sections.iter().find(|s| s.heading == "Elasticities").unwrap();
    let row = section.rows.iter().find(|row| row[0] == "decode_attention").unwrap();
    let cell = |name: &str| {
        let at = section.columns.iter().position(|column| *column == name).unwrap();
        row[at].clone()
    };
    let number = |name: &str| cell(name).parse::<f64>().unwrap();
    (number("bytes_elasticity"), number("flops_elasticity"), cell("time_follows"))
}

/// Times that follow FLOPs, so slow that no ceiling is reached and that no share of a roof
/// tells: elasticities do.
#[test]
fn slow_decode_that_follows_flops_contradicts_by_its_elasticities() {
    let verdict = altered(|row, problem| {
        if DecodeAttention::of(problem).is_some() {
            set(row, problem.work().flops() as f64 / 0.2e9);
        }
    });
    let (bytes, flops, follows) = decode_elasticities(&verdict);
    assert!(bytes.abs() < 0.01 && (flops - 1.0).abs() < 0.01, "{bytes} {flops}");
    assert_eq!(follows, "FLOPs");
    let claim = verdict.claims.iter().find(|claim| claim.id == IS_MEMORY_BOUND).unwrap();
    assert_eq!(claim.finding, Contradicted, "{}", told(&verdict));
    assert!(
        claim.evidence.contains("elasticities of 14 points: bytes"),
        "{}",
        claim.evidence
    );
}

/// Times that are always the same, of a kernel that reaches no roof.
#[test]
fn decode_whose_time_is_constant_contradicts() {
    let verdict = altered(|row, problem| {
        if DecodeAttention::of(problem).is_some() {
            set(row, 3.0);
        }
    });
    let (bytes, flops, follows) = decode_elasticities(&verdict);
    assert!(bytes.abs() < 0.01 && flops.abs() < 0.01, "{bytes} {flops}");
    assert_eq!(follows, "a fixed cost");
    assert_eq!(finding(&verdict, IS_MEMORY_BOUND), Contradicted, "{}", told(&verdict));
}

/// The records as they are: time follows bytes, with one fixed cost.
#[test]
fn decode_as_it_was_measured_follows_bytes_by_its_elasticities() {
    let verdict = altered(|row, problem| {
        if DecodeAttention::of(problem).is_some() {
            set(row, 1e-4 + problem.work().bytes() as f64 / 25e9);
        }
    });
    let (bytes, flops, follows) = decode_elasticities(&verdict);
    assert!((bytes - 1.0).abs() < 0.01 && flops.abs() < 0.01, "{bytes} {flops}");
    assert_eq!(follows, "bytes");
    assert_eq!(finding(&verdict, IS_MEMORY_BOUND), Reproduced, "{}", told(&verdict));
}

/// The records of a GPU, of which times of decode follow FLOPs at a rate that leaves most
/// points near the memory roof: shares of it agree with the claim, and what time follows does
/// not.
#[test]
fn what_time_follows_outweighs_shares_of_roofs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("results/2026-11-27-nvidia-h200-headline");
    for (rate, follows) in [(Some(6e13), "FLOPs"), (None, "a fixed cost")] {
        let mut records = Records::read(&folder).unwrap();
        let mut times = BTreeMap::new();
        for row in &mut records.rows {
            let problem: Problem = row.problem.parse().unwrap();
            let flops = problem.work().flops() as f64;
            if DecodeAttention::of(&problem).is_some() && row.time_s_median.is_some() {
                let time_s = rate.map_or(3e-4, |rate| flops / rate);
                set(row, time_s);
                times.insert(row.point_id.clone(), time_s);
            }
        }
        for round in &mut records.rounds {
            let time_s = times.get(&round.point_id).copied();
            round.time_s_median = time_s.unwrap_or(round.time_s_median);
        }
        let verdict = judge(&Campaign::from_records(&folder, records, None).unwrap());
        assert_eq!(decode_elasticities(&verdict).2, follows, "{}", told(&verdict));
        let claim =
            verdict.claims.iter().find(|claim| claim.id == IS_MEMORY_BOUND).unwrap();
        assert!(2 * claim.counts.agree > claim.counts.against, "{}", claim.evidence);
        assert_eq!(claim.finding, Contradicted, "{}", told(&verdict));
    }
}
