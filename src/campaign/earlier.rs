//! A campaign that is resumed: what it was begun with, and whether a process may continue.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::analysis::contradictions::contradictions;
use crate::provenance::{MACHINE_COLUMNS, PROGRAM_COLUMNS, Provenance, differences};
use crate::record::{Records, Run, Unreadable};
use crate::suite::Suite;

/// A campaign on disk that is to be finished.
pub(super) struct Earlier {
    folder: PathBuf,
    suite: Suite,
    run: Run,
}

impl Earlier {
    pub fn read(folder: &Path) -> Result<Self> {
        let records = Records::read(folder)?;
        refuse_edited(folder, &contradictions(&records))?;
        let run = records.runs.into_iter().next();
        Ok(Earlier {
            folder: folder.to_owned(),
            suite: Suite::load_file(&folder.join("suite.toml"))?,
            run: run.with_context(|| {
                format!(
                    "{} has no row, so nobody knows what was measured, and on what; start a \
                     new campaign",
                    folder.join("run.csv").display()
                )
            })?,
        })
    }

    /// The suite and seed to continue with.
    pub fn continue_with(
        &self,
        asked: Option<&Suite>,
        seed: Option<u64>,
    ) -> Result<(Suite, u64)> {
        let folder = self.folder.display();
        if asked.is_some_and(|suite| suite.text != self.suite.text) {
            bail!(
                "{folder} was begun with another text of its suite; leave the suite out, or \
                 start a new campaign"
            );
        }
        let recorded = Provenance::of(&self.run, 2).0.seed;
        let recorded = recorded.with_context(|| format!("{folder}/run.csv has no seed"))?;
        if seed.is_some_and(|seed| seed != recorded) {
            bail!("{folder} was begun with seed {recorded}; leave --seed out");
        }
        Ok((self.suite.clone(), recorded))
    }

    /// Refuses to continue where rows would not belong together: on another machine, with
    /// another program, or by another plan. What either process does not say of itself is
    /// not held against it.
    pub fn agree(&self, run: &Run) -> Result<()> {
        let columns = [&PLAN_COLUMNS[..], &MACHINE_COLUMNS, &PROGRAM_COLUMNS].concat();
        let told: Vec<String> = differences(&self.run, run, &columns)
            .into_iter()
            .map(|d| format!("{} = `{}`, now it is `{}`", d.column, d.was, d.is))
            .collect();
        if told.is_empty() {
            return Ok(());
        }
        bail!(
            "{} was begun with {}; its rows would not belong together, so finish it as it \
             was begun, or start a new campaign",
            self.folder.display(),
            told.join("; with ")
        )
    }
}

/// Most rows that a refusal names.
const TOLD: usize = 5;

/// Refuses rows that are not what this program wrote: what is measured now would stand
/// beside them.
fn refuse_edited(folder: &Path, found: &[Unreadable]) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    let mut told: Vec<String> = found.iter().take(TOLD).map(ToString::to_string).collect();
    if found.len() > TOLD {
        told.push(format!("and {} more", found.len() - TOLD));
    }
    bail!(
        "{} was edited and cannot be continued: {}; restore the file, or start a new campaign",
        folder.display(),
        told.join("; ")
    )
}

/// Columns of `run.csv` that say what is measured, and how.
const PLAN_COLUMNS: [&str; 4] = ["schema_version", "protocol", "plan_hash", "tuning_hash"];
