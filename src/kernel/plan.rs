//! How a problem is launched: plain data that a device, real or virtual, executes.

use std::fmt;

use bytemuck::Pod;

use super::bound::Bound;
use super::tensor_map::{EncodedTensorMap, TensorMap};
use crate::op::Operand;

/// How a problem is launched: its copies, all at the same time, then its launches in
/// order, then its stages.
#[derive(Debug)]
pub struct Plan {
    /// Copies between the memory of the host and that of the device.
    pub copies: Vec<TensorCopy>,
    /// Launches that, with the copies, solve the problem once.
    pub launches: Vec<Launch>,
    /// Buffers beside the problem's tensors. All rotation slots share them, since launches
    /// follow one another; what a launch expects in them it also leaves in them.
    pub scratch: Vec<Scratch>,
    /// Tensor maps over the problem's tensors, for kernels that copy tiles.
    pub tensor_maps: Vec<TensorMap>,
    /// Bytes to and from DRAM that the kernel moves by its own choice beside the compulsory
    /// ones; `None` where it depends on caches.
    pub extra_bytes: Option<u64>,
    /// Work of the busiest block over that of the mean block; 1 where all have the same,
    /// apart from a tail.
    pub imbalance: f64,
    /// Plans of other problems that this one is made of, each of launches only.
    pub parts: Vec<Plan>,
    /// What runs after the launches: parts, each with tensors of its own.
    pub stages: Vec<BoundStage>,
    /// Whether each launch of a row is to begin while the one before it drains, where the
    /// point asks for no launch mode.
    pub overlaps_runs: bool,
}

/// A part of a plan, run once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundStage {
    /// Which of [`Plan::parts`].
    pub part: usize,
    /// Where the tensors of the part's problem lie.
    pub operands: Vec<Operand>,
}

/// A launch of a plan, and what it is launched from.
#[derive(Clone, Copy, Debug)]
pub struct PlannedLaunch<'a> {
    /// The plan that it stands in: the whole, or a part.
    pub plan: &'a Plan,
    /// Which of the compiled sources has its function, see
    /// [`Configured::images`](super::Configured::images).
    pub image: usize,
    /// The launch.
    pub launch: &'a Launch,
}

impl Plan {
    /// Every launch in order, those of stages too.
    pub fn all_launches(&self) -> impl Iterator<Item = PlannedLaunch<'_>> {
        let stages = self.stages.iter();
        let of_stages =
            stages.flat_map(|stage| self.parts[stage.part].own_launches(stage.part));
        self.own_launches(0).chain(of_stages)
    }

    fn own_launches(&self, image: usize) -> impl Iterator<Item = PlannedLaunch<'_>> {
        let launches = self.launches.iter();
        launches.map(move |launch| PlannedLaunch { plan: self, image, launch })
    }

    /// Every scratch buffer: its own, then those of each part, which all stages of a part
    /// share.
    pub fn all_scratch(&self) -> impl Iterator<Item = &Scratch> {
        self.scratch.iter().chain(self.parts.iter().flat_map(|part| &part.scratch))
    }

    /// A plan of one launch without scratch, tensor maps or extra traffic.
    pub fn of(launch: Launch) -> Self {
        Plan { launches: vec![launch], ..Plan::of_copies(Vec::new()) }
    }

    /// A plan of copies without launches.
    pub fn of_copies(copies: Vec<TensorCopy>) -> Self {
        Plan {
            copies,
            launches: Vec::new(),
            scratch: Vec::new(),
            tensor_maps: Vec::new(),
            extra_bytes: Some(0),
            imbalance: 1.0,
            parts: Vec::new(),
            stages: Vec::new(),
            overlaps_runs: false,
        }
    }

    /// The same with launches that may begin while the one before them drains: their kernels
    /// wait for it.
    pub(super) fn overlapping(mut self) -> Self {
        for launch in &mut self.launches {
            launch.overlaps_previous = true;
        }
        Plan { overlaps_runs: true, ..self }
    }

    /// The parameters of [`Plan::all_launches`], in order, for a slot's tensors. `scratch` has
    /// the device addresses of [`Plan::all_scratch`], in order; `encode` makes of each tensor
    /// map what the hardware reads.
    ///
    /// # Errors
    /// Those of `encode`.
    pub fn params<E>(
        &self,
        tensors: Bound,
        scratch: &[u64],
        mut encode: impl FnMut(&ptxvm::TensorMap) -> Result<EncodedTensorMap, E>,
    ) -> Result<Vec<ParamBytes>, E> {
        let (own, mut rest) = scratch.split_at(self.scratch.len());
        let mut of_parts = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let (here, after) = rest.split_at(part.scratch.len());
            of_parts.push(here);
            rest = after;
        }
        let mut params = Vec::new();
        let bound = self.bind(tensors, own, &mut encode, &mut params)?;
        for stage in &self.stages {
            let operands = bound.operands(&stage.operands);
            self.parts[stage.part].bind(
                operands,
                of_parts[stage.part],
                &mut encode,
                &mut params,
            )?;
        }
        Ok(params)
    }

    /// Adds the parameters of the launches that are not of stages, and returns what they are
    /// made from.
    fn bind<E>(
        &self,
        tensors: Bound,
        scratch: &[u64],
        encode: &mut impl FnMut(&ptxvm::TensorMap) -> Result<EncodedTensorMap, E>,
        params: &mut Vec<ParamBytes>,
    ) -> Result<Bound, E> {
        let names = self.scratch.iter().map(|scratch| scratch.name);
        let mut bound = tensors.with_scratch(names.zip(scratch.iter().copied()));
        for map in &self.tensor_maps {
            let encoded = encode(&map.over(bound.tensor(map.tensor)))?;
            bound = bound.with_tensor_map(map.name, encoded);
        }
        params.extend(self.launches.iter().map(|launch| launch.params.of_slot(&bound)));
        Ok(bound)
    }
}

/// A copy of a whole tensor to another one of the same size, one of them in the memory of
/// the host and the other in that of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorCopy {
    /// Name of the tensor that is copied.
    pub from: &'static str,
    /// Name of the tensor that is written.
    pub to: &'static str,
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
    /// Whether blocks take work by a ticket, so that some of them do that of all.
    pub takes_turns: bool,
    /// Whether as much as can be of the memory that L1 and shared memory divide is to be L1.
    pub prefers_l1: bool,
    /// Bytes of a block's loads, copies or stores that are in flight in the middle of its
    /// work. Times the blocks of an SM, they must cover latency times bandwidth (Little's
    /// law); 0 where memory does not matter.
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
            takes_turns: false,
            prefers_l1: false,
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
            .field("takes_turns", &self.takes_turns)
            .field("prefers_l1", &self.prefers_l1)
            .field("bytes_in_flight", &self.bytes_in_flight)
            .finish_non_exhaustive()
    }
}

/// The bytes of a kernel's parameter, and the struct that they were made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamBytes {
    /// Path of the Rust type, for messages.
    pub struct_name: &'static str,
    /// What a launch passes.
    pub bytes: Vec<u8>,
}

impl ParamBytes {
    /// The bytes of a struct that is declared like the kernel's: `#[repr(C)]`, same fields
    /// in the same order, padding spelled out.
    pub fn of<P: Pod>(params: &P) -> Self {
        let bytes = bytemuck::bytes_of(params).to_vec();
        ParamBytes { struct_name: std::any::type_name::<P>(), bytes }
    }
}

type MakeBytes = dyn Fn(&Bound) -> ParamBytes + Send + Sync;

/// Makes the bytes of a kernel's parameter for a slot.
pub struct Params(Box<MakeBytes>);

impl Params {
    /// From a function to the struct that the kernel declares, see [`ParamBytes::of`].
    pub fn of<P: Pod>(make: impl Fn(&Bound) -> P + Send + Sync + 'static) -> Self {
        Params(Box::new(move |bound| ParamBytes::of(&make(bound))))
    }

    /// The bytes for a slot.
    pub fn bytes(&self, bound: &Bound) -> Vec<u8> {
        self.of_slot(bound).bytes
    }

    /// The bytes for a slot, with the name of their struct.
    pub fn of_slot(&self, bound: &Bound) -> ParamBytes {
        (self.0)(bound)
    }
}

/// A buffer beside the problem's tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scratch {
    /// Name by which the parameter of a launch asks for it, unique in its plan.
    pub name: &'static str,
    /// Its contents before the first launch.
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

    /// A buffer made on the host, such as a work list, which no launch writes.
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

/// The contents of a scratch buffer before the first launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeros, in bytes.
    Zeros(u64),
    /// Bytes that are written before they are read.
    Unset(u64),
    /// These bytes.
    Bytes(Vec<u8>),
}
