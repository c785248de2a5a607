//! The shape of a step: what is asked of a model, and how it is spread over GPUs.

use super::llm::{FeedForward, Llm, Mixer};
use super::routing::ExpertRouting;
pub use super::weights::{WeightPart, Weights, WeightsChoice};
use crate::format::DType;
use crate::quant::{Quant, QuantPlace};

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

/// Formats of a step's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Formats {
    /// Schemes of weights.
    pub weights: Weights,
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
        Formats { weights: Weights::all(quant), cache: quant, activations: dtype }
    }

    /// Scheme of cached latents.
    pub(super) fn latents(self) -> Quant {
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
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepShape {
    /// What it does.
    pub phase: Phase,
    /// Requests, on all GPUs together.
    pub batch: u64,
    /// Tokens of each request in the end, new ones included.
    pub context: u64,
    /// New tokens of each request.
    pub new_tokens: u64,
    /// Formats of its tensors.
    pub formats: Formats,
    /// How it is spread.
    pub parallel: Parallel,
    /// How tokens choose experts.
    pub routing: ExpertRouting,
}

/// Formats that a question asks for, of any model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatsChoice {
    /// Schemes of weights.
    pub weights: WeightsChoice,
    /// As of [`Formats`].
    pub cache: Quant,
    /// As of [`Formats`].
    pub activations: DType,
}

impl FormatsChoice {
    /// The formats of a model.
    pub fn of(self, model: &Llm) -> Formats {
        let weights = match self.weights {
            WeightsChoice::All(weights) => weights,
            WeightsChoice::Shipped => {
                model.weights.unwrap_or(Weights::all(Quant::plain(DType::Bf16)))
            }
        };
        Formats { weights, cache: self.cache, activations: self.activations }
    }
}

impl From<Formats> for FormatsChoice {
    fn from(formats: Formats) -> Self {
        let Formats { weights, cache, activations } = formats;
        FormatsChoice { weights: WeightsChoice::All(weights), cache, activations }
    }
}

impl StepShape {
    /// A decode step of one request of one token on one GPU.
    pub fn of_one_token(formats: Formats) -> Self {
        StepShape {
            phase: Phase::Decode,
            batch: 1,
            context: 1,
            new_tokens: 1,
            formats,
            parallel: Parallel::ONE,
            routing: ExpertRouting::default(),
        }
    }
}

/// Most new tokens of a step on one GPU, and most tokens of a request: what their products
/// with a model's widths are counted exactly for.
const MOST_TOKENS: u64 = 1 << 36;

/// Refuses requests of a step, all of the same formats and parallelism, that a model cannot
/// be asked for, or that are too many to count.
pub(super) fn check<'a>(
    model: &Llm,
    parts: impl Iterator<Item = &'a StepShape> + Clone,
) -> Result<(), String> {
    let mut tokens = 0;
    for shape in parts.clone() {
        tokens += check_tokens(shape)?;
    }
    let Some(shape) = parts.into_iter().next() else { return Ok(()) };
    if tokens > MOST_TOKENS {
        return Err(format!(
            "{tokens} new tokens of a step are too many; {MOST_TOKENS} are counted at most"
        ));
    }
    for (mixer, _) in model.mixers() {
        check_mixer(model, &mixer, shape.parallel.tensor)?;
    }
    for (part, _) in model.feed_forwards() {
        check_feed_forward(model, &part, shape)?;
    }
    if shape.parallel.expert > 1 && model.expert_layers() == 0 {
        return Err(format!("{} has no experts to spread", model.name));
    }
    Ok(())
}

/// New tokens of equal requests.
fn check_tokens(shape: &StepShape) -> Result<u64, String> {
    let Parallel { tensor, expert, data } = shape.parallel;
    if [tensor, expert, data, shape.batch, shape.new_tokens].contains(&0) {
        return Err("batch, new tokens and parallelism must be at least 1".to_owned());
    }
    if shape.new_tokens > shape.context {
        return Err(format!(
            "{} new tokens are part of the context, which has {}",
            shape.new_tokens, shape.context
        ));
    }
    let tokens = shape.batch.checked_mul(shape.new_tokens);
    match tokens.filter(|tokens| *tokens <= MOST_TOKENS) {
        Some(tokens)
            if shape.context <= MOST_TOKENS && tensor.checked_mul(data).is_some() =>
        {
            Ok(tokens)
        }
        _ => Err(format!(
            "a context of {} and {} requests of {} new tokens on {tensor} x {data} GPUs are too \
             many; {MOST_TOKENS} tokens of a request, and of a step, are counted at most",
            shape.context, shape.batch, shape.new_tokens
        )),
    }
}

/// Refuses what parallelism does not divide.
fn check_divides(
    model: &Llm,
    (what, n): (&str, u64),
    (of, by): (&str, u64),
) -> Result<(), String> {
    if n.is_multiple_of(by) {
        return Ok(());
    }
    Err(format!("{} has {what} = {n}, which {of} = {by} does not divide", model.name))
}

fn check_mixer(model: &Llm, mixer: &Mixer, tensor: u64) -> Result<(), String> {
    let (heads, shared) = match mixer {
        Mixer::None => return Ok(()),
        Mixer::Heads(heads) => (("q_heads", heads.q_heads), ("kv_heads", heads.kv_heads)),
        Mixer::Latent(latent) => (("q_heads", latent.q_heads), ("kv_heads", tensor)),
        Mixer::State(state) => {
            (("state_heads", state.heads), ("state_key_heads", state.key_heads))
        }
    };
    check_divides(model, heads, ("tensor parallelism", tensor))?;
    let (what, count) = shared;
    if count.is_multiple_of(tensor) || tensor.is_multiple_of(count) {
        return Ok(());
    }
    Err(format!(
        "{} has {what} = {count}, which tensor parallelism = {tensor} neither divides nor repeats",
        model.name
    ))
}

fn check_feed_forward(
    model: &Llm,
    part: &FeedForward,
    shape: &StepShape,
) -> Result<(), String> {
    let Parallel { tensor, expert, .. } = shape.parallel;
    let by_tensor = ("tensor parallelism", tensor);
    match part {
        FeedForward::None => Ok(()),
        FeedForward::Dense(dense) => {
            check_divides(model, ("intermediate", dense.intermediate), by_tensor)
        }
        FeedForward::Experts(experts) if expert > 1 => {
            let by_expert = ("expert parallelism", expert);
            check_divides(model, ("experts", experts.count), by_expert)?;
            if expert > shape.parallel.gpus() {
                return Err(format!(
                    "expert parallelism = {expert} is more than the {} GPUs; raise tensor or \
                     data parallelism",
                    shape.parallel.gpus()
                ));
            }
            Ok(())
        }
        FeedForward::Experts(experts) => {
            check_divides(model, ("expert_intermediate", experts.intermediate), by_tensor)
        }
    }
}
