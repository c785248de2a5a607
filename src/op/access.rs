//! Ways through memory.

use crate::format::text_of_name;

/// Which way a stream goes through memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Read every byte once.
    Read,
    /// Write every byte once.
    Write,
    /// Read one half of the bytes and write them to the other half.
    Copy,
    /// `a = b + s c` over three arrays of f32, a third of the bytes each: STREAM's
    /// triad (McCalpin 1995), two bytes read for each that is written.
    Triad,
}

text_of_name!(Access => "an access", Reuse => "a kind of reuse");

impl Access {
    /// Every access, in the order in which tables list them.
    pub const ALL: [Access; 4] = [Access::Read, Access::Write, Access::Copy, Access::Triad];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Copy => "copy",
            Access::Triad => "triad",
        }
    }
}

/// Who reads bytes again that one launch goes through several times, and so which cache
/// serves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reuse {
    /// In each pass a core reads what another one read in the pass before: what serves it is
    /// a cache that cores share.
    Shared,
    /// Each core reads its own share again: what serves it is the cache nearest to the core
    /// that holds such a share.
    Own,
}

impl Reuse {
    /// Both, the default first.
    pub const ALL: [Reuse; 2] = [Reuse::Shared, Reuse::Own];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Reuse::Shared => "shared",
            Reuse::Own => "own",
        }
    }
}
