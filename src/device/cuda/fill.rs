//! Fills tensors in GPU memory, however many, by few launches: a rotation of a small problem
//! has tens of thousands of them.

use std::rc::Rc;

use bytemuck::{Pod, Zeroable};

use super::driver::{self, Buffer, Context, CudaStream, Function, LaunchShape};
use crate::data::{Key, largest_scale};
use crate::format::{DType, Tensor, TensorFormat};
use crate::kernel::ParamBytes;

/// Most tensors that are filled together.
const MOST_JOBS: usize = 4 << 10;

/// Most bytes that the host draws and the GPU puts in their places together; a tensor that
/// alone has more is copied to its place.
const MOST_STAGED_BYTES: usize = 1 << 20;

const JOB_BYTES: usize = size_of::<FillJob>();

/// Most bytes of jobs and staged bytes, which end within a draw each.
const TABLE_BYTES: usize = MOST_JOBS * (JOB_BYTES + DRAW_BYTES) + MOST_STAGED_BYTES;

const DRAW_BYTES: usize = 8;

const THREADS: u32 = 256;

/// Most blocks that share a tensor, and most of a launch with several.
const MOST_BLOCKS: u32 = 16_384;
const MOST_BLOCKS_OF_LAUNCH: u32 = 1 << 20;

/// Most rows of a grid.
const MOST_ROWS: u32 = 65_535;

/// Tensors of one launch differ in size by no more than this: blocks are as many for each.
const WIDEST: u64 = 8;

/// `FillJob` of `kernels/device.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct FillJob {
    key: u64,
    to: u64,
    draws: u64,
    format: FillFormat,
}

/// `FillParams` of `kernels/device.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct FillParams {
    jobs: u64,
    count: u64,
}

/// A format by the code that `fill` knows it by, the widths of latent records, and the
/// largest scale.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct FillFormat {
    code: u32,
    latent_dim: u16,
    rope_dim: u16,
    largest: f32,
    unused: u32,
}

impl FillFormat {
    const ONES: Self = FillFormat::plain(9);
    const COPIED: Self = FillFormat::plain(10);

    const fn plain(code: u32) -> Self {
        FillFormat { code, latent_dim: 0, rope_dim: 0, largest: 0.0, unused: 0 }
    }

    /// The code of a format that `fill` draws; `None` for those that the host draws.
    pub const fn of(format: TensorFormat) -> Option<Self> {
        let (mut latents, mut ropes) = (0, 0);
        let code = match format {
            TensorFormat::Words
            | TensorFormat::Values(DType::Int8 | DType::Int4 | DType::Fp4E2m1) => 0,
            TensorFormat::Values(DType::F32) => 1,
            TensorFormat::Values(DType::Tf32) => 7,
            TensorFormat::Values(DType::Bf16) => 2,
            TensorFormat::Values(DType::F16) => 3,
            TensorFormat::Values(DType::Fp8E4m3) => 4,
            TensorFormat::LatentRecords { latent_dim, rope_dim } => {
                (latents, ropes) = (latent_dim as u16, rope_dim as u16);
                5
            }
            TensorFormat::Scales(_) | TensorFormat::InverseScales(_) => 6,
            TensorFormat::HalfScales(_) => 8,
            TensorFormat::Values(DType::Fp8E5m2 | DType::F64)
            | TensorFormat::PageTable
            | TensorFormat::Gains(_)
            | TensorFormat::PowerScales(_)
            | TensorFormat::ByteScales(_) => return None,
        };
        let largest = largest_scale(format);
        Some(FillFormat { code, latent_dim: latents, rope_dim: ropes, largest, unused: 0 })
    }
}

/// Fills tensors by the kernel `fill`.
pub struct Filler {
    function: Function,
    /// Jobs of a launch, then staged bytes.
    table: Buffer,
}

/// What is to be filled together.
#[derive(Default)]
pub struct Batch {
    jobs: Vec<FillJob>,
    staged: Vec<u8>,
}

impl Batch {
    fn push(&mut self, to: u64, bytes: u64, (key, format): (u64, FillFormat)) {
        // Tensors are padded, so that the last draw may write beyond the end.
        self.jobs.push(FillJob { key, to, draws: bytes.div_ceil(8), format });
    }

    /// A tensor that the GPU draws.
    pub fn draw(&mut self, to: u64, bytes: u64, key: Key, format: FillFormat) {
        self.push(to, bytes, (key.raw(), format));
    }

    /// A tensor that holds ones in all bits.
    pub fn poison(&mut self, to: u64, bytes: u64) {
        self.push(to, bytes, (0, FillFormat::ONES));
    }

    /// A tensor that the host draws; it [can be staged](can_be_staged).
    pub fn stage(&mut self, to: u64, tensor: &Tensor, key: Key) {
        let (first, bytes) = (self.staged.len(), tensor.bytes() as usize);
        self.push(to, tensor.bytes(), (first as u64, FillFormat::COPIED));
        self.staged.resize(first + bytes.next_multiple_of(DRAW_BYTES), 0);
        key.fill(tensor.format, &mut self.staged[first..first + bytes]);
    }

    /// Whether there is room for one more, which so many bytes are staged for.
    pub fn has_room(&self, staged_bytes: u64) -> bool {
        self.jobs.len() < MOST_JOBS
            && self.staged.len() as u64 + staged_bytes <= MOST_STAGED_BYTES as u64
    }

    /// Bytes of the table at an address, and its jobs by launch: the largest first, similar
    /// ones together.
    fn table(mut self, address: u64) -> (Vec<u8>, Vec<Vec<FillJob>>) {
        let staged = address + (self.jobs.len() * JOB_BYTES) as u64;
        for job in self.jobs.iter_mut().filter(|job| job.format == FillFormat::COPIED) {
            job.key += staged;
        }
        self.jobs.sort_by_key(|job| std::cmp::Reverse(job.draws));
        let mut table: Vec<u8> = bytemuck::cast_slice(&self.jobs).to_vec();
        table.extend(&self.staged);
        let mut launches = Vec::new();
        let mut rest = &self.jobs[..];
        while let Some(largest) = rest.first() {
            let like = rest.partition_point(|job| job.draws >= largest.draws / WIDEST);
            let (now, later) = rest.split_at(like);
            launches.push(now.to_vec());
            rest = later;
        }
        (table, launches)
    }
}

/// Whether a tensor that the host draws is small enough to be filled together with others.
pub const fn can_be_staged(tensor: &Tensor) -> bool {
    tensor.bytes() <= MOST_STAGED_BYTES as u64
}

/// Blocks for so many tensors, the largest of so many draws.
fn grid(count: usize, draws: u64) -> [u32; 3] {
    let rows = count.clamp(1, MOST_ROWS as usize) as u32;
    let wanted = draws.div_ceil(u64::from(THREADS)).clamp(1, u64::from(MOST_BLOCKS)) as u32;
    [wanted.min((MOST_BLOCKS_OF_LAUNCH / rows).max(1)), rows, 1]
}

impl Filler {
    /// For the kernel `fill`.
    pub fn new(context: &Rc<Context>, function: Function) -> driver::Result<Self> {
        Ok(Filler { function, table: Buffer::new(context, TABLE_BYTES as u64)? })
    }

    /// Queues the filling of what was put into a batch, and empties it.
    pub fn flush(&self, stream: &CudaStream, batch: &mut Batch) -> driver::Result<()> {
        if batch.jobs.is_empty() {
            return Ok(());
        }
        let mut jobs = self.table.address();
        let (table, launches) = std::mem::take(batch).table(jobs);
        self.table.upload(stream, 0, &table)?;
        for launch in launches {
            let shape = LaunchShape {
                grid: grid(launch.len(), launch[0].draws),
                block: [THREADS, 1, 1],
                ..LaunchShape::warps(1)
            };
            let params = ParamBytes::of(&FillParams { jobs, count: launch.len() as u64 });
            stream.launch(&self.function, &shape, &[params])?;
            jobs += (launch.len() * JOB_BYTES) as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::Role;

    fn table_of(pages: usize) -> Tensor {
        Tensor::new("table", Role::Input, TensorFormat::PageTable, pages as u64)
    }

    proptest! {
        /// Each tensor is in one launch, beside others of its size, and staged bytes lie where
        /// its job says.
        #[test]
        fn launches_are_of_similar_tensors(
            sizes in prop::collection::vec(1u64..1 << 30, 1..40),
            address in (0u64..1 << 40).prop_map(|at| at << 8),
        ) {
            let mut batch = Batch::default();
            for (at, bytes) in sizes.iter().enumerate() {
                batch.poison((at as u64) << 32, *bytes);
            }
            let (table, launches) = batch.table(address);
            let jobs: Vec<FillJob> = launches.iter().flatten().copied().collect();
            prop_assert_eq!(bytemuck::pod_collect_to_vec::<u8, FillJob>(&table), &jobs[..]);
            let mut filled: Vec<(u64, u64)> = jobs.iter().map(|j| (j.to, j.draws)).collect();
            filled.sort_unstable();
            let wanted = sizes.iter().enumerate();
            let wanted: Vec<_> =
                wanted.map(|(at, bytes)| ((at as u64) << 32, bytes.div_ceil(8))).collect();
            prop_assert_eq!(filled, wanted);
            for launch in launches {
                let least = launch.iter().map(|job| job.draws).min().unwrap();
                prop_assert!(launch[0].draws / WIDEST <= least && least <= launch[0].draws);
                let [x, y, _] = grid(launch.len(), launch[0].draws);
                prop_assert!(x <= MOST_BLOCKS && x * y <= MOST_BLOCKS_OF_LAUNCH);
            }
        }

        /// What the host draws lies behind the jobs, each tensor where its job says.
        #[test]
        fn staged_bytes_are_what_the_host_draws(
            pages in prop::collection::vec(1usize..50, 1..20),
        ) {
            const ADDRESS: u64 = 0x7000;
            let mut batch = Batch::default();
            let mut drawn = Vec::new();
            for (at, &pages) in pages.iter().enumerate() {
                let key = Key::new(3, at, 1);
                let tensor = table_of(pages);
                prop_assert!(can_be_staged(&tensor) && batch.has_room(tensor.bytes()));
                batch.stage((at as u64) << 20, &tensor, key);
                let mut bytes = vec![0; tensor.bytes() as usize];
                key.fill(tensor.format, &mut bytes);
                drawn.push(((at as u64) << 20, bytes));
            }
            let (table, launches) = batch.table(ADDRESS);
            for job in launches.into_iter().flatten() {
                let first = (job.key - ADDRESS) as usize;
                let found = &table[first..first + job.draws as usize * 8];
                let (_, bytes) = drawn.iter().find(|(to, _)| *to == job.to).unwrap();
                prop_assert_eq!(&found[..bytes.len()], &bytes[..]);
            }
        }
    }

    #[test]
    fn what_is_too_large_to_be_staged_is_left_to_a_copy() {
        let most = MOST_STAGED_BYTES / 4;
        assert!(can_be_staged(&table_of(most)) && !can_be_staged(&table_of(most + 1)));
        let mut batch = Batch::default();
        batch.stage(0, &table_of(most), Key::new(1, 0, 0));
        // What the GPU draws still has room.
        assert!(batch.has_room(0) && !batch.has_room(4));
        (1..MOST_JOBS).for_each(|_| batch.poison(0, 8));
        assert!(!batch.has_room(0));
        assert!(batch.table(0).0.len() <= TABLE_BYTES);
    }
}
