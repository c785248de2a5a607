//! What became of a program on a machine.

use ptxvm::conformance::{Mismatch, Program};

/// What one machine made of a program.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// It ran; what is wrong of its output, and the output.
    Ran { mismatches: Vec<Mismatch>, output: Vec<u8> },
    /// It did not load, or not come to its end, or broke a rule.
    Failed(String),
    /// It took the machine away from its process.
    Faulted(String),
    /// It faulted, as it must.
    Refused,
    /// This machine is not made for it.
    Skipped(String),
    /// The machine could not be used any more.
    NotRun(String),
}

impl Outcome {
    /// Of a program that came to its end: wrong where it must not.
    pub fn ran(program: &Program, output: Vec<u8>) -> Self {
        match program.must_fault {
            Some(rule) => Outcome::Failed(format!("ran to its end; it must fault: {rule}")),
            None => Outcome::Ran { mismatches: program.mismatches(&output), output },
        }
    }

    pub fn is_right(&self) -> bool {
        match self {
            Outcome::Ran { mismatches, .. } => mismatches.is_empty(),
            Outcome::Refused => true,
            _ => false,
        }
    }

    /// Whether it speaks against the machine.
    pub fn is_wrong(&self) -> bool {
        let ran =
            matches!(self, Outcome::Ran { .. } | Outcome::Failed(_) | Outcome::Faulted(_));
        ran && !self.is_right()
    }

    /// The cases, by their number, that are wrong.
    pub fn wrong_cases(&self) -> impl Iterator<Item = usize> {
        let mismatches = match self {
            Outcome::Ran { mismatches, .. } => &mismatches[..],
            _ => &[],
        };
        mismatches.iter().map(|mismatch| mismatch.case)
    }

    /// What is at a case's place, for people.
    pub fn shown(&self, program: &Program, case: usize) -> String {
        let case = &program.cases[case];
        match self {
            Outcome::Ran { output, .. } => {
                let bytes = output[case.offset..][..case.bytes].iter().rev();
                bytes.fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
            }
            Outcome::Failed(_) => "failed".to_owned(),
            Outcome::Faulted(_) | Outcome::Refused => "faulted".to_owned(),
            Outcome::Skipped(_) | Outcome::NotRun(_) => "-".to_owned(),
        }
    }
}
