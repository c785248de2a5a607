//! Products of matrices in `f32`, for kernels that arithmetic binds. The inner
//! loop keeps a small block of the result in registers; each step adds the
//! product of a scalar of every row of A and of vectors of B. So B is packed
//! first, in panels: sixteen rows, one vector for each element along the depth.

use super::simd::{Lanes, unrolled};
use crate::multiversion::multiversioned;

/// Rows of B in a panel, the lanes of a vector.
pub const PANEL: usize = 16;

/// Vectors that `rows` rows of `depth` elements take when they are packed.
pub const fn packed_len(rows: usize, depth: usize) -> usize {
    rows.div_ceil(PANEL) * depth
}

multiversioned! {
/// Packs the first `depth` elements of rows that start every `stride` elements.
/// Rows that the last panel lacks become zeros. `to` has [`packed_len`] vectors.
pub fn pack(rows: &[f32], stride: usize, depth: usize, to: &mut [Lanes]) {
    for (rows, to) in rows.chunks(PANEL * stride).zip(to.chunks_exact_mut(depth)) {
        let full_rows = rows.len() >= (PANEL - 1) * stride + depth;
        for (index, to) in to.chunks_mut(16).enumerate() {
            let rows = &rows[index * 16..];
            let mut square = [Lanes::ZERO; 16];
            match <&mut [Lanes; 16]>::try_from(&mut *to) {
                Ok(to) if full_rows => {
                    unrolled!(I, {
                        square[I].0.copy_from_slice(&rows[I * stride..][..16]);
                    });
                    *to = transpose(square);
                }
                _ => {
                    let width = to.len();
                    for (lanes, row) in square.iter_mut().zip(rows.chunks(stride)) {
                        lanes.0[..width].copy_from_slice(&row[..width]);
                    }
                    to.copy_from_slice(&transpose(square)[..width]);
                }
            }
        }
    }
}
}

multiversioned! {
/// Packs the columns of a matrix of rows of `width` elements: the depth runs
/// over its rows. `to` has [`packed_len`] vectors for `width` rows.
pub fn pack_columns(rows: &[f32], width: usize, to: &mut [Lanes]) {
    let depth = rows.len() / width;
    for (index, to) in to.chunks_exact_mut(depth).enumerate() {
        for (row, to) in rows.chunks_exact(width).zip(to) {
            let row = &row[index * PANEL..];
            match row.first_chunk::<PANEL>() {
                Some(row) => to.0 = *row,
                None => {
                    *to = Lanes::ZERO;
                    to.0[..row.len()].copy_from_slice(row);
                }
            }
        }
    }
}
}

/// The left operand of a product: rows that start every `stride` elements, of
/// which a product takes as many as its result has.
#[derive(Clone, Copy, Debug)]
pub struct Left<'a> {
    /// Elements.
    pub rows: &'a [f32],
    /// From one row to the next.
    pub stride: usize,
}

multiversioned! {
/// `C = A * B^T`, or `C += A * B^T` with `add`, of a packed B of `depth`. A row
/// of C has one vector for each panel of B.
pub fn multiply(a: Left<'_>, b: &[Lanes], depth: usize, c: &mut [Lanes], add: bool) {
    // As much of C as the registers hold with an operand beside it.
    multiversion::target::match_target! {
        "x86_64+avx512f" => blocks::<8, 2>(a, b, depth, c, add),
        _ => blocks::<6, 1>(a, b, depth, c, add),
    }
}
}

/// [`multiply`], by blocks of `R` rows of A and `N` panels of B.
#[inline(always)]
fn blocks<const R: usize, const N: usize>(
    a: Left<'_>,
    b: &[Lanes],
    depth: usize,
    c: &mut [Lanes],
    add: bool,
) {
    let panels = b.len() / depth;
    for (index, b) in b.chunks(N * depth).enumerate() {
        for (block_index, c) in c.chunks_mut(R * panels).enumerate() {
            let rows = &a.rows[block_index * R * a.stride..];
            let a = Left { rows, ..a };
            let first = index * N;
            if b.len() == N * depth {
                block::<R, N>(a, b, depth, (c, panels, first), add);
            } else {
                block::<R, 1>(a, b, depth, (c, panels, first), add);
            }
        }
    }
}

/// Up to `R` rows of C, from the panel `first` on.
#[inline(always)]
fn block<const R: usize, const N: usize>(
    a: Left<'_>,
    b: &[Lanes],
    depth: usize,
    (c, panels, first): (&mut [Lanes], usize, usize),
    add: bool,
) {
    // Rows that the last block lacks are computed once more and not written.
    let last = c.len() / panels - 1;
    let a: [&[f32]; R] =
        std::array::from_fn(|i| &a.rows[i.min(last) * a.stride..][..depth]);
    let b: [&[Lanes]; N] = std::array::from_fn(|j| &b[j * depth..][..depth]);
    let mut sums = [[Lanes::ZERO; N]; R];
    for d in 0..depth {
        unrolled!(I, {
            if I < R {
                let x = Lanes::splat(a[I][d]);
                for j in 0..N {
                    sums[I][j] = x.mul_add(b[j][d], sums[I][j]);
                }
            }
        });
    }
    for (row, sums) in c.chunks_exact_mut(panels).zip(&sums) {
        for (to, sum) in row[first..].iter_mut().zip(sums) {
            *to = if add { to.plus(*sum) } else { *sum };
        }
    }
}

/// Rows become columns: four times, the two halves are interleaved.
#[inline(always)]
fn transpose(rows: [Lanes; 16]) -> [Lanes; 16] {
    interleave(interleave(interleave(interleave(rows))))
}

/// The lanes of the first eight vectors, each beside that of the vector eight
/// places on.
#[inline(always)]
fn interleave(v: [Lanes; 16]) -> [Lanes; 16] {
    let mut to = [Lanes::ZERO; 16];
    unrolled!(I, {
        to[I] = interleave_half::<I>(v[I / 2], v[I / 2 + 8]);
    });
    to
}

/// The low halves of both vectors interleaved, or the high ones where `I` is odd.
#[inline(always)]
fn interleave_half<const I: usize>(a: Lanes, b: Lanes) -> Lanes {
    let mut to = Lanes::ZERO;
    unrolled!(J, {
        to.0[J] = [a, b][J % 2].0[I % 2 * 8 + J / 2];
    });
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers, whose sums are exact in any order.
    fn matrix(rows: usize, columns: usize, seed: usize) -> Vec<f32> {
        (0..rows * columns).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect()
    }

    fn packed(rows: &[f32], stride: usize, depth: usize) -> Vec<Lanes> {
        let count = rows.len().div_ceil(stride);
        // Nothing may be left of what the buffer held.
        let mut to = vec![Lanes::splat(f32::NAN); packed_len(count, depth)];
        pack(rows, stride, depth, &mut to);
        to
    }

    #[test]
    fn squares_are_transposed() {
        let rows: [Lanes; 16] =
            std::array::from_fn(|i| Lanes(std::array::from_fn(|j| (16 * i + j) as f32)));
        for (i, row) in transpose(rows).iter().enumerate() {
            assert_eq!(row.0, std::array::from_fn(|j| (16 * j + i) as f32));
        }
    }

    #[test]
    fn packing_keeps_every_element_and_pads_with_zeros() {
        for (count, stride, depth) in [(1, 1, 1), (16, 16, 16), (17, 40, 33), (31, 20, 20)]
        {
            let rows = matrix(count, stride, 3);
            for (index, panel) in packed(&rows, stride, depth).chunks(depth).enumerate() {
                for (d, lanes) in panel.iter().enumerate() {
                    for (lane, x) in lanes.0.iter().enumerate() {
                        let row = index * PANEL + lane;
                        let expected =
                            if row < count { rows[row * stride + d] } else { 0.0 };
                        assert_eq!(*x, expected, "{count} x {depth}: row {row}, {d}");
                    }
                }
            }
        }
    }

    #[test]
    fn columns_are_packed_like_the_rows_of_the_transposed_matrix() {
        for (depth, width) in [(1, 1), (5, 16), (7, 37)] {
            let rows = matrix(depth, width, 5);
            let turned: Vec<f32> =
                (0..width * depth).map(|i| rows[i % depth * width + i / depth]).collect();
            let mut to = vec![Lanes::splat(f32::NAN); packed_len(width, depth)];
            pack_columns(&rows, width, &mut to);
            assert_eq!(to, packed(&turned, depth, depth));
        }
    }

    #[test]
    fn products_of_all_shapes_are_exact() {
        let extents = [1, 5, 6, 7, 8, 9, 12, 15, 16, 17, 33, 48];
        for m in extents {
            for n in extents {
                for depth in [1, 16, 19] {
                    let (a, b) = (matrix(m, depth, 1), matrix(n, depth, 2));
                    let panels = n.div_ceil(PANEL);
                    let mut c = vec![Lanes::splat(f32::NAN); m * panels];
                    let (left, right) =
                        (Left { rows: &a, stride: depth }, packed(&b, depth, depth));
                    multiply(left, &right, depth, &mut c, false);
                    multiply(left, &right, depth, &mut c, true);
                    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                        let terms = (0..depth).map(|d| a[i * depth + d] * b[j * depth + d]);
                        let expected = 2.0 * terms.sum::<f32>();
                        let found = c[i * panels + j / PANEL].0[j % PANEL];
                        assert_eq!(found, expected, "{m} x {n} x {depth}: {i}, {j}");
                    }
                }
            }
        }
    }
}
