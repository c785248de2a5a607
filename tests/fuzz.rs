//! Files that people write or edit, changed at random: suites, rows of models, machines,
//! workloads, mixes and claims, and the records of campaigns. Each is read or refused with a message;
//! nothing panics, and nothing takes long.
//!
//! `RIDGEPOINT_FUZZ_S=600 cargo test --release --test fuzz -- --nocapture` goes on for so many
//! seconds; otherwise it is a second for each kind of file. A text that ends a test is printed
//! with its seed; keep it as a test beside the code that reads it.

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use ridgepoint::analysis::{Campaign, derived_csv};
use ridgepoint::claims;
use ridgepoint::format::DType;
use ridgepoint::model::llm;
use ridgepoint::model::machine::Machines;
use ridgepoint::model::mix::Mix;
use ridgepoint::model::step::{Formats, Step, StepShape};
use ridgepoint::model::workload;
use ridgepoint::record::{Records, SampleTimes};
use ridgepoint::suite::{PlanBasis, Suite};
use ridgepoint::verdict::judge;

/// Longest time that one file may take, in a test build on a busy machine.
const MOST: Duration = Duration::from_secs(20);

/// What numbers become.
const NUMBERS: [&str; 16] = [
    "0",
    "-1",
    "1",
    "3",
    "0.5",
    "1e308",
    "-1e-308",
    "nan",
    "inf",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775807",
    "1_000",
    "0x10",
    "1e999",
    "",
];

/// What is put in anywhere.
const PIECES: [&str; 16] = [
    "\"", "'", ",", "\n", "\r\n", "[", "]", "[[", "=", "{}", "#", "\u{feff}", "\0", "é",
    ";", "\t",
];

/// A text with a few changes: what a slip of the hand, a spreadsheet or a torn write may do.
fn mutated(text: &str, random: &mut Pcg64Mcg) -> Vec<u8> {
    let mut text = text.to_owned();
    for _ in 0..random.random_range(1..6) {
        let mut lines: Vec<String> =
            text.split_inclusive('\n').map(str::to_owned).collect();
        let at = random.random_range(0..lines.len().max(1));
        match random.random_range(0..9) {
            0 if !lines.is_empty() => drop(lines.remove(at)),
            1 if !lines.is_empty() => lines.insert(at, lines[at].clone()),
            2 if !lines.is_empty() => {
                let other = random.random_range(0..lines.len());
                lines.swap(at, other);
            }
            3 if !lines.is_empty() => lines[at] = other_token(&lines[at], random, false),
            4 | 5 if !lines.is_empty() => lines[at] = other_token(&lines[at], random, true),
            6 if !lines.is_empty() => {
                let places: Vec<usize> =
                    lines[at].char_indices().map(|(at, _)| at).collect();
                let place = places[random.random_range(0..places.len())];
                lines[at].insert_str(place, PIECES[random.random_range(0..PIECES.len())]);
            }
            7 if random.random_range(0..8) == 0 => lines.truncate(at),
            _ => {}
        }
        text = lines.concat();
    }
    let mut bytes = text.into_bytes();
    if !bytes.is_empty() && random.random_range(0..8) == 0 {
        let at = random.random_range(0..bytes.len());
        bytes[at] = random.random();
    }
    bytes
}

/// A line with another number, or another word, in place of one.
fn other_token(line: &str, random: &mut Pcg64Mcg, numbers: bool) -> String {
    let is_end = |c: char| " ,=\n\r[]\"".contains(c);
    let mut tokens: Vec<String> = line.split_inclusive(is_end).map(str::to_owned).collect();
    let word = |token: &str| token.trim_end_matches(is_end).to_owned();
    let places: Vec<usize> = (0..tokens.len())
        .filter(|&at| {
            let word = word(&tokens[at]);
            !word.is_empty() && word.parse::<f64>().is_ok() == numbers
        })
        .collect();
    let Some(&at) = places.get(random.random_range(0..places.len().max(1))) else {
        return line.to_owned();
    };
    let other = match numbers {
        true => NUMBERS[random.random_range(0..NUMBERS.len())].to_owned(),
        false => word(&tokens[places[random.random_range(0..places.len())]]),
    };
    let old = word(&tokens[at]);
    tokens[at] = tokens[at].replacen(&old, &other, 1);
    tokens.concat()
}

/// Changes texts and reads them for as long as asked. `read` says whether what it read was
/// accepted; some must be, and some not, or the changes show nothing.
fn fuzz(kind: &str, texts: &[String], mut read: impl FnMut(usize, &[u8]) -> bool) {
    let seconds =
        std::env::var("RIDGEPOINT_FUZZ_S").ok().and_then(|text| text.parse().ok());
    let limit = Duration::from_secs_f64(seconds.unwrap_or(1.0));
    // The same texts in every short run, others in every long one.
    let now = || std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
    let seed = seconds.map_or(1, |_: f64| now());
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let (began, mut count, mut accepted) = (Instant::now(), 0u64, 0u64);
    while began.elapsed() < limit || count < 20 {
        let which = random.random_range(0..texts.len());
        let text = mutated(&texts[which], &mut random);
        let started = Instant::now();
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| read(which, &text)));
        let took = started.elapsed();
        let told =
            || format!("{kind} {which}, seed {seed}:\n{}", String::from_utf8_lossy(&text));
        match outcome {
            Ok(is_accepted) => accepted += u64::from(is_accepted),
            Err(_) => panic!("a panic at {}", told()),
        }
        assert!(took < MOST, "{took:?} for {}", told());
        count += 1;
    }
    println!("{kind}: {count} texts, of which {accepted} were accepted");
    assert!(
        accepted > 0 && accepted < count,
        "{kind}: {accepted} of {count} were accepted"
    );
}

fn committed(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn suites_are_read_or_refused() {
    let names = Suite::built_in_names();
    let mut texts: Vec<String> =
        names.iter().map(|name| committed(&format!("benches/{name}.toml"))).collect();
    texts.push(committed("examples/my-suite.toml"));
    fuzz("suite", &texts, |_, text| {
        let Ok(suite) = Suite::parse("fuzz.toml", &String::from_utf8_lossy(text)) else {
            return false;
        };
        let basis = PlanBasis {
            cache_bytes: 50 << 20,
            units: 132,
            kernel: &|_| Some("kernel"),
            vendor: &|_| None,
        };
        suite.plan_for(&basis).is_ok()
    });
}

#[test]
fn rows_of_models_machines_workloads_mixes_and_claims_are_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.toml");
    // A few rows each: a user's file does not repeat the built-in ones.
    let renamed = |file: &str, key: &str| {
        let text = committed(&format!("src/model/{file}"));
        let rows: Vec<&str> = text.split(&format!("[[{key}]]")).skip(1).collect();
        rows.chunks(3)
            .map(|rows| {
                let row = |row: &&str| {
                    format!("[[{key}]]{}", row.replacen("name = \"", "name = \"my-", 1))
                };
                rows.iter().map(row).collect::<String>()
            })
            .collect::<Vec<_>>()
    };
    let mut texts = renamed("models.toml", "model");
    let models = texts.len();
    texts.extend(renamed("machines.toml", "machine"));
    let machines = texts.len();
    texts.extend(renamed("workloads.toml", "workload"));
    let workloads = texts.len();
    texts.push(committed("examples/mix.toml"));
    let mixes = texts.len();
    texts.push(committed("examples/claims.toml"));
    let shape = StepShape {
        batch: 3,
        context: 9000,
        ..StepShape::of_one_token(Formats::plain(DType::Bf16))
    };
    fuzz("rows", &texts, |which, text| {
        fs::write(&path, text).unwrap();
        if which >= mixes {
            return claims::of_file(&path).is_ok();
        } else if which >= workloads {
            return Mix::load(&path).is_ok();
        } else if which >= machines {
            return workload::load(Some(&path)).is_ok();
        } else if which >= models {
            return Machines::load(Some(&path)).is_ok();
        }
        let Ok(models) = llm::load(Some(&path)) else { return false };
        models.iter().filter(|model| Step::of(model, &shape).is_ok()).count() > 0
    });
}

/// The first lines of a campaign's files: enough for every kind of row.
fn campaign(name: &str) -> Vec<(&'static str, String)> {
    let files = ["run.csv", "results.csv", "rounds.csv", "samples.csv", "counters.csv"];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results").join(name);
    let read = |file: &'static str| {
        let text = fs::read_to_string(folder.join(file)).ok()?;
        Some((file, text.split_inclusive('\n').take(25).collect::<String>()))
    };
    files.into_iter().filter_map(read).collect()
}

#[test]
fn records_are_read_judged_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let campaigns = [
        campaign("2026-11-23-cpu-intel-xeon-2c-quick"),
        campaign("2026-11-27-nvidia-h200-headline"),
    ];
    let machines = Machines::load(None).unwrap();
    let files: Vec<(usize, &str)> = campaigns
        .iter()
        .enumerate()
        .flat_map(|(at, files)| files.iter().map(move |(name, _)| (at, *name)))
        .collect();
    let texts: Vec<String> =
        campaigns.iter().flatten().map(|(_, text)| text.clone()).collect();
    fuzz("records", &texts, |which, text| {
        let (at, changed) = files[which];
        for (name, whole) in &campaigns[at] {
            let text = if *name == changed { text } else { whole.as_bytes() };
            fs::write(dir.path().join(name), text).unwrap();
        }
        let samples = SampleTimes::read(dir.path());
        let is_read = Records::read(dir.path()).is_ok() && samples.is_ok();
        if let Ok(campaign) = Campaign::load(dir.path(), &machines) {
            let judged = judge(&campaign);
            assert!(derived_csv(&campaign).is_ok());
            // What was changed may be what nothing depends on.
            let _ = judged.is_valid();
        }
        for (name, _) in &campaigns[at] {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        is_read
    });
}
