//! `ridgepoint history DIR...`: campaigns of one device through time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::compare::{self, RuleArgs};
use super::options::{FilterArgs, MachineFile, OutputFormat};
use super::table;
use crate::analysis::{Campaign, Measured};
use crate::compare::{History, MatchBy};
use crate::model::machine::Machines;
use crate::summary;

/// Show the times of points through campaigns of one device, with the commit of each, and
/// which changes are beyond noise.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folders that `measure` wrote, or folders of such folders.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// Only campaigns of this device, where there are several: a part of its name.
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    rules: RuleArgs,
    #[command(flatten)]
    machines: MachineFile,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let campaigns = of_one_device(args, &args.machines.load()?)?;
    let is_wanted = |point: &Measured| compare::is_wanted(&args.filter, point);
    let rules = args.rules.rules(MatchBy::Point);
    let history = History::of(campaigns.iter(), &is_wanted, rules);
    if history.rows.is_empty() {
        bail!("no point of these campaigns has a time; a campaign's verdict says why");
    }
    let is_for_people = args.format == OutputFormat::Table;
    table::print(&history.sections(is_for_people), args.format)?;
    Ok(ExitCode::SUCCESS)
}

/// The campaigns, read, all of one device.
fn of_one_device(args: &Args, machines: &Machines) -> Result<Vec<Campaign>> {
    let mut folders = Vec::new();
    for folder in &args.folders {
        folders.extend(summary::campaigns_in(folder)?);
    }
    let mut by_device: BTreeMap<String, Vec<Campaign>> = BTreeMap::new();
    for folder in folders {
        let campaign = Campaign::load(&folder, machines)?;
        let device = campaign.device.clone().unwrap_or("an unknown device".to_owned());
        let is_asked =
            args.device.as_ref().is_none_or(|name| device.contains(name.as_str()));
        if is_asked {
            compare::tell_faults(&campaign)?;
            by_device.entry(device).or_default().push(campaign);
        }
    }
    let names: Vec<&str> = by_device.keys().map(String::as_str).collect();
    match names.as_slice() {
        [] => bail!("there is no campaign of such a device in these folders"),
        [_] => Ok(by_device.into_values().flatten().collect()),
        several => bail!(
            "these are campaigns of {} devices: {}; name one with --device, or compare two \
             with `ridgepoint compare`",
            several.len(),
            several.join(", ")
        ),
    }
}
