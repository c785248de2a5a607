//! What the tests share.
#![allow(dead_code)]

use ptxvm::{Fault, Finding, FindingKind, Launch, Memory, Module, Report};

/// Allocates and fills a buffer.
pub fn upload<T: Copy, const N: usize>(
    memory: &mut Memory,
    name: &str,
    values: &[T],
    bytes: fn(T) -> [u8; N],
) -> u64 {
    let address = memory.alloc((values.len() * N) as u64, name);
    let all: Vec<u8> = values.iter().flat_map(|&value| bytes(value)).collect();
    memory.write(address, &all);
    address
}

pub fn floats(memory: &Memory, address: u64, count: usize) -> Vec<f32> {
    words(memory, address, count).into_iter().map(f32::from_bits).collect()
}

pub fn words(memory: &Memory, address: u64, count: usize) -> Vec<u32> {
    let bytes = memory.read(address, 4 * count);
    bytes.chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Runs a launch in which nothing may be found.
#[track_caller]
pub fn clean(module: &Module, memory: &mut Memory, launch: &Launch<'_>) -> Report {
    let report = module.launch(memory, launch).unwrap_or_else(|fault| panic!("{fault}"));
    for finding in &report.findings {
        eprintln!("{finding}");
    }
    assert!(report.findings.is_empty());
    report
}

/// The kinds of everything found, faults last.
pub fn kinds(outcome: &Result<Report, Fault>) -> Vec<FindingKind> {
    let all: Vec<&Finding> = match outcome {
        Ok(report) => report.findings.iter().collect(),
        Err(fault) => fault.findings.iter().chain([&*fault.cause]).collect(),
    };
    for finding in &all {
        eprintln!("{finding}");
    }
    all.into_iter().map(|finding| finding.kind).collect()
}

/// Under every seed, one of the findings is of the kind.
#[track_caller]
pub fn caught(run: impl Fn(u64) -> Result<Report, Fault>, kind: FindingKind) {
    for seed in 0..4 {
        let found = kinds(&run(seed));
        assert!(found.contains(&kind), "seed {seed}: {found:?}");
    }
}

/// Replaces the `n`-th occurrence of `from`.
#[track_caller]
pub fn replace(text: &str, from: &str, n: usize, to: &str) -> String {
    let at = text.match_indices(from).nth(n).unwrap_or_else(|| panic!("no {from}")).0;
    format!("{}{to}{}", &text[..at], &text[at + from.len()..])
}

/// The bf16 bits of a value that bf16 holds exactly.
pub fn bf16(x: f32) -> u16 {
    (x.to_bits() >> 16) as u16
}
