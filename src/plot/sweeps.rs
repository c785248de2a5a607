//! Points of one family over batch and context, as grids: what the figures of bandwidth by
//! context and of shares of the roof are made of.

use std::collections::{BTreeMap, BTreeSet};

use crate::analysis::{Campaign, Measured};
use crate::op::{Op, Sweep};
use crate::point::CacheState;

/// Points that differ in batch and context alone.
pub struct Grid<'a> {
    /// What they compute.
    pub op: Op,
    /// What they have in common, in words.
    pub name: String,
    /// Measured points by batch and context.
    pub cells: BTreeMap<(u64, u64), &'a Measured>,
}

impl Grid<'_> {
    /// Distinct batches, ascending.
    pub fn batches(&self) -> Vec<u64> {
        self.cells
            .keys()
            .map(|(batch, _)| *batch)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Distinct contexts, ascending.
    pub fn contexts(&self) -> Vec<u64> {
        let contexts = self.cells.keys().map(|(_, context)| *context);
        contexts.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// Of each operation the grid with the most measured points over at least two contexts; of
/// equally rich ones a cold one.
pub fn grids(campaign: &Campaign) -> Vec<Grid<'_>> {
    let mut all: BTreeMap<(usize, String), Grid> = BTreeMap::new();
    for point in campaign.own_points().filter(|p| p.time_s.is_some()) {
        let Some(place) = point.problem.operation().place_in(Sweep::Context) else {
            continue;
        };
        let [batch] = place.held[..] else { continue };
        let op = point.problem.op();
        let order = Op::ALL.iter().position(|other| *other == op).unwrap_or_default();
        let (cache, kernel) = (point.cache, &point.kernel);
        let key = format!("{} {} {kernel} {cache}", place.family.1, place.alike);
        let grid = all.entry((order, key)).or_insert_with(|| Grid {
            op,
            name: format!("{}, {cache}", place.family.1),
            cells: BTreeMap::new(),
        });
        grid.cells.insert((batch, place.swept), point);
    }
    let mut best: BTreeMap<usize, Grid> = BTreeMap::new();
    for ((order, _), grid) in all {
        let rank = |grid: &Grid| {
            let is_cold = grid.cells.values().all(|p| p.cache == CacheState::Cold);
            (grid.cells.len(), is_cold)
        };
        if grid.contexts().len() > 1
            && best.get(&order).is_none_or(|best| rank(best) < rank(&grid))
        {
            best.insert(order, grid);
        }
    }
    best.into_values().collect()
}

/// At most `most` of sorted values, evenly chosen with the first and the last.
pub fn chosen(values: &[u64], most: usize) -> Vec<u64> {
    if values.len() <= most {
        return values.to_vec();
    }
    let at = |i: usize| values[i * (values.len() - 1) / (most - 1).max(1)];
    (0..most).map(at).collect()
}
