//! A claim as files write it.

use std::fmt;
use std::fmt::Display;
use std::str::FromStr;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::entry::{ClaimEntry, Origin};
use super::quantity::{Asked, Of, Over, QUANTITIES, QuantityFacts};
use super::relation::{Amount, Relation, RelationWord, Tolerance};
use crate::format::DType;
use crate::model::claims::predictions;
use crate::model::table::Raw;
use crate::op::{PairKind, unknown_key};
use crate::resource::{Link, LinkDirection};
use crate::suite::Filter;

/// A row of a table of claims.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClaimRow {
    name: String,
    statement: String,
    source: String,
    machine: Option<String>,
    #[serde(default, deserialize_with = "some_parsed")]
    select: Option<Filter>,
    #[serde(default, deserialize_with = "some_parsed")]
    beside: Option<Filter>,
    #[serde(deserialize_with = "parsed")]
    quantity: QuantityName,
    #[serde(default, deserialize_with = "some_parsed")]
    over: Option<Over>,
    #[serde(default, deserialize_with = "some_parsed")]
    dtype: Option<DType>,
    #[serde(default, deserialize_with = "some_parsed")]
    link: Option<Link>,
    #[serde(default, deserialize_with = "some_parsed")]
    direction: Option<Direction>,
    #[serde(default, deserialize_with = "some_parsed")]
    of: Option<Of>,
    #[serde(default)]
    pairs: Option<Vec<PairName>>,
    #[serde(default, deserialize_with = "some_parsed")]
    prediction: Option<PredictionName>,
    include_peers: Option<bool>,
    #[serde(deserialize_with = "parsed")]
    relation: RelationWord,
    value: Value,
    tolerance: Option<f64>,
    tolerance_abs: Option<f64>,
}

/// A text that is parsed where it is read, so that its error knows its line.
fn parsed<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}

fn some_parsed<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    parsed(from).map(Some)
}

#[derive(Clone, Copy, Debug)]
struct QuantityName(&'static QuantityFacts);

impl FromStr for QuantityName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = QUANTITIES.iter().find(|quantity| quantity.name == text);
        known.map(QuantityName).ok_or_else(|| {
            let names = QUANTITIES.each_ref().map(|quantity| quantity.name);
            unknown_key(text, "the list of quantities", &names)
        })
    }
}

/// A direction as this program's tables spell it.
#[derive(Clone, Copy, Debug)]
struct Direction(LinkDirection);

impl FromStr for Direction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = LinkDirection::ALL.into_iter().find(|way| way.name() == text);
        known.map(Direction).ok_or_else(|| {
            format!("`{text}` is no direction; write in, to the device, or out, from it")
        })
    }
}

#[derive(Clone, Debug)]
struct PairName(String);

impl<'de> Deserialize<'de> for PairName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if !PairKind::KEYS.contains(&text.as_str()) {
            let why = unknown_key(&text, "the list of pairs", &PairKind::KEYS);
            return Err(D::Error::custom(why));
        }
        Ok(PairName(text))
    }
}

#[derive(Clone, Debug)]
struct PredictionName(String);

impl FromStr for PredictionName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = predictions();
        if !known.contains(&text) {
            return Err(unknown_key(text, "the list of predictions", &known));
        }
        Ok(PredictionName(text.to_owned()))
    }
}

/// One value, or the two ends of a range.
#[derive(Clone, Copy, Debug)]
enum Value {
    One(Amount),
    Two(Amount, Amount),
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a number, a text such as \"0.9 * sheet.dram_bandwidth\", or two of them",
        )
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Amount::number(value).map(Value::One).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        text.parse().map(Value::One).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut ends = Vec::new();
        while let Some(end) = seq.next_element::<Value>()? {
            ends.push(end);
        }
        match ends[..] {
            [Value::One(from), Value::One(to)] => Ok(Value::Two(from, to)),
            _ => Err(A::Error::custom("a range has two values, from and to: [0.9, 1.1]")),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ValueVisitor)
    }
}

impl Raw for ClaimRow {
    type Checked = ClaimEntry;
    const KEY: &'static str = "claim";

    fn chosen_by(claim: &ClaimEntry) -> Option<&str> {
        Some(&claim.name)
    }

    fn check(self) -> Result<ClaimEntry, String> {
        let name = self.name.clone();
        self.checked().map_err(|why| format!("claim {name}: {why}"))
    }
}

impl ClaimRow {
    fn checked(self) -> Result<ClaimEntry, String> {
        for (key, text) in [("statement", &self.statement), ("source", &self.source)] {
            if text.trim().is_empty() {
                return Err(format!("`{key}` is empty; say what is claimed, and by whom"));
            }
        }
        self.check_keys()?;
        let relation = self.relation()?;
        let tolerance = self.tolerance(relation)?;
        let QuantityName(facts) = self.quantity;
        let asked = Asked {
            beside: self.beside,
            over: self.over.unwrap_or_default(),
            dtype: self.dtype,
            link: self.link,
            direction: self.direction.map(|Direction(way)| way),
            of: self.of,
            pairs: self.pairs.map(|pairs| pairs.into_iter().map(|pair| pair.0).collect()),
            prediction: self.prediction.map(|prediction| prediction.0),
        };
        let quantity = (facts.make)(&asked);
        let quantity =
            quantity.ok_or_else(|| format!("{} lacks a key that it needs", facts.name))?;
        Ok(ClaimEntry {
            name: self.name,
            statement: self.statement,
            source: self.source,
            origin: Origin::BuiltIn,
            machine: self.machine,
            select: self.select,
            include_peers: self.include_peers.unwrap_or(false),
            quantity,
            relation,
            tolerance,
        })
    }

    /// The keys that depend on the quantity, and whether the row has them.
    fn keys(&self) -> [(&'static str, bool); 10] {
        [
            ("select", self.select.is_some()),
            ("beside", self.beside.is_some()),
            ("over", self.over.is_some()),
            ("dtype", self.dtype.is_some()),
            ("link", self.link.is_some()),
            ("direction", self.direction.is_some()),
            ("of", self.of.is_some()),
            ("pairs", self.pairs.as_ref().is_some_and(|pairs| !pairs.is_empty())),
            ("prediction", self.prediction.is_some()),
            ("include_peers", self.include_peers.is_some()),
        ]
    }

    fn check_keys(&self) -> Result<(), String> {
        let QuantityName(facts) = self.quantity;
        for (key, is_there) in self.keys() {
            if facts.needs.contains(&key) && !is_there {
                return Err(format!(
                    "the quantity `{}` needs `{key}`; write {}",
                    facts.name,
                    example_of(key)
                ));
            }
            if is_there && !facts.needs.contains(&key) && !facts.takes.contains(&key) {
                return Err(format!(
                    "`{key}` says nothing of the quantity `{}`; leave it out",
                    facts.name
                ));
            }
        }
        Ok(())
    }

    fn relation(&self) -> Result<Relation, String> {
        match (self.relation, self.value) {
            (RelationWord::Equals, Value::One(at)) => Ok(Relation::Equals(at)),
            (RelationWord::AtLeast, Value::One(at)) => Ok(Relation::AtLeast(at)),
            (RelationWord::AtMost, Value::One(at)) => Ok(Relation::AtMost(at)),
            (RelationWord::Between, Value::Two(from, to)) => {
                if from.of == to.of && from.factor >= to.factor {
                    return Err("`value` is a range whose first end is not below its \
                                second; write the smaller one first"
                        .to_owned());
                }
                Ok(Relation::Between(from, to))
            }
            (RelationWord::Between, Value::One(_)) => {
                Err("`relation = \"between\"` needs two ends; write value = [0.9, 1.1]"
                    .into())
            }
            (word, Value::Two(..)) => Err(format!(
                "`relation = \"{word}\"` needs one `value`; two are a range, `between`"
            )),
        }
    }

    fn tolerance(&self, relation: Relation) -> Result<Tolerance, String> {
        let numbers =
            [("tolerance", self.tolerance), ("tolerance_abs", self.tolerance_abs)];
        for (key, number) in numbers {
            if let Some(number) = number.filter(|n| !(n.is_finite() && *n >= 0.0)) {
                return Err(format!("`{key}` is {number}; write a number of 0 or more"));
            }
        }
        let tolerance = match (self.tolerance, self.tolerance_abs) {
            (Some(_), Some(_)) => {
                return Err(
                    "`tolerance` is a share of the value and `tolerance_abs` is in \
                            its unit; write one of them"
                        .into(),
                );
            }
            (Some(share), None) => Tolerance::Share(share),
            (None, Some(absolute)) => Tolerance::Absolute(absolute),
            (None, None) => Tolerance::Share(0.0),
        };
        let is_exact = match (tolerance, relation) {
            (Tolerance::Share(share), Relation::Equals(at)) => {
                share == 0.0 || at.factor == 0.0
            }
            (Tolerance::Absolute(absolute), Relation::Equals(_)) => absolute == 0.0,
            (_, _) => false,
        };
        if is_exact {
            return Err(
                "no interval is a single value; write `tolerance = 0.05`, a share of \
                        the value, or `tolerance_abs`, in its unit"
                    .into(),
            );
        }
        Ok(tolerance)
    }
}

/// How a key may be written.
fn example_of(key: &str) -> &'static str {
    match key {
        "select" => "`select = \"op=decode_attention,context>=8192\"`",
        "beside" => "`beside = \"op=gemm,m=1\"`, the rows to compare with",
        "dtype" => "`dtype = \"bf16\"`",
        "link" => "`link = \"host\"`",
        "direction" => "`direction = \"in\"`",
        "of" => "`of = \"bytes\"` or `of = \"flops\"`",
        "pairs" => "`pairs = [\"query_heads\"]`",
        _ => "it as docs/USAGE.md says",
    }
}
