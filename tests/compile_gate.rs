//! The compile gate: every CUDA kernel in every configuration that the built-in
//! suites use compiles without warnings, spills or local memory, and to the
//! instructions it was written for: what `quick` measures for every
//! architecture, what `headline` measures for Hopper too, half of what other suites measure
//! and a sixth of what only `corners` needs for each; with RIDGEPOINT_GATE=all everything for
//! each. Needs NVRTC and no GPU.
//! Without NVRTC these tests say that they did not run; where CI or
//! RIDGEPOINT_REQUIRE_NVRTC is set they fail.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use common::{need, search};
use rayon::prelude::*;
use ridgepoint::inventory::{Inventory, Wanted};
use ridgepoint::kernel::{HEADERS, KERNELS};
use ridgepoint::op::Problem;
use ridgepoint::suite::Suite;
use ridgepoint::toolchain::nvrtc::{Nvrtc, Source};
use ridgepoint::toolchain::sass::{Disassembler, Listing};
use ridgepoint::toolchain::search::{NVRTC, SearchPath};
use ridgepoint::toolchain::{
    Arch, Binary, CompileError, Compiler, CompilerOptions, Defines, ImageKind, Target,
};

const ARCHS: [Arch; 3] = [Arch::SM_80, Arch::SM_90, Arch::SM_120];

fn options() -> CompilerOptions {
    CompilerOptions { search: search(), ..CompilerOptions::default() }
}

fn compiler() -> Option<Compiler> {
    let compiler = Compiler::new(options()).unwrap();
    need(compiler.nvrtc().map(drop)).map(|()| compiler)
}

fn built_in() -> Inventory {
    inventory_of(|_| true)
}

/// What those built-in suites need whose names are wanted.
fn inventory_of(wanted: impl Fn(&str) -> bool) -> Inventory {
    let suites: Vec<Suite> = Suite::built_in_names()
        .into_iter()
        .filter(|name| wanted(name))
        .map(|name| Suite::load(name).unwrap())
        .collect();
    Inventory::of(&suites, &ARCHS).unwrap()
}

/// What the gate compiles: what the suite that everyone runs measures, for every
/// architecture; what `headline` measures, for Hopper; every other configuration that others
/// measure, for each; of what only `corners` uses, which is executed and not timed, one of six
/// for each. All of it for all would take several times as long.
fn gated() -> Inventory {
    let key = |wanted: &Wanted| (wanted.source.name, wanted.defines.to_string());
    let keys_of = |suite: &dyn Fn(&str) -> bool| -> BTreeSet<_> {
        inventory_of(suite).wanted.iter().map(key).collect()
    };
    let usual = keys_of(&|suite| suite == "quick");
    let headline = keys_of(&|suite| suite == "headline");
    let measured = keys_of(&|suite| suite != "corners");
    let mut inventory = built_in();
    if let Some(what) = std::env::var_os("RIDGEPOINT_GATE") {
        assert!(what == "all", "RIDGEPOINT_GATE is {}, not all", what.display());
        return inventory;
    }
    let mut seen: BTreeMap<_, usize> = BTreeMap::new();
    let mut checks: Vec<&Check> = CODE.iter().collect();
    inventory.wanted.retain(|wanted| {
        // One for each check of machine code.
        let left = checks.len();
        checks.retain(|check| !is_meant(check, wanted));
        if checks.len() < left {
            return true;
        }
        let key = key(wanted);
        let at = ARCHS.iter().position(|arch| *arch == wanted.arch).unwrap_or_default();
        let is_measured = measured.contains(&key);
        if usual.contains(&key) || headline.contains(&key) && wanted.arch == Arch::SM_90 {
            return true;
        }
        // Configurations of a kernel are alike, and of an architecture many.
        let number = seen.entry((wanted.arch, key.0, is_measured)).or_default();
        *number += 1;
        let (one_of, turn) = if is_measured { (2, at / 2) } else { (2 * ARCHS.len(), at) };
        *number % one_of == turn
    });
    inventory
}

/// A configuration with what the compiler makes of it.
type Built = (Wanted, Result<Binary, CompileError>);

/// What the gate compiles, compiled once for all tests of this
/// process: tests that run side by side would compile most of it twice. The
/// cache on disk is keyed by source, so a later run compiles what changed.
fn all_built(compiler: &Compiler) -> &'static [Built] {
    static BUILT: OnceLock<Vec<Built>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let inventory = gated();
        let results = inventory.compile(compiler);
        inventory.wanted.into_iter().zip(results).collect()
    })
}

/// What is wrong with a source as compiled, a source that does not compile
/// included.
fn faults(wanted: &Wanted, result: &Result<Binary, CompileError>) -> Vec<String> {
    match result {
        Ok(binary) => wanted.faults(binary),
        Err(why) => vec![why.to_string()],
    }
}

#[test]
fn every_configuration_of_the_suites_compiles_clean() {
    let Some(compiler) = compiler() else { return };
    let built = all_built(&compiler);
    let mut found = Vec::new();
    for (wanted, result) in built {
        let Wanted { source, defines, arch, .. } = wanted;
        for fault in faults(wanted, result) {
            found.push(format!("{} with {defines} for {arch}: {fault}", source.name));
        }
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
    for arch in ARCHS {
        let any = built.iter().any(|(wanted, _)| wanted.arch == arch);
        assert!(any, "nothing is compiled for {arch}");
    }
}

/// Prompts in the smallest pages, of which a tile has the most: every number of a page takes a
/// register of the thread that copies, and the gate compiles few of what only `corners` uses.
#[test]
fn tiles_of_many_pages_compile_clean() {
    let Some(compiler) = compiler() else { return };
    let target = Target::new(Arch::SM_90, Arch::SM_90.usual_sms());
    let mut inventory = Inventory::default();
    let kernel = KERNELS.iter().find(|k| k.name == "attention_prefill_wgmma").unwrap();
    for layout in ["paged8", "paged16"] {
        for (width, narrow) in [
            (64, ""),
            (96, ""),
            (128, ""),
            (256, ""),
            (64, NARROW),
            (128, NARROW),
            (256, NARROW),
        ] {
            let problem = format!(
                "prefill_attention:batch=1,new_tokens=512,q_heads=8,kv_heads=2,\
                 head_dim={width},dtype=bf16,layout={layout}{narrow}"
            );
            let problem: Problem = problem.parse().unwrap();
            let configured = kernel.configure(&problem, Arch::SM_90).unwrap();
            inventory.add_kernel(&configured, &problem, &target);
        }
    }
    assert_eq!(inventory.wanted.len(), 14);
    let found: Vec<String> = inventory
        .wanted
        .iter()
        .zip(inventory.compile(&compiler))
        .flat_map(|(wanted, result)| {
            let faults = faults(wanted, &result).into_iter();
            faults.map(|fault| format!("{}: {fault}", wanted.defines)).collect::<Vec<_>>()
        })
        .collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// Queries, keys and values in 8 bits.
const NARROW: &str = ",q_dtype=fp8_e4m3,kv_dtype=fp8_e4m3";

/// A source that is not in the table, as the gate sees it.
fn planted(text: &'static str) -> Wanted {
    Wanted {
        source: Source { name: "planted", text, headers: HEADERS },
        defines: Defines::new(),
        arch: Arch::SM_90,
        launches: BTreeMap::new(),
        points: 0,
    }
}

/// A kernel whose 80 values do not fit the 32 registers that two blocks of 1024
/// threads leave.
const SPILLS: &str = r#"
#include "prelude.cuh"
KERNEL(1024, 2) spills(const float *a, float *b) {
  float v[80];
#pragma unroll
  for (u32 i = 0; i < 80; ++i) v[i] = a[i * 1024 + threadIdx.x];
#pragma unroll
  for (u32 j = 0; j < 80; ++j) {
    float sum = 0;
#pragma unroll
    for (u32 i = 0; i < 80; i += 7) sum += v[(i + j) % 80] * v[(3 * i * j + 1) % 80];
    b[j * 1024 + threadIdx.x] = sum;
  }
}
"#;

/// A table that is indexed by what is known at run time only.
const LOCAL: &str = r#"
#include "prelude.cuh"
KERNEL(128, 1) local(const u32 *a, u32 *b) {
  u32 v[64];
  for (u32 i = 0; i < 64; ++i) v[a[i] % 64] = i;
  b[threadIdx.x] = v[a[threadIdx.x] % 64];
}
"#;

/// An accumulator that is touched while the instruction that writes it runs.
const SERIALIZED: &str = r#"
#include "prelude.cuh"
KERNEL(128, 1) serialized(float *out, u64 a, u64 b) {
  float d[4] = {0, 0, 0, 0};
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  for (u32 i = 0; i < 4; ++i) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, "
        "1, 1, 1, 0, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "l"(a), "l"(b));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    d[0] *= 2;
  }
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  out[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
}
"#;

#[test]
fn the_gate_rejects_what_it_should() {
    let Some(compiler) = compiler() else { return };
    let cases = [
        (
            "#include \"prelude.cuh\"\nKERNEL(128, 1) broken(u32 *a) { a[0] = 1 }",
            "expected a",
        ),
        ("#include \"absent.cuh\"\n", "cannot open source file"),
        ("__global__ void k(int *a) { asm volatile(\"no.such;\"); }", "Not a name of any"),
        (
            "extern \"C\" __global__ void k(int *a) { int unused; a[0] = 1; }",
            "never referenced",
        ),
        (SPILLS, "spills: stores"),
        (LOCAL, "bytes of local memory"),
        (SERIALIZED, "(C75"),
    ];
    for (text, expected) in cases {
        let wanted = planted(text);
        let result = compiler.compile(&wanted.source, &wanted.defines, wanted.arch);
        let found = faults(&wanted, &result);
        assert!(
            found.iter().any(|f| f.contains(expected)),
            "{expected}: {found:?}\n{text}"
        );
    }
    let fine = planted("#include \"prelude.cuh\"\nKERNEL(128, 1) fine(u32 *a) { *a = 1; }");
    let result = compiler.compile(&fine.source, &fine.defines, fine.arch);
    assert_eq!(faults(&fine, &result), [""; 0]);
}

#[test]
fn ptx_is_kept_beside_machine_code() {
    let Some(_) = compiler() else { return };
    let root = tempfile::tempdir().unwrap();
    let compiler = |cache: Option<PathBuf>| {
        Compiler::new(CompilerOptions { cache, ..options() }).unwrap()
    };
    let keeping = compiler(Some(root.path().to_owned()));
    let wanted =
        planted("#include \"prelude.cuh\"\nKERNEL(128, 1) kept(u32 *a) { *a = 1; }");
    let Wanted { source, defines, arch, .. } = &wanted;
    keeping.compile(source, defines, *arch).unwrap();
    let kept = fs::read_to_string(cached(root.path(), "ptx")).unwrap();
    // What compiling to PTX alone gives.
    let ptx = compiler(None).ptx(source, defines, *arch).unwrap();
    assert!(kept.ends_with(&ptx), "{kept}");
    assert_eq!(keeping.ptx(source, defines, *arch).unwrap(), ptx);
}

/// The only file of a kind in a cache.
fn cached(cache: &Path, extension: &str) -> PathBuf {
    let version = fs::read_dir(cache).unwrap().next().unwrap().unwrap().path();
    let files = fs::read_dir(version).unwrap().map(|file| file.unwrap().path());
    let is_meant =
        |path: &PathBuf| path.extension().is_some_and(|other| other == extension);
    let found: Vec<PathBuf> = files.filter(is_meant).collect();
    let [file] = &found[..] else { panic!("{found:?}") };
    file.clone()
}

#[test]
fn images_do_not_depend_on_the_working_folder() {
    let Some(_) = compiler() else { return };
    let root = tempfile::tempdir().unwrap();
    let hashes = |folder: &str| {
        let folder = root.path().join(folder);
        fs::create_dir(&folder).unwrap();
        let output =
            build(&folder, &root.path().join(format!("{}.cache", folder.display())));
        assert!(output.status.success(), "{output:?}");
        let text = fs::read_to_string(folder.join("kernels/manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
        let files = manifest["files"].as_array().unwrap().clone();
        files.iter().map(|file| file["hash"].to_string()).collect::<Vec<_>>()
    };
    let here = hashes("here");
    assert!(!here.is_empty());
    assert_eq!(here, hashes("elsewhere"));
}

/// A suite of one kernel.
const SMALL: &str = "name = \"small\"\n[[points]]\nop = \"stream\"\naccess = \"read\"\n\
                     bytes = \"1 MiB\"\n";

/// `ridgepoint kernels build` of the small suite, in a folder, to `kernels`.
fn build(folder: &Path, cache: &Path) -> Output {
    fs::write(folder.join("small.toml"), SMALL).unwrap();
    let nvrtc =
        search().chosen.or_else(|| std::env::var_os("RIDGEPOINT_NVRTC").map(PathBuf::from));
    let mut command = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
    command.current_dir(folder).env("RIDGEPOINT_CACHE", cache);
    if let Some(nvrtc) = nvrtc {
        command.env("RIDGEPOINT_NVRTC", nvrtc);
    }
    command.args(["kernels", "build", "--arch", "sm_90a", "--out", "kernels"]);
    command.args(["--format", "csv", "small.toml"]).output().unwrap()
}

#[test]
fn what_was_built_ahead_needs_no_compiler() {
    let Some(compiler) = compiler() else { return };
    let root = tempfile::tempdir().unwrap();
    let cache = root.path().join("cache");
    let output = build(root.path(), &cache);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.starts_with("entry,configuration,arch,registers,"), "{table}");
    assert!(cache.is_dir(), "the cache is not where it should be");

    // A machine without NVRTC.
    let driver_only = Compiler::new(CompilerOptions {
        kernels: Some(root.path().join("kernels")),
        search: SearchPath::nowhere(&NVRTC),
        cache: None,
        max_major: Some(compiler.nvrtc().unwrap().version().major),
        image: ImageKind::Cubin,
    })
    .unwrap();
    let suite = Suite::parse("small.toml", SMALL).unwrap();
    let inventory = Inventory::of(&[suite], &[Arch::SM_90]).unwrap();
    for wanted in &inventory.wanted {
        let (source, defines) = (&wanted.source, &wanted.defines);
        let ahead = driver_only.compile(source, defines, wanted.arch).unwrap();
        assert_eq!(ahead, compiler.compile(source, defines, wanted.arch).unwrap());
    }
    // Never overwritten.
    let again = build(root.path(), &cache);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("it exists"));
}

#[test]
fn the_cache_is_used_and_repaired_and_may_be_missing() {
    let Some(_) = compiler() else { return };
    let root = tempfile::tempdir().unwrap();
    let fine = planted("#include \"prelude.cuh\"\nKERNEL(64, 1) fine(u32 *a) { *a = 2; }");
    let compile = |cache: &Path| {
        let options = CompilerOptions { cache: Some(cache.to_owned()), ..options() };
        let compiler = Compiler::new(options).unwrap();
        compiler.compile(&fine.source, &fine.defines, fine.arch).unwrap()
    };
    let cache = root.path().join("cache");
    let built = compile(&cache);
    let file = cached(&cache, "cubin");
    let whole = fs::read(&file).unwrap();
    let age = fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(compile(&cache), built);
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), age, "compiled again");
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(compile(&cache), built);
    assert_eq!(fs::read(&file).unwrap(), whole, "not repaired");
    // A file where the cache's folder should be.
    assert_eq!(compile(&file), built);
}

#[test]
fn ptx_is_cached_like_machine_code() {
    let Some(_) = compiler() else { return };
    let root = tempfile::tempdir().unwrap();
    let fine = planted("#include \"prelude.cuh\"\nKERNEL(64, 1) fine(u32 *a) { *a = 3; }");
    let cache = root.path().join("cache");
    let compile = || {
        let options = CompilerOptions { cache: Some(cache.clone()), ..options() };
        let compiler = Compiler::new(options).unwrap();
        compiler.ptx(&fine.source, &fine.defines, fine.arch).unwrap()
    };
    let built = compile();
    assert!(built.contains(".entry fine("), "{built}");
    let file = cached(&cache, "ptx");
    let whole = fs::read(&file).unwrap();
    let age = fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(compile(), built);
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), age, "compiled again");
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(compile(), built);
    assert_eq!(fs::read(&file).unwrap(), whole, "not repaired");
}

#[test]
fn a_driver_that_is_too_old_for_the_compiler_is_told_so() {
    let Some(compiler) = compiler() else { return };
    let version = compiler.nvrtc().unwrap().version().clone();
    let found = Nvrtc::find(&search(), Some(version.major)).unwrap();
    assert_eq!(found.version(), &version);
    let error = Nvrtc::find(&search(), Some(version.major - 1)).unwrap_err().to_string();
    assert!(error.contains("only newer compilers were found"), "{error}");
}

#[test]
fn ptx_is_there_for_every_architecture() {
    let Some(compiler) = compiler() else { return };
    let stream = built_in().wanted.into_iter().find(|w| w.source.name == "stream").unwrap();
    for arch in ARCHS {
        let ptx = compiler.ptx(&stream.source, &stream.defines, arch).unwrap();
        let target = format!(".target {arch}");
        assert!(ptx.contains(&target) && ptx.contains(".entry stream_read("), "{arch}");
    }
}

/// Checks of machine code: a kernel, macros of the configurations that are
/// meant, how the names of its functions begin, and opcodes that each of them
/// must have, or with a `!` must not have.
type Check = (&'static str, &'static str, &'static str, &'static [&'static str]);

const CODE: &[Check] = &[
    ("stream", "", "stream_read", &["LDG.128"]),
    // Only own shares are left in L1: `NA` allocates nothing there.
    ("stream", "FORM=0", "stream_read", &["LDG.NA.128"]),
    ("stream", "FORM=2", "stream_read", &["LDG.128", "!LDG.NA"]),
    ("stream", "", "stream_write", &["STG.128"]),
    ("stream", "", "stream_copy", &["LDG.128", "STG.128"]),
    ("stream", "", "stream_triad", &["LDG.128", "STG.128", "FFMA"]),
    ("stream_bulk", "", "stream_bulk_read", &["UBLKCP.S.G", "LDS.128", "SYNCS"]),
    ("stream_bulk", "", "stream_bulk_write", &["UBLKCP.G.S"]),
    ("stream_bulk", "", "stream_bulk_copy", &["UBLKCP.S.G", "UBLKCP.G.S", "SYNCS"]),
    ("kv_read", "", "kv_read", &["LDG.128"]),
    ("kv_append", "", "kv_append", &["LDG.128", "STG.128"]),
    ("gemm", "ELEMENT_BF16=1", "gemm", &["HMMA.16816.F32", "LDSM.4", "LDGSTS.128"]),
    ("gemm", "ELEMENT_TF32=1", "gemm", &["HMMA.1688.F32.TF32", "LDSM.4", "STG.64"]),
    (
        "gemm_wgmma",
        "MULTIPLIED=Bf16",
        "gemm_wgmma",
        &[
            "HGMMA.F32.BF16",
            "UTMALDG.2D",
            "UTMASTG.2D",
            "SYNCS",
            "USETMAXREG",
            "STSM.16.M88.4",
        ],
    ),
    (
        "gemm_wgmma",
        "MULTIPLIED=Tf32",
        "gemm_wgmma",
        &["HGMMA.F32.TF32", "UTMALDG.2D", "UTMASTG.2D", "STS.64"],
    ),
    ("gemm_wgmma", "CLUSTER=2", "gemm_wgmma", &["UTMALDG.2D.MULTICAST"]),
    (
        "gemm_wgmma",
        "OPERAND_BYTES=2 TILE_M=128 TILE_N=256",
        "gemm_wgmma",
        &["HGMMA.64x256x16.F32"],
    ),
    ("gemm_wgmma", "DYNAMIC=1", "gemm_wgmma", &["ATOMG", "SYNCS"]),
    ("gemm_wgmma", "MULTIPLIED=Int8", "gemm_wgmma", &["IGMMA.S8.S8", "I2FP.F32.S32"]),
    ("gemm_wgmma", "MULTIPLIED=E4m3", "gemm_wgmma", &["QGMMA.64x128x32.F32.E4M3.E4M3"]),
    (
        "gemm_wgmma",
        "SCALES_BLOCKS=1",
        "gemm_wgmma",
        &["QGMMA.64x128x32.F32", "SHFL.IDX", "FFMA"],
    ),
    // Weights come straight to registers, and activations from shared memory.
    ("gemv", "WEIGHT_16=1", "gemv", &["LDG.128", "LDS.128", "FFMA", "SHFL.BFLY"]),
    ("gemv", "WEIGHT_E4M3=1", "gemv", &["LDG.128", "LDS.128", "FFMA", "HADD2.F32"]),
    ("gemv", "WEIGHT_INT8=1", "gemv", &["LDG.128", "LDS.128", "FFMA", "PRMT", "HADD2.F32"]),
    (
        "gemv",
        "WEIGHT_INT4=1",
        "gemv",
        &["LDG.128", "LDS.128", "HMMA.16816.F32", "LOP3", "HFMA2"],
    ),
    (
        "gemm_skinny",
        "WEIGHT_16=1",
        "gemm_skinny",
        &["HMMA.16816.F32", "LDS.128", "LDGSTS.128"],
    ),
    (
        "gemm_skinny",
        "WEIGHT_E4M3=1 ELEMENT_BF16=1",
        "gemm_skinny",
        &["HMMA.16816.F32.BF16", "LDS.128", "LDGSTS.128", "PRMT"],
    ),
    (
        "gemm_skinny",
        "WEIGHT_INT8=1 ELEMENT_BF16=1",
        "gemm_skinny",
        &["HMMA.16816.F32.BF16", "LDS.128", "LDGSTS.128", "PRMT", "HFMA2"],
    ),
    (
        "gemm_skinny",
        "WEIGHT_INT4=1 ELEMENT_BF16=1",
        "gemm_skinny",
        &["HMMA.16816.F32.BF16", "LDS.128", "LDGSTS.128", "LOP3", "HFMA2"],
    ),
    (
        "gemm_swapped",
        "WEIGHT_16=1 ELEMENT_BF16=1 TOKENS=64",
        "gemm_swapped",
        &["HGMMA.64x64x16.F32.BF16", "UTMALDG.2D", "SYNCS", "UCGABAR_ARV", "STAS.128"],
    ),
    (
        "gemm_swapped",
        "WEIGHT_E4M3=1 ELEMENT_BF16=1 TOKENS=128",
        "gemm_swapped",
        &["HGMMA.64x128x16.F32.BF16", "UTMALDG.2D", "LDS.U16", "PRMT", "LOP3"],
    ),
    (
        "gemm_swapped",
        "WEIGHT_INT8=1 ELEMENT_F16=1 TOKENS=192",
        "gemm_swapped",
        &["HGMMA.64x192x16.F32", "UTMALDG.2D", "LDS.U16", "PRMT", "USETMAXREG"],
    ),
    (
        "gemm_swapped",
        "WEIGHT_INT4=1 ELEMENT_BF16=1 TOKENS=256",
        "gemm_swapped",
        &["HGMMA.64x256x16.F32.BF16", "UTMALDG.3D", "LOP3", "HFMA2", "USETMAXREG"],
    ),
    ("moe_gemm", "", "moe_gemm", &["HMMA.16816.F32", "LDS.128", "LDGSTS.128"]),
    ("moe_gemm", "WEIGHT_INT4=1", "moe_gemm", &["LOP3", "HFMA2"]),
    (
        "moe_gemm_wgmma",
        "MULTIPLIED=Bf16 CLUSTER=2",
        "moe_gemm_wgmma",
        &[
            "HGMMA.F32.BF16",
            "UTMALDG.2D.MULTICAST",
            "UTMASTG.2D",
            "STG.E.NA.128",
            "SYNCS",
            "USETMAXREG",
            "ATOMG",
        ],
    ),
    (
        "moe_gemm_wgmma",
        "MULTIPLIED=E4m3",
        "moe_gemm_wgmma",
        &["QGMMA.E4M3.E4M3", "UTMALDG.2D"],
    ),
    ("moe_gemm_wgmma", "MULTIPLIED=Int8", "moe_gemm_wgmma", &["IGMMA.S8.S8", "UTMALDG.2D"]),
    (
        "moe_gemm_wgmma",
        "GATHERS=1",
        "moe_gemm_wgmma",
        &[
            "LDGSTS.E.BYPASS",
            "ARRIVES.LDGSTSBAR",
            "FENCE.VIEW.ASYNC",
            "UTMALDG.2D",
            "STG.E.NA.128",
        ],
    ),
    (
        "attention_decode",
        "",
        "attention_decode",
        &["HMMA.16816.F32", "LDSM.4", "LDGSTS.128"],
    ),
    ("attention_mla", "", "attention_mla", &["HMMA.16816.F32", "LDSM.4", "LDGSTS.128"]),
    (
        "attention_mla_wgmma",
        "",
        "attention_mla_wgmma",
        &["HGMMA.64x64x16.F32", "HGMMA.64x256x16.F32", "UTMALDG.3D", "SYNCS", "USETMAXREG"],
    ),
    (
        "attention_mla_wgmma",
        "SHARING=2 TILES_AHEAD=2",
        "attention_mla_wgmma",
        &["UTMALDG.3D.MULTICAST", "UBLKPF.L2", "UCGABAR_ARV", "HGMMA.64x256x16.F32"],
    ),
    (
        "attention_mla_wgmma",
        "CACHED_E4M3=1",
        "attention_mla_wgmma",
        &[
            "HGMMA.64x64x16.F32.BF16",
            "UBLKPF.L2",
            "LDG.E.128",
            "F2FP.F16.E4M3.UNPACK_B",
            "HMUL2",
        ],
    ),
    (
        "attention_prefill",
        "",
        "attention_prefill",
        &["HMMA.16816.F32", "LDSM.4", "LDGSTS.128"],
    ),
    (
        "attention_prefill_wgmma",
        "FP8=0 HEAD_DIM=128 KEYS=128",
        "attention_prefill_wgmma",
        &["HGMMA.64x128x16.F32", "UTMALDG.3D", "SYNCS", "USETMAXREG", "MUFU.EX2"],
    ),
    (
        "attention_prefill_wgmma",
        "FP8=1 HEAD_DIM=64",
        "attention_prefill_wgmma",
        &["QGMMA.64x128x32.F32.E4M3.E4M3", "QGMMA.64x64x32.F32.E4M3.E4M3", "UTMALDG.3D"],
    ),
    (
        "attention_prefill_wgmma",
        "FP8=1 HEAD_DIM=128 KEYS=192",
        "attention_prefill_wgmma",
        &[
            "QGMMA.64x192x32.F32.E4M3.E4M3",
            "QGMMA.64x128x32.F32.E4M3.E4M3",
            "UTMALDG.3D",
            "LDSM.16.MT88.4",
            "STSM.16.M88.4",
            "F2FP.SATFINITE.E4M3",
            "USETMAXREG",
        ],
    ),
    (
        "attention_prefill_wgmma",
        "FP8=0 HEAD_DIM=128 RAGGED=1",
        "attention_prefill_wgmma",
        &["HGMMA.64x128x16.F32", "UTMALDG.3D", "SYNCS", "USETMAXREG", "MUFU.EX2"],
    ),
    ("rmsnorm", "", "rmsnorm", &["LDG.128", "STG.128", "FFMA", "SHFL.BFLY", "MUFU.RSQ"]),
    (
        "gated_activation",
        "",
        "gated_activation",
        &["LDG.128", "STG.128", "MUFU.EX2", "MUFU.RCP"],
    ),
    ("rope_append", "", "rope_append", &["LDG.128", "STG.128", "FFMA"]),
    ("embedding", "", "embedding", &["LDG.128", "STG.128"]),
    ("argmax", "", "argmax", &["LDG.128", "SHFL.BFLY", "FSETP", "ATOMG"]),
    ("peak", "UNIT_FMA=1 OPERAND_F32=1", "peak", &["FFMA"]),
    ("peak", "UNIT_FMA=1 OPERAND_F64=1", "peak", &["DFMA"]),
    ("peak", "UNIT_FMA=1 OPERAND_BF16=1", "peak", &["HFMA2"]),
    ("peak", "UNIT_FMA=1 OPERAND_F16=1", "peak", &["HFMA2"]),
    ("peak", "UNIT_TENSOR=1 FORMAT=Bf16", "peak", &["HMMA.16816.F32.BF16"]),
    ("peak", "UNIT_TENSOR=1 FORMAT=Int8", "peak", &["IMMA.16832.S8.S8"]),
    (
        "peak_wgmma",
        "FORMAT=Bf16",
        "peak_wgmma_256",
        &["HGMMA.64x256x16.F32.BF16", "WARPGROUP.DEPBAR"],
    ),
    ("peak_wgmma", "FORMAT=Bf16", "peak_wgmma_128", &["HGMMA.64x128x16.F32.BF16"]),
    ("peak_wgmma", "FORMAT=F16", "peak_wgmma_256", &["HGMMA.64x256x16.F32"]),
    ("peak_wgmma", "FORMAT=E4m3", "peak_wgmma_256", &["QGMMA.64x256x32.F32.E4M3.E4M3"]),
    ("peak_wgmma", "FORMAT=Tf32", "peak_wgmma_256", &["HGMMA.64x256x8.F32.TF32"]),
    ("peak_wgmma", "FORMAT=E5m2", "peak_wgmma_256", &["QGMMA.64x256x32.F32.E5M2.E5M2"]),
    ("peak_wgmma", "FORMAT=Int8", "peak_wgmma_256", &["IGMMA.64x256x32.S8.S8"]),
];

#[test]
fn kernels_are_made_of_the_instructions_they_were_written_for() {
    let Some(compiler) = compiler() else { return };
    let Some(disassembler) = need(Disassembler::find()) else { return };
    let measured = inventory_of(|name| name != "corners").wanted;
    for wanted in measured.iter().filter(|wanted| !wanted.launches.is_empty()) {
        let name = wanted.source.name;
        let is_listed = CODE.iter().any(|(kernel, ..)| *kernel == name);
        assert!(is_listed, "nothing says which instructions {name} is made of");
    }
    let results: Vec<_> = disassembled(all_built(&compiler))
        .par_iter()
        .map(|(wanted, result)| match result {
            Ok(binary) => check_code(wanted, binary, &disassembler),
            // What does not compile is another test's finding.
            Err(_) => (Vec::new(), Vec::new()),
        })
        .collect();
    let (checked, missing): (Vec<_>, Vec<_>) = results.into_iter().unzip();
    let (checked, missing) = (checked.concat(), missing.concat());
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
    assert!(
        checked.len() >= CODE.len() * ARCHS.len(),
        "only {} checks found their function",
        checked.len()
    );
    // A line that nothing matches would hold nothing.
    for (at, (kernel, only, entry, _)) in CODE.iter().enumerate() {
        let is_found = checked.contains(&at);
        assert!(is_found, "no suite has {entry} of {kernel} with `{only}`");
    }
}

/// Images of each check and architecture that are disassembled.
const IMAGES: usize = 4;

/// Of the images that a check is meant for so many, spread over all: those of a kernel differ
/// in constants, and to disassemble all takes longer than to compile them.
fn disassembled(images: &[Built]) -> Vec<&Built> {
    let mut chosen = BTreeSet::new();
    for check in CODE {
        for arch in ARCHS {
            let of_check: Vec<usize> = (0..images.len())
                .filter(|&at| images[at].0.arch == arch && is_meant(check, &images[at].0))
                .collect();
            let step = of_check.len().div_ceil(IMAGES).max(1);
            chosen.extend(of_check.into_iter().step_by(step));
        }
    }
    chosen.into_iter().map(|at| &images[at]).collect()
}

/// Whether a check says something of a configuration.
fn is_meant((kernel, only, ..): &Check, wanted: &Wanted) -> bool {
    let macros = wanted.defines.to_string();
    let has = |word: &str| macros.split(' ').any(|other| other == word);
    *kernel == wanted.source.name && only.split_whitespace().all(has)
}

/// The checks that found their function, once for each, and those that failed.
fn check_code(
    wanted: &Wanted,
    binary: &Binary,
    disassembler: &Disassembler,
) -> (Vec<usize>, Vec<String>) {
    let macros = wanted.defines.to_string();
    let meant = CODE.iter().enumerate().filter(|(_, check)| is_meant(check, wanted));
    let checks: Vec<_> = meant.collect();
    let (mut checked, mut missing) = (Vec::new(), Vec::new());
    if checks.is_empty() {
        return (checked, missing);
    }
    let listing = listing(binary, disassembler);
    for (at, (kernel, _, entry, opcodes)) in checks {
        for name in listing.functions.keys().filter(|name| name.starts_with(entry)) {
            checked.push(at);
            let is_there = |opcode: &str| listing.count(name, opcode) > 0;
            let is_wrong = |opcode: &&&str| match opcode.strip_prefix('!') {
                Some(unwanted) => is_there(unwanted),
                None => !is_there(opcode),
            };
            for opcode in opcodes.iter().filter(is_wrong) {
                let (arch, has) = (wanted.arch, opcode.starts_with('!'));
                missing.push(format!(
                    "{kernel} with {macros} for {arch}: {name} has {}{opcode}",
                    if has { "" } else { "no " }
                ));
            }
        }
    }
    (checked, missing)
}

/// The disassembly of an image, kept for the next run.
fn listing(binary: &Binary, disassembler: &Disassembler) -> Listing {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sass");
    let path = folder.join(format!("{}.sass", binary.hash));
    if let Ok(text) = fs::read_to_string(&path) {
        return Listing::parse(text);
    }
    let listing = disassembler.listing(&binary.image).unwrap();
    fs::create_dir_all(&folder).unwrap();
    let staging = folder.join(format!("{}.{}.new", binary.hash, std::process::id()));
    fs::write(&staging, &listing.text).unwrap();
    fs::rename(&staging, &path).unwrap();
    listing
}
