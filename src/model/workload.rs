//! What users and agents ask of a model: tokens of a turn, turns of a task. Users add
//! workloads in a file of the same form, `--workloads FILE`.

use std::path::Path;

use anyhow::Result;
use serde::Deserialize;

use super::table::{self, Raw};

/// A workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Short name.
    pub name: String,
    /// Tokens in the cache while a typical turn is decoded.
    pub context: u64,
    /// Tokens of an answer.
    pub output_tokens: u64,
    /// Tokens that a turn adds to the prompt.
    pub new_tokens: u64,
    /// Turns of a task.
    pub turns: u64,
    /// Tokens of the prompt of the first turn, and of the last.
    pub prompts: (u64, u64),
    /// Share of a task's prompt tokens that a prefix cache held, where it is known.
    pub cache_hit: Option<f64>,
    /// Where the numbers are published.
    pub source: String,
    /// Which of them are choices.
    pub note: String,
}

impl Workload {
    /// Tokens of the prompt of turn number `turn`, from 0, with those that the turn adds.
    /// Prompts grow linearly from the first turn to the last.
    pub const fn prompt(&self, turn: u64) -> u64 {
        let (first, last) = self.prompts;
        if self.turns < 2 { last } else { first + (last - first) * turn / (self.turns - 1) }
    }

    /// Tokens of the prompt of turn number `turn` that are computed: of a task's first turn
    /// all, of others those that the turn adds or, with `cache_hit`, those that the cache
    /// does not hold.
    pub fn computed(&self, turn: u64, cache_hit: Option<f64>) -> u64 {
        let prompt = self.prompt(turn);
        match cache_hit {
            _ if turn == 0 && self.turns > 1 => prompt,
            Some(hit) => (((1.0 - hit) * prompt as f64).ceil() as u64).clamp(1, prompt),
            None => self.new_tokens.min(prompt),
        }
    }
}

/// All workloads, the user's first.
///
/// # Errors
/// A table that cannot be read, does not parse, or has an inconsistent row.
pub fn load(user: Option<&Path>) -> Result<Vec<Workload>> {
    table::load::<WorkloadRow>(("workloads.toml", include_str!("workloads.toml")), user)
}

/// The workload with a name.
///
/// # Errors
/// No workload has this name; the message lists the nearest names.
pub fn named<'a>(workloads: &'a [Workload], name: &str) -> Result<&'a Workload> {
    table::named(workloads, "workload", name, |workload| &workload.name)
}

/// A workload as it is written in the table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkloadRow {
    name: String,
    context: u64,
    output_tokens: u64,
    new_tokens: u64,
    turns: Option<u64>,
    first_context: Option<u64>,
    final_context: Option<u64>,
    cache_hit: Option<f64>,
    source: String,
    #[serde(default)]
    note: String,
}

/// Largest number of tokens or turns in a row.
const MOST: u64 = 1 << 30;

impl Raw for WorkloadRow {
    type Checked = Workload;
    const KEY: &'static str = "workload";

    fn chosen_by(row: &Workload) -> Option<&str> {
        Some(&row.name)
    }

    fn check(self) -> Result<Workload, String> {
        let name = &self.name;
        let turns = self.turns.unwrap_or(1);
        let last = self.final_context.unwrap_or(self.context);
        // Not stated: shorter than the last prompt by what the turns add.
        let added = self.new_tokens.saturating_mul(turns.saturating_sub(1));
        let least = last.saturating_sub(added).max(self.new_tokens).min(last);
        let first = self.first_context.unwrap_or(if turns > 1 { least } else { last });
        let numbers = [
            ("context", self.context),
            ("output_tokens", self.output_tokens),
            ("new_tokens", self.new_tokens),
            ("turns", turns),
            ("first_context", first),
            ("final_context", last),
        ];
        for (key, number) in numbers {
            if number == 0 || number > MOST {
                return Err(format!(
                    "workload {name}: {key} = {number}; it must be from 1 to {MOST}"
                ));
            }
        }
        if first > last {
            return Err(format!(
                "workload {name}: contexts grow, and first_context = {first} is more than \
                 {last}"
            ));
        }
        if let Some(hit) = self.cache_hit.filter(|hit| !(0.0..=1.0).contains(hit)) {
            return Err(format!(
                "workload {name}: cache_hit = {hit}; it must be from 0 to 1"
            ));
        }
        Ok(Workload {
            context: self.context,
            output_tokens: self.output_tokens,
            new_tokens: self.new_tokens,
            turns,
            prompts: (first, last),
            cache_hit: self.cache_hit,
            source: self.source,
            note: self.note,
            name: self.name,
        })
    }
}
