//! Exchanges between the lanes of a warp.

use crate::bank::Bank;
use crate::exec::step::{Next, report_undefined, set, values};
use crate::finding::FindingKind;
use crate::instruction::{Redux, SINK, Shuffle, ShuffleMode, Vote, VoteMode};
use crate::lanes::{LANES, lanes};
use crate::machine::{Machine, Step};
use crate::warp::Warp;

/// What to wait for if not all threads of the member mask are here.
///
/// Lanes of one group may have different masks, each of which is waited for.
fn meet(
    warp: &Warp,
    m: &mut Machine<'_>,
    mask: u16,
    active: u32,
    pc: u32,
) -> Step<Option<Next>> {
    let row = warp.regs.r[usize::from(mask)];
    let undefined = warp.regs.undefined(Bank::Word, mask) & active;
    if undefined != 0 {
        report_undefined(warp, m, pc, undefined, (Bank::Word, mask), "member mask");
    }
    for lane in lanes(active) {
        if row[lane] >> lane & 1 == 0 {
            let detail = format!("lane {lane} is not in its own mask {:#x}", row[lane]);
            return m.stop(FindingKind::BadOperand, warp, pc, lane, detail);
        }
        if row[lane] & warp.live & !active != 0 {
            return Ok(Some(Next::Meet { mask: row[lane] }));
        }
    }
    Ok(None)
}

pub(crate) fn shuffle(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    op: &Shuffle,
    active: u32,
    pc: u32,
) -> Step<Next> {
    if let Some(next) = meet(warp, m, op.mask, active, pc)? {
        return Ok(next);
    }
    let row = |index: u16| warp.regs.r[usize::from(index)];
    let (a, b, c, mask) = (row(op.a), row(op.b), row(op.c), row(op.mask));
    let bad = warp.regs.undefined(Bank::Word, op.a);
    let (mut out, mut valid, mut undefined) = ([0; LANES], 0u32, 0u32);
    for lane in lanes(active) {
        let (source, inside) = source_lane(op.mode, lane as u32, b[lane], c[lane]);
        valid |= u32::from(inside) << lane;
        out[lane] = a[source];
        // A lane that does not take part does not have a defined value.
        let absent = active >> source & 1 == 0 || mask[lane] >> source & 1 == 0;
        undefined |= u32::from(absent || bad >> source & 1 != 0) << lane;
    }
    for lane in lanes(active) {
        warp.regs.r[usize::from(op.d)][lane] = out[lane];
    }
    warp.regs.set_undefined(Bank::Word, op.d, undefined, active);
    if undefined != 0 {
        warp.regs.taint((Bank::Word, op.d), &[(Bank::Word, op.a)], false);
    }
    if op.p != SINK {
        let old = &mut warp.regs.p[usize::from(op.p)];
        *old = *old & !active | valid;
        warp.regs.set_undefined(Bank::Predicate, op.p, 0, active);
    }
    Ok(Next::Go)
}

/// The ISA's pseudocode: the source lane, and whether it is in range.
fn source_lane(mode: ShuffleMode, lane: u32, b: u32, c: u32) -> (usize, bool) {
    let (value, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let max = lane & segment | clamp & !segment;
    let min = lane & segment;
    let (from, inside) = match mode {
        ShuffleMode::Up => {
            let from = lane as i32 - value as i32;
            (from, from >= max as i32)
        }
        ShuffleMode::Down => {
            let from = (lane + value) as i32;
            (from, from <= max as i32)
        }
        ShuffleMode::Butterfly => {
            let from = (lane ^ value) as i32;
            (from, from <= max as i32)
        }
        ShuffleMode::Index => {
            let from = (min | value & !segment) as i32;
            (from, from <= max as i32)
        }
    };
    if inside { (from as usize & 31, true) } else { (lane as usize, false) }
}

pub(crate) fn vote(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    op: &Vote,
    active: u32,
    pc: u32,
) -> Step<Next> {
    if let Some(next) = meet(warp, m, op.mask, active, pc)? {
        return Ok(next);
    }
    let masks = warp.regs.r[usize::from(op.mask)];
    let undefined = warp.regs.undefined(op.bank, op.a) & active;
    if undefined != 0 {
        report_undefined(warp, m, pc, undefined, (op.bank, op.a), "vote");
    }
    let values = values(warp, op.bank, op.a);
    let bits = warp.regs.p.get(usize::from(op.a)).copied().unwrap_or(0);
    let bits = if op.negated { !bits } else { bits };
    for lane in lanes(active) {
        let mask = masks[lane] & active;
        let equal = |value: u64| {
            lanes(mask).filter(|&other| values[other] == value).fold(0, |a, l| a | 1 << l)
        };
        let answer = match op.mode {
            VoteMode::All => u32::from(bits & mask == mask),
            VoteMode::Any => u32::from(bits & mask != 0),
            VoteMode::Uniform => u32::from(bits & mask == mask || bits & mask == 0),
            VoteMode::Ballot => bits & mask,
            VoteMode::MatchAny => equal(values[lane]),
            VoteMode::MatchAll => {
                if equal(values[lane]) == mask {
                    mask
                } else {
                    0
                }
            }
        };
        let wide = !matches!(op.mode, VoteMode::All | VoteMode::Any | VoteMode::Uniform);
        let bank = if wide { Bank::Word } else { Bank::Predicate };
        set(warp, bank, op.d, u64::from(answer), 1 << lane);
        if op.p != SINK {
            set(warp, Bank::Predicate, op.p, u64::from(answer != 0), 1 << lane);
        }
    }
    Ok(Next::Go)
}

pub(crate) fn redux(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    op: &Redux,
    active: u32,
    pc: u32,
) -> Step<Next> {
    if let Some(next) = meet(warp, m, op.mask, active, pc)? {
        return Ok(next);
    }
    let (row, masks) = (warp.regs.r[usize::from(op.a)], warp.regs.r[usize::from(op.mask)]);
    let bad = warp.regs.undefined(Bank::Word, op.a);
    let mut undefined = 0;
    for lane in lanes(active) {
        let mask = masks[lane] & active;
        let all = lanes(mask).map(|other| row[other]).reduce(op.f).unwrap_or_default();
        warp.regs.r[usize::from(op.d)][lane] = all;
        undefined |= u32::from(bad & mask != 0) << lane;
    }
    warp.regs.set_undefined(Bank::Word, op.d, undefined, active);
    if undefined != 0 {
        warp.regs.taint((Bank::Word, op.d), &[(Bank::Word, op.a)], false);
    }
    Ok(Next::Go)
}

/// `elect.sync`: the lowest lane of the mask is elected.
pub(crate) fn elect(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    (d, p, mask): (u16, u16, u16),
    active: u32,
    pc: u32,
) -> Step<Next> {
    if let Some(next) = meet(warp, m, mask, active, pc)? {
        return Ok(next);
    }
    let masks = warp.regs.r[usize::from(mask)];
    for lane in lanes(active) {
        let leader = (masks[lane] & active).trailing_zeros();
        if d != SINK {
            set(warp, Bank::Word, d, u64::from(leader), 1 << lane);
        }
        set(warp, Bank::Predicate, p, u64::from(leader == lane as u32), 1 << lane);
    }
    Ok(Next::Go)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_lanes_of_the_usual_shuffles() {
        // c as compilers emit it: width 32.
        assert_eq!(source_lane(ShuffleMode::Butterfly, 5, 16, 31), (21, true));
        assert_eq!(source_lane(ShuffleMode::Down, 30, 4, 31), (30, false));
        assert_eq!(source_lane(ShuffleMode::Up, 2, 4, 0), (2, false));
        assert_eq!(source_lane(ShuffleMode::Up, 6, 4, 0), (2, true));
        assert_eq!(source_lane(ShuffleMode::Index, 9, 3, 31), (3, true));
        // Width 8: segments of eight lanes.
        let c = 0x181f;
        assert_eq!(source_lane(ShuffleMode::Index, 9, 3, c), (11, true));
        assert_eq!(source_lane(ShuffleMode::Down, 14, 4, c), (14, false));
        assert_eq!(source_lane(ShuffleMode::Down, 10, 4, c), (14, true));
    }
}
