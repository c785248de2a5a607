//! `ridgepoint measure SUITE`, and `cargo bench`: run a campaign, then print
//! its table and verdict and write its figures.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;

use super::interrupt::Interrupt;
use super::options::{DeviceArgs, FilterArgs, MachineFile, OutputFormat};
use super::progress::Progress;
use super::worker::{self, Reporting, Supervised};
use super::{disturbances, report, table, verdict};
use crate::analysis::{Campaign, Measured, derived_csv};
use crate::campaign::{
    self, CampaignSummary, DeviceLost, EarlierTimes, ExpectedTime, GivenUp, Process,
    Request, seconds_of_a_row,
};
use crate::device::{self, Device, DeviceKind, Opened};
use crate::model::machine::Machines;
use crate::output::remark;
use crate::point::Point;
use crate::record::Records;
use crate::section::Section;
use crate::statistics::Estimate;
use crate::suite::{Shard, Suite};
use crate::tuning::{Tuning, TuningTable, USED_TUNING};
use crate::verdict::judge;

/// Measure a suite, record it, draw it and judge it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A built-in suite (quick, headline, decode, weights, mla, products, step, roofline, elasticity, tune, paper) or a .toml file.
    suite: Option<OsString>,
    /// Measure this one point, as the repro_command column spells it.
    #[arg(long, conflicts_with_all = ["suite", "filter"])]
    point: Option<Point>,
    #[command(flatten)]
    options: MeasureOptions,
}

/// Measure a suite on this machine; what follows `--` on `cargo bench`.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --", version, max_term_width = 100)]
pub struct BenchArgs {
    /// A built-in suite (quick, headline, decode, weights, mla, products, step, roofline, elasticity, tune, paper) or a .toml file;
    /// quick unless given.
    #[arg(long)]
    suite: Option<OsString>,
    #[command(flatten)]
    options: MeasureOptions,
}

#[derive(Debug, clap::Args)]
pub(super) struct MeasureOptions {
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    common: CampaignOptions,
    /// Measure this part of the plan, such as 3/8, the third of eight: for several machines
    /// that share it. What shows the machine's limits is in each; `merge` puts them together.
    #[arg(long, value_name = "K/N", conflicts_with = "resume")]
    shard: Option<Shard>,
    /// Measure the rounds of each point in so many processes, one after the other, so that
    /// intervals also span what differs from process to process. At most the suite's
    /// rounds.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    processes: u32,
    /// Which of those processes this is; given by the first to the others.
    #[arg(long, hide = true, requires = "resume")]
    process: Option<u32>,
    /// Run kernels in the configurations of this table, which `ridgepoint tune` wrote, or
    /// `none` in their defaults; by default as the program's own table of this device says,
    /// where there is one.
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    tuning: Option<PathBuf>,
    /// How to print: as tables, or the points as in points.csv.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

/// What commands share that run a campaign.
#[derive(Debug, clap::Args)]
pub(super) struct CampaignOptions {
    #[command(flatten)]
    pub(super) device: DeviceArgs,
    /// Folder to write; it must not exist. By default
    /// `results/<date>-<device>-<suite>`.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Finish the campaign in this folder instead of beginning one.
    #[arg(long, conflicts_with_all = ["out", "filter"])]
    pub(super) resume: Option<PathBuf>,
    /// Seed of the order and of the inputs; new on every run unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// Begin no further round after so many minutes; `--resume` finishes the
    /// rest.
    #[arg(long, value_parser = positive)]
    pub(super) minutes: Option<f64>,
    /// Where this process tells its supervisor what it does; given by that.
    #[arg(long, hide = true, value_name = "FILE")]
    worker: Option<PathBuf>,
    /// A point that became of processes that ended with it; given by their supervisor.
    #[arg(long, hide = true, value_parser = given_up)]
    give_up: Option<GivenUp>,
    #[command(flatten)]
    machines: MachineFile,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let suite = match (&args.suite, &args.point) {
        (Some(name), _) => Some(args.options.filter.load(name)?),
        (None, Some(point)) => Some(Suite::of_point(point)?),
        (None, None) if args.options.common.resume.is_some() => None,
        (None, None) => bail!(
            "name a suite ({}, or a .toml file), a --point, or a folder to --resume",
            Suite::built_in_names().join(", ")
        ),
    };
    measure(&whole(suite), &args.options, &["measure"], &conclude)
}

pub fn run_bench(args: BenchArgs) -> Result<ExitCode> {
    let suite = match (&args.suite, &args.options.common.resume) {
        (None, Some(_)) => None,
        (name, _) => {
            let quick = OsStr::new("quick");
            Some(args.options.filter.load(name.as_deref().unwrap_or(quick))?)
        }
    };
    measure(&whole(suite), &args.options, &[], &conclude)
}

impl MeasureOptions {
    /// Those of one process that measures a suite of its own, as `tune` does.
    pub(super) fn alone(common: CampaignOptions, format: OutputFormat) -> Self {
        MeasureOptions {
            filter: FilterArgs::default(),
            common,
            shard: None,
            processes: 1,
            process: None,
            tuning: Some(PathBuf::from("none")),
            format,
        }
    }

    /// What the device is opened with.
    pub(super) fn device_options(&self) -> device::DeviceOptions {
        self.common.device.options()
    }
}

/// What is measured, once the device is known; `None` for a campaign that is resumed.
pub(super) type Plan<'a> = dyn Fn(&dyn Device) -> Result<Option<Suite>> + 'a;

/// What is printed and written when all is measured.
pub(super) type Conclude<'a> =
    dyn Fn(&CampaignSummary, &Machines, OutputFormat) -> Result<ExitCode> + 'a;

fn whole(suite: Option<Suite>) -> impl Fn(&dyn Device) -> Result<Option<Suite>> {
    move |_| Ok(suite.clone())
}

/// `command` is the subcommand that a further process of the campaign is started with.
pub(super) fn measure(
    plan: &Plan<'_>,
    options: &MeasureOptions,
    command: &[&str],
    conclude: &Conclude<'_>,
) -> Result<ExitCode> {
    // Before the campaign: a mistake in the file must not cost an hour.
    let machines = options.common.machines.load()?;
    let is_own_process = options.common.worker.is_some() || options.process.is_some();
    if !is_own_process && device::is_gpu(&options.common.device.name) {
        return supervise(options, command);
    }
    if options.common.worker.is_some() {
        worker::follow_supervisor();
    }
    let index = options.process.unwrap_or(0);
    let process = Process { index, count: options.processes };
    let Opened { mut device, why } =
        device::open(&options.common.device.name, &options.common.device.options())?;
    let suite = plan(&*device)?.map(|suite| suite.sharded(options.shard)).transpose()?;
    if let Some(suite) = &suite {
        refuse_more_processes(suite, options.processes)?;
    }
    let info = device.info();
    remark!("device: {} ({}): {why}", info.name, info.backend);
    if index == 0 {
        for disturbance in disturbances::disturbances(info) {
            remark!("note: {disturbance}");
        }
    }
    let tuning = tune_device(&mut *device, options)?;
    let request = Request {
        suite,
        out: options.common.out.clone(),
        resume: options.common.resume.clone(),
        seed: options.common.seed,
        budget_s: options.common.minutes.map(|minutes| 60.0 * minutes),
        given_up: options.common.give_up.clone(),
        process,
        command_line: command_line(),
        tuning,
    };
    let round_s = expected_round_s(&request, &*device)?;
    let interrupt = Interrupt::listen()?;
    let mut progress = Progress::new(&interrupt, round_s);
    let measured = run_campaign(&mut *device, &request, options, &mut progress);
    drop(progress);
    let mut summary = match measured {
        Err(error) if options.common.worker.is_some() && error.is::<DeviceLost>() => {
            remark!("note: {error:#}");
            return Ok(ExitCode::from(worker::LOST));
        }
        other => other?,
    };
    interrupt.end_at_once();
    if let Some(signal) = interrupt.signal().filter(|_| summary.rows_left > 0) {
        remark!("stopped by {} {}", Interrupt::name(signal), resume_line(&summary));
        return Ok(Interrupt::exit_code(signal));
    }
    if index > 0 {
        return Ok(ExitCode::SUCCESS);
    }
    // Its memory is for the other processes.
    drop(device);
    let began = Instant::now();
    for index in 1..options.processes {
        start_process(&summary.folder, options, command, index)?;
    }
    if options.processes > 1 {
        summary.take_in(&Records::read(&summary.folder)?, began.elapsed().as_secs_f64());
    }
    conclude(&summary, &machines, options.format)
}

/// Makes the device run kernels as a tuning table says, and returns the table.
fn tune_device(
    device: &mut dyn Device,
    options: &MeasureOptions,
) -> Result<Option<TuningTable>> {
    let none = Path::new("none");
    let (from, table) = match (&options.common.resume, options.tuning.as_deref()) {
        (Some(folder), _) => return tune_as_recorded(device, folder),
        (None, Some(path)) if path == none => return Ok(None),
        (None, Some(path)) => (path.display().to_string(), TuningTable::load(path)?),
        (None, None) => match TuningTable::built_in(&device.info().name) {
            Some((file, table)) => (file.to_owned(), table),
            None => return Ok(None),
        },
    };
    use_table(device, &from, &table)?;
    Ok(Some(table))
}

/// Makes the device run kernels as they ran in a campaign, and returns its table.
pub(super) fn tune_as_recorded(
    device: &mut dyn Device,
    folder: &Path,
) -> Result<Option<TuningTable>> {
    let path = folder.join(USED_TUNING);
    if !path.exists() {
        return Ok(None);
    }
    let table = TuningTable::load(&path)?;
    use_table(device, &path.display().to_string(), &table)?;
    Ok(Some(table))
}

fn use_table(device: &mut dyn Device, from: &str, table: &TuningTable) -> Result<()> {
    let name = &device.info().name;
    if table.device != *name {
        bail!(
            "{from} was tuned on {}, and this is {name}; tune this device with `ridgepoint \
             tune`, or leave --tuning out",
            table.device
        );
    }
    remark!("kernels run as tuned in {from}");
    let (tuning, notes) = Tuning::new(table, |kernel| device.search_space(kernel));
    for note in notes {
        remark!("note: {note}");
    }
    device.use_tuning(tuning);
    Ok(())
}

/// Runs the campaign in workers.
fn supervise(options: &MeasureOptions, command: &[&str]) -> Result<ExitCode> {
    let began = Instant::now();
    let resume = |folder: &Path| {
        let spent = began.elapsed().as_secs_f64() / 60.0;
        let minutes = options.common.minutes.map(|minutes| (minutes - spent).max(1e-3));
        to_resume(folder, options, minutes, command)
    };
    let arguments = std::env::args_os().skip(1).collect();
    worker::supervise(&Supervised { arguments, to_resume: &resume })
}

/// Runs the campaign here, and tells a supervisor about it where there is one.
fn run_campaign(
    device: &mut dyn Device,
    request: &Request,
    options: &MeasureOptions,
    progress: &mut Progress,
) -> Result<CampaignSummary> {
    let Some(path) = &options.common.worker else {
        return campaign::run(device, request, progress);
    };
    let mut reporting = Reporting::new(progress, path, longest_round_s(request)?);
    campaign::run(device, request, &mut reporting)
}

fn given_up(text: &str) -> Result<GivenUp, String> {
    serde_json::from_str(text).map_err(|why| why.to_string())
}

/// Longest time that a round may take: what its samples and its warm-up may, and time for
/// compiling, for filling memory and for many launches as long as the suite allows.
fn longest_round_s(request: &Request) -> Result<f64> {
    const COMPILE_S: f64 = 120.0;
    let settings = match (&request.suite, &request.resume) {
        (Some(suite), _) => suite.settings,
        (None, Some(folder)) => Suite::load_file(&folder.join("suite.toml"))?.settings,
        (None, None) => return Ok(COMPILE_S),
    };
    let launches_s = 20.0 * settings.max_launch_s;
    Ok(COMPILE_S + settings.warmup_s + settings.max_sample_s + launches_s)
}

/// What a process is started with that continues a campaign as this one was asked to.
fn to_resume(
    folder: &Path,
    options: &MeasureOptions,
    minutes: Option<f64>,
    command: &[&str],
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = command.iter().map(OsString::from).collect();
    let mut add = |name: &str, value: &OsStr| {
        arguments.extend([name.into(), value.to_owned()]);
    };
    add("--resume", folder.as_os_str());
    add("--device", options.common.device.name.as_ref());
    if options.processes > 1 {
        add("--processes", options.processes.to_string().as_ref());
    }
    add("--format", options.format.name().as_ref());
    if let Some(kernels) = options.common.device.options().kernels {
        add("--kernels", kernels.as_os_str());
    }
    if let Some(minutes) = minutes {
        add("--minutes", minutes.to_string().as_ref());
    }
    if let Some(path) = options.common.machines.path() {
        add("--machines", path.as_os_str());
    }
    arguments
}

/// Each process measures one round at least.
fn refuse_more_processes(suite: &Suite, processes: u32) -> Result<()> {
    let rounds = suite.settings.rounds;
    if processes > 1 && suite.settings.halving_rounds > 0 {
        bail!(
            "a suite with halving_rounds is measured by one process, which has seen all rounds \
             of a point before it gives it up; leave --processes out"
        );
    }
    if processes as usize > rounds {
        bail!(
            "the suite has {rounds} rounds, which cannot be shared by {processes} processes; \
             give fewer --processes, or raise `rounds` in its [protocol]"
        );
    }
    Ok(())
}

/// Runs another process of the campaign to its end.
fn start_process(
    folder: &Path,
    options: &MeasureOptions,
    command: &[&str],
    index: u32,
) -> Result<()> {
    let program = std::env::current_exe().context("the program's own path is not known")?;
    let mut process = std::process::Command::new(program);
    process.args(to_resume(folder, options, None, command));
    process.args(["--process", &index.to_string()]);
    let status = process.status().context("cannot start another process")?;
    if !status.success() {
        bail!(
            "process {index} of {} ended with {status}; `--resume {}` finishes the campaign",
            options.processes,
            folder.display()
        );
    }
    Ok(())
}

/// Seconds that a round should take: of a campaign that is resumed by its rows, of a new one
/// by an earlier one or its protocol, which is said.
fn expected_round_s(request: &Request, device: &dyn Device) -> Result<Option<f64>> {
    if let Some(folder) = &request.resume {
        let row_s = seconds_of_a_row(&Records::read(folder)?.rows);
        let rounds = Suite::load_file(&folder.join("suite.toml"))?.settings.rounds as f64;
        return Ok(row_s.map(|row_s| row_s / rounds));
    }
    let Some(suite) = &request.suite else { return Ok(None) };
    let points = suite.plan(device)?.points;
    let earlier = EarlierTimes::find(Path::new("results"), device.info(), suite, &points);
    let expected = ExpectedTime::of(suite, device, earlier.as_ref())?;
    remark!("expect {expected}");
    Ok(expected.round_s())
}

/// How many rows are left, and how to measure them.
fn resume_line(summary: &CampaignSummary) -> String {
    format!(
        "with {} rows left; `ridgepoint measure --resume {}` measures them",
        summary.rows_left,
        summary.folder.display()
    )
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("give a number above 0".to_owned()),
    }
}

/// The command line, with the program's name in place of its path: records are
/// shared, and paths may be private.
pub(super) fn command_line() -> String {
    let arguments: Vec<_> = std::env::args_os().collect();
    // What a supervisor adds says nothing about the campaign.
    let is_own = |argument: &OsString| argument == "--worker" || argument == "--give-up";
    let own = arguments.iter().position(is_own);
    let arguments = &arguments[..own.unwrap_or(arguments.len())];
    let shown = arguments.iter().enumerate().map(|(index, argument)| {
        let name = Path::new(argument).file_name().filter(|_| index == 0);
        shell_word(name.unwrap_or(argument))
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// An argument as a shell reads it back.
fn shell_word(argument: &OsStr) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    match argument.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(is_plain) => text.to_owned(),
        Some(text) if !text.contains(char::is_control) => {
            format!("'{}'", text.replace('\'', "'\\''"))
        }
        // A line end would break the record, and other bytes are no text.
        _ => {
            let bytes = argument.as_encoded_bytes().iter();
            let escaped = bytes.map(|byte| match byte {
                b'\'' | b'\\' => format!("\\{}", char::from(*byte)),
                0x20..=0x7e => char::from(*byte).to_string(),
                byte => format!("\\x{byte:02x}"),
            });
            format!("$'{}'", escaped.collect::<String>())
        }
    }
}

/// Prints and writes what the records say.
pub(super) fn conclude(
    summary: &CampaignSummary,
    machines: &Machines,
    format: OutputFormat,
) -> Result<ExitCode> {
    let measured = Instant::now();
    let campaign = Campaign::load(&summary.folder, machines)?;
    let judged = judge(&campaign);
    // What is printed may be lost; the files are written all the same.
    let printed = match format {
        OutputFormat::Table => {
            let mut sections = vec![points_section(&campaign)];
            sections.extend(judged.sections.iter().cloned());
            table::print_for_people(&sections)
        }
        _ => table::print_csv(&derived_csv(&campaign)?, format),
    };
    let paths = report::write_files(&campaign, &judged, &summary.folder)
        .with_context(|| report::how_to_finish(&summary.folder))?;
    remark!("\nrecords and figures:");
    for name in ["run.csv", "results.csv", "rounds.csv", "samples.csv"] {
        remark!("  {}", summary.folder.join(name).display());
    }
    for path in paths {
        remark!("  {}", path.display());
    }
    let after_s = measured.elapsed().as_secs_f64();
    let total_s = summary.total_s + after_s;
    remark!(
        "{} rows in {total_s:.1} s ({} were there before)",
        summary.rows,
        summary.resumed_rows
    );
    if summary.rows_left > 0 {
        remark!("time was up {}", resume_line(summary));
    }
    if let Some(overhead) = summary.overhead(after_s) {
        remark!(
            "{:.1}% of the time was spent outside warm-up, checks and samples",
            100.0 * overhead
        );
    }
    verdict::print_remarks(&judged);
    printed.map(|()| verdict::exit_code(&judged))
}

/// One line for each point, best readable first: by operation, then shape.
fn points_section(campaign: &Campaign) -> Section {
    let mut points: Vec<&Measured> = campaign.own_points().collect();
    points.sort_by_key(|p| (p.problem.op(), p.work.bytes(), p.work.flops()));
    let mut section = Section {
        heading: "Points".into(),
        columns: vec![
            "problem",
            "data_in",
            "time_s",
            "half_width_share",
            "bandwidth_bytes_per_s",
            "speed_flops_per_s",
            "oi_flops_per_byte",
            "of_roof_share",
            "status",
        ],
        rows: points.into_iter().map(point_row).collect(),
        keys: 2,
        spare: &["oi_flops_per_byte", "speed_flops_per_s", "data_in", "half_width_share"],
        ..Section::default()
    };
    if campaign.is_simulated() {
        section.mark_simulated();
    }
    section
}

fn point_row(point: &Measured) -> Vec<String> {
    let cell = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    let oi = Some(point.work.operational_intensity()).filter(|_| point.work.flops() > 0);
    // Of what was simulated there are no rates.
    let is_simulated = point.device_kind == Some(DeviceKind::Simulated);
    let rate = |rate: Option<Estimate>| {
        cell(rate.filter(|_| !is_simulated).map(|rate| rate.value))
    };
    vec![
        point.problem.label(),
        point.residency.map_or(String::new(), |residency| residency.to_string()),
        cell(point.time_s.map(|time| time.value)),
        cell(point.time_s.map(|time| time.half_width())),
        rate(point.bytes_per_s()),
        rate(point.flops_per_s()),
        cell(oi),
        rate(point.fraction()),
        match point.status.has_time() {
            true => point.status_name().to_owned(),
            false => format!("{}: {}", point.status.name(), point.reason),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::simulated::SimulatedDevice;

    const SUITE: &str = "name = \"x\"\n[protocol]\nwarmup_s = 0.001\nmin_samples = 3\n\
                         min_sample_s = 0.001\nmax_sample_s = 0.01\nrounds = 1\n[[points]]\n\
                         op = \"stream\"\naccess = \"read\"\nbytes = [\"64 KiB\", \"16 MiB\"]\n\
                         cache = \"hot\"\n[[points]]\nop = \"gemm\"\nm = [1, 64]\nn = 64\n\
                         k = 64\ndtype = \"f32\"\n";

    /// Of a campaign whose times are made up, every output says so, in each row or over it.
    #[test]
    fn nothing_simulated_passes_for_measured() {
        let dir = tempfile::tempdir().unwrap();
        let request = Request {
            suite: Some(Suite::parse("x.toml", SUITE).unwrap()),
            out: Some(dir.path().join("c")),
            resume: None,
            seed: Some(5),
            budget_s: None,
            given_up: None,
            process: Process::ALONE,
            command_line: "test".into(),
            tuning: None,
        };
        let mut device = SimulatedDevice::default();
        let folder = campaign::run(&mut device, &request, &mut campaign::Silent).unwrap();
        let machines = Machines::load(None).unwrap();
        let campaign = Campaign::load(&folder.folder, &machines).unwrap();
        let judged = judge(&campaign);
        assert!(judged.warnings[0].starts_with("SIMULATED: "), "{:?}", judged.warnings);
        let points = points_section(&campaign);
        for section in judged.sections.iter().chain([&points]) {
            assert!(section.heading.ends_with(" (SIMULATED)"), "{section:?}");
        }
        let at = |name: &str| points.columns.iter().position(|c| *c == name).unwrap();
        assert_eq!(points.rows.len(), 4);
        for row in &points.rows {
            assert_eq!(row[at("status")], "simulated");
            for column in ["bandwidth_bytes_per_s", "speed_flops_per_s", "of_roof_share"] {
                assert_eq!(row[at(column)], "", "{column}");
            }
        }
        let of_csv = |text: &str, column: &str| -> Vec<String> {
            let mut reader = csv::Reader::from_reader(text.as_bytes());
            let at =
                reader.headers().unwrap().iter().position(|name| name == column).unwrap();
            reader.records().map(|record| record.unwrap()[at].to_owned()).collect()
        };
        let text = derived_csv(&campaign).unwrap();
        assert_eq!(of_csv(&text, "status"), ["simulated"; 4]);
        assert_eq!(of_csv(&text, "device_kind"), ["simulated"; 4]);
        let kinds = of_csv(&verdict::csv_text(&judged).unwrap(), "device_kind");
        assert!(!kinds.is_empty() && kinds.iter().all(|kind| kind == "simulated"));
        report::write_files(&campaign, &judged, &folder.folder).unwrap();
        let page = std::fs::read_to_string(folder.folder.join("report.html")).unwrap();
        assert!(
            page.contains("class=\"simulated\">SIMULATED") && page.contains("4 simulated")
        );
        assert!(!page.contains("<td>ok</td>"));
        let figures = crate::plot::figures(&campaign);
        let drawn = figures.iter().filter_map(|(_, drawn)| drawn.as_ref().ok());
        let marked: Vec<bool> =
            drawn.map(|figure| figure.svg.contains("SIMULATED")).collect();
        assert!(marked.len() >= 2 && marked.iter().all(|marked| *marked), "{marked:?}");
    }

    /// What a shell makes of the words is what they were.
    #[cfg(unix)]
    #[test]
    fn words_of_a_command_line_are_read_back_by_a_shell() {
        use std::os::unix::ffi::OsStrExt;
        let words: [&[u8]; 9] = [
            b"measure",
            b"--point",
            b"stream:access=read,bytes=1 MiB@cpu_stream@hot",
            b"",
            b"it's",
            b"$HOME `x` \"y\" \\z",
            b"~/a*?.toml",
            b"two\nlines and a 'quote'",
            b"not\xfftext\\",
        ];
        let line: Vec<String> =
            words.iter().map(|word| shell_word(OsStr::from_bytes(word))).collect();
        assert_eq!(line[0], "measure");
        assert_eq!(line[2], "'stream:access=read,bytes=1 MiB@cpu_stream@hot'");
        let line = line.join(" ");
        assert!(!line.contains('\n'), "{line}");
        let script = format!("printf '%s\\0' {line}");
        let mut shell = std::process::Command::new("bash");
        let output = shell.args(["-c", &script]).output().unwrap();
        let mut read: Vec<&[u8]> = output.stdout.split(|byte| *byte == 0).collect();
        assert_eq!(read.pop(), Some(&b""[..]));
        assert_eq!(read, words);
    }
}
