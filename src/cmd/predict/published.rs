//! `ridgepoint predict published`: predictions beside what others have measured.

use anyhow::Result;

use super::options::Output;
use crate::cmd::options::{MachineFile, OutputFormat};
use crate::cmd::table;
use crate::model::published::{self, Compared};
use crate::section::Section;

/// Compare predictions with published measurements.
#[derive(Debug, clap::Args)]
pub struct PublishedArgs {
    #[command(flatten)]
    machine_file: MachineFile,
    #[command(flatten)]
    output: Output,
}

pub fn run(args: &PublishedArgs) -> Result<()> {
    let compared = published::compare(&args.machine_file.load()?)?;
    let mut sections = [measurements(&compared), regimes(&compared)];
    if args.output.format == OutputFormat::Table {
        // Addresses are longer than all other cells together.
        sections[0].columns.pop();
        sections[0].rows.iter_mut().for_each(|row| drop(row.pop()));
        sections[0].paragraphs.push("--format csv has the source of each.".to_owned());
    }
    table::print(&sections, args.output.format)
}

/// Each measurement beside its prediction.
fn measurements(compared: &[Compared]) -> Section {
    let row = |of: &Compared| {
        vec![
            of.measurement.name.clone(),
            of.measurement.machine.clone(),
            of.measurement.regime.clone(),
            of.measurement.time_s.to_string(),
            of.roof_s.to_string(),
            of.ratio().to_string(),
            of.implied_bandwidth.to_string(),
            of.implied_compute.to_string(),
            of.measurement.source.clone(),
        ]
    };
    Section {
        heading: "Published measurements".to_owned(),
        paragraphs: vec![
            "Predicted is the roofline at achievable peaks: a ratio above 1 would be faster \
             than anybody has been. Bandwidth and compute are what the time implies, as \
             shares of the data sheet."
                .to_owned(),
        ],
        columns: vec![
            "measurement",
            "machine",
            "regime",
            "measured_s",
            "predicted_s",
            "predicted_over_measured",
            "bandwidth_share",
            "compute_share",
            "source",
        ],
        rows: compared.iter().map(row).collect(),
        keys: 3,
        spare: &["compute_share", "bandwidth_share"],
    }
}

/// The ratios of all measurements of a regime.
fn regimes(compared: &[Compared]) -> Section {
    let mut regimes: Vec<&str> =
        compared.iter().map(|of| of.measurement.regime.as_str()).collect();
    regimes.sort_unstable();
    regimes.dedup();
    let row = |regime: &str| {
        let of_regime = compared.iter().filter(|of| of.measurement.regime == regime);
        let mut ratios: Vec<f64> = of_regime.map(Compared::ratio).collect();
        ratios.sort_by(f64::total_cmp);
        vec![
            regime.to_owned(),
            ratios.len().to_string(),
            ratios[0].to_string(),
            ratios[ratios.len() / 2].to_string(),
            ratios[ratios.len() - 1].to_string(),
        ]
    };
    Section {
        heading: "Predicted over measured, by regime".to_owned(),
        columns: vec![
            "regime",
            "measurements",
            "least_ratio",
            "median_ratio",
            "most_ratio",
        ],
        rows: regimes.into_iter().map(row).collect(),
        ..Section::default()
    }
}
