//! Golden values: parameters, caches, whole steps.

mod mixes;

use super::launch::Graphs;
use super::llm::{self, Llm};
use super::machine::Machines;
use super::predict::{
    Footprint, Growth, PeakBasis, Prediction, Rates, StepQuestion, StepTimes, Totals,
};
use super::published::Regime;
use super::routing::{ExpertRouting, Touched};
use super::step::{Formats, Parallel, Phase, Step, StepShape};
use crate::format::DType;
use crate::op::Problem;
use crate::quant::Quant;

const BF16: Formats = Formats::plain(DType::Bf16);

fn models() -> Vec<Llm> {
    llm::load(None).unwrap()
}

fn decode(batch: u64, context: u64) -> StepShape {
    let (phase, parallel) = (Phase::Decode, Parallel::ONE);
    let (formats, routing) = (BF16, ExpertRouting::Uniform);
    StepShape { phase, batch, context, new_tokens: 1, formats, parallel, routing }
}

fn step(name: &str, shape: &StepShape) -> Step {
    Step::of(llm::named(&models(), name).unwrap(), shape).unwrap()
}

#[test]
fn parameters_are_the_published_ones() {
    let models = models();
    for (name, golden) in [
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("llama-2-7b", 6_738_415_616),
    ] {
        let model = llm::named(&models, name).unwrap();
        assert_eq!(Step::parameters(model).unwrap(), golden, "{name}");
    }
    for model in &models {
        let Some(published) = model.parameters else { continue };
        let counted = Step::parameters(model).unwrap();
        let off = counted as f64 / published as f64 - 1.0;
        assert!(off.abs() < 1e-3, "{}: {counted} against {published}", model.name);
    }
}

#[test]
fn an_expert_of_v3_is_golden() {
    let step = step("deepseek-v3", &decode(1, 1));
    let of =
        |name: &str| match step.problems.iter().find(|p| p.name == name).unwrap().problem {
            Problem::MoeGemm(p) => p.n * p.k,
            _ => panic!("{name}"),
        };
    assert_eq!(of("experts' gate and up") + of("experts' down"), 44_040_192);
}

/// Rows at which a square product crosses the ridge, `m = R N / (N - 2 R)`.
#[test]
fn products_cross_the_ridge_where_the_formula_says() {
    for (ridge, n) in [(295.2f64, 8192u64), (206.0, 4096)] {
        let crossing = ridge * n as f64 / (n as f64 - 2.0 * ridge);
        let oi = |m: u64| {
            let text = format!("gemm:m={m},n={n},k={n},dtype=bf16");
            text.parse::<Problem>().unwrap().work().operational_intensity()
        };
        assert!(oi(crossing.ceil() as u64) >= ridge && oi(crossing as u64 - 1) < ridge);
    }
}

#[test]
fn caches_grow_by_the_golden_bytes() {
    for (name, golden) in [
        ("llama-3.1-8b", 131_072),
        ("llama-3.1-70b", 327_680),
        ("llama-2-7b", 524_288),
        ("deepseek-v3", 70_272),
    ] {
        let cached = |context| step(name, &decode(1, context)).request_cache_bytes;
        assert_eq!(cached(1001) - cached(1000), golden, "{name}");
        assert_eq!(cached(1), golden, "{name}");
    }
}

/// The attention of one layer, as the literature counts it.
#[test]
fn attention_of_a_layer_is_golden() {
    for (name, flops, bytes, intensity) in [
        ("llama-3.1-8b", 134_217_728, 33_570_816, 3.998),
        ("llama-3.1-70b", 268_435_456, 33_587_200, 7.992),
    ] {
        let step = step(name, &decode(1, 8192));
        let attention = step.problems.iter().find(|p| p.name == "attention").unwrap();
        let work = attention.problem.work();
        assert_eq!((work.flops(), work.bytes()), (flops, bytes));
        assert!((work.operational_intensity() - intensity).abs() < 5e-4);
    }
}

/// Weights give the batch, and the cache 8: at batch 8 every context has 8.000.
/// The step that runs as a whole is the one that predictions add up: the same products and the
/// same attention, and less than half a percent of bytes between them, where the whole rotates
/// queries, chooses a token and has a page table.
#[test]
fn the_step_that_runs_is_the_one_that_is_predicted() {
    for (batch, context) in [(1, 1024), (8, 8192), (64, 4096)] {
        let predicted = Totals::of_step(&step("llama-3.1-8b", &decode(batch, context)));
        let text = format!(
            "decode_step:layers=32,batch={batch},context={context},hidden=4096,q_heads=32,\
             kv_heads=8,head_dim=128,intermediate=14336,vocab=128256,dtype=bf16"
        );
        let run = text.parse::<Problem>().unwrap().work();
        let flops = predicted.flops;
        assert!(
            (run.matrix_flops() as f64 / flops - 1.0).abs() < 1e-9,
            "{batch}, {context}"
        );
        let bytes = predicted.bytes;
        assert!((run.bytes() as f64 / bytes - 1.0).abs() < 5e-3, "{batch}, {context}");
    }
}

#[test]
fn whole_steps_of_llama_70b_are_golden() {
    let oi = |batch, context| {
        let totals = Totals::of_step(&step("llama-3.1-70b", &decode(batch, context)));
        totals.intensity_of_weights_and_cache()
    };
    for context in [1, 100, 1024, 32_768, 131_072, 1 << 20] {
        assert!((oi(8, context) - 8.0).abs() < 1e-9, "{context}: {}", oi(8, context));
    }
    assert!((oi(16, 1024) - 15.70).abs() < 0.005, "{}", oi(16, 1024));
    assert!((oi(16, 32_768) - 11.58).abs() < 0.005, "{}", oi(16, 32_768));
    // With the bytes of activations it is a little less.
    let totals = Totals::of_step(&step("llama-3.1-70b", &decode(8, 1024)));
    assert!((7.9..8.0).contains(&totals.operational_intensity()));
    let footprint = Footprint::of(&step("llama-3.1-70b", &decode(16, 131_072)));
    assert!((footprint.per_request_bytes() / 1e9 - 51.64).abs() < 0.005);
}

/// The work of one GPU times the number of GPUs is the whole step, except for work that
/// every GPU repeats.
#[test]
fn tensor_parallelism_divides_a_step() {
    for name in ["llama-3.1-70b", "qwen3-235b-a22b", "gpt-oss-120b"] {
        let shape = decode(16, 4096);
        let one = Totals::of_step(&step(name, &shape));
        let parallel = Parallel { tensor: 4, ..Parallel::ONE };
        let quarter = Totals::of_step(&step(name, &StepShape { parallel, ..shape }));
        assert!((4.0 * quarter.flops / one.flops - 1.0).abs() < 0.02, "{name}");
        assert!((4.0 * quarter.cache_bytes / one.cache_bytes - 1.0).abs() < 1e-9, "{name}");
        assert!(
            (4.0 * quarter.weight_bytes / one.weight_bytes - 1.0).abs() < 0.02,
            "{name}"
        );
        assert!(quarter.link_bytes > 0.0 && one.link_bytes == 0.0);
    }
}

/// Heads do not divide latent vectors: the second half of claim 5.
#[test]
fn tensor_parallelism_repeats_latents() {
    let oi = |tensor| {
        let shape = StepShape {
            parallel: Parallel { tensor, ..Parallel::ONE },
            ..decode(16, 65_536)
        };
        let step = step("deepseek-v3", &shape);
        let mla = step.problems.iter().find(|p| p.name == "latent attention").unwrap();
        mla.problem.work().operational_intensity()
    };
    assert!((oi(1) - 240.9).abs() < 0.1, "{}", oi(1));
    assert!((oi(8) - 30.2).abs() < 0.1, "{}", oi(8));
}

/// Experts are spread over all GPUs: each reads at most its share, and on average less.
#[test]
fn expert_parallelism_divides_experts() {
    let name = "deepseek-v3";
    let shape = StepShape {
        parallel: Parallel { tensor: 1, expert: 32, data: 32 },
        ..decode(32 * 8, 4096)
    };
    let step = step(name, &shape);
    let up = step.problems.iter().find(|p| p.name == "experts' gate and up").unwrap();
    let Problem::MoeGemm(p) = up.problem else { panic!("{up:?}") };
    assert_eq!((p.experts, p.tokens, p.top_k), (8, 256 * 8 / 32, 1));
    assert_eq!(p.experts_touched(), 8);
    let expected = up.bytes(Touched::Mean) / up.bytes(Touched::Bound);
    assert!((0.95..1.0).contains(&expected), "{expected}");
    assert!(step.problems.iter().any(|p| p.name == "all-to-all" && p.count == 2 * 58));
}

fn prediction(name: &str, shape: &StepShape, machine: &str) -> Prediction {
    let (models, machines) = (models(), Machines::load(None).unwrap());
    let rates = Rates::new(machines.named(machine).unwrap(), PeakBasis::Sheet);
    let model = llm::named(&models, name).unwrap();
    let step = Step::of(model, shape).unwrap();
    let growth = Growth::of(model, shape);
    let question = StepQuestion { model, shape, rates: &rates };
    Prediction::of(&question, &step, Totals::of_step(&step), &growth)
}

/// DeepSeek-V3 in fp8 on 8 GPUs at batch 256 and 4K: a prediction at the data sheet's peaks.
fn deepseek_on_eight(graphs: Graphs) -> Prediction {
    let formats = Formats { weights: Quant::weights(DType::Fp8E4m3).into(), ..BF16 };
    let parallel = Parallel { tensor: 1, expert: 8, data: 8 };
    let shape = StepShape { formats, parallel, ..decode(256, 4096) };
    let (models, machines) = (models(), Machines::load(None).unwrap());
    let h200 = machines.named("h200").unwrap();
    let rates = Rates::new(h200, PeakBasis::Sheet).with_graphs(graphs);
    let model = llm::named(&models, "deepseek-v3").unwrap();
    let step = Step::of(model, &shape).unwrap();
    let question = StepQuestion { model, shape: &shape, rates: &rates };
    let growth = Growth::of(model, &shape);
    Prediction::of(&question, &step, Totals::of_step(&step), &growth)
}

/// The products of all heads of a layer are one launch. Counted one by one they were 15,616
/// of 16,522, and the step was said to be bound by their latency at 33 ms.
#[test]
fn absorbed_heads_are_one_launch_a_layer() {
    let of = deepseek_on_eight(Graphs::On);
    // In each of 61 layers two norms, three projections of queries and latents, the append,
    // two absorbed products, attention and its output; 3 dense feed-forward layers of three
    // launches; 58 layers with a router, three of the shared expert and three of the routed
    // ones; embedding, last norm and head.
    assert_eq!(of.totals.launches, 61 * 10 + 3 * 3 + 58 * 7 + 3);
    let times = of.times.unwrap();
    assert!((times.launch_s - 1028.0 * 2e-6).abs() < 1e-12, "{times:?}");
    assert_eq!(of.bound().unwrap().name(), "bandwidth");
    assert!((times.roof_s * 1e3 - 23.3).abs() < 0.05, "{times:?}");
    assert!((23.0..24.2).contains(&(times.time_s() * 1e3)), "{times:?}");
    // Nor does the host limit it that starts each.
    let one_by_one = deepseek_on_eight(Graphs::Off).times.unwrap();
    assert!((one_by_one.launch_s - 1028.0 * 5e-6).abs() < 1e-12);
    assert_eq!(one_by_one.time_s(), times.time_s());
}

/// A launch does what a layer has of its kind, however many heads, experts, requests or
/// GPUs there are.
#[test]
fn launches_depend_on_the_layers_alone() {
    for model in &models() {
        for phase in Phase::ALL {
            let launches = |batch, context, tensor| {
                let parallel = Parallel { tensor, ..Parallel::ONE };
                let shape = StepShape { phase, parallel, ..decode(batch, context) };
                let step = Step::of(model, &shape).unwrap();
                for entry in &step.problems {
                    let norms = model.kinds.iter().map(|kind| kind.norms.max(1));
                    let most = model.layers() * norms.max().unwrap() + 1;
                    assert!(entry.launches() <= most, "{}: {entry:?}", model.name);
                }
                Totals::of_step(&step).launches
            };
            // Shorter prompts than an index chooses from have other products.
            let one = launches(1, 4096, 1);
            for other in
                [launches(256, 4096, 1), launches(1, 65_536, 1), launches(1, 4096, 2)]
            {
                assert_eq!(one, other, "{} {}", model.name, phase.name());
            }
        }
    }
}

/// A small step takes as long as its launches take to start, longer without graphs.
#[test]
fn launches_of_small_steps_take_their_time() {
    let (models, machines) = (models(), Machines::load(None).unwrap());
    let model = llm::named(&models, "llama-3.1-8b").unwrap();
    let parallel = Parallel { tensor: 8, ..Parallel::ONE };
    let step = Step::of(model, &StepShape { parallel, ..decode(1, 64) }).unwrap();
    let rates = Rates::new(machines.named("h200").unwrap(), PeakBasis::Sheet);
    let of = |graphs| StepTimes::of(&step, &rates.with_graphs(graphs)).unwrap();
    // 32 layers of 9, embedding, last norm and head.
    let launches = (32 * 9 + 3) as f64;
    for (graphs, launch_s) in [(Graphs::On, 2e-6), (Graphs::Off, 5e-6)] {
        let times = of(graphs);
        assert!((times.launch_s / (launches * launch_s) - 1.0).abs() < 1e-12, "{times:?}");
    }
    assert_eq!(of(Graphs::Off).bound().name(), "latency");
    assert_eq!(of(Graphs::Off).time_s(), of(Graphs::Off).launch_s);
}

/// Qwen3-235B at batch 16: 128 tokens' experts are not 128 different ones. Both numbers are
/// there, and time and intensity are of the mean.
#[test]
fn touched_experts_are_the_mean_and_the_bound_beside_it() {
    let name = "qwen3-235b-a22b";
    let of = |routing| prediction(name, &StepShape { routing, ..decode(16, 1) }, "h200");
    let (mean, bound) = (of(ExpertRouting::Uniform), of(ExpertRouting::Balanced));
    let gb = |of: &Prediction| (of.totals.weight_bytes / 1e9).round();
    assert_eq!((gb(&mean), gb(&bound)), (307.0, 469.0));
    assert_eq!(mean.totals.bytes, mean.totals.expected_bytes);
    assert_eq!(bound.totals.bytes, bound.totals.bound_bytes);
    assert_eq!(bound.totals.expected_bytes, mean.totals.expected_bytes);
    let weights = bound.totals.weight_bytes - mean.totals.weight_bytes;
    assert!((weights / (bound.totals.bytes - mean.totals.bytes) - 1.0).abs() < 1e-9);
    for of in [&mean, &bound] {
        let totals = of.totals;
        assert_eq!(totals.operational_intensity(), totals.flops / totals.bytes);
        assert_eq!(totals.bound_intensity(), totals.flops / totals.bound_bytes);
        // Memory binds all of a step that small.
        let time_s = of.times.unwrap().time_s();
        assert!((time_s * 4.8e12 / totals.bytes - 1.0).abs() < 1e-3, "{of:?}");
        assert_eq!(of.bound_times, bound.times);
    }
    let skewed = of(ExpertRouting::Zipf(1.0));
    assert!(skewed.totals.bytes < 0.8 * mean.totals.bytes);
    assert_eq!(skewed.totals.bound_bytes, bound.totals.bytes);
    // One token touches what it chooses, and a large batch everything.
    for batch in [1, 100_000] {
        let of = prediction(name, &decode(batch, 1), "h200").totals;
        assert!((of.bytes / of.bound_bytes - 1.0).abs() < 1e-9, "{of:?}");
    }
}

/// Top 8 of 256 experts over 8 GPUs: in the mean a token leaves for 4.63 of the other GPUs,
/// at most for 7, there and back in each of 58 layers.
#[test]
fn tokens_are_sent_once_to_each_gpu() {
    let sent = |routing, tensor, data| {
        let parallel = Parallel { tensor, data, expert: 8 };
        let step =
            step("deepseek-v3", &StepShape { parallel, routing, ..decode(256, 4096) });
        let of = |name: &str| {
            let entries = step.problems.iter().filter(|entry| entry.name == name);
            entries.map(|p| p.count as f64 * p.sent_bytes(step.touched)).sum::<f64>()
        };
        (of("all-to-all"), of("all-gather"))
    };
    let (uniform, balanced) = (ExpertRouting::Uniform, ExpertRouting::Balanced);
    let copies = |bytes: f64| bytes / (2.0 * 58.0 * 32.0 * 7168.0 * 2.0);
    assert!((copies(sent(uniform, 1, 8).0) - 4.63).abs() < 0.005);
    assert!((copies(sent(balanced, 1, 8).0) - 7.0).abs() < 1e-9);
    // GPUs with the same tokens send each of them once, and gather what has come back.
    let (divided, gathered) = sent(uniform, 8, 1);
    assert_eq!(divided, sent(uniform, 1, 8).0);
    assert_eq!(gathered, 58.0 * 256.0 * 7168.0 * 2.0 * 7.0 / 8.0);
    assert_eq!(sent(uniform, 1, 8).1, 0.0);
}

/// Two groups of 8 GPUs have all experts each, and half of the tokens.
#[test]
fn groups_with_all_experts_divide_the_tokens() {
    let rows = |data| {
        let parallel = Parallel { tensor: 1, data, expert: 8 };
        let step = step("deepseek-v3", &StepShape { parallel, ..decode(256, 4096) });
        let up = step.problems.iter().find(|p| p.name == "experts' gate and up").unwrap();
        let Problem::MoeGemm(p) = up.problem else { panic!("{up:?}") };
        (p.experts, p.rows())
    };
    assert_eq!((rows(8), rows(16)), ((32, 256), (32, 128)));
}

/// The batch before the predicted one is below the ridge.
#[test]
fn batches_at_the_ridge_are_the_smallest() {
    for (name, context) in [("llama-3.1-8b", 16), ("llama-3.1-70b", 64)] {
        let shape = decode(1, context);
        let found = prediction(name, &shape, "h200").batch_at_ridge.unwrap();
        let oi = |batch| {
            Totals::of_step(&step(name, &decode(batch, context))).operational_intensity()
        };
        let ridge = 989e12 / 4.8e12;
        assert!(oi(found) >= ridge && oi(found - 1) < ridge, "{name}: {found}");
    }
    // At long contexts intensity falls to the group's size: no batch reaches the ridge.
    let long = prediction("llama-3.1-70b", &decode(1, 32_768), "h200");
    assert_eq!(long.batch_at_ridge, None);
    assert_eq!(long.wall_comes_first(), Some(true));
}

#[test]
fn what_does_not_fit_says_what_is_short() {
    let on_one = prediction("llama-3.1-70b", &decode(1, 1024), "h100-sxm");
    assert_eq!(on_one.fits(), Some(false));
    assert_eq!(on_one.bound().unwrap().name(), "capacity");
    // 141.1 GB and a third of one, on 80.
    assert!((on_one.short_bytes().unwrap() / 1e9 - 61.44).abs() < 0.05, "{on_one:?}");
    let shape =
        StepShape { parallel: Parallel { tensor: 4, ..Parallel::ONE }, ..decode(1, 1024) };
    let on_four = prediction("llama-3.1-70b", &shape, "h100-sxm");
    assert_eq!((on_four.fits(), on_four.short_bytes()), (Some(true), None));
}

#[test]
fn windows_bound_the_cache() {
    let cached = |context| step("gpt-oss-120b", &decode(1, context)).request_cache_bytes;
    // 36 layers, of which 18 keep 128 tokens; 8 heads of 64, twice, in 2 bytes.
    let token = 2 * 8 * 64 * 2;
    assert_eq!(cached(100), 36 * 100 * token);
    assert_eq!(cached(10_000), 18 * token * (10_000 + 128));
    let attention = step("gpt-oss-120b", &decode(1, 10_000));
    let windowed =
        attention.problems.iter().find(|p| p.name == "windowed attention").unwrap();
    assert_eq!(windowed.count, 18);
    assert_eq!(windowed.problem.cache_bytes(), 128 * token);
}

/// A prompt in two parts takes the FLOPs of the whole prompt.
#[test]
fn prefill_after_a_prefix_is_the_rest_of_a_prompt() {
    let prefill = |context, new_tokens| {
        let shape =
            StepShape { phase: Phase::Prefill, context, new_tokens, ..decode(1, context) };
        let step = step("llama-3.1-8b", &shape);
        let attention = step.problems.iter().find(|p| p.name == "attention").unwrap();
        attention.problem.work().flops()
    };
    assert_eq!(prefill(1000, 600) + prefill(400, 400), prefill(1000, 1000));
}

#[test]
fn what_cannot_be_divided_is_said() {
    let of = |name: &str, parallel| {
        let models = models();
        let shape = StepShape { parallel, ..decode(8, 64) };
        Step::of(llm::named(&models, name).unwrap(), &shape).unwrap_err()
    };
    let three = Parallel { tensor: 3, ..Parallel::ONE };
    assert!(of("llama-3.1-8b", three).contains("q_heads = 32"));
    let experts = Parallel { expert: 2, ..Parallel::ONE };
    assert!(of("llama-3.1-8b", experts).contains("no experts"));
    assert!(of("mixtral-8x7b", experts).contains("more than the 1 GPUs"));
}

#[test]
fn tables_of_users_are_checked_line_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.toml");
    let row = "# mine\n\n[[model]]\nname = \"mine\"\nlayers = 2\nhidden = 64\nvocab = 100\n\
               q_heads = 4\nkv_heads = 2\nhead_dim = 16\nintermediate = 128\nsource = \"me\"\n";
    let load = |text: &str| {
        std::fs::write(&path, text).unwrap();
        llm::load(Some(&path)).map_err(|e| format!("{e:#}"))
    };
    assert_eq!(load(row).unwrap()[0].name, "mine");
    for (from, to, part) in [
        (
            "kv_heads = 2",
            "kv_heads = 3",
            "mine.toml:3: model mine: q_heads = 4 is not a multiple",
        ),
        ("layers = 2", "layers = 0", "mine.toml:3: model mine: layers = 0"),
        ("layers = 2", "layer = 2", "unknown field `layer`"),
        ("layers = 2", "layers = \"x\"", "mine.toml:5"),
        ("intermediate = 128\n", "", "give their `intermediate`"),
        ("head_dim = 16", "head_dim = 16\nwindow = 9", "`window` and `global_every`"),
        ("[[model]]", "[[machine]]", "machine"),
        ("source = \"me\"", "source = \"\"", "`source`"),
        ("head_dim = 16", "head_dim = 16\nexperts = 2", "`top_k`"),
        ("kv_heads = 2\nhead_dim = 16", "kv_lora_rank = 8", "qk_nope_dim"),
    ] {
        let error = load(&row.replacen(from, to, 1)).unwrap_err();
        assert!(error.contains(part), "{from} -> {to}: {error}");
    }
    let error = llm::named(&models(), "llama-3.1-80b").unwrap_err().to_string();
    assert!(error.contains("llama-3.1-8b"), "{error}");
}

/// No published measurement is faster than the roofline at achievable peaks by more than
/// 5%, and none implies a rate above the data sheet's.
#[test]
fn predictions_are_never_above_what_was_measured() {
    let measurements = super::published::measurements().unwrap();
    let machines = Machines::load(None).unwrap();
    let compared = super::published::compare(&machines, &models(), measurements).unwrap();
    assert!(compared.len() >= 20);
    for of in &compared {
        let name = &of.measurement.name;
        assert!(of.ratio() <= 1.05, "{name}: {}", of.ratio());
        assert!(of.implied_bandwidth <= 1.0 && of.implied_compute <= 1.0, "{name}");
    }
    // Memory-bound measurements are close to their predictions.
    let memory: Vec<f64> = compared
        .iter()
        .filter(|of| of.regime == Regime::Memory)
        .map(|of| of.ratio())
        .collect();
    let mean = memory.iter().sum::<f64>() / memory.len() as f64;
    assert!(memory.len() > 8 && mean > 0.8, "{mean} of {}", memory.len());
}

/// A task is the sum of its turns, whose contexts grow.
#[test]
fn tasks_are_their_turns() {
    use super::task::{Disaggregated, Offloaded, Served, Turn};
    use super::workload;
    let (models, machines) = (models(), Machines::load(None).unwrap());
    let workloads = workload::load(None).unwrap();
    let rates = Rates::new(machines.named("h200").unwrap(), PeakBasis::Sheet);
    let parallel = Parallel { tensor: 4, ..Parallel::ONE };
    let model = llm::named(&models, "llama-3.1-70b").unwrap();
    let routing = ExpertRouting::Uniform;
    let served = Served { model, formats: BF16, parallel, routing, cache_hit: None };
    let coding = workload::named(&workloads, "coding").unwrap();
    let task = Turn::of_task(&served, &rates, coding, 8).unwrap();
    let mut prefill_s = 0.0;
    for turn in 0..coding.turns {
        let (prompt, new) = (coding.prompt(turn), coding.computed(turn, None));
        prefill_s += served.prefill_s(&rates, prompt, new).unwrap();
    }
    assert!((task.prefill_s / prefill_s - 1.0).abs() < 1e-12);
    assert_eq!(task.output_tokens, coding.turns * coding.output_tokens);
    assert_eq!(task.computed_tokens, 12_367 + 32 * 4_011);
    assert_eq!((coding.prompt(0), coding.prompt(coding.turns - 1)), (12_367, 84_482));
    // A few steps stand for all of them.
    let in_segments = served.answer_s(&rates, 8, 5_000, 200).unwrap();
    let singly: f64 =
        (0..200).map(|i| served.decode_s(&rates, 8, 5_000 + i).unwrap()).sum();
    assert!((in_segments / singly - 1.0).abs() < 1e-4, "{in_segments} {singly}");
    // Without a prefix cache every prompt is computed from its first token.
    let cold = Served { cache_hit: Some(0.0), ..served };
    let cold = Turn::of_task(&cold, &rates, coding, 8).unwrap();
    assert_eq!(cold.cached_tokens, 0);
    assert!(cold.prefill_s > 5.0 * task.prefill_s);

    let h100 = Rates::new(machines.named("h100-sxm").unwrap(), PeakBasis::Sheet);
    let apart = Disaggregated::of(&served, (&h100, &rates), coding, u64::MAX).unwrap();
    // Each GPU ships a quarter of 327,680 bytes for each token that is computed, at
    // 450 GB/s.
    assert!((apart.shipped_bytes / (81_920.0 * 4_011.0) - 1.0).abs() < 1e-9);
    assert!((apart.link_s.unwrap() * 450e9 / apart.shipped_bytes - 1.0).abs() < 1e-9);
    assert!(apart.batch > 10 && apart.prefill_per_decode() > 0.1, "{apart:?}");
    let away = Offloaded::of(&served, &rates, 16, 65_536).unwrap();
    let needed = away.streaming_bytes_per_s();
    assert!(needed < 4.8e12 && needed > 0.5 * 4.8e12, "{away:?}");
    assert!(away.slowdown().unwrap() > 10.0 && away.fetching_bytes_per_s() < 64e9);
}

/// What predictions say about the paper's claims. A change here is either a finding for
/// docs/METHODOLOGY.md or an error to correct.
#[test]
fn claims_hold_where_they_do() {
    use super::claims::Claims;
    let (models, machines) = (models(), Machines::load(None).unwrap());
    let workloads = super::workload::load(None).unwrap();
    let found = Claims { models: &models, machines: &machines, workloads: &workloads };
    let right = |name: &str| {
        let predicted = found.predict(name).unwrap();
        (predicted.right, predicted.of)
    };
    let partly = ["prefill-intensity", "memory-wall"];
    for name in super::claims::predictions() {
        let (right, of) = right(name);
        assert_eq!(right < of, partly.contains(&name), "{name}: {right} of {of}");
        assert!(2 * right > of, "{name}: {right} of {of}");
    }
    assert!(found.predict("weather").is_err());
}
