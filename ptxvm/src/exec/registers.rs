//! `setmaxnreg`: registers that warps release to their block, or take from it.
//!
//! A block owns the registers that its threads were launched with. What a warp releases
//! is free for its block; a warp that asks for more waits until as many are free. A warp
//! that returns does not release what it has: the ISA names no other source than
//! `setmaxnreg.dec`.

use crate::clock::WHOLE_WARP;
use crate::exec::step::Next;
use crate::finding::FindingKind;
use crate::flight::{GROUP, Resizing};
use crate::lanes::LANES;
use crate::machine::Machine;
use crate::warp::{Wait, Warp};

/// What all rules on warpgroups say.
const RULE: &str = "all four warps of a warpgroup must execute the same setmaxnreg";

/// Sets the registers of each thread to `count`: `more` by `.inc`, else fewer by `.dec`.
pub(crate) fn set(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    (count, more): (u32, bool),
    active: u32,
    pc: u32,
) -> Next {
    if active != warp.live {
        return Next::Meet { mask: warp.live };
    }
    if !warp.asks {
        check_group(warp, m, pc);
        m.progressed();
        if m.run.kernel.launch_registers.is_none()
            || is_backwards(warp, m, (count, more), pc)
        {
            return Next::Go;
        }
    }
    let lanes = LANES as u32;
    let free = &mut m.blocks[warp.rank].free_registers;
    if count <= warp.registers {
        *free += lanes * (warp.registers - count);
    } else {
        let need = lanes * (count - warp.registers);
        if *free < need {
            warp.asks = true;
            return Next::Again(Wait::Registers { count: need });
        }
        *free -= need;
    }
    warp.asks = false;
    warp.registers = count;
    m.progressed();
    Next::Go
}

/// Whether the change goes the other way than the instruction says, which is undefined.
fn is_backwards(
    warp: &Warp,
    m: &mut Machine<'_>,
    (count, more): (u32, bool),
    pc: u32,
) -> bool {
    let has = warp.registers;
    if has == count || (has < count) == more {
        return false;
    }
    m.note(FindingKind::BadOperand, warp, pc, 0, None, || {
        let (action, must) =
            if more { ("inc", "at most") } else { ("dec", "at least") };
        format!(
            "setmaxnreg.{action} {count} in a thread that has {has} registers: it must have \
             {must} {count}, else the behaviour is undefined"
        )
    });
    true
}

/// The warp executes its next `setmaxnreg`, which must be that of its warpgroup, and after
/// the warpgroup has agreed since the one before.
fn check_group(warp: &Warp, m: &mut Machine<'_>, pc: u32) {
    let (warps, first, own) =
        (m.blocks[warp.rank].warps, warp.index / GROUP * GROUP, warp.index % GROUP);
    let id = |n: usize| warp.id() - own + n;
    let group = &mut m.blocks[warp.rank].warpgroups[warp.index / GROUP];
    let done = group.resizings.iter().take_while(|one| one.times[own].is_some()).count();
    if done == group.resizings.len() {
        let times = [None; GROUP];
        group.resizings.push(Resizing { pc, warp: warp.index, times });
    }
    let this = &mut group.resizings[done];
    this.times[own] = Some(warp.clock.now());
    let (there, other) = (this.pc, this.warp);
    let gone =
        (0..GROUP).find(|&n| group.gone[n] && group.resizings[done].times[n].is_none());
    let early = (0..GROUP).filter(|&n| n != own && done > 0).find(|&n| {
        let before = group.resizings[done - 1].times[n];
        !before.is_some_and(|time| warp.clock.knows(id(n), WHOLE_WARP, time))
    });
    let line = m.instruction(there).line;
    let text = if first + GROUP > warps {
        format!(
            "{RULE}, and warps {first} to {} at the end of the block are none",
            warps - 1
        )
    } else if warp.live != u32::MAX {
        format!("{RULE}, and some threads of warp {} have returned", warp.index)
    } else if there != pc {
        format!(
            "{RULE}: warp {} executes this one, and warp {other} that at PTX line {line}",
            warp.index
        )
    } else if let Some(n) = gone {
        format!(
            "{RULE}: warp {} executes it, and warp {} has returned",
            warp.index,
            first + n
        )
    } else if let Some(n) = early {
        format!(
            "the warps of a warpgroup must synchronise after a setmaxnreg before the next: \
             warp {} executes it, and is not ordered after that of warp {}",
            warp.index,
            first + n
        )
    } else {
        return;
    };
    m.note(FindingKind::BadOperand, warp, pc, 0, None, || text);
}

/// Threads return: a warp that does must have executed what its warpgroup has.
pub(crate) fn before_exit(warp: &Warp, m: &mut Machine<'_>, active: u32) {
    let (group, own) = (warp.index / GROUP, warp.index % GROUP);
    let resizings = &m.blocks[warp.rank].warpgroups[group].resizings;
    let left = resizings.iter().find(|one| one.times[own].is_none());
    if let Some(&Resizing { pc, warp: other, .. }) = left
        && active == warp.live
    {
        m.note(FindingKind::BadOperand, warp, pc, 0, None, || {
            format!(
                "{RULE}: warp {other} executed it, and warp {} has returned",
                warp.index
            )
        });
    }
}
