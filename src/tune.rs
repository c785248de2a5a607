//! The tuner: which configuration of a kernel is the fastest on this device, by class of
//! shapes.
//!
//! Tuning is a campaign like others. Its suite has each problem in every configuration of a
//! kernel, the default twice: once in the ordinary way and once by its name, so that what
//! differs between the two is what noise makes of no difference. Configurations compete by
//! successive halving until one is left beside the default ([`Settings::halving_rounds`]).
//! The rounds after that choose nothing, so that the winner's gain is not its luck.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Result, bail};

use crate::device::Device;
use crate::kernel::{Candidate, Configuration, split_name};
use crate::measure::Settings;
use crate::op::{Problem, ShapeClass};
use crate::point::Point;
use crate::record::{Records, RoundRow, Row};
use crate::statistics::{self, Estimate, holm, t_exceeds};
use crate::suite::Suite;
use crate::tuning::{TunedClass, TuningTable};

mod sections;

pub use sections::sections;

/// Rounds in which the winner is compared with the default.
const COMPARED_ROUNDS: usize = 8;

/// Seconds of warm-up and samples of a round, unless a budget says otherwise: launches of
/// microseconds are then timed some thousand times.
const ROUND_S: f64 = 0.08;

/// Shortest and longest time of a round that a budget makes.
const ROUND_RANGE_S: [f64; 2] = [0.03, 2.0];

/// Seconds that laying out and checking add to a round.
const LAYOUT_S: f64 = 0.06;

/// Probability that a table of classes none of which gains anything has one that is said to.
const ALPHA: f64 = 0.05;

/// What is to be tuned.
pub struct TuneRequest<'a> {
    /// Representative problems.
    pub shapes: &'a Suite,
    /// Names of kernels; empty for all that have several configurations.
    pub kernels: &'a [String],
    /// Seconds for all of it, if there is a limit.
    pub budget_s: Option<f64>,
}

/// A problem and the configurations of one kernel in which it runs.
struct Contest {
    point: Point,
    kernel: &'static str,
    configurations: Vec<&'static Configuration>,
}

/// A campaign that tunes.
pub struct Competition {
    /// One problem for each class of shapes, in all configurations.
    pub suite: Suite,
    /// Kernels and problems for which the time is too short, `gemv: gemm:m=1,...`.
    pub left_out: Vec<String>,
}

/// The campaign that tunes: one problem for each class of shapes that a suite has, the first, in
/// all configurations. Of those that the budget does not suffice for, in rounds as short as can
/// be, the last are left out: what competes shall also be compared with the default.
///
/// # Errors
/// A kernel that the device does not have or of which there is nothing to choose, shapes that
/// do not plan or that none of the kernels runs.
pub fn competition(device: &dyn Device, request: &TuneRequest<'_>) -> Result<Competition> {
    for name in request.kernels {
        match device.search_space(name) {
            None => bail!(
                "{} has no kernel `{name}`; `ridgepoint list {}` shows which kernels run its \
                 points",
                device.info().name,
                request.shapes.name
            ),
            Some(space) if space.configurations.len() < 2 => {
                bail!(
                    "the kernel `{name}` has one configuration: there is nothing to choose"
                )
            }
            Some(_) => {}
        }
    }
    let mut contests = contests(device, request)?;
    if contests.is_empty() {
        bail!(
            "no point of suite {} has several configurations of {} on {}",
            request.shapes.name,
            match request.kernels {
                [] => "a kernel".to_owned(),
                names => names.join(", "),
            },
            device.info().name
        );
    }
    let budget_s = request.budget_s.unwrap_or(f64::INFINITY);
    let affordable = affordable(&contests, budget_s);
    let spell = |c: Contest| format!("{}: {}", c.kernel, c.point.problem);
    let left_out = contests.drain(affordable..).map(spell).collect();
    let text = suite_text(&contests, request);
    Ok(Competition { suite: Suite::parse("tune.toml", &text)?, left_out })
}

/// The first contests, at least one, that so many seconds suffice for.
fn affordable(contests: &[Contest], budget_s: f64) -> usize {
    let shortest_s = ROUND_RANGE_S[0] + LAYOUT_S;
    let fits = |&count: &usize| {
        let (_, rows) = Rounds::of(&contests[..count]);
        rows as f64 * shortest_s <= budget_s
    };
    (1..=contests.len()).rev().find(fits).unwrap_or(1)
}

fn contests(device: &dyn Device, request: &TuneRequest<'_>) -> Result<Vec<Contest>> {
    let mut seen = BTreeSet::new();
    let mut contests = Vec::new();
    for point in request.shapes.plan(device)?.points {
        let mut by_kernel: BTreeMap<&'static str, Vec<&'static Configuration>> =
            BTreeMap::new();
        for Candidate { kernel, configuration } in device.candidates(&point.problem) {
            by_kernel.entry(kernel).or_default().push(configuration);
        }
        for (kernel, configurations) in by_kernel {
            let is_asked = request.kernels.is_empty()
                || request.kernels.iter().any(|name| name == kernel);
            let class = ShapeClass::of(&point.problem);
            if is_asked && configurations.len() > 1 && seen.insert((kernel, class)) {
                contests.push(Contest { point: point.clone(), kernel, configurations });
            }
        }
    }
    Ok(contests)
}

/// Rounds after which of so many configurations beside the default one is left.
fn halving_rounds(challengers: usize) -> usize {
    challengers.next_power_of_two().ilog2() as usize
}

/// Rounds of a campaign.
struct Rounds {
    /// After which of every contest one configuration is left beside the default.
    halving: usize,
    /// All of them.
    all: usize,
}

impl Rounds {
    /// The rounds of these contests, and how many rows all of them have.
    fn of(contests: &[Contest]) -> (Rounds, usize) {
        let challengers = contests.iter().map(|contest| contest.configurations.len() - 1);
        let halving = halving_rounds(challengers.clone().max().unwrap_or(0));
        let all = halving + COMPARED_ROUNDS;
        let in_round =
            |count: usize, round: usize| 2 + count.div_ceil(1 << round.min(halving));
        let of_contest =
            |count| (0..all).map(|round| in_round(count, round)).sum::<usize>();
        (Rounds { halving, all }, challengers.map(of_contest).sum())
    }
}

fn suite_text(contests: &[Contest], request: &TuneRequest<'_>) -> String {
    let (Rounds { halving, all: rounds }, rows) = Rounds::of(contests);
    let [shortest, longest] = ROUND_RANGE_S;
    let round_s = request.budget_s.map_or(ROUND_S, |budget_s| {
        (budget_s / rows as f64 - LAYOUT_S).clamp(shortest, longest)
    });
    // Settings are of all rounds together.
    let total_s = round_s * rounds as f64;
    let mut text = format!(
        "name = \"tune\"\nabout = \"Every configuration of kernels on the shapes of suite {}, in \
         {rows} rounds.\"\n\n[protocol]\nwarmup_s = {}\nmin_samples = {}\nmax_sample_s = {}\n\
         half_width = 0.01\nrounds = {rounds}\nhalving_rounds = {halving}\nvendor = false\n",
        request.shapes.name,
        total_s / 3.0,
        6 * rounds,
        total_s * 2.0 / 3.0,
    );
    if halving == 0 {
        text = text.replace("halving_rounds = 0\n", "");
    }
    // What the shapes' suite allows.
    let Settings { max_launch_s, disturbed_share, memory_bytes, .. } =
        request.shapes.settings;
    text.push_str(&format!(
        "max_launch_s = {max_launch_s}\ndisturbed_share = {disturbed_share}\n"
    ));
    if memory_bytes < u64::MAX {
        text.push_str(&format!("memory_bytes = \"{memory_bytes} B\"\n"));
    }
    contests.iter().for_each(|contest| text.push_str(&points_text(contest)));
    text
}

fn points_text(contest: &Contest) -> String {
    let Contest { point, kernel, configurations } = contest;
    let named = configurations.iter().map(|c| format!("\"{kernel}.{}\"", c.name));
    let kernels: Vec<String> = [format!("\"{kernel}\"")].into_iter().chain(named).collect();
    let mut text = format!(
        "\n[[points]]\nop = \"{}\"\ncache = \"{}\"\nkernel = [{}]\n",
        point.problem.op(),
        point.cache,
        kernels.join(", ")
    );
    let launch = point.launch.map(|launch| ("launch", launch.to_string()));
    let load = point.load.map(|load| ("load", load.to_string()));
    let fields = point.problem.fields().into_iter().chain(launch).chain(load);
    fields.for_each(|(key, value)| text.push_str(&format!("{key} = \"{value}\"\n")));
    text
}

/// What became of a configuration of a kernel on a problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The kernel.
    pub kernel: String,
    /// Its configuration.
    pub configuration: String,
    /// The problem.
    pub problem: Problem,
    /// Status of its row, and why there is no time if there is none.
    pub status: String,
    /// Undisturbed rounds that were measured of it.
    pub rounds: usize,
    /// Seconds over these rounds.
    pub time_s: Option<f64>,
    /// Its time over the default's, in the rounds that both have.
    pub of_default: Option<f64>,
}

/// What a tuning campaign found for a class of shapes.
#[derive(Clone, Debug, PartialEq)]
pub struct Contested {
    /// The kernel.
    pub kernel: String,
    /// The class.
    pub class: ShapeClass,
    /// As the table has it; `None` where the default has no time.
    pub tuned: Option<TunedClass>,
    /// The configuration that won against all others but the default, if any was measured.
    pub winner: Option<String>,
    /// Why it is taken or not.
    pub why: String,
}

/// What a tuning campaign found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Class by class.
    pub classes: Vec<Contested>,
    /// Every configuration on every problem, the fastest first.
    pub standings: Vec<Standing>,
}

/// Reads what a tuning campaign found from its records. `source_hash` is that of a kernel.
///
/// # Errors
/// A problem that cannot be read.
pub fn found(
    records: &Records,
    settings: &Settings,
    source_hash: impl Fn(&str) -> Option<String>,
) -> Result<Found> {
    let mut rounds: HashMap<&str, Vec<&RoundRow>> = HashMap::new();
    for round in records.rounds.iter().filter(|round| !round.disturbed) {
        rounds.entry(&round.point_id).or_default().push(round);
    }
    let mut groups: Vec<((&str, &str), Vec<Entrant<'_>>)> = Vec::new();
    for row in &records.rows {
        let (kernel, _) = split_name(&row.kernel);
        let key = (kernel, row.problem.as_str());
        let of_row = rounds.get(row.point_id.as_str()).cloned().unwrap_or_default();
        let entrant = Entrant {
            row,
            times: of_row.iter().map(|r| (r.round, r.time_s_median)).collect(),
        };
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, entrants)) => entrants.push(entrant),
            None => groups.push((key, vec![entrant])),
        }
    }
    let mut found = Found::default();
    let mut probabilities = Vec::new();
    for ((kernel, problem), entrants) in &groups {
        let problem: Problem = problem.parse()?;
        let hash = source_hash(kernel).unwrap_or_default();
        let (contested, probability) = contest_result(
            (kernel, &problem, hash),
            entrants,
            settings.halving_rounds as u32,
        );
        found.classes.push(contested);
        probabilities.push(probability);
        found.standings.extend(standings(kernel, &problem, entrants));
    }
    take_gains(&mut found.classes, &probabilities);
    // The order of measuring is drawn.
    found
        .classes
        .sort_by_key(|contested| (contested.kernel.clone(), contested.class.clone()));
    found.standings.sort_by_key(|s| (s.kernel.clone(), ShapeClass::of(&s.problem)));
    Ok(found)
}

/// A configuration with the times of its undisturbed rounds.
struct Entrant<'a> {
    row: &'a Row,
    times: Vec<(u32, f64)>,
}

impl Entrant<'_> {
    fn configuration(&self) -> Option<&str> {
        split_name(&self.row.kernel).1
    }

    fn is_challenger(&self) -> bool {
        self.configuration().is_some_and(|name| name != Configuration::DEFAULT.name)
    }

    fn at(&self, round: u32) -> Option<f64> {
        self.times.iter().find(|(of, _)| *of == round).map(|(_, time_s)| *time_s)
    }

    /// Geometric mean over its rounds.
    fn time_s(&self) -> Option<f64> {
        let logs: Vec<f64> = self.times.iter().map(|(_, time_s)| time_s.ln()).collect();
        (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
    }
}

/// What was found of one problem, and the probability that chance makes as much of no gain.
fn contest_result(
    (kernel, problem, source_hash): (&str, &Problem, String),
    entrants: &[Entrant<'_>],
    halving_rounds: u32,
) -> (Contested, f64) {
    let contested = |tuned, winner, why| {
        let class = ShapeClass::of(problem);
        Contested { kernel: kernel.to_owned(), class, tuned, winner, why }
    };
    let named = |name: Option<&str>| entrants.iter().find(|e| e.configuration() == name);
    let pair = named(None).zip(named(Some(Configuration::DEFAULT.name)));
    let Some((default, twin)) = pair else {
        let why = "the default was not measured twice".to_owned();
        return (contested(None, None, why), 1.0);
    };
    let default_time_s = default.time_s().zip(twin.time_s()).map(|(a, b)| (a * b).sqrt());
    let Some(default_time_s) = default_time_s else {
        let without = if default.times.is_empty() { default } else { twin };
        let why = format!("the default has no time: {}", without.row.reason);
        return (contested(None, None, why), 1.0);
    };
    let winner = winner_of(entrants, halving_rounds);
    let aa = interval(&log_ratios(default, |round| {
        Some(default.at(round)?.ln() - twin.at(round)?.ln())
    }));
    let gain = winner.and_then(|winner| {
        interval(&log_ratios(default, |round| {
            let both = (default.at(round)?.ln() + twin.at(round)?.ln()) / 2.0;
            (round >= halving_rounds).then_some(both - winner.at(round)?.ln())
        }))
    });
    let one = Estimate { value: 1.0, lo: 1.0, hi: 1.0 };
    let speedup = gain.map_or(one, |(gain, _)| gain);
    let aa_ratio = aa.map_or(one, |(aa, _)| aa);
    let tuned = TunedClass {
        kernel: kernel.to_owned(),
        source_hash,
        class: ShapeClass::of(problem),
        configuration: Configuration::DEFAULT.name.to_owned(),
        problem: problem.to_string(),
        candidates: entrants.len() - 1,
        default_time_s,
        time_s: winner.and_then(Entrant::time_s).unwrap_or(default_time_s),
        speedup: speedup.value,
        speedup_lo: speedup.lo,
        speedup_hi: speedup.hi,
        aa_ratio: aa_ratio.value,
        aa_ratio_lo: aa_ratio.lo,
        aa_ratio_hi: aa_ratio.hi,
    };
    let winner = winner.and_then(|winner| winner.configuration()).map(str::to_owned);
    let probability = gain.map_or(1.0, |(_, probability)| probability);
    (contested(Some(tuned), winner, String::new()), probability)
}

/// The configuration that is compared with the default: of several that were left, the one
/// that is the fastest by the rounds before the comparison.
fn winner_of<'a, 'b>(
    entrants: &'a [Entrant<'b>],
    halving_rounds: u32,
) -> Option<&'a Entrant<'b>> {
    let is_compared = |round: u32| round >= halving_rounds;
    let before = |e: &Entrant<'_>| {
        let times =
            e.times.iter().filter(|(round, _)| !is_compared(*round) || halving_rounds == 0);
        let logs: Vec<f64> = times.map(|(_, time_s)| time_s.ln()).collect();
        logs.iter().sum::<f64>() / logs.len().max(1) as f64
    };
    let finalists = entrants.iter().filter(|e| {
        e.is_challenger()
            && e.row.status.is_some_and(|s| s.has_time())
            && e.times.iter().any(|(round, _)| is_compared(*round))
    });
    finalists.min_by(|a, b| before(a).total_cmp(&before(b)))
}

/// What `of` makes of the rounds of the default, where it makes anything of them.
fn log_ratios(default: &Entrant<'_>, of: impl Fn(u32) -> Option<f64>) -> Vec<f64> {
    default.times.iter().filter_map(|(round, _)| of(*round)).collect()
}

/// The ratio that logarithms of rounds agree on, with its 95% interval by Student's t, and
/// the probability of as large a gain by chance. `None` of fewer than three rounds.
fn interval(logs: &[f64]) -> Option<(Estimate, f64)> {
    if logs.len() < 3 {
        return None;
    }
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let error = (variance / n).sqrt();
    let reach = statistics::student_t(logs.len() - 1) * error;
    let ratio =
        Estimate { value: mean.exp(), lo: (mean - reach).exp(), hi: (mean + reach).exp() };
    let both_sides = if error > 0.0 { t_exceeds(mean / error, n - 1.0) } else { 1.0 };
    let gains = mean > 0.0 && error > 0.0;
    let probability = match gains {
        true => both_sides / 2.0,
        // Times without any spread are made up, and then a gain is one.
        false if mean > 0.0 => 0.0,
        false => 1.0,
    };
    Some((ratio, probability))
}

/// Takes the winners whose gain is beyond doubt over all classes together, and beyond what
/// the default gains over itself.
fn take_gains(classes: &mut [Contested], probabilities: &[f64]) {
    let tested = holm(probabilities, ALPHA);
    for (contested, tested) in classes.iter_mut().zip(tested) {
        let Contested { tuned: Some(tuned), winner, why: because, .. } = contested else {
            continue;
        };
        let noise = tuned.aa_ratio_hi.max(1.0 / tuned.aa_ratio_lo);
        *because = match winner {
            None => "no other configuration was measured to the end".to_owned(),
            Some(_) if tuned.speedup <= 1.0 => "the default is as fast".to_owned(),
            Some(_) if tuned.speedup <= noise => format!(
                "the default differs from itself by up to {:.2}%",
                100.0 * (noise - 1.0)
            ),
            Some(_) if !tested.is_rejected => {
                "the gain may be chance over so many classes".to_owned()
            }
            Some(winner) => {
                tuned.configuration.clone_from(winner);
                "faster beyond doubt".to_owned()
            }
        };
    }
}

fn standings(kernel: &str, problem: &Problem, entrants: &[Entrant<'_>]) -> Vec<Standing> {
    let default = entrants.iter().find(|e| e.configuration().is_none());
    let standing = |e: &Entrant<'_>| {
        let both = e
            .times
            .iter()
            .filter_map(|(round, time_s)| Some((time_s / default?.at(*round)?).ln()));
        let logs: Vec<f64> = both.collect();
        let status = e.row.status.map_or("unknown", |status| status.name());
        let reason = Some(&e.row.reason).filter(|_| e.times.is_empty());
        Standing {
            kernel: kernel.to_owned(),
            configuration: e.configuration().unwrap_or("(default)").to_owned(),
            problem: *problem,
            status: reason.map_or(status.to_owned(), |why| format!("{status}: {why}")),
            rounds: e.times.len(),
            time_s: e.time_s(),
            of_default: (!logs.is_empty())
                .then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp()),
        }
    };
    let mut standings: Vec<Standing> = entrants.iter().map(standing).collect();
    // Those that were measured longest are the best of their time.
    standings.sort_by(|a, b| {
        let time = |s: &Standing| s.of_default.unwrap_or(f64::INFINITY);
        b.rounds.cmp(&a.rounds).then(time(a).total_cmp(&time(b)))
    });
    standings
}

impl Contested {
    /// Whether another configuration than the default is taken.
    pub fn is_taken(&self) -> bool {
        let default = Configuration::DEFAULT.name;
        self.tuned.as_ref().is_some_and(|tuned| tuned.configuration != default)
    }
}

impl Found {
    /// The tuning table of what was found, by the campaign's provenance.
    pub fn table(&self, records: &Records) -> TuningTable {
        let run = records.runs.first();
        let of_run = |column: &str| {
            run.and_then(|run| run.get(column)).unwrap_or_default().to_owned()
        };
        TuningTable {
            device: of_run("device"),
            driver: of_run("cuda_driver"),
            git_sha: of_run("git_sha"),
            measured_utc: of_run("started_utc"),
            tuned: self.classes.iter().filter_map(|found| found.tuned.clone()).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
