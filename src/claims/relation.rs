//! What a value is expected to be, and what an interval says of that.

use std::str::FromStr;

use crate::format::{DType, text_of_name};
use crate::model::machine::DataSheet;
use crate::op::unknown_key;
use crate::resource::{Link, LinkDirection};
use crate::statistics::Estimate;

/// What records say of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The records show what is claimed.
    Reproduced,
    /// They show it but for what the claim tolerates.
    WithinTolerance,
    /// They show something else.
    Contradicted,
    /// They do not say: nothing was measured that could tell, or too little of what was
    /// planned, or its intervals are too wide.
    NotTested,
}

impl Finding {
    /// All, the best first.
    pub const ALL: [Finding; 4] = [
        Finding::Reproduced,
        Finding::WithinTolerance,
        Finding::Contradicted,
        Finding::NotTested,
    ];

    /// The spelling used in tables and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Finding::Reproduced => "reproduced",
            Finding::WithinTolerance => "within tolerance",
            Finding::Contradicted => "contradicted",
            Finding::NotTested => "not tested",
        }
    }
}

/// How close to an expected value counts as that value, as a share of it, where a whole
/// interval is so close: of values without an interval nothing else could be exact.
pub const NARROW: f64 = 0.01;

/// What the data sheet of the machine at hand may be asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SheetKey {
    /// Bandwidth of the memory, bytes per second.
    DramBandwidth,
    /// Capacity of the last-level cache, bytes.
    L2Bytes,
    /// Dense FLOPs per second in a format.
    Compute(DType),
    /// FLOPs per byte at which the two are equal.
    Ridge(DType),
    /// Bytes per second of a link, one way.
    Link(Link),
}

impl SheetKey {
    /// What it is of a data sheet; `None` where the sheet does not state it.
    pub fn of(self, sheet: &DataSheet) -> Option<f64> {
        let peaks = &sheet.peaks;
        match self {
            SheetKey::DramBandwidth => Some(peaks.bandwidth.read.plateau().bytes_per_s),
            SheetKey::L2Bytes => sheet.l2_bytes,
            SheetKey::Compute(dtype) => peaks.flops_per_s(dtype),
            SheetKey::Ridge(dtype) => peaks.ridge(dtype),
            SheetKey::Link(link) => peaks.link_bytes_per_s(link, LinkDirection::In),
        }
    }
}

impl std::fmt::Display for SheetKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SheetKey::DramBandwidth => f.write_str("sheet.dram_bandwidth"),
            SheetKey::L2Bytes => f.write_str("sheet.l2_bytes"),
            SheetKey::Compute(dtype) => write!(f, "sheet.compute.{dtype}"),
            SheetKey::Ridge(dtype) => write!(f, "sheet.ridge.{dtype}"),
            SheetKey::Link(link) => write!(f, "sheet.link.{link}"),
        }
    }
}

impl FromStr for SheetKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let of_dtypes = |key: fn(DType) -> SheetKey| DType::ALL.into_iter().map(key);
        let all = [SheetKey::DramBandwidth, SheetKey::L2Bytes]
            .into_iter()
            .chain(of_dtypes(SheetKey::Compute))
            .chain(of_dtypes(SheetKey::Ridge))
            .chain(Link::ALL.into_iter().map(SheetKey::Link));
        let named: Vec<(String, SheetKey)> =
            all.map(|key| (key.to_string(), key)).collect();
        let known = named.iter().find(|(name, _)| name == text);
        known.map(|(_, key)| *key).ok_or_else(|| {
            let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
            unknown_key(text, "a data sheet", &names)
        })
    }
}

/// A number, or so many times what the data sheet of the machine at hand states:
/// `1.5`, `sheet.dram_bandwidth`, `0.9 * sheet.compute.bf16`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Amount {
    /// The number.
    pub factor: f64,
    /// What it is a multiple of.
    pub of: Option<SheetKey>,
}

impl Amount {
    /// A number.
    ///
    /// # Errors
    /// It is not finite.
    pub fn number(factor: f64) -> Result<Self, String> {
        if !factor.is_finite() {
            return Err(format!("{factor} is no value; write a finite number"));
        }
        Ok(Amount { factor, of: None })
    }

    fn value(self, sheet: Option<&DataSheet>) -> Result<f64, String> {
        let Some(key) = self.of else { return Ok(self.factor) };
        let Some(sheet) = sheet else {
            return Err("no data sheet of this machine is known".to_owned());
        };
        let of = key.of(sheet);
        let of =
            of.ok_or_else(|| format!("the data sheet of {} lacks {key}", sheet.machine))?;
        Ok(self.factor * of)
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "`{text}` is no value; write a number, `sheet.dram_bandwidth` or `0.9 * \
                 sheet.compute.bf16`"
            )
        };
        let number = |text: &str| text.trim().parse::<f64>().map_err(|_| refused());
        match text.split_once('*') {
            Some((factor, key)) => {
                let of = Some(key.trim().parse()?);
                Ok(Amount { of, ..Amount::number(number(factor)?)? })
            }
            None if text.trim().starts_with("sheet") => {
                Ok(Amount { factor: 1.0, of: Some(text.trim().parse()?) })
            }
            None => Amount::number(number(text)?),
        }
    }
}

/// What a value is expected to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Relation {
    /// This.
    Equals(Amount),
    /// This or more.
    AtLeast(Amount),
    /// This or less.
    AtMost(Amount),
    /// From the first to the second.
    Between(Amount, Amount),
}

impl Relation {
    /// Whether it refers to a data sheet.
    pub const fn is_of_sheet(self) -> bool {
        match self {
            Relation::Equals(at) | Relation::AtLeast(at) | Relation::AtMost(at) => {
                at.of.is_some()
            }
            Relation::Between(from, to) => from.of.is_some() || to.of.is_some(),
        }
    }
}

/// The spelling of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RelationWord {
    Equals,
    AtLeast,
    AtMost,
    Between,
}

text_of_name!(RelationWord => "a relation");

impl RelationWord {
    const ALL: [RelationWord; 4] = [
        RelationWord::Equals,
        RelationWord::AtLeast,
        RelationWord::AtMost,
        RelationWord::Between,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            RelationWord::Equals => "=",
            RelationWord::AtLeast => ">=",
            RelationWord::AtMost => "<=",
            RelationWord::Between => "between",
        }
    }
}

/// How far from what is expected a value may lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// A share of what is expected.
    Share(f64),
    /// In the unit of the quantity.
    Absolute(f64),
}

/// What a value must be to be reproduced, and within what to be tolerated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// From this to that is what is claimed; the same twice for one value.
    pub claimed: (f64, f64),
    /// From this to that is tolerated.
    pub tolerated: (f64, f64),
}

impl Expected {
    /// Of a relation and a tolerance on a machine with this data sheet.
    ///
    /// # Errors
    /// The data sheet does not state what the claim refers to, in words.
    pub fn of(
        relation: Relation,
        tolerance: Tolerance,
        sheet: Option<&DataSheet>,
    ) -> Result<Self, String> {
        let of = |amount: Amount| amount.value(sheet);
        let claimed = match relation {
            Relation::Equals(at) => (of(at)?, of(at)?),
            Relation::AtLeast(from) => (of(from)?, f64::INFINITY),
            Relation::AtMost(to) => (f64::NEG_INFINITY, of(to)?),
            Relation::Between(from, to) => (of(from)?, of(to)?),
        };
        let reach = |end: f64| match tolerance {
            _ if end.is_infinite() => 0.0,
            Tolerance::Share(share) => share * end.abs(),
            Tolerance::Absolute(absolute) => absolute,
        };
        let (from, to) = claimed;
        Ok(Expected { claimed, tolerated: (from - reach(from), to + reach(to)) })
    }

    /// What an interval says: whatever lies wholly outside of what is tolerated contradicts,
    /// and what reaches across its edge says nothing. What lies wholly inside is reproduced
    /// where it also meets the claim: an interval that contains one claimed value, or is all
    /// within [`NARROW`] of it, and one that lies wholly in a claimed range.
    pub fn judge(&self, e: Estimate) -> Finding {
        let (low, high) = self.tolerated;
        if !(e.lo <= e.value && e.value <= e.hi) {
            return Finding::NotTested;
        }
        if e.hi < low || e.lo > high {
            return Finding::Contradicted;
        }
        if e.lo < low || e.hi > high {
            return Finding::NotTested;
        }
        if self.is_met(e) { Finding::Reproduced } else { Finding::WithinTolerance }
    }

    fn is_met(&self, e: Estimate) -> bool {
        let (from, to) = self.claimed;
        if from < to {
            return from <= e.lo && e.hi <= to;
        }
        let is_near = |end: f64| (end - from).abs() <= NARROW * from.abs();
        (e.lo <= from && from <= e.hi) || (is_near(e.lo) && is_near(e.hi))
    }
}
