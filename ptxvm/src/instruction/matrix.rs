//! Matrix products and the moves of their fragments.

use crate::count::Unit;
use crate::float::{E4M3, E5M2, F16, Format, Rounding, bf16_to_f32, f16_to_f32};
use crate::instruction::address::Address;
use crate::lanes::LANES;

/// The element type of a matrix operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F16,
    BF16,
    TF32,
    E4M3,
    E5M2,
    S8,
    U8,
    F64,
}

/// The type that products are summed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accumulator {
    F16,
    F32,
    S32,
    F64,
}

impl Element {
    /// The matrix element that a type name means.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "f16" => Self::F16,
            "bf16" => Self::BF16,
            "tf32" => Self::TF32,
            "e4m3" => Self::E4M3,
            "e5m2" => Self::E5M2,
            "s8" => Self::S8,
            "u8" => Self::U8,
            "f64" => Self::F64,
            _ => return None,
        })
    }

    pub(crate) fn unit(self) -> Unit {
        match self {
            Self::F16 => Unit::TensorF16,
            Self::BF16 => Unit::TensorBF16,
            Self::TF32 => Unit::TensorTF32,
            Self::E4M3 | Self::E5M2 => Unit::TensorF8,
            Self::S8 | Self::U8 => Unit::TensorInt8,
            Self::F64 => Unit::TensorF64,
        }
    }

    pub(crate) fn is_integer(self) -> bool {
        matches!(self, Self::S8 | Self::U8)
    }

    pub(crate) fn bits(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 16,
            Self::TF32 => 32,
            Self::F64 => 64,
            _ => 8,
        }
    }

    /// The value of the element's bits; exact in f64.
    pub(crate) fn value(self, bits: u32) -> f64 {
        match self {
            Self::F16 => f64::from(f16_to_f32(bits as u16)),
            Self::BF16 => f64::from(bf16_to_f32(bits as u16)),
            // The low bits of a tf32 operand are ignored.
            Self::TF32 => f64::from(f32::from_bits(bits & 0xffff_e000)),
            Self::E4M3 => small(E4M3, bits),
            Self::E5M2 => small(E5M2, bits),
            Self::S8 => f64::from(bits as u8 as i8),
            Self::U8 => f64::from(bits as u8),
            Self::F64 => f64::NAN,
        }
    }

    /// The elements of 16 bytes, and zeros after them.
    pub(crate) fn values(self, bytes: &[u8; 16]) -> [f64; 16] {
        match self {
            Self::BF16 => of_pairs(bytes, bf16_to_f32),
            Self::F16 => of_pairs(bytes, f16_to_f32),
            Self::S8 => bytes.map(|byte| f64::from(byte as i8)),
            Self::U8 => bytes.map(f64::from),
            Self::E4M3 => bytes.map(|byte| small(E4M3, byte.into())),
            Self::E5M2 => bytes.map(|byte| small(E5M2, byte.into())),
            Self::TF32 | Self::F64 => {
                let mut values = [0.0; 16];
                let (words, _) = bytes.as_chunks();
                let words = words.iter().map(|&word| u32::from_le_bytes(word));
                values.iter_mut().zip(words).for_each(|(v, word)| *v = self.value(word));
                values
            }
        }
    }

    /// A register's elements in every lane, the lowest first.
    pub(crate) fn expand(self, words: &[u32; LANES]) -> [[f64; 4]; LANES] {
        let bytes =
            |word: u32, value: fn(u32) -> f64| word.to_le_bytes().map(|b| value(b.into()));
        match self {
            Self::BF16 => words.map(|word| {
                let high = f64::from(f32::from_bits(word & 0xffff_0000));
                [f64::from(f32::from_bits(word << 16)), high, 0.0, 0.0]
            }),
            Self::F16 => words.map(|word| {
                let high = f64::from(f16_to_f32((word >> 16) as u16));
                [f64::from(f16_to_f32(word as u16)), high, 0.0, 0.0]
            }),
            Self::S8 => words.map(|word| bytes(word, |b| f64::from(b as u8 as i8))),
            Self::U8 => words.map(|word| bytes(word, f64::from)),
            Self::E4M3 => words.map(|word| bytes(word, |b| small(E4M3, b))),
            Self::E5M2 => words.map(|word| bytes(word, |b| small(E5M2, b))),
            Self::TF32 | Self::F64 => words.map(|word| [self.value(word), 0.0, 0.0, 0.0]),
        }
    }
}

impl Accumulator {
    /// `sum` added to the accumulator with bits `old`.
    pub(crate) fn add(self, old: u32, sum: f64, saturate: bool) -> u32 {
        match self {
            Self::F32 => (f64::from(f32::from_bits(old)) + sum) as f32,
            Self::S32 => {
                let total = i64::from(old as i32) + sum as i64;
                return if saturate {
                    total.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u32
                } else {
                    total as u32
                };
            }
            Self::F16 => {
                let total = f64::from(f16_to_f32(old as u16)) + sum;
                return F16.encode(total, Rounding::Nearest, false) as u32;
            }
            Self::F64 => f32::NAN,
        }
        .to_bits()
    }
}

fn of_pairs(bytes: &[u8; 16], value: impl Fn(u16) -> f32) -> [f64; 16] {
    let mut values = [0.0; 16];
    let (pairs, _) = bytes.as_chunks();
    let pairs = pairs.iter().map(|&pair| f64::from(value(u16::from_le_bytes(pair))));
    values.iter_mut().zip(pairs).for_each(|(value, pair)| *value = pair);
    values
}

fn small(format: Format, bits: u32) -> f64 {
    use std::sync::LazyLock;
    static TABLES: LazyLock<[[f64; 256]; 2]> = LazyLock::new(|| {
        [E4M3, E5M2].map(|format| std::array::from_fn(|bits| format.decode(bits as u64)))
    });
    TABLES[usize::from(format == E5M2)][(bits & 0xff) as usize]
}

/// `ldmatrix` or `stmatrix` of one, two or four 8x8 matrices of 16-bit elements.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LdMatrix {
    pub registers: Vec<u16>,
    pub address: Address,
    pub transpose: bool,
}

/// `mma.sync`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mma {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a_ty: Element,
    pub b_ty: Element,
    pub accumulator: Accumulator,
    pub saturate: bool,
    pub d: Vec<u16>,
    pub a: Vec<u16>,
    pub b: Vec<u16>,
    pub c: Vec<u16>,
}

/// The operand A of `wgmma`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum WgmmaA {
    Registers(Vec<u16>),
    Descriptor(u16),
}

/// `wgmma.mma_async`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wgmma {
    pub n: usize,
    pub k: usize,
    pub a_ty: Element,
    pub b_ty: Element,
    pub accumulator: Accumulator,
    pub saturate: bool,
    pub d: Vec<u16>,
    pub a: WgmmaA,
    pub b: u16,
    pub scale_d: u16,
    pub negate_a: bool,
    pub negate_b: bool,
    pub transpose_a: bool,
    pub transpose_b: bool,
}

impl Wgmma {
    /// Whether tensor cores add the products in fixed point. Sums in f16 are exact here: what
    /// they are on hardware was not looked at.
    pub(crate) fn is_fixed_point(&self) -> bool {
        matches!(self.a_ty, Element::E4M3 | Element::E5M2)
            && self.accumulator == Accumulator::F32
    }
}
