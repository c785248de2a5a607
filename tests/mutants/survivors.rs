//! The list of mutants that nobody could catch.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::Mutant;
use crate::operators::OPERATORS;

/// `survivors.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survivors {
    survivor: Vec<Survivor>,
}

/// Mutants that may survive, and why. Neither registers nor line numbers, so
/// that an entry outlives changes elsewhere. What is not given may be anything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survivor {
    kernels: Option<Vec<String>>,
    /// What was altered: names of operators.
    operators: Option<Vec<String>>,
    /// Parts of lines of CUDA, or of the lines that these are inlined into.
    source: Option<Vec<String>>,
    /// Parts of the instruction, as [`crate::ptx::normalised`] has it.
    instruction: Option<Vec<String>>,
    /// Parts of what was put in its place, in the same form.
    altered: Option<Vec<String>>,
    /// Whether any point comes by the statement.
    reached: Option<bool>,
    /// Why nobody could tell.
    pub reason: String,
}

impl Survivor {
    fn is_about(&self, kernel: &str, mutant: &Mutant, reached: bool) -> bool {
        let statement = &mutant.statement;
        let is_one = |names: &Option<Vec<String>>, name: &str| {
            names.as_ref().is_none_or(|names| names.iter().any(|one| one == name))
        };
        let within = |parts: &Option<Vec<String>>, text: &str| {
            parts
                .as_ref()
                .is_none_or(|parts| parts.iter().any(|part| text.contains(&**part)))
        };
        is_one(&self.kernels, kernel)
            && is_one(&self.operators, mutant.operator.name)
            && self.reached.is_none_or(|is| is == reached)
            && within(&self.source, &format!("{}\n{}", statement.source, statement.caller))
            && within(&self.instruction, &statement.normalised())
            && within(&self.altered, &crate::ptx::normalised(&mutant.text))
    }

    /// Whether all mutants that this may be about are always planted.
    fn is_planted(&self) -> bool {
        let always = |name: &String| OPERATORS.iter().any(|o| o.name == name && o.all);
        self.operators.as_ref().is_some_and(|names| names.iter().all(always))
    }
}

impl Survivors {
    /// The list beside this file.
    pub fn load() -> Self {
        toml::from_str(include_str!("survivors.toml")).unwrap()
    }

    /// The first entry about a mutant.
    pub fn entry_of(&self, kernel: &str, mutant: &Mutant, reached: bool) -> Option<usize> {
        self.survivor.iter().position(|entry| entry.is_about(kernel, mutant, reached))
    }

    /// The entries that are not in `used` though all that they are about was
    /// planted.
    pub fn stale<'a>(
        &'a self,
        used: &'a BTreeSet<usize>,
        all: bool,
    ) -> impl Iterator<Item = &'a Survivor> {
        let entries = self.survivor.iter().enumerate();
        entries
            .filter(move |(number, entry)| {
                !used.contains(number) && (all || entry.is_planted())
            })
            .map(|(_, entry)| entry)
    }
}

/// An entry for a mutant, to be pasted into the list with a reason, and what
/// else is known of it.
pub fn line(kernel: &str, mutant: &Mutant) -> String {
    let statement = &mutant.statement;
    format!(
        "kernels = [\"{kernel}\"]\noperators = [\"{}\"]\nsource = ['{}']\ninstruction = ['{}']\n\
         # altered: {}\n# inlined into: {}\n",
        mutant.operator.name,
        statement.source,
        statement.normalised(),
        crate::ptx::normalised(&mutant.text),
        statement.caller,
    )
}
