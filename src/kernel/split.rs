//! Divides sequences among the blocks of one wave: the host half of
//! `kernels/work_list.cuh`.
//!
//! A sequence is one request and one KV head. The tiles of all sequences in order are one
//! stream, which is cut into as many parts as there are blocks, as in FlashMLA's
//! scheduler. A part may span several sequences, and begin and end within one; what it has
//! of a sequence is a split. Blocks then run at the same time and finish together,
//! whatever the contexts.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::plan::Scratch;
use super::refusal::{Refusal, refuse_unless};
use crate::op::{KvLayout, KvRead};

/// What splits cost beside the tiles that they read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Costs {
    /// What a split costs a block, in tiles: reading queries, filling the pipeline, writing
    /// results.
    pub overhead: u64,
    /// Most tiles of a sequence that is never divided: where its blocks would save less by
    /// reading at the same time than combining their results takes.
    pub whole: u64,
    /// What it takes the last block of a sequence to combine one of its splits, in tiles; 0
    /// where that is next to nothing.
    pub combine: u64,
}

impl Costs {
    /// Those of a kernel that has nothing to combine.
    pub const READING: Self = Costs { overhead: 1, whole: 0, combine: 0 };
}

/// Most tokens of a request, and most sequences: kernels count them in 32
/// bits, with room for a tile beyond the end.
const MAX_COUNT: u64 = 1 << 31;

/// Most blocks: the splits of a sequence are counted in 16 bits.
const MAX_BLOCKS: u32 = u16::MAX as u32;

/// `Split` of the device half: one block's share of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Split {
    /// Request of the sequence.
    pub request: u32,
    /// KV head of the sequence.
    pub head: u32,
    /// First token, a multiple of the tile.
    pub first_token: u32,
    /// Tokens; zero only for a sequence without any.
    pub tokens: u32,
    /// Tokens of the request, whether or not the sequence needs all of them.
    pub length: u32,
    /// Index of this split within its sequence.
    pub index: u16,
    /// Splits of the sequence.
    pub count: u16,
    /// Index of split 0's partial results and of its ticket, where the sequence has
    /// several splits.
    pub first_partial: u32,
    /// Position in the list of the block's next split; 0 after the last.
    pub next: u32,
}

/// Which block computes what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WorkList {
    /// The first splits of all blocks in order, then the further splits.
    pub splits: Vec<Split>,
    /// Blocks, each with at least one split.
    pub blocks: u32,
    /// Splits that have partial results: those of sequences that have several.
    pub partials: u32,
}

/// Tiles of one sequence that a block computes.
struct Cut {
    block: u64,
    sequence: usize,
    first_tile: u64,
    tiles: u64,
}

impl WorkList {
    /// Divides requests of which these tokens are needed, with `kv_heads` sequences
    /// each, in tiles of `tile_tokens` among at most `max_blocks` blocks. The first split of
    /// a sequence begins at the tile with the first needed token.
    pub fn new(
        needed: &[Range<u32>],
        kv_heads: u32,
        tile_tokens: u32,
        max_blocks: u32,
        costs: Costs,
    ) -> Self {
        let sequences = needed.len() * kv_heads as usize;
        let tiles: Vec<u64> = (0..sequences)
            .map(|sequence| tiles_of(&needed[sequence / kv_heads as usize], tile_tokens))
            .collect();
        let cuts = cut_evenly(&tiles, max_blocks.min(MAX_BLOCKS).into(), costs);
        WorkList::of_cuts(needed, kv_heads, tile_tokens, &cuts)
    }

    /// Divides each sequence evenly among the blocks of its clusters, each with one split. Those
    /// of a cluster combine their results in shared memory, so that partial results are of
    /// clusters, and none where a sequence has one. Where it has fewer tiles than blocks, some
    /// splits have no tokens.
    pub fn in_clusters(
        needed: &[Range<u32>],
        kv_heads: u32,
        tile_tokens: u32,
        [blocks_of_cluster, clusters]: [u32; 2],
    ) -> Self {
        let blocks = u64::from(blocks_of_cluster * clusters);
        let mut cuts = Vec::new();
        for (sequence, tokens) in
            needed.iter().flat_map(|t| (0..kv_heads).map(move |_| t)).enumerate()
        {
            let tiles = tiles_of(tokens, tile_tokens);
            let first = |index: u64| index * tiles / blocks;
            cuts.extend((0..blocks).map(|index| Cut {
                block: sequence as u64 * blocks + index,
                sequence,
                first_tile: first(index),
                tiles: first(index + 1) - first(index),
            }));
        }
        let mut list = WorkList::of_cuts(needed, kv_heads, tile_tokens, &cuts);
        let partials_of_sequence = if clusters > 1 { clusters } else { 0 };
        for split in &mut list.splits {
            let sequence = split.request * kv_heads + split.head;
            split.first_partial = sequence * partials_of_sequence;
        }
        list.partials = needed.len() as u32 * kv_heads * partials_of_sequence;
        list
    }

    /// The list of these cuts, which walk through all sequences in order.
    fn of_cuts(
        needed: &[Range<u32>],
        kv_heads: u32,
        tile_tokens: u32,
        cuts: &[Cut],
    ) -> Self {
        let sequences = needed.len() * kv_heads as usize;
        let needed = |sequence: usize| needed[sequence / kv_heads as usize].clone();
        let first_tile = |sequence: usize| needed(sequence).start / tile_tokens;
        let mut counts = vec![0; sequences];
        for cut in cuts {
            counts[cut.sequence] += 1;
        }
        let (mut partials, mut index) = (0, 0);
        let mut splits: Vec<(u64, Split)> = Vec::with_capacity(cuts.len());
        for cut in cuts {
            let tile = first_tile(cut.sequence) + cut.first_tile as u32;
            let first_token = tile * tile_tokens;
            let length = needed(cut.sequence).end;
            let count = counts[cut.sequence];
            let split = Split {
                request: (cut.sequence / kv_heads as usize) as u32,
                head: (cut.sequence % kv_heads as usize) as u32,
                first_token,
                tokens: (length - first_token).min(cut.tiles as u32 * tile_tokens),
                length,
                index,
                count,
                first_partial: if count > 1 { partials } else { 0 },
                next: 0,
            };
            splits.push((cut.block, split));
            index += 1;
            if index == count {
                partials += if index > 1 { u32::from(index) } else { 0 };
                index = 0;
            }
        }
        let blocks = cuts.last().map_or(0, |cut| cut.block as u32 + 1);
        WorkList { splits: chain(&splits, blocks), blocks, partials }
    }

    /// The list for a problem of which the requests of each length need these tokens.
    pub fn of(
        p: &KvRead,
        needed: impl Fn(u64) -> Range<u64>,
        tile_tokens: u32,
        max_blocks: u32,
        costs: Costs,
    ) -> Self {
        let needed = needed_tokens(p, needed);
        WorkList::new(&needed, p.kv_heads as u32, tile_tokens, max_blocks, costs)
    }

    /// Tokens of the busiest block.
    pub fn busiest_tokens(&self) -> u64 {
        self.tokens_of_blocks().max().unwrap_or(0)
    }

    /// Tokens of the busiest block over those of the mean block.
    pub fn imbalance(&self) -> f64 {
        let all: u64 = self.tokens_of_blocks().sum();
        let most = self.busiest_tokens() as f64;
        if all == 0 { 1.0 } else { most * f64::from(self.blocks) / all as f64 }
    }

    /// Tokens of each block.
    fn tokens_of_blocks(&self) -> impl Iterator<Item = u64> {
        let of_block = |first| {
            let next = |split: &&Split| match split.next {
                0 => None,
                next => self.splits.get(next as usize),
            };
            let splits = std::iter::successors(Some(first), next);
            splits.map(|split| u64::from(split.tokens)).sum::<u64>()
        };
        self.splits[..self.blocks as usize].iter().map(of_block)
    }

    /// Traffic that dividing the work adds, in bytes: the list is read, the partial
    /// results of splits, of `partial_bytes` each, and the tickets of shared sequences, of
    /// `ticket_bytes` each, are written and read, all once.
    pub fn extra_bytes(&self, partial_bytes: u64, ticket_bytes: u64) -> u64 {
        let list = size_of_val(self.splits.as_slice()) as u64;
        let tickets = ticket_bytes * self.shared_sequences();
        list + 2 * (u64::from(self.partials) * partial_bytes + tickets)
    }

    /// Sequences that several blocks share.
    fn shared_sequences(&self) -> u64 {
        let is_last = |split: &&Split| split.count > 1 && split.index + 1 == split.count;
        if self.partials == 0 {
            return 0;
        }
        self.splits.iter().filter(is_last).count() as u64
    }

    /// The list as a buffer.
    pub fn scratch(&self) -> Scratch {
        Scratch::of("work list", &self.splits)
    }

    /// A ticket of so many bytes for each split with partial results, of which the first
    /// of a sequence is used.
    pub fn tickets(&self, bytes: u64) -> Scratch {
        Scratch::zeros("tickets", self.partials_bytes(bytes))
    }

    /// Size of a buffer of so many bytes for each split with partial results. Never 0,
    /// which drivers do not allocate.
    pub fn partials_bytes(&self, bytes: u64) -> u64 {
        u64::from(self.partials.max(1)) * bytes
    }
}

/// Refuses what the list cannot count.
pub(super) fn refuse_counts(p: &KvRead) -> Result<(), Refusal> {
    let page_size = match p.layout {
        KvLayout::Contiguous => 0,
        KvLayout::Paged { page_size, .. } => page_size,
    };
    for (name, value) in [
        ("context", p.context),
        ("page size", page_size),
        ("batch * kv_heads", p.batch.saturating_mul(p.kv_heads)),
    ] {
        refuse_unless(value < MAX_COUNT, || {
            format!("a {name} below {MAX_COUNT}, not {value}; use a smaller one")
        })?;
    }
    Ok(())
}

/// The needed tokens of each request.
pub(super) fn needed_tokens(
    p: &KvRead,
    needed: impl Fn(u64) -> Range<u64>,
) -> Vec<Range<u32>> {
    let of_request = |request| {
        let tokens = needed(p.length(request));
        tokens.start as u32..tokens.end as u32
    };
    (0..p.batch).map(of_request).collect()
}

/// Tiles that hold these tokens.
pub(super) fn tiles_of(tokens: &Range<u32>, tile_tokens: u32) -> u64 {
    u64::from(tokens.end.div_ceil(tile_tokens) - tokens.start / tile_tokens)
}

/// Cuts sequences of so many tiles into splits for at most `max_blocks` blocks, such that
/// the largest load is as small as cutting in order allows.
fn cut_evenly(tiles: &[u64], max_blocks: u64, costs: Costs) -> Vec<Cut> {
    let total: u64 = tiles.iter().map(|tiles| tiles + costs.overhead).sum();
    // Every cut within a sequence adds an overhead to the next block, so the
    // mean plus an overhead, and the most that is never divided, is always enough.
    let least = tiles.iter().map(|&tiles| costs.least(tiles).max(costs.best_load(tiles)));
    let least = least.max().unwrap_or(0);
    let mut load = total.div_ceil(max_blocks).max(least).max(1);
    loop {
        let cuts = cut_at_load(tiles, load, costs);
        if cuts.last().is_none_or(|cut| cut.block < max_blocks) {
            return cuts;
        }
        load += 1;
    }
}

impl Costs {
    /// Room that a split of a sequence of so many tiles needs: for its overhead and, unless
    /// it is empty, for a tile, or for the sequence where that is never divided.
    fn least(&self, tiles: u64) -> u64 {
        self.overhead + if tiles <= self.whole { tiles } else { tiles.min(1) }
    }
}

impl Costs {
    /// The load with which a sequence of so many tiles that has blocks for itself is done the
    /// soonest: in n splits its blocks read `tiles / n` each, and then one of them combines n,
    /// which is least together where both take as long.
    fn best_load(&self, tiles: u64) -> u64 {
        let of_split = (self.combine * tiles).isqrt();
        if of_split == 0 { 0 } else { self.overhead + of_split.min(tiles) }
    }
}

/// Fills one block after the other up to a load of tiles and overheads.
fn cut_at_load(tiles: &[u64], load: u64, costs: Costs) -> Vec<Cut> {
    let mut cuts = Vec::with_capacity(tiles.len());
    let (mut block, mut room) = (0, load);
    for (sequence, &tiles) in tiles.iter().enumerate() {
        let mut first_tile = 0;
        loop {
            if room < costs.least(tiles) {
                (block, room) = (block + 1, load);
            }
            let taken = (tiles - first_tile).min(room - costs.overhead);
            cuts.push(Cut { block, sequence, first_tile, tiles: taken });
            room -= costs.overhead + taken;
            first_tile += taken;
            if first_tile == tiles {
                break;
            }
        }
    }
    cuts
}

/// Puts the first splits of blocks first and links each block's splits. `splits` are in
/// the order of blocks.
fn chain(splits: &[(u64, Split)], blocks: u32) -> Vec<Split> {
    let mut list = Vec::with_capacity(splits.len());
    let is_first = |index: usize| index == 0 || splits[index - 1].0 != splits[index].0;
    list.extend((0..splits.len()).filter(|&i| is_first(i)).map(|i| splits[i].1));
    let mut last = 0;
    for (index, &(block, split)) in splits.iter().enumerate() {
        if is_first(index) {
            last = block as usize;
        } else {
            list[last].next = list.len() as u32;
            last = list.len();
            list.push(split);
        }
    }
    debug_assert_eq!(
        splits.iter().enumerate().filter(|(i, _)| is_first(*i)).count(),
        blocks as usize
    );
    list
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An H200 took 146 us for one request of 4096 tokens in 128 splits of one tile: one
    /// block combined them all.
    #[test]
    fn a_sequence_has_no_more_splits_than_are_combined_in_time() {
        let splits = |tokens: u32, blocks: u32, combine: u64| {
            let costs = Costs { overhead: 4, whole: 0, combine };
            let needed = vec![0..tokens; 1];
            WorkList::new(&needed, 1, 32, blocks, costs).splits.len()
        };
        assert_eq!([0, 2, 5].map(|combine| splits(4096, 132, combine)), [128, 8, 6]);
        // As many as there are blocks, where these are fewer.
        assert_eq!(splits(32_768, 8, 2), 8);
        // Many sequences fill the blocks by themselves.
        let list = |combine| {
            let costs = Costs { overhead: 4, whole: 0, combine };
            WorkList::new(&vec![0..4096; 128], 1, 32, 132, costs)
        };
        assert_eq!(list(2), list(0));
    }

    /// The splits of a block in order.
    fn of_block(list: &WorkList, block: u32) -> Vec<Split> {
        let mut splits = vec![list.splits[block as usize]];
        while let Some(next) = splits.last().map(|p| p.next).filter(|&next| next != 0) {
            assert!(next >= list.blocks, "first splits have no predecessor");
            splits.push(list.splits[next as usize]);
        }
        splits
    }

    fn load(splits: &[Split], tile: u32, overhead: u64) -> u64 {
        splits.iter().map(|p| u64::from(p.tokens.div_ceil(tile)) + overhead).sum()
    }

    /// Everything that kernels rely on.
    fn check(contexts: &[u32], kv_heads: u32, tile: u32, max_blocks: u32) -> WorkList {
        let needed: Vec<_> = contexts.iter().map(|&context| 0..context).collect();
        check_needed(&needed, kv_heads, tile, max_blocks, Costs::READING)
    }

    /// The same where the first tokens of requests may be skipped.
    fn check_needed(
        needed: &[Range<u32>],
        kv_heads: u32,
        tile: u32,
        max_blocks: u32,
        costs: Costs,
    ) -> WorkList {
        let list = WorkList::new(needed, kv_heads, tile, max_blocks, costs);
        assert_eq!(list, WorkList::new(needed, kv_heads, tile, max_blocks, costs));
        let Costs { overhead, whole, .. } = costs;
        assert!(list.blocks <= max_blocks);

        // Blocks in order walk through all sequences in order, each token once.
        let blocks: Vec<_> = (0..list.blocks).map(|b| of_block(&list, b)).collect();
        assert_eq!(blocks.iter().flatten().count(), list.splits.len());
        let mut walk = blocks.iter().flatten();
        let mut partials = 0;
        for (request, tokens) in needed.iter().enumerate() {
            for head in 0..kv_heads {
                let (mut token, mut index) = (tokens.start / tile * tile, 0);
                loop {
                    let split = walk.next().unwrap();
                    assert_eq!((split.request, split.head), (request as u32, head));
                    assert_eq!((split.first_token, split.index), (token, index));
                    assert!(split.tokens > 0 || tokens.is_empty());
                    assert_eq!(split.length, tokens.end);
                    if split.count > 1 {
                        assert_eq!(split.first_partial, partials);
                    }
                    token += split.tokens;
                    index += 1;
                    if index == split.count {
                        break;
                    }
                    assert_eq!(token % tile, 0);
                }
                assert_eq!(token, tokens.end);
                partials += if index > 1 { u32::from(index) } else { 0 };
            }
        }
        assert!(walk.next().is_none());
        assert_eq!(partials, list.partials);

        let is_divided = |split: &Split| {
            let tokens = &needed[split.request as usize];
            split.count > 1 && tiles_of(tokens, tile) <= whole
        };
        assert!(!list.splits.iter().any(is_divided));

        // No block has more than its share, one overhead and what is never divided.
        let sequences = needed.iter().flat_map(|c| (0..kv_heads).map(move |_| c));
        let total: u64 = sequences.map(|c| tiles_of(c, tile) + overhead).sum();
        let loads = blocks.iter().map(|splits| load(splits, tile, overhead));
        let share = total.div_ceil(max_blocks.into()).max(1 + overhead);
        assert!(loads.max().unwrap_or(0) <= share + overhead + whole);
        list
    }

    #[test]
    fn long_contexts_are_split_evenly() {
        // Two sequences of 100 tiles on 5 blocks: 202 units are 41 each at
        // best, and the second split of a sequence costs another.
        let list = check(&[6400], 2, 64, 5);
        let loads: Vec<_> = (0..5).map(|b| load(&of_block(&list, b), 64, 1)).collect();
        assert_eq!(loads, [42, 42, 42, 42, 38]);
        assert_eq!(list.partials, 6);
        assert_eq!(list.extra_bytes(100, 4), 6 * 32 + 2 * (6 * 100 + 2 * 4));
        // 41 tiles of 40.
        assert_eq!(list.imbalance(), 41.0 / 40.0);
    }

    #[test]
    fn short_contexts_stay_whole() {
        let list = check(&[64; 8], 1, 64, 4);
        assert_eq!((list.blocks, list.partials, list.splits.len()), (4, 0, 8));
        assert_eq!(list.extra_bytes(100, 4), 8 * 32);
    }

    #[test]
    fn what_is_never_divided_fills_blocks_whole() {
        let tokens: Vec<_> = (0..3).map(|_| 0..256).collect();
        let cut = |whole| {
            check_needed(&tokens, 1, 64, 8, Costs { overhead: 1, whole, combine: 0 })
        };
        assert_eq!((cut(3).blocks, cut(3).partials), (6, 6));
        assert_eq!((cut(4).blocks, cut(4).partials), (3, 0));
    }

    #[test]
    fn clusters_divide_each_sequence_for_itself() {
        let text = "kv_read:batch=2,context=300,kv_heads=3,head_dim=64,dtype=bf16";
        let p: crate::op::Problem = text.parse().unwrap();
        let p = <KvRead as crate::op::OfProblem>::of(&p).unwrap();
        let needed = needed_tokens(p, |length| 10..length);
        let list = WorkList::in_clusters(&needed, 3, 64, [8, 1]);
        assert_eq!((list.blocks, list.splits.len(), list.partials), (48, 48, 0));
        // Of five tiles the first is not whole; three of eight blocks have none.
        let tokens: Vec<u32> = list.splits[..8].iter().map(|split| split.tokens).collect();
        assert_eq!(tokens, [0, 64, 0, 64, 64, 0, 64, 44]);
        for (block, split) in list.splits.iter().enumerate() {
            assert_eq!((split.count, split.next), (8, 0));
            assert_eq!(usize::from(split.index), block % 8);
            assert_eq!((split.request * 3 + split.head) as usize, block / 8);
            assert!(split.first_token + split.tokens <= 300);
        }
        assert_eq!(list.extra_bytes(100, 4), 48 * 32);

        // As many splits, of which two to a cluster: four partial results of each sequence.
        let several = WorkList::in_clusters(&needed, 3, 64, [2, 4]);
        assert_eq!((several.blocks, several.partials), (48, 24));
        for (split, of_one) in several.splits.iter().zip(&list.splits) {
            let first_partial = (split.request * 3 + split.head) * 4;
            assert_eq!(*split, Split { first_partial, ..*of_one });
        }
        assert_eq!(several.extra_bytes(100, 4), 48 * 32 + 2 * (24 * 100 + 6 * 4));
    }

    #[test]
    fn blocks_are_as_many_as_have_work() {
        assert_eq!(check(&[1], 1, 64, 264).blocks, 1);
        assert_eq!(check(&[1024], 8, 64, 264).blocks, 128);
        // 256 sequences of 129 units are 125.1 for each block, so 126 at best
        // and 127 with the cuts.
        assert_eq!(check(&[8192; 32], 8, 64, 264).blocks, 263);
    }

    #[test]
    fn empty_sequences_have_a_split_for_their_output() {
        let list = check(&[0, 130, 0], 2, 64, 3);
        assert_eq!(list.splits.iter().filter(|p| p.tokens == 0).count(), 4);
        assert_eq!(check(&[], 8, 64, 4).blocks, 0);
        assert_eq!(check(&[0], 1, 64, 1).blocks, 1);
    }

    #[test]
    fn tokens_outside_of_all_windows_are_skipped() {
        let list = check_needed(&[1000..6400, 0..10], 1, 64, 4, Costs::READING);
        assert_eq!(list.splits.iter().map(|p| p.first_token).min(), Some(0));
        let first = list.splits.iter().filter(|p| p.request == 0).map(|p| p.first_token);
        assert_eq!(first.min(), Some(960));
    }

    proptest! {
        #[test]
        fn tokens_before_the_first_tile_are_skipped(
            needed in prop::collection::vec((0u32..3000, 0u32..3000), 0..20),
            kv_heads in 1u32..9,
            max_blocks in 1u32..300,
            overhead in 0u64..20,
            whole in 0u64..50,
        ) {
            let needed: Vec<_> = needed.iter().map(|&(a, b)| a.min(b)..a.max(b)).collect();
            check_needed(&needed, kv_heads, 64, max_blocks, Costs { overhead, whole, combine: 0 });
        }

        #[test]
        fn every_token_is_taken_once(
            contexts in prop::collection::vec(0u32..3000, 0..20),
            kv_heads in 1u32..9,
            tile in prop::sample::select(vec![1u32, 16, 51, 64]),
            max_blocks in 1u32..300,
        ) {
            check(&contexts, kv_heads, tile, max_blocks);
        }
    }
}
