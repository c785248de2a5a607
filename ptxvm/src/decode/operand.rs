//! Operands to register rows.

use crate::bank::Bank;
use crate::count::Class;
use crate::decode::decoder::{CARRY, Decoder, Result};
use crate::instruction::{Scope, *};
use crate::lanes::{Args, wide};
use crate::syntax::*;

/// Scopes of memory orders.
pub(crate) const SCOPES: [&str; 4] = ["cta", "cluster", "gpu", "sys"];

impl<'a> Decoder<'_, 'a> {
    pub(crate) fn operand(&self, n: usize) -> Result<&Operand<'a>> {
        match self.statement.operands.get(n) {
            Some(operand) => Ok(operand),
            None => self.fail(format!("operand {} is missing", n + 1)),
        }
    }

    pub(crate) fn operands(&self) -> usize {
        self.statement.operands.len()
    }

    /// Fails unless the instruction has between `least` and `most` operands.
    pub(crate) fn arity(&self, least: usize, most: usize) -> Result<()> {
        let count = self.operands();
        if count < least || count > most {
            return self.fail(format!("{count} operands, expected {least} to {most}"));
        }
        Ok(())
    }

    fn lookup(&self, name: &str) -> Option<Register> {
        let register = self.function.register(self.statement.scope, name)?;
        // Predicate 0 is the carry flag.
        let shift = u16::from(register.bank == Bank::Predicate) * (CARRY + 1);
        Some(Register { index: register.index + shift, ..register })
    }

    /// The register that `operand` names.
    pub(crate) fn register(&self, operand: &Operand<'a>) -> Result<Register> {
        if let Operand::Name(name) = operand {
            return match self.lookup(name) {
                Some(register) => Ok(register),
                None => self.fail(format!("'{name}' is not a register in this scope")),
            };
        }
        self.fail("expected a register")
    }

    /// A destination row of `bank`; for `_` a spare row, so that the result is dropped.
    pub(crate) fn dest(&mut self, operand: &Operand<'a>, bank: Bank) -> Result<u16> {
        if *operand == Operand::Name("_") {
            return Ok(self.spare(bank));
        }
        let register = self.register(operand)?;
        if register.bank != bank {
            return self
                .fail(format!("{operand:?} has the wrong size for this instruction"));
        }
        Ok(register.index)
    }

    /// The n-th operand as a destination of type `ty`.
    pub(crate) fn dest_at(&mut self, n: usize, ty: Type) -> Result<u16> {
        let operand = self.operand(n)?.clone();
        self.dest(&operand, ty.bank())
    }

    /// A new row, which no register of the text uses.
    pub(crate) fn spare(&mut self, bank: Bank) -> u16 {
        let index = self.counts[bank as usize];
        self.counts[bank as usize] += 1;
        index.min(u32::from(u16::MAX)) as u16
    }

    /// The row that holds `initial` when a warp starts.
    pub(crate) fn row(&mut self, bank: Bank, initial: Initial) -> u16 {
        if let Some(&row) = self.rows.get(&(bank, initial)) {
            return row;
        }
        let row = self.spare(bank);
        self.rows.insert((bank, initial), row);
        row
    }

    /// A predicate register.
    pub(crate) fn predicate(&mut self, operand: &Operand<'a>) -> Result<u16> {
        match operand {
            Operand::Not(name) => {
                let a = self.predicate(&Operand::Name(name))?;
                let d = self.spare(Bank::Predicate);
                let args = Args { d, a, ..Args::default() };
                let guard = std::mem::replace(&mut self.guard, (NO_GUARD, false));
                self.alu(wide!(|a: bool| bool: !a), args, Class::Logic);
                self.guard = guard;
                Ok(d)
            }
            Operand::Int(value) => {
                Ok(self.row(Bank::Predicate, Initial::Value(u64::from(*value != 0))))
            }
            _ => {
                let register = self.register(operand)?;
                if register.bank != Bank::Predicate {
                    return self.fail("expected a predicate");
                }
                Ok(register.index)
            }
        }
    }

    /// The n-th operand as a source of type `ty`.
    pub(crate) fn source(&mut self, n: usize, ty: Type) -> Result<u16> {
        let operand = self.operand(n)?.clone();
        self.source_of(&operand, ty)
    }

    /// `operand` as a source of type `ty`.
    pub(crate) fn source_of(&mut self, operand: &Operand<'a>, ty: Type) -> Result<u16> {
        let bank = ty.bank();
        if bank == Bank::Predicate {
            return self.predicate(operand);
        }
        match operand {
            Operand::Name(name) => {
                if let Some(register) = self.lookup(name) {
                    if register.bank != bank {
                        return self.fail(format!(
                            "'{name}' has the wrong size for this instruction"
                        ));
                    }
                    return Ok(register.index);
                }
                if let Some(special) = Special::parse(name) {
                    if let Some(lacks) = self.platform.lacks_register(name) {
                        return self.fail_module(format!("register {name} {lacks}"));
                    }
                    return Ok(self.row(bank, Initial::Special(special)));
                }
                if *name == "WARP_SZ" {
                    return Ok(self.row(bank, Initial::Value(32)));
                }
                if self.is_passed(name) {
                    return self.fail(format!(
                        "the address of '{name}', a parameter of a call, is not implemented"
                    ));
                }
                let initial = self.symbol(name, 0)?;
                Ok(self.row(bank, initial))
            }
            Operand::Offset(name, offset) => {
                let initial = self.symbol(name, *offset)?;
                Ok(self.row(bank, initial))
            }
            Operand::Int(value) => {
                let value = if ty == Type::F32 {
                    u64::from((*value as i64 as f32).to_bits())
                } else if ty == Type::F64 {
                    (*value as i64 as f64).to_bits()
                } else {
                    value & (u64::MAX >> (64 - ty.bits()))
                };
                Ok(self.row(bank, Initial::Value(value)))
            }
            Operand::Float(bits) if bank == Bank::Word => {
                Ok(self.row(bank, Initial::Value(u64::from(*bits))))
            }
            Operand::Double(bits) if bank == Bank::Double => {
                Ok(self.row(bank, Initial::Value(*bits)))
            }
            Operand::Double(bits) if ty == Type::F32 => {
                let value = (f64::from_bits(*bits) as f32).to_bits();
                Ok(self.row(bank, Initial::Value(u64::from(value))))
            }
            _ => self.fail(format!("operand {operand:?} is not implemented here")),
        }
    }

    /// An operand that must be an integer constant.
    pub(crate) fn immediate(&self, n: usize) -> Result<u64> {
        match self.operand(n)? {
            Operand::Int(value) => Ok(*value),
            _ => self.fail(format!("operand {} must be an integer constant", n + 1)),
        }
    }

    /// The registers of a `{...}` operand, or of a single register.
    pub(crate) fn list(&self, n: usize) -> Result<Vec<Operand<'a>>> {
        Ok(match self.operand(n)? {
            Operand::List(list) => list.clone(),
            single => vec![single.clone()],
        })
    }

    /// The rows of a list of destinations.
    pub(crate) fn dests(&mut self, n: usize, bank: Bank) -> Result<Vec<u16>> {
        let list = self.list(n)?;
        list.iter().map(|operand| self.dest(operand, bank)).collect()
    }

    /// The rows of a list of sources.
    pub(crate) fn sources(&mut self, n: usize, ty: Type) -> Result<Vec<u16>> {
        let list = self.list(n)?;
        list.iter().map(|operand| self.source_of(operand, ty)).collect()
    }

    /// The address of the variable or parameter `name`.
    fn symbol(&self, name: &str, offset: i64) -> Result<Initial> {
        let at = |base: u64| Ok(Initial::Value(base.wrapping_add(offset as u64)));
        let shared =
            |base: u32| Ok(Initial::Shared(u64::from(base).wrapping_add(offset as u64)));
        let mut scope = Some(self.statement.scope);
        while let Some(here) = scope {
            if let Some(&address) = self.shared.get(&(here, name)) {
                return shared(address);
            }
            if let Some(&address) = self.local.get(&(here, name)) {
                return at(u64::from(address));
            }
            scope = self.function.scopes[here].parent;
        }
        if let Some(param) = self.function.params.iter().find(|p| p.name == name) {
            return at(param.offset);
        }
        if let Some(&address) = self.module_shared.get(name) {
            return shared(address);
        }
        if let Some(&index) = self.module_variables.get(name) {
            return Ok(Initial::Symbol(index, offset));
        }
        if let Some(&address) = self.functions.get(name) {
            return at(address);
        }
        self.fail(format!("'{name}' is not defined"))
    }

    /// Whether `name` is a parameter of a called function, as its caller or itself sees it.
    fn is_passed(&self, name: &'a str) -> bool {
        let home = self.function.home(self.statement.scope, name);
        home.is_some_and(|scope| self.passed.contains(&(scope, name)))
    }

    /// The n-th operand as an address in `space`.
    pub(crate) fn address(&mut self, n: usize, space: Space) -> Result<Address> {
        let operand = self.operand(n)?.clone();
        match &operand {
            Operand::Address(base, offset, more) if more.is_empty() => {
                self.base(*base, *offset, space)
            }
            _ => self.fail(format!("operand {} must be an address", n + 1)),
        }
    }

    /// `base + offset` in `space`.
    pub(crate) fn base(
        &mut self,
        base: Base<'a>,
        offset: i64,
        space: Space,
    ) -> Result<Address> {
        let name = match base {
            Base::Absolute(value) => {
                let index = self.row(Bank::Double, Initial::Value(value));
                return Ok(Address { space, bank: Bank::Double, index, offset });
            }
            Base::Name(name) => name,
        };
        if let Some(register) = self.lookup(name) {
            if register.bank == Bank::Predicate || register.bits < 32 {
                return self
                    .fail(format!("register '{name}' is too narrow for an address"));
            }
            let (bank, index) = (register.bank, register.index);
            return Ok(Address { space, bank, index, offset });
        }
        let initial = self.symbol(name, 0)?;
        let index = self.row(Bank::Double, initial);
        // What is passed to called functions lies in local memory.
        let space = if self.is_passed(name) { Space::Local } else { space };
        // A named parameter is in the parameter space, whatever space the access has.
        Ok(Address { space, bank: Bank::Double, index, offset })
    }

    pub(super) fn expect_ty(&mut self) -> Result<Type> {
        match self.parts.ty() {
            Some(ty) => Ok(ty),
            None => self.fail("type is missing or not implemented"),
        }
    }

    /// Decodes `d, a` of one type.
    pub(super) fn args1(&mut self, ty: Type) -> Result<Args> {
        self.arity(2, 2)?;
        let a = self.source(1, ty)?;
        Ok(Args { d: self.dest_at(0, ty)?, a, ..Args::default() })
    }

    /// Decodes `d, a, b` of one type.
    pub(super) fn args2(&mut self, ty: Type) -> Result<Args> {
        self.arity(3, 3)?;
        let (a, b) = (self.source(1, ty)?, self.source(2, ty)?);
        Ok(Args { d: self.dest_at(0, ty)?, a, b, ..Args::default() })
    }

    /// Decodes `d, a, b, c` of one type.
    pub(super) fn args3(&mut self, ty: Type) -> Result<Args> {
        self.arity(4, 4)?;
        let (a, b, c) = (self.source(1, ty)?, self.source(2, ty)?, self.source(3, ty)?);
        Ok(Args { d: self.dest_at(0, ty)?, a, b, c, e: 0 })
    }

    /// The state space that the parts name.
    pub(super) fn space(&mut self) -> Space {
        let spaces = [
            ("global", Space::Global),
            ("const", Space::Const),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
            ("shared::cluster", Space::SharedCluster),
            ("local", Space::Local),
            ("param", Space::Param),
            ("param::entry", Space::Param),
            ("param::func", Space::Param),
        ];
        self.parts
            .find(|part| spaces.iter().find(|(name, _)| *name == part).map(|s| s.1))
            .unwrap_or(Space::Generic)
    }

    /// The scope that the parts name. A kernel with a narrow one is remembered.
    pub(super) fn scope(&mut self) -> Option<Scope> {
        let scope = match self.parts.any(&SCOPES)? {
            "cta" => Scope::Block,
            "cluster" => Scope::Cluster,
            _ => Scope::Gpu,
        };
        self.narrow_scopes |= scope != Scope::Gpu;
        Some(scope)
    }

    /// Memory semantics and their scope; without one, as for atomics and volatile
    /// accesses, the whole GPU.
    pub(super) fn order(&mut self) -> (Order, Scope) {
        let order = match self.parts.any(&["relaxed", "acquire", "release", "acq_rel"]) {
            Some("relaxed") => Order::Relaxed,
            Some("acquire") => Order::Acquire,
            Some("release") => Order::Release,
            Some(_) => Order::AcquireRelease,
            None => Order::Weak,
        };
        self.parts.take("weak");
        let volatile = self.parts.take("volatile") | self.parts.take("mmio");
        let scope = self.scope().unwrap_or(Scope::Gpu);
        (if volatile && order == Order::Weak { Order::Relaxed } else { order }, scope)
    }
}
