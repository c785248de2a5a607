//! Tensor maps: the parameters of `cuTensorMapEncodeTiled`, in an encoding of this crate.

use thiserror::Error;

/// Element types of tensor maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TensorElement {
    /// 8-bit integers, and all other types of one byte.
    U8,
    /// 16-bit integers.
    U16,
    /// 32-bit integers.
    U32,
    /// Signed 32-bit integers.
    I32,
    /// 64-bit integers.
    U64,
    /// Signed 64-bit integers.
    I64,
    /// binary16.
    F16,
    /// binary32.
    F32,
    /// binary64.
    F64,
    /// bfloat16.
    BF16,
}

impl TensorElement {
    /// All element types.
    pub const ALL: [Self; 10] = [
        Self::U8,
        Self::U16,
        Self::U32,
        Self::I32,
        Self::U64,
        Self::I64,
        Self::F16,
        Self::F32,
        Self::F64,
        Self::BF16,
    ];

    /// Bytes of an element.
    pub fn bytes(self) -> u64 {
        match self {
            Self::U8 => 1,
            Self::U16 | Self::F16 | Self::BF16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32 | Self::F64 | Self::BF16)
    }
}

/// How 16-byte chunks are permuted in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Swizzle {
    /// No permutation.
    None,
    /// Within 32 bytes.
    Bytes32,
    /// Within 64 bytes.
    Bytes64,
    /// Within 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// The address of the byte that the layout without a swizzle has at `address`. It
    /// depends on the address in shared memory only, for tensor copies and for wgmma.
    pub(crate) fn apply(self, address: u32) -> u32 {
        let bits = (1 << self as u32) - 1;
        address ^ (address >> 7 & bits) << 4
    }

    fn span(self) -> u64 {
        match self {
            Self::None => u64::MAX,
            Self::Bytes32 => 32,
            Self::Bytes64 => 64,
            Self::Bytes128 => 128,
        }
    }
}

/// The value of elements outside of the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum OutOfBoundsFill {
    /// Zero.
    Zero,
    /// A NaN.
    Nan,
}

/// A tiled tensor map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMap {
    /// The elements' type.
    pub element: TensorElement,
    /// Address of the tensor's first element.
    pub address: u64,
    /// Extent of each dimension in elements, the innermost first; one to five.
    pub dims: Vec<u64>,
    /// Bytes from one index to the next, for every dimension except the innermost.
    pub strides: Vec<u64>,
    /// Extent of the box that one copy moves.
    pub box_dims: Vec<u32>,
    /// Permutation of the box in shared memory.
    pub swizzle: Swizzle,
    /// The value of elements outside of the tensor.
    pub fill: OutOfBoundsFill,
}

/// Why a tensor map cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct TensorMapError(String);

/// The fields that `tensormap.replace` changes.
pub(crate) const FIELDS: [&str; 10] = [
    "global_address",
    "rank",
    "box_dim",
    "global_dim",
    "global_stride",
    "element_stride",
    "elemtype",
    "interleave_layout",
    "swizzle_mode",
    "fill_mode",
];

/// Whether a field has a value for each dimension.
pub(crate) fn has_ordinal(name: &str) -> bool {
    matches!(name, "box_dim" | "global_dim" | "global_stride" | "element_stride")
}

/// Where a field of dimension `n` lies in an encoded map: its first byte, its bytes, what
/// is added to the instruction's value, and the largest value. Strides of elements and
/// interleaving are not kept: they must be 1 and 0, and lie in unused bytes.
pub(crate) fn field(name: &str, n: u64) -> Option<(u16, u8, u8, u64)> {
    let dimensions = if name == "global_stride" { 4 } else { 5 };
    if n >= dimensions {
        return None;
    }
    let n = n as u16;
    Some(match name {
        "global_address" => (16, 8, 0, u64::MAX),
        "rank" => (8, 1, 1, 4),
        "box_dim" => (96 + 2 * n, 2, 0, 256),
        "global_dim" => (24 + 8 * n, 8, 0, u64::from(u32::MAX)),
        "global_stride" => (64 + 8 * n, 8, 0, u64::MAX),
        "element_stride" => (112 + n, 1, 0, 1),
        "elemtype" => (9, 1, 0, 12),
        "interleave_layout" => (12, 1, 0, 0),
        "swizzle_mode" => (10, 1, 0, 3),
        "fill_mode" => (11, 1, 0, 1),
        _ => return None,
    })
}

/// Where the element type lies in an encoded map.
pub(crate) const ELEMENT_AT: u16 = 9;

/// The encoded number of an element type by its number in `tensormap.replace`, which has
/// types that flush to zero or are tf32 beside those that are the same in memory.
pub(crate) fn element_number(number: u64) -> u64 {
    let element = match number {
        0 => TensorElement::U8,
        1 => TensorElement::U16,
        2 => TensorElement::U32,
        3 => TensorElement::I32,
        4 => TensorElement::U64,
        5 => TensorElement::I64,
        6 => TensorElement::F16,
        9 => TensorElement::F64,
        10 => TensorElement::BF16,
        _ => TensorElement::F32,
    };
    element as u64
}

/// The first bytes of an encoded map, so that other bytes are refused.
const MAGIC: [u8; 8] = *b"ptxvmmap";

impl TensorMap {
    /// The 128 bytes that a kernel takes as its parameter, aligned to 64.
    ///
    /// # Errors
    /// If the driver would refuse the same parameters.
    pub fn encode(&self) -> Result<[u8; 128], TensorMapError> {
        self.check().map_err(TensorMapError)?;
        let mut out = Vec::with_capacity(128);
        out.extend(MAGIC);
        out.extend([self.dims.len() as u8, self.element as u8]);
        out.extend([self.swizzle as u8, self.fill as u8, 0, 0, 0, 0]);
        out.extend(self.address.to_le_bytes());
        for n in 0..5 {
            out.extend(self.dims.get(n).copied().unwrap_or(1).to_le_bytes());
        }
        for n in 0..4 {
            out.extend(self.strides.get(n).copied().unwrap_or(0).to_le_bytes());
        }
        for n in 0..5 {
            out.extend((self.box_dims.get(n).copied().unwrap_or(1) as u16).to_le_bytes());
        }
        out.resize(128, 0);
        let mut bytes = [0; 128];
        bytes.copy_from_slice(&out);
        Ok(bytes)
    }

    /// The map that [`TensorMap::encode`] encoded as `bytes`.
    pub(crate) fn decode(bytes: &[u8; 128]) -> Option<Self> {
        if bytes[..8] != MAGIC {
            return None;
        }
        let word = |at: usize| {
            bytes[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default()
        };
        let half = |at: usize| u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let rank = usize::from(bytes[8]);
        let map = Self {
            element: *TensorElement::ALL.get(usize::from(bytes[9]))?,
            address: word(16),
            dims: (0..rank).map(|n| word(24 + 8 * n)).collect(),
            strides: (0..rank.checked_sub(1)?).map(|n| word(64 + 8 * n)).collect(),
            box_dims: (0..rank).map(|n| half(96 + 2 * n)).collect(),
            swizzle: match bytes[10] {
                0 => Swizzle::None,
                1 => Swizzle::Bytes32,
                2 => Swizzle::Bytes64,
                3 => Swizzle::Bytes128,
                _ => return None,
            },
            fill: if bytes[11] == 0 { OutOfBoundsFill::Zero } else { OutOfBoundsFill::Nan },
        };
        map.check().is_ok().then_some(map)
    }

    fn check(&self) -> Result<(), String> {
        let rank = self.dims.len();
        if !(1..=5).contains(&rank) {
            return Err(format!("a tensor has 1 to 5 dimensions, not {rank}"));
        }
        if self.strides.len() != rank - 1 || self.box_dims.len() != rank {
            return Err("there must be a stride for every dimension but the innermost, and a box extent for every one".to_owned());
        }
        if !self.address.is_multiple_of(16) {
            return Err("the address must be a multiple of 16".to_owned());
        }
        if let Some(dim) = self.dims.iter().find(|&&dim| dim == 0 || dim > 1 << 32) {
            return Err(format!("a dimension has 1 to 2^32 elements, not {dim}"));
        }
        if let Some(stride) = self.strides.iter().find(|&&s| s % 16 != 0 || s >= 1 << 40) {
            return Err(format!(
                "a stride of {stride} bytes is not a multiple of 16 below 2^40"
            ));
        }
        if let Some(extent) = self.box_dims.iter().find(|&&n| n == 0 || n > 256) {
            return Err(format!(
                "a box has 1 to 256 elements in a dimension, not {extent}"
            ));
        }
        let inner = u64::from(self.box_dims[0]) * self.element.bytes();
        if !inner.is_multiple_of(16) || inner > self.swizzle.span() {
            return Err(format!(
                "rows of {inner} bytes in the box are not a multiple of 16 within the swizzle's span"
            ));
        }
        if self.fill == OutOfBoundsFill::Nan && !self.element.is_float() {
            return Err(
                "out-of-bounds elements of an integer type cannot be NaN".to_owned()
            );
        }
        Ok(())
    }

    /// Bytes of a box.
    pub(crate) fn box_bytes(&self) -> u64 {
        self.box_dims.iter().map(|&n| u64::from(n)).product::<u64>() * self.element.bytes()
    }

    /// The bytes of an element outside of the tensor, repeated.
    pub(crate) fn fill_bytes(&self) -> [u8; 16] {
        let nan: &[u8] = match (self.fill, self.element) {
            (OutOfBoundsFill::Zero, _) => &[0],
            (_, TensorElement::F16 | TensorElement::BF16) => &[0xff, 0x7f],
            (_, TensorElement::F64) => &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
            _ => &[0xff, 0xff, 0xff, 0x7f],
        };
        std::array::from_fn(|n| nan[n % nan.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> TensorMap {
        TensorMap {
            element: TensorElement::BF16,
            address: 0x1000,
            dims: vec![100, 7, 3],
            strides: vec![208, 2080],
            box_dims: vec![64, 4, 1],
            swizzle: Swizzle::Bytes128,
            fill: OutOfBoundsFill::Nan,
        }
    }

    #[test]
    fn maps_survive_encoding() {
        let bytes = map().encode().unwrap();
        assert_eq!(TensorMap::decode(&bytes), Some(map()));
        assert_eq!(TensorMap::decode(&[0; 128]), None);
    }

    #[test]
    fn what_the_driver_refuses_is_refused() {
        let refused = |change: fn(&mut TensorMap)| {
            let mut map = map();
            change(&mut map);
            map.encode().is_err()
        };
        assert!(refused(|map| map.address += 8));
        assert!(refused(|map| map.strides[0] = 200));
        assert!(refused(|map| map.box_dims[0] = 72));
        assert!(refused(|map| map.box_dims[0] = 60));
        assert!(refused(|map| map.box_dims[1] = 257));
        assert!(refused(|map| map.dims[1] = 0));
        assert!(refused(|map| map.dims.clear()));
    }

    #[test]
    fn swizzles_permute_chunks() {
        // Row r of 128 bytes has its chunk c at c ^ r.
        for row in 0..8 {
            for chunk in 0..8 {
                let swizzled = Swizzle::Bytes128.apply(1024 + 128 * row + 16 * chunk);
                assert_eq!(swizzled, 1024 + 128 * row + 16 * (chunk ^ row));
            }
        }
        // Two rows of 64 bytes share 128 bytes: chunks of 4 change every other row.
        assert_eq!(Swizzle::Bytes64.apply(128), 128 + 16);
        assert_eq!(Swizzle::Bytes64.apply(64), 64);
        assert_eq!(Swizzle::Bytes64.apply(3 * 128), 3 * 128 + 48);
        assert_eq!(Swizzle::Bytes32.apply(128), 128 + 16);
        assert_eq!(Swizzle::Bytes32.apply(256), 256);
    }
}
