//! Claims as data: what is claimed, by whom, which rows can tell, and what their records must
//! show. A claim is a row of `claims.toml`, of a user's file of the same form, or a published
//! time. [`crate::verdict`] finds the value of each in a campaign.

mod entry;
mod published;
mod quantity;
mod relation;
mod row;
#[cfg(test)]
mod tests;
mod unit;

use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context, Result, bail};

pub use entry::{ClaimEntry, Origin};
pub use quantity::{Bound, Of, Over, QUANTITIES, Quantity, QuantityFacts, RowQuantity};
pub use relation::{Amount, Expected, Finding, NARROW, Relation, SheetKey, Tolerance};

pub use unit::Unit;

use crate::model::table;
use row::ClaimRow;

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
