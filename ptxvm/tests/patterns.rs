//! The usual ways in which kernels communicate through global memory, as NVRTC compiles
//! them: nothing is found in them, and something is without a fence or a barrier.

mod common;

use common::{caught, kinds, replace, upload, words};
use ptxvm::{Fault, FindingKind, Launch, Memory, Module, Params, Report};

const PATTERNS: &str = include_str!("ptx/patterns.ptx");

/// The buffers of a launch: their words, or zeros.
struct Case {
    entry: &'static str,
    grid: u32,
    threads: u32,
    buffers: &'static [usize],
    last: Option<u32>,
}

const CASES: [Case; 10] = [
    case("last_block", (5, 64), &[320, 5, 1, 1], None),
    case("tree", (4, 64), &[512, 256], Some(256)),
    case("look_back", (8, 32), &[256, 1, 8, 8, 256], None),
    case("lock", (2, 40), &[1, 2], None),
    case("rounds", (4, 64), &[1, 256, 256], Some(3)),
    case("compact", (3, 64), &[192, 1, 192], None),
    case("add_by_cas", (1, 32), &[2], None),
    case("in_turn", (4, 64), &[1, 64], None),
    case("pair", (2, 64), &[2, 64], Some(3)),
    case("halves", (5, 64), &[256, 256], Some(77)),
];

const fn case(
    entry: &'static str,
    (grid, threads): (u32, u32),
    buffers: &'static [usize],
    last: Option<u32>,
) -> Case {
    Case { entry, grid, threads, buffers, last }
}

impl Case {
    fn of(entry: &str) -> &'static Case {
        CASES.iter().find(|case| case.entry == entry).unwrap_or_else(|| panic!("{entry}"))
    }

    /// Runs it, and gives the words of all buffers. The first is the input where there is
    /// one.
    fn run(&self, text: &str, seed: u64) -> (Result<Report, Fault>, Vec<Vec<u32>>) {
        let module = Module::parse(text).unwrap_or_else(|error| panic!("{error}"));
        let mut memory = Memory::new();
        let is_input = ["last_block", "look_back", "compact"].contains(&self.entry);
        let (mut params, mut places) = (Params::new(), Vec::new());
        for (n, &count) in self.buffers.iter().enumerate() {
            let value = |i: u32| if n == 0 && is_input { i + 1 } else { 0 };
            let values: Vec<u32> = (0..count as u32).map(value).collect();
            let place = upload(&mut memory, "buffer", &values, u32::to_le_bytes);
            params = params.u64(place);
            places.push((place, count));
        }
        if let Some(last) = self.last {
            params = params.u32(last);
        }
        let launch = Launch {
            grid: [self.grid, 1, 1],
            block: [self.threads, 1, 1],
            params: params.build(),
            seed,
            ..Launch::new(self.entry)
        };
        let outcome = module.launch(&mut memory, &launch);
        let read = |(place, count)| words(&memory, place, count);
        (outcome, places.into_iter().map(read).collect())
    }
}

#[test]
fn nothing_is_found_in_the_usual_patterns() {
    for case in &CASES {
        for seed in 0..6 {
            let (outcome, _) = case.run(PATTERNS, seed);
            assert_eq!(kinds(&outcome), [], "{}, seed {seed}", case.entry);
        }
    }
}

#[test]
fn their_results_are_right() {
    let of = |entry: &str| Case::of(entry).run(PATTERNS, 1).1;
    assert_eq!(of("last_block")[3], [320 * 321 / 2]);
    let leaves: u32 = (256..512).sum();
    assert_eq!(of("tree")[0][1], leaves);
    let last = of("look_back")[2].iter().max().copied();
    assert_eq!(last, Some(256 * 257 / 2));
    assert_eq!(of("lock")[1], [80, 160]);
    let mut kept: Vec<u32> = of("compact")[2].clone();
    kept.sort_unstable();
    assert_eq!(kept[128..], (1..=64).map(|n| 3 * n).collect::<Vec<u32>>());
    assert_eq!(f64::from_bits(u64::from(of("add_by_cas")[0][1]) << 32), 32.0);
    // 1, then each block three times what was there and its number.
    assert_eq!(of("in_turn")[1], [(3 + 2) * 3 + 3; 64]);
    assert_eq!(of("halves")[0][0], 0x0001_0001);
}

/// The text with the `n`-th `from` of an entry replaced.
fn planted(entry: &str, from: &str, n: usize, to: &str) -> String {
    let at = PATTERNS.find(&format!(".entry {entry}(")).unwrap();
    format!("{}{}", &PATTERNS[..at], replace(&PATTERNS[at..], from, n, to))
}

#[test]
fn what_they_cannot_do_without() {
    for (entry, from, n, to) in [
        ("tree", "membar.gl;", 0, ""),
        ("tree", "membar.gl;", 1, "membar.cta;"),
        ("look_back", "membar.gl;", 1, "membar.cta;"),
        ("lock", "membar.gl;", 0, ""),
        ("lock", "membar.gl;", 1, "membar.cta;"),
        ("rounds", "membar.gl;", 0, ""),
        ("rounds", "bar.sync \t0;", 0, ""),
        ("in_turn", "st.global.release.gpu.b32", 0, "st.global.relaxed.gpu.b32"),
        ("in_turn", "ld.global.acquire.gpu.b32", 0, "ld.global.acquire.cta.b32"),
        ("pair", "fence.acq_rel.cta;", 0, ""),
        ("pair", "bar.warp.sync", 1, "// "),
    ] {
        let text = planted(entry, from, n, to);
        eprintln!("{entry}: {from} number {n} becomes '{to}'");
        caught(|seed| Case::of(entry).run(&text, seed).0, FindingKind::GlobalRace);
    }
}
