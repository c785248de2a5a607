//! `ridgepoint selfcheck SUITE`: measure a suite twice and say how far the two agree.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::interrupt::Interrupt;
use super::options::{DeviceArgs, FilterArgs, MachineFile, OutputFormat};
use super::progress::Progress;
use super::table;
use crate::analysis::{Agreement, Campaign};
use crate::campaign::{self, Process, Request};
use crate::compare::{Comparison, Rules};
use crate::device::{self, Opened};
use crate::output::remark;

/// Measure a suite twice: how often the same code is reported as different here, and which
/// differences this machine can tell.
#[derive(Debug, clap::Args)]
pub struct SelfcheckArgs {
    /// A built-in suite (quick, headline, decode, weights, mla, products, step, roofline, elasticity, tune, paper) or a .toml file.
    #[arg(default_value = "quick")]
    suite: OsString,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Folder for the two campaigns, `a` and `b`; it must not exist. By default
    /// `results/<date>-<device>-<suite>-selfcheck`.
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    machines: MachineFile,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

pub fn run(args: &SelfcheckArgs) -> Result<ExitCode> {
    let machines = args.machines.load()?;
    let suite = args.filter.load(&args.suite)?;
    let interrupt = Interrupt::listen()?;
    let mut folders = Vec::new();
    let mut parent = args.out.clone();
    for name in ["a", "b"] {
        // Opened anew: what a device measures of itself when it is opened varies too.
        let Opened { mut device, why } =
            device::open(&args.device.name, &args.device.options())?;
        remark!("device: {} ({}): {why}", device.info().name, device.info().backend);
        let folder = parent.get_or_insert_with(|| {
            let suite = format!("{}-selfcheck", suite.name);
            campaign::default_folder(Path::new("results"), device.info(), &suite)
        });
        if name == "a" && folder.exists() {
            bail!(
                "{} exists and is never overwritten; give another folder with --out",
                folder.display()
            );
        }
        let request = Request {
            suite: Some(suite.clone()),
            out: Some(folder.join(name)),
            resume: None,
            seed: None,
            budget_s: None,
            given_up: None,
            process: Process::ALONE,
            command_line: super::measure::command_line(),
            tuning: None,
        };
        let mut progress = Progress::new(&interrupt, None);
        let summary = campaign::run(&mut *device, &request, &mut progress)?;
        drop(progress);
        if let Some(signal) = interrupt.signal() {
            remark!("stopped by {}; both campaigns are needed", Interrupt::name(signal));
            return Ok(Interrupt::exit_code(signal));
        }
        folders.push(summary.folder);
    }
    let [a, b] = [0, 1].map(|at: usize| Campaign::load(&folders[at], &machines));
    let (a, b) = (a?, b?);
    let agreement = Agreement::of(&a, &b);
    let mut section = agreement.section();
    if a.is_simulated() || b.is_simulated() {
        section.mark_simulated();
    }
    // What `compare` says of the two, whose error is that of campaigns and not of rounds alone.
    let comparison = Comparison::of(&a, &b, &|_| true, Rules::default());
    table::print(&[section, comparison.summary()], args.format)?;
    if agreement.points == 0 {
        bail!("no point of {} was measured in both campaigns", suite.name);
    }
    Ok(ExitCode::SUCCESS)
}
