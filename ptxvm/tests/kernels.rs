//! Kernels compiled by NVRTC, and their expected results computed here.

mod common;

use common::{bf16, clean, floats, upload, words};
use ptxvm::{Launch, Memory, Module, Options, Params, Unit};

const BASIC: &str = include_str!("ptx/basic.ptx");
const GEMM: &str = include_str!("ptx/gemm.ptx");

#[test]
fn integers_of_64_bits() {
    let module = Module::parse(BASIC).unwrap();
    let mut memory = Memory::new();
    let out = memory.alloc(8 * 1000, "out");
    let launch = Launch {
        grid: [8, 1, 1],
        block: [128, 1, 1],
        params: Params::new().u64(out).u64(1000).u64(77).build(),
        ..Launch::new("fill")
    };
    let report = clean(&module, &mut memory, &launch);
    let bytes = memory.read(out, 8000);
    for (i, value) in bytes.chunks(8).enumerate() {
        let i = i as u64;
        let mut x = (77 ^ i).wrapping_add(0x9e3779b97f4a7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58476d1ce4e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d049bb133111eb);
        let wanted = (x ^ x >> 31) % 1000003 + i / 7;
        assert_eq!(u64::from_le_bytes(value.try_into().unwrap()), wanted);
    }
    assert_eq!(report.counts.global_write_bytes, 8000);
    assert_eq!(report.counts.distinct_sectors_written, 250);
    assert_eq!(report.counts.sectors_written, 250);
}

#[test]
fn a_struct_of_parameters_and_shuffles() {
    let module = Module::parse(BASIC).unwrap();
    for seed in 0..3 {
        let mut memory = Memory::new();
        let x: Vec<f32> = (0..1000).map(|i| (i % 17) as f32).collect();
        let (px, py) =
            (upload(&mut memory, "x", &x, f32::to_le_bytes), memory.alloc(4 * 3, "y"));
        let params = Params::new().u64(px).u64(py).f32(0.5).i32(1000);
        let params = params.bytes(2, &[3, 0, 1, 2, 3, 0, 0, 0]).build();
        let launch = Launch {
            grid: [3, 1, 1],
            block: [128, 1, 1],
            params,
            seed,
            ..Launch::new("reduce")
        };
        let report = clean(&module, &mut memory, &launch);
        let y = floats(&memory, py, 3);
        let total: f32 = x.iter().sum::<f32>() * 0.5 + 3.0 * 5.0;
        assert_eq!(y.iter().sum::<f32>(), total);
        assert_eq!(report.counts.global_read_bytes, 4000);
        assert_eq!(report.counts.distinct_sectors_read, 125);
    }
}

#[test]
fn the_last_block_sees_all_others() {
    let module = Module::parse(BASIC).unwrap();
    for seed in 0..8 {
        let mut memory = Memory::new();
        let x: Vec<u32> = (0..32 * 20).collect();
        let px = upload(&mut memory, "x", &x, u32::to_le_bytes);
        let partial = memory.alloc(80, "partial");
        let counter = upload(&mut memory, "counter", &[0u32], u32::to_le_bytes);
        let out = memory.alloc(4, "out");
        let launch = Launch {
            grid: [20, 1, 1],
            block: [32, 1, 1],
            params: Params::new().u64(px).u64(partial).u64(counter).u64(out).build(),
            seed,
            ..Launch::new("last_block")
        };
        clean(&module, &mut memory, &launch);
        assert_eq!(words(&memory, out, 1), [x.iter().sum::<u32>()]);
    }
}

#[test]
fn threads_diverge_and_reconverge() {
    let module = Module::parse(BASIC).unwrap();
    let mut memory = Memory::new();
    let x: Vec<u32> = (1..=128).collect();
    let px = upload(&mut memory, "x", &x, u32::to_le_bytes);
    let out = memory.alloc(512, "out");
    let launch = Launch {
        grid: [2, 1, 1],
        block: [64, 1, 1],
        params: Params::new().u64(px).u64(out).build(),
        ..Launch::new("collatz")
    };
    clean(&module, &mut memory, &launch);
    for (&x, steps) in x.iter().zip(words(&memory, out, 128)) {
        let (mut n, mut wanted) = (x, 0);
        while n != 1 {
            n = if n % 2 == 1 { 3 * n + 1 } else { n / 2 };
            wanted += 1;
        }
        assert_eq!(steps, wanted, "{x}");
    }
}

#[test]
fn switches_local_memory_and_votes() {
    let module = Module::parse(BASIC).unwrap();
    let mut memory = Memory::new();
    let x: Vec<i32> = (0..32).map(|i| i * 7 % 23 - 3).collect();
    let px = upload(&mut memory, "x", &x, i32::to_le_bytes);
    let out = memory.alloc(128, "out");
    let launch = Launch {
        block: [32, 1, 1],
        params: Params::new().u64(px).u64(out).build(),
        ..Launch::new("mixed")
    };
    clean(&module, &mut memory, &launch);
    let above = x.iter().filter(|&&v| v > 10).count() as i32;
    let three = i32::from(x.contains(&3));
    for (i, got) in words(&memory, out, 32).into_iter().enumerate() {
        let v = x[i];
        let r = [v + 1, v * 3, v ^ 5, v - 9, v << 2, v >> 1, !v, -v][(v & 7) as usize];
        let local = v * (x[(i + 1) % 32] & 15);
        assert_eq!(got as i32, r + local + above + three, "{i}");
    }
}

#[test]
fn a_padded_tile_has_no_conflicts() {
    let module = Module::parse(BASIC).unwrap();
    for seed in 0..3 {
        let (mut memory, n) = (Memory::new(), 50);
        let x: Vec<f32> = (0..n * n).map(|i| i as f32).collect();
        let px = upload(&mut memory, "x", &x, f32::to_le_bytes);
        let py = memory.alloc(4 * (n * n) as u64, "y");
        let launch = Launch {
            grid: [2, 2, 1],
            block: [32, 8, 1],
            shared_bytes: 33 * 32 * 4,
            params: Params::new().u64(px).u64(py).i32(n as i32).build(),
            seed,
            ..Launch::new("transpose")
        };
        let report = clean(&module, &mut memory, &launch);
        let y = floats(&memory, py, n * n);
        for i in 0..n * n {
            assert_eq!(y[i], x[i % n * n + i / n]);
        }
        assert_eq!(report.counts.bank_conflicts, 0);
    }
}

#[test]
fn a_pipelined_product_on_the_matrix_unit() {
    let module = Module::parse(GEMM).unwrap();
    for (seed, (m, n, k)) in [(64, 64, 64), (100, 72, 40), (1, 130, 200)].iter().enumerate()
    {
        let (m, n, k) = (*m, *n, *k);
        let mut memory = Memory::new();
        let value = |i: usize, step: usize| ((i * step) % 13) as f32 - 6.0;
        let a: Vec<f32> = (0..m * k).map(|i| value(i, 7)).collect();
        let b: Vec<f32> = (0..n * k).map(|i| value(i, 5)).collect();
        let bits = |list: &[f32]| list.iter().map(|&x| bf16(x)).collect::<Vec<u16>>();
        let pa = upload(&mut memory, "a", &bits(&a), u16::to_le_bytes);
        let pb = upload(&mut memory, "b", &bits(&b), u16::to_le_bytes);
        let pc = memory.alloc(4 * (m * n) as u64, "c");
        let params = Params::new().u64(pa).u64(pb).u64(pc);
        let launch = Launch {
            grid: [n.div_ceil(64) as u32, m.div_ceil(64) as u32, 1],
            block: [128, 1, 1],
            shared_bytes: 3 * 8192,
            params: params.i32(m as i32).i32(n as i32).i32(k as i32).u32(0).build(),
            seed: seed as u64,
            ..Launch::new("gemm")
        };
        let report = clean(&module, &mut memory, &launch);
        let c = floats(&memory, pc, m * n);
        for row in 0..m {
            for column in 0..n {
                let wanted: f32 = (0..k).map(|i| a[row * k + i] * b[column * k + i]).sum();
                assert_eq!(c[row * n + column], wanted, "{row} {column}");
            }
        }
        let tiles = (n.div_ceil(64) * m.div_ceil(64) * k.div_ceil(32)) as u64;
        let flops = tiles * 2 * 64 * 64 * 32;
        assert_eq!(report.counts.flops_of(Unit::TensorBF16), flops);
        assert_eq!(report.counts.distinct_sectors_read, sectors(m * k) + sectors(n * k));
        assert_eq!(report.counts.bank_conflicts, 0);
    }
}

/// Sectors of a tensor of 16-bit elements.
fn sectors(elements: usize) -> u64 {
    (2 * elements).div_ceil(32) as u64
}

#[test]
fn a_cache_keeps_what_fits() {
    let module = Module::parse(BASIC).unwrap();
    let run = |l2_bytes: u64| {
        let mut memory = Memory::new();
        let x = upload(&mut memory, "x", &vec![1.0f32; 256 * 256], f32::to_le_bytes);
        let y = memory.alloc(4 * 256 * 256, "y");
        let launch = Launch {
            grid: [8, 8, 1],
            block: [32, 8, 1],
            shared_bytes: 33 * 32 * 4,
            params: Params::new().u64(x).u64(y).i32(256).build(),
            options: Options { l2_bytes: Some(l2_bytes), ..Options::default() },
            ..Launch::new("transpose")
        };
        clean(&module, &mut memory, &launch).counts
    };
    let counts = run(1 << 20);
    assert_eq!(counts.dram_sectors_read, Some(counts.distinct_sectors_read));
    assert_eq!(counts.dram_sectors_written, Some(counts.distinct_sectors_written));
}

/// Two blocks that read the same 32 MiB: with a cache of 2 MiB each byte comes from DRAM about once, since blocks share
/// a GPU's bandwidth and stay near each other.
#[test]
fn blocks_that_read_the_same_stay_near_each_other() {
    const BYTES: u64 = 32 << 20;
    let text = format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 x)\n{{\n\
         .reg .pred %p;\n.reg .b32 %r<5>;\n.reg .b64 %q<4>;\n.reg .b32 %sum;\n\
         ld.param.u64 %q1, [x];\nmov.u32 %r1, %tid.x;\nmul.wide.u32 %q2, %r1, 16;\n\
         add.s64 %q1, %q1, %q2;\nmov.u32 %r2, 0;\nAGAIN:\n\
         ld.global.v4.u32 {{%r1, %r3, %r4, %sum}}, [%q1];\nadd.s64 %q1, %q1, 512;\n\
         add.u32 %r2, %r2, 512;\nsetp.lt.u32 %p, %r2, {BYTES};\n@%p bra AGAIN;\nret;\n}}\n"
    );
    let module = Module::parse(&text).unwrap();
    for seed in 0..3 {
        let mut memory = Memory::new();
        let x = memory.alloc(BYTES, "x");
        memory.fill(x, BYTES, 1);
        let launch = Launch {
            grid: [2, 1, 1],
            block: [32, 1, 1],
            params: Params::new().u64(x).build(),
            seed,
            options: Options { l2_bytes: Some(2 << 20), resident: 2, ..Options::default() },
            ..Launch::new("k")
        };
        let counts = clean(&module, &mut memory, &launch).counts;
        let (read, asked) = (counts.dram_sectors_read.unwrap(), counts.sectors_read);
        assert_eq!((counts.distinct_sectors_read, asked), (BYTES / 32, 2 * BYTES / 32));
        let times = read as f64 / (BYTES / 32) as f64;
        assert!((1.0..1.05).contains(&times), "seed {seed}: read {times:.3} times");
    }
}
