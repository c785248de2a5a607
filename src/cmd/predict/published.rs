//! `ridgepoint predict published`: predictions beside what was measured, by others and in
//! campaigns.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::options::Output;
use crate::analysis::{Campaign, Measured};
use crate::cmd::options::{MachineFile, OutputFormat};
use crate::cmd::table;
use crate::device::DeviceKind;
use crate::model::llm;
use crate::model::published::{self, Accuracy, Compared, Group, Measurement, Regime};
use crate::op::Purpose;
use crate::record::Status;
use crate::reference::CheckVerdict;
use crate::section::Section;

/// Compare predictions with measurements, published ones and those of campaigns: how far
/// they are off by machine, model and regime.
#[derive(Debug, clap::Args)]
pub struct PublishedArgs {
    /// Campaigns to compare with too: their folders, or a folder with all of them.
    #[arg(long, value_name = "DIR", value_delimiter = ',')]
    campaigns: Vec<PathBuf>,
    #[command(flatten)]
    machine_file: MachineFile,
    #[command(flatten)]
    output: Output,
}

pub fn run(args: &PublishedArgs) -> Result<()> {
    let machines = args.machine_file.load()?;
    let models = llm::load(None)?;
    let mut measurements = published::measurements()?;
    let listed = measurements.len();
    let mut of_campaigns = Vec::new();
    for path in &args.campaigns {
        for folder in campaign_folders(path)? {
            of_campaigns.extend(of_campaign(&Campaign::load(&folder, &machines)?));
        }
    }
    measurements.extend(fastest(of_campaigns));
    let compared = published::compare(&machines, &models, measurements)?;
    let mut sections = [measured(&compared), accuracy(&compared)];
    if args.output.format == OutputFormat::Table {
        shorten(&mut sections[0], listed);
    }
    table::print(&sections, args.output.format)
}

/// Leaves out of a table for people what fills screens: addresses, which are longer than
/// all other cells together, and the measurements of campaigns.
fn shorten(section: &mut Section, listed: usize) {
    section.columns.pop();
    section.rows.iter_mut().for_each(|row| drop(row.pop()));
    let of_campaigns = section.rows.len() - listed;
    section.rows.truncate(listed);
    let others = match of_campaigns {
        0 => String::new(),
        count => format!(", and the {count} measurements of campaigns"),
    };
    section.paragraphs.push(format!("--format csv has the source of each{others}."));
}

/// The folders of campaigns that a path names: itself, or those in it.
fn campaign_folders(path: &Path) -> Result<Vec<PathBuf>> {
    let is_campaign = |folder: &Path| folder.join("results.csv").is_file();
    if is_campaign(path) {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path)
        .with_context(|| format!("cannot read the campaigns in {}", path.display()))?;
    let mut folders = Vec::new();
    for entry in entries {
        let folder = entry
            .with_context(|| format!("cannot read the campaigns in {}", path.display()))?
            .path();
        if is_campaign(&folder) {
            folders.push(folder);
        }
    }
    if folders.is_empty() {
        bail!(
            "{} is no campaign and has none in it; name a folder with a results.csv",
            path.display()
        );
    }
    folders.sort();
    Ok(folders)
}

/// What a campaign measured of work from DRAM, on a machine of the table. Roofs themselves
/// are left out, and whatever was wrong, simulated or read from caches.
fn of_campaign(campaign: &Campaign) -> Vec<Measurement> {
    let Some(sheet) = &campaign.spec else { return Vec::new() };
    let folder = campaign.folder.display().to_string();
    let measurement = |point: &Measured| {
        let counts = point.judged_facts().purpose == Purpose::Work
            && point.device_kind == Some(DeviceKind::Measured)
            && point.status == Status::Ok
            && point.check != Some(CheckVerdict::Fail)
            && point.load.is_none()
            && point.is_from_dram();
        let time_s = point.time_s.filter(|_| counts)?.value;
        Some(Measurement {
            name: format!("{}-{}", point.problem.op().name(), point.point_id),
            machine: sheet.machine.clone(),
            problems: vec![point.problem],
            time_s,
            source: folder.clone(),
            note: format!("{} {}", point.kernel, point.implementation).trim().to_owned(),
        })
    };
    campaign.points.iter().filter_map(measurement).collect()
}

/// Of measurements of the same problems on the same machine only the shortest: what the
/// problem can be done in.
fn fastest(measurements: Vec<Measurement>) -> Vec<Measurement> {
    let mut fastest: BTreeMap<(String, String), Measurement> = BTreeMap::new();
    for measurement in measurements {
        let texts: Vec<String> =
            measurement.problems.iter().map(ToString::to_string).collect();
        let entry = fastest.entry((measurement.machine.clone(), texts.join("; ")));
        let kept = entry.or_insert_with(|| measurement.clone());
        if measurement.time_s < kept.time_s {
            *kept = measurement;
        }
    }
    fastest.into_values().collect()
}

/// Each measurement beside its prediction.
fn measured(compared: &[Compared]) -> Section {
    let row = |of: &Compared| {
        vec![
            of.measurement.name.clone(),
            of.measurement.machine.clone(),
            of.model.clone().unwrap_or_default(),
            of.regime.name().to_owned(),
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
             shares of the data sheet. The model is the first that has layers of this shape."
                .to_owned(),
        ],
        columns: vec![
            "measurement",
            "machine",
            "model",
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

/// How far predictions are off.
fn accuracy(compared: &[Compared]) -> Section {
    const ALL: &str = "all";
    let row = |(group, of): (Group, Accuracy)| {
        let model = group.model.map(|model| model.unwrap_or_else(|| "none".to_owned()));
        vec![
            group.machine.unwrap_or_else(|| ALL.to_owned()),
            model.unwrap_or_else(|| ALL.to_owned()),
            group.regime.map_or(ALL, Regime::name).to_owned(),
            of.count.to_string(),
            of.median_ratio.to_string(),
            of.median_error.to_string(),
            of.p90_error.to_string(),
            of.worst_error.to_string(),
            of.worst,
        ]
    };
    Section {
        heading: "Errors of predictions, by machine, model and regime".to_owned(),
        paragraphs: vec![
            "An error is the distance of predicted over measured time from 1: median, what 90% \
             do not exceed, and the worst with its measurement. \"none\" has shapes of no \
             model."
                .to_owned(),
        ],
        columns: vec![
            "machine",
            "model",
            "regime",
            "measurements",
            "median_ratio",
            "median_error_share",
            "p90_error_share",
            "worst_error_share",
            "worst_measurement",
        ],
        rows: Accuracy::by_group(compared).into_iter().map(row).collect(),
        keys: 3,
        ..Section::default()
    }
}
