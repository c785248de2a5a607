//! One step of a model on one GPU as a list of problems: what a prediction adds up. There
//! are no other formulas: FLOPs and bytes are those of [`Problem::work`].

mod feed_forward;
mod list;
mod mixer;

use self::list::{Builder, Part, all_tokens};
pub use self::list::{StepPart, StepProblem};
use super::llm::{FeedForward, LayerKind, Llm, Mixer};
use super::mix::Mix;
use super::routing::Touched;
pub use super::shape::{
    Formats, FormatsChoice, Parallel, Phase, StepShape, WeightPart, Weights, WeightsChoice,
};
use crate::format::DType;
use crate::op::{CollectiveKind, Gemm, Problem};

/// A step on one GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Problems in the order in which they come up, equal ones together; what GPUs send
    /// each other last.
    pub problems: Vec<StepProblem>,
    /// Requests of this GPU.
    pub requests: u64,
    /// New tokens of all GPUs.
    pub new_tokens: u64,
    /// Bytes of weights that a step does not read: of the embedding table it reads its
    /// tokens' rows only. 0 where the head is the same, but for steps without answers, which
    /// read no head.
    pub embedding_bytes: u64,
    /// Bytes of the cache of one request, on this GPU; the mean where requests differ.
    pub request_cache_bytes: u64,
    /// Which number of touched experts its sums are of.
    pub touched: Touched,
}

impl Step {
    /// The step of a model.
    ///
    /// # Errors
    /// What the model or the shape cannot be divided by, or a problem too large to count.
    pub fn of(model: &Llm, shape: &StepShape) -> Result<Step, String> {
        Step::of_parts(model, &[Part::of(*shape, true)])
    }

    /// The step of requests that differ, with formats, parallelism and routing of a shape.
    ///
    /// # Errors
    /// As [`Step::of`].
    pub fn of_mix(model: &Llm, mix: &Mix, like: &StepShape) -> Result<Step, String> {
        let parts = mix.shapes(like).map(|(shape, answered)| Part::of(shape, answered));
        let mut parts: Vec<Part> = parts.collect();
        for at in 1..parts.len() {
            parts[at].leads = parts[at].shape.phase != parts[at - 1].shape.phase;
        }
        Step::of_parts(model, &parts)
    }

    fn of_parts(model: &Llm, parts: &[Part]) -> Result<Step, String> {
        let Some(Part { shape, .. }) = parts.first() else {
            return Err("a step needs requests".to_owned());
        };
        super::shape::check(model, parts.iter().map(|part| &part.shape))?;
        let mut builder = Builder {
            model,
            shape,
            parts,
            tokens: parts.iter().map(|part| part.requests * part.shape.new_tokens).sum(),
            problems: Vec::with_capacity(24),
            exchanges: Vec::new(),
        };
        builder.layers()?;
        builder.push_exchanges()?;
        let embedding_bytes = builder.unread_bytes();
        let requests = parts.iter().map(|part| part.requests).sum();
        let cached = |part: &Part| {
            u128::from(part.requests)
                * u128::from(mixer::request_cache_bytes(model, &part.shape))
        };
        let cached: u128 = parts.iter().map(cached).sum();
        Ok(Step {
            problems: builder.problems,
            requests,
            new_tokens: all_tokens(parts),
            embedding_bytes,
            // A mean is not above the largest.
            request_cache_bytes: (cached / u128::from(requests)) as u64,
            touched: shape.routing.touched(),
        })
    }

    /// Parameters of a model: those of its problems, with all experts, the embedding's and
    /// the vectors'.
    ///
    /// # Errors
    /// As [`Step::of`].
    pub fn parameters(model: &Llm) -> Result<u64, String> {
        const BF16: Formats = Formats::plain(DType::Bf16);
        let step = Step::of(model, &StepShape::of_one_token(BF16))?;
        let matrices = step.resident_weight_bytes() / DType::Bf16.bytes();
        Ok(matrices + model.vector_parameters())
    }

    /// Bytes of the weights that lie in the memory of this GPU.
    pub fn resident_weight_bytes(&self) -> u64 {
        let problems =
            self.problems.iter().map(|entry| entry.count * entry.resident_bytes());
        self.embedding_bytes + problems.sum::<u64>()
    }
}

impl Builder<'_> {
    fn layers(&mut self) -> Result<(), String> {
        let hidden = self.model.hidden;
        self.elementwise("embedding", 2 * self.tokens * hidden, 1)?;
        // A residual is added and the sum normed: two rows in, two out.
        let of_layers = self.model.kinds.iter().map(|kind| kind.count * kind.norms);
        let norms = of_layers.sum::<u64>() + 1;
        self.elementwise("norm", 4 * self.tokens * hidden, norms)?;
        for (mixer, count) in self.model.mixers() {
            self.mixer(&mixer, count)?;
        }
        for (part, count) in self.model.feed_forwards() {
            match part {
                FeedForward::None => {}
                FeedForward::Dense(dense) => self.dense(&dense, count)?,
                FeedForward::Experts(experts) => self.experts(&experts, count)?,
            }
        }
        self.head()?;
        self.all_reduces();
        Ok(())
    }

    /// Of a prompt only the last token is answered.
    fn head(&mut self) -> Result<(), String> {
        let answered = self.parts.iter().filter(|part| part.answered);
        match answered.map(|part| part.requests).sum() {
            0 => Ok(()),
            rows => self.push(("head", StepPart::Rest), self.head_of(rows).into(), 1),
        }
    }

    /// The head of so many rows.
    fn head_of(&self, rows: u64) -> Gemm {
        let formats = self.shape.formats;
        Gemm {
            m: rows,
            n: self.model.vocab.div_ceil(self.shape.parallel.tensor),
            k: self.model.hidden,
            dtype: formats.activations,
            w_dtype: formats.weights.of(WeightPart::Head),
            a_dtype: formats.activations.into(),
        }
    }

    /// Bytes of weights that are not read: the embedding table, and the head of a step
    /// without answers.
    fn unread_bytes(&self) -> u64 {
        let Llm { vocab, hidden, tied_embeddings, .. } = *self.model;
        let embedding = if tied_embeddings { 0 } else { vocab * hidden };
        let format = self.shape.formats.weights.of(WeightPart::Head);
        let table = format.dtype().bytes_of(embedding.div_ceil(self.shape.parallel.tensor));
        let answers = self.parts.iter().any(|part| part.answered);
        let head = if answers { 0 } else { Problem::from(self.head_of(1)).weight_bytes() };
        table + head
    }

    /// Groups of GPUs add up what each has of the residual stream, after attention and
    /// after the feed-forward.
    fn all_reduces(&mut self) {
        let Parallel { tensor, expert, .. } = self.shape.parallel;
        if tensor == 1 {
            return;
        }
        let of_layer = |kind: &LayerKind| {
            let mixes = u64::from(kind.mixer != Mixer::None);
            let adds = match kind.feed_forward {
                FeedForward::None => 0,
                FeedForward::Dense(_) => 1,
                // Experts that are spread answer by an all-to-all.
                FeedForward::Experts(_) => u64::from(expert == 1),
            };
            kind.count * (mixes + adds)
        };
        let count = self.model.kinds.iter().map(of_layer).sum();
        let elements = self.tokens * self.model.hidden;
        self.exchange(("all-reduce", CollectiveKind::AllReduce), elements, tensor, count);
    }
}
