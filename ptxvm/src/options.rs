//! How a launch is carried out.

/// How a launch is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Look for races, unwritten values and other mistakes after which a GPU would
    /// continue. Without this, only mistakes that end the launch are found.
    pub checks: bool,
    /// Run blocks on several threads of the host where the kernel's blocks cannot
    /// communicate with each other.
    pub parallel: bool,
    /// Clusters of blocks that run at the same time on one host thread.
    pub resident: usize,
    /// Bytes of an L2 cache in front of DRAM, to count the traffic that reaches DRAM. Blocks
    /// then run on one thread of the host, so that only the seed decides their order.
    pub l2_bytes: Option<u64>,
    /// Equal partitions of that cache, each beside as many of the resident clusters.
    pub l2_partitions: usize,
    /// Count the memory traffic of each instruction ([`crate::Report::lines`]).
    pub lines: bool,
    /// Warp instructions after which a launch counts as hung.
    pub budget: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            checks: true,
            parallel: true,
            resident: 3,
            l2_bytes: None,
            l2_partitions: 1,
            lines: false,
            budget: 1 << 32,
        }
    }
}
