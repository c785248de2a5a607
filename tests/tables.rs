//! Tables that the program prints: as data they are tidy whichever command prints them, and
//! on a terminal of any width they can be read.

mod common;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::need;
use ridgepoint::toolchain::nvrtc::Nvrtc;
use ridgepoint::toolchain::search::{NVRTC, SearchPath};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tiny.toml");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(directory: &Path, columns: Option<usize>, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
    command.current_dir(directory).args(arguments).env_remove("COLUMNS");
    if let Some(columns) = columns {
        command.env("COLUMNS", columns.to_string());
    }
    command.output().unwrap()
}

fn printed(directory: &Path, columns: Option<usize>, arguments: &[&str]) -> String {
    let output = run(directory, columns, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    // A committed campaign may lack a row, and a table may hold nothing but refusals.
    let is_told = match output.status.code() {
        Some(3) => arguments[0] == "verdict",
        Some(1) => errors.contains("nothing could be predicted"),
        _ => false,
    };
    assert!(
        output.status.success() || is_told,
        "{arguments:?}: {:?}\n{errors}",
        output.status
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A committed campaign of a GPU with counters and peers, and one of a CPU.
const CAMPAIGNS: [&str; 2] = [
    "results/2026-11-27-nvidia-h200-headline",
    "results/2026-11-23-cpu-intel-xeon-2c-quick",
];

/// The same suite, measured twice.
const H100: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/results/2026-11-27-nvidia-h100-80gb-hbm3-quick");
const H100_AGAIN: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/results/2026-11-27-nvidia-h100-80gb-hbm3-quick-again"
);
const WITH_PEERS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/results/2026-11-27-nvidia-h200-headline");

/// Every command line that prints tables as data and needs no compiler of kernels.
fn data_commands() -> Vec<Vec<&'static str>> {
    let predictions = [
        "--model llama-3.1-8b",
        "step --model deepseek-v3 --tensor 8 --phase decode,prefill --batch 1,4096",
        "step --model qwen3-235b-a22b,llama-3.1-8b --expert 1,5 --workload chat",
        "step --explain --model deepseek-v3 --tensor 8",
        "task --tensor 4 --batch 1,4096",
        "task --tensor 3 --model llama-3.1-8b,llama-3.1-70b",
        "disaggregate --tensor 4 --workload coding --machine h100-sxm,h200",
        "offload --tensor 4 --context 8192,131072",
        "published",
        "claims",
    ];
    let mut all: Vec<Vec<&str>> = predictions
        .iter()
        .map(|line| std::iter::once("predict").chain(line.split(' ')).collect())
        .collect();
    all.extend([
        vec!["list", "quick", "--device", "cpu"],
        vec!["list", "products", "--device", "vm"],
        vec!["compare", H100, H100_AGAIN],
        vec!["compare", WITH_PEERS, "--peers", "--filter", "op=gemm"],
        vec!["history", H100, H100_AGAIN, "--filter", "op=stream"],
        vec!["kernels", "plan", "--campaign", H100, "--against", H100_AGAIN],
        vec!["kernels", "plan", "--against", H100, "--filter", "op=stream"],
        vec!["doctor", "--device", "cpu"],
        vec!["check", TINY, "--device", "cpu"],
        vec!["selfcheck", TINY, "--device", "cpu", "--filter", "op=gemm"],
        vec!["measure", TINY, "--device", "cpu", "--filter", "op=gemm", "--seed", "7"],
    ]);
    all
}

/// Those that compile kernels.
fn compiling_commands() -> [Vec<&'static str>; 5] {
    let filter = ["--filter", "op=kv_read"];
    [
        vec!["count", TINY],
        vec!["count", TINY, "--sms", "4", "--l2", "1 MiB"],
        vec!["kernels", "plan", TINY],
        vec!["kernels", "plan", TINY, "--campaign", H100],
        vec!["kernels", "build", TINY, "--arch", "sm_90a", "--out", "kernels"],
    ]
    .map(|command| [&command[..], &filter].concat())
}

type DataTable = (Vec<String>, Vec<Vec<String>>);

/// The tables of a CSV output; an empty line is between two.
fn csv_tables(text: &str) -> Vec<DataTable> {
    let parse = |part: &str| {
        let mut reader = csv::Reader::from_reader(part.as_bytes());
        let header = reader.headers().unwrap().iter().map(str::to_owned).collect();
        let cells = |row: csv::StringRecord| row.iter().map(str::to_owned).collect();
        (header, reader.records().map(|row| cells(row.unwrap())).collect())
    };
    text.split("\n\n").map(parse).collect()
}

fn is_number(cell: &str) -> bool {
    cell.parse::<f64>().is_ok()
}

/// Columns that name things: their cells may have digits only.
fn is_name(column: &str) -> bool {
    column.ends_with("id") || column.ends_with("hash")
}

/// Words that stand behind a number as its unit, and the signs that do.
const UNITS: [&str; 22] = [
    "s", "ms", "us", "µs", "ns", "B", "KiB", "MiB", "GiB", "kB", "MB", "GB", "TB", "GB/s",
    "TB/s", "GFLOP/s", "TFLOP/s", "FLOP/B", "Hz", "GHz", "J", "W",
];

/// Whether a cell is a number with a unit, which belongs into the column's name.
fn has_unit(cell: &str) -> bool {
    let digits = cell.trim_start_matches(['-', '+']);
    let end =
        digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
    let unit = digits[end..].trim();
    end > 0 && (unit == "%" || unit.starts_with('(') || UNITS.contains(&unit))
}

/// What is untidy about a table.
fn faults((header, rows): &DataTable) -> Vec<String> {
    let mut faults = Vec::new();
    let distinct: HashSet<&String> = header.iter().collect();
    if distinct.len() != header.len() {
        faults.push(format!("columns of one name: {header:?}"));
    }
    for (at, column) in header.iter().enumerate() {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !column.chars().all(is_plain) {
            faults.push(format!("the name `{column}` is not one word"));
        }
        let cells = rows.iter().map(|row| row[at].as_str()).filter(|cell| !cell.is_empty());
        let (numbers, words): (Vec<&str>, Vec<&str>) =
            cells.partition(|cell| is_number(cell));
        if let (Some(number), Some(word), false) =
            (numbers.first(), words.first(), is_name(column))
        {
            faults.push(format!("`{column}` has `{number}` and `{word}`"));
        }
        faults.extend(
            numbers
                .iter()
                .filter(|cell| {
                    cell.starts_with("-0") && {
                        cell.parse::<f64>().is_ok_and(|number| number == 0.0)
                    }
                })
                .map(|cell| format!("`{column}` has `{cell}`")),
        );
        let with_unit = words.iter().filter(|cell| has_unit(cell));
        faults.extend(with_unit.map(|cell| format!("`{column}` has `{cell}`")));
    }
    faults
}

/// What is wrong about the JSON of a command beside its CSV: another number of tables, rows
/// or columns, a value of another type or another size.
fn json_faults(text: &str, tables: &[DataTable]) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    let parts = json.as_array().unwrap();
    let sections: Vec<&Vec<serde_json::Value>> =
        match parts.iter().all(|part| part["rows"].is_array()) {
            true => parts.iter().map(|part| part["rows"].as_array().unwrap()).collect(),
            false => vec![parts],
        };
    let mut faults = Vec::new();
    if sections.len() != tables.len() {
        faults.push(format!("{} tables as JSON, {} as CSV", sections.len(), tables.len()));
    }
    for (rows, (header, cells)) in sections.iter().zip(tables) {
        if rows.len() != cells.len() {
            faults.push(format!("{} rows as JSON, {} as CSV", rows.len(), cells.len()));
        }
        for (row, cells) in rows.iter().zip(cells) {
            for (column, cell) in header.iter().zip(cells) {
                let value = &row[column];
                let is_right = match cell.as_str() {
                    "" => value.is_null(),
                    "true" | "false" => value.as_bool() == Some(cell == "true"),
                    // What is measured twice may have another status and other sizes.
                    cell if is_name(column) || !is_number(cell) => value.is_string(),
                    _ => value.is_number(),
                };
                if !is_right || row.as_object().map(|row| row.len()) != Some(header.len()) {
                    faults.push(format!("`{column}` is {value} as JSON, `{cell}` as CSV"));
                }
            }
        }
    }
    faults
}

/// Data of a command in both formats.
fn judge(directory: Option<&Path>, command: &[&str]) {
    let formatted = |format: &str| {
        // Some write into the folder, and never twice.
        let own = tempfile::tempdir().unwrap();
        let directory = directory.unwrap_or(own.path());
        printed(directory, None, &[command, &["--format", format]].concat())
    };
    let tables = csv_tables(&formatted("csv"));
    assert!(tables.iter().any(|(_, rows)| !rows.is_empty()), "{command:?}: no rows");
    let mut found: Vec<String> = tables.iter().flat_map(faults).collect();
    found.extend(json_faults(&formatted("json"), &tables));
    found.dedup();
    assert!(found.is_empty(), "{command:?}:\n{}", found.join("\n"));
}

#[test]
fn every_table_of_data_is_tidy() {
    for command in data_commands() {
        judge(None, &command);
    }
    for campaign in CAMPAIGNS {
        let text = printed(root(), None, &["verdict", campaign, "--format", "csv"]);
        assert_eq!(faults(&csv_tables(&text)[0]), [""; 0]);
    }
}

/// All that the table of a verdict says is a field of its JSON: validity and notes, counts
/// with their reasons, and every table with as many rows.
#[test]
fn a_verdict_as_json_has_all_that_it_says() {
    for campaign in CAMPAIGNS {
        let output = run(root(), Some(500), &["verdict", campaign]);
        let [text, remarks] =
            [output.stdout, output.stderr].map(|b| String::from_utf8(b).unwrap());
        let json = printed(root(), None, &["verdict", campaign, "--format", "json"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["valid"], output.status.code() == Some(0));
        let lines = |key: &str, before: &str| -> Vec<String> {
            let lines = json[key].as_array().unwrap().iter();
            lines.map(|line| format!("{before}: {}", line.as_str().unwrap())).collect()
        };
        let said = [lines("notes", "note"), lines("faults", "invalid")].concat();
        assert_eq!(said, remarks.lines().collect::<Vec<_>>());
        for claim in json["claims"].as_array().unwrap() {
            let count = |key: &str| claim[key].as_u64().unwrap();
            let sum = |key: &str| -> u64 {
                claim[key].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum()
            };
            assert_eq!(count("against"), sum("against_by"), "{claim}");
            assert_eq!(count("not_evidence"), sum("not_evidence_by"), "{claim}");
            let all = count("agree") + count("against") + count("not_evidence");
            assert_eq!(count("planned"), all, "{claim}");
            let is_told = |key: &str| text.contains(claim[key].as_str().unwrap());
            let is_named = claim["finding"] == "not tested" && is_told("id");
            assert!(is_told("statement") || is_named, "{claim}");
            assert_eq!(claim["value"].is_null(), claim["value_lo"].is_null(), "{claim}");
            assert!(!claim["reason"].as_str().unwrap().is_empty(), "{claim}");
        }
        let limits = json["limits"].as_array().unwrap();
        assert!(limits.iter().all(|limit| limit["value"].is_number()));
        let tables = json["tables"].as_array().unwrap();
        let headings = tables.iter().map(|table| table["heading"].as_str().unwrap());
        let headings: Vec<&str> = headings.collect();
        assert!(headings.contains(&"Decode attention"), "{headings:?}");
        assert_eq!(text_tables(&text).len(), tables.len() + 3);
        for table in tables {
            assert!(text.contains(&format!("{}\n", table["heading"].as_str().unwrap())));
            let rows = table["rows"].as_array().unwrap();
            let cells = rows.iter().flat_map(|row| row.as_object().unwrap());
            for (column, value) in cells {
                let word = value.as_str().unwrap_or_default();
                assert!(
                    is_name(column) || !is_number(word) && !has_unit(word),
                    "{column}: {word}"
                );
            }
        }
    }
}

#[test]
fn tables_of_kernels_are_tidy() {
    if need(Nvrtc::find(&SearchPath::of_this_machine(&NVRTC), None)).is_none() {
        return;
    }
    for command in compiling_commands() {
        judge(None, &command);
    }
}

#[test]
fn untidy_tables_are_found() {
    let table = |text: &str| faults(&csv_tables(text)[0]).len();
    assert_eq!(table("a,b_s\n1,2e-3\n,\n3,inf\n"), 0);
    for untidy in [
        "ratio,ratio\n1,2\n",
        "weights; cache,b\nbf16,2\n",
        "a,b\n1,2\n1,none\n",
        "a,b\n1,0.00 %\n",
        "a,b\n1,128 KiB\n",
        "a,b\n1,0.039 (fixed costs)\n",
        "a,b\n1,-0\n",
        "a,b\n1,-0.000\n",
    ] {
        assert_eq!(table(untidy), 1, "{untidy}");
    }
    let wrong = r#"[{"heading": "x", "rows": [{"fits": "true", "n": 1}]}]"#;
    assert_eq!(json_faults(wrong, &csv_tables("fits,n\ntrue,1\n")).len(), 1);
}

/// The table of a text output: its lines from the heading of columns on.
fn text_tables(text: &str) -> Vec<Vec<&str>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_rule = |line: &&str| line.contains('─');
    let mut tables = Vec::new();
    for (at, _) in lines.iter().enumerate().filter(|(_, line)| is_rule(line)) {
        let below = lines[at + 1..].iter().take_while(|line| !line.is_empty());
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with(' '));
        let above: Vec<&str> = above.copied().collect();
        tables.push(above.into_iter().rev().chain(below.copied()).collect());
    }
    tables
}

/// On a terminal of any width no line is longer, every word of a heading is whole, and what
/// is left out is said with the way to see it.
#[test]
fn tables_fit_terminals_of_any_width() {
    let dir = tempfile::tempdir().unwrap();
    let mut commands: Vec<(&Path, Vec<&str>)> =
        data_commands().into_iter().map(|command| (dir.path(), command)).collect();
    commands
        .retain(|(_, command)| !["measure", "selfcheck", "check"].contains(&command[0]));
    commands.extend(CAMPAIGNS.map(|campaign| (root(), vec!["verdict", campaign])));
    let mut has_left_out = false;
    for (directory, command) in commands {
        let wide = printed(directory, Some(500), &command);
        assert!(!wide.contains("Left out: "), "{command:?} at 500:\n{wide}");
        let words: HashSet<&str> = text_tables(&wide)
            .concat()
            .into_iter()
            .flat_map(str::split_whitespace)
            .collect();
        for columns in [80, 120, 200] {
            let text = printed(directory, Some(columns), &command);
            has_left_out |= text.contains("Left out: ");
            for line in text.lines() {
                let length = line.trim_end().chars().count();
                assert!(length <= columns, "{command:?} at {columns}: {length}\n{line}");
            }
            // A number or a short word that was cut is none of the wide table's. What doctor
            // measures is another time each time.
            if command[0] == "doctor" {
                continue;
            }
            for word in
                text_tables(&text).concat().into_iter().flat_map(str::split_whitespace)
            {
                let is_part = word.len() > 24
                    || words.iter().any(|whole| whole.len() > 24 && whole.contains(word));
                assert!(
                    words.contains(word) || is_part,
                    "{command:?} at {columns}: `{word}`"
                );
            }
        }
    }
    assert!(has_left_out, "80 columns are too few for some table");
}

/// One row has its question in a line, so that 80 columns have room for the answer.
#[test]
fn one_prediction_fits_80_columns() {
    let arguments = ["predict", "--model", "llama-3.1-8b", "--machine", "h200"];
    let text = printed(root(), Some(80), &arguments);
    let joined = text.replace('\n', " ");
    assert!(joined.contains("model: llama-3.1-8b, phase: decode, batch: 1"), "{text}");
    let tables = text_tables(&text);
    let [table] = &tables[..] else { panic!("{text}") };
    assert!(table.len() <= 3, "a row in more lines than two:\n{text}");
    for heading in ["OI", "bound", "time", "tokens/s"] {
        assert!(table[0].contains(heading), "{heading}:\n{text}");
    }
}

/// `--filter` keeps the points that meet it, the same for every command that has a suite,
/// and a campaign that is resumed keeps it too.
#[test]
fn filters_choose_points() {
    let dir = tempfile::tempdir().unwrap();
    let list = |filter: &str| {
        let arguments =
            ["list", TINY, "--device", "cpu", "--format", "csv", "--filter", filter];
        csv_tables(&printed(dir.path(), None, &arguments)).remove(0).1
    };
    let gemms = list("op=gemm");
    assert!(!gemms.is_empty() && gemms.iter().all(|row| row[1].starts_with("gemm:")));
    let decode = list("op=decode_attention,q_heads>=8");
    assert!(!decode.is_empty() && decode.iter().all(|row| row[1].contains("q_heads=8")));
    let check = [
        "check",
        TINY,
        "--device",
        "cpu",
        "--format",
        "csv",
        "--filter",
        "op=decode_attention,q_heads>=8",
    ];
    let checked = csv_tables(&printed(dir.path(), None, &check)).remove(0).1;
    assert_eq!(checked.len(), decode.len());
    let fails = |arguments: &[&str], code: i32, part: &str| {
        let output = run(dir.path(), None, arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(part), "{arguments:?}: {errors}");
    };
    for command in ["list", "check", "measure", "selfcheck"] {
        let with = |filter| [command, TINY, "--device", "cpu", "--filter", filter];
        fails(&with("batsh=8"), 2, "did you mean `batch`?");
        fails(&with("op=gemm,batch>100000"), 1, "none of the ");
    }
    fails(&["count", TINY, "--filter", "op=gemm,batch>100000"], 1, "none of the ");
    let out = ["measure", TINY, "--device", "cpu", "--filter", "op=gemm", "--out", "c"];
    printed(dir.path(), None, &out);
    let suite = std::fs::read_to_string(dir.path().join("c/suite.toml")).unwrap();
    assert!(suite.starts_with("filter = \"op=gemm\"\n"), "{suite}");
    let output = run(dir.path(), None, &["measure", "--resume", "c", "--device", "cpu"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing is left"));
    for command in ["peers", "counters"] {
        let wrong = [command, "c", "--filter", "op=stream,bytes>1 GiB"];
        fails(&wrong, 1, "meets `op=stream");
    }
}

/// The time that a suite takes is that of the same points where a campaign of the same
/// device has them, and it says which.
#[test]
fn list_expects_what_an_earlier_campaign_took() {
    let dir = tempfile::tempdir().unwrap();
    let list = |more: &[&str]| {
        let arguments = ["list", TINY, "--device", "cpu", "--format", "json"];
        let text = printed(dir.path(), None, &[&arguments[..], more].concat());
        serde_json::from_str::<serde_json::Value>(&text).unwrap()[0].take()
    };
    let said = |list: &serde_json::Value| list["notes"][1].as_str().unwrap().to_owned();
    let first = list(&[]);
    assert!(said(&first).contains("at least ") && said(&first).contains("by the protocol"));
    let out = ["measure", TINY, "--device", "cpu", "--filter", "op=gemm", "--out"];
    printed(dir.path(), None, &[&out[..], &["results/first"]].concat());
    let second = list(&[]);
    assert!(said(&second).contains("by results/first"), "{}", said(&second));
    let of_gemm =
        |row: &&serde_json::Value| row["problem"].as_str().unwrap().starts_with("gemm:");
    let rows = second["rows"].as_array().unwrap();
    for row in rows.iter().filter(|row| row["reason"].is_null()) {
        let from = if of_gemm(&row) { "campaign" } else { "alike" };
        assert_eq!(row["expected_from"], from, "{row}");
        assert!(row["expected_s"].as_f64().unwrap() > 0.0, "{row}");
    }
    let given = list(&["--campaign", "results/first"]);
    assert_eq!(said(&given), said(&second));
    let h200 = root().join(CAMPAIGNS[0]);
    let other = ["list", TINY, "--device", "cpu", "--campaign", h200.to_str().unwrap()];
    let errors = String::from_utf8(run(dir.path(), None, &other).stderr).unwrap();
    assert!(errors.contains("is of NVIDIA H200"), "{errors}");
}

/// A copy of a committed campaign, to be written to.
fn copy_of(campaign: &str, to: &Path) -> PathBuf {
    let folder = to.join("campaign");
    std::fs::create_dir(&folder).unwrap();
    for name in ["run.csv", "results.csv", "rounds.csv", "counters.csv", "suite.toml"] {
        let from = root().join(campaign).join(name);
        if from.exists() {
            std::fs::copy(from, folder.join(name)).unwrap();
        }
    }
    folder
}

/// What is printed for people has prefixes by size; what is data has none.
#[test]
fn numbers_for_people_are_scaled_by_their_size() {
    let dir = tempfile::tempdir().unwrap();
    let folder = copy_of(CAMPAIGNS[0], dir.path());
    let text = printed(dir.path(), None, &["verdict", folder.to_str().unwrap()]);
    assert!(text.contains("TFLOP/s") && text.contains("TB/s"), "{text}");
    let is_long = |word: &str| {
        let number = word.trim_matches(|c: char| !c.is_ascii_digit());
        number.parse::<f64>().is_ok_and(|number| number >= 10_000.0)
    };
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let unit =
            words.peek().is_some_and(|next| next.ends_with("/s") || next.ends_with("/s,"));
        assert!(!unit || !is_long(word), "{word} {:?}", words.peek());
    }
}
