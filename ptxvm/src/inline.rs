//! Calls of device functions, replaced by the bodies of the functions.
//!
//! Each call has registers and local variables of its own. A called function's parameters
//! and results are other names of the caller's `.param` variables. A call through a pointer
//! becomes a chain of comparisons with the functions that it may mean: those whose address
//! the module takes, with the call's prototype.

use std::collections::{HashMap, HashSet};

use crate::bank::Bank;
use crate::error::ParseError;
use crate::syntax::*;

type Result<T> = std::result::Result<T, ParseError>;

/// Most statements of a kernel with all bodies in place.
const MAX_STATEMENTS: usize = 1 << 18;
/// Most registers of a bank.
const MAX_REGISTERS: u32 = 1 << 15;

/// The label after a call, which no text can define.
const RETURN: &str = "after the call";
/// The label of the next function that a pointer may mean.
const NEXT: &str = "next function";
/// The predicate that says that a pointer means another function.
const OTHER: &str = "other function";

/// Functions that the driver provides, which have an instruction of their own here.
const BUILT_IN: [&str; 2] = ["vprintf", "__assertfail"];

/// The kernel `entry` without calls; nothing if it has none.
pub(crate) fn flatten<'a>(
    source: &Source<'a>,
    entry: &Function<'a>,
) -> Result<Option<Function<'a>>> {
    if !entry.statements.iter().any(is_call) {
        return Ok(None);
    }
    let mut expansion = Expansion {
        source,
        pointed: pointed(source),
        shared: HashMap::new(),
        stack: Vec::new(),
        out: Function {
            name: entry.name,
            line: entry.line,
            params: entry.params.clone(),
            max_threads: entry.max_threads,
            required_threads: entry.required_threads,
            cluster: entry.cluster,
            max_cluster: entry.max_cluster,
            explicit_cluster: entry.explicit_cluster,
            max_registers: entry.max_registers,
            min_blocks: entry.min_blocks,
            ..Function::default()
        },
    };
    expansion.body(entry, &[])?;
    Ok(Some(expansion.out))
}

fn opcode<'a>(statement: &Statement<'a>) -> &'a str {
    statement.opcode.split('.').next().unwrap_or_default()
}

fn is_call(statement: &Statement<'_>) -> bool {
    opcode(statement) == "call"
}

/// The functions whose address the module takes.
fn pointed<'a>(source: &Source<'a>) -> HashSet<&'a str> {
    let functions: HashSet<&str> = source.functions.iter().map(|f| f.name).collect();
    let initial = source.variables.iter().flat_map(|variable| &variable.pointers);
    let mut names: HashSet<&str> = initial.map(|pointer| pointer.name).collect();
    for function in source.functions.iter().chain(&source.entries) {
        for statement in function.statements.iter().filter(|s| !is_call(s)) {
            names.extend(statement.operands.iter().filter_map(|operand| match operand {
                Operand::Name(name) => Some(*name),
                _ => None,
            }));
        }
    }
    names.retain(|name| functions.contains(name));
    names
}

/// What is called.
enum Callee<'a> {
    Function(&'a str),
    Pointer(&'a str, Prototype),
}

/// A call's operands, and where it stands.
struct Call<'a> {
    results: Vec<&'a str>,
    params: Vec<&'a str>,
    line: u32,
    place: u32,
    /// The scope of the call in the expanded function.
    scope: usize,
}

struct Expansion<'s, 'a> {
    source: &'s Source<'a>,
    pointed: HashSet<&'a str>,
    /// Where the first copy of a function's shared variable is: all copies share it.
    shared: HashMap<(&'a str, &'a str, usize), usize>,
    /// The functions that are being expanded.
    stack: Vec<&'a str>,
    out: Function<'a>,
}

impl<'s, 'a> Expansion<'s, 'a> {
    /// Appends the body of `function`, whose root scope has these aliases.
    fn body(&mut self, function: &Function<'a>, aliases: &[Alias<'a>]) -> Result<()> {
        if let Some(error) = &function.error {
            return Err(error.clone());
        }
        let first_scope = self.scopes(function, aliases);
        let first_place = self.out.places.len() as u32;
        self.out.places.extend(&function.places);
        for (count, own) in
            self.out.register_counts.iter_mut().zip(function.register_counts)
        {
            *count = count.saturating_add(own);
        }
        let inner = !self.stack.is_empty();
        let mut starts = Vec::with_capacity(function.statements.len() + 1);
        for statement in &function.statements {
            starts.push(self.out.statements.len());
            let scope = statement.scope + first_scope;
            let place = match statement.place {
                u32::MAX => u32::MAX,
                place => place + first_place,
            };
            let mut copy = Statement { scope, place, ..statement.clone() };
            match opcode(statement) {
                "call" => self.call(copy)?,
                "ret" if inner => {
                    copy.opcode = "bra";
                    copy.operands = vec![Operand::Name(RETURN)];
                    self.out.statements.push(copy);
                }
                _ => self.out.statements.push(copy),
            }
            self.check_size(statement.line)?;
        }
        starts.push(self.out.statements.len());
        let end = first_scope + function.scopes.len();
        let returns = self.out.statements.len();
        for scope in &mut self.out.scopes[first_scope..end] {
            scope.labels.values_mut().for_each(|label| *label = starts[*label]);
        }
        if inner {
            self.out.scopes[first_scope].labels.insert(RETURN, returns);
        }
        Ok(())
    }

    fn check_size(&self, line: u32) -> Result<()> {
        let registers = self.out.register_counts.iter().max().copied().unwrap_or(0);
        if self.out.statements.len() > MAX_STATEMENTS || registers > MAX_REGISTERS {
            return Err(ParseError::new(
                line,
                format!(
                    "kernel {}: too many instructions or registers with all calls expanded",
                    self.out.name
                ),
            ));
        }
        Ok(())
    }

    /// Copies the scopes of `function`; gives the index of the first.
    fn scopes(&mut self, function: &Function<'a>, aliases: &[Alias<'a>]) -> usize {
        let first = self.out.scopes.len();
        let counts = self.out.register_counts;
        for (at, scope) in function.scopes.iter().enumerate() {
            let mut scope = scope.clone();
            scope.parent = scope.parent.map(|parent| parent + first);
            for declared in scope.registers.values_mut() {
                let bank = declared.first.bank as usize;
                let index = u32::from(declared.first.index) + counts[bank];
                // What does not fit is refused before it is used.
                declared.first.index = index.min(u32::from(u16::MAX)) as u16;
            }
            if at == 0 {
                scope.aliases = aliases.to_vec();
            }
            let own = first + at;
            let variables = std::mem::take(&mut scope.variables);
            for (name, variable) in variables {
                let home = if variable.space == VariableSpace::Shared {
                    *self.shared.entry((function.name, name, at)).or_insert(own)
                } else {
                    own
                };
                if home == own {
                    scope.variables.insert(name, variable);
                } else {
                    scope.aliases.push(Alias { name, scope: home, of: name });
                }
            }
            self.out.scopes.push(scope);
        }
        first
    }

    fn call(&mut self, statement: Statement<'a>) -> Result<()> {
        let place = self.source.named(self.out.places.get(statement.place as usize));
        let fail = |text: String| {
            let error = ParseError::new(statement.line, format!("call: {text}"));
            Err(error.at(place.clone()))
        };
        let Some((mut call, callee)) = operands(&statement) else {
            return fail("the operands are not those of a call".to_owned());
        };
        let callee = match callee {
            (name, None) => Callee::Function(name),
            (pointer, Some(label)) => match self.out.prototype(statement.scope, label) {
                Some(prototype) => Callee::Pointer(pointer, prototype.clone()),
                None => return fail(format!("the prototype '{label}' is not defined")),
            },
        };
        // A scope around the call for its labels.
        let outer = self.out.scopes.len();
        let scope = Scope { parent: Some(statement.scope), ..Scope::default() };
        self.out.scopes.push(scope);
        call.scope = outer;
        if let Some((name, negated)) = statement.guard {
            let skip = Operand::Name(RETURN);
            self.push(&call, Some((name, !negated)), "bra", vec![skip]);
        }
        match callee {
            Callee::Function(name) => self.direct(&call, name)?,
            Callee::Pointer(pointer, prototype) => {
                self.indirect(&call, pointer, &prototype)?;
            }
        }
        let after = self.out.statements.len();
        self.out.scopes[outer].labels.insert(RETURN, after);
        Ok(())
    }

    fn push(
        &mut self,
        call: &Call<'a>,
        guard: Option<(&'a str, bool)>,
        opcode: &'a str,
        operands: Vec<Operand<'a>>,
    ) {
        let Call { line, place, scope, .. } = *call;
        let statement = Statement { guard, opcode, operands, line, place, scope };
        self.out.statements.push(statement);
    }

    fn direct(&mut self, call: &Call<'a>, name: &'a str) -> Result<()> {
        let place = self.source.named(self.out.places.get(call.place as usize));
        let fail = |text: String| {
            let error = ParseError::new(call.line, format!("call of '{name}': {text}"));
            Err(error.at(place.clone()))
        };
        if BUILT_IN.contains(&name) {
            let names = call.results.iter().chain(&call.params);
            let operands = names.map(|name| Operand::Address(Base::Name(name), 0, vec![]));
            let operands = operands.collect();
            self.push(call, None, name, operands);
            return Ok(());
        }
        if let Some(why) = unavailable(name) {
            return fail(why.to_owned());
        }
        if self.stack.contains(&name) {
            let chain = [&self.stack[..], &[name]].concat().join(" calls ");
            return fail(format!("recursion is not implemented ({chain})"));
        }
        let source = self.source;
        let Some(function) = source.functions.iter().find(|f| f.name == name) else {
            return fail("the module does not have its body".to_owned());
        };
        let formal = function.results.iter().chain(&function.params);
        let actual: Vec<&str> = call.results.iter().chain(&call.params).copied().collect();
        if function.results.len() != call.results.len()
            || function.params.len() != call.params.len()
        {
            return fail("the number of results or arguments is wrong".to_owned());
        }
        let mut aliases = Vec::with_capacity(actual.len());
        for (param, of) in formal.zip(actual) {
            match self.out.home(call.scope, of) {
                Some(scope) => aliases.push(Alias { name: param.name, scope, of }),
                None => return fail(format!("'{of}' is not a variable in '.param'")),
            }
        }
        self.stack.push(name);
        let outcome = self.body(function, &aliases);
        self.stack.pop();
        outcome
    }

    fn indirect(
        &mut self,
        call: &Call<'a>,
        pointer: &'a str,
        prototype: &Prototype,
    ) -> Result<()> {
        let source = self.source;
        let candidates = source.functions.iter().filter(|function| {
            self.pointed.contains(function.name) && function.own_prototype() == *prototype
        });
        let candidates: Vec<&Function<'a>> = candidates.collect();
        for function in candidates {
            let predicates = &mut self.out.register_counts[Bank::Predicate as usize];
            let index = (*predicates).min(u32::from(u16::MAX)) as u16;
            *predicates += 1;
            let first = Register { bank: Bank::Predicate, index, bits: 1 };
            let mut scope = Scope { parent: Some(call.scope), ..Scope::default() };
            scope.registers.insert(OTHER, Declared { first, count: None });
            let own = self.out.scopes.len();
            self.out.scopes.push(scope);
            let inner = Call {
                scope: own,
                results: call.results.clone(),
                params: call.params.clone(),
                ..*call
            };
            let [other, wanted] = [OTHER, function.name].map(Operand::Name);
            let compared = vec![other, Operand::Name(pointer), wanted];
            self.push(&inner, None, "setp.ne.u64", compared);
            self.push(&inner, Some((OTHER, false)), "bra", vec![Operand::Name(NEXT)]);
            self.direct(&inner, function.name)?;
            self.push(&inner, None, "bra", vec![Operand::Name(RETURN)]);
            let next = self.out.statements.len();
            self.out.scopes[own].labels.insert(NEXT, next);
        }
        self.push(call, None, "badcall", Vec::new());
        Ok(())
    }
}

/// Why a function that the driver provides cannot be called.
fn unavailable(name: &str) -> Option<&'static str> {
    match name {
        "malloc" | "free" => Some("the heap of the device is not implemented"),
        _ if name.starts_with("cudaLaunchDevice")
            || name.starts_with("cudaGetParameterBuffer")
            || name.starts_with("__cudaCDP") =>
        {
            Some("launches by kernels (dynamic parallelism) are not implemented")
        }
        _ => None,
    }
}

/// A call's parts: what is called, with the label of its prototype for a pointer.
type Parts<'a> = (Call<'a>, (&'a str, Option<&'a str>));

/// Takes `(results), callee, (arguments), prototype` apart.
fn operands<'a>(statement: &Statement<'a>) -> Option<Parts<'a>> {
    let names = |operand: &Operand<'a>| match operand {
        Operand::List(list) => list
            .iter()
            .map(|operand| match operand {
                Operand::Name(name) => Some(*name),
                _ => None,
            })
            .collect::<Option<Vec<_>>>(),
        _ => None,
    };
    let mut rest = &statement.operands[..];
    let list = |rest: &mut &[Operand<'a>]| match rest {
        [first @ Operand::List(_), tail @ ..] => {
            let found = names(first);
            *rest = tail;
            found
        }
        _ => Some(Vec::new()),
    };
    let results = list(&mut rest)?;
    let [Operand::Name(callee), tail @ ..] = rest else { return None };
    rest = tail;
    let params = list(&mut rest)?;
    let prototype = match rest {
        [] => None,
        [Operand::Name(label)] => Some(*label),
        _ => return None,
    };
    let Statement { line, place, scope, .. } = *statement;
    Some((Call { results, params, line, place, scope }, (callee, prototype)))
}
