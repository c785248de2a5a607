//! Calls of device functions, in small programs.

mod common;

use common::{clean, words};
use ptxvm::{FindingKind, Launch, Memory, Module, Params};

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// `n` times `twice` and one more, by a function that calls another.
const TWICE: &str = ".func (.param .b32 out) twice(.param .b32 x)\n{\n\
     .reg.b32 %r<3>;\n\
     ld.param.u32 %r1, [x];\nadd.u32 %r2, %r1, %r1;\nst.param.u32 [out], %r2;\nret;\n}\n";

/// A kernel that stores, for every thread, what `body` leaves in `%r2`; `%r1` is the thread.
fn kernel(functions: &str, body: &str) -> String {
    format!(
        "{HEAD}{functions}.visible .entry k(.param .u64 y)\n{{\n\
         .reg .pred %p<4>;\n.reg .b32 %r<9>;\n.reg .b64 %rd<9>;\n\
         .param .b32 a0;\n.param .b32 r0;\n\
         ld.param.u64 %rd1, [y];\nmov.u32 %r1, %tid.x;\nmov.u32 %r2, 7;\n\
         {body}\n\
         mul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd3, %rd1, %rd2;\n\
         st.global.u32 [%rd3], %r2;\nret;\n}}\n"
    )
}

fn run(text: &str) -> Vec<u32> {
    let module = Module::parse(text).unwrap();
    let mut memory = Memory::new();
    let y = memory.alloc(256, "y");
    let params = Params::new().u64(y).build();
    clean(&module, &mut memory, &Launch { block: [64, 1, 1], params, ..Launch::new("k") });
    words(&memory, y, 64)
}

fn refusal(text: &str) -> String {
    Module::parse(text).unwrap_err().to_string()
}

const CALL: &str =
    "st.param.u32 [a0], %r1;\ncall (r0), twice, (a0);\nld.param.u32 %r2, [r0];";

#[test]
fn every_call_has_its_own_registers() {
    let more = "mov.u32 %r3, %r2;\nst.param.u32 [a0], %r3;\ncall.uni (r0), twice, (a0);\n\
                ld.param.u32 %r4, [r0];\nadd.u32 %r2, %r3, %r4;";
    let got = run(&kernel(TWICE, &format!("{CALL}\n{more}")));
    assert_eq!(got, (0..64).map(|t| 6 * t).collect::<Vec<u32>>());
}

#[test]
fn a_guarded_call() {
    let body = "setp.lt.u32 %p1, %r1, 10;\nst.param.u32 [a0], %r1;\n\
                @%p1 call (r0), twice, (a0);\n@%p1 ld.param.u32 %r2, [r0];";
    let wanted: Vec<u32> = (0..64).map(|t| if t < 10 { 2 * t } else { 7 }).collect();
    assert_eq!(run(&kernel(TWICE, body)), wanted);
    let wanted: Vec<u32> = (0..64).map(|t| if t >= 10 { 2 * t } else { 7 }).collect();
    assert_eq!(run(&kernel(TWICE, &body.replace("@%p1", "@!%p1"))), wanted);
}

#[test]
fn a_return_in_the_middle() {
    let early = ".func (.param .b32 out) early(.param .b32 x)\n{\n.reg .pred %p;\n\
         .reg .b32 %r<3>;\nld.param.u32 %r1, [x];\nst.param.u32 [out], 1;\n\
         setp.lt.u32 %p, %r1, 40;\n@%p ret;\nL: add.u32 %r2, %r1, 100;\n\
         st.param.u32 [out], %r2;\n}\n";
    let got = run(&kernel(early, &CALL.replace("twice", "early")));
    let wanted: Vec<u32> = (0..64).map(|t| if t < 40 { 1 } else { t + 100 }).collect();
    assert_eq!(got, wanted);
}

/// A function's shared variable is one, however often the function is called.
#[test]
fn shared_variables_of_a_function() {
    let keep = ".func (.param .b32 out) keep(.param .b32 x)\n{\n.reg .pred %p;\n\
         .reg .b32 %r<4>;\n.shared .b32 kept;\nld.param.u32 %r1, [x];\n\
         ld.shared.u32 %r2, [kept];\nsetp.eq.u32 %p, %r1, 99;\n\
         @!%p bra READ;\nst.shared.u32 [kept], %r1;\n\
         READ: bar.sync 0;\nld.shared.u32 %r3, [kept];\nbar.sync 0;\n\
         st.param.u32 [out], %r3;\nret;\n}\n"
        .replace("ld.shared.u32 %r2, [kept];\n", "");
    let body = "setp.eq.u32 %p1, %r1, 3;\nselp.u32 %r3, 99, 0, %p1;\n\
                st.param.u32 [a0], %r3;\ncall (r0), keep, (a0);\n\
                st.param.u32 [a0], 5;\ncall (r0), keep, (a0);\nld.param.u32 %r2, [r0];";
    assert_eq!(run(&kernel(&keep, body)), [99; 64]);
}

/// What a function never sets is not defined, on its second call neither.
#[test]
fn a_result_that_was_not_set() {
    let none = ".func (.param .b32 out) twice(.param .b32 x)\n{\nret;\n}\n";
    let text = kernel(none, CALL);
    let module = Module::parse(&text).unwrap();
    let mut memory = Memory::new();
    let y = memory.alloc(256, "y");
    let params = Params::new().u64(y).build();
    let launch = Launch { block: [64, 1, 1], params, ..Launch::new("k") };
    let report = module.launch(&mut memory, &launch).unwrap();
    assert_eq!(report.findings[0].kind, FindingKind::Uninitialised);
}

#[test]
fn what_is_refused_is_named() {
    let two = ".func a(.param .b32 x);\n\
               .func b(.param .b32 x)\n{\n.param .b32 p;\ncall a, (p);\nret;\n}\n\
               .func a(.param .b32 x)\n{\n.param .b32 p;\ncall b, (p);\nret;\n}\n";
    let error = refusal(&kernel(two, "call a, (a0);"));
    assert!(error.contains("recursion is not implemented (a calls b calls a)"), "{error}");
    for (name, why) in [
        ("malloc", "the heap of the device"),
        ("cudaLaunchDeviceV2", "dynamic parallelism"),
        ("elsewhere", "does not have its body"),
    ] {
        let extern_ = format!(".extern .func (.param .b32 out) {name}(.param .b32 x);\n");
        let error = refusal(&kernel(&extern_, &format!("call (r0), {name}, (a0);")));
        assert!(error.contains(&format!("call of '{name}'")), "{error}");
        assert!(error.contains(why), "{error}");
    }
    let error = refusal(&kernel(TWICE, "call (r0), twice, (a0, a0);"));
    assert!(error.contains("the number of results or arguments"), "{error}");
    let error = refusal(&kernel(TWICE, "call (r0), twice, (%r1);"));
    assert!(error.contains("'%r1' is not a variable in '.param'"), "{error}");
    let registers = ".func (.reg .b32 out) f(.reg .b32 x)\n{\nret;\n}\n";
    let error = refusal(&kernel(registers, ""));
    assert!(error.contains("parameters in '.reg'"), "{error}");
}

/// Calls of calls of calls must not fill all memory.
#[test]
fn too_many_copies_are_refused() {
    let mut functions = TWICE.replace("twice", "f0");
    for n in 1..20 {
        let call = format!("call (q), f{}, (p);\n", n - 1);
        functions += &format!(
            ".func (.param .b32 out) f{n}(.param .b32 x)\n{{\n.param .b32 p;\n.param .b32 q;\n\
             {}ret;\n}}\n",
            call.repeat(4)
        );
    }
    let error = refusal(&kernel(&functions, &CALL.replace("twice", "f19")));
    assert!(error.contains("with all calls expanded"), "{error}");
}

#[test]
fn one_kernel_of_a_module_may_be_unusable() {
    let good = "{ st.global.u32 [0], 1; ret; }";
    for (bad, why) in [
        ("{ .reg .b32 %r; frobnicate.u32 %r; ret; }", "frobnicate"),
        ("{ .unknown; ret; }", "'.unknown' is not implemented"),
        ("{ .reg .u31 %r; ret; }", "'.u31' is not implemented"),
    ] {
        let text =
            format!("{HEAD}.visible .entry bad()\n{bad}\n.visible .entry good()\n{good}");
        let module = Module::parse(&text).unwrap();
        assert_eq!(module.kernels().collect::<Vec<_>>(), ["good"]);
        assert!(module.kernel("bad").is_none());
        let (name, error) = module.refused().next().unwrap();
        assert_eq!((name, error.line), ("bad", 5));
        assert!(error.message.contains(why), "{error}");
        let fault = module.launch(&mut Memory::new(), &Launch::new("bad")).unwrap_err();
        assert_eq!(fault.cause.kind, FindingKind::BadLaunch);
        assert!(fault.cause.detail.contains(why), "{fault}");
        // An assembler refuses all of it.
        let text = text.replace(good, "{ .reg .b32 %r; elect.sync %r|_, -1; ret; }");
        assert!(Module::parse(&text).is_err());
        assert!(
            Module::parse(&text[..text.find(".visible .entry good").unwrap()]).is_err()
        );
    }
}

#[test]
fn what_is_not_implemented_names_the_instruction() {
    for instruction in [
        "st.async.release.sys.global.b32 [%rd1], %r2",
        "st.bulk.weak.shared::cta [%rd1], %rd2, 0",
        "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r1], %r2, [%r3]",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%rd1], [%r1], 16",
        "cp.reduce.async.bulk.tensor.1d.global.shared::cta.add.bulk_group [%rd1, {%r1}], [%r2]",
        "wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.f16.f16 {%r1}, %rd1, %rd2, %r1, 0, 1, 1, 1, 0, 0",
        "mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r1}, {%r1}, {%r1}, {%r1}, %r1, 0",
        "mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32 {%r1}, {%r1}, {%r1}, {%r1}",
        "mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc {%r1}, {%r1}, {%r1}, {%r1}",
        "wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {%r1}, [%rd1]",
        "multimem.ld_reduce.relaxed.gpu.global.add.u32 %r1, [%rd1]",
        "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 32",
        "tex.2d.v4.f32.s32 {%r1, %r2, %r3, %r4}, [%rd1, {%r1, %r2}]",
        "suld.b.2d.b32.trap %r1, [%rd1, {%r1, %r2}]",
    ] {
        let opcode = instruction.split(' ').next().unwrap();
        let text = format!(
            ".version 9.0\n.target sm_100a\n.address_size 64\n.file 1 \"a/mine.cu\"\n\
             .visible .entry k()\n{{ .reg .b32 %r<9>; .reg .b64 %rd<9>;\n.loc 1 77 5\n\
             {instruction};\nret;\n}}\n"
        );
        let error = Module::parse(&text).unwrap_err();
        assert_eq!(error.line, 8, "{error}");
        assert!(error.message.contains(opcode), "{error}");
        assert!(error.message.contains("not implemented"), "{error}");
        assert_eq!(error.source_line, Some(("mine.cu".to_owned(), 77)));
        assert!(error.to_string().contains("mine.cu:77"), "{error}");
    }
}
