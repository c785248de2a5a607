//! Tiles of operands: where wgmma's descriptors say that they lie in shared memory, their
//! elements as values, and the product of two, of `wgmma` and `mma`.

use crate::flight::{Chunk, Tiles};
use crate::instruction::{Accumulator, Element, Wgmma};
use crate::lanes::LANES;
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
            // The row of an address in the pattern may be (address >> 7) less the base offset,
            // or with it in an exclusive or, in two or one bits where the pattern is smaller
            // than the eight rows that the offset counts. The layouts differ, and the ISA
            // shows none.
            (base, _) => {
                return Err(format!(
                    "base offset {base} of the matrix descriptor {bits:#018x} is not \
                     implemented: the PTX ISA says that it is (pattern start address >> 7) \
                     & 7, but not how addresses are swizzled with it. Start the swizzle \
                     pattern at a multiple of its size (256, 512 or 1024 bytes), with base \
                     offset 0"
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

    /// The address of chunk `chunk` of row `major` of A or column of B, along k.
    fn along_k(self, major: u32, chunk: u32) -> u32 {
        let step = if self.swizzle == Swizzle::None { self.leading } else { 16 };
        let row = major % 8 * self.row() + major / 8 * self.stride;
        self.swizzle.apply(self.start + row + chunk * step)
    }

    /// The address of chunk `chunk` of the elements with the same k, of a transposed
    /// operand.
    fn across_k(self, chunk: u32, k: u32) -> u32 {
        let span = self.row() / 16;
        let (outer, eighth) = match self.swizzle {
            Swizzle::None => (self.stride, self.leading),
            _ => (self.leading, self.stride),
        };
        let column = chunk % span * 16 + chunk / span * outer;
        self.swizzle.apply(self.start + column + k % 8 * self.row() + k / 8 * eighth)
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

impl Operand {
    pub(crate) fn size(self) -> u32 {
        (self.element.bits() / 8) as u32
    }

    /// The chunks of the rows of A, or columns of B, from `from` up to `to`.
    pub(crate) fn chunks(self, (from, to): (u32, u32), into: &mut Vec<Chunk>) {
        into.clear();
        let per = CHUNK as u32 / self.size();
        let d = self.descriptor;
        if self.transposed {
            for k in 0..2 * per {
                into.extend((from / per..to / per).map(|chunk| Chunk {
                    address: d.across_k(chunk, k),
                    major: chunk * per,
                    k,
                }));
            }
        } else {
            for major in from..to {
                into.extend([0, 1].map(|chunk| Chunk {
                    address: d.along_k(major, chunk),
                    major,
                    k: chunk * per,
                }));
            }
        }
    }

    /// The values of a chunk.
    fn values(self, chunk: &[u8; CHUNK]) -> [f64; CHUNK] {
        let mut values = self.element.values(chunk);
        if self.negative {
            values.iter_mut().for_each(|value| *value = -*value);
        }
        values
    }
}

/// The place of element `k` of column `column` in an operand B of `depth` values along k:
/// blocks of 8 columns, in which each k has 4 even columns and 4 odd ones.
pub(crate) fn place_b(column: usize, k: usize, depth: usize) -> usize {
    let (block, within) = (column / 8, column % 8);
    (block * depth + k) * 8 + within % 2 * 4 + within / 2
}

impl Tiles {
    /// Makes room for A of `op`, and for C. Some of the warps may still have to take their
    /// sums of the product before.
    pub(crate) fn prepare(&mut self, op: &Wgmma) {
        self.a.resize(64 * op.k, 0.0);
        self.c.resize(64 * op.n, 0.0);
    }

    /// Makes room for the rest, when all warps have taken their sums and issued the product.
    pub(crate) fn begin(&mut self, op: &Wgmma) {
        self.b.resize(op.n * op.k, 0.0);
        self.sums.resize(64 * op.n, 0.0);
        self.bad_columns.clear();
        self.bad_columns.resize(op.n, false);
    }

    /// Takes a chunk of A.
    pub(crate) fn take_a(&mut self, a: Operand, chunk: Chunk, memory: &Shared) {
        let (depth, per) = ((K_BYTES / a.size()) as usize, CHUNK / a.size() as usize);
        let (bytes, written) = memory.chunk(chunk.address as usize);
        let values = a.values(bytes);
        let (major, k) = (chunk.major as usize, chunk.k as usize);
        let (first, step) = (major * depth + k, if a.transposed { depth } else { 1 });
        for (n, &value) in values[..per].iter().enumerate() {
            self.a[first + n * step] = value;
        }
        for n in undefined(written, per) {
            let row = if a.transposed { major + n } else { major };
            self.bad_rows[row / 16] |= 1 << (row % 16);
        }
    }

    /// Takes a chunk of B.
    pub(crate) fn take_b(&mut self, b: Operand, chunk: Chunk, memory: &Shared) {
        let (depth, per) = ((K_BYTES / b.size()) as usize, CHUNK / b.size() as usize);
        let (bytes, written) = memory.chunk(chunk.address as usize);
        let values = b.values(bytes);
        let (major, k) = (chunk.major as usize, chunk.k as usize);
        if b.transposed {
            for (n, &value) in values[..per].iter().enumerate() {
                self.b[place_b(major + n, k, depth)] = value;
            }
        } else {
            let column = self.b[place_b(major, k, depth)..].iter_mut().step_by(8);
            column.zip(&values[..per]).for_each(|(place, &value)| *place = value);
        }
        for n in undefined(written, per) {
            self.bad_columns[if b.transposed { major + n } else { major }] = true;
        }
    }

    /// Multiplies A and B.
    pub(crate) fn multiply(&mut self, op: &Wgmma) {
        let (a, b, shape) = (&self.a, &self.b, (op.k, op.n));
        if op.is_fixed_point() {
            fixed_point_products(a, b, &self.c, shape, &mut self.sums);
        } else {
            products(a, b, shape, &mut self.sums);
        }
    }
}

/// The elements of a chunk, `per` in all, with bytes that were not written, by a bit for
/// each byte.
fn undefined(written: u16, per: usize) -> impl Iterator<Item = usize> {
    let (size, missing) = (CHUNK / per, !written);
    let count = if missing == 0 { 0 } else { per };
    let bits = move |n: usize| missing >> (n * size) & ((1u32 << size) - 1) as u16;
    (0..count).filter(move |&n| bits(n) != 0)
}

/// Sums in f64 over all k, in their order. The products are exact in f64, so that fused
/// multiply-adds, where the CPU has them, give the same sums.
#[multiversion::multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn products(a: &[f64], b: &[f64], (k, n): (usize, usize), sums: &mut [f64]) {
    let fused = multiversion::target::target_cfg_f!(any(
        target_feature = "fma",
        target_arch = "aarch64"
    ));
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
                            *sum = if fused { a.mul_add(b, *sum) } else { *sum + a * b };
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

/// Bits after the point that Hopper's tensor cores keep of products of 8-bit floats, and of
/// the f32 that they are added to, see [`fixed_point_products`].
const FRACTION_BITS: i32 = 13;

/// Products of 8-bit floats in f32, with the accumulators `c`, which have the places of
/// `sums`: an H200 adds them in fixed point. The unit is 2^-13 of the largest power of two
/// of all that is added, where a product's is that of its factors, so that the product
/// itself may be nearly four times as large. Below the unit all are cut off, towards zero.
/// With these rules, and no others of 12 to 14 bits, cut or rounded, the checks of 31
/// matrices have the same largest error here as there to three digits.
#[multiversion::multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn fixed_point_products(
    a: &[f64],
    b: &[f64],
    c: &[f64],
    (k, n): (usize, usize),
    sums: &mut [f64],
) {
    let fractions = f64::from(1u32 << FRACTION_BITS);
    let warps = sums.chunks_exact_mut(16 * n).zip(c.chunks_exact(16 * n));
    for ((sums, c), a) in warps.zip(a.chunks_exact(16 * k)) {
        let blocks = sums.chunks_exact_mut(128).zip(c.chunks_exact(128));
        for ((sums, c), b) in blocks.zip(b.chunks_exact(8 * k)) {
            for (row, a) in a.chunks_exact(k).enumerate() {
                // Four even columns, and four odd ones a register further.
                let at = row / 8 * 64 + 4 * (row % 8);
                let old: [f64; 8] = std::array::from_fn(|j| c[at + j / 4 * LANES + j % 4]);
                let mut largest = old.map(power_of_two);
                for (&a, b) in a.iter().zip(b.as_chunks::<8>().0) {
                    let a = power_of_two(a);
                    for (largest, &b) in largest.iter_mut().zip(b) {
                        *largest = largest.max(a * power_of_two(b));
                    }
                }
                // Nothing but zeros stays zero. What is not finite makes the scale zero, and
                // the sum not a number.
                let scales = largest.map(|x| if x > 0.0 { fractions / x } else { 0.0 });
                let mut all: [f64; 8] =
                    std::array::from_fn(|j| (old[j] * scales[j]).trunc());
                for (&a, b) in a.iter().zip(b.as_chunks::<8>().0) {
                    for ((sum, &scale), &b) in all.iter_mut().zip(&scales).zip(b) {
                        *sum += (a * b * scale).trunc();
                    }
                }
                for (j, sum) in all.iter().enumerate() {
                    let finite = largest[j].is_finite();
                    let column = b.iter().skip(j).step_by(8);
                    sums[at + j / 4 * LANES + j % 4] = match finite {
                        true => sum * (largest[j] / fractions),
                        false => {
                            a.iter().zip(column).fold(old[j], |sum, (a, b)| sum + a * b)
                        }
                    };
                }
            }
        }
    }
}

/// The largest power of two that is not above `|x|`; 0 of 0, and infinite of what is not
/// finite.
fn power_of_two(x: f64) -> f64 {
    f64::from_bits(x.to_bits() & f64::INFINITY.to_bits())
}

/// Accumulator register `i` with its sums, of [`products`], added.
pub(crate) fn add(
    (accumulator, saturate): (Accumulator, bool),
    i: usize,
    old: &[u32; LANES],
    sums: &[f64],
) -> [u32; LANES] {
    let sums = |register: usize| &sums[register * LANES..(register + 1) * LANES];
    match accumulator {
        Accumulator::F32 => add_f32(old, sums(i)),
        Accumulator::F16 => {
            // A register has two columns, whose sums are 32 apart.
            let (low, high) =
                (sums(i / 2 * 4 + i % 2 * 2), sums(i / 2 * 4 + i % 2 * 2 + 1));
            std::array::from_fn(|lane| {
                let add = |old: u32, sum: f64| accumulator.add(old & 0xffff, sum, false);
                add(old[lane], low[lane]) | add(old[lane] >> 16, high[lane]) << 16
            })
        }
        _ => {
            let sums = sums(i);
            std::array::from_fn(|lane| accumulator.add(old[lane], sums[lane], saturate))
        }
    }
}

/// [`Accumulator::add`] for 32 lanes of f32.
#[multiversion::multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
fn add_f32(old: &[u32; LANES], sums: &[f64]) -> [u32; LANES] {
    let mut out = [0; LANES];
    for ((out, &old), &sum) in out.iter_mut().zip(old).zip(sums) {
        *out = Accumulator::F32.add(old, sum, false);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(leading: u32, stride: u32, swizzle: u64) -> Descriptor {
        let field = |bytes: u32, shift: u32| u64::from(bytes >> 4) << shift;
        let bits = field(1024, 0) | field(leading, 16) | field(stride, 32) | swizzle << 62;
        Descriptor::decode(bits).unwrap()
    }

    /// The address of an element of `size` bytes by the canonical layouts of the ISA.
    /// `major` is the index along the dimension that is contiguous in memory for transposed
    /// operands (rows of A, columns of B), `k` the index along the sum.
    fn place(d: Descriptor, major: u32, k: u32, size: u32, transposed: bool) -> u32 {
        let (row, per) = (d.row(), 16 / size);
        let offset = if !transposed {
            let chunk = match d.swizzle {
                Swizzle::None => k / per * d.leading,
                _ => k / per * 16,
            };
            major % 8 * row + major / 8 * d.stride + chunk + k % per * size
        } else {
            let span = row / size;
            let (inner, outer) = (major % span * size, major / span);
            match d.swizzle {
                Swizzle::None => inner + outer * d.stride + k % 8 * row + k / 8 * d.leading,
                _ => inner + outer * d.leading + k % 8 * row + k / 8 * d.stride,
            }
        };
        d.swizzle.apply(d.start + offset)
    }

    #[test]
    fn a_panel_of_128_byte_rows() {
        // K-major, 128-byte swizzle, 16-bit elements: rows of 64, atoms of 8 rows.
        let d = descriptor(16, 1024, 1);
        assert_eq!(place(d, 0, 0, 2, false), 1024);
        assert_eq!(place(d, 0, 8, 2, false), 1024 + 16);
        assert_eq!(place(d, 1, 0, 2, false), 1024 + 128 + 16);
        assert_eq!(place(d, 3, 9, 2, false), 1024 + 3 * 128 + ((1 ^ 3) * 16) + 2);
        assert_eq!(place(d, 9, 0, 2, false), 1024 + 1024 + 128 + 16);
    }

    #[test]
    fn rows_without_a_swizzle() {
        // Core matrices of 8 rows of 16 bytes; the leading offset goes along k.
        let d = descriptor(128, 256, 0);
        assert_eq!(place(d, 5, 3, 2, false), 1024 + 5 * 16 + 6);
        assert_eq!(place(d, 5, 11, 2, false), 1024 + 128 + 5 * 16 + 6);
        assert_eq!(place(d, 13, 3, 2, false), 1024 + 256 + 5 * 16 + 6);
    }

    #[test]
    fn a_transposed_panel() {
        // Rows of 128 bytes with 64 columns of 16 bits, 8 rows in an atom.
        let d = descriptor(8192, 1024, 1);
        assert_eq!(place(d, 8, 0, 2, true), 1024 + 16);
        assert_eq!(place(d, 0, 1, 2, true), 1024 + 128 + 16);
        assert_eq!(place(d, 0, 8, 2, true), 1024 + 1024);
        assert_eq!(place(d, 64, 0, 2, true), 1024 + 8192);
    }

    #[test]
    fn bits_that_must_be_zero() {
        let good = 0x4000_0040_0001_0040u64;
        assert!(Descriptor::decode(good).is_ok());
        for bit in (14..16).chain(30..32).chain(46..52).chain(52..62) {
            assert!(Descriptor::decode(good | 1 << bit).is_err(), "bit {bit}");
        }
    }

    /// The vector code gives the bits of products and sums one after the other.
    #[test]
    fn sums_have_their_order() {
        let (k, n) = (16, 24);
        let mut random = crate::random::Random::new(5, 0);
        // bf16 of all sizes, so that sums round in f64 as well, and of both signs.
        let mut value = || {
            let bits = random.below(1 << 16) as u32;
            let finite = if bits & 0x7f80 == 0x7f80 { bits & 0x807f } else { bits };
            f64::from(f32::from_bits(finite << 16))
        };
        let a: Vec<f64> = (0..64 * k).map(|_| value()).collect();
        let columns: Vec<f64> = (0..n * k).map(|_| value()).collect();
        let mut b = vec![0.0; n * k];
        for (at, &value) in columns.iter().enumerate() {
            b[place_b(at / k, at % k, k)] = value;
        }
        let mut sums = vec![0.0; 64 * n];
        products(&a, &b, (k, n), &mut sums);
        for (row, column) in (0..64).flat_map(|row| (0..n).map(move |n| (row, n))) {
            let terms = (0..k).map(|i| a[row * k + i] * columns[column * k + i]);
            let wanted = terms.fold(0.0, |sum, term| sum + term);
            let register = column / 8 * 4 + row % 16 / 8 * 2 + column % 2;
            let lane = row % 8 * 4 + column % 8 / 2;
            let got = sums[row / 16 * 16 * n + register * 32 + lane];
            assert_eq!(got.to_bits(), f64::to_bits(wanted), "{row} {column}");
        }
    }

    /// Every chunk of an operand holds the elements that lie there by the layout's formula.
    #[test]
    fn chunks_cover_an_operand() {
        let layouts = [0, 1, 2, 3].into_iter().flat_map(|n| [(n, false), (n, true)]);
        let types = [Element::BF16, Element::E4M3, Element::TF32];
        for ((swizzle, transposed), element) in
            layouts.flat_map(|layout| types.map(|element| (layout, element)))
        {
            let descriptor = descriptor(4096, 512, swizzle);
            let operand = Operand { descriptor, element, transposed, negative: false };
            let (size, mut chunks) = (operand.size(), Vec::new());
            if transposed && size != 2 {
                continue;
            }
            operand.chunks((16, 48), &mut chunks);
            let mut seen = vec![false; 32 * (32 / size as usize)];
            for Chunk { address, major, k } in chunks {
                for n in 0..16 / size {
                    let (row, k) = if transposed { (major + n, k) } else { (major, k + n) };
                    let place = place(descriptor, row, k, size, transposed);
                    assert_eq!(
                        place,
                        address + size * n,
                        "{swizzle} {transposed} {row} {k}"
                    );
                    seen[((row - 16) * 32 / size + k) as usize] = true;
                }
            }
            assert!(seen.iter().all(|&seen| seen));
        }
    }

    /// The element of row 0 and column 0 of fixed-point products of A's row and B's column
    /// with an accumulator, where all others are zero.
    fn fixed_point(row: &[f64], column: &[f64], c: f64) -> f64 {
        let k = 32;
        let (mut a, mut b, mut old) = (vec![0.0; 16 * k], vec![0.0; 8 * k], vec![0.0; 128]);
        for (n, (&x, &y)) in row.iter().zip(column).enumerate() {
            a[n] = x;
            b[place_b(0, n, k)] = y;
        }
        old[0] = c;
        let mut sums = vec![0.0; 128];
        fixed_point_products(&a, &b, &old, (k, 8), &mut sums);
        sums[0]
    }

    #[test]
    fn products_of_8_bit_floats_are_cut_off_below_the_largest() {
        // The unit is 2^16 / 2^13 = 8; either sign is cut towards zero, and each by itself.
        assert_eq!(fixed_point(&[256.0, 7.5], &[256.0, 1.0], 0.0), 65536.0);
        assert_eq!(fixed_point(&[256.0, -7.5], &[256.0, 1.0], 0.0), 65536.0);
        assert_eq!(fixed_point(&[256.0, 7.5, 7.5], &[256.0, 2.0, 1.0], 0.0), 65544.0);
        assert_eq!(fixed_point(&[256.0, 1.0], &[256.0, 1.0], -15.0), 65528.0);
        // The factors' powers count, not the product's: 1.75 x 1.75 = 3.06 has the unit of 1.
        let small = 1.0 / 8192.0;
        assert_eq!(fixed_point(&[1.75, small], &[1.75, 1.0], 0.0), 3.0625 + small);
        // Accumulators are cut and cut others.
        assert_eq!(fixed_point(&[1.5], &[1.0], 16384.0), 16384.0);
        assert_eq!(fixed_point(&[1.0], &[1.0], 1.0 + small / 2.0), 2.0);
        assert_eq!(fixed_point(&[], &[], 0.0), 0.0);
    }

    #[test]
    fn products_of_8_bit_floats_that_are_not_finite_stay_so() {
        let (infinite, nan) = (f64::INFINITY, f64::NAN);
        assert_eq!(fixed_point(&[infinite, 1.0], &[-2.0, 1.0], 1.0), -infinite);
        assert!(fixed_point(&[infinite], &[0.0], 1.0).is_nan());
        assert!(fixed_point(&[nan, 256.0], &[1.0, 256.0], 1.0).is_nan());
        assert!(fixed_point(&[1.0], &[1.0], nan).is_nan());
    }
}
