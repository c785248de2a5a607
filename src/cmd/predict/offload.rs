//! `ridgepoint predict offload`: caches in host memory or a remote pool.

use anyhow::Result;

use super::cells::{self, Rows, cell};
use super::options::{BatchOptions, ContextOptions, MachineOptions, Output, ServedOptions};
use crate::model::predict::Rates;
use crate::model::task::{Offloaded, Served};
use crate::section::Section;

/// Predict caches in host memory or a remote pool: the bandwidth from which on they do not
/// slow a step down.
///
/// Numbers are lists and ranges: 1,8,64 or 1..4096*2 or 1024..65536+1024.
#[derive(Debug, clap::Args)]
pub struct OffloadArgs {
    #[command(flatten)]
    served: ServedOptions,
    #[command(flatten)]
    batch: BatchOptions,
    #[command(flatten)]
    context: ContextOptions,
    #[command(flatten)]
    machines: MachineOptions,
    #[command(flatten)]
    output: Output,
}

pub fn run(args: &OffloadArgs) -> Result<()> {
    let (models, machines) = (args.served.load()?, args.machines.machine_file.load()?);
    let contexts = match args.context.contexts()? {
        Some(contexts) => contexts,
        None => {
            let workloads = args.context.workload_file.load()?;
            let chosen = args.context.workloads(&workloads)?;
            chosen.into_iter().map(|workload| workload.context).collect()
        }
    };
    let served = args.served.all(&models, None)?;
    let (rates, batches) = (args.machines.rates(&machines)?, args.batch.batches()?);
    let rows = rows(&served, &contexts, &rates, &batches);
    cells::print(section(), rows, args.output.format)
}

fn rows(served: &[Served], contexts: &[u64], rates: &[Rates], batches: &[u64]) -> Rows {
    let mut rows = Rows::default();
    for served in served {
        for &context in contexts {
            rows.note(served.model.beyond_limit(context));
            for rates in rates {
                for &batch in batches {
                    let mut names = cells::names(served);
                    names.push(context.to_string());
                    names.push(rates.machine().name.clone());
                    names.push(batch.to_string());
                    let of = Offloaded::of(served, rates, batch, context);
                    rows.push(names, of.map(|of| predicted(&of)), PREDICTED.len());
                }
            }
        }
    }
    rows
}

fn section() -> Section {
    Section {
        heading: "Caches elsewhere".to_owned(),
        paragraphs: vec![
            "Streaming: every decode step fetches all of the cache; from that bandwidth on it \
             is not slower. Fetching: the cache of a request comes back once, before its turn; \
             from that bandwidth on that is faster than computing it anew, and over the host \
             link the one or the other is. Of one GPU."
                .to_owned(),
        ],
        columns: cells::columns(&WHAT, &PREDICTED),
        rows: Vec::new(),
        keys: cells::NAMES.len() + WHAT.len(),
        spare: &["recompute_s", "step_cache_bytes"],
    }
}

/// What a row is about, beside the model.
const WHAT: [&str; 3] = ["context", "machine", "batch"];

/// What is predicted of it.
const PREDICTED: [&str; 7] = [
    "step_cache_bytes",
    "step_s",
    "streaming_bytes_per_s",
    "host_slowdown",
    "recompute_s",
    "fetching_bytes_per_s",
    "over_host_link",
];

fn predicted(of: &Offloaded) -> Vec<String> {
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
