//! The values that a figure shows, as a CSV file beside it, and which of many points it draws.

use crate::analysis::Measured;
use crate::statistics::Estimate;

/// A value that a figure shows, as a row of its CSV file.
#[derive(Clone, Debug)]
pub struct PlottedRow {
    /// The panel that it is in; empty where there is one.
    pub panel: String,
    /// What it is one of: an operation, a sweep, a kind of ceiling.
    pub series: String,
    /// The measured point, if it is one.
    pub point_id: String,
    /// Along the horizontal axis.
    pub x: f64,
    /// Along the vertical one.
    pub y: Estimate,
    /// Whether it has a mark. Of many points in one place figures draw some.
    pub is_drawn: bool,
}

/// What a figure shows, as values.
#[derive(Clone, Debug)]
pub struct PlottedTable {
    /// What the horizontal axis is of, with its SI unit at the end.
    pub x_quantity: &'static str,
    /// The same of the vertical axis.
    pub y_quantity: &'static str,
    /// In the order drawn.
    pub rows: Vec<PlottedRow>,
}

impl PlottedTable {
    /// An empty table.
    pub const fn new(x_quantity: &'static str, y_quantity: &'static str) -> Self {
        PlottedTable { x_quantity, y_quantity, rows: Vec::new() }
    }

    /// Adds a measured point.
    pub fn point(
        &mut self,
        (panel, series): (&str, &str),
        point: &Measured,
        x: f64,
        y: Estimate,
    ) {
        self.rows.push(PlottedRow {
            panel: panel.to_owned(),
            series: series.to_owned(),
            point_id: point.point_id.clone(),
            x,
            y,
            is_drawn: true,
        });
    }

    /// Adds a value that is no point's.
    pub fn value(&mut self, panel: &str, series: &str, x: f64, y: f64) {
        self.rows.push(PlottedRow {
            panel: panel.to_owned(),
            series: series.to_owned(),
            point_id: String::new(),
            x,
            y: Estimate { value: y, lo: y, hi: y },
            is_drawn: true,
        });
    }

    /// The text of the file.
    pub fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let (x, y) = (self.x_quantity, self.y_quantity);
        let (lo, hi) = (ended(y, "lo"), ended(y, "hi"));
        // Writing to memory never fails.
        let _ =
            writer.write_record(["panel", "series", "point_id", x, y, &lo, &hi, "drawn"]);
        for row in &self.rows {
            let [value, lo, hi] = [row.y.value, row.y.lo, row.y.hi].map(|y| y.to_string());
            let PlottedRow { panel, series, point_id, .. } = row;
            let (x, drawn) = (row.x.to_string(), row.is_drawn.to_string());
            let _ = writer
                .write_record([panel, series, point_id, &x, &value, &lo, &hi, &drawn]);
        }
        writer.into_inner().ok().and_then(|b| String::from_utf8(b).ok()).unwrap_or_default()
    }
}

/// The name of a column's interval, as `points.csv` has it.
fn ended(quantity: &str, end: &str) -> String {
    format!("{quantity}_{end}")
}

/// Of points sorted along an axis, those that get a mark where there is room for `most`, and
/// the sentence that says so: every so many of them, and always the first and the last.
pub fn thinned<T>(points: &[T], most: usize) -> (Vec<&T>, Option<usize>) {
    let step = points.len().div_ceil(most.max(1)).max(1);
    let last = points.len().saturating_sub(1);
    let kept = |at: &usize| at.is_multiple_of(step) || *at == last;
    let drawn = (0..points.len()).filter(kept).map(|at| &points[at]).collect();
    (drawn, (step > 1).then_some(step))
}

/// `every 4th of 212 points`, or `12 points` where all are drawn.
pub fn count_text(step: Option<usize>, count: usize) -> String {
    let ordinal = |n: usize| match (n % 10, n % 100) {
        (1, end) if end != 11 => format!("{n}st"),
        (2, end) if end != 12 => format!("{n}nd"),
        (3, end) if end != 13 => format!("{n}rd"),
        _ => format!("{n}th"),
    };
    match step {
        Some(step) => format!("every {} of {count} points", ordinal(step)),
        None if count == 1 => "1 point".to_owned(),
        None => format!("{count} points"),
    }
}
