//! A whole step of decoding: every problem of a model's layers, one after the other.

use super::argmax::Argmax;
use super::contract::product;
use super::decode_attention::DecodeAttention;
use super::embedding::Embedding;
use super::explanation::Explanation;
use super::gated_activation::GatedActivation;
use super::gemm::Gemm;
use super::judged::{Hue, JudgedFacts, MarkerShape, OpMarker, Purpose, not_compared};
use super::rmsnorm::RmsNorm;
use super::rope_append::{CachePages, RopeAppend};
use super::{Facts, Fields, KeySpec, KvLayout, Lengths, Magnitude, Operation, Problem};
use super::{MAX_EXTENT, ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::quant::Quant;
use crate::resource::Work;

pub(super) const FACTS: Facts = Facts {
    name: "decode_step",
    keys: &[
        KeySpec::new("layers"),
        KeySpec::new("batch"),
        KeySpec::new("context"),
        KeySpec::new("hidden"),
        KeySpec::new("q_heads"),
        KeySpec::new("kv_heads"),
        KeySpec::new("head_dim"),
        KeySpec::new("intermediate"),
        KeySpec::new("vocab"),
        KeySpec::bare("dtype"),
        KeySpec::bare("layout").or("paged64"),
        KeySpec::new("lengths").or("equal").silent(),
    ],
    examples: &["decode_step:layers=2,batch=2,context=70,hidden=64,q_heads=2,kv_heads=1,\
                 head_dim=64,intermediate=96,vocab=200,dtype=bf16,layout=paged16"],
    judged: JudgedFacts {
        prose: "decode step",
        marker: OpMarker { shape: MarkerShape::Square, hue: Hue::Purple },
        purpose: Purpose::Work,
        sets_compute_ceiling: false,
        reads_cache: false,
    },
};

/// One step of decoding of a dense model as Llama 3 is: of each request one token goes
/// through embedding, layers and head, and the largest logit is the next token. A layer is
/// norm, one product for queries, keys and values, rotation with append to the cache,
/// attention, the output's product, residual and norm, one product for gate and up, gated
/// activation, the down product, and the residual.
///
/// Weights of all layers lie after each other, as do the caches; the page table is that of
/// every layer. What is handed from one problem to the next is rounded to `dtype`. The cache
/// has `context` tokens of a request when the step ends: it is an input in which the last
/// token is replaced, by the same values in every launch.
///
/// The output is `logits`, `[batch][vocab]`. The chosen tokens stay in a temporary: they are
/// the argmax of these.
///
/// Work: that of [`DecodeStep::stages`], added up. What problems hand each other is counted,
/// as where each runs by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecodeStep {
    /// Layers.
    pub layers: u64,
    /// Requests.
    pub batch: u64,
    /// Most tokens that a request has cached in the end.
    pub context: u64,
    /// Elements of a token between layers.
    pub hidden: u64,
    /// Query heads.
    pub q_heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Width of the feed-forward layers.
    pub intermediate: u64,
    /// Tokens that there are.
    pub vocab: u64,
    /// Format of all tensors.
    pub dtype: DType,
    /// How the cache lies in memory; paged.
    pub layout: KvLayout,
    /// How many tokens the requests have cached.
    pub lengths: Lengths,
}

/// A tensor of a stage's problem, and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Name in the stage's problem.
    pub tensor: &'static str,
    /// The tensor or temporary of the whole that it lies in.
    pub within: &'static str,
    /// Where in it, in bytes.
    pub offset_bytes: u64,
}

/// A problem of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// What it is, in the field's words.
    pub name: &'static str,
    /// The problem.
    pub problem: Problem,
    /// Where its tensors lie.
    pub operands: Vec<Operand>,
}

/// What stages hand each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Temporary {
    /// Its name, by which operands find it.
    pub name: &'static str,
    /// Size in bytes.
    pub bytes: u64,
}

/// Equal problems of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageKind {
    /// What it is.
    pub name: &'static str,
    /// The problem.
    pub problem: Problem,
    /// How many of them a step has.
    pub count: u64,
}

pub(super) fn read(f: &Fields) -> Result<DecodeStep, ProblemError> {
    Ok(DecodeStep {
        layers: f.extent("layers")?,
        batch: f.extent("batch")?,
        context: f.extent("context")?,
        hidden: f.extent("hidden")?,
        q_heads: f.extent("q_heads")?,
        kv_heads: f.extent("kv_heads")?,
        head_dim: f.extent("head_dim")?,
        intermediate: f.extent("intermediate")?,
        vocab: f.extent("vocab")?,
        dtype: f.dtype("dtype")?,
        layout: KvLayout::read(f)?,
        lengths: f.parse("lengths")?,
    })
}

/// A tensor of a stage at the beginning of a tensor of the step.
const fn at(tensor: &'static str, within: &'static str) -> Operand {
    Operand { tensor, within, offset_bytes: 0 }
}

/// The same, so many bytes behind it.
const fn behind(tensor: &'static str, within: &'static str, offset_bytes: u64) -> Operand {
    Operand { tensor, within, offset_bytes }
}

/// Where the residual stream lies, and its norm.
#[derive(Clone, Copy)]
struct Stream {
    sum: &'static str,
    normed: Operand,
}

impl DecodeStep {
    /// Width of the row of queries, keys and values.
    pub const fn qkv_width(&self) -> u64 {
        (self.q_heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Width of the row of queries, and of attention's output.
    pub const fn q_width(&self) -> u64 {
        self.q_heads * self.head_dim
    }

    /// Elements of the keys, or values, of one layer.
    pub const fn cache_elements(&self) -> u64 {
        self.batch * self.layout.allocated(self.context) * self.kv_heads * self.head_dim
    }

    const fn linear(&self, n: u64, k: u64) -> Gemm {
        let (m, dtype) = (self.batch, self.dtype);
        let (w_dtype, a_dtype) = (Quant::plain(dtype), Quant::plain(dtype));
        Gemm { m, n, k, dtype, w_dtype, a_dtype }
    }

    const fn norm(&self, residual: bool) -> RmsNorm {
        RmsNorm { m: self.batch, n: self.hidden, dtype: self.dtype, residual }
    }

    /// Rotation of queries and keys, and append to the cache.
    pub const fn rope_append(&self) -> RopeAppend {
        RopeAppend {
            batch: self.batch,
            context: self.context,
            q_heads: self.q_heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            dtype: self.dtype,
            layout: self.layout,
            lengths: self.lengths,
            pages: CachePages::Whole,
        }
    }

    const fn attention(&self) -> DecodeAttention {
        DecodeAttention {
            batch: self.batch,
            context: self.context,
            new_tokens: 1,
            q_heads: self.q_heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            dtype: self.dtype,
            kv_dtype: Quant::plain(self.dtype),
            layout: self.layout,
            lengths: self.lengths,
            window: 0,
        }
    }

    /// Its problems, equal ones together, in the order in which they come up.
    pub fn kinds(&self) -> Vec<StageKind> {
        let DecodeStep { layers, batch: m, hidden, intermediate, vocab, dtype, .. } = *self;
        let kind = |name, problem: Problem, count| StageKind { name, problem, count };
        vec![
            kind("embedding", Embedding { m, vocab, n: hidden, dtype }.into(), 1),
            kind("first norm", self.norm(false).into(), 1),
            kind("q, k and v", self.linear(self.qkv_width(), hidden).into(), layers),
            kind("rope and append", self.rope_append().into(), layers),
            kind("attention", self.attention().into(), layers),
            kind("output", self.linear(hidden, self.q_width()).into(), layers),
            kind("residual and norm", self.norm(true).into(), 2 * layers),
            kind("gate and up", self.linear(2 * intermediate, hidden).into(), layers),
            kind(
                "activation",
                GatedActivation { m, n: intermediate, dtype }.into(),
                layers,
            ),
            kind("down", self.linear(hidden, intermediate).into(), layers),
            kind("head", self.linear(vocab, hidden).into(), 1),
            kind("argmax", Argmax { m, n: vocab, dtype }.into(), 1),
        ]
    }

    /// Its problems in order, with the places of their tensors.
    pub fn stages(&self) -> Vec<Stage> {
        let kinds = self.kinds();
        let stage = |name: &'static str, operands: Vec<Operand>| {
            let kind = kinds.iter().find(|kind| kind.name == name);
            let problem = kind.map(|kind| kind.problem);
            let problem = problem.unwrap_or_else(|| panic!("a step has no stage `{name}`"));
            Stage { name, problem, operands }
        };
        let mut stages = vec![
            stage(
                "embedding",
                vec![at("tokens", "tokens"), at("table", "embedding"), at("y", "embedded")],
            ),
            stage(
                "first norm",
                vec![at("x", "embedded"), at("w", "norm_weights"), at("y", "normed")],
            ),
        ];
        let mut stream = Stream { sum: "embedded", normed: at("a", "normed") };
        for layer in 0..self.layers {
            stream = self.layer(layer, stream, &stage, &mut stages);
        }
        stages.extend([
            stage("head", vec![stream.normed, at("b", "w_head"), at("c", "logits")]),
            stage("argmax", vec![at("x", "logits"), at("index", "next_tokens")]),
        ]);
        stages
    }

    /// Adds the problems of a layer, and says where it leaves the residual stream.
    fn layer(
        &self,
        layer: u64,
        stream: Stream,
        stage: &dyn Fn(&'static str, Vec<Operand>) -> Stage,
        stages: &mut Vec<Stage>,
    ) -> Stream {
        let bytes = |elements: u64| self.dtype.bytes_of(elements);
        let DecodeStep { hidden, intermediate, .. } = *self;
        let weights = |name, n: u64, k: u64| behind("b", name, layer * bytes(n * k));
        let cache =
            |tensor, within| behind(tensor, within, layer * bytes(self.cache_elements()));
        let [k, v] = [cache("k", "k_cache"), cache("v", "v_cache")];
        let table = at("page_table", "page_table");
        // Sums of both halves of a layer, so that none is read where it is written.
        let norm = |number, x, residual, to| {
            let gains = behind("w", "norm_weights", bytes((2 * layer + number) * hidden));
            let operands =
                vec![at("x", x), at("residual", residual), gains, at("sum_and_y", to)];
            let normed = behind("a", to, bytes(self.batch * hidden));
            (stage("residual and norm", operands), Stream { sum: to, normed })
        };
        let (attended, middle) = norm(1, "projected", stream.sum, "after_attention");
        let (fed, end) = norm(2, "fed", middle.sum, "after_feed_forward");
        stages.extend([
            stage(
                "q, k and v",
                vec![
                    stream.normed,
                    weights("w_qkv", self.qkv_width(), hidden),
                    at("c", "qkv"),
                ],
            ),
            stage("rope and append", vec![at("qkv", "qkv"), table, at("q", "q"), k, v]),
            stage("attention", vec![k, v, table, at("q", "q"), at("o", "attended")]),
            stage(
                "output",
                vec![
                    at("a", "attended"),
                    weights("w_output", hidden, self.q_width()),
                    at("c", "projected"),
                ],
            ),
            attended,
            stage(
                "gate and up",
                vec![
                    middle.normed,
                    weights("w_gate_up", 2 * intermediate, hidden),
                    at("c", "gate_up"),
                ],
            ),
            stage("activation", vec![at("x", "gate_up"), at("y", "activated")]),
            stage(
                "down",
                vec![
                    at("a", "activated"),
                    weights("w_down", hidden, intermediate),
                    at("c", "fed"),
                ],
            ),
            fed,
        ]);
        end
    }

    /// What stages hand each other.
    pub fn temporaries(&self) -> Vec<Temporary> {
        let rows = |name, width: u64| Temporary {
            name,
            bytes: self.dtype.bytes_of(self.batch * width),
        };
        vec![
            rows("embedded", self.hidden),
            rows("normed", self.hidden),
            rows("after_attention", 2 * self.hidden),
            rows("after_feed_forward", 2 * self.hidden),
            rows("qkv", self.qkv_width()),
            rows("q", self.q_width()),
            rows("attended", self.q_width()),
            rows("projected", self.hidden),
            rows("gate_up", 2 * self.intermediate),
            rows("activated", self.intermediate),
            rows("fed", self.hidden),
            Temporary {
                name: "next_tokens",
                bytes: TensorFormat::Words.bytes_of(self.batch),
            },
        ]
    }

    /// The sum over its problems.
    fn sum(&self, of: impl Fn(&Problem) -> u64) -> u64 {
        self.kinds().iter().map(|kind| kind.count * of(&kind.problem)).sum()
    }
}

impl Operation for DecodeStep {
    fn values(&self) -> Vec<String> {
        vec![
            self.layers.to_string(),
            self.batch.to_string(),
            self.context.to_string(),
            self.hidden.to_string(),
            self.q_heads.to_string(),
            self.kv_heads.to_string(),
            self.head_dim.to_string(),
            self.intermediate.to_string(),
            self.vocab.to_string(),
            self.dtype.to_string(),
            self.layout.to_string(),
            self.lengths.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        if self.dtype.is_scaled() {
            let message = format!(
                "a step hands on numbers in f32, bf16 or f16, not in {}; use one of these",
                self.dtype
            );
            return Err(ProblemError::at("dtype", message));
        }
        // Widths that are made of others, before anything is counted by them.
        let heads = product(&[self.q_heads, self.head_dim])
            + product(&[2, self.kv_heads, self.head_dim]);
        let up = product(&[2, self.intermediate]);
        for (key, width) in [("head_dim", heads), ("intermediate", up)] {
            if width > MAX_EXTENT as f64 {
                return Err(ProblemError::at(
                    key,
                    format!(
                        "rows of {width:.3e} elements, more than {MAX_EXTENT}; make {key} smaller"
                    ),
                ));
            }
        }
        for kind in self.kinds() {
            kind.problem.operation().check()?;
        }
        Ok(())
    }

    fn magnitude(&self) -> Magnitude {
        let mut sum = Magnitude { flops: 0.0, elements: 0.0 };
        for kind in self.kinds() {
            let of_one = kind.problem.operation().magnitude();
            sum.flops += product(&[kind.count]) * of_one.flops;
            sum.elements += product(&[kind.count]) * of_one.elements;
        }
        sum
    }

    fn work(&self) -> Work {
        let works =
            self.kinds().into_iter().map(|kind| kind.problem.work().times(kind.count));
        works.fold(Work::NONE, Work::and)
    }

    fn explanation(&self) -> Explanation {
        Explanation::results(&self.work())
    }

    fn tensors(&self) -> Vec<Tensor> {
        let DecodeStep { layers, batch, hidden, intermediate, vocab, dtype, .. } = *self;
        let input =
            |name, format, elements| Tensor::new(name, Role::Input, format, elements);
        let values = TensorFormat::Values(dtype);
        let weights = |name, n: u64, k: u64| input(name, values, layers * n * k);
        let cache = layers * self.cache_elements();
        let mut tensors = vec![
            input("tokens", TensorFormat::Words, batch),
            input("embedding", values, vocab * hidden),
            input("norm_weights", TensorFormat::Gains(dtype), (2 * layers + 1) * hidden),
            weights("w_qkv", self.qkv_width(), hidden),
            weights("w_output", hidden, self.q_width()),
            weights("w_gate_up", 2 * intermediate, hidden),
            weights("w_down", hidden, intermediate),
            input("w_head", values, vocab * hidden),
            input("k_cache", values, cache),
            input("v_cache", values, cache),
        ];
        tensors.extend(self.layout.page_table(batch, self.context));
        tensors.push(Tensor::new("logits", Role::Output, values, batch * vocab));
        tensors
    }

    fn weight_bytes(&self) -> u64 {
        self.sum(Problem::weight_bytes)
    }

    fn cache_bytes(&self) -> u64 {
        self.sum(Problem::cache_bytes)
    }

    fn has_usual_data(&self) -> bool {
        true
    }

    fn routed(&self) -> Option<Routed> {
        None
    }
}

not_compared!(DecodeStep);

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const LLAMA_8B: &str = "decode_step:layers=32,batch=8,context=8192,hidden=4096,q_heads=32,\
                            kv_heads=8,head_dim=128,intermediate=14336,vocab=128256,dtype=bf16";

    fn step(text: &str) -> DecodeStep {
        let problem: Problem = text.parse().unwrap_or_else(|why| panic!("{text}: {why}"));
        match problem {
            Problem::DecodeStep(step) => step,
            other => panic!("{other} is no step"),
        }
    }

    fn examples() -> Vec<DecodeStep> {
        let small = FACTS.examples[0];
        let mut steps: Vec<DecodeStep> = [small, LLAMA_8B].map(step).to_vec();
        // Half a page, and requests of several lengths.
        let ragged = small.replace("context=70", "context=7") + ",lengths=ragged";
        steps.push(step(&ragged.replace("batch=2", "batch=5")));
        steps
    }

    /// Llama 3.1 8B has 8.03 billion parameters, of which 525 million are the embedding's: one
    /// row of it is read for each token (Dubey et al. 2024, table 3).
    #[test]
    fn bytes_and_flops_golden() {
        let p = step(LLAMA_8B);
        let parameters = 32 * (4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336)
            + 128_256 * 4096
            + 65 * 4096;
        assert_eq!(parameters, 8_030_261_248 - 128_256 * 4096);
        let norms = p.kinds().iter().filter(|kind| kind.name.contains("norm")).count();
        assert_eq!(norms, 2);
        // Of the embedding the rows of the tokens.
        let weights = 2 * (parameters + 8 * 4096);
        assert_eq!(p.weight_bytes(), weights);
        let cache = 2 * 32 * 8 * 8192 * 8 * 128 * 2;
        let tables = 32 * 8 * 128 * 4;
        assert_eq!(p.cache_bytes(), cache + tables);
        let work = p.work();
        let products = 2 * 8 * (parameters - 65 * 4096);
        let attention = 32 * 4 * 8 * 32 * 128 * 8192;
        assert_eq!(work.matrix_flops(), products + attention);
        assert_eq!(work.math_dtype(), Some(DType::Bf16));
        // What else is moved is between problems, and less than a percent.
        let rest = work.bytes() - weights - cache;
        assert!(rest < work.bytes() / 100, "{rest} of {}", work.bytes());
        assert_eq!(p.stages().len(), 2 + 9 * 32 + 2);
    }

    /// Every tensor of a stage has one place, whose bytes lie in a tensor or temporary.
    #[test]
    fn stages_lie_within_what_there_is() {
        for p in examples() {
            let tensors = Problem::from(p).tensors();
            let mut sizes: HashMap<&str, u64> =
                tensors.iter().map(|tensor| (tensor.name, tensor.bytes())).collect();
            sizes.extend(p.temporaries().iter().map(|t| (t.name, t.bytes)));
            for stage in p.stages() {
                let of_stage = stage.problem.tensors();
                assert_eq!(of_stage.len(), stage.operands.len(), "{}", stage.name);
                for tensor in of_stage {
                    let mut found =
                        stage.operands.iter().filter(|o| o.tensor == tensor.name);
                    let operand = found.next().unwrap_or_else(|| {
                        panic!("{}: `{}` has no place", stage.name, tensor.name)
                    });
                    assert!(found.next().is_none(), "{}: {}", stage.name, tensor.name);
                    let end = operand.offset_bytes + tensor.bytes();
                    assert!(end <= sizes[operand.within], "{}: {operand:?}", stage.name);
                }
            }
        }
    }

    /// Bytes of each operand of a stage that are written, or read.
    fn ranges(stage: &Stage, inputs: bool) -> Vec<(&'static str, std::ops::Range<u64>)> {
        let tensors = stage.problem.tensors();
        let range = |operand: &Operand| {
            let tensor = tensors.iter().find(|tensor| tensor.name == operand.tensor)?;
            let end = operand.offset_bytes + tensor.bytes();
            ((tensor.role == Role::Input) == inputs)
                .then_some((operand.within, operand.offset_bytes..end))
        };
        stage.operands.iter().filter_map(range).collect()
    }

    /// Nothing is read before it was written, where it was not an input, and no stage reads
    /// what it writes.
    #[test]
    fn stages_hand_on_what_was_made() {
        for p in examples() {
            let temporaries: Vec<&str> = p.temporaries().iter().map(|t| t.name).collect();
            let mut made: Vec<(&str, std::ops::Range<u64>)> = Vec::new();
            for stage in p.stages() {
                let (read, written) = (ranges(&stage, true), ranges(&stage, false));
                for (name, range) in &read {
                    let is_made = made.iter().any(|(m, r)| {
                        m == name && r.start <= range.start && r.end >= range.end
                    });
                    let is_own = temporaries.contains(name) || *name == "logits";
                    assert!(is_made || !is_own, "{} reads {name}", stage.name);
                    assert!(
                        written.iter().all(|(w, r)| {
                            w != name || r.end <= range.start || range.end <= r.start
                        }),
                        "{} writes {name}, which it reads",
                        stage.name
                    );
                }
                made.extend(written);
            }
            assert!(made.iter().any(|(name, _)| *name == "logits"));
        }
    }

    /// Each layer has weights, norms and caches of its own, and they cover all there are.
    #[test]
    fn layers_share_nothing_but_the_page_table() {
        for p in examples() {
            let mut used: HashMap<&str, Vec<std::ops::Range<u64>>> = HashMap::new();
            for stage in p.stages() {
                // The cache is written and read in each layer.
                let reads = ranges(&stage, true);
                let own = reads.into_iter().filter(|(name, _)| *name != "page_table");
                own.for_each(|(name, range)| used.entry(name).or_default().push(range));
            }
            for tensor in Problem::from(p).tensors() {
                if ["page_table", "logits"].contains(&tensor.name) {
                    continue;
                }
                let ranges = used.get_mut(tensor.name).expect("every input is read");
                ranges.sort_by_key(|range| range.start);
                let gapless = ranges.windows(2).all(|pair| pair[0].end == pair[1].start);
                assert!(gapless && ranges[0].start == 0, "{}: {ranges:?}", tensor.name);
                assert_eq!(
                    ranges.last().map(|r| r.end),
                    Some(tensor.bytes()),
                    "{}",
                    tensor.name
                );
            }
        }
    }

    #[test]
    fn what_a_stage_refuses_is_told() {
        let text = FACTS.examples[0];
        let odd = text.replace("q_heads=2,kv_heads=1", "q_heads=3,kv_heads=2");
        assert_eq!(odd.parse::<Problem>().unwrap_err().key.as_deref(), Some("kv_heads"));
        let contiguous = text.replace("paged16", "contiguous");
        assert_eq!(
            contiguous.parse::<Problem>().unwrap_err().key.as_deref(),
            Some("layout")
        );
        let scaled = text.replace("dtype=bf16", "dtype=fp8_e4m3").parse::<Problem>();
        assert_eq!(scaled.unwrap_err().key.as_deref(), Some("dtype"));
    }
}
