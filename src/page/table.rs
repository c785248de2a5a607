//! Tables of the page. They are whole without the script, which makes them sort and filter.

use std::fmt::Write;

use crate::plot::escape;
use crate::section::Section;

/// Characters of a text that stays on one line.
const SHORT: usize = 28;

/// A cell: what is read, and the number that it is sorted by where that is not what it says.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    /// As people read it.
    pub text: String,
    /// The number behind it, in SI units.
    pub value: Option<f64>,
}

impl Cell {
    /// A text without a number of its own.
    pub fn text(text: impl Into<String>) -> Self {
        Cell { text: text.into(), value: None }
    }

    /// A number as people read it.
    pub fn number(text: impl Into<String>, value: f64) -> Self {
        Cell { text: text.into(), value: Some(value) }
    }
}

/// A column.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its heading.
    pub heading: String,
    /// Whether readers see it before they ask for it.
    pub is_shown: bool,
    /// One cell for each row.
    pub cells: Vec<Cell>,
}

impl Column {
    /// A column that is shown.
    pub fn new(heading: impl Into<String>, cells: Vec<Cell>) -> Self {
        Column { heading: heading.into(), is_shown: true, cells }
    }

    /// How its cells are set: numbers to the right, short texts on one line.
    fn class(&self) -> &'static str {
        let is_short = |cell: &Cell| cell.text.chars().count() <= SHORT;
        match self.is_numeric() {
            true => " class=\"n\"",
            false if self.cells.iter().all(is_short) => " class=\"s\"",
            false => "",
        }
    }

    fn is_numeric(&self) -> bool {
        let is_number = |cell: &Cell| {
            cell.text.is_empty() || cell.value.is_some() || cell.text.parse::<f64>().is_ok()
        };
        self.cells.iter().all(is_number)
            && self.cells.iter().any(|cell| !cell.text.is_empty())
    }
}

/// A table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// What it shows, in a sentence; read aloud before its cells.
    pub caption: String,
    /// Whether a heading above it says the same, so that the caption is for screen readers.
    pub is_titled: bool,
    /// Its columns, all of one length.
    pub columns: Vec<Column>,
    /// Attributes of each row; fewer where the last have none.
    pub row_attributes: Vec<String>,
}

impl Table {
    /// A section's table, with units in cells and the raw numbers to sort by.
    pub fn of(section: &Section) -> Self {
        let raw = |name: &str| section.columns.iter().position(|column| *column == name);
        let column = |shown: crate::section::ShownColumn| {
            let at = raw(shown.name);
            let cells = shown.cells.into_iter().zip(&section.rows).map(|(text, row)| {
                let value = at.and_then(|at| row.get(at)?.parse().ok());
                Cell { text, value: value.filter(|value: &f64| value.is_finite()) }
            });
            Column::new(shown.heading, cells.collect())
        };
        Table {
            caption: section.heading.clone(),
            is_titled: true,
            columns: section.for_people().into_iter().map(column).collect(),
            row_attributes: Vec::new(),
        }
    }

    /// The element. Columns that are not shown at first are there all the same.
    pub fn html(&self) -> String {
        let caption = escape(&self.caption);
        let quiet = if self.is_titled { " class=\"quiet\"" } else { "" };
        let rows = self.columns.iter().map(|column| column.cells.len()).max().unwrap_or(0);
        let mut text = format!(
            "<div class=\"table\"><div class=\"scroll\" role=\"region\" tabindex=\"0\" \
             aria-label=\"{caption}\">\n<table>\n<caption{quiet}>{caption}</caption>\n<thead><tr>"
        );
        let classes: Vec<&str> = self.columns.iter().map(Column::class).collect();
        for (column, class) in self.columns.iter().zip(&classes) {
            let spare = if column.is_shown { "" } else { " data-spare" };
            let heading = escape(&column.heading);
            let _ = write!(text, "<th scope=\"col\"{class}{spare}>{heading}</th>");
        }
        text.push_str("</tr></thead>\n<tbody>\n");
        for row in 0..rows {
            let attributes = self.row_attributes.get(row).map_or("", String::as_str);
            let _ = write!(text, "<tr{attributes}>");
            for (column, class) in self.columns.iter().zip(&classes) {
                let cell = column.cells.get(row).cloned().unwrap_or_default();
                let is_plain = cell.text.parse::<f64>().is_ok();
                let value = cell.value.filter(|_| !is_plain);
                let value = value.map_or(String::new(), |v| format!(" data-v=\"{v:e}\""));
                let _ = write!(text, "<td{class}{value}>{}</td>", escape(&cell.text));
            }
            text.push_str("</tr>\n");
        }
        text + "</tbody>\n</table></div></div>\n"
    }
}
