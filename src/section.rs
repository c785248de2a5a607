//! A piece of a report: prose and a table, for the terminal, CSV, JSON and
//! HTML alike.

/// A heading, paragraphs and a table. Plain text: who prints it escapes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// What it is about.
    pub heading: String,
    /// Prose before the table.
    pub paragraphs: Vec<String>,
    /// Column names; no table when empty.
    pub columns: Vec<&'static str>,
    /// Rows of the table, one cell for each column.
    pub rows: Vec<Vec<String>>,
}
