//! The campaign that peers are measured beside: which of its points, on which device.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::script::Hello;
use super::table::{self, peers_of};
use crate::campaign::earlier::Earlier;
use crate::campaign::rows::{RowAuthor, process_columns};
use crate::device::DeviceInfo;
use crate::device::cuda::CUBLASLT;
use crate::op::{Problem, Purpose};
use crate::point::{CacheState, KernelName, Load, Point};
use crate::provenance::Provenance;
use crate::record::{CLOCKS_IN_SAMPLES, Records, Row, Run, Status};
use crate::residency::Residency;
use crate::suite::{Filter, Suite};

/// The campaign whose points are measured.
pub(super) struct Target {
    pub earlier: Earlier,
    pub suite: Suite,
    pub seed: u64,
    /// The process that began it.
    pub run: Run,
    records: Records,
    /// The device, by what that process says of it.
    pub info: DeviceInfo,
    /// Ids of points with a row.
    done: HashSet<String>,
}

/// Whether an own point is asked for.
fn meets(
    filter: Option<&Filter>,
    row: &Row,
    problem: Problem,
    cache: CacheState,
) -> Result<bool> {
    let Some(filter) = filter else { return Ok(true) };
    let kernel: KernelName = row.kernel.parse().map_err(anyhow::Error::msg)?;
    Ok(filter.matches(&Point { problem, kernel, cache, launch: None, load: None }))
}

/// What times the launches of peers.
const TIMER: &str = "CUDA events between replays of a graph";

impl Target {
    pub fn read(folder: &Path) -> Result<Self> {
        let earlier = Earlier::read(folder)?;
        let (suite, seed) = earlier.continue_with(None, None)?;
        let records = Records::read(folder)?;
        let run = records.runs.first().cloned();
        let run = run.with_context(|| format!("{} has no run", folder.display()))?;
        let info = device_info(&run)?;
        let done = records.rows.iter().map(|row| row.point_id.clone()).collect();
        Ok(Target { earlier, suite, seed, run, records, info, done })
    }

    pub fn author<'a>(&'a self, info: &'a DeviceInfo, run_id: &'a str) -> RowAuthor<'a> {
        RowAuthor { info, suite: &self.suite, seed: self.seed, run_id }
    }

    pub fn is_simulated(&self) -> bool {
        self.info.backend == "simulated"
    }

    fn is_own_run(&self, run_id: &str) -> bool {
        let mut runs = self.records.runs.iter();
        let run = runs.find(|run| run.get("run_id") == Some(run_id));
        run.is_none_or(|run| run.get("planned_peer_rows").is_none_or(str::is_empty))
    }

    pub fn rows_of_peers(&self) -> usize {
        self.records.rows.iter().filter(|row| !self.is_own_run(&row.run_id)).count()
    }

    /// Whether a point has no row yet.
    pub fn is_wanted(&self, point: &Point) -> bool {
        !self.done.contains(&point.id())
    }

    /// Rows of the plan that have a time, of the vendor's kernels too.
    fn timed(&self) -> impl Iterator<Item = (&Row, Problem, CacheState)> {
        let rows = self.records.rows.iter();
        let has_time = |row: &&Row| row.status.is_some_and(Status::has_time);
        let timed = rows.filter(|row| row.is_planned() && self.is_own_run(&row.run_id));
        timed.filter(has_time).filter_map(|row| {
            Some((row, row.problem.parse().ok()?, row.cache_state.parse().ok()?))
        })
    }

    /// The problems that own kernels have a time of, in the order of the records: of each its
    /// peers, and with `takes_turns` the kernels that take turns with them.
    pub fn planned(
        &self,
        only: &[String],
        filter: Option<&Filter>,
        takes_turns: bool,
    ) -> Result<Vec<Vec<Point>>> {
        let is_named = |name: &str| only.is_empty() || only.iter().any(|o| o == name);
        self.refuse_unknown(only)?;
        let mut planned = Vec::new();
        let mut seen = HashSet::new();
        let mut has_any = false;
        for (row, problem, cache) in self.timed().filter(|(row, ..)| row.is_own()) {
            if !meets(filter, row, problem, cache)? {
                continue;
            }
            has_any = true;
            if !seen.insert((problem, cache)) || !self.is_of_interest(row, &problem) {
                continue;
            }
            let mut points = Vec::new();
            for name in peers_of(&problem, &self.info.backend) {
                if is_named(name) {
                    let kernel = name.parse().map_err(anyhow::Error::msg)?;
                    points.push(Point { problem, kernel, cache, launch: None, load: None });
                }
            }
            if takes_turns {
                let (own, vendor) = self.beside((problem, cache), is_named);
                points.extend(vendor);
                if points.iter().any(|point| self.is_wanted(point)) {
                    points.extend(own);
                }
            }
            planned.push(points);
        }
        if let (Some(filter), false) = (filter, has_any) {
            bail!("no point of the campaign that has a time meets `{filter}`");
        }
        Ok(planned)
    }

    /// What takes turns with the peers of a problem: the fastest own kernel, and the fastest
    /// of the vendor that was asked for.
    fn beside(
        &self,
        of: (Problem, CacheState),
        is_named: impl Fn(&str) -> bool,
    ) -> (Option<Point>, Option<Point>) {
        let fastest = |is_own: bool| {
            let candidates = self.timed().filter(|(row, problem, cache)| {
                (*problem, *cache) == of
                    && row.is_own() == is_own
                    && (is_own || is_named(&row.kernel))
            });
            let timed = candidates.filter_map(|(row, problem, cache)| {
                let kernel = row.kernel.parse().ok()?;
                let point = Point { problem, kernel, cache, launch: None, load: None };
                // Others were asked for with a launch mode or a load of their own.
                (point.id() == row.point_id).then_some((row.time_s_median?, point))
            });
            let (_, point) = timed.min_by(|(a, _), (b, _)| a.total_cmp(b))?;
            Some(Point { load: Some(Load::InTurn), ..point })
        };
        (fastest(true), fastest(false))
    }

    /// Refuses names of no peer and no vendor's kernel.
    fn refuse_unknown(&self, only: &[String]) -> Result<()> {
        let backend = &self.info.backend;
        let mut known = table::names(backend).to_vec();
        known.extend(backend.starts_with("cuda").then_some(CUBLASLT));
        match only.iter().find(|name| !known.contains(&name.as_str())) {
            Some(unknown) => {
                bail!("`{unknown}` is no peer on {backend}; those are {}", known.join(", "))
            }
            None => Ok(()),
        }
    }

    /// Streams out of a cache show how launches are made, not libraries.
    fn is_of_interest(&self, row: &Row, problem: &Problem) -> bool {
        problem.op().facts().judged.purpose == Purpose::Work
            || row.residency == Residency::Dram.to_string()
    }

    /// Refuses a script that would measure on another machine, or not at all.
    pub fn agrees_with(&self, hello: &Hello, python: &str) -> Result<()> {
        if let Some(error) = &hello.error {
            bail!("{python} cannot measure peers: {error}; name another with --python");
        }
        if !self.info.backend.starts_with("cuda") {
            return Ok(());
        }
        let Some(device) = &hello.device else {
            bail!(
                "torch {} of {python} sees no GPU, and the campaign was measured on {}",
                hello.torch.as_deref().unwrap_or("unknown"),
                self.info.name
            );
        };
        if *device != self.info.name {
            bail!(
                "torch sees {device}, and the campaign was measured on {}",
                self.info.name
            );
        }
        let known = self.run.get("gpu_uuid_hash").filter(|hash| !hash.is_empty());
        match (known, hello.uuid_hash()) {
            (Some(known), Some(seen)) if known != seen => bail!(
                "torch sees another {device} than the one that the campaign was measured on; \
                 choose it with CUDA_VISIBLE_DEVICES"
            ),
            _ => Ok(()),
        }
    }

    /// This process's row of `run.csv`: the device is the one of the campaign.
    pub fn run_row(&self, command_line: &str, hello: &Hello, planned: usize) -> Run {
        let own = process_columns(command_line);
        let mut run = Run::default();
        for (name, value) in self.run.fields() {
            match name.as_str() {
                "timer" => run.set(name, &self.info.timer),
                "peers" => run.set(name, hello.versions()),
                "planned_peer_rows" => run.set(name, planned),
                // Before, they were polled beside samples.
                "peer_clocks" => run.set(name, CLOCKS_IN_SAMPLES),
                _ => run.set(name, own.get(name).unwrap_or(value)),
            }
        }
        run
    }
}

/// The device as the campaign's first process describes it.
fn device_info(run: &Run) -> Result<DeviceInfo> {
    let backend = run.get("backend").unwrap_or_default().to_owned();
    let is_known = ["cuda", "cpu", "simulated"]
        .iter()
        .any(|kind| backend.split(':').next() == Some(kind));
    if !is_known {
        bail!("peers are measured on a GPU or a CPU, and the campaign is of `{backend}`");
    }
    let provenance = Provenance::of(run, 2).0;
    let number = |column: &str| run.get(column)?.parse::<f64>().ok();
    let timer = match backend.as_str() {
        "cpu" => "time.perf_counter",
        "simulated" => "made up",
        _ => TIMER,
    };
    Ok(DeviceInfo {
        kind: provenance.device_kind.context("run.csv does not say device_kind")?,
        name: provenance.device.name,
        slug: String::new(),
        caches: provenance.caches,
        units: 0,
        memory_bytes: number("memory_bytes").unwrap_or(0.0) as u64,
        timer: timer.to_owned(),
        timer_quantum_s: number("timer_quantum_s").unwrap_or(0.0),
        launch_overhead_s: number("launch_overhead_s").unwrap_or(0.0),
        facts: Vec::new(),
        backend,
    })
}
