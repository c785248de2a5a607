//! Register banks: the kinds of register file that a warp has.

/// A register class: which of a warp's register files a register lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Bank {
    /// One bit per lane.
    Predicate,
    /// Up to 32 bits per lane.
    Word,
    /// 64 bits per lane.
    Double,
}
