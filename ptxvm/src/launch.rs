//! Modules and launches.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rayon::prelude::*;

use crate::cache::Cache;
use crate::check::{GlobalRaces, Sectors};
use crate::count::Counts;
use crate::error::ParseError;
use crate::finding::{Fault, Finding, Findings};
use crate::instruction::{Kernel, KernelParam};
use crate::machine::{Run, fault};
use crate::maps::AcquiredMaps;
use crate::memory::{Address, Memory};
use crate::schedule::{self, Share};
use crate::syntax::{Source, VariableSpace};
use crate::target::{Platform, Target};

mod limits;
mod request;

use limits::{refuse, validate};
pub use request::{Launch, Params};

/// A loaded module: kernels and variables.
#[derive(Debug)]
pub struct Module {
    id: u64,
    kernels: Vec<Kernel>,
    files: HashMap<u32, String>,
    variables: Vec<ModuleVariable>,
}

#[derive(Debug)]
struct ModuleVariable {
    name: String,
    bytes: u64,
    init: Vec<u8>,
}

/// What a kernel requires of its launches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelInfo {
    /// Bytes of the parameter block.
    pub param_bytes: usize,
    /// Bytes of static shared memory.
    pub static_shared_bytes: u32,
    /// Bytes of local memory of a thread.
    pub local_bytes: u32,
    /// Registers that the PTX declares for a thread, in words of 32 bits, predicates left
    /// out. An assembler needs fewer.
    pub declared_registers: u32,
    /// Most threads of a block, by axis, where the kernel states them.
    pub max_threads: Option<[u32; 3]>,
    /// The cluster that the kernel was compiled for.
    pub cluster: Option<[u32; 3]>,
    /// Blocks that the kernel asks a multiprocessor to hold at least.
    pub min_blocks: Option<u32>,
}

/// What a launch did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Its work.
    pub counts: Counts,
    /// Mistakes that did not end it, in the order of the PTX.
    pub findings: Vec<Finding>,
    /// Bytes of the host's memory that the checks and counts of global memory took, besides
    /// [`Memory::bytes_held`].
    pub check_bytes: u64,
}

impl Module {
    /// Loads PTX text.
    ///
    /// # Errors
    /// If the text is malformed or uses something that is not implemented. The error names
    /// the instruction and its line.
    pub fn parse(ptx: &str) -> Result<Self, ParseError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let source = crate::parse::parse(ptx)?;
        if let Some(name) = crate::parse::duplicate(&source) {
            return Err(ParseError::new(1, format!("'{name}' is defined twice")));
        }
        let platform = platform(&source)?;
        let kernels = source
            .entries
            .iter()
            .map(|entry| crate::decode::decode(&source, entry, platform))
            .collect::<Result<_, _>>()?;
        let variables = source.variables.iter().map(|variable| ModuleVariable {
            name: variable.name.to_owned(),
            // Shared variables do not have a global address; they only keep their index.
            bytes: match variable.space {
                VariableSpace::Global | VariableSpace::Const => variable.bytes,
                VariableSpace::Shared | VariableSpace::Local => 0,
            },
            init: variable.init.clone(),
        });
        let variables = variables.collect();
        let id = NEXT.fetch_add(1, Relaxed);
        Ok(Self { id, kernels, files: source.files, variables })
    }

    /// The kernels' names.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.iter().map(|kernel| kernel.name.as_str())
    }

    /// What kernel `name` requires of its launches.
    pub fn kernel(&self, name: &str) -> Option<KernelInfo> {
        let kernel = self.kernels.iter().find(|kernel| kernel.name == name)?;
        Some(KernelInfo {
            param_bytes: kernel.param_bytes as usize,
            static_shared_bytes: kernel.static_shared,
            local_bytes: kernel.local_bytes,
            declared_registers: kernel.declared_registers,
            max_threads: kernel.max_threads.or(kernel.required_threads),
            cluster: kernel.cluster,
            min_blocks: kernel.min_blocks,
        })
    }

    /// The parameters of kernel `name`, in order.
    pub fn params(&self, name: &str) -> Option<&[KernelParam]> {
        let kernel = self.kernels.iter().find(|kernel| kernel.name == name)?;
        Some(&kernel.params)
    }

    /// The address of the module's global variable `name`. The first use of a module with a
    /// memory allocates its variables there.
    pub fn symbol(&self, memory: &mut Memory, name: &str) -> Option<Address> {
        let index = self.variables.iter().position(|variable| variable.name == name)?;
        Some(self.symbols(memory)[index])
    }

    fn symbols(&self, memory: &mut Memory) -> Vec<Address> {
        if let Some(addresses) = memory.modules.get(&self.id) {
            return addresses.clone();
        }
        let mut addresses = Vec::with_capacity(self.variables.len());
        for variable in &self.variables {
            if variable.bytes == 0 {
                addresses.push(0);
                continue;
            }
            let address = memory.alloc(variable.bytes, &variable.name);
            let mut bytes = variable.init.clone();
            bytes.resize(variable.bytes as usize, 0);
            memory.write(address, &bytes);
            addresses.push(address);
        }
        memory.modules.insert(self.id, addresses.clone());
        addresses
    }

    /// Runs a kernel to its end.
    ///
    /// # Errors
    /// If the launch could not continue: an access that would fault on a GPU, a deadlock, a
    /// trap, or a launch that is not possible.
    pub fn launch(
        &self,
        memory: &mut Memory,
        launch: &Launch<'_>,
    ) -> Result<Report, Fault> {
        let symbols = self.symbols(memory);
        let found = self.kernels.iter().find(|kernel| kernel.name == launch.entry);
        let Some(kernel) = found else {
            return Err(refuse(launch, "the module does not have a kernel of this name"));
        };
        let cluster = cluster(kernel, launch);
        validate(kernel, launch, cluster)?;
        let parallel = launch.options.parallel && !kernel.blocks_communicate;
        let l2 = launch.options.l2_bytes.map(|bytes| Mutex::new(Cache::new(bytes)));
        let parallel = parallel && l2.is_none();
        let run = Run {
            kernel,
            files: &self.files,
            memory,
            params: params(kernel, launch),
            grid: launch.grid,
            block: launch.block,
            cluster,
            dynamic_shared: launch.shared_bytes,
            clock: launch.clock,
            symbols,
            options: launch.options,
            races: GlobalRaces::new(
                memory,
                launch.options.checks,
                (kernel.blocks_communicate, kernel.narrow_scopes),
            ),
            maps: AcquiredMaps::default(),
            sectors: Sectors::new(memory),
            l2,
        };
        let clusters = clusters(launch, cluster);
        let shares = if parallel {
            // More shares than threads, so that the threads finish at about the same time.
            let size = clusters.len().div_ceil(8 * rayon::current_num_threads()).max(1);
            let share = |part: &[u64]| schedule::share(&run, part, launch.seed);
            clusters.par_chunks(size).map(share).collect()
        } else {
            vec![schedule::share(&run, &clusters, launch.seed)]
        };
        finish(&run, shares)
    }
}

/// The numbers of the clusters to run, in order.
fn clusters(launch: &Launch<'_>, cluster: [u32; 3]) -> Vec<u64> {
    let count: [u64; 3] =
        std::array::from_fn(|axis| u64::from(launch.grid[axis] / cluster[axis]));
    let all = count.iter().product();
    let Some(only) = &launch.only else { return (0..all).collect() };
    let [x, y, _] = launch.grid.map(u64::from);
    let blocks = x * y * u64::from(launch.grid[2]);
    let of_block = |block: u64| {
        let [i, j, k] = [block % x, block / x % y, block / x / y];
        let [a, b, c] = cluster.map(u64::from);
        i / a + count[0] * (j / b + count[1] * (k / c))
    };
    let chosen = only.iter().flat_map(|range| range.start..range.end.min(blocks));
    chosen.map(of_block).collect::<BTreeSet<u64>>().into_iter().collect()
}

/// What the module says that it is for.
fn platform(source: &Source<'_>) -> Result<Platform, ParseError> {
    let fail = |text: String| Err(ParseError::new(1, text).of_module());
    let Some(version) = source.version else {
        return fail("the module has no .version".to_owned());
    };
    let Some(name) = source.target else {
        return fail("the module has no .target".to_owned());
    };
    let Some(target) = Target::parse(name) else {
        return fail(format!(
            "the target '{name}' is not an architecture that is known here"
        ));
    };
    let least = target.version();
    if version < least {
        return fail(format!(
            "the target {target} needs PTX ISA {}.{}, but the module has .version {}.{}",
            least.0, least.1, version.0, version.1
        ));
    }
    Ok(Platform { target, version })
}

fn cluster(kernel: &Kernel, launch: &Launch<'_>) -> [u32; 3] {
    let asked = launch.cluster;
    if asked == [1; 3] { kernel.cluster.unwrap_or(asked) } else { asked }
}

fn params(kernel: &Kernel, launch: &Launch<'_>) -> Vec<u8> {
    let mut params = launch.params.clone();
    params.truncate(kernel.param_bytes as usize);
    params
}

/// Adds the shares up.
fn finish(run: &Run<'_>, shares: Vec<Share>) -> Result<Report, Fault> {
    let mut counts = Counts::default();
    let mut executed = vec![(0u64, 0u64); run.kernel.code.len()];
    let mut findings = Findings::default();
    let mut cause = None;
    for share in shares {
        counts.add(&share.counts);
        for (total, part) in executed.iter_mut().zip(&share.executed) {
            total.0 += part.0;
            total.1 += part.1;
        }
        share.findings.list.into_iter().for_each(|finding| findings.add(finding));
        cause = cause.or(share.stop);
    }
    findings.list.sort_by_key(|finding| (finding.ptx_line, finding.kind));
    if let Some(cause) = cause {
        return Err(fault(cause, findings));
    }
    for (instruction, (lanes, warps)) in run.kernel.code.iter().zip(executed) {
        counts.instructions[instruction.class as usize] += lanes;
        counts.warp_instructions += warps;
        if let Some((unit, flops)) = instruction.work {
            counts.flops[unit as usize] += lanes * u64::from(flops);
        }
    }
    (counts.distinct_sectors_read, counts.distinct_sectors_written) = run.sectors.totals();
    if let Some(l2) = &run.l2 {
        let mut l2 = l2.lock().unwrap_or_else(|lock| lock.into_inner());
        l2.flush();
        counts.dram_sectors_read = Some(l2.read);
        counts.dram_sectors_written = Some(l2.written);
    }
    let check_bytes = run.races.bytes_held() + run.sectors.bytes_held();
    Ok(Report { counts, findings: findings.list, check_bytes })
}
