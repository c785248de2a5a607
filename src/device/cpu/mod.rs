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

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use arena::Arena;
use rayon::prelude::*;

use crate::data::Key;
use crate::device::{
    Device, DeviceInfo, LaunchError, PrepareError, Prepared, Refusal, Timing,
};
use crate::problem::{DType, Op, Problem, Role, Unit};

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
        refuse_formats(problem)?;
        Ok(kernel_name(problem.op()))
    }

    fn prepare<'a>(
        &'a mut self,
        problem: &Problem,
        kernel: &str,
        slots: usize,
        seed: u64,
    ) -> Result<Box<dyn Prepared + 'a>, PrepareError> {
        let known = self.kernel(problem)?;
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
        let kernel = make_kernel(problem, seed, threads)?;
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

    /// Runs once: `inputs` and `output` as in [`Problem::tensors`], where the
    /// output comes last.
    fn run(&mut self, slot: usize, inputs: &[&[u8]], output: &mut [u8]);
}

/// The buffers of one instance.
struct Slot<'a> {
    inputs: Vec<&'a [u8]>,
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

const fn kernel_name(op: Op) -> &'static str {
    match op {
        Op::Stream => "cpu_stream",
        Op::Peak => "cpu_peak",
        Op::KvRead => "cpu_kv_read",
        Op::KvAppend => "cpu_kv_append",
        Op::Gemm => "cpu_gemm",
        Op::MoeGemm | Op::MlaDecode => "none",
        Op::DecodeAttention => "cpu_decode_attention",
        Op::PrefillAttention => "cpu_prefill_attention",
    }
}

fn refuse_formats(problem: &Problem) -> Result<(), Refusal> {
    let computes = |key: &str, dtype: DType| match dtype {
        DType::F32 | DType::Bf16 | DType::F16 => Ok(()),
        DType::Fp8E4m3 | DType::Int8 | DType::Int4 => Err(Refusal(format!(
            "the CPU kernels compute in f32 on f32, bf16 and f16 operands, not on {key} = \
             {dtype}; choose one of those"
        ))),
    };
    match problem {
        Problem::Stream(_) => Ok(()),
        Problem::Peak(p) if p.unit == Unit::Tensor => {
            Err(Refusal("no CPU kernel drives a tensor unit; use unit = fma".to_owned()))
        }
        Problem::Peak(p) if p.dtype != DType::F32 => Err(Refusal(format!(
            "the CPU kernels multiply and add in f32, so dtype = {} has no peak of its own; \
             use dtype = f32",
            p.dtype
        ))),
        Problem::Peak(_) => Ok(()),
        Problem::KvRead(p) if p.head_dim * p.dtype.bytes() % 4 != 0 => {
            Err(Refusal(format!(
                "head_dim = {} of {} is {} bytes, and the checksum takes words of 4; make it a \
             multiple",
                p.head_dim,
                p.dtype,
                p.head_dim * p.dtype.bytes()
            )))
        }
        Problem::KvRead(_) => Ok(()),
        Problem::KvAppend(p) => {
            computes("dtype", p.dtype)?;
            computes("kv_dtype", p.kv_dtype)
        }
        Problem::Gemm(p) => {
            computes("dtype", p.dtype)?;
            if p.w_dtype != p.dtype {
                return Err(Refusal(format!(
                    "the CPU kernel multiplies operands of one format, not dtype = {} with \
                     w_dtype = {}; use the same",
                    p.dtype, p.w_dtype
                )));
            }
            Ok(())
        }
        Problem::MoeGemm(_) | Problem::MlaDecode(_) => Err(no_kernel(problem.op())),
        Problem::DecodeAttention(p) => {
            computes("dtype", p.dtype)?;
            computes("kv_dtype", p.kv_dtype)?;
            if p.new_tokens > 1 || p.window > 0 {
                return Err(Refusal(format!(
                    "the CPU kernel attends one new token to all of its context, not new_tokens \
                     = {} with window = {}; use new_tokens = 1 and window = 0",
                    p.new_tokens, p.window
                )));
            }
            Ok(())
        }
        Problem::PrefillAttention(p) => {
            computes("dtype", p.dtype)?;
            computes("kv_dtype", p.kv_dtype)?;
            if p.window > 0 {
                return Err(Refusal(format!(
                    "the CPU kernel attends to all of the context, not to a window = {}; use 0",
                    p.window
                )));
            }
            Ok(())
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
        let mut inputs = Vec::new();
        let mut output: &mut [u8] = &mut [];
        for (position, tensor) in tensors.iter().enumerate() {
            let bytes = arena::carve(&mut rest, tensor.bytes() as usize);
            if tensor.role == Role::Input {
                Key::new(seed, slot, position).fill(tensor.format, bytes);
                inputs.push(&*bytes);
            } else {
                // Touched here, so that no launch pays for the first touch.
                bytes.par_chunks_mut(1 << 20).for_each(|chunk| chunk.fill(0xff));
                output = bytes;
            }
        }
        debug_assert!(tensors.last().is_some_and(|t| t.role != Role::Input));
        laid_out.push(Slot { inputs, output });
    }
    Ok(laid_out)
}

fn make_kernel(
    problem: &Problem,
    seed: u64,
    threads: usize,
) -> Result<Box<dyn Kernel>, Refusal> {
    match *problem {
        Problem::Stream(p) => Ok(Box::new(stream::StreamKernel::new(p, seed, threads))),
        Problem::Peak(p) => Ok(Box::new(peak::PeakKernel::new(p))),
        Problem::KvRead(p) => Ok(Box::new(kv_read::KvReadKernel::new(p, threads))),
        Problem::KvAppend(p) => Ok(Box::new(kv_append::KvAppendKernel::new(p))),
        Problem::Gemm(p) => gemm::kernel(p, threads),
        Problem::MoeGemm(_) | Problem::MlaDecode(_) => Err(no_kernel(problem.op())),
        Problem::DecodeAttention(p) => decode_attention::kernel(p, threads),
        Problem::PrefillAttention(p) => {
            Ok(Box::new(prefill_attention::PrefillKernel::new(p, threads)))
        }
    }
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

/// A refusal for an operation without kernel here, or for a format that
/// [`refuse_formats`] has already turned away.
fn no_kernel(what: impl std::fmt::Display) -> Refusal {
    Refusal(format!("the CPU has no kernel for {what}"))
}

#[cfg(test)]
mod tests;
