//! The driver's library, its errors, and a GPU's primary context.

use std::ffi::{CStr, OsStr, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::rc::Rc;

use cudarc::driver::sys;
pub(in crate::device::cuda::driver) use sys::CUdevice_attribute as Attribute;

use super::super::error::{DriverError, LIBRARY, Result, Unavailable};
use super::super::symbols::{OLDEST_VERSION, PARAM_INFO, SYMBOLS, VIRTUAL};
use crate::toolchain::library;

pub(super) fn check(call: &'static str, code: sys::CUresult) -> Result<()> {
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
        _ => "the driver does not describe it".to_owned(),
    };
    Err(DriverError::Call { call, name: format!("{code:?}"), description })
}

/// Calls a driver function. SAFETY: the arguments are live handles of types of
/// `ffi`, pointers to locals that outlive the call, or checked ranges.
macro_rules! call {
    ($name:ident($($argument:expr),* $(,)?)) => {
        $crate::device::cuda::driver::ffi::context::check(stringify!($name), unsafe {
            ::cudarc::driver::sys::$name($($argument),*)
        })
    };
}
pub(super) use call;

/// The version of a driver that can be used, `1000 * major + 10 * minor`.
///
/// # Errors
/// No driver, or one that is too old.
pub fn version() -> Result<i32, Unavailable> {
    for name in [LIBRARY, "libcuda.so"] {
        let cut = library::refuse_cut(Path::new(name));
        cut.map_err(|why| Unavailable::NotLoaded { why })?;
    }
    // SAFETY: loads libcuda, whose constructors are made to be loaded.
    if !unsafe { sys::is_culib_present() } {
        return Err(why_absent());
    }
    if let Some(symbol) = SYMBOLS.iter().find(|symbol| !has(symbol)) {
        return Err(Unavailable::MissingSymbol { symbol });
    }
    let mut version = 0;
    call!(cuDriverGetVersion(&mut version))?;
    match version {
        version if version < OLDEST_VERSION => Err(Unavailable::OldDriver { version }),
        version => Ok(version),
    }
}

/// Why the driver's library does not load: it is not there, or what the loader says of it.
fn why_absent() -> Unavailable {
    // SAFETY: as in `version`, which has found that it does not load.
    let loaded = unsafe { libloading::Library::new(LIBRARY) };
    match loaded.map_err(library::loader_message) {
        Err(why) if library::on_loader_path(OsStr::new(LIBRARY)).is_some() => {
            Unavailable::NotLoaded { why }
        }
        _ => Unavailable::NoDriver,
    }
}

/// Whether the driver, which is there, has a function.
fn has(symbol: &str) -> bool {
    // SAFETY: the library is there, so this returns it.
    let library = unsafe { sys::culib() };
    // SAFETY: only whether it exists is asked; nothing is called.
    unsafe { library.get::<*const c_void>(symbol.as_bytes()) }.is_ok()
}

/// The number of GPUs that a usable driver sees.
///
/// # Errors
/// No driver, an old one, one that does not start, no GPU.
pub fn gpu_count() -> Result<usize, Unavailable> {
    version()?;
    match call!(cuInit(0)) {
        Err(error) if error.is("CUDA_ERROR_NO_DEVICE") => {
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
    /// Whether the driver has [`PARAM_INFO`].
    pub(super) tells_params: bool,
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
        let context = Rc::new(Context { device, tells_params: has(PARAM_INFO) });
        call!(cuCtxSetCurrent(raw))?;
        Ok(context)
    }

    /// Whether the driver is the virtual one of the tests, whose times are no GPU's.
    pub fn is_virtual(&self) -> bool {
        has(VIRTUAL)
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

    pub(in crate::device::cuda::driver) fn attribute(
        &self,
        attribute: Attribute,
    ) -> Result<u32> {
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

    /// Waits until everything that was queued on any stream is done.
    pub(super) fn synchronize(&self) -> Result<()> {
        call!(cuCtxSynchronize())
    }

    /// Tells a profiler that watches the process where to begin or to stop; without one
    /// nothing happens.
    pub fn profile(&self, on: bool) -> Result<()> {
        let told = match on {
            true => call!(cuProfilerStart()),
            false => call!(cuProfilerStop()),
        };
        match told {
            Err(error) if error.is("CUDA_ERROR_PROFILER_DISABLED") => Ok(()),
            other => other,
        }
    }

    /// Gives lines that a process pinned in L2 back to ordinary use. A GPU that
    /// cannot pin any has nothing to give back.
    pub fn reset_persisting_l2(&self) -> Result<()> {
        match call!(cuCtxResetPersistingL2Cache()) {
            Err(error) if error.is("CUDA_ERROR_NOT_SUPPORTED") => Ok(()),
            other => other,
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let _ = call!(cuDevicePrimaryCtxRelease_v2(self.device));
    }
}
