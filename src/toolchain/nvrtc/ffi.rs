//! The part of NVRTC's C interface that is used, with a safe interface: nothing
//! outside this file can pass it a wrong pointer.
#![allow(unsafe_code, reason = "NVRTC is a C library, opened at run time")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use crate::toolchain::c_library;
use crate::toolchain::library::{loader_message, refuse_cut};

type Status = c_int;
type Program = *mut c_void;
type Size = unsafe extern "C" fn(Program, *mut usize) -> Status;
type Bytes = unsafe extern "C" fn(Program, *mut c_char) -> Status;

c_library! {
    version: "nvrtcVersion", unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status;
    arch_count: "nvrtcGetNumSupportedArchs", unsafe extern "C" fn(*mut c_int) -> Status;
    archs: "nvrtcGetSupportedArchs", unsafe extern "C" fn(*mut c_int) -> Status;
    error_string: "nvrtcGetErrorString", unsafe extern "C" fn(Status) -> *const c_char;
    create: "nvrtcCreateProgram", unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status;
    destroy: "nvrtcDestroyProgram", unsafe extern "C" fn(*mut Program) -> Status;
    compile: "nvrtcCompileProgram",
        unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status;
    log_size: "nvrtcGetProgramLogSize", Size;
    log: "nvrtcGetProgramLog", Bytes;
    ptx_size: "nvrtcGetPTXSize", Size;
    ptx: "nvrtcGetPTX", Bytes;
    cubin_size: "nvrtcGetCUBINSize", Size;
    cubin: "nvrtcGetCUBIN", Bytes;
}

/// Keeps a library in the process, so that another finds it by its bare name.
pub fn keep_open(path: &Path) -> Result<(), String> {
    refuse_cut(path)?;
    // SAFETY: as for `Library::open`.
    let library = unsafe { libloading::Library::new(path) };
    let library = library.map_err(loader_message)?;
    std::mem::forget(library);
    Ok(())
}

/// The result of a compilation.
#[derive(Debug)]
pub struct Compiled {
    /// Whether it succeeded, and if not, NVRTC's name for why not.
    pub status: Result<(), String>,
    /// What the compiler and the assembler said.
    pub log: String,
    /// PTX; empty after a failure.
    pub ptx: String,
    /// Machine code; empty after a failure, and where none was asked for.
    pub cubin: Vec<u8>,
}

impl Library {
    /// Major and minor version.
    pub fn version(&self) -> Result<(u32, u32), String> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are to live integers.
        self.check(unsafe { (self.version)(&mut major, &mut minor) })?;
        let unsigned = |n: c_int| u32::try_from(n).map_err(|_| format!("version {n}"));
        Ok((unsigned(major)?, unsigned(minor)?))
    }

    /// Architectures that it compiles for: 90 is 9.0.
    pub fn archs(&self) -> Result<Vec<c_int>, String> {
        let mut count = 0;
        // SAFETY: the pointer is to a live integer.
        self.check(unsafe { (self.arch_count)(&mut count) })?;
        let mut archs = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: the array has as many elements as NVRTC just said it writes.
        self.check(unsafe { (self.archs)(archs.as_mut_ptr()) })?;
        Ok(archs)
    }

    /// Compiles a text. `headers` are names, as in `#include`, and texts.
    pub fn compile(
        &self,
        name: &CStr,
        text: &CStr,
        headers: &[(CString, CString)],
        options: &[CString],
    ) -> Result<Compiled, String> {
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let texts: Vec<_> = headers.iter().map(|(_, text)| text.as_ptr()).collect();
        let options: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        let length = |n: usize| c_int::try_from(n).map_err(|e| e.to_string());
        let mut handle = ptr::null_mut();
        // SAFETY: all strings end in NUL and outlive the call; both arrays have
        // `headers.len()` elements.
        self.check(unsafe {
            (self.create)(
                &mut handle,
                text.as_ptr(),
                name.as_ptr(),
                length(headers.len())?,
                texts.as_ptr(),
                names.as_ptr(),
            )
        })?;
        let program = OpenProgram { library: self, handle };
        // SAFETY: the program is alive; the array has as many strings as given.
        let status =
            unsafe { (self.compile)(handle, length(options.len())?, options.as_ptr()) };
        let status = self.check(status);
        let log = text_of(program.bytes(self.log_size, self.log)?);
        let (ptx, cubin) = match status {
            Ok(()) => (
                text_of(program.bytes(self.ptx_size, self.ptx).unwrap_or_default()),
                program.bytes(self.cubin_size, self.cubin).unwrap_or_default(),
            ),
            Err(_) => (String::new(), Vec::new()),
        };
        Ok(Compiled { status, log, ptx, cubin })
    }

    fn check(&self, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: NVRTC returns a string that lives as long as it, for any code.
        let name = unsafe { (self.error_string)(status) };
        if name.is_null() {
            return Err(format!("NVRTC error {status}"));
        }
        // SAFETY: not null, and ends in NUL.
        Err(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    }
}

/// A program that is destroyed when it goes out of scope.
struct OpenProgram<'a> {
    library: &'a Library,
    handle: Program,
}

impl OpenProgram<'_> {
    /// What a pair of functions returns: first its size, then it.
    fn bytes(&self, size: Size, bytes: Bytes) -> Result<Vec<u8>, String> {
        let mut length = 0;
        // SAFETY: the program is alive, the pointer is to a live integer.
        self.library.check(unsafe { size(self.handle, &mut length) })?;
        let mut buffer = vec![0u8; length];
        if length > 0 {
            // SAFETY: the buffer has the size that NVRTC just asked for.
            let status = unsafe { bytes(self.handle, buffer.as_mut_ptr().cast()) };
            self.library.check(status)?;
        }
        Ok(buffer)
    }
}

impl Drop for OpenProgram<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `create`, destroyed once. There is nothing to do
        // about an error here.
        unsafe { (self.library.destroy)(&mut self.handle) };
    }
}

/// Text up to the NUL that NVRTC counts with it.
fn text_of(mut bytes: Vec<u8>) -> String {
    if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(end);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
