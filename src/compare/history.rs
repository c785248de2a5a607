//! Campaigns of one device through time: each point's series, and its changes beyond noise.

use std::collections::{BTreeMap, HashMap};

use super::between::Between;
use super::pair::{Pair, is_timed, typical};
use super::{Change, Compared, Rules, judged};
use crate::analysis::{Campaign, Measured};

/// A point in one of several campaigns.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Which of the history's campaigns.
    pub campaign: usize,
    /// The point there.
    pub point: &'a Measured,
    /// The same beside the campaign before that has it; `None` for the first.
    pub since_last: Option<Compared<'a>>,
}

/// A point through all campaigns that have it.
#[derive(Clone, Debug)]
pub struct HistoryRow<'a> {
    /// In the order of time. Never empty.
    pub steps: Vec<Step<'a>>,
}

impl HistoryRow<'_> {
    /// Whether a step was faster or slower than the one before.
    pub fn has_changed(&self) -> bool {
        let mut changes = self.steps.iter().filter_map(|step| step.since_last);
        changes.any(|step| matches!(step.change, Change::Faster | Change::Slower))
    }
}

/// Campaigns in the order of time.
#[derive(Clone, Debug)]
pub struct History<'a> {
    /// The campaigns.
    pub campaigns: Vec<&'a Campaign>,
    /// Their points, by operation and bytes.
    pub rows: Vec<HistoryRow<'a>>,
    /// What steps were held to: all of them are tested together.
    pub rules: Rules,
}

impl<'a> History<'a> {
    /// Orders campaigns by when they began, and compares each point with its last time.
    pub fn of(
        campaigns: impl Iterator<Item = &'a Campaign>,
        wanted: &dyn Fn(&Measured) -> bool,
        rules: Rules,
    ) -> Self {
        let mut campaigns: Vec<&Campaign> = campaigns.collect();
        campaigns.sort_by_cached_key(|campaign| began(campaign).to_owned());
        let series = series(&campaigns, wanted);
        let mut between: HashMap<(usize, usize), Between> = HashMap::new();
        let (mut pairs, mut errors) = (Vec::new(), Vec::new());
        // For each pair its row and its second step.
        let mut places = Vec::new();
        for (row, steps) in series.iter().enumerate() {
            for (at, window) in steps.windows(2).enumerate() {
                let [(a, before), (b, after)] = [window[0], window[1]];
                let both = [campaigns[a], campaigns[b]];
                let Some(pair) = Pair::of(before, after, typical(&both).as_ref()) else {
                    continue;
                };
                let error = between.entry((a, b)).or_insert_with(|| {
                    let all = super::pairs(both[0], both[1], rules.by);
                    Between::of(both[0], both[1], &all)
                });
                errors.push(*error);
                pairs.push(pair);
                places.push((row, at + 1));
            }
        }
        let compared = judged(&pairs, |at| errors[at], rules);
        let of_step: HashMap<(usize, usize), Compared<'a>> =
            places.into_iter().zip(compared).collect();
        let rows = series.into_iter().enumerate().map(|(row, steps)| {
            let step = |(at, (campaign, point)): (usize, (usize, &'a Measured))| Step {
                campaign,
                point,
                since_last: of_step.get(&(row, at)).copied(),
            };
            HistoryRow { steps: steps.into_iter().enumerate().map(step).collect() }
        });
        History { rows: rows.collect(), campaigns, rules }
    }
}

/// When a campaign began, as it is written; empty where it is not known.
pub(super) fn began(campaign: &Campaign) -> &str {
    campaign.runs.first().and_then(|run| run.get("started_utc")).unwrap_or_default()
}

/// Each point with the campaigns that have a time of it.
fn series<'a>(
    campaigns: &[&'a Campaign],
    wanted: &dyn Fn(&Measured) -> bool,
) -> Vec<Vec<(usize, &'a Measured)>> {
    let mut all: BTreeMap<_, Vec<(usize, &'a Measured)>> = BTreeMap::new();
    for (at, campaign) in campaigns.iter().enumerate() {
        for point in campaign.points.iter().filter(|point| is_timed(point) && wanted(point))
        {
            let key = (point.problem.op(), point.work.bytes(), point.point_id.clone());
            all.entry(key).or_default().push((at, point));
        }
    }
    all.into_values().collect()
}
