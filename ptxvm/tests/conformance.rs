//! The conformance programs on the virtual machine, and whether they notice what is
//! wrong.

use std::collections::HashSet;

use ptxvm::Module;
use ptxvm::conformance::{Program, RunError, Wanted, programs};

/// The programs that must run to their end, and those that must fault.
fn by_ending() -> (Vec<Program>, Vec<Program>) {
    programs().into_iter().partition(|program| program.must_fault.is_none())
}

/// What breaks a rule of the hardware faults, and the fault names the rule.
#[test]
fn what_must_fault_faults() {
    let (_, faulting) = by_ending();
    assert!(faulting.len() >= 10, "{}", faulting.len());
    for program in faulting {
        let rule = program.must_fault.unwrap();
        for seed in 0..4 {
            match program.run(seed) {
                Err(RunError::Fault(fault)) => {
                    let text = fault.to_string();
                    assert!(text.contains(rule), "{}: {text}", program.name);
                    assert!(fault.cause.instruction.starts_with("cp.async.bulk.tensor"));
                }
                other => panic!("{}: {other:?}", program.name),
            }
        }
    }
}

/// Every program under several orders of warps and blocks.
#[test]
fn the_virtual_machine_agrees() {
    let mut wrong = Vec::new();
    for program in by_ending().0 {
        for seed in 0..4 {
            let said = objections(&program, seed);
            if !said.is_empty() {
                wrong.push(format!("{}:\n    {}", program.name, said.join("\n    ")));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{} programs\n{}", wrong.len(), wrong.join("\n"));
}

/// What the virtual machine finds in a program, and where its output is wrong.
fn objections(program: &Program, seed: u64) -> Vec<String> {
    let run = match program.run(seed) {
        Ok(run) => run,
        Err(why) => return vec![why.to_string(), program.ptx.clone()],
    };
    let findings = run.report.findings.iter().map(ToString::to_string);
    let mismatches = program.mismatches(&run.output).into_iter().map(|m| m.to_string());
    findings.chain(mismatches).take(5).collect()
}

#[test]
fn every_family_is_there_and_every_case_has_a_place() {
    let programs = programs();
    let families: HashSet<&str> = programs.iter().map(|program| program.family).collect();
    for family in [
        "integer",
        "bits",
        "comparison",
        "float",
        "16-bit float",
        "approximation",
        "conversion",
        "memory",
        "shuffle",
        "vote",
        "divergence",
        "atomic",
        "barrier",
        "fence",
        "ldmatrix and stmatrix",
        "mma",
        "cp.async",
        "mbarrier",
        "bulk copy",
        "tensor copy",
        "wgmma",
        "cluster",
        "setmaxnreg",
    ] {
        assert!(families.contains(family), "{family}");
    }
    let names: HashSet<&str> = programs.iter().map(|program| &*program.name).collect();
    assert_eq!(names.len(), programs.len());
    for program in &programs {
        let ends = program.must_fault.is_none();
        assert_eq!(ends, !program.cases.is_empty(), "{}", program.name);
        for case in &program.cases {
            let within = case.offset + case.bytes <= program.output_bytes;
            assert!(within && case.bytes <= 8, "{}: {}", program.name, case.label);
        }
    }
}

/// An expectation that the output of a correct machine does not meet.
fn planted(wanted: Wanted) -> Wanted {
    match wanted {
        Wanted::Bits(bits) => Wanted::Bits(bits ^ 1),
        Wanted::Nan(_) => Wanted::Bits(1),
        Wanted::Near { value, margin, format } => {
            Wanted::Near { value: value + 4.0 * margin + 1.0, margin, format }
        }
    }
}

#[test]
fn planted_wrong_expectations_are_noticed() {
    for mut program in by_ending().0 {
        let output = program.run(0).unwrap().output;
        program.cases.iter_mut().for_each(|case| case.wanted = planted(case.wanted));
        let mismatches = program.mismatches(&output);
        assert_eq!(mismatches.len(), program.cases.len(), "{}", program.name);
    }
}

#[test]
fn a_machine_that_does_nothing_is_wrong_about_every_program() {
    for program in by_ending().0 {
        let nothing = vec![Program::UNWRITTEN; program.output_bytes];
        assert!(!program.mismatches(&nothing).is_empty(), "{}", program.name);
    }
}

#[test]
fn a_mismatch_names_its_case() {
    let programs = programs();
    let program = programs.iter().find(|program| program.name == "cvt.rn.f16.f32").unwrap();
    let mut output = program.run(0).unwrap().output;
    let label = "cvt.rn.f16.f32 of 0x3f801fff";
    let case = program.cases.iter().find(|case| case.label == label).unwrap();
    output[case.offset] ^= 1;
    let mismatches = program.mismatches(&output);
    assert_eq!(mismatches.len(), 1);
    assert_eq!(mismatches[0].to_string(), format!("{label}: 0x3c01, not 0x3c00"));
}

/// m, n and k, as in `m16n8k16`.
fn shape(name: &str) -> Option<[u64; 3]> {
    let start = name
        .match_indices('m')
        .find(|(at, _)| name[at + 1..].starts_with(|c: char| c.is_ascii_digit()))?;
    let text = name[start.0..].split(['.', ',', ' ']).next()?;
    let numbers = text.split(['m', 'n', 'k']).filter_map(|part| part.parse().ok());
    numbers.collect::<Vec<_>>().try_into().ok()
}

#[test]
fn products_count_their_flops() {
    for program in programs() {
        if !["mma", "wgmma"].contains(&program.family) {
            continue;
        }
        let [m, n, k] = shape(&program.name).unwrap();
        let counts = program.run(0).unwrap().report.counts;
        assert_eq!(counts.total_flops(), 2 * m * n * k, "{}", program.name);
    }
}

/// The address of a parameter is not a generic address: a copy that reads its tensor map
/// there faults on a GPU.
#[test]
fn a_map_whose_address_is_not_converted_is_found() {
    let all = programs();
    let program = all.iter().find(|program| program.family == "tensor copy").unwrap();
    assert!(program.ptx.contains("cvta.param.u64 %q1, %q1;"));
    let ptx = program.ptx.replace("cvta.param.u64 %q1, %q1;", "");
    let wrong = Program { ptx, ..program.clone() };
    assert!(wrong.run(0).is_err());
}

#[test]
fn a_wrong_form_is_refused() {
    for body in [
        "add.f32.rn.xyz %d, %a, %b;",
        "cvt.rs.f16x2.f32 %d, %a, %b, %c;",
        "wmma.load.a.sync.aligned.m16n16k16.f16 {%d}, [%x];",
        "add.rz.f64 %wd, %wa, %wb;",
        "mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32 {%d}, {%a}, {%b}, {%c};",
        "ld.global.v3.u32 {%a, %b, %c}, [%x];",
        "mov.u32 %d, %nosuch;",
        "add.u32 %d, %a;",
        "add.u32 %d, %wa, %b;",
        "call foo;",
        "tcgen05.commit.cta_group::1.b64 [%x];",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%x], [%a], 16;",
        "bra NOWHERE;",
    ] {
        let text = format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k()\n{{\n\
             .reg .b32 %a, %b, %c, %d;\n.reg .b64 %wa, %wb, %wd, %x;\n{body}\nret;\n}}\n"
        );
        let error = Module::parse(&text).expect_err(body);
        assert_eq!(error.line, 8, "{body}: {error}");
        let opcode = body.split(' ').next().unwrap().trim_end_matches(';');
        assert!(error.message.contains(opcode), "{body}: {error}");
    }
}
