//! What all accesses to memory share: where an address points, whether the access is
//! allowed there, which sectors and banks it touches, and what it races with.

use crate::check::{Accessor, Did, Found, Manner, Rival, Span};
use crate::count::wavefronts;
use crate::exec::peer;
use crate::exec::step::{report_undefined, values};
use crate::finding::FindingKind;
use crate::instruction::{
    Address, LOCAL_WINDOW, Order, PARAM_WINDOW, SHARED_WINDOW, Scope, Space, WINDOW_BYTES,
};
use crate::lanes::LANES;
use crate::machine::{Machine, Step};
use crate::shared::Conflict;
use crate::warp::Warp;

/// Where an address points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Global(u64),
    /// A block's rank in the cluster, and the offset in its shared memory.
    Shared(usize, u64),
    Local(u64),
    Param(u64),
}

/// Where the rank is in a `shared::cluster` address: 0 is the block itself, else the rank
/// plus one.
const RANK_SHIFT: u32 = 24;

/// The `shared::cluster` address of `offset` in the block of `rank`.
pub(crate) fn cluster_address(rank: u32, offset: u64) -> u64 {
    u64::from(rank + 1) << RANK_SHIFT | offset & ((1 << RANK_SHIFT) - 1)
}

/// The block and offset of a `shared::cluster` address.
pub(crate) fn cluster_target(own: usize, address: u64) -> (usize, u64) {
    let rank = (address >> RANK_SHIFT) as usize;
    (if rank == 0 { own } else { rank - 1 }, address & ((1 << RANK_SHIFT) - 1))
}

/// What `address` in `space` means to a thread of the block of rank `own`.
#[inline]
pub(crate) fn resolve(space: Space, own: usize, address: u64) -> Target {
    match space {
        Space::Global | Space::Const => Target::Global(address),
        Space::Shared | Space::SharedCluster => {
            let (rank, offset) = cluster_target(own, address & 0xffff_ffff);
            Target::Shared(rank, offset)
        }
        Space::Local => Target::Local(address),
        Space::Param => Target::Param(address),
        Space::Generic => {
            let within = |window: u64| address.wrapping_sub(window) < WINDOW_BYTES;
            if within(SHARED_WINDOW) {
                let (rank, offset) = cluster_target(own, address - SHARED_WINDOW);
                Target::Shared(rank, offset)
            } else if within(LOCAL_WINDOW) {
                Target::Local(address - LOCAL_WINDOW)
            } else if within(PARAM_WINDOW) {
                Target::Param(address - PARAM_WINDOW)
            } else {
                Target::Global(address)
            }
        }
    }
}

/// Each lane's address. Undefined ones are reported.
pub(crate) fn addresses(
    warp: &Warp,
    m: &mut Machine<'_>,
    address: &Address,
    active: u32,
    pc: u32,
) -> [u64; LANES] {
    let undefined = warp.regs.undefined(address.bank, address.index) & active;
    if undefined != 0 {
        report_undefined(warp, m, pc, undefined, (address.bank, address.index), "address");
    }
    let mut row = values(warp, address.bank, address.index);
    if address.offset != 0 {
        row.iter_mut().for_each(|a| *a = a.wrapping_add(address.offset as u64));
    }
    row
}

/// The allocation and offset of a global access, or the end of the launch.
#[inline]
pub(crate) fn global(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, lane): (u32, usize),
    address: u64,
    bytes: u64,
) -> Step<(usize, u64)> {
    if m.early {
        return early_global(warp, m, (pc, lane), address, bytes);
    }
    if let Some(last) = m.run.memory.allocations.get(m.last_allocation)
        && last.live
        && address >= last.base
        && (address - last.base).saturating_add(bytes) <= last.bytes
    {
        return Ok((m.last_allocation, address - last.base));
    }
    match m.run.memory.find(address, bytes) {
        Ok(index) => {
            m.last_allocation = index;
            Ok((index, address - m.run.memory.allocations[index].base))
        }
        Err(missing) => {
            let place = (address, missing.allocation);
            m.stop_at(missing.kind, warp, pc, lane, place, missing.detail)
        }
    }
}

/// The same before the launch before is waited for: of memory that no launch writes.
#[cold]
fn early_global(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, lane): (u32, usize),
    address: u64,
    bytes: u64,
) -> Step<(usize, u64)> {
    m.early = false;
    let place = global(warp, m, (pc, lane), address, bytes);
    m.early = true;
    let (index, offset) = place?;
    let allocation = &m.run.memory.allocations[index];
    if allocation.settled {
        return Ok((index, offset));
    }
    let detail = format!(
        "{bytes} bytes at offset {offset} of {}, which the launch before may still access: no \
         thread has waited for it (griddepcontrol.wait)",
        allocation.name
    );
    let place = (address, Some(allocation.name.clone()));
    m.stop_at(FindingKind::BeforeWait, warp, pc, lane, place, detail)
}

/// Checks an access to shared memory and gives its place.
#[inline]
pub(crate) fn shared(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, lane): (u32, usize),
    (rank, offset): (usize, u64),
    bytes: u64,
) -> Step<usize> {
    let at = shared_place(warp, m, (pc, lane), (rank, offset), bytes)?;
    if rank != warp.rank {
        peer::visited(warp, m, pc, lane, rank);
    }
    Ok(at)
}

/// The same, for what does not end with the instruction or is not waited for.
#[inline]
pub(crate) fn shared_place(
    warp: &Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    (rank, offset): (usize, u64),
    bytes: u64,
) -> Step<usize> {
    let at = within_block(warp, m, site, (rank, offset), bytes)?;
    if rank != warp.rank {
        peer::is_there(warp, m, site, (rank, offset))?;
    }
    Ok(at)
}

/// Checks that there is shared memory at a place, whoever may access it.
#[inline]
pub(crate) fn within_block(
    warp: &Warp,
    m: &Machine<'_>,
    (pc, lane): (u32, usize),
    (rank, offset): (usize, u64),
    bytes: u64,
) -> Step<usize> {
    let Some(block) = m.blocks.get(rank) else {
        let place = (offset, Some("shared".to_owned()));
        let detail = format!("block rank {rank} is not in the cluster");
        return m.stop_at(FindingKind::OutOfBounds, warp, pc, lane, place, detail);
    };
    if !block.shared.contains(offset, bytes) {
        let place = (offset, Some("shared".to_owned()));
        let size = block.shared.len();
        let detail = format!(
            "{bytes} bytes at {offset:#x}, but the block has {size} bytes of shared memory"
        );
        return m.stop_at(FindingKind::OutOfBounds, warp, pc, lane, place, detail);
    }
    Ok(offset as usize)
}

/// Ends the launch if the address is not a multiple of `bytes`.
pub(crate) fn aligned(
    warp: &Warp,
    m: &Machine<'_>,
    (pc, lane): (u32, usize),
    address: u64,
    bytes: u64,
) -> Step {
    if address.is_multiple_of(bytes) {
        return Ok(());
    }
    let detail = format!("an access of {bytes} bytes must be aligned to {bytes} bytes");
    m.stop_at(FindingKind::Misaligned, warp, pc, lane, (address, None), detail)
}

/// Reports a conflict in shared memory.
#[cold]
pub(crate) fn conflict(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, lane): (u32, usize),
    offset: u64,
    conflict: Conflict,
) {
    let name = |id: usize, lane: usize| match lane {
        0..32 => format!("lane {lane} of "),
        _ => String::new(),
    } + &m.warp_name(id);
    let (kind, detail) = match conflict {
        Conflict::Write(id, by) => {
            let text = format!("not ordered after the write by {}", name(id, by));
            (FindingKind::SharedRace, text)
        }
        Conflict::Read(id, by) => {
            let text = format!("not ordered after the read by {}", name(id, by));
            (FindingKind::SharedRace, text)
        }
        Conflict::Landing => {
            let text = "an asynchronous copy to these bytes may still be under way";
            (FindingKind::AsyncRace, text.to_owned())
        }
        Conflict::BeingRead => {
            let text = "an asynchronous read of these bytes may still be under way";
            (FindingKind::AsyncRace, text.to_owned())
        }
        Conflict::Mbarrier => (
            FindingKind::Mbarrier,
            "an ordinary access to the bytes of an mbarrier".to_owned(),
        ),
        Conflict::ProxyWrite(id) => {
            let text = format!(
                "the async proxy writes over what {} wrote without a proxy fence in between",
                name(id, 32)
            );
            (FindingKind::MissingProxyFence, text)
        }
        Conflict::Proxy(id) => {
            let text = format!(
                "the async proxy reads what {} wrote without a proxy fence in between",
                name(id, 32)
            );
            (FindingKind::MissingProxyFence, text)
        }
    };
    let place = Some((offset, "shared".to_owned()));
    m.note(kind, warp, pc, lane, place, || detail);
}

/// Counts the sectors that a request reads, marks them, and fetches what L2 fetches with
/// them.
pub(crate) fn read_sectors(
    m: &mut Machine<'_>,
    spans: &mut Vec<(usize, u64)>,
    prefetch_bytes: u32,
) {
    if m.run.l2.is_some() && prefetch_bytes > 32 {
        for &(allocation, sector) in spans.iter() {
            m.fetch(allocation, sector, u64::from(prefetch_bytes / 32));
        }
    }
    touch_sectors(m, spans, false);
}

/// Counts the sectors of one request and marks them.
pub(crate) fn touch_sectors(
    m: &mut Machine<'_>,
    spans: &mut Vec<(usize, u64)>,
    write: bool,
) {
    if !spans.is_sorted() {
        spans.sort_unstable();
    }
    spans.dedup();
    for &(allocation, sector) in spans.iter() {
        m.touch(allocation, sector, write);
    }
    let count = spans.len() as u64;
    if write {
        m.counts.sectors_written += count;
    } else {
        m.counts.sectors_read += count;
    }
}

/// The sectors that `bytes` from `offset` lie in.
pub(crate) fn sectors(
    spans: &mut Vec<(usize, u64)>,
    allocation: usize,
    offset: u64,
    bytes: u64,
) {
    for sector in offset / 32..=(offset + bytes - 1) / 32 {
        if spans.last() != Some(&(allocation, sector)) {
            spans.push((allocation, sector));
        }
    }
}

/// Records a global read by one lane and reports its races.
pub(crate) fn note_global_read(
    warp: &Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    place: (usize, u64),
    bytes: u64,
    manner: Manner,
) {
    note_read(warp, m, site, Span::of_lane(place, bytes), manner);
}

/// Records a global read by lanes from that of `site` on and reports its races.
pub(crate) fn note_read(
    warp: &Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    span: Span,
    manner: Manner,
) {
    let by = Accessor { clock: &warp.clock, lane: site.1, manner };
    if let Some(found) = m.run.races.on_read(span, by) {
        report_rival(warp, m, site, span, found);
    }
}

/// Records a read through the read-only path and reports a write of the same bytes. No
/// later write is allowed, whatever orders it, so the read is not kept as others are.
pub(crate) fn note_constant_read(
    warp: &Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    span: Span,
) {
    let by = Accessor { clock: &warp.clock, lane: site.1, manner: Manner::Weak };
    let races = &m.run.races;
    let found =
        [races.look_before_read(span, by), races.on_constant_read(span, (by, site.0))];
    for found in found.into_iter().flatten() {
        report_rival(warp, m, site, span, found);
    }
}

/// Records a global write by one lane and reports its races.
pub(crate) fn note_global_write(
    warp: &Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    place: (usize, u64),
    bytes: u64,
    manner: Manner,
) {
    note_write(warp, m, site, Span::of_lane(place, bytes), manner);
}

/// Records a global write by lanes from that of `site` on and reports its races.
pub(crate) fn note_write(
    warp: &Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    span: Span,
    manner: Manner,
) {
    let by = Accessor { clock: &warp.clock, lane: site.1, manner };
    if let Some(found) = m.run.races.on_write(span, by) {
        report_rival(warp, m, site, span, found);
    }
}

#[cold]
fn report_rival(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, first): (u32, usize),
    span: Span,
    Found { rival, lane }: Found,
) {
    let found = &m.run.memory.allocations[span.allocation];
    let place = Some((found.base + span.offset_of(lane - first), found.name.clone()));
    let other = rival_name(warp, m, rival);
    let race = FindingKind::GlobalRace;
    let (kind, what) = match rival.did {
        Did::Read => (race, "read it, and nothing orders the two".to_owned()),
        Did::Write => (race, "wrote it, and nothing orders the two".to_owned()),
        Did::WriteApart(scope) => {
            let name = scope.name();
            let text = format!(
                "wrote it with a scope that does not include both threads ({name}), and \
                 nothing else orders the two"
            );
            (race, text)
        }
        Did::WriteUnfenced => (
            FindingKind::MissingProxyFence,
            "wrote it without a proxy fence before the async proxy's read".to_owned(),
        ),
        Did::WriteInFlight => (
            FindingKind::AsyncRace,
            "began an asynchronous store to it that may still be under way; its thread must \
             wait by cp.async.bulk.wait_group without .read first"
                .to_owned(),
        ),
        Did::WriteConstant => (
            FindingKind::ReadOnlyWritten,
            "wrote it in this launch, so it may not be read through the read-only path \
             (.nc): use an ordinary load"
                .to_owned(),
        ),
        Did::ReadConstant(pc) => {
            let line = m.instruction(pc).line;
            let text = format!(
                "reads it through the read-only path (PTX line {line}), so the launch may \
                 not write it: use an ordinary load there"
            );
            (FindingKind::ReadOnlyWritten, text)
        }
    };
    m.note(kind, warp, pc, lane, place, || format!("{other} {what}"));
}

/// Who did the other access.
fn rival_name(warp: &Warp, m: &Machine<'_>, rival: Rival) -> String {
    let (grid, own) = (m.run.grid, m.blocks[warp.rank].linear);
    match rival.block {
        Some(n) if n == own && rival.warp == warp.index => match rival.lane {
            lane @ 0..32 => format!("lane {lane} of this warp"),
            _ => "another lane of this warp".to_owned(),
        },
        Some(n) if n == own => format!("warp {} of the block", rival.warp),
        Some(n) => {
            let (x, y, z) = (n % grid[0], n / grid[0] % grid[1], n / grid[0] / grid[1]);
            format!("block ({x}, {y}, {z})")
        }
        None => "other blocks".to_owned(),
    }
}

/// Counts a warp's access to shared memory.
pub(crate) fn count_shared(m: &mut Machine<'_>, banks: &[u32], size: u32, write: bool) {
    let bytes = u64::from(size) * banks.len() as u64;
    if write {
        m.counts.shared_write_bytes += bytes;
    } else {
        m.counts.shared_read_bytes += bytes;
    }
    let (passes, best) = wavefronts(banks, size);
    m.counts.shared_wavefronts += u64::from(passes);
    m.counts.bank_conflicts += u64::from(passes - best);
}

/// A strong write to shared memory by a lane publishes what its last fences released.
pub(crate) fn publish_shared(
    (warp, lane): (&Warp, usize),
    m: &mut Machine<'_>,
    (rank, at): (usize, usize),
    scope: Scope,
) {
    if warp.clock.publishes() {
        let split = m.splits_scopes();
        let published = m.blocks[rank].published.entry(at as u32).or_default();
        published.publish((&warp.clock, 1 << lane), scope, split);
    }
}

/// A strong read of shared memory sees what was published there.
pub(crate) fn observe_shared(
    warp: &mut Warp,
    m: &Machine<'_>,
    (rank, at): (usize, usize),
    (order, scope): (Order, Scope),
) {
    let Some(published) = m.blocks[rank].published.get(&(at as u32)) else { return };
    for (level, message) in published.seen_by(&warp.clock, scope, m.splits_scopes()) {
        warp.clock.observe(level, message, order.acquires());
    }
}
