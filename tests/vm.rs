//! The CUDA kernels executed on the PTX virtual machine and compared with the
//! reference: a spread of the suite `corners`, five launches under five
//! schedules each. All of it: `ridgepoint check corners --device vm`.

mod common;

use half::f16;
use rayon::prelude::*;
use ridgepoint::device::vm::{CountedGpu, VmDevice};
use ridgepoint::device::{Device, DeviceOptions, Layout};
use ridgepoint::kernel::{Configuration, KERNELS, Kernel, split_name};
use ridgepoint::measure::verify;
use ridgepoint::op::{DecodeStep, OfProblem, Op, Problem, Reuse, ShapeClass};
use ridgepoint::point::Point;
use ridgepoint::record::Status;
use ridgepoint::reference::{self, CheckVerdict};
use ridgepoint::suite::Suite;
use ridgepoint::toolchain::nvrtc::{Nvrtc, Source};
use ridgepoint::toolchain::{Arch, Compiler, CompilerOptions};
use ridgepoint::tuning::{TunedClass, Tuning, TuningTable};

/// One of so many points of each kernel is executed.
const STRIDE: usize = 9;

/// Larger points are left to the whole check.
const MOST_WORK: u64 = 60_000_000;

/// Inputs of all points.
const SEED: u64 = 1;

/// The points of `corners` that are executed: every ninth of a kernel, from
/// number `first` on, and its last.
fn spread(points: &[Point], first: usize) -> Vec<Point> {
    let mut chosen = Vec::new();
    for kernel in KERNELS {
        let of_kernel: Vec<&Point> = points
            .iter()
            .filter(|p| *p.kernel == *kernel.name)
            .filter(|p| p.problem.work().flops().max(p.problem.work().bytes()) < MOST_WORK)
            .collect();
        let every = of_kernel.iter().skip(first).step_by(STRIDE);
        chosen.extend(every.chain(of_kernel.last()).map(|point| (*point).clone()));
    }
    chosen
}

fn kernels_are_right_on(arch: Arch, first: usize) {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let device = VmDevice::open(arch, &DeviceOptions::default()).unwrap();
    let plan = Suite::load("corners").unwrap().plan(&device).unwrap();
    let points = spread(&plan.points, first);
    let per_thread = points.len().div_ceil(rayon::current_num_threads() * 4);
    let run = |points: &[Point]| -> Vec<(Point, Status, String)> {
        let mut device = VmDevice::open(arch, &DeviceOptions::default()).unwrap();
        let check = |point: &Point| {
            let outcome = verify(&mut device, point, SEED);
            (point.clone(), outcome.status, outcome.reason)
        };
        points.iter().map(check).collect()
    };
    let outcomes: Vec<_> = points.par_chunks(per_thread).flat_map_iter(run).collect();
    let wrong: Vec<_> = outcomes
        .iter()
        .filter(|(_, status, _)| matches!(status, Status::Wrong | Status::Failed))
        .map(|(point, _, why)| format!("{point}: {why}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let runs = |kernel: &'static Kernel| {
        let supported = |p: &Point| kernel.configure(&p.problem, arch).is_ok();
        plan.points.iter().filter(|p| *p.kernel == *kernel.name).any(supported)
    };
    for kernel in KERNELS.iter().filter(|kernel| runs(kernel)) {
        let right = outcomes.iter().filter(|(point, status, _)| {
            *point.kernel == *kernel.name && *status == Status::Ok
        });
        assert!(right.count() >= 3, "{} was hardly executed", kernel.name);
    }
}

#[test]
fn kernels_are_right_on_hopper() {
    kernels_are_right_on(Arch::SM_90, 0);
}

#[test]
fn kernels_are_right_on_ampere() {
    kernels_are_right_on(Arch::SM_80, 4);
}

/// Kernels promise the same bits whatever the order of warps and blocks: they add up
/// parts in the order of parts, whoever comes last.
#[test]
fn answers_do_not_depend_on_the_schedule() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let arch = Arch::SM_90;
    let device = VmDevice::open(arch, &DeviceOptions::default()).unwrap();
    let plan = Suite::load("corners").unwrap().plan(&device).unwrap();
    let points = spread(&plan.points, 2);
    let different: Vec<String> = points
        .par_iter()
        .filter(|point| point.problem.work().bytes() < 1 << 21)
        .filter_map(|point| {
            let mut device = VmDevice::open(arch, &DeviceOptions::default()).unwrap();
            let outputs =
                device.outputs(&point.problem, &point.kernel, (SEED, 4), 1.0).unwrap();
            (outputs.iter().any(|output| *output != outputs[0])).then(|| point.to_string())
        })
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// Attention whose scores reach several hundred: powers of them are beyond f32.
const MAGNIFIED: [(&str, &str); 12] = [
    (
        "attention_decode",
        "decode_attention:batch=2,context=700,q_heads=8,kv_heads=2,head_dim=128,dtype=bf16",
    ),
    (
        "attention_decode",
        "decode_attention:batch=1,context=3000,q_heads=3,kv_heads=3,head_dim=64,dtype=f16,\
         layout=paged16",
    ),
    (
        "attention_decode",
        "decode_attention:batch=1,context=900,q_heads=32,kv_heads=2,head_dim=128,\
         dtype=bf16,kv_dtype=fp8_e4m3,new_tokens=2",
    ),
    (
        "attention_prefill",
        "prefill_attention:batch=1,prefix=70,new_tokens=200,q_heads=4,kv_heads=2,\
         head_dim=128,dtype=bf16",
    ),
    (
        "attention_prefill_wgmma",
        "prefill_attention:batch=1,prefix=70,new_tokens=200,q_heads=4,kv_heads=2,\
         head_dim=128,dtype=bf16",
    ),
    // Weights are rounded to 8 bits, the largest to itself.
    (
        "attention_prefill_wgmma",
        "prefill_attention:batch=1,prefix=70,new_tokens=200,q_heads=4,kv_heads=2,\
         head_dim=128,dtype=bf16,q_dtype=fp8_e4m3,kv_dtype=fp8_e4m3",
    ),
    // Outputs are rescaled only where maxima grow by much.
    (
        "attention_prefill_wgmma",
        "prefill_attention:batch=1,prefix=300,new_tokens=70,q_heads=2,kv_heads=1,\
         head_dim=64,dtype=bf16",
    ),
    ("attention_mla", "mla_decode:batch=2,context=500,q_heads=16,dtype=bf16"),
    ("attention_mla_wgmma", "mla_decode:batch=2,context=500,q_heads=64,dtype=bf16"),
    // Splits of three clusters; of a last block.
    (
        "attention_decode.cluster4_three",
        "decode_attention:batch=2,context=900,q_heads=8,kv_heads=2,head_dim=128,dtype=bf16",
    ),
    (
        "attention_mla_wgmma.cluster8_two",
        "mla_decode:batch=1,context=1200,q_heads=64,dtype=bf16",
    ),
    (
        "attention_mla_wgmma.no_cluster",
        "mla_decode:batch=2,context=500,q_heads=64,dtype=bf16",
    ),
];

fn magnified(device: &mut VmDevice, kernel: &str, text: &str) -> Result<(), String> {
    let problem: Problem = text.parse().unwrap();
    let outputs = device.outputs(&problem, kernel, (SEED, 1), FACTOR);
    let outputs = outputs.map_err(|why| format!("{why:?}"))?;
    let check = reference::check_magnified(&problem, SEED, FACTOR, &outputs[0]).unwrap();
    if check.verdict == CheckVerdict::Pass { Ok(()) } else { Err(check.message) }
}

/// What queries are multiplied with: those in E4M3, which are below 1, stay below its 448.
const FACTOR: f32 = 256.0;

#[test]
fn softmax_takes_the_largest_score_off() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let open = || VmDevice::open(Arch::SM_90, &DeviceOptions::default()).unwrap();
    let wrong: Vec<String> = MAGNIFIED
        .par_iter()
        .filter_map(|(kernel, text)| {
            let why = magnified(&mut open(), kernel, text).err()?;
            Some(format!("{text} by {kernel}: {why}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // A softmax that only takes the largest score of each tile off for itself, or none,
    // passes with ordinary inputs, and not with these.
    let (kernel, text) = MAGNIFIED[0];
    let problem: Problem = text.parse().unwrap();
    let mut device = open();
    let ptx = device.ptx(&problem, kernel).unwrap();
    let hidden = ptx.lines().enumerate().filter(|(_, line)| line.contains("max.f32"));
    let seen_only_here = hidden.into_iter().any(|(at, line)| {
        let mut operands = line.split([',', ';']).map(str::trim);
        let d = operands.next().and_then(|first| first.split_whitespace().last()).unwrap();
        let zero = format!("mov.f32 {d}, 0f00000000;");
        let lines = ptx.lines().enumerate();
        let altered: Vec<&str> =
            lines.map(|(n, line)| if n == at { zero.as_str() } else { line }).collect();
        device.replace_ptx(&problem, kernel, &altered.join("\n")).unwrap();
        let ordinary = device.outputs(&problem, kernel, (SEED, 1), 1.0);
        let passes = ordinary.is_ok_and(|outputs| {
            let check = reference::check(&problem, SEED, 0, 0, &outputs[0]).unwrap();
            check.verdict == CheckVerdict::Pass
        });
        passes && magnified(&mut device, kernel, text).is_err()
    });
    assert!(seen_only_here);
}

/// Bugs of prompts that lie one behind the other, as another text in a kernel's source.
const RAGGED_BUGS: [(&str, &str, &str); 9] = [
    // The rows of a request's last tile are stored over those of the next request.
    ("attention_prefill_wgmma", "if (token < prompt.new_tokens) *re", "*re"),
    ("attention_prefill", "if (item.token + row < end_token)", ""),
    // The last tile ends where that of the longest request would.
    (
        "attention_prefill_wgmma",
        "min_of(prompt.context, token + prompt.reach)",
        "min_of(p.prompt.context, token + prompt.reach)",
    ),
    (
        "attention_prefill",
        "= i32(min_of(visible + r * 8, context))",
        "= i32(visible + r * 8)",
    ),
    // It is left out.
    (
        "attention_prefill_wgmma",
        "ceil_div<u32>(attended(p, prompt, last).end, KEYS)",
        "max_of<u32>(attended(p, prompt, last).end / KEYS, 1)",
    ),
    // Values in the room for longer requests are multiplied by weights of zero.
    ("attention_prefill_wgmma", "if (FP8 || !(PAGED || RAGGED)", "if (FP8 || !PAGED"),
    (
        "attention_prefill",
        "prompt.context - tile * KEYS);",
        "p.prompt.context - tile * KEYS);",
    ),
    // Rows of the first request.
    ("attention_prefill_wgmma", "item.prompt.row + item.token", "item.token"),
    ("attention_prefill", "u64(prompt.row + item.token) *", "u64(item.token) *"),
];

/// Three requests of 87, 43 and 114 new tokens, of 154, 76 and 202 keys.
const RAGGED: &str = "prefill_attention:batch=3,prefix=100,new_tokens=130,q_heads=2,kv_heads=1,\
                      head_dim=64,dtype=bf16,lengths=ragged";

/// Bugs of products of 8 bits.
const NARROW_BUGS: [(&str, &str, &str); 14] = [
    // Columns or keys of values, or keys of weights, in another order.
    ("attention_prefill_wgmma", "__byte_perm(a, b, 0x6420)", "__byte_perm(a, b, 0x7531)"),
    (
        "attention_prefill_wgmma",
        "u32(cvt_e4m3x2(x[4], x[5]))",
        "u32(cvt_e4m3x2(x[5], x[4]))",
    ),
    ("attention_prefill_wgmma", "__byte_perm(a, b, 0x7531)", "__byte_perm(b, a, 0x7531)"),
    ("attention_prefill_wgmma", "key / 16 + matrix / 2", "key / 16 + (matrix / 2 ^ 1)"),
    ("attention_prefill_wgmma", "(matrix % 2 * 8 + within)", "(matrix % 2 + within * 2)"),
    ("attention_prefill_wgmma", "(of_keys % chunks ^ within)", "(of_keys % chunks)"),
    // Weights so small that most are rounded to zero.
    ("attention_prefill_wgmma", "shift[h] -= WEIGHT_BITS", "shift[h] += WEIGHT_BITS"),
    // A mask that is off by one: the tolerance of rounded weights is not so wide.
    (
        "attention_prefill_wgmma",
        "end[h] = i32(keys.end - first)",
        "end[h] = i32(keys.end - first) + 1",
    ),
    ("attention_prefill_wgmma", "(FP8 ? scale_of(p.v_scale) : 1)", "1"),
    ("attention_prefill_wgmma", "* scale_of(p.k_scale)", ""),
    // Values in the room for longer requests are multiplied by weights of zero.
    ("attention_prefill_wgmma", "if (!(PAGED || RAGGED) || begin", "if (!PAGED || begin"),
    // Products begin before what they read has been transposed.
    (
        "attention_prefill_wgmma",
        "FP8 ? shared.transposed_full : shared.v_full",
        "shared.v_full",
    ),
    // Values are transposed over those that are multiplied.
    (
        "attention_prefill_wgmma",
        "wait(shared_address(&shared.transposed_empty[stage]), turn.parity() ^ 1);",
        "",
    ),
    // What threads stored is not yet seen by products.
    (
        "attention_prefill_wgmma",
        "fence_proxy_async_shared();\n        arrive(shared.transposed_full[stage]);",
        "arrive(shared.transposed_full[stage]);",
    ),
];

/// Up to 200 new tokens and 300 keys: more tiles than stages.
const NARROW: &str = "prefill_attention:batch=3,prefix=100,new_tokens=200,q_heads=2,kv_heads=1,\
                      head_dim=128,dtype=bf16,q_dtype=fp8_e4m3_tensor,\
                      kv_dtype=fp8_e4m3_tensor,lengths=ragged";

/// Those of planted bugs that no problem shows.
fn missed(bugs: &[(&str, &str, &str)], problem: &str) -> Vec<String> {
    let compiler = uncached();
    let is_noticed = |name: &str, right: &str, wrong: &str, rest: &str| {
        let kernel = KERNELS.iter().find(|kernel| kernel.name == name).unwrap();
        let source = kernel.file().unwrap();
        assert_eq!(source.text.matches(right).count(), 1, "{name}: {right}");
        let text = source.text.replace(right, wrong);
        let problem: Problem = format!("{problem},{rest}").parse().unwrap();
        assert!(passes(&mut hopper(), name, &problem, 1), "{name} without a bug");
        notices(&compiler, &Source { text: &text, ..source }, name, &problem, 1)
    };
    let is_missed = |(name, right, wrong): &&(&str, &str, &str)| {
        !["causal=true", "causal=false"]
            .iter()
            .any(|rest| is_noticed(name, right, wrong, rest))
    };
    bugs.par_iter().filter(is_missed).map(told).collect()
}

fn uncached() -> Compiler {
    Compiler::new(CompilerOptions { cache: None, ..CompilerOptions::default() }).unwrap()
}

fn hopper() -> VmDevice {
    VmDevice::open(Arch::SM_90, &DeviceOptions::default()).unwrap()
}

/// A bug, in words.
fn told((place, right, wrong): &(&str, &str, &str)) -> String {
    format!("{place}: `{right}` as `{wrong}`")
}

/// Whether the answers of so many runs are right.
fn passes(device: &mut VmDevice, name: &str, problem: &Problem, runs: usize) -> bool {
    device.outputs(problem, name, (SEED, runs), 1.0).is_ok_and(|outputs| {
        let is_right = |output: &Vec<u8>| {
            let check = reference::check(problem, SEED, 0, 0, output).unwrap();
            check.verdict == CheckVerdict::Pass
        };
        outputs.iter().all(is_right)
    })
}

/// Whether so many runs of a kernel, or of a configuration of one, show that its source is
/// another.
fn notices(
    compiler: &Compiler,
    planted: &Source<'_>,
    name: &str,
    problem: &Problem,
    runs: usize,
) -> bool {
    let (kernel, way) = split_name(name);
    let way = way.unwrap_or(Configuration::DEFAULT.name);
    let kernel = KERNELS.iter().find(|found| found.name == kernel).unwrap();
    let way = kernel.configurations().find(|found| found.name == way).unwrap();
    let defines = kernel.configure_as(problem, Arch::SM_90, way).unwrap().defines;
    let ptx = compiler.ptx(planted, &defines, Arch::SM_90).unwrap();
    let mut device = hopper();
    device.replace_ptx(problem, name, &ptx).unwrap();
    !passes(&mut device, name, problem, runs)
}

#[test]
fn bugs_of_prompts_of_several_lengths_are_noticed() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let missed = missed(&RAGGED_BUGS, RAGGED);
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn bugs_of_products_of_8_bits_are_noticed() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let missed = missed(&NARROW_BUGS, NARROW);
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// Bugs of combining in clusters, as another text of a kernel's source or of a header.
const CLUSTER_BUGS: [(&str, &str, &str); 19] = [
    // Results of other blocks are read before they have arrived, some or all of them; more are
    // waited for than arrive; those of the next rows are not waited for.
    ("split_kv.cuh", "wait(shared_address(&barriers.received), parity);", ""),
    ("split_kv.cuh", "cluster * ((slice.end", "(cluster - 1) * ((slice.end"),
    ("split_kv.cuh", "cluster * ((slice.end", "(cluster + 1) * ((slice.end"),
    ("split_kv.cuh", "(&barriers.received), parity)", "(&barriers.received), 0)"),
    // Results of this block arrive while another uses its ring, or has rows before to combine,
    // or has not made its mbarriers; or say that it has none.
    ("split_kv.cuh", "{ wait(shared_address(&barriers.ready), parity); }", "{}"),
    (
        "attention_decode",
        "    __syncthreads();\n    if (CLUSTER > 1) exchange.begin();",
        "    if (CLUSTER > 1) exchange.begin();\n    __syncthreads();",
    ),
    ("attention_decode", "if (CLUSTER > 1) barrier_cluster_wait();", ""),
    ("split_kv.cuh", "if (threadIdx.x == 0) init(cluster);", ""),
    // The slice of another block, or what another has given; one ticket for all slices; a
    // softmax only where a row begins.
    ("split_kv.cuh", "begin = min_of(rank * MOST", "begin = min_of((rank ^ 1) * MOST"),
    (
        "split_kv.cuh",
        "room.outputs[part][i - slice.begin]",
        "room.outputs[part ^ 1][i - slice.begin]",
    ),
    ("split_kv.cuh", "cluster + split.index % cluster;\n}", "cluster;\n}"),
    ("split_kv.cuh", "i == slice.begin || vector == 0", "vector == 0"),
    // What the blocks of other clusters have written is not waited for, not seen, or left out.
    ("last_block.cuh", "== blocks - 1", "<= blocks - 1"),
    ("ptx.cuh", "atom.global.acq_rel.gpu.add.u32", "atom.global.relaxed.gpu.add.u32"),
    (
        "split_kv.cuh",
        "u32 parts = split.count / cluster,",
        "u32 parts = split.count / cluster - 1,",
    ),
    // Weights are read before they are written.
    ("split_kv.cuh", "of_row[parts] = sum;\n  }\n  sync();", "of_row[parts] = sum;\n  }"),
    // The tickets of the next launch.
    ("last_block.cuh", "if (last) *ticket = 0;", ""),
    // Each row has its maximum taken off.
    (
        "split_kv.cuh",
        "weight_of(softmaxes[part].max, max, scale);\n        sum +=",
        "1;\n        sum +=",
    ),
    (
        "split_kv.cuh",
        "weight_of(softmax.max, max, scale);\n      sum +=",
        "1;\n      sum +=",
    ),
];

#[test]
fn bugs_of_combining_in_clusters_are_noticed() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    // Several clusters of a sequence; then one, and more rows than are exchanged at a time.
    let points = [
        (
            "attention_decode.cluster4_three",
            "decode_attention:batch=2,context=900,q_heads=3,kv_heads=1,head_dim=64,dtype=bf16",
        ),
        (
            "attention_decode.cluster4",
            "decode_attention:batch=2,context=900,q_heads=20,kv_heads=1,head_dim=64,dtype=bf16",
        ),
    ];
    let missed = missed_in_headers(&CLUSTER_BUGS, &points);
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// Bugs of tiles that are taken by a ticket, as another text of a header.
const TURN_BUGS: [(&str, &str, &str); 12] = [
    // The next launch finds no tiles; a tile is left out; tickets are left over.
    ("gemm_wgmma.cuh", "if (ticket == schedule.turns() - 1) *taken = 0;", ""),
    ("gemm_wgmma.cuh", "return clusters() + ticket;", "return clusters() + 1 + ticket;"),
    (
        "gemm_wgmma.cuh",
        "more = number < schedule.turns();",
        "more = number <= schedule.turns();",
    ),
    // A turn comes in the place of one that others still read, or is read before it comes.
    (
        "gemm_wgmma.cuh",
        "wait(shared_address(&turns.empty[slot.number]), slot.parity ^ 1);",
        "",
    ),
    (
        "gemm_wgmma.cuh",
        "mbarrier_init(shared_address(&empty[i]), READERS)",
        "mbarrier_init(shared_address(&empty[i]), READERS - 1)",
    ),
    ("gemm_wgmma.cuh", "if (whole_warp) __syncwarp();\n", "\n"),
    ("gemm_wgmma.cuh", "wait(shared_address(&turns.full[slot.number]), slot.parity);", ""),
    // The same of numbers that a block tells the other.
    ("gemm_wgmma.cuh", "wait_cluster(shared_address(&turns.told), told);", ""),
    ("gemm_wgmma.cuh", "wait_cluster(shared_address(&turns.heard), told ^ 1);", ""),
    (
        "gemm_wgmma.cuh",
        "      st_shared_cluster_v4(mapa(here, 1), {number});\n      mbarrier_arrive_cluster(mapa(shared_address(&turns.told), 1));",
        "      mbarrier_arrive_cluster(mapa(shared_address(&turns.told), 1));\n      st_shared_cluster_v4(mapa(here, 1), {number});",
    ),
    (
        "gemm_wgmma.cuh",
        "mbarrier_arrive_cluster(mapa(shared_address(&turns.heard), 0));",
        "",
    ),
    // Blocks of a cluster take turns of their own.
    (
        "gemm_wgmma.cuh",
        "if (rank_in_cluster() == 0) {\n      number",
        "if (true) {\n      number",
    ),
];

/// Clusters of two with splits, and with several whole tiles; then one block that gathers rows.
const TURNS: [(&str, &str); 3] = [
    ("gemm_wgmma.dynamic", "gemm:m=130,n=136,k=3080,dtype=bf16"),
    (
        "moe_gemm_wgmma",
        "moe_gemm:tokens=150,experts=3,top_k=2,n=1544,k=72,dtype=bf16,routing=zipf,\
         inputs=per_expert,rows=contiguous",
    ),
    (
        "moe_gemm_wgmma",
        "moe_gemm:tokens=150,experts=3,top_k=2,n=1544,k=72,dtype=bf16,routing=zipf",
    ),
];

#[test]
fn bugs_of_taking_tiles_are_noticed() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let missed = missed_in_headers(&TURN_BUGS, &TURNS);
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// Maxima that stay until a score exceeds them by far, so that outputs are not rescaled: rows
/// have several tiles. The default of narrow and of wide heads.
const LAZY: [(&str, &str); 2] = [
    (
        "attention_prefill_wgmma",
        "prefill_attention:batch=1,new_tokens=520,q_heads=1,kv_heads=1,head_dim=64,dtype=bf16",
    ),
    (
        "attention_prefill_wgmma.lazy",
        "prefill_attention:batch=1,new_tokens=520,q_heads=1,kv_heads=1,head_dim=128,dtype=bf16",
    ),
];

/// What of the drawn data no score exceeds, and what many maxima do: powers of two.
const BY_FAR: &str = "<= LAZY_BITS)";
const BY_LITTLE: &str = "<= 0.05f)";

/// Bugs of it.
const LAZY_BUGS: [(&str, &str, &str); 4] = [
    // Outputs are not rescaled, or those of every other row are not, or sums are not.
    (
        "attention_prefill_wgmma",
        "|| __any_sync(ALL_LANES, factors.of[0] != 1 || factors.of[1] != 1)",
        "",
    ),
    (
        "attention_prefill_wgmma",
        "factors.of[0] != 1 || factors.of[1] != 1",
        "factors.of[1] != 1",
    ),
    ("attention_prefill_wgmma", "sum[h] = sum[h] * factors.of[h] +", "sum[h] = sum[h] +"),
    // Scores are set off against the maximum that would have been.
    (
        "attention_prefill_wgmma",
        "shift[h] = new_max == minus_infinity() ? 0 : new_max * scale();",
        "shift[h] = fmaxf(new_max, max_of_quad(fmaxf(largest[h][0], largest[h][1]))) * scale();",
    ),
];

#[test]
fn maxima_may_stay_and_bugs_of_that_are_noticed() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let compiler = uncached();
    let is_noticed = |(name, text): &(&str, &str), right: &str, wrong: &str| {
        let (kernel, _) = split_name(name);
        let source = KERNELS.iter().find(|k| k.name == kernel).unwrap().file().unwrap();
        let both = [(BY_FAR, BY_LITTLE), (right, wrong)];
        let text_of = |text: String, (right, wrong): &(&str, &str)| {
            assert_eq!(text.matches(right).count(), 1, "{kernel}: {right}");
            text.replace(right, wrong)
        };
        let edited = both.iter().fold(source.text.to_owned(), text_of);
        notices(
            &compiler,
            &Source { text: &edited, ..source },
            name,
            &text.parse().unwrap(),
            1,
        )
    };
    for case in &LAZY {
        assert!(
            !is_noticed(case, BY_LITTLE, BY_LITTLE),
            "{} by {} without a bug",
            case.1,
            case.0
        );
    }
    let is_missed = |(kernel, right, wrong): &&(&str, &str, &str)| {
        let of_kernel = LAZY.iter().filter(|(name, _)| split_name(name).0 == *kernel);
        !of_kernel.clone().any(|case| is_noticed(case, right, wrong))
    };
    let missed: Vec<String> = LAZY_BUGS.par_iter().filter(is_missed).map(told).collect();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// Some of the blocks that take tiles by a ticket do the work of all: they are no sample.
#[test]
fn a_sample_of_blocks_that_take_tickets_is_refused() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let problem: Problem = "gemm:m=1024,n=1024,k=64,dtype=bf16".parse().unwrap();
    let mut device = VmDevice::open(Arch::SM_90, &DeviceOptions::default()).unwrap();
    let mut count = |kernel, one_of| {
        let gpu = CountedGpu { sms: 8, l2_bytes: None, l2_partitions: 1, one_of };
        device.count_on(&problem, kernel, gpu).map(|sampled| sampled.share)
    };
    let why = count("gemm_wgmma.dynamic", 4).unwrap_err().to_string();
    assert!(why.contains("use `gemm_wgmma.static`, or all blocks"), "{why}");
    assert!(count("gemm_wgmma.dynamic", 1).is_ok_and(|share| share == 1.0));
    assert!(count("gemm_wgmma.static", 4).is_ok_and(|share| share < 1.0));
}

/// Those of bugs that no case shows: a kernel or a configuration of one, and a problem.
fn missed_in_headers(bugs: &[(&str, &str, &str)], cases: &[(&str, &str)]) -> Vec<String> {
    // A launch leaves tickets behind, and blocks come in several orders.
    const RUNS: usize = 3;
    let compiler = uncached();
    let is_noticed = |bug: &(&str, &str, &str), (name, text): &(&str, &str)| {
        let (file, right, wrong) = *bug;
        let (kernel, _) = split_name(name);
        let kernel = KERNELS.iter().find(|found| found.name == kernel).unwrap();
        let source = kernel.file().unwrap();
        let edited = |name: &str, text: &str| match name == file {
            true => {
                assert_eq!(text.matches(right).count(), 1, "{file}: {right}");
                text.replace(right, wrong)
            }
            false => text.to_owned(),
        };
        let texts: Vec<(&str, String)> =
            source.headers.iter().map(|(name, text)| (*name, edited(name, text))).collect();
        let headers: Vec<_> =
            texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let main = edited(source.name, source.text);
        let planted = Source { text: &main, headers: &headers, ..source };
        notices(&compiler, &planted, name, &text.parse().unwrap(), RUNS)
    };
    for (name, text) in cases {
        let is_right = passes(&mut hopper(), name, &text.parse().unwrap(), RUNS);
        assert!(is_right, "{text} by {name} without a bug");
    }
    let is_missed =
        |bug: &&(&str, &str, &str)| !cases.iter().any(|case| is_noticed(bug, case));
    bugs.par_iter().filter(is_missed).map(told).collect()
}

/// A kernel that leaves out part of its work is found: the virtual machine as a
/// device is no better than what it catches.
#[test]
fn counts_are_the_models_where_nothing_is_padded() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let mut device = VmDevice::open(Arch::SM_90, &DeviceOptions::default()).unwrap();
    for (text, kernel) in [
        ("stream:access=read,bytes=1048576", "stream"),
        ("stream:access=write,bytes=1048576", "stream"),
        ("stream:access=copy,bytes=1048576", "stream"),
        ("stream:access=triad,bytes=1572864", "stream"),
        ("stream:access=read,bytes=1048704", "stream_bulk"),
        ("stream:access=write,bytes=1048704", "stream_bulk"),
        ("stream:access=copy,bytes=2097408", "stream_bulk"),
        ("kv_read:batch=2,context=1024,kv_heads=2,head_dim=128,dtype=bf16", "kv_read"),
        (
            "kv_read:batch=2,context=1024,kv_heads=2,head_dim=128,dtype=fp8_e4m3,\
             layout=paged16",
            "kv_read",
        ),
        (
            "kv_read:batch=2,context=512,kv_heads=8,head_dim=128,dtype=bf16,\
             layout=paged1_nhd",
            "kv_read",
        ),
        (
            "kv_read:batch=3,context=1000,kv_heads=8,head_dim=64,dtype=int8,\
             layout=paged64_nhd,lengths=ragged",
            "kv_read",
        ),
        (
            "kv_append:batch=64,context=999,new_tokens=1,kv_heads=8,head_dim=128,\
             dtype=bf16,layout=paged16",
            "kv_append",
        ),
        (
            "kv_append:batch=7,context=999,new_tokens=4,kv_heads=8,head_dim=128,dtype=bf16,\
             kv_dtype=fp8_e4m3,layout=paged16_nhd,lengths=ragged",
            "kv_append",
        ),
        ("gemm:m=128,n=512,k=256,dtype=bf16", "gemm"),
        ("gemm:m=256,n=512,k=256,dtype=bf16", "gemm_wgmma"),
        (
            "gemm:m=256,n=512,k=256,dtype=bf16,w_dtype=fp8_e4m3_block128x128,\
             a_dtype=fp8_e4m3_block1x128",
            "gemm_wgmma",
        ),
        ("peak:unit=fma,dtype=f32,lanes=32768,steps=16", "peak"),
        ("peak:unit=tensor,dtype=bf16,lanes=64,steps=16", "peak"),
        ("peak:unit=tensor,dtype=bf16,lanes=1024,steps=19", "peak_wgmma"),
    ] {
        let problem: Problem = text.parse().unwrap();
        let counted = device.count(&problem, kernel, SEED).unwrap();
        let work = problem.work();
        // The model does not count the sums of checksums, the starts, or scaling.
        let flops =
            if work.matrix_flops() > 0 { counted.tensor_flops() } else { counted.flops() };
        if problem.op() != Op::KvAppend {
            assert_eq!(flops, work.flops(), "{text}");
        }
        let declared = (work.bytes() + counted.extra_bytes.unwrap_or(0)) as f64;
        let ratio = counted.bytes() as f64 / declared;
        assert!(
            (ratio - 1.0).abs() < 0.02,
            "{text}: counted {ratio} of the declared bytes"
        );
    }
}

/// Every memory-bound kernel moves what the model and its plan declare, and does the
/// FLOPs of the model or more: of each, the point of `corners` that moves most, among
/// those of a size that is counted in seconds. Points so small have tables and rows that do
/// not fill their sectors of 32 bytes.
#[test]
fn memory_bound_kernels_move_what_they_declare() {
    const MOST_BYTES: u64 = 1 << 20;
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let mut device = VmDevice::open(Arch::SM_90, &DeviceOptions::default()).unwrap();
    let plan = Suite::load("corners").unwrap().plan(&device).unwrap();
    for kernel in KERNELS.iter().filter(|kernel| kernel.memory_bound) {
        let of_kernel = plan.points.iter().filter(|point| *point.kernel == *kernel.name);
        // What a core reads again comes from its L1: it is moved once.
        let is_own = |problem: &Problem| problem.operation().reuse() == Some(Reuse::Own);
        let problems = of_kernel.map(|point| point.problem).filter(|p| !is_own(p));
        let small = problems.filter(|problem| problem.work().bytes() < MOST_BYTES);
        let largest = small.max_by_key(|problem| problem.work().bytes());
        let problem = largest.unwrap_or_else(|| panic!("no point runs {}", kernel.name));
        let counted = device.count(&problem, kernel.name, SEED).unwrap();
        let work = problem.work();
        assert!(counted.flops() >= work.flops(), "{problem}: {} FLOPs", counted.flops());
        let Some(extra) = counted.extra_bytes else { continue };
        let ratio = counted.bytes() as f64 / (work.bytes() + extra) as f64;
        assert!((ratio - 1.0).abs() < 0.05, "{problem} by {}: {ratio}", kernel.name);
    }
}

/// How many times the problem's FLOPs a kernel does on tensor cores. What it moves is what
/// the model and its plan declare, within 2%.
fn padding_of(device: &mut VmDevice, problem: &Problem, kernel: &str) -> f64 {
    let counted = device.count(problem, kernel, SEED).unwrap();
    let work = problem.work();
    let declared = (work.bytes() + counted.extra_bytes.unwrap()) as f64;
    let ratio = counted.bytes() as f64 / declared;
    assert!((ratio - 1.0).abs() < 0.02, "{problem}: counted {ratio} of the declared bytes");
    counted.tensor_flops() as f64 / work.flops() as f64
}

/// Decode attention reads what the model says in every format, width, page order, for
/// drafts and windows, and adds what its plan declares. Products are padded to rows of
/// the tensor cores, so FLOPs are more.
#[test]
fn decode_attention_reads_what_it_must() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    for (n, rest) in [
        "q_heads=8,head_dim=128,dtype=bf16",
        "q_heads=32,head_dim=64,dtype=f16,layout=paged16",
        "q_heads=8,head_dim=256,dtype=bf16,layout=paged64_nhd",
        "q_heads=2,head_dim=80,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged16",
        "q_heads=8,head_dim=96,dtype=f16,kv_dtype=int8,layout=paged32_nhd",
        "q_heads=8,head_dim=128,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged1_nhd",
        "q_heads=8,head_dim=128,dtype=bf16,new_tokens=4,window=300",
        "q_heads=8,head_dim=128,dtype=bf16,lengths=ragged,layout=paged16",
    ]
    .into_iter()
    .enumerate()
    {
        let arch = [Arch::SM_90, Arch::SM_80][n % 2];
        let mut device = VmDevice::open(arch, &DeviceOptions::default()).unwrap();
        let text = format!("decode_attention:batch=3,context=1500,kv_heads=2,{rest}");
        let problem: Problem = text.parse().unwrap();
        let padding = padding_of(&mut device, &problem, "attention_decode");
        assert!((1.0..17.0).contains(&padding), "{text}: {padding} times the FLOPs");
    }
}

/// So do clusters, one or several of a sequence: what they add are partial results of clusters,
/// and slices' softmaxes and tickets.
#[test]
fn clusters_read_what_they_must() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    for (kernel, text) in [
        (
            "attention_decode.cluster8_two",
            "decode_attention:batch=2,context=1500,q_heads=40,kv_heads=2,head_dim=128,dtype=bf16",
        ),
        (
            "attention_decode.cluster4_three",
            "decode_attention:batch=1,context=1500,q_heads=5,kv_heads=1,head_dim=80,dtype=f16",
        ),
        (
            "attention_mla.cluster8_two",
            "mla_decode:batch=1,context=1000,q_heads=20,dtype=bf16",
        ),
        (
            "attention_mla_wgmma.cluster8_two",
            "mla_decode:batch=1,context=1024,q_heads=40,dtype=bf16,layout=paged64",
        ),
    ] {
        let mut device = VmDevice::open(Arch::SM_90, &DeviceOptions::default()).unwrap();
        let problem: Problem = text.parse().unwrap();
        let counted = device.count(&problem, kernel, SEED).unwrap();
        let declared = problem.work().bytes() + counted.extra_bytes.unwrap();
        // Rounded up to the sectors of memory that softmaxes and tickets lie in.
        let ratio = counted.bytes() as f64 / declared as f64;
        assert!((ratio - 1.0).abs() < 0.002, "{kernel}: {ratio} of the declared bytes");
    }
}

/// Latent attention reads each record once, though it is key and value, in both formats
/// and pages of all sizes, and adds what its plan declares. All rows are of queries
/// here, so FLOPs are more by the last tile's padding only.
#[test]
fn latent_attention_reads_what_it_must() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    for (n, rest) in [
        "q_heads=16,dtype=bf16",
        "q_heads=16,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged64",
        "q_heads=16,dtype=f16,new_tokens=2,layout=paged1",
        "q_heads=32,dtype=bf16,kv_dtype=fp8_e4m3,lengths=ragged,layout=paged16",
    ]
    .into_iter()
    .enumerate()
    {
        let arch = [Arch::SM_90, Arch::SM_80][n % 2];
        let mut device = VmDevice::open(arch, &DeviceOptions::default()).unwrap();
        let text = format!("mla_decode:batch=3,context=1000,{rest}");
        let problem: Problem = text.parse().unwrap();
        let padding = padding_of(&mut device, &problem, "attention_mla");
        assert!((1.0..1.1).contains(&padding), "{text}: {padding} times the FLOPs");
    }
}

/// Latent attention by warpgroup reads what the model says and adds what its plan
/// declares, boxes beyond the ends of requests included. Rows are padded to 64 and
/// tokens to tiles. Blocks that divide rows declare nothing, since they rely on L2.
#[test]
fn latent_attention_by_warpgroup_reads_what_it_must() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let mut device = VmDevice::open(Arch::SM_90, &DeviceOptions::default()).unwrap();
    for (rest, padding) in [
        ("context=640,q_heads=64,dtype=bf16", 1.0..1.01),
        ("context=520,q_heads=40,dtype=f16,layout=paged16", 1.6..1.8),
        ("context=500,q_heads=64,dtype=bf16,layout=paged64,lengths=ragged", 1.0..1.4),
        ("context=640,q_heads=64,dtype=bf16,kv_dtype=fp8_e4m3", 1.0..1.01),
        ("context=777,q_heads=64,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged3", 1.0..1.1),
    ] {
        let problem: Problem = format!("mla_decode:batch=3,{rest}").parse().unwrap();
        for kernel in [
            "attention_mla_wgmma",
            "attention_mla_wgmma.no_cluster",
            "attention_mla_wgmma.prefetch4",
        ] {
            let times = padding_of(&mut device, &problem, kernel);
            assert!(
                padding.contains(&times),
                "{rest}: {times} times the FLOPs by {kernel}"
            );
        }
    }
}

/// Row tiles read the same latents, each all of them; in pairs that copy for each other, both
/// together read them once. What is prefetched is not read by them.
#[test]
fn row_tiles_that_share_copies_read_latents_once() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let mut device = VmDevice::open(Arch::SM_90, &DeviceOptions::default()).unwrap();
    let text = "mla_decode:batch=4,context=640,q_heads=128,dtype=bf16,layout=paged64";
    let problem: Problem = text.parse().unwrap();
    let (latents, queries) = (4.0 * 640.0 * 1152.0, 4.0 * 128.0 * 1152.0);
    for (kernel, times) in
        [("no_cluster", 2.0), ("multicast", 1.0), ("multicast_prefetch0", 1.0)]
    {
        let kernel = format!("attention_mla_wgmma.{kernel}");
        let counted = device.count(&problem, &kernel, SEED).unwrap();
        let read: u64 = counted.counts.iter().map(|launch| launch.global_read_bytes).sum();
        let ratio = (read as f64 - queries) / latents / times;
        assert!(
            (ratio - 1.0).abs() < 0.05,
            "{kernel}: {ratio} of the latents, {times} times"
        );
    }
}

/// Weights are read once in every format, and what else is moved is declared: the tiles
/// here are shared by several blocks. Tokens are padded to those of the tensor cores.
#[test]
fn few_rows_read_what_they_must() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    for (n, text) in [
        "gemm:m=1,n=256,k=4096,dtype=bf16",
        "gemm:m=16,n=520,k=2064,dtype=f16",
        "gemm:m=40,n=300,k=1032,dtype=bf16",
        "gemm:m=8,n=264,k=2064,dtype=bf16,w_dtype=fp8_e4m3",
        "gemm:m=64,n=256,k=1024,dtype=f16,w_dtype=int8",
        "gemm:m=1,n=272,k=4096,dtype=bf16,w_dtype=int4",
        "gemm:m=30,n=512,k=2048,dtype=f16,w_dtype=int4",
        "gemm:m=40,n=300,k=1032,dtype=f16",
        "gemm:m=100,n=264,k=2064,dtype=bf16,w_dtype=fp8_e4m3",
        "moe_gemm:tokens=20,experts=8,top_k=2,n=192,k=512,dtype=bf16,routing=zipf",
        "moe_gemm:tokens=5,experts=30,top_k=3,n=192,k=512,dtype=f16,w_dtype=fp8_e4m3,\
         routing=uniform,inputs=per_expert",
        "moe_gemm:tokens=9,experts=8,top_k=2,n=144,k=1024,dtype=bf16,w_dtype=int4,\
         routing=balanced",
    ]
    .into_iter()
    .enumerate()
    {
        let arch = [Arch::SM_90, Arch::SM_80][n % 2];
        let mut device = VmDevice::open(arch, &DeviceOptions::default()).unwrap();
        let problem: Problem = text.parse().unwrap();
        let kernel = device.kernel(&problem).unwrap();
        let padding = padding_of(&mut device, &problem, kernel);
        assert!((1.0..65.0).contains(&padding), "{text}: {padding} times the FLOPs");
    }
}

/// Two schedules of the same launch count the same.
#[test]
fn counts_do_not_depend_on_the_order_of_warps() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let text =
        "decode_attention:batch=2,context=300,q_heads=8,kv_heads=2,head_dim=64,dtype=f16";
    let problem = text.parse().unwrap();
    let count = || {
        let mut device = VmDevice::open(Arch::SM_80, &DeviceOptions::default()).unwrap();
        let counted = device.count(&problem, "attention_decode", SEED).unwrap();
        (counted.flops(), counted.bytes())
    };
    assert_eq!(count(), count());
    let device = VmDevice::open(Arch::SM_80, &DeviceOptions::default()).unwrap();
    assert_eq!(device.kernel(&problem), Ok("attention_decode"));
}

/// Every stream of `corners` under several inputs; their schedules differ too.
#[test]
fn streams_are_right_whatever_the_seed() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let mut device = VmDevice::open(Arch::SM_90, &DeviceOptions::default()).unwrap();
    let plan = Suite::load("corners").unwrap().plan(&device).unwrap();
    let streams =
        |p: &&Point| p.problem.op() == Op::Stream && p.problem.work().bytes() < 1 << 20;
    let points: Vec<&Point> = plan.points.iter().filter(streams).collect();
    assert!(points.len() > 40, "{} points", points.len());
    for seed in [2, 77] {
        for point in &points {
            let outcome = verify(&mut device, point, seed);
            assert_eq!(outcome.status, Status::Ok, "{point}: {}", outcome.reason);
        }
    }
}

/// A block goes in all passes through its own share, so that its SM's L1 can serve it, and in
/// shared passes through what all others read.
#[test]
fn own_shares_stay_with_their_blocks() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    const SMS: u32 = 4;
    let mut device = VmDevice::open(Arch::SM_90, &DeviceOptions::default()).unwrap();
    // Whether one block alone, of as many as fit, comes to the last byte.
    let mut reads_end = |reuse: &str, of_all: fn(u64) -> u64| {
        let text = format!("stream:access=read,bytes=491392,passes=20,reuse={reuse}");
        let only = move |all: u64| {
            assert!((8..20).contains(&all), "{all} blocks");
            std::iter::once(of_all(all)..of_all(all) + 1).collect()
        };
        let end = device.run_end(&text.parse().unwrap(), "stream", SMS, only).unwrap();
        end.read_to_the_end == ["source"]
    };
    assert!(reads_end("own", |all| all - 1));
    assert!(!reads_end("own", |_| 0) && !reads_end("own", |all| all - 2));
    assert!(reads_end("shared", |_| 0) && reads_end("shared", |all| all - 1));
}

/// Every kernel whose launches may overlap, in each configuration in which they do: it is
/// right as it is, and without its wait something is read or written too early.
#[test]
fn launches_that_overlap_wait_for_the_one_before() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    const WAIT: &str = "griddepcontrol.wait;";
    let device = hopper();
    let plan = Suite::load("corners").unwrap().plan(&device).unwrap();
    let smallest = |kernel: &'static Kernel, way: &'static Configuration| {
        let mut problems: Vec<Problem> = plan
            .points
            .iter()
            .map(|point| point.problem)
            .filter(|problem| kernel.configure_as(problem, Arch::SM_90, way).is_ok())
            .collect();
        problems.sort_by_key(|problem| problem.work().flops() + problem.work().bytes());
        problems.first().copied()
    };
    let overlaps = |way: &&Configuration| way.overlaps_launches();
    let cases: Vec<(String, Problem)> = KERNELS
        .iter()
        .flat_map(|kernel| {
            kernel.configurations().filter(overlaps).map(move |way| (kernel, way))
        })
        .map(|(kernel, way)| {
            let name = format!("{}.{}", kernel.name, way.name);
            let problem = smallest(kernel, way);
            (
                name.clone(),
                problem.unwrap_or_else(|| panic!("corners have nothing for {name}")),
            )
        })
        .collect();
    assert!(cases.len() > 16, "{} cases", cases.len());
    let fault = |(name, problem): &(String, Problem)| {
        let mut device = hopper();
        let ptx = device.ptx(problem, name).unwrap();
        let mut run = |ptx: &str| {
            device.replace_ptx(problem, name, ptx).unwrap();
            device.count(problem, name, SEED).err().map(|why| why.to_string())
        };
        let right = run(&ptx);
        let early = run(&ptx.replace(WAIT, "")).unwrap_or_default();
        let is_noticed = ptx.contains(WAIT) && early.contains("BeforeWait");
        (right.is_some() || !is_noticed)
            .then(|| format!("{problem} by {name}: {right:?}, {early}"))
    };
    let faults: Vec<String> = cases.par_iter().filter_map(fault).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Of a step too, whose weights lie in tensors of the step.
#[test]
fn products_of_a_step_may_fetch_their_weights_ahead() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    const WAY: &str = "weights_ahead";
    let text = "decode_step:layers=2,batch=2,context=64,hidden=256,q_heads=4,kv_heads=1,\
                head_dim=64,intermediate=512,vocab=1000,dtype=bf16";
    let problem: Problem = text.parse().unwrap();
    let mut device = hopper();
    let step = *DecodeStep::of(&problem).unwrap();
    let products = step.kinds().into_iter().filter(|kind| kind.problem.op() == Op::Gemm);
    let tuned: Vec<TunedClass> = products
        .map(|kind| {
            let kernel =
                Kernel::for_problem(&kind.problem, Arch::SM_90).unwrap().kernel.name;
            TunedClass {
                kernel: kernel.to_owned(),
                source_hash: device.search_space(kernel).unwrap().source_hash,
                class: ShapeClass::of(&kind.problem),
                configuration: WAY.to_owned(),
                problem: kind.problem.to_string(),
                candidates: 1,
                default_time_s: 1.0,
                time_s: 1.0,
                speedup: 1.0,
                speedup_lo: 1.0,
                speedup_hi: 1.0,
                aa_ratio: 1.0,
                aa_ratio_lo: 1.0,
                aa_ratio_hi: 1.0,
            }
        })
        .collect();
    assert!(tuned.len() > 3);
    let table = TuningTable { tuned, ..TuningTable::default() };
    let (tuning, notes) = Tuning::new(&table, |kernel| device.search_space(kernel));
    assert!(notes.is_empty(), "{}", notes.join("\n"));
    device.use_tuning(tuning);
    let point: Point = format!("{text}@decode_step@hot").parse().unwrap();
    let outcome = verify(&mut device, &point, SEED);
    assert_eq!(outcome.status, Status::Ok, "{}", outcome.reason);
    let chosen = outcome.chosen.unwrap().configuration;
    assert!(chosen.contains(WAY), "{chosen}");
}

/// A kernel that declares another parameter than its host half passes is not launched:
/// its threads would read what is not there, or leave out what is.
#[test]
fn parameters_of_another_size_are_not_launched() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let mut device = VmDevice::open(Arch::SM_90, &DeviceOptions::default()).unwrap();
    let problem: Problem = "stream:access=write,bytes=1048576".parse().unwrap();
    let ptx = device.ptx(&problem, "stream").unwrap();
    let declared = "stream_write_param_0[64]";
    assert!(ptx.contains(declared), "{ptx}");
    for bytes in [56, 72] {
        let other = ptx.replace(declared, &format!("stream_write_param_0[{bytes}]"));
        device.replace_ptx(&problem, "stream", &other).unwrap();
        let error = device.count(&problem, "stream", SEED).unwrap_err().to_string();
        for part in [
            "kernel stream, entry stream_write".to_owned(),
            format!("declares {bytes} bytes of parameters"),
            "passes 64 bytes (ridgepoint::kernel::stream::StreamParams)".to_owned(),
        ] {
            assert!(error.contains(&part), "{error}");
        }
    }
    device.replace_ptx(&problem, "stream", &ptx).unwrap();
    device.count(&problem, "stream", SEED).unwrap();
}

/// Kernels by warpgroups, and problems that reach each way in which their threads read and
/// write shared memory: formats, tiles, splits, tails, keys and values of several widths.
const SHARED: &[(&str, &[&str])] = &[
    (
        "peak_wgmma",
        &[
            "peak:unit=tensor,dtype=bf16,lanes=1024,steps=16",
            "peak:unit=tensor,dtype=bf16,operands=registers,lanes=1024,steps=16",
        ],
    ),
    (
        "gemm_wgmma",
        &[
            "gemm:m=256,n=512,k=256,dtype=bf16",
            "gemm:m=130,n=136,k=3080,dtype=bf16",
            "gemm:m=257,n=6152,k=72,dtype=f16",
            "gemm:m=256,n=512,k=256,dtype=tf32",
            "gemm:m=257,n=6148,k=36,dtype=tf32",
            "gemm:m=65,n=24580,k=36,dtype=tf32",
            "gemm:m=256,n=512,k=256,dtype=bf16,w_dtype=int8,a_dtype=int8_token",
            "gemm:m=256,n=512,k=256,dtype=bf16,w_dtype=fp8_e4m3,a_dtype=fp8_e4m3_token",
            "gemm:m=256,n=512,k=512,dtype=bf16,w_dtype=fp8_e4m3_block128x128,a_dtype=fp8_e4m3_block1x128",
        ],
    ),
    // In clusters, since blocks that have a tile to themselves write from registers.
    (
        "gemm_swapped.splits_4",
        &[
            "gemm:m=16,n=512,k=1024,dtype=bf16",
            "gemm:m=64,n=500,k=1032,dtype=bf16",
            "gemm:m=80,n=512,k=1024,dtype=bf16",
            "gemm:m=129,n=512,k=1024,dtype=bf16",
            "gemm:m=256,n=512,k=1024,dtype=bf16",
            "gemm:m=64,n=512,k=1024,dtype=bf16,w_dtype=int8",
            "gemm:m=64,n=512,k=1024,dtype=bf16,w_dtype=fp8_e4m3",
            "gemm:m=256,n=512,k=1024,dtype=bf16,w_dtype=fp8_e4m3",
            "gemm:m=64,n=512,k=1024,dtype=bf16,w_dtype=int4",
            "gemm:m=256,n=512,k=1024,dtype=bf16,w_dtype=int4",
        ],
    ),
    ("gemm_swapped.multicast", &["gemm:m=256,n=512,k=1024,dtype=bf16,w_dtype=int4"]),
    (
        "moe_gemm_wgmma",
        &[
            "moe_gemm:tokens=256,experts=4,top_k=1,n=512,k=256,dtype=bf16,routing=balanced,inputs=per_expert,rows=contiguous",
            "moe_gemm:tokens=250,experts=6,top_k=2,n=136,k=272,dtype=bf16,routing=zipf,inputs=per_expert,rows=contiguous",
            "moe_gemm:tokens=150,experts=6,top_k=2,n=256,k=1200,dtype=bf16,w_dtype=fp8_e4m3_block128x128,a_dtype=fp8_e4m3_block1x128,routing=zipf,inputs=per_expert,rows=contiguous",
        ],
    ),
    (
        "attention_prefill_wgmma",
        &[
            "prefill_attention:batch=1,new_tokens=256,q_heads=2,kv_heads=1,head_dim=64,dtype=bf16",
            "prefill_attention:batch=1,new_tokens=256,q_heads=2,kv_heads=1,head_dim=128,dtype=bf16",
            "prefill_attention:batch=1,new_tokens=200,q_heads=2,kv_heads=1,head_dim=256,dtype=bf16",
            "prefill_attention:batch=1,new_tokens=256,q_heads=2,kv_heads=2,head_dim=192,v_head_dim=128,dtype=bf16",
            "prefill_attention:batch=1,new_tokens=256,q_heads=2,kv_heads=1,head_dim=64,dtype=bf16,q_dtype=fp8_e4m3,kv_dtype=fp8_e4m3",
            "prefill_attention:batch=1,new_tokens=256,q_heads=2,kv_heads=1,head_dim=128,dtype=bf16,q_dtype=fp8_e4m3,kv_dtype=fp8_e4m3,causal=false",
            "prefill_attention:batch=2,new_tokens=200,q_heads=2,kv_heads=1,head_dim=256,dtype=bf16,q_dtype=fp8_e4m3,kv_dtype=fp8_e4m3,layout=paged16",
        ],
    ),
    (
        "attention_mla_wgmma",
        &[
            "mla_decode:batch=4,context=575,q_heads=64,dtype=bf16,layout=paged64",
            "mla_decode:batch=4,context=575,q_heads=64,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged64",
            "mla_decode:batch=2,context=319,new_tokens=2,q_heads=33,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged1",
        ],
    ),
];

/// Most passes of shared memory for each that is needed.
const MOST_PASSES: f64 = 1.01;

/// Bank conflicts of kernels by warpgroups, next to none: what their threads read and write.
/// Wgmma reads operands, and copy engines write them, by themselves in swizzled panels, and
/// those passes are not counted.
#[test]
fn warpgroups_have_next_to_no_bank_conflicts() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let count = |kernel: &str, text: &&str| {
        let mut device = VmDevice::open(Arch::SM_90, &DeviceOptions::default()).unwrap();
        let counted = device.count(&text.parse().unwrap(), kernel, SEED).unwrap();
        let of = |of: fn(&ptxvm::Counts) -> u64| counted.counts.iter().map(of).sum::<u64>();
        (of(|counts| counts.shared_wavefronts), of(|counts| counts.bank_conflicts))
    };
    for (kernel, problems) in SHARED {
        let counts: Vec<(u64, u64)> =
            problems.par_iter().map(|text| count(kernel, text)).collect();
        for (text, (passes, conflicts)) in problems.iter().zip(counts) {
            println!("{passes:8} passes, {conflicts} conflicts: {text}");
            let ratio = passes as f64 / (passes - conflicts) as f64;
            assert!(passes > 100, "{text} by {kernel}: {passes} passes");
            assert!(ratio <= MOST_PASSES, "{text} by {kernel}: {ratio} times its passes");
        }
    }
}

/// Pairs of tiles that load activations together ask L2 for them half as often: of 256 rows
/// and 256 weights that is a third of all.
#[test]
fn multicast_activations_are_read_once_for_two_tiles() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let mut device = VmDevice::open(Arch::SM_90, &DeviceOptions::default()).unwrap();
    let problem: Problem = "gemm:m=256,n=256,k=512,dtype=bf16".parse().unwrap();
    let mut sectors = |kernel: &str| {
        let counted = device.count(&problem, kernel, SEED).unwrap();
        counted.counts.iter().map(|counts| counts.sectors_read).sum::<u64>()
    };
    // Of 1024 bytes a row: 256 weights once, 256 activations twice.
    assert_eq!(sectors("gemm_swapped"), (256 + 2 * 256) * 32);
    assert_eq!(sectors("gemm_swapped.multicast"), (256 + 256) * 32);
}

/// An H200 computed this element of an expert's product in E4M3, whose exact value rounds to
/// -0.0257: its tensor cores add in fixed point. The machine has it to the last bit, and the
/// check lets it pass, but not one that is off by three times as much.
#[test]
fn products_in_e4m3_are_those_of_an_h200() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let (row, column, n) = (215, 128, 136);
    let text = "moe_gemm:tokens=150,experts=6,top_k=2,n=136,k=144,dtype=f16,w_dtype=fp8_e4m3,\
                routing=zipf,inputs=per_expert,rows=contiguous,a_dtype=fp8_e4m3_token";
    let problem: Problem = text.parse().unwrap();
    let mut device = VmDevice::open(Arch::SM_90, &DeviceOptions::default()).unwrap();
    let slot = 1;
    let layout = Layout::new(2, SEED);
    let mut prepared = device.prepare(&problem, "moe_gemm_wgmma", layout).unwrap();
    prepared.poison().unwrap();
    prepared.launch(slot, 1).unwrap();
    let mut output = prepared.output(slot).unwrap().into_owned();
    let element = &mut output[2 * (row * n + column)..][..2];
    let found = f64::from(f16::from_le_bytes([element[0], element[1]]));
    assert_eq!(found, -0.025054931640625);
    let exact = -0.025706854455841324;
    element.copy_from_slice(&f16::from_f64(exact + 3.0 * (found - exact)).to_le_bytes());
    let check = |output: &[u8]| reference::check(&problem, SEED, slot, 0, output).unwrap();
    assert_eq!(check(&output).verdict, CheckVerdict::Fail);
    let element = &mut output[2 * (row * n + column)..][..2];
    element.copy_from_slice(&f16::from_f64(found).to_le_bytes());
    assert_eq!(check(&output).message, "");
}
