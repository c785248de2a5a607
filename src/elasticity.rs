//! What time follows, from many points at once: how it grows with bytes and with FLOPs where
//! the two vary independently, and at which sizes it begins to follow something else.
//!
//! Pure statistics of times, bytes and FLOPs: no ceiling of a machine enters, so what is found
//! here is independent of them.

mod bootstrap;
mod change_points;
mod least_squares;

use std::fmt;

pub use change_points::{ChangePoints, Crossing, change_points};
use least_squares::{Fitted, least_squares};

use crate::statistics::Estimate;

/// A point of a design, with its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Seconds of one launch: the middle of its rounds.
    pub time_s: f64,
    /// Bytes.
    pub bytes: f64,
    /// FLOPs; 0 for what computes nothing.
    pub flops: f64,
    /// Number of its configuration: points of one share what is left of their times when
    /// bytes and FLOPs have explained the rest.
    pub configuration: usize,
}

/// How time grows with bytes and with FLOPs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Elasticities {
    /// Growth of log time with log bytes: 1 where time follows them, 0 where it does not.
    pub bytes: Estimate,
    /// The same of FLOPs; `None` for what computes nothing.
    pub flops: Option<Estimate>,
    /// Seconds that every launch takes whatever its size, which were taken off; 0 where
    /// [`Elasticities::is_of_whole_time`].
    pub fixed_s: f64,
    /// Whether the elasticities are those of all of the time, since a fixed cost is most of
    /// it: both are then near 0.
    pub is_of_whole_time: bool,
    /// Standard deviation of what is left of log time.
    pub residual: f64,
}

/// How bytes and FLOPs vary over points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Design {
    /// Points.
    pub points: usize,
    /// Correlation of log bytes and log FLOPs; `None` where one of them does not vary.
    pub correlation: Option<f64>,
    /// Standard deviations of log bytes, and of log FLOPs, each at a fixed value of the other.
    pub spreads: [f64; 2],
    /// Least and largest FLOPs per byte.
    pub intensity: [f64; 2],
}

/// Why points say nothing of an elasticity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Refusal {
    /// There are fewer than [`FEWEST_POINTS`].
    TooFew(usize),
    /// All points have nearly as many bytes.
    EqualBytes,
    /// All points have nearly as many FLOPs.
    EqualFlops,
    /// Bytes and FLOPs go up together, with this correlation.
    Together(f64),
    /// No line through the points is better than all others.
    NoFit,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::TooFew(points) => {
                write!(f, "{points} of the {FEWEST_POINTS} points that it takes")
            }
            Refusal::EqualBytes => f.write_str(
                "bytes hardly vary at equal FLOPs: it takes points of other batches, contexts \
                 or formats",
            ),
            Refusal::EqualFlops => f.write_str(
                "FLOPs hardly vary at equal bytes: it takes points of other groups, rows or \
                 drafts",
            ),
            Refusal::Together(correlation) => write!(
                f,
                "bytes and FLOPs go up together (correlation {correlation:.2}): it takes \
                 points that change one of them, by other groups, rows, drafts or formats"
            ),
            Refusal::NoFit => f.write_str("no line through them is better than all others"),
        }
    }
}

/// Fewest points of a fit of four unknowns: what is left of their times must show how far
/// the fit may be off.
pub const FEWEST_POINTS: usize = 8;

/// Least standard deviation of the logarithm of one amount at a fixed value of the other:
/// half of the points with twice as much as the others have 0.35.
const LEAST_SPREAD: f64 = 0.25;

/// Clusters from which on intervals are of configurations. Fewer do not show how far
/// configurations differ, so each point then counts for itself.
const FEWEST_CLUSTERS: usize = 12;

/// Share of a time that a fixed cost must stay below for the rest to be seen.
const MOSTLY: f64 = 0.5;

impl Design {
    /// Of bytes and FLOPs. `None` of no points.
    pub fn of(amounts: &[[f64; 2]]) -> Option<Design> {
        let count = amounts.len() as f64;
        let logs: Vec<[f64; 2]> = amounts.iter().map(|both| both.map(f64::ln)).collect();
        let mean = |of: &dyn Fn(&[f64; 2]) -> f64| logs.iter().map(of).sum::<f64>() / count;
        let middle = [0, 1].map(|at| mean(&|both| both[at]));
        let product = |a: usize, b: usize| {
            mean(&|both| (both[a] - middle[a]) * (both[b] - middle[b]))
        };
        let (of_bytes, of_flops) = (product(0, 0), product(1, 1));
        let correlation = product(0, 1) / (of_bytes * of_flops).sqrt();
        let correlation = correlation.is_finite().then_some(correlation);
        let rest = 1.0 - correlation.map_or(0.0, |r| r * r);
        let spread = |variance: f64| (variance * rest).max(0.0).sqrt();
        let intensities = amounts.iter().map(|[bytes, flops]| flops / bytes);
        let least = intensities.clone().fold(f64::INFINITY, f64::min);
        (!amounts.is_empty()).then(|| Design {
            points: amounts.len(),
            correlation,
            spreads: [of_bytes, of_flops].map(spread),
            intensity: [least, intensities.fold(0.0, f64::max)],
        })
    }

    /// Whether elasticities can be told from such points: the reason why they cannot.
    ///
    /// # Errors
    /// Too few points, or bytes and FLOPs that do not vary independently of each other.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.points < FEWEST_POINTS {
            return Err(Refusal::TooFew(self.points));
        }
        let [bytes, flops] = self.spreads.map(|spread| spread >= LEAST_SPREAD);
        // What computes nothing has no FLOPs to vary.
        let has_flops = self.intensity[0] > 0.0;
        match (bytes, flops || !has_flops) {
            (true, true) => Ok(()),
            (false, false) => {
                Err(self.correlation.map_or(Refusal::EqualBytes, Refusal::Together))
            }
            (false, true) => Err(Refusal::EqualBytes),
            (true, false) => Err(Refusal::EqualFlops),
        }
    }
}

/// Log time on log bytes and log FLOPs: `T = a + c V^x F^y`, by least squares of log time.
///
/// The fixed cost `a` is an unknown like the others. Left in, it would pull both elasticities
/// towards 0 by its share of the time, however small; taking only points on which it is small
/// leaves that share of it, and half of a campaign out. Where it takes most of the time of
/// most points, nothing of the rest is seen, and the elasticities are those of the whole time.
///
/// What computes nothing has no elasticity of FLOPs. Intervals are as
/// `bootstrap::half_widths` says, of configurations where there are at least twelve, and else
/// of points.
///
/// # Errors
/// A design that cannot tell: see [`Design::check`].
pub fn elasticities(points: &[Point]) -> Result<Elasticities, Refusal> {
    let amounts: Vec<[f64; 2]> = points.iter().map(|p| [p.bytes, p.flops]).collect();
    let design = Design::of(&amounts).ok_or(Refusal::TooFew(0))?;
    design.check()?;
    let scaled = Scaled::of(points);
    match design.intensity[0] > 0.0 {
        true => scaled.of_both(),
        false => scaled.of_bytes(),
    }
    .ok_or(Refusal::NoFit)
}

/// The number of each point's cluster.
fn clusters(points: &[Point]) -> Vec<usize> {
    let mut known: Vec<usize> = points.iter().map(|point| point.configuration).collect();
    known.sort_unstable();
    known.dedup();
    let place = |point: &Point| known.binary_search(&point.configuration).unwrap_or(0);
    match known.len() >= FEWEST_CLUSTERS {
        true => points.iter().map(place).collect(),
        false => (0..points.len()).collect(),
    }
}

fn log_mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.map(f64::ln).sum::<f64>() / count
}

/// Logarithms of points, less their means.
struct Scaled {
    time: Vec<f64>,
    bytes: Vec<f64>,
    flops: Vec<f64>,
    /// Seconds whose logarithm is 0 here.
    unit_s: f64,
    /// The shortest time, in units of `unit_s`.
    shortest: f64,
    clusters: Vec<usize>,
}

impl Scaled {
    fn of(points: &[Point]) -> Self {
        let of = |of: fn(&Point) -> f64| -> (Vec<f64>, f64) {
            let mean = log_mean(points.iter().map(of));
            (points.iter().map(|point| of(point).ln() - mean).collect(), mean)
        };
        let (time, mean_time) = of(|point| point.time_s);
        let shortest = time.iter().copied().fold(f64::INFINITY, f64::min).exp();
        Scaled {
            time,
            bytes: of(|point| point.bytes).0,
            flops: of(|point| point.flops).0,
            unit_s: mean_time.exp(),
            shortest,
            clusters: clusters(points),
        }
    }

    fn of_both(&self) -> Option<Elasticities> {
        let amounts = |at: usize| [self.bytes[at], self.flops[at]];
        let plain = self.plain(|[c, x, y], at| {
            let [bytes, flops] = amounts(at);
            (c + x * bytes + y * flops, [1.0, bytes, flops])
        })?;
        let beyond = self.starts().filter_map(|fixed| {
            let [c, x, y] = plain.parameters;
            let start = [fixed, self.rest(c, fixed), x, y];
            least_squares(start, &self.time, |[fixed, c, x, y], at| {
                let [bytes, flops] = amounts(at);
                let rest = (c + x * bytes + y * flops).exp();
                let time = fixed + rest;
                let share = rest / time;
                (time.ln(), [1.0 / time, share, share * bytes, share * flops])
            })
        });
        if let Some(fitted) = self.best(beyond) {
            let half = bootstrap::half_widths(&fitted, &self.clusters, [2, 3]);
            if let Some([of_bytes, of_flops]) = half {
                let [fixed, _, x, y] = fitted.parameters;
                let flops = Some(around(y, of_flops));
                return Some(self.found(around(x, of_bytes), flops, fixed, fitted.squares));
            }
        }
        let half = bootstrap::half_widths(&plain, &self.clusters, [1, 2])?;
        let [_, x, y] = plain.parameters;
        let flops = Some(around(y, half[1]));
        Some(self.found(around(x, half[0]), flops, 0.0, plain.squares).whole())
    }

    fn of_bytes(&self) -> Option<Elasticities> {
        let bytes = |at: usize| self.bytes[at];
        let plain = self.plain(|[c, x], at| (c + x * bytes(at), [1.0, bytes(at)]))?;
        let beyond = self.starts().filter_map(|fixed| {
            let [c, x] = plain.parameters;
            let start = [fixed, self.rest(c, fixed), x];
            least_squares(start, &self.time, |[fixed, c, x], at| {
                let rest = (c + x * bytes(at)).exp();
                let time = fixed + rest;
                (time.ln(), [1.0 / time, rest / time, rest / time * bytes(at)])
            })
        });
        if let Some(fitted) = self.best(beyond) {
            let half = bootstrap::half_widths(&fitted, &self.clusters, [2]);
            if let Some([half]) = half {
                let [fixed, _, x] = fitted.parameters;
                return Some(self.found(around(x, half), None, fixed, fitted.squares));
            }
        }
        let [half] = bootstrap::half_widths(&plain, &self.clusters, [1])?;
        let [_, x] = plain.parameters;
        Some(self.found(around(x, half), None, 0.0, plain.squares).whole())
    }

    /// A fit of the whole time, which has one solution.
    fn plain<const P: usize>(
        &self,
        model: impl Fn(&[f64; P], usize) -> (f64, [f64; P]),
    ) -> Option<Fitted<P>> {
        least_squares([0.0; P], &self.time, model)
    }

    /// Fixed costs to begin with: none, and most of the shortest time.
    fn starts(&self) -> impl Iterator<Item = f64> {
        [0.0, 0.5, 0.9].into_iter().map(|share| share * self.shortest)
    }

    /// The logarithm of what a fixed cost leaves of a time that is usual.
    fn rest(&self, c: f64, fixed: f64) -> f64 {
        (c.exp() - fixed).max(0.1).ln()
    }

    /// The best of fits whose first parameter is a fixed cost; `None` where that takes most
    /// of the time of most points.
    fn best<const P: usize>(
        &self,
        fits: impl Iterator<Item = Fitted<P>>,
    ) -> Option<Fitted<P>> {
        let best = fits.min_by(|a, b| a.squares.total_cmp(&b.squares))?;
        let least_time = best.parameters[0] / MOSTLY;
        let hidden = self.time.iter().filter(|time| time.exp() < least_time).count();
        (2 * hidden <= self.time.len()).then_some(best)
    }

    fn found(
        &self,
        bytes: Estimate,
        flops: Option<Estimate>,
        fixed: f64,
        squares: f64,
    ) -> Elasticities {
        Elasticities {
            bytes,
            flops,
            fixed_s: fixed * self.unit_s,
            is_of_whole_time: false,
            residual: (squares / self.time.len() as f64).sqrt(),
        }
    }
}

impl Elasticities {
    fn whole(self) -> Self {
        Elasticities { is_of_whole_time: true, ..self }
    }
}

fn around(value: f64, half: f64) -> Estimate {
    Estimate { value, lo: value - half, hi: value + half }
}

#[cfg(test)]
mod tests;
