//! Reading `samples.csv`: the times of every row, without holding the file in memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;

use super::Unreadable;

/// Repeat and round, and seconds of one launch in each of its samples.
type RoundTimes = ((u32, u32), Vec<f64>);

/// Seconds of one launch in each sample, by row and round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleTimes {
    /// By point: repeat and round with their times, in this order. Campaigns may have many
    /// points, and each has few rounds.
    by_row: HashMap<String, Vec<RoundTimes>>,
    /// Values of the file that cannot be read. Such a line is not among the times.
    pub unreadable: Vec<Unreadable>,
}

/// Places of the columns that times are read from.
struct Columns {
    point_id: usize,
    repeat: usize,
    launches: usize,
    elapsed_s: usize,
    /// Versions before rounds did not write it.
    round: Option<usize>,
    run_id: Option<usize>,
}

const NAMES: [&str; 4] = ["point_id", "repeat", "launches", "elapsed_s"];

impl SampleTimes {
    /// Reads the samples of a campaign; `None` when it has neither `samples.csv` nor
    /// `samples.csv.gz`, into which people compress it to share it. A torn last
    /// line is left out, and so is a line that cannot be read.
    ///
    /// # Errors
    /// A file that is there and cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        Ok(Self::read_groups(folder, 1, &HashMap::new())?.and_then(|mut all| all.pop()))
    }

    /// The same in groups of processes: `group_of` says which, by `run_id`. Samples of other
    /// processes, and what cannot be read, are of the first group.
    ///
    /// # Errors
    /// A file that is there and cannot be read.
    pub fn read_groups(
        folder: &Path,
        groups: usize,
        group_of: &HashMap<String, usize>,
    ) -> Result<Option<Vec<Self>>> {
        let mut times = None;
        // A campaign that is resumed after it was compressed has both.
        for name in ["samples.csv.gz", "samples.csv"] {
            let path = folder.join(name);
            if !path.exists() {
                continue;
            }
            let times = times.get_or_insert_with(|| vec![SampleTimes::default(); groups]);
            let read = File::open(&path).and_then(|file| match name.ends_with(".gz") {
                true => add(times, group_of, BufReader::new(MultiGzDecoder::new(file))),
                false => add(times, group_of, BufReader::new(file)),
            });
            read.with_context(|| format!("cannot read {}", path.display()))?;
        }
        Ok(times)
    }

    /// Seconds of one launch in each sample of a row, in the order taken, by round; none
    /// when there are no samples of it.
    pub fn of_row(
        &self,
        point_id: &str,
        repeat: u32,
    ) -> impl Iterator<Item = (u32, &[f64])> {
        let rounds = self.by_row.get(point_id).into_iter().flatten();
        rounds
            .filter(move |((of, _), _)| *of == repeat)
            .map(|((_, round), times)| (*round, times.as_slice()))
    }

    fn take(&mut self, text: &str, line: u64, columns: &Columns) {
        match columns.sample(text, line) {
            Ok((point_id, key, seconds)) => {
                if !self.by_row.contains_key(point_id) {
                    self.by_row.insert(point_id.to_owned(), Vec::new());
                }
                let Some(rounds) = self.by_row.get_mut(point_id) else { return };
                // Samples of a round stand together, and rounds mostly in their order.
                match rounds.binary_search_by_key(&key, |(key, _)| *key) {
                    Ok(at) => rounds[at].1.push(seconds),
                    Err(at) => rounds.insert(at, (key, vec![seconds])),
                }
            }
            Err(value) => self.unreadable.push(value),
        }
    }
}

/// Takes in a file.
fn add(
    groups: &mut [SampleTimes],
    group_of: &HashMap<String, usize>,
    mut file: impl BufRead,
) -> std::io::Result<()> {
    let (mut line, mut number) = (Vec::new(), 0);
    let mut columns: Option<Columns> = None;
    while file.read_until(b'\n', &mut line)? > 0 {
        // A process was killed while it wrote the last line.
        let Some(text) = line.strip_suffix(b"\n") else { break };
        let text = String::from_utf8_lossy(text.strip_suffix(b"\r").unwrap_or(text));
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
        number += 1;
        match (&columns, number) {
            (Some(columns), _) => {
                let known = || group_of.get(columns.run_id(text)?).copied();
                let group = if groups.len() > 1 { known().unwrap_or(0) } else { 0 };
                groups[group].take(text, number, columns);
            }
            (None, 1) => match Columns::of(text) {
                Ok(found) => columns = Some(found),
                Err(missing) => groups[0].unreadable.push(missing),
            },
            (None, _) => break,
        }
        line.clear();
    }
    Ok(())
}

impl Columns {
    fn of(header: &str) -> Result<Self, Unreadable> {
        let names: Vec<&str> = cells(header).collect();
        let place = |name: &str| names.iter().position(|column| *column == name);
        match NAMES.map(place) {
            [Some(point_id), Some(repeat), Some(launches), Some(elapsed_s)] => {
                let round = place("round");
                let run_id = place("run_id");
                Ok(Columns { point_id, repeat, launches, elapsed_s, round, run_id })
            }
            places => {
                let missing = NAMES.iter().zip(places).find(|(_, place)| place.is_none());
                Err(unreadable(
                    1,
                    missing.map_or("", |(name, _)| name),
                    "",
                    "the file does not have this column",
                ))
            }
        }
    }

    fn run_id<'a>(&self, text: &'a str) -> Option<&'a str> {
        cells(text).nth(self.run_id?)
    }

    /// Point, repeat and round, and seconds of one launch.
    fn sample<'a>(
        &self,
        text: &'a str,
        line: u64,
    ) -> Result<(&'a str, (u32, u32), f64), Unreadable> {
        let cells: Vec<&str> = cells(text).collect();
        let cell = |place: usize| cells.get(place).copied().unwrap_or_default();
        let refuse = |name, place, why| Err(unreadable(line, name, cell(place), why));
        let Ok(repeat) = cell(self.repeat).parse() else {
            return refuse("repeat", self.repeat, "not a whole number");
        };
        let Ok(round) = self.round.map_or(Ok(0), |place| cell(place).parse()) else {
            let place = self.round.unwrap_or_default();
            return refuse("round", place, "not a whole number");
        };
        let launches = match cell(self.launches).parse::<u64>() {
            Ok(launches) if launches > 0 => launches,
            _ => return refuse("launches", self.launches, "not a whole number above 0"),
        };
        match cell(self.elapsed_s).parse::<f64>() {
            Ok(elapsed_s) if elapsed_s.is_finite() && elapsed_s >= 0.0 => {
                let seconds = elapsed_s / launches as f64;
                Ok((cell(self.point_id), (repeat, round), seconds))
            }
            _ => refuse("elapsed_s", self.elapsed_s, "not a number of 0 or more"),
        }
    }
}

/// What some programs begin a text file with.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The cells of a line. No value of this file needs quotes, and some programs write them.
fn cells(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(|cell| {
        let inner = cell.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        inner.unwrap_or(cell)
    })
}

fn unreadable(line: u64, column: &str, value: &str, why: &str) -> Unreadable {
    Unreadable {
        file: "samples.csv",
        line,
        column: Some(column.to_owned()),
        value: value.to_owned(),
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(text: &str) -> SampleTimes {
        let mut times = vec![SampleTimes::default()];
        add(&mut times, &HashMap::new(), text.as_bytes()).unwrap();
        times.remove(0)
    }

    #[test]
    fn compressed_samples_are_read_before_others() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(SampleTimes::read(folder.path()).unwrap(), None);
        let first = format!("{HEADER}\nr,a,0,0,0,2,0.5\n");
        let file = File::create(folder.path().join("samples.csv.gz")).unwrap();
        let mut gz = flate2::write::GzEncoder::new(file, flate2::Compression::default());
        gz.write_all(first.as_bytes()).unwrap();
        gz.finish().unwrap();
        let only = SampleTimes::read(folder.path()).unwrap().unwrap();
        assert_eq!(only, read(&first));
        let second = format!("{HEADER}\nr,a,0,1,0,1,3\n");
        std::fs::write(folder.path().join("samples.csv"), second).unwrap();
        let both = SampleTimes::read(folder.path()).unwrap().unwrap();
        assert_eq!(row(&both, "a", 0), [(0, vec![0.25, 3.0])]);
        std::fs::write(folder.path().join("samples.csv.gz"), "no gzip").unwrap();
        let error = format!("{:#}", SampleTimes::read(folder.path()).unwrap_err());
        assert!(error.contains("samples.csv.gz"), "{error}");
    }

    fn row(times: &SampleTimes, point_id: &str, repeat: u32) -> Vec<(u32, Vec<f64>)> {
        let rounds = times.of_row(point_id, repeat);
        rounds.map(|(round, times)| (round, times.to_vec())).collect()
    }

    const HEADER: &str =
        "run_id,point_id,repeat,sample_index,first_slot,launches,elapsed_s";

    #[test]
    fn samples_are_times_of_one_launch_by_row() {
        let times =
            read(&format!("{HEADER}\nr,a,0,0,0,2,0.5\nr,b,0,0,0,1,3\nr,a,0,1,0,4,2\n"));
        assert_eq!(row(&times, "a", 0), [(0, vec![0.25, 0.5])]);
        assert_eq!(row(&times, "b", 0), [(0, vec![3.0])]);
        assert_eq!((row(&times, "a", 1).len(), row(&times, "c", 0).len()), (0, 0));
        let header = format!("{HEADER},round");
        let rounds = read(&format!("{header}\nr,a,0,0,0,2,0.5,1\nr,a,0,0,0,1,3,0\n"));
        assert_eq!(row(&rounds, "a", 0), [(0, vec![3.0]), (1, vec![0.25])]);
        assert!(times.unreadable.is_empty());
    }

    #[test]
    fn a_torn_last_line_is_left_out() {
        let times = read(&format!("{HEADER}\r\nr,a,0,0,0,2,0.5\r\nr,a,0,1,0,2,0."));
        assert_eq!(row(&times, "a", 0), [(0, vec![0.25])]);
        assert!(times.unreadable.is_empty(), "{:?}", times.unreadable);
    }

    #[test]
    fn a_value_that_cannot_be_read_costs_its_line_alone() {
        let lines = "r,a,0,0,0,0,0.5\nr,a,0,0,0,1,-1\nr,a,x,0,0,1,1\nr,a\nr,a,0,0,0,2,1\n";
        let times = read(&format!("{HEADER}\n{lines}"));
        assert_eq!(row(&times, "a", 0), [(0, vec![0.5])]);
        let told: Vec<String> = times.unreadable.iter().map(|u| u.to_string()).collect();
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(
            told[0].starts_with("samples.csv line 2, column launches: `0`"),
            "{told:?}"
        );
        assert!(told[1].starts_with("samples.csv line 3, column elapsed_s: `-1`"));
        assert!(told[2].starts_with("samples.csv line 4, column repeat: `x`"));
        let without = read(&HEADER.replace("launches", "count")).unreadable;
        assert!(without.is_empty(), "a header without its line end is torn");
        let without = read(&format!("{}\nr,a\n", HEADER.replace("launches", "count")));
        assert_eq!(without.unreadable.len(), 1);
        let told = without.unreadable[0].to_string();
        assert!(told.starts_with("samples.csv line 1, column launches"), "{told}");
    }
}
