//! Host half of `kernels/argmax.cu`.

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::divisor::Divisor;
use super::formats::element_or_f32;
use super::plan::{Launch, Params, Plan, Scratch};
use super::refusal::{Refusal, refuse_unless, supports};
use crate::op::Argmax;
use crate::toolchain::{Arch, Defines, Target};

/// Bytes of one access.
const VECTOR_BYTES: u64 = 16;
/// Threads of a block.
const THREADS: u32 = 128;
/// Vectors that a thread has in flight.
const VECTORS: u32 = 4;
/// Blocks that an SM must hold at least: 64 KiB in flight.
const BLOCKS_PER_SM: u32 = 8;
/// Bytes of a value and its place.
const PARTIAL_BYTES: u64 = 8;
/// Bytes of a ticket.
const TICKET_BYTES: u64 = 4;
/// The kernel counts rows in 31 bits, as a grid does, and the elements of a row in 32.
const MAX_ROWS: u64 = 1 << 31;
const MAX_WIDTH: u64 = 1 << 32;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ArgmaxParams {
    x: u64,
    index: u64,
    partials: u64,
    tickets: u64,
    vectors: u32,
    of_split: u32,
    splits: Divisor,
    _padding: u32,
}

/// Rows whose largest element is looked for.
pub(super) struct FindLargest {
    rows: u32,
    /// The macro of the format.
    element: &'static str,
    /// Vectors of a row.
    vectors: u32,
    /// Threads of a block.
    threads: u32,
    /// Vectors that a thread has in flight.
    of_thread: u32,
    /// Blocks that an SM must hold at least.
    blocks_per_sm: u32,
}

impl FindLargest {
    /// Blocks of a row, and the vectors of all of them but the last: as many blocks as a GPU
    /// holds at a time, but a vector for each thread.
    fn split(&self, target: &Target) -> (u32, u32) {
        let resident = target.sms * self.blocks_per_sm;
        let wanted = (resident / self.rows).clamp(1, self.vectors.div_ceil(self.threads));
        let of_split = self.vectors.div_ceil(wanted);
        (self.vectors.div_ceil(of_split), of_split)
    }
}

impl HostHalf for FindLargest {
    type Operation = Argmax;
    const NAME: &'static str = "argmax";
    const SOURCE: &'static str = include_str!("../../kernels/argmax.cu");
    const MEMORY_BOUND: bool = true;
    const CONFIGURATIONS: &[Configuration] = &[
        Configuration::new("threads_256", &[("threads", 256), ("blocks_per_sm", 4)]),
        Configuration::new("threads_512", &[("threads", 512), ("blocks_per_sm", 2)]),
        Configuration::new("vectors_2", &[("vectors", 2), ("blocks_per_sm", 10)]),
        Configuration::new("vectors_8", &[("vectors", 8), ("blocks_per_sm", 4)]),
        // Half of the blocks: the last of a row compares half as many.
        Configuration::new("blocks_4", &[("blocks_per_sm", 4)]),
        Configuration::PROGRAMMATIC,
    ];

    fn configure(p: &Argmax, _: Arch, choice: &Configuration) -> Result<Self, Refusal> {
        let Argmax { m, n, dtype } = *p;
        let element = element_or_f32(dtype).ok_or_else(|| {
            supports(format!("logits in 16 or 32 bits, not dtype = {dtype}; use bf16"))
        })?;
        let of_vector = VECTOR_BYTES / dtype.bytes();
        refuse_unless(n.is_multiple_of(of_vector), || {
            format!(
                "rows of whole {VECTOR_BYTES} bytes, not n = {n} in {dtype}; use a multiple of \
                 {of_vector}"
            )
        })?;
        for (key, value, limit) in [("m", m, MAX_ROWS), ("n", n, MAX_WIDTH)] {
            refuse_unless(value < limit, || {
                format!("{key} below {limit}, not {value}; use a smaller one")
            })?;
        }
        Ok(FindLargest {
            rows: m as u32,
            element,
            vectors: (n / of_vector) as u32,
            threads: choice.or("threads", THREADS),
            of_thread: choice.or("vectors", VECTORS),
            blocks_per_sm: choice.or("blocks_per_sm", BLOCKS_PER_SM),
        })
    }

    fn defines(&self) -> Defines {
        Defines::new()
            .with("THREADS", self.threads)
            .with("BLOCKS_PER_SM", self.blocks_per_sm)
            .with("VECTORS", self.of_thread)
            .with(self.element, 1)
    }

    fn plan(&self, target: &Target) -> Plan {
        let FindLargest { rows, vectors, threads, of_thread, .. } = *self;
        let (splits, of_split) = self.split(target);
        let params = Params::of(move |bound| ArgmaxParams {
            x: bound.tensor("x"),
            index: bound.tensor("index"),
            partials: bound.scratch("partials"),
            tickets: bound.scratch("tickets"),
            vectors,
            of_split,
            splits: Divisor::new(splits),
            _padding: 0,
        });
        // Alone in its row a block has nothing to share.
        let shared = if splits > 1 { u64::from(rows) } else { 0 };
        let partial_bytes = shared * u64::from(splits) * PARTIAL_BYTES;
        let ticket_bytes = shared * TICKET_BYTES;
        let of_block = of_split.min(threads * of_thread);
        Plan {
            // Both are written and read.
            extra_bytes: Some(2 * (partial_bytes + ticket_bytes)),
            scratch: vec![
                Scratch::unset("partials", partial_bytes.max(16)),
                Scratch::zeros("tickets", ticket_bytes.max(16)),
            ],
            ..Plan::of(Launch {
                bytes_in_flight: u64::from(of_block) * VECTOR_BYTES,
                ..Launch::new("argmax", rows * splits, threads, params)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Bound;
    use crate::kernel::contract::testing::{
        configured, configured_as, options, plan, refusal,
    };

    const TARGET: Target = Target::new(Arch::SM_90, 132);

    #[test]
    fn params_say_where_rows_are() {
        let plan = plan::<FindLargest>("argmax:m=3,n=128256,dtype=bf16", &TARGET);
        // 16,032 vectors, 128 for each of 126 blocks but the last.
        assert_eq!(plan.launches[0].grid, [378, 1, 1]);
        let sizes: Vec<u64> = plan.scratch.iter().map(Scratch::bytes).collect();
        assert_eq!(
            (sizes, plan.extra_bytes),
            (vec![378 * 8, 16], Some(2 * (378 * 8 + 12)))
        );
        let bound = Bound::new(0, 0, [("x", 1), ("index", 2)])
            .with_scratch([("partials", 3), ("tickets", 4)]);
        let bytes = plan.launches[0].params.bytes(&bound);
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        assert_eq!(words[..11], [1, 0, 2, 0, 3, 0, 4, 0, 16032, 128, 126]);
        let options = options::<FindLargest>("argmax:m=1,n=4,dtype=f32", Arch::SM_80);
        assert_eq!(options, "-DTHREADS=128 -DBLOCKS_PER_SM=8 -DVECTORS=4 -DELEMENT_F32=1");
    }

    /// Every vector belongs to one block, and no block is without.
    #[test]
    fn splits_cover_a_row() {
        let half = |m| {
            let text = format!("argmax:m={m},n=128256,dtype=bf16");
            configured::<FindLargest>(&text, Arch::SM_90).unwrap()
        };
        for (m, splits) in
            [(1, 126), (8, 126), (16, 66), (64, 16), (528, 2), (529, 1), (9999, 1)]
        {
            assert_eq!(half(m).split(&TARGET).0, splits, "m = {m}");
        }
        for vectors in 1..3000 {
            for rows in [1, 7, 100] {
                let half = FindLargest { rows, vectors, ..half(1) };
                let (splits, of_split) = half.split(&TARGET);
                assert!(splits * of_split >= vectors, "{vectors}");
                assert!((splits - 1) * of_split < vectors, "{vectors}");
            }
        }
    }

    #[test]
    fn configurations_divide_rows_otherwise() {
        let text = "argmax:m=16,n=128256,dtype=bf16";
        let of = |name| {
            let half = configured_as::<FindLargest>(text, Arch::SM_90, name).unwrap();
            let plan = half.plan(&TARGET);
            let launch = &plan.launches[0];
            (launch.grid[0], launch.block[0], launch.bytes_in_flight, plan.extra_bytes)
        };
        // 33 blocks for a row, 486 vectors each at most.
        let partials = |splits: u64| Some(2 * 16 * (8 * splits + 4));
        assert_eq!(of("threads_256"), (16 * 33, 256, 486 * 16, partials(33)));
        assert_eq!(of("blocks_4"), (16 * 33, 128, 486 * 16, partials(33)));
        // 82 blocks for a row, 196 vectors each at most.
        assert_eq!(of("vectors_2"), (16 * 82, 128, 196 * 16, partials(82)));
    }

    #[test]
    fn rows_are_whole_vectors() {
        for (rest, part) in [
            ("m=2,n=12,dtype=bf16", "use a multiple of 8"),
            ("m=2,n=6,dtype=f32", "use a multiple of 4"),
            ("m=2,n=64,dtype=int8", "16 or 32 bits"),
            ("m=2147483648,n=8,dtype=bf16", "m below"),
        ] {
            let why = refusal::<FindLargest>(&format!("argmax:{rest}"), Arch::SM_90);
            assert!(why.contains(part), "{rest}: {why}");
        }
    }
}
