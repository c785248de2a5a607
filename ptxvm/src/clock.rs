//! Who knows of whose accesses: vector clocks over the warps of a cluster.
//!
//! A warp's own entry is its time. It moves on whenever the warp publishes what it
//! did (arrives at a barrier, fences), and whoever waits learns the publisher's
//! entries. An access is ordered before another when its time is known there.

/// What one warp knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock {
    /// Own place in the vectors.
    pub own: usize,
    /// Latest known time of every warp, and last of the asynchronous copies.
    pub known: Vec<u32>,
    /// The same, for writes that a proxy fence has shown to the async proxy.
    pub fenced: Vec<u32>,
    /// What the last memory fence made ready for publication by an atomic.
    pub released: Option<Vec<u32>>,
    /// What strong reads have seen, to be learnt at the next fence.
    pub seen: Option<Vec<u32>>,
    /// Lanes of this warp are ordered among themselves up to this time.
    pub converged: u32,
}

/// What a synchronisation object carries from those that arrive to those that wait.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    pub known: Vec<u32>,
    pub fenced: Vec<u32>,
}

/// Takes the later time of each entry.
pub(crate) fn join(into: &mut Vec<u32>, from: &[u32]) {
    if into.len() < from.len() {
        into.resize(from.len(), 0);
    }
    into.iter_mut().zip(from).for_each(|(a, &b)| *a = b.max(*a));
}

impl Message {
    pub(crate) fn add(&mut self, clock: &Clock) {
        join(&mut self.known, &clock.known);
        join(&mut self.fenced, &clock.fenced);
    }

    pub(crate) fn clear(&mut self) {
        self.known.clear();
        self.fenced.clear();
    }
}

impl Clock {
    pub(crate) fn new(own: usize, warps: usize) -> Self {
        let mut known = vec![0; warps + 1];
        known[own] = 1;
        Self { own, known, fenced: vec![0; warps + 1], ..Self::default() }
    }

    /// The warp's time.
    #[inline]
    pub(crate) fn now(&self) -> u32 {
        self.known[self.own]
    }

    /// Later accesses are not part of what was published.
    pub(crate) fn tick(&mut self) {
        self.known[self.own] += 1;
    }

    /// Learns what others published.
    pub(crate) fn learn(&mut self, message: &Message) {
        join(&mut self.known, &message.known);
        join(&mut self.fenced, &message.fenced);
        self.converge();
    }

    /// Orders the warp's own lanes.
    pub(crate) fn converge(&mut self) {
        self.tick();
        self.converged = self.now();
    }

    /// A memory fence: what was seen is learnt, what was done is ready to publish.
    pub(crate) fn fence(&mut self) {
        if let Some(seen) = self.seen.take() {
            join(&mut self.known, &seen);
        }
        self.released = Some(self.known.clone());
        self.tick();
    }

    /// A strong read saw what a strong write published: learnt at once where it
    /// acquires, else at the next fence.
    pub(crate) fn observe(&mut self, published: &[u32], acquire: bool) {
        if acquire {
            join(&mut self.known, published);
        } else {
            join(self.seen.get_or_insert_default(), published);
        }
    }

    /// A proxy fence: every write known here may be read by the async proxy.
    pub(crate) fn fence_proxy(&mut self) {
        let known = std::mem::take(&mut self.known);
        join(&mut self.fenced, &known);
        self.known = known;
        self.tick();
    }

    /// Whether an access of `warp` at `time` is ordered before now.
    #[inline]
    pub(crate) fn knows(&self, warp: usize, time: u32) -> bool {
        self.known[warp] >= time
    }
}
