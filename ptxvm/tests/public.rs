//! Kernels as people write them, compiled by NVRTC: functions, printing, cooperative groups,
//! pipelines. Their sources and how they were compiled are in `ptx/public`.

mod common;

use common::{clean, floats, kinds, replace, upload, words};
use ptxvm::{Fault, FindingKind, Launch, Memory, Module, Params, Report};

const FUNCTIONS: &str = include_str!("ptx/public/functions.ptx");
const SAY: &str = include_str!("ptx/public/say.ptx");
const GROUPS: &str = include_str!("ptx/public/groups.ptx");
const PIPE: &str = include_str!("ptx/public/pipe.ptx");
const FORMATS: &str = include_str!("ptx/public/formats.ptx");
const SCAN: &str = include_str!("ptx/public/scan.ptx");
const MISC: &str = include_str!("ptx/public/misc.ptx");

fn doubles(memory: &Memory, address: u64, count: usize) -> Vec<f64> {
    let bytes = memory.read(address, 8 * count);
    bytes.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
}

fn launch(entry: &str, blocks: u32, threads: u32, params: Params) -> Launch<'_> {
    Launch {
        grid: [blocks, 1, 1],
        block: [threads, 1, 1],
        params: params.build(),
        ..Launch::new(entry)
    }
}

#[test]
fn functions_that_take_and_give_structures() {
    let module = Module::parse(FUNCTIONS).unwrap();
    for seed in 0..3 {
        let mut memory = Memory::new();
        let x: Vec<f32> = (0..100).map(|i| i as f32 / 4.0).collect();
        let px = upload(&mut memory, "x", &x, f32::to_le_bytes);
        let py = memory.alloc(800, "y");
        let params = Params::new().u64(px).u64(py).i32(100);
        clean(&module, &mut memory, &Launch { seed, ..launch("functions", 2, 64, params) });
        for (i, got) in doubles(&memory, py, 100).into_iter().enumerate() {
            let a = (0..i & 3).fold(x[i], |v, _| v * 1.5 + 1.0);
            let wanted = if i % 2 == 1 {
                f64::from(x[i] - i as f32) + (2 * i) as f64
            } else {
                f64::from(a) + f64::from(x[i] + i as f32)
            };
            assert_eq!(got, wanted, "{i}");
        }
    }
}

#[test]
fn functions_through_pointers() {
    let module = Module::parse(FUNCTIONS).unwrap();
    let mut memory = Memory::new();
    let x: Vec<f32> = (0..50).map(|i| i as f32 / 16.0).collect();
    let px = upload(&mut memory, "x", &x, f32::to_le_bytes);
    let py = memory.alloc(200, "y");
    let params = Params::new().u64(px).u64(py).i32(50);
    clean(&module, &mut memory, &launch("pointers", 1, 64, params));
    for (i, got) in floats(&memory, py, 50).into_iter().enumerate() {
        assert_eq!(got, [x[i] + 2.0, x[i] * 2.0, x[i].max(2.0)][i % 3]);
    }
    let py = memory.alloc(80, "areas");
    let params = Params::new().u64(py).i32(20);
    clean(&module, &mut memory, &launch("virtuals", 1, 32, params));
    for (i, got) in floats(&memory, py, 20).into_iter().enumerate() {
        let side = i as f32;
        assert_eq!(got, if i % 2 == 1 { side * side } else { 3.0 * side * side });
    }
}

#[test]
fn a_pointer_that_is_no_function() {
    let text = replace(FUNCTIONS, "{_Z4plusff, _Z5timesff, _Z4mostff}", 0, "{0, 0, 0}");
    let module = Module::parse(&text).unwrap();
    let mut memory = Memory::new();
    let px = upload(&mut memory, "x", &[1.0f32; 32], f32::to_le_bytes);
    let params = Params::new().u64(px).u64(px).i32(32);
    let outcome = module.launch(&mut memory, &launch("pointers", 1, 32, params));
    assert_eq!(kinds(&outcome), [FindingKind::BadOperand]);
}

#[test]
fn recursion_is_refused_for_its_kernel_only() {
    let module = Module::parse(FUNCTIONS).unwrap();
    let refused: Vec<_> = module.refused().collect();
    assert_eq!(refused.len(), 1);
    let (name, error) = refused[0];
    assert_eq!(name, "recursive");
    assert!(error.message.contains("recursion is not implemented"), "{error}");
    assert!(error.message.contains("_Z5depthi calls _Z5depthi"), "{error}");
    assert!(module.kernels().all(|name| name != "recursive"));
    let params = Params::new().u64(0);
    let outcome =
        module.launch(&mut Memory::new(), &launch("recursive", 1, 32, params)).unwrap_err();
    assert_eq!(outcome.cause.kind, FindingKind::BadLaunch);
    assert!(outcome.cause.detail.contains("recursion"), "{outcome}");
}

#[test]
fn what_is_printed_is_in_order() {
    let module = Module::parse(SAY).unwrap();
    for seed in 0..4 {
        let params = Params::new().i32(255).bytes(8, &1.5f64.to_le_bytes());
        let launch = Launch { seed, ..launch("say", 2, 48, params) };
        let report = clean(&module, &mut Memory::new(), &launch);
        let text: Vec<String> = report.printed.iter().map(|p| p.text.clone()).collect();
        let line = |block: usize, thread: usize| {
            format!(
                "block {block} thread {thread:2}: {:5.2} text {} 1099511627776 0xff %\n",
                1.5 * thread as f64,
                ["a", "b"][block],
            )
        };
        assert_eq!(
            text,
            [
                "no arguments\n".to_owned(),
                line(0, 3),
                line(0, 19),
                line(0, 35),
                line(1, 3),
                line(1, 19),
                line(1, 35),
            ]
        );
        assert_eq!(
            (report.printed[4].block, report.printed[4].thread),
            ([1, 0, 0], [3, 0, 0])
        );
    }
}

fn judged(entry: &str, x: &[i32]) -> Result<Report, Fault> {
    let module = Module::parse(SAY).unwrap();
    let mut memory = Memory::new();
    let px = upload(&mut memory, "x", x, i32::to_le_bytes);
    let py = memory.alloc(4 * x.len() as u64, "y");
    let params = Params::new().u64(px).u64(py);
    module.launch(&mut memory, &launch(entry, 1, x.len() as u32, params))
}

#[test]
fn assertions_and_traps() {
    let fine: Vec<i32> = (0..64).collect();
    let mut wrong = fine.clone();
    wrong[45] = -3;
    for (entry, kind) in [("asserts", FindingKind::Assertion), ("traps", FindingKind::Trap)]
    {
        assert_eq!(kinds(&judged(entry, &fine)), []);
        let fault = judged(entry, &wrong).unwrap_err();
        assert_eq!((fault.cause.kind, fault.cause.thread), (kind, [45, 0, 0]), "{fault}");
    }
    let fault = judged("asserts", &wrong).unwrap_err();
    let wanted = "say.cu:12: asserts: assertion 'v >= 0' failed";
    assert_eq!(fault.cause.detail, wanted);
    assert_eq!(fault.cause.source, Some(("say.cu".to_owned(), 12)));
}

#[test]
fn groups_of_threads() {
    let module = Module::parse(GROUPS).unwrap();
    for seed in 0..3 {
        let mut memory = Memory::new();
        let x: Vec<i32> = (0..96).map(|i| i * 7 % 31 - 9).collect();
        let px = upload(&mut memory, "x", &x, i32::to_le_bytes);
        let py = memory.alloc(4 * 96, "y");
        let params = Params::new().u64(px).u64(py);
        clean(&module, &mut memory, &Launch { seed, ..launch("groups", 1, 96, params) });
        for (i, got) in words(&memory, py, 96).into_iter().enumerate() {
            let warp = &x[i / 32 * 32..][..32];
            let sum: i32 = warp.iter().sum();
            let most = x[i / 8 * 8..][..8].iter().max().unwrap();
            let scan: i32 = warp[..=i % 32].iter().sum();
            let odd: i32 = warp.iter().filter(|v| **v & 1 != 0).sum();
            let odd = if x[i] & 1 != 0 { odd } else { 0 };
            assert_eq!(got as i32, sum + 3 * most + 5 * scan + 7 * odd + 32, "{i}");
        }
    }
}

#[test]
fn a_barrier_of_a_cooperative_grid() {
    let module = Module::parse(GROUPS).unwrap();
    for seed in 0..3 {
        let mut memory = Memory::new();
        let x: Vec<i32> = (0..64 * 10).collect();
        let px = upload(&mut memory, "x", &x, i32::to_le_bytes);
        let (parts, py) = (memory.alloc(40, "parts"), memory.alloc(4 * 640, "y"));
        let params = Params::new().u64(px).u64(parts).u64(py);
        let plain = Launch { seed, ..launch("grid_sum", 10, 64, params) };
        let together = Launch { cooperative: true, ..plain.clone() };
        clean(&module, &mut memory, &together);
        assert_eq!(words(&memory, py, 640), [x.iter().sum::<i32>() as u32; 640]);
        // CUDA's own code traps where the launch is not cooperative.
        let outcome = module.launch(&mut memory, &plain);
        assert!(kinds(&outcome).contains(&FindingKind::Trap));
    }
}

#[test]
fn pipelines_and_barriers() {
    let module = Module::parse(PIPE).unwrap();
    for seed in 0..4 {
        let mut memory = Memory::new();
        let x: Vec<f32> = (0..128 * 5).map(|i| i as f32).collect();
        let px = upload(&mut memory, "x", &x, f32::to_le_bytes);
        let py = memory.alloc(4 * 128, "y");
        let params = Params::new().u64(px).u64(py).i32(5);
        clean(&module, &mut memory, &Launch { seed, ..launch("piped", 1, 128, params) });
        for (t, got) in floats(&memory, py, 128).into_iter().enumerate() {
            assert_eq!(got, (0..5).map(|i| x[i * 128 + 127 - t]).sum::<f32>());
        }
        let params = Params::new().u64(px).u64(py);
        clean(&module, &mut memory, &Launch { seed, ..launch("waited", 1, 128, params) });
        for (t, got) in floats(&memory, py, 128).into_iter().enumerate() {
            assert_eq!(got, x[127 - t]);
        }
        let x: Vec<u32> = (0..128).map(|i| i * i).collect();
        let px = upload(&mut memory, "integers", &x, u32::to_le_bytes);
        let py = memory.alloc(4 * 384, "y");
        let params = Params::new().u64(px).u64(py);
        clean(&module, &mut memory, &Launch { seed, ..launch("barred", 1, 128, params) });
        for (t, got) in words(&memory, py, 384).into_iter().enumerate() {
            assert_eq!(got, x[(t + 1) % 128] + t as u32 / 128);
        }
    }
}

#[test]
fn small_formats() {
    let module = Module::parse(FORMATS).unwrap();
    let mut memory = Memory::new();
    let x: Vec<f32> = (0..32).map(|i| (i as f32 - 16.0) * 1.25).collect();
    let px = upload(&mut memory, "x", &x, f32::to_le_bytes);
    let [e4, e5] = ["e4", "e5"].map(|name| memory.alloc(32, name));
    let py = memory.alloc(128, "y");
    let params = Params::new().u64(px).u64(e4).u64(e5).u64(py);
    clean(&module, &mut memory, &launch("eights", 1, 32, params));
    for (x, got) in x.iter().zip(floats(&memory, py, 32)) {
        // Three and two bits of the fraction are kept.
        let wanted = 2.0 * x;
        assert!((got - wanted).abs() <= x.abs() * (0.0625 + 0.125), "{x}: {got}");
    }
    assert_eq!(memory.read(e4, 32)[16], 0);
    assert_eq!(memory.read(e4, 32)[20], 0x4a); // 5 = 1.25 x 4
    assert_eq!(memory.read(e5, 32)[20], 0x45);
    let ones = upload(&mut memory, "ones", &[0x3f80_4000u32; 32], u32::to_le_bytes);
    let params = Params::new().u64(ones).u64(py);
    clean(&module, &mut memory, &launch("brains", 1, 32, params));
    // 2 * 2 + (2 + 3) and 1 * 1 + (1 + 3).
    assert_eq!(words(&memory, py, 1), [0x40a0_4110]);
    let ones = upload(&mut memory, "halves", &[0x4000_3c00u32; 32], u32::to_le_bytes);
    let params = Params::new().u64(ones).u64(py);
    clean(&module, &mut memory, &launch("halves", 1, 32, params));
    // 1.5 + 2 and 2 + 4.
    assert_eq!(words(&memory, py, 1), [0x4600_4300]);
}

#[test]
fn scans_of_a_block() {
    let module = Module::parse(SCAN).unwrap();
    for seed in 0..3 {
        let mut memory = Memory::new();
        let x: Vec<i64> = (0..256).map(|i| (i * i % 91 - 40) << 33).collect();
        let px = upload(&mut memory, "x", &x, i64::to_le_bytes);
        let py = memory.alloc(8 * 256, "y");
        let params = Params::new().u64(px).u64(py);
        let asked = launch("scan_long", 2, 128, params);
        clean(&module, &mut memory, &Launch { seed, ..asked });
        let got = memory.read(py, 8 * 256);
        for (i, got) in got.chunks(8).enumerate() {
            let wanted: i64 = x[i / 128 * 128..=i].iter().sum();
            assert_eq!(i64::from_le_bytes(got.try_into().unwrap()), wanted, "{i}");
        }
    }
}

#[test]
fn variables_that_point_to_others() {
    let module = Module::parse(MISC).unwrap();
    let mut memory = Memory::new();
    let py = memory.alloc(4 * 16, "y");
    let params = Params::new().u64(py);
    clean(&module, &mut memory, &launch("globals", 1, 16, params));
    for (i, got) in words(&memory, py, 16).into_iter().enumerate() {
        let weight = [1, 2, 3, 4, 5, 0, 0, 0][i & 7];
        let letter = ["zero", "one\0"][i & 1].as_bytes()[i & 3];
        assert_eq!(got, weight + 5 + u32::from(letter), "{i}");
    }
    let (name, error) = module.refused().next().unwrap();
    assert_eq!(name, "heap");
    assert!(error.message.contains("call of 'malloc'"), "{error}");
}

#[test]
fn functions_of_the_mathematics_library() {
    let module = Module::parse(MISC).unwrap();
    let mut memory = Memory::new();
    let x: Vec<f32> = (0..32).map(|i| i as f32 / 7.0 - 2.0).collect();
    let u: Vec<f64> = (0..32).map(|i| f64::from(i) / 5.0 - 3.0).collect();
    let px = upload(&mut memory, "x", &x, f32::to_le_bytes);
    let pu = upload(&mut memory, "u", &u, f64::to_le_bytes);
    let (py, pv) = (memory.alloc(128, "y"), memory.alloc(256, "v"));
    let params = Params::new().u64(px).u64(py).u64(pu).u64(pv);
    clean(&module, &mut memory, &launch("maths", 1, 32, params));
    for (u, got) in u.iter().zip(doubles(&memory, pv, 32)) {
        let wanted = u.sin() + u.exp() / (1.0 + u * u) + u.abs().powf(1.7);
        assert!(
            (got - wanted).abs() <= 4e-15 * wanted.abs().max(1.0),
            "{u}: {got} {wanted}"
        );
    }
    for (&x, got) in x.iter().zip(floats(&memory, py, 32)) {
        let wanted = x.sin() + x.exp() * (x.abs() + 1.0).powf(0.3) + x % 0.7;
        // erff is left out of what is expected, and is at most 1.
        assert!((got - wanted).abs() <= 1.00001, "{x}: {got} {wanted}");
    }
}

/// The table of the README: each mistake and what it is called here.
#[test]
fn every_mistake_has_its_name() {
    use FindingKind::*;
    let module = Module::parse(include_str!("ptx/public/mistakes.ptx")).unwrap();
    let readme = include_str!("../README.md");
    for (entry, kind) in [
        ("past_the_end", OutOfBounds),
        ("misaligned", Misaligned),
        ("past_shared", OutOfBounds),
        ("no_barrier", SharedRace),
        ("unwritten_global", Uninitialised),
        ("unwritten_shared", Uninitialised),
        ("divergent_barrier", BarrierDivergence),
        ("blocks_race", GlobalRace),
        ("never_arrives", Deadlock),
    ] {
        let row = format!("`{entry}` | `{kind:?}`");
        assert!(readme.contains(&row), "the README's table lacks: {row}");
        for seed in 0..3 {
            let mut memory = Memory::new();
            let x = match entry {
                "unwritten_global" => memory.alloc(4 * 128, "x"),
                _ => upload(&mut memory, "x", &[1.0f32; 128], f32::to_le_bytes),
            };
            let y = memory.alloc(4 * 128, "y");
            let params = match entry {
                "past_the_end" => Params::new().u64(x).u64(y).i32(128),
                "blocks_race" | "never_arrives" => Params::new().u64(y),
                _ => Params::new().u64(x).u64(y),
            };
            let (blocks, threads) = match entry {
                "past_the_end" => (2, 96),
                "blocks_race" => (4, 32),
                "never_arrives" => (1, 32),
                _ => (1, 128),
            };
            let shared_bytes = if entry == "past_shared" { 512 } else { 0 };
            let asked = launch(entry, blocks, threads, params);
            let outcome =
                module.launch(&mut memory, &Launch { seed, shared_bytes, ..asked });
            let found = kinds(&outcome);
            assert!(found.contains(&kind), "{entry}, seed {seed}: {found:?}");
        }
    }
}
