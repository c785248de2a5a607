//! The list of mutants that nobody could catch.

use serde::Deserialize;

use crate::Mutant;

/// `survivors.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survivors {
    #[serde(default)]
    survivor: Vec<Survivor>,
}

/// Mutants that survive, and why. Neither registers nor line numbers, so that an
/// entry outlives changes elsewhere.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survivor {
    pub kernel: String,
    /// What was altered: the name of an operator.
    operator: String,
    /// The line of CUDA.
    pub source: String,
    /// The line that it is inlined into, where there are several.
    pub caller: Option<String>,
    /// Part of the instruction, as [`crate::ptx::normalised`] has it.
    instruction: Option<String>,
    /// Part of what was put in its place, in the same form.
    altered: Option<String>,
    /// How many there are in the standing test.
    pub mutants: usize,
    /// Why nobody could tell.
    #[expect(dead_code, reason = "for those who read the list, and its debug form")]
    reason: String,
}

impl Survivor {
    fn is_about(&self, kernel: &str, mutant: &Mutant) -> bool {
        let statement = &mutant.statement;
        let part = |of: &Option<String>, text: &str| {
            of.as_ref().is_none_or(|part| text.contains(&**part))
        };
        self.kernel == kernel
            && self.operator == mutant.operator.name
            && self.source == statement.source
            && self.caller.as_ref().is_none_or(|caller| *caller == statement.caller)
            && part(&self.instruction, &statement.normalised())
            && part(&self.altered, &crate::ptx::normalised(&mutant.text))
    }
}

impl Survivors {
    /// The list beside this file.
    pub fn load() -> Self {
        toml::from_str(include_str!("survivors.toml")).unwrap()
    }

    /// The first entry about a mutant.
    pub fn entry_of(&self, kernel: &str, mutant: &Mutant) -> Option<usize> {
        self.survivor.iter().position(|entry| entry.is_about(kernel, mutant))
    }

    /// All of them, numbered.
    pub fn entries(&self) -> impl Iterator<Item = (usize, &Survivor)> {
        self.survivor.iter().enumerate()
    }
}

/// An entry for a mutant, to be pasted into the list with a reason.
pub fn line(kernel: &str, mutant: &Mutant) -> String {
    let statement = &mutant.statement;
    format!(
        "# line {} of the PTX of specimen {}\n[[survivor]]\nkernel = \"{kernel}\"\noperator = \"{}\"\nsource = '{}'\n\
         caller = '{}'\ninstruction = '{}'\naltered = '{}'\n",
        statement.line + 1,
        mutant.specimen,
        mutant.operator.name,
        statement.source,
        statement.caller,
        statement.normalised(),
        crate::ptx::normalised(&mutant.text),
    )
}
