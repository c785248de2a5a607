//! What a launch with checks takes of the host's memory: at most twice the bytes that it
//! touches, where kernels access memory as they usually do.

mod common;

use common::clean;
use ptxvm::{
    Launch, Memory, Module, OutOfBoundsFill, Params, Report, Swizzle, TensorElement,
    TensorMap,
};

/// Bytes of each buffer.
const BYTES: u64 = 1 << 20;
/// Threads of a block, each with [`BYTES`] / (blocks * threads) bytes.
const THREADS: u32 = 256;

/// A kernel in which each thread of a grid has `%rd1`, its place in the first buffer, and
/// `%rd2`, that in the second: `each` bytes behind those of the thread before.
fn per_thread(each: u64, body: &str) -> Module {
    let text = format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .u64 x, .param .u64 y)\n{{\n.reg .b16 %h<8>;\n\
         .reg .b32 %r<16>;\n.reg .b64 %rd<16>;\n.shared .align 128 .b8 tile[8192];\n\
         ld.param.u64 %rd1, [x];\nld.param.u64 %rd2, [y];\nmov.u32 %r1, %tid.x;\n\
         mov.u32 %r2, %ctaid.x;\nmad.lo.u32 %r3, %r2, {THREADS}, %r1;\n\
         mul.wide.u32 %rd3, %r3, {each};\nadd.s64 %rd1, %rd1, %rd3;\n\
         add.s64 %rd2, %rd2, %rd3;\n{}\nret;\n}}\n",
        body.replace(';', ";\n")
    );
    Module::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The bytes held for each byte of a number of buffers.
fn ratio(memory: &Memory, report: &Report, touched: u64) -> f64 {
    (memory.bytes_held() + report.check_bytes) as f64 / touched as f64
}

/// The ratio for a kernel that touches `buffers` buffers in whole.
#[track_caller]
fn of(each: u64, body: &str, buffers: u64) -> f64 {
    let module = per_thread(each, body);
    let mut memory = Memory::new();
    let x = memory.alloc(BYTES, "x");
    memory.write(x, &vec![1; BYTES as usize]);
    let y = memory.alloc(BYTES, "y");
    let launch = Launch {
        grid: [(BYTES / each) as u32 / THREADS, 1, 1],
        block: [THREADS, 1, 1],
        params: Params::new().u64(x).u64(y).build(),
        ..Launch::new("k")
    };
    let report = clean(&module, &mut memory, &launch);
    let found = ratio(&memory, &report, buffers * BYTES);
    println!("{found:.2} times: {body}");
    found
}

#[test]
fn ordinary_kernels_take_twice_what_they_touch() {
    let cases = [
        (16, "ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd1];", 1),
        (8, "ld.global.v2.u32 {%r4, %r5}, [%rd1];", 1),
        (4, "ld.global.u32 %r4, [%rd1];", 1),
        (2, "ld.global.u16 %h4, [%rd1];", 1),
        (1, "ld.global.u8 %h4, [%rd1];", 1),
        (16, "ld.global.nc.v4.u32 {%r4, %r5, %r6, %r7}, [%rd1];", 1),
        (4, "ld.global.nc.u32 %r4, [%rd1];", 1),
        (2, "ld.global.nc.u16 %h4, [%rd1];", 1),
        (4, "st.global.u32 [%rd1], %r3;", 1),
        (2, "cvt.u16.u32 %h4, %r3; st.global.u16 [%rd1], %h4;", 1),
        (16, "st.global.v4.u32 [%rd1], {%r1, %r2, %r3, %r3};", 1),
        (
            4,
            "ld.global.u32 %r4, [%rd1]; add.u32 %r4, %r4, 1; st.global.u32 [%rd1], %r4;",
            1,
        ),
        (
            2,
            "ld.global.u16 %h4, [%rd1]; add.u16 %h4, %h4, 1; st.global.u16 [%rd1], %h4;",
            1,
        ),
        (
            16,
            "ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd1]; add.u32 %r4, %r4, 1; \
             st.global.v4.u32 [%rd1], {%r4, %r5, %r6, %r7};",
            1,
        ),
        (4, "ld.global.u32 %r4, [%rd1]; st.global.u32 [%rd2], %r4;", 2),
        // The elements of a product's tile, one by one.
        (8, "st.global.u32 [%rd1], %r3; st.global.u32 [%rd1+4], %r1;", 1),
        (8, "ld.global.u32 %r4, [%rd1]; ld.global.u32 %r5, [%rd1+4];", 1),
        // A copy of 16 bytes by each thread, and what it fetched back out.
        (
            16,
            "mov.u32 %r5, tile; shl.b32 %r6, %r1, 4; add.u32 %r5, %r5, %r6; \
             cp.async.cg.shared.global [%r5], [%rd1], 16; cp.async.commit_group; \
             cp.async.wait_group 0; ld.shared.v4.u32 {%r8, %r9, %r10, %r11}, [%r5]; \
             st.global.v4.u32 [%rd2], {%r8, %r9, %r10, %r11};",
            2,
        ),
    ];
    for (each, body, buffers) in cases {
        let found = of(each, body, buffers);
        assert!(found <= 2.0, "{found:.2} times what is touched: {body}");
    }
}

/// Words in the reverse order, so that no lane follows another: the shadow is kept by word.
/// The bound is what the shadow's documentation says.
#[test]
fn the_worst_is_as_documented() {
    let reversed = "xor.b32 %r4, %r1, 3; shl.b32 %r4, %r4, 2; shl.b32 %r5, %r1, 2; \
                    sub.s32 %r4, %r4, %r5; cvt.s64.s32 %rd4, %r4; \
                    add.s64 %rd1, %rd1, %rd4;";
    let write = of(4, &format!("{reversed} st.global.u32 [%rd1], %r3;"), 1);
    assert!((3.3..3.5).contains(&write), "{write:.2}");
    let body = format!(
        "{reversed} ld.global.u32 %r6, [%rd1]; add.u32 %r6, %r6, 1; \
         st.global.u32 [%rd1], %r6;"
    );
    let both = of(4, &body, 1);
    assert!((5.5..5.8).contains(&both), "{both:.2}");
}

/// A block's first thread fetches 8 KiB by a bulk copy, all change it, and the first stores
/// it in place.
#[test]
fn bulk_copies_take_twice_what_they_touch() {
    let text = ".version 8.6
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 x)
{
    .reg .pred %p<4>;
    .reg .b32 %r<16>;
    .reg .b64 %rd<8>;
    .shared .align 128 .b8 tile[8192];
    .shared .align 8 .b64 bar;
    ld.param.u64 %rd1, [x];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, %ctaid.x;
    mul.wide.u32 %rd2, %r2, 8192;
    add.s64 %rd1, %rd1, %rd2;
    mov.u32 %r3, tile;
    mov.u32 %r4, bar;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra WAIT;
    mbarrier.init.shared.b64 [%r4], 1;
    fence.proxy.async.shared::cta;
    mbarrier.arrive.expect_tx.shared.b64 _, [%r4], 8192;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%rd1], 8192, [%r4];
WAIT:
    bar.sync 0;
POLL:
    mbarrier.try_wait.parity.shared.b64 %p2, [%r4], 0;
    @!%p2 bra POLL;
    shl.b32 %r5, %r1, 2;
    add.u32 %r5, %r5, %r3;
    ld.shared.u32 %r6, [%r5];
    add.u32 %r6, %r6, 1;
    st.shared.u32 [%r5], %r6;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @%p1 bra END;
    cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r3], 8192;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
END:
    ret;
}";
    let module = Module::parse(text).unwrap_or_else(|error| panic!("{error}"));
    let mut memory = Memory::new();
    let x = memory.alloc(BYTES, "x");
    memory.write(x, &vec![1; BYTES as usize]);
    let launch = Launch {
        grid: [BYTES as u32 / 8192, 1, 1],
        block: [THREADS, 1, 1],
        params: Params::new().u64(x).build(),
        ..Launch::new("k")
    };
    let report = clean(&module, &mut memory, &launch);
    let found = ratio(&memory, &report, BYTES);
    println!("{found:.2} times: bulk copies in and out");
    assert!(found <= 2.0, "{found:.2} times what is touched");
}

/// The products of the other tests: A and B by copies of 16 bytes, C by pairs of words.
#[test]
fn a_product_takes_twice_what_it_touches() {
    let module = Module::parse(include_str!("ptx/gemm.ptx")).unwrap();
    let mut memory = Memory::new();
    let (m, n, k) = (256u64, 256u64, 512u64);
    let tensor = |memory: &mut Memory, bytes: u64, name: &str| {
        let address = memory.alloc(bytes, name);
        memory.write(address, &vec![0x3c; bytes as usize]);
        address
    };
    let (a, b) = (tensor(&mut memory, 2 * m * k, "a"), tensor(&mut memory, 2 * n * k, "b"));
    let c = memory.alloc(4 * m * n, "c");
    let launch = Launch {
        grid: [m as u32 / 64, n as u32 / 64, 1],
        block: [128, 1, 1],
        shared_bytes: 3 * 8192,
        dynamic_shared_limit: Some(3 * 8192),
        params: Params::new()
            .u64(a)
            .u64(b)
            .u64(c)
            .i32(m as i32)
            .i32(n as i32)
            .i32(k as i32)
            .u32(0)
            .build(),
        ..Launch::new("gemm")
    };
    let report = clean(&module, &mut memory, &launch);
    let found = ratio(&memory, &report, 2 * (m + n) * k + 4 * m * n);
    println!("{found:.2} times: gemm");
    assert!(found <= 2.0, "{found:.2} times what is touched");
}

/// A tile of a product with operands by tensor copies.
#[test]
fn tensor_copies_take_twice_what_they_touch() {
    let module = Module::parse(include_str!("ptx/warpgroup.ptx")).unwrap();
    let mut memory = Memory::new();
    let (m, n, k) = (256u64, 128u64, 512u64);
    let matrix = |memory: &mut Memory, rows: u64, name: &str| {
        let address = memory.alloc(2 * rows * k, name);
        memory.write(address, &vec![0x3c; 2 * (rows * k) as usize]);
        let map = TensorMap {
            element: TensorElement::BF16,
            address,
            dims: vec![k, rows],
            strides: vec![2 * k],
            box_dims: vec![64, rows as u32],
            swizzle: Swizzle::Bytes128,
            fill: OutOfBoundsFill::Zero,
        };
        map.encode().expect("a map of a whole matrix")
    };
    let maps = [matrix(&mut memory, m, "a"), matrix(&mut memory, n, "b")];
    let y = memory.alloc(4 * m * n, "c");
    let params = Params::new().bytes(64, &maps[0]).bytes(64, &maps[1]).u64(y);
    let launch = Launch {
        block: [384, 1, 1],
        shared_bytes: 3 * 49152,
        dynamic_shared_limit: Some(3 * 49152),
        params: params.i32((k / 64) as i32).build(),
        ..Launch::new("wide")
    };
    let report = clean(&module, &mut memory, &launch);
    let found = ratio(&memory, &report, 2 * (m + n) * k + 4 * m * n);
    println!("{found:.2} times: wgmma with tensor copies");
    assert!(found <= 2.0, "{found:.2} times what is touched");
}
