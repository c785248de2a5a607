//! Checks beside the measurement: on a device of its own the next point is measured while
//! the host holds the outputs of earlier ones against the reference.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::rows::{Circumstances, Scheduled};
use crate::device::AskedTelemetry;
use crate::host_load::AskedLoad;
use crate::measure::{PendingCheck, PointOutcome};
use crate::reference::{Check, NoReference};

/// Most bytes of outputs that wait for their check.
const MOST_BYTES: usize = 1 << 30;

/// Most rounds whose checks wait.
const MOST_ROUNDS: usize = 64;

/// Rounds that are checked at the same time. Each is divided among all cores, and a thread
/// that waits for a part of one takes up another round, and in that the next: with many at
/// once its stack would end.
const AT_ONCE: usize = 2;

/// Cores that checks leave to the thread that launches and to what else runs.
const SPARED_CORES: usize = 2;

/// A round that was measured and is not recorded yet.
pub(super) struct MeasuredRound {
    pub scheduled: Scheduled,
    pub order_index: usize,
    pub outcome: PointOutcome,
    pub circumstances: Circumstances,
    /// What the device reports of itself at the end.
    pub telemetry: AskedTelemetry,
    /// What the host's CPUs did until then.
    pub load: AskedLoad,
}

type Found = Vec<Result<Check, NoReference>>;

struct Waiting {
    round: MeasuredRound,
    bytes: usize,
    /// `None` where everything was checked when it was measured.
    checks: Option<JoinHandle<Found>>,
}

impl Waiting {
    fn is_done(&mut self) -> bool {
        self.checks.as_ref().is_none_or(JoinHandle::is_finished)
            && self.round.telemetry.is_known()
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

/// Lets rounds be checked in their order, [`AT_ONCE`] at a time.
#[derive(Default)]
struct Turns {
    ended: Mutex<usize>,
    changed: Condvar,
}

/// The turn of a round, which ends when this is dropped, after a panic too.
struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for the turn of the round with this number.
    fn wait_for(&self, number: usize) -> Turn<'_> {
        let is_early = |ended: &mut usize| number >= *ended + AT_ONCE;
        drop(self.changed.wait_while(self.ended(), is_early));
        Turn(self)
    }

    fn ended(&self) -> MutexGuard<'_, usize> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.ended() += 1;
        self.0.changed.notify_all();
    }
}

/// Rounds whose outputs are being checked, in the order in which they were measured.
#[derive(Default)]
pub(super) struct CheckQueue {
    waiting: VecDeque<Waiting>,
    pool: Option<Arc<ThreadPool>>,
    turns: Arc<Turns>,
    /// Rounds whose checks were begun.
    begun: usize,
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
        let (turns, number) = (self.turns.clone(), self.begun);
        self.begun += 1;
        thread::spawn(move || {
            let _turn = turns.wait_for(number);
            pool.install(run)
        })
    }

    /// The next round whose checks are done; where too much waits, after waiting for it.
    pub fn next_done(&mut self) -> Option<MeasuredRound> {
        let bytes: usize = self.waiting.iter().map(|waiting| waiting.bytes).sum();
        let is_full = bytes > MOST_BYTES || self.waiting.len() > MOST_ROUNDS;
        if is_full || self.waiting.front_mut()?.is_done() { self.next() } else { None }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn rounds_are_checked_in_order_and_few_at_a_time() {
        let turns = Turns::default();
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let order = Mutex::new(Vec::new());
        thread::scope(|scope| {
            // The last ones come first.
            for number in (0..20).rev() {
                let (turns, running, most, order) = (&turns, &running, &most, &order);
                scope.spawn(move || {
                    let turn = turns.wait_for(number);
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    order.lock().unwrap().push(number);
                    thread::sleep(std::time::Duration::from_millis(1));
                    running.fetch_sub(1, Ordering::SeqCst);
                    drop(turn);
                });
            }
        });
        assert_eq!(most.into_inner(), AT_ONCE);
        let order = order.into_inner().unwrap();
        for (at, number) in order.into_iter().enumerate() {
            assert!(number < at + AT_ONCE, "{number} was the {at}th");
        }
    }

    #[test]
    fn a_turn_ends_with_a_panic() {
        let turns = Turns::default();
        for number in 0..2 * AT_ONCE {
            thread::scope(|scope| {
                let of_round = || {
                    let _turn = turns.wait_for(number);
                    panic!("a check that panics");
                };
                assert!(scope.spawn(of_round).join().is_err());
            });
        }
        drop(turns.wait_for(2 * AT_ONCE));
    }
}
