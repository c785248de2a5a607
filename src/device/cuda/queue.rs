//! How a row of launches is queued: as graphs that are recorded once, or one by one.

use crate::point::LaunchMode;

/// Launches that are queued while the GPU is held: well under the about 1000
/// after which a driver makes the host wait, which would be for ever. Those in
/// a graph count one by one.
pub const MAX_HELD: usize = 256;

/// Most launches of one run that are recorded as a graph: whole steps of models are a few
/// hundred.
const MAX_IN_GRAPH: usize = 512;

/// Most instances of a problem whose rows are graphs: as many different launches are
/// recorded, and each takes memory of the driver.
const MAX_RECORDED_SLOTS: usize = 16 * MAX_HELD;

/// Some launches of a row, on slots that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stretch {
    /// Slot of the first.
    pub first_slot: usize,
    /// How many.
    pub launches: usize,
}

/// How rows of a prepared point are queued.
#[derive(Clone, Copy, Debug)]
pub struct RowQueue {
    slots: usize,
    /// Entries of the queue that a launch makes.
    entries: usize,
    mode: LaunchMode,
}

impl RowQueue {
    /// For a point of so many slots, whose runs add so many entries to the queue.
    pub fn new(slots: usize, entries: usize, mode: LaunchMode) -> Self {
        RowQueue { slots, entries: entries.max(1), mode }
    }

    /// The same where runs add another number of entries.
    pub fn with_entries(self, entries: usize) -> Self {
        RowQueue::new(self.slots, entries, self.mode)
    }

    /// How a row of so many launches is queued. Graphs are for rows of two launches and
    /// more, and for rotations that are not too long to be recorded.
    pub fn mode(&self, launches: usize) -> LaunchMode {
        let is_graph = self.mode != LaunchMode::Stream
            && launches * self.entries > 1
            && self.slots <= MAX_RECORDED_SLOTS
            && self.entries <= MAX_IN_GRAPH;
        if is_graph { self.mode } else { LaunchMode::Stream }
    }

    /// Launches of the longest stretch.
    fn longest(&self) -> usize {
        let held = (MAX_HELD / self.entries).max(1);
        if held >= self.slots { held / self.slots * self.slots } else { held }
    }

    /// The number of launches, at least `wanted`, with which all rows are the same graphs:
    /// whole rotations, and whole stretches where there are several.
    pub fn row_launches(&self, wanted: usize) -> usize {
        if wanted < 2 || self.mode(wanted) == LaunchMode::Stream {
            return wanted;
        }
        let longest = self.longest();
        let unit = if wanted > longest { longest.max(self.slots) } else { self.slots };
        wanted.next_multiple_of(unit)
    }

    /// The stretches of a row. Those of a long rotation begin at the same slots in each
    /// turn; the first is never much shorter than the others.
    pub fn stretches(&self, first_slot: usize, launches: usize) -> Vec<Stretch> {
        let longest = self.longest();
        let mut row = Vec::new();
        let mut done = 0;
        while done < launches {
            let turn = if longest < self.slots {
                self.slots - done % self.slots
            } else {
                usize::MAX
            };
            let next = longest.min(launches - done).min(turn);
            row.push(Stretch {
                first_slot: (first_slot + done) % self.slots,
                launches: next,
            });
            done += next;
        }
        row
    }

    /// Entries that a stretch adds to the queue.
    pub fn entries(&self, stretch: Stretch) -> usize {
        stretch.launches * self.entries
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows_of_two_launches_and_more_are_graphs() {
        let queue = |slots, entries| RowQueue::new(slots, entries, LaunchMode::Graph);
        assert_eq!(queue(1, 1).mode(1), LaunchMode::Stream);
        assert_eq!(queue(1, 1).mode(2), LaunchMode::Graph);
        assert_eq!(queue(1, 2).mode(1), LaunchMode::Graph, "two launches of one run");
        assert_eq!(queue(MAX_RECORDED_SLOTS + 1, 1).mode(9), LaunchMode::Stream);
        let stream = RowQueue::new(1, 1, LaunchMode::Stream);
        assert_eq!(stream.mode(9), LaunchMode::Stream);
        assert_eq!(stream.row_launches(9), 9);
    }

    #[test]
    fn rows_are_whole_rotations_and_whole_stretches() {
        let queue = RowQueue::new(3, 1, LaunchMode::Graph);
        assert_eq!([2, 3, 4, 255].map(|n| queue.row_launches(n)), [3, 3, 6, 255]);
        assert_eq!(queue.row_launches(256), 510);
        let stretch = |first_slot, launches| Stretch { first_slot, launches };
        assert_eq!(queue.stretches(2, 510), [stretch(2, 255), stretch(2, 255)]);
        // A rotation that is longer than what may be held.
        let long = RowQueue::new(300, 1, LaunchMode::Graph);
        assert_eq!(long.row_launches(5), 300);
        let turn = [stretch(7, 256), stretch(263, 44)];
        assert_eq!(long.stretches(7, 600), [turn, turn].concat());
    }

    proptest! {
        /// All launches of a row are queued once and in order, in stretches that can be
        /// held, and rows of the length that is asked for are made of few different ones.
        #[test]
        fn stretches_make_up_the_row(
            slots in 1usize..MAX_RECORDED_SLOTS,
            entries in 1usize..9,
            first in 0usize..MAX_RECORDED_SLOTS,
            wanted in 2usize..5000,
        ) {
            let queue = RowQueue::new(slots, entries, LaunchMode::Graph);
            let launches = queue.row_launches(wanted);
            prop_assert!(launches >= wanted);
            prop_assert_eq!(launches % slots, 0);
            let row = queue.stretches(first % slots, launches);
            let mut next = first % slots;
            let mut different = HashSet::new();
            for stretch in &row {
                prop_assert_eq!(stretch.first_slot, next);
                prop_assert!(queue.entries(*stretch) <= MAX_HELD.max(entries));
                next = (next + stretch.launches) % slots;
                different.insert(*stretch);
            }
            let sum: usize = row.iter().map(|stretch| stretch.launches).sum();
            prop_assert_eq!(sum, launches);
            prop_assert!(different.len() <= 1 + slots * entries / (MAX_HELD / 2) + 1);
        }
    }
}
