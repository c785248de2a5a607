//! Loads and stores.

use crate::check::{Did, Manner, Rival};
use crate::decode::operand::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::exec::{Next, report_undefined, values};
use crate::finding::FindingKind;
use crate::instruction::{Access, Address, Order, Space};
use crate::lanes::{LANES, Origin, lanes};
use crate::machine::{Machine, Step};
use crate::shared::{Conflict, Who};
use crate::syntax::Bank;
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

/// The rank part of a `shared::cluster` address: 0 is the block's own.
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

/// Checks an access to shared memory and gives its place.
#[inline]
pub(crate) fn shared(
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
        let detail =
            format!("{bytes} bytes at {offset:#x} of {size} bytes of shared memory");
        return m.stop_at(FindingKind::OutOfBounds, warp, pc, lane, place, detail);
    }
    if rank != warp.rank && block.live_threads == 0 {
        let place = (offset, Some("shared".to_owned()));
        let detail = "the other block of the cluster has already returned";
        return m.stop_at(FindingKind::UseAfterFree, warp, pc, lane, place, detail);
    }
    Ok(offset as usize)
}

/// Ends the launch over an address that is not a multiple of `bytes`.
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
    let detail = format!("an access of {bytes} bytes must be aligned to as many");
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
            let text = "an asynchronous copy to these bytes is not waited for";
            (FindingKind::AsyncRace, text.to_owned())
        }
        Conflict::BeingRead => {
            let text = "an asynchronous read of these bytes is not waited for";
            (FindingKind::AsyncRace, text.to_owned())
        }
        Conflict::Mbarrier => {
            (FindingKind::Mbarrier, "a plain access to a live mbarrier".to_owned())
        }
        Conflict::Proxy(id) => {
            let text = format!(
                "the async proxy reads what {} wrote, with no proxy fence between",
                name(id, 32)
            );
            (FindingKind::MissingProxyFence, text)
        }
    };
    let place = Some((offset, "shared".to_owned()));
    m.note(kind, warp, pc, lane, place, || detail);
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

/// Notes a global read, with its races.
pub(crate) fn note_global_read(
    warp: &Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    (allocation, offset): (usize, u64),
    bytes: u64,
    manner: Manner,
) {
    let clock = &warp.clock;
    if let Some(rival) = m.run.races.on_read(allocation, offset, bytes, clock, manner) {
        report_rival(warp, m, site, (allocation, offset), rival);
    }
}

/// Notes a global write, with its races.
pub(crate) fn note_global_write(
    warp: &Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    (allocation, offset): (usize, u64),
    bytes: u64,
    manner: Manner,
) {
    let clock = &warp.clock;
    if let Some(rival) = m.run.races.on_write(allocation, offset, bytes, clock, manner) {
        report_rival(warp, m, site, (allocation, offset), rival);
    }
}

#[cold]
fn report_rival(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, lane): (u32, usize),
    (allocation, offset): (usize, u64),
    rival: Rival,
) {
    let found = &m.run.memory.allocations[allocation];
    let place = Some((found.base + offset, found.name.clone()));
    let (grid, own) = (m.run.grid, m.blocks[warp.rank].linear);
    let other = match rival.block {
        Some(n) if n == own => format!("warp {} of the block", rival.warp),
        Some(n) => {
            let (x, y, z) = (n % grid[0], n / grid[0] % grid[1], n / grid[0] / grid[1]);
            format!("block ({x}, {y}, {z})")
        }
        None => "other blocks".to_owned(),
    };
    let (kind, what) = match rival.did {
        Did::Read => (FindingKind::GlobalRace, "read it, and nothing orders the two"),
        Did::Write => (FindingKind::GlobalRace, "wrote it, and nothing orders the two"),
        Did::WriteUnfenced => (
            FindingKind::MissingProxyFence,
            "wrote it, with no proxy fence before the async proxy's read",
        ),
    };
    m.note(kind, warp, pc, lane, place, || format!("{other} {what}"));
}

/// Up to 32 bytes of one lane.
type Bytes = [u8; 32];

/// Executes a load.
pub(crate) fn load(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    access: &Access,
    active: u32,
    pc: u32,
) -> Step<Next> {
    let size = u64::from(access.width) * access.registers.len() as u64;
    let row = addresses(warp, m, &access.address, active, pc);
    let (mut data, mut undefined) = ([[0u8; 32]; LANES], 0u32);
    let mut spans = Vec::with_capacity(LANES);
    let mut banks = Vec::with_capacity(LANES);
    for lane in lanes(active) {
        aligned(warp, m, (pc, lane), row[lane], size)?;
        let bytes = &mut data[lane][..size as usize];
        let target = resolve(access.address.space, warp.rank, row[lane]);
        let written = match target {
            Target::Global(address) => {
                let place = global(warp, m, (pc, lane), address, size)?;
                let found = &m.run.memory.allocations[place.0];
                found.read(place.1, bytes);
                if access.address.space != Space::Const {
                    sectors(&mut spans, place.0, place.1, size);
                    let manner = Manner::of_thread(access.order.is_strong());
                    note_global_read(warp, m, (pc, lane), place, size, manner);
                }
                if access.order.is_strong() {
                    observe_global(warp, m, address, access.order);
                }
                m.run.memory.allocations[place.0].is_written(place.1, size)
            }
            Target::Shared(rank, offset) => {
                banks.push(offset as u32);
                let at = (rank, offset);
                load_shared(warp, m, (pc, lane), at, access.order, bytes)?
            }
            Target::Local(offset) => load_local(warp, m, (pc, lane), offset, bytes)?,
            Target::Param(offset) => load_param(warp, m, (pc, lane), offset, bytes)?,
        };
        undefined |= u32::from(!written) << lane;
    }
    if !spans.is_empty() {
        m.counts.global_read_bytes += size * u64::from(active.count_ones());
        touch_sectors(m, &mut spans, false);
    }
    if !banks.is_empty() {
        count_shared(m, &banks, size as u32, false);
    }
    scatter(warp, access, &data, active);
    for &register in &access.registers {
        warp.regs.set_undefined(access.bank, register, undefined, active);
        if undefined != 0 {
            let address = row[undefined.trailing_zeros() as usize];
            let origin = Origin::Load { pc, address };
            warp.regs.origins.insert((access.bank, register), origin);
        }
    }
    if access.order.is_strong()
        && is_poll(warp, pc, &data[active.trailing_zeros() as usize])
    {
        return Ok(Next::Polled);
    }
    Ok(Next::Go)
}

/// Whether a strong load saw again what it saw last: perhaps a waiting loop.
fn is_poll(warp: &mut Warp, pc: u32, bytes: &Bytes) -> bool {
    let value = bytes[..8].iter().fold(0, |all, &byte| all << 8 | u64::from(byte));
    warp.polled.replace((pc, value)) == Some((pc, value))
}

fn observe_global(warp: &mut Warp, m: &Machine<'_>, address: u64, order: Order) {
    m.run.races.observe(address, &mut warp.clock, order.acquires());
}

/// Counts a warp's access to shared memory.
pub(crate) fn count_shared(m: &mut Machine<'_>, banks: &[u32], size: u32, write: bool) {
    let bytes = u64::from(size) * banks.len() as u64;
    if write {
        m.counts.shared_write_bytes += bytes;
    } else {
        m.counts.shared_read_bytes += bytes;
    }
    let (passes, best) = crate::count::wavefronts(banks, size);
    m.counts.shared_wavefronts += u64::from(passes);
    m.counts.bank_conflicts += u64::from(passes - best);
}

fn load_shared(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    (rank, offset): (usize, u64),
    order: Order,
    bytes: &mut [u8],
) -> Step<bool> {
    let at = shared(warp, m, site, (rank, offset), bytes.len() as u64)?;
    let memory = &mut m.blocks[rank].shared;
    bytes.copy_from_slice(memory.get(at, bytes.len()));
    let written = memory.is_written(at, bytes.len());
    let who =
        Who { clock: &warp.clock, lane: site.1, strong: order.is_strong(), proxy: false };
    let found = memory.on_read(at, bytes.len(), who);
    if order.is_strong()
        && let Some(published) = m.blocks[rank].published.get(&(at as u32))
    {
        warp.clock.observe(published, order.acquires());
    }
    if let Some(found) = found {
        conflict(warp, m, site, offset, found);
    }
    Ok(written)
}

fn local_place(
    warp: &Warp,
    m: &Machine<'_>,
    (pc, lane): (u32, usize),
    offset: u64,
    bytes: usize,
) -> Step<usize> {
    let size = u64::from(m.run.kernel.local_bytes);
    if offset.saturating_add(bytes as u64) > size {
        let place = (offset, Some("local".to_owned()));
        let detail = format!("{bytes} bytes of {size} bytes of local memory");
        return m.stop_at(FindingKind::OutOfBounds, warp, pc, lane, place, detail);
    }
    Ok(lane * size as usize + offset as usize)
}

fn load_local(
    warp: &Warp,
    m: &Machine<'_>,
    site: (u32, usize),
    offset: u64,
    bytes: &mut [u8],
) -> Step<bool> {
    let at = local_place(warp, m, site, offset, bytes.len())?;
    bytes.copy_from_slice(&warp.local[at..at + bytes.len()]);
    Ok(warp.local_written[at..at + bytes.len()].iter().all(|&written| written))
}

fn load_param(
    warp: &Warp,
    m: &Machine<'_>,
    (pc, lane): (u32, usize),
    offset: u64,
    bytes: &mut [u8],
) -> Step<bool> {
    let params = &m.run.params;
    let end = offset.saturating_add(bytes.len() as u64);
    if end > params.len() as u64 {
        let place = (offset, Some("parameters".to_owned()));
        let detail = format!("{} bytes of {} of parameters", bytes.len(), params.len());
        return m.stop_at(FindingKind::OutOfBounds, warp, pc, lane, place, detail);
    }
    bytes.copy_from_slice(&params[offset as usize..end as usize]);
    Ok(true)
}

/// Puts loaded bytes into registers, extended to their size.
fn scatter(warp: &mut Warp, access: &Access, data: &[Bytes; LANES], active: u32) {
    let width = access.width as usize;
    for (n, &register) in access.registers.iter().enumerate() {
        for lane in lanes(active) {
            let bytes = &data[lane][n * width..(n + 1) * width];
            let mut value =
                bytes.iter().rev().fold(0u64, |all, &byte| all << 8 | u64::from(byte));
            if access.signed && width < 8 {
                let unused = 64 - 8 * access.width;
                value = ((value << unused) as i64 >> unused) as u64;
            }
            if access.bits < 64 {
                value &= (1 << access.bits) - 1;
            }
            match access.bank {
                Bank::Double => warp.regs.d[usize::from(register)][lane] = value,
                _ => warp.regs.r[usize::from(register)][lane] = value as u32,
            }
        }
    }
}

/// Collects the bytes that each lane stores.
fn gather(warp: &Warp, access: &Access, lane: usize) -> Bytes {
    let (mut out, width) = ([0; 32], access.width as usize);
    for (n, &register) in access.registers.iter().enumerate() {
        let value = match access.bank {
            Bank::Double => warp.regs.d[usize::from(register)][lane],
            _ => u64::from(warp.regs.r[usize::from(register)][lane]),
        };
        out[n * width..(n + 1) * width].copy_from_slice(&value.to_le_bytes()[..width]);
    }
    out
}

/// Executes a store.
pub(crate) fn store(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    access: &Access,
    active: u32,
    pc: u32,
) -> Step {
    let size = u64::from(access.width) * access.registers.len() as u64;
    let row = addresses(warp, m, &access.address, active, pc);
    let undefined = access
        .registers
        .iter()
        .fold(0, |all, &register| all | warp.regs.undefined(access.bank, register));
    if access.order.releases() {
        warp.clock.fence_global();
    }
    let mut spans = Vec::with_capacity(LANES);
    let mut banks = Vec::with_capacity(LANES);
    for lane in lanes(active) {
        aligned(warp, m, (pc, lane), row[lane], size)?;
        let data = gather(warp, access, lane);
        let bytes = &data[..size as usize];
        let defined = undefined >> lane & 1 == 0;
        match resolve(access.address.space, warp.rank, row[lane]) {
            Target::Global(address) => {
                let place = global(warp, m, (pc, lane), address, size)?;
                if !defined {
                    undefined_store(warp, m, access, pc, lane);
                }
                let strong = access.order.is_strong();
                store_global(warp, m, (pc, lane), place, bytes, strong);
                sectors(&mut spans, place.0, place.1, size);
                if strong {
                    m.run.races.publish(address, &warp.clock);
                }
            }
            Target::Shared(rank, offset) => {
                banks.push(offset as u32);
                let at = (rank, offset);
                store_shared(warp, m, (pc, lane), at, (bytes, defined), access.order)?;
            }
            Target::Local(offset) => {
                let at = local_place(warp, m, (pc, lane), offset, bytes.len())?;
                warp.local[at..at + bytes.len()].copy_from_slice(bytes);
                warp.local_written[at..at + bytes.len()].fill(defined);
            }
            Target::Param(offset) => {
                let place = (offset, Some("parameters".to_owned()));
                let detail = "parameters cannot be written";
                let kind = FindingKind::OutOfBounds;
                return m.stop_at(kind, warp, pc, lane, place, detail);
            }
        }
    }
    if !spans.is_empty() {
        m.counts.global_write_bytes += size * u64::from(active.count_ones());
        touch_sectors(m, &mut spans, true);
        m.progressed();
    }
    if !banks.is_empty() {
        count_shared(m, &banks, size as u32, true);
        m.progressed();
    }
    Ok(())
}

#[cold]
fn undefined_store(
    warp: &Warp,
    m: &mut Machine<'_>,
    access: &Access,
    pc: u32,
    lane: usize,
) {
    let found = access
        .registers
        .iter()
        .find(|&&register| warp.regs.undefined(access.bank, register) >> lane & 1 != 0);
    if let Some(&register) = found {
        report_undefined(warp, m, pc, 1 << lane, (access.bank, register), "stored value");
    }
}

/// Writes bytes to global memory, with the checks.
pub(crate) fn store_global(
    warp: &Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    (allocation, offset): (usize, u64),
    bytes: &[u8],
    strong: bool,
) {
    let found = &m.run.memory.allocations[allocation];
    let size = bytes.len() as u64;
    // Storing what is there already changes nothing and races with nothing.
    let mut old = [0; 32];
    let old = &mut old[..bytes.len()];
    found.read(offset, old);
    let same = old == bytes && found.is_written(offset, size);
    found.write(offset, bytes);
    if !same {
        let manner = Manner::of_thread(strong);
        note_global_write(warp, m, site, (allocation, offset), size, manner);
    }
}

/// A strong write to shared memory publishes what the warp's last fence made ready.
pub(crate) fn publish_shared(warp: &Warp, m: &mut Machine<'_>, (rank, at): (usize, usize)) {
    if let Some(released) = &warp.clock.released {
        let published = m.blocks[rank].published.entry(at as u32).or_default();
        crate::clock::join(published, released);
    }
}

/// Writes bytes to shared memory, with the checks.
pub(crate) fn store_shared(
    warp: &Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    (rank, offset): (usize, u64),
    (bytes, defined): (&[u8], bool),
    order: Order,
) -> Step {
    let at = shared(warp, m, site, (rank, offset), bytes.len() as u64)?;
    let memory = &mut m.blocks[rank].shared;
    let changes =
        memory.get(at, bytes.len()) != bytes || !memory.is_written(at, bytes.len());
    let who =
        Who { clock: &warp.clock, lane: site.1, strong: order.is_strong(), proxy: false };
    let found = memory.on_write(at, bytes.len(), who, changes);
    memory.put(at, bytes, defined);
    if order.is_strong() {
        publish_shared(warp, m, (rank, at));
    }
    if let Some(found) = found {
        conflict(warp, m, site, offset, found);
    }
    Ok(())
}
