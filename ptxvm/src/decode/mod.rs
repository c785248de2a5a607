//! Statements to instructions: names become register rows, modifiers become operations,
//! and what is not implemented becomes an error.

mod arithmetic;
mod asynchronous;
mod built_in;
mod compare;
mod control;
mod convert;
mod decoder;
mod floating;
mod logic;
mod maps;
mod matrix;
mod memory;
mod operand;

use std::collections::{HashMap, HashSet};

use crate::bank::Bank;
use crate::count::Class;
use crate::decode::decoder::{Decoder, Parts, Result};
use crate::error::ParseError;
use crate::instruction::*;
use crate::syntax::*;
use crate::target::{Hardware, Platform, STATIC_SHARED};

/// Decodes `function` of `source`.
pub(crate) fn decode<'a>(
    source: &Source<'a>,
    function: &Function<'a>,
    platform: Platform,
) -> Result<Kernel> {
    if let Some(error) = &function.error {
        return Err(error.clone());
    }
    match crate::inline::flatten(source, function)? {
        Some(flat) => decode_flat(source, &flat, platform),
        None => decode_flat(source, function, platform),
    }
}

/// The same for a function without calls.
fn decode_flat<'a>(
    source: &Source<'a>,
    function: &Function<'a>,
    platform: Platform,
) -> Result<Kernel> {
    let empty = Statement {
        guard: None,
        opcode: "ret",
        operands: Vec::new(),
        line: function.line,
        place: u32::MAX,
        scope: 0,
    };
    let mut decoder = Decoder {
        source,
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
        passed: HashSet::new(),
        functions: HashMap::new(),
        static_shared: SHARED_START,
        declared_shared: 0,
        local_bytes: 0,
        blocks_communicate: false,
        narrow_scopes: false,
        platform,
    };
    // The parser numbers predicates from 0; row 0 is the carry flag, so every lookup adds
    // one.
    decoder.counts[Bank::Predicate as usize] += 1;
    decoder.lay_out();
    decoder.check_limits()?;
    decoder.run()
}

/// Where the parameters of a kernel lie.
fn params(function: &Function<'_>) -> Vec<KernelParam> {
    let param = |param: &Param<'_>| KernelParam {
        offset: param.offset as usize,
        bytes: param.bytes as usize,
    };
    function.params.iter().map(param).collect()
}

/// Words of the registers that a kernel declares, without predicates.
fn declared_registers(function: &Function<'_>) -> u32 {
    let of = |bank: Bank| function.register_counts[bank as usize];
    of(Bank::Word).saturating_add(of(Bank::Double).saturating_mul(2))
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
        // The end of the kernel is a return.
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
        let launch_registers = control::launch_registers(function, &self.code);
        initials.sort_by_key(|&(bank, row, _)| (bank as u8, row));
        Ok(Kernel {
            name: function.name.to_owned(),
            code: self.code,
            texts: self.texts,
            places: function.places.clone(),
            counts: self.counts.map(|count| count as usize),
            initials,
            param_bytes: function.param_bytes(),
            params: params(function),
            declared_registers: declared_registers(function),
            static_shared: self.static_shared,
            declared_shared: self.declared_shared,
            local_bytes: self.local_bytes,
            max_threads: function.max_threads,
            required_threads: function.required_threads,
            cluster: function.cluster,
            max_cluster: function.max_cluster,
            explicit_cluster: function.explicit_cluster,
            max_registers: function.max_registers,
            target: self.platform.target,
            min_blocks: function.min_blocks,
            launch_registers,
            blocks_communicate: self.blocks_communicate,
            narrow_scopes: self.narrow_scopes,
        })
    }

    /// Gives shared and local variables their addresses.
    fn lay_out(&mut self) {
        let source = self.source;
        let used = names(self.function);
        let functions = source.functions.iter().enumerate();
        self.functions = functions.map(|(n, f)| (f.name, function_address(n))).collect();
        for (index, variable) in source.variables.iter().enumerate() {
            match variable.space {
                // A block only has the module's shared variables that its kernel uses.
                VariableSpace::Shared if !used.contains(variable.name) => {}
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
                    VariableSpace::Local | VariableSpace::Param => {
                        let at = place(&mut self.local_bytes, variable);
                        self.local.insert((scope, variable.name), at);
                        if variable.space == VariableSpace::Param {
                            self.passed.insert((scope, variable.name));
                        }
                    }
                    VariableSpace::Global | VariableSpace::Const => {}
                }
            }
            self.lay_out_aliases(scope);
        }
        // Dynamic shared memory follows, at the strictest alignment that is declared.
        self.declared_shared = self.static_shared - SHARED_START;
        let dynamic = source.variables.iter().filter(|variable| variable.dynamic);
        let align = dynamic.clone().map(|variable| variable.align).max().unwrap_or(16);
        self.static_shared = self.static_shared.next_multiple_of(align.max(16) as u32);
        for variable in dynamic {
            self.module_variables.remove(variable.name);
            self.module_shared.insert(variable.name, self.static_shared);
        }
    }

    /// Gives a called function's parameters the addresses of the caller's variables, which
    /// are in scopes before its own.
    fn lay_out_aliases(&mut self, scope: usize) {
        for alias in &self.function.scopes[scope].aliases {
            let (from, to) = ((alias.scope, alias.of), (scope, alias.name));
            if let Some(&at) = self.local.get(&from) {
                self.local.insert(to, at);
            }
            if let Some(&at) = self.shared.get(&from) {
                self.shared.insert(to, at);
            }
            if self.passed.contains(&from) {
                self.passed.insert(to);
            }
        }
    }

    /// What an assembler refuses in a kernel's declarations.
    fn check_limits(&self) -> Result<()> {
        let (function, platform) = (self.function, self.platform);
        let fail = |text: String| {
            let text = format!("kernel {}: {text}", function.name);
            Err(ParseError::new(function.line, text).of_module())
        };
        let shared = self.declared_shared;
        if shared > STATIC_SHARED {
            return fail(format!(
                "{shared} bytes of static shared memory, but at most {STATIC_SHARED} are possible; \
                 more must be dynamic (.extern .shared)"
            ));
        }
        let large = platform.version >= (8, 1) && platform.target.sm >= 70;
        let most = if large { 32764 } else { 4352 };
        let bytes = function.param_bytes();
        if bytes > most {
            return fail(format!(
                "{bytes} bytes of parameters, but at most {most} are possible for {}, PTX ISA {}.{}",
                platform.target, platform.version.0, platform.version.1
            ));
        }
        let clusters = function.cluster.is_some()
            || function.max_cluster.is_some()
            || function.explicit_cluster;
        match platform.without(Hardware::From(90), (7, 8)) {
            Some(lacks) if clusters => fail(format!("a cluster directive {lacks}")),
            _ => Ok(()),
        }
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
        let all = [&[name], self.parts.rest.as_slice()].concat();
        let before = self.code.len();
        self.dispatch(name)?;
        if !self.parts.rest.is_empty() {
            let left = self.parts.rest.join(".");
            return self.fail(format!("modifier '.{left}' is not implemented"));
        }
        self.check_platform(&all)?;
        if self.code.len() == before {
            self.push(Op::Nop, Class::Control);
        }
        Ok(())
    }

    fn dispatch(&mut self, name: &str) -> Result<()> {
        if let Some(what) = unimplemented(name, &self.parts.rest) {
            return self.fail(format!("{what} are not implemented"));
        }
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
            "vprintf" | "__assertfail" | "badcall" => self.built_in(name),
            "mma" | "ldmatrix" | "stmatrix" | "movmatrix" | "wgmma" => self.matrix(name),
            "cp" | "mbarrier" => self.asynchronous(name),
            "tensormap" => self.tensor_map(),
            _ => self.fail("instruction is not implemented"),
        }
    }
}

/// Groups of instructions that are not implemented, for messages.
fn unimplemented(name: &str, parts: &[&str]) -> Option<&'static str> {
    let has = |part: &str| parts.contains(&part);
    Some(match name {
        "mma" | "wgmma" if has("sp") || has("sp::ordered_metadata") => {
            "products of sparse matrices"
        }
        "mma" if has("s4") || has("u4") || has("b1") => {
            "products of 1-bit and 4-bit integers"
        }
        "cp" if has("reduce") => "bulk copies that reduce",
        "red" if has("async") => "asynchronous reductions",
        "wmma" => "'wmma' products (use 'mma')",
        "tcgen05" => "tensor memory and its instructions",
        "multimem" => "accesses to several devices at once",
        "tex" | "tld4" | "txq" | "istypep" | "suld" | "sust" | "sured" | "suq" => {
            "textures and surfaces"
        }
        "stacksave" | "stackrestore" | "alloca" => "stacks of variable size",
        _ => return None,
    })
}

/// The names that a function's operands use.
fn names<'a>(function: &Function<'a>) -> HashSet<&'a str> {
    fn add<'a>(operand: &Operand<'a>, names: &mut HashSet<&'a str>) {
        match operand {
            Operand::Name(name) | Operand::Not(name) | Operand::Offset(name, _) => {
                names.insert(name);
            }
            Operand::Address(base, _, more) => {
                if let Base::Name(name) = base {
                    names.insert(name);
                }
                more.iter().for_each(|operand| add(operand, names));
            }
            Operand::List(list) => list.iter().for_each(|operand| add(operand, names)),
            Operand::Pair(a, b) => {
                add(a, names);
                add(b, names);
            }
            Operand::Int(_) | Operand::Float(_) | Operand::Double(_) => {}
        }
    }
    let mut names = HashSet::new();
    let operands = function.statements.iter().flat_map(|statement| &statement.operands);
    operands.for_each(|operand| add(operand, &mut names));
    names
}

/// The address of `variable` after `used` bytes.
fn place(used: &mut u32, variable: &Variable<'_>) -> u32 {
    let at = used.next_multiple_of(variable.align as u32);
    *used = at.saturating_add(variable.bytes as u32);
    at
}
