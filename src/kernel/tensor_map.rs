//! Tensor maps: how the copy engine cuts tiles out of a tensor.

/// A tensor map over one tensor. Fields as in the driver's `cuTensorMapEncodeTiled`,
/// innermost dimension first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Name by which a launch's parameter asks for it, unique in its plan.
    pub name: &'static str,
    /// [`Tensor::name`](crate::format::Tensor::name) of the tensor.
    pub tensor: &'static str,
    /// Bytes of an element: 1, 2 or 4.
    pub element_bytes: u32,
    /// Elements in each dimension.
    pub extents: Vec<u64>,
    /// Bytes from one index to the next, for every dimension but the innermost.
    pub strides_bytes: Vec<u64>,
    /// Elements of a tile in each dimension.
    pub tile: Vec<u32>,
    /// Span of the shared-memory swizzle in bytes: 0, 32, 64 or 128.
    pub swizzle_bytes: u32,
}

impl TensorMap {
    /// The map over the tensor at `address`. Elements outside of it read as zeros.
    pub fn over(&self, address: u64) -> ptxvm::TensorMap {
        use ptxvm::{OutOfBoundsFill, Swizzle, TensorElement};
        ptxvm::TensorMap {
            element: match self.element_bytes {
                1 => TensorElement::U8,
                2 => TensorElement::U16,
                _ => TensorElement::U32,
            },
            address,
            dims: self.extents.clone(),
            strides: self.strides_bytes.clone(),
            box_dims: self.tile.clone(),
            swizzle: match self.swizzle_bytes {
                32 => Swizzle::Bytes32,
                64 => Swizzle::Bytes64,
                128 => Swizzle::Bytes128,
                _ => Swizzle::None,
            },
            fill: OutOfBoundsFill::Zero,
        }
    }
}

/// A tensor map as the hardware reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct EncodedTensorMap(pub [u8; 128]);

impl EncodedTensorMap {
    /// What stands for a map that a configuration does not use.
    pub const UNUSED: EncodedTensorMap = EncodedTensorMap([0; 128]);
}
