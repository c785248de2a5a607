//! The outcome as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use ptxvm::{Class, Counts, Finding, LineCounts, Traffic, Unit};
use serde_json::{Value, json};

use crate::outcome::{Mismatch, Outcome};

/// Most unexpected values that the text lists for a seed.
const MOST_VALUES: usize = 10;

/// The traffic of a source line, or of a line of PTX where there is no source.
#[derive(Debug, Default)]
struct Line {
    instructions: Vec<String>,
    requests: u64,
    traffic: Traffic,
}

/// The traffic by source line.
fn by_line(lines: &[LineCounts]) -> BTreeMap<(String, u32), Line> {
    let mut all: BTreeMap<(String, u32), Line> = BTreeMap::new();
    for line in lines {
        let place = line.source.clone().filter(|(_, line)| *line > 0);
        let place = place.unwrap_or_else(|| ("PTX".to_owned(), line.ptx_line));
        let sum = all.entry(place).or_default();
        if !sum.instructions.contains(&line.instruction) {
            sum.instructions.push(line.instruction.clone());
        }
        sum.requests += line.requests;
        sum.traffic.global_bytes += line.traffic.global_bytes;
        sum.traffic.sectors += line.traffic.sectors;
        sum.traffic.shared_bytes += line.traffic.shared_bytes;
        sum.traffic.wavefronts += line.traffic.wavefronts;
        sum.traffic.conflicts += line.traffic.conflicts;
    }
    all
}

/// Text of an outcome. Writing to a string cannot fail.
pub fn text(outcome: &Outcome) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} ({}), schedules {}",
        outcome.kernel,
        outcome.target,
        list(&outcome.seeds)
    );
    for printed in &outcome.printed {
        let text = printed.text.trim_end_matches('\n');
        let _ = writeln!(out, "  prints: {text}");
    }
    for (what, findings) in [("fault", &outcome.faults), ("finding", &outcome.findings)] {
        for (finding, seeds) in findings {
            let _ = writeln!(out, "{what} (schedules {}): {finding}", list(seeds));
        }
    }
    for (seed, wrong) in &outcome.mismatches {
        mismatches(&mut out, *seed, wrong);
    }
    if let Some(counts) = &outcome.counts {
        work(&mut out, counts);
        traffic(&mut out, &outcome.lines);
    }
    let verdict = if outcome.is_fine() { "nothing is wrong" } else { "not right" };
    let _ = writeln!(
        out,
        "{verdict}: {} faults, {} findings, {} unexpected values",
        outcome.faults.len(),
        outcome.findings.len(),
        outcome.mismatches.values().map(Vec::len).sum::<usize>()
    );
    out
}

fn list(seeds: &[u64]) -> String {
    seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

fn mismatches(out: &mut String, seed: u64, wrong: &[Mismatch]) {
    let _ = writeln!(out, "{} unexpected values (schedule {seed}):", wrong.len());
    for Mismatch { buffer, index, expected, got } in wrong.iter().take(MOST_VALUES) {
        let got = got.map_or("never written".to_owned(), |got| format!("{got}"));
        let _ = writeln!(out, "  {buffer}[{index}]: {got}, expected {expected}");
    }
    if wrong.len() > MOST_VALUES {
        let _ = writeln!(out, "  and {} more", wrong.len() - MOST_VALUES);
    }
}

fn work(out: &mut String, counts: &Counts) {
    let _ = writeln!(out, "work:");
    let mut line = |what: &str, value: u64| {
        if value > 0 {
            let _ = writeln!(out, "  {what:<28}{value:>16}");
        }
    };
    for unit in Unit::ALL {
        line(&format!("FLOPs {unit:?}"), counts.flops_of(unit));
    }
    line("thread instructions", counts.thread_instructions());
    line("warp instructions", counts.warp_instructions);
    line("global bytes read", counts.global_read_bytes);
    line("global bytes written", counts.global_write_bytes);
    line("DRAM bytes read, at least", 32 * counts.distinct_sectors_read);
    line("DRAM bytes written, at least", 32 * counts.distinct_sectors_written);
    line("shared bytes read", counts.shared_read_bytes);
    line("shared bytes written", counts.shared_write_bytes);
    line("asynchronous bytes", counts.async_bytes);
    line("bank conflicts", counts.bank_conflicts);
}

fn traffic(out: &mut String, lines: &[LineCounts]) {
    let lines = by_line(lines);
    let place = |(file, line): &(String, u32)| format!("{file}:{line}");
    let mut global = lines.iter().filter(|(_, line)| line.traffic.sectors > 0).peekable();
    if global.peek().is_some() {
        let _ =
            writeln!(out, "global memory by line: bytes asked for, bytes in sectors, use");
    }
    for (at, line) in global {
        let (wanted, moved) = (line.traffic.global_bytes, 32 * line.traffic.sectors);
        let _ = writeln!(
            out,
            "  {:<24}{wanted:>12}{moved:>12}{:>6}%  {}",
            place(at),
            100 * wanted / moved,
            line.instructions.join(", ")
        );
    }
    let mut shared =
        lines.iter().filter(|(_, line)| line.traffic.wavefronts > 0).peekable();
    if shared.peek().is_some() {
        let _ = writeln!(out, "shared memory by line: bytes, passes, fewest passes, ways");
    }
    for (at, line) in shared {
        let passes = line.traffic.wavefronts;
        let fewest = passes - line.traffic.conflicts;
        let _ = writeln!(
            out,
            "  {:<24}{:>12}{passes:>12}{fewest:>12}{:>6.1}  {}",
            place(at),
            line.traffic.shared_bytes,
            passes as f64 / fewest as f64,
            line.instructions.join(", ")
        );
    }
}

/// JSON of an outcome.
pub fn json(outcome: &Outcome) -> String {
    let all = |list: &[(Finding, Vec<u64>)]| {
        list.iter().map(|(finding, seeds)| found(finding, seeds)).collect::<Vec<_>>()
    };
    let wrong = outcome.mismatches.iter().flat_map(|(seed, list)| {
        list.iter().map(move |wrong| {
            json!({
                "seed": seed,
                "buffer": wrong.buffer,
                "index": wrong.index,
                "expected": wrong.expected,
                "got": wrong.got,
            })
        })
    });
    let lines = by_line(&outcome.lines).into_iter().map(|((file, line), sum)| {
        json!({
            "file": file,
            "line": line,
            "instructions": sum.instructions,
            "requests": sum.requests,
            "global_bytes": sum.traffic.global_bytes,
            "sector_bytes": 32 * sum.traffic.sectors,
            "shared_bytes": sum.traffic.shared_bytes,
            "passes": sum.traffic.wavefronts,
            "fewest_passes": sum.traffic.wavefronts - sum.traffic.conflicts,
        })
    });
    let printed = outcome.printed.iter().map(|printed| {
        json!({
            "block": printed.block,
            "thread": printed.thread,
            "text": printed.text,
        })
    });
    let value = json!({
        "kernel": outcome.kernel,
        "target": outcome.target,
        "seeds": outcome.seeds,
        "fine": outcome.is_fine(),
        "faults": all(&outcome.faults),
        "findings": all(&outcome.findings),
        "unexpected": wrong.collect::<Vec<_>>(),
        "printed": printed.collect::<Vec<_>>(),
        "counts": outcome.counts.as_ref().map(counts),
        "lines": lines.collect::<Vec<_>>(),
    });
    format!("{value:#}")
}

fn found(finding: &Finding, seeds: &[u64]) -> Value {
    json!({
        "kind": format!("{:?}", finding.kind),
        "kernel": finding.kernel,
        "file": finding.source.as_ref().map(|source| &source.0),
        "line": finding.source.as_ref().map(|source| source.1),
        "ptx_line": finding.ptx_line,
        "instruction": finding.instruction,
        "block": finding.block,
        "thread": finding.thread,
        "address": finding.address,
        "allocation": finding.allocation,
        "detail": finding.detail,
        "times": finding.times,
        "seeds": seeds,
    })
}

fn counts(counts: &Counts) -> Value {
    let named = |list: &mut dyn Iterator<Item = (String, u64)>| {
        let kept = list.filter(|(_, count)| *count > 0);
        kept.map(|(name, count)| (name, Value::from(count))).collect::<Value>()
    };
    let mut units = Unit::ALL.into_iter().map(|u| (format!("{u:?}"), counts.flops_of(u)));
    let mut classes =
        Class::ALL.into_iter().map(|c| (format!("{c:?}"), counts.instructions_of(c)));
    json!({
        "flops": named(&mut units),
        "instructions": named(&mut classes),
        "warp_instructions": counts.warp_instructions,
        "global_read_bytes": counts.global_read_bytes,
        "global_write_bytes": counts.global_write_bytes,
        "sectors_read": counts.sectors_read,
        "sectors_written": counts.sectors_written,
        "distinct_sectors_read": counts.distinct_sectors_read,
        "distinct_sectors_written": counts.distinct_sectors_written,
        "shared_read_bytes": counts.shared_read_bytes,
        "shared_write_bytes": counts.shared_write_bytes,
        "shared_passes": counts.shared_wavefronts,
        "bank_conflicts": counts.bank_conflicts,
        "async_bytes": counts.async_bytes,
        "global_atomics": counts.global_atomics,
    })
}
