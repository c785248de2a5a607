//! Measurements to test predictions with, published by others or recorded in campaigns: no
//! time may be shorter than the roofline at achievable peaks, and how much longer times are
//! is how far off that prediction is.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::llm::Llm;
use super::machine::Machines;
use super::predict::{PeakBasis, Rates};
use super::routing::ExpertRouting;
use super::step::{Formats, Parallel, Phase, Step, StepShape};
use super::table::{self, Raw};
use crate::format::DType;
use crate::op::Problem;
use crate::statistics::quantile;

/// A measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// What was measured.
    pub name: String,
    /// The name of the machine in the table of machines.
    pub machine: String,
    /// The problems that were computed one after the other.
    pub problems: Vec<Problem>,
    /// Time of all problems, in seconds.
    pub time_s: f64,
    /// Where the measurement is published, or the folder of its campaign.
    pub source: String,
    /// Remarks.
    pub note: String,
}

/// What limits a time, by the shape of its problems alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Regime {
    /// The roof allows less than [`Regime::SHORT_S`], so that launches and ramps matter.
    Latency,
    /// The operational intensity is within a factor of 2 of the ridge.
    Ridge,
    /// Memory.
    Memory,
    /// Computing.
    Compute,
}

impl Regime {
    /// Roofs below this are a matter of latency, in seconds.
    pub const SHORT_S: f64 = 15e-6;

    /// The spelling of tables.
    pub const fn name(self) -> &'static str {
        match self {
            Regime::Latency => "latency",
            Regime::Ridge => "ridge",
            Regime::Memory => "memory",
            Regime::Compute => "compute",
        }
    }

    /// Of problems that take so long to move their bytes and to compute, at a data sheet's
    /// rates.
    fn of(memory_s: f64, compute_s: f64) -> Regime {
        let of_ridge = compute_s / memory_s;
        if memory_s.max(compute_s) < Regime::SHORT_S {
            Regime::Latency
        } else if (0.5..=2.0).contains(&of_ridge) {
            Regime::Ridge
        } else if of_ridge < 1.0 {
            Regime::Memory
        } else {
            Regime::Compute
        }
    }
}

/// A measurement and its prediction.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The measurement.
    pub measurement: Measurement,
    /// The first model in the table whose layers have problems of these shapes, on 1 to 8
    /// GPUs; `None` where no model's do.
    pub model: Option<String>,
    /// What limits the time.
    pub regime: Regime,
    /// Time of the roofline at achievable peaks, in seconds.
    pub roof_s: f64,
    /// Bandwidth that the measured time implies, as a share of the data sheet's.
    pub implied_bandwidth: f64,
    /// Rate of computing that the measured time implies, as a share of the data sheet's.
    pub implied_compute: f64,
}

impl Compared {
    /// Predicted over measured time: at most 1, or the prediction or the measurement is
    /// wrong.
    pub fn ratio(&self) -> f64 {
        self.roof_s / self.measurement.time_s
    }

    /// How far the prediction is off, as a share of the measured time.
    pub fn error(&self) -> f64 {
        (self.ratio() - 1.0).abs()
    }
}

/// The published measurements.
///
/// # Errors
/// The table does not parse.
pub fn measurements() -> Result<Vec<Measurement>> {
    let built_in = ("published.toml", include_str!("published.toml"));
    table::load::<MeasurementRow>(built_in, None)
}

/// Measurements with their predictions.
///
/// # Errors
/// A machine is not in the table, or does not state a rate that a measurement needs.
pub fn compare(
    machines: &Machines,
    models: &[Llm],
    measurements: Vec<Measurement>,
) -> Result<Vec<Compared>> {
    let shapes = ShapesOfModels::of(models);
    let compared = measurements.into_iter().map(|measurement| {
        let model = shapes.model_of(&measurement.problems);
        compare_one(machines, model, measurement)
    });
    compared.collect()
}

fn compare_one(
    machines: &Machines,
    model: Option<String>,
    measurement: Measurement,
) -> Result<Compared> {
    let machine = machines.named(&measurement.machine)?;
    let rates = Rates::new(machine, PeakBasis::Achievable);
    let sheet = Rates::new(machine, PeakBasis::Sheet);
    let (mut roof_s, mut memory_s, mut compute_s) = (0.0, 0.0, 0.0);
    for problem in &measurement.problems {
        let work = problem.work();
        let roofs = (rates.roof(&work), sheet.roof(&work));
        let (Some(roof), Some(of_sheet)) = roofs else {
            return Err(anyhow::anyhow!(
                "{} does not state every rate that {problem} needs",
                machine.name
            ))
            .with_context(|| measurement.name.clone());
        };
        roof_s += roof.time_s();
        memory_s += of_sheet.memory_s;
        compute_s += of_sheet.compute_s;
    }
    Ok(Compared {
        model,
        regime: Regime::of(memory_s, compute_s),
        roof_s,
        implied_bandwidth: memory_s / measurement.time_s,
        implied_compute: compute_s / measurement.time_s,
        measurement,
    })
}

/// What of a problem's shape is a model's and not the batch's: the values of these keys.
const KEYS_OF_MODELS: [&str; 10] = [
    "n",
    "k",
    "experts",
    "top_k",
    "q_heads",
    "kv_heads",
    "head_dim",
    "latent_dim",
    "rope_dim",
    "v_head_dim",
];

/// The operation of a problem and what of its shape is a model's; `None` where nothing is.
fn model_shape(problem: &Problem) -> Option<String> {
    let fields = problem.fields().into_iter();
    let kept: Vec<String> = fields
        .filter(|(key, _)| KEYS_OF_MODELS.contains(key))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    (!kept.is_empty()).then(|| format!("{}:{}", problem.op().name(), kept.join(",")))
}

/// The shapes that layers of models have.
struct ShapesOfModels(Vec<(String, BTreeSet<String>)>);

impl ShapesOfModels {
    fn of(models: &[Llm]) -> Self {
        let shapes = |model: &Llm| (model.name.clone(), shapes_of(model));
        ShapesOfModels(models.iter().map(shapes).collect())
    }

    /// The first model with all of these problems.
    fn model_of(&self, problems: &[Problem]) -> Option<String> {
        let wanted: Option<Vec<String>> = problems.iter().map(model_shape).collect();
        let wanted = wanted?;
        let has_all = |(_, shapes): &&(String, BTreeSet<String>)| {
            wanted.iter().all(|shape| shapes.contains(shape))
        };
        self.0.iter().find(has_all).map(|(name, _)| name.clone())
    }
}

/// The shapes of a model's problems on 1 to 8 GPUs, in both phases.
fn shapes_of(model: &Llm) -> BTreeSet<String> {
    let mut shapes = BTreeSet::new();
    for phase in Phase::ALL {
        for tensor in [1, 2, 4, 8] {
            let parallel = Parallel { tensor, ..Parallel::ONE };
            let (formats, routing) = (Formats::plain(DType::Bf16), ExpertRouting::Uniform);
            let (batch, context, new_tokens) = (1, 1, 1);
            let shape =
                StepShape { phase, batch, context, new_tokens, formats, parallel, routing };
            // A model that so many GPUs do not divide has no shapes on them.
            let Ok(step) = Step::of(model, &shape) else { continue };
            shapes.extend(step.problems.iter().filter_map(|p| model_shape(&p.problem)));
        }
    }
    shapes
}

/// Measurements that are alike; `None` for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// The machine.
    pub machine: Option<String>,
    /// The model whose shapes they have; some have no model's.
    pub model: Option<Option<String>>,
    /// What limits them.
    pub regime: Option<Regime>,
}

/// How far predictions are off.
#[derive(Clone, Debug, PartialEq)]
pub struct Accuracy {
    /// Number of measurements.
    pub count: usize,
    /// Median of [`Compared::ratio`]: which way predictions are off.
    pub median_ratio: f64,
    /// Median of [`Compared::error`].
    pub median_error: f64,
    /// The error that 90% of the measurements do not exceed.
    pub p90_error: f64,
    /// The largest error.
    pub worst_error: f64,
    /// The measurement with the largest error.
    pub worst: String,
}

impl Accuracy {
    /// Of some measurements; `None` of none.
    pub fn of(compared: &[&Compared]) -> Option<Accuracy> {
        let worst = compared.iter().max_by(|a, b| a.error().total_cmp(&b.error()))?;
        let sorted = |value: fn(&Compared) -> f64| {
            let mut values: Vec<f64> = compared.iter().map(|of| value(of)).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let errors = sorted(Compared::error);
        Some(Accuracy {
            count: compared.len(),
            median_ratio: quantile(&sorted(Compared::ratio), 0.5),
            median_error: quantile(&errors, 0.5),
            p90_error: quantile(&errors, 0.9),
            worst_error: worst.error(),
            worst: worst.measurement.name.clone(),
        })
    }

    /// Of each machine, model and regime together, then of each of them alone, then of all.
    pub fn by_group(compared: &[Compared]) -> Vec<(Group, Accuracy)> {
        type Kept = fn(&Compared) -> Group;
        let kept: [Kept; 5] = [
            |of| Group {
                machine: Some(of.measurement.machine.clone()),
                model: Some(of.model.clone()),
                regime: Some(of.regime),
            },
            |of| Group {
                machine: Some(of.measurement.machine.clone()),
                ..Group::default()
            },
            |of| Group { model: Some(of.model.clone()), ..Group::default() },
            |of| Group { regime: Some(of.regime), ..Group::default() },
            |_| Group::default(),
        ];
        let mut all = Vec::new();
        for kept in kept {
            let mut groups: BTreeMap<Group, Vec<&Compared>> = BTreeMap::new();
            for of in compared {
                groups.entry(kept(of)).or_default().push(of);
            }
            let accuracy =
                |(group, of): (Group, Vec<&Compared>)| Some((group, Accuracy::of(&of)?));
            all.extend(groups.into_iter().filter_map(accuracy));
        }
        all
    }
}

/// A measurement as it is written in the table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MeasurementRow {
    name: String,
    machine: String,
    problems: Vec<String>,
    time_s: Option<f64>,
    flops_per_s: Option<f64>,
    source: String,
    #[serde(default)]
    note: String,
}

impl Raw for MeasurementRow {
    type Checked = Measurement;
    const KEY: &'static str = "measurement";

    fn check(self) -> Result<Measurement, String> {
        let parse = |text: &String| text.parse::<Problem>().map_err(|e| e.message);
        let problems: Vec<Problem> =
            self.problems.iter().map(parse).collect::<Result<_, _>>()?;
        let flops: f64 = problems.iter().map(|p| p.work().flops() as f64).sum();
        let time_s = match (self.time_s, self.flops_per_s) {
            (Some(time_s), None) => time_s,
            (None, Some(rate)) => flops / rate,
            _ => return Err(format!("{}: give `time_s` or `flops_per_s`", self.name)),
        };
        if !(time_s.is_finite() && time_s > 0.0) {
            return Err(format!(
                "{}: the time is {time_s} s; it must be above 0",
                self.name
            ));
        }
        Ok(Measurement {
            name: self.name,
            machine: self.machine,
            problems,
            time_s,
            source: self.source,
            note: self.note,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A measurement of a time that a roof of one second is compared with.
    fn compared(name: &str, machine: &str, regime: Regime, time_s: f64) -> Compared {
        let measurement = Measurement {
            name: name.to_owned(),
            machine: machine.to_owned(),
            problems: Vec::new(),
            time_s,
            source: String::new(),
            note: String::new(),
        };
        Compared {
            measurement,
            model: None,
            regime,
            roof_s: 1.0,
            implied_bandwidth: 0.0,
            implied_compute: 0.0,
        }
    }

    #[test]
    fn errors_are_distances_from_what_was_measured() {
        // Ratios 1.25, 1, 0.8, 0.5: errors 0.25, 0, 0.2, 0.5.
        let all = [("a", 0.8), ("b", 1.0), ("c", 1.25), ("d", 2.0)]
            .map(|(name, time_s)| compared(name, "m", Regime::Memory, time_s));
        let of = Accuracy::of(&all.iter().collect::<Vec<_>>()).unwrap();
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} and not {b}");
        assert_eq!((of.count, of.worst.as_str()), (4, "d"));
        near(of.median_error, 0.225);
        near(of.p90_error, 0.25 + 0.7 * 0.25);
        near(of.worst_error, 0.5);
        near(of.median_ratio, 0.9);
        assert_eq!(Accuracy::of(&[]), None);
    }

    #[test]
    fn groups_are_of_each_kind_and_of_all() {
        let all = [
            compared("a", "m", Regime::Memory, 1.0),
            compared("b", "m", Regime::Compute, 2.0),
            compared("c", "n", Regime::Memory, 4.0),
        ];
        let groups = Accuracy::by_group(&all);
        // Three combinations, two machines, no model, two regimes, and all.
        let counts: Vec<usize> = groups.iter().map(|(_, of)| of.count).collect();
        assert_eq!(counts, [1, 1, 1, 2, 1, 3, 2, 1, 3]);
        let (last, of) = groups.last().unwrap();
        assert_eq!((last, of.worst.as_str()), (&Group::default(), "c"));
        let memory = Group { regime: Some(Regime::Memory), ..Group::default() };
        let of_memory = groups.iter().find(|(group, _)| *group == memory).unwrap();
        assert_eq!(of_memory.1.worst_error, 0.75);
    }

    #[test]
    fn regimes_follow_from_the_shape() {
        for (memory_s, compute_s, regime) in [
            (14e-6, 1e-6, Regime::Latency),
            (1e-6, 16e-6, Regime::Compute),
            (16e-6, 1e-6, Regime::Memory),
            (20e-6, 10e-6, Regime::Ridge),
            (20e-6, 40e-6, Regime::Ridge),
            (20e-6, 41e-6, Regime::Compute),
        ] {
            assert_eq!(Regime::of(memory_s, compute_s), regime, "{memory_s} {compute_s}");
        }
    }

    /// The shapes of models are found whatever the batch, the context and the GPUs.
    #[test]
    fn shapes_are_of_the_first_model_that_has_them() {
        let models = crate::model::llm::load(None).unwrap();
        let shapes = ShapesOfModels::of(&models);
        let of = |texts: &[&str]| {
            let problems: Vec<Problem> = texts.iter().map(|t| t.parse().unwrap()).collect();
            shapes.model_of(&problems)
        };
        let decode =
            "decode_attention:batch=9,context=77,q_heads=8,kv_heads=2,head_dim=128";
        assert_eq!(of(&[&format!("{decode},dtype=bf16")]).as_deref(), Some("llama-3.1-8b"));
        let experts = |n, k, inputs| {
            format!(
                "moe_gemm:tokens=5,experts=8,top_k=2,n={n},k={k},dtype=bf16,routing=uniform,\
                 inputs={inputs}"
            )
        };
        let (up, down) =
            (experts(28_672, 4096, "per_token"), experts(4096, 14_336, "per_expert"));
        assert_eq!(of(&[&up, &down]).as_deref(), Some("mixtral-8x7b"));
        assert_eq!(of(&[&up, "gemm:m=1,n=3,k=5,dtype=bf16"]), None);
        assert_eq!(of(&["stream:access=read,bytes=4096"]), None);
    }
}
