//! A campaign: every point of a suite, in random order, measured and recorded
//! one by one, with the sentinel in between.

use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;

mod earlier;
mod expected;
mod rows;

use earlier::Earlier;
pub use expected::{ExpectedTime, seconds_of_a_row, spell_seconds};
pub use rows::Scheduled;
use rows::{RowAuthor, nanos_now};

use crate::device::{Device, DeviceInfo};
use crate::host_load::HostLoad;
use crate::measure::{Durations, PointOutcome, Settings, measure};
use crate::point::Point;
use crate::record::{Recorder, Row};
use crate::suite::{PlannedPoints, Suite};

/// The order of a campaign: the points shuffled by `seed`, the sentinel first,
/// last and after every `sentinel_every` points. The same plan and seed give
/// the same order, so a resumed campaign continues where it stopped.
pub fn schedule(plan: &PlannedPoints, seed: u64, sentinel_every: usize) -> Vec<Scheduled> {
    let mut points = plan.points.clone();
    points.shuffle(&mut Pcg64Mcg::seed_from_u64(seed));
    let Some(sentinel) = &plan.sentinel else {
        return points.into_iter().map(|point| Scheduled { point, repeat: 0 }).collect();
    };
    points.retain(|point| point != sentinel);
    let mut order = Vec::new();
    let mut repeats = (0..).map(|repeat| Scheduled { point: sentinel.clone(), repeat });
    for chunk in points.chunks(sentinel_every.max(1)) {
        order.extend(repeats.next());
        order.extend(chunk.iter().map(|p| Scheduled { point: p.clone(), repeat: 0 }));
    }
    order.extend(repeats.next());
    order
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Request {
    /// The suite; `None` to take the one of the campaign resumed.
    pub suite: Option<Suite>,
    /// Where to write; `None` for `results/<date>-<device>-<suite>`.
    pub out: Option<PathBuf>,
    /// A campaign to finish.
    pub resume: Option<PathBuf>,
    /// Seed of the order and the inputs; `None` for a new one.
    pub seed: Option<u64>,
    /// Seconds after which no further point is begun; the rest is left to a
    /// process that resumes.
    pub budget_s: Option<f64>,
    /// The command line, for provenance.
    pub command_line: String,
}

/// What a finished campaign did.
#[derive(Clone, Debug)]
pub struct CampaignSummary {
    /// Its folder.
    pub folder: PathBuf,
    /// Rows written by this process.
    pub rows: usize,
    /// Rows that were there before.
    pub resumed_rows: usize,
    /// Rows that were not measured before time was up or somebody stopped it.
    pub rows_left: usize,
    /// Host seconds of this process's campaign, from the first point on.
    pub total_s: f64,
    /// The same by part.
    pub durations: Durations,
}

impl CampaignSummary {
    /// Share of the time spent outside warm-up, checks and samples, with
    /// `after_s` seconds of drawing and judging added to the campaign. `None`
    /// when nothing was measured.
    pub fn overhead(&self, after_s: f64) -> Option<f64> {
        let d = &self.durations;
        let useful_s = d.check_s + d.warmup_s + d.sample_s;
        (self.rows > 0).then(|| 1.0 - useful_s / (self.total_s + after_s))
    }
}

/// Told about every step, for progress bars.
pub trait Observer {
    /// The folder is known and `total` points are planned, `done` of them
    /// measured by an earlier process.
    fn begin(&mut self, folder: &Path, total: usize, done: usize);
    /// A point is about to be measured.
    fn start(&mut self, scheduled: &Scheduled);
    /// Its row is on disk.
    fn recorded(&mut self, row: &Row);
    /// Asked before each point: whether to leave the rest to a process that resumes.
    fn should_stop(&self) -> bool {
        false
    }
}

/// Observes nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn begin(&mut self, _: &Path, _: usize, _: usize) {}
    fn start(&mut self, _: &Scheduled) {}
    fn recorded(&mut self, _: &Row) {}
}

/// Runs a campaign to its end, or finishes one that was interrupted.
///
/// # Errors
/// A mistake in the suite, a folder that cannot be written, a campaign to
/// resume that belongs to another device or suite. What happens to a single
/// point is a row, not an error.
pub fn run(
    device: &mut dyn Device,
    request: &Request,
    observer: &mut dyn Observer,
) -> Result<CampaignSummary> {
    let earlier = request.resume.as_deref().map(Earlier::read).transpose()?;
    let (suite, seed) = match (&earlier, &request.suite) {
        (Some(earlier), asked) => earlier.continue_with(asked.as_ref(), request.seed)?,
        (None, Some(suite)) => (suite.clone(), request.seed.unwrap_or_else(new_seed)),
        (None, None) => bail!("name a suite to measure, or a folder to resume"),
    };
    let plan = suite.plan(device)?;
    let order = schedule(&plan, seed, suite.settings.sentinel_every);
    let mut run = rows::provenance(device.info(), &suite, seed, &request.command_line);
    run.set("planned_rows", order.len());
    run.set("plan_hash", plan_hash(&order));
    if let Some(earlier) = &earlier {
        earlier.agree(&run)?;
    }
    let recorder = match &request.resume {
        Some(folder) => Recorder::resume(folder, &run)?,
        None => {
            let wanted = request.out.clone().unwrap_or_else(|| {
                default_folder(Path::new("results"), device.info(), &suite.name)
            });
            if request.out.is_some() && wanted.exists() {
                bail!(
                    "{} exists and is never overwritten; finish it with `--resume {}`, or \
                     give another folder",
                    wanted.display(),
                    wanted.display()
                );
            }
            Recorder::create(&wanted, &run, &suite.text)?
        }
    };
    let budget_s = request.budget_s.unwrap_or(f64::INFINITY);
    Runner { device, suite: &suite, seed, recorder, began: Instant::now(), budget_s }
        .run(&order, observer)
}

/// `<date>-<device>-<suite>` in `parent`.
pub fn default_folder(parent: &Path, info: &DeviceInfo, suite: &str) -> PathBuf {
    let date = jiff::Zoned::now().date();
    parent.join(format!("{date}-{}-{suite}", info.slug))
}

/// Which points in which order: what a resumed campaign must share with the
/// one it finishes. Sizes in caches make it depend on the machine.
fn plan_hash(order: &[Scheduled]) -> String {
    let ids: Vec<String> = order.iter().map(|s| s.point.id()).collect();
    blake3::hash(ids.concat().as_bytes()).to_hex()[..12].to_owned()
}

struct Runner<'a> {
    device: &'a mut dyn Device,
    suite: &'a Suite,
    seed: u64,
    recorder: Recorder,
    began: Instant,
    budget_s: f64,
}

impl Runner<'_> {
    fn author(&self) -> RowAuthor<'_> {
        RowAuthor {
            info: self.device.info(),
            suite: self.suite,
            seed: self.seed,
            run_id: self.recorder.run_id(),
        }
    }

    fn run(
        mut self,
        order: &[Scheduled],
        observer: &mut dyn Observer,
    ) -> Result<CampaignSummary> {
        let is_done = |r: &Recorder, s: &Scheduled| r.has(&s.point.id(), s.repeat);
        let done = order.iter().filter(|s| is_done(&self.recorder, s)).count();
        observer.begin(self.recorder.folder(), order.len(), done);
        let mut durations = Durations::default();
        let mut rows = 0;
        for (order_index, scheduled) in order.iter().enumerate() {
            if is_done(&self.recorder, scheduled) {
                continue;
            }
            let is_late = self.began.elapsed().as_secs_f64() > self.budget_s;
            if is_late || observer.should_stop() {
                break;
            }
            observer.start(scheduled);
            let started_s = self.began.elapsed().as_secs_f64();
            let started_utc = jiff::Timestamp::now();
            let load = HostLoad::now();
            let outcome = self.measure(&scheduled.point);
            let mut row = self.author().row(scheduled, order_index, &outcome);
            row.other_cpu_share =
                HostLoad::now().zip(load).and_then(|(b, a)| b.others_since(&a));
            row.started_utc = format!("{started_utc:.3}");
            let samples = self.author().sample_rows(scheduled, &outcome, started_s);
            self.recorder.record(&row, &samples)?;
            observer.recorded(&row);
            add(&mut durations, &outcome.durations);
            rows += 1;
            if let Some(why) = self.device.lost() {
                let folder = self.recorder.folder().display();
                bail!(
                    "{} can no longer be used after {}: {why}. What was measured is safe; \
                     `ridgepoint measure --resume {folder}` continues after this point",
                    self.device.info().name,
                    scheduled.point
                );
            }
        }
        Ok(CampaignSummary {
            folder: self.recorder.folder().to_owned(),
            rows,
            resumed_rows: done,
            rows_left: order.len() - done - rows,
            total_s: self.began.elapsed().as_secs_f64(),
            durations,
        })
    }

    /// Measures a point. A kernel that panics costs its own row only.
    fn measure(&mut self, point: &Point) -> PointOutcome {
        let settings: &Settings = &self.suite.settings;
        let device = &mut *self.device;
        let seed = self.seed;
        let attempt = AssertUnwindSafe(|| measure(device, point, settings, seed));
        panic::catch_unwind(attempt).unwrap_or_else(|payload| {
            let text = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied());
            PointOutcome::failed(format!(
                "kernel {} panicked: {}; this is a bug, please report it",
                point.kernel,
                text.unwrap_or("no message")
            ))
        })
    }
}

fn add(sum: &mut Durations, d: &Durations) {
    sum.setup_s += d.setup_s;
    sum.check_s += d.check_s;
    sum.warmup_s += d.warmup_s;
    sum.sample_s += d.sample_s;
}

/// A seed that differs from run to run. It is recorded, so it need not be more.
fn new_seed() -> u64 {
    u64::from(u32::from_le_bytes(hash(&nanos_now().to_le_bytes())))
}

fn hash(bytes: &[u8]) -> [u8; 4] {
    let hash = blake3::hash(bytes);
    [0, 1, 2, 3].map(|i| hash.as_bytes()[i])
}

#[cfg(test)]
mod tests;
