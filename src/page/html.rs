//! The page: the answer, the machine, the figures, the tables, and how to read them.

use std::fmt::Write;

use super::answer::{Answer, answers};
use super::points;
use super::table::{Cell, Column, Table};
use crate::analysis::Campaign;
use crate::plot::{Drawn, Figure, date, escape, ridges, variables};
use crate::quantity::{bytes, number, si};
use crate::record::{Run, Status};
use crate::section::Section;
use crate::statistics::Estimate;
use crate::verdict::Verdict;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// How the page is to be read.
const GUIDE: [(&str, &str); 9] = [
    (
        "Time",
        "Median seconds of one launch, with the 95% bootstrap interval of that median.",
    ),
    (
        "bytes/s, FLOP/s",
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
         states, dense.",
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
    (
        "Figures and tables",
        "Point at a mark, or step through them with Tab and the arrow keys, to see its row and \
         the command that measures it again; Enter or a click keeps it open. Click a heading \
         to sort by it.",
    ),
];

/// The whole page.
pub fn page(campaign: &Campaign, figures: &[Drawn], judged: &Verdict) -> String {
    let device = campaign.device.clone().unwrap_or_else(|| "unknown device".to_owned());
    let mut page = head(&device);
    page.push_str("<main id=\"main\">\n");
    if campaign.is_simulated() {
        page.push_str(
            "<p class=\"simulated\">SIMULATED: these times were made up or counted, not \
             measured.</p>\n",
        );
    }
    page.push_str(&remarks("invalid", "This run is invalid", &judged.faults));
    page.push_str(&answer_html(&answers(campaign, judged)));
    page.push_str(&remarks("notes", "Notes", &judged.warnings));
    page.push_str(&machine(campaign));
    page.push_str(&figures_html(figures));
    page.push_str("<section id=\"tables\">\n<h2>Tables</h2>\n");
    judged.sections.iter().for_each(|section| page.push_str(&section_html(section)));
    page.push_str("</section>\n<section id=\"points\">\n<h2>Points</h2>\n");
    points::tables(campaign).iter().for_each(|table| page.push_str(&table.html()));
    page.push_str("</section>\n");
    page.push_str(&guide());
    page.push_str(&provenance(campaign));
    let _ = write!(page, "</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n");
    page
}

/// All before the content: colours, style, and links to the parts.
fn head(device: &str) -> String {
    let (light, dark) = (variables(false), variables(true));
    let device = escape(device);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>ridgepoint: {device}</title>\n<style>\n\
         :root {{ {light} color-scheme: light; }}\n\
         @media screen and (prefers-color-scheme: dark) {{\n\
         :root:not([data-theme=light]) {{ {dark} color-scheme: dark; }} }}\n\
         @media screen {{ :root[data-theme=dark] {{ {dark} color-scheme: dark; }} }}\n\
         {STYLE}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#main\">Skip to the answer</a>\n<header>\n<h1>{device}</h1>\n\
         <nav aria-label=\"Parts of the page\"><a href=\"#answer\">Answer</a> \
         <a href=\"#machine\">Machine</a> <a href=\"#figures\">Figures</a> \
         <a href=\"#tables\">Tables</a> <a href=\"#points\">Points</a> \
         <a href=\"#guide\">How to read this</a> <a href=\"#provenance\">Provenance</a></nav>\n\
         </header>\n"
    )
}

fn remarks(id: &str, heading: &str, texts: &[String]) -> String {
    if texts.is_empty() {
        return String::new();
    }
    let items: String =
        texts.iter().map(|text| format!("<li>{}</li>\n", escape(text))).collect();
    format!(
        "<section id=\"{id}\" class=\"remarks\"><h2>{heading}</h2>\n<ul>\n{items}</ul></section>\n"
    )
}

fn answer_html(answers: &[Answer]) -> String {
    let mut text = String::from("<section id=\"answer\">\n<h2>Answer</h2>\n<dl>\n");
    for Answer { question, sentences } in answers {
        let _ = writeln!(text, "<dt>{}</dt>", escape(question));
        for sentence in sentences {
            let _ = writeln!(text, "<dd>{}</dd>", escape(sentence));
        }
    }
    text + "</dl>\n</section>\n"
}

/// The facts of the machine and of the campaign.
fn machine(campaign: &Campaign) -> String {
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
    let points: Vec<_> = campaign.own_points().collect();
    for (dtype, ridge) in ridges(campaign, &points) {
        facts.push((format!("{dtype} ridge"), format!("{} FLOP/B", number(ridge))));
    }
    facts.extend(reported(campaign));
    facts.push(("points".to_owned(), tally(campaign)));
    let mut list =
        String::from("<section id=\"machine\">\n<h2>Machine</h2>\n<dl class=\"facts\">\n");
    for (name, value) in facts {
        let (name, value) = (escape(&name), escape(&value));
        let _ = writeln!(list, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    list + "</dl>\n</section>\n"
}

/// What the device and the campaign say of themselves.
fn reported(campaign: &Campaign) -> Vec<(String, String)> {
    let device = &campaign.provenance.device;
    let run = campaign.runs.last();
    let of_run = |name: &str| run.and_then(|run| run.get(name)).map(str::to_owned);
    let memory = of_run("memory_total_bytes").and_then(|text| text.parse::<f64>().ok());
    let watts = of_run("power_limit_w").filter(|text| !text.is_empty());
    let hz = |hz: Option<f64>| hz.map(|hz| si(hz, "Hz"));
    let facts = [
        ("multiprocessors", device.sm_count.map(|count| count.to_string())),
        ("highest SM clock", hz(device.sm_clock_hz)),
        ("highest memory clock", hz(device.memory_clock_hz)),
        ("memory bus", device.memory_bus_bits.map(|bits| format!("{bits} bit"))),
        ("memory", memory.map(bytes)),
        ("L2", campaign.provenance.l2_bytes.map(|of| bytes(of as f64))),
        ("power limit", watts.map(|watts| format!("{watts} W"))),
        ("CUDA driver", of_run("cuda_driver").filter(|text| !text.is_empty())),
        ("suite", campaign.suite.clone()),
        ("date", date(campaign)),
        ("seed", campaign.provenance.seed.map(|seed| seed.to_string())),
        ("drift of the repeated point", campaign.sentinel.as_ref().map(|s| s.drift_text())),
    ];
    facts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
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

fn figures_html(figures: &[Drawn]) -> String {
    let mut text =
        String::from("<section id=\"figures\">\n<h2>Figures</h2>\n<div class=\"sheet\">\n");
    let mut missing = String::new();
    for (name, drawn) in figures {
        match drawn {
            Ok(figure) => text.push_str(&figure_html(figure)),
            Err(reason) => {
                let reason = escape(reason);
                let _ = writeln!(missing, "<li>No figure <b>{name}</b>: {reason}.</li>");
            }
        }
    }
    text.push_str("</div>\n");
    if !missing.is_empty() {
        let _ = writeln!(text, "<ul class=\"missing\">\n{missing}</ul>");
    }
    text + "</section>\n"
}

/// A figure with links to its files, which lie beside the page.
fn figure_html(figure: &Figure) -> String {
    let name = figure.name;
    let links = ["svg", "pdf", "png", "csv"]
        .map(|ending| format!("<a href=\"{name}.{ending}\">{ending}</a>"));
    format!(
        "<figure id=\"{name}\">\n{}<figcaption>{name}: {}</figcaption>\n</figure>\n",
        figure.svg,
        links.join(" ")
    )
}

fn section_html(section: &Section) -> String {
    let mut text = format!("<section>\n<h3>{}</h3>\n", escape(&section.heading));
    for paragraph in &section.paragraphs {
        let _ = writeln!(text, "<p>{}</p>", escape(paragraph));
    }
    if !section.columns.is_empty() {
        text.push_str(&Table::of(section).html());
    }
    text + "</section>\n"
}

fn guide() -> String {
    let mut text = String::from(
        "<section id=\"guide\">\n<h2>How to read this</h2>\n<dl class=\"guide\">\n",
    );
    for (term, meaning) in GUIDE {
        let _ = writeln!(text, "<dt>{}</dt><dd>{}</dd>", escape(term), escape(meaning));
    }
    text + "</dl>\n</section>\n"
}

/// Every column of `run.csv`, one table column for each process.
fn provenance(campaign: &Campaign) -> String {
    let Some(first) = campaign.runs.first() else { return String::new() };
    let names: Vec<&str> = first.fields().iter().map(|(name, _)| name.as_str()).collect();
    let cells =
        |of: &dyn Fn(&str) -> String| names.iter().map(|n| Cell::text(of(n))).collect();
    let mut columns = vec![Column::new("column", cells(&|name| name.to_owned()))];
    for (at, run) in campaign.runs.iter().enumerate() {
        let value = |run: &Run, name: &str| run.get(name).unwrap_or("").to_owned();
        let heading = format!("process {}", at + 1);
        columns.push(Column::new(heading, cells(&|name| value(run, name))));
    }
    let caption = "run.csv: what each process said of itself".to_owned();
    let table = Table { caption, is_titled: false, columns, row_attributes: Vec::new() };
    format!(
        "<section id=\"provenance\">\n<h2>Provenance</h2>\n{}</section>\n",
        table.html()
    )
}
