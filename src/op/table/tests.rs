use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::format::{HostMemory, MemoryPlace, Role};
use crate::op::{
    Access, CachePages, Inputs, KvLayout, Lengths, Routing, RowOrder, StateDecay,
    StateRule, TransferDirection, Unit,
};
use crate::quant::Quant;

fn work(text: &str) -> Work {
    text.parse::<Problem>().unwrap_or_else(|e| panic!("{text}: {e}")).work()
}

fn decode(q_heads: u64, batch: u64, context: u64) -> Work {
    work(&format!(
        "decode_attention:batch={batch},context={context},q_heads={q_heads},kv_heads=8,\
         head_dim=128,dtype=bf16"
    ))
}

fn near(value: f64, golden: f64, tolerance: f64) {
    assert!((value - golden).abs() <= tolerance, "{value} is not {golden}");
}

/// Golden values of decode attention for one layer at batch 1, 8192 tokens.
#[test]
fn decode_attention_golden() {
    let w = decode(32, 1, 8192);
    assert_eq!((w.flops(), w.bytes()), (134_217_728, 33_570_816));
    near(w.operational_intensity(), 3.998, 5e-4);
    let w = decode(64, 1, 8192);
    assert_eq!((w.flops(), w.bytes()), (268_435_456, 33_587_200));
    near(w.operational_intensity(), 7.992, 5e-4);
}

/// Twice the query heads: twice the FLOPs, and the same cache, so nearly
/// the same bytes. The pair of the memory-bound test.
#[test]
fn equal_bytes_pairs_differ_in_flops_alone() {
    let (low, high) = (decode(32, 32, 8192), decode(64, 32, 8192));
    assert_eq!(high.flops(), 2 * low.flops());
    assert!((high.bytes() as f64 / low.bytes() as f64) < 1.001);
}

/// Two FLOPs per cached byte and query head, whatever batch and context.
#[test]
fn decode_intensity_does_not_depend_on_batch() {
    let oi = |batch| decode(32, batch, 4096).operational_intensity();
    near(oi(1), oi(256), 1e-12);
    near(decode(32, 1, 1 << 20).operational_intensity(), 4.0, 1e-3);
}

/// KV bytes per token over all layers, in bf16.
#[test]
fn kv_bytes_per_token_golden() {
    let models = [(32, 8, 131_072), (80, 8, 327_680), (32, 32, 524_288)];
    for (layers, kv_heads, golden) in models {
        let one = work(&format!(
            "kv_read:batch=1,context=1,kv_heads={kv_heads},head_dim=128,dtype=bf16"
        ));
        assert_eq!(layers * one.bytes_read(), golden);
        assert_eq!((one.flops(), one.bytes_written()), (0, 0));
    }
}

#[test]
fn gemm_golden() {
    let square = |m| work(&format!("gemm:m={m},n=8192,k=8192,dtype=bf16"));
    for (m, golden, tolerance) in
        [(1, 1.0, 5e-4), (64, 63.0, 0.05), (256, 240.9, 0.05), (4096, 2048.0, 0.05)]
    {
        near(square(m).operational_intensity(), golden, tolerance);
    }
    let q_proj = work("gemm:m=2048,n=4096,k=4096,dtype=f16");
    assert_eq!((q_proj.flops(), q_proj.bytes()), (68_719_476_736, 67_108_864));
    let q_proj = work("gemm:m=1,n=4096,k=4096,dtype=f16");
    assert_eq!((q_proj.flops(), q_proj.bytes()), (33_554_432, 33_570_816));
    near(q_proj.operational_intensity(), 0.9995, 5e-5);
}

/// 0.516 bytes for each weight of int4, and a scale for each feature in 8 bits.
#[test]
fn weights_count_their_scales() {
    let of =
        |w_dtype| work(&format!("gemm:m=2,n=8192,k=4096,dtype=bf16,w_dtype={w_dtype}"));
    let weights = |w_dtype| of(w_dtype).bytes() - 2 * 2 * (8192 + 4096);
    assert_eq!(weights("bf16"), 2 << 25);
    assert_eq!(weights("fp8_e4m3"), (1 << 25) + 4 * 8192);
    assert_eq!(weights("int8"), (1 << 25) + 4 * 8192);
    assert_eq!(weights("int4"), (1 << 24) + 2 * 8192 * 32);
    near(weights("int4") as f64 / f64::from(1 << 25), 0.516, 5e-4);
    assert_eq!(of("int4").flops(), of("bf16").flops());
}

/// Llama 3.1 8B's down projection, 4096 x 14336, in every scheme: 58,720,256 weights, and
/// scales and zero points counted by hand.
#[test]
fn schemes_of_weights_golden() {
    let of = |w_dtype: &str| {
        let text = format!("gemm:m=1,n=4096,k=14336,dtype=bf16,w_dtype={w_dtype}");
        let problem: Problem = text.parse().unwrap();
        // Activations and outputs are 2 bytes each.
        let bytes = problem.work().bytes() - 2 * (14_336 + 4096);
        let tensors = problem.tensors();
        let of_weights = tensors.iter().filter(|tensor| tensor.name.starts_with('b'));
        let elements: Vec<u64> = of_weights.map(|tensor| tensor.elements).collect();
        (bytes, elements)
    };
    let weights = 58_720_256;
    assert_eq!(of("fp8_e4m3_tensor"), (58_720_260, vec![weights, 1]));
    assert_eq!(of("fp8_e4m3_channel"), (58_736_640, vec![weights, 4096]));
    assert_eq!(of("fp8_e4m3_block128x128"), (58_734_592, vec![weights, 3584]));
    assert_eq!(of("int4_g32"), (33_030_144, vec![weights, 1_835_008]));
    assert_eq!(of("int4_g128"), (30_277_632, vec![weights, 458_752]));
    assert_eq!(of("int4_g128_zp"), (30_507_008, vec![weights, 458_752, 458_752]));
    assert_eq!(of("mxfp4"), (31_195_136, vec![weights, 1_835_008]));
    assert_eq!(of("mxfp8"), (60_555_264, vec![weights, 1_835_008]));
    assert_eq!(of("nvfp4"), (33_030_148, vec![weights, 3_670_016, 1]));
}

/// DeepSeek-V3's linear layers: 1 x 128 activations, 128 x 128 weights, products in fp8.
#[test]
fn quantized_activations_golden() {
    let w = work(
        "gemm:m=64,n=4096,k=7168,dtype=bf16,w_dtype=fp8_e4m3_block128x128,\
         a_dtype=fp8_e4m3_block1x128",
    );
    assert_eq!(w.math_dtype(), Some(DType::Fp8E4m3));
    let (a, b) = (64 * 7168 + 4 * 64 * 56, 4096 * 7168 + 4 * 32 * 56);
    assert_eq!((w.bytes_read(), w.bytes_written()), (a + b, 2 * 64 * 4096));
    let of =
        |rest: &str| work(&format!("gemm:m=64,n=64,k=64,dtype=bf16,{rest}")).math_dtype();
    assert_eq!(of("w_dtype=nvfp4,a_dtype=nvfp4"), Some(DType::Fp4E2m1));
    assert_eq!(of("w_dtype=nvfp4"), Some(DType::Bf16));
    assert_eq!(of("w_dtype=int4_g64,a_dtype=int8_token"), Some(DType::Bf16));
}

/// One scale for all keys and one for all values, or one for each request and head.
#[test]
fn schemes_of_caches_golden() {
    let decode = |kv_dtype: &str| {
        work(&format!(
            "decode_attention:batch=3,context=100,q_heads=8,kv_heads=2,head_dim=64,dtype=bf16,\
             kv_dtype={kv_dtype}"
        ))
        .bytes_read()
    };
    let (q, kv) = (2 * 3 * 8 * 64, 2 * 3 * 100 * 2 * 64);
    assert_eq!(decode("fp8_e4m3_tensor"), q + kv + 8);
    assert_eq!(decode("fp8_e4m3_head"), q + kv + 8 * 3 * 2);
    assert_eq!(decode("fp8_e4m3"), decode("fp8_e4m3_head"));
    let prefill = |kv_dtype: &str| {
        work(&format!(
            "prefill_attention:batch=3,new_tokens=100,q_heads=8,kv_heads=2,head_dim=64,\
             dtype=bf16,kv_dtype={kv_dtype}"
        ))
        .bytes_read()
    };
    assert_eq!(prefill("fp8_e4m3_tensor"), prefill("fp8_e4m3") + 8);
}

/// Mixtral's gate and up projections: two of eight experts for each token.
#[test]
fn experts_count_once_each() {
    let of = |rest: &str| {
        work(&format!("moe_gemm:experts=8,top_k=2,n=28672,k=4096,dtype=bf16,{rest}"))
    };
    let expert = 2 * 28672 * 4096;
    for (tokens, touched) in [(1, 2), (3, 6), (4, 8), (100, 8)] {
        let w = of(&format!("tokens={tokens},routing=balanced"));
        assert_eq!(w.bytes_read(), touched * expert + 2 * tokens * 4096);
        assert_eq!(w.bytes_written(), 2 * 2 * tokens * 28672);
        assert_eq!(w.flops(), 2 * 2 * tokens * 28672 * 4096);
    }
    let own = of("tokens=3,routing=balanced,inputs=per_expert");
    assert_eq!(own.bytes_read(), 6 * expert + 2 * 2 * 3 * 4096);
    // The model's columns: a bound that balanced routing meets, and an expectation.
    let Problem::MoeGemm(p) = "moe_gemm:tokens=4,experts=8,top_k=2,n=16,k=128,dtype=bf16,\
                               w_dtype=int4,routing=zipf"
        .parse()
        .unwrap()
    else {
        unreachable!("experts")
    };
    let (x, of_int4) = (2 * 4 * 128, 16 * 128 / 2 + 2 * 16);
    assert_eq!(p.bytes_read_bound(), x + 8 * of_int4);
    near(p.bytes_read_expected(), x as f64 + 5.46875 * of_int4 as f64, 0.05);
    // What is drawn counts: 4 tokens cannot touch fewer than 2 experts nor more than 8.
    let touched: Vec<u64> = (0..50)
        .map(|seed| of(&format!("tokens=4,routing=uniform,routing_seed={seed}")))
        .map(|w| (w.bytes_read() - 2 * 4 * 4096) / expert)
        .collect();
    assert!(touched.iter().all(|n| (2..=8).contains(n)));
    assert!(touched.iter().any(|n| n != &touched[0]));
}

/// Absorbed, keys and values are the same 576 numbers: the ridge with 128 heads, far
/// below it with 16 (FlashMLA's document).
#[test]
fn latent_attention_golden() {
    let mla = |rest: &str| work(&format!("mla_decode:batch=1,dtype=bf16,{rest}"));
    near(mla("context=8192,q_heads=16").operational_intensity(), 30.1, 0.05);
    near(mla("context=65536,q_heads=128").operational_intensity(), 240.9, 0.05);
    let w = mla("context=1000,q_heads=16,layout=paged64,kv_dtype=fp8_e4m3");
    assert_eq!(w.bytes_read(), 656 * 1000 + 4 * 16 + 2 * 16 * 576);
    assert_eq!(w.bytes_written(), 2 * 16 * 512);
    assert_eq!(w.flops(), 2 * 16 * 1000 * (576 + 512));
    // The first of two new tokens does not see the second.
    let two = mla("context=1000,q_heads=16,new_tokens=2");
    assert_eq!(two.flops(), 2 * 16 * 1999 * (576 + 512));
}

fn prefill(q_heads: u64, prefix: u64, new_tokens: u64, causal: bool) -> Work {
    work(&format!(
        "prefill_attention:batch=1,prefix={prefix},new_tokens={new_tokens},\
         q_heads={q_heads},kv_heads=8,head_dim=128,causal={causal},dtype=bf16"
    ))
}

/// The literature counts `(S + P)^2 - P^2` of the score square for a
/// causal mask; the exact count has half of the diagonal more.
#[test]
fn causal_prefill_golden_in_the_literature_form() {
    for (q_heads, s, golden) in [(32, 512, 204.8), (32, 2048, 819.2), (64, 512, 227.6)] {
        let w = prefill(q_heads, 0, s, true);
        let diagonal = 2 * q_heads * 128 * s;
        near((w.flops() - diagonal) as f64 / w.bytes() as f64, golden, 0.05);
    }
}

#[test]
fn causal_prefill_counts_exactly_the_attended_keys() {
    for (prefix, new_tokens) in [(0, 1), (0, 7), (5, 1), (5, 7)] {
        for causal in [false, true] {
            let mut attended = 0;
            for row in 0..new_tokens {
                for key in 0..prefix + new_tokens {
                    attended += u64::from(!causal || key <= prefix + row);
                }
            }
            let w = prefill(8, prefix, new_tokens, causal);
            assert_eq!(w.flops(), 4 * 8 * 128 * attended);
        }
    }
}

/// A prefill of one token after a prefix is a decode step.
#[test]
fn one_new_token_is_decode() {
    assert_eq!(prefill(32, 8191, 1, true), decode(32, 1, 8192));
}

#[test]
fn streams_count_what_they_touch() {
    let stream = |access| work(&format!("stream:access={access},bytes=1 KiB"));
    assert_eq!((stream("read").bytes_read(), stream("read").bytes_written()), (1024, 0));
    assert_eq!((stream("write").bytes_read(), stream("write").bytes_written()), (0, 1024));
    assert_eq!((stream("copy").bytes_read(), stream("copy").bytes_written()), (512, 512));
    // 64 elements of each array.
    // Every pass moves the bytes again.
    let passes: Problem = "stream:access=read,bytes=1 KiB,passes=3".parse().unwrap();
    assert_eq!(passes.work().bytes_read(), 3072);
    assert_eq!(passes.to_string(), "stream:access=read,bytes=1024,passes=3");
    let once: Problem = "stream:access=read,bytes=1 KiB,passes=1".parse().unwrap();
    assert_eq!(once.to_string(), "stream:access=read,bytes=1024");
    // Who reads them again changes no byte.
    let own: Problem = "stream:access=read,bytes=1 KiB,passes=3,reuse=own".parse().unwrap();
    assert_eq!((own.work(), own.tensors()), (passes.work(), passes.tensors()));
    assert_eq!(own.to_string(), "stream:access=read,bytes=1024,passes=3,reuse=own");
    assert_eq!(own.label(), "stream read 1 KiB passes=3 reuse=own");
    let shared: Problem =
        "stream:access=read,bytes=1 KiB,passes=3,reuse=shared".parse().unwrap();
    assert_eq!(shared.to_string(), passes.to_string());
    let triad = work("stream:access=triad,bytes=768");
    assert_eq!((triad.bytes_read(), triad.bytes_written()), (512, 256));
    assert_eq!((triad.vector_flops(), triad.matrix_flops()), (128, 0));
}

/// Only what shares no cache is under no roof, and only what goes through a set again shows a
/// cache.
#[test]
fn own_shares_are_no_roof_of_what_cores_share() {
    let of = |rest: &str| {
        let text = format!("stream:access=read,bytes=1 KiB{rest}");
        let problem: Problem = text.parse().unwrap();
        let operation = problem.operation();
        (operation.memory_roof(), operation.line().is_some(), operation.reuse())
    };
    let read = Some(Access::Read);
    assert_eq!(of(""), (read, true, None));
    assert_eq!(of(",passes=3"), (read, false, Some(Reuse::Shared)));
    assert_eq!(of(",passes=3,reuse=own"), (None, false, Some(Reuse::Own)));
}

#[test]
fn peaks_count_two_flops_a_multiply_add_and_4096_a_tile() {
    let fma = work("peak:unit=fma,dtype=f32,lanes=10,steps=7");
    assert_eq!((fma.vector_flops(), fma.matrix_flops()), (140, 0));
    let tensor = work("peak:unit=tensor,dtype=bf16,lanes=10,steps=7");
    assert_eq!((tensor.vector_flops(), tensor.matrix_flops()), (0, 286_720));
}

#[test]
fn a_page_table_costs_four_bytes_a_page() {
    let kv = |layout| {
        work(&format!(
            "kv_read:batch=3,context=33,kv_heads=2,head_dim=64,dtype=bf16,layout={layout}"
        ))
    };
    assert_eq!(kv("paged16").bytes_read(), kv("contiguous").bytes_read() + 4 * 3 * 3);
}

#[test]
fn what_is_left_out_has_defaults() {
    let text =
        "prefill_attention:batch=1,new_tokens=4,q_heads=2,kv_heads=1,head_dim=8,dtype=f16";
    let spelled = text.parse::<Problem>().unwrap().to_string();
    assert_eq!(
        spelled,
        "prefill_attention:batch=1,prefix=0,new_tokens=4,q_heads=2,kv_heads=1,head_dim=8,\
         causal=true,dtype=f16,kv_dtype=f16"
    );
}

#[test]
fn labels_leave_out_defaults() {
    let label = |text: &str| text.parse::<Problem>().unwrap().label();
    assert_eq!(label("stream:access=read,bytes=1536 KiB"), "stream read 1.5 MiB");
    assert_eq!(label("stream:access=read,bytes=1 GiB"), "stream read 1024 MiB");
    assert_eq!(label("stream:access=read,bytes=256 KiB"), "stream read 256 KiB");
    assert_eq!(label("stream:access=read,bytes=128"), "stream read 128 B");
    assert_eq!(
        label(
            "decode_attention:batch=2,context=3,q_heads=4,kv_heads=1,head_dim=8,dtype=bf16,layout=paged16"
        ),
        "decode_attention batch=2 context=3 q_heads=4 kv_heads=1 head_dim=8 bf16 paged16"
    );
    assert_eq!(
        label(
            "prefill_attention:batch=1,new_tokens=4,q_heads=2,kv_heads=1,head_dim=8,causal=false,dtype=f16,kv_dtype=f32"
        ),
        "prefill_attention batch=1 new_tokens=4 q_heads=2 kv_heads=1 head_dim=8 causal=false f16 kv_dtype=f32"
    );
}

#[test]
fn bad_input_is_told_what_to_do() {
    let cases = [
        ("gemm:m=0,n=1,k=1,dtype=f32", "m", "at least 1"),
        ("gemm:m=1,n=1,k=1,dtype=f128", "dtype", "one of f32, bf16"),
        ("gemm:m=1,n=1,k=1,dtype=f64", "dtype", "a format of peak; gemm has f32"),
        ("rmsnorm:m=1,n=8,dtype=tf32", "dtype", "a format of peak and gemm"),
        ("peak:unit=fma,dtype=tf32,lanes=1,steps=1", "dtype", "unit = \"tensor\""),
        ("peak:unit=fma,dtype=f32,lanes=1,steps=1,data=zeros", "data", "leave `data` out"),
        ("peak:unit=tensor,dtype=bf16,lanes=1,steps=9,data=random", "steps", "use 16"),
        ("gemm:m=1,n=1,kk=1,dtype=f32", "kk", "did you mean `k`"),
        ("gemm:m=1,n=1,dtype=f32", "", "needs `k`"),
        ("gemm:m=1,m=1,n=1,k=1,dtype=f32", "m", "twice"),
        ("gemm:m=1.5,n=1,k=1,dtype=f32", "m", "whole number"),
        ("gemm:m=99999999999999,n=1,k=1,dtype=f32", "m", "more than the limit"),
        ("gemm:m=999999999,n=999999999,k=999999999,dtype=f32", "", "make it smaller"),
        ("gmm:m=1", "op", "one of stream"),
        ("gemm", "", "op:key=value"),
        ("stream:access=read,bytes=4 MB", "bytes", "4 MiB"),
        ("stream:access=read,bytes=100", "bytes", "multiple of 128"),
        ("stream:access=triad,bytes=1 GiB", "bytes", "multiple of 384"),
        ("stream:access=copy,bytes=256,passes=2", "passes", "only reads have several"),
        ("stream:access=read,bytes=256,passes=65537", "passes", "more than 65536"),
        ("stream:access=read,bytes=256,passes=0", "passes", "passes"),
        ("stream:access=read,bytes=256,reuse=own", "reuse", "passes = 2 or more"),
        ("stream:access=copy,bytes=256,reuse=own", "reuse", "access = \"read\""),
        ("stream:access=copy,bytes=256,passes=2,reuse=own", "passes", "only reads"),
        ("stream:access=read,bytes=256,passes=2,reuse=mine", "reuse", "one of shared, own"),
        ("stream:access=triad,bytes=1 GiB", "bytes", "use 1073741952"),
        ("peak:unit=tensor,dtype=f32,lanes=1,steps=1", "dtype", "unit = \"fma\""),
        (
            "decode_attention:batch=1,context=1,q_heads=6,kv_heads=4,head_dim=8,dtype=f32",
            "kv_heads",
            "not a multiple",
        ),
        (
            "kv_read:batch=1,context=1,kv_heads=1,head_dim=8,dtype=f32,layout=paged0",
            "layout",
            "at least 1",
        ),
        ("gemm:m=1,n=24,k=128,dtype=bf16,w_dtype=int4", "n", "use 32"),
        ("gemm:m=1,n=16,k=64,dtype=bf16,w_dtype=int4", "k", "multiple of 128"),
        ("gemm:m=1,n=16,k=96,dtype=bf16,w_dtype=int4_g32", "k", "multiple of 64"),
        ("gemm:m=1,n=16,k=48,dtype=bf16,w_dtype=mxfp4", "k", "groups of mxfp4"),
        (
            "gemm:m=1,n=16,k=64,dtype=bf16,w_dtype=int5",
            "w_dtype",
            "not a format of weights",
        ),
        ("gemm:m=1,n=16,k=64,dtype=bf16,w_dtype=fp4_e2m1", "w_dtype", "mxfp4 or nvfp4"),
        ("gemm:m=1,n=16,k=64,dtype=fp4_e2m1", "dtype", "mxfp4 and nvfp4"),
        ("gemm:m=1,n=16,k=64,dtype=bf16,a_dtype=f16", "a_dtype", "no scales"),
        (
            "gemm:m=1,n=16,k=64,dtype=bf16,a_dtype=fp8_e4m3_channel",
            "a_dtype",
            "activations",
        ),
        ("gemm:m=1,n=16,k=40,dtype=bf16,a_dtype=nvfp4", "k", "groups of nvfp4"),
        (
            "decode_attention:batch=1,context=9,q_heads=1,kv_heads=1,head_dim=64,dtype=bf16,\
             kv_dtype=nvfp4",
            "kv_dtype",
            "not of caches",
        ),
        (
            "prefill_attention:batch=1,new_tokens=9,q_heads=1,kv_heads=1,head_dim=64,dtype=bf16,\
             kv_dtype=fp8_e4m3_head",
            "kv_dtype",
            "a prompt",
        ),
        ("gemm:m=1,n=16,k=128,dtype=int4", "dtype", "format of weights"),
        (
            "moe_gemm:tokens=1,experts=4,top_k=5,n=1,k=1,dtype=f16,routing=zipf",
            "top_k",
            "there are 4 experts",
        ),
        (
            "moe_gemm:tokens=1,experts=4,top_k=2,n=1,k=1,dtype=f16,routing=random",
            "routing",
            "balanced, uniform, zipf",
        ),
        (
            "moe_gemm:tokens=1,experts=4,top_k=2,n=1,k=1,dtype=f16,routing=balanced,routing_seed=1",
            "routing_seed",
            "draws nothing",
        ),
        (
            "moe_gemm:tokens=1,experts=4,top_k=2,n=1,k=1,dtype=f16,routing=zipf,rows=masked",
            "inputs",
            "write inputs = per_expert",
        ),
        (
            "moe_gemm:tokens=99999999,experts=4,top_k=2,n=1,k=1,dtype=f16,routing=zipf",
            "tokens",
            "up to 16777216",
        ),
        (
            "mla_decode:batch=1,context=9,q_heads=1,dtype=bf16,kv_dtype=int8",
            "kv_dtype",
            "fp8",
        ),
        (
            "mla_decode:batch=1,context=9,q_heads=1,dtype=bf16,layout=paged64_nhd",
            "layout",
            "without `_nhd`",
        ),
        (
            "mla_decode:batch=1,context=9,q_heads=1,dtype=bf16,kv_dtype=fp8_e4m3,latent_dim=64",
            "kv_dtype",
            "multiples of 256",
        ),
        (
            "mla_decode:batch=1,context=1,q_heads=1,dtype=bf16,new_tokens=2",
            "new_tokens",
            "longer",
        ),
    ];
    for (text, key, part) in cases {
        let error = text.parse::<Problem>().unwrap_err();
        assert_eq!(error.key.unwrap_or_default(), key, "{text}");
        assert!(error.message.contains(part), "{text}: {}", error.message);
    }
}

/// A format of numbers.
fn dtypes() -> impl Strategy<Value = DType> {
    use DType::{F64, Fp4E2m1, Fp8E5m2, Int4, Tf32};
    let is_whole = |dtype: &DType| !matches!(dtype, Int4 | Fp4E2m1 | Tf32 | Fp8E5m2 | F64);
    let all: Vec<_> = DType::ALL.into_iter().filter(is_whole).collect();
    prop::sample::select(all)
}

/// Schemes of weights.
const WEIGHTS: [&str; 16] = [
    "f32",
    "bf16",
    "f16",
    "fp8_e4m3",
    "fp8_e4m3_tensor",
    "fp8_e4m3_block128x128",
    "fp8_e4m3_block1x128",
    "int8",
    "int8_tensor",
    "int4",
    "int4_g32",
    "int4_g128_zp",
    "int4_g64_zp",
    "mxfp4",
    "mxfp8",
    "nvfp4",
];

/// Schemes of activations; the first stands for values without scales.
const ACTIVATIONS: [&str; 7] = [
    "",
    "fp8_e4m3_tensor",
    "fp8_e4m3_token",
    "int8_token",
    "fp8_e4m3_block1x128",
    "mxfp8",
    "nvfp4",
];

/// The value of a key in an operation's example.
fn example_of(op: Op, key: &str) -> Option<String> {
    let fields = op.facts().examples[0].parse::<Problem>().unwrap().fields();
    fields.into_iter().find(|(name, _)| *name == key).map(|(_, value)| value)
}

prop_compose! {
    fn any_problem()(
        op in prop::sample::select(&Op::ALL[..]),
        dims in prop::array::uniform6(1u64..200),
        group in 1u64..9,
        (dtype, kv_dtype) in (dtypes(), dtypes()),
        w_dtype in prop::sample::select(&WEIGHTS[..]),
        a_dtype in prop::sample::select(&ACTIVATIONS[..]),
        choice in 0usize..3,
        access in 0usize..Access::ALL.len(),
    ) -> Problem {
        let is_latent = matches!(
            op,
            Op::MlaDecode | Op::MlaAppend | Op::IndexTopk | Op::SparseMla
        );
        let fields = op.keys().enumerate().map(|(i, key)| {
            let value = match key {
                "access" => Access::ALL[access].to_string(),
                "unit" => Unit::Fma.to_string(),
                "operands" => "native".into(),
                "data" => "small".into(),
                "bytes" => (dims[0] * 768).to_string(),
                // More are of reads alone, and move the same arrays again.
                "passes" => "1".into(),
                "reuse" => "shared".into(),
                "direction" => TransferDirection::ALL[choice].to_string(),
                "memory" => HostMemory::ALL[access % 2].to_string(),
                "dtype" if op == Op::DecodeStep && dtype.is_scaled() => "f16".into(),
                "dtype" => dtype.to_string(),
                "w_dtype" => w_dtype.to_string(),
                "q_dtype" if kv_dtype == DType::Fp8E4m3 && access % 2 == 1 => {
                    ["fp8_e4m3", "fp8_e4m3_tensor", "fp8_e4m3"][choice].into()
                }
                "q_dtype" => dtype.to_string(),
                "a_dtype" if a_dtype.is_empty() => dtype.to_string(),
                "a_dtype" => a_dtype.to_string(),
                "kv_dtype" if is_latent && kv_dtype == DType::Int8 => "bf16".into(),
                "kv_dtype" if !is_latent && kv_dtype.is_scaled() && choice == 1 => {
                    format!("{kv_dtype}_tensor")
                }
                "kv_dtype" => kv_dtype.to_string(),
                // Whole tiles and groups of int4.
                "n" => (16 * dims[1]).to_string(),
                "k" => (128 * dims[2]).to_string(),
                "top_k" => (1 + dims[0] % dims[1]).to_string(),
                "experts" => dims[1].to_string(),
                "routing" => Routing::ALL[choice].to_string(),
                "routing_seed" => (dims[3] * u64::from(choice > 0)).to_string(),
                "inputs" => Inputs::ALL[access % 2].to_string(),
                "rows" if access % 2 == 1 => RowOrder::ALL[choice].to_string(),
                "rows" => RowOrder::Scattered.to_string(),
                "latent_dim" => (256 * (1 + dims[3] % 3)).to_string(),
                "rope_dim" => (4 * dims[2]).to_string(),
                "layout" => match op {
                    Op::KvAppend | Op::MlaAppend | Op::RopeAppend | Op::DecodeStep => {
                        format!("paged{}", dims[1])
                    }
                    Op::MlaDecode if choice == 2 => "paged64".into(),
                    _ => ["contiguous".into(), format!("paged{}", dims[1]), "paged16_nhd".into()]
                        [choice].clone(),
                },
                "lengths" => Lengths::ALL[choice % 2].to_string(),
                "context" => (8 * dims[1]).to_string(),
                "new_tokens" => (1 + dims[4] % dims[1].min(64)).to_string(),
                "window" if op == Op::PrefillAttention && choice > 0 => "0".into(),
                "window" => (dims[5] % 3 * dims[0]).to_string(),
                "kv_heads" | "key_heads" => dims[2].to_string(),
                "state_heads" => (dims[2] * group).to_string(),
                "key_dim" => (4 * dims[3]).to_string(),
                "value_dim" => (4 * dims[5]).to_string(),
                "rule" => StateRule::ALL[access % 2].to_string(),
                "decay" => StateDecay::ALL[choice].to_string(),
                "head_dim" if op == Op::IndexTopk => (128 * (1 + dims[3] % 2)).to_string(),
                "head_dim" if matches!(op, Op::RopeAppend | Op::DecodeStep) => (2 * dims[3]).to_string(),
                "pages" => CachePages::ALL[access % 2].to_string(),
                "q_heads" => (dims[2] * group).to_string(),
                _ => match example_of(op, key) {
                    Some(flag) if flag.parse::<bool>().is_ok() => (choice == 0).to_string(),
                    // A key with a spelling of its own keeps the example's value.
                    Some(value) if value.parse::<u64>().is_err() => value,
                    _ => dims[i % 6].to_string(),
                },
            };
            (key.to_owned(), value)
        });
        Problem::from_fields(op, &fields.collect::<Vec<_>>()).unwrap()
    }
}

proptest! {
    #[test]
    fn text_parses_back(problem in any_problem()) {
        prop_assert_eq!(problem.to_string().parse::<Problem>(), Ok(problem));
    }

    #[test]
    fn every_field_has_a_column(problem in any_problem()) {
        let fields = problem.fields();
        let keys: Vec<_> = fields.iter().map(|(key, _)| *key).collect();
        // In order; some are left out at their defaults.
        let mut all = problem.op().keys();
        prop_assert!(keys.iter().all(|key| all.any(|other| other == *key)));
        prop_assert!(keys.iter().all(|key| shape_keys().contains(key)));
    }

    /// The formulas against a second count: the sizes of the arrays. Where only a
    /// part of an array is needed, that part is counted one by one.
    #[test]
    fn compulsory_bytes_are_the_sizes_of_the_arrays(problem in any_problem()) {
        // What is made of others is counted by these.
        if let Problem::DecodeStep(p) = problem {
            let works = p.stages().into_iter().map(|stage| stage.problem.work());
            let sum = works.fold(crate::resource::Work::NONE, crate::resource::Work::and);
            prop_assert_eq!(problem.work(), sum);
            return Ok(());
        }
        // What lies on the host is not the device's memory.
        let sum = |role| {
            let counts = |t: &&Tensor| t.role == role && t.place == MemoryPlace::Device;
            problem.tensors().iter().filter(counts).map(Tensor::bytes).sum::<u64>()
        };
        let work = problem.work();
        let unread = match problem {
            Problem::KvRead(p) => unread_bytes(&p, kv_row_bytes(&p), |_| 0),
            Problem::DecodeAttention(p) => {
                unread_bytes(&p.kv(), kv_row_bytes(&p.kv()), |length| first_visible(&p, length))
            }
            Problem::MlaDecode(p) => unread_bytes(&p.kv(), p.record_bytes(), |_| 0),
            Problem::MoeGemm(p) => {
                let tensors = problem.tensors();
                let of_experts = tensors.iter().filter(|t| t.name.starts_with('w'));
                let expert: u64 = of_experts.map(|t| t.bytes() / p.experts).sum();
                let x = |rows| p.a_dtype.matrix_bytes(rows, p.k);
                let gaps = match p.row_order {
                    RowOrder::Masked => x(p.experts * p.tokens) - x(p.rows()),
                    RowOrder::Scattered | RowOrder::Contiguous => 0,
                };
                expert * (p.experts - p.experts_touched()) + gaps
            }
            Problem::KvAppend(p) => {
                unread_page_numbers(p.batch, p.page_size(), p.new_tokens, p.pages(), |request| p.first_place(request))
            }
            Problem::MlaAppend(p) => {
                unread_page_numbers(p.batch, p.page_size(), p.new_tokens, p.pages(), |request| p.first_place(request))
            }
            Problem::Embedding(p) => p.dtype.bytes_of((p.vocab - p.rows_read()) * p.n),
            Problem::RopeAppend(p) => 4 * p.batch * (p.pages() - 1),
            Problem::SparseMla(p) => {
                let read = p.context.min(p.new_tokens * p.top_k);
                let dense = format!(
                    "mla_decode:batch=1,context=1,q_heads=1,latent_dim={},rope_dim={},dtype={},\
                     kv_dtype={}",
                    p.latent_dim, p.rope_dim, p.dtype, p.kv_dtype
                );
                let record = dense.parse::<Problem>().unwrap().cache_bytes();
                p.batch * (p.context - read) * record
            }
            // What is sent is not memory.
            Problem::Collective(_) => sum(Role::Input),
            Problem::PrefillAttention(p) => {
                let row_bytes = (p.head_dim + p.v_head_dim) * p.kv_dtype.dtype().bytes();
                let of_request = |number| {
                    let request = p.request(number);
                    let seen = request.attended(0).start..request.context();
                    let unseen = p.layout.allocated(p.context()) - (seen.end - seen.start);
                    let pages = p.layout.pages(1, p.context()) - p.layout.pages_of(&seen);
                    unseen * p.kv_heads * row_bytes + 4 * pages
                };
                (0..p.batch).map(of_request).sum()
            }
            _ => 0,
        };
        prop_assert_eq!(work.bytes_read() + unread, sum(Role::Input));
        let written = match problem {
            Problem::Collective(_) => 0,
            _ => sum(Role::Output) + appended_bytes(&problem),
        };
        prop_assert_eq!(work.bytes_written(), written);
    }

    /// Multiply-adds counted one by one.
    #[test]
    fn decode_flops_are_those_of_what_is_attended(problem in any_problem()) {
        let Problem::DecodeAttention(p) = problem else { return Ok(()) };
        let mut attended = 0;
        for request in 0..p.batch.min(20) {
            let length = p.lengths.of(request, p.context);
            for token in 0..p.new_tokens {
                let position = length - p.new_tokens + token;
                let sees = |other: u64| {
                    other <= position && (p.window == 0 || position - other < p.window)
                };
                attended += (0..length).filter(|&other| sees(other)).count() as u64;
            }
        }
        let first = DecodeAttention { batch: p.batch.min(20), ..p };
        let flops = Problem::DecodeAttention(first).work().flops();
        prop_assert_eq!(flops, 4 * p.q_heads * p.head_dim * attended);
    }

    #[test]
    fn prefill_flops_are_those_of_what_is_attended(problem in any_problem()) {
        let Problem::PrefillAttention(p) = problem else { return Ok(()) };
        let p = PrefillAttention { batch: p.batch.min(20), ..p };
        let (mut attended, mut keys_seen, mut pages_seen, mut tokens) = (0, 0, 0, 0);
        for number in 0..p.batch {
            let length = p.lengths.of(number, p.prefix + p.new_tokens);
            let new_tokens = p.lengths.of(number, p.new_tokens);
            let sees = |row: u64, key: u64| {
                let position = length - new_tokens + row;
                !p.causal
                    || key <= position && (p.window == 0 || position - key < p.window)
            };
            let keys = |row| (0..length).filter(move |&key| sees(row, key));
            attended += (0..new_tokens).map(|row| keys(row).count() as u64).sum::<u64>();
            let seen: Vec<u64> =
                (0..length).filter(|&key| (0..new_tokens).any(|row| sees(row, key))).collect();
            let page = |key: &u64| match p.layout {
                KvLayout::Contiguous => None,
                KvLayout::Paged { page_size, .. } => Some(key / page_size),
            };
            keys_seen += seen.len() as u64;
            pages_seen += seen.iter().filter_map(page).collect::<BTreeSet<u64>>().len() as u64;
            tokens += new_tokens;
        }
        let (widths, problem) = (p.head_dim + p.v_head_dim, Problem::PrefillAttention(p));
        prop_assert_eq!(problem.work().flops(), 2 * p.q_heads * widths * attended);
        let row_bytes = p.kv_heads * widths * p.kv_dtype.dtype().bytes();
        // One scale of all keys and one of all values, in f32.
        let scale_bytes = if p.kv_dtype.is_scaled() { 8 } else { 0 };
        prop_assert_eq!(
            problem.cache_bytes(),
            row_bytes * keys_seen + scale_bytes + 4 * pages_seen
        );
        prop_assert_eq!(
            problem.work().bytes_written(),
            p.dtype.bytes_of(tokens * p.q_heads * p.v_head_dim)
        );
    }

    /// Weights, cache and the rest are parts of the whole.
    #[test]
    fn kinds_of_bytes_are_parts_of_all(problem in any_problem()) {
        let work = problem.work();
        prop_assert!(problem.weight_bytes() + problem.cache_bytes() <= work.bytes_read());
        if let Problem::Gemm(p) = problem {
            let tensors = problem.tensors();
            let of_a = tensors.iter().filter(|tensor| tensor.name.starts_with('a'));
            let a: u64 = of_a.map(Tensor::bytes).sum();
            let c = p.dtype.bytes_of(p.m * p.n);
            prop_assert_eq!(work.bytes(), problem.weight_bytes() + a + c);
            if p.has_plain_activations() {
                prop_assert_eq!(a, p.dtype.bytes_of(p.m * p.k));
            }
        }
    }

    #[test]
    fn latent_flops_are_those_of_what_is_attended(problem in any_problem()) {
        let Problem::MlaDecode(p) = problem else { return Ok(()) };
        let attended: u64 = (0..p.batch)
            .flat_map(|request| {
                let length = p.length(request);
                (0..p.new_tokens).map(move |token| length - p.new_tokens + token + 1)
            })
            .sum();
        let of_token = 2 * p.q_heads * (p.latent_dim + p.rope_dim + p.latent_dim);
        prop_assert_eq!(problem.work().flops(), of_token * attended);
    }

    #[test]
    fn nonsense_never_panics(text in "[a-z_]{0,12}:?([a-z_]{0,9}=?[0-9a-zM ]{0,20},?){0,5}") {
        let _ = text.parse::<Problem>();
    }
}

/// First token that the oldest new token of a request sees.
fn first_visible(p: &DecodeAttention, length: u64) -> u64 {
    let seen = length - p.new_tokens + 1;
    if p.window == 0 { 0 } else { seen.saturating_sub(p.window) }
}

/// Bytes of a token's keys and values.
fn kv_row_bytes(p: &KvRead) -> u64 {
    2 * p.kv_heads * p.head_dim * p.dtype.bytes()
}

/// Bytes of a cache with so many for each token, and of its page table, that nobody
/// needs.
fn unread_bytes(p: &KvRead, row_bytes: u64, first: impl Fn(u64) -> u64) -> u64 {
    let (mut tokens, mut pages) = (0, 0);
    for request in 0..p.batch {
        let length = p.length(request);
        let used = first(length)..length;
        let mut allocated = p.context;
        if let KvLayout::Paged { page_size, .. } = p.layout {
            allocated = p.context.next_multiple_of(page_size);
            let needed = |page: u64| {
                let of_page = page * page_size..(page + 1) * page_size;
                used.start < of_page.end && of_page.start < used.end
            };
            let all = 0..allocated / page_size;
            pages += all.filter(|&page| !needed(page)).count() as u64;
        }
        tokens += (0..allocated).filter(|token| !used.contains(token)).count() as u64;
    }
    tokens * row_bytes + 4 * pages
}

/// Bytes of page numbers for pages that no new token falls into, where the cache has so
/// many pages for each request.
fn unread_page_numbers(
    batch: u64,
    page_size: u64,
    new_tokens: u64,
    pages: u64,
    first_place: impl Fn(u64) -> u64,
) -> u64 {
    let unused = |request: u64| {
        let places = first_place(request)..first_place(request) + new_tokens;
        let page = |n: u64| n * page_size..(n + 1) * page_size;
        let meets = |n: &u64| page(*n).any(|place| places.contains(&place));
        (0..pages).filter(|n| !meets(n)).count() as u64
    };
    4 * (0..batch).map(unused).sum::<u64>()
}

/// Bytes that an operation writes into part of an array.
fn appended_bytes(problem: &Problem) -> u64 {
    match problem {
        Problem::KvAppend(p) => {
            2 * p.batch
                * p.new_tokens
                * p.kv_heads
                * p.head_dim
                * p.kv_dtype.dtype().bytes()
        }
        Problem::RopeAppend(p) => p.dtype.bytes_of(2 * p.batch * p.kv_heads * p.head_dim),
        Problem::MlaAppend(p) => p.batch * p.new_tokens * p.attention().record_bytes(),
        Problem::MoeGemm(p) if p.row_order == RowOrder::Masked => {
            p.dtype.bytes_of(p.rows() * p.n)
        }
        _ => 0,
    }
}

#[test]
fn lengths_are_spread_between_an_eighth_and_all() {
    let lengths: Vec<u64> = (0..1000).map(|r| Lengths::Ragged.of(r, 8000)).collect();
    let mean = lengths.iter().sum::<u64>() / 1000;
    assert!(lengths.iter().all(|length| (1000..=8000).contains(length)));
    assert!((4480..4520).contains(&mean), "{mean}");
    assert!(lengths.iter().max() > Some(&7980) && lengths.iter().min() < Some(&1020));
    assert_eq!(lengths[..4], [5326, 2652, 6979, 4305]);
    assert_eq!(Lengths::Ragged.of(5, 1), 1);
    assert!((0..1000).all(|r| Lengths::Equal.of(r, 8000) == 8000));
}

/// Eight-bit caches: half of the bytes, and a scale for each head; a window: what it
/// holds and no more; a draft of four tokens: nearly the same bytes, four times the
/// FLOPs.
#[test]
fn variants_of_decode_attention_golden() {
    let decode = |rest: &str| {
        work(&format!(
            "decode_attention:batch=2,context=8192,q_heads=32,kv_heads=8,head_dim=128,\
             dtype=bf16{rest}"
        ))
    };
    let (plain, q_bytes) = (decode(""), 2 * 32 * 128 * 2);
    let fp8 = decode(",kv_dtype=fp8_e4m3");
    assert_eq!(fp8.bytes_read() - q_bytes, (plain.bytes_read() - q_bytes) / 2 + 2 * 8 * 8);
    let window = decode(",window=1024");
    assert_eq!(window.flops() * 8, plain.flops());
    assert_eq!((window.bytes_read() - q_bytes) * 8, plain.bytes_read() - q_bytes);
    let draft = decode(",new_tokens=4");
    assert_eq!(draft.flops(), 4 * 4 * 2 * 32 * 128 / 4 * (4 * 8192 - 6));
    assert_eq!(draft.bytes() - plain.bytes(), 2 * 3 * q_bytes);
}

/// One token of 8 heads of 128 numbers is 4 KiB of keys and values in bf16.
#[test]
fn appended_bytes_golden() {
    let append = |rest: &str| {
        work(&format!(
            "kv_append:batch=64,context=8192,kv_heads=8,head_dim=128,dtype=bf16,\
             layout=paged16{rest}"
        ))
    };
    let plain = append("");
    assert_eq!((plain.bytes_read(), plain.bytes_written()), (64 * (4096 + 4), 64 * 4096));
    let fp8 = append(",kv_dtype=fp8_e4m3,new_tokens=17");
    assert_eq!(fp8.bytes_written(), 64 * 17 * 2048);
    assert_eq!(fp8.bytes_read(), 64 * (17 * 4096 + 2 * 4 + 8 * 8));
}

#[test]
fn impossible_requests_are_told_what_to_do() {
    let cache = "batch=1,kv_heads=1,head_dim=8,dtype=f16";
    for (text, key, part) in [
        (format!("kv_append:{cache},context=8"), "layout", "paged16"),
        (
            format!("kv_append:{cache},context=8,new_tokens=9,layout=paged16"),
            "new_tokens",
            "has 8 tokens",
        ),
        (
            format!("decode_attention:{cache},q_heads=1,context=64,new_tokens=9,lengths=ragged"),
            "new_tokens",
            "has 8 tokens",
        ),
        (
            format!("decode_attention:{cache},q_heads=1,context=999,new_tokens=99"),
            "new_tokens",
            "prefill_attention",
        ),
        (format!("kv_read:{cache},context=9,lengths=odd"), "lengths", "equal, ragged"),
        (format!("kv_read:{cache},context=9,layout=paged16_hnd"), "layout", "paged16_nhd"),
        (
            "kv_read:batch=2000000,context=9,kv_heads=1,head_dim=8,dtype=f16,lengths=ragged"
                .to_owned(),
            "batch",
            "1048576",
        ),
    ] {
        let error = text.parse::<Problem>().unwrap_err();
        assert_eq!(error.key.unwrap_or_default(), key, "{text}");
        assert!(error.message.contains(part), "{text}: {}", error.message);
    }
}

/// The table and the operations' own words agree.
#[test]
fn every_operation_keeps_the_table_s_contract() {
    for op in Op::ALL {
        assert_eq!(op.name().parse(), Ok(op));
        for example in op.facts().examples {
            keeps_the_contract(op, &example.parse().unwrap());
        }
    }
}

fn keeps_the_contract(op: Op, example: &Problem) {
    assert_eq!(example.op(), op);
    assert_eq!(example.operation().values().len(), op.facts().keys.len(), "{op}");
    let tensors = example.tensors();
    let inputs = tensors.iter().take_while(|tensor| tensor.role == Role::Input).count();
    let (inputs, outputs) = tensors.split_at(inputs);
    assert!(!inputs.is_empty() && !outputs.is_empty(), "{op}");
    let output = example.output();
    // An output may be there beside updates, of which the last tensor then is one.
    let is_alike = |tensor: &Tensor| {
        let is_beside = (tensor.role, output.role) == (Role::Output, Role::Update);
        tensor.format == output.format && (is_beside || tensor.role == output.role)
    };
    assert!(output.role != Role::Input && outputs.iter().all(is_alike), "{op}");
    let bytes: u64 = outputs.iter().map(Tensor::bytes).sum();
    assert_eq!(output.bytes(), bytes, "{op}");
    let mut names: Vec<_> = tensors.iter().map(|tensor| tensor.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), tensors.len(), "{op}");
}

/// Numbers at the ends of their range are refused or counted, and never wrap around: tests
/// are compiled with checks of overflow.
fn extreme_problem(op: Op, choices: &[usize]) -> Result<Problem, ProblemError> {
    const ENDS: [u64; 9] =
        [1, 2, 64, 4096, 1 << 16, 1 << 20, 1 << 32, (1 << 40) - 1, 1 << 40];
    let example: Problem = op.facts().examples[0].parse().unwrap();
    let fields =
        example.spelled().into_iter().zip(choices).map(|((key, value), &choice)| {
            let is_number = value.parse::<u64>().is_ok();
            let end = ENDS[choice % ENDS.len()].to_string();
            (key.name.to_owned(), if is_number && choice % 10 > 0 { end } else { value })
        });
    Problem::from_fields(op, &fields.collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn extremes_are_refused_or_counted(
        op in prop::sample::select(&Op::ALL[..]),
        choices in prop::collection::vec(0usize..90, 16),
    ) {
        let Ok(problem) = extreme_problem(op, &choices) else { return Ok(()) };
        // Counting experts one by one takes as long as there are rows.
        if problem.routed().is_none() {
            let work = problem.work();
            prop_assert!(work.bytes() <= 2 * MAX_BYTES && work.flops() <= MAX_FLOPS);
            prop_assert!(problem.weight_bytes() + problem.cache_bytes() <= work.bytes_read());
            problem.explanation();
        }
        prop_assert!(problem.tensors().iter().map(Tensor::bytes).sum::<u64>() > 0);
    }
}

/// Groups that do not divide a row are counted up in predictions, and not run.
#[test]
fn shorter_groups_are_counted_and_not_run() {
    let gemm = |k| {
        let w_dtype = Quant::weights(DType::Int4);
        let a_dtype = DType::Bf16.into();
        Problem::from(crate::op::Gemm {
            m: 1,
            n: 16,
            k,
            dtype: DType::Bf16,
            w_dtype,
            a_dtype,
        })
    };
    let problem = gemm(2880).counted().unwrap();
    assert_eq!(problem.weight_bytes(), 16 * (2880 / 2 + 2 * 23));
    let error = gemm(2880).checked().unwrap_err();
    assert!(error.message.contains("multiple of 128") && error.is_countable, "{error}");
    // Other errors are errors there too.
    let text = "gemm:m=1,n=16,k=128,dtype=bf16,a_dtype=f16";
    assert!(!text.parse::<Problem>().unwrap_err().is_countable);
    assert!(gemm(1 << 30).counted().is_ok() && gemm(1 << 50).counted().is_err());
}

/// Columns of records keep their order: what is new comes last.
#[test]
fn columns_begin_with_those_of_the_first_campaigns() {
    assert_eq!(shape_keys()[..30], FIRST_SHAPE_KEYS);
    let mut keys = shape_keys();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), shape_keys().len());
}

/// In a ring each of 8 ranks sends 7/8 of the array twice to reduce and gather it.
#[test]
fn collectives_golden() {
    let of = |kind: &str| {
        work(&format!("collective:collective={kind},ranks=8,bytes=64 KiB")).sent_bytes()
    };
    assert_eq!(of("all_reduce"), 2 * 7 * 8192);
    assert_eq!(of("all_gather"), 7 * 8192);
    assert_eq!(of("reduce_scatter"), 7 * 8192);
    assert_eq!(of("all_to_all"), 7 * 8192);
    let alone = work("collective:collective=all_reduce,ranks=1,bytes=64 KiB");
    assert_eq!((alone.sent_bytes(), alone.bytes(), alone.flops()), (0, 0, 0));
}

/// A token of DeepSeek-V3 is 576 elements in 16 bits, or a record of 656 bytes.
#[test]
fn appended_latents_golden() {
    let append = |rest: &str| {
        work(&format!("mla_append:batch=64,context=8192,dtype=bf16,layout=paged64{rest}"))
    };
    let plain = append("");
    assert_eq!((plain.bytes_read(), plain.bytes_written()), (64 * (1152 + 4), 64 * 1152));
    let fp8 = append(",kv_dtype=fp8_e4m3,new_tokens=2");
    assert_eq!((fp8.bytes_read(), fp8.bytes_written()), (64 * (2304 + 4), 64 * 2 * 656));
}

/// Keys of 192 and values of 128, as in the prefill of DeepSeek-V3.
#[test]
fn narrow_values_of_prefill_golden() {
    let of = |widths: &str| {
        work(&format!(
            "prefill_attention:batch=1,new_tokens=100,q_heads=16,kv_heads=16,dtype=bf16,{widths}"
        ))
    };
    let narrow = of("head_dim=192,v_head_dim=128");
    assert_eq!(narrow.flops(), 2 * 16 * (192 + 128) * (100 * 101 / 2));
    assert_eq!(narrow.bytes_read(), 2 * 16 * 100 * (192 + 192 + 128));
    assert_eq!(narrow.bytes_written(), 2 * 16 * 100 * 128);
    // The mean of the widths counts the same FLOPs and bytes.
    let mean = of("head_dim=160");
    assert_eq!((mean.flops(), mean.bytes()), (narrow.flops(), narrow.bytes()));
}
