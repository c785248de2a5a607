//! Steps of requests that differ.

use proptest::prelude::*;

use super::*;
use crate::model::mix::{Mix, Segment};
use crate::model::step::StepPart;

/// Models of every kind of attention.
fn any_model() -> impl Strategy<Value = Llm> {
    proptest::sample::select(models())
}

fn any_segment() -> impl Strategy<Value = Segment> {
    let new_tokens = prop_oneof![Just(1u64), 1u64..600];
    (1u64..40, new_tokens, 0u64..20_000, any::<bool>()).prop_map(
        |(requests, new_tokens, prefix, answered)| Segment {
            phase: if new_tokens == 1 { Phase::Decode } else { Phase::Prefill },
            new_tokens,
            context: prefix + new_tokens,
            answered,
            requests,
        },
    )
}

fn any_segments() -> impl Strategy<Value = Vec<Segment>> {
    proptest::collection::vec(any_segment(), 1..6)
}

fn of_mix(model: &Llm, segments: &[Segment]) -> Step {
    let mix = Mix::new(segments.to_vec()).unwrap();
    Step::of_mix(model, &mix, &decode(1, 1)).unwrap()
}

/// Sums over attention itself, without projections.
fn attention(step: &Step) -> Totals {
    Totals::of(step, |part| part == StepPart::Attention)
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A mix of equal requests, however they are written, is the step of their batch.
    #[test]
    fn equal_requests_are_a_batch(
        model in any_model(),
        of in any_segment(),
        counts in proptest::collection::vec(1u64..30, 1..5),
        data in 1u64..4,
    ) {
        let parallel = Parallel { data, ..Parallel::ONE };
        let Segment { phase, new_tokens, context, .. } = of;
        let batch = counts.iter().sum();
        let shape =
            StepShape { phase, batch, context, new_tokens, parallel, ..decode(1, 1) };
        let segments: Vec<Segment> =
            counts.iter().map(|&requests| Segment { requests, answered: true, ..of }).collect();
        let mix = Mix::new(segments).unwrap();
        let step = Step::of_mix(&model, &mix, &StepShape { parallel, ..decode(1, 1) });
        prop_assert_eq!(step, Step::of(&model, &shape));
    }

    /// Attention of a mix is the sum of that of its requests, and so is the cache.
    #[test]
    fn attention_of_a_mix_is_a_sum(model in any_model(), segments in any_segments()) {
        let mixed = of_mix(&model, &segments);
        let alone: Vec<Step> =
            segments.iter().map(|segment| of_mix(&model, &[*segment])).collect();
        let sum = |value: &dyn Fn(&Step) -> f64| alone.iter().map(value).sum::<f64>();
        let of_mixed = attention(&mixed);
        prop_assert!(near(of_mixed.flops, sum(&|step| attention(step).flops)));
        prop_assert!(near(of_mixed.cache_bytes, sum(&|step| attention(step).cache_bytes)));
        let moved = |totals: Totals| totals.bytes - totals.weight_bytes;
        prop_assert!(near(moved(of_mixed), sum(&|step| moved(attention(step)))));
        let cached = |step: &Step| step.requests as f64 * step.request_cache_bytes as f64;
        prop_assert!((cached(&mixed) - sum(&cached)).abs() <= mixed.requests as f64);
        prop_assert_eq!(mixed.new_tokens as f64, sum(&|step| step.new_tokens as f64));
    }

    /// The order in which requests are written does not matter.
    #[test]
    fn the_order_of_requests_does_not_matter(
        model in any_model(),
        (segments, shuffled) in any_segments().prop_flat_map(|segments| {
            (Just(segments.clone()), Just(segments).prop_shuffle())
        }),
    ) {
        prop_assert_eq!(of_mix(&model, &segments), of_mix(&model, &shuffled));
    }

    /// Whatever a step does, the weights in memory are the same.
    #[test]
    fn weights_lie_in_memory_once(model in any_model(), segments in any_segments()) {
        let resident = of_mix(&model, &segments).resident_weight_bytes();
        prop_assert_eq!(resident, Step::of(&model, &decode(1, 1)).unwrap().resident_weight_bytes());
    }
}

/// 60 requests that decode at two contexts, and a chunk of a prompt of 512 tokens.
const CHUNKED: [Segment; 3] = [
    Segment {
        phase: Phase::Decode,
        requests: 48,
        context: 2048,
        new_tokens: 1,
        answered: true,
    },
    Segment {
        phase: Phase::Decode,
        requests: 12,
        context: 16_384,
        new_tokens: 1,
        answered: true,
    },
    Segment {
        phase: Phase::Prefill,
        requests: 1,
        context: 4096,
        new_tokens: 512,
        answered: false,
    },
];

/// Projections see all tokens at once and read their weights once; the head sees requests
/// that get a token; attention is apart, in a launch for each phase.
#[test]
fn a_chunk_beside_decode_reads_weights_once() {
    let models = models();
    let model = llm::named(&models, "llama-3.1-8b").unwrap();
    let step = of_mix(model, &CHUNKED);
    let of = |name: &str| -> Vec<_> {
        step.problems.iter().filter(|entry| entry.name == name).collect()
    };
    for (name, rows) in [("q, k and v", 572), ("gate and up", 572), ("head", 60)] {
        let [entry] = of(name)[..] else { panic!("{name}") };
        let Problem::Gemm(gemm) = entry.problem else { panic!("{entry:?}") };
        assert_eq!(gemm.m, rows, "{name}");
    }
    let attention = of("attention");
    assert_eq!(attention.len(), 3);
    assert_eq!(attention.iter().map(|entry| entry.launches()).sum::<u64>(), 2 * 32);
    assert_eq!(of("append").iter().map(|entry| entry.launches()).sum::<u64>(), 32);
    // One launch of attention more in each layer than a step that only decodes has.
    let decodes = Totals::of_step(&of_mix(model, &CHUNKED[..2]));
    let totals = Totals::of_step(&step);
    assert_eq!(totals.launches, decodes.launches + 32);
    assert_eq!(totals.weight_bytes, decodes.weight_bytes);
    // 128 KiB for a token, of 48 * 2048 + 12 * 16384 + 4096.
    assert_eq!(totals.cache_bytes, 131_072.0 * 299_008.0);
}

/// Latents are absorbed for what decodes and made into keys and values for prompts, with
/// the same weights.
#[test]
fn latents_are_both_absorbed_and_made_anew() {
    let models = models();
    let model = llm::named(&models, "deepseek-v3").unwrap();
    let step = of_mix(model, &CHUNKED);
    let rows = |name: &str| {
        let entry = step.problems.iter().find(|entry| entry.name == name).unwrap();
        let Problem::Gemm(gemm) = entry.problem else { panic!("{entry:?}") };
        gemm.m
    };
    assert_eq!(rows("absorb keys"), 60);
    assert_eq!(rows("keys and values up"), 4096);
    assert_eq!(rows("latents"), 572);
    let decodes = Totals::of_step(&of_mix(model, &CHUNKED[..2]));
    // One launch for both contexts.
    let of_one = Totals::of_step(&of_mix(model, &CHUNKED[..1]));
    assert_eq!(decodes.launches, of_one.launches);
    // Keys and values up, and attention of the prompt.
    assert_eq!(Totals::of_step(&step).launches, decodes.launches + 2 * 61);
}

/// A step that answers nothing computes no head, whose weights are in memory all the same.
#[test]
fn a_chunk_alone_has_no_head() {
    for name in ["llama-3.1-8b", "deepseek-v3"] {
        let models = models();
        let model = llm::named(&models, name).unwrap();
        let step = of_mix(model, &CHUNKED[2..]);
        assert!(step.problems.iter().all(|entry| entry.name != "head"));
        let head = 2 * model.vocab * model.hidden;
        let answered = of_mix(model, &CHUNKED);
        assert_eq!(step.embedding_bytes, answered.embedding_bytes + head);
    }
}

#[test]
fn files_of_mixes_are_checked_line_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mix.toml");
    let load = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Mix::load(&path).map_err(|e| format!("{e:#}"))
    };
    let text = "# mine\n\n[[segment]]\nrequests = 48\ncontext = 2048\n\n[[segment]]\n\
                requests = 1\ncontext = 4096\nnew_tokens = 512\nanswered = false\n";
    let mix = load(text).unwrap();
    assert_eq!(mix.segments(), [CHUNKED[0], CHUNKED[2]]);
    assert_eq!((mix.requests(), mix.new_tokens()), (49, 560));
    let decoded = load(&text.replace("512", "512\nphase = \"decode\"")).unwrap();
    assert_eq!(decoded.segments()[1].phase, Phase::Decode);
    for (from, to, parts) in [
        ("requests = 48", "requests = 0", &["mix.toml:3: ", "requests = 0"][..]),
        ("requests = 48", "requests = -1", &["mix.toml:4: "]),
        ("requests = 48", "requests = 2.5", &["mix.toml:4: "]),
        ("requests = 48\n", "", &["mix.toml:3: ", "missing field `requests`"]),
        ("requests = 48", "request = 48", &["mix.toml:4: ", "`requests`"]),
        ("requests = 48", "requests = 9223372036854775807", &["mix.toml:3: ", "1 to"]),
        ("context = 2048", "context = 99999999999999", &["mix.toml:3: ", "context = "]),
        ("new_tokens = 512", "new_tokens = 5120", &["mix.toml:9: ", "raise `context`"]),
        ("requests = 1\n", "requests = 60000000000\n", &["mix.toml:7: ", "lower one"]),
        ("answered", "phase = \"mixed\"\nanswered", &["mix.toml:7: ", "\"prefill\""]),
        ("answered = false", "answered = 0", &["mix.toml:11: "]),
        ("[[segment]]\nrequests = 48", "[[segments]]\nrequests = 48", &["`segment`"]),
        ("context = 2048", "context = ", &["mix.toml:5: "]),
    ] {
        let error = load(&text.replacen(from, to, 1)).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{from} -> {to}: {error}");
        }
    }
    let error = load("# nothing\n").unwrap_err();
    assert!(error.contains("mix.toml") && error.contains("[[segment]]"), "{error}");
    let error = format!("{:#}", Mix::load(&dir.path().join("none.toml")).unwrap_err());
    assert!(
        error.contains("cannot read the mix") && error.contains("none.toml"),
        "{error}"
    );
    // Every segment may be counted, and not their sum.
    let most = "[[segment]]\nrequests = 65536\ncontext = 1048576\nnew_tokens = 1048576\n";
    let mix = load(&most.repeat(2)).unwrap();
    let models = models();
    let model = llm::named(&models, "llama-3.1-8b").unwrap();
    assert!(Step::of_mix(model, &mix, &decode(1, 1)).is_err());
}

#[test]
fn the_example_is_a_mix() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mix.toml");
    let mix = Mix::load(&path).unwrap();
    assert_eq!((mix.requests(), mix.new_tokens()), (66, 64 + 4096 + 512));
    assert_eq!(mix.segments().iter().filter(|s| s.phase == Phase::Prefill).count(), 2);
    assert_eq!(mix.segments().iter().filter(|s| !s.answered).count(), 1);
}
