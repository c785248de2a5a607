//! Kernels of sm_90 as NVRTC compiled them: copies by mbarrier, wgmma, clusters.

mod common;

use common::{bf16, caught, clean, floats, kinds, replace, upload, words};
use ptxvm::{
    Fault, FindingKind, Launch, Memory, Module, OutOfBoundsFill, Params, Report, Swizzle,
    TensorElement, TensorMap, Unit,
};

const HOPPER: &str = include_str!("ptx/hopper.ptx");

/// A matrix of 16-bit elements as a tensor map with boxes of 64 columns.
fn map(address: u64, columns: usize, rows: usize, box_rows: u32) -> TensorMap {
    TensorMap {
        element: TensorElement::BF16,
        address,
        dims: vec![columns as u64, rows as u64],
        strides: vec![2 * columns as u64],
        box_dims: vec![64, box_rows],
        swizzle: Swizzle::Bytes128,
        fill: OutOfBoundsFill::Zero,
    }
}

/// The matrices of a 64 x 64 product over `k`, and what it should be.
struct Product {
    memory: Memory,
    params: Vec<u8>,
    c: u64,
    wanted: Vec<f32>,
}

fn product(k: usize, transposed: bool) -> Product {
    let mut memory = Memory::new();
    let a: Vec<f32> = (0..64 * k).map(|i| ((i * 7) % 13) as f32 - 6.0).collect();
    let b: Vec<f32> = (0..64 * k).map(|i| ((i * 5) % 11) as f32 - 5.0).collect();
    let bits = |list: &[f32]| list.iter().map(|&x| bf16(x)).collect::<Vec<u16>>();
    let pa = upload(&mut memory, "a", &bits(&a), u16::to_le_bytes);
    let pb = upload(&mut memory, "b", &bits(&b), u16::to_le_bytes);
    let c = memory.alloc(4 * 64 * 64, "c");
    let (columns, rows) = if transposed { (64, k) } else { (k, 64) };
    let (map_a, map_b) = (map(pa, k, 64, 64), map(pb, columns, rows, 64));
    let mut wanted = vec![0.0; 64 * 64];
    for (at, sum) in wanted.iter_mut().enumerate() {
        let (m, n) = (at / 64, at % 64);
        let b_at = |i: usize| if transposed { b[i * 64 + n] } else { b[n * k + i] };
        *sum = (0..k).map(|i| a[m * k + i] * b_at(i)).sum();
    }
    let params = Params::new()
        .bytes(64, &map_a.encode().unwrap())
        .bytes(64, &map_b.encode().unwrap())
        .u64(c)
        .i32(k as i32)
        .build();
    Product { memory, params, c, wanted }
}

impl Product {
    fn run(&mut self, text: &str, entry: &str, seed: u64) -> Result<Report, Fault> {
        let module = Module::parse(text).unwrap();
        let launch = Launch {
            block: [256, 1, 1],
            shared_bytes: 2 * 16384,
            params: self.params.clone(),
            seed,
            ..Launch::new(entry)
        };
        module.launch(&mut self.memory, &launch)
    }
}

#[test]
fn a_warp_specialised_product() {
    for seed in 0..4 {
        for (entry, transposed) in [("product_nt", false), ("product_nn", true)] {
            let mut product = product(320, transposed);
            let report = product.run(HOPPER, entry, seed);
            assert_eq!(kinds(&report), [], "{entry}");
            assert_eq!(
                floats(&product.memory, product.c, 64 * 64),
                product.wanted,
                "{entry}"
            );
            let counts = report.unwrap().counts;
            assert_eq!(counts.flops_of(Unit::TensorBF16), 2 * 64 * 64 * 320);
            assert_eq!(counts.distinct_sectors_read, 2 * 64 * 320 * 2 / 32);
            assert_eq!(counts.global_read_bytes, 2 * 64 * 320 * 2);
        }
    }
}

#[test]
fn a_product_with_a_in_registers() {
    let module = Module::parse(HOPPER).unwrap();
    let mut memory = Memory::new();
    let value = |i: usize, step: usize| ((i * step) % 9) as f32 - 4.0;
    let half = |x: f32| {
        // Small integers are exact in f16: build the bits by hand.
        let sign = if x < 0.0 { 0x8000u16 } else { 0 };
        match x.abs() as u32 {
            0 => 0,
            n => {
                let top = 31 - n.leading_zeros();
                let fraction = (n << (10 - top)) & 0x3ff;
                sign | ((top + 15) << 10) as u16 | fraction as u16
            }
        }
    };
    let a: Vec<f32> = (0..64 * 16).map(|i| value(i, 7)).collect();
    let b: Vec<f32> = (0..8 * 16).map(|i| value(i, 5)).collect();
    let bits = |list: &[f32]| list.iter().map(|&x| half(x)).collect::<Vec<u16>>();
    let pa = upload(&mut memory, "a", &bits(&a), u16::to_le_bytes);
    let pb = upload(&mut memory, "b", &bits(&b), u16::to_le_bytes);
    let c = memory.alloc(4 * 64 * 8, "c");
    let launch = Launch {
        block: [128, 1, 1],
        params: Params::new().u64(pa).u64(pb).u64(c).build(),
        ..Launch::new("product_rs")
    };
    clean(&module, &mut memory, &launch);
    for (at, got) in floats(&memory, c, 64 * 8).into_iter().enumerate() {
        let (m, n) = (at / 8, at % 8);
        let wanted: f32 = (0..16).map(|k| a[m * 16 + k] * b[n * 16 + k]).sum();
        assert_eq!(got, wanted, "{m} {n}");
    }
}

#[test]
fn a_product_of_bytes() {
    let module = Module::parse(HOPPER).unwrap();
    let mut memory = Memory::new();
    let a: Vec<i8> = (0..64 * 32).map(|i| (i * 37 % 251) as u8 as i8).collect();
    let b: Vec<i8> = (0..8 * 32).map(|i| (i * 91 % 241) as u8 as i8).collect();
    let pa = upload(&mut memory, "a", &a, i8::to_le_bytes);
    let pb = upload(&mut memory, "b", &b, i8::to_le_bytes);
    let c = memory.alloc(4 * 64 * 8, "c");
    let map = |address: u64, rows: u64| TensorMap {
        element: TensorElement::U8,
        dims: vec![32, rows],
        strides: vec![32],
        box_dims: vec![32, rows as u32],
        swizzle: Swizzle::Bytes32,
        ..map(address, 0, 0, 0)
    };
    let launch = Launch {
        block: [128, 1, 1],
        params: Params::new()
            .bytes(64, &map(pa, 64).encode().unwrap())
            .bytes(64, &map(pb, 8).encode().unwrap())
            .u64(c)
            .build(),
        ..Launch::new("product_s8")
    };
    let report = clean(&module, &mut memory, &launch);
    for (at, got) in words(&memory, c, 64 * 8).into_iter().enumerate() {
        let (m, n) = (at / 8, at % 8);
        let product = |k: usize| i32::from(a[m * 32 + k]) * i32::from(b[n * 32 + k]);
        assert_eq!(got as i32, (0..32).map(product).sum::<i32>(), "{m} {n}");
    }
    assert_eq!(report.counts.flops_of(Unit::TensorInt8), 2 * 64 * 8 * 32);
}

fn bulk_copy(text: &str, seed: u64) -> Result<(Report, Vec<u32>), Fault> {
    let module = Module::parse(text).unwrap();
    let mut memory = Memory::new();
    let x: Vec<u32> = (0..1024).collect();
    let px = upload(&mut memory, "x", &x, u32::to_le_bytes);
    let py = memory.alloc(4096, "y");
    let launch = Launch {
        grid: [4, 1, 1],
        block: [64, 1, 1],
        params: Params::new().u64(px).u64(py).build(),
        seed,
        ..Launch::new("bulk_copy")
    };
    let report = module.launch(&mut memory, &launch)?;
    Ok((report, words(&memory, py, 1024)))
}

#[test]
fn rows_by_bulk_copies() {
    for seed in 0..4 {
        let (report, y) = bulk_copy(HOPPER, seed).unwrap();
        assert_eq!(report.findings, []);
        assert_eq!(y, (1..=1024).collect::<Vec<u32>>());
        assert_eq!(report.counts.distinct_sectors_written, 128);
    }
}

#[test]
fn boxes_over_the_edge() {
    let module = Module::parse(HOPPER).unwrap();
    // 70 x 10 x 3 elements of 16 bits, boxes of 64 x 16 x 4. A store may not begin before
    // the tensor.
    for (x, y, z) in [(0, 0, 0), (32, 4, 1), (8, 3, 2), (64, 8, 2), (104, 0, 0)] {
        let mut memory = Memory::new();
        let values: Vec<u16> = (1..=72 * 10 * 3).collect();
        let from = upload(&mut memory, "from", &values, u16::to_le_bytes);
        let to = memory.alloc(72 * 10 * 3 * 2, "to");
        memory.write(to, &vec![0; 72 * 10 * 3 * 2]);
        let map = |address: u64, swizzle: Swizzle| TensorMap {
            element: TensorElement::U16,
            address,
            dims: vec![70, 10, 3],
            strides: vec![144, 1440],
            box_dims: vec![64, 16, 4],
            swizzle,
            fill: OutOfBoundsFill::Zero,
        };
        let swizzle = if x % 64 == 0 { Swizzle::Bytes128 } else { Swizzle::None };
        let launch = Launch {
            block: [32, 1, 1],
            params: Params::new()
                .bytes(64, &map(from, swizzle).encode().unwrap())
                .bytes(64, &map(to, swizzle).encode().unwrap())
                .i32(x)
                .i32(y)
                .i32(z)
                .build(),
            ..Launch::new("box")
        };
        clean(&module, &mut memory, &launch);
        let bytes = memory.read(to, 72 * 10 * 3 * 2);
        for (at, got) in bytes.chunks(2).enumerate() {
            let (i, j, k) = ((at % 72) as i32, (at / 72 % 10) as i32, (at / 720) as i32);
            let inside = i < 70
                && (x..x + 64).contains(&i)
                && (y..y + 16).contains(&j)
                && (z..z + 4).contains(&k);
            let wanted = if inside { values[at] } else { 0 };
            assert_eq!(u16::from_le_bytes([got[0], got[1]]), wanted, "{i} {j} {k}");
        }
    }
}

#[test]
fn sums_through_distributed_shared_memory() {
    let module = Module::parse(HOPPER).unwrap();
    for seed in 0..4 {
        let mut memory = Memory::new();
        let x: Vec<u32> = (0..256).collect();
        let px = upload(&mut memory, "x", &x, u32::to_le_bytes);
        let py = memory.alloc(8, "y");
        let launch = Launch {
            grid: [8, 1, 1],
            block: [32, 1, 1],
            cluster: [4, 1, 1],
            params: Params::new().u64(px).u64(py).build(),
            seed,
            ..Launch::new("cluster_sum")
        };
        clean(&module, &mut memory, &launch);
        let sum = |part: &[u32]| part.iter().sum::<u32>();
        assert_eq!(words(&memory, py, 2), [sum(&x[..128]), sum(&x[128..])]);
    }
}

#[test]
fn one_copy_for_two_blocks() {
    let module = Module::parse(HOPPER).unwrap();
    for seed in 0..4 {
        let mut memory = Memory::new();
        let x: Vec<u32> = (7..71).collect();
        let px = upload(&mut memory, "x", &x, u32::to_le_bytes);
        let py = memory.alloc(512, "y");
        let map = TensorMap {
            element: TensorElement::U32,
            dims: vec![64],
            strides: vec![],
            box_dims: vec![32],
            swizzle: Swizzle::None,
            ..map(px, 0, 0, 0)
        };
        let launch = Launch {
            grid: [2, 1, 1],
            block: [32, 1, 1],
            params: Params::new().bytes(64, &map.encode().unwrap()).u64(py).build(),
            seed,
            ..Launch::new("multicast")
        };
        let report = clean(&module, &mut memory, &launch);
        assert_eq!(words(&memory, py, 128), [x.clone(), x].concat());
        assert_eq!(report.counts.global_read_bytes, 256, "each half is read once");
        assert_eq!(report.counts.async_bytes, 512);
    }
}

fn store_tile(text: &str, seed: u64) -> Result<(Report, Vec<u32>), Fault> {
    let module = Module::parse(text).unwrap();
    let mut memory = Memory::new();
    let x: Vec<u32> = (0..128).map(|i| i * 0x0001_0001).collect();
    let px = upload(&mut memory, "x", &x, u32::to_le_bytes);
    let py = memory.alloc(512, "y");
    let map = TensorMap {
        element: TensorElement::U16,
        dims: vec![16, 16],
        strides: vec![32],
        box_dims: vec![16, 16],
        swizzle: Swizzle::None,
        ..map(py, 0, 0, 0)
    };
    let launch = Launch {
        block: [32, 1, 1],
        params: Params::new().bytes(64, &map.encode().unwrap()).u64(px).build(),
        seed,
        ..Launch::new("store_tile")
    };
    let report = module.launch(&mut memory, &launch)?;
    Ok((report, words(&memory, py, 128)))
}

#[test]
fn a_fragment_through_shared_memory() {
    let (report, y) = store_tile(HOPPER, 0).unwrap();
    assert_eq!(report.findings, []);
    for (at, got) in y.into_iter().enumerate() {
        // Word c of row r: matrix (r / 8) + 2 (c / 4) holds it at lane 4 (r % 8) + c % 4.
        let (r, c) = (at as u32 / 8, at as u32 % 8);
        let (matrix, lane) = (r / 8 + 2 * (c / 4), 4 * (r % 8) + c % 4);
        assert_eq!(got, (lane * 4 + matrix) * 0x0001_0001, "{r} {c}");
    }
}

// Planted bugs.

fn nt(text: String) -> impl Fn(u64) -> Result<Report, Fault> {
    move |seed| product(320, false).run(&text, "product_nt", seed)
}

/// The text with a change within one kernel.
#[track_caller]
fn within(entry: &str, from: &str, n: usize, to: &str) -> String {
    let at = HOPPER.find(&format!(".entry {entry}(")).unwrap();
    format!("{}{}", &HOPPER[..at], replace(&HOPPER[at..], from, n, to))
}

/// `product_nt` with every `from` replaced.
fn all_within_nt(from: &str, to: &str) -> String {
    let at = HOPPER.find(".entry product_nt(").unwrap();
    let end = HOPPER.find(".entry product_nn(").unwrap();
    format!("{}{}{}", &HOPPER[..at], HOPPER[at..end].replace(from, to), &HOPPER[end..])
}

#[test]
fn no_wait_for_a_product() {
    let from = "wgmma.wait_group.sync.aligned 0;";
    let text = within("product_nt", from, 0, "");
    // The stage is refilled while it is read: seen as it happens, or by its order.
    let of_a_race = [FindingKind::SharedRace, FindingKind::AsyncRace];
    for seed in 0..4 {
        let found = kinds(&nt(text.clone())(seed));
        assert!(found.iter().any(|kind| of_a_race.contains(kind)));
    }
    caught(nt(all_within_nt(from, "")), FindingKind::AccumulatorInFlight);
}

#[test]
fn a_wait_that_leaves_one_product() {
    let from = "wgmma.wait_group.sync.aligned 0;";
    let text = within("product_nt", from, 0, "wgmma.wait_group.sync.aligned 1;");
    for seed in 0..4 {
        assert!(!kinds(&nt(text.clone())(seed)).is_empty());
    }
}

#[test]
fn no_commit_of_a_product() {
    let text = within("product_nt", "wgmma.commit_group.sync.aligned;", 0, "");
    for seed in 0..4 {
        assert!(!kinds(&nt(text.clone())(seed)).is_empty());
    }
}

#[test]
fn no_fence_before_a_product() {
    let text = within("product_nt", "wgmma.fence.sync.aligned;", 0, "");
    caught(nt(text), FindingKind::MissingWgmmaFence);
}

#[test]
fn too_few_bytes_expected() {
    let text = within("product_nt", "16384;", 0, "8192;");
    for seed in 0..4 {
        assert!(!kinds(&nt(text.clone())(seed)).is_empty());
    }
}

#[test]
fn too_many_bytes_expected() {
    let text = within("product_nt", "16384;", 0, "16400;");
    for seed in 0..4 {
        assert!(!kinds(&nt(text.clone())(seed)).is_empty());
    }
}

#[test]
fn a_stage_that_is_never_freed() {
    let text = all_within_nt("mbarrier.arrive.shared::cta.b64 _, [", "// [");
    caught(nt(text), FindingKind::Deadlock);
}

#[test]
fn no_wait_for_the_copy() {
    let at = HOPPER.find(".entry bulk_copy(").unwrap();
    let tail = replace(&HOPPER[at..], "bra AGAIN;", 0, "");
    let text = format!("{}{tail}", &HOPPER[..at]);
    let run = |seed| bulk_copy(&text, seed).map(|(report, _)| report);
    for seed in 0..4 {
        assert!(!kinds(&run(seed)).is_empty());
    }
}

#[test]
fn no_proxy_fence() {
    let text = within("bulk_copy", "fence.proxy.async.shared::cta;", 0, "");
    let run = |seed| bulk_copy(&text, seed).map(|(report, _)| report);
    caught(run, FindingKind::MissingProxyFence);
    let text = within("store_tile", "fence.proxy.async.shared::cta;", 0, "");
    let run = |seed| store_tile(&text, seed).map(|(report, _)| report);
    caught(run, FindingKind::MissingProxyFence);
}

#[test]
fn no_fence_after_the_initialisation_of_an_mbarrier() {
    let fence = "fence.mbarrier_init.release.cluster;";
    let run = |with: &str| {
        let text = within("bulk_copy", fence, 0, with);
        move |seed| bulk_copy(&text, seed).map(|(report, _)| report)
    };
    caught(run(""), FindingKind::MissingProxyFence);
    caught(run("fence.acq_rel.cta;"), FindingKind::MissingProxyFence);
    caught(run("fence.proxy.async.global;"), FindingKind::MissingProxyFence);
    let fenced = run("fence.proxy.async.shared::cta;");
    assert!((0..4).all(|seed| kinds(&fenced(seed)).is_empty()));
}

#[test]
fn no_barrier_after_the_initialisation_of_an_mbarrier() {
    let text = within("bulk_copy", "bar.sync \t0;", 0, "");
    caught(|seed| bulk_copy(&text, seed).map(|(report, _)| report), FindingKind::Mbarrier);
}

#[test]
fn no_barrier_before_the_store() {
    let text = within("bulk_copy", "bar.sync \t0;", 1, "");
    let run = |seed| bulk_copy(&text, seed).map(|(report, _)| report);
    for seed in 0..4 {
        assert!(!kinds(&run(seed)).is_empty());
    }
    let text = within("store_tile", "bar.warp.sync \t-1;", 0, "");
    let run = |seed| store_tile(&text, seed).map(|(report, _)| report);
    caught(run, FindingKind::SharedRace);
}

#[test]
fn no_wait_for_the_store() {
    let text = within("bulk_copy", "cp.async.bulk.wait_group.read 0;", 0, "");
    let run = |seed| bulk_copy(&text, seed).map(|(report, _)| report);
    let found: Vec<_> = (0..8).flat_map(|seed| kinds(&run(seed))).collect();
    assert!(found.contains(&FindingKind::AsyncRace));
}

#[test]
fn an_mbarrier_without_an_initialisation() {
    let at = HOPPER.find(".entry bulk_copy(").unwrap();
    let end = HOPPER[at..].find("mbarrier.init.shared::cta.b64 ").unwrap() + at;
    let text = format!("{}// {}", &HOPPER[..end], &HOPPER[end..]);
    let run = |seed| bulk_copy(&text, seed).map(|(report, _)| report);
    caught(run, FindingKind::Mbarrier);
}

#[test]
fn a_warp_missing_from_its_group() {
    // The last warp of the consumers leaves before the products.
    let from = "setmaxnreg.inc.sync.aligned.u32 232;";
    let leave = format!(
        "{from}\n{{\n.reg .pred gone;\n.reg .b32 who;\nmov.u32 who, %tid.x;\n\
         setp.ge.u32 gone, who, 96;\n@gone ret;\n}}"
    );
    let text = within("product_nt", from, 0, &leave);
    caught(nt(text), FindingKind::BadOperand);
}

#[test]
fn tiles_from_block_to_block() {
    let module = Module::parse(HOPPER).unwrap();
    for seed in 0..4 {
        let mut memory = Memory::new();
        let x: Vec<u32> = (0..128).map(|i| i * 3).collect();
        let px = upload(&mut memory, "x", &x, u32::to_le_bytes);
        let py = memory.alloc(4 * 130, "y");
        let launch = Launch {
            grid: [2, 1, 1],
            block: [32, 1, 1],
            params: Params::new().u64(px).u64(py).build(),
            seed,
            ..Launch::new("pass_on")
        };
        clean(&module, &mut memory, &launch);
        let y = words(&memory, py, 130);
        assert_eq!((&y[..64], y[64]), (&x[64..], 1));
        assert_eq!((&y[65..129], y[129]), (&x[..64], 0));
    }
    // The tile is sent before the other block can take it.
    let at = HOPPER.find(".entry pass_on").unwrap();
    let text = HOPPER[at..].replacen("barrier.cluster.arrive.release.aligned;", "", 1);
    let text = text.replacen("barrier.cluster.wait.acquire.aligned;", "", 1);
    let module = Module::parse(&format!("{}{text}", &HOPPER[..at])).unwrap();
    let run = |seed| {
        let mut memory = Memory::new();
        let x = upload(&mut memory, "x", &[7u32; 128], u32::to_le_bytes);
        let y = memory.alloc(4 * 130, "y");
        let launch = Launch {
            grid: [2, 1, 1],
            block: [32, 1, 1],
            params: Params::new().u64(x).u64(y).build(),
            seed,
            ..Launch::new("pass_on")
        };
        module.launch(&mut memory, &launch)
    };
    let found: Vec<_> = (0..8).flat_map(|seed| kinds(&run(seed))).collect();
    assert!(!found.is_empty());
}

/// A prefetched row counts as traffic, whether it is read or not, and must be allocated.
#[test]
fn prefetched_rows() {
    let run = |bytes: u32, offset: u32| {
        let text = format!(
            ".version 8.0
             .target sm_90
             .address_size 64
             .visible .entry ask(.param .u64 rows)
             {{
                 .reg .b64 %q1, %q2;
                 .reg .b32 %r1;
                 ld.param.u64 %q1, [rows];
                 add.u64 %q2, %q1, {offset};
                 mov.u32 %r1, {bytes};
                 cp.async.bulk.prefetch.L2.global [%q2], %r1;
                 ret;
             }}"
        );
        let mut memory = Memory::new();
        let rows = memory.alloc(1024, "rows");
        let launch =
            Launch { params: Params::new().u64(rows).build(), ..Launch::new("ask") };
        Module::parse(&text).unwrap().launch(&mut memory, &launch)
    };
    let outcome = run(656, 16);
    assert_eq!(kinds(&outcome), []);
    let counts = outcome.unwrap().counts;
    assert_eq!((counts.distinct_sectors_read, counts.sectors_read), (21, 0));
    for (bytes, offset, kind) in [
        (1024, 16, FindingKind::OutOfBounds),
        (24, 0, FindingKind::BadOperand),
        (0, 0, FindingKind::BadOperand),
        (16, 8, FindingKind::Misaligned),
    ] {
        assert_eq!(kinds(&run(bytes, offset)), [kind], "{bytes} bytes at {offset}");
    }
}

/// A kernel in which one thread starts two copies, each with an mbarrier of its own (a and
/// b), and all threads wait for those in `waits`.
fn two_copies(waits: &str) -> String {
    let wait = |name: &str, barrier: u32| {
        format!(
            "{name}: mbarrier.try_wait.parity.shared::cta.b64 %p2, [bars+{barrier}], 0;
             @!%p2 bra {name};"
        )
    };
    let waits: String = waits
        .chars()
        .map(|n| match n {
            'a' => wait("A", 0),
            _ => wait("B", 8),
        })
        .collect();
    format!(
        ".version 8.0
         .target sm_90
         .address_size 64
         .visible .entry two(.param .u64 rows, .param .u64 out)
         {{
             .reg .pred %p<3>;
             .reg .b64 %q<4>;
             .reg .b32 %r<4>;
             .shared .align 128 .b8 tile[64];
             .shared .align 8 .b64 bars[2];
             ld.param.u64 %q1, [rows];
             ld.param.u64 %q2, [out];
             mov.u32 %r1, %tid.x;
             setp.eq.u32 %p1, %r1, 0;
             @!%p1 bra READY;
             mbarrier.init.shared::cta.b64 [bars], 1;
             mbarrier.init.shared::cta.b64 [bars+8], 1;
             fence.mbarrier_init.release.cluster;
             mbarrier.arrive.expect_tx.shared::cta.b64 _, [bars], 32;
             cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%q1], 32, [bars];
             mbarrier.arrive.expect_tx.shared::cta.b64 _, [bars+8], 32;
             cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile+32], [%q1], 32, [bars+8];
         READY:
             bar.sync 0;
             {waits}
             ld.shared.u32 %r2, [tile];
             st.global.u32 [%q2], %r2;
             ret;
         }}"
    )
}

/// Two copies, each with an mbarrier of its own. A wait for one of them does not order the
/// other, whichever completed first.
#[test]
fn no_wait_for_one_of_two_copies() {
    let outcome = |waits: &str, seed: u64| {
        let mut memory = Memory::new();
        let rows = upload(&mut memory, "rows", &[7u32; 8], u32::to_le_bytes);
        let out = memory.alloc(4, "out");
        let launch = Launch {
            block: [32, 1, 1],
            params: Params::new().u64(rows).u64(out).build(),
            seed,
            ..Launch::new("two")
        };
        Module::parse(&two_copies(waits)).unwrap().launch(&mut memory, &launch)
    };
    let of_a_copy = [FindingKind::SharedRace, FindingKind::AsyncRace];
    for seed in 0..20 {
        assert_eq!(kinds(&outcome("ab", seed)), [], "seed {seed}");
        assert_eq!(kinds(&outcome("a", seed)), [], "seed {seed}");
        let found = kinds(&outcome("b", seed));
        assert!(
            found.iter().any(|kind| of_a_copy.contains(kind)),
            "seed {seed}: {found:?}"
        );
    }
}

/// Threads copy 16 bytes each and arrive at an mbarrier when these have landed; `behind` the
/// wait for it another warp stores all by a bulk copy. A bulk copy that lands later has the
/// same mbarrier.
fn gathered(behind: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n\
         .visible .entry gather(.param .u64 rows, .param .u64 out) {{
             .reg .b64 %q<4>;
             .reg .b32 %r<8>;
             .reg .pred %p<4>;
             .shared .align 128 .b8 tile[544];
             .shared .align 8 .b64 full;
             ld.param.u64 %q1, [rows];
             ld.param.u64 %q2, [out];
             mov.u32 %r1, %tid.x;
             mov.u32 %r2, tile;
             setp.eq.u32 %p1, %r1, 0;
             @%p1 mbarrier.init.shared::cta.b64 [full], 33;
             @%p1 fence.mbarrier_init.release.cluster;
             bar.sync 0;
             setp.ge.u32 %p2, %r1, 32;
             @%p2 bra AGAIN;
             mad.lo.u32 %r3, %r1, 16, %r2;
             mad.wide.u32 %q3, %r1, 16, %q1;
             cp.async.cg.shared.global [%r3], [%q3], 16;
             @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], 32;
             @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile+512], [%q1], 32, [full];
             cp.async.mbarrier.arrive.noinc.shared::cta.b64 [full];
             ret;
         AGAIN:
             mbarrier.try_wait.parity.shared::cta.b64 %p3, [full], 0;
             @!%p3 bra AGAIN;
             {behind}
             setp.ne.u32 %p1, %r1, 32;
             @%p1 ret;
             cp.async.bulk.global.shared::cta.bulk_group [%q2], [tile], 544;
             cp.async.bulk.commit_group;
             cp.async.bulk.wait_group 0;
             ret;
         }}"
    )
}

/// What `cp.async` wrote is visible to the async proxy behind a fence by who has waited for
/// it, and not without one.
#[test]
fn no_proxy_fence_after_gathering() {
    let outcome = |behind: &str, seed: u64| {
        let mut memory = Memory::new();
        let data: Vec<u32> = (0..128).collect();
        let rows = upload(&mut memory, "rows", &data, u32::to_le_bytes);
        let out = memory.alloc(544, "out");
        let launch = Launch {
            block: [64, 1, 1],
            params: Params::new().u64(rows).u64(out).build(),
            seed,
            ..Launch::new("gather")
        };
        let run = Module::parse(&gathered(behind)).unwrap().launch(&mut memory, &launch);
        (run, words(&memory, out, 128), data)
    };
    for seed in 0..8 {
        let (run, found, wanted) = outcome("fence.proxy.async.shared::cta;", seed);
        assert!(kinds(&run).is_empty(), "{:?}", kinds(&run));
        assert_eq!(found, wanted);
    }
    let missing = FindingKind::MissingProxyFence;
    caught(|seed| outcome("", seed).0, missing);
    caught(|seed| outcome("fence.acq_rel.cta;", seed).0, missing);
    caught(|seed| outcome("fence.proxy.async.global;", seed).0, missing);
}
