//! A suite's TOML: texts and numbers with the lines that they stand on.

use std::ops::Range;

use thiserror::Error;
use toml::Spanned;
use toml::de::DeValue;

use super::filter::FilterLine;
use super::shard::Shard;
use crate::measure::Settings;
use crate::op::{Op, parse_bytes, unknown_key};

/// Most rounds of a point.
const MAX_ROUNDS: usize = 100;

/// Largest number of samples or seconds: more than a day is a typing error.
pub(super) const MAX_SETTING: f64 = 1e5;

/// A mistake in a suite, where it is and what to do.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{file}:{line}: {message}")]
pub struct SuiteError {
    /// File as the user named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong and what to write.
    pub message: String,
}

/// One `[[points]]` table.
#[derive(Clone, Debug)]
pub(super) struct PointsTable {
    pub line: usize,
    pub op: Op,
    /// Whether the problems that its points are made of are points too.
    pub parts: bool,
    pub axes: Vec<KeyValues>,
}

/// One key of a table with its values and their lines.
#[derive(Clone, Debug)]
pub(super) struct KeyValues {
    pub key: String,
    pub values: Vec<(String, usize)>,
}

/// A suite's text, for turning positions into lines.
pub(super) struct SuiteSource<'a> {
    pub file: &'a str,
    pub text: &'a str,
}

pub(super) type TomlValue<'a> = Spanned<DeValue<'a>>;

impl SuiteSource<'_> {
    fn line(&self, span: Range<usize>) -> usize {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }

    pub fn error(&self, span: Range<usize>, message: impl Into<String>) -> SuiteError {
        SuiteError {
            file: self.file.to_owned(),
            line: self.line(span),
            message: message.into(),
        }
    }

    pub fn string(&self, value: &TomlValue<'_>) -> Result<String, SuiteError> {
        let text = value.get_ref().as_str();
        text.map(str::to_owned).ok_or_else(|| self.error(value.span(), "write a string"))
    }

    /// A name becomes part of a folder's name.
    pub fn name(&self, value: &TomlValue<'_>) -> Result<String, SuiteError> {
        let name = self.string(value)?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 40 || !name.chars().all(plain) {
            let message = format!(
                "name = `{name}`; write up to 40 lower-case letters, digits and dashes"
            );
            return Err(self.error(value.span(), message));
        }
        Ok(name)
    }

    pub fn filter(&self, value: &TomlValue<'_>) -> Result<FilterLine, SuiteError> {
        let filter = self.string(value)?.parse();
        let filter = filter.map_err(|why: String| self.error(value.span(), why))?;
        Ok(FilterLine { filter, line: self.line(value.span()) })
    }

    /// Which shard of a plan, and the line that says so.
    pub fn shard(&self, value: &TomlValue<'_>) -> Result<(Shard, usize), SuiteError> {
        let shard = self.string(value)?.parse();
        let shard = shard.map_err(|why: String| self.error(value.span(), why))?;
        Ok((shard, self.line(value.span())))
    }

    fn number(&self, value: &TomlValue<'_>, key: &str) -> Result<f64, SuiteError> {
        let text = match value.get_ref() {
            DeValue::Integer(n) if n.radix() == 10 => n.as_str().to_owned(),
            DeValue::Float(x) => x.as_str().to_owned(),
            _ => String::new(),
        };
        match text.replace('_', "").parse::<f64>() {
            Ok(x) if x > 0.0 && x <= MAX_SETTING => Ok(x),
            _ => {
                let message = format!(
                    "{key} must be a decimal number above 0 and up to {MAX_SETTING}"
                );
                Err(self.error(value.span(), message))
            }
        }
    }

    pub fn settings(&self, value: &TomlValue<'_>) -> Result<Settings, SuiteError> {
        let table = value
            .get_ref()
            .as_table()
            .ok_or_else(|| self.error(value.span(), "write `[protocol]`, a table"))?;
        let mut s = Settings::default();
        for (key, value) in table {
            let key_text = key.get_ref().as_ref();
            let number = || self.number(value, key_text);
            match key_text {
                "warmup_s" => s.warmup_s = number()?,
                "min_samples" => s.min_samples = number()? as usize,
                "min_sample_s" => s.min_sample_s = number()?,
                "max_sample_s" => s.max_sample_s = number()?,
                "half_width" => s.half_width = number()?,
                "max_launch_s" => s.max_launch_s = number()?,
                "sentinel_every" => s.sentinel_every = number()? as usize,
                "rounds" => s.rounds = number()? as usize,
                "halving_rounds" => s.halving_rounds = number()? as usize,
                "disturbed_share" => s.disturbed_share = number()?,
                "vendor" => {
                    s.vendor = value.get_ref().as_bool().ok_or_else(|| {
                        self.error(value.span(), "vendor must be true or false")
                    })?;
                }
                "memory_bytes" => {
                    let text = self.string(value)?;
                    s.memory_bytes = parse_bytes(&text).ok_or_else(|| {
                        self.error(
                            value.span(),
                            format!("`{text}` is not a size; write `3 GiB`"),
                        )
                    })?;
                }
                other => {
                    let message = unknown_key(other, "[protocol]", &Settings::KEYS);
                    return Err(self.error(key.span(), message));
                }
            }
        }
        if s.min_samples < 2
            || s.sentinel_every < 1
            || !(1..=MAX_ROUNDS).contains(&s.rounds)
            || s.max_sample_s < s.min_sample_s
            || s.halving_rounds >= s.rounds
        {
            let message = "[protocol] needs min_samples of 2 or more, sentinel_every of 1 or \
                           more, rounds of 1 to 100 and more than halving_rounds, and \
                           max_sample_s no less than min_sample_s";
            return Err(self.error(value.span(), message));
        }
        Ok(s)
    }

    pub fn entry(&self, value: &TomlValue<'_>) -> Result<PointsTable, SuiteError> {
        let table = value
            .get_ref()
            .as_table()
            .ok_or_else(|| self.error(value.span(), "write a table of keys"))?;
        let line = self.line(value.span());
        let op = table
            .iter()
            .find(|(key, _)| key.get_ref() == "op")
            .ok_or_else(|| self.error(value.span(), "this table needs an `op`"))?
            .1;
        let op_name = self.string(op)?;
        let op: Op = op_name.parse().map_err(|e: String| self.error(op.span(), e))?;
        let mut axes = Vec::new();
        let mut parts = false;
        for (key, value) in table {
            let key_text = key.get_ref().as_ref();
            if ["op", "about"].contains(&key_text) {
                continue;
            }
            if key_text == "parts" {
                parts = value.get_ref().as_bool().ok_or_else(|| {
                    self.error(value.span(), "parts must be true or false")
                })?;
                continue;
            }
            const OF_POINTS: [&str; 4] = ["cache", "kernel", "launch", "load"];
            if op.key(key_text).is_none() && !OF_POINTS.contains(&key_text) {
                let mut known: Vec<_> = op.keys().chain(["about", "parts"]).collect();
                known.extend(OF_POINTS);
                return Err(
                    self.error(key.span(), unknown_key(key_text, op.name(), &known))
                );
            }
            axes.push(KeyValues {
                key: key_text.to_owned(),
                values: self.axis(key_text, value)?,
            });
        }
        axes.sort_by_key(|axis| op.keys().position(|k| k == axis.key));
        Ok(PointsTable { line, op, parts, axes })
    }

    fn axis(
        &self,
        key: &str,
        value: &TomlValue<'_>,
    ) -> Result<Vec<(String, usize)>, SuiteError> {
        let one = |value: &TomlValue<'_>| {
            let line = self.line(value.span());
            match value.get_ref() {
                DeValue::String(text) => Ok((text.to_string(), line)),
                DeValue::Integer(n) if n.radix() == 10 => Ok((
                    n.as_str().replace('_', "").trim_start_matches('+').to_owned(),
                    line,
                )),
                DeValue::Boolean(b) => Ok((b.to_string(), line)),
                other => {
                    let message = format!(
                        "{key} is a {}; write a whole number, a string, true or false, or a \
                         list of them",
                        other.type_str()
                    );
                    Err(self.error(value.span(), message))
                }
            }
        };
        match value.get_ref() {
            DeValue::Array(values) if values.is_empty() => {
                Err(self
                    .error(value.span(), format!("{key} has an empty list; give a value")))
            }
            DeValue::Array(values) => values.iter().map(one).collect(),
            _ => Ok(vec![one(value)?]),
        }
    }
}
