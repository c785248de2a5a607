//! At which sizes time begins to follow something else.

use super::bootstrap::half_widths;
use super::least_squares::{Fitted, least_squares};
use super::{Point, clusters, log_mean};
use crate::statistics::Estimate;

/// Where a measured range has a change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Crossing {
    /// Here. The interval may reach beyond what was measured.
    At(Estimate),
    /// Below all that was measured, the least of which is this.
    Below(f64),
    /// Beyond all that was measured, the largest of which is this.
    Beyond(f64),
    /// It cannot be told, because of this.
    Unknown(&'static str),
}

impl Crossing {
    /// Where it is, if it is within what was measured.
    pub const fn at(self) -> Option<Estimate> {
        match self {
            Crossing::At(estimate) => Some(estimate),
            _ => None,
        }
    }
}

/// Where the times of a kernel's points change what they follow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChangePoints {
    /// Bytes that take as long to move as every launch takes whatever its size: with fewer, a
    /// point is in the latency regime.
    pub latency_bytes: Crossing,
    /// FLOPs per byte at which computing takes as long as moving.
    pub ridge_flops_per_byte: Crossing,
    /// Standard deviation of what is left of log time.
    pub residual: f64,
}

/// Fewest points: those of four unknowns, and two more.
const FEWEST_POINTS: usize = 6;

/// The power of the mean of moving and computing from which on it is their maximum: at the
/// ridge it is 4% more.
const SHARPEST: f64 = 16.0;

/// Least factor between two intensities that can tell a ridge.
const LEAST_FACTOR: f64 = 1.5;

/// Change points of points of one kernel: `T = (r + W) / b`, by least squares of log time,
/// where `W` is the bytes `V`, the FLOPs `F` over a ridge `q`, or both,
/// `(V^p + (F / q)^p)^(1/p)`: their maximum where `p` is large, and their sum, moving and
/// computing in turn, where it is 1. Which of these it is, and whether `p` is a parameter too,
/// decides Schwarz's criterion ("Estimating the dimension of a model", 1978): a further
/// parameter must pay.
///
/// `r` is where the latency regime ends, `q` the ridge. Intervals are as those of
/// [`super::elasticities`].
pub fn change_points(points: &[Point]) -> ChangePoints {
    let unknown = |why: &'static str| ChangePoints {
        latency_bytes: Crossing::Unknown(why),
        ridge_flops_per_byte: Crossing::Unknown(why),
        residual: 0.0,
    };
    if points.len() < FEWEST_POINTS {
        return unknown("fewer than 6 points");
    }
    let sizes = Sizes::of(points);
    let count = points.len() as f64;
    let schwarz = |squares: f64, parameters: f64| {
        count * (squares / count).max(1e-24).ln() + parameters * count.ln()
    };
    let mut found: Vec<(f64, ChangePoints)> = Vec::new();
    if let Some(fit) = sizes.of_bytes() {
        found.push((schwarz(fit.squares, 2.0), sizes.without_ridge(&fit, Side::Beyond)));
    }
    if sizes.has_ridge() {
        if let Some(fit) = sizes.of_flops() {
            found.push((schwarz(fit.squares, 2.0), sizes.without_ridge(&fit, Side::Below)));
        }
        if let Some(fit) = sizes.of_maximum() {
            found
                .extend(sizes.with_ridge(&fit).map(|all| (schwarz(fit.squares, 3.0), all)));
        }
        if let Some(fit) = sizes.of_mean() {
            found
                .extend(sizes.with_ridge(&fit).map(|all| (schwarz(fit.squares, 4.0), all)));
        }
    }
    let best = found.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or_else(|| unknown("no curve goes through these"), |(_, found)| found)
}

/// On which side of all that was measured the ridge lies.
#[derive(Clone, Copy)]
enum Side {
    Below,
    Beyond,
}

/// Logarithms of times, bytes and intensities.
struct Sizes {
    time: Vec<f64>,
    /// Bytes over their mean.
    bytes: Vec<f64>,
    /// FLOPs per byte.
    intensity: Vec<f64>,
    /// Log of the bytes that `bytes` are over.
    mean_bytes: f64,
    clusters: Vec<usize>,
}

fn ends(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    (least, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

impl Sizes {
    fn of(points: &[Point]) -> Self {
        let mean_bytes = log_mean(points.iter().map(|point| point.bytes));
        let mean_time = log_mean(points.iter().map(|point| point.time_s));
        Sizes {
            time: points.iter().map(|point| point.time_s.ln() - mean_time).collect(),
            bytes: points.iter().map(|point| point.bytes.ln() - mean_bytes).collect(),
            intensity: points
                .iter()
                .map(|point| (point.flops / point.bytes).ln())
                .collect(),
            mean_bytes,
            clusters: clusters(points),
        }
    }

    /// Whether points differ in intensity.
    fn has_ridge(&self) -> bool {
        let (least, largest) = ends(&self.intensity);
        least.is_finite() && largest - least >= LEAST_FACTOR.ln()
    }

    /// Time by bytes alone.
    fn of_bytes(&self) -> Option<Fitted<2>> {
        self.of_line(|at| self.bytes[at])
    }

    /// Time by FLOPs alone.
    fn of_flops(&self) -> Option<Fitted<2>> {
        let (least, _) = ends(&self.intensity);
        self.of_line(|at| self.bytes[at] + self.intensity[at] - least)
    }

    /// `ln T = c + ln(r + W)`.
    fn of_line(&self, work: impl Fn(usize) -> f64) -> Option<Fitted<2>> {
        let least = (0..self.time.len()).map(&work).fold(f64::INFINITY, f64::min).exp();
        let fits = [0.1, 10.0].into_iter().filter_map(|share| {
            let start = [0.0, share * least];
            least_squares(start, &self.time, |[c, r], at| {
                let work = work(at).exp();
                (c + (r + work).ln(), [1.0, 1.0 / (r + work)])
            })
        });
        fits.min_by(|a, b| a.squares.total_cmp(&b.squares))
    }

    /// Starts of fits with a ridge: sizes and intensities within the measured ones.
    fn starts(&self) -> impl Iterator<Item = [f64; 2]> {
        let ((small, _), (low, high)) = (ends(&self.bytes), ends(&self.intensity));
        let ridges = [0.2, 0.5, 0.8].map(|share| low + share * (high - low));
        ridges.into_iter().map(move |ridge| [0.5 * small.exp(), ridge])
    }

    /// Time by the larger of bytes and FLOPs.
    fn of_maximum(&self) -> Option<Fitted<3>> {
        let fits = self.starts().filter_map(|[r, q]| {
            least_squares([0.0, r, q], &self.time, |[c, r, q], at| {
                let (value, [of_c, of_r, of_q, _]) = self.mean(*c, *r, *q, SHARPEST, at);
                (value, [of_c, of_r, of_q])
            })
        });
        fits.min_by(|a, b| a.squares.total_cmp(&b.squares))
    }

    /// Time by a mean of bytes and FLOPs.
    fn of_mean(&self) -> Option<Fitted<4>> {
        let fits = self.starts().filter_map(|[r, q]| {
            let start = [0.0, r, q, 3.0_f64.ln()];
            least_squares(start, &self.time, |[c, r, q, p], at| {
                self.mean(*c, *r, *q, p.exp(), at)
            })
        });
        let is_mean = |fit: &Fitted<4>| fit.parameters[3] < SHARPEST.ln();
        fits.filter(is_mean).min_by(|a, b| a.squares.total_cmp(&b.squares))
    }

    /// The logarithm of a point's time and its derivatives by `c`, `r`, `q` (a logarithm) and
    /// `ln p`.
    fn mean(&self, c: f64, r: f64, q: f64, p: f64, at: usize) -> (f64, [f64; 4]) {
        let beyond = p * (self.intensity[at] - q);
        // Log of (1 + e^x), without overflow.
        let both = beyond.max(0.0) + (-beyond.abs()).exp().ln_1p();
        let share = 1.0 / (1.0 + (-beyond).exp());
        let work = (self.bytes[at] + both / p).exp();
        let of_work = work / (r + work);
        let slopes = [
            1.0,
            1.0 / (r + work),
            -of_work * share,
            of_work * (share * beyond - both) / p,
        ];
        (c + (r + work).ln(), slopes)
    }

    /// Change points of a fit of bytes, or of FLOPs, alone.
    fn without_ridge(&self, fit: &Fitted<2>, side: Side) -> ChangePoints {
        let (least, largest) = ends(&self.intensity);
        let half = half_widths(fit, &self.clusters, [1]);
        let ridge_flops_per_byte = match side {
            Side::Below => Crossing::Below(least.exp()),
            Side::Beyond if self.has_ridge() => Crossing::Beyond(largest.exp()),
            Side::Beyond if least.is_finite() => {
                Crossing::Unknown("bytes and FLOPs go up together")
            }
            Side::Beyond => Crossing::Unknown("no FLOPs"),
        };
        let latency_bytes = match side {
            Side::Beyond => self.latency(fit.parameters[1], half.map(|[half]| half)),
            Side::Below => Crossing::Unknown("time follows FLOPs, not bytes"),
        };
        self.changes(latency_bytes, ridge_flops_per_byte, fit.squares)
    }

    /// Change points of a fit of both; `None` where its ridge is not within what was
    /// measured, or where its interval holds all of that: it is then one or two points that
    /// happen to be slow.
    fn with_ridge<const P: usize>(&self, fit: &Fitted<P>) -> Option<ChangePoints> {
        let [r, ridge] = [fit.parameters[1], fit.parameters[2]];
        let (least, largest) = ends(&self.intensity);
        let is_within = least <= ridge && ridge <= largest;
        let [of_latency, of_ridge] =
            half_widths(fit, &self.clusters, [1, 2]).filter(|_| is_within)?;
        if ridge - of_ridge < least && largest < ridge + of_ridge {
            return None;
        }
        let ridge = Estimate {
            value: ridge.exp(),
            lo: (ridge - of_ridge).exp(),
            hi: (ridge + of_ridge).exp(),
        };
        let latency_bytes = self.latency(r, Some(of_latency));
        Some(self.changes(latency_bytes, Crossing::At(ridge), fit.squares))
    }

    /// The end of the latency regime, from the parameter `r` and half of its interval.
    fn latency(&self, r: f64, half: Option<f64>) -> Crossing {
        let (least, largest) = ends(&self.bytes);
        let bytes = |relative: f64| relative * self.mean_bytes.exp();
        match half {
            _ if r < least.exp() => Crossing::Below(bytes(least.exp())),
            _ if r > largest.exp() => Crossing::Beyond(bytes(largest.exp())),
            Some(half) if half < r * (largest - least) => Crossing::At(Estimate {
                value: bytes(r),
                lo: bytes(r * (-half / r).exp()),
                hi: bytes(r * (half / r).exp()),
            }),
            _ => Crossing::Unknown("no curve is better than all others"),
        }
    }

    fn changes(
        &self,
        latency_bytes: Crossing,
        ridge_flops_per_byte: Crossing,
        squares: f64,
    ) -> ChangePoints {
        let residual = (squares / self.time.len() as f64).sqrt();
        ChangePoints { latency_bytes, ridge_flops_per_byte, residual }
    }
}
