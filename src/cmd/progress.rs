//! What a campaign says of itself while it is measured: a bar on a terminal, elsewhere a
//! line every few seconds, so that a log shows that it is alive and when it will end.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::interrupt::Interrupt;
use crate::campaign::{Observer, Scheduled, spell_seconds};
use crate::output::{Remarks, remark};
use crate::record::Row;

/// Longest time between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(10);

/// How often a request to stop is looked for, so that it is answered at once.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Rows from which on their mean is what the next rows are expected to take.
const ENOUGH_ROWS: usize = 3;

/// How far a campaign is.
#[derive(Clone, Debug, Default)]
struct State {
    total: usize,
    /// Rows of earlier processes and of this one.
    done: usize,
    /// Rows of this process.
    measured: usize,
    /// Seconds that a row is expected to take before any is measured.
    row_s: Option<f64>,
    label: String,
    /// When the first point was begun.
    began: Option<Instant>,
    /// Seconds from then to the last row.
    measured_s: f64,
    has_ended: bool,
}

impl State {
    /// Seconds left, `elapsed_s` after the first point was begun.
    fn left_s(&self, elapsed_s: f64) -> Option<f64> {
        let mean_s = self.measured_s / self.measured.max(1) as f64;
        let row_s = match (self.measured >= ENOUGH_ROWS, self.row_s) {
            (false, Some(row_s)) => row_s,
            (_, _) if self.measured > 0 => mean_s,
            (_, _) => return None,
        };
        let left_s = row_s * self.total.saturating_sub(self.done) as f64;
        Some((left_s - (elapsed_s - self.measured_s)).max(0.0))
    }

    fn line(&self, elapsed_s: f64) -> String {
        let left = match self.left_s(elapsed_s) {
            Some(left_s) => format!("about {} left", spell_seconds(left_s)),
            None => "time left not known yet".to_owned(),
        };
        let State { done, total, label, .. } = self;
        let elapsed = spell_seconds(elapsed_s);
        format!("{done} of {total} rounds after {elapsed}, {left}; now {label}")
    }
}

/// Tells how far a campaign is, and passes on requests to stop.
pub struct Progress {
    bar: ProgressBar,
    interrupt: Interrupt,
    shared: Arc<(Mutex<State>, Condvar)>,
    teller: Option<JoinHandle<()>>,
}

impl Progress {
    /// On standard error. `row_s` is what a row is expected to take, where that is known.
    pub fn new(interrupt: &Interrupt, row_s: Option<f64>) -> Self {
        let bar = ProgressBar::no_length();
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let every = bar.is_hidden().then_some(EVERY);
        Self::telling(bar, interrupt, row_s, every, Box::new(Remarks))
    }

    /// The same with a line to `sink` at least every `every`, if that is given.
    fn telling(
        bar: ProgressBar,
        interrupt: &Interrupt,
        row_s: Option<f64>,
        every: Option<Duration>,
        mut sink: Box<dyn Write + Send>,
    ) -> Self {
        let state = State { row_s, ..State::default() };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let teller = {
            let (shared, interrupt, bar) =
                (Arc::clone(&shared), interrupt.clone(), bar.clone());
            std::thread::spawn(move || {
                tell(&shared, &interrupt, every, |line| {
                    // A log that cannot be written must not end the campaign.
                    bar.suspend(|| writeln!(sink, "{line}").ok());
                })
            })
        };
        let interrupt = interrupt.clone();
        Progress { bar, interrupt, shared, teller: Some(teller) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.0)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells lines until the campaign has ended.
fn tell(
    shared: &(Mutex<State>, Condvar),
    interrupt: &Interrupt,
    every: Option<Duration>,
    mut say: impl FnMut(String),
) {
    let (mut last, mut has_answered) = (Instant::now(), false);
    let mut state = lock(&shared.0);
    while !state.has_ended {
        let wait = every.map_or(LOOK_EVERY, |every| every.min(LOOK_EVERY));
        let waited = shared.1.wait_timeout(state, wait);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if state.has_ended {
            break;
        }
        let mut lines = Vec::new();
        if interrupt.signal().is_some() && !has_answered {
            has_answered = true;
            lines.push("stopping after this point; once more ends at once".to_owned());
        }
        if let Some(began) = state.began
            && every.is_some_and(|every| last.elapsed() >= every)
        {
            last = Instant::now();
            lines.push(state.line(began.elapsed().as_secs_f64()));
        }
        // Nobody waits for a slow terminal.
        drop(state);
        lines.into_iter().for_each(&mut say);
        state = lock(&shared.0);
    }
}

impl Observer for Progress {
    fn begin(&mut self, folder: &Path, total: usize, done: usize) {
        let folder = folder.display();
        match (total - done, done) {
            (0, _) => {
                remark!("all {total} rounds of points are in {folder}: nothing is left")
            }
            (left, 0) => remark!("{left} rounds of points into {folder}"),
            (left, _) => remark!("{left} rounds of points of {total} into {folder}"),
        }
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        self.bar.reset_eta();
        self.bar.enable_steady_tick(Duration::from_secs(1));
        let mut state = self.state();
        (state.total, state.done, state.began) = (total, done, Some(Instant::now()));
        let left_s = state.row_s.map(|row_s| row_s * (total - done) as f64);
        if let (true, Some(left_s)) = (done > 0 && done < total, left_s) {
            remark!(
                "expect {} at the pace of the rows measured so far",
                spell_seconds(left_s)
            );
        }
    }

    fn left_out(&mut self, rounds: usize) {
        let mut state = self.state();
        state.total -= rounds;
        self.bar.set_length(state.total as u64);
    }

    fn again(&mut self, rounds: usize) {
        let mut state = self.state();
        state.total += rounds;
        self.bar.set_length(state.total as u64);
    }

    fn start(&mut self, scheduled: &Scheduled) {
        let label = scheduled.point.problem.label();
        self.bar.set_message(label.clone());
        self.state().label = label;
    }

    fn measured(&mut self, _: &Scheduled, _: Option<&Row>) {
        self.bar.inc(1);
        let mut state = self.state();
        state.done += 1;
        state.measured += 1;
        state.measured_s = state.began.map_or(0.0, |began| began.elapsed().as_secs_f64());
    }

    fn note(&mut self, text: &str) {
        self.bar.suspend(|| remark!("note: {text}"));
    }

    fn should_stop(&self) -> bool {
        self.interrupt.signal().is_some()
    }
}

/// Removes the bar, however the campaign ended.
impl Drop for Progress {
    fn drop(&mut self) {
        self.state().has_ended = true;
        self.shared.1.notify_all();
        if let Some(teller) = self.teller.take() {
            teller.join().ok();
        }
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log that tests read.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        fn lines(&self) -> Vec<String> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(str::to_owned).collect()
        }
    }

    fn state(done: usize, measured: usize, measured_s: f64, row_s: Option<f64>) -> State {
        let label = "gemm".to_owned();
        State { total: 10, done, measured, measured_s, row_s, label, ..State::default() }
    }

    #[test]
    fn time_left_is_expected_first_and_measured_later() {
        assert_eq!(state(0, 0, 0.0, None).left_s(7.0), None);
        assert_eq!(state(0, 0, 0.0, Some(3.0)).left_s(1.0), Some(29.0));
        assert_eq!(state(4, 1, 9.0, Some(3.0)).left_s(9.0), Some(18.0));
        // Nine seconds a row, two of them in the row in hand.
        assert_eq!(state(7, 3, 27.0, Some(3.0)).left_s(29.0), Some(25.0));
        assert_eq!(state(4, 1, 9.0, None).left_s(9.0), Some(54.0));
        assert_eq!(state(9, 3, 3.0, None).left_s(60.0), Some(0.0), "late, not negative");
        let line = state(7, 3, 27.0, None).line(29.0);
        assert_eq!(line, "7 of 10 rounds after 29 s, about 25 s left; now gemm");
    }

    /// Also while one point takes long.
    #[test]
    fn without_a_terminal_there_is_a_line_every_so_often() {
        let log = Log::default();
        let every = Duration::from_millis(20);
        let quiet = Interrupt::default();
        let sink = Box::new(log.clone());
        let mut progress =
            Progress::telling(ProgressBar::hidden(), &quiet, None, Some(every), sink);
        progress.begin(Path::new("x"), 10, 2);
        progress.left_out(1);
        progress.again(3);
        let began = Instant::now();
        while log.lines().len() < 3 && began.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(every);
        }
        drop(progress);
        let lines = log.lines();
        assert!(lines.len() >= 3, "{lines:?}");
        assert!(lines.iter().all(|line| line.starts_with("2 of 12 rounds after ")));
        std::thread::sleep(5 * every);
        assert_eq!(log.lines(), lines, "nothing is said after the end");
    }
}
