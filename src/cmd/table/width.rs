//! Which columns of a table have room on a terminal, and how wide each is. Neither a number
//! nor a word of a heading is ever broken: where there is no room for all columns, some are
//! left out.

use crate::section::ShownColumn;

/// Blanks beside the cells of a column, and one between it and the next.
const PADDING: usize = 3;

/// Prose narrower than this is tiring to read: other columns are left out first.
const READABLE: usize = 16;

/// Longest piece of a cell that asks for room; longer words are cut.
const LONGEST: usize = 24;

/// After these a word may be broken: spellings of problems are long.
const BREAKS: [char; 5] = [',', ':', ';', '@', '/'];

/// Columns with their widths.
#[derive(Debug)]
pub struct Fitted {
    /// The columns that are shown, with their widths without padding.
    pub columns: Vec<(ShownColumn, usize)>,
    /// Headings of the others.
    pub left_out: Vec<String>,
}

/// Chooses columns for a terminal of so many characters. Of those that may be left out the
/// first of `spare` goes first; then, from the right, those before the last, which says what
/// was found or why nothing was.
pub fn fit(mut columns: Vec<ShownColumn>, spare: &[&str], terminal: usize) -> Fitted {
    let mut left_out = Vec::new();
    let mut spare: Vec<&str> = spare.iter().rev().copied().collect();
    while needed(&columns) > terminal && columns.len() > 2 {
        let named = spare.pop();
        let at = match named {
            Some(name) => columns.iter().position(|column| column.name == name),
            None => Some(columns.len() - 2),
        };
        if let Some(at) = at {
            left_out.push(columns.remove(at).heading);
        }
    }
    left_out.reverse();
    let widths = widths(&columns, terminal);
    Fitted { columns: columns.into_iter().zip(widths).collect(), left_out }
}

/// Characters that columns need at the least.
fn needed(columns: &[ShownColumn]) -> usize {
    columns.iter().map(|column| PADDING + least(column)).sum()
}

/// The narrowest that a column may be.
fn least(column: &ShownColumn) -> usize {
    let of_heading = column.heading.split(' ').map(length).max();
    let of_cells = column.cells.iter().flat_map(|cell| pieces(cell)).map(|piece| {
        let length = length(piece.trim_end());
        if is_number(piece) { length } else { length.min(LONGEST) }
    });
    let longest = column.cells.iter().map(|cell| length(cell)).max().unwrap_or(0);
    let of_prose = longest.min(READABLE);
    of_heading.into_iter().chain(of_cells).max().unwrap_or(1).max(of_prose).max(1)
}

fn length(text: &str) -> usize {
    text.chars().count()
}

fn is_number(text: &str) -> bool {
    let digits = text.trim_start_matches(['-', '+', '[']);
    digits.starts_with(|c: char| c.is_ascii_digit())
}

/// The parts of a cell that stay whole: a number and its unit, a number, a word or, of a long
/// word, what lies between commas and the like. Each with the blanks behind it.
fn pieces(cell: &str) -> Vec<&str> {
    let words: Vec<&str> = cell.split_inclusive(' ').collect();
    if let [number, unit] = words[..]
        && is_number(number)
        && !is_number(unit)
    {
        return vec![cell];
    }
    let parts = |word| match is_number(word) || length(word) <= LONGEST {
        true => vec![word],
        false => word.split_inclusive(BREAKS).collect(),
    };
    words.into_iter().flat_map(parts).collect()
}

/// Divides a terminal among columns: each has what its pieces need, and what is left goes
/// to the narrowest of those that could use it.
fn widths(columns: &[ShownColumn], terminal: usize) -> Vec<usize> {
    let natural = |column: &ShownColumn| {
        let cells = column.cells.iter().map(|cell| length(cell));
        cells.chain([length(&column.heading)]).max().unwrap_or(1)
    };
    let natural: Vec<usize> = columns.iter().map(natural).collect();
    let mut widths: Vec<usize> = columns.iter().map(least).collect();
    let mut left = terminal.saturating_sub(needed(columns));
    while left > 0 {
        let wanting = (0..widths.len()).filter(|&at| widths[at] < natural[at]);
        let Some(at) = wanting.min_by_key(|&at| widths[at]) else { break };
        widths[at] += 1;
        left -= 1;
    }
    widths
}

/// A text in lines of at most so many characters.
pub fn wrap(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = vec![String::new()];
    for piece in pieces(text) {
        let mut rest = piece;
        let used = lines.last().map_or(0, |line| length(line));
        if used > 0 && used + length(piece.trim_end()) > width {
            lines.push(String::new());
        }
        while length(rest.trim_end()) > width && !is_number(rest) {
            let end = rest.char_indices().nth(width).map_or(rest.len(), |(at, _)| at);
            lines.last_mut().into_iter().for_each(|line| line.push_str(&rest[..end]));
            lines.push(String::new());
            rest = &rest[end..];
        }
        lines.last_mut().into_iter().for_each(|line| line.push_str(rest));
    }
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(name: &'static str, cells: &[&str]) -> ShownColumn {
        ShownColumn {
            name,
            heading: name.replace('_', " "),
            cells: cells.iter().map(|cell| (*cell).to_owned()).collect(),
        }
    }

    fn names(fitted: &Fitted) -> Vec<&str> {
        fitted.columns.iter().map(|(column, _)| column.name).collect()
    }

    #[test]
    fn columns_without_room_are_left_out_and_said() {
        let all = || {
            vec![
                column("batch", &["1"]),
                column("time", &["33.1 ms"]),
                column("memory", &["16.4 GB"]),
                column("tokens_per_second", &["12345"]),
                column("why", &["it does not fit into the memory"]),
            ]
        };
        let wide = fit(all(), &[], 200);
        assert_eq!((wide.columns.len(), wide.left_out.len()), (5, 0));
        assert_eq!(wide.columns[4].1, 31);
        let narrow = fit(all(), &[], 50);
        assert_eq!(names(&narrow), ["batch", "time", "memory", "why"]);
        assert_eq!(narrow.left_out, ["tokens per second"]);
        let spare = fit(all(), &["memory"], 50);
        assert_eq!(names(&spare), ["batch", "time", "tokens_per_second", "why"]);
        assert_eq!(names(&fit(all(), &[], 1)), ["batch", "why"]);
    }

    #[test]
    fn numbers_keep_their_digits_and_units() {
        assert_eq!(pieces("642 TFLOP/s"), ["642 TFLOP/s"]);
        assert_eq!(pieces("1 [2, 3] us"), ["1 ", "[2, ", "3] ", "us"]);
        assert_eq!(wrap("123456789", 4), "123456789");
        assert_eq!(wrap("one two three", 7), "one two\nthree");
        assert_eq!(wrap("abcdefgh", 3), "abc\ndef\ngh");
        let problem = "decode_attention:batch=1,context=8192,q_heads=32";
        assert_eq!(
            wrap(problem, 20),
            "decode_attention:\nbatch=1,\ncontext=8192,\nq_heads=32"
        );
    }

    proptest! {
        /// Every column that is shown has its heading's words and its numbers whole, and the
        /// table fits wherever two columns do.
        #[test]
        fn tables_fit(
            rows in prop::collection::vec(
                prop::collection::vec("[a-z]{1,30}|[0-9]{1,9}|[0-9]{1,3} [GM]B/s", 6), 1..5),
            terminal in 80usize..200,
        ) {
            let names = ["a_b", "long_heading", "x", "note", "tokens_per_s", "reason"];
            let columns = names.iter().enumerate().map(|(at, name)| {
                let cells: Vec<&str> = rows.iter().map(|row| row[at].as_str()).collect();
                column(name, &cells)
            });
            let fitted = fit(columns.collect(), &["x"], terminal);
            let wide: usize = fitted.columns.iter().map(|(_, width)| width + PADDING).sum();
            prop_assert!(wide <= terminal, "{wide} of {terminal}");
            prop_assert_eq!(fitted.columns.len() + fitted.left_out.len(), 6);
            for (column, width) in &fitted.columns {
                prop_assert!(column.heading.split(' ').all(|word| word.len() <= *width));
                for cell in &column.cells {
                    let lines = wrap(cell, *width);
                    prop_assert!(lines.lines().all(|line| line.chars().count() <= *width));
                    prop_assert!(!is_number(cell) || !lines.contains('\n'), "{lines}");
                }
            }
        }
    }
}
