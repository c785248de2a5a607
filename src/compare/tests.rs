//! Comparisons of made-up campaigns, whose differences are known.

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::pair::UNSEEN_BY_SAMPLES;
use super::*;
use crate::record::{Records, RoundRow, Row, Run, Status};

/// Points of a made-up campaign.
const POINTS: usize = 24;

/// How the times of made-up campaigns vary, as shares.
#[derive(Clone, Copy, Default)]
struct Noise {
    /// From round to round.
    round: f64,
    /// How unlike points are in that: the spread of its logarithm.
    unlike: f64,
    /// Of a campaign as a whole.
    campaign: f64,
    /// Of a campaign for every second point.
    half: f64,
    /// Of a point from campaign to campaign, rounds of one together.
    point: f64,
    /// Share of rounds that something else slows down, by up to a fifth.
    slowed: f64,
}

/// What a campaign says of itself.
#[derive(Clone, Copy)]
enum Program {
    /// A GPU, whose rows have hashes of code.
    Hashed,
    /// A CPU and a build whose source is not that of its commit.
    Dirty,
    /// A GPU of its own.
    OtherMachine,
}

struct Maker {
    rng: Pcg64Mcg,
    noise: Noise,
    program: Program,
    /// How much longer each point takes, by its number.
    factor: fn(usize) -> f64,
    rounds: u32,
}

impl Maker {
    fn new(seed: u64, noise: Noise, program: Program) -> Self {
        let rng = Pcg64Mcg::seed_from_u64(seed);
        Maker { rng, noise, program, factor: |_| 1.0, rounds: 3 }
    }

    /// A sum of 12 uniform values has variance 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.rng.random_range(-0.5..0.5)).sum()
    }

    fn campaign(&mut self) -> Campaign {
        let noise = self.noise;
        let whole = noise.campaign * self.normal();
        let half = noise.half * self.normal();
        let (mut rows, mut rounds) = (Vec::new(), Vec::new());
        for at in 0..POINTS {
            // The same for this point in every campaign.
            let unlike = (noise.unlike * (2.0 * (at as f64 * 0.618).fract() - 1.0)).exp();
            let offset = whole + if at % 2 == 0 { half } else { 0.0 };
            let offset = offset + unlike * noise.point * self.normal();
            for round in 0..self.rounds {
                let slowed = self.rng.random::<f64>() < noise.slowed;
                let slowed = if slowed { self.rng.random_range(0.0..0.2) } else { 0.0 };
                let log = offset + unlike * noise.round * self.normal() + slowed;
                rounds.push(RoundRow {
                    point_id: format!("p{at}"),
                    round,
                    time_s_median: (self.factor)(at) * log.exp(),
                    ..RoundRow::default()
                });
            }
            rows.push(made_row(at, self.program, (self.factor)(at)));
        }
        let records =
            Records { runs: vec![run(self.program)], rows, rounds, ..Records::default() };
        Campaign::from_records(Path::new("x"), records, None).unwrap()
    }
}

/// What takes another time is of other code.
fn made_row(at: usize, program: Program, factor: f64) -> Row {
    let is_hashed = !matches!(program, Program::Dirty);
    let hash = if is_hashed { format!("c0de{factor}") } else { String::new() };
    Row {
        point_id: format!("p{at}"),
        status: Some(Status::Ok),
        kernel: "k".into(),
        cache_state: "cold".into(),
        code_hash: hash,
        problem: format!("gemm:m={},n=16,k=128,dtype=bf16", at + 1),
        time_s_median: Some(1.0),
        time_s_ci_lo: Some(1.0),
        time_s_ci_hi: Some(1.0),
        ..Row::default()
    }
}

fn run(program: Program) -> Run {
    let mut run = Run::default();
    let (backend, gpu) = match program {
        Program::Dirty => ("cpu", ""),
        Program::Hashed => ("cuda:0", "one"),
        Program::OtherMachine => ("cuda:0", "other"),
    };
    run.set("backend", backend);
    run.set("gpu_uuid_hash", gpu);
    run.set("git_sha", "5eed");
    run.set("git_dirty", matches!(program, Program::Dirty));
    run
}

fn compared<'a>(a: &'a Campaign, b: &'a Campaign) -> Comparison<'a> {
    Comparison::of(a, b, &|_| true, Rules::default())
}

fn is_told(comparison: &Comparison<'_>) -> bool {
    comparison.count(Change::Faster) + comparison.count(Change::Slower) > 0
}

/// Pairs of campaigns that do not differ, and how many of their tables report a difference.
fn alarms(noise: Noise, program: Program, pairs: u64) -> u64 {
    let made = (0..pairs).filter(|pair| {
        let mut maker = Maker::new(1000 + pair, noise, program);
        let (a, b) = (maker.campaign(), maker.campaign());
        is_told(&compared(&a, &b))
    });
    made.count() as u64
}

const CALM: Noise =
    Noise { round: 0.01, unlike: 0.0, campaign: 0.0, half: 0.0, point: 0.0, slowed: 0.0 };

/// Whatever campaigns vary by, no more than one table in twenty has a false alarm: of 1,000
/// pairs and more.
#[test]
fn false_alarms_are_at_most_one_table_in_twenty() {
    let kinds = [
        ("rounds alone", CALM),
        ("campaigns as wholes", Noise { campaign: 0.05, ..CALM }),
        ("half of the points", Noise { half: 0.05, ..CALM }),
        ("each point", Noise { point: 0.01, ..CALM }),
        ("unlike points", Noise { unlike: 1.2, point: 0.005, campaign: 0.01, ..CALM }),
        ("rounds that are slowed", Noise { slowed: 0.1, ..CALM }),
    ];
    for (kind, noise) in kinds {
        for program in [Program::Hashed, Program::Dirty] {
            let told = alarms(noise, program, 100);
            assert!(told <= 5, "{kind}: {told} of 100 tables");
        }
    }
}

/// A twelfth of the points take 10% longer, one 10% less.
fn planted(at: usize) -> f64 {
    match at {
        5 | 11 => 1.1,
        17 => 1.0 / 1.1,
        _ => 1.0,
    }
}

/// Differences that are there are told, in the right direction, and none beside them.
#[test]
fn planted_differences_are_told() {
    let noise = Noise { round: 0.003, point: 0.002, ..CALM };
    let mut wrong = 0;
    for seed in 0..50 {
        let mut maker = Maker::new(seed, noise, Program::Hashed);
        let before = maker.campaign();
        maker.factor = planted;
        let after = maker.campaign();
        let comparison = compared(&before, &after);
        for row in &comparison.rows {
            let at: usize = row.after.point_id[1..].parse().unwrap();
            let is_right = match planted(at) {
                1.0 => !matches!(row.change, Change::Faster | Change::Slower),
                longer if longer > 1.0 => {
                    row.change == Change::Slower && row.speed.hi < 1.0
                }
                _ => row.change == Change::Faster && row.speed.lo > 1.0,
            };
            wrong += usize::from(!is_right);
            assert!((row.speed.value * planted(at) - 1.0).abs() < 0.03, "{row:?}");
        }
    }
    assert!(wrong <= 2, "{wrong} of 1200 rows");
}

/// Points whose code is the same show what campaigns vary by; a shift that all share is then
/// no finding of a row, and is said.
#[test]
fn controls_show_what_campaigns_vary_by() {
    let noise = Noise { campaign: 0.1, ..CALM };
    let mut maker = Maker::new(3, noise, Program::Hashed);
    let (a, b) = (maker.campaign(), maker.campaign());
    let seen = compared(&a, &b);
    assert_eq!(seen.between.source, BetweenSource::SameCode);
    assert_eq!(seen.between.controls, POINTS);
    let shift = seen.between.shift.unwrap();
    assert!((shift.ln().abs() - seen.between.relative_sd()).abs() < 0.03, "{seen:?}");
    assert!(
        seen.notes().iter().any(|note| note.contains("24 points whose code is the same"))
    );
    // On another machine the same shift is what is asked for.
    let mut other = Maker::new(9, Noise { round: 0.003, ..CALM }, Program::OtherMachine);
    other.factor = |_| 1.5;
    let c = other.campaign();
    let asked = compared(&a, &c);
    assert_eq!(asked.between.source, BetweenSource::Usual);
    assert_eq!(asked.count(Change::Slower), POINTS, "{}", asked.sentence());
}

/// A difference as large as the margin is called the same in at most 5% of tables, and none
/// at all mostly is.
#[test]
fn the_same_is_shown_and_not_assumed() {
    let noise = Noise { round: 0.001, ..CALM };
    let (mut same, mut wrong) = (0, 0);
    for seed in 0..100 {
        let mut maker = Maker::new(seed, noise, Program::Hashed);
        let before = maker.campaign();
        let again = maker.campaign();
        same += compared(&before, &again).count(Change::Same);
        maker.factor = |_| 1.0201;
        let after = maker.campaign();
        wrong += usize::from(compared(&before, &after).count(Change::Same) > 0);
    }
    assert!(same >= 90 * POINTS, "{same} of {} rows", 100 * POINTS);
    assert!(wrong <= 5, "{wrong} of 100 tables");
}

/// A difference twice as large as what a row can resolve is told.
#[test]
fn what_can_be_resolved_is_stated() {
    let noise = Noise { round: 0.005, ..CALM };
    let mut told = 0;
    for seed in 0..20 {
        let mut maker = Maker::new(seed, noise, Program::Hashed);
        let (a, b) = (maker.campaign(), maker.campaign());
        let resolvable = compared(&a, &b).resolvable();
        assert_eq!(resolvable.len(), POINTS);
        assert!(resolvable.is_sorted() && resolvable[0] > 0.005, "{resolvable:?}");
        maker.factor = |_| 1.12;
        let c = maker.campaign();
        let shifted = compared(&a, &c);
        let is_large = |row: &&Compared<'_>| row.resolvable < 0.06;
        let large: Vec<_> = shifted.rows.iter().filter(is_large).collect();
        told += large.iter().filter(|row| row.change == Change::Slower).count();
        assert_eq!(large.iter().filter(|row| row.change == Change::Faster).count(), 0);
    }
    assert!(told >= 19 * POINTS, "{told}");
}

/// Without rounds, intervals of samples are not believed alone; points of one campaign only
/// are counted.
#[test]
fn campaigns_without_rounds_and_points_without_partners() {
    let mut maker = Maker::new(1, CALM, Program::Hashed);
    let a = maker.campaign();
    maker.rounds = 0;
    let mut b = maker.campaign();
    b.points.truncate(20);
    let comparison = compared(&a, &b);
    assert_eq!((comparison.rows.len(), comparison.unmatched), (20, [4, 0]));
    let least = comparison.rows.iter().map(|row| row.resolvable).fold(1.0, f64::min);
    assert!(least > 2.0 * UNSEEN_BY_SAMPLES, "{least}");
    assert!(comparison.notes().iter().any(|note| note.contains("4 points of the first")));
}

/// Kernels with other names are matched by problem, the fastest of each.
#[test]
fn problems_match_where_kernels_do_not() {
    let mut maker = Maker::new(1, CALM, Program::Hashed);
    let a = maker.campaign();
    maker.factor = |_| 0.5;
    let mut b = maker.campaign();
    for point in &mut b.points {
        point.kernel = "new".parse().unwrap();
        point.point_id.push('n');
    }
    assert_eq!(compared(&a, &b).rows.len(), 0);
    let rules = Rules { by: MatchBy::Problem, ..Rules::default() };
    let by_problem = Comparison::of(&a, &b, &|_| true, rules);
    assert_eq!(by_problem.count(Change::Faster), POINTS);
    let row = &by_problem.section().rows[0];
    assert_eq!((&*row[3], &*row[4], &*row[10]), ("k", "new", "faster"));
}

/// A history is ordered by time, compares each point with its last time, and tells a change
/// once.
#[test]
fn a_history_tells_where_a_point_changed() {
    let mut maker = Maker::new(4, Noise { round: 0.003, ..CALM }, Program::Hashed);
    let mut campaigns = Vec::new();
    for day in [3, 1, 2, 4] {
        maker.factor = if day >= 3 { planted } else { |_| 1.0 };
        let mut campaign = maker.campaign();
        campaign.runs[0].set("started_utc", format!("2026-01-0{day}T00:00:00Z"));
        campaigns.push(campaign);
    }
    let history = History::of(campaigns.iter(), &|_| true, Rules::default());
    let changed: Vec<&HistoryRow<'_>> =
        history.rows.iter().filter(|row| row.has_changed()).collect();
    assert_eq!(changed.len(), 3);
    for row in changed {
        let changes: Vec<Option<Change>> =
            row.steps.iter().map(|step| step.since_last.map(|last| last.change)).collect();
        assert_eq!((changes.len(), changes[0]), (4, None));
        let is_told = |change: &Option<Change>| {
            matches!(change, Some(Change::Faster | Change::Slower))
        };
        assert_eq!(changes.iter().position(is_told), Some(2), "{changes:?}");
        assert_eq!(changes.iter().filter(|change| is_told(change)).count(), 1);
    }
    assert_eq!(history.sections(false)[1].rows.len(), 4 * POINTS);
}
