//! What others have measured, to hold predictions against: no time may be shorter than
//! the roofline at what is achievable.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::machine::Machines;
use super::predict::{PeakBasis, Rates};
use super::table::{self, Raw};
use crate::op::Problem;

/// A published measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// What was measured, in a few words.
    pub name: String,
    /// Where: a name of the table of machines.
    pub machine: String,
    /// The problems that followed one another.
    pub problems: Vec<Problem>,
    /// Seconds of all of them.
    pub time_s: f64,
    /// What limits it, by its shape.
    pub regime: String,
    /// Where the figure stands.
    pub source: String,
    /// What to know about it.
    pub note: String,
}

/// A measurement beside its prediction.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The measurement.
    pub measurement: Measurement,
    /// Seconds of the roofline at achievable peaks.
    pub roof_s: f64,
    /// Bytes per second that the measured time implies, of the data sheet's.
    pub implied_bandwidth: f64,
    /// FLOPs per second that it implies, of the data sheet's.
    pub implied_compute: f64,
}

impl Compared {
    /// Predicted over measured: at most 1 where nothing is wrong.
    pub fn ratio(&self) -> f64 {
        self.roof_s / self.measurement.time_s
    }
}

/// All published measurements with their predictions.
///
/// # Errors
/// A table that does not parse, or a machine that states too little.
pub fn compare(machines: &Machines) -> Result<Vec<Compared>> {
    let rows = table::load::<MeasurementRow>(
        ("published.toml", include_str!("published.toml")),
        None,
    )?;
    rows.into_iter().map(|measurement| compare_one(machines, measurement)).collect()
}

fn compare_one(machines: &Machines, measurement: Measurement) -> Result<Compared> {
    let machine = machines.named(&measurement.machine)?;
    let rates = Rates::new(machine, PeakBasis::Achievable);
    let (mut roof_s, mut bytes, mut compute_s) = (0.0, 0.0, 0.0);
    for problem in &measurement.problems {
        let work = problem.work();
        let of_flops = match problem.math_dtype() {
            None => 0.0,
            Some(dtype) => {
                let rate = rates.flops_per_s(dtype).with_context(|| {
                    format!("{}: no peak in {dtype} of {}", measurement.name, machine.name)
                })?;
                work.flops() as f64 / rate
            }
        };
        roof_s += of_flops.max(work.bytes() as f64 / rates.bytes_per_s());
        bytes += work.bytes() as f64;
        compute_s += of_flops;
    }
    let (time_s, sheet) = (measurement.time_s, Rates::new(machine, PeakBasis::Sheet));
    let reachable = super::predict::REACHABLE_COMPUTE;
    Ok(Compared {
        measurement,
        roof_s,
        implied_bandwidth: bytes / time_s / sheet.bytes_per_s(),
        implied_compute: compute_s * reachable / time_s,
    })
}

/// A row of the table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MeasurementRow {
    name: String,
    machine: String,
    problems: Vec<String>,
    time_s: Option<f64>,
    flops_per_s: Option<f64>,
    regime: String,
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
            return Err(format!("{}: no time takes {time_s} s", self.name));
        }
        Ok(Measurement {
            name: self.name,
            machine: self.machine,
            problems,
            time_s,
            regime: self.regime,
            source: self.source,
            note: self.note,
        })
    }
}
