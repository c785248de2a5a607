//! Answers of argmax.

use std::ops::Range;

use super::compare::{CheckedOutput, Rows};
use super::{Answer, Check, NoReference, SlotInputs};
use crate::op::Argmax;

/// The place of the largest of some values, the first of equal ones.
fn place_of_largest(values: impl Iterator<Item = f32>) -> u64 {
    let (mut largest, mut place) = (f32::NEG_INFINITY, 0);
    for (at, value) in (0..).zip(values) {
        if value > largest {
            (largest, place) = (value, at);
        }
    }
    place
}

impl Answer for Argmax {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        vec![("token", self.m)]
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        let Argmax { m, n, dtype } = *self;
        if dtype.is_scaled() {
            let message = format!("there is no reference for an argmax in {dtype}");
            return Err(NoReference(message));
        }
        let x = inputs.key("x");
        let make = move |token: u64| {
            let logits = (token * n..(token + 1) * n).map(|index| x.value(dtype, index));
            (token, vec![place_of_largest(logits) as f64])
        };
        Ok(target.compare_rows(&Rows {
            count: m,
            cost: n,
            rows: 1,
            width: 1,
            typical: None,
            make: Box::new(make),
        }))
    }

    fn unneeded(&self, _: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SEED, checked, key, problem};
    use super::place_of_largest;
    use crate::format::DType;
    use crate::reference::{CheckVerdict, check};

    const TOKENS: usize = 5;
    /// Bf16 draws have 256 values, so that the largest is there many times.
    const WIDTH: usize = 3000;
    const TEXT: &str = "argmax:m=5,n=3000,dtype=bf16";

    #[test]
    fn equal_and_odd_values_have_one_answer() {
        let place = |values: &[f32]| place_of_largest(values.iter().copied());
        assert_eq!(place(&[1.0, 3.0, 2.0, 3.0]), 1);
        assert_eq!(place(&[-1.0, -0.0, 0.0]), 1);
        assert_eq!(place(&[f32::NAN, -5.0, f32::NAN]), 1);
        assert_eq!(place(&[f32::NEG_INFINITY, f32::NAN]), 0);
        assert_eq!(place(&[0.0, f32::INFINITY, f32::NAN]), 1);
    }

    #[test]
    fn planted_mistakes_are_found() {
        let verdict = |index: &[u32]| checked(TEXT, bytemuck::cast_slice(index));
        // By sorting, stably.
        let sorted = |token: usize, is_first: bool, of: fn(f32) -> f32| -> u32 {
            let mut places: Vec<usize> = (0..WIDTH).collect();
            if !is_first {
                places.reverse();
            }
            let value = |at: &usize| key(0).value(DType::Bf16, (token * WIDTH + at) as u64);
            places.sort_by(|a, b| of(value(b)).total_cmp(&of(value(a))));
            places[0] as u32
        };
        let all = |is_first: bool, of: fn(f32) -> f32| -> Vec<u32> {
            (0..TOKENS).map(|token| sorted(token, is_first, of)).collect()
        };
        let right = all(true, |x| x);
        let found = verdict(&right);
        assert_eq!((found.verdict, found.elements), (CheckVerdict::Pass, TOKENS as u64));
        for (what, wrong) in [
            ("the last of equal ones", all(false, |x| x)),
            ("the smallest", all(true, |x| -x)),
            ("the largest in size", all(true, f32::abs)),
            ("never written", vec![u32::MAX; TOKENS]),
            ("of all rows", (0..).zip(&right).map(|(t, x)| t * 3000 + x).collect()),
        ] {
            let found = verdict(&wrong);
            assert_eq!(found.verdict, CheckVerdict::Fail, "{what}");
            assert!(found.message.contains("index at token "), "{}", found.message);
        }
    }

    #[test]
    fn quantized_logits_have_no_reference() {
        let quantized = problem("argmax:m=1,n=4,dtype=int8");
        let error = check(&quantized, SEED, 0, 0, &[0; 4]).unwrap_err();
        assert!(error.to_string().contains("argmax in int8"), "{error}");
    }
}
