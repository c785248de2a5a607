//! Tensor maps that the kernel itself writes.

use crate::bank::Bank;
use crate::check::{Accessor, Manner, Span};
use crate::exec::access::{Target, addresses, aligned, conflict, global, resolve, shared};
use crate::exec::memory::{store_global, store_shared};
use crate::exec::step::values;
use crate::finding::FindingKind;
use crate::instruction::{Address, MapField, Order, Scope};
use crate::lanes::lanes;
use crate::machine::{Machine, Step};
use crate::maps::Stale;
use crate::shared::Who;
use crate::tensor_map;
use crate::warp::Warp;

/// `fence.proxy.tensormap::generic.release`.
pub(crate) fn release(warp: &mut Warp, is_global: bool, active: u32) {
    warp.clock.fence_proxy((false, true), warp.together(active));
    memory_fence(warp, is_global, active);
}

fn memory_fence(warp: &mut Warp, is_global: bool, active: u32) {
    let scope = if is_global { Scope::Gpu } else { Scope::Block };
    warp.clock.fence(scope, (true, true), warp.together(active));
}

/// `fence.proxy.tensormap::generic.acquire`. Maps that are parameters do not change.
pub(crate) fn acquire(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    (map, is_global): (&Address, bool),
    active: u32,
    pc: u32,
) -> Step {
    memory_fence(warp, is_global, active);
    let row = addresses(warp, m, map, active, pc);
    for lane in lanes(active) {
        aligned(warp, m, (pc, lane), row[lane], 64)?;
        match resolve(map.space, warp.rank, row[lane]) {
            Target::Global(address) => {
                let place = global(warp, m, (pc, lane), address, 128)?;
                m.run.maps.acquire(&m.run.races, place, &warp.clock);
            }
            Target::Param(_) => {}
            Target::Shared(..) | Target::Local(_) => {
                let text = "the tensor map of the fence is not in global memory";
                return m.stop(FindingKind::BadOperand, warp, pc, lane, text);
            }
        }
    }
    warp.clock.tick();
    Ok(())
}

/// A copy uses the map at a place of global memory.
pub(crate) fn used(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, lane): (u32, usize),
    (allocation, offset): (usize, u64),
) {
    let (run, clock) = (m.run, &warp.clock);
    let stale = run.maps.stale(&run.races, (allocation, offset), clock);
    // For writes that come later; those that came before are told of here.
    let by = Accessor { clock, lane, manner: Manner::Weak };
    let _ = run.races.on_read(Span::of_lane((allocation, offset), 128), by);
    let Some(stale) = stale else { return };
    let (kind, text) = match stale {
        Stale::Unordered => (
            FindingKind::GlobalRace,
            "the launch wrote this tensor map, and nothing orders the copy after that",
        ),
        Stale::Unreleased => (
            FindingKind::MissingProxyFence,
            "the launch wrote this tensor map, and no fence.proxy.tensormap::generic.release \
             or tensormap.cp_fenceproxy came after that",
        ),
        Stale::Unacquired => (
            FindingKind::MissingProxyFence,
            "the launch wrote this tensor map, and no fence.proxy.tensormap::generic.acquire \
             of its address came between that and the copy",
        ),
    };
    let found = &run.memory.allocations[allocation];
    let place = Some((found.base + offset, found.name.clone()));
    m.note(kind, warp, pc, lane, place, || text.to_owned());
}

/// `tensormap.cp_fenceproxy`: the warp's first lane copies for all.
pub(crate) fn copy(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    (to, from, is_global): (&Address, &Address, bool),
    active: u32,
    pc: u32,
) -> Step {
    let lane = active.trailing_zeros() as usize;
    let (to_row, from_row) =
        (addresses(warp, m, to, active, pc), addresses(warp, m, from, active, pc));
    let first = (to_row[lane], from_row[lane]);
    if lanes(active).any(|lane| (to_row[lane], from_row[lane]) != first) {
        let text = "the lanes of the warp give different addresses of tensor maps";
        return m.stop(FindingKind::BadOperand, warp, pc, lane, text);
    }
    aligned(warp, m, (pc, lane), to_row[lane], 128)?;
    aligned(warp, m, (pc, lane), from_row[lane], 128)?;
    let (rank, offset) = match resolve(from.space, warp.rank, from_row[lane]) {
        Target::Shared(rank, offset) => (rank, offset),
        _ => {
            let text = "the source is not in shared memory";
            return m.stop(FindingKind::BadOperand, warp, pc, lane, text);
        }
    };
    let at = shared(warp, m, (pc, lane), (rank, offset), 128)?;
    let place = global(warp, m, (pc, lane), to_row[lane], 128)?;
    let who = Who { clock: &warp.clock, lane, strong: false, proxy: false };
    if let Some(found) = m.blocks[rank].shared.on_read(at, 128, who) {
        conflict(warp, m, (pc, lane), offset, found);
    }
    let bytes = m.blocks[rank].shared.get(at, 128).to_vec();
    for (n, part) in bytes.chunks(32).enumerate() {
        let place = (place.0, place.1 + 32 * n as u64);
        store_global(warp, m, (pc, lane), place, part, Manner::Weak);
    }
    m.counts.global_write_bytes += 128;
    release(warp, is_global, active);
    m.progressed();
    Ok(())
}

/// `tensormap.replace`.
pub(crate) fn replace(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    (map, field, value): (&Address, MapField, u16),
    active: u32,
    pc: u32,
) -> Step {
    let row = addresses(warp, m, map, active, pc);
    let bank = if field.wide { Bank::Double } else { Bank::Word };
    let given = values(warp, bank, value);
    for lane in lanes(active) {
        let site = (pc, lane);
        aligned(warp, m, site, row[lane], 128)?;
        let value = match field.wide {
            true => given[lane],
            false => given[lane] & 0xffff_ffff,
        };
        if value > field.most {
            let text = format!("the value {value} of a tensor map's field is not possible");
            return m.stop(FindingKind::BadOperand, warp, pc, lane, text);
        }
        let value = match field.offset {
            tensor_map::ELEMENT_AT => tensor_map::element_number(value),
            _ => value + u64::from(field.add),
        };
        let bytes = value.to_le_bytes();
        let bytes = &bytes[..usize::from(field.bytes)];
        let at = u64::from(field.offset);
        match resolve(map.space, warp.rank, row[lane]) {
            Target::Global(address) => {
                let place = global(warp, m, site, address + at, u64::from(field.bytes))?;
                store_global(warp, m, site, place, bytes, Manner::Weak);
            }
            Target::Shared(rank, offset) => {
                let order = (Order::Weak, Scope::Block);
                store_shared(warp, m, site, (rank, offset + at), (bytes, true), order)?;
            }
            Target::Param(_) | Target::Local(_) => {
                let text = "a tensor map must be replaced in global or shared memory";
                return m.stop(FindingKind::BadOperand, warp, pc, lane, text);
            }
        }
    }
    m.progressed();
    Ok(())
}
