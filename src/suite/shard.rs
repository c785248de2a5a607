//! A part of a plan, for one of several machines that measure it together.

use std::fmt;
use std::str::FromStr;

use crate::op::Purpose;
use crate::point::Point;

/// Which part of a plan: `3/8` is the third of eight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard {
    /// Which one, from 1.
    pub index: u32,
    /// How many there are.
    pub count: u32,
}

/// Most shards of a plan.
const MOST: u32 = 10_000;

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(index, count)| {
            Some((index.trim().parse().ok()?, count.trim().parse().ok()?))
        });
        match parts {
            Some((index, count)) if 0 < index && index <= count && count <= MOST => {
                Ok(Shard { index, count })
            }
            _ => Err(format!(
                "`{text}` is no shard; write `3/8` for the third of eight, of at most {MOST}"
            )),
        }
    }
}

/// Whether every shard measures a point: those that show what the machine can do, since
/// nothing is judged by another machine's ceilings.
fn is_in_each(point: &Point) -> bool {
    point.problem.op().facts().judged.purpose != Purpose::Work
}

/// For each point of a plan the shard that measures it, from 1; `None` for those that every
/// shard does. Points are dealt in turn in the order of their texts, so that neighbours in
/// shape, which take about as long, are spread, and shards depend on nothing but the plan.
pub(super) fn deal(
    points: &[Point],
    sentinel: Option<&Point>,
    count: u32,
) -> Vec<Option<u32>> {
    let is_dealt = |at: &usize| {
        let point = &points[*at];
        !is_in_each(point) && sentinel != Some(point)
    };
    let mut dealt: Vec<usize> = (0..points.len()).filter(is_dealt).collect();
    dealt.sort_by_cached_key(|at| points[*at].to_string());
    let mut shards = vec![None; points.len()];
    for (at, shard) in dealt.into_iter().zip((1..=count).cycle()) {
        shards[at] = Some(shard);
    }
    shards
}
