//! Claims as data: what is claimed, by whom, which rows can tell, and what their records must
//! show. A claim is a row of `claims.toml`, of a user's file of the same form, or a published
//! time. [`crate::verdict`] finds the value of each in a campaign.

mod published;
mod quantity;
mod relation;
mod row;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context, Result, bail};

pub use quantity::{Bound, Of, Over, QUANTITIES, Quantity, QuantityFacts, RowQuantity};
pub use relation::{Amount, Expected, Finding, NARROW, Relation, SheetKey, Tolerance};

use crate::model::table;
use crate::quantity::{number, si};
use crate::statistics::Estimate;
use crate::suite::Filter;
use row::ClaimRow;

/// Who states a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The table of the program.
    BuiltIn,
    /// The table of published measurements.
    Published,
    /// A file of the user's.
    User,
}

/// A claim.
#[derive(Clone, Debug)]
pub struct ClaimEntry {
    /// Short stable name.
    pub name: String,
    /// The claim in a sentence.
    pub statement: String,
    /// Who claims it, and where.
    pub source: String,
    /// Whose table it stands in.
    pub origin: Origin,
    /// The machine that it is about, a row of `machines.toml`; `None` for whatever machine
    /// the records are of.
    pub machine: Option<String>,
    /// The rows that can tell; `None` for all that the quantity is about.
    pub select: Option<Filter>,
    /// Whether rows of other libraries count too.
    pub include_peers: bool,
    /// What is measured.
    pub quantity: Quantity,
    /// What it is expected to be.
    pub relation: Relation,
    /// How far from that it may lie.
    pub tolerance: Tolerance,
}

impl ClaimEntry {
    /// The unit of its quantity.
    pub fn unit(&self) -> Unit {
        self.quantity.unit()
    }

    /// Whether records of a campaign decide it, and not a prediction.
    pub fn is_of_records(&self) -> bool {
        !matches!(self.quantity, Quantity::Prediction(_))
    }
}

/// What a value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Bytes per second.
    BytesPerS,
    /// FLOPs per second.
    FlopsPerS,
    /// FLOPs per byte.
    FlopsPerByte,
    /// Seconds.
    Seconds,
    /// A part of a whole.
    Share,
    /// One value over another of the same kind.
    Ratio,
}

impl Unit {
    /// The spelling used in CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Unit::Bytes => "bytes",
            Unit::BytesPerS => "bytes/s",
            Unit::FlopsPerS => "flops/s",
            Unit::FlopsPerByte => "flops/byte",
            Unit::Seconds => "s",
            Unit::Share => "share",
            Unit::Ratio => "ratio",
        }
    }

    /// The symbol that takes prefixes; none for shares and ratios.
    const fn symbol(self) -> Option<&'static str> {
        match self {
            Unit::Bytes => Some("B"),
            Unit::BytesPerS => Some("B/s"),
            Unit::FlopsPerS => Some("FLOP/s"),
            Unit::FlopsPerByte => Some("FLOP/B"),
            Unit::Seconds => Some("s"),
            Unit::Share | Unit::Ratio => None,
        }
    }

    /// A value as people read it: `4.8 TB/s`, `83%`, `1.02`.
    pub fn text(self, value: f64) -> String {
        match self.symbol() {
            Some(unit) => si(value, unit),
            None if self == Unit::Share => crate::quantity::share(value),
            None => number(value),
        }
    }

    /// A value with its interval as people read it.
    pub fn interval_text(self, e: Estimate) -> String {
        let ends = [e.value, e.lo, e.hi];
        match self.symbol() {
            Some(unit) => crate::quantity::interval(ends, unit),
            None => {
                let [value, lo, hi] = ends.map(|end| self.text(end));
                format!("{value} [{lo}, {hi}]")
            }
        }
    }
}

/// The table of the program and the published measurements.
static BUILT_IN: LazyLock<Result<Vec<ClaimEntry>, String>> = LazyLock::new(|| {
    let parsed =
        table::parse::<ClaimRow>("claims.toml", include_str!("claims/claims.toml"));
    let mut all = parsed.map_err(|error| error.to_string())?;
    all.extend(published::claims().map_err(|error| format!("{error:#}"))?);
    Ok(all)
});

/// The built-in claims: those of the table, then the published measurements.
///
/// # Errors
/// The tables do not parse, which a test rules out.
pub fn built_in() -> Result<&'static [ClaimEntry]> {
    match &*BUILT_IN {
        Ok(all) => Ok(all),
        Err(why) => bail!("{why}"),
    }
}

/// The claims of a user's file.
///
/// # Errors
/// It cannot be read or does not parse, with file, line, key and what to write; or a claim has
/// the name of a built-in one.
pub fn of_file(path: &Path) -> Result<Vec<ClaimEntry>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read claims {}", path.display()))?;
    parse(&path.display().to_string(), &text)
}

/// The same of a text; `file` is what messages call it.
///
/// # Errors
/// As [`of_file`].
pub fn parse(file: &str, text: &str) -> Result<Vec<ClaimEntry>> {
    let mut all = table::parse::<ClaimRow>(file, text)?;
    for claim in &mut all {
        claim.origin = Origin::User;
        if built_in()?.iter().any(|other| other.name == claim.name) {
            let is_it = |line: &str| line.contains(&format!("\"{}\"", claim.name));
            let line = text.lines().position(is_it).unwrap_or(0) + 1;
            bail!(
                "{file}:{line}: claim {} has the name of a built-in claim; give it another \
                 `name`",
                claim.name
            );
        }
    }
    Ok(all)
}
