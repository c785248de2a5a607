//! Answers of collectives: none, since one device has only its own rank's array.

use std::ops::Range;

use super::compare::CheckedOutput;
use super::{Answer, Check, NoReference, SlotInputs};
use crate::op::Collective;

impl Answer for Collective {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        vec![("word", self.bytes.div_ceil(4))]
    }

    fn compare(&self, _: &CheckedOutput<'_>, _: &SlotInputs) -> Result<Check, NoReference> {
        Err(NoReference(format!(
            "the result of {} depends on the arrays of {} ranks, and one device has one",
            self.collective, self.ranks
        )))
    }

    fn unneeded(&self, _: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        Vec::new()
    }
}
