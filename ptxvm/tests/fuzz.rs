//! No text makes the parser panic or hang.

use proptest::prelude::*;
use ptxvm::{Launch, Memory, Module, Options};

const TEXTS: [&str; 3] = [
    include_str!("ptx/basic.ptx"),
    include_str!("ptx/gemm.ptx"),
    include_str!("ptx/hopper.ptx"),
];

const HEAD: &str = ".version 8.0\n.target sm_90a\n.address_size 64\n";

/// Pieces that PTX is made of.
const PIECES: [&str; 60] = [
    ".version 8.0",
    ".target sm_90",
    ".visible",
    ".entry k",
    "(",
    ")",
    "{",
    "}",
    ";",
    ",",
    ".reg",
    ".b32",
    ".pred",
    "%r<4>",
    "%r1",
    "%p1",
    "@",
    "!",
    "[",
    "]",
    "+",
    "-",
    "|",
    "<",
    ">",
    "=",
    ".param",
    ".shared",
    ".align",
    "16",
    "0x7fffffffffffffff",
    "-1",
    "0f3F800000",
    "0d0000000000000000",
    "x",
    "L:",
    "bra",
    "ld.global.v4.u32",
    "st.shared.b8",
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    "cp.async.cg.shared.global",
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16",
    "mbarrier.init.shared::cta.b64",
    "cvt.rn.bf16x2.f32",
    "setp.eq.and.s32",
    "shfl.sync.bfly.b32",
    "mov.b64",
    "lop3.b32",
    ".loc 1 2 3",
    ".file 1 \"x\"",
    ".section .debug",
    "//",
    "/*",
    "*/",
    "\"",
    "%tid.x",
    "_",
    "ret",
    "brx.idx",
    ".branchtargets",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text(text in "\\PC*") {
        let _ = Module::parse(&text);
    }

    #[test]
    fn any_pieces(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..60)) {
        let _ = Module::parse(&pieces.join(" "));
        let body = format!("{HEAD}.visible .entry k(.param .u64 x) {{ {} }}", pieces.join(" "));
        let _ = Module::parse(&body);
    }

    #[test]
    fn any_instruction(
        opcode in "(add|mul|mad|cvt|ld|st|mov|setp|selp|prmt|bfe|mma|ldmatrix|wgmma|cp|mbarrier|atom|red|shfl|vote|bar|barrier|fence|elect|mapa|redux)",
        modifiers in prop::collection::vec("(\\.[a-z0-9:_]{1,12}|\\.(u32|s32|f32|b64|pred|sync|aligned|rn|global|shared|v2|x4|async|bulk|tensor|2d|lo|wide|hi))", 0..6),
        operands in "(%r1|%rd1|%p1|1|-1|\\{%r1, %r2\\}|\\[%rd1\\]|\\[x\\+4\\]|%r1\\|%p1|_|, ){0,9}",
    ) {
        let text = format!(
            "{HEAD}.visible .entry k(.param .u64 x) {{ .reg .b32 %r<4>; .reg .b64 %rd<4>; \
             .reg .pred %p<3>; {opcode}{} {operands}; }}",
            modifiers.concat()
        );
        let _ = Module::parse(&text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Real text with a part cut out, doubled or overwritten. What can still be loaded is also
    /// run, with parameters that are not valid addresses.
    #[test]
    fn altered_kernels(
        which in 0..TEXTS.len(),
        at in 0.0..1.0f64,
        length in 0..40usize,
        with in prop::sample::select(&PIECES[..]),
        how in 0..3,
        seed in 0..100u64,
    ) {
        let text = TEXTS[which];
        let at = (text.len() as f64 * at) as usize;
        let end = (at + length).min(text.len());
        let altered = match how {
            0 => format!("{}{}", &text[..at], &text[end..]),
            1 => format!("{}{}{}", &text[..end], &text[at..end], &text[end..]),
            _ => format!("{}{with}{}", &text[..at], &text[end..]),
        };
        if let Ok(module) = Module::parse(&altered) {
            let kernels: Vec<String> = module.kernels().map(str::to_owned).collect();
            for name in kernels {
                let params = vec![0; module.kernel(&name).unwrap().param_bytes];
                let launch = Launch {
                    block: [64, 1, 1],
                    params,
                    seed,
                    options: Options { budget: 20_000, ..Options::default() },
                    ..Launch::new(&name)
                };
                let _ = module.launch(&mut Memory::new(), &launch);
            }
        }
    }
}

#[test]
fn deep_nesting_is_refused() {
    let braces = "{".repeat(100_000);
    assert!(Module::parse(&format!("{HEAD}.visible .entry k() {braces}")).is_err());
    let list = format!("{HEAD}.visible .entry k() {{ mov.b64 %r, {braces} }}");
    assert!(Module::parse(&list).is_err());
    let registers = format!("{HEAD}.visible .entry k() {{ .reg .b32 %r<4000000000>; }}");
    assert!(Module::parse(&registers).is_err());
    let array = format!("{HEAD}.global .b8 x[99999999999999999];");
    assert!(Module::parse(&array).is_err());
    let minus = "-".repeat(100_000);
    assert!(
        Module::parse(&format!("{HEAD}.visible .entry k() {{ mov.b32 %r, {minus}1; }}"))
            .is_err()
    );
}
