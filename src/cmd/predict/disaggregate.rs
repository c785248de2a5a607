//! `ridgepoint predict disaggregate`: prefill and decode on separate machines.

use anyhow::Result;

use super::cells::{self, Rows, cell};
use super::options::{MachineOptions, Output, ServedOptions, WorkloadOptions};
use crate::model::predict::Rates;
use crate::model::task::{Disaggregated, Served};
use crate::model::workload::Workload;
use crate::section::Section;

/// Predict prefill and decode on separate machines, for every pair of kinds: the bytes to
/// ship and the best ratio of machines.
///
/// Numbers are lists and ranges: 1,8,64 or 1..4096*2 or 1024..65536+1024.
#[derive(Debug, clap::Args)]
pub struct DisaggregateArgs {
    #[command(flatten)]
    served: ServedOptions,
    /// Most requests that decode together; without it, as many as fit.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,
    #[command(flatten)]
    workloads: WorkloadOptions,
    #[command(flatten)]
    machines: MachineOptions,
    #[command(flatten)]
    output: Output,
}

pub fn run(args: &DisaggregateArgs) -> Result<()> {
    let (models, machines) = (args.served.load()?, args.machines.machine_file.load()?);
    let workloads = args.workloads.workload_file.load()?;
    let served = args.served.all(&models, args.workloads.cache_hit()?)?;
    let workloads = args.workloads.workloads(&workloads)?;
    let rates = args.machines.rates(&machines)?;
    let rows = rows(&served, &workloads, &rates, args.batch.unwrap_or(u64::MAX));
    cells::print(section(), rows, args.output.format)
}

fn rows(served: &[Served], workloads: &[&Workload], rates: &[Rates], limit: u64) -> Rows {
    let mut rows = Rows::default();
    for served in served {
        for workload in workloads {
            let end = workload.prompt(workload.turns - 1) + workload.output_tokens;
            rows.note(served.model.beyond_limit(end));
            for prefill in rates {
                for decode in rates {
                    let mut names = cells::names(served);
                    names.push(workload.name.clone());
                    names.push(prefill.machine().name.clone());
                    names.push(decode.machine().name.clone());
                    let of = Disaggregated::of(served, (prefill, decode), workload, limit);
                    rows.push(names, of.map(|of| predicted(&of)), PREDICTED.len());
                }
            }
        }
    }
    rows
}

fn section() -> Section {
    Section {
        heading: "Prefill and decode apart".to_owned(),
        paragraphs: vec![
            "A typical turn of each workload. As many requests decode together as fit (or \
             --batch); shipped is the cache of what prefill computed, over the slower side's \
             links. The ratio is groups of GPUs that prefill for each that decodes, and turns \
             are those of all groups at that ratio. Shipping is hidden where it takes no longer \
             than prefill."
                .to_owned(),
        ],
        columns: cells::columns(&WHAT, &PREDICTED),
        rows: Vec::new(),
        keys: cells::NAMES.len() + WHAT.len(),
        spare: &["host_link_s", "turns_per_s_per_group", "decode_of_one_s"],
    }
}

/// What a row is about, beside the model.
const WHAT: [&str; 3] = ["workload", "prefill_on", "decode_on"];

/// What is predicted of it.
const PREDICTED: [&str; 9] = [
    "batch",
    "shipped_bytes",
    "link_s",
    "host_link_s",
    "prefill_s",
    "decode_of_one_s",
    "prefill_per_decode",
    "turns_per_s_per_group",
    "shipping_hidden",
];

fn predicted(of: &Disaggregated) -> Vec<String> {
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
        hides.to_string(),
    ]
}
