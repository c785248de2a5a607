//! What records say: rows joined with their problems and with the ceilings
//! that the same campaign measured. Verdicts, tables and figures read this and
//! nothing else, so all of them can be made again from the CSV files alone.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::format::{DType, Work};
use crate::model::derived;
use crate::model::identity::Identity;
use crate::model::machine::{DataSheet, Machines};
use crate::op::{Access, Op, Problem, Stream};
use crate::record::{Records, Row, Run, write_atomically};
use crate::roofline::{Bandwidth, ComputePeak, Curve, CurvePoint, Peaks, Resource, Roof};
use crate::statistics::Estimate;

/// A row with its problem and, where it carries a time, its place under the
/// ceilings.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The record.
    pub row: Row,
    /// The problem that it spells.
    pub problem: Problem,
    /// The problem's FLOPs and compulsory bytes.
    pub work: Work,
    /// Seconds of one launch; `None` unless the row carries a usable time.
    pub time_s: Option<Estimate>,
    /// Seconds to move the bytes at the measured bandwidth.
    pub memory_s: Option<f64>,
    /// Least time under the measured ceilings; `None` too where the format has
    /// no measured compute ceiling.
    pub empirical: Option<Roof>,
    /// Least time under the ceilings derived from the device's clocks.
    pub derived: Option<Roof>,
    /// Least time under the data sheet's ceilings.
    pub spec: Option<Roof>,
}

impl Measured {
    /// Measured FLOPs per second.
    pub fn flops_per_s(&self) -> Option<Estimate> {
        let flops = self.work.flops();
        self.time_s.filter(|_| flops > 0).map(|t| t.into_rate(flops as f64))
    }

    /// Compulsory bytes per measured second.
    pub fn bytes_per_s(&self) -> Option<Estimate> {
        let bytes = self.work.bytes();
        self.time_s.filter(|_| bytes > 0).map(|t| t.into_rate(bytes as f64))
    }

    /// Share of the binding measured roof that was reached.
    pub fn fraction(&self) -> Option<Estimate> {
        Some(self.time_s?.into_rate(self.empirical?.time_s()))
    }

    /// Share of the memory roof, whether it binds or not.
    pub fn memory_fraction(&self) -> Option<Estimate> {
        Some(self.time_s?.into_rate(self.memory_s?))
    }

    /// Share of the compute roof, whether it binds or not.
    pub fn compute_fraction(&self) -> Option<Estimate> {
        Some(self.time_s?.into_rate(self.empirical?.compute_s))
    }

    /// FLOPs over the bytes that the measured bandwidth could have moved in
    /// the measured time. It equals the model's operational intensity when the
    /// kernel reads exactly its compulsory bytes at full bandwidth; extra
    /// traffic, idle memory and compute-bound time all lower it.
    pub fn effective_intensity(&self) -> Option<Estimate> {
        let share = self.memory_fraction()?;
        Some(share.scaled(self.work.operational_intensity()))
    }
}

/// A measured ceiling and the row that it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Ceiling {
    /// Rate with its interval: bytes/s or FLOPs/s.
    pub rate: Estimate,
    /// Id of the point that reached it.
    pub point_id: String,
    /// Its kernel.
    pub kernel: String,
}

/// What this campaign measured as the machine's limits. There are none unless
/// it measured a read stream from DRAM: what a cache gives is no limit of the
/// machine.
#[derive(Clone, Debug)]
pub struct Ceilings {
    /// The same as pure numbers.
    pub peaks: Peaks,
    /// DRAM read bandwidth: the read stream with the largest working set.
    pub read: Ceiling,
    /// Best rate of any gemm, prefill or peak row, by format.
    pub compute: BTreeMap<DType, Ceiling>,
}

impl Ceilings {
    /// FLOPs per byte at which compute and DRAM reads take the same time.
    pub fn ridge(&self, dtype: DType) -> Option<Estimate> {
        Some(self.compute.get(&dtype)?.rate.over(self.read.rate))
    }
}

/// The repeated sentinel point: how far the machine drifted.
#[derive(Clone, Debug, PartialEq)]
pub struct Sentinel {
    /// Id of the repeated point.
    pub point_id: String,
    /// Its medians in seconds, in the order measured.
    pub times_s: Vec<f64>,
}

impl Sentinel {
    /// Half the range of the medians as a share of their middle.
    pub fn drift(&self) -> f64 {
        let max = self.times_s.iter().copied().fold(f64::MIN, f64::max);
        let min = self.times_s.iter().copied().fold(f64::MAX, f64::min);
        if self.times_s.is_empty() { 0.0 } else { (max - min) / (max + min) }
    }
}

/// A campaign read back from its folder.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Where it lies.
    pub folder: PathBuf,
    /// One entry for each process that worked on it.
    pub runs: Vec<Run>,
    /// One entry for each planned point, repeats of the sentinel left out.
    pub points: Vec<Measured>,
    /// Rows in `results.csv`, repeats counted in.
    pub row_count: usize,
    /// Ceilings, if the campaign measured a read stream from DRAM.
    pub ceilings: Option<Ceilings>,
    /// Ceilings that follow from what the device reports: its clocks, its
    /// memory bus, its multiprocessors.
    pub derived: Option<Peaks>,
    /// The data sheet, if the machine is known.
    pub spec: Option<DataSheet>,
    /// Why there is none although the machine's name is known.
    pub spec_refused: Option<String>,
    /// The sentinel, if it was measured at least twice.
    pub sentinel: Option<Sentinel>,
}

impl Campaign {
    /// Reads a campaign folder. Its data sheet comes from `machines`, by what
    /// the campaign's device said of itself.
    ///
    /// # Errors
    /// A missing or unreadable file, a column or problem that does not parse.
    pub fn load(folder: &Path, machines: &Machines) -> Result<Self> {
        let records = Records::read(folder)?;
        let (spec, spec_refused) = match machines.spec(&identity(&records.runs)) {
            Ok(spec) => (spec, None),
            Err(mismatch) => (None, Some(mismatch.to_string())),
        };
        let campaign = Self::from_records(folder, records, spec)
            .with_context(|| format!("in {}", folder.join("results.csv").display()))?;
        Ok(Campaign { spec_refused, ..campaign })
    }

    pub(crate) fn from_records(
        folder: &Path,
        records: Records,
        spec: Option<DataSheet>,
    ) -> Result<Self> {
        let mut keys = HashSet::new();
        if let Some(row) = records.rows.iter().find(|row| !keys.insert(row.key())) {
            bail!("point {} repeat {} is there twice", row.point_id, row.repeat);
        }
        let sentinel = sentinel(&records.rows);
        let row_count = records.rows.len();
        let mut points = Vec::new();
        for row in records.rows.into_iter().filter(|row| row.repeat == 0) {
            points.push(join(row)?);
        }
        let ceilings = ceilings(&points);
        let derived = derived::peaks(&identity(&records.runs));
        let empirical = ceilings.as_ref().map(|c| &c.peaks);
        for point in &mut points {
            let footprint = point.row.reuse_distance_bytes.unwrap_or(u64::MAX);
            let dtype = point.problem.math_dtype();
            let roof = |peaks: &Peaks| peaks.roof(&point.work, dtype, footprint);
            point.memory_s =
                empirical.map(|peaks| peaks.bandwidth.seconds(&point.work, footprint));
            point.empirical = empirical.and_then(roof);
            point.derived = derived.as_ref().and_then(roof);
            point.spec = spec.as_ref().and_then(|sheet| roof(&sheet.peaks));
        }
        Ok(Campaign {
            folder: folder.to_owned(),
            runs: records.runs,
            points,
            row_count,
            ceilings,
            derived,
            spec,
            spec_refused: None,
            sentinel,
        })
    }

    /// The last process's value of a provenance column.
    pub fn provenance(&self, name: &str) -> Option<&str> {
        self.runs.last()?.get(name).filter(|value| !value.is_empty())
    }

    /// What the campaign's device said of itself.
    pub fn identity(&self) -> Identity {
        identity(&self.runs)
    }

    /// Whether any row was made up rather than measured.
    pub fn is_simulated(&self) -> bool {
        self.points.iter().any(|p| p.row.device_kind != "measured")
    }
}

fn identity(runs: &[Run]) -> Identity {
    let column = |name: &str| runs.last()?.get(name);
    Identity::read(column("device").unwrap_or_default(), column)
}

fn join(row: Row) -> Result<Measured> {
    let problem: Problem = row
        .problem
        .parse()
        .with_context(|| format!("point {}: problem `{}`", row.point_id, row.problem))?;
    let time_s = time_of(&row)?;
    Ok(Measured {
        work: problem.work(),
        row,
        problem,
        time_s,
        memory_s: None,
        empirical: None,
        derived: None,
        spec: None,
    })
}

/// The time of a row, if it has one that may be used. Files can be edited, and
/// a time that is no time would turn every share into nonsense.
fn time_of(row: &Row) -> Result<Option<Estimate>> {
    let Some(status) = row.status else { bail!("point {} has no status", row.point_id) };
    if !status.has_time() {
        return Ok(None);
    }
    match (row.time_s_median, row.time_s_ci_lo, row.time_s_ci_hi) {
        (Some(value), Some(lo), Some(hi))
            if 0.0 < lo && lo <= value && value <= hi && hi.is_finite() =>
        {
            Ok(Some(Estimate { value, lo, hi }))
        }
        (value, lo, hi) => bail!(
            "point {} is {} with a median time of {value:?} s in {lo:?} to {hi:?} s; these \
             must be positive and in order",
            row.point_id,
            status.name()
        ),
    }
}

fn sentinel(rows: &[Row]) -> Option<Sentinel> {
    let point_id = &rows.iter().find(|row| row.repeat > 0)?.point_id;
    let mut repeats: Vec<&Row> = rows.iter().filter(|r| &r.point_id == point_id).collect();
    repeats.sort_by_key(|row| row.order_index);
    let times = repeats.iter().filter_map(|row| time_of(row).ok().flatten());
    let times_s: Vec<f64> = times.map(|time| time.value).collect();
    (times_s.len() > 1).then(|| Sentinel { point_id: point_id.clone(), times_s })
}

fn ceilings(points: &[Measured]) -> Option<Ceilings> {
    let is_read = |p: &Measured| {
        matches!(p.problem, Problem::Stream(Stream { access: Access::Read, .. }))
    };
    if !points.iter().any(|p| is_read(p) && p.time_s.is_some() && p.row.residency == "dram")
    {
        return None;
    }
    let (read, read_rows) = stream_curve(points, Access::Read)?;
    let plateau = read.plateau().footprint_bytes;
    let read_ceiling = read_rows.into_iter().rfind(|(bytes, _)| *bytes == plateau)?.1;
    let compute = compute_ceilings(points);
    let peaks = Peaks {
        bandwidth: Bandwidth {
            read,
            write: stream_curve(points, Access::Write).map(|(curve, _)| curve),
            copy: stream_curve(points, Access::Copy).map(|(curve, _)| curve),
        },
        compute: compute
            .iter()
            .map(|(&dtype, c)| ComputePeak { dtype, flops_per_s: c.rate.value })
            .collect(),
    };
    Some(Ceilings { peaks, read: read_ceiling, compute })
}

/// The best rate of a stream at each working set, with the rows behind it.
fn stream_curve(
    points: &[Measured],
    access: Access,
) -> Option<(Curve, Vec<(u64, Ceiling)>)> {
    let mut best: BTreeMap<u64, Ceiling> = BTreeMap::new();
    for point in points {
        let Problem::Stream(stream) = point.problem else { continue };
        if stream.access != access {
            continue;
        }
        let (Some(rate), Some(footprint)) =
            (point.bytes_per_s(), point.row.reuse_distance_bytes)
        else {
            continue;
        };
        keep_best(best.entry(footprint), point, rate);
    }
    let curve = Curve::new(
        best.iter()
            .map(|(&footprint_bytes, ceiling)| CurvePoint {
                footprint_bytes,
                bytes_per_s: ceiling.rate.value,
            })
            .collect(),
    )?;
    Some((curve, best.into_iter().collect()))
}

fn compute_ceilings(points: &[Measured]) -> BTreeMap<DType, Ceiling> {
    let mut best = BTreeMap::new();
    for point in points {
        let counts = matches!(
            point.problem.op(),
            Op::Peak | Op::Gemm | Op::MoeGemm | Op::PrefillAttention | Op::MlaDecode
        );
        if let (true, Some(dtype), Some(rate)) =
            (counts, point.problem.math_dtype(), point.flops_per_s())
        {
            keep_best(best.entry(dtype), point, rate);
        }
    }
    best
}

fn keep_best<K: Ord>(
    entry: std::collections::btree_map::Entry<'_, K, Ceiling>,
    point: &Measured,
    rate: Estimate,
) {
    let ceiling = || Ceiling {
        rate,
        point_id: point.row.point_id.clone(),
        kernel: point.row.kernel.clone(),
    };
    entry
        .and_modify(|best| {
            if rate.value > best.rate.value {
                *best = ceiling();
            }
        })
        .or_insert_with(ceiling);
}

/// A row of `points.csv`: what follows from a record, ready to plot.
#[derive(Clone, Debug, Serialize)]
struct Derived<'a> {
    point_id: &'a str,
    op: &'a str,
    kernel: &'a str,
    cache_state: &'a str,
    residency: &'a str,
    status: &'a str,
    problem: &'a str,
    flops: u64,
    bytes: u64,
    oi_model_flops_per_byte: Option<f64>,
    oi_effective_flops_per_byte: Option<f64>,
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
}

/// Writes `points.csv`: one row for each point with rates, roofs and
/// fractions, the numbers behind tables and figures.
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
    for point in &campaign.points {
        let fraction = point.fraction();
        let share = |roof: Option<Roof>| Some(roof?.fraction(point.time_s?.value));
        writer.serialize(Derived {
            point_id: &point.row.point_id,
            op: &point.row.op,
            kernel: &point.row.kernel,
            cache_state: &point.row.cache_state,
            residency: &point.row.residency,
            status: point.row.status.map_or("", |s| s.name()),
            problem: &point.row.problem,
            flops: point.work.flops(),
            bytes: point.work.bytes(),
            oi_model_flops_per_byte: (point.work.bytes() > 0)
                .then(|| point.work.operational_intensity()),
            oi_effective_flops_per_byte: point.effective_intensity().map(|e| e.value),
            time_s: point.time_s.map(|t| t.value),
            flops_per_s: point.flops_per_s().map(|r| r.value),
            bytes_per_s: point.bytes_per_s().map(|r| r.value),
            roof_memory_s: point.empirical.map(|r| r.memory_s),
            roof_compute_s: point.empirical.map(|r| r.compute_s),
            binding_roof: point.empirical.map_or("", |r| Resource::name(r.binding())),
            fraction_of_roof: fraction.map(|f| f.value),
            fraction_of_roof_lo: fraction.map(|f| f.lo),
            fraction_of_roof_hi: fraction.map(|f| f.hi),
            derived_roof_s: point.derived.map(|r| r.time_s()),
            fraction_of_derived: share(point.derived),
            spec_roof_s: point.spec.map(|r| r.time_s()),
            fraction_of_spec: share(point.spec),
        })?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A campaign of one gemm on a device that reports these facts, read back
    /// from disk.
    fn loaded(facts: &[(&str, &str)]) -> Campaign {
        let folder = tempfile::tempdir().unwrap();
        let (names, values): (Vec<&str>, Vec<&str>) = facts.iter().copied().unzip();
        let run = format!("{}\n{}\n", names.join(","), values.join(","));
        std::fs::write(folder.path().join("run.csv"), run).unwrap();
        let mut results =
            csv::Writer::from_path(folder.path().join("results.csv")).unwrap();
        let row = Row {
            status: Some(crate::record::Status::Ok),
            problem: "gemm:m=8192,n=8192,k=8192,dtype=bf16".into(),
            time_s_median: Some(2e-3),
            time_s_ci_lo: Some(2e-3),
            time_s_ci_hi: Some(2e-3),
            ..Row::default()
        };
        results.serialize(row).unwrap();
        results.flush().unwrap();
        Campaign::load(folder.path(), &Machines::load(None).unwrap()).unwrap()
    }

    const H100: [(&str, &str); 6] = [
        ("device", "NVIDIA H100 80GB HBM3"),
        ("compute_capability", "9.0"),
        ("sm_count", "132"),
        ("sm_clock_max_hz", "1980000000"),
        ("memory_clock_max_hz", "2619000000"),
        ("memory_bus_bits", "5120"),
    ];

    #[test]
    fn a_devices_facts_give_it_both_roofs() {
        let campaign = loaded(&H100);
        assert_eq!(campaign.spec.as_ref().unwrap().machine, "h100-sxm");
        assert_eq!(campaign.spec_refused, None);
        let point = &campaign.points[0];
        let share = |roof: Option<Roof>| (1000.0 * roof.unwrap().fraction(2e-3)).round();
        assert_eq!(share(point.derived), 514.0, "549.8 of 1070.5 TFLOP/s");
        assert_eq!(share(point.spec), 556.0, "549.8 of 989 TFLOP/s");
        let text = derived_csv(&campaign).unwrap();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let header = reader.headers().unwrap().clone();
        let record = reader.records().next().unwrap().unwrap();
        for (column, start) in
            [("fraction_of_derived", "0.51"), ("fraction_of_spec", "0.55")]
        {
            let index = header.iter().position(|name| name == column).unwrap();
            assert!(record[index].starts_with(start), "{column} {}", &record[index]);
        }
    }

    #[test]
    fn another_product_of_that_name_keeps_only_what_its_clocks_say() {
        let mut facts = H100;
        facts[5].1 = "6144";
        let campaign = loaded(&facts);
        assert_eq!(campaign.spec, None);
        assert!(campaign.spec_refused.unwrap().contains("5120 bits of memory bus"));
        assert!(campaign.derived.unwrap().ridge(DType::Bf16).is_some());
        let cpu = loaded(&[("device", "Some CPU")]);
        assert_eq!((cpu.spec, cpu.spec_refused, cpu.derived), (None, None, None));
    }
}
