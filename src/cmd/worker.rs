//! Campaigns of a GPU in a process of their own. A kernel that faults takes the GPU away
//! from its process, one that hangs never ends, and a process may be killed: whatever
//! becomes of the worker, its supervisor starts another one that continues the campaign.
//!
//! The two share a file: the worker says in it what it is about to measure, and so shows
//! that it is alive. A point with which two workers have ended is given up: it becomes a
//! row with the reason.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::interrupt::Interrupt;
use crate::campaign::{GivenUp, Observer, Scheduled};
use crate::files::TemporaryFolder;
use crate::output::remark;
use crate::record::{Row, write_atomically};

/// Exit code of a worker whose GPU is lost to it: `EX_TEMPFAIL`.
pub const LOST: u8 = 75;

/// Deaths of workers with a point after which it is given up.
const MOST_DEATHS: usize = 2;

/// Workers that may die one after the other without measuring anything.
const MOST_FRUITLESS: usize = 3;

/// How often the supervisor looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Longest time in which a worker opens its GPU, compiles what it needs, or draws.
const PATIENCE_S: f64 = 300.0;

/// Overrides how long a worker may be silent.
const PATIENCE: &str = "RIDGEPOINT_PATIENCE_S";

/// What a worker says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct WorkerState {
    /// The folder of the campaign, once it is there.
    folder: Option<PathBuf>,
    /// The point that is measured now, and which repeat of it.
    point: Option<(String, u32)>,
    /// Rounds that were measured so far.
    rounds: usize,
    /// How long it may be silent.
    patience_s: f64,
}

/// Passes everything on, and writes down what a supervisor must know.
pub struct Reporting<'a> {
    inner: &'a mut dyn Observer,
    path: PathBuf,
    state: WorkerState,
    measuring_s: f64,
}

impl<'a> Reporting<'a> {
    /// `longest_s` is how long a round of the campaign may take at most.
    pub fn new(inner: &'a mut dyn Observer, path: &Path, longest_s: f64) -> Self {
        let measuring_s = patience_s(longest_s);
        let state = WorkerState { patience_s: PATIENCE_S, ..WorkerState::default() };
        Reporting { inner, path: path.to_owned(), state, measuring_s }
    }

    fn write(&self) {
        let Ok(text) = serde_json::to_string(&self.state) else { return };
        // A supervisor that cannot read it sees a silent worker, and ends it.
        if let Err(why) = write_atomically(&self.path, text.as_bytes()) {
            static TOLD: Once = Once::new();
            TOLD.call_once(|| {
                remark!(
                    "note: what is measured cannot be told to the supervisor, which may end \
                     this process: {why:#}; set TMPDIR to a folder with room"
                );
            });
        }
    }
}

fn patience_s(least_s: f64) -> f64 {
    let chosen = std::env::var(PATIENCE).ok().and_then(|text| text.parse().ok());
    chosen.unwrap_or(least_s)
}

impl Observer for Reporting<'_> {
    fn begin(&mut self, folder: &Path, total: usize, done: usize) {
        self.state.folder = Some(folder.to_owned());
        self.write();
        self.inner.begin(folder, total, done);
    }

    fn start(&mut self, scheduled: &Scheduled) {
        self.state.point = Some((scheduled.point.to_string(), scheduled.repeat));
        self.state.patience_s = self.measuring_s;
        self.write();
        self.inner.start(scheduled);
    }

    fn measured(&mut self, scheduled: &Scheduled, row: Option<&Row>) {
        self.state.rounds += 1;
        self.write();
        self.inner.measured(scheduled, row);
    }

    fn left_out(&mut self, rounds: usize) {
        self.inner.left_out(rounds);
    }

    fn again(&mut self, rounds: usize) {
        self.inner.again(rounds);
    }

    fn note(&mut self, text: &str) {
        self.inner.note(text);
    }

    fn should_stop(&self) -> bool {
        self.inner.should_stop()
    }
}

impl Drop for Reporting<'_> {
    /// The campaign is over, and no point is to blame for what follows.
    fn drop(&mut self) {
        self.state.point = None;
        self.state.patience_s = PATIENCE_S;
        self.write();
    }
}

/// Ends this process, after the row in hand, when its supervisor is gone.
pub fn follow_supervisor() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, set_parent_process_death_signal};
        // Without it a worker that is left alone finishes its campaign.
        let _ = set_parent_process_death_signal(Some(Signal::TERM));
    }
}

/// How a worker is started.
pub struct Supervised<'a> {
    /// What follows the program's name for the first worker.
    pub arguments: Vec<OsString>,
    /// The same for one that continues a campaign, without the folder.
    pub to_resume: &'a dyn Fn(&Path) -> Vec<OsString>,
}

/// Runs workers until one has come to its own end, and passes on its exit code.
///
/// # Errors
/// A worker that cannot be started, workers that die before they measure anything.
pub fn supervise(supervised: &Supervised<'_>) -> Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    let nanos =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let name = format!("ridgepoint-worker-{}-{}", std::process::id(), nanos.as_nanos());
    let scratch = TemporaryFolder::make(&std::env::temp_dir().join(name))
        .context("no room for temporary files; set TMPDIR to a folder with some")?;
    run_workers(supervised, &interrupt, scratch.path())
}

fn run_workers(
    supervised: &Supervised<'_>,
    interrupt: &Interrupt,
    scratch: &Path,
) -> Result<ExitCode> {
    let mut arguments = supervised.arguments.clone();
    let mut deaths: Vec<(String, u32)> = Vec::new();
    let mut fruitless = 0;
    for number in 0.. {
        let path = scratch.join(format!("{number}.json"));
        let mut worker = Worker::start(&arguments, &path)?;
        let ended = worker.wait(interrupt)?;
        let Some(why) = ended.death() else { return Ok(ended.exit_code()) };
        let state = worker.state();
        fruitless = if state.rounds == 0 { fruitless + 1 } else { 0 };
        if fruitless > MOST_FRUITLESS {
            let go_on = state.folder.as_ref().map_or(String::new(), |folder| {
                let folder = folder.display();
                format!(
                    ". What was measured is safe; `ridgepoint measure --resume {folder}` \
                     continues"
                )
            });
            bail!(
                "{fruitless} workers ended one after the other and measured nothing, the last \
                 because it {why}: the GPU seems to be lost{go_on}"
            );
        }
        let Some(folder) = &state.folder else {
            remark!(
                "note: the worker {why} before the campaign began; another one begins it"
            );
            continue;
        };
        arguments = (supervised.to_resume)(folder);
        let Some((point, repeat)) = state.point else {
            remark!("note: the worker {why}; another one continues");
            continue;
        };
        remark!("note: the worker {why} with {point}; another one continues");
        deaths.push((point.clone(), repeat));
        if deaths.iter().filter(|death| **death == (point.clone(), repeat)).count()
            >= MOST_DEATHS
        {
            let reason = format!(
                "{MOST_DEATHS} worker processes ended with it, the last because it {why}"
            );
            let given_up = GivenUp { point, repeat, reason };
            arguments.push("--give-up".into());
            arguments.push(serde_json::to_string(&given_up)?.into());
        }
    }
    unreachable!("there is always a next number")
}

/// How a worker came to its end.
enum Ended {
    Itself(ExitStatus),
    Silent(f64),
}

impl Ended {
    /// In words, what ended it, unless it came to its own end.
    fn death(&self) -> Option<String> {
        match self {
            Ended::Silent(seconds) => {
                Some(format!("said nothing for {seconds:.0} s and was ended"))
            }
            Ended::Itself(status) => match status.code() {
                Some(code) if code == i32::from(LOST) => Some("lost the GPU".to_owned()),
                Some(_) => None,
                None => Some(format!("was ended by {status}")),
            },
        }
    }

    fn exit_code(&self) -> ExitCode {
        let Ended::Itself(status) = self else { return ExitCode::FAILURE };
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        code.map_or(ExitCode::FAILURE, ExitCode::from)
    }
}

struct Worker {
    child: Child,
    path: PathBuf,
}

impl Worker {
    fn start(arguments: &[OsString], path: &Path) -> Result<Self> {
        let program =
            std::env::current_exe().context("the program's own path is not known")?;
        let mut command = Command::new(program);
        command.args(arguments).arg("--worker").arg(path);
        // What a terminal signals comes through the supervisor, once.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().context("cannot start a worker process")?;
        Ok(Worker { child, path: path.to_owned() })
    }

    fn state(&self) -> WorkerState {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Waits for its end, passes requests to stop on, and ends it where it is silent.
    fn wait(&mut self, interrupt: &Interrupt) -> Result<Ended> {
        let began = Instant::now();
        let mut passed_on = None;
        loop {
            if let Some(status) = self.child.try_wait().context("lost the worker")? {
                return Ok(Ended::Itself(status));
            }
            if interrupt.signal() != passed_on {
                passed_on = interrupt.signal();
                self.signal();
            }
            let silent_s = self.silent_s().unwrap_or(began.elapsed().as_secs_f64());
            let patience_s = match self.state().patience_s {
                0.0 => patience_s(PATIENCE_S),
                patience_s => patience_s,
            };
            if silent_s > patience_s {
                self.child.kill().ok();
                self.child.wait().context("lost the worker")?;
                return Ok(Ended::Silent(silent_s));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Seconds since it wrote its state; `None` before the first time.
    fn silent_s(&self) -> Option<f64> {
        let written = fs::metadata(&self.path).ok()?.modified().ok()?;
        Some(SystemTime::now().duration_since(written).map_or(0.0, |d| d.as_secs_f64()))
    }

    /// Asks it to stop after the row in hand.
    fn signal(&self) {
        #[cfg(unix)]
        {
            use rustix::process::{Pid, Signal, kill_process};
            let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
            if let Some(pid) = pid {
                kill_process(pid, Signal::TERM).ok();
            }
        }
    }
}

impl Drop for Worker {
    /// Where the supervisor gives up, its worker does not go on alone.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}
