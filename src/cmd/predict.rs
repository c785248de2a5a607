//! `ridgepoint predict`: what the model says of steps, turns and tasks on machines that
//! nobody needs to have.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::axis::numbers;
use super::{Format, MachineFile, table};
use crate::format::DType;
use crate::model::claims::Claims;
use crate::model::explain::explain;
use crate::model::llm::{self, Llm};
use crate::model::machine::Machines;
use crate::model::predict::{Peaks, Rates};
use crate::model::published::{self, Compared};
use crate::model::step::{Formats, Parallel, Phase, Shape, Step};
use crate::model::sweep::{COLUMNS, Grid, Tokens};
use crate::model::task::{Disaggregated, Offloaded, Served, Turn};
use crate::model::workload::{self, Workload};
use crate::plot::predicted;
use crate::section::Section;

/// Predict steps of a model: OI, capacity footprint, bound, time and the capacity wall.
/// Needs no GPU.
///
/// Numbers are lists and ranges: 1,8,64 or 1..4096*2 or 1024..65536+1024.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Models, separated by commas; see src/model/models.toml.
    #[arg(long = "model", value_delimiter = ',', default_value = "llama-3.1-70b")]
    models: Vec<String>,
    /// What steps do: decode, prefill.
    #[arg(long = "phase", value_delimiter = ',', default_value = "decode")]
    phases: Vec<String>,
    /// Requests, on all GPUs together.
    #[arg(long, value_name = "N", default_value = "1")]
    batch: String,
    /// Tokens of each request, new ones included.
    #[arg(long, value_name = "N", default_value = "8192")]
    context: String,
    /// New tokens of a prefill; all of the context where this is not given.
    #[arg(long, value_name = "N")]
    new_tokens: Option<u64>,
    /// Take contexts and new tokens from these workloads; see
    /// src/model/workloads.toml.
    #[arg(long = "workload", value_delimiter = ',')]
    workloads: Vec<String>,
    /// Share of a prompt that the prefix cache serves, instead of what workloads say.
    #[arg(long, value_name = "SHARE")]
    cache_hit: Option<f64>,
    /// Machines, separated by commas; see src/model/machines.toml.
    #[arg(long = "machine", value_delimiter = ',', default_value = "h100-sxm,h200,b200")]
    machines: Vec<String>,
    /// Formats of weights: bf16, f16, fp8_e4m3, int8, int4.
    #[arg(long, value_delimiter = ',', default_value = "bf16")]
    weights: Vec<DType>,
    /// Formats of cached keys and values.
    #[arg(long, value_delimiter = ',', default_value = "bf16")]
    cache: Vec<DType>,
    /// Formats of activations, in which steps compute.
    #[arg(long, value_delimiter = ',', default_value = "bf16")]
    activations: Vec<DType>,
    /// GPUs that share each layer.
    #[arg(long, value_name = "N", default_value = "1")]
    tensor: String,
    /// GPUs that share experts, each whole.
    #[arg(long, value_name = "N", default_value = "1")]
    expert: String,
    /// Groups of GPUs that divide the batch.
    #[arg(long, value_name = "N", default_value = "1")]
    data: String,
    /// Peaks to predict with.
    #[arg(long, value_enum, default_value_t)]
    peaks: Peaks,
    /// Print each problem of the steps with its formulas, numbers put in.
    #[arg(long, group = "view")]
    explain: bool,
    /// Predict whole turns and tasks of the workloads, prefill and decode together.
    #[arg(long, group = "view")]
    tasks: bool,
    /// Predict prefill and decode on machines of their own: bytes to ship and the best
    /// ratio of machines, of every pair of kinds.
    #[arg(long, group = "view")]
    disaggregate: bool,
    /// Predict caches in host memory or a remote pool: from which bandwidth on they do
    /// not hurt.
    #[arg(long, group = "view")]
    offload: bool,
    /// Hold predictions against published measurements.
    #[arg(long, group = "view")]
    published: bool,
    /// Ask predictions for the paper's claims: where they hold, and by how much.
    #[arg(long, group = "view")]
    claims: bool,
    /// Draw the paper's figures into this folder, each with its CSV.
    #[arg(long, value_name = "DIR", group = "view")]
    figures: Option<PathBuf>,
    /// TOML file with models of your own; see src/model/models.toml for its form.
    #[arg(long = "models", value_name = "FILE")]
    model_file: Option<PathBuf>,
    /// TOML file with workloads of your own; see src/model/workloads.toml.
    #[arg(long = "workloads", value_name = "FILE")]
    workload_file: Option<PathBuf>,
    #[command(flatten)]
    machine_file: MachineFile,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The tables of facts.
struct Facts {
    models: Vec<Llm>,
    machines: Machines,
    workloads: Vec<Workload>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let facts = Facts {
        models: llm::load(args.model_file.as_deref())?,
        machines: args.machine_file.load()?,
        workloads: workload::load(args.workload_file.as_deref())?,
    };
    if let Some(folder) = &args.figures {
        for path in
            predicted::write_all(&facts.models, &facts.machines, &facts.workloads, folder)?
        {
            println!("{}", path.display());
        }
        return Ok(ExitCode::SUCCESS);
    }
    if args.published {
        return published(&facts.machines, args.format);
    }
    if args.claims {
        table::print(&[claims(&facts)?], args.format)?;
        return Ok(ExitCode::SUCCESS);
    }
    let grid = args.grid(&facts)?;
    if args.explain {
        table::print(&explanations(&grid), args.format)?;
    } else if args.tasks {
        let workloads = args.chosen_workloads(&facts)?;
        print_apart(tasks(&grid, &workloads, args.cache_hit), args.format)?;
    } else if args.disaggregate {
        let workloads = args.chosen_workloads(&facts)?;
        print_apart(disaggregation(&grid, &workloads, args.cache_hit), args.format)?;
    } else if args.offload {
        print_apart(offload(&grid), args.format)?;
    } else {
        print_grid(&grid, args.format)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn grid<'a>(&self, facts: &'a Facts) -> Result<Grid<'a>> {
        let axis = |name: &str, text: &str| {
            numbers(text).map_err(anyhow::Error::msg).with_context(|| format!("--{name}"))
        };
        let mut formats = Vec::new();
        for &weights in &self.weights {
            for &cache in &self.cache {
                for &activations in &self.activations {
                    formats.push(Formats { weights, cache, activations });
                }
            }
        }
        if let Some(hit) = self.cache_hit.filter(|hit| !(0.0..=1.0).contains(hit)) {
            bail!("--cache-hit {hit}; give a share from 0 to 1");
        }
        for dtype in self.cache.iter().chain(&self.activations) {
            if *dtype == DType::Int4 {
                bail!(
                    "int4 is a format of weights; give another for cache and activations"
                );
            }
        }
        let mut parallel = Vec::new();
        let (expert, data) = (axis("expert", &self.expert)?, axis("data", &self.data)?);
        for tensor in axis("tensor", &self.tensor)? {
            for &expert in &expert {
                parallel.extend(data.iter().map(|&data| Parallel { tensor, expert, data }));
            }
        }
        let models = self.models.iter().map(|name| llm::named(&facts.models, name));
        let machines = self.machines.iter().map(|name| facts.machines.named(name));
        let machines: Vec<_> = machines.collect::<Result<_>>()?;
        Ok(Grid {
            models: models.collect::<Result<_>>()?,
            phases: self.phases.iter().map(|name| phase(name)).collect::<Result<_>>()?,
            formats,
            parallel,
            tokens: self.tokens(facts, &axis)?,
            batches: axis("batch", &self.batch)?,
            rates: machines.into_iter().map(|m| Rates::new(m, self.peaks)).collect(),
        })
    }

    fn tokens(
        &self,
        facts: &Facts,
        axis: &impl Fn(&str, &str) -> Result<Vec<u64>>,
    ) -> Result<Vec<Tokens>> {
        if self.workloads.is_empty() {
            let tokens = |context: u64| Tokens {
                workload: String::new(),
                context,
                prefill: self.new_tokens.unwrap_or(context),
            };
            return Ok(axis("context", &self.context)?.into_iter().map(tokens).collect());
        }
        let tokens = |workload: &Workload| Tokens {
            workload: workload.name.clone(),
            context: workload.context,
            prefill: self.new_tokens.unwrap_or(workload.new_tokens).min(workload.context),
        };
        Ok(self.chosen_workloads(facts)?.into_iter().map(tokens).collect())
    }

    /// The workloads that are named, or all.
    fn chosen_workloads<'a>(&self, facts: &'a Facts) -> Result<Vec<&'a Workload>> {
        if self.workloads.is_empty() {
            return Ok(facts.workloads.iter().collect());
        }
        self.workloads.iter().map(|name| workload::named(&facts.workloads, name)).collect()
    }
}

fn phase(name: &str) -> Result<Phase> {
    Phase::ALL
        .into_iter()
        .find(|phase| phase.name() == name)
        .with_context(|| format!("`{name}` is no phase; write decode or prefill"))
}

/// Columns of the table for the terminal, out of those of the CSV file: names, and
/// whether a column says what a row is about.
const SHOWN: [(&str, &str, bool); 24] = [
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
    ("machine", "machine", true),
    ("oi_flops_per_byte", "OI", false),
    ("ridge_flops_per_byte", "ridge", false),
    ("bound", "bound", false),
    ("time_s", "ms", false),
    ("tokens_per_s_per_gpu", "tokens/s", false),
    ("capacity_footprint_bytes", "CF GB", false),
    ("resident_bytes", "all GB", false),
    ("short_bytes", "short GB", false),
    ("batch_max", "B max", false),
    ("batch_at_ridge", "B ridge", false),
    ("reason", "note", false),
];

fn print_grid(grid: &Grid, format: Format) -> Result<()> {
    if format == Format::Csv {
        let mut to = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
        return match grid.write_csv(&mut to).and_then(|()| to.flush()) {
            // A reader that goes away early, such as `head`, is no error.
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
            _ => Ok(()),
        };
    }
    let mut bytes = Vec::new();
    grid.write_csv(&mut bytes)?;
    let text = String::from_utf8(bytes)?;
    if format == Format::Json {
        return table::print_csv(&text, format);
    }
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>()?;
    table::print(&[shown(&rows)], format)
}

/// The rows as people read them.
fn shown(rows: &[csv::StringRecord]) -> Section {
    let at = |name: &str| COLUMNS.iter().position(|column| *column == name).unwrap_or(0);
    let has_any = |at: usize| rows.iter().any(|row| !row[at].is_empty());
    let columns: Vec<_> = SHOWN
        .iter()
        .filter(|(name, _, is_question)| *is_question || has_any(at(name)))
        .collect();
    let cell = |row: &csv::StringRecord, name: &str| rounded(name, &row[at(name)]);
    let mut section = Section {
        heading: "Predictions".to_owned(),
        paragraphs: vec![
            "On each GPU: operational intensity (OI) and ridge in FLOPs per byte of DRAM; new \
             tokens per second; the capacity footprint (CF) of a request, its cache and its \
             share of the weights; everything in memory, and what is short. B max is the \
             largest batch that fits, B ridge the smallest at the ridge, if any is. \
             --format csv has all columns."
                .to_owned(),
        ],
        columns: columns.iter().map(|(_, header, _)| *header).collect(),
        rows: rows
            .iter()
            .map(|row| columns.iter().map(|(name, ..)| cell(row, name)).collect())
            .collect(),
    };
    section.say_once(SHOWN.iter().filter(|(.., is_question)| *is_question).count());
    section
}

/// A cell with as many digits as people read.
fn rounded(column: &str, cell: &str) -> String {
    match cell.parse::<f64>() {
        Ok(value) if column.ends_with("_bytes") => format!("{:.2}", value / 1e9),
        Ok(value) if column == "time_s" => format!("{:.3}", 1e3 * value),
        Ok(value) if column.contains("_per_") => format!("{value:.1}"),
        _ => cell.to_owned(),
    }
}

/// A number, or an empty cell.
fn cell(value: Option<f64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// Cells of a section as people read them: SI units by the ends of columns' names.
fn round(section: &mut Section) {
    for row in &mut section.rows {
        for (cell, column) in row.iter_mut().zip(&section.columns) {
            let Ok(value) = cell.parse::<f64>() else { continue };
            if column.ends_with("_bytes_per_s") {
                *cell = format!("{:.1} GB/s", value / 1e9);
            } else if column.ends_with("_bytes") {
                *cell = format!("{:.3} GB", value / 1e9);
            } else if column.ends_with("_s") {
                *cell = format!("{:.3} ms", 1e3 * value);
            } else if value.fract() != 0.0 {
                *cell = format!("{value:.3}");
            }
        }
    }
}

/// Prints a section whose first six columns say what a row is about.
fn print_apart(mut section: Section, format: Format) -> Result<()> {
    if format == Format::Table {
        round(&mut section);
        section.say_once(6);
    }
    table::print(&[section], format)
}

/// The problems of every step of a grid, with formulas.
fn explanations(grid: &Grid) -> Vec<Section> {
    grid.shapes().map(|(model, shape)| explanation(model, &shape, grid)).collect()
}

fn explanation(model: &Llm, shape: &Shape, grid: &Grid) -> Section {
    let Shape { phase, batch, context, .. } = shape;
    let heading =
        format!("{} {}, batch {batch}, context {context}", model.name, phase.name());
    let step = match Step::of(model, shape) {
        Ok(step) => step,
        Err(reason) => {
            return Section { heading, paragraphs: vec![reason], ..Section::default() };
        }
    };
    let rates = grid.rates.first();
    let mut rows = Vec::new();
    for piece in &step.pieces {
        let (work, explained) = (piece.problem.work(), explain(&piece.problem));
        let seconds = rates.map(|rates| {
            let compute =
                piece.problem.math_dtype().and_then(|dtype| rates.flops_per_s(dtype));
            let memory_s = work.bytes() as f64 / rates.bytes_per_s();
            let compute_s = compute.map_or(0.0, |rate| work.flops() as f64 / rate);
            let bound = if compute_s > memory_s { "compute" } else { "memory" };
            format!("{:.2} us ({bound})", 1e6 * memory_s.max(compute_s))
        });
        rows.push(vec![
            piece.name.to_owned(),
            piece.count.to_string(),
            piece.problem.to_string(),
            format!("{} = {}", explained.flops, work.flops()),
            format!("{} = {}", explained.bytes, work.bytes()),
            format!("{:.3}", work.operational_intensity()),
            seconds.unwrap_or_default(),
        ]);
    }
    for transfer in &step.transfers {
        rows.push(vec![
            transfer.name.to_owned(),
            transfer.count.to_string(),
            String::new(),
            String::new(),
            format!("{:.0} sent", transfer.bytes),
            String::new(),
            String::new(),
        ]);
    }
    let machine = rates.map_or("no machine", |rates| &rates.machine().name);
    Section {
        heading,
        paragraphs: vec![format!(
            "Each problem on one GPU, so many times. Times on {machine}, one each."
        )],
        columns: vec!["what", "times", "problem", "FLOPs", "bytes", "OI", "time"],
        rows,
    }
}

/// Every way to serve the models of a grid.
fn served<'a>(grid: &'a Grid, cache_hit: Option<f64>) -> impl Iterator<Item = Served<'a>> {
    grid.models.iter().flat_map(move |&model| {
        grid.formats.iter().flat_map(move |&formats| {
            let served = move |&parallel| Served { model, formats, parallel, cache_hit };
            grid.parallel.iter().map(served)
        })
    })
}

/// What a row is about: model, formats and GPUs.
fn names(served: &Served) -> Vec<String> {
    let Formats { weights, cache, .. } = served.formats;
    vec![
        served.model.name.clone(),
        format!("{weights}, {cache}"),
        served.parallel.gpus().to_string(),
    ]
}

/// Cells of a row, or the reason in the last of them.
fn cells(
    names: Vec<String>,
    cells: Result<Vec<String>, String>,
    count: usize,
) -> Vec<String> {
    let cells = cells.unwrap_or_else(|reason| {
        let mut empty = vec![String::new(); count];
        if let Some(last) = empty.last_mut() {
            *last = reason;
        }
        empty
    });
    names.into_iter().chain(cells).collect()
}

fn tasks(grid: &Grid, workloads: &[&Workload], cache_hit: Option<f64>) -> Section {
    let mut rows = Vec::new();
    for served in served(grid, cache_hit) {
        for workload in workloads {
            for rates in &grid.rates {
                for &batch in &grid.batches {
                    let mut names = names(&served);
                    names.push(workload.name.clone());
                    names.push(rates.machine().name.clone());
                    names.push(batch.to_string());
                    let predicted = task_cells(&served, rates, workload, batch);
                    rows.push(cells(names, predicted, 10));
                }
            }
        }
    }
    Section {
        heading: "Turns and tasks".to_owned(),
        paragraphs: vec![
            "Prefill of one request at a time, decode of the batch together; contexts grow from \
             turn to turn. The first prompt of a task is computed whole, of others what the \
             workload adds or --cache-hit leaves. Energy at the power limit of all GPUs, shared by \
             the batch in decode."
                .to_owned(),
        ],
        columns: vec![
            "model",
            "weights, cache",
            "GPUs",
            "workload",
            "machine",
            "batch",
            "turns",
            "computed_tokens",
            "cached_tokens",
            "output_tokens",
            "first_token_s",
            "prefill_s",
            "decode_s",
            "task_s",
            "energy_j",
            "note",
        ],
        rows,
    }
}

fn task_cells(
    served: &Served,
    rates: &Rates,
    workload: &Workload,
    batch: u64,
) -> Result<Vec<String>, String> {
    let last = Turn::of(served, rates, workload, (workload.turns - 1, batch))?;
    let task = Turn::of_task(served, rates, workload, batch)?;
    let end = workload.prompt(workload.turns - 1) + workload.output_tokens;
    let most = served.most_requests(rates, end)?;
    let energy = rates.machine().power_w.map(|power| {
        let busy_s = task.prefill_s + task.decode_s / batch as f64;
        power * served.parallel.gpus() as f64 * busy_s
    });
    let note =
        if most < batch { format!("only {most} requests fit") } else { String::new() };
    Ok(vec![
        workload.turns.to_string(),
        task.computed_tokens.to_string(),
        task.cached_tokens.to_string(),
        task.output_tokens.to_string(),
        last.prefill_s.to_string(),
        task.prefill_s.to_string(),
        task.decode_s.to_string(),
        task.time_s().to_string(),
        cell(energy),
        note,
    ])
}

fn disaggregation(grid: &Grid, workloads: &[&Workload], cache_hit: Option<f64>) -> Section {
    let limit = grid.batches.iter().copied().max().unwrap_or(1);
    // A batch of 1 is the default and no limit.
    let limit = if limit == 1 { u64::MAX } else { limit };
    let mut rows = Vec::new();
    for served in served(grid, cache_hit) {
        for workload in workloads {
            for prefill in &grid.rates {
                for decode in &grid.rates {
                    let mut names = names(&served);
                    names.push(workload.name.clone());
                    names.push(prefill.machine().name.clone());
                    names.push(decode.machine().name.clone());
                    let of = Disaggregated::of(&served, (prefill, decode), workload, limit);
                    rows.push(cells(names, of.map(|of| disaggregated_cells(&of)), 9));
                }
            }
        }
    }
    Section {
        heading: "Prefill and decode apart".to_owned(),
        paragraphs: vec![
            "A typical turn of each workload. As many requests decode together as fit (or \
             --batch); shipped is the cache of what prefill computed, over the slower side's \
             links. The ratio is groups of GPUs that prefill for each that decodes, and turns \
             are those of all groups at that ratio."
                .to_owned(),
        ],
        columns: vec![
            "model",
            "weights, cache",
            "GPUs",
            "workload",
            "prefill on",
            "decode on",
            "batch",
            "shipped_bytes",
            "link_s",
            "host_link_s",
            "prefill_s",
            "decode_of_one_s",
            "prefill_per_decode",
            "turns_per_s_per_group",
            "shipping",
        ],
        rows,
    }
}

fn disaggregated_cells(of: &Disaggregated) -> Vec<String> {
    let hides = of.link_s.or(of.host_link_s).is_some_and(|link_s| link_s <= of.prefill_s);
    vec![
        of.batch.to_string(),
        of.shipped_bytes.to_string(),
        cell(of.link_s),
        cell(of.host_link_s),
        of.prefill_s.to_string(),
        of.decode_s_per_request.to_string(),
        of.prefill_per_decode().to_string(),
        of.turns_per_s_per_group().to_string(),
        if hides { "shipping hides behind prefill" } else { "shipping takes longer" }
            .to_owned(),
    ]
}

fn offload(grid: &Grid) -> Section {
    let mut rows = Vec::new();
    for served in served(grid, None) {
        for tokens in &grid.tokens {
            for rates in &grid.rates {
                for &batch in &grid.batches {
                    let mut names = names(&served);
                    names.push(tokens.context.to_string());
                    names.push(rates.machine().name.clone());
                    names.push(batch.to_string());
                    let of = Offloaded::of(&served, rates, batch, tokens.context);
                    rows.push(cells(names, of.map(|of| offloaded_cells(&of)), 7));
                }
            }
        }
    }
    Section {
        heading: "Caches elsewhere".to_owned(),
        paragraphs: vec![
            "Streaming: every decode step fetches all of the cache; from that bandwidth on it \
             is no slower. Fetching: the cache of a request comes back once, before its turn; \
             from that bandwidth on that is faster than computing it anew, and over the host \
             link the one or the other is. Of one GPU."
                .to_owned(),
        ],
        columns: vec![
            "model",
            "weights, cache",
            "GPUs",
            "context",
            "machine",
            "batch",
            "step_cache_bytes",
            "step_s",
            "streaming_bytes_per_s",
            "host_slowdown",
            "recompute_s",
            "fetching_bytes_per_s",
            "over_host_link",
        ],
        rows,
    }
}

fn offloaded_cells(of: &Offloaded) -> Vec<String> {
    let fetches =
        of.host_link_bytes_per_s.is_some_and(|link| link >= of.fetching_bytes_per_s());
    let note = match of.host_link_bytes_per_s {
        None => "no host link stated",
        Some(_) if fetches => "fetch",
        Some(_) => "compute anew",
    };
    vec![
        of.step_cache_bytes.to_string(),
        of.step_s.to_string(),
        of.streaming_bytes_per_s().to_string(),
        cell(of.slowdown()),
        of.recompute_s.to_string(),
        of.fetching_bytes_per_s().to_string(),
        note.to_owned(),
    ]
}

fn claims(facts: &Facts) -> Result<Section> {
    let Facts { models, machines, workloads } = facts;
    let found = Claims { models, machines, workloads }.all()?;
    Ok(Section {
        heading: "The paper's claims, by prediction".to_owned(),
        paragraphs: vec![
            "On H100 SXM, H200 and B200, at their data sheets' peaks, in bf16 but for claims 1 \
             and 7. OI in FLOPs per byte."
                .to_owned(),
        ],
        columns: vec!["claim", "finding", "evidence"],
        rows: found
            .into_iter()
            .map(|of| vec![of.claim.to_owned(), of.finding.to_owned(), of.evidence])
            .collect(),
    })
}

fn published(machines: &Machines, format: Format) -> Result<ExitCode> {
    let compared = published::compare(machines)?;
    let row = |of: &Compared| {
        vec![
            of.measurement.name.clone(),
            of.measurement.machine.clone(),
            of.measurement.regime.clone(),
            of.measurement.time_s.to_string(),
            of.roof_s.to_string(),
            of.ratio().to_string(),
            of.implied_bandwidth.to_string(),
            of.implied_compute.to_string(),
            of.measurement.source.clone(),
        ]
    };
    let mut regimes: Vec<&str> =
        compared.iter().map(|of| of.measurement.regime.as_str()).collect();
    regimes.sort_unstable();
    regimes.dedup();
    let per_regime = regimes.into_iter().map(|regime| {
        let mut ratios: Vec<f64> = compared
            .iter()
            .filter(|of| of.measurement.regime == regime)
            .map(Compared::ratio)
            .collect();
        ratios.sort_by(f64::total_cmp);
        vec![
            regime.to_owned(),
            ratios.len().to_string(),
            ratios[0].to_string(),
            ratios[ratios.len() / 2].to_string(),
            ratios[ratios.len() - 1].to_string(),
        ]
    });
    let mut sections = [
        Section {
            heading: "Published measurements".to_owned(),
            paragraphs: vec![
                "Predicted is the roofline at achievable peaks: a ratio above 1 would be faster \
                 than anybody has been. Bandwidth and compute are what the time implies, as \
                 shares of the data sheet."
                    .to_owned(),
            ],
            columns: vec![
                "measurement",
                "machine",
                "regime",
                "measured_s",
                "predicted_s",
                "predicted_over_measured",
                "bandwidth_share",
                "compute_share",
                "source",
            ],
            rows: compared.iter().map(row).collect(),
        },
        Section {
            heading: "Predicted over measured, by regime".to_owned(),
            columns: vec!["regime", "measurements", "least", "median", "most"],
            rows: per_regime.collect(),
            ..Section::default()
        },
    ];
    if format == Format::Table {
        // Addresses are longer than all other cells together.
        sections[0].columns.pop();
        sections[0].rows.iter_mut().for_each(|row| drop(row.pop()));
        sections[0].paragraphs.push("--format csv has the source of each.".to_owned());
        sections.iter_mut().for_each(round);
    }
    table::print(&sections, format)?;
    Ok(ExitCode::SUCCESS)
}
