//! Which libraries' kernels can run which problems. The names are those of
//! `scripts/peers.py`, and become the kernel of a point.

use crate::format::DType;
use crate::op::{
    Access, DecodeAttention, Gemm, KvLayout, Lengths, MlaDecode, OfProblem,
    PrefillAttention, Problem, Stream,
};
use crate::quant::{Quant, ScaleGroup};

/// Peers on a GPU.
const GPU: [&str; 17] = [
    "torch_cublas",
    "torch_cublaslt",
    "torch_mv",
    "triton_matmul",
    "torch_cublaslt_fp8",
    "torch_cublaslt_fp8_exact",
    "torch_int_mm",
    "tinygemm",
    "sdpa_cudnn",
    "sdpa_flash",
    "flash_attention_3",
    "flashinfer_fa2",
    "flashinfer_xqa",
    "flash_mla",
    "flashinfer_mla",
    "torch_sum",
    "torch_copy",
];

/// Peers on a CPU.
const CPU: [&str; 2] = ["torch_matmul", "sdpa_cpu"];

/// Peers of tests, on the simulated device.
const FAKE: [&str; 5] =
    ["fake_right", "fake_wrong", "fake_crash", "fake_hang", "fake_missing"];

/// Names of all peers of a backend.
pub(super) fn names(backend: &str) -> &'static [&'static str] {
    match backend {
        "cpu" => &CPU,
        "simulated" => &FAKE,
        _ => &GPU,
    }
}

/// The peers that a problem has on a backend (`cuda:0`, `cpu`): those whose library takes
/// such shapes and formats, whether it is installed or not.
pub fn peers_of(problem: &Problem, backend: &str) -> Vec<&'static str> {
    match backend {
        "cpu" => of_cpu(problem),
        "simulated" => of_simulated(problem),
        _ => of_gpu(problem),
    }
}

fn of_gpu(problem: &Problem) -> Vec<&'static str> {
    if let Some(p) = Gemm::of(problem) {
        return of_gemm(p);
    }
    if let Some(p) = DecodeAttention::of(problem) {
        return of_decode(p);
    }
    if let Some(p) = PrefillAttention::of(problem) {
        return of_prefill(p);
    }
    if let Some(p) = MlaDecode::of(problem) {
        return of_mla(p);
    }
    let once = Stream::of(problem).filter(|p| p.passes == 1);
    match once.map(|p| p.access) {
        Some(Access::Read) => vec!["torch_sum"],
        Some(Access::Copy) => vec!["torch_copy"],
        Some(Access::Write | Access::Triad) | None => Vec::new(),
    }
}

fn of_cpu(problem: &Problem) -> Vec<&'static str> {
    let is_plain_gemm = Gemm::of(problem).is_some_and(is_plain);
    let decodes = DecodeAttention::of(problem).is_some_and(is_plain_decode);
    let prefills = PrefillAttention::of(problem).is_some_and(is_plain_prefill);
    if is_plain_gemm {
        vec!["torch_matmul"]
    } else if decodes || prefills {
        vec!["sdpa_cpu"]
    } else {
        Vec::new()
    }
}

/// Small products only: the fake peers are plain Python.
fn of_simulated(problem: &Problem) -> Vec<&'static str> {
    let is_small = |p: &&Gemm| p.dtype == DType::F32 && p.m * p.n * p.k < 1 << 16;
    if Gemm::of(problem).filter(is_small).is_some() { FAKE.to_vec() } else { Vec::new() }
}

const fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::Bf16 | DType::F16)
}

fn is_plain(p: &Gemm) -> bool {
    p.has_plain_activations() && p.w_dtype == Quant::plain(p.dtype)
}

fn group(quant: Quant) -> Option<ScaleGroup> {
    quant.scales().map(|scales| scales.group)
}

fn of_gemm(p: &Gemm) -> Vec<&'static str> {
    if is_plain(p) && is_half(p.dtype) {
        let mut peers = vec!["torch_cublas", "torch_cublaslt"];
        peers.extend((p.m == 1).then_some("torch_mv"));
        peers.push("triton_matmul");
        return peers;
    }
    let of_int4 = p.has_plain_activations() && p.w_dtype == Quant::weights(DType::Int4);
    if of_int4 && p.dtype == DType::Bf16 {
        return vec!["tinygemm"];
    }
    let are_scaled =
        |dtype: DType| p.a_dtype.dtype() == dtype && p.w_dtype.dtype() == dtype;
    let by_tensor = (group(p.a_dtype), group(p.w_dtype))
        == (Some(ScaleGroup::Tensor), Some(ScaleGroup::Tensor));
    let by_row = (group(p.a_dtype), group(p.w_dtype))
        == (Some(ScaleGroup::Token), Some(ScaleGroup::Channel));
    if are_scaled(DType::Fp8E4m3)
        && (by_tensor || by_row && p.dtype == DType::Bf16)
        && p.n.is_multiple_of(16)
        && p.k.is_multiple_of(16)
    {
        return vec!["torch_cublaslt_fp8", "torch_cublaslt_fp8_exact"];
    }
    if are_scaled(DType::Int8)
        && (by_tensor || by_row)
        && p.m > 16
        && p.n.is_multiple_of(8)
        && p.k.is_multiple_of(8)
    {
        return vec!["torch_int_mm"];
    }
    Vec::new()
}

/// One new token of each request over equally long contiguous contexts in one format.
fn is_plain_decode(p: &DecodeAttention) -> bool {
    is_whole_decode(p)
        && p.new_tokens == 1
        && p.layout == KvLayout::Contiguous
        && p.kv().length(0) == p.context
        && p.kv().length(p.batch - 1) == p.context
}

/// All of the context, in one 16-bit format.
fn is_whole_decode(p: &DecodeAttention) -> bool {
    is_half(p.dtype) && p.kv_dtype == Quant::cache(p.dtype) && p.window == 0
}

fn of_decode(p: &DecodeAttention) -> Vec<&'static str> {
    if !is_whole_decode(p) {
        return Vec::new();
    }
    if is_plain_decode(p) {
        return vec!["sdpa_cudnn", "sdpa_flash", "flash_attention_3"];
    }
    let mut peers = vec!["flash_attention_3"];
    if let KvLayout::Paged { page_size, .. } = p.layout
        && p.new_tokens == 1
    {
        peers.push("flashinfer_fa2");
        // TensorRT-LLM's kernels take pages of these sizes.
        peers.extend([16, 32, 64, 128].contains(&page_size).then_some("flashinfer_xqa"));
    }
    peers
}

/// No cached prefix, pages, window or several lengths, one width and one 16-bit format.
fn is_plain_prefill(p: &PrefillAttention) -> bool {
    is_half(p.dtype)
        && p.kv_dtype == Quant::plain(p.dtype)
        && p.q_dtype == p.kv_dtype
        && has_plain_shape(p)
}

/// The same of E4M3, with a scale for each tensor or none, and a result in bf16.
fn is_plain_fp8_prefill(p: &PrefillAttention) -> bool {
    let is_fp8 = |quant: Quant| {
        quant.dtype() == DType::Fp8E4m3
            && group(quant).is_none_or(|group| group == ScaleGroup::Tensor)
    };
    p.dtype == DType::Bf16 && is_fp8(p.q_dtype) && is_fp8(p.kv_dtype) && has_plain_shape(p)
}

fn has_plain_shape(p: &PrefillAttention) -> bool {
    p.window == 0
        && p.v_head_dim == p.head_dim
        && p.layout == KvLayout::Contiguous
        && p.lengths == Lengths::Equal
        && p.prefix == 0
}

fn of_prefill(p: &PrefillAttention) -> Vec<&'static str> {
    if is_plain_prefill(p) {
        return vec!["sdpa_cudnn", "sdpa_flash", "flash_attention_3"];
    }
    // Its causal mask ends with the last key, as that of a prompt after a prefix does.
    let alone = PrefillAttention { prefix: 0, ..*p };
    if is_plain_prefill(&alone) || is_plain_fp8_prefill(&alone) {
        return vec!["flash_attention_3"];
    }
    Vec::new()
}

fn of_mla(p: &MlaDecode) -> Vec<&'static str> {
    let is_flash_mla = p.dtype == DType::Bf16
        && !p.kv_dtype.is_scaled()
        && p.kv_dtype.dtype() == DType::Bf16
        && (p.latent_dim, p.rope_dim) == (512, 64);
    match p.layout {
        KvLayout::Paged { page_size: 64, .. } if is_flash_mla => {
            vec!["flash_mla", "flashinfer_mla"]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(problem: &str, backend: &str) -> Vec<&'static str> {
        peers_of(&problem.parse().unwrap(), backend)
    }

    #[test]
    fn problems_have_the_peers_that_take_them() {
        let of = |problem: &str| peers(problem, "cuda:0").join(" ");
        let gemm = |rest: &str| of(&format!("gemm:m=64,n=4096,k=4096,dtype=bf16{rest}"));
        assert_eq!(gemm(""), "torch_cublas torch_cublaslt triton_matmul");
        assert!(of("gemm:m=1,n=4096,k=4096,dtype=f16").contains("torch_mv"));
        assert_eq!(gemm(",w_dtype=int4"), "tinygemm");
        assert_eq!(gemm(",w_dtype=fp8_e4m3"), "");
        let fp8 = ",w_dtype=fp8_e4m3_tensor,a_dtype=fp8_e4m3_tensor";
        let both = "torch_cublaslt_fp8 torch_cublaslt_fp8_exact";
        assert_eq!(gemm(fp8), both);
        assert_eq!(gemm(",w_dtype=fp8_e4m3,a_dtype=fp8_e4m3_token"), both);
        assert_eq!(gemm(",w_dtype=int8,a_dtype=int8_token"), "torch_int_mm");
        let decode = "decode_attention:batch=8,context=8192,q_heads=32,kv_heads=8,\
                      head_dim=128,dtype=bf16";
        assert_eq!(of(decode), "sdpa_cudnn sdpa_flash flash_attention_3");
        let paged = format!("{decode},layout=paged16");
        assert_eq!(of(&paged), "flash_attention_3 flashinfer_fa2 flashinfer_xqa");
        assert_eq!(of(&format!("{decode},lengths=ragged")), "flash_attention_3");
        assert_eq!(of(&format!("{decode},kv_dtype=fp8_e4m3")), "");
        assert_eq!(of(&format!("{decode},window=1024")), "");
        assert_eq!(peers(decode, "cpu"), ["sdpa_cpu"]);
        // Its rows have no gaps, which no peer is given.
        let prefill = "prefill_attention:batch=8,new_tokens=512,q_heads=32,kv_heads=8,\
                       head_dim=128,dtype=bf16";
        assert_eq!(of(prefill), "sdpa_cudnn sdpa_flash flash_attention_3");
        assert_eq!(of(&format!("{prefill},prefix=64")), "flash_attention_3");
        for quant in ["fp8_e4m3", "fp8_e4m3_tensor"] {
            let fp8 = format!("{prefill},q_dtype={quant},kv_dtype={quant}");
            assert_eq!(of(&fp8), "flash_attention_3");
            assert_eq!(of(&fp8.replace("dtype=bf16", "dtype=f16")), "");
        }
        for prefix in ["", ",prefix=64"] {
            assert_eq!(of(&format!("{prefill}{prefix},lengths=ragged")), "");
        }
    }

    #[test]
    fn every_peer_is_listed_and_named_as_a_kernel() {
        for backend in ["cuda:0", "cpu", "simulated"] {
            for name in names(backend) {
                assert!(name.parse::<crate::point::KernelName>().is_ok(), "{name}");
            }
        }
        for name in GPU.iter().chain(&CPU) {
            let registered = format!("@peer(\"{name}\")");
            assert!(super::super::PEERS_SCRIPT.contains(&registered), "{name}");
        }
    }
}
