//! Tensor maps in global memory that the launch itself writes.
//!
//! Copies read their map through a proxy of its own, which may hold an older version of it.
//! A map that threads have written is seen there after two fences on the way from the
//! writers to the copy: `fence.proxy.tensormap::generic.release`, or
//! `tensormap.cp_fenceproxy`, behind the writes, and
//! `fence.proxy.tensormap::generic.acquire` on the map's address before the copy.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::check::{GlobalRaces, Look};
use crate::clock::Clock;
use crate::lanes::LANES;

/// Most acquires of one map that are kept; older ones are forgotten.
const MOST_KEPT: usize = 256;

/// The maps that warps have acquired, by allocation and offset.
#[derive(Debug, Default)]
pub(crate) struct AcquiredMaps {
    maps: Mutex<HashMap<(usize, u64), Vec<Acquire>>>,
}

/// What a warp made visible to tensor copies.
#[derive(Debug)]
struct Acquire {
    block: u32,
    warp: usize,
    time: u32,
    /// The last writes of the map's words then.
    writes: Vec<u64>,
}

/// Why a copy may see an older version of its map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stale {
    /// Nothing orders the writes before it.
    Unordered,
    /// No proxy fence released the writes.
    Unreleased,
    /// No proxy fence acquired them.
    Unacquired,
}

impl AcquiredMaps {
    /// A warp acquires the map at a place: what it knows to have been released there.
    pub(crate) fn acquire(&self, races: &GlobalRaces, place: (usize, u64), by: &Clock) {
        let Some(writes) = races.writes_of_map(place.0, place.1) else { return };
        if worst(&writes, by) != Look::Visible {
            return;
        }
        let (block, warp) = by.place();
        let mut maps = self.maps.lock().unwrap_or_else(|lock| lock.into_inner());
        let list = maps.entry(place).or_default();
        // The first of several equal ones is known to the most.
        let is_same =
            |old: &Acquire| (old.block, old.warp) == (block, warp) && old.writes == writes;
        if !list.iter().any(is_same) {
            if list.len() == MOST_KEPT {
                list.remove(0);
            }
            list.push(Acquire { block, warp, time: by.now(), writes });
        }
    }

    /// Why a copy that a warp starts may see an older version of the map at a place.
    pub(crate) fn stale(
        &self,
        races: &GlobalRaces,
        place: (usize, u64),
        by: &Clock,
    ) -> Option<Stale> {
        let writes = races.writes_of_map(place.0, place.1)?;
        match worst(&writes, by) {
            Look::Unordered => return Some(Stale::Unordered),
            Look::Unreleased => return Some(Stale::Unreleased),
            Look::Visible => {}
        }
        let maps = self.maps.lock().unwrap_or_else(|lock| lock.into_inner());
        // Who acquires does so for its whole warp, so any lane's time will do.
        let knows = |place: (u32, usize), time: u32| {
            (0..LANES).any(|lane| by.knows_of(place, lane, time))
        };
        let serves = |acquire: &Acquire| {
            let place = (acquire.block, acquire.warp);
            acquire.writes == writes && (place == by.place() || knows(place, acquire.time))
        };
        let acquired = maps.get(&place).is_some_and(|list| list.iter().any(serves));
        (!acquired).then_some(Stale::Unacquired)
    }
}

/// How the write looks that is farthest from being visible.
fn worst(writes: &[u64], by: &Clock) -> Look {
    let mut worst = Look::Visible;
    for &write in writes {
        match GlobalRaces::look(write, by) {
            Look::Unordered => return Look::Unordered,
            Look::Unreleased => worst = Look::Unreleased,
            Look::Visible => {}
        }
    }
    worst
}
