//! What the rest of the program asks of an operation.

use super::explanation::Explanation;
use super::fields::{KeySpec, ProblemError};
use super::judged::{Judged, JudgedFacts};
use crate::format::Tensor;
use crate::resource::Work;

/// What is true of all problems of an operation.
#[derive(Debug)]
pub struct Facts {
    /// The spelling used in suites, ids and CSV files.
    pub name: &'static str,
    /// Keys that a problem is written with, in order.
    pub keys: &'static [KeySpec],
    /// Those of them that make a problem larger and not another one, so that a kernel's best
    /// configuration depends on them through its bytes alone: see [`super::ShapeClass`].
    pub size_keys: &'static [&'static str],
    /// Small problems, as text, one of each kind that has kernels of its own: for tests and
    /// for what a device is asked whether it can run.
    pub examples: &'static [&'static str],
    /// What verdicts, tables and figures ask of it.
    pub judged: JudgedFacts,
}

/// What is asked of every operation's problem.
pub trait Operation: Judged {
    /// The values of the keys of [`Facts::keys`], in that order.
    fn values(&self) -> Vec<String>;

    /// Refuses a shape that cannot be.
    ///
    /// # Errors
    /// The key to change and what to write.
    fn check(&self) -> Result<(), ProblemError>;

    /// FLOPs and elements in floating point, where counts in integers might overflow.
    fn magnitude(&self) -> Magnitude;

    /// FLOPs and compulsory bytes, from the shape alone. The file of each operation gives
    /// the formula. Formulas are as in NVIDIA aiconfigurator, with causal sums exact; the
    /// softmax is not counted. See docs/METHODOLOGY.md.
    fn work(&self) -> Work;

    /// The formulas of [`Operation::work`] with the problem's values put in, or its results
    /// where [`Explanation::results`] says enough.
    fn explanation(&self) -> Explanation;

    /// The arrays of one instance, in a fixed order: that of inputs in memory and of the
    /// keys that they are drawn with. All inputs come before the outputs.
    /// There is one output, or several of one format, see `Problem::output`; where there are
    /// updates among them, the last is one.
    fn tensors(&self) -> Vec<Tensor>;

    /// Bytes of [`Operation::work`] that are weights, and their scales.
    fn weight_bytes(&self) -> u64;

    /// Bytes of [`Operation::work`] that are a cache of keys and values, with the page
    /// numbers and scales that go with it.
    fn cache_bytes(&self) -> u64;

    /// What the model knows of routed experts, if the problem has any: what it reads
    /// depends on which token chose which expert.
    fn routed(&self) -> Option<Routed>;

    /// Whether it computes with numbers such as work has, so that its rate may be a
    /// ceiling: units that multiply zeros take less power and clock higher.
    fn has_usual_data(&self) -> bool;
}

/// Experts that a routing touches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routed {
    /// Experts that any token has chosen; [`Operation::work`] counts their bytes.
    pub experts_touched: u64,
    /// Bytes read with as many experts as can be touched.
    pub bytes_read_bound: u64,
    /// Bytes read in the mean under uniform routing.
    pub bytes_read_expected: f64,
    /// Bytes of the weights of all experts, read or not.
    pub resident_weight_bytes: u64,
}

/// The size of a problem, so far as it may be too large to count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Magnitude {
    /// FLOPs.
    pub flops: f64,
    /// Elements of all tensors.
    pub elements: f64,
}

/// A product in floating point, which does not overflow.
pub(super) fn product(factors: &[u64]) -> f64 {
    factors.iter().map(|&x| x as f64).product()
}
