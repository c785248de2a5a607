//! `ridgepoint predict task`: whole turns and tasks of workloads.

use anyhow::Result;

use super::cells::{self, Rows, cell};
use super::options::{
    BatchOptions, MachineOptions, Output, ServedOptions, WorkloadOptions,
};
use crate::model::predict::Rates;
use crate::model::task::{Served, Turn};
use crate::model::workload::Workload;
use crate::section::Section;

/// Predict whole turns and tasks of workloads, prefill and decode together.
///
/// Numbers are lists and ranges: 1,8,64 or 1..4096*2 or 1024..65536+1024.
#[derive(Debug, clap::Args)]
pub struct TaskArgs {
    #[command(flatten)]
    served: ServedOptions,
    #[command(flatten)]
    batch: BatchOptions,
    #[command(flatten)]
    workloads: WorkloadOptions,
    #[command(flatten)]
    machines: MachineOptions,
    #[command(flatten)]
    output: Output,
}

pub fn run(args: &TaskArgs) -> Result<()> {
    let (models, machines) = (args.served.load()?, args.machines.machine_file.load()?);
    let workloads = args.workloads.workload_file.load()?;
    let served = args.served.all(&models, args.workloads.cache_hit()?)?;
    let workloads = args.workloads.workloads(&workloads)?;
    let (rates, batches) = (args.machines.rates(&machines)?, args.batch.batches()?);
    let rows = rows(&served, &workloads, &rates, &batches);
    cells::print(section(), rows, args.output.format)
}

fn rows(
    served: &[Served],
    workloads: &[&Workload],
    rates: &[Rates],
    batches: &[u64],
) -> Rows {
    let mut rows = Rows::default();
    for served in served {
        for workload in workloads {
            let end = workload.prompt(workload.turns - 1) + workload.output_tokens;
            rows.note(served.model.beyond_limit(end));
            for rates in rates {
                for &batch in batches {
                    let mut names = cells::names(served);
                    names.push(workload.name.clone());
                    names.push(rates.machine().name.clone());
                    names.push(batch.to_string());
                    let predicted = predicted(served, rates, workload, batch);
                    rows.push(names, predicted, PREDICTED.len());
                }
            }
        }
    }
    rows
}

fn section() -> Section {
    Section {
        heading: "Turns and tasks".to_owned(),
        paragraphs: vec![
            "Prefill of one request at a time, decode of the batch together; contexts grow from \
             turn to turn. The first prompt of a task is computed whole, of others what the \
             workload adds or --cache-hit leaves. Energy at the power limit of all GPUs, shared by \
             the batch in decode."
                .to_owned(),
        ],
        columns: cells::columns(&WHAT, &PREDICTED),
        rows: Vec::new(),
        keys: cells::NAMES.len() + WHAT.len(),
        spare: &["turns", "energy_j", "cached_tokens", "computed_tokens", "output_tokens"],
    }
}

/// What a row is about, beside the model.
const WHAT: [&str; 3] = ["workload", "machine", "batch"];

/// What is predicted of it.
const PREDICTED: [&str; 11] = [
    "turns",
    "computed_tokens",
    "cached_tokens",
    "output_tokens",
    "first_token_s",
    "prefill_s",
    "decode_s",
    "task_s",
    "energy_j",
    "batch_max",
    "fits",
];

fn predicted(
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
        most.to_string(),
        (batch <= most).to_string(),
    ])
}
