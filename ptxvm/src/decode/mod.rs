//! Statements to instructions: names become rows, modifiers become meaning, and what
//! is not implemented becomes an error.

mod arithmetic;
mod asynchronous;
mod compare;
mod control;
mod convert;
mod floating;
mod logic;
mod matrix;
pub(crate) mod memory;
pub(crate) mod operand;

use std::collections::HashMap;

use crate::count::{Class, Unit};
use crate::error::ParseError;
use crate::instruction::*;
use crate::lanes::{Args, Wide};
use crate::syntax::*;

pub(crate) type Result<T> = std::result::Result<T, ParseError>;

/// Shared addresses start here: the hardware keeps the first kilobyte for itself,
/// and no valid pointer is null.
pub(crate) const SHARED_START: u32 = 1024;

/// An instruction's element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    F32,
    F64,
    TF32,
    E4M3,
    E5M2,
    E4M3x2,
    E5M2x2,
    U16x2,
    S16x2,
}

impl Type {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        use Type::*;
        Some(match name {
            "pred" => Pred,
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "f16" => F16,
            "f16x2" => F16x2,
            "bf16" => BF16,
            "bf16x2" => BF16x2,
            "f32" => F32,
            "f64" => F64,
            "tf32" => TF32,
            "e4m3" => E4M3,
            "e5m2" => E5M2,
            "e4m3x2" => E4M3x2,
            "e5m2x2" => E5M2x2,
            "u16x2" => U16x2,
            "s16x2" => S16x2,
            _ => return None,
        })
    }

    pub(crate) fn bits(self) -> u32 {
        use Type::*;
        match self {
            Pred => 1,
            B8 | U8 | S8 | E4M3 | E5M2 => 8,
            B16 | U16 | S16 | F16 | BF16 | E4M3x2 | E5M2x2 => 16,
            B32 | U32 | S32 | F32 | F16x2 | BF16x2 | TF32 | U16x2 | S16x2 => 32,
            B64 | U64 | S64 | F64 => 64,
        }
    }

    pub(crate) fn bank(self) -> Bank {
        match self.bits() {
            1 => Bank::Predicate,
            64 => Bank::Double,
            _ => Bank::Word,
        }
    }

    pub(crate) fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    pub(crate) fn is_float(self) -> bool {
        use Type::*;
        matches!(self, F16 | F16x2 | BF16 | BF16x2 | F32 | F64 | TF32)
    }
}

/// An opcode's parts, taken one by one; what is left over is not implemented.
pub(crate) struct Parts<'a> {
    rest: Vec<&'a str>,
}

impl<'a> Parts<'a> {
    /// Takes `name` where it stands among the parts.
    pub(crate) fn take(&mut self, name: &str) -> bool {
        let found = self.rest.iter().position(|&part| part == name);
        if let Some(at) = found {
            self.rest.remove(at);
        }
        found.is_some()
    }

    /// Takes whichever of `names` stands first.
    pub(crate) fn any(&mut self, names: &[&'static str]) -> Option<&'static str> {
        let at = self.rest.iter().position(|part| names.contains(part))?;
        let part = self.rest.remove(at);
        names.iter().copied().find(|&name| name == part)
    }

    /// Takes the first part for which `f` has an answer.
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
    pub(crate) function: &'s Function<'a>,
    pub(crate) statement: &'s Statement<'a>,
    pub(crate) parts: Parts<'a>,
    pub(crate) code: Vec<Instruction>,
    texts: Vec<String>,
    text_of: HashMap<&'a str, u32>,
    counts: [u32; 3],
    rows: HashMap<(Bank, Initial), u16>,
    guard: (u16, bool),
    module_variables: HashMap<&'a str, usize>,
    shared: HashMap<(usize, &'a str), u32>,
    module_shared: HashMap<&'a str, u32>,
    local: HashMap<(usize, &'a str), u32>,
    static_shared: u32,
    local_bytes: u32,
    talks: bool,
}

/// Predicate 0 is the carry flag.
pub(crate) const CARRY: u16 = 0;

/// Decodes `function` of `source`.
pub(crate) fn decode(source: &Source<'_>, function: &Function<'_>) -> Result<Kernel> {
    let empty = Statement {
        guard: None,
        opcode: "ret",
        operands: Vec::new(),
        line: function.line,
        place: u32::MAX,
        scope: 0,
    };
    let mut decoder = Decoder {
        function,
        statement: &empty,
        parts: Parts { rest: Vec::new() },
        code: Vec::new(),
        texts: Vec::new(),
        text_of: HashMap::new(),
        counts: function.register_counts,
        rows: HashMap::new(),
        guard: (NO_GUARD, false),
        module_variables: HashMap::new(),
        shared: HashMap::new(),
        module_shared: HashMap::new(),
        local: HashMap::new(),
        static_shared: SHARED_START,
        local_bytes: 0,
        talks: false,
    };
    // Declared predicates are numbered from 0 by the parser: the flag comes last and
    // every lookup shifts by one.
    decoder.counts[Bank::Predicate as usize] += 1;
    decoder.lay_out(source);
    decoder.run()
}

impl<'s, 'a> Decoder<'s, 'a> {
    fn run(mut self) -> Result<Kernel> {
        let function = self.function;
        let mut starts = Vec::with_capacity(function.statements.len() + 1);
        for statement in &function.statements {
            starts.push(self.code.len() as u32);
            self.statement = statement;
            self.statement()?;
        }
        starts.push(self.code.len() as u32);
        // Running off the end is a return.
        self.guard = (NO_GUARD, false);
        self.push(Op::Exit, Class::Control);
        for instruction in &mut self.code {
            match &mut instruction.op {
                Op::Branch { target } => *target = starts[*target as usize],
                Op::BranchIndex { targets, .. } => {
                    targets.iter_mut().for_each(|t| *t = starts[*t as usize]);
                }
                _ => {}
            }
        }
        if self.counts.iter().any(|&count| count >= u32::from(u16::MAX)) {
            return Err(ParseError::new(function.line, "too many registers and constants"));
        }
        let mut initials: Vec<_> =
            self.rows.iter().map(|(&(bank, what), &row)| (bank, row, what)).collect();
        initials.sort_by_key(|&(bank, row, _)| (bank as u8, row));
        Ok(Kernel {
            name: function.name.to_owned(),
            code: self.code,
            texts: self.texts,
            places: function.places.clone(),
            counts: self.counts.map(|count| count as usize),
            initials,
            param_bytes: crate::parse::param_block(&function.params),
            static_shared: self.static_shared,
            local_bytes: self.local_bytes,
            max_threads: function.max_threads,
            required_threads: function.required_threads,
            cluster: function.cluster,
            talks: self.talks,
        })
    }

    /// Gives shared and local variables their addresses.
    fn lay_out(&mut self, source: &Source<'a>) {
        for (index, variable) in source.variables.iter().enumerate() {
            match variable.space {
                VariableSpace::Shared if !variable.dynamic => {
                    let at = place(&mut self.static_shared, variable);
                    self.module_shared.insert(variable.name, at);
                }
                _ => {
                    self.module_variables.insert(variable.name, index);
                }
            }
        }
        for (scope, content) in self.function.scopes.iter().enumerate() {
            let mut variables: Vec<_> = content.variables.values().collect();
            variables.sort_by_key(|variable| variable.name);
            for variable in variables {
                match variable.space {
                    VariableSpace::Shared => {
                        let at = place(&mut self.static_shared, variable);
                        self.shared.insert((scope, variable.name), at);
                    }
                    VariableSpace::Local => {
                        let at = place(&mut self.local_bytes, variable);
                        self.local.insert((scope, variable.name), at);
                    }
                    VariableSpace::Global | VariableSpace::Const => {}
                }
            }
        }
        // Dynamic shared memory follows, at the strictest alignment asked for.
        let dynamic = source.variables.iter().filter(|variable| variable.dynamic);
        let align = dynamic.clone().map(|variable| variable.align).max().unwrap_or(16);
        self.static_shared = self.static_shared.next_multiple_of(align.max(16) as u32);
        for variable in dynamic {
            self.module_variables.remove(variable.name);
            self.module_shared.insert(variable.name, self.static_shared);
        }
    }

    pub(crate) fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        let text = format!("{}: {}", self.statement.opcode, message.into());
        Err(ParseError::new(self.statement.line, text))
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

    /// Blocks of this kernel may see one another's writes while running.
    pub(crate) fn talks(&mut self) {
        self.talks = true;
    }

    fn statement(&mut self) -> Result<()> {
        let statement = self.statement;
        self.guard = (NO_GUARD, false);
        if let Some((name, negated)) = statement.guard {
            let operand = Operand::Name(name);
            self.guard = (self.predicate(&operand)?, negated);
        }
        let mut parts = statement.opcode.split('.').filter(|part| !part.is_empty());
        let name = parts.next().unwrap_or_default();
        self.parts = Parts { rest: parts.collect() };
        let before = self.code.len();
        self.dispatch(name)?;
        if !self.parts.rest.is_empty() {
            let left = self.parts.rest.join(".");
            return self.fail(format!("modifier '.{left}' is not implemented"));
        }
        if self.code.len() == before {
            self.push(Op::Nop, Class::Control);
        }
        Ok(())
    }

    fn dispatch(&mut self, name: &str) -> Result<()> {
        match name {
            "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "abs" | "neg"
            | "min" | "max" | "addc" | "subc" | "madc" | "mul24" | "mad24" | "sad"
            | "dp4a" | "dp2a" => self.arithmetic(name),
            "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh"
            | "copysign" => self.floating(name),
            "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "shl" | "shr" | "shf"
            | "prmt" | "popc" | "clz" | "bfind" | "brev" | "bfe" | "bfi" | "bmsk"
            | "fns" | "szext" => self.logic(name),
            "setp" | "set" | "selp" | "slct" | "testp" => self.compare(name),
            "cvt" => self.cvt(),
            "mov" => self.mov(),
            "cvta" | "isspacep" | "ld" | "ldu" | "st" | "atom" | "red" | "prefetch"
            | "prefetchu" | "applypriority" | "discard" | "createpolicy" => {
                self.memory(name)
            }
            "bra" | "brx" | "ret" | "exit" | "trap" | "bar" | "barrier" | "membar"
            | "fence" | "nanosleep" | "shfl" | "vote" | "match" | "activemask"
            | "redux" | "elect" | "setmaxnreg" | "griddepcontrol" | "pmevent" | "mapa"
            | "getctarank" | "brkpt" => self.control(name),
            "mma" | "ldmatrix" | "stmatrix" | "movmatrix" | "wgmma" => self.matrix(name),
            "cp" | "mbarrier" => self.asynchronous(name),
            _ => self.fail("instruction is not implemented"),
        }
    }
}

/// The address of `variable` after `used` bytes.
fn place(used: &mut u32, variable: &Variable<'_>) -> u32 {
    let at = used.next_multiple_of(variable.align as u32);
    *used = at.saturating_add(variable.bytes as u32);
    at
}

impl Parts<'_> {
    /// The first type among the parts, left where it is.
    pub(crate) fn peek_type(&self) -> Option<Type> {
        self.rest.iter().find_map(|part| Type::parse(part))
    }
}
