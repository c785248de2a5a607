//! How long a campaign takes, before it is measured and while it is.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Scheduled, schedule};
use crate::device::{Device, DeviceInfo};
use crate::measure::{Rotation, Settings};
use crate::op::{Op, Problem};
use crate::point::Point;
use crate::record::{Records, Row, Run};
use crate::suite::{Suite, SuiteError};

/// Seconds of a campaign. By the protocol alone they are those of warm-up and samples:
/// filling buffers and comparing outputs come on top, and how long they take is known only
/// where an earlier campaign of the same device says it.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedTime {
    /// Rounds of points, repeats of the sentinel among them.
    pub rounds: usize,
    /// How many of them the device can measure; the others are skipped at once.
    pub measured_rounds: usize,
    /// When every point is as precise as wanted at the earliest moment.
    pub least_s: f64,
    /// When every point takes all the time that it may.
    pub most_s: f64,
    /// By what points took in an earlier campaign.
    pub likely: Option<LikelyTime>,
    /// Of each point that the device can measure, all of its rounds: its id with seconds.
    pub points: HashMap<String, PointTime>,
}

/// Seconds by what an earlier campaign took.
#[derive(Clone, Debug, PartialEq)]
pub struct LikelyTime {
    /// Of the whole campaign.
    pub total_s: f64,
    /// The earlier campaign.
    pub folder: PathBuf,
    /// How many of the points it has; the others take as long as its others of their
    /// operation do, or as all of its do.
    pub known: usize,
}

/// Seconds of a point, all of its rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PointTime {
    /// How long.
    pub time_s: f64,
    /// What says so: `campaign` for the same point, `alike` for others of a campaign, or
    /// `protocol`.
    pub from: &'static str,
}

impl ExpectedTime {
    /// Of a suite on a device.
    ///
    /// # Errors
    /// A mistake in the suite.
    pub fn of(
        suite: &Suite,
        device: &dyn Device,
        earlier: Option<&EarlierTimes>,
    ) -> Result<Self, SuiteError> {
        let settings = &suite.settings;
        let plan = suite.plan(device)?;
        let order = schedule(&plan, 0, settings);
        let all = order.len();
        let runs = order.iter().filter(|scheduled| can_run(device, scheduled, settings));
        let runs: Vec<&Scheduled> = runs.collect();
        let mut expected = Self::of_rounds(&settings.of_round(), all, runs.len());
        let mut total_s = 0.0;
        for scheduled in runs {
            let point = &scheduled.point;
            let time = match earlier {
                Some(earlier) => earlier.of_point(point, settings),
                None => {
                    let time_s = settings.warmup_s + settings.min_sample_s;
                    PointTime { time_s, from: "protocol" }
                }
            };
            total_s += time.time_s / f64::from(settings.rounds.max(1) as u32);
            expected.points.insert(point.id(), time);
        }
        let known = expected.points.values().filter(|time| time.from == "campaign").count();
        expected.likely = earlier.map(|earlier| LikelyTime {
            total_s,
            folder: earlier.folder.clone(),
            known,
        });
        Ok(expected)
    }

    /// With the settings of a round.
    fn of_rounds(settings: &Settings, rounds: usize, measured_rounds: usize) -> Self {
        let count = measured_rounds as f64;
        let most_sample_s = settings.max_sample_s.max(settings.min_sample_s);
        ExpectedTime {
            rounds,
            measured_rounds,
            least_s: count * (settings.warmup_s + settings.min_sample_s),
            most_s: count * (settings.warmup_s + most_sample_s),
            likely: None,
            points: HashMap::new(),
        }
    }

    /// Seconds of a round: by an earlier campaign, or else by the protocol.
    pub fn round_s(&self) -> Option<f64> {
        let total_s = self.likely.as_ref().map_or(self.least_s, |likely| likely.total_s);
        (self.rounds > 0).then(|| total_s / self.rounds as f64)
    }
}

impl fmt::Display for ExpectedTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(LikelyTime { total_s, folder, known }) = &self.likely {
            return write!(
                f,
                "about {} by {}, an earlier campaign of this device that has {known} of the {} \
                 points; by the protocol {} to {} of warm-up and samples",
                spell_seconds(*total_s),
                folder.display(),
                self.points.len(),
                spell_seconds(self.least_s),
                spell_seconds(self.most_s)
            );
        }
        write!(
            f,
            "at least {} of warm-up and samples by the protocol, {} where intervals stay wide, \
             and the time to fill buffers and to check outputs",
            spell_seconds(self.least_s),
            spell_seconds(self.most_s)
        )
    }
}

/// What points took in an earlier campaign of the same device.
#[derive(Clone, Debug)]
pub struct EarlierTimes {
    folder: PathBuf,
    suite: String,
    settings: Option<Settings>,
    by_point: HashMap<String, RowTime>,
    by_op: HashMap<Op, RowTime>,
    of_all: RowTime,
}

/// Where the time of rows went, in the mean.
#[derive(Clone, Copy, Debug, Default)]
struct RowTime {
    rows: u32,
    /// Filling buffers and checks.
    around_s: f64,
    warmup_s: f64,
    sample_s: f64,
}

impl RowTime {
    fn add(&mut self, row: &Row) {
        let count = f64::from(self.rows);
        let mean = |mean: f64, value: f64| (mean * count + value) / (count + 1.0);
        *self = RowTime {
            rows: self.rows + 1,
            around_s: mean(self.around_s, row.setup_s + row.check_s),
            warmup_s: mean(self.warmup_s, row.warmup_s),
            sample_s: mean(self.sample_s, row.sample_s),
        };
    }
}

impl EarlierTimes {
    /// Reads a campaign of the same device.
    ///
    /// # Errors
    /// A folder that is no campaign, one of another device, one without rows.
    pub fn read(folder: &Path, info: &DeviceInfo) -> Result<Self> {
        let records = Records::read(folder)?;
        let shown = folder.display();
        let run = records.runs.first().with_context(|| format!("{shown} has no run"))?;
        if !is_of_device(run, info) {
            bail!(
                "{shown} is of {}, which says nothing of {}; give a campaign of this device",
                run.get("device").unwrap_or("an unknown device"),
                info.name
            );
        }
        let mut times = EarlierTimes {
            folder: folder.to_owned(),
            suite: run.get("suite").unwrap_or_default().to_owned(),
            settings: Suite::load_file(&folder.join("suite.toml")).ok().map(|s| s.settings),
            by_point: HashMap::new(),
            by_op: HashMap::new(),
            of_all: RowTime::default(),
        };
        // What was not measured took no time, and repeats are rounds of the sentinel.
        let rows = records.rows.iter().filter(|row| row.is_own() && row.sample_s > 0.0);
        for row in rows.filter(|row| row.is_planned()) {
            times.of_all.add(row);
            times.by_point.entry(row.point_id.clone()).or_default().add(row);
            if let Ok(problem) = row.problem.parse::<Problem>() {
                times.by_op.entry(problem.op()).or_default().add(row);
            }
        }
        if times.of_all.rows == 0 {
            bail!("{shown} has no measured point, so it does not say what points take");
        }
        Ok(times)
    }

    /// The campaign in a folder of campaigns that says most of a suite on a device: of the
    /// same suite, or else with the most of its points; of several the one whose name, which
    /// begins with the date, is last.
    pub fn find(
        campaigns: &Path,
        info: &DeviceInfo,
        suite: &Suite,
        points: &[Point],
    ) -> Option<Self> {
        let ids: Vec<String> = points.iter().map(Point::id).collect();
        let folders = std::fs::read_dir(campaigns).ok()?;
        let read = |entry: std::io::Result<std::fs::DirEntry>| {
            EarlierTimes::read(&entry.ok()?.path(), info).ok()
        };
        let says = |times: &EarlierTimes| {
            let known = ids.iter().filter(|id| times.by_point.contains_key(*id)).count();
            (times.suite == suite.name, known, times.folder.clone())
        };
        folders.filter_map(read).max_by_key(says)
    }

    /// What a point should take under a protocol: the time around it as it was, and warm-up
    /// and samples too where the protocol is the same, or else as it allows them.
    fn of_point(&self, point: &Point, settings: &Settings) -> PointTime {
        let (row, from) = match self.by_point.get(&point.id()) {
            Some(row) => (row, "campaign"),
            None => (self.by_op.get(&point.problem.op()).unwrap_or(&self.of_all), "alike"),
        };
        let is_same = self.settings.as_ref() == Some(settings);
        let most_s = settings.max_sample_s.max(settings.min_sample_s);
        let (warmup_s, sample_s) = match is_same {
            true => (row.warmup_s, row.sample_s),
            false => (settings.warmup_s, row.sample_s.clamp(settings.min_sample_s, most_s)),
        };
        PointTime { time_s: row.around_s + warmup_s + sample_s, from }
    }
}

/// Whether a process ran on a device like this one: its name, and how much of it.
fn is_of_device(run: &Run, info: &DeviceInfo) -> bool {
    let extent = |column: &&str| {
        let now = info.facts.iter().find(|(name, _)| name == column).map(|(_, now)| now);
        let then = run.get(column).filter(|then| !then.is_empty());
        now.zip(then).is_none_or(|(now, then)| now == then)
    };
    run.get("device") == Some(info.name.as_str())
        && ["threads", "sm_count", "simd"].iter().all(extent)
}

fn can_run(device: &dyn Device, scheduled: &Scheduled, settings: &Settings) -> bool {
    let info = device.info();
    let memory_bytes = settings.memory_bytes.min(info.memory_bytes);
    let cache_bytes = info.last_level_cache_bytes();
    device.kernel(&scheduled.point.problem).is_ok()
        && Rotation::plan(&scheduled.point, cache_bytes, memory_bytes).is_ok()
}

/// Mean seconds of the rows that were measured so far; `None` when there are none.
pub fn seconds_of_a_row(rows: &[Row]) -> Option<f64> {
    let total_s: f64 = rows
        .iter()
        .map(|row| row.setup_s + row.check_s + row.warmup_s + row.sample_s)
        .sum();
    (!rows.is_empty()).then(|| total_s / rows.len() as f64)
}

/// Seconds as people say them: `45 s`, `3.5 min`, `2.1 h`.
pub fn spell_seconds(seconds: f64) -> String {
    match seconds {
        s if s < 89.5 => format!("{s:.0} s"),
        s if s < 600.0 => format!("{:.1} min", s / 60.0),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::simulated::SimulatedDevice;

    #[test]
    fn skipped_points_take_no_time() {
        let text = "name = \"x\"\n[protocol]\nwarmup_s = 1\nmin_sample_s = 2\n\
                    max_sample_s = 9\nsentinel_every = 1\nrounds = 1\n[sentinel]\nop = \"stream\"\n\
                    access = \"read\"\nbytes = \"64 KiB\"\n[[points]]\nop = \"stream\"\n\
                    access = [\"read\", \"copy\"]\nbytes = \"4 MiB\"\n[[points]]\n\
                    op = \"stream\"\naccess = \"read\"\nbytes = \"1 GiB\"\n";
        let suite = Suite::parse("x.toml", text).unwrap();
        let expected = ExpectedTime::of(&suite, &SimulatedDevice::default(), None).unwrap();
        // The sentinel four times, between three points of which the device cannot copy
        // one and lacks the memory of another.
        assert_eq!((expected.rounds, expected.measured_rounds), (7, 5));
        assert_eq!((expected.least_s, expected.most_s), (15.0, 50.0));
        let said = expected.to_string();
        assert!(
            said.starts_with("at least 15 s of warm-up and samples by the protocol, 50 s"),
            "{said}"
        );
        // Three rounds of a third each, and the sentinel after each of them.
        let suite = Suite::parse("x.toml", &text.replace("rounds = 1", "rounds = 3"));
        let expected =
            ExpectedTime::of(&suite.unwrap(), &SimulatedDevice::default(), None).unwrap();
        assert_eq!((expected.rounds, expected.measured_rounds), (19, 13));
        assert!((expected.least_s - 13.0).abs() < 1e-9, "{expected:?}");
    }

    #[test]
    fn rows_say_what_a_row_takes() {
        let row = |sample_s| Row { setup_s: 1.0, sample_s, ..Row::default() };
        assert_eq!(seconds_of_a_row(&[row(1.0), row(3.0)]), Some(3.0));
        assert_eq!(seconds_of_a_row(&[]), None);
    }

    #[test]
    fn seconds_are_spelled_as_people_say_them() {
        let spelled = [0.0, 45.4, 89.9, 150.0, 1200.0, 7560.0].map(spell_seconds);
        assert_eq!(spelled, ["0 s", "45 s", "1.5 min", "2.5 min", "20 min", "2.1 h"]);
    }
}
