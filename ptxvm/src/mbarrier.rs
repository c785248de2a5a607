//! The state of an mbarrier: a phase of arrivals and of bytes.

use std::collections::HashMap;

use crate::clock::{Clock, Scoped};

/// A live mbarrier.
#[derive(Debug, Default)]
pub(crate) struct Mbarrier {
    /// Arrivals that a phase takes.
    pub expected: u32,
    /// Arrivals still to come in this phase.
    pub pending: u32,
    /// Bytes expected and not yet arrived.
    pub bytes: i64,
    pub phase: u64,
    /// The warp, by its place in clocks, and the lane that initialised it, and when.
    pub made: (usize, usize, u32),
    /// Whether a fence has made its initialisation visible to the async proxy.
    pub is_shown: bool,
    /// Whether that was the fence for it, `fence.mbarrier_init`.
    pub is_fenced: bool,
    /// The generation of the cluster's barrier at which its warp arrived after that fence.
    pub met: Option<u64>,
    /// What the arrivals of this phase, and of the last one, published.
    pub message: Scoped,
    pub released: Scoped,
    /// The phase that it was in when a wait of each warp last succeeded.
    pub observed: HashMap<usize, u64>,
    /// Whether threads wait for it without acquiring.
    pub is_relaxed: bool,
    /// Arrivals from other blocks that nobody has waited for: phase, warp and time.
    pub visitors: Vec<(u64, usize, u32)>,
}

impl Mbarrier {
    /// Completes the phase if nothing is missing; says whether it did.
    pub(crate) fn settle(&mut self) -> bool {
        if self.pending != 0 || self.bytes != 0 {
            return false;
        }
        self.phase += 1;
        self.pending = self.expected;
        std::mem::swap(&mut self.message, &mut self.released);
        self.message.clear();
        true
    }

    /// Whether something has arrived in its phase, or bytes are expected.
    pub(crate) fn has_begun(&self) -> bool {
        self.pending != self.expected || self.bytes != 0
    }

    /// Whether it was initialised before what a warp does now. After the fence for it, a
    /// barrier of the cluster without memory order is enough.
    pub(crate) fn is_ready(&self, clock: &Clock) -> bool {
        let (warp, lane, time) = self.made;
        warp == clock.own
            || clock.knows(warp, lane, time)
            || self.met.is_some_and(|generation| clock.has_met_at(generation))
    }

    /// The state token of the current phase.
    pub(crate) fn token(&self) -> u64 {
        self.phase << 32 | u64::from(self.pending)
    }
}

/// A block of the cluster and the offset of an mbarrier there.
pub(crate) type Spot = (usize, u32);
