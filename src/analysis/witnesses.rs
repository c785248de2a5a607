//! What others than the model say of a point's bytes and FLOPs: hardware counters and the
//! virtual machine.

use std::collections::HashMap;

use super::Measured;
use crate::point::CacheState;
use crate::record::{CounterRow, Unreadable, Witnesses};

/// Who counted the FLOPs of an operational intensity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlopsSource {
    /// The counters of the tensor units.
    Counters,
    /// The virtual machine.
    VirtualMachine,
    /// Nobody: they are the model's.
    Model,
}

impl FlopsSource {
    /// The spelling used in tables and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            FlopsSource::Counters => "counters",
            FlopsSource::VirtualMachine => "virtual machine",
            FlopsSource::Model => "model",
        }
    }
}

/// FLOPs by tensor counters over the model's that padding explains. A ratio outside comes
/// from units that a counter does not see, or from a counter that counts something else.
const CREDIBLE_FLOPS: std::ops::RangeInclusive<f64> = 0.98..=32.0;

impl Measured {
    /// The row of counters that shows what the campaign's launches did. A cold launch finds
    /// nothing in the caches, which flushing them gives exactly; without flushing, only the
    /// first pass of the profiler finds what the rotation left. A hot launch is only shown
    /// without flushing, unless its bytes do not stay in a cache.
    pub fn counters_row(&self) -> Option<&CounterRow> {
        let counters = self.counters.as_ref()?;
        let (all, none) = (counters.all.as_ref(), counters.none.as_ref());
        match self.cache {
            CacheState::Cold => {
                let first_pass = none.filter(|row| row.passes == Some(1));
                first_pass.or(all).or(none)
            }
            CacheState::Hot => none.or(all.filter(|_| self.is_from_dram())),
        }
    }

    /// Compulsory bytes and those that the kernel declares beside them.
    pub fn bytes_declared(&self) -> u64 {
        self.work.bytes() + self.bytes_extra.unwrap_or(0)
    }

    /// Bytes to and from DRAM by the counters, in one launch.
    pub fn dram_bytes(&self) -> Option<f64> {
        let row = self.counters_row()?;
        Some(row.dram_bytes_read? + row.dram_bytes_written?)
    }

    /// FLOPs that the machine executed, as far as anybody counted them, and who did.
    pub fn flops_counted(&self) -> (f64, FlopsSource) {
        let matrix = self.work.matrix_flops() as f64;
        let tensor = self.counters.as_ref().and_then(|counters| {
            let rows = [&counters.all, &counters.none];
            rows.into_iter().flatten().find_map(|row| row.tensor_flops)
        });
        let counted = self.counted.as_ref().and_then(|row| row.flops_counted);
        match (tensor.filter(|flops| CREDIBLE_FLOPS.contains(&(flops / matrix))), counted) {
            (Some(flops), _) => (flops, FlopsSource::Counters),
            (None, Some(flops)) => (flops as f64, FlopsSource::VirtualMachine),
            (None, None) => (self.work.flops() as f64, FlopsSource::Model),
        }
    }

    /// Operational intensity by the virtual machine: its FLOPs over its bytes.
    pub fn intensity_counted(&self) -> Option<f64> {
        let row = self.counted.as_ref()?;
        let (flops, bytes) = (row.flops_counted? as f64, row.bytes_counted? as f64);
        (flops > 0.0 && bytes > 0.0).then(|| flops / bytes)
    }

    /// Empirical operational intensity: counted FLOPs over the bytes that the counters saw,
    /// and who counted the FLOPs.
    pub fn intensity_measured(&self) -> Option<(f64, FlopsSource)> {
        let bytes = self.dram_bytes()?;
        let (flops, source) = self.flops_counted();
        (flops > 0.0 && bytes > 0.0).then(|| (flops / bytes, source))
    }

    /// The model's FLOPs over the bytes that the counters saw: what the bytes alone make of
    /// the intensity.
    pub fn intensity_of_measured_bytes(&self) -> Option<f64> {
        let (flops, bytes) = (self.work.flops() as f64, self.dram_bytes()?);
        (flops > 0.0 && bytes > 0.0).then(|| flops / bytes)
    }
}

/// Joins both files to the points; what cannot be joined or believed comes back, and is not
/// joined.
pub(super) fn join(points: &mut [Measured], witnesses: &Witnesses) -> Vec<Unreadable> {
    let mut unreadable = Vec::new();
    let ids: HashMap<String, usize> =
        points.iter().enumerate().map(|(at, p)| (p.point_id.clone(), at)).collect();
    let counters = witnesses.counters.iter().flatten();
    // The header is the first line.
    for (line, row) in (2..).zip(counters) {
        let found = ids
            .get(&row.point_id)
            .ok_or_else(|| unknown("counters.csv", line, &row.point_id));
        match found.and_then(|&at| credible(row, line).map(|()| at)) {
            Ok(at) => {
                points[at].counters.get_or_insert_default().add(row);
            }
            Err(why) => unreadable.push(why),
        }
    }
    for (line, row) in (2..).zip(witnesses.counted.iter().flatten()) {
        match ids.get(&row.point_id) {
            Some(&at) => points[at].counted = Some(row.clone()),
            None => unreadable.push(unknown("counted.csv", line, &row.point_id)),
        }
    }
    unreadable
}

fn unknown(file: &'static str, line: u64, point_id: &str) -> Unreadable {
    Unreadable {
        file,
        line,
        column: Some("point_id".to_owned()),
        value: point_id.to_owned(),
        why: "results.csv has no such point; the file is of another campaign".to_owned(),
    }
}

fn credible(row: &CounterRow, line: u64) -> Result<(), Unreadable> {
    let not_credible = |(_, value): &(&str, Option<f64>)| {
        value.is_some_and(|value| !value.is_finite() || value < 0.0)
    };
    let Some((column, value)) = row.numbers().into_iter().find(not_credible) else {
        return Ok(());
    };
    Err(Unreadable {
        file: "counters.csv",
        line,
        column: Some(column.to_owned()),
        value: value.map_or(String::new(), |value| value.to_string()),
        why: "counters are finite and not negative; the file was edited".to_owned(),
    })
}
