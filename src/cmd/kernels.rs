//! `ridgepoint kernels`: how CUDA kernels are launched, and kernels compiled ahead of time,
//! on any machine, for one that has a driver and nothing else.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Subcommand;

use super::options::{FilterArgs, OutputFormat};
use super::{plans, table};
use crate::inventory::{Inventory, Wanted};
use crate::model::issue::{LoopClocks, Unit};
use crate::output::remark;
use crate::section::Section;
use crate::suite::Suite;
use crate::toolchain::nvrtc::Resources;
use crate::toolchain::prebuilt::{self, Built};
use crate::toolchain::sass::{Disassembler, Listing, Mix};
use crate::toolchain::{Arch, Binary, Compiler, CompilerOptions};

/// Compile CUDA kernels ahead of time, or show how they are launched.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(BuildArgs),
    Plan(plans::Args),
}

/// Compile what suites need into a folder, for machines without NVRTC. Needs no
/// GPU.
#[derive(Debug, clap::Args)]
struct BuildArgs {
    /// Built-in suites or .toml files; all built-in ones when none is given.
    suites: Vec<OsString>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Architecture to compile for, such as sm_80, sm_90a or sm_120; may be
    /// given several times.
    #[arg(long, required = true)]
    arch: Vec<Arch>,
    /// Newest CUDA release that the driver there loads, such as 12; nvidia-smi
    /// shows it. Code of an older release runs on newer drivers too.
    #[arg(long, value_name = "MAJOR")]
    cuda: Option<u32>,
    /// Folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Also every configuration of kernels' search spaces, for `ridgepoint tune` there, whose
    /// shapes are the suite `tune` unless others are given.
    #[arg(long)]
    tune: bool,
    /// Also write the machine code as text, and count the instructions of main
    /// loops; needs nvdisasm.
    #[arg(long)]
    sass: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Build(args) => build(args),
        Command::Plan(args) => plans::run(args),
    }
}

fn build(args: &BuildArgs) -> Result<ExitCode> {
    let names: Vec<OsString> = match args.suites.is_empty() {
        true if args.tune => vec!["tune".into()],
        true => Suite::built_in_names().into_iter().map(OsString::from).collect(),
        false => args.suites.clone(),
    };
    let suites =
        names.into_iter().map(|name| args.filter.load(name)).collect::<Result<Vec<_>>>()?;
    let mut archs = args.arch.clone();
    archs.sort();
    archs.dedup();
    let disassembler = if args.sass { Some(Disassembler::find()?) } else { None };
    let options = CompilerOptions { max_major: args.cuda, ..CompilerOptions::default() };
    let compiler = Compiler::new(options)?;
    remark!("ridgepoint: {}", compiler.nvrtc().map_err(Clone::clone)?);

    let inventory = match args.tune {
        true => Inventory::of_search_spaces(&suites, &archs)?,
        false => Inventory::of(&suites, &archs)?,
    };
    let built = compile(&inventory, &compiler)?;
    let listings = match &disassembler {
        Some(disassembler) => built
            .iter()
            .map(|item| disassembler.listing(&item.binary.image))
            .collect::<Result<_>>()?,
        None => Vec::new(),
    };
    let named: Vec<_> = built
        .iter()
        .zip(&listings)
        .map(|(item, listing)| (format!("{}.sass", item.base_name()), listing.text.clone()))
        .collect();
    prebuilt::write(&args.out, &built, &named)?;

    let mut sections = vec![resources(&inventory, &built, args.format)];
    if args.sass {
        sections.push(mixes(&built, &listings));
        sections.push(clocks(&built, &listings));
    }
    table::print(&sections, args.format)?;
    report(&inventory, &built);
    remark!("ridgepoint: {} images in {}", built.len(), args.out.display());
    Ok(ExitCode::SUCCESS)
}

/// Everything compiled, or all that does not compile.
fn compile<'a>(inventory: &'a Inventory, compiler: &Compiler) -> Result<Vec<Built<'a>>> {
    let mut built = Vec::new();
    let mut errors = Vec::new();
    for (wanted, result) in inventory.wanted.iter().zip(inventory.compile(compiler)) {
        match result {
            Ok(binary) => built.push(Built {
                source: wanted.source,
                defines: wanted.defines.clone(),
                arch: wanted.arch,
                binary,
            }),
            Err(why) => errors
                .push(format!("{} with {}: {why}", wanted.source.name, wanted.defines)),
        }
    }
    if !errors.is_empty() {
        bail!("{}", errors.join("\n"));
    }
    if built.is_empty() {
        bail!("no kernel runs a point of these suites on these architectures");
    }
    Ok(built)
}

fn resources(inventory: &Inventory, built: &[Built], format: OutputFormat) -> Section {
    let pairs = inventory.wanted.iter().zip(built);
    let macros = |wanted: &Wanted| match format {
        OutputFormat::Table => telling_macros(wanted, inventory),
        OutputFormat::Csv | OutputFormat::Json => wanted.defines.to_string(),
    };
    Section {
        heading: "What was compiled".into(),
        columns: vec![
            "entry",
            "configuration",
            "arch",
            "registers",
            "spill_bytes",
            "shared_bytes",
            "threads",
            "blocks_per_sm",
            "points",
            "image_bytes",
            "hash",
        ],
        rows: pairs
            .flat_map(|(wanted, item)| entries(wanted, &item.binary, &macros(wanted)))
            .collect(),
        spare: &["hash", "image_bytes", "points", "threads"],
        ..Section::default()
    }
}

/// The macros that tell a configuration from the others of its source and
/// architecture: a table has no room for those that all share.
fn telling_macros(wanted: &Wanted, inventory: &Inventory) -> String {
    let siblings: Vec<&Wanted> = inventory
        .wanted
        .iter()
        .filter(|w| w.source.name == wanted.source.name && w.arch == wanted.arch)
        .collect();
    let telling = |pair: &&(&'static str, String)| {
        siblings.len() == 1 || siblings.iter().any(|w| !w.defines.0.contains(pair))
    };
    let spell = |(name, value): &(&'static str, String)| format!("{name}={value}");
    wanted.defines.0.iter().filter(telling).map(spell).collect::<Vec<_>>().join(" ")
}

/// A row for each entry of an image.
fn entries(wanted: &Wanted, binary: &Binary, macros: &str) -> Vec<Vec<String>> {
    let row = |(entry, resources): (&String, &Resources)| {
        let (blocks, threads) = wanted.blocks_per_sm(entry, resources);
        let dynamic =
            wanted.launches.get(entry.as_str()).map_or(0, |shape| shape.dynamic_bytes);
        vec![
            entry.clone(),
            macros.to_owned(),
            wanted.arch.to_string(),
            resources.registers.to_string(),
            (resources.spill_store_bytes + resources.spill_load_bytes).to_string(),
            (resources.shared_bytes + dynamic).to_string(),
            threads.to_string(),
            blocks.to_string(),
            wanted.points.to_string(),
            binary.image.len().to_string(),
            binary.hash.clone(),
        ]
    };
    binary.resources.iter().map(row).collect()
}

fn mixes(built: &[Built], listings: &[Listing]) -> Section {
    let mut found = Vec::new();
    for (item, listing) in built.iter().zip(listings) {
        for (entry, code) in &listing.functions {
            let (part, mix) = match code.main_loop() {
                Some(of_loop) => ("loop", Mix::of_all(of_loop)),
                None => ("all", Mix::of_all(&code.instructions)),
            };
            let (arch, hash) = (item.arch.to_string(), item.binary.hash.clone());
            let total = mix.total().to_string();
            found.push((vec![entry.clone(), arch, hash, part.to_owned(), total], mix));
        }
    }
    let used = |class: &&str| found.iter().any(|(_, mix)| mix.of(class) > 0);
    let classes: Vec<_> = Mix::classes().filter(used).collect();
    let row = |(mut row, mix): (Vec<String>, Mix)| {
        row.extend(classes.iter().map(|class| mix.of(class).to_string()));
        row
    };
    let mut columns = vec!["entry", "arch", "hash", "part", "instructions"];
    columns.extend(&classes);
    Section {
        heading: "Instructions of the loop that does the work".into(),
        columns,
        rows: found.into_iter().map(row).collect(),
        ..Section::default()
    }
}

/// What bounds the loops that have products of matrices.
fn clocks(built: &[Built], listings: &[Listing]) -> Section {
    let mut rows = Vec::new();
    for (item, listing) in built.iter().zip(listings) {
        for (entry, code) in &listing.functions {
            let of_loop = code.main_loop().and_then(|of| LoopClocks::of(of, item.arch));
            let Some((clocks, share)) = of_loop
                .and_then(|clocks| clocks.tensor_share().map(|share| (clocks, share)))
            else {
                continue;
            };
            let mut row =
                vec![entry.clone(), item.arch.to_string(), item.binary.hash.clone()];
            row.push(format!("{:.0}", clocks.tensor_flops));
            row.extend(Unit::ALL.iter().map(|unit| format!("{:.0}", clocks.on(*unit))));
            row.extend([clocks.binding().name().to_owned(), format!("{share:.3}")]);
            rows.push(row);
        }
    }
    let mut columns = vec!["entry", "arch", "hash", "flops"];
    columns.extend(Unit::ALL.map(Unit::name));
    columns.extend(["binds", "tensor_rate_share"]);
    Section {
        heading: "Clocks of loops with products, of a warp on its quarter of an SM".into(),
        paragraphs: vec![
            "Computed from the machine code, not measured: each unit's clocks if nothing waits. \
             The longest binds, and the tensor cores reach at most that share of their rate. \
             Branches that are rarely taken count as if they always were."
                .to_owned(),
        ],
        columns,
        rows,
        ..Section::default()
    }
}

/// Says what is wrong with what was compiled, and what cannot run.
fn report(inventory: &Inventory, built: &[Built]) {
    for (wanted, item) in inventory.wanted.iter().zip(built) {
        for fault in wanted.faults(&item.binary) {
            let (name, arch) = (wanted.source.name, wanted.arch);
            remark!("ridgepoint: {name} with {} for {arch}: {fault}", wanted.defines);
        }
    }
    for refused in &inventory.refused {
        let archs: Vec<String> = refused.archs.iter().map(ToString::to_string).collect();
        remark!(
            "ridgepoint: {} points have no kernel on {}: {} (such as {})",
            refused.points,
            archs.join(", "),
            refused.reason,
            refused.example
        );
    }
}
