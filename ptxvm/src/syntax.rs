//! The structure of a PTX file: what the parser gives to the decoder.
//!
//! The meaning of instructions is not known here; names are text.

use std::collections::HashMap;

use crate::bank::Bank;
use crate::error::ParseError;

/// A register: its file, its place there and its declared width in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Register {
    pub bank: Bank,
    pub index: u16,
    pub bits: u32,
}

/// The state space of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VariableSpace {
    Global,
    Const,
    Shared,
    Local,
    /// Of a function: what is passed to the functions that it calls, and comes back.
    Param,
}

/// The first address of functions in bytes: outside of every allocation.
const FIRST_FUNCTION: u64 = 0x7c00_0000_0000;

/// The address of a module's device function number `index`.
pub(crate) fn function_address(index: usize) -> u64 {
    FIRST_FUNCTION + 16 * index as u64
}

/// An address among the initial values of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pointer<'a> {
    /// Its place in the variable.
    pub offset: u64,
    /// The variable or function that it points to.
    pub name: &'a str,
    /// What is added to that address.
    pub addend: i64,
    pub line: u32,
}

/// A variable of the module or of a function.
#[derive(Debug, Clone)]
pub(crate) struct Variable<'a> {
    pub name: &'a str,
    pub space: VariableSpace,
    pub align: u64,
    pub bytes: u64,
    /// The first bytes of its initial value; the rest is zero.
    pub init: Vec<u8>,
    /// Addresses among the initial values.
    pub pointers: Vec<Pointer<'a>>,
    /// `.extern .shared x[]`: the block's dynamic shared memory.
    pub dynamic: bool,
}

/// A kernel parameter.
#[derive(Debug, Clone)]
pub(crate) struct Param<'a> {
    pub name: &'a str,
    pub bytes: u64,
    /// Where it lies in the parameter block.
    pub offset: u64,
}

/// An operand, names unresolved.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand<'a> {
    /// A register, label, variable or `_`.
    Name(&'a str),
    /// `!name`.
    Not(&'a str),
    /// An integer, as its 64 bits.
    Int(u64),
    /// `0f...`.
    Float(u32),
    /// `0d...` or a decimal fraction.
    Double(u64),
    /// `name+4` outside of brackets.
    Offset(&'a str, i64),
    /// `[base+offset, more...]`.
    Address(Base<'a>, i64, Vec<Operand<'a>>),
    /// `{a, b, ...}`.
    List(Vec<Operand<'a>>),
    /// `a|b`.
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
}

/// What an address starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base<'a> {
    Name(&'a str),
    Absolute(u64),
}

/// One instruction.
#[derive(Debug, Clone)]
pub(crate) struct Statement<'a> {
    /// The guard: name and whether it is negated.
    pub guard: Option<(&'a str, bool)>,
    pub opcode: &'a str,
    pub operands: Vec<Operand<'a>>,
    pub line: u32,
    /// Index in the function's `places`, or `u32::MAX`.
    pub place: u32,
    pub scope: usize,
}

/// Registers declared together: `%r<89>` or a single name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Declared {
    pub first: Register,
    /// The number of registers `name0, name1, ...`; none for a single register.
    pub count: Option<u32>,
}

/// A `{ }` block: its registers, variables and labels.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope<'a> {
    pub parent: Option<usize>,
    pub registers: HashMap<&'a str, Declared>,
    pub variables: HashMap<&'a str, Variable<'a>>,
    pub labels: HashMap<&'a str, usize>,
    /// `.branchtargets` lists by label.
    pub targets: HashMap<&'a str, Vec<&'a str>>,
    /// `.callprototype` by label.
    pub prototypes: HashMap<&'a str, Prototype>,
    /// Names that stand for a variable of another scope: a called function's parameters.
    pub aliases: Vec<Alias<'a>>,
}

/// A name that stands for the variable `of` of scope `scope`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Alias<'a> {
    pub name: &'a str,
    pub scope: usize,
    pub of: &'a str,
}

/// The sizes of a function's results and parameters, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Prototype {
    pub results: Vec<u64>,
    pub params: Vec<u64>,
}

/// A source place from `.loc`: file number and line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub file: u32,
    pub line: u32,
}

/// A kernel or a device function.
#[derive(Debug, Default)]
pub(crate) struct Function<'a> {
    pub name: &'a str,
    pub line: u32,
    pub params: Vec<Param<'a>>,
    /// What a device function returns.
    pub results: Vec<Param<'a>>,
    /// Why its body cannot be parsed.
    pub error: Option<ParseError>,
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    pub cluster: Option<[u32; 3]>,
    /// `.maxclusterrank`: most blocks of a cluster.
    pub max_cluster: Option<u32>,
    /// `.explicitcluster`: the launch must name its clusters.
    pub explicit_cluster: bool,
    pub min_blocks: Option<u32>,
    /// `.maxnreg`: most registers of a thread.
    pub max_registers: Option<u32>,
    pub statements: Vec<Statement<'a>>,
    pub scopes: Vec<Scope<'a>>,
    pub places: Vec<Place>,
    /// Registers declared, by bank: predicates, words, doubles.
    pub register_counts: [u32; 3],
}

/// A whole module.
#[derive(Debug, Default)]
pub(crate) struct Source<'a> {
    pub version: Option<(u32, u32)>,
    pub target: Option<&'a str>,
    pub files: HashMap<u32, String>,
    pub variables: Vec<Variable<'a>>,
    pub entries: Vec<Function<'a>>,
    /// Device functions that have a body.
    pub functions: Vec<Function<'a>>,
}

impl Source<'_> {
    /// The file and line of a place.
    pub(crate) fn named(&self, place: Option<&Place>) -> Option<(String, u32)> {
        let place = place?;
        Some((self.files.get(&place.file)?.clone(), place.line))
    }
}

impl<'a> Function<'a> {
    /// The register `name` as seen from `scope`.
    pub(crate) fn register(&self, scope: usize, name: &str) -> Option<Register> {
        let mut at = Some(scope);
        while let Some(scope) = at {
            if let Some(found) = self.scopes[scope].register(name) {
                return Some(found);
            }
            at = self.scopes[scope].parent;
        }
        None
    }

    /// The index of the statement after label `name`.
    pub(crate) fn label(&self, scope: usize, name: &str) -> Option<usize> {
        self.up(scope).find_map(|scope| scope.labels.get(name).copied())
    }

    /// The branch targets listed under `name`.
    pub(crate) fn targets(&self, scope: usize, name: &str) -> Option<&[&'a str]> {
        self.up(scope).find_map(|scope| scope.targets.get(name)).map(Vec::as_slice)
    }

    /// The prototype with label `name`.
    pub(crate) fn prototype(&self, scope: usize, name: &str) -> Option<&Prototype> {
        self.up(scope).find_map(|scope| scope.prototypes.get(name))
    }

    /// The sizes of the function's own results and parameters.
    pub(crate) fn own_prototype(&self) -> Prototype {
        let bytes = |params: &[Param<'_>]| params.iter().map(|param| param.bytes).collect();
        Prototype { results: bytes(&self.results), params: bytes(&self.params) }
    }

    /// The scope, as seen from `scope`, that has a variable or alias `name`.
    pub(crate) fn home(&self, scope: usize, name: &str) -> Option<usize> {
        let mut at = Some(scope);
        while let Some(scope) = at {
            let found = &self.scopes[scope];
            let alias = found.aliases.iter().any(|alias| alias.name == name);
            if alias || found.variables.contains_key(name) {
                return Some(scope);
            }
            at = found.parent;
        }
        None
    }

    /// Bytes of the parameter block.
    pub(crate) fn param_bytes(&self) -> u64 {
        self.params.last().map_or(0, |param| param.offset + param.bytes)
    }

    fn up(&self, scope: usize) -> impl Iterator<Item = &Scope<'a>> {
        let parent = |scope: &&Scope<'a>| scope.parent.map(|at| &self.scopes[at]);
        std::iter::successors(self.scopes.get(scope), parent)
    }
}

impl Scope<'_> {
    fn register(&self, name: &str) -> Option<Register> {
        if let Some(declared) = self.registers.get(name)
            && declared.count.is_none()
        {
            return Some(declared.first);
        }
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let declared = self.registers.get(prefix)?;
        let digits = &name[prefix.len()..];
        if digits.len() > 1 && digits.starts_with('0') {
            return None;
        }
        let number: u32 = digits.parse().ok()?;
        let first = declared.first;
        (number < declared.count?)
            .then(|| Register { index: first.index + number as u16, ..first })
    }
}
