//! Plain, obviously right answers in f64, and the rule by which a device's
//! output is held against them.
//!
//! Inputs are made again from their keys and never read from a device's
//! buffers: a device that overwrote its inputs would otherwise pass. Every
//! output element is scanned for values that no kernel may leave behind (NaN,
//! the poison, or infinity). Elements are then compared: all of them where
//! that is cheap, else a random sample of rows drawn from the seed, with the
//! first and the last.
//!
//! # The rule
//! `|x - ref| <= tolerance * (rms + |ref|)`, with the root mean square of the
//! row that the element is in. Errors of sums grow with the size of what was
//! added, not of what is left after cancellation, and the rms is the measure
//! of that; it counts as at least a quarter of what random inputs give, for
//! rows of so few elements that all may cancel. Tolerances by output format:
//!
//! * f32, 1e-4: sums of n random terms in f32 err by about `2^-24 sqrt(n)` of
//!   their rms, 5e-6 for n = 8192, and approximate exponentials add 1e-6.
//! * f16, 2^-9: rounding the output errs by 2^-11, and a kernel may round its
//!   attention weights to f16, which errs by another 2^-11 of the rms.
//! * bf16, 2^-6: the same with 2^-8.
//! * 8-bit formats have no kernels with such outputs; 2^-3 is two roundings
//!   to 3 fraction bits.
//!
//! An error below the tolerance passes. A dropped token of n moves attention
//! by about `1 / sqrt(n)` of the rms: bf16 shows it up to 4000 tokens, f32
//! for every context.

use std::ops::Range;

use half::{bf16, f16};
use rayon::prelude::*;
use thiserror::Error;

use crate::data::Key;
use crate::problem::{
    Access, DType, DecodeAttention, Format, Gemm, KvAppend, KvRead, Layout, Lengths,
    MlaDecode, MoeGemm, PageOrder, Peak, PrefillAttention, Problem, Role, SCORE_WIDTH,
    Stream, Tensor, Unit,
};
use crate::weights;

/// Factor of a step of [`Peak`] with [`Unit::Fma`], `x = x * A + B`. Lanes
/// swing around 0.25 and close in on it slowly enough that 10^5 steps still
/// tell their starts and the number of steps apart; nothing overflows or
/// becomes subnormal.
pub const FMA_A: f32 = -1.0 + 1.0 / 16384.0;

/// Summand of a step, see [`FMA_A`].
pub const FMA_B: f32 = 0.5;

/// Factor and summand of a step of [`Peak`] with [`Unit::Fma`]. In 16 bits
/// `x = 0.5 - x`: chains of the other kind would forget their starts within a
/// hundred steps.
pub const fn fma_step(dtype: DType) -> (f32, f32) {
    match dtype {
        DType::Bf16 | DType::F16 => (-1.0, 0.5),
        _ => (FMA_A, FMA_B),
    }
}

/// Element `[i][k]` of the first operand in every step of [`Peak`] with
/// [`Unit::Tensor`], before [`tensor_scale`]: small integers in no simple
/// order, so that multipliers switch about as on random data.
pub const fn tensor_a(i: u64, k: u64) -> i64 {
    ((7 * i + 13 * (k % 16) + 5) % 17) as i64 - 8
}

/// Element `[k][j]` of the second operand, see [`tensor_a`].
pub const fn tensor_b(k: u64, j: u64) -> i64 {
    ((11 * (k % 16) + 5 * j + 3) % 17) as i64 - 8
}

/// What both operands are multiplied with: eighths, which all floating-point
/// formats hold exactly, or nothing for integers.
pub const fn tensor_scale(dtype: DType) -> f64 {
    match dtype {
        DType::Int8 => 1.0,
        _ => 0.125,
    }
}

/// The word that a write stream stores everywhere. Its first bit is zero, so
/// it differs from poison.
pub fn write_pattern(seed: u64, slot: usize) -> u32 {
    Key::new(seed, slot, 0).word(0) & 0x7fff_ffff
}

/// Factor `s` of the triad `a = b + s c`. A power of two: the product is then
/// exact, so that a fused multiply-add and a product with a sum after it give
/// the same bits, and answers are compared to the last one.
pub const TRIAD_FACTOR: f32 = 0.5;

/// Values that a check may make: about 0.2 s on two cores.
const BUDGET: u64 = 40_000_000;

/// Outputs of a gemm row that are compared together.
const GEMM_COLUMNS: u64 = 64;

/// Why nothing can be compared.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct NoReference(pub String);

/// Whether an output is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that was looked at is right.
    Pass,
    /// Something is wrong.
    Fail,
}

impl Verdict {
    /// The spelling used in CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
        }
    }
}

/// What a comparison found.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Whether the output is right.
    pub verdict: Verdict,
    /// Elements compared with the reference. All are scanned for NaN and
    /// infinity.
    pub elements: u64,
    /// Largest difference; infinite where an element is not finite.
    pub max_abs_err: f64,
    /// Largest difference over `rms + |ref|`, what the tolerance is held
    /// against; infinite where an element is not finite.
    pub max_rel_err: f64,
    /// The worst wrong element: tensor, index, value, expectation, tolerance.
    /// Empty on a pass.
    pub message: String,
}

impl Check {
    fn new() -> Self {
        Check {
            verdict: Verdict::Pass,
            elements: 0,
            max_abs_err: 0.0,
            max_rel_err: 0.0,
            message: String::new(),
        }
    }

    fn failed(message: String) -> Self {
        Check {
            verdict: Verdict::Fail,
            max_abs_err: f64::INFINITY,
            max_rel_err: f64::INFINITY,
            message,
            ..Check::new()
        }
    }

    /// Both checks as one, with the message of the worse.
    fn and(self, other: Check) -> Check {
        let worse = other.verdict == Verdict::Fail
            && (self.verdict == Verdict::Pass || other.max_rel_err > self.max_rel_err);
        Check {
            verdict: if worse { Verdict::Fail } else { self.verdict },
            elements: self.elements + other.elements,
            max_abs_err: self.max_abs_err.max(other.max_abs_err),
            max_rel_err: self.max_rel_err.max(other.max_rel_err),
            message: if worse { other.message } else { self.message },
        }
    }
}

/// Compares the bytes of the output or witness tensor of a rotation slot with
/// the reference. Where rows are sampled, `round` and `slot` choose which, so
/// that several checks of a point look at several samples.
///
/// # Errors
/// When there is no reference for the problem.
pub fn check(
    problem: &Problem,
    seed: u64,
    slot: usize,
    round: u64,
    output: &[u8],
) -> Result<Check, NoReference> {
    let tensors = problem.tensors();
    let position = tensors.len() - 1;
    let tensor = tensors[position];
    if output.len() as u64 != tensor.bytes() {
        return Ok(Check::failed(format!(
            "{} has {} bytes, expected {}",
            tensor.name,
            output.len(),
            tensor.bytes()
        )));
    }
    let keys: Vec<Key> = (0..position).map(|i| Key::new(seed, slot, i)).collect();
    let target = Target { tensor, axes: axes(problem), bytes: output };
    if tensor.role != Role::Update
        && let Some(found) = target.scan()
    {
        return Ok(found);
    }
    let draws = Key::new(seed ^ round, slot, usize::MAX);
    Ok(match *problem {
        Problem::Stream(p) => match p.access {
            Access::Read => target.compare_rows(&stream_sum(p, keys[0]), draws),
            Access::Write => {
                let word = u64::from(write_pattern(seed, slot));
                target.compare_words(|_, words| words.fill(word | word << 32))
            }
            Access::Copy => target.compare_words(|first, words| {
                keys[0].draw(Format::Words, first / 2, words);
            }),
            Access::Triad => target.compare_words(|first, words| {
                triad(&keys, first, bytemuck::cast_slice_mut(words));
            }),
        },
        Problem::Peak(p) => {
            let rows = match p.unit {
                Unit::Fma => fma_lanes(p, keys[0])?,
                Unit::Tensor => tensor_tiles(p, keys[0]),
            };
            target.compare_rows(&rows, draws)
        }
        Problem::KvRead(p) => target.compare_rows(&kv_sums(p, &keys)?, draws),
        Problem::KvAppend(p) => {
            let rows = appended_rows(p, &keys);
            target.scan_rest(&rows).unwrap_or_else(|| target.compare_rows(&rows, draws))
        }
        Problem::Gemm(p) => target.compare_rows(&gemm_rows(p, &keys), draws),
        Problem::MoeGemm(p) => target.compare_rows(&moe_rows(p, &keys), draws),
        Problem::MlaDecode(p) => target.compare_rows(&mla_rows(p, &keys), draws),
        Problem::DecodeAttention(p) => target.compare_rows(&decode_rows(p, &keys), draws),
        Problem::PrefillAttention(p) => target.compare_rows(&prefill_rows(p, &keys), draws),
    })
}

/// Largest error of an output format in units of `rms + |ref|`.
pub const fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-4,
        DType::Bf16 => 1.0 / 64.0,
        DType::F16 => 1.0 / 512.0,
        DType::Fp8E4m3 | DType::Int8 | DType::Int4 => 1.0 / 8.0,
    }
}

/// A way to make part of the expected output.
struct Rows<'a> {
    /// Number of parts.
    count: u64,
    /// Values made for one part, a measure of its cost.
    cost: u64,
    /// Elements that the rms is taken over; one part may have several rows.
    width: usize,
    /// Size that an element has typically; `None` where elements must be equal
    /// to the last bit.
    typical: Option<f64>,
    /// First element of a part and its expected elements.
    make: Box<dyn Fn(u64) -> (u64, Vec<f64>) + Sync + 'a>,
}

impl Rows<'_> {
    /// Parts to compare: all, or as many as the budget allows, with the first
    /// and the last.
    fn sample(&self, draws: Key) -> Vec<u64> {
        let affordable = (BUDGET / self.cost.max(1)).max(2);
        if self.count <= affordable {
            return (0..self.count).collect();
        }
        // One out of each of equal stretches: random, distinct and spread.
        let (inner, stretches) = (self.count - 2, affordable - 2);
        let between = (0..stretches).map(|i| {
            let first = i * inner / stretches;
            let length = (i + 1) * inner / stretches - first;
            1 + first + u64::from(draws.word(i)) % length
        });
        [0, self.count - 1].into_iter().chain(between).collect()
    }
}

/// The output under examination.
struct Target<'a> {
    tensor: Tensor,
    axes: Vec<(&'static str, u64)>,
    bytes: &'a [u8],
}

impl Target<'_> {
    fn get(&self, index: u64) -> f64 {
        let size = self.tensor.format.bytes() as usize;
        let at = &self.bytes[index as usize * size..][..size];
        match self.tensor.format {
            Format::Values(DType::F32) => bytemuck::pod_read_unaligned::<f32>(at).into(),
            Format::Values(DType::Bf16) => bytemuck::pod_read_unaligned::<bf16>(at).into(),
            Format::Values(DType::F16) => bytemuck::pod_read_unaligned::<f16>(at).into(),
            Format::Values(DType::Int8) => f64::from(at[0] as i8),
            Format::Values(DType::Fp8E4m3) => f64::from(crate::data::e4m3_to_f32(at[0])),
            Format::Values(DType::Int4) | Format::LatentRecords { .. } => {
                unreachable!("no output has this format")
            }
            Format::HalfScales(_) => bytemuck::pod_read_unaligned::<f16>(at).into(),
            Format::Words | Format::PageTable => {
                bytemuck::pod_read_unaligned::<u32>(at).into()
            }
            Format::Scales(_) | Format::InverseScales(_) => {
                bytemuck::pod_read_unaligned::<f32>(at).into()
            }
        }
    }

    /// The first word that looks like poison. It may be right all the same,
    /// once in 2^32, so it is compared rather than failed.
    fn poisoned_word(&self) -> Option<u64> {
        let Format::Words = self.tensor.format else { return None };
        let words = self.bytes.as_chunks::<4>().0;
        words.iter().position(|word| *word == [0xff; 4]).map(|index| index as u64)
    }

    /// Fails on the first element that is not finite. Words are compared
    /// instead, see [`Target::poisoned_word`].
    fn scan(&self) -> Option<Check> {
        let is_wrong = |&index: &u64| !self.get(index).is_finite();
        let Format::Values(_) = self.tensor.format else { return None };
        let first = (0..self.tensor.elements).into_par_iter().find_first(is_wrong)?;
        Some(Check::failed(format!(
            "{} is {}; it was never written, or computed from what is not a number",
            self.place(first),
            self.get(first)
        )))
    }

    /// Fails on the first row that is none of `rows` and holds something else than
    /// poison: nobody was to write there.
    fn scan_rest(&self, rows: &Rows<'_>) -> Option<Check> {
        let mut wanted = vec![false; self.tensor.elements as usize / rows.width];
        for part in 0..rows.count {
            wanted[((rows.make)(part).0) as usize / rows.width] = true;
        }
        let row_bytes = rows.width * self.tensor.format.bytes() as usize;
        let row = self.bytes.par_chunks(row_bytes).zip(wanted).position_first(
            |(row, wanted)| !wanted && row.iter().any(|&byte| byte != 0xff),
        )?;
        let first = (row * rows.width) as u64;
        Some(Check::failed(format!(
            "the row of {} was written, and no new token belongs there",
            self.place(first)
        )))
    }

    /// `o at batch 3, q head 7, dim 12`.
    fn place(&self, index: u64) -> String {
        let mut rest = index;
        let mut parts: Vec<String> = Vec::new();
        for (name, extent) in self.axes.iter().rev() {
            parts.push(format!("{name} {}", rest % extent));
            rest /= extent;
        }
        parts.reverse();
        format!("{} at {}", self.tensor.name, parts.join(", "))
    }

    /// Compares every word. `expect` makes the words from an even index on,
    /// two for each element of the buffer.
    fn compare_words(&self, expect: impl Fn(u64, &mut [u64]) + Sync) -> Check {
        const BLOCK: usize = 1 << 12;
        let blocks = self.bytes.par_chunks(BLOCK * 8).enumerate();
        let wrong = blocks.find_map_first(|(block, bytes)| {
            let mut expected = [0; BLOCK];
            let first = (block * BLOCK * 2) as u64;
            expect(first, &mut expected[..bytes.len().div_ceil(8)]);
            let expected = &bytemuck::cast_slice(&expected)[..bytes.len()];
            // Whole blocks compare at the speed of memory; only a wrong one is
            // looked through.
            if bytes == expected {
                return None;
            }
            let words = bytes.as_chunks::<4>().0.iter().zip(expected.as_chunks::<4>().0);
            let words = words
                .map(|(got, want)| (u32::from_le_bytes(*got), u32::from_le_bytes(*want)));
            (first..).zip(words).find(|(_, (got, want))| got != want)
        });
        let check = Check { elements: self.tensor.elements, ..Check::new() };
        match wrong {
            None => check,
            Some((index, (got, want))) => check.and(Check::failed(format!(
                "{} is {got:#010x}, expected {want:#010x}",
                self.place(index),
            ))),
        }
    }

    fn compare_rows(&self, rows: &Rows<'_>, draws: Key) -> Check {
        let mut parts = rows.sample(draws);
        parts.extend(
            self.poisoned_word().filter(|_| rows.typical.is_none() && rows.width == 1),
        );
        let compare = |part: u64| {
            let (first, expected) = (rows.make)(part);
            let starts = (first..).step_by(rows.width);
            let rows_of = starts.zip(expected.chunks(rows.width));
            rows_of.fold(Check::new(), |check, (first, expected)| {
                check.and(self.compare_row(first, expected, rows.typical))
            })
        };
        parts.into_par_iter().map(compare).reduce(Check::new, Check::and)
    }

    fn compare_row(&self, first: u64, expected: &[f64], typical: Option<f64>) -> Check {
        let squares: f64 = expected.iter().map(|x| x * x).sum();
        let rms = (squares / expected.len() as f64).sqrt();
        // A row of one element, or few, may cancel to nearly nothing; what was
        // added did not.
        let rms = rms.max(typical.unwrap_or(0.0) / 4.0);
        let relative = match self.tensor.format {
            Format::Values(dtype) if typical.is_some() => tolerance(dtype),
            _ => 0.0,
        };
        let mut check = Check { elements: expected.len() as u64, ..Check::new() };
        for (index, &expected) in (first..).zip(expected) {
            let got = self.get(index);
            let error = (got - expected).abs();
            let scale = rms + expected.abs();
            let relative_error = if error == 0.0 { 0.0 } else { error / scale };
            check.max_abs_err = check.max_abs_err.max(error);
            // Words are equal or wrong, however near.
            if error > relative * scale && relative_error >= check.max_rel_err {
                check.verdict = Verdict::Fail;
                let place = self.place(index);
                let tolerance = relative * scale;
                check.message =
                    format!("{place} is {got}, expected {expected} within {tolerance:.3e}");
            }
            check.max_rel_err = check.max_rel_err.max(relative_error);
        }
        check
    }
}

/// Names and extents of the dimensions of a problem's output.
fn axes(problem: &Problem) -> Vec<(&'static str, u64)> {
    match *problem {
        Problem::Stream(Stream { access: Access::Read, .. }) => vec![("word", 1)],
        Problem::Stream(p) => vec![("word", written_words(p))],
        Problem::Peak(Peak { unit: Unit::Fma, lanes, .. }) => vec![("lane", lanes)],
        Problem::Peak(p) => vec![("lane", p.lanes), ("element", 128)],
        Problem::KvRead(p) => vec![("batch", p.batch), ("kv head", p.kv_heads)],
        Problem::KvAppend(p) => {
            let (heads, places) = (("kv head", p.kv_heads), ("place", p.page_size()));
            let (outer, inner) = match p.layout {
                Layout::Paged { order: PageOrder::TokenFirst, .. } => (places, heads),
                _ => (heads, places),
            };
            let pages = p.batch * p.pages();
            vec![("tensor", 2), ("page", pages), outer, inner, ("dim", p.head_dim)]
        }
        Problem::Gemm(p) => vec![("row", p.m), ("column", p.n)],
        Problem::MoeGemm(p) => {
            vec![("token", p.tokens), ("slot", p.top_k), ("column", p.n)]
        }
        Problem::MlaDecode(p) => vec![
            ("batch", p.batch),
            ("new token", p.new_tokens),
            ("q head", p.q_heads),
            ("latent", p.latent_dim),
        ],
        Problem::DecodeAttention(p) => vec![
            ("batch", p.batch),
            ("new token", p.new_tokens),
            ("q head", p.q_heads),
            ("dim", p.head_dim),
        ],
        Problem::PrefillAttention(p) => vec![
            ("batch", p.batch),
            ("q head", p.q_heads),
            ("token", p.new_tokens),
            ("dim", p.head_dim),
        ],
    }
}

/// Words that a stream writes.
fn written_words(p: Stream) -> u64 {
    Problem::Stream(p).work().bytes_written / 4
}

/// Elements of a triad's output from `first` on.
fn triad(keys: &[Key], first: u64, a: &mut [f32]) {
    let mut c = vec![0.0; a.len()];
    keys[0].values(DType::F32, first, a);
    keys[1].values(DType::F32, first, &mut c);
    for (a, c) in a.iter_mut().zip(c) {
        *a += TRIAD_FACTOR * c;
    }
}

/// The wrapping sum of every word.
fn stream_sum(p: Stream, source: Key) -> Rows<'static> {
    let make = move |_| {
        const BLOCK: u64 = 1 << 16;
        let words = p.bytes / 4;
        let block = |block: u64| {
            let first = block * BLOCK;
            source.word_sum(Format::Words, first, words.min(first + BLOCK))
        };
        let blocks = (0..words.div_ceil(BLOCK)).into_par_iter();
        (0, vec![blocks.map(block).reduce(|| 0, u32::wrapping_add).into()])
    };
    Rows { count: 1, cost: 1, width: 1, typical: None, make: Box::new(make) }
}

/// Every step of every lane, rounded as the kernel must.
fn fma_lanes(p: Peak, start: Key) -> Result<Rows<'static>, NoReference> {
    // Each step rounds once: the sum and product are exact in f32 where the
    // factor is -1, and a fused multiply-add rounds to f32 itself.
    let round: fn(f32) -> f32 = match p.dtype {
        DType::F32 => |x| x,
        DType::Bf16 => |x| bf16::from_f32(x).to_f32(),
        DType::F16 => |x| f16::from_f32(x).to_f32(),
        DType::Fp8E4m3 | DType::Int8 | DType::Int4 => {
            return Err(NoReference(format!(
                "there is no reference for fma chains in {}, which no device has",
                p.dtype
            )));
        }
    };
    let (factor, summand) = fma_step(p.dtype);
    let steps = match p.dtype {
        DType::F32 => p.steps,
        _ => p.steps.min(SETTLED_STEPS + p.steps % 2),
    };
    let make = move |lane| {
        let mut x = round(start.value(DType::F32, lane));
        for _ in 0..steps {
            x = round(x.mul_add(factor, summand));
        }
        (lane, vec![f64::from(x)])
    };
    let make = Box::new(make);
    Ok(Rows { count: p.lanes, cost: steps, width: 1, typical: None, make })
}

/// Steps after which a 16-bit chain `x = 0.5 - x` has lost all bits that it
/// will ever lose and goes to and fro between two values.
const SETTLED_STEPS: u64 = 8;

/// Each tile ends as its start and `steps` times the product of the operands.
fn tensor_tiles(p: Peak, start: Key) -> Rows<'static> {
    let scale = tensor_scale(p.dtype) * tensor_scale(p.dtype);
    let make = move |lane| {
        let end = |element: u64| {
            let (i, j) = (element / 8, element % 8);
            let product: i64 = (0..16).map(|k| tensor_a(i, k) * tensor_b(k, j)).sum();
            let sum = p.steps as f64 * product as f64 * scale;
            sum + f64::from(start.value(DType::F32, lane * 128 + element))
        };
        (lane * 128, (0..128).map(end).collect())
    };
    // The root mean square of the product's elements.
    let typical = 80.0 * scale * p.steps as f64;
    let make = Box::new(make);
    Rows { count: p.lanes, cost: 128 * 16, width: 128, typical: Some(typical), make }
}

/// Where keys and values of one problem come from.
struct Cache {
    p: KvRead,
    keys: Key,
    values: Key,
    table: Vec<u32>,
    /// Scales of keys and of values, where they have any.
    scales: Option<[Key; 2]>,
}

/// Row of a token's head, in head widths, within the pages of a cache.
fn paged_row(
    layout: (u64, PageOrder),
    kv_heads: u64,
    (page, head, place): (u64, u64, u64),
) -> u64 {
    let (page_size, order) = layout;
    match order {
        PageOrder::HeadFirst => (page * kv_heads + head) * page_size + place,
        PageOrder::TokenFirst => (page * page_size + place) * kv_heads + head,
    }
}

impl Cache {
    fn new(p: KvRead, keys: &[Key]) -> Self {
        let pages = p.layout.pages(p.batch, p.context) as usize;
        let table = if pages > 0 { keys[2].page_table(pages) } else { Vec::new() };
        Cache { p, keys: keys[0], values: keys[1], table, scales: None }
    }

    /// First element of the keys, or values, of a token.
    fn offset(&self, batch: u64, head: u64, token: u64) -> u64 {
        let KvRead { context, kv_heads, head_dim, .. } = self.p;
        let row = match self.p.layout {
            Layout::Contiguous => (batch * kv_heads + head) * context + token,
            Layout::Paged { page_size, order } => {
                let index = batch * context.div_ceil(page_size) + token / page_size;
                let page = u64::from(self.table[index as usize]);
                paged_row((page_size, order), kv_heads, (page, head, token % page_size))
            }
        };
        row * head_dim
    }

    /// A token's row of keys, or of values.
    fn row(&self, what: Part, batch: u64, head: u64, token: u64, to: &mut [f32]) {
        let tensor = [self.keys, self.values][what as usize];
        tensor.values(self.p.dtype, self.offset(batch, head, token), to);
        if let Some(scales) = &self.scales {
            let format = Format::Scales(self.p.dtype);
            let scale = scales[what as usize].scale(format, batch * self.p.kv_heads + head);
            to.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

/// Bytes of a problem's inputs that no answer depends on, as positions in
/// [`Problem::tensors`] and ranges: what lies in the cache behind the end of a request,
/// or before its window, and the weights of experts that no token has chosen. A kernel that lets them into its answer is wrong, though the
/// answer may be right by chance.
pub fn unneeded(problem: &Problem, seed: u64, slot: usize) -> Vec<(usize, Range<u64>)> {
    let key = |position| Key::new(seed, slot, position);
    match *problem {
        Problem::KvRead(p) => unneeded_rows(p, key, |length| 0..length),
        Problem::DecodeAttention(p) => {
            unneeded_rows(p.kv(), key, |length| p.visible(length))
        }
        Problem::MlaDecode(p) => {
            let latents = Latents::new(p, &[key(0), key(1)]);
            let bytes = p.record_bytes();
            let records = unneeded_tokens(p.kv(), |length| 0..length);
            let first = |(batch, token)| latents.record(batch, token) * bytes;
            records.map(first).map(|first| (0, first..first + bytes)).collect()
        }
        Problem::MoeGemm(p) => {
            let experts = p.untouched();
            let tensors = problem.tensors();
            // Weights, and their scales where there are any.
            let of_expert = |position: usize| {
                let bytes = tensors[position].bytes() / p.experts;
                experts.iter().map(move |e| (position, e * bytes..(e + 1) * bytes))
            };
            (1..tensors.len() - 1).flat_map(of_expert).collect()
        }
        _ => Vec::new(),
    }
}

/// Tokens of a cache, as requests and tokens, that are not needed.
fn unneeded_tokens(
    kv: KvRead,
    needed: impl Fn(u64) -> Range<u64>,
) -> impl Iterator<Item = (u64, u64)> {
    let allocated = match kv.layout {
        Layout::Contiguous => kv.context,
        Layout::Paged { page_size, .. } => kv.context.next_multiple_of(page_size),
    };
    (0..kv.batch).flat_map(move |request| {
        let needed = needed(kv.length(request));
        let others = (0..allocated).filter(move |token| !needed.contains(token));
        others.map(move |token| (request, token))
    })
}

/// Rows of keys and of values that are not needed.
fn unneeded_rows(
    kv: KvRead,
    key: impl Fn(usize) -> Key,
    needed: impl Fn(u64) -> Range<u64>,
) -> Vec<(usize, Range<u64>)> {
    let cache = Cache::new(kv, &[key(0), key(1), key(2)]);
    let row_bytes = kv.head_dim * kv.dtype.bytes();
    let mut found = Vec::new();
    for (request, token) in unneeded_tokens(kv, needed) {
        for head in 0..kv.kv_heads {
            let first = cache.offset(request, head, token) * kv.dtype.bytes();
            found.extend([0, 1].map(|position| (position, first..first + row_bytes)));
        }
    }
    found
}

/// What of a token is cached.
#[derive(Clone, Copy)]
enum Part {
    Key,
    Value,
}

/// For each request and head, the wrapping sum of the words of its keys and
/// values.
fn kv_sums(p: KvRead, keys: &[Key]) -> Result<Rows<'static>, NoReference> {
    let row_bytes = p.head_dim * p.dtype.bytes();
    if !row_bytes.is_multiple_of(4) {
        return Err(NoReference(format!(
            "a row of head_dim = {} is {row_bytes} bytes, which are no whole words",
            p.head_dim
        )));
    }
    let cache = Cache::new(p, keys);
    let make = move |pair| {
        let mut sum = 0u32;
        for token in 0..p.length(pair / p.kv_heads) {
            let offset = cache.offset(pair / p.kv_heads, pair % p.kv_heads, token);
            let first = offset * p.dtype.bytes() / 4;
            for tensor in [cache.keys, cache.values] {
                let format = Format::Values(p.dtype);
                sum =
                    sum.wrapping_add(tensor.word_sum(format, first, first + row_bytes / 4));
            }
        }
        (pair, vec![f64::from(sum)])
    };
    // Whole words cost a third of what single values do.
    let cost = 2 * p.context * row_bytes / 12;
    let count = p.batch * p.kv_heads;
    Ok(Rows { count, cost, width: 1, typical: None, make: Box::new(make) })
}

/// The rows of new keys and values, as the cache is to hold them.
fn appended_rows(p: KvAppend, keys: &[Key]) -> Rows<'static> {
    let Layout::Paged { page_size, order } = p.layout else {
        unreachable!("tokens are appended to pages")
    };
    let pages = p.batch * p.pages();
    let table = keys[2].page_table(pages as usize);
    let new = [keys[0], keys[1]];
    let scales = p.kv_dtype.is_scaled().then(|| [keys[3], keys[4]]);
    let rows_of_part = p.batch * p.new_tokens * p.kv_heads;
    let make = move |row: u64| {
        let (part, row) = ((row / rows_of_part) as usize, row % rows_of_part);
        let (token, head) = (row / p.kv_heads, row % p.kv_heads);
        let (batch, token) = (token / p.new_tokens, token % p.new_tokens);
        let place = p.first_place(batch) + token;
        let page = u64::from(table[(batch * p.pages() + place / page_size) as usize]);
        let at = (page, head, place % page_size);
        let to = part as u64 * pages * page_size * p.kv_heads
            + paged_row((page_size, order), p.kv_heads, at);
        let inverse_scale = scales.map_or(1.0, |scales| {
            let format = Format::InverseScales(p.kv_dtype);
            scales[part].scale(format, batch * p.kv_heads + head)
        });
        let stored = |dim: u64| {
            let x = new[part].value(p.dtype, row * p.head_dim + dim);
            round_to(p.kv_dtype, x * inverse_scale)
        };
        (to * p.head_dim, (0..p.head_dim).map(stored).collect())
    };
    let (count, width) = (2 * rows_of_part, p.head_dim as usize);
    Rows { count, cost: p.head_dim, width, typical: None, make: Box::new(make) }
}

/// The number of a format nearest to `x`, ties to even, within its range.
fn round_to(dtype: DType, x: f32) -> f64 {
    match dtype {
        DType::F32 => x.into(),
        DType::Bf16 => bf16::from_f32(x).into(),
        DType::F16 => f16::from_f32(x).into(),
        DType::Fp8E4m3 => crate::data::e4m3_to_f32(crate::data::e4m3_from_f32(x)).into(),
        DType::Int8 => x.round_ties_even().clamp(-128.0, 127.0).into(),
        DType::Int4 => x.round_ties_even().clamp(-8.0, 7.0).into(),
    }
}

/// Matrices of weights `[n][k]`, as problems define them.
struct Weights {
    dtype: DType,
    n: u64,
    k: u64,
    numbers: Key,
    /// Of scales, where there are any.
    scales: Option<Key>,
}

impl Weights {
    /// Inputs of a problem whose second tensor are weights, and whose third, if there is
    /// one, their scales.
    fn new(dtype: DType, (n, k): (u64, u64), keys: &[Key]) -> Self {
        let scales = dtype.is_scaled().then(|| keys[2]);
        Weights { dtype, n, k, numbers: keys[1], scales }
    }

    /// The row that makes an output feature of a matrix.
    fn row(&self, matrix: u64, feature: u64, to: &mut [f32]) {
        let first = matrix * self.n * self.k;
        if self.dtype == DType::Int4 {
            for (column, x) in (0..).zip(&mut *to) {
                let nibble = first + weights::place(self.k, feature, column);
                *x = self.numbers.value(DType::Int4, nibble);
            }
        } else {
            self.numbers.values(self.dtype, first + feature * self.k, to);
        }
        let Some(scales) = self.scales else { return };
        if self.dtype == DType::Int4 {
            let groups = self.k / weights::GROUP_COLUMNS;
            for (group, xs) in (0..).zip(to.chunks_mut(weights::GROUP_COLUMNS as usize)) {
                let index = (matrix * groups + group) * self.n + feature;
                let scale = scales.scale(Format::HalfScales(self.dtype), index);
                xs.iter_mut().for_each(|x| *x *= scale);
            }
        } else {
            let scale = scales.scale(Format::Scales(self.dtype), matrix * self.n + feature);
            to.iter_mut().for_each(|x| *x *= scale);
        }
    }

    /// Size of a sum of `k` products of activations and weights. Both are uniform in
    /// [-1, 1), of variance 1/3; weights that are numbers times scales less, since scales
    /// are between a half and 1 of what they could be.
    fn typical(&self) -> f64 {
        let variance = match self.dtype {
            DType::F32 | DType::Bf16 | DType::F16 => 1.0 / 3.0,
            // The mean square of a scale is 7/12 of the largest.
            DType::Int8 | DType::Int4 => 7.0 / 36.0,
            // Exponents are evenly spread over seven powers of two below 1, so that the
            // mean square of a number is 0.09.
            DType::Fp8E4m3 => 7.0 / 12.0 * 0.09,
        };
        (self.k as f64 / 3.0 * variance).sqrt()
    }
}

/// Stretches of columns of each row of the output of a layer with weights. `source` gives
/// the row of activations and the matrix that make a row of the output.
fn linear_rows<'a>(
    rows: u64,
    (a_key, a_dtype): (Key, DType),
    weights: Weights,
    source: impl Fn(u64) -> (u64, u64) + Sync + 'a,
) -> Rows<'a> {
    let (n, k) = (weights.n, weights.k);
    let stretches = n.div_ceil(GEMM_COLUMNS);
    let cost = k * (GEMM_COLUMNS.min(n) + 1);
    let typical = Some(weights.typical());
    let make = move |part: u64| {
        let (row, first) = (part / stretches, part % stretches * GEMM_COLUMNS);
        let (input_row, matrix) = source(row);
        let mut a = vec![0.0; k as usize];
        let mut b = a.clone();
        a_key.values(a_dtype, input_row * k, &mut a);
        let columns = first..n.min(first + GEMM_COLUMNS);
        let products = columns.map(|column| {
            weights.row(matrix, column, &mut b);
            dot(&a, &b)
        });
        (row * n + first, products.collect())
    };
    let width = GEMM_COLUMNS.min(n) as usize;
    Rows { count: rows * stretches, cost, width, typical, make: Box::new(make) }
}

fn gemm_rows(p: Gemm, keys: &[Key]) -> Rows<'static> {
    let weights = Weights::new(p.w_dtype, (p.n, p.k), keys);
    linear_rows(p.m, (keys[0], p.dtype), weights, |row| (row, 0))
}

fn moe_rows(p: MoeGemm, keys: &[Key]) -> Rows<'static> {
    let weights = Weights::new(p.w_dtype, (p.n, p.k), keys);
    let experts = p.expert_of_rows();
    linear_rows(p.rows(), (keys[0], p.dtype), weights, move |row| {
        (p.input_row(row), experts[row as usize].into())
    })
}

/// All query heads of a new token that share a key and value head.
fn decode_rows(p: DecodeAttention, keys: &[Key]) -> Rows<'static> {
    let mut cache = Cache::new(p.kv(), keys);
    let q = keys.len() - 1;
    cache.scales = p.kv_dtype.is_scaled().then(|| [keys[q - 2], keys[q - 1]]);
    let q_key = keys[q];
    let group_elements = p.group() * p.head_dim;
    let make = move |part: u64| {
        let mut queries = vec![0.0; group_elements as usize];
        q_key.values(p.dtype, part * group_elements, &mut queries);
        let (token, head) = (part / p.kv_heads, part % p.kv_heads);
        let (batch, token) = (token / p.new_tokens, token % p.new_tokens);
        let tokens = p.attended(cache.p.length(batch), token);
        let attention = Attention::of_heads(p.head_dim);
        let row = |what, token, to: &mut [f32]| cache.row(what, batch, head, token, to);
        (part * group_elements, attention.of(&queries, tokens, row))
    };
    // Making a value costs about as much as two multiply-adds.
    let cost = p.context * p.head_dim * (2 + p.group());
    Rows {
        count: p.batch * p.new_tokens * p.kv_heads,
        cost,
        width: p.head_dim as usize,
        typical: Some(typical_attention(p.context)),
        make: Box::new(make),
    }
}

/// All query heads of a new token, which share the latents.
fn mla_rows(p: MlaDecode, keys: &[Key]) -> Rows<'static> {
    let latents = Latents::new(p, keys);
    let q_key = keys[keys.len() - 1];
    let attention = Attention {
        key_dim: p.key_dim() as usize,
        value_dim: p.latent_dim as usize,
        scale: 1.0 / (SCORE_WIDTH as f64).sqrt(),
    };
    let make = move |part: u64| {
        let mut queries = vec![0.0; (p.q_heads * p.key_dim()) as usize];
        q_key.values(p.dtype, part * p.q_heads * p.key_dim(), &mut queries);
        let (batch, token) = (part / p.new_tokens, part % p.new_tokens);
        let tokens = p.attended(p.length(batch), token);
        // Values are the first numbers of keys.
        let row = |_, token, to: &mut [f32]| latents.row(batch, token, to);
        (part * p.q_heads * p.latent_dim, attention.of(&queries, tokens, row))
    };
    Rows {
        count: p.batch * p.new_tokens,
        cost: p.context * p.key_dim() * (2 + p.q_heads),
        width: p.latent_dim as usize,
        typical: Some(typical_attention(p.context)),
        make: Box::new(make),
    }
}

/// Where the cache of latent attention comes from.
struct Latents {
    p: MlaDecode,
    numbers: Key,
    table: Vec<u32>,
}

impl Latents {
    fn new(p: MlaDecode, keys: &[Key]) -> Self {
        let pages = p.layout.pages(p.batch, p.context) as usize;
        let table = if pages > 0 { keys[1].page_table(pages) } else { Vec::new() };
        Latents { p, numbers: keys[0], table }
    }

    /// Number of a token's record.
    fn record(&self, batch: u64, token: u64) -> u64 {
        match self.p.layout {
            Layout::Contiguous => batch * self.p.context + token,
            Layout::Paged { page_size, .. } => {
                let index = batch * self.p.context.div_ceil(page_size) + token / page_size;
                u64::from(self.table[index as usize]) * page_size + token % page_size
            }
        }
    }

    /// As many numbers of a token's record as `to` holds.
    fn row(&self, batch: u64, token: u64, to: &mut [f32]) {
        let (p, record) = (&self.p, self.record(batch, token));
        if p.kv_dtype.is_scaled() {
            self.numbers.latent_record(p.latent_dim, p.rope_dim, record, to);
        } else {
            self.numbers.values(p.kv_dtype, record * p.key_dim(), to);
        }
    }
}

/// Size of an output of attention over `context` tokens: nearly the mean of as
/// many values uniform in [-1, 1), of variance 1/3 each.
fn typical_attention(context: u64) -> f64 {
    (1.0 / 3.0 / context as f64).sqrt()
}

/// One new token of one query head.
fn prefill_rows(p: PrefillAttention, keys: &[Key]) -> Rows<'static> {
    let kv = KvRead {
        batch: p.batch,
        context: p.context(),
        kv_heads: p.kv_heads,
        head_dim: p.head_dim,
        dtype: p.kv_dtype,
        layout: Layout::Contiguous,
        lengths: Lengths::Equal,
    };
    let cache = Cache::new(kv, keys);
    let q_key = keys[2];
    let make = move |row: u64| {
        let (head, token) = (row / p.new_tokens, row % p.new_tokens);
        let mut query = vec![0.0; p.head_dim as usize];
        q_key.values(p.dtype, row * p.head_dim, &mut query);
        let kv_head = head % p.q_heads / p.group();
        let attention = Attention::of_heads(p.head_dim);
        let batch = head / p.q_heads;
        let row_of =
            |what, token, to: &mut [f32]| cache.row(what, batch, kv_head, token, to);
        (row * p.head_dim, attention.of(&query, p.attended(token), row_of))
    };
    Rows {
        count: p.batch * p.q_heads * p.new_tokens,
        cost: p.context() * p.head_dim * 3,
        width: p.head_dim as usize,
        typical: Some(typical_attention(p.context())),
        make: Box::new(make),
    }
}

/// Widths of attention, and what scores are multiplied with.
struct Attention {
    key_dim: usize,
    value_dim: usize,
    scale: f64,
}

impl Attention {
    /// Keys and values as wide as a head, `softmax(q k^T / sqrt(d)) v`.
    fn of_heads(head_dim: u64) -> Self {
        let dim = head_dim as usize;
        Attention { key_dim: dim, value_dim: dim, scale: 1.0 / (dim as f64).sqrt() }
    }

    /// `softmax(scale q k^T) v` over some tokens for one or more queries, in the order
    /// in which it is written. `row` makes the key or the value of a token.
    fn of(
        &self,
        queries: &[f32],
        tokens: Range<u64>,
        row: impl Fn(Part, u64, &mut [f32]),
    ) -> Vec<f64> {
        let mut key = vec![0.0; self.key_dim];
        let mut scores = vec![Vec::new(); queries.len() / self.key_dim];
        for token in tokens.clone() {
            row(Part::Key, token, &mut key);
            for (query, scores) in queries.chunks(self.key_dim).zip(&mut scores) {
                scores.push(dot(query, &key) * self.scale);
            }
        }
        for scores in &mut scores {
            softmax(scores);
        }
        let mut value = vec![0.0; self.value_dim];
        let mut out = vec![0.0; scores.len() * self.value_dim];
        for token in tokens.clone() {
            row(Part::Value, token, &mut value);
            for (out, scores) in out.chunks_mut(self.value_dim).zip(&scores) {
                for (out, &value) in out.iter_mut().zip(&value) {
                    *out += scores[(token - tokens.start) as usize] * f64::from(value);
                }
            }
        }
        out
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn softmax(scores: &mut [f64]) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f64 = scores.iter().sum();
    scores.iter_mut().for_each(|x| *x /= sum);
}

#[cfg(test)]
mod tests;
