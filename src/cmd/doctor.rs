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
use crate::quantity;
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
    let facts = facts(device.info(), &why);
    let machine = match args.format {
        OutputFormat::Table => facts_for_people(&facts),
        OutputFormat::Csv | OutputFormat::Json => facts_as_data(facts),
    };
    table::print(&[machine, abilities(&*device)], args.format)?;
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

/// Names and values of what is known of a machine; the unit of a number is at the end of its
/// name.
fn facts(info: &DeviceInfo, why: &str) -> Vec<(String, String)> {
    let mut facts = vec![
        ("device".to_owned(), info.name.clone()),
        ("backend".to_owned(), info.backend.clone()),
        ("chosen_because".to_owned(), why.to_owned()),
    ];
    for cache in &info.caches {
        facts.push((
            format!("{}_all_instances_bytes", cache.level),
            cache.bytes.to_string(),
        ));
    }
    let cold_bytes = 2 * info.last_level_cache_bytes();
    let rest = [
        ("touched_before_reuse_if_cold_bytes", cold_bytes.to_string()),
        ("memory_for_buffers_bytes", info.memory_bytes.to_string()),
        ("timer", info.timer.to_string()),
        ("timer_quantum_s", info.timer_quantum_s.to_string()),
        ("empty_launch_s", info.launch_overhead_s.to_string()),
        ("CUDA_compiler", cuda_compiler()),
    ];
    facts.extend(rest.map(|(name, value)| (name.to_owned(), value)));
    facts
        .extend(info.facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    facts
}

const MACHINE: &str = "This machine";

fn facts_for_people(facts: &[(String, String)]) -> Section {
    let row = |(name, value): &(String, String)| {
        let value = match value.parse() {
            // Sizes of memories are powers of two.
            Ok(value) if name.ends_with("_bytes") => quantity::bytes(value),
            _ => quantity::shown(name, value),
        };
        vec![quantity::heading(name), value]
    };
    Section {
        heading: MACHINE.into(),
        columns: vec!["fact", "value"],
        rows: facts.iter().map(row).collect(),
        ..Section::default()
    }
}

/// A column has numbers or words, so a fact is in one of two.
fn facts_as_data(facts: Vec<(String, String)>) -> Section {
    let row = |(name, value): (String, String)| match value.parse::<f64>() {
        Ok(number) if number.is_finite() => vec![name, value, String::new()],
        _ => vec![name, String::new(), value],
    };
    Section {
        heading: MACHINE.into(),
        columns: vec!["fact", "number", "word"],
        rows: facts.into_iter().map(row).collect(),
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
            let kernel = device.kernel(&problem).map(str::to_owned);
            rows.push(ability(
                &name,
                &dtype,
                kernel.map_err(|refusal| refusal.to_string()),
            ));
        }
    }
    rows
}

/// Whether something can be measured: by what, or why not.
fn ability(what: &str, dtype: &str, by: Result<String, String>) -> Vec<String> {
    let can = by.is_ok().to_string();
    let (by, reason) = by.map_or_else(|why| (String::new(), why), |by| (by, String::new()));
    vec![what.to_owned(), dtype.to_owned(), can, by, reason]
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
fn counters(info: &DeviceInfo) -> Result<String, String> {
    if !info.queues_launches() {
        return Err("they are read of NVIDIA GPUs alone".to_owned());
    }
    let tool = Tool::look(None).map_err(|why| why.to_string())?;
    Ok(format!("`ridgepoint counters` with {}", tool.version))
}

fn abilities(device: &dyn Device) -> Section {
    let mut rows: Vec<Vec<String>> =
        Op::ALL.into_iter().flat_map(|op| abilities_in(device, op)).collect();
    rows.push(ability("counters", "any", counters(device.info())));
    Section {
        heading: "Can be measured".into(),
        columns: vec!["what", "dtype", "can", "by", "reason"],
        rows,
        ..Section::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::simulated::SimulatedDevice;

    /// Of every operation something is said, in every format that it can be asked for.
    #[test]
    fn no_operation_is_left_out() {
        let device = SimulatedDevice::default();
        for op in Op::ALL {
            let rows = abilities_in(&device, op);
            assert!(!rows.is_empty(), "{op}");
            let examples = op.facts().examples.iter().map(|text| spelled(text));
            for example in examples {
                let asked = example.iter().find(|(key, _)| key == "dtype");
                let dtype = asked.map_or("any", |(_, dtype)| dtype.as_str());
                assert!(rows.iter().any(|row| row[1] == dtype), "{op} in {dtype}");
            }
        }
    }

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
