//! A virtual GPU: the PTX of the CUDA kernels is executed and checked by the
//! virtual machine of the crate `ptxvm`. It shows whether kernels are right,
//! not how fast they are: its times are counted instructions.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use anyhow::Result;
use half::{bf16, f16};
pub use ptxvm::Counts;
use ptxvm::{Launch, Memory, Module};

use super::contract::near_cache_fact;
use super::executor::{Executor, Gpu, MemoryPart, ParamMismatch, PlacedCopy, PlacedTensor};
use super::{
    Device, DeviceInfo, DeviceKind, DeviceOptions, LaunchError, Layout, PrepareError,
    Prepared, Refusal, SearchSpace, Timing,
};
use crate::data::{Key, e4m3_from_f32, e4m3_to_f32};
use crate::format::{DType, MemoryPlace, Role, Tensor, TensorFormat};
use crate::kernel::{
    Candidate, Configured, EncodedTensorMap, Kernel, Launch as LaunchOfPlan, ParamBytes,
    Plan, PlannedLaunch,
};
use crate::op::Problem;
use crate::reference::{self, Check};
use crate::residency::{CacheLevel, CacheSize};
use crate::resource::LinkDirection;
use crate::toolchain::{Arch, Compiler, CompilerOptions, Defines, Target};
use crate::tuning::{Chosen, Tuning};

/// Multiprocessors that plans are made for: enough that work is split over
/// blocks, few enough that small problems fill them.
const SMS: u32 = 4;

/// L2 cache that plans are made for, in bytes.
const L2_BYTES: u64 = 1 << 20;

/// Thread instructions per second, by which counted instructions become times.
const INSTRUCTIONS_PER_S: f64 = 1e9;

/// Bytes that a copy between host and device moves in the place of an instruction.
const COPY_BYTES_PER_INSTRUCTION: u64 = 4;

/// The virtual machine as a device.
pub struct VmDevice {
    info: DeviceInfo,
    target: Target,
    compiler: Compiler,
    modules: HashMap<(&'static str, Defines), Rc<Module>>,
    tuning: Tuning,
    launching: ptxvm::Options,
}

impl VmDevice {
    /// A virtual GPU of an architecture.
    ///
    /// # Errors
    /// No compiler that could make PTX.
    pub fn open(arch: Arch, options: &DeviceOptions) -> Result<Self> {
        let compiler = Compiler::new(CompilerOptions {
            kernels: options.kernels.clone(),
            ..CompilerOptions::default()
        })?;
        compiler.nvrtc().map_err(Clone::clone)?;
        let target = Target::new(arch, SMS);
        let info = DeviceInfo {
            kind: DeviceKind::Simulated,
            backend: format!("vm:{arch}"),
            name: format!("PTX virtual machine {arch}"),
            slug: format!("vm-{arch}").replace('_', "-"),
            caches: vec![CacheSize { level: CacheLevel::L2, bytes: L2_BYTES }],
            units: u64::from(SMS),
            memory_bytes: 1 << 30,
            timer: "counted instructions".to_owned(),
            timer_quantum_s: 1.0 / INSTRUCTIONS_PER_S,
            launch_overhead_s: 0.0,
            facts: vec![
                ("compiler".to_owned(), compiler.describe()),
                near_cache_fact(arch, SMS),
            ],
        };
        let launching = ptxvm::Options::default();
        let (modules, tuning) = (HashMap::new(), Tuning::default());
        Ok(VmDevice { info, target, compiler, modules, tuning, launching })
    }

    /// Launches with other options from now on.
    pub fn set_launching(&mut self, launching: ptxvm::Options) {
        self.launching = launching;
    }

    /// The PTX that a kernel runs a problem with.
    ///
    /// # Errors
    /// A problem that the kernel does not run, a kernel that does not compile.
    pub fn ptx(&self, problem: &Problem, kernel: &str) -> Result<String, PrepareError> {
        let arch = self.target.arch;
        Ok(self.compile(&Kernel::asked_for(kernel, problem, arch)?)?)
    }

    /// Runs a problem, and all that the kernel is compiled alike for, with this
    /// PTX instead of the kernel's own: how tests plant bugs.
    ///
    /// # Errors
    /// A problem that the kernel does not run, PTX that the virtual machine does
    /// not take.
    pub fn replace_ptx(
        &mut self,
        problem: &Problem,
        kernel: &str,
        ptx: &str,
    ) -> Result<(), PrepareError> {
        let arch = self.target.arch;
        let configured = Kernel::asked_for(kernel, problem, arch)?;
        self.load(&configured, ptx)?;
        Ok(())
    }

    /// Runs a problem once, cold, and counts what its launches do, checked like
    /// any other run.
    ///
    /// # Errors
    /// A problem that no kernel runs, a kernel that does not compile or makes a
    /// mistake.
    pub fn count(
        &mut self,
        problem: &Problem,
        kernel: &str,
        seed: u64,
    ) -> Result<Counted, PrepareError> {
        let mut ready = self.lay_out(problem, kernel, 1, seed)?;
        // What is to stay as it was is held against this.
        ready.poison()?;
        let counts = ready.run(0)?;
        let output = ready.output(0)?.into_owned();
        Ok(Counted { counts, output, extra_bytes: ready.extra_bytes() })
    }

    /// Counts what the launches of a problem do on a larger GPU than this one, on some of
    /// their blocks: nothing is compared with the reference.
    ///
    /// # Errors
    /// A problem that the kernel does not run, a kernel that makes a mistake.
    pub fn count_on(
        &mut self,
        problem: &Problem,
        kernel: &str,
        gpu: CountedGpu,
    ) -> Result<SampledCount, PrepareError> {
        const SEED: u64 = 1;
        let configured = Kernel::asked_for(kernel, problem, self.target.arch)?;
        let plan = configured.plan(&Target::new(self.target.arch, gpu.sms));
        let extra_bytes = plan.extra_bytes;
        let blocks = |launch: &LaunchOfPlan| -> u64 {
            launch.grid.iter().map(|&axis| u64::from(axis)).product()
        };
        let all: u64 = plan.all_launches().map(|planned| blocks(planned.launch)).sum();
        let chosen = move |blocks| evenly(blocks, gpu.one_of);
        let run: u64 = plan
            .all_launches()
            .flat_map(|planned| chosen(blocks(planned.launch)))
            .map(|range| range.end - range.start)
            .sum();
        refuse_some_of_turns(&plan, all - run)?;
        let share = run as f64 / all.max(1) as f64;
        let before = self.launching;
        // What the blocks that are left out would hold of the cache is left out too.
        let l2_bytes = gpu.l2_bytes.map(|bytes| (bytes as f64 * share) as u64);
        let waves = f64::from(gpu.sms) * share;
        self.launching = ptxvm::Options {
            l2_bytes,
            l2_partitions: gpu.l2_partitions,
            resident: waves.ceil() as usize,
            ..before
        };
        let point =
            self.place(&configured, problem, plan, (1, SEED), Some(Box::new(chosen)));
        self.launching = before;
        Ok(SampledCount { counts: point?.executor.run(0)?, share, extra_bytes })
    }

    /// The outputs of several runs of a problem, each under another schedule of warps and
    /// blocks. `query_factor`, a power of two, is what the queries of attention are
    /// multiplied with, see [`reference::check_magnified`]; 1 for other operations.
    ///
    /// # Errors
    /// A problem that no kernel runs, a kernel that does not compile or makes a
    /// mistake.
    pub fn outputs(
        &mut self,
        problem: &Problem,
        kernel: &str,
        (seed, runs): (u64, usize),
        query_factor: f32,
    ) -> Result<Vec<Vec<u8>>, PrepareError> {
        let mut point = self.lay_out(problem, kernel, 1, seed)?;
        if query_factor != 1.0 {
            point.magnify_queries(query_factor)?;
        }
        let run = |_| {
            point.poison()?;
            point.run(0)?;
            Ok(point.output(0)?.into_owned())
        };
        (0..runs).map(run).collect()
    }

    /// Runs some blocks of a problem of any size, of which only what they touch is made,
    /// and compares the end of the output that they wrote, see [`reference::check_end`].
    /// The plan is for `sms` multiprocessors: many, so that blocks that divide all work
    /// among them have little each.
    ///
    /// # Errors
    /// A problem that the kernel does not run, a kernel that makes a mistake.
    pub fn run_end(
        &mut self,
        problem: &Problem,
        kernel: &str,
        sms: u32,
        only: impl Fn(u64) -> Vec<Range<u64>> + 'static,
    ) -> Result<EndOfOutput, PrepareError> {
        const SEED: u64 = 1;
        let configured = Kernel::asked_for(kernel, problem, self.target.arch)?;
        let plan = configured.plan(&Target::new(self.target.arch, sms));
        refuse_some_of_turns(&plan, 1)?;
        let mut point =
            self.place(&configured, problem, plan, (1, SEED), Some(Box::new(only)))?;
        let counts = point.executor.run(0)?;
        let inputs = point.executor.tensors(0).to_vec();
        let memory = &point.executor.gpu().memory;
        let read_to_the_end = inputs
            .iter()
            .filter(|placed| placed.tensor.role == Role::Input)
            .filter(|placed| {
                memory.is_touched(placed.address + placed.tensor.bytes() - 1, 1)
            })
            .map(|placed| placed.tensor.name)
            .collect();
        let end = point.end_of_output(problem)?;
        let check = end.map(|end| reference::check_end(problem, SEED, 0, &end)).transpose();
        let check = check.map_err(|why| LaunchError(why.to_string()))?;
        Ok(EndOfOutput { counts, read_to_the_end, check })
    }

    fn lay_out(
        &mut self,
        problem: &Problem,
        kernel: &str,
        slots: usize,
        seed: u64,
    ) -> Result<VmPoint, PrepareError> {
        let (configured, chosen) =
            self.tuning.configure(kernel, problem, self.target.arch)?;
        let bytes: u64 = problem.tensors().iter().map(|t| t.bytes()).sum();
        let needed = bytes.saturating_mul(slots as u64);
        if needed > self.info.memory_bytes {
            return Err(Refusal(format!(
                "{problem} in {slots} slots needs {needed} bytes, and the virtual machine takes \
                 {}; make it smaller",
                self.info.memory_bytes
            ))
            .into());
        }
        let plan = configured.plan(&self.target);
        let placed = self.place(&configured, problem, plan, (slots, seed), None)?;
        Ok(VmPoint { chosen: Some(chosen), ..placed })
    }

    fn place(
        &mut self,
        configured: &Configured,
        problem: &Problem,
        plan: Plan,
        (slots, seed): (usize, u64),
        only: Option<ChooseBlocks>,
    ) -> Result<VmPoint, PrepareError> {
        let images =
            configured.images().iter().filter(|image| image.kernel.source.is_some());
        let modules = images.map(|image| self.module(image)).collect::<Result<_, _>>()?;
        let gpu = VirtualGpu {
            kernel: configured.kernel.name,
            modules,
            memory: Memory::new(),
            launching: self.launching,
            only,
            launched: 0,
            copied_bytes: 0,
        };
        let mut executor = Executor::new(gpu, problem, plan, slots, seed)?;
        forget_unneeded(&mut executor, problem, seed);
        Ok(VmPoint { executor, chosen: None })
    }

    fn module(&mut self, configured: &Configured) -> Result<Rc<Module>, LaunchError> {
        let key = (configured.kernel.name, configured.defines.clone());
        if let Some(module) = self.modules.get(&key) {
            return Ok(Rc::clone(module));
        }
        let ptx = self.compile(configured)?;
        self.load(configured, &ptx)
    }

    fn compile(&self, configured: &Configured) -> Result<String, LaunchError> {
        let Configured { kernel, defines, arch, .. } = configured;
        let Some(source) = kernel.file() else {
            return Err(LaunchError(format!(
                "kernel {} has no PTX: it is copies and no code",
                kernel.name
            )));
        };
        self.compiler
            .ptx(&source, defines, *arch)
            .map_err(|why| LaunchError(format!("kernel {}: {why}", kernel.name)))
    }

    fn load(
        &mut self,
        configured: &Configured,
        ptx: &str,
    ) -> Result<Rc<Module>, LaunchError> {
        let name = configured.kernel.name;
        let module = Module::parse(ptx)
            .map_err(|why| LaunchError(format!("kernel {name}: {why}")))?;
        let module = Rc::new(module);
        self.modules.insert((name, configured.defines.clone()), Rc::clone(&module));
        Ok(module)
    }
}

impl Device for VmDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn kernel(&self, problem: &Problem) -> Result<&'static str, Refusal> {
        Kernel::for_problem(problem, self.target.arch).map(|found| found.kernel.name)
    }

    fn candidates(&self, problem: &Problem) -> Vec<Candidate> {
        Kernel::candidates(problem, &self.target)
    }

    fn search_space(&self, kernel: &str) -> Option<SearchSpace> {
        Kernel::named(kernel).map(Kernel::search_space)
    }

    fn use_tuning(&mut self, tuning: Tuning) {
        self.tuning = tuning;
    }

    fn prepare<'a>(
        &'a mut self,
        problem: &Problem,
        kernel: &str,
        layout: Layout,
    ) -> Result<Box<dyn Prepared + 'a>, PrepareError> {
        layout.refuse_launch_mode("the virtual machine")?;
        Ok(Box::new(self.lay_out(problem, kernel, layout.slots, layout.seed)?))
    }
}

/// What a problem's launches did.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Their counts together. Different sectors are counted once for each launch.
    pub counts: Vec<Counts>,
    /// Bytes of the output.
    pub output: Vec<u8>,
    /// Traffic that the kernel says it adds.
    pub extra_bytes: Option<u64>,
}

impl Counted {
    /// FLOPs of all units but special functions.
    pub fn flops(&self) -> u64 {
        self.counts.iter().map(Counts::total_flops).sum()
    }

    /// FLOPs of the tensor units.
    pub fn tensor_flops(&self) -> u64 {
        let tensor = |c: &Counts| -> u64 {
            ptxvm::Unit::ALL.iter().filter(|u| u.is_tensor()).map(|u| c.flops_of(*u)).sum()
        };
        self.counts.iter().map(tensor).sum()
    }

    /// Bytes of different sectors, read and written: DRAM's traffic with a
    /// cache that holds everything.
    pub fn bytes(&self) -> u64 {
        self.counts.iter().map(Counts::compulsory_bytes).sum()
    }
}

/// What some blocks of a problem did at the end of its output.
#[derive(Clone, Debug)]
pub struct EndOfOutput {
    /// Counts of the launches.
    pub counts: Vec<Counts>,
    /// Inputs whose last bytes were read.
    pub read_to_the_end: Vec<&'static str>,
    /// What the comparison found; `None` where the blocks did not write the end.
    pub check: Option<Check>,
}

/// The blocks of a grid to run, from the number that it has.
type ChooseBlocks = Box<dyn Fn(u64) -> Vec<Range<u64>>>;

/// A GPU to count for.
#[derive(Clone, Copy, Debug)]
pub struct CountedGpu {
    /// Multiprocessors that plans are made for.
    pub sms: u32,
    /// The cache in front of DRAM.
    pub l2_bytes: Option<u64>,
    /// Its equal partitions, each beside some of the multiprocessors.
    pub l2_partitions: usize,
    /// One of so many blocks is executed, in a few runs of neighbours.
    pub one_of: u64,
}

/// What some blocks of a problem did.
#[derive(Clone, Debug)]
pub struct SampledCount {
    /// Counts of the launches.
    pub counts: Vec<Counts>,
    /// The share of the blocks that were executed.
    pub share: f64,
    /// Traffic that the kernel says it adds, all of it.
    pub extra_bytes: Option<u64>,
}

/// Refuses to leave blocks out where others do what they would: that takes as long as all.
fn refuse_some_of_turns(plan: &Plan, left_out: u64) -> Result<(), Refusal> {
    let takes_turns = |planned: &PlannedLaunch<'_>| planned.launch.takes_turns;
    match plan.all_launches().find(takes_turns) {
        Some(PlannedLaunch { launch, .. }) if left_out > 0 => Err(Refusal(format!(
            "blocks of {0} take tiles by a ticket here, so that some of them do the work of \
             all; use `{0}.static`, or all blocks",
            launch.entry
        ))),
        _ => Ok(()),
    }
}

/// One of `one_of` of so many blocks, in up to four runs of at least eight neighbours, which
/// may share what they read.
fn evenly(blocks: u64, one_of: u64) -> Vec<Range<u64>> {
    if one_of <= 1 {
        return std::iter::once(0..blocks).collect();
    }
    let chosen = (blocks / one_of).max(1);
    let runs = (chosen / 8).clamp(1, 4);
    let length = chosen / runs;
    // Even beginnings, so that pairs stay together.
    (0..runs).map(|run| run * blocks / runs / 2 * 2).map(|at| at..at + length).collect()
}

/// A module of the virtual machine, and the memory that it is launched on.
struct VirtualGpu {
    kernel: &'static str,
    /// By the number of the image; none for a kernel that is copies only.
    modules: Vec<Rc<Module>>,
    /// Of the device, and the ranges of the host's memory that it copies to and from.
    memory: Memory,
    launching: ptxvm::Options,
    only: Option<ChooseBlocks>,
    /// Launches so far: each has a schedule of its own.
    launched: u64,
    /// Bytes that were copied between host and device so far.
    copied_bytes: u64,
}

/// A function of a module.
struct VirtualEntry {
    module: Rc<Module>,
    /// Bytes of the parameters that it declares.
    param_bytes: usize,
}

impl Gpu for VirtualGpu {
    type Error = LaunchError;
    type Entry = VirtualEntry;
    type Report = Counts;

    fn allocate(
        &mut self,
        _: MemoryPlace,
        parts: &[MemoryPart],
    ) -> Result<Vec<u64>, LaunchError> {
        Ok(parts.iter().map(|part| self.memory.alloc(part.bytes, part.name)).collect())
    }

    fn is_out_of_memory(_: &LaunchError) -> bool {
        false
    }

    fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<(), LaunchError> {
        self.memory.write(address, bytes);
        Ok(())
    }

    fn download(&mut self, address: u64, to: &mut [u8]) -> Result<(), LaunchError> {
        to.copy_from_slice(&self.memory.read(address, to.len()));
        Ok(())
    }

    /// Where a kernel first reads it.
    fn fill(&mut self, tensor: &Tensor, address: u64, key: Key) -> Result<(), LaunchError> {
        let (format, bytes) = (tensor.format, tensor.bytes());
        if format == TensorFormat::PageTable {
            let mut table = vec![0; bytes as usize];
            key.fill(format, &mut table);
            return self.upload(address, &table);
        }
        self.memory.fill_with(address, bytes, move |first, to| {
            key.fill_from(format, first, to);
        });
        Ok(())
    }

    fn set(&mut self, address: u64, bytes: u64, value: u8) -> Result<(), LaunchError> {
        self.memory.fill(address, bytes, value);
        Ok(())
    }

    fn poison(&mut self, address: u64, bytes: u64) -> Result<(), LaunchError> {
        self.set(address, bytes, 0xff)?;
        self.memory.forget(address, bytes);
        Ok(())
    }

    fn settle(&mut self, address: u64) {
        self.memory.settle(address);
    }

    fn copy(&mut self, copies: &[PlacedCopy]) -> Result<(), LaunchError> {
        for copy in copies {
            let (from, to) = match copy.direction {
                LinkDirection::In => (copy.host, copy.device),
                LinkDirection::Out => (copy.device, copy.host),
            };
            if !self.memory.is_written(from, copy.bytes) {
                return Err(LaunchError(format!(
                    "kernel {} copies memory that was never written",
                    self.kernel
                )));
            }
            let copied = self.memory.read(from, copy.bytes as usize);
            self.memory.write(to, &copied);
            self.copied_bytes += copy.bytes;
        }
        Ok(())
    }

    fn encode(&mut self, map: &ptxvm::TensorMap) -> Result<EncodedTensorMap, LaunchError> {
        let encoded = map.encode().map(EncodedTensorMap);
        encoded.map_err(|why| LaunchError(why.to_string()))
    }

    fn entry(&mut self, planned: PlannedLaunch<'_>) -> Result<VirtualEntry, LaunchError> {
        let entry = planned.launch.entry;
        let module = self.modules.get(planned.image);
        let found = module.and_then(|module| Some((module, module.kernel(entry)?)));
        let (module, kernel) = found.ok_or_else(|| {
            LaunchError(format!("kernel {} has no entry {entry} in its PTX", self.kernel))
        })?;
        Ok(VirtualEntry { module: Rc::clone(module), param_bytes: kernel.param_bytes })
    }

    fn launch(
        &mut self,
        entry: &VirtualEntry,
        launch: &LaunchOfPlan,
        params: &ParamBytes,
    ) -> Result<Counts, LaunchError> {
        let passed = std::slice::from_ref(params);
        ParamMismatch::check(self.kernel, launch.entry, &[entry.param_bytes], passed)
            .map_err(|mismatch| LaunchError(mismatch.to_string()))?;
        self.launched += 1;
        let asked = Launch {
            grid: launch.grid,
            block: launch.block,
            cluster: launch.cluster,
            shared_bytes: launch.shared_bytes,
            overlaps_previous: launch.overlaps_previous,
            dynamic_shared_limit: Some(launch.shared_bytes),
            params: params.bytes.clone(),
            seed: self.launched,
            only: self.only.as_ref().map(|only| {
                only(launch.grid.iter().map(|&axis| u64::from(axis)).product())
            }),
            options: self.launching,
            ..Launch::new(launch.entry)
        };
        let report = entry
            .module
            .launch(&mut self.memory, &asked)
            .map_err(|fault| LaunchError(fault.to_string()))?;
        match report.findings.first() {
            None => Ok(report.counts),
            Some(first) => {
                let count = report.findings.len();
                Err(LaunchError(format!("{first} ({count} findings)")))
            }
        }
    }
}

/// Forgets bytes of inputs that no answer depends on, so that a kernel which lets them
/// into its answer is found.
fn forget_unneeded(executor: &mut Executor<VirtualGpu>, problem: &Problem, seed: u64) {
    for slot in 0..executor.slots() {
        for (name, bytes) in reference::unneeded(problem, seed, slot) {
            let address = executor.address(slot, name) + bytes.start;
            executor.gpu().memory.forget(address, bytes.end - bytes.start);
        }
    }
}

/// A problem in the virtual machine's memory.
struct VmPoint {
    executor: Executor<VirtualGpu>,
    chosen: Option<Chosen>,
}

impl VmPoint {
    /// Runs the copies and launches of a slot and counts each launch.
    fn run(&mut self, slot: usize) -> Result<Vec<Counts>, LaunchError> {
        let counts = self.executor.run(slot)?;
        let outputs: Vec<_> = self.executor.output_tensors(slot).collect();
        for output in outputs {
            let bytes = output.tensor.bytes();
            let writes_all = output.tensor.role != Role::Update;
            if writes_all && !self.executor.gpu().memory.is_written(output.address, bytes) {
                return Err(LaunchError("part of the output was never written".to_owned()));
            }
        }
        Ok(counts)
    }
}

impl VmPoint {
    /// Multiplies the queries, in bf16 or f16, with a power of two.
    fn magnify_queries(&mut self, factor: f32) -> Result<(), LaunchError> {
        let queries =
            self.executor.tensors(0).iter().find(|p| p.tensor.name == "q").copied();
        let Some(PlacedTensor { tensor, address }) = queries else {
            return Err(LaunchError("there are no queries to magnify".to_owned()));
        };
        let memory = &mut self.executor.gpu().memory;
        let mut bytes = memory.read(address, tensor.bytes() as usize);
        let mut halves = |magnified: fn(u16, f32) -> u16| {
            for half in bytes.as_chunks_mut::<2>().0 {
                *half = magnified(u16::from_le_bytes(*half), factor).to_le_bytes();
            }
        };
        match tensor.format {
            TensorFormat::Values(DType::F16) => {
                halves(|bits, by| {
                    f16::from_f32(f16::from_bits(bits).to_f32() * by).to_bits()
                });
            }
            TensorFormat::Values(DType::Bf16) => {
                halves(|bits, by| {
                    bf16::from_f32(bf16::from_bits(bits).to_f32() * by).to_bits()
                });
            }
            TensorFormat::Values(DType::Fp8E4m3) => {
                let magnified = |code| e4m3_from_f32(e4m3_to_f32(code) * factor);
                bytes.iter_mut().for_each(|code| *code = magnified(*code));
            }
            _ => {
                let why = "queries in none of f16, bf16 and fp8_e4m3 cannot be magnified";
                return Err(LaunchError(why.to_owned()));
            }
        }
        memory.write(address, &bytes);
        Ok(())
    }
}

/// Most of the end of an output that is looked at: several tiles of rows.
const MOST_OF_END: u64 = 4 << 20;

impl VmPoint {
    /// The end of the output, as far back as it was written; of an update, whose rows lie
    /// anywhere, as much as there may be.
    fn end_of_output(&mut self, problem: &Problem) -> Result<Option<Vec<u8>>, LaunchError> {
        let output = problem.output();
        let last = self.executor.output_tensors(0).last();
        let PlacedTensor { tensor, address } =
            last.ok_or_else(|| LaunchError(format!("{problem} has no output")))?;
        let memory = &self.executor.gpu().memory;
        // Whole elements, and whole pairs of words.
        let unit = output.format.bytes().max(8).min(tensor.bytes());
        let most = tensor.bytes().min(MOST_OF_END) / unit * unit;
        let end = address + tensor.bytes();
        let mut bytes = most;
        if output.role != Role::Update {
            let written = (1..=most / unit)
                .take_while(|units| memory.is_written(end - units * unit, unit));
            bytes = written.count() as u64 * unit;
        }
        Ok((bytes > 0).then(|| memory.read(end - bytes, bytes as usize)))
    }
}

impl Prepared for VmPoint {
    fn chosen(&self) -> Option<Chosen> {
        self.chosen.clone()
    }

    fn extra_bytes(&self) -> Option<u64> {
        self.executor.plan().extra_bytes
    }

    fn poison(&mut self) -> Result<(), LaunchError> {
        self.executor.poison()
    }

    fn launch(
        &mut self,
        first_slot: usize,
        launches: usize,
    ) -> Result<Timing, LaunchError> {
        let slots = self.executor.slots();
        let mut instructions = 0;
        let copied_before = self.executor.gpu().copied_bytes;
        for launch in 0..launches {
            let counts = self.run((first_slot + launch) % slots)?;
            instructions += counts.iter().map(Counts::thread_instructions).sum::<u64>();
        }
        let copied_bytes = self.executor.gpu().copied_bytes - copied_before;
        instructions += copied_bytes.div_ceil(COPY_BYTES_PER_INSTRUCTION);
        let seconds = instructions as f64 / INSTRUCTIONS_PER_S;
        Ok(Timing { seconds, sm_clock_hz: None })
    }

    fn output(&mut self, slot: usize) -> Result<Cow<'_, [u8]>, LaunchError> {
        Ok(Cow::Owned(self.executor.output(slot)?))
    }
}

#[cfg(test)]
mod tests {
    use super::evenly;

    #[test]
    fn samples_are_runs_within_the_grid() {
        for blocks in [1, 2, 7, 132, 2048, 100_003] {
            for one_of in [1, 2, 3, 16, 33, 1000] {
                let runs = evenly(blocks, one_of);
                let chosen: u64 = runs.iter().map(|run| run.end - run.start).sum();
                assert!(chosen > 0 && chosen <= (blocks / one_of).max(1), "{runs:?}");
                assert!(chosen * 2 >= blocks / one_of, "{blocks}, {one_of}: {runs:?}");
                assert!(runs.iter().all(|run| run.end <= blocks), "{runs:?}");
                let apart = runs.windows(2).all(|pair| pair[0].end <= pair[1].start);
                assert!(apart, "{blocks}, {one_of}: {runs:?}");
            }
        }
        assert_eq!(evenly(132, 33), std::iter::once(0..4).collect::<Vec<_>>());
        assert_eq!(evenly(64, 1), std::iter::once(0..64).collect::<Vec<_>>());
    }
}
