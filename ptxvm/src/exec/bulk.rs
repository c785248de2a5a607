//! Bulk copies, which land whenever they like: here at a random time, and at the
//! latest when nothing else can go on.

use crate::check::Manner;
use crate::exec::cp_async::{self, Copy};
use crate::exec::mbarrier;
use crate::exec::memory::{
    Target, addresses, aligned, conflict, global, note_global_read, note_global_write,
    resolve, sectors, shared, touch_sectors,
};
use crate::exec::tensor_copy;
use crate::finding::{Finding, FindingKind};
use crate::instruction::Address;
use crate::lanes::lanes;
use crate::machine::{Machine, Step, Stop};
use crate::shared::Who;
use crate::warp::Warp;

/// What a bulk copy moves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum What {
    /// `bytes` in a row between two addresses.
    Row { global: Address, bytes: u16 },
    /// A box of a tensor map at these coordinates.
    Box { map: Address, coordinates: Vec<u16> },
    /// From this block's shared memory to another's.
    Shared { from: Address, bytes: u16 },
}

/// `cp.async.bulk` with or without a tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bulk {
    pub what: What,
    pub shared: Address,
    /// Present on the way into shared memory.
    pub barrier: Option<Address>,
    pub multicast: Option<u16>,
}

/// Up to 16 bytes of a copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    /// Offset in shared memory.
    pub shared: u32,
    /// Allocation and offset; none for what lies outside of a tensor.
    pub global: Option<(usize, u64)>,
    pub bytes: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// Into shared memory of these blocks (a bit a rank).
    In { ranks: u32, barrier: u32 },
    /// Out of shared memory.
    Out,
    /// From one block's shared memory to another's.
    Across { to: (usize, u32), barrier: (usize, u32) },
    /// A thread's `cp.async` copies, after which it arrives at an mbarrier.
    Copies { barrier: (usize, u32) },
}

/// A copy on its way.
#[derive(Debug)]
pub(crate) struct Pending {
    direction: Direction,
    pieces: Vec<Piece>,
    fill: [u8; 16],
    bytes: u64,
    /// The issuing warp's number in the cluster, its block and lane.
    warp: usize,
    rank: usize,
    lane: usize,
    group: u32,
    copies: Vec<Copy>,
    /// What was read of the source, once it was.
    data: Option<Vec<u8>>,
    /// Made at the issue, for findings at the landing.
    blame: Box<Finding>,
}

pub(crate) fn issue(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    op: &Bulk,
    active: u32,
    pc: u32,
) -> Step {
    for lane in lanes(active) {
        match (&op.what, op.barrier) {
            (What::Shared { .. }, _) => across(warp, m, op, (pc, lane))?,
            (_, Some(barrier)) => copy_in(warp, m, (op, barrier), (pc, lane))?,
            (_, None) => copy_out(warp, m, op, (pc, lane))?,
        }
    }
    m.progressed();
    Ok(())
}

/// Brings rows into the cache: traffic like reading them, though nobody has them then.
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

fn shared_spot(
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
    Ok((rank, shared(warp, m, (pc, lane), (rank, offset), bytes)?))
}

/// The pieces of the copy, with the fill of what is outside, and its size.
fn pieces(
    warp: &Warp,
    m: &mut Machine<'_>,
    op: &Bulk,
    (pc, lane): (u32, usize),
) -> Step<(Vec<Piece>, [u8; 16], u64)> {
    let site = (pc, lane);
    match &op.what {
        What::Box { map, coordinates } => {
            let map = tensor_copy::read_map(warp, m, site, map)?;
            let bytes = map.box_bytes();
            let align = if coordinates.is_empty() { 16 } else { 128 };
            let (_, at) = shared_spot(warp, m, site, &op.shared, (bytes, align))?;
            let pieces = tensor_copy::pieces(warp, m, site, (&map, coordinates, at))?;
            Ok((pieces, map.fill_bytes(), bytes))
        }
        What::Row { global: address, bytes } => {
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
        What::Shared { .. } => Ok((Vec::new(), [0; 16], 0)),
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
        let text = format!("a bulk copy or prefetch of {bytes} bytes");
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
        let text = format!("a multicast to blocks {ranks:#x} of {}", m.blocks.len());
        return m.stop(FindingKind::BadOperand, warp, site.0, site.1, text);
    }
    if op.multicast.is_none() && barrier_rank != to {
        let text = "the mbarrier is not in the destination's block";
        return m.stop(FindingKind::BadOperand, warp, site.0, site.1, text);
    }
    let mut spans = Vec::with_capacity(pieces.len() / 2);
    for piece in &pieces {
        if let Some((allocation, offset)) = piece.global {
            let bytes = u64::from(piece.bytes);
            sectors(&mut spans, allocation, offset, bytes);
            note_global_read(warp, m, site, (allocation, offset), bytes, Manner::Async);
            m.counts.global_read_bytes += bytes;
        }
    }
    touch_sectors(m, &mut spans, false);
    for rank in lanes(ranks) {
        let Some(known) = m.blocks[rank].mbarriers.get(&(barrier as u32)) else {
            let text = "the copy's mbarrier was never initialised";
            return m.stop(FindingKind::Mbarrier, warp, site.0, site.1, text);
        };
        if !known.is_shown {
            let place = Some((barrier as u64, "shared".to_owned()));
            m.note(FindingKind::MissingProxyFence, warp, site.0, site.1, place, || {
                "the async proxy is given an mbarrier whose initialisation no fence has shown it"
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
    start(warp, m, site, (direction, pieces), fill, bytes);
    Ok(())
}

fn start(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, lane): (u32, usize),
    (direction, pieces): (Direction, Vec<Piece>),
    fill: [u8; 16],
    bytes: u64,
) {
    let finding = m.finding(FindingKind::AsyncRace, warp, pc, lane, String::new());
    m.pending.push(Pending {
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

/// Sends a thread's `cp.async` copies on their way to an mbarrier.
pub(crate) fn start_copies(
    warp: &Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    copies: Vec<Copy>,
    barrier: (usize, u32),
) {
    start(warp, m, site, (Direction::Copies { barrier }, Vec::new()), [0; 16], 0);
    if let Some(pending) = m.pending.last_mut() {
        pending.copies = copies;
    }
}

/// Lands `cp.async` copies that lanes wait for in another way.
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

fn copy_out(warp: &mut Warp, m: &mut Machine<'_>, op: &Bulk, site: (u32, usize)) -> Step {
    let (mut pieces, fill, bytes) = pieces(warp, m, op, site)?;
    // What lies outside of the tensor is not written.
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
        if let Some((allocation, offset)) = piece.global {
            sectors(&mut spans, allocation, offset, bytes as u64);
            note_global_write(
                warp,
                m,
                site,
                (allocation, offset),
                bytes as u64,
                Manner::Async,
            );
            m.counts.global_write_bytes += bytes as u64;
        }
    }
    touch_sectors(m, &mut spans, true);
    start(warp, m, site, (Direction::Out, pieces), fill, bytes);
    Ok(())
}

fn across(warp: &mut Warp, m: &mut Machine<'_>, op: &Bulk, site: (u32, usize)) -> Step {
    let (What::Shared { from, bytes }, Some(barrier)) = (&op.what, op.barrier) else {
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
    start(warp, m, site, (direction, pieces), [0; 16], bytes);
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
    let ready = |pending: &Pending| {
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
            read_source(m, at);
            at += 1;
        } else {
            land(m, at)?;
        }
    }
    m.progressed();
    Ok(())
}

/// The source may have been read as late as the wait.
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

/// Reads a copy's source in shared memory.
fn read_source(m: &mut Machine<'_>, at: usize) {
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

/// Lands one copy at random; says whether there was one.
pub(crate) fn land_one(m: &mut Machine<'_>) -> Step<bool> {
    if m.pending.is_empty() {
        return Ok(false);
    }
    let at = m.random.below(m.pending.len());
    land(m, at)?;
    Ok(true)
}

/// Lands everything that is left when the cluster is done.
pub(crate) fn land_all(m: &mut Machine<'_>) -> Step {
    while land_one(m)? {}
    Ok(())
}

/// Threads leave whose stores have not been read: their source may be gone.
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

fn land(m: &mut Machine<'_>, at: usize) -> Step {
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
            for rank in lanes(ranks) {
                for piece in &pending.pieces {
                    land_piece(m, rank, piece, &pending.fill, time);
                }
                finish(m, (rank, barrier), &pending, time)?;
            }
        }
        Direction::Copies { barrier } => {
            let pending = m.pending.swap_remove(at);
            let time = m.next_landing(barrier.1);
            for copy in &pending.copies {
                cp_async::land_for_mbarrier(m, pending.rank, copy, time);
            }
            if !mbarrier::arrive_for_copies(m, barrier, time) {
                let detail = "the mbarrier of a thread's copies expects no arrival";
                return Err(blame(&pending, detail));
            }
        }
        Direction::Across { to, barrier } => {
            read_source(m, at);
            let pending = m.pending.swap_remove(at);
            let data = pending.data.clone().unwrap_or_default();
            let time = m.next_landing(barrier.1);
            let memory = &mut m.blocks[to.0].shared;
            memory.landing(to.1 as usize, data.len(), false);
            memory.put(to.1 as usize, &data, true);
            memory.landed(to.1 as usize, data.len(), time);
            finish(m, barrier, &pending, time)?;
        }
    }
    m.progressed();
    Ok(())
}

fn land_piece(
    m: &mut Machine<'_>,
    rank: usize,
    piece: &Piece,
    fill: &[u8; 16],
    time: (usize, u32),
) {
    let bytes = piece.bytes as usize;
    let mut data = *fill;
    let mut defined = true;
    if let Some((allocation, offset)) = piece.global {
        let found = &m.run.memory.allocations[allocation];
        found.read(offset, &mut data[..bytes]);
        defined = found.is_written(offset, bytes as u64);
    }
    let memory = &mut m.blocks[rank].shared;
    let at = piece.shared as usize;
    memory.landing(at, bytes, false);
    memory.put(at, &data[..bytes], defined);
    memory.landed(at, bytes, time);
}

fn finish(
    m: &mut Machine<'_>,
    spot: (usize, u32),
    pending: &Pending,
    time: (usize, u32),
) -> Step {
    if !mbarrier::complete(m, spot, pending.bytes, time) {
        return Err(blame(pending, "the copy's mbarrier is gone when it lands"));
    }
    Ok(())
}

fn blame(pending: &Pending, detail: &str) -> Stop {
    let (kind, detail) = (FindingKind::Mbarrier, detail.to_owned());
    Box::new(Finding { kind, detail, ..(*pending.blame).clone() })
}
