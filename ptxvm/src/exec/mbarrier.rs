//! mbarriers: phases of arrivals and of bytes.

use crate::bank::Bank;
use crate::clock::{Clock, Message};
use crate::exec::access::{Target, addresses, aligned, resolve, shared};
use crate::exec::step::{Next, set, values};
use crate::exec::{landing, peer};
use crate::finding::FindingKind;
use crate::instruction::{Address, MbarrierKind, MbarrierOp, SINK};
use crate::lanes::lanes;
use crate::machine::{Machine, Step};
use crate::mbarrier::{Mbarrier, Spot};
use crate::warp::Warp;

/// One of so many repeated waits that are in vain makes the warp sleep, until the phase
/// completes: to test again and again is most of what waiting costs here. The others return
/// early, as they may on a GPU: what does not wait again then goes wrong.
const WAKEFUL: usize = 4;

/// The most bytes or arrivals that an mbarrier can count.
const MOST: i64 = (1 << 20) - 1;

fn locate(
    warp: &Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    address: &Address,
    value: u64,
) -> Step<Spot> {
    aligned(warp, m, site, value, 8)?;
    match resolve(address.space, warp.rank, value) {
        Target::Shared(rank, offset) => {
            let at = shared(warp, m, site, (rank, offset), 8)?;
            Ok((rank, at as u32))
        }
        _ => {
            let text = "the mbarrier is not in shared memory";
            m.stop(FindingKind::Mbarrier, warp, site.0, site.1, text)
        }
    }
}

fn find<'m>(
    warp: &Warp,
    m: &'m mut Machine<'_>,
    (pc, lane): (u32, usize),
    (rank, offset): Spot,
) -> Step<&'m mut Mbarrier> {
    if !m.blocks[rank].mbarriers.contains_key(&offset) {
        let place = (u64::from(offset), Some("shared".to_owned()));
        let text = "the mbarrier at this address was never initialised";
        return m.stop_at(FindingKind::Mbarrier, warp, pc, lane, place, text);
    }
    if !m.blocks[rank].mbarriers[&offset].is_ready(&warp.clock) {
        let place = Some((u64::from(offset), "shared".to_owned()));
        m.note(FindingKind::Mbarrier, warp, pc, lane, place, || {
            "not ordered after the mbarrier's initialisation".to_owned()
        });
    }
    Ok(m.blocks[rank].mbarriers.entry(offset).or_default())
}

/// A fence makes mbarriers visible to the async proxy: those that the warp initialised,
/// and with `known` all whose initialisation it knows of. Without, it is the fence for them.
pub(crate) fn show(warp: &Warp, m: &mut Machine<'_>, known: bool) {
    for barrier in m.blocks.iter_mut().flat_map(|block| block.mbarriers.values_mut()) {
        let own = barrier.made.0 == warp.clock.own;
        barrier.is_shown |= own || known && barrier.is_ready(&warp.clock);
        barrier.is_fenced |= own && !known;
    }
}

/// A warp arrives at the barrier of the cluster, in this generation. Whoever waits for it knows of
/// the mbarriers that the warp has initialised and fenced, whatever the memory order.
pub(crate) fn meet(warp: &Warp, m: &mut Machine<'_>, generation: u64) {
    for barrier in m.blocks.iter_mut().flat_map(|block| block.mbarriers.values_mut()) {
        if barrier.made.0 == warp.clock.own && barrier.is_fenced {
            barrier.met.get_or_insert(generation);
        }
    }
}

pub(crate) fn run(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    op: &MbarrierOp,
    active: u32,
    pc: u32,
) -> Step<Next> {
    if op.kind == MbarrierKind::PendingCount {
        pending_count(warp, op, active);
        return Ok(Next::Go);
    }
    let row = addresses(warp, m, &op.address, active, pc);
    let bank = match op.kind {
        MbarrierKind::Wait { parity: false } => Bank::Double,
        _ => Bank::Word,
    };
    let operand = op.operand.map(|index| values(warp, bank, index));
    let mut open = None;
    let mut learnt = Learnt::default();
    for lane in lanes(active) {
        let site = (pc, lane);
        let spot = locate(warp, m, site, &op.address, row[lane])?;
        let value = operand.map(|row| row[lane]);
        match op.kind {
            MbarrierKind::Init => init(warp, m, site, spot, value.unwrap_or(0))?,
            MbarrierKind::Invalidate => {
                find(warp, m, site, spot)?;
                m.blocks[spot.0].mbarriers.remove(&spot.1);
                m.blocks[spot.0].shared.mbarrier(spot.1 as usize, false);
            }
            MbarrierKind::Wait { parity } => {
                let value = value.unwrap_or(0);
                let done = wait(warp, m, (op, parity), site, spot, value, &mut learnt)?;
                if done {
                    peer::has_waited_for(m, spot);
                } else {
                    open = Some((spot, m.blocks[spot.0].mbarriers[&spot.1].phase));
                }
                set(warp, Bank::Predicate, op.d, u64::from(done), 1 << lane);
            }
            _ => arrive(warp, m, op, site, spot, value)?,
        }
    }
    if matches!(op.kind, MbarrierKind::Wait { .. }) {
        if op.orders && !learnt.message.is_empty() {
            warp.clock.learn(&learnt.message);
        }
        let Some(open) = open else { return Ok(Next::Go) };
        doze(warp, m, open);
        return Ok(Next::Polled);
    }
    if op.orders {
        warp.clock.tick();
    }
    m.progressed();
    Ok(Next::Go)
}

/// What the lanes of a warp learn by one wait, and from which mbarrier the last one did.
#[derive(Default)]
struct Learnt {
    message: Message,
    last: Option<Spot>,
}

/// Whether the phase that one thread waits for is complete, and then what it learns.
fn wait(
    warp: &Warp,
    m: &mut Machine<'_>,
    (op, parity): (&MbarrierOp, bool),
    site: (u32, usize),
    spot: Spot,
    value: u64,
    learnt: &mut Learnt,
) -> Step<bool> {
    let split = m.splits_scopes();
    let barrier = find(warp, m, site, spot)?;
    barrier.is_relaxed |= !op.orders;
    let done =
        if parity { barrier.phase & 1 != value & 1 } else { barrier.phase > value >> 32 };
    // All lanes learn the same there.
    if done && learnt.last != Some(spot) {
        learnt.last = Some(spot);
        let message = barrier.released.for_wait(&warp.clock, op.scope, split);
        learnt.message.merge(&message);
    }
    let stale = match parity {
        false => stale_token(barrier, value >> 32),
        true if done => None,
        true => stale_parity(barrier, &warp.clock, split),
    };
    if done {
        barrier.observed.insert(warp.id(), barrier.phase);
    }
    if let Some(text) = stale {
        let place = Some((u64::from(spot.1), "shared".to_owned()));
        m.note(FindingKind::Mbarrier, warp, site.0, site.1, place, || text);
    }
    Ok(done)
}

/// A wait was in vain. When it is not the first for this phase, the warp may sleep.
fn doze(warp: &mut Warp, m: &mut Machine<'_>, open: (Spot, u64)) {
    let again = warp.tested.replace(open) == Some(open);
    if again && m.random.below(WAKEFUL) == 0 {
        warp.sleeps = Some(open);
    }
}

/// A token is good for its phase and the one after it.
fn stale_token(barrier: &Mbarrier, token: u64) -> Option<String> {
    (barrier.phase > token + 1).then(|| {
        format!(
            "waits with the token of phase {token}, but the mbarrier is in phase {}: a token \
             can be tested until the next phase completes",
            barrier.phase
        )
    })
}

/// A wait by parity that is not complete means the current phase. It is a mistake if the
/// warp last saw an earlier phase, and two more have completed, and it cannot know of the
/// last one's arrivals: then it must have meant the phase that it did not see, whose parity
/// is the same. (If it knew of them, it might have waited for this phase on purpose.)
fn stale_parity(barrier: &Mbarrier, clock: &Clock, split: bool) -> Option<String> {
    let seen = *barrier.observed.get(&clock.own)?;
    // Knowledge that passes without an order, or by scopes, leaves no trace in clocks.
    let traced = !barrier.is_relaxed && !split;
    let behind = barrier.phase >= seen + 2 && (barrier.phase - seen).is_multiple_of(2);
    (traced && behind && !barrier.released.is_known_to(clock)).then(|| {
        format!(
            "waits for the parity of phase {seen}, which is complete, and so is the next one: \
             the mbarrier is in phase {}, and this is a wait for that",
            barrier.phase
        )
    })
}

/// `mbarrier.pending_count`: the arrivals that a state token says are still to come.
fn pending_count(warp: &mut Warp, op: &MbarrierOp, active: u32) {
    let tokens = values(warp, Bank::Double, op.address.index);
    for lane in lanes(active) {
        set(warp, Bank::Word, op.d, tokens[lane] & 0xffff_ffff, 1 << lane);
    }
}

fn init(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, lane): (u32, usize),
    (rank, offset): Spot,
    count: u64,
) -> Step {
    if count == 0 || count as i64 > MOST {
        let text = format!(
            "an mbarrier with an arrival count of {count}; 1 to {MOST} are possible"
        );
        return m.stop(FindingKind::Mbarrier, warp, pc, lane, text);
    }
    let count = count as u32;
    let made = (warp.clock.own, lane, warp.clock.now());
    let barrier = Mbarrier { expected: count, pending: count, made, ..Mbarrier::default() };
    let old = m.blocks[rank].mbarriers.insert(offset, barrier);
    m.blocks[rank].shared.mbarrier(offset as usize, true);
    if old.is_some() {
        let place = Some((u64::from(offset), "shared".to_owned()));
        m.note(FindingKind::Mbarrier, warp, pc, lane, place, || {
            "initialised again without having been invalidated".to_owned()
        });
    }
    Ok(())
}

fn arrive(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    op: &MbarrierOp,
    site: (u32, usize),
    spot: Spot,
    operand: Option<u64>,
) -> Step {
    let clock = &warp.clock;
    let (arrivals, bytes, drops) = match op.kind {
        MbarrierKind::Arrive { bytes: true, drop } => {
            (1, operand.unwrap_or(0) as u32 as i64, u32::from(drop))
        }
        MbarrierKind::Arrive { bytes: false, drop } => {
            let count = operand.unwrap_or(1) as u32;
            (count, 0, if drop { count } else { 0 })
        }
        MbarrierKind::ExpectBytes => (0, operand.unwrap_or(0) as u32 as i64, 0),
        _ => (0, -(operand.unwrap_or(0) as u32 as i64), 0),
    };
    let split = m.splits_scopes();
    let barrier = find(warp, m, site, spot)?;
    let token = barrier.token();
    let problem = if arrivals > barrier.pending {
        Some(format!("{arrivals} arrivals, but the phase expects {} more", barrier.pending))
    } else if (barrier.bytes + bytes).abs() > MOST {
        Some(format!("a transaction count of {} bytes", barrier.bytes + bytes))
    } else {
        None
    };
    if let Some(text) = problem {
        return m.stop(FindingKind::Mbarrier, warp, site.0, site.1, text);
    }
    if spot.0 != warp.rank {
        peer::arrives_at(warp, barrier);
    }
    barrier.bytes += bytes;
    barrier.pending -= arrivals;
    barrier.expected -= drops.min(barrier.expected);
    if op.orders {
        barrier.message.add((clock, 1 << site.1), op.scope, split);
    }
    barrier.settle();
    if op.d != SINK {
        set(warp, Bank::Double, op.d, token, 1 << site.1);
    }
    Ok(())
}

/// `cp.async.mbarrier.arrive`: an arrival when the thread's copies so far have landed.
pub(crate) fn copies_arrive(
    warp: &mut Warp,
    m: &mut Machine<'_>,
    (address, counted): (Address, bool),
    active: u32,
    pc: u32,
) -> Step {
    let row = addresses(warp, m, &address, active, pc);
    for lane in lanes(active) {
        let site = (pc, lane);
        let spot = locate(warp, m, site, &address, row[lane])?;
        let barrier = find(warp, m, site, spot)?;
        // Without `.noinc` the phase expects one more arrival.
        barrier.pending += u32::from(!counted);
        if barrier.pending == 0 {
            let text = "an arrival, but the phase does not expect any more";
            return m.stop(FindingKind::Mbarrier, warp, pc, lane, text);
        }
        let copies = warp.copies.take(lane);
        landing::start_copies(warp, m, site, copies, spot);
    }
    Ok(())
}
