//! Read-modify-write on memory.

use crate::check::Manner;
use crate::decode::Type;
use crate::exec::Next;
use crate::exec::memory::{Target, addresses, aligned, conflict, global, resolve, shared};
use crate::exec::report_undefined;
use crate::float::{BF16, Rounding, bf16_to_f32, f16_to_f32, f32_to_f16};
use crate::instruction::{Address, Order};
use crate::lanes::lanes;
use crate::machine::{Machine, Step};
use crate::shared::Who;
use crate::syntax::Bank;
use crate::warp::Warp;

/// What is done to the old value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AtomicOp {
    /// Old value, operand, and `cas`'s new value.
    f: fn(u64, u64, u64) -> u64,
    bytes: u64,
}

impl PartialEq for AtomicOp {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::fn_addr_eq(self.f, other.f) && self.bytes == other.bytes
    }
}

/// An `atom` or `red`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Atomic {
    pub op: AtomicOp,
    pub address: Address,
    /// Empty for `red`.
    pub d: Vec<u16>,
    pub a: Vec<u16>,
    pub b: Option<u16>,
    pub bank: Bank,
    pub order: Order,
}

fn f32_add(a: u64, b: u64) -> u64 {
    let sum = f32::from_bits(a as u32) + f32::from_bits(b as u32);
    u64::from(sum.to_bits())
}

fn f16_add(a: u64, b: u64) -> u64 {
    u64::from(f32_to_f16(f16_to_f32(a as u16) + f16_to_f32(b as u16)))
}

fn bf16_add(a: u64, b: u64) -> u64 {
    let sum = f64::from(bf16_to_f32(a as u16)) + f64::from(bf16_to_f32(b as u16));
    BF16.encode(sum, Rounding::Nearest, false)
}

impl AtomicOp {
    /// The operation `name` on values of type `ty`.
    pub(crate) fn parse(name: &str, ty: Type) -> Option<Self> {
        use Type::*;
        let f: fn(u64, u64, u64) -> u64 = match (name, ty) {
            ("and", B32 | B64) => |a, b, _| a & b,
            ("or", B32 | B64) => |a, b, _| a | b,
            ("xor", B32 | B64) => |a, b, _| a ^ b,
            ("exch", B32 | B64) => |_, b, _| b,
            ("cas", B16 | B32 | B64) => |a, b, c| if a == b { c } else { a },
            ("add", U32 | S32 | U64 | S64) => |a, b, _| a.wrapping_add(b),
            ("inc", U32) => |a, b, _| if a >= b { 0 } else { a + 1 },
            ("dec", U32) => |a, b, _| if a == 0 || a > b { b } else { a - 1 },
            ("min", U32 | U64) => |a, b, _| a.min(b),
            ("max", U32 | U64) => |a, b, _| a.max(b),
            ("min", S32) => |a, b, _| (a as i32).min(b as i32) as u32 as u64,
            ("max", S32) => |a, b, _| (a as i32).max(b as i32) as u32 as u64,
            ("min", S64) => |a, b, _| (a as i64).min(b as i64) as u64,
            ("max", S64) => |a, b, _| (a as i64).max(b as i64) as u64,
            ("add", F32) => |a, b, _| f32_add(a, b),
            ("add", F64) => |a, b, _| (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
            ("add", F16) => |a, b, _| f16_add(a, b),
            ("add", BF16) => |a, b, _| bf16_add(a, b),
            ("add", F16x2) => {
                |a, b, _| f16_add(a & 0xffff, b & 0xffff) | f16_add(a >> 16, b >> 16) << 16
            }
            ("add", BF16x2) => |a, b, _| {
                bf16_add(a & 0xffff, b & 0xffff) | bf16_add(a >> 16, b >> 16) << 16
            },
            _ => return None,
        };
        Some(Self { f, bytes: u64::from(ty.bits() / 8) })
    }
}

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
            crate::exec::memory::note_global_write(
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
            crate::exec::memory::publish_shared(warp, m, (rank, at));
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
