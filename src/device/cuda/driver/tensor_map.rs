//! Tensor maps in the driver's terms.

use cudarc::driver::sys;
use ptxvm::{OutOfBoundsFill, TensorElement};

use super::error::Result;
use super::ffi::encode_tiled;
use crate::kernel::EncodedTensorMap;

fn data_type(element: TensorElement) -> sys::CUtensorMapDataType {
    use sys::CUtensorMapDataType as DataType;
    match element {
        TensorElement::U8 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        TensorElement::U16 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
        TensorElement::U32 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT32,
        TensorElement::I32 => DataType::CU_TENSOR_MAP_DATA_TYPE_INT32,
        TensorElement::U64 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT64,
        TensorElement::I64 => DataType::CU_TENSOR_MAP_DATA_TYPE_INT64,
        TensorElement::F16 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        TensorElement::F32 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        TensorElement::F64 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT64,
        TensorElement::BF16 => DataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
    }
}

/// Encodes a tensor map over an address.
pub fn encode(map: &ptxvm::TensorMap) -> Result<EncodedTensorMap> {
    use sys::CUtensorMapFloatOOBfill as Fill;
    use sys::CUtensorMapSwizzle as Swizzle;
    let swizzle = match map.swizzle {
        ptxvm::Swizzle::None => Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        ptxvm::Swizzle::Bytes32 => Swizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        ptxvm::Swizzle::Bytes64 => Swizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        ptxvm::Swizzle::Bytes128 => Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let fill = match map.fill {
        OutOfBoundsFill::Zero => Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        OutOfBoundsFill::Nan => Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA,
    };
    let target = data_type(map.element);
    let shape = [&map.dims, &map.strides].map(Vec::as_slice);
    encode_tiled(target, map.address, shape, &map.box_dims, swizzle, fill)
}
