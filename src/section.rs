//! A piece of a report: prose and a table, for the terminal, CSV, JSON and
//! and HTML.

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

impl Section {
    /// Says in the heading that the numbers were made up or counted, and not measured.
    pub fn mark_simulated(&mut self) {
        self.heading.push_str(" (SIMULATED)");
    }

    /// Says once, in a paragraph, what the first columns have in common in all of several
    /// rows, instead of in each.
    pub fn say_once(&mut self, first_columns: usize) {
        let Some((first, rest)) = self.rows.split_first() else { return };
        if rest.is_empty() {
            return;
        }
        let is_common = |at: usize| rest.iter().all(|row| row.get(at) == first.get(at));
        let common: Vec<usize> = (0..first_columns.min(self.columns.len()))
            .filter(|&at| is_common(at))
            .collect();
        let said = common.iter().filter(|&&at| !first[at].is_empty());
        let said: Vec<String> =
            said.map(|&at| format!("{}: {}", self.columns[at], first[at])).collect();
        for &at in common.iter().rev() {
            self.columns.remove(at);
            self.rows.iter_mut().for_each(|row| drop(row.remove(at)));
        }
        if !said.is_empty() {
            self.paragraphs.push(format!("All rows: {}.", said.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rows_have_in_common_is_said_once() {
        let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
        let mut section = Section {
            columns: vec!["model", "batch", "empty", "time"],
            rows: vec![row(["a", "1", "", "5"]), row(["a", "2", "", "5"])],
            ..Section::default()
        };
        section.say_once(3);
        assert_eq!(section.columns, ["batch", "time"]);
        assert_eq!(section.rows, [["1", "5"], ["2", "5"]]);
        assert_eq!(section.paragraphs, ["All rows: model: a."]);
        let mut one =
            Section { rows: vec![row(["a", "1", "", "5"])], ..Section::default() };
        one.columns = vec!["model", "batch", "empty", "time"];
        one.say_once(3);
        assert_eq!(one.columns.len(), 4);
    }
}
