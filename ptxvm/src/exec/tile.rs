//! Tiles of wgmma's operands in shared memory: where descriptors say that they lie, their
//! elements as values, and the product of two.

use crate::flight::Tiles;
use crate::instruction::{Element, Wgmma};
use crate::shared::Shared;
use crate::tensor_map::Swizzle;

/// Bytes of a descriptor's unit, and of a chunk that stays together under every swizzle.
pub(crate) const CHUNK: usize = 16;
/// Bytes of a row of A or column of B along k.
const K_BYTES: u32 = 32;
/// A descriptor's reserved bits: 14 to 15, 30 to 31, 46 to 48 and 52 to 61.
const RESERVED: u64 = 0x3ff1_c000_c000_c000;

/// A matrix descriptor's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptor {
    start: u32,
    leading: u32,
    stride: u32,
    swizzle: Swizzle,
}

impl Descriptor {
    /// The fields of `bits`, or the rule that they break.
    pub(crate) fn decode(bits: u64) -> Result<Self, String> {
        let field = |shift: u32| ((bits >> shift & 0x3fff) << 4) as u32;
        if bits & RESERVED != 0 {
            return Err(format!(
                "the matrix descriptor {bits:#018x} has reserved bits set ({:#x}): bits 14 to \
                 15, 30 to 31, 46 to 48 and 52 to 61 must be 0. An address is put in as \
                 (address & 0x3ffff) >> 4",
                bits & RESERVED
            ));
        }
        // The codes have the reverse order of a tensor map's.
        let swizzle = match bits >> 62 {
            0 => Swizzle::None,
            1 => Swizzle::Bytes128,
            2 => Swizzle::Bytes64,
            _ => Swizzle::Bytes32,
        };
        match (bits >> 49 & 7, swizzle) {
            (0, _) => {}
            (base, Swizzle::None) => {
                return Err(format!(
                    "the matrix descriptor {bits:#018x} has base offset {base}, which only \
                     a swizzled layout may have"
                ));
            }
            (base, _) => {
                return Err(format!(
                    "base offset {base} of the matrix descriptor {bits:#018x} is not \
                     implemented: only swizzle patterns that start at a multiple of their \
                     size (256, 512 or 1024 bytes) are"
                ));
            }
        }
        Ok(Self { start: field(0), leading: field(16), stride: field(32), swizzle })
    }

    /// Bytes of a row of the swizzle pattern.
    fn row(self) -> u32 {
        match self.swizzle {
            Swizzle::None => 16,
            Swizzle::Bytes32 => 32,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes128 => 128,
        }
    }

    /// Whether the tile, of `extent` rows of A or columns of B, keeps within the rows of
    /// its swizzle pattern, or how it does not.
    pub(crate) fn check(
        self,
        extent: u32,
        size: u32,
        transposed: bool,
    ) -> Result<(), String> {
        let (row, first) = (self.row(), self.start % self.row());
        let bytes = if transposed { (extent * size).min(row) } else { K_BYTES };
        if self.swizzle == Swizzle::None || first + bytes <= row {
            return Ok(());
        }
        Err(format!(
            "a tile that starts at {:#x} leaves the rows of its {row}-byte swizzle: it starts \
             at byte {first} of a row and needs {bytes} bytes of it",
            self.start
        ))
    }

    /// The address of an element of `size` bytes. `major` is the index along the dimension
    /// that is contiguous in memory for transposed operands (rows of A, columns of B), `k`
    /// the index along the sum. The layouts are the canonical ones of the ISA.
    pub(crate) fn place(self, major: u32, k: u32, size: u32, transposed: bool) -> u32 {
        let (row, per) = (self.row(), 16 / size);
        let offset = if !transposed {
            let chunk = match self.swizzle {
                Swizzle::None => k / per * self.leading,
                _ => k / per * 16,
            };
            major % 8 * row + major / 8 * self.stride + chunk + k % per * size
        } else {
            let span = row / size;
            let (inner, outer) = (major % span * size, major / span);
            match self.swizzle {
                Swizzle::None => {
                    inner + outer * self.stride + k % 8 * row + k / 8 * self.leading
                }
                _ => inner + outer * self.leading + k % 8 * row + k / 8 * self.stride,
            }
        };
        self.swizzle.apply(self.start + offset)
    }
}

/// An operand in shared memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand {
    pub descriptor: Descriptor,
    pub element: Element,
    pub transposed: bool,
    pub negative: bool,
}

/// Where the elements of a chunk belong: the first's row of A or column of B, and its k.
/// The others follow along k, or along the rows if the operand is transposed.
type Spot = (u32, u32);

impl Operand {
    pub(crate) fn size(self) -> u32 {
        (self.element.bits() / 8) as u32
    }

    /// The chunks of the rows of A, or columns of B, from `from` up to `to`: where their
    /// elements belong, and their addresses.
    pub(crate) fn chunks(
        self,
        (from, to): (u32, u32),
    ) -> impl Iterator<Item = (Spot, u32)> {
        let (size, transposed) = (self.size(), self.transposed);
        let per = CHUNK as u32 / size;
        // Along k there are two chunks, or, transposed, rows of chunks.
        let (majors, ks) = if transposed { (per, 1) } else { (1, per) };
        let spots = (from..to).step_by(majors as usize);
        spots.flat_map(move |major| {
            (0..K_BYTES / size).step_by(ks as usize).map(move |k| {
                ((major, k), self.descriptor.place(major, k, size, transposed))
            })
        })
    }

    /// The values of a chunk; the first 16 bytes' worth of elements count.
    fn values(self, chunk: &[u8; CHUNK]) -> [f64; CHUNK] {
        let mut values = self.element.values(chunk);
        if self.negative {
            values.iter_mut().for_each(|value| *value = -*value);
        }
        values
    }
}

/// The place of element `k` of column `column` in [`Tiles::b`].
fn place_b(column: usize, k: usize, depth: usize) -> usize {
    let (block, within) = (column / 8, column % 8);
    (block * depth + k) * 8 + within % 2 * 4 + within / 2
}

impl Tiles {
    /// Makes room for the operands of `op`.
    pub(crate) fn prepare(&mut self, op: &Wgmma) {
        self.a.resize(64 * op.k, 0.0);
        self.b.resize(op.n * op.k, 0.0);
        self.sums.resize(64 * op.n, 0.0);
        self.bad_columns.clear();
        self.bad_columns.resize(op.n, false);
    }

    /// Takes a chunk of A.
    pub(crate) fn take_a(&mut self, a: Operand, spot: Spot, at: usize, memory: &Shared) {
        let (depth, per) = ((K_BYTES / a.size()) as usize, CHUNK / a.size() as usize);
        let (bytes, written) = memory.chunk(at);
        let values = a.values(bytes);
        let (major, k) = (spot.0 as usize, spot.1 as usize);
        for (n, &value) in values[..per].iter().enumerate() {
            let (row, k) = if a.transposed { (major + n, k) } else { (major, k + n) };
            self.a[row * depth + k] = value;
            if !is_defined(written, n, a.size()) {
                self.bad_rows[row / 16] |= 1 << (row % 16);
            }
        }
    }

    /// Takes a chunk of B.
    pub(crate) fn take_b(&mut self, b: Operand, spot: Spot, at: usize, memory: &Shared) {
        let (depth, per) = ((K_BYTES / b.size()) as usize, CHUNK / b.size() as usize);
        let (bytes, written) = memory.chunk(at);
        let values = b.values(bytes);
        let (major, k) = (spot.0 as usize, spot.1 as usize);
        for (n, &value) in values[..per].iter().enumerate() {
            let (column, k) = if b.transposed { (major + n, k) } else { (major, k + n) };
            self.b[place_b(column, k, depth)] = value;
            if !is_defined(written, n, b.size()) {
                self.bad_columns[column] = true;
            }
        }
    }

    /// Multiplies A and B.
    pub(crate) fn multiply(&mut self, op: &Wgmma) {
        products(&self.a, &self.b, (op.k, op.n), &mut self.sums);
    }
}

/// Whether element `n` of a chunk was written: one bit for each byte.
fn is_defined(written: u16, n: usize, size: u32) -> bool {
    let mask = ((1u32 << size) - 1) << (n as u32 * size);
    u32::from(written) & mask == mask
}

/// Sums in f64 over all k, in their order. The products are exact in f64.
#[multiversion::multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
fn products(a: &[f64], b: &[f64], (k, n): (usize, usize), sums: &mut [f64]) {
    // A warp has 16 rows; element (r, c) of a block of 8 columns is in lane
    // 4 * (r % 8) + c / 2 of register 2 * (r / 8) + c % 2 of the block's four.
    for (sums, a) in sums.chunks_exact_mut(16 * n).zip(a.chunks_exact(16 * k)) {
        for (sums, b) in sums.chunks_exact_mut(128).zip(b.chunks_exact(8 * k)) {
            for (quarter, a) in a.chunks_exact(4 * k).enumerate() {
                let mut all = [[0.0f64; 8]; 4];
                for (step, b) in b.chunks_exact(8).enumerate() {
                    for (row, sums) in all.iter_mut().enumerate() {
                        let a = a[row * k + step];
                        for (sum, &b) in sums.iter_mut().zip(b) {
                            *sum += a * b;
                        }
                    }
                }
                for (row, all) in all.iter().enumerate() {
                    let at = quarter / 2 * 64 + 4 * (4 * (quarter % 2) + row);
                    sums[at..at + 4].copy_from_slice(&all[..4]);
                    sums[at + 32..at + 36].copy_from_slice(&all[4..]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(leading: u32, stride: u32, swizzle: u64) -> Descriptor {
        let field = |bytes: u32, shift: u32| u64::from(bytes >> 4) << shift;
        let bits = field(1024, 0) | field(leading, 16) | field(stride, 32) | swizzle << 62;
        Descriptor::decode(bits).unwrap()
    }

    #[test]
    fn a_panel_of_128_byte_rows() {
        // K-major, 128-byte swizzle, 16-bit elements: rows of 64, atoms of 8 rows.
        let d = descriptor(16, 1024, 1);
        assert_eq!(d.place(0, 0, 2, false), 1024);
        assert_eq!(d.place(0, 8, 2, false), 1024 + 16);
        assert_eq!(d.place(1, 0, 2, false), 1024 + 128 + 16);
        assert_eq!(d.place(3, 9, 2, false), 1024 + 3 * 128 + ((1 ^ 3) * 16) + 2);
        assert_eq!(d.place(9, 0, 2, false), 1024 + 1024 + 128 + 16);
    }

    #[test]
    fn rows_without_a_swizzle() {
        // Core matrices of 8 rows of 16 bytes; the leading offset goes along k.
        let d = descriptor(128, 256, 0);
        assert_eq!(d.place(5, 3, 2, false), 1024 + 5 * 16 + 6);
        assert_eq!(d.place(5, 11, 2, false), 1024 + 128 + 5 * 16 + 6);
        assert_eq!(d.place(13, 3, 2, false), 1024 + 256 + 5 * 16 + 6);
    }

    #[test]
    fn a_transposed_panel() {
        // Rows of 128 bytes with 64 columns of 16 bits, 8 rows in an atom.
        let d = descriptor(8192, 1024, 1);
        assert_eq!(d.place(8, 0, 2, true), 1024 + 16);
        assert_eq!(d.place(0, 1, 2, true), 1024 + 128 + 16);
        assert_eq!(d.place(0, 8, 2, true), 1024 + 1024);
        assert_eq!(d.place(64, 0, 2, true), 1024 + 8192);
    }

    #[test]
    fn bits_that_must_be_zero() {
        let good = 0x4000_0040_0001_0040u64;
        assert!(Descriptor::decode(good).is_ok());
        for bit in (14..16).chain(30..32).chain(46..52).chain(52..62) {
            assert!(Descriptor::decode(good | 1 << bit).is_err(), "bit {bit}");
        }
    }

    /// Every chunk of an operand holds the elements that lie there by the layout's formula.
    #[test]
    fn chunks_cover_an_operand() {
        for (swizzle, transposed) in
            [(0, false), (1, false), (3, false), (0, true), (1, true)]
        {
            let descriptor = descriptor(4096, 512, swizzle);
            let operand =
                Operand { descriptor, element: Element::BF16, transposed, negative: false };
            let mut seen = [[false; 16]; 24];
            for ((major, k), address) in operand.chunks((0, 24)) {
                for n in 0..8 {
                    let (row, k) = if transposed { (major + n, k) } else { (major, k + n) };
                    let place = descriptor.place(row, k, 2, transposed);
                    assert_eq!(place, address + 2 * n, "{swizzle} {transposed} {row} {k}");
                    seen[row as usize][k as usize] = true;
                }
            }
            assert!(seen.iter().flatten().all(|&seen| seen));
        }
    }
}
