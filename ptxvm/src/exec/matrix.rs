//! Matrix fragments: `ldmatrix`, `stmatrix`, `movmatrix` and `mma`.
//!
//! In every fragment of the PTX ISA four neighbouring lanes share a row. With
//! `row = lane / 4` and `quad = lane % 4`, register r of A holds row
//! `row + 8 * (r % 2)` and, with `per` elements in a register, the columns from
//! `per * quad + 4 * per * (r / 2)` on; B is the same with columns for rows and no
//! second half; C and D hold two neighbouring columns in a pair of registers.

use crate::bank::Bank;
use crate::exec::access::{
    Target, addresses, aligned, conflict, count_shared, resolve, shared,
};
use crate::exec::step::Next;
use crate::exec::tile::{add, place_b, products};
use crate::finding::FindingKind;
use crate::instruction::{Accumulator, Element, LdMatrix, Mma};
use crate::lanes::{LANES, Origin, lanes};
use crate::machine::{Machine, Step};
use crate::shared::{WHOLE_WARP, Who};
use crate::warp::Warp;

/// The offsets of the matrices' rows, from the lanes' addresses.
fn matrix_rows(
    warp: &Warp,
    m: &mut Machine<'_>,
    op: &LdMatrix,
    active: u32,
    pc: u32,
) -> Step<Vec<usize>> {
    let rows = 8 * op.registers.len();
    let first = if rows == 32 { u32::MAX } else { (1 << rows) - 1 };
    let row = addresses(warp, m, &op.address, active & first, pc);
    let mut places = Vec::with_capacity(rows);
    for (lane, &address) in row.iter().enumerate().take(rows) {
        if active >> lane & 1 == 0 {
            let detail = "a lane that gives an address does not take part";
            return m.stop(FindingKind::BadOperand, warp, pc, lane, detail);
        }
        aligned(warp, m, (pc, lane), address, 16)?;
        let Target::Shared(rank, offset) = resolve(op.address.space, warp.rank, address)
        else {
            let detail = "the address is not in shared memory";
            return m.stop(FindingKind::BadOperand, warp, pc, lane, detail);
        };
        places.push(shared(warp, m, (pc, lane), (rank, offset), 16)?);
    }
    Ok(places)
}

fn count_rows(m: &mut Machine<'_>, places: &[usize], write: bool) {
    for matrix in places.chunks(8) {
        let banks: Vec<u32> = matrix.iter().map(|&place| place as u32).collect();
        count_shared(m, &banks, 16, write);
    }
}

pub(crate) fn load(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    op: &LdMatrix,
    active: u32,
    pc: u32,
) -> Step<Next> {
    if active != warp.live {
        return Ok(Next::Meet { mask: warp.live });
    }
    let places = matrix_rows(warp, m, op, active, pc)?;
    for (lane, &place) in places.iter().enumerate() {
        let who = Who { clock: &warp.clock, lane: WHOLE_WARP, strong: false, proxy: false };
        let memory = &mut m.blocks[warp.rank].shared;
        if let Some(found) = memory.on_read(place, 16, who) {
            conflict(warp, m, (pc, lane), place as u64, found);
        }
    }
    for (n, &register) in op.registers.iter().enumerate() {
        let memory = &m.blocks[warp.rank].shared;
        let half = |row: usize, column: usize| {
            let at = places[8 * n + row] + 2 * column;
            let bytes = memory.get(at, 2);
            let value = u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
            (value, memory.is_written(at, 2))
        };
        let mut undefined = None;
        for lane in lanes(active) {
            let (row, pair) = (lane / 4, 2 * (lane % 4));
            let (low, high) = if op.transpose {
                (half(pair, row), half(pair + 1, row))
            } else {
                (half(row, pair), half(row, pair + 1))
            };
            warp.regs.r[usize::from(register)][lane] = low.0 | high.0 << 16;
            let bad = !(low.1 && high.1);
            warp.regs.set_undefined(
                Bank::Word,
                register,
                u32::from(bad) << lane,
                1 << lane,
            );
            if bad && undefined.is_none() {
                undefined = Some(places[8 * n + if op.transpose { pair } else { row }]);
            }
        }
        if let Some(address) = undefined {
            let origin = Origin::Load { pc, address: address as u64 };
            warp.regs.origins.insert((Bank::Word, register), origin);
        }
    }
    count_rows(m, &places, false);
    Ok(Next::Go)
}

pub(crate) fn store(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    op: &LdMatrix,
    active: u32,
    pc: u32,
) -> Step<Next> {
    if active != warp.live {
        return Ok(Next::Meet { mask: warp.live });
    }
    let places = matrix_rows(warp, m, op, active, pc)?;
    for (n, &register) in op.registers.iter().enumerate() {
        for lane in lanes(active) {
            let value = warp.regs.r[usize::from(register)][lane];
            let defined = warp.regs.undefined(Bank::Word, register) >> lane & 1 == 0;
            let (row, pair) = (lane / 4, 2 * (lane % 4));
            for half in 0..2 {
                let bytes = ((value >> (16 * half)) as u16).to_le_bytes();
                let at = if op.transpose {
                    places[8 * n + pair + half] + 2 * row
                } else {
                    places[8 * n + row] + 2 * (pair + half)
                };
                let memory = &mut m.blocks[warp.rank].shared;
                memory.put(at, &bytes, defined);
            }
        }
    }
    for (lane, &place) in places.iter().enumerate() {
        let who = Who { clock: &warp.clock, lane: WHOLE_WARP, strong: false, proxy: false };
        let memory = &mut m.blocks[warp.rank].shared;
        if let Some(found) = memory.on_write(place, 16, who, true) {
            conflict(warp, m, (pc, lane), place as u64, found);
        }
    }
    count_rows(m, &places, true);
    m.progressed();
    Ok(Next::Go)
}

/// `movmatrix`: an 8x8 matrix transposed in registers.
pub(crate) fn transpose(warp: &mut Warp, d: u16, a: u16, active: u32) -> Step<Next> {
    if active != warp.live {
        return Ok(Next::Meet { mask: warp.live });
    }
    let row = warp.regs.r[usize::from(a)];
    let element = |r: usize, c: usize| row[4 * r + c / 2] >> (16 * (c % 2)) & 0xffff;
    let bad = warp.regs.undefined(Bank::Word, a);
    for lane in lanes(active) {
        let (r, c) = (lane / 4, 2 * (lane % 4));
        warp.regs.r[usize::from(d)][lane] = element(c, r) | element(c + 1, r) << 16;
    }
    let undefined = if bad & active != 0 { active } else { 0 };
    warp.regs.set_undefined(Bank::Word, d, undefined, active);
    if undefined != 0 {
        warp.regs.taint((Bank::Word, d), &[(Bank::Word, a)], false);
    }
    Ok(Next::Go)
}

/// The largest `k` of any product here.
const MAX_K: usize = 32;

/// A product's operands as values, as [`products`] takes them, and which rows and columns
/// are undefined.
struct Tiles {
    a: [f64; 16 * MAX_K],
    b: [f64; 8 * MAX_K],
    bad_rows: u32,
    bad_columns: u32,
}

pub(crate) fn multiply(warp: &mut Warp, op: &Mma, active: u32) -> Step<Next> {
    if active != warp.live {
        return Ok(Next::Meet { mask: warp.live });
    }
    if op.a_ty == Element::F64 {
        multiply_f64(warp, op);
        return Ok(Next::Go);
    }
    let mut tiles =
        Tiles { a: [0.0; 16 * MAX_K], b: [0.0; 8 * MAX_K], bad_rows: 0, bad_columns: 0 };
    fill(warp, op, &mut tiles);
    let mut sums = [0.0; 4 * LANES];
    products(&tiles.a[..16 * op.k], &tiles.b[..8 * op.k], (op.k, 8), &mut sums);
    write_back(warp, op, &tiles, &sums);
    Ok(Next::Go)
}

fn fill(warp: &Warp, op: &Mma, tiles: &mut Tiles) {
    let (halves, per) = (op.m / 8, 32 / op.a_ty.bits());
    for (r, &register) in op.a.iter().enumerate() {
        let values = op.a_ty.expand(&warp.regs.r[usize::from(register)]);
        let step = 4 * per * (r / halves);
        for (lane, values) in values.iter().enumerate() {
            let row = lane / 4 + 8 * (r % halves);
            let first = row * op.k + per * (lane % 4) + step;
            tiles.a[first..first + per].copy_from_slice(&values[..per]);
        }
        let bad = warp.regs.undefined(Bank::Word, register);
        lanes(bad).for_each(|lane| tiles.bad_rows |= 1 << (lane / 4 + 8 * (r % halves)));
    }
    for (r, &register) in op.b.iter().enumerate() {
        let values = op.b_ty.expand(&warp.regs.r[usize::from(register)]);
        for (lane, values) in values.iter().enumerate() {
            let first = place_b(lane / 4, per * (lane % 4) + 4 * per * r, op.k);
            for (n, &value) in values[..per].iter().enumerate() {
                tiles.b[first + 8 * n] = value;
            }
        }
        let bad = warp.regs.undefined(Bank::Word, register);
        lanes(bad).for_each(|lane| tiles.bad_columns |= 1 << (lane / 4));
    }
}

fn write_back(warp: &mut Warp, op: &Mma, tiles: &Tiles, sums: &[f64; 4 * LANES]) {
    // All of C is read before D is written: they may be the same registers.
    let mut old = [([0; LANES], 0); 4];
    for (old, &c) in old.iter_mut().zip(&op.c) {
        *old = (warp.regs.r[usize::from(c)], warp.regs.undefined(Bank::Word, c));
    }
    for (n, (&register, (row, undefined))) in op.d.iter().zip(&old).enumerate() {
        let undefined = undefined | bad_lanes(op, tiles, n);
        let row = add((op.accumulator, op.saturate), n, row, sums);
        warp.regs.r[usize::from(register)] = row;
        warp.regs.set_undefined(Bank::Word, register, undefined, u32::MAX);
        if undefined != 0 {
            taint(warp, op, register);
        }
    }
}

/// The lanes of register `n` of D whose row of A or column of B is undefined.
fn bad_lanes(op: &Mma, tiles: &Tiles, n: usize) -> u32 {
    if tiles.bad_rows == 0 && tiles.bad_columns == 0 {
        return 0;
    }
    let packed = op.accumulator == Accumulator::F16;
    let (half, offset) = if packed { (n, 0) } else { (n / 2, n % 2) };
    let bad = |lane: usize| {
        let (row, column) = (lane / 4 + 8 * half, 2 * (lane % 4) + offset);
        let columns = if packed { 3 << column } else { 1 << column };
        tiles.bad_rows >> row & 1 != 0 || tiles.bad_columns & columns != 0
    };
    (0..LANES).fold(0, |lanes, lane| lanes | u32::from(bad(lane)) << lane)
}

#[cold]
fn taint(warp: &mut Warp, op: &Mma, register: u16) {
    let from: Vec<_> =
        op.a.iter().chain(&op.b).chain(&op.c).map(|&index| (Bank::Word, index)).collect();
    warp.regs.taint((Bank::Word, register), &from, false);
}

/// m8n8k4 in f64: a lane has one element of A, one of B and two of C.
fn multiply_f64(warp: &mut Warp, op: &Mma) {
    let row = |index: u16| warp.regs.d[usize::from(index)].map(f64::from_bits);
    let (a, b) = (row(op.a[0]), row(op.b[0]));
    let old = [row(op.c[0]), row(op.c[1])];
    for (n, &register) in op.d.iter().enumerate() {
        for (lane, &old) in old[n].iter().enumerate() {
            let (r, c) = (lane / 4, 2 * (lane % 4) + n);
            let sum = (0..4).fold(old, |sum, k| a[4 * r + k].mul_add(b[4 * c + k], sum));
            warp.regs.d[usize::from(register)][lane] = sum.to_bits();
        }
        let from = [op.a[0], op.b[0], op.c[n]].map(|index| (Bank::Double, index));
        warp.regs.carry((Bank::Double, register), &from, u32::MAX);
    }
}
