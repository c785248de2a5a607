//! How intensity and footprint evolve with the context, by family of layers.

use anyhow::{Context, Result};

use super::chart::{Area, BF16, Chart, ChartSeries, decode, ridges};
use crate::model::llm::{self, FeedForward, Heads, LayerKind, Llm, Mixer, Span};
use crate::model::machine::Machines;
use crate::model::predict::Totals;
use crate::model::step::StepPart;
use crate::plot::axis::Scale;

/// Bytes of a megabyte.
const MB: f64 = 1e6;

/// Contexts of the figure, in tokens.
const CONTEXTS: [u64; 11] = [
    1 << 10,
    1 << 11,
    1 << 12,
    1 << 13,
    1 << 14,
    1 << 15,
    1 << 16,
    1 << 17,
    1 << 18,
    1 << 19,
    1 << 20,
];

/// Which of a model's mixers a series is of.
type Wanted = fn(&Mixer) -> bool;

/// Families, each by a layer of a published model.
const FAMILIES: [(&str, &str, Wanted); 7] = [
    ("MHA, 32 heads", "llama-2-7b", |_| true),
    ("GQA, 64 over 8 heads", "llama-3.1-70b", |_| true),
    ("MLA, 128 heads", "deepseek-v3", |_| true),
    ("window of 1024, 32 over 16 heads", "gemma-3-27b", |mixer| {
        matches!(mixer, Mixer::Heads(Heads { span: Span::Window(_), .. }))
    }),
    ("linear (gated delta rule), 32 states", "qwen3-next-80b-a3b", is_state),
    ("state-space (Mamba-2), 128 states", "nemotron-h-8b", is_state),
    ("sparse MLA, 2048 tokens of an index", "deepseek-v3.2-exp", |_| true),
];

fn is_state(mixer: &Mixer) -> bool {
    matches!(mixer, Mixer::State(_))
}

/// Intensity and footprint of one layer of each family over the context.
pub fn chart(models: &[Llm], machines: &Machines) -> Result<Chart> {
    let (mut intensities, mut footprints) = (Vec::new(), Vec::new());
    for (family, name, wanted) in FAMILIES {
        let model = one_layer(llm::named(models, name)?, wanted)
            .with_context(|| format!("{name} has no such layer"))?;
        let (mut oi, mut cf) = (Vec::new(), Vec::new());
        for context in CONTEXTS {
            let step = decode(&model, BF16, 1, context)?;
            let attention = Totals::of(&step, |part| part == StepPart::Attention);
            oi.push((context as f64, attention.operational_intensity()));
            cf.push((context as f64, step.request_cache_bytes as f64 / MB));
        }
        let series = |points| ChartSeries {
            name: format!("{family}: {name}"),
            joined: true,
            points,
        };
        intensities.push(series(oi));
        footprints.push(series(cf));
    }
    let area = |heading: &str, y_title, series, horizontals| Area {
        heading: heading.to_owned(),
        x_title: "context (tokens)",
        y_title,
        x_scale: Scale::Count,
        series,
        verticals: Vec::new(),
        horizontals,
    };
    Ok(Chart {
        name: "layers",
        title: "Operational intensity and capacity footprint by family of layers"
            .to_owned(),
        how: "One layer of each model, decode of one request in bf16, states in f32: what \
              queries do with a cache, an index or a state, without projections. The batch \
              changes neither."
            .to_owned(),
        panels: vec![
            area(
                "Operational intensity of decode",
                "operational intensity (FLOPs/byte)",
                intensities,
                ridges(machines, &["h100-sxm"])?,
            ),
            area(
                "Capacity footprint of a layer",
                "cache or state (MB per request)",
                footprints,
                Vec::new(),
            ),
        ],
    })
}

/// A model of the first layer that is wanted, alone.
fn one_layer(model: &Llm, wanted: Wanted) -> Option<Llm> {
    let kind = model.kinds.iter().find(|kind| wanted(&kind.mixer))?;
    let kind = LayerKind { count: 1, feed_forward: FeedForward::None, ..*kind };
    Some(Llm { kinds: vec![kind], ..model.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(panel: usize, family: &str) -> Vec<(f64, f64)> {
        let models = llm::load(None).unwrap();
        let chart = chart(&models, &Machines::load(None).unwrap()).unwrap();
        let series = &chart.panels[panel].series;
        series.iter().find(|s| s.name.starts_with(family)).unwrap().points.clone()
    }

    fn ends(panel: usize, family: &str) -> (f64, f64) {
        let points = points(panel, family);
        (points[0].1, points[points.len() - 1].1)
    }

    /// Attention keeps its intensity and grows its footprint; states keep both; an index
    /// takes intensity away and grows slowly.
    #[test]
    fn families_evolve_as_they_are_made() {
        let (short, long) = ends(0, "GQA");
        assert!((7.8..8.0).contains(&short) && (7.99..8.0).contains(&long));
        let (short, long) = ends(1, "GQA");
        assert!((long / short - 1024.0).abs() < 1e-9);
        for family in ["linear", "state-space"] {
            assert!(ends(0, family).1 < 1.0, "{family}");
            for panel in [0, 1] {
                let (short, long) = ends(panel, family);
                assert_eq!(short, long, "{family}");
            }
        }
        let (short, long) = ends(1, "window");
        assert_eq!(short, long, "a window of 1024 is full at 1024");
        // The index costs 256 of a token's 1408 bytes, and all of its intensity counts in the
        // end: 2 x 64 x 129 FLOPs for 256 bytes.
        let (short, long) = ends(0, "sparse MLA");
        assert!(short > 2.5 * long && (64.0..72.0).contains(&long), "{short} {long}");
        let (sparse, latent) = (ends(1, "sparse MLA").1, ends(1, "MLA").1);
        assert!((sparse / latent - 1408.0 / 1152.0).abs() < 1e-9);
    }
}
