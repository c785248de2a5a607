//! Numbers by their definitions: exact values as integers times powers of two, and one
//! rounding from them into any format. It is slow and short, and does not share any code
//! with the machine under test.

/// A binary floating-point format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Bits of the exponent field.
    pub exponent_bits: u32,
    /// Bits of the fraction field.
    pub fraction_bits: u32,
    /// Whether the largest exponent means infinities and NaNs. If not, only the pattern of
    /// all ones is not a number.
    pub has_infinity: bool,
    /// Bits below the fraction in a register, all zero.
    pub unused_bits: u32,
}

const fn ieee(exponent_bits: u32, fraction_bits: u32) -> Format {
    Format { exponent_bits, fraction_bits, has_infinity: true, unused_bits: 0 }
}

pub(super) const F64: Format = ieee(11, 52);
pub(super) const F32: Format = ieee(8, 23);
pub(super) const F16: Format = ieee(5, 10);
pub(super) const BF16: Format = ieee(8, 7);
pub(super) const E5M2: Format = ieee(5, 2);
pub(super) const E4M3: Format = Format { has_infinity: false, ..ieee(4, 3) };
pub(super) const TF32: Format = Format { unused_bits: 13, ..ieee(8, 10) };

impl Format {
    const fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    /// Bits of a value, sign included.
    pub(super) const fn bits(self) -> u32 {
        1 + self.exponent_bits + self.fraction_bits + self.unused_bits
    }

    /// The pattern of the largest finite value.
    pub(super) const fn largest(self) -> u64 {
        let all = (1 << (self.exponent_bits + self.fraction_bits)) - 1;
        if self.has_infinity { all - (1 << self.fraction_bits) } else { all - 1 }
    }

    /// The pattern of infinity, or of the format's NaN if it does not have infinities.
    const fn infinity(self) -> u64 {
        self.largest() + 1
    }

    /// Whether `bits` are not a number.
    pub(super) fn is_nan(self, bits: u64) -> bool {
        let magnitude = bits >> self.unused_bits & self.magnitude_mask();
        magnitude > self.largest() + u64::from(self.has_infinity)
    }

    fn magnitude_mask(self) -> u64 {
        (1 << (self.exponent_bits + self.fraction_bits)) - 1
    }

    /// The value of finite `bits`, exactly.
    pub(super) fn decode(self, bits: u64) -> Exact {
        let bits = bits >> self.unused_bits;
        let magnitude = bits & self.magnitude_mask();
        let field = magnitude >> self.fraction_bits;
        let fraction = magnitude & ((1 << self.fraction_bits) - 1);
        let implied = u64::from(field != 0) << self.fraction_bits;
        Exact {
            negative: bits > self.magnitude_mask(),
            magnitude: u128::from(fraction | implied),
            exponent: field.max(1) as i32 - self.bias() - self.fraction_bits as i32,
        }
    }

    /// `bits` as a number of the host, NaNs and infinities included.
    pub(super) fn to_f64(self, bits: u64) -> f64 {
        if self.is_nan(bits) {
            return f64::NAN;
        }
        let value = self.decode(bits);
        let is_infinite = self.has_infinity
            && bits >> self.unused_bits & self.magnitude_mask() > self.largest();
        let magnitude = if is_infinite {
            f64::INFINITY
        } else {
            scale(value.magnitude as f64, value.exponent)
        };
        if value.negative { -magnitude } else { magnitude }
    }

    /// `value` rounded by `mode`.
    pub(super) fn round(self, value: Exact, mode: Mode) -> u64 {
        let sign = u64::from(value.negative) << (self.exponent_bits + self.fraction_bits);
        (sign | self.round_magnitude(value, mode)) << self.unused_bits
    }

    fn round_magnitude(self, value: Exact, mode: Mode) -> u64 {
        if value.magnitude == 0 {
            return 0;
        }
        let top = value.magnitude.ilog2() as i32 + value.exponent;
        // The power of two that the last bit of the result stands for.
        let mut quantum = top.max(1 - self.bias()) - self.fraction_bits as i32;
        let mut kept = value.in_units_of(quantum, mode);
        if kept >> (self.fraction_bits + 1) != 0 {
            kept >>= 1;
            quantum += 1;
        }
        let kept = kept as u64;
        if kept >> self.fraction_bits == 0 {
            return kept;
        }
        let field = quantum + self.fraction_bits as i32 + self.bias();
        let fraction = kept & ((1 << self.fraction_bits) - 1);
        let magnitude = (field as u64) << self.fraction_bits | fraction;
        if magnitude <= self.largest() {
            return magnitude;
        }
        let outward = match mode {
            Mode::Nearest | Mode::Away => true,
            Mode::Zero => false,
            Mode::Down => value.negative,
            Mode::Up => !value.negative,
        };
        if outward { self.infinity() } else { self.largest() }
    }

    /// As [`Format::round`], but never beyond the largest finite value.
    pub(super) fn round_finite(self, value: Exact, mode: Mode) -> u64 {
        let bits = self.round(value, mode);
        let sign = 1u64 << (self.bits() - 1);
        let most = self.largest() << self.unused_bits;
        if bits & (sign - 1) > most { bits & sign | most } else { bits }
    }
}

/// `x * 2^exponent`, in two steps so that neither overflows early.
fn scale(x: f64, exponent: i32) -> f64 {
    let half = exponent / 2;
    x * 2f64.powi(half) * 2f64.powi(exponent - half)
}

/// A direction of rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// To the nearest, ties to even: `rn`.
    Nearest,
    /// Towards zero: `rz`.
    Zero,
    /// Towards minus infinity: `rm`.
    Down,
    /// Towards infinity: `rp`.
    Up,
    /// To the nearest, ties away from zero: `rna`.
    Away,
}

impl Mode {
    pub(super) const DIRECTED: [(&str, Self); 4] =
        [("rn", Self::Nearest), ("rz", Self::Zero), ("rm", Self::Down), ("rp", Self::Up)];
}

/// `magnitude * 2^exponent` with a sign, which zero has too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exact {
    pub(super) negative: bool,
    pub(super) magnitude: u128,
    pub(super) exponent: i32,
}

impl Exact {
    pub(super) fn integer(value: i128) -> Self {
        Exact { negative: value < 0, magnitude: value.unsigned_abs(), exponent: 0 }
    }

    /// The magnitude as a whole number of `2^unit`, rounded.
    pub(super) fn in_units_of(self, unit: i32, mode: Mode) -> u128 {
        let shift = unit - self.exponent;
        if shift <= 0 {
            return self.magnitude << -shift;
        }
        // Bits that are shifted out completely only matter as "not zero".
        let (kept, rest) = match shift {
            0..=126 => (self.magnitude >> shift, self.magnitude & ((1 << shift) - 1)),
            _ => (0, u128::from(self.magnitude != 0)),
        };
        let half = if shift <= 126 { 1 << (shift - 1) } else { u128::MAX };
        let up = match mode {
            Mode::Nearest => rest > half || rest == half && kept & 1 == 1,
            Mode::Away => rest >= half,
            Mode::Zero => false,
            Mode::Down => rest != 0 && self.negative,
            Mode::Up => rest != 0 && !self.negative,
        };
        kept + u128::from(up)
    }

    /// The sum, where 128 bits hold it. A sum of zero has the sign that both have;
    /// else it is negative only where rounding is downward.
    pub(super) fn plus(self, other: Self, mode: Mode) -> Option<Self> {
        let exponent = self.exponent.min(other.exponent);
        let signed = |x: Self| {
            let shift = (x.exponent - exponent) as u32;
            let fits = x.magnitude == 0 || x.magnitude.ilog2() + shift < 126;
            let magnitude =
                fits.then(|| x.magnitude.checked_shl(shift).unwrap_or(0))? as i128;
            Some(if x.negative { -magnitude } else { magnitude })
        };
        let sum = signed(self)? + signed(other)?;
        let zero_sign = if self.negative == other.negative {
            self.negative
        } else {
            mode == Mode::Down
        };
        let negative = if sum == 0 { zero_sign } else { sum < 0 };
        Some(Exact { negative, magnitude: sum.unsigned_abs(), exponent })
    }

    pub(super) fn negated(self) -> Self {
        Exact { negative: !self.negative, ..self }
    }

    /// The product, exactly.
    pub(super) fn times(self, other: Self) -> Self {
        Exact {
            negative: self.negative != other.negative,
            magnitude: self.magnitude * other.magnitude,
            exponent: self.exponent + other.exponent,
        }
    }

    /// The quotient to 2^-60 or better; its last bit is one where it is not exact,
    /// which keeps the rounding of up to 53 bits right. `None` for a divisor of zero.
    pub(super) fn divided_by(self, other: Self) -> Option<Self> {
        if other.magnitude == 0 {
            return None;
        }
        let up = if self.magnitude == 0 { 0 } else { self.magnitude.leading_zeros() - 1 };
        let dividend = self.magnitude << up;
        let inexact = u128::from(!dividend.is_multiple_of(other.magnitude));
        Some(Exact {
            negative: self.negative != other.negative,
            magnitude: ((dividend / other.magnitude) << 1) | inexact,
            exponent: self.exponent - up as i32 - other.exponent - 1,
        })
    }

    /// The square root of a positive value, as exact as a quotient.
    pub(super) fn square_root(self) -> Self {
        let mut up = self.magnitude.leading_zeros().saturating_sub(2);
        if (self.exponent - up as i32) % 2 != 0 {
            up -= 1;
        }
        let square = self.magnitude << up;
        let root = square.isqrt();
        let inexact = u128::from(root * root != square);
        Exact {
            negative: false,
            magnitude: root << 1 | inexact,
            exponent: (self.exponent - up as i32) / 2 - 1,
        }
    }
}

/// The bits of a small integer, which every format here holds exactly if it is at
/// most 8.
pub(super) fn small(format: Format, value: i32) -> u32 {
    format.round(Exact::integer(i128::from(value)), Mode::Zero) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_agrees_with_the_host() {
        for bits in (0..u64::MAX).step_by(0x0123_4567_89ab_cdef >> 3) {
            let value = f64::from_bits(bits);
            if value.is_finite() {
                let exact = F64.decode(bits);
                assert_eq!(F64.round(exact, Mode::Nearest), bits);
                let wanted = u64::from((value as f32).to_bits());
                assert_eq!(F32.round(exact, Mode::Nearest), wanted, "{value:e}");
            }
        }
        for bits in (0..u32::MAX).step_by(0x0012_3457) {
            let value = f32::from_bits(bits);
            if value.is_finite() && value != 0.0 {
                let exact = F32.decode(u64::from(bits));
                let third = exact.divided_by(Exact::integer(3)).unwrap();
                let wanted = u64::from((value / 3.0).to_bits());
                assert_eq!(F32.round(third, Mode::Nearest), wanted, "{value:e}");
                if value > 0.0 {
                    let root = F32.round(exact.square_root(), Mode::Nearest);
                    assert_eq!(root, u64::from(value.sqrt().to_bits()), "{value:e}");
                }
            }
        }
    }

    #[test]
    fn formats_end_where_they_should() {
        assert_eq!(E4M3.largest(), 0x7e);
        assert_eq!(E4M3.to_f64(0x7e), 448.0);
        assert_eq!(E5M2.to_f64(0x7b), 57344.0);
        assert_eq!(F16.to_f64(0x7bff), 65504.0);
        assert!(E4M3.is_nan(0xff) && E5M2.is_nan(0x7d) && !E5M2.is_nan(0x7c));
        assert_eq!(F16.to_f64(0xfc00), f64::NEG_INFINITY);
        assert_eq!(small(TF32, -3), 0xc040_0000);
    }
}
