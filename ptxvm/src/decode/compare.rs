//! Comparison and selection.

use crate::bank::Bank;
use crate::count::Class;
use crate::decode::decoder::{Decoder, Result};
use crate::float::{bf16_to_f32, f16_to_f32, flush};
use crate::instruction::Type;
use crate::lanes::{Args, Wide, select, wide};
use crate::syntax::Operand;

const COMPARISONS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu",
    "gtu", "geu", "num", "nan",
];

macro_rules! integer_compare {
    ($name:expr, $ty:ty) => {
        match $name {
            "eq" => Some(wide!(|a: $ty, b: $ty| bool: a == b)),
            "ne" => Some(wide!(|a: $ty, b: $ty| bool: a != b)),
            "lt" => Some(wide!(|a: $ty, b: $ty| bool: a < b)),
            "le" => Some(wide!(|a: $ty, b: $ty| bool: a <= b)),
            "gt" => Some(wide!(|a: $ty, b: $ty| bool: a > b)),
            "ge" => Some(wide!(|a: $ty, b: $ty| bool: a >= b)),
            _ => None,
        }
    };
}

/// Ordered comparisons with a NaN are false, those with a final `u` true.
macro_rules! float_compare {
    ($name:expr, $ty:ty, $load:expr) => {
        match $name {
            "eq" => Some(wide!(|a: $ty, b: $ty| bool: $load(a) == $load(b))),
            "ne" => Some(wide!(|a: $ty, b: $ty| bool: {
                let (a, b) = ($load(a), $load(b));
                a != b && !a.is_nan() && !b.is_nan()
            })),
            "lt" => Some(wide!(|a: $ty, b: $ty| bool: $load(a) < $load(b))),
            "le" => Some(wide!(|a: $ty, b: $ty| bool: $load(a) <= $load(b))),
            "gt" => Some(wide!(|a: $ty, b: $ty| bool: $load(a) > $load(b))),
            "ge" => Some(wide!(|a: $ty, b: $ty| bool: $load(a) >= $load(b))),
            "equ" => Some(wide!(|a: $ty, b: $ty| bool: {
                let (a, b) = ($load(a), $load(b));
                a == b || a.is_nan() || b.is_nan()
            })),
            "neu" => Some(wide!(|a: $ty, b: $ty| bool: $load(a) != $load(b))),
            "ltu" => Some(wide!(|a: $ty, b: $ty| bool: {
                let (a, b) = ($load(a), $load(b));
                a < b || a.is_nan() || b.is_nan()
            })),
            "leu" => Some(wide!(|a: $ty, b: $ty| bool: {
                let (a, b) = ($load(a), $load(b));
                a <= b || a.is_nan() || b.is_nan()
            })),
            "gtu" => Some(wide!(|a: $ty, b: $ty| bool: {
                let (a, b) = ($load(a), $load(b));
                a > b || a.is_nan() || b.is_nan()
            })),
            "geu" => Some(wide!(|a: $ty, b: $ty| bool: {
                let (a, b) = ($load(a), $load(b));
                a >= b || a.is_nan() || b.is_nan()
            })),
            "num" => Some(wide!(|a: $ty, b: $ty| bool:
                !$load(a).is_nan() && !$load(b).is_nan())),
            "nan" => Some(wide!(|a: $ty, b: $ty| bool:
                $load(a).is_nan() || $load(b).is_nan())),
            _ => None,
        }
    };
}

fn comparison(name: &str, ty: Type, ftz: bool) -> Option<Wide> {
    // `lo`, `ls`, `hi` and `hs` are the unsigned names.
    let name = match name {
        "lo" if !ty.is_float() => "lt",
        "ls" if !ty.is_float() => "le",
        "hi" if !ty.is_float() => "gt",
        "hs" if !ty.is_float() => "ge",
        other => other,
    };
    match ty {
        Type::B16 | Type::U16 => integer_compare!(name, u16),
        Type::S16 => integer_compare!(name, i16),
        Type::B32 | Type::U32 => integer_compare!(name, u32),
        Type::S32 => integer_compare!(name, i32),
        Type::B64 | Type::U64 => integer_compare!(name, u64),
        Type::S64 => integer_compare!(name, i64),
        Type::F32 if ftz => float_compare!(name, f32, flush),
        Type::F32 => float_compare!(name, f32, (|x: f32| x)),
        Type::F64 => float_compare!(name, f64, (|x: f64| x)),
        Type::F16 => float_compare!(name, u16, f16_to_f32),
        Type::BF16 => float_compare!(name, u16, bf16_to_f32),
        _ => None,
    }
}

impl<'a> Decoder<'_, 'a> {
    pub(super) fn compare(&mut self, name: &str) -> Result<()> {
        match name {
            "setp" => self.setp(),
            "set" => self.set(),
            "selp" => self.selp(),
            "slct" => self.slct(),
            _ => self.testp(),
        }
    }

    /// Emits the comparison of operands `at` and `at + 1` into predicate `d`.
    fn comparison(&mut self, d: u16, at: usize) -> Result<()> {
        let Some(name) = self.parts.any(&COMPARISONS) else {
            return self.fail("comparison is missing");
        };
        let ftz = self.parts.take("ftz");
        let combine = self.parts.any(&["and", "or", "xor"]);
        let ty = self.expect_ty()?;
        let Some(wide) = comparison(name, ty, ftz) else {
            return self.fail("form is not implemented");
        };
        let (a, b) = (self.source(at, ty)?, self.source(at + 1, ty)?);
        let wanted = at + 2 + usize::from(combine.is_some());
        self.arity(wanted, wanted)?;
        let Some(combine) = combine else {
            self.alu(wide, Args { d, a, b, ..Args::default() }, Class::Compare);
            return Ok(());
        };
        // `d` may be the third source: compare into a spare predicate.
        let c = self.source(at + 2, Type::Pred)?;
        let t = self.spare(Bank::Predicate);
        self.alu(wide, Args { d: t, a, b, ..Args::default() }, Class::Compare);
        let wide = match combine {
            "and" => wide!(|a: bool, b: bool| bool: a & b),
            "or" => wide!(|a: bool, b: bool| bool: a | b),
            _ => wide!(|a: bool, b: bool| bool: a ^ b),
        };
        self.alu(wide, Args { d, a: t, b: c, ..Args::default() }, Class::Compare);
        Ok(())
    }

    fn setp(&mut self) -> Result<()> {
        let Operand::Pair(first, second) = self.operand(0)?.clone() else {
            let d = self.dest_at(0, Type::Pred)?;
            return self.comparison(d, 1);
        };
        if self.parts.any(&["and", "or", "xor"]).is_some() {
            return self.fail("two results with a third operand are not implemented");
        }
        let d = self.dest(&first, Bank::Predicate)?;
        let q = self.dest(&second, Bank::Predicate)?;
        self.comparison(d, 1)?;
        let args = Args { d: q, a: d, ..Args::default() };
        self.alu(wide!(|a: bool| bool: !a), args, Class::Compare);
        Ok(())
    }

    fn set(&mut self) -> Result<()> {
        let Some(name) = self.parts.any(&COMPARISONS) else {
            return self.fail("comparison is missing");
        };
        let ftz = self.parts.take("ftz");
        let result = self.expect_ty()?;
        let ty = self.expect_ty()?;
        self.arity(3, 3)?;
        let Some(wide) = comparison(name, ty, ftz) else {
            return self.fail("form is not implemented");
        };
        let (a, b) = (self.source(1, ty)?, self.source(2, ty)?);
        let t = self.spare(Bank::Predicate);
        self.alu(wide, Args { d: t, a, b, ..Args::default() }, Class::Compare);
        let args = Args { d: self.dest_at(0, result)?, a: t, ..Args::default() };
        let wide = match result {
            Type::U32 | Type::S32 => wide!(|a: bool| u32: if a { u32::MAX } else { 0 }),
            Type::F32 => wide!(|a: bool| f32: if a { 1.0 } else { 0.0 }),
            _ => return self.fail("result type is not implemented"),
        };
        self.alu(wide, args, Class::Compare);
        Ok(())
    }

    fn selp(&mut self) -> Result<()> {
        let ty = self.expect_ty()?;
        self.arity(4, 4)?;
        let (a, b) = (self.source(1, ty)?, self.source(2, ty)?);
        let c = self.source(3, Type::Pred)?;
        let args = Args { d: self.dest_at(0, ty)?, a, b, c, e: 0 };
        let wide: Wide = match ty.bits() {
            16 => select::<u16>,
            32 => select::<u32>,
            64 => select::<u64>,
            _ => return self.fail("type is not implemented"),
        };
        self.alu(wide, args, Class::Move);
        Ok(())
    }

    fn slct(&mut self) -> Result<()> {
        let ftz = self.parts.take("ftz");
        let ty = self.expect_ty()?;
        let by = self.expect_ty()?;
        self.arity(4, 4)?;
        let (a, b, c) = (self.source(1, ty)?, self.source(2, ty)?, self.source(3, by)?);
        let t = self.spare(Bank::Predicate);
        let test = match by {
            Type::S32 => wide!(|a: i32| bool: a >= 0),
            Type::F32 if ftz => wide!(|a: f32| bool: flush(a) >= 0.0),
            Type::F32 => wide!(|a: f32| bool: a >= 0.0),
            _ => return self.fail("type is not implemented"),
        };
        self.alu(test, Args { d: t, a: c, ..Args::default() }, Class::Compare);
        let args = Args { d: self.dest_at(0, ty)?, a, b, c: t, e: 0 };
        let wide: Wide = match ty.bits() {
            32 => select::<u32>,
            64 => select::<u64>,
            _ => return self.fail("type is not implemented"),
        };
        self.alu(wide, args, Class::Move);
        Ok(())
    }

    fn testp(&mut self) -> Result<()> {
        let kinds = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"];
        let Some(kind) = self.parts.any(&kinds) else {
            return self.fail("property is missing");
        };
        let ty = self.expect_ty()?;
        self.arity(2, 2)?;
        let a = self.source(1, ty)?;
        let args = Args { d: self.dest_at(0, Type::Pred)?, a, ..Args::default() };
        macro_rules! property {
            ($ty:ty) => {
                match kind {
                    "finite" => wide!(|a: $ty| bool: a.is_finite()),
                    "infinite" => wide!(|a: $ty| bool: a.is_infinite()),
                    "number" => wide!(|a: $ty| bool: !a.is_nan()),
                    "notanumber" => wide!(|a: $ty| bool: a.is_nan()),
                    "normal" => wide!(|a: $ty| bool: a.is_normal() || a == 0.0),
                    _ => wide!(|a: $ty| bool: a.is_subnormal()),
                }
            };
        }
        let wide = match ty {
            Type::F32 => property!(f32),
            Type::F64 => property!(f64),
            _ => return self.fail("type is not implemented"),
        };
        self.alu(wide, args, Class::Compare);
        Ok(())
    }
}
