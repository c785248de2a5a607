//! `C = A * B^T`. A few rows of A are bound by the bytes of B: every row of B
//! is read once and multiplied with all rows of A. More rows are bound by
//! arithmetic: tiles are widened to f32, packed and multiplied.

use half::{bf16, f16};
use rayon::prelude::*;

use super::contract::{
    CpuFormat, CpuKernel, HALF_OF_THE_THREADS, InputBytes, Kernel, PerThread, configured,
};
use super::product::{Left, PANEL, multiply, pack, packed_len};
use super::simd::{Ahead, Element, Lanes, Rows, arrange, chunks, dots, padded_rows};
use crate::device::Refusal;
use crate::kernel::Configuration;
use crate::multiversion::multiversioned;
use crate::op::{Gemm, Op};
use crate::quant::Quant;

/// Most rows of A for which B is streamed; above, packing B pays.
const FEW_ROWS: u64 = 32;

/// Rows of B that one piece of work of the streaming kernel takes.
const BLOCK: u32 = 64;

/// Rows of B that stay in the second cache while all rows of A meet them.
const STRIPE: usize = 16;

/// Largest extent of a tile.
const TILE: usize = 512;

/// Depth of a tile of the operands: with the result, in f32, they take 2 MiB,
/// what a core's second cache holds.
const DEPTH: usize = 256;

pub(super) const KERNEL: CpuKernel = CpuKernel {
    name: "cpu_gemm",
    op: Op::Gemm,
    sources: &[include_str!("gemm.rs")],
    configurations: &[
        Configuration::new("rows_of_32", &[("rows", 32)]),
        Configuration::new("rows_of_256", &[("rows", 256)]),
        // The next stripe is fetched into the second cache.
        Configuration::new("fetch", &[("fetch", 1)]),
        HALF_OF_THE_THREADS,
    ],
    configure: |problem, choice| {
        configured(problem, |&p: &Gemm| {
            let format = format(p)?;
            Ok(Box::new(move |run| match format {
                CpuFormat::F32 => typed_kernel::<f32>(p, choice, run.threads),
                CpuFormat::Bf16 => typed_kernel::<bf16>(p, choice, run.threads),
                CpuFormat::F16 => typed_kernel::<f16>(p, choice, run.threads),
            }))
        })
    },
};

/// The one format of both operands.
fn format(p: Gemm) -> Result<CpuFormat, Refusal> {
    let format = CpuFormat::of("dtype", p.dtype)?;
    if p.w_dtype != Quant::weights(p.dtype) {
        return Err(Refusal(format!(
            "the CPU kernel multiplies operands of one format, not dtype = {} with w_dtype = {}; \
             use the same",
            p.dtype, p.w_dtype
        )));
    }
    if !p.has_plain_activations() {
        return Err(Refusal(format!(
            "the CPU kernel multiplies operands of one format, not dtype = {} with a_dtype = {}; \
             leave a_dtype out",
            p.dtype, p.a_dtype
        )));
    }
    Ok(format)
}

fn typed_kernel<T: Element>(
    p: Gemm,
    choice: &Configuration,
    threads: usize,
) -> Box<dyn Kernel> {
    if p.m <= FEW_ROWS {
        Box::new(StreamB::<T>::new(p, choice))
    } else {
        Box::new(Tiled::<T>::new(p, threads))
    }
}

/// Dot products of rows of B with all rows of A.
type Dots<T> = fn(&[Lanes], Rows<'_, T>, usize, &mut [Lanes]);

/// The kernel for few rows.
struct StreamB<T> {
    p: Gemm,
    /// Rows of A that the inner loop takes at once.
    rows: usize,
    /// Rows of B that one piece of work takes.
    block: usize,
    /// Whether the next stripe is fetched. It can be left to the CPU, for which rows are
    /// long enough.
    fetch: bool,
    dots: Dots<T>,
    /// A, laid out for the inner loop, for each run of `rows` rows.
    a: Vec<Vec<Lanes>>,
    row: Vec<f32>,
    /// C as the inner loop leaves it, `[block][run][row of B][row of A]`.
    c: Vec<Lanes>,
}

impl<T: Element> StreamB<T> {
    fn new(p: Gemm, choice: &Configuration) -> Self {
        let block = choice.or("rows", BLOCK) as usize;
        let (m, n, k) = (p.m as usize, p.n as usize, p.k as usize);
        let rows = padded_rows(m);
        let runs = m.div_ceil(rows);
        StreamB {
            p,
            rows,
            block,
            fetch: choice.or("fetch", 0) == 1,
            dots: match rows {
                1 => dots_of::<T, 1, 16, 4>,
                2 => dots_of::<T, 2, 8, 4>,
                4 => dots_of::<T, 4, 4, 4>,
                _ => dots_of::<T, 8, 2, 2>,
            },
            a: vec![vec![Lanes::ZERO; chunks(k) * rows * 2]; runs],
            row: vec![0.0; n.max(k)],
            c: vec![Lanes::ZERO; n.div_ceil(block) * runs * block * rows / 16],
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
        let (a, dots, rows) = (&self.a, self.dots, self.block);
        let fetch = self.fetch;
        let padded = self.rows;
        let run_lanes = rows * padded / 16;
        let stripe_lanes = STRIPE * padded / 16;
        self.c.par_chunks_mut(a.len() * run_lanes).enumerate().for_each(|(block, c)| {
            let end = n.min((block + 1) * rows);
            for (stripe, first) in (block * rows..end).step_by(STRIPE).enumerate() {
                let count = STRIPE.min(end - first);
                // Past the end of the block its last row is asked for again.
                let offsets: [usize; 2 * STRIPE] =
                    std::array::from_fn(|i| (first + i).min(end - 1) * k);
                let (of, next) = (&offsets[..count], &offsets[count..][..count]);
                for (i, (a, c)) in a.iter().zip(c.chunks_exact_mut(run_lanes)).enumerate() {
                    let c =
                        &mut c[stripe * stripe_lanes..][..(count * padded).div_ceil(16)];
                    // Rows of A after the first find those of B in a cache.
                    let ahead = if fetch && i == 0 { next } else { of };
                    let ahead = Ahead { data: b, offsets: ahead };
                    dots(a, Rows { data: b, offsets: of, ahead }, k, c);
                }
            }
        });
    }

    /// Puts C in order.
    fn store(&mut self, output: &mut [T]) {
        let n = self.p.n as usize;
        let c: &[f32] = bytemuck::cast_slice(&self.c);
        let run_len = self.block * self.rows;
        for (index, out) in output.chunks_exact_mut(n).enumerate() {
            let (run, row) = (index / self.rows, index % self.rows);
            let blocks = c.chunks_exact(self.a.len() * run_len);
            for (block, to) in blocks.zip(self.row[..n].chunks_mut(self.block)) {
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
    fn run(&mut self, _slot: usize, inputs: &InputBytes, output: &mut [u8]) {
        self.load(bytemuck::cast_slice(inputs.get("a")));
        self.multiply(bytemuck::cast_slice(inputs.get("b")));
        self.store(bytemuck::cast_slice_mut(output));
    }
}

multiversioned! {
fn dots_of<T: Element, const G: usize, const N: usize, const R: usize>(
    a: &[Lanes],
    b: Rows<'_, T>,
    width: usize,
    to: &mut [Lanes],
) {
    dots::<T, G, N, R>(a, b, width, to);
}
}

/// What one thread works with, in f32.
struct Scratch {
    left: Vec<f32>,
    /// Rows of one panel before they are packed; a row of C in the end.
    rows: Vec<f32>,
    right: Vec<Lanes>,
    /// A tile of C, or of its transpose: `[row of left][panel of right]`.
    c: Vec<Lanes>,
}

impl Scratch {
    fn new((rows, columns): (usize, usize), depth: usize) -> Self {
        let most = rows.max(columns);
        let c = packed_len(columns, rows).max(packed_len(rows, columns));
        Scratch {
            left: vec![0.0; most * depth],
            rows: vec![0.0; (PANEL * depth).max(columns)],
            right: vec![Lanes::ZERO; packed_len(most, depth)],
            c: vec![Lanes::ZERO; c],
        }
    }

    /// Widens a tile's rows of the left operand, from `start` on along the depth.
    fn load_left<T: Element>(
        &mut self,
        from: &TileRows<'_, T>,
        start: usize,
        depth: usize,
    ) {
        let rows = self.left.chunks_exact_mut(depth).take(from.count);
        for (i, row) in rows.enumerate() {
            T::widen(from.part(i, start, depth), row);
        }
    }

    /// Widens and packs a tile's rows of the right operand.
    fn load_right<T: Element>(
        &mut self,
        from: &TileRows<'_, T>,
        start: usize,
        depth: usize,
    ) {
        let panels = self.right.chunks_exact_mut(depth).take(from.count.div_ceil(PANEL));
        for (index, panel) in panels.enumerate() {
            let first = index * PANEL;
            let rows = &mut self.rows[..PANEL.min(from.count - first) * depth];
            for (i, row) in rows.chunks_exact_mut(depth).enumerate() {
                T::widen(from.part(first + i, start, depth), row);
            }
            pack(rows, depth, depth, panel);
        }
    }
}

/// Rows of an operand that a tile takes.
struct TileRows<'a, T> {
    elements: &'a [T],
    width: usize,
    first: usize,
    count: usize,
}

impl<T> TileRows<'_, T> {
    /// `depth` elements of the tile's row `index`, from `start` on.
    fn part(&self, index: usize, start: usize, depth: usize) -> &[T] {
        &self.elements[(self.first + index) * self.width + start..][..depth]
    }
}

/// The kernel for many rows.
struct Tiled<T> {
    p: Gemm,
    tile: (usize, usize),
    scratch: PerThread<Scratch>,
    format: std::marker::PhantomData<T>,
}

/// A tile of C: where it starts, and its part of each row.
struct Tile<'a, T> {
    row: usize,
    column: usize,
    rows: Vec<&'a mut [T]>,
}

impl<T: Element> Tiled<T> {
    fn new(p: Gemm, threads: usize) -> Self {
        let tile = tile_extents(p.m as usize, p.n as usize, threads);
        let depth = DEPTH.min(p.k as usize);
        let scratch = || Scratch::new(tile, depth);
        let scratch = PerThread::new(threads, scratch);
        Tiled { p, tile, scratch, format: std::marker::PhantomData }
    }

    /// One tile of C, summed over tiles of the operands' depth.
    fn run_tile(&self, (a, b): (&[T], &[T]), tile: Tile<'_, T>, scratch: &mut Scratch) {
        let (rows, columns) = (tile.rows.len(), tile.rows[0].len());
        let width = self.p.k as usize;
        let a = TileRows { elements: a, width, first: tile.row, count: rows };
        let b = TileRows { elements: b, width, first: tile.column, count: columns };
        // To pack takes longer than to widen, so where A has far fewer rows it is
        // packed, and the transpose of C computed.
        let turned = 2 * rows <= columns;
        let (left, right) = if turned { (b, a) } else { (a, b) };
        let panels = right.count.div_ceil(PANEL);
        for start in (0..width).step_by(DEPTH) {
            let depth = DEPTH.min(width - start);
            scratch.load_left(&left, start, depth);
            scratch.load_right(&right, start, depth);
            let c = &mut scratch.c[..left.count * panels];
            let rows = Left { rows: &scratch.left, stride: depth };
            multiply(rows, &scratch.right[..panels * depth], depth, c, start > 0);
        }
        let c = &scratch.c[..left.count * panels];
        if !turned {
            for (from, to) in c.chunks_exact(panels).zip(tile.rows) {
                T::narrow(&bytemuck::cast_slice(from)[..columns], to);
            }
            return;
        }
        let row = &mut scratch.rows[..columns];
        for (index, to) in tile.rows.into_iter().enumerate() {
            for (x, from) in row.iter_mut().zip(c.chunks_exact(panels)) {
                *x = from[index / PANEL].0[index % PANEL];
            }
            T::narrow(row, to);
        }
    }
}

impl<T: Element> Kernel for Tiled<T> {
    /// Tiles of B are read once for each row of tiles, from memory or a cache.
    fn extra_bytes(&self) -> Option<u64> {
        None
    }

    fn run(&mut self, _slot: usize, inputs: &InputBytes, output: &mut [u8]) {
        let a = bytemuck::cast_slice(inputs.get("a"));
        let operands = (a, bytemuck::cast_slice(inputs.get("b")));
        let n = self.p.n as usize;
        let tiles = cut(bytemuck::cast_slice_mut(output), n, self.tile);
        tiles.into_par_iter().with_max_len(1).for_each(|tile| {
            self.scratch.with(|scratch| self.run_tile(operands, tile, scratch));
        });
    }
}

/// Cuts a matrix of rows of `n` elements into tiles.
fn cut<T>(matrix: &mut [T], n: usize, (rows, columns): (usize, usize)) -> Vec<Tile<'_, T>> {
    let mut tiles: Vec<Tile<'_, T>> = Vec::new();
    for (stripe, matrix) in matrix.chunks_mut(rows * n).enumerate() {
        let first = tiles.len();
        tiles.extend((0..n).step_by(columns).map(|column| Tile {
            row: stripe * rows,
            column,
            rows: Vec::with_capacity(rows),
        }));
        for row in matrix.chunks_exact_mut(n) {
            for (tile, part) in tiles[first..].iter_mut().zip(row.chunks_mut(columns)) {
                tile.rows.push(part);
            }
        }
    }
    tiles
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
