//! One step of a model on one GPU as a list of problems: what a prediction adds up. There
//! are no other formulas: FLOPs and bytes are those of [`Problem::work`].

use super::llm::{AttentionKind as Attention, Experts, Llm};
use super::routing::{self, Touched};
pub use super::shape::{Formats, Parallel, Phase, StepShape};
use crate::format::DType;
use crate::op::{
    Access, Collective, CollectiveKind, DecodeAttention, Gemm, Inputs, KvAppend, KvLayout,
    KvRead, Lengths, MlaAppend, MlaDecode, MoeGemm, PageOrder, PrefillAttention, Problem,
    Routing, RowOrder, Stream,
};
use crate::quant::{Quant, QuantPlace};
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
    /// How many of them one launch computes together; launches follow one another.
    pub per_launch: u64,
    /// Bytes that are read, or sent by an exchange, in the mean over the ways in which tokens
    /// choose experts. The problem itself is of as many as can be touched.
    mean_bytes: Option<f64>,
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
            | StepPart::Rest => self.count.div_ceil(self.per_launch),
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
    /// Bytes of the embedding table, of which a step reads its tokens' rows only; 0 where
    /// the head is the same.
    pub embedding_bytes: u64,
    /// Bytes of the cache of one request, on this GPU.
    pub request_cache_bytes: u64,
    /// Which number of touched experts its sums are of.
    pub touched: Touched,
}

/// Pages of a predicted cache.
const PAGES: KvLayout = KvLayout::Paged { page_size: 64, order: PageOrder::HeadFirst };

/// Makes the list.
struct Builder<'a> {
    model: &'a Llm,
    shape: &'a StepShape,
    /// Requests of this GPU.
    requests: u64,
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

impl Step {
    /// The step of a model.
    ///
    /// # Errors
    /// What the model or the shape cannot be divided by, or a problem too large to count.
    pub fn of(model: &Llm, shape: &StepShape) -> Result<Step, String> {
        super::shape::check(model, shape)?;
        let requests = shape.batch.div_ceil(shape.parallel.data);
        let mut builder = Builder {
            model,
            shape,
            requests,
            tokens: requests * shape.new_tokens,
            problems: Vec::with_capacity(24),
            exchanges: Vec::new(),
        };
        builder.layers()?;
        builder.push_exchanges()?;
        let embedding = if model.tied_embeddings { 0 } else { model.vocab * model.hidden };
        let embedding_bytes = head_format(shape.formats)
            .dtype()
            .bytes_of(embedding.div_ceil(shape.parallel.tensor));
        let request_cache_bytes = request_cache_bytes(model, shape);
        let problems = builder.problems;
        let touched = shape.routing.touched();
        Ok(Step { problems, requests, embedding_bytes, request_cache_bytes, touched })
    }

    /// Bytes of the weights that lie in the memory of this GPU.
    pub fn resident_weight_bytes(&self) -> u64 {
        let problems =
            self.problems.iter().map(|entry| entry.count * entry.resident_bytes());
        self.embedding_bytes + problems.sum::<u64>()
    }
}

/// Nobody quantizes embeddings and heads below 16 bits.
fn head_format(formats: Formats) -> Quant {
    if formats.weights.dtype().bits() < 16 {
        Quant::plain(DType::Bf16)
    } else {
        formats.weights
    }
}

/// Bytes that one request has cached on a GPU: what reading all of it reads.
fn request_cache_bytes(model: &Llm, shape: &StepShape) -> u64 {
    let of_layer = |context: u64| -> u64 {
        match model.attention {
            Attention::Heads { kv_heads, head_dim, .. } => {
                let read = KvRead {
                    batch: 1,
                    context,
                    kv_heads: kv_heads.div_ceil(shape.parallel.tensor),
                    head_dim,
                    dtype: shape.formats.cache.dtype(),
                    layout: KvLayout::Contiguous,
                    lengths: Lengths::Equal,
                };
                Problem::KvRead(read).cache_bytes()
            }
            Attention::Latent { kv_lora_rank, qk_rope_dim, .. } => {
                let read = MlaDecode {
                    batch: 1,
                    context,
                    q_heads: 1,
                    latent_dim: kv_lora_rank,
                    rope_dim: qk_rope_dim,
                    dtype: shape.formats.activations,
                    kv_dtype: shape.formats.latents(),
                    layout: KvLayout::Contiguous,
                    lengths: Lengths::Equal,
                    new_tokens: 1,
                };
                Problem::MlaDecode(read).cache_bytes()
            }
        }
    };
    let global = model.global_layers();
    let local = model.windows.map_or(0, |windows| {
        (model.layers - global) * of_layer(shape.context.min(windows.tokens))
    });
    global * of_layer(shape.context) + local
}

impl Builder<'_> {
    fn push(
        &mut self,
        (name, part): (&'static str, StepPart),
        problem: Problem,
        count: u64,
    ) -> Result<(), String> {
        if count > 0 {
            let problem =
                problem.checked().map_err(|e| format!("{name}: {}", e.message))?;
            let (per_launch, mean_bytes) = (1, None);
            let entry = StepProblem { name, part, problem, count, per_launch, mean_bytes };
            self.problems.push(entry);
        }
        Ok(())
    }

    /// A product of every head with weights of its own, in each of so many layers: one
    /// launch a layer, as of a strided batched matrix product.
    fn linear_of_heads(
        &mut self,
        what: (&'static str, StepPart),
        sizes: (u64, u64, u64),
        (heads, layers): (u64, u64),
    ) -> Result<(), String> {
        let before = self.problems.len();
        self.linear(what, sizes, heads * layers)?;
        self.problems[before..].iter_mut().for_each(|entry| entry.per_launch = heads);
        Ok(())
    }

    /// A linear layer over so many tokens, `n` features of `k`.
    fn linear(
        &mut self,
        what: (&'static str, StepPart),
        (m, n, k): (u64, u64, u64),
        count: u64,
    ) -> Result<(), String> {
        let Formats { weights, activations, .. } = self.shape.formats;
        // Tiny or odd matrices are not quantized to groups.
        let w_dtype = match weights.check_matrix(n, k) {
            Ok(()) => weights,
            Err(_) => Quant::plain(DType::Bf16),
        };
        let a_dtype = activations.into();
        let gemm = Gemm { m, n, k, dtype: activations, w_dtype, a_dtype };
        self.push(what, Problem::Gemm(gemm), count)
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
        let Llm { layers, hidden, vocab, .. } = *self.model;
        let tensor = self.shape.parallel.tensor;
        self.elementwise("embedding", 2 * self.tokens * hidden, 1)?;
        // A residual is added and the sum normed: two rows in, two out.
        let norms = layers * self.model.norms_per_layer + 1;
        self.elementwise("norm", 4 * self.tokens * hidden, norms)?;
        match self.model.attention {
            Attention::Heads { q_heads, kv_heads, head_dim, .. } => self
                .attention_of_heads(
                    q_heads / tensor,
                    kv_heads.div_ceil(tensor),
                    head_dim,
                )?,
            Attention::Latent { .. } => self.latent_attention()?,
        }
        self.dense_feed_forward()?;
        if let Some(experts) = self.model.experts {
            self.experts(&experts)?;
        }
        // Of a prompt only the last token is answered.
        let formats = self.shape.formats;
        let head = Gemm {
            m: self.requests,
            n: vocab.div_ceil(tensor),
            k: hidden,
            dtype: formats.activations,
            w_dtype: head_format(formats),
            a_dtype: formats.activations.into(),
        };
        self.push(("head", StepPart::Rest), Problem::Gemm(head), 1)?;
        self.all_reduces();
        Ok(())
    }

    fn attention_of_heads(
        &mut self,
        q_heads: u64,
        kv_heads: u64,
        head_dim: u64,
    ) -> Result<(), String> {
        let Llm { layers, hidden, .. } = *self.model;
        let (tokens, n) = (self.tokens, (q_heads + 2 * kv_heads) * head_dim);
        self.linear(("q, k and v", StepPart::Projection), (tokens, n, hidden), layers)?;
        self.append(kv_heads, head_dim)?;
        let global = self.model.global_layers();
        self.attend(("attention", 0), (q_heads, kv_heads, head_dim), global)?;
        if let Some(windows) = self.model.windows {
            let what = ("windowed attention", windows.tokens);
            self.attend(what, (q_heads, kv_heads, head_dim), layers - global)?;
        }
        let k = q_heads * head_dim;
        self.linear(("output", StepPart::Projection), (tokens, hidden, k), layers)
    }

    fn append(&mut self, kv_heads: u64, head_dim: u64) -> Result<(), String> {
        let StepShape { context, new_tokens, formats, .. } = *self.shape;
        let append = KvAppend {
            batch: self.requests,
            context,
            new_tokens,
            kv_heads,
            head_dim,
            dtype: formats.activations,
            kv_dtype: formats.cache,
            layout: PAGES,
            lengths: Lengths::Equal,
        };
        self.push(("append", StepPart::Rest), Problem::KvAppend(append), self.model.layers)
    }

    fn append_latents(&mut self, latent_dim: u64, rope_dim: u64) -> Result<(), String> {
        let StepShape { context, new_tokens, formats, .. } = *self.shape;
        let append = MlaAppend {
            batch: self.requests,
            context,
            new_tokens,
            latent_dim,
            rope_dim,
            dtype: formats.activations,
            kv_dtype: formats.latents(),
            layout: PAGES,
            lengths: Lengths::Equal,
        };
        self.push(("append", StepPart::Rest), append.into(), self.model.layers)
    }

    /// Attention of heads to a window, or to all where it is 0.
    fn attend(
        &mut self,
        (name, window): (&'static str, u64),
        (q_heads, kv_heads, head_dim): (u64, u64, u64),
        count: u64,
    ) -> Result<(), String> {
        let StepShape { phase, context, new_tokens, formats, .. } = *self.shape;
        let Formats { cache: kv_dtype, activations: dtype, .. } = formats;
        let batch = self.requests;
        let problem = match phase {
            Phase::Decode => Problem::DecodeAttention(DecodeAttention {
                batch,
                context,
                q_heads,
                kv_heads,
                head_dim,
                dtype,
                kv_dtype,
                layout: KvLayout::Contiguous,
                lengths: Lengths::Equal,
                new_tokens,
                window,
            }),
            Phase::Prefill => {
                let (heads, widths) = ((q_heads, kv_heads), (head_dim, head_dim));
                return self.prefill((name, window), heads, widths, count);
            }
        };
        self.push((name, StepPart::Attention), problem, count)
    }

    /// Attention of a prompt, whose values may be narrower than its keys.
    fn prefill(
        &mut self,
        (name, window): (&'static str, u64),
        (q_heads, kv_heads): (u64, u64),
        (head_dim, v_head_dim): (u64, u64),
        count: u64,
    ) -> Result<(), String> {
        let StepShape { context, new_tokens, formats, .. } = *self.shape;
        let attention = PrefillAttention {
            batch: self.requests,
            prefix: context - new_tokens,
            new_tokens,
            q_heads,
            kv_heads,
            head_dim,
            causal: true,
            dtype: formats.activations,
            kv_dtype: formats.cache.moved(QuantPlace::Cache, QuantPlace::Prompt),
            window,
            v_head_dim,
            layout: KvLayout::Contiguous,
        };
        self.push((name, StepPart::Attention), attention.into(), count)
    }

    /// The projections to queries of so many elements, by way of a rank where there is one.
    fn latent_queries(
        &mut self,
        q_lora_rank: Option<u64>,
        width: u64,
    ) -> Result<(), String> {
        let Llm { layers, hidden, .. } = *self.model;
        let tokens = self.tokens;
        match q_lora_rank {
            Some(rank) => {
                self.linear(
                    ("q down", StepPart::Projection),
                    (tokens, rank, hidden),
                    layers,
                )?;
                self.linear(("q up", StepPart::Projection), (tokens, width, rank), layers)
            }
            None => {
                self.linear(("q", StepPart::Projection), (tokens, width, hidden), layers)
            }
        }
    }

    /// Latent attention: absorbed in decode, with keys and values of all heads made anew
    /// out of the latents in prefill.
    fn latent_attention(&mut self) -> Result<(), String> {
        let Attention::Latent {
            q_heads,
            q_lora_rank,
            kv_lora_rank,
            qk_nope_dim,
            qk_rope_dim,
            v_head_dim,
        } = self.model.attention
        else {
            return Ok(());
        };
        let Llm { layers, hidden, .. } = *self.model;
        let StepShape { phase, context, new_tokens, formats, parallel, .. } = *self.shape;
        let (tokens, heads) = (self.tokens, q_heads / parallel.tensor);
        self.latent_queries(q_lora_rank, heads * (qk_nope_dim + qk_rope_dim))?;
        let key = kv_lora_rank + qk_rope_dim;
        self.linear(("latents", StepPart::Projection), (tokens, key, hidden), layers)?;
        self.append_latents(kv_lora_rank, qk_rope_dim)?;
        match phase {
            Phase::Decode => {
                let absorbed = (heads, layers);
                let q = (tokens, kv_lora_rank, qk_nope_dim);
                self.linear_of_heads(("absorb keys", StepPart::Projection), q, absorbed)?;
                let mla = MlaDecode {
                    batch: self.requests,
                    context,
                    q_heads: heads,
                    latent_dim: kv_lora_rank,
                    rope_dim: qk_rope_dim,
                    dtype: formats.activations,
                    kv_dtype: formats.latents(),
                    layout: KvLayout::Contiguous,
                    lengths: Lengths::Equal,
                    new_tokens,
                };
                let what = ("latent attention", StepPart::Attention);
                self.push(what, Problem::MlaDecode(mla), layers)?;
                let o = (tokens, v_head_dim, kv_lora_rank);
                let what = ("absorb values", StepPart::Projection);
                self.linear_of_heads(what, o, absorbed)?;
            }
            Phase::Prefill => {
                let up = heads * (qk_nope_dim + v_head_dim);
                let all = self.requests * context;
                let what = ("keys and values up", StepPart::Projection);
                self.linear(what, (all, up, kv_lora_rank), layers)?;
                let widths = (qk_nope_dim + qk_rope_dim, v_head_dim);
                self.prefill(("attention", 0), (heads, heads), widths, layers)?;
            }
        }
        let k = heads * v_head_dim;
        self.linear(("output", StepPart::Projection), (tokens, hidden, k), layers)
    }

    fn dense_feed_forward(&mut self) -> Result<(), String> {
        let Llm { layers, intermediate, .. } = *self.model;
        let dense = layers - self.model.expert_layers();
        let width = intermediate / self.shape.parallel.tensor;
        self.feed_forward(["gate and up", "activation", "down"], width, dense)
    }

    /// Gated feed-forward layers of a width on this GPU.
    fn feed_forward(
        &mut self,
        [up, activation, down]: [&'static str; 3],
        width: u64,
        count: u64,
    ) -> Result<(), String> {
        if width == 0 || count == 0 {
            return Ok(());
        }
        let (tokens, hidden) = (self.tokens, self.model.hidden);
        self.linear((up, StepPart::FeedForward), (tokens, 2 * width, hidden), count)?;
        self.elementwise(activation, 3 * tokens * width, count)?;
        self.linear((down, StepPart::FeedForward), (tokens, hidden, width), count)
    }

    fn experts(&mut self, experts: &Experts) -> Result<(), String> {
        let Parallel { tensor, expert, .. } = self.shape.parallel;
        let (hidden, count) = (self.model.hidden, self.model.expert_layers());
        let router = (self.tokens, experts.count, hidden);
        self.linear(("router", StepPart::FeedForward), router, count)?;
        let shared = experts.shared_intermediate.div_ceil(tensor);
        let names = ["shared gate and up", "shared activation", "shared down"];
        self.feed_forward(names, shared, count)?;

        // Whole experts of a part, or a part of each; of the tokens of all GPUs that share
        // the experts, or of this group's.
        let (tokens, width) = if expert > 1 {
            let tokens = self.shape.batch * self.shape.new_tokens * expert;
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
            w_dtype: self.shape.formats.weights,
            routing: Routing::Balanced,
            routing_seed: 0,
            inputs,
            row_order: RowOrder::Scattered,
            a_dtype: Quant::plain(self.shape.formats.activations),
        };
        let up = all(2 * width, hidden, Inputs::PerToken);
        let down = all(hidden, width, Inputs::PerExpert);
        self.routed("experts' gate and up", up, count)?;
        let rows = up.rows().div_ceil(expert);
        self.elementwise("experts' activation", 3 * rows * width, count)?;
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
        let before = self.problems.len();
        self.push((name, StepPart::FeedForward), Problem::MoeGemm(here), count)?;
        let touched = self.shape.routing.experts_touched(&all)? / expert as f64;
        let others = here.bytes_read_bound() - here.expert_bytes() * here.experts_bound();
        let read = others as f64 + touched * here.expert_bytes() as f64;
        let entries = self.problems[before..].iter_mut();
        entries.for_each(|entry| entry.mean_bytes = Some(read));
        Ok(())
    }

    /// Groups of GPUs add up what each has of the residual stream, after attention and
    /// after the feed-forward.
    fn all_reduces(&mut self) {
        let Parallel { tensor, expert, .. } = self.shape.parallel;
        if tensor == 1 {
            return;
        }
        let spread = if expert > 1 { self.model.expert_layers() } else { 0 };
        let count = 2 * self.model.layers - spread;
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
            let before = self.problems.len();
            self.push((name, StepPart::Exchange), collective.into(), count)?;
            let sent = collective.sent_bytes() as f64;
            let entries = self.problems[before..].iter_mut();
            entries.for_each(|entry| entry.mean_bytes = mean_share.map(|x| x * sent));
        }
        Ok(())
    }
}
