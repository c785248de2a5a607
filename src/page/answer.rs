//! The answer that the page begins with: whether decode is memory bound here, by how much and
//! from where on, and whether the vendor's numbers hold. Decode attention is what the program
//! is about, so this file names it.

use crate::analysis::{Campaign, Measured};
use crate::op::{DecodeAttention, OfProblem};
use crate::plot::ridges;
use crate::quantity::{bytes, interval, number, share, si};
use crate::statistics::Estimate;
use crate::verdict::{BOUND_SHARE, Claim, MachineLimit, Verdict};

/// The claim that the page answers first.
const CLAIM: &str = "decode-memory-bound";

/// Share of a stated rate from which on it counts as reached.
const HOLDS: f64 = 0.9;

/// A question with its answer in sentences.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The question.
    pub question: &'static str,
    /// One paragraph or more.
    pub sentences: Vec<String>,
}

/// The answers, in the order of the page.
pub fn answers(campaign: &Campaign, judged: &Verdict) -> Vec<Answer> {
    let decode = decode_points(campaign);
    let claim = judged.claims.iter().find(|claim| claim.id == CLAIM);
    vec![
        Answer {
            question: "Is decode memory bound here?",
            sentences: vec![claim.map_or_else(not_judged, claim_text)],
        },
        Answer { question: "By how much?", sentences: how_much(campaign, &decode) },
        Answer { question: "From where on?", sentences: vec![from_where(&decode)] },
        Answer {
            question: "Do the vendor's numbers hold?",
            sentences: vendor(campaign, judged),
        },
    ]
}

fn not_judged() -> String {
    "The verdict has no such claim.".to_owned()
}

/// `Supported: 10 of 10 ...`.
fn claim_text(claim: &Claim) -> String {
    let Claim { statement, evidence, .. } = claim;
    let finding = claim.finding.name();
    format!("{statement} This is {finding} here: {evidence}.")
}

/// Own points of plain decode attention whose bytes came from DRAM, with the share of the
/// measured bandwidth that they reached.
fn decode_points(campaign: &Campaign) -> Vec<(&Measured, Estimate)> {
    let is_plain = |p: &&Measured| {
        let shape = DecodeAttention::of(&p.problem);
        shape.is_some_and(DecodeAttention::is_plain) && p.is_from_dram()
    };
    let points = campaign.own_points().filter(is_plain);
    points.filter_map(|p| Some((p, p.memory_fraction()?))).collect()
}

/// The share of bandwidth that decode reached, and how far its intensity lies from the ridge.
fn how_much(campaign: &Campaign, decode: &[(&Measured, Estimate)]) -> Vec<String> {
    let mut shares: Vec<f64> = decode.iter().map(|(_, share)| share.value).collect();
    shares.sort_by(f64::total_cmp);
    let (Some(low), Some(high)) = (shares.first(), shares.last()) else {
        return vec![
            "No decode attention from DRAM has a time beside a measured read bandwidth."
                .to_owned(),
        ];
    };
    let median = shares[shares.len() / 2];
    let count = shares.len();
    let mut sentences = vec![format!(
        "Its {count} points from DRAM move their bytes at {} of the measured read bandwidth, \
         in the median at {}.",
        range(share(*low), share(*high)),
        share(median)
    )];
    let points: Vec<&Measured> = decode.iter().map(|(point, _)| *point).collect();
    for (dtype, ridge) in ridges(campaign, &points) {
        let of_dtype = points.iter().filter(|p| p.problem.math_dtype() == Some(dtype));
        let intensities = of_dtype.map(|p| p.work.operational_intensity());
        let (lo, hi) =
            intensities.fold((f64::MAX, 0.0f64), |(lo, hi), oi| (lo.min(oi), hi.max(oi)));
        sentences.push(format!(
            "In {dtype} its operational intensity is {} FLOP/byte; the ridge, where arithmetic \
             begins to bind, is at {} FLOP/byte: {} times as much.",
            range(number(lo), number(hi)),
            number(ridge),
            range(number(ridge / hi), number(ridge / lo))
        ));
    }
    sentences
}

/// `39% to 52%`, or `39%` where both ends read the same.
fn range(lo: String, hi: String) -> String {
    if lo == hi { lo } else { format!("{lo} to {hi}") }
}

/// The size from which on all points reach the share of a roof that counts as bound by it.
fn from_where(decode: &[(&Measured, Estimate)]) -> String {
    let mut by_size: Vec<(u64, bool)> =
        decode.iter().map(|(p, share)| (p.work.bytes(), share.lo >= BOUND_SHARE)).collect();
    by_size.sort_unstable();
    let bound = share(BOUND_SHARE);
    // A size with a point below the bound is not yet one from which on all are above it.
    let last_below =
        by_size.iter().rev().find(|(_, is_bound)| !is_bound).map(|(size, _)| *size);
    let from = by_size.iter().find(|(size, _)| last_below.is_none_or(|last| *size > last));
    let smaller =
        by_size.iter().filter(|(size, _)| from.is_none_or(|(from, _)| size < from));
    match (by_size.len(), from) {
        (0, _) => "Nothing was measured that could tell.".to_owned(),
        (_, None) => format!(
            "Not within what was measured: the largest, {}, has points whose interval reaches \
             below {bound} of the bandwidth.",
            by_size.last().map_or(String::new(), |(size, _)| bytes(*size as f64))
        ),
        (_, Some((from, _))) => {
            let smaller: Vec<_> = smaller.collect();
            let below = smaller.iter().filter(|(_, is_bound)| !is_bound).count();
            let rest = match smaller.len() {
                0 => "; nothing smaller was measured".to_owned(),
                count => format!("; of {count} smaller ones {below} do not"),
            };
            format!(
                "From {} a launch on, every point reaches {bound} of the measured read \
                 bandwidth with its whole interval{rest}.",
                bytes(*from as f64)
            )
        }
    }
}

/// Each measured limit beside the data sheet's.
fn vendor(campaign: &Campaign, judged: &Verdict) -> Vec<String> {
    let sentence = |limit: &MachineLimit| {
        let spec = limit.spec?;
        let unit = unit(limit.unit);
        let measured = interval([limit.value.value, limit.value.lo, limit.value.hi], unit);
        let ratio = share(limit.value.value / spec);
        let spec = si(spec, unit);
        let doubt =
            limit.doubt.map_or(String::new(), |doubt| format!(" ({})", doubt.name()));
        let name = limit.id.replace('_', " ");
        Some(format!(
            "{name}: {measured}, which is {ratio} of the data sheet's {spec}{doubt}."
        ))
    };
    let sentences: Vec<String> = judged.limits.iter().filter_map(sentence).collect();
    let none = || match &campaign.spec_refused {
        Some(why) => format!("No data sheet is used: {why}."),
        None => "No data sheet of this device is known, or nothing in it was measured."
            .to_owned(),
    };
    let summary = reached(judged);
    if sentences.is_empty() {
        vec![none()]
    } else {
        summary.into_iter().chain(sentences).collect()
    }
}

/// How much of the data sheet's rates was reached, in a sentence; none where nothing proves
/// what the machine can do.
fn reached(judged: &Verdict) -> Option<String> {
    let is_rate =
        |limit: &&MachineLimit| limit.unit.ends_with("/s") && limit.doubt.is_none();
    let rates = judged.limits.iter().filter(is_rate);
    let mut shares: Vec<f64> =
        rates.filter_map(|of| Some(of.value.value / of.spec?)).collect();
    shares.sort_by(f64::total_cmp);
    let range = range(share(*shares.first()?), share(*shares.last()?));
    let near = shares.iter().filter(|of| **of >= HOLDS).count();
    Some(format!(
        "Measured were {range} of what it states; {near} of {} rates reach {} of it or more.",
        shares.len(),
        share(HOLDS)
    ))
}

/// The unit of a limit as people read it.
pub(super) fn unit(unit: &'static str) -> &'static str {
    match unit {
        "bytes/s" => "B/s",
        "flops/s" => "FLOP/s",
        "flops/byte" => "FLOP/B",
        "share" => "",
        other => other,
    }
}
