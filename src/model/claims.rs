//! The paper's claims (arXiv 2601.22001), tested by prediction: where they hold, by how
//! much, and where they do not. [`crate::verdict`] tests them by measurement.

use super::llm::{self, Llm};
use super::machine::Machines;
use super::predict::{Footprint, Growth, PeakBasis, Rates, Totals};
use super::routing::ExpertRouting;
use super::step::{Formats, Parallel, Phase, Step, StepPart, StepShape};
use super::workload::Workload;
use crate::format::DType;
use crate::quant::Quant;

/// What predictions say about a claim: in how many cases it is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predicted {
    /// Cases in which the claim holds.
    pub right: usize,
    /// All cases.
    pub of: usize,
    /// The numbers that this rests on.
    pub evidence: String,
}

impl Predicted {
    fn new((right, of): (usize, usize), evidence: String) -> Self {
        Predicted { right, of, evidence }
    }
}

type Predict = fn(&Claims<'_>) -> anyhow::Result<Predicted>;

/// What can be predicted of the paper's claims, by the name that the table of claims has for
/// it, in the order of the paper.
static PREDICTIONS: [(&str, Predict); 8] = [
    ("attention-intensity", |claims| claims.attention_has_its_groups_intensity()),
    ("linear-intensity", |claims| claims.linear_layers_grow_with_the_batch()),
    ("long-contexts", |claims| claims.long_contexts_are_memory_bound()),
    ("prefill-intensity", |claims| claims.prefill_computes()),
    ("latent-intensity", |claims| claims.latents_are_at_the_ridge()),
    ("expert-intensity", |claims| claims.experts_lower_intensity()),
    ("quantized-intensity", |claims| claims.quantization_raises_intensity()),
    ("memory-wall", |claims| claims.the_wall_comes_first()),
];

/// The names of all predictions.
pub fn predictions() -> [&'static str; 8] {
    PREDICTIONS.map(|(name, _)| name)
}

/// Machines for which the claims are tested.
const MACHINES: [&str; 3] = ["h100-sxm", "h200", "b200"];

const BF16: Formats = Formats::plain(DType::Bf16);

/// The tables of facts that the claims are tested with.
#[derive(Clone, Copy, Debug)]
pub struct Claims<'a> {
    /// Models.
    pub models: &'a [Llm],
    /// Machines.
    pub machines: &'a Machines,
    /// Workloads.
    pub workloads: &'a [Workload],
}

/// The shape of a step on one GPU in bf16.
const fn shape(phase: Phase, batch: u64, context: u64, new_tokens: u64) -> StepShape {
    let (formats, parallel) = (BF16, Parallel::ONE);
    let routing = ExpertRouting::Uniform;
    StepShape { phase, batch, context, new_tokens, formats, parallel, routing }
}

const fn decode(batch: u64, context: u64) -> StepShape {
    shape(Phase::Decode, batch, context, 1)
}

impl Claims<'_> {
    /// What is predicted under this name, one of [`predictions`].
    ///
    /// # Errors
    /// There is no such prediction; a model or machine that it names is not in the tables, or
    /// its step cannot be predicted.
    pub fn predict(&self, name: &str) -> anyhow::Result<Predicted> {
        let known = PREDICTIONS.iter().find(|(known, _)| *known == name);
        let (_, predict) =
            known.ok_or_else(|| anyhow::anyhow!("there is no prediction `{name}`"))?;
        predict(self)
    }

    fn model(&self, name: &str) -> anyhow::Result<&Llm> {
        llm::named(self.models, name)
    }

    fn step(&self, name: &str, shape: &StepShape) -> anyhow::Result<Step> {
        Step::of(self.model(name)?, shape).map_err(anyhow::Error::msg)
    }

    fn totals(
        &self,
        name: &str,
        shape: &StepShape,
        part: StepPart,
    ) -> anyhow::Result<Totals> {
        Ok(Totals::of(&self.step(name, shape)?, |other| other == part))
    }

    fn intensity(
        &self,
        name: &str,
        shape: &StepShape,
        part: StepPart,
    ) -> anyhow::Result<f64> {
        Ok(self.totals(name, shape, part)?.operational_intensity())
    }

    fn rates(&self) -> anyhow::Result<Vec<Rates<'_>>> {
        let rates = |name| Ok(Rates::new(self.machines.named(name)?, PeakBasis::Sheet));
        MACHINES.into_iter().map(rates).collect()
    }

    /// Names of the machines and their ridges in bf16, in FLOPs per byte.
    fn ridges(&self) -> anyhow::Result<Vec<(String, f64)>> {
        let named =
            |rates: &Rates| Some((rates.machine().name.clone(), rates.ridge(DType::Bf16)?));
        Ok(self.rates()?.iter().filter_map(named).collect())
    }

    fn attention_has_its_groups_intensity(&self) -> anyhow::Result<Predicted> {
        let (mut right, mut of, mut evidence) = (0, 0, Vec::new());
        for (name, group) in
            [("llama-2-7b", 1.0), ("llama-3.1-8b", 4.0), ("llama-3.1-70b", 8.0)]
        {
            for (cache, bytes) in [(DType::Bf16, 2.0), (DType::Fp8E4m3, 1.0)] {
                let formats = Formats { cache: Quant::cache(cache), ..BF16 };
                let at = |batch, context| {
                    let shape = StepShape { formats, ..decode(batch, context) };
                    self.intensity(name, &shape, StepPart::Attention)
                };
                let (short, long, many) = (at(1, 1024)?, at(1, 131_072)?, at(64, 1024)?);
                let claimed = 2.0 * group / bytes;
                let is_near = |oi: f64| (oi / claimed - 1.0).abs() < 0.02;
                right += usize::from(is_near(short) && is_near(long) && short == many);
                of += 1;
                evidence
                    .push(format!("{name} {cache}: {short:.3} to {long:.3} of {claimed}"));
            }
        }
        Ok(Predicted::new((right, of), evidence.join("; ")))
    }

    fn linear_layers_grow_with_the_batch(&self) -> anyhow::Result<Predicted> {
        let (mut right, mut of, mut evidence) = (0, 0, Vec::new());
        for name in ["llama-3.1-8b", "llama-3.1-70b"] {
            let oi = |batch| self.intensity(name, &decode(batch, 1), StepPart::FeedForward);
            for batch in [1, 4, 16, 64, 256] {
                right += usize::from((oi(batch)? / batch as f64 - 1.0).abs() < 0.15);
                of += 1;
            }
            let at =
                [1, 64, 256].map(|batch| oi(batch).map(|oi| format!("{batch}: {oi:.1}")));
            let at: Vec<String> = at.into_iter().collect::<anyhow::Result<_>>()?;
            evidence.push(format!("{name} feed-forward at batch {}", at.join(", ")));
        }
        Ok(Predicted::new((right, of), evidence.join("; ")))
    }

    fn long_contexts_are_memory_bound(&self) -> anyhow::Result<Predicted> {
        let name = "llama-3.1-70b";
        let model = self.model(name)?;
        let oi = |batch, context| -> anyhow::Result<f64> {
            let step = self.step(name, &decode(batch, context))?;
            Ok(Totals::of(&step, |_| true).operational_intensity())
        };
        let (short, long, longest) = (oi(64, 1024)?, oi(64, 131_072)?, oi(64, 1 << 20)?);
        let mut evidence = vec![format!(
            "{name} at batch 64: {short:.1} at 1K, {long:.1} at 128K, {longest:.1} at 1M"
        )];
        let (mut right, mut of) = (usize::from(short > long && long > longest), 1);
        for (machine, ridge) in self.ridges()? {
            let none_reaches = |context: &u64| {
                Growth::of(model, &decode(1, *context)).batch_at(ridge).is_none()
            };
            let first = (6..21).map(|power| 1 << power).find(none_reaches);
            right += usize::from(first.is_some());
            of += 1;
            evidence.push(match first {
                Some(context) => {
                    format!("{machine}: no batch reaches the ridge from {context} on")
                }
                None => format!("{machine}: some batch always does"),
            });
        }
        Ok(Predicted::new((right, of), evidence.join("; ")))
    }

    fn prefill_computes(&self) -> anyhow::Result<Predicted> {
        let (mut right, mut of, mut evidence) = (0, 0, Vec::new());
        for name in ["llama-3.1-8b", "llama-3.1-70b", "deepseek-v3"] {
            for (machine, ridge) in self.ridges()? {
                let is_above = |tokens: u64| {
                    let shape = shape(Phase::Prefill, 1, tokens, tokens);
                    [StepPart::Attention, StepPart::Projection, StepPart::FeedForward]
                        .into_iter()
                        .map(|part| self.intensity(name, &shape, part))
                        .try_fold(true, |all, oi| {
                            Ok::<_, anyhow::Error>(all && oi? >= ridge)
                        })
                };
                let mut first = None;
                for tokens in (4..18).map(|power| 1 << power) {
                    if first.is_none() && is_above(tokens)? {
                        first = Some(tokens);
                    }
                }
                right += usize::from(first.is_some_and(|tokens| tokens <= 8192));
                of += 1;
                evidence.push(match first {
                    Some(tokens) => format!("{name} on {machine} from {tokens} tokens"),
                    None => format!("{name} on {machine} never"),
                });
            }
        }
        Ok(Predicted::new((right, of), evidence.join("; ")))
    }

    fn latents_are_at_the_ridge(&self) -> anyhow::Result<Predicted> {
        let at = |tensor| {
            let parallel = Parallel { tensor, ..Parallel::ONE };
            let shape = StepShape { parallel, ..decode(16, 65_536) };
            self.intensity("deepseek-v3", &shape, StepPart::Attention)
        };
        let (all, eighth) = (at(1)?, at(8)?);
        let (mut right, mut of, mut evidence) = (
            0,
            0,
            vec![format!("deepseek-v3: {all:.1} with 128 heads, {eighth:.1} with 16")],
        );
        for (machine, ridge) in self.ridges()? {
            right +=
                usize::from((0.7..1.4).contains(&(all / ridge)) && eighth < ridge / 4.0);
            of += 1;
            evidence.push(format!(
                "{:.2} and {:.2} of {machine}'s ridge",
                all / ridge,
                eighth / ridge
            ));
        }
        Ok(Predicted::new((right, of), evidence.join("; ")))
    }

    fn experts_lower_intensity(&self) -> anyhow::Result<Predicted> {
        let oi =
            |name, batch| self.intensity(name, &decode(batch, 1), StepPart::FeedForward);
        let (mut right, mut of, mut evidence) = (0, 0, Vec::new());
        for batch in [1, 8, 64, 512] {
            let dense = oi("llama-3.1-70b", batch)?;
            let mut of_batch = vec![format!("dense {dense:.1}")];
            for name in ["mixtral-8x7b", "qwen3-235b-a22b", "deepseek-v3"] {
                let sparse = oi(name, batch)?;
                // One token reads only the weights that it computes with, dense or not.
                right += usize::from(batch == 1 || sparse < dense);
                of += 1;
                of_batch.push(format!("{name} {sparse:.1}"));
            }
            evidence.push(format!("batch {batch}: {}", of_batch.join(", ")));
        }
        Ok(Predicted::new((right, of), evidence.join("; ")))
    }

    fn quantization_raises_intensity(&self) -> anyhow::Result<Predicted> {
        let name = "llama-3.1-70b";
        let of_formats = |formats| -> anyhow::Result<(f64, f64, f64)> {
            let step = self.step(name, &StepShape { formats, ..decode(8, 8192) })?;
            let of =
                |part| Totals::of(&step, |other| other == part).operational_intensity();
            let footprint = Footprint::of(&step).per_request_bytes();
            Ok((of(StepPart::FeedForward), of(StepPart::Attention), footprint / 1e9))
        };
        let (ffn, attention, cf) = of_formats(BF16)?;
        let (mut right, mut of) = (0, 0);
        let mut evidence = vec![format!(
            "{name}, batch 8, 8K, bf16: {ffn:.1}, {attention:.1}, {cf:.2} GB"
        )];
        for (weights, cache) in [
            (DType::Fp8E4m3, DType::Fp8E4m3),
            (DType::Int4, DType::Bf16),
            (DType::Int4, DType::Fp8E4m3),
        ] {
            let (new_ffn, new_attention, new_cf) = of_formats(Formats {
                weights: Quant::weights(weights).into(),
                cache: Quant::cache(cache),
                ..BF16
            })?;
            let gained = new_ffn / ffn > 0.9 * 16.0 / weights.bits() as f64
                && new_attention / attention > 0.9 * 16.0 / cache.bits() as f64
                && new_cf < cf;
            right += usize::from(gained);
            of += 1;
            evidence.push(format!(
                "weights {weights}, cache {cache}: {:.2} x, {:.2} x, CF / {:.2}",
                new_ffn / ffn,
                new_attention / attention,
                cf / new_cf
            ));
        }
        Ok(Predicted::new((right, of), evidence.join("; ")))
    }

    fn the_wall_comes_first(&self) -> anyhow::Result<Predicted> {
        let (mut right, mut of, mut others) = (0, 0, Vec::new());
        for wall in Wall::all(self.models, self.workloads)? {
            for rates in self.rates()? {
                let machine = rates.machine();
                let known = machine.memory_bytes.zip(rates.ridge(DType::Bf16));
                let Some((most, first)) =
                    known.and_then(|(bytes, ridge)| wall.comes_first(bytes, ridge))
                else {
                    continue;
                };
                of += 1;
                right += usize::from(first);
                if !first {
                    others
                        .push(format!("{} x {} ({most:.0} fit)", wall.name, machine.name));
                }
            }
        }
        let mut evidence = format!(
            "{right} of {of} pairs of model and workload on 1 and 8 GPUs that hold the weights"
        );
        if !others.is_empty() {
            evidence += &format!("; not for {}", others.join(", "));
        }
        Ok(Predicted::new((right, of), evidence))
    }
}

/// Models whose memory is held against their ridge.
const WALL_MODELS: [&str; 4] =
    ["llama-3.1-8b", "llama-3.1-70b", "mixtral-8x7b", "deepseek-v3"];

/// A model and a workload on some GPUs: what a request takes of their memory, and how the
/// intensity of a decode step grows with the batch.
#[derive(Clone, Debug)]
pub struct Wall {
    /// Model, workload and number of GPUs, in words.
    pub name: String,
    footprint: Footprint,
    growth: Growth,
}

impl Wall {
    /// Of the dense and sparse models of claim 8, on 1 and 8 GPUs, at all workloads.
    ///
    /// # Errors
    /// A model is not in the table.
    pub fn all(models: &[Llm], workloads: &[Workload]) -> anyhow::Result<Vec<Wall>> {
        let mut walls = Vec::new();
        for name in WALL_MODELS {
            let model = llm::named(models, name)?;
            for tensor in [1, 8] {
                for workload in workloads {
                    let parallel = Parallel { tensor, ..Parallel::ONE };
                    let shape = StepShape { parallel, ..decode(1, workload.context) };
                    let Ok(step) = Step::of(model, &shape) else { continue };
                    walls.push(Wall {
                        name: format!("{name} {} on {tensor}", workload.name),
                        footprint: Footprint::of(&step),
                        growth: Growth::of(model, &shape),
                    });
                }
            }
        }
        Ok(walls)
    }

    /// How many requests fit into so many bytes of memory, and whether these are fewer than
    /// a decode step needs to reach the ridge, in FLOPs per byte; `None` where the weights
    /// alone do not fit.
    pub fn comes_first(&self, memory_bytes: f64, ridge: f64) -> Option<(f64, bool)> {
        let fits = self.footprint.weight_bytes < memory_bytes;
        let most = self.footprint.most_requests(memory_bytes);
        let at_ridge = self.growth.batch_at(ridge);
        fits.then_some((most, at_ridge.is_none_or(|at_ridge| most < at_ridge as f64)))
    }
}
