//! `cp.async`: copies that complete when they are waited for, and not before.

use crate::check::Manner;
use crate::exec::access::{
    Target, addresses, aligned, cluster_target, conflict, global, note_global_read,
    read_sectors, resolve, sectors, shared,
};
use crate::exec::landing;
use crate::exec::runs::{Runs, note_reads};
use crate::finding::FindingKind;
use crate::flight::ThreadCopy;
use crate::instruction::CpAsync;
use crate::lanes::{LANES, lanes};
use crate::machine::{Machine, Step};
use crate::shared::Who;
use crate::warp::Warp;

/// Starts the active lanes' copies.
pub(crate) fn issue(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    op: &CpAsync,
    active: u32,
    pc: u32,
) -> Step {
    let to = addresses(warp, m, &op.to, active, pc);
    let from = addresses(warp, m, &op.from, active, pc);
    let sizes = op.source_bytes.map(|row| warp.regs.r[usize::from(row)]);
    let ignored = op.ignore.map_or(0, |row| warp.regs.p[usize::from(row)]);
    let bytes = u64::from(op.bytes);
    let mut spans = Vec::with_capacity(LANES);
    let mut runs = Runs::new(bytes);
    for lane in lanes(active) {
        aligned(warp, m, (pc, lane), to[lane], bytes)?;
        let asked = sizes.map_or(op.bytes, |row| row[lane]);
        if asked > op.bytes {
            let detail = format!("{asked} source bytes for a copy of {bytes} bytes");
            return m.stop(FindingKind::BadOperand, warp, pc, lane, detail);
        }
        let wanted = if ignored >> lane & 1 != 0 { 0 } else { u64::from(asked) };
        let place = if wanted > 0 {
            let place = source(warp, m, op, (pc, lane), (from[lane], wanted))?;
            if wanted == bytes {
                runs.push(lane, place);
            } else {
                note_global_read(warp, m, (pc, lane), place, wanted, Manner::Weak);
            }
            sectors(&mut spans, place.0, place.1, wanted);
            place
        } else {
            (0, 0)
        };
        let (rank, offset) = cluster_target(warp.rank, to[lane]);
        if rank != warp.rank {
            let detail = format!("the destination is in block {rank} of the cluster");
            return m.stop(FindingKind::BadOperand, warp, pc, lane, detail);
        }
        let at = shared(warp, m, (pc, lane), (rank, offset), bytes)?;
        let who = Who { clock: &warp.clock, lane, strong: false, proxy: false };
        let memory = &mut m.blocks[warp.rank].shared;
        let found = memory.on_write(at, bytes as usize, who, true);
        memory.landing(at, bytes as usize, true);
        if let Some(found) = found {
            conflict(warp, m, (pc, lane), to[lane], found);
        }
        warp.copies.copies.push(ThreadCopy {
            lane,
            to: at,
            from: place,
            bytes: bytes as usize,
            source_bytes: wanted as usize,
            group: None,
        });
        m.counts.global_read_bytes += wanted;
        m.counts.async_bytes += bytes;
    }
    note_reads(warp, m, pc, &runs);
    read_sectors(m, &mut spans, op.prefetch_bytes);
    Ok(())
}

/// The place in global memory that a lane's copy reads.
fn source(
    warp: &Warp,
    m: &mut Machine<'_>,
    op: &CpAsync,
    site: (u32, usize),
    (from, wanted): (u64, u64),
) -> Step<(usize, u64)> {
    aligned(warp, m, site, from, u64::from(op.bytes))?;
    let Target::Global(address) = resolve(op.from.space, warp.rank, from) else {
        let detail = "the source is not global memory";
        return m.stop(FindingKind::BadOperand, warp, site.0, site.1, detail);
    };
    global(warp, m, site, address, wanted)
}

/// Waits until at most `pending` groups of each active lane are on their way.
pub(crate) fn wait(warp: &mut Warp, m: &mut Machine<'_>, pending: u32, active: u32) {
    landing::land_copies_of(warp, m, active);
    let committed = warp.copies.committed;
    land_where(warp, m, |copy| {
        active >> copy.lane & 1 != 0
            && copy.group.is_some_and(|group| group + pending < committed[copy.lane])
    });
}

/// Waits for all of the active lanes' copies.
pub(crate) fn wait_all(warp: &mut Warp, m: &mut Machine<'_>, active: u32) {
    landing::land_copies_of(warp, m, active);
    land_where(warp, m, |copy| active >> copy.lane & 1 != 0);
}

/// Completes the copies of threads that return.
pub(crate) fn land_on_exit(warp: &mut Warp, m: &mut Machine<'_>, gone: u32) {
    land_where(warp, m, |copy| gone >> copy.lane & 1 != 0);
}

fn land_where(warp: &mut Warp, m: &mut Machine<'_>, ready: impl Fn(&ThreadCopy) -> bool) {
    if warp.copies.copies.is_empty() {
        return;
    }
    let mut copies = std::mem::take(&mut warp.copies.copies);
    copies.retain(|copy| {
        let lands = ready(copy);
        if lands {
            land(warp, m, copy);
        }
        !lands
    });
    warp.copies.copies = copies;
    m.progressed();
}

fn land(warp: &Warp, m: &mut Machine<'_>, copy: &ThreadCopy) {
    landing::put(m, warp.rank, copy);
    let memory = &mut m.blocks[warp.rank].shared;
    let who = Who { clock: &warp.clock, lane: copy.lane, strong: false, proxy: false };
    memory.note_write(copy.to, copy.bytes, who);
}
