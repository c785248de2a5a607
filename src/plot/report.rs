//! The report: one HTML page that needs nothing but itself.

use std::fmt::Write;

use super::frame::{Drawn, date, ridges};
use super::svg::escape;
use crate::analysis::{Campaign, Measured};
use crate::quantity::{bytes, number, si};
use crate::record::Status;
use crate::roofline::RoofKind;
use crate::section::Section;
use crate::statistics::Estimate;

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// How the page is to be read.
const GUIDE: [(&str, &str); 8] = [
    (
        "Time",
        "Median seconds of one launch, with the 95% bootstrap interval of that median.",
    ),
    (
        "GB/s, GFLOP/s",
        "Compulsory bytes and FLOPs of the shape over that time. Every input counts as \
         read once and every output as written once, whatever the kernel did.",
    ),
    ("OI", "Operational intensity of the shape: its FLOPs over its compulsory bytes."),
    (
        "Ridge",
        "Intensity at which compute and DRAM reads take the same time. A shape left of \
         it is memory bound, right of it compute bound.",
    ),
    (
        "Roof",
        "Share of the best that the measured ceilings allow at this shape and working \
         set. It is not clamped: above 100% the roof is too low or a cache helped.",
    ),
    (
        "Derived, data sheet",
        "What the device's clocks, bus and multiprocessors allow, and what its maker \
         states, dense. Where both are known, figures draw the data sheet.",
    ),
    (
        "Cold, hot",
        "Cold launches find none of their inputs in a cache; hot launches find what the \
         same launch had left.",
    ),
    (
        "Status",
        "ok: measured to the wanted precision. noisy: measured, but the interval is \
         wide. skipped, failed, wrong: there is no usable time; see the reason.",
    ),
];

/// The whole page.
pub fn html(campaign: &Campaign, figures: &[Drawn], verdict: &[Section]) -> String {
    let device = campaign.device.clone().unwrap_or_else(|| "unknown device".to_owned());
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>ridgepoint: {0}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>{0}</h1>\n",
        escape(&device)
    );
    if campaign.is_simulated() {
        page.push_str(
            "<p class=\"simulated\">SIMULATED: these times were made up or counted, not \
             measured.</p>\n",
        );
    }
    page.push_str(&headline(campaign));
    for section in verdict {
        page.push_str(&section_html(section));
    }
    page.push_str("<h2>Figures</h2>\n");
    for (name, drawn) in figures {
        match drawn {
            Ok(figure) => {
                let _ = writeln!(page, "<figure id=\"{name}\">\n{}</figure>", figure.svg);
            }
            Err(reason) => {
                let reason = escape(reason);
                let _ = writeln!(page, "<p>No figure <b>{name}</b>: {reason}.</p>");
            }
        }
    }
    page.push_str(&points_table(campaign));
    page.push_str(&guide());
    page.push_str(&provenance(campaign));
    let _ = write!(page, "<script>\n{SCRIPT}</script>\n</body>\n</html>\n");
    page
}

/// The facts that a reader looks for first.
fn headline(campaign: &Campaign) -> String {
    let mut facts: Vec<(String, String)> = Vec::new();
    if let Some(measured) = &campaign.ceilings {
        let read = with_interval(measured.read.rate, "B/s");
        let doubt =
            measured.read.doubt().map_or(String::new(), |d| format!(", {}", d.name()));
        facts.push(("DRAM read bandwidth".to_owned(), read + &doubt));
        for (dtype, ceiling) in &measured.compute {
            let rate = with_interval(ceiling.rate, "FLOP/s");
            let doubt =
                ceiling.doubt().map_or(String::new(), |d| format!(", {}", d.name()));
            facts.push((format!("{dtype} ceiling ({})", ceiling.kernel), rate + &doubt));
        }
    }
    let points: Vec<&Measured> = campaign.own_points().collect();
    for (dtype, ridge) in ridges(campaign, &points) {
        facts.push((format!("{dtype} ridge"), format!("{} FLOP/B", number(ridge))));
    }
    let suite = campaign.suite.clone();
    let seed = campaign.provenance.seed.map(|seed| seed.to_string());
    let text = [("suite", suite), ("date", date(campaign)), ("seed", seed)];
    for (name, value) in text {
        if let Some(value) = value {
            facts.push((name.to_owned(), value));
        }
    }
    if let Some(sentinel) = &campaign.sentinel {
        facts.push(("drift of the repeated point".to_owned(), sentinel.drift_text()));
    }
    facts.push(("points".to_owned(), tally(campaign)));
    let mut list = String::from("<dl class=\"facts\">\n");
    for (name, value) in facts {
        let (name, value) = (escape(&name), escape(&value));
        let _ = writeln!(list, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    list + "</dl>\n"
}

/// How many points came out how: `41 ok, 2 skipped`.
fn tally(campaign: &Campaign) -> String {
    let names = Status::ALL.map(Status::name).into_iter().chain(["simulated"]);
    let count = |name| {
        let n = campaign.points.iter().filter(|p| p.status_name() == name).count();
        (n > 0).then(|| format!("{n} {name}"))
    };
    let parts: Vec<String> = names.filter_map(count).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

fn with_interval(rate: Estimate, unit: &str) -> String {
    format!("{} ± {}%", si(rate.value, unit), number(100.0 * rate.half_width()))
}

fn section_html(section: &Section) -> String {
    let mut text = format!("<section>\n<h2>{}</h2>\n", escape(&section.heading));
    for paragraph in &section.paragraphs {
        let _ = writeln!(text, "<p>{}</p>", escape(paragraph));
    }
    if !section.columns.is_empty() {
        let (headings, rows) = section.table_for_people();
        let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
        text.push_str(&table(&headings, &rows, ""));
    }
    text + "</section>\n"
}

/// A table; columns whose cells are all numbers are set to the right.
fn table(columns: &[&str], rows: &[Vec<String>], class: &str) -> String {
    // Prose may begin with a number too, but is longer.
    let is_number = |cell: &String| {
        let begins = cell.starts_with(|c: char| c.is_ascii_digit() || c == '-');
        cell.is_empty() || begins && cell.len() <= 32
    };
    let numeric: Vec<bool> = (0..columns.len())
        .map(|i| rows.iter().filter_map(|row| row.get(i)).all(is_number))
        .collect();
    let side = |i: usize| {
        if numeric.get(i) == Some(&true) { " class=\"n\"" } else { "" }
    };
    let mut text = format!("<div class=\"scroll\"><table class=\"{class}\">\n<thead><tr>");
    for (i, column) in columns.iter().enumerate() {
        let _ = write!(text, "<th{}>{}</th>", side(i), escape(column));
    }
    text.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        text.push_str("<tr>");
        for (i, cell) in row.iter().enumerate() {
            let _ = write!(text, "<td{}>{}</td>", side(i), escape(cell));
        }
        text.push_str("</tr>\n");
    }
    text + "</tbody>\n</table></div>\n"
}

fn points_table(campaign: &Campaign) -> String {
    let columns = [
        "problem",
        "kernel",
        "cache",
        "status",
        "time",
        "95% interval",
        "GB/s",
        "GFLOP/s",
        "OI",
        "roof",
        "bound",
        "working set",
        "reason",
    ];
    let rows: Vec<Vec<String>> = campaign.points.iter().map(point_cells).collect();
    format!("<h2>Points</h2>\n{}", table(&columns, &rows, "points"))
}

fn point_cells(point: &Measured) -> Vec<String> {
    let of = |estimate: Option<Estimate>, divisor: f64| {
        estimate.map_or(String::new(), |e| number(e.value / divisor))
    };
    let interval = |t: Estimate| format!("{} to {}", si(t.lo, "s"), si(t.hi, "s"));
    let intensity = point.work.operational_intensity();
    let computes = point.work.flops() > 0 && intensity.is_finite();
    let roof =
        point.fraction().map_or(String::new(), |f| format!("{}%", number(100.0 * f.value)));
    vec![
        point.problem.to_string(),
        point.kernel.to_string(),
        point.cache.to_string(),
        point.status_name().to_owned(),
        point.time_s.map_or(String::new(), |t| si(t.value, "s")),
        point.time_s.map_or(String::new(), interval),
        of(point.bytes_per_s(), 1e9),
        of(point.flops_per_s(), 1e9),
        if computes { number(intensity) } else { String::new() },
        roof,
        point.empirical.map_or("", |roof| RoofKind::name(roof.binding())).to_owned(),
        point.reuse_distance_bytes.map_or(String::new(), |b| bytes(b as f64)),
        point.reason.clone(),
    ]
}

fn guide() -> String {
    let mut text = String::from("<h2>How to read this</h2>\n<dl class=\"guide\">\n");
    for (term, meaning) in GUIDE {
        let _ = writeln!(text, "<dt>{}</dt><dd>{}</dd>", escape(term), escape(meaning));
    }
    text + "</dl>\n"
}

/// Every column of `run.csv`, one table column for each process.
fn provenance(campaign: &Campaign) -> String {
    let Some(first) = campaign.runs.first() else { return String::new() };
    let mut columns = vec!["column".to_owned()];
    columns.extend((1..=campaign.runs.len()).map(|i| format!("process {i}")));
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let row = |(name, _): &(String, String)| {
        let value = |run: &crate::record::Run| run.get(name).unwrap_or("").to_owned();
        let mut cells = vec![name.clone()];
        cells.extend(campaign.runs.iter().map(value));
        cells
    };
    let rows: Vec<Vec<String>> = first.fields().iter().map(row).collect();
    format!("<h2>Provenance</h2>\n{}", table(&columns, &rows, ""))
}
