//! `points.csv`: what follows from each record, ready to plot.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::{Campaign, Ceiling, Doubt, Measured};
use crate::device::DeviceKind;
use crate::op::Purpose;
use crate::record::write_atomically;
use crate::roofline::{Roof, RoofKind};

/// A row of `points.csv`: what follows from a record, ready to plot.
#[derive(Clone, Debug, Serialize)]
struct Derived<'a> {
    point_id: &'a str,
    op: &'a str,
    kernel: &'a str,
    cache_state: &'a str,
    residency: String,
    status: &'a str,
    problem: String,
    flops: u64,
    bytes: u64,
    oi_model_flops_per_byte: Option<f64>,
    oi_counted_flops_per_byte: Option<f64>,
    oi_measured_flops_per_byte: Option<f64>,
    oi_measured_flops_source: &'a str,
    time_s: Option<f64>,
    flops_per_s: Option<f64>,
    bytes_per_s: Option<f64>,
    roof_memory_s: Option<f64>,
    roof_compute_s: Option<f64>,
    binding_roof: &'a str,
    fraction_of_roof: Option<f64>,
    fraction_of_roof_lo: Option<f64>,
    fraction_of_roof_hi: Option<f64>,
    derived_roof_s: Option<f64>,
    fraction_of_derived: Option<f64>,
    spec_roof_s: Option<f64>,
    fraction_of_spec: Option<f64>,
    judged: &'a str,
    implementation: &'a str,
    bytes_extra: Option<u64>,
    bytes_counted: Option<u64>,
    dram_bytes_read: Option<f64>,
    dram_bytes_written: Option<f64>,
    l2_hit_share: Option<f64>,
    byte_audit: &'a str,
    byte_audit_why: String,
    flops_per_clock_per_sm: Option<f64>,
    derived_flops_per_clock_per_sm: Option<f64>,
    device_kind: &'a str,
    node: &'a str,
}

/// Whether the point is judged by its binding roof: `yes`, or why not. Empty where it has no
/// roof of memory or arithmetic, or is one.
fn judged(campaign: &Campaign, point: &Measured) -> &'static str {
    let of_work = point.empirical.filter(|_| point.judged_facts().purpose == Purpose::Work);
    let (Some(roof), Some(ceilings)) = (of_work, &campaign.ceilings) else { return "" };
    let ceiling = match roof.binding() {
        RoofKind::Memory => Some(&ceilings.read),
        RoofKind::Compute => {
            point.problem.math_dtype().and_then(|dtype| ceilings.compute.get(&dtype))
        }
        RoofKind::Link => None,
    };
    let doubt = |ceiling: &Ceiling| ceiling.doubt_for(&point.kernel);
    ceiling.map_or("", |ceiling| doubt(ceiling).map_or("yes", Doubt::name))
}

/// Why a point has no counters, where they were asked.
fn without_counters(point: &Measured) -> &str {
    point.counters.as_ref().map_or("", |counters| &counters.reason)
}

/// Writes `points.csv`: one row for each point with rates, roofs and
/// fractions, the values that tables and figures show.
///
/// # Errors
/// A file that cannot be written.
pub fn write_derived(campaign: &Campaign, path: &Path) -> Result<()> {
    write_atomically(path, derived_csv(campaign)?.as_bytes())
}

/// The text of `points.csv`.
///
/// # Errors
/// None that a campaign can cause.
pub fn derived_csv(campaign: &Campaign) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for (node, campaign, point) in campaign.points_by_node() {
        let fraction = point.fraction();
        let (measured, counters) = (point.intensity_measured(), point.counters_row());
        let audit = campaign.byte_audit(point);
        let share = |roof: Option<Roof>| Some(roof?.fraction(point.time_s?.value));
        let per_clock = point.problem.math_dtype().zip(point.flops_per_s()).and_then(
            |(dtype, rate)| campaign.flops_per_clock(dtype, rate.value, point.sm_clock_hz),
        );
        writer.serialize(Derived {
            point_id: &point.point_id,
            op: point.problem.op().name(),
            kernel: &point.kernel,
            cache_state: point.cache.name(),
            residency: point.residency.map_or(String::new(), |r| r.to_string()),
            status: point.status_name(),
            problem: point.problem.to_string(),
            flops: point.work.flops(),
            bytes: point.work.bytes(),
            oi_model_flops_per_byte: (point.work.bytes() > 0)
                .then(|| point.work.operational_intensity()),
            oi_counted_flops_per_byte: point.intensity_counted(),
            oi_measured_flops_per_byte: measured.map(|(intensity, _)| intensity),
            oi_measured_flops_source: measured.map_or("", |(_, source)| source.name()),
            time_s: point.time_s.map(|t| t.value),
            flops_per_s: point.flops_per_s().map(|r| r.value),
            bytes_per_s: point.bytes_per_s().map(|r| r.value),
            roof_memory_s: point.empirical.map(|r| r.memory_s),
            roof_compute_s: point.empirical.map(|r| r.compute_s),
            binding_roof: point.empirical.map_or("", |r| RoofKind::name(r.binding())),
            fraction_of_roof: fraction.map(|f| f.value),
            fraction_of_roof_lo: fraction.map(|f| f.lo),
            fraction_of_roof_hi: fraction.map(|f| f.hi),
            derived_roof_s: point.derived.map(|r| r.time_s()),
            fraction_of_derived: share(point.derived),
            spec_roof_s: point.spec.map(|r| r.time_s()),
            fraction_of_spec: share(point.spec),
            judged: judged(campaign, point),
            implementation: &point.implementation,
            bytes_extra: point.bytes_extra,
            bytes_counted: point.counted.as_ref().and_then(|row| row.bytes_counted),
            dram_bytes_read: counters.and_then(|row| row.dram_bytes_read),
            dram_bytes_written: counters.and_then(|row| row.dram_bytes_written),
            l2_hit_share: counters.and_then(|row| row.l2_hit_share),
            byte_audit: audit.as_ref().map_or("", |audit| audit.finding.name()),
            byte_audit_why: audit
                .map_or_else(|| without_counters(point).to_owned(), |audit| audit.why),
            flops_per_clock_per_sm: per_clock.map(|of| of.measured),
            derived_flops_per_clock_per_sm: per_clock.and_then(|of| of.derived),
            device_kind: point.device_kind.map_or("", DeviceKind::name),
            node,
        })?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}
