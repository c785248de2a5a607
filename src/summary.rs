//! Campaigns in a line each, and several beside each other in a few lines: what a README
//! says of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::analysis::Campaign;
use crate::claims::{Finding, Origin};
use crate::model::machine::Machines;
use crate::op::{Op, Problem};
use crate::quantity::{share, si};
use crate::residency::Residency;
use crate::section::Section;
use crate::statistics::quantile;
use crate::verdict::{Claim, MachineLimit, Verdict, judge};

/// A campaign and what it says.
pub struct Judged {
    /// Name of its folder.
    pub name: String,
    /// Where it is, as the reader of the text is to be led there.
    pub link: String,
    /// Its records.
    pub campaign: Campaign,
    /// What they say.
    pub verdict: Verdict,
}

impl Judged {
    /// Reads and judges the campaign in a folder.
    ///
    /// # Errors
    /// A folder without records that can be read.
    pub fn load(folder: &Path, link: &str, machines: &Machines) -> Result<Self> {
        let campaign = Campaign::load(folder, machines)?;
        let verdict = judge(&campaign);
        let name = folder
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Ok(Judged { name, link: link.to_owned(), campaign, verdict })
    }

    fn limit(&self, id: &str) -> Option<&MachineLimit> {
        self.verdict.limits.iter().find(|limit| limit.id == id)
    }

    fn claim(&self, id: &str) -> Option<&Claim> {
        self.verdict.claims.iter().find(|claim| claim.id == id)
    }

    fn device(&self) -> String {
        self.campaign.device.clone().unwrap_or_default()
    }

    /// The commit of the program that began the campaign, shortened as git does.
    fn commit(&self) -> String {
        let commit = self.campaign.runs.first().and_then(|run| run.get("git_sha"));
        commit.map_or(String::new(), |commit| commit.chars().take(7).collect())
    }

    fn date(&self) -> String {
        let started = self.campaign.runs.first().and_then(|run| run.get("started_utc"));
        started.map_or(String::new(), |time| time.chars().take(10).collect())
    }

    /// How many of its points have a time, and how many were planned.
    fn measured(&self) -> (usize, usize) {
        let points = &self.campaign.points;
        (points.iter().filter(|point| point.time_s.is_some()).count(), points.len())
    }

    /// A limit's value and how much it is of what the clocks allow, or else of the data
    /// sheet; empty where it was not measured.
    fn limit_text(&self, id: &str) -> String {
        let Some(limit) = self.limit(id) else { return String::new() };
        let value = si(limit.value.value, unit_text(limit.unit));
        let of = |best: f64, what: &str| {
            format!("{value}, {} of {what}", share(limit.value.value / best))
        };
        match (limit.derived_at_clock.or(limit.derived), limit.spec) {
            (Some(derived), _) => of(derived, "what its clocks allow"),
            (None, Some(spec)) => of(spec, "its data sheet"),
            (None, None) => value,
        }
    }

    /// How many of the data sheet's numbers, and of published times, come to what.
    fn tally_text(&self, is_asked: impl Fn(&Claim) -> bool) -> String {
        let claims = self.verdict.claims.iter().filter(|claim| is_asked(claim));
        let found: Vec<Finding> = claims.map(|claim| claim.finding).collect();
        let tested = Finding::ALL.into_iter().filter(|of| *of != Finding::NotTested);
        let counts = tested.map(|of| (of, found.iter().filter(|f| **f == of).count()));
        let parts = counts
            .filter(|(_, count)| *count > 0)
            .map(|(of, count)| format!("{count} {}", of.name()));
        parts.collect::<Vec<String>>().join(", ")
    }

    /// What a claim comes to, and how many points or pairs agree.
    fn claim_text(&self, id: &str) -> String {
        let Some(claim) = self.claim(id) else { return String::new() };
        let counts = claim.counts;
        format!("{} ({} of {})", claim.finding.name(), counts.agree, counts.planned)
    }

    /// Middle and range of the share of read bandwidth that an operation reaches from DRAM.
    fn shares_text(&self, op: Op) -> String {
        let points = self.campaign.own_points().filter(|point| point.problem.op() == op);
        let of_bandwidth = points.filter_map(|point| {
            let is_from_dram =
                point.residency.is_some_and(|residency| residency == Residency::Dram);
            is_from_dram.then_some(point.memory_s? / point.time_s?.value)
        });
        let mut shares: Vec<f64> = of_bandwidth.collect();
        shares.sort_by(f64::total_cmp);
        let Some((least, most)) = shares.first().zip(shares.last()) else {
            return String::new();
        };
        let middle = quantile(&shares, 0.5);
        format!("{} ({} to {})", share(middle), share(*least), share(*most))
    }

    /// Middle of the speeds beside the best peer, by operation.
    fn peer_speeds(&self) -> BTreeMap<Op, Vec<f64>> {
        let mut speeds: BTreeMap<Op, Vec<f64>> = BTreeMap::new();
        for peer in &self.verdict.peers {
            if let Ok(problem) = peer.problem.parse::<Problem>() {
                speeds.entry(problem.op()).or_default().push(peer.speed.value);
            }
        }
        speeds.values_mut().for_each(|speeds| speeds.sort_by(f64::total_cmp));
        speeds
    }
}

/// Folders of campaigns in a folder, by name; the folder itself where it is one.
///
/// # Errors
/// A folder that cannot be read, or in which there is no campaign.
pub fn campaigns_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_campaign = |folder: &Path| folder.join("results.csv").exists();
    if is_campaign(folder) {
        return Ok(vec![folder.to_owned()]);
    }
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut found: Vec<PathBuf> =
        paths.into_iter().filter(|path| is_campaign(path)).collect();
    found.sort();
    if found.is_empty() {
        bail!("{} is no campaign, and no folder in it is one", folder.display());
    }
    Ok(found)
}

/// A line for each campaign.
pub fn list(campaigns: &[Judged]) -> Section {
    let row = |of: &Judged| {
        let (with_time, planned) = of.measured();
        vec![
            of.name.clone(),
            of.date(),
            of.device(),
            of.campaign.suite.clone().unwrap_or_default(),
            of.commit(),
            with_time.to_string(),
            planned.to_string(),
            if of.verdict.is_valid() { "yes" } else { "no" }.to_owned(),
            of.headline(),
        ]
    };
    Section {
        heading: "Campaigns".into(),
        columns: vec![
            "campaign", "date", "device", "suite", "commit", "measured", "planned",
            "valid", "headline",
        ],
        rows: campaigns.iter().map(row).collect(),
        keys: 1,
        spare: &["planned", "measured", "commit", "date"],
        ..Section::default()
    }
}

impl Judged {
    /// What a reader wants to know first, in a line.
    fn headline(&self) -> String {
        let mut parts = Vec::new();
        if let Some(read) = self.limit("dram_read_bandwidth") {
            parts.push(format!("reads at {}", si(read.value.value, unit_text(read.unit))));
        }
        if let Some(ridge) = self.limit("bf16_ridge") {
            parts.push(format!("bf16 ridge {}", si(ridge.value.value, "FLOP/B")));
        }
        let decode = self.shares_text(Op::DecodeAttention);
        if !decode.is_empty() {
            parts.push(format!("decode at {decode} of read bandwidth"));
        }
        parts.join("; ")
    }
}

/// What several campaigns say, one column each.
pub fn side_by_side(campaigns: &[Judged]) -> Vec<(String, Vec<String>)> {
    let line = |what: &str, of: &dyn Fn(&Judged) -> String| {
        (what.to_owned(), campaigns.iter().map(of).collect::<Vec<String>>())
    };
    let mut lines = vec![
        line("records", &|of| {
            let suite = of.campaign.suite.clone().unwrap_or_default();
            format!("[{suite}]({}), {} points", of.link, of.measured().0)
        }),
        line("reads from DRAM", &|of| of.limit_text("dram_read_bandwidth")),
        line("bf16 products", &|of| of.limit_text("bf16_compute")),
        line("bf16 ridge", &|of| {
            let ridge = of.limit("bf16_ridge");
            ridge.map_or(String::new(), |ridge| si(ridge.value.value, "FLOP/B"))
        }),
    ];
    for (id, statement) in claims(campaigns) {
        lines.push(line(&statement, &|of| of.claim_text(&id)));
    }
    lines.push(line("numbers of its data sheet", &|of| {
        of.tally_text(|claim| claim.id.starts_with(OF_SHEET))
    }));
    lines.push(line("published times on it", &|of| {
        of.tally_text(|claim| claim.origin == Origin::Published)
    }));
    let of_bandwidth = "share of read bandwidth, median and range";
    for (op, name) in [(Op::DecodeAttention, "decode"), (Op::MlaDecode, "latent attention")]
    {
        lines.push(line(&format!("{name}: {of_bandwidth}"), &|of| of.shares_text(op)));
    }
    let speeds: Vec<BTreeMap<Op, Vec<f64>>> =
        campaigns.iter().map(Judged::peer_speeds).collect();
    let ops: std::collections::BTreeSet<Op> =
        speeds.iter().flat_map(|of| of.keys().copied()).collect();
    for op in ops {
        let cells = speeds.iter().map(|of| of.get(&op).map_or(String::new(), |s| speed(s)));
        let what = format!("{}: speed beside the best peer", op.facts().judged.prose);
        lines.push((what, cells.collect()));
    }
    lines.retain(|(_, cells)| cells.iter().any(|cell| !cell.is_empty()));
    lines
}

/// How the names of claims about data sheets begin.
const OF_SHEET: &str = "sheet-";

/// Claims of the paper that any of the campaigns tests, in order.
fn claims(campaigns: &[Judged]) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for claim in campaigns.iter().flat_map(|of| &of.verdict.claims) {
        let is_of_paper =
            claim.origin == Origin::BuiltIn && !claim.id.starts_with(OF_SHEET);
        let is_tested = claim.finding != Finding::NotTested;
        if is_of_paper && is_tested && !all.iter().any(|(id, _)| *id == claim.id) {
            all.push((claim.id.to_string(), claim.statement.to_string()));
        }
    }
    all
}

/// The median of ratios, and their range.
fn speed(sorted: &[f64]) -> String {
    let middle = quantile(sorted, 0.5);
    let (least, most) = (sorted.first(), sorted.last());
    let end = |end: Option<&f64>| format!("{:.2}", end.copied().unwrap_or(f64::NAN));
    match sorted.len() {
        1 => format!("{middle:.2}"),
        _ => format!("{middle:.2} ({} to {})", end(least), end(most)),
    }
}

/// A unit as people write it.
fn unit_text(unit: &'static str) -> &'static str {
    match unit {
        "bytes/s" => "B/s",
        "flops/s" => "FLOP/s",
        "flops/byte" => "FLOP/B",
        other => other,
    }
}

/// How a block begins that is made from records; what it is made of stands between the two.
const BEGIN: (&str, &str) = ("<!-- results: ", " -->");
/// How it ends.
const END: &str = "<!-- results end -->";

/// A text in Markdown whose blocks are made anew from records. A block stands between two
/// comments: `<!-- results: list FOLDER -->`, a line for each campaign in a folder, or
/// `<!-- results: beside DIR DIR... -->`, campaigns in columns; and `<!-- results end -->`.
/// Folders are seen from `home`, the text's own.
///
/// # Errors
/// A block without an end or of another kind, with its line; a campaign that cannot be read.
pub fn updated(text: &str, home: &Path, machines: &Machines) -> Result<String> {
    let mut lines = text.lines().enumerate();
    let mut made = String::new();
    while let Some((number, line)) = lines.next() {
        made.push_str(line);
        made.push('\n');
        let order = line.strip_prefix(BEGIN.0).and_then(|rest| rest.strip_suffix(BEGIN.1));
        let Some(order) = order else { continue };
        let block = block(order, home, machines);
        made.push_str(&block.with_context(|| format!("line {}: `{line}`", number + 1))?);
        if !lines.by_ref().any(|(_, line)| line == END) {
            bail!("line {}: `{line}` has no `{END}` after it", number + 1);
        }
        made.push_str(END);
        made.push('\n');
    }
    Ok(made)
}

/// What stands in a block.
fn block(order: &str, home: &Path, machines: &Machines) -> Result<String> {
    let mut words = order.split_whitespace();
    let kind = words.next().unwrap_or_default();
    let folders: Vec<&str> = words.collect();
    if folders.is_empty() || !["list", "beside"].contains(&kind) {
        bail!("write `list FOLDER` or `beside DIR DIR...`");
    }
    let load = |link: &str| Judged::load(&home.join(link), link, machines);
    let campaigns = match kind {
        "list" => all_in(home, &folders, machines)?,
        _ => folders.iter().map(|link| load(link)).collect::<Result<_>>()?,
    };
    let (headings, rows) = match kind {
        "list" => {
            let (mut headings, mut rows) = list(&campaigns).table_for_people();
            for (row, of) in rows.iter_mut().zip(&campaigns) {
                row[0] = format!("[{}]({})", of.name, of.link);
            }
            headings[0] = "campaign".to_owned();
            (headings, rows)
        }
        _ => {
            let devices = campaigns.iter().map(Judged::device);
            let rows = side_by_side(&campaigns).into_iter();
            let headings = std::iter::once(String::new()).chain(devices).collect();
            (headings, rows.map(|(what, cells)| [vec![what], cells].concat()).collect())
        }
    };
    let line =
        |cells: &[String]| format!("| {} |\n", cells.join(" | ").replace("|  |", "| |"));
    let rule = vec!["---".to_owned(); headings.len()];
    let table: String =
        [headings, rule].iter().chain(&rows).map(|cells| line(cells)).collect();
    Ok(format!("\n{table}\n"))
}

/// The campaigns in folders, which are seen from `home`.
fn all_in(home: &Path, folders: &[&str], machines: &Machines) -> Result<Vec<Judged>> {
    let mut found = Vec::new();
    for folder in folders {
        for path in campaigns_in(&home.join(folder))? {
            let link = path.strip_prefix(home).unwrap_or(&path).to_string_lossy();
            let link = link.trim_start_matches("./").to_owned();
            found.push(Judged::load(&path, &link, machines)?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
