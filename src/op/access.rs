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

text_of_name!(Access => "an access");

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
