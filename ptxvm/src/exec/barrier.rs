//! Barriers of a warp, a block and a cluster.

use crate::bank::Bank;
use crate::exec::access::{cluster_address, cluster_target};
use crate::exec::step::{Next, set, values};
use crate::exec::{mbarrier, peer};
use crate::finding::FindingKind;
use crate::instruction::{Barrier, BarrierKind, Op, Reduction, SHARED_WINDOW, Scope};
use crate::lanes::lanes;
use crate::machine::{BARRIERS, Machine, Step};
use crate::warp::{Wait, Warp};

pub(crate) fn run(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    op: &Barrier,
    active: u32,
    pc: u32,
) -> Step<Next> {
    if op.aligned && active != warp.live {
        return Ok(Next::Meet { mask: warp.live });
    }
    let lane = active.trailing_zeros() as usize;
    let id = warp.regs.r[usize::from(op.id)][lane] as usize;
    if id >= BARRIERS {
        let detail = format!("barrier {id}, but a block has {BARRIERS} barriers");
        return m.stop(FindingKind::BadOperand, warp, pc, lane, detail);
    }
    let count = op.count.map(|row| warp.regs.r[usize::from(row)][lane]);
    if count.is_some_and(|count| count == 0 || count % 32 != 0) {
        let detail = "the number of threads must be a multiple of 32";
        return m.stop(FindingKind::BadOperand, warp, pc, lane, detail);
    }
    let (generation, wanted) = arrive(warp, m, op, (id, count.unwrap_or(0)), (active, pc))?;
    if m.blocks[warp.rank].barriers[id].arrived < wanted {
        if op.kind == BarrierKind::Arrive {
            warp.clock.tick();
            return Ok(Next::Go);
        }
        return Ok(Next::Wait(Wait::Barrier { id, generation }));
    }
    m.blocks[warp.rank].barriers[id].release();
    let all = m.run.block.iter().product::<u32>();
    let left = all - m.blocks[warp.rank].live_threads;
    if count.is_none() && left > 0 {
        early_exit(warp, m, pc, lane, left);
    }
    if op.kind == BarrierKind::Arrive {
        warp.clock.tick();
    } else {
        let barrier = &m.blocks[warp.rank].barriers[id];
        warp.clock.learn(&barrier.released);
    }
    Ok(Next::Go)
}

/// Adds the active threads to those at barrier `id`, which `expected` threads take part in,
/// or all of the block where it is 0. Gives the generation that they belong to and how
/// many threads complete it.
fn arrive(
    warp: &Warp,
    m: &mut Machine<'_>,
    op: &Barrier,
    (id, expected): (usize, u32),
    (active, pc): (u32, u32),
) -> Step<(u64, u32)> {
    let lane = active.trailing_zeros() as usize;
    // With a count, whole warps are counted; without, the threads that there are.
    let threads = if expected != 0 && op.aligned { 32 } else { active.count_ones() };
    let bits = op.predicate.map_or(0, |row| warp.regs.p[usize::from(row)]) & active;
    let block = &mut m.blocks[warp.rank];
    let barrier = &mut block.barriers[id];
    if barrier.arrived > 0 && barrier.expected != expected {
        let detail = format!(
            "threads disagree on how many take part in barrier {id}: {} and {} (0 is all)",
            barrier.expected, expected
        );
        return m.stop(FindingKind::BarrierDivergence, warp, pc, lane, detail);
    }
    if barrier.arrived == 0 {
        barrier.reduction = (true, false, 0);
    }
    let first = *barrier.kind.get_or_insert(op.kind);
    let reduces = |kind| matches!(kind, BarrierKind::Reduce(_));
    let mixes = first != op.kind && (reduces(first) || reduces(op.kind));
    barrier.expected = expected;
    barrier.arrived += threads;
    barrier.warps.push(warp.id());
    barrier.message.add(&warp.clock, warp.together(active));
    if op.predicate.is_some() {
        barrier.reduction.0 &= bits == active;
        barrier.reduction.1 |= bits != 0;
        barrier.reduction.2 += bits.count_ones();
    }
    let generation = barrier.generation;
    let wanted = if expected == 0 { block.live_threads } else { expected };
    if barrier.arrived > wanted {
        let detail = format!(
            "{} threads arrived at barrier {id}, which takes {wanted}",
            barrier.arrived
        );
        return m.stop(FindingKind::BarrierDivergence, warp, pc, lane, detail);
    }
    m.progress += 1;
    if mixes {
        mixed(warp, m, (pc, lane), id, (first, op.kind));
    }
    Ok((generation, wanted))
}

/// Reports a reduction that meets something else at a barrier. The ISA leaves open what
/// happens then.
#[cold]
fn mixed(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, lane): (u32, usize),
    id: usize,
    (first, kind): (BarrierKind, BarrierKind),
) {
    m.note(FindingKind::BarrierDivergence, warp, pc, lane, None, || {
        format!(
            "{} at barrier {id}, where other threads are at {}: a reduction may meet only \
             the same reduction",
            kind.name(),
            first.name()
        )
    });
}

#[cold]
fn early_exit(warp: &Warp, m: &mut Machine<'_>, pc: u32, lane: usize, left: u32) {
    m.note(FindingKind::BarrierDivergence, warp, pc, lane, None, || {
        format!(
            "{left} threads of the block returned before this barrier of the whole block"
        )
    });
}

/// Threads that return may complete a barrier of the whole block.
pub(crate) fn after_exit(warp: &Warp, m: &mut Machine<'_>, gone: u32, pc: u32) {
    let block = &mut m.blocks[warp.rank];
    let live = block.live_threads;
    let mut freed = false;
    for barrier in &mut block.barriers {
        if barrier.expected == 0 && barrier.arrived > 0 && barrier.arrived >= live {
            barrier.release();
            freed = true;
        }
    }
    if freed {
        m.note(FindingKind::BarrierDivergence, warp, pc, 0, None, || {
            "threads return while others wait for them at a barrier of the block".to_owned()
        });
    }
    let live: u32 = m.blocks.iter().map(|block| block.live_threads).sum();
    // Those that are gone are waited for no more, and so count no more where they arrived.
    if m.cluster_barrier.generation == warp.cluster_generation {
        m.cluster_barrier.arrived -= (gone & warp.cluster_arrived).count_ones();
    }
    if m.cluster_barrier.arrived > 0 && m.cluster_barrier.arrived >= live {
        m.cluster_barrier.release();
    }
}

/// The result of a reducing barrier.
pub(crate) fn result(
    warp: &mut Warp,
    m: &Machine<'_>,
    (id, what, bank, d): (u16, Reduction, Bank, u16),
    active: u32,
) {
    let lane = active.trailing_zeros() as usize;
    let id = warp.regs.r[usize::from(id)][lane] as usize;
    let result = m.blocks[warp.rank].barriers[id].result;
    let value = match what {
        Reduction::And => u64::from(result.0),
        Reduction::Or => u64::from(result.1),
        Reduction::Count => u64::from(result.2),
    };
    set(warp, bank, d, value, active);
}

/// `bar.warp.sync`: threads of the mask may be at different instructions.
pub(crate) fn warp(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    mask: u16,
    active: u32,
    pc: u32,
) -> Step<Next> {
    let row = warp.regs.r[usize::from(mask)];
    let lane = active.trailing_zeros() as usize;
    let members = row[lane];
    if lanes(active).any(|lane| row[lane] != members || members >> lane & 1 == 0) {
        let detail =
            format!("member mask {members:#x} does not fit the threads {active:#x}");
        return m.stop(FindingKind::BadOperand, warp, pc, lane, detail);
    }
    let code = &m.run.kernel.code;
    let waits = |wait: Wait, pc: u32| {
        wait == Wait::Meet { mask: members }
            && matches!(code[pc as usize].op, Op::WarpBarrier { .. })
    };
    let here = warp.groups.iter().filter(|group| waits(group.wait, group.pc));
    let here = here.fold(active, |all, group| all | group.mask);
    if members & warp.live & !here != 0 {
        return Ok(Next::Meet { mask: members });
    }
    for group in &mut warp.groups {
        if waits(group.wait, group.pc) {
            group.wait = Wait::None;
            group.pc += 1;
        }
    }
    warp.clock.synchronise(warp.together(members & warp.live));
    Ok(Next::Go)
}

pub(crate) fn cluster_arrive(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    aligned: bool,
    release: bool,
    active: u32,
) -> Step<Next> {
    if aligned && active != warp.live {
        return Ok(Next::Meet { mask: warp.live });
    }
    peer::arrives(warp, m);
    mbarrier::meet(warp, m, m.cluster_barrier.generation);
    let live: u32 = m.blocks.iter().map(|block| block.live_threads).sum();
    let barrier = &mut m.cluster_barrier;
    warp.cluster_generation = barrier.generation;
    warp.cluster_arrived |= active;
    barrier.arrived += active.count_ones();
    if release {
        barrier.message.add(&warp.clock, warp.together(active));
    } else {
        // A fence before it releases for it.
        let lanes = warp.together(active);
        warp.clock.add_released(Scope::Cluster, lanes, &mut barrier.message);
    }
    warp.clock.tick();
    if barrier.arrived >= live {
        barrier.release();
    }
    m.progress += 1;
    Ok(Next::Go)
}

pub(crate) fn cluster_wait(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    aligned: bool,
    (active, pc): (u32, u32),
) -> Step<Next> {
    if aligned && active != warp.live {
        return Ok(Next::Meet { mask: warp.live });
    }
    let absent = active & !warp.cluster_arrived;
    if absent != 0 {
        let lane = absent.trailing_zeros() as usize;
        let detail =
            "waits at the barrier of the cluster, at which it has not arrived".to_owned();
        return m.stop(FindingKind::BarrierDivergence, warp, pc, lane, detail);
    }
    warp.cluster_arrived &= !active;
    let generation = warp.cluster_generation;
    if m.cluster_barrier.generation == generation {
        return Ok(Next::Wait(Wait::Cluster { generation }));
    }
    peer::has_waited(warp, m, generation);
    Ok(Next::Go)
}

/// `mapa`: the address of the same place in another block of the cluster.
pub(crate) fn map_rank(
    warp: &mut Warp,
    m: &Machine<'_>,
    (d, a, rank): (u16, u16, u16),
    (bank, generic): (Bank, bool),
    (active, pc): (u32, u32),
) -> Step {
    let row = values(warp, bank, a);
    let ranks = warp.regs.r[usize::from(rank)];
    for lane in lanes(active) {
        if ranks[lane] as usize >= m.blocks.len() {
            let detail =
                format!("rank {} in a cluster of {} blocks", ranks[lane], m.blocks.len());
            return m.stop(FindingKind::BadOperand, warp, pc, lane, detail);
        }
        let base = if generic { SHARED_WINDOW } else { 0 };
        let (_, offset) = cluster_target(warp.rank, row[lane].wrapping_sub(base));
        let address = base + cluster_address(ranks[lane], offset);
        set(warp, bank, d, address, 1 << lane);
    }
    Ok(())
}

/// `getctarank`.
pub(crate) fn get_rank(warp: &mut Warp, (d, a, bank): (u16, u16, Bank), active: u32) {
    let row = values(warp, bank, a);
    for lane in lanes(active) {
        let address = row[lane] & 0xffff_ffff;
        let (rank, _) = cluster_target(warp.rank, address);
        set(warp, Bank::Word, d, rank as u64, 1 << lane);
    }
}
