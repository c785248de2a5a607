//! What a test makes go wrong.
//!
//! Clauses between semicolons, each `KIND WHAT[:N]=OUTCOME`. With `:N`, only the N-th time
//! counts, from 1; with `:N+`, that one and all later ones; else every time.
//!
//! | clause | what happens |
//! |---|---|
//! | `call cuMemAlloc_v2:3=2` | the third call answers `CUresult` 2 and does nothing |
//! | `kernel stream_write=700` | the kernel faults with `CUresult` 700 |
//! | `kernel stream_write=hang` | it never ends |
//! | `ptx add.sat.s32=715` | a kernel of a module with this text in its PTX faults |
//! | `load add.sat.s32=218` | loading a module with this text in its PTX fails |
//! | `copy 4096=damage` | a copy of so many bytes changes a bit of the last one |
//!
//! After a code that ends a context, such as 700, every call that needs it answers it.

use std::str::FromStr;

use crate::code::Code;

/// What can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A call, by the function's name.
    Call,
    /// A launch, by the kernel's name.
    Kernel,
    /// A launch, by a text in the PTX of its module.
    Ptx,
    /// A module, by a text in its PTX.
    Load,
    /// A copy between host and device, by its bytes.
    Copy,
}

/// What happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answers this.
    Fails(Code),
    /// It does not end.
    Hangs,
    /// A bit changes.
    Damages,
}

/// One clause.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Clause {
    kind: Kind,
    what: String,
    /// The first time that counts, and whether later ones do.
    times: (u64, bool),
    outcome: Outcome,
    /// How often it came to it so far.
    seen: u64,
}

/// All clauses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    clauses: Vec<Clause>,
}

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let clauses = text.split(';').map(str::trim).filter(|clause| !clause.is_empty());
        Ok(Faults { clauses: clauses.map(clause).collect::<Result<_, _>>()? })
    }
}

fn clause(text: &str) -> Result<Clause, String> {
    let wrong = |why: &str| format!("`{text}`: {why}");
    let (kind, rest) =
        text.split_once(' ').ok_or_else(|| wrong("write KIND WHAT=OUTCOME"))?;
    let (what, outcome) =
        rest.rsplit_once('=').ok_or_else(|| wrong("write KIND WHAT=OUTCOME"))?;
    let kind = match kind {
        "call" => Kind::Call,
        "kernel" => Kind::Kernel,
        "ptx" => Kind::Ptx,
        "load" => Kind::Load,
        "copy" => Kind::Copy,
        _ => return Err(wrong("known kinds are call, kernel, ptx, load and copy")),
    };
    let outcome = match outcome {
        "hang" => Outcome::Hangs,
        "damage" => Outcome::Damages,
        number => {
            let code = number.parse().ok().and_then(Code::of);
            Outcome::Fails(code.ok_or_else(|| wrong("no such CUresult is known"))?)
        }
    };
    let fits = match outcome {
        Outcome::Fails(_) => kind != Kind::Copy,
        Outcome::Hangs => matches!(kind, Kind::Kernel | Kind::Ptx),
        Outcome::Damages => kind == Kind::Copy,
    };
    if !fits {
        return Err(wrong("this cannot happen to that"));
    }
    let numbered = what.rsplit_once(':').and_then(|(name, times)| {
        let (first, later) = match times.strip_suffix('+') {
            Some(first) => (first, true),
            None => (times, false),
        };
        Some((name, (first.parse().ok().filter(|&first| first > 0)?, later)))
    });
    let (what, times) = numbered.unwrap_or((what, (1, true)));
    Ok(Clause { kind, what: what.to_owned(), times, outcome, seen: 0 })
}

impl Faults {
    /// What is to happen now to something of a kind for which `is` says whether a clause
    /// means it. Counts the time.
    pub fn now(&mut self, kind: Kind, is: impl Fn(&str) -> bool) -> Option<Outcome> {
        let mut outcome = None;
        for clause in &mut self.clauses {
            if clause.kind != kind || !is(&clause.what) {
                continue;
            }
            clause.seen += 1;
            let (first, later) = clause.times;
            if clause.seen == first || later && clause.seen > first {
                outcome = outcome.or(Some(clause.outcome));
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses_count_their_times() {
        let text = "call cuInit:2=100; kernel k:2+=hang ;ptx a:b=715";
        let mut faults: Faults = text.parse().unwrap();
        let code = |number| Some(Outcome::Fails(Code::of(number).unwrap()));
        let init = [0; 3].map(|_| faults.now(Kind::Call, |what| what == "cuInit"));
        assert_eq!(init, [None, code(100), None]);
        let kernel = [0; 3].map(|_| faults.now(Kind::Kernel, |what| what == "k"));
        assert_eq!(kernel, [None, Some(Outcome::Hangs), Some(Outcome::Hangs)]);
        assert_eq!(faults.now(Kind::Ptx, |what| "xa:by".contains(what)), code(715));
        assert_eq!(faults.now(Kind::Load, |_| true), None);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for text in ["cuInit=1", "call cuInit", "call cuInit=77", "go x=1", "copy 4=hang"] {
            let why = text.parse::<Faults>().unwrap_err();
            assert!(why.contains(text), "{why}");
        }
        assert_eq!("".parse(), Ok(Faults::default()));
    }
}
