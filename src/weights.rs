//! How 4-bit weights lie in memory: shuffled once, offline, into the order in which the
//! tensor cores take them, so that a kernel copies them as they are.
//!
//! A matrix `[n][k]` is cut into tiles of 16 rows and 64 columns, 512 bytes each, in the
//! order `[n / 16][k / 64]`: the tiles of 16 rows are contiguous in memory. Of a tile,
//! lane `l` of a warp takes 16 bytes: the left operands of four products m16n8k16 (PTX
//! ISA, "Matrix Fragments for mma.m16n8k16"), one in each word. With `g = l / 4` and `t =
//! l % 4` word `j` holds rows `g` and `g + 8`, columns `16 t + 4 j` and the three after
//! it: a lane's columns lie side by side, and so do the activations that they meet. The
//! four registers of an operand are the four nibbles of each half of the word, so that one
//! shift and one mask take out a pair.

/// Rows of a tile.
pub const TILE_ROWS: u64 = 16;
/// Columns of a tile.
pub const TILE_COLUMNS: u64 = 64;
/// Columns of a row that share a scale.
pub const GROUP_COLUMNS: u64 = 128;

/// The number of the nibble that holds a weight of a matrix with `k` columns; the first
/// of a byte is the low one.
#[inline]
pub const fn place(k: u64, row: u64, column: u64) -> u64 {
    let tile = row / TILE_ROWS * (k / TILE_COLUMNS) + column / TILE_COLUMNS;
    let (r, c) = (row % TILE_ROWS, column % TILE_COLUMNS);
    let lane = r % 8 * 4 + c / 16;
    let word = c % 16 / 4;
    let register = c % 4 / 2 * 2 + r / 8;
    let half = c % 2;
    tile * (TILE_ROWS * TILE_COLUMNS) + lane * 32 + word * 8 + half * 4 + register
}

/// Shuffles weights `[n][k]` of -8 to 7: what a checkpoint is loaded through. Larger
/// values are cut to their low four bits.
///
/// # Panics
/// If `k` is not a multiple of 64, or there are no whole tiles of 16 rows.
pub fn shuffle(weights: &[i8], k: u64) -> Vec<u8> {
    let rows = weights.len() as u64 / k;
    assert!(
        k.is_multiple_of(TILE_COLUMNS)
            && rows.is_multiple_of(TILE_ROWS)
            && rows * k == weights.len() as u64,
        "{} weights in rows of {k} are not whole tiles of {TILE_ROWS} x {TILE_COLUMNS}",
        weights.len()
    );
    let mut bytes = vec![0; weights.len() / 2];
    for (i, weight) in (0..).zip(weights) {
        let nibble = place(k, i / k, i % k);
        bytes[nibble as usize / 2] |= (*weight as u8 & 0xf) << (4 * (nibble % 2));
    }
    bytes
}

/// The element in a nibble of shuffled weights.
#[inline]
pub const fn element(bytes: &[u8], nibble: u64) -> i8 {
    let byte = bytes[nibble as usize / 2] >> (4 * (nibble % 2));
    // Its sign bit goes to the top, and back with copies.
    ((byte << 4) as i8) >> 4
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every nibble holds one weight, and comes back as it was.
    #[test]
    fn shuffling_is_reversible() {
        let (n, k) = (48, 192);
        let weights: Vec<i8> =
            (0..n * k).map(|i| ((i * 7 + i / 13) % 16) as i8 - 8).collect();
        let shuffled = shuffle(&weights, k as u64);
        let mut taken = vec![false; n * k];
        for (i, &weight) in weights.iter().enumerate() {
            let nibble = place(k as u64, (i / k) as u64, (i % k) as u64);
            assert!(!std::mem::replace(&mut taken[nibble as usize], true));
            assert_eq!(element(&shuffled, nibble), weight);
        }
    }

    /// Pairs that one mask takes out of a word are the registers of the left operand of
    /// mma.m16n8k16, as the PTX ISA lays them out: a0 and a2 in row g, a1 and a3 in row
    /// g + 8, a0 and a1 in the first columns.
    #[test]
    fn words_are_operands() {
        let k = 128;
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            for word in 0..4 {
                for register in 0..4 {
                    let row = g + register % 2 * 8;
                    let column = 16 * t + 4 * word + register / 2 * 2;
                    let low = lane * 32 + word * 8 + register;
                    assert_eq!(place(k, row, column), low);
                    assert_eq!(place(k, row, column + 1), low + 4);
                    // Two tiles in a stripe of 16 rows.
                    assert_eq!(place(k, row + 16, column + 64), low + 3 * 1024);
                }
            }
        }
    }
}
