use std::collections::BTreeSet;

use super::contract::OVERLAP;
use super::contract::testing::plan;
use super::outline::Outline;
use super::stream::VectorStream;
use super::*;
use crate::op::{Op, Problem};
use crate::toolchain::{Arch, Target};

#[test]
fn names_are_file_names_and_unique() {
    for (index, kernel) in KERNELS.iter().enumerate() {
        assert!(KERNELS[..index].iter().all(|other| other.name != kernel.name));
        if let Some(source) = kernel.source {
            assert!(source.starts_with("//"), "{} has no header", kernel.name);
            assert!(
                !source.contains("asm volatile"),
                "{}: asm belongs in ptx.cuh",
                kernel.name
            );
        }
        assert_eq!(Kernel::named(kernel.name).map(|k| k.name), Some(kernel.name));
    }
}

#[test]
fn a_wrong_name_is_refused_with_the_right_one() {
    let problem: Problem = "stream:access=read,bytes=128".parse().unwrap();
    let asked = |name| {
        Kernel::asked_for(name, &problem, Arch::SM_90).map(|found| found.kernel.name)
    };
    assert_eq!(asked("stream"), Ok("stream"));
    for wrong in ["gemm", "cpu_stream", ""] {
        assert!(asked(wrong).unwrap_err().0.contains("use `stream`"));
    }
}

#[test]
fn params_hold_what_a_slot_is_bound_to() {
    let read = "stream:access=read,bytes=1048576";
    let plan = plan::<VectorStream>(read, &Target::new(Arch::SM_90, 132));
    let bound = Bound::new(1, 0, [("source", 256), ("checksum", 512)])
        .with_scratch([("progress", 1024)]);
    let bytes = plan.launches[0].params.bytes(&bound);
    let words: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes[..56]);
    assert_eq!(words, [256, 0, 0, 512, 1024, 65536, 1]);
    // 65,536 vectors, one for each thread.
    assert_eq!((plan.launches[0].grid, plan.launches[0].block), ([128, 1, 1], [512, 1, 1]));
}

/// Passes are of the loop: neither a tile for each block nor bulk copies read twice.
#[test]
fn several_passes_are_read_by_blocks_that_stay() {
    let read = "stream:access=read,bytes=128 MiB,passes=7";
    let plan = plan::<VectorStream>(read, &Target::new(Arch::SM_90, 132));
    let bound = Bound::new(1, 0, [("source", 256), ("checksum", 512)])
        .with_scratch([("progress", 1024)]);
    let bytes = plan.launches[0].params.bytes(&bound);
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes[40..56]);
    assert_eq!((words, plan.launches[0].grid[0]), (vec![1 << 23, 0, 7, 0], 264));
    let own = format!("{read},reuse=own").parse().unwrap();
    let problem = read.parse().unwrap();
    for (name, says) in
        [("stream.one_tile", "not passes = 7"), ("stream_bulk", "use `stream`")]
    {
        let refusal = Kernel::asked_for(name, &own, Arch::SM_90).unwrap_err().0;
        assert!(refusal.contains(says), "{name}: {refusal}");
        let refusal = Kernel::asked_for(name, &problem, Arch::SM_90).unwrap_err().0;
        assert!(refusal.contains(says), "{name}: {refusal}");
    }
}

/// Every SM has as many blocks of own shares, and all of them where there is a line for each.
#[test]
fn own_shares_are_as_many_on_each_sm() {
    let target = Target::new(Arch::SM_90, 132);
    let of = |bytes: u64| {
        let read = format!("stream:access=read,bytes={bytes},passes=7,reuse=own");
        let launch = &plan::<VectorStream>(&read, &target).launches[0];
        assert!(launch.prefers_l1);
        (launch.grid[0], launch.block[0])
    };
    let shared = "stream:access=read,bytes=1 MiB,passes=7";
    assert!(!plan::<VectorStream>(shared, &target).launches[0].prefers_l1);
    assert_eq!(of(128), (1, 256));
    assert_eq!(of(100 * 128), (100, 256));
    for bytes in [264 * 128, 132 << 14, 132 * 98304, 1 << 30] {
        assert_eq!(of(bytes), (264, 256), "{bytes}");
    }
    // Another form, so that loads may stay in L1.
    let defines = |rest: &str| {
        let problem =
            format!("stream:access=read,bytes=1 MiB,passes=7{rest}").parse().unwrap();
        Kernel::asked_for("stream", &problem, Arch::SM_90).unwrap().defines.clone()
    };
    assert_ne!(defines(",reuse=own"), defines(""));
}

#[test]
fn a_triads_arrays_are_told_apart() {
    let triad = "stream:access=triad,bytes=3 GiB";
    let plan = plan::<VectorStream>(triad, &Target::new(Arch::SM_90, 132));
    let bound = Bound::new(1, 0, [("b", 256), ("c", 512), ("a", 768)])
        .with_scratch([("progress", 1024)]);
    let bytes = plan.launches[0].params.bytes(&bound);
    let words: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes[..56]);
    assert_eq!(words, [256, 512, 768, 0, 1024, 1 << 26, 1]);
    // A tile has 512 vectors of each array.
    let launch = &plan.launches[0];
    assert_eq!((launch.entry, launch.grid[0]), ("stream_triad", 1 << 17));
}

/// Bytes that all blocks of an SM have in flight, for every launch.
pub(super) fn bytes_in_flight_per_sm(configured: &Configured) -> Vec<u64> {
    let arch = configured.arch;
    let blocks = configured.defines.0.iter().find(|(name, _)| *name == "BLOCKS_PER_SM");
    // The blocks of an SM that the source is compiled for. A kernel without the macro fills
    // an SM with one block.
    let blocks: u64 = blocks.map_or(1, |(_, value)| value.parse().unwrap());
    let plan = configured.plan(&Target::new(arch, arch.usual_sms()));
    plan.launches.iter().map(|launch| blocks * launch.bytes_in_flight).collect()
}

/// Little's law: 4.8 TB/s times 0.8 us are 29 KB for each of 132 SMs. Twice that
/// leaves room for blocks that begin, end or wait for one another.
#[test]
fn memory_bound_kernels_have_enough_bytes_in_flight() {
    let mut looked_at = 0;
    let mut names = BTreeSet::new();
    for text in memory_bound_points() {
        let problem: Problem = text.parse().unwrap();
        // Many heads of latent attention are wgmma's; there the portable kernel is for GPUs
        // with less bandwidth.
        let is_latent = problem.op() == Op::MlaDecode;
        let kernels = Kernel::all_for(&problem, Arch::SM_90);
        for configured in kernels.into_iter().take(if is_latent { 1 } else { usize::MAX }) {
            names.insert(configured.kernel.name);
            for bytes in bytes_in_flight_per_sm(&configured) {
                let name = configured.kernel.name;
                // Warps that wait for nobody begin, end and wait apart.
                let is_apart =
                    configured.defines.0.contains(&("WARP_RING", "1".to_owned()));
                let least = if is_apart { 48 << 10 } else { 64 << 10 };
                assert!(bytes >= least, "{name} for {text}: {bytes}");
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 300, "only {looked_at} launches");
    for kernel in KERNELS.iter().filter(|kernel| kernel.memory_bound) {
        assert!(names.contains(kernel.name), "no point of {} was looked at", kernel.name);
    }
}

/// One of each shape that decides how memory-bound kernels are compiled.
fn memory_bound_points() -> Vec<String> {
    let mut points = Vec::new();
    for access in ["read", "write", "copy", "triad"] {
        points.extend(
            ["24 MiB", "3 GiB"].map(|b| format!("stream:access={access},bytes={b}")),
        );
    }
    for w_dtype in ["bf16", "fp8_e4m3", "int8", "int4"] {
        let weights = format!("n=4096,k=8192,dtype=bf16,w_dtype={w_dtype}");
        points.extend((1..=64).map(|m| format!("gemm:m={m},{weights}")));
        points.push(format!("gemm:m=1,n=32768,k=8192,dtype=bf16,w_dtype={w_dtype}"));
        points.push(format!(
            "moe_gemm:tokens=64,experts=64,top_k=8,{weights},routing=balanced"
        ));
    }
    for layout in ["contiguous", "paged1", "paged16", "paged128", "paged16_nhd"] {
        let cache = format!("batch=32,context=8192,kv_heads=8,layout={layout}");
        for kv_dtype in ["bf16", "fp8_e4m3", "int8"] {
            points.push(format!("kv_read:{cache},head_dim=128,dtype={kv_dtype}"));
            let formats = format!("dtype=bf16,kv_dtype={kv_dtype}");
            if layout != "contiguous" {
                points.push(format!("kv_append:{cache},head_dim=128,{formats}"));
            }
            for head_dim in [64, 80, 96, 128, 256] {
                for q_heads in [8, 32, 64, 128, 256] {
                    points.push(format!(
                        "decode_attention:{cache},q_heads={q_heads},head_dim={head_dim},\
                         {formats}"
                    ));
                }
            }
        }
    }
    // 128 heads are past the ridge.
    for layout in ["contiguous", "paged64"] {
        for kv_dtype in ["bf16", "fp8_e4m3"] {
            points.extend([16, 64].map(|q_heads| {
                format!(
                    "mla_decode:batch=64,context=8192,q_heads={q_heads},dtype=bf16,\
                     kv_dtype={kv_dtype},layout={layout}"
                )
            }));
        }
    }
    for n in [1024, 4096, 8192] {
        points.extend(["false", "true"].map(|residual| {
            format!("rmsnorm:m=65536,n={n},dtype=bf16,residual={residual}")
        }));
    }
    points.extend(["touched", "whole"].map(|pages| {
        format!(
            "rope_append:batch=512,context=8192,q_heads=32,kv_heads=8,head_dim=128,dtype=bf16,\
             layout=paged16,pages={pages}"
        )
    }));
    points.push("embedding:m=65536,vocab=128256,n=4096,dtype=bf16".to_owned());
    points.push("argmax:m=64,n=128256,dtype=bf16".to_owned());
    points.push("gated_activation:m=65536,n=14336,dtype=bf16".to_owned());
    points
}

/// Some of each shape that decides how kernels are compiled that memory does not bind.
fn compute_bound_points() -> Vec<String> {
    let mut points = Vec::new();
    let scales = [
        "dtype=bf16",
        "dtype=bf16,a_dtype=fp8_e4m3_token,w_dtype=fp8_e4m3",
        "dtype=bf16,a_dtype=int8_token,w_dtype=int8",
    ];
    for formats in scales {
        for m in [64, 128, 256, 512, 1000, 8192] {
            points.push(format!("gemm:m={m},n=4096,k=4096,{formats}"));
        }
        for (tokens, experts) in [(64, 8), (512, 64), (4096, 8)] {
            points.push(format!(
                "moe_gemm:tokens={tokens},experts={experts},top_k=2,n=2048,k=4096,{formats},\
                 routing=zipf,rows=contiguous,inputs=per_expert"
            ));
        }
    }
    points.push("rmsnorm:m=64,n=128,dtype=bf16".to_owned());
    for widths in
        ["head_dim=64", "head_dim=128", "head_dim=192,v_head_dim=128", "head_dim=256"]
    {
        for rest in ["new_tokens=64", "new_tokens=8192", "new_tokens=8192,causal=false"] {
            points.push(format!(
                "prefill_attention:batch=2,{rest},q_heads=32,kv_heads=8,{widths},dtype=bf16"
            ));
        }
    }
    for unit in ["unit=fma,dtype=f32", "unit=tensor,dtype=bf16"] {
        points.extend(
            [77, 8448, 67584].map(|lanes| format!("peak:{unit},lanes={lanes},steps=1024")),
        );
    }
    points
}

#[test]
fn tiles_in_flight_are_counted_for_every_kernel() {
    let target = Target::new(Arch::SM_90, 132);
    for (text, bytes) in [
        // Threads times vectors of each; tokens of a tile, keys and values.
        ("stream:access=read,bytes=32 MiB", 512 * 8 * 16),
        ("stream:access=read,bytes=1 GiB", 512 * 8 * 16),
        ("stream:access=write,bytes=1 GiB", 512 * 2 * 16),
        ("peak:unit=fma,dtype=f32,lanes=4096,steps=16", 0),
        ("kv_read:batch=1,context=99,kv_heads=1,head_dim=128,dtype=bf16", 2 * 64 * 256),
        ("kv_read:batch=1,context=99,kv_heads=1,head_dim=80,dtype=bf16", 2 * 102 * 160),
    ] {
        let problem: Problem = text.parse().unwrap();
        let plan = Kernel::for_problem(&problem, Arch::SM_90).unwrap().plan(&target);
        assert_eq!(plan.launches[0].bytes_in_flight, bytes, "{text}");
    }
}

#[test]
fn a_problem_of_another_operation_is_refused() {
    let problem: Problem = "stream:access=read,bytes=128".parse().unwrap();
    for kernel in KERNELS.iter().filter(|kernel| kernel.op != problem.op()) {
        let refusal = kernel.configure(&problem, Arch::SM_90).unwrap_err();
        assert!(refusal.0.contains("not stream; use another kernel"), "{refusal}");
    }
}

/// Nothing that a source is compiled with depends on the size of the GPU: a plan for
/// another one is a plan for the same code.
#[test]
fn plans_are_made_for_the_architecture_that_is_configured() {
    let problem: Problem = "stream:access=read,bytes=32 MiB".parse().unwrap();
    let configured = Kernel::for_problem(&problem, Arch::SM_90).unwrap();
    let blocks = |sms| configured.plan(&Target::new(Arch::SM_90, sms)).launches[0].grid[0];
    assert_eq!((blocks(114), blocks(132)), (228, 264));
    let other =
        std::panic::AssertUnwindSafe(|| configured.plan(&Target::new(Arch::SM_80, 1)));
    assert!(std::panic::catch_unwind(other).is_err());
}

/// What no kernel scales is refused by all of them, with the scheme and what to use.
#[test]
fn schemes_without_a_kernel_are_refused() {
    let gemm = "gemm:m=1,n=256,k=256,dtype=bf16";
    let experts =
        "moe_gemm:tokens=2,experts=4,top_k=2,n=256,k=256,dtype=bf16,routing=balanced";
    let append =
        "kv_append:batch=1,context=64,kv_heads=1,head_dim=128,dtype=bf16,layout=paged16";
    let decode =
        "decode_attention:batch=1,context=64,q_heads=4,kv_heads=1,head_dim=128,dtype=bf16";
    let prefill = "prefill_attention:batch=1,new_tokens=64,q_heads=4,kv_heads=1,head_dim=128,dtype=bf16";
    let mut cases = Vec::new();
    for (scheme, instead) in [
        ("fp8_e4m3_tensor", "fp8_e4m3"),
        ("fp8_e4m3_block128x128", "fp8_e4m3"),
        ("mxfp8", "fp8_e4m3"),
        ("int8_tensor", "int8"),
        ("int4_g32", "int4"),
        ("int4_g128_zp", "int4"),
        ("mxfp4", "int4"),
        ("nvfp4", "int4"),
    ] {
        for op in [gemm, experts] {
            cases.push((format!("{op},w_dtype={scheme}"), scheme, instead));
        }
    }
    for scheme in ["fp8_e4m3_block1x128", "nvfp4", "int8_token"] {
        cases.push((format!("{gemm},a_dtype={scheme}"), scheme, "bf16"));
    }
    for (op, instead) in [
        (append, "kv_dtype = fp8_e4m3,"),
        (decode, "use one of those"),
        (prefill, "use bf16"),
    ] {
        cases.push((format!("{op},kv_dtype=fp8_e4m3_tensor"), "fp8_e4m3_tensor", instead));
    }
    for (text, scheme, instead) in cases {
        let problem: Problem = text.parse().unwrap();
        for kernel in KERNELS.iter().filter(|kernel| kernel.op == problem.op()) {
            let refusal = kernel.configure(&problem, Arch::SM_90).err();
            let why = refusal.unwrap_or_else(|| panic!("{} runs {text}", kernel.name)).0;
            assert!(why.contains(scheme), "{text}: {why}");
            // Kernels of equal formats name no other scheme of weights.
            let is_tiled = matches!(kernel.name, "gemm" | "gemm_wgmma" | "moe_gemm_wgmma")
                && text.contains("w_dtype");
            assert!(is_tiled || why.contains(instead), "{text}: {why}");
        }
    }
}

/// A parameter that a host half does not read would make a configuration that is the default
/// by another name, which a tuner would measure and could not tell from it.
#[test]
fn every_configuration_is_another_way_to_run_some_problem() {
    // Short caches are divided in another way than long ones.
    let short = [128, 256, 640, 1024, 8192].map(|context| {
        format!(
            "decode_attention:batch=8,context={context},q_heads=32,kv_heads=8,head_dim=128,\
             dtype=bf16"
        )
    });
    let latents =
        ["batch=8,context=256", "batch=128,context=16384", "batch=1,context=32768"].map(
            |cache| {
                ["16", "64", "128"].map(|q_heads| {
                    format!("mla_decode:{cache},q_heads={q_heads},dtype=bf16")
                })
            },
        );
    let problems: Vec<Problem> = memory_bound_points()
        .iter()
        .chain(&compute_bound_points())
        .chain(&short)
        .chain(latents.as_flattened())
        .chain(&[String::from(
            "mla_decode:batch=128,context=4096,q_heads=64,dtype=bf16,kv_dtype=fp8_e4m3",
        )])
        .map(|text| text.parse().unwrap())
        .collect();
    let target = Target::new(Arch::SM_90, Arch::SM_90.usual_sms());
    for kernel in KERNELS {
        let (mut names, mut seen) = (BTreeSet::new(), Vec::new());
        for configuration in kernel.configurations() {
            let name = configuration.name;
            assert!(names.insert(name), "{} has {name} twice", kernel.name);
            let spelled = format!("{}.{name}", kernel.name);
            assert!(spelled.parse::<crate::point::KernelName>().is_ok(), "{spelled}");
            let parameters = configuration.parameters.iter();
            let different: BTreeSet<&str> = parameters.map(|(name, _)| *name).collect();
            assert_eq!(different.len(), configuration.parameters.len(), "{spelled}");
            let of_kernel = problems.iter().filter(|problem| problem.op() == kernel.op);
            let ways = of_kernel.filter_map(|problem| {
                let found = kernel.configure_as(problem, Arch::SM_90, configuration);
                found.ok().map(|configured| Outline::of(&configured, problem, &target))
            });
            let ways: Vec<Outline> = ways.collect();
            assert!(!configuration.is_default() || name == "default");
            if kernel.configurations().count() > 1 {
                assert!(!ways.is_empty(), "{spelled} runs no problem");
                assert!(!seen.contains(&ways), "{spelled} is another one by another name");
                seen.push(ways);
            }
        }
    }
}

/// A launch that may begin before the one before it has ended must wait for it, in every
/// function, before it reads or writes anything.
#[test]
fn kernels_whose_launches_may_overlap_wait_for_the_one_before() {
    let mut checked = 0;
    let target = Target::new(Arch::SM_90, Arch::SM_90.usual_sms());
    let problems: Vec<Problem> = memory_bound_points()
        .iter()
        .chain(&compute_bound_points())
        .map(|text| text.parse().unwrap())
        .collect();
    for kernel in KERNELS {
        let programmatic = kernel.configurations().find(|c| c.overlaps_launches());
        let Some(programmatic) = programmatic else { continue };
        let source = kernel.source.unwrap();
        let waiting = source.matches("\n  overlap_previous();\n").count();
        assert!(waiting > 0, "{}", kernel.name);
        assert_eq!(waiting, source.matches("\nKERNEL(").count(), "{}", kernel.name);
        // That nothing else is read before is for the virtual machine to say.
        if kernel.configurations().any(Configuration::fetches_ahead) {
            let file = kernel.file().unwrap();
            let mut texts = file.headers.iter().map(|(_, text)| *text).chain([file.text]);
            let waits = |text: &str| text.contains(" overlap_after_weights();\n");
            assert!(texts.any(waits), "{}", kernel.name);
        }
        for problem in problems.iter().filter(|problem| problem.op() == kernel.op) {
            let of = |arch, choice| kernel.configure_as(problem, arch, choice);
            let Ok(found) = of(Arch::SM_90, programmatic) else { continue };
            assert!(found.defines.has(OVERLAP), "{}: {problem}", kernel.name);
            let plan = found.plan(&target);
            let overlap = |planned: PlannedLaunch| planned.launch.overlaps_previous;
            assert!(plan.overlaps_runs && plan.all_launches().all(overlap), "{problem}");
            let default = of(Arch::SM_90, Configuration::DEFAULT).unwrap();
            assert!(!default.plan(&target).overlaps_runs, "{problem}");
            if of(Arch::SM_89, Configuration::DEFAULT).is_ok() {
                let why = of(Arch::SM_89, programmatic).unwrap_err().0;
                assert!(why.contains("from sm_90 on"), "{why}");
            }
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked} problems");
}

/// Where the default is one of the others, it is not measured against itself.
#[test]
fn candidates_are_told_apart() {
    let target = Target::new(Arch::SM_90, 132);
    let names = |text: &str, kernel: &str| -> Vec<&str> {
        let problem: Problem = text.parse().unwrap();
        let all = Kernel::candidates(&problem, &target).into_iter();
        all.filter(|c| c.kernel == kernel).map(|c| c.configuration.name).collect()
    };
    let rings = |n: u64| names(&format!("gemm:m=4,n={n},k=8192,dtype=bf16"), "gemm_skinny");
    let others = ["by_rows", "runs_512", "runs_1024"];
    assert_eq!(
        rings(4096),
        [
            &["default"],
            &others[..],
            &["warp_rings", "warp_rings_tall", "programmatic", "weights_ahead"]
        ]
        .concat()
    );
    let tall = [
        &["default"],
        &others[..],
        &["warp_rings_1024", "warp_rings_tall", "programmatic", "weights_ahead"],
    ]
    .concat();
    assert_eq!(rings(32768), tall);
    let tiles = names("gemm:m=4096,n=8192,k=8192,dtype=bf16", "gemm_wgmma");
    assert!(
        tiles.len() > 3 && !tiles.contains(&"tile_128x256_shared_b"),
        "{}",
        tiles.join(" ")
    );
}

#[test]
fn a_configuration_is_found_by_its_name_or_refused_with_those_that_there_are() {
    let problem: Problem = "stream:access=read,bytes=1 GiB".parse().unwrap();
    let asked = |name| Kernel::asked_for(name, &problem, Arch::SM_90);
    let default = asked("stream.default").unwrap();
    assert_eq!(default.configuration, Configuration::DEFAULT);
    let other = asked("stream").unwrap();
    let target = Target::new(Arch::SM_90, 132);
    let outline = |configured: &Configured| Outline::of(configured, &problem, &target);
    assert_eq!(outline(&default), outline(&other));
    let why = asked("stream.no_such").unwrap_err().0;
    assert!(why.contains("no configuration `no_such`; it has default"), "{why}");
}
