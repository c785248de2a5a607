//! What an interval says of a claim, and what files may write.

use proptest::prelude::*;

use super::Finding::{self, Contradicted, NotTested, Reproduced, WithinTolerance};
use super::*;
use crate::format::DType;
use crate::model::machine::DataSheet;
use crate::roofline::{Bandwidth, ComputePeak, Peaks};
use crate::statistics::Estimate;

fn sheet() -> DataSheet {
    let compute = vec![ComputePeak { dtype: DType::Bf16, flops_per_s: 1e15 }];
    let peaks = Peaks { bandwidth: Bandwidth::flat(4e12), compute, links: Vec::new() };
    DataSheet { machine: "test".into(), source: "a test".into(), peaks, l2_bytes: None }
}

fn number(x: f64) -> Amount {
    Amount::number(x).unwrap()
}

fn found(relation: Relation, tolerance: f64, [value, lo, hi]: [f64; 3]) -> Finding {
    let expected = Expected::of(relation, Tolerance::Share(tolerance), None).unwrap();
    expected.judge(Estimate { value, lo, hi })
}

/// The truth table: what is claimed is 100 and 10% are tolerated.
#[test]
fn whole_intervals_decide() {
    let equals = Relation::Equals(number(100.0));
    let least = Relation::AtLeast(number(100.0));
    let most = Relation::AtMost(number(100.0));
    let range = Relation::Between(number(100.0), number(200.0));
    for (relation, e, expected) in [
        (equals, [98.0, 95.0, 101.0], Reproduced),
        (equals, [100.0, 100.0, 100.0], Reproduced),
        // Closer than 1% without containing it.
        (equals, [99.5, 99.2, 99.8], Reproduced),
        (equals, [97.0, 95.0, 99.0], WithinTolerance),
        (equals, [109.0, 108.0, 110.0], WithinTolerance),
        (equals, [85.0, 80.0, 89.9], Contradicted),
        (equals, [120.0, 111.0, 130.0], Contradicted),
        // Across an edge, and across both.
        (equals, [92.0, 89.0, 95.0], NotTested),
        (equals, [100.0, 50.0, 150.0], NotTested),
        (equals, [105.0, 98.0, 112.0], NotTested),
        (least, [130.0, 100.0, 900.0], Reproduced),
        (least, [101.0, 99.0, 103.0], WithinTolerance),
        (least, [92.0, 90.0, 94.0], WithinTolerance),
        (least, [92.0, 89.0, 140.0], NotTested),
        (least, [85.0, 80.0, 89.0], Contradicted),
        (most, [80.0, 1.0, 100.0], Reproduced),
        (most, [101.0, 99.0, 103.0], WithinTolerance),
        (most, [101.0, 99.0, 111.0], NotTested),
        (most, [120.0, 111.0, 130.0], Contradicted),
        (range, [150.0, 100.0, 200.0], Reproduced),
        (range, [100.0, 95.0, 120.0], WithinTolerance),
        (range, [215.0, 210.0, 220.0], WithinTolerance),
        (range, [215.0, 210.0, 221.0], NotTested),
        (range, [230.0, 221.0, 240.0], Contradicted),
    ] {
        assert_eq!(found(relation, 0.1, e), expected, "{relation:?} {e:?}");
    }
    assert_eq!(found(equals, 0.1, [f64::NAN; 3]), NotTested);
    // Nothing is tolerated: an interval across the line says nothing.
    assert_eq!(found(least, 0.0, [101.0, 99.0, 103.0]), NotTested);
}

#[test]
fn negative_and_absolute_tolerances_reach_outward() {
    let of = |relation, tolerance, value: f64| {
        Expected::of(relation, tolerance, None).unwrap().judge(Estimate::exact(value))
    };
    let minus = Relation::Equals(number(-10.0));
    assert_eq!(of(minus, Tolerance::Share(0.1), -10.5), WithinTolerance);
    assert_eq!(of(minus, Tolerance::Share(0.1), -11.5), Contradicted);
    let zero = Relation::Equals(number(0.0));
    assert_eq!(of(zero, Tolerance::Absolute(0.25), 0.2), WithinTolerance);
    assert_eq!(of(zero, Tolerance::Absolute(0.25), 0.3), Contradicted);
}

#[test]
fn values_refer_to_the_data_sheet() {
    let value = |text: &str| {
        let relation = Relation::AtLeast(text.parse().unwrap());
        let sheet = sheet();
        let at = Expected::of(relation, Tolerance::Share(0.0), Some(&sheet));
        at.map(|expected| expected.claimed.0)
    };
    assert_eq!(value("sheet.dram_bandwidth"), Ok(4e12));
    assert_eq!(value("0.5 * sheet.compute.bf16"), Ok(0.5e15));
    assert_eq!(value("2*sheet.ridge.bf16"), Ok(500.0));
    assert_eq!(value(" 1.5e3 "), Ok(1500.0));
    let lacking = value("sheet.link.host").unwrap_err();
    assert_eq!(lacking, "the data sheet of test lacks sheet.link.host");
    let relation = Relation::Equals("sheet.l2_bytes".parse().unwrap());
    let unknown = Expected::of(relation, Tolerance::Share(0.1), None).unwrap_err();
    assert!(unknown.contains("no data sheet of this machine"), "{unknown}");
    for (wrong, why) in [
        ("sheet.bandwidth", "did you mean `sheet.dram_bandwidth`"),
        ("0.9 sheet.dram_bandwidth", "is no value; write"),
        ("much * sheet.l2_bytes", "is no value; write"),
        ("inf", "write a finite number"),
        ("nan * sheet.l2_bytes", "write a finite number"),
    ] {
        let told = wrong.parse::<Amount>().unwrap_err();
        assert!(told.contains(why), "{wrong}: {told}");
    }
}

/// The paper's eight claims by measurement and by prediction, the vendor's numbers, and each
/// published measurement.
#[test]
fn the_built_in_claims_are_all_there() {
    let all = built_in().unwrap();
    for number in 1..=8 {
        let source = format!("arXiv 2601.22001, claim {number}");
        let of_paper = all.iter().filter(|claim| claim.source == source);
        let (measured, predicted): (Vec<_>, Vec<_>) =
            of_paper.partition(|claim| claim.is_of_records());
        assert!(!measured.is_empty() && predicted.len() == 1, "claim {number}");
    }
    let of_sheet = |claim: &&ClaimEntry| claim.source == "the maker's data sheet";
    assert!(all.iter().filter(of_sheet).count() >= 15);
    let published = all.iter().filter(|claim| claim.origin == Origin::Published).count();
    assert_eq!(published, crate::model::published::measurements().unwrap().len());
    let names: std::collections::BTreeSet<_> =
        all.iter().map(|claim| &claim.name).collect();
    assert_eq!(names.len(), all.len(), "every claim has a name of its own");
}

/// A claim of a user's with one line in place of another, or with one more.
fn with(line: &str) -> Result<Vec<ClaimEntry>> {
    const LINES: [&str; 8] = [
        "[[claim]]",
        "name = \"mine\"",
        "statement = \"It is fast.\"",
        "source = \"me\"",
        "select = \"op=gemm,m>=64\"",
        "quantity = \"compute_share\"",
        "relation = \">=\"",
        "value = 0.5",
    ];
    let key = line.split(' ').next().unwrap();
    let mut lines = LINES.to_vec();
    match lines.iter().position(|old| old.starts_with(&format!("{key} "))) {
        Some(at) => lines[at] = line,
        None => lines.push(line),
    }
    parse("mine.toml", &lines.join("\n"))
}

/// Every error names the file, the line and the key, and what to write.
#[test]
fn errors_say_where_and_what_to_write() {
    assert_eq!(with("over = \"least\"").unwrap().len(), 1);
    for (line, wanted) in [
        (
            "select = \"op=gem\"",
            "mine.toml:5: `select`: the list of operations has no key `gem`; did you mean `gemm`?",
        ),
        (
            "select = \"batsh>=8\"",
            "mine.toml:5: `select`: a filter has no key `batsh`; did you mean `batch`?",
        ),
        ("select = 8", "mine.toml:5: `select`: invalid type: integer"),
        (
            "quantity = \"speed\"",
            "mine.toml:6: `quantity`: the list of quantities has no key `speed`",
        ),
        ("quantity = \"ridg\"", "did you mean `ridge`?"),
        (
            "relation = \"~\"",
            "mine.toml:7: `relation`: `~` is not a relation; one of =, >=, <=, between",
        ),
        (
            "value = \"sheet.ridge\"",
            "mine.toml:8: `value`: a data sheet has no key `sheet.ridge`",
        ),
        ("value = [1, 2, 3]", "mine.toml:8: `value`: a range has two values"),
        (
            "value = [1, 2]",
            "mine.toml:8: claim mine: `relation = \">=\"` needs one `value`",
        ),
        ("value = nan", "mine.toml:8: `value`: NaN is no value; write a finite number"),
        (
            "value = true",
            "mine.toml:8: `value`: invalid type: boolean `true`, expected a number",
        ),
        ("relation = \"between\"", "needs two ends; write value = [0.9, 1.1]"),
        ("relation = \"=\"", "no interval is a single value; write `tolerance = 0.05`"),
        ("tolerance = -1", "`tolerance` is -1; write a number of 0 or more"),
        (
            "toleranc = 1",
            "mine.toml:9: unknown field `toleranc`; did you mean `tolerance`?",
        ),
        (
            "dtype = \"bf16\"",
            "mine.toml:9: claim mine: `dtype` says nothing of the quantity `compute_share`",
        ),
        ("dtype = \"bf17\"", "mine.toml:9: `dtype`: `bf17` is not a dtype"),
        (
            "pairs = [\"heads\"]",
            "mine.toml:9: `pairs`: the list of pairs has no key `heads`",
        ),
        (
            "quantity = \"time_ratio\"",
            "the quantity `time_ratio` needs `beside`; write `beside = \"op=gemm,m=1\"`",
        ),
        (
            "quantity = \"ridge\"",
            "mine.toml:5: claim mine: `select` says nothing of the quantity `ridge`; leave it out",
        ),
        ("statement = \" \"", "mine.toml:3: claim mine: `statement` is empty"),
        (
            "name = \"decode-memory-bound\"",
            "has the name of a built-in claim; give it another `name`",
        ),
        ("name = \"a,b\"", "cannot be chosen by an option"),
        (
            "over = \"mean\"",
            "mine.toml:9: `over`: `mean` is not a choice among rows; one of median, least, most",
        ),
    ] {
        let told = with(line).unwrap_err().to_string();
        assert!(told.contains(wanted), "{line}\n  {told}\n  lacks {wanted}");
        assert!(told.starts_with("mine.toml:"), "{told}");
    }
    let missing =
        parse("mine.toml", "\n[[claim]]\nname = \"a\"\n").unwrap_err().to_string();
    assert!(missing.contains("mine.toml:2: missing field `statement`"), "{missing}");
    let other = parse("mine.toml", "[[claims]]\n").unwrap_err().to_string();
    assert!(other.starts_with("mine.toml:1: "), "{other}");
}

#[test]
fn every_quantity_can_be_asked_for() {
    for facts in &QUANTITIES {
        let line = |key: &&str| match *key {
            "select" => "select = \"op=gemm\"",
            "beside" => "beside = \"op=gemm,m=1\"",
            "dtype" => "dtype = \"bf16\"",
            "link" => "link = \"host\"",
            "direction" => "direction = \"out\"",
            "of" => "of = \"flops\"",
            "pairs" => "pairs = [\"rows\", \"cache\"]",
            "prediction" => "prediction = \"memory-wall\"",
            other => panic!("{other} has no example"),
        };
        let head = "[[claim]]\nname = \"a\"\nstatement = \"b\"\nsource = \"c\"\n\
                    relation = \"<=\"\nvalue = 2\n";
        let keys: Vec<&str> = facts.needs.iter().map(line).collect();
        let text = format!("{head}quantity = \"{}\"\n{}\n", facts.name, keys.join("\n"));
        let claims = parse("a.toml", &text).unwrap();
        let is_prediction = facts.name == "prediction";
        assert_eq!(claims[0].is_of_records(), !is_prediction, "{}", facts.name);
        for lacking in 0..keys.len() {
            let mut fewer = keys.clone();
            fewer.remove(lacking);
            let text =
                format!("{head}quantity = \"{}\"\n{}\n", facts.name, fewer.join("\n"));
            let told = parse("a.toml", &text).unwrap_err().to_string();
            assert!(told.contains("needs `"), "{}: {told}", facts.name);
        }
    }
}

proptest! {
    /// A file of claims is read or refused with its name, whatever it has in it.
    #[test]
    fn no_file_panics(
        key in "[a-z_]{1,12}|tolerance|value|select|pairs|relation|quantity|over|dtype",
        value in "\\PC{0,24}|\"\\PC{0,16}\"|-?[0-9]{1,20}(\\.[0-9]{0,5})?(e[0-9]{1,3})?|\\[.*\\]",
    ) {
        if let Err(error) = with(&format!("{key} = {value}")) {
            prop_assert!(error.to_string().starts_with("mine.toml:"), "{error}");
        }
    }

    /// Values and selectors of any text are parsed or refused.
    #[test]
    fn no_amount_panics(text in "\\PC{0,24}|[0-9.e*-]{0,6} ?\\*? ?sheet\\.[a-z0-9_.]{0,20}") {
        if let Ok(amount) = text.parse::<Amount>() {
            prop_assert!(amount.factor.is_finite());
        }
    }

    /// An interval that is reproduced or tolerated is not contradicted when it grows, and one
    /// that contradicts lies outside of what is tolerated.
    #[test]
    fn wider_intervals_say_less(
        value in -10.0..10.0_f64, down in 0.0..5.0_f64, up in 0.0..5.0_f64,
        more in 0.0..5.0_f64, at in -10.0..10.0_f64, tolerance in 0.0..0.5_f64,
    ) {
        let expected =
            Expected::of(Relation::AtLeast(number(at)), Tolerance::Share(tolerance), None)
                .unwrap();
        let of = |wider: f64| {
            expected.judge(Estimate { value, lo: value - down - wider, hi: value + up + wider })
        };
        let (narrow, wide) = (of(0.0), of(more));
        let is_weaker = match narrow {
            Finding::Reproduced => wide != Contradicted,
            Finding::WithinTolerance => wide == WithinTolerance || wide == NotTested,
            Finding::Contradicted => wide == Contradicted || wide == NotTested,
            Finding::NotTested => wide == NotTested,
        };
        prop_assert!(is_weaker, "{narrow:?} became {wide:?}");
    }
}
