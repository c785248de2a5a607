//! A problem laid out in GPU memory, ready to launch.

use std::borrow::Cow;
use std::rc::Rc;

use bytemuck::{Pod, Zeroable};

use super::driver::{
    self, Buffer, DriverError, Function, Graph, HostBuffer, HostCopy, LaunchShape,
};
use super::gpu::{CudaDevice, Loaded};
use super::timing::MAX_HELD;
use crate::data::Key;
use crate::device::executor::{Executor, Gpu, MemoryPart, PlacedCopy, PlacedTensor};
use crate::device::{KernelFacts, LaunchError, PrepareError, Prepared, Timing};
use crate::format::{DType, MemoryPlace, Role, Tensor, TensorFormat};
use crate::kernel::{EncodedTensorMap, Launch, ParamBytes, Plan};
use crate::op::Problem;

/// Parts of an allocation begin at multiples of this: what cuMemAlloc promises.
const ALIGNMENT: u64 = 256;

/// Bytes compared at either end of a tensor after it was filled.
const COMPARED_BYTES: u64 = 4096;

/// A GPU with a kernel loaded, and the memory of one problem.
struct CudaGpu<'a> {
    device: &'a CudaDevice,
    /// `None` for a kernel that is copies only.
    loaded: Option<Rc<Loaded>>,
    buffers: Vec<Buffer>,
    host_buffers: Vec<Rc<HostBuffer>>,
}

/// The buffer that holds a range, and where in it the range begins.
enum Found<'a> {
    Device(&'a Buffer, u64),
    Host(&'a Rc<HostBuffer>, u64),
}

impl CudaGpu<'_> {
    fn find(&self, address: u64, bytes: u64) -> Found<'_> {
        let found =
            self.on_device(address, bytes).map(|(b, offset)| Found::Device(b, offset));
        let found = found.or_else(|| {
            self.on_host(address, bytes).map(|(b, offset)| Found::Host(b, offset))
        });
        found.expect("addresses of the executor lie in buffers that it allocated")
    }

    fn on_device(&self, address: u64, bytes: u64) -> Option<(&Buffer, u64)> {
        self.buffers.iter().find_map(|b| Some((b, b.offset_of(address, bytes)?)))
    }

    fn on_host(&self, address: u64, bytes: u64) -> Option<(&Rc<HostBuffer>, u64)> {
        self.host_buffers.iter().find_map(|b| Some((b, b.offset_of(address, bytes)?)))
    }
}

impl Gpu for CudaGpu<'_> {
    type Error = DriverError;
    type Entry = (Function, LaunchShape);
    type Report = ();

    fn allocate(
        &mut self,
        place: MemoryPlace,
        parts: &[MemoryPart],
    ) -> driver::Result<Vec<u64>> {
        let mut bytes = 0;
        let mut offsets = Vec::with_capacity(parts.len());
        for part in parts {
            offsets.push(bytes);
            bytes += part.bytes.next_multiple_of(ALIGNMENT);
        }
        let context = &self.device.context;
        let first = match place {
            MemoryPlace::Device => {
                let buffer = Buffer::new(context, bytes)?;
                let first = buffer.address();
                self.buffers.push(buffer);
                first
            }
            MemoryPlace::Host(memory) => {
                let buffer = HostBuffer::new(context, memory, bytes)?;
                let first = buffer.address();
                self.host_buffers.push(Rc::new(buffer));
                first
            }
        };
        Ok(offsets.into_iter().map(|offset| first + offset).collect())
    }

    fn is_out_of_memory(error: &DriverError) -> bool {
        error.is_out_of_memory()
    }

    fn upload(&mut self, address: u64, bytes: &[u8]) -> driver::Result<()> {
        match self.find(address, bytes.len() as u64) {
            Found::Device(buffer, at) => buffer.upload(&self.device.stream, at, bytes),
            Found::Host(buffer, at) => buffer.write(at, bytes),
        }
    }

    fn download(&mut self, address: u64, to: &mut [u8]) -> driver::Result<()> {
        match self.find(address, to.len() as u64) {
            Found::Device(buffer, at) => buffer.download(&self.device.stream, at, to),
            Found::Host(buffer, at) => buffer.read(at, to),
        }
    }

    fn set(&mut self, address: u64, bytes: u64, value: u8) -> driver::Result<()> {
        match self.find(address, bytes) {
            Found::Device(buffer, at) => buffer.set(&self.device.stream, at, bytes, value),
            Found::Host(buffer, at) => buffer.set(at, bytes, value),
        }
    }

    fn poison(&mut self, address: u64, bytes: u64) -> driver::Result<()> {
        self.set(address, bytes, 0xff)
    }

    /// On the GPU, except what lies on the host, and page tables and scales, which the host
    /// draws.
    fn fill(&mut self, tensor: &Tensor, address: u64, key: Key) -> driver::Result<()> {
        let on_gpu =
            FillFormat::of(tensor.format).filter(|_| tensor.place == MemoryPlace::Device);
        let Some(format) = on_gpu else {
            let mut bytes = vec![0; tensor.bytes() as usize];
            key.fill(tensor.format, &mut bytes);
            return self.upload(address, &bytes);
        };
        // Tensors are padded, so that the last draw may write beyond the end.
        let draws = tensor.bytes().div_ceil(8);
        let params =
            ParamBytes::of(&FillParams { key: key.raw(), to: address, draws, format });
        let blocks = draws.div_ceil(256).clamp(1, 16_384) as u32;
        let shape = LaunchShape { block: [256, 1, 1], ..LaunchShape::warps(blocks) };
        self.device.stream.launch(&self.device.fill, &shape, &[params])
    }

    fn copy(&mut self, copies: &[PlacedCopy]) -> driver::Result<()> {
        let found = |copy: &PlacedCopy| {
            let host = self.on_host(copy.host, copy.bytes);
            let device = self.on_device(copy.device, copy.bytes);
            let (Some(host), Some(device)) = (host, device) else {
                panic!("copies of the executor are between buffers that it allocated");
            };
            HostCopy { direction: copy.direction, host, device, bytes: copy.bytes }
        };
        self.device.stream.copy(&copies.iter().map(found).collect::<Vec<_>>())
    }

    fn encode(&mut self, map: &ptxvm::TensorMap) -> driver::Result<EncodedTensorMap> {
        driver::encode(map)
    }

    fn entry(
        &mut self,
        plan: &Plan,
        launch: &Launch,
    ) -> driver::Result<(Function, LaunchShape)> {
        let loaded = self.loaded.as_ref();
        let function = loaded.and_then(|loaded| loaded.function(launch.entry)).cloned();
        let function = function.ok_or(DriverError::NotLoaded { entry: launch.entry })?;
        // Several launches may share a function; the largest need counts.
        if launch.shared_bytes > 0 {
            let same = plan.launches.iter().filter(|l| l.entry == launch.entry);
            let most = same.map(|l| l.shared_bytes).max().unwrap_or(0);
            function.allow_shared_bytes(most)?;
        }
        Ok((function, shape(launch)))
    }

    fn launch(
        &mut self,
        (function, shape): &(Function, LaunchShape),
        _: &Launch,
        params: &ParamBytes,
    ) -> driver::Result<()> {
        self.device.stream.launch(function, shape, std::slice::from_ref(params))
    }
}

/// `FillParams` of `kernels/device.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct FillParams {
    key: u64,
    to: u64,
    draws: u64,
    format: FillFormat,
}

/// A format by the code that `fill` knows it by, and the widths of latent records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct FillFormat {
    code: u32,
    latent_dim: u16,
    rope_dim: u16,
}

impl FillFormat {
    /// The code of a format that `fill` draws; `None` for those that the host draws.
    const fn of(format: TensorFormat) -> Option<Self> {
        let code = match format {
            TensorFormat::Words
            | TensorFormat::Values(DType::Int8 | DType::Int4 | DType::Fp4E2m1) => 0,
            TensorFormat::Values(DType::F32) => 1,
            TensorFormat::Values(DType::Bf16) => 2,
            TensorFormat::Values(DType::F16) => 3,
            TensorFormat::Values(DType::Fp8E4m3) => 4,
            TensorFormat::LatentRecords { latent_dim, rope_dim } => {
                let (latent_dim, rope_dim) = (latent_dim as u16, rope_dim as u16);
                return Some(FillFormat { code: 5, latent_dim, rope_dim });
            }
            TensorFormat::PageTable
            | TensorFormat::Scales(_)
            | TensorFormat::InverseScales(_)
            | TensorFormat::HalfScales(_)
            | TensorFormat::PowerScales(_)
            | TensorFormat::ByteScales(_) => return None,
        };
        Some(FillFormat { code, latent_dim: 0, rope_dim: 0 })
    }
}

/// A prepared point.
pub(super) struct CudaPoint<'a> {
    device: &'a CudaDevice,
    executor: Executor<CudaGpu<'a>>,
    /// The whole rotation from slot 0 on, some times over.
    passes: Option<Graph>,
    passes_launches: usize,
    facts: Option<KernelFacts>,
}

/// Lays out and fills everything that the copies and launches of `plan` need.
pub(super) fn prepare<'a>(
    device: &'a CudaDevice,
    problem: &Problem,
    plan: Plan,
    loaded: Option<&Rc<Loaded>>,
    slots: usize,
    seed: u64,
) -> Result<CudaPoint<'a>, PrepareError> {
    let failed =
        |e: DriverError| PrepareError::from(LaunchError(format!("{problem}: {e}")));
    device.context.reset_persisting_l2().map_err(failed)?;
    let gpu = CudaGpu {
        device,
        loaded: loaded.cloned(),
        buffers: Vec::new(),
        host_buffers: Vec::new(),
    };
    let mut executor = Executor::new(gpu, problem, plan, slots, seed)?;
    for slot in [0, slots - 1] {
        verify_fill(&mut executor, slot, seed)?;
    }
    let facts = loaded.map(|loaded| facts(&executor, loaded)).transpose();
    let facts = facts.map_err(failed)?;
    let mut ready = CudaPoint { device, executor, passes: None, passes_launches: 0, facts };
    // The first launch of a kernel may load it, which must not happen while the
    // GPU is held.
    ready
        .executor
        .run(0)
        .and_then(|_| device.stream.synchronize())
        .and_then(|()| ready.record_passes())
        .map_err(failed)?;
    Ok(ready)
}

/// Compares both ends of a slot's inputs with what the host draws: the reference relies on
/// their being the same.
fn verify_fill(
    executor: &mut Executor<CudaGpu>,
    slot: usize,
    seed: u64,
) -> Result<(), LaunchError> {
    let tensors = executor.tensors(slot).to_vec();
    for (position, PlacedTensor { tensor, address }) in tensors.into_iter().enumerate() {
        if tensor.role != Role::Input || FillFormat::of(tensor.format).is_none() {
            continue;
        }
        let key = Key::new(seed, slot, position);
        let last = (tensor.bytes() / 8 * 8).saturating_sub(COMPARED_BYTES);
        for first in [0, last] {
            let bytes = (tensor.bytes() - first).min(COMPARED_BYTES) / 8 * 8;
            let mut found = vec![0u64; bytes as usize / 8];
            let mut expected = found.clone();
            key.draw(tensor.format, first / 8, &mut expected);
            executor
                .gpu()
                .download(address + first, bytemuck::cast_slice_mut(&mut found))
                .map_err(|e| LaunchError(e.to_string()))?;
            if found != expected {
                return Err(LaunchError(format!(
                    "the GPU filled tensor {} of slot {slot} with other values than the host \
                     draws, so nothing could be compared; this is a bug, please report it",
                    tensor.name
                )));
            }
        }
    }
    Ok(())
}

const fn shape(launch: &Launch) -> LaunchShape {
    LaunchShape {
        grid: launch.grid,
        block: launch.block,
        cluster: launch.cluster,
        shared_bytes: launch.shared_bytes,
        overlaps_previous: launch.overlaps_previous,
    }
}

/// Facts about the first launch, which is the main one.
fn facts(executor: &Executor<CudaGpu>, loaded: &Loaded) -> driver::Result<KernelFacts> {
    let by = |[x, y, z]: [u32; 3]| format!("{x}x{y}x{z}");
    let (function, shape) = &executor.entries()[0];
    let compiled = loaded.binary.resources.get(executor.plan().launches[0].entry);
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

impl CudaPoint<'_> {
    /// Records as many passes through the rotation as may be queued while the GPU is
    /// held. Longer rotations are launched one by one, and so is what the host takes part
    /// in.
    fn record_passes(&mut self) -> driver::Result<()> {
        let slots = self.executor.slots();
        let launches = MAX_HELD / self.executor.entries_per_run() / slots * slots;
        if launches == 0 || self.executor.waits_for_host() {
            return Ok(());
        }
        let stream = &self.device.stream;
        let executor = &mut self.executor;
        let graph = stream.capture(|| {
            (0..launches).try_for_each(|launch| executor.run(launch % slots).map(drop))
        })?;
        graph.upload(stream)?;
        stream.synchronize()?;
        self.passes = Some(graph);
        self.passes_launches = launches;
        Ok(())
    }

    /// Queues launches from `slot` on, at most `wanted`; how many it queued.
    /// Launched one by one, short kernels end sooner than the host queues the
    /// next, so a row that no graph continues ends when it may be held no more.
    /// What the host takes part in would wait for the GPU for ever: it is let go
    /// first, and the time of the row is also the host's.
    fn queue_row(
        &mut self,
        slot: usize,
        wanted: usize,
        let_go: &dyn Fn(),
    ) -> driver::Result<usize> {
        let slots = self.executor.slots();
        let per_launch = self.executor.entries_per_run();
        if self.executor.waits_for_host() {
            let_go();
        }
        let mut queued = 0;
        while queued < wanted {
            let pass = self.passes.as_ref().filter(|_| {
                (slot + queued).is_multiple_of(slots)
                    && wanted - queued >= self.passes_launches
            });
            match pass {
                Some(graph) => {
                    if (queued + self.passes_launches) * per_launch > MAX_HELD {
                        // So few launches would be over before the graph is
                        // queued, and the GPU would idle in a timed row.
                        if queued > 0 && queued < self.passes_launches {
                            break;
                        }
                        let_go();
                    }
                    self.device.stream.launch_graph(graph)?;
                    queued += self.passes_launches;
                }
                // The first launch is always queued, or there would be no end.
                None if queued > 0 && (queued + 1) * per_launch > MAX_HELD => break,
                None => {
                    self.executor.run((slot + queued) % slots)?;
                    queued += 1;
                }
            }
        }
        Ok(queued)
    }
}

impl Prepared for CudaPoint<'_> {
    fn extra_bytes(&self) -> Option<u64> {
        self.executor.plan().extra_bytes
    }

    fn kernel_facts(&self) -> Option<KernelFacts> {
        self.facts.clone()
    }

    fn poison(&mut self) -> Result<(), LaunchError> {
        let done = self.executor.poison().and_then(|()| self.device.stream.synchronize());
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
            let slot = (first_slot + done) % self.executor.slots();
            let device = self.device;
            let timing = device.stopwatch.time(&device.stream, |let_go| {
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

    fn profile(&mut self, on: bool) -> Result<(), LaunchError> {
        self.device.context.profile(on).map_err(|e| LaunchError(e.to_string()))
    }

    fn output(&mut self, slot: usize) -> Result<Cow<'_, [u8]>, LaunchError> {
        Ok(Cow::Owned(self.executor.output(slot)?))
    }
}
