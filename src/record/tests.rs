//! Records written, cut and read back.

use std::path::PathBuf;

use super::*;
use proptest::prelude::*;

fn run(id: &str) -> Run {
    let mut run = Run::default();
    run.set("run_id", id);
    run.set("device", "a, \"device\"");
    run
}

fn row(point_id: &str, repeat: u32) -> Row {
    Row {
        point_id: point_id.into(),
        repeat,
        status: Some(Status::Ok),
        problem: "gemm:m=1,n=2,k=3,dtype=f32".into(),
        reason: "two\nlines, \"quoted\"".into(),
        time_s_median: Some(1.25e-6),
        ..Row::default()
    }
}

fn sample(point_id: &str, index: u32) -> SampleRow {
    SampleRow {
        run_id: "r".into(),
        point_id: point_id.into(),
        repeat: 0,
        sample_index: index,
        first_slot: 0,
        launches: 2,
        elapsed_s: 0.5,
        sm_clock_hz: None,
        since_start_s: 1.5,
        ..SampleRow::default()
    }
}

fn round(point_id: &str) -> RoundRow {
    RoundRow {
        run_id: "r".into(),
        point_id: point_id.into(),
        n_samples: 2,
        time_s_median: 0.25,
        other_cpu_share: Some(0.01),
        ..RoundRow::default()
    }
}

/// Writes all of a point: a round with two samples, and its row.
fn write_point(recorder: &mut Recorder, id: &str) {
    recorder.record_round(round(id), vec![sample(id, 0), sample(id, 1)]).unwrap();
    recorder.record(&row(id, 0)).unwrap();
}

#[test]
fn rows_come_back_as_they_went_but_for_line_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(&dir.path().join("c"), &run("r"), "suite").unwrap();
    write_point(&mut recorder, "a");
    let records = Records::read(recorder.folder()).unwrap();
    let reason = "two lines, \"quoted\"".into();
    let shape = records.rows[0].shape.clone();
    let expected = Row { reason, line: 2, shape, ..row("a", 0) };
    assert_eq!(records.rows, [expected]);
    assert_eq!(records.runs, [run("r")]);
    let samples: Vec<SampleRow> = read_csv(&recorder.folder().join("samples.csv")).unwrap();
    assert_eq!(samples, [sample("a", 0), sample("a", 1)]);
    assert_eq!(records.rounds, [round("a")]);
}

#[test]
fn a_row_that_does_not_parse_costs_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(&dir.path().join("c"), &run("r"), "").unwrap();
    for id in ["a", "b", "c"] {
        recorder.record(&row(id, 0)).unwrap();
    }
    let path = recorder.folder().join("results.csv");
    let text = fs::read_to_string(&path).unwrap();
    let b = text.lines().nth(2).unwrap();
    let read = |text: &str| {
        fs::write(&path, text).unwrap();
        let records = Records::read(path.parent().unwrap()).unwrap();
        let lines: Vec<u64> = records.rows.iter().map(|row| row.line).collect();
        assert_eq!(lines, [2, 4]);
        assert_eq!(records.unreadable.len(), 1);
        records.unreadable[0].to_string()
    };
    let told = read(&text.replace(b, &b.replace(",ok,", ",okay,")));
    assert!(told.starts_with("results.csv line 3, column status: `okay`"), "{told}");
    assert!(told.contains("`noisy`"), "{told}");
    let told = read(&text.replace(b, "b,short"));
    assert!(told.starts_with("results.csv line 3: "), "{told}");
}

#[test]
fn shape_columns_repeat_the_problem() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(&dir.path().join("c"), &run("r"), "").unwrap();
    recorder.record(&row("a", 0)).unwrap();
    let text = fs::read_to_string(recorder.folder().join("results.csv")).unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let column = reader.headers().unwrap().iter().position(|h| h == "shape_k").unwrap();
    let record = reader.records().next().unwrap().unwrap();
    assert_eq!(&record[column], "3");
    assert_eq!(&record[column - 1], "2");
}

#[test]
fn a_process_that_resumes_and_records_nothing_leaves_no_row() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Recorder::create(&dir.path().join("c"), &run("r"), "").unwrap();
    first.record_round(round("a"), vec![sample("a", 0), sample("a", 1)]).unwrap();
    first.record(&row("a", 0)).unwrap();
    let folder = first.folder().to_owned();
    drop(first);
    let files = ["run.csv", "results.csv", "samples.csv"];
    let read = || files.map(|name| fs::read(folder.join(name)).unwrap());
    let before = read();
    drop(Recorder::resume(&folder, &run("s")).unwrap());
    assert_eq!(read(), before);
    let mut second = Recorder::resume(&folder, &run("t")).unwrap();
    second.record(&row("b", 0)).unwrap();
    second.record(&row("c", 0)).unwrap();
    let runs = Records::read(&folder).unwrap().runs;
    let ids: Vec<_> = runs.iter().filter_map(|run| run.get("run_id")).collect();
    assert_eq!(ids, ["r", "t"]);
}

#[test]
fn an_existing_folder_is_never_touched() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = dir.path().join("c");
    fs::create_dir(&wanted).unwrap();
    fs::write(wanted.join("mine"), "precious").unwrap();
    let second = Recorder::create(&wanted, &run("a"), "").unwrap();
    let third = Recorder::create(&wanted, &run("b"), "").unwrap();
    assert_eq!(second.folder(), dir.path().join("c.2"));
    assert_eq!(third.folder(), dir.path().join("c.3"));
    assert_eq!(fs::read_dir(&wanted).unwrap().count(), 1);
}

#[test]
fn two_processes_cannot_write_one_campaign() {
    let dir = tempfile::tempdir().unwrap();
    let first = Recorder::create(&dir.path().join("c"), &run("a"), "").unwrap();
    let error = Recorder::resume(first.folder(), &run("b")).unwrap_err().to_string();
    assert!(error.contains("in use by another process"), "{error}");
    let folder = first.folder().to_owned();
    drop(first);
    Recorder::resume(&folder, &run("b")).unwrap();
}

#[test]
fn other_columns_are_not_mixed_in() {
    let dir = tempfile::tempdir().unwrap();
    let first = Recorder::create(&dir.path().join("c"), &run("a"), "").unwrap();
    let folder = first.folder().to_owned();
    drop(first);
    let mut other = run("b");
    other.set("new_column", 1);
    let error = Recorder::resume(&folder, &other).unwrap_err().to_string();
    assert!(error.contains("other columns"), "{error}");
    for file in ["results.csv", "rounds.csv", "samples.csv"] {
        let path = folder.join(file);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("run_id", "id", 1)).unwrap();
        let error = Recorder::resume(&folder, &run("b")).unwrap_err().to_string();
        assert!(error.contains(file), "{error}");
        fs::write(&path, text).unwrap();
    }
    Recorder::resume(&folder, &run("b")).unwrap();
}

const FILES: [&str; 4] = ["run.csv", "results.csv", "rounds.csv", "samples.csv"];

/// A file as other programs save what is in it.
fn saved_by_others(text: &str, how: &str) -> String {
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
    let quotes = if how.contains("quotes") {
        csv::QuoteStyle::Always
    } else {
        csv::QuoteStyle::Necessary
    };
    let mut writer = csv::WriterBuilder::new().quote_style(quotes).from_writer(Vec::new());
    for record in reader.records() {
        let record = record.unwrap();
        let mut cells: Vec<&str> = record.iter().collect();
        if how.contains("order") {
            cells.reverse();
        }
        writer.write_record(cells).unwrap();
    }
    let mut saved = String::from_utf8(writer.into_inner().unwrap()).unwrap();
    if how.contains("lines") {
        saved = saved.replace('\n', "\r\n");
    }
    if how.contains("mark") {
        saved.insert(0, '\u{feff}');
    }
    saved
}

/// What a spreadsheet has saved again says the same: it is read, and a campaign goes on with
/// the files as this program writes them.
#[test]
fn files_that_others_have_saved_are_read_and_restored() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(&dir.path().join("c"), &run("r"), "").unwrap();
    write_point(&mut recorder, "a");
    recorder.record_round(round("b"), vec![sample("b", 0)]).unwrap();
    let folder = recorder.folder().to_owned();
    drop(recorder);
    let written = FILES.map(|name| fs::read_to_string(folder.join(name)).unwrap());
    let read = || {
        let mut records = Records::read(&folder).unwrap();
        records
            .rows
            .iter_mut()
            .for_each(|row| row.shape.iter_mut().for_each(|cells| cells.sort()));
        let samples = SampleTimes::read(&folder).unwrap().unwrap();
        let mut run = records.runs[0].fields().to_vec();
        run.sort();
        (records.rows, records.rounds, run, records.unreadable, samples)
    };
    let before = read();
    for how in ["lines", "mark", "quotes", "order", "lines, mark, quotes and order"] {
        for (name, text) in FILES.iter().zip(&written) {
            fs::write(folder.join(name), saved_by_others(text, how)).unwrap();
        }
        assert_eq!(read(), before, "{how}");
        let recorder = Recorder::resume(&folder, &run("s")).unwrap();
        assert!(recorder.has("a", 0) && recorder.rounds_of("b", 0).len() == 1, "{how}");
        let second = Recorder::resume(&folder, &run("t")).unwrap_err().to_string();
        assert!(second.contains("in use by another process"), "{how}: {second}");
        for (name, text) in FILES.iter().zip(&written) {
            let restored = fs::read_to_string(folder.join(name)).unwrap();
            assert_eq!(&restored, text, "{how}: {name}");
        }
    }
}

/// Why a file cannot be continued is said as it is, and the file stays as it was.
#[test]
fn files_with_other_columns_say_which() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::create(&dir.path().join("c"), &run("r"), "").unwrap();
    let folder = recorder.folder().to_owned();
    drop(recorder);
    let path = folder.join("rounds.csv");
    let whole = fs::read_to_string(&path).unwrap();
    let cases = [
        (whole.replacen("point_id", "id", 1), "missing are point_id; unknown are id;"),
        (whole.replacen("run_id,", "", 1), "missing are run_id; finish"),
        (whole.replacen('\n', ",more\n", 1), "unknown are more; finish"),
        (whole.replacen("run_id,", "run_id,run_id,", 1), "some are there twice"),
        (whole.replace(',', ";"), "separated by semicolons"),
        (whole.replace(',', "\t"), "separated by tabs"),
    ];
    for (text, part) in cases {
        fs::write(&path, &text).unwrap();
        let error = Recorder::resume(&folder, &run("s")).unwrap_err().to_string();
        assert!(error.contains("rounds.csv: it") && error.contains(part), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

/// `results.csv` can be made again from what the other files have; the others cannot.
#[test]
fn an_empty_file_is_begun_anew_where_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(&dir.path().join("c"), &run("r"), "").unwrap();
    let folder = recorder.folder().to_owned();
    let new = FILES.map(|name| fs::read_to_string(folder.join(name)).unwrap());
    write_point(&mut recorder, "a");
    drop(recorder);
    let empty = |name: &str| fs::write(folder.join(name), "").unwrap();
    empty("results.csv");
    let recorder = Recorder::resume(&folder, &run("s")).unwrap();
    assert_eq!((recorder.has("a", 0), recorder.rounds_of("a", 0).len()), (false, 1));
    assert_eq!(fs::read_to_string(folder.join("results.csv")).unwrap(), new[1]);
    drop(recorder);
    for (name, other) in [("rounds.csv", "samples.csv"), ("samples.csv", "rounds.csv")] {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        empty(name);
        let error = Recorder::resume(&folder, &run("s")).unwrap_err().to_string();
        assert!(error.contains(&format!("{name} is empty, but ")), "{error}");
        assert!(error.contains(other), "{error}");
        fs::write(folder.join(name), text).unwrap();
    }
    // Nothing was measured yet.
    ["results.csv", "rounds.csv", "samples.csv"].into_iter().for_each(empty);
    drop(Recorder::resume(&folder, &run("s")).unwrap());
    for (name, text) in FILES.iter().zip(&new).skip(1) {
        assert_eq!(&fs::read_to_string(folder.join(name)).unwrap(), text, "{name}");
    }
}

#[test]
fn a_row_is_never_doubled() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(&dir.path().join("c"), &run("r"), "").unwrap();
    recorder.record(&row("a", 0)).unwrap();
    recorder.record(&row("a", 1)).unwrap();
    assert!(recorder.record(&row("a", 0)).is_err());
    recorder.record_round(round("b"), Vec::new()).unwrap();
    assert!(recorder.record_round(round("b"), Vec::new()).is_err());
}

#[test]
fn a_missing_folder_is_told_apart_from_a_broken_one() {
    let dir = tempfile::tempdir().unwrap();
    let error = Records::read(&dir.path().join("none")).unwrap_err().to_string();
    assert!(error.contains("is not a folder"), "{error}");
    let error = format!("{:#}", Records::read(dir.path()).unwrap_err());
    assert!(error.contains("run.csv"), "{error}");
}

/// The files of a campaign of three points, cut at any byte of the write
/// that was under way, as a kill leaves them.
fn cut_campaign(dir: &Path, cut_file: &str, keep: usize) -> PathBuf {
    let mut recorder = Recorder::create(&dir.join("c"), &run("r"), "").unwrap();
    for id in ["a", "b", "c"] {
        write_point(&mut recorder, id);
    }
    let folder = recorder.folder().to_owned();
    drop(recorder);
    let path = folder.join(cut_file);
    let text = fs::read(&path).unwrap();
    let last_row =
        text.len() - text.iter().rev().skip(1).position(|&b| b == b'\n').unwrap();
    let keep = (last_row - 1 + keep).min(text.len());
    fs::write(&path, &text[..keep]).unwrap();
    // Samples are written first, then the round, then the row: what comes later was not
    // there yet.
    let later: &[&str] = match cut_file {
        "samples.csv" => &["rounds.csv", "results.csv"],
        "rounds.csv" => &["results.csv"],
        _ => &[],
    };
    for name in later {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).unwrap();
        let two_rows = text.lines().take(3).map(|l| format!("{l}\n")).collect::<String>();
        fs::write(&path, two_rows).unwrap();
    }
    folder
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_kill_during_any_write_loses_and_doubles_nothing(
        keep in 0usize..700, file in 0usize..3
    ) {
        let dir = tempfile::tempdir().unwrap();
        let cut_file = ["samples.csv", "rounds.csv", "results.csv"][file];
        let folder = cut_campaign(dir.path(), cut_file, keep);
        let mut recorder = Recorder::resume(&folder, &run("s")).unwrap();
        prop_assert!(recorder.has("a", 0) && recorder.has("b", 0));
        if !recorder.has("c", 0) {
            match recorder.rounds_of("c", 0) {
                [] => write_point(&mut recorder, "c"),
                [known] => {
                    prop_assert_eq!(&known.row, &round("c"));
                    prop_assert_eq!(&known.samples, &[sample("c", 0), sample("c", 1)]);
                    recorder.record(&row("c", 0)).unwrap();
                }
                _ => prop_assert!(false, "a round was doubled"),
            }
        }
        drop(recorder);
        let records = Records::read(&folder).unwrap();
        prop_assert_eq!(records.rounds, ["a", "b", "c"].map(round));
        let rows = records.rows;
        let ids: Vec<_> = rows.iter().map(|r| r.point_id.as_str()).collect();
        prop_assert_eq!(ids, ["a", "b", "c"]);
        let samples: Vec<SampleRow> = read_csv(&folder.join("samples.csv")).unwrap();
        let expected: Vec<_> = ["a", "b", "c"]
            .iter()
            .flat_map(|id| [sample(id, 0), sample(id, 1)])
            .collect();
        prop_assert_eq!(samples, expected);
    }
}
