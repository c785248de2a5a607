//! The part of cuBLASLt's C interface that is used, with a safe interface: matrices lie in
//! buffers of the driver, whose sizes are checked against the layouts, and what the library
//! does to device memory cannot break the safety of the host.
#![allow(unsafe_code, reason = "cuBLASLt is a C library, opened at run time")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::rc::Rc;

use crate::device::cuda::driver::CudaStream;
use crate::toolchain::c_library;

type Status = c_int;
type Handle = *mut c_void;
type Get<T> = unsafe extern "C" fn(*mut T) -> Status;
type Free = unsafe extern "C" fn(Handle) -> Status;
type Set = unsafe extern "C" fn(Handle, c_int, *const c_void, usize) -> Status;

c_library! {
    version: "cublasLtGetVersion", unsafe extern "C" fn() -> usize;
    status_name: "cublasLtGetStatusName", unsafe extern "C" fn(Status) -> *const c_char;
    create: "cublasLtCreate", Get<Handle>;
    destroy: "cublasLtDestroy", Free;
    product_create: "cublasLtMatmulDescCreate",
        unsafe extern "C" fn(*mut Handle, c_int, c_int) -> Status;
    product_set: "cublasLtMatmulDescSetAttribute", Set;
    product_destroy: "cublasLtMatmulDescDestroy", Free;
    layout_create: "cublasLtMatrixLayoutCreate",
        unsafe extern "C" fn(*mut Handle, c_int, u64, u64, i64) -> Status;
    layout_destroy: "cublasLtMatrixLayoutDestroy", Free;
    preference_create: "cublasLtMatmulPreferenceCreate", Get<Handle>;
    preference_set: "cublasLtMatmulPreferenceSetAttribute", Set;
    preference_destroy: "cublasLtMatmulPreferenceDestroy", Free;
    heuristic: "cublasLtMatmulAlgoGetHeuristic", unsafe extern "C" fn(
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        c_int,
        *mut Heuristic,
        *mut c_int,
    ) -> Status;
    multiply: "cublasLtMatmul", unsafe extern "C" fn(
        Handle,
        Handle,
        *const c_void,
        u64,
        Handle,
        u64,
        Handle,
        *const c_void,
        u64,
        Handle,
        u64,
        Handle,
        *const [u64; 8],
        u64,
        usize,
        *mut c_void,
    ) -> Status;
}

/// `cublasLtMatmulHeuristicResult_t`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Heuristic {
    algorithm: [u64; 8],
    workspace_bytes: usize,
    status: Status,
    waves: f32,
    reserved: [c_int; 4],
}

/// `cudaDataType_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Element {
    /// IEEE 754 binary32.
    F32 = 0,
    /// IEEE 754 binary16.
    F16 = 2,
    /// Signed bytes.
    Int8 = 3,
    /// bfloat16.
    Bf16 = 14,
    /// OCP FP8 E4M3.
    Fp8E4m3 = 28,
}

/// `cublasComputeType_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Sums {
    /// In binary32.
    F32 = 68,
    /// In 32-bit integers.
    Int32 = 72,
    /// In binary32, of operands in binary32 that are rounded to TensorFloat-32.
    F32OfTf32 = 77,
}

/// What the elements of a matrix are multiplied by: `cublasLtMatmulMatrixScale_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ScaleMode {
    /// One number in f32.
    Tensor = 0,
    /// One for each row of the operand, in f32.
    Rows = 3,
}

/// Attributes of a product, `cublasLtMatmulDescAttributes_t`.
mod attribute {
    use std::ffi::c_int;

    pub const POINTER_MODE: c_int = 2;
    pub const TRANSPOSE_A: c_int = 3;
    pub const TRANSPOSE_B: c_int = 4;
    pub const SCALE_POINTER: [c_int; 2] = [17, 18];
    pub const SCALE_MODE: [c_int; 2] = [31, 32];
}

/// `CUBLASLT_POINTER_MODE_ALPHA_DEVICE_VECTOR_BETA_ZERO`.
const FACTOR_VECTOR: c_int = 3;
/// `CUBLAS_OP_N` and `CUBLAS_OP_T`.
const KEEP: c_int = 0;
const TRANSPOSE: c_int = 1;
/// `CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES`.
const MAX_WORKSPACE_BYTES: c_int = 1;

impl Library {
    fn check(&self, call: &str, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the library returns a string that lives as long as it, for any code.
        let name = unsafe { (self.status_name)(status) };
        if name.is_null() {
            return Err(format!("{call} answered {status}"));
        }
        // SAFETY: not null, and ends in NUL.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        Err(format!("{call} answered {name}"))
    }
}

/// What the library made and destroys again.
struct Owned {
    handle: Handle,
    free: Free,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: made by the library's function for it, destroyed once. There is nothing to
        // do about an error here.
        unsafe { (self.free)(self.handle) };
    }
}

/// The library, ready to be asked.
pub struct Session {
    library: Library,
    handle: Owned,
}

impl Session {
    /// Starts it on the context that is current.
    pub fn new(library: Library) -> Result<Rc<Self>, String> {
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer is to a live handle.
        let status = unsafe { (library.create)(&mut handle) };
        library.check("cublasLtCreate", status)?;
        Ok(Rc::new(Session { library, handle: Owned { handle, free: library.destroy } }))
    }

    /// `13.1.0`.
    pub fn version(&self) -> String {
        // SAFETY: takes nothing.
        let version = unsafe { (self.library.version)() };
        // 120805 is 12.8.5, 130100 is 13.1.0.
        format!("{}.{}.{}", version / 10_000, version % 10_000 / 100, version % 100)
    }
}

/// `D = W A` in column-major order, which is `D[m][n] = A[m][k] W[n][k]^T` in row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of activations.
    pub m: u64,
    /// Rows of weights.
    pub n: u64,
    /// Columns of both.
    pub k: u64,
}

/// Number formats of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// Of weights and activations.
    pub operands: Element,
    /// Of the matrix that nothing of is added.
    pub addend: Element,
    /// Of the product.
    pub product: Element,
    /// What sums are made in.
    pub sums: Sums,
    /// What both operands are multiplied by, if by anything.
    pub scales: Option<ScaleMode>,
    /// Whether each row of weights has a factor.
    pub has_factors: bool,
}

/// Addresses of the matrices of a product in device memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addresses {
    /// Weights, `[n][k]`.
    pub weights: u64,
    /// Activations, `[m][k]`.
    pub activations: u64,
    /// The product, `[m][n]`.
    pub product: u64,
    /// Scales of weights, or factors; 0 without.
    pub weight_scales: u64,
    /// Scales of activations; 0 without.
    pub activation_scales: u64,
}

/// A way to compute a product.
#[derive(Clone, Copy, Debug)]
pub struct Algorithm {
    words: [u64; 8],
    /// Bytes that it needs beside the matrices.
    pub workspace_bytes: u64,
}

/// A product that the library was asked for.
pub struct Product {
    session: Rc<Session>,
    description: Owned,
    weights: Owned,
    activations: Owned,
    addend: Owned,
    product: Owned,
    formats: Formats,
}

impl Product {
    /// Describes a product.
    pub fn new(
        session: &Rc<Session>,
        shape: Shape,
        formats: Formats,
    ) -> Result<Self, String> {
        let Shape { m, n, k } = shape;
        let layout = |element, rows, columns| session.layout(element, rows, columns);
        let product = Product {
            description: session.description(formats.sums)?,
            weights: layout(formats.operands, k, n)?,
            activations: layout(formats.operands, k, m)?,
            addend: layout(formats.addend, n, m)?,
            product: layout(formats.product, n, m)?,
            session: Rc::clone(session),
            formats,
        };
        product.set(attribute::TRANSPOSE_A, &TRANSPOSE)?;
        product.set(attribute::TRANSPOSE_B, &KEEP)?;
        if formats.has_factors {
            product.set(attribute::POINTER_MODE, &FACTOR_VECTOR)?;
        }
        if let Some(mode) = formats.scales {
            for operand in attribute::SCALE_MODE {
                product.set(operand, &(mode as c_int))?;
            }
        }
        Ok(product)
    }

    fn set<T: bytemuck::Pod>(&self, attribute: c_int, value: &T) -> Result<(), String> {
        let library = &self.session.library;
        let pointer = ptr::from_ref(value).cast();
        // SAFETY: the description is alive, the pointer is to as many bytes as it says.
        let status = unsafe {
            (library.product_set)(
                self.description.handle,
                attribute,
                pointer,
                size_of::<T>(),
            )
        };
        library.check("cublasLtMatmulDescSetAttribute", status)
    }

    fn point_at_scales(&self, addresses: &Addresses) -> Result<(), String> {
        if self.formats.scales.is_none() {
            return Ok(());
        }
        let [weights, activations] = attribute::SCALE_POINTER;
        self.set(weights, &addresses.weight_scales)?;
        self.set(activations, &addresses.activation_scales)
    }

    /// The library's choice of algorithms, the most promising first, at most `most`.
    pub fn algorithms(
        &self,
        addresses: &Addresses,
        most: usize,
        workspace_bytes: u64,
    ) -> Result<Vec<Algorithm>, String> {
        self.point_at_scales(addresses)?;
        let library = &self.session.library;
        let preference = self.session.preference(workspace_bytes)?;
        let none = Heuristic {
            algorithm: [0; 8],
            workspace_bytes: 0,
            status: 0,
            waves: 0.0,
            reserved: [0; 4],
        };
        let mut found = vec![none; most];
        let mut count = 0;
        // SAFETY: all handles are alive; the array has `most` elements.
        let status = unsafe {
            (library.heuristic)(
                self.session.handle.handle,
                self.description.handle,
                self.weights.handle,
                self.activations.handle,
                self.addend.handle,
                self.product.handle,
                preference.handle,
                most as c_int,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        library.check("cublasLtMatmulAlgoGetHeuristic", status)?;
        found.truncate(usize::try_from(count).unwrap_or(0));
        found.retain(|heuristic| heuristic.status == 0);
        let algorithm = |found: Heuristic| Algorithm {
            words: found.algorithm,
            workspace_bytes: found.workspace_bytes as u64,
        };
        Ok(found.into_iter().map(algorithm).collect())
    }

    /// Queues the product. `workspace` is where the algorithm's bytes begin.
    pub fn queue(
        &self,
        stream: &CudaStream,
        algorithm: &Algorithm,
        addresses: &Addresses,
        workspace: u64,
    ) -> Result<(), String> {
        self.point_at_scales(addresses)?;
        let library = &self.session.library;
        let (one, zero) = (1.0f32, 0.0f32);
        let factor: *const c_void = match self.formats.has_factors {
            true => ptr::without_provenance(addresses.weight_scales as usize),
            false => ptr::from_ref(&one).cast(),
        };
        // SAFETY: all handles are alive. Addresses are of device memory, which only the GPU
        // follows; the factors on the host are read before the call returns.
        let status = unsafe {
            (library.multiply)(
                self.session.handle.handle,
                self.description.handle,
                factor,
                addresses.weights,
                self.weights.handle,
                addresses.activations,
                self.activations.handle,
                ptr::from_ref(&zero).cast(),
                addresses.product,
                self.addend.handle,
                addresses.product,
                self.product.handle,
                &algorithm.words,
                workspace,
                algorithm.workspace_bytes as usize,
                stream.raw().cast(),
            )
        };
        library.check("cublasLtMatmul", status)
    }
}

impl Session {
    fn description(&self, sums: Sums) -> Result<Owned, String> {
        let mut handle = ptr::null_mut();
        let (sums, factors) = (sums as c_int, Element::F32 as c_int);
        // SAFETY: the pointer is to a live handle.
        let status = unsafe { (self.library.product_create)(&mut handle, sums, factors) };
        self.library.check("cublasLtMatmulDescCreate", status)?;
        Ok(Owned { handle, free: self.library.product_destroy })
    }

    /// A matrix in column-major order without gaps.
    fn layout(&self, element: Element, rows: u64, columns: u64) -> Result<Owned, String> {
        let mut handle = ptr::null_mut();
        let leading = i64::try_from(rows).map_err(|e| e.to_string())?;
        let element = element as c_int;
        // SAFETY: the pointer is to a live handle.
        let status = unsafe {
            (self.library.layout_create)(&mut handle, element, rows, columns, leading)
        };
        self.library.check("cublasLtMatrixLayoutCreate", status)?;
        Ok(Owned { handle, free: self.library.layout_destroy })
    }

    fn preference(&self, workspace_bytes: u64) -> Result<Owned, String> {
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer is to a live handle.
        let status = unsafe { (self.library.preference_create)(&mut handle) };
        self.library.check("cublasLtMatmulPreferenceCreate", status)?;
        let preference = Owned { handle, free: self.library.preference_destroy };
        let pointer = ptr::from_ref(&workspace_bytes).cast();
        // SAFETY: the preference is alive, the pointer is to as many bytes as it says.
        let status = unsafe {
            (self.library.preference_set)(
                preference.handle,
                MAX_WORKSPACE_BYTES,
                pointer,
                size_of::<u64>(),
            )
        };
        self.library.check("cublasLtMatmulPreferenceSetAttribute", status)?;
        Ok(preference)
    }
}
