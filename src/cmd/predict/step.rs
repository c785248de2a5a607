//! `ridgepoint predict step`: single steps over a grid of models, shapes and machines.

use anyhow::{Context, Result, bail};

use super::options::{BatchOptions, ContextOptions, MachineOptions, Output, ServedOptions};
use super::{cells, explain};
use crate::cmd::options::OutputFormat;
use crate::cmd::table;
use crate::model::step::Phase;
use crate::model::sweep::{COLUMNS, Grid, Predicted, Tokens};
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

pub fn run(args: &StepArgs) -> Result<()> {
    let (models, machines) =
        (args.served.model_file.load()?, args.machines.machine_file.load()?);
    let workloads = args.context.workload_file.load()?;
    let phases: Vec<Phase> =
        args.phases.iter().map(|name| phase(name)).collect::<Result<_>>()?;
    args.refuse_unused(&phases)?;
    let grid = Grid {
        models: args.served.models(&models)?,
        phases,
        formats: args.served.formats()?,
        parallel: args.served.parallel()?,
        tokens: args.tokens(&workloads)?,
        batches: args.batch.batches()?,
        rates: args.machines.rates(&machines)?,
    };
    let predicted = match args.explain {
        true => explain::print(&grid, args.output.format)?,
        false => print_grid(&grid, args.output.format)?,
    };
    match predicted {
        Predicted { steps: 0, refusal: Some(reason) } => {
            Err(cells::nothing_predicted(&reason))
        }
        _ => Ok(()),
    }
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
const SHOWN: [(&str, &str); 25] = [
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
    ("machine", "machine"),
    ("oi_flops_per_byte", "OI"),
    ("ridge_flops_per_byte", "ridge"),
    ("bound", "bound"),
    ("time_s", "time"),
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
const KEYS: usize = 13;

/// Prints a grid, and says what was predicted, as far as somebody reads it.
fn print_grid(grid: &Grid, format: OutputFormat) -> Result<Predicted> {
    if format == OutputFormat::Csv {
        let predicted = output::stream(|mut to| grid.write_csv(&mut to))?;
        return Ok(predicted.unwrap_or_default());
    }
    let mut bytes = Vec::new();
    let predicted = grid.write_csv(&mut bytes)?;
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
             largest batch that fits, B ridge the smallest at the ridge, if any is. \
             --format csv has all columns."
                .to_owned(),
        ],
        columns: SHOWN.iter().map(|(_, heading)| *heading).collect(),
        rows: rows
            .iter()
            .map(|row| SHOWN.iter().map(|(name, _)| cell(row, name)).collect())
            .collect(),
        keys: KEYS,
        spare: &["B ridge", "all", "ridge", "short", "B max"],
    }
}
