//! The CPU as a device: its kernels, and buffers laid out for them.

use std::borrow::Cow;
use std::path::Path;
use std::time::Instant;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::arena::{self, Arena};
use super::contract::{Configured, CpuKernel, InputBytes, Kernel, RunSettings};
use super::{
    argmax, decode_attention, decode_step, embedding, gated_activation, gemm, host,
    kv_append, kv_read, peak, prefill_attention, rmsnorm, rope_append, stream, threads,
    transfer,
};
use crate::data::Key;
use crate::device::{
    AskedTelemetry, Device, DeviceInfo, FixedCosts, LaunchError, Layout, PrepareError,
    Prepared, Refusal, SearchSpace, Timing,
};
use crate::format::Role;
use crate::kernel::{Candidate, Configuration, split_name};
use crate::op::Problem;
use crate::tuning::{Chosen, ChosenBy, Tuning};

/// This machine's CPU, with all cores of the rayon pool.
pub struct CpuDevice {
    pub(super) info: DeviceInfo,
    pub(super) arena: Arena,
    tuning: Tuning,
    /// For configurations with fewer threads than the machine has.
    fewer: Option<ThreadPool>,
}

impl CpuDevice {
    /// Looks at the machine and measures the clock and an empty launch.
    pub fn new() -> Self {
        let info = host::device_info();
        let arena = Arena::new(info.memory_bytes as usize);
        CpuDevice::with(info, arena)
    }

    /// A device that lays points out in this memory.
    pub(super) fn with(info: DeviceInfo, arena: Arena) -> Self {
        CpuDevice { info, arena, tuning: Tuning::default(), fewer: None }
    }
}

impl Default for CpuDevice {
    fn default() -> Self {
        CpuDevice::new()
    }
}

impl Device for CpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn probe(&self) -> Result<FixedCosts, LaunchError> {
        Ok(FixedCosts {
            launch_s: Some(host::launch_overhead_s()),
            timer_quantum_s: Some(host::timer_quantum_s()),
        })
    }

    fn ask_telemetry(&self) -> AskedTelemetry {
        AskedTelemetry::Known(host::telemetry(Path::new("/sys")))
    }

    fn begin_round(&mut self) {
        self.arena.give_back();
    }

    fn kernel(&self, problem: &Problem) -> Result<&'static str, Refusal> {
        let kernel = CpuKernel::of(problem)?;
        (kernel.configure)(problem, Configuration::DEFAULT).map(|_| kernel.name)
    }

    fn candidates(&self, problem: &Problem) -> Vec<Candidate> {
        let Ok(kernel) = CpuKernel::of(problem) else { return Vec::new() };
        let runs = |configuration: &&'static Configuration| {
            threads_of(configuration).is_ok()
                && (kernel.configure)(problem, configuration).is_ok()
        };
        let all = kernel.search_space().configurations.into_iter().filter(runs);
        all.map(|configuration| Candidate { kernel: kernel.name, configuration }).collect()
    }

    fn search_space(&self, kernel: &str) -> Option<SearchSpace> {
        let found = KERNELS.iter().find(|known| known.name == kernel);
        found.map(CpuKernel::search_space)
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
        let Layout { slots, seed, .. } = layout;
        layout.refuse_launch_mode("the CPU")?;
        let (make, configuration, by) = self.configure(problem, kernel)?;
        let threads = threads_of(configuration)?;
        if slots == 0 {
            return Err(Refusal(format!("{problem} needs at least one slot, not 0")).into());
        }
        refuse_size(problem, slots, self.info.memory_bytes)?;
        if threads < rayon::current_num_threads() {
            self.start_fewer(threads)?;
        }
        let kernel = make(RunSettings { seed, threads });
        let slots = lay_out(&mut self.arena, problem, slots, seed)?;
        let chosen = Chosen { configuration: configuration.name.to_owned(), by };
        let fewer = self.fewer.as_ref();
        let fewer = fewer.filter(|pool| pool.current_num_threads() == threads);
        Ok(Box::new(Ready { kernel, slots, chosen, fewer }))
    }
}

/// The buffers of one instance.
struct Slot<'a> {
    inputs: InputBytes<'a>,
    output: &'a mut [u8],
}

/// A kernel with its buffers.
struct Ready<'a> {
    kernel: Box<dyn Kernel>,
    slots: Vec<Slot<'a>>,
    chosen: Chosen,
    /// The threads that it runs on, where these are not all.
    fewer: Option<&'a ThreadPool>,
}

impl Prepared for Ready<'_> {
    fn extra_bytes(&self) -> Option<u64> {
        self.kernel.extra_bytes()
    }

    fn chosen(&self) -> Option<Chosen> {
        Some(self.chosen.clone())
    }

    fn poison(&mut self) -> Result<(), LaunchError> {
        for slot in &mut self.slots {
            slot.output.par_chunks_mut(1 << 20).for_each(|chunk| chunk.fill(0xff));
        }
        Ok(())
    }

    fn launch(
        &mut self,
        first_slot: usize,
        launches: usize,
    ) -> Result<Timing, LaunchError> {
        let count = self.slots.len();
        let fewer = self.fewer;
        let mut run = || {
            let start = Instant::now();
            for launch in 0..launches {
                let index = (first_slot + launch) % count;
                let slot = &mut self.slots[index];
                self.kernel.run(index, &slot.inputs, slot.output);
            }
            start.elapsed()
        };
        // From a thread of the pool: one from outside would be put to sleep
        // and woken again at every launch.
        let elapsed = match fewer {
            Some(pool) => pool.install(run),
            None => rayon::scope(|_| run()),
        };
        Ok(Timing { seconds: elapsed.as_secs_f64(), sm_clock_hz: None })
    }

    fn output(&mut self, slot: usize) -> Result<Cow<'_, [u8]>, LaunchError> {
        let count = self.slots.len();
        match self.slots.get(slot) {
            Some(slot) => Ok(Cow::Borrowed(&*slot.output)),
            None => {
                Err(LaunchError(format!("there is no slot {slot}, only {count} slots")))
            }
        }
    }
}

/// Every CPU kernel, one for an operation.
const KERNELS: &[CpuKernel] = &[
    stream::KERNEL,
    peak::KERNEL,
    kv_read::KERNEL,
    kv_append::KERNEL,
    gemm::KERNEL,
    decode_attention::KERNEL,
    prefill_attention::KERNEL,
    rmsnorm::KERNEL,
    gated_activation::KERNEL,
    rope_append::KERNEL,
    embedding::KERNEL,
    argmax::KERNEL,
    transfer::KERNEL,
    decode_step::KERNEL,
];

impl CpuKernel {
    /// The kernel for the operation of a problem.
    fn of(problem: &Problem) -> Result<&'static CpuKernel, Refusal> {
        let op = problem.op();
        let found = KERNELS.iter().find(|kernel| kernel.op == op);
        found.ok_or_else(|| Refusal(format!("the CPU has no kernel for {op}")))
    }

    /// The kernel for a problem, in its default configuration.
    pub(super) fn for_problem(
        problem: &Problem,
    ) -> Result<(&'static str, Configured), Refusal> {
        let kernel = CpuKernel::of(problem)?;
        Ok((kernel.name, (kernel.configure)(problem, Configuration::DEFAULT)?))
    }
}

impl CpuDevice {
    /// A kernel by its name in a point, for a problem, the configuration that it is in, and
    /// why.
    fn configure(
        &self,
        problem: &Problem,
        name: &str,
    ) -> Result<(Configured, &'static Configuration, ChosenBy), Refusal> {
        let kernel = CpuKernel::of(problem)?;
        let (name, asked) = split_name(name);
        if name != kernel.name {
            return Err(Refusal(format!(
                "the CPU has no kernel `{name}` for {}; use `{}`",
                problem.op(),
                kernel.name
            )));
        }
        if let Some(asked) = asked {
            let configuration = kernel.search_space().find(asked)?;
            let make = (kernel.configure)(problem, configuration)?;
            return Ok((make, configuration, ChosenBy::Asked));
        }
        if let Some(tuned) = self.tuning.choose(kernel.name, problem)
            && threads_of(tuned).is_ok()
            && let Ok(make) = (kernel.configure)(problem, tuned)
        {
            return Ok((make, tuned, ChosenBy::Tuned));
        }
        let default = Configuration::DEFAULT;
        Ok(((kernel.configure)(problem, default)?, default, ChosenBy::Default))
    }

    /// Makes so many threads ready, each tied to a CPU as those of the device are.
    fn start_fewer(&mut self, threads: usize) -> Result<(), Refusal> {
        let running = self.fewer.as_ref().map(ThreadPool::current_num_threads);
        if running != Some(threads) {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.map_err(|e| {
                Refusal(format!("{threads} threads of a configuration do not start: {e}"))
            })?;
            pool.install(threads::pin);
            self.fewer = Some(pool);
        }
        Ok(())
    }
}

/// Threads that a configuration runs on.
///
/// # Errors
/// Fewer than one.
fn threads_of(configuration: &Configuration) -> Result<usize, Refusal> {
    let (all, divisor) =
        (rayon::current_num_threads(), configuration.or("thread_divisor", 1) as usize);
    match all / divisor {
        0 => Err(Refusal(format!(
            "`{}` needs {divisor} threads or more, not {all}; use the default configuration",
            configuration.name
        ))),
        threads => Ok(threads),
    }
}

/// Bytes that `slots` instances take, each tensor padded to a cache line.
fn needed_bytes(problem: &Problem, slots: usize) -> u128 {
    let one: u128 =
        problem.tensors().iter().map(|t| u128::from(t.bytes().next_multiple_of(64))).sum();
    one * slots as u128
}

fn refuse_size(problem: &Problem, slots: usize, available: u64) -> Result<(), Refusal> {
    let needed = needed_bytes(problem, slots);
    if needed > u128::from(available) {
        return Err(Refusal(format!(
            "{problem} in {slots} slots needs {needed} bytes and the CPU has {available} \
             available; make it smaller or use fewer slots"
        )));
    }
    Ok(())
}

/// Carves the tensors of every slot out of the arena and fills the inputs.
fn lay_out<'a>(
    arena: &'a mut Arena,
    problem: &Problem,
    slots: usize,
    seed: u64,
) -> Result<Vec<Slot<'a>>, Refusal> {
    let needed = needed_bytes(problem, slots) as usize;
    let mut rest = arena
        .take(needed)
        .map_err(|e| Refusal(format!("no mapping of {needed} bytes for {problem}: {e}")))?;
    let tensors = problem.tensors();
    let mut laid_out = Vec::with_capacity(slots);
    for slot in 0..slots {
        let mut inputs = InputBytes::default();
        for (position, tensor) in tensors.iter().enumerate() {
            if tensor.role == Role::Input {
                let bytes = arena::carve(&mut rest, tensor.bytes() as usize);
                Key::new(seed, slot, position).fill(tensor.format, bytes);
                inputs.0.push((tensor.name, &*bytes));
            }
        }
        let output = arena::carve(&mut rest, problem.output().bytes() as usize);
        // Touched here, so that no launch pays for the first touch.
        output.par_chunks_mut(1 << 20).for_each(|chunk| chunk.fill(0xff));
        laid_out.push(Slot { inputs, output });
    }
    Ok(laid_out)
}
