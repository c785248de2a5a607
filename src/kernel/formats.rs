//! The macros by which kernels choose the formats of their tensors.

use super::refusal::{Refusal, refuse_unless};
use crate::format::DType;
use crate::op::Gemm;
use crate::quant::{Quant, QuantPlace};

/// The macro that chooses a 16-bit format in `element.cuh`.
pub(super) fn element(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::Bf16 => Some("ELEMENT_BF16"),
        DType::F16 => Some("ELEMENT_F16"),
        _ => None,
    }
}

/// The same in `word.cuh`, which has 32 bits too.
pub(super) fn element_or_f32(dtype: DType) -> Option<&'static str> {
    if dtype == DType::F32 { Some("ELEMENT_F32") } else { element(dtype) }
}

/// The same in the kernels of matrix products that multiply tf32 too.
pub(super) fn element_or_tf32(dtype: DType) -> Option<&'static str> {
    if dtype == DType::Tf32 { Some("ELEMENT_TF32") } else { element(dtype) }
}

/// The macro that chooses the format of cached keys and values in `cached.cuh`, for
/// queries in `dtype`.
pub(super) fn cached(kv_dtype: Quant, dtype: DType) -> Option<&'static str> {
    if kv_dtype != Quant::cache(kv_dtype.dtype()) {
        return None;
    }
    match kv_dtype.dtype() {
        DType::Fp8E4m3 => Some("CACHED_E4M3"),
        DType::Int8 => Some("CACHED_INT8"),
        same if same == dtype => Some("CACHED_16"),
        _ => None,
    }
}

/// The same for cached latents, whose records in fp8_e4m3 have elements in bf16 too.
pub(super) fn cached_latents(kv_dtype: Quant, dtype: DType) -> Option<&'static str> {
    match (kv_dtype.dtype(), dtype) {
        (DType::Fp8E4m3, DType::Bf16) => Some("CACHED_E4M3"),
        (cached, queries) if cached == queries => Some("CACHED_16"),
        _ => None,
    }
}

/// Refuses schemes other than the one that is customary for the format of elements.
pub(super) fn refuse_scheme(
    key: &str,
    scheme: Quant,
    place: QuantPlace,
) -> Result<(), Refusal> {
    let customary = match scheme.dtype() {
        DType::Fp4E2m1 => Quant::of(DType::Int4, place),
        dtype => Quant::of(dtype, place),
    };
    refuse_unless(scheme == customary, || {
        format!("{key} = {customary}, not {scheme}; no kernel here scales as that does")
    })
}

/// Refuses activations that have scales.
pub(super) fn refuse_activations_scheme(p: &Gemm) -> Result<(), Refusal> {
    refuse_unless(p.has_plain_activations(), || {
        format!(
            "activations in dtype = {}, not a_dtype = {}; leave a_dtype out",
            p.dtype, p.a_dtype
        )
    })
}
