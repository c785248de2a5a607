//! Synthetic campaigns, judged.

use std::path::Path;

use super::pairs::Follows;
use super::*;
use crate::model::machine::DataSheet;
use crate::op::{DecodeAttention, PairKind, Problem};
use crate::point::Point;
use crate::record::{Records, RoundRow, Row, Run, Status};
use crate::resource::{Link, LinkDirection, Resource};
use crate::roofline::{Bandwidth, Peaks};

const GB_S: f64 = 1e9;
/// A machine with a ridge of 10 FLOPs per byte.
const READ: f64 = 30.0 * GB_S;
const FLOPS: f64 = 300.0 * GB_S;

fn shape(rest: &str) -> DecodeAttention {
    let text =
        format!("decode_attention:batch=4,context=4096,head_dim=128,dtype=bf16,{rest}");
    match text.parse() {
        Ok(Problem::DecodeAttention(p)) => p,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn pairs_differ_in_heads_alone() {
    let of = |rest: &str| Problem::DecodeAttention(shape(rest));
    let kind = |a: &str, b: &str| of(a).pair_with(&of(b));
    let plain = "q_heads=8,kv_heads=8";
    assert_eq!(kind(plain, "q_heads=16,kv_heads=8"), Some(PairKind::QueryHeads));
    assert_eq!(kind(plain, "q_heads=32,kv_heads=8"), Some(PairKind::QueryHeads));
    assert_eq!(kind("q_heads=16,kv_heads=8", plain), None);
    let half = "q_heads=16,kv_heads=4";
    assert_eq!(kind(half, "q_heads=16,kv_heads=8"), Some(PairKind::KvHeads));
    for other in ["window=64", "new_tokens=2", "lengths=ragged", "kv_dtype=int8"] {
        assert_eq!(kind(plain, &format!("q_heads=16,kv_heads=8,{other}")), None, "{other}");
        let both =
            kind(&format!("{plain},{other}"), &format!("q_heads=16,kv_heads=8,{other}"));
        assert_eq!(both, Some(PairKind::QueryHeads), "{other}");
    }
}

#[test]
fn drafts_and_windows_are_no_evidence_of_plain_decoding() {
    assert!(shape("q_heads=8,kv_heads=8,lengths=ragged").is_plain());
    assert!(!shape("q_heads=8,kv_heads=8,window=64").is_plain());
    assert!(!shape("q_heads=8,kv_heads=8,new_tokens=2").is_plain());
    let variant = shape("q_heads=8,kv_heads=8,new_tokens=2,window=64,lengths=ragged");
    assert_eq!(variant.variant(), "2 new tokens, window 64, ragged");
}

fn row(problem: &str, time_s: f64, spread: f64) -> Row {
    let problem: Problem = problem.parse().unwrap();
    let point = Point {
        problem,
        kernel: "k".parse().unwrap(),
        cache: crate::point::CacheState::Cold,
        launch: None,
        load: None,
    };
    Row {
        point_id: point.id(),
        device_kind: "measured".into(),
        op: problem.op().to_string(),
        kernel: "k".into(),
        cache_state: "cold".into(),
        status: Some(Status::Ok),
        problem: problem.to_string(),
        reuse_distance_bytes: Some(1 << 30),
        residency: "dram".into(),
        time_s_median: Some(time_s),
        time_s_ci_lo: Some(time_s * (1.0 - spread)),
        time_s_ci_hi: Some(time_s * (1.0 + spread)),
        ..Row::default()
    }
}

fn ceilings() -> Vec<Row> {
    let bytes = (1u64 << 30) as f64;
    let flops = 4096.0 * 1024.0 * 4096.0;
    [
        ("stream:access=read,bytes=1 GiB", bytes / READ),
        ("peak:unit=tensor,dtype=bf16,lanes=1024,steps=4096", flops / FLOPS),
    ]
    .map(|(text, time_s)| Row { kernel: "probe".into(), ..row(text, time_s, 0.0) })
    .to_vec()
}

fn decode(q_heads: u64, kv_heads: u64, share: f64, spread: f64) -> Row {
    let text = format!(
        "decode_attention:batch=8,context=8192,q_heads={q_heads},kv_heads={kv_heads},\
         head_dim=128,dtype=bf16"
    );
    let work = text.parse::<Problem>().unwrap().work();
    let time_s = work.bytes() as f64 / READ / share;
    row(&text, time_s.max(work.flops() as f64 / FLOPS), spread)
}

fn judged(mut rows: Vec<Row>, mut run: Run) -> Verdict {
    rows.extend(ceilings());
    if run.get("planned_rows").is_none() {
        run.set("planned_rows", rows.len());
    }
    let records = Records { runs: vec![run], rows, ..Records::default() };
    judge(&Campaign::from_records(Path::new("x"), records, None).unwrap())
}

fn claim<'a>(verdict: &'a Verdict, id: &str) -> &'a Claim {
    verdict.claims.iter().find(|c| c.id == id).unwrap()
}

fn findings(rows: Vec<Row>) -> (Finding, Finding) {
    let verdict = judged(rows, Run::default());
    assert!(verdict.is_valid(), "{:?}", verdict.faults);
    (
        claim(&verdict, "decode-memory-bound").finding,
        claim(&verdict, "decode-follows-bytes").finding,
    )
}

#[test]
fn fast_steady_decode_is_memory_bound_and_follows_bytes() {
    let rows = [(8, 8), (16, 8), (32, 8), (8, 4)].map(|(q, kv)| decode(q, kv, 0.9, 0.01));
    assert_eq!(findings(rows.to_vec()), (Finding::Reproduced, Finding::Reproduced));
}

/// A draft past the ridge and a window with a fraction of the bytes, as fast as they
/// can be, would else count against the claims.
#[test]
fn drafts_and_windows_change_no_claim() {
    let mut rows =
        [(8, 8), (16, 8), (32, 8), (8, 4)].map(|(q, kv)| decode(q, kv, 0.9, 0.01)).to_vec();
    for (q_heads, variant) in [(64, "new_tokens=8"), (64, "window=64"), (32, "window=64")] {
        let text = format!(
            "decode_attention:batch=8,context=8192,q_heads={q_heads},kv_heads=8,\
             head_dim=128,dtype=bf16,{variant}"
        );
        let work = text.parse::<Problem>().unwrap().work();
        let memory_s = work.bytes() as f64 / READ / 0.9;
        rows.push(row(&text, memory_s.max(work.flops() as f64 / FLOPS / 0.9), 0.01));
    }
    assert_eq!(findings(rows), (Finding::Reproduced, Finding::Reproduced));
}

#[test]
fn decode_past_the_ridge_is_not_memory_bound_and_follows_flops() {
    // Groups of 16 and 32: 16 and 32 FLOPs per byte against a ridge of 10.
    let rows = [(128, 8), (256, 8)].map(|(q, kv)| decode(q, kv, 0.9, 0.01));
    assert_eq!(findings(rows.to_vec()), (Finding::Contradicted, Finding::Contradicted));
}

#[test]
fn some_of_both_is_partly() {
    let rows =
        [(8, 8), (16, 8), (128, 8), (256, 8)].map(|(q, kv)| decode(q, kv, 0.9, 0.01));
    let (bound, follows) = findings(rows.to_vec());
    assert_eq!((bound, follows), (Finding::WithinTolerance, Finding::WithinTolerance));
}

#[test]
fn wide_intervals_decide_nothing() {
    let rows = [(8, 8), (16, 8)].map(|(q, kv)| decode(q, kv, 0.75, 0.3));
    assert_eq!(findings(rows.to_vec()), (Finding::NotTested, Finding::NotTested));
}

#[test]
fn drift_of_the_sentinel_widens_intervals() {
    let mut rows = [(8, 8), (16, 8)].map(|(q, kv)| decode(q, kv, 0.8, 0.001)).to_vec();
    assert_eq!(findings(rows.clone()).0, Finding::Reproduced);
    for (repeat, time_s) in [(0, 2.147 / 30.0), (1, 1.5 * 2.147 / 30.0)] {
        let sentinel = row("stream:access=read,bytes=2 GiB", time_s, 0.0);
        rows.push(Row { repeat, ..sentinel });
    }
    let verdict = judged(rows, Run::default());
    assert_eq!(claim(&verdict, "decode-memory-bound").finding, Finding::NotTested);
    // One drift has one text.
    let text = "40% from fastest to slowest";
    assert!(verdict.warnings.iter().any(|w| w.contains(&format!("drifted by {text}"))));
    let limit = machine_section(&verdict).rows.iter().find(|row| row[0] == "drift");
    assert_eq!(limit.unwrap()[1], text);
    let probes = verdict.sections.iter().find(|s| s.heading.starts_with("Probes"));
    let (headings, rows) = probes.unwrap().table_for_people();
    let moved = headings.iter().position(|heading| heading == "moved").unwrap();
    let sentinel = rows.iter().find(|row| row[0] == "sentinel").unwrap();
    assert_eq!(sentinel[moved], "40%");
}

#[test]
fn kernels_that_reach_no_roof_are_no_evidence() {
    let slow = decode(8, 4, 0.3, 0.01);
    let rows = vec![decode(8, 8, 0.9, 0.01), decode(16, 8, 0.9, 0.01), slow.clone()];
    let verdict = judged(rows, Run::default());
    let bound = claim(&verdict, "decode-memory-bound");
    assert_eq!(bound.finding, Finding::Reproduced);
    assert!(
        bound.evidence.starts_with(
            "2 of 3 planned points from DRAM are memory bound, with their whole interval at \
             70% of read bandwidth or more; 1 is not evidence: kernel below both roofs 1; "
        ),
        "{}",
        bound.evidence
    );
    assert_eq!(bound.counts, Counts { planned: 3, agree: 2, against: 0 });
    // Half as many bytes in 1.5 times the time: no pair follows that.
    let follows = claim(&verdict, "decode-follows-bytes");
    assert_eq!(follows.finding, Finding::WithinTolerance, "{}", follows.evidence);
    assert_eq!(findings(vec![slow]), (Finding::NotTested, Finding::NotTested));
}

#[test]
fn what_a_cache_gives_is_no_ceiling() {
    let mut rows = vec![decode(8, 8, 0.9, 0.01)];
    rows.extend(ceilings());
    rows[1].residency = "L3".into();
    let records = Records { runs: vec![], rows, ..Records::default() };
    let campaign = Campaign::from_records(Path::new("x"), records, None).unwrap();
    assert!(campaign.ceilings.is_none());
    assert!(judge(&campaign).sections.iter().all(|s| !s.heading.starts_with("Machine")));
}

#[test]
fn time_between_bytes_and_flops_follows_neither() {
    let e = |value: f64| {
        let [value, lo, hi] = [value, value - 0.01, value + 0.01].map(f64::exp2);
        Estimate { value, lo, hi }
    };
    let of = |bytes, flops, value| Follows::of(e(value), bytes, flops).name();
    for (value, equal_bytes, equal_flops) in [
        (-0.6, "neither", "neither"),
        (-0.25, "undecided", "undecided"),
        (0.0, "bytes", "FLOPs"),
        (0.25, "undecided", "undecided"),
        (0.5, "neither", "neither"),
        (1.0, "FLOPs", "bytes"),
        (1.25, "undecided", "undecided"),
        (1.6, "neither", "neither"),
    ] {
        assert_eq!(of(1.0, 2.0, value), equal_bytes);
        assert_eq!(of(2.0, 1.0, value), equal_flops);
    }
}

#[test]
fn times_that_are_none_are_refused() {
    for time in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let mut row = decode(8, 8, 0.9, 0.01);
        row.time_s_median = Some(time);
        let records = Records { runs: vec![], rows: vec![row], ..Records::default() };
        let campaign = Campaign::from_records(Path::new("x"), records, None).unwrap();
        assert!(campaign.points.is_empty(), "{time}");
        let faults = judge(&campaign).faults;
        assert!(faults[0].contains("column time_s_median"), "{faults:?}");
    }
    let twice = vec![decode(8, 8, 0.9, 0.01), decode(8, 8, 0.9, 0.01)];
    let records = Records { runs: vec![], rows: twice, ..Records::default() };
    assert!(Campaign::from_records(Path::new("x"), records, None).is_err());
}

#[test]
fn points_in_a_cache_do_not_count() {
    let mut in_cache = decode(8, 8, 0.9, 0.01);
    in_cache.residency = "L3".into();
    assert_eq!(findings(vec![in_cache]), (Finding::NotTested, Finding::NotTested));
}

#[test]
fn slow_kernels_are_told_from_slow_memory_and_from_launches() {
    let bound_of = |context: u64, launch_overhead_s: f64| {
        let mut run = Run::default();
        run.set("launch_overhead_s", launch_overhead_s);
        let text = format!(
            "decode_attention:batch=1,context={context},q_heads=8,kv_heads=8,head_dim=128,\
             dtype=bf16"
        );
        let verdict = judged(vec![at_roof(&text, 1.0 / 0.3, 0.01)], run);
        let section = verdict.sections.iter().find(|s| s.heading == "Decode attention");
        (section.unwrap().rows[0].last().unwrap().clone(), verdict.warnings)
    };
    // 0.9 ms, of which an empty launch takes this much.
    assert_eq!(bound_of(2048, 1e-6).0, BoundBy::Kernel.name());
    assert_eq!(bound_of(2048, 0.6e-3), (BoundBy::Latency.name().into(), vec![]));
    // 115 ms, and another launch took 36: an empty one does not take 100.
    let (bound, warnings) = bound_of(262_144, 0.1);
    assert_eq!(bound, BoundBy::Kernel.name());
    assert!(warnings.iter().any(|w| w.contains("the probe was disturbed")), "{warnings:?}");
}

#[test]
fn probes_that_moved_are_told() {
    let of = |slow_s: f64| {
        let round = |i: u32| RoundRow {
            round: i,
            launch_overhead_s: Some(1e-6),
            compute_probe_s: Some(if i == 3 { slow_s } else { 1e-3 }),
            ..RoundRow::default()
        };
        let rounds = (0..9).map(round).collect();
        let records = Records { rounds, runs: vec![Run::default()], ..Records::default() };
        judge(&Campaign::from_records(Path::new("x"), records, None).unwrap())
    };
    let told = |verdict: &Verdict| {
        let section =
            verdict.sections.iter().find(|s| s.heading == "Probes through the campaign");
        let rows = section.unwrap().rows.iter();
        let rows: Vec<_> = rows.map(|row| (row[0].clone(), row[5].clone())).collect();
        (rows, verdict.warnings.iter().any(|w| w.contains("burst of arithmetic")))
    };
    let found = |finding: &str| {
        [("empty launch", "steady"), ("burst of arithmetic", finding)]
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .to_vec()
    };
    assert_eq!(told(&of(1.02e-3)), (found("steady"), false));
    assert_eq!(told(&of(1.9e-3)), (found("moved"), true));
}

#[test]
fn ridge_is_compute_over_read() {
    let verdict = judged(vec![], Run::default());
    let machine =
        verdict.sections.iter().find(|s| s.heading.starts_with("Machine")).unwrap();
    let ridge = machine.rows.iter().find(|row| row[0] == "bf16 ridge").unwrap();
    assert_eq!(ridge[1], "10.00 [10.00, 10.00] FLOP/B");
}

#[test]
fn lines_through_read_streams_are_told_with_what_they_rest_on() {
    let streams = |kernel: &str, fixed_s: f64, count: u32| -> Vec<Row> {
        let make = |e: u32| {
            let problem = format!("stream:access=read,bytes={} MiB", 256 << e);
            let bytes = (256u64 << e << 20) as f64;
            let row = row(&problem, fixed_s + bytes / READ, 0.001);
            Row { kernel: kernel.into(), point_id: format!("{kernel} {e}"), ..row }
        };
        (0..count).map(make).collect()
    };
    let mut rows = streams("stream", 1e-3, 5);
    rows.extend(streams("stream_bulk", 2e-3, 3));
    let records = Records { runs: vec![clocked()], rows, ..Records::default() };
    let campaign = Campaign::from_records(Path::new("x"), records, None).unwrap();
    let verdict = judge(&campaign);
    let section =
        verdict.sections.iter().find(|s| s.heading.starts_with("Time against")).unwrap();
    let row = |at: usize| section.table_for_people().1[at].join("|");
    assert_eq!(
        row(0),
        "stream|stream|read|5|1.000 [1.000, 1.000] ms|30.00 [30.00, 30.00] GB/s|96.8%|0%|"
    );
    assert_eq!(row(1), "stream|stream_bulk|read|3|||||a line needs 4 points");
    let note = |fixed_s: f64| {
        let rows = streams("stream", fixed_s, 5);
        let records = Records { runs: vec![clocked()], rows, ..Records::default() };
        let verdict =
            judge(&Campaign::from_records(Path::new("x"), records, None).unwrap());
        let lines = verdict.sections.iter().find(|s| s.heading.starts_with("Time against"));
        lines.unwrap().rows[0].last().unwrap().clone()
    };
    assert_eq!(note(1e-3), "");
    assert!(note(-1e-3).starts_with("below 0: large sizes are slower"), "{}", note(-1e-3));
    // The ceiling is the best of both kernels at the largest working set.
    let limit = &verdict.limits[0];
    assert_eq!(limit.id, "dram_read_bandwidth");
    assert_eq!(limit.from, "stream: stream read 4096 MiB");
    assert!(judged(vec![], Run::default()).sections.len() > 2);
}

fn transfer(direction: &str, bytes: u64, bytes_per_s: f64) -> Row {
    let text = format!("transfer:direction={direction},memory=pinned,bytes={bytes}");
    row(&text, bytes as f64 / bytes_per_s, 0.0)
}

/// The best rate each way that a transfer gave which no cache helped; what moves bytes over
/// that link is judged by it.
#[test]
fn each_way_of_a_link_has_a_ceiling() {
    let mut cached = transfer("host_to_device", 1 << 20, 20.0 * GB_S);
    cached.residency = "L2".into();
    let sent = "collective:collective=all_reduce,ranks=4,bytes=1 GiB,link=host";
    let of_sent = |resource| {
        let work = sent.parse::<Problem>().unwrap().work();
        work.amounts().find(|(known, _)| *known == resource).unwrap().1 as f64
    };
    let [bytes_in, bytes_out] =
        LinkDirection::ALL.map(|direction| of_sent(Resource::Link(Link::Host, direction)));
    let link_s = (bytes_in / (6.0 * GB_S)).max(bytes_out / (3.0 * GB_S));
    let rows = vec![
        cached,
        transfer("host_to_device", 1 << 28, 5.0 * GB_S),
        transfer("host_to_device", 1 << 30, 6.0 * GB_S),
        transfer("device_to_host", 1 << 30, 2.0 * GB_S),
        transfer("both", 1 << 30, 6.0 * GB_S),
        row(sent, link_s / 0.9, 0.0),
    ];
    let verdict = judged(rows, Run::default());
    assert!(verdict.is_valid(), "{:?}", verdict.faults);
    let limit = |id: &str| {
        let found = verdict.limits.iter().find(|limit| limit.id == id);
        (found.unwrap().value.value / GB_S).round()
    };
    assert_eq!(limit("host_link_in_bandwidth"), 6.0);
    assert_eq!(limit("host_link_out_bandwidth"), 3.0);
    let shares = verdict.sections.iter().find(|s| s.heading.starts_with("Share")).unwrap();
    assert_eq!(shares.rows.len(), 1, "transfers are roofs and not listed: {shares:?}");
    let sent = shares.rows.iter().find(|row| row[0] == "collective").unwrap();
    assert_eq!(sent[1], "link");
    assert!((sent[4].parse::<f64>().unwrap() - 0.9).abs() < 1e-9, "{sent:?}");
    assert_eq!(measured_as(&verdict, "collective"), "link bound 1");
}

/// Time against bytes of each direction, without a share of the memory's bandwidth.
#[test]
fn transfers_have_a_fixed_cost() {
    let line = |bytes: u64| 10e-6 + bytes as f64 / (25.0 * GB_S);
    let rows = [1u64 << 20, 1 << 24, 1 << 26, 1 << 28]
        .map(|bytes| transfer("both", bytes, bytes as f64 / line(bytes)))
        .to_vec();
    let mut run = clocked();
    run.set("planned_rows", 6);
    let verdict = judged(rows, run);
    let lines = verdict.sections.iter().find(|s| s.heading.starts_with("Time against"));
    let rows = lines.unwrap().table_for_people().1;
    let row = rows.iter().find(|row| row[0] == "transfer").unwrap();
    assert_eq!(row[2..4], ["both, pinned", "4"]);
    assert_eq!(row[4], "10.00 [10.00, 10.00] µs");
    assert_eq!(row[5], "25.00 [25.00, 25.00] GB/s");
    assert_eq!(row[6], "", "no share of the memory's bandwidth");
}

/// What a driver reports of a device whose clocks allow 31 GB/s and 320
/// GFLOP/s in bf16, a little more than the ceilings of these tests.
fn clocked() -> Run {
    let mut run = Run::default();
    for (name, value) in [
        ("device", "NVIDIA Test"),
        ("compute_capability", "8.0"),
        ("sm_count", "1"),
        ("sm_clock_max_hz", "156250000"),
        ("memory_clock_max_hz", "1937500000"),
        ("memory_bus_bits", "64"),
    ] {
        run.set(name, value);
    }
    run
}

/// A machine of which nothing but its bandwidth is known.
fn data_sheet() -> DataSheet {
    DataSheet {
        machine: "test".into(),
        source: "https://example.org".into(),
        peaks: Peaks {
            bandwidth: Bandwidth::flat(40e9),
            compute: Vec::new(),
            links: Vec::new(),
        },
        l2_bytes: None,
    }
}

fn machine_section(verdict: &Verdict) -> &Section {
    verdict.sections.iter().find(|s| s.heading.starts_with("Machine")).unwrap()
}

#[test]
fn limits_stand_beside_what_clocks_and_data_sheet_promise() {
    let unknown = judged(vec![], Run::default());
    let columns = ["limit", "value (95% interval)", "from", "candidates", "judged by it"];
    assert_eq!(machine_section(&unknown).columns, columns);
    assert!(machine_section(&unknown).paragraphs.is_empty());

    let mut run = clocked();
    run.set("planned_rows", 2);
    let records = Records { runs: vec![run], rows: ceilings(), ..Records::default() };
    let campaign =
        Campaign::from_records(Path::new("x"), records, Some(data_sheet())).unwrap();
    let verdict = judge(&campaign);
    assert!(verdict.is_valid(), "{:?}", verdict.faults);
    let section = machine_section(&verdict);
    assert_eq!(section.columns[2..4], ["of derived", "of data sheet"]);
    let cells = |row: usize| section.rows[row][2..4].to_vec();
    assert_eq!(cells(0), ["97% of 31 GB/s", "75% of 40 GB/s"]);
    assert_eq!(cells(1), ["94% of 320 GFLOP/s", "-"]);
    assert_eq!(cells(2), ["97% of 10.3 FLOP/B", "-"]);
    assert!(section.paragraphs[1].contains("test, https://example.org"));
    assert!(section.rows.iter().all(|row| row.len() == section.columns.len()));
}

/// A read of several passes: of a set that a cache holds, at a rate and a clock of 1 GHz.
fn cached(bytes: u64, reuse: &str, residency: &str, bytes_per_s: f64) -> Row {
    let text = format!("stream:access=read,bytes={bytes},passes=64,reuse={reuse}");
    let row = row(&text, 64.0 * bytes as f64 / bytes_per_s, 0.01);
    Row {
        reuse_distance_bytes: Some(bytes),
        residency: residency.into(),
        cache_state: "hot".into(),
        sm_clock_hz_median: Some(1e9),
        ..row
    }
}

/// The best rate of each cache, whose sets are shares of one core for L1 and shared for those
/// behind it. They bound nothing, and nothing bounds an own share.
#[test]
fn rates_of_caches_are_limits_and_no_ceilings() {
    let rows = vec![
        cached(1 << 16, "own", "L1", 100.0 * GB_S),
        cached(1 << 17, "own", "L1", 120.0 * GB_S),
        // Its L1 served a part of it.
        cached(1 << 19, "own", "L2", 900.0 * GB_S),
        cached(1 << 18, "shared", "L2", 60.0 * GB_S),
        // No cache holds it, and its L1s may have served a part.
        cached(1 << 29, "own", "dram", 29.0 * GB_S),
    ];
    let verdict = judged(rows.clone(), clocked());
    assert_eq!(verdict.faults, [""; 0]);
    let limit = |id: &str| verdict.limits.iter().find(|limit| limit.id == id).unwrap();
    let rate = |id: &str| (limit(id).value.value / GB_S).round();
    assert_eq!((rate("l1_read_bandwidth"), rate("l2_read_bandwidth")), (120.0, 60.0));
    assert_eq!(rate("dram_read_bandwidth"), 30.0);
    let l1 = limit("l1_read_bandwidth");
    // One multiprocessor at 1 GHz.
    assert!((l1.bytes_per_clock.unwrap() - 120.0).abs() < 1e-6, "{l1:?}");
    assert!(l1.value.lo < l1.value.value && l1.value.value < l1.value.hi, "{l1:?}");
    assert_eq!((l1.judged(), l1.derived, l1.spec), ("", None, None));
    let section = machine_section(&verdict);
    let column =
        section.columns.iter().position(|c| *c == "bytes per clock and SM").unwrap();
    let cells: Vec<&str> = section.rows.iter().map(|row| row[column].as_str()).collect();
    assert!(cells.contains(&"120.0") && cells.contains(&"-"), "{cells:?}");
    assert!(
        section.paragraphs.iter().any(|told| told.starts_with("Caches: ")),
        "{section:?}"
    );
    let ids: Vec<&str> = verdict.limits.iter().map(|limit| limit.id.as_str()).collect();
    assert!(!ids.contains(&"l3_read_bandwidth"), "{ids:?}");
    // Without a clock nobody knows the bytes of one.
    let unclocked = rows.into_iter().map(|row| Row { sm_clock_hz_median: None, ..row });
    let verdict = judged(unclocked.collect(), clocked());
    assert!(!machine_section(&verdict).columns.contains(&"bytes per clock and SM"));
}

/// Own shares are under no roof of any kind, and change none of another point.
#[test]
fn own_shares_have_no_roofs_and_set_none() {
    let mut run = clocked();
    run.set("planned_rows", 5);
    let campaign = |own: Option<Row>| {
        let mut rows = ceilings();
        rows.push(decode(8, 8, 0.9, 0.0));
        rows.push(cached(1 << 18, "shared", "L2", 60.0 * GB_S));
        rows.extend(own);
        let records = Records { runs: vec![run.clone()], rows, ..Records::default() };
        Campaign::from_records(Path::new("x"), records, Some(data_sheet())).unwrap()
    };
    // As large a set as the largest read, which sets the ceiling.
    let own = campaign(Some(cached(1 << 30, "own", "L1", 900.0 * GB_S)));
    let without = campaign(None);
    let point = own.points.last().unwrap();
    assert!(point.time_s.is_some() && point.bytes_per_s().is_some());
    assert_eq!((point.empirical, point.derived, point.spec), (None, None, None));
    assert_eq!((point.memory_s, point.memory_fraction()), (None, None));
    let of = |campaign: &Campaign| campaign.ceilings.clone().unwrap();
    assert_eq!(of(&own).peaks, of(&without).peaks);
    assert_eq!(of(&own).read, of(&without).read);
    let roofs = |campaign: &Campaign| {
        campaign.points[..4].iter().map(|p| (p.empirical, p.spec)).collect::<Vec<_>>()
    };
    assert_eq!(roofs(&own), roofs(&without));
    assert!(roofs(&own).iter().all(|(empirical, _)| empirical.is_some()));
    assert_eq!(judge(&own).faults, [""; 0]);
}

/// Faults of a campaign whose row `index` is faster by `factor`.
fn faster(mut run: Run, index: usize, factor: f64, residency: &str) -> Vec<String> {
    let mut rows = ceilings();
    rows.push(decode(8, 8, 0.9, 0.0));
    let row = &mut rows[index];
    for time in [&mut row.time_s_median, &mut row.time_s_ci_lo, &mut row.time_s_ci_hi] {
        *time = time.map(|t| t / factor);
    }
    row.residency = residency.into();
    run.set("planned_rows", rows.len());
    let records = Records { runs: vec![run], rows, ..Records::default() };
    judge(&Campaign::from_records(Path::new("x"), records, None).unwrap()).faults
}

#[test]
fn bytes_faster_than_the_memory_are_a_fault() {
    // 30 GB/s of the 31 that the clock allows.
    assert_eq!(faster(clocked(), 0, 1.0, "dram"), [""; 0]);
    assert_eq!(faster(clocked(), 0, 1.05, "dram"), [""; 0], "within 2%");
    let faults = faster(clocked(), 0, 1.07, "dram");
    assert!(
        faults.len() == 1 && faults[0].contains("read ceiling of 32.1 GB/s"),
        "{faults:?}"
    );
    assert!(faults[0].contains("104% of the 31 GB/s"), "{faults:?}");
    assert_eq!(faster(Run::default(), 0, 1.07, "dram"), [""; 0], "nothing is derived");

    // 27 GB/s by a kernel that is not a ceiling.
    let faults = faster(clocked(), 2, 1.2, "dram");
    assert!(faults.len() == 1 && faults[0].contains("moved 32.4 GB/s"), "{faults:?}");
    assert_eq!(faster(clocked(), 2, 1.2, "L2"), [""; 0], "a cache may be faster");
}

#[test]
fn what_a_cache_can_keep_of_a_rotation_is_granted() {
    let with_cache = |bytes: u64| {
        let mut run = clocked();
        run.set("l2_bytes", bytes);
        faster(run, 2, 1.2, "dram")
    };
    // 3% of the rotation of 1 GiB leaves 31.4 of 32.4 GB/s, within 2%.
    assert_eq!(with_cache((1 << 30) * 3 / 100), [""; 0]);
    assert_eq!(with_cache((1 << 30) / 100).len(), 1);
}

#[test]
fn flops_faster_than_the_multiprocessors_are_a_fault() {
    assert_eq!(faster(clocked(), 1, 1.08, "dram"), [""; 0], "within 2%");
    let faults = faster(clocked(), 1, 1.1, "L2");
    assert!(
        faults.len() == 1 && faults[0].contains("103% of the 320 GFLOP/s"),
        "{faults:?}"
    );
    let mut board = Run::default();
    for (name, value) in clocked().fields() {
        let is_name = name == "device";
        board.set(name, if is_name { "NVIDIA RTX Test" } else { value.as_str() });
    }
    assert_eq!(faster(board, 1, 1.1, "L2"), [""; 0], "boards boost");
}

#[test]
fn a_refused_data_sheet_is_said() {
    let records =
        Records { runs: vec![Run::default()], rows: ceilings(), ..Records::default() };
    let campaign = Campaign::from_records(Path::new("x"), records, None).unwrap();
    let refused = Some("the name says h100-sxm".to_owned());
    let verdict = judge(&Campaign { spec_refused: refused, ..campaign });
    assert!(verdict.warnings.iter().any(|w| w.contains("says h100-sxm")));
}

#[test]
fn what_spoils_a_run_is_a_fault() {
    let spoiled = |change: &dyn Fn(&mut Row)| {
        let mut row = decode(8, 8, 0.9, 0.01);
        change(&mut row);
        judged(vec![row], Run::default()).faults.join(" ")
    };
    assert_eq!(spoiled(&|_| ()), "");
    assert_eq!(spoiled(&|r| r.status = Some(Status::Noisy)), "");
    assert_eq!(spoiled(&|r| r.status = Some(Status::Skipped)), "");
    assert!(spoiled(&|r| r.status = Some(Status::Wrong)).contains("wrong output"));
    assert!(spoiled(&|r| r.status = Some(Status::Failed)).contains("failed"));
    let halve = |x: &mut Option<f64>| *x = x.map(|t| t / 2.0);
    let too_fast = spoiled(&|r| {
        halve(&mut r.time_s_median);
        halve(&mut r.time_s_ci_lo);
        halve(&mut r.time_s_ci_hi);
    });
    assert!(too_fast.contains("impossible"), "{too_fast}");
    let mut run = Run::default();
    run.set("planned_rows", 7);
    let short = judged(vec![], run).faults.join(" ");
    assert!(short.contains("2 of 7 planned rows"), "{short}");
}

#[test]
fn nothing_measured_is_no_panic_and_not_tested() {
    let records = Records { runs: vec![], rows: vec![], ..Records::default() };
    let campaign = Campaign::from_records(Path::new("x"), records, None).unwrap();
    let verdict = judge(&campaign);
    assert!(verdict.claims.iter().all(|c| c.finding == Finding::NotTested));
    assert!(verdict.warnings.iter().any(|w| w.contains("no read stream")));
    assert!(!verdict.is_valid(), "nothing says that nothing was planned");
}

/// A row that takes so many times what it takes at the roof of these tests' machine.
fn at_roof(text: &str, slower: f64, spread: f64) -> Row {
    let work = text.parse::<Problem>().unwrap().work();
    let roof_s = (work.bytes() as f64 / READ).max(work.flops() as f64 / FLOPS);
    row(text, roof_s * slower, spread)
}

fn found(rows: Vec<Row>, id: &str) -> (Finding, String) {
    let verdict = judged(rows, Run::default());
    let claim = claim(&verdict, id);
    (claim.finding, claim.evidence.clone())
}

fn gemm(m: u64, w_dtype: &str) -> String {
    format!("gemm:m={m},n=8192,k=8192,dtype=bf16,w_dtype={w_dtype}")
}

fn experts(tokens: u64, rest: &str) -> String {
    format!("moe_gemm:tokens={tokens},experts=8,top_k=2,n=4096,k=4096,dtype=bf16,{rest}")
}

fn latents(q_heads: u64, rest: &str) -> String {
    format!("mla_decode:batch=32,context=16384,q_heads={q_heads},dtype=bf16{rest}")
}

#[test]
fn linear_layers_follow_weights_and_past_the_ridge_rows() {
    let id = "linear-follows-weights";
    let rows = |ms: &[u64]| -> Vec<Row> {
        ms.iter().map(|&m| at_roof(&gemm(m, "bf16"), 1.1, 0.01)).collect()
    };
    let (finding, evidence) = found(rows(&[1, 2, 4, 32, 64]), id);
    assert_eq!(finding, Finding::Reproduced, "{evidence}");
    assert!(evidence.starts_with("3 of 3 planned pairs"), "{evidence}");
    assert!(evidence.contains("2 of more rows below the ridge, time x 1.00"), "{evidence}");
    assert!(evidence.contains("1 of more rows past the ridge, time x 2.00"), "{evidence}");
    assert!(evidence.contains("compute bound from 32 rows on"), "{evidence}");
    assert!(
        evidence.contains("1 more cannot tell by design: one point is on each side"),
        "{evidence}"
    );
    let verdict = judged(rows(&[1, 2, 4, 32, 64]), Run::default());
    let section = verdict.sections.iter().find(|s| s.heading.starts_with("From where"));
    let knee = section.and_then(|section| section.rows.last()).unwrap();
    let name = "gemm 8192 x 8192 in bf16, weights in bf16";
    assert_eq!(knee[..3], [name, "32", "rows"]);
    assert!((knee[3].parse::<f64>().unwrap() - 10.0).abs() < 1e-9, "{knee:?}");
    // A pair is a point and the next, however far.
    let (_, evidence) = found(rows(&[1, 4, 2, 32, 256]), id);
    assert!(evidence.starts_with("3 of 3 planned pairs"), "{evidence}");
    assert!(evidence.contains("past the ridge, time x 8.00"), "{evidence}");
    // A range of one value is that value.
    assert!(!evidence.contains("8.00 to 8.00"), "{evidence}");
    let (finding, evidence) = found(rows(&[8, 16]), id);
    assert_eq!(finding, Finding::NotTested, "{evidence}");
    assert!(
        evidence.contains("1 more cannot tell by design: one point is on each side"),
        "{evidence}"
    );
}

#[test]
fn rows_that_cost_time_below_the_ridge_contradict() {
    let rows = vec![
        at_roof(&gemm(1, "bf16"), 1.0 / 1.2, 0.001),
        at_roof(&gemm(2, "bf16"), 1.0 / 0.705, 0.001),
    ];
    assert_eq!(found(rows, "linear-follows-weights").0, Finding::Contradicted);
}

#[test]
fn slow_and_unlike_linear_layers_are_no_evidence() {
    let id = "linear-follows-weights";
    // Equal times that a fixed cost explains as well as bytes do.
    let slow = [1, 2].map(|m| at_roof(&gemm(m, "bf16"), 2.5, 0.01)).to_vec();
    let (finding, evidence) = found(slow, id);
    assert_eq!(finding, Finding::NotTested);
    assert!(
        evidence.contains("1 is not evidence: most of the time is neither moving"),
        "{evidence}"
    );
    let mut hot = at_roof(&gemm(2, "bf16"), 1.1, 0.01);
    hot.cache_state = "hot".into();
    let unlike = [
        hot,
        at_roof(&gemm(2, "int8"), 1.1, 0.01),
        at_roof("gemm:m=2,n=4096,k=8192,dtype=bf16", 1.1, 0.01),
    ];
    for other in unlike {
        let verdict =
            judged(vec![at_roof(&gemm(1, "bf16"), 1.1, 0.01), other], Run::default());
        assert_eq!(claim(&verdict, id).counts.planned, 0);
    }
}

#[test]
fn experts_follow_the_bytes_of_those_touched() {
    let id = "experts-follow-bytes";
    let of = |tokens: &[u64], routing: &str| -> Vec<Row> {
        let text = |t| experts(t, &format!("routing={routing}"));
        tokens.iter().map(|&t| at_roof(&text(t), 1.1, 0.01)).collect()
    };
    // All eight are touched from four tokens on.
    let (finding, evidence) = found(of(&[4, 8, 16], "balanced"), id);
    assert_eq!(finding, Finding::Reproduced, "{evidence}");
    // Twice the experts for twice the tokens: bytes and FLOPs change by similar factors.
    let (finding, evidence) = found(of(&[1, 2], "balanced"), id);
    assert_eq!(finding, Finding::NotTested, "{evidence}");
    assert!(evidence.contains("bytes and FLOPs change by similar factors"), "{evidence}");
    // Sixteen FLOPs for each byte and more, of a ridge of ten.
    assert_eq!(found(of(&[128, 256], "balanced"), id).0, Finding::Contradicted);
    let mut mixed = of(&[4], "balanced");
    mixed.extend(of(&[8], "zipf"));
    assert_eq!(claim(&judged(mixed, Run::default()), id).counts.planned, 0);
}

#[test]
fn quantized_numbers_shrink_time_as_bytes() {
    let id = "quantizing-shrinks-time";
    let mut rows = Vec::new();
    for format in ["bf16", "fp8_e4m3", "int8", "int4"] {
        rows.push(at_roof(&gemm(1, format), 1.1, 0.01));
        rows.push(at_roof(&gemm(256, format), 1.1, 0.01));
    }
    for format in ["bf16", "fp8_e4m3"] {
        rows.push(at_roof(&latents(1, &format!(",kv_dtype={format}")), 1.1, 0.01));
        let text = experts(4, &format!("routing=balanced,w_dtype={format}"));
        rows.push(at_roof(&text, 1.1, 0.01));
    }
    let (finding, evidence) = found(rows, id);
    assert_eq!(finding, Finding::Reproduced, "{evidence}");
    assert!(evidence.starts_with("8 of 8 planned pairs"), "{evidence}");
    assert!(
        evidence.contains("1 of weights in int4 below the ridge, time x 0.26"),
        "{evidence}"
    );
    assert!(
        evidence.contains("1 of weights in int4 past the ridge, time x 1.00"),
        "{evidence}"
    );
    let slower = vec![
        at_roof(&gemm(1, "bf16"), 1.0 / 1.2, 0.001),
        at_roof(&gemm(1, "int8"), 1.0 / 0.705, 0.001),
    ];
    assert_eq!(found(slower, id).0, Finding::Contradicted);
}

#[test]
fn latent_attention_stays_below_the_ridge_and_grows_past_it() {
    let id = "latents-at-the-ridge";
    let rows =
        [1, 2, 16, 32].map(|q_heads| at_roof(&latents(q_heads, ""), 1.1, 0.01)).to_vec();
    let (finding, evidence) = found(rows, id);
    assert_eq!(finding, Finding::Reproduced, "{evidence}");
    assert!(evidence.starts_with("2 of 2 planned pairs"), "{evidence}");
    assert!(evidence.contains("compute bound from 16 heads x new tokens on"), "{evidence}");
    let drafts = vec![
        at_roof(&latents(1, ""), 1.1, 0.01),
        at_roof(&latents(2, ",new_tokens=2"), 1.1, 0.01),
    ];
    assert_eq!(claim(&judged(drafts, Run::default()), id).counts.planned, 0);
}

#[test]
fn launches_that_cost_most_of_the_time_are_no_evidence() {
    let mut run = Run::default();
    run.set("launch_overhead_s", 1.0);
    let rows = [1, 2].map(|m| at_roof(&gemm(m, "bf16"), 2.0, 0.01)).to_vec();
    let verdict = judged(rows, run);
    let claim = claim(&verdict, "linear-follows-weights");
    assert_eq!(claim.finding, Finding::NotTested);
    let why = "1 is not evidence: launching takes most of the time";
    assert!(claim.evidence.contains(why), "{}", claim.evidence);
}

/// How many points of an operation are bound by what: `memory bound 3, undecided 1`; of those
/// that are not judged, why.
fn measured_as(verdict: &Verdict, op: &str) -> String {
    let shares = verdict.sections.iter().find(|s| s.heading.starts_with("Share")).unwrap();
    let at = |name: &str| shares.columns.iter().position(|column| *column == name).unwrap();
    let row = shares.rows.iter().find(|row| row[0] == op).unwrap();
    let counts = (at("memory_bound")..=at("undecided")).filter(|&at| !row[at].is_empty());
    let told = counts.map(|of| match shares.columns[of] {
        "not_judged" => format!("{} {}", row[at("not_judged_because")], row[of]),
        column => format!("{} {}", column.replace('_', " "), row[of]),
    });
    told.collect::<Vec<_>>().join(", ")
}

fn judged_by(verdict: &Verdict, id: &str) -> &'static str {
    verdict.limits.iter().find(|limit| limit.id == id).unwrap().judged()
}

/// Rows without a probe of arithmetic: the stream alone.
fn judged_without_probe(mut rows: Vec<Row>, run: &Run) -> Verdict {
    let mut run = run.clone();
    rows.extend(ceilings().into_iter().take(1));
    run.set("planned_rows", rows.len());
    let records = Records { runs: vec![run], rows, ..Records::default() };
    judge(&Campaign::from_records(Path::new("x"), records, None).unwrap())
}

#[test]
fn no_kernel_is_judged_by_the_ceiling_that_it_set() {
    let large = at_roof(&gemm(1024, "bf16"), 1.02, 0.001);
    let alone = judged_without_probe(vec![large.clone()], &clocked());
    let own = "not judged: its own kernel set the ceiling 1";
    assert_eq!(measured_as(&alone, "gemm"), own);
    // A kernel that came near is a second opinion; one that did not is too low.
    let second = |slower: f64| {
        let prefill = "prefill_attention:batch=1,new_tokens=4096,q_heads=32,kv_heads=8,\
                       head_dim=128,dtype=bf16";
        let other = Row { kernel: "other".into(), ..at_roof(prefill, slower, 0.001) };
        measured_as(&judged_without_probe(vec![large.clone(), other], &clocked()), "gemm")
    };
    assert_eq!(second(1.1), "compute bound 1");
    assert_eq!(second(1.5), "not judged: ceiling too low 1");
    // Without clocks, only a probe tells.
    let prefill = "prefill_attention:batch=1,new_tokens=4096,q_heads=32,kv_heads=8,\
                   head_dim=128,dtype=bf16";
    let other = Row { kernel: "other".into(), ..at_roof(prefill, 1.1, 0.001) };
    let unknown = judged_without_probe(vec![large, other], &Run::default());
    assert_eq!(measured_as(&unknown, "gemm"), "not judged: no probe of the ceiling 1");
    let lacks = "the campaign lacks a `peak` point of bf16";
    assert!(unknown.warnings.iter().any(|w| w.contains(lacks)), "{:?}", unknown.warnings);
}

#[test]
fn ceilings_are_held_against_the_clock_that_was_measured() {
    let with_peak = |share: f64, sm_clock_hz: Option<f64>| {
        let mut rows = ceilings();
        let peak = &mut rows[1];
        for time in
            [&mut peak.time_s_median, &mut peak.time_s_ci_lo, &mut peak.time_s_ci_hi]
        {
            *time = time.map(|time| time / share);
        }
        peak.sm_clock_hz_median = sm_clock_hz;
        let mut run = clocked();
        run.set("planned_rows", rows.len());
        let records = Records { runs: vec![run], rows, ..Records::default() };
        judge(&Campaign::from_records(Path::new("x"), records, None).unwrap())
    };
    // 300 GFLOP/s of 320 at 156.25 MHz, and 222 of them.
    assert_eq!(judged_by(&with_peak(1.0, None), "bf16_compute"), "yes");
    let low = with_peak(0.74, None);
    let too_low = "not judged: ceiling too low";
    assert_eq!(judged_by(&low, "bf16_compute"), too_low);
    assert_eq!(judged_by(&low, "bf16_ridge"), too_low);
    assert_eq!(judged_by(&low, "dram_read_bandwidth"), "yes");
    assert!(low.warnings.iter().any(|w| w.contains("69% of what the clocks allow")));
    let throttled = with_peak(0.74, Some(140.625e6));
    assert_eq!(judged_by(&throttled, "bf16_compute"), "yes", "77% of 288");
    let row = machine_section(&throttled).rows.iter().find(|row| row[0] == "bf16 compute");
    let row = row.unwrap();
    assert_eq!(row[2], "77% of 288 GFLOP/s at 0.14 GHz");
    let section = machine_section(&throttled);
    assert_eq!(section.columns[3], "FLOP per clock and SM");
    assert_eq!(row[3], "1579 of 2048");
    let of_row = "probe: peak tensor bf16 lanes=1024 steps=4096";
    assert_eq!((row[4].as_str(), row[5].as_str()), (of_row, "probe 222 GFLOP/s (77%)"));
    let ridge = section.rows.iter().find(|row| row[0] == "bf16 ridge").unwrap();
    assert!(ridge[4].starts_with(&format!("{of_row}, over ")), "{}", ridge[4]);
}

/// All arithmetic at half its speed: the clock that the CPU is sold with tells.
#[test]
fn a_cpus_ceiling_is_held_against_the_clock_that_it_is_sold_with() {
    let with_peak = |share: f64| {
        let mut rows = ceilings();
        let text = "peak:unit=fma,dtype=f32,lanes=1024,steps=4096";
        rows[1] = row(text, 2.0 * 1024.0 * 4096.0 / FLOPS / share, 0.0);
        let mut run = Run::default();
        for (name, value) in [
            ("backend", "cpu"),
            ("simd", "avx512"),
            ("threads", "2"),
            ("base_clock_hz", "2100000000"),
        ] {
            run.set(name, value);
        }
        run.set("planned_rows", rows.len());
        let records = Records { runs: vec![run], rows, ..Records::default() };
        judge(&Campaign::from_records(Path::new("x"), records, None).unwrap())
    };
    // 300 GFLOP/s of 268.8, and 150 of them.
    assert_eq!(judged_by(&with_peak(1.0), "f32_compute"), "yes");
    let halved = with_peak(0.5);
    assert_eq!(judged_by(&halved, "f32_compute"), "not judged: ceiling too low");
    assert!(halved.warnings.iter().any(|w| w.contains("56% of what the clocks allow")));
}

/// A CPU with products of pairs of bf16: they set the ceiling of bf16 where they are faster, and
/// none of f32.
#[test]
fn a_cpus_products_of_pairs_set_the_ceiling_of_their_format() {
    let mut run = Run::default();
    run.set("backend", "cpu");
    let peak = |unit: &str, flops: f64, share: f64| Row {
        kernel: "cpu_peak".into(),
        ..row(
            &format!("peak:unit={unit},lanes=1024,steps=4096"),
            flops * 1024.0 * 4096.0 / (share * FLOPS),
            0.0,
        )
    };
    let of = |share| {
        let rows = vec![
            peak("fma,dtype=f32", 2.0, 1.0),
            peak("tensor,dtype=bf16", 4096.0, share),
            at_roof(&gemm(1024, "bf16"), 1.0, 0.001),
        ];
        let judged = judged_without_probe(rows, &run);
        ["bf16_compute", "f32_compute"].map(|id| {
            let limit = judged.limits.iter().find(|limit| limit.id == id).unwrap();
            (limit.value.value / FLOPS, limit.from.clone())
        })
    };
    let [bf16, f32] = of(1.9);
    assert!((bf16.0 - 1.9).abs() < 1e-9 && (f32.0 - 1.0).abs() < 1e-9, "{bf16:?} {f32:?}");
    assert_eq!(bf16.1, "cpu_peak: peak tensor bf16 lanes=1024 steps=4096");
    let [bf16, _] = of(0.5);
    assert!((bf16.0 - 1.0).abs() < 1e-9, "{bf16:?}");
    assert!(bf16.1.ends_with(", computed in f32"), "{bf16:?}");
}

#[test]
fn formats_of_a_cpu_share_the_ceiling_of_f32_and_load_sets_none() {
    let mut run = Run::default();
    run.set("backend", "cpu");
    run.set("units_not_driven", "amx_bf16 avx512_fp16");
    let probe = |load: f64| Row {
        kernel: "cpu_peak".into(),
        other_cpu_share: Some(load),
        ..row(
            "peak:unit=fma,dtype=f32,lanes=1024,steps=4096",
            2.0 * 1024.0 * 4096.0 / FLOPS,
            0.0,
        )
    };
    let large = at_roof(&gemm(1024, "bf16"), 1.2, 0.001);
    let of = |load| judged_without_probe(vec![large.clone(), probe(load)], &run);
    let calm = of(0.01);
    assert_eq!(measured_as(&calm, "gemm"), "compute bound 1");
    let limit = calm.limits.iter().find(|limit| limit.id == "bf16_compute").unwrap();
    let missing = "; no kernel drives this CPU's amx_bf16";
    assert_eq!(
        limit.from,
        format!("cpu_peak: peak fma f32 lanes=1024 steps=4096, computed in f32{missing}")
    );
    assert_eq!(limit.candidates.len(), 2);
    // The disturbed probe is not the ceiling, although it was faster.
    let disturbed = of(0.5);
    assert_eq!(
        judged_by(&disturbed, "bf16_compute"),
        "not judged: no probe of the ceiling"
    );
    let limit = disturbed.limits.iter().find(|limit| limit.id == "bf16_compute").unwrap();
    assert_eq!(
        limit.from,
        format!("k: gemm m=1024 n=8192 k=8192 bf16, computed in f32{missing}")
    );
}
