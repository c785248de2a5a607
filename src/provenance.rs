//! What `run.csv` says of a process that measured: of its device, and of what it
//! had planned. Columns are read here and nowhere else.

use std::str::FromStr;

use crate::device::{DeviceKind, NEAR_CACHE};
use crate::model::identity::Identity;
use crate::record::{Run, Unreadable};
use crate::residency::{CacheSize, read_caches};

/// Provenance of one process. What its device does not report is unknown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provenance {
    /// What the device says of itself. Its name is empty where it is unknown.
    pub device: Identity,
    /// Whether its times come from hardware.
    pub device_kind: Option<DeviceKind>,
    /// Data caches, smallest first.
    pub caches: Vec<CacheSize>,
    /// The cache that each core of a GPU has beside them, summed over the cores; see
    /// [`NEAR_CACHE`].
    pub near_cache: Option<CacheSize>,
    /// Capacity of the L2 of a GPU, in bytes, as its driver reports it.
    pub l2_bytes: Option<u64>,
    /// Median seconds that the launch of an empty kernel takes.
    pub launch_overhead_s: Option<f64>,
    /// The same of one that is queued alone, where it is not what
    /// [`launch_overhead_s`](Provenance::launch_overhead_s) is of.
    pub empty_launch_stream_s: Option<f64>,
    /// The same of one in a graph whose launches overlap.
    pub empty_launch_programmatic_s: Option<f64>,
    /// Seed of the order and of the inputs.
    pub seed: Option<u64>,
    /// Rows that the finished campaign has.
    pub planned_rows: Option<usize>,
}

impl Provenance {
    /// Reads a row of `run.csv`, which stands on line `line`. Empty columns,
    /// missing ones and counts of 0 are unknown; values that cannot be read are
    /// unknown too, and come back.
    pub fn of(run: &Run, line: u64) -> (Self, Vec<Unreadable>) {
        let mut columns = Columns { run, line, unreadable: Vec::new() };
        let provenance = Provenance {
            device: Identity {
                name: run.get("device").unwrap_or_default().to_owned(),
                compute_capability: columns.compute_capability(),
                sm_count: columns.count("sm_count"),
                sm_clock_hz: columns.positive("sm_clock_max_hz"),
                memory_clock_hz: columns.positive("memory_clock_max_hz"),
                memory_bus_bits: columns.count("memory_bus_bits"),
            },
            device_kind: columns.parsed("device_kind", DeviceKind::from_str),
            caches: columns.caches(),
            near_cache: columns.parsed(NEAR_CACHE, CacheSize::from_str),
            l2_bytes: columns.count("l2_bytes"),
            launch_overhead_s: columns.positive("launch_overhead_s"),
            empty_launch_stream_s: columns.positive("empty_launch_stream_s"),
            empty_launch_programmatic_s: columns.positive("empty_launch_programmatic_s"),
            seed: columns.parsed("seed", whole),
            planned_rows: columns
                .parsed("planned_rows", whole)
                .and_then(|rows| usize::try_from(rows).ok()),
        };
        (provenance, columns.unreadable)
    }
}

/// Columns of `run.csv` that tell machines apart, as far as they are filled: the rows of
/// one folder are of one machine, with as many threads and the same instructions.
pub const MACHINE_COLUMNS: [&str; 15] = [
    "device",
    "device_kind",
    "backend",
    "caches",
    "threads",
    "simd",
    "os",
    "arch",
    "host_hash",
    "compute_capability",
    "sm_count",
    "memory_bus_bits",
    "l2_bytes",
    "memory_total_bytes",
    "gpu_uuid_hash",
];

/// Those of them that machines of one model share, such as the nodes of a cluster.
pub const MODEL_COLUMNS: [&str; 11] = [
    "device",
    "device_kind",
    "backend",
    "caches",
    "threads",
    "simd",
    "arch",
    "compute_capability",
    "sm_count",
    "memory_bus_bits",
    "l2_bytes",
];

/// Columns of `run.csv` that tell apart what the program was built from, and by what.
pub const PROGRAM_COLUMNS: [&str; 6] =
    ["harness_version", "git_sha", "git_dirty", "build_profile", "rustc", "compiler"];

/// A column in which two processes differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub column: &'static str,
    /// The value of the one.
    pub was: String,
    /// The value of the other.
    pub is: String,
}

/// Where two processes differ. What either does not say is not a difference: older
/// versions did not write all columns, and devices do not report everything.
pub fn differences(was: &Run, is: &Run, columns: &[&'static str]) -> Vec<Difference> {
    let value = |run: &Run, column: &str| run.get(column).unwrap_or_default().to_owned();
    // The number of a GPU depends on what else is in the machine.
    let kind = |column: &str, value: &str| match column {
        "backend" => value.split(':').next().unwrap_or_default().to_owned(),
        _ => value.to_owned(),
    };
    let compared = columns.iter().map(|&column| {
        let (was, is) = (value(was, column), value(is, column));
        Difference { column, was, is }
    });
    let differ = |d: &Difference| {
        let known = !d.was.is_empty() && !d.is.is_empty();
        known && kind(d.column, &d.was) != kind(d.column, &d.is)
    };
    compared.filter(differ).collect()
}

/// A row of `run.csv` while it is read.
struct Columns<'a> {
    run: &'a Run,
    line: u64,
    unreadable: Vec<Unreadable>,
}

impl<'a> Columns<'a> {
    fn text(&self, column: &str) -> Option<&'a str> {
        self.run.get(column).map(str::trim).filter(|text| !text.is_empty())
    }

    fn refuse(&mut self, column: &str, value: &str, why: String) {
        self.unreadable.push(Unreadable {
            file: "run.csv",
            line: self.line,
            column: Some(column.to_owned()),
            value: value.to_owned(),
            why,
        });
    }

    fn parsed<T>(
        &mut self,
        column: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(column)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.refuse(column, text, why);
                None
            }
        }
    }

    /// A number of things; drivers report 0 for what they do not know.
    fn count(&mut self, column: &str) -> Option<u64> {
        self.parsed(column, whole).filter(|count| *count > 0)
    }

    fn positive(&mut self, column: &str) -> Option<f64> {
        let parse = |text: &str| match text.parse::<f64>() {
            Ok(x) if x.is_finite() && x >= 0.0 => Ok(x),
            _ => Err("not a number of 0 or more".to_owned()),
        };
        self.parsed(column, parse).filter(|x| *x > 0.0)
    }

    fn compute_capability(&mut self) -> Option<(u32, u32)> {
        self.parsed("compute_capability", |text| {
            let parts = text.split_once('.');
            parts
                .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
                .ok_or_else(|| "not a compute capability, as `9.0`".to_owned())
        })
    }

    fn caches(&mut self) -> Vec<CacheSize> {
        let text = self.text("caches").unwrap_or_default();
        let (caches, unread) = read_caches(text);
        for why in unread {
            self.refuse("caches", text, why);
        }
        caches
    }
}

fn whole(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "not a whole number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::residency::spell_caches;

    fn provenance(columns: &[(&str, &str)]) -> (Provenance, Vec<String>) {
        let mut run = Run::default();
        for (name, value) in columns {
            run.set(name, value);
        }
        let (provenance, unreadable) = Provenance::of(&run, 2);
        (provenance, unreadable.iter().map(Unreadable::to_string).collect())
    }

    #[test]
    fn facts_are_read_and_what_is_not_a_number_is_told() {
        let read = |value| {
            let (provenance, told) = provenance(&[
                ("compute_capability", "9.0"),
                ("sm_count", "132"),
                ("memory_clock_max_hz", value),
            ]);
            (provenance.device, told)
        };
        let (device, told) = read("3201000000");
        assert_eq!(told, [""; 0]);
        assert_eq!(device.compute_capability, Some((9, 0)));
        assert_eq!(device.sm_count, Some(132));
        assert_eq!(device.memory_clock_hz, Some(3.201e9));
        assert_eq!((device.sm_clock_hz, device.memory_bus_bits), (None, None));
        for nothing in ["", "0"] {
            let (device, told) = read(nothing);
            assert_eq!((device.memory_clock_hz, told.len()), (None, 0), "{nothing}");
        }
        for wrong in ["-1", "inf", "NaN", "3 GHz"] {
            let (device, told) = read(wrong);
            assert_eq!(device.memory_clock_hz, None, "{wrong}");
            let start = format!("run.csv line 2, column memory_clock_max_hz: `{wrong}`");
            assert!(told[0].starts_with(&start), "{told:?}");
        }
    }

    #[test]
    fn what_either_does_not_say_is_not_a_difference() {
        let run = |columns: &[(&str, &str)]| {
            let mut run = Run::default();
            columns.iter().for_each(|(name, value)| run.set(name, value));
            run
        };
        let was = run(&[("device", "A"), ("threads", "2"), ("backend", "cuda:0")]);
        let of = |is: &Run| differences(&was, is, &MACHINE_COLUMNS);
        assert_eq!(of(&was), []);
        assert_eq!(of(&run(&[("device", "A"), ("backend", "cuda:1")])), []);
        assert_eq!(of(&run(&[("threads", ""), ("simd", "avx2")])), []);
        let told = of(&run(&[("device", "B"), ("threads", "1"), ("backend", "cpu")]));
        let columns: Vec<&str> = told.iter().map(|d| d.column).collect();
        assert_eq!(columns, ["device", "backend", "threads"]);
        assert_eq!((told[2].was.as_str(), told[2].is.as_str()), ("2", "1"));
    }

    #[test]
    fn a_broken_column_costs_only_itself() {
        let (provenance, told) = provenance(&[
            ("device", "NVIDIA Test"),
            ("device_kind", "simulatd"),
            ("caches", "L2=4194304;L3=;L1=98304"),
            ("planned_rows", "44"),
            ("near_cache", "L1=25 MB"),
            ("seed", "x"),
        ]);
        assert_eq!(provenance.device.name, "NVIDIA Test");
        assert_eq!(spell_caches(&provenance.caches), "L1=98304;L2=4194304");
        assert_eq!(provenance.planned_rows, Some(44));
        assert_eq!((provenance.device_kind, provenance.seed), (None, None));
        assert_eq!(told.len(), 4, "{told:?}");
        assert_eq!(provenance.near_cache, None);
        assert!(
            told.iter().any(|told| told.contains("near_cache: `L1=25 MB`")),
            "{told:?}"
        );
        assert!(told[0].contains("known are measured and simulated"), "{told:?}");
    }
}
