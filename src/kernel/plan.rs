//! How a problem is launched: plain data that a device, real or virtual, executes.

use std::fmt;

use bytemuck::Pod;

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
