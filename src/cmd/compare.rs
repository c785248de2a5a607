//! `ridgepoint compare A B`: two campaigns point by point, or own kernels beside peers.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::ValueEnum;

use super::options::{FilterArgs, MachineFile, OutputFormat};
use super::table;
use crate::analysis::{Campaign, Measured};
use crate::compare::{Change, Comparison, MatchBy, Rules};
use crate::model::machine::Machines;
use crate::output::{self, remark};
use crate::plot;
use crate::provenance::differences;
use crate::record::SCHEMA_VERSION;
use crate::section::Section;
use crate::verdict::judge;

/// Compare two campaigns point by point, or one campaign's kernels with its peers: which
/// times are the same, faster or slower, and which differences are too small to tell.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The first campaign, a folder that `measure` wrote: the times before.
    before: PathBuf,
    /// The second: the times after.
    #[arg(required_unless_present = "peers", conflicts_with = "peers")]
    after: Option<PathBuf>,
    /// Compare own kernels with the fastest of other libraries in one campaign.
    #[arg(long)]
    peers: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    rules: RuleArgs,
    /// What belongs together: the same point, or the same problem by the fastest kernel of
    /// each campaign.
    #[arg(long = "match", value_enum, default_value_t)]
    by: Match,
    /// How to print; markdown is for a pull request.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Draw the comparison into this file, .svg, .pdf or .png.
    #[arg(long, value_name = "FILE")]
    figure: Option<PathBuf>,
    /// End with exit code 4 where a row says so, for scripts.
    #[arg(long, value_enum, value_name = "FINDING")]
    fail_on: Option<FailOn>,
    #[command(flatten)]
    machines: MachineFile,
}

/// What comparisons are held to.
#[derive(Debug, clap::Args)]
pub struct RuleArgs {
    /// Relative difference within which two times are the same.
    #[arg(long, default_value_t = Rules::default().margin, value_parser = share_of_one)]
    margin: f64,
    /// Most false alarms: the share of tables without any difference that report one.
    #[arg(long, default_value_t = Rules::default().alpha, value_parser = share_of_one)]
    alpha: f64,
}

impl RuleArgs {
    pub fn rules(&self, by: MatchBy) -> Rules {
        Rules { margin: self.margin, alpha: self.alpha, by }
    }
}

fn share_of_one(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value < 1.0 => Ok(value),
        _ => Err("give a number between 0 and 1, such as 0.02".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Match {
    #[default]
    Point,
    Problem,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// Comma-separated values.
    Csv,
    /// One JSON document.
    Json,
    /// For a pull request.
    Markdown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// A row is slower, beyond noise.
    Slower,
    /// A row is slower, or it cannot be told whether it is.
    SlowerOrCannotTell,
}

/// Exit code where a row says what `--fail-on` names.
const FOUND: u8 = 4;

pub fn run(args: &Args) -> Result<ExitCode> {
    let machines = args.machines.load()?;
    let by = match args.by {
        Match::Point => MatchBy::Point,
        Match::Problem => MatchBy::Problem,
    };
    let rules = args.rules.rules(by);
    let is_wanted = |point: &Measured| is_wanted(&args.filter, point);
    let before = load(&args.before, &machines)?;
    let after = args.after.as_deref().map(|folder| load(folder, &machines)).transpose()?;
    let comparison = match &after {
        None => Comparison::of_peers(&before, &is_wanted, rules),
        Some(after) => {
            refuse_other_protocols(&[&before, after])?;
            Comparison::of(&before, after, &is_wanted, rules)
        }
    };
    if comparison.rows.is_empty() {
        bail!("{}", nothing_to_compare(args));
    }
    print(&comparison, args.format)?;
    if let Some(path) = &args.figure {
        plot::write_comparison(&comparison, path)?;
        remark!("figure: {}", path.display());
    }
    Ok(exit_code(&comparison, args.fail_on))
}

fn print(comparison: &Comparison<'_>, format: Format) -> Result<()> {
    let section = comparison.section();
    match format {
        Format::Table => {
            table::print(&[comparison.summary(), section], OutputFormat::Table)
        }
        Format::Csv => table::print(&[section], OutputFormat::Csv),
        Format::Json => table::print(&[section], OutputFormat::Json),
        Format::Markdown => output::print(&markdown(comparison, &section)),
    }
}

fn exit_code(comparison: &Comparison<'_>, fail_on: Option<FailOn>) -> ExitCode {
    let slower = comparison.count(Change::Slower);
    let unknown = comparison.count(Change::CannotTell);
    let found = match fail_on {
        None => 0,
        Some(FailOn::Slower) => slower,
        Some(FailOn::SlowerOrCannotTell) => slower + unknown,
    };
    if found == 0 { ExitCode::SUCCESS } else { ExitCode::from(FOUND) }
}

fn nothing_to_compare(args: &Args) -> String {
    let before = args.before.display();
    match &args.after {
        Some(after) => format!(
            "{before} and {} have no point with a time in both{}; `--match problem` compares \
             the fastest kernels of the same problems",
            after.display(),
            filtered(&args.filter)
        ),
        None => format!(
            "no problem of {before} has times of both an own kernel and another library's{}; \
             `ridgepoint peers {before}` measures these",
            filtered(&args.filter)
        ),
    }
}

fn filtered(filter: &FilterArgs) -> String {
    filter.filter.as_ref().map_or(String::new(), |filter| format!(" that meets `{filter}`"))
}

/// Whether a filter keeps a point.
pub fn is_wanted(filter: &FilterArgs, point: &Measured) -> bool {
    filter.filter.as_ref().is_none_or(|filter| filter.matches(&point.point()))
}

fn load(folder: &Path, machines: &Machines) -> Result<Campaign> {
    let campaign = Campaign::load(folder, machines)?;
    tell_faults(&campaign)?;
    Ok(campaign)
}

/// Says what of a campaign is not sound: rows that cannot be read are left out, and what
/// makes the whole of it invalid is told.
///
/// # Errors
/// Records of a later version.
pub fn tell_faults(campaign: &Campaign) -> Result<()> {
    refuse_later_versions(campaign)?;
    for fault in &judge(campaign).faults {
        remark!("invalid: {}: {fault}", campaign.folder.display());
    }
    Ok(())
}

/// Columns of a later version may mean what this one does not know.
fn refuse_later_versions(campaign: &Campaign) -> Result<()> {
    for (line, run) in (2..).zip(&campaign.runs) {
        let version = run.get("schema_version").unwrap_or_default();
        if version.parse::<u32>().is_ok_and(|version| version > SCHEMA_VERSION) {
            bail!(
                "{} line {line}, column schema_version: `{version}`: this program reads \
                 versions up to {SCHEMA_VERSION}; use the program that wrote it, or a later one",
                campaign.folder.join("run.csv").display()
            );
        }
    }
    Ok(())
}

/// Times that were measured by other rules are not compared.
fn refuse_other_protocols(campaigns: &[&Campaign]) -> Result<()> {
    let first_run = |campaign: &&Campaign| campaign.runs.first().cloned();
    let runs: Vec<_> = campaigns.iter().filter_map(first_run).collect();
    for (campaign, run) in campaigns.iter().zip(&runs) {
        if let Some(difference) = differences(&runs[0], run, &["protocol"]).first() {
            bail!(
                "{} was measured under protocol {} and {} under {}: their times are taken by \
                 other rules and are not compared; measure both with one version",
                campaigns[0].folder.display(),
                difference.was,
                campaign.folder.display(),
                difference.is
            );
        }
    }
    Ok(())
}

/// The comparison for a pull request: counts, what changed, and everything folded away.
fn markdown(comparison: &Comparison<'_>, section: &Section) -> String {
    let mut changed = section.clone();
    let tells = |change: Change| matches!(change, Change::Slower | Change::Faster);
    let mut rows = comparison.rows.iter();
    changed.rows.retain(|_| rows.next().is_some_and(|row| tells(row.change)));
    let mut text = format!("### {}\n\n{}\n", section.heading, comparison.sentence());
    if !changed.rows.is_empty() {
        text.push_str(&format!("\n{}", table::markdown(&changed)));
    }
    text.push_str("\n<details>\n<summary>All points</summary>\n\n");
    for note in &section.paragraphs {
        text.push_str(&format!("{}\n\n", table::markdown_text(note)));
    }
    text.push_str(&table::markdown(section));
    text.push_str("\n</details>\n");
    text
}
