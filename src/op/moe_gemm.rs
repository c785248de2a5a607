//! A layer of routed experts: which expert gets which token.

use std::any::Any;

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::contract::product;
use super::explanation::{Explanation, formula, matrix, size, weights};
use super::judged::{
    Hue, Judged, JudgedFacts, KneeAxis, MarkerShape, OpMarker, PairKind, Purpose, Sweep,
    SweepPlace,
};
use super::linear::{
    MatrixNames, check_activations, check_weights, check_whole_groups, math_dtype,
    matrix_tensors,
};
use super::{Access, Reuse};
use super::{Facts, Fields, KeySpec, Magnitude, Operation, ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat, text_of_name};
use crate::quant::{Quant, QuantPlace};
use crate::resource::{Resource, Work};

pub(super) const FACTS: Facts = Facts {
    name: "moe_gemm",
    keys: &[
        KeySpec::new("tokens"),
        KeySpec::new("experts"),
        KeySpec::new("top_k"),
        KeySpec::new("n"),
        KeySpec::new("k"),
        KeySpec::bare("dtype"),
        KeySpec::new("w_dtype").or_as("dtype").silent(),
        KeySpec::bare("routing"),
        KeySpec::new("routing_seed").or("0").silent(),
        KeySpec::new("inputs").or("per_token").silent(),
        KeySpec::new("rows").or("scattered").silent(),
        KeySpec::new("a_dtype").or_as("dtype").silent(),
    ],
    size_keys: &["n", "k", "routing_seed"],
    examples: &[
        "moe_gemm:tokens=3,experts=8,top_k=2,n=16,k=128,dtype=bf16,routing=uniform",
    ],
    judged: JudgedFacts {
        prose: "MoE GEMM",
        marker: OpMarker { shape: MarkerShape::Diamond, hue: Hue::Purple },
        purpose: Purpose::Work,
        sets_compute_ceiling: true,
        reads_cache: false,
    },
};

/// Most rows, tokens times experts of each, and most experts, that a routing is drawn for.
pub const MAX_ROUTED: u64 = 1 << 24;

/// How tokens choose their experts. Whatever the way, the experts of a token differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Routing {
    /// In turn: each expert gets as many tokens as any other, or one more.
    Balanced,
    /// At random, all experts alike.
    Uniform,
    /// At random, the r-th most popular expert 1/r times as often as the first. Which
    /// these are is drawn too.
    Zipf,
}

text_of_name!(
    Routing => "a routing",
    Inputs => "a kind of inputs",
    RowOrder => "a way in which rows lie",
);

impl Routing {
    /// Every way, in the order in which tables list them.
    pub const ALL: [Routing; 3] = [Routing::Balanced, Routing::Uniform, Routing::Zipf];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Routing::Balanced => "balanced",
            Routing::Uniform => "uniform",
            Routing::Zipf => "zipf",
        }
    }
}

/// What the experts of a token are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Inputs {
    /// All the same row of activations, as gate and up projections are.
    PerToken,
    /// Each its own row, as down projections are.
    PerExpert,
}

impl Inputs {
    /// Both, in the order in which tables list them.
    pub const ALL: [Inputs; 2] = [Inputs::PerToken, Inputs::PerExpert];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Inputs::PerToken => "per_token",
            Inputs::PerExpert => "per_expert",
        }
    }
}

/// How the rows of X and of Y lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowOrder {
    /// By token: those of an expert lie anywhere, and a list says where.
    Scattered,
    /// Those of an expert next to one another, and the experts in order, without gaps:
    /// what prefill has after tokens were sorted.
    Contiguous,
    /// Those of each expert at the beginning of room for as many rows as there are tokens,
    /// so that places do not depend on the routing: what decode in a graph has. The rest of
    /// the room is neither read nor written.
    Masked,
}

impl RowOrder {
    /// Every way, in the order in which tables list them.
    pub const ALL: [RowOrder; 3] =
        [RowOrder::Scattered, RowOrder::Contiguous, RowOrder::Masked];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            RowOrder::Scattered => "scattered",
            RowOrder::Contiguous => "contiguous",
            RowOrder::Masked => "masked",
        }
    }
}

/// One projection of routed experts: `Y[token][slot][n] = X[row][k] * W[e][n][k]^T` for
/// each of the `top_k` experts `e` that a token chooses, in slots 0 and on.
///
/// The row is the token's, or the token's and slot's own: see [`Inputs`]. Weights are as
/// in [`Gemm`](super::Gemm), one matrix after the other. Which experts are read depends
/// on the routing, which is part of the problem, its seed included: FLOPs and bytes are
/// those of the experts really touched.
///
/// Rows of X and Y may also lie by expert, each of X its expert's own, see [`RowOrder`]: Y is
/// `[row][n]`, or `[expert][token][n]` with gaps. Then only how many rows an expert has
/// matters, and no token is told from another.
///
/// Work: `2 T top_k n k`; the weights and scales of each expert that any token has chosen,
/// X `b T k` (times `top_k` where experts have inputs of their own) and Y `b T top_k n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MoeGemm {
    /// Tokens.
    pub tokens: u64,
    /// Experts to choose from.
    pub experts: u64,
    /// Experts that each token chooses.
    pub top_k: u64,
    /// Output features of an expert.
    pub n: u64,
    /// Input features of an expert.
    pub k: u64,
    /// Format of Y, and of X unless `a_dtype` says otherwise.
    pub dtype: DType,
    /// Scheme of the weights.
    pub w_dtype: Quant,
    /// How tokens choose.
    pub routing: Routing,
    /// Seed of what is drawn.
    pub routing_seed: u64,
    /// What the experts of a token are given.
    pub inputs: Inputs,
    /// How rows lie.
    pub row_order: RowOrder,
    /// Scheme of X.
    pub a_dtype: Quant,
}

/// Tensors of X.
const X: MatrixNames = MatrixNames {
    values: "x",
    scales: "x_scales",
    zero_points: "x_zero_points",
    tensor_scale: "x_tensor_scale",
};

/// Tensors of the weights.
const W: MatrixNames = MatrixNames {
    values: "w",
    scales: "w_scales",
    zero_points: "w_zero_points",
    tensor_scale: "w_tensor_scale",
};

impl MoeGemm {
    /// Rows of Y: tokens times experts of each.
    pub const fn rows(&self) -> u64 {
        self.tokens * self.top_k
    }

    /// Rows for which Y has room, and X if its rows are the experts' own.
    pub const fn row_places(&self) -> u64 {
        match self.row_order {
            RowOrder::Scattered | RowOrder::Contiguous => self.rows(),
            RowOrder::Masked => self.experts * self.tokens,
        }
    }

    /// Rows of X that are read.
    pub const fn input_rows(&self) -> u64 {
        match self.inputs {
            Inputs::PerToken => self.tokens,
            Inputs::PerExpert => self.rows(),
        }
    }

    /// Rows for which X has room.
    pub const fn input_places(&self) -> u64 {
        match self.row_order {
            RowOrder::Scattered => self.input_rows(),
            RowOrder::Contiguous | RowOrder::Masked => self.row_places(),
        }
    }

    /// The row of X that a row of Y is made of.
    pub const fn input_row(&self, row: u64) -> u64 {
        match self.inputs {
            Inputs::PerToken => row / self.top_k,
            Inputs::PerExpert => row,
        }
    }

    /// The expert of each token and slot, in this order. The same on every machine: integer arithmetic on
    /// the numbers of a PCG generator.
    pub fn expert_of_rows(&self) -> Vec<u32> {
        match self.routing {
            Routing::Balanced => {
                (0..self.rows()).map(|row| (row % self.experts) as u32).collect()
            }
            Routing::Uniform => self.drawn_experts(|_| 1),
            Routing::Zipf => self.drawn_experts(|rank| (1 << 32) / rank),
        }
    }

    /// Experts drawn by the share of their rank, which begins at 1. A token draws again
    /// what it has drawn before.
    fn drawn_experts(&self, share: impl Fn(u64) -> u64) -> Vec<u32> {
        let mut draws = Draws(Pcg64Mcg::seed_from_u64(self.routing_seed));
        let mut expert_of_rank: Vec<u32> = (0..self.experts as u32).collect();
        for last in (1..expert_of_rank.len()).rev() {
            expert_of_rank.swap(last, draws.below(last as u64 + 1) as usize);
        }
        let mut ends: Vec<u64> = (1..=self.experts).map(share).collect();
        for rank in 1..ends.len() {
            ends[rank] += ends[rank - 1];
        }
        let all = ends[ends.len() - 1];
        let mut experts = Vec::with_capacity(self.rows() as usize);
        for _ in 0..self.tokens {
            let first = experts.len();
            while experts.len() < first + self.top_k as usize {
                let drawn = draws.below(all);
                let rank = ends.partition_point(|&end| end <= drawn);
                let expert = expert_of_rank[rank];
                if !experts[first..].contains(&expert) {
                    experts.push(expert);
                }
            }
        }
        experts
    }

    /// For each expert the rows of Y that it makes, in order.
    pub fn rows_of_experts(&self) -> Vec<Vec<u32>> {
        let mut rows = vec![Vec::new(); self.experts as usize];
        for (row, expert) in (0..).zip(self.expert_of_rows()) {
            rows[expert as usize].push(row);
        }
        let mut next = 0;
        for (expert, rows) in (0..).zip(&mut rows) {
            let first = match self.row_order {
                RowOrder::Scattered => continue,
                RowOrder::Contiguous => next,
                RowOrder::Masked => expert * self.tokens as u32,
            };
            next += rows.len() as u32;
            *rows = (first..first + rows.len() as u32).collect();
        }
        rows
    }

    /// Experts that any token has chosen.
    pub fn experts_touched(&self) -> u64 {
        if self.routing == Routing::Balanced {
            return self.experts_bound();
        }
        let mut touched = vec![false; self.experts as usize];
        self.expert_of_rows().into_iter().for_each(|e| touched[e as usize] = true);
        touched.into_iter().filter(|&touched| touched).count() as u64
    }

    /// Most experts that so many tokens can touch, `min(E, T k)`: what balanced routing
    /// gives.
    pub const fn experts_bound(&self) -> u64 {
        if self.rows() < self.experts { self.rows() } else { self.experts }
    }

    /// Experts that tokens touch in the mean under uniform routing,
    /// `E (1 - (1 - k/E)^T)`: each is missed by a token with probability `1 - k/E`.
    pub fn experts_expected(&self) -> f64 {
        let (experts, top_k) = (self.experts as f64, self.top_k as f64);
        experts * (1.0 - (1.0 - top_k / experts).powf(self.tokens as f64))
    }

    /// Bytes of an expert's weights, and of their scales.
    pub const fn expert_bytes(&self) -> u64 {
        self.w_dtype.matrix_bytes(self.n, self.k)
    }

    /// Bytes of X that are read, with their scales.
    const fn input_bytes(&self) -> u64 {
        self.a_dtype.matrix_bytes(self.input_rows(), self.k)
    }

    /// Whether X is as Y: values without scales.
    pub fn has_plain_activations(&self) -> bool {
        self.a_dtype == Quant::plain(self.dtype)
    }

    /// Bytes read with as many experts as can be touched, [`MoeGemm::experts_bound`].
    pub const fn bytes_read_bound(&self) -> u64 {
        self.input_bytes() + self.expert_bytes() * self.experts_bound()
    }

    /// Bytes read in the mean under uniform routing, [`MoeGemm::experts_expected`].
    pub fn bytes_read_expected(&self) -> f64 {
        self.input_bytes() as f64 + self.expert_bytes() as f64 * self.experts_expected()
    }

    fn check_routing(&self) -> Result<(), ProblemError> {
        if self.top_k > self.experts {
            return Err(ProblemError::at(
                "top_k",
                format!(
                    "top_k = {} experts for each token, and there are {} experts; choose fewer",
                    self.top_k, self.experts
                ),
            ));
        }
        let most = match self.routing {
            Routing::Balanced => u64::from(u32::MAX),
            Routing::Uniform | Routing::Zipf => MAX_ROUTED,
        };
        if self.row_order != RowOrder::Scattered && self.inputs == Inputs::PerToken {
            return Err(ProblemError::at(
                "inputs",
                format!(
                    "rows that lie by expert (rows = {}) are the experts' own; write inputs = \
                     per_expert",
                    self.row_order
                ),
            ));
        }
        if self.row_order == RowOrder::Masked
            && self.tokens.saturating_mul(self.experts) > u64::from(u32::MAX)
        {
            return Err(ProblemError::at(
                "tokens",
                format!(
                    "each of {} experts has room for all {} tokens, which are more rows than \
                     2^32; use fewer, or rows = contiguous",
                    self.experts, self.tokens
                ),
            ));
        }
        if self.tokens.saturating_mul(self.top_k).max(self.experts) > most {
            return Err(ProblemError::at(
                "tokens",
                format!(
                    "{} routing takes tokens * top_k and experts up to {most}, not {} * {} and \
                     {}; use fewer",
                    self.routing, self.tokens, self.top_k, self.experts
                ),
            ));
        }
        if self.routing == Routing::Balanced && self.routing_seed != 0 {
            return Err(ProblemError::at(
                "routing_seed",
                "balanced routing draws nothing; leave `routing_seed` out",
            ));
        }
        Ok(())
    }

    /// Experts that no token has chosen.
    pub fn untouched(&self) -> Vec<u64> {
        let rows = self.rows_of_experts();
        (0..).zip(&rows).filter(|(_, rows)| rows.is_empty()).map(|(e, _)| e).collect()
    }
}

pub(super) fn read(f: &Fields) -> Result<MoeGemm, ProblemError> {
    Ok(MoeGemm {
        tokens: f.extent("tokens")?,
        experts: f.extent("experts")?,
        top_k: f.extent("top_k")?,
        n: f.extent("n")?,
        k: f.extent("k")?,
        dtype: f.dtype("dtype")?,
        w_dtype: f.quant("w_dtype", QuantPlace::Weights)?,
        routing: f.parse("routing")?,
        routing_seed: f.count("routing_seed")?,
        inputs: f.parse("inputs")?,
        row_order: f.parse("rows")?,
        a_dtype: f.quant("a_dtype", QuantPlace::Activations)?,
    })
}

impl Operation for MoeGemm {
    fn values(&self) -> Vec<String> {
        vec![
            self.tokens.to_string(),
            self.experts.to_string(),
            self.top_k.to_string(),
            self.n.to_string(),
            self.k.to_string(),
            self.dtype.to_string(),
            self.w_dtype.to_string(),
            self.routing.to_string(),
            self.routing_seed.to_string(),
            self.inputs.to_string(),
            self.row_order.to_string(),
            self.a_dtype.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        self.check_routing()?;
        check_weights(self.w_dtype)?;
        check_activations(self.a_dtype, self.dtype, self.input_places(), self.k)?;
        check_whole_groups(self.w_dtype, self.n, self.k)
    }

    fn magnitude(&self) -> Magnitude {
        let MoeGemm { tokens, experts, top_k, n, k, .. } = *self;
        Magnitude {
            flops: product(&[2, tokens, top_k, n, k]),
            elements: product(&[self.input_places(), k])
                + product(&[experts, n, k])
                + product(&[self.row_places(), n]),
        }
    }

    fn work(&self) -> Work {
        let bytes_read = self.input_bytes() + self.weight_bytes();
        let math_dtype = math_dtype(self.a_dtype, self.w_dtype, self.dtype);
        Work::NONE
            .with(Resource::Matrix(math_dtype), 2 * self.rows() * self.n * self.k)
            .with_bytes(bytes_read, self.dtype.bytes_of(self.rows() * self.n))
    }

    fn explanation(&self) -> Explanation {
        let (of_weights, values) = weights(self.w_dtype, self.n, self.k);
        let (rows, x, n, k) = (self.rows(), self.input_rows(), self.n, self.k);
        if !self.has_plain_activations() {
            let (of_x, values_of_x) = matrix(self.a_dtype, ["b_x", "rows of X", "k"], x, k);
            return Explanation {
                flops: formula("2 T top_k n k", format!("2 * {rows} * {n} * {k}")),
                bytes: formula(
                    &format!("b T top_k n + {of_x} + experts touched ({of_weights})"),
                    format!(
                        "{} * {rows} * {n} + {values_of_x} + {} * ({values})",
                        size(self.dtype),
                        self.experts_touched()
                    ),
                ),
            };
        }
        Explanation {
            flops: formula("2 T top_k n k", format!("2 * {rows} * {n} * {k}")),
            bytes: formula(
                &format!("b (rows of X k + T top_k n) + experts touched ({of_weights})"),
                format!(
                    "{} * ({x} * {k} + {rows} * {n}) + {} * ({values})",
                    size(self.dtype),
                    self.experts_touched()
                ),
            ),
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let MoeGemm { experts, n, k, w_dtype, .. } = *self;
        let format = TensorFormat::Values(self.dtype);
        let mut tensors = matrix_tensors(&X, self.a_dtype, 1, (self.input_places(), k));
        let weights = matrix_tensors(&W, w_dtype, experts, (n, k));
        tensors.extend(weights.into_iter().map(Tensor::settled));
        let role = match self.row_order {
            RowOrder::Scattered | RowOrder::Contiguous => Role::Output,
            RowOrder::Masked => Role::Update,
        };
        tensors.push(Tensor::new("y", role, format, self.row_places() * n));
        tensors
    }

    fn weight_bytes(&self) -> u64 {
        self.expert_bytes() * self.experts_touched()
    }

    fn cache_bytes(&self) -> u64 {
        0
    }

    fn has_usual_data(&self) -> bool {
        true
    }

    fn routed(&self) -> Option<Routed> {
        Some(Routed {
            experts_touched: self.experts_touched(),
            bytes_read_bound: self.bytes_read_bound(),
            bytes_read_expected: self.bytes_read_expected(),
            resident_weight_bytes: self.expert_bytes() * self.experts,
        })
    }
}

impl Judged for MoeGemm {
    fn memory_roof(&self) -> Option<Access> {
        None
    }

    fn reuse(&self) -> Option<Reuse> {
        None
    }

    fn line(&self) -> Option<String> {
        None
    }

    fn place_in(&self, _: Sweep) -> Option<SweepPlace> {
        None
    }

    fn pair_with(&self, other: &dyn Any) -> Option<PairKind> {
        let other = other.downcast_ref::<MoeGemm>()?;
        let more = self.tokens < other.tokens;
        if more && (MoeGemm { tokens: other.tokens, ..*self }) == *other {
            return Some(PairKind::Tokens);
        }
        let alike = MoeGemm { w_dtype: other.w_dtype, ..*self } == *other;
        PairKind::of_weights(self.w_dtype, other.w_dtype).filter(|_| alike)
    }

    fn knee(&self) -> Option<KneeAxis> {
        None
    }
}

/// Integers of a generator whose bits are the same on every platform.
struct Draws(Pcg64Mcg);

impl Draws {
    /// A number below `end`, which is so much smaller than 2^64 that all are alike.
    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(end)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn moe(tokens: u64, experts: u64, top_k: u64, routing: Routing, seed: u64) -> MoeGemm {
        MoeGemm {
            tokens,
            experts,
            top_k,
            n: 256,
            k: 128,
            dtype: DType::Bf16,
            w_dtype: Quant::plain(DType::Bf16),
            routing,
            routing_seed: seed,
            inputs: Inputs::PerToken,
            row_order: RowOrder::Scattered,
            a_dtype: Quant::plain(DType::Bf16),
        }
    }

    /// The numbers of analytics: expected distinct experts.
    #[test]
    fn expectations_are_the_golden_ones() {
        for (experts, top_k, tokens, expected) in [
            (8, 2, 1, 2.0),
            (8, 2, 2, 3.5),
            (8, 2, 4, 5.4688),
            (8, 2, 8, 7.1991),
            (256, 8, 8, 57.42),
            (256, 8, 64, 222.44),
        ] {
            let p = moe(tokens, experts, top_k, Routing::Uniform, 0);
            let off = (p.experts_expected() - expected).abs();
            assert!(off < 6e-3, "{p:?}: {}", p.experts_expected());
            assert_eq!(p.experts_bound(), experts.min(tokens * top_k));
        }
    }

    /// The mean over many seeds of what uniform routing touches is the expectation.
    #[test]
    fn uniform_routing_touches_what_is_expected() {
        for (experts, top_k, tokens) in [(8, 2, 4), (64, 6, 16), (256, 8, 64)] {
            let of_seed = |seed| {
                moe(tokens, experts, top_k, Routing::Uniform, seed).experts_touched()
            };
            let touched: Vec<f64> = (0..400).map(|seed| of_seed(seed) as f64).collect();
            let mean = touched.iter().sum::<f64>() / 400.0;
            let expected =
                moe(tokens, experts, top_k, Routing::Uniform, 0).experts_expected();
            // Distinct counts vary by less than sqrt(E) / 2, so 5 deviations of the mean
            // are an eighth of it.
            let margin = (experts as f64).sqrt() / 8.0;
            assert!((mean - expected).abs() < margin, "{mean} against {expected}");
        }
    }

    /// Popularity falls as one over the rank.
    #[test]
    fn zipf_routing_prefers_few() {
        let p = moe(20_000, 16, 1, Routing::Zipf, 3);
        let mut counts: Vec<f64> =
            p.rows_of_experts().iter().map(|rows| rows.len() as f64).collect();
        counts.sort_by(|a, b| b.total_cmp(a));
        let harmonic: f64 = (1..=16).map(|rank| 1.0 / f64::from(rank)).sum();
        for (rank, count) in (1..).zip(&counts).take(6) {
            let share = 1.0 / f64::from(rank) / harmonic;
            assert!((count / 20_000.0 / share - 1.0).abs() < 0.1, "rank {rank}: {count}");
        }
    }

    /// Routings are part of a problem's bytes, so they may never change.
    #[test]
    fn draws_are_pinned() {
        let of = |routing| moe(3, 8, 2, routing, 1).expert_of_rows();
        assert_eq!(of(Routing::Uniform), [2, 7, 1, 5, 5, 1]);
        assert_eq!(of(Routing::Zipf), [1, 5, 7, 5, 5, 7]);
        assert_eq!(moe(3, 4, 2, Routing::Balanced, 0).expert_of_rows(), [0, 1, 2, 3, 0, 1]);
    }

    /// Four experts of six rows in all: 2, 2, 1 and 1.
    #[test]
    fn rows_of_experts_lie_as_they_are_to() {
        let of = |row_order| {
            let inputs = Inputs::PerExpert;
            MoeGemm { row_order, inputs, ..moe(3, 4, 2, Routing::Balanced, 0) }
        };
        let scattered = of(RowOrder::Scattered);
        assert_eq!(scattered.rows_of_experts(), [vec![0, 4], vec![1, 5], vec![2], vec![3]]);
        let contiguous = of(RowOrder::Contiguous);
        assert_eq!(
            contiguous.rows_of_experts(),
            [vec![0, 1], vec![2, 3], vec![4], vec![5]]
        );
        let masked = of(RowOrder::Masked);
        assert_eq!(masked.rows_of_experts(), [vec![0, 1], vec![3, 4], vec![6], vec![9]]);
        // Gaps are room, and not work.
        for (p, places) in [(scattered, 6), (contiguous, 6), (masked, 12)] {
            assert_eq!(p.work(), scattered.work());
            let elements = |name| {
                let tensor = p.tensors().into_iter().find(|tensor| tensor.name == name);
                tensor.unwrap().elements
            };
            assert_eq!((elements("x"), elements("y")), (places * 128, places * 256));
        }
    }

    proptest! {
        #[test]
        fn tokens_choose_different_experts(
            tokens in 1u64..40,
            experts in 1u64..70,
            top_k in 1u64..9,
            routing in prop::sample::select(&Routing::ALL[..]),
            seed in 0u64..1000,
        ) {
            let p = moe(tokens, experts, top_k.min(experts), routing, seed);
            let experts = p.expert_of_rows();
            prop_assert_eq!(experts.len() as u64, p.rows());
            for of_token in experts.chunks(p.top_k as usize) {
                let mut distinct = of_token.to_vec();
                distinct.sort_unstable();
                distinct.dedup();
                prop_assert_eq!(distinct.len() as u64, p.top_k);
                prop_assert!(distinct.iter().all(|&e| u64::from(e) < p.experts));
            }
            let touched = p.experts_touched();
            let rows = p.rows_of_experts();
            prop_assert_eq!(touched, rows.iter().filter(|rows| !rows.is_empty()).count() as u64);
            prop_assert!(touched >= p.top_k && touched <= p.experts_bound());
            prop_assert_eq!(p.untouched().len() as u64, p.experts - touched);
            if routing == Routing::Balanced {
                let most = rows.iter().map(Vec::len).max().unwrap_or(0);
                let least = rows.iter().map(Vec::len).min().unwrap_or(0);
                prop_assert!(most - least <= 1);
            }
        }
    }
}
