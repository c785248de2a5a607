//! A campaign: every point of a suite, in random order, measured and recorded
//! one by one, with the sentinel in between.

use std::collections::HashSet;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};
use thiserror::Error;

mod checks;
mod earlier;
mod expected;
mod halving;
mod looks;
mod merge;
mod peers;
mod rows;

use checks::{CheckQueue, MeasuredRound};
use earlier::Earlier;
pub use expected::{
    EarlierTimes, ExpectedTime, LikelyTime, PointTime, seconds_of_a_row, spell_seconds,
};
use halving::Halving;
use looks::Looks;
pub use merge::{MergeSummary, MergedShard, MissingPoint, merge};
pub use peers::{
    OpenDevice, PEERS_SCRIPT, PeersRequest, PeersSummary, measure_peers, peers_of,
};
pub use rows::Scheduled;
use rows::{Circumstances, Probes, Reports, Rounds, RowAuthor, nanos_now};

use crate::device::{
    Device, DeviceInfo, FixedCosts, LaunchError, Layout, PrepareError, Telemetry,
};
use crate::host_load::HostLoad;
use crate::measure::{Durations, PointOutcome, Settings, measure};
use crate::op::Purpose;
use crate::point::Point;
use crate::record::{Recorder, Records, RoundRow, Row, write_atomically};
use crate::statistics;
use crate::suite::{PlannedPoints, Suite};
use crate::tuning::{TuningTable, USED_TUNING};

/// The order of a campaign: `rounds` passes over the points, each shuffled by `seed` in its
/// own way, the sentinel first, last and after every `sentinel_every` points. The same plan
/// and seed give the same order, so a resumed campaign continues where it stopped.
pub fn schedule(plan: &PlannedPoints, seed: u64, settings: &Settings) -> Vec<Scheduled> {
    let mut others = plan.points.clone();
    others.retain(|point| plan.sentinel.as_ref() != Some(point));
    let rounds = settings.rounds.max(1) as u32;
    let shuffled = |round: u32| {
        let mut points = others.clone();
        points.shuffle(&mut Pcg64Mcg::seed_from_u64(seed.wrapping_add(round.into())));
        let scheduled = move |point| Scheduled { point, repeat: 0, round, rounds };
        points.into_iter().map(scheduled)
    };
    let points: Vec<Scheduled> = (0..rounds).flat_map(shuffled).collect();
    let Some(sentinel) = &plan.sentinel else { return points };
    let mut order = Vec::new();
    let mut repeats = (0..).map(|repeat| Scheduled {
        point: sentinel.clone(),
        repeat,
        round: 0,
        rounds: 1,
    });
    for chunk in points.chunks(settings.sentinel_every.max(1)) {
        order.extend(repeats.next());
        order.extend_from_slice(chunk);
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
    /// Points that are not measured any more, because processes ended with them.
    pub given_up: Option<GivenUp>,
    /// Which rounds this process measures, of several that share a campaign.
    pub process: Process,
    /// The command line, for provenance.
    pub command_line: String,
    /// The table that the device's kernels run by, to be kept with the records; of a campaign
    /// that is resumed the one that is there.
    pub tuning: Option<TuningTable>,
}

/// A device that this process can use no more. Another process may.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub struct DeviceLost(String);

/// A point that is not measured any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    /// Its text.
    pub point: String,
    /// Which repeat of it.
    pub repeat: u32,
    /// What became of it.
    pub reason: String,
}

/// A process's place among those that share a campaign: it measures the rounds whose number
/// has this remainder. What differs from process to process (clocks, pages, the order of
/// everything that was allocated) is then part of the spread between rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// From 0.
    pub index: u32,
    /// How many share the campaign.
    pub count: u32,
}

impl Process {
    /// The only one.
    pub const ALONE: Process = Process { index: 0, count: 1 };

    fn measures(self, scheduled: &Scheduled) -> bool {
        scheduled.round % self.count == self.index
    }

    /// Whether it measures last, and so writes what is then complete.
    fn is_last(self) -> bool {
        self.index + 1 == self.count
    }
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
    /// Adds what other processes of the campaign measured meanwhile, by its records.
    pub fn take_in(&mut self, records: &Records, seconds: f64) {
        let planned = self.rows + self.rows_left + self.resumed_rows;
        self.rows = records.rows.len() - self.resumed_rows;
        self.rows_left = planned.saturating_sub(records.rows.len());
        self.total_s += seconds;
        let sum = |of: fn(&RoundRow) -> f64| records.rounds.iter().map(of).sum();
        self.durations = Durations {
            setup_s: sum(|row| row.setup_s),
            check_s: sum(|row| row.check_s),
            warmup_s: sum(|row| row.warmup_s),
            sample_s: sum(|row| row.sample_s),
            release_s: sum(|row| row.release_s),
        };
    }

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
    /// The folder is known and `total` rounds are planned, `done` of them
    /// measured by an earlier process.
    fn begin(&mut self, folder: &Path, total: usize, done: usize);
    /// A round of a point is about to be measured.
    fn start(&mut self, scheduled: &Scheduled);
    /// It is on disk, and with the point's last round the point's row.
    fn measured(&mut self, scheduled: &Scheduled, row: Option<&Row>);
    /// So many of the planned rounds are not measured, see [`Settings::halving_rounds`].
    fn left_out(&mut self, rounds: usize) {
        let _ = rounds;
    }
    /// So many rounds more than planned are measured, in place of disturbed ones.
    fn again(&mut self, rounds: usize) {
        let _ = rounds;
    }
    /// Something went wrong that spoils no round.
    fn note(&mut self, text: &str) {
        let _ = text;
    }
    /// Asked before each round: whether to leave the rest to a process that resumes.
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
    fn measured(&mut self, _: &Scheduled, _: Option<&Row>) {}
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
    let order = schedule(&plan, seed, &suite.settings);
    let mut run = rows::provenance(device.info(), &suite, seed, &request.command_line);
    let rows: HashSet<_> = order.iter().map(|s| (s.point.id(), s.repeat)).collect();
    run.set("planned_rows", rows.len());
    run.set("plan_hash", plan_hash(&order));
    let tuning = request.tuning.as_ref().map(TuningTable::to_toml).transpose()?;
    let hash_of = |text: &String| blake3::hash(text.as_bytes()).to_hex()[..12].to_owned();
    run.set("tuning_hash", tuning.as_ref().map_or("none".to_owned(), hash_of));
    let whole = suite.whole()?.plan(device)?;
    run.set("shard", suite.shard().map_or(String::new(), |shard| shard.to_string()));
    run.set("points_hash", points_hash(&whole));
    let compute_probe = compute_probe(&plan, device);
    run.set("compute_probe", compute_probe.as_ref().map_or(String::new(), Point::id));
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
    if let Some(shard) = suite.shard() {
        merge::write_plan(recorder.folder(), &whole, shard.count)?;
    }
    if let Some(text) = tuning.filter(|_| request.resume.is_none()) {
        write_atomically(&recorder.folder().join(USED_TUNING), text.as_bytes())?;
    }
    let budget_s = request.budget_s.unwrap_or(f64::INFINITY);
    Runner {
        device,
        suite: &suite,
        settings: suite.settings.of_round(),
        seed,
        recorder,
        compute_probe,
        began: Instant::now(),
        budget_s,
        process: request.process,
        planned_rows: rows.len(),
        rows: 0,
        durations: Durations::default(),
        begun: Vec::new(),
        checks: CheckQueue::default(),
        telemetry: None,
        load: HostLoad::now(),
    }
    .run(&order, request.given_up.as_ref(), observer)
}

/// The point that shows again and again what the units do: the first of the plan that is
/// there for their ceiling, and that the device runs.
fn compute_probe(plan: &PlannedPoints, device: &dyn Device) -> Option<Point> {
    let is_probe = |point: &&Point| {
        point.problem.op().facts().judged.purpose == Purpose::ComputeRoof
            && device.kernel(&point.problem).is_ok()
    };
    plan.points.iter().find(is_probe).cloned()
}

/// `<date>-<device>-<suite>` in `parent`.
pub fn default_folder(parent: &Path, info: &DeviceInfo, suite: &str) -> PathBuf {
    let date = jiff::Zoned::now().date();
    parent.join(format!("{date}-{}-{suite}", info.slug))
}

/// Which rounds of which points in which order: what a resumed campaign must share with
/// the one it finishes. Sizes in caches make it depend on the machine.
fn plan_hash(order: &[Scheduled]) -> String {
    let ids: Vec<String> = order.iter().map(|s| s.point.id()).collect();
    blake3::hash(ids.concat().as_bytes()).to_hex()[..12].to_owned()
}

/// Which points the whole plan has, in whatever order: what shards of it share.
fn points_hash(plan: &PlannedPoints) -> String {
    let mut ids: Vec<String> =
        plan.points.iter().chain(&plan.sentinel).map(Point::id).collect();
    ids.sort();
    blake3::hash(ids.concat().as_bytes()).to_hex()[..12].to_owned()
}

/// Launches of the compute probe that are timed.
const PROBE_LAUNCHES: usize = 5;

struct Runner<'a> {
    device: &'a mut dyn Device,
    suite: &'a Suite,
    /// The protocol of one round.
    settings: Settings,
    seed: u64,
    recorder: Recorder,
    compute_probe: Option<Point>,
    began: Instant,
    budget_s: f64,
    process: Process,
    planned_rows: usize,
    rows: usize,
    durations: Durations,
    /// What became of the last round of each point that has no row yet, without samples.
    begun: Vec<(usize, Scheduled, PointOutcome)>,
    /// Rounds that are still being checked.
    checks: CheckQueue,
    /// What the device reported after the last round.
    telemetry: Option<Telemetry>,
    /// What the host's CPUs had done by then.
    load: Option<HostLoad>,
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
        given_up: Option<&GivenUp>,
        observer: &mut dyn Observer,
    ) -> Result<CampaignSummary> {
        let resumed_rows = self.rows_on_disk(order);
        if let Some(given_up) = given_up {
            self.give_up(order, given_up)?;
        }
        let mine = order.iter().filter(|s| self.process.measures(s));
        let done = mine.filter(|s| !self.is_wanted(s)).count();
        let total = order.iter().filter(|s| self.process.measures(s)).count();
        observer.begin(self.recorder.folder(), total, done);
        let halving = Halving::new(order, self.suite.settings.halving_rounds);
        let mut round = 0;
        for (order_index, scheduled) in order.iter().enumerate() {
            if !self.process.measures(scheduled) || !self.is_wanted(scheduled) {
                continue;
            }
            if self.is_out_of_time() || observer.should_stop() {
                break;
            }
            if scheduled.round > round {
                round = scheduled.round;
                self.halve(&halving, (order, round), observer)?;
                self.device.begin_round();
                if !self.is_wanted(scheduled) {
                    continue;
                }
            }
            self.step(scheduled, order_index, observer)?;
        }
        self.record_all(observer)?;
        if self.process.is_last() {
            self.measure_again(order, observer)?;
            if self.is_out_of_time() {
                self.conclude_early(observer)?;
            }
        }
        Ok(CampaignSummary {
            folder: self.recorder.folder().to_owned(),
            rows: self.rows,
            resumed_rows,
            rows_left: self.planned_rows - resumed_rows - self.rows,
            total_s: self.began.elapsed().as_secs_f64(),
            durations: self.durations,
        })
    }

    /// Writes the row of a point that is not measured any more.
    fn give_up(&mut self, order: &[Scheduled], given_up: &GivenUp) -> Result<()> {
        let GivenUp { point, repeat, reason } = given_up;
        let mut planned = order.iter().enumerate();
        let found = planned.find(|(_, scheduled)| {
            scheduled.repeat == *repeat && scheduled.point.to_string() == *point
        });
        let Some((order_index, scheduled)) = found else {
            bail!("{point} is not a point of the campaign");
        };
        if !self.recorder.has(&scheduled.point.id(), *repeat) {
            let outcome = PointOutcome::failed(reason.clone());
            self.write_row(scheduled, order_index, &outcome)?;
        }
        Ok(())
    }

    fn rows_on_disk(&self, order: &[Scheduled]) -> usize {
        let on_disk = order.iter().filter(|s| self.recorder.has(&s.point.id(), s.repeat));
        on_disk.map(|s| (s.point.id(), s.repeat)).collect::<HashSet<_>>().len()
    }

    fn is_out_of_time(&self) -> bool {
        self.began.elapsed().as_secs_f64() > self.budget_s
    }

    /// Whether a round is still to be measured.
    fn is_wanted(&self, scheduled: &Scheduled) -> bool {
        let (id, repeat) = (scheduled.point.id(), scheduled.repeat);
        let rounds = self.recorder.rounds_of(&id, repeat);
        !self.recorder.has(&id, repeat)
            && rounds.iter().all(|round| round.row.round != scheduled.round)
    }

    /// Writes the rows of points that are measured no further from a round on.
    fn halve(
        &mut self,
        halving: &Halving,
        (order, round): (&[Scheduled], u32),
        observer: &mut dyn Observer,
    ) -> Result<()> {
        self.record_all(observer)?;
        let recorder = &self.recorder;
        let alive = |point: &Point| !recorder.has(&point.id(), 0);
        let rounds_of = |point: &Point| recorder.rounds_of(&point.id(), 0);
        let given_up = halving.given_up(round, alive, rounds_of);
        for point in given_up {
            let same = |s: &&Scheduled| s.point == *point;
            let left = order.iter().filter(same).filter(|s| self.is_wanted(s)).count();
            // One that a process before this one measured is measured on: its row needs
            // what was seen of it.
            let last = self.begun.iter().position(|(_, s, _)| s.point == *point);
            let Some(at) = last else { continue };
            let (order_index, scheduled, outcome) = self.begun.remove(at);
            // What it has is all that it is to have.
            let rounds = self.recorder.rounds_of(&point.id(), 0).iter();
            let usable = rounds.filter(|round| !round.row.disturbed).count();
            let scheduled = Scheduled { rounds: usable as u32, ..scheduled };
            self.write_row(&scheduled, order_index, &outcome)?;
            observer.left_out(left);
        }
        Ok(())
    }

    /// Measures rounds in place of disturbed ones, pass by pass, until every point has its
    /// row.
    fn measure_again(
        &mut self,
        order: &[Scheduled],
        observer: &mut dyn Observer,
    ) -> Result<()> {
        loop {
            let mut missing: Vec<(usize, Scheduled)> = Vec::new();
            for (order_index, scheduled) in order.iter().enumerate() {
                let (id, repeat) = (scheduled.point.id(), scheduled.repeat);
                let is_first = scheduled.round == 0 && !self.recorder.has(&id, repeat);
                if is_first {
                    let rounds =
                        Rounds::of(self.recorder.rounds_of(&id, repeat), scheduled);
                    let round = rounds.next();
                    missing.push((order_index, Scheduled { round, ..scheduled.clone() }));
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
            observer.again(missing.len());
            self.device.begin_round();
            for (order_index, scheduled) in &missing {
                if self.is_out_of_time() || observer.should_stop() {
                    return self.record_all(observer);
                }
                self.step(scheduled, *order_index, observer)?;
            }
            self.record_all(observer)?;
        }
    }

    /// Measures a round, and records it and others whose outputs were checked meanwhile.
    fn step(
        &mut self,
        scheduled: &Scheduled,
        order_index: usize,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        observer.start(scheduled);
        let since_start_s = self.began.elapsed().as_secs_f64();
        let started_utc = format!("{:.3}", jiff::Timestamp::now());
        // With the sentinel, which is there to show what else happens on the machine.
        let is_sentinel = scheduled.rounds == 1 && self.suite.settings.rounds > 1;
        let is_probed = is_sentinel || scheduled.repeat > 0;
        let probes = if is_probed { self.probe(observer) } else { Probes::default() };
        if self.telemetry.is_none() {
            self.telemetry = Some(self.device.ask_telemetry().wait());
        }
        let outcome =
            measure_round(&mut *self.device, scheduled, &self.settings, self.seed);
        // Answers take longer than laying out does. They are known when the round is recorded.
        let (load, telemetry) = (HostLoad::ask(), self.device.ask_telemetry());
        let circumstances =
            Circumstances { started_utc, since_start_s, other_cpu_share: None, probes };
        self.checks.push(MeasuredRound {
            scheduled: scheduled.clone(),
            order_index,
            outcome,
            circumstances,
            telemetry,
            load,
        });
        if let Some(why) = self.device.lost() {
            self.record_all(observer)?;
            return Err(self.lost_after(&why, &scheduled.point).into());
        }
        while let Some(done) = self.checks.next_done() {
            self.record(done, observer)?;
        }
        Ok(())
    }

    /// Records every round that was measured.
    fn record_all(&mut self, observer: &mut dyn Observer) -> Result<()> {
        while let Some(done) = self.checks.next() {
            self.record(done, observer)?;
        }
        Ok(())
    }

    /// Records a round, and writes the point's row when it is the last.
    fn record(&mut self, round: MeasuredRound, observer: &mut dyn Observer) -> Result<()> {
        let MeasuredRound { scheduled, order_index, outcome, telemetry, load, .. } = round;
        add(&mut self.durations, &outcome.durations);
        // Rounds are recorded in the order in which they were measured, so that one answer
        // serves two: it stands after a round and before the next.
        let mut after = telemetry.wait();
        let looks = std::mem::take(&mut after.looks);
        let before = self.telemetry.replace(after.clone()).unwrap_or_default();
        let load = load.wait();
        let load_before = std::mem::replace(&mut self.load, load);
        let other_cpu_share = load.zip(load_before).and_then(|(b, a)| b.others_since(&a));
        let circumstances = Circumstances { other_cpu_share, ..round.circumstances };
        // While a round is checked, another of a point that fails may be measured.
        if self.recorder.has(&scheduled.point.id(), scheduled.repeat) {
            return Ok(());
        }
        let started_s = circumstances.since_start_s;
        let looks = Looks::new(&looks, self.began);
        let samples = self.author().sample_rows(&scheduled, &outcome, (started_s, &looks));
        let disturbed_by = rows::disturbed_by(
            self.device.info(),
            &self.suite.settings,
            other_cpu_share,
            (&before, &after),
        );
        let reports = Reports { telemetry: after, disturbed_by };
        let round = self.author().round_row(&scheduled, &outcome, circumstances, reports);
        let is_measured = round.is_some();
        if let Some(round) = round {
            self.recorder.record_round(round, samples)?;
        }
        let all = self.recorder.rounds_of(&scheduled.point.id(), scheduled.repeat);
        let is_complete = Rounds::of(all, &scheduled).are_complete();
        self.begun.retain(|(_, s, _)| {
            (&s.point, s.repeat) != (&scheduled.point, scheduled.repeat)
        });
        let mut row = None;
        if !is_measured || is_complete {
            row = Some(self.write_row(&scheduled, order_index, &outcome)?);
        } else {
            let outcome = PointOutcome { samples: Vec::new(), ..outcome };
            self.begun.push((order_index, scheduled.clone(), outcome));
        }
        observer.measured(&scheduled, row.as_ref());
        Ok(())
    }

    /// What is measured beside the sentinel.
    fn probe(&mut self, observer: &mut dyn Observer) -> Probes {
        let began = Instant::now();
        let fixed = self.device.probe().unwrap_or_else(|why| {
            observer.note(&format!("an empty launch could not be probed: {why}"));
            FixedCosts::default()
        });
        let compute_s = self.probe_compute().unwrap_or_else(|why| {
            observer.note(&format!("the compute probe did not run: {why}"));
            None
        });
        Probes { fixed, compute_s, seconds: began.elapsed().as_secs_f64() }
    }

    /// Median seconds of a launch of the compute probe: whether the units do now what they
    /// did before. A short burst, laid out anew; `None` where the suite has no such point.
    fn probe_compute(&mut self) -> Result<Option<f64>, PrepareError> {
        let Some(point) = &self.compute_probe else { return Ok(None) };
        let layout = Layout::new(1, self.seed);
        let mut prepared = self.device.prepare(&point.problem, &point.kernel, layout)?;
        prepared.launch(0, 1)?;
        let launches = (0..PROBE_LAUNCHES).map(|_| Ok(prepared.launch(0, 1)?.seconds));
        let times: Vec<f64> = launches.collect::<Result<_, LaunchError>>()?;
        Ok(Some(statistics::median(&times)))
    }

    fn write_row(
        &mut self,
        scheduled: &Scheduled,
        order_index: usize,
        outcome: &PointOutcome,
    ) -> Result<Row> {
        let all = self.recorder.rounds_of(&scheduled.point.id(), scheduled.repeat);
        let rounds = Rounds::of(all, scheduled);
        let mut row = self.author().row(scheduled, order_index, outcome, &rounds);
        if row.started_utc.is_empty() {
            row.started_utc = format!("{:.3}", jiff::Timestamp::now());
        }
        self.recorder.record(&row)?;
        self.rows += 1;
        Ok(row)
    }

    /// When time is up, points with enough rounds for an interval get their rows; others
    /// are left to a process that resumes.
    fn conclude_early(&mut self, observer: &mut dyn Observer) -> Result<()> {
        for (order_index, scheduled, outcome) in std::mem::take(&mut self.begun) {
            let all = self.recorder.rounds_of(&scheduled.point.id(), scheduled.repeat);
            if Rounds::of(all, &scheduled).are_enough() {
                let row = self.write_row(&scheduled, order_index, &outcome)?;
                observer.measured(&scheduled, Some(&row));
            }
        }
        Ok(())
    }

    /// Why the process ends where its device can do no more.
    fn lost_after(&self, why: &str, point: &Point) -> DeviceLost {
        let folder = self.recorder.folder().display();
        DeviceLost(format!(
            "{} can no longer be used after {point}: {why}. What was measured is safe; \
             `ridgepoint measure --resume {folder}` continues after this point",
            self.device.info().name,
        ))
    }
}

/// Measures a round. A kernel that panics costs its own row only.
fn measure_round(
    device: &mut dyn Device,
    Scheduled { point, round, .. }: &Scheduled,
    settings: &Settings,
    seed: u64,
) -> PointOutcome {
    let attempt = AssertUnwindSafe(|| measure(device, (point, *round), settings, seed));
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

fn add(sum: &mut Durations, d: &Durations) {
    sum.setup_s += d.setup_s;
    sum.check_s += d.check_s;
    sum.warmup_s += d.warmup_s;
    sum.sample_s += d.sample_s;
    sum.release_s += d.release_s;
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
