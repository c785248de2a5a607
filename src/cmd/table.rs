//! Printing of tables as text, CSV or JSON.

use anyhow::Result;
use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle};

use super::options::OutputFormat;
use crate::output;
use crate::section::Section;

/// Prints sections to standard output.
pub fn print(sections: &[Section], format: OutputFormat) -> Result<()> {
    match format {
        OutputFormat::Table => {
            output::print(&sections.iter().map(text_table).collect::<Vec<_>>().join("\n"))
        }
        OutputFormat::Csv => output::print(&csv_tables(sections)?),
        OutputFormat::Json => output::print(&(json_tables(sections)? + "\n")),
    }
}

/// Prints a CSV table as it is, or as a JSON array of objects. A cell that parses as a
/// number becomes a number, and an empty cell becomes null.
pub fn print_csv(text: &str, format: OutputFormat) -> Result<()> {
    if format != OutputFormat::Json {
        return output::print(text);
    }
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers()?.clone();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record?;
        let cells = header.iter().zip(&record).map(|(name, value)| {
            // An id of digits only is not a number.
            let value = if name.ends_with("id") { value.into() } else { json_value(value) };
            (name.to_owned(), value)
        });
        rows.push(serde_json::Value::Object(cells.collect()));
    }
    output::print(&(serde_json::to_string_pretty(&rows)? + "\n"))
}

fn json_value(cell: &str) -> serde_json::Value {
    match cell.parse::<f64>() {
        _ if cell.is_empty() => serde_json::Value::Null,
        Ok(number) if number.is_finite() => number.into(),
        _ => cell.into(),
    }
}

/// Width of the terminal in characters, or of a wide page where there is no terminal.
fn width() -> u16 {
    console::Term::stdout().size_checked().map_or(150, |(_, columns)| columns)
}

fn text_table(section: &Section) -> String {
    let mut table = Table::new();
    let line = LineStyle::none().fill('─').junction('─');
    table
        .load_style(TableStyle::new().header_separator(line))
        .set_width(width())
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(section.columns.clone());
    for row in &section.rows {
        table.add_row(row);
    }
    let mut text = format!("{}\n", section.heading);
    for paragraph in &section.paragraphs {
        text.push_str(&format!("{paragraph}\n"));
    }
    format!("{text}{table}\n")
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
    let tables: Vec<_> = sections
        .iter()
        .map(|section| {
            let rows: Vec<_> = section
                .rows
                .iter()
                .map(|row| {
                    let cells = section.columns.iter().zip(row);
                    cells.map(|(c, v)| (c.to_string(), v.clone().into())).collect()
                })
                .map(serde_json::Value::Object)
                .collect();
            serde_json::json!({ "heading": section.heading, "rows": rows })
        })
        .collect();
    Ok(serde_json::to_string_pretty(&tables)?)
}
