//! `ridgepoint predict claims`: what predictions say of the paper's claims.

use anyhow::Result;

use super::options::{FactFiles, Facts, Output};
use crate::cmd::table;
use crate::model::claims::Claims;
use crate::section::Section;

/// Test the paper's claims by prediction: where they hold, and by how much.
#[derive(Debug, clap::Args)]
pub struct ClaimsArgs {
    #[command(flatten)]
    facts: FactFiles,
    #[command(flatten)]
    output: Output,
}

pub fn run(args: &ClaimsArgs) -> Result<()> {
    table::print(&[section(&args.facts.load()?)?], args.output.format)
}

fn section(facts: &Facts) -> Result<Section> {
    let Facts { models, machines, workloads } = facts;
    let found = Claims { models, machines, workloads }.all()?;
    Ok(Section {
        heading: "The paper's claims, by prediction".to_owned(),
        paragraphs: vec![
            "On H100 SXM, H200 and B200, at their data sheets' peaks, in bf16 but for claims 1 \
             and 7. OI in FLOPs per byte."
                .to_owned(),
        ],
        columns: vec!["claim", "finding", "evidence"],
        rows: found
            .into_iter()
            .map(|of| vec![of.claim.to_owned(), of.finding.to_owned(), of.evidence])
            .collect(),
        ..Section::default()
    })
}
