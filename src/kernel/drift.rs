//! What clusters read from DRAM that multiply tiles at different speeds: those that need the
//! same rows find them in L2 while they are side by side.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

/// Bytes of L2 on either side of an H100, each with copies of its own of what multiprocessors
/// there read.
pub const L2_BYTES: u64 = 25 << 20;

/// What a cluster reads in each step of a tile: a number of the rows, and their bytes.
pub type Operands = [(u64, u64); 2];

/// Rows in the cache, and when each was last read.
#[derive(Default)]
struct Lru {
    last: HashMap<(usize, u64, u64), u64>,
    in_order: BTreeMap<u64, ((usize, u64, u64), u64)>,
    now: u64,
    held_bytes: u64,
}

impl Lru {
    /// Reads rows; whether they were there.
    fn read(&mut self, rows: (usize, u64, u64), bytes: u64) -> bool {
        self.now += 1;
        let before = self.last.insert(rows, self.now);
        match before {
            Some(at) => drop(self.in_order.remove(&at)),
            None => self.held_bytes += bytes,
        }
        self.in_order.insert(self.now, (rows, bytes));
        while self.held_bytes > L2_BYTES {
            let Some((_, (oldest, bytes))) = self.in_order.pop_first() else { break };
            self.last.remove(&oldest);
            self.held_bytes -= bytes;
        }
        before.is_some()
    }
}

/// Bytes read from DRAM by so many clusters whose times of a step differ by up to `spread`
/// either way. With `dynamic` tiles are begun in order by who is done, without it cluster `i`
/// has tiles `i`, `i + clusters` and so on.
pub fn dram_bytes(
    tiles: &[Operands],
    steps: u64,
    clusters: usize,
    spread: f64,
    dynamic: bool,
) -> u64 {
    let mut l2 = Lru::default();
    let mut read_bytes = 0;
    let mut next = clusters;
    // When each cluster begins a step, in thousandths of a mean one; its tile and the step.
    let mut begun: BinaryHeap<Reverse<(u64, usize, usize, u64)>> =
        (0..clusters.min(tiles.len())).map(|c| Reverse((c as u64, c, c, 0))).collect();
    // Neighbours differ: 37 is prime to the number of clusters.
    let step_of = |cluster: usize| {
        let place = (cluster * 37 % clusters) as f64 / (clusters - 1) as f64;
        1000.0 * (1.0 + spread * (2.0 * place - 1.0))
    };
    while let Some(Reverse((now, cluster, tile, step))) = begun.pop() {
        for (side, (rows, bytes)) in tiles[tile].into_iter().enumerate() {
            if !l2.read((side, rows, step), bytes) {
                read_bytes += bytes;
            }
        }
        let then = now + step_of(cluster) as u64;
        if step + 1 < steps {
            begun.push(Reverse((then, cluster, tile, step + 1)));
            continue;
        }
        let following = if dynamic { next } else { tile + clusters };
        next += 1;
        if following < tiles.len() {
            begun.push(Reverse((then, cluster, following, 0)));
        }
    }
    read_bytes
}
