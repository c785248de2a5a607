//! Whether the machine stayed the same through a campaign, by what was measured again and
//! again beside the points.

use super::Judge;
use crate::analysis::{ProbeKind, ProbeSeries};
use crate::quantity::{share, si};
use crate::section::Section;

impl Judge<'_> {
    /// Each probe: what is used of it, and how far it moved. `None` of records without.
    pub(super) fn probe_section(&self) -> Option<Section> {
        let rows = self.campaign.probes.iter().map(|probe| {
            let low_s = probe.low_s();
            vec![
                probe.kind.name().to_owned(),
                probe.times_s.len().to_string(),
                low_s.value.to_string(),
                probe.longest_s().to_string(),
                probe.moved_by().to_string(),
                finding(probe).to_owned(),
            ]
        });
        let rows: Vec<Vec<String>> = rows.collect();
        (!rows.is_empty()).then(|| Section {
            heading: "Probes through the campaign".into(),
            columns: vec![
                "probe",
                "repeats",
                "used_s",
                "longest_s",
                "moved_share",
                "finding",
            ],
            rows,
            paragraphs: vec![
                "Used is the low end of the repeats, a tenth from the shortest: what else \
                 runs only ever makes a probe longer."
                    .to_owned(),
            ],
            ..Section::default()
        })
    }

    /// Probes that took longer at times.
    pub(super) fn moved_probes(&self, warnings: &mut Vec<String>) {
        let used_s = self.launch_overhead_s;
        for probe in &self.campaign.probes {
            let (longest_s, low_s) = (probe.longest_s(), probe.low_s().value);
            // Held against whole launches too, which are no shorter than an empty one.
            let most_s = used_s * (1.0 + probe.kind.tolerance());
            warnings.extend(match probe.kind {
                ProbeKind::Launch if longest_s > most_s => Some(format!(
                    "an empty launch was measured to take up to {}, where {} are enough: the \
                     probe was disturbed, and the shorter time is used",
                    si(longest_s, "s"),
                    si(used_s, "s")
                )),
                ProbeKind::Timer if probe.has_moved() => Some(format!(
                    "the clock's smallest step was {} at times and {} at others",
                    si(longest_s, "s"),
                    si(low_s, "s")
                )),
                ProbeKind::Compute if probe.has_moved() => Some(slower_arithmetic(probe)),
                // The note on drift says it of the sentinel.
                _ => None,
            });
        }
    }
}

fn finding(probe: &ProbeSeries) -> &'static str {
    match probe.times_s.len() {
        1 => "measured once",
        _ if probe.has_moved() => "moved",
        _ => "steady",
    }
}

fn slower_arithmetic(probe: &ProbeSeries) -> String {
    let low_s = probe.low_s().value;
    let limit_s = low_s * (1.0 + probe.kind.tolerance());
    let slow = probe.times_s.iter().filter(|time| **time > limit_s).count();
    format!(
        "the same burst of arithmetic took longer at {slow} of {} times, up to {}: clocks fell, \
         or something that is not seen from here shared the cores",
        probe.times_s.len(),
        share(probe.moved_by())
    )
}
