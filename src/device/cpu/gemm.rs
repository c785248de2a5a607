//! `C = A * B^T`. A few rows of A are bound by the bytes of B: every row of B
//! is read once and multiplied with all rows of A. More rows are bound by
//! arithmetic: tiles are widened to f32 and multiplied out of registers.

use half::{bf16, f16};
use ndarray::{ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::product::{DEPTH, Product};
use super::simd::{Element, Lanes, arrange, chunks, dots, multiversioned, padded_rows};
use super::{Kernel, PerThread, no_kernel};
use crate::device::Refusal;
use crate::problem::{DType, Gemm};

/// Most rows of A for which B is streamed; above, packing B pays.
const FEW_ROWS: u64 = 32;

/// Rows of B that one piece of work of the streaming kernel takes.
const BLOCK: usize = 64;

/// Rows of B that stay in the second cache while all rows of A meet them.
const STRIPE: usize = 16;

/// Largest extent of a tile: panels of two operands and the result, in f32,
/// fit the second cache with it.
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
    /// Rows of A that the inner loop takes at once.
    rows: usize,
    dots: Dots<T>,
    /// A, laid out for the inner loop, for each run of `rows` rows.
    a: Vec<Vec<Lanes>>,
    row: Vec<f32>,
    /// C as the inner loop leaves it, `[block][run][row of B][row of A]`.
    c: Vec<Lanes>,
}

impl<T: Element> StreamB<T> {
    fn new(p: Gemm) -> Self {
        let (m, n, k) = (p.m as usize, p.n as usize, p.k as usize);
        let rows = padded_rows(m);
        let runs = m.div_ceil(rows);
        StreamB {
            p,
            rows,
            dots: match rows {
                1 => dots_of::<T, 1, 16>,
                2 => dots_of::<T, 2, 8>,
                4 => dots_of::<T, 4, 4>,
                _ => dots_of::<T, 8, 2>,
            },
            a: vec![vec![Lanes::ZERO; chunks(k) * rows * 2]; runs],
            row: vec![0.0; n.max(k)],
            c: vec![Lanes::ZERO; n.div_ceil(BLOCK) * runs * BLOCK * rows / 16],
        }
    }

    /// Lays out A.
    fn load(&mut self, a: &[T]) {
        let k = self.p.k as usize;
        for (index, from) in a.chunks_exact(k).enumerate() {
            T::widen(from, &mut self.row[..k]);
            let run = &mut self.a[index / self.rows];
            arrange::<T>(&self.row[..k], index % self.rows, self.rows, run);
        }
    }

    /// Multiplies with all of B.
    fn multiply(&mut self, b: &[T]) {
        let (n, k) = (self.p.n as usize, self.p.k as usize);
        let (a, dots) = (&self.a, self.dots);
        let run_lanes = BLOCK * self.rows / 16;
        let stripe_lanes = STRIPE * self.rows / 16;
        self.c.par_chunks_mut(a.len() * run_lanes).enumerate().for_each(|(block, c)| {
            let end = n.min((block + 1) * BLOCK);
            for (stripe, first) in (block * BLOCK..end).step_by(STRIPE).enumerate() {
                let mut offsets = [0; STRIPE];
                let count = STRIPE.min(end - first);
                for (i, offset) in offsets[..count].iter_mut().enumerate() {
                    *offset = (first + i) * k;
                }
                for (a, c) in a.iter().zip(c.chunks_exact_mut(run_lanes)) {
                    let c = &mut c[stripe * stripe_lanes..];
                    dots(a, b, &offsets[..count], k, c);
                }
            }
        });
    }

    /// Puts C in order.
    fn store(&mut self, output: &mut [T]) {
        let n = self.p.n as usize;
        let c: &[f32] = bytemuck::cast_slice(&self.c);
        let run_len = BLOCK * self.rows;
        for (index, out) in output.chunks_exact_mut(n).enumerate() {
            let (run, row) = (index / self.rows, index % self.rows);
            let blocks = c.chunks_exact(self.a.len() * run_len);
            for (block, to) in blocks.zip(self.row[..n].chunks_mut(BLOCK)) {
                let columns = block[run * run_len..].chunks_exact(self.rows);
                for (x, column) in to.iter_mut().zip(columns) {
                    *x = column[row];
                }
            }
            T::narrow(&self.row[..n], out);
        }
    }
}

impl<T: Element> Kernel for StreamB<T> {
    fn run(&mut self, _slot: usize, inputs: &[&[u8]], output: &mut [u8]) {
        self.load(bytemuck::cast_slice(inputs[0]));
        self.multiply(bytemuck::cast_slice(inputs[1]));
        self.store(bytemuck::cast_slice_mut(output));
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
    b: Vec<Lanes>,
    c: Vec<f32>,
}

/// The kernel for many rows.
struct Tiled<T> {
    p: Gemm,
    product: Product,
    tile: (usize, usize),
    scratch: PerThread<Scratch>,
    format: std::marker::PhantomData<T>,
}

impl<T: Element> Tiled<T> {
    fn new(p: Gemm, threads: usize) -> Self {
        let tile = tile_extents(p.m as usize, p.n as usize, threads);
        let depth = DEPTH.min(p.k as usize);
        let product = Product::new();
        let scratch = || Scratch {
            a: vec![0.0; tile.0 * depth],
            b: vec![Lanes::ZERO; product.packed_len(tile.1, depth)],
            c: vec![0.0; tile.0 * tile.1],
        };
        let scratch = PerThread::new(threads, scratch);
        Tiled { p, product, tile, scratch, format: std::marker::PhantomData }
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
        c.fill(0.0);
        for start in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - start);
            let packed = &mut scratch.b[..self.product.packed_len(columns, depth)];
            let b = &b[column * k + start..];
            self.product.pack_rows(b, k, (columns, depth), packed);
            // Copied in f32 too: rows a power of two apart would share a few
            // sets of the first cache.
            let widened = &mut scratch.a[..rows * depth];
            for (i, to) in widened.chunks_exact_mut(depth).enumerate() {
                T::widen(&a[(row + i) * k + start..][..depth], to);
            }
            let extents = (rows, columns, depth);
            self.product.multiply_add((widened, depth), packed, extents, c);
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

/// `values` as a matrix to write to, row by row.
///
/// # Panics
/// When there are fewer values than elements.
fn view_mut<T>(values: &mut [T], rows: usize, columns: usize) -> ArrayViewMut2<'_, T> {
    ArrayViewMut2::from_shape((rows, columns), values).expect("a matrix of its own size")
}
