//! Bulk copies. They may complete at any time: here at a random time, and at the latest
//! when no warp can continue.

use crate::check::{Manner, Span};
use crate::exec::access::{
    Target, addresses, aligned, conflict, global, note_global_read, note_global_write,
    resolve, sectors, shared_place, touch_sectors,
};
use crate::exec::runs::of_pieces;
use crate::exec::tensor_copy::{self, Way};
use crate::exec::{landing, peer};
use crate::finding::{Finding, FindingKind};
use crate::flight::{BulkStore, Direction, PendingCopy, Piece};
use crate::instruction::{Address, Bulk, BulkKind};
use crate::lanes::lanes;
use crate::machine::{Machine, Step};
use crate::shared::Who;
use crate::warp::Warp;

pub(crate) fn issue(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    op: &Bulk,
    active: u32,
    pc: u32,
) -> Step {
    for lane in lanes(active) {
        match (&op.what, op.barrier) {
            (BulkKind::Shared { .. }, _) => across(warp, m, op, (pc, lane))?,
            (_, Some(barrier)) => copy_in(warp, m, (op, barrier), (pc, lane))?,
            (_, None) => copy_out(warp, m, op, (pc, lane))?,
        }
    }
    m.progressed();
    Ok(())
}

/// Brings rows into the cache: they count as traffic, but no thread gets them.
pub(crate) fn prefetch(
    warp: &Warp,
    m: &mut Machine<'_>,
    (address, bytes): (&Address, u16),
    active: u32,
    pc: u32,
) -> Step {
    let values = addresses(warp, m, address, active, pc);
    for lane in lanes(active) {
        let site = (pc, lane);
        let bytes = row_bytes(warp, m, site, bytes)?;
        aligned(warp, m, site, values[lane], 16)?;
        let (allocation, offset) = global(warp, m, site, values[lane], bytes)?;
        let mut spans = Vec::new();
        sectors(&mut spans, allocation, offset, bytes);
        spans
            .into_iter()
            .for_each(|(allocation, sector)| m.touch(allocation, sector, false));
    }
    m.progressed();
    Ok(())
}

/// The same for a box of a tensor.
pub(crate) fn prefetch_box(
    warp: &Warp,
    m: &mut Machine<'_>,
    (map, coordinates): (&Address, &[u16]),
    active: u32,
    pc: u32,
) -> Step {
    for lane in lanes(active) {
        let map = tensor_copy::read_map(warp, m, (pc, lane), map)?;
        let asked = (&map, coordinates, 0);
        let pieces = tensor_copy::pieces(warp, m, (pc, lane), Way::Prefetch, asked)?;
        let mut spans = Vec::new();
        for piece in pieces {
            if let Some((allocation, offset)) = piece.global {
                sectors(&mut spans, allocation, offset, u64::from(piece.bytes));
            }
        }
        for (allocation, sector) in spans {
            m.touch(allocation, sector, false);
        }
    }
    m.progressed();
    Ok(())
}

/// Block and offset of a lane's address in shared memory, with so many bytes there.
pub(crate) fn shared_spot(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, lane): (u32, usize),
    address: &Address,
    (bytes, align): (u64, u64),
) -> Step<(usize, usize)> {
    let value = addresses(warp, m, address, 1 << lane, pc)[lane];
    aligned(warp, m, (pc, lane), value, align)?;
    let Target::Shared(rank, offset) = resolve(address.space, warp.rank, value) else {
        let text = "the address is not in shared memory";
        return m.stop(FindingKind::BadOperand, warp, pc, lane, text);
    };
    let at = shared_place(warp, m, (pc, lane), (rank, offset), bytes)?;
    Ok((rank, at))
}

/// The pieces of the copy, the fill for elements outside of the tensor, and its size in
/// bytes.
fn pieces(
    warp: &Warp,
    m: &mut Machine<'_>,
    op: &Bulk,
    (pc, lane): (u32, usize),
) -> Step<(Vec<Piece>, [u8; 16], u64)> {
    let site = (pc, lane);
    match &op.what {
        BulkKind::Box { map, coordinates } => {
            let map = tensor_copy::read_map(warp, m, site, map)?;
            let bytes = map.box_bytes();
            let align = if coordinates.is_empty() { 16 } else { 128 };
            let (_, at) = shared_spot(warp, m, site, &op.shared, (bytes, align))?;
            let way = if op.barrier.is_some() { Way::Load } else { Way::Store };
            let pieces = tensor_copy::pieces(warp, m, site, way, (&map, coordinates, at))?;
            Ok((pieces, map.fill_bytes(), bytes))
        }
        BulkKind::Row { global: address, bytes } => {
            let bytes = row_bytes(warp, m, site, *bytes)?;
            let (_, at) = shared_spot(warp, m, site, &op.shared, (bytes, 16))?;
            let value = addresses(warp, m, address, 1 << lane, pc)[lane];
            aligned(warp, m, site, value, 16)?;
            let (allocation, offset) = global(warp, m, site, value, bytes)?;
            let piece = |n: u64| Piece {
                shared: at as u32 + 16 * n as u32,
                global: Some((allocation, offset + 16 * n)),
                bytes: 16,
            };
            Ok(((0..bytes / 16).map(piece).collect(), [0; 16], bytes))
        }
        BulkKind::Shared { .. } => Ok((Vec::new(), [0; 16], 0)),
    }
}

fn row_bytes(
    warp: &Warp,
    m: &Machine<'_>,
    (pc, lane): (u32, usize),
    row: u16,
) -> Step<u64> {
    let bytes = u64::from(warp.regs.r[usize::from(row)][lane]);
    if bytes == 0 || bytes % 16 != 0 {
        let text =
            format!("the size {bytes} of a bulk copy or prefetch is not a multiple of 16");
        return m.stop(FindingKind::BadOperand, warp, pc, lane, text);
    }
    Ok(bytes)
}

fn copy_in(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    (op, barrier): (&Bulk, Address),
    site: (u32, usize),
) -> Step {
    let (pieces, fill, bytes) = pieces(warp, m, op, site)?;
    let (to, _) = shared_spot(warp, m, site, &op.shared, (bytes, 16))?;
    let (barrier_rank, barrier) = shared_spot(warp, m, site, &barrier, (8, 8))?;
    let ranks = match op.multicast {
        Some(row) => warp.regs.r[usize::from(row)][site.1] & 0xffff,
        None => 1 << to,
    };
    if ranks == 0 || ranks >> m.blocks.len() != 0 {
        let text =
            format!("a multicast to ranks {ranks:#x} in a cluster of {}", m.blocks.len());
        return m.stop(FindingKind::BadOperand, warp, site.0, site.1, text);
    }
    if op.multicast.is_none() && barrier_rank != to {
        let text = "the mbarrier is not in the destination's block";
        return m.stop(FindingKind::BadOperand, warp, site.0, site.1, text);
    }
    let mut spans = Vec::with_capacity(pieces.len() / 2);
    for (place, bytes) in of_pieces(&pieces) {
        sectors(&mut spans, place.0, place.1, bytes);
        note_global_read(warp, m, site, place, bytes, Manner::Async);
        m.counts.global_read_bytes += bytes;
    }
    touch_sectors(m, &mut spans, false);
    for rank in lanes(ranks) {
        if rank != warp.rank {
            let first = pieces.first().map_or(0, |piece| piece.shared);
            peer::is_there(warp, m, site, (rank, u64::from(first)))?;
        }
        let Some(known) = m.blocks[rank].mbarriers.get(&(barrier as u32)) else {
            let text = "the copy's mbarrier was never initialised";
            return m.stop(FindingKind::Mbarrier, warp, site.0, site.1, text);
        };
        if !known.is_shown {
            let place = Some((barrier as u64, "shared".to_owned()));
            m.note(FindingKind::MissingProxyFence, warp, site.0, site.1, place, || {
                "the async proxy uses an mbarrier whose initialisation was not fenced for it"
                    .to_owned()
            });
        }
        for piece in &pieces {
            let who = Who { clock: &warp.clock, lane: site.1, strong: false, proxy: true };
            let (at, bytes) = (piece.shared as usize, piece.bytes as usize);
            let found = m.blocks[rank].shared.on_write(at, bytes, who, true);
            m.blocks[rank].shared.landing(at, bytes, true);
            if let Some(found) = found {
                conflict(warp, m, site, at as u64, found);
            }
        }
        m.counts.async_bytes += bytes;
    }
    let direction = Direction::In { ranks, barrier: barrier as u32 };
    landing::start(warp, m, site, (direction, pieces), fill, bytes);
    Ok(())
}

fn copy_out(warp: &mut Warp, m: &mut Machine<'_>, op: &Bulk, site: (u32, usize)) -> Step {
    let (mut pieces, fill, bytes) = pieces(warp, m, op, site)?;
    // Elements outside of the tensor are not written.
    pieces.retain(|piece| piece.global.is_some());
    let mut spans = Vec::with_capacity(pieces.len() / 2);
    for piece in &pieces {
        let (at, bytes) = (piece.shared as usize, piece.bytes as usize);
        let who = Who { clock: &warp.clock, lane: site.1, strong: false, proxy: true };
        let memory = &mut m.blocks[warp.rank].shared;
        let found = memory.on_read(at, bytes, who);
        memory.reading(at, bytes, true);
        if let Some(found) = found {
            conflict(warp, m, site, at as u64, found);
        }
    }
    for (place, bytes) in of_pieces(&pieces) {
        sectors(&mut spans, place.0, place.1, bytes);
        note_global_write(warp, m, site, place, bytes, Manner::Async);
        note_store(warp, site.1, place, bytes);
        m.counts.global_write_bytes += bytes;
    }
    touch_sectors(m, &mut spans, true);
    landing::start(warp, m, site, (Direction::Out, pieces), fill, bytes);
    Ok(())
}

/// Keeps the bytes that a store writes, until its thread waits for it.
fn note_store(
    warp: &mut Warp,
    lane: usize,
    (allocation, offset): (usize, u64),
    bytes: u64,
) {
    let group = warp.bulk_groups[lane];
    if let Some(last) = warp.stores.last_mut()
        && (last.lane, last.group, last.allocation) == (lane, group, allocation)
        && last.offset + last.bytes == offset
    {
        last.bytes += bytes;
    } else {
        warp.stores.push(BulkStore { lane, group, allocation, offset, bytes });
    }
}

fn across(warp: &mut Warp, m: &mut Machine<'_>, op: &Bulk, site: (u32, usize)) -> Step {
    let (BulkKind::Shared { from, bytes }, Some(barrier)) = (&op.what, op.barrier) else {
        return Ok(());
    };
    let bytes = row_bytes(warp, m, site, *bytes)?;
    let (rank, to) = shared_spot(warp, m, site, &op.shared, (bytes, 16))?;
    let (_, from) = shared_spot(warp, m, site, from, (bytes, 16))?;
    let (barrier_rank, barrier) = shared_spot(warp, m, site, &barrier, (8, 8))?;
    let piece =
        |n: u64| Piece { shared: from as u32 + 16 * n as u32, global: None, bytes: 16 };
    let pieces: Vec<Piece> = (0..bytes / 16).map(piece).collect();
    for n in 0..(bytes / 16) as usize {
        let who = Who { clock: &warp.clock, lane: site.1, strong: false, proxy: true };
        let own = &mut m.blocks[warp.rank].shared;
        let read = own.on_read(from + 16 * n, 16, who);
        own.reading(from + 16 * n, 16, true);
        let other = &mut m.blocks[rank].shared;
        let written = other.on_write(to + 16 * n, 16, who, true);
        other.landing(to + 16 * n, 16, true);
        if let Some(found) = read.or(written) {
            conflict(warp, m, site, (from + 16 * n) as u64, found);
        }
    }
    let direction = Direction::Across {
        to: (rank, to as u32),
        barrier: (barrier_rank, barrier as u32),
    };
    m.counts.async_bytes += bytes;
    landing::start(warp, m, site, (direction, pieces), [0; 16], bytes);
    Ok(())
}

/// Closes the active lanes' groups.
pub(crate) fn commit(warp: &mut Warp, active: u32) {
    lanes(active).for_each(|lane| warp.bulk_groups[lane] += 1);
}

/// Waits until at most `count` groups are on their way; with `read`, until their
/// sources have been read.
pub(crate) fn wait(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    (count, read): (u32, bool),
    active: u32,
) -> Step {
    if !read {
        complete_stores(warp, m, count, active);
    }
    let ready = |pending: &PendingCopy| {
        pending.direction == Direction::Out
            && pending.warp == warp.id()
            && active >> pending.lane & 1 != 0
            && pending.group + count < warp.bulk_groups[pending.lane]
    };
    let mut at = 0;
    while at < m.pending.len() {
        if !ready(&m.pending[at]) {
            at += 1;
            continue;
        }
        note_reads(warp, m, at);
        if read {
            landing::read_source(m, at);
            at += 1;
        } else {
            landing::land(m, at)?;
        }
    }
    m.progressed();
    Ok(())
}

/// Only now are the bytes of the groups known to be in global memory.
fn complete_stores(warp: &mut Warp, m: &Machine<'_>, count: u32, active: u32) {
    let (clock, groups) = (&warp.clock, &warp.bulk_groups);
    warp.stores.retain(|store| {
        let done =
            active >> store.lane & 1 != 0 && store.group + count < groups[store.lane];
        if done {
            let place = (store.allocation, store.offset);
            m.run.races.complete(Span::of_lane(place, store.bytes), clock);
        }
        !done
    });
}

/// Records that the source may have been read as late as the wait.
fn note_reads(warp: &Warp, m: &mut Machine<'_>, at: usize) {
    let pending = &m.pending[at];
    if pending.data.is_some() {
        return;
    }
    let lane = pending.lane;
    let memory = &mut m.blocks[pending.rank].shared;
    for piece in &pending.pieces {
        let who = Who { clock: &warp.clock, lane, strong: false, proxy: false };
        memory.on_read(piece.shared as usize, piece.bytes as usize, who);
    }
}

/// Reports threads that return before the sources of their stores were read.
pub(crate) fn after_exit(warp: &Warp, m: &mut Machine<'_>, gone: u32) {
    let unread = m.pending.iter().find(|pending| {
        pending.warp == warp.id()
            && gone >> pending.lane & 1 != 0
            && pending.direction == Direction::Out
            && pending.data.is_none()
    });
    if let Some(pending) = unread {
        let detail =
            "the thread returns without waiting for this store to read shared memory";
        let finding = Finding { detail: detail.to_owned(), ..(*pending.blame).clone() };
        m.findings.add(finding);
    }
}
