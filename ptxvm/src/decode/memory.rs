//! Loads, stores, atomics and address arithmetic.

use crate::bank::Bank;
use crate::count::Class;
use crate::decode::decoder::{Decoder, Result, fetched_bytes};
use crate::instruction::*;
use crate::lanes::{Args, Wide, copy, wide};
use crate::syntax::{Operand, Register};

const CACHE: [&str; 19] = [
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "L2::evict_normal",
    "L2::evict_last",
    "L2::evict_first",
    "L2::64B",
    "L2::128B",
    "L2::256B",
    "L2::cache_hint",
];

impl<'a> Decoder<'_, 'a> {
    pub(super) fn memory(&mut self, name: &str) -> Result<()> {
        match name {
            "cvta" => self.cvta(),
            "isspacep" => self.isspacep(),
            "ld" | "ldu" => self.load(),
            "st" => self.store(),
            "atom" | "red" => self.atomic(name == "atom"),
            "createpolicy" => {
                // A policy is a hint, so any value is right.
                self.parts.rest.clear();
                let d = self.dest_at(0, Type::B64)?;
                let a = self.row(Bank::Double, Initial::Value(0));
                let args = Args { d, a, ..Args::default() };
                self.alu(copy::<u64>, args, Class::Move);
                Ok(())
            }
            _ => {
                // Prefetches and hints do not change anything.
                self.parts.rest.clear();
                self.push(Op::Nop, Class::OtherMemory);
                Ok(())
            }
        }
    }

    fn cvta(&mut self) -> Result<()> {
        let back = self.parts.take("to");
        let space = self.space();
        let ty = self.expect_ty()?;
        if ty != Type::U64 {
            return self.fail("only 64-bit addresses are implemented");
        }
        self.arity(2, 2)?;
        let window = match space {
            Space::Shared | Space::SharedCluster => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            Space::Param => PARAM_WINDOW,
            Space::Global | Space::Const => 0,
            Space::Generic => return self.fail("the state space is missing"),
        };
        let a = self.source(1, ty)?;
        let d = self.dest_at(0, ty)?;
        if window == 0 {
            self.alu(copy::<u64>, Args { d, a, ..Args::default() }, Class::Move);
            return Ok(());
        }
        let b = self.row(Bank::Double, Initial::Value(window));
        let wide: Wide = if back {
            wide!(|a: u64, b: u64| u64: a.wrapping_sub(b))
        } else {
            wide!(|a: u64, b: u64| u64: a.wrapping_add(b))
        };
        self.alu(wide, Args { d, a, b, ..Args::default() }, Class::Integer);
        Ok(())
    }

    fn isspacep(&mut self) -> Result<()> {
        let space = self.space();
        self.arity(2, 2)?;
        let a = self.source(1, Type::U64)?;
        let d = self.dest_at(0, Type::Pred)?;
        let wide = match space {
            Space::Shared | Space::SharedCluster => {
                wide!(|a: u64| bool: a.wrapping_sub(SHARED_WINDOW) < WINDOW_BYTES)
            }
            Space::Local => {
                wide!(|a: u64| bool: a.wrapping_sub(LOCAL_WINDOW) < WINDOW_BYTES)
            }
            Space::Param => {
                wide!(|a: u64| bool: a.wrapping_sub(PARAM_WINDOW) < WINDOW_BYTES)
            }
            Space::Global => wide!(|a: u64| bool: a < PARAM_WINDOW),
            _ => return self.fail("state space is not implemented"),
        };
        self.alu(wide, Args { d, a, ..Args::default() }, Class::Compare);
        Ok(())
    }

    /// Whether there is a cache policy, and how many bytes L2 fetches at a time.
    fn hints(&mut self) -> (bool, u32) {
        let (mut policy, mut prefetch_bytes) = (false, 0);
        while let Some(hint) = self.parts.any(&CACHE) {
            policy |= hint == "L2::cache_hint";
            prefetch_bytes = fetched_bytes(Some(hint)).max(prefetch_bytes);
        }
        (policy, prefetch_bytes)
    }

    /// The registers of a vector operand and the element's width.
    fn access(&mut self, n: usize, load: bool) -> Result<(u32, bool, Bank, u32, Vec<u16>)> {
        let vector = match self.parts.any(&["v2", "v4", "v8"]) {
            Some("v2") => 2,
            Some("v4") => 4,
            Some(_) => 8,
            None => 1,
        };
        let ty = self.expect_ty()?;
        let list = self.list(n)?;
        if list.len() != vector || ty == Type::Pred || vector as u32 * ty.bits() > 256 {
            return self.fail("the vector does not fit the type");
        }
        let (mut registers, mut bank, mut bits) = (Vec::new(), None, 0);
        for operand in &list {
            let register = match operand {
                Operand::Name("_") if load => {
                    let index = self.spare(ty.bank());
                    Register { bank: ty.bank(), index, bits: 64 }
                }
                Operand::Name(_) if self.register(operand).is_ok() => {
                    self.register(operand)?
                }
                _ if !load => {
                    let index = self.source_of(operand, ty)?;
                    Register { bank: ty.bank(), index, bits: ty.bits() }
                }
                _ => return self.fail("expected registers"),
            };
            if register.bits < ty.bits() && register.bits != 1
                || register.bank == Bank::Predicate
                || *bank.get_or_insert(register.bank) != register.bank
            {
                return self.fail(
                    "the registers have different sizes or are too small for the type",
                );
            }
            bits = register.bits.max(bits);
            registers.push(register.index);
        }
        let bank = bank.unwrap_or(Bank::Word);
        Ok((ty.bits() / 8, ty.is_signed(), bank, bits, registers))
    }

    fn class(space: Space, load: bool) -> Class {
        match (space, load) {
            (Space::Global | Space::Generic, true) => Class::LoadGlobal,
            (Space::Global | Space::Generic, false) => Class::StoreGlobal,
            (Space::Shared | Space::SharedCluster, true) => Class::LoadShared,
            (Space::Shared | Space::SharedCluster, false) => Class::StoreShared,
            _ => Class::OtherMemory,
        }
    }

    fn load(&mut self) -> Result<()> {
        let (order, scope) = self.order();
        let space = self.space();
        let read_only = self.parts.take("nc");
        let (policy, prefetch_bytes) = self.hints();
        let (width, signed, bank, bits, registers) = self.access(0, true)?;
        self.arity(2 + usize::from(policy), 2 + usize::from(policy))?;
        let address = self.address(1, space)?;
        let access = Access {
            address,
            width,
            signed,
            bank,
            bits,
            registers,
            order,
            scope,
            read_only,
            prefetch_bytes,
        };
        if order.is_strong() && matches!(space, Space::Global | Space::Generic) {
            self.blocks_communicate();
        }
        self.push(Op::Load(Box::new(access)), Self::class(space, true));
        Ok(())
    }

    fn store(&mut self) -> Result<()> {
        if self.parts.take("async") {
            return self.async_store();
        }
        if self.parts.take("bulk") {
            return self.fail("bulk stores are not implemented");
        }
        let (order, scope) = self.order();
        let (space, read_only) = (self.space(), false);
        let (policy, _) = self.hints();
        let (width, signed, bank, bits, registers) = self.access(1, false)?;
        self.arity(2 + usize::from(policy), 2 + usize::from(policy))?;
        let address = self.address(0, space)?;
        let access = Access {
            address,
            width,
            signed,
            bank,
            bits,
            registers,
            order,
            scope,
            read_only,
            prefetch_bytes: 0,
        };
        if order.is_strong() && matches!(space, Space::Global | Space::Generic) {
            self.blocks_communicate();
        }
        self.push(Op::Store(Box::new(access)), Self::class(space, false));
        Ok(())
    }

    /// A store to shared memory that an mbarrier counts; not yet the forms of sm_100, whose
    /// stores to global memory have a memory order.
    fn async_store(&mut self) -> Result<()> {
        self.parts.take("weak");
        let space = self.space();
        let counts = self.parts.take("mbarrier::complete_tx::bytes");
        if space != Space::SharedCluster || !counts {
            return self.fail(
                "asynchronous stores other than to '.shared::cluster', counted by \
                 '.mbarrier::complete_tx::bytes', are not implemented",
            );
        }
        let (width, signed, bank, bits, registers) = self.access(1, false)?;
        self.arity(3, 3)?;
        if !matches!(width, 4 | 8) || width as usize * registers.len() > 16 {
            return self.fail("elements have 32 or 64 bits, of at most 16 bytes together");
        }
        let access = Access {
            address: self.address(0, space)?,
            width,
            signed,
            bank,
            bits,
            registers,
            order: Order::Weak,
            scope: Scope::Cluster,
            read_only: false,
            prefetch_bytes: 0,
        };
        let barrier = self.address(2, space)?;
        let store = AsyncStore { access, barrier };
        self.push(Op::StoreAsync(Box::new(store)), Class::Async);
        Ok(())
    }

    fn atomic(&mut self, returns: bool) -> Result<()> {
        if self.parts.take("async") {
            return self.fail("asynchronous reductions are not implemented");
        }
        let (order, scope) = match self.order() {
            (Order::Weak, scope) => (Order::Relaxed, scope),
            given => given,
        };
        let space = self.space();
        let names = ["and", "or", "xor", "cas", "exch", "add", "inc", "dec", "min", "max"];
        let Some(name) = self.parts.any(&names) else {
            return self.fail("operation is missing or not implemented");
        };
        self.parts.take("noftz");
        let (policy, _) = self.hints();
        let count = match self.parts.any(&["v2", "v4", "v8"]) {
            Some("v2") => 2,
            Some("v4") => 4,
            Some(_) => 8,
            None => 1,
        };
        let ty = self.expect_ty()?;
        let Some(op) = AtomicOp::parse(name, ty) else {
            return self.fail("operation is not implemented for this type");
        };
        if !matches!(space, Space::Shared | Space::SharedCluster) {
            self.blocks_communicate();
        }
        let first = usize::from(returns);
        let sources = 1 + usize::from(name == "cas");
        let wanted = first + 1 + sources;
        self.arity(wanted, wanted + usize::from(policy))?;
        let d = match (returns, self.operand(0)?.clone()) {
            (true, Operand::Name("_")) | (false, _) => Vec::new(),
            (true, _) => self.dests(0, ty.bank())?,
        };
        let address = self.address(first, space)?;
        let a = self.sources(first + 1, ty)?;
        if a.len() != count || !(d.is_empty() || d.len() == count) || count > 1 && returns {
            return self.fail("this vector is not implemented");
        }
        let b = if name == "cas" { Some(self.source(first + 2, ty)?) } else { None };
        let atomic = Atomic { op, address, d, a, b, bank: ty.bank(), order, scope };
        self.push(Op::Atomic(Box::new(atomic)), Class::Atomic);
        Ok(())
    }
}
