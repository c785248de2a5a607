//! Replays a campaign's points under the profiler, batch by batch, and keeps
//! `counters.csv` complete meanwhile: each point has a row for each cache control, with its
//! numbers or with the reason why there are none.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::output::Output;
use super::plan::{LAUNCHES, Replay, ReplayLine, Replayed, rows_of};
use super::tool::{Finished, Tool, last_line};
use crate::device::DeviceKind;
use crate::op::Problem;
use crate::point::Point;
use crate::provenance::Provenance;
use crate::record::{
    CacheControl, CounterRow, Records, Row, counters_csv, write_atomically,
};
use crate::suite::Filter;
use crate::toolchain::{Arch, Target};

/// Points of one process of the tool: its start takes seconds, and what goes wrong costs
/// the whole batch.
const BATCH: usize = 6;

/// Longest that a batch may take.
const BATCH_LIMIT: Duration = Duration::from_secs(240);

/// Least time that is worth beginning a batch with.
const BATCH_LEAST: Duration = Duration::from_secs(5);

/// What is to be counted, and with what.
#[derive(Clone, Debug)]
pub struct Request {
    /// The campaign's folder.
    pub folder: PathBuf,
    /// Begin no further batch after so long.
    pub budget: Duration,
    /// The device that points are replayed on, `cuda:0`.
    pub device: String,
    /// Compiled kernels, where the machine has no compiler.
    pub kernels: Option<PathBuf>,
    /// The tool, unless it is where it is usually installed.
    pub ncu: Option<PathBuf>,
    /// This program.
    pub program: PathBuf,
    /// Replay only points that meet this.
    pub filter: Option<Filter>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Collected {
    /// The file that was written.
    pub path: PathBuf,
    /// Rows with numbers.
    pub counted: usize,
    /// How many rows have none for each reason, in the order in which reasons came up.
    pub reasons: Vec<(String, usize)>,
}

/// A point's id, and what is done with the caches.
type RowKey = (String, CacheControl);

/// Counts the points of one campaign.
pub struct Collector {
    request: Request,
    /// Ids of all points with a time, in the order of `results.csv`.
    ids: Vec<String>,
    /// What is there, or the reason why not.
    rows: HashMap<RowKey, CounterRow>,
    seed: u64,
    began: Instant,
}

impl Collector {
    /// Reads the campaign, and the counters that it already has.
    ///
    /// # Errors
    /// A folder that is no campaign, one whose points have no times.
    pub fn collect(request: Request, progress: &mut dyn FnMut(&str)) -> Result<Collected> {
        let records = Records::read(&request.folder)?;
        let measured = measured_rows(&records);
        if measured.is_empty() {
            bail!(
                "no point of {} has a measured time, so there is nothing to count",
                request.folder.display()
            );
        }
        if let Some(filter) = &request.filter
            && !measured.iter().any(|row| point_of(row).is_ok_and(|p| filter.matches(&p)))
        {
            bail!(
                "none of the {} measured points of {} meets `{filter}`",
                measured.len(),
                request.folder.display()
            );
        }
        let provenance =
            records.runs.last().map(|run| Provenance::of(run, 0).0).unwrap_or_default();
        let earlier = records.witnesses.counters.clone().unwrap_or_default();
        let counted = earlier.into_iter().filter(CounterRow::is_counted);
        let mut collector = Collector {
            ids: measured.iter().map(|row| row.point_id.clone()).collect(),
            rows: counted
                .map(|row| ((row.point_id.clone(), row.cache_control), row))
                .collect(),
            seed: provenance.seed.unwrap_or(1),
            began: Instant::now(),
            request,
        };
        let outcome = collector.all(&measured, &provenance, progress);
        if let Err(why) = outcome {
            collector.give_up(&why);
        }
        collector.write()?;
        Ok(collector.summary())
    }

    /// # Errors
    /// Why no point, or no further one, can be counted.
    fn all(
        &mut self,
        measured: &[&Row],
        provenance: &Provenance,
        progress: &mut dyn FnMut(&str),
    ) -> Result<(), String> {
        let target = target(provenance)?;
        let replays = self.plan(measured, &target);
        let mut tool = Tool::find(self.request.ncu.as_deref(), target.arch)
            .map_err(|why| why.to_string())?;
        progress(&format!("{}, {} points", tool.version, replays.len()));
        let batches = replays.chunks(BATCH).count();
        for (at, batch) in replays.chunks(BATCH).enumerate() {
            for control in CacheControl::ALL {
                let wanted: Vec<Replay> =
                    batch.iter().filter(|r| self.is_missing(r, control)).cloned().collect();
                if wanted.is_empty() {
                    continue;
                }
                progress(&format!(
                    "batch {} of {batches}: {} points, cache control {}",
                    at + 1,
                    wanted.len(),
                    control.name()
                ));
                self.batch(&mut tool, &wanted, control)?;
                self.write().map_err(|why| format!("{why:#}"))?;
            }
        }
        Ok(())
    }

    /// The points to replay: the largest of each operation and kernel first, then the
    /// others as they were measured. Those that cannot be replayed get their reason.
    fn plan(&mut self, measured: &[&Row], target: &Target) -> Vec<Replay> {
        let mut replays: Vec<Replay> = Vec::new();
        for row in measured {
            let planned =
                point_of(row).and_then(|point| Replay::of(&row.point_id, point, target));
            match planned {
                Ok(replay) if self.is_wanted(&replay.point) => replays.push(replay),
                Ok(_) => {
                    for control in CacheControl::ALL {
                        self.put(&row.point_id, control, "left out by --filter");
                    }
                }
                Err(why) => {
                    for control in CacheControl::ALL {
                        self.put(&row.point_id, control, &why);
                    }
                }
            }
        }
        let bytes = |replay: &Replay| replay.point.problem.work().bytes();
        let mut order: Vec<usize> = (0..replays.len()).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(bytes(&replays[at])));
        let mut kinds = HashSet::new();
        let is_first = |&at: &usize| {
            let point = &replays[at].point;
            kinds.insert((point.problem.op(), point.kernel.clone(), point.cache))
        };
        let firsts: HashSet<usize> = order.iter().copied().filter(is_first).collect();
        let mut at = 0..replays.len();
        let (mut first, rest): (Vec<Replay>, Vec<Replay>) = replays
            .into_iter()
            .partition(|_| at.next().is_some_and(|at| firsts.contains(&at)));
        first.extend(rest);
        first
    }

    fn is_wanted(&self, point: &Point) -> bool {
        self.request.filter.as_ref().is_none_or(|filter| filter.matches(point))
    }

    fn is_missing(&self, replay: &Replay, control: CacheControl) -> bool {
        let row = self.rows.get(&(replay.point_id.clone(), control));
        row.is_none_or(|row| !row.is_counted())
    }

    /// Profiles a batch and takes over its rows. A tool that does not know a counter of
    /// FLOPs, or does not obey marks, is asked again without.
    ///
    /// # Errors
    /// Why no further batch would do better.
    fn batch(
        &mut self,
        tool: &mut Tool,
        batch: &[Replay],
        control: CacheControl,
    ) -> Result<(), String> {
        loop {
            let limit = self.limit()?;
            let entries: Vec<&str> = batch.iter().flat_map(Replay::entries).collect();
            let command = self.replay_command(batch, tool.obeys_marks());
            let finished = tool
                .profile(control, &entries, &command, limit)
                .map_err(|why| why.to_string())?;
            let output = Output::read(&format!("{}\n{}", finished.stdout, finished.stderr));
            let died = why_it_died(&finished, &output, batch.len(), limit);
            self.take_over(tool, batch, control, &output, &died);
            // Nothing of it depends on the points.
            let refused = output.errors.iter().find(|why| why.contains("ERR_NVGPUCTRPERM"));
            if let Some(why) = refused {
                return Err(why.clone());
            }
            if finished.timed_out || !output.kernels.is_empty() {
                return Ok(());
            }
            let replayed = output.program.iter().filter_map(|line| ReplayLine::read(line));
            let replayed: Vec<Replayed> = replayed.map(|line| line.replayed).collect();
            let is_done = |replayed: &Replayed| matches!(replayed, Replayed::Done(_));
            let asks_again = match replayed.iter().any(is_done) {
                true => tool.forget_marks(),
                false => tool.forget_tensor_flops(),
            };
            match (asks_again, replayed.is_empty()) {
                (true, _) => {}
                (false, true) => return Err(died),
                (false, false) => return Ok(()),
            }
        }
    }

    /// How long a batch may take.
    ///
    /// # Errors
    /// The time is up.
    fn limit(&self) -> Result<Duration, String> {
        let left = self.request.budget.saturating_sub(self.began.elapsed());
        if left < BATCH_LEAST {
            return Err(format!(
                "not reached within {:.1} minutes; run `ridgepoint counters` again to go on",
                self.request.budget.as_secs_f64() / 60.0
            ));
        }
        Ok(left.min(BATCH_LIMIT))
    }

    fn take_over(
        &mut self,
        tool: &Tool,
        batch: &[Replay],
        control: CacheControl,
        output: &Output,
        died: &str,
    ) {
        let without = if tool.obeys_marks() { "" } else { ", without warm-up" };
        let blank = CounterRow {
            cache_control: control,
            tool: format!("{}{without}", tool.version),
            started_utc: format!("{:.3}", jiff::Timestamp::now()),
            ..CounterRow::default()
        };
        for row in rows_of(batch, output, &blank, died) {
            self.rows.insert((row.point_id.clone(), control), row);
        }
    }

    /// This program's command line that launches a batch.
    fn replay_command(&self, batch: &[Replay], warms_up: bool) -> Vec<OsString> {
        let Request { program, device, kernels, .. } = &self.request;
        let mut words: Vec<OsString> = vec![program.into(), "replay".into()];
        words.extend(["--device".into(), device.into()]);
        words.extend(["--seed".into(), self.seed.to_string().into()]);
        words.extend(["--launches".into(), LAUNCHES.to_string().into()]);
        words.extend((!warms_up).then(|| "--no-warm-up".into()));
        if let Some(folder) = kernels {
            words.extend(["--kernels".into(), folder.into()]);
        }
        words.extend(batch.iter().map(|replay| replay.point.to_string().into()));
        words
    }

    /// Gives a reason to a point that has no row yet.
    fn put(&mut self, point_id: &str, control: CacheControl, reason: &str) {
        let key = (point_id.to_owned(), control);
        self.rows.entry(key).or_insert_with(|| CounterRow {
            point_id: point_id.to_owned(),
            cache_control: control,
            reason: reason.to_owned(),
            ..CounterRow::default()
        });
    }

    /// Gives the reason to all points that have no row.
    fn give_up(&mut self, reason: &str) {
        for id in self.ids.clone() {
            for control in CacheControl::ALL {
                self.put(&id, control, reason);
            }
        }
    }

    /// The rows in the order of `results.csv`.
    fn in_order(&self) -> Vec<CounterRow> {
        let keys =
            self.ids.iter().flat_map(|id| CacheControl::ALL.map(|c| (id.clone(), c)));
        keys.filter_map(|key| self.rows.get(&key).cloned()).collect()
    }

    fn path(&self) -> PathBuf {
        self.request.folder.join("counters.csv")
    }

    fn write(&self) -> Result<()> {
        write_atomically(&self.path(), counters_csv(&self.in_order())?.as_bytes())
    }

    fn summary(&self) -> Collected {
        let mut collected = Collected { path: self.path(), ..Collected::default() };
        for row in self.in_order() {
            if row.is_counted() {
                collected.counted += 1;
                continue;
            }
            match collected.reasons.iter_mut().find(|(why, _)| *why == row.reason) {
                Some((_, count)) => *count += 1,
                None => collected.reasons.push((row.reason, 1)),
            }
        }
        collected
    }
}

/// Rows of own kernels with a time that was measured, repeats of the sentinel left out.
/// Another library's kernels have no plan to find their launches by.
fn measured_rows(records: &Records) -> Vec<&Row> {
    let has_time = |row: &&Row| {
        let status = row.status.is_some_and(|status| status.has_time());
        status
            && row.is_own()
            && row.is_planned()
            && row.device_kind == DeviceKind::Measured.name()
    };
    records.rows.iter().filter(has_time).collect()
}

fn point_of(row: &Row) -> Result<Point, String> {
    let problem: Problem = row.problem.parse().map_err(|why| format!("{why}"))?;
    // What a tuning table chose then is asked for by its name now.
    let kernel = match row.configuration_from.as_str() {
        "tuned" => format!("{}.{}", row.kernel, row.configuration).parse()?,
        _ => row.kernel.parse()?,
    };
    let cache = row.cache_state.parse()?;
    // How its launches were queued makes no difference to its counters.
    Ok(Point { problem, kernel, cache, launch: None, load: None })
}

/// The GPU that the campaign was measured on.
fn target(provenance: &Provenance) -> Result<Target, String> {
    let device = &provenance.device;
    let Some(((major, minor), sms)) = device.compute_capability.zip(device.sm_count) else {
        return Err(format!(
            "{} is no GPU by run.csv; Nsight Compute counts on NVIDIA GPUs only",
            if device.name.is_empty() { "the device" } else { &device.name }
        ));
    };
    Ok(Target::new(Arch { major, minor }, u32::try_from(sms).unwrap_or(u32::MAX)))
}

/// What is said of the points of a batch that the program did not come to.
fn why_it_died(
    finished: &Finished,
    output: &Output,
    points: usize,
    limit: Duration,
) -> String {
    if finished.timed_out {
        return format!(
            "the profiler was ended after {:.0} s with a batch of {points} points",
            limit.as_secs_f64()
        );
    }
    let mut said = output.errors.clone();
    let last = last_line(finished);
    if !last.starts_with("==") && ReplayLine::read(last).is_none() {
        said.push(last.to_owned());
    }
    match said.is_empty() {
        true => "the profiler ended before this point and said nothing of it".to_owned(),
        false => format!("the profiler ended before this point: {}", said.join("; ")),
    }
}
