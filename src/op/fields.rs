//! How problems are written as text: keys, their defaults, and the reader that turns
//! `key = value` fields into typed values.

use std::str::FromStr;

use thiserror::Error;

use crate::format::DType;
use crate::quant::{Quant, QuantPlace};

/// Largest extent of one dimension.
pub const MAX_EXTENT: u64 = 1 << 40;

/// Why a problem cannot be asked.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{message}")]
pub struct ProblemError {
    /// The key to change, where there is one.
    pub key: Option<String>,
    /// What is wrong and what to write.
    pub message: String,
    /// Whether it is kernels that cannot take it, and what it asks for can be counted.
    pub is_countable: bool,
}

impl ProblemError {
    /// An error that a change of `key` mends.
    pub fn at(key: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        ProblemError { key: Some(key.to_owned()), message, is_countable: false }
    }

    /// An error of the problem as a whole.
    pub fn whole(message: impl Into<String>) -> Self {
        ProblemError { key: None, message: message.into(), is_countable: false }
    }

    /// The same of what can be counted and not run.
    pub(super) fn but_countable(self) -> Self {
        ProblemError { is_countable: true, ..self }
    }
}

/// What a key means where it is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyDefault {
    /// It must be written.
    None,
    /// This value.
    Value(&'static str),
    /// The value of another key.
    SameAs(&'static str),
}

/// How a label for people shows a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStyle {
    /// `key=value`.
    Named,
    /// The value alone says it: `bf16`, `paged16`.
    Bare,
    /// A number of bytes, in MiB.
    Bytes,
}

/// A key of an operation's problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// The spelling used in suites and ids, and after `shape_` in CSV columns.
    pub name: &'static str,
    /// What it means where it is left out.
    pub default: KeyDefault,
    /// Whether a problem's text has the key at its default too. Keys that came later than
    /// the first campaigns are left out, so that a point keeps its id.
    pub spells_default: bool,
    /// Whether a label has the key at its default too.
    pub labels_default: bool,
    /// How a label shows it.
    pub style: KeyStyle,
}

impl KeySpec {
    /// A key that must be written.
    pub const fn new(name: &'static str) -> Self {
        KeySpec {
            name,
            default: KeyDefault::None,
            spells_default: true,
            labels_default: false,
            style: KeyStyle::Named,
        }
    }

    /// A key whose value needs no name in a label.
    pub const fn bare(name: &'static str) -> Self {
        KeySpec { style: KeyStyle::Bare, ..KeySpec::new(name) }
    }

    /// A key for a number of bytes.
    pub const fn bytes(name: &'static str) -> Self {
        KeySpec { style: KeyStyle::Bytes, ..KeySpec::new(name) }
    }

    /// The same key with a default value, which a problem's text has nevertheless.
    pub const fn or(self, value: &'static str) -> Self {
        KeySpec { default: KeyDefault::Value(value), ..self }
    }

    /// The same key, by default as another one, which a problem's text has nevertheless.
    pub const fn or_as(self, other: &'static str) -> Self {
        KeySpec { default: KeyDefault::SameAs(other), ..self }
    }

    /// The same key, which a problem's text leaves out at its default.
    pub const fn silent(self) -> Self {
        KeySpec { spells_default: false, ..self }
    }

    /// The same key, which labels have at its default too.
    pub const fn always_labelled(self) -> Self {
        KeySpec { labels_default: true, ..self }
    }

    /// Whether `value` is the default, among the values of all keys.
    pub(super) fn is_default(&self, value: &str, all: &[(KeySpec, String)]) -> bool {
        match self.default {
            KeyDefault::None => false,
            KeyDefault::Value(default) => value == default,
            KeyDefault::SameAs(other) => {
                all.iter().any(|(key, same)| key.name == other && same == value)
            }
        }
    }
}

/// Takes typed values out of `key = value` fields.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    /// Name and keys of the operation.
    op: (&'static str, &'static [KeySpec]),
    fields: &'a [(String, String)],
}

impl<'a> Fields<'a> {
    /// The fields of a problem of an operation with this name and these keys.
    ///
    /// # Errors
    /// A key that the operation does not have, or that is given twice.
    pub fn new(
        (name, keys): (&'static str, &'static [KeySpec]),
        fields: &'a [(String, String)],
    ) -> Result<Self, ProblemError> {
        for (i, (key, _)) in fields.iter().enumerate() {
            if !keys.iter().any(|known| known.name == key) {
                let known: Vec<_> = keys.iter().map(|key| key.name).collect();
                return Err(ProblemError::at(key, unknown_key(key, name, &known)));
            }
            if fields[..i].iter().any(|(earlier, _)| earlier == key) {
                return Err(ProblemError::at(key, format!("`{key}` is given twice")));
            }
        }
        Ok(Fields { op: (name, keys), fields })
    }

    fn given(&self, key: &str) -> Option<&'a str> {
        self.fields.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The text of a key's value, or of its default.
    fn text(&self, key: &str) -> Result<&'a str, ProblemError> {
        if let Some(text) = self.given(key) {
            return Ok(text);
        }
        let known = self.op.1.iter().find(|known| known.name == key);
        match known.map(|key| key.default) {
            Some(KeyDefault::Value(value)) => Ok(value),
            Some(KeyDefault::SameAs(other)) => self.text(other),
            Some(KeyDefault::None) | None => Err(ProblemError::whole(format!(
                "{} needs `{key}`; its keys are {}",
                self.op.0,
                self.op.1.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    /// A value with a spelling of its own.
    ///
    /// # Errors
    /// A missing key, a text that is not such a value.
    pub fn parse<T: FromStr<Err = String>>(&self, key: &str) -> Result<T, ProblemError> {
        self.text(key)?.parse().map_err(|e: String| ProblemError::at(key, e))
    }

    /// The quantization scheme of weights, activations or a cache.
    ///
    /// # Errors
    /// A missing key, a text that is not a scheme of this place.
    pub fn quant(&self, key: &str, place: QuantPlace) -> Result<Quant, ProblemError> {
        Quant::parse(self.text(key)?, place).map_err(|e| ProblemError::at(key, e))
    }

    /// The format of activations (`dtype`).
    ///
    /// # Errors
    /// As of [`Fields::math_dtype`]; a format that only peaks and products have.
    pub fn dtype(&self, key: &str) -> Result<DType, ProblemError> {
        match self.math_dtype(key)? {
            dtype @ (DType::Tf32 | DType::Fp8E5m2 | DType::F64) => {
                let of = if dtype == DType::Tf32 { "peak and gemm" } else { "peak" };
                Err(ProblemError::at(
                    key,
                    format!(
                        "{dtype} is a format of {of}; {} has f32, bf16, f16 and formats of \
                         8 bits",
                        self.op.0
                    ),
                ))
            }
            dtype => Ok(dtype),
        }
    }

    /// The format that is multiplied and added.
    ///
    /// # Errors
    /// As of [`Fields::parse`]; a format that only weights have.
    pub fn math_dtype(&self, key: &str) -> Result<DType, ProblemError> {
        match self.parse(key)? {
            DType::Int4 => Err(ProblemError::at(
                key,
                "int4 is a format of weights; write it as `w_dtype` of gemm or moe_gemm",
            )),
            DType::Fp4E2m1 => Err(ProblemError::at(
                key,
                "fp4_e2m1 is the format of elements of mxfp4 and nvfp4; write one of these as \
                 `w_dtype` of gemm or moe_gemm, or as `a_dtype` of gemm",
            )),
            dtype => Ok(dtype),
        }
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// A missing key, another text.
    pub fn flag(&self, key: &str) -> Result<bool, ProblemError> {
        let text = self.text(key)?;
        text.parse().map_err(|_| {
            ProblemError::at(key, format!("{key} = `{text}` is neither `true` nor `false`"))
        })
    }

    /// A whole number from 0 to [`MAX_EXTENT`].
    ///
    /// # Errors
    /// A missing key, a text that is not such a number.
    pub fn count(&self, key: &str) -> Result<u64, ProblemError> {
        match self.text(key)? {
            "0" => Ok(0),
            _ => self.extent(key),
        }
    }

    /// A whole number from 1 to [`MAX_EXTENT`].
    ///
    /// # Errors
    /// A missing key, a text that is not such a number.
    pub fn extent(&self, key: &str) -> Result<u64, ProblemError> {
        let text = self.text(key)?;
        let n = text.parse().map_err(|_| {
            ProblemError::at(
                key,
                format!("{key} = `{text}` is not a whole number of 0 or more"),
            )
        })?;
        check_extent(key, n)?;
        Ok(n)
    }

    /// A number of bytes, with or without a unit.
    ///
    /// # Errors
    /// A missing key, a text that is not a size.
    pub fn size(&self, key: &str) -> Result<u64, ProblemError> {
        let text = self.text(key)?;
        let bytes = parse_bytes(text).ok_or_else(|| {
            ProblemError::at(
                key,
                format!("{key} = `{text}` is not a size; write `4 MiB` or 4194304"),
            )
        })?;
        check_extent(key, bytes)?;
        Ok(bytes)
    }
}

/// Refuses 0 and what is beyond [`MAX_EXTENT`].
///
/// # Errors
/// Such a number, with the key and what to do.
pub fn check_extent(key: &str, n: u64) -> Result<(), ProblemError> {
    if n == 0 {
        return Err(ProblemError::at(key, format!("{key} = 0; it must be at least 1")));
    }
    if n > MAX_EXTENT {
        let limit = MAX_EXTENT;
        return Err(ProblemError::at(
            key,
            format!("{key} = {n} is more than the limit of {limit}; make it smaller"),
        ));
    }
    Ok(())
}

/// Sentence for a key that nobody knows, with the nearest that somebody does.
pub fn unknown_key(key: &str, place: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(k, key), k))
        .min()
        .filter(|(distance, k)| *distance <= k.len().max(3) / 2);
    match nearest {
        Some((_, k)) => format!("{place} has no key `{key}`; did you mean `{k}`?"),
        None => format!("{place} has no key `{key}`; its keys are {}", known.join(", ")),
    }
}

/// Reads `4 MiB`, `4MiB`, `1 GiB`, `512 KiB`, `64 B` or a plain number of
/// bytes. Powers of 1024 only, so that nobody has to guess.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}
