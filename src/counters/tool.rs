//! Nsight Compute as a process: where it is, what it knows, and how it is run.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::output::{Metric, TENSOR_FLOPS};
use crate::record::CacheControl;
use crate::toolchain::Arch;

/// Folders where installers put the tool, beside those of `PATH`.
const PLACES: [&str; 2] = ["/usr/local/cuda/bin/ncu", "/opt/nvidia/nsight-compute/ncu"];

/// How long the tool may take to say what it is.
const QUESTION: Duration = Duration::from_secs(60);

/// Why the tool cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct ToolError(pub String);

/// Nsight Compute, found.
#[derive(Clone, Debug)]
pub struct Tool {
    path: PathBuf,
    /// Its name with its version, for records.
    pub version: String,
    /// Those of [`TENSOR_FLOPS`] that it knows for the chip.
    tensor_flops: Vec<&'static str>,
    /// Whether it obeys the program's own marks of where to profile.
    obeys_marks: bool,
}

/// A process that has ended, or was ended.
#[derive(Clone, Debug, Default)]
pub struct Finished {
    /// What it printed.
    pub stdout: String,
    /// What it printed to standard error.
    pub stderr: String,
    /// Whether it ended with success.
    pub succeeded: bool,
    /// Whether it was ended because it took too long.
    pub timed_out: bool,
}

impl Tool {
    /// Looks for the tool, at `asked` or where it is usually installed, and asks it for its
    /// version and for what it knows of the chip.
    ///
    /// # Errors
    /// It is not there, or does not run.
    pub fn find(asked: Option<&Path>, arch: Arch) -> Result<Self, ToolError> {
        let mut tool = Self::look(asked)?;
        tool.tensor_flops = tool.known_tensor_flops(arch);
        Ok(tool)
    }

    /// The same without asking what it knows of a chip, which takes seconds.
    ///
    /// # Errors
    /// It is not there, or does not run.
    pub fn look(asked: Option<&Path>) -> Result<Self, ToolError> {
        let places = match asked {
            Some(path) => vec![path.to_owned()],
            None => [PathBuf::from("ncu")]
                .into_iter()
                .chain(PLACES.map(PathBuf::from))
                .collect(),
        };
        let mut first = None;
        for path in places {
            match Self::at(&path) {
                Ok(tool) => return Ok(tool),
                Err(why) => drop(first.get_or_insert(why)),
            }
        }
        Err(first.unwrap_or_else(|| ToolError("no place to look for `ncu`".to_owned())))
    }

    fn at(path: &Path) -> Result<Self, ToolError> {
        let said = run(Command::new(path).arg("--version"), QUESTION).map_err(|why| {
            ToolError(format!(
                "Nsight Compute was not found: {} cannot be run ({why}); install it, or give \
                 its path with --ncu",
                path.display()
            ))
        })?;
        let version =
            said.stdout.lines().find_map(|line| line.trim().strip_prefix("Version "));
        let Some(version) = version.filter(|_| said.succeeded) else {
            return Err(ToolError(format!(
                "{} --version did not tell a version; is it Nsight Compute? It said: {}",
                path.display(),
                last_line(&said)
            )));
        };
        let number = version.split_whitespace().next().unwrap_or(version);
        let version = format!("Nsight Compute {number}");
        let path = path.to_owned();
        Ok(Tool { path, version, tensor_flops: Vec::new(), obeys_marks: true })
    }

    /// Asked of the tool's tables, which needs no GPU. One that does not answer counts no
    /// FLOPs.
    fn known_tensor_flops(&self, arch: Arch) -> Vec<&'static str> {
        let Some(chip) = chip(arch) else { return Vec::new() };
        let mut command = Command::new(&self.path);
        command.args(["--query-metrics", "--chip", chip]);
        let Ok(said) = run(&mut command, QUESTION) else { return Vec::new() };
        let known = |name: &&str| {
            said.stdout.lines().any(|line| line.split_whitespace().next() == Some(*name))
        };
        TENSOR_FLOPS.into_iter().filter(known).collect()
    }

    /// Asks for no FLOPs any more; whether it did before.
    pub fn forget_tensor_flops(&mut self) -> bool {
        !std::mem::take(&mut self.tensor_flops).is_empty()
    }

    /// Profiles all launches from now on, not those between marks only; whether it
    /// profiled those only before.
    pub fn forget_marks(&mut self) -> bool {
        std::mem::replace(&mut self.obeys_marks, false)
    }

    /// Whether only launches between the program's marks are profiled.
    pub const fn obeys_marks(&self) -> bool {
        self.obeys_marks
    }

    /// The tool's command line in front of the program's. Clocks are left as they are, as in
    /// the campaign; only launches of `kernels` between the program's own marks
    /// (`cuProfilerStart`, `cuProfilerStop`) are profiled.
    pub fn arguments(&self, control: CacheControl, kernels: &[&str]) -> Vec<OsString> {
        let metrics: Vec<String> = match control {
            CacheControl::All => {
                let all = Metric::ALL.into_iter().filter(|metric| metric.is_asked_for());
                let flops = self.tensor_flops.iter().map(|name| format!("{name}.sum"));
                all.map(|metric| metric.column().to_owned()).chain(flops).collect()
            }
            CacheControl::None => {
                Metric::OF_TRAFFIC.iter().map(|metric| metric.column().to_owned()).collect()
            }
        };
        let mut kernels: Vec<&str> = kernels.to_vec();
        kernels.sort_unstable();
        kernels.dedup();
        let words = [
            "--clock-control",
            "none",
            "--cache-control",
            control.name(),
            "--replay-mode",
            "kernel",
            "--profile-from-start",
            if self.obeys_marks { "off" } else { "on" },
            "--csv",
            "--page",
            "raw",
            "--print-units",
            "base",
            "--kernel-name",
        ];
        let mut arguments: Vec<OsString> = words.map(OsString::from).to_vec();
        arguments.push(format!("regex:^({})$", kernels.join("|")).into());
        arguments.push("--metrics".into());
        arguments.push(metrics.join(",").into());
        arguments
    }

    /// Runs a program under the tool, for `limit` at most. The program does not hold the GPU
    /// back, or the tool would wait for ever.
    ///
    /// # Errors
    /// The tool cannot be started.
    pub fn profile(
        &self,
        control: CacheControl,
        kernels: &[&str],
        program: &[OsString],
        limit: Duration,
    ) -> Result<Finished, ToolError> {
        let mut command = Command::new(&self.path);
        command.args(self.arguments(control, kernels)).args(program);
        command.env("RIDGEPOINT_NO_HOLD", "1");
        run(&mut command, limit).map_err(|why| {
            ToolError(format!("{} cannot be run: {why}", self.path.display()))
        })
    }
}

/// The last line that a process printed, of its errors if it printed any.
pub fn last_line<'a>(said: &'a Finished) -> &'a str {
    let last = |text: &'a str| text.lines().rev().find(|line| !line.trim().is_empty());
    last(&said.stderr).or_else(|| last(&said.stdout)).unwrap_or("nothing")
}

/// The tool's name of the first chip of an architecture.
const fn chip(arch: Arch) -> Option<&'static str> {
    match (arch.major, arch.minor) {
        (8, 0) => Some("ga100"),
        (8, 6) => Some("ga102"),
        (8, 9) => Some("ad102"),
        (9, 0) => Some("gh100"),
        (10, 0) => Some("gb100"),
        (12, 0) => Some("gb202"),
        _ => None,
    }
}

/// Runs a command to its end, or ends it and all that it started after `limit`.
fn run(command: &mut Command, limit: Duration) -> std::io::Result<Finished> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    let mut child = command.spawn()?;
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let status = wait(&mut child, limit)?;
    if status.is_none() {
        end(&mut child)?;
    }
    // What outlives its parent may keep a pipe open; nobody waits for it.
    let rest = Duration::from_secs(5);
    Ok(Finished {
        stdout: stdout.recv_timeout(rest).unwrap_or_default(),
        stderr: stderr.recv_timeout(rest).unwrap_or_default(),
        succeeded: status.is_some_and(|status| status.success()),
        timed_out: status.is_none(),
    })
}

/// Reads a pipe to its end in a thread: a full pipe would stop its writer.
fn reader<R: Read + Send + 'static>(pipe: Option<R>) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

/// `None` when time is up before it ends.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if began.elapsed() >= limit {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Ends a process and, where there are process groups, what it started.
fn end(child: &mut Child) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let group = format!("-{}", child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
    }
    // Already gone where its group was ended.
    let _ = child.kill();
    child.wait().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(tensor_flops: Vec<&'static str>) -> Tool {
        Tool {
            path: "ncu".into(),
            version: "Nsight Compute 2025.3".into(),
            tensor_flops,
            obeys_marks: true,
        }
    }

    #[test]
    fn the_command_line_is_what_the_tool_takes() {
        let line = |control, tensor_flops| {
            let arguments =
                tool(tensor_flops).arguments(control, &["stream_read", "gemm", "gemm"]);
            let words: Vec<String> =
                arguments.into_iter().map(|word| word.into_string().unwrap()).collect();
            words.join(" ")
        };
        let none = "--clock-control none --cache-control none --replay-mode kernel \
                    --profile-from-start off --csv --page raw --print-units base \
                    --kernel-name regex:^(gemm|stream_read)$ --metrics \
                    dram__bytes_read.sum,dram__bytes_write.sum,lts__t_sector_hit_rate.pct,\
                    gpu__time_duration.sum";
        assert_eq!(line(CacheControl::None, vec![TENSOR_FLOPS[0]]), none);
        let all = line(CacheControl::All, vec![TENSOR_FLOPS[0]]);
        assert!(all.contains("--cache-control all"), "{all}");
        assert!(all.ends_with(",sm__ops_path_tensor_src_bf16_dst_fp32.sum"), "{all}");
        assert!(!all.contains("profiler__"), "{all}");
    }

    #[cfg(unix)]
    #[test]
    fn what_takes_too_long_is_ended_with_all_that_it_started() {
        let began = Instant::now();
        let mut command = Command::new("sh");
        command.args(["-c", "echo begun; sleep 600 & sleep 600"]);
        let finished = run(&mut command, Duration::from_millis(300)).unwrap();
        assert!(finished.timed_out && !finished.succeeded);
        assert_eq!(finished.stdout, "begun\n");
        assert!(began.elapsed() < Duration::from_secs(4), "the pipe was closed");
    }

    #[test]
    fn a_tool_that_is_not_there_is_told() {
        let path = Path::new("/nowhere/ncu");
        let error = Tool::find(Some(path), Arch::SM_90).unwrap_err().to_string();
        assert!(error.contains("/nowhere/ncu") && error.contains("--ncu"), "{error}");
    }
}
