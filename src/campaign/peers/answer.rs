//! What the script answers, checked: the outcome of a round, as of an own kernel.

use std::fs;

use super::request::Asked;
use super::script::{Answer, Exchange};
use crate::measure::{Durations, PointOutcome, Sample, Settings, judge_precision};
use crate::record::Status;
use crate::reference::{self, CheckVerdict};
use crate::statistics::summarise;

/// What became of a round: measured times whose outputs are right, or why there are none.
pub(super) fn outcome_of(
    asked: &Asked,
    exchange: &Exchange,
    (seed, settings): (u64, &Settings),
) -> PointOutcome {
    let answer = &exchange.answer;
    let mut outcome = PointOutcome {
        rotation: Some(asked.rotation),
        implementation: answer.implementation.clone().filter(|text| !text.is_empty()),
        durations: Durations {
            setup_s: answer.setup_s,
            warmup_s: answer.warmup_s,
            sample_s: answer.sample_s,
            ..Durations::default()
        },
        ..PointOutcome::default()
    };
    let mut end = |status, reason: String| {
        outcome.status = status;
        outcome.reason = reason;
    };
    match answer.status.as_str() {
        "ok" => measured(asked, answer, (seed, settings), &mut outcome),
        "skipped" => end(Status::Skipped, answer.reason.clone()),
        "failed" => end(Status::Failed, answer.reason.clone()),
        _ => end(Status::Failed, format!("the script answered `{}`", exchange.line)),
    }
    outcome
}

/// Takes over samples and checks outputs.
fn measured(
    asked: &Asked,
    answer: &Answer,
    (seed, settings): (u64, &Settings),
    outcome: &mut PointOutcome,
) {
    let is_time = |seconds: f64| seconds.is_finite() && seconds > 0.0;
    if answer.launches == 0
        || answer.samples.is_empty()
        || !answer.samples.iter().all(|(_, seconds, _)| is_time(*seconds))
    {
        outcome.status = Status::Failed;
        outcome.reason = "the script gave no times that can be used".to_owned();
        return;
    }
    let mut since_point_s = answer.setup_s + answer.warmup_s;
    for &(first_slot, elapsed_s, sm_clock_hz) in &answer.samples {
        since_point_s += elapsed_s;
        outcome.samples.push(Sample {
            first_slot,
            launches: answer.launches,
            elapsed_s,
            sm_clock_hz,
            since_point_s,
        });
    }
    outcome.launches = answer.launches;
    let seconds: Vec<f64> =
        answer.samples.iter().map(|(_, s, _)| s / answer.launches as f64).collect();
    outcome.summary = summarise(&seconds);
    judge_precision(settings, seconds.len(), outcome);
    let began = std::time::Instant::now();
    check(asked, seed, outcome);
    outcome.durations.check_s = began.elapsed().as_secs_f64();
}

/// Holds the outputs against the reference, as those of own kernels.
fn check(asked: &Asked, seed: u64, outcome: &mut PointOutcome) {
    for (draw, (slot, path)) in (1..).zip(&asked.outputs) {
        let output = match fs::read(path) {
            Ok(output) => output,
            Err(error) => {
                outcome.status = Status::Failed;
                outcome.reason =
                    format!("the script wrote no output of slot {slot}: {error}");
                return;
            }
        };
        let problem = &asked.scheduled.point.problem;
        let check = match reference::check(problem, seed, *slot, draw, &output) {
            Ok(check) => check,
            Err(error) => {
                outcome.status = Status::Failed;
                outcome.reason = error.0;
                return;
            }
        };
        let is_wrong = check.verdict == CheckVerdict::Fail;
        if is_wrong {
            outcome.status = Status::Wrong;
            outcome.reason.clone_from(&check.message);
        }
        outcome.check = Some(check);
        if is_wrong {
            return;
        }
    }
}
