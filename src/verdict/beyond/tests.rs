//! Campaigns whose times beat their own roofs.

use std::path::Path;

use crate::analysis::Campaign;
use crate::op::Problem;
use crate::point::{CacheState, Point};
use crate::record::{Records, Row, Run, Status};
use crate::verdict::judge;

const READ: f64 = 30e9;
const FLOPS: f64 = 300e9;
const CACHE: u64 = 1 << 28;

fn row(kernel: &str, problem: &str, time_s: f64) -> Row {
    let problem: Problem = problem.parse().unwrap();
    let kernel: crate::point::KernelName = kernel.parse().unwrap();
    let point =
        Point { problem, kernel, cache: CacheState::Cold, launch: None, load: None };
    Row {
        point_id: point.id(),
        device_kind: "measured".into(),
        op: problem.op().to_string(),
        kernel: point.kernel.to_string(),
        cache_state: "cold".into(),
        status: Some(Status::Ok),
        problem: problem.to_string(),
        reuse_distance_bytes: Some(8 * CACHE),
        residency: "dram".into(),
        time_s_median: Some(time_s),
        time_s_ci_lo: Some(time_s),
        time_s_ci_hi: Some(time_s),
        ..Row::default()
    }
}

fn stream(bytes: u64, bytes_per_s: f64) -> Row {
    let text = format!("stream:access=read,bytes={bytes}");
    let row = row("stream", &text, bytes as f64 / bytes_per_s);
    Row { reuse_distance_bytes: Some(bytes), ..row }
}

/// A row at so many times the rate of its roof.
fn at(kernel: &str, problem: &str, share: f64) -> Row {
    let work = problem.parse::<Problem>().unwrap().work();
    let roof_s = (work.bytes() as f64 / READ).max(work.flops() as f64 / FLOPS);
    row(kernel, problem, roof_s / share)
}

const DECODE: &str = "decode_attention:batch=8,context=8192,q_heads=8,kv_heads=8,\
                      head_dim=128,dtype=bf16";
const KV_READ: &str = "kv_read:batch=8,context=8192,kv_heads=8,head_dim=128,dtype=bf16";
const LINEAR: &str = "gemm:m=1,n=8192,k=8192,dtype=bf16";

/// Faults of these rows with the ceilings that they are judged by.
fn faults(rows: Vec<Row>) -> Vec<String> {
    let mut all = vec![
        stream(8 * CACHE, READ),
        at("gemm", "gemm:m=1024,n=1024,k=1024,dtype=bf16", 1.0),
    ];
    all.extend(rows);
    for (line, row) in (2..).zip(&mut all) {
        row.line = line;
    }
    let mut run = Run::default();
    run.set("caches", format!("L2={CACHE}"));
    run.set("launch_overhead_s", 1e-6);
    run.set("planned_rows", all.len());
    let records = Records { runs: vec![run], rows: all, ..Records::default() };
    judge(&Campaign::from_records(Path::new("x"), records, None).unwrap()).faults
}

#[test]
fn up_to_a_quarter_above_a_roof_is_noise() {
    let rows = vec![at("decode", DECODE, 1.24), at("kv_read", KV_READ, 0.9)];
    assert_eq!(faults(rows), [""; 0]);
}

#[test]
fn several_kernels_above_a_roof_say_that_the_ceiling_is_low() {
    let rows = vec![
        at("decode", DECODE, 1.85),
        at("kv_read", KV_READ, 1.69),
        at("gemm_skinny", LINEAR, 0.9),
    ];
    let told = faults(rows.clone());
    assert_eq!(told.len(), 1, "{told:?}");
    let start = "impossible: results.csv lines 4, 5, column time_s_median: 2 points of 2 \
                 kernels ran at 169% to 185% of the measured memory roof; the read ceiling of \
                 30 GB/s (results.csv line 2) is too low or was measured under load: ";
    assert!(told[0].starts_with(start), "{told:?}");
}

/// The whole range of a sentinel was an excuse once.
#[test]
fn drift_excuses_nothing_and_load_is_told() {
    let mut rows = vec![at("decode", DECODE, 1.85), at("kv_read", KV_READ, 1.69)];
    for (repeat, share) in [(0, 1.0), (1, 0.5)] {
        rows.push(Row { repeat, ..stream(7 * CACHE, share * READ) });
    }
    let mut loaded = stream(9 * CACHE, READ);
    loaded.other_cpu_share = Some(0.44);
    rows.push(loaded);
    let told = faults(rows);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("(results.csv line 8)"), "{told:?}");
    assert!(told[0].contains("while other programs had 44% of the CPU"), "{told:?}");
}

/// Reads again of what the caches of single cores hold beat every roof, and are no fault; those
/// of what cores share are held against the largest read where they come from DRAM.
#[test]
fn own_shares_beat_no_roof() {
    let again = |reuse: &str| {
        let text = format!("stream:access=read,bytes=32 MiB,passes=64,reuse={reuse}");
        at("stream", &text, 30.0)
    };
    let near = Row {
        residency: "L1".into(),
        reuse_distance_bytes: Some(32 << 20),
        ..again("own")
    };
    // A smaller set was read, by which others in caches are judged.
    let smaller = Row { residency: "L2".into(), ..stream(1 << 20, 2.0 * READ) };
    assert_eq!(faults(vec![near, smaller]), [""; 0]);
    let shared = Row { reuse_distance_bytes: Some(4 * CACHE), ..again("shared") };
    let told = faults(vec![shared]);
    assert!(told.len() == 1 && told[0].contains("moved bytes at 3000%"), "{told:?}");
}

#[test]
fn one_kernel_alone_is_miscounted() {
    let rows = vec![at("decode", DECODE, 1.85), at("kv_read", KV_READ, 0.9)];
    let told = faults(rows);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("impossible: results.csv line 4, column time_s_median: decode"),
        "{told:?}"
    );
    assert!(
        told[0].ends_with("185% of the measured memory roof; its bytes are miscounted")
    );
    // Without another kernel to compare with, the ceiling may be what is wrong.
    let told = faults(vec![at("decode", DECODE, 1.85)]);
    assert!(told[0].contains("miscounted; or the read ceiling of 30 GB/s"), "{told:?}");
}

#[test]
fn many_points_of_one_kernel_are_counted() {
    let batches = (1..=8).map(|n| DECODE.replace("batch=8", &format!("batch={}", 8 * n)));
    let told = faults(batches.map(|text| at("decode", &text, 1.6)).collect());
    assert_eq!(told.len(), 6, "{told:?}");
    assert!(told[5].contains("3 more points of the same kernel"), "{told:?}");
}

#[test]
fn a_working_set_near_the_cache_was_helped_by_it() {
    let near = Row { reuse_distance_bytes: Some(2 * CACHE), ..at("decode", DECODE, 1.7) };
    let other = at("kv_read", KV_READ, 0.9);
    let told = faults(vec![near.clone(), other.clone()]);
    assert!(
        told[0].ends_with(
            "a cache helped: its working set is 2.0 times the L2; or its bytes are miscounted"
        ),
        "{told:?}"
    );
    // The same kernel beyond the cache's reach is as slow as it must be.
    let larger = at("decode", &DECODE.replace("batch=8", "batch=16"), 0.9);
    let told = faults(vec![near.clone(), other.clone(), larger]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].ends_with("its working set is 2.0 times the L2"), "{told:?}");
    // It is too fast there too: the cache is not the reason.
    let larger = at("decode", &DECODE.replace("batch=8", "batch=16"), 1.7);
    let told = faults(vec![near, other, larger]);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|fault| fault.ends_with("; its bytes are miscounted")));
}

#[test]
fn what_is_in_a_cache_has_a_roof_too() {
    let hot = |bytes: u64, share: f64| {
        let row = at("kv_read", KV_READ, share);
        let residency = "L2".to_owned();
        Row { reuse_distance_bytes: Some(bytes), residency, ..row }
    };
    let in_cache = Row { residency: "L2".into(), ..stream(CACHE / 4, 4.0 * READ) };
    let told = |rows| faults(rows).join("\n");
    assert_eq!(told(vec![in_cache.clone(), hot(CACHE / 4, 4.0)]), "");
    let fault = told(vec![in_cache.clone(), hot(CACHE / 4, 6.0)]);
    assert!(fault.contains("ran at 150% of the measured memory roof"), "{fault}");
    // No stream was as small.
    assert_eq!(told(vec![in_cache.clone(), hot(CACHE / 8, 6.0)]), "");
    // Ten launches and fewer.
    let small = "kv_read:batch=1,context=32,kv_heads=1,head_dim=64,dtype=bf16";
    let few = Row {
        reuse_distance_bytes: Some(CACHE / 4),
        residency: "L2".into(),
        ..row("kv_read", small, 1e-8)
    };
    assert_eq!(told(vec![in_cache, few]), "");
}

#[test]
fn streams_from_dram_agree_with_the_largest() {
    assert_eq!(faults(vec![stream(4 * CACHE, 1.2 * READ)]), [""; 0]);
    let told = faults(vec![stream(4 * CACHE, 1.8 * READ)]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("stream:access=read"), "{told:?}");
    assert!(told[0].contains("180% of the rate of the largest working set"), "{told:?}");
}

#[test]
fn arithmetic_above_its_roof_is_miscounted() {
    let slow = "decode_attention:batch=8,context=8192,q_heads=256,kv_heads=8,head_dim=128,\
                dtype=bf16";
    let told = faults(vec![at("decode", slow, 1.6)]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("160% of the measured compute roof"), "{told:?}");
    assert!(told[0].contains("its FLOPs are miscounted, or it computed in another format"));
    // In a cache, short times are those of launches: 17 us are not judged, 280 us are.
    let hot = |context: u64| {
        let text =
            slow.replace("batch=8,context=8192", &format!("batch=1,context={context}"));
        let hot = Row { residency: "L2".into(), ..at("decode", &text, 1.6) };
        faults(vec![hot]).join("\n")
    };
    assert_eq!(hot(64), "");
    assert!(hot(1024).contains("160% of the measured compute roof"), "{}", hot(1024));
}
