//! Fixed cost and bandwidth of moving bytes: `T = a + V / b`, fitted to points of
//! one kernel whose data come from DRAM. The fixed cost `a` is the time to launch,
//! to fill the pipeline and to drain it; it dominates small sizes, whatever the
//! bandwidth. `b` is the bandwidth that very large sizes approach.

use std::collections::BTreeMap;

use crate::analysis::{Campaign, Measured};
use crate::op::{Op, Purpose};
use crate::point::{KernelName, LaunchMode};
use crate::statistics::{Estimate, student_t};

/// Fewest points of a fit: two more than it has unknowns, so that the residuals
/// estimate the error.
pub const FEWEST_POINTS: usize = 4;

/// Working sets that count, in capacities of the last-level cache: a smaller one
/// is partly found in it.
const CACHES: f64 = 2.0;

/// `T = a + V / b`, from measured times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// `a` in seconds with its 95% interval. Below zero where time grows faster
    /// than bytes: the line is then no model of these points.
    pub fixed_s: Estimate,
    /// `b` in bytes/s with its 95% interval.
    pub bytes_per_s: Estimate,
    /// Points fitted.
    pub points: usize,
    /// Largest distance of a point from the line, as a share of its time.
    pub worst_residual: f64,
}

impl Fit {
    /// The line through `(bytes, seconds)`, both positive.
    ///
    /// Weighted least squares with weights `1 / T^2`: times span decades, and all
    /// are measured to about the same share of themselves. With `x = V / T` and
    /// `y = 1 / T` that is `1 = a y + c x`, ordinary least squares through the
    /// origin in two unknowns, `c = 1 / b`. The intervals are those of normal
    /// errors of unknown size: Student's t with `n - 2` degrees of freedom times
    /// the standard errors (Draper and Smith, "Applied Regression Analysis",
    /// 1998, chapters 1 and 9).
    ///
    /// `None` with fewer than [`FEWEST_POINTS`], with points of one size only, or
    /// where the interval of `c` reaches 0: an unbounded bandwidth.
    pub fn new(points: &[(f64, f64)]) -> Option<Fit> {
        if points.len() < FEWEST_POINTS {
            return None;
        }
        let rows =
            || points.iter().map(|(bytes, seconds)| (1.0 / seconds, bytes / seconds));
        let sum = |f: fn(f64, f64) -> f64| rows().map(|(y, x)| f(y, x)).sum::<f64>();
        let (yy, xy, xx) = (sum(|y, _| y * y), sum(|y, x| x * y), sum(|_, x| x * x));
        let (y1, x1) = (sum(|y, _| y), sum(|_, x| x));
        let determinant = yy * xx - xy * xy;
        // Points of one size leave nothing but rounding.
        if determinant <= 1e-9 * yy * xx {
            return None;
        }
        let fixed_s = (y1 * xx - x1 * xy) / determinant;
        let per_byte = (x1 * yy - y1 * xy) / determinant;
        let residuals = || rows().map(|(y, x)| 1.0 - fixed_s * y - per_byte * x);
        let freedom = points.len() - 2;
        let variance = residuals().map(|r| r * r).sum::<f64>() / freedom as f64;
        let reach = |inverse: f64| student_t(freedom) * (variance * inverse).sqrt();
        let (of_fixed, of_slope) = (reach(xx / determinant), reach(yy / determinant));
        if per_byte - of_slope <= 0.0 {
            return None;
        }
        Some(Fit {
            fixed_s: Estimate {
                value: fixed_s,
                lo: fixed_s - of_fixed,
                hi: fixed_s + of_fixed,
            },
            bytes_per_s: Estimate {
                value: 1.0 / per_byte,
                lo: 1.0 / (per_byte + of_slope),
                hi: 1.0 / (per_byte - of_slope),
            },
            points: points.len(),
            worst_residual: residuals().map(f64::abs).fold(0.0, f64::max),
        })
    }

    /// Seconds that the line gives for so many bytes.
    pub fn seconds(&self, bytes: f64) -> f64 {
        self.fixed_s.value + bytes / self.bytes_per_s.value
    }
}

/// Points of one kernel and shape that differ in how many bytes they move.
#[derive(Clone, Debug)]
pub struct LineFamily {
    /// What they compute.
    pub op: Op,
    /// Their kernel.
    pub kernel: KernelName,
    /// What they have in common: `read`, `32/8 heads of 128, bf16`.
    pub shape: String,
    /// Compulsory bytes and seconds of each, by bytes.
    pub points: Vec<(f64, f64)>,
    /// How the launches of the point with the fewest bytes were queued, where its row says
    /// it: what the fixed cost has of them.
    pub launch: Option<LaunchMode>,
    /// The line through them.
    pub fit: Option<Fit>,
}

impl LineFamily {
    /// Whether it is of streams, which are the bandwidth itself.
    pub fn is_roof(&self) -> bool {
        self.op.facts().judged.purpose == Purpose::MemoryRoof
    }

    /// The line through the points but one of so many bytes and seconds, if it is there.
    pub fn fit_without(&self, bytes: f64, seconds: f64) -> Option<Fit> {
        let mut points = self.points.clone();
        match points.iter().position(|point| *point == (bytes, seconds)) {
            None => self.fit,
            Some(at) => {
                points.remove(at);
                Fit::new(&points)
            }
        }
    }

    /// Whether its bytes go over a link, whose bandwidth is not that of the memory.
    pub fn is_of_link(&self) -> bool {
        self.op.facts().judged.purpose == Purpose::LinkRoof
    }
}

/// The families of a campaign's points from DRAM: read streams, cache reads and
/// decode attention, whose bytes are nearly all reads, and transfers.
pub fn families(campaign: &Campaign) -> Vec<LineFamily> {
    type Members = Vec<(f64, f64, Option<LaunchMode>)>;
    let mut points: BTreeMap<(Op, KernelName, String), Members> = BTreeMap::new();
    let cache_bytes = last_level_bytes(campaign).unwrap_or(0.0);
    for point in campaign.own_points() {
        let (Some(shape), Some(time_s)) = (point.problem.operation().line(), point.time_s)
        else {
            continue;
        };
        if is_from_dram(point, cache_bytes) {
            let key = (point.problem.op(), point.kernel.clone(), shape);
            let bytes = point.work.bytes() as f64;
            points.entry(key).or_default().push((bytes, time_s.value, point.launch));
        }
    }
    let family =
        |((op, kernel, shape), mut members): ((Op, KernelName, String), Members)| {
            members.sort_by(|a, b| a.0.total_cmp(&b.0));
            let launch = members.first().and_then(|(_, _, launch)| *launch);
            let points: Vec<(f64, f64)> =
                members.into_iter().map(|(bytes, seconds, _)| (bytes, seconds)).collect();
            let fit = Fit::new(&points);
            LineFamily { op, kernel, shape, points, launch, fit }
        };
    points.into_iter().map(family).collect()
}

/// Whether none of a point's data can have stayed in a cache.
fn is_from_dram(point: &Measured, cache_bytes: f64) -> bool {
    let distance = point.reuse_distance_bytes.unwrap_or(0) as f64;
    point.is_from_dram() && distance >= CACHES * cache_bytes
}

/// Capacity of the last cache before DRAM, if the campaign's device reports it.
fn last_level_bytes(campaign: &Campaign) -> Option<f64> {
    campaign.provenance.caches.iter().map(|cache| cache.bytes as f64).max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;
    use crate::op::Problem;
    use crate::record::{Records, Row, Run, Status};

    const MIB: f64 = (1 << 20) as f64;

    fn line(fixed_s: f64, bytes_per_s: f64, sizes: &[f64]) -> Vec<(f64, f64)> {
        sizes.iter().map(|&bytes| (bytes, fixed_s + bytes / bytes_per_s)).collect()
    }

    #[test]
    fn four_points_by_hand() {
        // T = 2 + V but for the last, which is 10 instead of 9. Weights 1 / T^2
        // of 3, 4, 6 and 10: sums of w, wV, wVV, wT, wVT solved for both unknowns.
        let fit = Fit::new(&[(1.0, 3.0), (2.0, 4.0), (4.0, 6.0), (7.0, 10.0)]).unwrap();
        assert!((fit.fixed_s.value - 1.83716).abs() < 1e-4, "{fit:?}");
        assert!((1.0 / fit.bytes_per_s.value - 1.10647).abs() < 1e-4, "{fit:?}");
        assert_eq!(fit.points, 4);
    }

    #[test]
    fn fewer_points_one_size_and_no_slope_are_no_line() {
        let sizes = [64.0, 128.0, 256.0, 512.0].map(|mib| mib * MIB);
        assert!(Fit::new(&line(5e-6, 3e12, &sizes)).is_some());
        assert_eq!(Fit::new(&line(5e-6, 3e12, &sizes[..3])), None);
        assert_eq!(Fit::new(&line(5e-6, 3e12, &[MIB; 5])), None);
        assert_eq!(Fit::new(&[(1.0, 1.0), (2.0, 1.0), (3.0, 1.0), (4.0, 1.0)]), None);
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (freedom, t) in [(1, 12.706), (2, 4.303), (10, 2.228), (12, 2.179), (30, 2.042)]
        {
            assert!((student_t(freedom) - t).abs() < 2e-3, "{freedom}");
        }
        assert!((student_t(1_000_000) - 1.96).abs() < 1e-4);
    }

    #[test]
    fn intervals_cover_the_truth_about_95_times_in_100() {
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let sizes: Vec<f64> = (7..15).map(|e| f64::from(1 << e) * MIB).collect();
        let (mut fixed, mut slope) = (0, 0);
        for _ in 0..400 {
            let mut points = line(5e-6, 4.6e12, &sizes);
            for (_, seconds) in &mut points {
                // Twelve uniform numbers are nearly normal, with a deviation of 1.
                let sum: f64 = (0..12).map(|_| rng.random_range(-0.5..0.5)).sum();
                *seconds *= 1.0 + 0.003 * sum;
            }
            let fit = Fit::new(&points).unwrap();
            let covers = |e: Estimate, truth| e.lo <= truth && truth <= e.hi;
            fixed += usize::from(covers(fit.fixed_s, 5e-6));
            slope += usize::from(covers(fit.bytes_per_s, 4.6e12));
        }
        assert!(
            (366..=394).contains(&fixed) && (366..=394).contains(&slope),
            "{fixed} {slope}"
        );
    }

    proptest! {
        #[test]
        fn lines_are_recovered(
            fixed_us in 0.5f64..100.0,
            gb_per_s in 10.0f64..8000.0,
            count in 4usize..20,
        ) {
            let sizes: Vec<f64> = (0..count).map(|i| MIB * 1.7f64.powi(i as i32)).collect();
            let fit = Fit::new(&line(1e-6 * fixed_us, 1e9 * gb_per_s, &sizes)).unwrap();
            prop_assert!((fit.fixed_s.value / (1e-6 * fixed_us) - 1.0).abs() < 1e-5);
            prop_assert!((fit.bytes_per_s.value / (1e9 * gb_per_s) - 1.0).abs() < 1e-5);
            prop_assert!(fit.worst_residual < 1e-6);
            prop_assert!((fit.seconds(sizes[1]) / (1e-6 * fixed_us + sizes[1] / (1e9 * gb_per_s)) - 1.0).abs() < 1e-5);
        }
    }

    fn row(problem: &str, kernel: &str, reuse: u64, residency: &str) -> Row {
        let work = problem.parse::<Problem>().unwrap().work();
        let time_s = Some(4e-6 + work.bytes() as f64 / 3e12);
        Row {
            point_id: format!("{problem} {kernel}"),
            kernel: kernel.into(),
            status: Some(Status::Ok),
            problem: problem.into(),
            reuse_distance_bytes: Some(reuse),
            residency: residency.into(),
            cache_state: "cold".into(),
            time_s_median: time_s,
            time_s_ci_lo: time_s,
            time_s_ci_hi: time_s,
            ..Row::default()
        }
    }

    #[test]
    fn families_are_kernels_and_shapes_from_dram() {
        let mut rows = Vec::new();
        for mib in [16u64, 64, 128, 256, 512, 1024] {
            let residency = if mib < 50 { "L2" } else { "dram" };
            for (access, kernel) in [("read", "a"), ("read", "b"), ("write", "a")] {
                let problem = format!("stream:access={access},bytes={mib} MiB");
                rows.push(row(&problem, kernel, mib << 20, residency));
            }
        }
        for batch in 1..=3 {
            let problem = format!(
                "kv_read:batch={batch},context=4096,kv_heads=8,head_dim=128,dtype=bf16"
            );
            rows.push(row(&problem, "kv_read", 1 << 30, "dram"));
        }
        let mut run = Run::default();
        run.set("caches", "L1=98304;L2=52428800");
        let records = Records { runs: vec![run], rows, ..Records::default() };
        let campaign = Campaign::from_records(Path::new("x"), records, None).unwrap();
        let found = families(&campaign);
        let names: Vec<_> =
            found.iter().map(|f| (&*f.kernel, f.shape.as_str(), f.points.len())).collect();
        // 64 MiB are less than twice the cache.
        let heads = "8 heads of 128, bf16, contiguous";
        assert_eq!(names, [("a", "read", 4), ("b", "read", 4), ("kv_read", heads, 3)]);
        let fit = found[0].fit.unwrap();
        assert!((fit.fixed_s.value - 4e-6).abs() < 1e-12);
        assert!((fit.bytes_per_s.value / 3e12 - 1.0).abs() < 1e-9);
        assert_eq!(found[2].fit, None);
        // Of four points one can be spared only where it is none of them.
        let (bytes, seconds) = found[0].points[0];
        assert_eq!(found[0].fit_without(bytes, seconds), None);
        assert_eq!(found[0].fit_without(bytes, 2.0 * seconds), found[0].fit);
    }
}
