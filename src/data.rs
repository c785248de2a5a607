//! Reproducible inputs: every element is a function of a key
//! and its index, so the reference checks a kernel without touching the
//! kernel's buffers, and each rotation slot holds different data.
//!
//! Values are uniform in [-1, 1), the distribution that the CUTLASS
//! measurement document asks for: zeros would draw less power and clock
//! higher than real data do.

use half::{bf16, f16};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;

use crate::format::{DType, GAIN_DIVISOR, LATENTS_OF_SCALE, TensorFormat};
use crate::multiversion::multiversioned;
use crate::weights;

/// Names the contents of one tensor in one rotation slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    /// The key of tensor `tensor` of a problem in rotation slot `slot`.
    pub fn new(seed: u64, slot: usize, tensor: usize) -> Self {
        Key(mix(mix(mix(seed) ^ slot as u64) ^ tensor as u64))
    }

    /// The key as a number, for devices that draw on their own.
    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    /// The 64 random bits at `index`.
    #[inline(always)]
    fn bits(self, index: u64) -> u64 {
        mix(self.0 ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Element `index` of a tensor of raw 32-bit words.
    #[inline(always)]
    pub fn word(self, index: u64) -> u32 {
        (self.bits(index / 2) >> (32 * (index % 2))) as u32
    }

    /// Element `index` of a tensor of `dtype`, exact in `f32`.
    pub fn value(self, dtype: DType, index: u64) -> f32 {
        match dtype {
            DType::F32 => f32_from(self.word(index)),
            DType::Tf32 => tf32_from(self.word(index)),
            DType::F64 => f32_from(self.word(2 * index)),
            DType::Bf16 => bf16_from(self.half_word(index)).to_f32(),
            DType::F16 => f16_from(self.half_word(index)).to_f32(),
            DType::Int8 => f32::from(self.byte(index) as i8),
            DType::Fp8E4m3 => e4m3_to_f32(e4m3_from(self.byte(index))),
            DType::Fp8E5m2 => e5m2_to_f32(e5m2_from(self.byte(index))),
            DType::Int4 => f32::from(weights::element(&[self.byte(index / 2)], index % 2)),
            DType::Fp4E2m1 => e2m1_to_f32(self.byte(index / 2) >> (4 * (index % 2))),
        }
    }

    /// Element `index` of a tensor of scales, or of their inverses; 1 in other formats.
    pub fn scale(self, format: TensorFormat, index: u64) -> f32 {
        match format {
            TensorFormat::Scales(_) | TensorFormat::InverseScales(_) => {
                scale_from(self.word(index), largest_scale(format))
            }
            TensorFormat::HalfScales(_) => {
                half_scale_from(self.half_word(index), largest_scale(format)).to_f32()
            }
            TensorFormat::PowerScales(dtype) => {
                e8m0_to_f32(power_scale_from(self.byte(index), dtype))
            }
            TensorFormat::ByteScales(_) => e4m3_to_f32(byte_scale_from(self.byte(index))),
            TensorFormat::Values(_)
            | TensorFormat::Gains(_)
            | TensorFormat::Words
            | TensorFormat::PageTable
            | TensorFormat::LatentRecords { .. } => 1.0,
        }
    }

    /// The elements of a record of latents in fp8: latents times their scales, then the
    /// elements for the position. As many as `to` holds, from the first on.
    pub fn latent_record(
        self,
        latent_dim: u64,
        rope_dim: u64,
        record: u64,
        to: &mut [f32],
    ) {
        let format = TensorFormat::LatentRecords { latent_dim, rope_dim };
        let first = record * format.bytes();
        let rope = first + latent_dim + 4 * (latent_dim / LATENTS_OF_SCALE);
        let scales = TensorFormat::Scales(DType::Fp8E4m3);
        for (column, x) in (0..).zip(to) {
            *x = if column < latent_dim {
                let scale = (first + latent_dim) / 4 + column / LATENTS_OF_SCALE;
                self.value(DType::Fp8E4m3, first + column) * self.scale(scales, scale)
            } else {
                self.value(DType::Bf16, rope / 2 + column - latent_dim)
            };
        }
    }

    /// Elements `first` and on of a tensor of `dtype`, exact in `f32`.
    pub fn values(self, dtype: DType, first: u64, to: &mut [f32]) {
        for (index, value) in (first..).zip(to) {
            *value = self.value(dtype, index);
        }
    }

    /// Wrapping sum of the 32-bit little-endian words `first` up to `end` of
    /// a tensor's bytes.
    pub fn word_sum(self, format: TensorFormat, first: u64, end: u64) -> u32 {
        if format == TensorFormat::PageTable {
            let table = self.page_table(end as usize);
            return table[first as usize..]
                .iter()
                .fold(0, |sum, &word| sum.wrapping_add(word));
        }
        let mut sum = 0u32;
        let mut draws = [0; BLOCK];
        let mut draw = first / 2;
        while 2 * draw < end {
            let count = BLOCK.min((end.div_ceil(2) - draw) as usize);
            self.draw(format, draw, &mut draws[..count]);
            let words: &[u32] = bytemuck::cast_slice(&draws[..count]);
            // Ends inside a draw leave one half out.
            let skip = first.saturating_sub(2 * draw) as usize;
            let take = words.len().min((end - 2 * draw) as usize);
            sum = words[skip..take].iter().fold(sum, |sum, &word| sum.wrapping_add(word));
            draw += count as u64;
        }
        sum
    }

    fn half_word(self, index: u64) -> u16 {
        (self.bits(index / 4) >> (16 * (index % 4))) as u16
    }

    fn byte(self, index: u64) -> u8 {
        (self.bits(index / 8) >> (8 * (index % 8))) as u8
    }

    /// The page table of `pages` pages: every page number once, shuffled.
    pub fn page_table(self, pages: usize) -> Vec<u32> {
        let mut table: Vec<u32> = (0..pages as u32).collect();
        table.shuffle(&mut Pcg64Mcg::seed_from_u64(self.0));
        table
    }

    /// Writes a whole tensor of `format` into `bytes`, on all cores. A tail
    /// shorter than an element stays.
    pub fn fill(self, format: TensorFormat, bytes: &mut [u8]) {
        if format == TensorFormat::PageTable {
            let table = self.page_table(bytes.len() / 4);
            bytes[..table.len() * 4].copy_from_slice(bytemuck::cast_slice(&table));
            return;
        }
        const CHUNK_BYTES: usize = 1 << 18;
        bytes.par_chunks_mut(CHUNK_BYTES).enumerate().for_each(|(index, chunk)| {
            self.fill_from(format, (index * CHUNK_BYTES) as u64, chunk);
        });
    }

    /// Writes the bytes of a tensor of `format`, which is not a page table, from byte
    /// `first` on.
    pub fn fill_from(self, format: TensorFormat, first: u64, mut bytes: &mut [u8]) {
        let mut draws = [0; BLOCK];
        let (mut next, mut skip) = (first / 8, (first % 8) as usize);
        while !bytes.is_empty() {
            let count = (skip + bytes.len()).div_ceil(8).min(BLOCK);
            self.draw(format, next, &mut draws[..count]);
            let made = &bytemuck::cast_slice(&draws[..count])[skip..];
            let (now, later) = bytes.split_at_mut(made.len().min(bytes.len()));
            now.copy_from_slice(&made[..now.len()]);
            (bytes, skip, next) = (later, 0, next + count as u64);
        }
    }

    /// The bytes of a tensor of `format`, eight for each draw from `first` on.
    pub fn draw(self, format: TensorFormat, first: u64, draws: &mut [u64]) {
        draw_bits(self, first, draws);
        match format {
            TensorFormat::Words
            | TensorFormat::Values(DType::Int8 | DType::Int4 | DType::Fp4E2m1)
            | TensorFormat::PageTable => {}
            TensorFormat::Values(DType::F32) => encode_f32(bytemuck::cast_slice_mut(draws)),
            TensorFormat::Values(DType::Tf32) => {
                let words: &mut [u32] = bytemuck::cast_slice_mut(draws);
                words.iter_mut().for_each(|word| *word = tf32_from(*word).to_bits());
            }
            TensorFormat::Values(DType::F64) => {
                let of = |draw: u64| f64::from(f32_from(draw as u32)).to_bits();
                draws.iter_mut().for_each(|draw| *draw = of(*draw));
            }
            TensorFormat::Values(DType::Fp8E5m2) => {
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(draws);
                bytes.iter_mut().for_each(|byte| *byte = e5m2_from(*byte));
            }
            TensorFormat::Values(DType::Bf16) => {
                encode_bf16(bytemuck::cast_slice_mut(draws))
            }
            TensorFormat::Values(DType::F16) => encode_f16(bytemuck::cast_slice_mut(draws)),
            TensorFormat::Values(DType::Fp8E4m3) => {
                encode_e4m3(bytemuck::cast_slice_mut(draws))
            }
            TensorFormat::Gains(dtype) => {
                self.draw(TensorFormat::Values(dtype), first, draws);
                divide_gains(dtype, draws);
            }
            TensorFormat::Scales(_) | TensorFormat::InverseScales(_) => {
                let words: &mut [u32] = bytemuck::cast_slice_mut(draws);
                words
                    .iter_mut()
                    .for_each(|w| *w = scale_from(*w, largest_scale(format)).to_bits());
            }
            TensorFormat::HalfScales(_) => {
                let halves: &mut [u16] = bytemuck::cast_slice_mut(draws);
                halves.iter_mut().for_each(|h| {
                    *h = half_scale_from(*h, largest_scale(format)).to_bits()
                });
            }
            TensorFormat::PowerScales(dtype) => {
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(draws);
                bytes.iter_mut().for_each(|b| *b = power_scale_from(*b, dtype));
            }
            TensorFormat::ByteScales(_) => {
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(draws);
                bytes.iter_mut().for_each(|b| *b = byte_scale_from(*b));
            }
            TensorFormat::LatentRecords { latent_dim, .. } => {
                let record = format.bytes() / 8;
                let scales =
                    latent_dim / 8..latent_dim / 8 + latent_dim / LATENTS_OF_SCALE / 2;
                for (index, draw) in (first..).zip(draws) {
                    let part = match index % record {
                        at if at < scales.start => TensorFormat::Values(DType::Fp8E4m3),
                        at if scales.contains(&at) => TensorFormat::Scales(DType::Fp8E4m3),
                        _ => TensorFormat::Values(DType::Bf16),
                    };
                    self.draw(part, index, std::slice::from_mut(draw));
                }
            }
        }
    }
}

/// What tells arrays of pairs of words apart, and is the same in whatever order it is worked
/// out: the wrapping sum over all pairs of a number that depends on the pair and its index.
/// Of a part of an array, whose first pair has the index `first`.
pub fn digest(first: u64, pairs: &[u64]) -> u64 {
    let of_pair = |(index, pair): (u64, &u64)| {
        mix(pair ^ (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    };
    (first..).zip(pairs).map(of_pair).fold(0, u64::wrapping_add)
}

/// Draws made at a time: 4 KiB, which stay in the first cache until they are
/// encoded and copied.
const BLOCK: usize = 512;

// Elements are cut out of draws by position in memory.
const _: () =
    assert!(cfg!(target_endian = "little"), "ridgepoint needs a little-endian CPU");

multiversioned! {
fn draw_bits(key: Key, first: u64, draws: &mut [u64]) {
    for (index, draw) in (first..).zip(draws) {
        *draw = key.bits(index);
    }
}
}

multiversioned! {
fn encode_f32(words: &mut [u32]) {
    for word in words {
        *word = f32_from(*word).to_bits();
    }
}
}

multiversioned! {
fn encode_bf16(words: &mut [u16]) {
    for word in words {
        *word = bf16_from(*word).to_bits();
    }
}
}

multiversioned! {
fn encode_f16(words: &mut [u16]) {
    for word in words {
        *word = f16_from(*word).to_bits();
    }
}
}

fn encode_e4m3(bytes: &mut [u8]) {
    for byte in bytes {
        *byte = e4m3_from(*byte);
    }
}

/// The finaliser of splitmix64: a bijection whose output bits all depend on
/// all input bits.
#[inline(always)]
fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// 24 of the bits as a multiple of 2^-23 in [-1, 1): exact in binary32.
#[inline(always)]
fn f32_from(bits: u32) -> f32 {
    (bits as i32 >> 8) as f32 * (1.0 / (1 << 23) as f32)
}

/// Eleven of the bits as a multiple of 2^-10 in [-1, 1): exact in TensorFloat-32.
#[inline(always)]
fn tf32_from(bits: u32) -> f32 {
    (bits as i32 >> 21) as f32 * (1.0 / 1024.0)
}

/// Makes gains of values, in the formats that norms have.
fn divide_gains(dtype: DType, draws: &mut [u64]) {
    match dtype {
        DType::F32 => {
            let words: &mut [f32] = bytemuck::cast_slice_mut(draws);
            words.iter_mut().for_each(|word| *word /= GAIN_DIVISOR);
        }
        DType::F16 => {
            let halves: &mut [f16] = bytemuck::cast_slice_mut(draws);
            halves.iter_mut().for_each(|x| *x = f16::from_f32(x.to_f32() / GAIN_DIVISOR));
        }
        DType::Bf16 => {
            let halves: &mut [bf16] = bytemuck::cast_slice_mut(draws);
            halves.iter_mut().for_each(|x| *x = bf16::from_f32(x.to_f32() / GAIN_DIVISOR));
        }
        other => unreachable!("no norm has weights in {other}"),
    }
}

/// Eight of the bits as an odd multiple of 2^-8 in (-1, 1): eight significant
/// bits are what bfloat16 holds, so no rounding is left to any library.
#[inline(always)]
fn bf16_from(bits: u16) -> bf16 {
    let value = (2 * i32::from(bits as i16 >> 8) + 1) as f32 * (1.0 / 256.0);
    bf16::from_bits((value.to_bits() >> 16) as u16)
}

/// Eleven of the bits as a multiple of 2^-10 in [-1, 1): exact in binary16,
/// and zero or at least 2^-10 in size, so the exponent is only moved.
#[inline(always)]
fn f16_from(bits: u16) -> f16 {
    let wide = (f32::from(bits as i16 >> 5) * (1.0 / 1024.0)).to_bits();
    let size = (wide & 0x7fff_ffff) >> 13;
    let size = if size == 0 { 0 } else { size - (112 << 10) };
    f16::from_bits((size | wide >> 31 << 15) as u16)
}

/// An E4M3 code whose value is below 1 in size: sign and fraction are random,
/// the exponent lies in the seven codes under that of 1.
#[inline(always)]
fn e4m3_from(bits: u8) -> u8 {
    let exponent = (bits >> 3) & 7;
    if exponent == 7 { bits & 0x87 } else { bits & 0xbf }
}

/// An E5M2 code whose value is below 1 in size: sign and fraction are random, the exponent
/// lies in the seven codes under that of 1, or is that of the smallest numbers.
#[inline(always)]
const fn e5m2_from(bits: u8) -> u8 {
    if bits & 0x1c == 0x1c { bits & 0x83 } else { bits & 0x9f | 0x20 }
}

/// The value of an E5M2 code: the upper half of a number in binary16.
fn e5m2_to_f32(code: u8) -> f32 {
    f16::from_bits(u16::from(code) << 8).to_f32()
}

/// Scales are between this and half of it. An 8-bit value times its scale is about 1 in
/// size; inverses are so large that some values exceed the range of the format.
pub(crate) const fn largest_scale(format: TensorFormat) -> f32 {
    match format {
        TensorFormat::Scales(DType::Int8) => 1.0 / 128.0,
        TensorFormat::HalfScales(_) => 1.0 / 8.0,
        TensorFormat::InverseScales(DType::Int8) => 256.0,
        TensorFormat::InverseScales(_) => 512.0,
        _ => 1.0,
    }
}

/// A number between a half of `largest` and all of it, exact.
fn scale_from(bits: u32, largest: f32) -> f32 {
    largest * (0.5 + 0.5 * f32_from(bits).abs())
}

/// The same in binary16, exact for powers of two.
fn half_scale_from(bits: u16, largest: f32) -> f16 {
    f16::from_f32(largest * (0.5 + 0.5 * f16_from(bits).to_f32().abs()))
}

/// The E8M0 code of one of two powers of two, whose products with values of `dtype` are
/// at most about 1; values of E2M1 go to 6.
const fn power_scale_from(bits: u8, dtype: DType) -> u8 {
    let largest = match dtype {
        DType::Fp4E2m1 => 127 - 3,
        _ => 127,
    };
    largest - (bits & 1)
}

/// The E4M3 code of a scale from 1/16 to 15/128, for values of E2M1.
const fn byte_scale_from(bits: u8) -> u8 {
    0x18 | (bits & 7)
}

/// The value of an E8M0 code above 0.
const fn e8m0_to_f32(code: u8) -> f32 {
    f32::from_bits((code as u32) << 23)
}

/// The value of an E2M1 code, in the low half of a byte: a sign, two bits of exponent with
/// bias 1, and one of fraction (OCP MX v1.0, section 5.3.3).
const fn e2m1_to_f32(code: u8) -> f32 {
    const SIZES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let size = SIZES[(code & 7) as usize];
    if code & 8 == 0 { size } else { -size }
}

/// The E4M3 code nearest to a number, ties to even; 448 in size at most.
pub(crate) fn e4m3_from_f32(x: f32) -> u8 {
    let size = x.abs().min(448.0);
    // Values below 2^-6 are multiples of 2^-9, larger ones of an eighth of their power of
    // two.
    let exponent = ((size.to_bits() >> 23) as i32 - 127).max(-6);
    let in_eighths = f32::from_bits(((127 + 3 - exponent) as u32) << 23);
    let eighths = (size * in_eighths).round_ties_even() as i32;
    let code = ((exponent + 6) << 3) + eighths;
    code as u8 | if x.is_sign_negative() { 0x80 } else { 0 }
}

/// The value of an E4M3 code. Its bits are an f32's without the lower 20 of the fraction, and
/// with an exponent that is 120 less, subnormal numbers included: a product makes up for that.
pub(crate) fn e4m3_to_f32(code: u8) -> f32 {
    const FROM_BIAS: f32 = f32::from_bits((127 + 120) << 23);
    if code & 0x7f == 0x7f {
        return f32::NAN;
    }
    let sign = u32::from(code & 0x80) << 24;
    f32::from_bits(sign | u32::from(code & 0x7f) << 20) * FROM_BIAS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(dtype: DType, bytes: &[u8], index: usize) -> f32 {
        match dtype {
            DType::F32 | DType::Tf32 => {
                bytemuck::pod_read_unaligned(&bytes[index * 4..][..4])
            }
            DType::F64 => {
                bytemuck::pod_read_unaligned::<f64>(&bytes[index * 8..][..8]) as f32
            }
            DType::Fp8E5m2 => e5m2_to_f32(bytes[index]),
            DType::Bf16 => {
                bytemuck::pod_read_unaligned::<bf16>(&bytes[index * 2..][..2]).to_f32()
            }
            DType::F16 => {
                bytemuck::pod_read_unaligned::<f16>(&bytes[index * 2..][..2]).to_f32()
            }
            DType::Int8 => f32::from(bytes[index] as i8),
            DType::Fp8E4m3 => e4m3_to_f32(bytes[index]),
            DType::Int4 => f32::from(weights::element(bytes, index as u64)),
            DType::Fp4E2m1 => e2m1_to_f32(bytes[index / 2] >> (4 * (index % 2))),
        }
    }

    #[test]
    fn filled_elements_are_those_made_one_by_one() {
        for dtype in DType::ALL {
            let key = Key::new(7, 2, 1);
            let elements = 300_007;
            let mut bytes = vec![0; dtype.bytes_of(elements as u64) as usize];
            key.fill(TensorFormat::Values(dtype), &mut bytes);
            for index in [0, 1, 2, 3, 7, 8, 131_071, 131_072, 262_144, elements - 1] {
                let made = key.value(dtype, index as u64);
                assert_eq!(decode(dtype, &bytes, index), made, "{dtype} {index}");
            }
        }
    }

    #[test]
    fn binary16_values_are_exact() {
        for bits in 0..=u16::MAX {
            let expected = f32::from(bits as i16 >> 5) / 1024.0;
            assert_eq!(f16_from(bits).to_f32(), expected, "{bits:#06x}");
        }
    }

    #[test]
    fn filled_words_are_those_made_one_by_one() {
        let key = Key::new(7, 0, 0);
        let mut bytes = vec![0; 4 * 70_001];
        key.fill(TensorFormat::Words, &mut bytes);
        for index in [0usize, 1, 65_535, 65_536, 70_000] {
            let word: u32 = bytemuck::pod_read_unaligned(&bytes[4 * index..][..4]);
            assert_eq!(word, key.word(index as u64));
        }
    }

    #[test]
    fn sums_of_words_are_those_of_the_filled_bytes() {
        let formats = DType::ALL.map(TensorFormat::Values);
        for format in
            formats.into_iter().chain([TensorFormat::Words, TensorFormat::PageTable])
        {
            let key = Key::new(5, 1, 0);
            let mut bytes = vec![0; 4 * 40];
            key.fill(format, &mut bytes);
            let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
            for (first, end) in [(0, 40), (1, 40), (3, 4), (4, 4), (6, 33), (39, 40)] {
                // A table is drawn as a whole, so only whole ones compare.
                if format == TensorFormat::PageTable && end != 40 {
                    continue;
                }
                let sum = words[first..end].iter().fold(0, |a: u32, &b| a.wrapping_add(b));
                let made = key.word_sum(format, first as u64, end as u64);
                assert_eq!(made, sum, "{format:?} {first}..{end}");
            }
        }
    }

    #[test]
    fn values_are_centred_and_below_one_in_size() {
        for dtype in [DType::F32, DType::Bf16, DType::F16, DType::Fp8E4m3] {
            let key = Key::new(1, 0, 0);
            let values: Vec<f32> = (0..100_000).map(|i| key.value(dtype, i)).collect();
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            assert!(values.iter().all(|x| x.abs() <= 1.0), "{dtype}");
            assert!(mean.abs() < 0.01, "{dtype} has mean {mean}");
            let distinct = values
                .iter()
                .map(|x| x.to_bits())
                .collect::<std::collections::HashSet<_>>();
            assert!(distinct.len() > 50, "{dtype} has {} values", distinct.len());
        }
    }

    #[test]
    fn page_table_holds_every_page_once_and_shuffled() {
        let table = Key::new(3, 0, 2).page_table(1000);
        let mut sorted = table.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(0..1000));
        assert_ne!(table, sorted);
    }

    #[test]
    fn scales_are_those_made_one_by_one() {
        for dtype in [DType::Int8, DType::Fp8E4m3] {
            for format in [TensorFormat::Scales(dtype), TensorFormat::InverseScales(dtype)]
            {
                let key = Key::new(3, 1, 4);
                let mut bytes = vec![0; 4 * 1001];
                key.fill(format, &mut bytes);
                let largest = largest_scale(format);
                for (index, bytes) in bytes.chunks(4).enumerate() {
                    let filled: f32 = bytemuck::pod_read_unaligned(bytes);
                    assert_eq!(filled, key.scale(format, index as u64));
                    assert!((largest / 2.0..=largest).contains(&filled));
                }
            }
        }
    }

    #[test]
    fn half_scales_are_those_made_one_by_one() {
        let (key, format) = (Key::new(3, 1, 4), TensorFormat::HalfScales(DType::Int4));
        let mut bytes = vec![0; 2 * 1001];
        key.fill(format, &mut bytes);
        for (index, bytes) in bytes.chunks_exact(2).enumerate() {
            let filled = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
            assert_eq!(filled, key.scale(format, index as u64));
            assert!((1.0 / 16.0..=1.0 / 8.0).contains(&filled));
        }
    }

    /// Powers of two and scales in a byte, and their products with the largest values of
    /// their elements' format.
    #[test]
    fn byte_sized_scales_are_those_made_one_by_one() {
        for (format, largest) in [
            (TensorFormat::PowerScales(DType::Fp4E2m1), 6.0),
            (TensorFormat::PowerScales(DType::Fp8E4m3), 1.0),
            (TensorFormat::ByteScales(DType::Fp4E2m1), 6.0),
        ] {
            let key = Key::new(3, 1, 4);
            let mut bytes = vec![0; 1001];
            key.fill(format, &mut bytes);
            let mut most: f32 = 0.0;
            for (index, &code) in bytes.iter().enumerate().take(1000) {
                let made = key.scale(format, index as u64);
                let filled = match format {
                    TensorFormat::PowerScales(_) => 2f32.powi(i32::from(code) - 127),
                    _ => e4m3_to_f32(code),
                };
                assert_eq!(filled, made, "{format:?} {index}");
                most = most.max(made * largest);
            }
            assert!((0.7..=1.0).contains(&most), "{format:?}: {most}");
        }
    }

    #[test]
    fn e2m1_codes_are_those_of_the_standard() {
        let codes = |range: std::ops::Range<u8>| range.map(e2m1_to_f32).collect::<Vec<_>>();
        assert_eq!(codes(0..8), [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert_eq!(codes(9..16), [-0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]);
        // Only the low half of a byte counts.
        assert_eq!(e2m1_to_f32(0xf7), 6.0);
    }

    /// Records have the layout of FlashMLA: 512 bytes, 4 scales, 64 elements of 2 bytes.
    #[test]
    fn records_are_those_made_one_by_one() {
        let format = TensorFormat::LatentRecords { latent_dim: 512, rope_dim: 64 };
        assert_eq!(format.bytes(), 656);
        let key = Key::new(3, 1, 0);
        let mut bytes = vec![0; 656 * 9];
        key.fill(format, &mut bytes);
        for (record, bytes) in bytes.chunks(656).enumerate() {
            let mut elements = vec![0.0; 576];
            key.latent_record(512, 64, record as u64, &mut elements);
            for (column, &element) in elements.iter().enumerate() {
                let expected = if column < 512 {
                    let scale = 512 + column / 128 * 4;
                    let scale: f32 = bytemuck::pod_read_unaligned(&bytes[scale..][..4]);
                    assert!((0.5..=1.0).contains(&scale));
                    e4m3_to_f32(bytes[column]) * scale
                } else {
                    decode(DType::Bf16, &bytes[528..], column - 512)
                };
                assert_eq!(element, expected, "record {record}, column {column}");
            }
        }
    }

    /// OCP OFP8 v1.0, section 5: a sign, four bits of exponent with bias 7, and three of fraction.
    #[test]
    fn e4m3_codes_have_their_values() {
        for code in (0..=255u8).filter(|code| code & 0x7f != 0x7f) {
            let (exponent, fraction) =
                (i32::from(code >> 3 & 15), f32::from(code & 7) / 8.0);
            let size = match exponent {
                0 => fraction * 2f32.powi(-6),
                _ => (1.0 + fraction) * 2f32.powi(exponent - 7),
            };
            let value = if code & 0x80 == 0 { size } else { -size };
            assert_eq!(e4m3_to_f32(code).to_bits(), value.to_bits(), "{code:#x}");
        }
        assert!([0x7f, 0xff].into_iter().all(|code| e4m3_to_f32(code).is_nan()));
    }

    #[test]
    fn e4m3_codes_round_to_nearest_even() {
        // Every code is its own value's, and the middle between two neighbours goes to
        // the even one.
        for code in 0u8..0x7e {
            let (low, high) = (e4m3_to_f32(code), e4m3_to_f32(code + 1));
            assert_eq!(e4m3_from_f32(low), code);
            assert_eq!(e4m3_from_f32(-high), (code + 1) | 0x80);
            let middle = (low + high) / 2.0;
            assert_eq!(e4m3_from_f32(middle), code + code % 2, "{code:#x}");
            assert_eq!(e4m3_from_f32(middle * 1.001), code + 1);
            assert_eq!(e4m3_from_f32(middle * 0.999), code);
        }
        assert_eq!(e4m3_from_f32(1e9), 0x7e);
        assert_eq!(e4m3_from_f32(-0.0), 0x80);
    }

    #[test]
    fn slots_and_tensors_differ() {
        let word = |slot, tensor| Key::new(1, slot, tensor).word(0);
        let words = [word(0, 0), word(0, 1), word(1, 0), word(1, 1)];
        for (i, a) in words.iter().enumerate() {
            assert!(words[..i].iter().all(|b| a != b));
        }
    }
}
