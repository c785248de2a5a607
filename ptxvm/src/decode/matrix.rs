//! Matrix instructions.

use crate::bank::Bank;
use crate::count::Class;
use crate::decode::decoder::{Decoder, Result};
use crate::instruction::*;
use crate::syntax::Operand;

fn accumulator(name: &str) -> Option<Accumulator> {
    Some(match name {
        "f32" => Accumulator::F32,
        "f16" => Accumulator::F16,
        "s32" => Accumulator::S32,
        "f64" => Accumulator::F64,
        _ => return None,
    })
}

/// `m16n8k16` as three numbers.
fn shape(name: &str) -> Option<(usize, usize, usize)> {
    let (m, rest) = name.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some((m.parse().ok()?, n.parse().ok()?, k.parse().ok()?))
}

impl<'a> Decoder<'_, 'a> {
    pub(super) fn matrix(&mut self, name: &str) -> Result<()> {
        match name {
            "mma" => self.mma(),
            "ldmatrix" | "stmatrix" => self.ldmatrix(name == "ldmatrix"),
            "movmatrix" => self.movmatrix(),
            _ => self.wgmma(),
        }
    }

    fn mma(&mut self) -> Result<()> {
        if !(self.parts.take("sync") & self.parts.take("aligned")) {
            return self.fail("form is not implemented");
        }
        let Some((m, n, k)) = self.parts.find(shape) else {
            return self.fail("shape is not implemented");
        };
        if !(self.parts.take("row") & self.parts.take("col")) {
            return self.fail("only '.row.col' is implemented");
        }
        self.parts.take("kind::f8f6f4");
        let saturate = self.parts.take("satfinite");
        let d_ty = self.parts.find(accumulator);
        let (a_ty, b_ty) =
            (self.parts.find(Element::parse), self.parts.find(Element::parse));
        let c_ty = self.parts.find(accumulator);
        let (Some(accumulator), Some(a_ty), Some(b_ty)) = (d_ty, a_ty, b_ty) else {
            return self.fail("types are not implemented");
        };
        if c_ty != Some(accumulator) {
            return self.fail("different types for C and D are not implemented");
        }
        if !valid_mma((m, n, k), a_ty, b_ty, accumulator) {
            return self.fail("this shape is not implemented for these types");
        }
        self.arity(4, 4)?;
        let wide = a_ty == Element::F64;
        let source = if wide { Type::B64 } else { Type::B32 };
        let acc = match accumulator {
            Accumulator::F64 => Bank::Double,
            _ => Bank::Word,
        };
        let d = self.dests(0, acc)?;
        let (a, b) = (self.sources(1, source)?, self.sources(2, source)?);
        let acc_ty = if acc == Bank::Double { Type::F64 } else { Type::F32 };
        let c = self.sources(3, acc_ty)?;
        let per = if wide { 1 } else { 32 / a_ty.bits() };
        let acc_per = if accumulator == Accumulator::F16 { 2 } else { 1 };
        let counts = (m * k / 32 / per, n * k / 32 / per, m * n / 32 / acc_per);
        if (a.len(), b.len(), c.len()) != counts || d.len() != c.len() {
            return self.fail("an operand has the wrong number of registers");
        }
        let op = Mma { m, n, k, a_ty, b_ty, accumulator, saturate, d, a, b, c };
        self.push(Op::Mma(Box::new(op)), Class::Tensor);
        self.work(a_ty.unit(), (2 * m * n * k / 32) as u32);
        Ok(())
    }

    fn ldmatrix(&mut self, load: bool) -> Result<()> {
        let sync = self.parts.take("sync") & self.parts.take("aligned");
        let shape = self.parts.take("m8n8");
        let count = match self.parts.any(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            Some(_) => 4,
            None => return self.fail("the number of matrices is missing"),
        };
        let transpose = self.parts.take("trans");
        let space = self.space();
        let ty = self.expect_ty()?;
        if !sync
            || !shape
            || ty != Type::B16
            || !matches!(space, Space::Shared | Space::Generic)
        {
            return self.fail("form is not implemented");
        }
        self.arity(2, 2)?;
        let (registers, address) = if load {
            (self.dests(0, Bank::Word)?, self.address(1, space)?)
        } else {
            (self.sources(1, Type::B32)?, self.address(0, space)?)
        };
        if registers.len() != count {
            return self.fail("an operand has the wrong number of registers");
        }
        let op = Box::new(LdMatrix { registers, address, transpose });
        if load {
            self.push(Op::LdMatrix(op), Class::LoadShared);
        } else {
            self.push(Op::StMatrix(op), Class::StoreShared);
        }
        Ok(())
    }

    fn movmatrix(&mut self) -> Result<()> {
        let known = self.parts.take("sync")
            & self.parts.take("aligned")
            & self.parts.take("m8n8")
            & self.parts.take("trans");
        if !known || self.expect_ty()? != Type::B16 {
            return self.fail("form is not implemented");
        }
        self.arity(2, 2)?;
        let a = self.source(1, Type::B32)?;
        let d = self.dest_at(0, Type::B32)?;
        self.push(Op::MovMatrix { d, a }, Class::Warp);
        Ok(())
    }

    fn wgmma(&mut self) -> Result<()> {
        let sync = self.parts.any(&["fence", "commit_group", "wait_group", "mma_async"]);
        if !(self.parts.take("sync") & self.parts.take("aligned")) {
            return self.fail("form is not implemented");
        }
        match sync {
            Some("fence") => {
                self.push(Op::WgmmaFence, Class::Barrier);
            }
            Some("commit_group") => {
                self.push(Op::WgmmaCommit, Class::Async);
            }
            Some("wait_group") => {
                let pending = self.immediate(0)?.min(u64::from(u32::MAX)) as u32;
                self.push(Op::WgmmaWait { pending }, Class::Async);
            }
            Some(_) => return self.wgmma_product(),
            None => return self.fail("form is not implemented"),
        }
        Ok(())
    }

    fn wgmma_product(&mut self) -> Result<()> {
        let Some((m, n, k)) = self.parts.find(shape) else {
            return self.fail("shape is not implemented");
        };
        let saturate = self.parts.take("satfinite");
        let d_ty = self.parts.find(accumulator);
        let (a_ty, b_ty) =
            (self.parts.find(Element::parse), self.parts.find(Element::parse));
        let (Some(accumulator), Some(a_ty), Some(b_ty)) = (d_ty, a_ty, b_ty) else {
            return self.fail("types are not implemented");
        };
        if !valid_wgmma((m, n, k), accumulator, (a_ty, b_ty)) {
            return self.fail("this shape is not implemented for these types");
        }
        let d = self.dests(0, Bank::Word)?;
        let per = if accumulator == Accumulator::F16 { 2 } else { 1 };
        if d.len() != m * n / 128 / per {
            return self.fail("the accumulator has the wrong number of registers");
        }
        let a = match self.operand(1)? {
            Operand::List(_) => WgmmaA::Registers(self.sources(1, Type::B32)?),
            _ => WgmmaA::Descriptor(self.source(1, Type::B64)?),
        };
        if matches!(&a, WgmmaA::Registers(rows) if rows.len() != 4) {
            return self.fail("A has the wrong number of registers");
        }
        let b = self.source(2, Type::B64)?;
        let scale_d = self.source(3, Type::Pred)?;
        let (sign, turn) =
            self.signs_and_transposes(a_ty, matches!(a, WgmmaA::Registers(_)))?;
        let at = |list: &[i64], n: usize| list.get(n).copied().unwrap_or(0);
        let op = Wgmma {
            n,
            k,
            a_ty,
            b_ty,
            accumulator,
            saturate,
            d,
            a,
            b,
            scale_d,
            negate_a: at(&sign, 0) < 0,
            negate_b: at(&sign, 1) < 0,
            transpose_a: turn.len() == 2 && turn[0] == 1,
            transpose_b: turn.last() == Some(&1),
        };
        self.push(Op::Wgmma(Box::new(op)), Class::Tensor);
        self.work(a_ty.unit(), (2 * m * n * k / 128) as u32);
        Ok(())
    }

    /// The last operands of a wgmma: the signs of A and B for floating-point types, and
    /// whether the 16-bit operands in shared memory are transposed.
    fn signs_and_transposes(
        &self,
        a_ty: Element,
        in_registers: bool,
    ) -> Result<(Vec<i64>, Vec<i64>)> {
        let sixteen = matches!(a_ty, Element::F16 | Element::BF16);
        let signs = if a_ty.is_integer() { 0 } else { 2 };
        let turns = match (sixteen, in_registers) {
            (true, true) => 1,
            (true, false) => 2,
            (false, _) => 0,
        };
        self.arity(4 + signs + turns, 4 + signs + turns)?;
        let mut sign = Vec::new();
        for n in 4..4 + signs + turns {
            sign.push(self.immediate(n)? as i64);
        }
        let turn = sign.split_off(signs);
        if sign.iter().any(|s| s.abs() != 1) || turn.iter().any(|t| *t != 0 && *t != 1) {
            return self.fail("a scale must be 1 or -1, and a transpose flag 0 or 1");
        }
        Ok((sign, turn))
    }
}

/// Whether the ISA has a wgmma of this shape of these types.
fn valid_wgmma(
    (m, n, k): (usize, usize, usize),
    accumulator: Accumulator,
    (a, b): (Element, Element),
) -> bool {
    let fits = m == 64 && k as u32 * a.bits() as u32 == 256 && (8..=256).contains(&n);
    let steps = if a.is_integer() { n % 16 == 0 || n == 8 || n == 24 } else { n % 8 == 0 };
    let types = match accumulator {
        Accumulator::F32 => !a.is_integer() && a != Element::F64,
        Accumulator::F16 => matches!(a, Element::F16 | Element::E4M3 | Element::E5M2),
        Accumulator::S32 => a.is_integer(),
        Accumulator::F64 => false,
    };
    let small = matches!(a, Element::E4M3 | Element::E5M2) || a.is_integer();
    let same = a == b || small && a.is_integer() == b.is_integer() && a.bits() == b.bits();
    fits && steps && types && same
}

fn valid_mma(
    shape: (usize, usize, usize),
    a: Element,
    b: Element,
    accumulator: Accumulator,
) -> bool {
    use Element::*;
    let float = matches!(accumulator, Accumulator::F32 | Accumulator::F16);
    let f32 = accumulator == Accumulator::F32;
    match (shape, a, b) {
        ((16, 8, 8 | 16), F16, F16) => float,
        ((16, 8, 8 | 16), BF16, BF16) => f32,
        ((16, 8, 4 | 8), TF32, TF32) => f32,
        ((16, 8, 16 | 32), E4M3 | E5M2, E4M3 | E5M2) => float,
        ((16, 8, 16 | 32) | (8, 8, 16), S8 | U8, S8 | U8) => {
            accumulator == Accumulator::S32
        }
        ((8, 8, 4), F64, F64) => accumulator == Accumulator::F64,
        _ => false,
    }
}
