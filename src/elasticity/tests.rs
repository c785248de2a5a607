//! Times made up by known truths, and how often intervals hold them.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::*;

/// Data sets of one count of coverage.
const SETS: usize = 2000;

/// A machine: bytes and FLOPs per second, and what every launch takes.
const READ: f64 = 3e12;
const COMPUTE: f64 = 6e14;
const FIXED_S: f64 = 5e-6;

/// A point before it has a time.
#[derive(Clone, Copy)]
struct Shape {
    bytes: f64,
    flops: f64,
    configuration: usize,
}

/// Decode attention of 8 KV heads of 128, over batches, contexts, and configurations of a
/// cache of 16 or 8 bits and a group.
fn decode(batches: &[f64], contexts: &[f64], of: &[(f64, f64)]) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for (configuration, (bytes, group)) in of.iter().enumerate() {
        for batch in batches {
            for context in contexts {
                let tokens = batch * context * 1024.0;
                let queries = 4.0 * 1024.0 * batch * group;
                let (bytes, flops) = (2.0 * tokens * bytes + queries, 4.0 * tokens * group);
                shapes.push(Shape { bytes, flops, configuration });
            }
        }
    }
    shapes
}

/// 12 points of 3 configurations.
fn small() -> Vec<Shape> {
    decode(&[1.0, 8.0], &[1024.0, 32768.0], &[(2.0, 1.0), (1.0, 4.0), (2.0, 16.0)])
}

/// 24 points of 4 configurations.
fn middle() -> Vec<Shape> {
    let of = [(2.0, 1.0), (2.0, 4.0), (1.0, 4.0), (1.0, 16.0)];
    decode(&[1.0, 8.0], &[1024.0, 8192.0, 65536.0], &of)
}

/// 60 points of 12 configurations.
fn large() -> Vec<Shape> {
    let groups = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
    let of: Vec<_> =
        groups.iter().flat_map(|&group| [(2.0, group), (1.0, group)]).collect();
    decode(&[1.0, 4.0, 16.0, 64.0, 128.0], &[4096.0], &of)
}

/// Linear layers of two sizes, from one row to 4096.
fn linear() -> Vec<Shape> {
    let rows = [1.0, 8.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];
    let sizes: [f64; 2] = [1e6, 16e6];
    let of = |(configuration, weights): (usize, f64)| {
        rows.map(|m| Shape {
            bytes: 2.0 * (weights + 2.0 * m * weights.sqrt()),
            flops: 2.0 * m * weights,
            configuration,
        })
    };
    sizes.into_iter().enumerate().flat_map(of).collect()
}

/// The sum of twelve uniform numbers has a standard deviation of 1.
fn normal(rng: &mut Pcg64Mcg) -> f64 {
    (0..12).map(|_| rng.random_range(-0.5..0.5_f64)).sum()
}

/// Log-normal noise, as shares of times: of three rounds, which move all points at once by
/// 1%, of a point in a round 1%, of what a kernel makes of a shape 1%, and of a configuration.
fn measured(
    rng: &mut Pcg64Mcg,
    shapes: &[Shape],
    of_configuration: f64,
    truth: impl Fn(&Shape) -> f64,
) -> Vec<Point> {
    let rounds = [(); 3].map(|()| 0.01 * normal(rng));
    let kinds: Vec<f64> = shapes.iter().map(|_| of_configuration * normal(rng)).collect();
    let point = |shape: &Shape| {
        let of_rounds: f64 = rounds.iter().map(|all| all + 0.01 * normal(rng)).sum();
        let noise = of_rounds / 3.0 + 0.01 * normal(rng) + kinds[shape.configuration];
        Point {
            time_s: truth(shape) * noise.exp(),
            bytes: shape.bytes,
            flops: shape.flops,
            configuration: shape.configuration,
        }
    };
    shapes.iter().map(point).collect()
}

fn exact(shapes: &[Shape], truth: impl Fn(&Shape) -> f64) -> Vec<Point> {
    let point = |shape: &Shape| Point {
        time_s: truth(shape),
        bytes: shape.bytes,
        flops: shape.flops,
        configuration: shape.configuration,
    };
    shapes.iter().map(point).collect()
}

fn memory_bound(shape: &Shape) -> f64 {
    FIXED_S + shape.bytes / READ
}

fn compute_bound(shape: &Shape) -> f64 {
    FIXED_S + shape.flops / (COMPUTE / 100.0)
}

fn half_of_each(shape: &Shape) -> f64 {
    FIXED_S + (shape.bytes / READ * shape.flops / (COMPUTE / 20.0)).sqrt()
}

/// A kernel whose arithmetic is `slower` than the machine's: moving and computing overlap
/// fully where `power` is large.
fn under_roofs(slower: f64, power: f64) -> impl Fn(&Shape) -> f64 {
    move |shape| {
        let (moving, computing) = (shape.bytes / READ, shape.flops / (COMPUTE / slower));
        let longest = moving.max(computing);
        let sum = (moving / longest).powf(power) + (computing / longest).powf(power);
        FIXED_S + longest * sum.powf(1.0 / power)
    }
}

fn covers(interval: Estimate, truth: f64) -> bool {
    interval.lo <= truth && truth <= interval.hi
}

fn assert_covered(what: &str, covered: usize) {
    let share = covered as f64 / SETS as f64;
    println!("{what}: {share:.3}");
    assert!((0.93..=0.97).contains(&share), "{what}: {share}");
}

/// How often the intervals of both elasticities hold the truth.
fn coverage(
    what: &str,
    shapes: &[Shape],
    of_configuration: f64,
    truth: (f64, f64, fn(&Shape) -> f64),
) {
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let (of_bytes, of_flops, time) = truth;
    let mut covered = [0; 2];
    for _ in 0..SETS {
        let points = measured(&mut rng, shapes, of_configuration, time);
        let found = elasticities(&points).unwrap();
        covered[0] += usize::from(covers(found.bytes, of_bytes));
        covered[1] += usize::from(covers(found.flops.unwrap(), of_flops));
    }
    assert_covered(&format!("{what}, bytes"), covered[0]);
    assert_covered(&format!("{what}, FLOPs"), covered[1]);
}

const MEMORY: (f64, f64, fn(&Shape) -> f64) = (1.0, 0.0, memory_bound);
const COMPUTING: (f64, f64, fn(&Shape) -> f64) = (0.0, 1.0, compute_bound);
const HALF: (f64, f64, fn(&Shape) -> f64) = (0.5, 0.5, half_of_each);

#[test]
fn elasticities_of_memory_bound_times_are_covered() {
    coverage("memory bound, 12 points", &small(), 0.0, MEMORY);
    coverage("memory bound, 24 points", &middle(), 0.0, MEMORY);
    coverage("memory bound, 60 points", &large(), 0.02, MEMORY);
}

#[test]
fn elasticities_of_other_times_are_covered() {
    coverage("compute bound, 12 points", &small(), 0.0, COMPUTING);
    coverage("compute bound, 60 points", &large(), 0.02, COMPUTING);
    coverage("half of each, 24 points", &middle(), 0.0, HALF);
}

/// How often the intervals of both change points hold the truth; `slower` is how much slower
/// than the machine's a kernel's arithmetic is, which moves the ridge.
fn coverage_of_changes(what: &str, shapes: &[Shape], slower: f64, power: f64) {
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let mut covered = [0; 2];
    for _ in 0..SETS {
        let points = measured(&mut rng, shapes, 0.0, under_roofs(slower, power));
        let found = change_points(&points);
        let of = |crossing: Crossing, truth: f64| {
            usize::from(crossing.at().is_some_and(|at| covers(at, truth)))
        };
        covered[0] += of(found.latency_bytes, FIXED_S * READ);
        covered[1] += of(found.ridge_flops_per_byte, COMPUTE / slower / READ);
    }
    assert_covered(&format!("{what}, end of latency"), covered[0]);
    assert_covered(&format!("{what}, ridge"), covered[1]);
}

#[test]
fn change_points_of_decode_are_covered() {
    coverage_of_changes("decode, full overlap", &middle(), 40.0, 200.0);
    coverage_of_changes("decode, some overlap", &middle(), 40.0, 3.0);
}

#[test]
fn change_points_of_linear_layers_are_covered() {
    coverage_of_changes("linear layers, full overlap", &linear(), 1.0, 200.0);
    coverage_of_changes("linear layers, some overlap", &linear(), 1.0, 3.0);
}

/// A ridge that is not there is not found, and a regime that no point is in neither.
#[test]
fn what_lies_beyond_the_measured_is_said_to() {
    let mut rng = Pcg64Mcg::seed_from_u64(3);
    let mut wrong = 0;
    for _ in 0..SETS / 10 {
        let memory = change_points(&measured(&mut rng, &middle(), 0.0, memory_bound));
        let compute =
            change_points(&measured(&mut rng, &middle(), 0.0, under_roofs(4000.0, 200.0)));
        let long: Vec<Shape> =
            middle().into_iter().filter(|shape| shape.bytes > 60e6).collect();
        let long = change_points(&measured(&mut rng, &long, 0.0, memory_bound));
        let launches = change_points(&measured(&mut rng, &middle(), 0.0, |_| FIXED_S));
        let is_right = matches!(memory.ridge_flops_per_byte, Crossing::Beyond(most) if most > 7.0)
            && matches!(compute.ridge_flops_per_byte, Crossing::Below(least) if least < 1.1)
            && matches!(long.latency_bytes, Crossing::Below(least) if least > 60e6)
            && !matches!(launches.latency_bytes, Crossing::At(_) | Crossing::Below(_));
        wrong += usize::from(!is_right);
    }
    assert!(wrong <= SETS / 10 / 20, "{wrong} of {}", SETS / 10);
}

#[test]
fn exact_times_give_their_truth() {
    for (of_bytes, of_flops, time) in [MEMORY, COMPUTING, HALF] {
        for shapes in [small(), middle(), large()] {
            let found = elasticities(&exact(&shapes, time)).unwrap();
            let near = |e: Estimate, truth: f64| {
                (e.value - truth).abs() < 1e-4 && e.hi - e.lo < 1e-3
            };
            assert!(near(found.bytes, of_bytes), "{found:?}");
            assert!(near(found.flops.unwrap(), of_flops), "{found:?}");
            assert!((found.fixed_s / FIXED_S - 1.0).abs() < 1e-3, "{found:?}");
            assert!(!found.is_of_whole_time && found.residual < 1e-4);
        }
    }
}

/// A fixed cost of 5 us is up to half of these times. Slopes of log time alone are off by
/// far more than their intervals say.
#[test]
fn a_fixed_cost_does_not_pass_for_a_low_elasticity() {
    let points = exact(&middle(), memory_bound);
    let plain = Scaled::of(&points);
    let plain = plain
        .plain(|[c, x, y], at| {
            let (bytes, flops) = (plain.bytes[at], plain.flops[at]);
            (c + x * bytes + y * flops, [1.0, bytes, flops])
        })
        .unwrap();
    assert!(plain.parameters[1] < 0.9, "{:?}", plain.parameters);
    let found = elasticities(&points).unwrap();
    assert!(found.bytes.lo > 0.99 && found.bytes.hi < 1.01, "{found:?}");
}

/// Times of nothing but a fixed cost have elasticities of 0, not none.
#[test]
fn constant_times_follow_nothing() {
    let mut rng = Pcg64Mcg::seed_from_u64(4);
    let constant = elasticities(&exact(&middle(), |_| FIXED_S)).unwrap();
    let noisy = elasticities(&measured(&mut rng, &middle(), 0.0, |_| FIXED_S)).unwrap();
    for found in [constant, noisy] {
        assert!(found.bytes.lo > -0.1 && found.bytes.hi < 0.1, "{found:?}");
        let flops = found.flops.unwrap();
        assert!(flops.lo > -0.1 && flops.hi < 0.1, "{found:?}");
    }
}

#[test]
fn designs_that_cannot_tell_are_refused() {
    let refusal = |shapes: &[Shape]| {
        elasticities(&exact(shapes, memory_bound)).unwrap_err().to_string()
    };
    // One configuration: bytes and FLOPs both go with batch x context.
    let one = decode(&[1.0, 4.0, 16.0], &[1024.0, 8192.0, 65536.0], &[(2.0, 4.0)]);
    let told = refusal(&one);
    assert!(told.contains("go up together (correlation 1.00)"), "{told}");
    assert!(told.contains("other groups, rows, drafts or formats"), "{told}");
    assert!(refusal(&small()[..7]).starts_with("7 of the 8 points"));
    let groups: Vec<(f64, f64)> = (0..9).map(|e| (2.0, f64::from(1 << e))).collect();
    let told = refusal(&decode(&[8.0], &[8192.0], &groups));
    assert!(told.starts_with("bytes hardly vary"), "{told}");
    let equal: Vec<Shape> =
        middle().into_iter().map(|shape| Shape { flops: 1e9, ..shape }).collect();
    let told = refusal(&equal);
    assert!(told.starts_with("FLOPs hardly vary"), "{told}");
    assert_eq!(elasticities(&[]), Err(Refusal::TooFew(0)));
}

#[test]
fn what_computes_nothing_has_one_elasticity() {
    let reads: Vec<Shape> =
        middle().into_iter().map(|shape| Shape { flops: 0.0, ..shape }).collect();
    let found = elasticities(&exact(&reads, memory_bound)).unwrap();
    assert_eq!(found.flops, None);
    assert!((found.bytes.value - 1.0).abs() < 1e-4, "{found:?}");
    let changes = change_points(&exact(&reads, memory_bound));
    assert_eq!(changes.ridge_flops_per_byte, Crossing::Unknown("no FLOPs"));
    let latency = changes.latency_bytes.at().unwrap();
    assert!((latency.value / (FIXED_S * READ) - 1.0).abs() < 1e-3, "{latency:?}");
}

#[test]
fn designs_have_a_correlation_and_spreads() {
    // Bytes 1 or 4, FLOPs 1 or 16, all four combinations: independent.
    let all = [[1.0, 1.0], [1.0, 16.0], [4.0, 1.0], [4.0, 16.0]];
    let design = Design::of(&all).unwrap();
    assert!(design.correlation.unwrap().abs() < 1e-12);
    // Half of the points are ln 2 above the middle, half as far below.
    assert!((design.spreads[0] - 2_f64.ln()).abs() < 1e-12, "{design:?}");
    assert!((design.spreads[1] - 4_f64.ln()).abs() < 1e-12, "{design:?}");
    assert_eq!(design.intensity, [0.25, 16.0]);
    assert_eq!(Design::of(&[]), None);
}

/// Large campaigns have their elasticities in a moment, and small ones the same ones twice.
#[test]
fn many_points_and_the_same_twice() {
    let mut rng = Pcg64Mcg::seed_from_u64(5);
    let many: Vec<Shape> = (0..1000).flat_map(|_| middle()).collect();
    let points = measured(&mut rng, &many, 0.0, memory_bound);
    let found = elasticities(&points).unwrap();
    assert!((found.bytes.value - 1.0).abs() < 0.01, "{found:?}");
    assert!(change_points(&points).latency_bytes.at().is_some());
    let few = measured(&mut rng, &small(), 0.0, memory_bound);
    assert_eq!(elasticities(&few), elasticities(&few));
    assert_eq!(change_points(&few), change_points(&few));
}
