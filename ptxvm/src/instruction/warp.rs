//! Exchanges between the lanes of a warp.

use crate::bank::Bank;

/// How `shfl` picks its source lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

/// `shfl.sync`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shuffle {
    pub mode: ShuffleMode,
    pub d: u16,
    /// Whether the source lane was in range; or [`SINK`](crate::instruction::SINK).
    pub p: u16,
    pub a: u16,
    pub b: u16,
    pub c: u16,
    pub mask: u16,
}

/// The result of `vote.sync` and `match.sync`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uniform,
    Ballot,
    MatchAny,
    MatchAll,
}

/// `vote.sync` or `match.sync`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Vote {
    pub mode: VoteMode,
    /// A predicate, or a word for a ballot or match.
    pub d: u16,
    /// `match.all`'s predicate, or [`SINK`](crate::instruction::SINK).
    pub p: u16,
    pub bank: Bank,
    pub a: u16,
    pub negated: bool,
    pub mask: u16,
}

/// `redux.sync`.
#[derive(Debug, Clone)]
pub(crate) struct Redux {
    pub f: fn(u32, u32) -> u32,
    pub d: u16,
    pub a: u16,
    pub mask: u16,
}
