//! Inner loops on pairs of bf16. CPUs with AVX512-BF16 multiply the two numbers of a lane and
//! add both products to an f32 in one instruction, so nothing is widened first: half of the
//! instructions of [`simd`](super::simd), whose loops these are otherwise.
//!
//! The functions can be called where these features are known to be there only, which is
//! where [`multiversion`] has looked.

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd, _mm512_dpbf16_ps,
    _mm512_permutex2var_epi16, _mm512_shuffle_f32x4, _mm512_unpackhi_pd,
    _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use bytemuck::cast;
use half::bf16;
use multiversion::target;

use super::simd::{Ahead, CHUNK, Lanes, ROWS, fetch_ahead, padded, unrolled, upcoming};

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

/// As [`simd::dots`](super::simd::dots), with `left` in the layout `[chunk][row]`.
#[target(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512cd+avx512bf16+fma+avx2+f16c+bmi2"
)]
#[inline]
pub fn dots<const G: usize, const N: usize>(
    left: &[Chunk],
    data: &[bf16],
    offsets: &[usize],
    then: Ahead<'_, bf16>,
    width: usize,
    to: &mut [Lanes],
) {
    let (left, _) = left.as_chunks::<G>();
    for (index, (of, to)) in offsets.chunks(N).zip(to).enumerate() {
        let mut rows = [&data[..0]; N];
        let mut ahead = [(data, 0); N];
        for t in 0..N {
            let start = of[t.min(of.len() - 1)];
            rows[t] = &data[start..start + width];
            ahead[t] = upcoming(data, offsets, then, index * N + t);
        }
        *to = sum_each(&multiply::<G, N>(left, rows, ahead));
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
fn multiply<const G: usize, const N: usize>(
    left: &[[Chunk; G]],
    rows: [&[bf16]; N],
    ahead: [(&[bf16], usize); N],
) -> [Lanes; 16] {
    let whole = rows[0].len() / CHUNK;
    let mut chunks: [&[Chunk]; N] = [&[]; N];
    for t in 0..N {
        chunks[t] = &rows[t].as_chunks().0[..whole];
    }
    let mut sums = [Lanes::ZERO; 16];
    for (c, left) in left[..whole].iter().enumerate() {
        let mut right = ZERO;
        unrolled!(I, {
            if I.is_multiple_of(G) {
                right = chunks[I / G][c];
                fetch_ahead(ahead[I / G].0, ahead[I / G].1 + c * CHUNK);
            }
            sums[I] = dot(left[I % G], right, sums[I]);
        });
    }
    if !rows[0].len().is_multiple_of(CHUNK) {
        for t in 0..N {
            let right = padded(rows[t], whole);
            for g in 0..G {
                sums[t * G + g] = dot(left[whole][g], right, sums[t * G + g]);
            }
        }
    }
    sums
}

/// As [`simd::accumulate`](super::simd::accumulate), with weights that are exact in bf16 and
/// come in pairs, `[pair of rows][G]`: rows are added two at a time.
#[target(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512cd+avx512bf16+fma+avx2+f16c+bmi2"
)]
#[inline]
pub fn accumulate<const G: usize, const C: usize>(
    weights: &[u32],
    data: &[bf16],
    offsets: &[usize],
    then: Ahead<'_, bf16>,
    width: usize,
    scale: &[f32; G],
    sums: &mut [Lanes],
) {
    let (weights, _) = weights.as_chunks::<G>();
    let whole = width / CHUNK;
    let mut scale = *scale;
    for first in (0..offsets.len()).step_by(ROWS) {
        let rows = (offsets, first..offsets.len().min(first + ROWS), then);
        let weights = &weights[first / 2..];
        let mut chunk = 0;
        while chunk + C <= whole {
            let sums = &mut sums[chunk * G * 2..][..C * G * 2];
            add_chunks::<G, C>(weights, data, rows.clone(), chunk * CHUNK, &scale, sums);
            chunk += C;
        }
        while chunk < whole {
            let sums = &mut sums[chunk * G * 2..][..G * 2];
            add_chunks::<G, 1>(weights, data, rows.clone(), chunk * CHUNK, &scale, sums);
            chunk += 1;
        }
        if !width.is_multiple_of(CHUNK) {
            let sums = &mut sums[whole * G * 2..][..G * 2];
            add_tail::<G>(weights, data, &offsets[rows.1], width, &scale, sums);
        }
        scale = [1.0; G];
    }
}

/// The offsets of all rows, which of them are added, and what is fetched after them.
type Rows<'a> = (&'a [usize], std::ops::Range<usize>, Ahead<'a, bf16>);

#[target(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512cd+avx512bf16+fma+avx2+f16c+bmi2"
)]
#[inline]
fn add_chunks<const G: usize, const C: usize>(
    weights: &[[u32; G]],
    data: &[bf16],
    (offsets, which, then): Rows<'_>,
    first: usize,
    scale: &[f32; G],
    sums: &mut [Lanes],
) {
    let mut held = [Lanes::ZERO; 16];
    unrolled!(I, {
        if I < 2 * G * C {
            held[I] = sums[I].times(Lanes::splat(scale[I / 2 % G]));
        }
    });
    let mut row = which.start;
    for weights in &weights[..which.len().div_ceil(2)] {
        // A last row without another one is its own neighbour, whose weights are zero.
        let other = (row + 1).min(which.end - 1);
        let (even, _) = data[offsets[row] + first..][..C * CHUNK].as_chunks::<CHUNK>();
        let (odd, _) = data[offsets[other] + first..][..C * CHUNK].as_chunks::<CHUNK>();
        let ahead = upcoming(data, offsets, then, row);
        let other_ahead = upcoming(data, offsets, then, row + 1);
        row += 2;
        let mut right = [ZERO; 2];
        unrolled!(I, {
            if I < 2 * G * C {
                if I.is_multiple_of(2 * G) {
                    let chunk = I / (2 * G);
                    right = interleave(even[chunk], odd[chunk]);
                    fetch_ahead(ahead.0, ahead.1 + first + chunk * CHUNK);
                    fetch_ahead(other_ahead.0, other_ahead.1 + first + chunk * CHUNK);
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
    data: &[bf16],
    offsets: &[usize],
    width: usize,
    scale: &[f32; G],
    sums: &mut [Lanes],
) {
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = sum.times(Lanes::splat(scale[i / 2]));
    }
    for (pair, weights) in offsets.chunks(2).zip(weights) {
        let (even, odd) = (pair[0], pair[pair.len() - 1]);
        let even = padded(&data[even..even + width], width / CHUNK);
        let odd = padded(&data[odd..odd + width], width / CHUNK);
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
