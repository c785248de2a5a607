//! Checks beside the measurement: on a device of its own the next point is measured while
//! the host holds the outputs of earlier ones against the reference.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::rows::{Circumstances, Scheduled};
use crate::measure::{PendingCheck, PointOutcome};
use crate::reference::{Check, NoReference};

/// Most bytes of outputs that wait for their check.
const MOST_BYTES: usize = 1 << 30;

/// Most rounds whose checks wait.
const MOST_ROUNDS: usize = 64;

/// Cores that checks leave to the thread that launches and to what else runs.
const SPARED_CORES: usize = 2;

/// A round that was measured and is not recorded yet.
pub(super) struct MeasuredRound {
    pub scheduled: Scheduled,
    pub order_index: usize,
    pub outcome: PointOutcome,
    pub circumstances: Circumstances,
}

type Found = Vec<Result<Check, NoReference>>;

struct Waiting {
    round: MeasuredRound,
    bytes: usize,
    /// `None` where everything was checked when it was measured.
    checks: Option<JoinHandle<Found>>,
}

impl Waiting {
    fn is_done(&self) -> bool {
        self.checks.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the checks. What the campaign waits counts as time of checks.
    fn settled(self) -> MeasuredRound {
        let mut round = self.round;
        let Some(checks) = self.checks else { return round };
        let began = Instant::now();
        match checks.join() {
            Ok(found) => round.outcome.settle(found),
            Err(_) => {
                let why = "its check panicked; this is a bug, please report it".to_owned();
                round.outcome = PointOutcome::failed(why);
            }
        }
        round.outcome.durations.check_s += began.elapsed().as_secs_f64();
        round
    }
}

/// Rounds whose outputs are being checked, in the order in which they were measured.
#[derive(Default)]
pub(super) struct CheckQueue {
    waiting: VecDeque<Waiting>,
    pool: Option<Arc<ThreadPool>>,
}

impl CheckQueue {
    /// Takes a round, and begins the checks that it has left.
    pub fn push(&mut self, mut round: MeasuredRound) {
        let pending = std::mem::take(&mut round.outcome.pending);
        let bytes = pending.iter().map(PendingCheck::bytes).sum();
        let checks = (!pending.is_empty()).then(|| self.begin(pending));
        self.waiting.push_back(Waiting { round, bytes, checks });
    }

    fn begin(&mut self, pending: Vec<PendingCheck>) -> JoinHandle<Found> {
        let pool = self.pool.get_or_insert_with(|| Arc::new(pool())).clone();
        let run = move || pending.iter().map(PendingCheck::run).collect();
        thread::spawn(move || pool.install(run))
    }

    /// The next round whose checks are done; where too much waits, after waiting for it.
    pub fn next_done(&mut self) -> Option<MeasuredRound> {
        let bytes: usize = self.waiting.iter().map(|waiting| waiting.bytes).sum();
        let is_full = bytes > MOST_BYTES || self.waiting.len() > MOST_ROUNDS;
        if is_full || self.waiting.front()?.is_done() { self.next() } else { None }
    }

    /// The next round, after waiting for its checks.
    pub fn next(&mut self) -> Option<MeasuredRound> {
        self.waiting.pop_front().map(Waiting::settled)
    }
}

fn pool() -> ThreadPool {
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    let threads = cores.saturating_sub(SPARED_CORES).max(1);
    let built = ThreadPoolBuilder::new().num_threads(threads).build();
    built.expect("threads for the checks can be started; raise the limit on processes")
}
