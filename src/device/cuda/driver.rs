//! The CUDA driver behind safe types. The only file that calls it.
//!
//! cudarc loads libcuda when it is first used, and panics where that fails or
//! a symbol is missing. [`Context::open`] therefore looks before the first call: at the
//! library, at every symbol in `SYMBOLS`, at the driver's version. After it
//! has returned a [`Context`], no call here can panic.
//!
//! # Safety
//! Handles are made and destroyed by the types that own them, and those keep
//! the context alive. Host memory is reached by the driver in three places
//! only: copies, whose ranges are checked here; the parameters of a launch,
//! which it copies before it returns; and [`HostPage`], which is 64 bytes of
//! plain words. What a kernel does to device memory cannot break the safety of
//! the host.

#![allow(unsafe_code, reason = "the one file that calls the CUDA driver")]

use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;
use std::rc::Rc;

use cudarc::driver::sys;
use ptxvm::{OutOfBoundsFill, TensorElement};
use sys::CUdevice_attribute as Attribute;
use sys::CUfunction_attribute as FunctionAttribute;
use thiserror::Error;

use crate::kernel::EncodedTensorMap;

/// Oldest driver whose API is used, as `1000 * major + 10 * minor`.
const OLDEST_VERSION: i32 = 12_000;

/// Every driver function that this file calls.
const SYMBOLS: &[&str] = &[
    "cuCtxResetPersistingL2Cache",
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetUuid_v2",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventRecord",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphUpload",
    "cuInit",
    "cuLaunchKernelEx",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemHostGetDevicePointer_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleLoadDataEx",
    "cuModuleUnload",
    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
    "cuTensorMapEncodeTiled",
];

/// Why there is no GPU to measure on.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unavailable {
    /// No libcuda.
    #[error(
        "no NVIDIA driver was found (libcuda.so.1 is not in the loader's path); install the \
         driver, or in a container ask for the GPU"
    )]
    NoDriver,
    /// A libcuda that lacks a function.
    #[error(
        "the NVIDIA driver has no function {symbol}, so it is older than CUDA 12.0; update it to \
         version 525 or later"
    )]
    MissingSymbol {
        /// The first function that is missing.
        symbol: &'static str,
    },
    /// A driver of another age.
    #[error(
        "the NVIDIA driver is made for CUDA {}.{}, and 12.0 is the oldest that works; update it \
         to version 525 or later", .version / 1000, .version % 1000 / 10
    )]
    OldDriver {
        /// What the driver says, `1000 * major + 10 * minor`.
        version: i32,
    },
    /// A driver that sees no GPU.
    #[error(
        "the NVIDIA driver is there but sees no GPU; look at nvidia-smi, and at \
         CUDA_VISIBLE_DEVICES{}",
        visible_devices()
    )]
    NoGpu,
    /// A GPU number that does not exist.
    #[error("there is no GPU {wanted}; the driver sees {count}, numbered from 0")]
    NoSuchGpu {
        /// The number asked for.
        wanted: usize,
        /// How many there are.
        count: usize,
    },
    /// A driver that does not start.
    #[error("the NVIDIA driver does not start: {0}")]
    Broken(#[from] DriverError),
}

fn visible_devices() -> String {
    std::env::var("CUDA_VISIBLE_DEVICES").map_or(String::new(), |v| format!(" (now `{v}`)"))
}

/// A driver call that failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{call} answered {name} ({description})")]
pub struct DriverError {
    /// The function.
    pub call: &'static str,
    /// The code's name.
    pub name: String,
    /// The driver's words for it.
    pub description: String,
}

impl DriverError {
    /// Whether memory was short.
    pub fn is_out_of_memory(&self) -> bool {
        self.name == "CUDA_ERROR_OUT_OF_MEMORY"
    }

    /// Whether every further call of this process will fail the same way: a
    /// kernel has faulted, and the context cannot be used again.
    pub fn is_final(&self) -> bool {
        const FINAL: [&str; 14] = [
            "ILLEGAL_ADDRESS",
            "LAUNCH_TIMEOUT",
            "LAUNCH_FAILED",
            "ASSERT",
            "HARDWARE_STACK_ERROR",
            "ILLEGAL_INSTRUCTION",
            "MISALIGNED_ADDRESS",
            "INVALID_ADDRESS_SPACE",
            "INVALID_PC",
            "ECC_UNCORRECTABLE",
            "NVLINK_UNCORRECTABLE",
            "DEINITIALIZED",
            "CONTEXT_IS_DESTROYED",
            "UNKNOWN",
        ];
        let name = self.name.strip_prefix("CUDA_ERROR_").unwrap_or_default();
        FINAL.contains(&name)
    }
}

/// What a driver call gives.
pub type Result<T, E = DriverError> = std::result::Result<T, E>;

fn check(call: &'static str, code: sys::CUresult) -> Result<()> {
    if code == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = ptr::null();
    // SAFETY: `text` takes the address of a string that the driver keeps.
    let described = unsafe { sys::cuGetErrorString(code, &mut text) };
    let description = match described {
        // SAFETY: the driver answered with a string that ends with a zero.
        sys::CUresult::CUDA_SUCCESS if !text.is_null() => {
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        }
        _ => "the driver has no words for it".to_owned(),
    };
    Err(DriverError { call, name: format!("{code:?}"), description })
}

/// Calls a driver function. SAFETY: the arguments are live handles of types in
/// this file, pointers to locals that outlive the call, or checked ranges.
macro_rules! call {
    ($name:ident($($argument:expr),* $(,)?)) => {
        check(stringify!($name), unsafe { sys::$name($($argument),*) })
    };
}

/// The version of a driver that can be used, `1000 * major + 10 * minor`.
///
/// # Errors
/// No driver, or one that is too old.
pub fn version() -> Result<i32, Unavailable> {
    // SAFETY: loads libcuda, whose constructors are made to be loaded.
    if !unsafe { sys::is_culib_present() } {
        return Err(Unavailable::NoDriver);
    }
    // SAFETY: the library is there, so this returns it.
    let library = unsafe { sys::culib() };
    for symbol in SYMBOLS {
        // SAFETY: only whether it exists is asked; nothing is called.
        if unsafe { library.get::<*const c_void>(symbol.as_bytes()) }.is_err() {
            return Err(Unavailable::MissingSymbol { symbol });
        }
    }
    let mut version = 0;
    call!(cuDriverGetVersion(&mut version))?;
    match version {
        version if version < OLDEST_VERSION => Err(Unavailable::OldDriver { version }),
        version => Ok(version),
    }
}

/// The number of GPUs that a usable driver sees.
///
/// # Errors
/// No driver, an old one, one that does not start, no GPU.
pub fn gpu_count() -> Result<usize, Unavailable> {
    version()?;
    match call!(cuInit(0)) {
        Err(error) if error.name == "CUDA_ERROR_NO_DEVICE" => {
            return Err(Unavailable::NoGpu);
        }
        other => other?,
    }
    let mut count = 0;
    call!(cuDeviceGetCount(&mut count))?;
    if count < 1 { Err(Unavailable::NoGpu) } else { Ok(count as usize) }
}

/// A GPU's primary context, current on the thread that opened it.
#[derive(Debug)]
pub struct Context {
    device: sys::CUdevice,
}

impl Context {
    /// Opens GPU number `ordinal`.
    ///
    /// # Errors
    /// Whatever keeps it from being used.
    pub fn open(ordinal: usize) -> Result<Rc<Self>, Unavailable> {
        let count = gpu_count()?;
        if ordinal >= count {
            return Err(Unavailable::NoSuchGpu { wanted: ordinal, count });
        }
        let mut device = 0;
        call!(cuDeviceGet(&mut device, ordinal as c_int))?;
        let mut raw = ptr::null_mut();
        call!(cuDevicePrimaryCtxRetain(&mut raw, device))?;
        let context = Rc::new(Context { device });
        call!(cuCtxSetCurrent(raw))?;
        Ok(context)
    }

    /// The vendor's name for the GPU.
    pub fn name(&self) -> Result<String> {
        let mut name = [0; 256];
        call!(cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int - 1, self.device))?;
        // SAFETY: the last byte is still the zero that it was.
        Ok(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
    }

    /// The GPU's own number, as in `nvidia-smi -L`.
    pub fn uuid(&self) -> Result<String> {
        let mut uuid = sys::CUuuid { bytes: [0; 16] };
        call!(cuDeviceGetUuid_v2(&mut uuid, self.device))?;
        Ok(uuid.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect())
    }

    /// What the GPU is made of.
    pub fn properties(&self) -> Result<Properties> {
        let get = |attribute| self.attribute(attribute);
        Ok(Properties {
            compute_capability: [
                get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ],
            sms: get(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            threads_per_sm: get(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
            )?,
            shared_bytes_per_sm: get(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
            )?,
            shared_bytes_per_block: get(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
            l2_bytes: get(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
            sm_clock_khz: get(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
            memory_clock_khz: get(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
            memory_bus_bits: get(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
            ecc: get(Attribute::CU_DEVICE_ATTRIBUTE_ECC_ENABLED)? != 0,
        })
    }

    fn attribute(&self, attribute: Attribute) -> Result<u32> {
        let mut value = 0;
        call!(cuDeviceGetAttribute(&mut value, attribute, self.device))?;
        Ok(value.max(0) as u32)
    }

    /// Free bytes and all bytes of device memory.
    pub fn memory_bytes(&self) -> Result<(u64, u64)> {
        let (mut free, mut total) = (0, 0);
        call!(cuMemGetInfo_v2(&mut free, &mut total))?;
        Ok((free as u64, total as u64))
    }

    /// Gives lines that a process pinned in L2 back to ordinary use. A GPU that
    /// cannot pin any has nothing to give back.
    pub fn reset_persisting_l2(&self) -> Result<()> {
        match call!(cuCtxResetPersistingL2Cache()) {
            Err(error) if error.name == "CUDA_ERROR_NOT_SUPPORTED" => Ok(()),
            other => other,
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let _ = call!(cuDevicePrimaryCtxRelease_v2(self.device));
    }
}

/// What a GPU is made of, as the driver tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Major and minor number.
    pub compute_capability: [u32; 2],
    /// Multiprocessors.
    pub sms: u32,
    /// Threads that an SM holds.
    pub threads_per_sm: u32,
    /// Shared memory of an SM, in bytes.
    pub shared_bytes_per_sm: u32,
    /// Most shared memory of a block, in bytes.
    pub shared_bytes_per_block: u32,
    /// L2 cache, in bytes.
    pub l2_bytes: u32,
    /// Highest SM clock, in kHz.
    pub sm_clock_khz: u32,
    /// Highest memory clock, in kHz.
    pub memory_clock_khz: u32,
    /// Width of the memory bus, in bits.
    pub memory_bus_bits: u32,
    /// Whether memory is protected by ECC.
    pub ecc: bool,
}

/// A stretch of device memory.
#[derive(Debug)]
pub struct Buffer {
    address: sys::CUdeviceptr,
    bytes: usize,
    _context: Rc<Context>,
}

impl Buffer {
    /// Allocates at least one byte.
    pub fn new(context: &Rc<Context>, bytes: u64) -> Result<Self> {
        let bytes = bytes.max(1) as usize;
        let mut address = 0;
        call!(cuMemAlloc_v2(&mut address, bytes))?;
        Ok(Buffer { address, bytes, _context: Rc::clone(context) })
    }

    /// Where it begins.
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// Copies from the host in stream order, and waits for it. A copy outside
    /// of the stream may return before its last bytes have arrived, and
    /// launches on the stream would not wait for them.
    ///
    /// # Panics
    /// If the range is not within the buffer.
    pub fn upload(&self, stream: &Stream, offset: u64, from: &[u8]) -> Result<()> {
        let to = self.address_of(offset, from.len());
        call!(cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), from.len(), stream.raw))?;
        stream.synchronize()
    }

    /// Copies to the host in stream order, and waits for it.
    ///
    /// # Panics
    /// If the range is not within the buffer.
    pub fn download(&self, stream: &Stream, offset: u64, to: &mut [u8]) -> Result<()> {
        let from = self.address_of(offset, to.len());
        let bytes = to.len();
        call!(cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, bytes, stream.raw))?;
        stream.synchronize()
    }

    /// Sets a range to one byte, in stream order.
    ///
    /// # Panics
    /// If the range is not within the buffer.
    pub fn set(&self, stream: &Stream, offset: u64, bytes: u64, value: u8) -> Result<()> {
        let to = self.address_of(offset, bytes as usize);
        call!(cuMemsetD8Async(to, value, bytes as usize, stream.raw))
    }

    fn address_of(&self, offset: u64, bytes: usize) -> u64 {
        let end = (offset as usize).checked_add(bytes);
        assert!(
            end.is_some_and(|end| end <= self.bytes),
            "a range outside of a device buffer"
        );
        self.address + offset
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let _ = call!(cuMemFree_v2(self.address));
    }
}

/// 16 words of host memory that kernels can read and write.
#[derive(Debug)]
pub struct HostPage {
    words: ptr::NonNull<u32>,
    address: u64,
    _context: Rc<Context>,
}

impl HostPage {
    const WORDS: usize = 16;

    /// Allocates zeros.
    pub fn new(context: &Rc<Context>) -> Result<Self> {
        let mut raw = ptr::null_mut();
        let flags = sys::CU_MEMHOSTALLOC_DEVICEMAP;
        call!(cuMemHostAlloc(&mut raw, 4 * Self::WORDS, flags))?;
        let Some(words) = ptr::NonNull::new(raw.cast::<u32>()) else {
            let name = "CUDA_ERROR_OUT_OF_MEMORY".to_owned();
            let description = "a null pointer".to_owned();
            return Err(DriverError { call: "cuMemHostAlloc", name, description });
        };
        let mut page = HostPage { words, address: 0, _context: Rc::clone(context) };
        call!(cuMemHostGetDevicePointer_v2(&mut page.address, raw, 0))?;
        for index in 0..Self::WORDS {
            page.store(index, 0);
        }
        Ok(page)
    }

    /// Where kernels find word `index`.
    pub const fn address(&self, index: usize) -> u64 {
        self.address + 4 * index as u64
    }

    /// Writes a word.
    ///
    /// # Panics
    /// If there is no such word.
    pub fn store(&self, index: usize, value: u32) {
        assert!(index < Self::WORDS);
        // SAFETY: within the allocation; volatile, since kernels read it.
        unsafe { self.words.as_ptr().add(index).write_volatile(value) }
    }

    /// Reads a word.
    ///
    /// # Panics
    /// If there is no such word.
    pub fn load(&self, index: usize) -> u32 {
        assert!(index < Self::WORDS);
        // SAFETY: within the allocation; volatile, since kernels write it.
        unsafe { self.words.as_ptr().add(index).read_volatile() }
    }
}

impl Drop for HostPage {
    fn drop(&mut self) {
        let _ = call!(cuMemFreeHost(self.words.as_ptr().cast()));
    }
}

/// A queue of launches.
#[derive(Debug)]
pub struct Stream {
    raw: sys::CUstream,
    _context: Rc<Context>,
}

impl Stream {
    /// Makes one that does not wait for the default stream.
    pub fn new(context: &Rc<Context>) -> Result<Self> {
        let mut raw = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        call!(cuStreamCreate(&mut raw, flags))?;
        Ok(Stream { raw, _context: Rc::clone(context) })
    }

    /// Waits until everything queued is done; what went wrong in a kernel
    /// since the last time shows here.
    pub fn synchronize(&self) -> Result<()> {
        call!(cuStreamSynchronize(self.raw))
    }

    /// Queues a kernel. `params` are the bytes of its one parameter, none for
    /// a kernel without one.
    pub fn launch(&self, function: &Function, shape: &Shape, params: &[u8]) -> Result<()> {
        let one = [params];
        self.launch_with(function, shape, if params.is_empty() { &[] } else { &one })
    }

    /// Queues a kernel with the bytes of each of its parameters.
    pub fn launch_with(
        &self,
        function: &Function,
        shape: &Shape,
        params: &[&[u8]],
    ) -> Result<()> {
        let [grid_x, grid_y, grid_z] = shape.grid;
        let [block_x, block_y, block_z] = shape.block;
        let mut attributes = launch_attributes(shape);
        let config = sys::CUlaunchConfig {
            gridDimX: grid_x,
            gridDimY: grid_y,
            gridDimZ: grid_z,
            blockDimX: block_x,
            blockDimY: block_y,
            blockDimZ: block_z,
            sharedMemBytes: shape.shared_bytes,
            hStream: self.raw,
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        // The driver reads as many bytes as the kernel's parameters have; that
        // they are as many as here is tested where kernels are compiled.
        let mut pointers: Vec<_> =
            params.iter().map(|bytes| bytes.as_ptr().cast_mut().cast::<c_void>()).collect();
        let first =
            if pointers.is_empty() { ptr::null_mut() } else { pointers.as_mut_ptr() };
        call!(cuLaunchKernelEx(&config, function.raw, first, ptr::null_mut()))
    }

    /// Queues a graph.
    pub fn launch_graph(&self, graph: &Graph) -> Result<()> {
        call!(cuGraphLaunch(graph.executable, self.raw))
    }

    /// Records what `queue` queues on this stream instead of running it.
    pub fn capture(&self, queue: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        call!(cuStreamBeginCapture_v2(self.raw, mode))?;
        let queued = queue();
        let mut raw = ptr::null_mut();
        // Ended also after a failure, or the stream could not be used again.
        let ended = call!(cuStreamEndCapture(self.raw, &mut raw));
        let mut graph =
            Graph { raw, executable: ptr::null_mut(), _context: Rc::clone(&self._context) };
        queued?;
        ended?;
        call!(cuGraphInstantiateWithFlags(&mut graph.executable, graph.raw, 0))?;
        Ok(graph)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = call!(cuStreamDestroy_v2(self.raw));
    }
}

/// How a kernel is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Blocks of a cluster in x, y and z.
    pub cluster: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// Whether it may begin while the launch before it drains.
    pub overlaps_previous: bool,
}

fn launch_attributes(shape: &Shape) -> Vec<sys::CUlaunchAttribute> {
    // SAFETY: a union of plain numbers and pointers, for which zero is valid.
    let zero: sys::CUlaunchAttributeValue = unsafe { std::mem::zeroed() };
    let mut attributes = Vec::new();
    if shape.cluster != [1, 1, 1] {
        let [x, y, z] = shape.cluster;
        let mut value = zero;
        value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y, z };
        let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        attributes.push(sys::CUlaunchAttribute { id, pad: [0; 4], value });
    }
    if shape.overlaps_previous {
        let mut value = zero;
        value.programmaticStreamSerializationAllowed = 1;
        let id =
            sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attributes.push(sys::CUlaunchAttribute { id, pad: [0; 4], value });
    }
    attributes
}

/// Launches that were recorded, ready to be queued as one.
#[derive(Debug)]
pub struct Graph {
    raw: sys::CUgraph,
    executable: sys::CUgraphExec,
    _context: Rc<Context>,
}

impl Graph {
    /// Brings it to the GPU, so that its first launch need not.
    pub fn upload(&self, stream: &Stream) -> Result<()> {
        call!(cuGraphUpload(self.executable, stream.raw))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if !self.executable.is_null() {
            let _ = call!(cuGraphExecDestroy(self.executable));
        }
        if !self.raw.is_null() {
            let _ = call!(cuGraphDestroy(self.raw));
        }
    }
}

/// A mark in a stream that knows when it was passed.
#[derive(Debug)]
pub struct Event {
    raw: sys::CUevent,
    _context: Rc<Context>,
}

impl Event {
    /// Makes one that keeps time.
    pub fn new(context: &Rc<Context>) -> Result<Self> {
        let mut raw = ptr::null_mut();
        call!(cuEventCreate(&mut raw, sys::CUevent_flags::CU_EVENT_DEFAULT as u32))?;
        Ok(Event { raw, _context: Rc::clone(context) })
    }

    /// Queues the mark.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        call!(cuEventRecord(self.raw, stream.raw))
    }

    /// Seconds from an earlier mark to this one; both have been passed.
    pub fn seconds_since(&self, earlier: &Event) -> Result<f64> {
        let mut ms = 0.0;
        call!(cuEventElapsedTime(&mut ms, earlier.raw, self.raw))?;
        Ok(f64::from(ms) * 1e-3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = call!(cuEventDestroy_v2(self.raw));
    }
}

/// Machine code on the GPU.
#[derive(Debug)]
struct Module {
    raw: sys::CUmodule,
    _context: Rc<Context>,
}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = call!(cuModuleUnload(self.raw));
    }
}

/// A kernel on the GPU.
#[derive(Clone, Debug)]
pub struct Function {
    raw: sys::CUfunction,
    _module: Rc<Module>,
}

/// Loads a cubin and finds kernels in it, in the order of `entries`.
pub fn load(
    context: &Rc<Context>,
    image: &[u8],
    entries: &[&str],
) -> Result<Vec<Function>> {
    let mut raw = ptr::null_mut();
    call!(cuModuleLoadData(&mut raw, image.as_ptr().cast()))?;
    let module = Rc::new(Module { raw, _context: Rc::clone(context) });
    functions(&module, entries)
}

/// Bytes for what the driver's compiler has to say.
const LOG_BYTES: usize = 4096;

/// Has the driver compile PTX, and finds kernels in it, in the order of `entries`. An
/// error says what the compiler said.
pub fn load_ptx(
    context: &Rc<Context>,
    ptx: &str,
    entries: &[&str],
) -> Result<Vec<Function>> {
    use sys::CUjit_option as Option;
    let text = CString::new(ptx).unwrap_or_default();
    let mut log = vec![0u8; LOG_BYTES];
    let mut options =
        [Option::CU_JIT_ERROR_LOG_BUFFER, Option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    // A number is passed in the place of a pointer.
    let mut values: [*mut c_void; 2] =
        [log.as_mut_ptr().cast(), ptr::without_provenance_mut(LOG_BYTES - 1)];
    let mut raw = ptr::null_mut();
    let loaded = call!(cuModuleLoadDataEx(
        &mut raw,
        text.as_ptr().cast(),
        options.len() as u32,
        options.as_mut_ptr(),
        values.as_mut_ptr()
    ));
    loaded.map_err(|error| {
        let said = log.split(|&byte| byte == 0).next().unwrap_or_default();
        let said = String::from_utf8_lossy(said).trim().replace('\n', "; ");
        match said.is_empty() {
            true => error,
            false => DriverError {
                description: format!("{}: {said}", error.description),
                ..error
            },
        }
    })?;
    let module = Rc::new(Module { raw, _context: Rc::clone(context) });
    functions(&module, entries)
}

fn functions(module: &Rc<Module>, entries: &[&str]) -> Result<Vec<Function>> {
    let find = |entry: &&str| {
        let name = CString::new(*entry).unwrap_or_default();
        let mut raw = ptr::null_mut();
        call!(cuModuleGetFunction(&mut raw, module.raw, name.as_ptr()))?;
        Ok(Function { raw, _module: Rc::clone(module) })
    };
    entries.iter().map(find).collect()
}

impl Function {
    /// Registers of a thread.
    pub fn registers(&self) -> Result<u32> {
        self.attribute(FunctionAttribute::CU_FUNC_ATTRIBUTE_NUM_REGS)
    }

    /// Local memory of a thread, in bytes: what did not fit in registers.
    pub fn local_bytes(&self) -> Result<u32> {
        self.attribute(FunctionAttribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)
    }

    /// Shared memory that the kernel declares, in bytes.
    pub fn static_shared_bytes(&self) -> Result<u32> {
        self.attribute(FunctionAttribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
    }

    fn attribute(&self, attribute: FunctionAttribute) -> Result<u32> {
        let mut value = 0;
        call!(cuFuncGetAttribute(&mut value, attribute, self.raw))?;
        Ok(value.max(0) as u32)
    }

    /// Allows launches with so much dynamic shared memory; beyond 48 KiB a
    /// kernel has to be told.
    pub fn allow_shared_bytes(&self, bytes: u32) -> Result<()> {
        let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        call!(cuFuncSetAttribute(self.raw, attribute, bytes as c_int))
    }

    /// Blocks of a shape that one SM holds.
    pub fn blocks_per_sm(&self, shape: &Shape) -> Result<u32> {
        let threads: u32 = shape.block.iter().product();
        let mut blocks = 0;
        call!(cuOccupancyMaxActiveBlocksPerMultiprocessor(
            &mut blocks,
            self.raw,
            threads as c_int,
            shape.shared_bytes as usize
        ))?;
        Ok(blocks.max(0) as u32)
    }
}

fn data_type(element: TensorElement) -> sys::CUtensorMapDataType {
    use sys::CUtensorMapDataType as DataType;
    match element {
        TensorElement::U8 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        TensorElement::U16 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
        TensorElement::U32 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT32,
        TensorElement::I32 => DataType::CU_TENSOR_MAP_DATA_TYPE_INT32,
        TensorElement::U64 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT64,
        TensorElement::I64 => DataType::CU_TENSOR_MAP_DATA_TYPE_INT64,
        TensorElement::F16 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        TensorElement::F32 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        TensorElement::F64 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT64,
        TensorElement::BF16 => DataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
    }
}

/// Encodes a tensor map over an address.
pub fn encode(map: &ptxvm::TensorMap) -> Result<EncodedTensorMap> {
    use sys::CUtensorMapFloatOOBfill as Fill;
    use sys::CUtensorMapSwizzle as Swizzle;
    let swizzle = match map.swizzle {
        ptxvm::Swizzle::None => Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        ptxvm::Swizzle::Bytes32 => Swizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        ptxvm::Swizzle::Bytes64 => Swizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        ptxvm::Swizzle::Bytes128 => Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let fill = match map.fill {
        OutOfBoundsFill::Zero => Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        OutOfBoundsFill::Nan => Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA,
    };
    let rank = map.dims.len();
    assert!(
        map.box_dims.len() == rank && map.strides.len() + 1 == rank,
        "a tensor map has a tile side for each dimension and a stride for all but one"
    );
    let steps = vec![1u32; rank];
    let mut encoded = sys::CUtensorMap { opaque: [0; 16] };
    call!(cuTensorMapEncodeTiled(
        &mut encoded,
        data_type(map.element),
        rank as u32,
        map.address as *mut c_void,
        map.dims.as_ptr(),
        map.strides.as_ptr(),
        map.box_dims.as_ptr(),
        steps.as_ptr(),
        sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
        swizzle,
        sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        fill,
    ))?;
    Ok(EncodedTensorMap(bytemuck::cast(encoded.opaque)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A symbol that is called but not looked for would panic where it is
    /// missing.
    #[test]
    fn every_function_called_is_looked_for() {
        let source = include_str!("driver.rs");
        let code = source.split("#[cfg(test)]").next().unwrap();
        let mut called: Vec<&str> = code
            .match_indices("cu")
            .filter(|(at, _)| {
                let before = &code[..*at];
                before.ends_with("call!(") || before.ends_with("sys::")
            })
            .map(|(at, _)| {
                let rest = &code[at..];
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                &rest[..end.unwrap_or(rest.len())]
            })
            .filter(|name| *name != "culib")
            .collect();
        called.sort_unstable();
        called.dedup();
        assert_eq!(called, SYMBOLS);
    }

    #[test]
    fn a_faulted_context_is_told_from_a_failed_call() {
        let error = |name: &str| DriverError {
            call: "cuStreamSynchronize",
            name: name.to_owned(),
            description: String::new(),
        };
        assert!(error("CUDA_ERROR_ILLEGAL_ADDRESS").is_final());
        assert!(!error("CUDA_ERROR_OUT_OF_MEMORY").is_final());
        assert!(error("CUDA_ERROR_OUT_OF_MEMORY").is_out_of_memory());
    }
}
