//! The CPU as a device: kernels in safe Rust on every core, over buffers in
//! one kept mapping, timed with the monotonic clock.

mod arena;
mod cache;
mod decode_attention;
mod gemm;
mod host;
mod kv_append;
mod kv_read;
mod peak;
mod prefill_attention;
mod product;
mod simd;
mod stream;
mod transfer;

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use arena::Arena;
use rayon::prelude::*;

use crate::data::Key;
use crate::device::{
    Device, DeviceInfo, LaunchError, PrepareError, Prepared, Refusal, Timing,
};
use crate::format::{DType, Role};
use crate::op::{OfProblem, Op, Problem};

/// This machine's CPU, with all cores of the rayon pool.
pub struct CpuDevice {
    info: DeviceInfo,
    arena: Arena,
}

impl CpuDevice {
    /// Looks at the machine and measures the clock and an empty launch.
    pub fn new() -> Self {
        let info = host::device_info();
        let arena = Arena::new(info.memory_bytes as usize);
        CpuDevice { info, arena }
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

    fn kernel(&self, problem: &Problem) -> Result<&'static str, Refusal> {
        Ok(CpuKernel::for_problem(problem)?.0)
    }

    fn prepare<'a>(
        &'a mut self,
        problem: &Problem,
        kernel: &str,
        slots: usize,
        seed: u64,
    ) -> Result<Box<dyn Prepared + 'a>, PrepareError> {
        let (known, make) = CpuKernel::for_problem(problem)?;
        if kernel != known {
            return Err(Refusal(format!(
                "the CPU has no kernel `{kernel}` for {}; use `{known}`",
                problem.op()
            ))
            .into());
        }
        if slots == 0 {
            return Err(Refusal(format!("{problem} needs at least one slot, not 0")).into());
        }
        refuse_size(problem, slots, self.info.memory_bytes)?;
        let threads = rayon::current_num_threads();
        let kernel = make(RunSettings { seed, threads });
        let slots = lay_out(&mut self.arena, problem, slots, seed)?;
        Ok(Box::new(Ready { kernel, slots }))
    }
}

/// One way to run a problem.
trait Kernel: Send {
    /// See [`Prepared::extra_bytes`].
    fn extra_bytes(&self) -> Option<u64> {
        Some(0)
    }

    /// Runs once: `inputs` and `output` are those of [`Problem::tensors`].
    fn run(&mut self, slot: usize, inputs: &InputBytes, output: &mut [u8]);
}

/// The inputs of one instance, by the names of their tensors.
#[derive(Default)]
struct InputBytes<'a>(Vec<(&'static str, &'a [u8])>);

impl<'a> InputBytes<'a> {
    /// The bytes of a tensor, if the problem has one of this name.
    fn find(&self, name: &str) -> Option<&'a [u8]> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
    }

    /// The bytes of a tensor that every problem of the operation has.
    ///
    /// # Panics
    /// If there is none of this name: the operation and its kernel disagree.
    fn get(&self, name: &str) -> &'a [u8] {
        match self.find(name) {
            Some(bytes) => bytes,
            None => panic!("the CPU kernel found no tensor `{name}`"),
        }
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
}

impl Prepared for Ready<'_> {
    fn extra_bytes(&self) -> Option<u64> {
        self.kernel.extra_bytes()
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
        // From a thread of the pool: one from outside would be put to sleep
        // and woken again at every launch.
        let elapsed = rayon::scope(|_| {
            let start = Instant::now();
            for launch in 0..launches {
                let index = (first_slot + launch) % count;
                let slot = &mut self.slots[index];
                self.kernel.run(index, &slot.inputs, slot.output);
            }
            start.elapsed()
        });
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
const KERNELS: [CpuKernel; 8] = [
    stream::KERNEL,
    peak::KERNEL,
    kv_read::KERNEL,
    kv_append::KERNEL,
    gemm::KERNEL,
    decode_attention::KERNEL,
    prefill_attention::KERNEL,
    transfer::KERNEL,
];

/// A CPU kernel, before it is made for a problem.
struct CpuKernel {
    /// The name in records.
    name: &'static str,
    /// What it computes.
    op: Op,
    /// Whether it runs a problem, and how it is made for it.
    configure: fn(&Problem) -> Result<Configured, Refusal>,
}

/// Makes the kernel of one problem.
type Configured = Box<dyn FnOnce(RunSettings) -> Box<dyn Kernel>>;

/// What a kernel is made for, beside its problem.
#[derive(Clone, Copy)]
struct RunSettings {
    seed: u64,
    threads: usize,
}

impl CpuKernel {
    /// The kernel for a problem.
    fn for_problem(problem: &Problem) -> Result<(&'static str, Configured), Refusal> {
        let op = problem.op();
        let kernel = KERNELS
            .iter()
            .find(|kernel| kernel.op == op)
            .ok_or_else(|| Refusal(format!("the CPU has no kernel for {op}")))?;
        Ok((kernel.name, (kernel.configure)(problem)?))
    }
}

/// Gives the operation's own struct to a kernel.
fn configured<P: OfProblem>(
    problem: &Problem,
    configure: impl FnOnce(&P) -> Result<Configured, Refusal>,
) -> Result<Configured, Refusal> {
    match P::of(problem) {
        Some(p) => configure(p),
        None => Err(Refusal(format!("this CPU kernel does not compute {}", problem.op()))),
    }
}

/// A format that CPU kernels take operands in. They compute in f32.
#[derive(Clone, Copy)]
enum CpuFormat {
    F32,
    Bf16,
    F16,
}

impl CpuFormat {
    /// The format that a key asks for.
    fn of(key: &str, dtype: DType) -> Result<CpuFormat, Refusal> {
        match dtype {
            DType::F32 => Ok(CpuFormat::F32),
            DType::Bf16 => Ok(CpuFormat::Bf16),
            DType::F16 => Ok(CpuFormat::F16),
            DType::Fp8E4m3 | DType::Int8 | DType::Int4 => Err(Refusal(format!(
                "the CPU kernels compute in f32 on f32, bf16 and f16 operands, not on {key} = \
                 {dtype}; choose one of those"
            ))),
        }
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

/// Scratch memory that is allocated once for each thread.
struct PerThread<T>(Vec<Mutex<T>>);

impl<T> PerThread<T> {
    fn new(threads: usize, make: impl Fn() -> T) -> Self {
        PerThread((0..threads).map(|_| Mutex::new(make())).collect())
    }

    /// Runs `work` with the scratch of this thread. Never nested and never
    /// around a parallel call, so the lock is free.
    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let thread = rayon::current_thread_index().unwrap_or(0) % self.0.len();
        work(&mut self.0[thread].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
