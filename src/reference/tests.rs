use half::{bf16, f16};

use super::attention::{Attention, softmax};
use super::compare::{BUDGET, Rows};
use super::kv_source::{CachedPart, KvSource};
use super::peak::SETTLED_STEPS;
use super::*;
use crate::format::{DType, Tensor, TensorFormat};
use crate::op::{Inputs, KvLayout, KvRead, Lengths, PageOrder, PrefillAttention};
use crate::quant::Quant;
use crate::weights;

/// Seed of the inputs that answers are made from.
pub(super) const SEED: u64 = 11;

pub(super) fn problem(text: &str) -> Problem {
    text.parse().unwrap()
}

/// What the reference says of the output of a problem.
pub(super) fn checked(text: &str, output: &[u8]) -> Check {
    check(&problem(text), SEED, 0, 0, output).unwrap()
}

/// The key of a tensor of a problem, by its position.
pub(super) fn key(tensor: usize) -> Key {
    Key::new(SEED, 0, tensor)
}

fn bytes_of(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect()
}

/// Mistakes that kernels make.
#[derive(Clone, Copy, PartialEq)]
enum Bug {
    None,
    DroppedToken,
    WrongHead,
    SwappedKv,
    MaskOneShort,
    MaskOneLong,
    NoScale,
}

/// Attention in f32 formats written another way than the reference: an
/// unshifted softmax, element by element, over the rows of Q in `[batch][q
/// head][token]`.
fn plain_attention(p: &PrefillAttention, bug: Bug) -> Vec<f64> {
    let value = |tensor: usize, index: u64| f64::from(key(tensor).value(DType::F32, index));
    let (k, v) = if bug == Bug::SwappedKv { (1, 0) } else { (0, 1) };
    let mut out = Vec::new();
    for row in 0..p.batch * p.q_heads * p.new_tokens {
        let (head, token) = (row / p.new_tokens % p.q_heads, row % p.new_tokens);
        let batch = row / p.new_tokens / p.q_heads;
        let kv_head =
            if bug == Bug::WrongHead { head % p.kv_heads } else { head / p.group() };
        let base = (batch * p.kv_heads + kv_head) * p.context();
        let mut seen = if p.causal { p.prefix + token + 1 } else { p.context() };
        match bug {
            Bug::DroppedToken => seen -= 1,
            Bug::MaskOneShort if seen > 1 => seen -= 1,
            Bug::MaskOneLong => seen = (seen + 1).min(p.context()),
            _ => {}
        }
        let scale = if bug == Bug::NoScale { 1.0 } else { (p.head_dim as f64).powf(-0.5) };
        let at = |t: u64, i: u64| (base + t) * p.head_dim + i;
        let weights: Vec<f64> = (0..seen)
            .map(|t| {
                let terms = (0..p.head_dim)
                    .map(|i| value(2, row * p.head_dim + i) * value(k, at(t, i)));
                (terms.sum::<f64>() * scale).exp()
            })
            .collect();
        let total: f64 = weights.iter().sum();
        for i in 0..p.head_dim {
            let sum: f64 =
                (0..seen).map(|t| weights[t as usize] * value(v, at(t, i))).sum();
            out.push(sum / total);
        }
    }
    out
}

/// A decode problem and the same as a prefill of one token, whose tensors lie
/// alike.
fn decode_case(context: u64) -> (String, PrefillAttention) {
    let text = format!(
        "decode_attention:batch=2,context={context},q_heads=6,kv_heads=2,head_dim=8,dtype=f32"
    );
    let same = PrefillAttention {
        batch: 2,
        prefix: context - 1,
        new_tokens: 1,
        q_heads: 6,
        kv_heads: 2,
        head_dim: 8,
        causal: true,
        dtype: DType::F32,
        kv_dtype: Quant::plain(DType::F32),
        window: 0,
        v_head_dim: 8,
        layout: KvLayout::Contiguous,
        lengths: Lengths::Equal,
        q_dtype: Quant::plain(DType::F32),
    };
    (text, same)
}

#[test]
fn one_cached_token_is_its_value_row() {
    let text =
        "decode_attention:batch=2,context=1,q_heads=4,kv_heads=2,head_dim=8,dtype=f32";
    let value = |batch: u64, head: u64, i: u64| {
        f64::from(key(1).value(DType::F32, (batch * 2 + head) * 8 + i))
    };
    let mut grouped = Vec::new();
    let mut interleaved = Vec::new();
    for (batch, head) in (0..2).flat_map(|b| (0..4).map(move |h| (b, h))) {
        grouped.extend((0..8).map(|i| value(batch, head / 2, i)));
        interleaved.extend((0..8).map(|i| value(batch, head % 2, i)));
    }
    assert_eq!(checked(text, &bytes_of(&grouped)).verdict, CheckVerdict::Pass);
    assert_eq!(checked(text, &bytes_of(&interleaved)).verdict, CheckVerdict::Fail);
}

#[test]
fn the_first_causal_row_is_the_first_value_row() {
    let text =
        "prefill_attention:batch=1,new_tokens=1,q_heads=1,kv_heads=1,head_dim=4,dtype=f32";
    let row: Vec<f64> = (0..4).map(|i| key(1).value(DType::F32, i).into()).collect();
    assert_eq!(checked(text, &bytes_of(&row)).verdict, CheckVerdict::Pass);
}

/// Inputs that begin with keys and values.
fn keys_and_values() -> SlotInputs {
    SlotInputs { seed: SEED, slot: 0, names: vec!["k", "v"], query_factor: 1.0 }
}

/// Attention to a cache of keys and values as wide as a head.
fn attention(
    queries: &[f32],
    cache: &KvSource,
    batch: u64,
    head: u64,
    tokens: Range<u64>,
) -> Vec<f64> {
    let row = |what, token, to: &mut [f32]| cache.row(what, batch, head, token, to);
    Attention::of_heads(cache.p.head_dim).of(queries, tokens, row)
}

#[test]
fn equal_scores_give_the_mean_of_the_values() {
    let kv = KvRead {
        batch: 1,
        context: 5,
        kv_heads: 1,
        head_dim: 3,
        dtype: DType::F32,
        layout: KvLayout::Contiguous,
        lengths: Lengths::Equal,
    };
    let out = attention(&[0.0; 3], &KvSource::new(kv, &keys_and_values()), 0, 0, 0..5);
    for (i, got) in out.iter().enumerate() {
        let column = (0..5).map(|t| f64::from(key(1).value(DType::F32, t * 3 + i as u64)));
        assert!((got - column.sum::<f64>() / 5.0).abs() < 1e-12);
    }
}

#[test]
fn softmax_of_logarithms_is_their_share() {
    let mut scores = [1f64.ln(), 2f64.ln(), 5f64.ln()];
    softmax(&mut scores);
    for (got, want) in scores.iter().zip([0.125, 0.25, 0.625]) {
        assert!((got - want).abs() < 1e-15);
    }
}

#[test]
fn tokens_are_found_through_the_page_table() {
    let p = KvRead {
        batch: 2,
        context: 3,
        kv_heads: 2,
        head_dim: 10,
        dtype: DType::F32,
        layout: KvLayout::Paged { page_size: 2, order: PageOrder::HeadFirst },
        lengths: Lengths::Equal,
    };
    let table = vec![3, 0, 2, 1];
    let paged = KvSource {
        p,
        keys: key(0),
        values: key(1),
        table,
        scales: None,
        scheme: p.dtype.into(),
    };
    // Page 3, head 1, token 1: ((3 * 2 + 1) * 2 + 1) * 10.
    assert_eq!(paged.offset(0, 1, 1), 150);
    // The last token of request 0 is the first of its second page, page 0.
    assert_eq!(paged.offset(0, 0, 2), 0);
    assert_eq!(paged.offset(1, 1, 2), 60);
    let contiguous = KvSource { p: KvRead { layout: KvLayout::Contiguous, ..p }, ..paged };
    assert_eq!(contiguous.offset(1, 1, 2), 110);
}

#[test]
fn pages_of_the_whole_context_in_order_are_contiguous() {
    let p = KvRead {
        batch: 2,
        context: 4,
        kv_heads: 2,
        head_dim: 8,
        dtype: DType::Bf16,
        layout: KvLayout::Paged { page_size: 4, order: PageOrder::HeadFirst },
        lengths: Lengths::Equal,
    };
    let paged = KvSource {
        p,
        keys: key(0),
        values: key(1),
        table: vec![0, 1],
        scales: None,
        scheme: p.dtype.into(),
    };
    let contiguous =
        KvSource::new(KvRead { layout: KvLayout::Contiguous, ..p }, &keys_and_values());
    let q = [0.5; 8];
    for (batch, head) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let out = attention(&q, &paged, batch, head, 0..4);
        assert_eq!(out, attention(&q, &contiguous, batch, head, 0..4));
    }
}

#[test]
fn attention_agrees_with_a_plain_one_and_planted_bugs_are_caught() {
    let (text, p) = decode_case(33);
    let right = checked(&text, &bytes_of(&plain_attention(&p, Bug::None)));
    assert_eq!(
        (right.verdict, right.elements),
        (CheckVerdict::Pass, 96),
        "{}",
        right.message
    );
    for bug in [Bug::DroppedToken, Bug::WrongHead, Bug::SwappedKv, Bug::NoScale] {
        let wrong = checked(&text, &bytes_of(&plain_attention(&p, bug)));
        assert_eq!(wrong.verdict, CheckVerdict::Fail);
        assert!(wrong.message.starts_with("o at batch "), "{}", wrong.message);
    }
}

#[test]
fn a_mask_that_is_off_by_one_is_caught() {
    for (prefix, causal) in [(0, true), (3, true), (3, false)] {
        let text = format!(
            "prefill_attention:batch=2,prefix={prefix},new_tokens=5,q_heads=4,kv_heads=2,\
             head_dim=8,causal={causal},dtype=f32"
        );
        let Problem::PrefillAttention(p) = problem(&text) else { panic!("{text}") };
        let verdict = |bug| checked(&text, &bytes_of(&plain_attention(&p, bug))).verdict;
        assert_eq!(verdict(Bug::None), CheckVerdict::Pass);
        assert_eq!(verdict(Bug::MaskOneShort), CheckVerdict::Fail);
        if causal {
            assert_eq!(verdict(Bug::MaskOneLong), CheckVerdict::Fail);
        }
    }
}

/// Of a batch of several lengths each token has its row behind that of the one before, and
/// attends to its own request alone.
#[test]
fn rows_of_a_ragged_prefill_have_no_gaps() {
    for rest in ["causal=true", "causal=false", "window=2"] {
        let text = format!(
            "prefill_attention:batch=4,prefix=6,new_tokens=9,q_heads=4,kv_heads=2,head_dim=8,\
             dtype=f32,lengths=ragged,{rest}"
        );
        let Problem::PrefillAttention(p) = problem(&text) else { panic!("{text}") };
        // Nine tokens at most, two at least: 2 + floor(8 * fraction of the golden ratio).
        let lengths: Vec<u64> = (0..4).map(|r| p.request(r).new_tokens).collect();
        assert_eq!(lengths, [6, 3, 8, 5]);
        let verdict = |bug| {
            let rows = ragged_attention(&p, bug);
            checked(&text, &bytes_of(&rows)).verdict
        };
        assert_eq!(verdict(RaggedBug::None), CheckVerdict::Pass, "{text}");
        for bug in [RaggedBug::NextRequest, RaggedBug::Spill, RaggedBug::HeadFirst] {
            assert_eq!(verdict(bug), CheckVerdict::Fail, "{text}: {bug:?}");
        }
    }
}

/// What a kernel of ragged prompts may do wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum RaggedBug {
    None,
    /// The last token of a request sees the room behind its keys.
    NextRequest,
    /// The tile of a request's last rows is stored whole, over the first row of the next.
    Spill,
    /// Rows in the order of equal lengths, head before token.
    HeadFirst,
}

/// Attention of requests of several lengths, written another way than the reference: each
/// row by itself, in the order of its request.
fn ragged_attention(p: &PrefillAttention, bug: RaggedBug) -> Vec<f64> {
    let value = |tensor: usize, index: u64| f64::from(key(tensor).value(DType::F32, index));
    let mut out = Vec::new();
    let mut first = 0;
    for number in 0..p.batch {
        let (length, tokens) =
            (p.lengths.of(number, p.context()), p.lengths.of(number, p.new_tokens));
        let of_row = |token: u64, head: u64| -> Vec<f64> {
            let base = (number * p.kv_heads + head / p.group()) * p.context();
            let last = token + 1 == tokens && bug == RaggedBug::NextRequest;
            let position = length - tokens + token;
            let end = if p.causal { position + 1 } else { length } + u64::from(last);
            let begin = if p.window > 0 { end.saturating_sub(p.window) } else { 0 };
            let row = (first + token) * p.q_heads + head;
            let dot = |key: u64| -> f64 {
                let at = |i| value(2, row * p.head_dim + i);
                (0..p.head_dim)
                    .map(|i| at(i) * value(0, (base + key) * p.head_dim + i))
                    .sum()
            };
            let weights: Vec<f64> = (begin..end)
                .map(|key| (dot(key) / (p.head_dim as f64).sqrt()).exp())
                .collect();
            let total: f64 = weights.iter().sum();
            let of_column = |i| {
                let terms = (begin..end).zip(&weights);
                terms
                    .map(|(key, w)| w * value(1, (base + key) * p.head_dim + i))
                    .sum::<f64>()
            };
            (0..p.head_dim).map(|i| of_column(i) / total).collect()
        };
        let token_first = (0..tokens).flat_map(|t| (0..p.q_heads).map(move |h| (t, h)));
        let head_first = (0..p.q_heads).flat_map(|h| (0..tokens).map(move |t| (t, h)));
        let order: Vec<_> = match bug {
            RaggedBug::HeadFirst => head_first.collect(),
            _ => token_first.collect(),
        };
        for (token, head) in order {
            let spilled = bug == RaggedBug::Spill && number > 0 && token == 0;
            let row = of_row(token, head);
            out.extend(row.iter().map(|x| if spilled { -x } else { *x }));
        }
        first += tokens;
    }
    out
}

/// Every part of an answer, as `store` puts it into the output's format.
fn output_of(text: &str, store: impl Fn(f64) -> Vec<u8>) -> Vec<u8> {
    let problem = problem(text);
    let inputs = SlotInputs::new(&problem, SEED, 0);
    let rows = match problem {
        Problem::Gemm(p) => gemm::rows(p, &inputs),
        Problem::DecodeAttention(p) => decode_attention::decode_rows(p, &inputs),
        _ => unreachable!("{text}"),
    };
    (0..rows.count).flat_map(|part| (rows.make)(part).1).flat_map(store).collect()
}

/// Errors that no element shows: a factor that is off by less than rounding is, and
/// rounding towards zero. What is rounded to nearest passes.
#[test]
fn a_small_factor_and_truncation_are_caught() {
    const GEMM: &str = "gemm:m=8,n=512,k=256,dtype=";
    const DECODE: &str = "decode_attention:batch=4,context=200,q_heads=32,kv_heads=8,\
                          head_dim=64,dtype=";
    for text in [GEMM, DECODE] {
        let near = |x: f64| bf16::from_f64(x).to_bits().to_le_bytes().to_vec();
        let toward_zero =
            |x: f64| (((x as f32).to_bits() >> 16) as u16).to_le_bytes().to_vec();
        let bf16_text = format!("{text}bf16");
        let verdict = |store: &dyn Fn(f64) -> Vec<u8>| {
            let check = checked(&bf16_text, &output_of(&bf16_text, store));
            (check.verdict, check.message)
        };
        assert_eq!(verdict(&near), (CheckVerdict::Pass, String::new()));
        for (what, (got, message)) in [
            ("toward zero", verdict(&toward_zero)),
            ("1.003", verdict(&|x| near(1.003 * x))),
            ("0.997", verdict(&|x| near(0.997 * x))),
        ] {
            assert_eq!(got, CheckVerdict::Fail, "{text}, {what}");
            assert!(message.contains("times the expected one"), "{message}");
        }
        let f16_text = format!("{text}f16");
        let f16_of = |factor: f64| {
            let store = |x: f64| f16::from_f64(factor * x).to_bits().to_le_bytes().to_vec();
            checked(&f16_text, &output_of(&f16_text, store)).verdict
        };
        assert_eq!(f16_of(1.0), CheckVerdict::Pass);
        assert_eq!(f16_of(1.001), CheckVerdict::Fail, "{text}");
    }
}

#[test]
fn a_single_poisoned_element_is_named() {
    let (text, p) = decode_case(4);
    let mut output = bytes_of(&plain_attention(&p, Bug::None));
    // Batch 1, q head 3, dim 5 of [2][6][8].
    let at = (6 + 3) * 8 + 5;
    output[at * 4..][..4].fill(0xff);
    let found = checked(&text, &output);
    assert_eq!(found.verdict, CheckVerdict::Fail);
    assert!(
        found.message.starts_with("o at batch 1, new token 0, q head 3, dim 5 is NaN"),
        "{}",
        found.message
    );
}

#[test]
fn a_single_wrong_element_is_named_with_its_expectation() {
    let text = "gemm:m=3,n=70,k=9,dtype=f32";
    let dot = |i: u64, j: u64| -> f64 {
        let term = |k| {
            f64::from(key(0).value(DType::F32, i * 9 + k))
                * f64::from(key(1).value(DType::F32, j * 9 + k))
        };
        (0..9).map(term).sum()
    };
    let mut c: Vec<f64> = (0..3).flat_map(|i| (0..70).map(move |j| dot(i, j))).collect();
    assert_eq!(checked(text, &bytes_of(&c)).verdict, CheckVerdict::Pass);
    c[2 * 70 + 65] += 0.5;
    let found = checked(text, &bytes_of(&c));
    assert_eq!((found.verdict, found.elements), (CheckVerdict::Fail, 210));
    assert!(found.message.starts_with("c at row 2, column 65 is "), "{}", found.message);
    assert!((found.max_abs_err - 0.5).abs() < 1e-6);
}

#[test]
fn a_sample_has_both_ends_and_no_part_twice() {
    let rows = Rows {
        count: 1_000_000,
        cost: BUDGET / 50,
        rows: 64,
        width: 1,
        typical: Some(1.0),
        make: Box::new(|part| (part, vec![])),
    };
    let mut parts = rows.sample(Key::new(3, 0, 0));
    parts.sort_unstable();
    parts.dedup();
    assert_eq!((parts.len(), parts[0], parts[49]), (50, 0, 999_999));
}

#[test]
fn checksums_are_exact() {
    let text = "stream:access=read,bytes=262272";
    let sum = (0..65_568).fold(0u32, |sum, i| sum.wrapping_add(key(0).word(i)));
    assert_eq!(checked(text, &sum.to_le_bytes()).verdict, CheckVerdict::Pass);
    let off = checked(text, &sum.wrapping_add(1).to_le_bytes());
    assert_eq!(off.verdict, CheckVerdict::Fail);
}

#[test]
fn cache_checksums_leave_out_the_unread_tail() {
    let text = "kv_read:batch=1,context=3,kv_heads=1,head_dim=4,dtype=bf16,layout=paged2";
    let mut words = [vec![0u32; 8], vec![0u32; 8]];
    for (tensor, words) in words.iter_mut().enumerate() {
        key(tensor)
            .fill(TensorFormat::Values(DType::Bf16), bytemuck::cast_slice_mut(words));
    }
    let table = key(2).page_table(2);
    // Two words a token, four a page; the second page is read half.
    let full = table[0] as usize * 4;
    let half = table[1] as usize * 4;
    let read = |words: &Vec<u32>| {
        words[full..full + 4]
            .iter()
            .chain(&words[half..half + 2])
            .copied()
            .collect::<Vec<_>>()
    };
    let sum = words.iter().flat_map(read).fold(0, u32::wrapping_add);
    assert_eq!(checked(text, &sum.to_le_bytes()).verdict, CheckVerdict::Pass);
}

#[test]
fn written_and_copied_words_are_compared_one_by_one() {
    let words: Vec<u32> = vec![write_pattern(SEED, 0); 64];
    let mut bytes: Vec<u8> = bytemuck::pod_collect_to_vec(&words);
    let write = "stream:access=write,bytes=256";
    assert_eq!(checked(write, &bytes).verdict, CheckVerdict::Pass);
    bytes[4 * 40..][..4].fill(0xff);
    let found = checked(write, &bytes);
    assert!(
        found.message.starts_with("target at word 40 is 0xffffffff"),
        "{}",
        found.message
    );
    let copied: Vec<u32> = (0..32).map(|i| key(0).word(i)).collect();
    let copied: Vec<u8> = bytemuck::pod_collect_to_vec(&copied);
    assert_eq!(
        checked("stream:access=copy,bytes=256", &copied).verdict,
        CheckVerdict::Pass
    );
}

#[test]
fn every_slot_has_its_own_write_pattern() {
    assert_ne!(write_pattern(1, 0), write_pattern(1, 1));
}

#[test]
fn a_chain_that_lacks_a_step_is_caught() {
    let text = "peak:unit=fma,dtype=f32,lanes=20,steps=1000";
    let chain = |steps: usize| -> Vec<f64> {
        let step = |x: f32, _| x.mul_add(FMA_A, FMA_B);
        let lanes = (0..20).map(|i| key(0).value(DType::F32, i));
        lanes.map(|x| f64::from((0..steps).fold(x, step))).collect()
    };
    assert_eq!(checked(text, &bytes_of(&chain(1000))).verdict, CheckVerdict::Pass);
    assert_eq!(checked(text, &bytes_of(&chain(999))).verdict, CheckVerdict::Fail);
    assert_eq!(checked(text, &bytes_of(&chain(998))).verdict, CheckVerdict::Fail);
}

#[test]
fn long_chains_stay_normal_and_apart() {
    let mut lanes = [-1.0f32, -0.3, 0.0, 0.7];
    for _ in 0..100_000 {
        lanes = lanes.map(|x| x.mul_add(FMA_A, FMA_B));
        assert!(lanes.iter().all(|x| x.is_normal() && x.abs() < 2.0));
    }
    assert!(lanes.windows(2).all(|pair| pair[0] != pair[1]), "{lanes:?}");
}

#[test]
fn short_formats_settle_into_two_values() {
    let settle = |round: &dyn Fn(f32) -> f32, start: f32| {
        let mut x = round(start);
        for _ in 0..SETTLED_STEPS {
            x = round(0.5 - x);
        }
        let next = round(0.5 - x);
        assert_eq!(round(0.5 - next).to_bits(), x.to_bits(), "from {start}");
    };
    for bits in 0..=u16::MAX {
        let value = bf16::from_bits(bits).to_f32();
        if value.abs() <= 1.0 {
            settle(&|x| bf16::from_f32(x).to_f32(), value);
        }
        let value = f16::from_bits(bits).to_f32();
        if value.abs() <= 1.0 {
            settle(&|x| f16::from_f32(x).to_f32(), value);
        }
    }
}

/// The tile of one lane after 3 steps, multiplied out the plain way.
fn tile(dtype: DType) -> Vec<f32> {
    let scale = tensor_scale(dtype);
    let mut tile: Vec<f64> =
        (0..128).map(|i| f64::from(Key::new(SEED, 0, 0).value(DType::F32, i))).collect();
    for _ in 0..3 {
        for (element, sum) in (0..).zip(&mut tile) {
            for k in 0..16 {
                *sum += tensor_a(dtype, element / 8, k) as f64
                    * scale
                    * (tensor_b(dtype, k, element % 8) as f64 * scale);
            }
        }
    }
    tile.into_iter().map(|x| x as f32).collect()
}

/// Sums of fp8 grow slowly enough for accumulators of 14 bits, and no element stays.
#[test]
fn steps_of_fp8_add_one_or_two_units() {
    for dtype in [DType::Fp8E4m3, DType::Fp8E5m2] {
        for (i, j) in (0..16).flat_map(|i| (0..8).map(move |j| (i, j))) {
            let product = |k| tensor_a(dtype, i, k) * tensor_b(dtype, k, j);
            let all: i64 = (0..16).map(product).sum();
            assert!((1..=2).contains(&all.abs()), "{dtype} {i} {j}: {all}");
        }
        let largest = (0..256).map(|at| tensor_a(dtype, at / 16, at % 16).abs()).max();
        assert_eq!(largest, Some(8), "three bits of significand hold it");
    }
}

/// Random data add the same to every element, other data what their pattern says.
#[test]
fn every_kind_of_data_has_its_sums() {
    let end = |rest: &str, sum: f64| {
        let text = format!("peak:unit=tensor,lanes=2,{rest}");
        let start = |at| f64::from(Key::new(SEED, 0, 0).value(DType::F32, at));
        let end: Vec<f32> = (0..256).map(|at| (start(at) + sum) as f32).collect();
        checked(&text, bytemuck::cast_slice(&end)).verdict
    };
    // A cycle of four instructions adds 1/32: four steps of bf16, two of tf32, eight of fp8.
    for (rest, sum) in [
        ("dtype=bf16,steps=64,data=random", 16.0 / 32.0),
        ("dtype=tf32,steps=64,data=random", 32.0 / 32.0),
        ("dtype=fp8_e5m2,steps=64,data=random", 8.0 / 32.0),
        ("dtype=int8,steps=64,data=random", 8.0 * 512.0),
        ("dtype=f16,steps=7,data=zeros", 0.0),
    ] {
        assert_eq!(end(rest, sum), CheckVerdict::Pass, "{rest}");
        assert_eq!(end(rest, 1.01 * sum + 0.01), CheckVerdict::Fail, "{rest}");
    }
}

#[test]
fn tensor_tiles_are_compared() {
    for dtype in [DType::Bf16, DType::Int8, DType::Fp8E4m3] {
        let text = format!("peak:unit=tensor,dtype={dtype},lanes=1,steps=3");
        let mut end = tile(dtype);
        let found = checked(&text, bytemuck::cast_slice(&end));
        assert_eq!(found.verdict, CheckVerdict::Pass, "{}", found.message);
        // One step left out shows.
        let size: f32 = end.iter().map(|x| x.abs()).fold(0.0, f32::max);
        assert!(size > 0.5);
        let fewer = format!("peak:unit=tensor,dtype={dtype},lanes=1,steps=2");
        assert_eq!(checked(&fewer, bytemuck::cast_slice(&end)).verdict, CheckVerdict::Fail);
        end[77] += 0.01 * size;
        let found = checked(&text, bytemuck::cast_slice(&end));
        assert!(found.message.contains("77") || found.message.contains('9'), "{found:?}");
        assert_eq!(found.verdict, CheckVerdict::Fail);
    }
}

#[test]
fn what_has_no_reference_says_so() {
    let output = vec![0; 4];
    let fma = problem("peak:unit=fma,dtype=int8,lanes=1,steps=4");
    let error = check(&fma, SEED, 0, 0, &output).unwrap_err();
    assert!(error.to_string().contains("fma chains in int8"), "{error}");
}

#[test]
fn an_output_of_the_wrong_size_fails() {
    let found = checked("gemm:m=1,n=1,k=1,dtype=f32", &[0; 3]);
    assert_eq!(found.verdict, CheckVerdict::Fail);
    assert_eq!(found.message, "c has 3 bytes, expected 4");
}

/// Hundreds of checksums are too many to compare, and one that was never
/// written is found all the same.
#[test]
fn an_unwritten_checksum_is_found_among_many() {
    let text = "kv_read:batch=64,context=65536,kv_heads=8,head_dim=128,dtype=bf16";
    let mut output = vec![0x11; 4 * 64 * 8];
    output[4 * 300..4 * 301].fill(0xff);
    let found = checked(text, &output);
    assert_eq!(found.verdict, CheckVerdict::Fail);
    let target = problem(text);
    let sums = checked(text, &vec![0xff; 4 * 64 * 8]).elements;
    assert!(sums < target.tensors().last().unwrap().elements, "all were compared");
}

#[test]
fn rounds_look_at_different_rows() {
    let rows = Rows {
        count: 1000,
        cost: BUDGET / 10,
        rows: 64,
        width: 1,
        typical: None,
        make: Box::new(|part| (part, vec![0.0])),
    };
    let sample = |round: u64| rows.sample(Key::new(1 ^ round, 0, usize::MAX));
    assert_eq!(sample(0).len(), 10);
    assert_ne!(sample(0), sample(1));
    assert_eq!(sample(1)[..2], [0, 999]);
}

#[test]
fn triads_are_compared_to_the_last_bit() {
    let text = "stream:access=triad,bytes=3072";
    let value = |tensor: usize, index| key(tensor).value(DType::F32, index);
    let fused: Vec<f32> =
        (0..256).map(|i| TRIAD_FACTOR.mul_add(value(1, i), value(0, i))).collect();
    let apart: Vec<f32> =
        (0..256).map(|i| value(0, i) + TRIAD_FACTOR * value(1, i)).collect();
    assert_eq!(fused, apart);
    let bytes = |a: &[f32]| bytemuck::cast_slice::<f32, u8>(a).to_vec();
    assert_eq!(checked(text, &bytes(&fused)).verdict, CheckVerdict::Pass);
    let mut wrong = fused.clone();
    wrong[77] = f32::from_bits(wrong[77].to_bits() ^ 1);
    let found = checked(text, &bytes(&wrong));
    assert_eq!(found.verdict, CheckVerdict::Fail);
    assert!(found.message.contains("a at word 77"), "{}", found.message);
    let swapped: Vec<f32> =
        (0..256).map(|i| value(1, i) + TRIAD_FACTOR * value(0, i)).collect();
    assert_eq!(checked(text, &bytes(&swapped)).verdict, CheckVerdict::Fail);
}

/// Bytes of an input of a problem, as a device has them.
fn filled(problem: &Problem, tensor: usize) -> Vec<u8> {
    let tensors = problem.tensors();
    let mut bytes = vec![0; tensors[tensor].bytes() as usize];
    key(tensor).fill(tensors[tensor].format, &mut bytes);
    bytes
}

fn f32_at(bytes: &[u8], index: u64) -> f64 {
    f64::from(bytemuck::pod_read_unaligned::<f32>(&bytes[index as usize * 4..][..4]))
}

/// A weight out of the bytes of matrices `[n][k]` and of their scales. Off by `shift`
/// scales, for a planted bug.
fn weight(
    dtype: DType,
    (numbers, scales): (&[u8], &[u8]),
    (n, k): (u64, u64),
    (matrix, row, column): (u64, u64, u64),
    shift: u64,
) -> f64 {
    let index = (matrix * n + row) * k + column;
    let scale = |index: u64| f32_at(scales, (index + shift) % (scales.len() as u64 / 4));
    match dtype {
        DType::F32 => f32_at(numbers, index),
        DType::Int8 => f64::from(numbers[index as usize] as i8) * scale(matrix * n + row),
        DType::Fp8E4m3 => {
            f64::from(crate::data::e4m3_to_f32(numbers[index as usize]))
                * scale(matrix * n + row)
        }
        DType::Int4 => {
            let group = (matrix * (k / 128) + column / 128) * n + row + shift;
            let at = &scales[group as usize % (scales.len() / 2) * 2..][..2];
            let scale = f16::from_le_bytes([at[0], at[1]]).to_f64();
            let of_matrix = &numbers[(matrix * n * k / 2) as usize..];
            let number = weights::element(of_matrix, weights::place(k, row, column));
            f64::from(number) * scale
        }
        _ => unreachable!("not tested here"),
    }
}

/// The number in half a byte, as OCP MX v1.0 lists them.
fn e2m1_at(bytes: &[u8], index: u64) -> f64 {
    let code = bytes[index as usize / 2] >> (4 * (index % 2)) & 15;
    let size = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)];
    if code < 8 { size } else { -size }
}

/// An element of a matrix `[144][256]` out of the bytes of its tensors, by the text of each
/// scheme. Off by `shift` scales, for a planted bug.
fn scheme_element(
    scheme: &str,
    tensors: &[Vec<u8>],
    (row, column): (u64, u64),
    shift: u64,
) -> f64 {
    let index = row * 256 + column;
    let e4m3 =
        |bytes: &[u8], i: u64| f64::from(crate::data::e4m3_to_f32(bytes[i as usize]));
    let power = |i: u64| 2f64.powi(i32::from(tensors[1][i as usize]) - 127);
    match scheme {
        "fp8_e4m3_tensor" => e4m3(&tensors[0], index) * f32_at(&tensors[1], shift),
        "fp8_e4m3_token" => {
            e4m3(&tensors[0], index) * f32_at(&tensors[1], (row + shift) % 144)
        }
        "fp8_e4m3_block128x128" => {
            let block = row / 128 * 2 + column / 128;
            e4m3(&tensors[0], index) * f32_at(&tensors[1], (block + shift) % 4)
        }
        "fp8_e4m3_block1x128" => {
            let block = (row * 2 + column / 128 + shift) % 288;
            e4m3(&tensors[0], index) * f32_at(&tensors[1], block)
        }
        "int4_g32" | "int4_g64_zp" => {
            let columns = if scheme == "int4_g32" { 32 } else { 64 };
            let group = (column / columns * 144 + row + shift) % (144 * 256 / columns);
            let at = &tensors[1][2 * group as usize..][..2];
            let scale = f16::from_le_bytes([at[0], at[1]]).to_f64();
            let zero_point = match tensors.get(2) {
                Some(zero_points) => f64::from(weights::element(zero_points, group)),
                None => 0.0,
            };
            let number = weights::element(&tensors[0], weights::place(256, row, column));
            (f64::from(number) - zero_point) * scale
        }
        "mxfp4" => {
            e2m1_at(&tensors[0], index) * power((row * 8 + column / 32 + shift) % 1152)
        }
        "mxfp8" => e4m3(&tensors[0], index) * power((row * 8 + column / 32 + shift) % 1152),
        "nvfp4" => {
            let group = (row * 16 + column / 16 + shift) % 2304;
            e2m1_at(&tensors[0], index) * e4m3(&tensors[1], group) * f32_at(&tensors[2], 0)
        }
        _ => unreachable!("{scheme}"),
    }
}

/// One scale of a cache is that of every request and head; else each has its own.
#[test]
fn scales_of_caches_are_shared_as_the_scheme_says() {
    for scheme in ["fp8_e4m3_tensor", "fp8_e4m3"] {
        let p = problem(&format!(
            "decode_attention:batch=2,context=3,q_heads=2,kv_heads=2,head_dim=4,dtype=f32,\
             kv_dtype={scheme}"
        ));
        let Problem::DecodeAttention(decode) = p else { unreachable!("attention") };
        let inputs = SlotInputs::new(&p, SEED, 0);
        let cache = KvSource::new(decode.kv(), &inputs).in_scheme(decode.kv_dtype);
        for (batch, head) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let mut row = [0.0; 4];
            cache.row(CachedPart::Value, batch, head, 2, &mut row);
            let index = if scheme == "fp8_e4m3" { batch * 2 + head } else { 0 };
            let scales = filled(&p, 3);
            for (dim, &found) in (0..).zip(&row) {
                let at = cache.offset(batch, head, 2) + dim;
                let value = inputs.key("v").value(DType::Fp8E4m3, at);
                let scale = f32_at(&scales, index) as f32;
                assert_eq!(found, value * scale, "{scheme} {batch} {head}");
            }
        }
    }
}

/// Answers from the bytes of weights, and of activations, in every scheme.
#[test]
fn schemes_are_read_as_their_standards_say() {
    for (key_name, scheme) in [
        ("w_dtype", "fp8_e4m3_tensor"),
        ("w_dtype", "fp8_e4m3_block128x128"),
        ("w_dtype", "int4_g32"),
        ("w_dtype", "int4_g64_zp"),
        ("w_dtype", "mxfp4"),
        ("w_dtype", "mxfp8"),
        ("w_dtype", "nvfp4"),
        ("a_dtype", "fp8_e4m3_token"),
        ("a_dtype", "fp8_e4m3_block1x128"),
        ("a_dtype", "nvfp4"),
    ] {
        // The matrix under test has 144 rows and the other 2.
        let is_weights = key_name == "w_dtype";
        let (m, n) = if is_weights { (2, 144) } else { (144, 2) };
        let text = format!("gemm:m={m},n={n},k=256,dtype=f32,{key_name}={scheme}");
        let p = problem(&text);
        let of = |letter: char| -> Vec<Vec<u8>> {
            let tensors = p.tensors();
            let named = (0..).zip(&tensors).filter(|(_, t)| t.name.starts_with(letter));
            named.map(|(position, _)| filled(&p, position)).collect()
        };
        let (tested, other) =
            if is_weights { (of('b'), of('a')) } else { (of('a'), of('b')) };
        let c = |shift| -> Vec<f64> {
            let element = |index: u64| {
                let (row, column) = (index / n, index % n);
                let (of_tested, of_other) =
                    if is_weights { (column, row) } else { (row, column) };
                let term = |k| {
                    scheme_element(scheme, &tested, (of_tested, k), shift)
                        * f32_at(&other[0], of_other * 256 + k)
                };
                (0..256).map(term).sum()
            };
            (0..m * n).map(element).collect()
        };
        let found = checked(&text, &bytes_of(&c(0)));
        assert_eq!(found.verdict, CheckVerdict::Pass, "{scheme}: {}", found.message);
        assert_eq!(found.elements, 288);
        if scheme != "fp8_e4m3_tensor" {
            assert_eq!(
                checked(&text, &bytes_of(&c(1))).verdict,
                CheckVerdict::Fail,
                "{scheme}"
            );
        }
    }
}

/// Answers from the bytes of weights in every format; with wrong scales they are wrong.
#[test]
fn weights_are_numbers_times_their_scales() {
    for w_dtype in [DType::F32, DType::Int8, DType::Fp8E4m3, DType::Int4] {
        let text = format!("gemm:m=2,n=32,k=256,dtype=f32,w_dtype={w_dtype}");
        let p = problem(&text);
        let numbers = filled(&p, 1);
        let scales = if w_dtype.is_scaled() { filled(&p, 2) } else { Vec::new() };
        let c = |shift| -> Vec<f64> {
            let weight_at = |row, column| {
                weight(w_dtype, (&numbers, &scales), (32, 256), (0, row, column), shift)
            };
            let element = |index: u64| {
                let a =
                    |column| f64::from(key(0).value(DType::F32, index / 32 * 256 + column));
                (0..256).map(|column| a(column) * weight_at(index % 32, column)).sum()
            };
            (0..64).map(element).collect()
        };
        let found = checked(&text, &bytes_of(&c(0)));
        assert_eq!(
            (found.verdict, found.elements),
            (CheckVerdict::Pass, 64),
            "{}",
            found.message
        );
        if w_dtype.is_scaled() {
            assert_eq!(
                checked(&text, &bytes_of(&c(1))).verdict,
                CheckVerdict::Fail,
                "{w_dtype}"
            );
        }
    }
}

/// The size that outputs have typically is the one that they have.
#[test]
fn typical_sizes_are_those_of_the_outputs() {
    // Not nvfp4: its one scale for the tensor has no mean.
    let schemes = [
        "f32",
        "bf16",
        "f16",
        "fp8_e4m3",
        "int8",
        "int4",
        "fp8_e4m3_block128x128",
        "int4_g32_zp",
        "mxfp4",
        "mxfp8",
        "f32,a_dtype=fp8_e4m3_block1x128",
        "mxfp4,a_dtype=mxfp8",
    ];
    for w_dtype in schemes {
        let Problem::Gemm(p) =
            problem(&format!("gemm:m=8,n=64,k=512,dtype=f32,w_dtype={w_dtype}"))
        else {
            unreachable!("a gemm")
        };
        let rows = gemm::rows(p, &SlotInputs::new(&p.into(), SEED, 0));
        let squares: f64 =
            (0..rows.count).flat_map(|part| (rows.make)(part).1).map(|x| x * x).sum();
        let ratio = (squares / 512.0).sqrt() / rows.typical.unwrap();
        assert!((0.8..1.25).contains(&ratio), "{w_dtype}: {ratio}");
    }
}

/// Each row of the output is its token's, or its own, times its expert's weights.
#[test]
fn experts_get_their_tokens() {
    for (inputs, w_dtype) in
        [(Inputs::PerToken, DType::F32), (Inputs::PerExpert, DType::Int4)]
    {
        let text = format!(
            "moe_gemm:tokens=5,experts=7,top_k=2,n=16,k=128,dtype=f32,w_dtype={w_dtype},\
             routing=uniform,routing_seed=3,inputs={inputs}"
        );
        let p = problem(&text);
        let Problem::MoeGemm(moe) = p else { unreachable!("experts") };
        let numbers = filled(&p, 1);
        let scales = if w_dtype.is_scaled() { filled(&p, 2) } else { Vec::new() };
        let experts = moe.expert_of_rows();
        let y = |wrong_expert: u64, wrong_row: bool| -> Vec<f64> {
            let element = |index: u64| -> f64 {
                let (row, feature) = (index / 16, index % 16);
                let expert = (u64::from(experts[row as usize]) + wrong_expert) % 7;
                let input =
                    if (inputs == Inputs::PerToken) == wrong_row { row } else { row / 2 };
                let term = |column| {
                    let place = (expert, feature, column);
                    f64::from(key(0).value(DType::F32, input * 128 + column))
                        * weight(w_dtype, (&numbers, &scales), (16, 128), place, 0)
                };
                (0..128).map(term).sum()
            };
            (0..10 * 16).map(element).collect()
        };
        let found = checked(&text, &bytes_of(&y(0, false)));
        assert_eq!(
            (found.verdict, found.elements),
            (CheckVerdict::Pass, 160),
            "{}",
            found.message
        );
        for wrong in [y(1, false), y(0, true)] {
            let found = checked(&text, &bytes_of(&wrong));
            assert_eq!(found.verdict, CheckVerdict::Fail);
            assert!(found.message.starts_with("y at token "), "{}", found.message);
        }
    }
}

/// Rows that lie by expert, next to one another or with gaps, which nobody writes.
#[test]
fn rows_of_experts_lie_in_order() {
    for (rows, places) in [("contiguous", 10), ("masked", 7 * 5)] {
        let text = format!(
            "moe_gemm:tokens=5,experts=7,top_k=2,n=16,k=128,dtype=f32,routing=uniform,\
             routing_seed=3,inputs=per_expert,rows={rows}"
        );
        let p = problem(&text);
        let Problem::MoeGemm(moe) = p else { unreachable!("experts") };
        let weights = filled(&p, 1);
        // What was never written is not a number.
        let mut y = vec![0xff; places * 16 * 4];
        let mut next = 0;
        for expert in 0..7u64 {
            let count =
                moe.expert_of_rows().iter().filter(|&&e| u64::from(e) == expert).count();
            let first = if rows == "masked" { expert * 5 } else { next };
            next += count as u64;
            for row in first..first + count as u64 {
                for feature in 0..16 {
                    let term = |column| {
                        f64::from(key(0).value(DType::F32, row * 128 + column))
                            * f32_at(&weights, (expert * 16 + feature) * 128 + column)
                    };
                    let sum = (0..128).map(term).sum::<f64>() as f32;
                    y[((row * 16 + feature) * 4) as usize..][..4]
                        .copy_from_slice(&sum.to_le_bytes());
                }
            }
        }
        let found = checked(&text, &y);
        assert_eq!(
            (found.verdict, found.elements),
            (CheckVerdict::Pass, 160),
            "{text}: {}",
            found.message
        );

        let fails = |at: usize, value: f32, says: &str| {
            let mut wrong = y.clone();
            wrong[at..][..4].copy_from_slice(&value.to_le_bytes());
            let found = checked(&text, &wrong);
            assert_eq!(found.verdict, CheckVerdict::Fail);
            assert!(found.message.contains(says), "{}", found.message);
        };
        let is_poison = |element: usize| y[element * 4..][..4] == [0xff; 4];
        let written = (0..places * 16).find(|&element| !is_poison(element)).unwrap();
        fails(written * 4, 1e3, "expected");
        if rows == "masked" {
            fails(written * 4, f32::NAN, "not finite");
            let gap = (0..places * 16).find(|&element| is_poison(element)).unwrap();
            fails(gap * 4, 1.0, "no row belongs there");
        }
    }
}

/// Mistakes of kernels of latent attention.
#[derive(Clone, Copy, PartialEq)]
enum LatentBug {
    None,
    NoRope,
    ValuesFromRope,
    WrongScale,
    SeesTheFuture,
}

#[test]
fn latent_attention_agrees_with_a_plain_one() {
    for kv_dtype in ["f32", "fp8_e4m3"] {
        let text = format!(
            "mla_decode:batch=2,context=9,q_heads=3,dtype=f32,kv_dtype={kv_dtype},\
             layout=paged4,lengths=ragged,new_tokens=1"
        );
        let Problem::MlaDecode(p) = problem(&text) else { unreachable!("latents") };
        let cache = filled(&Problem::MlaDecode(p), 0);
        let table = key(1).page_table(6);
        let number = |request: u64, token: u64, column: u64| {
            let record =
                u64::from(table[(request * 3 + token / 4) as usize]) * 4 + token % 4;
            if kv_dtype == "f32" {
                return f32_at(&cache, record * 576 + column);
            }
            let bytes = &cache[record as usize * 656..][..656];
            match column as usize {
                at @ 0..512 => {
                    f64::from(crate::data::e4m3_to_f32(bytes[at]))
                        * f32_at(&bytes[512..528], at as u64 / 128)
                }
                at => {
                    let at = 528 + (at - 512) * 2;
                    bf16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f64()
                }
            }
        };
        let o = |bug: LatentBug| -> Vec<f64> {
            let mut o = Vec::new();
            for row in 0..2 * 3 {
                let request = row / 3;
                let mut tokens = p.length(request);
                if bug == LatentBug::SeesTheFuture {
                    tokens = 9;
                }
                let width = if bug == LatentBug::NoRope { 512 } else { 576 };
                let scale = if bug == LatentBug::WrongScale { 576.0 } else { 192.0 };
                let score = |token| -> f64 {
                    let q = |c| f64::from(key(2).value(DType::F32, row * 576 + c));
                    (0..width).map(|c| q(c) * number(request, token, c)).sum::<f64>()
                        / f64::sqrt(scale)
                };
                let weights: Vec<f64> = (0..tokens).map(|t| score(t).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let first = if bug == LatentBug::ValuesFromRope { 64 } else { 0 };
                o.extend((0..512).map(|c| {
                    let values = (0..tokens).map(|t| number(request, t, first + c));
                    values.zip(&weights).map(|(v, w)| v * w / sum).sum::<f64>()
                }));
            }
            o
        };
        let found = checked(&text, &bytes_of(&o(LatentBug::None)));
        let elements = 2 * 3 * 512;
        assert_eq!(
            (found.verdict, found.elements),
            (CheckVerdict::Pass, elements),
            "{}",
            found.message
        );
        for bug in [
            LatentBug::NoRope,
            LatentBug::ValuesFromRope,
            LatentBug::WrongScale,
            LatentBug::SeesTheFuture,
        ] {
            let found = checked(&text, &bytes_of(&o(bug)));
            assert_eq!(found.verdict, CheckVerdict::Fail);
            assert!(found.message.starts_with("o at batch "), "{}", found.message);
        }
    }
}

/// What nobody needs of a cache of latents, and of experts, is told byte by byte.
#[test]
fn unneeded_bytes_are_those_that_work_leaves_out() {
    for text in [
        "mla_decode:batch=3,context=21,q_heads=1,dtype=bf16,layout=paged4,lengths=ragged",
        "mla_decode:batch=3,context=21,q_heads=1,dtype=bf16,kv_dtype=fp8_e4m3,lengths=ragged",
        "moe_gemm:tokens=2,experts=9,top_k=2,n=16,k=128,dtype=bf16,w_dtype=int4,routing=zipf",
        "moe_gemm:tokens=2,experts=9,top_k=2,n=16,k=128,dtype=bf16,routing=balanced",
        "moe_gemm:tokens=5,experts=9,top_k=2,n=16,k=128,dtype=bf16,routing=zipf,\
         inputs=per_expert,rows=masked",
        "moe_gemm:tokens=5,experts=9,top_k=2,n=16,k=128,dtype=bf16,w_dtype=fp8_e4m3,\
         a_dtype=fp8_e4m3_token,routing=zipf,inputs=per_expert,rows=masked",
        "kv_read:batch=3,context=21,kv_heads=2,head_dim=64,dtype=bf16,layout=paged4,\
         lengths=ragged",
        "prefill_attention:batch=3,prefix=9,new_tokens=12,q_heads=4,kv_heads=2,head_dim=8,\
         dtype=bf16,layout=paged4,lengths=ragged",
        "prefill_attention:batch=3,prefix=9,new_tokens=12,q_heads=4,kv_heads=2,head_dim=8,\
         v_head_dim=4,dtype=bf16,lengths=ragged",
    ] {
        let p = problem(text);
        let unneeded = unneeded(&p, SEED, 0);
        let left_out: u64 = unneeded.iter().map(|(_, range)| range.end - range.start).sum();
        let inputs: u64 =
            p.tensors().iter().filter(|t| t.role == Role::Input).map(Tensor::bytes).sum();
        // But for numbers of pages that are not looked up.
        let pages = inputs - left_out - p.work().bytes_read();
        assert!(pages < 4 * 18 && pages.is_multiple_of(4), "{text}: {pages}");
        for (name, range) in unneeded {
            let tensor = p.tensors().into_iter().find(|t| t.name == name).unwrap();
            assert!(range.end <= tensor.bytes());
        }
    }
}

/// Values narrower than keys: the same attention with the rest of each value left out.
#[test]
fn narrow_values_are_the_first_elements_of_wide_ones() {
    let text = "prefill_attention:batch=1,new_tokens=1,prefix=0,q_heads=1,kv_heads=1,head_dim=8,\
                v_head_dim=4,dtype=f32";
    // One token attends to itself: its value row, of four elements.
    let row: Vec<f64> = (0..4).map(|i| key(1).value(DType::F32, i).into()).collect();
    assert_eq!(checked(text, &bytes_of(&row)).verdict, CheckVerdict::Pass);
    let wrong: Vec<f64> = (4..8).map(|i| key(1).value(DType::F32, i).into()).collect();
    assert_eq!(checked(text, &bytes_of(&wrong)).verdict, CheckVerdict::Fail);
}

/// New latents land at their places, and nowhere else.
#[test]
fn latents_are_appended_to_their_places() {
    let text = "mla_append:batch=2,context=5,new_tokens=2,latent_dim=6,rope_dim=2,dtype=f32,\
                layout=paged2";
    let p = problem(text);
    let Problem::MlaAppend(append) = p else { panic!("{p}") };
    let table = key(1).page_table((2 * append.pages()) as usize);
    let cache = |shift: u64| {
        let mut bytes = vec![0xff; p.output().bytes() as usize];
        for row in 0..4u64 {
            // Tokens 3 and 4: the last place of a page and the first of the next.
            let place = 1 + row % 2;
            let page = u64::from(table[(row / 2 * append.pages() + place / 2) as usize]);
            let to = ((page * 2 + (place + shift) % 2) * 8) as usize;
            for dim in 0..8 {
                let value = key(0).value(DType::F32, row * 8 + dim as u64);
                bytes[(to + dim) * 4..][..4].copy_from_slice(&value.to_le_bytes());
            }
        }
        bytes
    };
    let found = checked(text, &cache(0));
    assert_eq!(found.verdict, CheckVerdict::Pass, "{}", found.message);
    assert_eq!(checked(text, &cache(1)).verdict, CheckVerdict::Fail);
}
