//! Records of a campaign that several machines measured, by machine.

use std::collections::HashMap;

use crate::record::{Records, Unreadable};

/// The column of `run.csv` that `merge` writes.
const NODE: &str = "node";

/// Names of the machines of a merged campaign, in the order of `run.csv`; none where it was
/// not merged.
pub(super) fn names(records: &Records) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for run in &records.runs {
        let name = run.get(NODE).unwrap_or_default();
        if !name.is_empty() && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// The records of each machine, by the processes that measured them, and those of none.
pub(super) fn split(records: Records, names: &[String]) -> (Vec<Records>, Records) {
    let Records { runs, rows, rounds, unreadable, columns, witnesses: _ } = records;
    let empty = || Records { columns: columns.clone(), ..Records::default() };
    let mut parts: Vec<Records> = names.iter().map(|_| empty()).collect();
    let mut rest = Records { unreadable, ..empty() };
    let mut of_run: HashMap<String, usize> = HashMap::new();
    for run in runs {
        let name = run.get(NODE).unwrap_or_default();
        let Some(at) = names.iter().position(|known| known == name) else { continue };
        of_run.insert(run.get("run_id").unwrap_or_default().to_owned(), at);
        parts[at].runs.push(run);
    }
    for row in rows {
        match of_run.get(&row.run_id) {
            Some(at) => parts[*at].rows.push(row),
            None => rest.rows.push(row),
        }
    }
    for round in rounds {
        if let Some(at) = of_run.get(&round.run_id) {
            parts[*at].rounds.push(round);
        }
    }
    (parts, rest)
}

/// A row whose process `run.csv` does not know.
pub(super) fn of_no_process(line: u64, run_id: &str) -> Unreadable {
    Unreadable {
        file: "results.csv",
        line,
        column: Some("run_id".to_owned()),
        value: run_id.to_owned(),
        why: "run.csv has no such run".to_owned(),
    }
}
