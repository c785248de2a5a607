//! Options that several subcommands share.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::cmd::axis;
use crate::cmd::options::{MachineFile, OutputFormat};
use crate::format::DType;
use crate::model::import::{self, Imported};
use crate::model::launch::Graphs;
use crate::model::llm::{self, Llm};
use crate::model::machine::Machines;
use crate::model::predict::{PeakBasis, Rates};
use crate::model::routing::ExpertRouting;
use crate::model::step::{FormatsChoice, Parallel, WeightsChoice};
use crate::model::task::Served;
use crate::model::workload::{self, Workload};
use crate::quant::{Quant, QuantPlace};

/// A file with models of the user's own.
#[derive(Debug, clap::Args)]
pub struct ModelFile {
    /// TOML file with models of your own; see src/model/models.toml for its form.
    #[arg(long = "models", value_name = "FILE")]
    model_path: Option<PathBuf>,
}

impl ModelFile {
    pub fn load(&self) -> Result<Vec<Llm>> {
        llm::load(self.model_path.as_deref())
    }
}

/// A file with workloads of the user's own.
#[derive(Debug, clap::Args)]
pub struct WorkloadFile {
    /// TOML file with workloads of your own; see src/model/workloads.toml for its form.
    #[arg(long = "workloads", value_name = "FILE")]
    workload_path: Option<PathBuf>,
}

impl WorkloadFile {
    pub fn load(&self) -> Result<Vec<Workload>> {
        workload::load(self.workload_path.as_deref())
    }
}

/// Files with rows of the user's own for all tables of facts.
#[derive(Debug, clap::Args)]
pub struct FactFiles {
    #[command(flatten)]
    models: ModelFile,
    #[command(flatten)]
    workloads: WorkloadFile,
    #[command(flatten)]
    machines: MachineFile,
}

/// The tables of facts.
pub struct Facts {
    pub models: Vec<Llm>,
    pub machines: Machines,
    pub workloads: Vec<Workload>,
}

impl FactFiles {
    pub fn load(&self) -> Result<Facts> {
        Ok(Facts {
            models: self.models.load()?,
            machines: self.machines.load()?,
            workloads: self.workloads.load()?,
        })
    }
}

/// How to print.
#[derive(Debug, clap::Args)]
pub struct Output {
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    pub format: OutputFormat,
}

/// A scheme of a cache. int4 is refused later, for cache and activations together.
fn cache_scheme(text: &str) -> std::result::Result<Quant, String> {
    match text.parse() {
        Ok(DType::Int4) => Ok(Quant::cache(DType::Int4)),
        _ => Quant::parse(text, QuantPlace::Cache),
    }
}

/// Models, the formats of their tensors, and how they are spread over GPUs.
#[derive(Debug, clap::Args)]
pub struct ServedOptions {
    /// Models, separated by commas: names in src/model/models.toml, or paths of config.json
    /// files of Hugging Face's form and of folders with one, such as ./my-model.
    #[arg(long = "model", value_delimiter = ',', default_value = "llama-3.1-70b")]
    models: Vec<String>,
    /// Formats of weights: bf16, f16, fp8_e4m3, int8, int4, mxfp4, mxfp8, nvfp4, or a scheme
    /// such as fp8_e4m3_block128x128, fp8_e4m3_tensor, int4_g32 or int4_g128_zp; with other
    /// schemes of parts after it, bf16+experts:mxfp4 (attention, dense, shared, router,
    /// experts, head); or shipped for those in which each model is published.
    #[arg(long, value_delimiter = ',', default_value = "bf16")]
    weights: Vec<WeightsChoice>,
    /// Formats of cached keys and values: bf16, f16, fp8_e4m3, int8, fp8_e4m3_tensor.
    #[arg(long, value_delimiter = ',', default_value = "bf16", value_parser = cache_scheme)]
    cache: Vec<Quant>,
    /// Formats of activations, in which steps compute.
    #[arg(long, value_delimiter = ',', default_value = "bf16")]
    activations: Vec<DType>,
    /// GPUs that share each layer (tensor parallelism).
    #[arg(long, value_name = "N", default_value = "1")]
    tensor: String,
    /// GPUs that share the experts of a layer; an expert is on one GPU (expert parallelism).
    #[arg(long, value_name = "N", default_value = "1")]
    expert: String,
    /// Groups of GPUs that divide the batch (data parallelism).
    #[arg(long, value_name = "N", default_value = "1")]
    data: String,
    /// How tokens choose experts: uniform, or zipf and an exponent, such as zipf:0.8, both in
    /// the mean; balanced touches as many experts as can be.
    #[arg(long, default_value_t)]
    pub routing: ExpertRouting,
    #[command(flatten)]
    model_file: ModelFile,
}

impl ServedOptions {
    /// The table of models, and after it those that are named by paths, in order.
    pub fn load(&self) -> Result<Vec<Llm>> {
        let mut table = self.model_file.load()?;
        table.extend(self.imported()?.into_iter().map(|imported| imported.model));
        Ok(table)
    }

    /// The models that are named by paths, with what was read of each.
    pub fn imported(&self) -> Result<Vec<Imported>> {
        let paths = self.models.iter().filter(|name| import::is_path(name));
        paths.map(|path| import::read(Path::new(path))).collect()
    }

    /// The models that are named, in the table of [`ServedOptions::load`].
    pub fn models<'a>(&self, table: &'a [Llm]) -> Result<Vec<&'a Llm>> {
        let paths = self.models.iter().filter(|name| import::is_path(name)).count();
        let (rows, imported) = table.split_at(table.len() - paths);
        let mut imported = imported.iter();
        let mut models = Vec::new();
        for name in &self.models {
            models.push(match imported.as_slice() {
                [first, ..] if import::is_path(name) => {
                    imported.next();
                    first
                }
                _ => llm::named(rows, name)?,
            });
        }
        Ok(models)
    }

    /// Every combination of formats.
    pub fn formats(&self) -> Result<Vec<FormatsChoice>> {
        let of_cache = self.cache.iter().map(|scheme| scheme.dtype());
        if of_cache.chain(self.activations.iter().copied()).any(|x| x == DType::Int4) {
            bail!("int4 is a format of weights; give another for cache and activations");
        }
        let of_peaks = [DType::Tf32, DType::Fp8E5m2, DType::F64];
        if let Some(dtype) = self.activations.iter().find(|x| of_peaks.contains(x)) {
            bail!("{dtype} is measured as a peak only; give another format of activations");
        }
        if self.activations.contains(&DType::Fp4E2m1) {
            bail!("activations in fp4_e2m1 need scales; give another format");
        }
        let mut formats = Vec::new();
        for &weights in &self.weights {
            for &cache in &self.cache {
                let of = |&activations| FormatsChoice { weights, cache, activations };
                formats.extend(self.activations.iter().map(of));
            }
        }
        Ok(formats)
    }

    /// Every way to spread a model.
    pub fn parallel(&self) -> Result<Vec<Parallel>> {
        let tensor = axis::of_option("tensor", &self.tensor)?;
        let expert = axis::of_option("expert", &self.expert)?;
        let data = axis::of_option("data", &self.data)?;
        let mut parallel = Vec::new();
        for &tensor in &tensor {
            for &expert in &expert {
                parallel.extend(data.iter().map(|&data| Parallel { tensor, expert, data }));
            }
        }
        Ok(parallel)
    }

    /// Every combination of model, formats and parallelism. `cache_hit` is the share of a
    /// prompt that a prefix cache holds, where the workload's own is not used.
    pub fn all<'a>(
        &self,
        table: &'a [Llm],
        cache_hit: Option<f64>,
    ) -> Result<Vec<Served<'a>>> {
        let (formats, parallel, routing) =
            (self.formats()?, self.parallel()?, self.routing);
        let mut all = Vec::new();
        for model in self.models(table)? {
            for formats in formats.iter().map(|formats| formats.of(model)) {
                let served =
                    |&parallel| Served { model, formats, parallel, routing, cache_hit };
                all.extend(parallel.iter().map(served));
            }
        }
        Ok(all)
    }
}

/// Machines, and which of their peaks count.
#[derive(Debug, clap::Args)]
pub struct MachineOptions {
    /// Machines, separated by commas; see src/model/machines.toml.
    #[arg(long = "machine", value_delimiter = ',', default_value = "h100-sxm,h200,b200")]
    machines: Vec<String>,
    /// Peaks to predict with.
    #[arg(long, value_enum, default_value_t)]
    peaks: PeakBasis,
    /// Whether launches are nodes of a graph, 2 us each, or the host starts each, 5 us.
    #[arg(long, value_enum, default_value_t)]
    graph: Graphs,
    #[command(flatten)]
    pub machine_file: MachineFile,
}

impl MachineOptions {
    /// The rates of the machines that are named.
    pub fn rates<'a>(&self, table: &'a Machines) -> Result<Vec<Rates<'a>>> {
        let rates = |name: &String| {
            Ok(Rates::new(table.named(name)?, self.peaks).with_graphs(self.graph))
        };
        self.machines.iter().map(rates).collect()
    }
}

/// Requests of a step.
#[derive(Debug, clap::Args)]
pub struct BatchOptions {
    /// Requests, on all GPUs together.
    #[arg(long, value_name = "N", default_value = "1")]
    batch: String,
}

impl BatchOptions {
    pub fn batches(&self) -> Result<Vec<u64>> {
        axis::of_option("batch", &self.batch)
    }
}

/// Contexts, given or those of workloads.
#[derive(Debug, clap::Args)]
pub struct ContextOptions {
    /// Tokens of each request, new ones included.
    #[arg(long, value_name = "N", default_value = "8192", conflicts_with = "workloads")]
    context: String,
    /// Take the tokens of requests from these workloads; see src/model/workloads.toml.
    #[arg(long = "workload", value_delimiter = ',')]
    workloads: Vec<String>,
    #[command(flatten)]
    pub workload_file: WorkloadFile,
}

impl ContextOptions {
    /// The contexts that are given; `None` where workloads are.
    pub fn contexts(&self) -> Result<Option<Vec<u64>>> {
        let is_given = self.workloads.is_empty();
        is_given.then(|| axis::of_option("context", &self.context)).transpose()
    }

    /// The workloads that are named.
    pub fn workloads<'a>(&self, table: &'a [Workload]) -> Result<Vec<&'a Workload>> {
        self.workloads.iter().map(|name| workload::named(table, name)).collect()
    }
}

/// Workloads of which whole turns are predicted.
#[derive(Debug, clap::Args)]
pub struct WorkloadOptions {
    /// Workloads, separated by commas, or all; see src/model/workloads.toml.
    #[arg(long = "workload", value_delimiter = ',')]
    workloads: Vec<String>,
    /// Share of a prompt that the prefix cache holds, instead of what workloads say.
    #[arg(long, value_name = "SHARE")]
    cache_hit: Option<f64>,
    #[command(flatten)]
    pub workload_file: WorkloadFile,
}

impl WorkloadOptions {
    /// The workloads that are named, or all.
    pub fn workloads<'a>(&self, table: &'a [Workload]) -> Result<Vec<&'a Workload>> {
        if self.workloads.is_empty() {
            return Ok(table.iter().collect());
        }
        self.workloads.iter().map(|name| workload::named(table, name)).collect()
    }

    /// The share of prompts that is found in the prefix cache, if it is given.
    pub fn cache_hit(&self) -> Result<Option<f64>> {
        match self.cache_hit {
            Some(hit) if !(0.0..=1.0).contains(&hit) => {
                bail!("--cache-hit {hit}; give a share from 0 to 1")
            }
            hit => Ok(hit),
        }
    }
}
