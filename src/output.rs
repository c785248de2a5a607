//! What the program says. Nothing else writes to standard output or to standard error.
//!
//! A reader that stops early, such as `head`, is not an error: what it does not read is
//! dropped, and the program goes on with what else it has to do. Standard output that takes
//! no text for another reason, such as a full disk, is one. Standard error is where errors
//! are told, and a log that cannot be written must not end a measurement, so a failure there
//! is only kept for the exit code: see [`are_remarks_lost`].

use std::io::{self, BufWriter, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// Whether standard error took no text, though somebody was there to read.
static REMARKS_LOST: AtomicBool = AtomicBool::new(false);

/// Whether a write failed because nobody reads any more.
fn has_no_reader(error: &io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe
}

/// Prints a text to standard output.
///
/// # Errors
/// Standard output that cannot be written, unless its reader has gone.
pub fn print(text: &str) -> Result<()> {
    end_print(write_all(io::stdout().lock(), |to| to.write_all(text.as_bytes())))
}

/// Prints a text and the end of its line.
///
/// # Errors
/// As [`print()`].
pub fn print_line(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Prints what is too much to be held in memory, and returns what the writer knows at its
/// end. One whose reader has gone is told so and should end; nothing is returned then.
///
/// # Errors
/// As [`print()`].
pub fn stream<T>(write: impl FnOnce(&mut dyn Write) -> io::Result<T>) -> Result<Option<T>> {
    let mut done = None;
    end_print(write_all(io::stdout().lock(), |to| {
        done = Some(write(to)?);
        Ok(())
    }))?;
    Ok(done)
}

/// What became of a write to standard output that something else made.
///
/// # Errors
/// As [`print()`].
pub fn end_print(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if has_no_reader(&error) => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

/// Writes to a sink whose reader may go.
fn write_all(
    sink: impl Write,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut to = BufWriter::with_capacity(BUFFER_BYTES, sink);
    // Flushed here: what is left to the end of the program fails unseen.
    write(&mut to).and_then(|()| to.flush())
}

/// Writes a line to standard error, in the form of `println!`.
macro_rules! remark {
    ($($part:tt)*) => { $crate::output::write_remark(&format!("{}\n", format_args!($($part)*))) };
}
pub(crate) use remark;

/// Writes a text to standard error as it is.
pub fn write_remark(text: &str) {
    keep_failure(io::stderr().lock().write_all(text.as_bytes()));
}

/// Takes note of what became of a write to standard error.
pub fn keep_failure(written: io::Result<()>) {
    if written.is_err_and(|error| !has_no_reader(&error)) {
        REMARKS_LOST.store(true, Ordering::Relaxed);
    }
}

/// Whether a remark was lost, other than for want of a reader. The program then does not end
/// as if all was well.
pub fn are_remarks_lost() -> bool {
    REMARKS_LOST.load(Ordering::Relaxed)
}

/// Standard error as a writer that takes all there is: see [`write_remark`].
#[derive(Clone, Copy, Debug)]
pub struct Remarks;

impl Write for Remarks {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        keep_failure(io::stderr().lock().write_all(text));
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sink that fails in its own way after some bytes.
    struct Failing {
        room: usize,
        kind: ErrorKind,
        written: Vec<u8>,
    }

    impl Write for &mut Failing {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let taken = text.len().min(self.room);
            if taken == 0 && !text.is_empty() {
                return Err(self.kind.into());
            }
            self.room -= taken;
            self.written.extend(&text[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn failing(kind: ErrorKind) -> Failing {
        Failing { room: 3, kind, written: Vec::new() }
    }

    #[test]
    fn a_reader_that_goes_is_no_error_and_a_full_disk_is() {
        let text = |to: &mut dyn Write| to.write_all(b"abcdef");
        let mut gone = failing(ErrorKind::BrokenPipe);
        assert!(end_print(write_all(&mut gone, text)).is_ok());
        assert_eq!(gone.written, b"abc");
        let mut full = failing(ErrorKind::StorageFull);
        let error = end_print(write_all(&mut full, text)).unwrap_err();
        assert!(format!("{error:#}").starts_with("cannot write to standard output: "));
    }

    /// Who writes more than is held at a time notices, and can stop.
    #[test]
    fn a_stream_is_told_that_nobody_reads() {
        let mut gone = failing(ErrorKind::BrokenPipe);
        let mut blocks = 0;
        let endless = |to: &mut dyn Write| loop {
            to.write_all(&[b'x'; BUFFER_BYTES])?;
            blocks += 1;
        };
        assert!(end_print(write_all(&mut gone, endless)).is_ok());
        assert!(blocks < 3, "{blocks} blocks for nobody");
    }
}
