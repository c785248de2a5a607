//! Suites: which points to measure, as TOML with prose. Each `[[points]]`
//! table names an operation and gives one value or a list of values for each
//! of its keys; the points are all combinations.
//!
//! ```toml
//! [[points]]
//! about = "Decode at group sizes 1 and 4."
//! op = "decode_attention"
//! batch = [1, 8]
//! context = 8192
//! q_heads = [8, 32]
//! kv_heads = 8
//! head_dim = 128
//! dtype = "bf16"
//! ```
//!
//! `bytes` of a stream may be given in units of the device's last-level cache,
//! `"4 llc"`, or for each of its cores or multiprocessors, `"32 KiB units"`, `lanes` of a peak
//! too, `"64 units"`, and `cache` is `"cold"`, unless given. `launch` says how rows of launches
//! are queued, `"graph"`, `"stream"` or `"programmatic"`; unless given, as the device does
//! best. `load` says what the device did before, `"burst"` for nothing and `"sustained"` for
//! the same over 2 s; unless given, it warms up as the protocol says.
//!
//! `parts = true` measures beside a problem that is made of others, a whole step of decoding,
//! each of these by itself.
//!
//! `filter = "op=decode_attention,batch>=8"` keeps the points that meet all conditions: see
//! [`Filter`]. What a command line filters by is written into the suite's text, so that a
//! campaign which is resumed has the same points.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use toml::de::DeTable;

mod filter;
mod shard;
mod source;

use filter::FilterLine;
pub use filter::{Filter, is_like};
pub use shard::Shard;
pub use source::SuiteError;
use source::{PointsTable, SuiteSource};

use crate::device::Device;
use crate::measure::Settings;
use crate::op::{Problem, parse_bytes, unknown_key};
use crate::point::{CacheState, KernelName, Load, Point};

/// Suites that are part of the program: name and text.
const BUILT_IN: [(&str, &str); 12] = [
    ("quick", include_str!("../benches/quick.toml")),
    ("headline", include_str!("../benches/headline.toml")),
    ("decode", include_str!("../benches/decode.toml")),
    ("weights", include_str!("../benches/weights.toml")),
    ("mla", include_str!("../benches/mla.toml")),
    ("products", include_str!("../benches/products.toml")),
    ("step", include_str!("../benches/step.toml")),
    ("roofline", include_str!("../benches/roofline.toml")),
    ("elasticity", include_str!("../benches/elasticity.toml")),
    ("tune", include_str!("../benches/tune.toml")),
    ("paper", include_str!("../benches/paper.toml")),
    ("corners", include_str!("../benches/corners.toml")),
];

/// Most combinations of one table: a typing error should not plan a year.
const MAX_POINTS: usize = 100_000;

/// A parsed suite.
#[derive(Clone, Debug)]
pub struct Suite {
    /// Short name, part of the results folder's name.
    pub name: String,
    /// What the suite is for.
    pub about: String,
    /// How long and how precisely to measure each point.
    pub settings: Settings,
    /// The suite as written; a campaign keeps a copy, so that it can resume.
    pub text: String,
    file: String,
    filter: Option<FilterLine>,
    /// Which part of the plan this is, and the line that says so.
    shard: Option<(Shard, usize)>,
    sentinel: Option<PointsTable>,
    entries: Vec<PointsTable>,
}

/// The points of one suite on one device.
#[derive(Clone, Debug)]
pub struct PlannedPoints {
    /// All points, each once, in the suite's order.
    pub points: Vec<Point>,
    /// The point that is repeated to show drift.
    pub sentinel: Option<Point>,
}

impl PlannedPoints {
    /// For each point the shard that measures it, from 1; `None` for those that every shard
    /// does: what shows the machine's limits.
    pub fn shards(&self, count: u32) -> Vec<Option<u32>> {
        shard::deal(&self.points, self.sentinel.as_ref(), count)
    }

    /// The points of one shard: its own, and those that each measures.
    fn of_shard(self, shard: Shard) -> Self {
        let shards = self.shards(shard.count);
        let with_shard = self.points.into_iter().zip(shards);
        let mine = with_shard.filter(|(_, of)| of.is_none_or(|of| of == shard.index));
        PlannedPoints { points: mine.map(|(point, _)| point).collect(), ..self }
    }
}

/// What a plan depends on apart from the suite.
pub struct PlanBasis<'a> {
    /// Capacity of the last cache before DRAM, in bytes.
    pub cache_bytes: u64,
    /// Cores or multiprocessors.
    pub units: u64,
    /// The kernel that runs a problem when the suite names none.
    pub kernel: &'a dyn Fn(&Problem) -> Option<&'static str>,
    /// The kernel of the vendor's library that is measured beside it.
    pub vendor: &'a dyn Fn(&Problem) -> Option<&'static str>,
}

impl Suite {
    /// Names of the suites that are part of the program.
    pub fn built_in_names() -> Vec<&'static str> {
        BUILT_IN.iter().map(|(name, _)| *name).collect()
    }

    /// Loads a suite: a built-in one by name, any other by the path of its
    /// file, which ends in `.toml`.
    ///
    /// # Errors
    /// An unknown name, an unreadable file, a mistake in it.
    pub fn load(name_or_path: impl AsRef<OsStr>) -> Result<Self> {
        let name_or_path = name_or_path.as_ref();
        if let Some((name, text)) = BUILT_IN.iter().find(|(n, _)| *n == name_or_path) {
            return Ok(Suite::parse(&format!("benches/{name}.toml"), text)?);
        }
        if !name_or_path.as_encoded_bytes().ends_with(b".toml") {
            let known = Suite::built_in_names();
            let name = name_or_path.to_string_lossy();
            anyhow::bail!(
                "{}; or give the path of a .toml file",
                unknown_key(&name, "the list of suites", &known)
            );
        }
        Suite::load_file(Path::new(name_or_path))
    }

    /// Loads a suite from a file.
    ///
    /// # Errors
    /// An unreadable file, a mistake in it.
    pub fn load_file(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read suite {}", path.display()))?;
        Ok(Suite::parse(&path.display().to_string(), &text)?)
    }

    /// Parses a suite. `file` names it in errors.
    ///
    /// # Errors
    /// TOML that does not parse, an unknown key, a value of the wrong kind.
    pub fn parse(file: &str, text: &str) -> Result<Self, SuiteError> {
        let source = SuiteSource { file, text };
        let table = DeTable::parse(text).map_err(|e| {
            source.error(e.span().unwrap_or(0..0), e.message().replace('\n', " "))
        })?;
        let mut suite = Suite {
            name: String::new(),
            about: String::new(),
            settings: Settings::default(),
            text: text.to_owned(),
            file: file.to_owned(),
            filter: None,
            shard: None,
            sentinel: None,
            entries: Vec::new(),
        };
        for (key, value) in table.get_ref() {
            match key.get_ref().as_ref() {
                "name" => suite.name = source.name(value)?,
                "about" => suite.about = source.string(value)?,
                "protocol" => suite.settings = source.settings(value)?,
                "filter" => suite.filter = Some(source.filter(value)?),
                "shard" => suite.shard = Some(source.shard(value)?),
                "sentinel" => suite.sentinel = Some(source.entry(value)?),
                "points" => {
                    let array = value.get_ref().as_array().ok_or_else(|| {
                        source.error(value.span(), "write `[[points]]`, one for each table")
                    })?;
                    suite.entries =
                        array.iter().map(|v| source.entry(v)).collect::<Result<_, _>>()?;
                }
                other => {
                    let known = [
                        "name", "about", "filter", "shard", "protocol", "sentinel",
                        "points",
                    ];
                    let message = unknown_key(other, "a suite", &known);
                    return Err(source.error(key.span(), message));
                }
            }
        }
        if suite.name.is_empty() {
            return Err(source.error(0..0, "a suite needs a `name`"));
        }
        if suite.entries.is_empty() {
            return Err(source.error(0..0, "a suite needs at least one `[[points]]` table"));
        }
        Ok(suite)
    }

    /// The suite with only those points that meet a filter's conditions.
    ///
    /// # Errors
    /// A suite that has a filter already.
    pub fn filtered(self, filter: Option<&Filter>) -> Result<Self, SuiteError> {
        let Some(filter) = filter else { return Ok(self) };
        if let Some(FilterLine { line, .. }) = self.filter {
            let message = "the suite has a filter of its own; add the conditions to it";
            return Err(self.error(line, message));
        }
        let value = toml::Value::String(filter.to_string());
        Suite::parse(&self.file, &format!("filter = {value}\n{}", self.text))
    }

    /// The part of the suite's plan that one of several machines measures.
    ///
    /// # Errors
    /// A suite that is a part already.
    pub fn sharded(self, shard: Option<Shard>) -> Result<Self, SuiteError> {
        let Some(shard) = shard else { return Ok(self) };
        if let Some((own, line)) = self.shard {
            let message = format!("the suite is shard {own} already; leave --shard out");
            return Err(self.error(line, message));
        }
        Suite::parse(&self.file, &format!("shard = \"{shard}\"\n{}", self.text))
    }

    /// Which part of a plan it is, if it is one.
    pub fn shard(&self) -> Option<Shard> {
        self.shard.map(|(shard, _)| shard)
    }

    /// The suite that it is a part of; itself where it is whole.
    ///
    /// # Errors
    /// None for a suite that parsed.
    pub fn whole(&self) -> Result<Self, SuiteError> {
        let Some((_, line)) = self.shard else { return Ok(self.clone()) };
        let lines = self.text.split_inclusive('\n').zip(1..);
        let others = lines.filter(|(_, number)| *number != line).map(|(text, _)| text);
        Suite::parse(&self.file, &others.collect::<String>())
    }

    /// A suite of one point, measured with the default settings and without a
    /// limit on how long a launch may take.
    ///
    /// # Errors
    /// None for a point that parsed.
    pub fn of_point(point: &Point) -> Result<Self, SuiteError> {
        let mut text = format!(
            "name = \"point\"\nabout = \"One point alone, however slow.\"\n\n[protocol]\n\
             max_launch_s = 600\n\n[[points]]\nop = \"{}\"\ncache = \"{}\"\nkernel = \"{}\"\n",
            point.problem.op(),
            point.cache,
            point.kernel
        );
        if let Some(launch) = point.launch {
            text.push_str(&format!("launch = \"{launch}\"\n"));
        }
        if let Some(load) = point.load {
            text.push_str(&format!("load = \"{load}\"\n"));
        }
        for (key, value) in point.problem.fields() {
            text.push_str(&format!("{key} = \"{value}\"\n"));
        }
        Suite::parse("point.toml", &text)
    }

    /// All points for a device. Points that the device cannot run are planned
    /// too: they become rows that say so.
    ///
    /// # Errors
    /// An impossible shape, with the line of the key to change.
    pub fn plan(&self, device: &dyn Device) -> Result<PlannedPoints, SuiteError> {
        self.plan_for(&PlanBasis {
            cache_bytes: device.info().last_level_cache_bytes(),
            units: device.info().units,
            kernel: &|problem| device.kernel(problem).ok(),
            vendor: &|problem| device.vendor_kernel(problem),
        })
    }

    /// All points for a device that is not on this machine.
    ///
    /// # Errors
    /// An impossible shape, with the line of the key to change.
    pub fn plan_for(&self, basis: &PlanBasis) -> Result<PlannedPoints, SuiteError> {
        let mut points = Vec::new();
        let mut seen = HashSet::new();
        for entry in &self.entries {
            let is_open = !entry.axes.iter().any(|axis| axis.key == "kernel");
            for point in self.with_parts(entry, basis)? {
                let vendor = self.beside(&point, basis).filter(|_| is_open);
                let all = [point].into_iter().chain(vendor);
                points.extend(all.filter(|point| seen.insert(point.clone())));
            }
        }
        if let Some(FilterLine { filter, line }) = &self.filter {
            let all = points.len();
            points.retain(|point| filter.matches(point));
            if points.is_empty() {
                let message = format!(
                    "none of the {all} points of suite {} meets `{filter}`; `ridgepoint list` \
                     without a filter has all",
                    self.name
                );
                return Err(self.error(*line, message));
            }
        }
        let sentinel = match &self.sentinel {
            Some(entry) => Some(self.one(entry, basis)?),
            None => None,
        };
        let whole = PlannedPoints { points, sentinel };
        let Some((shard, line)) = self.shard else { return Ok(whole) };
        let part = whole.of_shard(shard);
        if part.points.is_empty() {
            let message = format!("shard {shard} has no point; make fewer shards");
            return Err(self.error(line, message));
        }
        Ok(part)
    }

    /// The same point with the kernel of the vendor's library.
    fn beside(&self, point: &Point, basis: &PlanBasis) -> Option<Point> {
        // A device that is asked makes the library ready.
        let asks = self.settings.vendor;
        let kernel = asks.then(|| (basis.vendor)(&point.problem)).flatten()?;
        Some(Point { kernel: kernel.parse().ok()?, ..point.clone() })
    }

    /// The points of an entry, each with those of its parts behind it, where the entry asks
    /// for them.
    fn with_parts(
        &self,
        entry: &PointsTable,
        basis: &PlanBasis,
    ) -> Result<Vec<Point>, SuiteError> {
        let points = self.expand(entry, basis)?;
        if !entry.parts {
            return Ok(points);
        }
        let mut all = Vec::new();
        for point in points {
            let parts = point.problem.parts();
            if parts.is_empty() {
                let message = format!("{} has no parts; leave `parts` out", entry.op);
                return Err(self.error(entry.line, message));
            }
            let asked = point.cache;
            all.push(point);
            for part in parts {
                let cache = cache_of_part(&part.problem, asked);
                let kernel = self.default_kernel(&part.problem, entry.line, basis)?;
                let problem = part.problem;
                all.push(Point { problem, kernel, cache, launch: None, load: None });
            }
        }
        Ok(all)
    }

    /// The kernel of a problem where the suite names none.
    fn default_kernel(
        &self,
        problem: &Problem,
        line: usize,
        basis: &PlanBasis,
    ) -> Result<KernelName, SuiteError> {
        match (basis.kernel)(problem) {
            Some(kernel) => {
                kernel.parse().map_err(|message: String| self.error(line, message))
            }
            None => Ok(KernelName::none()),
        }
    }

    fn one(&self, entry: &PointsTable, basis: &PlanBasis) -> Result<Point, SuiteError> {
        let mut points = self.expand(entry, basis)?;
        match (points.pop(), points.is_empty()) {
            (Some(point), true) => Ok(point),
            _ => Err(self.error(entry.line, "the sentinel is one point; give no lists")),
        }
    }

    fn expand(
        &self,
        entry: &PointsTable,
        basis: &PlanBasis,
    ) -> Result<Vec<Point>, SuiteError> {
        let sizes = entry.axes.iter().map(|axis| axis.values.len());
        let count = sizes.fold(1usize, usize::saturating_mul);
        if count > MAX_POINTS {
            let message = format!(
                "this table makes {count} combinations, more than {MAX_POINTS}; shorten its lists"
            );
            return Err(self.error(entry.line, message));
        }
        (0..count).map(|index| self.combination(entry, index, basis)).collect()
    }

    /// Combination number `index` of an entry; the last axis varies fastest.
    fn combination(
        &self,
        entry: &PointsTable,
        mut index: usize,
        basis: &PlanBasis,
    ) -> Result<Point, SuiteError> {
        let mut chosen = Vec::new();
        for axis in entry.axes.iter().rev() {
            let (value, line) = &axis.values[index % axis.values.len()];
            index /= axis.values.len();
            chosen.push((axis.key.as_str(), value.as_str(), *line));
        }
        let line_of = |key: &str| {
            chosen
                .iter()
                .find(|(k, _, _)| *k == key)
                .map_or(entry.line, |(_, _, line)| *line)
        };
        let value_of = |key: &str| {
            chosen.iter().find(|(k, _, _)| *k == key).map(|(_, value, _)| *value)
        };
        let cache: CacheState = value_of("cache")
            .unwrap_or("cold")
            .parse()
            .map_err(|e: String| self.error(line_of("cache"), e))?;
        let mut fields = Vec::new();
        for (key, value, line) in &chosen {
            if ["cache", "kernel", "launch", "load"].contains(key) {
                continue;
            }
            let multiple = |unit| value.strip_suffix(unit);
            let value = match (*key, multiple("llc"), multiple("units")) {
                ("bytes", Some(factor), _) => self.cache_multiple(factor, *line, basis)?,
                ("bytes" | "lanes", _, Some(factor)) => {
                    self.unit_multiple((*key, factor), *line, basis)?
                }
                _ => (*value).to_owned(),
            };
            fields.push(((*key).to_owned(), value));
        }
        let problem = Problem::from_fields(entry.op, &fields).map_err(|e| {
            let line = e.key.as_deref().map_or(entry.line, line_of);
            self.error(line, e.message)
        })?;
        let kernel = match value_of("kernel") {
            Some(kernel) => kernel
                .parse()
                .map_err(|message: String| self.error(line_of("kernel"), message))?,
            None => self.default_kernel(&problem, entry.line, basis)?,
        };
        let launch = value_of("launch").map(str::parse).transpose();
        let launch = launch.map_err(|e: String| self.error(line_of("launch"), e))?;
        let load = value_of("load").map(str::parse).transpose();
        let load = load.map_err(|e: String| self.error(line_of("load"), e))?;
        if load == Some(Load::InTurn) {
            let message = "a suite has no peers to take turns with; measure it, and then \
                           `ridgepoint peers` measures kernels `in_turn`";
            return Err(self.error(line_of("load"), message));
        }
        Ok(Point { problem, kernel, cache, launch, load })
    }

    /// `"4 llc"` in bytes, in whole MiB.
    fn cache_multiple(
        &self,
        factor: &str,
        line: usize,
        basis: &PlanBasis,
    ) -> Result<String, SuiteError> {
        const MIB: f64 = (1 << 20) as f64;
        let factor: f64 = match factor.trim().parse() {
            Ok(f) if f > 0.0 && f <= 1e6 => f,
            _ => {
                let message =
                    format!("`{factor}llc` is not a size; write `0.5 llc` or `4 llc`");
                return Err(self.error(line, message));
            }
        };
        let mib = (factor * basis.cache_bytes as f64 / MIB).ceil().max(1.0);
        Ok(((mib * MIB) as u64).to_string())
    }

    /// `"64 units"`, `"32 KiB units"`: that many for each core or multiprocessor.
    fn unit_multiple(
        &self,
        (key, factor): (&str, &str),
        line: usize,
        basis: &PlanBasis,
    ) -> Result<String, SuiteError> {
        let (number, write) = match key {
            "bytes" => (parse_bytes(factor), "32 KiB units"),
            _ => (factor.trim().parse().ok(), "64 units"),
        };
        match number {
            Some(f) if (1..=1 << 24).contains(&f) => Ok((f * basis.units).to_string()),
            _ => {
                let message =
                    format!("`{factor}units` is not a number of {key}; write `{write}`");
                Err(self.error(line, message))
            }
        }
    }

    fn error(&self, line: usize, message: impl Into<String>) -> SuiteError {
        SuiteError { file: self.file.clone(), line, message: message.into() }
    }
}

/// Of what a problem has in memory, the share below which it is not measured cold: of an
/// embedding's table a step reads a few rows, and as many tables as keep a cache cold fit no
/// memory.
const TOUCHED_SHARE: f64 = 0.01;

/// What the caches hold when a part is measured by itself.
fn cache_of_part(problem: &Problem, asked: CacheState) -> CacheState {
    let held: u64 = problem.tensors().iter().map(|tensor| tensor.bytes()).sum();
    let touched = problem.work().bytes() as f64;
    if touched < TOUCHED_SHARE * held as f64 { CacheState::Hot } else { asked }
}

#[cfg(test)]
mod tests;
