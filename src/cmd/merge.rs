//! `ridgepoint merge DIR...`: shards of one plan, or campaigns of several machines, in one.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::options::{INVALID, OutputFormat};
use super::table;
use crate::campaign::{MergeSummary, MergedShard, merge};
use crate::output::remark;
use crate::section::Section;

/// Merge shards of one plan, or campaigns of the same plan on several machines, into one
/// folder that `verdict` and `report` read. Exits with 3 where rows are missing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folders that `measure` wrote. Their names tell their rows apart, so name them by node.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// Folder to write; it must not exist.
    #[arg(long)]
    out: PathBuf,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let summary = merge(&args.folders, &args.out)?;
    table::print(&[section(&summary)], args.format)?;
    for missing in &summary.missing {
        remark!("missing: {}: {}", missing.point, missing.reason);
    }
    for shard in &summary.missing_shards {
        remark!("missing: shard {shard} of the plan was not among these folders");
    }
    remark!(
        "merged into {0}; `ridgepoint verdict {0}` ranks its nodes",
        summary.folder.display()
    );
    let is_complete = summary.is_complete();
    Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::from(INVALID) })
}

fn section(summary: &MergeSummary) -> Section {
    let row = |shard: &MergedShard| {
        let planned = shard.planned_rows;
        let is_complete = planned.is_none_or(|planned| shard.rows >= planned);
        vec![
            shard.node.clone(),
            shard.shard.map_or(String::new(), |shard| shard.to_string()),
            shard.rows.to_string(),
            planned.map_or(String::new(), |planned| planned.to_string()),
            if is_complete { "complete" } else { "cut short" }.to_owned(),
        ]
    };
    Section {
        heading: "Merged".to_owned(),
        columns: vec!["node", "shard", "rows", "planned_rows", "finding"],
        rows: summary.shards.iter().map(row).collect(),
        ..Section::default()
    }
}
