//! Records of before: the committed campaigns are read, their columns and ids are those
//! that this version writes.

use std::path::{Path, PathBuf};

use ridgepoint::op::Problem;
use ridgepoint::point::{LaunchMode, Point};
use ridgepoint::record::{Records, results_header};

/// Folders of the committed campaigns.
fn campaigns() -> Vec<PathBuf> {
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    let entries = std::fs::read_dir(&results).unwrap();
    let folders: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.into_iter().filter(|folder| folder.join("results.csv").exists()).collect()
}

/// Columns keep their names and order. Of this version's, operations that came later add
/// theirs at the end.
#[test]
fn columns_are_in_the_order_of_before() {
    for folder in campaigns() {
        let text = std::fs::read_to_string(folder.join("results.csv")).unwrap();
        let before: Vec<&str> = text.lines().next().unwrap().split(',').collect();
        assert!(before.len() > 60, "{}", folder.display());
        let now = results_header();
        let mut rest = now.iter();
        for column in &before {
            let found = rest.any(|other| other == column);
            assert!(found, "{}: {column} is missing or out of order", folder.display());
        }
        // The last campaign before operations had files of their own.
        if folder.ends_with("2026-11-26-nvidia-h100-80gb-hbm3-head-a") {
            assert_eq!(now[..before.len()], before);
        }
    }
}

/// A problem's text parses back into itself, and a point has the id that it had.
#[test]
fn points_keep_their_texts_and_ids() {
    let folders = campaigns();
    assert!(folders.len() >= 2, "{folders:?}");
    let mut ids = 0;
    for folder in folders {
        let records = Records::read(&folder).unwrap();
        assert!(records.unreadable.is_empty(), "{:?}", records.unreadable);
        let protocol = records.runs[0].get("protocol").unwrap().to_owned();
        for row in &records.rows {
            let problem: Problem = row.problem.parse().unwrap();
            assert_eq!(problem.to_string(), row.problem, "{}", folder.display());
            let mut text = format!("{}@{}@{}", row.problem, row.kernel, row.cache_state);
            if !row.load.is_empty() {
                text.push_str(&format!("@{}", row.load));
            }
            // A launch mode that was asked for is part of the text.
            let modes = LaunchMode::ALL.map(|mode| format!("{text}@{mode}"));
            let ids_of_texts = std::iter::once(&text).chain(&modes).map(|text| {
                text.parse::<Point>()
                    .map(|point| point.id_under(&protocol))
                    .unwrap_or_default()
            });
            assert!(ids_of_texts.collect::<Vec<_>>().contains(&row.point_id), "{text}");
            ids += 1;
            let work = problem.work();
            let counted = (work.matrix_flops(), work.vector_flops());
            assert_eq!(counted, (row.matrix_flops_model, row.vector_flops_model), "{text}");
            let bytes = (work.bytes_read(), work.bytes_written());
            assert_eq!(bytes, (row.bytes_read_model, row.bytes_written_model), "{text}");
        }
    }
    assert!(ids > 50, "ids of {ids} rows were compared");
}
