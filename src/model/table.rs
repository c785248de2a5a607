//! Tables of facts: TOML files whose rows are under one key. Messages name the file and
//! the line.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use thiserror::Error;
use toml::Spanned;

use crate::op::unknown_key;

/// An error in a table: where it is and what to write.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{file}:{line}: {message}")]
pub struct TableError {
    /// The file, as the user named it.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong and what to write.
    pub message: String,
}

/// A row as it is written in the file.
pub trait Raw: DeserializeOwned {
    /// The row after its check.
    type Checked;

    /// The key that the rows are under.
    const KEY: &'static str;

    /// The short name by which options choose a row; `None` where they choose none.
    fn chosen_by(_: &Self::Checked) -> Option<&str> {
        None
    }

    /// Checks the row.
    ///
    /// # Errors
    /// The row is inconsistent; the message says what to write.
    fn check(self) -> Result<Self::Checked, String>;

    /// The key that says what another format calls `key`, if that is known.
    fn other_name(key: &str) -> Option<&'static str> {
        let _ = key;
        None
    }
}

/// The message of a row that does not parse. An unknown key has the nearest that is known
/// in place of all of them.
fn unparsed<R: Raw>(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field `") else {
        return message.to_owned();
    };
    let mut quoted = rest.split('`');
    let key = quoted.next().unwrap_or_default();
    if let Some(own) = R::other_name(key) {
        return format!("unknown field `{key}`; here it is `{own}`");
    }
    // What is in quotes after the key, between what is not.
    let known: Vec<&str> = quoted.skip(1).step_by(2).collect();
    let distance = |own: &&&str| strsim::damerau_levenshtein(own, key);
    match known
        .iter()
        .min_by_key(distance)
        .filter(|own| distance(own) <= key.len().max(3) / 2)
    {
        Some(own) => format!("unknown field `{key}`; did you mean `{own}`?"),
        None => message.to_owned(),
    }
}

/// A message about a value with the key that stands before it on its line, unless it names
/// the key itself.
fn with_key(text: &str, at: usize, message: String) -> String {
    let before = text.get(..at).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    let key = line.rsplit_once('=').map_or("", |(before, _)| before);
    let key = key.rsplit(['{', ',']).next().unwrap_or_default().trim();
    let is_key = !key.is_empty()
        && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    match is_key && !message.contains(&format!("`{key}`")) {
        true => format!("`{key}`: {message}"),
        false => message,
    }
}

/// The place of the first key that a message names, in the row that begins at `at`; the row's
/// own where it names none that the row has.
fn place_of_key(text: &str, at: usize, message: &str) -> usize {
    let row = text.get(at..).unwrap_or_default();
    let end = row.match_indices("\n[[").map(|(end, _)| end).next().unwrap_or(row.len());
    let lines = row[..end].split_inclusive('\n').scan(at, |next, line| {
        let start = *next;
        *next += line.len();
        Some((start, line.split('=').next().unwrap_or_default().trim()))
    });
    let lines: Vec<(usize, &str)> = lines.collect();
    // What is in quotes, between what is not.
    let mut named = message.split('`').skip(1).step_by(2);
    named
        .find_map(|key| lines.iter().find(|(_, of)| *of == key))
        .map_or(at, |(start, _)| *start)
}

/// Parses and checks the rows of a file.
///
/// # Errors
/// A row does not parse, has an unknown key or is inconsistent.
pub fn parse<R: Raw>(file: &str, text: &str) -> Result<Vec<R::Checked>, TableError> {
    let error = |at: usize, message: String| TableError {
        file: file.to_owned(),
        line: text[..at.min(text.len())].matches('\n').count() + 1,
        message,
    };
    let tables: BTreeMap<String, Vec<Spanned<R>>> = toml::from_str(text).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        error(at, with_key(text, at, unparsed::<R>(e.message())))
    })?;
    let mut rows: Vec<R::Checked> = Vec::new();
    for (key, table) in tables {
        for row in table {
            let at = row.span().start;
            if key != R::KEY {
                return Err(error(
                    at,
                    format!("`{key}` is not a table of this file; use `{}`", R::KEY),
                ));
            }
            let row = row
                .into_inner()
                .check()
                .map_err(|message| error(place_of_key(text, at, &message), message))?;
            if let Some(name) = R::chosen_by(&row) {
                check_name(R::KEY, name).map_err(|message| error(at, message))?;
                if rows.iter().any(|other| R::chosen_by(other) == Some(name)) {
                    let message = format!("{} {name} is there twice; rename one", R::KEY);
                    return Err(error(at, message));
                }
            }
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Refuses a name that no option can spell: lists are separated by commas.
fn check_name(what: &str, name: &str) -> Result<(), String> {
    let is_spelled = !name.is_empty()
        && name.trim() == name
        && !name.contains(|c: char| c == ',' || c.is_control());
    if is_spelled {
        return Ok(());
    }
    Err(format!(
        "{what} `{}` cannot be chosen by an option; give it a `name` without commas, control \
         characters and spaces at its ends",
        name.escape_debug()
    ))
}

/// The rows of the user's file, if there is one, and after them the built-in rows, which
/// are given as the name and the text of their file.
///
/// # Errors
/// As [`parse`], or the user's file cannot be read.
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
/// No row has this name; the message lists the nearest names.
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

#[cfg(test)]
mod tests {
    use crate::model::llm;
    use crate::model::machine::Machines;
    use crate::model::workload;

    /// Of every table that options choose rows of.
    #[test]
    fn a_name_that_no_option_can_spell_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        let machine = "[[machine]]\nname = NAME\ndevice = \"x\"\nbytes_per_s = 1e12\n\
                       flops_per_s = { f32 = 1e12 }\nsource = \"me\"\n";
        let workload = "[[workload]]\nname = NAME\ncontext = 8\noutput_tokens = 2\n\
                        new_tokens = 4\nsource = \"me\"\nnote = \"none\"\n";
        let built_in = include_str!("models.toml");
        let start = built_in.find("[[model]]").unwrap();
        let end = built_in[start + 1..].find("[[model]]").unwrap();
        let first = &built_in[start..start + end];
        let name = first.lines().find(|line| line.starts_with("name = ")).unwrap();
        let model = first.replacen(name, "name = NAME", 1);
        let load = |text: String| {
            std::fs::write(&path, &text).unwrap();
            if text.contains("[[machine]]") {
                Machines::load(Some(&path)).map(drop)
            } else if text.contains("[[model]]") {
                llm::load(Some(&path)).map(drop)
            } else {
                workload::load(Some(&path)).map(drop)
            }
        };
        for row in [machine, workload, &model] {
            let named = |name: &str| row.replacen("NAME", name, 1);
            load(named("\"a b-1.5\"")).unwrap();
            for wrong in ["\"a,b\"", "\"\"", "\" a\"", "\"a\\n\""] {
                let error = load(named(wrong)).unwrap_err().to_string();
                let is_told =
                    error.contains("mine.toml:") && error.contains("`name` without");
                assert!(is_told, "{wrong}: {error}");
            }
            let twice = named("\"a\"") + &named("\"a\"");
            let error = load(twice).unwrap_err().to_string();
            assert!(error.contains(" a is there twice"), "{error}");
        }
    }
}
