//! Suites parsed and planned.

use std::collections::HashMap;

use super::*;
use crate::device::simulated::SimulatedDevice;
use crate::op::Purpose;
use proptest::prelude::*;

fn device() -> SimulatedDevice {
    SimulatedDevice::default()
}

fn error_of(text: &str) -> String {
    match Suite::parse("s.toml", text).and_then(|suite| suite.plan(&device())) {
        Ok(plan) => panic!("planned {} points from\n{text}", plan.points.len()),
        Err(error) => error.to_string(),
    }
}

const GEMM: &str = "name = \"x\"\n[[points]]\nop = \"gemm\"\nm = [1, 2]\nn = 3\nk = [4, 5]\n\
                    dtype = \"f32\"\n";

#[test]
fn points_are_all_combinations_in_order() {
    let plan = Suite::parse("s.toml", GEMM).unwrap().plan(&device()).unwrap();
    let spelled: Vec<String> = plan.points.iter().map(|p| p.problem.to_string()).collect();
    assert_eq!(
        spelled,
        [
            "gemm:m=1,n=3,k=4,dtype=f32",
            "gemm:m=1,n=3,k=5,dtype=f32",
            "gemm:m=2,n=3,k=4,dtype=f32",
            "gemm:m=2,n=3,k=5,dtype=f32",
        ]
    );
    assert!(plan.points.iter().all(|p| p.cache == CacheState::Cold));
}

#[test]
fn the_vendors_kernel_stands_beside_the_own_one_unless_the_suite_says_otherwise() {
    let planned = |text: &str| -> Vec<String> {
        let basis = PlanBasis {
            cache_bytes: 1 << 20,
            units: 1,
            kernel: &|_| Some("own"),
            // Of one problem alone.
            vendor: &|problem| problem.to_string().contains("m=1,").then_some("theirs"),
        };
        let plan = Suite::parse("s.toml", text).unwrap().plan_for(&basis).unwrap();
        plan.points.iter().map(|point| point.kernel.to_string()).collect()
    };
    let both = ["own", "theirs", "own", "theirs", "own", "own"];
    assert_eq!(planned(GEMM), both);
    assert_eq!(planned(&format!("{GEMM}[protocol]\nvendor = true\n")), both);
    assert_eq!(planned(&format!("{GEMM}[protocol]\nvendor = false\n")), ["own"; 4]);
    assert_eq!(planned(&format!("{GEMM}kernel = \"mine\"\n")), ["mine"; 4]);
    let wrong = error_of(&format!("{GEMM}[protocol]\nvendor = 1\n"));
    assert!(wrong.contains("true or false"), "{wrong}");
}

#[test]
fn launch_modes_and_loads_are_axes_of_points() {
    let text = format!("{GEMM}launch = [\"graph\", \"stream\"]\nload = \"burst\"\n");
    let plan = Suite::parse("s.toml", &text).unwrap().plan(&device()).unwrap();
    assert_eq!(plan.points.len(), 8);
    let of = |mode| {
        let end = format!("@cold@{mode}@burst");
        plan.points.iter().filter(move |point| point.to_string().ends_with(&end))
    };
    assert_eq!((of("graph").count(), of("stream").count()), (4, 4));
    // A point alone is asked for in the same way.
    let stream = of("stream").next().unwrap();
    let alone = Suite::of_point(stream).unwrap().plan(&device()).unwrap();
    assert_eq!(alone.points.iter().collect::<Vec<_>>(), [stream]);
    assert!(error_of(&format!("{GEMM}launch = \"queue\"\n")).contains("`stream`"));
    let wrong = error_of(&format!("{GEMM}load = \"in_turn\"\n"));
    assert!(wrong.contains("no peers to take turns with"), "{wrong}");
}

#[test]
fn a_point_that_two_tables_make_is_planned_once() {
    let twice = format!("{GEMM}[[points]]{}", GEMM.split_once("[[points]]").unwrap().1);
    let plan = Suite::parse("s.toml", &twice).unwrap().plan(&device()).unwrap();
    assert_eq!(plan.points.len(), 4);
}

#[test]
fn lanes_in_units_follow_the_device() {
    let text = "name = \"x\"\n[[points]]\nop = \"peak\"\nunit = \"fma\"\n\
                dtype = \"f32\"\nlanes = \"64 units\"\nsteps = 2\n";
    let mut device = device();
    device.info.units = 3;
    let suite = |text: &str| Suite::parse("s.toml", text).unwrap().plan(&device);
    assert_eq!(
        suite(text).unwrap().points[0].problem.to_string(),
        "peak:unit=fma,dtype=f32,lanes=192,steps=2"
    );
    let error = suite(&text.replace("64 units", "0 units")).unwrap_err().to_string();
    assert!(error.contains("s.toml:6") && error.contains("64 units"), "{error}");
    let text = "name = \"x\"\n[[points]]\nop = \"stream\"\naccess = \"read\"\n\
                bytes = [\"256 units\", \"32 KiB units\"]\n";
    let points = suite(text).unwrap().points;
    let bytes: Vec<u64> = points.iter().map(|p| p.problem.work().bytes()).collect();
    assert_eq!(bytes, [3 * 256, 3 * (32 << 10)]);
    let error =
        suite(&text.replace("32 KiB units", "32 KB units")).unwrap_err().to_string();
    assert!(error.contains("s.toml:5") && error.contains("`32 KiB units`"), "{error}");
}

#[test]
fn sizes_in_caches_follow_the_device() {
    let text = "name = \"x\"\n[[points]]\nop = \"stream\"\naccess = \"read\"\n\
                bytes = [\"2 llc\", \"0.5 llc\"]\n";
    let device = device();
    let plan = Suite::parse("s.toml", text).unwrap().plan(&device).unwrap();
    let cache = device.info().last_level_cache_bytes();
    let bytes: Vec<u64> = plan.points.iter().map(|p| p.problem.work().bytes()).collect();
    assert_eq!(bytes[0], (2 * cache).next_multiple_of(1 << 20));
    assert_eq!(bytes[1], (cache / 2).next_multiple_of(1 << 20));
}

#[test]
fn mistakes_name_file_line_and_fix() {
    let gemm = |from: &str, to: &str| error_of(&GEMM.replace(from, to));
    let cases = [
        (gemm("[1, 2]", "[1,\n 0]"), "s.toml:5: m = 0; it must be at least 1"),
        (gemm("n = 3", "nn = 3"), "s.toml:5: gemm has no key `nn`; did you mean `n`?"),
        (gemm("n = 3", ""), "s.toml:2: gemm needs `n`"),
        (gemm("n = 3", "n = 3.5"), "s.toml:5: n is a float"),
        (gemm("n = 3", "n = []"), "s.toml:5: n has an empty list"),
        (gemm("n = 3", "n = 88888888888888888888"), "s.toml:5: n = `88888888888888888888`"),
        (gemm("n = 3", "n = 8888888888888"), "s.toml:5: n = 8888888888888 is more than"),
        (gemm("gemm", "gem"), "s.toml:3: `gem` is not an op; one of stream"),
        (gemm("f32", "f23"), "s.toml:7: `f23` is not a dtype"),
        (gemm("name = \"x\"", "name = \"../x\""), "s.toml:1: name = `../x`"),
        (gemm("name", "nam"), "s.toml:1: a suite has no key `nam`; did you mean `name`?"),
        (gemm("n = 3", "n = 3\ncache = \"warm\""), "s.toml:6: `warm` is not a cache state"),
        (gemm("n = 3", "n = [3"), "s.toml:"),
        (gemm("n = 3", "n = 3\nkernel = \"a b\""), "s.toml:6: `a b` is not a kernel name"),
        (
            error_of(
                &GEMM.replace("[[points]]", "[protocol]\nmin_samples = 0x20\n[[points]]"),
            ),
            "s.toml:3: min_samples must be a decimal number",
        ),
        (error_of("name = \"x\""), "s.toml:1: a suite needs at least one"),
        (
            error_of(&GEMM.replace("[[points]]", "[protocol]\nwarmup = 1\n[[points]]")),
            "s.toml:3: [protocol] has no key `warmup`; did you mean `warmup_s`?",
        ),
        (
            error_of(&GEMM.replace("[[points]]", "[protocol]\nwarmup_s = -1\n[[points]]")),
            "s.toml:3: warmup_s must be a decimal number above 0",
        ),
    ];
    for (message, start) in cases {
        assert!(message.starts_with(start), "`{message}` does not start with `{start}`");
    }
}

#[test]
fn impossible_heads_name_the_line_of_the_key_to_change() {
    let text = "name = \"x\"\n[[points]]\nop = \"decode_attention\"\nbatch = 1\ncontext = 1\n\
                q_heads = 6\nkv_heads = [1,\n4]\nhead_dim = 8\ndtype = \"f32\"\n";
    assert!(
        error_of(text)
            .starts_with("s.toml:8: q_heads = 6 is not a multiple of kv_heads = 4")
    );
}

#[test]
fn a_typing_error_does_not_plan_a_year() {
    let list = (1..400).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let text = GEMM
        .replace("[1, 2]", &format!("[{list}]"))
        .replace("[4, 5]", &format!("[{list}]"));
    assert!(error_of(&text).contains("159201 combinations"));
}

#[test]
fn built_in_suites_plan() {
    for name in Suite::built_in_names() {
        let suite = Suite::load(name).unwrap();
        assert_eq!(suite.name, name);
        let plan = suite.plan(&device()).unwrap();
        assert!(plan.points.len() >= 20, "{name}");
        assert!(plan.sentinel.is_some(), "{name}");
    }
}

/// What sets a ceiling is not judged by it, so suites whose points are judged measure a
/// probe of every format that is computed in, f32 for CPUs among them, and reads from DRAM.
#[test]
fn built_in_suites_hold_the_probes_that_they_need() {
    let purpose = |point: &Point| point.problem.op().facts().judged.purpose;
    for name in Suite::built_in_names().into_iter().filter(|name| *name != "corners") {
        let points = Suite::load(name).unwrap().plan(&device()).unwrap().points;
        let of = |wanted: Purpose| points.iter().filter(move |p| purpose(p) == wanted);
        let probed: Vec<_> =
            of(Purpose::ComputeRoof).filter_map(|p| p.problem.math_dtype()).collect();
        let used = of(Purpose::Work).filter_map(|p| p.problem.math_dtype());
        for dtype in used.chain([crate::format::DType::F32]) {
            assert!(probed.contains(&dtype), "{name} lacks a `peak` point of {dtype}");
        }
        assert!(of(Purpose::MemoryRoof).next().is_some(), "{name} lacks streams");
    }
}

#[test]
fn a_point_alone_is_a_suite() {
    for point in Suite::load("quick").unwrap().plan(&device()).unwrap().points {
        let suite = Suite::of_point(&point).unwrap();
        assert_eq!(suite.plan(&device()).unwrap().points, [point]);
    }
}

#[test]
fn unknown_suites_are_told_the_known_ones() {
    let message = Suite::load("quik").unwrap_err().to_string();
    assert!(message.contains("did you mean `quick`"), "{message}");
    let message = Suite::load("none/such.toml").unwrap_err().to_string();
    assert!(message.contains("none/such.toml"), "{message}");
}

proptest! {
    #[test]
    fn nonsense_never_panics(cut in 0usize..200, junk in "[\\[\\]a-z0-9=\"',\n .é]{0,30}") {
        let mut text = GEMM.to_owned();
        text.insert_str(cut.min(GEMM.len()), &junk);
        if let Ok(suite) = Suite::parse("s.toml", &text) {
            let _ = suite.plan(&device());
        }
    }
}

/// Shards have every point of the plan: own ones once, ceilings in each. A filter comes first,
/// and which points a shard has depends on no order.
#[test]
fn shards_share_the_plan() {
    for name in ["quick", "headline"] {
        let whole = Suite::load(name).unwrap();
        let plan = whole.plan(&device()).unwrap();
        for count in [1, 3, 8] {
            let mut times: HashMap<Point, u32> = HashMap::new();
            for index in 1..=count {
                let part = whole.clone().sharded(Some(Shard { index, count })).unwrap();
                assert_eq!(part.shard(), Some(Shard { index, count }));
                assert_eq!(part.whole().unwrap().text, whole.text);
                let planned = part.plan(&device()).unwrap();
                assert_eq!(planned.sentinel, plan.sentinel);
                for point in planned.points {
                    *times.entry(point).or_default() += 1;
                }
            }
            assert_eq!(times.len(), plan.points.len());
            for point in &plan.points {
                let is_work = point.problem.op().facts().judged.purpose == Purpose::Work;
                let wanted = if is_work { 1 } else { count };
                assert_eq!(times[point], wanted, "{point}");
            }
        }
    }
}

#[test]
fn shards_that_are_none_say_what_to_write() {
    for text in ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/99999"] {
        let error = text.parse::<Shard>().unwrap_err();
        assert!(error.contains("write `3/8`"), "{text}: {error}");
        let message = error_of(&format!("shard = \"{text}\"\n{GEMM}"));
        assert!(message.starts_with("s.toml:1: "), "{message}");
    }
    let shard = |text: &str| Some(text.parse().unwrap());
    let suite = Suite::parse("s.toml", GEMM).unwrap();
    let part = suite.clone().sharded(shard("1/2")).unwrap();
    let twice = part.sharded(shard("1/2")).unwrap_err().to_string();
    assert!(twice.contains("is shard 1/2 already"), "{twice}");
    let empty = suite.sharded(shard("7/8")).unwrap().plan(&device()).unwrap_err();
    assert!(empty.to_string().contains("has no point"), "{empty}");
}

const STEP: &str = "name = \"x\"\n[[points]]\nop = \"decode_step\"\nparts = true\nlayers = 2\n\
                    batch = [1, 2]\ncontext = 4096\nhidden = 1024\nq_heads = 8\nkv_heads = 2\n\
                    head_dim = 64\nintermediate = 2048\nvocab = 32000\ndtype = \"bf16\"\n";

/// A step is planned with every problem that it is made of, each once, and nothing cold that
/// would need hundreds of times the memory of one.
#[test]
fn parts_of_a_problem_are_points_too() {
    let suite = Suite::parse("s.toml", STEP).unwrap();
    let points = suite.plan(&device()).unwrap().points;
    let steps: Vec<&Point> =
        points.iter().filter(|p| !p.problem.parts().is_empty()).collect();
    assert_eq!(steps.len(), 2);
    for step in steps {
        for part in step.problem.parts() {
            let found: Vec<&Point> =
                points.iter().filter(|point| point.problem == part.problem).collect();
            let [found] = found[..] else { panic!("{}: {}", part.name, found.len()) };
            let is_sparse = ["embedding", "rope and append"].contains(&part.name);
            let expected = if is_sparse { CacheState::Hot } else { CacheState::Cold };
            assert_eq!(found.cache, expected, "{}", part.name);
        }
    }
}

#[test]
fn what_has_no_parts_is_told() {
    let text = GEMM.replace("n = 3", "parts = true\nn = 3");
    assert_eq!(error_of(&text), "s.toml:2: gemm has no parts; leave `parts` out");
    let text = GEMM.replace("n = 3", "parts = 3\nn = 3");
    assert_eq!(error_of(&text), "s.toml:5: parts must be true or false");
}
