//! `ridgepoint predict step`: single steps over a grid of models, shapes and machines.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::options::{BatchOptions, ContextOptions, MachineOptions, Output, ServedOptions};
use super::{cells, explain, model};
use crate::cmd::options::OutputFormat;
use crate::cmd::table;
use crate::model::mix::Mix;
use crate::model::step::Phase;
use crate::model::sweep::{COLUMNS, Grid, MixGrid, Predicted, Tokens};
use crate::model::workload::Workload;
use crate::output;
use crate::quantity;
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
    let phases: Vec<Phase> =
        args.phases.iter().map(|name| phase(name)).collect::<Result<_>>()?;
    args.refuse_unused(&phases)?;
    let grid = Grid {
        models: args.served.models(&models)?,
        phases,
        formats: args.served.formats()?,
        parallel: args.served.parallel()?,
        routing: args.served.routing,
        tokens: args.tokens(&workloads)?,
        batches: args.batch.batches()?,
        rates: args.machines.rates(&machines)?,
    };
    let predicted = match args.explain {
        true => print_explained(args, explain::sections(&grid))?,
        false => print_rows(|to| grid.write_csv(to), args.output.format)?,
    };
    refused(predicted)
}

/// The error of a command that predicted nothing.
fn refused(predicted: Predicted) -> Result<()> {
    match predicted {
        Predicted { steps: 0, refusal: Some(reason) } => {
            Err(cells::nothing_predicted(&reason))
        }
        _ => Ok(()),
    }
}

/// Prints how models were imported, and the problems of steps.
fn print_explained(
    args: &StepArgs,
    (explained, predicted): (Vec<Section>, Predicted),
) -> Result<Predicted> {
    let imported = args.served.imported()?;
    let mut sections: Vec<Section> = imported.iter().map(model::section).collect();
    sections.extend(explained);
    table::print(&sections, args.output.format)?;
    Ok(predicted)
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
    let predicted = match args.explain {
        true => print_explained(args, explain::sections_of_mix(&grid))?,
        false => print_rows(|to| grid.write_csv(to), args.output.format)?,
    };
    refused(predicted)
}

impl StepArgs {
    /// Refuses an option that no phase would use.
    fn refuse_unused(&self, phases: &[Phase]) -> Result<()> {
        if let Some(new_tokens) = self.new_tokens
            && !phases.contains(&Phase::Prefill)
        {
            bail!(
                "--new-tokens {new_tokens}: a decode step has one new token of each request; \
                 write --phase prefill, or leave --new-tokens out"
            );
        }
        Ok(())
    }

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
            prefill: self.new_tokens.unwrap_or(workload.new_tokens),
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

/// Columns of the table for the terminal: names in the CSV file and headings. The first
/// [`KEYS`] are what was asked.
const SHOWN: [(&str, &str); 28] = [
    ("model", "model"),
    ("workload", "workload"),
    ("phase", "phase"),
    ("batch", "batch"),
    ("context", "context"),
    ("new_tokens", "new"),
    ("weights", "weights"),
    ("cache", "cache"),
    ("activations", "activations"),
    ("tensor", "tensor"),
    ("expert", "expert"),
    ("data", "data"),
    ("routing", "routing"),
    ("machine", "machine"),
    ("oi_flops_per_byte", "OI"),
    ("oi_bound_flops_per_byte", "OI bound"),
    ("ridge_flops_per_byte", "ridge"),
    ("bound", "bound"),
    ("time_s", "time"),
    ("time_bound_s", "time bound"),
    ("tokens_per_s_per_gpu", "tokens/s"),
    ("capacity_footprint_bytes", "CF"),
    ("resident_bytes", "all"),
    ("short_bytes", "short"),
    ("batch_max", "B max"),
    ("batch_at_ridge", "B ridge"),
    ("reason", "reason"),
    ("note", "note"),
];

/// How many of [`SHOWN`] say what a row is about.
const KEYS: usize = 14;

/// Prints the rows that `write_csv` writes, and says what was predicted, as far as somebody
/// reads it.
fn print_rows(
    write_csv: impl Fn(&mut dyn Write) -> io::Result<Predicted>,
    format: OutputFormat,
) -> Result<Predicted> {
    if format == OutputFormat::Csv {
        return Ok(output::stream(write_csv)?.unwrap_or_default());
    }
    let mut bytes = Vec::new();
    let predicted = write_csv(&mut bytes)?;
    let text = String::from_utf8(bytes)?;
    if format == OutputFormat::Json {
        table::print_csv(&text, format)?;
        return Ok(predicted);
    }
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>()?;
    table::print_text(&[shown(&rows)])?;
    Ok(predicted)
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
        _ => true,
    };
    let columns: Vec<_> = SHOWN.iter().filter(|(name, _)| is_said(name)).collect();
    let is_key =
        |(name, _): &&&(&str, &str)| SHOWN[..KEYS].iter().any(|key| key.0 == *name);
    let keys = columns.iter().filter(is_key).count();
    let cell = |row: &csv::StringRecord, name: &str| match &row[at(name)] {
        // Headings and the paragraph say the unit.
        cell if name.ends_with("_flops_per_byte") => {
            cell.parse().map_or(String::new(), quantity::number)
        }
        cell => quantity::shown(name, cell),
    };
    Section {
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
        columns: columns.iter().map(|(_, heading)| *heading).collect(),
        rows: rows
            .iter()
            .map(|row| columns.iter().map(|(name, _)| cell(row, name)).collect())
            .collect(),
        keys,
        spare: &["B ridge", "all", "ridge", "short", "B max"],
    }
}
