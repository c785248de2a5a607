//! Options that several commands share, and the exit code that they share.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;

use crate::device;
use crate::model::machine::Machines;
use crate::suite::{Filter, Suite};

/// Exit code of a run that finished, but whose result must not be used.
pub const INVALID: u8 = 3;

/// Exit code of `verdict` where a claim is not what `--require` asks for.
pub const UNMET: u8 = 4;

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Aligned columns.
    #[default]
    Table,
    /// Comma-separated values.
    Csv,
    /// One JSON document.
    Json,
}

impl OutputFormat {
    /// The spelling on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            OutputFormat::Table => "table",
            OutputFormat::Csv => "csv",
            OutputFormat::Json => "json",
        }
    }
}

/// Which device to use.
#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// Where: cpu, cuda:0, or auto for a GPU where there is one; vm or vm:sm_80 for the PTX
    /// virtual machine, whose times are counted and not measured.
    #[arg(long = "device", default_value = "auto")]
    pub name: String,
    /// Take compiled kernels from this folder, which `ridgepoint kernels
    /// build` wrote, for a GPU on a machine without a compiler.
    #[arg(long, value_name = "DIR")]
    kernels: Option<PathBuf>,
}

impl DeviceArgs {
    pub fn options(&self) -> device::DeviceOptions {
        device::DeviceOptions { kernels: self.kernels.clone() }
    }
}

/// Which points of a suite, or of a campaign, a command is about.
#[derive(Debug, Default, clap::Args)]
pub struct FilterArgs {
    /// Only points that meet all of these conditions, such as
    /// 'op=decode_attention,batch>=8'. Keys are those of suites and the columns of
    /// results.csv; = != < <= > >=, with * and ? in words.
    #[arg(long, value_name = "CONDITIONS")]
    pub filter: Option<Filter>,
}

impl FilterArgs {
    /// A suite by its name or path, with those points.
    pub fn load(&self, suite: impl AsRef<OsStr>) -> Result<Suite> {
        Ok(Suite::load(suite)?.filtered(self.filter.as_ref())?)
    }
}

/// The user's data sheets.
#[derive(Debug, clap::Args)]
pub struct MachineFile {
    /// TOML file with data sheets of machines that the program does not know;
    /// see src/model/machines.toml for its form.
    #[arg(long = "machines", value_name = "FILE")]
    path: Option<PathBuf>,
}

impl MachineFile {
    pub fn load(&self) -> Result<Machines> {
        Machines::load(self.path.as_deref())
    }

    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}
