//! Host half of `kernels/kv_read.cu`.

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::plan::{Launch, Params, Plan, Scratch};
use super::refusal::{Refusal, refuse_unless};
use super::split::{Costs, WorkList, refuse_counts};
use crate::op::{KvLayout, KvRead, PageOrder};
use crate::toolchain::{Arch, Defines, Target};

/// Threads of a block.
const THREADS: u32 = 256;
/// Blocks that share an SM: with 256 threads each, 64 registers are left.
const BLOCKS_PER_SM: u32 = 4;
/// Accesses of 16 bytes that a thread has in flight to keys, and as many to values.
const UNROLL: u32 = 4;
/// Bytes of one access.
const VECTOR_BYTES: u64 = 16;
/// Threads of a warp.
const WARP: u64 = 32;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct KvReadParams {
    k: u64,
    v: u64,
    page_table: u64,
    checksums: u64,
    work: u64,
    partials: u64,
    tickets: u64,
    kv_heads: u32,
    request_rows: u32,
}

fn row_bytes(p: &KvRead) -> u64 {
    p.head_dim * p.dtype.bytes()
}

/// What a block reads of the cache at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    /// Heads of a token in a tile.
    heads: u64,
    /// Adjacent threads that read adjacent vectors.
    strip: u64,
    /// Tokens of a tile.
    tokens: u64,
    /// Bytes from a head's row of one token to that of the next.
    token_bytes: u64,
}

impl Tile {
    /// All heads, or as many as a pass of `threads` has room for, where a token's heads are
    /// adjacent, and one head where a head's tokens are. A thread has `unroll` vectors.
    fn new(p: &KvRead, threads: u32, unroll: u32) -> Self {
        let threads = u64::from(threads);
        let row_vectors = row_bytes(p) / VECTOR_BYTES;
        let (heads, token_bytes) = match p.layout {
            KvLayout::Paged { order: PageOrder::TokenFirst, .. } => {
                let most = (threads / row_vectors).clamp(1, p.kv_heads);
                let fits = |heads: &u64| p.kv_heads.is_multiple_of(*heads);
                let heads = (1..=most).rev().find(fits).unwrap_or(1);
                (heads, p.kv_heads * row_bytes(p))
            }
            _ => (1, row_bytes(p)),
        };
        // Warps read consecutive vectors. A thread that reads one head of several steps over
        // whole tokens.
        let token_vectors = heads * row_vectors;
        let strip = if heads == 1 || WARP.is_multiple_of(token_vectors) {
            WARP
        } else if token_vectors.is_multiple_of(WARP) {
            token_vectors
        } else {
            threads / token_vectors * token_vectors
        };
        let tokens = threads / strip * strip * u64::from(unroll) / token_vectors;
        Tile { heads, strip, tokens, token_bytes }
    }
}

/// Tokens of a page, which kernels are compiled for; 0 when contiguous.
pub(super) fn page_size(layout: KvLayout) -> u64 {
    match layout {
        KvLayout::Contiguous => 0,
        KvLayout::Paged { page_size, .. } => page_size,
    }
}

/// Tokens of a request, or entries of its page table: the distance from one request to the
/// next.
pub(super) fn request_rows(p: &KvRead) -> u32 {
    match p.layout {
        KvLayout::Contiguous => p.context as u32,
        KvLayout::Paged { page_size, .. } => p.context.div_ceil(page_size) as u32,
    }
}

/// A cache, read in tiles.
pub(super) struct ReadCache {
    p: KvRead,
    tile: Tile,
    /// Threads of a block.
    threads: u32,
    /// Accesses of a thread to keys, and as many to values.
    unroll: u32,
    /// Blocks that share an SM.
    blocks_per_sm: u32,
}

impl HostHalf for ReadCache {
    type Operation = KvRead;
    const NAME: &'static str = "kv_read";
    const SOURCE: &'static str = include_str!("../../kernels/kv_read.cu");
    const MEMORY_BOUND: bool = true;
    const CONFIGURATIONS: &[Configuration] = &[
        Configuration::new("threads_128", &[("threads", 128), ("blocks_per_sm", 8)]),
        Configuration::new("threads_512", &[("threads", 512), ("blocks_per_sm", 2)]),
        // Smaller tiles fit short contexts and small pages.
        Configuration::new("unroll_2", &[("unroll", 2), ("blocks_per_sm", 6)]),
        Configuration::new("unroll_8", &[("unroll", 8), ("blocks_per_sm", 2)]),
        // Half of the blocks: as many sums of splits fewer.
        Configuration::new("blocks_2", &[("blocks_per_sm", 2)]),
    ];

    fn configure(p: &KvRead, arch: Arch, choice: &Configuration) -> Result<Self, Refusal> {
        let (threads, unroll) =
            (choice.or("threads", THREADS), choice.or("unroll", UNROLL));
        let resident = arch.limits().threads_per_sm / threads;
        let row = row_bytes(p);
        let most = u64::from(threads * unroll) * VECTOR_BYTES;
        refuse_unless(row.is_multiple_of(VECTOR_BYTES) && row <= most, || {
            format!(
                "rows of up to {most} bytes that are multiples of {VECTOR_BYTES}, not head_dim \
                 = {} of {}, which is {row} bytes; use another head_dim",
                p.head_dim, p.dtype
            )
        })?;
        let page_bytes = u128::from(page_size(p.layout)) * u128::from(p.kv_heads * row);
        refuse_unless(page_bytes <= u128::from(u32::MAX), || {
            format!("pages below 4 GiB, not {page_bytes} bytes; use smaller ones")
        })?;
        refuse_counts(p)?;
        Ok(ReadCache {
            p: *p,
            tile: Tile::new(p, threads, unroll),
            threads,
            unroll,
            blocks_per_sm: choice.or("blocks_per_sm", BLOCKS_PER_SM).min(resident),
        })
    }

    fn defines(&self) -> Defines {
        let tile = &self.tile;
        Defines::new()
            .with("THREADS", self.threads)
            .with("BLOCKS_PER_SM", self.blocks_per_sm)
            .with("UNROLL", self.unroll)
            .with("ROW_BYTES", row_bytes(&self.p))
            .with("TOKEN_BYTES", tile.token_bytes)
            .with("HEADS", tile.heads)
            .with("STRIP", tile.strip)
            .with("TILE_TOKENS", tile.tokens)
            .with("PAGE_SIZE", page_size(self.p.layout))
    }

    fn plan(&self, target: &Target) -> Plan {
        let ReadCache { p, tile, threads, blocks_per_sm, .. } = *self;
        // What the list calls a head is a group of heads.
        let groups = KvRead { kv_heads: p.kv_heads / tile.heads, ..p };
        let resident = target.sms * blocks_per_sm;
        let list = WorkList::of(
            &groups,
            |length| 0..length,
            tile.tokens as u32,
            resident,
            Costs::READING,
        );
        let partial_bytes = 4 * tile.heads;
        let params = Params::of(move |bound| KvReadParams {
            k: bound.tensor("k"),
            v: bound.tensor("v"),
            page_table: bound.tensor_or_null("page_table"),
            checksums: bound.tensor("checksums"),
            work: bound.scratch("work list"),
            partials: bound.scratch("partials"),
            tickets: bound.scratch("tickets"),
            kv_heads: p.kv_heads as u32,
            request_rows: request_rows(&p),
        });
        Plan {
            scratch: vec![
                list.scratch(),
                Scratch::unset("partials", list.partials_bytes(partial_bytes)),
                list.tickets(4),
            ],
            extra_bytes: Some(list.extra_bytes(partial_bytes, 4)),
            imbalance: list.imbalance(),
            ..Plan::of(Launch {
                // A tile of keys and the same of values.
                bytes_in_flight: 2 * tile.tokens * tile.heads * row_bytes(&p),
                ..Launch::new("kv_read", list.blocks, threads, params)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Bound;
    use crate::kernel::contract::testing::{
        configured, configured_as, operation, options, plan, refusal, refusal_as,
    };

    fn problem(rest: &str) -> String {
        format!("kv_read:batch=2,context=1000,kv_heads=3,{rest}")
    }

    #[test]
    fn rows_are_whole_vectors() {
        for (shape, takes) in [
            ("head_dim=128,dtype=bf16", true),
            ("head_dim=80,dtype=f16,layout=paged1", true),
            ("head_dim=64,dtype=int8", true),
            ("head_dim=4096,dtype=f32", true),
            ("head_dim=4,dtype=bf16", false),
            ("head_dim=100,dtype=fp8_e4m3", false),
            ("head_dim=8192,dtype=f32", false),
        ] {
            let problem = problem(shape);
            let found = configured::<ReadCache>(&problem, Arch::SM_80);
            assert_eq!(found.is_ok(), takes, "{problem}");
        }
        let refusal = refusal::<ReadCache>(&problem("head_dim=4,dtype=bf16"), Arch::SM_80);
        assert!(refusal.contains("which is 8 bytes; use another head_dim"), "{refusal}");
    }

    #[test]
    fn a_tile_is_what_a_block_reads_at_a_time() {
        let problem = problem("head_dim=128,dtype=bf16,layout=paged16");
        let options = options::<ReadCache>(&problem, Arch::SM_90);
        assert!(options.ends_with(
            "-DROW_BYTES=256 -DTOKEN_BYTES=256 -DHEADS=1 -DSTRIP=32 -DTILE_TOKENS=64 \
             -DPAGE_SIZE=16"
        ));
        // Six sequences of 16 tiles, a block for each tile.
        let plan = plan::<ReadCache>(&problem, &Target::new(Arch::SM_90, 132));
        assert_eq!(plan.launches[0].grid, [96, 1, 1]);
        assert_eq!(plan.extra_bytes, Some(96 * 32 + 2 * 4 * (96 + 6)));
        let tensors = ["k", "v", "page_table", "checksums"];
        let bound = Bound::new(0, 0, tensors.into_iter().zip(1..))
            .with_scratch(["work list", "partials", "tickets"].into_iter().zip(5..));
        let bytes = plan.launches[0].params.bytes(&bound);
        let words: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
        assert_eq!(words, [1, 2, 3, 4, 5, 6, 7, 63 << 32 | 3]);
    }

    #[test]
    fn tiles_of_token_first_pages_have_whole_tokens() {
        // kv_heads, head_dim, dtype, and the tile: heads, strip, tokens.
        for (heads, dim, dtype, tile) in [
            (8, 128, "bf16", (8, 128, 8)),
            (8, 128, "int8", (8, 64, 16)),
            (2, 64, "int8", (2, 32, 128)),
            (1, 128, "bf16", (1, 32, 64)),
            // 30 vectors go eight times into 256 threads.
            (3, 80, "f16", (3, 240, 32)),
            // 512 vectors do not go into 256 threads, and 13 heads have no part but one.
            (32, 128, "bf16", (16, 256, 4)),
            (13, 192, "f16", (1, 32, 42)),
            (3, 2048, "f32", (1, 32, 2)),
        ] {
            let text = format!(
                "kv_read:batch=1,context=99,kv_heads={heads},head_dim={dim},dtype={dtype},\
                 layout=paged16_nhd"
            );
            let found = configured::<ReadCache>(&text, Arch::SM_90).unwrap().tile;
            assert_eq!((found.heads, found.strip, found.tokens), tile, "{text}");
        }
    }

    #[test]
    fn groups_of_heads_share_the_list_and_have_a_sum_each() {
        let problem = problem("head_dim=128,dtype=bf16,layout=paged16_nhd");
        // 48 vectors of a token, five times in 256 threads: 20 tokens. Two requests of 50
        // tiles.
        assert_eq!(Tile::new(&operation(&problem), THREADS, UNROLL).tokens, 20);
        let plan = plan::<ReadCache>(&problem, &Target::new(Arch::SM_90, 132));
        assert_eq!(plan.launches[0].grid, [100, 1, 1]);
        assert_eq!(plan.scratch[1].bytes(), 100 * 3 * 4);
        assert_eq!(plan.extra_bytes, Some(100 * 32 + 2 * (12 * 100 + 4 * 2)));
    }

    #[test]
    fn configurations_have_tiles_of_their_own() {
        let problem = problem("head_dim=128,dtype=bf16,layout=paged16_nhd");
        let tile = |name| {
            let half = configured_as::<ReadCache>(&problem, Arch::SM_90, name).unwrap();
            let Tile { heads, strip, tokens, .. } = half.tile;
            (heads, strip, tokens, half.blocks_per_sm)
        };
        // 48 vectors of a token go twice into 128 threads, ten times into 512.
        assert_eq!(tile("threads_128"), (3, 96, 8, 8));
        assert_eq!(tile("threads_512"), (3, 480, 40, 2));
        assert_eq!(tile("unroll_2"), (3, 240, 10, 6));
        let wide = "kv_read:batch=1,context=99,kv_heads=1,head_dim=4096,dtype=f32";
        assert!(configured::<ReadCache>(wide, Arch::SM_90).is_ok());
        let why = refusal_as::<ReadCache>(wide, Arch::SM_90, "threads_128");
        assert!(why.contains("rows of up to 8192 bytes"), "{why}");
    }

    #[test]
    fn pages_are_counted_in_32_bits() {
        let problem = problem("head_dim=4096,dtype=f32,layout=paged90000");
        let refusal = refusal::<ReadCache>(&problem, Arch::SM_90);
        assert!(refusal.contains("pages below 4 GiB"), "{refusal}");
    }
}
