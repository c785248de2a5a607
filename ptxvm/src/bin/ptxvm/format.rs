//! Number formats of buffers.

use half::{bf16, f16};
use serde::Deserialize;

/// How a buffer's elements are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Format {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// Whether its values have fractions.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }

    /// The least and the largest integer; the largest finite value of no interest for
    /// floats.
    fn range(self) -> Option<(i128, i128)> {
        let bits = 8 * self.bytes() as u32;
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Some((0, (1 << bits) - 1)),
            Self::I8 | Self::I16 | Self::I32 | Self::I64 => {
                Some((-(1 << (bits - 1)), (1 << (bits - 1)) - 1))
            }
            _ => None,
        }
    }

    /// The bytes of a value: floats are rounded, integers must fit.
    pub fn encode(self, value: Number) -> Result<Vec<u8>, String> {
        if let Some((least, most)) = self.range() {
            let integer = match value {
                Number::Integer(value) => i128::from(value),
                Number::Float(value) if value.fract() == 0.0 => value as i128,
                Number::Float(value) => {
                    return Err(format!("{value} is not an integer, as {self:?} needs"));
                }
            };
            if integer < least || integer > most {
                return Err(format!("{integer} does not fit into {self:?}"));
            }
            return Ok(integer.to_le_bytes()[..self.bytes()].to_vec());
        }
        let value = value.float();
        Ok(match self {
            Self::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
            Self::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
            Self::F32 => (value as f32).to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        })
    }

    /// The value of an element's bytes, for messages and tolerances.
    pub fn decode(self, bytes: &[u8]) -> f64 {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(wide);
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => bits as f64,
            Self::I8 => f64::from(bits as i8),
            Self::I16 => f64::from(bits as i16),
            Self::I32 => f64::from(bits as i32),
            Self::I64 => bits as i64 as f64,
            Self::F16 => f16::from_bits(bits as u16).to_f64(),
            Self::Bf16 => bf16::from_bits(bits as u16).to_f64(),
            Self::F32 => f64::from(f32::from_bits(bits as u32)),
            Self::F64 => f64::from_bits(bits),
        }
    }
}

/// A number of a specification.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Number {
    Integer(i64),
    Float(f64),
}

impl Number {
    /// The value as a float.
    pub fn float(self) -> f64 {
        match self {
            Self::Integer(value) => value as f64,
            Self::Float(value) => value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive() {
        for (format, value) in [
            (Format::U8, 255.0),
            (Format::I8, -128.0),
            (Format::I16, -300.0),
            (Format::U32, 4e9),
            (Format::I64, -5e15),
            (Format::F16, -1.5),
            (Format::Bf16, 2.5e30),
            (Format::F32, 0.1f32 as f64),
            (Format::F64, 0.1),
        ] {
            let bytes = format.encode(Number::Float(value)).unwrap();
            assert_eq!(bytes.len(), format.bytes());
            // A bf16 keeps eight bits.
            let margin = if format == Format::Bf16 { value * 0.004 } else { 0.0 };
            assert!((format.decode(&bytes) - value).abs() <= margin, "{format:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Format::U8.encode(Number::Integer(256)).is_err());
        assert!(Format::U32.encode(Number::Integer(-1)).is_err());
        assert!(Format::I32.encode(Number::Float(0.5)).is_err());
        assert!(Format::U64.encode(Number::Integer(i64::MAX)).is_ok());
    }
}
