//! Modules and launches.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rayon::prelude::*;

use crate::cache::Cache;
use crate::check::{GlobalRaces, Sectors};
use crate::count::{Counts, LineCounts, Traffic};
use crate::error::ParseError;
use crate::finding::{Fault, Finding, Findings};
use crate::instruction::{Kernel, KernelParam};
use crate::machine::{Run, fault};
use crate::maps::AcquiredMaps;
use crate::memory::{Address, Memory};
use crate::printf::Printed;
use crate::schedule::{self, Share};
use crate::syntax::{Source, Variable, VariableSpace, function_address};
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
    /// Kernels that cannot run, and why.
    refused: Vec<(String, ParseError)>,
    files: HashMap<u32, String>,
    variables: Vec<ModuleVariable>,
}

#[derive(Debug)]
struct ModuleVariable {
    name: String,
    bytes: u64,
    /// Whether no launch writes to it.
    settled: bool,
    init: Vec<u8>,
    /// Addresses among its initial values: place, what is pointed to, what is added.
    pointers: Vec<(u64, PointsTo, i64)>,
}

/// What an initial value points to.
#[derive(Debug, Clone, Copy)]
enum PointsTo {
    /// The module's variable of this index.
    Variable(usize),
    /// A device function's address.
    Function(u64),
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
    /// What it printed, by block and thread.
    pub printed: Vec<Printed>,
    /// The traffic of every instruction that accesses memory, in the order of the PTX, with
    /// [`crate::Options::lines`].
    pub lines: Vec<LineCounts>,
    /// Bytes of the host's memory that the checks and counts of global memory took, besides
    /// [`Memory::bytes_held`].
    pub check_bytes: u64,
}

impl Module {
    /// Loads PTX text.
    ///
    /// A kernel that uses something that is not implemented does not keep the module's
    /// other kernels from running; [`Module::refused`] lists it.
    ///
    /// # Errors
    /// If the text is malformed, if its target does not have one of its instructions, or if
    /// none of its kernels can run. The error names the instruction and its line.
    pub fn parse(ptx: &str) -> Result<Self, ParseError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let source = crate::parse::parse(ptx)?;
        if let Some(name) = crate::parse::duplicate(&source) {
            return Err(ParseError::new(1, format!("'{name}' is defined twice")));
        }
        let platform = platform(&source)?;
        let (mut kernels, mut refused) = (Vec::new(), Vec::new());
        for entry in &source.entries {
            match crate::decode::decode(&source, entry, platform) {
                Ok(kernel) => kernels.push(kernel),
                Err(error) if error.whole_module => return Err(error),
                Err(error) => refused.push((entry.name.to_owned(), error)),
            }
        }
        if kernels.is_empty() && !refused.is_empty() {
            return Err(refused.swap_remove(0).1);
        }
        let variables =
            source.variables.iter().map(|variable| variable_of(&source, variable));
        let variables = variables.collect::<Result<_, _>>()?;
        let id = NEXT.fetch_add(1, Relaxed);
        Ok(Self { id, kernels, refused, files: source.files, variables })
    }

    /// The kernels that cannot run, and why.
    pub fn refused(&self) -> impl Iterator<Item = (&str, &ParseError)> {
        self.refused.iter().map(|(name, error)| (name.as_str(), error))
    }

    /// The names of the kernels that can run.
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
            if variable.settled {
                memory.settle(address);
            }
            addresses.push(address);
        }
        for (variable, &address) in self.variables.iter().zip(&addresses) {
            let mut bytes = variable.init.clone();
            bytes.resize(variable.bytes as usize, 0);
            for &(offset, what, addend) in &variable.pointers {
                let target = match what {
                    PointsTo::Variable(index) => addresses[index],
                    PointsTo::Function(address) => address,
                };
                let value = target.wrapping_add(addend as u64).to_le_bytes();
                bytes[offset as usize..][..8].copy_from_slice(&value);
            }
            if !bytes.is_empty() {
                memory.write(address, &bytes);
            }
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
        self.symbols(memory);
        let found = self.kernels.iter().find(|kernel| kernel.name == launch.entry);
        let Some(kernel) = found else {
            let why = self.refused.iter().find(|(name, _)| name == launch.entry);
            let text = match why {
                Some((_, error)) => format!("the kernel cannot run: {error}"),
                None => "the module does not have a kernel of this name".to_owned(),
            };
            return Err(refuse(launch, text));
        };
        let cluster = cluster(kernel, launch);
        validate(kernel, launch, cluster)?;
        // Where CUDA's cooperative groups count the blocks that have arrived.
        let barrier = launch.cooperative.then(|| memory.alloc(64, "the grid's barrier"));
        if let Some(address) = barrier {
            memory.write(address, &[0; 64]);
        }
        let outcome = self.run(memory, launch, (kernel, cluster), barrier.unwrap_or(0));
        if let Some(address) = barrier {
            memory.free(address);
        }
        outcome
    }

    fn run(
        &self,
        memory: &Memory,
        launch: &Launch<'_>,
        (kernel, cluster): (&Kernel, [u32; 3]),
        grid_barrier: Address,
    ) -> Result<Report, Fault> {
        let symbols = memory.modules.get(&self.id).cloned().unwrap_or_default();
        let parallel = launch.options.parallel && !kernel.blocks_communicate;
        let partitions = launch.options.l2_partitions;
        let l2 = launch.options.l2_bytes;
        let l2 = l2.map(|bytes| Mutex::new(Cache::new(bytes, partitions)));
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
            grid_barrier,
            overlaps_previous: launch.overlaps_previous,
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

/// A variable as launches need it. Shared variables do not have a global address; they only
/// keep their index.
fn variable_of(
    source: &Source<'_>,
    variable: &Variable<'_>,
) -> Result<ModuleVariable, ParseError> {
    let global = matches!(variable.space, VariableSpace::Global | VariableSpace::Const);
    let mut pointers = Vec::new();
    for pointer in &variable.pointers {
        let name = pointer.name;
        let variables = source.variables.iter();
        let what = match variables.clone().position(|other| other.name == name) {
            Some(index) => PointsTo::Variable(index),
            None => match source.functions.iter().position(|f| f.name == name) {
                Some(index) => PointsTo::Function(function_address(index)),
                None => {
                    let text = format!(
                        "variable '{}' points to '{name}', which is not a variable or a \
                         function with a body",
                        variable.name
                    );
                    return Err(ParseError::new(pointer.line, text));
                }
            },
        };
        pointers.push((pointer.offset, what, pointer.addend));
    }
    Ok(ModuleVariable {
        name: variable.name.to_owned(),
        bytes: if global { variable.bytes } else { 0 },
        settled: variable.space == VariableSpace::Const,
        init: variable.init.clone(),
        pointers,
    })
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
    let (mut cause, mut printed) = (None, Vec::new());
    let mut traffic = vec![Traffic::default(); executed.len()];
    for share in shares {
        counts.add(&share.counts);
        for (total, part) in executed.iter_mut().zip(&share.executed) {
            total.0 += part.0;
            total.1 += part.1;
        }
        share.findings.list.into_iter().for_each(|finding| findings.add(finding));
        for (total, part) in traffic.iter_mut().zip(&share.traffic) {
            total.add_between(&Traffic::default(), part);
        }
        printed.extend(share.printed);
        cause = cause.or(share.stop);
    }
    findings.list.sort_by_key(|finding| (finding.ptx_line, finding.kind));
    let reversed = |[x, y, z]: [u32; 3]| [z, y, x];
    printed.sort_by_key(|p: &Printed| (reversed(p.block), reversed(p.thread)));
    if let Some(cause) = cause {
        return Err(fault(cause, findings, printed));
    }
    let lines = lines(run, &executed, &traffic);
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
        counts.dram_sectors_left = Some(l2.flush());
        counts.dram_sectors_read = Some(l2.read);
        counts.dram_sectors_written = Some(l2.written);
    }
    let check_bytes = run.races.bytes_held() + run.sectors.bytes_held();
    Ok(Report { counts, findings: findings.list, printed, lines, check_bytes })
}

/// The instructions with traffic.
fn lines(run: &Run<'_>, executed: &[(u64, u64)], traffic: &[Traffic]) -> Vec<LineCounts> {
    let kernel = run.kernel;
    let counted = kernel.code.iter().zip(executed).zip(traffic);
    let moved = counted.filter(|(_, traffic)| **traffic != Traffic::default());
    let mut lines: Vec<LineCounts> = moved
        .map(|((instruction, &(_, requests)), &traffic)| {
            let place = kernel.places.get(instruction.place as usize);
            let file = |number: u32| run.files.get(&number).cloned().unwrap_or_default();
            LineCounts {
                source: place.map(|place| (file(place.file), place.line)),
                ptx_line: instruction.line,
                instruction: kernel.texts[instruction.text as usize].clone(),
                requests,
                traffic,
            }
        })
        .collect();
    lines.sort_by_key(|line| line.ptx_line);
    lines
}
