//! wgmma: asynchronous matrix products of tiles in shared memory.
//!
//! A product is one operation of a warpgroup's four warps, each of which has 16 of the 64
//! rows. It begins when the last of them has issued it; until then the others wait at
//! the instruction, so that its sums can be put into the registers of all four, where
//! moves take them along. Until a warp's own wait its accumulators count as undefined.
//! Shared memory is read by the warpgroup as a whole: from the beginning of the product
//! until one warp has waited for it, whichever that is. For a later write it is enough to
//! be ordered after that warp's wait. Products do not order the warps among themselves.

use crate::bank::Bank;
use crate::exec::access::{conflict, within_block};
use crate::exec::step::{Next, report_undefined};
use crate::exec::tile::{CHUNK, Descriptor, Operand, add};
use crate::finding::FindingKind;
use crate::flight::{Accumulated, GROUP, Request, Warpgroup, WgmmaFlight};
use crate::instruction::{Accumulator, Op, Wgmma, WgmmaA};
use crate::lanes::{LANES, Origin, lanes};
use crate::machine::{Machine, Step};
use crate::shared::{WHOLE_WARP, Who};
use crate::warp::{Wait, Warp};

/// The warpgroup of a warp.
fn group<'m>(warp: &Warp, m: &'m mut Machine<'_>) -> &'m mut Warpgroup {
    &mut m.blocks[warp.rank].warpgroups[warp.index / GROUP]
}

/// The wgmma at `pc`.
fn product<'l>(m: &Machine<'l>, pc: u32) -> Option<&'l Wgmma> {
    match &m.instruction(pc).op {
        Op::Wgmma(op) => Some(op),
        _ => None,
    }
}

/// Whether product `number` of the warpgroup of this block's warp has begun.
pub(crate) fn has_begun(
    m: &Machine<'_>,
    (rank, warp): (usize, usize),
    number: u64,
) -> bool {
    m.blocks[rank].warpgroups[warp / GROUP].begun >= number
}

/// The warps of the block that have not issued product `number` of their warpgroup.
pub(crate) fn missing(
    m: &Machine<'_>,
    (rank, warp): (usize, usize),
    number: u64,
) -> Vec<usize> {
    let first = warp / GROUP * GROUP;
    let issued = &m.blocks[rank].warpgroups[warp / GROUP].issued;
    (0..GROUP).filter(|&n| issued[n] < number).map(|n| first + n).collect()
}

/// Threads return. A warp that returns leaves no product to its warpgroup.
pub(crate) fn before_exit(warp: &Warp, m: &mut Machine<'_>, active: u32) -> Step {
    if active != warp.live {
        return Ok(());
    }
    let own = warp.index % GROUP;
    let group = group(warp, m);
    group.gone[own] = true;
    let Some(request) = &group.next else { return Ok(()) };
    let (pc, other, number) = (request.pc, request.warp, group.issued[own]);
    if number > group.begun {
        return Ok(());
    }
    let text = format!(
        "a wgmma is one operation of the four warps of a warpgroup: warp {other} issued it, \
         and warp {} has returned",
        warp.index
    );
    m.stop(FindingKind::BadOperand, warp, pc, 0, text)
}

/// Instructions that all threads of a warp execute together.
fn apart(warp: &Warp, active: u32) -> Option<Next> {
    (active != warp.live).then_some(Next::Meet { mask: warp.live })
}

/// `wgmma.fence`.
pub(crate) fn fence(warp: &mut Warp, active: u32) -> Next {
    if let Some(next) = apart(warp, active) {
        return next;
    }
    warp.wgmma.fenced = true;
    Next::Go
}

/// `wgmma.commit_group`.
pub(crate) fn commit(warp: &mut Warp, active: u32) -> Next {
    if let Some(next) = apart(warp, active) {
        return next;
    }
    warp.wgmma.committed += 1;
    Next::Go
}

/// `wgmma.wait_group`: all groups except the last `pending` are complete.
pub(crate) fn wait(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    pending: u32,
    active: u32,
) -> Next {
    if let Some(next) = apart(warp, active) {
        return next;
    }
    let done = warp.wgmma.committed.saturating_sub(u64::from(pending));
    let mut last = 0;
    let mut flights = std::mem::take(&mut warp.wgmma.flights);
    flights.retain(|flight| {
        let ends = flight.group < done;
        if ends {
            last = flight.number;
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
        let bits = state.results.get(index).map_or(0, |result| result.undefined);
        warp.regs.undefined[bank as usize][usize::from(index)] = bits;
        warp.regs.origins.remove(&(bank, index));
    }
    if last > 0 {
        state.fenced = false;
        end_reads(warp, m, last);
        m.progressed();
    }
    Next::Go
}

/// A warp has waited for the products of its warpgroup up to `last`: they no longer read
/// shared memory, for any of the warps.
fn end_reads(warp: &mut Warp, m: &mut Machine<'_>, last: u64) {
    let place = warp.index / GROUP;
    let entry = warp.clock.home.products(warp.rank, place);
    warp.clock.learn_products(entry, last);
    let block = &mut m.blocks[warp.rank];
    let group = &mut block.warpgroups[place];
    while let Some((number, chunks)) = group.reads.pop_front() {
        if number > last {
            group.reads.push_front((number, chunks));
            return;
        }
        for &chunk in &chunks {
            block.shared.reading(chunk as usize, CHUNK, false);
        }
        group.keep(chunks);
    }
}

/// The warp's registers of a product that it has waited for must be as they were.
fn retire(warp: &Warp, m: &mut Machine<'_>, flight: &WgmmaFlight) {
    let changed =
        flight.a.iter().any(|(index, row)| warp.regs.r[usize::from(*index)] != *row);
    let d = product(m, flight.pc).map_or(&[][..], |op| &op.d);
    let overwritten = d.iter().any(|&index| warp.regs.undefined(Bank::Word, index) == 0);
    if changed || overwritten {
        let what = if changed { "A's registers were" } else { "an accumulator was" };
        m.note(FindingKind::AccumulatorInFlight, warp, flight.pc, 0, None, || {
            format!("{what} overwritten before the product was waited for")
        });
    }
}

/// A warp issues a product, and takes its part of it when it has begun.
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
    if !warp.wgmma.waits {
        check_group(warp, m, pc)?;
        check_fence(warp, m, op, pc);
        request(warp, m, op, pc)?;
        warp.wgmma.waits = true;
        m.progressed();
        let place = (warp.rank, warp.index);
        let number = group(warp, m).issued[warp.index % GROUP];
        if missing(m, place, number).is_empty() {
            begin(warp, m, op, pc)?;
        }
    }
    let group = group(warp, m);
    let number = group.issued[warp.index % GROUP];
    if group.begun < number {
        return Ok(Next::Again(Wait::Product { number }));
    }
    warp.wgmma.waits = false;
    take(warp, m, op, (pc, number));
    Ok(Next::Go)
}

/// The warp must be one of four that are all there.
fn check_group(warp: &Warp, m: &mut Machine<'_>, pc: u32) -> Step {
    let (warps, first) = (m.blocks[warp.rank].warps, warp.index / GROUP * GROUP);
    let text = if first + GROUP > warps {
        format!(
            "a wgmma is one operation of four warps, and warps {first} to {} at the end of \
             the block are not a whole warpgroup",
            warps - 1
        )
    } else if let Some(gone) = group(warp, m).gone.iter().position(|&gone| gone) {
        format!(
            "a wgmma is one operation of the four warps of a warpgroup: warp {} issued it, and \
             warp {} has returned",
            warp.index,
            first + gone
        )
    } else {
        return Ok(());
    };
    m.stop(FindingKind::BadOperand, warp, pc, 0, text)
}

/// A fence is needed between other instructions' writes to the registers and the product,
/// but not for accumulators that another product wrote last.
fn check_fence(warp: &Warp, m: &mut Machine<'_>, op: &Wgmma, pc: u32) {
    if warp.wgmma.fenced {
        return;
    }
    let same = |&index: &u16| {
        let last = warp.wgmma.results.get(index);
        last.is_some_and(|last| last.row == warp.regs.r[usize::from(index)])
    };
    let descriptor = matches!(op.a, WgmmaA::Descriptor(_));
    if !(descriptor && op.d.iter().all(same)) {
        m.note(FindingKind::MissingWgmmaFence, warp, pc, 0, None, || {
            "the registers were written since the last wgmma.fence".to_owned()
        });
    }
}

/// Adds the warp to those that have issued the warpgroup's next product, and takes its rows
/// of A.
fn request(warp: &Warp, m: &mut Machine<'_>, op: &Wgmma, pc: u32) -> Step {
    let a = match &op.a {
        WgmmaA::Descriptor(index) => Some(uniform(warp, m, pc, *index)?),
        WgmmaA::Registers(_) => None,
    };
    let b = uniform(warp, m, pc, op.b)?;
    let keep = scale(warp, m, op, pc)?;
    agree(warp, m, (pc, a, b, keep))?;
    let (place, own) = (warp.index / GROUP, warp.index % GROUP);
    let entry = warp.clock.home.products(warp.rank, place);
    let group = group(warp, m);
    group.issued[own] += 1;
    match &mut group.next {
        Some(request) => request.clock.keep_common(&warp.clock),
        None => {
            group.tiles.prepare(op);
            let clock = warp.clock.of_group(entry);
            let (warp, chunks) = (warp.index, group.list());
            group.next = Some(Request { pc, warp, a, b, keep, clock, chunks });
        }
    }
    group.tiles.bad_rows[own] = 0;
    if op.is_fixed_point() {
        read_accumulators(warp, m, op, keep);
    }
    match (&op.a, a) {
        (WgmmaA::Registers(rows), _) => read_registers(warp, m, op, rows),
        (_, Some(bits)) => read_a(warp, m, op, (pc, bits))?,
        _ => {}
    }
    Ok(())
}

/// The warps of a warpgroup must issue the same instruction with the same operands.
fn agree(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, a, b, keep): (u32, Option<u64>, u64, bool),
) -> Step {
    let Some(first) = &group(warp, m).next else { return Ok(()) };
    let (other, there) = (first.warp, first.pc);
    let differs = |name: &str, own: u64, of_other: u64| {
        format!("{name}: {own:#x}, and warp {other} {of_other:#x}")
    };
    let what = if there != pc {
        let line = m.instruction(there).line;
        format!("the instruction: this one, and warp {other} the one at PTX line {line}")
    } else if a != first.a {
        differs("A's descriptor", a.unwrap_or(0), first.a.unwrap_or(0))
    } else if b != first.b {
        differs("B's descriptor", b, first.b)
    } else if keep != first.keep {
        differs("scale-d", keep.into(), first.keep.into())
    } else {
        return Ok(());
    };
    let text = format!(
        "a wgmma is one operation of the four warps of a warpgroup, which must not differ \
         in {what}. This is warp {}",
        warp.index
    );
    m.stop(FindingKind::BadOperand, warp, pc, 0, text)
}

/// A descriptor, the same in all threads of the warp.
fn uniform(warp: &Warp, m: &mut Machine<'_>, pc: u32, index: u16) -> Step<u64> {
    let row = warp.regs.d[usize::from(index)];
    let undefined = warp.regs.undefined(Bank::Double, index);
    if undefined != 0 {
        report_undefined(warp, m, pc, undefined, (Bank::Double, index), "descriptor");
    }
    if let Some(lane) = row.iter().position(|&bits| bits != row[0]) {
        let text = "the descriptor differs between the warp's threads";
        return m.stop(FindingKind::BadOperand, warp, pc, lane, text);
    }
    Ok(row[0])
}

/// Whether D is added to, the same for all threads of the warp.
fn scale(warp: &Warp, m: &mut Machine<'_>, op: &Wgmma, pc: u32) -> Step<bool> {
    let undefined = warp.regs.undefined(Bank::Predicate, op.scale_d);
    if undefined != 0 {
        report_undefined(warp, m, pc, undefined, (Bank::Predicate, op.scale_d), "scale-d");
    }
    let bits = warp.regs.p[usize::from(op.scale_d)];
    if bits != 0 && bits != u32::MAX {
        let lane = bits.trailing_ones().min(bits.trailing_zeros()) as usize;
        let text = "scale-d differs between the warp's threads";
        return m.stop(FindingKind::BadOperand, warp, pc, lane, text);
    }
    Ok(bits != 0)
}

/// The warp's 16 rows of C, zeros where the product is not added to any.
fn read_accumulators(warp: &Warp, m: &mut Machine<'_>, op: &Wgmma, keep: bool) {
    let own = warp.index % GROUP;
    let c = &mut group(warp, m).tiles.c[own * 16 * op.n..(own + 1) * 16 * op.n];
    for (c, &register) in c.as_chunks_mut::<LANES>().0.iter_mut().zip(&op.d) {
        let old = warp.regs.r[usize::from(register)].map(f32::from_bits);
        *c = old.map(|old| if keep { old.into() } else { 0.0 });
    }
}

/// The warp's 16 rows of A from its registers.
fn read_registers(warp: &Warp, m: &mut Machine<'_>, op: &Wgmma, rows: &[u16]) {
    let own = warp.index % GROUP;
    let tiles = &mut group(warp, m).tiles;
    let sign = if op.negate_a { -1.0 } else { 1.0 };
    let per = 32 / op.a_ty.bits();
    for (r, &register) in rows.iter().enumerate() {
        let values = op.a_ty.expand(&warp.regs.r[usize::from(register)]);
        for (lane, values) in values.iter().enumerate() {
            let row = 16 * own + lane / 4 + 8 * (r % 2);
            let first = per * (lane % 4) + 4 * per * (r / 2);
            for (n, &value) in values[..per].iter().enumerate() {
                tiles.a[row * op.k + first + n] = sign * value;
            }
        }
        let undefined = warp.regs.undefined(Bank::Word, register);
        lanes(undefined)
            .for_each(|lane| tiles.bad_rows[own] |= 1 << (lane / 4 + 8 * (r % 2)));
    }
}

fn operand(
    warp: &Warp,
    m: &Machine<'_>,
    pc: u32,
    bits: u64,
    (extent, operand): (u32, impl FnOnce(Descriptor) -> Operand),
) -> Step<Operand> {
    let checked = Descriptor::decode(bits).map(operand).and_then(|operand| {
        let (size, transposed) = (operand.size(), operand.transposed);
        operand.descriptor.check(extent, size, transposed).map(|()| operand)
    });
    checked.or_else(|text| m.stop(FindingKind::BadOperand, warp, pc, 0, text))
}

/// The warp's 16 rows of A from shared memory. They must be ordered before its issue.
fn read_a(warp: &Warp, m: &mut Machine<'_>, op: &Wgmma, (pc, bits): (u32, u64)) -> Step {
    let a = operand(
        warp,
        m,
        pc,
        bits,
        (64, |descriptor| Operand {
            descriptor,
            element: op.a_ty,
            transposed: op.transpose_a,
            negative: op.negate_a,
        }),
    )?;
    let (place, own) = (warp.index / GROUP, warp.index % GROUP);
    let entry = warp.clock.home.products(warp.rank, place);
    let number = group(warp, m).issued[own];
    let mut chunks = std::mem::take(&mut group(warp, m).tiles.chunks);
    a.chunks((16 * own as u32, 16 * own as u32 + 16), &mut chunks);
    for &chunk in &chunks {
        let place = (warp.rank, u64::from(chunk.address));
        let at = within_block(warp, m, (pc, 0), place, CHUNK as u64)?;
        let who = Who { clock: &warp.clock, lane: WHOLE_WARP, strong: false, proxy: true };
        let block = &mut m.blocks[warp.rank];
        let found = block.shared.on_product(at, who, (entry, number));
        let group = &mut block.warpgroups[warp.index / GROUP];
        group.tiles.take_a(a, chunk, &block.shared);
        if let Some(request) = &mut group.next {
            request.chunks.push(chunk.address);
        }
        if let Some(found) = found {
            conflict(warp, m, (pc, 0), at as u64, found);
        }
    }
    group(warp, m).tiles.chunks = chunks;
    m.counts.shared_read_bytes += 512;
    Ok(())
}

/// The last of the four warps has issued the product: B is read, and the sums are made.
fn begin(warp: &Warp, m: &mut Machine<'_>, op: &Wgmma, pc: u32) -> Step {
    let place = warp.index / GROUP;
    let entry = warp.clock.home.products(warp.rank, place);
    let number = group(warp, m).issued[warp.index % GROUP];
    let Some(mut request) = group(warp, m).next.take() else { return Ok(()) };
    let b = operand(
        warp,
        m,
        pc,
        request.b,
        (op.n as u32, |descriptor| Operand {
            descriptor,
            element: op.b_ty,
            transposed: op.transpose_b,
            negative: op.negate_b,
        }),
    )?;
    let tiles = &mut group(warp, m).tiles;
    tiles.begin(op);
    let mut chunks = std::mem::take(&mut tiles.chunks);
    b.chunks((0, op.n as u32), &mut chunks);
    for &chunk in &chunks {
        let at = within_block(
            warp,
            m,
            (pc, 0),
            (warp.rank, u64::from(chunk.address)),
            CHUNK as u64,
        )?;
        // All four warps read all of B.
        let clock = &request.clock;
        let who = Who { clock, lane: WHOLE_WARP, strong: false, proxy: true };
        let block = &mut m.blocks[warp.rank];
        let found = block.shared.on_product(at, who, (entry, number));
        block.warpgroups[place].tiles.take_b(b, chunk, &block.shared);
        request.chunks.push(chunk.address);
        if let Some(found) = found {
            conflict(warp, m, (pc, 0), at as u64, found);
        }
    }
    m.counts.shared_read_bytes += 32 * op.n as u64;
    let checks = m.run.options.checks;
    let group = group(warp, m);
    group.tiles.chunks = chunks;
    group.tiles.multiply(op);
    group.begun = number;
    if checks {
        group.reads.push_back((number, request.chunks));
    } else {
        group.keep(request.chunks);
    }
    Ok(())
}

/// A warp takes its sums of a product that has begun.
fn take(warp: &mut Warp, m: &mut Machine<'_>, op: &Wgmma, (pc, number): (u32, u64)) {
    let a = match &op.a {
        WgmmaA::Registers(rows) => {
            rows.iter().map(|&index| (index, warp.regs.r[usize::from(index)])).collect()
        }
        WgmmaA::Descriptor(_) => Vec::new(),
    };
    let own = warp.index % GROUP;
    let tiles = &m.blocks[warp.rank].warpgroups[warp.index / GROUP].tiles;
    let sums = &tiles.sums[own * 16 * op.n..(own + 1) * 16 * op.n];
    write_back(warp, op, sums, (tiles.bad_rows[own], &tiles.bad_columns));
    let group = warp.wgmma.committed;
    warp.wgmma.flights.push(WgmmaFlight { group, pc, number, a });
}

/// Adds a warp's sums to its accumulators, which are undefined until the wait.
fn write_back(
    warp: &mut Warp,
    op: &Wgmma,
    sums: &[f64],
    (bad_rows, bad_columns): (u32, &[bool]),
) {
    let keep = warp.regs.p[usize::from(op.scale_d)] != 0;
    let group = warp.wgmma.committed;
    let defined = bad_rows == 0 && !bad_columns.contains(&true);
    for (i, &register) in op.d.iter().enumerate() {
        let index = usize::from(register);
        let old = if keep { warp.regs.r[index] } else { [0; LANES] };
        // Sums in fixed point have C in them.
        let old = if op.is_fixed_point() { [0; LANES] } else { old };
        let row = add((op.accumulator, op.saturate), i, &old, sums);
        let mut undefined = warp.regs.undefined(Bank::Word, register);
        let last = warp.wgmma.results.get(register).copied();
        // The register is marked already: nothing but products has written it since.
        let marked = last.filter(|last| undefined == u32::MAX && last.group == group);
        if marked.is_some()
            || matches!(warp.regs.origin(Bank::Word, register), Origin::Wgmma { .. })
        {
            undefined = last.map_or(0, |last| last.undefined);
        }
        if !keep {
            undefined = 0;
        }
        if !defined {
            undefined |= bad_lanes(op, i, bad_rows, bad_columns);
        }
        warp.regs.r[index] = row;
        warp.wgmma.results.set(register, Accumulated { row, undefined, group });
        if marked.is_none() {
            warp.regs.set_undefined(Bank::Word, register, u32::MAX, u32::MAX);
            warp.regs.origins.insert((Bank::Word, register), Origin::Wgmma { group });
        }
    }
}

/// The lanes of accumulator register `i` whose row of A or column of B is undefined.
fn bad_lanes(op: &Wgmma, i: usize, bad_rows: u32, bad_columns: &[bool]) -> u32 {
    let packed = op.accumulator == Accumulator::F16;
    // Four registers, or two of pairs, make eight columns.
    let (half, block, columns) =
        if packed { (i % 2, i / 2, 0..2) } else { (i / 2 % 2, i / 4, i % 2..i % 2 + 1) };
    let bad = |lane: usize| {
        let (row, first) = (lane / 4 + 8 * half, 8 * block + 2 * (lane % 4));
        bad_rows >> row & 1 != 0 || columns.clone().any(|n| bad_columns[first + n])
    };
    (0..LANES).fold(0, |lanes, lane| lanes | u32::from(bad(lane)) << lane)
}
