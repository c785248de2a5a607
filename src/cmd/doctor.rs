//! `ridgepoint doctor`: what can be measured on this machine, and why the rest cannot.
//! With `--selftest`, whether the virtual machine and the GPU do what the PTX ISA says.

use std::io::IsTerminal;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};

use super::options::{DeviceArgs, OutputFormat};
use super::table;
use crate::counters::Tool;
use crate::device::{self, Device, DeviceInfo, Opened};
use crate::format::DType;
use crate::op::{Op, Problem};
use crate::output::{remark, write_remark};
use crate::section::Section;
use crate::selftest::{self, Workers};
use crate::toolchain::nvrtc::Nvrtc;
use crate::toolchain::search::{NVRTC, SearchPath};

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
    /// This process is a worker of the self-test: it runs programs from this number on and
    /// tells its parent what became of them.
    #[arg(long, hide = true, requires = "selftest")]
    worker_from: Option<usize>,
    /// Seconds after which a program of the self-test counts as hung.
    #[arg(long, hide = true, requires = "selftest", default_value_t = 120.0)]
    patience_s: f64,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let Opened { device, why } = device::open(&args.device.name, &args.device.options())?;
    if let Some(first) = args.worker_from {
        let programs = ptxvm::conformance::programs();
        selftest::serve(&*device, &programs, first, std::io::stdout())?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.selftest {
        return selftest(device, args);
    }
    let sections = [machine(device.info(), &why), abilities(&*device)];
    table::print(&sections, args.format)?;
    Ok(ExitCode::SUCCESS)
}

fn selftest(device: Box<dyn Device>, args: &DoctorArgs) -> Result<ExitCode> {
    let (info, runs_programs) = (device.info(), device.runs_programs());
    let (backend, name) =
        (info.backend.clone(), format!("{} ({})", info.name, info.backend));
    // A GPU may be one process's at a time.
    drop(device);
    let program = std::env::current_exe().context("the program's own path is not known")?;
    let command = |first: usize| worker_command(&program, &backend, args, first);
    let patience = Duration::try_from_secs_f64(args.patience_s)
        .context("--patience-s takes a number of seconds")?;
    let workers = Workers { command: &command, patience };
    let programs = ptxvm::conformance::programs();
    let count = programs.len();
    let workers = runs_programs.then_some(&workers);
    let done = selftest::run(name, programs, workers, |number, program| {
        // Printed before the program runs: one that hangs is the last that is named.
        let line = format!("selftest {}/{count} {}", number + 1, program.name);
        match std::io::stderr().is_terminal() {
            // Overwrites the line before it.
            true => write_remark(&format!("\r{line:<79}")),
            false => remark!("{line}"),
        }
    });
    if std::io::stderr().is_terminal() {
        write_remark("\n");
    }
    table::print(&done.sections(), args.format)?;
    remark!("{}", done.summary());
    Ok(if done.is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Starts a process that runs programs on the same device.
fn worker_command(
    program: &Path,
    backend: &str,
    args: &DoctorArgs,
    first: usize,
) -> Command {
    let mut command = Command::new(program);
    command.args(["doctor", "--selftest", "--device", backend]);
    command.args(["--worker-from", &first.to_string()]);
    if let Some(kernels) = args.device.options().kernels {
        command.arg("--kernels").arg(kernels);
    }
    command
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

/// Whether a device runs an operation: the operation's examples, in every format.
fn abilities_in(device: &dyn Device, op: Op) -> Vec<Vec<String>> {
    let examples: Vec<_> = op.facts().examples.iter().map(|text| spelled(text)).collect();
    let mut rows = Vec::new();
    for example in &examples {
        let name = name_among(op, example, &examples);
        for (dtype, asked) in in_every_format(example) {
            // Not every format can be asked for.
            let Ok(problem) = Problem::from_fields(op, &asked) else { continue };
            let answer = match device.kernel(&problem) {
                Ok(kernel) => format!("yes, {kernel}"),
                Err(refusal) => format!("no: {refusal}"),
            };
            rows.push(vec![name.clone(), dtype, answer]);
        }
    }
    rows
}

type Spelled = Vec<(String, String)>;

/// The name of an example: what tells it from the others belongs to it, as in `peak tensor`.
fn name_among(op: Op, example: &Spelled, all: &[Spelled]) -> String {
    let own = |pair: &&(String, String)| {
        pair.0 != "dtype" && !all.iter().all(|other| other.contains(pair))
    };
    let name = op.facts().judged.prose.to_owned();
    example.iter().filter(own).fold(name, |name, (_, value)| format!("{name} {value}"))
}

/// The keys and values that an example spells; others have defaults that follow from them.
fn spelled(example: &str) -> Spelled {
    let (_, fields) = example.split_once(':').unwrap_or_default();
    let fields = fields.split(',').filter_map(|field| field.split_once('='));
    fields.map(|(key, value)| (key.trim().to_owned(), value.to_owned())).collect()
}

/// An example in every format, or as it is, for any format, where it has none.
fn in_every_format(example: &Spelled) -> Vec<(String, Spelled)> {
    let Some(at) = example.iter().position(|(key, _)| key == "dtype") else {
        return vec![("any".to_owned(), example.clone())];
    };
    let in_format = |dtype: DType| {
        let mut asked = example.clone();
        asked[at].1 = dtype.to_string();
        (dtype.to_string(), asked)
    };
    DType::ALL.map(in_format).to_vec()
}

/// Name and version of NVRTC, or why it was not found.
fn cuda_compiler() -> String {
    match Nvrtc::find(&SearchPath::of_this_machine(&NVRTC), None) {
        Ok(nvrtc) => nvrtc.to_string(),
        Err(why) => format!("none: {why}"),
    }
}

/// The profiler that reads the hardware's counters, or why there is none. Whether it may is
/// seen when it does.
fn counters(info: &DeviceInfo) -> String {
    if !info.queues_launches() {
        return "no: they are read of NVIDIA GPUs alone".to_owned();
    }
    match Tool::look(None) {
        Ok(tool) => format!("yes, by `ridgepoint counters` with {}", tool.version),
        Err(why) => format!("no: {why}"),
    }
}

fn abilities(device: &dyn Device) -> Section {
    let mut rows: Vec<Vec<String>> =
        Op::ALL.into_iter().flat_map(|op| abilities_in(device, op)).collect();
    rows.push(vec!["counters".into(), "any".into(), counters(device.info())]);
    Section {
        heading: "Can be measured".into(),
        columns: vec!["what", "dtype", "answer"],
        rows,
        ..Section::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_has_a_name_of_its_own() {
        for op in Op::ALL {
            let all: Vec<_> =
                op.facts().examples.iter().map(|text| spelled(text)).collect();
            let mut names: Vec<_> =
                all.iter().map(|example| name_among(op, example, &all)).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all.len(), "{names:?}");
        }
    }
}
