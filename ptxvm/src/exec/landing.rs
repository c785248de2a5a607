//! The completion of copies: at a random time, or when a thread waits for them. A copy
//! lands when its bytes arrive and its mbarrier, if it has one, is signalled.

use crate::exec::peer;
use crate::finding::{Finding, FindingKind};
use crate::flight::{Direction, PendingCopy, Piece, ThreadCopy};
use crate::lanes::lanes;
use crate::machine::{Machine, Step, Stop};
use crate::mbarrier::Spot;
use crate::warp::Warp;

/// Puts a copy on its way.
pub(crate) fn start(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, lane): (u32, usize),
    (direction, pieces): (Direction, Vec<Piece>),
    fill: [u8; 16],
    bytes: u64,
) {
    let finding = m.finding(FindingKind::AsyncRace, warp, pc, lane, String::new());
    m.pending.push(PendingCopy {
        direction,
        pieces,
        fill,
        bytes,
        warp: warp.id(),
        rank: warp.rank,
        lane,
        group: warp.bulk_groups[lane],
        copies: Vec::new(),
        data: None,
        blame: Box::new(finding),
    });
}

/// Starts stores of registers to shared memory of block `to`: the bytes of the pieces, one
/// after the other, in `data`.
pub(crate) fn start_stores(
    warp: &Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    (to, barrier): (usize, u32),
    (pieces, data): (Vec<Piece>, Vec<u8>),
) {
    let bytes = data.len() as u64;
    start(warp, m, site, (Direction::Store { to, barrier }, pieces), [0; 16], bytes);
    if let Some(pending) = m.pending.last_mut() {
        pending.data = Some(data);
    }
}

/// Starts a thread's `cp.async` copies, which signal an mbarrier.
pub(crate) fn start_copies(
    warp: &Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    copies: Vec<ThreadCopy>,
    barrier: (usize, u32),
) {
    start(warp, m, site, (Direction::Copies { barrier }, Vec::new()), [0; 16], 0);
    if let Some(pending) = m.pending.last_mut() {
        pending.copies = copies;
    }
}

/// Lands `cp.async` copies that signal an mbarrier, for lanes that wait for their groups.
pub(crate) fn land_copies_of(warp: &Warp, m: &mut Machine<'_>, active: u32) {
    let mut at = 0;
    while at < m.pending.len() {
        let pending = &m.pending[at];
        let found = matches!(pending.direction, Direction::Copies { .. })
            && pending.warp == warp.id()
            && active >> pending.lane & 1 != 0;
        if !found {
            at += 1;
        } else if let Err(stop) = land(m, at) {
            m.findings.add(*stop);
        }
    }
}

/// Reads a copy's source in shared memory.
pub(crate) fn read_source(m: &mut Machine<'_>, at: usize) {
    let pending = &mut m.pending[at];
    if pending.data.is_some() {
        return;
    }
    let memory = &mut m.blocks[pending.rank].shared;
    let mut data = Vec::with_capacity(pending.bytes as usize);
    let mut unwritten = None;
    for piece in &pending.pieces {
        let (offset, bytes) = (piece.shared as usize, piece.bytes as usize);
        data.extend_from_slice(memory.get(offset, bytes));
        memory.reading(offset, bytes, false);
        if !memory.is_written(offset, bytes) {
            unwritten.get_or_insert(offset);
        }
    }
    pending.data = Some(data);
    if let (Some(offset), Direction::Out) = (unwritten, pending.direction) {
        let finding = Finding {
            kind: FindingKind::Uninitialised,
            address: Some(offset as u64),
            allocation: Some("shared".to_owned()),
            detail: "stores never-written bytes of shared memory".to_owned(),
            ..(*pending.blame).clone()
        };
        m.findings.add(finding);
    }
}

/// Of so many copies out of shared memory that could land next, one does, where something else
/// can. What must be over when its source is written again stays for longer, so that the write
/// is found where nothing waits for the copy; and nothing is found by its being over early.
const LINGERING: usize = 8;

/// Lands a random copy; says whether there was one.
pub(crate) fn land_one(m: &mut Machine<'_>) -> Step<bool> {
    if m.pending.is_empty() {
        return Ok(false);
    }
    let mut at = m.random.below(m.pending.len());
    if m.pending[at].direction == Direction::Out && m.random.below(LINGERING) != 0 {
        let all = m.pending.iter().enumerate();
        let others = all.filter(|(_, copy)| copy.direction != Direction::Out);
        let others: Vec<usize> = others.map(|(at, _)| at).collect();
        if !others.is_empty() {
            at = others[m.random.below(others.len())];
        }
    }
    land(m, at)?;
    Ok(true)
}

/// Lands all remaining copies when the cluster has finished.
pub(crate) fn land_all(m: &mut Machine<'_>) -> Step {
    while land_one(m)? {}
    Ok(())
}

/// Lands the pending copy at place `at` of the list.
pub(crate) fn land(m: &mut Machine<'_>, at: usize) -> Step {
    match m.pending[at].direction {
        Direction::Out => {
            read_source(m, at);
            let pending = m.pending.swap_remove(at);
            let data = pending.data.unwrap_or_default();
            let mut from = 0;
            for piece in &pending.pieces {
                let bytes = piece.bytes as usize;
                if let Some((allocation, offset)) = piece.global {
                    let found = &m.run.memory.allocations[allocation];
                    found.write(offset, &data[from..from + bytes]);
                }
                from += bytes;
            }
        }
        Direction::In { ranks, barrier } => {
            let pending = m.pending.swap_remove(at);
            let time = m.next_landing(barrier);
            land_pieces(m, ranks, &pending, time);
            for rank in lanes(ranks) {
                if rank != pending.rank {
                    peer::landed(m, rank, time, &pending.blame);
                }
                finish(m, (rank, barrier), &pending, time)?;
            }
        }
        Direction::Copies { barrier } => {
            let pending = m.pending.swap_remove(at);
            let time = m.next_landing(barrier.1);
            for copy in &pending.copies {
                land_for_mbarrier(m, pending.rank, copy, time);
            }
            if !arrive_for_copies(m, barrier, time) {
                let detail = "the mbarrier of a thread's copies does not expect an arrival";
                return Err(blame(&pending, detail));
            }
        }
        Direction::Across { to, barrier } => {
            read_source(m, at);
            let pending = m.pending.swap_remove(at);
            let data = pending.data.clone().unwrap_or_default();
            // Copies of both directions of a pair have entries of their own.
            let time = m.next_landing(barrier.1 + 8 * barrier.0 as u32);
            if pending.rank != to.0 {
                peer::landed(m, pending.rank, time, &pending.blame);
                peer::landed(m, to.0, time, &pending.blame);
            }
            let memory = &mut m.blocks[to.0].shared;
            memory.land(to.1 as usize, &data, true, time);
            finish(m, barrier, &pending, time)?;
        }
        Direction::Store { to, barrier } => {
            let pending = m.pending.swap_remove(at);
            // Stores to different blocks have entries of their own.
            let time = m.next_landing(barrier + 8 * to as u32);
            // Its own block may have returned: it gave the bytes away when it stored.
            if pending.rank != to {
                peer::landed(m, to, time, &pending.blame);
            }
            let mut data = pending.data.as_deref().unwrap_or_default();
            for piece in &pending.pieces {
                let (bytes, rest) = data.split_at(piece.bytes as usize);
                let memory = &mut m.blocks[to].shared;
                memory.land(piece.shared as usize, bytes, true, time);
                data = rest;
            }
            finish(m, (to, barrier), &pending, time)?;
        }
    }
    m.progressed();
    Ok(())
}

/// The most bytes of global memory that are read at once.
const MOST_BYTES: usize = 1024;

/// Moves a copy's pieces into shared memory of all `ranks`. Those that follow one another in
/// global memory are read together.
fn land_pieces(m: &mut Machine<'_>, ranks: u32, pending: &PendingCopy, time: (usize, u32)) {
    let mut buffer = [0; MOST_BYTES];
    let mut rest = &pending.pieces[..];
    while let [first, ..] = rest {
        let Some((allocation, offset)) = first.global else {
            let fill = &pending.fill[..first.bytes as usize];
            for rank in lanes(ranks) {
                m.blocks[rank].shared.land(first.shared as usize, fill, true, time);
            }
            rest = &rest[1..];
            continue;
        };
        let (mut bytes, mut count) = (0, 0);
        for piece in rest {
            let size = piece.bytes as usize;
            let follows = piece.global == Some((allocation, offset + bytes as u64));
            if !follows || bytes + size > MOST_BYTES {
                break;
            }
            (bytes, count) = (bytes + size, count + 1);
        }
        let found = &m.run.memory.allocations[allocation];
        found.read(offset, &mut buffer[..bytes]);
        let all_defined = found.is_written(offset, bytes as u64);
        let mut from = 0;
        for piece in &rest[..count] {
            let size = piece.bytes as usize;
            let defined =
                all_defined || found.is_written(offset + from as u64, size as u64);
            for rank in lanes(ranks) {
                let (to, part) = (piece.shared as usize, &buffer[from..from + size]);
                m.blocks[rank].shared.land(to, part, defined, time);
            }
            from += size;
        }
        rest = &rest[count..];
    }
}

fn finish(
    m: &mut Machine<'_>,
    spot: (usize, u32),
    pending: &PendingCopy,
    time: (usize, u32),
) -> Step {
    if !complete(m, spot, pending.bytes, time) {
        return Err(blame(
            pending,
            "the copy's mbarrier was invalidated before the copy completed",
        ));
    }
    Ok(())
}

fn blame(pending: &PendingCopy, detail: &str) -> Stop {
    let (kind, detail) = (FindingKind::Mbarrier, detail.to_owned());
    Box::new(Finding { kind, detail, ..(*pending.blame).clone() })
}

/// Lands a copy whose completion an mbarrier signals.
pub(crate) fn land_for_mbarrier(
    m: &mut Machine<'_>,
    rank: usize,
    copy: &ThreadCopy,
    time: (usize, u32),
) {
    put(m, rank, copy);
    m.blocks[rank].shared.landed(copy.to, copy.bytes, time, false);
}

/// Moves a copy's bytes into shared memory.
pub(crate) fn put(m: &mut Machine<'_>, rank: usize, copy: &ThreadCopy) {
    let mut data = [0; 16];
    let mut defined = true;
    if copy.source_bytes > 0 {
        let found = &m.run.memory.allocations[copy.from.0];
        found.read(copy.from.1, &mut data[..copy.source_bytes]);
        defined = found.is_written(copy.from.1, copy.source_bytes as u64);
    }
    let memory = &mut m.blocks[rank].shared;
    memory.landing(copy.to, copy.bytes, false);
    memory.put(copy.to, &data[..copy.bytes], defined);
}

/// The arrival of a thread whose copies have landed.
pub(crate) fn arrive_for_copies(
    m: &mut Machine<'_>,
    (rank, offset): Spot,
    time: (usize, u32),
) -> bool {
    let Some(barrier) = m.blocks[rank].mbarriers.get_mut(&offset) else { return false };
    if barrier.pending == 0 {
        return false;
    }
    barrier.pending -= 1;
    complete(m, (rank, offset), 0, time)
}

/// Subtracts bytes that have landed, and passes the copy's time to those that wait.
pub(crate) fn complete(
    m: &mut Machine<'_>,
    (rank, offset): Spot,
    bytes: u64,
    (entry, time): (usize, u32),
) -> bool {
    let Some(barrier) = m.blocks[rank].mbarriers.get_mut(&offset) else { return false };
    barrier.bytes -= bytes as i64;
    barrier.message.add_copy(entry, time);
    barrier.settle();
    m.progressed();
    true
}
