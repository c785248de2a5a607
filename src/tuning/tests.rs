use super::*;
use crate::op::Problem;

static SPACE: [Configuration; 2] = [
    Configuration::new("wide", &[("threads", 512)]),
    Configuration::new("deep", &[("stages", 8)]),
];

fn space(kernel: &str) -> Option<SearchSpace> {
    (kernel == "stream").then(|| SearchSpace::new("stream", &SPACE, ["source"]))
}

fn read(size: &str) -> Problem {
    format!("stream:access=read,bytes={size}").parse().unwrap()
}

fn tuned(kernel: &str, size: &str, configuration: &str) -> TunedClass {
    TunedClass {
        kernel: kernel.to_owned(),
        source_hash: space("stream").unwrap().source_hash,
        class: ShapeClass::of(&read(size)),
        configuration: configuration.to_owned(),
        problem: read(size).to_string(),
        candidates: 2,
        default_time_s: 2e-5,
        time_s: 1e-5,
        speedup: 2.0,
        speedup_lo: 1.9,
        speedup_hi: 2.1,
        aa_ratio: 1.0,
        aa_ratio_lo: 0.99,
        aa_ratio_hi: 1.01,
    }
}

fn table(tuned: Vec<TunedClass>) -> TuningTable {
    TuningTable { device: "A GPU".to_owned(), tuned, ..TuningTable::default() }
}

#[test]
fn a_table_is_written_and_read_back() {
    let table =
        table(vec![tuned("stream", "64 MiB", "wide"), tuned("stream", "4 MiB", "default")]);
    let text = table.to_toml().unwrap();
    assert!(text.contains("class = \"stream:access=read from 64 MiB\""), "{text}");
    assert_eq!(TuningTable::parse("t.toml", &text).unwrap(), table);
}

#[test]
fn mistakes_are_told_with_file_and_line() {
    let text = table(vec![tuned("stream", "64 MiB", "wide")]).to_toml().unwrap();
    for (from, to, says) in [
        ("from 64 MiB", "of 64 MiB", "not a class of shapes"),
        ("speedup_lo", "speedup_low", "unknown field `speedup_low`"),
        ("\ntime_s = ", "\ntime_s = true #", "expected f64"),
        ("device", "gpu", "unknown field `gpu`"),
    ] {
        assert!(text.contains(from), "{text}");
        let why = TuningTable::parse("t.toml", &text.replacen(from, to, 1)).unwrap_err();
        let why = why.to_string();
        assert!(why.starts_with("t.toml: line ") && why.contains(says), "{why}");
    }
}

#[test]
fn a_problem_takes_the_configuration_of_its_class_or_of_a_near_size() {
    let table =
        table(vec![tuned("stream", "4 MiB", "wide"), tuned("stream", "1 GiB", "deep")]);
    let (tuning, notes) = Tuning::new(&table, space);
    assert_eq!(notes, [""; 0]);
    let chosen = |size: &str| tuning.choose("stream", &read(size)).map(|found| found.name);
    assert_eq!(chosen("5 MiB"), Some("wide"));
    assert_eq!(chosen("16 MiB"), Some("wide"));
    // As near to the one as to the other.
    assert_eq!(chosen("65 MiB"), Some("wide"));
    assert_eq!(chosen("300 MiB"), Some("deep"));
    assert_eq!(chosen("4 GiB"), Some("deep"));
    // A factor of 64 away.
    assert_eq!(chosen("64 KiB"), None);
    assert_eq!(tuning.choose("stream_bulk", &read("4 MiB")), None);
    let write: Problem = "stream:access=write,bytes=4 MiB".parse().unwrap();
    assert_eq!(tuning.choose("stream", &write), None);
}

#[test]
fn what_was_tuned_of_other_code_is_left_out_and_told() {
    let other =
        TunedClass { source_hash: "0".to_owned(), ..tuned("stream", "4 MiB", "wide") };
    let table = table(vec![
        other.clone(),
        other,
        tuned("gone", "4 MiB", "wide"),
        tuned("stream", "4 MiB", "narrow"),
    ]);
    let (tuning, notes) = Tuning::new(&table, space);
    assert!(tuning.is_empty());
    assert_eq!(
        notes,
        [
            "tuning of `stream` is left out: its code has changed; tune it again",
            "tuning of `gone` is left out: this device has no such kernel",
            "tuning of `stream` is left out: its configuration is not there any more",
        ]
    );
}

#[test]
fn a_hash_is_of_the_source_and_of_what_it_includes() {
    let hash = |name: &str| Kernel::named(name).unwrap().search_space().source_hash;
    let skinny = Kernel::named("gemm_skinny").unwrap();
    let alone = SearchSpace::new("gemm_skinny", &[], skinny.source);
    assert_ne!(hash("gemm_skinny"), alone.source_hash);
    assert_ne!(hash("gemm_skinny"), hash("moe_gemm"));
}

#[test]
fn tables_of_the_program_can_be_read() {
    for (name, text) in BUILT_IN {
        let table = TuningTable::parse(name, text).unwrap_or_else(|why| panic!("{why}"));
        assert!(!table.device.is_empty() && !table.tuned.is_empty(), "{name}");
        let of_device = BUILT_IN.iter().filter(|(_, text)| {
            TuningTable::parse("", text).unwrap().device == table.device
        });
        assert_eq!(of_device.count(), 1, "{name}: a device has one table");
    }
}
