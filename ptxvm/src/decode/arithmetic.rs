//! Integer arithmetic, and the instructions that integers and floats share.

use crate::count::{Class, Unit};
use crate::decode::decoder::{CARRY, Decoder, Result};
use crate::instruction::Type;
use crate::lanes::{Args, Wide, wide};

/// One expression for signed and unsigned 32- and 64-bit lanes.
macro_rules! integer2 {
    ($ty:expr, |$a:ident, $b:ident| $e:expr) => {
        match $ty {
            Type::U16 => Some(wide!(|$a: u16, $b: u16| u16: $e)),
            Type::S16 => Some(wide!(|$a: i16, $b: i16| i16: $e)),
            Type::U32 => Some(wide!(|$a: u32, $b: u32| u32: $e)),
            Type::S32 => Some(wide!(|$a: i32, $b: i32| i32: $e)),
            Type::U64 => Some(wide!(|$a: u64, $b: u64| u64: $e)),
            Type::S64 => Some(wide!(|$a: i64, $b: i64| i64: $e)),
            _ => None,
        }
    };
}

/// Applies `f` to both halves of packed 16-bit integers.
fn halves(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    let low = f(a as u16, b as u16);
    let high = f((a >> 16) as u16, (b >> 16) as u16);
    u32::from(low) | u32::from(high) << 16
}

impl<'a> Decoder<'_, 'a> {
    pub(super) fn arithmetic(&mut self, name: &str) -> Result<()> {
        match name {
            "addc" | "subc" | "madc" => return self.carry(name),
            "mul24" | "mad24" => return self.mul24(name),
            "sad" => return self.sad(),
            "dp4a" | "dp2a" => return self.dot(name),
            _ => {}
        }
        if self.parts.take("cc") {
            return self.carry(name);
        }
        let float = self.parts.peek_type().is_some_and(Type::is_float);
        if float {
            return self.floating(name);
        }
        match name {
            "mul" | "mad" => self.multiply(name),
            "abs" | "neg" => self.integer1(name),
            _ => self.integer2(name),
        }
    }

    fn integer1(&mut self, name: &str) -> Result<()> {
        let ty = self.expect_ty()?;
        let args = self.args1(ty)?;
        let wide = match (name, ty) {
            ("abs", Type::S16) => wide!(|a: i16| i16: a.wrapping_abs()),
            ("abs", Type::S32) => wide!(|a: i32| i32: a.wrapping_abs()),
            ("abs", Type::S64) => wide!(|a: i64| i64: a.wrapping_abs()),
            ("neg", Type::S16) => wide!(|a: i16| i16: a.wrapping_neg()),
            ("neg", Type::S32) => wide!(|a: i32| i32: a.wrapping_neg()),
            ("neg", Type::S64) => wide!(|a: i64| i64: a.wrapping_neg()),
            _ => return self.fail("type is not implemented"),
        };
        self.alu(wide, args, Class::Integer);
        Ok(())
    }

    fn integer2(&mut self, name: &str) -> Result<()> {
        let saturate = self.parts.take("sat");
        let ty = self.expect_ty()?;
        let args = self.args2(ty)?;
        let wide = if saturate {
            match (name, ty) {
                ("add", Type::S32) => {
                    Some(wide!(|a: i32, b: i32| i32: a.saturating_add(b)))
                }
                ("sub", Type::S32) => {
                    Some(wide!(|a: i32, b: i32| i32: a.saturating_sub(b)))
                }
                _ => None,
            }
        } else {
            integer_op(name, ty)
        };
        let Some(wide) = wide else { return self.fail("type is not implemented") };
        self.alu(wide, args, Class::Integer);
        Ok(())
    }

    fn multiply(&mut self, name: &str) -> Result<()> {
        let part = self.parts.any(&["lo", "hi", "wide"]);
        let ty = self.expect_ty()?;
        let Some(part) = part else { return self.fail("expected '.lo', '.hi' or '.wide'") };
        let result = match (part, ty) {
            ("wide", Type::U16) => Type::U32,
            ("wide", Type::S16) => Type::S32,
            ("wide", Type::U32) => Type::U64,
            ("wide", Type::S32) => Type::S64,
            _ => ty,
        };
        let (a, b) = (self.source(1, ty)?, self.source(2, ty)?);
        let d = self.dest_at(0, result)?;
        let (wide, args) = if name == "mul" {
            self.arity(3, 3)?;
            (product(part, ty), Args { d, a, b, ..Args::default() })
        } else {
            self.arity(4, 4)?;
            let c = self.source(3, result)?;
            (product_sum(part, ty), Args { d, a, b, c, ..Args::default() })
        };
        let Some(wide) = wide else { return self.fail("type is not implemented") };
        self.alu(wide, args, Class::Integer);
        Ok(())
    }

    fn mul24(&mut self, name: &str) -> Result<()> {
        let low = self.parts.take("lo");
        let ty = self.expect_ty()?;
        let (a, b) = (self.source(1, ty)?, self.source(2, ty)?);
        let d = self.dest_at(0, ty)?;
        let mut args = Args { d, a, b, ..Args::default() };
        let wide = match (name, low, ty) {
            ("mul24", true, Type::U32) => {
                wide!(|a: u32, b: u32| u32: (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff))
            }
            ("mul24", true, Type::S32) => {
                wide!(|a: i32, b: i32| i32: (a << 8 >> 8).wrapping_mul(b << 8 >> 8))
            }
            ("mad24", true, Type::U32) => {
                args.c = self.source(3, ty)?;
                wide!(|a: u32, b: u32, c: u32| u32:
                    (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff).wrapping_add(c))
            }
            ("mad24", true, Type::S32) => {
                args.c = self.source(3, ty)?;
                wide!(|a: i32, b: i32, c: i32| i32:
                    (a << 8 >> 8).wrapping_mul(b << 8 >> 8).wrapping_add(c))
            }
            _ => return self.fail("type is not implemented"),
        };
        self.alu(wide, args, Class::Integer);
        Ok(())
    }

    fn sad(&mut self) -> Result<()> {
        let ty = self.expect_ty()?;
        self.arity(4, 4)?;
        let (a, b, c) = (self.source(1, ty)?, self.source(2, ty)?, self.source(3, ty)?);
        let args = Args { d: self.dest_at(0, ty)?, a, b, c, ..Args::default() };
        let wide = match ty {
            Type::U32 => {
                wide!(|a: u32, b: u32, c: u32| u32: c.wrapping_add(a.abs_diff(b)))
            }
            Type::S32 => {
                wide!(|a: i32, b: i32, c: u32| u32: c.wrapping_add(a.abs_diff(b)))
            }
            _ => return self.fail("type is not implemented"),
        };
        self.alu(wide, args, Class::Integer);
        Ok(())
    }

    fn dot(&mut self, name: &str) -> Result<()> {
        let half = self.parts.any(&["lo", "hi"]);
        let (Some(first), Some(second)) = (self.parts.ty(), self.parts.ty()) else {
            return self.fail("two types are needed");
        };
        self.arity(4, 4)?;
        let (a, b) = (self.source(1, Type::B32)?, self.source(2, Type::B32)?);
        let c = self.source(3, Type::B32)?;
        let args = Args { d: self.dest_at(0, Type::B32)?, a, b, c, ..Args::default() };
        use Type::{S32, U32};
        let wide = match (name, half, first, second) {
            ("dp4a", None, U32, U32) => {
                wide!(|a: u32, b: u32, c: u32| u32: dot4(a, b, c, false, false))
            }
            ("dp4a", None, U32, S32) => {
                wide!(|a: u32, b: u32, c: u32| u32: dot4(a, b, c, false, true))
            }
            ("dp4a", None, S32, U32) => {
                wide!(|a: u32, b: u32, c: u32| u32: dot4(a, b, c, true, false))
            }
            ("dp4a", None, S32, S32) => {
                wide!(|a: u32, b: u32, c: u32| u32: dot4(a, b, c, true, true))
            }
            _ => return self.fail("this dot product is not implemented"),
        };
        self.alu(wide, args, Class::Integer);
        self.work(Unit::Int8, 8);
        Ok(())
    }

    fn carry(&mut self, name: &str) -> Result<()> {
        let out = name == "add" || name == "sub" || name == "mad" || self.parts.take("cc");
        let part = self.parts.any(&["lo", "hi"]);
        let ty = self.expect_ty()?;
        let unsigned = match ty {
            Type::U32 | Type::S32 | Type::B32 => Type::U32,
            Type::U64 | Type::S64 | Type::B64 => Type::U64,
            _ => return self.fail("type is not implemented"),
        };
        if part == Some("hi") && ty.is_signed() {
            return self.fail("signed high products with carry are not implemented");
        }
        let (mut a, mut b) = (self.source(1, ty)?, self.source(2, ty)?);
        let d = self.dest_at(0, ty)?;
        if let Some(part) = part {
            let product = product(part, unsigned);
            let Some(wide) = product else { return self.fail("type is not implemented") };
            let middle = self.spare(ty.bank());
            self.alu(wide, Args { d: middle, a, b, ..Args::default() }, Class::Integer);
            (a, b) = (middle, self.source(3, ty)?);
        }
        let takes = matches!(name, "addc" | "subc" | "madc");
        let minus = name.starts_with("sub");
        let args = Args { d, a, b, c: CARRY, e: CARRY };
        let wide = carry_op(unsigned == Type::U64, minus, takes, out);
        self.alu(wide, args, Class::Integer);
        Ok(())
    }
}

fn integer_op(name: &str, ty: Type) -> Option<Wide> {
    match (name, ty) {
        ("add", Type::U16x2 | Type::S16x2) => {
            Some(wide!(|a: u32, b: u32| u32: halves(a, b, u16::wrapping_add)))
        }
        ("min", Type::U16x2) => {
            Some(wide!(|a: u32, b: u32| u32: halves(a, b, |x, y| x.min(y))))
        }
        ("max", Type::U16x2) => {
            Some(wide!(|a: u32, b: u32| u32: halves(a, b, |x, y| x.max(y))))
        }
        ("min", Type::S16x2) => Some(wide!(|a: u32, b: u32| u32:
            halves(a, b, |x, y| (x as i16).min(y as i16) as u16))),
        ("max", Type::S16x2) => Some(wide!(|a: u32, b: u32| u32:
            halves(a, b, |x, y| (x as i16).max(y as i16) as u16))),
        ("add", _) => integer2!(ty, |a, b| a.wrapping_add(b)),
        ("sub", _) => integer2!(ty, |a, b| a.wrapping_sub(b)),
        ("min", _) => integer2!(ty, |a, b| a.min(b)),
        ("max", _) => integer2!(ty, |a, b| a.max(b)),
        // PTX leaves a division by zero open: all ones here, and the dividend as the
        // remainder, as the code of the hardware's own division gives.
        ("div", _) => {
            integer2!(ty, |a, b| if b == 0 { !0 } else { a.wrapping_div(b) })
        }
        ("rem", _) => integer2!(ty, |a, b| if b == 0 { a } else { a.wrapping_rem(b) }),
        _ => None,
    }
}

fn product(part: &str, ty: Type) -> Option<Wide> {
    Some(match (part, ty) {
        ("lo", _) => return integer2!(ty, |a, b| a.wrapping_mul(b)),
        ("hi", Type::U16) => {
            wide!(|a: u16, b: u16| u16: ((u32::from(a) * u32::from(b)) >> 16) as u16)
        }
        ("hi", Type::S16) => {
            wide!(|a: i16, b: i16| i16: ((i32::from(a) * i32::from(b)) >> 16) as i16)
        }
        ("hi", Type::U32) => {
            wide!(|a: u32, b: u32| u32: ((u64::from(a) * u64::from(b)) >> 32) as u32)
        }
        ("hi", Type::S32) => {
            wide!(|a: i32, b: i32| i32: ((i64::from(a) * i64::from(b)) >> 32) as i32)
        }
        ("hi", Type::U64) => {
            wide!(|a: u64, b: u64| u64: ((u128::from(a) * u128::from(b)) >> 64) as u64)
        }
        ("hi", Type::S64) => {
            wide!(|a: i64, b: i64| i64: ((i128::from(a) * i128::from(b)) >> 64) as i64)
        }
        ("wide", Type::U16) => wide!(|a: u16, b: u16| u32: u32::from(a) * u32::from(b)),
        ("wide", Type::S16) => wide!(|a: i16, b: i16| i32: i32::from(a) * i32::from(b)),
        ("wide", Type::U32) => wide!(|a: u32, b: u32| u64: u64::from(a) * u64::from(b)),
        ("wide", Type::S32) => wide!(|a: i32, b: i32| i64: i64::from(a) * i64::from(b)),
        _ => return None,
    })
}

fn product_sum(part: &str, ty: Type) -> Option<Wide> {
    Some(match (part, ty) {
        ("lo", Type::U16 | Type::S16) => {
            wide!(|a: u16, b: u16, c: u16| u16: a.wrapping_mul(b).wrapping_add(c))
        }
        ("lo", Type::U32 | Type::S32) => {
            wide!(|a: u32, b: u32, c: u32| u32: a.wrapping_mul(b).wrapping_add(c))
        }
        ("lo", Type::U64 | Type::S64) => {
            wide!(|a: u64, b: u64, c: u64| u64: a.wrapping_mul(b).wrapping_add(c))
        }
        ("hi", Type::U32) => wide!(|a: u32, b: u32, c: u32| u32:
            (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)),
        ("hi", Type::S32) => wide!(|a: i32, b: i32, c: i32| i32:
            (((i64::from(a) * i64::from(b)) >> 32) as i32).wrapping_add(c)),
        ("hi", Type::U64) => wide!(|a: u64, b: u64, c: u64| u64:
            (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c)),
        ("hi", Type::S64) => wide!(|a: i64, b: i64, c: i64| i64:
            (((i128::from(a) * i128::from(b)) >> 64) as i64).wrapping_add(c)),
        ("wide", Type::U16) => wide!(|a: u16, b: u16, c: u32| u32:
            (u32::from(a) * u32::from(b)).wrapping_add(c)),
        ("wide", Type::S16) => wide!(|a: i16, b: i16, c: i32| i32:
            (i32::from(a) * i32::from(b)).wrapping_add(c)),
        ("wide", Type::U32) => wide!(|a: u32, b: u32, c: u64| u64:
            (u64::from(a) * u64::from(b)).wrapping_add(c)),
        ("wide", Type::S32) => wide!(|a: i32, b: i32, c: i64| i64:
            (i64::from(a) * i64::from(b)).wrapping_add(c)),
        _ => return None,
    })
}

fn dot4(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    let byte = |x: u8, signed: bool| {
        if signed { i32::from(x as i8) } else { i32::from(x) }
    };
    let pairs = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
    pairs.fold(c, |sum, (x, y)| {
        sum.wrapping_add((byte(x, a_signed) * byte(y, b_signed)) as u32)
    })
}

/// Sums and differences with the carry flag, which is an input if `takes` and an output
/// if `out`.
fn carry_op(double: bool, minus: bool, takes: bool, out: bool) -> Wide {
    macro_rules! chain {
        ($ty:ty, $minus:expr, $takes:expr, $out:expr) => {{
            fn wide(r: &mut crate::lanes::Regs, g: &Args, m: u32) {
                let flag = r.p[usize::from(CARRY)];
                let value = |a: $ty, b: $ty, c: bool| {
                    let c = ($takes && c) as $ty;
                    if $minus {
                        let (x, first) = a.overflowing_sub(b);
                        let (x, second) = x.overflowing_sub(c);
                        (x, first || second)
                    } else {
                        let (x, first) = a.overflowing_add(b);
                        let (x, second) = x.overflowing_add(c);
                        (x, first || second)
                    }
                };
                // The flag is computed first: the destination may be one of the sources.
                let flags = Args { d: CARRY, ..*g };
                crate::lanes::apply3::<$ty, $ty, bool, bool>(r, &flags, m, |a, b, c| {
                    value(a, b, c).1
                });
                let next = std::mem::replace(&mut r.p[usize::from(CARRY)], flag);
                crate::lanes::apply3::<$ty, $ty, bool, $ty>(r, g, m, |a, b, c| {
                    value(a, b, c).0
                });
                if $out {
                    r.p[usize::from(CARRY)] = next;
                }
                r.undefined[0][usize::from(CARRY)] &= !m;
            }
            wide as Wide
        }};
    }
    match (double, minus, takes, out) {
        (false, false, false, _) => chain!(u32, false, false, true),
        (false, false, true, true) => chain!(u32, false, true, true),
        (false, false, true, false) => chain!(u32, false, true, false),
        (false, true, false, _) => chain!(u32, true, false, true),
        (false, true, true, true) => chain!(u32, true, true, true),
        (false, true, true, false) => chain!(u32, true, true, false),
        (true, false, false, _) => chain!(u64, false, false, true),
        (true, false, true, true) => chain!(u64, false, true, true),
        (true, false, true, false) => chain!(u64, false, true, false),
        (true, true, false, _) => chain!(u64, true, false, true),
        (true, true, true, true) => chain!(u64, true, true, true),
        (true, true, true, false) => chain!(u64, true, true, false),
    }
}
