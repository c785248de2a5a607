//! Answers of streams.

use std::ops::Range;

use rayon::prelude::*;

use super::compare::{CheckedOutput, MakeWords, Rows};
use super::{Answer, Check, NoReference, SlotInputs};
use crate::data::Key;
use crate::format::{DType, TensorFormat};
use crate::op::{Access, Stream};

/// The word that a write stream stores everywhere. Its first bit is zero, so
/// it differs from poison.
pub fn write_pattern(seed: u64, slot: usize) -> u32 {
    Key::new(seed, slot, 0).word(0) & 0x7fff_ffff
}

/// Factor `s` of the triad `a = b + s c`. A power of two: the product is then
/// exact, so that a fused multiply-add and a product with a sum after it give
/// the same bits, and answers are compared to the last one.
pub const TRIAD_FACTOR: f32 = 0.5;

/// Elements of a triad's output from `first` on.
fn triad([b, c]: [Key; 2], first: u64, a: &mut [f32]) {
    let mut scaled = vec![0.0; a.len()];
    b.values(DType::F32, first, a);
    c.values(DType::F32, first, &mut scaled);
    for (a, c) in a.iter_mut().zip(scaled) {
        *a += TRIAD_FACTOR * c;
    }
}

/// The wrapping sum of every word, in each pass.
fn stream_sum(p: Stream, source: Key) -> Rows<'static> {
    let make = move |_| {
        const BLOCK: u64 = 1 << 16;
        let words = p.bytes / 4;
        let block = |block: u64| {
            let first = block * BLOCK;
            source.word_sum(TensorFormat::Words, first, words.min(first + BLOCK))
        };
        let blocks = (0..words.div_ceil(BLOCK)).into_par_iter();
        let sum = blocks.map(block).reduce(|| 0, u32::wrapping_add);
        (0, vec![sum.wrapping_mul(p.passes as u32).into()])
    };
    Rows { count: 1, cost: 1, rows: 1, width: 1, typical: None, make: Box::new(make) }
}

impl Answer for Stream {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        match self.access {
            Access::Read => vec![("word", 1)],
            _ => vec![("word", self.bytes_written() / 4)],
        }
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        Ok(match self.words(inputs) {
            Some(words) => target.compare_words(words),
            None => target.compare_rows(&stream_sum(*self, inputs.key("source"))),
        })
    }

    fn words(&self, inputs: &SlotInputs) -> Option<MakeWords> {
        Some(match self.access {
            Access::Read => return None,
            Access::Write => {
                let word = u64::from(write_pattern(inputs.seed, inputs.slot));
                Box::new(move |_, words| words.fill(word | word << 32))
            }
            Access::Copy => {
                let source = inputs.key("source");
                Box::new(move |first, words| {
                    source.draw(TensorFormat::Words, first / 2, words);
                })
            }
            Access::Triad => {
                let keys = [inputs.key("b"), inputs.key("c")];
                Box::new(move |first, words| {
                    triad(keys, first, bytemuck::cast_slice_mut(words));
                })
            }
        })
    }

    fn unneeded(&self, _: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CheckVerdict, check, check_digest, has_digest};
    use crate::data;
    use crate::op::Problem;

    /// The digest of what a device computes, part by part in another order.
    fn digest(pairs: &[u64]) -> u64 {
        let (first, rest) = pairs.split_at(pairs.len() / 3);
        data::digest(first.len() as u64, rest).wrapping_add(data::digest(0, first))
    }

    #[test]
    fn a_digest_tells_a_wrong_word_and_words_in_another_order() {
        for access in ["write", "copy", "triad"] {
            let text = format!("stream:access={access},bytes=98688");
            let problem: Problem = text.parse().unwrap();
            assert!(has_digest(&problem));
            let words = super::super::answer(&problem)
                .words(&super::super::SlotInputs::new(&problem, 7, 1))
                .unwrap();
            let mut pairs = vec![0; problem.output().bytes() as usize / 8];
            words(0, &mut pairs);
            let bytes = bytemuck::cast_slice(&pairs);
            let whole = check(&problem, 7, 1, 0, bytes).unwrap();
            assert_eq!(whole.verdict, CheckVerdict::Pass, "{text}");
            let verdict = |pairs: &[u64]| {
                check_digest(&problem, 7, 1, digest(pairs)).unwrap().verdict
            };
            assert_eq!(verdict(&pairs), CheckVerdict::Pass, "{text}");
            let last = pairs.len() - 1;
            pairs[last] ^= 1 << 40;
            assert_eq!(verdict(&pairs), CheckVerdict::Fail, "{text}");
            pairs[last] ^= 1 << 40;
            // All words of a write are the same.
            pairs.swap(0, last);
            let swapped =
                if access == "write" { CheckVerdict::Pass } else { CheckVerdict::Fail };
            assert_eq!(verdict(&pairs), swapped, "{text}");
        }
        let read: Problem = "stream:access=read,bytes=1024".parse().unwrap();
        assert!(!has_digest(&read));
        assert!(check_digest(&read, 7, 1, 0).is_err());
    }
}
