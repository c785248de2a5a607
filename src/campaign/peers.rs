//! Kernels of other libraries on the points of a campaign. A Python script times them
//! (`scripts/peers.py`, part of the program); what it is asked, whether its outputs are
//! right and what is recorded is decided here, by the code that measures own kernels.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};

mod answer;
mod request;
mod script;
mod table;

use answer::outcome_of;
use request::{Asked, request_of};
pub use script::PEERS_SCRIPT;
use script::{Exchange, Hello, Script};
pub use table::peers_of;

use super::earlier::Earlier;
use super::looks::Looks;
use super::rows::{
    Circumstances, Probes, Reports, Rounds, RowAuthor, Scheduled, process_columns,
};
use super::{Observer, schedule};
use crate::device::DeviceInfo;
use crate::measure::{PointOutcome, Rotation, Settings};
use crate::op::{Problem, Purpose};
use crate::point::{CacheState, Point};
use crate::provenance::Provenance;
use crate::record::{CLOCKS_IN_SAMPLES, Recorder, Records, Row, Run, Status};
use crate::residency::Residency;
use crate::suite::{Filter, PlannedPoints, Suite};

/// What to measure beside a campaign.
#[derive(Clone, Debug)]
pub struct PeersRequest {
    /// The campaign's folder.
    pub folder: PathBuf,
    /// The Python that has the libraries.
    pub python: String,
    /// Seconds after which no further round is begun.
    pub budget_s: Option<f64>,
    /// Names of the peers to measure; all where empty.
    pub only: Vec<String>,
    /// Measure beside own points only that meet this.
    pub filter: Option<Filter>,
    /// Seconds after which a job that makes no progress is ended.
    pub job_limit_s: f64,
    /// The command line, for provenance.
    pub command_line: String,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeersSummary {
    /// Rows written by this process.
    pub rows: usize,
    /// Rows of peers that were there before.
    pub there_before: usize,
    /// Rows that were not measured before time was up or somebody stopped it.
    pub rows_left: usize,
    /// Seconds from the first round on.
    pub total_s: f64,
}

/// Measures other libraries' kernels on the points of a campaign that have a time, and
/// records them in it. What is there already is left as it is.
///
/// # Errors
/// A folder that is no campaign of this machine and program, a Python without torch, a name
/// of no peer, a disk that does not take the rows. What happens to a single point is a row.
pub fn measure_peers(
    request: &PeersRequest,
    observer: &mut dyn Observer,
) -> Result<PeersSummary> {
    let target = Target::read(request)?;
    let points = target.planned(&request.only, request.filter.as_ref())?;
    let there_before = target.rows_of_peers();
    let has = |point: &Point| target.done.contains(&point.id());
    let wanted = points.iter().filter(|point| !has(point)).count();
    if wanted == 0 {
        let nothing = PeersSummary { rows: 0, there_before, rows_left: 0, total_s: 0.0 };
        return Ok(nothing);
    }
    let mut script = Script::start(&request.python, &target.run, target.is_simulated())?;
    target.agrees_with(script.hello(), &request.python)?;
    let run = target.run_row(request, script.hello(), there_before + wanted);
    target.earlier.agree(&run)?;
    let recorder = Recorder::resume(&request.folder, &run)?;
    let plan = PlannedPoints { points, sentinel: None };
    let order = schedule(&plan, target.seed, &target.suite.settings);
    let runner = Runner {
        target: &target,
        settings: target.suite.settings.of_round(),
        script: &mut script,
        recorder,
        began: Instant::now(),
        budget_s: request.budget_s.unwrap_or(f64::INFINITY),
        job_limit_s: request.job_limit_s,
        rows: 0,
        begun: Vec::new(),
    };
    let (rows, total_s) = runner.run(&order, observer)?;
    Ok(PeersSummary { rows, there_before, rows_left: wanted - rows, total_s })
}

/// The campaign whose points are measured.
struct Target {
    earlier: Earlier,
    suite: Suite,
    seed: u64,
    /// The process that began it.
    run: Run,
    records: Records,
    /// The device, by what that process says of it.
    info: DeviceInfo,
    /// Ids of points with a row.
    done: HashSet<String>,
}

/// Whether an own point is asked for.
fn meets(
    filter: Option<&Filter>,
    row: &Row,
    problem: Problem,
    cache: CacheState,
) -> Result<bool> {
    let Some(filter) = filter else { return Ok(true) };
    let kernel = row.kernel.parse().map_err(anyhow::Error::msg)?;
    Ok(filter.matches(&Point { problem, kernel, cache, launch: None, load: None }))
}

/// What times the launches of peers.
const TIMER: &str = "CUDA events between replays of a graph";

impl Target {
    fn read(request: &PeersRequest) -> Result<Self> {
        let folder = &request.folder;
        let earlier = Earlier::read(folder)?;
        let (suite, seed) = earlier.continue_with(None, None)?;
        let records = Records::read(folder)?;
        let run = records.runs.first().cloned();
        let run = run.with_context(|| format!("{} has no run", folder.display()))?;
        let info = device_info(&run)?;
        let done = records.rows.iter().map(|row| row.point_id.clone()).collect();
        Ok(Target { earlier, suite, seed, run, records, info, done })
    }

    fn author<'a>(&'a self, run_id: &'a str) -> RowAuthor<'a> {
        RowAuthor { info: &self.info, suite: &self.suite, seed: self.seed, run_id }
    }

    fn is_simulated(&self) -> bool {
        self.info.backend == "simulated"
    }

    fn is_own_run(&self, run_id: &str) -> bool {
        let mut runs = self.records.runs.iter();
        let run = runs.find(|run| run.get("run_id") == Some(run_id));
        run.is_none_or(|run| run.get("planned_peer_rows").is_none_or(str::is_empty))
    }

    fn rows_of_peers(&self) -> usize {
        self.records.rows.iter().filter(|row| !self.is_own_run(&row.run_id)).count()
    }

    /// The problems that own kernels have a time of, each with its peers, in the order of
    /// the records.
    fn planned(&self, only: &[String], filter: Option<&Filter>) -> Result<Vec<Point>> {
        let known = table::names(&self.info.backend);
        if let Some(unknown) = only.iter().find(|name| !known.contains(&name.as_str())) {
            bail!(
                "`{unknown}` is no peer on {}; those are {}",
                self.info.backend,
                known.join(", ")
            );
        }
        let mut points = Vec::new();
        let mut seen = HashSet::new();
        let mut has_any = false;
        for row in self.records.rows.iter().filter(|row| has_own_time(row)) {
            let (Ok(problem), Ok(cache)) =
                (row.problem.parse::<Problem>(), row.cache_state.parse::<CacheState>())
            else {
                continue;
            };
            if !meets(filter, row, problem, cache)? {
                continue;
            }
            has_any = true;
            if !seen.insert((problem, cache)) || !self.is_of_interest(row, &problem) {
                continue;
            }
            for name in peers_of(&problem, &self.info.backend) {
                if only.is_empty() || only.iter().any(|wanted| wanted == name) {
                    let kernel = name.parse().map_err(anyhow::Error::msg)?;
                    points.push(Point { problem, kernel, cache, launch: None, load: None });
                }
            }
        }
        if let (Some(filter), false) = (filter, has_any) {
            bail!("no point of the campaign that has a time meets `{filter}`");
        }
        Ok(points)
    }

    /// Streams out of a cache show how launches are made, not libraries.
    fn is_of_interest(&self, row: &Row, problem: &Problem) -> bool {
        problem.op().facts().judged.purpose == Purpose::Work
            || row.residency == Residency::Dram.to_string()
    }

    /// Refuses a script that would measure on another machine, or not at all.
    fn agrees_with(&self, hello: &Hello, python: &str) -> Result<()> {
        if let Some(error) = &hello.error {
            bail!("{python} cannot measure peers: {error}; name another with --python");
        }
        if !self.info.backend.starts_with("cuda") {
            return Ok(());
        }
        let Some(device) = &hello.device else {
            bail!(
                "torch {} of {python} sees no GPU, and the campaign was measured on {}",
                hello.torch.as_deref().unwrap_or("unknown"),
                self.info.name
            );
        };
        if *device != self.info.name {
            bail!(
                "torch sees {device}, and the campaign was measured on {}",
                self.info.name
            );
        }
        let known = self.run.get("gpu_uuid_hash").filter(|hash| !hash.is_empty());
        match (known, hello.uuid_hash()) {
            (Some(known), Some(seen)) if known != seen => bail!(
                "torch sees another {device} than the one that the campaign was measured on; \
                 choose it with CUDA_VISIBLE_DEVICES"
            ),
            _ => Ok(()),
        }
    }

    /// This process's row of `run.csv`: the device is the one of the campaign.
    fn run_row(&self, request: &PeersRequest, hello: &Hello, planned: usize) -> Run {
        let own = process_columns(&request.command_line);
        let mut run = Run::default();
        for (name, value) in self.run.fields() {
            match name.as_str() {
                "timer" => run.set(name, &self.info.timer),
                "peers" => run.set(name, hello.versions()),
                "planned_peer_rows" => run.set(name, planned),
                // Before, they were polled beside samples.
                "peer_clocks" => run.set(name, CLOCKS_IN_SAMPLES),
                _ => run.set(name, own.get(name).unwrap_or(value)),
            }
        }
        run
    }
}

/// Whether a row is of an own kernel and has a time; repeats of the sentinel once.
fn has_own_time(row: &Row) -> bool {
    row.repeat == 0 && row.is_own() && row.status.is_some_and(Status::has_time)
}

/// The device as the campaign's first process describes it.
fn device_info(run: &Run) -> Result<DeviceInfo> {
    let backend = run.get("backend").unwrap_or_default().to_owned();
    let is_known = ["cuda", "cpu", "simulated"]
        .iter()
        .any(|kind| backend.split(':').next() == Some(kind));
    if !is_known {
        bail!("peers are measured on a GPU or a CPU, and the campaign is of `{backend}`");
    }
    let provenance = Provenance::of(run, 2).0;
    let number = |column: &str| run.get(column)?.parse::<f64>().ok();
    let timer = match backend.as_str() {
        "cpu" => "time.perf_counter",
        "simulated" => "made up",
        _ => TIMER,
    };
    Ok(DeviceInfo {
        kind: provenance.device_kind.context("run.csv does not say device_kind")?,
        name: provenance.device.name,
        slug: String::new(),
        caches: provenance.caches,
        units: 0,
        memory_bytes: number("memory_bytes").unwrap_or(0.0) as u64,
        timer: timer.to_owned(),
        timer_quantum_s: number("timer_quantum_s").unwrap_or(0.0),
        launch_overhead_s: number("launch_overhead_s").unwrap_or(0.0),
        facts: Vec::new(),
        backend,
    })
}

struct Runner<'a> {
    target: &'a Target,
    /// The protocol of one round.
    settings: Settings,
    script: &'a mut Script,
    recorder: Recorder,
    began: Instant,
    budget_s: f64,
    job_limit_s: f64,
    rows: usize,
    /// The last round of each point that has no row yet, without samples.
    begun: Vec<Answered>,
}

/// A round that was measured, or could not be, before it is checked and recorded.
struct Answered {
    order_index: usize,
    scheduled: Scheduled,
    asked: Option<Asked>,
    /// None where nothing was asked.
    exchange: Option<Exchange>,
    outcome: PointOutcome,
    since_start_s: f64,
    started_utc: String,
}

impl Runner<'_> {
    /// Rows written, and the seconds that it took. On a GPU an output is checked while the
    /// next round is measured.
    fn run(
        mut self,
        order: &[Scheduled],
        observer: &mut dyn Observer,
    ) -> Result<(usize, f64)> {
        let done = order.iter().filter(|scheduled| !self.is_wanted(scheduled)).count();
        observer.begin(self.recorder.folder(), order.len(), done);
        let overlaps = self.target.info.backend.starts_with("cuda");
        let mut last: Option<Answered> = None;
        for (order_index, scheduled) in order.iter().enumerate() {
            let is_same = |answered: &Answered| answered.scheduled.point == scheduled.point;
            if !overlaps || last.as_ref().is_some_and(is_same) {
                self.conclude(last.take(), observer)?;
            }
            if !self.is_wanted(scheduled) {
                continue;
            }
            if self.is_out_of_time() || observer.should_stop() {
                break;
            }
            observer.start(scheduled);
            let mut next = self.ask(order_index, scheduled)?;
            self.conclude(last.take(), observer)?;
            if next.asked.is_some() {
                next.exchange = Some(self.script.receive()?);
            }
            last = Some(next);
        }
        self.conclude(last.take(), observer)?;
        if self.is_out_of_time() {
            self.conclude_early(observer)?;
        }
        Ok((self.rows, self.began.elapsed().as_secs_f64()))
    }

    fn is_out_of_time(&self) -> bool {
        self.began.elapsed().as_secs_f64() > self.budget_s
    }

    /// When time is up, points with enough rounds for an interval get their rows.
    fn conclude_early(&mut self, observer: &mut dyn Observer) -> Result<()> {
        for answered in std::mem::take(&mut self.begun) {
            let all = self.recorder.rounds_of(&answered.scheduled.point.id(), 0);
            if Rounds::of(all, &answered.scheduled).are_enough() {
                let row = self.write_row(&answered)?;
                observer.measured(&answered.scheduled, Some(&row));
            }
        }
        Ok(())
    }

    /// Whether a round is still to be measured.
    fn is_wanted(&self, scheduled: &Scheduled) -> bool {
        let id = scheduled.point.id();
        let rounds = self.recorder.rounds_of(&id, 0);
        !self.recorder.has(&id, 0)
            && rounds.iter().all(|round| round.row.round != scheduled.round)
    }

    /// Sends the request of a round, unless its buffers have no room.
    fn ask(&mut self, order_index: usize, scheduled: &Scheduled) -> Result<Answered> {
        let (info, point) = (&self.target.info, &scheduled.point);
        let memory_bytes = self.settings.memory_bytes.min(info.memory_bytes);
        let rotation = Rotation::plan(point, info.last_level_cache_bytes(), memory_bytes);
        let mut answered = Answered {
            order_index,
            scheduled: scheduled.clone(),
            asked: None,
            exchange: None,
            outcome: PointOutcome::default(),
            since_start_s: self.began.elapsed().as_secs_f64(),
            started_utc: format!("{:.3}", jiff::Timestamp::now()),
        };
        match rotation {
            Err(refusal) => {
                answered.outcome.status = Status::Skipped;
                answered.outcome.reason = refusal.0;
            }
            Ok(rotation) => {
                answered.outcome.rotation = Some(rotation);
                let (seed, folder) = (self.target.seed, self.script.scratch());
                let number = order_index as u64;
                let asked = request_of((number, scheduled), rotation, seed, folder)?;
                let device = self.target.info.backend.as_str();
                self.script.send(&asked.json(device, &self.settings, self.job_limit_s))?;
                answered.asked = Some(asked);
            }
        }
        Ok(answered)
    }

    /// Checks and records a round, and with the last one its point.
    fn conclude(
        &mut self,
        answered: Option<Answered>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let Some(mut answered) = answered else { return Ok(()) };
        if let (Some(asked), Some(exchange)) = (&answered.asked, &answered.exchange) {
            let check = (self.target.seed, &self.settings);
            answered.outcome = outcome_of(asked, exchange, check);
        }
        // The column tells rows of peers from own ones, whatever became of them.
        let kernel = answered.scheduled.point.kernel.to_string();
        let implementation = answered.outcome.implementation.take();
        answered.outcome.implementation =
            Some(implementation.unwrap_or_else(|| format!("{kernel}, version not known")));
        let point = &answered.scheduled.point;
        self.begun.retain(|begun| begun.scheduled.point != *point);
        let row = match self.record_round(&answered)? {
            true => Some(self.write_row(&answered)?),
            false => None,
        };
        observer.measured(&answered.scheduled, row.as_ref());
        if row.is_none() {
            answered.outcome.samples.clear();
            self.begun.push(Answered { asked: None, exchange: None, ..answered });
        }
        Ok(())
    }

    /// Writes the row of a round that was measured. Whether the point has no more to come.
    fn record_round(&mut self, answered: &Answered) -> Result<bool> {
        let Answered { scheduled, outcome, .. } = answered;
        let run_id = self.recorder.run_id().to_owned();
        let author = self.target.author(&run_id);
        // Nobody looks at the device while another process measures.
        let looks = Looks::new(&[], Instant::now());
        let samples =
            author.sample_rows(scheduled, outcome, (answered.since_start_s, &looks));
        let circumstances = Circumstances {
            started_utc: answered.started_utc.clone(),
            since_start_s: answered.since_start_s,
            other_cpu_share: None,
            probes: Probes::default(),
        };
        let round = author.round_row(scheduled, outcome, circumstances, Reports::default());
        let Some(round) = round else {
            return Ok(true);
        };
        self.recorder.record_round(round, samples)?;
        let all = self.recorder.rounds_of(&scheduled.point.id(), 0);
        Ok(Rounds::of(all, scheduled).are_complete())
    }

    fn write_row(&mut self, answered: &Answered) -> Result<Row> {
        let Answered { scheduled, outcome, order_index, .. } = answered;
        let run_id = self.recorder.run_id().to_owned();
        let all = self.recorder.rounds_of(&scheduled.point.id(), 0);
        let rounds = Rounds::of(all, scheduled);
        let author = self.target.author(&run_id);
        let mut row = author.row(scheduled, *order_index, outcome, &rounds);
        if row.started_utc.is_empty() {
            row.started_utc.clone_from(&answered.started_utc);
        }
        row.repro_command =
            format!("ridgepoint peers DIR --only {}", scheduled.point.kernel);
        self.recorder.record(&row)?;
        self.rows += 1;
        Ok(row)
    }
}
