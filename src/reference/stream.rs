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

/// The wrapping sum of every word.
fn stream_sum(p: Stream, source: Key) -> Rows<'static> {
    let make = move |_| {
        const BLOCK: u64 = 1 << 16;
        let words = p.bytes / 4;
        let block = |block: u64| {
            let first = block * BLOCK;
            source.word_sum(TensorFormat::Words, first, words.min(first + BLOCK))
        };
        let blocks = (0..words.div_ceil(BLOCK)).into_par_iter();
        (0, vec![blocks.map(block).reduce(|| 0, u32::wrapping_add).into()])
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
