//! Machine code, disassembled: which instructions a kernel executes, and which its
//! innermost loop has.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use super::library;
use super::search::download_folders;

/// Classes of instructions: name, and how opcodes of the class begin. The
/// first that fits counts. `*` ends a whole opcode before its first point.
const CLASSES: [(&str, &[&str]); 17] = [
    ("tensor", &["HMMA", "IMMA", "QMMA", "OMMA", "DMMA", "HGMMA", "IGMMA", "QGMMA", "UTC"]),
    ("LDSM", &["LDSM", "STSM"]),
    ("LDGSTS", &["LDGSTS"]),
    ("TMA", &["UTMA", "UBLKCP", "UBLKPF", "UBLKRED"]),
    ("LDG", &["LDG*", "LD*"]),
    ("STG", &["STG*", "ST*", "ATOM", "RED*", "REDG"]),
    ("LDS", &["LDS*"]),
    ("STS", &["STS*"]),
    ("local", &["LDL", "STL"]),
    ("FP32", &["FFMA", "FMUL", "FADD", "FMNMX", "FSEL", "FSETP", "FSET", "FCHK"]),
    ("FP16", &["HFMA2", "HMUL2", "HADD2", "HMNMX2", "HSET"]),
    ("MUFU", &["MUFU"]),
    ("convert", &["F2", "I2", "FRND"]),
    ("SHFL", &["SHFL", "REDUX", "CREDUX", "VOTE", "MATCH"]),
    (
        "sync",
        &[
            "BAR",
            "SYNCS",
            "DEPBAR",
            "LDGDEPBAR",
            "LDSDEPBAR",
            "MEMBAR",
            "FENCE",
            "ERRBAR",
            "WARP",
            "BSSY",
            "BSYNC",
            "BREAK",
            "ARRIVES",
            "UCGABAR",
            "CCTL",
            "NANOSLEEP",
            "ACQBULK",
        ],
    ),
    ("branch", &["BRA", "BRX", "EXIT", "RET", "CALL", "JMP", "YIELD"]),
    ("integer", &[""]),
];

/// The disassembler that comes with the CUDA toolkit.
#[derive(Clone, Debug)]
pub struct Disassembler(PathBuf);

impl Disassembler {
    /// Finds it in PATH, in the toolkit, or where `scripts/install-nvrtc` puts
    /// it.
    ///
    /// # Errors
    /// Where there is none, what to do.
    pub fn find() -> Result<Self> {
        let variable = |name: &str| std::env::var_os(name).unwrap_or_default();
        let homes = ["CUDA_HOME", "CUDA_PATH"].map(variable);
        let toolkits = homes.iter().map(PathBuf::from).chain(["/usr/local/cuda".into()]);
        let folders = std::env::split_paths(&variable("PATH"))
            .chain(toolkits.map(|root| root.join("bin")))
            .chain(download_folders().into_iter().map(|root| root.join("nvidia/cu13/bin")))
            .collect::<Vec<_>>();
        let found =
            folders.iter().map(|folder| folder.join("nvdisasm")).find(|p| p.is_file());
        let found = found.context(
            "found no nvdisasm in PATH, CUDA_HOME or target/cuda-toolkit; run \
             scripts/install-nvrtc in a checkout",
        )?;
        library::refuse_cut(&found).map_err(anyhow::Error::msg)?;
        Ok(Disassembler(found))
    }

    /// Disassembles an image.
    ///
    /// # Errors
    /// A disassembler that fails, with what it says.
    pub fn listing(&self, image: &[u8]) -> Result<Listing> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ridgepoint-{}-{number}.cubin", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, image)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let output = self.run(&path);
        let _ = fs::remove_file(&path);
        output.map(Listing::parse)
    }

    fn run(&self, image: &Path) -> Result<String> {
        let output = Command::new(&self.0)
            .arg("--print-code")
            .arg(image)
            .output()
            .with_context(|| format!("cannot run {}", self.0.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{} ended with {}: {}", self.0.display(), output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A disassembled image.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// As the disassembler writes it.
    pub text: String,
    /// Code of each function.
    pub functions: BTreeMap<String, Code>,
}

/// The code of one function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Code {
    /// In order of their addresses. Those that never execute are left out.
    pub instructions: Vec<Instruction>,
    /// Labels, and the instruction that follows each.
    labels: BTreeMap<String, usize>,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// With its modifiers: `LDG.E.128.CONSTANT`.
    pub opcode: String,
    /// As they are written: `R4, desc[UR10][R40.64]`.
    pub operands: String,
    /// Whether it has a predicate.
    conditional: bool,
    /// Label that it names, as a branch does.
    target: Option<String>,
}

/// How many instructions of each class: those of a loop, or of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mix(pub BTreeMap<&'static str, usize>);

impl Instruction {
    /// The class of its opcode.
    pub fn class(&self) -> &'static str {
        class(&self.opcode)
    }

    /// Whether its opcode has this modifier.
    pub fn has(&self, modifier: &str) -> bool {
        self.opcode.split('.').skip(1).any(|part| part == modifier)
    }
}

impl Mix {
    /// The classes of instructions.
    pub fn of_all<'a>(instructions: impl IntoIterator<Item = &'a Instruction>) -> Self {
        let mut mix = Mix::default();
        for instruction in instructions {
            *mix.0.entry(instruction.class()).or_default() += 1;
        }
        mix
    }

    /// Names of the classes, in order.
    pub fn classes() -> impl Iterator<Item = &'static str> {
        CLASSES.iter().map(|(name, _)| *name)
    }

    /// Instructions of a class.
    pub fn of(&self, class: &str) -> usize {
        self.0.get(class).copied().unwrap_or(0)
    }

    /// All instructions.
    pub fn total(&self) -> usize {
        self.0.values().sum()
    }
}

impl Listing {
    /// Reads what `nvdisasm --print-code` writes.
    pub fn parse(text: String) -> Self {
        let mut functions: BTreeMap<String, Code> = BTreeMap::new();
        let mut current: Option<&mut Code> = None;
        for line in text.lines() {
            let line = line.trim();
            if let Some(section) = line.strip_prefix(".section\t") {
                let name = section.trim().strip_prefix(".text.");
                current = name.and_then(|rest| rest.split(',').next()).map(|name| {
                    functions.entry(name.trim_matches('"').to_owned()).or_default()
                });
            } else if let Some(code) = current.as_deref_mut() {
                code.add(line);
            }
        }
        Listing { text, functions }
    }

    /// Instructions of a function whose opcodes begin with one of its parts and
    /// have the others, in order: `count("k", "LDG.128")` counts `LDG.E.128`.
    pub fn count(&self, function: &str, opcode: &str) -> usize {
        let code = self.functions.get(function);
        let instructions = code.map_or(&[][..], |code| &code.instructions);
        instructions.iter().filter(|i| matches(&i.opcode, opcode)).count()
    }
}

/// Whether an opcode has the parts of `wanted` in order, its first one first.
fn matches(opcode: &str, wanted: &str) -> bool {
    let mut parts = opcode.split('.');
    let mut wanted = wanted.split('.');
    parts.next() == wanted.next() && wanted.all(|part| parts.any(|other| other == part))
}

impl Code {
    /// Adds a line: `.L_x_1:` or `/*0150*/ @!P0 BRA `(.L_x_1) ;`.
    fn add(&mut self, line: &str) {
        if let Some(label) = line.strip_suffix(':') {
            self.labels.insert(label.to_owned(), self.instructions.len());
            return;
        }
        let Some((_, text)) = line.strip_prefix("/*").and_then(|l| l.split_once("*/"))
        else {
            return;
        };
        let mut words = text.split_whitespace().peekable();
        let predicate = words.next_if(|word| word.starts_with('@'));
        let Some(opcode) = words.next().map(|word| word.trim_end_matches(';')) else {
            return;
        };
        // Some code has loads under a predicate that is always false.
        let never = matches!(predicate, Some("@!PT" | "@!UPT"));
        if opcode.is_empty() || opcode == "NOP" || never {
            return;
        }
        let (_, rest) = text.split_once(opcode).unwrap_or_default();
        let operands = rest.trim().trim_end_matches(';').trim_end().to_owned();
        let target = text
            .split_once("`(")
            .and_then(|(_, rest)| rest.split_once(')'))
            .map(|(label, _)| label.to_owned());
        // `BRA.U UP0` has its predicate as an operand.
        let operand =
            words.next().is_some_and(|word| word.contains('P') && !word.contains('`'));
        self.instructions.push(Instruction {
            opcode: opcode.to_owned(),
            operands,
            conditional: predicate.is_some() || opcode.starts_with("BRA") && operand,
            target,
        });
    }

    /// The main loop: the one with the most tensor instructions of its own, of several the
    /// innermost, or, without any, the most bytes of memory. Instructions of loops within it are
    /// not its own.
    pub fn main_loop(&self) -> Option<Vec<&Instruction>> {
        let loops = self.loops();
        let own = |&(first, last): &(usize, usize)| {
            let nested = |at: usize| {
                loops.iter().any(|&(f, l)| {
                    (f, l) != (first, last) && first <= f && l <= last && f <= at && at <= l
                })
            };
            let own = (first..=last).filter(|&at| !nested(at));
            own.map(|at| &self.instructions[at]).collect::<Vec<_>>()
        };
        let work = |&(first, last): &(usize, usize)| {
            let own = own(&(first, last));
            let tensor = own.iter().filter(|i| class(&i.opcode) == "tensor").count();
            let around = loops.iter().filter(|&&(f, l)| f <= first && last <= l).count();
            (
                tensor,
                if tensor > 0 { around } else { 0 },
                own.iter().map(|i| accessed_bytes(&i.opcode)).sum::<usize>(),
                own.len(),
            )
        };
        loops.iter().max_by_key(|of| work(of)).map(own)
    }

    /// First and last instruction of every loop: a branch back to a label.
    /// Rarely executed code after the end of a function branches back too, so what contains
    /// an unconditional end is not a loop, nor what begins within another loop and ends after it.
    fn loops(&self) -> Vec<(usize, usize)> {
        let mut loops: BTreeMap<usize, usize> = BTreeMap::new();
        for (last, instruction) in self.instructions.iter().enumerate() {
            let label = match &instruction.target {
                Some(label) if instruction.opcode.starts_with("BRA") => label,
                _ => continue,
            };
            let Some(&first) = self.labels.get(label).filter(|&&first| first < last) else {
                continue;
            };
            let ends = |i: &Instruction| i.opcode == "EXIT" && !i.conditional;
            if !self.instructions[first..last].iter().any(ends) {
                loops.insert(first, last);
            }
        }
        let leaves = |first: usize, last: usize| {
            loops.iter().any(|(&f, &l)| f < first && first <= l && l < last)
        };
        loops.iter().map(|(&f, &l)| (f, l)).filter(|&(f, l)| !leaves(f, l)).collect()
    }
}

/// Bytes of shared or global memory that a thread accesses; a nominal kilobyte
/// for copies of tiles.
fn accessed_bytes(opcode: &str) -> usize {
    let has = |part: &str| opcode.split('.').any(|other| other == part);
    match class(opcode) {
        "TMA" => 1024,
        "LDSM" if has("4") => 16,
        "LDGSTS" | "LDG" | "STG" | "LDS" | "STS" | "LDSM" if has("128") => 16,
        "LDGSTS" | "LDG" | "STG" | "LDS" | "STS" | "LDSM" => 4,
        _ => 0,
    }
}

/// The class of an opcode.
fn class(opcode: &str) -> &'static str {
    let stem = opcode.split('.').next().unwrap_or_default();
    let begins = |prefix: &&str| match prefix.strip_suffix('*') {
        Some(whole) => stem == whole,
        None => stem.starts_with(prefix),
    };
    let class = CLASSES.iter().find(|(_, prefixes)| prefixes.iter().any(begins));
    class.map_or("integer", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// nvdisasm 13.2.51, cut down.
    const TEXT: &str = r#"
	.target	sm_90a

//--------------------- .text.mm                  --------------------------
	.section	.text.mm,"ax",@progbits
	.sectioninfo	@"SHI_REGISTERS=44"
	.align	128
        .global         mm
        .type           mm,@function
mm:
.text.mm:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0070*/               @P0 EXIT ;
        /*0080*/              @!P0 BRA `(.L_x_0) ;
        /*0130*/                   LDG.E.NA.LTC256B.128.CONSTANT R4, desc[UR10][R40.64] ;
.L_x_9:
        /*0138*/                   STG.E.NA.128 desc[UR10][R38.64], R4 ;
.L_x_1:
        /*0140*/                   LEA R8, P0, R17, R0, 0x2 ;
        /*01a0*/              @!PT LDS RZ, [RZ] ;
        /*01d0*/                   LDGSTS.E.BYPASS.128 [R15], desc[UR6][R12.64] ;
        /*0200*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0210*/                   LDSM.16.M88.4 R8, [R15] ;
        /*0220*/                   HMMA.16816.F32.BF16 R4, R8, R8, R4 ;
        /*0240*/                   NOP ;
        /*0250*/              @!P0 BRA `(.L_x_1) ;
        /*0255*/                   BRA.U UP0, `(.L_x_9) ;
.L_x_0:
        /*0260*/                   FADD R5, R5, R4 ;
        /*02a0*/                   STG.E desc[UR6][R2.64], R7 ;
        /*02b0*/                   EXIT ;
.L_x_5:
        /*02b8*/                   WARPSYNC.COLLECTIVE R2, `(.L_x_6) ;
        /*02bc*/                   BRA `(.L_x_1);
.L_x_2:
        /*02c0*/                   BRA `(.L_x_2);
        /*02d0*/                   NOP;
.L_x_3:
	.section	.nv.info,"",@"SHT_CUDA_INFO"
        /*0000*/        .word   0x00000000
"#;

    #[test]
    fn a_listing_is_read() {
        let listing = Listing::parse(TEXT.to_owned());
        assert_eq!(listing.functions.keys().collect::<Vec<_>>(), ["mm"]);
        assert_eq!(listing.functions["mm"].instructions.len(), 18);
        let count = |opcode| listing.count("mm", opcode);
        assert_eq!(
            ["LDG.128", "STG", "STG.128", "LDS", "LDGSTS.128"].map(count),
            [1, 2, 1, 0, 1]
        );
        assert_eq!(listing.count("other", "LDG"), 0);
    }

    #[test]
    fn the_main_loop_is_the_one_with_tensor_instructions() {
        let listing = Listing::parse(TEXT.to_owned());
        let of_loop = listing.functions["mm"].main_loop().unwrap();
        assert_eq!(of_loop[1].operands, "[R15], desc[UR6][R12.64]");
        let mix = Mix::of_all(of_loop);
        let expected = [
            ("tensor", 1),
            ("LDSM", 1),
            ("LDGSTS", 1),
            ("sync", 1),
            ("integer", 1),
            ("branch", 1),
        ];
        assert_eq!(mix, Mix(expected.into()));
    }

    /// A wait that had to be repeated goes on within the loop from behind what follows it. The
    /// loop around it has as many products of its own, and more bytes.
    #[test]
    fn waits_after_a_loop_do_not_extend_it() {
        let text = "\t.section\t.text.waits,\"ax\",@progbits\n\
                    .L_x_0:\n\
                    /*0000*/ HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24 ;\n\
                    .L_x_1:\n\
                    /*0008*/ SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [R3], R4 ;\n\
                    /*0010*/ @!P0 BRA `(.L_x_2) ;\n\
                    .L_x_3:\n\
                    /*0020*/ HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24 ;\n\
                    /*0030*/ @P1 BRA `(.L_x_1) ;\n\
                    /*0040*/ STG.E.128 desc[UR6][R2.64], R24 ;\n\
                    /*0050*/ @P2 BRA `(.L_x_0) ;\n\
                    /*0060*/ @P3 EXIT ;\n\
                    .L_x_2:\n\
                    /*0070*/ SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [R3], R4 ;\n\
                    /*0080*/ @!P0 BRA `(.L_x_2) ;\n\
                    /*0090*/ BRA `(.L_x_3) ;\n";
        let listing = Listing::parse(text.to_owned());
        let mix = Mix::of_all(listing.functions["waits"].main_loop().unwrap());
        assert_eq!((mix.of("tensor"), mix.total()), (1, 4));
    }

    #[test]
    fn opcodes_have_classes() {
        let cases = [
            ("HMMA.16816.F32.BF16", "tensor"),
            ("HGMMA.64x128x16.F32.BF16", "tensor"),
            ("LDG.E.128", "LDG"),
            ("LDGDEPBAR", "sync"),
            ("LDS.128", "LDS"),
            ("LDC.64", "integer"),
            ("LD.E.64", "LDG"),
            ("ST.E", "STG"),
            ("RED.E.ADD", "STG"),
            ("REDUX.SUM", "SHFL"),
            ("FFMA", "FP32"),
            ("F2FP.BF16.F32.PACK_AB", "convert"),
            ("IMAD.WIDE", "integer"),
            ("UIADD3", "integer"),
            ("MUFU.EX2", "MUFU"),
            ("STL.128", "local"),
        ];
        for (opcode, expected) in cases {
            assert_eq!(class(opcode), expected, "{opcode}");
        }
    }
}
