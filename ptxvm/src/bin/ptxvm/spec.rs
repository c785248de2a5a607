//! The specification of a launch, as its file has it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::format::{Format, Number};
use crate::{Result, usage};

/// A launch.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The kernel; without it, the module's only one.
    pub entry: Option<String>,
    /// What a .cu file is compiled for.
    #[serde(default = "default_arch")]
    pub arch: String,
    /// More options for the compiler.
    #[serde(default)]
    pub flags: Vec<String>,
    /// Blocks of the grid.
    #[serde(default)]
    pub grid: Extents,
    /// Threads of a block.
    #[serde(default)]
    pub block: Extents,
    /// Blocks of a cluster.
    #[serde(default)]
    pub cluster: Extents,
    /// Bytes of dynamic shared memory.
    #[serde(default)]
    pub shared_bytes: u32,
    /// What the kernel's attribute for dynamic shared memory is set to.
    pub shared_limit: Option<u32>,
    /// Whether clusters of more than 8 blocks are allowed.
    #[serde(default)]
    pub non_portable_cluster: bool,
    /// Whether the launch is cooperative.
    #[serde(default)]
    pub cooperative: bool,
    /// Whether the launch may begin while the one before it ends.
    #[serde(default)]
    pub overlaps_previous: bool,
    /// Registers of a thread, as the assembler says.
    pub registers: Option<u32>,
    /// The device's architecture.
    pub device: Option<String>,
    /// The schedules to try.
    #[serde(default = "default_seeds")]
    pub seeds: Vec<u64>,
    /// Most warp instructions of a launch.
    pub budget: Option<u64>,
    /// The kernel's parameters, in order.
    #[serde(default)]
    pub params: Vec<Param>,
    #[serde(default)]
    pub buffer: BTreeMap<String, Buffer>,
    #[serde(default)]
    pub map: BTreeMap<String, Map>,
    #[serde(default)]
    pub expect: BTreeMap<String, Expect>,
    /// The folder that files are relative to.
    #[serde(skip)]
    pub folder: PathBuf,
}

fn default_arch() -> String {
    "sm_90a".to_owned()
}

fn default_seeds() -> Vec<u64> {
    vec![0, 1, 2]
}

/// One to three extents: `256` or `[16, 16]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Extents {
    One(u32),
    Some(Vec<u32>),
}

impl Default for Extents {
    fn default() -> Self {
        Self::One(1)
    }
}

impl Extents {
    /// All three of them.
    pub fn all(&self) -> [u32; 3] {
        match self {
            Self::One(x) => [*x, 1, 1],
            Self::Some(list) => std::array::from_fn(|n| list.get(n).copied().unwrap_or(1)),
        }
    }
}

/// A parameter: `{ buffer = "x" }`, `{ map = "tiles" }`, `{ f32 = 0.5 }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Param {
    Buffer {
        buffer: String,
        #[serde(default)]
        offset: u64,
    },
    Map {
        map: String,
    },
    /// Bytes of a structure.
    Bytes {
        bytes: Vec<u8>,
    },
    /// One number by its format.
    Scalar(BTreeMap<String, Number>),
}

/// A buffer in global memory.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buffer {
    pub format: Format,
    pub shape: Vec<u64>,
    #[serde(default)]
    pub init: Init,
    /// Whether no launch writes to it.
    #[serde(default)]
    pub settled: bool,
}

/// What a buffer begins with.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Init {
    /// Nothing: reading it is a mistake.
    #[default]
    Unwritten,
    Zeros,
    Constant(Number),
    /// 0, 1, 2 ..., each times `step`, plus `start`, and modulo `modulo`.
    Counting {
        #[serde(default)]
        start: f64,
        #[serde(default = "one")]
        step: f64,
        modulo: Option<u64>,
    },
    /// Uniform between `low` and `high`.
    Random {
        seed: u64,
        #[serde(default = "minus_one")]
        low: f64,
        #[serde(default = "one")]
        high: f64,
    },
    Values(Vec<Number>),
    File(PathBuf),
}

fn one() -> f64 {
    1.0
}

fn minus_one() -> f64 {
    -1.0
}

/// A tensor map over a buffer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Map {
    pub buffer: String,
    /// Bytes of the buffer before the tensor.
    #[serde(default)]
    pub offset: u64,
    /// The element type, where it is not that of the buffer.
    pub element: Option<String>,
    /// Extents, the innermost first.
    pub dims: Vec<u64>,
    /// Bytes from one element to the next, from the second dimension on; without them, the
    /// tensor has no gaps.
    pub strides: Option<Vec<u64>>,
    /// The box that a copy moves.
    #[serde(rename = "box")]
    pub box_dims: Vec<u32>,
    /// Bytes of the swizzle: 0, 32, 64 or 128.
    #[serde(default)]
    pub swizzle: u32,
    /// Whether elements outside are NaN.
    #[serde(default)]
    pub nan: bool,
}

/// What a buffer must hold in the end.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    pub values: Option<Vec<Number>>,
    pub constant: Option<Number>,
    pub file: Option<PathBuf>,
    /// The first element that is compared.
    #[serde(default)]
    pub from: usize,
    /// Differences up to `absolute + relative * |expected|` are allowed.
    #[serde(default)]
    pub absolute: f64,
    #[serde(default)]
    pub relative: f64,
}

impl Spec {
    /// Reads a specification.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return usage(format!("cannot read {}: {error}", path.display())),
        };
        let mut spec: Spec = match toml::from_str(&text) {
            Ok(spec) => spec,
            Err(error) => return usage(format!("{}: {error}", path.display())),
        };
        spec.folder = path.parent().unwrap_or(Path::new("")).to_owned();
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<()> {
        for (what, extents) in
            [("grid", &self.grid), ("block", &self.block), ("cluster", &self.cluster)]
        {
            if let Extents::Some(list) = extents
                && !(1..=3).contains(&list.len())
            {
                return usage(format!("{what} has {} extents, not 1 to 3", list.len()));
            }
        }
        if self.seeds.is_empty() {
            return usage("seeds must name at least one schedule");
        }
        for name in self.expect.keys() {
            if !self.buffer.contains_key(name) {
                return usage(format!("expect.{name}: there is no buffer '{name}'"));
            }
        }
        Ok(())
    }
}
