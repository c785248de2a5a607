//! `ridgepoint predict figures`: the paper's figures, from predictions.

use std::path::PathBuf;

use anyhow::Result;

use super::options::{FactFiles, Facts};
use crate::output;
use crate::plot::predicted;

/// Draw the paper's figures into a folder, each as SVG, PNG and CSV.
#[derive(Debug, clap::Args)]
pub struct FiguresArgs {
    /// The folder; it is made if there is none.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    facts: FactFiles,
}

pub fn run(args: &FiguresArgs) -> Result<()> {
    let Facts { models, machines, workloads } = args.facts.load()?;
    for path in predicted::write_all(&models, &machines, &workloads, &args.folder)? {
        output::print_line(&path.display().to_string())?;
    }
    Ok(())
}
