//! The state of a linear attention or state-space layer: of fixed size, whatever the
//! context.

use super::contract::product;
use super::explanation::Explanation;
use super::judged::{Hue, JudgedFacts, MarkerShape, OpMarker, Purpose, not_compared};
use super::{Facts, Fields, KeySpec, Magnitude, Operation, ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat, text_of_name};
use crate::resource::{Resource, Work};

pub(super) const FACTS: Facts = Facts {
    name: "state_update",
    keys: &[
        KeySpec::new("batch"),
        KeySpec::new("new_tokens").or("1").always_labelled(),
        KeySpec::new("state_heads"),
        KeySpec::new("key_heads"),
        KeySpec::new("key_dim"),
        KeySpec::new("value_dim"),
        KeySpec::new("conv_taps").or("0").silent(),
        KeySpec::bare("rule"),
        KeySpec::bare("decay"),
        KeySpec::bare("dtype"),
        KeySpec::new("state_dtype").or("f32"),
    ],
    size_keys: &["batch", "new_tokens"],
    examples: &[
        "state_update:batch=2,new_tokens=3,state_heads=4,key_heads=2,key_dim=16,value_dim=8,\
         conv_taps=4,rule=delta,decay=head,dtype=bf16",
    ],
    judged: JudgedFacts {
        prose: "state update",
        marker: OpMarker { shape: MarkerShape::Circle, hue: Hue::SkyBlue },
        purpose: Purpose::Work,
        sets_compute_ceiling: false,
        reads_cache: false,
    },
};

/// How a token changes the state `S`, which is `[key_dim][value_dim]` for each head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateRule {
    /// `S = a S + k v^T`: Mamba-2 (Dao and Gu 2024, arXiv 2405.21060) and lightning attention.
    Additive,
    /// `S = a S + b k (v - (a S)^T k)^T`: the gated delta rule (Yang and others 2024, arXiv
    /// 2412.06464), which takes the old value of a key out of the state first.
    Delta,
}

/// What multiplies the state before a token is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateDecay {
    /// A constant of each head.
    Fixed,
    /// A number of each token and head.
    Head,
    /// A number of each token, head and element of the key.
    Channel,
}

text_of_name!(
    StateRule => "a rule of states",
    StateDecay => "a decay of states",
);

impl StateRule {
    /// Both, in the order in which tables list them.
    pub const ALL: [StateRule; 2] = [StateRule::Additive, StateRule::Delta];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            StateRule::Additive => "additive",
            StateRule::Delta => "delta",
        }
    }
}

impl StateDecay {
    /// Every kind, in the order in which tables list them.
    pub const ALL: [StateDecay; 3] =
        [StateDecay::Fixed, StateDecay::Head, StateDecay::Channel];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            StateDecay::Fixed => "fixed",
            StateDecay::Head => "head",
            StateDecay::Channel => "channel",
        }
    }
}

/// New tokens of each request go through the state of each head, and queries read it:
/// `o = S^T q` after each token. A causal convolution of `conv_taps` over the channels of
/// queries, keys and values comes first; of it the last `conv_taps - 1` inputs are kept.
///
/// Work. For each token and head the state is decayed (1 FLOP for each of its `d_k d_v`
/// elements), added to (2) and read (2), by the delta rule read once more (2); the
/// convolution takes 2 FLOPs for each tap and channel. One token is computed in f32 on
/// ordinary units. Several are, in chunks, products of matrices in `dtype`; what chunks
/// compute beyond the recurrence is a kernel's own affair, as tiles are. Bytes: the state
/// and the kept inputs, read and written once for each request, however many tokens;
/// queries, keys, values, decays and the strength `b` of the delta rule; the taps; and the
/// output. There are `C = 2 key_heads d_k + heads d_v` channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateUpdate {
    /// Requests.
    pub batch: u64,
    /// New tokens of each request.
    pub new_tokens: u64,
    /// Heads, each with a state.
    pub state_heads: u64,
    /// Heads of keys and queries.
    pub key_heads: u64,
    /// Width of keys and queries.
    pub key_dim: u64,
    /// Width of values and outputs.
    pub value_dim: u64,
    /// Taps of the convolution; 0 without one.
    pub conv_taps: u64,
    /// How a token changes the state.
    pub rule: StateRule,
    /// What decays the state.
    pub decay: StateDecay,
    /// Format of all but the state.
    pub dtype: DType,
    /// Format of the state.
    pub state_dtype: DType,
}

pub(super) fn read(f: &Fields) -> Result<StateUpdate, ProblemError> {
    Ok(StateUpdate {
        batch: f.extent("batch")?,
        new_tokens: f.extent("new_tokens")?,
        state_heads: f.extent("state_heads")?,
        key_heads: f.extent("key_heads")?,
        key_dim: f.extent("key_dim")?,
        value_dim: f.extent("value_dim")?,
        conv_taps: f.count("conv_taps")?,
        rule: f.parse("rule")?,
        decay: f.parse("decay")?,
        dtype: f.dtype("dtype")?,
        state_dtype: f.dtype("state_dtype")?,
    })
}

impl StateUpdate {
    const fn tokens(&self) -> u64 {
        self.batch * self.new_tokens
    }

    /// Elements of the states of a request.
    const fn state_elements(&self) -> u64 {
        self.state_heads * self.key_dim * self.value_dim
    }

    /// Channels of queries, keys and values.
    const fn channels(&self) -> u64 {
        2 * self.key_heads * self.key_dim + self.state_heads * self.value_dim
    }

    /// Inputs of the convolution that are kept of a request.
    const fn kept_elements(&self) -> u64 {
        self.channels() * self.conv_taps.saturating_sub(1)
    }

    /// Decays, and strengths of the delta rule, of a token.
    const fn gates(&self) -> u64 {
        let decays = match self.decay {
            StateDecay::Fixed => 0,
            StateDecay::Head => self.state_heads,
            StateDecay::Channel => self.state_heads * self.key_dim,
        };
        match self.rule {
            StateRule::Additive => decays,
            StateRule::Delta => decays + self.state_heads,
        }
    }

    /// FLOPs of a token for each element of the state.
    const fn element_flops(&self) -> u64 {
        match self.rule {
            StateRule::Additive => 5,
            StateRule::Delta => 7,
        }
    }

    /// Bytes of what is kept of each request between steps.
    pub const fn kept_bytes(&self) -> u64 {
        self.state_dtype.bytes_of(self.state_elements())
            + self.dtype.bytes_of(self.kept_elements())
    }
}

impl Operation for StateUpdate {
    fn values(&self) -> Vec<String> {
        vec![
            self.batch.to_string(),
            self.new_tokens.to_string(),
            self.state_heads.to_string(),
            self.key_heads.to_string(),
            self.key_dim.to_string(),
            self.value_dim.to_string(),
            self.conv_taps.to_string(),
            self.rule.to_string(),
            self.decay.to_string(),
            self.dtype.to_string(),
            self.state_dtype.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        if !self.state_heads.is_multiple_of(self.key_heads) {
            return Err(ProblemError::at(
                "key_heads",
                format!(
                    "state_heads = {} is not a multiple of key_heads = {}; every key head serves \
                     the same number of states, so make it one",
                    self.state_heads, self.key_heads
                ),
            ));
        }
        for (key, width) in [("key_dim", self.key_dim), ("value_dim", self.value_dim)] {
            if !width.is_multiple_of(4) {
                return Err(ProblemError::at(
                    key,
                    format!(
                        "{key} = {width} is not a multiple of 4, as states have it; use {}",
                        width.next_multiple_of(4)
                    ),
                ));
            }
        }
        Ok(())
    }

    fn magnitude(&self) -> Magnitude {
        let tokens = product(&[self.batch, self.new_tokens]);
        let state = product(&[self.state_heads, self.key_dim, self.value_dim]);
        let channels = 2.0 * product(&[self.key_heads, self.key_dim])
            + product(&[self.state_heads, self.value_dim]);
        let taps = self.conv_taps as f64;
        let gates = product(&[self.state_heads, self.key_dim + 1]);
        Magnitude {
            flops: tokens * (7.0 * state + 2.0 * channels * taps),
            elements: 2.0 * self.batch as f64 * (state + channels * taps)
                + tokens * (2.0 * channels + gates),
        }
    }

    fn work(&self) -> Work {
        let of_states = self.element_flops() * self.state_elements();
        let of_taps = 2 * self.conv_taps * self.channels();
        let flops = self.tokens() * (of_states + of_taps);
        let unit = match self.new_tokens {
            1 => Resource::Vector(DType::F32),
            _ => Resource::Matrix(self.dtype),
        };
        let kept_bytes = self.batch * self.kept_bytes();
        let inputs = self.tokens() * (self.channels() + self.gates());
        let outputs = self.tokens() * self.state_heads * self.value_dim;
        let read_bytes = self.dtype.bytes_of(inputs) + self.weight_bytes() + kept_bytes;
        Work::NONE
            .with(unit, flops)
            .with_bytes(read_bytes, self.dtype.bytes_of(outputs) + kept_bytes)
    }

    fn explanation(&self) -> Explanation {
        Explanation::results(&self.work())
    }

    fn tensors(&self) -> Vec<Tensor> {
        let values = TensorFormat::Values(self.dtype);
        let input = |name, elements| Tensor::new(name, Role::Input, values, elements);
        let states = self.batch * self.state_elements();
        let kept = self.batch * self.kept_elements();
        let state = TensorFormat::Values(self.state_dtype);
        let mut tensors = vec![
            input("qkv", self.tokens() * self.channels()),
            input("gates", self.tokens() * self.gates()),
            input("taps", self.conv_taps * self.channels()),
            Tensor::new("old_state", Role::Input, state, states),
            input("old_inputs", kept),
        ];
        let output = |name, bytes: u64| {
            Tensor::new(name, Role::Output, TensorFormat::Words, bytes / 4)
        };
        let o = self.tokens() * self.state_heads * self.value_dim;
        tensors.push(output("state", self.state_dtype.bytes_of(states)));
        tensors.push(output("inputs", self.dtype.bytes_of(kept)));
        tensors.push(output("o", self.dtype.bytes_of(o)));
        tensors.retain(|tensor| tensor.elements > 0);
        tensors
    }

    fn weight_bytes(&self) -> u64 {
        self.dtype.bytes_of(self.conv_taps * self.channels())
    }

    fn cache_bytes(&self) -> u64 {
        self.batch * self.kept_bytes()
    }

    fn has_usual_data(&self) -> bool {
        true
    }

    fn routed(&self) -> Option<Routed> {
        None
    }
}

not_compared!(StateUpdate);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Problem;

    /// A layer of Qwen3-Next: 32 states of 128 x 128 in f32, 8192 channels with 4 taps.
    const QWEN: &str = "state_heads=32,key_heads=16,key_dim=128,value_dim=128,conv_taps=4,\
                        rule=delta,decay=head,dtype=bf16";

    fn problem(text: &str) -> Problem {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn a_token_reads_and_writes_the_state_golden() {
        let one = problem(&format!("state_update:batch=1,{QWEN}"));
        let (state, kept) = (32 * 128 * 128 * 4, 8192 * 3 * 2);
        assert_eq!(one.cache_bytes(), state + kept);
        let work = one.work();
        // 32 decays and 32 strengths beside the channels; the taps.
        let inputs = 2 * (8192 + 64) + 2 * 4 * 8192;
        assert_eq!(work.bytes_read(), state + kept + inputs);
        assert_eq!(work.bytes_written(), state + kept + 2 * 32 * 128);
        assert_eq!(work.vector_flops(), 7 * 32 * 128 * 128 + 2 * 4 * 8192);
        assert!(work.operational_intensity() < 1.0);
    }

    /// A prompt reads and writes the state once, on tensor cores.
    #[test]
    fn many_tokens_share_the_state() {
        let tokens = |count: u64| {
            problem(&format!("state_update:batch=3,new_tokens={count},{QWEN}"))
        };
        let (one, many) = (tokens(1), tokens(500));
        assert_eq!(one.cache_bytes(), many.cache_bytes());
        assert_eq!(many.work().flops(), 500 * one.work().flops());
        assert_eq!(many.work().vector_flops(), 0);
        assert_eq!(many.work().math_dtype(), Some(DType::Bf16));
    }

    /// Rules and decays counted by hand for 4 states of 16 x 8 of 2 key heads.
    #[test]
    fn rules_and_decays_differ_in_what_they_read() {
        let of = |rule: &str, decay: &str| {
            problem(&format!(
                "state_update:batch=1,state_heads=4,key_heads=2,key_dim=16,value_dim=8,\
                 rule={rule},decay={decay},dtype=f32"
            ))
            .work()
        };
        let (state, channels) = (4 * 16 * 8, 2 * 2 * 16 + 4 * 8);
        for (rule, decay, flops, gates) in [
            ("additive", "fixed", 5, 0),
            ("additive", "head", 5, 4),
            ("delta", "head", 7, 4 + 4),
            ("delta", "channel", 7, 4 * 16 + 4),
        ] {
            let work = of(rule, decay);
            assert_eq!(work.flops(), flops * state, "{rule} {decay}");
            assert_eq!(work.bytes_read(), 4 * (state + channels + gates), "{rule} {decay}");
            assert_eq!(work.bytes_written(), 4 * (state + 4 * 8), "{rule} {decay}");
        }
    }

    #[test]
    fn bad_shapes_are_told_what_to_do() {
        for (from, to, key) in [
            ("key_heads=16", "key_heads=5", "key_heads"),
            ("key_dim=128", "key_dim=3", "key_dim"),
            ("value_dim=128", "value_dim=0", "value_dim"),
            ("rule=delta", "rule=epsilon", "rule"),
        ] {
            let text = format!("state_update:batch=1,{}", QWEN.replace(from, to));
            let error = text.parse::<Problem>().unwrap_err();
            assert_eq!(error.key.as_deref(), Some(key), "{text}: {error}");
        }
        let huge = format!("state_update:batch=1,{}", QWEN.replace("128", "1048576"));
        assert!(huge.parse::<Problem>().unwrap_err().message.contains("make it smaller"));
    }
}
