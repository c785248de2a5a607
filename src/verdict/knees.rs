//! From where on computing binds along a size of an operation.

use std::collections::BTreeMap;

use super::shares::BoundBy;
use super::{Judge, cell};
use crate::analysis::Doubt;
use crate::op::{KneeAxis, PairKind};
use crate::section::Section;

impl Judge<'_> {
    /// From how many rows on computing binds, for each shape and format of linear layers
    /// and each format of latent attention.
    fn knees(&self) -> Vec<Knee> {
        let mut groups: BTreeMap<String, (KneeAxis, Vec<(u64, BoundBy)>)> = BTreeMap::new();
        for point in self.campaign.own_points().filter(|p| p.is_from_dram()) {
            let (Some(axis), Some(bound)) =
                (point.problem.operation().knee(), self.bound(point))
            else {
                continue;
            };
            let rows = axis.rows;
            let name = axis.name.clone();
            groups.entry(name).or_insert_with(|| (axis, Vec::new())).1.push((rows, bound));
        }
        let knee = |(axis, bounds): (KneeAxis, Vec<(u64, BoundBy)>)| {
            let ceilings = self.campaign.ceilings.as_ref();
            let ridge = ceilings.and_then(|c| c.ridge(axis.dtype)).map(|ridge| ridge.value);
            let doubt = bounds.iter().find_map(|(_, bound)| match bound {
                BoundBy::NotJudged(doubt) => Some(*doubt),
                _ => None,
            });
            Knee { rows: compute_bound_from(&bounds), doubt, ridge, axis }
        };
        groups.into_values().map(knee).collect()
    }

    pub(super) fn knee_section(&self) -> Section {
        let rows = self.knees().into_iter().map(|knee| {
            let reason = match (knee.rows, knee.doubt) {
                (Some(_), _) => "",
                (None, Some(doubt)) => doubt.name(),
                (None, None) => "at none that was measured",
            };
            let rows = knee.rows.map_or(String::new(), |rows| rows.to_string());
            let unit = knee.axis.unit.to_owned();
            vec![knee.axis.name, rows, unit, cell(knee.ridge), reason.to_owned()]
        });
        Section {
            heading: "From where on does computing bind?".into(),
            columns: vec![
                "points",
                "compute_bound_from",
                "of_what",
                "ridge_flops_per_byte",
                "reason",
            ],
            rows: rows.collect(),
            ..Section::default()
        }
    }

    /// The same in a few words, of what is asked.
    pub(super) fn knees_in_short(&self, asks: impl Fn(PairKind) -> bool) -> Option<String> {
        let mut knees = self.knees();
        knees.retain(|knee| asks(knee.axis.kind));
        let rows: Vec<u64> = knees.iter().filter_map(|knee| knee.rows).collect();
        let unit = knees.first()?.axis.unit;
        let (Some(least), Some(most)) = (rows.iter().min(), rows.iter().max()) else {
            let doubt = knees.iter().find_map(|knee| knee.doubt);
            return Some(doubt.map_or_else(
                || format!("not compute bound at any number of {unit}"),
                |doubt| format!("compute bound from which {unit} on: {}", doubt.name()),
            ));
        };
        let range =
            if least == most { format!("{least}") } else { format!("{least} to {most}") };
        let kinds = match knees.len() {
            1 => String::new(),
            all => format!(", by shape and format ({} of {all})", rows.len()),
        };
        Some(format!("compute bound from {range} {unit} on{kinds}"))
    }
}

/// From where on points along an axis are compute bound.
struct Knee {
    axis: KneeAxis,
    /// None where no point is.
    rows: Option<u64>,
    /// Why some points that reach the ceiling do not count.
    doubt: Option<Doubt>,
    /// FLOPs per byte.
    ridge: Option<f64>,
}

/// The fewest rows from which on every point that says anything reaches the compute
/// roof. Those that reach none, and undecided ones, say nothing.
fn compute_bound_from(bounds: &[(u64, BoundBy)]) -> Option<u64> {
    let is_compute = |bound: BoundBy| matches!(bound, BoundBy::Compute | BoundBy::Ridge);
    let others = bounds.iter().filter(|(_, bound)| *bound == BoundBy::Memory);
    let last_other = others.map(|(rows, _)| *rows).max().unwrap_or(0);
    let beyond =
        bounds.iter().filter(|(rows, bound)| is_compute(*bound) && *rows > last_other);
    beyond.map(|(rows, _)| *rows).min()
}
