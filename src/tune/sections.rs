//! What a tuning campaign found, as tables.

use super::{Contested, Found, Standing};
use crate::device::Device;
use crate::section::Section;
use crate::tuning::TunedClass;

/// What was found for each class, and how every configuration did.
pub fn sections(found: &Found, device: &dyn Device) -> Vec<Section> {
    let parameters = |kernel: &str, configuration: &str| {
        let space = device.search_space(kernel);
        let known = space.and_then(|space| space.find(configuration).ok());
        known.map_or(String::new(), |known| known.spell())
    };
    vec![
        Section {
            heading: "Tuned".into(),
            paragraphs: vec![
                "The fastest configuration of each kernel for a class of shapes: the default's \
                 time over its own, in rounds that did not choose it, and the default's over \
                 its own once more. A configuration is taken where its gain is beyond doubt \
                 over all classes together (Holm, 5%) and beyond what the default gains over \
                 itself."
                    .to_owned(),
            ],
            columns: vec![
                "kernel",
                "class",
                "candidates",
                "fastest",
                "parameters",
                "default_time_s",
                "time_s",
                "speedup",
                "speedup_lo",
                "speedup_hi",
                "aa_ratio",
                "aa_ratio_lo",
                "aa_ratio_hi",
                "use",
                "why",
            ],
            rows: found.classes.iter().map(|c| class_row(c, &parameters)).collect(),
            keys: 2,
            spare: &["parameters", "candidates", "time_s", "why"],
        },
        Section {
            heading: "Configurations".into(),
            paragraphs: vec![
                "Every configuration of the search space. Those that were measured in fewer \
                 rounds were slower, or wrong."
                    .to_owned(),
            ],
            columns: vec![
                "kernel",
                "problem",
                "configuration",
                "parameters",
                "rounds",
                "time_s",
                "time_of_default_share",
                "status",
            ],
            rows: found.standings.iter().map(|s| standing_row(s, &parameters)).collect(),
            keys: 3,
            spare: &["parameters", "status"],
        },
    ]
}

fn class_row(
    contested: &Contested,
    parameters: &dyn Fn(&str, &str) -> String,
) -> Vec<String> {
    let Contested { kernel, class, tuned, winner, why } = contested;
    let winner = winner.as_deref().unwrap_or_default();
    let cell = |of: fn(&TunedClass) -> String| tuned.as_ref().map_or(String::new(), of);
    vec![
        kernel.clone(),
        class.to_string(),
        cell(|tuned| tuned.candidates.to_string()),
        winner.to_owned(),
        parameters(kernel, winner),
        cell(|tuned| tuned.default_time_s.to_string()),
        cell(|tuned| tuned.time_s.to_string()),
        cell(|tuned| tuned.speedup.to_string()),
        cell(|tuned| tuned.speedup_lo.to_string()),
        cell(|tuned| tuned.speedup_hi.to_string()),
        cell(|tuned| tuned.aa_ratio.to_string()),
        cell(|tuned| tuned.aa_ratio_lo.to_string()),
        cell(|tuned| tuned.aa_ratio_hi.to_string()),
        cell(|tuned| tuned.configuration.clone()),
        why.clone(),
    ]
}

fn standing_row(
    standing: &Standing,
    parameters: &dyn Fn(&str, &str) -> String,
) -> Vec<String> {
    let cell = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    vec![
        standing.kernel.clone(),
        standing.problem.label(),
        standing.configuration.clone(),
        parameters(&standing.kernel, &standing.configuration),
        standing.rounds.to_string(),
        cell(standing.time_s),
        cell(standing.of_default),
        standing.status.clone(),
    ]
}
