//! Vectors of sixteen floats and the inner loops that several kernels share.
//!
//! Everything here is plain Rust over fixed-size arrays, which the compiler
//! turns into vector instructions. [`multiversioned!`] compiles a function
//! once for each instruction set and picks at run time; what it calls must be
//! `#[inline(always)]`, or it would be compiled for the oldest set.

use std::hint::black_box;

use bytemuck::{Pod, Zeroable};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::prefetch::prefetch;
use crate::format::DType;
use crate::multiversion::multiversioned;

/// Rows that [`accumulate`] adds to all chunks before it goes on to the next ones.
pub(super) const ROWS: usize = 16;

/// Rows that the inner loops work on.
#[derive(Clone, Copy)]
pub struct Rows<'a, T> {
    /// What the rows lie in.
    pub data: &'a [T],
    /// Where each of them starts.
    pub offsets: &'a [usize],
    /// What is fetched meanwhile.
    pub ahead: Ahead<'a, T>,
}

/// Rows that are fetched into the second cache while others are worked on: one for each of
/// those, which come about a block of rows later. Where nothing is to be fetched, the rows that
/// are worked on themselves.
#[derive(Clone, Copy)]
pub struct Ahead<'a, T> {
    /// What the rows lie in.
    pub data: &'a [T],
    /// Where each of them starts.
    pub offsets: &'a [usize],
}

impl<'a, T: Copy> Rows<'a, T> {
    /// Rows without others that are fetched meanwhile.
    pub fn alone(data: &'a [T], offsets: &'a [usize]) -> Self {
        Rows { data, offsets, ahead: Ahead { data, offsets } }
    }

    /// How many rows there are.
    #[inline(always)]
    pub fn count(self) -> usize {
        self.offsets.len()
    }

    /// Up to `count` rows from `first` on.
    #[inline(always)]
    pub fn run(self, first: usize, count: usize) -> Self {
        let Rows { data, offsets, ahead } = self;
        let end = offsets.len().min(first + count);
        let ahead = Ahead { data: ahead.data, offsets: &ahead.offsets[first..end] };
        Rows { data, offsets: &offsets[first..end], ahead }
    }

    /// `N` rows of `width` elements and where those to fetch start. What is missing repeats the
    /// last.
    #[inline(always)]
    pub fn take<const N: usize>(self, width: usize) -> ([&'a [T]; N], [usize; N]) {
        let mut rows = [&self.data[..0]; N];
        let mut ahead = [0; N];
        let last = self.count() - 1;
        for t in 0..N {
            let start = self.offsets[t.min(last)];
            rows[t] = &self.data[start..start + width];
            ahead[t] = self.ahead.offsets[t.min(last)];
        }
        (rows, ahead)
    }
}

/// Elements that one step of an inner loop takes from a row.
pub const CHUNK: usize = 32;

/// Sixteen floats: one AVX-512 register, aligned so that no load crosses a
/// cache line.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Lanes(pub [f32; 16]);

impl Lanes {
    /// All zero.
    pub const ZERO: Lanes = Lanes([0.0; 16]);

    /// The same number in every lane.
    #[inline(always)]
    pub fn splat(x: f32) -> Self {
        Lanes([x; 16])
    }

    /// `self * a + b`, fused.
    #[inline(always)]
    pub fn mul_add(mut self, a: Lanes, b: Lanes) -> Self {
        for i in 0..16 {
            self.0[i] = self.0[i].mul_add(a.0[i], b.0[i]);
        }
        self
    }

    /// `self + other`.
    #[inline(always)]
    pub fn plus(mut self, other: Lanes) -> Self {
        for i in 0..16 {
            self.0[i] += other.0[i];
        }
        self
    }

    /// `self * other`.
    #[inline(always)]
    pub fn times(mut self, other: Lanes) -> Self {
        for i in 0..16 {
            self.0[i] *= other.0[i];
        }
        self
    }

    /// The larger of each pair; no lane is NaN.
    #[inline(always)]
    pub fn max(mut self, other: Lanes) -> Self {
        for i in 0..16 {
            self.0[i] = if self.0[i] > other.0[i] { self.0[i] } else { other.0[i] };
        }
        self
    }

    /// Each lane rounded to the nearest number of bf16, ties to even; none is NaN.
    #[inline(always)]
    pub fn to_bf16(mut self) -> Self {
        for i in 0..16 {
            let bits = self.0[i].to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
            self.0[i] = f32::from_bits(rounded);
        }
        self
    }

    /// Lane `i + BY` in lane `i`, around the end.
    #[inline(always)]
    pub fn rotated<const BY: usize>(self) -> Self {
        let mut to = Lanes::ZERO;
        for i in 0..16 {
            to.0[i] = self.0[(i + BY) % 16];
        }
        to
    }

    /// The first `count` lanes, and zero in the others.
    #[inline(always)]
    pub fn first(mut self, count: u32) -> Self {
        for i in 0..16 {
            self.0[i] = if (i as u32) < count { self.0[i] } else { 0.0 };
        }
        self
    }

    /// Two to the power of each lane less the lane of `from`.
    #[inline(always)]
    pub fn exp2_less(mut self, from: Lanes) -> Self {
        for i in 0..16 {
            self.0[i] = exp2(self.0[i] - from.0[i]);
        }
        self
    }
}

/// Two to the power of `x`, to about 2e-7 of the result; 2^-126 for anything
/// below, which softmax cannot tell from zero. No branches, so that loops over
/// it turn into vector code.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low
    // bits; the rest is at most a half, where six terms of the series do.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > -126.0 { x } else { -126.0 };
    let shifted = x + ROUND;
    let rest = x - (shifted - ROUND);
    let series = 1.540_353e-4f32
        .mul_add(rest, 1.333_355_8e-3)
        .mul_add(rest, 9.618_129e-3)
        .mul_add(rest, 5.550_411e-2)
        .mul_add(rest, 2.402_265e-1)
        .mul_add(rest, std::f32::consts::LN_2)
        .mul_add(rest, 1.0);
    f32::from_bits(series.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// An element format that kernels here compute with, in `f32`.
pub trait Element: Pod + Send + Sync {
    /// A chunk as two vectors, in whatever order is cheapest; always the same
    /// order for a format, see [`Element::place`].
    fn split(chunk: &[Self; CHUNK]) -> [Lanes; 2];

    /// Where [`Element::split`] puts element `i` of a chunk, counted through
    /// both vectors.
    fn place(i: usize) -> usize;

    /// Converts a row to `f32`, in order.
    fn widen(from: &[Self], to: &mut [f32]);

    /// Rounds a row from `f32` to nearest, ties to even.
    fn narrow(from: &[f32], to: &mut [Self]);
}

impl Element for f32 {
    #[inline(always)]
    fn split(chunk: &[f32; CHUNK]) -> [Lanes; 2] {
        bytemuck::cast(*chunk)
    }

    #[inline(always)]
    fn place(i: usize) -> usize {
        i
    }

    fn widen(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn narrow(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

/// Where pairs of 16-bit elements go: the even ones to the first vector, the
/// odd ones to the second.
#[inline(always)]
const fn place_in_pairs(i: usize) -> usize {
    i / 2 + 16 * (i % 2)
}

impl Element for bf16 {
    #[inline(always)]
    fn split(chunk: &[bf16; CHUNK]) -> [Lanes; 2] {
        let pairs: [u32; 16] = bytemuck::cast(*chunk);
        let mut split = [Lanes::ZERO; 2];
        for (i, pair) in pairs.into_iter().enumerate() {
            split[0].0[i] = f32::from_bits(pair << 16);
            split[1].0[i] = f32::from_bits(pair & 0xffff_0000);
        }
        split
    }

    #[inline(always)]
    fn place(i: usize) -> usize {
        place_in_pairs(i)
    }

    fn widen(from: &[bf16], to: &mut [f32]) {
        widen_bf16(bytemuck::cast_slice(from), to);
    }

    fn narrow(from: &[f32], to: &mut [bf16]) {
        narrow_bf16(from, bytemuck::cast_slice_mut(to));
    }
}

impl Element for f16 {
    #[inline(always)]
    fn split(chunk: &[f16; CHUNK]) -> [Lanes; 2] {
        let pairs: [u32; 16] = bytemuck::cast(*chunk);
        let mut split = [Lanes::ZERO; 2];
        for (i, pair) in pairs.into_iter().enumerate() {
            split[0].0[i] = f16_in_high_half(pair << 16);
            split[1].0[i] = f16_in_high_half(pair);
        }
        split
    }

    #[inline(always)]
    fn place(i: usize) -> usize {
        place_in_pairs(i)
    }

    fn widen(from: &[f16], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }

    fn narrow(from: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(from);
    }
}

/// The finite binary16 number in the high half of a word: sign and the rest
/// shifted to where binary32 has them, and the exponent's bias made up for by
/// a multiplication, which is exact for subnormals too.
#[inline(always)]
fn f16_in_high_half(word: u32) -> f32 {
    const BIAS: f32 = f32::from_bits((127 + 112) << 23);
    f32::from_bits(((word as i32 >> 3) as u32) & 0x8fff_e000) * BIAS
}

multiversioned! {
fn widen_bf16(from: &[u16], to: &mut [f32]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = f32::from_bits(u32::from(from) << 16);
    }
}
}

multiversioned! {
fn narrow_bf16(from: &[f32], to: &mut [u16]) {
    for (to, &from) in to.iter_mut().zip(from) {
        let bits = from.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        *to = if from.is_nan() { 0x7fc0 } else { rounded as u16 };
    }
}
}

/// Repeats a block for a constant that runs from 0 to 15. A plain loop would
/// index its arrays by a variable until late in the compiler, which then keeps
/// them in memory and not in registers.
macro_rules! unrolled {
    ($name:ident, $body:block) => {
        unrolled!(@ $name, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $name:ident, $body:block, $($value:literal)*) => {
        $({
            const $name: usize = $value;
            $body
        })*
    };
}

pub(super) use unrolled;

/// Sixteen vectors on their way to sixteen sums: four numbers are left of each.
type Quarters = [[f32; 4]; 16];

/// Adds the quarters of each vector to each other.
///
/// The vectors go through memory, on purpose, and the quarters again in
/// [`sum_each`]. Left in registers, the compiler takes the sums of single lanes
/// apart into hundreds of shuffles, and the products that lead here with them;
/// loads of parts of a vector cost next to nothing.
#[inline(always)]
fn add_quarters(v: &[Lanes; 16]) -> Quarters {
    let v = black_box(v);
    let mut quarters = [[0.0; 4]; 16];
    unrolled!(I, {
        let (of, _) = v[I].0.as_chunks::<4>();
        quarters[I] = add(add(of[0], of[1]), add(of[2], of[3]));
    });
    quarters
}

#[inline(always)]
fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]]
}

/// The sums of the vectors behind `quarters`, in their order.
#[inline(always)]
fn sum_each(quarters: &[Quarters], to: &mut [Lanes]) {
    for (quarters, to) in black_box(quarters).iter().zip(to) {
        for (sum, of) in to.0.iter_mut().zip(quarters) {
            *sum = (of[0] + of[1]) + (of[2] + of[3]);
        }
    }
}

/// Number of chunks that a row of `width` elements takes.
pub const fn chunks(width: usize) -> usize {
    width.div_ceil(CHUNK)
}

/// Rows that the inner loops work on at once: 1, 2, 4 or 8, padded with zeros.
/// Computing on padding is free where memory is the limit.
pub const fn padded_rows(rows: usize) -> usize {
    if rows > 4 { 8 } else { rows.next_power_of_two() }
}

/// Puts row `row` of `rows` where [`dots`] and [`accumulate`] have it, in
/// `[chunk][row][2]` and in the order in which `T` splits.
pub fn arrange<T: Element>(from: &[f32], row: usize, rows: usize, to: &mut [Lanes]) {
    for (i, &x) in from.iter().enumerate() {
        let place = T::place(i % CHUNK);
        to[(i / CHUNK * rows + row) * 2 + place / 16].0[place % 16] = x;
    }
}

/// Puts row `row` of `rows` where loops on pairs have it, in `[chunk][row]` and in order.
pub fn arrange_pairs(from: &[bf16], row: usize, rows: usize, to: &mut [Lanes]) {
    let to: &mut [[bf16; CHUNK]] = bytemuck::cast_slice_mut(to);
    for (i, &x) in from.iter().enumerate() {
        to[i / CHUNK * rows + row][i % CHUNK] = x;
    }
}

/// The inverse of [`arrange`]: takes row `row` of `rows` out.
pub fn take_out<T: Element>(from: &[Lanes], row: usize, rows: usize, to: &mut [f32]) {
    for (i, x) in to.iter_mut().enumerate() {
        let place = T::place(i % CHUNK);
        *x = from[(i / CHUNK * rows + row) * 2 + place / 16].0[place % 16];
    }
}

/// The chunk `index` of a row, padded with zeros when the row ends in it.
#[inline(always)]
pub(super) fn padded<T: Element>(row: &[T], index: usize) -> [T; CHUNK] {
    let mut chunk = [T::zeroed(); CHUNK];
    let tail = &row[index * CHUNK..];
    chunk[..tail.len()].copy_from_slice(tail);
    chunk
}

/// Steps of [`dots`] whose sums are finished together.
const STEPS: usize = 4;

/// Dot products of `G` rows, laid out by [`arrange`], with rows of `width`
/// elements. `G * N` is 16; one vector of `to` takes `N` rows, the lane of row
/// `t` and left row `g` being `t * G + g`. Lanes past the last row repeat
/// it. `R` rows are worked on at once: more would not leave registers for where
/// each of them is.
#[inline(always)]
pub fn dots<T: Element, const G: usize, const N: usize, const R: usize>(
    left: &[Lanes],
    rows: Rows<'_, T>,
    width: usize,
    to: &mut [Lanes],
) {
    let (left, _) = left.as_chunks::<2>();
    let (left, _) = left.as_chunks::<G>();
    // Sums of several steps are finished together: what one has just stored
    // in parts cannot be loaded whole at once.
    let mut quarters = [[[0.0; 4]; 16]; STEPS];
    let mut sums = [Lanes::ZERO; 16];
    for (index, to) in to.chunks_mut(STEPS).enumerate() {
        for (step, quarters) in quarters[..to.len()].iter_mut().enumerate() {
            let rows = rows.run((index * STEPS + step) * N, N);
            let (of, ahead) = rows.take::<N>(width);
            let places = of.as_chunks::<R>().0.iter().zip(ahead.as_chunks::<R>().0);
            for ((of, ahead), sums) in places.zip(sums.chunks_exact_mut(R * G)) {
                multiply_chunks::<T, G, R>(left, of, (rows.ahead.data, ahead), sums);
                if !width.is_multiple_of(CHUNK) {
                    multiply_tail::<T, G, R>(left, of, sums);
                }
            }
            *quarters = add_quarters(&sums);
        }
        sum_each(&quarters, to);
    }
}

/// The products behind [`dots`], of all whole chunks: one vector for each pair
/// of rows, whose lanes are still to be added to each other.
#[inline(always)]
fn multiply_chunks<T: Element, const G: usize, const R: usize>(
    left: &[[[Lanes; 2]; G]],
    rows: &[&[T]; R],
    (data, ahead): (&[T], &[usize; R]),
    to: &mut [Lanes],
) {
    let whole = rows[0].len() / CHUNK;
    let mut chunks: [&[[T; CHUNK]]; R] = [&[]; R];
    for t in 0..R {
        chunks[t] = &rows[t].as_chunks().0[..whole];
    }
    let mut sums = [Lanes::ZERO; 16];
    for (c, left) in left[..whole].iter().enumerate() {
        let mut right = [Lanes::ZERO; 2];
        unrolled!(I, {
            if I < R * G {
                if I.is_multiple_of(G) {
                    right = T::split(&chunks[I / G][c]);
                    fetch_ahead(data, ahead[I / G] + c * CHUNK);
                }
                sums[I] = left[I % G][0].mul_add(right[0], sums[I]);
                sums[I] = left[I % G][1].mul_add(right[1], sums[I]);
            }
        });
    }
    // Sums that lay in memory all along would be loaded and stored by every
    // product.
    unrolled!(I, {
        if I < R * G {
            to[I] = sums[I];
        }
    });
}

/// Adds the products of the chunk that rows end in.
#[inline(always)]
fn multiply_tail<T: Element, const G: usize, const R: usize>(
    left: &[[[Lanes; 2]; G]],
    rows: &[&[T]; R],
    to: &mut [Lanes],
) {
    let whole = rows[0].len() / CHUNK;
    let left = &left[whole];
    for t in 0..R {
        let right = T::split(&padded(rows[t], whole));
        for g in 0..G {
            let sum = &mut to[t * G + g];
            *sum = left[g][1].mul_add(right[1], left[g][0].mul_add(right[0], *sum));
        }
    }
}

/// Asks for the cache lines of a chunk that is needed a block later, in the second cache. The
/// CPU's own prefetchers stop at the end of a page. Fetched into the first cache, what is
/// asked for would take the few places of loads that miss it (24 on Zen 4), and those of the
/// CPU's own prefetchers to the second cache would stay empty.
#[inline(always)]
pub(super) fn fetch_ahead<T: Element>(data: &[T], start: usize) {
    prefetch(data, start);
    if size_of::<T>() * CHUNK > 64 {
        prefetch(data, start + CHUNK / 2);
    }
}

/// `sums = sums * shrink + weights^T * rows`: adds rows of `width` elements,
/// weighted, to each of `G` sums in the layout of [`arrange`]; lane `g` of `shrink` is of sum
/// `g`. `weights` is `[row][G]`. `C` chunks are summed in registers at
/// a time; `2 * G * C` is at most 16.
#[inline(always)]
pub fn accumulate<T: Element, const G: usize, const C: usize>(
    weights: &[f32],
    rows: Rows<'_, T>,
    width: usize,
    shrink: Lanes,
    sums: &mut [Lanes],
) {
    let (weights, _) = weights.as_chunks::<G>();
    let whole = width / CHUNK;
    let mut shrink = shrink;
    for (index, weights) in weights[..rows.count()].chunks(ROWS).enumerate() {
        let rows = rows.run(index * ROWS, ROWS);
        let mut chunk = 0;
        while chunk + C <= whole {
            let sums = &mut sums[chunk * G * 2..][..C * G * 2];
            accumulate_chunks::<T, G, C>(weights, rows, chunk * CHUNK, shrink, sums);
            chunk += C;
        }
        while chunk < whole {
            let sums = &mut sums[chunk * G * 2..][..G * 2];
            accumulate_chunks::<T, G, 1>(weights, rows, chunk * CHUNK, shrink, sums);
            chunk += 1;
        }
        if !width.is_multiple_of(CHUNK) {
            let sums = &mut sums[whole * G * 2..][..G * 2];
            accumulate_tail(weights, rows, width, shrink, sums);
        }
        shrink = Lanes::splat(1.0);
    }
}

/// The part of [`accumulate`] for the chunk that a row ends in.
#[inline(always)]
fn accumulate_tail<T: Element, const G: usize>(
    weights: &[[f32; G]],
    rows: Rows<'_, T>,
    width: usize,
    shrink: Lanes,
    sums: &mut [Lanes],
) {
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = sum.times(Lanes::splat(shrink.0[i / 2]));
    }
    for (&offset, weights) in rows.offsets.iter().zip(weights) {
        let right = T::split(&padded(&rows.data[offset..offset + width], width / CHUNK));
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = Lanes::splat(weights[i / 2]).mul_add(right[i % 2], *sum);
        }
    }
}

#[inline(always)]
fn accumulate_chunks<T: Element, const G: usize, const C: usize>(
    weights: &[[f32; G]],
    rows: Rows<'_, T>,
    first: usize,
    shrink: Lanes,
    sums: &mut [Lanes],
) {
    let mut held = [Lanes::ZERO; 16];
    unrolled!(I, {
        if I < 2 * G * C {
            held[I] = sums[I].times(Lanes::splat(shrink.0[I / 2 % G]));
        }
    });
    let places = rows.offsets.iter().zip(rows.ahead.offsets);
    for ((&offset, &ahead), weights) in places.zip(weights) {
        let (row, _) = rows.data[offset + first..][..C * CHUNK].as_chunks::<CHUNK>();
        let mut right = [Lanes::ZERO; 2];
        unrolled!(I, {
            if I < 2 * G * C {
                if I.is_multiple_of(2 * G) {
                    right = T::split(&row[I / (2 * G)]);
                    fetch_ahead(rows.ahead.data, ahead + first + I / (2 * G) * CHUNK);
                }
                held[I] = Lanes::splat(weights[I / 2 % G]).mul_add(right[I % 2], held[I]);
            }
        });
    }
    unrolled!(I, {
        if I < 2 * G * C {
            sums[I] = held[I];
        }
    });
}

multiversioned! {
/// Wrapping sum of words.
pub fn sum_words(words: &[u32]) -> u32 {
    let (blocks, tail) = words.as_chunks::<64>();
    let mut sums = [0u32; 64];
    for block in blocks {
        for i in 0..64 {
            sums[i] = sums[i].wrapping_add(block[i]);
        }
    }
    sums.iter().chain(tail).fold(0, |sum, &word| sum.wrapping_add(word))
}
}

multiversioned! {
/// `a = b + s c`, element by element.
pub fn triad(a: &mut [f32], b: &[f32], s: f32, c: &[f32]) {
    for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
        *a = b + s * c;
    }
}
}

/// Widens the bytes of a row of `dtype` to `f32`.
///
/// # Panics
/// On a format without kernels here; `prepare` refuses those.
pub fn widen(dtype: DType, from: &[u8], to: &mut [f32]) {
    match dtype {
        DType::F32 => f32::widen(bytemuck::cast_slice(from), to),
        DType::Bf16 => bf16::widen(bytemuck::cast_slice(from), to),
        DType::F16 => f16::widen(bytemuck::cast_slice(from), to),
        _ => unreachable!("{dtype} is refused in prepare"),
    }
}

/// Rounds a row of `f32` to the bytes of `dtype`.
///
/// # Panics
/// On a format without kernels here; `prepare` refuses those.
pub fn narrow(dtype: DType, from: &[f32], to: &mut [u8]) {
    match dtype {
        DType::F32 => f32::narrow(from, bytemuck::cast_slice_mut(to)),
        DType::Bf16 => bf16::narrow(from, bytemuck::cast_slice_mut(to)),
        DType::F16 => f16::narrow(from, bytemuck::cast_slice_mut(to)),
        _ => unreachable!("{dtype} is refused in prepare"),
    }
}

/// Whether this CPU multiplies pairs of bf16 and adds them in f32, with AVX-512.
pub fn has_bf16_pairs() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        level() == "avx512" && std::arch::is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// The instruction set that [`multiversioned!`] functions run with here. That
/// macro uses AVX-512 from Ice Lake on only, as older CPUs slow down for it,
/// so the rest of Ice Lake's features count too.
pub fn level() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let avx2 = has!("avx2") && has!("fma") && has!("f16c");
        let skylake = has!("avx512f")
            && has!("avx512bw")
            && has!("avx512dq")
            && has!("avx512vl")
            && has!("avx512cd")
            && has!("bmi2");
        let ice_lake = has!("avx512bitalg")
            && has!("avx512ifma")
            && has!("avx512vbmi")
            && has!("avx512vbmi2")
            && has!("avx512vnni")
            && has!("avx512vpopcntdq")
            && has!("gfni")
            && has!("vaes")
            && has!("vpclmulqdq");
        if avx2 && skylake && ice_lake {
            return "avx512";
        }
        if avx2 { "avx2+fma" } else { "sse2" }
    }
    #[cfg(target_arch = "aarch64")]
    {
        "neon"
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        "scalar"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_sums_come_out_in_order() {
        let mut vectors = [Lanes::ZERO; 16];
        for (i, vector) in vectors.iter_mut().enumerate() {
            *vector = Lanes(std::array::from_fn(|lane| (i * 100 + lane) as f32));
        }
        let mut sums = [Lanes::ZERO; 2];
        sum_each(&[[[1.0; 4]; 16], add_quarters(&vectors)], &mut sums);
        assert_eq!(sums[0], Lanes::splat(4.0));
        for (i, sum) in sums[1].0.into_iter().enumerate() {
            assert_eq!(sum, (i * 1600 + 120) as f32);
        }
    }

    /// Every width around whole chunks, and every number of rows around whole steps.
    #[test]
    fn products_of_rows_are_those_of_plain_loops() {
        for width in [1, 31, 32, 33, 64, 80, 128] {
            for rows in [1, 3, 4, 5, 17, 33] {
                check_dots::<1, 16, 4>(width, rows);
                check_dots::<2, 8, 4>(width, rows);
                check_dots::<4, 4, 4>(width, rows);
                check_dots::<8, 2, 2>(width, rows);
            }
        }
    }

    fn check_dots<const G: usize, const N: usize, const R: usize>(
        width: usize,
        rows: usize,
    ) {
        let left = |g: usize, i: usize| (g * 3 + i % 5) as f32 - 4.0;
        let right = |t: usize, i: usize| (t % 7 + i % 3) as f32 - 2.0;
        let mut laid_out = vec![Lanes::ZERO; chunks(width) * G * 2];
        for g in 0..G {
            let row: Vec<f32> = (0..width).map(|i| left(g, i)).collect();
            arrange::<bf16>(&row, g, G, &mut laid_out);
        }
        let data: Vec<bf16> = (0..rows * width)
            .map(|at| bf16::from_f32(right(at / width, at % width)))
            .collect();
        let offsets: Vec<usize> = (0..rows).map(|t| t * width).collect();
        let mut got = vec![Lanes::ZERO; rows.div_ceil(N)];
        let of = Rows::alone(&data, &offsets);
        dots::<bf16, G, N, R>(&laid_out, of, width, &mut got);
        let got: &[f32] = bytemuck::cast_slice(&got);
        for (t, got) in got.chunks_exact(G).take(rows).enumerate() {
            for (g, got) in got.iter().enumerate() {
                let want: f32 = (0..width).map(|i| left(g, i) * right(t, i)).sum();
                assert_eq!(*got, want, "width {width}, row {t} of {rows}, {g} of {G}");
            }
        }
    }

    #[test]
    fn powers_of_two_are_exact_and_others_near() {
        for n in -125..=127 {
            assert_eq!(exp2(n as f32), 2f32.powi(n));
        }
        for i in 0..10_000 {
            let x = -20.0 + i as f32 * 0.004_1;
            let want = f64::from(x).exp2();
            let error = (f64::from(exp2(x)) - want).abs() / want;
            assert!(error < 5e-7, "2^{x} is off by {error}");
        }
        assert!(exp2(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn every_finite_half_splits_into_its_value() {
        for first in (0..=u16::MAX - 31).step_by(32) {
            let chunk: [f16; CHUNK] =
                std::array::from_fn(|i| f16::from_bits(first + i as u16));
            let split: [f32; CHUNK] = bytemuck::cast(f16::split(&chunk));
            for (i, x) in chunk.into_iter().enumerate().filter(|(_, x)| x.is_finite()) {
                assert_eq!(split[f16::place(i)], x.to_f32());
            }
        }
    }

    #[test]
    fn rounding_to_bf16_is_that_of_the_half_crate() {
        let values: Vec<f32> = (0..5000)
            .map(|i: u32| f32::from_bits(i.wrapping_mul(0x9e37_79b9)))
            .chain([1.0, -0.0, f32::INFINITY, f32::NAN, 1.003_906_3, 1.011_718_8])
            .collect();
        let mut rounded = vec![bf16::ZERO; values.len()];
        bf16::narrow(&values, &mut rounded);
        for (x, got) in values.into_iter().zip(rounded) {
            let want = bf16::from_f32(x);
            assert!(got == want || got.is_nan() && want.is_nan(), "{x}: {got} {want}");
        }
    }

    #[test]
    fn rows_come_back_out_as_they_went_in() {
        let rows: Vec<Vec<f32>> =
            (0..3).map(|r| (0..70).map(|i| (r * 100 + i) as f32).collect()).collect();
        let mut laid_out = vec![Lanes::ZERO; chunks(70) * 4 * 2];
        for (r, row) in rows.iter().enumerate() {
            arrange::<bf16>(row, r, 4, &mut laid_out);
        }
        let mut back = vec![0.0; 70];
        for (r, row) in rows.iter().enumerate() {
            take_out::<bf16>(&laid_out, r, 4, &mut back);
            assert_eq!(&back, row);
        }
    }
}
