//! What is queued on streams, and the GPU that executes it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ptxvm::{Fault, Finding, FindingKind, Launch, Memory, Options};

use crate::code::{Code, Result};
use crate::faults::{Faults, Kind, Outcome};
use crate::host::HostRange;
use crate::module::{Function, Shape};
use crate::remark::remark;

/// A number in the place of a pointer, for everything that the driver makes.
pub type Handle = usize;

/// What every launch and copy takes, in ns. Several times what a GPU takes, so that few
/// launches fill a sample.
const START_NS: u64 = 20_000;

/// What an event takes, in ns: two of them are never at the same time.
const EVENT_NS: u64 = 500;

/// What copies move in a ns.
const COPY_BYTES_PER_NS: u64 = 32;

/// Warp instructions after which a launch does not end any more.
const BUDGET: u64 = 1 << 30;

/// Blocks from which on a launch is spread over threads of the host: for fewer, waking them
/// takes longer than it saves.
const PARALLEL_BLOCKS: u64 = 32;

/// An entry of a stream or a graph.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A kernel.
    Launch(Arc<Launched>),
    /// A copy to the device.
    CopyIn {
        /// Where to.
        to: u64,
        /// Where from.
        from: HostRange,
    },
    /// A copy to the host.
    CopyOut {
        /// Where to.
        to: HostRange,
        /// Where from.
        from: u64,
    },
    /// Bytes that are all set to one value.
    Set {
        /// The first.
        address: u64,
        /// How many.
        bytes: u64,
        /// The value.
        value: u8,
    },
    /// The time is noted.
    Record(Handle),
    /// It waits for all entries of a stream that are older than this.
    Wait {
        /// Which stream.
        stream: Handle,
        /// The number of the first entry that it does not wait for.
        before: u64,
    },
}

/// A launch with its parameters.
#[derive(Debug)]
pub struct Launched {
    /// The kernel.
    pub function: Function,
    /// Its shape.
    pub shape: Shape,
    /// The parameter block.
    pub params: Vec<u8>,
}

/// Memory and clock of the GPU, and what has happened to it.
#[derive(Debug)]
pub struct Gpu {
    memory: Memory,
    /// Bytes of every live allocation, by address.
    allocations: BTreeMap<u64, u64>,
    /// Host memory that kernels reach, by its address for them.
    mapped: BTreeMap<u64, HostRange>,
    /// When each event was passed, in ns.
    passed_ns: HashMap<Handle, u64>,
    now_ns: u64,
    launched: u64,
    sms: u32,
    broken: Option<Code>,
}

impl Gpu {
    /// One with so many multiprocessors.
    pub fn new(sms: u32) -> Self {
        Gpu {
            memory: Memory::new(),
            allocations: BTreeMap::new(),
            mapped: BTreeMap::new(),
            passed_ns: HashMap::new(),
            now_ns: START_NS,
            launched: 0,
            sms,
            broken: None,
        }
    }

    /// What ended its context, if anything did.
    pub const fn broken(&self) -> Option<Code> {
        self.broken
    }

    /// Ends the context: every call answers this from now on.
    pub fn break_with(&mut self, code: Code) {
        self.broken = self.broken.or(Some(code));
    }

    /// Bytes that are allocated.
    pub fn allocated_bytes(&self) -> u64 {
        self.allocations.values().sum()
    }

    /// Allocates bytes that were never written.
    pub fn allocate(&mut self, bytes: u64) -> u64 {
        let name = format!("allocation {}", self.allocations.len() + 1);
        let address = self.memory.alloc(bytes, &name);
        self.allocations.insert(address, bytes);
        address
    }

    /// Frees what begins at an address.
    ///
    /// # Errors
    /// Nothing does.
    pub fn free(&mut self, address: u64) -> Result {
        self.allocations.remove(&address).ok_or(Code::INVALID_VALUE)?;
        self.memory.free(address);
        Ok(())
    }

    /// Whether bytes lie in one allocation.
    ///
    /// # Errors
    /// They do not.
    pub fn check(&self, address: u64, bytes: u64) -> Result {
        let found = self.allocations.range(..=address).next_back();
        let inside = found.is_some_and(|(&first, &size)| {
            address - first <= size && bytes <= size - (address - first)
        });
        if inside { Ok(()) } else { Err(Code::INVALID_VALUE) }
    }

    /// Lets kernels reach host memory, and says at which address.
    pub fn map(&mut self, range: HostRange) -> u64 {
        let known = self.mapped.iter().find(|(_, known)| **known == range);
        if let Some((&address, _)) = known {
            return address;
        }
        let address = self.memory.alloc(range.bytes() as u64, "host memory");
        self.mapped.insert(address, range);
        address
    }

    /// Ends that.
    pub fn unmap(&mut self, range: HostRange) {
        let known = self.mapped.iter().find(|(_, known)| **known == range);
        if let Some((&address, _)) = known {
            self.mapped.remove(&address);
            self.memory.free(address);
        }
    }

    /// When an event was passed, in ns; `None` if it was not.
    pub fn passed_ns(&self, event: Handle) -> Option<u64> {
        self.passed_ns.get(&event).copied()
    }

    /// Forgets when an event was passed: it was queued again, or destroyed.
    pub fn forget(&mut self, event: Handle) {
        self.passed_ns.remove(&event);
    }

    /// Executes an entry that waits for nothing.
    ///
    /// # Errors
    /// The code by which the context ended.
    pub fn execute(&mut self, entry: &Entry, faults: &mut Faults) -> Result {
        let done = match entry {
            Entry::Launch(launched) => self.launch(launched, faults),
            Entry::CopyIn { to, from } => self.copy_in(*to, from, faults),
            Entry::CopyOut { to, from } => self.copy_out(to, *from, faults),
            Entry::Set { address, bytes, value } => self.set(*address, *bytes, *value),
            Entry::Record(event) => {
                self.now_ns += EVENT_NS;
                self.passed_ns.insert(*event, self.now_ns);
                Ok(())
            }
            Entry::Wait { .. } => Ok(()),
        };
        done.inspect_err(|&code| self.break_with(code))
    }

    fn copy_in(&mut self, to: u64, from: &HostRange, faults: &mut Faults) -> Result {
        self.reach(to, from.bytes() as u64)?;
        let mut bytes = from.read();
        self.pass_copy(&mut bytes, faults);
        self.memory.write(to, &bytes);
        Ok(())
    }

    fn copy_out(&mut self, to: &HostRange, from: u64, faults: &mut Faults) -> Result {
        self.reach(from, to.bytes() as u64)?;
        let mut bytes = self.memory.read(from, to.bytes());
        self.pass_copy(&mut bytes, faults);
        to.write(&bytes);
        Ok(())
    }

    fn set(&mut self, address: u64, bytes: u64, value: u8) -> Result {
        self.reach(address, bytes)?;
        self.now_ns += START_NS + bytes / COPY_BYTES_PER_NS;
        self.memory.write(address, &vec![value; bytes as usize]);
        Ok(())
    }

    /// Memory may have been freed since it was queued.
    fn reach(&self, address: u64, bytes: u64) -> Result {
        self.check(address, bytes).map_err(|_| Code::ILLEGAL_ADDRESS)
    }

    fn pass_copy(&mut self, bytes: &mut [u8], faults: &mut Faults) {
        self.now_ns += START_NS + bytes.len() as u64 / COPY_BYTES_PER_NS;
        let size = bytes.len().to_string();
        if faults.now(Kind::Copy, |what| what == size) == Some(Outcome::Damages)
            && let Some(last) = bytes.last_mut()
        {
            *last ^= 1;
        }
    }

    fn launch(&mut self, launched: &Launched, faults: &mut Faults) -> Result {
        let Launched { function, shape, params } = launched;
        inject(function, faults)?;
        for (&address, range) in &self.mapped {
            self.memory.write(address, &range.read());
        }
        self.now_ns += START_NS;
        self.launched += 1;
        let asked = Launch {
            grid: shape.grid,
            block: shape.block,
            cluster: shape.cluster,
            non_portable_cluster: function.has_big_clusters(),
            shared_bytes: shape.shared_bytes,
            dynamic_shared_limit: Some(shape.shared_bytes),
            params: params.clone(),
            seed: self.launched,
            clock: self.now_ns,
            options: Options {
                budget: BUDGET,
                parallel: product(shape.grid) >= PARALLEL_BLOCKS,
                ..Options::default()
            },
            ..Launch::new(&function.entry)
        };
        let report = function
            .loaded
            .module
            .launch(&mut self.memory, &asked)
            .map_err(|Fault { cause, .. }| told(&cause))?;
        for (&address, range) in &self.mapped {
            range.write(&self.memory.read(address, range.bytes()));
        }
        self.now_ns += duration_ns(report.counts.warp_instructions, shape, self.sms);
        report.findings.first().map_or(Ok(()), |finding| Err(told(finding)))
    }
}

/// What a test wants to happen to a kernel.
fn inject(function: &Function, faults: &mut Faults) -> Result {
    let by_name = faults.now(Kind::Kernel, |what| *what == *function.entry);
    let by_text = faults.now(Kind::Ptx, |what| function.loaded.ptx.contains(what));
    match by_name.or(by_text) {
        Some(Outcome::Fails(code)) => Err(code),
        Some(Outcome::Hangs) => loop {
            std::thread::park();
        },
        Some(Outcome::Damages) | None => Ok(()),
    }
}

fn product(axes: [u32; 3]) -> u64 {
    axes.iter().map(|&n| u64::from(n)).product()
}

/// Instructions of all warps: a multiprocessor that has a warp starts one every ns.
fn duration_ns(warp_instructions: u64, shape: &Shape, sms: u32) -> u64 {
    let warps = product(shape.grid).saturating_mul(product(shape.block).div_ceil(32));
    warp_instructions / warps.clamp(1, u64::from(sms))
}

/// Prints a finding, and returns what a GPU would answer.
fn told(finding: &Finding) -> Code {
    remark(finding);
    match finding.kind {
        FindingKind::OutOfBounds | FindingKind::UseAfterFree => Code::ILLEGAL_ADDRESS,
        FindingKind::Misaligned => Code::MISALIGNED_ADDRESS,
        FindingKind::Deadlock | FindingKind::Timeout => Code::LAUNCH_TIMEOUT,
        FindingKind::BadOperand | FindingKind::Mbarrier => Code::ILLEGAL_INSTRUCTION,
        FindingKind::BadLaunch => Code::LAUNCH_OUT_OF_RESOURCES,
        _ => Code::LAUNCH_FAILED,
    }
}
