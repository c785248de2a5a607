//! Answers of embeddings.

use std::ops::Range;

use super::compare::{CheckedOutput, Rows};
use super::{Answer, Check, NoReference, SlotInputs};
use crate::data::Key;
use crate::op::Embedding;

/// The id of a token.
fn id(p: Embedding, tokens: Key, token: u64) -> u64 {
    u64::from(tokens.word(token)) % p.vocab
}

impl Answer for Embedding {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        vec![("token", self.m), ("element", self.n)]
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        let p = *self;
        if p.dtype.is_scaled() {
            let message = format!("there is no reference for an embedding in {}", p.dtype);
            return Err(NoReference(message));
        }
        let (tokens, table) = (inputs.key("tokens"), inputs.key("table"));
        let make = move |token| {
            let mut row = vec![0.0; p.n as usize];
            table.values(p.dtype, id(p, tokens, token) * p.n, &mut row);
            (token * p.n, row.into_iter().map(f64::from).collect())
        };
        Ok(target.compare_rows(&Rows {
            count: p.m,
            cost: p.n,
            rows: 1,
            width: p.n as usize,
            typical: None,
            make: Box::new(make),
        }))
    }

    /// Rows of the table that no token has.
    fn unneeded(&self, inputs: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        let tokens = inputs.key("tokens");
        let mut needed: Vec<u64> =
            (0..self.m).map(|token| id(*self, tokens, token)).collect();
        needed.sort_unstable();
        let ends = needed.iter().copied().chain([self.vocab]);
        let starts = [0].into_iter().chain(needed.iter().map(|id| id + 1));
        let gaps = starts.zip(ends).filter(|(start, end)| start < end);
        let byte = |row: u64| self.dtype.bytes_of(row * self.n);
        gaps.map(|(start, end)| ("table", byte(start)..byte(end))).collect()
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::super::tests::{SEED, checked, key, problem};
    use crate::format::DType;
    use crate::reference::{CheckVerdict, check, unneeded};

    const TOKENS: usize = 9;
    const VOCAB: usize = 50;
    const WIDTH: usize = 12;

    fn text() -> String {
        format!("embedding:m={TOKENS},vocab={VOCAB},n={WIDTH},dtype=f16")
    }

    fn ids() -> Vec<usize> {
        (0..TOKENS).map(|token| key(0).word(token as u64) as usize % VOCAB).collect()
    }

    fn output(row: impl Fn(usize) -> usize) -> Vec<f16> {
        let element =
            |row: usize, i: usize| key(1).value(DType::F16, (row * WIDTH + i) as u64);
        let of_token = |token: usize| {
            let row = row(token);
            (0..WIDTH).map(move |i| f16::from_f32(element(row, i)))
        };
        (0..TOKENS).flat_map(of_token).collect()
    }

    #[test]
    fn planted_mistakes_are_found() {
        let verdict = |out: &[f16]| {
            let found = checked(&text(), bytemuck::cast_slice(out));
            (found.verdict, found.message)
        };
        let ids = ids();
        let right = output(|token| ids[token]);
        assert_eq!(verdict(&right), (CheckVerdict::Pass, String::new()));
        for (what, wrong) in [
            ("the row of the next token", output(|token| ids[(token + 1) % TOKENS])),
            ("the row after", output(|token| (ids[token] + 1) % VOCAB)),
            ("the first row", output(|_| 0)),
        ] {
            assert_eq!(verdict(&wrong).0, CheckVerdict::Fail, "{what}");
        }
        // To the last bit.
        let mut wrong = right;
        wrong[WIDTH + 5] = f16::from_bits(wrong[WIDTH + 5].to_bits() ^ 1);
        let message = verdict(&wrong).1;
        assert!(message.contains("y at token 1, element 5 is"), "{message}");
    }

    #[test]
    fn rows_of_no_token_are_not_needed() {
        let mut needed = ids();
        needed.sort_unstable();
        needed.dedup();
        let mut left = [true; VOCAB];
        needed.iter().for_each(|&id| left[id] = false);
        for (name, bytes) in unneeded(&problem(&text()), SEED, 0) {
            assert_eq!(name, "table");
            for row in bytes.start / 24..bytes.end / 24 {
                assert!(std::mem::take(&mut left[row as usize]), "row {row} is needed");
            }
        }
        assert!(left.iter().all(|left| !left));
    }

    #[test]
    fn quantized_tables_have_no_reference() {
        let quantized = problem("embedding:m=1,vocab=3,n=4,dtype=int8");
        let error = check(&quantized, SEED, 0, 0, &[0; 4]).unwrap_err();
        assert!(error.to_string().contains("embedding in int8"), "{error}");
    }
}
