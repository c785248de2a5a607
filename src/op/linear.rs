//! Matrices of linear layers: their tensors, and the shapes that they may have.

use super::ProblemError;
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::quant::{Misfit, Quant, QuantPlace};

/// Names of the tensors of a matrix, of which only the first is always there.
pub(super) struct MatrixNames {
    pub values: &'static str,
    pub scales: &'static str,
    pub zero_points: &'static str,
    pub tensor_scale: &'static str,
}

/// The tensors of so many matrices `[rows][columns]`: values, and what belongs to their
/// scheme, all matrices of each after each other.
pub(super) fn matrix_tensors(
    names: &MatrixNames,
    quant: Quant,
    matrices: u64,
    (rows, columns): (u64, u64),
) -> Vec<Tensor> {
    let input =
        |name, format, of_one| Tensor::new(name, Role::Input, format, matrices * of_one);
    let format = TensorFormat::Values(quant.dtype());
    let mut tensors = vec![input(names.values, format, rows * columns)];
    let count = quant.scale_count(rows, columns);
    tensors.extend(quant.scale_format().map(|format| input(names.scales, format, count)));
    if quant.has_zero_points() {
        tensors.push(input(names.zero_points, TensorFormat::Values(DType::Int4), count));
    }
    if quant.has_tensor_scale() {
        tensors.push(input(names.tensor_scale, TensorFormat::Scales(quant.dtype()), 1));
    }
    tensors
}

/// Refuses schemes that weights do not have.
pub(super) fn check_weights(quant: Quant) -> Result<(), ProblemError> {
    let place = quant.check_place(QuantPlace::Weights);
    place.map_err(|message| ProblemError::at("w_dtype", message))
}

/// Refuses matrices `[n][k]` that the scheme does not divide: kernels take whole groups.
/// What is counted has a shorter group at the end of each row.
pub(super) fn check_whole_groups(quant: Quant, n: u64, k: u64) -> Result<(), ProblemError> {
    let Err(misfit) = quant.check_matrix(n, k) else { return Ok(()) };
    let (key, value, of) = match misfit {
        Misfit::Rows(of) => ("n", n, of),
        Misfit::Columns(of) => ("k", k, of),
    };
    let what = match quant.dtype() {
        DType::Int4 => format!("tiles and groups of {quant} weights are made of"),
        _ => format!("groups of {quant} are made of"),
    };
    Err(ProblemError::at(
        key,
        format!(
            "{key} = {value} is not a multiple of {of}, which {what}; use {}",
            value.next_multiple_of(of)
        ),
    )
    .but_countable())
}

/// Refuses schemes that activations in `dtype` do not have, and matrices `[rows][k]` that
/// the scheme does not divide.
pub(super) fn check_activations(
    a_dtype: Quant,
    dtype: DType,
    rows: u64,
    k: u64,
) -> Result<(), ProblemError> {
    let place = a_dtype.check_place(QuantPlace::Activations);
    place.map_err(|message| ProblemError::at("a_dtype", message))?;
    if !a_dtype.is_scaled() && a_dtype != Quant::plain(dtype) {
        return Err(ProblemError::at(
            "a_dtype",
            format!(
                "a_dtype = {a_dtype} has no scales and is not dtype = {dtype}; leave it out, or \
                 write a scheme such as fp8_e4m3_block1x128"
            ),
        ));
    }
    match a_dtype.check_matrix(rows, k) {
        Ok(()) => Ok(()),
        Err(Misfit::Rows(of) | Misfit::Columns(of)) => Err(ProblemError::at(
            "k",
            format!(
                "k = {k} is not a multiple of {of}, which groups of {a_dtype} are made of; \
                 use {}",
                k.next_multiple_of(of)
            ),
        )),
    }
}

/// The format that products are made in: that of both operands, else that of the output.
pub(super) fn math_dtype(a_dtype: Quant, w_dtype: Quant, dtype: DType) -> DType {
    let (a, w) = (a_dtype.dtype(), w_dtype.dtype());
    if a == w { a } else { dtype }
}
