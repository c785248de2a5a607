//! Data-sheet ceilings by device name. Users add rows of their own in a file
//! of the same form, `--machines FILE`: the sheet of a CPU, say, with as many
//! cores and memory channels as are in use.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::problem::DType;
use crate::roofline::{Bandwidth, ComputePeak, Peaks};

/// One machine as its maker states it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Short name.
    pub name: String,
    /// Part of the device's own name that tells it from all others.
    pub device: String,
    /// Memory bandwidth, bytes per second.
    pub bytes_per_s: f64,
    /// Dense FLOPs per second by number format.
    pub flops_per_s: BTreeMap<String, f64>,
    /// Where the figures stand.
    pub source: String,
}

/// Machines, the user's own before the built-in ones.
#[derive(Clone, Debug, Default)]
pub struct Machines(Vec<Machine>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    machine: Vec<Machine>,
}

impl Machines {
    /// The built-in table, and a user's file in front of it.
    ///
    /// # Errors
    /// A file that cannot be read, does not parse, or states an unknown format
    /// or a rate that is not positive.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let mut machines = match file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read machines {}", path.display()))?;
                parse(&text).with_context(|| path.display().to_string())?
            }
            None => Vec::new(),
        };
        machines.extend(parse(include_str!("machines.toml")).context("built-in machines")?);
        Ok(Machines(machines))
    }

    /// The data-sheet ceilings of a device, if a row matches its name.
    pub fn spec(&self, device_name: &str) -> Option<Peaks> {
        let machine = self.0.iter().find(|m| device_name.contains(&m.device))?;
        let compute = machine.flops_per_s.iter().filter_map(|(dtype, &flops_per_s)| {
            Some(ComputePeak { dtype: dtype.parse().ok()?, flops_per_s })
        });
        Some(Peaks {
            bandwidth: Bandwidth::flat(machine.bytes_per_s),
            compute: compute.collect(),
        })
    }
}

fn parse(text: &str) -> Result<Vec<Machine>> {
    let file: File = toml::from_str(text)?;
    for machine in &file.machine {
        let name = &machine.name;
        for (dtype, rate) in &machine.flops_per_s {
            if let Err(message) = dtype.parse::<DType>() {
                bail!("machine {name}: {message}");
            }
            if !(rate.is_finite() && *rate > 0.0) {
                bail!("machine {name}: {dtype} = {rate}; give FLOPs per second above 0");
            }
        }
        if !(machine.bytes_per_s.is_finite() && machine.bytes_per_s > 0.0) {
            bail!("machine {name}: bytes_per_s must be above 0");
        }
        if machine.device.is_empty() || machine.source.is_empty() {
            bail!("machine {name}: `device` and `source` must not be empty");
        }
    }
    Ok(file.machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_sheets_give_the_published_ridges() {
        let machines = Machines::load(None).unwrap();
        let golden = [
            ("NVIDIA A100-SXM4-80GB", 153.0),
            ("NVIDIA H100 80GB HBM3", 295.2),
            ("NVIDIA H200", 206.0),
        ];
        for (device, ridge) in golden {
            let spec = machines.spec(device).unwrap();
            assert!((spec.ridge(DType::Bf16).unwrap() - ridge).abs() < 0.05, "{device}");
        }
        assert_eq!(machines.spec("Some CPU"), None);
    }

    #[test]
    fn a_users_row_comes_first_and_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        let row = "[[machine]]\nname = \"mine\"\ndevice = \"H200\"\nbytes_per_s = 1e12\n\
                   flops_per_s = { f32 = 2e12 }\nsource = \"me\"\n";
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Machines::load(Some(&path)).map_err(|e| format!("{e:#}"))
        };
        let spec = load(row).unwrap().spec("NVIDIA H200").unwrap();
        assert_eq!(spec.ridge(DType::F32), Some(2.0));
        for (from, to, part) in [
            ("1e12", "0.0", "above 0"),
            ("f32", "f64", "no dtype"),
            ("source = \"me\"", "", "source"),
            ("name", "nam", "mine.toml"),
        ] {
            let error = load(&row.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
