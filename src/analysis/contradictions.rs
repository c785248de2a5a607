//! Rows of `results.csv` that contradict themselves. An id, the model's counts and the shape
//! columns follow from the problem, so they are computed again; where one differs, something
//! has edited the row.

use crate::op::{Problem, shape_keys};
use crate::point::{LaunchMode, Point};
use crate::record::{Records, Row, Run, Unreadable, shape_values};

/// Relative difference of two numbers that rounding explains, such as that of a
/// spreadsheet which saved the file again.
pub const ROUNDING: f64 = 1e-6;

/// Every row of `results.csv` that cannot be read or contradicts itself.
pub fn contradictions(records: &Records) -> Vec<Unreadable> {
    let has_column = |name: &str| records.columns.iter().any(|column| column == name);
    let mut found = records.unreadable.clone();
    for row in &records.rows {
        let of_row = |run: &&Run| run.get("run_id") == Some(&row.run_id);
        let run = records.runs.iter().find(of_row);
        found.extend(run.and_then(|run| point_id(row, run.get("protocol")?)));
        found.extend(model_columns(row, &has_column));
        found.extend(shape_columns(row, &has_column));
    }
    found
}

/// A finding about a cell of `results.csv`.
pub fn in_row(line: u64, column: &str, value: &str, why: String) -> Unreadable {
    let (column, value) = (Some(column.to_owned()), value.to_owned());
    Unreadable { file: "results.csv", line, column, value, why }
}

/// An id that is not that of the row's point under a protocol.
pub fn point_id(row: &Row, protocol: &str) -> Option<Unreadable> {
    let point = point_of(row)?;
    let id = point.id_under(protocol);
    // The mode that was taken may also have been asked for. Where nothing was launched, and
    // where rows were queued one by one, as those of a rotation are that is too long to be
    // recorded, no column says what was asked for.
    let taken: Vec<LaunchMode> = match row.launch_mode.parse() {
        Ok(LaunchMode::Stream) | Err(_) => LaunchMode::ALL.to_vec(),
        Ok(mode) => vec![mode],
    };
    let asked = taken.into_iter().map(|mode| Point { launch: Some(mode), ..point.clone() });
    let is_own = id == row.point_id
        || asked.into_iter().any(|point| point.id_under(protocol) == row.point_id);
    (!is_own).then(|| {
        let why = format!("the id of `{point}` is {id}; the row was edited");
        in_row(row.line, "point_id", &row.point_id, why)
    })
}

fn point_of(row: &Row) -> Option<Point> {
    Some(Point {
        problem: row.problem.parse().ok()?,
        kernel: row.kernel.parse().ok()?,
        cache: row.cache_state.parse().ok()?,
        launch: None,
        load: row.load.parse().ok(),
    })
}

/// Counts that are not those of the row's problem, and another operation than its own.
pub fn model_columns(row: &Row, has_column: &impl Fn(&str) -> bool) -> Vec<Unreadable> {
    let Ok(problem) = row.problem.parse::<Problem>() else { return Vec::new() };
    let shown = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
    let mut found = Vec::new();
    for (column, written, computed, tolerance) in counts(row, &problem) {
        if !are_equal(written, computed, tolerance) && has_column(column) {
            let why = format!(
                "of `{problem}` this version computes `{}`; the row was edited, or its \
                 version counted otherwise",
                shown(computed)
            );
            found.push(in_row(row.line, column, &shown(written), why));
        }
    }
    let op = problem.op().name();
    if row.op != op {
        found.push(in_row(row.line, "op", &row.op, format!("`{problem}` is a {op}")));
    }
    found
}

/// Shape columns that do not repeat the row's problem.
pub fn shape_columns(row: &Row, has_column: &impl Fn(&str) -> bool) -> Vec<Unreadable> {
    let Some(shape) = &row.shape else { return Vec::new() };
    if row.problem.parse::<Problem>().is_err() {
        return Vec::new();
    }
    let keys = shape_keys().into_iter();
    let differ = keys.zip(shape_values(&row.problem)).filter_map(|(key, computed)| {
        let is_of = |name: &str| name.strip_prefix("shape_") == Some(key);
        let cell = shape.iter().find(|(name, _)| is_of(name));
        let written = cell.map_or("", |(_, value)| value);
        if written == computed {
            return None;
        }
        let column = format!("shape_{key}");
        has_column(&column).then(|| {
            let why = format!("`{}` has `{computed}`", row.problem);
            in_row(row.line, &column, written, why)
        })
    });
    differ.collect()
}

/// A column of the model, what a row says, what this version computes, and the relative
/// difference that is allowed.
type Count = (&'static str, Option<f64>, Option<f64>, f64);

fn counts(row: &Row, problem: &Problem) -> [Count; 7] {
    let (work, routed) = (problem.work(), problem.routed());
    let exact = |column, written: Option<u64>, computed: Option<u64>| -> Count {
        (column, written.map(|n| n as f64), computed.map(|n| n as f64), 0.0)
    };
    let always = |column, written, computed| exact(column, Some(written), Some(computed));
    [
        always("matrix_flops_model", row.matrix_flops_model, work.matrix_flops()),
        always("vector_flops_model", row.vector_flops_model, work.vector_flops()),
        always("bytes_read_model", row.bytes_read_model, work.bytes_read()),
        always("bytes_written_model", row.bytes_written_model, work.bytes_written()),
        exact(
            "experts_touched_model",
            row.experts_touched_model,
            routed.map(|r| r.experts_touched),
        ),
        exact(
            "bytes_read_bound_model",
            row.bytes_read_bound_model,
            routed.map(|r| r.bytes_read_bound),
        ),
        (
            "bytes_read_expected_model",
            row.bytes_read_expected_model,
            routed.map(|r| r.bytes_read_expected),
            ROUNDING,
        ),
    ]
}

/// Whether two numbers are the same but for a relative difference; both may be missing.
pub fn are_equal(a: Option<f64>, b: Option<f64>, tolerance: f64) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= tolerance * a.abs().max(b.abs()),
        (a, b) => a.is_none() && b.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::point::PROTOCOL;

    /// A point that asked for a launch mode and was skipped has an id of its own, and a row
    /// that does not say which mode it was.
    #[test]
    fn ids_of_points_that_were_not_launched_are_their_own() {
        for mode in LaunchMode::ALL {
            let text = format!("stream:access=read,bytes=4096@cpu_stream@hot@{mode}");
            let point: Point = text.parse().unwrap();
            let row = |launch_mode: &str| Row {
                point_id: point.id(),
                problem: point.problem.to_string(),
                kernel: point.kernel.to_string(),
                cache_state: point.cache.to_string(),
                launch_mode: launch_mode.to_owned(),
                ..Row::default()
            };
            assert_eq!(point_id(&row(""), PROTOCOL), None, "{mode}");
            assert_eq!(point_id(&row(mode.name()), PROTOCOL), None, "{mode}");
            // Any of them may end as rows that are queued one by one.
            assert_eq!(point_id(&row("stream"), PROTOCOL), None, "{mode}");
            let is_other = |other: &LaunchMode| ![mode, LaunchMode::Stream].contains(other);
            let others = LaunchMode::ALL.into_iter().filter(is_other);
            for other in others {
                assert!(point_id(&row(other.name()), PROTOCOL).is_some(), "{mode} {other}");
            }
            let edited = Row { point_id: "0123456789ab".to_owned(), ..row("") };
            assert!(point_id(&edited, PROTOCOL).is_some(), "{mode}");
        }
    }
}
