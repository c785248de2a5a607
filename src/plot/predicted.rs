//! The paper's figures, from predictions: operational intensity and capacity footprint of
//! models, workloads and machines. Each has a CSV file with the values that it shows.

mod chart;
mod families;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use self::chart::{Area, BF16, Chart, ChartSeries, GB, capacities, decode, ridges, step};
use super::axis::Scale;
use super::write_forms;
use crate::model::llm::{self, LayerKind, Llm, Mixer};
use crate::model::machine::Machines;
use crate::model::predict::{Footprint, Totals};
use crate::model::step::{Phase, Step, StepPart};
use crate::model::workload::{self, Workload};

/// Draws all figures and writes each as SVG, PNG, PDF and CSV. Returns the paths of the files.
///
/// # Errors
/// A model, machine or workload that the figures name is not in the tables, or a file
/// cannot be written.
pub fn write_all(
    models: &[Llm],
    machines: &Machines,
    workloads: &[Workload],
    folder: &Path,
) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let mut written = Vec::new();
    for chart in charts(models, machines, workloads)? {
        written.extend(write_forms(folder, chart.name, &chart.draw(), &chart.csv())?);
    }
    Ok(written)
}

/// All figures.
fn charts(
    models: &[Llm],
    machines: &Machines,
    workloads: &[Workload],
) -> Result<Vec<Chart>> {
    Ok(vec![
        quadrants(models, machines)?,
        workflows(models, machines, workloads)?,
        caches(models, machines)?,
        dense_and_experts(models, machines)?,
        families::chart(models, machines)?,
    ])
}

/// Intensity and footprint of attention and of feed-forward layers, in both phases.
fn quadrants(models: &[Llm], machines: &Machines) -> Result<Chart> {
    const BATCH: u64 = 16;
    let mut panels = Vec::new();
    for name in ["llama-3.1-70b", "deepseek-v3"] {
        let model = llm::named(models, name)?;
        let mut series = Vec::new();
        for phase in Phase::ALL {
            for (part, what) in [
                (StepPart::Attention, "attention"),
                (StepPart::FeedForward, "feed-forward"),
            ] {
                let mut points = Vec::new();
                for context in [1024, 4096, 16_384, 65_536, 131_072] {
                    let new_tokens = if phase == Phase::Decode { 1 } else { context };
                    let batch = if phase == Phase::Decode { BATCH } else { 1 };
                    let step = step(model, BF16, (phase, batch, context, new_tokens))?;
                    points.push(place(&step, part));
                }
                let name = format!("{} {what}", phase.name());
                series.push(ChartSeries { name, joined: true, points });
            }
        }
        panels.push(Area {
            heading: format!("{name}, contexts of 1K, 4K, 16K, 64K and 128K"),
            x_title: "operational intensity (FLOPs/byte)",
            y_title: "capacity footprint (GB per request)",
            x_scale: Scale::Decimal(1.0),
            series,
            verticals: ridges(machines, &["h100-sxm", "h200"])?,
            horizontals: capacities(machines, &["b200"])?,
        });
    }
    Ok(Chart {
        name: "quadrants",
        title: "Operational intensity and capacity footprint of the parts of a step"
            .to_owned(),
        how: format!(
            "Decode at batch {BATCH}, prefill of one whole prompt, bf16. The footprint of \
             attention is a request's cache, of feed-forward layers the request's share of \
             their weights. Right of a ridge compute binds, left of it memory."
        ),
        panels,
    })
}

/// Where a part of a step lies among the quadrants.
fn place(step: &Step, part: StepPart) -> (f64, f64) {
    let totals = Totals::of(step, |other| other == part);
    let bytes = match part {
        StepPart::Attention => step.request_cache_bytes as f64,
        _ => {
            let of_part = step.problems.iter().filter(|entry| entry.part == part);
            let weights: u64 = of_part.map(|p| p.count * p.resident_bytes()).sum();
            weights as f64 / step.requests as f64
        }
    };
    (totals.operational_intensity(), bytes / GB)
}

/// The paper's four workflows.
const WORKFLOWS: [&str; 4] = ["chat", "coding", "web_use", "computer_use"];

/// LLaMA-70B under the four workflows: footprint against capacity, intensity against
/// ridges.
fn workflows(models: &[Llm], machines: &Machines, workloads: &[Workload]) -> Result<Chart> {
    let model = llm::named(models, "llama-3.1-70b")?;
    let batches: Vec<u64> = (0..=10).map(|power| 1 << power).collect();
    let (mut footprints, mut intensities) = (Vec::new(), Vec::new());
    for name in WORKFLOWS {
        let workload = workload::named(workloads, name)?;
        let (mut resident, mut oi) = (Vec::new(), Vec::new());
        for &batch in &batches {
            let step = decode(model, BF16, batch, workload.context)?;
            let totals = Totals::of_step(&step);
            resident.push((batch as f64, Footprint::of(&step).resident_bytes() / GB));
            oi.push((batch as f64, totals.operational_intensity()));
        }
        let Workload { context, new_tokens, output_tokens, .. } = workload;
        let name =
            format!("{name}: {context} cached, {new_tokens} new, {output_tokens} out");
        footprints.push(ChartSeries { name: name.clone(), joined: true, points: resident });
        intensities.push(ChartSeries { name, joined: true, points: oi });
    }
    Ok(Chart {
        name: "workflows",
        title: "Llama 3.1 70B under four workflows".to_owned(),
        how: "Decode in bf16, weights and cache of all requests together, over the batch: the \
              capacity of a GPU is full long before the step is at its ridge."
            .to_owned(),
        panels: vec![
            Area::over_batches(
                "Capacity footprint of all requests",
                "batch x capacity footprint (GB)",
                footprints,
                capacities(machines, &["h100-sxm", "b200"])?,
            ),
            Area::over_batches(
                "Operational intensity of decode",
                "operational intensity (FLOPs/byte)",
                intensities,
                ridges(machines, &["h100-sxm", "b200"])?,
            ),
        ],
    })
}

/// Cache over context, with MHA, GQA, MQA and MLA.
fn caches(models: &[Llm], machines: &Machines) -> Result<Chart> {
    let llama = llm::named(models, "llama-3.1-70b")?;
    let latent = llm::named(models, "deepseek-v3")?;
    let with_heads = |count: u64| {
        let mut model = llama.clone();
        for kind in &mut model.kinds {
            if let Mixer::Heads(heads) = &mut kind.mixer {
                heads.kv_heads = count;
            }
        }
        model
    };
    let with_latents = |width: u64| {
        let mut kind = latent.kinds[0];
        if let Mixer::Latent(latent) = &mut kind.mixer {
            latent.kv_lora_rank = width;
        }
        let kinds = vec![LayerKind { count: llama.layers(), ..kind }];
        Llm { kinds, ..latent.clone() }
    };
    let mut variants = vec![
        ("MHA, 64 key and value heads".to_owned(), with_heads(64)),
        ("GQA, 8 heads".to_owned(), with_heads(8)),
        ("MQA, 1 head".to_owned(), with_heads(1)),
    ];
    for width in [1024, 512, 256, 64] {
        variants.push((format!("MLA, latents of {width}"), with_latents(width)));
    }
    let contexts = [1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000];
    let mut series = Vec::new();
    for (name, model) in &variants {
        let mut points = Vec::new();
        for context in contexts {
            let step = decode(model, BF16, 1, context)?;
            points.push((context as f64, step.request_cache_bytes as f64 / GB));
        }
        series.push(ChartSeries { name: name.clone(), joined: true, points });
    }
    Ok(Chart {
        name: "caches",
        title: "Capacity footprint of a request's cache over its context".to_owned(),
        how: "80 layers, 64 query heads of 128, bf16: the cache alone, without weights. Each \
              latent has 64 more elements for the position."
            .to_owned(),
        panels: vec![Area {
            heading: String::new(),
            x_title: "context (tokens)",
            y_title: "cache (GB per request)",
            x_scale: Scale::Decimal(1.0),
            series,
            verticals: Vec::new(),
            horizontals: capacities(machines, &["h100-sxm", "b200"])?,
        }],
    })
}

/// Footprint and intensity over the batch, of dense models and of models with experts.
fn dense_and_experts(models: &[Llm], machines: &Machines) -> Result<Chart> {
    const CONTEXT: u64 = 131_072;
    let mut panels = Vec::new();
    let batches: Vec<u64> = (0..=9).map(|power| 1 << power).collect();
    let names = ["llama-3.1-70b", "llama-3.1-405b", "mixtral-8x7b", "deepseek-r1"];
    for per_request in [true, false] {
        let mut series = Vec::new();
        for name in names {
            let model = llm::named(models, name)?;
            let mut points = Vec::new();
            for &batch in &batches {
                let step = decode(model, BF16, batch, CONTEXT)?;
                let footprint = Footprint::of(&step);
                let y = if per_request {
                    footprint.per_request_bytes() / GB
                } else {
                    Totals::of_step(&step).operational_intensity()
                };
                points.push((batch as f64, y));
            }
            series.push(ChartSeries { name: name.to_owned(), joined: true, points });
        }
        let (heading, y_title, horizontals) = if per_request {
            let lines = capacities(machines, &["h100-sxm", "b200"])?;
            ("Capacity footprint", "capacity footprint (GB per request)", lines)
        } else {
            let lines = ridges(machines, &["h100-sxm"])?;
            ("Operational intensity of decode", "operational intensity (FLOPs/byte)", lines)
        };
        panels.push(Area::over_batches(heading, y_title, series, horizontals));
    }
    Ok(Chart {
        name: "experts",
        title: "Dense models and models with experts".to_owned(),
        how: format!(
            "Decode in bf16 at a context of {CONTEXT}: the footprint is a request's cache and \
             its share of all weights; experts that no token chose are not read, but still take \
             memory. As many are read as uniform routing touches in the mean."
        ),
        panels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Chart> {
        let (models, machines) = (llm::load(None).unwrap(), Machines::load(None).unwrap());
        charts(&models, &machines, &workload::load(None).unwrap()).unwrap()
    }

    fn points<'a>(chart: &'a Chart, series: &str) -> &'a [(f64, f64)] {
        let all = chart.panels.iter().flat_map(|panel| &panel.series);
        &all.into_iter().find(|s| s.name.starts_with(series)).unwrap().points
    }

    /// The figures show what the paper claims.
    #[test]
    fn figures_show_the_papers_claims() {
        let charts = all();
        // Decode attention has the intensity of its group at every context. Prefill
        // attention is above the ridge of an H100.
        let decode = points(&charts[0], "decode attention");
        assert!(decode.iter().all(|(oi, _)| (7.9..8.0).contains(oi)));
        assert!(points(&charts[0], "prefill attention").iter().all(|(oi, _)| *oi > 295.0));
        // Coding fills a B200 before batch 16, and its intensity stays under 10.
        let coding = points(&charts[1], "coding");
        assert!(coding.iter().any(|(batch, gb)| *batch <= 16.0 && *gb > 180.0));
        // A cache of 64 heads is 8 times that of 8; latents of 512 are 576 of 2048.
        let at = |name: &str| points(&charts[2], name)[0].1;
        assert!((at("MHA") / at("GQA") - 8.0).abs() < 1e-9);
        assert!((at("GQA") / at("MLA, latents of 512") - 2048.0 / 576.0).abs() < 1e-9);
        // R1 at batch 16: each request's share of all weights is 84 GB, and its cache adds
        // to that.
        let r1 = points(&charts[3], "deepseek-r1");
        let (_, at_16) = r1.iter().find(|(batch, _)| *batch == 16.0).unwrap();
        assert!((90.0..95.0).contains(at_16), "{at_16}");
    }

    #[test]
    fn figures_are_valid_and_their_numbers_read_back() {
        for chart in all() {
            assert!(super::super::raster::png(&chart.draw()).is_ok(), "{}", chart.name);
            let text = chart.csv();
            let mut reader = csv::Reader::from_reader(text.as_bytes());
            let rows = reader.records().map(Result::unwrap);
            let with_both = rows.filter(|row| !row[3].is_empty() && !row[5].is_empty());
            let shown = chart.panels.iter().flat_map(|panel| &panel.series);
            let points: usize = shown.map(|series| series.points.len()).sum();
            assert_eq!(with_both.count(), points, "{}", chart.name);
        }
    }
}
