//! The paper's claims (arXiv 2601.22001), tested by prediction: where they hold, by how
//! much, and where they do not. [`crate::verdict`] tests them by measurement.

use super::llm::{self, Llm};
use super::machine::Machines;
use super::predict::{
    Footprint, Growth, PeakBasis, Prediction, Rates, StepQuestion, Totals,
};
use super::routing::ExpertRouting;
use super::step::{Formats, Parallel, Phase, Step, StepPart, StepShape};
use super::workload::Workload;
use crate::format::DType;
use crate::quant::Quant;

/// What predictions say about a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimFinding {
    /// The claim in a sentence.
    pub claim: &'static str,
    /// `holds`, `holds partly` or `does not hold`.
    pub finding: &'static str,
    /// The numbers that the finding rests on.
    pub evidence: String,
}

impl ClaimFinding {
    fn new(claim: &'static str, (right, of): (usize, usize), evidence: String) -> Self {
        let finding = match right {
            0 => "does not hold",
            _ if right == of => "holds",
            _ => "holds partly",
        };
        ClaimFinding { claim, finding, evidence }
    }
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
    /// Tests all eight claims.
    ///
    /// # Errors
    /// A model or machine that the claims name is not in the tables, or its step cannot be
    /// predicted.
    pub fn all(&self) -> anyhow::Result<Vec<ClaimFinding>> {
        Ok(vec![
            self.attention_has_its_groups_intensity()?,
            self.linear_layers_grow_with_the_batch()?,
            self.long_contexts_are_memory_bound()?,
            self.prefill_computes()?,
            self.latents_are_at_the_ridge()?,
            self.experts_lower_intensity()?,
            self.quantization_raises_intensity()?,
            self.the_wall_comes_first()?,
        ])
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

    fn attention_has_its_groups_intensity(&self) -> anyhow::Result<ClaimFinding> {
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
        Ok(ClaimFinding::new(
            "1. Decode attention has OI 2 g / b_kv, whatever the batch, and nearly so at any \
             context",
            (right, of),
            evidence.join("; "),
        ))
    }

    fn linear_layers_grow_with_the_batch(&self) -> anyhow::Result<ClaimFinding> {
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
        Ok(ClaimFinding::new(
            "2. The OI of decode's linear layers grows about as the batch, until the ridge",
            (right, of),
            evidence.join("; "),
        ))
    }

    fn long_contexts_are_memory_bound(&self) -> anyhow::Result<ClaimFinding> {
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
        Ok(ClaimFinding::new(
            "3. Beyond a batch of g a decode step's OI falls toward g as contexts grow: long \
             contexts are memory bound at any batch",
            (right, of),
            evidence.join("; "),
        ))
    }

    fn prefill_computes(&self) -> anyhow::Result<ClaimFinding> {
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
        Ok(ClaimFinding::new(
            "4. Prefill, attention and linear layers alike, is above the ridge except at short \
             prompts",
            (right, of),
            evidence.join("; "),
        ))
    }

    fn latents_are_at_the_ridge(&self) -> anyhow::Result<ClaimFinding> {
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
        Ok(ClaimFinding::new(
            "5. Absorbed latent attention sits next to the ridge, and is memory bound again with \
             few heads per GPU",
            (right, of),
            evidence.join("; "),
        ))
    }

    fn experts_lower_intensity(&self) -> anyhow::Result<ClaimFinding> {
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
        Ok(ClaimFinding::new(
            "6. Experts lower OI: rows per expert fall, and weights read grow to all experts",
            (right, of),
            evidence.join("; "),
        ))
    }

    fn quantization_raises_intensity(&self) -> anyhow::Result<ClaimFinding> {
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
        Ok(ClaimFinding::new(
            "7. Quantizing weights or cache multiplies OI (feed-forward, attention) and divides \
             the capacity footprint",
            (right, of),
            evidence.join("; "),
        ))
    }

    fn the_wall_comes_first(&self) -> anyhow::Result<ClaimFinding> {
        let (mut right, mut of, mut others) = (0, 0, Vec::new());
        for name in ["llama-3.1-8b", "llama-3.1-70b", "mixtral-8x7b", "deepseek-v3"] {
            let model = self.model(name)?;
            for rates in self.rates()? {
                for tensor in [1, 8] {
                    for workload in self.workloads {
                        let parallel = Parallel { tensor, ..Parallel::ONE };
                        let shape = StepShape { parallel, ..decode(1, workload.context) };
                        let Some((most, first)) = wall(model, &shape, &rates) else {
                            continue;
                        };
                        of += 1;
                        right += usize::from(first);
                        if !first {
                            others.push(format!(
                                "{name} {} on {tensor} x {} ({most:.0} fit)",
                                workload.name,
                                rates.machine().name
                            ));
                        }
                    }
                }
            }
        }
        let mut evidence = format!(
            "{right} of {of} pairs of model and workload on 1 and 8 GPUs that hold the weights"
        );
        if !others.is_empty() {
            evidence += &format!("; not for {}", others.join(", "));
        }
        Ok(ClaimFinding::new(
            "8. Memory is full before the batch reaches the ridge",
            (right, of),
            evidence,
        ))
    }
}

/// The largest number of requests that fits, and whether it is smaller than the batch at
/// the ridge; `None` where the weights alone do not fit.
fn wall(model: &Llm, shape: &StepShape, rates: &Rates) -> Option<(f64, bool)> {
    let step = Step::of(model, shape).ok()?;
    let growth = Growth::of(model, shape);
    let question = StepQuestion { model, shape, rates };
    let of = Prediction::of(&question, &step, Totals::of_step(&step), &growth);
    let fits = of.footprint.weight_bytes < of.memory_bytes?;
    fits.then_some((of.batch_max?, of.wall_comes_first()?))
}
