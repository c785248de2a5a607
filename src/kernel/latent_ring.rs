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
/// Clocks to read factors and to rescale 128 accumulators, after the weights of a tile are seen;
/// and without, where outputs have been rescaled before.
const RESCALE: u64 = 254;
const RESCALED: u64 = 60;
/// Clocks to arrive at a barrier.
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

/// How the warpgroups take turns.
#[derive(Clone, Copy)]
pub struct Order {
    /// The second scores its tile before it adds the values of the first's: `OVERTAKE`.
    pub overtakes: bool,
    /// Outputs are rescaled while the other computes weights.
    pub rescales_early: bool,
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
struct Programs {
    order: Order,
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
    /// Those of so many tiles.
    fn new(tiles: usize, order: Order) -> Self {
        let steps = [const { Vec::new() }; 3];
        let mut programs = Programs { order, flags: tiles * 16, steps };
        for tile in 0..tiles {
            programs.copy(tile);
        }
        for group in 0..2 {
            programs.attend(group, tiles, order.overtakes && group == 1);
        }
        programs
    }

    fn copy(&mut self, tile: usize) {
        for (group, panels) in PANELS_OF_GROUP.into_iter().enumerate() {
            if tile >= STAGES {
                self.steps[LOADER].push(Step::Wait(empty(tile - STAGES, group)));
            }
            for panel in panels {
                self.steps[LOADER]
                    .extend([Step::Clocks(ISSUE), Step::Copy(full(tile, panel))]);
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
        let rescale = if self.order.rescales_early { RESCALED } else { RESCALE };
        self.steps[group].extend([Step::Wait(weights(tile)), Step::Clocks(rescale)]);
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
pub fn clocks_of_tile(tiles: usize, order: Order, source: Source) -> f64 {
    let programs = Programs::new(tiles, order);
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

    const BEFORE: Order = Order { overtakes: true, rescales_early: false };
    const NOW: Order = Order { overtakes: true, rescales_early: true };

    /// Clocks from a copy's start to its first byte, from memory and from L2, and what L2
    /// delivers. The first and the last are fitted with `SOFTMAX` to the three points below;
    /// the second is what other kernels' copies took.
    const MEMORY_LATENCY: u64 = 1150;
    const L2_LATENCY: u64 = 650;
    const L2_BYTES_PER_CLOCK: f64 = 28.0;

    /// An H200's memory at a clock, read by 128 SMs.
    fn memory(clock_hz: f64) -> Source {
        Source { latency: MEMORY_LATENCY, bytes_per_clock: 4.35e12 / 128.0 / clock_hz }
    }

    /// L2, of tiles that come from memory or were prefetched. Of tiles that two blocks share
    /// it delivers half.
    fn l2(latency: u64, sharing: f64) -> Source {
        Source { latency, bytes_per_clock: L2_BYTES_PER_CLOCK * sharing }
    }

    /// 128 requests of 4096 tokens in bf16 on an H200
    /// (`results/2026-11-28-nvidia-h200-turns`): of 64 heads a block has one request, of 128
    /// heads two. The time of a tile is that of the launch, less the 8.7 us that a request of
    /// one tile takes beside it, at the clock that the samples had.
    #[test]
    fn tiles_take_the_clocks_that_an_h200_took() {
        let measured =
            |time_s: f64, clock_hz: f64, tiles: f64| (time_s - 8.7e-6) * clock_hz / tiles;
        let in_order = Order { overtakes: false, ..BEFORE };
        for (clocks, expected) in [
            (
                measured(186.7e-6, 1.420e9, 64.0),
                clocks_of_tile(64, in_order, memory(1.42e9)),
            ),
            (measured(178.2e-6, 1.340e9, 64.0), clocks_of_tile(64, BEFORE, memory(1.34e9))),
            (
                measured(300.5e-6, 1.467e9, 128.0),
                clocks_of_tile(128, BEFORE, l2(MEMORY_LATENCY, 1.0)),
            ),
        ] {
            let ratio = expected / clocks;
            assert!((ratio - 1.0).abs() < 0.03, "{expected} clocks, measured {clocks}");
        }
    }

    /// What docs/METHODOLOGY.md expects of ways that were not measured.
    #[test]
    fn prefetched_and_shared_tiles_take_less() {
        for (tiles, order, source, expected) in [
            (64, BEFORE, memory(1.34e9), 3598.0),
            (64, NOW, memory(1.34e9), 3595.0),
            (64, NOW, l2(L2_LATENCY, 1.0), 3191.0),
            (128, BEFORE, l2(MEMORY_LATENCY, 1.0), 3374.0),
            (128, NOW, l2(MEMORY_LATENCY, 1.0), 3359.0),
            (128, NOW, l2(L2_LATENCY, 1.0), 3173.0),
            (128, NOW, l2(MEMORY_LATENCY, 2.0), 3207.0),
            (128, NOW, l2(L2_LATENCY, 2.0), 3112.0),
        ] {
            let clocks = clocks_of_tile(tiles, order, source);
            assert!((clocks - expected).abs() < 1.0, "{tiles} tiles: {clocks} clocks");
        }
    }

    /// Tensor cores and shared memory bound whatever delivers tiles.
    #[test]
    fn no_order_is_faster_than_its_units() {
        let at_once = Source { latency: 0, bytes_per_clock: 1e6 };
        for overtakes in [false, true] {
            let order = Order { overtakes, ..NOW };
            for (unit, more) in [(0, 0), (1, PANELS as u64 * PANEL_CLOCKS)] {
                let of_panels = PANELS as u64 * SCORES[unit] + 2 * OUTPUTS[unit];
                let least = PRODUCTS as u64 * of_panels + more;
                assert!(clocks_of_tile(8, order, at_once) > least as f64);
            }
        }
        // A tile alone waits for everything that there is.
        let outputs = 2 * PRODUCTS as u64 * OUTPUTS[0] + TAIL;
        let scores = (PANELS * PRODUCTS) as u64 * SCORES[0] + TAIL;
        let least = scores + SOFTMAX + RESCALED + outputs;
        assert!(clocks_of_tile(1, NOW, at_once) > least as f64);
    }
}
