//! Loads and stores.

use crate::bank::Bank;
use crate::check::{Accessor, Manner, Span};
use crate::exec::access::{
    Target, addresses, aligned, conflict, count_shared, global, note_constant_read,
    note_global_read, note_global_write, observe_shared, publish_shared, read_sectors,
    resolve, sectors, shared, touch_sectors,
};
use crate::exec::runs::{self, LANE_BYTES, Rows, Runs};
use crate::exec::step::{Next, report_undefined};
use crate::finding::FindingKind;
use crate::instruction::{Access, Order, Scope, Space};
use crate::lanes::{LANES, Origin, lanes};
use crate::machine::{Machine, Step};
use crate::shared::Who;
use crate::warp::Warp;

/// Up to 32 bytes of one lane.
type Bytes = [u8; LANE_BYTES];

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
    if let Some(runs) = runs_of(warp, m, access, (&row, true), active) {
        let lists = (&mut data, &mut spans);
        undefined = runs::load(warp, m, (access, pc), &runs, lists);
    } else {
        for lane in lanes(active) {
            aligned(warp, m, (pc, lane), row[lane], size)?;
            let bytes = &mut data[lane][..size as usize];
            let lists = (&mut spans, &mut banks);
            let written = load_lane(warp, m, access, (pc, lane), row[lane], bytes, lists)?;
            undefined |= u32::from(!written) << lane;
        }
    }
    if !spans.is_empty() {
        m.counts.global_read_bytes += size * u64::from(active.count_ones());
        read_sectors(m, &mut spans, access.prefetch_bytes);
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

/// The runs of lanes of an access to global memory that has no memory order.
#[inline]
fn runs_of(
    warp: &Warp,
    m: &mut Machine<'_>,
    access: &Access,
    (row, is_load): (&[u64; LANES], bool),
    active: u32,
) -> Option<Runs> {
    if access.order.is_strong() {
        return None;
    }
    let each = u64::from(access.width) * access.registers.len() as u64;
    Runs::find(warp, m, (access.address.space, row), (each, is_load), active)
}

/// The sectors and the banks' addresses that the lanes of an access touch.
type Touched<'t> = (&'t mut Vec<(usize, u64)>, &'t mut Vec<u32>);

/// Loads one lane's bytes; says whether all of them were written before.
#[inline(always)]
fn load_lane(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    access: &Access,
    site: (u32, usize),
    address: u64,
    bytes: &mut [u8],
    (spans, banks): Touched<'_>,
) -> Step<bool> {
    let size = bytes.len() as u64;
    match resolve(access.address.space, warp.rank, address) {
        Target::Global(address) => {
            let place = global(warp, m, site, address, size)?;
            let found = &m.run.memory.allocations[place.0];
            found.read(place.1, bytes);
            if access.address.space != Space::Const {
                sectors(spans, place.0, place.1, size);
                let manner = Manner::of_thread(access.order, access.scope);
                if access.read_only {
                    note_constant_read(warp, m, site, Span::of_lane(place, size));
                } else {
                    note_global_read(warp, m, site, place, size, manner);
                }
            }
            if access.order.is_strong() {
                let order = (access.scope, access.order.acquires());
                m.run.races.observe(address, &mut warp.clock, order);
            }
            Ok(m.run.memory.allocations[place.0].is_written(place.1, size))
        }
        Target::Shared(rank, offset) => {
            banks.push(offset as u32);
            let order = (access.order, access.scope);
            load_shared(warp, m, site, (rank, offset), order, bytes)
        }
        Target::Local(offset) => load_local(warp, m, site, offset, bytes),
        Target::Param(offset) => load_param(warp, m, site, offset, bytes),
    }
}

/// Whether a strong load read the same value as the last time: perhaps a waiting loop.
fn is_poll(warp: &mut Warp, pc: u32, bytes: &Bytes) -> bool {
    let value = bytes[..8].iter().fold(0, |all, &byte| all << 8 | u64::from(byte));
    warp.polled.replace((pc, value)) == Some((pc, value))
}

fn load_shared(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    (rank, offset): (usize, u64),
    order: (Order, Scope),
    bytes: &mut [u8],
) -> Step<bool> {
    let at = shared(warp, m, site, (rank, offset), bytes.len() as u64)?;
    let memory = &mut m.blocks[rank].shared;
    bytes.copy_from_slice(memory.get(at, bytes.len()));
    let written = memory.is_written(at, bytes.len());
    let strong = order.0.is_strong();
    let who = Who { clock: &warp.clock, lane: site.1, strong, proxy: false };
    let found = memory.on_read(at, bytes.len(), who);
    if strong {
        observe_shared(warp, m, (rank, at), order);
    }
    if let Some(found) = found {
        conflict(warp, m, site, offset, found);
    }
    Ok(written)
}

/// Where a lane's bytes of local memory are.
pub(crate) fn local_place(
    warp: &Warp,
    m: &Machine<'_>,
    (pc, lane): (u32, usize),
    offset: u64,
    bytes: usize,
) -> Step<usize> {
    let size = u64::from(m.run.kernel.local_bytes);
    if offset.saturating_add(bytes as u64) > size {
        let place = (offset, Some("local".to_owned()));
        let detail = format!(
            "{bytes} bytes at {offset:#x}, but a thread has {size} bytes of local memory"
        );
        return m.stop_at(FindingKind::OutOfBounds, warp, pc, lane, place, detail);
    }
    Ok(lane * size as usize + offset as usize)
}

/// Reads a lane's local memory; says whether all of it was written.
pub(crate) fn load_local(
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
        let detail = format!(
            "{} bytes at {offset:#x} of {} bytes of parameters",
            bytes.len(),
            params.len()
        );
        return m.stop_at(FindingKind::OutOfBounds, warp, pc, lane, place, detail);
    }
    bytes.copy_from_slice(&params[offset as usize..end as usize]);
    Ok(true)
}

/// Writes loaded bytes to registers, extended to their size.
fn scatter(warp: &mut Warp, access: &Access, data: &Rows, active: u32) {
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
pub(crate) fn gather(warp: &Warp, access: &Access, lane: usize) -> Bytes {
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
        warp.clock.release(access.scope, warp.together(active));
        warp.clock.touch();
    }
    let mut spans = Vec::with_capacity(LANES);
    let mut banks = Vec::with_capacity(LANES);
    let runs = match undefined & active {
        0 => runs_of(warp, m, access, (&row, false), active),
        _ => None,
    };
    if let Some(runs) = &runs {
        let data = |lane: usize| gather(warp, access, lane);
        runs::store(warp, m, pc, runs, (data, &mut spans));
    }
    for lane in lanes(if runs.is_some() { 0 } else { active }) {
        aligned(warp, m, (pc, lane), row[lane], size)?;
        let data = gather(warp, access, lane);
        let bytes = (&data[..size as usize], undefined >> lane & 1 == 0);
        let lists = (&mut spans, &mut banks);
        store_lane(warp, m, access, (pc, lane), row[lane], bytes, lists)?;
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

/// Stores one lane's bytes; `defined` says whether their values are defined.
#[inline(always)]
fn store_lane(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    access: &Access,
    (pc, lane): (u32, usize),
    address: u64,
    (bytes, defined): (&[u8], bool),
    (spans, banks): Touched<'_>,
) -> Step {
    let (site, size) = ((pc, lane), bytes.len() as u64);
    match resolve(access.address.space, warp.rank, address) {
        Target::Global(address) => {
            let place = global(warp, m, site, address, size)?;
            if !defined {
                undefined_store(warp, m, access, pc, lane);
            }
            let manner = Manner::of_thread(access.order, access.scope);
            store_global(warp, m, site, place, bytes, manner);
            sectors(spans, place.0, place.1, size);
            if access.order.is_strong() {
                m.run.races.publish(address, (&warp.clock, lane), access.scope);
            }
        }
        Target::Shared(rank, offset) => {
            banks.push(offset as u32);
            let order = (access.order, access.scope);
            store_shared(warp, m, site, (rank, offset), (bytes, defined), order)?;
        }
        Target::Local(offset) => {
            let at = local_place(warp, m, site, offset, bytes.len())?;
            warp.local[at..at + bytes.len()].copy_from_slice(bytes);
            warp.local_written[at..at + bytes.len()].fill(defined);
        }
        Target::Param(offset) => {
            let place = (offset, Some("parameters".to_owned()));
            let detail = "parameters cannot be written";
            return m.stop_at(FindingKind::OutOfBounds, warp, pc, lane, place, detail);
        }
    }
    Ok(())
}

#[cold]
pub(crate) fn undefined_store(
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
    manner: Manner,
) {
    let found = &m.run.memory.allocations[allocation];
    let size = bytes.len() as u64;
    // Storing the value that is there already cannot race.
    let mut old = [0; 32];
    let old = &mut old[..bytes.len()];
    found.read(offset, old);
    let same = old == bytes && found.is_written(offset, size);
    found.write(offset, bytes);
    if same {
        let by = Accessor { clock: &warp.clock, lane: site.1, manner };
        let span = Span::of_lane((allocation, offset), size);
        m.run.races.on_same_write(span, by);
    } else {
        note_global_write(warp, m, site, (allocation, offset), size, manner);
    }
}

/// Writes bytes to shared memory, with the checks.
pub(crate) fn store_shared(
    warp: &Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    (rank, offset): (usize, u64),
    (bytes, defined): (&[u8], bool),
    (order, scope): (Order, Scope),
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
        publish_shared((warp, site.1), m, (rank, at), scope);
    }
    if let Some(found) = found {
        conflict(warp, m, site, offset, found);
    }
    Ok(())
}
