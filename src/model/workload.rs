//! What people and agents ask of a model: tokens of a turn, turns of a task. Users add
//! rows of their own in a file of the same form, `--workloads FILE`.

use std::path::Path;

use anyhow::Result;
use serde::Deserialize;

use super::table::{self, Raw};

/// A workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Short name.
    pub name: String,
    /// Tokens cached while a typical turn is answered.
    pub context: u64,
    /// Tokens of an answer.
    pub output_tokens: u64,
    /// Tokens that a turn adds to the prompt.
    pub new_tokens: u64,
    /// Turns of a task.
    pub turns: u64,
    /// Tokens of the prompt of the first turn, and of the last.
    pub prompts: (u64, u64),
    /// Share of a task's prompt tokens that a prefix cache served, where it is known.
    pub cache_hit: Option<f64>,
    /// Where the figures stand.
    pub source: String,
    /// What of them is a choice.
    pub note: String,
}

impl Workload {
    /// Tokens of the prompt of turn number `turn`, the turn's own included: they grow
    /// evenly.
    pub const fn prompt(&self, turn: u64) -> u64 {
        let (first, last) = self.prompts;
        if self.turns < 2 { last } else { first + (last - first) * turn / (self.turns - 1) }
    }

    /// Tokens of the prompt of turn number `turn` that are computed: all of the first,
    /// and of others what a turn adds; or what a cache with another share of hits leaves.
    pub fn computed(&self, turn: u64, cache_hit: Option<f64>) -> u64 {
        let prompt = self.prompt(turn);
        match cache_hit {
            _ if turn == 0 && self.turns > 1 => prompt,
            Some(hit) => (((1.0 - hit) * prompt as f64).ceil() as u64).clamp(1, prompt),
            None => self.new_tokens.min(prompt),
        }
    }
}

/// All workloads that are known, the user's first.
///
/// # Errors
/// A table that cannot be read, does not parse, or has an inconsistent row.
pub fn load(user: Option<&Path>) -> Result<Vec<Workload>> {
    table::load::<WorkloadRow>(("workloads.toml", include_str!("workloads.toml")), user)
}

/// The workload with a name.
///
/// # Errors
/// There is none; the message has the nearest names.
pub fn named<'a>(workloads: &'a [Workload], name: &str) -> Result<&'a Workload> {
    table::named(workloads, "workload", name, |workload| &workload.name)
}

/// A row of the table.
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

/// Most tokens, and most turns, of a row.
const MOST: u64 = 1 << 30;

impl Raw for WorkloadRow {
    type Checked = Workload;
    const KEY: &'static str = "workload";

    fn check(self) -> Result<Workload, String> {
        let name = &self.name;
        let turns = self.turns.unwrap_or(1);
        let last = self.final_context.unwrap_or(self.context);
        // As much shorter than the last as the turns add, where nobody says.
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
                return Err(format!("workload {name}: {key} = {number}; from 1 to {MOST}"));
            }
        }
        if first > last {
            return Err(format!(
                "workload {name}: contexts grow, and first_context = {first} is more than \
                 {last}"
            ));
        }
        if let Some(hit) = self.cache_hit.filter(|hit| !(0.0..=1.0).contains(hit)) {
            return Err(format!("workload {name}: cache_hit = {hit}; from 0 to 1"));
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
