//! Floating-point formats and rounding, exact and written once.
//!
//! A value that is converted is first a sign, an integer mantissa and an exponent, so
//! every conversion rounds once.

/// How a result is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// To nearest, ties to even.
    Nearest,
    /// To nearest, ties away from zero.
    Away,
    Zero,
    Down,
    Up,
}

/// A binary floating-point format of up to 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    exponent_bits: u32,
    mantissa_bits: u32,
    /// e4m3: no infinity, and one NaN pattern per sign.
    finite_only: bool,
}

pub(crate) const F64: Format = Format::ieee(11, 52);
pub(crate) const F32: Format = Format::ieee(8, 23);
pub(crate) const TF32: Format = Format::ieee(8, 10);
pub(crate) const F16: Format = Format::ieee(5, 10);
pub(crate) const BF16: Format = Format::ieee(8, 7);
pub(crate) const E5M2: Format = Format::ieee(5, 2);
pub(crate) const E4M3: Format =
    Format { exponent_bits: 4, mantissa_bits: 3, finite_only: true };

/// A finite value: `(-1)^negative * mantissa * 2^exponent`.
#[derive(Debug, Clone, Copy)]
struct Exact {
    negative: bool,
    mantissa: u64,
    exponent: i32,
}

impl Format {
    const fn ieee(exponent_bits: u32, mantissa_bits: u32) -> Self {
        Self { exponent_bits, mantissa_bits, finite_only: false }
    }

    const fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    const fn sign(self, negative: bool) -> u64 {
        (negative as u64) << (self.exponent_bits + self.mantissa_bits)
    }

    /// The NaN that the hardware produces.
    const fn nan(self) -> u64 {
        (1 << (self.exponent_bits + self.mantissa_bits)) - 1
    }

    const fn max_finite(self) -> u64 {
        let all = self.nan();
        if self.finite_only { all - 1 } else { self.infinity() - 1 }
    }

    const fn infinity(self) -> u64 {
        ((1 << self.exponent_bits) - 1) << self.mantissa_bits
    }

    /// The value of `bits`.
    pub(crate) fn decode(self, bits: u64) -> f64 {
        let mantissa = bits & ((1 << self.mantissa_bits) - 1);
        let exponent = (bits >> self.mantissa_bits) & ((1 << self.exponent_bits) - 1);
        let negative = bits & self.sign(true) != 0;
        let top = exponent == (1 << self.exponent_bits) - 1;
        let magnitude = if self.finite_only && bits & self.nan() == self.nan() {
            f64::NAN
        } else if top && !self.finite_only {
            if mantissa == 0 { f64::INFINITY } else { f64::NAN }
        } else if exponent == 0 {
            scale(mantissa as f64, 1 - self.bias() - self.mantissa_bits as i32)
        } else {
            let whole = mantissa | 1 << self.mantissa_bits;
            let power = exponent as i32 - self.bias() - self.mantissa_bits as i32;
            scale(whole as f64, power)
        };
        if negative { -magnitude } else { magnitude }
    }

    /// `value` rounded into this format. A value too large becomes infinity, or the largest
    /// finite value where `saturate` is set or the rounding is towards it.
    pub(crate) fn encode(self, value: f64, rounding: Rounding, saturate: bool) -> u64 {
        let bits = value.to_bits();
        let negative = bits >> 63 != 0;
        if value.is_nan() {
            return self.nan();
        }
        if value.is_infinite() {
            return self.sign(negative) | self.overflow(saturate);
        }
        let exponent = (bits >> 52 & 0x7ff) as i32;
        let fraction = bits & ((1 << 52) - 1);
        let exact = if exponent == 0 {
            Exact { negative, mantissa: fraction, exponent: -1074 }
        } else {
            Exact { negative, mantissa: fraction | 1 << 52, exponent: exponent - 1075 }
        };
        self.round(exact, rounding, saturate)
    }

    /// The integer `magnitude`, negated where `negative`, rounded into this format.
    pub(crate) fn encode_integer(
        self,
        negative: bool,
        magnitude: u64,
        rounding: Rounding,
    ) -> u64 {
        self.round(Exact { negative, mantissa: magnitude, exponent: 0 }, rounding, false)
    }

    fn overflow(self, saturate: bool) -> u64 {
        match (saturate, self.finite_only) {
            (true, _) => self.max_finite(),
            (false, true) => self.nan(),
            (false, false) => self.infinity(),
        }
    }

    fn round(self, value: Exact, rounding: Rounding, saturate: bool) -> u64 {
        let sign = self.sign(value.negative);
        if value.mantissa == 0 {
            return sign;
        }
        let top = 63 - value.mantissa.leading_zeros() as i32;
        let power = (top + value.exponent).max(1 - self.bias());
        // The weight of the last kept bit.
        let last = power - self.mantissa_bits as i32;
        let shift = last - value.exponent;
        let kept = round_shift(value.mantissa, shift, value.negative, rounding);
        // A carry out of the mantissa increments the exponent.
        let biased = (power + self.bias() - 1) as u64;
        let bits = (biased << self.mantissa_bits) + kept;
        if bits > self.max_finite() {
            let toward_zero = match rounding {
                Rounding::Zero => true,
                Rounding::Down => !value.negative,
                Rounding::Up => value.negative,
                Rounding::Nearest | Rounding::Away => false,
            };
            return sign | self.overflow(saturate || toward_zero);
        }
        sign | bits
    }
}

/// `mantissa / 2^shift`, rounded to an integer.
fn round_shift(mantissa: u64, shift: i32, negative: bool, rounding: Rounding) -> u64 {
    if shift <= 0 {
        return mantissa << (-shift).min(63);
    }
    let (kept, rest, half) = if shift >= 64 {
        (0, mantissa, if shift == 64 { 1u64 << 63 } else { u64::MAX })
    } else {
        let kept = mantissa >> shift;
        (kept, mantissa & ((1 << shift) - 1), 1u64 << (shift - 1))
    };
    let up = match rounding {
        Rounding::Nearest => rest > half || rest == half && kept & 1 == 1,
        Rounding::Away => rest >= half,
        Rounding::Zero => false,
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
    };
    kept + u64::from(up)
}

/// `value * 2^power`, without rounding twice.
fn scale(value: f64, power: i32) -> f64 {
    let half = power / 2;
    value * f64::powi(2.0, half) * f64::powi(2.0, power - half)
}

/// `a + b`, with inexact results rounded to odd. Rounding the result again, into a format
/// of at most 51 bits, then gives what one rounding of the exact sum would give.
pub(crate) fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if !sum.is_finite() {
        return sum;
    }
    let part = sum - a;
    let error = (a - (sum - part)) + (b - part);
    let bits = sum.to_bits();
    if error == 0.0 || bits & 1 == 1 {
        return sum;
    }
    let outward = (error > 0.0) == (sum > 0.0);
    f64::from_bits(if outward { bits + 1 } else { bits - 1 })
}

/// `x` to an integer in floating point.
pub(crate) fn round_integer(x: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => x.round_ties_even(),
        Rounding::Away => x.round(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    }
}

/// A 32-bit result of an exact or odd-rounded `value`.
pub(crate) fn to_f32(value: f64, rounding: Rounding) -> f32 {
    // NVIDIA's NaN differs from the host's.
    if value.is_nan() {
        return f32::from_bits(0x7fff_ffff);
    }
    f32::from_bits(F32.encode(value, rounding, false) as u32)
}

/// f16 bits to f32.
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    // The exponent is moved by a product, which makes subnormals normal.
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let moved = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 | magnitude } else { 0 };
    let sign = u32::from(bits & 0x8000) << 16;
    f32::from_bits(moved.to_bits() | special | sign)
}

/// bf16 bits to f32.
pub(crate) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// f32 to f16 bits, to nearest even.
pub(crate) fn f32_to_f16(x: f32) -> u16 {
    if x.is_nan() { 0x7fff } else { half::f16::from_f32(x).to_bits() }
}

/// f32 to bf16 bits, to nearest even.
pub(crate) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return 0x7fff;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// A subnormal becomes a zero of the same sign.
pub(crate) fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// `x` limited to [0, 1]; NaN becomes 0.
pub(crate) fn saturate(x: f32) -> f32 {
    // NaN and -0 become +0.
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn e4m3_corners() {
        let encode = |x, sat| E4M3.encode(x, Rounding::Nearest, sat);
        assert_eq!(encode(448.0, true), 0x7e);
        assert_eq!(encode(1e9, true), 0x7e);
        assert_eq!(encode(f64::NEG_INFINITY, true), 0xfe);
        assert_eq!(encode(464.0, false), 0x7e, "a tie goes to the even 448");
        assert_eq!(encode(465.0, false), 0x7f);
        assert_eq!(encode(0.001953125, true), 1);
        assert_eq!(encode(0.0009765625, true), 0, "half of the smallest is a tie");
        assert_eq!(encode(f64::NAN, true), 0x7f);
        assert_eq!(E4M3.decode(0x7e), 448.0);
        assert_eq!(E4M3.decode(0x81), -0.001953125);
        assert!(E4M3.decode(0xff).is_nan());
    }

    #[test]
    fn every_small_pattern_survives() {
        for format in [E4M3, E5M2, F16, BF16] {
            let bits = 1 + format.exponent_bits + format.mantissa_bits;
            for pattern in 0..1u64 << bits {
                let value = format.decode(pattern);
                if !value.is_nan() {
                    let again = format.encode(value, Rounding::Nearest, false);
                    assert_eq!(again, pattern, "{format:?}");
                }
            }
        }
    }

    #[test]
    fn directed_roundings_point_where_they_say() {
        let third = 1.0 / 3.0;
        for (rounding, up, down) in [
            (Rounding::Zero, 0x3eaaaaaa, 0xbeaaaaaa),
            (Rounding::Down, 0x3eaaaaaa, 0xbeaaaaab),
            (Rounding::Up, 0x3eaaaaab, 0xbeaaaaaa),
            (Rounding::Nearest, 0x3eaaaaab, 0xbeaaaaab),
        ] {
            assert_eq!(F32.encode(third, rounding, false), up);
            assert_eq!(F32.encode(-third, rounding, false), down);
        }
        assert_eq!(F32.encode(1e300, Rounding::Zero, false), 0x7f7f_ffff);
        assert_eq!(F32.encode(1e300, Rounding::Nearest, false), 0x7f80_0000);
    }

    proptest! {
        #[test]
        fn nearest_f32_is_the_hosts(x in any::<f64>()) {
            let host = (x as f32).to_bits();
            prop_assert!(x.is_nan() || F32.encode(x, Rounding::Nearest, false) == u64::from(host));
        }

        #[test]
        fn odd_sums_round_like_exact_ones(a in any::<f32>(), b in any::<f32>()) {
            let host = a + b;
            let ours = to_f32(add_odd(f64::from(a), f64::from(b)), Rounding::Nearest);
            prop_assert!(host.is_nan() && ours.is_nan() || host.to_bits() == ours.to_bits());
        }

        #[test]
        fn odd_products_make_a_fused_multiply(a in any::<f32>(), b in any::<f32>(), c in any::<f32>()) {
            let host = a.mul_add(b, c);
            let odd = add_odd(f64::from(a) * f64::from(b), f64::from(c));
            let ours = to_f32(odd, Rounding::Nearest);
            prop_assert!(host.is_nan() && ours.is_nan() || host.to_bits() == ours.to_bits());
        }

        #[test]
        fn bf16_by_bits_is_bf16_by_rounding(x in any::<f32>()) {
            let rounded = BF16.encode(f64::from(x), Rounding::Nearest, false) as u16;
            prop_assert_eq!(f32_to_bf16(x), rounded);
            let rounded = F16.encode(f64::from(x), Rounding::Nearest, false) as u16;
            prop_assert_eq!(f32_to_f16(x), rounded);
        }
    }
}
