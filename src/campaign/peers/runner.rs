//! Rounds of peers and of the kernels that take turns with them, one after the other.

use std::time::Instant;

use anyhow::Result;

use super::answer::outcome_of;
use super::request::{Asked, request_of};
use super::script::{Exchange, Script};
use super::target::Target;
use crate::campaign::looks::Looks;
use crate::campaign::rows::{self, Circumstances, Probes, Reports, Rounds, Scheduled};
use crate::campaign::{Observer, measure_round};
use crate::device::{Device, DeviceInfo, Telemetry};
use crate::measure::{PendingCheck, PointOutcome, Rotation, Settings};
use crate::point::Load;
use crate::record::{Recorder, Row, Status};

/// What measures the rounds of an order, checks and records them.
pub(super) struct Runner<'a> {
    pub target: &'a Target,
    /// The protocol of one round.
    pub settings: Settings,
    pub script: &'a mut Script,
    /// What runs the kernels that take turns with peers; `None` once it is lost.
    pub device: Option<Box<dyn Device>>,
    pub recorder: Recorder,
    pub began: Instant,
    pub budget_s: f64,
    pub job_limit_s: f64,
    pub rows: usize,
    /// The last round of each point that has no row yet, without samples.
    pub begun: Vec<Answered>,
}

/// A round that was measured, or could not be, before it is checked and recorded.
pub(super) struct Answered {
    order_index: usize,
    scheduled: Scheduled,
    /// None where this process measured.
    asked: Option<Asked>,
    /// None where nothing was asked.
    exchange: Option<Exchange>,
    outcome: PointOutcome,
    /// What the device reported before and after the round.
    telemetry: [Telemetry; 2],
    since_start_s: f64,
    started_utc: String,
}

/// Whether a round is of a kernel that this process runs between those of peers.
fn takes_turns(scheduled: &Scheduled) -> bool {
    scheduled.point.load == Some(Load::InTurn)
}

impl Runner<'_> {
    /// Rows written, and the seconds that it took. On a GPU an output is checked while the
    /// next round is measured.
    pub fn run(
        mut self,
        order: &[Scheduled],
        observer: &mut dyn Observer,
    ) -> Result<(usize, f64)> {
        let done = order.iter().filter(|scheduled| !self.is_wanted(scheduled)).count();
        observer.begin(self.recorder.folder(), order.len(), done);
        let overlaps = self.target.info.backend.starts_with("cuda");
        let mut last: Option<Answered> = None;
        let mut before: Option<&Scheduled> = None;
        for (order_index, scheduled) in order.iter().enumerate() {
            let of =
                |scheduled: &Scheduled| (scheduled.point.problem, scheduled.point.cache);
            let is_next = before.is_none_or(|before| of(before) != of(scheduled));
            let is_new_round = before.is_some_and(|before| before.round != scheduled.round);
            before = Some(scheduled);
            if let Some(device) = self.device.as_mut().filter(|_| is_new_round) {
                device.begin_round();
            }
            let is_same = |answered: &Answered| answered.scheduled.point == scheduled.point;
            if !overlaps || last.as_ref().is_some_and(is_same) {
                self.conclude(last.take(), observer)?;
            }
            if !self.is_wanted(scheduled) {
                continue;
            }
            // Kernels of a problem that are to take turns get the same rounds.
            if is_next && self.is_out_of_time() || observer.should_stop() {
                break;
            }
            last = self.step(order_index, scheduled, last, observer)?;
        }
        self.conclude(last.take(), observer)?;
        self.conclude_rest(observer)?;
        Ok((self.rows, self.began.elapsed().as_secs_f64()))
    }

    /// Measures a round. One that the script measures runs while the last is concluded; one
    /// of this process follows the last at once, which is concluded after it.
    fn step(
        &mut self,
        order_index: usize,
        scheduled: &Scheduled,
        last: Option<Answered>,
        observer: &mut dyn Observer,
    ) -> Result<Option<Answered>> {
        let takes_turns = takes_turns(scheduled);
        if takes_turns && self.device.is_none() {
            return Ok(last);
        }
        observer.start(scheduled);
        let before = self.look();
        let mut next = if takes_turns {
            let measured = self.measure(order_index, scheduled);
            self.conclude(last, observer)?;
            measured
        } else {
            let mut asked = self.ask(order_index, scheduled)?;
            self.conclude(last, observer)?;
            if asked.asked.is_some() {
                asked.exchange = Some(self.script.receive()?);
            }
            asked
        };
        next.telemetry = [before, self.look()];
        self.give_up_lost(&next, observer);
        Ok(Some(next))
    }

    /// What the device reports since it was last asked. The script's process is known.
    fn look(&self) -> Telemetry {
        let telemetry = self.device.as_ref().map(|device| device.ask_telemetry().wait());
        Telemetry { other_processes: Vec::new(), ..telemetry.unwrap_or_default() }
    }

    /// Leaves the device where it can be used no more.
    fn give_up_lost(&mut self, last: &Answered, observer: &mut dyn Observer) {
        let Some(device) = &self.device else { return };
        let Some(why) = device.lost() else { return };
        observer.note(&format!(
            "{} can no longer be used after {}: {why}. Peers are measured on, without own \
             kernels in turn",
            device.info().name,
            last.scheduled.point
        ));
        self.device = None;
    }

    /// A round of which nothing is known yet.
    fn begin(&self, order_index: usize, scheduled: &Scheduled) -> Answered {
        Answered {
            order_index,
            scheduled: scheduled.clone(),
            asked: None,
            exchange: None,
            outcome: PointOutcome::default(),
            telemetry: Default::default(),
            since_start_s: self.began.elapsed().as_secs_f64(),
            started_utc: format!("{:.3}", jiff::Timestamp::now()),
        }
    }

    /// Measures a round by this process's own device.
    fn measure(&mut self, order_index: usize, scheduled: &Scheduled) -> Answered {
        let mut measured = self.begin(order_index, scheduled);
        if let Some(device) = self.device.as_deref_mut() {
            measured.outcome =
                measure_round(device, scheduled, &self.settings, self.target.seed);
        }
        measured
    }

    fn is_out_of_time(&self) -> bool {
        self.began.elapsed().as_secs_f64() > self.budget_s
    }

    /// Rows of points all of whose rounds were measured, some of them disturbed; and when time
    /// is up, of those with enough rounds for an interval.
    fn conclude_rest(&mut self, observer: &mut dyn Observer) -> Result<()> {
        for answered in std::mem::take(&mut self.begun) {
            let scheduled = &answered.scheduled;
            let all = self.recorder.rounds_of(&scheduled.point.id(), 0);
            let is_measured = all.len() >= scheduled.rounds as usize;
            let are_enough = Rounds::of(all, scheduled).are_enough();
            if is_measured || self.is_out_of_time() && are_enough {
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
        let mut answered = self.begin(order_index, scheduled);
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
        let outcome = &mut answered.outcome;
        if !outcome.pending.is_empty() {
            let began = Instant::now();
            let checks = outcome.pending.iter().map(PendingCheck::run).collect();
            outcome.settle(checks);
            outcome.durations.check_s += began.elapsed().as_secs_f64();
        }
        if !takes_turns(&answered.scheduled) {
            // The column tells rows of peers from own ones, whatever became of them.
            let kernel = answered.scheduled.point.kernel.to_string();
            let unknown = || format!("{kernel}, version not known");
            outcome.implementation =
                Some(outcome.implementation.take().unwrap_or_else(unknown));
        }
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

    /// The device that a round was measured on: peers launch in another way.
    fn info(&self, answered: &Answered) -> &DeviceInfo {
        match &self.device {
            Some(device) if takes_turns(&answered.scheduled) => device.info(),
            _ => &self.target.info,
        }
    }

    /// Writes the row of a round that was measured. Whether the point has no more to come.
    fn record_round(&mut self, answered: &Answered) -> Result<bool> {
        let Answered { scheduled, outcome, telemetry, .. } = answered;
        let run_id = self.recorder.run_id().to_owned();
        let info = self.info(answered);
        let author = self.target.author(info, &run_id);
        let [before, mut after] = telemetry.clone();
        // When another process took its samples is not known as well as that.
        let mut looks = std::mem::take(&mut after.looks);
        looks.retain(|_| takes_turns(scheduled));
        let looks = Looks::new(&looks, self.began);
        let samples =
            author.sample_rows(scheduled, outcome, (answered.since_start_s, &looks));
        let circumstances = Circumstances {
            started_utc: answered.started_utc.clone(),
            since_start_s: answered.since_start_s,
            other_cpu_share: None,
            probes: Probes::default(),
        };
        let disturbed_by =
            rows::disturbed_by(info, &self.target.suite.settings, None, (&before, &after));
        let reports = Reports { telemetry: after, disturbed_by };
        let round = author.round_row(scheduled, outcome, circumstances, reports);
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
        let author = self.target.author(self.info(answered), &run_id);
        let mut row = author.row(scheduled, *order_index, outcome, &rounds);
        if row.started_utc.is_empty() {
            row.started_utc.clone_from(&answered.started_utc);
        }
        row.repro_command = match takes_turns(scheduled) {
            true => "ridgepoint peers DIR".to_owned(),
            false => format!("ridgepoint peers DIR --only {}", scheduled.point.kernel),
        };
        self.recorder.record(&row)?;
        self.rows += 1;
        Ok(row)
    }
}
