//! One step of a model on one GPU as a list of problems: what a prediction adds up. There
//! are no other formulas: FLOPs and bytes are those of [`Problem::work`].

use super::llm::{AttentionKind as Attention, Experts, Llm};
use crate::format::DType;
use crate::op::{
    Access, Collective, CollectiveKind, DecodeAttention, Gemm, Inputs, KvAppend, KvLayout,
    KvRead, Lengths, MlaAppend, MlaDecode, MoeGemm, PageOrder, PrefillAttention, Problem,
    Routing, Stream,
};
use crate::quant::{Quant, QuantPlace};
use crate::resource::Link;

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// One new token of each request attends to its context.
    Decode,
    /// Many new tokens of each request attend to what is cached and to each other.
    Prefill,
}

impl Phase {
    /// Both, in the order in which tables list them.
    pub const ALL: [Phase; 2] = [Phase::Decode, Phase::Prefill];

    /// The spelling used on the command line and in CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Decode => "decode",
            Phase::Prefill => "prefill",
        }
    }
}

/// Formats of the numbers of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Formats {
    /// Scheme of weights.
    pub weights: Quant,
    /// Scheme of cached keys and values; of latents, and of keys and values made anew out of
    /// them, what is customary there.
    pub cache: Quant,
    /// Of activations.
    pub activations: DType,
}

impl Formats {
    /// The same format for everything, without scales.
    pub const fn plain(dtype: DType) -> Formats {
        let quant = Quant::plain(dtype);
        Formats { weights: quant, cache: quant, activations: dtype }
    }

    /// Scheme of cached latents.
    fn latents(self) -> Quant {
        self.cache.moved(QuantPlace::Cache, QuantPlace::Latents)
    }
}

/// How a model is spread over GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parallel {
    /// GPUs that share each layer's heads and widths (tensor parallel).
    pub tensor: u64,
    /// GPUs that share the experts of each layer, each whole (expert parallel); 1 to
    /// divide experts like everything else.
    pub expert: u64,
    /// Groups of GPUs that divide the batch (data parallel).
    pub data: u64,
}

impl Parallel {
    /// One GPU.
    pub const ONE: Parallel = Parallel { tensor: 1, expert: 1, data: 1 };

    /// GPUs altogether.
    pub const fn gpus(&self) -> u64 {
        self.tensor * self.data
    }
}

/// A step to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// What it does.
    pub phase: Phase,
    /// Requests, on all GPUs together.
    pub batch: u64,
    /// Tokens of each request in the end, new ones included.
    pub context: u64,
    /// New tokens of each request.
    pub new_tokens: u64,
    /// Formats of its numbers.
    pub formats: Formats,
    /// How it is spread.
    pub parallel: Parallel,
}

/// What a piece of a step belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
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
pub struct Piece {
    /// What it is, in the field's words.
    pub name: &'static str,
    /// What it belongs to.
    pub part: Part,
    /// The problem, on one GPU.
    pub problem: Problem,
    /// How many of them, one after the other.
    pub count: u64,
    /// Bytes read in the mean under uniform routing, where experts are routed over
    /// several GPUs; [`MoeGemm::bytes_read_expected`] where they are not.
    expected: Option<f64>,
}

impl Piece {
    /// Launches, as far as their start costs time of its own. Exchanges have the time of
    /// their links instead.
    pub const fn launches(&self) -> u64 {
        match self.part {
            Part::Exchange => 0,
            Part::Attention | Part::Projection | Part::FeedForward | Part::Rest => {
                self.count
            }
        }
    }

    /// Bytes of one problem with as many experts as routing touches in the mean.
    pub fn expected_bytes(&self) -> f64 {
        let work = self.problem.work();
        self.expected.map_or(work.bytes() as f64, |read| read + work.bytes_written() as f64)
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
    pub pieces: Vec<Piece>,
    /// Requests of this GPU.
    pub requests: u64,
    /// Bytes of the embedding table, of which a step reads its tokens' rows only; 0 where
    /// the head is the same.
    pub embedding_bytes: u64,
    /// Bytes of the cache of one request, on this GPU.
    pub request_cache_bytes: u64,
}

/// Pages of a predicted cache.
const PAGES: KvLayout = KvLayout::Paged { page_size: 64, order: PageOrder::HeadFirst };

/// Makes the list.
struct Builder<'a> {
    model: &'a Llm,
    shape: &'a Shape,
    /// Requests of this GPU.
    requests: u64,
    /// New tokens of this GPU.
    tokens: u64,
    pieces: Vec<Piece>,
    /// What GPUs send each other.
    exchanges: Vec<(&'static str, Collective, u64)>,
}

impl Step {
    /// The step of a model.
    ///
    /// # Errors
    /// What the model or the shape cannot be divided by, or a problem too large to count.
    pub fn of(model: &Llm, shape: &Shape) -> Result<Step, String> {
        check(model, shape)?;
        let requests = shape.batch.div_ceil(shape.parallel.data);
        let mut builder = Builder {
            model,
            shape,
            requests,
            tokens: requests * shape.new_tokens,
            pieces: Vec::with_capacity(24),
            exchanges: Vec::new(),
        };
        builder.layers()?;
        builder.push_exchanges()?;
        let embedding = if model.tied_embeddings { 0 } else { model.vocab * model.hidden };
        let embedding_bytes = head_format(shape.formats)
            .dtype()
            .bytes_of(embedding.div_ceil(shape.parallel.tensor));
        let request_cache_bytes = request_cache_bytes(model, shape);
        let pieces = builder.pieces;
        Ok(Step { pieces, requests, embedding_bytes, request_cache_bytes })
    }

    /// Bytes of the weights that lie in the memory of this GPU.
    pub fn resident_weight_bytes(&self) -> u64 {
        let pieces = self.pieces.iter().map(|piece| piece.count * piece.resident_bytes());
        self.embedding_bytes + pieces.sum::<u64>()
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

fn check(model: &Llm, shape: &Shape) -> Result<(), String> {
    let Parallel { tensor, expert, data } = shape.parallel;
    let divides = |what: &str, n: u64, by: u64, of: &str| {
        if n.is_multiple_of(by) {
            return Ok(());
        }
        Err(format!("{} has {what} = {n}, which {of} = {by} does not divide", model.name))
    };
    if [tensor, expert, data, shape.batch, shape.new_tokens].contains(&0) {
        return Err("batch, new tokens and parallelism must be at least 1".to_owned());
    }
    if shape.new_tokens > shape.context {
        return Err(format!(
            "{} new tokens are part of the context, which has {}",
            shape.new_tokens, shape.context
        ));
    }
    divides("q_heads", model.q_heads(), tensor, "tensor parallelism")?;
    if let Attention::Heads { kv_heads, .. } = model.attention
        && kv_heads % tensor != 0
        && tensor % kv_heads != 0
    {
        return Err(format!(
            "{} has kv_heads = {kv_heads}, which tensor parallelism = {tensor} neither divides \
             nor repeats",
            model.name
        ));
    }
    if model.intermediate > 0 {
        divides("intermediate", model.intermediate, tensor, "tensor parallelism")?;
    }
    match model.experts {
        Some(experts) if expert > 1 => {
            divides("experts", experts.count, expert, "expert parallelism")?;
            if expert > shape.parallel.gpus() {
                return Err(format!(
                    "expert parallelism = {expert} is more than the {} GPUs; raise tensor or \
                     data parallelism",
                    shape.parallel.gpus()
                ));
            }
            Ok(())
        }
        Some(experts) => divides(
            "expert_intermediate",
            experts.intermediate,
            tensor,
            "tensor parallelism",
        ),
        None if expert > 1 => Err(format!("{} has no experts to spread", model.name)),
        None => Ok(()),
    }
}

/// Bytes that one request has cached on a GPU: what reading all of it reads.
fn request_cache_bytes(model: &Llm, shape: &Shape) -> u64 {
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
        (name, part): (&'static str, Part),
        problem: Problem,
        count: u64,
    ) -> Result<(), String> {
        if count > 0 {
            let problem =
                problem.checked().map_err(|e| format!("{name}: {}", e.message))?;
            let expected = problem.routed().map(|routed| routed.bytes_read_expected);
            self.pieces.push(Piece { name, part, problem, count, expected });
        }
        Ok(())
    }

    /// A linear layer over so many tokens, `n` features of `k`.
    fn linear(
        &mut self,
        what: (&'static str, Part),
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
        self.push((name, Part::Rest), Problem::Stream(stream), count)
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
        self.push(("head", Part::Rest), Problem::Gemm(head), 1)?;
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
        self.linear(("q, k and v", Part::Projection), (tokens, n, hidden), layers)?;
        self.append(kv_heads, head_dim)?;
        let global = self.model.global_layers();
        self.attend(("attention", 0), (q_heads, kv_heads, head_dim), global)?;
        if let Some(windows) = self.model.windows {
            let what = ("windowed attention", windows.tokens);
            self.attend(what, (q_heads, kv_heads, head_dim), layers - global)?;
        }
        let k = q_heads * head_dim;
        self.linear(("output", Part::Projection), (tokens, hidden, k), layers)
    }

    fn append(&mut self, kv_heads: u64, head_dim: u64) -> Result<(), String> {
        let Shape { context, new_tokens, formats, .. } = *self.shape;
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
        self.push(("append", Part::Rest), Problem::KvAppend(append), self.model.layers)
    }

    fn append_latents(&mut self, latent_dim: u64, rope_dim: u64) -> Result<(), String> {
        let Shape { context, new_tokens, formats, .. } = *self.shape;
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
        self.push(("append", Part::Rest), append.into(), self.model.layers)
    }

    /// Attention of heads to a window, or to all where it is 0.
    fn attend(
        &mut self,
        (name, window): (&'static str, u64),
        (q_heads, kv_heads, head_dim): (u64, u64, u64),
        count: u64,
    ) -> Result<(), String> {
        let Shape { phase, context, new_tokens, formats, .. } = *self.shape;
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
        self.push((name, Part::Attention), problem, count)
    }

    /// Attention of a prompt, whose values may be narrower than its keys.
    fn prefill(
        &mut self,
        (name, window): (&'static str, u64),
        (q_heads, kv_heads): (u64, u64),
        (head_dim, v_head_dim): (u64, u64),
        count: u64,
    ) -> Result<(), String> {
        let Shape { context, new_tokens, formats, .. } = *self.shape;
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
        };
        self.push((name, Part::Attention), attention.into(), count)
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
        let Shape { phase, context, new_tokens, formats, parallel, .. } = *self.shape;
        let (tokens, heads) = (self.tokens, q_heads / parallel.tensor);
        let q_width = heads * (qk_nope_dim + qk_rope_dim);
        match q_lora_rank {
            Some(rank) => {
                self.linear(("q down", Part::Projection), (tokens, rank, hidden), layers)?;
                self.linear(("q up", Part::Projection), (tokens, q_width, rank), layers)?;
            }
            None => {
                self.linear(("q", Part::Projection), (tokens, q_width, hidden), layers)?
            }
        }
        let key = kv_lora_rank + qk_rope_dim;
        self.linear(("latents", Part::Projection), (tokens, key, hidden), layers)?;
        self.append_latents(kv_lora_rank, qk_rope_dim)?;
        match phase {
            Phase::Decode => {
                let absorbed = layers * heads;
                let q = (tokens, kv_lora_rank, qk_nope_dim);
                self.linear(("absorb keys", Part::Projection), q, absorbed)?;
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
                let what = ("latent attention", Part::Attention);
                self.push(what, Problem::MlaDecode(mla), layers)?;
                let o = (tokens, v_head_dim, kv_lora_rank);
                self.linear(("absorb values", Part::Projection), o, absorbed)?;
            }
            Phase::Prefill => {
                let up = heads * (qk_nope_dim + v_head_dim);
                let all = self.requests * context;
                let what = ("keys and values up", Part::Projection);
                self.linear(what, (all, up, kv_lora_rank), layers)?;
                let widths = (qk_nope_dim + qk_rope_dim, v_head_dim);
                self.prefill(("attention", 0), (heads, heads), widths, layers)?;
            }
        }
        let k = heads * v_head_dim;
        self.linear(("output", Part::Projection), (tokens, hidden, k), layers)
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
        self.linear((up, Part::FeedForward), (tokens, 2 * width, hidden), count)?;
        self.elementwise(activation, 3 * tokens * width, count)?;
        self.linear((down, Part::FeedForward), (tokens, hidden, width), count)
    }

    fn experts(&mut self, experts: &Experts) -> Result<(), String> {
        let Parallel { tensor, expert, .. } = self.shape.parallel;
        let (hidden, count) = (self.model.hidden, self.model.expert_layers());
        let router = (self.tokens, experts.count, hidden);
        self.linear(("router", Part::FeedForward), router, count)?;
        let shared = experts.shared_intermediate.div_ceil(tensor);
        let names = ["shared gate and up", "shared activation", "shared down"];
        self.feed_forward(names, shared, count)?;

        // Whole experts of a part, or a part of each; of all tokens or of this group's.
        let (tokens, width) = if expert > 1 {
            (self.shape.batch * self.shape.new_tokens, experts.intermediate)
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
        };
        let up = all(2 * width, hidden, Inputs::PerToken);
        let down = all(hidden, width, Inputs::PerExpert);
        self.routed("experts' gate and up", up, count)?;
        let rows = up.rows().div_ceil(expert);
        self.elementwise("experts' activation", 3 * rows * width, count)?;
        self.routed("experts' down", down, count)?;
        if expert > 1 {
            // Each token goes to its experts, and comes back; some are at home.
            let elements = self.tokens * experts.top_k * hidden;
            self.exchange(
                ("all-to-all", CollectiveKind::AllToAll),
                elements,
                expert,
                2 * count,
            );
        }
        Ok(())
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
        let what = (name, Part::FeedForward);
        if expert == 1 {
            return self.push(what, Problem::MoeGemm(all), count);
        }
        let here = MoeGemm {
            tokens: all.rows().div_ceil(expert),
            experts: all.experts / expert,
            top_k: 1,
            inputs: Inputs::PerExpert,
            ..all
        };
        self.push(what, Problem::MoeGemm(here), count)?;
        if let Some(piece) = self.pieces.last_mut() {
            let work = here.bytes_read_bound() - here.expert_bytes() * here.experts_bound();
            let touched = all.experts_expected() / expert as f64;
            piece.expected = Some(work as f64 + touched * here.expert_bytes() as f64);
        }
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
        self.exchanges.push((name, collective, count));
    }

    fn push_exchanges(&mut self) -> Result<(), String> {
        for (name, collective, count) in std::mem::take(&mut self.exchanges) {
            self.push((name, Part::Exchange), collective.into(), count)?;
        }
        Ok(())
    }
}
