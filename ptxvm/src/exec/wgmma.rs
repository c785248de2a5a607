//! wgmma: asynchronous matrix products of tiles in shared memory.
//!
//! Each of a warpgroup's four warps computes 16 of the 64 rows. Values are computed when
//! the instruction is issued, but until the wait for their group the accumulators count as
//! undefined, and the tiles in shared memory as being read.

use crate::bank::Bank;
use crate::exec::access::{conflict, within_block};
use crate::exec::step::{Next, report_undefined};
use crate::finding::FindingKind;
use crate::flight::WgmmaFlight;
use crate::instruction::{Accumulator, Element, Wgmma, WgmmaA};
use crate::lanes::{LANES, Origin, lanes};
use crate::machine::{Machine, Step};
use crate::shared::{WHOLE_WARP, Who};
use crate::tensor_map::Swizzle;
use crate::warp::Warp;

/// A matrix descriptor's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptor {
    start: u32,
    leading: u32,
    stride: u32,
    swizzle: Swizzle,
}

impl Descriptor {
    /// The fields of `bits`, or what is not implemented about them.
    pub(crate) fn decode(bits: u64) -> Result<Self, String> {
        let field = |shift: u32| ((bits >> shift & 0x3fff) << 4) as u32;
        if bits >> 49 & 7 != 0 {
            return Err(
                "a base offset in a matrix descriptor is not implemented".to_owned()
            );
        }
        Ok(Self {
            start: field(0),
            leading: field(16),
            stride: field(32),
            // The codes have the reverse order of a tensor map's.
            swizzle: match bits >> 62 {
                0 => Swizzle::None,
                1 => Swizzle::Bytes128,
                2 => Swizzle::Bytes64,
                _ => Swizzle::Bytes32,
            },
        })
    }

    /// Bytes of a row of the swizzle pattern.
    fn row(self) -> u32 {
        match self.swizzle {
            Swizzle::None => 16,
            Swizzle::Bytes32 => 32,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes128 => 128,
        }
    }

    /// The address of an element of `size` bytes. `major` is the index along the dimension
    /// that is contiguous in memory for transposed operands (rows of A, columns of B), `k`
    /// the index along the sum. The layouts are the canonical ones of the ISA.
    pub(crate) fn place(self, major: u32, k: u32, size: u32, transposed: bool) -> u32 {
        let (row, per) = (self.row(), 16 / size);
        let offset = if !transposed {
            let chunk = match self.swizzle {
                Swizzle::None => k / per * self.leading,
                _ => k / per * 16,
            };
            major % 8 * row + major / 8 * self.stride + chunk + k % per * size
        } else {
            let span = row / size;
            let (inner, outer) = (major % span * size, major / span);
            match self.swizzle {
                Swizzle::None => {
                    inner + outer * self.stride + k % 8 * row + k / 8 * self.leading
                }
                _ => inner + outer * self.leading + k % 8 * row + k / 8 * self.stride,
            }
        };
        self.swizzle.apply(self.start + offset)
    }
}

/// All four warps of a warpgroup must take part in each product.
pub(crate) fn check_groups(warps: &[Warp], m: &mut Machine<'_>) {
    let per_block = m.blocks.first().map_or(1, |block| block.warps.max(1));
    for group in warps.chunks(per_block).flat_map(|block| block.chunks(4)) {
        let issued = |warp: &Warp| warp.wgmma.issued.0;
        let most = group.iter().map(issued).max().unwrap_or(0);
        let whole = group.len() == 4 && group.iter().all(|warp| issued(warp) == most);
        if let (false, Some(warp)) = (whole, group.iter().find(|warp| issued(warp) > 0)) {
            let each: Vec<_> = group.iter().map(issued).collect();
            let pc = warp.wgmma.issued.1;
            m.note(FindingKind::BarrierDivergence, warp, pc, 0, None, || {
                format!("the warps of the warpgroup issued {each:?} products")
            });
        }
    }
}

/// `wgmma.fence`.
pub(crate) fn fence(warp: &mut Warp) {
    warp.wgmma.fenced = true;
}

/// `wgmma.commit_group`.
pub(crate) fn commit(warp: &mut Warp) {
    warp.wgmma.committed += 1;
}

/// `wgmma.wait_group`: all groups except the last `pending` are complete.
pub(crate) fn wait(warp: &mut Warp, m: &mut Machine<'_>, pending: u32) {
    let done = warp.wgmma.committed.saturating_sub(u64::from(pending));
    let mut flights = std::mem::take(&mut warp.wgmma.flights);
    let mut retired = false;
    flights.retain(|flight| {
        let ends = flight.group < done;
        if ends {
            retired = true;
            retire(warp, m, flight);
        }
        !ends
    });
    warp.wgmma.flights = flights;
    let state = &mut warp.wgmma;
    let ready: Vec<(Bank, u16)> = warp
        .regs
        .origins
        .iter()
        .filter(|(_, origin)| matches!(origin, Origin::Wgmma { group } if *group < done))
        .map(|(&place, _)| place)
        .collect();
    for (bank, index) in ready {
        let bits = state.undefined.get(&index).copied().unwrap_or(0);
        warp.regs.undefined[bank as usize][usize::from(index)] = bits;
        warp.regs.origins.remove(&(bank, index));
    }
    if retired {
        state.fenced = false;
        m.progressed();
    }
}

fn retire(warp: &Warp, m: &mut Machine<'_>, flight: &WgmmaFlight) {
    for &chunk in &flight.chunks {
        // The tile may be read until now.
        let who = Who { clock: &warp.clock, lane: WHOLE_WARP, strong: false, proxy: false };
        let memory = &mut m.blocks[warp.rank].shared;
        memory.reading(chunk as usize, 16, false);
        if let Some(found) = memory.on_read(chunk as usize, 16, who) {
            conflict(warp, m, (flight.pc, 0), u64::from(chunk), found);
        }
    }
    let changed =
        flight.a.iter().any(|(index, row)| warp.regs.r[usize::from(*index)] != *row);
    let overwritten =
        flight.d.iter().any(|&index| warp.regs.undefined(Bank::Word, index) == 0);
    if changed || overwritten {
        let what = if changed { "A's registers were" } else { "an accumulator was" };
        m.note(FindingKind::AccumulatorInFlight, warp, flight.pc, 0, None, || {
            format!("{what} overwritten before the product was waited for")
        });
    }
}

/// Starts a product.
pub(crate) fn issue(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    op: &Wgmma,
    active: u32,
    pc: u32,
) -> Step<Next> {
    if active != u32::MAX {
        if warp.live != u32::MAX {
            let text = "wgmma needs all 32 threads of the warp, and some have returned";
            return m.stop(FindingKind::BadOperand, warp, pc, 0, text);
        }
        return Ok(Next::Meet { mask: u32::MAX });
    }
    check_fence(warp, m, op, pc);
    let mut chunks = Vec::new();
    let (a, bad_rows) = read_a(warp, m, op, pc, &mut chunks)?;
    let (b, bad_columns) = read_b(warp, m, op, pc, &mut chunks)?;
    chunks.sort_unstable();
    chunks.dedup();
    for &chunk in &chunks {
        let who = Who { clock: &warp.clock, lane: WHOLE_WARP, strong: false, proxy: true };
        let memory = &mut m.blocks[warp.rank].shared;
        let found = memory.on_read(chunk as usize, 16, who);
        memory.reading(chunk as usize, 16, true);
        if let Some(found) = found {
            conflict(warp, m, (pc, 0), u64::from(chunk), found);
        }
    }
    // B is read once for the four warps.
    let first = warp.index.is_multiple_of(4);
    let own = if matches!(op.a, WgmmaA::Descriptor(_)) { 512 } else { 0 };
    m.counts.shared_read_bytes += own + if first { 32 * op.n as u64 } else { 0 };
    let mut sums = vec![0.0; 16 * op.n];
    products(&a, &b, op.k, op.n, &mut sums);
    write_back(warp, op, &sums, bad_rows, &bad_columns);
    let a = match &op.a {
        WgmmaA::Registers(rows) => {
            rows.iter().map(|&index| (index, warp.regs.r[usize::from(index)])).collect()
        }
        WgmmaA::Descriptor(_) => Vec::new(),
    };
    warp.wgmma.issued = (warp.wgmma.issued.0 + 1, pc);
    let group = warp.wgmma.committed;
    warp.wgmma.flights.push(WgmmaFlight { group, pc, chunks, a, d: op.d.clone() });
    Ok(Next::Go)
}

/// A fence is needed between other instructions' writes to the registers and the product,
/// but not for accumulators that another product wrote last.
fn check_fence(warp: &Warp, m: &mut Machine<'_>, op: &Wgmma, pc: u32) {
    if warp.wgmma.fenced {
        return;
    }
    let same =
        |index: &u16| warp.wgmma.last.get(index) == Some(&warp.regs.r[usize::from(*index)]);
    let descriptor = matches!(op.a, WgmmaA::Descriptor(_));
    if !(descriptor && op.d.iter().all(same)) {
        m.note(FindingKind::MissingWgmmaFence, warp, pc, 0, None, || {
            "the registers were written since the last wgmma.fence".to_owned()
        });
    }
}

fn uniform(warp: &Warp, m: &mut Machine<'_>, pc: u32, index: u16) -> Step<Descriptor> {
    let row = warp.regs.d[usize::from(index)];
    let undefined = warp.regs.undefined(Bank::Double, index);
    if undefined != 0 {
        report_undefined(warp, m, pc, undefined, (Bank::Double, index), "descriptor");
    }
    if let Some(lane) = row.iter().position(|&bits| bits != row[0]) {
        let text = "the descriptor differs between the warp's threads";
        return m.stop(FindingKind::BadOperand, warp, pc, lane, text);
    }
    Descriptor::decode(row[0])
        .or_else(|text| m.stop(FindingKind::BadOperand, warp, pc, 0, text))
}

/// One element from shared memory: its value and whether it was written.
fn element(
    warp: &Warp,
    m: &Machine<'_>,
    pc: u32,
    (ty, place): (Element, u32),
    chunks: &mut Vec<u32>,
) -> Step<(f64, bool)> {
    let size = ty.bits() / 8;
    let at = within_block(warp, m, (pc, 0), (warp.rank, u64::from(place)), size as u64)?;
    let chunk = place & !15;
    if chunks.last() != Some(&chunk) {
        chunks.push(chunk);
    }
    let memory = &m.blocks[warp.rank].shared;
    let bytes = memory.get(at, size).iter().rev();
    let bits = bytes.fold(0, |all, &byte| all << 8 | u32::from(byte));
    Ok((ty.value(bits), memory.is_written(at, size)))
}

/// The warp's 16 rows of A, and a bit for each row with an undefined element.
fn read_a(
    warp: &Warp,
    m: &mut Machine<'_>,
    op: &Wgmma,
    pc: u32,
    chunks: &mut Vec<u32>,
) -> Step<(Vec<f64>, u32)> {
    let (mut a, mut bad) = (vec![0.0; 16 * op.k], 0u32);
    let sign = if op.negate_a { -1.0 } else { 1.0 };
    match &op.a {
        WgmmaA::Registers(registers) => {
            let per = 32 / op.a_ty.bits();
            for (r, &register) in registers.iter().enumerate() {
                let values = op.a_ty.expand(&warp.regs.r[usize::from(register)]);
                for (lane, values) in values.iter().enumerate() {
                    let row = lane / 4 + 8 * (r % 2);
                    let first = per * (lane % 4) + 4 * per * (r / 2);
                    for (n, &value) in values[..per].iter().enumerate() {
                        a[row * op.k + first + n] = sign * value;
                    }
                }
                let undefined = warp.regs.undefined(Bank::Word, register);
                lanes(undefined).for_each(|lane| bad |= 1 << (lane / 4 + 8 * (r % 2)));
            }
        }
        WgmmaA::Descriptor(index) => {
            let descriptor = uniform(warp, m, pc, *index)?;
            let size = (op.a_ty.bits() / 8) as u32;
            let first = 16 * (warp.index % 4) as u32;
            for row in 0..16u32 {
                for k in 0..op.k as u32 {
                    let place = descriptor.place(first + row, k, size, op.transpose_a);
                    let (value, written) = element(warp, m, pc, (op.a_ty, place), chunks)?;
                    a[row as usize * op.k + k as usize] = sign * value;
                    bad |= u32::from(!written) << row;
                }
            }
        }
    }
    Ok((a, bad))
}

/// B as k rows of n, and which columns have an undefined element.
fn read_b(
    warp: &Warp,
    m: &mut Machine<'_>,
    op: &Wgmma,
    pc: u32,
    chunks: &mut Vec<u32>,
) -> Step<(Vec<f64>, Vec<bool>)> {
    let descriptor = uniform(warp, m, pc, op.b)?;
    let (mut b, mut bad) = (vec![0.0; op.k * op.n], vec![false; op.n]);
    let sign = if op.negate_b { -1.0 } else { 1.0 };
    let size = (op.b_ty.bits() / 8) as u32;
    for n in 0..op.n {
        for k in 0..op.k {
            let place = descriptor.place(n as u32, k as u32, size, op.transpose_b);
            let (value, written) = element(warp, m, pc, (op.b_ty, place), chunks)?;
            b[k * op.n + n] = sign * value;
            bad[n] |= !written;
        }
    }
    Ok((b, bad))
}

#[multiversion::multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
fn products(a: &[f64], b: &[f64], k: usize, n: usize, sums: &mut [f64]) {
    for (sums, a) in sums.chunks_exact_mut(n).zip(a.chunks_exact(k)) {
        for (&a, b) in a.iter().zip(b.chunks_exact(n)) {
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
    }
}

fn write_back(
    warp: &mut Warp,
    op: &Wgmma,
    sums: &[f64],
    bad_rows: u32,
    bad_columns: &[bool],
) {
    let packed = op.accumulator == Accumulator::F16;
    let keep = warp.regs.p[usize::from(op.scale_d)];
    let group = warp.wgmma.committed;
    for (i, &register) in op.d.iter().enumerate() {
        // Four registers, or two of pairs, make eight columns.
        let (half, block, offset) =
            if packed { (i % 2, i / 2, 0) } else { (i / 2 % 2, i / 4, i % 2) };
        let old = warp.regs.r[usize::from(register)];
        let in_flight =
            matches!(warp.regs.origin(Bank::Word, register), Origin::Wgmma { .. });
        let mut undefined = if in_flight {
            warp.wgmma.undefined.get(&register).copied().unwrap_or(0)
        } else {
            warp.regs.undefined(Bank::Word, register)
        };
        undefined &= keep;
        let mut out = [0; LANES];
        for lane in 0..LANES {
            let row = lane / 4 + 8 * half;
            let column = 8 * block + 2 * (lane % 4) + offset;
            let old = if keep >> lane & 1 != 0 { old[lane] } else { 0 };
            let sum = |column: usize| sums[row * op.n + column];
            out[lane] = if packed {
                let low = op.accumulator.add(old & 0xffff, sum(column), false);
                let high = op.accumulator.add(old >> 16, sum(column + 1), false);
                low | high << 16
            } else {
                op.accumulator.add(old, sum(column), op.saturate)
            };
            let wide = if packed { 2 } else { 1 };
            let bad = bad_rows >> row & 1 != 0
                || bad_columns[column..column + wide].contains(&true);
            undefined |= u32::from(bad) << lane;
        }
        warp.regs.r[usize::from(register)] = out;
        warp.wgmma.last.insert(register, out);
        warp.wgmma.undefined.insert(register, undefined);
        warp.regs.set_undefined(Bank::Word, register, u32::MAX, u32::MAX);
        warp.regs.origins.insert((Bank::Word, register), Origin::Wgmma { group });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(leading: u32, stride: u32, swizzle: u64) -> Descriptor {
        let field = |bytes: u32, shift: u32| u64::from(bytes >> 4) << shift;
        let bits = field(1024, 0) | field(leading, 16) | field(stride, 32) | swizzle << 62;
        Descriptor::decode(bits).unwrap()
    }

    #[test]
    fn a_panel_of_128_byte_rows() {
        // K-major, 128-byte swizzle, 16-bit elements: rows of 64, atoms of 8 rows.
        let d = descriptor(16, 1024, 1);
        assert_eq!(d.place(0, 0, 2, false), 1024);
        assert_eq!(d.place(0, 8, 2, false), 1024 + 16);
        assert_eq!(d.place(1, 0, 2, false), 1024 + 128 + 16);
        assert_eq!(d.place(3, 9, 2, false), 1024 + 3 * 128 + ((1 ^ 3) * 16) + 2);
        assert_eq!(d.place(9, 0, 2, false), 1024 + 1024 + 128 + 16);
    }

    #[test]
    fn rows_without_a_swizzle() {
        // Core matrices of 8 rows of 16 bytes; the leading offset goes along k.
        let d = descriptor(128, 256, 0);
        assert_eq!(d.place(5, 3, 2, false), 1024 + 5 * 16 + 6);
        assert_eq!(d.place(5, 11, 2, false), 1024 + 128 + 5 * 16 + 6);
        assert_eq!(d.place(13, 3, 2, false), 1024 + 256 + 5 * 16 + 6);
    }

    #[test]
    fn a_transposed_panel() {
        // Rows of 128 bytes with 64 columns of 16 bits, 8 rows in an atom.
        let d = descriptor(8192, 1024, 1);
        assert_eq!(d.place(8, 0, 2, true), 1024 + 16);
        assert_eq!(d.place(0, 1, 2, true), 1024 + 128 + 16);
        assert_eq!(d.place(0, 8, 2, true), 1024 + 1024);
        assert_eq!(d.place(64, 0, 2, true), 1024 + 8192);
    }
}
