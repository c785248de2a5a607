//! Planted bugs: the kernels' own PTX with one thing taken out or altered, run
//! on the virtual machine like any point. Each must be found, by the machine's
//! checks or by a wrong answer, or be listed in `survivors.toml` with the reason
//! why nobody could.
//!
//! The test plants every bug of order and a sample of those of guards,
//! addresses, swizzles and fills. All sites of these and bugs of many further
//! kinds are planted, counted and printed, but not judged, by
//!
//! ```text
//! RIDGEPOINT_MUTANTS=all cargo test --release --test mutants -- --nocapture
//! ```
//!
//! Kernels that take minutes are left to that, and to `RIDGEPOINT_MUTANTS=slow`, which
//! judges them like the others. The name of a kernel judges that one alone.

#[path = "../common/mod.rs"]
mod common;
mod operators;
mod ptx;
mod specimens;
mod survivors;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use operators::{Class, OPERATORS, Operator};
use ptx::Statement;
use rayon::prelude::*;
use ridgepoint::device::vm::{Counts, VmDevice};
use ridgepoint::device::{Device, DeviceOptions};
use ridgepoint::kernel::{KERNELS, Kernel, split_name};
use ridgepoint::measure::verify;
use ridgepoint::point::{CacheState, Point};
use ridgepoint::record::Status;
use ridgepoint::toolchain::nvrtc::Nvrtc;
use ridgepoint::toolchain::{Arch, Target};
use specimens::{SLOW, SPECIMENS};
use survivors::Survivors;

/// Mutants of an operator in a specimen that the standing test plants, where it
/// does not plant all.
const SAMPLE: usize = 3;

/// Copies of an unrolled loop that get the same bug, unless it is one of order.
const COPIES: usize = 2;

/// Copies that get the same bug of order, in slow specimens: some that are far apart.
const SLOW_COPIES: usize = 4;

/// Inputs of all points.
const SEED: u64 = 1;

/// A mutant may take so many times the instructions of the original.
const PATIENCE: u64 = 6;

/// What is said of a mutant that only its answer gives away.
const WRONG: &str = "wrong answer";

/// A kernel's PTX and the points that run it.
struct Specimen {
    /// The kernel with its configuration, as points name it.
    name: &'static str,
    kernel: &'static Kernel,
    points: Vec<Point>,
    /// The entry that each point launches.
    entries: Vec<&'static str>,
    ptx: String,
    budget: u64,
}

/// One thing altered.
struct Mutant {
    specimen: usize,
    operator: &'static Operator,
    statement: Statement,
    /// What stands in the statement's place.
    text: String,
    /// Whether the standing test plants it, and judges it.
    strict: bool,
}

impl Mutant {
    /// What it has in common with the same bug in another copy of an unrolled
    /// loop: all but registers, labels and offsets.
    fn kind(&self) -> [String; 4] {
        let Statement { source, caller, entry, .. } = &self.statement;
        let without_numbers =
            |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
        let altered = without_numbers(&ptx::normalised(&self.text));
        let place = format!("{entry} {source} {caller}");
        let statement = without_numbers(&self.statement.normalised());
        [self.operator.name.to_owned(), place, statement, altered]
    }
}

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Found, by this kind of finding or `wrong answer`.
    Caught(String),
    /// It ran, and nothing showed.
    Survived,
    /// No point comes by it.
    NotReached,
    /// The virtual machine does not take it: an operator made no sense.
    Malformed(String),
}

/// A mutant of a kernel, and what became of it.
type Outcome<'a> = (&'static Kernel, &'a Mutant, Fate);

fn device(budget: u64) -> VmDevice {
    let mut device = VmDevice::open(Arch::SM_90, &DeviceOptions::default()).unwrap();
    // Mutants run beside one another already.
    let launching = ptxvm::Options { parallel: false, budget, ..Default::default() };
    device.set_launching(launching);
    device
}

impl Specimen {
    fn new(name: &'static str, problems: &[&str]) -> Self {
        let kernel = Kernel::named(split_name(name).0).unwrap();
        let mut counting = device(1 << 32);
        let sms = counting.info().units as u32;
        let point = |text: &&str| Point {
            problem: text.parse().unwrap_or_else(|why| panic!("{text}: {why}")),
            kernel: name.parse().unwrap(),
            cache: CacheState::Hot,
            launch: None,
            load: None,
        };
        let points: Vec<Point> = problems.iter().map(point).collect();
        let texts = points.iter().map(|p| counting.ptx(&p.problem, name).unwrap());
        let texts: BTreeSet<String> = texts.collect();
        assert_eq!(texts.len(), 1, "{problems:?} are not compiled alike");
        let target = Target::new(Arch::SM_90, sms);
        let configured =
            |point: &Point| Kernel::asked_for(name, &point.problem, target.arch).unwrap();
        let entry = |point: &Point| configured(point).plan(&target).launches[0].entry;
        let mut most = 0;
        for point in &points {
            let counted = counting.count(&point.problem, name, SEED).unwrap();
            let instructions: u64 =
                counted.counts.iter().map(Counts::thread_instructions).sum();
            most = most.max(instructions);
        }
        let entries = points.iter().map(entry).collect();
        let ptx = texts.into_iter().next().unwrap_or_default();
        // 32 threads of a warp make one step together, at best.
        Specimen { name, kernel, points, entries, ptx, budget: 1000 + PATIENCE * most / 32 }
    }

    /// Every mutant of the entries that the points launch.
    fn mutants(&self, specimen: usize) -> Vec<Mutant> {
        let mut all = Vec::new();
        let mut copies: BTreeMap<[String; 4], usize> = BTreeMap::new();
        for statement in ptx::statements(&self.ptx, self.kernel) {
            if !self.entries.contains(&statement.entry.as_str()) {
                continue;
            }
            for operator in OPERATORS {
                for text in (operator.mutants)(&statement) {
                    let (statement, strict) = (statement.clone(), false);
                    let mutant = Mutant { specimen, operator, statement, text, strict };
                    let copy = copies.entry(mutant.kind()).or_default();
                    *copy += 1;
                    if *copy <= COPIES || operator.class == Class::Order {
                        all.push(mutant);
                    }
                }
            }
        }
        all
    }

    /// The PTX with a mutant's text in its place.
    fn altered(&self, mutant: &Mutant) -> String {
        let mut lines: Vec<&str> = self.ptx.lines().collect();
        lines[mutant.statement.line] = &mutant.text;
        lines.join("\n")
    }

    /// The PTX with a trap where a mutant's statement is.
    fn trapped(&self, mutant: &Mutant) -> String {
        let mut lines: Vec<&str> = self.ptx.lines().collect();
        let line = format!("trap; {}", lines[mutant.statement.line]);
        lines[mutant.statement.line] = &line;
        lines.join("\n")
    }

    /// Runs PTX on the points that launch an entry.
    fn fate(&self, device: &mut VmDevice, entry: &str, ptx: &str) -> Fate {
        let problem = &self.points[0].problem;
        if let Err(why) = device.replace_ptx(problem, self.name, ptx) {
            return Fate::Malformed(why.to_string());
        }
        for (point, _) in
            self.points.iter().zip(&self.entries).filter(|(_, e)| **e == entry)
        {
            let outcome = verify(device, point, SEED);
            match outcome.status {
                Status::Ok => {}
                Status::Wrong => return Fate::Caught(WRONG.to_owned()),
                Status::Failed => return Fate::Caught(kind(&outcome.reason)),
                status => return Fate::Malformed(format!("{point} is {status:?}")),
            }
        }
        Fate::Survived
    }
}

/// What a failed run says of the mistake: the kind of the finding.
fn kind(reason: &str) -> String {
    let first = reason.split(" in ").next().unwrap_or_default();
    match first.chars().all(char::is_alphanumeric) {
        true => first.to_owned(),
        false => "unwritten output".to_owned(),
    }
}

/// Marks the mutants that are judged: all of order, or in slow specimens some copies of
/// each that are far apart; of the other judged operators some that are far apart.
fn mark(mutants: &mut [Mutant], is_slow: bool) {
    let mut sites: BTreeMap<Vec<String>, Vec<usize>> = BTreeMap::new();
    for (number, mutant) in mutants.iter().enumerate() {
        let site = match mutant.operator.class {
            Class::Order => mutant.kind().to_vec(),
            _ => vec![mutant.operator.name.to_owned()],
        };
        sites.entry(site).or_default().push(number);
    }
    for numbers in sites.into_values() {
        let stride = match mutants[numbers[0]].operator.class {
            Class::Order if is_slow => numbers.len().div_ceil(SLOW_COPIES),
            Class::Order => 1,
            Class::Wider => continue,
            _ => numbers.len().div_ceil(SAMPLE),
        };
        for number in numbers.into_iter().step_by(stride) {
            mutants[number].strict = true;
        }
    }
}

/// An entry about a line that is gone says nothing, also of kernels whose bugs only a longer
/// run plants.
#[test]
fn survivors_are_about_lines_that_are_there() {
    let is_there = |kernel: &Kernel, line: &str| {
        let file = kernel.file().unwrap();
        let texts = file.headers.iter().map(|(_, text)| *text).chain([file.text]);
        texts.flat_map(str::lines).any(|other| other.trim() == line)
    };
    let mut gone = Vec::new();
    for (_, entry) in Survivors::load().entries() {
        let (name, _) = split_name(&entry.kernel);
        let kernel = KERNELS.iter().find(|kernel| kernel.name == name).unwrap();
        let lines = [Some(&entry.source), entry.caller.as_ref()];
        for line in lines.into_iter().flatten().filter(|line| !is_there(kernel, line)) {
            gone.push(format!("{}: {line}", entry.kernel));
        }
    }
    assert!(gone.is_empty(), "not in the source:\n{}", gone.join("\n"));
}

#[test]
fn planted_bugs_are_caught() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let which = std::env::var("RIDGEPOINT_MUTANTS").unwrap_or_default();
    let all = which == "all";
    let one = Kernel::named(&which).map(|kernel| kernel.name);
    let known = ["", "all", "slow"].contains(&&*which) || one.is_some();
    assert!(known, "RIDGEPOINT_MUTANTS={which}: neither all, slow nor a kernel");
    let slow = if all || which == "slow" || one.is_some() { SLOW } else { &[] };
    let survivors = Survivors::load();
    let specimens: Vec<Specimen> = SPECIMENS
        .par_iter()
        .chain(slow)
        .filter(|(name, _)| one.is_none_or(|one| one == split_name(name).0))
        .map(|(name, points)| Specimen::new(name, points))
        .collect();
    let mut planted = Vec::new();
    for (number, specimen) in specimens.iter().enumerate() {
        let mut mutants = specimen.mutants(number);
        mark(&mut mutants, is_slow(specimen.kernel));
        planted.extend(mutants.into_iter().filter(|mutant| all || mutant.strict));
    }
    let fates = fates(&specimens, &planted);
    let outcomes: Vec<Outcome> = planted
        .iter()
        .zip(fates)
        .map(|(mutant, fate)| (specimens[mutant.specimen].kernel, mutant, fate))
        .collect();
    println!("{}", table(&outcomes));
    if all {
        for (kernel, mutant, fate) in &outcomes {
            if !mutant.strict && !matches!(fate, Fate::Caught(_)) {
                println!("# {fate:?}\n{}", survivors::line(kernel.name, mutant));
            }
        }
    }
    let strict: Vec<Outcome> =
        outcomes.into_iter().filter(|(_, mutant, _)| mutant.strict).collect();
    let complaints = complaints(&strict, &survivors, one);
    assert!(complaints.is_empty(), "{complaints}");
}

/// Whether planted bugs of a kernel take minutes.
fn is_slow(kernel: &Kernel) -> bool {
    SLOW.iter().any(|(name, _)| split_name(name).0 == kernel.name)
}

/// Runs the originals, which must be right, and then the mutants.
fn fates(specimens: &[Specimen], planted: &[Mutant]) -> Vec<Fate> {
    for specimen in specimens {
        let mut device = device(specimen.budget);
        for entry in specimen.entries.iter().collect::<BTreeSet<_>>() {
            let fate = specimen.fate(&mut device, entry, &specimen.ptx);
            assert_eq!(fate, Fate::Survived, "{} unaltered", specimen.name);
        }
    }
    let run = |mutants: &[Mutant]| -> Vec<Fate> {
        let mut device = device(0);
        let fate = |mutant: &Mutant| {
            let specimen = &specimens[mutant.specimen];
            let budget = specimen.budget;
            device.set_launching(ptxvm::Options {
                parallel: false,
                budget,
                ..Default::default()
            });
            let entry = &mutant.statement.entry;
            let fate = specimen.fate(&mut device, entry, &specimen.altered(mutant));
            let mut trap =
                |fate| match specimen.fate(&mut device, entry, &specimen.trapped(mutant)) {
                    Fate::Survived => Fate::NotReached,
                    _ => fate,
                };
            if fate == Fate::Survived { trap(fate) } else { fate }
        };
        mutants.iter().map(fate).collect()
    };
    planted.par_chunks(4).flat_map_iter(run).collect()
}

/// What is not as it should be.
fn complaints(outcomes: &[Outcome], survivors: &Survivors, one: Option<&str>) -> String {
    let mut text = String::new();
    let mut used: BTreeMap<usize, usize> = BTreeMap::new();
    let mut unlisted: BTreeMap<String, usize> = BTreeMap::new();
    for (kernel, mutant, fate) in outcomes {
        match fate {
            Fate::Caught(_) => {}
            Fate::Malformed(why) => {
                let (name, altered) = (mutant.operator.name, &mutant.text);
                let _ = writeln!(text, "`{name}` made {altered}: {why}");
            }
            Fate::Survived | Fate::NotReached => {
                match survivors.entry_of(kernel.name, mutant) {
                    Some(entry) => *used.entry(entry).or_default() += 1,
                    None => {
                        let line = survivors::line(kernel.name, mutant);
                        *unlisted.entry(format!("# {fate:?}\n{line}")).or_default() += 1;
                    }
                }
            }
        }
    }
    for (line, count) in unlisted {
        let _ = writeln!(text, "not caught and not listed:\n{line}mutants = {count}\n");
    }
    let is_run = |name: &str| outcomes.iter().any(|(kernel, ..)| kernel.name == name);
    for (number, entry) in survivors.entries().filter(|(_, entry)| is_run(&entry.kernel)) {
        let count = used.get(&number).copied().unwrap_or(0);
        if count != entry.mutants {
            let _ = writeln!(text, "{count} are not caught of what is listed as {entry:?}");
        }
    }
    let has_code = |kernel: &&Kernel| kernel.source.is_some();
    for kernel in KERNELS
        .iter()
        .filter(has_code)
        .filter(|kernel| one.is_none_or(|one| one == kernel.name))
    {
        if !is_run(kernel.name) && !is_slow(kernel) {
            let _ = writeln!(text, "{} has no mutant; give it points", kernel.name);
        }
    }
    text
}

/// Kernel by class: how many were planted, what caught them, and how many
/// nothing did; then the same by operator, with the kinds of findings.
fn table(outcomes: &[Outcome]) -> String {
    let mut classes: BTreeMap<(&str, Class), [usize; 4]> = BTreeMap::new();
    let mut totals = [0; 4];
    let mut operators: BTreeMap<(Class, &str), BTreeMap<String, usize>> = BTreeMap::new();
    for (kernel, mutant, fate) in outcomes {
        let Operator { class, name, .. } = mutant.operator;
        let (column, how) = match fate {
            Fate::Caught(how) if how == WRONG => (2, how.clone()),
            Fate::Caught(how) => (1, how.clone()),
            fate => (3, format!("{fate:?}")),
        };
        for row in [classes.entry((kernel.name, *class)).or_default(), &mut totals] {
            row[0] += 1;
            row[column] += 1;
        }
        *operators.entry((*class, name)).or_default().entry(how).or_default() += 1;
    }
    let mut text =
        "| kernel | class | planted | finding | wrong answer | listed |\n".to_owned();
    for ((kernel, class), [planted, found, wrong, survived]) in classes {
        let _ = writeln!(
            text,
            "| {kernel} | {class:?} | {planted} | {found} | {wrong} | {survived} |"
        );
    }
    let [planted, found, wrong, survived] = totals;
    let _ = writeln!(text, "| all | | {planted} | {found} | {wrong} | {survived} |\n");
    for ((class, operator), fates) in operators {
        let fates: Vec<String> =
            fates.iter().map(|(how, count)| format!("{count} {how}")).collect();
        let _ = writeln!(text, "{class:?}, {operator}: {}", fates.join(", "));
    }
    text
}
