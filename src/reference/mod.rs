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
//! Tensor cores of sm_90 add products of 8-bit floats in fixed point: what is added up to one
//! sum before it is taken to f32, 128 products, is cut off below 2^-13 of the largest of them,
//! which is about the sum itself. The errors have either sign, and are
//! `2^-13 sqrt(128 / 3)`, 8e-4, of the sum's rms in the mean square at most (2.1e-4 of random
//! numbers, one of 10,000 elements is off by 10 times that). Where both factors of products
//! are such, tolerances of any format are 2^-8 larger, 5 times the bound. Sums of n products
//! that stay in tensor cores, as those of attention over n keys do, have `sqrt(n / 128)` times
//! these errors.
//!
//! Where attention weights are rounded to E4M3 for products of 8 bits (`q_dtype`), each errs by
//! up to 2^-4 by itself, by 0.42 of that in the mean square over a binade. An output is a sum
//! of n terms `w v / sum(w)` with values of either sign, so that it errs by 0.42 2^-4 of its own
//! rms, 0.027, whatever the weights are: tolerances are 3 2^-4 larger, 7 times that.
//! Of few terms the error is at most `2^-4 sqrt(n)` of the rms, which is less up to n = 9. `u`
//! below is 2^-4 larger. Cutting off makes a product half a unit smaller in the mean, whatever
//! its size, and sums of random sign `2^-14 sqrt(n)` at most: of 4096 and 65,536 keys 0.4 and
//! 1.6% (0.002 and 0.2% where it was simulated), where 64 rows, as many as are compared of so
//! many keys, allow 2.8%.
//!
//! Rounding errs by up to the tolerance in an element and in either direction; a factor
//! that is wrong by less errs everywhere alike. So the output must also be 1 times the
//! expected one in the mean (least squares over all compared rows), within
//! `1e-4 + 6 u / sqrt(3 rows)`: `u` is the unit roundoff of the output's format, `u / sqrt 3`
//! the largest root mean square of its rounding, which may be common to a row (attention
//! weights are) and is independent between rows, and 1e-4 is for sums in f32 on tensor
//! cores, which cut off. With 64 rows of bf16 that is 0.18%: a factor of 1.003 is seen, and
//! so is truncation, which makes bf16 0.28% smaller in the mean.
//!
//! An error below both passes. A dropped token of n moves attention
//! by about `1 / sqrt(n)` of the rms: bf16 shows it up to 4000 tokens, f32
//! for every context; with weights in E4M3, 28 tokens, and a wrong mask in the first rows of a
//! prompt.

mod argmax;
mod attention;
mod collective;
mod compare;
mod decode_attention;
mod decode_step;
mod embedding;
mod gated_activation;
mod gemm;
mod kv_append;
mod kv_read;
mod kv_source;
mod linear;
mod mla_append;
mod mla_decode;
mod moe_gemm;
mod peak;
mod predicted;
mod prefill_attention;
mod rmsnorm;
mod rope_append;
mod stream;
mod transfer;

use std::ops::Range;

use thiserror::Error;

use crate::data::Key;
use crate::format::{DType, Role};
use crate::op::{Problem, with_operation};
pub use compare::{Check, CheckVerdict, tolerance};
use compare::{CheckedOutput, MakeWords, Tolerance};
pub use peak::{FMA_A, FMA_B, fma_step, tensor_a, tensor_b, tensor_scale};
pub use stream::{TRIAD_FACTOR, write_pattern};

/// Why nothing can be compared.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct NoReference(pub String);

/// The inputs of one rotation slot of a problem, made again from their keys.
struct SlotInputs {
    seed: u64,
    slot: usize,
    /// Names of the problem's tensors, in order.
    names: Vec<&'static str>,
    /// What queries are multiplied with.
    query_factor: f32,
}

/// The queries of attention.
#[derive(Clone, Copy)]
struct Queries {
    key: Key,
    factor: f32,
}

impl Queries {
    /// Elements `first` and on.
    fn values(self, dtype: DType, first: u64, to: &mut [f32]) {
        self.key.values(dtype, first, to);
        if self.factor != 1.0 {
            to.iter_mut().for_each(|x| *x *= self.factor);
        }
    }
}

impl SlotInputs {
    fn new(problem: &Problem, seed: u64, slot: usize) -> Self {
        let names = problem.tensors().iter().map(|tensor| tensor.name).collect();
        SlotInputs { seed, slot, names, query_factor: 1.0 }
    }

    /// Queries of attention.
    fn queries(&self) -> Queries {
        Queries { key: self.key("q"), factor: self.query_factor }
    }

    /// The key of a tensor, if the problem has one of this name.
    fn find(&self, name: &str) -> Option<Key> {
        let position = self.names.iter().position(|known| *known == name)?;
        Some(Key::new(self.seed, self.slot, position))
    }

    /// The key of a tensor that every problem of the operation has.
    ///
    /// # Panics
    /// If there is none of this name: the operation and its reference disagree.
    fn key(&self, name: &str) -> Key {
        match self.find(name) {
            Some(key) => key,
            None => panic!("there is no tensor `{name}` among {:?}", self.names),
        }
    }
}

/// The answer of an operation.
trait Answer {
    /// Names and extents of the dimensions of the output.
    fn axes(&self) -> Vec<(&'static str, u64)>;

    /// Compares the output with the expected one.
    ///
    /// # Errors
    /// When there is no reference for the problem.
    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference>;

    /// What the tolerance is multiplied with. Where numbers go through many problems, each of
    /// them errs by as much as one does, in independent directions.
    fn tolerance_factor(&self) -> f64 {
        1.0
    }

    /// The largest relative error of terms of the sums that are rounded before they are added
    /// up, each by itself, 2^-p with a significand of p bits; 0 where none are.
    fn roundoff(&self) -> f64 {
        0.0
    }

    /// How many products tensor cores may add up in fixed point to one sum, as they do products
    /// of 8-bit floats; 0 where they do not.
    fn fixed_point_products(&self) -> u64 {
        0
    }

    /// What makes the words of the output from an even index on, two for each element of a
    /// buffer, where words are all that it is.
    fn words(&self, inputs: &SlotInputs) -> Option<MakeWords> {
        let _ = inputs;
        None
    }

    /// Bytes of inputs that no answer depends on: see [`unneeded`].
    fn unneeded(&self, inputs: &SlotInputs) -> Vec<(&'static str, Range<u64>)>;
}

fn answer(problem: &Problem) -> &dyn Answer {
    with_operation!(problem, p => p)
}

fn tolerance_of(answer: &dyn Answer) -> Tolerance {
    let of_sums = (answer.fixed_point_products() as f64 / 128.0).sqrt() / 256.0;
    Tolerance { factor: answer.tolerance_factor(), of_sums, roundoff: answer.roundoff() }
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
    let tensor = problem.output();
    if output.len() as u64 != tensor.bytes() {
        return Ok(Check::failed(format!(
            "{} has {} bytes, expected {}",
            tensor.name,
            output.len(),
            tensor.bytes()
        )));
    }
    let answer = answer(problem);
    let draws = Key::new(seed ^ round, slot, usize::MAX);
    let target = CheckedOutput {
        tensor,
        axes: answer.axes(),
        bytes: output,
        first: 0,
        draws,
        tolerance: tolerance_of(answer),
    };
    if tensor.role != Role::Update
        && let Some(found) = target.scan()
    {
        return Ok(found);
    }
    answer.compare(&target, &SlotInputs::new(problem, seed, slot))
}

/// [`check`] of attention whose queries were all multiplied with a power of two: scores so
/// large that powers of them overflow, unless the largest is taken off first.
///
/// # Errors
/// When there is no reference for the problem.
pub fn check_magnified(
    problem: &Problem,
    seed: u64,
    query_factor: f32,
    output: &[u8],
) -> Result<Check, NoReference> {
    let answer = answer(problem);
    let target = CheckedOutput {
        tensor: problem.output(),
        axes: answer.axes(),
        bytes: output,
        first: 0,
        draws: Key::new(seed, 0, usize::MAX),
        tolerance: tolerance_of(answer),
    };
    let inputs = SlotInputs { query_factor, ..SlotInputs::new(problem, seed, 0) };
    target.scan().map_or_else(|| answer.compare(&target, &inputs), Ok)
}

/// Compares the last bytes of an output with the reference, where a device made no more
/// of it: a whole number of elements, of words a whole number of pairs. Says how many
/// elements it compared, which are none where no row lies in the bytes.
///
/// # Errors
/// When there is no reference for the problem.
pub fn check_end(
    problem: &Problem,
    seed: u64,
    slot: usize,
    end: &[u8],
) -> Result<Check, NoReference> {
    let (tensor, answer) = (problem.output(), answer(problem));
    let elements = end.len() as u64 / tensor.format.bytes();
    let target = CheckedOutput {
        tensor,
        axes: answer.axes(),
        bytes: end,
        first: tensor.elements - elements,
        draws: Key::new(seed, slot, usize::MAX),
        tolerance: tolerance_of(answer),
    };
    match target.scan().filter(|_| tensor.role != Role::Update) {
        Some(found) => Ok(found),
        None => answer.compare(&target, &SlotInputs::new(problem, seed, slot)),
    }
}

/// Whether [`check_digest`] has an answer for a problem: whether its output is nothing but
/// words, whole pairs of them.
pub fn has_digest(problem: &Problem) -> bool {
    let is_pairs = problem.output().bytes().is_multiple_of(8);
    is_pairs && answer(problem).words(&SlotInputs::new(problem, 0, 0)).is_some()
}

/// Compares the [digest](crate::data::digest) of all words of the output of a rotation slot
/// with that of the reference: for outputs so large that copying them would take longer
/// than measuring does.
///
/// # Errors
/// When there is no reference for the problem that is words.
pub fn check_digest(
    problem: &Problem,
    seed: u64,
    slot: usize,
    found: u64,
) -> Result<Check, NoReference> {
    let words = answer(problem).words(&SlotInputs::new(problem, seed, slot));
    let Some(words) = words.filter(|_| has_digest(problem)) else {
        return Err(NoReference(format!("the output of {problem} has no digest")));
    };
    let tensor = problem.output();
    let expected = compare::digest_of(tensor.bytes() / 8, &words);
    Ok(match expected == found {
        true => Check::of(tensor.elements),
        false => Check::failed(format!(
            "{} has the digest {found:#018x}, expected {expected:#018x}; `ridgepoint check` of \
             a smaller problem of the kind says where it is wrong",
            tensor.name
        )),
    })
}

/// Bytes of a problem's inputs that no answer depends on, as names of tensors and ranges:
/// what lies in the cache after the end of a request, or before its window, and the
/// weights of experts that no token has chosen. A kernel that lets them into its answer is
/// wrong, though the answer may be right by chance.
pub fn unneeded(
    problem: &Problem,
    seed: u64,
    slot: usize,
) -> Vec<(&'static str, Range<u64>)> {
    answer(problem).unneeded(&SlotInputs::new(problem, seed, slot))
}

#[cfg(test)]
mod tests;
