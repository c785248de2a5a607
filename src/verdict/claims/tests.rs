//! Campaigns made so that each verdict comes out.

use std::path::Path;

use super::*;
use crate::analysis::Campaign;
use crate::claims;
use crate::model::machine::DataSheet;
use crate::op::{DecodeAttention, OfProblem, Problem};
use crate::plot::fixture;
use crate::record::{CounterRow, Records, Row, Status, Witnesses};
use crate::roofline::{Bandwidth, Peaks};
use crate::verdict::{judge, judge_by};

/// A claim of a user's with these lines.
fn claim_of(lines: &str) -> ClaimEntry {
    let text = format!(
        "[[claim]]\nname = \"mine\"\nstatement = \"It is so.\"\nsource = \"me\"\n{lines}\n"
    );
    claims::parse("mine.toml", &text).unwrap().remove(0)
}

/// What a campaign says of it.
fn of(campaign: &Campaign, lines: &str) -> Claim {
    judge_by(campaign, &[&claim_of(lines)]).claims.remove(0)
}

fn built_in<'a>(verdict: &'a crate::verdict::Verdict, id: &str) -> &'a Claim {
    verdict.claims.iter().find(|claim| claim.id == id).unwrap_or_else(|| panic!("no {id}"))
}

/// The made-up GPU with some rows altered.
fn gpu(change: impl Fn(&mut Row, &Problem)) -> Campaign {
    let made = fixture::gpu_without_sheet();
    let mut rows = made.rows.clone();
    for row in &mut rows {
        let problem: Problem = row.problem.parse().unwrap();
        // No kernel is judged by a ceiling of its own.
        if row.op == "stream" {
            row.kernel = "stream".into();
        }
        change(row, &problem);
    }
    let campaign = made.with_rows(rows);
    let compute = campaign.ceilings.as_ref().unwrap().peaks.compute.clone();
    // A sheet that is right about memory and twice too high for arithmetic.
    let compute = compute.into_iter().map(|peak| crate::roofline::ComputePeak {
        flops_per_s: 2.0 * peak.flops_per_s,
        ..peak
    });
    let peaks = Peaks {
        bandwidth: Bandwidth::flat(3.1e12),
        compute: compute.collect(),
        links: Vec::new(),
    };
    let sheet = DataSheet {
        machine: "h100-sxm".into(),
        source: "a test".into(),
        peaks,
        l2_bytes: Some(50e6),
    };
    Campaign { spec: Some(sheet), ..campaign }
}

fn set(row: &mut Row, time_s: f64, spread: f64) {
    row.time_s_median = Some(time_s);
    row.time_s_ci_lo = Some(time_s * (1.0 - spread));
    row.time_s_ci_hi = Some(time_s * (1.0 + spread));
}

fn skip(row: &mut Row) {
    row.status = Some(Status::Skipped);
    row.kernel = "none".into();
    row.time_s_median = None;
    row.time_s_ci_lo = None;
    row.time_s_ci_hi = None;
}

/// The row that claims below are about, in 100 us but for 1%.
const ONE: &str =
    "select = \"op=decode_attention,batch=64,context=8192,q_heads=32,cache=cold\"";

fn one(spread: f64) -> Campaign {
    gpu(|row, problem| {
        let is_it = DecodeAttention::of(problem)
            .is_some_and(|p| p.batch == 64 && p.context == 8192 && p.q_heads == 32);
        if is_it {
            set(row, 1e-4, spread);
        }
    })
}

/// The truth table of one value: each verdict, and each reason for none.
#[test]
fn one_value_has_every_verdict() {
    let time = |relation: &str| format!("{ONE}\nquantity = \"time\"\n{relation}");
    for (relation, spread, finding, why) in [
        (
            "relation = \"=\"\nvalue = 1e-4\ntolerance = 0.1",
            0.01,
            Finding::Reproduced,
            "at what is claimed",
        ),
        (
            "relation = \"=\"\nvalue = 0.95e-4\ntolerance = 0.1",
            0.01,
            Finding::WithinTolerance,
            "off by no more than 10%",
        ),
        (
            "relation = \"=\"\nvalue = 2e-4\ntolerance = 0.1",
            0.01,
            Finding::Contradicted,
            "50% of what is claimed, off by more than 10%",
        ),
        (
            "relation = \"=\"\nvalue = 1e-4\ntolerance = 0.1",
            0.3,
            Finding::NotTested,
            "the interval is too wide to say",
        ),
        (
            "relation = \"<=\"\nvalue = 1.02e-4",
            0.01,
            Finding::Reproduced,
            "where it is claimed",
        ),
        ("relation = \"<=\"\nvalue = 1e-4", 0.01, Finding::NotTested, "too wide"),
        (
            "relation = \">=\"\nvalue = 1.2e-4\ntolerance = 0.3",
            0.01,
            Finding::WithinTolerance,
            "off by no more than 30%",
        ),
        (
            "relation = \"between\"\nvalue = [2e-4, 3e-4]",
            0.01,
            Finding::Contradicted,
            "with its whole interval",
        ),
    ] {
        let claim = of(&one(spread), &time(relation));
        assert_eq!(claim.finding, finding, "{relation}: {}", claim.reason);
        assert!(claim.reason.contains(why), "{relation}: {}", claim.reason);
        let value = claim.value.unwrap();
        assert_eq!((value.value, claim.rows.len()), (1e-4, 1));
        assert!((value.lo / (1e-4 * (1.0 - spread)) - 1.0).abs() < 1e-12);
        let counts = claim.counts;
        let used = [counts.agree, counts.against, counts.not_evidence()];
        let expected = match finding {
            Finding::Reproduced | Finding::WithinTolerance => [1, 0, 0],
            Finding::Contradicted => [0, 1, 0],
            Finding::NotTested => [0, 0, 1],
        };
        assert_eq!(used, expected, "{relation}");
    }
}

#[test]
fn what_no_row_says_is_not_tested() {
    let campaign = one(0.01);
    for (lines, why) in [
        ("select = \"op=rmsnorm\"\nquantity = \"time\"", "no rows were planned"),
        (
            "select = \"op=decode_attention\"\nquantity = \"oi_measured\"",
            "hardware counters did not see it",
        ),
        (
            "quantity = \"link_bandwidth\"\nlink = \"host\"\ndirection = \"in\"",
            "no planned row measures it",
        ),
        (
            "quantity = \"pairs_follow\"\npairs = [\"tokens\"]",
            "no such pair of points was planned",
        ),
        (
            "machine = \"h200\"\nselect = \"op=gemm\"\nquantity = \"time\"",
            "it is about h200, and the records are of h100-sxm",
        ),
    ] {
        let claim = of(&campaign, &format!("{lines}\nrelation = \">=\"\nvalue = 1"));
        assert_eq!(claim.finding, Finding::NotTested, "{lines}");
        assert!(claim.reason.contains(why), "{lines}: {}", claim.reason);
        assert!(claim.value.is_none() && claim.rows.is_empty(), "{lines}");
    }
    let lacking = "quantity = \"time\"\nselect = \"op=gemm\"\nrelation = \"<=\"\n\
                   value = \"sheet.link.peer\"";
    let claim = of(&campaign, lacking);
    assert_eq!(claim.reason, "the data sheet of h100-sxm lacks sheet.link.peer");
}

/// Rows that were planned and are not there count against testing: with more than half of
/// them gone nothing is said, and fewer are told.
#[test]
fn planned_rows_without_a_time_count() {
    let lines = "select = \"op=decode_attention,q_heads=8,batch=64,cache=cold\"\n\
                 quantity = \"memory_share\"\nover = \"least\"\nrelation = \">=\"\nvalue = 0.5";
    let without = |lost: &dyn Fn(u64) -> bool| {
        gpu(|row, problem| {
            let shape = DecodeAttention::of(problem);
            if shape.is_some_and(|p| p.q_heads == 8 && p.batch == 64 && lost(p.context)) {
                skip(row);
            }
        })
    };
    let all = of(&without(&|_| false), lines);
    assert_eq!((all.finding, all.rows.len()), (Finding::Reproduced, 8), "{}", all.reason);
    let some = of(&without(&|context| context < 4096), lines);
    assert_eq!((some.finding, some.rows.len()), (Finding::Reproduced, 5));
    assert!(some.reason.contains("3 are not evidence: skipped 3"), "{}", some.reason);
    assert_eq!((some.counts.planned, some.counts.agree), (8, 5));
    let most = of(&without(&|context| context != 4096), lines);
    assert_eq!(most.finding, Finding::NotTested);
    assert!(most.reason.contains("less than half of what was planned"), "{}", most.reason);
    assert_eq!((most.counts.planned, most.counts.not_evidence()), (8, 8));
}

/// The claims of the table, on a GPU as it should be.
#[test]
fn claims_of_the_table_are_judged() {
    let campaign = gpu(|row, problem| {
        if DecodeAttention::of(problem).is_some() {
            set(row, problem.work().bytes() as f64 / 3.0e12 / 0.9, 0.005);
        }
    });
    let verdict = judge(&campaign);
    for (id, finding) in [
        ("decode-memory-bound", Finding::Reproduced),
        ("decode-follows-bytes", Finding::Reproduced),
        ("long-contexts-memory-bound", Finding::Reproduced),
        ("sheet-dram-bandwidth", Finding::WithinTolerance),
        ("sheet-host-link-in", Finding::NotTested),
        ("experts-follow-bytes", Finding::NotTested),
    ] {
        let claim = built_in(&verdict, id);
        assert_eq!(claim.finding, finding, "{id}: {}", claim.reason);
        assert!(!claim.reason.is_empty() && !claim.reason.contains('\n'), "{id}");
    }
    // Arithmetic at half of what the sheet says.
    let peak = built_in(&verdict, "sheet-bf16-peak");
    assert_ne!(peak.finding, Finding::Reproduced, "{}", peak.reason);
    assert!(verdict.claims.iter().all(|claim| claim.id != "h200-decode-32x8-b8-8k"));
    let names: Vec<&str> = verdict.claims.iter().map(|claim| claim.id.as_str()).collect();
    assert!(names.contains(&"h100-decode-32x8-b8-8k"), "{names:?}");
}

/// The same GPU where decode attention takes the time of its FLOPs.
#[test]
fn decode_that_is_not_memory_bound_contradicts() {
    let campaign = gpu(|row, problem| {
        if DecodeAttention::of(problem).is_some() {
            set(row, problem.work().flops() as f64 / 1e12, 0.005);
        }
    });
    let verdict = judge(&campaign);
    for id in ["decode-memory-bound", "decode-follows-bytes", "long-contexts-memory-bound"]
    {
        let claim = built_in(&verdict, id);
        assert_eq!(claim.finding, Finding::Contradicted, "{id}: {}", claim.reason);
    }
    let value = built_in(&verdict, "decode-memory-bound").value.unwrap();
    assert!(value.value < 0.5 && value.lo <= value.value && value.value <= value.hi);
}

/// A memory at two thirds of the sheet's bandwidth, which its own clocks allow no more of.
#[test]
fn a_slow_memory_contradicts_its_sheet() {
    let made = fixture::gpu();
    let mut rows = made.rows.clone();
    for row in rows.iter_mut().filter(|row| row.op == "stream") {
        let time_s = 1.5 * row.time_s_median.unwrap();
        set(row, time_s, 0.005);
    }
    let verdict = judge(&made.with_rows(rows));
    let claim = built_in(&verdict, "sheet-dram-bandwidth");
    assert_eq!(claim.finding, Finding::Contradicted, "{}", claim.reason);
    assert!(claim.reason.contains("of what is claimed, off by more than 10%"));
    assert_eq!(claim.claimed, "= 3.35 TB/s");
    assert_eq!(claim.rows.len(), 1);
}

/// Published times: of problems with a row, by its fastest, and of those without none.
#[test]
fn published_times_are_held_against_the_fastest_row() {
    let taking = |factor: f64, implementation: &str| {
        judge(&gpu(|row, problem| {
            let is_it = DecodeAttention::of(problem)
                .is_some_and(|p| p.batch == 8 && p.context == 8192 && p.q_heads == 32);
            if is_it {
                set(row, factor * 1.0049e-4, 0.005);
                row.implementation = implementation.into();
            }
        }))
    };
    for (factor, implementation, finding) in [
        (0.5, "", Finding::Reproduced),
        (0.99, "", Finding::Reproduced),
        (1.0, "", Finding::WithinTolerance),
        (1.05, "", Finding::WithinTolerance),
        (1.1, "", Finding::NotTested),
        (1.2, "", Finding::NotTested),
        (1.2, "FlashAttention-3", Finding::Contradicted),
        (0.8, "FlashAttention-3", Finding::Reproduced),
    ] {
        let verdict = taking(factor, implementation);
        let claim = built_in(&verdict, "h100-decode-32x8-b8-8k");
        assert_eq!(claim.finding, finding, "{factor}: {}", claim.reason);
        assert_eq!(claim.rows.len(), 1);
        let is_excused = factor == 1.2 && implementation.is_empty();
        assert_eq!(claim.reason.contains("only own kernels"), is_excused);
        let is_off = matches!(finding, Finding::Contradicted | Finding::WithinTolerance);
        let share = format!("{}% of what is claimed", (100.0 * factor).round());
        assert!(!is_off || claim.reason.contains(&share), "{}", claim.reason);
    }
    let verdict = taking(1.0, "");
    // A row whose data lie in the cache is faster and does not count.
    let short = built_in(&verdict, "h100-decode-32x8-b1-8k");
    let campaign = gpu(|_, _| ());
    let used = campaign.points.iter().find(|point| point.point_id == short.rows[0]);
    assert!(used.unwrap().is_from_dram(), "{}", short.reason);
    let alike = campaign.points.iter().filter(|p| p.problem == used.unwrap().problem);
    let fastest = alike.min_by(|a, b| {
        let time_s = |p: &crate::analysis::Measured| p.time_s.unwrap().value;
        time_s(a).total_cmp(&time_s(b))
    });
    assert!(!fastest.unwrap().is_from_dram());
    let whole = built_in(&verdict, "h100-moe-mixtral-t1");
    assert_eq!(whole.finding, Finding::NotTested);
    assert!(whole.reason.contains("the time of several kernels"), "{}", whole.reason);
    let section = &verdict.sections[0];
    let told = section.paragraphs.join(" ");
    assert!(told.contains("h100-moe-mixtral-t1"), "{told}");
    assert!(told.contains("published measurements are of other machines"), "{told}");
    assert_eq!(section.columns.len(), section.rows[0].len());
}

/// Two times the bytes in two times the time, and the ratio of two rows.
#[test]
fn ratios_and_elasticities_are_of_times() {
    let campaign = gpu(|row, problem| {
        if DecodeAttention::of(problem).is_some() {
            set(row, problem.work().bytes() as f64 / 2.9e12, 0.001);
        }
    });
    let rows = |context: u64| {
        format!("op=decode_attention,q_heads=8,batch=64,context={context},cache=cold")
    };
    let ratio = format!(
        "select = \"{}\"\nbeside = \"{}\"\nquantity = \"time_ratio\"\nrelation = \"=\"\n\
         value = 2\ntolerance = 0.05",
        rows(16384),
        rows(8192)
    );
    let claim = of(&campaign, &ratio);
    assert_eq!(claim.finding, Finding::Reproduced, "{}", claim.reason);
    assert_eq!(claim.rows.len(), 2);
    let flat = "quantity = \"elasticity\"\nof = \"flops\"\npairs = [\"query_heads\"]\n\
                relation = \"=\"\nvalue = 0\ntolerance_abs = 0.1";
    let claim = of(&campaign, flat);
    assert_eq!(claim.finding, Finding::Reproduced, "{}", claim.reason);
    let steep = flat.replace("value = 0", "value = 1");
    assert_eq!(of(&campaign, &steep).finding, Finding::Contradicted);
}

/// Quantities of the model and of counters.
#[test]
fn intensities_and_footprints_are_of_rows() {
    let made = fixture::gpu();
    let campaign = made.campaign();
    let select =
        "select = \"op=decode_attention,q_heads=32,batch=8,context=8192,cache=cold\"";
    let oi = format!(
        "{select}\nquantity = \"oi\"\nrelation = \"=\"\nvalue = 4\ntolerance = 0.1"
    );
    assert_eq!(of(&campaign, &oi).finding, Finding::Reproduced);
    // Keys and values of 8 heads, 128 elements and 2 bytes.
    let bytes = 2 * 8192 * 8 * 128 * 2;
    let footprint = format!(
        "{select}\nquantity = \"capacity_footprint\"\nrelation = \"=\"\nvalue = {bytes}\n\
         tolerance = 0.001"
    );
    let claim = of(&campaign, &footprint);
    assert_eq!(claim.finding, Finding::Reproduced, "{}", claim.reason);
    // Counters that saw twice the model's bytes.
    let point = campaign.points.iter().find(|p| p.point_id == claim.rows[0]).unwrap();
    let seen = CounterRow {
        point_id: point.point_id.clone(),
        dram_bytes_read: Some(2.0 * point.work.bytes() as f64),
        dram_bytes_written: Some(0.0),
        ..CounterRow::default()
    };
    let witnesses = Witnesses { counters: Some(vec![seen]), ..Witnesses::default() };
    let measured = format!(
        "{select}\nquantity = \"oi_measured_of_model\"\nrelation = \"=\"\nvalue = 1\n\
         tolerance = 0.1"
    );
    let claim = of(&made.with_witnesses(witnesses), &measured);
    assert_eq!(claim.finding, Finding::Contradicted, "{}", claim.reason);
    assert_eq!(claim.value.unwrap().value, 0.5);
}

/// No records at all, and every quantity asked of them.
#[test]
fn nothing_measured_is_not_tested() {
    let campaign =
        Campaign::from_records(Path::new("x"), Records::default(), None).unwrap();
    let verdict = judge(&campaign);
    assert!(verdict.claims.iter().all(|claim| claim.finding == Finding::NotTested));
    assert!(verdict.claims.iter().all(|claim| !claim.reason.is_empty()));
}
