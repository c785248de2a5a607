//! Matrix products in f32, the arithmetic of gemm and prefill attention.
//!
//! The right operand is packed into panels a few vectors wide, so that the
//! inner loop reads it in order; a block of rows of the left one meets a panel
//! in registers. Panels are a third of the first cache deep.

use super::simd::{CHUNK, Element, Lanes, level, multiversioned, unrolled};

/// Deepest panel.
pub const DEPTH: usize = 256;

/// The shape of the block that is summed in registers.
#[derive(Clone, Copy)]
pub struct Product {
    wide: bool,
}

impl Product {
    /// The shape that fits the registers of this CPU: 8 rows by 2 vectors
    /// with the 32 registers of AVX-512, 6 rows by one vector of two halves
    /// with the 16 of AVX2.
    pub fn new() -> Self {
        Product { wide: level() == "avx512" }
    }

    /// Vectors in a row of a panel.
    fn vectors(self) -> usize {
        if self.wide { 2 } else { 1 }
    }

    /// Vectors that `columns` packed columns of `depth` take.
    pub fn packed_len(self, columns: usize, depth: usize) -> usize {
        columns.div_ceil(16 * self.vectors()) * self.vectors() * depth
    }

    /// Packs `columns` columns of `depth` that lie as rows, `stride` apart:
    /// the right operand of `A * B^T`.
    pub fn pack_rows<T: Element>(
        self,
        from: &[T],
        stride: usize,
        (columns, depth): (usize, usize),
        to: &mut [Lanes],
    ) {
        let width = 16 * self.vectors();
        let mut buffer = [0.0; CHUNK];
        for (panel, to) in to.chunks_exact_mut(self.vectors() * depth).enumerate() {
            let to: &mut [f32] = bytemuck::cast_slice_mut(to);
            for lane in 0..width.min(columns.saturating_sub(panel * width)) {
                let row = &from[(panel * width + lane) * stride..][..depth];
                for (from, to) in row.chunks(CHUNK).zip(to.chunks_mut(CHUNK * width)) {
                    let buffer = &mut buffer[..from.len()];
                    T::widen(from, buffer);
                    for (x, to) in buffer.iter().zip(to.chunks_exact_mut(width)) {
                        to[lane] = *x;
                    }
                }
            }
        }
    }

    /// Packs a matrix of `depth` rows and `columns` columns: the right operand
    /// of `A * B`.
    pub fn pack_columns(
        self,
        from: &[f32],
        (columns, depth): (usize, usize),
        to: &mut [Lanes],
    ) {
        let width = 16 * self.vectors();
        for (panel, to) in to.chunks_exact_mut(self.vectors() * depth).enumerate() {
            let to: &mut [f32] = bytemuck::cast_slice_mut(to);
            let first = panel * width;
            let count = width.min(columns.saturating_sub(first));
            for (from, to) in from.chunks_exact(columns).zip(to.chunks_exact_mut(width)) {
                to[..count].copy_from_slice(&from[first..first + count]);
            }
        }
    }

    /// Adds to `c`, of `rows` by `columns`, the product of `rows` rows of `a`,
    /// `stride` apart and `depth` long, and a packed right operand.
    pub fn multiply_add(
        self,
        a: (&[f32], usize),
        packed: &[Lanes],
        (rows, columns, depth): (usize, usize, usize),
        c: &mut [f32],
    ) {
        let packed = &packed[..self.packed_len(columns, depth)];
        debug_assert_eq!(c.len(), rows * columns);
        if self.wide {
            multiply_panels::<8, 2>(a, packed, columns, depth, c);
        } else {
            multiply_panels::<6, 1>(a, packed, columns, depth, c);
        }
    }
}

multiversioned! {
/// Every panel with every block of `R` rows. Columns past the last are of
/// padding, whose sums are left out.
fn multiply_panels<const R: usize, const V: usize>(
    (a, stride): (&[f32], usize),
    packed: &[Lanes],
    columns: usize,
    depth: usize,
    c: &mut [f32],
) {
    for (panel, b) in packed.chunks_exact(V * depth).enumerate() {
        let first = panel * V * 16;
        let count = (V * 16).min(columns - first);
        for (block, c) in c.chunks_mut(R * columns).enumerate() {
            let rows = c.len() / columns;
            let sums = multiply_block::<R, V>(&a[block * R * stride..], stride, rows, b, depth);
            let sums: &[f32] = bytemuck::cast_slice(&sums);
            for (row, c) in c.chunks_exact_mut(columns).enumerate() {
                let sums = &sums[row * V * 16..][..count];
                for (c, sum) in c[first..first + count].iter_mut().zip(sums) {
                    *c += sum;
                }
            }
        }
    }
}
}

/// `R` rows times a panel of `V` vectors. Rows past the last repeat it.
#[inline(always)]
fn multiply_block<const R: usize, const V: usize>(
    a: &[f32],
    stride: usize,
    rows: usize,
    panel: &[Lanes],
    depth: usize,
) -> [Lanes; 16] {
    let mut lines = [&a[..0]; R];
    for (row, line) in lines.iter_mut().enumerate() {
        *line = &a[row.min(rows - 1) * stride..][..depth];
    }
    let panel = &panel.as_chunks::<V>().0[..depth];
    let mut sums = [Lanes::ZERO; 16];
    for k in 0..depth {
        unrolled!(I, {
            if I < R * V {
                sums[I] = Lanes::splat(lines[I / V][k]).mul_add(panel[k][I % V], sums[I]);
            }
        });
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_multiply_any_extents() {
        for wide in [true, false] {
            let product = Product { wide };
            for (m, n, k) in [(1, 1, 1), (6, 16, 3), (9, 33, 40), (17, 70, 256)] {
                let a: Vec<f32> = (0..m * k).map(|i| (i % 7) as f32 - 3.0).collect();
                let b: Vec<f32> = (0..n * k).map(|i| (i % 5) as f32 - 2.0).collect();
                let transposed: Vec<f32> =
                    (0..n * k).map(|i| b[i % n * k + i / n]).collect();
                let mut packed = vec![Lanes::ZERO; product.packed_len(n, k)];
                product.pack_rows(&b, k, (n, k), &mut packed);
                let mut c = vec![1.0; m * n];
                product.multiply_add((&a, k), &packed, (m, n, k), &mut c);
                for (i, &got) in c.iter().enumerate() {
                    let (row, column) = (i / n, i % n);
                    let dot: f32 = (0..k).map(|x| a[row * k + x] * b[column * k + x]).sum();
                    assert_eq!(got, 1.0 + dot);
                }
                let mut again = vec![Lanes::ZERO; packed.len()];
                product.pack_columns(&transposed, (n, k), &mut again);
                assert_eq!(packed, again);
            }
        }
    }
}
