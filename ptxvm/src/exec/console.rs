//! What a kernel prints, and how it ends on purpose.

use crate::exec::access::{Target, addresses, global, resolve, shared};
use crate::exec::memory::{load_local, local_place};
use crate::finding::FindingKind;
use crate::instruction::{Address, Print, Space};
use crate::lanes::{LANES, lanes};
use crate::machine::{Machine, Step};
use crate::printf::{self, Arguments, Printed};
use crate::warp::Warp;

/// Bytes of text that a cluster may print: what a GPU keeps of a launch.
const MAX_PRINTED: usize = 1 << 20;
/// Longer texts, in bytes, are cut.
const MAX_TEXT: u64 = 1 << 12;

/// A thread's view of memory, for reading what it prints.
struct Reader<'r, 'm> {
    warp: &'r Warp,
    m: &'r mut Machine<'m>,
    site: (u32, usize),
    /// Where the arguments lie, and how many bytes of them were read.
    arguments: u64,
    taken: u64,
}

impl Reader<'_, '_> {
    fn read(&mut self, space: Space, address: u64, bytes: &mut [u8]) -> Step {
        let size = bytes.len() as u64;
        let (warp, site) = (self.warp, self.site);
        match resolve(space, warp.rank, address) {
            Target::Global(address) => {
                let (allocation, offset) = global(warp, self.m, site, address, size)?;
                self.m.run.memory.allocations[allocation].read(offset, bytes);
            }
            Target::Shared(rank, offset) => {
                let at = shared(warp, self.m, site, (rank, offset), size)?;
                bytes.copy_from_slice(self.m.blocks[rank].shared.get(at, bytes.len()));
            }
            Target::Local(offset) => {
                load_local(warp, self.m, site, offset, bytes)?;
            }
            Target::Param(offset) => {
                let detail = format!("a text or argument at {offset:#x} of the parameters");
                let (pc, lane) = site;
                return self.m.stop(FindingKind::BadOperand, warp, pc, lane, detail);
            }
        }
        Ok(())
    }

    fn word(&mut self, space: Space, address: u64, bytes: u64) -> Step<u64> {
        let mut word = [0; 8];
        self.read(space, address, &mut word[..bytes as usize])?;
        Ok(u64::from_le_bytes(word))
    }
}

impl Arguments for Reader<'_, '_> {
    type Error = crate::machine::Stop;

    fn next(&mut self, bytes: u64) -> Step<u64> {
        let at = self.taken.next_multiple_of(bytes);
        self.taken = at + bytes;
        self.word(Space::Generic, self.arguments.wrapping_add(at), bytes)
    }

    fn text(&mut self, address: u64) -> Step<Vec<u8>> {
        let mut text = Vec::new();
        for at in 0..MAX_TEXT {
            match self.word(Space::Generic, address.wrapping_add(at), 1)? as u8 {
                0 => break,
                byte => text.push(byte),
            }
        }
        Ok(text)
    }
}

/// Each lane's value of a parameter of the call.
fn passed(
    warp: &Warp,
    m: &mut Machine<'_>,
    address: &Address,
    bytes: u64,
    (active, pc): (u32, u32),
) -> Step<[u64; LANES]> {
    let row = addresses(warp, m, address, active, pc);
    let mut out = [0; LANES];
    for lane in lanes(active) {
        let mut reader = Reader { warp, m, site: (pc, lane), arguments: 0, taken: 0 };
        out[lane] = reader.word(address.space, row[lane], bytes)?;
    }
    Ok(out)
}

/// Executes a call of `printf`.
pub(crate) fn print(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    op: &Print,
    active: u32,
    pc: u32,
) -> Step {
    let formats = passed(warp, m, &op.format, 8, (active, pc))?;
    let arguments = passed(warp, m, &op.arguments, 8, (active, pc))?;
    let results = op.result.as_ref().map(|result| addresses(warp, m, result, active, pc));
    for lane in lanes(active) {
        let site = (pc, lane);
        let mut reader = Reader { warp, m, site, arguments: arguments[lane], taken: 0 };
        let format = reader.text(formats[lane])?;
        let (text, count) = printf::format(&format, &mut reader)?;
        if let Some(row) = results {
            let at = local_place(warp, m, site, row[lane], 4)?;
            warp.local[at..at + 4].copy_from_slice(&count.to_le_bytes());
            warp.local_written[at..at + 4].fill(true);
        }
        m.printed_bytes += text.len();
        if m.printed_bytes <= MAX_PRINTED {
            let (block, thread) = (m.blocks[warp.rank].id, m.thread(warp.index, lane));
            m.printed.push(Printed { block, thread, text });
        }
    }
    Ok(())
}

/// Ends the launch with the message of an assertion.
pub(crate) fn assertion(
    warp: &Warp,
    m: &mut Machine<'_>,
    [message, file, line, function]: &[Address; 4],
    active: u32,
    pc: u32,
) -> Step {
    let lane = active.trailing_zeros() as usize;
    let at = (1 << lane, pc);
    let line = passed(warp, m, line, 4, at)?[lane];
    let mut texts = Vec::new();
    for address in [message, file, function] {
        let pointer = passed(warp, m, address, 8, at)?[lane];
        let mut reader = Reader { warp, m, site: (pc, lane), arguments: 0, taken: 0 };
        texts.push(String::from_utf8_lossy(&reader.text(pointer)?).into_owned());
    }
    let detail =
        format!("{}:{line}: {}: assertion '{}' failed", texts[1], texts[2], texts[0]);
    m.stop(FindingKind::Assertion, warp, pc, lane, detail)
}
