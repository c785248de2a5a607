//! What values of claims count, and how people read them.

use crate::quantity::{number, si};
use crate::statistics::Estimate;

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
