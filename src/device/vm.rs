//! A GPU that is none: the CUDA kernels' own PTX, executed and checked on the
//! virtual machine of the crate `ptxvm`. It shows whether kernels are right,
//! not how fast they are: its times are counted instructions.

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::Result;
pub use ptxvm::Counts;
use ptxvm::{Launch, Memory, Module};

use super::{
    Cache, Device, DeviceInfo, DeviceKind, LaunchError, Options, PrepareError, Prepared,
    Refusal, Timing,
};
use crate::data::Key;
use crate::format::Role;
use crate::kernel::{Bound, Configured, Content, EncodedTensorMap, Kernel, Plan};
use crate::op::Problem;
use crate::reference;
use crate::toolchain::{Arch, Compiler, CompilerOptions, Defines, Target};

/// Multiprocessors that plans are made for: enough that work is split over
/// blocks, few enough that small problems fill them.
const SMS: u32 = 4;

/// L2 cache that plans are made for, in bytes.
const L2_BYTES: u64 = 1 << 20;

/// Instructions of a thread in a second, for times that are no times.
const INSTRUCTIONS_PER_S: f64 = 1e9;

/// The virtual machine as a device.
pub struct VmDevice {
    info: DeviceInfo,
    target: Target,
    compiler: Compiler,
    modules: HashMap<(&'static str, Defines), Rc<Module>>,
    launching: ptxvm::Options,
}

impl VmDevice {
    /// A virtual GPU of an architecture.
    ///
    /// # Errors
    /// No compiler that could make PTX.
    pub fn open(arch: Arch, options: &Options) -> Result<Self> {
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
            caches: vec![Cache { name: "L2".to_owned(), bytes: L2_BYTES }],
            units: u64::from(SMS),
            memory_bytes: 1 << 30,
            timer: "counted instructions".to_owned(),
            timer_quantum_s: 1.0 / INSTRUCTIONS_PER_S,
            launch_overhead_s: 0.0,
            facts: vec![("compiler".to_owned(), compiler.describe())],
        };
        let launching = ptxvm::Options::default();
        Ok(VmDevice { info, target, compiler, modules: HashMap::new(), launching })
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
    /// A problem that no kernel runs, a kernel that does not compile or does
    /// wrong.
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
        Ok(Counted { counts, output, extra_bytes: ready.plan.extra_bytes })
    }

    fn lay_out(
        &mut self,
        problem: &Problem,
        kernel: &str,
        slots: usize,
        seed: u64,
    ) -> Result<Ready, PrepareError> {
        let configured = Kernel::asked_for(kernel, problem, self.target.arch)?;
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
        let module = self.module(&configured)?;
        let plan = configured.plan(&self.target);
        Ok(Ready::new(module, plan, self.launching, problem, slots, seed)?)
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
        self.compiler
            .ptx(&kernel.file(), defines, *arch)
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

    fn prepare<'a>(
        &'a mut self,
        problem: &Problem,
        kernel: &str,
        slots: usize,
        seed: u64,
    ) -> Result<Box<dyn Prepared + 'a>, PrepareError> {
        Ok(Box::new(self.lay_out(problem, kernel, slots, seed)?))
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

    /// Bytes of different sectors, read and written: DRAM's traffic with an
    /// endless cache.
    pub fn bytes(&self) -> u64 {
        self.counts.iter().map(Counts::compulsory_bytes).sum()
    }
}

/// A problem in the virtual machine's memory.
struct Ready {
    module: Rc<Module>,
    plan: Plan,
    launching: ptxvm::Options,
    memory: Memory,
    params: Vec<Vec<Vec<u8>>>,
    /// Address and bytes of every slot's output.
    outputs: Vec<(u64, u64)>,
    /// Whether launches write all of it.
    writes_all: bool,
    launched: u64,
}

impl Ready {
    fn new(
        module: Rc<Module>,
        plan: Plan,
        launching: ptxvm::Options,
        problem: &Problem,
        slots: usize,
        seed: u64,
    ) -> Result<Self, LaunchError> {
        let mut memory = Memory::new();
        let scratch: Vec<u64> =
            plan.scratch.iter().map(|s| scratch(&mut memory, s.name, &s.content)).collect();
        let mut params = Vec::new();
        let mut outputs = Vec::new();
        let writes_all = problem.tensors().iter().all(|t| t.role != Role::Update);
        for slot in 0..slots {
            let mut tensors = Vec::new();
            for (position, tensor) in problem.tensors().iter().enumerate() {
                let address = memory.alloc(tensor.bytes(), tensor.name);
                if tensor.role == Role::Input {
                    let mut bytes = vec![0; tensor.bytes() as usize];
                    Key::new(seed, slot, position).fill(tensor.format, &mut bytes);
                    memory.write(address, &bytes);
                } else {
                    outputs.push((address, tensor.bytes()));
                }
                tensors.push(address);
            }
            for (name, bytes) in reference::unneeded(problem, seed, slot) {
                let length = bytes.end - bytes.start;
                let of_name =
                    problem.tensors().iter().position(|tensor| tensor.name == name);
                let address =
                    of_name.map(|position| tensors[position]).ok_or_else(|| {
                        LaunchError(format!(
                            "{problem} has no tensor `{name}`; this is a bug"
                        ))
                    })?;
                memory.forget(address + bytes.start, length as usize);
            }
            let encode = |map: &ptxvm::TensorMap| {
                let encoded = map.encode().map(EncodedTensorMap);
                encoded.map_err(|why| LaunchError(why.to_string()))
            };
            let names = problem.tensors().into_iter().map(|tensor| tensor.name);
            let bound = Bound::new(seed, slot, names.zip(tensors));
            params.push(plan.params(bound, &scratch, encode)?);
        }
        Ok(Ready {
            module,
            plan,
            launching,
            memory,
            params,
            outputs,
            writes_all,
            launched: 0,
        })
    }

    /// Runs all launches of a slot and counts each.
    fn run(&mut self, slot: usize) -> Result<Vec<Counts>, LaunchError> {
        let mut counts = Vec::new();
        for (launch, params) in self.plan.launches.iter().zip(&self.params[slot]) {
            self.launched += 1;
            let asked = Launch {
                grid: launch.grid,
                block: launch.block,
                cluster: launch.cluster,
                shared_bytes: launch.shared_bytes,
                params: params.clone(),
                seed: self.launched,
                options: self.launching,
                ..Launch::new(launch.entry)
            };
            let report = self
                .module
                .launch(&mut self.memory, &asked)
                .map_err(|fault| LaunchError(fault.to_string()))?;
            if let Some(first) = report.findings.first() {
                return Err(LaunchError(format!(
                    "{first} ({} findings)",
                    report.findings.len()
                )));
            }
            counts.push(report.counts);
        }
        let (address, bytes) = self.outputs[slot];
        if self.writes_all && !self.memory.is_written(address, bytes as usize) {
            return Err(LaunchError("part of the output was never written".to_owned()));
        }
        Ok(counts)
    }
}

fn scratch(memory: &mut Memory, name: &str, content: &Content) -> u64 {
    match content {
        Content::Zeros(bytes) => {
            let address = memory.alloc(*bytes, name);
            memory.write(address, &vec![0; *bytes as usize]);
            address
        }
        Content::Unset(bytes) => memory.alloc(*bytes, name),
        Content::Bytes(bytes) => {
            let address = memory.alloc(bytes.len() as u64, name);
            memory.write(address, bytes);
            address
        }
    }
}

impl Prepared for Ready {
    fn extra_bytes(&self) -> Option<u64> {
        self.plan.extra_bytes
    }

    fn poison(&mut self) -> Result<(), LaunchError> {
        for &(address, bytes) in &self.outputs {
            self.memory.write(address, &vec![0xff; bytes as usize]);
            self.memory.forget(address, bytes as usize);
        }
        Ok(())
    }

    fn launch(
        &mut self,
        first_slot: usize,
        launches: usize,
    ) -> Result<Timing, LaunchError> {
        let slots = self.params.len();
        let mut instructions = 0;
        for launch in 0..launches {
            let counts = self.run((first_slot + launch) % slots)?;
            instructions += counts.iter().map(Counts::thread_instructions).sum::<u64>();
        }
        let seconds = instructions as f64 / INSTRUCTIONS_PER_S;
        Ok(Timing { seconds, sm_clock_hz: None })
    }

    fn output(&mut self, slot: usize) -> Result<Cow<'_, [u8]>, LaunchError> {
        let count = self.outputs.len();
        let &(address, bytes) = self.outputs.get(slot).ok_or_else(|| {
            LaunchError(format!("there is no slot {slot}, only {count} slots"))
        })?;
        Ok(Cow::Owned(self.memory.read(address, bytes as usize)))
    }
}
