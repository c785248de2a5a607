//! Execution: one warp's instruction after another.

use crate::bank::Bank;
use crate::exec::effect::Effect;
use crate::exec::step::{Next, report_undefined, set};
use crate::finding::FindingKind;
use crate::instruction::{ClockRegister, Fence, Instruction, NO_GUARD, Op};
use crate::lanes::lanes;
use crate::machine::{Machine, Step};
use crate::warp::{Group, Wait, Warp};

pub(crate) mod access;
mod async_store;
mod atomic;
mod barrier;
mod bulk;
mod console;
mod cp_async;
mod effect;
pub(crate) mod landing;
mod maps;
mod matrix;
mod mbarrier;
mod memory;
mod peer;
mod registers;
mod runs;
pub(crate) mod step;
mod tensor_copy;
mod tile;
mod warp_ops;
pub(crate) mod wgmma;

/// After so many instructions, another group of the warp may be chosen.
const STREAK: u32 = 400;

/// Runs `warp` for about `quantum` instructions, or until it cannot continue.
pub(crate) fn run(warp: &mut Warp, m: &mut Machine<'_>, quantum: u32) -> Step {
    let mut left = quantum;
    while left > 0 && choose(warp, m) {
        if !run_group(warp, m, &mut left)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Ends waits that are over and chooses the group to run: the one with the lowest
/// instruction, so that threads meet again, but not the same group for ever.
fn choose(warp: &mut Warp, m: &mut Machine<'_>) -> bool {
    wake(warp, m);
    if warp.groups.len() != 1 {
        warp.merge();
    } else if let Wait::Meet { mask } = warp.groups[0].wait
        && mask & warp.live & !warp.groups[0].mask == 0
    {
        warp.groups[0].wait = Wait::None;
    }
    let ready = |group: &Group| group.wait == Wait::None;
    let count = warp.groups.iter().filter(|group| ready(group)).count();
    if count == 0 {
        return false;
    }
    let candidates = warp.groups.iter().enumerate().filter(|(_, group)| ready(group));
    let chosen = if count > 1 && warp.streak > STREAK {
        warp.streak = 0;
        candidates.map(|(at, _)| at).nth(m.random.below(count))
    } else {
        candidates.min_by_key(|(_, group)| group.pc).map(|(at, _)| at)
    };
    warp.current = chosen.unwrap_or_default();
    true
}

/// Ends waits that are over.
fn wake(warp: &mut Warp, m: &mut Machine<'_>) {
    for at in 0..warp.groups.len() {
        match warp.groups[at].wait {
            Wait::Barrier { id, generation } => {
                let barrier = &m.blocks[warp.rank].barriers[id];
                if barrier.generation != generation {
                    warp.clock.learn(&barrier.released);
                    warp.groups[at].wait = Wait::None;
                }
            }
            Wait::Cluster { generation } => {
                if m.cluster_barrier.generation != generation {
                    peer::has_waited(warp, m, generation);
                    warp.groups[at].wait = Wait::None;
                }
            }
            Wait::Product { number } => {
                if wgmma::has_begun(m, (warp.rank, warp.index), number) {
                    warp.groups[at].wait = Wait::None;
                }
            }
            Wait::Registers { count } => {
                if m.blocks[warp.rank].free_registers >= count {
                    warp.groups[at].wait = Wait::None;
                }
            }
            Wait::None | Wait::Meet { .. } => {}
        }
    }
}

/// Runs the chosen group until it meets another, splits, waits or uses up `left`.
/// Says whether the warp should continue.
fn run_group(warp: &mut Warp, m: &mut Machine<'_>, left: &mut u32) -> Step<bool> {
    let code = &m.run.kernel.code;
    let at = warp.current;
    let Group { mut pc, mask, .. } = warp.groups[at];
    // The next instruction where another group stands.
    let others = warp.groups.iter().enumerate().filter(|&(n, _)| n != at);
    let meeting = others.map(|(_, g)| g.pc).filter(|&other| other > pc).min();
    let meeting = meeting.unwrap_or(u32::MAX);
    loop {
        if *left == 0 {
            warp.groups[at].pc = pc;
            return Ok(false);
        }
        *left -= 1;
        warp.cycles += 1;
        warp.streak += 1;
        let instruction = &code[pc as usize];
        let active = guard(warp, m, instruction, mask, pc);
        let executed = &mut m.executed[pc as usize];
        executed.0 += u64::from(active.count_ones());
        executed.1 += u64::from(active != 0);
        if active == 0 {
            pc += 1;
        } else if let Op::Alu(wide, args) = &instruction.op {
            wide(&mut warp.regs, args, active);
            if warp.regs.touched_in_flight {
                touched(warp, m, pc, active);
            }
            pc += 1;
        } else {
            warp.groups[at].pc = pc;
            let next = if m.traffic.is_empty() {
                execute(warp, m, &instruction.op, active, pc)?
            } else {
                let before = m.counts.traffic();
                let next = execute(warp, m, &instruction.op, active, pc)?;
                m.traffic[pc as usize].add_between(&before, &m.counts.traffic());
                next
            };
            match follow(warp, m, next, (pc, mask, active)) {
                Course::At(next) => pc = next,
                Course::Ends { more } => return Ok(more),
            }
        }
        if pc >= meeting {
            warp.groups[at].pc = pc;
            return Ok(true);
        }
    }
}

/// How the running group continues after an instruction.
enum Course {
    /// It continues at this instruction.
    At(u32),
    /// Its turn is over; whether the warp should continue.
    Ends { more: bool },
}

/// Applies the outcome of the instruction at `pc` to the running group. Of the group's
/// lanes `mask`, those in `active` executed it.
#[inline(always)]
fn follow(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    next: Next,
    (pc, mask, active): (u32, u32, u32),
) -> Course {
    let at = warp.current;
    match next {
        Next::Go => return Course::At(pc + 1),
        Next::Jump { target, taken } if taken == mask => {
            if warp.groups.len() == 1 {
                return Course::At(target);
            }
            warp.groups[at].pc = target;
        }
        Next::Jump { target, taken } => {
            let group = &mut warp.groups[at];
            *group = Group { pc: pc + 1, mask: mask & !taken, ..*group };
            warp.groups.push(Group { pc: target, mask: taken, wait: Wait::None });
        }
        Next::Choose => {}
        Next::Wait(wait) => {
            split(warp, at, active, pc);
            warp.groups[at].pc = pc + 1;
            warp.groups[at].wait = wait;
        }
        Next::Again(wait) => again(warp, m, (pc, active), wait),
        Next::Meet { mask } => again(warp, m, (pc, active), Wait::Meet { mask }),
        Next::Polled => {
            warp.groups[at].pc = pc + 1;
            warp.polls += 1;
            warp.streak = STREAK + 1;
            return Course::Ends { more: false };
        }
        Next::Exit { mask: gone } => {
            warp.groups[at].pc = pc + 1;
            leave(warp, m, gone, pc);
        }
    }
    Course::Ends { more: true }
}

/// The running group's lanes `active` execute the instruction at `pc` after a wait.
fn again(warp: &mut Warp, m: &mut Machine<'_>, (pc, active): (u32, u32), wait: Wait) {
    // It was not executed yet, and will be counted when it is.
    let executed = &mut m.executed[pc as usize];
    executed.0 -= u64::from(active.count_ones());
    executed.1 -= 1;
    let at = warp.current;
    split(warp, at, active, pc);
    warp.groups[at].wait = wait;
}

/// Where only some lanes of a group wait (at a guarded instruction), the others continue
/// as another group.
fn split(warp: &mut Warp, at: usize, active: u32, pc: u32) {
    let rest = warp.groups[at].mask & !active;
    if rest != 0 {
        warp.groups[at].mask = active;
        warp.groups.push(Group { pc: pc + 1, mask: rest, wait: Wait::None });
    }
}

/// The lanes that the guard lets through.
#[inline(always)]
fn guard(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    instruction: &Instruction,
    mask: u32,
    pc: u32,
) -> u32 {
    if instruction.guard == NO_GUARD {
        return mask;
    }
    let undefined = warp.regs.undefined(Bank::Predicate, instruction.guard) & mask;
    if undefined != 0 {
        report_undefined(
            warp,
            m,
            pc,
            undefined,
            (Bank::Predicate, instruction.guard),
            "guard",
        );
    }
    let bits = warp.regs.p[usize::from(instruction.guard)];
    mask & if instruction.negated { !bits } else { bits }
}

#[cold]
fn touched(warp: &mut Warp, m: &mut Machine<'_>, pc: u32, active: u32) {
    warp.regs.touched_in_flight = false;
    let lane = active.trailing_zeros() as usize;
    m.note(FindingKind::AccumulatorInFlight, warp, pc, lane, None, || {
        "computes with a wgmma accumulator before its wait".to_owned()
    });
}

/// Threads return.
fn leave(warp: &mut Warp, m: &mut Machine<'_>, gone: u32, pc: u32) {
    cp_async::land_on_exit(warp, m, gone);
    bulk::after_exit(warp, m, gone);
    warp.exit(gone);
    let block = &mut m.blocks[warp.rank];
    block.live_threads -= gone.count_ones();
    if warp.is_done() {
        block.live_warps -= 1;
    }
    peer::after_exit(warp, m);
    m.progressed();
    barrier::after_exit(warp, m, gone, pc);
}

/// Executes an instruction, and says to the warp's clock whether it may access memory, and
/// which lanes it synchronises.
#[inline]
fn execute(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    op: &Op,
    active: u32,
    pc: u32,
) -> Step<Next> {
    let effect = Effect::of(op);
    if effect.accesses() {
        warp.clock.touch();
    }
    let next = dispatch(warp, m, op, active, pc)?;
    if effect.accesses() {
        // What it did after it published something is not part of that.
        warp.clock.touch();
    }
    if effect.gathers() && matches!(next, Next::Go | Next::Wait(_)) {
        warp.clock.gather(warp.together(active));
    }
    Ok(next)
}

fn dispatch(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    op: &Op,
    active: u32,
    pc: u32,
) -> Step<Next> {
    match op {
        Op::Alu(wide, args) => wide(&mut warp.regs, args, active),
        Op::Convert(conversion) => conversion.run(&mut warp.regs, active),
        Op::Nop => {}
        Op::WaitForPrevious => m.early = false,
        Op::SetMaxRegisters { count, more } => {
            return Ok(registers::set(warp, m, (*count, *more), active, pc));
        }
        Op::Branch { target } => {
            return Ok(Next::Jump { target: *target, taken: active });
        }
        Op::BranchIndex { index, targets } => {
            return branch_index(warp, m, *index, targets, active, pc);
        }
        Op::Exit => {
            wgmma::before_exit(warp, m, active)?;
            registers::before_exit(warp, m, active);
            return Ok(Next::Exit { mask: active });
        }
        Op::Trap => {
            let lane = active.trailing_zeros() as usize;
            return m.stop(FindingKind::Trap, warp, pc, lane, "the kernel executed a trap");
        }
        Op::Clock { clock, bank, d } => {
            let cycles = m.run.clock + warp.cycles + warp.slept;
            let now = match clock {
                ClockRegister::Cycles => cycles,
                ClockRegister::CyclesHigh => cycles >> 32,
                ClockRegister::Timer => (1 << 40) + cycles,
                ClockRegister::TimerHigh => ((1 << 40) + cycles) >> 32,
            };
            set(warp, *bank, *d, now, active);
        }
        Op::Load(access) => return memory::load(warp, m, access, active, pc),
        Op::Store(access) => memory::store(warp, m, access, active, pc)?,
        Op::Atomic(atomic) => return atomic::run(warp, m, atomic, active, pc),
        Op::Shuffle(shuffle) => return warp_ops::shuffle(warp, m, shuffle, active, pc),
        Op::Vote(vote) => return warp_ops::vote(warp, m, vote, active, pc),
        Op::Redux(redux) => return warp_ops::redux(warp, m, redux, active, pc),
        Op::ActiveMask { d } => {
            set(warp, Bank::Word, *d, u64::from(active), active);
        }
        Op::Elect { d, p, mask } => {
            return warp_ops::elect(warp, m, (*d, *p, *mask), active, pc);
        }
        Op::WarpBarrier { mask } => return barrier::warp(warp, m, *mask, active, pc),
        Op::Barrier(barrier) => return barrier::run(warp, m, barrier, active, pc),
        Op::BarrierResult { id, what, bank, d } => {
            barrier::result(warp, m, (*id, *what, *bank, *d), active);
        }
        Op::ClusterArrive { aligned, release } => {
            return barrier::cluster_arrive(warp, m, *aligned, *release, active);
        }
        Op::ClusterWait { aligned } => {
            return barrier::cluster_wait(warp, m, *aligned, (active, pc));
        }
        Op::Fence(fence) => run_fence(warp, m, *fence, active),
        Op::LdMatrix(_) | Op::StMatrix(_) | Op::MovMatrix { .. } | Op::Mma(_) => {
            return on_matrices(warp, m, op, active, pc);
        }
        Op::CpAsync(copy) => cp_async::issue(warp, m, copy, active, pc)?,
        Op::CpCommit => warp.copies.commit(active),
        Op::CpWait { pending } => cp_async::wait(warp, m, *pending, active),
        Op::CpWaitAll => cp_async::wait_all(warp, m, active),
        Op::CpArrive { address, counted } => {
            mbarrier::copies_arrive(warp, m, (*address, *counted), active, pc)?;
        }
        Op::Mbarrier(operation) => {
            return mbarrier::run(warp, m, operation, active, pc);
        }
        Op::Bulk(bulk) => bulk::issue(warp, m, bulk, active, pc)?,
        Op::StoreAsync(store) => async_store::issue(warp, m, store, active, pc)?,
        Op::BulkPrefetch { global, bytes } => {
            bulk::prefetch(warp, m, (global, *bytes), active, pc)?;
        }
        Op::BoxPrefetch { map, coordinates } => {
            bulk::prefetch_box(warp, m, (map, coordinates), active, pc)?;
        }
        Op::MapAcquire { map, global } => {
            maps::acquire(warp, m, (map, *global), active, pc)?;
        }
        Op::MapCopy { to, from, global } => {
            maps::copy(warp, m, (to, from, *global), active, pc)?;
        }
        Op::MapReplace { map, field, value } => {
            maps::replace(warp, m, (map, *field, *value), active, pc)?;
        }
        Op::BulkCommit => bulk::commit(warp, active),
        Op::BulkWait { pending, read } => {
            bulk::wait(warp, m, (*pending, *read), active)?;
        }
        Op::MapRank { d, a, rank, bank, generic } => {
            barrier::map_rank(warp, m, (*d, *a, *rank), (*bank, *generic), (active, pc))?;
        }
        Op::GetRank { d, a, bank } => barrier::get_rank(warp, (*d, *a, *bank), active),
        Op::Print(call) => console::print(warp, m, call, active, pc)?,
        Op::AssertFail(operands) => console::assertion(warp, m, operands, active, pc)?,
        Op::BadCall => {
            let lane = active.trailing_zeros() as usize;
            let detail = "a call through a pointer that is not the address of a function \
                          with the call's parameters";
            return m.stop(FindingKind::BadOperand, warp, pc, lane, detail);
        }
        Op::Wgmma(product) => return wgmma::issue(warp, m, product, active, pc),
        Op::WgmmaFence => return Ok(wgmma::fence(warp, active)),
        Op::WgmmaCommit => return Ok(wgmma::commit(warp, active)),
        Op::WgmmaWait { pending } => return Ok(wgmma::wait(warp, m, *pending, active)),
        Op::Sleep { time } => {
            let lane = active.trailing_zeros() as usize;
            warp.slept += u64::from(warp.regs.r[usize::from(*time)][lane]);
            return Ok(Next::Polled);
        }
    }
    Ok(Next::Go)
}

/// Instructions of a whole warp on matrices.
fn on_matrices(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    op: &Op,
    active: u32,
    pc: u32,
) -> Step<Next> {
    if active == warp.live && active != u32::MAX {
        let missing = active.count_zeros();
        let lane = active.trailing_zeros() as usize;
        m.note(FindingKind::BadOperand, warp, pc, lane, None, || {
            format!(
                "the instruction needs all 32 threads of the warp, and {missing} have \
                 returned or do not exist"
            )
        });
    }
    match op {
        Op::LdMatrix(load) => matrix::load(warp, m, load, active, pc),
        Op::StMatrix(store) => matrix::store(warp, m, store, active, pc),
        Op::MovMatrix { d, a } => matrix::transpose(warp, *d, *a, active),
        Op::Mma(mma) => matrix::multiply(warp, mma, active),
        _ => Ok(Next::Go),
    }
}

fn branch_index(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    index: u16,
    targets: &[u32],
    active: u32,
    pc: u32,
) -> Step<Next> {
    let undefined = warp.regs.undefined(Bank::Word, index) & active;
    if undefined != 0 {
        report_undefined(warp, m, pc, undefined, (Bank::Word, index), "branch");
    }
    let row = warp.regs.r[usize::from(index)];
    let at = warp.current;
    let rest = warp.groups[at].mask & !active;
    let mut groups: Vec<(u32, u32)> = vec![(pc + 1, rest)];
    for lane in lanes(active) {
        let Some(&target) = targets.get(row[lane] as usize) else {
            let detail = format!(
                "branch index {} in a list of {} targets",
                row[lane],
                targets.len()
            );
            return m.stop(FindingKind::BadOperand, warp, pc, lane, detail);
        };
        match groups.iter_mut().find(|group| group.0 == target) {
            Some(group) => group.1 |= 1 << lane,
            None => groups.push((target, 1 << lane)),
        }
    }
    warp.groups.remove(at);
    let group = |(pc, mask)| Group { pc, mask, wait: Wait::None };
    warp.groups.extend(groups.into_iter().filter(|group| group.1 != 0).map(group));
    Ok(Next::Choose)
}

fn run_fence(warp: &mut Warp, m: &mut Machine<'_>, fence: Fence, active: u32) {
    let lanes = warp.together(active);
    match fence {
        Fence::Memory { scope, acquires, releases } => {
            warp.clock.fence(scope, (acquires, releases), lanes);
        }
        Fence::ProxyAsync { shared, global } => {
            if shared {
                mbarrier::show(warp, m, true);
            }
            warp.clock.fence_proxy((shared, global), lanes);
        }
        Fence::MapRelease { global } => maps::release(warp, global, active),
        Fence::MbarrierInit => mbarrier::show(warp, m, false),
    }
}
