//! Divides sequences among the blocks of one wave: the host half of
//! `kernels/work_list.cuh`.
//!
//! A sequence is one request and one key and value head. Laid end to end, the
//! tiles of all sequences are one stream, which is cut into as many stretches
//! as there are blocks, as in FlashMLA's scheduler. A stretch may span several
//! sequences and begin and end within one. Blocks then run at the same time
//! and finish together, whatever the contexts.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::plan::Scratch;
use super::refusal::{Refusal, refuse_unless};
use crate::op::{KvLayout, KvRead};

/// What starting on a piece costs a block of attention, in tiles: reading queries,
/// filling its pipeline, leaving results.
const OVERHEAD: u64 = 1;

/// Most tokens of a request, and most sequences: kernels count them in 32
/// bits, with room for a tile beyond the end.
const MAX_COUNT: u64 = 1 << 31;

/// Most blocks: pieces count those of a sequence in 16 bits.
const MAX_BLOCKS: u32 = u16::MAX as u32;

/// `Piece` of the device half: one block's share of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Piece {
    /// Request of the sequence.
    pub request: u32,
    /// Key and value head of the sequence.
    pub head: u32,
    /// First token, a multiple of the tile.
    pub first_token: u32,
    /// Tokens; zero only for a sequence without any.
    pub tokens: u32,
    /// Tokens of the request, whether or not the sequence takes all of them.
    pub length: u32,
    /// Number of this piece within its sequence.
    pub split: u16,
    /// Pieces of the sequence.
    pub splits: u16,
    /// Slot of the sequence's split 0 for partial results, and of its ticket,
    /// where it has several pieces.
    pub first_slot: u32,
    /// Position in the list of the block's next piece; 0 after the last.
    pub next: u32,
}

/// Who does what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WorkList {
    /// The first pieces of all blocks in order, then the further pieces.
    pub pieces: Vec<Piece>,
    /// Blocks, each with at least one piece.
    pub blocks: u32,
    /// Slots for partial results: pieces of sequences that have several.
    pub slots: u32,
}

/// A stretch of tiles of one sequence.
struct Cut {
    block: u64,
    sequence: usize,
    first_tile: u64,
    tiles: u64,
}

impl WorkList {
    /// Divides requests of which these tokens are needed, with `kv_heads` sequences
    /// each, in tiles of `tile_tokens` among at most `max_blocks` blocks, where to start
    /// on a piece costs as much as `overhead` tiles. The first piece of a sequence begins
    /// at the tile with the first needed token.
    pub fn new(
        needed: &[Range<u32>],
        kv_heads: u32,
        tile_tokens: u32,
        max_blocks: u32,
        overhead: u64,
    ) -> Self {
        let sequences = needed.len() * kv_heads as usize;
        let needed = |sequence: usize| needed[sequence / kv_heads as usize].clone();
        let first_tile = |sequence: usize| needed(sequence).start / tile_tokens;
        let tiles: Vec<u64> = (0..sequences)
            .map(|sequence| {
                let end_tile = needed(sequence).end.div_ceil(tile_tokens);
                u64::from(end_tile - first_tile(sequence))
            })
            .collect();
        let cuts = cut_evenly(&tiles, max_blocks.min(MAX_BLOCKS).into(), overhead);

        let mut splits = vec![0; sequences];
        for cut in &cuts {
            splits[cut.sequence] += 1;
        }
        let (mut slots, mut split) = (0, 0);
        let mut pieces: Vec<(u64, Piece)> = Vec::with_capacity(cuts.len());
        for cut in &cuts {
            let tile = first_tile(cut.sequence) + cut.first_tile as u32;
            let first_token = tile * tile_tokens;
            let length = needed(cut.sequence).end;
            let splits = splits[cut.sequence];
            let piece = Piece {
                request: (cut.sequence / kv_heads as usize) as u32,
                head: (cut.sequence % kv_heads as usize) as u32,
                first_token,
                tokens: (length - first_token).min(cut.tiles as u32 * tile_tokens),
                length,
                split,
                splits,
                first_slot: if splits > 1 { slots } else { 0 },
                next: 0,
            };
            pieces.push((cut.block, piece));
            split += 1;
            if split == splits {
                slots += if split > 1 { u32::from(split) } else { 0 };
                split = 0;
            }
        }
        let blocks = cuts.last().map_or(0, |cut| cut.block as u32 + 1);
        WorkList { pieces: chain(&pieces, blocks), blocks, slots }
    }

    /// The list for a problem of which the requests of each length need these tokens.
    pub fn of(
        p: &KvRead,
        needed: impl Fn(u64) -> Range<u64>,
        tile_tokens: u32,
        max_blocks: u32,
    ) -> Self {
        let needed = |request| {
            let tokens = needed(p.length(request));
            tokens.start as u32..tokens.end as u32
        };
        let needed: Vec<Range<u32>> = (0..p.batch).map(needed).collect();
        WorkList::new(&needed, p.kv_heads as u32, tile_tokens, max_blocks, OVERHEAD)
    }

    /// Tokens of the busiest block over those of the mean block.
    pub fn imbalance(&self) -> f64 {
        let of_block = |first: &Piece| {
            let next = |piece: &&Piece| match piece.next {
                0 => None,
                next => self.pieces.get(next as usize),
            };
            let pieces = std::iter::successors(Some(first), next);
            pieces.map(|piece| u64::from(piece.tokens)).sum::<u64>()
        };
        let blocks = &self.pieces[..self.blocks as usize];
        let (most, all) = blocks
            .iter()
            .map(of_block)
            .fold((0, 0), |(most, all), tokens| (tokens.max(most), tokens + all));
        if all == 0 { 1.0 } else { most as f64 * f64::from(self.blocks) / all as f64 }
    }

    /// Traffic that dividing the work adds, where a slot is so many bytes: the
    /// list is read, partial results and the tickets of shared sequences, of so
    /// many bytes each, are written and read, all once.
    pub fn extra_bytes(&self, slot_bytes: u64, ticket_bytes: u64) -> u64 {
        let list = size_of_val(self.pieces.as_slice()) as u64;
        let tickets = ticket_bytes * self.shared_sequences();
        list + 2 * (u64::from(self.slots) * slot_bytes + tickets)
    }

    /// Sequences that several blocks share.
    fn shared_sequences(&self) -> u64 {
        let is_last = |piece: &&Piece| piece.splits > 1 && piece.split + 1 == piece.splits;
        self.pieces.iter().filter(is_last).count() as u64
    }

    /// The list as a buffer.
    pub fn scratch(&self) -> Scratch {
        Scratch::of("work list", &self.pieces)
    }

    /// A ticket of so many bytes for each slot, of which the first of a sequence
    /// is used.
    pub fn tickets(&self, bytes: u64) -> Scratch {
        Scratch::zeros("tickets", self.slots_bytes(bytes))
    }

    /// Size of a buffer of so many bytes for each slot. Never nothing, which
    /// no driver allocates.
    pub fn slots_bytes(&self, bytes: u64) -> u64 {
        u64::from(self.slots.max(1)) * bytes
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

/// Cuts sequences of so many tiles into stretches for at most `max_blocks`
/// blocks, such that the largest load is as small as cutting in order allows.
fn cut_evenly(tiles: &[u64], max_blocks: u64, overhead: u64) -> Vec<Cut> {
    let total: u64 = tiles.iter().map(|tiles| tiles + overhead).sum();
    // Every cut within a sequence adds an overhead to the next block, so the
    // mean plus an overhead is always enough.
    let mut load = total.div_ceil(max_blocks).max(overhead + 1);
    loop {
        let cuts = cut_at_load(tiles, load, overhead);
        if cuts.last().is_none_or(|cut| cut.block < max_blocks) {
            return cuts;
        }
        load += 1;
    }
}

/// Fills one block after the other up to a load of tiles and overheads.
fn cut_at_load(tiles: &[u64], load: u64, overhead: u64) -> Vec<Cut> {
    let mut cuts = Vec::with_capacity(tiles.len());
    let (mut block, mut room) = (0, load);
    for (sequence, &tiles) in tiles.iter().enumerate() {
        let mut first_tile = 0;
        loop {
            // A piece needs room for its overhead and, unless it is empty, for
            // a tile.
            if room < overhead + tiles.min(1) {
                (block, room) = (block + 1, load);
            }
            let taken = (tiles - first_tile).min(room - overhead);
            cuts.push(Cut { block, sequence, first_tile, tiles: taken });
            room -= overhead + taken;
            first_tile += taken;
            if first_tile == tiles {
                break;
            }
        }
    }
    cuts
}

/// Puts the first pieces of blocks first and links each block's pieces. Pieces
/// come in the order of blocks.
fn chain(pieces: &[(u64, Piece)], blocks: u32) -> Vec<Piece> {
    let mut list = Vec::with_capacity(pieces.len());
    let is_first = |index: usize| index == 0 || pieces[index - 1].0 != pieces[index].0;
    list.extend((0..pieces.len()).filter(|&i| is_first(i)).map(|i| pieces[i].1));
    let mut last = 0;
    for (index, &(block, piece)) in pieces.iter().enumerate() {
        if is_first(index) {
            last = block as usize;
        } else {
            list[last].next = list.len() as u32;
            last = list.len();
            list.push(piece);
        }
    }
    debug_assert_eq!(
        pieces.iter().enumerate().filter(|(i, _)| is_first(*i)).count(),
        blocks as usize
    );
    list
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The pieces of a block in order.
    fn of_block(list: &WorkList, block: u32) -> Vec<Piece> {
        let mut pieces = vec![list.pieces[block as usize]];
        while let Some(next) = pieces.last().map(|p| p.next).filter(|&next| next != 0) {
            assert!(next >= list.blocks, "first pieces have no predecessor");
            pieces.push(list.pieces[next as usize]);
        }
        pieces
    }

    fn load(pieces: &[Piece], tile: u32, overhead: u64) -> u64 {
        pieces.iter().map(|p| u64::from(p.tokens.div_ceil(tile)) + overhead).sum()
    }

    /// Everything that kernels rely on.
    fn check(contexts: &[u32], kv_heads: u32, tile: u32, max_blocks: u32) -> WorkList {
        let needed: Vec<_> = contexts.iter().map(|&context| 0..context).collect();
        check_needed(&needed, kv_heads, tile, max_blocks, OVERHEAD)
    }

    /// The same where the first tokens of requests may be left out.
    fn check_needed(
        needed: &[Range<u32>],
        kv_heads: u32,
        tile: u32,
        max_blocks: u32,
        overhead: u64,
    ) -> WorkList {
        let list = WorkList::new(needed, kv_heads, tile, max_blocks, overhead);
        assert_eq!(list, WorkList::new(needed, kv_heads, tile, max_blocks, overhead));
        assert!(list.blocks <= max_blocks);

        // Blocks in order walk through all sequences in order, each token once.
        let blocks: Vec<_> = (0..list.blocks).map(|b| of_block(&list, b)).collect();
        assert_eq!(blocks.iter().flatten().count(), list.pieces.len());
        let mut walk = blocks.iter().flatten();
        let mut slots = 0;
        for (request, tokens) in needed.iter().enumerate() {
            for head in 0..kv_heads {
                let (mut token, mut split) = (tokens.start / tile * tile, 0);
                loop {
                    let piece = walk.next().unwrap();
                    assert_eq!((piece.request, piece.head), (request as u32, head));
                    assert_eq!((piece.first_token, piece.split), (token, split));
                    assert!(piece.tokens > 0 || tokens.is_empty());
                    assert_eq!(piece.length, tokens.end);
                    if piece.splits > 1 {
                        assert_eq!(piece.first_slot, slots);
                    }
                    token += piece.tokens;
                    split += 1;
                    if split == piece.splits {
                        break;
                    }
                    assert_eq!(token % tile, 0);
                }
                assert_eq!(token, tokens.end);
                slots += if split > 1 { u32::from(split) } else { 0 };
            }
        }
        assert!(walk.next().is_none());
        assert_eq!(slots, list.slots);

        // No block has more than its share and one overhead.
        let tiles = |tokens: &Range<u32>| tokens.end.div_ceil(tile) - tokens.start / tile;
        let sequences = needed.iter().flat_map(|c| (0..kv_heads).map(move |_| c));
        let total: u64 = sequences.map(|c| u64::from(tiles(c)) + overhead).sum();
        let loads = blocks.iter().map(|pieces| load(pieces, tile, overhead));
        let share = total.div_ceil(max_blocks.into()).max(1 + overhead);
        assert!(loads.max().unwrap_or(0) <= share + overhead);
        list
    }

    #[test]
    fn long_contexts_are_split_evenly() {
        // Two sequences of 100 tiles on 5 blocks: 202 units are 41 each at
        // best, and the second piece of a sequence costs another.
        let list = check(&[6400], 2, 64, 5);
        let loads: Vec<_> =
            (0..5).map(|b| load(&of_block(&list, b), 64, OVERHEAD)).collect();
        assert_eq!(loads, [42, 42, 42, 42, 38]);
        assert_eq!(list.slots, 6);
        assert_eq!(list.extra_bytes(100, 4), 6 * 32 + 2 * (6 * 100 + 2 * 4));
        // 41 tiles of 40.
        assert_eq!(list.imbalance(), 41.0 / 40.0);
    }

    #[test]
    fn short_contexts_stay_whole() {
        let list = check(&[64; 8], 1, 64, 4);
        assert_eq!((list.blocks, list.slots, list.pieces.len()), (4, 0, 8));
        assert_eq!(list.extra_bytes(100, 4), 8 * 32);
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
    fn empty_sequences_have_a_piece_for_their_output() {
        let list = check(&[0, 130, 0], 2, 64, 3);
        assert_eq!(list.pieces.iter().filter(|p| p.tokens == 0).count(), 4);
        assert_eq!(check(&[], 8, 64, 4).blocks, 0);
        assert_eq!(check(&[0], 1, 64, 1).blocks, 1);
    }

    #[test]
    fn what_no_window_shows_is_left_out() {
        let list = check_needed(&[1000..6400, 0..10], 1, 64, 4, OVERHEAD);
        assert_eq!(list.pieces.iter().map(|p| p.first_token).min(), Some(0));
        let first = list.pieces.iter().filter(|p| p.request == 0).map(|p| p.first_token);
        assert_eq!(first.min(), Some(960));
    }

    proptest! {
        #[test]
        fn tokens_before_the_first_tile_are_left_out(
            needed in prop::collection::vec((0u32..3000, 0u32..3000), 0..20),
            kv_heads in 1u32..9,
            max_blocks in 1u32..300,
            overhead in 0u64..3,
        ) {
            let needed: Vec<_> = needed.iter().map(|&(a, b)| a.min(b)..a.max(b)).collect();
            check_needed(&needed, kv_heads, 64, max_blocks, overhead);
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
