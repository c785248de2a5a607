//! One access to a whole sector of 32 bytes, to half of it, or to every second word, as the
//! shadow keeps it.

use super::span::{Lanes, Part};
use super::tag::{
    Accessor, Did, Found, IN_FLIGHT, Manner, SEVERAL_WARPS, Tag, several_bits,
};
use crate::clock::{Clock, both_lanes};
use crate::lanes::lanes;

/// Blocks from this number on are kept by word.
const MOST_BLOCKS: u32 = (1 << 23) - 1;

/// What was last done to each half of a sector: by one warp at one time, each half all by
/// one lane, by two with two words each, or by four; or every second word by two lanes.
///
/// 23 bits of block, 6 of warp, 19 of time, 2 that differ, 7 of each half's lanes. The two
/// are a write's manner; or the halves that several blocks have read, while the rest is
/// of one block's read. Without a block (0) it is either nothing, or the number of the
/// sector's words: see [`Wide::words`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wide {
    /// Plus one; 0 for none.
    block: u32,
    warp: usize,
    time: u32,
    /// A write's: 0 for weak and 1 for async. A read's: the halves that several blocks
    /// have read.
    mode: u32,
    lanes: [Lanes; 2],
}

/// The sector is kept by word.
const BY_WORD: u64 = 1 << 16;

impl Wide {
    /// The access of a warp to part of a sector, if it has this form.
    #[inline]
    pub(super) fn of(part: &Part, by: &Accessor<'_>, time: u32) -> Option<Self> {
        let (block, warp) = by.clock.place();
        let mode = match by.manner {
            Manner::Weak => 0,
            Manner::Async => 1,
            Manner::Strong(_) => return None,
        };
        let lanes = part.halves().filter(|_| block < MOST_BLOCKS)?;
        Some(Self { block: block + 1, warp, time, mode, lanes })
    }

    #[inline]
    pub(super) fn pack(self) -> u64 {
        let mode = u64::from(self.mode) << 14;
        if self.lanes == [Lanes::NONE; 2] {
            return mode;
        }
        u64::from(self.block) << 41
            | (self.warp as u64) << 35
            | u64::from(self.time) << 16
            | mode
            | u64::from(self.lanes[1].0) << 7
            | u64::from(self.lanes[0].0)
    }

    #[inline]
    pub(super) fn unpack(bits: u64) -> Self {
        Self {
            block: (bits >> 41) as u32,
            warp: (bits >> 35 & 63) as usize,
            time: (bits >> 16) as u32 & IN_FLIGHT,
            mode: (bits >> 14 & 3) as u32,
            lanes: [Lanes(bits as u8 & 127), Lanes((bits >> 7) as u8 & 127)],
        }
    }

    /// What stands for a sector that is kept by word, with this number in its page.
    pub(super) fn by_word(number: usize) -> u64 {
        BY_WORD | (number as u64) << 17
    }

    /// The number of a sector that is kept by word.
    #[inline]
    pub(super) fn number(bits: u64) -> Option<usize> {
        (bits >> 41 == 0 && bits & BY_WORD != 0).then_some((bits >> 17 & 0x3ff) as usize)
    }

    /// The access to word `word` of the sector.
    #[inline]
    fn tag(self, word: usize, manner: Manner) -> Tag {
        let lane = self.lanes[word / 4].at(word % 4);
        let (block, warp) = (self.block.saturating_sub(1), self.warp);
        Tag { block, warp, lane, bytes: 15, manner, time: self.time }
    }

    fn manner(self) -> Manner {
        if self.mode == 0 { Manner::Weak } else { Manner::Async }
    }

    /// The tag of a word of a sector that was written.
    pub(super) fn written_word(bits: u64, word: usize) -> u64 {
        let wide = Self::unpack(bits);
        match wide.covers(word) {
            false => 0,
            true => wide.tag(word, wide.manner()).pack(),
        }
    }

    /// The tag of a word of a sector that was read.
    pub(super) fn read_word(bits: u64, word: usize) -> u64 {
        let wide = Self::unpack(bits);
        let several = if wide.mode >> (word / 4) & 1 != 0 { 15 } else { 0 };
        let place = match wide.covers(word) {
            false => 0,
            true => wide.tag(word, Manner::Weak).place(),
        };
        place | several_bits(several)
    }

    #[inline]
    fn covers(self, word: usize) -> bool {
        self.lanes[word / 4].covers(word % 4)
    }

    /// The words that were accessed, one bit each.
    #[inline]
    fn words(self) -> u32 {
        self.lanes[0].mask() | self.lanes[1].mask() << 4
    }

    /// The same for these halves only.
    fn only(self, halves: u32) -> Self {
        let half =
            |n: usize| if halves >> n & 1 != 0 { self.lanes[n] } else { Lanes::NONE };
        Self { lanes: [half(0), half(1)], ..self }
    }

    fn is_of(self, (block, warp): (u32, usize)) -> bool {
        (self.block, self.warp) == (block + 1, warp)
    }

    fn is_together_with(self, other: Self) -> bool {
        (self.block, self.warp, self.time) == (other.block, other.warp, other.time)
    }

    /// This access and an earlier one by the same warp at the same time.
    fn with(self, old: Self) -> Option<Self> {
        let merge = |a: Option<usize>, b: Option<usize>| match (a, b) {
            (Some(a), Some(b)) => Some(both_lanes(a, b, true)),
            (a, b) => a.or(b),
        };
        let half = |n: usize| match (old.lanes[n], self.lanes[n]) {
            (a, Lanes::NONE) => Some(a),
            (Lanes::NONE, b) => Some(b),
            (a, b) if a == b => Some(a),
            (a, b) => a.merged(b, merge),
        };
        Some(Self { lanes: [half(0)?, half(1)?], ..self })
    }

    /// Whether the accesses to some words are ordered before now; none where only those of
    /// some lanes are.
    fn is_known_to(self, clock: &Clock, words: u32) -> Option<bool> {
        let place = (self.block - 1, self.warp);
        let knows = |word: usize| {
            clock.knows_of(place, self.lanes[word / 4].at(word % 4), self.time)
        };
        let Some(first) = lanes(words).next() else { return Some(false) };
        let known = knows(first);
        let alike = !clock.tells_apart(place) || lanes(words).all(|n| knows(n) == known);
        alike.then_some(known)
    }

    fn of_several_warps(self) -> Option<Self> {
        let half = |n: usize| match self.lanes[n].mask() {
            0 => Some(Lanes::NONE),
            0b1111 => Some(Lanes::same(0)),
            _ => None,
        };
        Some(Self { warp: SEVERAL_WARPS, lanes: [half(0)?, half(1)?], ..self })
    }

    /// The writes of a sector after one more; none where this form cannot keep them.
    #[inline]
    pub(super) fn after_write(self, own: Self) -> Option<Self> {
        if self.is_together_with(own) && self.mode == own.mode {
            return own.with(self);
        }
        (self.words() & !own.words() == 0).then_some(own)
    }

    /// The reads of a sector after one more; none where this form cannot keep them. For
    /// each half this is what [`note_read`](super::tag::note_read) does for a word.
    #[inline]
    pub(super) fn after_read(self, own: Self, clock: &Clock) -> Option<Self> {
        let several = self.mode;
        let own = Self { mode: several, ..own.only(!several) };
        let (old, new) = (self.words(), own.words());
        if new == 0 {
            return Some(self);
        }
        let replaces = old & !new == 0;
        if old == 0 {
            return Some(own);
        }
        if self.is_together_with(own) {
            return own.with(self);
        }
        if (self.block, self.warp) == (own.block, own.warp) {
            return replaces.then_some(own);
        }
        if self.block == own.block && self.warp == SEVERAL_WARPS {
            return (new & !old == 0).then_some(self);
        }
        if self.warp != SEVERAL_WARPS && self.is_known_to(clock, old & new)? {
            return replaces.then_some(own);
        }
        if self.block == own.block {
            return own.of_several_warps().filter(|_| old == new);
        }
        let both = match old & new {
            0 => 0,
            0x0f => 1,
            0xf0 => 2,
            0xff => 3,
            _ => return None,
        };
        let mode = several | both;
        match (self.only(!both), own.only(!both)) {
            (rest, none) if none.words() == 0 => Some(Self { mode, ..rest }),
            (none, rest) if none.words() == 0 => Some(Self { mode, ..rest }),
            _ => None,
        }
    }

    /// The writes of a sector after lanes have stored what is there already; none where
    /// this form cannot keep them.
    pub(super) fn after_same(
        self,
        by: &Accessor<'_>,
        time: u32,
        part: &Part,
    ) -> Option<Self> {
        let together = self.is_of(by.clock.place()) && self.time == time;
        if !together || self.manner() != by.manner {
            return Some(self);
        }
        let alike = part.words().all(|(word, _, lane)| {
            !self.covers(word) || self.lanes[word / 4].at(word % 4) == lane
        });
        if alike {
            return Some(self);
        }
        let own = part.halves()?;
        let merge = |a: Option<usize>, b: Option<usize>| match (a, b) {
            (Some(a), Some(b)) => Some(both_lanes(a, b, false)),
            (a, _) => a,
        };
        let half = |n: usize| self.lanes[n].merged(own[n], merge);
        Some(Self { lanes: [half(0)?, half(1)?], ..self })
    }

    /// The writes of a sector after a warp has waited for its asynchronous store to part
    /// of it; none where this form cannot keep them.
    pub(super) fn after_wait(
        self,
        place: (u32, usize),
        time: u32,
        part: &Part,
    ) -> Option<Self> {
        let is_open = self.manner() == Manner::Async && self.time == IN_FLIGHT;
        let halves = |bits: [bool; 2]| u32::from(bits[0]) | u32::from(bits[1]) << 1;
        let touched = halves([part.low < 16, part.high > 16]);
        let open = halves([0, 1].map(|n: usize| self.lanes[n] != Lanes::NONE));
        if !self.is_of(place) || !is_open || open & touched == 0 {
            return Some(self);
        }
        let whole =
            halves([part.low < 4 && part.high > 12, part.low < 20 && part.high > 28]);
        (open & !whole == 0).then_some(Self { time, ..self })
    }

    /// Whether several blocks have read one of the halves that `part` touches.
    #[inline]
    pub(super) fn several(self, part: &Part) -> bool {
        let low = self.mode & 1 != 0 && part.low < 16;
        low || self.mode & 2 != 0 && part.high > 16
    }

    /// What `judge` finds of a write and one of the accesses of `part` to the same bytes.
    #[inline]
    pub(super) fn find_write(
        self,
        part: &Part,
        by: Accessor<'_>,
        judge: impl Fn(Tag, &Accessor<'_>) -> Option<Did>,
    ) -> Option<Found> {
        self.find(self.manner(), part, by, judge)
    }

    /// The same of a read.
    #[inline]
    pub(super) fn find_read(
        self,
        part: &Part,
        by: Accessor<'_>,
        judge: impl Fn(Tag, &Accessor<'_>) -> Option<Did>,
    ) -> Option<Found> {
        self.find(Manner::Weak, part, by, judge)
    }

    #[inline]
    fn find(
        self,
        manner: Manner,
        part: &Part,
        by: Accessor<'_>,
        judge: impl Fn(Tag, &Accessor<'_>) -> Option<Did>,
    ) -> Option<Found> {
        if self.block == 0 {
            return None;
        }
        // Which lane it was makes a difference only within a warp and before it converges, or
        // where some lanes of a warp, of this one too, have published or fenced for
        // themselves.
        let place = (self.block - 1, self.warp);
        let lanes_differ = || {
            let before_convergence = self.time >= by.clock.converged;
            place == by.clock.place() && before_convergence || by.clock.tells_apart(place)
        };
        for (word, _, lane) in part.words() {
            if !self.covers(word) {
                continue;
            }
            let tag = self.tag(word, manner);
            if let Some(did) = judge(tag, &Accessor { lane, ..by }) {
                return Some(Found { rival: tag.rival(did), lane });
            }
            if !lanes_differ() {
                return None;
            }
        }
        None
    }
}
