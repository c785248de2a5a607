//! `ridgepoint predict disaggregate`: prefill and decode on separate machines.

use anyhow::Result;

use super::cells::{self, cell};
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
    cells::print(section(rows), args.output.format)
}

fn rows(
    served: &[Served],
    workloads: &[&Workload],
    rates: &[Rates],
    limit: u64,
) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for served in served {
        for workload in workloads {
            for prefill in rates {
                for decode in rates {
                    let mut names = cells::names(served);
                    names.push(workload.name.clone());
                    names.push(prefill.machine().name.clone());
                    names.push(decode.machine().name.clone());
                    let of = Disaggregated::of(served, (prefill, decode), workload, limit);
                    rows.push(cells::row(names, of.map(|of| predicted(&of)), 9));
                }
            }
        }
    }
    rows
}

fn section(rows: Vec<Vec<String>>) -> Section {
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
        if hides { "shipping is hidden by prefill" } else { "shipping takes longer" }
            .to_owned(),
    ]
}
