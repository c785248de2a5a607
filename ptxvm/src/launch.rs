//! Modules and launches.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rayon::prelude::*;

use crate::cache::Cache;
use crate::check::{GlobalRaces, Sectors};
use crate::count::Counts;
use crate::error::ParseError;
use crate::finding::{Fault, Finding, FindingKind, Findings};
use crate::instruction::{Kernel, KernelParam};
use crate::machine::{Run, fault};
use crate::memory::{Address, Memory};
use crate::options::Options;
use crate::schedule::{self, Share};
use crate::syntax::VariableSpace;

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

/// One launch.
#[derive(Debug, Clone)]
pub struct Launch<'a> {
    /// The kernel's name.
    pub entry: &'a str,
    /// Blocks of the grid, by axis.
    pub grid: [u32; 3],
    /// Threads of a block, by axis.
    pub block: [u32; 3],
    /// Blocks of a cluster, by axis; ones for no cluster.
    pub cluster: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// The parameter block: every parameter at its offset ([`Params`] builds it).
    pub params: Vec<u8>,
    /// Picks the order in which warps and blocks run.
    pub seed: u64,
    /// What `%clock64` begins at, and `%globaltimer` above its own beginning, so that
    /// launches one after the other see time pass. Both count a warp's instructions.
    pub clock: u64,
    /// Blocks to run, by their numbers in the grid (x counts fastest), with the clusters
    /// that they are in; `None` for all. What the others would have written stays
    /// unwritten, and nothing of theirs is counted: so the far end of a launch that moves
    /// tens of GiB is looked at in seconds.
    pub only: Option<Vec<Range<u64>>>,
    /// How to carry the launch out.
    pub options: Options,
}

impl<'a> Launch<'a> {
    /// A launch of `entry` with one block of one thread, and without parameters.
    pub fn new(entry: &'a str) -> Self {
        Self {
            entry,
            grid: [1; 3],
            block: [1; 3],
            cluster: [1; 3],
            shared_bytes: 0,
            params: Vec::new(),
            seed: 0,
            clock: 0,
            only: None,
            options: Options::default(),
        }
    }
}

/// Builds a parameter block, each parameter at its natural alignment.
#[derive(Debug, Clone, Default)]
pub struct Params {
    bytes: Vec<u8>,
}

impl Params {
    /// No parameters yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends raw bytes at a multiple of `align`.
    #[must_use]
    pub fn bytes(mut self, align: usize, bytes: &[u8]) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(align.max(1)), 0);
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends a pointer or another 64-bit integer.
    #[must_use]
    pub fn u64(self, value: u64) -> Self {
        self.bytes(8, &value.to_le_bytes())
    }

    /// Appends an unsigned 32-bit integer.
    #[must_use]
    pub fn u32(self, value: u32) -> Self {
        self.bytes(4, &value.to_le_bytes())
    }

    /// Appends a signed 32-bit integer.
    #[must_use]
    pub fn i32(self, value: i32) -> Self {
        self.bytes(4, &value.to_le_bytes())
    }

    /// Appends a 32-bit float.
    #[must_use]
    pub fn f32(self, value: f32) -> Self {
        self.bytes(4, &value.to_le_bytes())
    }

    /// The block.
    pub fn build(self) -> Vec<u8> {
        self.bytes
    }
}

/// What a launch did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Its work.
    pub counts: Counts,
    /// Mistakes that did not end it, in the order of the PTX.
    pub findings: Vec<Finding>,
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
        let kernels = source
            .entries
            .iter()
            .map(|entry| crate::decode::decode(&source, entry))
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
                kernel.blocks_communicate,
            ),
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

fn cluster(kernel: &Kernel, launch: &Launch<'_>) -> [u32; 3] {
    let asked = launch.cluster.map(|size| size.max(1));
    if asked == [1; 3] { kernel.cluster.unwrap_or(asked) } else { asked }
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

fn refuse(launch: &Launch<'_>, detail: impl Into<String>) -> Fault {
    let cause = Finding {
        kind: FindingKind::BadLaunch,
        kernel: launch.entry.to_owned(),
        source: None,
        ptx_line: 0,
        instruction: String::new(),
        block: [0; 3],
        thread: [0; 3],
        address: None,
        allocation: None,
        detail: detail.into(),
        times: 1,
    };
    Fault { cause: Box::new(cause), findings: Vec::new() }
}

/// Most shared memory of a block in bytes, including what the hardware reserves.
const MAX_SHARED: u32 = 228 * 1024;

fn product(axes: [u32; 3]) -> u64 {
    axes.iter().map(|&n| u64::from(n)).product()
}

fn validate(kernel: &Kernel, launch: &Launch<'_>, cluster: [u32; 3]) -> Result<(), Fault> {
    let threads = product(launch.block);
    let blocks = product(launch.grid);
    if threads == 0 || threads > 1024 || blocks == 0 || blocks > 1 << 31 {
        let text = format!(
            "{blocks} blocks of {threads} threads: a block has 1 to 1024 threads, a grid 1 to 2^31 blocks"
        );
        return Err(refuse(launch, text));
    }
    if let Some(most) = kernel.max_threads
        && threads > product(most)
    {
        let text = format!(
            "{threads} threads in a block, but the kernel allows {}",
            product(most)
        );
        return Err(refuse(launch, text));
    }
    if let Some(exactly) = kernel.required_threads
        && launch.block != exactly
    {
        return Err(refuse(
            launch,
            format!(
                "the kernel needs blocks of {exactly:?} threads, not {:?}",
                launch.block
            ),
        ));
    }
    validate_clusters(kernel, launch, cluster)?;
    let total = kernel.static_shared.saturating_add(launch.shared_bytes);
    if total > MAX_SHARED {
        return Err(refuse(
            launch,
            format!(
                "{total} bytes of shared memory in a block, but at most {MAX_SHARED} are possible"
            ),
        ));
    }
    if (launch.params.len() as u64) < kernel.param_bytes {
        let (given, wanted) = (launch.params.len(), kernel.param_bytes);
        return Err(refuse(
            launch,
            format!("{given} bytes of parameters, but the kernel declares {wanted}"),
        ));
    }
    Ok(())
}

fn validate_clusters(
    kernel: &Kernel,
    launch: &Launch<'_>,
    cluster: [u32; 3],
) -> Result<(), Fault> {
    if let Some(own) = kernel.cluster
        && own != cluster
    {
        let text = format!(
            "clusters of {cluster:?} blocks, but the kernel was compiled for {own:?}"
        );
        return Err(refuse(launch, text));
    }
    let whole = launch.grid.iter().zip(cluster).all(|(grid, cluster)| grid % cluster == 0);
    if !whole || product(cluster) > 16 {
        let text = format!(
            "a grid of {:?} blocks cannot be divided into clusters of {cluster:?}, of at most 16 blocks",
            launch.grid
        );
        return Err(refuse(launch, text));
    }
    Ok(())
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
    Ok(Report { counts, findings: findings.list })
}
