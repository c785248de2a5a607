//! Shards of a plan, or campaigns of the same plan on several machines, put into one folder.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::rows::point_columns;
use crate::files::{self, TemporaryFolder};
use crate::point::Point;
use crate::provenance::{MODEL_COLUMNS, PROGRAM_COLUMNS, differences};
use crate::record::{
    MergedFile, Records, Row, Run, Status, first_cells, runs_csv, write_atomically,
};
use crate::suite::{PlannedPoints, Shard, Suite};

/// A row of `plan.csv`: a point of the whole plan, and which shard measures it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PlanRow {
    point_id: String,
    /// From 1; `None` for what each measures.
    shard: Option<u32>,
    point: String,
}

/// Writes which shard measures which point of the whole plan, so that whoever merges shards
/// knows the points of one that is missing.
pub(super) fn write_plan(folder: &Path, whole: &PlannedPoints, count: u32) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for (point, shard) in whole.points.iter().zip(whole.shards(count)) {
        let (point_id, point) = (point.id(), point.to_string());
        writer.serialize(PlanRow { point_id, shard, point })?;
    }
    write_atomically(&folder.join("plan.csv"), &writer.into_inner()?)
}

/// One of the campaigns that were merged.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedShard {
    /// The name of its folder: what rows of `run.csv` have in the column `node`.
    pub node: String,
    /// Which part of the plan it is; `None` for all of it.
    pub shard: Option<Shard>,
    /// Rows of its processes.
    pub rows: usize,
    /// Rows that it was to have.
    pub planned_rows: Option<usize>,
}

/// A point of the plan that no campaign has a row of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPoint {
    /// Its text.
    pub point: String,
    /// Why, and what to do.
    pub reason: String,
}

/// What was merged.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeSummary {
    /// The new folder.
    pub folder: PathBuf,
    /// The campaigns, in the order in which they were given.
    pub shards: Vec<MergedShard>,
    /// Shards of the plan that none of them is.
    pub missing_shards: Vec<u32>,
    /// Points without a row.
    pub missing: Vec<MissingPoint>,
}

impl MergeSummary {
    /// Whether every planned row of every campaign is there, and every shard.
    pub fn is_complete(&self) -> bool {
        let is_whole = |shard: &MergedShard| {
            shard.planned_rows.is_none_or(|planned| shard.rows >= planned)
        };
        self.missing_shards.is_empty()
            && self.missing.is_empty()
            && self.shards.iter().all(is_whole)
    }
}

/// A campaign that is to be merged.
struct Part {
    folder: PathBuf,
    node: String,
    runs: Vec<Run>,
    suite: Suite,
    plan: Vec<PlanRow>,
}

impl Part {
    fn read(folder: &Path) -> Result<Self> {
        let runs = Records::read_runs(folder)?;
        if runs.is_empty() {
            bail!("{} has no row", folder.join("run.csv").display());
        }
        let suite = Suite::load_file(&folder.join("suite.toml"))?;
        let path = folder.join("plan.csv");
        let plan = match suite.shard() {
            None => Vec::new(),
            Some(_) => {
                let mut reader = csv::Reader::from_path(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                let rows: Result<_, csv::Error> = reader.deserialize().collect();
                rows.with_context(|| format!("{} does not parse", path.display()))?
            }
        };
        // A folder that is given as `.` has a name too.
        let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let name = whole.file_name().unwrap_or(whole.as_os_str());
        let node = name.to_string_lossy().into_owned();
        Ok(Part { folder: folder.to_owned(), node, runs, suite, plan })
    }

    fn planned_rows(&self) -> Option<usize> {
        self.runs.last()?.get("planned_rows")?.parse().ok()
    }
}

/// Merges campaigns of one plan into a new folder. Rows stay told apart by the processes that
/// measured them, which `run.csv` says the `node` of. Points without a row get one that says
/// why.
///
/// # Errors
/// Campaigns of different plans, programs or kinds of machine, with the difference; one that
/// is given twice; a folder that exists or cannot be written.
pub fn merge(folders: &[PathBuf], out: &Path) -> Result<MergeSummary> {
    let parts =
        folders.iter().map(|folder| Part::read(folder)).collect::<Result<Vec<_>>>()?;
    let Some(first) = parts.first() else { bail!("name the folders to merge") };
    for part in &parts {
        agree(first, part)?;
    }
    refuse_doubled(&parts)?;
    if out.exists() {
        bail!("{} exists and is never overwritten; give another folder", out.display());
    }
    let name = format!(".{}-merging", std::process::id());
    let staging = TemporaryFolder::make(&out.with_file_name(name))?;
    let summary = write_merged(&parts, staging.path(), out)?;
    fs::rename(staging.path(), out)
        .with_context(|| format!("cannot make {}", out.display()))?;
    staging.keep();
    Ok(summary)
}

/// Refuses a campaign whose rows would not belong to those of the first.
fn agree(first: &Part, part: &Part) -> Result<()> {
    let of_plan = ["schema_version", "protocol", "points_hash"];
    let columns = [&PROGRAM_COLUMNS[..], &MODEL_COLUMNS, &of_plan].concat();
    let runs = part.runs.iter().filter(|run| {
        // A process that measured other libraries says less.
        run.get("planned_peer_rows").is_none_or(str::is_empty)
    });
    for run in runs {
        if let Some(d) = differences(&first.runs[0], run, &columns).first() {
            bail!(
                "{} and {} cannot be merged: in run.csv, column {}, the first has `{}` and the \
                 second `{}`; campaigns of one plan, program and kind of machine can, and \
                 `ridgepoint compare` is for others",
                first.folder.display(),
                part.folder.display(),
                d.column,
                d.was,
                d.is
            );
        }
    }
    let [a, b] = [first.suite.whole()?.text, part.suite.whole()?.text];
    if a != b {
        let lines = a.lines().zip(b.lines()).zip(1..);
        let differ = lines.into_iter().find(|((a, b), _)| a != b);
        let at = differ.map_or("one is longer".to_owned(), |((a, b), line)| {
            format!("line {line} is `{a}` in the first and `{b}` in the second")
        });
        bail!(
            "{} and {} are of different suites: of suite.toml, {at}",
            first.folder.display(),
            part.folder.display()
        );
    }
    let counts = [first, part].map(|part| part.suite.shard().map(|shard| shard.count));
    if counts[0] != counts[1] {
        let spelled = [first, part].map(|part| match part.suite.shard() {
            Some(shard) => format!("shard {shard}"),
            None => "the whole plan".to_owned(),
        });
        bail!(
            "{} is {} and {} is {}: they divide the plan in different ways",
            first.folder.display(),
            spelled[0],
            part.folder.display(),
            spelled[1]
        );
    }
    Ok(())
}

/// Refuses folders of one name, which tells rows apart, and one campaign twice.
fn refuse_doubled(parts: &[Part]) -> Result<()> {
    let mut by_run: HashMap<&str, &Part> = HashMap::new();
    let mut by_name: HashMap<&str, &Part> = HashMap::new();
    for part in parts {
        for run in part.runs.iter().filter_map(|run| run.get("run_id")) {
            if let Some(other) = by_run.insert(run, part) {
                bail!(
                    "{} and {} have the same process {run}: one campaign was given twice",
                    other.folder.display(),
                    part.folder.display()
                );
            }
        }
        if let Some(other) = by_name.insert(&part.node, part) {
            bail!(
                "{} and {} have one name, by which their rows are told apart; rename one",
                other.folder.display(),
                part.folder.display()
            );
        }
    }
    Ok(())
}

/// Writes the files. `out` is where they will be.
fn write_merged(parts: &[Part], folder: &Path, out: &Path) -> Result<MergeSummary> {
    let first = &parts[0];
    files::write(&folder.join("suite.toml"), first.suite.whole()?.text.as_bytes())?;
    let runs: Vec<Run> = parts.iter().flat_map(runs_of_node).collect();
    files::write(&folder.join("run.csv"), &runs_csv(&runs)?)?;
    let Some(mut results) = MergedFile::begin(folder, "results.csv", &first.folder)? else {
        bail!("{} is missing or empty", first.folder.join("results.csv").display());
    };
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut shards = Vec::new();
    for part in parts {
        let mut rows = 0;
        let path = part.folder.join("results.csv");
        results.append(&path, |line| {
            rows += 1;
            if let Some([_, point_id]) = first_cells(line) {
                seen.insert(point_id.to_owned());
            }
        })?;
        let (node, shard) = (part.node.clone(), part.suite.shard());
        shards.push(MergedShard { node, shard, rows, planned_rows: part.planned_rows() });
    }
    let (missing, missing_shards) = (missing(parts, &seen), missing_shards(parts));
    for missing in &missing {
        results.append_row(&row_of(missing, first)?)?;
    }
    results.finish()?;
    for name in ["rounds.csv", "samples.csv"] {
        let Some(mut file) = MergedFile::begin(folder, name, &first.folder)? else {
            continue;
        };
        for part in parts {
            file.append(&part.folder.join(name), |_| ())?;
        }
        file.finish()?;
    }
    if !first.plan.is_empty() {
        fs::copy(first.folder.join("plan.csv"), folder.join("plan.csv"))
            .with_context(|| files::cannot_write(&folder.join("plan.csv")))?;
    }
    Ok(MergeSummary { folder: out.to_owned(), shards, missing_shards, missing })
}

/// A campaign's processes with the column that tells its rows from others'.
fn runs_of_node(part: &Part) -> impl Iterator<Item = Run> {
    part.runs.iter().map(|run| {
        let mut run = run.clone();
        run.set("node", &part.node);
        run
    })
}

/// Shards of the plan that no campaign is.
fn missing_shards(parts: &[Part]) -> Vec<u32> {
    let there: BTreeSet<u32> =
        parts.iter().filter_map(|part| Some(part.suite.shard()?.index)).collect();
    let count = parts[0].suite.shard().map_or(0, |shard| shard.count);
    (1..=count).filter(|index| !there.contains(index)).collect()
}

/// Points of the plan that no campaign has a row of.
fn missing(parts: &[Part], seen: &BTreeSet<String>) -> Vec<MissingPoint> {
    let mut by_shard: BTreeMap<u32, Vec<&Part>> = BTreeMap::new();
    for part in parts {
        if let Some(shard) = part.suite.shard() {
            by_shard.entry(shard.index).or_default().push(part);
        }
    }
    let rows = parts[0].plan.iter().filter(|row| !seen.contains(&row.point_id));
    let of_row = |row: &PlanRow| {
        let of_shard = row.shard.and_then(|shard| by_shard.get(&shard));
        let reason = match (row.shard, of_shard) {
            (Some(shard), None) => {
                format!("not measured: shard {shard} was not among those that were merged")
            }
            (_, Some(parts)) => {
                let part = parts[0];
                format!(
                    "not measured: {} ended before it; `ridgepoint measure --resume {}` \
                     finishes it there, then merge again",
                    part.node,
                    part.folder.display()
                )
            }
            (None, None) => "not measured: no node came to it".to_owned(),
        };
        MissingPoint { point: row.point.clone(), reason }
    };
    rows.map(of_row).collect()
}

/// The row of a point that nothing measured.
fn row_of(missing: &MissingPoint, first: &Part) -> Result<Row> {
    let point: Point = missing.point.parse().map_err(|why| {
        anyhow::anyhow!("{}: {why}", first.folder.join("plan.csv").display())
    })?;
    let of = |column: &str| first.runs[0].get(column).unwrap_or_default().to_owned();
    Ok(Row {
        status: Some(Status::Skipped),
        reason: missing.reason.clone(),
        suite: first.suite.name.clone(),
        device: of("device"),
        device_kind: of("device_kind"),
        check: "none".to_owned(),
        ..point_columns(&point)
    })
}

#[cfg(test)]
mod tests;
