//! How a launch is carried out.

/// How a launch is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Look for races, unwritten memory and the like. Without it, only what would
    /// crash is found.
    pub checks: bool,
    /// Run blocks on several threads of the host where the kernel has no way for
    /// its blocks to talk to one another.
    pub parallel: bool,
    /// Clusters of blocks that are under way at the same time on one host thread.
    pub resident: usize,
    /// Bytes of an L2 cache in front of DRAM, to count what gets past it. Blocks then
    /// run on one thread of the host, so that the order is the seed's alone.
    pub l2_bytes: Option<u64>,
    /// Warp instructions after which a launch counts as hung.
    pub budget: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { checks: true, parallel: true, resident: 3, l2_bytes: None, budget: 1 << 32 }
    }
}
