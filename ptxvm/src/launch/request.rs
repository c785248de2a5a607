//! What is asked for: a kernel, its grid and its parameters.

use std::ops::Range;

use crate::options::Options;

/// One launch.
#[derive(Debug, Clone)]
pub struct Launch<'a> {
    /// The kernel's name.
    pub entry: &'a str,
    /// Blocks of the grid, by axis.
    pub grid: [u32; 3],
    /// Threads of a block, by axis.
    pub block: [u32; 3],
    /// Blocks of a cluster, by axis; ones for no cluster.
    pub cluster: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// What the kernel's attribute `MAX_DYNAMIC_SHARED_SIZE_BYTES` was set to. Without it,
    /// static and dynamic shared memory are 48 KiB at most.
    pub dynamic_shared_limit: Option<u32>,
    /// Whether the kernel's attribute `NON_PORTABLE_CLUSTER_SIZE_ALLOWED` is set, which
    /// clusters of more than 8 blocks need.
    pub non_portable_cluster: bool,
    /// Whether all blocks run at once, so that the grid can have a barrier
    /// (`cuLaunchCooperativeKernel`).
    pub cooperative: bool,
    /// Whether it may begin while the launch before it ends (programmatic dependent launch):
    /// until a thread of a block, or of its cluster, has waited for that one
    /// (`griddepcontrol.wait`), they access only memory that no launch writes
    /// ([`crate::Memory::settle`]).
    pub overlaps_previous: bool,
    /// Registers of a thread, as the assembler reports them, if they are known.
    pub registers: Option<u32>,
    /// The device's architecture, such as `sm_90`; without it, that of the module.
    pub device: Option<&'a str>,
    /// The parameter block: every parameter at its offset ([`Params`] builds it).
    pub params: Vec<u8>,
    /// Picks the order in which warps and blocks run.
    pub seed: u64,
    /// What `%clock64` begins at, and `%globaltimer` above its own beginning, so that
    /// launches one after the other see time pass. Both count a warp's instructions.
    pub clock: u64,
    /// Blocks to run, by their numbers in the grid (x counts fastest), with the clusters
    /// that they are in; `None` for all. What the others would have written stays
    /// unwritten, and nothing of theirs is counted: so the far end of a launch that moves
    /// tens of GiB is looked at in seconds.
    pub only: Option<Vec<Range<u64>>>,
    /// How to carry the launch out.
    pub options: Options,
}

impl<'a> Launch<'a> {
    /// A launch of `entry` with one block of one thread, and without parameters.
    pub fn new(entry: &'a str) -> Self {
        Self {
            entry,
            grid: [1; 3],
            block: [1; 3],
            cluster: [1; 3],
            shared_bytes: 0,
            dynamic_shared_limit: None,
            non_portable_cluster: false,
            cooperative: false,
            overlaps_previous: false,
            registers: None,
            device: None,
            params: Vec::new(),
            seed: 0,
            clock: 0,
            only: None,
            options: Options::default(),
        }
    }
}

/// Builds a parameter block, each parameter at its natural alignment.
#[derive(Debug, Clone, Default)]
pub struct Params {
    bytes: Vec<u8>,
}

impl Params {
    /// No parameters yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends raw bytes at a multiple of `align`.
    #[must_use]
    pub fn bytes(mut self, align: usize, bytes: &[u8]) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(align.max(1)), 0);
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends a pointer or another 64-bit integer.
    #[must_use]
    pub fn u64(self, value: u64) -> Self {
        self.bytes(8, &value.to_le_bytes())
    }

    /// Appends an unsigned 32-bit integer.
    #[must_use]
    pub fn u32(self, value: u32) -> Self {
        self.bytes(4, &value.to_le_bytes())
    }

    /// Appends a signed 32-bit integer.
    #[must_use]
    pub fn i32(self, value: i32) -> Self {
        self.bytes(4, &value.to_le_bytes())
    }

    /// Appends a 32-bit float.
    #[must_use]
    pub fn f32(self, value: f32) -> Self {
        self.bytes(4, &value.to_le_bytes())
    }

    /// The block.
    pub fn build(self) -> Vec<u8> {
        self.bytes
    }
}
