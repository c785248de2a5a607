//! `ridgepoint predict step`: single steps over a grid of models, shapes and machines.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::options::{BatchOptions, ContextOptions, MachineOptions, Output, ServedOptions};
use super::{explain, model};
use crate::cmd::options::OutputFormat;
use crate::cmd::table;
use crate::model::mix::Mix;
use crate::model::step::Phase;
use crate::model::sweep::{COLUMNS, Grid, MixGrid, Tokens};
use crate::model::workload::Workload;
use crate::section::Section;

/// Predict steps of a model: OI, capacity footprint, bound, time and the capacity wall.
///
/// Numbers are lists and ranges: 1,8,64 or 1..4096*2 or 1024..65536+1024.
#[derive(Debug, clap::Args)]
pub struct StepArgs {
    #[command(flatten)]
    served: ServedOptions,
    /// One step of requests that differ, from a TOML file; see examples/mix.toml. It says
    /// contexts, new tokens and phases.
    #[arg(long = "step", value_name = "FILE", conflicts_with_all = MIXED)]
    mix_path: Option<PathBuf>,
    /// What steps do: decode, prefill.
    #[arg(long = "phase", value_delimiter = ',', default_value = "decode")]
    phases: Vec<String>,
    #[command(flatten)]
    batch: BatchOptions,
    #[command(flatten)]
    context: ContextOptions,
    /// New tokens of a prefill; all of the context where this is not given.
    #[arg(long, value_name = "N")]
    new_tokens: Option<u64>,
    #[command(flatten)]
    machines: MachineOptions,
    /// Print each problem of the steps with its formulas, numbers put in.
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    output: Output,
}

/// What a mix says itself.
const MIXED: [&str; 5] = ["batch", "context", "workloads", "new_tokens", "phases"];

pub fn run(args: &StepArgs) -> Result<()> {
    if let Some(path) = &args.mix_path {
        return run_mix(args, path);
    }
    let (models, machines) = (args.served.load()?, args.machines.machine_file.load()?);
    let workloads = args.context.workload_file.load()?;
    let grid = Grid {
        models: args.served.models(&models)?,
        phases: args.phases.iter().map(|name| phase(name)).collect::<Result<_>>()?,
        formats: args.served.formats()?,
        parallel: args.served.parallel()?,
        routing: args.served.routing,
        tokens: args.tokens(&workloads)?,
        batches: args.batch.batches()?,
        rates: args.machines.rates(&machines)?,
    };
    match args.explain {
        true => print_explained(args, explain::sections(&grid)),
        false => print_rows(|to| grid.write_csv(to), args.output.format),
    }
}

/// Prints how models were imported, and the problems of steps.
fn print_explained(args: &StepArgs, explained: Vec<Section>) -> Result<()> {
    let imported = args.served.imported()?;
    let mut sections: Vec<Section> = imported.iter().map(model::section).collect();
    sections.extend(explained);
    table::print(&sections, args.output.format)
}

fn run_mix(args: &StepArgs, path: &Path) -> Result<()> {
    let (models, machines) = (args.served.load()?, args.machines.machine_file.load()?);
    let mix = Mix::load(path)?;
    let stem = path.file_stem().unwrap_or_default();
    let grid = MixGrid {
        name: stem.to_string_lossy().into_owned(),
        mix: &mix,
        served: args.served.all(&models, None)?,
        rates: args.machines.rates(&machines)?,
    };
    match args.explain {
        true => print_explained(args, explain::sections_of_mix(&grid)),
        false => print_rows(|to| grid.write_csv(to), args.output.format),
    }
}

impl StepArgs {
    fn tokens(&self, workloads: &[Workload]) -> Result<Vec<Tokens>> {
        let of_context = |context: u64| Tokens {
            workload: String::new(),
            context,
            prefill: self.new_tokens.unwrap_or(context),
        };
        if let Some(contexts) = self.context.contexts()? {
            return Ok(contexts.into_iter().map(of_context).collect());
        }
        let of_workload = |workload: &Workload| Tokens {
            workload: workload.name.clone(),
            context: workload.context,
            prefill: self.new_tokens.unwrap_or(workload.new_tokens).min(workload.context),
        };
        Ok(self.context.workloads(workloads)?.into_iter().map(of_workload).collect())
    }
}

fn phase(name: &str) -> Result<Phase> {
    Phase::ALL
        .into_iter()
        .find(|phase| phase.name() == name)
        .with_context(|| format!("`{name}` is not a phase; write decode or prefill"))
}

/// Columns of the table for the terminal: names in the CSV file and in the table, and
/// whether a column is part of the question.
const SHOWN: [(&str, &str, bool); 27] = [
    ("model", "model", true),
    ("workload", "workload", true),
    ("phase", "phase", true),
    ("batch", "batch", true),
    ("context", "context", true),
    ("new_tokens", "new", true),
    ("weights", "weights", true),
    ("cache", "cache", true),
    ("activations", "activations", true),
    ("tensor", "tensor", true),
    ("expert", "expert", true),
    ("data", "data", true),
    ("routing", "routing", true),
    ("machine", "machine", true),
    ("oi_flops_per_byte", "OI", false),
    ("oi_bound_flops_per_byte", "OI bound", false),
    ("ridge_flops_per_byte", "ridge", false),
    ("bound", "bound", false),
    ("time_s", "ms", false),
    ("time_bound_s", "ms bound", false),
    ("tokens_per_s_per_gpu", "tokens/s", false),
    ("capacity_footprint_bytes", "CF GB", false),
    ("resident_bytes", "all GB", false),
    ("short_bytes", "short GB", false),
    ("batch_max", "B max", false),
    ("batch_at_ridge", "B ridge", false),
    ("reason", "note", false),
];

/// Prints the rows that `write_csv` writes.
fn print_rows(
    write_csv: impl Fn(&mut dyn Write) -> std::io::Result<()>,
    format: OutputFormat,
) -> Result<()> {
    if format == OutputFormat::Csv {
        let mut to = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
        return match write_csv(&mut to).and_then(|()| to.flush()) {
            // A reader that stops early, such as `head`, is not an error.
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
            _ => Ok(()),
        };
    }
    let mut bytes = Vec::new();
    write_csv(&mut bytes)?;
    let text = String::from_utf8(bytes)?;
    if format == OutputFormat::Json {
        return table::print_csv(&text, format);
    }
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>()?;
    table::print(&[shown(&rows)], format)
}

/// The rows of a CSV file as a table for people.
fn shown(rows: &[csv::StringRecord]) -> Section {
    let at = |name: &str| COLUMNS.iter().position(|column| *column == name).unwrap_or(0);
    // What says the same as another column is left out: the bound, and the routing, of models
    // without experts.
    let is_said = |name: &str| match name {
        "oi_bound_flops_per_byte" | "time_bound_s" => {
            let mean = name.replace("_bound", "");
            rows.iter().any(|row| row[at(name)] != row[at(&mean)])
        }
        "routing" => rows.iter().any(|row| row[at("bytes")] != row[at("bound_bytes")]),
        name => rows.iter().any(|row| !row[at(name)].is_empty()),
    };
    let columns: Vec<_> = SHOWN
        .iter()
        .filter(|(name, _, is_question)| {
            (*is_question && *name != "routing") || is_said(name)
        })
        .collect();
    let cell = |row: &csv::StringRecord, name: &str| rounded(name, &row[at(name)]);
    let mut section = Section {
        heading: "Predictions".to_owned(),
        paragraphs: vec![
            "On each GPU: operational intensity (OI) and ridge in FLOPs per byte of DRAM; new \
             tokens per second; the capacity footprint (CF) of a request, its cache and its \
             share of the weights; everything in memory, and what is short. B max is the \
             largest batch that fits, B ridge the smallest at the ridge, if any is. Experts \
             are touched as the routing does in the mean; a bound is with as many as can be. \
             --format csv has all columns."
                .to_owned(),
        ],
        columns: columns.iter().map(|(_, header, _)| *header).collect(),
        rows: rows
            .iter()
            .map(|row| columns.iter().map(|(name, ..)| cell(row, name)).collect())
            .collect(),
    };
    section.say_once(columns.iter().filter(|(.., is_question)| *is_question).count());
    section
}

/// A cell, in the unit of its header and with few digits.
fn rounded(column: &str, cell: &str) -> String {
    match cell.parse::<f64>() {
        Ok(value) if column.ends_with("_bytes") => format!("{:.2}", value / 1e9),
        Ok(value) if column == "time_s" => format!("{:.3}", 1e3 * value),
        Ok(value) if column.contains("_per_") => format!("{value:.1}"),
        _ => cell.to_owned(),
    }
}
