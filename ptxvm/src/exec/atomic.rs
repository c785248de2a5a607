//! Read-modify-write on memory.

use crate::bank::Bank;
use crate::check::Manner;
use crate::exec::access::{
    Target, addresses, aligned, conflict, global, note_global_write, observe_shared,
    publish_shared, resolve, shared,
};
use crate::exec::step::{Next, report_undefined};
use crate::finding::FindingKind;
use crate::instruction::{Atomic, Order, Scope};
use crate::lanes::lanes;
use crate::machine::{Machine, Step};
use crate::shared::Who;
use crate::warp::Warp;

/// Executes an atomic, lane by lane.
pub(crate) fn run(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    atomic: &Atomic,
    active: u32,
    pc: u32,
) -> Step<Next> {
    let row = addresses(warp, m, &atomic.address, active, pc);
    let operands = atomic.a.iter().chain(&atomic.b);
    for &index in operands {
        let undefined = warp.regs.undefined(atomic.bank, index) & active;
        if undefined != 0 {
            report_undefined(warp, m, pc, undefined, (atomic.bank, index), "operand");
        }
    }
    if atomic.order.releases() {
        warp.clock.release(atomic.scope, warp.together(active));
        warp.clock.touch();
    }
    let (mut changed, mut first_old) = (false, None);
    for lane in lanes(active) {
        aligned(warp, m, (pc, lane), row[lane], atomic.op.bytes * atomic.a.len() as u64)?;
        for n in 0..atomic.a.len() {
            let address = row[lane] + n as u64 * atomic.op.bytes;
            let old = one(warp, m, (atomic, n), (pc, lane), address, &mut changed)?;
            first_old.get_or_insert(old);
            if let Some(&d) = atomic.d.get(n) {
                match atomic.bank {
                    Bank::Double => warp.regs.d[usize::from(d)][lane] = old,
                    _ => warp.regs.r[usize::from(d)][lane] = old as u32,
                }
            }
        }
    }
    for &d in &atomic.d {
        warp.regs.set_undefined(atomic.bank, d, 0, active);
    }
    if changed {
        m.progressed();
        warp.polled = None;
    } else if warp.polled.replace((pc, first_old.unwrap_or(0)))
        == Some((pc, first_old.unwrap_or(0)))
    {
        return Ok(Next::Polled);
    }
    Ok(Next::Go)
}

fn one(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    (atomic, n): (&Atomic, usize),
    (pc, lane): (u32, usize),
    address: u64,
    changed: &mut bool,
) -> Step<u64> {
    let value = |index: u16| match atomic.bank {
        Bank::Double => warp.regs.d[usize::from(index)][lane],
        _ => u64::from(warp.regs.r[usize::from(index)][lane]),
    };
    let (a, b) = (value(atomic.a[n]), atomic.b.map_or(0, value));
    let update = |old: u64| (atomic.op.f)(old, a, b);
    let (site, size) = ((pc, lane), atomic.op.bytes as usize);
    let order = (atomic.order, atomic.scope);
    let (old, new) = match resolve(atomic.address.space, warp.rank, address) {
        Target::Global(address) => {
            on_global(warp, m, site, address, (size, order), update)?
        }
        Target::Shared(rank, offset) => {
            on_shared(warp, m, site, (rank, offset), (size, order), update)?
        }
        Target::Local(_) | Target::Param(_) => {
            let detail = "an atomic needs an address in global or shared memory";
            let kind = FindingKind::OutOfBounds;
            return m.stop_at(kind, warp, pc, lane, (address, None), detail);
        }
    };
    *changed |= new != old;
    Ok(old)
}

/// Replaces a value in global memory; gives the old and the new one.
fn on_global(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    address: u64,
    (size, (order, scope)): (usize, (Order, Scope)),
    update: impl Fn(u64) -> u64,
) -> Step<(u64, u64)> {
    let mut bytes = [0; 8];
    let place = global(warp, m, site, address, size as u64)?;
    let found = &m.run.memory.allocations[place.0];
    if !found.is_written(place.1, size as u64) {
        uninitialised(warp, m, site, address);
    }
    found.read(place.1, &mut bytes[..size]);
    let old = u64::from_le_bytes(bytes);
    let new = update(old);
    found.write(place.1, &new.to_le_bytes()[..size]);
    m.counts.global_atomics += 1;
    let sector = place.1 / 32;
    m.touch(place.0, sector, false);
    m.touch(place.0, sector, true);
    note_global_write(warp, m, site, place, size as u64, Manner::Strong(scope));
    let run = m.run;
    run.races.observe(address, &mut warp.clock, (scope, order.acquires()));
    run.races.publish(address, (&warp.clock, site.1), scope);
    Ok((old, new))
}

/// Replaces a value in shared memory; gives the old and the new one.
fn on_shared(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    (rank, offset): (usize, u64),
    (size, order): (usize, (Order, Scope)),
    update: impl Fn(u64) -> u64,
) -> Step<(u64, u64)> {
    let mut bytes = [0; 8];
    let at = shared(warp, m, site, (rank, offset), size as u64)?;
    let memory = &mut m.blocks[rank].shared;
    bytes[..size].copy_from_slice(memory.get(at, size));
    let written = memory.is_written(at, size);
    let old = u64::from_le_bytes(bytes);
    let new = update(old);
    let who = Who { clock: &warp.clock, lane: site.1, strong: true, proxy: false };
    let found = memory.on_write(at, size, who, true);
    memory.put(at, &new.to_le_bytes()[..size], true);
    observe_shared(warp, m, (rank, at), order);
    publish_shared((warp, site.1), m, (rank, at), order.1);
    if !written {
        uninitialised(warp, m, site, offset);
    }
    if let Some(found) = found {
        conflict(warp, m, site, offset, found);
    }
    Ok((old, new))
}

#[cold]
fn uninitialised(warp: &Warp, m: &mut Machine<'_>, (pc, lane): (u32, usize), address: u64) {
    m.note(FindingKind::Uninitialised, warp, pc, lane, None, || {
        format!("an atomic on never-written bytes at {address:#x}")
    });
}
