//! Loaded PTX, and its kernels as the driver describes them.

use std::sync::Arc;

use ptxvm::{KernelInfo, KernelParam, Module};

use crate::code::{Code, Result};

/// Shared memory of a multiprocessor, in bytes.
pub const SHARED_PER_SM: u32 = 233_472;

/// Most shared memory of a block, in bytes.
pub const SHARED_PER_BLOCK: u32 = 232_448;

/// What the system takes for each block, in bytes.
pub const SHARED_RESERVED: u32 = 1024;

/// Threads that a multiprocessor holds.
pub const THREADS_PER_SM: u32 = 2048;

/// Blocks that a multiprocessor holds.
const BLOCKS_PER_SM: u32 = 32;

/// Registers of a multiprocessor, and of a thread at most.
const REGISTERS: [u32; 2] = [65_536, 255];

/// Dynamic shared memory that a launch may have without asking, with the static one.
const SHARED_UNASKED: u32 = 48 << 10;

/// A module and its text.
#[derive(Debug)]
pub struct Loaded {
    /// For the virtual machine.
    pub module: Module,
    /// Its PTX.
    pub ptx: String,
}

/// A kernel of a module.
#[derive(Clone, Debug)]
pub struct Function {
    /// Where it is.
    pub loaded: Arc<Loaded>,
    /// Its name.
    pub entry: Arc<str>,
    info: KernelInfo,
    /// Dynamic shared memory that launches may have, in bytes.
    dynamic_shared_bytes: u32,
    /// Its clusters may have more blocks than every GPU with clusters allows.
    big_clusters: bool,
}

/// Most blocks of a cluster: of every GPU that has clusters, and of this one.
const CLUSTER_BLOCKS: [u64; 2] = [8, 16];

/// Blocks, threads and shared memory of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Blocks of a cluster in x, y and z.
    pub cluster: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
}

fn product(axes: [u32; 3]) -> u64 {
    axes.iter().map(|&n| u64::from(n)).product()
}

impl Function {
    /// Finds a kernel.
    ///
    /// # Errors
    /// The module has none of this name.
    pub fn find(loaded: &Arc<Loaded>, entry: &str) -> Result<Self> {
        let info = loaded.module.kernel(entry).ok_or(Code::NOT_FOUND)?;
        let dynamic_shared_bytes = SHARED_UNASKED.saturating_sub(info.static_shared_bytes);
        let loaded = Arc::clone(loaded);
        let entry = entry.into();
        Ok(Function { loaded, entry, info, dynamic_shared_bytes, big_clusters: false })
    }

    /// Its parameters.
    pub fn params(&self) -> &[KernelParam] {
        self.loaded.module.params(&self.entry).unwrap_or_default()
    }

    /// Registers of a thread, an estimate: what the PTX declares, but no more than its
    /// launch bounds leave.
    pub fn registers(&self) -> u32 {
        let [of_sm, most] = REGISTERS;
        let threads = self.info.max_threads.map_or(1024, product) as u32;
        let blocks = self.info.min_blocks.unwrap_or(1).max(1);
        let bound = of_sm / threads.max(1).saturating_mul(blocks).min(of_sm) / 8 * 8;
        self.info.declared_registers.clamp(16, bound.clamp(16, most))
    }

    /// An attribute, by its number as `CUfunction_attribute`.
    ///
    /// # Errors
    /// One that this driver does not know.
    pub fn attribute(&self, attribute: i32) -> Result<u32> {
        Ok(match attribute {
            0 => self.info.max_threads.map_or(1024, product) as u32,
            1 => self.info.static_shared_bytes,
            3 => self.info.local_bytes,
            4 => self.registers(),
            8 => self.dynamic_shared_bytes,
            14 => self.big_clusters.into(),
            _ => return Err(Code::INVALID_VALUE),
        })
    }

    /// Allows launches with so much dynamic shared memory.
    ///
    /// # Errors
    /// More than a block can have.
    pub fn allow_shared_bytes(&mut self, bytes: i32) -> Result {
        let bytes = u32::try_from(bytes).map_err(|_| Code::INVALID_VALUE)?;
        let total = bytes.checked_add(self.info.static_shared_bytes);
        if total.is_none_or(|total| total > SHARED_PER_BLOCK) {
            return Err(Code::INVALID_VALUE);
        }
        self.dynamic_shared_bytes = bytes;
        Ok(())
    }

    /// Allows launches with clusters of more than eight blocks, or no longer.
    ///
    /// # Errors
    /// Neither 1 nor 0.
    pub fn allow_big_clusters(&mut self, value: i32) -> Result {
        self.big_clusters = match value {
            0 | 1 => value == 1,
            _ => return Err(Code::INVALID_VALUE),
        };
        Ok(())
    }

    /// Whether launches may have clusters of more than eight blocks.
    pub fn has_big_clusters(&self) -> bool {
        self.big_clusters
    }

    /// Blocks of so many threads that a multiprocessor holds.
    pub fn blocks_per_sm(&self, threads: u32, shared_bytes: usize) -> u32 {
        let warps = threads.div_ceil(32).max(1);
        let by_threads = THREADS_PER_SM / 32 / warps;
        // Registers are given to warps in units of 256.
        let of_warp = (32 * self.registers()).next_multiple_of(256);
        let by_registers = REGISTERS[0] / of_warp / warps;
        let shared = u64::from(self.info.static_shared_bytes)
            + shared_bytes as u64
            + u64::from(SHARED_RESERVED);
        let by_shared = (u64::from(SHARED_PER_SM) / shared) as u32;
        by_threads.min(by_registers).min(by_shared).min(BLOCKS_PER_SM)
    }

    /// Whether a launch of this shape can be.
    ///
    /// # Errors
    /// What the driver answers where it cannot.
    pub fn check(&self, shape: &Shape) -> Result {
        let threads = product(shape.block);
        let whole = shape.grid.iter().zip(shape.cluster).all(|(g, c)| c > 0 && g % c == 0);
        let cluster = self.info.cluster.unwrap_or(shape.cluster);
        if threads == 0 || threads > 1024 || product(shape.grid) == 0 || !whole {
            return Err(Code::INVALID_VALUE);
        }
        if shape.cluster != [1; 3] && shape.cluster != cluster {
            return Err(Code::INVALID_VALUE);
        }
        if product(cluster) > CLUSTER_BLOCKS[usize::from(self.big_clusters)] {
            return Err(Code::INVALID_CLUSTER_SIZE);
        }
        if shape.shared_bytes > self.dynamic_shared_bytes {
            return Err(Code::INVALID_VALUE);
        }
        match self.info.max_threads {
            Some(most) if threads > product(most) => Err(Code::LAUNCH_OUT_OF_RESOURCES),
            _ => Ok(()),
        }
    }
}
