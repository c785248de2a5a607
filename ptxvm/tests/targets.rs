//! Instructions and the targets that have them.
//!
//! `targets.txt` was made with an assembler (`ptxas` 13.0): for each instruction, the first
//! architecture and the first version of the ISA for which it does not complain.

use ptxvm::{Module, ParseError};

const ROWS: &str = include_str!("targets.txt");

/// Architectures in order, and the first version of the ISA that names them.
const TARGETS: [(&str, &str); 10] = [
    ("sm_70", "6.0"),
    ("sm_75", "6.3"),
    ("sm_80", "7.0"),
    ("sm_86", "7.1"),
    ("sm_89", "7.8"),
    ("sm_90", "7.8"),
    ("sm_90a", "8.0"),
    ("sm_100", "8.6"),
    ("sm_100a", "8.6"),
    ("sm_120", "8.7"),
];

/// A kernel of this one instruction, on line 10.
fn load(instruction: &str, target: &str, version: &str) -> Result<Module, ParseError> {
    Module::parse(&format!(
        ".version {version}\n.target {target}\n.address_size 64\n\
         .visible .entry k(.param .u64 in, .param .u64 out, .param .align 64 .b8 map0[128])\n\
         {{ .reg .pred %p<16>; .reg .b16 %h<16>; .reg .b32 %r<64>, %x<256>, %t, %g;\n\
         .reg .b64 %q<32>, %in, %out; .reg .f32 %f<16>; .reg .f64 %d<8>;\n\
         .shared .align 128 .b8 sm[2048];\n.shared .align 8 .b64 bar;\n\n\
         {instruction};\nret;\n}}\n"
    ))
}

struct Row {
    instruction: &'static str,
    target: String,
    version: (u32, u32),
}

fn pair(text: &str) -> (u32, u32) {
    let (major, minor) = text.split_once('.').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

fn rows() -> impl Iterator<Item = Row> {
    ROWS.lines().map(|line| {
        let mut parts = line.split(" | ");
        let mut next = || parts.next().unwrap();
        let instruction = next();
        Row { instruction, target: format!("sm_{}", next()), version: pair(next()) }
    })
}

fn text((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

fn place(target: &str) -> usize {
    TARGETS.iter().position(|known| known.0 == target).unwrap()
}

#[test]
fn what_an_assembler_accepts_is_accepted() {
    let mut wrong = Vec::new();
    for row in rows() {
        let least = pair(TARGETS[place(&row.target)].1);
        let version = text(row.version.max(least));
        if let Err(error) = load(row.instruction, &row.target, &version) {
            wrong.push(format!("{} {version}: {error}", row.target));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Why the outcome is not an error of the instruction with this text.
fn not_refused(
    row: &Row,
    outcome: Result<Module, ParseError>,
    wanted: &str,
) -> Option<String> {
    let opcode = row.instruction.split([' ', ',']).next().unwrap();
    match outcome {
        Ok(_) => Some(format!("{}: accepted, but: {wanted}", row.instruction)),
        Err(error) => (error.line != 10
            || !error.message.contains(opcode)
            || !error.message.contains(wanted))
        .then(|| format!("{error}, but: {wanted}")),
    }
}

#[test]
fn older_architectures_are_refused() {
    let (mut tried, mut wrong) = (0, Vec::new());
    for row in rows() {
        let at = place(&row.target);
        // The assembler that made the list knows nothing before sm_75.
        let from = if row.target == "sm_75" { at } else { 0 };
        for (target, _) in &TARGETS[from..at] {
            let outcome = load(row.instruction, target, "9.0");
            let wanted = format!("but the module is for {target}");
            wrong.extend(not_refused(&row, outcome, &wanted));
            tried += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 500, "{tried}");
}

#[test]
fn older_versions_are_refused() {
    let (mut tried, mut wrong) = (0, Vec::new());
    for row in rows() {
        let before = match row.version {
            (major, 0) => (major - 1, 99),
            (major, minor) => (major, minor - 1),
        };
        if before < pair(TARGETS[place(&row.target)].1) {
            continue;
        }
        let outcome = load(row.instruction, &row.target, &text(before));
        let wanted = format!("needs PTX ISA {}", text(row.version));
        wrong.extend(not_refused(&row, outcome, &wanted));
        tried += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 30, "{tried}");
}

#[test]
fn a_suffix_is_one_architecture() {
    let wgmma = "wgmma.fence.sync.aligned";
    assert!(load(wgmma, "sm_90a", "8.0").is_ok());
    for target in ["sm_90", "sm_100", "sm_100a", "sm_120a"] {
        let error = load(wgmma, target, "9.0").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "PTX line 10: {wgmma}: needs .target sm_90a, but the module is for {target}"
            )
        );
    }
    let registers = "setmaxnreg.dec.sync.aligned.u32 40";
    for target in ["sm_90a", "sm_100a", "sm_100f", "sm_120a"] {
        assert!(load(registers, target, "9.0").is_ok(), "{target}");
    }
    for target in ["sm_90", "sm_100", "sm_120"] {
        assert!(load(registers, target, "9.0").is_err(), "{target}");
    }
}

#[test]
fn what_a_module_declares() {
    let refused = |target, version, wanted: &str| {
        let error = load("ret", target, version).unwrap_err();
        assert!(error.message.contains(wanted), "{error}");
    };
    refused("sm_90a", "7.8", "the target sm_90a needs PTX ISA 8.0");
    refused("sm_99", "9.0", "'sm_99' is not an architecture");
    refused("compute_90", "9.0", "'compute_90' is not an architecture");
    assert!(Module::parse(".version 8.0\n").unwrap_err().message.contains(".target"));
    assert!(Module::parse(".target sm_80\n").unwrap_err().message.contains(".version"));
}

#[test]
fn directives_of_clusters() {
    for directive in [".reqnctapercluster 2, 1, 1", ".maxclusterrank 8", ".explicitcluster"]
    {
        let load = |target: &str| {
            Module::parse(&format!(
                ".version 8.0\n.target {target}\n.address_size 64\n\
                 .visible .entry k() {directive} {{ ret; }}"
            ))
        };
        assert!(load("sm_90").is_ok());
        let error = load("sm_89").unwrap_err();
        assert!(error.message.contains("needs .target sm_90 or later"), "{error}");
    }
}
