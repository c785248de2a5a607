//! Counts of what a launch did. They do not depend on the schedule.

/// The unit that does arithmetic, and the number format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Unit {
    /// Scalar binary64.
    F64,
    /// Scalar binary32.
    F32,
    /// Scalar and packed binary16.
    F16,
    /// Scalar and packed bfloat16.
    BF16,
    /// Packed 8-bit integer dot products.
    Int8,
    /// Special functions: reciprocal, roots, sine, cosine, logarithm, exponential, tanh.
    Special,
    /// Matrix unit, binary16 inputs.
    TensorF16,
    /// Matrix unit, bfloat16 inputs.
    TensorBF16,
    /// Matrix unit, tf32 inputs.
    TensorTF32,
    /// Matrix unit, 8-bit floating-point inputs.
    TensorF8,
    /// Matrix unit, 8-bit integer inputs.
    TensorInt8,
    /// Matrix unit, binary64 inputs.
    TensorF64,
}

impl Unit {
    /// All units, in the order of [`Counts::flops`].
    pub const ALL: [Unit; 12] = [
        Unit::F64,
        Unit::F32,
        Unit::F16,
        Unit::BF16,
        Unit::Int8,
        Unit::Special,
        Unit::TensorF16,
        Unit::TensorBF16,
        Unit::TensorTF32,
        Unit::TensorF8,
        Unit::TensorInt8,
        Unit::TensorF64,
    ];

    /// Whether this is the matrix unit.
    pub fn is_tensor(self) -> bool {
        self as u8 >= Unit::TensorF16 as u8
    }
}

/// The class of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// Integer arithmetic.
    Integer,
    /// Operations on bits.
    Logic,
    /// Floating-point arithmetic.
    Float,
    /// Special functions.
    Special,
    /// Comparisons.
    Compare,
    /// Conversions between types.
    Convert,
    /// Moves and selections.
    Move,
    /// Loads from global or generic memory.
    LoadGlobal,
    /// Stores to global or generic memory.
    StoreGlobal,
    /// Loads from shared memory, including `ldmatrix`.
    LoadShared,
    /// Stores to shared memory, including `stmatrix`.
    StoreShared,
    /// Other loads and stores: parameters, constants, local memory.
    OtherMemory,
    /// Atomics and reductions in memory.
    Atomic,
    /// Exchanges within a warp.
    Warp,
    /// Matrix products.
    Tensor,
    /// Asynchronous copies and their groups.
    Async,
    /// Barriers, mbarriers and fences.
    Barrier,
    /// Branches, returns and the rest.
    Control,
}

impl Class {
    /// All classes, in the order of [`Counts::instructions`].
    pub const ALL: [Class; 18] = [
        Class::Integer,
        Class::Logic,
        Class::Float,
        Class::Special,
        Class::Compare,
        Class::Convert,
        Class::Move,
        Class::LoadGlobal,
        Class::StoreGlobal,
        Class::LoadShared,
        Class::StoreShared,
        Class::OtherMemory,
        Class::Atomic,
        Class::Warp,
        Class::Tensor,
        Class::Async,
        Class::Barrier,
        Class::Control,
    ];
}

/// The work of a launch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// FLOPs by [`Unit`]: a fused multiply-add is 2, a product of m, n and k is 2mnk,
    /// a special function is 1. Integer products count as if they were floats.
    pub flops: [u64; Unit::ALL.len()],
    /// Thread instructions by [`Class`].
    pub instructions: [u64; Class::ALL.len()],
    /// Warp instructions.
    pub warp_instructions: u64,
    /// Bytes that threads and copies read from global memory.
    pub global_read_bytes: u64,
    /// Bytes that threads and copies wrote to global memory.
    pub global_write_bytes: u64,
    /// 32-byte sectors of global memory that requests read, each counted once per request
    /// (an instruction of a warp, or one copy).
    pub sectors_read: u64,
    /// The same for writes.
    pub sectors_written: u64,
    /// Different sectors that the launch read: the reads of DRAM in units of 32 bytes, with
    /// an unlimited cache that is empty at the start.
    pub distinct_sectors_read: u64,
    /// Different sectors that the launch wrote.
    pub distinct_sectors_written: u64,
    /// Sectors read from DRAM, with a cache of [`crate::Options::l2_bytes`].
    pub dram_sectors_read: Option<u64>,
    /// Sectors written to DRAM, including those that are in the cache at the end.
    pub dram_sectors_written: Option<u64>,
    /// Of these, the sectors that were still in the cache at the end. A counter of DRAM
    /// does not see them before others take their place.
    pub dram_sectors_left: Option<u64>,
    /// Atomic operations on global memory, one per lane.
    pub global_atomics: u64,
    /// Bytes that threads and matrix units read from shared memory.
    pub shared_read_bytes: u64,
    /// Bytes that threads wrote to shared memory.
    pub shared_write_bytes: u64,
    /// Passes that shared memory needed for the accesses of threads.
    pub shared_wavefronts: u64,
    /// Passes beyond the fewest possible.
    pub bank_conflicts: u64,
    /// Bytes that asynchronous copies moved into shared memory.
    pub async_bytes: u64,
}

impl Counts {
    /// The FLOPs of one unit.
    pub fn flops_of(&self, unit: Unit) -> u64 {
        self.flops[unit as usize]
    }

    /// The thread instructions of one class.
    pub fn instructions_of(&self, class: Class) -> u64 {
        self.instructions[class as usize]
    }

    /// All thread instructions.
    pub fn thread_instructions(&self) -> u64 {
        self.instructions.iter().sum()
    }

    /// FLOPs of all units but special functions.
    pub fn total_flops(&self) -> u64 {
        self.flops.iter().sum::<u64>() - self.flops_of(Unit::Special)
    }

    /// Compulsory traffic to DRAM: every different sector once in each direction.
    pub fn compulsory_bytes(&self) -> u64 {
        32 * (self.distinct_sectors_read + self.distinct_sectors_written)
    }

    /// All traffic so far.
    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            global_bytes: self.global_read_bytes + self.global_write_bytes,
            sectors: self.sectors_read + self.sectors_written,
            shared_bytes: self.shared_read_bytes + self.shared_write_bytes,
            wavefronts: self.shared_wavefronts,
            conflicts: self.bank_conflicts,
        }
    }

    /// Adds what another part of the same launch did, except for the different sectors,
    /// which are counted once for the whole launch.
    pub(crate) fn add(&mut self, other: &Counts) {
        let lists = [
            (&mut self.flops[..], &other.flops[..]),
            (&mut self.instructions[..], &other.instructions[..]),
        ];
        for (ours, theirs) in lists {
            ours.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
        }
        self.warp_instructions += other.warp_instructions;
        self.global_read_bytes += other.global_read_bytes;
        self.global_write_bytes += other.global_write_bytes;
        self.sectors_read += other.sectors_read;
        self.sectors_written += other.sectors_written;
        self.global_atomics += other.global_atomics;
        self.shared_read_bytes += other.shared_read_bytes;
        self.shared_write_bytes += other.shared_write_bytes;
        self.shared_wavefronts += other.shared_wavefronts;
        self.bank_conflicts += other.bank_conflicts;
        self.async_bytes += other.async_bytes;
    }
}

/// The memory traffic of one instruction of the PTX.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LineCounts {
    /// Source file and line, where the PTX has `.loc`.
    pub source: Option<(String, u32)>,
    /// Line of the PTX text.
    pub ptx_line: u32,
    /// The instruction's opcode.
    pub instruction: String,
    /// Times that a warp executed it.
    pub requests: u64,
    /// What it moved.
    pub traffic: Traffic,
}

/// Memory traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of global memory that threads asked for, reads and writes.
    pub global_bytes: u64,
    /// 32-byte sectors of global memory that the requests touched.
    pub sectors: u64,
    /// Bytes of shared memory that threads asked for.
    pub shared_bytes: u64,
    /// Passes that shared memory needed.
    pub wavefronts: u64,
    /// Passes beyond the fewest possible.
    pub conflicts: u64,
}

impl Traffic {
    /// Adds what was counted between two moments.
    pub(crate) fn add_between(&mut self, before: &Traffic, after: &Traffic) {
        self.global_bytes += after.global_bytes - before.global_bytes;
        self.sectors += after.sectors - before.sectors;
        self.shared_bytes += after.shared_bytes - before.shared_bytes;
        self.wavefronts += after.wavefronts - before.wavefronts;
        self.conflicts += after.conflicts - before.conflicts;
    }
}

/// How many passes shared memory needs for accesses of `width` bytes at `addresses`, and
/// the fewest that such accesses can need. A bank delivers one 4-byte word per pass.
pub(crate) fn wavefronts(addresses: &[u32], width: u32) -> (u32, u32) {
    if addresses.is_empty() {
        return (0, 0);
    }
    // Wide accesses are served in groups of lanes of 128 bytes each.
    let group = (128 / width.max(4)) as usize;
    let mut passes = 0;
    for part in addresses.chunks(group) {
        passes += passes_of(part, width);
    }
    let best = addresses.len().div_ceil(group) as u32;
    (passes.max(best), best)
}

fn passes_of(addresses: &[u32], width: u32) -> u32 {
    let mut words = [0u32; 64];
    let mut count = 0;
    for &address in addresses {
        for word in address / 4..(address + width).div_ceil(4) {
            if count < words.len() {
                words[count] = word;
                count += 1;
            }
        }
    }
    let words = &mut words[..count];
    words.sort_unstable();
    let (mut banks, mut last) = ([0u8; 32], None);
    for &word in words.iter() {
        if last != Some(word) {
            banks[(word % 32) as usize] += 1;
            last = Some(word);
        }
    }
    u32::from(banks.into_iter().max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(step: u32) -> Vec<u32> {
        (0..32).map(|lane| lane * step).collect()
    }

    #[test]
    fn conflicts_of_strided_words() {
        assert_eq!(wavefronts(&lanes(4), 4), (1, 1));
        assert_eq!(wavefronts(&lanes(0), 4), (1, 1), "a broadcast");
        assert_eq!(wavefronts(&lanes(8), 4), (2, 1));
        assert_eq!(wavefronts(&lanes(128), 4), (32, 1));
        assert_eq!(wavefronts(&lanes(16), 16), (4, 4));
        assert_eq!(wavefronts(&lanes(128), 16), (32, 4));
        assert_eq!(wavefronts(&lanes(2), 2), (1, 1));
    }
}
