//! The macros by which kernels choose the formats of their tensors.

use crate::problem::DType;

/// The macro that chooses a 16-bit format in `element.cuh`.
pub(super) fn element(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::Bf16 => Some("ELEMENT_BF16"),
        DType::F16 => Some("ELEMENT_F16"),
        DType::F32 | DType::Fp8E4m3 | DType::Int8 | DType::Int4 => None,
    }
}
