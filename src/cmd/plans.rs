//! `ridgepoint kernels plan`: how memory-bound kernels are launched for every point of
//! suites, which resources of an SM they use, and how fast they should be.

use std::collections::HashMap;
use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::options::{FilterArgs, OutputFormat};
use super::table;
use crate::inventory::{Inventory, Wanted};
use crate::kernel::{Kernel, Plan};
use crate::model::launch::{Expected, FIXED_S, LATENCY_S, REACHABLE, Traffic, expect};
use crate::model::machine::{Machine, Machines};
use crate::op::Problem;
use crate::point::Point;
use crate::quantity::{share, si};
use crate::section::Section;
use crate::suite::{PlanBasis, Suite};
use crate::toolchain::nvrtc::Resources;
use crate::toolchain::{Arch, Compiler, CompilerOptions, Target};

/// Show how memory-bound kernels are launched for every point of suites: their resources,
/// bytes in flight, and the time that follows from these. Needs no GPU.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Built-in suites or .toml files.
    #[arg(default_value = "paper")]
    suites: Vec<OsString>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Architecture to compile for: the machine's, and no other.
    #[arg(long)]
    arch: Option<Arch>,
    /// Machine of the table of data sheets, for its architecture, multiprocessors, cache and
    /// bandwidth.
    #[arg(long, default_value = "h100-sxm")]
    machine: String,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let machines = Machines::load(None)?;
    let machine = machines.named(&args.machine)?;
    let target = target(machine, args.arch)?;
    let suites = args
        .suites
        .iter()
        .map(|name| args.filter.load(name))
        .collect::<Result<Vec<_>>>()?;
    let resources = compile(&suites, target.arch)?;
    let mut rows = Vec::new();
    for suite in &suites {
        for point in points(suite, &target, machine)? {
            rows.extend(row(&point, &target, machine, &resources));
        }
    }
    if rows.is_empty() {
        let names: Vec<&str> = suites.iter().map(|suite| suite.name.as_str()).collect();
        bail!(
            "no memory-bound kernel runs a point of {} on {}",
            names.join(", "),
            target.arch
        );
    }
    let section = Section {
        heading: heading(machine, &target),
        paragraphs: vec![format!(
            "Expected, not measured: {} for each launch, and its bytes at {} of {} or at what is \
             in flight over {}, whichever is slower, times the busiest block's share. The share \
             of a stream compares with an endless read. Extra bytes are empty where they are as \
             many as the cache does not keep.",
            si(FIXED_S, "s"),
            share(REACHABLE),
            si(machine.bytes_per_s, "B/s"),
            si(LATENCY_S, "s")
        )],
        columns: COLUMNS.to_vec(),
        rows,
        keys: 2,
        spare: &[
            "registers",
            "shared_bytes",
            "blocks_per_sm",
            "extra_bytes",
            "busiest_over_mean",
            "sm_in_flight_bytes",
            "blocks",
        ],
    };
    table::print(&[section], args.format)?;
    Ok(ExitCode::SUCCESS)
}

/// What launches are planned for: the machine, and the architecture that was asked for if
/// it is its own.
fn target(machine: &Machine, asked: Option<Arch>) -> Result<Target> {
    let target = machine.target().map_err(anyhow::Error::msg)?;
    match asked.filter(|arch| *arch != target.arch) {
        Some(other) => {
            bail!("{} is {}, not {other}; leave --arch out", machine.name, target.arch)
        }
        None => Ok(target),
    }
}

fn heading(machine: &Machine, target: &Target) -> String {
    format!("Launches on {} ({}, {} SMs)", machine.name, target.arch, target.sms)
}

const COLUMNS: [&str; 13] = [
    "problem",
    "kernel",
    "registers",
    "shared_bytes",
    "blocks_per_sm",
    "blocks",
    "sm_in_flight_bytes",
    "bytes",
    "extra_bytes",
    "busiest_over_mean",
    "expected_s",
    "stream_share",
    "limit",
];

/// The distinct points of a suite whose kernels are memory bound.
fn points(suite: &Suite, target: &Target, machine: &Machine) -> Result<Vec<Point>> {
    let kernel = |problem: &Problem| {
        Kernel::for_problem(problem, target.arch).ok().map(|found| found.kernel.name)
    };
    let basis = PlanBasis {
        // Where it is not published, as much as an H100 has.
        cache_bytes: machine.l2_bytes.map_or(50 << 20, |bytes| bytes as u64),
        units: u64::from(target.sms),
        kernel: &kernel,
        vendor: &|_| None,
    };
    let mut points = suite.plan_for(&basis)?.points;
    points.retain(|point| {
        Kernel::asked_for(&point.kernel, &point.problem, target.arch)
            .is_ok_and(|found| found.kernel.memory_bound)
    });
    Ok(points)
}

/// Entries of compiled kernels by kernel and macros.
type Compiled = HashMap<(&'static str, String), (Wanted, HashMap<String, Resources>)>;

fn compile(suites: &[Suite], arch: Arch) -> Result<Compiled> {
    let compiler = Compiler::new(CompilerOptions::default())?;
    compiler.nvrtc().map_err(Clone::clone)?;
    let mut inventory = Inventory::of(suites, &[arch])?;
    inventory.wanted.retain(|wanted| {
        Kernel::named(wanted.source.name).is_some_and(|kernel| kernel.memory_bound)
    });
    let results = inventory.compile(&compiler);
    let mut compiled = HashMap::new();
    for (wanted, result) in inventory.wanted.into_iter().zip(results) {
        let binary = result
            .with_context(|| format!("{} with {}", wanted.source.name, wanted.defines))?;
        let key = (wanted.source.name, wanted.defines.to_string());
        compiled.insert(key, (wanted, binary.resources.into_iter().collect()));
    }
    Ok(compiled)
}

/// The row of a point, if a kernel runs it.
fn row(
    point: &Point,
    target: &Target,
    machine: &Machine,
    compiled: &Compiled,
) -> Option<Vec<String>> {
    let configured = Kernel::asked_for(&point.kernel, &point.problem, target.arch).ok()?;
    let kernel = configured.kernel;
    let (wanted, entries) = compiled.get(&(kernel.name, configured.defines.to_string()))?;
    let plan = configured.plan(target);
    let launch = plan.launches.first()?;
    let resources = entries.get(launch.entry)?;
    let (blocks_per_sm, _) = wanted.blocks_per_sm(launch.entry, resources);
    let blocks: u32 = launch.grid.iter().product();
    let work = point.problem.work();
    let expected = expectation(&plan, blocks_per_sm, target, work.bytes(), machine);
    // One wave leaves room on an SM.
    let resident = blocks_per_sm.min(blocks.div_ceil(target.sms));
    let in_flight = launch.bytes_in_flight * u64::from(resident);
    Some(vec![
        point.problem.label(),
        kernel.name.to_owned(),
        resources.registers.to_string(),
        (resources.shared_bytes + launch.shared_bytes).to_string(),
        blocks_per_sm.to_string(),
        blocks.to_string(),
        in_flight.to_string(),
        work.bytes().to_string(),
        plan.extra_bytes.map(|bytes| bytes.to_string()).unwrap_or_default(),
        plan.imbalance.to_string(),
        expected.time_s.to_string(),
        expected.of_read_stream.to_string(),
        expected.limit.name().to_owned(),
    ])
}

/// What a plan lets expect where so many of its blocks share an SM.
fn expectation(
    plan: &Plan,
    blocks_per_sm: u32,
    target: &Target,
    compulsory_bytes: u64,
    machine: &Machine,
) -> Expected {
    let in_flight_bytes = plan.launches.iter().map(|launch| {
        let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
        let resident = u64::from(target.sms * blocks_per_sm);
        launch.bytes_in_flight * blocks.min(resident)
    });
    let traffic = Traffic {
        compulsory_bytes,
        extra_bytes: plan.extra_bytes.unwrap_or(0),
        in_flight_bytes: in_flight_bytes.min().unwrap_or(0),
        imbalance: plan.imbalance,
    };
    expect(&traffic, machine.bytes_per_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_what_is_planned_for() {
        let machines = Machines::load(None).unwrap();
        let of = |name: &str, arch: Option<Arch>| {
            let machine = machines.named(name).unwrap();
            target(machine, arch).map(|target| heading(machine, &target))
        };
        let a100 = of("a100-sxm-80gb", None).unwrap();
        assert_eq!(a100, "Launches on a100-sxm-80gb (sm_80, 108 SMs)");
        assert_eq!(of("b200", None).unwrap(), "Launches on b200 (sm_100a, 148 SMs)");
        assert!(of("h200", Some(Arch::SM_90)).is_ok());
        let other = of("h200", Some(Arch::SM_80)).unwrap_err().to_string();
        assert_eq!(other, "h200 is sm_90a, not sm_80; leave --arch out");
        assert!(of("mi300x", Some(Arch::SM_90)).is_err());
    }
}
