//! Rows with lists of layers, and what each kind of layer asks of a step.

use super::*;
use crate::format::DType;
use crate::model::predict::{Footprint, Totals};
use crate::model::step::{Formats, Parallel, Phase, Step, StepShape};
use crate::model::table;
use crate::op::Problem;

fn built_in(name: &str) -> Llm {
    named(&load(None).unwrap(), name).unwrap().clone()
}

fn shape(phase: Phase, batch: u64, context: u64) -> StepShape {
    StepShape {
        phase,
        batch,
        context,
        new_tokens: if phase == Phase::Decode { 1 } else { context },
        ..StepShape::of_one_token(Formats::plain(DType::Bf16))
    }
}

fn step(model: &Llm, phase: Phase, context: u64) -> Step {
    Step::of(model, &shape(phase, 1, context)).unwrap()
}

/// The problems of a name, and how many there are of each.
fn named_problems(step: &Step, name: &str) -> Vec<(Problem, u64)> {
    let of_name = step.problems.iter().filter(|entry| entry.name == name);
    of_name.map(|entry| (entry.problem, entry.count)).collect()
}

/// A row of `models.toml`.
fn row(rest: &str) -> Result<Llm, String> {
    let text = format!(
        "[[model]]\nname = \"mine\"\nhidden = 64\nvocab = 100\nsource = \"me\"\n{rest}"
    );
    let rows = table::parse::<ModelRow>("mine.toml", &text).map_err(|e| e.to_string())?;
    Ok(rows.into_iter().next().unwrap())
}

const HEADS: &str = "q_heads = 4\nkv_heads = 2\nhead_dim = 16\nintermediate = 128\n";

/// Rows that say layers by keys, and by a list, are the same model.
#[test]
fn a_list_says_what_keys_say() {
    let by_keys =
        row(&format!("{HEADS}layers = 6\nwindow = 9\nglobal_every = 3\n")).unwrap();
    let list =
        "[[model.layer_list]]\ncount = 4\nwindow = 9\n[[model.layer_list]]\ncount = 2\n";
    let by_list = row(&format!("{HEADS}{list}")).unwrap();
    assert_eq!(by_keys, by_list);
    assert_eq!(by_keys.layers(), 6);
    // Entries that say the same are one kind.
    let twice = format!("{HEADS}{}", "[[model.layer_list]]\ncount = 3\n".repeat(2));
    let kinds = row(&twice).unwrap().kinds;
    assert_eq!((kinds.len(), kinds[0].count), (1, 6));
}

#[test]
fn entries_state_what_differs() {
    let list = "[[model.layer_list]]\nkv_heads = 1\n[[model.layer_list]]\nmixer = \"none\"\n\
                gated = false\n[[model.layer_list]]\nfeed_forward = \"none\"\n\
                shares_cache = true\nnorms_per_layer = 1\n";
    let model = row(&format!("{HEADS}{list}")).unwrap();
    let [first, second, third] = &model.kinds[..] else { panic!("{model:?}") };
    let heads = Heads {
        q_heads: 4,
        kv_heads: 1,
        head_dim: 16,
        qkv_bias: false,
        qk_norm: false,
        output_gate: false,
        span: Span::Full,
        shares_cache: false,
    };
    assert_eq!(first.mixer, Mixer::Heads(heads));
    assert_eq!(second.mixer, Mixer::None);
    let dense = Dense { intermediate: 128, gated: false };
    assert_eq!(second.feed_forward, FeedForward::Dense(dense));
    let shared = Heads { kv_heads: 2, shares_cache: true, ..heads };
    assert_eq!((third.mixer, third.norms), (Mixer::Heads(shared), 1));
    assert_eq!(third.feed_forward, FeedForward::None);
}

#[test]
fn bad_rows_are_told_what_to_do() {
    let state = "state_heads = 4\nstate_key_dim = 8\nstate_value_dim = 8\n\
                 state_rule = \"delta\"\nstate_decay = \"head\"\n";
    for (rest, part) in [
        ("layers = 2\nkv_heads = 2\nhead_dim = 16\nintermediate = 9\n", "needs `q_heads`"),
        (&*format!("{HEADS}layers = 2\n[[model.layer_list]]\n"), "leave out `layers`"),
        (&*format!("layer_list = []\n{HEADS}"), "`layer_list` is empty"),
        (
            &*format!("{HEADS}[[model.layer_list]]\nwindow = 4\nchunk = 4\n"),
            "entry 1 of layer_list: give `window` or `chunk`",
        ),
        (
            &*format!("{HEADS}[[model.layer_list]]\nmixer = \"state\"\n"),
            "needs `state_heads`",
        ),
        (
            &*format!(
                "{HEADS}{state}state_key_heads = 3\n[[model.layer_list]]\nmixer = \"state\"\n"
            ),
            "not a multiple of state_key_heads",
        ),
        (
            &*format!("{HEADS}[[model.layer_list]]\nmixer = \"mamba\"\n"),
            "unknown variant `mamba`",
        ),
        (&*format!("{HEADS}layers = 2\nindex_top_k = 5\n"), "goes with latent attention"),
        (
            &*format!("{HEADS}layers = 65537\n"),
            "layers = 65537; it must be from 1 to 65536",
        ),
        (&*format!("{HEADS}[[model.layer_list]]\ncount = 0\n"), "count = 0; it must be"),
        // Hugging Face's names, and slips.
        (
            &*format!("{HEADS}num_hidden_layers = 2\n"),
            "`num_hidden_layers`; here it is `layers`",
        ),
        (&*format!("{HEADS}layers = 2\nkv_head = 2\n"), "did you mean `kv_heads`?"),
    ] {
        let error = row(rest).unwrap_err();
        assert!(error.contains(part), "{rest}: {error}");
    }
}

/// What once wrapped around: every number has a range, and products of them too.
#[test]
fn numbers_out_of_range_are_refused() {
    let experts = "experts = 8\ntop_k = 2\nexpert_intermediate = 16\n";
    for (rest, part) in [
        ("shared_experts = 1152921504606846976\n", "shared_experts = 1152921504606846976"),
        (
            "norms_per_layer = 9223372036854775807\n",
            "norms_per_layer = 9223372036854775807",
        ),
        ("shared_experts = 65536\nshared_intermediate = 16777216\n", "times width of each"),
        ("dense_layers = 9223372036854775807\n", "dense_layers = 9223372036854775807"),
        ("context_limit = 9223372036854775807\n", "context_limit ="),
        ("parameters = 9223372036854775807\n", "parameters ="),
        // Keys that no layer has use for, too.
        ("state_heads = 16777217\n", "state_heads = 16777217; it must be"),
        ("index_dim = 0\n", "index_dim = 0; it must be"),
    ] {
        let error = row(&format!("{HEADS}layers = 2\n{experts}{rest}")).unwrap_err();
        assert!(error.contains(part), "{rest}: {error}");
    }
    let wide = "q_heads = 16777216\nkv_heads = 1\nhead_dim = 16777216\nintermediate = 8\n";
    let error = row(&format!("{wide}layers = 1\n")).unwrap_err();
    assert!(error.contains("q_heads = 16777216 times head_dim = 16777216"), "{error}");
    let many = "q_heads = 4\nkv_heads = 2\nhead_dim = 16\nexperts = 16777216\ntop_k = 1\n\
                expert_intermediate = 16777216\nlayers = 65536\n";
    let error = row(many).unwrap_err();
    assert!(error.contains("counted exactly"), "{error}");
    // Steps too large to count say so.
    let model = row(&format!("{HEADS}layers = 2\n")).unwrap();
    for (batch, context) in [(u64::MAX, 10), (1, u64::MAX), (1 << 40, 1)] {
        let error = Step::of(&model, &shape(Phase::Decode, batch, context)).unwrap_err();
        assert!(error.contains("counted at most"), "{error}");
    }
}

/// Llama 4 attends within chunks of 8192 in 36 layers: the tokens of the last chunk.
#[test]
fn chunks_begin_anew() {
    let scout = built_in("llama-4-scout");
    let seen = |context| {
        let [(Problem::DecodeAttention(p), 36)] =
            named_problems(&step(&scout, Phase::Decode, context), "chunked attention")[..]
        else {
            panic!("{context}")
        };
        p.context
    };
    assert_eq!([1, 8192, 8193, 20_000].map(seen), [1, 8192, 1, 3616]);
    // A prompt is cut into causal triangles, of which each has its own.
    let of_prompt = |context| {
        let found =
            named_problems(&step(&scout, Phase::Prefill, context), "chunked attention");
        let flops = found.iter().map(|(problem, count)| count * problem.work().flops());
        flops.sum::<u64>() / (36 * 4 * 40 * 128)
    };
    let triangle = |n: u64| n * (n + 1) / 2;
    assert_eq!(of_prompt(8000), triangle(8000));
    assert_eq!(of_prompt(20_000), 2 * triangle(8192) + triangle(3616));
    // After a prefix the first chunk is a part.
    let later = StepShape { new_tokens: 9000, ..shape(Phase::Prefill, 1, 12_000) };
    let found = Step::of(&scout, &later).unwrap();
    let new: u64 = named_problems(&found, "chunked attention")
        .iter()
        .map(|(problem, _)| match problem {
            Problem::PrefillAttention(p) => p.batch * p.new_tokens,
            other => panic!("{other}"),
        })
        .sum();
    assert_eq!(new, 9000);
    // A chunk is kept, of 36 layers, and everything of 12: 8 heads of 128, twice, in bf16.
    let cached = step(&scout, Phase::Decode, 100_000).request_cache_bytes;
    assert_eq!(cached, (36 * 8192 + 12 * 100_000) * 2 * 8 * 128 * 2);
}

/// A state is as large at every context, and the cache of other layers is not.
#[test]
fn states_do_not_grow() {
    let next = built_in("qwen3-next-80b-a3b");
    let cached = |context| step(&next, Phase::Decode, context).request_cache_bytes;
    let state = 36 * (32 * 128 * 128 * 4 + 8192 * 3 * 2);
    let token = 12 * 2 * 2 * 256 * 2;
    assert_eq!(cached(1), state + token);
    assert_eq!(cached(100_000), state + 100_000 * token);
    // States are divided by tensor parallelism; 16 key heads too.
    let parallel = Parallel { tensor: 2, ..Parallel::ONE };
    let half = Step::of(&next, &StepShape { parallel, ..shape(Phase::Decode, 1, 1) });
    assert_eq!(half.unwrap().request_cache_bytes, (state + token) / 2);
    // Projections are those of the published weights: in_proj_qkvz and in_proj_ba, out_proj.
    let found = step(&next, Phase::Decode, 64);
    let [(Problem::Gemm(input), 36)] = named_problems(&found, "state's input")[..] else {
        panic!("{found:?}")
    };
    assert_eq!((input.n, input.k), (12_288 + 64, 2048));
}

/// DeepSeek-V3.2 reads 2048 records of each layer, and all of its index.
#[test]
fn sparse_attention_reads_its_index_and_few_tokens() {
    let (sparse, dense) = (built_in("deepseek-v3.2-exp"), built_in("deepseek-v3"));
    let found = step(&sparse, Phase::Decode, 65_536);
    let [(attention, 61)] = named_problems(&found, "sparse latent attention")[..] else {
        panic!("{found:?}")
    };
    assert_eq!(attention.cache_bytes(), 2048 * (1152 + 4));
    let [(index, 61)] = named_problems(&found, "index")[..] else { panic!("{found:?}") };
    assert_eq!(index.cache_bytes(), 65_536 * 256);
    // The cache holds an index key of 128 beside each latent.
    let token = |model: &Llm| {
        let cached = |context| step(model, Phase::Decode, context).request_cache_bytes;
        cached(5001) - cached(5000)
    };
    assert_eq!(token(&sparse) - token(&dense), 61 * 128 * 2);
    // Long prompts attend sparsely as well; short ones to everything, with heads.
    assert_eq!(named_problems(&step(&sparse, Phase::Prefill, 2048), "attention").len(), 1);
    let long = step(&sparse, Phase::Prefill, 65_536);
    assert_eq!(named_problems(&long, "sparse latent attention").len(), 1);
    let flops = |model| Totals::of_step(&step(model, Phase::Prefill, 131_072)).flops;
    assert!(flops(&sparse) < 0.8 * flops(&dense));
}

/// Layers that share a cache read it and keep none.
#[test]
fn shared_caches_are_kept_once() {
    let list = "[[model.layer_list]]\ncount = 1\n[[model.layer_list]]\ncount = 3\n\
                shares_cache = true\n";
    let shared = row(&format!("{HEADS}{list}")).unwrap();
    let own = row(&format!("{HEADS}layers = 4\n")).unwrap();
    let cached = |model| step(model, Phase::Decode, 1000).request_cache_bytes;
    assert_eq!(4 * cached(&shared), cached(&own));
    let read = |model| Totals::of_step(&step(model, Phase::Decode, 1000)).cache_bytes;
    assert_eq!(read(&shared), read(&own));
    let weights = |model: &Llm| Footprint::of(&step(model, Phase::Decode, 1)).weight_bytes;
    // Three projections of keys and values less: 2 heads of 16, twice, in bf16.
    assert_eq!(weights(&own) - weights(&shared), f64::from(3 * 2 * 2 * 16 * 64 * 2));
}

/// Layers of one part alone are added up once when they are spread.
#[test]
fn parts_are_added_up_where_there_are_any() {
    let nemotron = built_in("nemotron-h-8b");
    let parallel = Parallel { tensor: 4, ..Parallel::ONE };
    let found = Step::of(&nemotron, &StepShape { parallel, ..shape(Phase::Decode, 1, 64) });
    let found = found.unwrap();
    assert_eq!(named_problems(&found, "all-reduce")[0].1, 52);
    assert_eq!(named_problems(&found, "up")[0].1, 24);
    assert!(named_problems(&found, "gate and up").is_empty());
    assert_eq!(nemotron.layers(), 52);
}
