//! Programs on a GPU in processes of their own.
//!
//! A program that faults takes the GPU away from its process, and one that hangs never
//! gives it back: only another process certainly has it again. So a worker process runs
//! programs one after the other and says after each what it made of it; where it is lost,
//! the next one begins behind the program that did it. That is so behind each of the few
//! programs that must fault.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use ptxvm::conformance::Program;
use serde::{Deserialize, Serialize};

use super::outcome::Outcome;
use crate::device::{Device, PrepareError};

/// Programs in a row that take the device away, and must not, after which it is the device
/// that is broken: where none ran at all, and where others ran before. Programs that ask
/// for the same thing stand side by side, so a rule of the hardware that they break is
/// broken by many in a row.
const MOST_LOST: usize = 8;
const MOST_LOST_LATER: usize = 40;

/// How workers are started.
pub struct Workers<'a> {
    /// The command of a worker that begins with the program of this number: it calls
    /// [`serve`] with its standard output.
    pub command: &'a dyn Fn(usize) -> Command,
    /// Longest time that a worker may take for one program, or to open the device.
    pub patience: Duration,
}

/// A line of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Message {
    /// A program is about to run.
    Begins(usize),
    /// It ran; the output, in hexadecimal.
    Ran(String),
    /// It did not load, or reported a failure, and the device works still.
    Failed(String),
    /// The device is not made for it.
    Skipped(String),
    /// It took the device away.
    Lost(String),
}

/// Runs programs from number `first` on and writes what became of each. Ends early where
/// the device is lost.
///
/// # Errors
/// Nobody reads.
pub fn serve(
    device: &dyn Device,
    programs: &[Program],
    first: usize,
    mut to: impl Write,
) -> io::Result<()> {
    let mut say = |message: &Message| {
        serde_json::to_writer(&mut to, message)?;
        to.write_all(b"\n")?;
        to.flush()
    };
    for (number, program) in programs.iter().enumerate().skip(first) {
        say(&Message::Begins(number))?;
        let ran = device.run_program(program);
        let lost = device.lost();
        let said = match (ran, lost) {
            (Err(PrepareError::Failed(why)), Some(_)) => Message::Lost(why.to_string()),
            (_, Some(why)) => Message::Lost(why),
            (Ok(output), None) => Message::Ran(hexadecimal(&output)),
            (Err(PrepareError::Refused(why)), None) => Message::Skipped(why.to_string()),
            (Err(PrepareError::Failed(why)), None) => Message::Failed(why.to_string()),
        };
        say(&said)?;
        if let Message::Lost(_) = said {
            return Ok(());
        }
    }
    Ok(())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hexadecimal: &str) -> Option<Vec<u8>> {
    let digit = |at: usize| hexadecimal.get(at..at + 2);
    let places = (0..hexadecimal.len()).step_by(2);
    places.map(|at| u8::from_str_radix(digit(at)?, 16).ok()).collect()
}

/// Runs all programs in workers. `before` is told of each that is about to run.
pub(super) fn run(
    programs: &[Program],
    workers: &Workers,
    mut before: impl FnMut(usize, &Program),
) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(programs.len());
    let mut lost_in_a_row = 0;
    while let Some(rest) = programs.get(outcomes.len()..).filter(|rest| !rest.is_empty()) {
        let first = outcomes.len();
        let end = run_in_one(programs, workers, &mut outcomes, &mut before);
        let ran = outcomes.len() - first;
        lost_in_a_row = if ran > 0 { 0 } else { lost_in_a_row };
        let broken = match end {
            End::Faulted(_) if rest[ran].must_fault.is_some() => {
                outcomes.push(Outcome::Refused);
                None
            }
            End::Faulted(why) | End::Lost(why) => {
                outcomes.push(Outcome::Faulted(why));
                lost_in_a_row += 1;
                let has_run = outcomes.len() > lost_in_a_row;
                let most = if has_run { MOST_LOST_LATER } else { MOST_LOST };
                (lost_in_a_row == most)
                    .then(|| format!("{most} programs in a row had taken the device away"))
            }
            End::Between(why) => (ran == 0).then_some(why),
        };
        if let Some(why) = broken {
            outcomes.resize(programs.len(), Outcome::NotRun(why));
        }
    }
    outcomes
}

/// How a worker ended.
enum End {
    /// The device says that a program faulted and took it away.
    Faulted(String),
    /// A program took its process along, or never came to an end.
    Lost(String),
    /// No program was running.
    Between(String),
}

/// Starts a worker behind the programs that have an outcome, and adds what it says until it
/// ends.
fn run_in_one(
    programs: &[Program],
    workers: &Workers,
    outcomes: &mut Vec<Outcome>,
    mut before: impl FnMut(usize, &Program),
) -> End {
    let mut worker = match Worker::start((workers.command)(outcomes.len())) {
        Ok(worker) => worker,
        Err(why) => return End::Between(format!("no process could be started: {why}")),
    };
    let mut is_running = false;
    loop {
        let at = outcomes.len();
        let message = match worker.lines.recv_timeout(workers.patience) {
            Ok(line) => serde_json::from_str(&line)
                .map_err(|_| format!("its process said `{line}`; this is a bug")),
            Err(RecvTimeoutError::Timeout) => {
                let seconds = workers.patience.as_secs_f64();
                Err(format!("no end after {seconds} s; its process was ended"))
            }
            Err(RecvTimeoutError::Disconnected) => Err(worker.ending()),
        };
        let outcome = match (message, programs.get(at)) {
            (Ok(Message::Begins(number)), Some(program)) if number == at => {
                before(number, program);
                is_running = true;
                continue;
            }
            (Ok(Message::Ran(output)), Some(program)) if is_running => match bytes(&output)
            {
                Some(output) if output.len() == program.output_bytes => {
                    Outcome::ran(program, output)
                }
                _ => return End::Lost("its output is not whole".to_owned()),
            },
            (Ok(Message::Failed(why)), _) if is_running => Outcome::Failed(why),
            (Ok(Message::Skipped(why)), _) if is_running => Outcome::Skipped(why),
            (Ok(Message::Lost(why)), _) if is_running => return End::Faulted(why),
            (Ok(_), _) => {
                let why =
                    "a process told of a program that it had not begun; this is a bug";
                return End::Between(why.to_owned());
            }
            (Err(why), _) if is_running => return End::Lost(why),
            (Err(why), _) => return End::Between(why),
        };
        outcomes.push(outcome);
        is_running = false;
    }
}

/// A worker, ended when it is dropped.
struct Worker {
    process: Child,
    lines: Receiver<String>,
}

impl Worker {
    fn start(mut command: Command) -> io::Result<Self> {
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = process.stdout.take();
        let (to, lines) = mpsc::channel();
        // It ends with the process, whose output it reads.
        std::thread::spawn(move || pass_on(output, &to));
        Ok(Worker { process, lines })
    }

    /// How it ended, of one that says no more.
    fn ending(&mut self) -> String {
        match self.process.wait() {
            Ok(status) => format!("its process ended with {status}"),
            Err(why) => format!("its process ended: {why}"),
        }
    }
}

fn pass_on(output: Option<ChildStdout>, to: &mpsc::Sender<String>) {
    let lines = output.into_iter().flat_map(|output| BufReader::new(output).lines());
    for line in lines.map_while(Result::ok) {
        if to.send(line).is_err() {
            return;
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker made of a shell script, which finds the number of its first program in `$1`.
    fn run_script(script: &str, count: usize) -> Vec<Outcome> {
        let mut programs = ptxvm::conformance::programs();
        programs.truncate(count);
        run_programs(script, &programs)
    }

    fn run_programs(script: &str, programs: &[Program]) -> Vec<Outcome> {
        let command = |first: usize| {
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh", &first.to_string()]);
            command
        };
        let patience = Duration::from_millis(500);
        run(programs, &Workers { command: &command, patience }, |_, _| {})
    }

    /// Says of each program from `$1` to 11 that it is skipped, after `$2`.
    fn script(at_three: &str) -> String {
        format!(
            "i=$1; while [ $i -lt 12 ]; do echo \"{{\\\"Begins\\\":$i}}\"; \
             [ $i = 3 ] && {{ {at_three}; }}; echo '{{\"Skipped\":\"no\"}}'; i=$((i+1)); done"
        )
    }

    #[test]
    fn a_program_that_ends_its_process_costs_itself_only() {
        for (at_three, why) in [
            ("exit 7", "exit status: 7"),
            ("kill -9 $$", "signal: 9"),
            ("exec sleep 20", "no end after 0.5 s"),
            ("echo '{\"Lost\":\"a fault\"}'; exit", "a fault"),
        ] {
            let outcomes = run_script(&script(at_three), 12);
            assert_eq!(outcomes.len(), 12);
            for (number, outcome) in outcomes.iter().enumerate() {
                match (number, outcome) {
                    (3, Outcome::Faulted(said)) => assert!(said.contains(why), "{said}"),
                    (3, other) => panic!("{other:?}"),
                    (_, outcome) => assert!(matches!(outcome, Outcome::Skipped(_))),
                }
            }
        }
    }

    /// Only the device can say that a program faulted: not a process that ends.
    #[test]
    fn a_program_that_must_fault_is_right_where_the_device_says_so() {
        let mut programs = ptxvm::conformance::programs();
        programs.truncate(12);
        programs[3].must_fault = Some("a rule");
        let output = hexadecimal(&vec![0; programs[3].output_bytes]);
        let ran = format!("echo '{{\"Ran\":\"{output}\"}}'; i=4; continue");
        let failed = "echo '{\"Failed\":\"not loaded\"}'; i=4; continue";
        for (at_three, is_right) in [
            ("echo '{\"Lost\":\"a fault\"}'; exit", true),
            ("exit 7", false),
            ("exec sleep 20", false),
            (&ran, false),
            (failed, false),
        ] {
            let outcomes = run_programs(&script(at_three), &programs);
            assert_eq!(outcomes.len(), 12);
            assert_eq!(outcomes[3].is_right(), is_right, "{:?}", outcomes[3]);
            assert_eq!(outcomes[3].is_wrong(), !is_right, "{:?}", outcomes[3]);
            assert!(matches!(&outcomes[11], Outcome::Skipped(_)), "{:?}", outcomes[11]);
        }
        // However many must fault, the device is not given up.
        programs.iter_mut().for_each(|program| program.must_fault = Some("a rule"));
        let lost = "echo \"{\\\"Begins\\\":$1}\"; echo '{\"Lost\":\"a fault\"}'";
        let outcomes = run_programs(lost, &programs);
        assert!(outcomes.iter().all(Outcome::is_right), "{outcomes:?}");
    }

    #[test]
    fn a_device_that_is_broken_is_given_up() {
        let outcomes = run_script("echo \"{\\\"Begins\\\":$1}\"; exit 1", 12);
        let faulted = outcomes.iter().filter(|o| matches!(o, Outcome::Faulted(_)));
        assert_eq!(faulted.count(), MOST_LOST);
        assert!(matches!(&outcomes[11], Outcome::NotRun(why) if why.contains("in a row")));
        // One that has run programs may refuse many that follow each other.
        let once = "if [ $1 = 0 ]; then echo '{\"Begins\":0}'; echo '{\"Skipped\":\"no\"}'; fi; \
                    echo \"{\\\"Begins\\\":$(($1 > 0 ? $1 : 1))}\"; exit 1";
        let outcomes = run_script(once, 30);
        let faulted = outcomes.iter().filter(|o| matches!(o, Outcome::Faulted(_)));
        assert_eq!(faulted.count(), 29);
        let outcomes = run_script("exit 1", 3);
        assert!(matches!(&outcomes[0], Outcome::NotRun(why) if why.contains("status: 1")));
        let outcomes = run_script("echo hello", 3);
        assert!(matches!(&outcomes[2], Outcome::NotRun(why) if why.contains("hello")));
    }

    #[test]
    fn outputs_come_back() {
        let output = [0, 9, 0xa5, 255];
        assert_eq!(bytes(&hexadecimal(&output)).unwrap(), output);
        assert_eq!(bytes("0"), None);
        assert_eq!(bytes("0g"), None);
    }
}
