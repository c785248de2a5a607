//! One step of a model on one GPU as a list of problems: what a prediction adds up. There
//! are no other formulas: FLOPs and bytes are those of [`Problem::work`].

mod mixer;

use super::llm::{Dense, Experts, FeedForward, LayerKind, Llm, Mixer};
use super::mix::Mix;
use super::routing::{self, Touched};
pub use super::shape::{
    Formats, FormatsChoice, Parallel, Phase, StepShape, WeightPart, Weights, WeightsChoice,
};
use crate::format::DType;
use crate::op::{
    Access, Collective, CollectiveKind, Gemm, Inputs, MoeGemm, Problem, Routing, RowOrder,
    Stream,
};
use crate::quant::Quant;
use crate::resource::Link;

/// What a problem of a step belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepPart {
    /// Attention itself: what queries, keys and values do with each other.
    Attention,
    /// Linear layers around attention.
    Projection,
    /// Dense feed-forward layers and experts.
    FeedForward,
    /// What GPUs send each other.
    Exchange,
    /// Everything else.
    Rest,
}

/// Equal problems of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepProblem {
    /// What it is, in the field's words.
    pub name: &'static str,
    /// What it belongs to.
    pub part: StepPart,
    /// The problem, on one GPU.
    pub problem: Problem,
    /// How many of them.
    pub count: u64,
    /// How many of them one launch computes together; launches follow one another. 0 where
    /// the launch of another problem computes them too.
    pub per_launch: u64,
    /// Bytes that are read, or sent by an exchange, in the mean over the ways in which tokens
    /// choose experts. The problem itself is of as many as can be touched.
    mean_bytes: Option<f64>,
    /// Whether its weights are in memory for another problem too.
    shares_weights: bool,
}

impl StepProblem {
    /// Launches, as far as their start costs time of its own. Exchanges have the time of
    /// their links instead.
    pub const fn launches(&self) -> u64 {
        match self.part {
            StepPart::Exchange => 0,
            StepPart::Attention
            | StepPart::Projection
            | StepPart::FeedForward
            | StepPart::Rest => match self.per_launch {
                0 => 0,
                together => self.count.div_ceil(together),
            },
        }
    }

    /// Bytes of one problem to and from DRAM.
    pub fn bytes(&self, touched: Touched) -> f64 {
        let work = self.problem.work();
        match self.mean_bytes {
            Some(read) if touched == Touched::Mean && work.bytes() > 0 => {
                read + work.bytes_written() as f64
            }
            _ => work.bytes() as f64,
        }
    }

    /// Bytes of one problem that are sent to other GPUs.
    pub fn sent_bytes(&self, touched: Touched) -> f64 {
        let sent = self.problem.work().sent_bytes();
        match self.mean_bytes {
            Some(mean) if touched == Touched::Mean && sent > 0 => mean,
            _ => sent as f64,
        }
    }

    /// Whether its bytes depend on which experts tokens choose.
    pub const fn is_routed(&self) -> bool {
        self.mean_bytes.is_some()
    }

    /// Bytes of the weights of one problem that lie in memory, read or not.
    pub fn resident_bytes(&self) -> u64 {
        if self.shares_weights {
            return 0;
        }
        match self.problem.routed() {
            Some(routed) => routed.resident_weight_bytes,
            None => self.problem.weight_bytes(),
        }
    }
}

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

/// Equal requests of a step.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// What is asked for them; formats, parallelism and routing are those of all parts.
    shape: StepShape,
    /// Requests of this GPU.
    requests: u64,
    /// Whether each gets a token.
    answered: bool,
    /// Whether it is the first of its phase. A launch of attention is for all requests that
    /// are in one phase.
    leads: bool,
}

/// Makes the list.
struct Builder<'a> {
    model: &'a Llm,
    /// The shape of the first part: formats, parallelism and routing of all.
    shape: &'a StepShape,
    parts: &'a [Part],
    /// New tokens of this GPU.
    tokens: u64,
    problems: Vec<StepProblem>,
    /// What GPUs send each other.
    exchanges: Vec<Exchange>,
}

/// Equal collectives of a step.
struct Exchange {
    name: &'static str,
    collective: Collective,
    count: u64,
    /// Share of its bytes that is sent in the mean, where that depends on the routing.
    mean_share: Option<f64>,
}

impl Part {
    fn of(shape: StepShape, answered: bool) -> Part {
        let requests = shape.batch.div_ceil(shape.parallel.data.max(1));
        Part { shape, requests, answered, leads: true }
    }
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

/// New tokens of all GPUs.
fn all_tokens(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.shape.batch * part.shape.new_tokens).sum()
}

/// Projections into a feed-forward part: its gate is one more.
const fn up_projections(gated: bool) -> u64 {
    if gated { 2 } else { 1 }
}

impl Builder<'_> {
    fn push(
        &mut self,
        what: (&'static str, StepPart),
        problem: Problem,
        count: u64,
    ) -> Result<(), String> {
        self.push_together(what, problem, (count, 1))
    }

    /// Problems of which one launch computes so many; beside equal ones, if there are any.
    fn push_together(
        &mut self,
        (name, part): (&'static str, StepPart),
        problem: Problem,
        (count, per_launch): (u64, u64),
    ) -> Result<(), String> {
        self.push_entry(StepProblem {
            name,
            part,
            problem,
            count,
            per_launch,
            mean_bytes: None,
            shares_weights: false,
        })
    }

    /// The last problem of a name has weights that another has in memory.
    fn share_weights(&mut self, name: &str) {
        if let Some(entry) = self.problems.iter_mut().rfind(|entry| entry.name == name) {
            entry.shares_weights = true;
        }
    }

    fn push_entry(&mut self, mut entry: StepProblem) -> Result<(), String> {
        if entry.count == 0 {
            return Ok(());
        }
        let is_equal = |other: &&mut StepProblem| {
            StepProblem { count: other.count, ..entry } == **other
        };
        if let Some(other) = self.problems.iter_mut().find(is_equal) {
            other.count += entry.count;
            return Ok(());
        }
        let checked = entry.problem.counted();
        entry.problem = checked.map_err(|e| format!("{}: {}", entry.name, e.message))?;
        self.problems.push(entry);
        Ok(())
    }

    /// A linear layer of a part over so many tokens, `n` features of `k`.
    fn linear_of(
        &mut self,
        part: WeightPart,
        name: &'static str,
        (m, n, k): (u64, u64, u64),
        count: u64,
    ) -> Result<(), String> {
        let Formats { weights, activations, .. } = self.shape.formats;
        let (w_dtype, a_dtype) = (weights.of(part), activations.into());
        let gemm = Gemm { m, n, k, dtype: activations, w_dtype, a_dtype };
        self.push((name, StepPart::FeedForward), Problem::Gemm(gemm), count)
    }

    /// A linear layer around attention.
    fn linear(
        &mut self,
        what: (&'static str, StepPart),
        sizes: (u64, u64, u64),
        count: u64,
    ) -> Result<(), String> {
        self.linear_of_heads(what, sizes, (1, count))
    }

    /// A product of every head with weights of its own, in each of so many layers: one
    /// launch a layer, as of a strided batched matrix product.
    fn linear_of_heads(
        &mut self,
        what: (&'static str, StepPart),
        (m, n, k): (u64, u64, u64),
        (heads, layers): (u64, u64),
    ) -> Result<(), String> {
        let Formats { weights, activations, .. } = self.shape.formats;
        let w_dtype = weights.of(WeightPart::Attention);
        let a_dtype = activations.into();
        let gemm = Gemm { m, n, k, dtype: activations, w_dtype, a_dtype };
        self.push_together(what, Problem::Gemm(gemm), (heads * layers, heads))
    }

    /// Something elementwise that moves so many bytes, half of them read.
    fn elementwise(
        &mut self,
        name: &'static str,
        elements: u64,
        count: u64,
    ) -> Result<(), String> {
        let bytes = self.shape.formats.activations.bytes_of(elements);
        let bytes = bytes.next_multiple_of(128);
        let stream = Stream { access: Access::Copy, bytes };
        self.push((name, StepPart::Rest), Problem::Stream(stream), count)
    }

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

    fn dense(&mut self, dense: &Dense, count: u64) -> Result<(), String> {
        let width = dense.intermediate / self.shape.parallel.tensor;
        let names = match dense.gated {
            true => ["gate and up", "activation", "down"],
            false => ["up", "activation", "down"],
        };
        self.feed_forward(WeightPart::Dense, names, (width, dense.gated), count)
    }

    /// Feed-forward layers of a width on this GPU, gated or not.
    fn feed_forward(
        &mut self,
        part: WeightPart,
        [up, activation, down]: [&'static str; 3],
        (width, gated): (u64, bool),
        count: u64,
    ) -> Result<(), String> {
        if width == 0 || count == 0 {
            return Ok(());
        }
        let (tokens, hidden) = (self.tokens, self.model.hidden);
        let ups = up_projections(gated);
        let up_shape = (tokens, ups * width, hidden);
        self.linear_of(part, up, up_shape, count)?;
        self.elementwise(activation, (ups + 1) * tokens * width, count)?;
        self.linear_of(part, down, (tokens, hidden, width), count)
    }

    fn experts(&mut self, experts: &Experts, count: u64) -> Result<(), String> {
        let Parallel { tensor, expert, .. } = self.shape.parallel;
        let hidden = self.model.hidden;
        let router = (self.tokens, experts.count, hidden);
        self.linear_of(WeightPart::Router, "router", router, count)?;
        let shared = experts.shared_intermediate.div_ceil(tensor);
        let names = ["shared gate and up", "shared activation", "shared down"];
        self.feed_forward(WeightPart::Shared, names, (shared, experts.gated), count)?;

        // Whole experts of a part, or a part of each; of the tokens of all GPUs that share
        // the experts, or of this group's.
        let (tokens, width) = if expert > 1 {
            let tokens = all_tokens(self.parts) * expert;
            (tokens.div_ceil(self.shape.parallel.gpus()), experts.intermediate)
        } else {
            (self.tokens, experts.intermediate / tensor)
        };
        let all = |n, k, inputs| MoeGemm {
            tokens,
            experts: experts.count,
            top_k: experts.top_k,
            n,
            k,
            dtype: self.shape.formats.activations,
            w_dtype: self.shape.formats.weights.of(WeightPart::Experts),
            routing: Routing::Balanced,
            routing_seed: 0,
            inputs,
            row_order: RowOrder::Scattered,
            a_dtype: Quant::plain(self.shape.formats.activations),
        };
        let ups = up_projections(experts.gated);
        let up = all(ups * width, hidden, Inputs::PerToken);
        let down = all(hidden, width, Inputs::PerExpert);
        self.routed("experts' gate and up", up, count)?;
        let rows = up.rows().div_ceil(expert);
        self.elementwise("experts' activation", (ups + 1) * rows * width, count)?;
        self.routed("experts' down", down, count)?;
        if expert > 1 {
            self.send_to_experts(experts, count);
        }
        Ok(())
    }

    /// Each token goes to the GPUs of its experts, one copy to each, and what comes back of
    /// each is a sum. GPUs that have the same tokens divide them for that, and gather them.
    fn send_to_experts(&mut self, experts: &Experts, count: u64) {
        let Parallel { tensor, expert, .. } = self.shape.parallel;
        let (tokens, hidden) = (self.tokens.div_ceil(tensor), self.model.hidden);
        let most = experts.top_k.min(expert);
        let what = ("all-to-all", CollectiveKind::AllToAll);
        self.exchange(what, tokens * most * hidden, expert, 2 * count);
        let reached = routing::gpus_reached((experts.count, experts.top_k), expert);
        if let Some(exchange) = self.exchanges.last_mut() {
            exchange.mean_share = Some(reached / most as f64);
        }
        if tensor > 1 {
            let what = ("all-gather", CollectiveKind::AllGather);
            self.exchange(what, self.tokens * hidden, tensor, count);
        }
    }

    /// A projection of routed experts. Where these are spread, each GPU has its share of
    /// experts and of rows.
    fn routed(
        &mut self,
        name: &'static str,
        all: MoeGemm,
        count: u64,
    ) -> Result<(), String> {
        let expert = self.shape.parallel.expert;
        let here = match expert {
            1 => all,
            _ => MoeGemm {
                tokens: all.rows().div_ceil(expert),
                experts: all.experts / expert,
                top_k: 1,
                inputs: Inputs::PerExpert,
                ..all
            },
        };
        let touched = self.shape.routing.experts_touched(&all)? / expert as f64;
        let others = here.bytes_read_bound() - here.expert_bytes() * here.experts_bound();
        let read = others as f64 + touched * here.expert_bytes() as f64;
        self.push_entry(StepProblem {
            name,
            part: StepPart::FeedForward,
            problem: Problem::MoeGemm(here),
            count,
            per_launch: 1,
            mean_bytes: Some(read),
            shares_weights: false,
        })
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

    /// A collective of GPUs that have so many elements of activations each.
    fn exchange(
        &mut self,
        (name, kind): (&'static str, CollectiveKind),
        elements: u64,
        ranks: u64,
        count: u64,
    ) {
        let bytes = self.shape.formats.activations.bytes_of(elements);
        let collective = Collective { collective: kind, ranks, bytes, link: Link::Peer };
        self.exchanges.push(Exchange { name, collective, count, mean_share: None });
    }

    fn push_exchanges(&mut self) -> Result<(), String> {
        for exchange in std::mem::take(&mut self.exchanges) {
            let Exchange { name, collective, count, mean_share } = exchange;
            let sent = collective.sent_bytes() as f64;
            self.push_entry(StepProblem {
                name,
                part: StepPart::Exchange,
                problem: collective.into(),
                count,
                per_launch: 1,
                mean_bytes: mean_share.map(|share| share * sent),
                shares_weights: false,
            })?;
        }
        Ok(())
    }
}
