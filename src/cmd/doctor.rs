//! `ridgepoint doctor`: what can be measured on this machine, and why the rest cannot.
//! With `--selftest`, whether the virtual machine and the GPU do what the PTX ISA says.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Result;

use super::options::{DeviceArgs, OutputFormat};
use super::table;
use crate::device::{self, Device, DeviceInfo, Opened};
use crate::format::DType;
use crate::op::Problem;
use crate::section::Section;
use crate::selftest;
use crate::toolchain::nvrtc::{Nvrtc, SearchPath};

/// Say what can be measured on this machine, and why the rest cannot.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Instead, run small PTX programs of every family of instructions on the
    /// virtual machine and, where the device is one, on the GPU, and compare what
    /// they compute with the PTX ISA's definitions.
    #[arg(long)]
    selftest: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let Opened { device, why } = device::open(&args.device.name, &args.device.options())?;
    if args.selftest {
        return selftest(&*device, args.format);
    }
    let sections = [machine(device.info(), &why), abilities(&*device)];
    table::print(&sections, args.format)?;
    Ok(ExitCode::SUCCESS)
}

fn selftest(device: &dyn Device, format: OutputFormat) -> Result<ExitCode> {
    let programs = ptxvm::conformance::programs();
    let count = programs.len();
    let done = selftest::run(device, programs, |number, program| {
        // Printed before the program runs: one that hangs is the last that is named.
        let line = format!("selftest {}/{count} {}", number + 1, program.name);
        match std::io::stderr().is_terminal() {
            // Overwrites the line before it.
            true => eprint!("\r{line:<79}"),
            false => eprintln!("{line}"),
        }
    });
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    table::print(&done.sections(), format)?;
    eprintln!("{}", done.summary());
    Ok(if done.is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn machine(info: &DeviceInfo, why: &str) -> Section {
    let mut rows = vec![
        ["device".into(), info.name.clone()],
        ["backend".into(), info.backend.clone()],
        ["chosen because".into(), why.to_owned()],
    ];
    for cache in &info.caches {
        let size = format!("{:.1} MiB over all instances", cache.bytes as f64 / 1048576.0);
        rows.push([cache.level.to_string(), size]);
    }
    let cold = 2 * info.last_level_cache_bytes();
    rows.extend([
        ["cold needs".into(), format!("{} MiB touched before reuse", cold >> 20)],
        ["memory for buffers".into(), format!("{} MiB", info.memory_bytes >> 20)],
        ["timer".into(), format!("{}, {:.0} ns", info.timer, 1e9 * info.timer_quantum_s)],
        ["empty launch".into(), format!("{:.1} us", 1e6 * info.launch_overhead_s)],
        ["CUDA compiler".into(), cuda_compiler()],
    ]);
    rows.extend(info.facts.iter().map(|(name, value)| [name.clone(), value.clone()]));
    Section {
        heading: "This machine".into(),
        columns: vec!["fact", "value"],
        rows: rows.into_iter().map(Vec::from).collect(),
        ..Section::default()
    }
}

/// Name and version of NVRTC, or why it was not found.
fn cuda_compiler() -> String {
    match Nvrtc::find(&SearchPath::of_this_machine(), None) {
        Ok(nvrtc) => nvrtc.to_string(),
        Err(why) => format!("none: {why}"),
    }
}

/// One small problem of every operation in every format.
const SAMPLES: [(&str, &str); 8] = [
    ("stream", "stream:access=read,bytes=1048576"),
    ("peak fma", "peak:unit=fma,lanes=256,steps=16,dtype="),
    ("peak tensor", "peak:unit=tensor,lanes=256,steps=16,dtype="),
    ("kv_read", "kv_read:batch=1,context=64,kv_heads=1,head_dim=128,layout=paged16,dtype="),
    (
        "kv_append",
        "kv_append:batch=1,context=64,new_tokens=1,kv_heads=1,head_dim=128,layout=paged16,\
         dtype=",
    ),
    ("gemm", "gemm:m=4,n=64,k=64,dtype="),
    (
        "prefill attention",
        "prefill_attention:batch=1,new_tokens=8,q_heads=4,kv_heads=1,head_dim=128,dtype=",
    ),
    (
        "decode attention",
        "decode_attention:batch=1,context=64,q_heads=4,kv_heads=1,head_dim=128,dtype=",
    ),
];

fn abilities(device: &dyn Device) -> Section {
    let mut rows = Vec::new();
    for (name, text) in SAMPLES {
        // Nothing is all in fp4_e2m1: its elements need scales.
        for dtype in DType::ALL.into_iter().filter(|dtype| *dtype != DType::Fp4E2m1) {
            let (spelled, label) = match text.ends_with('=') {
                true => (format!("{text}{dtype}"), dtype.to_string()),
                false => (text.to_owned(), "any".to_owned()),
            };
            let answer = match spelled.parse::<Problem>() {
                Ok(problem) => match device.kernel(&problem) {
                    Ok(kernel) => format!("yes, {kernel}"),
                    Err(refusal) => format!("no: {refusal}"),
                },
                Err(_) => continue,
            };
            rows.push(vec![name.to_owned(), label, answer]);
            if !text.ends_with('=') {
                break;
            }
        }
    }
    rows.push(vec![
        "counters".into(),
        "any".into(),
        "no: this version reads no hardware counters; bytes are the model's".into(),
    ]);
    Section {
        heading: "Can be measured".into(),
        columns: vec!["what", "dtype", "answer"],
        rows,
        ..Section::default()
    }
}
