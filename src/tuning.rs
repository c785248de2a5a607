//! Tuning tables: which configuration of a kernel is the fastest on a device, by class of
//! shapes. `ridgepoint tune` writes them; `measure --tuning FILE` runs kernels as they say,
//! and those of the folder `tuning/` are part of the program.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::kernel::{
    Choose, Configuration, Configured, Kernel, Refusal, SearchSpace, split_name,
};
use crate::op::{Problem, ShapeClass};
use crate::toolchain::Arch;

include!(concat!(env!("OUT_DIR"), "/tuning_tables.rs"));

/// The file of a campaign's folder that has the table which its kernels ran by.
pub const USED_TUNING: &str = "used-tuning.toml";

/// Largest distance in steps of size at which a class's configuration is taken for another
/// size of the same shape: a factor of 16 in bytes and less.
const MOST_STEPS: u32 = 2;

/// What was found on one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuningTable {
    /// The name of the device, as records have it.
    pub device: String,
    /// The version of its driver; empty where there is none.
    #[serde(default)]
    pub driver: String,
    /// The commit of the program that measured.
    #[serde(default)]
    pub git_sha: String,
    /// When, in UTC.
    #[serde(default)]
    pub measured_utc: String,
    /// The classes of shapes of each kernel.
    #[serde(default)]
    pub tuned: Vec<TunedClass>,
}

/// The fastest configuration of a kernel for a class of shapes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunedClass {
    /// The kernel.
    pub kernel: String,
    /// Its code, as [`SearchSpace::source_hash`] has it.
    pub source_hash: String,
    /// The class, as [`ShapeClass`] spells it.
    #[serde(with = "class_text")]
    pub class: ShapeClass,
    /// The configuration to use: `default` where no other is faster beyond doubt.
    pub configuration: String,
    /// The problem that was measured.
    pub problem: String,
    /// How many configurations competed.
    pub candidates: usize,
    /// Seconds of the default.
    pub default_time_s: f64,
    /// Seconds of the fastest.
    pub time_s: f64,
    /// The default's time over that of the fastest other one, with its 95% interval, in
    /// rounds that did not choose it. Above 1 is faster.
    pub speedup: f64,
    /// Its lower end.
    pub speedup_lo: f64,
    /// Its upper end.
    pub speedup_hi: f64,
    /// The same ratio of the default to itself: what noise makes of no difference.
    pub aa_ratio: f64,
    /// Its lower end.
    pub aa_ratio_lo: f64,
    /// Its upper end.
    pub aa_ratio_hi: f64,
}

mod class_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::op::ShapeClass;

    pub fn serialize<S: Serializer>(class: &ShapeClass, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(class)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<ShapeClass, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A mistake in a tuning table, where it is and what is wrong.
#[derive(Debug, Error)]
#[error("{file}: {why}")]
pub struct TuningError {
    file: String,
    why: String,
}

impl TuningTable {
    /// Reads a table. `file` names it in errors.
    ///
    /// # Errors
    /// What is not TOML, an unknown or missing key, a class that cannot be read: with the
    /// line.
    pub fn parse(file: &str, text: &str) -> Result<Self, TuningError> {
        toml::from_str(text).map_err(|why: toml::de::Error| {
            let line = why.span().map(|span| 1 + text[..span.start].matches('\n').count());
            let line = line.map_or(String::new(), |line| format!("line {line}: "));
            let why = format!("{line}{}", why.message().replace('\n', " "));
            TuningError { file: file.to_owned(), why }
        })
    }

    /// Reads a table from a file.
    ///
    /// # Errors
    /// A file that cannot be read, and what [`TuningTable::parse`] refuses.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the tuning table {}", path.display()))?;
        Ok(TuningTable::parse(&path.display().to_string(), &text)?)
    }

    /// The table of a device that is part of the program, with its file's name.
    pub fn built_in(device: &str) -> Option<(&'static str, TuningTable)> {
        let mut tables = BUILT_IN.iter().map(|(name, text)| {
            let table = TuningTable::parse(name, text);
            (*name, table.unwrap_or_else(|why| panic!("a table of the program: {why}")))
        });
        tables.find(|(_, table)| table.device == device)
    }

    /// Its text.
    ///
    /// # Errors
    /// None: every value of a table can be written.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }
}

/// Who decided in which configuration a kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChosenBy {
    /// The kernel itself.
    Default,
    /// The point, which names one.
    Asked,
    /// A tuning table.
    Tuned,
}

impl ChosenBy {
    /// The spelling used in CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            ChosenBy::Default => "default",
            ChosenBy::Asked => "asked",
            ChosenBy::Tuned => "tuned",
        }
    }
}

/// The configuration in which a kernel runs a problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its name.
    pub configuration: String,
    /// Who decided.
    pub by: ChosenBy,
}

/// The configurations that a device runs its kernels in, where a point asks for none.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    chosen: HashMap<&'static str, Vec<(ShapeClass, &'static Configuration)>>,
}

impl Tuning {
    /// What a table says for the kernels that there are, and what it says of others: each
    /// kernel whose code is another than the one that was tuned, or that has no such
    /// configuration any more, is left as it is.
    pub fn new(
        table: &TuningTable,
        space: impl Fn(&str) -> Option<SearchSpace>,
    ) -> (Self, Vec<String>) {
        let mut tuning = Tuning::default();
        let mut notes: Vec<String> = Vec::new();
        for tuned in &table.tuned {
            let found = space(&tuned.kernel).ok_or("this device has no such kernel");
            let current =
                found.and_then(|space| match space.source_hash == tuned.source_hash {
                    true => Ok(space),
                    false => Err("its code has changed; tune it again"),
                });
            let chosen = current.and_then(|space| {
                let found = space.find(&tuned.configuration);
                let found = found.map_err(|_| "its configuration is not there any more")?;
                Ok((space.kernel, found))
            });
            match chosen {
                Ok((kernel, configuration)) => {
                    let classes = tuning.chosen.entry(kernel).or_default();
                    classes.push((tuned.class.clone(), configuration));
                }
                Err(why) => {
                    let note = format!("tuning of `{}` is left out: {why}", tuned.kernel);
                    if !notes.contains(&note) {
                        notes.push(note);
                    }
                }
            }
        }
        (tuning, notes)
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    /// The configuration for a problem: that of its class, or of the nearest size of the same
    /// shape up to a factor of 16 in bytes; `None` where the table has neither.
    pub fn choose(
        &self,
        kernel: &str,
        problem: &Problem,
    ) -> Option<&'static Configuration> {
        let classes = self.chosen.get(kernel)?;
        let class = ShapeClass::of(problem);
        let near = classes.iter().filter_map(|(of, configuration)| {
            let steps = class.steps_to(of).filter(|steps| *steps <= MOST_STEPS)?;
            // Of two as near the smaller, whose fixed costs are the harder test.
            Some(((steps, of.size_bytes), configuration))
        });
        near.min_by_key(|(distance, _)| *distance).map(|(_, configuration)| *configuration)
    }

    /// A CUDA kernel by its name in a point, configured for a problem on an architecture.
    ///
    /// # Errors
    /// As [`Kernel::asked_for`].
    pub fn configure(
        &self,
        name: &str,
        problem: &Problem,
        arch: Arch,
    ) -> Result<(Configured, Chosen), Refusal> {
        let tuned = |kernel: &'static Kernel, problem: &Problem| {
            let tuned = self.choose(kernel.name, problem)?;
            // One that suits its class may not suit every problem of it.
            kernel.configure_as(problem, arch, tuned).is_ok().then_some(tuned)
        };
        let choose: &Choose<'_> =
            &|kernel, problem| tuned(kernel, problem).unwrap_or(Configuration::DEFAULT);
        let configured = Kernel::asked_with(name, problem, arch, choose)?;
        let is_tuned = tuned(configured.kernel, problem).is_some()
            || configured.images().iter().any(|image| !image.configuration.is_default());
        let by = match split_name(name).1 {
            Some(_) => ChosenBy::Asked,
            None if is_tuned => ChosenBy::Tuned,
            None => ChosenBy::Default,
        };
        let configuration = configured.configuration_name();
        Ok((configured, Chosen { configuration, by }))
    }
}

#[cfg(test)]
mod tests;
