//! Suites: which points to measure, as TOML beside prose. Each `[[points]]`
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
//! `"4 llc"`, `lanes` of a peak for each of its cores or multiprocessors,
//! `"64 units"`, and `cache` is `"cold"`, unless given.

use std::collections::HashSet;
use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};
use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::device::Device;
use crate::measure::Settings;
use crate::op::{Op, Problem, parse_bytes, unknown_key};
use crate::point::{CacheState, Point, check_kernel};

/// Suites that are part of the program: name and text.
const BUILT_IN: [(&str, &str); 7] = [
    ("quick", include_str!("../benches/quick.toml")),
    ("decode", include_str!("../benches/decode.toml")),
    ("weights", include_str!("../benches/weights.toml")),
    ("mla", include_str!("../benches/mla.toml")),
    ("roofline", include_str!("../benches/roofline.toml")),
    ("paper", include_str!("../benches/paper.toml")),
    ("corners", include_str!("../benches/corners.toml")),
];

/// Most combinations of one table: a typing error should not plan a year.
const MAX_POINTS: usize = 100_000;

/// Largest number of samples or seconds: more than a day is a typing error.
const MAX_SETTING: f64 = 1e5;

/// A mistake in a suite, where it is and what to do.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{file}:{line}: {message}")]
pub struct SuiteError {
    /// File as the user named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong and what to write.
    pub message: String,
}

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
    sentinel: Option<Entry>,
    entries: Vec<Entry>,
}

/// The points of one suite on one device.
#[derive(Clone, Debug)]
pub struct Plan {
    /// All points, each once, in the suite's order.
    pub points: Vec<Point>,
    /// The point that is repeated to show drift.
    pub sentinel: Option<Point>,
}

/// What a plan depends on beside the suite.
pub struct Ground<'a> {
    /// Capacity of the last cache before DRAM, in bytes.
    pub cache_bytes: u64,
    /// Cores or multiprocessors.
    pub units: u64,
    /// The kernel that runs a problem when the suite names none.
    pub kernel: &'a dyn Fn(&Problem) -> Option<&'static str>,
}

/// One `[[points]]` table.
#[derive(Clone, Debug)]
struct Entry {
    line: usize,
    op: Op,
    axes: Vec<Axis>,
}

/// One key of a table with its values and their lines.
#[derive(Clone, Debug)]
struct Axis {
    key: String,
    values: Vec<(String, usize)>,
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
    pub fn load(name_or_path: &str) -> Result<Self> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(n, _)| *n == name_or_path) {
            return Ok(Suite::parse(&format!("benches/{name}.toml"), text)?);
        }
        if !name_or_path.ends_with(".toml") {
            let known = Suite::built_in_names();
            anyhow::bail!(
                "{}; or give the path of a .toml file",
                unknown_key(name_or_path, "the list of suites", &known)
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
        let source = Source { file, text };
        let table = DeTable::parse(text).map_err(|e| {
            source.error(e.span().unwrap_or(0..0), e.message().replace('\n', " "))
        })?;
        let mut suite = Suite {
            name: String::new(),
            about: String::new(),
            settings: Settings::default(),
            text: text.to_owned(),
            file: file.to_owned(),
            sentinel: None,
            entries: Vec::new(),
        };
        for (key, value) in table.get_ref() {
            match key.get_ref().as_ref() {
                "name" => suite.name = source.name(value)?,
                "about" => suite.about = source.string(value)?,
                "protocol" => suite.settings = source.settings(value)?,
                "sentinel" => suite.sentinel = Some(source.entry(value)?),
                "points" => {
                    let array = value.get_ref().as_array().ok_or_else(|| {
                        source.error(value.span(), "write `[[points]]`, one for each table")
                    })?;
                    suite.entries =
                        array.iter().map(|v| source.entry(v)).collect::<Result<_, _>>()?;
                }
                other => {
                    let known = ["name", "about", "protocol", "sentinel", "points"];
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
    pub fn plan(&self, device: &dyn Device) -> Result<Plan, SuiteError> {
        self.plan_for(&Ground {
            cache_bytes: device.info().last_level_cache_bytes(),
            units: device.info().units,
            kernel: &|problem| device.kernel(problem).ok(),
        })
    }

    /// All points for a device that need not be there.
    ///
    /// # Errors
    /// An impossible shape, with the line of the key to change.
    pub fn plan_for(&self, ground: &Ground) -> Result<Plan, SuiteError> {
        let mut points = Vec::new();
        let mut seen = HashSet::new();
        for entry in &self.entries {
            for point in self.expand(entry, ground)? {
                if seen.insert(point.clone()) {
                    points.push(point);
                }
            }
        }
        let sentinel = match &self.sentinel {
            Some(entry) => Some(self.one(entry, ground)?),
            None => None,
        };
        Ok(Plan { points, sentinel })
    }

    fn one(&self, entry: &Entry, ground: &Ground) -> Result<Point, SuiteError> {
        let mut points = self.expand(entry, ground)?;
        match (points.pop(), points.is_empty()) {
            (Some(point), true) => Ok(point),
            _ => Err(self.error(entry.line, "the sentinel is one point; give no lists")),
        }
    }

    fn expand(&self, entry: &Entry, ground: &Ground) -> Result<Vec<Point>, SuiteError> {
        let sizes = entry.axes.iter().map(|axis| axis.values.len());
        let count = sizes.fold(1usize, usize::saturating_mul);
        if count > MAX_POINTS {
            let message = format!(
                "this table makes {count} combinations, more than {MAX_POINTS}; shorten its lists"
            );
            return Err(self.error(entry.line, message));
        }
        (0..count).map(|index| self.combination(entry, index, ground)).collect()
    }

    /// Combination number `index` of an entry; the last axis varies fastest.
    fn combination(
        &self,
        entry: &Entry,
        mut index: usize,
        ground: &Ground,
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
            if ["cache", "kernel"].contains(key) {
                continue;
            }
            let multiple = |unit| value.strip_suffix(unit);
            let value = match (*key, multiple("llc"), multiple("units")) {
                ("bytes", Some(factor), _) => self.cache_multiple(factor, *line, ground)?,
                ("lanes", _, Some(factor)) => self.unit_multiple(factor, *line, ground)?,
                _ => (*value).to_owned(),
            };
            fields.push(((*key).to_owned(), value));
        }
        let problem = Problem::from_fields(entry.op, &fields).map_err(|e| {
            let line = e.key.as_deref().map_or(entry.line, line_of);
            self.error(line, e.message)
        })?;
        let kernel = match value_of("kernel") {
            Some(kernel) => check_kernel(kernel)
                .map_err(|message| self.error(line_of("kernel"), message))?
                .to_owned(),
            None => (ground.kernel)(&problem).unwrap_or("none").to_owned(),
        };
        Ok(Point { problem, kernel, cache })
    }

    /// `"4 llc"` in bytes, in whole MiB.
    fn cache_multiple(
        &self,
        factor: &str,
        line: usize,
        ground: &Ground,
    ) -> Result<String, SuiteError> {
        const MIB: f64 = (1 << 20) as f64;
        let factor: f64 = match factor.trim().parse() {
            Ok(f) if f > 0.0 && f <= 1e6 => f,
            _ => {
                let message =
                    format!("`{factor}llc` is no size; write `0.5 llc` or `4 llc`");
                return Err(self.error(line, message));
            }
        };
        let mib = (factor * ground.cache_bytes as f64 / MIB).ceil().max(1.0);
        Ok(((mib * MIB) as u64).to_string())
    }

    /// `"64 units"`: so many for each core or multiprocessor.
    fn unit_multiple(
        &self,
        factor: &str,
        line: usize,
        ground: &Ground,
    ) -> Result<String, SuiteError> {
        match factor.trim().parse::<u64>() {
            Ok(f) if (1..=1 << 24).contains(&f) => Ok((f * ground.units).to_string()),
            _ => {
                let message =
                    format!("`{factor}units` is no number of lanes; write `64 units`");
                Err(self.error(line, message))
            }
        }
    }

    fn error(&self, line: usize, message: impl Into<String>) -> SuiteError {
        SuiteError { file: self.file.clone(), line, message: message.into() }
    }
}

/// A suite's text, for turning positions into lines.
struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl Source<'_> {
    fn line(&self, span: Range<usize>) -> usize {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }

    fn error(&self, span: Range<usize>, message: impl Into<String>) -> SuiteError {
        SuiteError {
            file: self.file.to_owned(),
            line: self.line(span),
            message: message.into(),
        }
    }

    fn string(&self, value: &Value<'_>) -> Result<String, SuiteError> {
        let text = value.get_ref().as_str();
        text.map(str::to_owned).ok_or_else(|| self.error(value.span(), "write a string"))
    }

    /// A name becomes part of a folder's name.
    fn name(&self, value: &Value<'_>) -> Result<String, SuiteError> {
        let name = self.string(value)?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 40 || !name.chars().all(plain) {
            let message = format!(
                "name = `{name}`; write up to 40 lower-case letters, digits and dashes"
            );
            return Err(self.error(value.span(), message));
        }
        Ok(name)
    }

    fn number(&self, value: &Value<'_>, key: &str) -> Result<f64, SuiteError> {
        let text = match value.get_ref() {
            DeValue::Integer(n) if n.radix() == 10 => n.as_str().to_owned(),
            DeValue::Float(x) => x.as_str().to_owned(),
            _ => String::new(),
        };
        match text.replace('_', "").parse::<f64>() {
            Ok(x) if x > 0.0 && x <= MAX_SETTING => Ok(x),
            _ => {
                let message = format!(
                    "{key} must be a decimal number above 0 and up to {MAX_SETTING}"
                );
                Err(self.error(value.span(), message))
            }
        }
    }

    fn settings(&self, value: &Value<'_>) -> Result<Settings, SuiteError> {
        let table = value
            .get_ref()
            .as_table()
            .ok_or_else(|| self.error(value.span(), "write `[protocol]`, a table"))?;
        let mut s = Settings::default();
        for (key, value) in table {
            let key_text = key.get_ref().as_ref();
            let number = || self.number(value, key_text);
            match key_text {
                "warmup_s" => s.warmup_s = number()?,
                "min_samples" => s.min_samples = number()? as usize,
                "min_sample_s" => s.min_sample_s = number()?,
                "max_sample_s" => s.max_sample_s = number()?,
                "half_width" => s.half_width = number()?,
                "max_launch_s" => s.max_launch_s = number()?,
                "sentinel_every" => s.sentinel_every = number()? as usize,
                "memory_bytes" => {
                    let text = self.string(value)?;
                    s.memory_bytes = parse_bytes(&text).ok_or_else(|| {
                        self.error(
                            value.span(),
                            format!("`{text}` is no size; write `3 GiB`"),
                        )
                    })?;
                }
                other => {
                    let message = unknown_key(other, "[protocol]", &Settings::KEYS);
                    return Err(self.error(key.span(), message));
                }
            }
        }
        if s.min_samples < 2 || s.sentinel_every < 1 || s.max_sample_s < s.min_sample_s {
            let message = "[protocol] needs min_samples of 2 or more, sentinel_every of 1 or \
                           more, and max_sample_s no less than min_sample_s";
            return Err(self.error(value.span(), message));
        }
        Ok(s)
    }

    fn entry(&self, value: &Value<'_>) -> Result<Entry, SuiteError> {
        let table = value
            .get_ref()
            .as_table()
            .ok_or_else(|| self.error(value.span(), "write a table of keys"))?;
        let line = self.line(value.span());
        let op = table
            .iter()
            .find(|(key, _)| key.get_ref() == "op")
            .ok_or_else(|| self.error(value.span(), "this table needs an `op`"))?
            .1;
        let op_name = self.string(op)?;
        let op: Op = op_name.parse().map_err(|e: String| self.error(op.span(), e))?;
        let mut axes = Vec::new();
        for (key, value) in table {
            let key_text = key.get_ref().as_ref();
            if ["op", "about"].contains(&key_text) {
                continue;
            }
            if op.key(key_text).is_none() && !["cache", "kernel"].contains(&key_text) {
                let mut known: Vec<_> = op.keys().collect();
                known.extend(["about", "cache", "kernel"]);
                return Err(
                    self.error(key.span(), unknown_key(key_text, op.name(), &known))
                );
            }
            axes.push(Axis {
                key: key_text.to_owned(),
                values: self.axis(key_text, value)?,
            });
        }
        axes.sort_by_key(|axis| op.keys().position(|k| k == axis.key));
        Ok(Entry { line, op, axes })
    }

    fn axis(
        &self,
        key: &str,
        value: &Value<'_>,
    ) -> Result<Vec<(String, usize)>, SuiteError> {
        let one = |value: &Value<'_>| {
            let line = self.line(value.span());
            match value.get_ref() {
                DeValue::String(text) => Ok((text.to_string(), line)),
                DeValue::Integer(n) if n.radix() == 10 => Ok((
                    n.as_str().replace('_', "").trim_start_matches('+').to_owned(),
                    line,
                )),
                DeValue::Boolean(b) => Ok((b.to_string(), line)),
                other => {
                    let message = format!(
                        "{key} is a {}; write a whole number, a string, true or false, or a \
                         list of them",
                        other.type_str()
                    );
                    Err(self.error(value.span(), message))
                }
            }
        };
        match value.get_ref() {
            DeValue::Array(values) if values.is_empty() => {
                Err(self
                    .error(value.span(), format!("{key} has an empty list; give a value")))
            }
            DeValue::Array(values) => values.iter().map(one).collect(),
            _ => Ok(vec![one(value)?]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::simulated::SimulatedDevice;
    use proptest::prelude::*;

    fn device() -> SimulatedDevice {
        SimulatedDevice::default()
    }

    fn error_of(text: &str) -> String {
        match Suite::parse("s.toml", text).and_then(|suite| suite.plan(&device())) {
            Ok(plan) => panic!("planned {} points from\n{text}", plan.points.len()),
            Err(error) => error.to_string(),
        }
    }

    const GEMM: &str = "name = \"x\"\n[[points]]\nop = \"gemm\"\nm = [1, 2]\nn = 3\nk = [4, 5]\n\
                        dtype = \"f32\"\n";

    #[test]
    fn points_are_all_combinations_in_order() {
        let plan = Suite::parse("s.toml", GEMM).unwrap().plan(&device()).unwrap();
        let spelled: Vec<String> =
            plan.points.iter().map(|p| p.problem.to_string()).collect();
        assert_eq!(
            spelled,
            [
                "gemm:m=1,n=3,k=4,dtype=f32",
                "gemm:m=1,n=3,k=5,dtype=f32",
                "gemm:m=2,n=3,k=4,dtype=f32",
                "gemm:m=2,n=3,k=5,dtype=f32",
            ]
        );
        assert!(plan.points.iter().all(|p| p.cache == CacheState::Cold));
    }

    #[test]
    fn a_point_that_two_tables_make_is_planned_once() {
        let twice = format!("{GEMM}[[points]]{}", GEMM.split_once("[[points]]").unwrap().1);
        let plan = Suite::parse("s.toml", &twice).unwrap().plan(&device()).unwrap();
        assert_eq!(plan.points.len(), 4);
    }

    #[test]
    fn lanes_in_units_follow_the_device() {
        let text = "name = \"x\"\n[[points]]\nop = \"peak\"\nunit = \"fma\"\n\
                    dtype = \"f32\"\nlanes = \"64 units\"\nsteps = 2\n";
        let mut device = device();
        device.info.units = 3;
        let suite = |text: &str| Suite::parse("s.toml", text).unwrap().plan(&device);
        assert_eq!(
            suite(text).unwrap().points[0].problem.to_string(),
            "peak:unit=fma,dtype=f32,lanes=192,steps=2"
        );
        let error = suite(&text.replace("64 units", "0 units")).unwrap_err().to_string();
        assert!(error.contains("s.toml:6") && error.contains("64 units"), "{error}");
    }

    #[test]
    fn sizes_in_caches_follow_the_device() {
        let text = "name = \"x\"\n[[points]]\nop = \"stream\"\naccess = \"read\"\n\
                    bytes = [\"2 llc\", \"0.5 llc\"]\n";
        let device = device();
        let plan = Suite::parse("s.toml", text).unwrap().plan(&device).unwrap();
        let cache = device.info().last_level_cache_bytes();
        let bytes: Vec<u64> =
            plan.points.iter().map(|p| p.problem.work().bytes()).collect();
        assert_eq!(bytes[0], (2 * cache).next_multiple_of(1 << 20));
        assert_eq!(bytes[1], (cache / 2).next_multiple_of(1 << 20));
    }

    #[test]
    fn mistakes_name_file_line_and_fix() {
        let gemm = |from: &str, to: &str| error_of(&GEMM.replace(from, to));
        let cases = [
            (gemm("[1, 2]", "[1,\n 0]"), "s.toml:5: m = 0; it must be at least 1"),
            (gemm("n = 3", "nn = 3"), "s.toml:5: gemm has no key `nn`; did you mean `n`?"),
            (gemm("n = 3", ""), "s.toml:2: gemm needs `n`"),
            (gemm("n = 3", "n = 3.5"), "s.toml:5: n is a float"),
            (gemm("n = 3", "n = []"), "s.toml:5: n has an empty list"),
            (
                gemm("n = 3", "n = 88888888888888888888"),
                "s.toml:5: n = `88888888888888888888`",
            ),
            (
                gemm("n = 3", "n = 8888888888888"),
                "s.toml:5: n = 8888888888888 is more than",
            ),
            (gemm("gemm", "gem"), "s.toml:3: `gem` is no op; one of stream"),
            (gemm("f32", "f23"), "s.toml:7: `f23` is no dtype"),
            (gemm("name = \"x\"", "name = \"../x\""), "s.toml:1: name = `../x`"),
            (
                gemm("name", "nam"),
                "s.toml:1: a suite has no key `nam`; did you mean `name`?",
            ),
            (
                gemm("n = 3", "n = 3\ncache = \"warm\""),
                "s.toml:6: `warm` is no cache state",
            ),
            (gemm("n = 3", "n = [3"), "s.toml:"),
            (gemm("n = 3", "n = 3\nkernel = \"a b\""), "s.toml:6: `a b` is no kernel name"),
            (
                error_of(
                    &GEMM.replace(
                        "[[points]]",
                        "[protocol]\nmin_samples = 0x20\n[[points]]",
                    ),
                ),
                "s.toml:3: min_samples must be a decimal number",
            ),
            (error_of("name = \"x\""), "s.toml:1: a suite needs at least one"),
            (
                error_of(&GEMM.replace("[[points]]", "[protocol]\nwarmup = 1\n[[points]]")),
                "s.toml:3: [protocol] has no key `warmup`; did you mean `warmup_s`?",
            ),
            (
                error_of(
                    &GEMM.replace("[[points]]", "[protocol]\nwarmup_s = -1\n[[points]]"),
                ),
                "s.toml:3: warmup_s must be a decimal number above 0",
            ),
        ];
        for (message, start) in cases {
            assert!(
                message.starts_with(start),
                "`{message}` does not start with `{start}`"
            );
        }
    }

    #[test]
    fn impossible_heads_name_the_line_of_the_key_to_change() {
        let text = "name = \"x\"\n[[points]]\nop = \"decode_attention\"\nbatch = 1\ncontext = 1\n\
                    q_heads = 6\nkv_heads = [1,\n4]\nhead_dim = 8\ndtype = \"f32\"\n";
        assert!(
            error_of(text)
                .starts_with("s.toml:8: q_heads = 6 is no multiple of kv_heads = 4")
        );
    }

    #[test]
    fn a_typing_error_does_not_plan_a_year() {
        let list = (1..400).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let text = GEMM
            .replace("[1, 2]", &format!("[{list}]"))
            .replace("[4, 5]", &format!("[{list}]"));
        assert!(error_of(&text).contains("159201 combinations"));
    }

    #[test]
    fn built_in_suites_plan() {
        for name in Suite::built_in_names() {
            let suite = Suite::load(name).unwrap();
            assert_eq!(suite.name, name);
            let plan = suite.plan(&device()).unwrap();
            assert!(plan.points.len() >= 20, "{name}");
            assert!(plan.sentinel.is_some(), "{name}");
        }
    }

    #[test]
    fn a_point_alone_is_a_suite() {
        for point in Suite::load("quick").unwrap().plan(&device()).unwrap().points {
            let suite = Suite::of_point(&point).unwrap();
            assert_eq!(suite.plan(&device()).unwrap().points, [point]);
        }
    }

    #[test]
    fn unknown_suites_are_told_the_known_ones() {
        let message = Suite::load("quik").unwrap_err().to_string();
        assert!(message.contains("did you mean `quick`"), "{message}");
        let message = Suite::load("none/such.toml").unwrap_err().to_string();
        assert!(message.contains("none/such.toml"), "{message}");
    }

    proptest! {
        #[test]
        fn nonsense_never_panics(cut in 0usize..200, junk in "[\\[\\]a-z0-9=\"',\n .é]{0,30}") {
            let mut text = GEMM.to_owned();
            text.insert_str(cut.min(GEMM.len()), &junk);
            if let Ok(suite) = Suite::parse("s.toml", &text) {
                let _ = suite.plan(&device());
            }
        }
    }
}
