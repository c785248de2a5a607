//! Clusters of blocks: how many run at the same time, and when the splits of a sequence are
//! sooner combined by the blocks of clusters than by its last block.
//!
//! The times are rough, and only compared with one another. They are those of an H200 in
//! `results/2026-11-28-nvidia-h200-tune`, less what all ways have alike. Of one request of 32
//! query and 8 KV heads, 1024 tokens in tiles of 64, one block for each head took 12.0 us,
//! clusters of two, four and eight 8.05, 6.3 and 5.6, and 128 blocks of which the last combines
//! 7.4; of 8192 tokens clusters of eight took 12.4 us, since 64 SMs then read all that memory
//! gives, and 128 blocks 15.1. Of 64 sequences of 8192 tokens clusters of two took 63.4 us, and as
//! many blocks 64.8; larger clusters, which do not run at the same time, 72.

use std::ops::Range;

use super::split::{WorkList, tiles_of};

/// Most blocks of a cluster that every GPU with clusters can launch.
pub(super) const MAX_CLUSTER: u32 = 8;

/// Sizes of clusters between which a kernel chooses.
const SIZES: [u32; 3] = [2, 4, 8];

/// Most clusters of a sequence: a block keeps a weight for each in shared memory.
const MOST_CLUSTERS: u64 = 64;

/// Clusters of one to eight blocks that run at the same time with one block on an SM, of
/// 132. An H200 had fewer than groups of SMs (GPCs) would hold: 64 of two and 32 of three
/// took one round, 40 of three and 17 of five and of six two, 64 of four three, and of
/// eight six.
const RESIDENT: [u64; 8] = [132, 66, 32, 29, 16, 16, 12, 12];

/// Clusters of so many blocks that run at the same time with one block on an SM.
pub(super) fn resident(blocks: u64, sms: u64) -> u64 {
    (RESIDENT[blocks as usize - 1] * sms / RESIDENT[0]).max(1)
}

/// Bytes that memory gives an SM in a second where all read: 4.3 TB/s of 132.
const DRAM_OF_SM: f64 = 32e9;
/// Seconds in which the last block of a sequence, or of a slice of it, begins to combine, and
/// bytes of partial results in a second that the former combines: 16 splits of 2 KiB took 3 us,
/// 128 of 32 KiB 140 us. What is said of slices is not measured yet.
const LAST_BLOCK_S: f64 = 1.8e-6;
const LAST_BLOCK_BYTES: f64 = 30e9;
/// Seconds in which a cluster combines, those of each of its blocks, and bytes of other blocks'
/// shared memory in a second, as `gemm_swapped` takes them. Measured when blocks read each other's
/// memory between two barriers; they now store to it, which should take less.
const CLUSTER_S: f64 = 0.3e-6;
const CLUSTER_BLOCK_S: f64 = 0.045e-6;
const REMOTE_BYTES: f64 = 36e9;
/// Bytes that the last block of a slice combines in a second, from L2 with many loads in flight.
const L2_BYTES: f64 = 75e9;

/// What a block of decode attention does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct BlockWork {
    /// Tokens of a tile.
    pub tile_tokens: u32,
    /// Seconds of a tile where memory does not bind.
    pub tile_s: f64,
    /// Bytes of a tile.
    pub tile_bytes: u64,
    /// Bytes of its outputs of one split, in f32.
    pub output_bytes: u64,
    /// Blocks that divide the rows of a sequence.
    pub row_tiles: u32,
    /// Blocks that share an SM.
    pub blocks_per_sm: u32,
}

impl BlockWork {
    /// Seconds in which `all` tiles are read, `busiest` of them by one block.
    fn reading_s(&self, busiest: u64, all: u64, sms: u64) -> f64 {
        let memory_s = (all * self.tile_bytes) as f64 / (DRAM_OF_SM * sms as f64);
        memory_s.max(busiest as f64 * self.tile_s)
    }

    /// Seconds of a list whose sequences are combined by their last blocks.
    fn evenly_s(&self, list: &WorkList, sms: u64) -> f64 {
        let tiles = |tokens: u64| tokens.div_ceil(self.tile_tokens.into());
        let all = list.splits.iter().map(|split| tiles(split.tokens.into())).sum();
        let read_s = self.reading_s(tiles(list.busiest_tokens()), all, sms);
        match list.splits.iter().map(|split| split.count).max() {
            Some(splits) if splits > 1 => {
                let bytes = u64::from(splits) * self.output_bytes;
                read_s + LAST_BLOCK_S + bytes as f64 / LAST_BLOCK_BYTES
            }
            _ => read_s,
        }
    }

    /// Seconds of sequences of so many tiles, each by `clusters` clusters of `blocks` blocks
    /// that run at the same time.
    fn in_clusters_s(&self, tiles: &[u64], blocks: u64, clusters: u64, sms: u64) -> f64 {
        let of_block = |tiles: &u64| tiles.div_ceil(blocks * clusters);
        let busiest = tiles.iter().map(of_block).max().unwrap_or(0);
        let output_bytes = self.output_bytes as f64;
        let combine_s = CLUSTER_S
            + CLUSTER_BLOCK_S * blocks as f64
            + output_bytes / REMOTE_BYTES
            + if clusters > 1 {
                let bytes = output_bytes * (1 + clusters) as f64 / blocks as f64;
                LAST_BLOCK_S + bytes / L2_BYTES
            } else {
                0.0
            };
        self.reading_s(busiest, tiles.iter().sum(), sms) + combine_s
    }

    /// Most clusters of `blocks` blocks that each of so many sequences can have at the same
    /// time; 0 where not all have one.
    fn most_clusters(&self, sequences: u64, blocks: u64, sms: u64) -> u64 {
        let at_once = resident(blocks, sms) * u64::from(self.blocks_per_sm);
        at_once / (sequences * u64::from(self.row_tiles)).max(1)
    }

    /// Clusters of `blocks` blocks for each sequence with these needed tokens: as many as take
    /// the least time. One at least, whether or not all run at the same time.
    pub fn clusters(
        &self,
        needed: &[Range<u32>],
        kv_heads: u32,
        blocks: u32,
        sms: u32,
    ) -> u32 {
        let (sequences, blocks, sms) =
            (needed.len() as u64 * u64::from(kv_heads), blocks.into(), sms.into());
        let most = self.most_clusters(sequences, blocks, sms).clamp(1, MOST_CLUSTERS);
        if most == 1 {
            return 1;
        }
        let tiles = self.tiles(needed, kv_heads);
        let time_s = |clusters: &u64| self.in_clusters_s(&tiles, blocks, *clusters, sms);
        (1..=most).min_by(|a, b| time_s(a).total_cmp(&time_s(b))).unwrap_or(1) as u32
    }

    /// Tiles of all sequences.
    fn tiles(&self, needed: &[Range<u32>], kv_heads: u32) -> Vec<u64> {
        let of_request = |tokens: &Range<u32>| {
            std::iter::repeat_n(tiles_of(tokens, self.tile_tokens), kv_heads as usize)
        };
        needed.iter().flat_map(of_request).collect()
    }

    /// Blocks of clusters that take less time than a list without, of sequences with these
    /// needed tokens; `None` where none do.
    pub fn fastest(
        &self,
        needed: &[Range<u32>],
        kv_heads: u32,
        evenly: &WorkList,
        sms: u32,
    ) -> Option<u32> {
        let tiles = self.tiles(needed, kv_heads);
        let in_clusters = SIZES.into_iter().filter_map(|blocks| {
            let at_once = self.most_clusters(tiles.len() as u64, blocks.into(), sms.into());
            (at_once > 0).then(|| {
                let clusters = self.clusters(needed, kv_heads, blocks, sms);
                let time_s =
                    self.in_clusters_s(&tiles, blocks.into(), clusters.into(), sms.into());
                (time_s, blocks)
            })
        });
        let (time_s, blocks) = in_clusters.min_by(|a, b| a.0.total_cmp(&b.0))?;
        (time_s < self.evenly_s(evenly, sms.into())).then_some(blocks)
    }

    /// Whether so many sequences are too many for clusters of any size.
    pub fn are_too_many(&self, sequences: u64, sms: u32) -> bool {
        self.most_clusters(sequences, SIZES[0].into(), sms.into()) == 0
    }
}
