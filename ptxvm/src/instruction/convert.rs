//! Conversions, each rounded once.

use crate::bank::Bank;
use crate::float::{Format, Rounding, round_integer};
use crate::lanes::{Args, Regs, lanes};

/// How a register stores a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    Integer { bits: u32, signed: bool },
    Float(Format, u32),
}

/// What `cvt` does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conversion {
    pub from: Number,
    pub to: Number,
    pub rounding: Rounding,
    /// Round to an integral value in the same format (`.rni`, `.rzi`, `.rmi`, `.rpi`).
    pub integral: bool,
    pub flush: bool,
    pub saturate: bool,
    pub relu: bool,
    /// Elements in the destination: 1, or 2 with the second source in the low half.
    pub packed: u32,
    /// Whether the sources are packed the same way, in one register.
    pub from_packed: bool,
    pub from_bank: Bank,
    pub to_bank: Bank,
    pub args: Args,
}

fn read(regs: &Regs, bank: Bank, index: u16, lane: usize) -> u64 {
    match bank {
        Bank::Double => regs.d[usize::from(index)][lane],
        _ => u64::from(regs.r[usize::from(index)][lane]),
    }
}

impl Conversion {
    /// Converts the lanes in `mask`.
    pub(crate) fn run(&self, regs: &mut Regs, mask: u32) {
        for lane in lanes(mask) {
            let a = read(regs, self.from_bank, self.args.a, lane);
            let out = match (self.packed, self.from_packed) {
                (1, _) => self.one(a),
                (_, false) => {
                    let b = read(regs, self.from_bank, self.args.b, lane);
                    self.one(a) << self.width() | self.one(b)
                }
                (_, true) => {
                    let step = match self.from {
                        Number::Integer { bits, .. } | Number::Float(_, bits) => bits,
                    };
                    let low = a & ((1 << step) - 1);
                    self.one(a >> step) << self.width() | self.one(low)
                }
            };
            match self.to_bank {
                Bank::Double => regs.d[usize::from(self.args.d)][lane] = out,
                _ => regs.r[usize::from(self.args.d)][lane] = out as u32,
            }
        }
        let mut from = vec![(self.from_bank, self.args.a)];
        if self.packed == 2 && !self.from_packed {
            from.push((self.from_bank, self.args.b));
        }
        regs.carry((self.to_bank, self.args.d), &from, mask);
    }

    fn width(&self) -> u32 {
        match self.to {
            Number::Integer { bits, .. } | Number::Float(_, bits) => bits,
        }
    }

    fn one(&self, bits: u64) -> u64 {
        match (self.from, self.to) {
            (Number::Integer { bits: width, signed }, to) => {
                let value = extend(bits, width, signed);
                self.integer_to(value, to)
            }
            (Number::Float(format, width), Number::Integer { bits: to, signed }) => {
                let value = self.input(format, bits & ones(width));
                self.to_integer(value, to, signed)
            }
            (Number::Float(format, width), Number::Float(to, _)) => {
                self.float(format, bits & ones(width), to)
            }
        }
    }

    fn input(&self, format: Format, bits: u64) -> f64 {
        let value = format.decode(bits);
        let subnormal = value.abs() < f64::from(f32::MIN_POSITIVE);
        if self.flush && subnormal { 0.0f64.copysign(value) } else { value }
    }

    fn integer_to(&self, value: i128, to: Number) -> u64 {
        match to {
            Number::Integer { bits, signed } => {
                let value = if self.saturate { clamp(value, bits, signed) } else { value };
                value as u64 & ones(bits)
            }
            Number::Float(format, _) => {
                let magnitude = value.unsigned_abs() as u64;
                format.encode_integer(value < 0, magnitude, self.rounding)
            }
        }
    }

    fn to_integer(&self, value: f64, bits: u32, signed: bool) -> u64 {
        if value.is_nan() {
            return 0;
        }
        // Every format's integers are exact in i128 once clamped by `as`.
        let whole = round_integer(value, self.rounding) as i128;
        clamp(whole, bits, signed) as u64 & ones(bits)
    }

    fn float(&self, from: Format, bits: u64, to: Format) -> u64 {
        let mut value = self.input(from, bits);
        if self.integral {
            value = round_integer(value, self.rounding);
        }
        if self.relu && (value.is_sign_negative() && !value.is_nan()) {
            value = 0.0;
        }
        // `.satfinite` for the small formats, [0, 1] for the others.
        let small = self.width() < 16 || self.packed == 2;
        if self.saturate && !small {
            value = if value > 0.0 { value.min(1.0) } else { 0.0 };
        }
        let out = to.encode(value, self.rounding, self.saturate && small);
        if self.flush && to == crate::float::F32 {
            let float = f32::from_bits(out as u32);
            return u64::from(crate::float::flush(float).to_bits());
        }
        // tf32 is the upper bits of a 32-bit register.
        if to == crate::float::TF32 { out << 13 } else { out }
    }
}

fn ones(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

fn extend(bits: u64, width: u32, signed: bool) -> i128 {
    let bits = bits & ones(width);
    if signed {
        i128::from((bits << (64 - width)) as i64 >> (64 - width))
    } else {
        i128::from(bits)
    }
}

fn clamp(value: i128, bits: u32, signed: bool) -> i128 {
    let (low, high) = if signed {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    } else {
        (0, (1i128 << bits) - 1)
    };
    value.clamp(low, high)
}
