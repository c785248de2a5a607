//! Streams that record what is queued instead of running it.

use std::collections::HashMap;

use crate::code::{Code, Result};
use crate::queue::{Entry, Handle};

/// A recording, of one stream and those that came to wait for it.
#[derive(Debug)]
pub struct Recording {
    origin: Handle,
    entries: Vec<Entry>,
    /// Streams that take part, and whether the origin does not wait for their last entry.
    members: HashMap<Handle, bool>,
    /// Events that were recorded within, and on which stream.
    events: HashMap<Handle, Handle>,
    spoiled: bool,
}

impl Recording {
    /// Begins with a stream.
    pub fn new(origin: Handle) -> Self {
        Recording {
            origin,
            entries: Vec::new(),
            members: [(origin, false)].into(),
            events: HashMap::new(),
            spoiled: false,
        }
    }

    /// Whether a stream takes part.
    pub fn has(&self, stream: Handle) -> bool {
        self.members.contains_key(&stream)
    }

    /// Whether an event was recorded within.
    pub fn has_event(&self, event: Handle) -> bool {
        self.events.contains_key(&event)
    }

    /// Spoils it: something was called that cannot be recorded.
    pub const fn spoil(&mut self) {
        self.spoiled = true;
    }

    /// Adds an entry of a stream.
    pub fn push(&mut self, stream: Handle, entry: Entry) {
        self.entries.push(entry);
        self.members.insert(stream, stream != self.origin);
    }

    /// An event follows the entries of a stream so far.
    pub fn record(&mut self, stream: Handle, event: Handle) {
        self.events.insert(event, stream);
    }

    /// A stream waits for an event that was recorded within, and takes part from then on.
    pub fn wait(&mut self, stream: Handle, event: Handle) {
        // Entries have an order already, that in which they were queued.
        self.members.entry(stream).or_insert(stream != self.origin);
        if let Some(of) = self.events.get(&event) {
            self.members.insert(*of, false);
        }
    }

    /// The entries, when the stream that began it ends it.
    ///
    /// # Errors
    /// Another stream, a recording that was spoiled, a stream that nothing waits for.
    pub fn end(self, stream: Handle) -> Result<Vec<Entry>> {
        if stream != self.origin {
            return Err(Code::INVALID_VALUE);
        }
        if self.spoiled {
            return Err(Code::CAPTURE_INVALIDATED);
        }
        if self.members.values().any(|&is_unjoined| is_unjoined) {
            return Err(Code::CAPTURE_UNJOINED);
        }
        Ok(self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: Entry = Entry::Set { address: 0, bytes: 1, value: 0 };

    #[test]
    fn a_side_stream_must_be_waited_for() {
        let forked = || {
            let mut recording = Recording::new(1);
            recording.push(1, SET);
            recording.record(1, 10);
            recording.wait(2, 10);
            recording.push(2, SET);
            recording
        };
        assert_eq!(forked().end(1).unwrap_err(), Code::CAPTURE_UNJOINED);
        let mut joined = forked();
        joined.record(2, 11);
        joined.wait(1, 11);
        assert_eq!(joined.end(1).unwrap().len(), 2);
        assert_eq!(forked().end(2).unwrap_err(), Code::INVALID_VALUE);
        let mut spoiled = Recording::new(1);
        spoiled.spoil();
        assert_eq!(spoiled.end(1).unwrap_err(), Code::CAPTURE_INVALIDATED);
    }
}
