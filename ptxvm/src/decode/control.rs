//! Control flow, synchronisation and exchanges within a warp.

use crate::bank::Bank;
use crate::count::Class;
use crate::decode::decoder::{Decoder, Result};
use crate::decode::operand::SCOPES;
use crate::instruction::*;
use crate::syntax::{Function, Operand};

/// Registers of each of a multiprocessor's four register files.
const FILE_REGISTERS: u32 = 16384;

/// Registers that a thread of the kernel is launched with, where `setmaxnreg` changes
/// them.
///
/// The ISA asks for a maximum that is known at the launch, and lets `setmaxnreg` have no
/// effect otherwise. The rule is that of ptxas (12.4 and 13.0 give the same counts):
///
/// * The maximum is known by `.maxnreg`, or by `.maxntid` or `.reqntid` together with
///   `.minnctapersm`. Without these ptxas ignores `setmaxnreg` (C7508), and so does this
///   machine.
/// * Threads and blocks bound it so that their warps, spread over four register files of
///   16384, fit: 16384 / (32 * warps of a file), rounded down to a multiple of 8. For one
///   block of 384 threads that is 168. `.maxnreg` bounds it too.
/// * A kernel with a `setmaxnreg.inc` has no more than the largest that it asks for.
/// * Registers are allocated by 8 for a thread, so that the most, 255, take 256.
pub(super) fn launch_registers(
    function: &Function<'_>,
    code: &[Instruction],
) -> Option<u32> {
    let threads = function.required_threads.or(function.max_threads);
    let fits = threads.zip(function.min_blocks).and_then(|(axes, blocks)| {
        let threads = axes.iter().try_fold(1u32, |all, &n| all.checked_mul(n))?;
        let warps = threads.div_ceil(32).checked_mul(blocks)?.div_ceil(4);
        // What a multiprocessor cannot hold at all, ptxas ignores as well.
        FILE_REGISTERS.checked_div(warps * 32).filter(|&most| warps <= 16 && most > 0)
    });
    let most = match (fits.map(|most| most / 8 * 8), function.max_registers) {
        (None, None) => return None,
        (most, given) => most.unwrap_or(u32::MAX).min(given.unwrap_or(u32::MAX)),
    };
    let asked = code.iter().filter_map(|instruction| match instruction.op {
        Op::SetMaxRegisters { count, more: true } => Some(count),
        _ => None,
    });
    Some(most.min(255).min(asked.max().unwrap_or(255)).next_multiple_of(8))
}

impl<'a> Decoder<'_, 'a> {
    pub(super) fn control(&mut self, name: &str) -> Result<()> {
        match name {
            "bra" => self.branch(),
            "brx" => self.branch_index(),
            "ret" | "exit" => {
                self.parts.take("uni");
                self.push(Op::Exit, Class::Control);
                Ok(())
            }
            "trap" | "brkpt" => {
                self.push(Op::Trap, Class::Control);
                Ok(())
            }
            "bar" | "barrier" => self.barrier(name),
            "membar" | "fence" => self.fence(name),
            "nanosleep" => {
                self.parts.take("u32");
                self.arity(1, 1)?;
                let time = self.source(0, Type::U32)?;
                self.push(Op::Sleep { time }, Class::Control);
                Ok(())
            }
            "setmaxnreg" => {
                let action = self.parts.any(&["inc", "dec"]);
                let known = action.is_some()
                    && self.parts.take("sync")
                    && self.parts.take("aligned")
                    && self.parts.take("u32");
                let count = self.immediate(0)?;
                if !known || count % 8 != 0 || !(24..=256).contains(&count) {
                    return self.fail(
                        "needs the form '.inc' or '.dec', '.sync.aligned.u32', and a multiple \
                         of 8 from 24 to 256",
                    );
                }
                let (count, more) = (count as u32, action == Some("inc"));
                self.push(Op::SetMaxRegisters { count, more }, Class::Control);
                Ok(())
            }
            "griddepcontrol" => {
                let waits = self.parts.any(&["launch_dependents", "wait"]) == Some("wait");
                self.push(
                    if waits { Op::WaitForPrevious } else { Op::Nop },
                    Class::Control,
                );
                Ok(())
            }
            "pmevent" => {
                self.push(Op::Nop, Class::Control);
                Ok(())
            }
            "shfl" => self.shuffle(),
            "vote" => self.vote(),
            "match" => self.matches(),
            "activemask" => {
                self.parts.take("b32");
                let d = self.dest_at(0, Type::B32)?;
                self.push(Op::ActiveMask { d }, Class::Warp);
                Ok(())
            }
            "redux" => self.redux(),
            "elect" => self.elect(),
            "mapa" => self.mapa(),
            _ => self.get_rank(),
        }
    }

    fn label(&self, operand: &Operand<'a>) -> Result<u32> {
        let Operand::Name(name) = operand else { return self.fail("expected a label") };
        match self.function.label(self.statement.scope, name) {
            Some(at) => Ok(at as u32),
            None => self.fail(format!("label '{name}' is not defined")),
        }
    }

    fn branch(&mut self) -> Result<()> {
        self.parts.take("uni");
        self.arity(1, 1)?;
        let target = self.label(self.operand(0)?)?;
        self.push(Op::Branch { target }, Class::Control);
        Ok(())
    }

    fn branch_index(&mut self) -> Result<()> {
        if !self.parts.take("idx") {
            return self.fail("only '.idx' is implemented");
        }
        self.parts.take("uni");
        self.arity(2, 2)?;
        let index = self.source(0, Type::U32)?;
        let Operand::Name(list) = self.operand(1)? else {
            return self.fail("expected a list of targets");
        };
        let Some(names) = self.function.targets(self.statement.scope, list) else {
            return self.fail(format!("the list of targets '{list}' is not defined"));
        };
        let targets = names
            .iter()
            .map(|name| self.label(&Operand::Name(name)))
            .collect::<Result<_>>()?;
        self.push(Op::BranchIndex { index, targets }, Class::Control);
        Ok(())
    }

    fn barrier(&mut self, name: &str) -> Result<()> {
        if self.parts.take("warp") {
            self.parts.take("sync");
            self.arity(1, 1)?;
            let mask = self.source(0, Type::B32)?;
            self.push(Op::WarpBarrier { mask }, Class::Barrier);
            return Ok(());
        }
        if self.parts.take("cluster") {
            return self.cluster_barrier();
        }
        self.parts.take("cta");
        let aligned = self.parts.take("aligned") || name == "bar";
        let kind = match self.parts.any(&["sync", "arrive", "red"]) {
            Some("sync") => BarrierKind::Sync,
            Some("arrive") => BarrierKind::Arrive,
            Some(_) => return self.barrier_reduce(aligned),
            None => return self.fail("expected '.sync', '.arrive' or '.red'"),
        };
        let mut op =
            Barrier { kind, aligned, id: 0, count: None, predicate: None, negated: false };
        self.arity(1, 2)?;
        op.id = self.source(0, Type::U32)?;
        if self.operands() == 2 {
            op.count = Some(self.source(1, Type::U32)?);
        } else if kind == BarrierKind::Arrive {
            return self.fail("the number of threads is missing");
        }
        self.push(Op::Barrier(Box::new(op)), Class::Barrier);
        Ok(())
    }

    fn barrier_reduce(&mut self, aligned: bool) -> Result<()> {
        let how = self.parts.any(&["popc", "and", "or"]);
        let ty = self.expect_ty()?;
        self.arity(3, 4)?;
        let d = self.dest_at(0, ty)?;
        let what = match (how, ty) {
            (Some("and"), Type::Pred) => Reduction::And,
            (Some("or"), Type::Pred) => Reduction::Or,
            (Some("popc"), Type::U32) => Reduction::Count,
            _ => return self.fail("form is not implemented"),
        };
        let (kind, id) = (BarrierKind::Reduce(what), self.source(1, Type::U32)?);
        let mut op =
            Barrier { kind, aligned, id, count: None, predicate: None, negated: false };
        let last = self.operands() - 1;
        if last == 3 {
            op.count = Some(self.source(2, Type::U32)?);
        }
        op.predicate = Some(self.source(last, Type::Pred)?);
        self.push(Op::Barrier(Box::new(op)), Class::Barrier);
        let bank = ty.bank();
        self.push(Op::BarrierResult { id, what, bank, d }, Class::Move);
        Ok(())
    }

    fn cluster_barrier(&mut self) -> Result<()> {
        let aligned = self.parts.take("aligned");
        let order = self.parts.any(&["release", "acquire", "relaxed"]);
        let op = match self.parts.any(&["arrive", "wait"]) {
            Some("arrive") => {
                Op::ClusterArrive { aligned, release: order != Some("relaxed") }
            }
            Some(_) => Op::ClusterWait { aligned },
            None => return self.fail("expected '.arrive' or '.wait'"),
        };
        self.push(op, Class::Barrier);
        Ok(())
    }

    fn fence(&mut self, name: &str) -> Result<()> {
        let fence = if name == "membar" {
            let scope = match self.parts.any(&["cta", "gl", "sys"]) {
                Some("cta") => Scope::Block,
                Some(_) => Scope::Gpu,
                None => return self.fail("the scope is missing"),
            };
            self.narrow_scopes |= scope != Scope::Gpu;
            Fence::Memory { scope, acquires: true, releases: true }
        } else if self.parts.take("proxy") {
            let restriction =
                self.parts.find(|part| part.starts_with("sync_restrict").then_some(()));
            match self.parts.any(&["async", "alias", "tensormap::generic"]) {
                Some("async") => {
                    let memory =
                        self.parts.any(&["global", "shared::cta", "shared::cluster"]);
                    if restriction.is_some() {
                        self.parts.any(&["acquire", "release"]);
                        self.parts.any(&SCOPES);
                    }
                    Fence::ProxyAsync {
                        shared: memory != Some("global"),
                        global: memory.is_none_or(|memory| memory == "global"),
                    }
                }
                Some("tensormap::generic") => return self.map_fence(),
                _ => return self.fail("this proxy fence is not implemented"),
            }
        } else if self.parts.take("mbarrier_init") {
            self.parts.take("release");
            self.parts.take("cluster");
            Fence::MbarrierInit
        } else {
            let order = self.parts.any(&["sc", "acq_rel", "acquire", "release"]);
            self.memory_fence(order.unwrap_or("acq_rel"))?
        };
        self.push(Op::Fence(fence), Class::Barrier);
        Ok(())
    }

    /// A fence of memory with its scope.
    fn memory_fence(&mut self, order: &str) -> Result<Fence> {
        let Some(scope) = self.scope() else { return self.fail("the scope is missing") };
        let (acquires, releases) = (order != "release", order != "acquire");
        Ok(Fence::Memory { scope, acquires, releases })
    }

    fn shuffle(&mut self) -> Result<()> {
        if !self.parts.take("sync") {
            return self.fail("only '.sync' is implemented");
        }
        let mode = match self.parts.any(&["up", "down", "bfly", "idx"]) {
            Some("up") => ShuffleMode::Up,
            Some("down") => ShuffleMode::Down,
            Some("bfly") => ShuffleMode::Butterfly,
            Some(_) => ShuffleMode::Index,
            None => return self.fail("the mode is missing"),
        };
        if self.expect_ty()? != Type::B32 {
            return self.fail("type is not implemented");
        }
        self.arity(5, 5)?;
        let (a, b) = (self.source(1, Type::B32)?, self.source(2, Type::U32)?);
        let (c, mask) = (self.source(3, Type::U32)?, self.source(4, Type::B32)?);
        let (d, p) = match self.operand(0)?.clone() {
            Operand::Pair(d, p) => {
                (self.dest(&d, Bank::Word)?, self.dest(&p, Bank::Predicate)?)
            }
            single => (self.dest(&single, Bank::Word)?, SINK),
        };
        let op = Shuffle { mode, d, p, a, b, c, mask };
        self.push(Op::Shuffle(Box::new(op)), Class::Warp);
        Ok(())
    }

    fn vote(&mut self) -> Result<()> {
        if !self.parts.take("sync") {
            return self.fail("only '.sync' is implemented");
        }
        let (mode, ty) = match self.parts.any(&["all", "any", "uni", "ballot"]) {
            Some("all") => (VoteMode::All, Type::Pred),
            Some("any") => (VoteMode::Any, Type::Pred),
            Some("uni") => (VoteMode::Uniform, Type::Pred),
            Some(_) => (VoteMode::Ballot, Type::B32),
            None => return self.fail("the mode is missing"),
        };
        if self.expect_ty()? != ty {
            return self.fail("type is not implemented");
        }
        self.arity(3, 3)?;
        let a = self.source(1, Type::Pred)?;
        let mask = self.source(2, Type::B32)?;
        let d = self.dest_at(0, ty)?;
        let bank = Bank::Predicate;
        let op = Vote { mode, d, p: SINK, bank, a, negated: false, mask };
        self.push(Op::Vote(Box::new(op)), Class::Warp);
        Ok(())
    }

    fn matches(&mut self) -> Result<()> {
        let sync = self.parts.take("sync");
        let mode = match self.parts.any(&["any", "all"]) {
            Some("any") => VoteMode::MatchAny,
            Some(_) => VoteMode::MatchAll,
            None => return self.fail("the mode is missing"),
        };
        let ty = self.expect_ty()?;
        if !sync || !matches!(ty, Type::B32 | Type::B64) {
            return self.fail("form is not implemented");
        }
        self.arity(3, 3)?;
        let (a, mask) = (self.source(1, ty)?, self.source(2, Type::B32)?);
        let (d, p) = match self.operand(0)?.clone() {
            Operand::Pair(d, p) => {
                (self.dest(&d, Bank::Word)?, self.dest(&p, Bank::Predicate)?)
            }
            single => (self.dest(&single, Bank::Word)?, SINK),
        };
        let op = Vote { mode, d, p, bank: ty.bank(), a, negated: false, mask };
        self.push(Op::Vote(Box::new(op)), Class::Warp);
        Ok(())
    }

    fn redux(&mut self) -> Result<()> {
        let sync = self.parts.take("sync");
        let name = self.parts.any(&["add", "min", "max", "and", "or", "xor"]);
        let ty = self.expect_ty()?;
        let f: fn(u32, u32) -> u32 = match (name, ty) {
            (Some("add"), Type::U32 | Type::S32) => u32::wrapping_add,
            (Some("min"), Type::U32) => u32::min,
            (Some("max"), Type::U32) => u32::max,
            (Some("min"), Type::S32) => |a, b| (a as i32).min(b as i32) as u32,
            (Some("max"), Type::S32) => |a, b| (a as i32).max(b as i32) as u32,
            (Some("and"), Type::B32) => |a, b| a & b,
            (Some("or"), Type::B32) => |a, b| a | b,
            (Some("xor"), Type::B32) => |a, b| a ^ b,
            _ => return self.fail("form is not implemented"),
        };
        if !sync {
            return self.fail("only '.sync' is implemented");
        }
        self.arity(3, 3)?;
        let (a, mask) = (self.source(1, ty)?, self.source(2, Type::B32)?);
        let d = self.dest_at(0, ty)?;
        self.push(Op::Redux(Box::new(Redux { f, d, a, mask })), Class::Warp);
        Ok(())
    }

    fn elect(&mut self) -> Result<()> {
        self.parts.take("sync");
        self.arity(2, 2)?;
        let mask = self.source(1, Type::B32)?;
        let Operand::Pair(d, p) = self.operand(0)?.clone() else {
            return self.fail("expected 'd|p'");
        };
        let d = match *d {
            Operand::Name("_") => SINK,
            d => self.dest(&d, Bank::Word)?,
        };
        let p = self.dest(&p, Bank::Predicate)?;
        self.push(Op::Elect { d, p, mask }, Class::Warp);
        Ok(())
    }

    fn mapa(&mut self) -> Result<()> {
        let generic = self.space() == Space::Generic;
        let ty = self.expect_ty()?;
        self.arity(3, 3)?;
        let a = self.source(1, ty)?;
        let rank = self.source(2, Type::U32)?;
        let d = self.dest_at(0, ty)?;
        let op = Op::MapRank { d, a, rank, bank: ty.bank(), generic };
        self.push(op, Class::Integer);
        Ok(())
    }

    fn get_rank(&mut self) -> Result<()> {
        self.space();
        let ty = self.expect_ty()?;
        self.arity(2, 2)?;
        let a = self.source(1, ty)?;
        let d = self.dest_at(0, Type::U32)?;
        self.push(Op::GetRank { d, a, bank: ty.bank() }, Class::Integer);
        Ok(())
    }
}
