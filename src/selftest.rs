//! The conformance programs on the virtual machine and on a GPU: whether both compute
//! what the PTX ISA says, and so whether the one can be trusted about the other.

mod outcome;
mod worker;

use outcome::Outcome;
use ptxvm::conformance::{Case, Program, RunError};
pub use worker::{Workers, serve};

use crate::section::Section;

/// Mismatches of one program that are listed; the others are counted.
const LISTED: usize = 5;

/// The outcome of all programs.
#[derive(Clone, Debug)]
pub struct Selftest {
    rows: Vec<Row>,
    device: String,
    has_gpu: bool,
}

#[derive(Clone, Debug)]
struct Row {
    program: Program,
    vm: Outcome,
    /// None where there is no GPU.
    gpu: Option<Outcome>,
}

/// Runs programs on the virtual machine and, if `device` runs PTX, by workers on it too.
/// `before` is told of each program that the device is about to run.
pub fn run(
    device: String,
    programs: Vec<Program>,
    workers: Option<&Workers>,
    before: impl FnMut(usize, &Program),
) -> Selftest {
    let on_gpu = workers.map(|workers| worker::run(&programs, workers, before));
    let has_gpu = on_gpu.is_some();
    let mut on_gpu = on_gpu.into_iter().flatten();
    let rows = programs.into_iter().map(|program| {
        let (vm, gpu) = (on_vm(&program), on_gpu.next());
        Row { program, vm, gpu }
    });
    Selftest { rows: rows.collect(), device, has_gpu }
}

/// Findings are failures: the programs are without races and all else that is looked
/// for. One that must fault does so for its own reason.
fn on_vm(program: &Program) -> Outcome {
    match program.run(0) {
        Err(RunError::Fault(fault))
            if program.must_fault.is_some_and(|rule| fault.to_string().contains(rule)) =>
        {
            Outcome::Refused
        }
        Err(why) => Outcome::Failed(why.to_string()),
        Ok(run) => match run.report.findings.first() {
            Some(finding) => Outcome::Failed(finding.to_string()),
            None => Outcome::ran(program, run.output),
        },
    }
}

impl Selftest {
    /// Whether nothing speaks against the virtual machine or the GPU.
    pub fn is_right(&self) -> bool {
        self.wrong() == (0, 0) && self.count(|o| matches!(o, Outcome::NotRun(_))) == 0
    }

    /// Programs that are wrong on the virtual machine, and on the GPU.
    fn wrong(&self) -> (usize, usize) {
        let vm = self.rows.iter().filter(|row| row.vm.is_wrong()).count();
        (vm, self.count(Outcome::is_wrong))
    }

    /// Programs that a condition holds for on the GPU.
    fn count(&self, holds: impl Fn(&Outcome) -> bool) -> usize {
        let gpu = self.rows.iter().filter_map(|row| row.gpu.as_ref());
        gpu.filter(|outcome| holds(outcome)).count()
    }

    /// One sentence.
    pub fn summary(&self) -> String {
        let count = self.rows.len();
        let (vm, gpu) = self.wrong();
        let mut text = format!("selftest: {} of {count} programs right on vm", count - vm);
        if !self.has_gpu {
            return format!(
                "{text}; {} runs no PTX, so only the virtual machine did",
                self.device
            );
        }
        let right = self.count(Outcome::is_right);
        text += &format!("; on {} {right} right, {gpu} wrong", self.device);
        let faulted = self.count(|o| matches!(o, Outcome::Faulted(_)));
        if faulted > 0 {
            text += &format!(", of these {faulted} that took the device away");
        }
        let not_run = self.rows.iter().find_map(|row| match &row.gpu {
            Some(Outcome::NotRun(why)) => Some(why),
            _ => None,
        });
        match not_run {
            Some(why) => {
                let count = self.count(|o| matches!(o, Outcome::NotRun(_)));
                format!("{text}, {count} not run: {why}")
            }
            None => text,
        }
    }

    /// A table of families, and one of all that is wrong.
    pub fn sections(&self) -> Vec<Section> {
        let mut sections = vec![self.families()];
        let wrong: Vec<Vec<String>> =
            self.rows.iter().flat_map(|row| row.mistakes()).collect();
        if !wrong.is_empty() {
            sections.push(Section {
                heading: "Wrong".into(),
                columns: vec!["program", "case", "expected", "vm", "gpu"],
                rows: wrong,
                ..Section::default()
            });
        }
        sections
    }

    fn families(&self) -> Section {
        let mut families: Vec<&str> =
            self.rows.iter().map(|row| row.program.family).collect();
        families.dedup();
        let mut rows = Vec::new();
        for family in families.into_iter().map(Some).chain([None]) {
            let members = self.rows.iter();
            let members: Vec<&Row> = members
                .filter(|row| family.is_none_or(|family| row.program.family == family))
                .collect();
            let cases: usize = members.iter().map(|row| row.program.cases.len()).sum();
            let vm = members.iter().filter(|row| row.vm.is_right()).count();
            let gpu = members.iter().filter_map(|row| row.gpu.as_ref());
            let right = gpu.filter(|outcome| outcome.is_right()).count();
            rows.push(vec![
                family.unwrap_or("all").to_owned(),
                members.len().to_string(),
                cases.to_string(),
                vm.to_string(),
                if self.has_gpu { right.to_string() } else { String::new() },
                skipped(&members),
            ]);
        }
        Section {
            heading: "Conformance to the PTX ISA".into(),
            paragraphs: vec![self.summary()],
            columns: vec![
                "family",
                "programs",
                "cases",
                "right_on_vm",
                "right_on_gpu",
                "skipped_on_gpu",
            ],
            rows,
            ..Section::default()
        }
    }
}

/// How many programs the GPU did not run, for each reason.
fn skipped(rows: &[&Row]) -> String {
    let mut reasons: Vec<(&str, usize)> = Vec::new();
    for row in rows {
        let why = match &row.gpu {
            Some(Outcome::Skipped(why) | Outcome::NotRun(why)) => why,
            _ => continue,
        };
        match reasons.iter_mut().find(|(reason, _)| *reason == why) {
            Some((_, count)) => *count += 1,
            None => reasons.push((why, 1)),
        }
    }
    let reasons: Vec<String> =
        reasons.iter().map(|(why, count)| format!("{count}: {why}")).collect();
    reasons.join("; ")
}

impl Row {
    /// What is wrong with the program, a line each.
    fn mistakes(&self) -> Vec<Vec<String>> {
        let mut lines = Vec::new();
        let line = |case: &str, expected: &str, vm: &str, gpu: &str| {
            [&*self.program.name, case, expected, vm, gpu].map(str::to_owned).to_vec()
        };
        if let Outcome::Failed(why) = &self.vm {
            lines.push(line("does not run", "", why, ""));
        }
        if let Some(Outcome::Failed(why)) = &self.gpu {
            lines.push(line("does not run", "", "", why));
        }
        if let Some(Outcome::Faulted(why)) = &self.gpu {
            lines.push(line("takes the device away", "", "", why));
        }
        let mut cases: Vec<usize> = self.vm.wrong_cases().collect();
        cases.extend(self.gpu.iter().flat_map(Outcome::wrong_cases));
        cases.sort_unstable();
        cases.dedup();
        for &case in cases.iter().take(LISTED) {
            let Case { label, wanted, .. } = &self.program.cases[case];
            let vm = self.vm.shown(&self.program, case);
            let gpu = self.gpu.as_ref().map(|gpu| gpu.shown(&self.program, case));
            lines.push(line(label, &wanted.to_string(), &vm, &gpu.unwrap_or("-".into())));
        }
        if cases.len() > LISTED {
            lines.push(line(&format!("and {} more", cases.len() - LISTED), "", "", ""));
        }
        lines
    }
}
