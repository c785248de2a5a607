//! The macros by which kernels choose the formats of their tensors.

use crate::format::DType;

/// The macro that chooses a 16-bit format in `element.cuh`.
pub(super) fn element(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::Bf16 => Some("ELEMENT_BF16"),
        DType::F16 => Some("ELEMENT_F16"),
        DType::F32 | DType::Fp8E4m3 | DType::Int8 | DType::Int4 => None,
    }
}

/// The macro that chooses the format of cached keys and values in `cached.cuh`, for
/// queries in `dtype`.
pub(super) fn cached(kv_dtype: DType, dtype: DType) -> Option<&'static str> {
    match kv_dtype {
        DType::Fp8E4m3 => Some("CACHED_E4M3"),
        DType::Int8 => Some("CACHED_INT8"),
        same if same == dtype => Some("CACHED_16"),
        DType::F32 | DType::Bf16 | DType::F16 | DType::Int4 => None,
    }
}

/// The same for cached latents, whose records in fp8_e4m3 have elements in bf16 too.
pub(super) fn cached_latents(kv_dtype: DType, dtype: DType) -> Option<&'static str> {
    match (kv_dtype, dtype) {
        (DType::Fp8E4m3, DType::Bf16) => Some("CACHED_E4M3"),
        (cached, queries) if cached == queries => Some("CACHED_16"),
        _ => None,
    }
}
