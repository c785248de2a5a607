//! A campaign that is resumed: what it was begun with, and whether a process may continue.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::provenance::Provenance;
use crate::record::{Records, Run};
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
        let run = records.runs.into_iter().next();
        Ok(Earlier {
            folder: folder.to_owned(),
            suite: Suite::load_file(&folder.join("suite.toml"))?,
            run: run.with_context(|| format!("{} has no run", folder.display()))?,
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

    /// Refuses to continue where rows would not belong together.
    pub fn agree(&self, run: &Run) -> Result<()> {
        for name in ["schema_version", "protocol", "device", "caches", "plan_hash"] {
            let value = |run: &Run| run.get(name).unwrap_or_default().to_owned();
            let (was, is) = (value(&self.run), value(run));
            if was != is {
                bail!(
                    "{} was begun with {name} = `{was}`, now it is `{is}`; its rows would not \
                     belong together, so start a new campaign",
                    self.folder.display()
                );
            }
        }
        Ok(())
    }
}
