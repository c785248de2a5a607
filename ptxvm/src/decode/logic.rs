//! Operations on bits.

use crate::count::Class;
use crate::decode::decoder::{Decoder, Result};
use crate::instruction::{Initial, Type};
use crate::lanes::{Args, Wide, wide};

/// The same expression over 16, 32 and 64 bits.
macro_rules! bits2 {
    ($ty:expr, |$a:ident, $b:ident| $e:expr) => {
        match $ty.bits() {
            1 => Some(wide!(|$a: bool, $b: bool| bool: $e)),
            16 => Some(wide!(|$a: u16, $b: u16| u16: $e)),
            32 => Some(wide!(|$a: u32, $b: u32| u32: $e)),
            64 => Some(wide!(|$a: u64, $b: u64| u64: $e)),
            _ => None,
        }
    };
}

impl<'a> Decoder<'_, 'a> {
    pub(super) fn logic(&mut self, name: &str) -> Result<()> {
        match name {
            "and" | "or" | "xor" => {
                let ty = self.expect_ty()?;
                let args = self.args2(ty)?;
                let wide = match name {
                    "and" => bits2!(ty, |a, b| a & b),
                    "or" => bits2!(ty, |a, b| a | b),
                    _ => bits2!(ty, |a, b| a ^ b),
                };
                self.logic_alu(wide, args)
            }
            "not" | "cnot" | "popc" | "clz" | "brev" => self.bits1(name),
            "bfind" => self.bfind(),
            "shl" | "shr" => self.shift(name),
            "shf" => self.funnel(),
            "lop3" => self.lop3(),
            "prmt" => self.prmt(),
            "bfe" => self.bfe(),
            "bfi" => self.bfi(),
            "bmsk" => {
                let clamp = self.parts.any(&["clamp", "wrap"]);
                let ty = self.expect_ty()?;
                let args = self.args2(ty)?;
                let wide = match (clamp, ty) {
                    (Some("clamp"), Type::B32) => {
                        Some(wide!(|a: u32, b: u32| u32: field(a, b)))
                    }
                    (Some("wrap"), Type::B32) => {
                        Some(wide!(|a: u32, b: u32| u32: field(a & 31, b & 31)))
                    }
                    _ => None,
                };
                self.logic_alu(wide, args)
            }
            _ => self.fail("instruction is not implemented"),
        }
    }

    fn logic_alu(&mut self, wide: Option<Wide>, args: Args) -> Result<()> {
        let Some(wide) = wide else { return self.fail("type is not implemented") };
        self.alu(wide, args, Class::Logic);
        Ok(())
    }

    fn bits1(&mut self, name: &str) -> Result<()> {
        let ty = self.expect_ty()?;
        self.arity(2, 2)?;
        let counts = matches!(name, "popc" | "clz");
        let result = if counts { Type::U32 } else { ty };
        let a = self.source(1, ty)?;
        let args = Args { d: self.dest_at(0, result)?, a, ..Args::default() };
        let wide = match (name, ty.bits()) {
            ("not", 1) => wide!(|a: bool| bool: !a),
            ("not", 16) => wide!(|a: u16| u16: !a),
            ("not", 32) => wide!(|a: u32| u32: !a),
            ("not", 64) => wide!(|a: u64| u64: !a),
            ("cnot", 16) => wide!(|a: u16| u16: u16::from(a == 0)),
            ("cnot", 32) => wide!(|a: u32| u32: u32::from(a == 0)),
            ("cnot", 64) => wide!(|a: u64| u64: u64::from(a == 0)),
            ("popc", 32) => wide!(|a: u32| u32: a.count_ones()),
            ("popc", 64) => wide!(|a: u64| u32: a.count_ones()),
            ("clz", 32) => wide!(|a: u32| u32: a.leading_zeros()),
            ("clz", 64) => wide!(|a: u64| u32: a.leading_zeros()),
            ("brev", 32) => wide!(|a: u32| u32: a.reverse_bits()),
            ("brev", 64) => wide!(|a: u64| u64: a.reverse_bits()),
            _ => return self.fail("type is not implemented"),
        };
        self.alu(wide, args, Class::Logic);
        Ok(())
    }

    fn bfind(&mut self) -> Result<()> {
        let amount = self.parts.take("shiftamt");
        let ty = self.expect_ty()?;
        self.arity(2, 2)?;
        let a = self.source(1, ty)?;
        let args = Args { d: self.dest_at(0, Type::U32)?, a, ..Args::default() };
        let wide = match (ty, amount) {
            (Type::U32, false) => wide!(|a: u32| u32: top_bit(u64::from(a))),
            (Type::S32, false) => {
                wide!(|a: i32| u32: top_bit(u64::from((a ^ a >> 31) as u32)))
            }
            (Type::U64, false) => wide!(|a: u64| u32: top_bit(a)),
            (Type::S64, false) => wide!(|a: i64| u32: top_bit((a ^ a >> 63) as u64)),
            (Type::U32, true) => wide!(|a: u32| u32: match top_bit(u64::from(a)) {
                u32::MAX => u32::MAX,
                bit => 31 - bit,
            }),
            _ => return self.fail("form is not implemented"),
        };
        self.alu(wide, args, Class::Logic);
        Ok(())
    }

    fn shift(&mut self, name: &str) -> Result<()> {
        let ty = self.expect_ty()?;
        self.arity(3, 3)?;
        let (a, b) = (self.source(1, ty)?, self.source(2, Type::U32)?);
        let args = Args { d: self.dest_at(0, ty)?, a, b, ..Args::default() };
        let wide = match (name, ty.bits(), ty.is_signed()) {
            ("shl", 16, _) => {
                wide!(|a: u16, b: u32| u16: if b > 15 { 0 } else { a << b })
            }
            ("shl", 32, _) => {
                wide!(|a: u32, b: u32| u32: if b > 31 { 0 } else { a << b })
            }
            ("shl", 64, _) => {
                wide!(|a: u64, b: u32| u64: if b > 63 { 0 } else { a << b })
            }
            ("shr", 16, false) => {
                wide!(|a: u16, b: u32| u16: if b > 15 { 0 } else { a >> b })
            }
            ("shr", 32, false) => {
                wide!(|a: u32, b: u32| u32: if b > 31 { 0 } else { a >> b })
            }
            ("shr", 64, false) => {
                wide!(|a: u64, b: u32| u64: if b > 63 { 0 } else { a >> b })
            }
            ("shr", 16, true) => wide!(|a: i16, b: u32| i16: a >> b.min(15)),
            ("shr", 32, true) => wide!(|a: i32, b: u32| i32: a >> b.min(31)),
            ("shr", 64, true) => wide!(|a: i64, b: u32| i64: a >> b.min(63)),
            _ => return self.fail("type is not implemented"),
        };
        self.alu(wide, args, Class::Logic);
        Ok(())
    }

    fn funnel(&mut self) -> Result<()> {
        let left = self.parts.any(&["l", "r"]);
        let mode = self.parts.any(&["wrap", "clamp"]);
        let ty = self.expect_ty()?;
        let args = self.args3(ty)?;
        let wide = match (left, mode, ty) {
            (Some("l"), Some("wrap"), Type::B32) => {
                wide!(|a: u32, b: u32, c: u32| u32: funnel_left(a, b, c & 31))
            }
            (Some("l"), Some("clamp"), Type::B32) => {
                wide!(|a: u32, b: u32, c: u32| u32: funnel_left(a, b, c.min(32)))
            }
            (Some("r"), Some("wrap"), Type::B32) => {
                wide!(|a: u32, b: u32, c: u32| u32: funnel_right(a, b, c & 31))
            }
            (Some("r"), Some("clamp"), Type::B32) => {
                wide!(|a: u32, b: u32, c: u32| u32: funnel_right(a, b, c.min(32)))
            }
            _ => return self.fail("form is not implemented"),
        };
        self.alu(wide, args, Class::Logic);
        Ok(())
    }

    fn lop3(&mut self) -> Result<()> {
        let ty = self.expect_ty()?;
        if ty != Type::B32 {
            return self.fail("type is not implemented");
        }
        self.arity(5, 5)?;
        let table = self.immediate(4)?;
        let (a, b, c) = (self.source(1, ty)?, self.source(2, ty)?, self.source(3, ty)?);
        let e = self.row(ty.bank(), Initial::Value(table & 0xff));
        let args = Args { d: self.dest_at(0, ty)?, a, b, c, e };
        self.alu(
            wide!(|a: u32, b: u32, c: u32, t: u32| u32: lookup(a, b, c, t)),
            args,
            Class::Logic,
        );
        Ok(())
    }

    fn prmt(&mut self) -> Result<()> {
        let ty = self.expect_ty()?;
        let mode = self.parts.any(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]);
        if ty != Type::B32 {
            return self.fail("type is not implemented");
        }
        let args = self.args3(ty)?;
        let wide = match mode {
            None => wide!(|a: u32, b: u32, c: u32| u32: permute(a, b, c)),
            Some("f4e") => wide!(|a: u32, b: u32, c: u32| u32:
                permute(a, b, [0x3210, 0x4321, 0x5432, 0x6543][(c & 3) as usize])),
            Some("b4e") => wide!(|a: u32, b: u32, c: u32| u32:
                permute(a, b, [0x5670, 0x6701, 0x7012, 0x0123][(c & 3) as usize])),
            Some("rc8") => {
                wide!(|a: u32, b: u32, c: u32| u32: permute(a, b, (c & 3) * 0x1111))
            }
            Some("ecl") => wide!(|a: u32, b: u32, c: u32| u32:
                permute(a, b, [0x3210, 0x3211, 0x3222, 0x3333][(c & 3) as usize])),
            Some("ecr") => wide!(|a: u32, b: u32, c: u32| u32:
                permute(a, b, [0x0000, 0x1110, 0x2210, 0x3210][(c & 3) as usize])),
            _ => wide!(|a: u32, b: u32, c: u32| u32:
                permute(a, b, [0x1010, 0x3232, 0x1010, 0x3232][(c & 3) as usize])),
        };
        self.alu(wide, args, Class::Logic);
        Ok(())
    }

    fn bfe(&mut self) -> Result<()> {
        let ty = self.expect_ty()?;
        self.arity(4, 4)?;
        let a = self.source(1, ty)?;
        let (b, c) = (self.source(2, Type::U32)?, self.source(3, Type::U32)?);
        let args = Args { d: self.dest_at(0, ty)?, a, b, c, e: 0 };
        let wide = match ty {
            Type::U32 => wide!(|a: u32, b: u32, c: u32| u32:
                extract(u64::from(a), b, c, 32, false) as u32),
            Type::S32 => wide!(|a: u32, b: u32, c: u32| u32:
                extract(u64::from(a), b, c, 32, true) as u32),
            Type::U64 => wide!(|a: u64, b: u32, c: u32| u64: extract(a, b, c, 64, false)),
            Type::S64 => wide!(|a: u64, b: u32, c: u32| u64: extract(a, b, c, 64, true)),
            _ => return self.fail("type is not implemented"),
        };
        self.alu(wide, args, Class::Logic);
        Ok(())
    }

    fn bfi(&mut self) -> Result<()> {
        let ty = self.expect_ty()?;
        self.arity(5, 5)?;
        let (a, b) = (self.source(1, ty)?, self.source(2, ty)?);
        let (c, e) = (self.source(3, Type::U32)?, self.source(4, Type::U32)?);
        let args = Args { d: self.dest_at(0, ty)?, a, b, c, e };
        let wide = match ty {
            Type::B32 => wide!(|a: u32, b: u32, c: u32, e: u32| u32: {
                let mask = field(c & 0xff, e & 0xff);
                b & !mask | a.checked_shl(c & 0xff).unwrap_or(0) & mask
            }),
            Type::B64 => wide!(|a: u64, b: u64, c: u32, e: u32| u64: {
                let mask = field64(c & 0xff, e & 0xff);
                b & !mask | a.checked_shl(c & 0xff).unwrap_or(0) & mask
            }),
            _ => return self.fail("type is not implemented"),
        };
        self.alu(wide, args, Class::Logic);
        Ok(())
    }
}

fn top_bit(a: u64) -> u32 {
    if a == 0 { u32::MAX } else { 63 - a.leading_zeros() }
}

/// `length` ones from bit `from` on, truncated at the top.
fn field64(from: u32, length: u32) -> u64 {
    let ones = if length > 63 { u64::MAX } else { (1 << length) - 1 };
    ones.checked_shl(from).unwrap_or(0)
}

fn field(from: u32, length: u32) -> u32 {
    field64(from, length.min(32)) as u32
}

fn funnel_left(low: u32, high: u32, by: u32) -> u32 {
    ((u64::from(high) << 32 | u64::from(low)) << by >> 32) as u32
}

fn funnel_right(low: u32, high: u32, by: u32) -> u32 {
    ((u64::from(high) << 32 | u64::from(low)) >> by) as u32
}

/// Looks up the result of each bit of three inputs in a table of eight bits.
fn lookup(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let mut out = 0;
    for entry in 0..8 {
        let pick = |bits: u32, on: bool| if on { bits } else { !bits };
        let hit =
            pick(a, entry & 4 != 0) & pick(b, entry & 2 != 0) & pick(c, entry & 1 != 0);
        out |= hit & 0u32.wrapping_sub(table >> entry & 1);
    }
    out
}

/// Byte selection: each nibble of the selector names a byte; its top bit replicates the
/// byte's sign.
fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let mut out = 0;
    for n in 0..4 {
        let nibble = selector >> (4 * n) & 0xf;
        let byte = bytes[(nibble & 7) as usize];
        let byte = if nibble & 8 == 0 {
            byte
        } else if byte & 0x80 != 0 {
            0xff
        } else {
            0
        };
        out |= u32::from(byte) << (8 * n);
    }
    out
}

/// The bit field extract of PTX, as in the ISA's pseudocode.
fn extract(a: u64, from: u32, length: u32, bits: u32, signed: bool) -> u64 {
    let (from, length, top) = (from & 0xff, length & 0xff, bits - 1);
    let bit = |n: u32| n < 64 && a >> n & 1 != 0;
    let sign = signed && length != 0 && bit((from + length - 1).min(top));
    let mut out = 0;
    for n in 0..bits {
        let set = if n < length && from + n <= top { bit(from + n) } else { sign };
        out |= u64::from(set) << n;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_values() {
        assert_eq!(permute(0x03020100, 0x07060504, 0x5410), 0x05040100);
        assert_eq!(permute(0x0000_8000, 0, 0x0009), 0xff);
        // The ISA's recipe for the table: evaluate the function for 0xF0, 0xCC, 0xAA.
        assert_eq!(lookup(0xf0, 0xcc, 0xaa, 0x96) & 0xff, 0x96);
        assert_eq!(extract(0xabcd, 4, 8, 32, false), 0xbc);
        assert_eq!(extract(0xabcd, 4, 8, 32, true) as u32, 0xffff_ffbc);
        assert_eq!(extract(0x8000_0000, 28, 16, 32, true) as u32, 0xffff_fff8);
        assert_eq!(field(28, 16), 0xf000_0000);
        assert_eq!(funnel_left(0x8000_0000, 1, 1), 3);
        assert_eq!(funnel_right(2, 1, 1), 0x8000_0001);
    }
}
