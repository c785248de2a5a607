//! The C interface of `libcuda.so.1`, as far as this driver has it.
//!
//! # Safety
//! Every function is as safe as the driver's: pointers must be what the CUDA driver API
//! says they are. Handles are numbers, so that a wrong one is an error and nothing worse.

#![allow(unsafe_code, reason = "the C interface of the driver")]
#![allow(clippy::missing_safety_doc, reason = "the module says it for all")]
#![allow(non_snake_case, reason = "the driver's names")]
#![allow(missing_docs, reason = "the driver's functions, under the driver's names")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use ptxvm::{OutOfBoundsFill, Swizzle, TensorElement, TensorMap};

use crate::code::{Code, Result};
use crate::driver::{self, Driver, NAME, VERSION};
use crate::host::HostRange;
use crate::module::Shape;
use crate::queue::{Entry, Handle};
use crate::remark::remark;

/// What the API calls a pointer and this driver a number.
type Opaque = *mut c_void;

/// Pinned memory begins at a page.
const PAGE_BYTES: usize = 4096;

/// Makes a call, and answers as the driver does.
fn answer(name: &'static str, body: impl FnOnce(&mut Driver) -> Result) -> c_int {
    let attempt = AssertUnwindSafe(|| driver::call(name, body));
    let done = catch_unwind(attempt).unwrap_or_else(|_| {
        remark(format_args!("{name} panicked; this is a bug of the virtual driver"));
        Err(Code::UNKNOWN)
    });
    done.map_or_else(Code::number, |()| 0)
}

/// The same for a call that needs the context.
fn in_context(name: &'static str, body: impl FnOnce(&mut Driver) -> Result) -> c_int {
    answer(name, |driver| {
        driver.context()?;
        body(driver)
    })
}

/// Stores a result where the caller wants it.
unsafe fn put<T>(to: *mut T, value: T) -> Result {
    if to.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: the caller's pointer, see the module.
    unsafe { to.write(value) };
    Ok(())
}

fn opaque(handle: Handle) -> Opaque {
    ptr::without_provenance_mut(handle)
}

/// Tells programs that record times that this is no GPU.
#[unsafe(no_mangle)]
pub extern "C" fn ridgepoint_virtual_driver() -> c_int {
    1
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> c_int {
    answer("cuInit", |driver| {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        driver.start();
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    answer("cuDriverGetVersion", |_| unsafe { put(version, VERSION) })
}

/// NVRTC loads the driver too, for tables that this one does not have.
#[unsafe(no_mangle)]
pub extern "C" fn cuGetExportTable(_: *mut *const c_void, _: *const c_void) -> c_int {
    answer("cuGetExportTable", |_| Err(Code::NOT_FOUND))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: c_int, text: *mut *const c_char) -> c_int {
    answer("cuGetErrorString", |_| {
        let words = match error {
            0 => c"no error",
            error => Code::of(error).ok_or(Code::INVALID_VALUE)?.description(),
        };
        unsafe { put(text, words.as_ptr()) }
    })
}

// --- Device and context ------------------------------------------------------------

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    answer("cuDeviceGetCount", |driver| {
        driver.device(0)?;
        unsafe { put(count, 1) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    answer("cuDeviceGet", |driver| {
        driver.device(ordinal)?;
        unsafe { put(device, ordinal) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(
    name: *mut c_char,
    bytes: c_int,
    device: c_int,
) -> c_int {
    answer("cuDeviceGetName", |driver| {
        driver.device(device)?;
        let room = usize::try_from(bytes).unwrap_or(0);
        if name.is_null() || room <= NAME.len() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: there is room for the name and its end.
        unsafe {
            name.cast::<u8>().copy_from_nonoverlapping(NAME.as_ptr(), NAME.len());
            name.add(NAME.len()).write(0);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) -> c_int {
    answer("cuDeviceGetUuid_v2", |driver| {
        driver.device(device)?;
        unsafe { put(uuid, *b"virtual sm_90a\0\0") }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    attribute: c_int,
    device: c_int,
) -> c_int {
    answer("cuDeviceGetAttribute", |driver| {
        driver.device(device)?;
        unsafe { put(value, driver.attribute(attribute)?) }
    })
}

/// What stands for the context.
const CONTEXT: Handle = 64;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(
    context: *mut Opaque,
    device: c_int,
) -> c_int {
    in_context("cuDevicePrimaryCtxRetain", |driver| {
        driver.device(device)?;
        unsafe { put(context, opaque(CONTEXT)) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> c_int {
    answer("cuDevicePrimaryCtxRelease_v2", |driver| {
        driver.device(device)?;
        driver.release();
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: Opaque) -> c_int {
    answer("cuCtxSetCurrent", |_| match context.addr() {
        0 | CONTEXT => Ok(()),
        _ => Err(Code::INVALID_CONTEXT),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> c_int {
    in_context("cuCtxSynchronize", Driver::synchronize_all)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxResetPersistingL2Cache() -> c_int {
    in_context("cuCtxResetPersistingL2Cache", |_| Ok(()))
}

// --- Memory ------------------------------------------------------------------------

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int {
    in_context("cuMemGetInfo_v2", |driver| {
        let (free_bytes, total_bytes) = driver.memory_bytes();
        unsafe { put(free, free_bytes as usize).and(put(total, total_bytes as usize)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> c_int {
    in_context("cuMemAlloc_v2", |driver| unsafe {
        put(address, driver.allocate(bytes as u64)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> c_int {
    in_context("cuMemFree_v2", |driver| driver.free(address))
}

fn pages(bytes: usize) -> Result<Layout> {
    Layout::from_size_align(bytes, PAGE_BYTES).map_err(|_| Code::OUT_OF_MEMORY)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(
    memory: *mut Opaque,
    bytes: usize,
    flags: c_uint,
) -> c_int {
    in_context("cuMemHostAlloc", |driver| {
        if flags > 7 {
            return Err(Code::INVALID_VALUE);
        }
        driver.check_host_bytes(bytes)?;
        // SAFETY: there is at least a byte.
        let start = unsafe { alloc_zeroed(pages(bytes)?) };
        if start.is_null() {
            return Err(Code::OUT_OF_MEMORY);
        }
        // SAFETY: it is freed in `cuMemFreeHost`, after all that is queued has run.
        driver.pin(unsafe { HostRange::new(start, bytes) });
        unsafe { put(memory, start.cast()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(memory: Opaque) -> c_int {
    in_context("cuMemFreeHost", |driver| {
        let range = driver.unpin(memory.addr())?;
        let layout = pages(range.bytes())?;
        // SAFETY: it was allocated with this layout, and is known no more.
        unsafe { dealloc(memory.cast(), layout) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetDevicePointer_v2(
    address: *mut u64,
    memory: Opaque,
    _flags: c_uint,
) -> c_int {
    in_context("cuMemHostGetDevicePointer_v2", |driver| unsafe {
        put(address, driver.map(memory.addr())?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: Opaque,
) -> c_int {
    in_context("cuMemcpyHtoDAsync_v2", |driver| {
        // SAFETY: the caller's range, see the module.
        let from = unsafe { HostRange::new(from.cast_mut().cast(), bytes) };
        driver.copy(stream.addr(), to, Entry::CopyIn { to, from })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: Opaque,
) -> c_int {
    in_context("cuMemcpyDtoHAsync_v2", |driver| {
        // SAFETY: the caller's range, see the module.
        let to = unsafe { HostRange::new(to.cast(), bytes) };
        driver.copy(stream.addr(), from, Entry::CopyOut { to, from })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(
    to: u64,
    value: u8,
    bytes: usize,
    stream: Opaque,
) -> c_int {
    in_context("cuMemsetD8Async", |driver| {
        driver.set(stream.addr(), to, bytes as u64, value)
    })
}

// --- Modules and functions -----------------------------------------------------------

/// Where a caller wants what the compiler says.
struct Log {
    start: *mut u8,
    bytes: usize,
}

impl Log {
    /// Options of a load: 5 is the buffer for errors, 6 its size.
    unsafe fn of(count: c_uint, options: *const c_int, values: *const Opaque) -> Self {
        let mut log = Log { start: ptr::null_mut(), bytes: 0 };
        for at in 0..count as usize {
            // SAFETY: the caller's arrays have so many entries.
            let (option, value) = unsafe { (*options.add(at), *values.add(at)) };
            match option {
                5 => log.start = value.cast(),
                6 => log.bytes = value.addr(),
                _ => {}
            }
        }
        log
    }

    /// Writes as much as there is room for, and an end.
    unsafe fn write(&self, text: &str) {
        if self.start.is_null() || self.bytes == 0 {
            return remark(text);
        }
        let length = text.len().min(self.bytes - 1);
        // SAFETY: the caller's buffer has so many bytes.
        unsafe {
            self.start.copy_from_nonoverlapping(text.as_ptr(), length);
            self.start.add(length).write(0);
        }
    }
}

unsafe fn load(
    driver: &mut Driver,
    module: *mut Opaque,
    image: *const c_void,
    log: &Log,
) -> Result {
    if image.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: an image has at least four bytes, or ends with a zero before.
    let text = unsafe { CStr::from_ptr(image.cast()) };
    let refuse = |code: Code, why: &str| {
        // SAFETY: the caller's buffer.
        unsafe { log.write(why) };
        Err(code)
    };
    if text.to_bytes().starts_with(b"\x7fELF") {
        let why = "it runs PTX and no machine code: give it PTX (RIDGEPOINT_IMAGE=ptx)";
        return refuse(Code::NO_BINARY_FOR_GPU, why);
    }
    let Ok(ptx) = text.to_str() else {
        return refuse(Code::INVALID_IMAGE, "the image is neither PTX nor machine code");
    };
    match driver.load(ptx) {
        Ok(handle) => unsafe { put(module, opaque(handle)) },
        Err((code, why)) => refuse(code, &why),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(
    module: *mut Opaque,
    image: *const c_void,
) -> c_int {
    in_context("cuModuleLoadData", |driver| {
        let log = Log { start: ptr::null_mut(), bytes: 0 };
        unsafe { load(driver, module, image, &log) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut Opaque,
    image: *const c_void,
    count: c_uint,
    options: *const c_int,
    values: *const Opaque,
) -> c_int {
    in_context("cuModuleLoadDataEx", |driver| unsafe {
        let log = Log::of(count, options, values);
        load(driver, module, image, &log)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Opaque) -> c_int {
    in_context("cuModuleUnload", |driver| driver.unload(module.addr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut Opaque,
    module: Opaque,
    name: *const c_char,
) -> c_int {
    in_context("cuModuleGetFunction", |driver| {
        if name.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the caller's text.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        unsafe { put(function, opaque(driver.find(module.addr(), &name)?)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetParamInfo(
    function: Opaque,
    index: usize,
    offset: *mut usize,
    bytes: *mut usize,
) -> c_int {
    in_context("cuFuncGetParamInfo", |driver| {
        let params = driver.function(function.addr())?.params();
        let param = params.get(index).ok_or(Code::INVALID_VALUE)?;
        unsafe { put(offset, param.offset)? };
        // The size need not be asked for.
        if bytes.is_null() { Ok(()) } else { unsafe { put(bytes, param.bytes) } }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(
    value: *mut c_int,
    attribute: c_int,
    function: Opaque,
) -> c_int {
    in_context("cuFuncGetAttribute", |driver| {
        let found = driver.function(function.addr())?.attribute(attribute)?;
        unsafe { put(value, found as c_int) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(
    function: Opaque,
    attribute: c_int,
    value: c_int,
) -> c_int {
    in_context("cuFuncSetAttribute", |driver| {
        driver.set_attribute(function.addr(), attribute, value)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int,
    function: Opaque,
    threads: c_int,
    shared_bytes: usize,
) -> c_int {
    in_context("cuOccupancyMaxActiveBlocksPerMultiprocessor", |driver| {
        let threads = u32::try_from(threads).map_err(|_| Code::INVALID_VALUE)?;
        let found = driver.function(function.addr())?.blocks_per_sm(threads, shared_bytes);
        unsafe { put(blocks, found as c_int) }
    })
}

/// `CUlaunchAttribute`.
#[repr(C)]
pub struct LaunchAttribute {
    id: c_uint,
    _pad: [u8; 4],
    value: [u32; 16],
}

/// `CUlaunchConfig`.
#[repr(C)]
pub struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    stream: Opaque,
    attributes: *const LaunchAttribute,
    count: c_uint,
}

/// Number of the attribute that holds the size of clusters.
const CLUSTER_DIMENSION: c_uint = 4;

/// Number of the attribute that lets a launch begin while the one before it drains.
const PROGRAMMATIC_SERIALIZATION: c_uint = 6;

impl LaunchConfig {
    unsafe fn shape(&self) -> Result<Shape> {
        let LaunchConfig { grid, block, shared_bytes, .. } = *self;
        let mut cluster = [1; 3];
        for at in 0..self.count as usize {
            // SAFETY: the caller's array has so many entries.
            let attribute = unsafe { &*self.attributes.add(at) };
            match attribute.id {
                0 | PROGRAMMATIC_SERIALIZATION => {}
                CLUSTER_DIMENSION => cluster.copy_from_slice(&attribute.value[..3]),
                _ => return Err(Code::NOT_SUPPORTED),
            }
        }
        Ok(Shape { grid, block, cluster, shared_bytes })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernelEx(
    config: *const LaunchConfig,
    function: Opaque,
    params: *const *const u8,
    extra: *const Opaque,
) -> c_int {
    in_context("cuLaunchKernelEx", |driver| {
        if config.is_null() || !extra.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the caller's structure.
        let config = unsafe { &*config };
        let shape = unsafe { config.shape()? };
        let function = function.addr();
        if params.is_null() && !driver.function(function)?.params().is_empty() {
            return Err(Code::INVALID_VALUE);
        }
        driver.launch(config.stream.addr(), function, shape, |places, block| {
            for (at, place) in places.iter().enumerate() {
                let to = &mut block[place.offset..][..place.bytes];
                // SAFETY: the caller has a pointer for each parameter, to as many bytes as
                // the kernel declares.
                unsafe {
                    let from = *params.add(at);
                    from.copy_to_nonoverlapping(to.as_mut_ptr(), place.bytes);
                }
            }
        })
    })
}

// --- Streams, events and graphs --------------------------------------------------------

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut Opaque, flags: c_uint) -> c_int {
    in_context("cuStreamCreate", |driver| match flags {
        0 | 1 => unsafe { put(stream, opaque(driver.new_stream())) },
        _ => Err(Code::INVALID_VALUE),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: Opaque) -> c_int {
    in_context("cuStreamDestroy_v2", |driver| driver.destroy_stream(stream.addr()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Opaque) -> c_int {
    in_context("cuStreamSynchronize", |driver| driver.synchronize(stream.addr()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStart() -> c_int {
    in_context("cuProfilerStart", |_| Ok(()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStop() -> c_int {
    in_context("cuProfilerStop", |_| Ok(()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(
    stream: Opaque,
    event: Opaque,
    _flags: c_uint,
) -> c_int {
    in_context("cuStreamWaitEvent", |driver| driver.wait(stream.addr(), event.addr()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: Opaque, _mode: c_int) -> c_int {
    in_context("cuStreamBeginCapture_v2", |driver| driver.begin_capture(stream.addr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: Opaque, graph: *mut Opaque) -> c_int {
    in_context("cuStreamEndCapture", |driver| unsafe {
        put(graph, opaque(driver.end_capture(stream.addr())?))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut Opaque, flags: c_uint) -> c_int {
    // The second bit means that it keeps no time.
    in_context("cuEventCreate", |driver| unsafe {
        put(event, opaque(driver.new_event(flags & 2 == 0)))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Opaque) -> c_int {
    in_context("cuEventDestroy_v2", |driver| driver.destroy_event(event.addr()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Opaque, stream: Opaque) -> c_int {
    in_context("cuEventRecord", |driver| driver.record(event.addr(), stream.addr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(
    ms: *mut f32,
    from: Opaque,
    to: Opaque,
) -> c_int {
    in_context("cuEventElapsedTime", |driver| unsafe {
        put(ms, driver.elapsed_ms(from.addr(), to.addr())?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut Opaque,
    graph: Opaque,
    _flags: u64,
) -> c_int {
    in_context("cuGraphInstantiateWithFlags", |driver| unsafe {
        put(executable, opaque(driver.instantiate(graph.addr())?))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(executable: Opaque, _stream: Opaque) -> c_int {
    in_context("cuGraphUpload", |driver| driver.graph(executable.addr()).map(drop))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(executable: Opaque, stream: Opaque) -> c_int {
    in_context("cuGraphLaunch", |driver| {
        driver.launch_graph(executable.addr(), stream.addr())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(executable: Opaque) -> c_int {
    in_context("cuGraphExecDestroy", |driver| driver.destroy_graph(executable.addr()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: Opaque) -> c_int {
    in_context("cuGraphDestroy", |driver| driver.destroy_graph(graph.addr()))
}

// --- Tensor maps -------------------------------------------------------------------------

/// By their numbers as `CUtensorMapDataType`.
const ELEMENTS: [TensorElement; 10] = [
    TensorElement::U8,
    TensorElement::U16,
    TensorElement::U32,
    TensorElement::I32,
    TensorElement::U64,
    TensorElement::I64,
    TensorElement::F16,
    TensorElement::F32,
    TensorElement::F64,
    TensorElement::BF16,
];

/// By their numbers as `CUtensorMapSwizzle`.
const SWIZZLES: [Swizzle; 4] =
    [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128];

fn nth<T: Copy>(all: &[T], number: c_int) -> Result<T> {
    let found = usize::try_from(number).ok().and_then(|number| all.get(number));
    found.copied().ok_or(Code::NOT_SUPPORTED)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuTensorMapEncodeTiled(
    map: *mut [u8; 128],
    element: c_int,
    rank: c_uint,
    address: Opaque,
    dims: *const u64,
    strides: *const u64,
    tile: *const c_uint,
    steps: *const c_uint,
    interleave: c_int,
    swizzle: c_int,
    _promotion: c_int,
    fill: c_int,
) -> c_int {
    answer("cuTensorMapEncodeTiled", |_| {
        if !(1..=5).contains(&rank) {
            return Err(Code::INVALID_VALUE);
        }
        let rank = rank as usize;
        // SAFETY: the caller's arrays have an entry for each dimension, and of strides one
        // less.
        let (dims, tile, steps, strides) = unsafe {
            (
                std::slice::from_raw_parts(dims, rank),
                std::slice::from_raw_parts(tile, rank),
                std::slice::from_raw_parts(steps, rank),
                match rank {
                    1 => &[][..],
                    rank => std::slice::from_raw_parts(strides, rank - 1),
                },
            )
        };
        if interleave != 0 || steps.iter().any(|&step| step != 1) {
            return Err(Code::NOT_SUPPORTED);
        }
        let encoded = driver::encode(&TensorMap {
            element: nth(&ELEMENTS, element)?,
            address: address.addr() as u64,
            dims: dims.to_vec(),
            strides: strides.to_vec(),
            box_dims: tile.to_vec(),
            swizzle: nth(&SWIZZLES, swizzle)?,
            fill: nth(&[OutOfBoundsFill::Zero, OutOfBoundsFill::Nan], fill)?,
        })?;
        unsafe { put(map, encoded) }
    })
}
