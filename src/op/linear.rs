//! Weights of linear layers: their bytes, their scales, and the shapes that they may have.

use super::ProblemError;
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::weights;

/// Bytes of a matrix `[n][k]` of weights, and of their scales.
pub(super) const fn weights_bytes(dtype: DType, n: u64, k: u64) -> u64 {
    let scales = match scale_format(dtype) {
        Some(format) => format.bytes_of(n * scales_of_row(dtype, k)),
        None => 0,
    };
    dtype.bytes_of(n * k) + scales
}

/// What the scales of weights are, where they have any.
const fn scale_format(dtype: DType) -> Option<TensorFormat> {
    match dtype {
        DType::Int4 => Some(TensorFormat::HalfScales(dtype)),
        _ if dtype.is_scaled() => Some(TensorFormat::Scales(dtype)),
        _ => None,
    }
}

/// Scales of each output feature, where weights have scales.
const fn scales_of_row(dtype: DType, k: u64) -> u64 {
    match dtype {
        DType::Int4 => k / weights::GROUP_COLUMNS,
        _ => 1,
    }
}

/// The scales of so many matrices `[n][k]` of weights, where they have any.
pub(super) fn weight_scales(
    name: &'static str,
    dtype: DType,
    matrices: u64,
    (n, k): (u64, u64),
) -> Option<Tensor> {
    let count = matrices * n * scales_of_row(dtype, k);
    scale_format(dtype).map(|format| Tensor::new(name, Role::Input, format, count))
}

/// Refuses matrices `[n][k]` of int4 that are not whole tiles and groups.
pub(super) fn check_weights(dtype: DType, n: u64, k: u64) -> Result<(), ProblemError> {
    if dtype != DType::Int4 {
        return Ok(());
    }
    for (key, value, of) in [("n", n, weights::TILE_ROWS), ("k", k, weights::GROUP_COLUMNS)]
    {
        if !value.is_multiple_of(of) {
            return Err(ProblemError::at(
                key,
                format!(
                    "{key} = {value} is not a multiple of {of}, which tiles and groups of int4 \
                     weights are made of; use {}",
                    value.next_multiple_of(of)
                ),
            ));
        }
    }
    Ok(())
}
