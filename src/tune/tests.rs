//! Tuning campaigns on the simulated device, whose configurations take as long as they say.

use proptest::prelude::*;

use super::*;
use crate::campaign::{self, Process, Request};
use crate::device::simulated::SimulatedDevice;

static SPACE: [Configuration; 5] = [
    Configuration::new("t120", &[("time_percent", 120)]),
    Configuration::new("t92", &[("time_percent", 92)]),
    Configuration::new("t103", &[("time_percent", 103)]),
    Configuration::new("t97", &[("time_percent", 97)]),
    Configuration::new("t110", &[("time_percent", 110)]),
];

/// Configurations that are the default by other names.
static ALIKE: [Configuration; 5] = [
    Configuration::new("a", &[("time_percent", 100)]),
    Configuration::new("b", &[("time_percent", 100)]),
    Configuration::new("c", &[("time_percent", 100)]),
    Configuration::new("d", &[("time_percent", 100)]),
    Configuration::new("e", &[("time_percent", 100)]),
];

const SHAPES: &str = "name = \"shapes\"\n[[points]]\nop = \"stream\"\naccess = [\"read\", \
                      \"copy\"]\nbytes = [\"1 KiB\", \"1280 B\", \"16 KiB\"]\ncache = \"hot\"\n";

fn device(configurations: &'static [Configuration], noise: f64) -> SimulatedDevice {
    let mut device =
        SimulatedDevice { configurations, noise, ..SimulatedDevice::default() };
    device.info.launch_overhead_s = 0.0;
    device
}

fn shapes() -> Suite {
    Suite::parse("shapes.toml", SHAPES).unwrap()
}

fn tune(device: &mut SimulatedDevice, seed: u64) -> Found {
    let dir = tempfile::tempdir().unwrap();
    let shapes = shapes();
    let request = TuneRequest { shapes: &shapes, kernels: &[], budget_s: Some(10.0) };
    let suite = competition(device, &request).unwrap().suite;
    let settings = suite.settings;
    // Made-up times take no time: a few launches are as good as many.
    let text = suite.text.replace("warmup_s = ", "warmup_s = 0.001 # ");
    let request = Request {
        suite: Some(Suite::parse("tune.toml", &text).unwrap()),
        out: Some(dir.path().join("tune")),
        resume: None,
        seed: Some(seed),
        budget_s: None,
        given_up: None,
        process: Process::ALONE,
        command_line: "test".into(),
        tuning: None,
    };
    let summary = campaign::run(device, &request, &mut campaign::Silent).unwrap();
    let records = Records::read(&summary.folder).unwrap();
    found(&records, &settings, |kernel| Some(device.search_space(kernel)?.source_hash))
        .unwrap()
}

#[test]
fn one_problem_of_each_class_competes_in_every_configuration() {
    let device = device(&SPACE, 0.0);
    let shapes = shapes();
    let request = TuneRequest { shapes: &shapes, kernels: &[], budget_s: None };
    let suite = competition(&device, &request).unwrap().suite;
    // Five others take three rounds until one is left.
    assert_eq!((suite.settings.halving_rounds, suite.settings.rounds), (3, 11));
    let points = suite.plan(&device).unwrap().points;
    // Of 1024 and 1280 bytes the first, and 16 KiB; the device copies nothing.
    assert_eq!(points.len(), 2 * 7);
    let first: Vec<String> = points[..7].iter().map(|p| p.kernel.to_string()).collect();
    assert_eq!(first[..3], ["simulated", "simulated.default", "simulated.t120"]);
    assert!(points[..7].iter().all(|point| point.problem.to_string().ends_with("=1024")));
}

/// Of two classes one has the time of its deciding rounds, rather than both half of it.
#[test]
fn classes_that_the_time_is_too_short_for_are_left_out() {
    let device = device(&SPACE, 0.0);
    let shapes = shapes();
    let within = |budget_s| {
        let request =
            TuneRequest { shapes: &shapes, kernels: &[], budget_s: Some(budget_s) };
        let Competition { suite, left_out } = competition(&device, &request).unwrap();
        assert_eq!((suite.settings.halving_rounds, suite.settings.rounds), (3, 11));
        (suite.plan(&device).unwrap().points.len(), left_out)
    };
    // By hand: five others make 7, 5, 4 and 8 times 3 rows of a class, of 0.09 s each.
    assert_eq!(within(2.0 * 40.0 * 0.09 + 0.01), (2 * 7, vec![]));
    let out = vec!["simulated: stream:access=read,bytes=16384".to_owned()];
    assert_eq!(within(2.0 * 40.0 * 0.09 - 0.01), (7, out.clone()));
    // One class competes, however long it takes.
    assert_eq!(within(0.1), (7, out));
}

#[test]
fn what_cannot_be_tuned_is_refused_in_a_sentence() {
    let shapes = shapes();
    let refusal = |configurations, kernels: &[&str]| {
        let kernels: Vec<String> = kernels.iter().map(|name| (*name).to_owned()).collect();
        let request = TuneRequest { shapes: &shapes, kernels: &kernels, budget_s: None };
        let found = competition(&device(configurations, 0.0), &request);
        found.err().unwrap().to_string()
    };
    let unknown = refusal(&SPACE, &["gemm"]);
    assert!(
        unknown.contains("has no kernel `gemm`; `ridgepoint list shapes`"),
        "{unknown}"
    );
    let alone = refusal(&[], &["simulated"]);
    assert!(alone.contains("one configuration: there is nothing to choose"), "{alone}");
    assert!(
        refusal(&[], &[]).contains("no point of suite shapes has several configurations")
    );
}

#[test]
fn the_fastest_is_found_with_its_gain() {
    let mut device = device(&SPACE, 0.004);
    let found = tune(&mut device, 3);
    assert_eq!(found.classes.len(), 2);
    for contested in &found.classes {
        let tuned = contested.tuned.as_ref().unwrap();
        assert_eq!(tuned.configuration, "t92", "{contested:?}");
        assert_eq!(contested.why, "faster beyond doubt");
        // One interval in twenty lies beside the truth, none five half-widths away.
        assert!((tuned.speedup - 1.0 / 0.92).abs() < 0.005, "{tuned:?}");
        assert!(tuned.speedup_lo < tuned.speedup && tuned.speedup < tuned.speedup_hi);
        assert!((tuned.aa_ratio - 1.0).abs() < 0.005, "{tuned:?}");
        assert!((tuned.speedup_hi - tuned.speedup_lo) < 0.02, "{tuned:?}");
        assert_eq!(tuned.candidates, 6);
    }
    let of_first = &found.standings[..7];
    assert_eq!(of_first[0].configuration, "t92");
    assert_eq!(of_first[0].rounds, 11);
    let slowest = of_first.iter().find(|s| s.configuration == "t120").unwrap();
    assert_eq!(slowest.rounds, 1);
    assert!((slowest.of_default.unwrap() - 1.2).abs() < 0.02, "{slowest:?}");
}

/// The table that was found makes the device run so, and rows say why.
#[test]
fn what_was_found_is_used() {
    let mut device = device(&SPACE, 0.001);
    let found = tune(&mut device, 4);
    let table = TuningTable {
        device: device.info.name.clone(),
        tuned: found
            .classes
            .iter()
            .filter_map(|contested| contested.tuned.clone())
            .collect(),
        ..TuningTable::default()
    };
    let space = |kernel: &str| device.search_space(kernel);
    let (tuning, notes) = crate::tuning::Tuning::new(&table, space);
    assert_eq!(notes, [""; 0]);
    device.use_tuning(tuning);
    let dir = tempfile::tempdir().unwrap();
    let text = SHAPES.replace("[[points]]", "[protocol]\nwarmup_s = 0.001\nmax_sample_s = 0.01\n[[points]]\nkernel = [\"simulated\", \"simulated.t120\"]");
    let request = Request {
        suite: Some(Suite::parse("shapes.toml", &text).unwrap()),
        out: Some(dir.path().join("used")),
        resume: None,
        seed: Some(1),
        budget_s: None,
        given_up: None,
        process: Process::ALONE,
        command_line: "test".into(),
        tuning: Some(table.clone()),
    };
    let folder =
        campaign::run(&mut device, &request, &mut campaign::Silent).unwrap().folder;
    let kept = TuningTable::load(&folder.join(crate::tuning::USED_TUNING)).unwrap();
    assert_eq!(kept, table);
    let records = Records::read(&folder).unwrap();
    assert_ne!(records.runs[0].get("tuning_hash"), Some("none"));
    let timed: Vec<&Row> =
        records.rows.iter().filter(|row| row.time_s_median.is_some()).collect();
    assert_eq!(timed.len(), 6);
    for row in timed {
        let expected = match row.kernel.as_str() {
            "simulated" => ("t92", "tuned"),
            _ => ("t120", "asked"),
        };
        assert_eq!((row.configuration.as_str(), row.configuration_from.as_str()), expected);
    }
}

/// Where nothing is gained nothing is taken, but for one table in twenty.
#[test]
fn no_gain_is_rarely_taken_for_one() {
    let tables = 30;
    let mut taken = 0;
    for seed in 0..tables {
        let found = tune(&mut device(&ALIKE, 0.02), 1000 * seed);
        taken += usize::from(found.classes.iter().any(Contested::is_taken));
    }
    // More than 5 of 30 have a probability of half a percent where 5% are taken.
    assert!(taken <= 5, "{taken} of {tables}");
}

proptest! {
    #[test]
    fn rounds_until_one_is_left_halve_any_number(challengers in 1usize..5000) {
        let rounds = halving_rounds(challengers);
        prop_assert_eq!(challengers.div_ceil(1 << rounds), 1);
        if rounds > 0 {
            prop_assert!(challengers.div_ceil(1 << (rounds - 1)) > 1);
        }
    }

    #[test]
    fn intervals_hold_the_mean_and_follow_the_sign(logs in prop::collection::vec(-0.5f64..0.5, 0..20)) {
        match interval(&logs) {
            None => prop_assert!(logs.len() < 3),
            Some((ratio, probability)) => {
                prop_assert!(ratio.lo <= ratio.value && ratio.value <= ratio.hi);
                prop_assert!((0.0..=1.0).contains(&probability));
                let gains = ratio.value > 1.0;
                prop_assert!(gains || probability >= 0.5 || ratio.value == 1.0);
            }
        }
    }
}

/// What became of a class is said, also where nothing can be.
#[test]
fn a_class_whose_default_has_no_time_is_told_with_the_reason() {
    let mut device = device(&SPACE, 0.0);
    device.reports = |_| crate::device::Telemetry {
        other_processes: vec![812],
        ..crate::device::Telemetry::default()
    };
    let found = tune(&mut device, 1);
    assert_eq!(found.classes.len(), 2);
    for contested in &found.classes {
        assert_eq!(contested.tuned, None);
        assert!(contested.why.contains("processes 812 computed"), "{}", contested.why);
    }
    assert!(found.table(&Records::default()).tuned.is_empty());
    let rows = &sections(&found, &device)[0].rows;
    assert_eq!(rows.len(), 2);
}
