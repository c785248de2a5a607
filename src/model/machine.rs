//! Peaks by product, as data sheets state them. Users add machines in a file of the same
//! form, `--machines FILE`: for example a CPU, with the cores and memory channels that
//! are in use.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use super::identity::Identity;
use super::table::{self, Raw};
use crate::format::DType;
use crate::resource::{Link, LinkDirection};
use crate::roofline::{Bandwidth, ComputePeak, LinkPeak, Peaks};
use crate::toolchain::{Arch, Target};

/// Relative difference up to which a reported clock or bus width agrees with a row.
/// Drivers differ by 2% in the width of the same bus.
const TOLERANCE: f64 = 0.03;

/// A machine, as its maker states it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Short name.
    pub name: String,
    /// Words in the name of the device that tell it from others.
    pub device: String,
    /// Architecture of a CUDA device, which its row spells as a compute capability, `"9.0"`.
    #[serde(default, rename = "compute_capability", deserialize_with = "capability")]
    pub arch: Option<Arch>,
    /// Number of multiprocessors; a device that reports another number is another product.
    pub sm_count: Option<u64>,
    /// Memory clock in Hz, compared in the same way.
    pub memory_clock_hz: Option<f64>,
    /// Width of the memory bus in bits, compared in the same way.
    pub memory_bus_bits: Option<u64>,
    /// Memory bandwidth, bytes per second.
    pub bytes_per_s: f64,
    /// Dense FLOPs per second by number format.
    pub flops_per_s: BTreeMap<String, f64>,
    /// Capacity of the memory, bytes.
    pub memory_bytes: Option<f64>,
    /// Capacity of the last-level cache, bytes.
    pub l2_bytes: Option<f64>,
    /// Bandwidth to other GPUs over all links, in one direction, bytes per second.
    pub link_bytes_per_s: Option<f64>,
    /// Bandwidth to the host's memory, in one direction, bytes per second: PCIe or NVLink-C2C.
    pub host_link_bytes_per_s: Option<f64>,
    /// Bandwidth to other hosts, one way, bytes per second, where the machine brings a
    /// network adapter of its own.
    pub network_bytes_per_s: Option<f64>,
    /// Power limit of the board, watts.
    pub power_w: Option<f64>,
    /// Where the numbers are published.
    pub source: String,
}

/// What a data sheet says about a device.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSheet {
    /// Short name of the product.
    pub machine: String,
    /// Where the numbers are published.
    pub source: String,
    /// The peaks.
    pub peaks: Peaks,
    /// Capacity of the last-level cache in bytes, where it is stated.
    pub l2_bytes: Option<f64>,
}

/// A device that has the name of a product but is a different one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct SheetMismatch(String);

/// All machines: the user's table, if there is one, and the built-in table.
#[derive(Clone, Debug, Default)]
pub struct Machines(Vec<Vec<Machine>>);

impl Machines {
    /// Loads the user's file, if there is one, and the built-in table.
    ///
    /// # Errors
    /// The file cannot be read or does not parse, or it states an unknown format or a
    /// number that is not positive.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let mut tables = Vec::new();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read machines {}", path.display()))?;
            tables.push(table::parse::<Machine>(&path.display().to_string(), &text)?);
        }
        tables
            .push(table::parse::<Machine>("machines.toml", include_str!("machines.toml"))?);
        Ok(Machines(tables))
    }

    /// The row with a short name.
    ///
    /// # Errors
    /// No row has this name; the message lists the nearest names.
    pub fn named(&self, name: &str) -> Result<&Machine> {
        let rows: Vec<&Machine> = self.iter().collect();
        table::named(&rows, "machine", name, |machine| &machine.name).copied()
    }

    /// All rows, the user's first.
    pub fn iter(&self) -> impl Iterator<Item = &Machine> {
        self.0.iter().flatten()
    }

    /// The data sheet of a device. Rows whose words are in the name of the device compete:
    /// the first table that has one wins, and in it the row with the longest words. `None`
    /// where there is no such row.
    ///
    /// # Errors
    /// The device has the name of a row but reports other numbers.
    pub fn spec(&self, device: &Identity) -> Result<Option<DataSheet>, SheetMismatch> {
        let mut refused = None;
        for table in &self.0 {
            let named = || table.iter().filter(|m| device.is_named(&m.device));
            let longest = named().map(|m| m.device.len()).max();
            for machine in named().filter(|m| Some(m.device.len()) == longest) {
                match machine.disagreement(device) {
                    None => return Ok(Some(machine.sheet())),
                    Some(reason) => refused = refused.or(Some(SheetMismatch(reason))),
                }
            }
        }
        refused.map_or(Ok(None), Err)
    }
}

/// Reads `"9.0"`.
fn capability<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Arch>, D::Error> {
    let text = String::deserialize(from)?;
    let arch = text.split_once('.').and_then(|(major, minor)| {
        Some(Arch { major: major.parse().ok()?, minor: minor.parse().ok()? })
    });
    let refused = || {
        let message = format!("`{text}` is not a compute capability; write \"9.0\"");
        serde::de::Error::custom(message)
    };
    arch.map(Some).ok_or_else(refused)
}

impl Machine {
    /// What launches are planned for on this machine.
    ///
    /// # Errors
    /// A machine that is no CUDA device, one that is older than kernels are written for, one
    /// whose row lacks its multiprocessors; as a sentence.
    pub fn target(&self) -> Result<Target, String> {
        let name = &self.name;
        let Some(arch) = self.arch else {
            return Err(format!(
                "{name} has no compute capability in the table of machines, so it runs no CUDA \
                 kernels; name an NVIDIA GPU"
            ));
        };
        if arch < Arch::OLDEST {
            return Err(format!(
                "{name} is {arch}, and {} is the oldest that the kernels are written for",
                Arch::OLDEST
            ));
        }
        let sms = self.sm_count.and_then(|sms| u32::try_from(sms).ok());
        let sms = sms.ok_or_else(|| {
            format!(
                "the table of machines does not say how many multiprocessors {name} has"
            )
        })?;
        Ok(Target::new(arch, sms))
    }

    /// How the device differs from the row, as a sentence; `None` where they agree.
    fn disagreement(&self, device: &Identity) -> Option<String> {
        let bits = |n: u64| n as f64;
        let facts = [
            (
                "multiprocessors",
                1.0,
                0.0,
                self.sm_count.map(bits).zip(device.sm_count.map(bits)),
            ),
            (
                "MHz of memory clock",
                1e6,
                TOLERANCE,
                self.memory_clock_hz.zip(device.memory_clock_hz),
            ),
            (
                "bits of memory bus",
                1.0,
                TOLERANCE,
                self.memory_bus_bits.map(bits).zip(device.memory_bus_bits.map(bits)),
            ),
        ];
        facts.into_iter().find_map(|(what, unit, tolerance, values)| {
            let (stated, reported) = values?;
            let is_off = (reported / stated - 1.0).abs() > tolerance;
            is_off.then(|| {
                format!(
                    "the name \"{}\" says {}, which has {} {what}, but the device reports {}: no \
                     data sheet is used",
                    device.name,
                    self.name,
                    stated / unit,
                    reported / unit
                )
            })
        })
    }

    /// Dense FLOPs per second in a format, where they are stated.
    pub fn flops_per_s(&self, dtype: DType) -> Option<f64> {
        let name = match dtype {
            DType::Fp4E2m1 => STATED_FP4,
            // Sheets state one rate of fp8.
            DType::Fp8E5m2 => DType::Fp8E4m3.name(),
            _ => dtype.name(),
        };
        self.flops_per_s.get(name).copied()
    }

    /// Bytes per second of a link, one way, where they are stated.
    pub const fn link_bytes_per_s(&self, link: Link) -> Option<f64> {
        match link {
            Link::Host => self.host_link_bytes_per_s,
            Link::Peer => self.link_bytes_per_s,
            Link::Network => self.network_bytes_per_s,
        }
    }

    fn sheet(&self) -> DataSheet {
        let ways = Link::ALL
            .into_iter()
            .flat_map(|link| LinkDirection::ALL.map(|direction| (link, direction)));
        let links = ways.filter_map(|(link, direction)| {
            Some(LinkPeak { link, direction, bytes_per_s: self.link_bytes_per_s(link)? })
        });
        let stated = DType::ALL.into_iter().filter(|dtype| *dtype != DType::Fp4E2m1);
        let compute = stated.filter_map(|dtype| {
            Some(ComputePeak { dtype, flops_per_s: self.flops_per_s(dtype)? })
        });
        DataSheet {
            machine: self.name.clone(),
            source: self.source.clone(),
            peaks: Peaks {
                bandwidth: Bandwidth::flat(self.bytes_per_s),
                compute: compute.collect(),
                links: links.collect(),
            },
            l2_bytes: self.l2_bytes,
        }
    }
}

/// The name under which sheets state rates of products of mxfp4 and nvfp4. It is not a
/// format that anything here is measured in, so no [`DataSheet`] has it.
const STATED_FP4: &str = "fp4";

/// More than any machine has: what is beyond is a typing error, such as a unit too many.
const MOST_FLOPS_PER_S: f64 = 1e20;

impl Raw for Machine {
    type Checked = Machine;
    const KEY: &'static str = "machine";

    fn chosen_by(row: &Machine) -> Option<&str> {
        Some(&row.name)
    }

    fn check(self) -> Result<Machine, String> {
        let machine = &self;
        let name = &machine.name;
        for (dtype, rate) in &machine.flops_per_s {
            if dtype != STATED_FP4
                && let Err(message) = dtype.parse::<DType>()
            {
                return Err(format!("machine {name}: {message}"));
            }
            if !(*rate > 0.0 && *rate <= MOST_FLOPS_PER_S) {
                return Err(format!(
                    "machine {name}: {dtype} = {rate}; give FLOPs per second above 0 and up to \
                     {MOST_FLOPS_PER_S:e}"
                ));
            }
        }
        let numbers = [
            ("bytes_per_s", Some(machine.bytes_per_s), 1e16),
            ("sm_count", machine.sm_count.map(|n| n as f64), 1e6),
            ("memory_clock_hz", machine.memory_clock_hz, 1e12),
            ("memory_bus_bits", machine.memory_bus_bits.map(|n| n as f64), 1e6),
            ("memory_bytes", machine.memory_bytes, 1e16),
            ("l2_bytes", machine.l2_bytes, 1e16),
            ("link_bytes_per_s", machine.link_bytes_per_s, 1e16),
            ("host_link_bytes_per_s", machine.host_link_bytes_per_s, 1e16),
            ("network_bytes_per_s", machine.network_bytes_per_s, 1e16),
            ("power_w", machine.power_w, 1e6),
        ];
        for (key, number, most) in numbers {
            if number.is_some_and(|x| !(x > 0.0 && x <= most)) {
                return Err(format!(
                    "machine {name}: {key} must be above 0 and up to {most:e}"
                ));
            }
        }
        if machine.device.is_empty() || machine.source.is_empty() {
            return Err(format!("machine {name}: `device` and `source` must not be empty"));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::derived;

    fn named(name: &str) -> Identity {
        Identity { name: name.into(), ..Identity::default() }
    }

    fn machine_of(device: &Identity) -> Option<String> {
        let sheet = Machines::load(None).unwrap().spec(device).unwrap();
        sheet.map(|sheet| sheet.machine)
    }

    #[test]
    fn data_sheets_give_the_published_ridges() {
        let machines = Machines::load(None).unwrap();
        let golden = [
            ("NVIDIA A100-SXM4-80GB", 153.0),
            ("NVIDIA H100 80GB HBM3", 295.2),
            ("NVIDIA H200", 206.0),
            ("NVIDIA B200", 292.2),
        ];
        for (device, ridge) in golden {
            let sheet = machines.spec(&named(device)).unwrap().unwrap();
            assert!(
                (sheet.peaks.ridge(DType::Bf16).unwrap() - ridge).abs() < 0.05,
                "{device}"
            );
        }
        assert_eq!(machines.spec(&named("Some CPU")), Ok(None));
        // Products of mxfp4 and nvfp4 have the rate that sheets state as fp4.
        let fp4 = |name| machines.named(name).unwrap().flops_per_s(DType::Fp4E2m1);
        assert_eq!((fp4("b200"), fp4("h200")), (Some(9e15), None));
    }

    /// Names as drivers give them, with the rows that they belong to.
    const NAMES: [(&str, Option<&str>); 43] = [
        ("Tesla V100-SXM2-16GB", Some("v100-sxm2")),
        ("Tesla V100-SXM2-32GB", Some("v100-sxm2")),
        ("Tesla V100-PCIE-16GB", Some("v100-pcie")),
        ("Tesla V100S-PCIE-32GB", None),
        ("Tesla T4", Some("t4")),
        ("NVIDIA T400 4GB", None),
        ("NVIDIA A100-SXM4-40GB", Some("a100-sxm-40gb")),
        ("NVIDIA A100-SXM4-80GB", Some("a100-sxm-80gb")),
        ("NVIDIA A100-PCIE-40GB", Some("a100-pcie-40gb")),
        ("NVIDIA A100 80GB PCIe", Some("a100-pcie-80gb")),
        ("NVIDIA A10", Some("a10")),
        ("NVIDIA A10G", None),
        ("NVIDIA A30", Some("a30")),
        ("NVIDIA A40", Some("a40")),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA L4", Some("l4")),
        ("NVIDIA L40", Some("l40")),
        ("NVIDIA L40S", Some("l40s")),
        ("NVIDIA GeForce RTX 3090", Some("rtx-3090")),
        ("NVIDIA GeForce RTX 4090", Some("rtx-4090")),
        ("NVIDIA GeForce RTX 5090", Some("rtx-5090")),
        ("NVIDIA RTX 6000 Ada Generation", Some("rtx-6000-ada")),
        (
            "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
            Some("rtx-pro-6000-workstation"),
        ),
        (
            "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
            Some("rtx-pro-6000-max-q"),
        ),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", None),
        ("NVIDIA H100 80GB HBM3", Some("h100-sxm")),
        ("NVIDIA H100 PCIe", Some("h100-pcie")),
        ("NVIDIA H100 NVL", Some("h100-nvl")),
        ("NVIDIA H200", Some("h200")),
        ("NVIDIA H200 NVL", Some("h200-nvl")),
        ("NVIDIA H20", Some("h20")),
        ("NVIDIA H20-3e", Some("h20-3e")),
        ("NVIDIA H800", None),
        ("NVIDIA GH200 480GB", Some("gh200-96gb")),
        ("NVIDIA GH200 144G HBM3e", Some("gh200-144gb")),
        ("NVIDIA B200", Some("b200")),
        ("NVIDIA GB200", Some("gb200")),
        ("NVIDIA B300 SXM6 AC", Some("b300")),
        // Not measured, but named by their products.
        ("AMD Instinct MI300X", Some("mi300x")),
        ("AMD Instinct MI355X", Some("mi355x")),
        ("Google TPU v5p", Some("tpu-v5p")),
        ("Google TPU v6e", Some("tpu-v6e")),
        ("Intel Gaudi 3", Some("gaudi-3")),
    ];

    #[test]
    fn every_name_that_a_driver_reports_finds_its_own_row_or_none() {
        for (name, machine) in NAMES {
            assert_eq!(machine_of(&named(name)).as_deref(), machine, "{name}");
        }
        let rows: Vec<_> = NAMES.iter().filter_map(|(_, machine)| *machine).collect();
        for machine in Machines::load(None).unwrap().0.concat() {
            assert!(
                rows.contains(&machine.name.as_str()),
                "{} is never found",
                machine.name
            );
        }
    }

    /// Published boost clocks in Hz, of products whose data sheets state peaks at that
    /// clock.
    const BOOST: [(&str, (u32, u32), f64); 21] = [
        ("v100-sxm2", (7, 0), 1530e6),
        ("v100-pcie", (7, 0), 1380e6),
        ("t4", (7, 5), 1590e6),
        ("a100-sxm-40gb", (8, 0), 1410e6),
        ("a100-sxm-80gb", (8, 0), 1410e6),
        ("a100-pcie-80gb", (8, 0), 1410e6),
        ("a30", (8, 0), 1440e6),
        ("a10", (8, 6), 1695e6),
        ("a40", (8, 6), 1740e6),
        ("rtx-3090", (8, 6), 1695e6),
        ("l4", (8, 9), 2040e6),
        ("l40", (8, 9), 2490e6),
        ("l40s", (8, 9), 2520e6),
        ("rtx-4090", (8, 9), 2520e6),
        ("rtx-6000-ada", (8, 9), 2505e6),
        ("h100-sxm", (9, 0), 1830e6),
        ("h100-pcie", (9, 0), 1620e6),
        ("h200", (9, 0), 1830e6),
        ("rtx-5090", (12, 0), 2407e6),
        ("rtx-pro-6000-workstation", (12, 0), 2617e6),
        ("rtx-pro-6000-max-q", (12, 0), 2280e6),
    ];

    /// Machines of the table and what is planned for on them; the others are refused.
    #[test]
    fn launches_are_planned_for_what_the_row_says() {
        let machines = Machines::load(None).unwrap();
        let target = |name: &str| machines.named(name).unwrap().target();
        for (name, arch, sms) in [
            ("a100-sxm-80gb", "sm_80", 108),
            ("a10", "sm_86", 72),
            ("l40s", "sm_89", 142),
            ("h100-sxm", "sm_90a", 132),
            ("h20", "sm_90a", 78),
            ("b200", "sm_100a", 148),
            ("rtx-5090", "sm_120", 170),
        ] {
            let found = target(name).unwrap();
            assert_eq!((found.arch.to_string().as_str(), found.sms), (arch, sms), "{name}");
        }
        for (name, part) in [
            ("mi300x", "mi300x has no compute capability"),
            ("tpu-v6e", "tpu-v6e has no compute capability"),
            ("gaudi-3", "name an NVIDIA GPU"),
            ("t4", "t4 is sm_75, and sm_80 is the oldest"),
            ("v100-sxm2", "v100-sxm2 is sm_70"),
            ("gb200", "does not say how many multiprocessors gb200 has"),
        ] {
            let why = target(name).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
        for (name, capability, _) in BOOST {
            let (major, minor) = capability;
            let arch = machines.named(name).unwrap().arch;
            assert_eq!(arch, Some(Arch { major, minor }), "{name}");
        }
    }

    #[test]
    fn sheets_agree_with_clocks_and_with_rates_per_clock() {
        for machine in Machines::load(None).unwrap().0.concat() {
            let name = &machine.name;
            let is_near = |a: f64, b: f64| (a / b - 1.0).abs() < 0.022;
            if let (Some(clock), Some(bits)) =
                (machine.memory_clock_hz, machine.memory_bus_bits)
            {
                let derived = derived::bytes_per_s(clock, bits);
                assert!(is_near(derived, machine.bytes_per_s), "{name}: {derived:e}");
            }
            let Some((_, compute_capability, clock)) = BOOST.iter().find(|b| b.0 == name)
            else {
                continue;
            };
            let device = Identity {
                compute_capability: Some(*compute_capability),
                sm_count: machine.sm_count,
                ..named(&format!("NVIDIA {}", machine.device))
            };
            let sheet = machine.sheet().peaks;
            let derived = derived::compute(&device, *clock);
            assert_eq!(
                derived.len().min(sheet.compute.len()),
                sheet.compute.len(),
                "{name}"
            );
            // The data sheets of Hopper state f32 and f64 at a higher clock than the rest.
            let of_vector_units = [DType::F32, DType::F64];
            let skip =
                |dtype| *compute_capability == (9, 0) && of_vector_units.contains(&dtype);
            for peak in derived.into_iter().filter(|peak| !skip(peak.dtype)) {
                let Some(stated) = sheet.flops_per_s(peak.dtype) else { continue };
                let (dtype, derived) = (peak.dtype, peak.flops_per_s);
                assert!(is_near(derived, stated), "{name} {dtype}: {derived:e} {stated:e}");
            }
        }
    }

    #[test]
    fn numbers_tell_products_apart_that_share_a_name() {
        let machines = Machines::load(None).unwrap();
        let h100 = Identity {
            sm_count: Some(132),
            memory_clock_hz: Some(2619e6),
            memory_bus_bits: Some(5120),
            ..named("NVIDIA H100 80GB HBM3")
        };
        assert_eq!(machine_of(&h100).as_deref(), Some("h100-sxm"));
        let near = Identity { memory_clock_hz: Some(2600e6), ..h100.clone() };
        assert_eq!(machine_of(&near).as_deref(), Some("h100-sxm"));
        let reason = |device: Identity| machines.spec(&device).unwrap_err().to_string();
        assert_eq!(
            reason(Identity { memory_bus_bits: Some(6144), ..h100.clone() }),
            "the name \"NVIDIA H100 80GB HBM3\" says h100-sxm, which has 5120 bits of memory \
             bus, but the device reports 6144: no data sheet is used"
        );
        let slower = reason(Identity { memory_clock_hz: Some(1593e6), ..h100.clone() });
        assert!(slower.contains("2619 MHz of memory clock"), "{slower}");
        let slice = Identity {
            sm_count: Some(60),
            name: "NVIDIA H100 80GB HBM3 MIG 3g.40gb".into(),
            ..h100
        };
        assert!(reason(slice).contains("132 multiprocessors"));
        // The bus of the H200, as two drivers report it.
        for bits in [6016, 6144] {
            let h200 = Identity { memory_bus_bits: Some(bits), ..named("NVIDIA H200") };
            assert_eq!(machine_of(&h200).as_deref(), Some("h200"));
        }
        let laptop = Identity {
            memory_bus_bits: Some(256),
            ..named("NVIDIA GeForce RTX 4090 Laptop GPU")
        };
        assert!(reason(laptop).contains("384 bits"));
    }

    #[test]
    fn a_users_row_comes_first_and_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        let row = "[[machine]]\nname = \"mine\"\ndevice = \"H200\"\nbytes_per_s = 1e12\n\
                   memory_bus_bits = 64\nflops_per_s = { f32 = 2e12 }\nsource = \"me\"\n";
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Machines::load(Some(&path)).map_err(|e| format!("{e:#}"))
        };
        // The user's row wins although the built-in row has longer words.
        let device = Identity { memory_bus_bits: Some(64), ..named("NVIDIA H200 NVL") };
        let mine = load(row).unwrap();
        assert_eq!(mine.spec(&device).unwrap().unwrap().peaks.ridge(DType::F32), Some(2.0));
        // The user's row does not match this device, so a built-in row is used.
        let other = Identity { memory_bus_bits: Some(6144), ..named("NVIDIA H200") };
        assert_eq!(mine.spec(&other).unwrap().unwrap().machine, "h200");
        for (from, to, part) in [
            ("1e12", "0.0", "above 0"),
            ("= 64", "= 0", "above 0"),
            ("f32", "f33", "not a dtype"),
            ("source = \"me\"", "", "source"),
            ("name", "nam", "mine.toml"),
            ("source", "compute_capability = \"9\"\nsource", "write \"9.0\""),
        ] {
            let error = load(&row.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
