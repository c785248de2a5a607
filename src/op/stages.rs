//! What a problem is made of: its stages, each a problem whose tensors lie in tensors and
//! temporaries of the whole.

use super::decode_step::{DecodeStep, Part};
use super::table::{OfProblem, Problem};
use crate::format::TensorFormat;

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

impl From<Part> for Problem {
    fn from(part: Part) -> Problem {
        match part {
            Part::Embedding(p) => p.into(),
            Part::Norm(p) => p.into(),
            Part::Linear(p) => p.into(),
            Part::RopeAppend(p) => p.into(),
            Part::Attention(p) => p.into(),
            Part::Activation(p) => p.into(),
            Part::Argmax(p) => p.into(),
        }
    }
}

impl Problem {
    /// The problems that it is made of, equal ones together; none of a problem that is one
    /// launch or a few.
    pub fn parts(&self) -> Vec<StageKind> {
        DecodeStep::of(self).map_or_else(Vec::new, DecodeStep::kinds)
    }
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
    /// Its problems, equal ones together, in the order in which they come up.
    pub fn kinds(&self) -> Vec<StageKind> {
        let kind = |(name, part, count): (_, Part, _)| StageKind {
            name,
            problem: part.into(),
            count,
        };
        self.parts().into_iter().map(kind).collect()
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
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::Operation;
    use super::super::decode_step::FACTS;
    use super::*;
    use crate::format::{DType, Role};

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
