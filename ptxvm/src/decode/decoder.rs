//! The decoder's state, and how instructions are appended.

use std::collections::{HashMap, HashSet};

use crate::bank::Bank;
use crate::count::{Class, Unit};
use crate::error::ParseError;
use crate::instruction::{Initial, Instruction, Op, Type};
use crate::lanes::{Args, Wide};
use crate::syntax::{Function, Operand, Source, Statement};
use crate::target::Platform;

pub(crate) type Result<T> = std::result::Result<T, ParseError>;

/// The parts of an opcode. The decoder takes them one by one; what remains is not
/// implemented.
pub(crate) struct Parts<'a> {
    pub(super) rest: Vec<&'a str>,
}

impl<'a> Parts<'a> {
    /// Takes the part `name`; says whether there was one.
    pub(crate) fn take(&mut self, name: &str) -> bool {
        let found = self.rest.iter().position(|&part| part == name);
        if let Some(at) = found {
            self.rest.remove(at);
        }
        found.is_some()
    }

    /// Takes the first part that is one of `names`.
    pub(crate) fn any(&mut self, names: &[&'static str]) -> Option<&'static str> {
        let at = self.rest.iter().position(|part| names.contains(part))?;
        let part = self.rest.remove(at);
        names.iter().copied().find(|&name| name == part)
    }

    /// Takes the first part that `f` maps to something.
    pub(crate) fn find<T>(&mut self, f: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (at, found) =
            self.rest.iter().enumerate().find_map(|(at, part)| Some((at, f(part)?)))?;
        self.rest.remove(at);
        Some(found)
    }

    /// Takes the first type.
    pub(crate) fn ty(&mut self) -> Option<Type> {
        self.find(Type::parse)
    }
}

/// Decodes one kernel.
pub(crate) struct Decoder<'s, 'a> {
    pub(super) source: &'s Source<'a>,
    pub(super) function: &'s Function<'a>,
    pub(super) statement: &'s Statement<'a>,
    pub(super) parts: Parts<'a>,
    pub(super) code: Vec<Instruction>,
    pub(super) texts: Vec<String>,
    pub(super) text_of: HashMap<&'a str, u32>,
    pub(super) counts: [u32; 3],
    pub(super) rows: HashMap<(Bank, Initial), u16>,
    pub(super) guard: (u16, bool),
    pub(super) module_variables: HashMap<&'a str, usize>,
    pub(super) shared: HashMap<(usize, &'a str), u32>,
    pub(super) module_shared: HashMap<&'a str, u32>,
    pub(super) local: HashMap<(usize, &'a str), u32>,
    /// Variables in local memory that are parameters of called functions.
    pub(super) passed: HashSet<(usize, &'a str)>,
    /// Addresses of device functions.
    pub(super) functions: HashMap<&'a str, u64>,
    pub(super) static_shared: u32,
    pub(super) declared_shared: u32,
    pub(super) local_bytes: u32,
    pub(super) blocks_communicate: bool,
    pub(super) narrow_scopes: bool,
    /// What the module is for; every instruction must exist there.
    pub(super) platform: Platform,
}

/// Predicate 0 is the carry flag.
pub(crate) const CARRY: u16 = 0;

impl Parts<'_> {
    /// The first type among the parts, without taking it.
    pub(crate) fn peek_type(&self) -> Option<Type> {
        self.rest.iter().find_map(|part| Type::parse(part))
    }
}

impl Decoder<'_, '_> {
    pub(crate) fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        let text = format!("{}: {}", self.statement.opcode, message.into());
        let place = self.function.places.get(self.statement.place as usize);
        Err(ParseError::new(self.statement.line, text).at(self.source.named(place)))
    }

    /// The error of a whole module: an assembler would not accept it.
    pub(crate) fn fail_module<T>(&self, message: impl Into<String>) -> Result<T> {
        self.fail(message).map_err(ParseError::of_module)
    }

    /// Fails unless the module's target and version of the ISA have the instruction, whose
    /// modifiers are `parts`.
    pub(super) fn check_platform(&self, parts: &[&str]) -> Result<()> {
        let counts = matches!(parts, ["mbarrier", ..])
            && parts.iter().any(|part| part.starts_with("arrive"))
            && !parts.contains(&"expect_tx")
            && !matches!(self.statement.operands.last(), Some(Operand::Address(..)));
        let lacks = if counts {
            self.platform.lacks(&[parts, &["#count"]].concat())
        } else {
            self.platform.lacks(parts)
        };
        lacks.map_or(Ok(()), |lacks| self.fail_module(lacks))
    }

    /// Appends an instruction under the statement's guard.
    pub(crate) fn push(&mut self, op: Op, class: Class) -> &mut Instruction {
        let opcode = self.statement.opcode;
        let next = self.texts.len() as u32;
        let text = *self.text_of.entry(opcode).or_insert(next);
        if text == next {
            self.texts.push(opcode.to_owned());
        }
        let at = self.code.len();
        self.code.push(Instruction {
            op,
            guard: self.guard.0,
            negated: self.guard.1,
            class,
            work: None,
            line: self.statement.line,
            place: self.statement.place,
            text,
        });
        &mut self.code[at]
    }

    pub(crate) fn alu(&mut self, wide: Wide, args: Args, class: Class) {
        self.push(Op::Alu(wide, args), class);
    }

    pub(crate) fn work(&mut self, unit: Unit, flops: u32) {
        if let Some(last) = self.code.last_mut() {
            last.work = Some((unit, flops));
        }
    }

    /// Records that blocks of this kernel may see each other's writes while they run.
    pub(crate) fn blocks_communicate(&mut self) {
        self.blocks_communicate = true;
    }
}

/// The bytes that a hint such as `L2::128B` makes L2 fetch at a time; 0 for another one.
pub(super) fn fetched_bytes(hint: Option<&str>) -> u32 {
    let size = hint.and_then(|hint| hint.strip_prefix("L2::")?.strip_suffix('B'));
    size.and_then(|size| size.parse().ok()).unwrap_or(0)
}
