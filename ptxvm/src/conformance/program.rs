//! A program, what its output must be, and its run on the virtual machine.

use std::fmt;

use thiserror::Error;

use super::number::Format;
use crate::{Fault, Launch, Memory, Module, Params, ParseError, Report, TensorMap};

/// One program: an entry `k` with the parameters `(.param .u64 in, .param .u64 out)`
/// and 128 bytes, aligned to 64, for every tensor map.
#[derive(Clone, Debug)]
pub struct Program {
    /// The instruction, or what is done with it; unique among the programs.
    pub name: String,
    /// The family of instructions.
    pub family: &'static str,
    /// The oldest architecture that has all of its instructions, such as `sm_90a`.
    pub target: &'static str,
    /// The module.
    pub ptx: String,
    /// Blocks of the grid, by axis.
    pub grid: [u32; 3],
    /// Threads of a block, by axis.
    pub block: [u32; 3],
    /// Blocks of a cluster, by axis.
    pub cluster: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// What `in` points to. The program may change it.
    pub input: Vec<u8>,
    /// Bytes of what `out` points to.
    pub output_bytes: usize,
    /// Tensor maps; their addresses are relative to `in`.
    pub tensor_maps: Vec<TensorMap>,
    /// What must be in the output. Bytes without a case are not checked.
    pub cases: Vec<Case>,
    /// Instead, the launch must end with a fault: the rule that the program breaks, in
    /// words of the virtual machine's fault. Such a program has no cases. It is right where
    /// the launch fails, and wrong where it runs to its end.
    pub must_fault: Option<&'static str>,
}

/// One value of the output.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// What it is, for messages.
    pub label: String,
    /// Its first byte in the output.
    pub offset: usize,
    /// Its bytes, at most 8.
    pub bytes: usize,
    /// What it must be.
    pub wanted: Wanted,
}

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// These bits.
    Bits(u64),
    /// Any NaN of the format, because the ISA leaves open which.
    Nan(Format),
    /// A value within the error that the ISA allows.
    Near {
        /// The exact value.
        value: f64,
        /// The largest difference that is allowed.
        margin: f64,
        /// How the bits are read.
        format: Format,
    },
}

impl Wanted {
    /// Whether `bits` are allowed.
    pub fn allows(&self, bits: u64) -> bool {
        match *self {
            Wanted::Bits(wanted) => bits == wanted,
            Wanted::Nan(format) => format.is_nan(bits),
            Wanted::Near { value, margin, format } => {
                (format.to_f64(bits) - value).abs() <= margin
            }
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wanted::Bits(bits) => write!(f, "{bits:#x}"),
            Wanted::Nan(_) => write!(f, "a NaN"),
            Wanted::Near { value, margin, .. } => {
                write!(f, "{value:e} within {margin:.1e}")
            }
        }
    }
}

/// A wrong value.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// The place in [`Program::cases`].
    pub case: usize,
    /// The case's label.
    pub label: String,
    /// What it must be.
    pub wanted: Wanted,
    /// The bits that are there.
    pub got: u64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, not {:#x}", self.label, self.wanted, self.got)
    }
}

/// What a run on the virtual machine gave.
#[derive(Clone, Debug)]
pub struct Run {
    /// The output's bytes.
    pub output: Vec<u8>,
    /// What the virtual machine counted and found.
    pub report: Report,
}

/// Why a program did not run on the virtual machine.
#[derive(Debug, Error)]
pub enum RunError {
    /// It cannot be loaded.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// It did not run to its end.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Program {
    /// The byte that the output is filled with before a run, so that bytes that were never
    /// written are noticed.
    pub const UNWRITTEN: u8 = 0xa5;

    /// Runs it on the virtual machine; `seed` picks the order of warps and blocks.
    ///
    /// # Errors
    /// If the virtual machine does not load the program, or the program faults.
    ///
    /// # Panics
    /// If a tensor map is not valid.
    pub fn run(&self, seed: u64) -> Result<Run, RunError> {
        let module = Module::parse(&self.ptx)?;
        let mut memory = Memory::new();
        let input = memory.alloc(self.input.len() as u64, "in");
        memory.write(input, &self.input);
        let output = memory.alloc(self.output_bytes as u64, "out");
        memory.write(output, &vec![Self::UNWRITTEN; self.output_bytes]);
        memory.forget(output, self.output_bytes as u64);
        let mut params = Params::new().u64(input).u64(output);
        for map in self.maps_at(input) {
            let encoded = map.encode().expect("a map of the program list is valid");
            params = params.bytes(64, &encoded);
        }
        let launch = Launch {
            grid: self.grid,
            block: self.block,
            cluster: self.cluster,
            shared_bytes: self.shared_bytes,
            dynamic_shared_limit: Some(self.shared_bytes),
            params: params.build(),
            seed,
            ..Launch::new("k")
        };
        let report = module.launch(&mut memory, &launch)?;
        Ok(Run { output: memory.read(output, self.output_bytes), report })
    }

    /// The tensor maps for an input at this address.
    pub fn maps_at(&self, input: u64) -> Vec<TensorMap> {
        let moved =
            |map: &TensorMap| TensorMap { address: map.address + input, ..map.clone() };
        self.tensor_maps.iter().map(moved).collect()
    }

    /// The cases for which `output`, of `output_bytes` bytes, is wrong.
    ///
    /// # Panics
    /// If the output is shorter.
    pub fn mismatches(&self, output: &[u8]) -> Vec<Mismatch> {
        let wrong = |(number, case): (usize, &Case)| {
            let mut bytes = [0; 8];
            bytes[..case.bytes].copy_from_slice(&output[case.offset..][..case.bytes]);
            let got = u64::from_le_bytes(bytes);
            (!case.wanted.allows(got)).then(|| Mismatch {
                case: number,
                label: case.label.clone(),
                wanted: case.wanted,
                got,
            })
        };
        self.cases.iter().enumerate().filter_map(wrong).collect()
    }
}
