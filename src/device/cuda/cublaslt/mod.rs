//! The vendor's matrix products, cuBLASLt, as a kernel beside our own: the same buffers,
//! the same check and the same protocol. The library is opened when a campaign that has it in
//! its plan begins, beside the first points; a machine without it has rows that say so.

mod ffi;

use std::path::PathBuf;
use std::rc::Rc;
use std::thread::JoinHandle;

use ffi::{
    Addresses, Algorithm, Element, Formats, Product, ScaleMode, Session, Shape, Sums,
};

use super::driver::{self, Buffer, Context, CudaStream, DriverError};
use crate::device::Refusal;
use crate::device::executor::PlacedTensor;
use crate::format::DType;
use crate::op::{Gemm, OfProblem, Problem};
use crate::quant::{Quant, ScaleFormat, ScaleGroup};
use crate::toolchain::search::{CUBLASLT, SearchPath};

/// The name in records.
pub const NAME: &str = "cublaslt";

/// Most algorithms that are timed, and bytes that they may use beside the matrices: what
/// the library's own documentation recommends for this architecture.
const MOST_ALGORITHMS: usize = 8;
const WORKSPACE_BYTES: u64 = 32 << 20;

/// Whether the library computes a problem, as far as its number formats tell.
///
/// # Errors
/// What it computes.
pub fn takes(problem: &Problem) -> Result<(), Refusal> {
    formats(problem).map(drop)
}

/// The number formats of a problem as the library has them.
fn formats(problem: &Problem) -> Result<(Shape, Formats), Refusal> {
    let Some(gemm) = Gemm::of(problem) else {
        return Err(Refusal(format!(
            "cuBLASLt computes gemm, not {}; use another kernel",
            problem.op()
        )));
    };
    let Gemm { m, n, k, dtype, w_dtype, a_dtype } = *gemm;
    let formats = if a_dtype == Quant::plain(dtype) && w_dtype == Quant::plain(dtype) {
        plain(dtype)
    } else if dtype == DType::Int8 && a_dtype == Quant::plain(dtype) {
        (w_dtype == Quant::weights(DType::Int8)).then_some(Formats {
            operands: Element::Int8,
            addend: Element::Int8,
            product: Element::Int8,
            sums: Sums::Int32,
            scales: None,
            has_factors: true,
        })
    } else {
        scaled(dtype, a_dtype, w_dtype)
    };
    let formats = formats.ok_or_else(|| {
        Refusal(format!(
            "cuBLASLt has no product of {a_dtype} activations and {w_dtype} weights to \
             {dtype}; it has bf16, f16, f32 and tf32, dtype = int8, and with dtype = bf16 or f16 \
             a_dtype = fp8_e4m3_tensor with w_dtype = fp8_e4m3_tensor, or fp8_e4m3_token with \
             fp8_e4m3"
        ))
    })?;
    Ok((Shape { m, n, k }, formats))
}

fn plain(dtype: DType) -> Option<Formats> {
    let element = match dtype {
        DType::F32 | DType::Tf32 => Element::F32,
        DType::F16 => Element::F16,
        DType::Bf16 => Element::Bf16,
        _ => return None,
    };
    Some(Formats {
        operands: element,
        addend: element,
        product: element,
        sums: if dtype == DType::Tf32 { Sums::F32OfTf32 } else { Sums::F32 },
        scales: None,
        has_factors: false,
    })
}

/// Operands in FP8 with scales of both tensors, or of the rows of both.
fn scaled(dtype: DType, a_dtype: Quant, w_dtype: Quant) -> Option<Formats> {
    let group = |quant: Quant| {
        let scales = quant.scales().filter(|scales| scales.format == ScaleFormat::F32)?;
        (quant.dtype() == DType::Fp8E4m3 && !quant.has_zero_points())
            .then_some(scales.group)
    };
    let scales = match (group(a_dtype)?, group(w_dtype)?) {
        (ScaleGroup::Tensor, ScaleGroup::Tensor) => ScaleMode::Tensor,
        (ScaleGroup::Token, ScaleGroup::Channel) => ScaleMode::Rows,
        _ => return None,
    };
    let product =
        plain(dtype).filter(|_| matches!(dtype, DType::Bf16 | DType::F16))?.product;
    Some(Formats {
        operands: Element::Fp8E4m3,
        addend: product,
        product,
        sums: Sums::F32,
        scales: Some(scales),
        has_factors: false,
    })
}

/// The library, opened once, or why there is none.
pub struct Library(Result<Rc<Session>, String>);

/// A library that is being opened beside what else happens: it is hundreds of megabytes.
pub struct Opening(JoinHandle<Result<ffi::Library, String>>);

impl Opening {
    /// Looks for it as for the compiler: where the user says, in the loader's path, in
    /// toolkits, among Python's packages.
    pub fn begin() -> Self {
        let find = || open(&SearchPath::of_this_machine(&CUBLASLT));
        Opening(std::thread::spawn(find))
    }

    /// Waits for it. A context must be current.
    pub fn finish(self) -> Library {
        let opened = self.0.join();
        let opened = opened.unwrap_or_else(|_| Err("opening cuBLASLt panicked".to_owned()));
        Library(opened.and_then(Session::new))
    }
}

impl Library {
    fn session(&self) -> Result<&Rc<Session>, Refusal> {
        self.0.as_ref().map_err(|why| Refusal(why.clone()))
    }
}

fn open(search: &SearchPath) -> Result<ffi::Library, String> {
    let mut faults = Vec::new();
    let mut try_all = |paths: Vec<PathBuf>| {
        paths.into_iter().find_map(|path| {
            let opened = ffi::Library::open(&path);
            opened.map_err(|why| faults.push(format!("{}: {why}", path.display()))).ok()
        })
    };
    let found = try_all(search.candidates());
    let found = found.or_else(|| try_all(search.python_candidates()));
    found.ok_or_else(|| {
        format!(
            "there is no cuBLASLt to use ({}); install the CUDA toolkit, or `python3 -m pip \
             install nvidia-cublas`, or set {} to libcublasLt.so or its folder",
            if faults.is_empty() {
                format!("looked in {}", search.places().join(", "))
            } else {
                faults.join("; ")
            },
            search.library.variable
        )
    })
}

/// A problem as the library computes it.
pub struct VendorProduct {
    product: Product,
    workspace: Buffer,
    /// Fastest first, once they were timed.
    algorithms: Vec<Algorithm>,
    chosen: usize,
    version: String,
}

impl VendorProduct {
    /// Asks the library for a problem whose tensors lie where a slot's do.
    ///
    /// # Errors
    /// Formats or shapes that it does not have, a library that is not there.
    pub fn new(
        library: &Library,
        context: &Rc<Context>,
        problem: &Problem,
        slot: &[PlacedTensor],
    ) -> Result<Self, Refusal> {
        let (shape, formats) = formats(problem)?;
        let session = library.session()?;
        let refused =
            |why: String| Refusal(format!("cuBLASLt does not compute {problem}: {why}"));
        let product = Product::new(session, shape, formats).map_err(refused)?;
        let algorithms =
            product.algorithms(&addresses(slot), MOST_ALGORITHMS, WORKSPACE_BYTES);
        let algorithms = algorithms.map_err(refused)?;
        if algorithms.is_empty() {
            return Err(refused("it has no algorithm for it".to_owned()));
        }
        let workspace = Buffer::new(context, WORKSPACE_BYTES)
            .map_err(|why| refused(format!("its workspace: {why}")))?;
        let version = session.version();
        Ok(VendorProduct { product, workspace, algorithms, chosen: 0, version })
    }

    /// How many algorithms there are to choose from.
    pub fn choices(&self) -> usize {
        self.algorithms.len()
    }

    /// Uses the algorithm of this number from now on.
    ///
    /// # Panics
    /// If there is none of this number.
    pub fn choose(&mut self, number: usize) {
        assert!(number < self.algorithms.len(), "an algorithm that there is not");
        self.chosen = number;
    }

    /// Queues the product of a slot.
    ///
    /// # Errors
    /// What the library reports.
    pub fn queue(&self, stream: &CudaStream, slot: &[PlacedTensor]) -> driver::Result<()> {
        let algorithm = &self.algorithms[self.chosen];
        let workspace = self.workspace.address();
        self.product
            .queue(stream, algorithm, &addresses(slot), workspace)
            .map_err(|why| DriverError::Library { library: "cuBLASLt", why })
    }

    /// The library, its version and which of its algorithms is used.
    pub fn implementation(&self) -> String {
        format!(
            "cuBLASLt {}, algorithm {} of {}",
            self.version,
            self.chosen + 1,
            self.algorithms.len()
        )
    }
}

/// Where the matrices of a slot lie.
fn addresses(slot: &[PlacedTensor]) -> Addresses {
    let find = |name: &str| {
        slot.iter().find(|placed| placed.tensor.name == name).map_or(0, |p| p.address)
    };
    Addresses {
        weights: find("b"),
        activations: find("a"),
        product: find("c"),
        weight_scales: find("b_scales"),
        activation_scales: find("a_scales"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<(Shape, Formats), Refusal> {
        formats(&text.parse().unwrap())
    }

    #[test]
    fn formats_are_those_that_the_library_has() {
        for (dtype, element) in
            [("bf16", Element::Bf16), ("f16", Element::F16), ("f32", Element::F32)]
        {
            let (shape, found) = of(&format!("gemm:m=3,n=5,k=7,dtype={dtype}")).unwrap();
            assert_eq!(shape, Shape { m: 3, n: 5, k: 7 });
            assert_eq!(
                (found.operands, found.product, found.scales),
                (element, element, None)
            );
        }
        let gemm = "gemm:m=16,n=32,k=128,dtype=bf16";
        for (schemes, scales) in [
            ("w_dtype=fp8_e4m3_tensor,a_dtype=fp8_e4m3_tensor", ScaleMode::Tensor),
            ("w_dtype=fp8_e4m3,a_dtype=fp8_e4m3_token", ScaleMode::Rows),
        ] {
            let (_, found) = of(&format!("{gemm},{schemes}")).unwrap();
            assert_eq!((found.operands, found.product), (Element::Fp8E4m3, Element::Bf16));
            assert_eq!(found.scales, Some(scales));
        }
        let (_, int8) = of("gemm:m=16,n=32,k=128,dtype=int8").unwrap();
        assert_eq!((int8.sums, int8.has_factors), (Sums::Int32, true));
    }

    #[test]
    fn what_it_does_not_have_is_refused_with_what_it_has() {
        for schemes in ["w_dtype=int4", "w_dtype=fp8_e4m3", "w_dtype=mxfp8,a_dtype=mxfp8"] {
            let refusal = of(&format!("gemm:m=16,n=64,k=128,dtype=bf16,{schemes}"));
            let text = refusal.unwrap_err().0;
            assert!(text.contains("a_dtype = fp8_e4m3_tensor"), "{schemes}: {text}");
        }
        let text = of("stream:access=read,bytes=128").unwrap_err().0;
        assert!(text.contains("computes gemm, not stream"), "{text}");
    }

    #[test]
    fn a_machine_without_it_says_where_it_looked_and_what_to_do() {
        let nowhere = SearchPath::nowhere(&CUBLASLT);
        let why = open(&nowhere).err().unwrap();
        assert!(why.contains("RIDGEPOINT_CUBLASLT"), "{why}");
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("libcublasLt.so.13"), "no library").unwrap();
        let why = open(&SearchPath::only(&CUBLASLT, folder.path())).err().unwrap();
        assert!(why.contains("libcublasLt.so.13: "), "{why}");
        // A download that broke off.
        let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let cut = &whole[..whole.len() / 2];
        std::fs::write(folder.path().join("libcublasLt.so.13"), cut).unwrap();
        let why = open(&SearchPath::only(&CUBLASLT, folder.path())).err().unwrap();
        assert!(why.contains("libcublasLt.so.13 is cut: it has "), "{why}");
    }
}
