//! Answers of gated activations.

use std::ops::Range;

use super::compare::{CheckedOutput, Rows};
use super::{Answer, Check, NoReference, SlotInputs};
use crate::op::GatedActivation;

/// `x / (1 + exp(-x))`.
pub(super) fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Root mean square of `silu(gate) up` for both uniform in [-1, 1): silu's is 0.310 there,
/// up's `sqrt(1/3)`.
const TYPICAL: f64 = 0.179;

impl Answer for GatedActivation {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        vec![("token", self.m), ("element", self.n)]
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        let GatedActivation { m, n, dtype } = *self;
        if dtype.is_scaled() {
            let message =
                format!("there is no reference for a gated activation in {dtype}");
            return Err(NoReference(message));
        }
        let x = inputs.key("x");
        let make = move |token| {
            let mut row = vec![0.0; 2 * n as usize];
            x.values(dtype, token * 2 * n, &mut row);
            let (gate, up) = row.split_at(n as usize);
            let y = gate.iter().zip(up).map(|(&g, &u)| silu(g.into()) * f64::from(u));
            (token * n, y.collect())
        };
        Ok(target.compare_rows(&Rows {
            count: m,
            cost: 2 * n,
            rows: 1,
            width: n as usize,
            typical: Some(TYPICAL),
            make: Box::new(make),
        }))
    }

    fn unneeded(&self, _: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::tests::{SEED, checked, key, problem};
    use super::TYPICAL;
    use crate::format::DType;
    use crate::reference::{CheckVerdict, check};

    /// Mistakes that kernels make.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Bug {
        None,
        NoGate,
        SigmoidAlone,
        UpFirst,
        Interleaved,
        WrongSign,
        UpOfNextToken,
        Relu,
    }

    const TOKENS: usize = 70;
    const WIDTH: usize = 37;

    fn text() -> String {
        format!("gated_activation:m={TOKENS},n={WIDTH},dtype=bf16")
    }

    /// What a kernel writes in bf16, by another formula than the reference:
    /// `x (1 + tanh(x / 2)) / 2`, in f32.
    fn output(bug: Bug) -> Vec<bf16> {
        let drawn = |at: usize| key(0).value(DType::Bf16, at as u64);
        let element = |at: usize| {
            let (token, element) = (at / WIDTH, at % WIDTH);
            let first = token * 2 * WIDTH;
            let (gate, up) = match bug {
                Bug::UpFirst => (first + WIDTH + element, first + element),
                Bug::Interleaved => (first + 2 * element, first + 2 * element + 1),
                Bug::UpOfNextToken if token + 1 < TOKENS => {
                    (first + element, first + 3 * WIDTH + element)
                }
                _ => (first + element, first + WIDTH + element),
            };
            let (gate, up) = (drawn(gate), drawn(up));
            let sigmoid = |x: f32| 0.5 * (1.0 + (0.5 * x).tanh());
            let silu = match bug {
                Bug::NoGate => 1.0,
                Bug::SigmoidAlone => sigmoid(gate),
                Bug::WrongSign => gate * sigmoid(-gate),
                Bug::Relu => gate.max(0.0),
                _ => gate * sigmoid(gate),
            };
            bf16::from_f32(silu * up)
        };
        (0..TOKENS * WIDTH).map(element).collect()
    }

    #[test]
    fn planted_mistakes_are_found() {
        let verdict = |bug| checked(&text(), bytemuck::cast_slice(&output(bug)));
        let right = verdict(Bug::None);
        let all = (TOKENS * WIDTH) as u64;
        let expected = (CheckVerdict::Pass, all, String::new());
        assert_eq!((right.verdict, right.elements, right.message), expected);
        for bug in [
            Bug::NoGate,
            Bug::SigmoidAlone,
            Bug::UpFirst,
            Bug::Interleaved,
            Bug::WrongSign,
            Bug::UpOfNextToken,
            Bug::Relu,
        ] {
            let found = verdict(bug);
            assert_eq!(found.verdict, CheckVerdict::Fail, "{bug:?}");
            assert!(found.message.contains(", element "), "{}", found.message);
        }
    }

    #[test]
    fn the_typical_size_is_that_of_drawn_inputs() {
        let y = output(Bug::None);
        let squares: f64 = y.iter().map(|x| f64::from(*x).powi(2)).sum();
        let rms = (squares / y.len() as f64).sqrt();
        assert!((rms / TYPICAL - 1.0).abs() < 0.05, "{rms}");
    }

    #[test]
    fn quantized_tokens_have_no_reference() {
        let quantized = problem("gated_activation:m=1,n=4,dtype=int8");
        let error = check(&quantized, SEED, 0, 0, &[0; 4]).unwrap_err();
        assert!(error.to_string().contains("gated activation in int8"), "{error}");
    }
}
