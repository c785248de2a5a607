//! Answers of reads of a cache: checksums.

use std::ops::Range;

use super::compare::{CheckedOutput, Rows};
use super::kv_source::{KvSource, unneeded_rows};
use super::{Answer, Check, NoReference, SlotInputs};
use crate::format::TensorFormat;
use crate::op::KvRead;

/// For each request and head, the wrapping sum of the words of its keys and
/// values.
fn kv_sums(p: KvRead, inputs: &SlotInputs) -> Result<Rows<'static>, NoReference> {
    let row_bytes = p.head_dim * p.dtype.bytes();
    if !row_bytes.is_multiple_of(4) {
        return Err(NoReference(format!(
            "a row of head_dim = {} is {row_bytes} bytes, which are not whole words",
            p.head_dim
        )));
    }
    let cache = KvSource::new(p, inputs);
    let make = move |pair| {
        let mut sum = 0u32;
        for token in 0..p.length(pair / p.kv_heads) {
            let offset = cache.offset(pair / p.kv_heads, pair % p.kv_heads, token);
            let first = offset * p.dtype.bytes() / 4;
            for tensor in [cache.keys, cache.values] {
                let format = TensorFormat::Values(p.dtype);
                sum =
                    sum.wrapping_add(tensor.word_sum(format, first, first + row_bytes / 4));
            }
        }
        (pair, vec![f64::from(sum)])
    };
    // Whole words cost a third of what single values do.
    let cost = 2 * p.context * row_bytes / 12;
    let count = p.batch * p.kv_heads;
    Ok(Rows { count, cost, rows: 1, width: 1, typical: None, make: Box::new(make) })
}

impl Answer for KvRead {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        vec![("batch", self.batch), ("kv head", self.kv_heads)]
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        Ok(target.compare_rows(&kv_sums(*self, inputs)?))
    }

    fn unneeded(&self, inputs: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        unneeded_rows(*self, inputs, |length| 0..length)
    }
}
