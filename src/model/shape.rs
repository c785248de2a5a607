//! The shape of a step: what is asked of a model, and how it is spread over GPUs.

use super::llm::{AttentionKind as Attention, Llm};
use super::routing::ExpertRouting;
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

pub(super) fn check(model: &Llm, shape: &StepShape) -> Result<(), String> {
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
