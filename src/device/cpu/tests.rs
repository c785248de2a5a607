use proptest::prelude::*;

use super::arena::Arena;
use super::device::*;
use super::simd::has_bf16_pairs;

use super::*;
use crate::device::*;
use crate::format::DType;
use crate::kernel::Candidate;
use crate::op::Problem;
use crate::reference::{CheckVerdict, check};

const SEED: u64 = 7;

/// Runs a problem in two slots and holds both against the reference.
pub(super) fn verify(device: &mut CpuDevice, text: &str) {
    let kernel = device.kernel(&text.parse().unwrap()).unwrap();
    verify_as(device, text, kernel);
}

/// The same with a kernel, or a configuration of one.
fn verify_as(device: &mut CpuDevice, text: &str, kernel: &str) {
    let problem: Problem = text.parse().unwrap();
    let mut ready = device.prepare(&problem, kernel, Layout::new(2, SEED)).unwrap();
    ready.poison().unwrap();
    let timing = ready.launch(1, 3).unwrap();
    assert!(timing.seconds > 0.0);
    for slot in 0..2 {
        let output = ready.output(slot).unwrap();
        let found = check(&problem, SEED, slot, 0, &output).unwrap();
        assert_eq!(
            found.verdict,
            CheckVerdict::Pass,
            "{text} by {kernel} slot {slot}: {}",
            found.message
        );
    }
}

/// Contexts that end within blocks, are divided and lie in pages; rows of products around
/// pieces of work and stripes; groups of query heads of every size that loops take at once.
#[test]
fn every_configuration_is_right() {
    let mut device = device();
    let mut texts: Vec<String> = ["f32", "bf16"]
        .map(|dtype| format!("gemm:m=9,n=331,k=72,dtype={dtype}"))
        .into_iter()
        .chain([1, 3].map(|m| format!("gemm:m={m},n=530,k=96,dtype=f16")))
        .chain(["read", "copy"].map(|a| format!("stream:access={a},bytes=3 MiB")))
        .collect();
    for layout in ["contiguous", "paged16", "paged16_nhd"] {
        texts.push(format!(
            "kv_read:batch=2,context=1537,kv_heads=2,head_dim=64,dtype=bf16,layout={layout}"
        ));
        texts.push(decode((1537, 2, 1, 64), ("bf16", "bf16"), layout));
        texts.push(decode((700, 20, 2, 80), ("bf16", "f16"), layout));
    }
    let mut ran = std::collections::BTreeSet::new();
    for text in &texts {
        let problem = text.parse().unwrap();
        for Candidate { kernel, configuration } in device.candidates(&problem) {
            let name = format!("{kernel}.{}", configuration.name);
            verify_as(&mut device, text, &name);
            ran.insert(name);
        }
    }
    for (kernel, least) in [
        ("stream", 5),
        ("kv_read", 4),
        ("decode_attention", 10 + usize::from(has_bf16_pairs())),
        ("gemm", 4),
    ] {
        let count = ran.iter().filter(|n| n.starts_with(&format!("cpu_{kernel}."))).count();
        assert!(count >= least, "{kernel}: {count}");
    }
}

pub(super) fn device() -> CpuDevice {
    CpuDevice::with(host::device_info(), Arena::new(0))
}

#[test]
fn streams_are_right() {
    let mut device = device();
    for access in ["read", "write", "copy"] {
        for bytes in [128, 256, 65_536 + 128, 3 << 20] {
            verify(&mut device, &format!("stream:access={access},bytes={bytes}"));
        }
    }
    // Fewer lines than threads, an odd line, and shares that no thread has done with at once.
    for bytes in [128, 384, 65_536 + 128, 3 << 20] {
        for passes in [2, 7] {
            for reuse in ["shared", "own"] {
                let rest = format!("passes={passes},reuse={reuse}");
                verify(&mut device, &format!("stream:access=read,bytes={bytes},{rest}"));
            }
        }
    }
    let own = "stream:access=read,bytes=3 MiB,passes=2,reuse=own";
    verify_as(&mut device, own, "cpu_stream.half_of_the_threads");
    let why = device.prepare(
        &own.parse().unwrap(),
        "cpu_stream.chunks_of_1_mib",
        Layout::new(1, SEED),
    );
    let why = why.err().unwrap().to_string();
    assert!(why.contains("reuse = own") && why.contains("use `cpu_stream`"), "{why}");
    for bytes in [384, 768, 3 * 65_536 + 384, 9 << 20] {
        verify(&mut device, &format!("stream:access=triad,bytes={bytes}"));
    }
}

#[test]
fn transfers_are_right() {
    let mut device = device();
    for direction in ["host_to_device", "device_to_host", "both"] {
        for bytes in [256, 65_536 + 256, 3 << 20] {
            for memory in ["pinned", "pageable"] {
                let rest = format!("direction={direction},memory={memory},bytes={bytes}");
                verify(&mut device, &format!("transfer:{rest}"));
            }
        }
    }
}

#[test]
fn chains_are_right() {
    let mut device = device();
    for lanes in [1, 15, 16, 255, 256, 257, 1000] {
        verify(&mut device, &format!("peak:unit=fma,dtype=f32,lanes={lanes},steps=77"));
        let of_pairs = format!("peak:unit=tensor,dtype=bf16,lanes={lanes},steps=77");
        if has_bf16_pairs() {
            verify(&mut device, &of_pairs);
            verify(&mut device, &format!("{of_pairs},data=zeros"));
        } else {
            let why = device.kernel(&of_pairs.parse().unwrap()).unwrap_err();
            assert!(why.0.contains("AVX512-BF16"), "{why:?}");
        }
    }
}

#[test]
fn appended_tokens_are_right() {
    let mut device = device();
    for layout in ["paged1", "paged16", "paged16_nhd", "paged3"] {
        for (new_tokens, context) in [(1, 8), (1, 17), (3, 40), (20, 200)] {
            for (dtype, kv_dtype) in [("bf16", "bf16"), ("f32", "f16"), ("bf16", "f32")] {
                for lengths in ["equal", "ragged"] {
                    verify(
                        &mut device,
                        &format!(
                            "kv_append:batch=5,context={context},new_tokens={new_tokens},\
                             kv_heads=3,head_dim=8,dtype={dtype},kv_dtype={kv_dtype},\
                             layout={layout},lengths={lengths}"
                        ),
                    );
                }
            }
        }
    }
}

#[test]
fn a_token_in_the_wrong_place_is_found() {
    let text = "kv_append:batch=2,context=17,new_tokens=2,kv_heads=1,head_dim=8,dtype=bf16,\
                layout=paged16";
    let problem: Problem = text.parse().unwrap();
    let mut device = device();
    let mut ready =
        device.prepare(&problem, "cpu_kv_append", Layout::new(1, SEED)).unwrap();
    ready.poison().unwrap();
    ready.launch(0, 1).unwrap();
    let right = ready.output(0).unwrap().into_owned();
    // Of each request's two pages one row of keys is written; the cache has two halves.
    let rows = || right.chunks(16).enumerate();
    let (written, _) = rows().find(|(_, row)| row[0] != 0xff || row[1] != 0xff).unwrap();
    let (empty, _) = rows().find(|(_, row)| row.iter().all(|&b| b == 0xff)).unwrap();
    let found = |wrong: &[u8]| check(&problem, SEED, 0, 0, wrong).unwrap().message;
    assert_eq!(found(&right), "");
    let mut stray = right.clone();
    stray[empty * 16 + 5] = 0;
    assert!(found(&stray).contains("no new token belongs there"));
    let mut changed = right.clone();
    changed[written * 16] ^= 1;
    assert!(found(&changed).contains("expected"));
    let mut missing = right.clone();
    missing[written * 16..][..16].fill(0xff);
    assert!(found(&missing).contains("is NaN, expected"), "a row that nobody wrote");
}

#[test]
fn requests_of_several_lengths_are_right() {
    let mut device = device();
    for layout in ["contiguous", "paged16", "paged16_nhd"] {
        let cache = format!("context=1000,kv_heads=2,layout={layout},lengths=ragged");
        verify(&mut device, &format!("kv_read:batch=5,{cache},head_dim=16,dtype=f32"));
        verify(
            &mut device,
            &format!("decode_attention:batch=5,{cache},q_heads=6,head_dim=64,dtype=bf16"),
        );
    }
}

#[test]
fn cache_reads_are_right() {
    let mut device = device();
    for layout in ["contiguous", "paged1", "paged16", "paged64", "paged16_nhd"] {
        for context in [1, 15, 17, 65, 1000] {
            for (kv_heads, head_dim, dtype) in
                [(1, 8, "bf16"), (3, 80, "f32"), (2, 12, "int8")]
            {
                verify(
                    &mut device,
                    &format!(
                        "kv_read:batch=3,context={context},kv_heads={kv_heads},\
                         head_dim={head_dim},dtype={dtype},layout={layout}"
                    ),
                );
            }
        }
    }
}

#[test]
fn gemms_are_right() {
    let mut device = device();
    for m in (1..=9).chain([17, 32, 33]) {
        for (n, k) in [(1, 1), (7, 33), (65, 31), (130, 100), (64, 600)] {
            for dtype in ["f32", "bf16", "f16"] {
                verify(&mut device, &format!("gemm:m={m},n={n},k={k},dtype={dtype}"));
            }
        }
    }
    verify(&mut device, "gemm:m=600,n=530,k=513,dtype=bf16");
}

fn decode(shape: (u64, u64, u64, u64), dtypes: (&str, &str), layout: &str) -> String {
    let (context, group, kv_heads, head_dim) = shape;
    let q_heads = group * kv_heads;
    let (dtype, kv_dtype) = dtypes;
    format!(
        "decode_attention:batch=2,context={context},q_heads={q_heads},kv_heads={kv_heads},\
         head_dim={head_dim},dtype={dtype},kv_dtype={kv_dtype},layout={layout}"
    )
}

#[test]
fn decode_is_right_for_every_tail_of_the_context() {
    let mut device = device();
    for context in [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000] {
        for (group, layout) in
            [(1, "paged16"), (2, "contiguous"), (4, "paged64"), (8, "paged1")]
        {
            verify(&mut device, &decode((context, group, 2, 64), ("bf16", "bf16"), layout));
        }
    }
    // Where one part has several blocks, and the last of them few tokens.
    for context in [97, 127, 128, 129, 144, 161, 255, 257, 303] {
        for (group, formats) in
            [(1, ("bf16", "bf16")), (4, ("bf16", "bf16")), (12, ("f16", "f16"))]
        {
            let text = decode((context, group, 2, 64), formats, "paged16");
            for ahead in ["ahead_16", "ahead_32", "ahead_64", "ahead_0", "blocks_of_32"] {
                verify_as(&mut device, &text, &format!("cpu_decode_attention.{ahead}"));
            }
        }
    }
}

#[test]
fn decode_is_right_for_every_group() {
    let mut device = device();
    for group in [1, 2, 3, 4, 5, 8, 12, 16] {
        verify(&mut device, &decode((50, group, 2, 128), ("f32", "f32"), "contiguous"));
        verify(&mut device, &decode((1000, group, 1, 64), ("f16", "f16"), "paged16"));
        verify(&mut device, &decode((333, group, 2, 80), ("bf16", "bf16"), "paged16"));
    }
}

#[test]
fn decode_is_right_for_every_head_width_and_format() {
    let mut device = device();
    for head_dim in [1, 8, 20, 64, 80, 128, 256] {
        for kv_dtype in ["f32", "bf16", "f16"] {
            for dtype in ["f32", "bf16", "f16"] {
                let shape = (45, 4, 2, head_dim);
                verify(&mut device, &decode(shape, (dtype, kv_dtype), "paged16"));
            }
            verify(
                &mut device,
                &decode((45, 1, 2, head_dim), ("f32", kv_dtype), "contiguous"),
            );
        }
    }
}

#[test]
fn prefill_is_right_at_the_edges_of_mask_and_tiles() {
    let mut device = device();
    for (prefix, new_tokens) in
        [(0, 1), (0, 33), (1, 1), (7, 65), (255, 2), (256, 1), (300, 40)]
    {
        for causal in [true, false] {
            for (dtype, head_dim) in [("f32", 8), ("bf16", 80), ("f16", 64)] {
                verify(
                    &mut device,
                    &format!(
                        "prefill_attention:batch=2,prefix={prefix},new_tokens={new_tokens},\
                         q_heads=6,kv_heads=2,head_dim={head_dim},causal={causal},dtype={dtype}"
                    ),
                );
            }
        }
    }
    verify(
        &mut device,
        "prefill_attention:batch=1,prefix=5,new_tokens=600,q_heads=1,kv_heads=1,head_dim=16,\
         causal=true,dtype=bf16,kv_dtype=f32",
    );
}

#[test]
fn split_contexts_cost_their_partial_results() {
    let mut device = device();
    let extra = |device: &mut CpuDevice, text: &str| {
        let problem = text.parse().unwrap();
        let kernel = device.kernel(&problem).unwrap();
        device.prepare(&problem, kernel, Layout::new(1, SEED)).unwrap().extra_bytes()
    };
    let alone = decode((512, 4, 1, 64), ("bf16", "bf16"), "contiguous");
    let items = cache::CacheSplit::new(
        &crate::op::KvRead {
            batch: 2,
            context: 512,
            kv_heads: 1,
            head_dim: 64,
            dtype: DType::Bf16,
            layout: crate::op::KvLayout::Contiguous,
            lengths: crate::op::Lengths::Equal,
        },
        rayon::current_num_threads(),
        crate::kernel::Configuration::DEFAULT,
    );
    let parts = if items.splits > 1 { items.items() as u64 } else { 0 };
    assert_eq!(extra(&mut device, &alone), Some(2 * parts * 4 * (64 + 2) * 4));
    assert_eq!(extra(&mut device, "gemm:m=2,n=2,k=2,dtype=f32"), Some(0));
    assert_eq!(extra(&mut device, "gemm:m=99,n=2,k=2,dtype=f32"), None);
}

#[test]
fn what_cannot_run_is_refused_with_a_reason() {
    let mut device = device();
    let cases = [
        ("gemm:m=1,n=1,k=1,dtype=int8", "dtype = int8"),
        (
            "decode_attention:batch=1,context=1,q_heads=1,kv_heads=1,head_dim=8,dtype=f32,\
             kv_dtype=fp8_e4m3",
            "kv_dtype = fp8_e4m3",
        ),
        (
            "decode_attention:batch=1,context=1,q_heads=1,kv_heads=1,head_dim=8,dtype=f32,\
             kv_dtype=fp8_e4m3_tensor",
            "kv_dtype = fp8_e4m3_tensor",
        ),
        ("gemm:m=1,n=1,k=32,dtype=bf16,w_dtype=mxfp4", "w_dtype = mxfp4"),
        ("gemm:m=1,n=1,k=32,dtype=bf16,a_dtype=mxfp8", "a_dtype = mxfp8"),
        ("peak:unit=tensor,dtype=f16,lanes=1,steps=1", "tensor unit"),
        ("peak:unit=fma,dtype=f16,lanes=1,steps=1", "dtype = f16"),
        ("kv_read:batch=1,context=1,kv_heads=1,head_dim=3,dtype=bf16", "6 bytes"),
    ];
    for (text, reason) in cases {
        let refusal = device.kernel(&text.parse().unwrap()).unwrap_err();
        assert!(refusal.to_string().contains(reason), "{refusal}");
    }
    let huge = "stream:access=read,bytes=1099511627776".parse().unwrap();
    let refusal = device.prepare(&huge, "cpu_stream", Layout::new(1, SEED)).err().unwrap();
    let available = device.info().memory_bytes.to_string();
    assert!(refusal.to_string().contains("1099511627840 bytes"), "{refusal}");
    assert!(refusal.to_string().contains(&available), "{refusal}");
    let small = "stream:access=read,bytes=128".parse().unwrap();
    let refusal = device.prepare(&small, "cpu_gemm", Layout::new(1, SEED)).err().unwrap();
    assert!(refusal.to_string().contains("use `cpu_stream`"), "{refusal}");
}

#[test]
fn slots_beyond_the_last_are_an_error() {
    let mut device = device();
    let problem = "stream:access=read,bytes=128".parse().unwrap();
    let mut ready = device.prepare(&problem, "cpu_stream", Layout::new(1, SEED)).unwrap();
    assert!(ready.output(1).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_small_decode_is_right(
        context in 1u64..90,
        group in 1u64..10,
        kv_heads in 1u64..4,
        head_dim in 1u64..70,
        format in 0usize..3,
        page_size in 0u64..20,
    ) {
        let dtype = ["f32", "bf16", "f16"][format];
        let layout =
            if page_size == 0 { "contiguous".to_owned() } else { format!("paged{page_size}") };
        let shape = (context, group, kv_heads, head_dim);
        verify(&mut device(), &decode(shape, (dtype, dtype), &layout));
    }

    #[test]
    fn any_small_gemm_is_right(
        m in 1u64..40,
        n in 1u64..80,
        k in 1u64..80,
        format in 0usize..3,
    ) {
        let dtype = ["f32", "bf16", "f16"][format];
        verify(&mut device(), &format!("gemm:m={m},n={n},k={k},dtype={dtype}"));
    }

    #[test]
    fn any_small_prefill_is_right(
        prefix in 0u64..40,
        new_tokens in 1u64..40,
        group in 1u64..4,
        head_dim in 1u64..40,
        causal in any::<bool>(),
    ) {
        verify(
            &mut device(),
            &format!(
                "prefill_attention:batch=2,prefix={prefix},new_tokens={new_tokens},\
                 q_heads={},kv_heads=2,head_dim={head_dim},causal={causal},dtype=f32",
                2 * group
            ),
        );
    }
}
