//! Tensor maps that the kernel itself writes: their fields, copies and fences.

use crate::count::Class;
use crate::decode::decoder::{Decoder, Result};
use crate::decode::operand::SCOPES;
use crate::instruction::*;
use crate::tensor_map;

impl Decoder<'_, '_> {
    /// The scope of a fence; whether it reaches other blocks than those of the cluster.
    fn reach(&mut self) -> Result<bool> {
        match self.parts.any(&SCOPES) {
            Some(scope) => Ok(!matches!(scope, "cta" | "cluster")),
            None => self.fail("the scope is missing"),
        }
    }

    /// `fence.proxy.tensormap::generic`, of which all is read but the order.
    pub(super) fn map_fence(&mut self) -> Result<()> {
        match self.parts.any(&["release", "acquire"]) {
            Some("release") => {
                let global = self.reach()?;
                self.push(Op::Fence(Fence::MapRelease { global }), Class::Barrier);
            }
            Some(_) => {
                let global = self.reach()?;
                self.arity(2, 2)?;
                if self.immediate(1)? != 128 {
                    return self.fail("the size must be 128");
                }
                let map = self.address(0, Space::Generic)?;
                self.push(Op::MapAcquire { map, global }, Class::Barrier);
            }
            None => return self.fail("expected '.acquire' or '.release'"),
        }
        Ok(())
    }

    /// `tensormap.replace` and `tensormap.cp_fenceproxy`.
    pub(super) fn tensor_map(&mut self) -> Result<()> {
        if self.parts.take("cp_fenceproxy") {
            return self.map_copy();
        }
        if !self.parts.take("replace") || !self.parts.take("tile") {
            return self.fail("form is not implemented");
        }
        let Some(name) = self.parts.any(&tensor_map::FIELDS) else {
            return self.fail("the field is not implemented");
        };
        let space = self.space();
        let sized = self.parts.take("b1024");
        let wide = match self.expect_ty()? {
            Type::B32 => false,
            Type::B64 => true,
            _ => return self.fail("type is not implemented"),
        };
        if !sized || wide != matches!(name, "global_address" | "global_stride") {
            return self.fail("the type does not fit the field");
        }
        let has_ordinal = tensor_map::has_ordinal(name);
        self.arity(2 + usize::from(has_ordinal), 2 + usize::from(has_ordinal))?;
        let ordinal = if has_ordinal { self.immediate(1)? } else { 0 };
        let Some((offset, bytes, add, most)) = tensor_map::field(name, ordinal) else {
            return self.fail("there is no such dimension");
        };
        let map = self.address(0, space)?;
        let ty = if wide { Type::B64 } else { Type::B32 };
        let value = self.source(1 + usize::from(has_ordinal), ty)?;
        let field = MapField { offset, bytes, add, wide, most };
        self.push(Op::MapReplace { map, field, value }, Class::Async);
        Ok(())
    }

    fn map_copy(&mut self) -> Result<()> {
        let (to, from) = (self.space(), self.space());
        let form = self.parts.take("tensormap::generic") && self.parts.take("release");
        if to != Space::Global || from != Space::Shared || !form {
            return self.fail("form is not implemented");
        }
        let global = self.reach()?;
        if !self.parts.take("sync") || !self.parts.take("aligned") {
            return self.fail("expected '.sync.aligned'");
        }
        self.arity(3, 3)?;
        if self.immediate(2)? != 128 {
            return self.fail("the size must be 128");
        }
        let (to, from) = (self.address(0, to)?, self.address(1, from)?);
        self.push(Op::MapCopy { to, from, global }, Class::Async);
        Ok(())
    }
}
