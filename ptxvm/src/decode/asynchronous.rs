//! Asynchronous copies and mbarriers.

use crate::count::Class;
use crate::decode::{Decoder, Result, Type};
use crate::exec::cp_async::CpAsync;
use crate::instruction::*;
use crate::syntax::{Bank, Operand};

impl<'a> Decoder<'_, 'a> {
    pub(super) fn asynchronous(&mut self, name: &str) -> Result<()> {
        if name == "mbarrier" {
            return self.mbarrier();
        }
        if !self.parts.take("async") {
            return self.fail("instruction is not implemented");
        }
        if self.parts.take("bulk") {
            return self.bulk();
        }
        match self.parts.any(&["commit_group", "wait_group", "wait_all", "mbarrier"]) {
            Some("commit_group") => {
                self.push(Op::CpCommit, Class::Async);
                Ok(())
            }
            Some("wait_group") => {
                let pending = self.immediate(0)?.min(1 << 30) as u32;
                self.push(Op::CpWait { pending }, Class::Async);
                Ok(())
            }
            Some("wait_all") => {
                self.push(Op::CpWaitAll, Class::Async);
                Ok(())
            }
            Some(_) => self.copies_arrive(),
            None => self.copy(),
        }
    }

    fn copies_arrive(&mut self) -> Result<()> {
        let arrive = self.parts.take("arrive");
        let counted = self.parts.take("noinc");
        let space = self.space();
        if !arrive || self.expect_ty()? != Type::B64 {
            return self.fail("form is not implemented");
        }
        self.arity(1, 1)?;
        let address = self.address(0, space)?;
        self.push(Op::CpArrive { address, counted }, Class::Async);
        Ok(())
    }

    fn copy(&mut self) -> Result<()> {
        let Some(level) = self.parts.any(&["ca", "cg"]) else {
            return self.fail("'.ca' or '.cg'");
        };
        let (to, from) = (self.space(), self.space());
        if to != Space::Shared || from != Space::Global {
            return self.fail("only '.shared.global' is implemented");
        }
        self.parts.any(&["L2::64B", "L2::128B", "L2::256B"]);
        let policy = self.parts.take("L2::cache_hint");
        self.arity(3, 4 + usize::from(policy))?;
        let bytes = self.immediate(2)?;
        if !(bytes == 16 || level == "ca" && matches!(bytes, 4 | 8)) {
            return self.fail(format!("a copy of {bytes} bytes"));
        }
        let mut op = CpAsync {
            to: self.address(0, Space::Shared)?,
            from: self.address(1, Space::Global)?,
            bytes: bytes as u32,
            source_bytes: None,
            ignore: None,
        };
        if self.operands() > 3 + usize::from(policy) {
            // A predicate says to ignore the source, a number how much there is of it.
            let operand = self.operand(3)?.clone();
            let is_predicate = matches!(operand, Operand::Not(_))
                || self.register(&operand).is_ok_and(|r| r.bank == Bank::Predicate);
            if is_predicate {
                op.ignore = Some(self.source(3, Type::Pred)?);
            } else {
                op.source_bytes = Some(self.source(3, Type::U32)?);
            }
        }
        self.push(Op::CpAsync(Box::new(op)), Class::Async);
        Ok(())
    }

    fn mbarrier(&mut self) -> Result<()> {
        self.fail("instruction is not implemented")
    }

    fn bulk(&mut self) -> Result<()> {
        self.fail("instruction is not implemented")
    }
}
