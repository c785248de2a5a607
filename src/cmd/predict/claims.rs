//! `ridgepoint predict claims`: what predictions say of the paper's claims.

use anyhow::Result;

use super::options::{FactFiles, Facts, Output};
use crate::claims::{self, Expected, Quantity};
use crate::cmd::table;
use crate::model::claims::{Claims, Predicted};
use crate::section::Section;
use crate::statistics::Estimate;

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
    let tested = Claims { models, machines, workloads };
    let mut rows = Vec::new();
    for claim in claims::built_in()? {
        let Quantity::Prediction(name) = &claim.quantity else { continue };
        let Predicted { right, of, evidence } = tested.predict(name)?;
        let share = Estimate::exact(right as f64 / of.max(1) as f64);
        let expected = Expected::of(claim.relation, claim.tolerance, None);
        let finding = expected.map_err(anyhow::Error::msg)?.judge(share);
        rows.push(vec![claim.statement.clone(), finding.name().to_owned(), evidence]);
    }
    Ok(Section {
        heading: "The paper's claims, by prediction".to_owned(),
        paragraphs: vec![
            "On H100 SXM, H200 and B200, at their data sheets' peaks, in bf16 but for claims 1 \
             and 7. OI in FLOPs per byte."
                .to_owned(),
        ],
        columns: vec!["claim", "finding", "evidence"],
        rows,
        ..Section::default()
    })
}
