//! Ranges of a model's numbers, wherever it comes from: what is in them is counted exactly.

use super::{
    Dense, Experts, FeedForward, Heads, Index, Latent, LayerKind, Llm, Mixer, Span,
    StateGate, StateSpace,
};

/// Largest number, and widest matrix.
pub(super) const MOST: u64 = 1 << 24;
/// Most layers of a model.
pub(super) const MOST_LAYERS: u64 = 1 << 16;
/// Most tokens of a window or a context.
pub(super) const MOST_TOKENS: u64 = 1 << 40;
/// Most parameters of a model: their bytes are counted exactly.
const MOST_PARAMETERS: u64 = 1 << 50;

/// Refuses a number out of range.
pub(super) fn range(key: &str, number: u64, least: u64, most: u64) -> Result<(), String> {
    if (least..=most).contains(&number) {
        return Ok(());
    }
    Err(format!("{key} = {number}; it must be from {least} to {most}"))
}

/// Refuses numbers that are not from 1 to [`MOST`].
fn sizes<const N: usize>(numbers: [(&str, u64); N]) -> Result<(), String> {
    numbers.into_iter().try_for_each(|(key, number)| range(key, number, 1, MOST))
}

/// Refuses widths that no matrix has.
pub(super) fn product(a: (&str, u64), b: (&str, u64)) -> Result<(), String> {
    if a.1.checked_mul(b.1).is_some_and(|width| width <= MOST) {
        return Ok(());
    }
    Err(format!(
        "{} = {} times {} = {} is more than {MOST}, the widest matrix that is counted",
        a.0, a.1, b.0, b.1
    ))
}

/// Refuses heads of which others do not serve the same number each.
fn multiple(
    (key, heads): (&str, u64),
    (of, shared): (&str, u64),
    what: &str,
) -> Result<(), String> {
    if heads.is_multiple_of(shared) {
        return Ok(());
    }
    Err(format!(
        "{key} = {heads} is not a multiple of {of} = {shared}; every {what} must serve the same \
         number of them"
    ))
}

impl Llm {
    /// Refuses numbers out of range, and models whose bytes might not be counted exactly.
    pub(in crate::model) fn check(&self) -> Result<(), String> {
        sizes([("hidden", self.hidden), ("vocab", self.vocab)])?;
        range("context_limit", self.context_limit.unwrap_or(1), 1, MOST_TOKENS)?;
        range("parameters", self.parameters.unwrap_or(1), 1, MOST_PARAMETERS)?;
        self.kinds.iter().try_for_each(LayerKind::check)?;
        let counts = self.kinds.iter().map(|kind| kind.count);
        let layers = counts.fold(0, u64::saturating_add);
        range("layers", layers, 1, MOST_LAYERS)?;
        let parameters = self.approximate_parameters();
        if parameters <= MOST_PARAMETERS as f64 {
            return Ok(());
        }
        Err(format!(
            "{parameters:.3e} parameters are more than the {:.1e} that are counted exactly",
            MOST_PARAMETERS as f64
        ))
    }

    /// Parameters of matrices, in floating point, which does not overflow.
    fn approximate_parameters(&self) -> f64 {
        let hidden = self.hidden as f64;
        let of_kind = |kind: &LayerKind| {
            let mixer = kind.mixer.approximate_parameters(hidden);
            let part = match kind.feed_forward {
                FeedForward::None => 0.0,
                FeedForward::Dense(dense) => 3.0 * hidden * dense.intermediate as f64,
                FeedForward::Experts(e) => {
                    let width = e.count as f64 * e.intermediate as f64;
                    3.0 * hidden * (width + e.shared_intermediate as f64)
                }
            };
            kind.count as f64 * (mixer + part)
        };
        2.0 * hidden * self.vocab as f64 + self.kinds.iter().map(of_kind).sum::<f64>()
    }
}

impl LayerKind {
    /// Refuses numbers out of range.
    pub(super) fn check(&self) -> Result<(), String> {
        range("count", self.count, 1, MOST_LAYERS)?;
        range("norms_per_layer", self.norms, 0, 64)?;
        match &self.mixer {
            Mixer::None => Ok(()),
            Mixer::Heads(heads) => heads.check(),
            Mixer::Latent(latent) => latent.check(),
            Mixer::State(state) => state.check(),
        }?;
        match self.feed_forward {
            FeedForward::None => Ok(()),
            FeedForward::Dense(Dense { intermediate, .. }) => {
                sizes([("intermediate", intermediate)])
            }
            FeedForward::Experts(experts) => experts.check(),
        }
    }
}

impl Mixer {
    fn approximate_parameters(&self, hidden: f64) -> f64 {
        match self {
            Mixer::None => 0.0,
            Mixer::Heads(h) => 5.0 * hidden * (h.q_heads * h.head_dim) as f64,
            Mixer::Latent(l) => {
                let widths = (l.qk_nope_dim + l.qk_rope_dim + l.v_head_dim) as f64;
                let ranks = (l.kv_lora_rank + l.q_lora_rank.unwrap_or(0)) as f64;
                l.q_heads as f64 * widths * (hidden + ranks)
            }
            Mixer::State(s) => 5.0 * hidden * (s.channels() + s.decays()) as f64,
        }
    }
}

impl Heads {
    fn check(&self) -> Result<(), String> {
        let (q_heads, kv_heads) = (("q_heads", self.q_heads), ("kv_heads", self.kv_heads));
        sizes([q_heads, kv_heads, ("head_dim", self.head_dim)])?;
        multiple(q_heads, kv_heads, "key and value head")?;
        product(q_heads, ("head_dim", self.head_dim))?;
        match self.span {
            Span::Full => Ok(()),
            Span::Window(tokens) => range("window", tokens, 1, MOST_TOKENS),
            Span::Chunk(tokens) => range("chunk", tokens, 1, MOST_TOKENS),
        }
    }
}

impl Latent {
    fn check(&self) -> Result<(), String> {
        let heads = ("q_heads", self.q_heads);
        let [nope, rope, value] = [
            ("qk_nope_dim", self.qk_nope_dim),
            ("qk_rope_dim", self.qk_rope_dim),
            ("v_head_dim", self.v_head_dim),
        ];
        let ranks = [
            ("kv_lora_rank", self.kv_lora_rank),
            ("q_lora_rank", self.q_lora_rank.unwrap_or(1)),
        ];
        sizes([heads, nope, rope, value])?;
        sizes(ranks)?;
        [nope, rope, value].into_iter().try_for_each(|width| product(heads, width))?;
        let Some(Index { heads, head_dim, top_k }) = self.index else { return Ok(()) };
        let (heads, width) = (("index_heads", heads), ("index_dim", head_dim));
        sizes([heads, width, ("index_top_k", top_k)])?;
        product(heads, width)
    }
}

impl StateSpace {
    fn check(&self) -> Result<(), String> {
        let heads = ("state_heads", self.heads);
        let key_heads = ("state_key_heads", self.key_heads);
        let (key, value) =
            (("state_key_dim", self.key_dim), ("state_value_dim", self.value_dim));
        sizes([heads, key_heads, key, value])?;
        range("conv_taps", self.conv_taps, 0, 64)?;
        multiple(heads, key_heads, "key head")?;
        product(heads, key)?;
        product(heads, value)?;
        sizes([("decay_rank", self.decay_rank.unwrap_or(1))])?;
        match self.gate {
            StateGate::None | StateGate::Full => Ok(()),
            StateGate::LowRank(rank) => sizes([("gate_rank", rank)]),
        }
    }
}

impl Experts {
    fn check(&self) -> Result<(), String> {
        let Experts { count, top_k, intermediate, shared_intermediate, .. } = *self;
        sizes([
            ("experts", count),
            ("top_k", top_k),
            ("expert_intermediate", intermediate),
        ])?;
        range("shared_intermediate", shared_intermediate, 0, MOST)?;
        if top_k <= count {
            return Ok(());
        }
        Err(format!("top_k = {top_k} of {count} experts; it must be at most the experts"))
    }
}
