//! Which kernels the launches of a point consist of, and the rows of the tool that are
//! theirs.

use super::output::{KernelProfile, Metric, Output};
use crate::kernel::Kernel;
use crate::point::Point;
use crate::record::CounterRow;
use crate::toolchain::Target;

/// Launches of each point that are profiled.
pub const LAUNCHES: usize = 2;

/// A kernel as the tool prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PlannedKernel {
    entry: &'static str,
    grid: String,
    block: String,
}

impl PlannedKernel {
    fn is(&self, profile: &KernelProfile) -> bool {
        (self.entry, &self.grid, &self.block)
            == (profile.kernel.as_str(), &profile.grid, &profile.block)
    }
}

/// A point to replay, with the kernels of one launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// Id of the point in its campaign.
    pub point_id: String,
    /// The point.
    pub point: Point,
    kernels: Vec<PlannedKernel>,
}

impl Replay {
    /// Plans a point on a GPU.
    ///
    /// # Errors
    /// Why it cannot be replayed, in a sentence.
    pub fn of(point_id: &str, point: Point, target: &Target) -> Result<Self, String> {
        let configured = Kernel::asked_for(&point.kernel, &point.problem, target.arch)
            .map_err(|refusal| refusal.0)?;
        let by = |[x, y, z]: [u32; 3]| format!("({x}, {y}, {z})");
        let plan = configured.plan(target);
        let kernel = |launch: &crate::kernel::Launch| PlannedKernel {
            entry: launch.entry,
            grid: by(launch.grid),
            block: by(launch.block),
        };
        let kernels: Vec<PlannedKernel> =
            plan.all_launches().map(|planned| kernel(planned.launch)).collect();
        if kernels.is_empty() {
            return Err("it is copies without a kernel, which the profiler does not count"
                .to_owned());
        }
        Ok(Replay { point_id: point_id.to_owned(), point, kernels })
    }

    /// Names of its kernels.
    pub fn entries(&self) -> impl Iterator<Item = &'static str> {
        self.kernels.iter().map(|kernel| kernel.entry)
    }
}

/// What `ridgepoint replay` prints about each point, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayLine {
    /// Which of the points of the command line, from 0.
    pub index: usize,
    /// What became of it.
    pub replayed: Replayed,
}

/// What became of a point that was to be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// All launches ran, with this machine code.
    Done(String),
    /// Why not.
    Failed(String),
}

impl ReplayLine {
    /// The line.
    pub fn text(&self) -> String {
        let index = self.index;
        match &self.replayed {
            Replayed::Done(code_hash) => format!("replay {index} done {code_hash}"),
            Replayed::Failed(why) => {
                format!("replay {index} failed {}", why.replace(['\n', '\r'], " "))
            }
        }
    }

    /// Reads a line; `None` for any other.
    pub fn read(line: &str) -> Option<Self> {
        let rest = line.strip_prefix("replay ")?;
        let (index, rest) = rest.split_once(' ')?;
        let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let replayed = match word {
            "done" => Replayed::Done(rest.trim().to_owned()),
            "failed" => Replayed::Failed(rest.to_owned()),
            _ => return None,
        };
        Some(ReplayLine { index: index.parse().ok()?, replayed })
    }
}

/// One row for each point of a batch. `blank` has what all of them have in common, and
/// `died` is said of points that the program did not come to.
pub fn rows_of(
    batch: &[Replay],
    output: &Output,
    blank: &CounterRow,
    died: &str,
) -> Vec<CounterRow> {
    let lines: Vec<ReplayLine> =
        output.program.iter().filter_map(|line| ReplayLine::read(line)).collect();
    let mut rest = &output.kernels[..];
    let mut lost: Option<String> = None;
    let mut rows = Vec::new();
    for (index, replay) in batch.iter().enumerate() {
        let row = CounterRow { point_id: replay.point_id.clone(), ..blank.clone() };
        let line = lines.iter().find(|line| line.index == index);
        let counted = match (line.map(|line| &line.replayed), &lost) {
            (None, _) => Err(died.to_owned()),
            // Before it was profiled, or the program could not have gone on.
            (Some(Replayed::Failed(why)), _) => Err(why.clone()),
            (Some(Replayed::Done(_)), Some(why)) => Err(why.clone()),
            (Some(Replayed::Done(code_hash)), None) => {
                let counted = take(replay, &mut rest, output);
                counted.map(|launches| fill(row.clone(), &launches, code_hash))
            }
        };
        rows.push(counted.unwrap_or_else(|reason| {
            if matches!(line.map(|line| &line.replayed), Some(Replayed::Done(_))) {
                lost.get_or_insert_with(|| reason.clone());
            }
            CounterRow { reason, ..row }
        }));
    }
    rows
}

/// Takes the rows of a point's launches, or says how they differ from its plan.
fn take<'a>(
    replay: &Replay,
    rest: &mut &'a [KernelProfile],
    output: &Output,
) -> Result<Vec<&'a [KernelProfile]>, String> {
    let per_launch = replay.kernels.len();
    let wanted = LAUNCHES * per_launch;
    let Some((mine, others)) = rest.split_at_checked(wanted) else {
        let errors = output.errors.join("; ");
        let said = if errors.is_empty() { "it said nothing of it" } else { &errors };
        return Err(format!(
            "the profiler told {} of {wanted} launches of kernels: {said}",
            rest.len()
        ));
    };
    let planned = replay.kernels.iter().cycle();
    if let Some((planned, profile)) = planned.zip(mine).find(|(k, profile)| !k.is(profile))
    {
        return Err(format!(
            "the profiler told of kernel {} {} where the plan has {} {}; is the program that \
             was replayed another version?",
            profile.kernel, profile.grid, planned.entry, planned.grid
        ));
    }
    *rest = others;
    Ok(mine.chunks(per_launch).collect())
}

/// Adds up the kernels of each launch and fills a row with the means over launches.
fn fill(blank: CounterRow, launches: &[&[KernelProfile]], code_hash: &str) -> CounterRow {
    let all = || launches.iter().flat_map(|launch| launch.iter());
    let sums = |metric: Metric| -> Option<Vec<f64>> {
        let of_launch = |launch: &&[KernelProfile]| {
            launch.iter().map(|kernel| kernel.value(metric)).sum::<Option<f64>>()
        };
        launches.iter().map(of_launch).collect()
    };
    // Of what is no sum: kernels that take longer weigh more.
    let share = |metric: Metric| -> Option<f64> {
        let weighted = |kernel: &KernelProfile| {
            let time_s = kernel.value(Metric::Time)?;
            Some((time_s, time_s * kernel.value(metric)?))
        };
        let parts: Option<Vec<(f64, f64)>> = all().map(weighted).collect();
        let parts = parts?;
        let time_s: f64 = parts.iter().map(|part| part.0).sum();
        (time_s > 0.0).then(|| parts.iter().map(|part| part.1).sum::<f64>() / time_s)
    };
    let (read, written) = (sums(Metric::DramBytesRead), sums(Metric::DramBytesWritten));
    let flops: Option<f64> = all().map(KernelProfile::tensor_flops).sum();
    let passes = all().filter_map(|kernel| kernel.value(Metric::Passes));
    let missing = [(&read, Metric::DramBytesRead), (&written, Metric::DramBytesWritten)];
    let missing: Vec<&str> =
        missing.iter().filter(|(sum, _)| sum.is_none()).map(|(_, m)| m.column()).collect();
    let reason = match missing.is_empty() {
        true => String::new(),
        false => format!("the profiler told no {} of it", missing.join(" and ")),
    };
    CounterRow {
        reason,
        code_hash: code_hash.to_owned(),
        launches: launches.len() as u64,
        kernels_per_launch: launches.first().map_or(0, |launch| launch.len() as u64),
        passes: passes.reduce(f64::max).map(|passes| passes as u64),
        dram_bytes_read: read.as_deref().map(mean),
        dram_bytes_read_min: read.as_deref().and_then(least),
        dram_bytes_read_max: read.as_deref().and_then(most),
        dram_bytes_written: written.as_deref().map(mean),
        dram_bytes_written_min: written.as_deref().and_then(least),
        dram_bytes_written_max: written.as_deref().and_then(most),
        l2_hit_share: share(Metric::L2HitShare),
        dram_share: share(Metric::DramShare),
        tensor_share: share(Metric::TensorShare),
        issue_share: share(Metric::IssueShare),
        warps_share: share(Metric::WarpsShare),
        sm_clock_hz: share(Metric::SmClock),
        profiled_time_s: sums(Metric::Time).as_deref().map(mean),
        tensor_flops: flops.map(|flops| flops / launches.len().max(1) as f64),
        ..blank
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn least(values: &[f64]) -> Option<f64> {
    values.iter().copied().reduce(f64::min)
}

fn most(values: &[f64]) -> Option<f64> {
    values.iter().copied().reduce(f64::max)
}
