//! The Python process: started, asked and listened to.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::campaign::rows::nanos_now;
use crate::files::{self, TemporaryFolder};
use crate::record::Run;

/// The script's text.
pub const PEERS_SCRIPT: &str = include_str!("../../../scripts/peers.py");

/// What the script says of itself first.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Hello {
    /// Why nothing can be measured.
    pub error: Option<String>,
    pub python: Option<String>,
    pub torch: Option<String>,
    cuda: Option<String>,
    cudnn: Option<String>,
    triton: Option<String>,
    /// The GPU's name.
    pub device: Option<String>,
    uuid: Option<String>,
}

impl Hello {
    /// `python 3.12.3; torch 2.11.0+cu130; ...` of what is there.
    pub fn versions(&self) -> String {
        let named = [
            ("python", &self.python),
            ("torch", &self.torch),
            ("cuda", &self.cuda),
            ("cudnn", &self.cudnn),
            ("triton", &self.triton),
        ];
        let known = named.into_iter().filter_map(|(name, version)| {
            let version = version.as_deref().filter(|version| !version.is_empty())?;
            Some(format!("{name} {version}"))
        });
        known.collect::<Vec<_>>().join("; ")
    }

    /// The GPU's own number as `run.csv` has it: a hash of its 32 hexadecimal digits.
    pub fn uuid_hash(&self) -> Option<String> {
        let uuid = self.uuid.as_deref()?.trim_start_matches("GPU-").replace('-', "");
        let uuid = uuid.to_lowercase();
        (uuid.len() == 32).then(|| blake3::hash(uuid.as_bytes()).to_hex()[..12].to_owned())
    }
}

/// An answer of the script: docs/PEERS.md.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Answer {
    pub id: u64,
    pub status: String,
    pub reason: String,
    pub implementation: Option<String>,
    /// Launches in each sample.
    pub launches: usize,
    /// Slot of the first launch, seconds of all launches, and the clock of the
    /// multiprocessors.
    pub samples: Vec<(usize, f64, Option<f64>)>,
    pub setup_s: f64,
    pub warmup_s: f64,
    pub sample_s: f64,
}

/// A line of the script, read.
pub(super) struct Exchange {
    pub line: String,
    pub answer: Answer,
}

/// The running script. It ends when this is dropped.
pub(super) struct Script {
    process: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    hello: Hello,
    scratch: TemporaryFolder,
    expected: Vec<u64>,
}

impl Script {
    /// Writes the script to a folder of its own and starts it. `run` says which GPU.
    ///
    /// # Errors
    /// A Python that cannot be started, or that does not speak.
    pub fn start(python: &str, run: &Run, is_fake: bool) -> Result<Self> {
        let name = format!("ridgepoint-peers-{}-{}", std::process::id(), nanos_now());
        let scratch = std::env::temp_dir().join(name);
        let file = scratch.join("peers.py");
        let in_scratch = "no room for temporary files; set TMPDIR to a folder with some";
        let scratch = TemporaryFolder::make(&scratch).context(in_scratch)?;
        files::write(&file, PEERS_SCRIPT.as_bytes()).context(in_scratch)?;
        let mut command = Command::new(python);
        command.arg("-u").arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.args(is_fake.then_some("--fake"));
        // The number of a GPU is that of the driver.
        let number = run.get("backend").and_then(|backend| backend.strip_prefix("cuda:"));
        if let Some(number) = number.filter(|number| *number != "0")
            && std::env::var_os("CUDA_VISIBLE_DEVICES").is_none()
        {
            command.env("CUDA_VISIBLE_DEVICES", number);
        }
        // A signal from the terminal ends the round that runs, not the script.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let started = command.spawn();
        let mut process = started.with_context(|| {
            format!("cannot start `{python}`; name a Python with torch with --python")
        })?;
        let (requests, answers) = (process.stdin.take(), process.stdout.take());
        let answers = answers.context("the script has no standard output")?;
        let mut script = Script {
            process,
            requests,
            answers: BufReader::new(answers),
            hello: Hello::default(),
            scratch,
            expected: Vec::new(),
        };
        let line = script.line().with_context(|| format!("`{python}` did not start"))?;
        let first: Value = serde_json::from_str(&line)
            .with_context(|| format!("the script began with `{}`", line.trim()))?;
        script.hello = serde_json::from_value(first["hello"].clone())?;
        Ok(script)
    }

    /// What it says of itself.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// A folder for files of requests, which is removed with the script.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Sends a request.
    ///
    /// # Errors
    /// A script that has ended.
    pub fn send(&mut self, request: &Value) -> Result<()> {
        let requests = self.requests.as_mut().context("the script was ended")?;
        let sent = writeln!(requests, "{request}").and_then(|()| requests.flush());
        sent.context("the script of peers has ended; what was measured is safe")?;
        self.expected.extend(request["id"].as_u64());
        Ok(())
    }

    /// The answer to the oldest request. The script itself watches its jobs, so that one
    /// comes.
    ///
    /// # Errors
    /// A script that has ended, or that answers something else.
    pub fn receive(&mut self) -> Result<Exchange> {
        let line = self.line()?.trim().to_owned();
        let answer: Answer = serde_json::from_str(&line)
            .with_context(|| format!("the script of peers answered `{line}`"))?;
        if self.expected.first() != Some(&answer.id) {
            bail!("the script of peers answered request {} out of turn", answer.id);
        }
        self.expected.remove(0);
        Ok(Exchange { line, answer })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        match read.context("the script of peers cannot be read")? {
            0 => bail!("the script of peers has ended; what was measured is safe"),
            _ => Ok(line),
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // At the end of its input it ends its child and itself.
        drop(self.requests.take());
        if self.expected.is_empty() {
            let _ = self.process.wait();
        } else {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}
