//! What is kept by sector must find what is kept by word.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::clock::{Home, Message};
use crate::known::ALL_LANES;

/// Bytes of the buffer that is accessed: four sectors.
const BYTES: u64 = 128;

/// Place, lanes, and bytes of each as a power of two.
type Bytes = (u64, usize, u32);

/// One access, or a barrier of a warp or of a block.
#[derive(Debug, Clone)]
enum Step {
    Read {
        who: usize,
        span: Bytes,
        lane: usize,
        proxy: bool,
    },
    Constant {
        who: usize,
        span: Bytes,
        lane: usize,
    },
    Write {
        who: usize,
        span: Bytes,
        lane: usize,
        manner: Manner,
    },
    Same {
        who: usize,
        span: Bytes,
        lane: usize,
    },
    Wait {
        who: usize,
        span: Bytes,
    },
    Converge {
        who: usize,
    },
    Barrier {
        block: usize,
    },
    /// One block's warps know of another's, as after a flag.
    Learn {
        from: usize,
        to: usize,
        lanes: u32,
    },
    Fence {
        who: usize,
        lanes: u32,
    },
    Gather {
        who: usize,
        lanes: u32,
    },
}

/// Halves and sectors more often than
/// single bytes.
fn span() -> impl Strategy<Value = Bytes> {
    let gaps = (0..32u64, 2..17usize).prop_map(|(word, lanes)| {
        let word = word.min(29);
        (4 * word, lanes.min(((BYTES - 4 * word + 4) / 8) as usize), WITH_GAPS)
    });
    let whole = (0..8u64, 0..6u32, prop::sample::select(vec![16u64, 32, 64, 128]));
    let whole = whole.prop_map(|(half, each, bytes)| {
        let bytes = bytes.min(32 << each);
        let offset = (16 * half).min(BYTES - bytes.min(BYTES));
        let offset = offset >> each << each;
        (offset, (bytes >> each).max(1) as usize, each)
    });
    let small = (0..32u64, 0..3u32, 1..9usize).prop_map(|(word, each, lanes)| {
        let lanes = lanes.min(((BYTES - 4 * word) >> each) as usize);
        (4 * word, lanes.max(1), each)
    });
    let bytes = (0..BYTES, 0..2u32)
        .prop_map(|(at, each)| ((at >> each << each).min(BYTES - 2), 1, each));
    prop_oneof![5 => whole, 2 => gaps, 1 => small, 1 => bytes]
}

/// All lanes of a warp, or some.
fn some() -> impl Strategy<Value = u32> {
    prop_oneof![prop::sample::select(vec![ALL_LANES, 1, 0xff, 0x10]), any::<u32>(),]
}

fn step() -> impl Strategy<Value = Step> {
    let (who, lane) = (0..4usize, prop::sample::select(vec![0usize, 0, 1, 2, 4]));
    let manner = prop::sample::select(vec![
        Manner::Weak,
        Manner::Weak,
        Manner::Weak,
        Manner::Async,
        Manner::Strong(Scope::Gpu),
    ]);
    prop_oneof![
        5 => (who.clone(), span(), lane.clone(), prop::bool::weighted(0.2))
            .prop_map(|(who, span, lane, proxy)| Step::Read { who, span, lane, proxy }),
        1 => (who.clone(), span(), lane.clone())
            .prop_map(|(who, span, lane)| Step::Constant { who, span, lane }),
        4 => (who.clone(), span(), lane.clone(), manner)
            .prop_map(|(who, span, lane, manner)| Step::Write { who, span, lane, manner }),
        2 => (who.clone(), span(), lane)
            .prop_map(|(who, span, lane)| Step::Same { who, span, lane }),
        1 => (who.clone(), span()).prop_map(|(who, span)| Step::Wait { who, span }),
        2 => who.clone().prop_map(|who| Step::Converge { who }),
        1 => (0..2usize).prop_map(|block| Step::Barrier { block }),
        2 => (0..4usize, 0..4usize, some())
            .prop_map(|(from, to, lanes)| Step::Learn { from, to, lanes }),
        1 => (who.clone(), some()).prop_map(|(who, lanes)| Step::Fence { who, lanes }),
        1 => (who, some()).prop_map(|(who, lanes)| Step::Gather { who, lanes }),
    ]
}

/// Every second word.
const WITH_GAPS: u32 = 6;

/// Bytes of each lane, and from each to the next.
fn sizes(each: u32) -> (u64, u64) {
    if each == WITH_GAPS { (4, 8) } else { (1 << each, 1 << each) }
}

/// Two blocks of two warps.
struct Warps(Vec<Clock>);

impl Warps {
    fn new() -> Self {
        let clock = |n: usize| {
            let home = Arc::new(Home { blocks: vec![n as u32 / 2], warps: 2 });
            Clock::new(n % 2, &home)
        };
        Self((0..4).map(clock).collect())
    }

    fn change(&mut self, step: &Step) {
        let clocks = &mut self.0;
        match *step {
            Step::Converge { who } => clocks[who].converge(),
            Step::Fence { who, lanes } => clocks[who].fence_proxy((false, true), lanes),
            Step::Gather { who, lanes } => clocks[who].gather(lanes),
            Step::Barrier { block } => {
                let mut message = Message::default();
                message.add(&clocks[2 * block], ALL_LANES);
                message.add(&clocks[2 * block + 1], ALL_LANES);
                clocks[2 * block].learn(&message);
                clocks[2 * block + 1].learn(&message);
            }
            Step::Learn { from, to, lanes } if from != to => {
                let mut published = Arc::default();
                clocks[from].release(Scope::Gpu, lanes);
                clocks[from].publish(Scope::Gpu, lanes, &mut published);
                clocks[to].observe_global(Scope::Gpu, &published, true);
            }
            Step::Learn { .. } => {}
            Step::Read { who, .. }
            | Step::Constant { who, .. }
            | Step::Write { who, .. }
            | Step::Same { who, .. }
            | Step::Wait { who, .. } => clocks[who].touch(),
        }
    }

    /// What an access finds.
    fn access(&self, races: &GlobalRaces, step: &Step) -> Vec<Found> {
        let by = |who: usize, lane, manner| Accessor { clock: &self.0[who], lane, manner };
        // A warp has 32 lanes.
        let by = |who: usize, (lane, at): (usize, Bytes), manner| {
            by(who, lane.min(32 - at.1), manner)
        };
        let span =
            |(offset, lanes, each): Bytes| Span::of_lanes((0, offset), lanes, sizes(each));
        let found = match *step {
            Step::Read { who, span: at, lane, proxy } => {
                let manner = if proxy { Manner::Async } else { Manner::Weak };
                [races.on_read(span(at), by(who, (lane, at), manner)), None]
            }
            Step::Constant { who, span: at, lane } => {
                let by = by(who, (lane, at), Manner::Weak);
                [
                    races.look_before_read(span(at), by),
                    races.on_constant_read(span(at), (by, 7)),
                ]
            }
            Step::Write { who, span: at, lane, manner } => {
                [races.on_write(span(at), by(who, (lane, at), manner)), None]
            }
            Step::Same { who, span: at, lane } => {
                races.on_same_write(span(at), by(who, (lane, at), Manner::Weak));
                [None, None]
            }
            Step::Wait { who, span: at } => {
                // A thread waits for what it stored without gaps.
                let bytes = (at.1 as u64) << at.2.min(2);
                races.complete(Span::of_lane((0, at.0), bytes), &self.0[who]);
                [None, None]
            }
            _ => [None, None],
        };
        found.into_iter().flatten().collect()
    }
}

fn shadow(blocks_communicate: bool) -> GlobalRaces {
    let mut memory = Memory::new();
    memory.alloc(BYTES, "x");
    GlobalRaces::new(&memory, true, (blocks_communicate, true))
}

/// The same with every sector kept by word from the beginning.
fn shadow_by_word(blocks_communicate: bool) -> GlobalRaces {
    let races = shadow(blocks_communicate);
    for sector in 0..BYTES / 32 {
        let (page, at) = races.page(0, sector);
        page.writes.make().split(at, Wide::written_word);
        page.reads.make().split(at, Wide::read_word);
    }
    races
}

/// The tags of all words.
fn tags(races: &GlobalRaces) -> Vec<[u64; 2]> {
    let one = |tags: &Tags, at: usize, word: usize, wide: fn(u64, usize) -> u64| match tags
        .state(at)
    {
        State::Wide(bits) => wide(bits, word),
        State::Words(words) => words[word].load(Relaxed),
    };
    let both = |word: usize| {
        let (page, at) = races.page(0, word as u64 / 8);
        let (writes, reads) = (page.writes.make(), page.reads.make());
        [
            one(writes, at, word % 8, Wide::written_word),
            one(reads, at, word % 8, Wide::read_word),
        ]
    };
    (0..BYTES as usize / 4).map(both).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn sectors_find_what_words_find(
        steps in prop::collection::vec(step(), 1..40),
        communicate: bool,
    ) {
        let (wide, words) = (shadow(communicate), shadow_by_word(communicate));
        let mut warps = Warps::new();
        for (n, step) in steps.iter().enumerate() {
            warps.change(step);
            let a = warps.access(&wide, step);
            let b = warps.access(&words, step);
            let kinds = |found: &[Found]| found.iter().map(|f| f.rival.did).collect::<Vec<_>>();
            prop_assert_eq!(kinds(&a), kinds(&b), "step {}: {:?}\n{:?}\n{:?}", n, step, a, b);
            let (a, b) = (tags(&wide), tags(&words));
            for (word, (a, b)) in a.iter().zip(&b).enumerate() {
                prop_assert_eq!(a, b, "word {} after step {}: {:?}", word, n, step);
            }
        }
    }
}
