//! How tokens choose experts, and what that means in the mean: experts that a batch touches,
//! and GPUs that a token is sent to.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use crate::op::MoeGemm;

/// How the tokens of a step choose their experts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ExpertRouting {
    /// So that as many experts and GPUs are touched as can be: the bound `min(E, T k)`.
    Balanced,
    /// At random, all experts alike.
    #[default]
    Uniform,
    /// At random, the r-th most popular expert `r^-s` times as often as the first, `s` being
    /// this exponent. A token draws until it has as many different ones as it needs.
    Zipf(f64),
}

/// Which number of experts and GPUs a sum is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// As many as can be touched.
    Bound,
    /// As many as are touched in the mean.
    Mean,
}

impl ExpertRouting {
    /// The number that sums of a step with this routing are of.
    pub const fn touched(self) -> Touched {
        match self {
            ExpertRouting::Balanced => Touched::Bound,
            ExpertRouting::Uniform | ExpertRouting::Zipf(_) => Touched::Mean,
        }
    }

    /// The mean number of experts that any of a problem's tokens chooses; that of uniform
    /// routing where routing is balanced.
    ///
    /// # Errors
    /// More experts than their popularity is computed for.
    pub fn experts_touched(self, problem: &MoeGemm) -> Result<f64, String> {
        let ExpertRouting::Zipf(exponent) = self else {
            return Ok(problem.experts_expected());
        };
        let tokens = problem.tokens as f64;
        let chosen = chosen(problem.experts, problem.top_k, exponent)?;
        Ok(chosen.iter().map(|chosen| 1.0 - (1.0 - chosen).max(0.0).powf(tokens)).sum())
    }
}

impl fmt::Display for ExpertRouting {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            ExpertRouting::Balanced => f.write_str("balanced"),
            ExpertRouting::Uniform => f.write_str("uniform"),
            ExpertRouting::Zipf(exponent) => write!(f, "zipf:{exponent}"),
        }
    }
}

/// Largest exponent: with more, all but the first few experts are never chosen.
const MOST_SKEWED: f64 = 4.0;

impl FromStr for ExpertRouting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let exponent = match text {
            "balanced" => return Ok(ExpertRouting::Balanced),
            "uniform" => return Ok(ExpertRouting::Uniform),
            "zipf" => "1",
            other => other.strip_prefix("zipf:").ok_or_else(|| {
                format!(
                    "`{text}` is not a routing; write balanced, uniform, zipf, or zipf and its \
                     exponent, such as zipf:0.8"
                )
            })?,
        };
        match exponent.parse::<f64>() {
            Ok(exponent) if (0.0..=MOST_SKEWED).contains(&exponent) => {
                Ok(ExpertRouting::Zipf(exponent))
            }
            _ => Err(format!(
                "`{exponent}` is not an exponent from 0 to {MOST_SKEWED}; write one, such as \
                 zipf:0.8"
            )),
        }
    }
}

/// The mean number of GPUs that have any of a token's `top_k` different experts, the
/// token's own GPU included, where each of `gpus` has as many of the `experts`.
///
/// A GPU has none of them with the probability that all are among the `n = E - E/G` experts
/// of the others: `n (n-1) ... (n-k+1) / (E (E-1) ... (E-k+1))`, a hypergeometric one.
/// Popular experts change nothing, as long as it is not known which GPU has them.
pub fn gpus_reached((experts, top_k): (u64, u64), gpus: u64) -> f64 {
    let elsewhere = experts - experts / gpus;
    let missed: f64 = (0..top_k)
        .map(|drawn| elsewhere.saturating_sub(drawn) as f64 / (experts - drawn) as f64)
        .product();
    gpus as f64 * (1.0 - missed)
}

/// Most experts times choices for which popularities are computed: a second's work.
const MOST_CHOICES: u64 = 1 << 18;

/// Experts, choices of a token, and the bits of the exponent.
type Skew = (u64, u64, u64);

/// The probability of each expert to be among a token's, the most popular first. Computed
/// once for each model and exponent.
fn chosen(experts: u64, top_k: u64, exponent: f64) -> Result<Arc<[f64]>, String> {
    static KNOWN: RwLock<BTreeMap<Skew, Arc<[f64]>>> = RwLock::new(BTreeMap::new());
    if experts.saturating_mul(top_k) > MOST_CHOICES {
        return Err(format!(
            "routing by zipf is computed for experts * top_k up to {MOST_CHOICES}, not {experts} \
             * {top_k}; use uniform"
        ));
    }
    let skew = (experts, top_k, exponent.to_bits());
    // A writer that panicked has inserted nothing.
    if let Some(known) = KNOWN.read().unwrap_or_else(PoisonError::into_inner).get(&skew) {
        return Ok(Arc::clone(known));
    }
    let computed: Arc<[f64]> = chosen_of(experts, top_k, exponent).into();
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    Ok(Arc::clone(known.entry(skew).or_insert(computed)))
}

/// Step of the quadrature in [`chosen_of`], in the logarithm of the time.
const LOG_STEP: f64 = 1.0 / 16.0;

/// [`chosen`], computed.
///
/// Drawing until there are `k` different ones is the same as giving each expert a clock that
/// rings after an exponential time of rate `w`, its popularity, and taking the first `k`
/// that ring. So an expert is chosen with the probability
/// `int w e^(-w t) P(fewer than k others have rung at t) dt`. In `log t` the integrand is
/// smooth and falls off exponentially on both sides, where the trapezoidal rule converges
/// faster than any power.
fn chosen_of(experts: u64, top_k: u64, exponent: f64) -> Vec<f64> {
    let rates: Vec<f64> = (1..=experts).map(|r| (r as f64).powf(-exponent)).collect();
    let total: f64 = rates.iter().sum();
    let least = rates.last().copied().unwrap_or(1.0);
    // Before the first node nothing has rung, after the last one everything has.
    let (from, to) = ((1e-13 / total).ln(), (40.0 / least).ln());
    let mut chosen = vec![0.0; rates.len()];
    let nodes = ((to - from) / LOG_STEP).ceil() as u64;
    for node in 0..=nodes {
        let time = (from + node as f64 * LOG_STEP).exp();
        let fewer = fewer_of_others(&rates, top_k as usize, time);
        for ((chosen, rate), fewer) in chosen.iter_mut().zip(&rates).zip(fewer) {
            *chosen += LOG_STEP * rate * time * (-rate * time).exp() * fewer;
        }
    }
    chosen
}

/// For each of the clocks the probability that fewer than `k` of the others have rung.
fn fewer_of_others(rates: &[f64], k: usize, time: f64) -> Vec<f64> {
    let rung: Vec<f64> = rates.iter().map(|rate| -(-rate * time).exp_m1()).collect();
    // The distribution of how many have rung with one clock more, below k.
    let add = |counts: &mut [f64], rung: f64| {
        for count in (0..counts.len()).rev() {
            let one_less = if count > 0 { counts[count - 1] } else { 0.0 };
            counts[count] = counts[count] * (1.0 - rung) + one_less * rung;
        }
    };
    let mut none = vec![0.0; k];
    none[0] = 1.0;
    let mut before = Vec::with_capacity(rates.len());
    let mut counts = none.clone();
    for &rung in &rung {
        before.push(counts.clone());
        add(&mut counts, rung);
    }
    let mut after = none;
    let mut fewer = vec![0.0; rates.len()];
    for (clock, &rung) in rung.iter().enumerate().rev() {
        let mut at_most = 0.0;
        // So many after it, and fewer than k - 1 - so many before.
        for (count, before) in before[clock].iter().rev().enumerate() {
            at_most += after[count];
            fewer[clock] += before * at_most;
        }
        add(&mut after, rung);
    }
    fewer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Problem;

    fn near(value: f64, expected: f64, relative: f64) {
        assert!((value / expected - 1.0).abs() < relative, "{value} and not {expected}");
    }

    /// Top 8 of 256 over 8 GPUs: 4.63 copies leave the GPU, where one for each expert
    /// would be 7.
    #[test]
    fn a_token_is_sent_once_to_each_gpu() {
        let reached = gpus_reached((256, 8), 8);
        near(reached * 7.0 / 8.0, 4.63, 1e-3);
        // Two experts over two GPUs of two each: both on one with probability 1/3.
        near(gpus_reached((4, 2), 2), 1.0 / 3.0 + 2.0 * 2.0 / 3.0, 1e-12);
        // Every expert on its own GPU.
        near(gpus_reached((8, 2), 8), 2.0, 1e-12);
        near(gpus_reached((8, 8), 4), 4.0, 1e-12);
        near(gpus_reached((8, 2), 1), 1.0, 1e-12);
    }

    /// All choices of two of three experts with popularities 1, 1/2, 1/3, by hand.
    #[test]
    fn chosen_experts_are_those_of_drawing_again() {
        let w = [1.0, 0.5, 1.0 / 3.0];
        let all: f64 = w.iter().sum();
        for i in 0..3 {
            let first = w[i] / all;
            let second: f64 =
                (0..3).filter(|&j| j != i).map(|j| w[j] / all * w[i] / (all - w[j])).sum();
            near(chosen_of(3, 2, 1.0)[i], first + second, 1e-9);
        }
    }

    #[test]
    fn a_token_chooses_as_many_experts_as_it_does() {
        for (experts, top_k) in [(8, 2), (128, 8), (256, 8), (16, 16), (5, 1), (512, 22)] {
            for exponent in [0.0, 0.5, 1.0, 2.0] {
                let chosen = chosen_of(experts, top_k, exponent);
                near(chosen.iter().sum(), top_k as f64, 1e-6);
                assert!(chosen.iter().all(|p| *p <= 1.0 + 1e-6));
                assert!(chosen.is_sorted_by(|a, b| *a >= b - 1e-9));
            }
            near(chosen_of(experts, top_k, 0.0)[0], top_k as f64 / experts as f64, 1e-6);
        }
    }

    fn problem(
        (tokens, experts, top_k): (u64, u64, u64),
        (routing, seed): (&str, u64),
    ) -> MoeGemm {
        let text = format!(
            "moe_gemm:tokens={tokens},experts={experts},top_k={top_k},n=16,k=128,dtype=bf16,\
             routing={routing},routing_seed={seed}"
        );
        match text.parse() {
            Ok(Problem::MoeGemm(problem)) => problem,
            other => panic!("{text}: {other:?}"),
        }
    }

    /// The mean over many routings that are really drawn.
    #[test]
    fn means_are_those_of_drawn_routings() {
        const SEEDS: u64 = 400;
        for (routing, name) in
            [(ExpertRouting::Uniform, "uniform"), (ExpertRouting::Zipf(1.0), "zipf")]
        {
            for sizes in [(3, 8, 2), (16, 128, 8), (40, 64, 6)] {
                let of = |seed| problem(sizes, (name, seed));
                let drawn: u64 = (0..SEEDS).map(|seed| of(seed).experts_touched()).sum();
                let mean = routing.experts_touched(&of(0)).unwrap();
                near(drawn as f64 / SEEDS as f64, mean, 0.025);
            }
        }
    }

    /// Of 16 tokens with 8 of 128 experts each, as Qwen3-235B has: skew touches fewer.
    #[test]
    fn skew_touches_fewer_experts() {
        let problem = problem((16, 128, 8), ("balanced", 0));
        let touched = |routing: ExpertRouting| routing.experts_touched(&problem).unwrap();
        near(touched(ExpertRouting::Uniform), 82.42, 1e-4);
        near(touched(ExpertRouting::Zipf(0.0)), touched(ExpertRouting::Uniform), 1e-6);
        assert!(touched(ExpertRouting::Zipf(0.5)) < touched(ExpertRouting::Uniform));
        assert!(touched(ExpertRouting::Zipf(1.0)) < touched(ExpertRouting::Zipf(0.5)));
    }

    #[test]
    fn routings_are_written_as_they_are_read() {
        for text in ["balanced", "uniform", "zipf:1", "zipf:0.85"] {
            assert_eq!(text.parse::<ExpertRouting>().unwrap().to_string(), text);
        }
        assert_eq!("zipf".parse::<ExpertRouting>(), Ok(ExpertRouting::Zipf(1.0)));
        for text in ["", "even", "zipf:", "zipf:x", "zipf:-1", "zipf:9", "zipf:NaN"] {
            let error = text.parse::<ExpertRouting>().unwrap_err();
            assert!(error.contains("write"), "{error}");
        }
        let many = problem((1, 1 << 20, 8), ("balanced", 0));
        let error = ExpertRouting::Zipf(1.0).experts_touched(&many).unwrap_err();
        assert!(error.contains("use uniform"), "{error}");
    }
}
