//! Tensors of more bytes than 32 bits count, and of more elements than 31 bits do: for
//! every CUDA kernel, the blocks at the far end of a problem on the PTX virtual machine.
//! Memory is made where it is touched, so each costs what its blocks do.

mod common;

use std::iter;

use rayon::prelude::*;
use ridgepoint::device::DeviceOptions;
use ridgepoint::device::vm::VmDevice;
use ridgepoint::format::Tensor;
use ridgepoint::kernel::{KERNELS, split_name};
use ridgepoint::op::Problem;
use ridgepoint::reference::CheckVerdict;
use ridgepoint::toolchain::Arch;
use ridgepoint::toolchain::nvrtc::Nvrtc;

/// Multiprocessors to plan for: so many that blocks which divide all work have little each.
const SMS: u32 = 1 << 13;

/// A kernel, a problem, and how many of the last blocks are executed.
type Case = (&'static str, &'static str, u64);

const CASES: &[Case] = &[
    ("stream", "stream:access=read,bytes=6442450944", 2),
    ("stream", "stream:access=read,bytes=6442450944,passes=2,reuse=own", 2),
    ("stream", "stream:access=copy,bytes=12884901888", 2),
    ("stream", "stream:access=triad,bytes=19327352832", 2),
    ("stream.looped", "stream:access=read,bytes=6442450944", 2),
    ("stream.looped", "stream:access=triad,bytes=19327352832", 2),
    ("stream_bulk", "stream:access=read,bytes=6442450944", 2),
    ("stream_bulk", "stream:access=copy,bytes=12884901888", 2),
    ("stream_bulk", "stream:access=write,bytes=6442450944", 2),
    ("kv_read", "kv_read:batch=2560,context=1024,kv_heads=8,head_dim=128,dtype=bf16", 8),
    (
        "kv_append",
        "kv_append:batch=640,context=4095,new_tokens=1,kv_heads=8,head_dim=128,dtype=bf16,\
         layout=paged4096",
        1 << 20,
    ),
    (
        "attention_decode",
        "decode_attention:batch=2560,context=1024,q_heads=8,kv_heads=8,head_dim=128,dtype=bf16",
        8,
    ),
    (
        "attention_decode",
        "decode_attention:batch=2560,context=1024,q_heads=8,kv_heads=8,head_dim=128,dtype=bf16,\
         layout=paged16",
        8,
    ),
    (
        "attention_prefill",
        "prefill_attention:batch=10240,new_tokens=64,q_heads=32,kv_heads=32,head_dim=128,\
         dtype=bf16",
        4,
    ),
    (
        "attention_prefill_wgmma",
        "prefill_attention:batch=5120,new_tokens=128,q_heads=32,kv_heads=32,head_dim=128,\
         dtype=bf16",
        2,
    ),
    (
        "attention_prefill_wgmma",
        "prefill_attention:batch=10240,new_tokens=128,q_heads=32,kv_heads=32,head_dim=128,\
         dtype=bf16,q_dtype=fp8_e4m3,kv_dtype=fp8_e4m3",
        2,
    ),
    (
        "attention_mla",
        "mla_decode:batch=5120,context=1024,q_heads=16,dtype=bf16,layout=paged64",
        4,
    ),
    (
        "attention_mla_wgmma",
        "mla_decode:batch=5120,context=1024,q_heads=64,dtype=bf16,layout=paged64",
        4,
    ),
    ("gemm", "gemm:m=1310720,n=128,k=2048,dtype=bf16", 2),
    ("gemm", "gemm:m=128,n=1310720,k=2048,dtype=bf16", 16),
    ("gemm", "gemm:m=40960,n=65536,k=64,dtype=bf16", 2),
    ("gemm", "gemm:m=1310720,n=128,k=1024,dtype=tf32", 2),
    ("gemm_wgmma.static", "gemm:m=655360,n=128,k=2052,dtype=tf32", 2),
    ("gemm_wgmma.static", "gemm:m=1048576,n=128,k=2056,dtype=bf16", 2),
    ("gemm_wgmma.static", "gemm:m=128,n=655360,k=4096,dtype=bf16", 4),
    ("gemm_wgmma.static", "gemm:m=40960,n=65536,k=64,dtype=bf16", 2),
    ("gemv", "gemm:m=1,n=1310720,k=2048,dtype=bf16", 64),
    ("gemv", "gemm:m=2,n=1310720,k=4096,dtype=bf16,w_dtype=fp8_e4m3", 64),
    ("gemv", "gemm:m=1,n=1310720,k=8192,dtype=bf16,w_dtype=int4", 4),
    ("gemm_skinny", "gemm:m=1,n=1310720,k=2048,dtype=bf16", 4),
    ("gemm_skinny", "gemm:m=2,n=1310720,k=4096,dtype=bf16,w_dtype=fp8_e4m3", 4),
    ("gemm_skinny", "gemm:m=2,n=1310720,k=8192,dtype=bf16,w_dtype=int4", 4),
    ("gemm_swapped", "gemm:m=16,n=1310720,k=2048,dtype=bf16", 4),
    ("gemm_swapped", "gemm:m=17,n=1310720,k=4096,dtype=bf16,w_dtype=fp8_e4m3", 4),
    ("gemm_swapped", "gemm:m=17,n=1310720,k=8192,dtype=bf16,w_dtype=int4", 4),
    (
        "moe_gemm",
        "moe_gemm:tokens=4,experts=2,top_k=2,n=655360,k=2048,dtype=bf16,routing=uniform",
        4,
    ),
    (
        "moe_gemm_wgmma.static",
        "moe_gemm:tokens=128,experts=2,top_k=2,n=655360,k=2048,dtype=bf16,routing=uniform,\
         inputs=per_expert,rows=contiguous",
        16,
    ),
    (
        "moe_gemm_wgmma.static",
        "moe_gemm:tokens=128,experts=1,top_k=1,n=1310720,k=2048,dtype=bf16,routing=balanced",
        16,
    ),
    ("rmsnorm", "rmsnorm:m=1310720,n=2048,dtype=bf16", 4),
    ("gated_activation", "gated_activation:m=1310720,n=2048,dtype=bf16", 4),
    ("embedding", "embedding:m=1310720,vocab=4194304,n=2048,dtype=bf16", 4),
    ("argmax", "argmax:m=1310720,n=2048,dtype=bf16", 4),
    // Rows of three blocks each.
    ("argmax", "argmax:m=20480,n=131072,dtype=bf16", 6),
    (
        "rope_append",
        "rope_append:batch=640,context=4095,q_heads=8,kv_heads=8,head_dim=128,dtype=bf16,\
         layout=paged4096,pages=whole",
        1 << 20,
    ),
];

/// What is wrong with the far end of a case, as the device runs it.
fn fault(device: &mut VmDevice, &(kernel, text, blocks): &Case) -> Option<String> {
    let problem: Problem = text.parse().unwrap();
    let last = move |all: u64| iter::once(all.saturating_sub(blocks)..all).collect();
    let far = match device.run_end(&problem, kernel, SMS, last) {
        Ok(far) => far,
        Err(why) => return Some(format!("{why:?}")),
    };
    // The sum of all words is complete when all blocks are.
    let sums = text.contains("access=read");
    match far.check {
        None if sums && far.read_to_the_end == ["source"] => None,
        None => Some(format!("the end was not written, {:?} read", far.read_to_the_end)),
        Some(check) if check.elements == 0 => Some("no row was compared".to_owned()),
        Some(check) if check.verdict == CheckVerdict::Fail => Some(check.message),
        Some(_) => None,
    }
}

fn device() -> VmDevice {
    VmDevice::open(Arch::SM_90, &DeviceOptions::default()).unwrap()
}

#[test]
fn kernels_reach_the_far_end() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    for (_, text, _) in CASES {
        let problem: Problem = text.parse().unwrap();
        let largest = problem.tensors().iter().map(Tensor::bytes).max();
        assert!(largest > Some(1 << 32), "{text} is at most {largest:?} bytes");
    }
    let wrong: Vec<String> = CASES
        .par_iter()
        .filter_map(|case| {
            let found = fault(&mut device(), case)?;
            Some(format!("{}, {}: {found}", case.0, case.1))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Copies between host and device have no code.
    let kernels = KERNELS.iter().filter(|kernel| kernel.file().is_some());
    for kernel in kernels.filter(|kernel| !IN_REGISTERS.contains(&kernel.name)) {
        assert!(
            CASES.iter().any(|case| split_name(case.0).0 == kernel.name),
            "{}",
            kernel.name
        );
    }
}

/// Kernels that move nothing that grows.
const IN_REGISTERS: [&str; 2] = ["peak", "peak_wgmma"];

/// Every place where an offset is shifted or multiplied, with its upper half lost: below
/// 4 GiB none of them is a bug.
fn narrowed(ptx: &str) -> Vec<String> {
    let lines: Vec<&str> = ptx.lines().collect();
    let makes_offset = |line: &str| {
        ["shl.b64", "mul.wide.u32", "mul.wide.s32", "mad.lo.s64", "mul.lo.s64"]
            .iter()
            .any(|opcode| line.trim_start().starts_with(opcode))
    };
    let at = (0..lines.len()).filter(|&at| makes_offset(lines[at]));
    at.map(|at| {
        let register = lines[at].split_whitespace().nth(1).unwrap().trim_end_matches(',');
        let narrow = format!("and.b64 {register}, {register}, 4294967295;");
        let (before, after) = lines.split_at(at + 1);
        [before, &[narrow.as_str()], after].concat().join("\n")
    })
    .collect()
}

/// Each kernel of these has a place where losing an offset's upper half goes unseen below
/// 4 GiB and is seen here.
#[test]
fn an_offset_of_32_bits_is_seen_at_the_far_end() {
    if common::need(Nvrtc::find(&common::search(), None)).is_none() {
        return;
    }
    let planted = [
        "stream",
        "kv_read",
        "attention_decode",
        "gemm_skinny",
        "rmsnorm",
        "gated_activation",
        "embedding",
    ];
    planted.into_par_iter().for_each(|kernel| {
        let case = CASES.iter().rfind(|case| case.0 == kernel).unwrap();
        let problem: Problem = case.1.parse().unwrap();
        let mut device = device();
        let ptx = device.ptx(&problem, kernel).unwrap();
        let places = narrowed(&ptx);
        let seen = places.iter().any(|ptx| {
            device.replace_ptx(&problem, kernel, ptx).unwrap();
            fault(&mut device, case).is_some()
        });
        assert!(seen, "{kernel}: none of {} planted bugs was seen", places.len());
    });
}
