//! The table of operations: [`Op`] and [`Problem`], and what holds for all of them.

use std::any::Any;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use super::argmax::Argmax;
use super::collective::Collective;
use super::contract::{Facts, Magnitude, Operation, Routed};
use super::decode_attention::DecodeAttention;
use super::decode_step::DecodeStep;
use super::embedding::Embedding;
use super::explanation::Explanation;
use super::fields::{Fields, KeySpec, KeyStyle, ProblemError};
use super::gated_activation::GatedActivation;
use super::gemm::Gemm;
use super::index_topk::IndexTopk;
use super::judged::PairKind;
use super::kv_append::KvAppend;
use super::kv_read::KvRead;
use super::mla_append::MlaAppend;
use super::mla_decode::MlaDecode;
use super::moe_gemm::MoeGemm;
use super::peak::Peak;
use super::prefill_attention::PrefillAttention;
use super::rmsnorm::RmsNorm;
use super::rope_append::RopeAppend;
use super::sparse_mla::SparseMla;
use super::state_update::StateUpdate;
use super::stream::Stream;
use super::transfer::Transfer;
use super::{
    Reuse, argmax, collective, decode_attention, decode_step, embedding, gated_activation,
    gemm, index_topk, kv_append, kv_read, mla_append, mla_decode, moe_gemm, peak,
    prefill_attention, rmsnorm, rope_append, sparse_mla, state_update, stream, transfer,
};
use crate::format::{DType, Role, Tensor, text_of_name};
use crate::residency::{CacheSize, Residency};
use crate::resource::Work;

/// Largest compulsory traffic of one problem, in bytes (64 TiB).
pub const MAX_BYTES: u64 = 1 << 46;
/// Largest FLOP count of one problem.
pub const MAX_FLOPS: u64 = 1 << 62;

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

        impl Op {
            /// Makes a problem of its fields, before any check of the shape.
            fn read(self, fields: &Fields) -> Result<Problem, ProblemError> {
                Ok(match self {$(
                    Op::$type => Problem::$type($module::read(fields)?),
                )*})
            }
        }

        impl Problem {
            /// The operation.
            pub const fn op(&self) -> Op {
                match self {$(
                    Problem::$type(_) => Op::$type,
                )*}
            }

            /// The struct of its operation.
            fn as_any(&self) -> &dyn Any {
                match self {$(
                    Problem::$type(p) => p,
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
    rmsnorm::RmsNorm,
    transfer::Transfer,
    state_update::StateUpdate,
    index_topk::IndexTopk,
    sparse_mla::SparseMla,
    gated_activation::GatedActivation,
    rope_append::RopeAppend,
    embedding::Embedding,
    argmax::Argmax,
    decode_step::DecodeStep,
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

/// Keys that operations got when columns for others were there already, in the order in which
/// they came.
const LATER_SHAPE_KEYS: [&str; 2] = ["passes", "reuse"];

/// Every key that any problem is written with, in the order of CSV columns: those of the
/// first campaigns, then what operations brought, in the order of the table, then what they
/// got later.
pub fn shape_keys() -> Vec<&'static str> {
    // Large campaigns ask for each row.
    static KEYS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
        let mut keys = FIRST_SHAPE_KEYS.to_vec();
        for key in Op::ALL.into_iter().flat_map(Op::keys) {
            if !keys.contains(&key) && !LATER_SHAPE_KEYS.contains(&key) {
                keys.push(key);
            }
        }
        keys.extend(LATER_SHAPE_KEYS);
        keys
    });
    KEYS.clone()
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

    /// What holds its bytes when so many lie between two uses of the same one, on a device
    /// with these caches, smallest first. `near_cache` is one that each core has beside them
    /// and that a launch finds empty, summed over the cores: it serves only what a launch
    /// [reads again](super::Judged::reuse), each core its own share.
    pub fn residency(
        &self,
        reuse_distance_bytes: u64,
        caches: &[CacheSize],
        near_cache: Option<CacheSize>,
    ) -> Residency {
        let is_near = |cache: &CacheSize| reuse_distance_bytes <= cache.bytes;
        match near_cache.filter(is_near) {
            Some(near) if self.operation().reuse() == Some(Reuse::Own) => {
                Residency::Cache(near.level)
            }
            _ => Residency::of(reuse_distance_bytes, caches),
        }
    }

    /// What another problem differs in: see [`Judged::pair_with`](super::Judged::pair_with).
    pub fn pair_with(&self, other: &Problem) -> Option<PairKind> {
        self.operation().pair_with(other.as_any())
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

    /// The same problem, if it can be counted: weights whose groups do not divide a row,
    /// as checkpoints have them, are counted with a shorter group at its end, and no
    /// kernel takes them.
    ///
    /// # Errors
    /// As of [`Problem::checked`], but for these.
    pub fn counted(self) -> Result<Self, ProblemError> {
        match self.operation().check() {
            Err(error) if !error.is_countable => Err(error),
            Ok(()) | Err(_) => {
                self.check_size()?;
                Ok(self)
            }
        }
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

    /// The value of a key, also where it has its default and the text leaves it out; `None`
    /// for a key that the operation does not have.
    pub fn value_of(&self, key: &str) -> Option<String> {
        self.spelled()
            .into_iter()
            .find(|(spec, _)| spec.name == key)
            .map(|(_, value)| value)
    }

    /// The fields on one line for people, without those that have their
    /// default and with sizes in the unit in which they are read easily.
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
                    label.push_str(&spell_bytes(bytes));
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
        let Facts { name, keys, .. } = *op.facts();
        op.read(&Fields::new((name, keys), fields)?)?.checked()
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

/// Bytes in the largest of B, KiB and MiB of which there is at least one.
fn spell_bytes(bytes: f64) -> String {
    match bytes {
        b if b < 1024.0 => format!("{b} B"),
        b if b < 1048576.0 => format!("{} KiB", b / 1024.0),
        b => format!("{} MiB", b / 1048576.0),
    }
}

#[cfg(test)]
mod tests;
