//! Three witnesses of bytes and FLOPs beside each other: the model, the virtual machine and
//! the hardware counters; and the byte audit.

use std::collections::{BTreeMap, HashMap};

use super::{Judge, cell, counted};
use crate::analysis::{ByteFinding, Measured};
use crate::section::Section;

impl Judge<'_> {
    /// A row for each measured point with numbers, if counters or the virtual machine were
    /// asked.
    pub(super) fn witness_section(&self) -> Option<Section> {
        let witnesses = &self.campaign.witnesses;
        if witnesses.counters.is_none() && witnesses.counted.is_none() {
            return None;
        }
        let is_told = |point: &&Measured| {
            let counted = point.counted.as_ref().is_some_and(|c| c.bytes_counted.is_some());
            point.time_s.is_some() && (point.counters_row().is_some() || counted)
        };
        let points = self.campaign.points.iter().filter(is_told);
        let rows: Vec<Vec<String>> =
            points.map(|point| self.witness_cells(point)).collect();
        let columns = [
            "problem",
            "kernel",
            "cache",
            "bytes_read_model",
            "bytes_written_model",
            "bytes_extra",
            "bytes_counted",
            "dram_bytes_read",
            "dram_bytes_written",
            "l2_hit_share",
            "oi_model_flops_per_byte",
            "oi_counted_flops_per_byte",
            "oi_measured_flops_per_byte",
            "oi_measured_flops_by",
            "audit",
            "audit_why",
        ];
        Some(Section {
            heading: "Three witnesses of bytes".into(),
            paragraphs: vec![self.witness_summary()],
            columns: if rows.is_empty() { Vec::new() } else { columns.to_vec() },
            rows,
            keys: 0,
            spare: &[
                "oi_counted_flops_per_byte",
                "oi_measured_flops_by",
                "oi_model_flops_per_byte",
                "bytes_written_model",
                "dram_bytes_written",
                "l2_hit_share",
                "bytes_counted",
                "bytes_extra",
                "cache",
                "kernel",
                "oi_measured_flops_per_byte",
            ],
        })
    }

    fn witness_cells(&self, point: &Measured) -> Vec<String> {
        let row = point.counters_row();
        let dram = row.and_then(|row| row.dram_bytes_read.zip(row.dram_bytes_written));
        let counted = point.counted.as_ref().and_then(|counted| counted.bytes_counted);
        let of_model = (point.work.flops() > 0).then(|| point.work.operational_intensity());
        let measured = point.intensity_measured();
        let audit = self.campaign.byte_audit(point);
        let whole = |bytes: Option<u64>| bytes.map_or(String::new(), |b| b.to_string());
        vec![
            point.problem.to_string(),
            point.kernel.to_string(),
            point.cache.to_string(),
            point.work.bytes_read().to_string(),
            point.work.bytes_written().to_string(),
            whole(point.bytes_extra),
            whole(counted),
            cell(dram.map(|(read, _)| read)),
            cell(dram.map(|(_, written)| written)),
            cell(row.and_then(|row| row.l2_hit_share)),
            cell(of_model),
            cell(point.intensity_counted()),
            cell(measured.map(|(value, _)| value)),
            measured.map_or(String::new(), |(_, by)| by.name().to_owned()),
            audit.as_ref().map_or(String::new(), |audit| audit.finding.name().to_owned()),
            audit.map_or(String::new(), |audit| audit.why.clone()),
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
        let points = self.campaign.points.iter();
        let with_counters: HashMap<&str, _> = points
            .filter_map(|point| Some((&*point.point_id, point.counters_row()?)))
            .collect();
        let of_row = |row: &&crate::record::Row| {
            with_counters.get(&*row.point_id).is_some_and(|counters| {
                let (theirs, ours) = (&counters.code_hash, &row.code_hash);
                !theirs.is_empty() && !ours.is_empty() && theirs != ours
            })
        };
        let first_repeats = self.campaign.rows.iter().filter(|row| row.is_planned());
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
