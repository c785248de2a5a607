//! Answers of RMS norms.

use std::ops::Range;

use super::compare::{CheckedOutput, Rows, round_to};
use super::{Answer, Check, NoReference, SlotInputs};
use crate::data::Key;
use crate::op::{RMS_EPSILON, RmsNorm};

/// A token on its way into the norm: `x`, or `x + residual` rounded to the format.
#[derive(Clone, Copy)]
struct Source {
    p: RmsNorm,
    x: Key,
    residual: Option<Key>,
}

impl Source {
    /// The elements of a token. Values are drawn with so many digits that the sum of two is
    /// exact in their format: every right kernel has the same bits, and how a kernel rounds
    /// sums is not covered.
    fn token(&self, token: u64) -> Vec<f64> {
        let RmsNorm { n, dtype, .. } = self.p;
        let drawn = |key: Key| {
            let mut row = vec![0.0; n as usize];
            key.values(dtype, token * n, &mut row);
            row
        };
        let x = drawn(self.x).into_iter();
        match self.residual {
            None => x.map(f64::from).collect(),
            Some(key) => x.zip(drawn(key)).map(|(x, r)| round_to(dtype, x + r)).collect(),
        }
    }
}

/// Tokens after the addition of the residual, to the last bit: `[m][n]` from the first
/// element of the output on.
fn summed_rows(source: Source) -> Rows<'static> {
    let RmsNorm { m, n, .. } = source.p;
    let make = move |token| (token * n, source.token(token));
    Rows {
        count: m,
        cost: 2 * n,
        rows: 1,
        width: n as usize,
        typical: None,
        make: Box::new(make),
    }
}

/// Tokens after the norm: `[m][n]` from element `first` on.
fn normalized_rows(source: Source, w: Key, first: u64) -> Rows<'static> {
    let RmsNorm { m, n, dtype, .. } = source.p;
    let mut weights = vec![0.0; n as usize];
    w.values(dtype, 0, &mut weights);
    let make = move |token| {
        let x = source.token(token);
        let mean = x.iter().map(|x| x * x).sum::<f64>() / n as f64;
        let scale = 1.0 / (mean + f64::from(RMS_EPSILON)).sqrt();
        let y = x.iter().zip(&weights).map(|(x, &w)| x * scale * f64::from(w)).collect();
        (first + token * n, y)
    };
    // A norm of 1 times weights that are uniform in [-1, 1), of variance 1/3.
    let typical = Some((1.0f64 / 3.0).sqrt());
    Rows {
        count: m,
        cost: 2 * n,
        rows: 1,
        width: n as usize,
        typical,
        make: Box::new(make),
    }
}

impl Answer for RmsNorm {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        let token = [("token", self.m), ("element", self.n)];
        let tensor = self.residual.then_some(("tensor", 2));
        tensor.into_iter().chain(token).collect()
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        if self.dtype.is_scaled() {
            let message =
                format!("there is no reference for an RMS norm in {}", self.dtype);
            return Err(NoReference(message));
        }
        let (x, w) = (inputs.key("x"), inputs.key("w"));
        let source = Source { p: *self, x, residual: inputs.find("residual") };
        let first = if self.residual { self.m * self.n } else { 0 };
        let normalized = target.compare_rows(&normalized_rows(source, w, first));
        if !self.residual {
            return Ok(normalized);
        }
        Ok(target.compare_rows(&summed_rows(source)).and(normalized))
    }

    fn unneeded(&self, _: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::tests::{SEED, checked, key, problem};
    use crate::format::DType;
    use crate::reference::{CheckVerdict, check};

    /// Mistakes that kernels make.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Bug {
        None,
        NoWeight,
        WeightOfNextElement,
        Sum,
        MeanOverPaddedWidth,
        MeanOfAllTokens,
        MeanSubtracted,
        NoRoot,
        NoResidual,
        NormBeforeResidual,
        SumNotWritten,
    }

    const TOKENS: usize = 3;
    /// Seven more would be a multiple of 32.
    const WIDTH: usize = 153;

    fn text(residual: bool) -> String {
        format!("rmsnorm:m={TOKENS},n={WIDTH},dtype=bf16,residual={residual}")
    }

    /// What a kernel writes in bf16: norms written another way than the reference, in
    /// f32.
    fn output(residual: bool, bug: Bug) -> Vec<bf16> {
        let drawn = |tensor: usize, count: usize| -> Vec<f32> {
            (0..count).map(|i| key(tensor).value(DType::Bf16, i as u64)).collect()
        };
        let x = drawn(0, TOKENS * WIDTH);
        let w = drawn(1 + usize::from(residual), WIDTH);
        let mut sum = x.clone();
        if residual && bug != Bug::NoResidual {
            sum.iter_mut().zip(drawn(1, TOKENS * WIDTH)).for_each(|(x, r)| *x += r);
        }
        let sum: Vec<bf16> = sum.into_iter().map(bf16::from_f32).collect();
        let normed: Vec<f32> = match bug {
            Bug::NormBeforeResidual => x.clone(),
            _ => sum.iter().map(|x| x.to_f32()).collect(),
        };
        let mut written = Vec::new();
        if residual {
            match bug {
                Bug::SumNotWritten => written.extend(x.into_iter().map(bf16::from_f32)),
                _ => written.extend(sum),
            }
        }
        for row in normed.chunks(WIDTH) {
            let over = if bug == Bug::MeanOfAllTokens { &normed[..] } else { row };
            let mut squares: f32 = over.iter().map(|x| x * x).sum();
            squares /= match bug {
                Bug::Sum => 1.0,
                Bug::MeanOverPaddedWidth => 256.0,
                _ => over.len() as f32,
            };
            let mean = row.iter().sum::<f32>() / WIDTH as f32;
            let root = if bug == Bug::NoRoot { squares } else { squares.sqrt() };
            written.extend(row.iter().enumerate().map(|(i, &x)| {
                let x = if bug == Bug::MeanSubtracted { x - mean } else { x };
                let weight = match bug {
                    Bug::NoWeight => 1.0,
                    Bug::WeightOfNextElement => w[(i + 1) % WIDTH],
                    _ => w[i],
                };
                bf16::from_f32(x / root * weight)
            }));
        }
        written
    }

    #[test]
    fn planted_mistakes_are_found() {
        for residual in [false, true] {
            let verdict = |bug| {
                let found =
                    checked(&text(residual), bytemuck::cast_slice(&output(residual, bug)));
                (found.verdict, found.elements, found.message)
            };
            let elements = (TOKENS * WIDTH * (1 + usize::from(residual))) as u64;
            let right = (CheckVerdict::Pass, elements, String::new());
            assert_eq!(verdict(Bug::None), right);
            let mut bugs = vec![
                Bug::NoWeight,
                Bug::WeightOfNextElement,
                Bug::Sum,
                Bug::MeanOverPaddedWidth,
                Bug::MeanOfAllTokens,
                Bug::MeanSubtracted,
                Bug::NoRoot,
            ];
            if residual {
                bugs.extend([Bug::NoResidual, Bug::NormBeforeResidual, Bug::SumNotWritten]);
            }
            for bug in bugs {
                let (verdict, _, message) = verdict(bug);
                assert_eq!(verdict, CheckVerdict::Fail, "{bug:?}");
                assert!(message.contains(", element "), "{message}");
            }
        }
    }

    #[test]
    fn an_element_is_named_by_tensor_token_and_place() {
        let mut wrong = output(true, Bug::None);
        let last = wrong.len() - 1;
        wrong[last] += bf16::from_f32(0.5);
        let found = checked(&text(true), bytemuck::cast_slice(&wrong));
        let place = "sum_and_y at tensor 1, token 2, element 152 is";
        assert!(found.message.contains(place), "{}", found.message);
        let mut wrong = output(false, Bug::None);
        wrong[WIDTH] = bf16::NAN;
        let found = checked(&text(false), bytemuck::cast_slice(&wrong));
        let place = "y at token 1, element 0 is NaN";
        assert!(found.message.contains(place), "{}", found.message);
    }

    /// The new residual stream is compared to the last bit.
    #[test]
    fn the_sum_is_exact() {
        let mut wrong = output(true, Bug::None);
        wrong[200] = bf16::from_bits(wrong[200].to_bits() ^ 1);
        let found = checked(&text(true), bytemuck::cast_slice(&wrong));
        assert_eq!(found.verdict, CheckVerdict::Fail);
        let place = "sum_and_y at tensor 0, token 1, element 47 is";
        assert!(found.message.contains(place), "{}", found.message);
    }

    #[test]
    fn quantized_tokens_have_no_reference() {
        let quantized = problem("rmsnorm:m=1,n=4,dtype=int8");
        let error = check(&quantized, SEED, 0, 0, &[0; 4]).unwrap_err();
        assert!(error.to_string().contains("RMS norm in int8"), "{error}");
    }
}
