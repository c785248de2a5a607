//! What a block of `attention_mla_wgmma` waits for: an SM as a simulation of events, in which
//! a warp copies panels and two warpgroups multiply. It serves to compare ways to run, before
//! a GPU measures them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Panels of a tile, and those that each warpgroup releases: 64 tokens of 64 columns in 16 bits.
const PANELS: usize = 9;
const PANELS_OF_GROUP: [std::ops::Range<usize>; 2] = [0..4, 4..PANELS];
const PANEL_BYTES: u64 = 8192;
/// Tiles that have a stage.
const STAGES: usize = 2;
/// Products for a panel's scores, and for a warpgroup's columns of the outputs.
const PRODUCTS: usize = 4;
/// Clocks of tensor cores, and of shared memory at 128 bytes a clock, for a product of 64 rows,
/// 16 deep: with 64 tokens for scores; with 256 columns for outputs.
const SCORES: [u64; 2] = [32, 32];
const OUTPUTS: [u64; 2] = [128, 80];
/// Clocks in which shared memory takes in a panel.
const PANEL_CLOCKS: u64 = PANEL_BYTES / 128;
/// Clocks to start a product or a copy.
const ISSUE: u64 = 8;
/// Clocks from the end of the last product to who waits for it.
const TAIL: u64 = 200;
/// Clocks to read factors and to rescale 128 accumulators, and to arrive at a barrier.
const RESCALE: u64 = 254;
const ARRIVE: u64 = 30;
/// Clocks from scores to weights that both warpgroups can see: 32 exponentials and 16 packings at
/// eight clocks each are 384, the rest is latency. Fitted, see the test.
const SOFTMAX: u64 = 1000;

/// What delivers tiles to the block.
#[derive(Clone, Copy)]
pub struct Source {
    /// Clocks from a copy's start to its first byte.
    pub latency: u64,
    /// Bytes in a clock, to an SM when all SMs read.
    pub bytes_per_clock: f64,
}

type Flag = usize;

/// A step of a warp.
enum Step {
    Wait(Flag),
    Clocks(u64),
    Set(Flag),
    /// Starts a product of a warpgroup: clocks of tensor cores and of shared memory.
    Multiply(usize, [u64; 2], Option<Flag>),
    /// Starts the copy of a panel.
    Copy(Flag),
}

/// The steps of the three warps.
#[derive(Default)]
struct Programs {
    flags: usize,
    steps: [Vec<Step>; 3],
}

/// Which of `Programs::steps` copies; the warpgroups are 0 and 1.
const LOADER: usize = 2;

fn full(tile: usize, panel: usize) -> Flag {
    tile * 16 + panel
}
fn empty(tile: usize, group: usize) -> Flag {
    tile * 16 + PANELS + group
}
fn weights(tile: usize) -> Flag {
    tile * 16 + PANELS + 2
}

impl Programs {
    /// Those of so many tiles, with or without `OVERTAKE`.
    fn new(tiles: usize, overtakes: bool) -> Self {
        let mut programs = Programs { flags: tiles * 16, ..Self::default() };
        for tile in 0..tiles {
            programs.copy(tile);
        }
        for group in 0..2 {
            programs.attend(group, tiles, overtakes && group == 1);
        }
        programs
    }

    fn copy(&mut self, tile: usize) {
        for (group, panels) in PANELS_OF_GROUP.into_iter().enumerate() {
            if tile >= STAGES {
                self.steps[LOADER].push(Step::Wait(empty(tile - STAGES, group)));
            }
            for panel in panels {
                self.steps[LOADER].extend([Step::Clocks(ISSUE), Step::Copy(full(tile, panel))]);
            }
        }
    }

    fn attend(&mut self, group: usize, tiles: usize, overtakes: bool) {
        for own in (group..tiles).step_by(2) {
            let mut before = None;
            if own > 0 && !overtakes {
                self.add(group, own - 1);
            }
            let scores = self.scores(group, own);
            if own > 0 && overtakes {
                before = Some(self.values(group, own - 1));
            }
            self.steps[group].extend([
                Step::Wait(scores),
                Step::Clocks(SOFTMAX),
                Step::Set(weights(own)),
            ]);
            if let Some(outputs) = before {
                self.release(group, own - 1, outputs);
            }
            self.add(group, own);
        }
        if tiles > 0 && (tiles - 1) % 2 != group {
            self.add(group, tiles - 1);
        }
    }

    /// Starts a tile's scores; the flag of their end.
    fn scores(&mut self, group: usize, tile: usize) -> Flag {
        let end = self.flag();
        for panel in 0..PANELS {
            self.steps[group].push(Step::Wait(full(tile, panel)));
            self.multiply(group, SCORES, (panel + 1 == PANELS).then_some(end));
        }
        end
    }

    /// Starts a tile's outputs; the flag of their end.
    fn values(&mut self, group: usize, tile: usize) -> Flag {
        let end = self.flag();
        self.steps[group].extend([Step::Wait(weights(tile)), Step::Clocks(RESCALE)]);
        self.multiply(group, OUTPUTS, Some(end));
        end
    }

    fn add(&mut self, group: usize, tile: usize) {
        let end = self.values(group, tile);
        self.release(group, tile, end);
    }

    fn release(&mut self, group: usize, tile: usize, end: Flag) {
        let free = Step::Set(empty(tile, group));
        self.steps[group].extend([Step::Wait(end), Step::Clocks(ARRIVE), free]);
    }

    fn multiply(&mut self, group: usize, clocks: [u64; 2], end: Option<Flag>) {
        for product in 0..PRODUCTS {
            let end = end.filter(|_| product + 1 == PRODUCTS);
            self.steps[group]
                .extend([Step::Clocks(ISSUE), Step::Multiply(group, clocks, end)]);
        }
    }

    fn flag(&mut self) -> Flag {
        self.flags += 1;
        self.flags - 1
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A warp continues.
    Continue(usize),
    Set(Flag),
    /// A panel is at the SM.
    Arrived(Flag),
    /// Tensor cores take the next product.
    Next,
}

/// An SM while it runs the programs.
struct Sm<'p> {
    programs: &'p Programs,
    source: Source,
    now: u64,
    events: BinaryHeap<Reverse<(u64, usize, Event)>>,
    /// Events so far, so that those of one time are in the order in which they were made.
    made: usize,
    at: [usize; 3],
    set: Vec<bool>,
    waiting: Vec<Vec<usize>>,
    products: [VecDeque<([u64; 2], Option<Flag>)>; 2],
    last_group: usize,
    multiplies: bool,
    /// When shared memory, and what delivers tiles, are free again.
    shared_free: u64,
    source_free: u64,
}

impl Sm<'_> {
    fn after(&mut self, clocks: u64, event: Event) {
        self.made += 1;
        self.events.push(Reverse((self.now + clocks, self.made, event)));
    }

    /// Takes shared memory for so many clocks; those from now to the end.
    fn share(&mut self, clocks: u64) -> u64 {
        self.shared_free = self.shared_free.max(self.now) + clocks;
        self.shared_free - self.now
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Continue(warp) => self.run(warp),
            Event::Arrived(flag) => {
                let clocks = self.share(PANEL_CLOCKS);
                self.after(clocks, Event::Set(flag));
            }
            Event::Set(flag) => {
                self.set[flag] = true;
                for warp in std::mem::take(&mut self.waiting[flag]) {
                    self.after(0, Event::Continue(warp));
                }
            }
            Event::Next => self.multiply(),
        }
    }

    /// Runs a warp until it waits.
    fn run(&mut self, warp: usize) {
        let programs = self.programs;
        while let Some(step) = programs.steps[warp].get(self.at[warp]) {
            if let &Step::Wait(flag) = step
                && !self.set[flag]
            {
                return self.waiting[flag].push(warp);
            }
            self.at[warp] += 1;
            match *step {
                Step::Wait(_) => {}
                Step::Clocks(clocks) => return self.after(clocks, Event::Continue(warp)),
                Step::Set(flag) => self.after(0, Event::Set(flag)),
                Step::Copy(flag) => {
                    let clocks = PANEL_BYTES as f64 / self.source.bytes_per_clock;
                    let begun = self.source_free.max(self.now + self.source.latency);
                    self.source_free = begun + clocks as u64;
                    self.after(self.source_free - self.now, Event::Arrived(flag));
                }
                Step::Multiply(group, clocks, end) => {
                    self.products[group].push_back((clocks, end));
                    if !std::mem::replace(&mut self.multiplies, true) {
                        self.after(0, Event::Next);
                    }
                }
            }
        }
    }

    /// Tensor cores take a product of either warpgroup in turn.
    fn multiply(&mut self) {
        let other = 1 - self.last_group;
        let group = if self.products[other].is_empty() { self.last_group } else { other };
        let Some(([tensor, shared], end)) = self.products[group].pop_front() else {
            self.multiplies = false;
            return;
        };
        self.last_group = group;
        let clocks = self.share(shared).max(tensor);
        if let Some(end) = end {
            self.after(clocks + TAIL, Event::Set(end));
        }
        self.after(clocks, Event::Next);
    }
}

/// Clocks of a tile, of so many that a block attends to.
pub fn clocks_of_tile(tiles: usize, overtakes: bool, source: Source) -> f64 {
    let programs = Programs::new(tiles, overtakes);
    let mut sm = Sm {
        source,
        now: 0,
        events: BinaryHeap::new(),
        made: 0,
        at: [0; 3],
        set: vec![false; programs.flags],
        waiting: vec![Vec::new(); programs.flags],
        products: [const { VecDeque::new() }; 2],
        last_group: 0,
        multiplies: false,
        shared_free: 0,
        source_free: 0,
        programs: &programs,
    };
    (0..3).for_each(|warp| sm.after(0, Event::Continue(warp)));
    while let Some(Reverse((now, _, event))) = sm.events.pop() {
        sm.now = now;
        sm.handle(event);
    }
    let done = |warp: usize| sm.at[warp] == programs.steps[warp].len();
    assert!((0..3).all(done), "a warp waits for ever");
    sm.now as f64 / tiles as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that an H200's memory gives in a second, and SMs that read them.
    const READ_BYTES_PER_S: f64 = 4.35e12;
    const SMS: f64 = 128.0;
    /// From memory, at such a clock; and from L2. The latencies and what L2 delivers are fitted
    /// to the three measured points, with `SOFTMAX`; of L2's latency nothing is measured here.
    fn dram(clock_hz: f64) -> Source {
        Source { latency: 1150, bytes_per_clock: READ_BYTES_PER_S / SMS / clock_hz }
    }
    const L2: Source = Source { latency: 650, bytes_per_clock: 28.0 };

    fn print(){
        for (n, t, o, s) in [
            ("no", 64, false, dram(1.42e9)), ("over", 64, true, dram(1.34e9)),
            ("128", 128, true, Source{latency:1150, ..L2}),
            ("64 pf", 64, true, L2), ("64 pf no", 64, false, L2),
            ("128 pf", 128, true, L2),
            ("128 mc", 128, true, Source{latency:1150, bytes_per_clock:56.0}),
            ("128 mc pf", 128, true, Source{latency:650, bytes_per_clock:56.0}),
        ] { eprintln!("{n} {}", clocks_of_tile(t,o,s)); }
    }
    #[test]
    fn x() { print(); }
}
