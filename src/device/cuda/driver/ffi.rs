//! The calls of the CUDA driver, each in a safe function. Only this file and its
//! parts, the library with its context and the host's memory, call it.
//!
//! cudarc loads libcuda when it is first used, and panics where that fails or
//! a symbol is missing. [`Context::open`] therefore looks before the first call: at the
//! library, at every symbol in [`SYMBOLS`](super::symbols::SYMBOLS), at the driver's version. After it
//! has returned a [`Context`], no call here can panic. [`PARAM_INFO`](super::symbols::PARAM_INFO) is called only where
//! it was found.
//!
//! # Safety
//! Handles are made and destroyed by the types that own them, and those keep
//! the context alive. Host memory is reached by the driver in four places
//! only: copies that are waited for, whose ranges are checked here; copies that are queued,
//! see [`host`]; the parameters of a launch, which have the
//! sizes that the loaded function declares, and which the driver copies before it returns;
//! and [`HostPage`], which is 64 bytes of plain words. What a kernel does to device memory
//! cannot break the safety of the host.

#![allow(unsafe_code, reason = "the one module that calls the CUDA driver")]

mod context;
mod host;

use std::cell::RefCell;
use std::ffi::{CString, c_int, c_void};
use std::ptr;
use std::rc::Rc;

pub(super) use context::Attribute;
use context::call;
pub use context::{Context, gpu_count, version};
use cudarc::driver::sys;
pub use host::HostBuffer;
use sys::CUfunction_attribute as FunctionAttribute;

use super::error::{DriverError, Result};
use super::launch::LaunchShape;
use super::symbols::MOST_PARAMS;
use crate::device::executor::ParamMismatch;
use crate::kernel::{EncodedTensorMap, ParamBytes};
use crate::resource::LinkDirection;
use crate::toolchain::image::{self, ImageError};
use crate::toolchain::nvrtc;

/// A range of device memory.
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
    pub fn upload(&self, stream: &CudaStream, offset: u64, from: &[u8]) -> Result<()> {
        let to = self.address_of(offset, from.len());
        call!(cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), from.len(), stream.raw))?;
        stream.synchronize()
    }

    /// Copies to the host in stream order, and waits for it.
    ///
    /// # Panics
    /// If the range is not within the buffer.
    pub fn download(&self, stream: &CudaStream, offset: u64, to: &mut [u8]) -> Result<()> {
        let from = self.address_of(offset, to.len());
        let bytes = to.len();
        call!(cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, bytes, stream.raw))?;
        stream.synchronize()
    }

    /// Sets a range to one byte, in stream order.
    ///
    /// # Panics
    /// If the range is not within the buffer.
    pub fn set(
        &self,
        stream: &CudaStream,
        offset: u64,
        bytes: u64,
        value: u8,
    ) -> Result<()> {
        let to = self.address_of(offset, bytes as usize);
        call!(cuMemsetD8Async(to, value, bytes as usize, stream.raw))
    }

    /// Where a range of addresses begins in the buffer, if it lies in it.
    pub fn offset_of(&self, address: u64, bytes: u64) -> Option<u64> {
        let offset = address.checked_sub(self.address)?;
        (offset.checked_add(bytes)? <= self.bytes as u64).then_some(offset)
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
            return Err(DriverError::Call { call: "cuMemHostAlloc", name, description });
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
pub struct CudaStream {
    raw: sys::CUstream,
    side: SideStream,
    _context: Rc<Context>,
}

impl CudaStream {
    /// Makes one that does not wait for the default stream.
    pub fn new(context: &Rc<Context>) -> Result<Self> {
        let side = SideStream::new(context)?;
        let mut raw = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        call!(cuStreamCreate(&mut raw, flags))?;
        Ok(CudaStream { raw, side, _context: Rc::clone(context) })
    }

    /// What libraries that queue work of their own know it by.
    pub(in crate::device::cuda) const fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// Waits until everything queued is done; what went wrong in a kernel
    /// since the last time shows here.
    pub fn synchronize(&self) -> Result<()> {
        call!(cuStreamSynchronize(self.raw))
    }

    /// Queues a kernel with its parameters, none for a kernel that has none.
    ///
    /// # Errors
    /// Parameters of other sizes than the kernel declares, what the driver reports.
    pub fn launch(
        &self,
        function: &Function,
        shape: &LaunchShape,
        params: &[ParamBytes],
    ) -> Result<()> {
        let DeclaredParams { kernel, entry, param_bytes } = &*function.declared;
        // The driver reads as many bytes as the kernel declares.
        ParamMismatch::check(kernel, entry, param_bytes, params)?;
        let [grid_x, grid_y, grid_z] = shape.grid;
        let [block_x, block_y, block_z] = shape.block;
        let mut attributes = shape.attributes();
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
        let mut pointers: Vec<*mut c_void> =
            params.iter().map(|params| params.bytes.as_ptr().cast_mut().cast()).collect();
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
        self.side.begin_recording();
        let queued = queue();
        let _host = self.side.end_recording();
        let mut raw = ptr::null_mut();
        // Ended also after a failure, or the stream could not be used again.
        let ended = call!(cuStreamEndCapture(self.raw, &mut raw));
        let (executable, _context) = (ptr::null_mut(), Rc::clone(&self._context));
        let mut graph = Graph { raw, executable, _host, _context };
        queued?;
        ended?;
        call!(cuGraphInstantiateWithFlags(&mut graph.executable, graph.raw, 0))?;
        Ok(graph)
    }
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        let _ = call!(cuStreamDestroy_v2(self.raw));
    }
}

/// A copy between a buffer of the host and one of the device.
#[derive(Clone, Copy, Debug)]
pub struct HostCopy<'a> {
    /// Which way it goes, seen from the device.
    pub direction: LinkDirection,
    /// The buffer of the host, and where in it the copy begins.
    pub host: (&'a Rc<HostBuffer>, u64),
    /// The buffer of the device, and where in it the copy begins.
    pub device: (&'a Buffer, u64),
    /// Size in bytes.
    pub bytes: u64,
}

/// What a stream needs for copies of both directions at the same time: a stream for those
/// from the device, and marks to begin and end it with.
#[derive(Debug)]
struct SideStream {
    raw: sys::CUstream,
    forked: Event,
    joined: Event,
    /// What copies refer to that are being recorded, if a graph is.
    recorded: RefCell<Option<Vec<Rc<HostBuffer>>>>,
}

impl SideStream {
    fn new(context: &Rc<Context>) -> Result<Self> {
        let [forked, joined] = [Event::untimed(context)?, Event::untimed(context)?];
        let mut raw = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        call!(cuStreamCreate(&mut raw, flags))?;
        Ok(SideStream { raw, forked, joined, recorded: RefCell::new(None) })
    }

    /// Begins to keep what copies refer to.
    fn begin_recording(&self) {
        self.recorded.replace(Some(Vec::new()));
    }

    /// What copies have referred to since.
    fn end_recording(&self) -> Vec<Rc<HostBuffer>> {
        self.recorded.take().unwrap_or_default()
    }

    fn keep(&self, buffer: &Rc<HostBuffer>) {
        if let Some(kept) = &mut *self.recorded.borrow_mut() {
            kept.push(Rc::clone(buffer));
        }
    }
}

impl Drop for SideStream {
    fn drop(&mut self) {
        let _ = call!(cuStreamDestroy_v2(self.raw));
    }
}

impl CudaStream {
    /// Queues copies between host and device. Copies of both directions run at the same
    /// time, as far as the host need not take part in them; what is queued later begins
    /// when all are done.
    ///
    /// # Panics
    /// If a range is not within its buffer.
    pub fn copy(&self, copies: &[HostCopy]) -> Result<()> {
        let has = |direction| copies.iter().any(|copy| copy.direction == direction);
        if !(has(LinkDirection::In) && has(LinkDirection::Out)) {
            return copies.iter().try_for_each(|copy| self.copy_on(self.raw, copy));
        }
        let side = &self.side;
        self.side.forked.record(self)?;
        call!(cuStreamWaitEvent(side.raw, side.forked.raw, 0))?;
        for copy in copies {
            let stream = match copy.direction {
                LinkDirection::In => self.raw,
                LinkDirection::Out => side.raw,
            };
            self.copy_on(stream, copy)?;
        }
        call!(cuEventRecord(side.joined.raw, side.raw))?;
        call!(cuStreamWaitEvent(self.raw, side.joined.raw, 0))
    }

    fn copy_on(&self, stream: sys::CUstream, copy: &HostCopy) -> Result<()> {
        let bytes = copy.bytes as usize;
        let host = copy.host.0.at(copy.host.1, bytes);
        let device = copy.device.0.address_of(copy.device.1, bytes);
        self.side.keep(copy.host.0);
        match copy.direction {
            LinkDirection::In => {
                call!(cuMemcpyHtoDAsync_v2(device, host.cast(), bytes, stream))
            }
            LinkDirection::Out => {
                call!(cuMemcpyDtoHAsync_v2(host.cast(), device, bytes, stream))
            }
        }
    }
}

/// Launches that were recorded, ready to be queued as one.
#[derive(Debug)]
pub struct Graph {
    raw: sys::CUgraph,
    executable: sys::CUgraphExec,
    /// What its copies refer to.
    _host: Vec<Rc<HostBuffer>>,
    _context: Rc<Context>,
}

impl Graph {
    /// Brings it to the GPU, so that its first launch need not.
    pub fn upload(&self, stream: &CudaStream) -> Result<()> {
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
        Self::with(context, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    /// Makes one that streams wait for and that keeps no time.
    fn untimed(context: &Rc<Context>) -> Result<Self> {
        Self::with(context, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    fn with(context: &Rc<Context>, flags: sys::CUevent_flags) -> Result<Self> {
        let mut raw = ptr::null_mut();
        call!(cuEventCreate(&mut raw, flags as u32))?;
        Ok(Event { raw, _context: Rc::clone(context) })
    }

    /// Queues the mark.
    pub fn record(&self, stream: &CudaStream) -> Result<()> {
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
    context: Rc<Context>,
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
    declared: Rc<DeclaredParams>,
    _module: Rc<Module>,
}

/// What a kernel says of itself.
#[derive(Debug)]
struct DeclaredParams {
    kernel: String,
    entry: String,
    /// By parameter.
    param_bytes: Vec<usize>,
}

/// Loads a kernel, as a cubin or as PTX, and finds functions in it, in the order of
/// `entries`.
pub fn load(
    context: &Rc<Context>,
    kernel: &str,
    image: &[u8],
    entries: &[&str],
) -> Result<Vec<Function>> {
    if let Some(ptx) = image::ptx(image) {
        return load_ptx(context, kernel, ptx, entries);
    }
    let mut raw = ptr::null_mut();
    call!(cuModuleLoadData(&mut raw, image.as_ptr().cast()))?;
    let module = Rc::new(Module { raw, context: Rc::clone(context) });
    let declared = |entry: &str| image::param_bytes(image, entry);
    entries.iter().map(|entry| function(&module, kernel, entry, declared)).collect()
}

/// Bytes for what the driver's compiler has to say.
const LOG_BYTES: usize = 4096;

/// Has the driver compile the PTX of a kernel, and finds functions in it, in the order of `entries`. An
/// error says what the compiler said.
pub fn load_ptx(
    context: &Rc<Context>,
    kernel: &str,
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
        match error {
            DriverError::Call { call, name, description } if !said.is_empty() => {
                let description = format!("{description}: {said}");
                DriverError::Call { call, name, description }
            }
            error => error,
        }
    })?;
    let module = Rc::new(Module { raw, context: Rc::clone(context) });
    let declared = |entry: &str| {
        let found = nvrtc::param_bytes(ptx, entry);
        found.ok_or_else(|| ImageError::NoEntry { entry: entry.to_owned() })
    };
    entries.iter().map(|entry| function(&module, kernel, entry, declared)).collect()
}

/// Finds a function. Where the driver does not tell its parameters, `declared` does.
fn function(
    module: &Rc<Module>,
    kernel: &str,
    entry: &str,
    declared: impl Fn(&str) -> Result<Vec<usize>, ImageError>,
) -> Result<Function> {
    let name = CString::new(entry).unwrap_or_default();
    let (kernel, entry) = (kernel.to_owned(), entry.to_owned());
    let mut raw = ptr::null_mut();
    call!(cuModuleGetFunction(&mut raw, module.raw, name.as_ptr()))?;
    let param_bytes = match module.context.tells_params {
        true => param_bytes(raw)?,
        false => match declared(&entry) {
            Ok(param_bytes) => param_bytes,
            Err(why) => return Err(DriverError::UnknownParams { kernel, entry, why }),
        },
    };
    let declared = Rc::new(DeclaredParams { kernel, entry, param_bytes });
    Ok(Function { raw, declared, _module: Rc::clone(module) })
}

/// Bytes of each parameter of a function, as a driver that has [`PARAM_INFO`](super::symbols::PARAM_INFO) tells them.
fn param_bytes(function: sys::CUfunction) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    while found.len() < MOST_PARAMS {
        let (mut offset, mut bytes) = (0, 0);
        match call!(cuFuncGetParamInfo(function, found.len(), &mut offset, &mut bytes)) {
            Ok(()) => found.push(bytes),
            // There is no parameter of this number.
            Err(error) if error.is("CUDA_ERROR_INVALID_VALUE") => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
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

    /// Asks for as much L1 as can be, of the memory that it divides with shared memory; without
    /// it the driver decides.
    pub fn prefer_l1(&self) -> Result<()> {
        let attribute =
            FunctionAttribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        const LEAST_SHARED_PERCENT: c_int = 0;
        call!(cuFuncSetAttribute(self.raw, attribute, LEAST_SHARED_PERCENT))
    }

    /// Blocks of a shape that one SM holds.
    pub fn blocks_per_sm(&self, shape: &LaunchShape) -> Result<u32> {
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

/// Encodes a tensor map: `dims` and `strides` as in [`ptxvm::TensorMap`], and of a box as
/// many elements as the tile has.
///
/// # Panics
/// If there is not a tile side for each dimension and a stride for all but one.
pub(super) fn encode_tiled(
    element: sys::CUtensorMapDataType,
    address: u64,
    [dims, strides]: [&[u64]; 2],
    tile: &[u32],
    swizzle: sys::CUtensorMapSwizzle,
    fill: sys::CUtensorMapFloatOOBfill,
) -> Result<EncodedTensorMap> {
    let rank = dims.len();
    assert!(
        tile.len() == rank && strides.len() + 1 == rank,
        "a tensor map has a tile side for each dimension and a stride for all but one"
    );
    let steps = vec![1u32; rank];
    let mut encoded = sys::CUtensorMap { opaque: [0; 16] };
    call!(cuTensorMapEncodeTiled(
        &mut encoded,
        element,
        rank as u32,
        address as *mut c_void,
        dims.as_ptr(),
        strides.as_ptr(),
        tile.as_ptr(),
        steps.as_ptr(),
        sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
        swizzle,
        sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        fill,
    ))?;
    Ok(EncodedTensorMap(bytemuck::cast(encoded.opaque)))
}
