//! Small PTX programs, each for one family of instructions, and what they must compute.
//!
//! The expected values were computed by hand or from definitions in this module: exact
//! integers and one rounding (`number`), the layouts of fragments by the formulas of the
//! ISA, and copies element by element. They do not come from the machine under test, so
//! the same programs check this crate's virtual machine and a GPU. If both agree with
//! them, the virtual machine is right about the hardware in these cases. A few programs
//! break a rule of the hardware and must fault ([`Program::must_fault`]).
//!
//! ```
//! let programs = ptxvm::conformance::programs();
//! let program = programs.iter().find(|program| program.name == "add.sat.s32").unwrap();
//! let output = program.run(0).unwrap().output;
//! assert!(program.mismatches(&output).is_empty());
//! ```

mod approximate;
mod atomic;
mod barrier;
mod cluster;
mod compare;
mod convert;
mod copy;
mod draft;
mod float;
mod integer;
mod logic;
mod matrix;
mod memory;
mod number;
mod program;
mod tensor;
mod warp;
mod wgmma;

use std::collections::HashSet;

pub use number::Format;
pub use program::{Case, Mismatch, Program, Run, RunError, Wanted};

/// All programs, by family.
pub fn programs() -> Vec<Program> {
    let families: [fn() -> Vec<Program>; 15] = [
        integer::programs,
        logic::programs,
        compare::programs,
        float::programs,
        approximate::programs,
        convert::programs,
        memory::programs,
        warp::programs,
        atomic::programs,
        barrier::programs,
        matrix::programs,
        copy::programs,
        tensor::programs,
        wgmma::programs,
        cluster::programs,
    ];
    let mut programs: Vec<Program> = families.iter().flat_map(|family| family()).collect();
    let mut names = HashSet::new();
    for program in &mut programs {
        let mut number = 2;
        let name = program.name.clone();
        while !names.insert(program.name.clone()) {
            program.name = format!("{name} ({number})");
            number += 1;
        }
    }
    programs
}
