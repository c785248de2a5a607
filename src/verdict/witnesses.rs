//! Three witnesses of bytes and FLOPs beside each other: the model, the virtual machine and
//! the hardware counters; and the byte audit.

use std::collections::BTreeMap;

use super::{Judge, counted};
use crate::analysis::{ByteFinding, Measured, mb};
use crate::section::Section;

impl Judge<'_> {
    /// A row for each measured point, if counters or the virtual machine were asked.
    pub(super) fn witness_section(&self) -> Option<Section> {
        let witnesses = &self.campaign.witnesses;
        if witnesses.counters.is_none() && witnesses.counted.is_none() {
            return None;
        }
        let points = self.campaign.points.iter().filter(|point| {
            point.time_s.is_some() && (point.counters.is_some() || point.counted.is_some())
        });
        Some(Section {
            heading: "Three witnesses of bytes".into(),
            paragraphs: vec![self.witness_summary()],
            columns: vec![
                "problem",
                "kernel",
                "cache",
                "model reads",
                "model writes",
                "extra",
                "counted",
                "DRAM reads",
                "DRAM writes",
                "L2 hits",
                "OI model",
                "OI counted",
                "OI measured",
                "FLOPs by",
                "audit",
                "why",
            ],
            rows: points.map(|point| self.witness_cells(point)).collect(),
        })
    }

    fn witness_cells(&self, point: &Measured) -> Vec<String> {
        let shown = |bytes: Option<f64>| bytes.map_or(String::new(), mb);
        let intensity =
            |value: Option<f64>| value.map_or(String::new(), |v| format!("{v:.3}"));
        let row = point.counters_row();
        let measured = point.intensity_measured();
        let of_model = (point.work.flops() > 0).then(|| point.work.operational_intensity());
        let audit = self.campaign.byte_audit(point);
        let reason = || match (&point.counters, &point.counted) {
            (Some(counters), _) => counters.reason.clone(),
            (None, Some(counted)) => counted.reason.clone(),
            (None, None) => String::new(),
        };
        vec![
            point.problem.to_string(),
            point.kernel.to_string(),
            point.cache.to_string(),
            mb(point.work.bytes_read() as f64),
            mb(point.work.bytes_written() as f64),
            shown(point.bytes_extra.map(|bytes| bytes as f64)),
            shown(point.counted.as_ref().and_then(|c| c.bytes_counted).map(|b| b as f64)),
            shown(row.and_then(|row| row.dram_bytes_read)),
            shown(row.and_then(|row| row.dram_bytes_written)),
            row.and_then(|row| row.l2_hit_share)
                .map_or(String::new(), |share| format!("{:.1}%", 100.0 * share)),
            intensity(of_model),
            intensity(point.intensity_counted()),
            intensity(measured.map(|(value, _)| value)),
            measured.map_or("", |(_, source)| source.name()).to_owned(),
            audit.as_ref().map_or("", |audit| audit.finding.name()).to_owned(),
            audit.map_or_else(reason, |audit| audit.why),
        ]
    }

    /// How many points the audit found what of, and why others were not audited.
    fn witness_summary(&self) -> String {
        let mut findings: BTreeMap<ByteFinding, usize> = BTreeMap::new();
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for point in self.campaign.points.iter().filter(|point| point.time_s.is_some()) {
            match (self.campaign.byte_audit(point), &point.counters) {
                (Some(audit), _) => *findings.entry(audit.finding).or_default() += 1,
                (None, Some(counters)) => {
                    *reasons.entry(&counters.reason).or_default() += 1
                }
                (None, None) => *reasons.entry("counters were not asked").or_default() += 1,
            }
        }
        let found = findings.iter().map(|(finding, count)| {
            let what = match finding {
                ByteFinding::Agrees => "the witnesses agree",
                ByteFinding::Cache => "a cache explains the difference",
                ByteFinding::Kernel => "the kernel moves what it does not declare",
                ByteFinding::Model => "the model counts what is not moved",
            };
            format!("{}: {what}", counted(*count, "point", "points"))
        });
        let not = reasons.iter().map(|(why, count)| {
            format!("{} without counters: {why}", counted(*count, "point", "points"))
        });
        found.chain(not).collect::<Vec<_>>().join(". ") + "."
    }

    /// Counters of other machine code than the campaign measured.
    pub(super) fn foreign_counters(&self) -> Option<String> {
        let of_row = |row: &&crate::record::Row| {
            let point = self.campaign.points.iter().find(|p| p.point_id == row.point_id);
            let counters = point.and_then(|point| point.counters_row());
            counters.is_some_and(|counters| {
                let (theirs, ours) = (&counters.code_hash, &row.code_hash);
                !theirs.is_empty() && !ours.is_empty() && theirs != ours
            })
        };
        let first_repeats = self.campaign.rows.iter().filter(|row| row.repeat == 0);
        let count = first_repeats.filter(of_row).count();
        (count > 0).then(|| {
            format!(
                "counters of {} are of other machine code than was measured: another version \
                 of the program was replayed",
                counted(count, "point", "points")
            )
        })
    }
}
