//! A problem of one operation, by its type.

use crate::problem::{
    DecodeAttention, Gemm, KvAppend, KvRead, MlaDecode, MoeGemm, Op, Peak,
    PrefillAttention, Problem, Stream,
};

/// The struct of an operation, which a problem of that operation holds.
pub trait OfProblem: Sized + 'static {
    /// The operation.
    const OP: Op;

    /// What a problem asks, if it is one of this operation.
    fn of(problem: &Problem) -> Option<&Self>;
}

macro_rules! operations {
    ($($operation:ident),* $(,)?) => {$(
        impl OfProblem for $operation {
            const OP: Op = Op::$operation;

            fn of(problem: &Problem) -> Option<&Self> {
                match problem {
                    Problem::$operation(p) => Some(p),
                    _ => None,
                }
            }
        }
    )*};
}

operations!(
    Stream,
    Peak,
    KvRead,
    KvAppend,
    Gemm,
    MoeGemm,
    DecodeAttention,
    MlaDecode,
    PrefillAttention,
);
