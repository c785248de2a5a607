//! A problem laid out in GPU memory, ready to launch.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use bytemuck::{Pod, Zeroable};

use super::cublaslt::{self, VendorProduct};
use super::driver::{
    self, Buffer, DriverError, Function, Graph, HostBuffer, HostCopy, LaunchShape,
};
use super::fill::{Batch, FillFormat, can_be_staged};
use super::gpu::{CudaDevice, Loaded};
use super::queue::{MAX_HELD, RowQueue, Stretch};
use crate::data::Key;
use crate::device::executor::{
    Executor, Filling, Gpu, MemoryPart, PlacedCopy, PlacedTensor,
};
use crate::device::{
    KernelFacts, LaunchError, Layout, PrepareError, Prepared, Refusal, Timing,
};
use crate::format::{MemoryPlace, Role};
use crate::kernel::{EncodedTensorMap, Launch, ParamBytes, Plan, PlannedLaunch};
use crate::op::Problem;
use crate::point::LaunchMode;
use crate::tuning::Chosen;

/// Parts of an allocation begin at multiples of this: what cuMemAlloc promises.
const ALIGNMENT: u64 = 256;

/// Bytes compared at either end of a tensor after it was filled.
const COMPARED_BYTES: u64 = 4096;

/// A GPU with a kernel loaded, and the memory of one problem.
struct CudaGpu<'a> {
    device: &'a CudaDevice,
    /// By the number of the image; none for a kernel that is copies only.
    loaded: Vec<Rc<Loaded>>,
    /// Whether launches may begin while what is before them drains, where they can.
    overlaps: bool,
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

    /// On the GPU, except what lies on the host, and page tables and some small formats,
    /// which the host draws.
    fn fill_all(&mut self, fillings: &[Filling]) -> driver::Result<()> {
        let mut batch = Batch::default();
        for Filling { placed: PlacedTensor { tensor, address }, key } in fillings {
            let (address, bytes) = (*address, tensor.bytes());
            let is_here = tensor.place == MemoryPlace::Device;
            let format = FillFormat::of(tensor.format);
            let is_staged = key.is_some() && format.is_none() && can_be_staged(tensor);
            if !batch.has_room(if is_staged { bytes } else { 0 }) {
                self.device.filler.flush(&self.device.stream, &mut batch)?;
            }
            match (key, format) {
                (None, _) if is_here => batch.poison(address, bytes),
                (Some(key), Some(format)) if is_here => {
                    batch.draw(address, bytes, *key, format);
                }
                (Some(key), None) if is_here && is_staged => {
                    batch.stage(address, tensor, *key);
                }
                (Some(key), _) => self.fill(tensor, address, *key)?,
                (None, _) => self.poison(address, bytes)?,
            }
        }
        self.device.filler.flush(&self.device.stream, &mut batch)
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
        planned: PlannedLaunch<'_>,
    ) -> driver::Result<(Function, LaunchShape)> {
        let PlannedLaunch { plan, image, launch } = planned;
        let loaded = self.loaded.get(image);
        let function = loaded.and_then(|loaded| loaded.function(launch.entry)).cloned();
        let function = function.ok_or(DriverError::NotLoaded { entry: launch.entry })?;
        // Several launches may share a function; the largest need counts.
        if launch.shared_bytes > 0 {
            let same = plan.launches.iter().filter(|l| l.entry == launch.entry);
            let most = same.map(|l| l.shared_bytes).max().unwrap_or(0);
            function.allow_shared_bytes(most)?;
        }
        if launch.prefers_l1 {
            function.prefer_l1()?;
        }
        let overlaps_previous = launch.overlaps_previous && self.overlaps;
        Ok((function, LaunchShape { overlaps_previous, ..shape(launch) }))
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

/// `DigestParams` of `kernels/device.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DigestParams {
    pairs: u64,
    sum: u64,
    count: u64,
}

/// What runs a problem in a slot.
struct Runs<'a> {
    device: &'a CudaDevice,
    executor: Executor<CudaGpu<'a>>,
    /// The vendor's, where it stands in the place of launches.
    product: Option<VendorProduct>,
}

/// Entries that a product of the vendor's library adds to the queue at most: a kernel, and
/// for products whose sums are split, one that clears and one that adds.
const VENDOR_ENTRIES: usize = 3;

impl Runs<'_> {
    fn run(&mut self, slot: usize) -> driver::Result<()> {
        self.executor.run(slot)?;
        let product = self.product.as_ref();
        product.map_or(Ok(()), |product| {
            product.queue(&self.device.stream, self.executor.tensors(slot))
        })
    }

    /// Runs that follow each other, from a slot on.
    fn run_stretch(&mut self, stretch: Stretch) -> driver::Result<()> {
        let slots = self.executor.slots();
        let Stretch { first_slot, launches } = stretch;
        (first_slot..first_slot + launches).try_for_each(|number| self.run(number % slots))
    }

    /// Entries that a run adds to the queue.
    fn entries(&self) -> usize {
        self.executor.entries_per_run()
            + if self.product.is_some() { VENDOR_ENTRIES } else { 0 }
    }

    /// Uses the fastest of the vendor's algorithms, and returns its number. One that fails
    /// is left out.
    fn choose_algorithm(&mut self) -> Result<usize, LaunchError> {
        let choices = self.product.as_ref().map_or(0, VendorProduct::choices);
        let mut times = Vec::new();
        let mut failure = None;
        for number in 0..choices {
            match self.choose(number).and_then(|()| self.time_choice()) {
                Ok(seconds) => times.push((seconds, number)),
                Err(why) => failure = Some(why),
            }
        }
        let fastest = times.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
        match (fastest, failure) {
            (Some((_, number)), _) => self.choose(number).map(|()| number),
            (None, Some(why)) => Err(why),
            (None, None) => Ok(0),
        }
    }

    /// Uses an algorithm, and runs it once: that may load its kernel.
    fn choose(&mut self, number: usize) -> Result<(), LaunchError> {
        if let Some(product) = &mut self.product {
            product.choose(number);
        }
        let first = self.run(0).and_then(|()| self.device.stream.synchronize());
        first.map_err(|e| LaunchError(e.to_string()))
    }

    /// Seconds of a run, the shorter of two rows that follow a first run.
    fn time_choice(&mut self) -> Result<f64, LaunchError> {
        let single_s = self.time(Stretch { first_slot: 0, launches: 1 })?;
        let most = MAX_HELD / self.entries();
        let launches = (CHOICE_S / single_s.max(1e-6)) as usize;
        let row = Stretch { first_slot: 0, launches: launches.clamp(2, most) };
        let shorter_s = self.time(row)?.min(self.time(row)?);
        Ok(shorter_s / row.launches as f64)
    }

    fn time(&mut self, row: Stretch) -> Result<f64, LaunchError> {
        let device = self.device;
        let timing = device.stopwatch.time(&device.stream, |_| self.run_stretch(row))?;
        Ok(timing.seconds)
    }
}

/// Seconds of a row by which algorithms are compared.
const CHOICE_S: f64 = 1e-3;

/// A prepared point.
pub(super) struct CudaPoint<'a> {
    device: &'a CudaDevice,
    runs: Runs<'a>,
    queue: RowQueue,
    /// Recorded launches.
    graphs: HashMap<Stretch, Graph>,
    facts: Option<KernelFacts>,
    chosen: Option<Chosen>,
    tuning_s: f64,
}

impl CudaPoint<'_> {
    /// The same, of a kernel in this configuration.
    pub(super) fn chosen_as(self, chosen: Chosen) -> Self {
        CudaPoint { chosen: Some(chosen), ..self }
    }
}

/// Most graphs that are kept: what a row is made of, and some of warm-up's.
const MAX_GRAPHS: usize = 40;

/// Lays out and fills everything that the copies and launches of `plan` need.
pub(super) fn prepare<'a>(
    device: &'a CudaDevice,
    problem: &Problem,
    plan: Plan,
    loaded: &[Rc<Loaded>],
    layout: Layout,
) -> Result<CudaPoint<'a>, PrepareError> {
    let Layout { slots, seed, .. } = layout;
    let failed =
        |e: DriverError| PrepareError::from(LaunchError(format!("{problem}: {e}")));
    device.context.reset_persisting_l2().map_err(failed)?;
    let mode = launch_mode(&plan, layout.launch)?;
    let gpu = CudaGpu {
        device,
        loaded: loaded.to_vec(),
        overlaps: mode == LaunchMode::Programmatic,
        buffers: Vec::new(),
        host_buffers: Vec::new(),
    };
    let mut executor = Executor::new(gpu, problem, plan, slots, seed)?;
    for slot in [0, slots - 1] {
        verify_fill(&mut executor, slot, seed)?;
    }
    let mode = if executor.waits_for_host() { LaunchMode::Stream } else { mode };
    if layout.launch.is_some_and(|asked| asked != mode) {
        return Err(Refusal(format!(
            "{problem}: the host takes part in its copies, so they cannot be recorded; use \
             `launch = \"stream\"`"
        ))
        .into());
    }
    let facts = facts(&executor, loaded).map_err(failed)?;
    let mut runs = Runs { device, executor, product: None };
    // The first launch of a kernel may load it, which must not happen while the
    // GPU is held.
    runs.run(0).and_then(|()| device.stream.synchronize()).map_err(failed)?;
    let queue = RowQueue::new(slots, runs.entries(), mode);
    let graphs = HashMap::new();
    Ok(CudaPoint { device, runs, queue, graphs, facts, chosen: None, tuning_s: 0.0 })
}

/// The same for the kernel of the vendor's library.
pub(super) fn prepare_vendor<'a>(
    device: &'a CudaDevice,
    problem: &Problem,
    layout: Layout,
) -> Result<CudaPoint<'a>, PrepareError> {
    let failed = |e: LaunchError| LaunchError(format!("{problem}: {e}"));
    cublaslt::takes(problem)?;
    // Whatever else it moves, its caches decide.
    let plan = Plan { extra_bytes: None, ..Plan::of_copies(Vec::new()) };
    let mut ready = prepare(device, problem, plan, &[], layout)?;
    let slot = ready.runs.executor.tensors(0);
    let product = VendorProduct::new(device.vendor(), &device.context, problem, slot)?;
    ready.runs.product = Some(product);
    let known = device.chosen.borrow().get(&problem.to_string()).copied();
    let began = Instant::now();
    match known {
        Some(number) => ready.runs.choose(number).map_err(failed)?,
        None => {
            let number = ready.runs.choose_algorithm().map_err(failed)?;
            device.chosen.borrow_mut().insert(problem.to_string(), number);
        }
    }
    ready.tuning_s = began.elapsed().as_secs_f64();
    ready.queue = ready.queue.with_entries(ready.runs.entries());
    Ok(ready)
}

/// How rows are queued. Launches overlap those of the run before only where every kernel
/// waits for what it needs of them.
fn launch_mode(plan: &Plan, asked: Option<LaunchMode>) -> Result<LaunchMode, Refusal> {
    let of_plan =
        if plan.overlaps_runs { LaunchMode::Programmatic } else { LaunchMode::Graph };
    let mode = asked.unwrap_or(of_plan);
    if mode == LaunchMode::Programmatic && plan.all_launches().next().is_none() {
        let why = "only launches of own kernels can overlap; use `launch = \"graph\"`";
        return Err(Refusal(why.to_owned()));
    }
    let mut launches = plan.all_launches().map(|planned| planned.launch);
    let alone = launches.find(|launch| !launch.overlaps_previous);
    match alone.filter(|_| mode == LaunchMode::Programmatic) {
        None => Ok(mode),
        Some(launch) => Err(Refusal(format!(
            "the kernel's function `{}` does not wait for the launch before it \
             (griddepcontrol.wait), so the two must not overlap; use `launch = \"graph\"`",
            launch.entry
        ))),
    }
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

/// The digest of so many pairs of words in device memory.
fn digest(device: &CudaDevice, pairs: u64, count: u64) -> driver::Result<u64> {
    const BYTES: u64 = 8;
    let sum = Buffer::new(&device.context, BYTES)?;
    sum.set(&device.stream, 0, BYTES, 0)?;
    let params = ParamBytes::of(&DigestParams { pairs, sum: sum.address(), count });
    let blocks = count.div_ceil(256).clamp(1, 4096) as u32;
    let shape = LaunchShape { block: [256, 1, 1], ..LaunchShape::warps(blocks) };
    device.stream.launch(&device.digest, &shape, &[params])?;
    let mut found = [0u64];
    sum.download(&device.stream, 0, bytemuck::cast_slice_mut(&mut found))?;
    Ok(found[0])
}

/// Facts about the launch with the most blocks, which is the main one; `None` without launches.
fn facts(
    executor: &Executor<CudaGpu>,
    loaded: &[Rc<Loaded>],
) -> driver::Result<Option<KernelFacts>> {
    let by = |[x, y, z]: [u32; 3]| format!("{x}x{y}x{z}");
    let launches = executor.entries().iter().zip(executor.plan().all_launches());
    let blocks =
        |shape: &LaunchShape| -> u64 { shape.grid.iter().map(|&n| u64::from(n)).product() };
    // Of equal ones the first.
    let main = launches.min_by_key(|((_, shape), _)| Reverse(blocks(shape)));
    let Some(((function, shape), planned)) = main else { return Ok(None) };
    let binary = &loaded[planned.image].binary;
    let compiled = binary.resources.get(planned.launch.entry);
    Ok(Some(KernelFacts {
        grid: by(shape.grid),
        block: by(shape.block),
        registers: function.registers()?,
        spill_bytes: match compiled {
            Some(r) => r.spill_store_bytes + r.spill_load_bytes,
            None => function.local_bytes()?,
        },
        shared_bytes: function.static_shared_bytes()? + shape.shared_bytes,
        blocks_per_sm: function.blocks_per_sm(shape)?,
        code_hash: code_hash(loaded),
    }))
}

/// The hash of the machine code, of several images that of their hashes.
fn code_hash(loaded: &[Rc<Loaded>]) -> String {
    match loaded {
        [one] => one.binary.hash.clone(),
        several => {
            let mut hasher = blake3::Hasher::new();
            several.iter().for_each(|image| {
                hasher.update(image.binary.hash.as_bytes());
            });
            hasher.finalize().to_hex()[..several[0].binary.hash.len()].to_owned()
        }
    }
}

impl CudaPoint<'_> {
    /// Records what is not recorded yet.
    fn record(&mut self, row: &[Stretch]) -> driver::Result<()> {
        let missing = row.iter().filter(|stretch| !self.graphs.contains_key(stretch));
        let missing: Vec<Stretch> = missing.copied().collect();
        if self.graphs.len() + missing.len() > MAX_GRAPHS {
            self.graphs.retain(|stretch, _| row.contains(stretch));
        }
        let stream = &self.device.stream;
        for stretch in missing {
            if self.graphs.contains_key(&stretch) {
                continue;
            }
            let graph = stream.capture(|| self.runs.run_stretch(stretch))?;
            graph.upload(stream)?;
            self.graphs.insert(stretch, graph);
        }
        // Before the GPU is held: what is uploaded is then there.
        stream.synchronize()
    }

    /// Queues a row of graphs.
    fn queue_graphs(&self, row: &[Stretch], let_go: &dyn Fn()) -> driver::Result<()> {
        let mut held = 0;
        for stretch in row {
            let entries = self.queue.entries(*stretch);
            held += entries;
            // The first graph is always held, however many launches it has.
            if held > MAX_HELD.max(entries) {
                let_go();
            }
            self.device.stream.launch_graph(&self.graphs[stretch])?;
        }
        Ok(())
    }

    /// Times a row of graphs.
    fn time_graphs(
        &mut self,
        first_slot: usize,
        launches: usize,
    ) -> Result<Timing, LaunchError> {
        let row = self.queue.stretches(first_slot, launches);
        self.record(&row).map_err(|e| LaunchError(e.to_string()))?;
        let device = self.device;
        device.stopwatch.time(&device.stream, |let_go| self.queue_graphs(&row, let_go))
    }

    /// Times launches that are queued one by one. Short kernels end sooner than the host
    /// queues the next, so a row is timed in parts that can be held. What the host takes
    /// part in would wait for the GPU for ever: it is let go first, and the time of the row
    /// is also the host's.
    fn time_one_by_one(
        &mut self,
        first_slot: usize,
        launches: usize,
    ) -> Result<Timing, LaunchError> {
        let (mut seconds, mut cycles) = (0.0, 0.0);
        let device = self.device;
        for stretch in self.queue.stretches(first_slot, launches) {
            let runs = &mut self.runs;
            let timing = device.stopwatch.time(&device.stream, |let_go| {
                if runs.executor.waits_for_host() {
                    let_go();
                }
                runs.run_stretch(stretch)
            })?;
            seconds += timing.seconds;
            cycles += timing.sm_clock_hz.unwrap_or(f64::NAN) * timing.seconds;
        }
        let sm_clock_hz = Some(cycles / seconds).filter(|clock| clock.is_finite());
        Ok(Timing { seconds, sm_clock_hz })
    }
}

impl Prepared for CudaPoint<'_> {
    fn extra_bytes(&self) -> Option<u64> {
        self.runs.executor.plan().extra_bytes
    }

    fn kernel_facts(&self) -> Option<KernelFacts> {
        self.facts.clone()
    }

    fn poison(&mut self) -> Result<(), LaunchError> {
        let done =
            self.runs.executor.poison().and_then(|()| self.device.stream.synchronize());
        done.map_err(|e| LaunchError(e.to_string()))
    }

    fn implementation(&self) -> Option<String> {
        self.runs.product.as_ref().map(VendorProduct::implementation)
    }

    fn chosen(&self) -> Option<Chosen> {
        self.chosen.clone()
    }

    fn tuning_s(&self) -> f64 {
        self.tuning_s
    }

    fn launch_mode(&self, launches: usize) -> Option<LaunchMode> {
        Some(self.queue.mode(launches))
    }

    fn row_launches(&self, wanted: usize) -> usize {
        self.queue.row_launches(wanted)
    }

    fn launch(
        &mut self,
        first_slot: usize,
        launches: usize,
    ) -> Result<Timing, LaunchError> {
        match self.queue.mode(launches) {
            LaunchMode::Graph | LaunchMode::Programmatic => {
                self.time_graphs(first_slot, launches)
            }
            LaunchMode::Stream => self.time_one_by_one(first_slot, launches),
        }
    }

    fn energy_j(&self) -> Option<f64> {
        self.device.nvidia.as_ref()?.energy_j()
    }

    fn digest(&mut self, slot: usize) -> Result<Option<u64>, LaunchError> {
        let outputs: Vec<PlacedTensor> = self.runs.executor.output_tensors(slot).collect();
        let [PlacedTensor { tensor, address }] = outputs[..] else { return Ok(None) };
        if tensor.place != MemoryPlace::Device {
            return Ok(None);
        }
        let digest = digest(self.device, address, tensor.bytes() / 8);
        digest.map(Some).map_err(|e| LaunchError(e.to_string()))
    }

    fn profile(&mut self, on: bool) -> Result<(), LaunchError> {
        self.device.context.profile(on).map_err(|e| LaunchError(e.to_string()))
    }

    fn output(&mut self, slot: usize) -> Result<Cow<'_, [u8]>, LaunchError> {
        Ok(Cow::Owned(self.runs.executor.output(slot)?))
    }
}
