//! Printing of tables as text, CSV or JSON.

mod width;

use anyhow::Result;
use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle};
use serde_json::{Map, Value};

use self::width::{fit, wrap};
use super::options::OutputFormat;
use crate::output;
use crate::section::{Section, ShownColumn};

/// Prints tables of data to standard output: as CSV and JSON as they are, on a terminal as
/// people read them.
pub fn print(sections: &[Section], format: OutputFormat) -> Result<()> {
    match format {
        OutputFormat::Table => {
            print_shown(sections, Section::for_people, " or --format csv")
        }
        OutputFormat::Csv => output::print(&csv_tables(sections)?),
        OutputFormat::Json => output::print(&(json_tables(sections)? + "\n")),
    }
}

/// Prints tables that are made for people to standard output.
pub fn print_text(sections: &[Section]) -> Result<()> {
    print_shown(sections, Section::as_written, "")
}

/// Prints tables of data as people read them, where other formats are other tables.
pub fn print_for_people(sections: &[Section]) -> Result<()> {
    print_shown(sections, Section::for_people, "")
}

/// `or_else` says what shows all columns beside a wider terminal.
fn print_shown(
    sections: &[Section],
    columns: fn(&Section) -> Vec<ShownColumn>,
    or_else: &str,
) -> Result<()> {
    let text = |section| text_table(section, columns(section), or_else);
    output::print(&sections.iter().map(text).collect::<Vec<_>>().join("\n"))
}

/// Prints a CSV table as it is, or as a JSON array of objects.
pub fn print_csv(text: &str, format: OutputFormat) -> Result<()> {
    if format != OutputFormat::Json {
        return output::print(text);
    }
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers()?.clone();
    let rows = reader.records().collect::<Result<Vec<_>, _>>()?;
    let objects = json_rows(&header.iter().collect::<Vec<_>>(), &rows, |row, at| &row[at]);
    output::print(&(serde_json::to_string_pretty(&objects)? + "\n"))
}

/// What the cells of a column are.
#[derive(Clone, Copy, PartialEq)]
enum CellKind {
    Flags,
    Numbers,
    Words,
}

impl CellKind {
    /// Of a column: one kind for all of its cells, but for empty ones. Names of things may
    /// have digits only.
    fn of<'a>(column: &str, cells: impl Iterator<Item = &'a str> + Clone) -> Self {
        let mut cells = cells.filter(|cell| !cell.is_empty());
        let is_name = ["id", "hash"].iter().any(|end| column.ends_with(end));
        let is_number = |cell: &str| cell.parse::<f64>().is_ok_and(f64::is_finite);
        if cells.clone().all(|cell| ["true", "false"].contains(&cell)) {
            CellKind::Flags
        } else if !is_name && cells.all(is_number) {
            CellKind::Numbers
        } else {
            CellKind::Words
        }
    }

    fn json(self, cell: &str) -> Value {
        match self {
            _ if cell.is_empty() => Value::Null,
            CellKind::Flags => Value::Bool(cell == "true"),
            CellKind::Words => cell.into(),
            CellKind::Numbers => match (cell.parse::<u64>(), cell.parse::<f64>()) {
                (Ok(whole), _) => whole.into(),
                // There is one zero.
                (_, Ok(number)) => (number + 0.0).into(),
                (_, Err(_)) => cell.into(),
            },
        }
    }
}

/// Rows as JSON objects, with an empty cell as null.
fn json_rows<'a, T: 'a>(
    columns: &[&str],
    rows: &'a [T],
    cell: impl Fn(&'a T, usize) -> &'a str + Copy,
) -> Vec<Value> {
    let kind = |(at, name): (usize, &&str)| {
        CellKind::of(name, rows.iter().map(move |row| cell(row, at)))
    };
    let kinds: Vec<CellKind> = columns.iter().enumerate().map(kind).collect();
    let object = |row: &'a T| {
        let cells = columns.iter().zip(&kinds).enumerate();
        cells
            .map(|(at, (name, kind))| ((*name).to_owned(), kind.json(cell(row, at))))
            .collect()
    };
    rows.iter().map(|row| Value::Object(object(row))).collect()
}

/// Characters in a line: as COLUMNS says, or the terminal; `None` where neither does.
fn line_width() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok().and_then(|text| text.trim().parse().ok());
    let of_terminal = || console::Term::stdout().size_checked().map(|(_, columns)| columns);
    said.or_else(of_terminal).filter(|columns| *columns > 0).map(usize::from)
}

/// Characters in a line of a page, where there is no terminal.
const PAGE: usize = 150;

fn text_table(section: &Section, mut columns: Vec<ShownColumn>, or_else: &str) -> String {
    let said = section.say_once(&mut columns);
    // Nothing to see.
    columns.retain(|column| {
        section.rows.is_empty() || column.cells.iter().any(|c| !c.is_empty())
    });
    let fitted = fit(columns, section.spare, line_width().unwrap_or(PAGE));
    let mut paragraphs = section.paragraphs.clone();
    paragraphs.extend(said);
    if !fitted.left_out.is_empty() {
        paragraphs.push(format!(
            "Left out: {}; a wider terminal{or_else} shows all columns.",
            fitted.left_out.join(", ")
        ));
    }
    let mut text = format!("{}\n", section.heading);
    for paragraph in &paragraphs {
        // Lines of a file or a pipe are left to whoever reads them.
        let one_line = || paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines = line_width().map(|width| wrap(&one_line(), width));
        text.push_str(&format!("{}\n", lines.as_ref().unwrap_or(paragraph)));
    }
    let mut table = Table::new();
    let line = LineStyle::none().fill('─').junction('─');
    table
        .load_style(TableStyle::new().header_separator(line))
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(
            fitted.columns.iter().map(|(column, width)| wrap(&column.heading, *width)),
        );
    for at in 0..section.rows.len() {
        let cell = |(column, width): &(ShownColumn, usize)| wrap(&column.cells[at], *width);
        table.add_row(fitted.columns.iter().map(cell));
    }
    format!("{text}{table}\n")
}

/// The table of a section in Markdown, cells as people read them.
pub fn markdown(section: &Section) -> String {
    let mut columns = section.for_people();
    // Nothing to see.
    columns.retain(|column| column.cells.iter().any(|cell| !cell.is_empty()));
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let headings = columns.iter().map(|column| markdown_text(&column.heading));
    let mut text = line(headings.collect());
    text.push_str(&line(columns.iter().map(|_| "---".to_owned()).collect()));
    for at in 0..section.rows.len() {
        text.push_str(&line(columns.iter().map(|c| markdown_text(&c.cells[at])).collect()));
    }
    text
}

/// A text whose signs have no meaning in Markdown.
pub fn markdown_text(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '|' | '*' | '_' | '`' | '<' | '>' | '[' | ']' | '\\' | '#' => {
                escaped.extend(['\\', c]);
            }
            '\n' | '\r' => escaped.push(' '),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// Sections as CSV. Several sections have different columns, so each has a header of its
/// own, and an empty line is between them.
fn csv_tables(sections: &[Section]) -> Result<String> {
    let mut parts = Vec::new();
    for section in sections {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(&section.columns)?;
        for row in &section.rows {
            writer.write_record(row)?;
        }
        parts.push(String::from_utf8(writer.into_inner()?)?);
    }
    Ok(parts.join("\n"))
}

fn json_tables(sections: &[Section]) -> Result<String> {
    Ok(serde_json::to_string_pretty(&sections.iter().map(json).collect::<Vec<_>>())?)
}

/// A table of data with its heading and notes.
pub fn json(section: &Section) -> Value {
    let mut table = Map::new();
    table.insert("heading".to_owned(), section.heading.clone().into());
    table.insert("notes".to_owned(), section.paragraphs.clone().into());
    let rows = json_rows(&section.columns, &section.rows, |row, at| &row[at]);
    table.insert("rows".to_owned(), rows.into());
    Value::Object(table)
}

/// Prints a JSON document.
pub fn print_json(document: &Value) -> Result<()> {
    output::print(&(serde_json::to_string_pretty(document)? + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(columns: &[&'static str], rows: &[&[&str]]) -> Section {
        let row = |cells: &&[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        Section {
            columns: columns.to_vec(),
            rows: rows.iter().map(row).collect(),
            ..Section::default()
        }
    }

    #[test]
    fn a_column_has_one_kind_of_json_value() {
        let columns = ["id", "fits", "count", "x_s", "word", "none"];
        let rows: [&[&str]; 2] = [
            &["12", "true", "18446744073709551615", "-0", "7", ""],
            &["", "", "", "1.5", "a", ""],
        ];
        let json = json_tables(&[section(&columns, &rows)]).unwrap();
        let json: Value = serde_json::from_str(&json).unwrap();
        let [first, second] = [&json[0]["rows"][0], &json[0]["rows"][1]];
        assert_eq!(first["id"], "12");
        assert_eq!((&first["fits"], &second["fits"]), (&true.into(), &Value::Null));
        assert_eq!(first["count"], u64::MAX);
        assert_eq!(first["x_s"].to_string(), "0.0");
        assert_eq!(first["word"], "7");
        assert_eq!(first["none"], Value::Null);
    }
}
