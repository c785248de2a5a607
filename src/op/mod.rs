//! What is asked: an operation with its shape and number formats, and the
//! FLOPs and bytes that it cannot do without.
//!
//! Each operation has a file here: its struct, its keys, and all that the rest of the
//! program asks of an operation ([`Operation`], [`Facts`]). One table makes [`Op`] and [`Problem`] of them. Neither trait nor facts have
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

mod access;
mod argmax;
mod class;
mod collective;
mod contract;
mod decode_attention;
mod decode_step;
mod embedding;
mod explanation;
mod fields;
mod gated_activation;
mod gemm;
mod index_topk;
mod judged;
mod kv_append;
mod kv_layout;
mod kv_read;
mod linear;
mod mla_append;
mod mla_decode;
mod moe_gemm;
mod peak;
mod prefill_attention;
mod rmsnorm;
mod rope_append;
mod sparse_mla;
mod stages;
mod state_update;
mod stream;
mod table;
mod transfer;

pub use access::{Access, Reuse};
pub use argmax::Argmax;
pub use class::ShapeClass;
pub use collective::{Collective, CollectiveKind};
pub use decode_attention::DecodeAttention;
pub use decode_step::DecodeStep;
pub use embedding::Embedding;
pub use explanation::Explanation;
pub use fields::{Fields, KeyDefault, KeySpec, KeyStyle, MAX_EXTENT, ProblemError};
pub use fields::{parse_bytes, unknown_key};
pub use gated_activation::GatedActivation;
pub use gemm::Gemm;
pub use index_topk::IndexTopk;
pub use judged::{
    Hue, Judged, JudgedFacts, KneeAxis, MarkerShape, OpMarker, PairKind, Purpose, Sweep,
    SweepPlace,
};
pub use kv_append::KvAppend;
pub use kv_layout::{KvLayout, Lengths, MAX_NEW_TOKENS, MAX_RAGGED, PageOrder};
pub use kv_read::KvRead;
pub use mla_append::MlaAppend;
pub use mla_decode::{MlaDecode, SCORE_WIDTH};
pub use moe_gemm::{Inputs, MAX_ROUTED, MoeGemm, Routing, RowOrder};
pub use peak::{Operands, Peak, PeakData, Unit};
pub use prefill_attention::PrefillAttention;
pub use rmsnorm::{RMS_EPSILON, RmsNorm};
pub use rope_append::{CachePages, ROPE_BASE, RopeAppend};
pub use sparse_mla::SparseMla;
pub use stages::{Operand, Stage, StageKind, Temporary};
pub use state_update::{StateDecay, StateRule, StateUpdate};
pub use stream::Stream;
pub use transfer::{Transfer, TransferDirection};

pub use contract::{Facts, Magnitude, Operation, Routed};
pub(crate) use table::with_operation;
pub use table::{MAX_BYTES, MAX_FLOPS, OfProblem, Op, Problem, shape_keys};
