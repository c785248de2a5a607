//! Least squares of models with a few parameters.

/// Most steps of one fit; from a good start ten are enough.
const MOST_STEPS: usize = 60;

/// Share of the sum of squares that a further step must take off.
const LEAST_GAIN: f64 = 1e-8;

/// Least pivot of a matrix with ones on its diagonal: below it, parameters are not told
/// apart.
const LEAST_PIVOT: f64 = 1e-10;

/// A square matrix.
pub(super) type Matrix<const P: usize> = [[f64; P]; P];

/// A model at its best parameters.
#[derive(Debug)]
pub(super) struct Fitted<const P: usize> {
    pub parameters: [f64; P],
    /// Derivatives of the model by the parameters, one row for each observation.
    pub rows: Vec<[f64; P]>,
    /// Observed less model.
    pub residuals: Vec<f64>,
    /// Sum of the residuals' squares.
    pub squares: f64,
}

impl<const P: usize> Fitted<P> {
    /// `None` where the model has no value.
    fn at(
        parameters: [f64; P],
        observed: &[f64],
        model: &impl Fn(&[f64; P], usize) -> (f64, [f64; P]),
    ) -> Option<Self> {
        let mut rows = Vec::with_capacity(observed.len());
        let mut residuals = Vec::with_capacity(observed.len());
        for (index, value) in observed.iter().enumerate() {
            let (expected, row) = model(&parameters, index);
            rows.push(row);
            residuals.push(value - expected);
        }
        let squares: f64 = residuals.iter().map(|residual| residual * residual).sum();
        let is_finite =
            squares.is_finite() && rows.iter().flatten().all(|slope| slope.is_finite());
        is_finite.then_some(Fitted { parameters, rows, residuals, squares })
    }

    /// The step to better parameters, short where `damping` is large.
    fn step(&self, damping: f64) -> Option<[f64; P]> {
        let (mut normal, mut score) = ([[0.0; P]; P], [0.0; P]);
        for (row, residual) in self.rows.iter().zip(&self.residuals) {
            add_outer(&mut normal, row);
            for (sum, slope) in score.iter_mut().zip(row) {
                *sum += slope * residual;
            }
        }
        for (at, row) in normal.iter_mut().enumerate() {
            row[at] += damping * row[at].max(f64::MIN_POSITIVE);
        }
        Some(times(&inverse(normal)?, &score))
    }
}

/// The parameters with the least sum of squares near `start`, by the method of Levenberg and
/// Marquardt. `model` gives the value of an observation, by its index, and its derivatives by
/// the parameters. `None` where the model has no value at the start.
pub(super) fn least_squares<const P: usize>(
    start: [f64; P],
    observed: &[f64],
    model: impl Fn(&[f64; P], usize) -> (f64, [f64; P]),
) -> Option<Fitted<P>> {
    let mut best = Fitted::at(start, observed, &model)?;
    let mut damping = 1e-3;
    for _ in 0..MOST_STEPS {
        let Some(step) = best.step(damping) else { break };
        let tried = std::array::from_fn(|at| best.parameters[at] + step[at]);
        let longest = step.iter().fold(0.0_f64, |longest, part| longest.max(part.abs()));
        let found =
            Fitted::at(tried, observed, &model).filter(|f| f.squares <= best.squares);
        match found {
            Some(better) => {
                let gain = best.squares - better.squares;
                best = better;
                damping = (damping / 10.0).max(1e-12);
                if longest < 1e-9 || gain <= LEAST_GAIN * best.squares {
                    break;
                }
            }
            None if damping > 1e9 => break,
            None => damping *= 10.0,
        }
    }
    Some(best)
}

/// Adds the product of a row with itself.
pub(super) fn add_outer<const P: usize>(sum: &mut Matrix<P>, row: &[f64; P]) {
    for (of_sum, a) in sum.iter_mut().zip(row) {
        for (cell, b) in of_sum.iter_mut().zip(row) {
            *cell += a * b;
        }
    }
}

/// A matrix times a vector.
pub(super) fn times<const P: usize>(matrix: &Matrix<P>, vector: &[f64; P]) -> [f64; P] {
    std::array::from_fn(|at| matrix[at].iter().zip(vector).map(|(a, b)| a * b).sum())
}

/// The inverse of a symmetric positive matrix (Gauss and Jordan, scaled to ones on the
/// diagonal); `None` where it has none.
pub(super) fn inverse<const P: usize>(matrix: Matrix<P>) -> Option<Matrix<P>> {
    let scale: [f64; P] = std::array::from_fn(|at| matrix[at][at].sqrt().recip());
    if scale.iter().any(|of| !of.is_finite()) {
        return None;
    }
    let scaled = |m: &Matrix<P>| -> Matrix<P> {
        std::array::from_fn(|i| std::array::from_fn(|j| m[i][j] * scale[i] * scale[j]))
    };
    let mut rest = scaled(&matrix);
    for at in 0..P {
        let pivot = rest[at][at];
        if pivot.is_nan() || pivot <= LEAST_PIVOT {
            return None;
        }
        rest[at][at] = 1.0;
        let lead = rest[at].map(|cell| cell / pivot);
        for (_, row) in rest.iter_mut().enumerate().filter(|(other, _)| *other != at) {
            let factor = std::mem::replace(&mut row[at], 0.0);
            for (cell, of_lead) in row.iter_mut().zip(lead) {
                *cell -= factor * of_lead;
            }
        }
        rest[at] = lead;
    }
    Some(scaled(&rest))
}
