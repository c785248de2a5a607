//! The speed of the machine: thread instructions per second, by kind of kernel.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptxvm::{
    Launch, Memory, Module, Options, OutOfBoundsFill, Params, Swizzle, TensorElement,
    TensorMap,
};

const BASIC: &str = include_str!("../tests/ptx/basic.ptx");
const GEMM: &str = include_str!("../tests/ptx/gemm.ptx");
const WARPGROUP: &str = include_str!("../tests/ptx/warpgroup.ptx");

/// Plain arithmetic: a chain of multiply-adds, shifts and logic in a loop.
const ARITHMETIC: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry spin(.param .u64 out, .param .u32 count)
{
    .reg .b32 %r<9>;
    .reg .f32 %f<5>;
    .reg .b64 %rd<4>;
    .reg .pred %p<2>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %tid.x;
    mov.u32 %r3, 0;
    cvt.rn.f32.u32 %f1, %r2;
LOOP:
    mad.lo.u32 %r4, %r3, 17, %r2;
    xor.b32 %r2, %r2, %r4;
    shl.b32 %r5, %r2, 3;
    add.u32 %r2, %r5, %r4;
    fma.rn.f32 %f1, %f1, 0f3F7FFFEF, 0f3F800000;
    add.f32 %f2, %f1, %f1;
    mul.f32 %f3, %f2, %f1;
    add.u32 %r3, %r3, 1;
    setp.lt.u32 %p1, %r3, %r1;
    @%p1 bra LOOP;
    cvt.rzi.u32.f32 %r6, %f3;
    xor.b32 %r7, %r6, %r2;
    mul.wide.u32 %rd2, %r2, 0;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r7;
    ret;
}";

fn one_core() -> Options {
    Options { parallel: false, ..Options::default() }
}

fn arithmetic(c: &mut Criterion) {
    let module = Module::parse(ARITHMETIC).expect("the bench's own PTX");
    let mut memory = Memory::new();
    let out = memory.alloc(4, "out");
    let launch = Launch {
        block: [128, 1, 1],
        params: Params::new().u64(out).u32(2000).build(),
        // Every thread stores to the same word: a race, which does not matter here.
        options: Options { checks: false, ..one_core() },
        ..Launch::new("spin")
    };
    let report = module.launch(&mut memory, &launch).expect("runs");
    let mut group = c.benchmark_group("vm");
    group.throughput(Throughput::Elements(report.counts.thread_instructions()));
    group.bench_function("arithmetic", |b| {
        b.iter(|| black_box(module.launch(&mut memory, &launch)));
    });
    group.finish();
}

fn copies(c: &mut Criterion) {
    let module = Module::parse(BASIC).expect("the test's PTX");
    let mut memory = Memory::new();
    let n = 256;
    let x = memory.alloc(4 * n * n, "x");
    memory.write(x, &vec![0; 4 * (n * n) as usize]);
    let y = memory.alloc(4 * n * n, "y");
    let launch = Launch {
        grid: [8, 8, 1],
        block: [32, 8, 1],
        shared_bytes: 33 * 32 * 4,
        dynamic_shared_limit: Some(33 * 32 * 4),
        params: Params::new().u64(x).u64(y).i32(n as i32).build(),
        options: one_core(),
        ..Launch::new("transpose")
    };
    let report = module.launch(&mut memory, &launch).expect("runs");
    let mut group = c.benchmark_group("vm");
    group.throughput(Throughput::Elements(report.counts.thread_instructions()));
    group.bench_function("transpose", |b| {
        b.iter(|| black_box(module.launch(&mut memory, &launch)));
    });
    group.finish();
}

fn products(c: &mut Criterion) {
    let module = Module::parse(GEMM).expect("the test's PTX");
    let mut memory = Memory::new();
    let (m, n, k) = (128u64, 128u64, 256u64);
    let tensor = |memory: &mut Memory, elements: u64, name: &str| {
        let address = memory.alloc(2 * elements, name);
        memory.write(address, &vec![0x3c; 2 * elements as usize]);
        address
    };
    let (a, b) = (tensor(&mut memory, m * k, "a"), tensor(&mut memory, n * k, "b"));
    let y = memory.alloc(4 * m * n, "c");
    let params = Params::new().u64(a).u64(b).u64(y);
    let launch = Launch {
        grid: [2, 2, 1],
        block: [128, 1, 1],
        shared_bytes: 3 * 8192,
        dynamic_shared_limit: Some(3 * 8192),
        params: params.i32(m as i32).i32(n as i32).i32(k as i32).u32(0).build(),
        options: one_core(),
        ..Launch::new("gemm")
    };
    let report = module.launch(&mut memory, &launch).expect("runs");
    let mut group = c.benchmark_group("vm");
    group.throughput(Throughput::Elements(report.counts.total_flops()));
    group.bench_function("gemm flops", |b| {
        b.iter(|| black_box(module.launch(&mut memory, &launch)));
    });
    group.finish();
}

/// A tile of 256 x 128 of a product over k = 4096 by `wgmma`, with and without checks.
fn warpgroup_products(c: &mut Criterion) {
    let module = Module::parse(WARPGROUP).expect("the test's PTX");
    let mut memory = Memory::new();
    let (m, n, k) = (256u64, 128u64, 4096u64);
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
    let mut launch = Launch {
        block: [384, 1, 1],
        shared_bytes: 3 * 49152,
        dynamic_shared_limit: Some(3 * 49152),
        params: params.i32((k / 64) as i32).build(),
        options: one_core(),
        ..Launch::new("wide")
    };
    let mut group = c.benchmark_group("vm");
    for (name, checks) in [("wgmma flops", true), ("wgmma flops, unchecked", false)] {
        launch.options.checks = checks;
        let report = module.launch(&mut memory, &launch).expect("runs");
        group.throughput(Throughput::Elements(report.counts.total_flops()));
        group.bench_function(name, |b| {
            b.iter(|| black_box(module.launch(&mut memory, &launch)));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = arithmetic, copies, products, warpgroup_products
}
criterion_main!(benches);
