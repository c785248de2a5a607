//! `C = A * B^T`. A few rows of A are bound by the bytes of B: every row of B
//! is read once and multiplied with all rows of A. More rows are bound by
//! arithmetic: tiles go through a library's f32 product, 16-bit operands
//! widened tile by tile.

use half::{bf16, f16};
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::simd::{Element, Lanes, arrange, chunks, dots, multiversioned, padded_rows};
use super::{Kernel, PerThread, no_kernel};
use crate::device::Refusal;
use crate::problem::{DType, Gemm};

/// Most rows of A for which B is streamed.
const FEW_ROWS: u64 = 8;

/// Rows of B that one piece of work of the streaming kernel takes.
const BLOCK: usize = 64;

/// Largest extent of a tile: two operands and the result, in f32, fit the
/// second cache with it.
const TILE: usize = 512;

/// A kernel for `p` by its format and number of rows.
///
/// # Errors
/// A refusal of a format without a kernel.
pub fn kernel(p: Gemm, threads: usize) -> Result<Box<dyn Kernel>, Refusal> {
    match p.dtype {
        DType::F32 => Ok(typed_kernel::<f32>(p, threads)),
        DType::Bf16 => Ok(typed_kernel::<bf16>(p, threads)),
        DType::F16 => Ok(typed_kernel::<f16>(p, threads)),
        dtype => Err(no_kernel(dtype)),
    }
}

fn typed_kernel<T: Element>(p: Gemm, threads: usize) -> Box<dyn Kernel> {
    if p.m <= FEW_ROWS {
        Box::new(StreamB::<T>::new(p))
    } else {
        Box::new(Tiled::<T>::new(p, threads))
    }
}

/// Dot products of a block of rows of B, which start at the offsets, with all
/// rows of A.
type Dots<T> = fn(&[Lanes], &[T], &[usize], usize, &mut [Lanes]);

/// The kernel for few rows.
struct StreamB<T> {
    p: Gemm,
    rows: usize,
    dots: Dots<T>,
    a: Vec<Lanes>,
    row: Vec<f32>,
    /// C transposed, `[n][rows]`, each block of rows of B padded to whole
    /// vectors.
    c: Vec<Lanes>,
}

impl<T: Element> StreamB<T> {
    fn new(p: Gemm) -> Self {
        let (n, k) = (p.n as usize, p.k as usize);
        let rows = padded_rows(p.m as usize);
        StreamB {
            p,
            rows,
            dots: match rows {
                1 => dots_of::<T, 1, 16>,
                2 => dots_of::<T, 2, 8>,
                4 => dots_of::<T, 4, 4>,
                _ => dots_of::<T, 8, 2>,
            },
            a: vec![Lanes::ZERO; chunks(k) * rows * 2],
            row: vec![0.0; n.max(k)],
            c: vec![Lanes::ZERO; n.div_ceil(BLOCK) * BLOCK * rows / 16],
        }
    }
}

impl<T: Element> Kernel for StreamB<T> {
    fn run(&mut self, _slot: usize, inputs: &[&[u8]], output: &mut [u8]) {
        let (n, k) = (self.p.n as usize, self.p.k as usize);
        let (rows, dots) = (self.rows, self.dots);
        let a_rows: &[T] = bytemuck::cast_slice(inputs[0]);
        let b: &[T] = bytemuck::cast_slice(inputs[1]);
        let mut a = std::mem::take(&mut self.a);
        for (index, from) in a_rows.chunks_exact(k).enumerate() {
            T::widen(from, &mut self.row[..k]);
            arrange::<T>(&self.row[..k], index, rows, &mut a);
        }
        self.c.par_chunks_mut(BLOCK * rows / 16).enumerate().for_each(|(block, c)| {
            let mut offsets = [0; BLOCK];
            let first = block * BLOCK;
            let count = BLOCK.min(n - first);
            for (i, offset) in offsets[..count].iter_mut().enumerate() {
                *offset = (first + i) * k;
            }
            dots(&a, b, &offsets[..count], k, c);
        });
        self.a = a;
        let transposed: &[f32] = bytemuck::cast_slice(&self.c);
        let output: &mut [T] = bytemuck::cast_slice_mut(output);
        for (index, out) in output.chunks_exact_mut(n).enumerate() {
            let column = transposed.chunks_exact(rows);
            for (x, from) in self.row[..n].iter_mut().zip(column) {
                *x = from[index];
            }
            T::narrow(&self.row[..n], out);
        }
    }
}

multiversioned! {
fn dots_of<T: Element, const G: usize, const N: usize>(
    a: &[Lanes],
    b: &[T],
    offsets: &[usize],
    width: usize,
    to: &mut [Lanes],
) {
    dots::<T, G, N>(a, b, offsets, &[], width, to);
}
}

/// Tiles of one thread, in f32.
struct Scratch {
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
}

/// The kernel for many rows.
struct Tiled<T> {
    p: Gemm,
    tile: (usize, usize),
    scratch: PerThread<Scratch>,
    format: std::marker::PhantomData<T>,
}

impl<T: Element> Tiled<T> {
    fn new(p: Gemm, threads: usize) -> Self {
        let tile = tile_extents(p.m as usize, p.n as usize, threads);
        let depth = TILE.min(p.k as usize);
        let scratch = || Scratch {
            a: vec![0.0; tile.0 * depth],
            b: vec![0.0; tile.1 * depth],
            c: vec![0.0; tile.0 * tile.1],
        };
        let scratch = PerThread::new(threads, scratch);
        Tiled { p, tile, scratch, format: std::marker::PhantomData }
    }

    /// One tile of C, summed over tiles of the operands' depth.
    fn run_tile(
        &self,
        (row, column): (usize, usize),
        (a, b): (&[T], &[T]),
        out: &mut ArrayViewMut2<T>,
        scratch: &mut Scratch,
    ) {
        let (rows, columns) = out.dim();
        let k = self.p.k as usize;
        let c = &mut scratch.c[..rows * columns];
        for start in (0..k).step_by(TILE) {
            let depth = TILE.min(k - start);
            let a = operand(&a[row * k..], (rows, k), start, depth, &mut scratch.a);
            let b = operand(&b[column * k..], (columns, k), start, depth, &mut scratch.b);
            let beta = if start == 0 { 0.0 } else { 1.0 };
            let mut c = view_mut(c, rows, columns);
            general_mat_mul(1.0, &a, &b.t(), beta, &mut c);
        }
        for (from, mut to) in c.chunks_exact(columns).zip(out.rows_mut()) {
            if let Some(to) = to.as_slice_mut() {
                T::narrow(from, to);
            }
        }
    }
}

impl<T: Element> Kernel for Tiled<T> {
    fn run(&mut self, _slot: usize, inputs: &[&[u8]], output: &mut [u8]) {
        let operands = (bytemuck::cast_slice(inputs[0]), bytemuck::cast_slice(inputs[1]));
        let (rows, columns) = self.tile;
        let c = view_mut(
            bytemuck::cast_slice_mut(output),
            self.p.m as usize,
            self.p.n as usize,
        );
        let mut tiles = Vec::new();
        for (i, stripe) in tiles_of(c, Axis(0), rows).into_iter().enumerate() {
            for (j, tile) in tiles_of(stripe, Axis(1), columns).into_iter().enumerate() {
                tiles.push(((i * rows, j * columns), tile));
            }
        }
        tiles.into_par_iter().with_max_len(1).for_each(|(at, mut tile)| {
            self.scratch.with(|scratch| self.run_tile(at, operands, &mut tile, scratch));
        });
    }
}

/// Cuts a matrix into stripes of `extent` along `axis`.
fn tiles_of<T>(
    matrix: ArrayViewMut2<'_, T>,
    axis: Axis,
    extent: usize,
) -> Vec<ArrayViewMut2<'_, T>> {
    let mut stripes = Vec::new();
    let mut rest = matrix;
    while rest.len_of(axis) > extent {
        let (stripe, after) = rest.split_at(axis, extent);
        stripes.push(stripe);
        rest = after;
    }
    stripes.push(rest);
    stripes
}

/// Tile extents that give every thread the same number of tiles where the
/// shape allows it: the larger one is halved until there are enough.
fn tile_extents(m: usize, n: usize, threads: usize) -> (usize, usize) {
    let (mut rows, mut columns) = (m.min(TILE), n.min(TILE));
    while m.div_ceil(rows) * n.div_ceil(columns) < 2 * threads && rows.max(columns) > 64 {
        if columns >= rows {
            columns = columns.div_ceil(2);
        } else {
            rows = rows.div_ceil(2);
        }
    }
    (rows, columns)
}

/// `depth` columns from `start` on of a matrix of the given rows and columns,
/// as f32: the matrix itself, or a widened copy in `scratch`.
fn operand<'a, T: Element>(
    matrix: &'a [T],
    (rows, columns): (usize, usize),
    start: usize,
    depth: usize,
    scratch: &'a mut [f32],
) -> ArrayView2<'a, f32> {
    let matrix = &matrix[..rows * columns];
    if let Some(values) = T::as_f32(matrix) {
        return view(values, rows, columns)
            .slice_move(ndarray::s![.., start..start + depth]);
    }
    let scratch = &mut scratch[..rows * depth];
    for (from, to) in matrix.chunks_exact(columns).zip(scratch.chunks_exact_mut(depth)) {
        T::widen(&from[start..start + depth], to);
    }
    view(scratch, rows, depth)
}

/// `values` as a matrix, row by row.
///
/// # Panics
/// When there are fewer values than elements.
pub fn view(values: &[f32], rows: usize, columns: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, columns), values).expect("a matrix of its own size")
}

/// `values` as a matrix to write to, row by row.
///
/// # Panics
/// When there are fewer values than elements.
pub fn view_mut<T>(values: &mut [T], rows: usize, columns: usize) -> ArrayViewMut2<'_, T> {
    ArrayViewMut2::from_shape((rows, columns), values).expect("a matrix of its own size")
}
