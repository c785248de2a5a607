//! The tables of points, one for each operation: its shape in columns of its own, then what
//! was measured. What all points share is said once.

use std::collections::{BTreeMap, HashMap};

use super::table::{Cell, Column, Table};
use crate::analysis::{Campaign, Measured};
use crate::op::Op;
use crate::plot::escape;
use crate::quantity::{bytes, number, share, si};
use crate::roofline::RoofKind;
use crate::statistics::Estimate;

/// Rows that all tables have together. A page with more is slow to open; `points.csv` has
/// all of them.
const MOST_ROWS: usize = 4000;
/// Columns of the shape that are shown at first.
const SHOWN_KEYS: usize = 6;

/// The tables, in the order of operations.
pub fn tables(campaign: &Campaign) -> Vec<Table> {
    let mut by_op: Vec<(Op, Vec<&Measured>)> = Vec::new();
    for op in Op::ALL {
        let of_op = |point: &&Measured| point.problem.op() == op;
        let points: Vec<&Measured> = campaign.points.iter().filter(of_op).collect();
        if !points.is_empty() {
            by_op.push((op, points));
        }
    }
    let most = MOST_ROWS / by_op.len().max(1);
    let commands = commands(campaign);
    by_op.iter().map(|(op, points)| table(*op, points, most, &commands)).collect()
}

/// The command that measures each point again.
fn commands(campaign: &Campaign) -> HashMap<&str, &str> {
    let rows = campaign.rows.iter().filter(|row| !row.repro_command.is_empty());
    rows.map(|row| (row.point_id.as_str(), row.repro_command.as_str())).collect()
}

fn table(
    op: Op,
    points: &[&Measured],
    most: usize,
    commands: &HashMap<&str, &str>,
) -> Table {
    let shown = &points[..points.len().min(most)];
    let (shape, constant) = shape_columns(shown);
    let mut columns = shape;
    columns.extend(measured_columns(shown));
    let mut caption = format!("{}: {}", op.facts().judged.prose, count(points.len(), most));
    if !constant.is_empty() {
        caption.push_str(&format!("; all of {constant}"));
    }
    let attributes = |point: &&Measured| {
        let id = escape(&point.point_id);
        let command =
            commands.get(point.point_id.as_str()).map_or(String::new(), |command| {
                format!(" data-command=\"{}\"", escape(command))
            });
        format!(" data-row=\"{id}\"{command}")
    };
    let row_attributes = shown.iter().map(attributes).collect();
    Table { caption, is_titled: false, columns, row_attributes }
}

fn count(all: usize, most: usize) -> String {
    match all {
        1 => "1 point".to_owned(),
        all if all <= most => format!("{all} points"),
        all => format!("the first {most} of {all} points, which points.csv has all"),
    }
}

/// A column for each key in which points differ, and in words what they share.
fn shape_columns(points: &[&Measured]) -> (Vec<Column>, String) {
    let mut keys: Vec<&'static str> = Vec::new();
    let mut values: Vec<BTreeMap<&str, String>> = Vec::new();
    for point in points {
        let fields = point.problem.fields();
        for (key, _) in &fields {
            if !keys.contains(key) {
                keys.push(key);
            }
        }
        values.push(fields.into_iter().collect());
    }
    let is_constant = |key: &&'static str| {
        let first = values[0].get(key);
        points.len() > 1 && values.iter().all(|of| of.get(key) == first)
    };
    let (constant, varying): (Vec<_>, Vec<_>) = keys.into_iter().partition(is_constant);
    let constant: Vec<String> =
        constant.iter().map(|key| format!("{key} {}", values[0][key])).collect();
    let column = |(at, key): (usize, &&str)| {
        let cells =
            values.iter().map(|of| Cell::text(of.get(*key).cloned().unwrap_or_default()));
        let is_shown = at < SHOWN_KEYS;
        Column { is_shown, ..Column::new(key.replace('_', " "), cells.collect()) }
    };
    (varying.iter().enumerate().map(column).collect(), constant.join(", "))
}

/// What was measured. Columns in which no row has anything are left out.
fn measured_columns(points: &[&Measured]) -> Vec<Column> {
    type Of = fn(&Measured) -> Cell;
    let columns: [(&str, bool, Of); 16] = [
        ("kernel", true, |p| Cell::text(p.kernel.to_string())),
        ("cache", true, |p| Cell::text(p.cache.to_string())),
        ("status", true, |p| Cell::text(p.status_name())),
        ("time", true, |p| of(p.time_s, |t| si(t, "s"))),
        ("± half of 95%", true, |p| {
            let half = p.time_s.map(|t| t.half_width());
            half.map_or_else(Cell::default, |half| Cell::number(share(half), half))
        }),
        ("from", false, |p| of(p.time_s.map(|t| at(t.lo)), |t| si(t, "s"))),
        ("to", false, |p| of(p.time_s.map(|t| at(t.hi)), |t| si(t, "s"))),
        ("bytes/s", true, |p| of(p.bytes_per_s(), |r| si(r, "B/s"))),
        ("FLOP/s", true, |p| of(p.flops_per_s(), |r| si(r, "FLOP/s"))),
        ("OI", true, |p| {
            let intensity = p.work.operational_intensity();
            let computes = p.work.flops() > 0 && intensity.is_finite();
            of(computes.then(|| at(intensity)), number)
        }),
        ("roof", true, |p| of(p.fraction(), share)),
        ("binds", true, |p| {
            Cell::text(p.empirical.map_or("", |roof| RoofKind::name(roof.binding())))
        }),
        ("working set", false, |p| of(p.reuse_distance_bytes.map(|b| at(b as f64)), bytes)),
        ("SM clock", false, |p| of(p.sm_clock_hz.map(at), |hz| si(hz, "Hz"))),
        ("point", false, |p| Cell::text(p.point_id.clone())),
        ("reason", true, |p| Cell::text(p.reason.clone())),
    ];
    let column = |(heading, is_shown, cell): (&str, bool, Of)| {
        let cells: Vec<Cell> = points.iter().map(|point| cell(point)).collect();
        let is_empty = cells.iter().all(|cell| cell.text.is_empty());
        (!is_empty).then(|| Column { is_shown, ..Column::new(heading, cells) })
    };
    columns.into_iter().filter_map(column).collect()
}

const fn at(value: f64) -> Estimate {
    Estimate { value, lo: value, hi: value }
}

fn of(estimate: Option<Estimate>, text: impl Fn(f64) -> String) -> Cell {
    estimate.map_or_else(Cell::default, |e| Cell::number(text(e.value), e.value))
}
