//! Measurements that others have published, to test predictions: no time may be shorter
//! than the roofline at achievable peaks.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::machine::Machines;
use super::predict::{PeakBasis, Rates};
use super::table::{self, Raw};
use crate::op::Problem;

/// A published measurement.
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
    /// What limits the time: `latency`, `ridge`, `memory` or `compute`.
    pub regime: String,
    /// Where the measurement is published.
    pub source: String,
    /// Remarks.
    pub note: String,
}

/// A measurement and its prediction.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The measurement.
    pub measurement: Measurement,
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
}

/// All published measurements with their predictions.
///
/// # Errors
/// The table does not parse, or a machine states no peak in a format that is measured.
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
        let roof = rates.roof(&work).with_context(|| {
            format!(
                "{}: {} does not state every rate that {problem} needs",
                measurement.name, machine.name
            )
        })?;
        roof_s += roof.time_s();
        bytes += work.bytes() as f64;
        compute_s += roof.compute_s;
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

/// A measurement as it is written in the table.
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
            regime: self.regime,
            source: self.source,
            note: self.note,
        })
    }
}
