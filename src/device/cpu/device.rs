//! The CPU as a device: its kernels, and buffers laid out for them.

use std::borrow::Cow;
use std::path::Path;
use std::time::Instant;

use rayon::prelude::*;

use super::arena::{self, Arena};
use super::contract::{Configured, CpuKernel, InputBytes, Kernel, RunSettings};
use super::{
    argmax, decode_attention, decode_step, embedding, gated_activation, gemm, host,
    kv_append, kv_read, peak, prefill_attention, rmsnorm, rope_append, stream, transfer,
};
use crate::data::Key;
use crate::device::{
    AskedTelemetry, Device, DeviceInfo, FixedCosts, LaunchError, Layout, PrepareError,
    Prepared, Refusal, Timing,
};
use crate::format::Role;
use crate::op::Problem;

/// This machine's CPU, with all cores of the rayon pool.
pub struct CpuDevice {
    pub(super) info: DeviceInfo,
    pub(super) arena: Arena,
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
        Ok(CpuKernel::for_problem(problem)?.0)
    }

    fn prepare<'a>(
        &'a mut self,
        problem: &Problem,
        kernel: &str,
        layout: Layout,
    ) -> Result<Box<dyn Prepared + 'a>, PrepareError> {
        let Layout { slots, seed, .. } = layout;
        layout.refuse_launch_mode("the CPU")?;
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
    /// The kernel for a problem.
    pub(super) fn for_problem(
        problem: &Problem,
    ) -> Result<(&'static str, Configured), Refusal> {
        let op = problem.op();
        let kernel = KERNELS
            .iter()
            .find(|kernel| kernel.op == op)
            .ok_or_else(|| Refusal(format!("the CPU has no kernel for {op}")))?;
        Ok((kernel.name, (kernel.configure)(problem)?))
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
