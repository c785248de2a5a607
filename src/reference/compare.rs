//! How an output is held against the expected one: the rule, and what a comparison found.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::data::{self, Key};
use crate::format::{DType, Role, Tensor, TensorFormat};

/// Values that a check may make: about 0.2 s on two cores.
pub(super) const BUDGET: u64 = 40_000_000;

/// Fewest rows that are compared, whatever they cost.
pub(super) const FEWEST_ROWS: u64 = 64;

/// Makes words of an output from an even index on, two for each element of the buffer.
pub(super) type MakeWords = Box<dyn Fn(u64, &mut [u64]) + Sync>;

/// The [digest](crate::data::digest) of so many pairs of words, on all cores.
pub(super) fn digest_of(pairs: u64, make: &MakeWords) -> u64 {
    const BLOCK: u64 = 1 << 12;
    // Not on the stack: parallel halves of halves, and of other checks that a thread takes up
    // while it waits, would all have the room for it in their frames.
    let room = || vec![0; BLOCK as usize];
    let block = |words: &mut Vec<u64>, block: u64| {
        let first = block * BLOCK;
        let words = &mut words[..BLOCK.min(pairs - first) as usize];
        make(2 * first, words);
        data::digest(first, words)
    };
    let blocks = (0..pairs.div_ceil(BLOCK)).into_par_iter();
    blocks.map_init(room, block).reduce(|| 0, u64::wrapping_add)
}

/// Whether an output is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckVerdict {
    /// Everything that was looked at is right.
    Pass,
    /// Something is wrong.
    Fail,
}

impl CheckVerdict {
    /// The spelling used in CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            CheckVerdict::Pass => "pass",
            CheckVerdict::Fail => "fail",
        }
    }
}

/// What a comparison found.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Whether the output is right.
    pub verdict: CheckVerdict,
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
    /// Of the rows that were compared, until their sums are judged.
    sums: RowSums,
}

/// What tells a wrong factor, or rounding that is not to nearest, from errors of either
/// sign: sums over rows of the squares of expected values, of those times the output, and
/// of the squares of the former.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct RowSums {
    energy: f64,
    product: f64,
    energy_squared: f64,
}

impl RowSums {
    fn and(self, other: Self) -> Self {
        RowSums {
            energy: self.energy + other.energy,
            product: self.product + other.product,
            energy_squared: self.energy_squared + other.energy_squared,
        }
    }

    /// The factor between output and expectation, and how far from 1 it may be, see
    /// [`crate::reference`]. `None` where nothing was added up.
    fn factor(self, roundoff: f64) -> Option<(f64, f64)> {
        // As many rows of equal size would have the same sums.
        let rows = self.energy * self.energy / self.energy_squared;
        let bound = SUM_ERROR + 6.0 * roundoff / (3.0 * rows).sqrt();
        (self.energy > 0.0).then(|| (self.product / self.energy, bound))
    }
}

/// Error of sums in f32 that has the same sign everywhere: tensor cores cut off what they
/// add up.
const SUM_ERROR: f64 = 1e-4;

/// Largest relative error of rounding to nearest, 2^-p with a significand of p bits.
const fn unit_roundoff(dtype: DType) -> f64 {
    match dtype {
        DType::F32 | DType::Tf32 | DType::F64 => 1.0 / (1 << 24) as f64,
        DType::Bf16 => 1.0 / 256.0,
        DType::F16 => 1.0 / 2048.0,
        DType::Fp8E4m3 | DType::Fp8E5m2 | DType::Int8 | DType::Int4 | DType::Fp4E2m1 => {
            1.0 / 16.0
        }
    }
}

impl Check {
    pub(super) fn new() -> Self {
        Check {
            verdict: CheckVerdict::Pass,
            elements: 0,
            max_abs_err: 0.0,
            max_rel_err: 0.0,
            message: String::new(),
            sums: RowSums::default(),
        }
    }

    /// So many elements that are right.
    pub(super) fn of(elements: u64) -> Self {
        Check { elements, ..Check::new() }
    }

    pub(super) fn failed(message: String) -> Self {
        Check {
            verdict: CheckVerdict::Fail,
            max_abs_err: f64::INFINITY,
            max_rel_err: f64::INFINITY,
            message,
            ..Check::new()
        }
    }

    /// Both checks as one, with the message of the worse.
    pub(super) fn and(self, other: Check) -> Check {
        let worse = other.verdict == CheckVerdict::Fail
            && (self.verdict == CheckVerdict::Pass || other.max_rel_err > self.max_rel_err);
        Check {
            verdict: if worse { CheckVerdict::Fail } else { self.verdict },
            elements: self.elements + other.elements,
            max_abs_err: self.max_abs_err.max(other.max_abs_err),
            max_rel_err: self.max_rel_err.max(other.max_rel_err),
            message: if worse { other.message } else { self.message },
            sums: self.sums.and(other.sums),
        }
    }

    /// Judges the sums over the rows of an output of a format, whose terms were rounded.
    fn judged(self, tensor: &Tensor, roundoff: f64) -> Check {
        let (sums, check) = (self.sums, Check { sums: RowSums::default(), ..self });
        let TensorFormat::Values(dtype) = tensor.format else { return check };
        match sums.factor(unit_roundoff(dtype) + roundoff) {
            Some((factor, bound)) if (factor - 1.0).abs() > bound => {
                let message = format!(
                    "{} is {factor:.5} times the expected one in the mean, where 1 +- {bound:.5} \
                     is what rounding to nearest does: a factor is wrong, or rounding is not to \
                     nearest",
                    tensor.name
                );
                // Elements that are further off say more.
                match check.verdict {
                    CheckVerdict::Pass => {
                        Check { verdict: CheckVerdict::Fail, message, ..check }
                    }
                    CheckVerdict::Fail => check,
                }
            }
            _ => check,
        }
    }
}

/// Errors of an output in units of its `rms`, in roundoffs of its terms. Of terms that are
/// rounded to nearest the errors are independent; their sum is 0.42 roundoffs of the row's `rms`
/// in the mean square, where elements have random signs, since the sum of the terms is as large
/// as their own errors are parts of them. Seven of these.
const ROUNDOFFS: f64 = 3.0;

/// Largest error of an output format in units of `rms + |ref|`.
pub const fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 | DType::Tf32 | DType::F64 => 1e-4,
        DType::Bf16 => 1.0 / 64.0,
        DType::F16 => 1.0 / 512.0,
        DType::Fp8E4m3 | DType::Fp8E5m2 | DType::Int8 | DType::Int4 | DType::Fp4E2m1 => {
            1.0 / 8.0
        }
    }
}

/// What an answer allows beside the [`tolerance`] of its format.
#[derive(Clone, Copy)]
pub(super) struct Tolerance {
    /// What that is multiplied with: see [`super::Answer::tolerance_factor`].
    pub factor: f64,
    /// What is added for sums in fixed point, see [`crate::reference`].
    pub of_sums: f64,
    /// Of terms of sums: see [`super::Answer::roundoff`].
    pub roundoff: f64,
}

/// The value of a format nearest to `x`, ties to even, within its range.
pub(super) fn round_to(dtype: DType, x: f32) -> f64 {
    match dtype {
        DType::F32 | DType::Tf32 | DType::F64 => x.into(),
        DType::Bf16 => bf16::from_f32(x).into(),
        DType::F16 => f16::from_f32(x).into(),
        DType::Fp8E4m3 => crate::data::e4m3_to_f32(crate::data::e4m3_from_f32(x)).into(),
        DType::Int8 => x.round_ties_even().clamp(-128.0, 127.0).into(),
        DType::Int4 => x.round_ties_even().clamp(-8.0, 7.0).into(),
        DType::Fp4E2m1 | DType::Fp8E5m2 => unreachable!("no cache is in {dtype}"),
    }
}

/// A way to make part of the expected output.
pub(super) struct Rows<'a> {
    /// Number of parts.
    pub count: u64,
    /// Values made for one part, a measure of its cost.
    pub cost: u64,
    /// Rows of a part.
    pub rows: u64,
    /// Elements that the rms is taken over; one part may have several rows.
    pub width: usize,
    /// Size that an element has typically; `None` where elements must be equal
    /// to the last bit.
    pub typical: Option<f64>,
    /// First element of a part and its expected elements.
    pub make: Box<dyn Fn(u64) -> (u64, Vec<f64>) + Sync + 'a>,
}

impl Rows<'_> {
    /// Parts to compare: all, or as many as the budget allows, with the first
    /// and the last.
    pub(super) fn sample(&self, draws: Key) -> Vec<u64> {
        let fewest = FEWEST_ROWS.div_ceil(self.rows.max(1)).max(2);
        let affordable = (BUDGET / self.cost.max(1)).max(fewest);
        if self.count <= affordable {
            return (0..self.count).collect();
        }
        // One out of each of equal ranges: random, distinct and spread.
        let (inner, ranges) = (self.count - 2, affordable - 2);
        let between = (0..ranges).map(|i| {
            let first = i * inner / ranges;
            let length = (i + 1) * inner / ranges - first;
            1 + first + u64::from(draws.word(i)) % length
        });
        [0, self.count - 1].into_iter().chain(between).collect()
    }

    /// The last parts, as many as the budget allows.
    fn last(&self) -> Vec<u64> {
        let affordable = (BUDGET / self.cost.max(1)).max(1);
        (self.count.saturating_sub(affordable)..self.count).collect()
    }
}

/// The output under examination.
pub(super) struct CheckedOutput<'a> {
    pub tensor: Tensor,
    pub axes: Vec<(&'static str, u64)>,
    /// All of it, or the end of it where the rest was not made.
    pub bytes: &'a [u8],
    /// The element that the bytes begin with.
    pub first: u64,
    /// Chooses the sample where rows are sampled.
    pub draws: Key,
    pub tolerance: Tolerance,
}

impl CheckedOutput<'_> {
    fn get(&self, index: u64) -> f64 {
        let size = self.tensor.format.bytes() as usize;
        let at = &self.bytes[(index - self.first) as usize * size..][..size];
        match self.tensor.format {
            TensorFormat::Values(DType::F32 | DType::Tf32) => {
                bytemuck::pod_read_unaligned::<f32>(at).into()
            }
            TensorFormat::Values(DType::Bf16) => {
                bytemuck::pod_read_unaligned::<bf16>(at).into()
            }
            TensorFormat::Values(DType::F16) => {
                bytemuck::pod_read_unaligned::<f16>(at).into()
            }
            TensorFormat::Values(DType::Int8) => f64::from(at[0] as i8),
            TensorFormat::Values(DType::Fp8E4m3) => {
                f64::from(crate::data::e4m3_to_f32(at[0]))
            }
            TensorFormat::Values(
                DType::Int4 | DType::Fp4E2m1 | DType::Fp8E5m2 | DType::F64,
            )
            | TensorFormat::PowerScales(_)
            | TensorFormat::ByteScales(_)
            | TensorFormat::Gains(_)
            | TensorFormat::LatentRecords { .. } => {
                unreachable!("no output has this format")
            }
            TensorFormat::HalfScales(_) => bytemuck::pod_read_unaligned::<f16>(at).into(),
            TensorFormat::Words | TensorFormat::PageTable => {
                bytemuck::pod_read_unaligned::<u32>(at).into()
            }
            TensorFormat::Scales(_) | TensorFormat::InverseScales(_) => {
                bytemuck::pod_read_unaligned::<f32>(at).into()
            }
        }
    }

    /// One of several outputs, which begins at an element of all of them; `None` where none of
    /// its bytes are there.
    pub(super) fn part(
        &self,
        tensor: Tensor,
        axes: Vec<(&'static str, u64)>,
        start: u64,
    ) -> Option<CheckedOutput<'_>> {
        let (first, end) = (self.first.max(start), start + tensor.elements);
        let size = tensor.format.bytes();
        let byte = |element: u64| ((element - self.first) * size) as usize;
        (first < end).then(|| CheckedOutput {
            tensor,
            axes,
            bytes: &self.bytes[byte(first)..byte(end)],
            first: first - start,
            draws: self.draws,
            tolerance: self.tolerance,
        })
    }

    /// The first word that looks like poison. It may be right all the same,
    /// once in 2^32, so it is compared rather than failed.
    fn poisoned_word(&self) -> Option<u64> {
        let TensorFormat::Words = self.tensor.format else { return None };
        let words = self.bytes.as_chunks::<4>().0;
        let found = words.iter().position(|word| *word == [0xff; 4])?;
        Some(self.first + found as u64)
    }

    /// Fails on the first element that is not finite. Words are compared
    /// instead, see [`CheckedOutput::poisoned_word`].
    pub(super) fn scan(&self) -> Option<Check> {
        let is_wrong = |&index: &u64| !self.get(index).is_finite();
        let TensorFormat::Values(_) = self.tensor.format else { return None };
        let elements = self.first..self.tensor.elements;
        let first = elements.into_par_iter().find_first(is_wrong)?;
        Some(Check::failed(format!(
            "{} is {}; it was never written, or computed from what is not a number",
            self.place(first),
            self.get(first)
        )))
    }

    /// Fails on the first row of so many elements that is wanted and not finite, or that is
    /// not wanted and holds something else than poison.
    pub(super) fn scan_rows(
        &self,
        width: u64,
        is_wanted: impl Fn(u64) -> bool + Sync,
    ) -> Option<Check> {
        let size = self.tensor.format.bytes();
        let wrong = |&row: &u64| {
            let elements = row * width..(row + 1) * width;
            if is_wanted(row) {
                return elements.into_iter().any(|index| !self.get(index).is_finite());
            }
            let first = ((elements.start - self.first) * size) as usize;
            self.bytes[first..][..(width * size) as usize].iter().any(|&byte| byte != 0xff)
        };
        let rows = self.first.div_ceil(width)..self.tensor.elements / width;
        let row = rows.into_par_iter().find_first(wrong)?;
        let what = match is_wanted(row) {
            true => "has what is not finite: it was never written, or computed from such",
            false => "was written, and no row belongs there",
        };
        Some(Check::failed(format!("the row of {} {what}", self.place(row * width))))
    }

    /// Fails on the first row that is none of `rows` and holds something else than
    /// poison: nobody was to write there.
    pub(super) fn scan_rest(&self, rows: &Rows<'_>) -> Option<Check> {
        let width = rows.width as u64;
        let mut wanted =
            vec![false; ((self.tensor.elements - self.first) / width) as usize];
        for part in 0..rows.count {
            if let Some(index) = (rows.make)(part).0.checked_sub(self.first) {
                wanted[(index / width) as usize] = true;
            }
        }
        let row_bytes = rows.width * self.tensor.format.bytes() as usize;
        let row = self.bytes.par_chunks(row_bytes).zip(wanted).position_first(
            |(row, wanted)| !wanted && row.iter().any(|&byte| byte != 0xff),
        )?;
        let first = self.first + row as u64 * width;
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
    pub(super) fn compare_words(&self, expect: impl Fn(u64, &mut [u64]) + Sync) -> Check {
        const BLOCK: usize = 1 << 12;
        let blocks = self.bytes.par_chunks(BLOCK * 8).enumerate();
        // Not on the stack, as in `digest_of`.
        let room = || vec![0; BLOCK];
        let wrong_of = |expected: &mut Vec<u64>, (block, bytes): (usize, &[u8])| {
            let first = self.first + (block * BLOCK * 2) as u64;
            expect(first, &mut expected[..bytes.len().div_ceil(8)]);
            let expected = &bytemuck::cast_slice(expected)[..bytes.len()];
            // Whole blocks compare at the speed of memory; only a wrong one is
            // looked through.
            if bytes == expected {
                return None;
            }
            let words = bytes.as_chunks::<4>().0.iter().zip(expected.as_chunks::<4>().0);
            let words = words
                .map(|(got, want)| (u32::from_le_bytes(*got), u32::from_le_bytes(*want)));
            (first..).zip(words).find(|(_, (got, want))| got != want)
        };
        let wrong = blocks.map_init(room, wrong_of).find_map_first(|wrong| wrong);
        let elements = self.tensor.elements - self.first;
        let check = Check::of(elements);
        match wrong {
            None => check,
            Some((index, (got, want))) => check.and(Check::failed(format!(
                "{} is {got:#010x}, expected {want:#010x}",
                self.place(index),
            ))),
        }
    }

    pub(super) fn compare_rows(&self, rows: &Rows<'_>) -> Check {
        let mut parts = match (self.first, self.tensor.role) {
            (0, _) => rows.sample(self.draws),
            // Rows of an update lie anywhere.
            (_, Role::Update) => (0..rows.count).collect(),
            _ => rows.last(),
        };
        parts.extend(
            self.poisoned_word().filter(|_| rows.typical.is_none() && rows.width == 1),
        );
        let compare = |part: u64| {
            let (first, expected) = (rows.make)(part);
            let starts = (first..).step_by(rows.width);
            let rows_of = starts.zip(expected.chunks(rows.width));
            let rows_of = rows_of.filter(|(first, _)| *first >= self.first);
            rows_of.fold(Check::new(), |check, (first, expected)| {
                check.and(self.compare_row(first, expected, rows.typical))
            })
        };
        let check = parts.into_par_iter().map(compare).reduce(Check::new, Check::and);
        check.judged(&self.tensor, self.tolerance.roundoff)
    }

    fn compare_row(&self, first: u64, expected: &[f64], typical: Option<f64>) -> Check {
        let squares: f64 = expected.iter().map(|x| x * x).sum();
        let rms = (squares / expected.len() as f64).sqrt();
        // A row of one element, or few, may cancel to nearly nothing; what was
        // added did not.
        let rms = rms.max(typical.unwrap_or(0.0) / 4.0);
        let relative = match self.tensor.format {
            TensorFormat::Values(dtype) if typical.is_some() => {
                let Tolerance { factor, of_sums, roundoff } = self.tolerance;
                factor * tolerance(dtype) + of_sums + ROUNDOFFS * roundoff
            }
            _ => 0.0,
        };
        let mut check = Check::of(expected.len() as u64);
        if typical.is_some() {
            let of = (first..).zip(expected).map(|(index, x)| self.get(index) * x);
            let (energy, product) = (squares, of.sum());
            check.sums = RowSums { energy, product, energy_squared: energy * energy };
        }
        for (index, &expected) in (first..).zip(expected) {
            let got = self.get(index);
            // What is not a number is as wrong as can be: of updates only rows are looked at.
            let error = if got.is_nan() { f64::INFINITY } else { (got - expected).abs() };
            let scale = rms + expected.abs();
            let relative_error = if error == 0.0 { 0.0 } else { error / scale };
            check.max_abs_err = check.max_abs_err.max(error);
            // Words are equal or wrong, however near.
            if error > relative * scale && relative_error >= check.max_rel_err {
                check.verdict = CheckVerdict::Fail;
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
