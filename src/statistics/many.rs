//! Tests of many differences at once: Student's t at any level, and Holm's procedure.

/// The probability that a value of Student's t distribution lies at least as far from 0 as
/// `t`, to either side. `freedom`, above 0, need not be whole.
pub fn t_exceeds(t: f64, freedom: f64) -> f64 {
    if t.is_nan() || freedom.is_nan() {
        return 1.0;
    }
    incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + t * t)).clamp(0.0, 1.0)
}

/// The distance from 0 that a value of Student's t distribution exceeds with this
/// probability, to either side: the inverse of [`t_exceeds`].
pub fn t_at(probability: f64, freedom: f64) -> f64 {
    let (mut below, mut above) = (0.0, 1.0);
    while t_exceeds(above, freedom) > probability && above < 1e12 {
        (below, above) = (above, 2.0 * above);
    }
    while above - below > 1e-10 * above {
        let middle = (below + above) / 2.0;
        match t_exceeds(middle, freedom) > probability {
            true => below = middle,
            false => above = middle,
        }
    }
    (below + above) / 2.0
}

/// One of several hypotheses, tested.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tested {
    /// Whether it is rejected.
    pub is_rejected: bool,
    /// The level at which it was tested. An interval at it excludes what is rejected, and
    /// holds what is not.
    pub level: f64,
    /// The smallest level of the whole table at which it would be rejected.
    pub adjusted: f64,
}

/// Tests hypotheses by their probabilities, so that one that is true is rejected in at most
/// `alpha` of cases, whatever the number of hypotheses and however they depend on each other
/// (Holm, "A simple sequentially rejective multiple test procedure", 1979).
pub fn holm(probabilities: &[f64], alpha: f64) -> Vec<Tested> {
    let n = probabilities.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b]));
    let level = |place: usize| alpha / (n - place) as f64;
    let first_kept = order.iter().enumerate();
    let rejected =
        first_kept.take_while(|(place, at)| probabilities[**at] <= level(*place));
    let rejected = rejected.count();
    let mut tested = vec![Tested { is_rejected: false, level: alpha, adjusted: 1.0 }; n];
    let mut adjusted: f64 = 0.0;
    for (place, at) in order.into_iter().enumerate() {
        adjusted = adjusted.max(probabilities[at] * (n - place) as f64).min(1.0);
        let is_rejected = place < rejected;
        let level = level(place.min(rejected));
        tested[at] = Tested { is_rejected, level, adjusted };
    }
    tested
}

/// The regularized incomplete beta function, by its continued fraction (Press et al.,
/// "Numerical Recipes", 6.4).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return f64::from(x >= 1.0);
    }
    let front = ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b);
    let front = (front + a * x.ln() + b * (-x).ln_1p()).exp();
    match x < (a + 1.0) / (a + b + 2.0) {
        true => front * beta_fraction(a, b, x) / a,
        false => 1.0 - front * beta_fraction(b, a, 1.0 - x) / b,
    }
}

/// The continued fraction of the above, by Lentz's method.
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    let away_from_zero = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for m in (1..500).map(f64::from) {
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut step = 1.0;
        for term in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + term * d);
            c = away_from_zero(1.0 + term / c);
            step = d * c;
            value *= step;
        }
        if (step - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value
}

/// The logarithm of the gamma function of a positive value, by Lanczos' approximation with
/// nine terms (relative error below 1e-14).
fn ln_gamma(x: f64) -> f64 {
    const TERMS: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        let pi = std::f64::consts::PI;
        return (pi / (pi * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let terms = TERMS[1..].iter().zip((1..).map(f64::from));
    let sum = TERMS[0] + terms.map(|(term, i)| term / (x + i)).sum::<f64>();
    let t = x + 7.5;
    (std::f64::consts::TAU.sqrt() * sum).ln() + (x + 0.5) * t.ln() - t
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables of Student's t: two-sided 5%, 1% and 0.1%.
    #[test]
    fn t_is_that_of_tables() {
        for (freedom, at) in [
            (1.0, [12.7062, 63.6567, 636.6192]),
            (4.0, [2.7764, 4.6041, 8.6103]),
            (10.0, [2.2281, 3.1693, 4.5869]),
            (120.0, [1.9799, 2.6174, 3.3735]),
        ] {
            for (level, known) in [0.05, 0.01, 0.001].into_iter().zip(at) {
                let t = t_at(level, freedom);
                assert!((t / known - 1.0).abs() < 1e-4, "{freedom} {level}: {t}");
                assert!((t_exceeds(t, freedom) / level - 1.0).abs() < 1e-9);
            }
        }
        // With 2 degrees: 1 - t / sqrt(t^2 + 2).
        for t in [0.1, 1.0, 7.0] {
            let exact = 1.0 - t / f64::sqrt(t * t + 2.0);
            assert!((t_exceeds(t, 2.0) - exact).abs() < 1e-12, "{t}");
        }
        assert_eq!((t_exceeds(0.0, 3.0), t_exceeds(f64::NAN, 3.0)), (1.0, 1.0));
    }

    /// The example of Holm's paper by hand: 0.01 <= 5%/4, 0.02 > 5%/3.
    #[test]
    fn holm_steps_down() {
        let tested = holm(&[0.02, 0.01, 0.9, 0.04], 0.05);
        let rejected: Vec<bool> = tested.iter().map(|t| t.is_rejected).collect();
        assert_eq!(rejected, [false, true, false, false]);
        let adjusted = tested.iter().map(|t| (t.adjusted * 1e6).round() / 1e6);
        assert_eq!(adjusted.collect::<Vec<_>>(), [0.06, 0.04, 0.9, 0.08]);
        assert_eq!(tested[1].level, 0.05 / 4.0);
        assert!(tested.iter().filter(|t| !t.is_rejected).all(|t| t.level == 0.05 / 3.0));
        let all = holm(&[0.001, 0.04], 0.05);
        assert!(all.iter().all(|t| t.is_rejected), "{all:?}");
        assert_eq!(holm(&[], 0.05), []);
    }
}
