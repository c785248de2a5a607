//! A problem laid out in GPU memory, ready to launch.

use std::borrow::Cow;

use super::driver::{self, Buffer, DriverError, Function, Graph, Shape};
use super::timing::MAX_HELD;
use super::{CudaDevice, Loaded};
use crate::data::Key;
use crate::device::{KernelFacts, LaunchError, PrepareError, Prepared, Refusal, Timing};
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::kernel::{Bound, Content, Launch, Plan};
use crate::op::Problem;

/// Tensors begin at multiples of this: what cudaMalloc promises.
const ALIGNMENT: u64 = 256;

/// Bytes compared at either end of a tensor after it was filled.
const COMPARED_BYTES: u64 = 4096;

/// A prepared point.
pub(super) struct Ready<'a> {
    device: &'a CudaDevice,
    launches: Vec<(Function, Shape)>,
    /// Parameters by slot, then launch.
    params: Vec<Vec<Vec<u8>>>,
    memory: Buffer,
    /// Offset and bytes of the output of every slot.
    outputs: Vec<(u64, u64)>,
    /// Kept alive for the kernel.
    _scratch: Vec<Buffer>,
    /// The whole rotation from slot 0 on, some times over.
    rounds: Option<Graph>,
    rounds_launches: usize,
    extra_bytes: Option<u64>,
    facts: KernelFacts,
}

/// Lays out and fills everything that the launches of `plan` need.
pub(super) fn prepare<'a>(
    device: &'a CudaDevice,
    problem: &Problem,
    plan: Plan,
    loaded: &Loaded,
    slots: usize,
    seed: u64,
) -> Result<Ready<'a>, PrepareError> {
    let tensors = problem.tensors();
    let layout = Layout::new(&tensors);
    let failed =
        |e: DriverError| PrepareError::from(LaunchError(format!("{problem}: {e}")));
    let memory = allocate(device, problem, layout.slot_bytes * slots as u64)?;
    device.context.reset_persisting_l2().map_err(failed)?;
    fill(device, &tensors, &layout, &memory, slots, seed).map_err(failed)?;
    verify_fill(device, &tensors, &layout, &memory, slots, seed)?;
    let mut scratch = Vec::new();
    for wanted in &plan.scratch {
        let buffer = allocate(device, problem, wanted.bytes())?;
        match &wanted.content {
            Content::Zeros(bytes) => {
                buffer.set(&device.stream, 0, *bytes, 0).map_err(failed)?;
            }
            Content::Unset(bytes) => {
                buffer.set(&device.stream, 0, *bytes, 0xff).map_err(failed)?;
            }
            Content::Bytes(bytes) => {
                buffer.upload(&device.stream, 0, bytes).map_err(failed)?;
            }
        }
        scratch.push(buffer);
    }
    let params =
        bind(&plan, &tensors, &layout, &memory, &scratch, slots, seed).map_err(failed)?;
    let launches = configure(&plan, loaded).map_err(failed)?;
    let facts = facts(&launches, &plan, loaded).map_err(failed)?;
    device.stream.synchronize().map_err(failed)?;
    let outputs = (0..slots as u64).map(|slot| layout.output(&tensors, slot)).collect();
    let mut ready = Ready {
        device,
        launches,
        params,
        memory,
        outputs,
        _scratch: scratch,
        rounds: None,
        rounds_launches: 0,
        extra_bytes: plan.extra_bytes,
        facts,
    };
    // The first launch of a kernel may load it, which must not happen while the
    // GPU is held.
    ready.queue(0).and_then(|()| device.stream.synchronize()).map_err(failed)?;
    ready.record_rounds().map_err(failed)?;
    Ok(ready)
}

/// Where the tensors of a slot lie.
struct Layout {
    offsets: Vec<u64>,
    slot_bytes: u64,
}

impl Layout {
    fn new(tensors: &[Tensor]) -> Self {
        let mut slot_bytes = 0;
        let mut offsets = Vec::new();
        for tensor in tensors {
            offsets.push(slot_bytes);
            slot_bytes += tensor.bytes().next_multiple_of(ALIGNMENT);
        }
        Layout { offsets, slot_bytes }
    }

    fn offset(&self, slot: u64, tensor: usize) -> u64 {
        slot * self.slot_bytes + self.offsets[tensor]
    }

    /// The output is the last tensor.
    fn output(&self, tensors: &[Tensor], slot: u64) -> (u64, u64) {
        let last = tensors.len() - 1;
        (self.offset(slot, last), tensors[last].bytes())
    }
}

fn allocate(
    device: &CudaDevice,
    problem: &Problem,
    bytes: u64,
) -> Result<Buffer, PrepareError> {
    Buffer::new(&device.context, bytes).map_err(|error| match error {
        error if error.is_out_of_memory() => Refusal(format!(
            "{problem} needs {bytes} bytes of GPU memory, more than is free; make it smaller"
        ))
        .into(),
        error => LaunchError(format!("{problem}: {error}")).into(),
    })
}

/// Fills every input on the GPU, except page tables and scales, which the host draws.
fn fill(
    device: &CudaDevice,
    tensors: &[Tensor],
    layout: &Layout,
    memory: &Buffer,
    slots: usize,
    seed: u64,
) -> driver::Result<()> {
    for slot in 0..slots {
        for (position, tensor) in tensors.iter().enumerate() {
            let offset = layout.offset(slot as u64, position);
            let key = Key::new(seed, slot, position);
            match (tensor.role, format_code(tensor.format)) {
                (Role::Output | Role::Update | Role::Witness, _) => {
                    memory.set(&device.stream, offset, tensor.bytes(), 0xff)?;
                }
                (Role::Input, None) => {
                    let mut bytes = vec![0; tensor.bytes() as usize];
                    key.fill(tensor.format, &mut bytes);
                    memory.upload(&device.stream, offset, &bytes)?;
                }
                (Role::Input, Some(format)) => {
                    // Tensors are padded, so a last draw may run over.
                    let draws = tensor.bytes().div_ceil(8);
                    let address = memory.address() + offset;
                    let words = [key.raw(), address, draws, format];
                    let blocks = draws.div_ceil(256).clamp(1, 16_384) as u32;
                    let shape =
                        Shape { block: [256, 1, 1], ..super::timing::one_warp(blocks) };
                    device.stream.launch(
                        &device.fill,
                        &shape,
                        bytemuck::cast_slice(&words),
                    )?;
                }
            }
        }
    }
    Ok(())
}

/// The number that `fill` knows a format by, if it does; in the upper half the widths of
/// records.
const fn format_code(format: TensorFormat) -> Option<u64> {
    match format {
        TensorFormat::Words | TensorFormat::Values(DType::Int8 | DType::Int4) => Some(0),
        TensorFormat::Values(DType::F32) => Some(1),
        TensorFormat::Values(DType::Bf16) => Some(2),
        TensorFormat::Values(DType::F16) => Some(3),
        TensorFormat::Values(DType::Fp8E4m3) => Some(4),
        TensorFormat::LatentRecords { latent_dim, rope_dim } => {
            Some(5 | latent_dim << 32 | rope_dim << 48)
        }
        TensorFormat::PageTable
        | TensorFormat::Scales(_)
        | TensorFormat::InverseScales(_)
        | TensorFormat::HalfScales(_) => None,
    }
}

/// Compares both ends of the first and the last slot's inputs with what the
/// host draws: the reference relies on their being the same.
fn verify_fill(
    device: &CudaDevice,
    tensors: &[Tensor],
    layout: &Layout,
    memory: &Buffer,
    slots: usize,
    seed: u64,
) -> Result<(), LaunchError> {
    let inputs =
        |t: &(usize, &Tensor)| t.1.role == Role::Input && format_code(t.1.format).is_some();
    for slot in [0, slots - 1] {
        for (position, tensor) in tensors.iter().enumerate().filter(inputs) {
            let last = (tensor.bytes() / 8 * 8).saturating_sub(COMPARED_BYTES);
            for first in [0, last] {
                let bytes = (tensor.bytes() - first).min(COMPARED_BYTES) / 8 * 8;
                let mut found = vec![0u64; bytes as usize / 8];
                let mut expected = found.clone();
                Key::new(seed, slot, position).draw(
                    tensor.format,
                    first / 8,
                    &mut expected,
                );
                let offset = layout.offset(slot as u64, position) + first;
                memory
                    .download(&device.stream, offset, bytemuck::cast_slice_mut(&mut found))
                    .map_err(|e| LaunchError(e.to_string()))?;
                if found != expected {
                    return Err(LaunchError(format!(
                        "the GPU filled tensor {} of slot {slot} with other values than the \
                         host draws, so nothing could be compared; this is a bug, please \
                         report it",
                        tensor.name
                    )));
                }
            }
        }
    }
    Ok(())
}

/// The parameters of every slot and launch.
fn bind(
    plan: &Plan,
    tensors: &[Tensor],
    layout: &Layout,
    memory: &Buffer,
    scratch: &[Buffer],
    slots: usize,
    seed: u64,
) -> driver::Result<Vec<Vec<Vec<u8>>>> {
    let scratch: Vec<u64> = scratch.iter().map(Buffer::address).collect();
    let mut params = Vec::with_capacity(slots);
    for slot in 0..slots {
        let base = memory.address() + slot as u64 * layout.slot_bytes;
        let addresses = layout.offsets.iter().map(|offset| base + offset);
        let names = tensors.iter().map(|tensor| tensor.name);
        let bound = Bound::new(seed, slot, names.zip(addresses));
        params.push(plan.params(bound, &scratch, driver::encode)?);
    }
    Ok(params)
}

const fn shape(launch: &Launch) -> Shape {
    Shape {
        grid: launch.grid,
        block: launch.block,
        cluster: launch.cluster,
        shared_bytes: launch.shared_bytes,
        overlaps_previous: launch.overlaps_previous,
    }
}

/// Functions and shapes of the launches, with the shared memory they need.
fn configure(plan: &Plan, loaded: &Loaded) -> driver::Result<Vec<(Function, Shape)>> {
    let mut launches = Vec::new();
    for launch in &plan.launches {
        let function =
            loaded.function(launch.entry).cloned().ok_or_else(|| DriverError {
                call: "cuModuleGetFunction",
                name: launch.entry.to_owned(),
                description: "the kernel was not loaded".to_owned(),
            })?;
        // Several entries may share a function; the largest need counts.
        if launch.shared_bytes > 0 {
            let most = plan.launches.iter().filter(|l| l.entry == launch.entry);
            let bytes = most.map(|l| l.shared_bytes).max().unwrap_or(0);
            function.allow_shared_bytes(bytes)?;
        }
        launches.push((function, shape(launch)));
    }
    Ok(launches)
}

/// Facts about the first launch, which is the main one.
fn facts(
    launches: &[(Function, Shape)],
    plan: &Plan,
    loaded: &Loaded,
) -> driver::Result<KernelFacts> {
    let by = |[x, y, z]: [u32; 3]| format!("{x}x{y}x{z}");
    let (function, shape) = &launches[0];
    let compiled = loaded.binary.resources.get(plan.launches[0].entry);
    Ok(KernelFacts {
        grid: by(shape.grid),
        block: by(shape.block),
        registers: function.registers()?,
        spill_bytes: match compiled {
            Some(r) => r.spill_store_bytes + r.spill_load_bytes,
            None => function.local_bytes()?,
        },
        shared_bytes: function.static_shared_bytes()? + shape.shared_bytes,
        blocks_per_sm: function.blocks_per_sm(shape)?,
        code_hash: loaded.binary.hash.clone(),
    })
}

impl Ready<'_> {
    fn slots(&self) -> usize {
        self.params.len()
    }

    fn queue(&self, slot: usize) -> driver::Result<()> {
        for ((function, shape), params) in self.launches.iter().zip(&self.params[slot]) {
            self.device.stream.launch(function, shape, params)?;
        }
        Ok(())
    }

    /// Records as many rounds of the rotation as may be queued while the GPU is
    /// held. Longer rotations are launched one by one.
    fn record_rounds(&mut self) -> driver::Result<()> {
        let slots = self.slots();
        let launches = MAX_HELD / self.launches.len() / slots * slots;
        if launches == 0 {
            return Ok(());
        }
        let stream = &self.device.stream;
        let queue = || (0..launches).try_for_each(|launch| self.queue(launch % slots));
        let graph = stream.capture(queue)?;
        graph.upload(stream)?;
        stream.synchronize()?;
        self.rounds = Some(graph);
        self.rounds_launches = launches;
        Ok(())
    }

    /// Queues launches from `slot` on, at most `wanted`; how many it queued.
    /// Launched one by one, short kernels end sooner than the host queues the
    /// next, so a row that no graph continues ends when it may be held no more.
    fn queue_row(
        &self,
        slot: usize,
        wanted: usize,
        let_go: &dyn Fn(),
    ) -> driver::Result<usize> {
        let slots = self.slots();
        let per_launch = self.launches.len();
        let mut queued = 0;
        while queued < wanted {
            let round = self.rounds.as_ref().filter(|_| {
                (slot + queued).is_multiple_of(slots)
                    && wanted - queued >= self.rounds_launches
            });
            match round {
                Some(graph) => {
                    if (queued + self.rounds_launches) * per_launch > MAX_HELD {
                        // So few launches would be over before the graph is
                        // queued, and the GPU would idle in a timed row.
                        if queued > 0 && queued < self.rounds_launches {
                            break;
                        }
                        let_go();
                    }
                    self.device.stream.launch_graph(graph)?;
                    queued += self.rounds_launches;
                }
                // The first launch is always queued, or there would be no end.
                None if queued > 0 && (queued + 1) * per_launch > MAX_HELD => break,
                None => {
                    self.queue((slot + queued) % slots)?;
                    queued += 1;
                }
            }
        }
        Ok(queued)
    }
}

impl Prepared for Ready<'_> {
    fn extra_bytes(&self) -> Option<u64> {
        self.extra_bytes
    }

    fn kernel_facts(&self) -> Option<KernelFacts> {
        Some(self.facts.clone())
    }

    fn poison(&mut self) -> Result<(), LaunchError> {
        let stream = &self.device.stream;
        let set =
            |&(offset, bytes): &(u64, u64)| self.memory.set(stream, offset, bytes, 0xff);
        let done =
            self.outputs.iter().try_for_each(set).and_then(|()| stream.synchronize());
        done.map_err(|e| LaunchError(e.to_string()))
    }

    fn launch(
        &mut self,
        first_slot: usize,
        launches: usize,
    ) -> Result<Timing, LaunchError> {
        let mut done = 0;
        let mut seconds = 0.0;
        let mut cycles = 0.0;
        while done < launches {
            let mut queued = 0;
            let slot = (first_slot + done) % self.slots();
            let timing = self.device.stopwatch.time(&self.device.stream, |let_go| {
                queued = self.queue_row(slot, launches - done, let_go)?;
                Ok(())
            })?;
            done += queued;
            seconds += timing.seconds;
            cycles += timing.sm_clock_hz.unwrap_or(f64::NAN) * timing.seconds;
        }
        let sm_clock_hz = Some(cycles / seconds).filter(|clock| clock.is_finite());
        Ok(Timing { seconds, sm_clock_hz })
    }

    fn output(&mut self, slot: usize) -> Result<Cow<'_, [u8]>, LaunchError> {
        let count = self.outputs.len();
        let &(offset, bytes) = self.outputs.get(slot).ok_or_else(|| {
            LaunchError(format!("there is no slot {slot}, only {count} slots"))
        })?;
        let mut output = vec![0; bytes as usize];
        self.memory
            .download(&self.device.stream, offset, &mut output)
            .map_err(|e| LaunchError(e.to_string()))?;
        Ok(Cow::Owned(output))
    }
}
