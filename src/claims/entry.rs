//! A claim, as tables have it after their check.

use super::quantity::Quantity;
use super::relation::{Relation, Tolerance};
use super::unit::Unit;
use crate::suite::Filter;

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
