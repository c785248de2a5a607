//! `cvt` and `mov`.

use crate::bank::Bank;
use crate::count::Class;
use crate::decode::decoder::{Decoder, Result};
use crate::float::{self, Rounding, bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::instruction::Type;
use crate::instruction::{ClockRegister, Initial, Op};
use crate::instruction::{Conversion, Number};
use crate::lanes::{Args, Wide, copy, wide};
use crate::syntax::Operand;

/// How a type's values are stored, and how many are in one register.
fn number(ty: Type) -> Option<(Number, u32)> {
    use Type::*;
    let integer = |signed| Number::Integer { bits: ty.bits(), signed };
    Some(match ty {
        U8 | U16 | U32 | U64 => (integer(false), 1),
        S8 | S16 | S32 | S64 => (integer(true), 1),
        F16 => (Number::Float(float::F16, 16), 1),
        F16x2 => (Number::Float(float::F16, 16), 2),
        BF16 => (Number::Float(float::BF16, 16), 1),
        BF16x2 => (Number::Float(float::BF16, 16), 2),
        F32 => (Number::Float(float::F32, 32), 1),
        F64 => (Number::Float(float::F64, 64), 1),
        TF32 => (Number::Float(float::TF32, 32), 1),
        E4M3x2 => (Number::Float(float::E4M3, 8), 2),
        E5M2x2 => (Number::Float(float::E5M2, 8), 2),
        _ => return None,
    })
}

/// The rounding that a modifier names, and whether it rounds to an integer.
fn rounding(part: &str) -> Option<(Rounding, bool)> {
    Some(match part {
        "rn" => (Rounding::Nearest, false),
        "rz" => (Rounding::Zero, false),
        "rm" => (Rounding::Down, false),
        "rp" => (Rounding::Up, false),
        "rna" => (Rounding::Away, false),
        "rni" => (Rounding::Nearest, true),
        "rzi" => (Rounding::Zero, true),
        "rmi" => (Rounding::Down, true),
        "rpi" => (Rounding::Up, true),
        _ => return None,
    })
}

impl<'a> Decoder<'_, 'a> {
    pub(super) fn cvt(&mut self) -> Result<()> {
        if self.parts.take("pack") {
            return self.pack();
        }
        let round = self.parts.find(rounding);
        let flush = self.parts.take("ftz");
        let finite = self.parts.take("satfinite");
        let sat = self.parts.take("sat");
        let relu = self.parts.take("relu");
        let (to_ty, from_ty) = (self.expect_ty()?, self.expect_ty()?);
        let (Some((to, packed)), Some((from, from_count))) =
            (number(to_ty), number(from_ty))
        else {
            return self.fail("type is not implemented");
        };
        let float = matches!((from, to), (Number::Float(..), Number::Float(..)));
        let integers =
            matches!((from, to), (Number::Integer { .. }, Number::Integer { .. }));
        if finite && !(float && to_ty.bits() <= 32) || relu && !float || flush && integers {
            return self.fail("modifier is not implemented here");
        }
        if finite && packed == 1 && to_ty != Type::TF32 {
            return self.fail("'.satfinite' is not implemented for this type");
        }
        if packed == 1 && from_count == 2 || (packed == 2 && from_count == 2 && !float) {
            return self.fail("form is not implemented");
        }
        let wanted = if packed == 2 && from_count == 1 { 3 } else { 2 };
        self.arity(wanted, wanted)?;
        let d = self.convert_dest(to_ty)?;
        let a = self.convert_source(1, from_ty)?;
        let b = if wanted == 3 { self.convert_source(2, from_ty)? } else { a };
        let args = Args { d, a, b, ..Args::default() };
        // Without a modifier the conversion is exact, or between integers.
        let (rounding, integral) = round.unwrap_or((Rounding::Nearest, false));
        let plain = !flush && !finite && !sat && !relu;
        let fast = if plain { fast(to_ty, from_ty, round) } else { None };
        if let Some(wide) = fast {
            self.alu(wide, args, Class::Convert);
            return self.widen(to_ty);
        }
        let conversion = Conversion {
            from,
            to,
            rounding,
            integral: integral && float,
            flush,
            saturate: sat || finite,
            relu,
            packed,
            from_packed: from_count == 2,
            from_bank: from_ty.bank(),
            to_bank: to_ty.bank(),
            args,
        };
        self.push(Op::Convert(Box::new(conversion)), Class::Convert);
        self.widen(to_ty)
    }

    /// A destination may be wider than its type.
    fn convert_dest(&mut self, ty: Type) -> Result<u16> {
        let operand = self.operand(0)?.clone();
        let register = self.register(&operand)?;
        if register.bank == ty.bank() || ty.bits() > register.bits {
            return self.dest(&operand, ty.bank());
        }
        Ok(self.spare(ty.bank()))
    }

    /// Extends a narrow result to its register, by its type's sign.
    fn widen(&mut self, ty: Type) -> Result<()> {
        let operand = self.operand(0)?.clone();
        let register = self.register(&operand)?;
        let index = match self.code.last().map(|last| &last.op) {
            Some(Op::Alu(_, args)) => args.d,
            Some(Op::Convert(conversion)) => conversion.args.d,
            _ => return Ok(()),
        };
        let args = Args { d: register.index, a: index, ..Args::default() };
        let wide = match (ty, register.bits) {
            (Type::S8, 16) => wide!(|a: u32| i16: i16::from(a as i8)),
            (Type::S8, 32) => wide!(|a: u32| i32: i32::from(a as i8)),
            (Type::S16, 32) => wide!(|a: i16| i32: i32::from(a)),
            (Type::S8, 64) => wide!(|a: u32| i64: i64::from(a as i8)),
            (Type::S16, 64) => wide!(|a: i16| i64: i64::from(a)),
            (Type::S32, 64) => wide!(|a: i32| i64: i64::from(a)),
            (_, 64) if ty.bits() < 64 => wide!(|a: u32| u64: u64::from(a)),
            _ => return Ok(()),
        };
        self.alu(wide, args, Class::Convert);
        Ok(())
    }

    /// A source may be wider than its type; the conversion uses the low bits.
    fn convert_source(&mut self, n: usize, ty: Type) -> Result<u16> {
        let operand = self.operand(n)?.clone();
        if let Operand::Name(_) = operand
            && let Ok(register) = self.register(&operand)
            && register.bank == Bank::Double
            && ty.bank() == Bank::Word
        {
            let d = self.spare(Bank::Word);
            let args = Args { d, a: register.index, ..Args::default() };
            self.alu(wide!(|a: u64| u32: a as u32), args, Class::Convert);
            return Ok(d);
        }
        self.source_of(&operand, ty)
    }

    /// `cvt.pack.sat.s8.s32.b32 d, a, b, c`: two saturated values below c's low half.
    fn pack(&mut self) -> Result<()> {
        let sat = self.parts.take("sat");
        let (to, from) = (self.expect_ty()?, self.expect_ty()?);
        let third = self.parts.ty();
        let wanted = if third.is_some() { 4 } else { 3 };
        self.arity(wanted, wanted)?;
        let (a, b) = (self.source(1, from)?, self.source(2, from)?);
        let c = if third.is_some() { self.source(3, Type::B32)? } else { a };
        let args = Args { d: self.dest_at(0, Type::B32)?, a, b, c, e: 0 };
        let wide = match (sat, to, from, third) {
            (true, Type::S8, Type::S32, Some(Type::B32)) => {
                wide!(|a: i32, b: i32, c: u32| u32: {
                    let byte = |x: i32| x.clamp(-128, 127) as u8;
                    c << 16 | u32::from(byte(a)) << 8 | u32::from(byte(b))
                })
            }
            (true, Type::U8, Type::S32, Some(Type::B32)) => {
                wide!(|a: i32, b: i32, c: u32| u32: {
                    let byte = |x: i32| x.clamp(0, 255) as u8;
                    c << 16 | u32::from(byte(a)) << 8 | u32::from(byte(b))
                })
            }
            (true, Type::S16, Type::S32, None) => wide!(|a: i32, b: i32| u32: {
                let half = |x: i32| x.clamp(-32768, 32767) as u16;
                u32::from(half(a)) << 16 | u32::from(half(b))
            }),
            (true, Type::U16, Type::S32, None) => wide!(|a: i32, b: i32| u32: {
                let half = |x: i32| x.clamp(0, 65535) as u16;
                u32::from(half(a)) << 16 | u32::from(half(b))
            }),
            _ => return self.fail("form is not implemented"),
        };
        self.alu(wide, args, Class::Convert);
        Ok(())
    }

    pub(super) fn mov(&mut self) -> Result<()> {
        let ty = self.expect_ty()?;
        self.arity(2, 2)?;
        let (to, from) = (self.operand(0)?.clone(), self.operand(1)?.clone());
        if let Operand::Name(name) = from
            && let Some(clock) = clock(name)
        {
            let d = self.dest(&to, ty.bank())?;
            self.push(Op::Clock { clock, bank: ty.bank(), d }, Class::Move);
            return Ok(());
        }
        match (&to, &from) {
            (Operand::List(parts), _) => self.unpack(ty, parts, &from),
            (_, Operand::List(parts)) => self.pack_list(ty, &to, parts),
            _ => {
                let d = self.dest(&to, ty.bank())?;
                let a = self.source_of(&from, ty)?;
                let wide: Wide = match ty.bank() {
                    Bank::Predicate => copy::<bool>,
                    Bank::Word => copy::<u32>,
                    Bank::Double => copy::<u64>,
                };
                self.alu(wide, Args { d, a, ..Args::default() }, Class::Move);
                Ok(())
            }
        }
    }

    fn unpack(
        &mut self,
        ty: Type,
        parts: &[Operand<'a>],
        from: &Operand<'a>,
    ) -> Result<()> {
        let a = self.source_of(from, ty)?;
        let width = ty.bits() / parts.len().max(1) as u32;
        let narrow = match width {
            8 => Type::B8,
            16 => Type::B16,
            32 => Type::B32,
            _ => return self.fail("form is not implemented"),
        };
        // The source may be among the destinations: read it once.
        let held = self.spare(ty.bank());
        let wide: Wide = if ty.bank() == Bank::Double { copy::<u64> } else { copy::<u32> };
        self.alu(wide, Args { d: held, a, ..Args::default() }, Class::Move);
        for (n, part) in parts.iter().enumerate() {
            let d = self.dest(part, narrow.bank())?;
            let shift = n as u64 * u64::from(width);
            let b = self.row(Bank::Word, Initial::Value(shift));
            let wide = match (ty.bank(), width) {
                (Bank::Double, 32) => wide!(|a: u64, b: u32| u32: (a >> b) as u32),
                (Bank::Double, 16) => wide!(|a: u64, b: u32| u16: (a >> b) as u16),
                (Bank::Double, _) => wide!(|a: u64, b: u32| u8: (a >> b) as u8),
                (_, 16) => wide!(|a: u32, b: u32| u16: (a >> b) as u16),
                (_, _) => wide!(|a: u32, b: u32| u8: (a >> b) as u8),
            };
            self.alu(wide, Args { d, a: held, b, ..Args::default() }, Class::Move);
        }
        Ok(())
    }

    fn pack_list(
        &mut self,
        ty: Type,
        to: &Operand<'a>,
        parts: &[Operand<'a>],
    ) -> Result<()> {
        let d = self.dest(to, ty.bank())?;
        let width = ty.bits() / parts.len().max(1) as u32;
        let narrow = match width {
            8 => Type::B8,
            16 => Type::B16,
            32 => Type::B32,
            _ => return self.fail("form is not implemented"),
        };
        let rows = parts
            .iter()
            .map(|part| self.source_of(part, narrow))
            .collect::<Result<Vec<_>>>()?;
        let args = |rows: &[u16]| Args {
            d,
            a: rows[0],
            b: rows[1],
            c: rows.get(2).copied().unwrap_or_default(),
            e: rows.get(3).copied().unwrap_or_default(),
        };
        let wide = match (ty.bits(), rows.len()) {
            (64, 2) => {
                wide!(|a: u32, b: u32| u64: u64::from(a) | u64::from(b) << 32)
            }
            (32, 2) => wide!(|a: u16, b: u16| u32: u32::from(a) | u32::from(b) << 16),
            (16, 2) => wide!(|a: u8, b: u8| u16: u16::from(a) | u16::from(b) << 8),
            (64, 4) => wide!(|a: u16, b: u16, c: u16, e: u16| u64:
                u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(e) << 48),
            (32, 4) => wide!(|a: u8, b: u8, c: u8, e: u8| u32:
                u32::from_le_bytes([a, b, c, e])),
            _ => return self.fail("form is not implemented"),
        };
        self.alu(wide, args(&rows), Class::Move);
        Ok(())
    }
}

fn clock(name: &str) -> Option<ClockRegister> {
    Some(match name {
        "%clock" | "%clock64" => ClockRegister::Cycles,
        "%clock_hi" => ClockRegister::CyclesHigh,
        "%globaltimer" | "%globaltimer_lo" => ClockRegister::Timer,
        "%globaltimer_hi" => ClockRegister::TimerHigh,
        _ => return None,
    })
}

/// The most frequent conversions, as vector loops.
fn fast(to: Type, from: Type, round: Option<(Rounding, bool)>) -> Option<Wide> {
    use Type::*;
    let near = round == Some((Rounding::Nearest, false));
    Some(match (to, from) {
        (U64 | S64, U32) => wide!(|a: u32| u64: u64::from(a)),
        (U64 | S64, S32) => wide!(|a: i32| i64: i64::from(a)),
        (U32 | S32, U64 | S64) => wide!(|a: u64| u32: a as u32),
        (U32 | S32, U32 | S32) => copy::<u32>,
        (U64 | S64, U64 | S64) => copy::<u64>,
        (U32 | S32, U16) => wide!(|a: u16| u32: u32::from(a)),
        (U32 | S32, S16) => wide!(|a: i16| i32: i32::from(a)),
        (U16 | S16, U32 | S32) => wide!(|a: u32| u16: a as u16),
        (U32 | S32, U8) => wide!(|a: u8| u32: u32::from(a)),
        (F32, S32) if near => wide!(|a: i32| f32: a as f32),
        (F32, U32) if near => wide!(|a: u32| f32: a as f32),
        (F32, F16) if round.is_none() => wide!(|a: u16| f32: f16_to_f32(a)),
        (F32, BF16) if round.is_none() => wide!(|a: u16| f32: bf16_to_f32(a)),
        (F16, F32) if near => wide!(|a: f32| u16: f32_to_f16(a)),
        (BF16, F32) if near => wide!(|a: f32| u16: f32_to_bf16(a)),
        (F16x2, F32) if near => wide!(|a: f32, b: f32| u32:
            u32::from(f32_to_f16(a)) << 16 | u32::from(f32_to_f16(b))),
        (BF16x2, F32) if near => wide!(|a: f32, b: f32| u32:
            u32::from(f32_to_bf16(a)) << 16 | u32::from(f32_to_bf16(b))),
        _ => return None,
    })
}
