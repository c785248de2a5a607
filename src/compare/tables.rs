//! Comparisons and histories as tables.

use super::history::began;
use super::{BetweenSource, Change, Compared, Comparison, History, HistoryRow, Step};
use crate::analysis::{Campaign, Measured};
use crate::quantity::{number, share};
use crate::section::Section;
use crate::statistics::{Estimate, quantile};

/// Columns of a comparison of two campaigns.
const OF_CAMPAIGNS: [&str; 16] = [
    "problem",
    "cache",
    "load",
    "kernel_before",
    "kernel_after",
    "time_before_s",
    "time_after_s",
    "speed",
    "speed_lo",
    "speed_hi",
    "finding",
    "resolvable_share",
    "roof_before_share",
    "roof_after_share",
    "adjusted_p",
    "point_id",
];

/// The same of own kernels beside peers.
const OF_PEERS: [&str; 16] = [
    "problem",
    "cache",
    "load",
    "peer",
    "own_kernel",
    "peer_time_s",
    "own_time_s",
    "speed",
    "speed_lo",
    "speed_hi",
    "finding",
    "resolvable_share",
    "roof_peer_share",
    "roof_own_share",
    "adjusted_p",
    "point_id",
];

impl Comparison<'_> {
    /// All rows, with what a reader must know before them.
    pub fn section(&self) -> Section {
        let (columns, heading) = match self.is_of_peers {
            true => (OF_PEERS, "Own kernels beside peers".to_owned()),
            false => (OF_CAMPAIGNS, "Second campaign beside the first".to_owned()),
        };
        let mut section = Section {
            heading,
            columns: columns.to_vec(),
            rows: self.rows.iter().map(row).collect(),
            paragraphs: self.notes(),
            keys: 5,
            spare: &[
                "point_id",
                "load",
                "adjusted_p",
                "roof_before_share",
                "roof_after_share",
                "roof_peer_share",
                "roof_own_share",
                "cache",
                "kernel_before",
                "time_before_s",
            ],
        };
        self.mark(&mut section);
        section
    }

    /// How many rows say what.
    pub fn summary(&self) -> Section {
        let rows = Change::ALL.into_iter().map(|change| {
            let of_change = self.rows.iter().filter(|row| row.change == change);
            let mut speeds: Vec<f64> = of_change.map(|row| row.speed.value).collect();
            speeds.sort_by(f64::total_cmp);
            let at = |p: f64| match speeds.is_empty() {
                true => String::new(),
                false => quantile(&speeds, p).to_string(),
            };
            let (name, count) = (change.name().to_owned(), speeds.len().to_string());
            vec![name, count, at(0.0), at(0.5), at(1.0)]
        });
        let mut section = Section {
            heading: "Comparison".to_owned(),
            columns: vec![
                "finding",
                "points",
                "lowest_speed",
                "median_speed",
                "highest_speed",
            ],
            rows: rows.collect(),
            paragraphs: vec![self.sentence()],
            ..Section::default()
        };
        self.mark(&mut section);
        section
    }

    fn mark(&self, section: &mut Section) {
        if self.campaigns.iter().any(|campaign| campaign.is_simulated()) {
            section.mark_simulated();
        }
    }

    /// The comparison in a sentence: counts, and what can be resolved.
    pub fn sentence(&self) -> String {
        let counts = Change::ALL.map(|change| {
            let count = self.count(change);
            format!("{count} {}", change.name())
        });
        let points = self.rows.len();
        format!("Of {points} points, {}. {}", counts.join(", "), self.resolution())
    }

    /// The smallest differences that the table can resolve.
    pub fn resolution(&self) -> String {
        let all = self.resolvable();
        if all.is_empty() {
            return "No point has a time in both.".to_owned();
        }
        let at = |p: f64| share(quantile(&all, p));
        format!(
            "The smallest difference that can be told from none is {} for half of the points, \
             {} for the best and {} for the worst (resolvable_share).",
            at(0.5),
            at(0.0),
            at(1.0)
        )
    }

    /// What speed and findings mean, and what the error is made of.
    pub fn notes(&self) -> Vec<String> {
        let rules = self.rules;
        let (what, better) = match self.is_of_peers {
            true => ("the time of the fastest peer over ours", "ours"),
            false => {
                ("the time in the first campaign over that in the second", "the second")
            }
        };
        let mut notes = vec![format!(
            "Speed is {what}: above 1 {better} is faster. All rows are tested together, by \
             Holm's procedure: where nothing differs, at most {} of such tables report a \
             difference. Each interval is at the level at which its row was tested; `same` is \
             an interval within {} of 1.",
            share(rules.alpha),
            share(rules.margin)
        )];
        notes.push(self.resolution());
        notes.push(self.error_note());
        if !self.is_of_peers {
            notes.extend(self.drift_note());
            notes.extend(self.device_note());
            let [first, second] = self.unmatched;
            if first + second > 0 {
                notes.push(format!(
                    "Not compared: {first} points of the first campaign and {second} of the \
                     second, which the other has no time of."
                ));
            }
        }
        notes
    }

    /// What campaigns vary by beyond rounds, and how that is known.
    fn error_note(&self) -> String {
        let between = &self.between;
        let sd = share(between.relative_sd());
        let shift = between.shift.map_or(String::new(), |shift| {
            format!("; their median speed is {}", number(shift))
        });
        match between.source {
            BetweenSource::SameCode => format!(
                "Beyond their rounds, times of the two campaigns vary by {sd} (standard \
                 deviation), by {} points whose code is the same in both{shift}.",
                between.controls
            ),
            BetweenSource::Bulk => format!(
                "Beyond their rounds, times of the two campaigns vary by {sd} (standard \
                 deviation), by the bulk of {} points: whether their code is the same is not \
                 known, and a change that more than half of the points share cannot be told \
                 from a machine that changed{shift}.",
                between.controls
            ),
            BetweenSource::Usual if self.is_of_peers => format!(
                "Own kernels and peers were measured by different processes: {sd} (standard \
                 deviation) are granted to that. The fastest of several peers is chosen by the \
                 times that are compared, which favours them a little."
            ),
            BetweenSource::Usual => format!(
                "Nothing shows how much these two campaigns vary beyond their rounds; {sd} \
                 (standard deviation) are granted to that."
            ),
        }
    }

    /// What the sentinels say about the two campaigns as wholes.
    fn drift_note(&self) -> Option<String> {
        let [before, after] = self.campaigns.map(|campaign| campaign.sentinel.as_ref());
        let (before, after) = before.zip(after)?;
        if before.point_id != after.point_id {
            return None;
        }
        let middle = |times: &[f64]| crate::statistics::median(times);
        let ratio = middle(&before.times_s) / middle(&after.times_s);
        Some(format!(
            "The sentinel's speed is {}; it drifted by {} in the first campaign and {} in the \
             second.",
            number(ratio),
            share(before.drift()),
            share(after.drift())
        ))
    }

    /// The two devices and commits.
    fn device_note(&self) -> Option<String> {
        let of = |campaign: &Campaign| {
            let device = campaign.device.clone().unwrap_or("an unknown device".to_owned());
            let version = commit(campaign);
            let version =
                if version.is_empty() { "an unknown commit".into() } else { version };
            format!("{} ({device}, {version})", campaign.folder.display())
        };
        let [first, second] = self.campaigns.map(of);
        Some(format!("First: {first}. Second: {second}."))
    }
}

/// The commit of a campaign's program, shortened; `+` where its source had changes beside it.
pub(super) fn commit(campaign: &Campaign) -> String {
    let run = campaign.runs.last();
    let of = |column: &str| run.and_then(|run| run.get(column)).unwrap_or_default();
    let sha: String = of("git_sha").chars().take(12).collect();
    let changed = if of("git_dirty") == "true" { "+" } else { "" };
    if sha.is_empty() { sha } else { format!("{sha}{changed}") }
}

/// The revision of the protocol that a campaign was measured under.
fn protocol(campaign: &Campaign) -> &str {
    campaign.runs.first().and_then(|run| run.get("protocol")).unwrap_or_default()
}

fn row(row: &Compared<'_>) -> Vec<String> {
    let point = row.after;
    let [before_s, after_s] = row.times_s().map(|time| time.to_string());
    let roof = |point: &Measured| cell(point.fraction().map(|share| share.value));
    let [value, lo, hi] = cells(row.speed);
    vec![
        point.problem.label(),
        point.cache.to_string(),
        point.load.map_or(String::new(), |load| load.to_string()),
        row.before.kernel.to_string(),
        point.kernel.to_string(),
        before_s,
        after_s,
        value,
        lo,
        hi,
        row.change.name().to_owned(),
        row.resolvable.to_string(),
        roof(row.before),
        roof(point),
        row.probability.to_string(),
        point.point_id.clone(),
    ]
}

fn cell(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

fn cells(estimate: Estimate) -> [String; 3] {
    [estimate.value, estimate.lo, estimate.hi].map(|value| value.to_string())
}

impl History<'_> {
    /// The campaigns, and every point's series: where `is_for_people`, of points that several
    /// campaigns have.
    pub fn sections(&self, is_for_people: bool) -> Vec<Section> {
        let changed = self.rows.iter().filter(|row| row.has_changed()).count();
        let steps = |row: &HistoryRow<'_>| row.steps.len() - 1;
        let compared: usize = self.rows.iter().map(steps).sum();
        let told = format!(
            "{changed} of {} points changed beyond noise. Speed is a point's last time over \
             this one: above 1 this one is faster. All {compared} steps are tested together, \
             by Holm's procedure: where nothing changed, at most {} of such tables report a \
             change. `same` is an interval within {} of 1.",
            self.rows.len(),
            share(self.rules.alpha),
            share(self.rules.margin)
        );
        let least = if is_for_people { 2 } else { 1 };
        let series = self.series_section(least, told);
        let mut sections = vec![self.campaigns_section(), series];
        if self.campaigns.iter().any(|campaign| campaign.is_simulated()) {
            sections.iter_mut().for_each(Section::mark_simulated);
        }
        sections
    }

    /// Points that were measured by other rules have other ids, so they never meet.
    fn protocols_note(&self) -> Option<String> {
        let mut all: Vec<&str> = self.campaigns.iter().map(|c| protocol(c)).collect();
        all.sort_unstable();
        all.dedup();
        (all.len() > 1).then(|| {
            format!(
                "These campaigns were measured under protocols {}: times that were taken by \
                 different rules are not compared.",
                all.join(" and ")
            )
        })
    }

    fn campaigns_section(&self) -> Section {
        let rows = self.campaigns.iter().map(|campaign| {
            vec![
                began(campaign).to_owned(),
                commit(campaign),
                campaign.suite.clone().unwrap_or_default(),
                protocol(campaign).to_owned(),
                campaign.points.len().to_string(),
                campaign.device.clone().unwrap_or_default(),
                campaign.folder.display().to_string(),
            ]
        });
        Section {
            heading: "Campaigns".to_owned(),
            columns: vec![
                "started_utc",
                "commit",
                "suite",
                "protocol",
                "points",
                "device",
                "folder",
            ],
            rows: rows.collect(),
            paragraphs: self.protocols_note().into_iter().collect(),
            spare: &["device"],
            ..Section::default()
        }
    }

    fn series_section(&self, least: usize, told: String) -> Section {
        let of_row = |row: &HistoryRow<'_>| -> Vec<Vec<String>> {
            row.steps.iter().map(|step| self.step(step)).collect()
        };
        let shown = self.rows.iter().filter(|row| row.steps.len() >= least);
        Section {
            heading: "Times of points".to_owned(),
            columns: vec![
                "problem",
                "cache",
                "kernel",
                "started_utc",
                "commit",
                "time_s",
                "time_s_lo",
                "time_s_hi",
                "speed",
                "speed_lo",
                "speed_hi",
                "finding",
                "point_id",
            ],
            rows: shown.flat_map(of_row).collect(),
            paragraphs: vec![told],
            keys: 3,
            spare: &["point_id", "cache", "started_utc"],
        }
    }

    fn step(&self, step: &Step<'_>) -> Vec<String> {
        let (campaign, point) = (self.campaigns[step.campaign], step.point);
        let mut row = vec![
            point.problem.label(),
            point.cache.to_string(),
            point.kernel.to_string(),
            began(campaign).to_owned(),
            commit(campaign),
        ];
        let empty = || [(); 3].map(|()| String::new());
        row.extend(point.time_s.map_or_else(empty, cells));
        row.extend(step.since_last.map_or_else(empty, |last| cells(last.speed)));
        let finding = step.since_last.map_or("first", |last| last.change.name());
        row.extend([finding.to_owned(), point.point_id.clone()]);
        row
    }
}
