//! Shared memory of other blocks of the cluster: it exists only while they run. Before an
//! access a block must know that the other one has started, by a barrier of the cluster or
//! otherwise, and the other one must not return before it knows that the access is over.

use crate::finding::{Finding, FindingKind};
use crate::known::join;
use crate::machine::{Machine, Step, Visitor};
use crate::mbarrier::{Mbarrier, Spot};
use crate::warp::Warp;

/// Checks that the block of `rank`, another one than the warp's, has started, and has not
/// returned.
pub(crate) fn is_there(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, lane): (u32, usize),
    (rank, offset): (usize, u64),
) -> Step {
    let place = Some((offset, "shared".to_owned()));
    if m.blocks[rank].live_threads == 0 {
        let detail = "the other block of the cluster has already returned";
        let place = (offset, Some("shared".to_owned()));
        return m.stop_at(FindingKind::UseAfterFree, warp, pc, lane, place, detail);
    }
    if m.run.options.checks && !warp.clock.has_started(rank) {
        m.note(FindingKind::SharedRace, warp, pc, lane, place, || {
            format!(
                "not ordered after the start of block rank {rank}, whose shared memory this \
                 is; a barrier of the cluster must come first"
            )
        });
    }
    Ok(())
}

/// Keeps an access, to be checked when the other block returns.
pub(crate) fn visited(warp: &Warp, m: &mut Machine<'_>, pc: u32, lane: usize, rank: usize) {
    let (own, now) = (warp.clock.own, warp.clock.now());
    keep(m, rank, (own, now), Visitor::Thread(pc, lane));
}

/// The same for a copy of another block that has completed; where the block has returned
/// before that, it is a mistake at once.
pub(crate) fn landed(
    m: &mut Machine<'_>,
    rank: usize,
    (entry, time): (usize, u32),
    blame: &Finding,
) {
    let visitor = Visitor::Copy(Box::new(blame.clone()));
    if m.blocks[rank].live_threads == 0 {
        report(m, rank, entry, &visitor);
    } else {
        keep(m, rank, (entry, time), visitor);
    }
}

fn keep(m: &mut Machine<'_>, rank: usize, (entry, time): (usize, u32), visitor: Visitor) {
    if !m.run.options.checks {
        return;
    }
    let last = &mut m.blocks[rank].visits.last;
    if last.len() <= entry {
        last.resize(entry + 1, None);
    }
    last[entry] = Some((time, visitor));
}

/// A warp arrives at the barrier of the cluster. With a memory order or without, it is over
/// with what it did before.
pub(crate) fn arrives(warp: &Warp, m: &mut Machine<'_>) {
    if m.blocks.len() > 1 {
        warp.clock.passed(&mut m.cluster_barrier.passed);
    }
}

/// A warp has waited for a generation of the barrier of the cluster.
pub(crate) fn has_waited(warp: &mut Warp, m: &mut Machine<'_>, generation: u64) {
    warp.clock.learn(&m.cluster_barrier.released);
    warp.clock.meet(generation);
    if m.blocks.len() > 1 {
        warp.clock.meet_cluster();
        let awaited = &mut m.blocks[warp.rank].visits.awaited;
        join(awaited, &m.cluster_barrier.all_passed);
    }
}

/// A warp of another block arrives at an mbarrier. Those who wait for the arrival, whatever
/// its memory order and scope, know that the warp is over with what it did before.
pub(crate) fn arrives_at(warp: &Warp, barrier: &mut Mbarrier) {
    let visitor = (barrier.phase, warp.clock.own, warp.clock.now());
    barrier.visitors.push(visitor);
}

/// A wait for a phase of an mbarrier has ended.
pub(crate) fn has_waited_for(m: &mut Machine<'_>, (rank, offset): Spot) {
    let block = &mut m.blocks[rank];
    let Some(barrier) = block.mbarriers.get_mut(&offset) else { return };
    let (phase, awaited) = (barrier.phase, &mut block.visits.awaited);
    barrier.visitors.retain(|&(of, entry, time)| {
        if of < phase {
            if awaited.len() <= entry {
                awaited.resize(entry + 1, 0);
            }
            awaited[entry] = time.max(awaited[entry]);
        }
        of >= phase
    });
}

/// Threads of a warp return; the last of a block take its shared memory along.
pub(crate) fn after_exit(warp: &Warp, m: &mut Machine<'_>) {
    if m.blocks.len() == 1 {
        return;
    }
    let block = &mut m.blocks[warp.rank];
    warp.clock.passed(&mut block.visits.awaited);
    if block.live_threads > 0 {
        return;
    }
    let visits = std::mem::take(&mut block.visits);
    for (entry, visit) in visits.last.iter().enumerate() {
        let Some((time, visitor)) = visit else { continue };
        if visits.awaited.get(entry).is_none_or(|awaited| awaited < time) {
            report(m, warp.rank, entry, visitor);
        }
    }
}

fn report(m: &mut Machine<'_>, rank: usize, entry: usize, visitor: &Visitor) {
    let kind = FindingKind::UseAfterFree;
    let detail = format!(
        "block rank {rank} may return, and its shared memory go, before this access is over: \
         it does not wait for it; a barrier of the cluster must come after"
    );
    let finding = match visitor {
        Visitor::Thread(pc, lane) => {
            let warps = m.blocks[rank].warps.max(1);
            m.finding_of(kind, (entry / warps, entry % warps), *pc, *lane, detail)
        }
        Visitor::Copy(blame) => Finding { kind, detail, ..(**blame).clone() },
    };
    if !m.findings.count(kind, finding.ptx_line) {
        m.findings.add(finding);
    }
}
