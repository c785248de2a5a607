use std::fs;

use super::*;
use crate::device::DeviceKind;
use crate::plot::fixture::{cpu, gpu};
use crate::verdict::judge;

fn page(campaign: &Campaign) -> String {
    html::page(campaign, &plot::figures(campaign), &judge(campaign))
}

#[test]
fn the_page_has_the_answer_all_figures_and_all_points() {
    let folder = tempfile::tempdir().unwrap();
    let campaign = gpu().campaign();
    let written = write_all(&campaign, &judge(&campaign), folder.path()).unwrap();
    assert!(written.iter().all(|path| path.is_file()));
    let page = fs::read_to_string(folder.path().join("report.html")).unwrap();
    let drawn = plot::figures(&campaign).iter().filter(|(_, drawn)| drawn.is_ok()).count();
    assert_eq!(page.matches("<svg").count(), drawn);
    assert_eq!(page.matches("<tr data-row=").count(), campaign.points.len());
    for part in ["Is decode memory bound here?", "of the data sheet", "<th scope=\"col\""] {
        assert!(page.contains(part), "{part}");
    }
    // What is first is the answer.
    let place = |part: &str| page.find(part).unwrap_or_else(|| panic!("{part}"));
    assert!(place("id=\"answer\"") < place("id=\"machine\""));
    assert!(place("id=\"machine\"") < place("id=\"figures\""));
    assert!(place("id=\"figures\"") < place("id=\"tables\""));
    assert!(!page.contains("https://"), "the page needs nothing but itself");
}

#[test]
fn names_from_records_are_escaped() {
    let made = cpu();
    let mut rows = made.rows.clone();
    for row in &mut rows {
        row.suite = "<script>alert('&')</script>".to_owned();
        row.reason = "\"<img>\"".to_owned();
        row.repro_command = "x \"><img>".to_owned();
    }
    let page = page(&made.with_rows(rows));
    assert_eq!(page.matches("<script>").count(), 1);
    assert!(!page.contains("<img>"));
}

#[test]
fn simulated_campaigns_say_so_everywhere() {
    let made = cpu();
    let mut rows = made.rows.clone();
    for row in &mut rows {
        row.device_kind = DeviceKind::Simulated.name().to_owned();
    }
    let simulated = made.with_rows(rows);
    assert!(page(&simulated).contains("class=\"simulated\">SIMULATED"));
    assert!(
        latex::headline(&simulated, &judge(&simulated)).contains("\\caption{SIMULATED.")
    );
    assert!(!page(&made.campaign()).contains("SIMULATED"));
}

#[test]
fn an_empty_campaign_has_a_page_that_says_what_is_missing() {
    let empty = page(&cpu().with_rows(Vec::new()));
    for part in ["No decode attention from DRAM", "No figure <b>roofline</b>"] {
        assert!(empty.contains(part), "{part}");
    }
}

/// The answers of a campaign, as one text.
fn answered(campaign: &Campaign) -> String {
    let answers = answer::answers(campaign, &judge(campaign));
    let sentences = answers.into_iter().flat_map(|answer| answer.sentences);
    sentences.collect::<Vec<_>>().join("\n")
}

/// The same campaign with decode attention this much slower.
fn slower(factor: f64) -> Campaign {
    let made = gpu();
    let mut rows = made.rows.clone();
    for row in rows.iter_mut().filter(|row| row.op == "decode_attention") {
        for time in [&mut row.time_s_median, &mut row.time_s_ci_lo, &mut row.time_s_ci_hi] {
            *time = time.map(|time| factor * time);
        }
    }
    made.with_rows(rows)
}

#[test]
fn the_answer_follows_the_records() {
    let text = answered(&gpu().campaign());
    for part in [
        "Decode attention is memory bound. This is ",
        "of the measured read bandwidth, in the median at ",
        "In bf16 its operational intensity is 0.998 to 16 FLOP/byte",
        "of the data sheet's 3.35 TB/s",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let slow = answered(&slower(10.0));
    assert!(slow.contains("Not within what was measured: the largest, "), "{slow}");
    // 60 to 95% of the roof become 100% and more.
    let fast = answered(&slower(0.6));
    assert!(
        fast.contains("every point reaches 70% of the measured read bandwidth"),
        "{fast}"
    );
    let unknown = answered(&cpu().campaign());
    assert!(unknown.contains("No data sheet of this device is known"), "{unknown}");
}

/// Braces and environments close, and every row has its cells.
#[test]
fn the_latex_table_is_balanced() {
    for campaign in [cpu().campaign(), gpu().campaign()] {
        let judged = judge(&campaign);
        let text = latex::headline(&campaign, &judged);
        let plain = text.replace("\\{", "").replace("\\}", "").replace("\\%", "");
        let plain: Vec<&str> =
            plain.lines().filter(|line| !line.starts_with('%')).collect();
        let mut depth = 0i32;
        for c in plain.join("\n").chars() {
            depth += i32::from(c == '{') - i32::from(c == '}');
            assert!(depth >= 0, "{text}");
        }
        assert_eq!(depth, 0, "{text}");
        assert!(!plain.iter().any(|line| line.contains('%')), "{text}");
        for name in ["table", "tabular"] {
            let count = |what: &str| text.matches(&format!("\\{what}{{{name}}}")).count();
            assert!(count("begin") > 0 && count("begin") == count("end"), "{text}");
        }
        let cells = |line: &&&str| line.replace("\\&", "").matches('&').count();
        let rows: Vec<&&str> = plain.iter().filter(|line| line.ends_with("\\\\")).collect();
        let of_limits = rows.iter().filter(|line| cells(line) == 3).count();
        assert_eq!(of_limits, judged.limits.len() + 1, "{text}");
        assert_eq!(rows.len(), judged.limits.len() + judged.claims.len() + 2, "{text}");
    }
}

/// Tables and figures of a large campaign show some of it and say so; the CSV files have all.
#[test]
fn a_hundred_thousand_points_make_a_page_that_opens() {
    let made = gpu();
    let decode = made.rows.iter().find(|row| row.op == "decode_attention").unwrap();
    let mut rows = made.rows.clone();
    for at in 0..100_000u64 {
        let (batch, context) = (1 + at % 250, 64 * (1 + at / 250));
        let problem = format!(
            "decode_attention:batch={batch},context={context},q_heads=32,kv_heads=8,\
             head_dim=128,dtype=bf16,kv_dtype=bf16,layout=contiguous"
        );
        let bytes = batch * context * 4096;
        let time_s = 5e-6 + bytes as f64 / 3e12;
        rows.push(crate::record::Row {
            point_id: format!("{at:012x}"),
            problem,
            reuse_distance_bytes: Some(bytes.max(1 << 28)),
            time_s_median: Some(time_s),
            time_s_ci_lo: Some(0.99 * time_s),
            time_s_ci_hi: Some(1.01 * time_s),
            ..decode.clone()
        });
    }
    // The verdict has tests of its own.
    let judged = judge(&made.campaign());
    let campaign = made.with_rows(rows);
    let begun = std::time::Instant::now();
    let figures = plot::figures(&campaign);
    let page = html::page(&campaign, &figures, &judged);
    eprintln!(
        "figures and page of 100,000 rows: {:?}, {} bytes",
        begun.elapsed(),
        page.len()
    );
    assert!(page.len() < 6_000_000, "{} bytes", page.len());
    assert!(page.contains(" points, which points.csv has all"));
    let drawn = figures.iter().filter_map(|(_, drawn)| drawn.as_ref().ok());
    for figure in drawn {
        assert!(figure.marks.len() < 1500, "{}: {} marks", figure.name, figure.marks.len());
    }
    let roofline = figures.iter().find(|(name, _)| *name == "roofline").unwrap();
    let csv = &roofline.1.as_ref().unwrap().csv;
    assert!(csv.lines().count() > 100_000);
}
