//! Which points of a suite are wanted: conditions on what tells points apart.

use std::fmt;
use std::str::FromStr;

use crate::op::{Op, parse_bytes, shape_keys, unknown_key};
use crate::point::Point;

/// Keys of every point beside those of its problem: as suites spell them, and as columns of
/// `results.csv` do.
const OF_POINTS: [(&str, &str); 6] = [
    ("op", "op"),
    ("kernel", "kernel"),
    ("cache", "cache_state"),
    ("launch", "launch_mode"),
    ("load", "load"),
    ("id", "point_id"),
];

/// Conditions that a point must all meet: `op=decode_attention,batch>=8`.
///
/// Keys are those of points and problems, as suites or columns of `results.csv` spell them.
/// Values are compared as numbers where both are, sizes in bytes among them (`4 MiB`);
/// words are patterns, in which `*` stands for anything and `?` for one character. A key
/// that a problem leaves out has its default. What an operation has no key for meets `!=`
/// and nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    text: String,
    conditions: Vec<Condition>,
}

/// A filter and the line of a suite that it stands on.
#[derive(Clone, Debug)]
pub(super) struct FilterLine {
    pub filter: Filter,
    pub line: usize,
}

/// One condition.
#[derive(Clone, Debug, PartialEq)]
struct Condition {
    key: &'static str,
    operator: Comparison,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    NotEqual,
    AtMost,
    AtLeast,
    Equal,
    Below,
    Above,
}

impl Comparison {
    /// All, longer spellings first.
    const ALL: [(&str, Comparison); 7] = [
        ("!=", Comparison::NotEqual),
        ("<=", Comparison::AtMost),
        (">=", Comparison::AtLeast),
        ("==", Comparison::Equal),
        ("=", Comparison::Equal),
        ("<", Comparison::Below),
        (">", Comparison::Above),
    ];

    /// The operator that comes first in a condition: what is before it, it, what follows.
    fn split(condition: &str) -> Option<(&str, Comparison, &str)> {
        let at = condition.find(['!', '<', '>', '='])?;
        let (key, rest) = condition.split_at(at);
        let found = Comparison::ALL.into_iter().find(|(text, _)| rest.starts_with(text));
        found.map(|(text, operator)| (key.trim(), operator, rest[text.len()..].trim()))
    }

    const fn is_of_numbers(self) -> bool {
        !matches!(self, Comparison::Equal | Comparison::NotEqual)
    }

    fn compares(self, a: f64, b: f64) -> bool {
        match self {
            Comparison::Equal => a == b,
            Comparison::NotEqual => a != b,
            Comparison::AtMost => a <= b,
            Comparison::AtLeast => a >= b,
            Comparison::Below => a < b,
            Comparison::Above => a > b,
        }
    }
}

/// A number, or a size in bytes.
fn number(text: &str) -> Option<f64> {
    let plain = text.parse().ok().filter(|number: &f64| number.is_finite());
    plain.or_else(|| parse_bytes(text).map(|bytes| bytes as f64))
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let conditions = text.split(',').map(Condition::parse).collect::<Result<_, _>>()?;
        Ok(Filter { text: text.to_owned(), conditions })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl Filter {
    /// Whether a point meets all conditions.
    pub fn matches(&self, point: &Point) -> bool {
        self.conditions.iter().all(|condition| condition.holds(point, None))
    }

    /// The same of a point as records have it: under their id, with the launch mode that was
    /// taken where none was asked for.
    pub fn matches_record(&self, point: &Point, point_id: &str) -> bool {
        self.conditions.iter().all(|condition| condition.holds(point, Some(point_id)))
    }
}

impl Condition {
    fn parse(text: &str) -> Result<Self, String> {
        let Some((spelled, operator, value)) = Comparison::split(text) else {
            return Err(format!(
                "`{text}` is no condition; write `op=gemm`, `batch>=8` or `kernel!=cublas*`, \
                 with commas between several"
            ));
        };
        let key = known_key(spelled)?;
        if value.is_empty() {
            return Err(format!("`{text}` has no value; write `{spelled}=VALUE`"));
        }
        if operator.is_of_numbers() && number(value).is_none() {
            return Err(format!(
                "`{text}` compares with `{value}`, which is no number; words take = and !="
            ));
        }
        if key == "op" && !Op::ALL.iter().any(|op| is_like(value, op.name())) {
            let known: Vec<&str> = Op::ALL.into_iter().map(Op::name).collect();
            return Err(unknown_key(value, "the list of operations", &known));
        }
        Ok(Condition { key, operator, value: value.to_owned() })
    }

    fn holds(&self, point: &Point, recorded_id: Option<&str>) -> bool {
        let recorded = recorded_id.filter(|_| self.key == "id").map(str::to_owned);
        let Some(value) = recorded.or_else(|| value_of(point, self.key)) else {
            return self.operator == Comparison::NotEqual;
        };
        if let (Some(a), Some(b)) = (number(&value), number(&self.value)) {
            return self.operator.compares(a, b);
        }
        match self.operator {
            Comparison::Equal => is_like(&self.value, &value),
            Comparison::NotEqual => !is_like(&self.value, &value),
            _ => false,
        }
    }
}

/// A key by its spelling in suites, whichever way it was spelled.
fn known_key(spelled: &str) -> Result<&'static str, String> {
    let of_point = OF_POINTS
        .iter()
        .find(|(key, column)| *key == spelled || *column == spelled)
        .map(|(key, _)| *key);
    let name = spelled.strip_prefix("shape_").unwrap_or(spelled);
    let keys = shape_keys();
    let of_problem = || keys.iter().copied().find(|key| *key == name);
    of_point.or_else(of_problem).ok_or_else(|| {
        let of_points = OF_POINTS.iter().map(|(key, _)| *key);
        unknown_key(name, "a filter", &of_points.chain(keys).collect::<Vec<_>>())
    })
}

/// What a point has for a key, also where its text leaves it out.
fn value_of(point: &Point, key: &str) -> Option<String> {
    match key {
        "op" => Some(point.problem.op().to_string()),
        "kernel" => Some(point.kernel.to_string()),
        "cache" => Some(point.cache.to_string()),
        "launch" => point.launch.map(|launch| launch.to_string()),
        "load" => point.load.map(|load| load.to_string()),
        "id" => Some(point.id()),
        key => point.problem.value_of(key),
    }
}

/// Whether a word fits a pattern, in which `*` stands for anything and `?` for one character.
pub fn is_like(pattern: &str, word: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return word.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    if first == '*' {
        let mut ends = word.char_indices().map(|(at, _)| at).chain([word.len()]);
        return ends.any(|at| is_like(rest, &word[at..]));
    }
    let Some(letter) = word.chars().next() else { return false };
    (first == '?' || first == letter) && is_like(rest, &word[letter.len_utf8()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECODE: &str = "decode_attention:batch=8,context=1024,q_heads=32,kv_heads=8,\
                          head_dim=128,dtype=bf16,kv_dtype=bf16,layout=paged16@cpu@cold";
    const STREAM: &str = "stream:access=read,bytes=4194304@stream_bulk@hot";

    fn matches(filter: &str, point: &str) -> bool {
        filter.parse::<Filter>().unwrap().matches(&point.parse().unwrap())
    }

    #[test]
    fn conditions_hold_for_what_they_say() {
        for filter in [
            "op=decode_attention,batch>=8",
            "batch=8",
            "batch==8.0",
            "shape_batch<=8,context>512",
            "op=*attention,layout=paged*",
            "kernel=cp?",
            "cache_state=cold",
            "cache!=hot",
            // Left out of the text, and what the operation has no key for.
            "new_tokens=1",
            "bytes!=1 MiB",
        ] {
            assert!(matches(filter, DECODE), "{filter}");
        }
        for filter in [
            "batch>8",
            "batch<8",
            "batch!=8",
            "op=gemm",
            "bytes>0",
            "layout=paged",
            "load=burst",
        ] {
            assert!(!matches(filter, DECODE), "{filter}");
        }
        assert!(matches("bytes>=4 MiB, bytes < 8MiB", STREAM));
        assert!(!matches("bytes>4 MiB", STREAM));
        assert!(matches("kernel=stream*,kernel!=stream", STREAM));
        let id = STREAM.parse::<Point>().unwrap().id();
        assert!(matches(&format!("point_id={id}"), STREAM));
    }

    #[test]
    fn what_cannot_be_asked_says_what_to_write() {
        for (filter, part) in [
            ("batsh=8", "did you mean `batch`?"),
            ("shape_contxt=8", "did you mean"),
            ("op=decode_atention", "did you mean `decode_attention`?"),
            ("batch", "is no condition"),
            ("", "is no condition"),
            ("batch>=many", "no number"),
            ("batch=", "has no value"),
            ("batch=1,,op=gemm", "is no condition"),
        ] {
            let why = filter.parse::<Filter>().unwrap_err();
            assert!(why.contains(part), "{filter}: {why}");
        }
    }
}
