//! Every configuration of every kernel's search space: compiled without spills and warnings
//! for some corners, and right on the virtual machine. All corners:
//! `ridgepoint tune --device vm:sm_90a`.

mod common;

use rayon::prelude::*;
use ridgepoint::device::DeviceOptions;
use ridgepoint::device::vm::VmDevice;
use ridgepoint::inventory::Inventory;
use ridgepoint::kernel::{Configuration, KERNELS, Kernel};
use ridgepoint::measure::verify;
use ridgepoint::op::Problem;
use ridgepoint::point::{CacheState, Point};
use ridgepoint::record::Status;
use ridgepoint::suite::Suite;
use ridgepoint::toolchain::nvrtc::Nvrtc;
use ridgepoint::toolchain::{Arch, Compiler, CompilerOptions, Target};

/// Corners on which a configuration is executed.
const CORNERS: usize = 3;

/// Larger points are left to the whole proof.
const MOST_WORK: u64 = 20_000_000;

const SEED: u64 = 1;

type Candidate = (&'static Kernel, &'static Configuration);

/// All configurations but the defaults, which other tests execute.
fn candidates() -> Vec<Candidate> {
    let others = |kernel: &'static Kernel| {
        kernel.configurations().filter(|c| !c.is_default()).map(move |c| (kernel, c))
    };
    KERNELS.iter().flat_map(others).collect()
}

/// Some of the corners that a configuration runs, spread over all of them.
fn corners(
    (kernel, configuration): Candidate,
    problems: &[Problem],
    arch: Arch,
) -> Vec<Problem> {
    let is_small = |problem: &Problem| {
        let work = problem.work();
        work.flops().max(work.bytes()) < MOST_WORK
    };
    let of_op =
        problems.iter().filter(|problem| problem.op() == kernel.op && is_small(problem));
    let runs: Vec<&Problem> = of_op
        .filter(|problem| kernel.configure_as(problem, arch, configuration).is_ok())
        .collect();
    let step = (runs.len() / CORNERS).max(1);
    let spread = runs.iter().skip(step / 2).step_by(step).take(CORNERS);
    spread.map(|problem| **problem).collect()
}

/// What is wrong with a configuration.
fn faults(candidate: Candidate, problems: &[Problem], arch: Arch) -> Vec<String> {
    let (kernel, configuration) = candidate;
    let name = format!("{}.{}", kernel.name, configuration.name);
    let corners = corners(candidate, problems, arch);
    if corners.is_empty() {
        return vec![format!("{name} runs none of the corners")];
    }
    let target = Target::new(arch, arch.usual_sms());
    let mut inventory = Inventory::default();
    let mut found = Vec::new();
    let configured = kernel.configure_as(&corners[0], arch, configuration).unwrap();
    inventory.add_kernel(&configured, &corners[0], &target);
    // Before the device needs its PTX, which is kept beside the machine code.
    let compiler = Compiler::new(CompilerOptions::default()).unwrap();
    for (wanted, binary) in inventory.wanted.iter().zip(inventory.compile(&compiler)) {
        match binary {
            Ok(binary) => {
                let of_image = wanted.faults(&binary).into_iter();
                found.extend(of_image.map(|why| format!("{name}: {why}")));
            }
            Err(why) => found.push(format!("{name} with {}: {why}", wanted.defines)),
        }
    }
    let mut device = VmDevice::open(arch, &DeviceOptions::default()).unwrap();
    for problem in corners {
        let (kernel, cache) = (name.parse().unwrap(), CacheState::Hot);
        let point = Point { problem, kernel, cache, launch: None, load: None };
        let outcome = verify(&mut device, &point, SEED);
        if outcome.status != Status::Ok {
            found.push(format!("{point}: {}", outcome.reason));
        }
    }
    found
}

#[test]
fn every_configuration_compiles_cleanly_and_is_right() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let arch = Arch::SM_90;
    let device = VmDevice::open(arch, &DeviceOptions::default()).unwrap();
    let points = Suite::load("corners").unwrap().plan(&device).unwrap().points;
    let problems: Vec<Problem> = points.into_iter().map(|point| point.problem).collect();
    let candidates = candidates();
    let found: Vec<String> = candidates
        .par_iter()
        .flat_map_iter(|candidate| faults(*candidate, &problems, arch))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(candidates.len() > 5, "{} configurations", candidates.len());
}

/// What has code has a choice, but for kernels of which there is nothing to choose.
#[test]
fn kernels_say_their_search_spaces() {
    let alone: Vec<&str> = KERNELS
        .iter()
        .filter(|kernel| kernel.source.is_some() && kernel.configurations().count() == 1)
        .map(|kernel| kernel.name)
        .collect();
    assert!(alone.is_empty(), "{alone:?} have one configuration each");
}
