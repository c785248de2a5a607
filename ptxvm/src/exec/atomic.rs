//! Read-modify-write on memory.

use crate::bank::Bank;
use crate::check::Manner;
use crate::exec::access::{Target, addresses, aligned, conflict, global, resolve, shared};
use crate::exec::step::{Next, report_undefined};
use crate::instruction::Atomic;
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
        warp.clock.fence_global();
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
    let size = atomic.op.bytes as usize;
    let mut bytes = [0; 8];
    match resolve(atomic.address.space, warp.rank, address) {
        Target::Global(address) => {
            let place = global(warp, m, (pc, lane), address, size as u64)?;
            let found = &m.run.memory.allocations[place.0];
            if !found.is_written(place.1, size as u64) {
                uninitialised(warp, m, pc, lane, address);
            }
            found.read(place.1, &mut bytes[..size]);
            let old = u64::from_le_bytes(bytes);
            let new = (atomic.op.f)(old, a, b);
            found.write(place.1, &new.to_le_bytes()[..size]);
            *changed |= new != old;
            m.counts.global_atomics += 1;
            let sector = place.1 / 32;
            m.touch(place.0, sector, false);
            m.touch(place.0, sector, true);
            crate::exec::access::note_global_write(
                warp,
                m,
                (pc, lane),
                place,
                size as u64,
                Manner::Strong,
            );
            let run = m.run;
            run.races.observe(address, &mut warp.clock, atomic.order.acquires());
            run.races.publish(address, &warp.clock);
            Ok(old)
        }
        Target::Shared(rank, offset) => {
            let at = shared(warp, m, (pc, lane), (rank, offset), size as u64)?;
            let memory = &mut m.blocks[rank].shared;
            bytes[..size].copy_from_slice(memory.get(at, size));
            let written = memory.is_written(at, size);
            let old = u64::from_le_bytes(bytes);
            let new = (atomic.op.f)(old, a, b);
            let who = Who { clock: &warp.clock, lane, strong: true, proxy: false };
            let found = memory.on_write(at, size, who, true);
            memory.put(at, &new.to_le_bytes()[..size], true);
            *changed |= new != old;
            if let Some(published) = m.blocks[rank].published.get(&(at as u32)) {
                warp.clock.observe(published, atomic.order.acquires());
            }
            crate::exec::access::publish_shared(warp, m, (rank, at));
            if !written {
                uninitialised(warp, m, pc, lane, offset);
            }
            if let Some(found) = found {
                conflict(warp, m, (pc, lane), offset, found);
            }
            Ok(old)
        }
        Target::Local(_) | Target::Param(_) => m.stop_at(
            crate::finding::FindingKind::OutOfBounds,
            warp,
            pc,
            lane,
            (address, None),
            "atomics work on global and shared memory only",
        ),
    }
}

#[cold]
fn uninitialised(warp: &Warp, m: &mut Machine<'_>, pc: u32, lane: usize, address: u64) {
    let kind = crate::finding::FindingKind::Uninitialised;
    m.note(kind, warp, pc, lane, None, || {
        format!("an atomic on never-written bytes at {address:#x}")
    });
}
