//! Asynchronous copies and mbarriers.

use crate::bank::Bank;
use crate::count::Class;
use crate::decode::decoder::{Decoder, Result, fetched_bytes};
use crate::instruction::*;
use crate::syntax::Operand;

/// The number of dimensions of a tensor copy.
const DIMENSIONS: [&str; 5] = ["1d", "2d", "3d", "4d", "5d"];

/// What `mbarrier` is followed by.
const MBARRIER_FORMS: [&str; 9] = [
    "init",
    "inval",
    "arrive",
    "arrive_drop",
    "expect_tx",
    "complete_tx",
    "test_wait",
    "try_wait",
    "pending_count",
];

fn mbarrier_kind(name: &str, bytes: bool, parity: bool) -> MbarrierKind {
    match name {
        "init" => MbarrierKind::Init,
        "inval" => MbarrierKind::Invalidate,
        "arrive" => MbarrierKind::Arrive { bytes, drop: false },
        "arrive_drop" => MbarrierKind::Arrive { bytes, drop: true },
        "expect_tx" => MbarrierKind::ExpectBytes,
        "complete_tx" => MbarrierKind::CompleteBytes,
        "pending_count" => MbarrierKind::PendingCount,
        _ => MbarrierKind::Wait { parity },
    }
}

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
            return self.fail("expected '.ca' or '.cg'");
        };
        let (to, from) = (self.space(), self.space());
        if to != Space::Shared || from != Space::Global {
            return self.fail("only '.shared.global' is implemented");
        }
        let prefetch_bytes =
            fetched_bytes(self.parts.any(&["L2::64B", "L2::128B", "L2::256B"]));
        let policy = self.parts.take("L2::cache_hint");
        self.arity(3, 4 + usize::from(policy))?;
        let bytes = self.immediate(2)?;
        if !(bytes == 16 || level == "ca" && matches!(bytes, 4 | 8)) {
            return self.fail(format!("a copy of {bytes} bytes is not possible"));
        }
        let mut op = CpAsync {
            to: self.address(0, Space::Shared)?,
            from: self.address(1, Space::Global)?,
            bytes: bytes as u32,
            source_bytes: None,
            ignore: None,
            prefetch_bytes,
        };
        if self.operands() > 3 + usize::from(policy) {
            // A predicate means to ignore the source, an integer is the source's size.
            let operand = self.operand(3)?.clone();
            let is_predicate = matches!(operand, Operand::Not(_))
                || self.register(&operand).is_ok_and(|r| r.bank == Bank::Predicate);
            if is_predicate {
                self.check_platform(&["cp", "async", "#ignore"])?;
                op.ignore = Some(self.source(3, Type::Pred)?);
            } else {
                op.source_bytes = Some(self.source(3, Type::U32)?);
            }
        }
        self.push(Op::CpAsync(Box::new(op)), Class::Async);
        Ok(())
    }

    fn mbarrier(&mut self) -> Result<()> {
        let Some(name) = self.parts.any(&MBARRIER_FORMS) else {
            return self.fail("form is not implemented");
        };
        let bytes = name.starts_with("arrive") && self.parts.take("expect_tx");
        let parity = self.parts.take("parity");
        let order = self.parts.any(&["release", "acquire", "relaxed"]);
        let scope = self.scope().unwrap_or(Scope::Cluster);
        let space = self.space();
        if self.expect_ty()? != Type::B64 {
            return self.fail("form is not implemented");
        }
        let orders = order != Some("relaxed");
        let kind = mbarrier_kind(name, bytes, parity);
        let mut op = MbarrierOp {
            kind,
            address: Address { space, bank: Bank::Double, index: 0, offset: 0 },
            d: SINK,
            operand: None,
            orders,
            scope,
        };
        match kind {
            MbarrierKind::Init
            | MbarrierKind::ExpectBytes
            | MbarrierKind::CompleteBytes => {
                self.arity(2, 2)?;
                op.address = self.address(0, space)?;
                op.operand = Some(self.source(1, Type::U32)?);
                op.orders = false;
            }
            MbarrierKind::Invalidate => {
                self.arity(1, 1)?;
                op.address = self.address(0, space)?;
                op.orders = false;
            }
            MbarrierKind::Arrive { .. } => self.mbarrier_arrive(&mut op, space, bytes)?,
            MbarrierKind::PendingCount => {
                self.arity(2, 2)?;
                op.address.index = self.source(1, Type::B64)?;
                op.d = self.dest_at(0, Type::U32)?;
            }
            MbarrierKind::Wait { parity } => {
                // A time limit is a hint: here a try ends at once.
                self.arity(3, 4)?;
                op.address = self.address(1, space)?;
                let ty = if parity { Type::U32 } else { Type::B64 };
                op.operand = Some(self.source(2, ty)?);
                op.d = self.dest_at(0, Type::Pred)?;
            }
        }
        self.push(Op::Mbarrier(Box::new(op)), Class::Barrier);
        Ok(())
    }

    fn mbarrier_arrive(
        &mut self,
        op: &mut MbarrierOp,
        space: Space,
        bytes: bool,
    ) -> Result<()> {
        // There is no state token where the mbarrier may be in another block.
        let first = usize::from(!matches!(self.operand(0)?, Operand::Address(..)));
        self.arity(first + 1, first + 2)?;
        if first == 1 && *self.operand(0)? != Operand::Name("_") {
            op.d = self.dest_at(0, Type::B64)?;
        }
        op.address = self.address(first, space)?;
        if self.operands() == first + 2 {
            op.operand = Some(self.source(first + 1, Type::U32)?);
        } else if bytes {
            return self.fail("the number of bytes is missing");
        }
        Ok(())
    }

    fn bulk(&mut self) -> Result<()> {
        if self.parts.take("commit_group") {
            self.push(Op::BulkCommit, Class::Async);
            return Ok(());
        }
        if self.parts.take("wait_group") {
            let read = self.parts.take("read");
            let pending = self.immediate(0)?.min(1 << 30) as u32;
            self.push(Op::BulkWait { pending, read }, Class::Async);
            return Ok(());
        }
        let is_prefetch = self.parts.take("prefetch");
        let tensor = self.parts.take("tensor");
        if is_prefetch {
            return self.bulk_prefetch(tensor);
        }
        let dims = self.parts.any(&DIMENSIONS);
        self.parts.take("tile");
        let (to, from) = (self.space(), self.space());
        let barrier = self.parts.take("mbarrier::complete_tx::bytes");
        let group = self.parts.take("bulk_group");
        let multicast = self.parts.take("multicast::cluster");
        let policy = usize::from(self.parts.take("L2::cache_hint"));
        let inward = from == Space::Global;
        if tensor != dims.is_some() || barrier == group || !inward && multicast {
            return self.fail("form is not implemented");
        }
        let is_shared = |space| matches!(space, Space::Shared | Space::SharedCluster);
        if !(is_shared(to) && inward && barrier
            || is_shared(to) && is_shared(from) && barrier && !tensor
            || to == Space::Global && is_shared(from) && group)
        {
            return self.fail("this pair of state spaces is not implemented");
        }
        let extra = usize::from(multicast) + policy;
        let op = if tensor {
            self.bulk_tensor((inward, dims), (to, from), extra, multicast)?
        } else {
            self.bulk_row(inward, (to, from), extra, multicast)?
        };
        self.push(Op::Bulk(Box::new(op)), Class::Async);
        Ok(())
    }

    fn bulk_prefetch(&mut self, tensor: bool) -> Result<()> {
        if tensor {
            return self.box_prefetch();
        }
        let to_l2 = self.parts.take("L2") && self.parts.take("global");
        if !to_l2 {
            return self.fail("form is not implemented");
        }
        let policy = usize::from(self.parts.take("L2::cache_hint"));
        self.arity(2 + policy, 2 + policy)?;
        let global = self.address(0, Space::Global)?;
        let bytes = self.source(1, Type::U32)?;
        self.push(Op::BulkPrefetch { global, bytes }, Class::Async);
        Ok(())
    }

    fn box_prefetch(&mut self) -> Result<()> {
        let dims = self.parts.any(&DIMENSIONS);
        let to_l2 = self.parts.take("L2") && self.parts.take("global");
        self.parts.take("tile");
        if dims.is_none() || !to_l2 {
            return self.fail("form is not implemented");
        }
        let policy = usize::from(self.parts.take("L2::cache_hint"));
        self.arity(1 + policy, 1 + policy)?;
        let (map, coordinates) = self.map_and_coordinates(0, dims)?;
        let coordinates = coordinates.into();
        self.push(Op::BoxPrefetch { map, coordinates }, Class::Async);
        Ok(())
    }

    fn bulk_row(
        &mut self,
        inward: bool,
        (to, from): (Space, Space),
        extra: usize,
        multicast: bool,
    ) -> Result<Bulk> {
        let bytes = self.source(2, Type::U32)?;
        let (a, b) = (self.address(0, to)?, self.address(1, from)?);
        if to == Space::Global {
            self.arity(3 + extra, 3 + extra)?;
            let what = BulkKind::Row { global: a, bytes };
            return Ok(Bulk { what, shared: b, barrier: None, multicast: None });
        }
        self.arity(4 + extra, 4 + extra)?;
        let barrier = Some(self.address(3, to)?);
        let multicast = if multicast { Some(self.source(4, Type::U16)?) } else { None };
        let what = if inward {
            BulkKind::Row { global: b, bytes }
        } else {
            BulkKind::Shared { from: b, bytes }
        };
        Ok(Bulk { what, shared: a, barrier, multicast })
    }

    /// The tensor map and the coordinates in operand `at`, as many as `dims` says.
    fn map_and_coordinates(
        &mut self,
        at: usize,
        dims: Option<&str>,
    ) -> Result<(Address, Vec<u16>)> {
        let Operand::Address(base, offset, more) = self.operand(at)?.clone() else {
            return self.fail("expected a tensor map and coordinates");
        };
        let [Operand::List(list)] = more.as_slice() else {
            return self.fail("expected coordinates");
        };
        let coordinates = list
            .iter()
            .map(|operand| self.source_of(operand, Type::S32))
            .collect::<Result<Vec<_>>>()?;
        let count = char::from(b'0' + coordinates.len() as u8);
        if !dims.is_some_and(|dims| dims.starts_with(count)) {
            return self
                .fail("the number of coordinates differs from the number of dimensions");
        }
        Ok((self.base(base, offset, Space::Generic)?, coordinates))
    }

    fn bulk_tensor(
        &mut self,
        (inward, dims): (bool, Option<&str>),
        (to, from): (Space, Space),
        extra: usize,
        multicast: bool,
    ) -> Result<Bulk> {
        let (map, coordinates) = self.map_and_coordinates(usize::from(inward), dims)?;
        let what = BulkKind::Box { map, coordinates };
        if !inward {
            self.arity(2 + extra, 2 + extra)?;
            let shared = self.address(1, from)?;
            return Ok(Bulk { what, shared, barrier: None, multicast: None });
        }
        self.arity(3 + extra, 3 + extra)?;
        let shared = self.address(0, to)?;
        let barrier = Some(self.address(2, to)?);
        let multicast = if multicast { Some(self.source(3, Type::U16)?) } else { None };
        Ok(Bulk { what, shared, barrier, multicast })
    }
}
