//! Answers of operations that are predicted only: none.

use std::ops::Range;

use super::compare::CheckedOutput;
use super::{Answer, Check, NoReference, SlotInputs};
use crate::op::{IndexTopk, Op, SparseMla, StateUpdate};

fn predicted_only(op: Op) -> NoReference {
    NoReference(format!(
        "{op} is an operation of predictions: it has no kernel and no reference, and cannot be \
         measured"
    ))
}

/// An operation without a reference, and the name and extent of its output's elements.
macro_rules! predicted_only {
    ($type:ident, $axis:literal, $op:expr) => {
        impl Answer for $type {
            fn axes(&self) -> Vec<(&'static str, u64)> {
                vec![($axis, crate::op::Problem::from(*self).output().elements)]
            }

            fn compare(
                &self,
                _: &CheckedOutput<'_>,
                _: &SlotInputs,
            ) -> Result<Check, NoReference> {
                Err(predicted_only($op))
            }

            fn unneeded(&self, _: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
                Vec::new()
            }
        }
    };
}

predicted_only!(StateUpdate, "word", Op::StateUpdate);
predicted_only!(IndexTopk, "token", Op::IndexTopk);
predicted_only!(SparseMla, "element", Op::SparseMla);
