//! What token mixers ask for: projections, caches and states, and attention itself.

use super::list::{Builder, Part, StepPart};
use crate::format::DType;
use crate::model::llm::{
    Heads, Index, Latent, Llm, Mixer, Span, StateGate, StateRule, StateSpace,
};
use crate::model::shape::{Formats, Phase, StepShape};
use crate::op::{
    DecodeAttention, IndexTopk, KvAppend, KvLayout, KvRead, Lengths, MlaAppend, MlaDecode,
    PageOrder, PrefillAttention, Problem, SparseMla, StateUpdate,
};
use crate::quant::{Quant, QuantPlace};

/// Pages of a predicted cache.
const PAGES: KvLayout = KvLayout::Paged { page_size: 64, order: PageOrder::HeadFirst };

/// The format in which states are kept: sums over a whole context lose too much in 16
/// bits, and `mamba_ssm_dtype` of published configurations says so.
const STATE: DType = DType::F32;

/// Bytes that one request has cached on a GPU: what reading all of it reads, and its states.
pub(super) fn request_cache_bytes(model: &Llm, shape: &StepShape) -> u64 {
    let of_mixer = |(mixer, count): (Mixer, u64)| count * cache_bytes(&mixer, shape);
    model.mixers().into_iter().map(of_mixer).sum()
}

/// Those of a layer.
fn cache_bytes(mixer: &Mixer, shape: &StepShape) -> u64 {
    let StepShape { context, formats, parallel, .. } = *shape;
    match mixer {
        Mixer::None => 0,
        Mixer::Heads(heads) if heads.shares_cache => 0,
        Mixer::Heads(heads) => {
            let read = KvRead {
                batch: 1,
                context: heads.span.kept(context),
                kv_heads: heads.kv_heads.div_ceil(parallel.tensor),
                head_dim: heads.head_dim,
                dtype: formats.cache.dtype(),
                layout: KvLayout::Contiguous,
                lengths: Lengths::Equal,
            };
            Problem::KvRead(read).cache_bytes()
        }
        Mixer::Latent(latent) => {
            let read = MlaDecode {
                batch: 1,
                context,
                q_heads: 1,
                latent_dim: latent.kv_lora_rank,
                rope_dim: latent.qk_rope_dim,
                dtype: formats.activations,
                kv_dtype: formats.latents(),
                layout: KvLayout::Contiguous,
                lengths: Lengths::Equal,
                new_tokens: 1,
            };
            let index = latent
                .index
                .map_or(0, |index| Problem::from(scoring(&index, shape, 1)).cache_bytes());
            Problem::MlaDecode(read).cache_bytes() + index
        }
        Mixer::State(state) => update(state, shape, 1).kept_bytes(),
    }
}

/// The index of so many requests.
fn scoring(index: &Index, shape: &StepShape, batch: u64) -> IndexTopk {
    IndexTopk {
        batch,
        context: shape.context,
        new_tokens: shape.new_tokens,
        q_heads: index.heads,
        head_dim: index.head_dim,
        top_k: index.top_k,
        dtype: shape.formats.activations,
        kv_dtype: shape.formats.latents(),
    }
}

/// The states of so many requests on a GPU.
fn update(state: &StateSpace, shape: &StepShape, batch: u64) -> StateUpdate {
    let state = of_gpu(state, shape.parallel.tensor);
    StateUpdate {
        batch,
        new_tokens: shape.new_tokens,
        state_heads: state.heads,
        key_heads: state.key_heads,
        key_dim: state.key_dim,
        value_dim: state.value_dim,
        conv_taps: state.conv_taps,
        rule: state.rule,
        decay: state.decay,
        dtype: shape.formats.activations,
        state_dtype: STATE,
    }
}

/// The heads of a state-space layer that one GPU of so many has.
fn of_gpu(state: &StateSpace, tensor: u64) -> StateSpace {
    StateSpace {
        heads: state.heads / tensor,
        key_heads: state.key_heads.div_ceil(tensor),
        ..*state
    }
}

/// New tokens of a request that see the same beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    /// How many pieces of a request are like this.
    count: u64,
    /// Tokens that they see, themselves included.
    context: u64,
    /// New tokens.
    new_tokens: u64,
    /// Whether a launch is for them: for the first of a request's pieces.
    launches: bool,
}

impl Piece {
    /// All new tokens of a request. The launch is that of all parts of a phase.
    const fn whole(part: &Part) -> Piece {
        let StepShape { context, new_tokens, .. } = part.shape;
        Piece { count: 1, context, new_tokens, launches: part.leads }
    }
}

/// The new tokens of a part's requests, cut at the ends of chunks.
fn pieces(span: Span, part: &Part) -> Vec<Piece> {
    let whole = Piece::whole(part);
    let Span::Chunk(chunk) = span else { return vec![whole] };
    let before = (whole.context - whole.new_tokens) % chunk;
    let first = whole.new_tokens.min(chunk - before);
    let rest = whole.new_tokens - first;
    let other =
        |count, context, new_tokens| Piece { count, context, new_tokens, launches: false };
    let all = [
        Piece { context: before + first, new_tokens: first, ..whole },
        other(rest / chunk, chunk, chunk),
        other(1, rest % chunk, rest % chunk),
    ];
    all.into_iter().filter(|piece| piece.count * piece.new_tokens > 0).collect()
}

/// Whether a part is the first of its phase among some.
fn leads(parts: &[&Part], at: usize) -> bool {
    at == 0 || parts[at - 1].shape.phase != parts[at].shape.phase
}

/// What keys and values of all heads are made of latents by.
const KEYS_AND_VALUES_UP: &str = "keys and values up";

/// Absorbed attention of the requests of a part, to all latents or to those of an index.
fn attention_of_latents(
    latent: &Latent,
    part: &Part,
    heads: u64,
) -> (&'static str, Problem) {
    let StepShape { context, new_tokens, formats, .. } = part.shape;
    let Some(Index { top_k, .. }) = latent.index else {
        let dense = MlaDecode {
            batch: part.requests,
            context,
            q_heads: heads,
            latent_dim: latent.kv_lora_rank,
            rope_dim: latent.qk_rope_dim,
            dtype: formats.activations,
            kv_dtype: formats.latents(),
            layout: KvLayout::Contiguous,
            lengths: Lengths::Equal,
            new_tokens,
        };
        return ("latent attention", dense.into());
    };
    let sparse = SparseMla {
        batch: part.requests,
        context,
        new_tokens,
        q_heads: heads,
        top_k,
        latent_dim: latent.kv_lora_rank,
        rope_dim: latent.qk_rope_dim,
        dtype: formats.activations,
        kv_dtype: formats.latents(),
    };
    ("sparse latent attention", sparse.into())
}

impl Builder<'_> {
    /// So many layers' mixer.
    pub(super) fn mixer(&mut self, mixer: &Mixer, count: u64) -> Result<(), String> {
        match mixer {
            Mixer::None => Ok(()),
            Mixer::Heads(heads) => self.attention_of_heads(heads, count),
            Mixer::Latent(latent) => self.latent_attention(latent, count),
            Mixer::State(state) => self.state(state, count),
        }
    }

    fn attention_of_heads(&mut self, heads: &Heads, count: u64) -> Result<(), String> {
        let tensor = self.shape.parallel.tensor;
        let Heads { head_dim, span, .. } = *heads;
        let (q_heads, kv_heads) = (heads.q_heads / tensor, heads.kv_heads.div_ceil(tensor));
        let (tokens, hidden) = (self.tokens, self.model.hidden);
        let gates = if heads.output_gate { q_heads } else { 0 };
        let kept = if heads.shares_cache { 0 } else { 2 * kv_heads };
        let n = (q_heads + gates + kept) * head_dim;
        let what = if heads.shares_cache { "q" } else { "q, k and v" };
        self.linear((what, StepPart::Projection), (tokens, n, hidden), count)?;
        if !heads.shares_cache {
            self.append(kv_heads, head_dim, count)?;
        }
        for part in self.parts {
            for piece in pieces(span, part) {
                self.attend(span, (part, piece), (q_heads, kv_heads, head_dim), count)?;
            }
        }
        if gates > 0 {
            self.elementwise("output gate", 3 * tokens * q_heads * head_dim, count)?;
        }
        let k = q_heads * head_dim;
        self.linear(("output", StepPart::Projection), (tokens, hidden, k), count)
    }

    fn append(&mut self, kv_heads: u64, head_dim: u64, count: u64) -> Result<(), String> {
        for (at, part) in self.parts.iter().enumerate() {
            let StepShape { context, new_tokens, formats, .. } = part.shape;
            let append = KvAppend {
                batch: part.requests,
                context,
                new_tokens,
                kv_heads,
                head_dim,
                dtype: formats.activations,
                kv_dtype: formats.cache,
                layout: PAGES,
                lengths: Lengths::Equal,
            };
            let together = (count, u64::from(at == 0));
            self.push_together(("append", StepPart::Rest), append.into(), together)?;
        }
        Ok(())
    }

    fn append_latents(&mut self, latent: &Latent, count: u64) -> Result<(), String> {
        for (at, part) in self.parts.iter().enumerate() {
            let StepShape { context, new_tokens, formats, .. } = part.shape;
            let append = MlaAppend {
                batch: part.requests,
                context,
                new_tokens,
                latent_dim: latent.kv_lora_rank,
                rope_dim: latent.qk_rope_dim,
                dtype: formats.activations,
                kv_dtype: formats.latents(),
                layout: PAGES,
                lengths: Lengths::Equal,
            };
            let together = (count, u64::from(at == 0));
            self.push_together(("append", StepPart::Rest), append.into(), together)?;
        }
        Ok(())
    }

    /// Attention of heads, of one of the pieces that a span cuts new tokens into.
    fn attend(
        &mut self,
        span: Span,
        (part, piece): (&Part, Piece),
        (q_heads, kv_heads, head_dim): (u64, u64, u64),
        count: u64,
    ) -> Result<(), String> {
        let (name, window) = match span {
            Span::Full => ("attention", 0),
            Span::Window(tokens) => ("windowed attention", tokens),
            Span::Chunk(_) => ("chunked attention", 0),
        };
        let Formats { cache: kv_dtype, activations: dtype, .. } = self.shape.formats;
        match part.shape.phase {
            Phase::Decode => {
                let problem = Problem::DecodeAttention(DecodeAttention {
                    batch: part.requests * piece.count,
                    context: piece.context,
                    q_heads,
                    kv_heads,
                    head_dim,
                    dtype,
                    kv_dtype,
                    layout: KvLayout::Contiguous,
                    lengths: Lengths::Equal,
                    new_tokens: piece.new_tokens,
                    window,
                });
                let together = (count, u64::from(piece.launches));
                self.push_together((name, StepPart::Attention), problem, together)
            }
            Phase::Prefill => {
                let (heads, widths) = ((q_heads, kv_heads), (head_dim, head_dim));
                self.prefill((name, window), (part, piece), (heads, widths), count)
            }
        }
    }

    /// Attention of a prompt, whose values may be narrower than its keys.
    fn prefill(
        &mut self,
        (name, window): (&'static str, u64),
        (part, piece): (&Part, Piece),
        ((q_heads, kv_heads), (head_dim, v_head_dim)): ((u64, u64), (u64, u64)),
        count: u64,
    ) -> Result<(), String> {
        let formats = self.shape.formats;
        let attention = PrefillAttention {
            batch: part.requests * piece.count,
            prefix: piece.context - piece.new_tokens,
            new_tokens: piece.new_tokens,
            q_heads,
            kv_heads,
            head_dim,
            causal: true,
            dtype: formats.activations,
            kv_dtype: formats.cache.moved(QuantPlace::Cache, QuantPlace::Prompt),
            window,
            v_head_dim,
            layout: KvLayout::Contiguous,
            lengths: Lengths::Equal,
            q_dtype: Quant::plain(formats.activations),
        };
        let together = (count, u64::from(piece.launches));
        self.push_together((name, StepPart::Attention), attention.into(), together)
    }

    /// The projections to queries of so many elements, by way of a rank where there is one.
    fn latent_queries(
        &mut self,
        q_lora_rank: Option<u64>,
        width: u64,
        count: u64,
    ) -> Result<(), String> {
        let (tokens, hidden) = (self.tokens, self.model.hidden);
        let Some(rank) = q_lora_rank else {
            return self.linear(
                ("q", StepPart::Projection),
                (tokens, width, hidden),
                count,
            );
        };
        self.linear(("q down", StepPart::Projection), (tokens, rank, hidden), count)?;
        self.linear(("q up", StepPart::Projection), (tokens, width, rank), count)
    }

    /// Latent attention: absorbed in decode, with keys and values of all heads made anew
    /// out of the latents in prefill. With an index it is absorbed in both, but for prompts
    /// so short that everything is attended to.
    fn latent_attention(&mut self, latent: &Latent, count: u64) -> Result<(), String> {
        let Latent { q_heads, q_lora_rank, kv_lora_rank, index, .. } = *latent;
        let (tokens, hidden) = (self.tokens, self.model.hidden);
        let heads = q_heads / self.shape.parallel.tensor;
        let q_width = heads * (latent.qk_nope_dim + latent.qk_rope_dim);
        self.latent_queries(q_lora_rank, q_width, count)?;
        let key = kv_lora_rank + latent.qk_rope_dim;
        self.linear(("latents", StepPart::Projection), (tokens, key, hidden), count)?;
        self.append_latents(latent, count)?;
        if let Some(index) = index {
            self.index(&index, q_lora_rank, count)?;
        }
        let is_made_anew = |part: &&Part| {
            let StepShape { phase, context, .. } = part.shape;
            phase == Phase::Prefill && index.is_none_or(|index| context <= index.top_k)
        };
        let (anew, absorbed): (Vec<&Part>, Vec<&Part>) =
            self.parts.iter().partition(is_made_anew);
        self.absorbed(latent, &absorbed, heads, count)?;
        self.latent_prefill(latent, &anew, heads, count)?;
        if !anew.is_empty() && !absorbed.is_empty() {
            self.share_weights(KEYS_AND_VALUES_UP);
        }
        let k = heads * latent.v_head_dim;
        self.linear(("output", StepPart::Projection), (tokens, hidden, k), count)
    }

    /// Attention of queries that the projection of keys was absorbed into.
    fn absorbed(
        &mut self,
        latent: &Latent,
        parts: &[&Part],
        heads: u64,
        count: u64,
    ) -> Result<(), String> {
        if parts.is_empty() {
            return Ok(());
        }
        let tokens = parts.iter().map(|part| part.requests * part.shape.new_tokens).sum();
        let absorbed = (heads, count);
        let q = (tokens, latent.kv_lora_rank, latent.qk_nope_dim);
        self.linear_of_heads(("absorb keys", StepPart::Projection), q, absorbed)?;
        for (at, part) in parts.iter().enumerate() {
            let (name, problem) = attention_of_latents(latent, part, heads);
            let together = (count, u64::from(leads(parts, at)));
            self.push_together((name, StepPart::Attention), problem, together)?;
        }
        let o = (tokens, latent.v_head_dim, latent.kv_lora_rank);
        self.linear_of_heads(("absorb values", StepPart::Projection), o, absorbed)
    }

    /// Attention of prompts with keys and values of all heads.
    fn latent_prefill(
        &mut self,
        latent: &Latent,
        parts: &[&Part],
        heads: u64,
        count: u64,
    ) -> Result<(), String> {
        if parts.is_empty() {
            return Ok(());
        }
        let up = heads * (latent.qk_nope_dim + latent.v_head_dim);
        // Too many are refused with the product that they are rows of.
        let all = parts.iter().fold(0u64, |all, part| {
            all.saturating_add(part.requests.saturating_mul(part.shape.context))
        });
        let what = (KEYS_AND_VALUES_UP, StepPart::Projection);
        self.linear(what, (all, up, latent.kv_lora_rank), count)?;
        let widths = (latent.qk_nope_dim + latent.qk_rope_dim, latent.v_head_dim);
        for (at, part) in parts.iter().enumerate() {
            let piece = Piece { launches: leads(parts, at), ..Piece::whole(part) };
            self.prefill(("attention", 0), (part, piece), ((heads, heads), widths), count)?;
        }
        Ok(())
    }

    /// The index of sparse attention. Every GPU has all of it, since all need its answer.
    fn index(
        &mut self,
        index: &Index,
        q_lora_rank: Option<u64>,
        count: u64,
    ) -> Result<(), String> {
        let (tokens, hidden) = (self.tokens, self.model.hidden);
        let from = q_lora_rank.unwrap_or(hidden);
        let queries = (tokens, index.heads * index.head_dim, from);
        self.linear(("index q", StepPart::Projection), queries, count)?;
        let keys = (tokens, index.head_dim + index.heads, hidden);
        self.linear(("index k and weights", StepPart::Projection), keys, count)?;
        self.elementwise("append to index", 2 * tokens * index.head_dim, count)?;
        for part in self.parts {
            let scoring = scoring(index, &part.shape, part.requests);
            let together = (count, u64::from(part.leads));
            self.push_together(("index", StepPart::Attention), scoring.into(), together)?;
        }
        Ok(())
    }

    /// Linear attention, or a state-space layer.
    fn state(&mut self, state: &StateSpace, count: u64) -> Result<(), String> {
        let here = of_gpu(state, self.shape.parallel.tensor);
        let (tokens, hidden) = (self.tokens, self.model.hidden);
        let values = here.heads * here.value_dim;
        let strengths = if here.rule == StateRule::Delta { here.heads } else { 0 };
        let decays = if here.decay_rank.is_some() { 0 } else { here.decays() };
        let gates = if here.gate == StateGate::Full { values } else { 0 };
        let n = here.channels() + strengths + decays + gates;
        self.linear(("state's input", StepPart::Projection), (tokens, n, hidden), count)?;
        if let Some(rank) = here.decay_rank {
            self.narrow(["decay down", "decay up"], (here.decays(), rank), count)?;
        }
        if let StateGate::LowRank(rank) = here.gate {
            self.narrow(["gate down", "gate up"], (values, rank), count)?;
        }
        self.updates(state, count)?;
        if here.gate != StateGate::None {
            self.elementwise("output gate", 3 * tokens * values, count)?;
        }
        self.linear(("output", StepPart::Projection), (tokens, hidden, values), count)
    }

    /// Updates of states. How long the context is does not matter to them.
    fn updates(&mut self, state: &StateSpace, count: u64) -> Result<(), String> {
        let alike = |part: &Part| (part.shape.phase, part.shape.new_tokens);
        for (at, parts) in self.parts.chunk_by(|a, b| alike(a) == alike(b)).enumerate() {
            let requests = parts.iter().map(|part| part.requests).sum();
            let update = update(state, &parts[0].shape, requests);
            let together = (count, u64::from(parts[0].leads));
            self.push_together(("state", StepPart::Attention), update.into(), together)?;
            if at > 0 {
                self.share_weights("state");
            }
        }
        Ok(())
    }

    /// A projection of the layer's input by way of a rank.
    fn narrow(
        &mut self,
        [down, up]: [&'static str; 2],
        (width, rank): (u64, u64),
        count: u64,
    ) -> Result<(), String> {
        let (tokens, hidden) = (self.tokens, self.model.hidden);
        self.linear((down, StepPart::Projection), (tokens, rank, hidden), count)?;
        self.linear((up, StepPart::Projection), (tokens, width, rank), count)
    }
}
