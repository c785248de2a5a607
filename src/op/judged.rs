//! What verdicts, tables and figures ask of operations: which limits of a machine an
//! operation shows, how its points are drawn, and which of its points are compared.
//!
//! Whoever judges or draws asks here and never which operation it has, so a new operation
//! says all of it in its own file. The types know nothing of verdicts and figures.

use std::any::Any;

use super::access::{Access, Reuse};
use crate::format::DType;
use crate::quant::Quant;

/// What is true of all points of an operation when they are judged and drawn.
#[derive(Debug)]
pub struct JudgedFacts {
    /// Its name as prose.
    pub prose: &'static str,
    /// How its points are drawn.
    pub marker: OpMarker,
    /// What it is measured for.
    pub purpose: Purpose,
    /// Whether its best rate is a compute ceiling of the machine: whether its kernels are
    /// bound by arithmetic at some shape.
    pub sets_compute_ceiling: bool,
    /// Whether it reads a cache of keys and values as decode does, so that it has a place
    /// beside the streams in the figure of bandwidths.
    pub reads_cache: bool,
}

/// What an operation is measured for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It is a memory roof itself.
    MemoryRoof,
    /// It is a compute roof itself; it touches no memory worth counting.
    ComputeRoof,
    /// It is the roof of a link itself.
    LinkRoof,
    /// It is work under roofs.
    Work,
}

/// Outlines of markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkerShape {
    /// A disc.
    Circle,
    /// A square.
    Square,
    /// A square on its corner.
    Diamond,
    /// Pointing up.
    Triangle,
    /// Pointing down.
    Wedge,
}

impl MarkerShape {
    /// All of them, in the order in which series take them.
    pub const ALL: [MarkerShape; 5] = [
        MarkerShape::Circle,
        MarkerShape::Square,
        MarkerShape::Diamond,
        MarkerShape::Triangle,
        MarkerShape::Wedge,
    ];
}

/// Colours of markers, in the order of the palette of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hue {
    /// Blue.
    Blue,
    /// Vermilion.
    Vermilion,
    /// Bluish green.
    Green,
    /// Reddish purple.
    Purple,
    /// Orange.
    Orange,
    /// Sky blue.
    SkyBlue,
}

/// How the points of an operation are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpMarker {
    /// Outline.
    pub shape: MarkerShape,
    /// Colour.
    pub hue: Hue,
}

/// What judging asks of a single problem.
pub trait Judged {
    /// The direction of traffic whose bandwidth the problem measures, if it is a stream.
    fn memory_roof(&self) -> Option<Access>;

    /// How a launch goes several times through the bytes that it reads, if that is what the
    /// problem is for: it then shows the rate of a cache. Bytes of [`Reuse::Own`] come from
    /// caches of one core each, faster than any memory that cores share: they are under no
    /// roof, and set none.
    fn reuse(&self) -> Option<Reuse>;

    /// What points must share to lie on one straight line of time over bytes, as prose;
    /// `None` for what does more than read.
    fn line(&self) -> Option<String>;

    /// Where the problem stands in sweeps of one of its sizes; `None` where figures show
    /// no such sweep of the operation.
    fn place_in(&self, sweep: Sweep) -> Option<SweepPlace>;

    /// What another problem (the struct of its operation, never the `Problem` around it: ask
    /// `Problem::pair_with`) differs in, if it is of the same
    /// operation and differs in one thing that verdicts compare pairs of points by.
    fn pair_with(&self, other: &dyn Any) -> Option<PairKind>;

    /// Along which size computing begins to bind, if verdicts look for that.
    fn knee(&self) -> Option<KneeAxis>;
}

/// Says of an operation that its points are neither ceilings of memory nor compared with
/// each other. A statement, not a default: an operation without it does not compile.
macro_rules! not_compared {
    ($operation:ty) => {
        impl $crate::op::Judged for $operation {
            fn memory_roof(&self) -> Option<$crate::op::Access> {
                None
            }

            fn reuse(&self) -> Option<$crate::op::Reuse> {
                None
            }

            fn line(&self) -> Option<String> {
                None
            }

            fn place_in(&self, _: $crate::op::Sweep) -> Option<$crate::op::SweepPlace> {
                None
            }

            fn pair_with(&self, _: &dyn std::any::Any) -> Option<$crate::op::PairKind> {
                None
            }

            fn knee(&self) -> Option<$crate::op::KneeAxis> {
                None
            }
        }
    };
}
pub(super) use not_compared;

/// A size that figures of operational intensity sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sweep {
    /// The number of requests.
    Batch,
    /// The tokens that a request has cached.
    Context,
    /// The rows of a matrix product.
    Rows,
}

impl Sweep {
    /// What of a decoding operation's sizes this sweeps, and what it holds.
    pub(super) const fn of_decode(self, batch: u64, context: u64) -> Option<(u64, u64)> {
        match self {
            Sweep::Batch => Some((batch, context)),
            Sweep::Context => Some((context, batch)),
            Sweep::Rows => None,
        }
    }
}

/// Where a problem stands in a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepPlace {
    /// Value of the size that is swept.
    pub swept: u64,
    /// Values of the sizes that the sweep's heading or legend names: the batch in a sweep
    /// of contexts, the context in one of batches, the weights in one of rows.
    pub held: Vec<u64>,
    /// All else that must be equal within a series.
    pub alike: String,
    /// Whether kernels make series of their own. They do not where few rows and many have
    /// kernels of their own.
    pub by_kernel: bool,
    /// Of each family one series is shown: a number to sort families by, and the family's
    /// name in the legend.
    pub family: (u64, String),
    /// What sets the problem apart from plain ones of its operation; empty for those.
    pub variant: String,
}

/// What a pair of points differs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PairKind {
    /// Decode attention: the same cache, more query heads.
    QueryHeads,
    /// Decode attention: the same query heads, twice the key and value heads.
    KvHeads,
    /// A linear layer of more rows.
    Rows,
    /// Latent attention of more heads.
    LatentHeads,
    /// A layer of experts with more tokens.
    Tokens,
    /// Weights in a format of fewer bits.
    Weights(Quant),
    /// A cache in a format of fewer bits.
    Cache(Quant),
}

impl PairKind {
    /// Weights in another format, if quantizing makes the one of the other.
    pub(super) fn of_weights(from: Quant, to: Quant) -> Option<Self> {
        is_quantized(from, to).then_some(PairKind::Weights(to))
    }

    /// A cache in another format, if quantizing makes the one of the other.
    pub(super) fn of_cache(from: Quant, to: Quant) -> Option<Self> {
        // What is customary has one name, whether heads or latents share the scales.
        let is_customary = to.to_string() == to.dtype().name();
        let kind = if is_customary { Quant::cache(to.dtype()) } else { to };
        is_quantized(from, to).then_some(PairKind::Cache(kind))
    }

    /// What differs between the two points, as claims spell it.
    pub const KEYS: [&str; 7] =
        ["query_heads", "kv_heads", "rows", "latent_heads", "tokens", "weights", "cache"];

    /// Its spelling in claims, one of [`PairKind::KEYS`].
    pub const fn key(self) -> &'static str {
        match self {
            PairKind::QueryHeads => PairKind::KEYS[0],
            PairKind::KvHeads => PairKind::KEYS[1],
            PairKind::Rows => PairKind::KEYS[2],
            PairKind::LatentHeads => PairKind::KEYS[3],
            PairKind::Tokens => PairKind::KEYS[4],
            PairKind::Weights(_) => PairKind::KEYS[5],
            PairKind::Cache(_) => PairKind::KEYS[6],
        }
    }

    /// The spelling used in tables.
    pub fn name(self) -> String {
        match self {
            PairKind::QueryHeads => "equal bytes, more FLOPs".into(),
            PairKind::KvHeads => "equal FLOPs, double bytes".into(),
            PairKind::Rows => "more rows".into(),
            PairKind::LatentHeads => "more heads".into(),
            PairKind::Tokens => "more tokens".into(),
            PairKind::Weights(dtype) => format!("weights in {dtype}"),
            PairKind::Cache(dtype) => format!("cache in {dtype}"),
        }
    }
}

const fn is_quantized(from: Quant, to: Quant) -> bool {
    from.dtype().bits() == 16 && to.is_scaled()
}

/// A size along which computing begins to bind.
#[derive(Clone, Debug, PartialEq)]
pub struct KneeAxis {
    /// The pairs that are steps along it.
    pub kind: PairKind,
    /// What the points along it share, as prose.
    pub name: String,
    /// What is counted along it.
    pub unit: &'static str,
    /// How many of these the problem has.
    pub rows: u64,
    /// The format whose ridge is crossed.
    pub dtype: DType,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Op;
    use crate::op::Problem;

    #[test]
    fn markers_and_names_tell_operations_apart() {
        for (at, op) in Op::ALL.into_iter().enumerate() {
            let facts = &op.facts().judged;
            for other in &Op::ALL[..at] {
                let others = &other.facts().judged;
                assert_ne!(facts.marker, others.marker, "{op} and {other}");
                assert_ne!(facts.prose, others.prose, "{op} and {other}");
            }
        }
    }

    #[test]
    fn an_operation_is_never_paired_with_another() {
        let problems: Vec<Problem> =
            Op::ALL.iter().map(|op| op.facts().examples[0].parse().unwrap()).collect();
        for a in &problems {
            for b in &problems {
                assert_eq!(a.pair_with(b), None, "{a} and {b}");
            }
        }
    }

    #[test]
    fn places_hold_the_other_size() {
        let place = |text: &str, sweep| {
            let problem: Problem = text.parse().unwrap();
            problem.operation().place_in(sweep).map(|place| (place.swept, place.held))
        };
        let decode = "decode_attention:batch=2,context=40,q_heads=8,kv_heads=2,head_dim=64,\
                      dtype=bf16";
        assert_eq!(place(decode, Sweep::Batch), Some((2, vec![40])));
        assert_eq!(place(decode, Sweep::Context), Some((40, vec![2])));
        assert_eq!(place(decode, Sweep::Rows), None);
        let gemm = "gemm:m=3,n=16,k=128,dtype=bf16";
        assert_eq!(place(gemm, Sweep::Rows), Some((3, vec![16, 128])));
        assert_eq!(place(gemm, Sweep::Batch), None);
        assert_eq!(place("stream:access=copy,bytes=4 KiB", Sweep::Rows), None);
    }
}
