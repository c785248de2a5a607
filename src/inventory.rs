//! What suites need of the CUDA kernels: every configuration to compile, on any
//! machine, before there is a GPU; and what must be true of each one compiled.

use std::collections::BTreeMap;
use std::convert::Infallible;

use anyhow::Result;
use rayon::prelude::*;

use crate::kernel::{
    Bound, Configured, EncodedTensorMap, Kernel, ParamBytes, Plan, UTILITIES, split_name,
};
use crate::op::Problem;
use crate::point::Point;
use crate::suite::{PlanBasis, Suite};
use crate::toolchain::nvrtc::{Resources, Source};
use crate::toolchain::occupancy::blocks_per_sm;
use crate::toolchain::{Arch, Binary, CompileError, Compiler, Defines, Target};

/// A source in one configuration for one architecture.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The source.
    pub source: Source<'static>,
    /// The configuration.
    pub defines: Defines,
    /// The architecture.
    pub arch: Arch,
    /// How its entries are launched; empty for a source that is not a kernel of the
    /// table.
    pub launches: BTreeMap<&'static str, LaunchNeeds>,
    /// Points of the suites that need it.
    pub points: usize,
}

/// What launches of an entry have in common, and the most that any takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaunchNeeds {
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub dynamic_bytes: u32,
    /// Bytes of the parameter that the plan makes.
    pub param_bytes: usize,
}

/// Problems that no kernel runs, for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// On which architectures.
    pub archs: Vec<Arch>,
    /// Why.
    pub reason: String,
    /// How many; on the first of the architectures, since sizes in suites depend
    /// on the GPU.
    pub points: usize,
    /// The first of them.
    pub example: String,
}

/// Everything that suites need.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// What to compile, in order of architectures and of kernels.
    pub wanted: Vec<Wanted>,
    /// What cannot be run.
    pub refused: Vec<Refused>,
}

/// A GPU to plan for on a machine without one: the largest of its architecture.
/// Sizes in suites depend on its cache, configurations rarely.
struct Nominal {
    target: Target,
    cache_bytes: u64,
}

impl Nominal {
    fn of(arch: Arch) -> Self {
        // A100, L40S, H100 SXM, B200, RTX PRO 6000; NVIDIA's white papers of
        // the architectures.
        let (sms, cache_mib) = match (arch.major, arch.minor) {
            (8, 0) => (108, 40),
            (8, _) => (142, 96),
            (9, _) => (132, 50),
            (10 | 11, _) => (148, 126),
            _ => (188, 128),
        };
        Nominal { target: Target::new(arch, sms), cache_bytes: cache_mib << 20 }
    }

    fn ground<'a>(
        &self,
        kernel: &'a dyn Fn(&Problem) -> Option<&'static str>,
    ) -> PlanBasis<'a> {
        let units = u64::from(self.target.sms);
        PlanBasis { cache_bytes: self.cache_bytes, units, kernel, vendor: &|_| None }
    }
}

impl Inventory {
    /// What suites need on architectures: every kernel that supports a
    /// point, in the configuration that the point needs, and what a device
    /// compiles beside kernels.
    ///
    /// # Errors
    /// A suite that does not plan.
    pub fn of(suites: &[Suite], archs: &[Arch]) -> Result<Self> {
        Inventory::with(suites, archs, &|problem, arch| {
            Kernel::all_for(problem, arch).collect()
        })
    }

    /// The same with every configuration of these kernels' search spaces: what `tune` needs.
    ///
    /// # Errors
    /// A suite that does not plan.
    pub fn of_search_spaces(suites: &[Suite], archs: &[Arch]) -> Result<Self> {
        Inventory::with(suites, archs, &|problem, arch| {
            let of_kernel = |kernel: &'static Kernel| {
                let all = kernel.configurations();
                all.filter_map(move |choice| {
                    kernel.configure_as(problem, arch, choice).ok()
                })
            };
            Kernel::all_for(problem, arch)
                .flat_map(|found| of_kernel(found.kernel))
                .collect()
        })
    }

    fn with(
        suites: &[Suite],
        archs: &[Arch],
        kernels: &dyn Fn(&Problem, Arch) -> Vec<Configured>,
    ) -> Result<Self> {
        let mut inventory = Inventory::default();
        for &arch in archs {
            let nominal = Nominal::of(arch);
            let kernel = |problem: &Problem| {
                Kernel::for_problem(problem, arch).ok().map(|found| found.kernel.name)
            };
            let ground = nominal.ground(&kernel);
            for source in UTILITIES {
                inventory.wanted.push(Wanted {
                    source: *source,
                    defines: Defines::new(),
                    arch,
                    launches: BTreeMap::new(),
                    points: 0,
                });
            }
            for suite in suites {
                for point in suite.plan_for(&ground)?.points {
                    let runs = kernels(&point.problem, arch);
                    inventory.add(&point.problem, &nominal.target, &runs);
                    inventory.add_asked(&point, &nominal.target);
                }
            }
        }
        inventory.wanted.sort_by_key(|wanted| (wanted.arch, wanted.source.name));
        Ok(inventory)
    }

    /// Adds every kernel that runs a problem, or the reason why there is none.
    fn add(&mut self, problem: &Problem, target: &Target, runs: &[Configured]) {
        let arch = target.arch;
        for configured in runs {
            self.add_kernel(configured, problem, target);
        }
        if !runs.is_empty() {
            return;
        }
        if let Err(refusal) = Kernel::for_problem(problem, arch) {
            self.refuse(problem, arch, refusal.to_string());
        }
    }

    /// Counts a point that nothing runs.
    fn refuse(&mut self, problem: &Problem, arch: Arch, reason: String) {
        let Some(refused) = self.refused.iter_mut().find(|r| r.reason == reason) else {
            let example = problem.to_string();
            self.refused.push(Refused { archs: vec![arch], reason, points: 1, example });
            return;
        };
        if !refused.archs.contains(&arch) {
            refused.archs.push(arch);
        }
        refused.points += usize::from(refused.archs[0] == arch);
    }

    /// Adds the configuration that a point asks for, where that is not the default.
    fn add_asked(&mut self, point: &Point, target: &Target) {
        if split_name(&point.kernel).1.is_none() {
            return;
        }
        match Kernel::asked_for(&point.kernel, &point.problem, target.arch) {
            Ok(configured) => self.add_kernel(&configured, &point.problem, target),
            Err(refusal) => self.refuse(&point.problem, target.arch, refusal.to_string()),
        }
    }

    /// Adds a kernel as it is configured for a problem.
    pub fn add_kernel(
        &mut self,
        configured: &Configured,
        problem: &Problem,
        target: &Target,
    ) {
        // What only copies is not compiled.
        let images = configured.images().iter();
        let places: Vec<Option<usize>> =
            images.map(|image| Some(self.image(image, image.kernel.file()?))).collect();
        for &at in places.iter().flatten() {
            self.wanted[at].points += 1;
        }
        let plan = configured.plan(target);
        for (planned, params) in plan.all_launches().zip(stand_in_params(problem, &plan)) {
            let launch = planned.launch;
            let Some(at) = places[planned.image] else { continue };
            let shape = self.wanted[at].launches.entry(launch.entry).or_default();
            shape.threads = shape.threads.max(launch.block.iter().product());
            shape.dynamic_bytes = shape.dynamic_bytes.max(launch.shared_bytes);
            shape.param_bytes = params.bytes.len();
        }
    }

    /// The place of a source in one configuration.
    fn image(&mut self, image: &Configured, source: Source<'static>) -> usize {
        let same = |wanted: &Wanted| {
            wanted.source.name == image.kernel.name
                && wanted.arch == image.arch
                && wanted.defines == image.defines
        };
        self.wanted.iter().position(same).unwrap_or_else(|| {
            self.wanted.push(Wanted {
                source,
                defines: image.defines.clone(),
                arch: image.arch,
                launches: BTreeMap::new(),
                points: 0,
            });
            self.wanted.len() - 1
        })
    }

    /// Compiles everything, on all cores.
    pub fn compile(&self, compiler: &Compiler) -> Vec<Result<Binary, CompileError>> {
        let compile = |wanted: &Wanted| {
            compiler.compile(&wanted.source, &wanted.defines, wanted.arch)
        };
        self.wanted.par_iter().map(compile).collect()
    }
}

/// The parameters of a plan's launches for addresses that stand in for a GPU's.
fn stand_in_params(problem: &Problem, plan: &Plan) -> Vec<ParamBytes> {
    let tensors = problem.tensors();
    let bound = Bound::new(1, 0, tensors.iter().map(|tensor| tensor.name).zip(addresses()));
    let scratch: Vec<u64> =
        addresses().skip(tensors.len()).take(plan.all_scratch().count()).collect();
    let encode = |map: &ptxvm::TensorMap| {
        let mut bytes = [0; 128];
        bytes[..8].copy_from_slice(&map.address.to_le_bytes());
        Ok::<_, Infallible>(EncodedTensorMap(bytes))
    };
    let Ok(params) = plan.params(bound, &scratch, encode);
    params
}

/// Addresses without end, all different.
fn addresses() -> impl Iterator<Item = u64> {
    (1..).map(|n| n << 40)
}

impl Wanted {
    /// Blocks of an entry that an SM holds at once, and the threads of each.
    pub fn blocks_per_sm(&self, entry: &str, resources: &Resources) -> (u32, u32) {
        let shape = self.launches.get(entry).copied().unwrap_or_default();
        let threads = match shape.threads {
            0 => resources.max_threads.unwrap_or(0),
            threads => threads,
        };
        let target = Target::new(self.arch, 1);
        (blocks_per_sm(resources, threads, shape.dynamic_bytes, &target), threads)
    }

    /// What is wrong with it as compiled: warnings, spills and local memory,
    /// launches that do not fit what was compiled.
    pub fn faults(&self, binary: &Binary) -> Vec<String> {
        let mut faults = binary.warnings.clone();
        for (entry, resources) in &binary.resources {
            let spilled = resources.spill_store_bytes + resources.spill_load_bytes;
            if spilled > 0 {
                faults.push(format!(
                    "{entry} spills: stores {} and loads {} bytes",
                    resources.spill_store_bytes, resources.spill_load_bytes
                ));
            }
            if resources.stack_bytes > 0 {
                faults.push(format!(
                    "{entry} has {} bytes of local memory",
                    resources.stack_bytes
                ));
            }
            let (blocks, threads) = self.blocks_per_sm(entry, resources);
            let launched = self.launches.contains_key(entry.as_str());
            match resources.min_blocks {
                Some(asked) if launched && blocks < asked => faults.push(format!(
                    "{entry} asks for {asked} blocks on an SM, and {blocks} fit"
                )),
                _ => {}
            }
            if launched && resources.max_threads.is_some_and(|most| threads > most) {
                faults.push(format!(
                    "{entry} is launched with {threads} threads and compiled for fewer"
                ));
            }
        }
        for (entry, shape) in &self.launches {
            match binary.resources.get(*entry) {
                None => faults.push(format!("it has no entry {entry}")),
                Some(resources) if resources.param_bytes as usize != shape.param_bytes => {
                    faults.push(format!(
                        "{entry} takes {} bytes of parameters, and the plan makes {}",
                        resources.param_bytes, shape.param_bytes
                    ));
                }
                Some(_) => {}
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use super::*;
    use crate::kernel::{KERNELS, Launch, Params, Scratch};

    fn suite(points: &str) -> Suite {
        Suite::parse("s.toml", &format!("name = \"x\"\n{points}")).unwrap()
    }

    const STREAMS: &str = "[[points]]\nop = \"stream\"\naccess = [\"read\", \"copy\"]\n\
                           bytes = [\"0.125 llc\", \"0.25 llc\"]\n";

    /// The stream kernel on an H100, as if it had been compiled well.
    fn stream() -> (Wanted, Binary) {
        let inventory = Inventory::of(&[suite(STREAMS)], &[Arch::SM_90]).unwrap();
        let wanted =
            inventory.wanted.into_iter().find(|w| w.source.name == "stream").unwrap();
        let resources = Resources {
            registers: 46,
            param_bytes: 64,
            max_threads: Some(512),
            min_blocks: Some(2),
            ..Resources::default()
        };
        let entry = |name: &str| (name.to_owned(), resources.clone());
        let binary = Binary {
            image: vec![1],
            hash: String::new(),
            resources: [entry("stream_read"), entry("stream_copy")].into(),
            warnings: Vec::new(),
            compiler: String::new(),
        };
        (wanted, binary)
    }

    #[test]
    fn a_configuration_is_wanted_once() {
        let (wanted, _) = stream();
        assert_eq!(wanted.points, 4);
        let shape = LaunchNeeds { threads: 512, dynamic_bytes: 0, param_bytes: 64 };
        let expected = [("stream_copy", shape), ("stream_read", shape)];
        assert_eq!(wanted.launches, expected.into());
        let archs = [Arch::SM_80, Arch::SM_120];
        let inventory = Inventory::of(&[suite(STREAMS), suite(STREAMS)], &archs).unwrap();
        let streams = inventory.wanted.iter().filter(|w| w.source.name == "stream");
        let found: Vec<_> = streams.map(|w| (w.arch, w.points)).collect();
        assert_eq!(found, [(Arch::SM_80, 8), (Arch::SM_120, 8)]);
    }

    /// Addresses of tensors and scratch buffers are nowhere else in parameters, so each of
    /// them is passed on if and only if its bytes are found: a name that a host half
    /// spells wrong leaves one out, or panics.
    #[test]
    fn every_tensor_and_scratch_buffer_reaches_its_kernel() {
        let suites: Vec<Suite> = Suite::built_in_names()
            .into_iter()
            .map(|name| Suite::load(name).unwrap())
            .collect();
        let mut bound = BTreeSet::new();
        for arch in [Arch::SM_80, Arch::SM_90, Arch::SM_120] {
            let nominal = Nominal::of(arch);
            for problem in problems(&suites, &nominal) {
                for configured in Kernel::all_for(&problem, arch) {
                    bound.insert(configured.kernel.name);
                    check_binding(&configured, &problem, &nominal.target);
                }
            }
        }
        assert_eq!(bound.len(), KERNELS.len(), "only {bound:?}");
    }

    /// The different problems of suites.
    fn problems(suites: &[Suite], nominal: &Nominal) -> HashSet<Problem> {
        let arch = nominal.target.arch;
        let kernel = |problem: &Problem| {
            Kernel::for_problem(problem, arch).ok().map(|found| found.kernel.name)
        };
        let ground = nominal.ground(&kernel);
        let plans = suites.iter().map(|suite| suite.plan_for(&ground).unwrap());
        plans.flat_map(|plan| plan.points).map(|point| point.problem).collect()
    }

    fn check_binding(configured: &Configured, problem: &Problem, target: &Target) {
        let (kernel, plan) = (configured.kernel, configured.plan(target));
        let tensors = problem.tensors();
        let names = || tensors.iter().map(|tensor| tensor.name);
        let scratch = || plan.scratch.iter().map(|scratch| scratch.name);
        let maps = || plan.tensor_maps.iter().map(|map| map.name);
        for names in [names().collect(), scratch().collect(), maps().collect::<Vec<_>>()] {
            let different: BTreeSet<&str> = names.iter().copied().collect();
            assert_eq!(different.len(), names.len(), "{} for {problem}", kernel.name);
        }
        let missing = unbound(problem, &plan);
        assert!(missing.is_empty(), "{} gets no {missing:?} for {problem}", kernel.name);
    }

    /// Names of the tensors and scratch buffers that are not copied and whose addresses are
    /// in no parameter.
    fn unbound(problem: &Problem, plan: &Plan) -> Vec<&'static str> {
        let params = stand_in_params(problem, plan);
        let params: Vec<u8> = params.into_iter().flat_map(|params| params.bytes).collect();
        let words: HashSet<u64> = params
            .chunks_exact(8)
            .map(|w| u64::from_le_bytes(w.try_into().unwrap()))
            .collect();
        let tensors = problem.tensors().into_iter().map(|tensor| tensor.name);
        let names = tensors.chain(plan.scratch.iter().map(|scratch| scratch.name));
        let is_copied =
            |name| plan.copies.iter().any(|copy| copy.from == name || copy.to == name);
        let missing = names
            .zip(addresses())
            .filter(|(name, at)| !words.contains(at) && !is_copied(*name));
        missing.map(|(name, _)| name).collect()
    }

    #[test]
    fn a_name_that_a_host_half_spells_wrong_is_found() {
        let problem: Problem = "stream:access=copy,bytes=256".parse().unwrap();
        let params = Params::of(|bound| {
            [bound.tensor("target"), bound.tensor_or_null("sauce"), bound.scratch("a")]
        });
        let plan = Plan {
            scratch: vec![Scratch::zeros("a", 4), Scratch::zeros("b", 4)],
            ..Plan::of(Launch::new("k", 1, 32, params))
        };
        assert_eq!(unbound(&problem, &plan), ["source", "b"]);
    }

    #[test]
    fn what_no_kernel_runs_is_counted_with_its_reason() {
        let odd = "[[points]]\nop = \"gemm\"\nm = [1, 2]\nn = 3\nk = 5\ndtype = \"f32\"\n";
        let archs = vec![Arch::SM_80, Arch::SM_90];
        let refused = Inventory::of(&[suite(odd)], &archs).unwrap().refused;
        assert_eq!(refused.len(), 1);
        assert_eq!((&refused[0].archs, refused[0].points), (&archs, 2));
    }

    #[test]
    fn every_fault_is_found() {
        let (wanted, good) = stream();
        assert_eq!(wanted.faults(&good), [""; 0]);
        type Break = fn(&mut Resources);
        let cases: [(Break, &str); 6] = [
            (|r| r.spill_store_bytes = 4, "spills"),
            (|r| r.spill_load_bytes = 4, "spills"),
            (|r| r.stack_bytes = 8, "local memory"),
            (|r| r.registers = 128, "2 blocks on an SM, and 1 fit"),
            (|r| r.param_bytes = 72, "takes 72 bytes of parameters, and the plan makes 64"),
            (|r| r.max_threads = Some(256), "launched with 512 threads"),
        ];
        for (break_it, expected) in cases {
            let mut bad = good.clone();
            break_it(bad.resources.get_mut("stream_read").unwrap());
            let faults = wanted.faults(&bad);
            assert_eq!(faults.len(), 1, "{expected}: {faults:?}");
            assert!(faults[0].contains(expected), "{expected}: {faults:?}");
        }
        let mut bad = good.clone();
        bad.warnings.push("ptxas info    : (C7511) Potential Performance Loss".into());
        assert_eq!(wanted.faults(&bad).len(), 1);
        let mut bad = good;
        bad.resources.remove("stream_copy");
        assert_eq!(wanted.faults(&bad), ["it has no entry stream_copy"]);
    }
}
