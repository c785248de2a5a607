//! What the driver says on standard error of the program that has loaded it. That nobody
//! reads it must not end a call.

use std::fmt::Display;
use std::io::Write;

/// Writes a line.
pub fn remark(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "virtual driver: {text}");
}
