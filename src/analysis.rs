//! What records say: rows joined with their problems and with the ceilings
//! that the same campaign measured. Verdicts, tables and figures read this and
//! nothing else, so all of them can be made again from the CSV files alone.
//! Texts of records are read here, once; what follows has types.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

mod agreement;
mod audit;
mod cache_rates;
mod ceilings;
pub mod contradictions;
mod fleet;
mod measured;
mod nodes;
mod peers;
mod point_counters;
mod points_csv;
mod probes;
mod rounds;
mod witnesses;

pub use agreement::Agreement;
pub use audit::{BYTES_AGREE, ByteAudit, ByteFinding};
use ceilings::DeviceFacts;
pub use ceilings::{
    Candidate, Ceiling, Ceilings, DISTURBED_SHARE, Doubt, LEAST_COMPUTE_SHARE,
    LEAST_MEMORY_SHARE,
};
pub use measured::Measured;
pub use peers::BesidePeer;
pub use point_counters::PointCounters;
pub use points_csv::{derived_csv, write_derived};
pub use probes::{ProbeKind, ProbeSeries};
use rounds::Bursts;
pub use rounds::{Repeatability, RoundUnit};
pub use witnesses::FlopsSource;

use crate::device::DeviceKind;
use crate::format::DType;
use crate::model::derived;
use crate::model::machine::{DataSheet, Machines};
use crate::provenance::Provenance;
use crate::quantity::share;
use crate::record::{Records, RoundRow, Row, Run, SampleTimes, Unreadable, Witnesses};
use crate::roofline::Peaks;
use crate::statistics::{RoundSpread, median};

/// The repeated sentinel point: how far the machine drifted.
#[derive(Clone, Debug, PartialEq)]
pub struct Sentinel {
    /// Id of the repeated point.
    pub point_id: String,
    /// Its medians in seconds, in the order measured.
    pub times_s: Vec<f64>,
}

impl Sentinel {
    /// How far the machine drifted: from the shortest to the longest of the medians, as a
    /// share of their middle.
    pub fn drift(&self) -> f64 {
        probes::range(&self.times_s)
    }

    /// The drift in words, the same wherever it is told.
    pub fn drift_text(&self) -> String {
        drift_text(self.drift())
    }
}

/// A drift in words: `14.4% from fastest to slowest`.
pub fn drift_text(drift: f64) -> String {
    format!("{} from fastest to slowest", share(drift))
}

/// One of the machines of a merged campaign.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name: that of the folder that was merged.
    pub name: String,
    /// Which part of the plan it measured, as `3/8`; empty for all of it.
    pub shard: String,
    /// What it measured, under its own ceilings.
    pub campaign: Campaign,
}

/// A campaign, read from its folder.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Its folder.
    pub folder: PathBuf,
    /// One entry for each process that worked on it, as `run.csv` spells it.
    pub runs: Vec<Run>,
    /// Provenance of the last of these processes.
    pub provenance: Provenance,
    /// The suite that its rows name.
    pub suite: Option<String>,
    /// The device's name, by its provenance or else by its rows.
    pub device: Option<String>,
    /// One entry for each planned point, repeats of the sentinel left out.
    pub points: Vec<Measured>,
    /// Kernels of the plan that `ridgepoint peers` measured again, in turn with its own.
    pub in_turn: Vec<Measured>,
    /// Values of its files that could not be read. Such a row of `results.csv`
    /// is not among the points.
    pub unreadable: Vec<Unreadable>,
    /// Rows in `results.csv`, repeats and unreadable ones counted in.
    pub row_count: usize,
    /// Rows of `results.csv` as they were read, repeats too, for checks of the records
    /// against each other.
    pub rows: Vec<Row>,
    /// Columns of `results.csv`; empty where the records came from no file.
    pub columns: Vec<String>,
    /// Times of all samples, where `samples.csv` is there.
    pub samples: Option<SampleTimes>,
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
    /// Rows of `rounds.csv`.
    pub rounds: Vec<RoundRow>,
    /// How much times vary from round to round, if points had several.
    pub repeatability: Option<Repeatability>,
    /// What was measured again and again beside the points.
    pub probes: Vec<ProbeSeries>,
    /// `counters.csv` and `counted.csv` as they were read; points have what is theirs.
    pub witnesses: Witnesses,
    /// The machines of a merged campaign, each with its own rows; none where there is one.
    /// What else stands here is then of the machine in the middle, but for points, each of
    /// which is here once, under the ceilings of a machine that measured it.
    pub nodes: Vec<Node>,
}

/// FLOPs of a multiprocessor in a clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlopsPerClock {
    /// As measured: the rate over the clock that was measured with it.
    pub measured: f64,
    /// What the architecture does in the format, where it is known.
    pub derived: Option<f64>,
}

/// `3421 of 4096`.
impl std::fmt::Display for FlopsPerClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0}", self.measured)?;
        self.derived.map_or(Ok(()), |derived| write!(f, " of {derived:.0}"))
    }
}

impl Campaign {
    /// The FLOPs of a clock and multiprocessor behind a rate in a format; `None` where the
    /// clock or the number of multiprocessors is not known.
    pub fn flops_per_clock(
        &self,
        dtype: DType,
        flops_per_s: f64,
        sm_clock_hz: Option<f64>,
    ) -> Option<FlopsPerClock> {
        let device = &self.provenance.device;
        let sms = device.sm_count.filter(|sms| *sms > 0)? as f64;
        let clock = sm_clock_hz.filter(|clock| *clock > 0.0)?;
        let peaks = derived::compute(device, 1.0);
        let derived = peaks.iter().find(|peak| peak.dtype == dtype);
        Some(FlopsPerClock {
            measured: flops_per_s / clock / sms,
            derived: derived.map(|peak| peak.flops_per_s / sms),
        })
    }

    /// The kernel of a point, its problem and its load; its id where no row has it.
    pub fn point_text(&self, point_id: &str) -> String {
        let point = self.points.iter().find(|point| point.point_id == point_id);
        point.map_or_else(
            || point_id.to_owned(),
            |point| {
                let load = point.load.map_or(String::new(), |load| format!(", {load}"));
                format!("{}: {}{load}", point.kernel, point.problem.label())
            },
        )
    }

    /// Reads a campaign folder. Its data sheet is chosen from `machines`
    /// by what the campaign's device reported. A row with a value that cannot be
    /// read costs only itself: see [`Campaign::unreadable`].
    ///
    /// # Errors
    /// A missing file, a `run.csv` that does not parse, a point with two
    /// rows of the same repeat.
    pub fn load(folder: &Path, machines: &Machines) -> Result<Self> {
        let campaign = Self::from_records(folder, Records::read(folder)?, None)
            .with_context(|| format!("in {}", folder.join("results.csv").display()))?;
        let campaign = campaign.with_samples(folder)?;
        Ok(match machines.spec(&campaign.provenance.device) {
            Ok(spec) => campaign.with_spec(spec),
            Err(mismatch) => {
                Campaign { spec_refused: Some(mismatch.to_string()), ..campaign }
            }
        })
    }

    pub(crate) fn from_records(
        folder: &Path,
        records: Records,
        spec: Option<DataSheet>,
    ) -> Result<Self> {
        match fleet::names(&records) {
            names if names.is_empty() => Self::of_one_machine(folder, records, spec),
            names => Self::of_machines(folder, records, names, spec),
        }
    }

    /// Reads the times of all samples, of each machine those of its processes.
    fn with_samples(mut self, folder: &Path) -> Result<Self> {
        let of_node = |(at, node): (usize, &Node)| -> Vec<(String, usize)> {
            let ids = node.campaign.runs.iter().filter_map(|run| run.get("run_id"));
            ids.map(|id| (id.to_owned(), at)).collect()
        };
        let groups = self.nodes.iter().enumerate().flat_map(of_node).collect();
        let count = self.nodes.len().max(1);
        let Some(mut samples) = SampleTimes::read_groups(folder, count, &groups)? else {
            return Ok(self);
        };
        if self.nodes.is_empty() {
            self.samples = samples.pop();
        }
        for (node, samples) in self.nodes.iter_mut().zip(samples) {
            node.campaign.samples = Some(samples);
        }
        Ok(self)
    }

    /// Reads the records of several machines, each under its own ceilings.
    fn of_machines(
        folder: &Path,
        records: Records,
        names: Vec<String>,
        spec: Option<DataSheet>,
    ) -> Result<Self> {
        let (parts, rest) = fleet::split(records, &names);
        let nodes = names.into_iter().zip(parts).map(|(name, records)| {
            let shard = records.runs.iter().find_map(|run| run.get("shard"));
            let shard = shard.unwrap_or_default().to_owned();
            // What a machine's remarks say to finish is the folder that was merged.
            let folder = PathBuf::from(&name);
            let campaign = Self::of_one_machine(&folder, records, spec.clone())?;
            Ok(Node { name, shard, campaign })
        });
        let nodes = nodes.collect::<Result<Vec<Node>>>()?;
        Ok(combined(folder, nodes, rest))
    }

    fn of_one_machine(
        folder: &Path,
        records: Records,
        spec: Option<DataSheet>,
    ) -> Result<Self> {
        let Records { runs, rows, rounds, mut unreadable, columns, witnesses } = records;
        refuse_doubled(&rows)?;
        let row_count = rows.len() + unreadable.len();
        // The header is the first line.
        let provenance = runs.last().map(|run| Provenance::of(run, runs.len() as u64 + 1));
        let (provenance, unread) = provenance.unwrap_or_default();
        unreadable.extend(unread);
        let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        let suite = rows.iter().find_map(|row| named(&row.suite));
        let device = named(&provenance.device.name)
            .or_else(|| rows.iter().find_map(|row| named(&row.device)));
        let mut read: Vec<(&Row, Measured)> = Vec::new();
        for row in &rows {
            match Measured::read(row) {
                Ok(measured) => read.push((row, measured)),
                Err(value) => unreadable.push(value),
            }
        }
        let sentinel = sentinel(&read);
        read.retain(|(row, _)| row.repeat == 0);
        let (planned, in_turn): (Vec<_>, Vec<_>) =
            read.into_iter().partition(|(row, _)| row.is_planned());
        let mut points: Vec<Measured> = planned.into_iter().map(|(_, m)| m).collect();
        let mut in_turn: Vec<Measured> = in_turn.into_iter().map(|(_, m)| m).collect();
        for point in &mut in_turn {
            point.round_medians_s = rounds::medians_s(&rounds, &point.point_id);
        }
        Campaign::forget_polled_clocks(&mut points, &rows, &runs);
        unreadable.extend(witnesses::join(&mut points, &witnesses));
        let bursts = Bursts::of(runs.last(), &rounds);
        let repeatability = rounds::apply(&mut points, &rounds, &bursts);
        let sentinel_s = sentinel.as_ref().map_or(&[][..], |s| &s.times_s);
        let probes = probes::series(&provenance, &rounds, sentinel_s);
        let derived = derived::peaks(&provenance.device);
        let facts = DeviceFacts::of(&provenance.device, derived.as_ref(), runs.last());
        let mut campaign = Campaign {
            folder: folder.to_owned(),
            ceilings: ceilings::ceilings(&points, &facts),
            derived,
            runs,
            provenance,
            suite,
            device,
            points,
            in_turn,
            unreadable,
            row_count,
            rows,
            columns,
            samples: None,
            spec: None,
            spec_refused: None,
            sentinel,
            rounds,
            repeatability,
            probes,
            witnesses,
            nodes: Vec::new(),
        };
        campaign.place_under_ceilings();
        Ok(campaign.with_spec(spec))
    }

    /// Works out each point's least times under measured and derived ceilings.
    fn place_under_ceilings(&mut self) {
        let empirical = self.ceilings.as_ref().map(|c| &c.peaks);
        for point in self.points.iter_mut().filter(|point| point.has_roofs()) {
            point.memory_s = empirical
                .map(|peaks| peaks.bandwidth.seconds(&point.work, point.footprint_bytes()));
            point.empirical = empirical.and_then(|peaks| point.roof(peaks));
            point.derived = self.derived.as_ref().and_then(|peaks| point.roof(peaks));
        }
    }

    /// The same under a data sheet.
    fn with_spec(mut self, spec: Option<DataSheet>) -> Self {
        let nodes = std::mem::take(&mut self.nodes).into_iter().map(|node| {
            let campaign = node.campaign.with_spec(spec.clone());
            Node { campaign, ..node }
        });
        self.nodes = nodes.collect();
        for point in self.points.iter_mut().filter(|point| point.has_roofs()) {
            point.spec = spec.as_ref().and_then(|sheet| point.roof(&sheet.peaks));
        }
        Campaign { spec, ..self }
    }

    /// The points of this program's kernels. Claims, fits and figures are about these;
    /// ceilings, and what stands beside peers, are of [all points](Campaign::points): what the
    /// machine can do is what anything did.
    pub fn own_points(&self) -> impl Iterator<Item = &Measured> + Clone {
        self.points.iter().filter(|point| point.is_own())
    }

    /// Seconds of an empty launch where nothing disturbs it: the low end of what was
    /// measured through the campaign, since what else runs only ever makes it longer. 0
    /// where nothing was measured.
    pub fn launch_overhead_s(&self) -> f64 {
        let of_launches = self.probes.iter().find(|probe| probe.kind == ProbeKind::Launch);
        of_launches.map_or(0.0, |probe| probe.low_s().value)
    }

    /// The byte audit of a point; `None` without counters.
    pub fn byte_audit(&self, point: &Measured) -> Option<ByteAudit> {
        let caches = self.provenance.caches.iter().map(|cache| cache.bytes);
        point.byte_audit(self.provenance.l2_bytes.or(caches.max()).unwrap_or(0))
    }

    /// The share of CPU time that others may have had while a point was measured.
    pub fn disturbed_share(&self) -> f64 {
        ceilings::disturbed_share(self.runs.last())
    }

    /// Whether others used the CPU that a point was to have for itself while it was
    /// measured.
    pub fn is_disturbed(&self, point: &Measured) -> bool {
        let derived = self.derived.as_ref();
        let facts = DeviceFacts::of(&self.provenance.device, derived, self.runs.last());
        facts.is_disturbed(point)
    }

    /// Whether any row was simulated rather than measured.
    pub fn is_simulated(&self) -> bool {
        self.points.iter().any(|p| p.device_kind != Some(DeviceKind::Measured))
    }
}

/// All machines' points, each once: what several measured is that of the machine in the
/// middle, whose ceilings and probes stand for the campaign's.
fn combined(folder: &Path, nodes: Vec<Node>, rest: Records) -> Campaign {
    let reference = &nodes[reference(&nodes)].campaign;
    let mut points = reference.points.clone();
    let mut known: HashMap<String, usize> =
        points.iter().enumerate().map(|(at, p)| (p.point_id.clone(), at)).collect();
    for point in nodes.iter().flat_map(|node| &node.campaign.points) {
        match known.get(&point.point_id) {
            Some(at) if points[*at].time_s.is_none() && point.time_s.is_some() => {
                points[*at] = point.clone();
            }
            Some(_) => {}
            None => {
                known.insert(point.point_id.clone(), points.len());
                points.push(point.clone());
            }
        }
    }
    let mut unreadable = rest.unreadable;
    let row_count = rest.rows.len() + unreadable.len();
    for row in &rest.rows {
        if !row.run_id.is_empty() {
            unreadable.push(fleet::of_no_process(row.line, &row.run_id));
        }
        match Measured::read(row) {
            Ok(point) if row.is_planned() && !known.contains_key(&point.point_id) => {
                points.push(point)
            }
            Ok(_) => {}
            Err(value) => unreadable.push(value),
        }
    }
    Campaign {
        folder: folder.to_owned(),
        points,
        in_turn: nodes.iter().flat_map(|node| node.campaign.in_turn.clone()).collect(),
        unreadable,
        row_count: row_count + nodes.iter().map(|n| n.campaign.row_count).sum::<usize>(),
        rows: rest.rows,
        columns: Vec::new(),
        samples: None,
        rounds: Vec::new(),
        repeatability: together(&nodes),
        witnesses: Witnesses::default(),
        runs: nodes.iter().flat_map(|node| node.campaign.runs.clone()).collect(),
        provenance: reference.provenance.clone(),
        suite: reference.suite.clone(),
        device: reference.device.clone(),
        ceilings: reference.ceilings.clone(),
        derived: reference.derived.clone(),
        spec: reference.spec.clone(),
        spec_refused: None,
        sentinel: reference.sentinel.clone(),
        probes: reference.probes.clone(),
        nodes,
    }
}

/// The machine whose DRAM reads are in the middle; the first where none has any.
fn reference(nodes: &[Node]) -> usize {
    let rate = |node: &Node| Some(node.campaign.ceilings.as_ref()?.read.rate.value);
    let mut rates: Vec<(f64, usize)> =
        nodes.iter().enumerate().filter_map(|(at, node)| Some((rate(node)?, at))).collect();
    rates.sort_by(|a, b| a.0.total_cmp(&b.0));
    rates.get(rates.len() / 2).map_or(0, |(_, at)| *at)
}

/// How much times of all machines vary from round to round.
fn together(nodes: &[Node]) -> Option<Repeatability> {
    let all: Vec<&Repeatability> =
        nodes.iter().filter_map(|node| node.campaign.repeatability.as_ref()).collect();
    let first = all.first()?;
    let variances: Vec<f64> = all.iter().map(|of| of.typical.variance).collect();
    let sorted = |of: fn(&Repeatability) -> &Vec<f64>| {
        let mut values: Vec<f64> = all.iter().flat_map(|r| of(r)).copied().collect();
        values.sort_by(f64::total_cmp);
        values
    };
    Some(Repeatability {
        typical: RoundSpread {
            variance: median(&variances),
            points: all.iter().map(|of| of.typical.points).sum(),
        },
        unit: first.unit,
        ranges: sorted(|of| &of.ranges),
        resolutions: sorted(|of| &of.resolutions),
    })
}

fn refuse_doubled(rows: &[Row]) -> Result<()> {
    let mut keys = HashSet::new();
    if let Some(row) = rows.iter().find(|row| !keys.insert(row.key())) {
        bail!(
            "point {} repeat {} has two rows; remove one of them",
            row.point_id,
            row.repeat
        );
    }
    Ok(())
}

fn sentinel(read: &[(&Row, Measured)]) -> Option<Sentinel> {
    let point_id = &read.iter().find(|(row, _)| row.repeat > 0)?.1.point_id;
    let mut repeats: Vec<_> =
        read.iter().filter(|(_, m)| &m.point_id == point_id).collect();
    repeats.sort_by_key(|(row, _)| row.order_index);
    let times_s: Vec<f64> =
        repeats.iter().filter_map(|(_, m)| Some(m.time_s?.value)).collect();
    (times_s.len() > 1).then(|| Sentinel { point_id: point_id.clone(), times_s })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::DType;
    use crate::roofline::Roof;

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
            kernel: "gemm".into(),
            cache_state: "cold".into(),
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

    #[test]
    fn a_value_that_cannot_be_read_costs_its_row_alone() {
        let good = Row {
            point_id: "good".into(),
            kernel: "gemm".into(),
            cache_state: "cold".into(),
            residency: "L3+dram".into(),
            status: Some(crate::record::Status::Skipped),
            problem: "gemm:m=1,n=1,k=1,dtype=bf16".into(),
            ..Row::default()
        };
        type Break = fn(&mut Row);
        let cases: [(Break, &str); 8] = [
            (|r| r.residency = "dran".into(), "column residency: `dran`: known are L1"),
            (|r| r.cache_state = "warm".into(), "column cache_state: `warm`"),
            (|r| r.kernel = String::new(), "column kernel: ``"),
            (|r| r.status = None, "column status: ``: a row has one of ok, noisy"),
            (|r| r.status = Some(crate::record::Status::Ok), "column time_s_median: ``"),
            (|r| r.device_kind = "simulatd".into(), "known are measured and simulated"),
            (|r| r.check = "passed".into(), "known are none, pass and fail"),
            (|r| r.problem = "gem:m=1".into(), "column problem: `gem:m=1`"),
        ];
        for (break_it, expected) in cases {
            let mut bad = Row { point_id: "bad".into(), line: 3, ..good.clone() };
            break_it(&mut bad);
            let records = Records { rows: vec![good.clone(), bad], ..Records::default() };
            let campaign = Campaign::from_records(Path::new("x"), records, None).unwrap();
            assert_eq!((campaign.points.len(), campaign.row_count), (1, 2));
            let told = campaign.unreadable[0].to_string();
            assert!(told.starts_with("results.csv line 3, "), "{told}");
            assert!(told.contains(expected), "{told}");
            let faults = crate::verdict::judge(&campaign).faults;
            assert!(faults.iter().any(|fault| fault.contains(expected)), "{faults:?}");
        }
    }
}
