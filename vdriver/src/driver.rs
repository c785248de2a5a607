//! The state of the driver, and what its calls do to it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ptxvm::{KernelParam, Module, TensorMap};

use crate::capture::Recording;
use crate::code::{Code, Result};
use crate::faults::{Kind, Outcome};
use crate::host::HostRange;
use crate::module::{
    Function, Loaded, SHARED_PER_BLOCK, SHARED_PER_SM, SHARED_RESERVED, Shape,
    THREADS_PER_SM,
};
use crate::queue::{Entry, Gpu, Handle, Launched};
use crate::remark::remark;
use crate::settings::Settings;

/// The GPU's name.
pub const NAME: &str = "virtual sm_90a (ptxvm)";

/// The API that it has: CUDA 13.0.
pub const VERSION: i32 = 13_000;

/// L2 cache, in bytes. Small, so that little memory is cold.
const L2_BYTES: i32 = 256 << 10;

/// Clock of the multiprocessors, and of memory, in kHz.
const CLOCK_KHZ: i32 = 1_000_000;

/// Width of the memory bus, in bits: more than the counted times can ask for.
const BUS_BITS: i32 = 1024;

/// The default stream.
const DEFAULT_STREAM: Handle = 0;

/// A stream.
#[derive(Debug, Default)]
struct Stream {
    /// Entries with their numbers in the order of all streams.
    queue: VecDeque<(u64, Entry)>,
}

/// A mark in a stream.
#[derive(Clone, Copy, Debug)]
struct Event {
    is_timed: bool,
    /// Where it was queued last: the stream, and its number there.
    queued: Option<(Handle, u64)>,
}

/// All of it.
#[derive(Debug)]
pub struct Driver {
    settings: Settings,
    /// By function.
    calls: BTreeMap<&'static str, u64>,
    is_started: bool,
    gpu: Gpu,
    host: HashMap<usize, HostRange>,
    modules: HashMap<Handle, Arc<Loaded>>,
    functions: HashMap<Handle, Function>,
    streams: HashMap<Handle, Stream>,
    events: HashMap<Handle, Event>,
    graphs: HashMap<Handle, Arc<[Entry]>>,
    recording: Option<Recording>,
    next_handle: Handle,
    next_number: u64,
}

/// The one of this process.
static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

/// Makes a call: counts it, and lets it fail if a test wants that.
///
/// # Errors
/// What the call answers.
pub fn call<T>(
    name: &'static str,
    body: impl FnOnce(&mut Driver) -> Result<T>,
) -> Result<T> {
    let mut driver: MutexGuard<Option<Driver>> =
        DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
    let driver = match &mut *driver {
        Some(driver) => driver,
        none => none.insert(Driver::of_this_process()?),
    };
    *driver.calls.entry(name).or_default() += 1;
    match driver.settings.faults.now(Kind::Call, |what| what == name) {
        Some(Outcome::Fails(code)) => {
            if code.is_final() {
                driver.gpu.break_with(code);
            }
            if name == "cuStreamEndCapture" {
                // It ends the recording whatever it answers.
                driver.recording = None;
            }
            Err(code)
        }
        _ => body(driver),
    }
}

impl Driver {
    fn of_this_process() -> Result<Self> {
        let settings = Settings::of_this_process().map_err(|why| {
            remark(why);
            Code::INVALID_VALUE
        })?;
        Ok(Driver::new(settings))
    }

    /// A driver that was not started.
    pub fn new(settings: Settings) -> Self {
        Driver {
            gpu: Gpu::new(settings.sms),
            settings,
            calls: BTreeMap::new(),
            is_started: false,
            host: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            streams: [(DEFAULT_STREAM, Stream::default())].into(),
            events: HashMap::new(),
            graphs: HashMap::new(),
            recording: None,
            next_handle: 1,
            next_number: 0,
        }
    }

    fn handle(&mut self) -> Handle {
        self.next_handle += 1;
        // Like the address of something.
        self.next_handle * 64
    }

    /// Starts it.
    pub const fn start(&mut self) {
        self.is_started = true;
    }

    /// The only GPU.
    ///
    /// # Errors
    /// Another one, a driver that was not started.
    pub fn device(&self, ordinal: i32) -> Result {
        match (self.is_started, ordinal) {
            (false, _) => Err(Code::NOT_INITIALIZED),
            (true, 0) => Ok(()),
            _ => Err(Code::INVALID_DEVICE),
        }
    }

    /// An attribute of the GPU, by its number as `CUdevice_attribute`.
    ///
    /// # Errors
    /// One that this driver does not know.
    pub fn attribute(&self, attribute: i32) -> Result<i32> {
        Ok(match attribute {
            1 => 1024,
            8 => 48 << 10,
            10 => 32,
            13 | 36 => CLOCK_KHZ,
            16 => self.settings.sms as i32,
            32 => 0,
            37 => BUS_BITS,
            38 => L2_BYTES,
            39 => THREADS_PER_SM as i32,
            75 => 9,
            76 => 0,
            81 => SHARED_PER_SM as i32,
            97 => SHARED_PER_BLOCK as i32,
            111 => SHARED_RESERVED as i32,
            _ => return Err(Code::INVALID_VALUE),
        })
    }

    /// What a call that needs the context asks first.
    ///
    /// # Errors
    /// What ended it.
    pub fn context(&self) -> Result {
        match (self.is_started, self.gpu.broken()) {
            (_, Some(code)) => Err(code),
            (false, None) => Err(Code::NOT_INITIALIZED),
            (true, None) => Ok(()),
        }
    }

    /// Writes how often each function was called, if a test wants to know.
    pub fn release(&self) {
        let Some(path) = &self.settings.calls else { return };
        let mut text = String::new();
        for (name, count) in &self.calls {
            let _ = writeln!(text, "{name} {count}");
        }
        if let Err(why) = std::fs::write(path, text) {
            remark(format_args!("cannot write {}: {why}", path.display()));
        }
    }

    /// Free bytes of device memory, and all.
    pub fn memory_bytes(&self) -> (u64, u64) {
        let total = self.settings.memory_bytes;
        (total.saturating_sub(self.gpu.allocated_bytes()), total)
    }

    /// Allocates device memory.
    ///
    /// # Errors
    /// No bytes, more than is free.
    pub fn allocate(&mut self, bytes: u64) -> Result<u64> {
        match bytes {
            0 => Err(Code::INVALID_VALUE),
            bytes if bytes > self.memory_bytes().0 => Err(Code::OUT_OF_MEMORY),
            bytes => Ok(self.gpu.allocate(bytes)),
        }
    }

    /// Frees device memory when all that is queued has run.
    ///
    /// # Errors
    /// An address that was not allocated, what goes wrong meanwhile.
    pub fn free(&mut self, address: u64) -> Result {
        self.run_all()?;
        self.gpu.free(address)
    }

    /// Whether so many bytes of the host can be pinned beside what is.
    ///
    /// # Errors
    /// They cannot.
    pub fn check_host_bytes(&self, bytes: usize) -> Result {
        let pinned: u64 = self.host.values().map(|range| range.bytes() as u64).sum();
        match bytes as u64 {
            0 => Err(Code::INVALID_VALUE),
            bytes if pinned.saturating_add(bytes) > self.settings.host_bytes => {
                Err(Code::OUT_OF_MEMORY)
            }
            _ => Ok(()),
        }
    }

    /// Knows a range of the host as pinned.
    pub fn pin(&mut self, range: HostRange) {
        self.host.insert(range.address(), range);
    }

    /// Forgets the pinned range that begins at an address, when all that is queued has
    /// run.
    ///
    /// # Errors
    /// Another address, what goes wrong meanwhile.
    pub fn unpin(&mut self, address: usize) -> Result<HostRange> {
        self.run_all()?;
        let range = self.host.remove(&address).ok_or(Code::INVALID_VALUE)?;
        self.gpu.unmap(range);
        Ok(range)
    }

    /// Where kernels find the pinned range that begins at an address.
    ///
    /// # Errors
    /// Another address.
    pub fn map(&mut self, address: usize) -> Result<u64> {
        let range = *self.host.get(&address).ok_or(Code::INVALID_VALUE)?;
        Ok(self.gpu.map(range))
    }

    fn is_pinned(&self, range: &HostRange) -> bool {
        self.host.values().any(|pinned| pinned.contains(range))
    }

    /// Queues a copy. One of pageable memory is made now, after all that is queued on its
    /// stream.
    ///
    /// # Errors
    /// A range that is not allocated, pageable memory while the stream records, what goes
    /// wrong meanwhile.
    pub fn copy(&mut self, stream: Handle, device: u64, entry: Entry) -> Result {
        let (Entry::CopyIn { from: host, .. } | Entry::CopyOut { to: host, .. }) = &entry
        else {
            return Err(Code::INVALID_VALUE);
        };
        self.gpu.check(device, host.bytes() as u64)?;
        let is_pinned = self.is_pinned(host);
        if is_pinned {
            return self.push(stream, entry);
        }
        self.refuse_recording(stream)?;
        self.push(stream, entry)?;
        self.run(stream, u64::MAX)
    }

    /// Queues a write of one value.
    ///
    /// # Errors
    /// A range that is not allocated.
    pub fn set(&mut self, stream: Handle, address: u64, bytes: u64, value: u8) -> Result {
        self.gpu.check(address, bytes)?;
        self.push(stream, Entry::Set { address, bytes, value })
    }
}

/// Modules and functions.
impl Driver {
    /// Loads PTX; or says why not, in words too.
    ///
    /// # Errors
    /// PTX that the virtual machine does not take.
    pub fn load(&mut self, ptx: &str) -> Result<Handle, (Code, String)> {
        let refused = self.settings.faults.now(Kind::Load, |what| ptx.contains(what));
        if let Some(Outcome::Fails(code)) = refused {
            return Err((code, "refused because a test wants it".to_owned()));
        }
        let module =
            Module::parse(ptx).map_err(|why| (Code::INVALID_PTX, why.to_string()))?;
        let handle = self.handle();
        self.modules.insert(handle, Arc::new(Loaded { module, ptx: ptx.to_owned() }));
        Ok(handle)
    }

    /// Forgets a module.
    ///
    /// # Errors
    /// A handle of none.
    pub fn unload(&mut self, module: Handle) -> Result {
        self.modules.remove(&module).map(drop).ok_or(Code::INVALID_HANDLE)
    }

    /// Finds a kernel in a module.
    ///
    /// # Errors
    /// A handle of no module, a name that it does not have.
    pub fn find(&mut self, module: Handle, entry: &str) -> Result<Handle> {
        let loaded = self.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        let function = Function::find(loaded, entry)?;
        let handle = self.handle();
        self.functions.insert(handle, function);
        Ok(handle)
    }

    /// A kernel.
    ///
    /// # Errors
    /// A handle of none.
    pub fn function(&self, function: Handle) -> Result<&Function> {
        self.functions.get(&function).ok_or(Code::INVALID_HANDLE)
    }

    /// Sets an attribute of a kernel; only three can be set, and how L1 and shared memory divide
    /// what they share changes nothing here.
    ///
    /// # Errors
    /// A handle of none, another attribute, a value that cannot be.
    pub fn set_attribute(
        &mut self,
        function: Handle,
        attribute: i32,
        value: i32,
    ) -> Result {
        let function = self.functions.get_mut(&function).ok_or(Code::INVALID_HANDLE)?;
        match attribute {
            8 => function.allow_shared_bytes(value),
            9 if (-1..=100).contains(&value) => Ok(()),
            14 => function.allow_big_clusters(value),
            _ => Err(Code::INVALID_VALUE),
        }
    }

    /// Queues a kernel. `params` copies the parameters into the block, by their places.
    ///
    /// # Errors
    /// A shape that cannot be launched.
    pub fn launch(
        &mut self,
        stream: Handle,
        function: Handle,
        shape: Shape,
        params: impl FnOnce(&[KernelParam], &mut [u8]),
    ) -> Result {
        let function = self.function(function)?.clone();
        function.check(&shape)?;
        let places = function.params();
        let end = places.last().map_or(0, |param| param.offset + param.bytes);
        let mut block = vec![0; end];
        params(places, &mut block);
        let launched = Launched { function, shape, params: block };
        self.push(stream, Entry::Launch(Arc::new(launched)))
    }
}

/// Streams, events and graphs.
impl Driver {
    /// Makes a stream.
    pub fn new_stream(&mut self) -> Handle {
        let handle = self.handle();
        self.streams.insert(handle, Stream::default());
        handle
    }

    /// Destroys a stream, when all that is queued on it has run.
    ///
    /// # Errors
    /// A handle of none, what goes wrong meanwhile.
    pub fn destroy_stream(&mut self, stream: Handle) -> Result {
        self.run(stream, u64::MAX)?;
        self.streams.remove(&stream).map(drop).ok_or(Code::INVALID_HANDLE)
    }

    /// Runs all that is queued on a stream.
    ///
    /// # Errors
    /// A handle of none, a stream that records, what goes wrong meanwhile.
    pub fn synchronize(&mut self, stream: Handle) -> Result {
        self.refuse_recording(stream)?;
        self.run(stream, u64::MAX)
    }

    /// Runs all that is queued.
    ///
    /// # Errors
    /// A stream that records, what goes wrong meanwhile.
    pub fn synchronize_all(&mut self) -> Result {
        if let Some(recording) = &mut self.recording {
            recording.spoil();
            return Err(Code::CAPTURE_UNSUPPORTED);
        }
        self.run_all()
    }

    fn run_all(&mut self) -> Result {
        let mut streams: Vec<Handle> = self.streams.keys().copied().collect();
        streams.sort_unstable();
        streams.into_iter().try_for_each(|stream| self.run(stream, u64::MAX))
    }

    /// Runs the entries of a stream that are older than a number.
    fn run(&mut self, stream: Handle, before: u64) -> Result {
        loop {
            let queue = self.streams.get_mut(&stream).ok_or(Code::INVALID_HANDLE)?;
            match queue.queue.front() {
                Some((number, _)) if *number < before => {}
                _ => return Ok(()),
            }
            let Some((_, entry)) = queue.queue.pop_front() else { return Ok(()) };
            match entry {
                // A stream that was destroyed has run.
                Entry::Wait { stream, .. } if !self.streams.contains_key(&stream) => {}
                Entry::Wait { stream, before } => self.run(stream, before)?,
                entry => self.gpu.execute(&entry, &mut self.settings.faults)?,
            }
        }
    }

    fn push(&mut self, stream: Handle, entry: Entry) -> Result {
        if let Some(recording) = self.recording.as_mut().filter(|r| r.has(stream)) {
            recording.push(stream, entry);
            return Ok(());
        }
        let number = self.next_number;
        self.next_number += 1;
        let found = self.streams.get_mut(&stream).ok_or(Code::INVALID_HANDLE)?;
        found.queue.push_back((number, entry));
        Ok(())
    }

    /// What waits for a stream spoils what it records.
    fn refuse_recording(&mut self, stream: Handle) -> Result {
        match self.recording.as_mut().filter(|r| r.has(stream)) {
            Some(recording) => {
                recording.spoil();
                Err(Code::CAPTURE_UNSUPPORTED)
            }
            None => Ok(()),
        }
    }

    /// Makes an event.
    pub fn new_event(&mut self, is_timed: bool) -> Handle {
        let handle = self.handle();
        self.events.insert(handle, Event { is_timed, queued: None });
        handle
    }

    /// Destroys an event.
    ///
    /// # Errors
    /// A handle of none.
    pub fn destroy_event(&mut self, event: Handle) -> Result {
        self.events.remove(&event).ok_or(Code::INVALID_HANDLE)?;
        self.gpu.forget(event);
        Ok(())
    }

    /// Queues an event.
    ///
    /// # Errors
    /// A handle of none.
    pub fn record(&mut self, event: Handle, stream: Handle) -> Result {
        if let Some(recording) = self.recording.as_mut().filter(|r| r.has(stream)) {
            recording.record(stream, event);
            return Ok(());
        }
        let number = self.next_number;
        let found = self.events.get_mut(&event).ok_or(Code::INVALID_HANDLE)?;
        found.queued = Some((stream, number));
        self.gpu.forget(event);
        self.push(stream, Entry::Record(event))
    }

    /// Lets a stream wait for an event.
    ///
    /// # Errors
    /// A handle of none, a stream that records and an event that was not.
    pub fn wait(&mut self, stream: Handle, event: Handle) -> Result {
        let known = *self.events.get(&event).ok_or(Code::INVALID_HANDLE)?;
        if let Some(recording) = &mut self.recording {
            if recording.has_event(event) {
                recording.wait(stream, event);
                return Ok(());
            }
            if recording.has(stream) {
                recording.spoil();
                return Err(Code::CAPTURE_ISOLATION);
            }
        }
        match known.queued {
            Some((of, number)) => {
                self.push(stream, Entry::Wait { stream: of, before: number + 1 })
            }
            None => Ok(()),
        }
    }

    /// Milliseconds between two events.
    ///
    /// # Errors
    /// A handle of none, an event that keeps no time or was not passed.
    pub fn elapsed_ms(&self, from: Handle, to: Handle) -> Result<f32> {
        let passed_ns = |event: Handle| {
            let known = self.events.get(&event).ok_or(Code::INVALID_HANDLE)?;
            if !known.is_timed || known.queued.is_none() {
                return Err(Code::INVALID_HANDLE);
            }
            self.gpu.passed_ns(event).ok_or(Code::NOT_READY)
        };
        Ok((passed_ns(to)? as f64 - passed_ns(from)? as f64) as f32 * 1e-6)
    }

    /// Lets a stream record.
    ///
    /// # Errors
    /// A handle of none, another one that records.
    pub fn begin_capture(&mut self, stream: Handle) -> Result {
        if !self.streams.contains_key(&stream) || stream == DEFAULT_STREAM {
            return Err(Code::INVALID_HANDLE);
        }
        if self.recording.is_some() {
            return Err(Code::NOT_SUPPORTED);
        }
        self.recording = Some(Recording::new(stream));
        Ok(())
    }

    /// Ends that, and returns the graph.
    ///
    /// # Errors
    /// A stream that does not record, or whose recording was spoiled.
    pub fn end_capture(&mut self, stream: Handle) -> Result<Handle> {
        let recording = self.recording.take().ok_or(Code::INVALID_VALUE)?;
        let entries = recording.end(stream)?;
        let handle = self.handle();
        self.graphs.insert(handle, entries.into());
        Ok(handle)
    }

    /// Makes a graph that can be launched of one that was recorded.
    ///
    /// # Errors
    /// A handle of none.
    pub fn instantiate(&mut self, graph: Handle) -> Result<Handle> {
        let entries = Arc::clone(self.graph(graph)?);
        let handle = self.handle();
        self.graphs.insert(handle, entries);
        Ok(handle)
    }

    /// A graph.
    ///
    /// # Errors
    /// A handle of none.
    pub fn graph(&self, graph: Handle) -> Result<&Arc<[Entry]>> {
        self.graphs.get(&graph).ok_or(Code::INVALID_HANDLE)
    }

    /// Queues a graph.
    ///
    /// # Errors
    /// A handle of none.
    pub fn launch_graph(&mut self, graph: Handle, stream: Handle) -> Result {
        let entries = Arc::clone(self.graph(graph)?);
        entries.iter().try_for_each(|entry| self.push(stream, entry.clone()))
    }

    /// Destroys a graph of either kind.
    ///
    /// # Errors
    /// A handle of none.
    pub fn destroy_graph(&mut self, graph: Handle) -> Result {
        self.graphs.remove(&graph).map(drop).ok_or(Code::INVALID_HANDLE)
    }
}

/// Encodes a tensor map.
///
/// # Errors
/// One that the driver would refuse.
pub fn encode(map: &TensorMap) -> Result<[u8; 128]> {
    map.encode().map_err(|why| {
        remark(format_args!("a tensor map: {why}"));
        Code::INVALID_VALUE
    })
}

#[cfg(test)]
mod tests;
