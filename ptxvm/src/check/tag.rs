//! One access to a word of global memory, as the shadow keeps it.

use crate::clock::{Clock, both_lanes};
use crate::instruction::{Order, Scope};

/// A warp number that stands for several warps of a block.
pub(super) const SEVERAL_WARPS: usize = 63;
/// The latest time that fits a tag. Later accesses count as that old: a race may be
/// missed then, but none is invented.
pub(super) const MOST_TIME: u32 = IN_FLIGHT - 1;
/// The time of a write that is not known to be complete: nothing is ordered after it.
pub(super) const IN_FLIGHT: u32 = (1 << 19) - 1;
/// Blocks from this number on leave no tags.
const MOST_BLOCKS: u32 = (1 << 25) - 1;

/// How memory is accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// By a thread, without a memory order.
    Weak,
    /// By a thread, relaxed or stronger: two such accesses do not race where the scope of
    /// each includes the other's thread.
    Strong(Scope),
    /// By the async proxy, for a thread.
    Async,
}

impl Manner {
    pub(crate) fn of_thread(order: Order, scope: Scope) -> Self {
        if order.is_strong() { Manner::Strong(scope) } else { Manner::Weak }
    }
}

/// Who accesses memory, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accessor<'c> {
    pub clock: &'c Clock,
    pub lane: usize,
    pub manner: Manner,
}

/// An access as the shadow keeps it: 25 bits of block, 6 of warp, 6 of lane, 4 of bytes, 4
/// that differ, 19 of time. The four are a write's manner; or the bytes of the word that
/// several blocks have read, while the rest of the tag is of one block's read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tag {
    pub block: u32,
    pub warp: usize,
    pub lane: usize,
    /// Bytes of the word, one bit per byte.
    pub bytes: u32,
    pub manner: Manner,
    pub time: u32,
}

impl Tag {
    pub(super) fn of(by: &Accessor<'_>, bytes: u32, time: u32) -> Self {
        let (block, warp) = by.clock.place();
        Self { block, warp, lane: by.lane, bytes, manner: by.manner, time }
    }

    #[inline]
    pub(super) fn pack(self) -> u64 {
        let manner = match self.manner {
            Manner::Weak => 0,
            Manner::Async => 1,
            Manner::Strong(scope) => 2 + scope as u64,
        };
        self.place() | manner << 19
    }

    /// The tag without a manner. Empty where the block's number does not fit.
    #[inline]
    pub(super) fn place(self) -> u64 {
        if self.bytes == 0 || self.block >= MOST_BLOCKS {
            return 0;
        }
        u64::from(self.block + 1) << 39
            | (self.warp as u64) << 33
            | (self.lane as u64) << 27
            | u64::from(self.bytes) << 23
            | u64::from(self.time.min(IN_FLIGHT))
    }

    #[inline]
    pub(super) fn unpack(bits: u64) -> Option<Self> {
        Some(Self {
            manner: match bits >> 19 & 15 {
                0 => Manner::Weak,
                1 => Manner::Async,
                n => Manner::Strong(Scope::ALL[(n as usize - 2).min(2)]),
            },
            ..Self::unpack_read(bits)?
        })
    }

    #[inline]
    pub(super) fn unpack_read(bits: u64) -> Option<Self> {
        Some(Self {
            block: ((bits >> 39) as u32).checked_sub(1)?,
            warp: (bits >> 33 & 63) as usize,
            lane: (bits >> 27 & 63) as usize,
            bytes: (bits >> 23 & 15) as u32,
            manner: Manner::Weak,
            time: bits as u32 & IN_FLIGHT,
        })
    }

    /// This access and an earlier one by the same warp at the same time.
    pub(super) fn with(self, old: Self) -> Self {
        let lane = both_lanes(old.lane, self.lane, old.bytes & self.bytes != 0);
        Self { lane, bytes: old.bytes | self.bytes, ..self }
    }

    pub(super) fn is_together_with(self, other: Self) -> bool {
        (self.block, self.warp, self.time) == (other.block, other.warp, other.time)
    }

    /// Whether both are strong; and whether the scope of each includes the other's thread.
    fn strong_with(self, by: &Accessor<'_>) -> (bool, bool) {
        let (Manner::Strong(a), Manner::Strong(b)) = (self.manner, by.manner) else {
            return (false, false);
        };
        (true, a.min(b) >= by.clock.scope_with(self.block))
    }

    /// Whether this access is not ordered before one by `by`.
    #[inline]
    pub(super) fn races(self, by: &Accessor<'_>) -> bool {
        let clock = by.clock;
        // A warp's own stores by the async proxy may follow each other.
        if self.is_in_flight() {
            return by.manner != Manner::Async || (self.block, self.warp) != clock.place();
        }
        let ordered = if (self.block, self.warp) == clock.place() {
            clock.orders_lane(self.lane, self.time, by.lane)
        } else if self.warp == SEVERAL_WARPS {
            clock.has_met(self.block)
        } else {
            clock.knows_of((self.block, self.warp), self.lane, self.time)
        };
        !ordered && !self.strong_with(by).1
    }

    /// Whether the async proxy may not see this write, although it is ordered before the
    /// proxy's read.
    pub(super) fn is_hidden(self, by: &Accessor<'_>) -> bool {
        by.manner == Manner::Async
            && self.manner != Manner::Async
            && !by.clock.has_shown((self.block, self.warp), self.lane, self.time)
    }

    /// What this read did, if it is not ordered before a write by `by`.
    #[inline]
    pub(super) fn is_read_before(self, by: &Accessor<'_>) -> Option<Did> {
        // The programming guide's additions by compare-and-swap begin with an ordinary
        // read, while other lanes' atomics may be under way; the swap finds that out.
        let is_atomic = matches!(by.manner, Manner::Strong(_));
        if is_atomic && (self.block, self.warp) == by.clock.place() {
            return None;
        }
        self.races(by).then_some(Did::Read)
    }

    /// Whether it is an asynchronous store that nobody has waited for.
    #[inline]
    pub(super) fn is_in_flight(self) -> bool {
        self.manner == Manner::Async && self.time == IN_FLIGHT
    }

    pub(super) fn rival(self, did: Did) -> Rival {
        Rival { block: Some(self.block), warp: self.warp, lane: self.lane, did }
    }
}

/// What another access did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Did {
    Read,
    Write,
    /// Wrote as strongly as this access, but the scope of one, given here, does not include
    /// the other's thread.
    WriteApart(Scope),
    /// Wrote, in order, but without a proxy fence before the async proxy's read.
    WriteUnfenced,
    /// Began an asynchronous store, which is not known to be complete.
    WriteInFlight,
    /// Wrote what is now read through the read-only path.
    WriteConstant,
    /// Read through the read-only path, by the instruction at this place in the code.
    ReadConstant(u32),
}

/// Another access that does not fit with this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rival {
    pub block: Option<u32>,
    pub warp: usize,
    pub lane: usize,
    pub did: Did,
}

impl Rival {
    /// Reads by several blocks.
    pub(super) const SEVERAL_BLOCKS: Self =
        Self { block: None, warp: 0, lane: 0, did: Did::Read };
}

/// What does not fit with an access, and the lane of that access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub rival: Rival,
    pub lane: usize,
}

impl Tag {
    /// What this write did that is not ordered before `by`'s access.
    pub(super) fn did(self, by: &Accessor<'_>) -> Did {
        match (self.manner, by.manner) {
            _ if self.is_in_flight() => Did::WriteInFlight,
            (Manner::Strong(a), Manner::Strong(b)) => Did::WriteApart(a.min(b)),
            _ => Did::Write,
        }
    }
}

/// The bytes of a word that several blocks have read.
pub(super) fn several(read: u64) -> u32 {
    (read >> 19 & 15) as u32
}

/// The reads of a word after one more: the last one, or which bytes several warps or
/// blocks have read that are not ordered among themselves.
#[inline]
pub(super) fn note_read(old: u64, own: Tag, clock: &Clock) -> u64 {
    let mut several = several(old);
    let own = Tag { bytes: own.bytes & !several, ..own };
    let new = match Tag::unpack_read(old) {
        _ if own.bytes == 0 => return old,
        None => own,
        Some(read)
            if (read.block, read.warp) == (own.block, SEVERAL_WARPS)
                && own.bytes & !read.bytes == 0 =>
        {
            return old;
        }
        Some(old) if old.is_together_with(own) => own.with(old),
        Some(old) if (old.block, old.warp) == (own.block, own.warp) => own,
        // A write that is ordered after this read is ordered after that one too.
        Some(old)
            if old.bytes & !own.bytes == 0
                && old.warp != SEVERAL_WARPS
                && clock.knows_of((old.block, old.warp), old.lane, old.time) =>
        {
            own
        }
        Some(old) if old.block != own.block => {
            let both = old.bytes & own.bytes;
            several |= both;
            // Of two blocks that read different bytes, one is kept.
            match own.bytes & !both {
                0 => Tag { bytes: old.bytes & !both, ..old },
                rest => Tag { bytes: rest, ..own },
            }
        }
        // Which lanes they were makes no difference then.
        Some(old) => {
            let bytes = own.bytes | old.bytes;
            Tag { warp: SEVERAL_WARPS, lane: 0, bytes, ..own }
        }
    };
    new.place() | several_bits(several)
}

/// The bytes of a word that several blocks have read, as they are kept.
pub(super) fn several_bits(bytes: u32) -> u64 {
    u64::from(bytes) << 19
}

/// A read through the read-only path: 25 bits of block, 6 of warp, 33 of place in the code.
pub(super) fn pack_constant(by: &Accessor<'_>, pc: u32) -> u64 {
    let (block, warp) = by.clock.place();
    let block = u64::from(block.min(MOST_BLOCKS - 1) + 1);
    block << 39 | (warp as u64) << 33 | u64::from(pc)
}

/// The same unpacked.
pub(super) fn constant_read(bits: u64) -> Option<Rival> {
    let block = ((bits >> 39) as u32).checked_sub(1)?;
    let did = Did::ReadConstant(bits as u32);
    Some(Rival { block: Some(block), warp: (bits >> 33 & 63) as usize, lane: 0, did })
}
