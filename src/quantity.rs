//! Numbers as people read them: few digits, and a prefix by their size. Files have SI units
//! without prefixes, which the ends of columns' names say; tables and figures are made of
//! these here.

/// Three significant digits without an exponent, thousands apart: `0.05`,
/// `8.42`, `12,345`.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs().log10().floor() as i32;
    let decimals = (2 - magnitude).clamp(0, 12) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let mut grouped = String::new();
    for (i, c) in text.chars().enumerate() {
        let left = text.len() - i;
        if i > 0 && left % 3 == 0 && text.len() > 4 && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(c);
    }
    grouped
}

/// A quantity with an SI prefix: `31.2 GB/s`.
pub fn si(value: f64, unit: &str) -> String {
    let (factor, prefix) = prefix(value);
    format!("{} {prefix}{unit}", number(value / factor))
}

/// The SI prefix in which a value reads best.
pub fn prefix(value: f64) -> (f64, &'static str) {
    const PREFIXES: [(f64, &str); 10] = [
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
        (1.0, ""),
        (1e-3, "m"),
        (1e-6, "µ"),
        (1e-9, "n"),
        (1e-12, "p"),
    ];
    // 999.6 rounds to 1000, which reads better as 1 of the next prefix.
    let fits = |(factor, _): &(f64, &str)| value.abs() >= factor * 0.9995;
    PREFIXES.into_iter().find(fits).unwrap_or((1.0, ""))
}

/// A number of bytes with a binary prefix: `64 KiB`.
pub fn bytes(value: f64) -> String {
    const PREFIXES: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = value;
    let mut prefix = 0;
    while value >= 1023.5 && prefix + 1 < PREFIXES.len() {
        value /= 1024.0;
        prefix += 1;
    }
    format!("{} {}", number(value), PREFIXES[prefix])
}

/// A count, with K and M for whole multiples of 1024: `1000`, `32K`.
pub fn count(value: f64) -> String {
    for (factor, suffix) in [(1_048_576.0, "M"), (1024.0, "K")] {
        if value >= factor && value % factor == 0.0 {
            return format!("{}{suffix}", number(value / factor));
        }
    }
    number(value)
}

/// A share as a percentage: `64%`, `7.2%`, `0.04%`.
pub fn share(value: f64) -> String {
    format!("{}%", number(100.0 * value))
}

/// What the cells of a column are, as its name says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    /// Of this SI unit, which takes prefixes.
    Scaled(&'static str),
    /// Of this unit, which takes none.
    Plain(&'static str),
    /// A part of 1.
    Share,
    /// A count, or a ratio of equals.
    Bare,
}

/// Units by the words that stand for them where a name ends.
const UNITS: [(&str, &str); 7] = [
    ("bytes", "B"),
    ("flops", "FLOP"),
    ("s", "s"),
    ("hz", "Hz"),
    ("j", "J"),
    ("w", "W"),
    ("bits", "bit"),
];

/// Rates and the like, by the ends of names.
const QUOTIENTS: [(&str, Measure); 3] = [
    ("bytes_per_s", Measure::Scaled("B/s")),
    ("flops_per_s", Measure::Scaled("FLOP/s")),
    ("flops_per_byte", Measure::Plain("FLOP/B")),
];

impl Measure {
    fn of(column: &str) -> Self {
        if column == "share" || column.ends_with("_share") {
            return Measure::Share;
        }
        if column.contains("_per_") {
            let of_end = QUOTIENTS.iter().find(|(end, _)| column.ends_with(end));
            return of_end.map_or(Measure::Bare, |(_, measure)| *measure);
        }
        let is_bare = ["ratio", "elasticity"].iter().any(|end| column.ends_with(end));
        if is_bare || column.contains("_over_") {
            return Measure::Bare;
        }
        // `bytes_model` is of bytes too, but `s_max` of no seconds.
        let is_of = |unit: &str| {
            column.split('_').next_back() == Some(unit)
                || unit.len() > 4 && column.split('_').any(|word| word == unit)
        };
        match UNITS.iter().find(|(word, _)| is_of(word)) {
            None => Measure::Bare,
            // The width of a bus is said without prefix.
            Some((_, unit @ "bit")) => Measure::Plain(unit),
            Some((_, unit)) => Measure::Scaled(unit),
        }
    }
}

/// A cell of a column with few digits, and with its unit where the column's name says one:
/// `0.0331` of `time_s` is `33.1 ms`. What is no number stays as it is.
pub fn shown(column: &str, cell: &str) -> String {
    let Ok(value) = cell.parse::<f64>() else { return cell.to_owned() };
    match Measure::of(column) {
        _ if !value.is_finite() => cell.to_owned(),
        Measure::Scaled(unit) => si(value, unit),
        Measure::Plain(unit) => format!("{} {unit}", number(value)),
        Measure::Share => share(value),
        Measure::Bare if value.fract() == 0.0 => cell.to_owned(),
        Measure::Bare => number(value),
    }
}

/// A value with the ends of its interval, four digits of it, all with one prefix:
/// `3.143 [3.094, 3.193] TB/s`.
pub fn interval([value, lo, hi]: [f64; 3], unit: &str) -> String {
    let (factor, prefix) = prefix(value);
    let digits = match (value / factor).abs() {
        size if size < 10.0 => 3,
        size if size < 100.0 => 2,
        _ => 1,
    };
    let [value, lo, hi] = [value, lo, hi].map(|x| format!("{:.digits$}", x / factor));
    format!("{value} [{lo}, {hi}] {prefix}{unit}").trim_end().to_owned()
}

/// The cells of a value of a column and of its interval in one.
pub fn shown_interval(column: &str, cells: [&str; 3]) -> String {
    let [Ok(value), Ok(lo), Ok(hi)] = cells.map(str::parse::<f64>) else {
        return shown(column, cells[0]);
    };
    match Measure::of(column) {
        Measure::Scaled(unit) => interval([value, lo, hi], unit),
        Measure::Plain(unit) => {
            let [value, lo, hi] = [value, lo, hi].map(number);
            format!("{value} [{lo}, {hi}] {unit}")
        }
        Measure::Share => {
            let [value, lo, hi] = [value, lo, hi].map(|x| format!("{:.0}%", 100.0 * x));
            format!("{value} [{lo}, {hi}]")
        }
        Measure::Bare => {
            let [value, lo, hi] = [value, lo, hi].map(|x| format!("{x:.3}"));
            format!("{value} [{lo}, {hi}]")
        }
    }
}

/// The name of a column for people: `step_cache_bytes` is `step cache`, since cells have
/// the unit.
pub fn heading(column: &str) -> String {
    let is_bare = Measure::of(column) == Measure::Bare;
    let quotient = QUOTIENTS.iter().map(|(end, _)| *end).find(|end| column.ends_with(end));
    let unit = UNITS.iter().map(|(word, _)| *word).chain(["share"]);
    let mut ends = quotient.into_iter().chain(unit.filter(|_| quotient.is_none()));
    let stripped = ends
        .find_map(|end| column.strip_suffix(end)?.strip_suffix('_'))
        .filter(|_| !is_bare);
    let words = stripped.unwrap_or(column).split('_').map(|word| match word {
        "oi" => "OI",
        "flops" => "FLOPs",
        "gpus" => "GPUs",
        "gpu" => "GPU",
        "sm" => "SM",
        "l2" => "L2",
        word => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let cases = [
            (0.1, "0.1"),
            (0.05, "0.05"),
            (8.4249, "8.42"),
            (31.25, "31.2"),
            (262.4, "262"),
            (1000.0, "1000"),
            (12345.0, "12,345"),
            (0.0, "0"),
            (-0.0, "0"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!(si(31.2e9, "B/s"), "31.2 GB/s");
        assert_eq!(si(999.9e9, "FLOP/s"), "1 TFLOP/s");
        assert_eq!(si(642_026.1e9, "FLOP/s"), "642 TFLOP/s");
        assert_eq!(si(1.25e-5, "s"), "12.5 µs");
        assert_eq!(bytes(503_316_480.0), "480 MiB");
        assert_eq!((count(32768.0), count(1000.0)), ("32K".into(), "1000".into()));
    }

    #[test]
    fn columns_say_the_unit_of_their_cells() {
        let cases = [
            ("memory_bus_bits", "5120", "memory bus", "5120 bit"),
            ("time_s", "0.0331", "time", "33.1 ms"),
            ("bytes", "128", "bytes", "128 B"),
            ("bytes_model", "3180000000", "bytes model", "3.18 GB"),
            ("streaming_bytes_per_s", "3.18e12", "streaming", "3.18 TB/s"),
            ("flops", "17200000", "FLOPs", "17.2 MFLOP"),
            ("oi_flops_per_byte", "15.97", "OI", "16 FLOP/B"),
            ("blocks_share", "0.0625", "blocks", "6.25%"),
            ("tokens_per_s", "12.345", "tokens per s", "12.3"),
            ("bytes_ratio", "1.0204", "bytes ratio", "1.02"),
            ("batch", "8192", "batch", "8192"),
            ("reason", "none", "reason", "none"),
            ("time_s", "", "time", ""),
        ];
        for (column, cell, name, text) in cases {
            assert_eq!(heading(column), name, "{column}");
            assert_eq!(shown(column, cell), text, "{column}");
        }
        let cells = ["3.1434e12", "3.09e12", "3.19e12"];
        let text = shown_interval("bandwidth_bytes_per_s", cells);
        assert_eq!(text, "3.143 [3.090, 3.190] TB/s");
        assert_eq!(shown_interval("read_share", ["0.39", "0.3", "0.41"]), "39% [30%, 41%]");
        assert_eq!(shown_interval("speed", ["1", "", ""]), "1");
    }
}
