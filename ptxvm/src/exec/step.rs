//! What every instruction's execution needs: its outcome, and reading and writing lanes.

use crate::bank::Bank;
use crate::finding::FindingKind;
use crate::lanes::{LANES, Origin, lanes};
use crate::machine::Machine;
use crate::warp::{Wait, Warp};

/// What the running group does after an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next instruction.
    Go,
    /// The lanes `taken` continue at the target.
    Jump { target: u32, taken: u32 },
    /// Lanes were moved to several instructions already; choose a group again.
    Choose,
    /// The next instruction, after a wait.
    Wait(Wait),
    /// The same instruction again, after a wait.
    Again(Wait),
    /// The same instruction again, when the other threads of the mask are here.
    Meet { mask: u32 },
    /// The next instruction, but other warps first: what it polled for has not happened.
    Polled,
    /// These lanes are done.
    Exit { mask: u32 },
}

/// Reports an undefined value that has an effect.
#[cold]
pub(crate) fn report_undefined(
    warp: &Warp,
    m: &mut Machine<'_>,
    pc: u32,
    lanes: u32,
    (bank, index): (Bank, u16),
    role: &str,
) {
    let origin = warp.regs.origin(bank, index);
    let lane = lanes.trailing_zeros() as usize;
    let in_flight = matches!(origin, Origin::Wgmma { .. });
    let kind = if in_flight {
        FindingKind::AccumulatorInFlight
    } else {
        FindingKind::Uninitialised
    };
    let code = &m.run.kernel.code;
    m.note(kind, warp, pc, lane, None, || match origin {
        Origin::Register => format!("the {role} depends on a register never written"),
        Origin::Load { pc, address } => {
            let line = code[pc as usize].line;
            format!(
                "the {role} depends on never-written bytes at {address:#x}, \
                 loaded at PTX line {line}"
            )
        }
        Origin::Wgmma { .. } => {
            format!("the {role} depends on a wgmma accumulator before its wait")
        }
    });
}

/// Writes the same value to all active lanes.
pub(crate) fn set(warp: &mut Warp, bank: Bank, index: u16, value: u64, active: u32) {
    let at = usize::from(index);
    for lane in lanes(active) {
        match bank {
            Bank::Double => warp.regs.d[at][lane] = value,
            Bank::Word => warp.regs.r[at][lane] = value as u32,
            Bank::Predicate => {
                let bit = u32::from(value != 0) << lane;
                warp.regs.p[at] = warp.regs.p[at] & !(1 << lane) | bit;
            }
        }
    }
    warp.regs.set_undefined(bank, index, 0, active);
}

/// A source's lanes as 64-bit values.
pub(crate) fn values(warp: &Warp, bank: Bank, index: u16) -> [u64; LANES] {
    match bank {
        Bank::Double => warp.regs.d[usize::from(index)],
        Bank::Word => warp.regs.r[usize::from(index)].map(u64::from),
        Bank::Predicate => {
            let bits = warp.regs.p[usize::from(index)];
            std::array::from_fn(|lane| u64::from(bits >> lane & 1))
        }
    }
}
