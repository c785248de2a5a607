//! What is asked: an operation with its shape and number formats, and the
//! FLOPs and bytes that it cannot do without.
//!
//! Each operation has a file here: its struct, its keys, and all that the rest of the
//! program asks of an operation ([`Operation`], [`Facts`]). One table, at the end of this
//! file's declarations, makes [`Op`] and [`Problem`] of them. Neither trait nor facts have
//! defaults, so what an operation does not say is an error of the compiler.
//!
//! FLOPs and bytes are counted here and nowhere else. Sweeps, verdicts,
//! figures and predictions all call [`Problem::work`]. One FLOP is one
//! multiplication or one addition, so a multiply-add is two. Bytes are
//! compulsory traffic: every input read once, every output written once.
//!
//! A problem has one spelling as text, `op:key=value,key=value`, which parses
//! back into the same problem. Suites, point ids and the command that repeats
//! a row all use it.

mod collective;
mod decode_attention;
mod explanation;
mod fields;
mod gemm;
mod kv_append;
mod kv_layout;
mod kv_read;
mod linear;
mod mla_append;
mod mla_decode;
mod moe_gemm;
mod peak;
mod prefill_attention;
mod stream;
mod transfer;

use std::fmt;
use std::str::FromStr;

pub use collective::{Collective, CollectiveKind};
pub use decode_attention::DecodeAttention;
pub use explanation::Explanation;
pub use fields::{Fields, KeyDefault, KeySpec, KeyStyle, MAX_EXTENT, ProblemError};
pub use fields::{parse_bytes, unknown_key};
pub use gemm::Gemm;
pub use kv_append::KvAppend;
pub use kv_layout::{KvLayout, Lengths, MAX_NEW_TOKENS, MAX_RAGGED, PageOrder};
pub use kv_read::KvRead;
pub use mla_append::MlaAppend;
pub use mla_decode::{MlaDecode, SCORE_WIDTH};
pub use moe_gemm::{Inputs, MAX_ROUTED, MoeGemm, Routing};
pub use peak::{Peak, Unit};
pub use prefill_attention::PrefillAttention;
pub use stream::{Access, Stream};
pub use transfer::{Transfer, TransferDirection};

use crate::format::{DType, Role, Tensor, text_of_name};
use crate::resource::Work;

/// Largest compulsory traffic of one problem, in bytes (64 TiB).
pub const MAX_BYTES: u64 = 1 << 46;
/// Largest FLOP count of one problem.
pub const MAX_FLOPS: u64 = 1 << 62;

/// What is true of all problems of an operation.
#[derive(Debug)]
pub struct Facts {
    /// The spelling used in suites, ids and CSV files.
    pub name: &'static str,
    /// Keys that a problem is written with, in order.
    pub keys: &'static [KeySpec],
    /// A small problem, as text: for tests and documentation.
    pub example: &'static str,
    /// Makes a problem of its fields, before any check of the shape.
    pub read: fn(&Fields) -> Result<Problem, ProblemError>,
}

/// What is asked of every operation's problem.
pub trait Operation {
    /// The values of the keys of [`Facts::keys`], in that order.
    fn values(&self) -> Vec<String>;

    /// Refuses a shape that cannot be.
    ///
    /// # Errors
    /// The key to change and what to write.
    fn check(&self) -> Result<(), ProblemError>;

    /// FLOPs and elements in floating point, where counts in integers might overflow.
    fn magnitude(&self) -> Magnitude;

    /// FLOPs and compulsory bytes, from the shape alone. The file of each operation gives
    /// the formula. Formulas are as in NVIDIA aiconfigurator, with causal sums exact; the
    /// softmax is not counted. See docs/METHODOLOGY.md.
    fn work(&self) -> Work;

    /// The formulas of [`Operation::work`] with the problem's values put in, or its results
    /// where [`Explanation::results`] says enough.
    fn explanation(&self) -> Explanation;

    /// The arrays of one instance, in a fixed order: that of inputs in memory and of the
    /// keys that they are drawn with. All inputs come before the outputs. There is one
    /// output, or several that differ in nothing but name, place and elements: see
    /// [`Problem::output`].
    fn tensors(&self) -> Vec<Tensor>;

    /// Bytes of [`Operation::work`] that are weights, and their scales.
    fn weight_bytes(&self) -> u64;

    /// Bytes of [`Operation::work`] that are a cache of keys and values, with the page
    /// numbers and scales that go with it.
    fn cache_bytes(&self) -> u64;

    /// What the model knows of routed experts, if the problem has any: what it reads
    /// depends on which token chose which expert.
    fn routed(&self) -> Option<Routed>;
}

/// Experts that a routing touches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routed {
    /// Experts that any token has chosen; [`Operation::work`] counts their bytes.
    pub experts_touched: u64,
    /// Bytes read with as many experts as can be touched.
    pub bytes_read_bound: u64,
    /// Bytes read in the mean under uniform routing.
    pub bytes_read_expected: f64,
    /// Bytes of the weights of all experts, read or not.
    pub resident_weight_bytes: u64,
}

/// The size of a problem, so far as it may be too large to count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Magnitude {
    /// FLOPs.
    pub flops: f64,
    /// Elements of all tensors.
    pub elements: f64,
}

/// A product in floating point, which does not overflow.
fn product(factors: &[u64]) -> f64 {
    factors.iter().map(|&x| x as f64).product()
}

/// A struct of one of the operations.
pub trait OfProblem: Sized + 'static {
    /// The operation.
    const OP: Op;

    /// The problem's struct, if it is of this operation.
    fn of(problem: &Problem) -> Option<&Self>;
}

macro_rules! table {
    ($($module:ident::$type:ident,)*) => {
        /// The operations, one for each variant of [`Problem`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Op {$(
            #[doc = concat!("See [`", stringify!($type), "`].")]
            $type,
        )*}

        /// What is asked of a device.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Problem {$(
            #[doc = concat!("See [`", stringify!($type), "`].")]
            $type($type),
        )*}

        impl Op {
            /// Every operation, in the order in which tables list them.
            pub const ALL: [Op; [$(Op::$type),*].len()] = [$(Op::$type),*];

            /// What is true of all its problems.
            pub const fn facts(self) -> &'static Facts {
                match self {$(
                    Op::$type => &$module::FACTS,
                )*}
            }
        }

        impl Problem {
            /// The operation.
            pub const fn op(&self) -> Op {
                match self {$(
                    Problem::$type(_) => Op::$type,
                )*}
            }

            /// What the problem's operation says of it.
            pub const fn operation(&self) -> &dyn Operation {
                match self {$(
                    Problem::$type(p) => p,
                )*}
            }
        }

        $(
            impl From<$type> for Problem {
                fn from(p: $type) -> Problem {
                    Problem::$type(p)
                }
            }

            impl OfProblem for $type {
                const OP: Op = Op::$type;

                fn of(problem: &Problem) -> Option<&Self> {
                    match problem {
                        Problem::$type(p) => Some(p),
                        #[allow(unreachable_patterns, reason = "a table of one operation")]
                        _ => None,
                    }
                }
            }
        )*

        /// An expression of a problem's struct, whichever the operation: for traits that
        /// other modules implement for every operation.
        macro_rules! with_operation {
            ($problem:expr, $p:ident => $body:expr) => {
                match $problem {$(
                    $crate::op::Problem::$type($p) => $body,
                )*}
            };
        }
        pub(crate) use with_operation;
    };
}

table! {
    stream::Stream,
    peak::Peak,
    kv_read::KvRead,
    kv_append::KvAppend,
    gemm::Gemm,
    moe_gemm::MoeGemm,
    decode_attention::DecodeAttention,
    mla_decode::MlaDecode,
    prefill_attention::PrefillAttention,
    mla_append::MlaAppend,
    collective::Collective,
    transfer::Transfer,
}

text_of_name!(Op => "an op");

impl Op {
    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// Keys that a problem of this operation is written with.
    pub fn keys(self) -> impl Iterator<Item = &'static str> {
        self.facts().keys.iter().map(|key| key.name)
    }

    /// The key of this name, if the operation has one.
    pub fn key(self, name: &str) -> Option<&'static KeySpec> {
        self.facts().keys.iter().find(|key| key.name == name)
    }
}

/// Keys of the first campaigns, in the order of their columns.
const FIRST_SHAPE_KEYS: [&str; 30] = [
    "access",
    "bytes",
    "unit",
    "lanes",
    "steps",
    "m",
    "n",
    "k",
    "tokens",
    "experts",
    "top_k",
    "routing",
    "routing_seed",
    "inputs",
    "batch",
    "context",
    "prefix",
    "new_tokens",
    "q_heads",
    "kv_heads",
    "head_dim",
    "latent_dim",
    "rope_dim",
    "causal",
    "layout",
    "lengths",
    "window",
    "dtype",
    "kv_dtype",
    "w_dtype",
];

/// Every key that any problem is written with, in the order of CSV columns: those of the
/// first campaigns, then what operations brought later, in the order of the table.
pub fn shape_keys() -> Vec<&'static str> {
    let mut keys = FIRST_SHAPE_KEYS.to_vec();
    for key in Op::ALL.into_iter().flat_map(Op::keys) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

impl Problem {
    /// FLOPs and compulsory bytes: see [`Operation::work`].
    pub fn work(&self) -> Work {
        self.operation().work()
    }

    /// The formulas of its work: see [`Operation::explanation`].
    pub fn explanation(&self) -> Explanation {
        self.operation().explanation()
    }

    /// The arrays of one instance: see [`Operation::tensors`].
    pub fn tensors(&self) -> Vec<Tensor> {
        self.operation().tensors()
    }

    /// The array that is not an input. Several outputs count as one array, in their order
    /// and with the name of the last.
    pub fn output(&self) -> Tensor {
        let tensors = self.tensors();
        let last = tensors[tensors.len() - 1];
        let outputs = tensors.iter().filter(|tensor| tensor.role != Role::Input);
        Tensor { elements: outputs.map(|tensor| tensor.elements).sum(), ..last }
    }

    /// Bytes that are weights: see [`Operation::weight_bytes`].
    pub fn weight_bytes(&self) -> u64 {
        self.operation().weight_bytes()
    }

    /// Bytes that are a cache: see [`Operation::cache_bytes`].
    pub fn cache_bytes(&self) -> u64 {
        self.operation().cache_bytes()
    }

    /// What is known of routed experts: see [`Operation::routed`].
    pub fn routed(&self) -> Option<Routed> {
        self.operation().routed()
    }

    /// The format that is computed in: see [`Work::math_dtype`].
    pub fn math_dtype(&self) -> Option<DType> {
        self.work().math_dtype()
    }

    /// The same problem, if it can be asked.
    ///
    /// # Errors
    /// As of [`Problem::from_fields`], but for what only text can get wrong.
    pub fn checked(self) -> Result<Self, ProblemError> {
        self.operation().check()?;
        self.check_size()?;
        Ok(self)
    }

    /// Keys and values, all of them.
    fn spelled(&self) -> Vec<(KeySpec, String)> {
        let keys = self.op().facts().keys.iter().copied();
        keys.zip(self.operation().values()).collect()
    }

    /// The keys and values that spell this problem, in the order of [`Op::keys`]. Of the
    /// keys that came later than the first campaigns, those with their default are left
    /// out, so that a point keeps its name.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let all = self.spelled();
        let is_written = |(key, value): &(KeySpec, String)| {
            key.spells_default || !key.is_default(value, &all)
        };
        let written: Vec<_> = all.iter().filter(|field| is_written(field)).collect();
        written.into_iter().map(|(key, value)| (key.name, value.clone())).collect()
    }

    /// The fields on one line for people, without those that have their
    /// default and with sizes in MiB.
    pub fn label(&self) -> String {
        let all = self.spelled();
        let mut label = self.op().to_string();
        for (key, value) in &all {
            if key.is_default(value, &all) && !key.labels_default {
                continue;
            }
            label.push(' ');
            match (key.style, value.parse::<f64>()) {
                (KeyStyle::Bytes, Ok(bytes)) => {
                    label.push_str(&format!("{} MiB", bytes / f64::from(1 << 20)));
                }
                (KeyStyle::Bare, _) => label.push_str(value),
                _ => label.push_str(&format!("{}={value}", key.name)),
            }
        }
        label
    }

    /// Builds a problem from its operation and `key = value` fields. What is left out has
    /// the default of its [`KeySpec`].
    ///
    /// # Errors
    /// An unknown, missing or doubled key, a value that does not parse, a zero
    /// or huge dimension, an impossible shape.
    pub fn from_fields(op: Op, fields: &[(String, String)]) -> Result<Self, ProblemError> {
        (op.facts().read)(&Fields::new(op, fields)?)?.checked()
    }

    /// Refuses what would overflow the counts, before they are taken: the
    /// same products in floating point.
    fn check_size(&self) -> Result<(), ProblemError> {
        let Magnitude { flops, elements } = self.operation().magnitude();
        if elements * 4.0 > MAX_BYTES as f64 || flops > MAX_FLOPS as f64 {
            return Err(ProblemError::whole(format!(
                "{self} asks for {:.3e} bytes and {flops:.3e} FLOPs, more than the {:.1e} and \
                 {:.1e} that are counted exactly; make it smaller",
                elements * 4.0,
                MAX_BYTES as f64,
                MAX_FLOPS as f64
            )));
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.op())?;
        for (i, (key, value)) in self.fields().iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

impl FromStr for Problem {
    type Err = ProblemError;

    fn from_str(text: &str) -> Result<Self, ProblemError> {
        let (op, rest) = text.split_once(':').ok_or_else(|| {
            ProblemError::whole(format!(
                "`{text}` is not a problem; write `op:key=value,key=value`"
            ))
        })?;
        let op = op.trim().parse().map_err(|e: String| ProblemError::at("op", e))?;
        let mut fields = Vec::new();
        for part in rest.split(',').filter(|part| !part.trim().is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| {
                ProblemError::whole(format!("`{part}` in `{text}` is not `key=value`"))
            })?;
            fields.push((key.trim().to_owned(), value.trim().to_owned()));
        }
        Problem::from_fields(op, &fields)
    }
}

#[cfg(test)]
mod tests;
