//! Inner loops on pairs of bf16. CPUs with AVX512-BF16 multiply the two numbers of a lane and
//! add both products to an f32 in one instruction, so nothing is widened first: half of the
//! instructions of [`simd`](super::simd), whose loops these are otherwise.
//!
//! The functions can be called where these features are known to be there only, which is
//! where [`multiversion`] has looked.

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd, _mm512_dpbf16_ps,
    _mm512_permutex2var_epi16, _mm512_permutexvar_epi32, _mm512_shuffle_f32x4,
    _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use bytemuck::cast;
use half::bf16;
use multiversion::target;

use super::simd::{CHUNK, Lanes, ROWS, Rows, fetch_ahead, padded, unrolled};

/// A chunk of a row: pairs of neighbours, in one register.
pub type Chunk = [bf16; CHUNK];

const ZERO: Chunk = [bf16::ZERO; CHUNK];

/// Places in two chunks, the second one's from 32 on, of what [`interleave`] puts side by
/// side, from the first element on.
const fn places(first: u16) -> [u16; CHUNK] {
    let mut places = [0; CHUNK];
    let mut lane = 0;
    while lane < CHUNK / 2 {
        places[2 * lane] = first + 2 * lane as u16;
        places[2 * lane + 1] = first + 2 * lane as u16 + CHUNK as u16;
        lane += 1;
    }
    places
}

/// Adds the two products of each lane's pairs to the lane of `sum`. Subnormal numbers count as
/// zero.
#[target("x86_64+avx512f+avx512bf16")]
#[inline]
fn dot(a: Chunk, b: Chunk, sum: Lanes) -> Lanes {
    cast(_mm512_dpbf16_ps(cast(sum), cast(a), cast(b)))
}

/// Pairs of the elements of two chunks at the same place: of those at even places, and of
/// those at odd ones, which is the order in which bf16 splits.
#[target("x86_64+avx512f+avx512bw")]
#[inline]
fn interleave(a: Chunk, b: Chunk) -> [Chunk; 2] {
    const EVEN: [u16; CHUNK] = places(0);
    const ODD: [u16; CHUNK] = places(1);
    let (a, b) = (cast(a), cast(b));
    [
        cast(_mm512_permutex2var_epi16(a, cast(EVEN), b)),
        cast(_mm512_permutex2var_epi16(a, cast(ODD), b)),
    ]
}

/// As [`simd::dots`](super::simd::dots), with `left` in the layout `[chunk][row]`. `W` is the
/// width of rows, or 0 where only `width` says it.
#[target(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512cd+avx512bf16+fma+avx2+f16c+bmi2"
)]
#[inline]
pub fn dots<const G: usize, const N: usize, const R: usize, const W: usize>(
    left: &[Chunk],
    rows: Rows<'_, bf16>,
    width: usize,
    to: &mut [Lanes],
) {
    let width = if W > 0 { W } else { width };
    let (left, _) = left.as_chunks::<G>();
    let mut sums = [Lanes::ZERO; 16];
    for (index, to) in to.iter_mut().enumerate() {
        let rows = rows.run(index * N, N);
        let (of, ahead) = rows.take::<N>(width);
        let places = of.as_chunks::<R>().0.iter().zip(ahead.as_chunks::<R>().0);
        for ((of, ahead), sums) in places.zip(sums.chunks_exact_mut(R * G)) {
            multiply::<G, R, W>(left, of, (rows.ahead.data, ahead), sums);
        }
        *to = sum_each(&sums);
    }
}

/// The sums of sixteen vectors, in their order: a tree of sums of two vectors each, whose
/// lanes are first put beside each other. Lanes of 16 bytes stay together until the last two
/// steps.
#[target("x86_64+avx512f")]
#[inline]
fn sum_each(v: &[Lanes; 16]) -> Lanes {
    let mut quads: [__m512; 4] = [cast(Lanes::ZERO); 4];
    for i in 0..4 {
        let ab = add_neighbours(cast(v[4 * i]), cast(v[4 * i + 1]));
        let cd = add_neighbours(cast(v[4 * i + 2]), cast(v[4 * i + 3]));
        let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
        let even = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
        quads[i] = _mm512_add_ps(even, _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    }
    let first = add_quarters(quads[0], quads[1]);
    cast(add_quarters(first, add_quarters(quads[2], quads[3])))
}

/// Of each four lanes the sums of the first and third, and of the second and fourth, of both
/// vectors in turn.
#[target("x86_64+avx512f")]
#[inline]
fn add_neighbours(a: __m512, b: __m512) -> __m512 {
    _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b))
}

/// The sums of neighbouring quarters, first those of `a`.
#[target("x86_64+avx512f")]
#[inline]
fn add_quarters(a: __m512, b: __m512) -> __m512 {
    let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
    _mm512_add_ps(even, _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b))
}

/// One vector for each pair of rows, whose lanes are still to be added to each other.
#[target(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512cd+avx512bf16+fma+avx2+f16c+bmi2"
)]
#[inline]
fn multiply<const G: usize, const R: usize, const W: usize>(
    left: &[[Chunk; G]],
    rows: &[&[bf16]; R],
    (data, ahead): (&[bf16], &[usize; R]),
    to: &mut [Lanes],
) {
    let width = if W > 0 { W } else { rows[0].len() };
    let whole = width / CHUNK;
    let mut chunks: [&[Chunk]; R] = [&[]; R];
    for t in 0..R {
        chunks[t] = &rows[t].as_chunks().0[..whole];
    }
    let mut sums = [Lanes::ZERO; 16];
    for (c, left) in left[..whole].iter().enumerate() {
        let mut right = ZERO;
        unrolled!(I, {
            if I < R * G {
                if I.is_multiple_of(G) {
                    right = chunks[I / G][c];
                    fetch_ahead(data, ahead[I / G] + c * CHUNK);
                }
                sums[I] = dot(left[I % G], right, sums[I]);
            }
        });
    }
    if !width.is_multiple_of(CHUNK) {
        for t in 0..R {
            let right = padded(rows[t], whole);
            for g in 0..G {
                sums[t * G + g] = dot(left[whole][g], right, sums[t * G + g]);
            }
        }
    }
    unrolled!(I, {
        if I < R * G {
            to[I] = sums[I];
        }
    });
}

/// Puts the weights of two rows of a head into a word, the first in its low half: from
/// `[row][G]` to `[pair of rows][G]`. They are exact in bf16.
#[target("x86_64+avx512f")]
#[inline]
pub fn pair_weights<const G: usize>(weights: &[Lanes], pairs: &mut [u32]) {
    let (even, odd) = const { (first_of_pairs(G, 0), first_of_pairs(G, G as u32)) };
    let (pairs, _) = pairs.as_chunks_mut::<8>();
    for (&weights, pairs) in weights.iter().zip(pairs) {
        let low: [u32; 16] = cast(_mm512_permutexvar_epi32(cast(even), cast(weights)));
        let high: [u32; 16] = cast(_mm512_permutexvar_epi32(cast(odd), cast(weights)));
        for i in 0..8 {
            pairs[i] = low[i] >> 16 | high[i] & 0xffff_0000;
        }
    }
}

/// Of the lanes of weights `[row][heads]` those of the first row of each pair, or `further`
/// ones.
const fn first_of_pairs(heads: usize, further: u32) -> [u32; 16] {
    let mut lanes = [0; 16];
    let mut i = 0;
    while i < 8 {
        lanes[i] = (2 * (i / heads) * heads + i % heads) as u32 + further;
        i += 1;
    }
    lanes
}

/// As [`simd::accumulate`](super::simd::accumulate), with weights that are exact in bf16 and
/// come in pairs, `[pair of rows][G]`: rows are added two at a time.
#[target(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512cd+avx512bf16+fma+avx2+f16c+bmi2"
)]
#[inline]
pub fn accumulate<const G: usize, const C: usize, const W: usize>(
    weights: &[u32],
    rows: Rows<'_, bf16>,
    width: usize,
    shrink: Lanes,
    sums: &mut [Lanes],
) {
    let width = if W > 0 { W } else { width };
    let (weights, _) = weights.as_chunks::<G>();
    let whole = width / CHUNK;
    let mut shrink = shrink;
    let weights = &weights[..rows.count().div_ceil(2)];
    for (index, weights) in weights.chunks(ROWS / 2).enumerate() {
        let rows = rows.run(index * ROWS, ROWS);
        let mut chunk = 0;
        while chunk + C <= whole {
            let sums = &mut sums[chunk * G * 2..][..C * G * 2];
            add_chunks::<G, C>(weights, rows, chunk * CHUNK, shrink, sums);
            chunk += C;
        }
        while chunk < whole {
            let sums = &mut sums[chunk * G * 2..][..G * 2];
            add_chunks::<G, 1>(weights, rows, chunk * CHUNK, shrink, sums);
            chunk += 1;
        }
        if !width.is_multiple_of(CHUNK) {
            let sums = &mut sums[whole * G * 2..][..G * 2];
            add_tail::<G>(weights, rows, width, shrink, sums);
        }
        shrink = Lanes::splat(1.0);
    }
}

#[target(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512cd+avx512bf16+fma+avx2+f16c+bmi2"
)]
#[inline]
fn add_chunks<const G: usize, const C: usize>(
    weights: &[[u32; G]],
    rows: Rows<'_, bf16>,
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
    let fetch = rows.ahead.data;
    let places = rows.offsets.chunks(2).zip(rows.ahead.offsets.chunks(2));
    for ((pair, ahead), weights) in places.zip(weights) {
        // A last row without another one is its own neighbour, whose weights are zero.
        let other = pair.len() - 1;
        let (even, _) = rows.data[pair[0] + first..][..C * CHUNK].as_chunks::<CHUNK>();
        let (odd, _) = rows.data[pair[other] + first..][..C * CHUNK].as_chunks::<CHUNK>();
        let (ahead, other_ahead) = (ahead[0] + first, ahead[ahead.len() - 1] + first);
        let mut right = [ZERO; 2];
        unrolled!(I, {
            if I < 2 * G * C {
                if I.is_multiple_of(2 * G) {
                    let chunk = I / (2 * G);
                    right = interleave(even[chunk], odd[chunk]);
                    fetch_ahead(fetch, ahead + chunk * CHUNK);
                    fetch_ahead(fetch, other_ahead + chunk * CHUNK);
                }
                let weight = cast([weights[I / 2 % G]; 16]);
                held[I] = dot(weight, right[I % 2], held[I]);
            }
        });
    }
    unrolled!(I, {
        if I < 2 * G * C {
            sums[I] = held[I];
        }
    });
}

/// The part of [`accumulate`] for the chunk that a row ends in.
#[target(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512cd+avx512bf16+fma+avx2+f16c+bmi2"
)]
#[inline]
fn add_tail<const G: usize>(
    weights: &[[u32; G]],
    rows: Rows<'_, bf16>,
    width: usize,
    shrink: Lanes,
    sums: &mut [Lanes],
) {
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = sum.times(Lanes::splat(shrink.0[i / 2]));
    }
    for (pair, weights) in rows.offsets.chunks(2).zip(weights) {
        let (even, odd) = (pair[0], pair[pair.len() - 1]);
        let even = padded(&rows.data[even..even + width], width / CHUNK);
        let odd = padded(&rows.data[odd..odd + width], width / CHUNK);
        let right = interleave(even, odd);
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = dot(cast([weights[i / 2]; 16]), right[i % 2], *sum);
        }
    }
}

/// Adds the product of a 16 x 16 and a 16 x 8 matrix to two tiles of 16 x 8, `steps` times. A
/// vector has two rows of a tile, or of the first matrix as often as a tile has columns:
/// `a[pair][rows]` and `b[pair]` are pairs along the summed dimension.
#[target(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512cd+avx512bf16+fma+avx2+f16c+bmi2"
)]
#[inline]
pub fn add_products(
    a: &[[Chunk; 8]; 8],
    b: &[Chunk; 8],
    tiles: &mut [Lanes; 16],
    steps: u64,
) {
    let mut held = *tiles;
    for _ in 0..steps {
        for (a, &b) in a.iter().zip(b) {
            unrolled!(I, {
                held[I] = dot(a[I % 8], b, held[I]);
            });
        }
    }
    *tiles = held;
}
