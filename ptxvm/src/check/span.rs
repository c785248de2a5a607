//! Which bytes of which sectors an access touches, and which lane has which.

use crate::clock::APART;

/// Bytes of a sector.
pub(super) const SECTOR: u64 = 32;

/// Bytes that an instruction accesses: all of them by one lane, or equal parts by lanes that
/// follow one another, without gaps or every second word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub allocation: usize,
    pub offset: u64,
    pub bytes: u64,
    /// Bytes of each lane, as a power of two.
    each_log2: u32,
    /// From the bytes of one lane to those of the next.
    stride_log2: u32,
}

/// All bytes are one lane's.
const ONE_LANE: u32 = 63;

impl Span {
    /// Bytes that one lane accesses.
    pub(crate) fn of_lane((allocation, offset): (usize, u64), bytes: u64) -> Self {
        let (each_log2, stride_log2) = (ONE_LANE, ONE_LANE);
        Self { allocation, offset, bytes, each_log2, stride_log2 }
    }

    /// `lanes` parts of `each` bytes, a power of two and aligned to it. From one to the next
    /// it is as many bytes, or 8 where each has 4.
    pub(crate) fn of_lanes(
        place: (usize, u64),
        lanes: usize,
        (each, stride): (u64, u64),
    ) -> Self {
        if lanes == 1 {
            return Self::of_lane(place, each);
        }
        Self {
            allocation: place.0,
            offset: place.1,
            bytes: stride * (lanes as u64 - 1) + each,
            each_log2: each.trailing_zeros(),
            stride_log2: stride.trailing_zeros(),
        }
    }

    /// Where the bytes of the lane begin that comes `after` lanes after the first.
    pub(crate) fn offset_of(&self, after: usize) -> u64 {
        self.offset + ((after as u64) << (self.stride_log2 % ONE_LANE))
    }

    /// The bytes in each sector.
    #[inline]
    pub(super) fn parts(self, lane: usize) -> impl Iterator<Item = Part> {
        let end = self.offset + self.bytes;
        (self.offset / SECTOR..end.div_ceil(SECTOR)).map(move |sector| {
            let base = sector * SECTOR;
            Part {
                sector,
                low: (self.offset.max(base) - base) as u32,
                high: (end.min(base + SECTOR) - base) as u32,
                start: self.offset as i64 - base as i64,
                each_log2: self.each_log2,
                stride_log2: self.stride_log2,
                lane,
            }
        })
    }
}

/// The bytes of one sector that an access touches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub sector: u64,
    /// The first byte in the sector, and the one after the last.
    pub low: u32,
    pub high: u32,
    /// Where the access begins, counted from the sector's first byte.
    start: i64,
    each_log2: u32,
    stride_log2: u32,
    /// The lane that has the first bytes of the access.
    lane: usize,
}

impl Part {
    fn lane_at(&self, byte: u32) -> usize {
        self.lane + ((i64::from(byte) - self.start) as u64 >> self.stride_log2) as usize
    }

    fn has_gaps(&self) -> bool {
        self.stride_log2 > self.each_log2
    }

    /// Whether the first word of the access, and so the third and so on, is an odd one.
    fn is_odd(&self) -> bool {
        self.start & 4 != 0
    }

    /// The bytes, one bit per byte of the sector.
    #[inline]
    pub(super) fn mask(&self) -> u32 {
        if self.has_gaps() {
            return self.words().fold(0, |all, (word, mask, _)| all | mask << (4 * word));
        }
        (u32::MAX >> (32 - (self.high - self.low))) << self.low
    }

    /// The lanes' accesses to single words, in order: the word, its bytes and the lane.
    #[inline]
    pub(super) fn words(self) -> impl Iterator<Item = (usize, u32, usize)> {
        let step = if self.each_log2 < 2 { 1 << self.each_log2 } else { 4 };
        let mut at = self.low;
        std::iter::from_fn(move || {
            if self.has_gaps() && (at & 4 != 0) != self.is_odd() {
                at += 4;
            }
            if at >= self.high {
                return None;
            }
            let (from, word) = (at, at / 4);
            at = ((at / step + 1) * step).min(self.high);
            let bytes = (15 >> (4 - (at - from))) << (from % 4);
            Some((word as usize, bytes, self.lane_at(from)))
        })
    }

    /// The words in order, with the bytes that any lane accesses, and the lane: [`APART`]
    /// where there are several.
    #[inline]
    pub(super) fn whole_words(self) -> impl Iterator<Item = (usize, u32, usize)> {
        let single = Self { each_log2: self.each_log2.max(2), ..self };
        single.words().map(move |(word, mask, _)| {
            let first = self.lane_at(self.low.max(4 * word as u32));
            let last = self.lane_at(self.high.min(4 * word as u32 + 4) - 1);
            (word, mask, if first == last { first } else { APART })
        })
    }

    /// The lanes of each half of the sector, if all of the access consists of halves.
    #[inline]
    pub(super) fn halves(&self) -> Option<[Lanes; 2]> {
        if self.has_gaps() {
            return self.alternate_halves();
        }
        if !(self.low | self.high).is_multiple_of(16) {
            return None;
        }
        let half = |n: u32| {
            if self.low > 16 * n || self.high < 16 * n + 16 {
                return Lanes::NONE;
            }
            match (self.each_log2, self.lane_at(16 * n)) {
                (0 | 1, _) => Lanes::same(APART),
                (2, lane) => Lanes::singles(lane),
                (3, lane) => Lanes::pairs(lane),
                (_, lane) => Lanes::same(lane),
            }
        };
        Some([half(0), half(1)])
    }

    /// The same for every second word.
    fn alternate_halves(&self) -> Option<[Lanes; 2]> {
        let odd = self.is_odd();
        let half = |n: u32| {
            let first = 16 * n + 4 * u32::from(odd);
            let covers = |word: u32| self.low <= word && self.high >= word + 4;
            match (covers(first), covers(first + 8)) {
                (false, false) => Some(Lanes::NONE),
                (true, true) => Lanes::alternate(odd, self.lane_at(first)),
                _ => None,
            }
        };
        Some([half(0)?, half(1)?])
    }
}

/// The lanes that have the four words of half a sector, in seven bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lanes(pub u8);

/// Where the codes of four lanes begin, those of two lanes with two words each, and those of
/// two lanes, the first of them an even one, with the even or the odd words. Before them are
/// the codes of one lane, [`WHOLE_WARP`](crate::clock::WHOLE_WARP) or [`APART`].
const SINGLES: u8 = 35;
const PAIRS: u8 = 64;
const EVENS: u8 = 95;
const ODDS: u8 = 111;

impl Lanes {
    /// The half was not accessed.
    pub(super) const NONE: Self = Self(0);

    pub(super) fn same(lane: usize) -> Self {
        Self(1 + lane as u8)
    }

    fn singles(first: usize) -> Self {
        Self(SINGLES + first as u8)
    }

    fn pairs(first: usize) -> Self {
        Self(PAIRS + first as u8)
    }

    /// Only the even or the odd words.
    fn alternate(odd: bool, first: usize) -> Option<Self> {
        let code = if odd { ODDS } else { EVENS } + first as u8 / 2;
        first.is_multiple_of(2).then_some(Self(code))
    }

    /// The words that were accessed, one bit each.
    #[inline]
    pub(super) fn mask(self) -> u32 {
        match self.0 {
            0 => 0,
            ODDS.. => 0b1010,
            EVENS.. => 0b0101,
            _ => 0b1111,
        }
    }

    #[inline]
    pub(super) fn covers(self, word: usize) -> bool {
        self.mask() >> word & 1 != 0
    }

    /// The lane of word `word` of the half, which was accessed.
    #[inline]
    pub(super) fn at(self, word: usize) -> usize {
        match self.0 {
            code @ ODDS.. => 2 * usize::from(code - ODDS) + word / 2,
            code @ EVENS.. => 2 * usize::from(code - EVENS) + word / 2,
            code @ PAIRS.. => usize::from(code - PAIRS) + word / 2,
            code @ SINGLES.. => usize::from(code - SINGLES) + word,
            code => usize::from(code.saturating_sub(1)),
        }
    }

    /// What `merge` makes of each word's lanes here and there, if there is a code for it.
    pub(super) fn merged(
        self,
        other: Self,
        merge: impl Fn(Option<usize>, Option<usize>) -> Option<usize>,
    ) -> Option<Self> {
        let lane = |half: Self, word: usize| half.covers(word).then(|| half.at(word));
        let lanes: [Option<usize>; 4] =
            std::array::from_fn(|word| merge(lane(self, word), lane(other, word)));
        let fits = |code: &Self| (0..4).all(|word| lane(*code, word) == lanes[word]);
        codes_from(lanes).into_iter().flatten().find(fits)
    }
}

/// The codes that four words may have.
fn codes_from(lanes: [Option<usize>; 4]) -> [Option<Lanes>; 3] {
    match lanes {
        [Some(first @ 0..32), Some(_), ..] => [
            Some(Lanes::same(first)),
            (first <= 28).then(|| Lanes::singles(first)),
            (first <= 30).then(|| Lanes::pairs(first)),
        ],
        [Some(first), Some(_), ..] => [Some(Lanes::same(first)), None, None],
        [Some(first @ 0..32), None, ..] => [Lanes::alternate(false, first), None, None],
        [None, Some(first @ 0..32), ..] => [Lanes::alternate(true, first), None, None],
        [None, None, ..] => [Some(Lanes::NONE), None, None],
        _ => [None; 3],
    }
}
