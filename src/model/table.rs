//! Tables of facts: TOML files with rows under one key, of which a message can say the
//! file and the line.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use thiserror::Error;
use toml::Spanned;

use crate::op::unknown_key;

/// A mistake in a table, where it is and what to do.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{file}:{line}: {message}")]
pub struct TableError {
    /// File as the user named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong and what to write.
    pub message: String,
}

/// A row as it is written.
pub trait Raw: DeserializeOwned {
    /// The row as it is used.
    type Checked;

    /// Name of the table's key.
    const KEY: &'static str;

    /// The row, if it makes sense.
    ///
    /// # Errors
    /// What is inconsistent, and what to write.
    fn check(self) -> Result<Self::Checked, String>;
}

/// The rows of a file.
///
/// # Errors
/// What does not parse, is unknown or inconsistent, with its line.
pub fn parse<R: Raw>(file: &str, text: &str) -> Result<Vec<R::Checked>, TableError> {
    let error = |at: usize, message: String| TableError {
        file: file.to_owned(),
        line: text[..at.min(text.len())].matches('\n').count() + 1,
        message,
    };
    let tables: BTreeMap<String, Vec<Spanned<R>>> = toml::from_str(text).map_err(|e| {
        error(e.span().map_or(0, |span| span.start), e.message().to_owned())
    })?;
    let mut rows = Vec::new();
    for (key, table) in tables {
        for row in table {
            let at = row.span().start;
            if key != R::KEY {
                return Err(error(
                    at,
                    format!("`{key}` is no table here; use `{}`", R::KEY),
                ));
            }
            rows.push(row.into_inner().check().map_err(|message| error(at, message))?);
        }
    }
    Ok(rows)
}

/// The built-in rows, a file and its text, with a user's in front of them.
///
/// # Errors
/// As of [`parse`], and a file that cannot be read.
pub fn load<R: Raw>(
    (built_in, text): (&str, &str),
    user: Option<&Path>,
) -> Result<Vec<R::Checked>> {
    let mut rows = Vec::new();
    if let Some(path) = user {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        rows.extend(parse::<R>(&path.display().to_string(), &text)?);
    }
    rows.extend(parse::<R>(built_in, text)?);
    Ok(rows)
}

/// The first row with a name.
///
/// # Errors
/// There is none; the message has the nearest names.
pub fn named<'a, T>(
    rows: &'a [T],
    what: &str,
    name: &str,
    name_of: impl Fn(&T) -> &str,
) -> Result<&'a T> {
    if let Some(row) = rows.iter().find(|row| name_of(row) == name) {
        return Ok(row);
    }
    let mut names: Vec<&str> = rows.iter().map(&name_of).collect();
    names.dedup();
    let distance = |other: &str| strsim::damerau_levenshtein(other, name);
    let mut nearest: Vec<&str> =
        names.iter().copied().filter(|n| distance(n) <= n.len().max(4) / 2).collect();
    nearest.sort_by_key(|other| distance(other));
    nearest.truncate(3);
    match nearest.as_slice() {
        [] => bail!("{}", unknown_key(name, &format!("the list of {what}"), &names)),
        nearest => bail!("there is no {what} `{name}`; nearest are {}", nearest.join(", ")),
    }
}
