//! A piece of a report: prose and a table, for the terminal, CSV, JSON and
//! HTML.

use crate::quantity;

/// A heading, paragraphs and a table. Plain text: who prints it escapes it.
///
/// Where a table is data (CSV, JSON), its columns have names of their own with SI units at
/// their ends, and a cell is one number, one word or one sentence; [`Section::for_people`]
/// makes of it what a terminal shows.
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
    /// How many of the first columns say what a row is about. What they have in common is
    /// said once on a terminal.
    pub keys: usize,
    /// Columns that a narrow terminal can do without, the first of them first.
    pub spare: &'static [&'static str],
}

/// A column as a terminal shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownColumn {
    /// Its name in the section.
    pub name: &'static str,
    /// Its heading.
    pub heading: String,
    /// Its cells, one for each row.
    pub cells: Vec<String>,
}

impl Section {
    /// Says in the heading that the numbers were made up or counted, and not measured.
    pub fn mark_simulated(&mut self) {
        self.heading.push_str(" (SIMULATED)");
    }

    /// The columns with headings and cells as people read them: units in the cells, with
    /// prefixes by their size, and a value with its interval (`x`, `x_lo`, `x_hi`) in one.
    pub fn for_people(&self) -> Vec<ShownColumn> {
        let mut columns = self.shown(quantity::heading, quantity::shown);
        let is_interval = |at: usize| match self.columns.get(at..at + 3) {
            Some([value, lo, hi]) => {
                lo.strip_suffix("_lo") == Some(value)
                    && hi.strip_suffix("_hi") == Some(value)
            }
            _ => false,
        };
        for at in (0..self.columns.len()).rev().filter(|&at| is_interval(at)) {
            let cell = |row: &Vec<String>| {
                let cells = [0, 1, 2].map(|end| row[at + end].as_str());
                quantity::shown_interval(self.columns[at], cells)
            };
            columns[at].cells = self.rows.iter().map(cell).collect();
            columns.drain(at + 1..at + 3);
        }
        columns
    }

    /// The section as people read it, for what has headings of any kind.
    pub fn table_for_people(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let columns = self.for_people();
        let row =
            |at: usize| columns.iter().map(|column| column.cells[at].clone()).collect();
        let rows = (0..self.rows.len()).map(row).collect();
        (columns.into_iter().map(|column| column.heading).collect(), rows)
    }

    /// The columns as they are.
    pub fn as_written(&self) -> Vec<ShownColumn> {
        self.shown(str::to_owned, |_, cell| cell.to_owned())
    }

    fn shown(
        &self,
        heading: fn(&str) -> String,
        shown: fn(&str, &str) -> String,
    ) -> Vec<ShownColumn> {
        let column = |(at, &name): (usize, &&'static str)| ShownColumn {
            name,
            heading: heading(name),
            cells: self.rows.iter().map(|row| shown(name, &row[at])).collect(),
        };
        self.columns.iter().enumerate().map(column).collect()
    }

    /// Takes out of the columns those keys that are the same in all rows, and returns what
    /// they say: `model: a, batch: 1`. One column stays.
    pub fn say_once(&self, columns: &mut Vec<ShownColumn>) -> Option<String> {
        let keys = self.columns.get(..self.keys.min(self.columns.len()))?;
        let mut said = Vec::new();
        for key in keys {
            let Some(at) = columns.iter().position(|column| column.name == *key) else {
                continue;
            };
            let column = &columns[at];
            let Some((first, rest)) = column.cells.split_first() else { continue };
            if columns.len() == 1 || rest.iter().any(|cell| cell != first) {
                continue;
            }
            if !first.is_empty() {
                said.push(format!("{}: {first}", column.heading));
            }
            columns.remove(at);
        }
        let whose = if self.rows.len() == 1 { "" } else { "All rows: " };
        (!said.is_empty()).then(|| format!("{whose}{}.", said.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(rows: &[[&str; 4]]) -> Section {
        Section {
            columns: vec!["model", "batch", "empty", "time_s"],
            rows: rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect(),
            keys: 3,
            ..Section::default()
        }
    }

    #[test]
    fn what_rows_have_in_common_is_said_once() {
        let two = section(&[["a", "1", "", "5"], ["a", "2", "", "5"]]);
        let mut columns = two.for_people();
        assert_eq!(two.say_once(&mut columns).unwrap(), "All rows: model: a.");
        let names: Vec<_> = columns.iter().map(|column| &column.heading).collect();
        assert_eq!(names, ["batch", "time"]);
        assert_eq!(columns[1].cells, ["5 s", "5 s"]);
        let one = section(&[["a", "1", "", "5"]]);
        let mut columns = one.for_people();
        assert_eq!(one.say_once(&mut columns).unwrap(), "model: a, batch: 1.");
        assert_eq!(columns.len(), 1);
        let with_interval = Section {
            columns: vec!["x", "share", "share_lo", "share_hi", "note"],
            rows: vec![["a", "0.5", "0.4", "0.6", "b"].map(str::to_owned).to_vec()],
            ..Section::default()
        };
        let (headings, rows) = with_interval.table_for_people();
        assert_eq!(headings, ["x", "share", "note"]);
        assert_eq!(rows, [["a", "50% [40%, 60%]", "b"]]);
        let none = section(&[]);
        assert_eq!(none.say_once(&mut none.for_people()), None);
    }
}
