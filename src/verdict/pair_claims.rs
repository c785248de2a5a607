//! What claims about pairs of points rest on, and the table of pairs.

use std::collections::BTreeMap;

use super::evidence::Says;
use super::pairs::{Expected, Follows, Pair, is_of_bytes_alone};
use super::quantities::Found;
use super::{Judge, cells, range_text};
use crate::op::{PairKind, Problem};
use crate::section::Section;

impl Judge<'_> {
    /// The share of pairs of some kinds that follow what they should.
    pub(super) fn pairs_follow(&self, kinds: &[String], asked: &[&Pair<'_>]) -> Found {
        if asked.is_empty() {
            return Found::nothing("no such pair of points was planned");
        }
        let says = asked.iter().filter_map(|pair| {
            Some(([pair.low.point_id.as_str(), pair.high.point_id.as_str()], pair.says?))
        });
        let mut details = summaries(asked);
        details.extend(outside(asked));
        details.extend(
            self.knees_in_short(|kind| kinds.iter().any(|asked| asked == kind.key())),
        );
        Found {
            details,
            ..Found::share_of(says.collect(), "pairs follow what they should")
        }
    }

    pub(super) fn pair_section(&self, pairs: &[Pair<'_>]) -> Section {
        Section {
            heading: "What does time follow?".into(),
            columns: vec![
                "pair",
                "alike",
                "changed",
                "bytes_ratio",
                "flops_ratio",
                "time_ratio",
                "time_ratio_lo",
                "time_ratio_hi",
                "time_follows",
                "should_follow",
                "bytes_elasticity",
                "bytes_elasticity_lo",
                "bytes_elasticity_hi",
                "flops_elasticity",
                "flops_elasticity_lo",
                "flops_elasticity_hi",
                "counts_as",
                "reason",
            ],
            rows: pairs.iter().map(pair_row).collect(),
            paragraphs: vec![ELASTICITY.to_owned()],
            keys: 2,
            spare: &["flops_elasticity", "bytes_elasticity", "alike", "reason"],
        }
    }
}

/// What the columns of elasticities mean.
const ELASTICITY: &str = "Elasticity: log of the ratio of times over that of bytes or FLOPs, \
                          1 where time follows them; of all pairs that were measured, whether \
                          or not they count.";

fn pair_row(pair: &Pair<'_>) -> Vec<String> {
    let (alike, changed) = spelled(&pair.low.problem, &pair.high.problem);
    let [of_bytes, of_flops] = pair.elasticities().map(cells);
    let (counts_as, reason) = match pair.says {
        Some(Says::Agrees) => ("agrees", ""),
        Some(Says::Against(_)) => ("disagrees", ""),
        Some(Says::Nothing(why) | Says::NotMeasured(why)) => ("not evidence", why),
        None => ("not asked", ""),
    };
    let mut row = vec![pair.kind.name(), alike, changed];
    row.extend([pair.bytes, pair.flops].map(|ratio| ratio.to_string()));
    row.extend(cells(pair.time));
    row.push(pair.follows.map_or("", Follows::name).to_owned());
    row.push(pair.expected.name().to_owned());
    row.extend(of_bytes.into_iter().chain(of_flops));
    row.extend([counts_as, reason].map(str::to_owned));
    row
}

/// How much time and bytes changed in the pairs that are evidence, for each kind of pair and
/// side of the ridge.
fn summaries(asked: &[&Pair<'_>]) -> Vec<String> {
    let mut groups: BTreeMap<(PairKind, Expected), Vec<&Pair<'_>>> = BTreeMap::new();
    for pair in asked.iter().filter(|pair| pair.says.is_some_and(Says::is_evidence)) {
        groups.entry((pair.kind, pair.expected)).or_default().push(pair);
    }
    let sentence = |((kind, expected), pairs): ((PairKind, _), Vec<&Pair<'_>>)| {
        let side = match expected {
            _ if is_of_bytes_alone(kind) => "",
            Expected::Time(Follows::Bytes) => " below the ridge",
            _ => " past the ridge",
        };
        let range = |of: fn(&Pair<'_>) -> Option<f64>| {
            let values = pairs.iter().filter_map(|pair| of(pair));
            let lo = values.clone().fold(f64::INFINITY, f64::min);
            let [lo, hi] = [lo, values.fold(0.0, f64::max)].map(|x| format!("{x:.2}"));
            format!("x {}", range_text(&lo, &hi))
        };
        let time = range(|pair| pair.time.map(|time| time.value));
        let bytes = range(|pair| Some(pair.bytes));
        format!("{} of {}{side}, time {time}, bytes {bytes}", pairs.len(), kind.name())
    };
    groups.into_iter().map(sentence).collect()
}

/// How many pairs cannot tell by their shapes, and why.
fn outside(asked: &[&Pair<'_>]) -> Vec<String> {
    let outside: Vec<_> = asked.iter().filter(|pair| pair.says.is_none()).collect();
    let across = outside.iter().filter(|p| p.expected == Expected::AcrossTheRidge).count();
    [
        (across, "one point is on each side of the ridge"),
        (outside.len() - across, "bytes and FLOPs change by similar factors"),
    ]
    .into_iter()
    .filter(|(n, _)| *n > 0)
    .map(|(n, why)| format!("{n} more cannot tell by design: {why}"))
    .collect()
}

/// What two problems have in common, and what not, in words.
fn spelled(low: &Problem, high: &Problem) -> (String, String) {
    let (mut alike, mut changed) = (vec![low.op().to_string()], Vec::new());
    let after = high.fields();
    for (key, value) in low.fields() {
        match after.iter().find(|(other, _)| *other == key) {
            Some((_, new)) if *new == value => alike.push(format!("{key}={value}")),
            Some((_, new)) => changed.push(format!("{key} {value} -> {new}")),
            // A format is written only where it differs from that of the other tensors.
            None => changed.push(format!("{key} {value} -> that of the other tensors")),
        }
    }
    for (key, value) in after {
        if !low.fields().iter().any(|(other, _)| *other == key) {
            changed.push(format!("{key} {value}"));
        }
    }
    (alike.join(" "), changed.join(", "))
}
