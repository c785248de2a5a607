//! The host halves of the CUDA kernels in `kernels/`: what each supports, how
//! it is compiled and how it is launched. Plain data and arithmetic, nothing
//! here needs a GPU: a [`Plan`] is carried out by a device, real or virtual.
//!
//! To add a kernel: `kernels/<name>.cu`, `src/kernel/<name>.rs`, and a line in
//! [`KERNELS`].

pub mod arch;
mod attention_decode;
mod attention_mla;
mod attention_mla_wgmma;
mod attention_prefill;
pub mod compile;
mod gemm;
mod gemm_skinny;
mod kv_append;
mod kv_read;
mod moe_gemm;
pub mod occupancy;
mod peak;
pub mod prebuilt;
pub mod sass;
mod split;
mod stream;
mod stream_bulk;

use std::fmt;

use bytemuck::Pod;
use thiserror::Error;

pub use arch::{Arch, Target};
pub use compile::{Binary, CompileError, Compiler, CompilerOptions};

use crate::format::DType;
use crate::nvrtc::Source;
use crate::op::{Op, Problem};

/// Why a problem is not run. Not a failure: the row says `skipped`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Refuses unless `right`: `the CUDA kernel takes`, and then what it takes,
/// what it was given and what to use.
fn refuse_unless(right: bool, takes: impl FnOnce() -> String) -> Result<(), Refusal> {
    if right { Ok(()) } else { Err(Refusal(format!("the CUDA kernel takes {}", takes()))) }
}

/// The macro that chooses a 16-bit format in `element.cuh`.
fn element(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::Bf16 => Some("ELEMENT_BF16"),
        DType::F16 => Some("ELEMENT_F16"),
        DType::F32 | DType::Fp8E4m3 | DType::Int8 | DType::Int4 => None,
    }
}

/// Every CUDA kernel. Where several run the same problem, the first one that
/// supports it is the default.
pub static KERNELS: &[Kernel] = &[
    stream::KERNEL,
    stream_bulk::KERNEL,
    peak::KERNEL,
    kv_read::KERNEL,
    kv_append::KERNEL,
    gemm_skinny::KERNEL,
    gemm::KERNEL,
    moe_gemm::KERNEL,
    attention_decode::KERNEL,
    attention_mla_wgmma::KERNEL,
    attention_mla::KERNEL,
    attention_prefill::KERNEL,
];

/// Headers that kernels include: name and text.
pub static HEADERS: &[(&str, &str)] = &[
    ("prelude.cuh", include_str!("../../kernels/prelude.cuh")),
    ("ptx.cuh", include_str!("../../kernels/ptx.cuh")),
    ("element.cuh", include_str!("../../kernels/element.cuh")),
    ("narrow.cuh", include_str!("../../kernels/narrow.cuh")),
    ("cached.cuh", include_str!("../../kernels/cached.cuh")),
    ("last_block.cuh", include_str!("../../kernels/last_block.cuh")),
    ("work_list.cuh", include_str!("../../kernels/work_list.cuh")),
    ("split_kv.cuh", include_str!("../../kernels/split_kv.cuh")),
    ("mbarrier.cuh", include_str!("../../kernels/mbarrier.cuh")),
    ("tile.cuh", include_str!("../../kernels/tile.cuh")),
    ("weights.cuh", include_str!("../../kernels/weights.cuh")),
    ("skinny.cuh", include_str!("../../kernels/skinny.cuh")),
];

/// Kernels that a device needs around those under test: to fill buffers, to
/// hold a queue, to read clocks.
pub const DEVICE_SOURCE: Source<'static> = Source {
    name: "device",
    text: include_str!("../../kernels/device.cu"),
    headers: HEADERS,
};

/// Sources beyond the kernels that a device compiles, without macros. They are
/// built and checked with the kernels.
pub static UTILITIES: &[Source] = &[DEVICE_SOURCE];

/// A CUDA kernel: a source file and its host half.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Base name of both files, and the name in records.
    pub name: &'static str,
    /// What it computes.
    pub op: Op,
    /// Text of the CUDA source.
    pub source: &'static str,
    /// Whether it runs a problem on an architecture, and if not, why not and
    /// what it would run.
    pub supports: fn(&Problem, Arch) -> Result<(), Refusal>,
    /// What the source is compiled with for a supported problem. Depends on
    /// the architecture but not on the size of the GPU, so that kernels can be
    /// compiled where there is none.
    pub defines: fn(&Problem, Arch) -> Defines,
    /// How a supported problem is launched.
    pub plan: fn(&Problem, &Target) -> Plan,
}

impl Kernel {
    /// The kernel named `name`.
    pub fn named(name: &str) -> Option<&'static Kernel> {
        KERNELS.iter().find(|kernel| kernel.name == name)
    }

    /// The kernel named `name`, if it runs a problem on an architecture.
    ///
    /// # Errors
    /// A name that no kernel for the operation has, with the one to use; why the
    /// kernel does not run the problem.
    pub fn asked_for(
        name: &str,
        problem: &Problem,
        arch: Arch,
    ) -> Result<&'static Kernel, Refusal> {
        let found = Kernel::named(name).filter(|found| found.op == problem.op());
        let Some(kernel) = found else {
            let known = Kernel::for_problem(problem, arch)?;
            return Err(Refusal(format!(
                "there is no CUDA kernel `{name}` for {}; use `{}`",
                problem.op(),
                known.name
            )));
        };
        (kernel.supports)(problem, arch)?;
        Ok(kernel)
    }

    /// The kernel that runs a problem when nobody names one.
    ///
    /// # Errors
    /// Why the first kernel for the operation does not run the problem.
    pub fn for_problem(problem: &Problem, arch: Arch) -> Result<&'static Kernel, Refusal> {
        let mut refusal = None;
        for kernel in KERNELS.iter().filter(|kernel| kernel.op == problem.op()) {
            match (kernel.supports)(problem, arch) {
                Ok(()) => return Ok(kernel),
                Err(why) => refusal = refusal.or(Some(why)),
            }
        }
        Err(refusal.unwrap_or_else(|| {
            Refusal(format!("there is no CUDA kernel for {}", problem.op()))
        }))
    }
}

/// Macros that a source is compiled with: names and values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Defines(pub Vec<(&'static str, String)>);

impl Defines {
    /// No macros yet.
    pub fn new() -> Self {
        Defines::default()
    }

    /// With one more macro.
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.0.push((name, value.to_string()));
        self
    }

    /// As compiler options, `-DNAME=VALUE`.
    pub fn options(&self) -> Vec<String> {
        self.0.iter().map(|(name, value)| format!("-D{name}={value}")).collect()
    }
}

impl fmt::Display for Defines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> =
            self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        f.write_str(if pairs.is_empty() { "no macros" } else { "" })?;
        f.write_str(&pairs.join(" "))
    }
}

/// How a problem is launched: its launches in order, on one stream.
#[derive(Debug)]
pub struct Plan {
    /// Launches that together solve the problem once.
    pub launches: Vec<Launch>,
    /// Buffers beyond the problem's tensors. One set serves all rotation
    /// slots, since launches follow one another; what a launch relies on
    /// finding there it leaves there.
    pub scratch: Vec<Scratch>,
    /// Tensor maps over the problem's tensors, for kernels that copy tiles.
    pub tensor_maps: Vec<TensorMap>,
    /// Bytes to and from DRAM that the kernel adds to the compulsory ones by
    /// its own choice; `None` where it depends on caches.
    pub extra_bytes: Option<u64>,
    /// Work of the busiest block over that of the mean block; 1 where all have the
    /// same but for a tail.
    pub imbalance: f64,
}

impl Plan {
    /// A plan of one launch without scratch, tensor maps or extra traffic.
    pub fn of(launch: Launch) -> Self {
        Plan {
            launches: vec![launch],
            scratch: Vec::new(),
            tensor_maps: Vec::new(),
            extra_bytes: Some(0),
            imbalance: 1.0,
        }
    }
}

/// One launch of a kernel.
pub struct Launch {
    /// Name of the `extern "C"` function.
    pub entry: &'static str,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Blocks of a cluster in x, y and z; all 1 without clusters.
    pub cluster: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// Whether the launch may begin while the one before it drains
    /// (programmatic dependent launch).
    pub overlaps_previous: bool,
    /// Bytes that a block has asked memory for, or given to it, and not yet seen
    /// arrive, in the middle of its work: what its loads, copies or stores span
    /// between issue and use. Times the blocks of an SM, it must cover latency
    /// times bandwidth (Little's law); 0 where memory does not matter.
    pub bytes_in_flight: u64,
    /// Makes the bytes of the kernel's one parameter.
    pub params: Params,
}

impl Launch {
    /// A 1-D launch without clusters, dynamic shared memory or overlap.
    pub fn new(entry: &'static str, blocks: u32, threads: u32, params: Params) -> Self {
        Launch {
            entry,
            grid: [blocks, 1, 1],
            block: [threads, 1, 1],
            cluster: [1, 1, 1],
            shared_bytes: 0,
            overlaps_previous: false,
            bytes_in_flight: 0,
            params,
        }
    }
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch")
            .field("entry", &self.entry)
            .field("grid", &self.grid)
            .field("block", &self.block)
            .field("cluster", &self.cluster)
            .field("shared_bytes", &self.shared_bytes)
            .field("overlaps_previous", &self.overlaps_previous)
            .field("bytes_in_flight", &self.bytes_in_flight)
            .finish_non_exhaustive()
    }
}

/// What the parameter of a launch is made of.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// Seed of the inputs.
    pub seed: u64,
    /// Rotation slot.
    pub slot: usize,
    /// Device addresses of the slot's tensors, as in [`Problem::tensors`].
    pub tensors: &'a [u64],
    /// Device addresses of [`Plan::scratch`].
    pub scratch: &'a [u64],
    /// The encoded [`Plan::tensor_maps`] of the slot.
    pub tensor_maps: &'a [EncodedTensorMap],
}

type MakeBytes = dyn Fn(&Bound) -> Vec<u8> + Send + Sync;

/// Makes the bytes of a kernel's parameter for a slot.
pub struct Params(Box<MakeBytes>);

impl Params {
    /// From a function to the struct that the kernel declares: `#[repr(C)]`,
    /// same fields in the same order, padding spelled out.
    pub fn of<P: Pod>(make: impl Fn(&Bound) -> P + Send + Sync + 'static) -> Self {
        Params(Box::new(move |bound| bytemuck::bytes_of(&make(bound)).to_vec()))
    }

    /// The bytes for a slot.
    pub fn bytes(&self, bound: &Bound) -> Vec<u8> {
        (self.0)(bound)
    }
}

/// A buffer beyond the problem's tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scratch {
    /// Name in messages.
    pub name: &'static str,
    /// What it holds before the first launch.
    pub content: Content,
}

impl Scratch {
    /// A buffer of zeros, for tickets.
    pub fn zeros(name: &'static str, bytes: u64) -> Self {
        Scratch { name, content: Content::Zeros(bytes) }
    }

    /// A buffer that is written before it is read.
    pub fn unset(name: &'static str, bytes: u64) -> Self {
        Scratch { name, content: Content::Unset(bytes) }
    }

    /// A buffer made on the host, such as a work list.
    pub fn of<T: Pod>(name: &'static str, values: &[T]) -> Self {
        Scratch { name, content: Content::Bytes(bytemuck::cast_slice(values).to_vec()) }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        match &self.content {
            Content::Zeros(bytes) | Content::Unset(bytes) => *bytes,
            Content::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

/// What a scratch buffer holds before the first launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// So many zero bytes.
    Zeros(u64),
    /// So many bytes that are written before they are read.
    Unset(u64),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// A tensor map: how the copy engine cuts tiles out of a tensor. Fields as in
/// the driver's `cuTensorMapEncodeTiled`, innermost dimension first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Position of the tensor in [`Problem::tensors`].
    pub tensor: usize,
    /// Bytes of an element: 1, 2 or 4.
    pub element_bytes: u32,
    /// Elements in each dimension.
    pub extents: Vec<u64>,
    /// Bytes from one index to the next, for every dimension but the innermost.
    pub strides_bytes: Vec<u64>,
    /// Elements of a tile in each dimension.
    pub tile: Vec<u32>,
    /// Span of the shared-memory swizzle in bytes: 0, 32, 64 or 128.
    pub swizzle_bytes: u32,
}

impl TensorMap {
    /// The map over the tensor at `address`. What lies outside reads as zeros.
    pub fn over(&self, address: u64) -> ptxvm::TensorMap {
        use ptxvm::{OutOfBoundsFill, Swizzle, TensorElement};
        ptxvm::TensorMap {
            element: match self.element_bytes {
                1 => TensorElement::U8,
                2 => TensorElement::U16,
                _ => TensorElement::U32,
            },
            address,
            dims: self.extents.clone(),
            strides: self.strides_bytes.clone(),
            box_dims: self.tile.clone(),
            swizzle: match self.swizzle_bytes {
                32 => Swizzle::Bytes32,
                64 => Swizzle::Bytes64,
                128 => Swizzle::Bytes128,
                _ => Swizzle::None,
            },
            fill: OutOfBoundsFill::Zero,
        }
    }
}

/// A tensor map as the hardware takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct EncodedTensorMap(pub [u8; 128]);

#[cfg(test)]
mod tests;
