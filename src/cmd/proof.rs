//! `ridgepoint tune --device vm`: every configuration of kernels compiled, and its answers
//! checked on the virtual machine.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::measure::CampaignOptions;
use super::options::OutputFormat;
use super::table;
use crate::device::{self, Device};
use crate::inventory::{Inventory, Wanted};
use crate::kernel::{Configuration, Kernel};
use crate::measure::verify;
use crate::op::Problem;
use crate::output::remark;
use crate::point::{CacheState, Point};
use crate::record::Status;
use crate::section::Section;
use crate::suite::Suite;
use crate::toolchain::{Arch, Binary, Compiler, CompilerOptions, Target};

/// Seed of the inputs.
const SEED: u64 = 1;

/// What was seen of a configuration.
#[derive(Default)]
struct Proof {
    right: usize,
    wrong: usize,
    failed: usize,
    /// Problems that it does not run, of those that its kernel runs.
    refused: usize,
    /// The first that is not right, and why.
    first: String,
    images: usize,
    registers: u32,
    spill_bytes: u32,
    shared_bytes: u32,
    blocks_per_sm: Option<u32>,
    in_flight_bytes: u64,
    faults: Vec<String>,
}

pub fn run(
    kernels: &[String],
    shapes: &Suite,
    options: &CampaignOptions,
    format: OutputFormat,
) -> Result<ExitCode> {
    let opened = device::open(&options.device.name, &options.device.options())?;
    let mut device = opened.device;
    let arch = arch_of(&*device)?;
    let chosen = chosen_kernels(kernels)?;
    let mut problems: Vec<Problem> = Vec::new();
    for point in shapes.plan(&*device)?.points {
        if !problems.contains(&point.problem) {
            problems.push(point.problem);
        }
    }
    let compiler = Compiler::new(CompilerOptions::default())?;
    compiler.nvrtc().map_err(Clone::clone)?;
    let limit = options.minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes));
    let began = Instant::now();
    let mut rows = Vec::new();
    let (mut bad, mut left) = (0, 0);
    for kernel in chosen {
        let of_op: Vec<&Problem> = problems
            .iter()
            .filter(|problem| kernel.configure(problem, arch).is_ok())
            .collect();
        for configuration in kernel.configurations() {
            if limit.is_some_and(|limit| began.elapsed() > limit) {
                left += 1;
                continue;
            }
            let mut proof = compiled((kernel, configuration), &of_op, arch, &compiler)?;
            check(&mut proof, (kernel, configuration), &of_op, &mut *device);
            bad += usize::from(proof.is_bad());
            remark!(
                "{}.{}: {} right, {} wrong or failed, {} not run",
                kernel.name,
                configuration.name,
                proof.right,
                proof.wrong + proof.failed,
                proof.refused
            );
            rows.push(row(kernel, configuration, &proof));
        }
    }
    let section = Section {
        heading: format!("Configurations on the virtual machine, {arch}"),
        paragraphs: vec![
            "Right, wrong and failed are the problems of the suite; not run are those that the \
             configuration refuses and the kernel's default runs. Registers, spills, shared \
             memory and blocks are those of the image that uses most."
                .to_owned(),
        ],
        columns: COLUMNS.to_vec(),
        rows,
        keys: 2,
        spare: &["images", "in_flight_bytes", "spill_bytes", "why", "failed", "parameters"],
    };
    table::print(&[section], format)?;
    if left > 0 {
        remark!(
            "time was up: {left} configurations were not looked at; give more --minutes"
        );
    }
    if bad > 0 {
        remark!("{bad} configurations are wrong");
    }
    Ok(if bad + left > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

const COLUMNS: [&str; 14] = [
    "kernel",
    "configuration",
    "parameters",
    "right",
    "wrong",
    "failed",
    "not_run",
    "images",
    "registers",
    "spill_bytes",
    "shared_bytes",
    "blocks_per_sm",
    "in_flight_bytes",
    "why",
];

/// The architecture of a virtual machine.
fn arch_of(device: &dyn Device) -> Result<Arch> {
    let backend = &device.info().backend;
    let name = backend.strip_prefix("vm:").unwrap_or_default();
    name.parse().map_err(|why: String| anyhow::anyhow!("{backend}: {why}"))
}

/// The kernels of these names, or all that have several configurations.
fn chosen_kernels(names: &[String]) -> Result<Vec<&'static Kernel>> {
    if names.is_empty() {
        let all = crate::kernel::KERNELS.iter();
        return Ok(all.filter(|kernel| kernel.configurations().count() > 1).collect());
    }
    let named = names.iter().map(|name| {
        Kernel::named(name).with_context(|| {
            let known: Vec<&str> = crate::kernel::KERNELS.iter().map(|k| k.name).collect();
            format!("there is no CUDA kernel `{name}`; there are {}", known.join(", "))
        })
    });
    let found = named.collect::<Result<Vec<_>>>()?;
    if let Some(kernel) = found.iter().find(|kernel| kernel.source.is_none()) {
        bail!("{} has no code of its own to configure", kernel.name);
    }
    Ok(found)
}

type Candidate = (&'static Kernel, &'static Configuration);

/// Compiles a configuration as all problems need it.
fn compiled(
    (kernel, configuration): Candidate,
    problems: &[&Problem],
    arch: Arch,
    compiler: &Compiler,
) -> Result<Proof> {
    let target = Target::new(arch, arch.usual_sms());
    let mut inventory = Inventory::default();
    let mut proof = Proof::default();
    for problem in problems {
        let Ok(configured) = kernel.configure_as(problem, arch, configuration) else {
            proof.refused += 1;
            continue;
        };
        let plan = configured.plan(&target);
        let in_flight = plan.launches.iter().map(|launch| launch.bytes_in_flight).max();
        proof.in_flight_bytes = proof.in_flight_bytes.max(in_flight.unwrap_or(0));
        inventory.add_kernel(&configured, problem, &target);
    }
    for (wanted, binary) in inventory.wanted.iter().zip(inventory.compile(compiler)) {
        let binary =
            binary.with_context(|| format!("{} with {}", kernel.name, wanted.defines))?;
        proof.take(wanted, &binary);
    }
    Ok(proof)
}

fn check(
    proof: &mut Proof,
    (kernel, configuration): Candidate,
    problems: &[&Problem],
    device: &mut dyn Device,
) {
    let name = format!("{}.{}", kernel.name, configuration.name);
    for problem in problems {
        let Ok(kernel) = name.parse() else { continue };
        let cache = CacheState::Hot;
        let point = Point { problem: **problem, kernel, cache, launch: None, load: None };
        let outcome = verify(device, &point, SEED);
        match outcome.status {
            Status::Ok | Status::Noisy => proof.right += 1,
            Status::Skipped => continue,
            Status::Wrong => proof.wrong += 1,
            _ => proof.failed += 1,
        }
        if !outcome.status.has_time() && proof.first.is_empty() {
            proof.first = format!("{problem}: {}", outcome.reason);
        }
    }
}

impl Proof {
    fn take(&mut self, wanted: &Wanted, binary: &Binary) {
        self.images += 1;
        self.faults.extend(wanted.faults(binary));
        for (entry, shape) in &wanted.launches {
            let Some(resources) = binary.resources.get(*entry) else { continue };
            let (blocks, _) = wanted.blocks_per_sm(entry, resources);
            self.registers = self.registers.max(resources.registers);
            let spilled = resources.spill_store_bytes + resources.spill_load_bytes;
            self.spill_bytes = self.spill_bytes.max(spilled);
            let shared = resources.shared_bytes + shape.dynamic_bytes;
            self.shared_bytes = self.shared_bytes.max(shared);
            let fewest = self.blocks_per_sm.map_or(blocks, |known| known.min(blocks));
            self.blocks_per_sm = Some(fewest);
        }
    }

    /// Whether it must not be measured.
    fn is_bad(&self) -> bool {
        self.wrong + self.failed > 0 || !self.faults.is_empty() || self.right == 0
    }

    fn why(&self) -> String {
        let none = (self.right == 0).then(|| "it runs no problem of the suite".to_owned());
        let first = Some(self.first.clone()).filter(|first| !first.is_empty());
        self.faults.first().cloned().or(first).or(none).unwrap_or_default()
    }
}

fn row(kernel: &Kernel, configuration: &Configuration, proof: &Proof) -> Vec<String> {
    vec![
        kernel.name.to_owned(),
        configuration.name.to_owned(),
        configuration.spell(),
        proof.right.to_string(),
        proof.wrong.to_string(),
        proof.failed.to_string(),
        proof.refused.to_string(),
        proof.images.to_string(),
        proof.registers.to_string(),
        proof.spill_bytes.to_string(),
        proof.shared_bytes.to_string(),
        proof.blocks_per_sm.map_or(String::new(), |blocks| blocks.to_string()),
        proof.in_flight_bytes.to_string(),
        proof.why(),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn kernels_are_found_by_name_or_by_having_a_choice() {
        let names = |asked: &[&str]| {
            let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
            chosen_kernels(&asked)
                .map(|found| found.iter().map(|k| k.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["gemm", "stream"]).unwrap(), ["gemm", "stream"]);
        assert!(names(&["gem"]).unwrap_err().to_string().contains("there are stream"));
        let why = names(&["decode_step"]).unwrap_err().to_string();
        assert!(why.contains("no code of its own"), "{why}");
        let all: BTreeMap<&str, usize> = chosen_kernels(&[])
            .unwrap()
            .iter()
            .map(|kernel| (kernel.name, kernel.configurations().count()))
            .collect();
        assert!(all.values().all(|count| *count > 1), "{all:?}");
    }

    #[test]
    fn what_is_wrong_unproved_or_spills_is_bad() {
        let right = || Proof { right: 3, ..Proof::default() };
        assert!(!right().is_bad() && right().why().is_empty());
        for (bad, says) in [
            (Proof { wrong: 1, first: "x: off by 2".into(), ..right() }, "off by 2"),
            (Proof { failed: 1, first: "x: faults".into(), ..right() }, "faults"),
            (Proof { faults: vec!["e spills".into()], ..right() }, "e spills"),
            (Proof::default(), "runs no problem"),
        ] {
            assert!(bad.is_bad() && bad.why().contains(says), "{}", bad.why());
        }
    }
}
