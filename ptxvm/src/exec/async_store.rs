//! `st.async`: stores to shared memory of the cluster, whose bytes arrive at any time and are
//! counted by an mbarrier of the block that they go to. Its writes are not those of the
//! asynchronous proxy, which the ISA keeps for bulk copies.

use crate::exec::access::conflict;
use crate::exec::bulk::shared_spot;
use crate::exec::landing;
use crate::exec::memory::{gather, undefined_store};
use crate::finding::FindingKind;
use crate::flight::Piece;
use crate::instruction::{Address, AsyncStore};
use crate::lanes::lanes;
use crate::machine::{Machine, Step};
use crate::shared::Who;
use crate::warp::Warp;

/// What the lanes of a warp store to one block, for one of its mbarriers.
struct Batch {
    lane: usize,
    to: (usize, u32),
    pieces: Vec<Piece>,
    data: Vec<u8>,
}

pub(crate) fn issue(
    warp: &Warp,
    m: &mut Machine<'_>,
    op: &AsyncStore,
    active: u32,
    pc: u32,
) -> Step {
    let AsyncStore { access, barrier } = op;
    let bytes = u64::from(access.width) * access.registers.len() as u64;
    let mut batches: Vec<Batch> = Vec::new();
    for lane in lanes(active) {
        let site = (pc, lane);
        let (rank, at) = shared_spot(warp, m, site, &access.address, (bytes, bytes))?;
        let counts = barrier_of(warp, m, site, (rank, barrier))?;
        undefined_store(warp, m, access, pc, lane);
        let who = Who { clock: &warp.clock, lane, strong: false, proxy: false };
        let memory = &mut m.blocks[rank].shared;
        let found = memory.on_write(at, bytes as usize, who, true);
        memory.landing(at, bytes as usize, true);
        if let Some(found) = found {
            conflict(warp, m, site, at as u64, found);
        }
        let to = (rank, counts);
        let piece = Piece { shared: at as u32, global: None, bytes: bytes as u32 };
        let data = gather(warp, access, lane);
        let data = &data[..bytes as usize];
        match batches.iter_mut().find(|batch| batch.to == to) {
            Some(batch) => {
                batch.pieces.push(piece);
                batch.data.extend_from_slice(data);
            }
            None => {
                batches.push(Batch { lane, to, pieces: vec![piece], data: data.into() })
            }
        }
    }
    for Batch { lane, to, pieces, data } in batches {
        m.counts.async_bytes += data.len() as u64;
        landing::start_stores(warp, m, (pc, lane), to, (pieces, data));
    }
    m.progressed();
    Ok(())
}

/// Offset of the mbarrier, which must be in the block that the bytes go to.
fn barrier_of(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, lane): (u32, usize),
    (to, barrier): (usize, &Address),
) -> Step<u32> {
    let (rank, at) = shared_spot(warp, m, (pc, lane), barrier, (8, 8))?;
    if rank != to {
        let text = "the mbarrier is not in the block that is stored to";
        return m.stop(FindingKind::BadOperand, warp, pc, lane, text);
    }
    if !m.blocks[rank].mbarriers.contains_key(&(at as u32)) {
        let text = "the store's mbarrier was never initialised";
        return m.stop(FindingKind::Mbarrier, warp, pc, lane, text);
    }
    Ok(at as u32)
}
