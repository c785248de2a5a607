//! `ridgepoint results FOLDER`: campaigns in a line each, and texts that quote them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::options::{MachineFile, OutputFormat};
use super::table;
use crate::output;
use crate::record::write_atomically;
use crate::summary::{self, Judged};

/// List the campaigns in a folder, with device, suite, commit and what they say; or make the
/// tables of campaigns in Markdown files anew.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folders that `measure` wrote, or folders of such folders.
    #[arg(default_value = "results")]
    folders: Vec<PathBuf>,
    /// Markdown files whose blocks to make anew from records, in place of a list. A block
    /// begins with `<!-- results: list FOLDER -->` or `<!-- results: beside DIR DIR... -->`,
    /// with folders as seen from the file, and ends with `<!-- results end -->`.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "folders")]
    update: Vec<PathBuf>,
    #[command(flatten)]
    machines: MachineFile,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let machines = args.machines.load()?;
    if args.update.is_empty() {
        let mut campaigns = Vec::new();
        for folder in &args.folders {
            for path in summary::campaigns_in(folder)? {
                let link = path.display().to_string();
                campaigns.push(Judged::load(&path, &link, &machines)?);
            }
        }
        table::print(&[summary::list(&campaigns)], args.format)?;
        return Ok(ExitCode::SUCCESS);
    }
    for path in &args.update {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let home = path.parent().unwrap_or(Path::new(""));
        let made = summary::updated(&text, home, &machines)
            .with_context(|| path.display().to_string())?;
        if made != text {
            write_atomically(path, made.as_bytes())?;
            output::print_line(&path.display().to_string())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
