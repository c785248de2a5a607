//! A whole step of decoding, of the kernels that run its problems one by one.

use std::collections::HashMap;

use super::contract::{CpuFormat, CpuKernel, InputBytes, Kernel, RunSettings, configured};
use crate::device::Refusal;
use crate::format::{Role, Tensor};
use crate::op::{DecodeStep, Op, Operand, Problem, Stage, Temporary};

pub(super) const KERNEL: CpuKernel = CpuKernel {
    name: "cpu_decode_step",
    op: Op::DecodeStep,
    sources: &[include_str!("decode_step.rs")],
    configurations: &[],
    configure: |problem, _| {
        configured(problem, |&p: &DecodeStep| {
            CpuFormat::of("dtype", p.dtype)?;
            let mut makers = Vec::new();
            for kind in p.kinds() {
                let (_, make) = CpuKernel::for_problem(&kind.problem)
                    .map_err(|why| Refusal(format!("{}: {why}", kind.name)))?;
                makers.push((kind.problem, make));
            }
            Ok(Box::new(move |run: RunSettings| {
                let make = |(problem, make): (Problem, super::contract::Configured)| {
                    (problem, make(run))
                };
                Box::new(ComposedStep::new(p, makers.into_iter().map(make).collect()))
            }))
        })
    },
};

/// The output of a step.
const LOGITS: &str = "logits";

/// Where bytes of a stage lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    /// In an input of the step.
    Input(&'static str),
    /// In a temporary, or in the logits.
    Temporary(&'static str),
    /// In the queries and the cache of a layer.
    Layer(usize),
}

/// Bytes of a stage.
#[derive(Clone, Copy, Debug)]
struct Bytes {
    place: Place,
    offset: usize,
    bytes: usize,
}

/// A stage, its tensors placed.
struct PlacedStage {
    kernel: usize,
    inputs: Vec<(&'static str, Bytes)>,
    output: Place,
}

/// Runs the stages of a step.
struct ComposedStep {
    p: DecodeStep,
    kernels: Vec<(Problem, Box<dyn Kernel>)>,
    stages: Vec<PlacedStage>,
    temporaries: HashMap<Place, Vec<u8>>,
    /// Of each slot, by layer: the rotated queries, the keys and the values, one after the
    /// other as their kernel leaves them. Caches are copied here when a slot first runs: a
    /// step's inputs stay as they are.
    layers: HashMap<usize, HashMap<Place, Vec<u8>>>,
}

impl ComposedStep {
    fn new(p: DecodeStep, kernels: Vec<(Problem, Box<dyn Kernel>)>) -> Self {
        let logits = Temporary { name: LOGITS, bytes: Problem::from(p).output().bytes() };
        let temporaries = p.temporaries().into_iter().chain([logits]);
        let buffer = |t: Temporary| (Place::Temporary(t.name), vec![0; t.bytes as usize]);
        let temporaries = temporaries.map(buffer).collect();
        let place = |stage: Stage| {
            let kernel = kernels.iter().position(|(problem, _)| *problem == stage.problem);
            place_stage(&p, &stage, kernel.expect("every stage is of one of the kinds"))
        };
        let stages = p.stages().into_iter().map(place).collect();
        ComposedStep { p, kernels, stages, temporaries, layers: HashMap::new() }
    }

    /// The queries and caches of all layers, before the first run.
    fn copy_caches(p: &DecodeStep, inputs: &InputBytes) -> HashMap<Place, Vec<u8>> {
        let (queries, cache) = layer_bytes(p);
        let (keys, values) = (inputs.get("k_cache"), inputs.get("v_cache"));
        let layers = keys.chunks(cache).zip(values.chunks(cache)).enumerate();
        let copy = |(layer, (keys, values)): (usize, (&[u8], &[u8]))| {
            (Place::Layer(layer), [&vec![0; queries], keys, values].concat())
        };
        layers.map(copy).collect()
    }
}

/// Bytes of the queries of a layer, and of its keys or values.
fn layer_bytes(p: &DecodeStep) -> (usize, usize) {
    let bytes = |elements: u64| p.dtype.bytes_of(elements) as usize;
    (bytes(p.batch * p.q_width()), bytes(p.cache_elements()))
}

/// Which layer's cache a stage uses, if it uses one.
fn layer_of(p: &DecodeStep, stage: &Stage) -> Option<usize> {
    let keys = stage.operands.iter().find(|operand| operand.within == "k_cache")?;
    Some(keys.offset_bytes as usize / layer_bytes(p).1)
}

fn place_stage(p: &DecodeStep, stage: &Stage, kernel: usize) -> PlacedStage {
    let layer = layer_of(p, stage);
    let tensors = stage.problem.tensors();
    let placed = |tensor: &Tensor| {
        let operand = stage.operands.iter().find(|operand| operand.tensor == tensor.name);
        place_operand(p, operand.expect("every tensor of a stage has a place"), layer)
    };
    let inputs = tensors.iter().filter(|tensor| tensor.role == Role::Input);
    let inputs = inputs.map(|tensor| {
        let (place, offset) = placed(tensor);
        (tensor.name, Bytes { place, offset, bytes: tensor.bytes() as usize })
    });
    let output = tensors.iter().find(|tensor| tensor.role != Role::Input);
    let (output, offset) = placed(output.expect("every problem has an output"));
    assert_eq!(offset, 0, "outputs lie at the beginning of what they are in");
    PlacedStage { kernel, inputs: inputs.collect(), output }
}

fn place_operand(
    p: &DecodeStep,
    operand: &Operand,
    layer: Option<usize>,
) -> (Place, usize) {
    let (queries, cache) = layer_bytes(p);
    let offset = operand.offset_bytes as usize;
    let is_temporary = p.temporaries().iter().any(|t| t.name == operand.within);
    match (operand.within, layer) {
        ("q", Some(layer)) => (Place::Layer(layer), 0),
        ("k_cache", Some(layer)) => (Place::Layer(layer), queries),
        ("v_cache", Some(layer)) => (Place::Layer(layer), queries + cache),
        (within, _) if is_temporary || within == LOGITS => {
            (Place::Temporary(within), offset)
        }
        (within, _) => (Place::Input(within), offset),
    }
}

impl Kernel for ComposedStep {
    fn run(&mut self, slot: usize, inputs: &InputBytes, output: &mut [u8]) {
        let ComposedStep { p, kernels, stages, temporaries, layers } = self;
        let layers = layers.entry(slot).or_insert_with(|| Self::copy_caches(p, inputs));
        for PlacedStage { kernel, inputs: operands, output: to } in &*stages {
            // Taken out while it is written: no stage reads what it writes.
            let mut written =
                temporaries.remove(to).or_else(|| layers.remove(to)).unwrap_or_default();
            let bytes = |placed: &Bytes| -> &[u8] {
                let whole = match placed.place {
                    Place::Input(name) => inputs.get(name),
                    place => temporaries.get(&place).unwrap_or_else(|| &layers[&place]),
                };
                &whole[placed.offset..placed.offset + placed.bytes]
            };
            let read = operands.iter().map(|(name, placed)| (*name, bytes(placed)));
            kernels[*kernel].1.run(slot, &InputBytes(read.collect()), &mut written);
            let home = if matches!(to, Place::Layer(_)) {
                &mut *layers
            } else {
                &mut *temporaries
            };
            home.insert(*to, written);
        }
        output.copy_from_slice(&temporaries[&Place::Temporary(LOGITS)]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{device, verify};

    fn step(layers: u64, batch: u64, context: u64, rest: &str) -> String {
        format!(
            "decode_step:layers={layers},batch={batch},context={context},hidden=96,q_heads=4,\
             kv_heads=2,head_dim=32,intermediate=130,vocab=301,{rest}"
        )
    }

    /// A small model from token to logits, against the same in f64.
    #[test]
    fn whole_steps_are_right() {
        let mut device = device();
        for dtype in ["f32", "bf16", "f16"] {
            for (layers, batch, context) in [(1, 1, 1), (2, 3, 33), (5, 2, 64), (3, 9, 7)] {
                for layout in ["paged16", "paged16_nhd,lengths=ragged"] {
                    let rest = format!("dtype={dtype},layout={layout}");
                    verify(&mut device, &step(layers, batch, context, &rest));
                }
            }
        }
    }
}
