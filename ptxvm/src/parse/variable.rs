//! Variables of modules and kernels.

use crate::bank::Bank;
use crate::lex::Kind;
use crate::parse::cursor::{Parser, Result};
use crate::syntax::{Operand, Pointer, Variable, VariableSpace};

/// Larger variables, in bytes, are refused, so that no text can allocate all memory.
const MAX_VARIABLE: u64 = 1 << 24;

/// A scalar type's width in bytes, registers' bank and width in bits.
pub(super) fn scalar(name: &str) -> Option<(u64, Bank, u32)> {
    let (bytes, bank) = match name {
        ".pred" => return Some((1, Bank::Predicate, 1)),
        ".b8" | ".u8" | ".s8" => (1, Bank::Word),
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => (2, Bank::Word),
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" => (4, Bank::Word),
        ".b64" | ".u64" | ".s64" | ".f64" => (8, Bank::Double),
        _ => return None,
    };
    Some((bytes, bank, bytes as u32 * 8))
}

impl<'a> Parser<'a> {
    /// `.shared .align 4 .b8 name[16], other;` with initial values.
    pub(super) fn variables(&mut self, external: bool) -> Result<Vec<Variable<'a>>> {
        let space = match self.word()? {
            ".global" => VariableSpace::Global,
            ".const" => VariableSpace::Const,
            ".shared" => VariableSpace::Shared,
            ".local" => VariableSpace::Local,
            ".param" => VariableSpace::Param,
            other => {
                self.at -= 1;
                return self.fail(format!("directive '{other}' is not implemented"));
            }
        };
        let (mut align, mut vector, mut element) = (0, 1, None);
        while element.is_none() {
            let word = self.word()?;
            match word {
                ".align" => align = self.integer()?,
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                ".attribute" | ".ptr" => {
                    self.at -= 1;
                    return self.fail(format!("'{word}' is not implemented"));
                }
                _ => match scalar(word) {
                    Some((bytes, ..)) => element = Some(bytes),
                    None => {
                        self.at -= 1;
                        return self.fail(format!("type '{word}' is not implemented"));
                    }
                },
            }
        }
        let bytes = element.unwrap_or(1) * vector;
        if align == 0 {
            align = bytes;
        }
        if !align.is_power_of_two() || align > 1 << 16 {
            return self.fail(format!("alignment {align} is not possible"));
        }
        let mut found = Vec::new();
        loop {
            found.push(self.variable(space, align, bytes, external)?);
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';')?;
        Ok(found)
    }

    pub(super) fn variable(
        &mut self,
        space: VariableSpace,
        align: u64,
        element: u64,
        external: bool,
    ) -> Result<Variable<'a>> {
        let name = self.word()?;
        let (mut count, mut sized) = (1u64, true);
        while self.eat(b'[') {
            if self.eat(b']') {
                sized = false;
                continue;
            }
            let length = self.integer()?;
            count = count.saturating_mul(length);
            self.expect(b']')?;
        }
        let (mut init, mut pointers) = (Vec::new(), Vec::new());
        if self.eat(b'=') {
            self.initial(element, (&mut init, &mut pointers), 0)?;
        }
        let bytes = if sized { count.saturating_mul(element) } else { init.len() as u64 };
        if bytes > MAX_VARIABLE || init.len() as u64 > bytes {
            return self.fail(format!(
                "variable '{name}' has {bytes} bytes, too many or too few for its values"
            ));
        }
        let dynamic = external && !sized && space == VariableSpace::Shared;
        if external && !dynamic {
            return self.fail(format!("external variable '{name}' is not implemented"));
        }
        Ok(Variable { name, space, align, bytes, init, pointers, dynamic })
    }

    pub(super) fn initial(
        &mut self,
        element: u64,
        (out, pointers): (&mut Vec<u8>, &mut Vec<Pointer<'a>>),
        depth: usize,
    ) -> Result<()> {
        if depth > 4 {
            return self.fail("initial values nested too deeply");
        }
        if self.eat(b'{') {
            while !self.eat(b'}') {
                self.initial(element, (out, pointers), depth + 1)?;
                self.eat(b',');
            }
            return Ok(());
        }
        // All addresses are generic: global and constant memory have one address each.
        let generic = matches!(self.peek(), Some(Kind::Word("generic")));
        if generic {
            self.at += 1;
            self.expect(b'(')?;
        }
        let line = self.line();
        let operand = self.operand(0)?;
        if generic {
            self.expect(b')')?;
        }
        let value = match operand {
            Operand::Int(value) | Operand::Double(value) => value,
            Operand::Float(bits) => u64::from(bits),
            Operand::Name(_) | Operand::Offset(..) if element == 8 => {
                let (name, addend) = match operand {
                    Operand::Offset(name, addend) => (name, addend),
                    Operand::Name(name) if generic => (name, self.offset()?),
                    Operand::Name(name) => (name, 0),
                    _ => return self.fail("expected a name"),
                };
                pointers.push(Pointer { offset: out.len() as u64, name, addend, line });
                0
            }
            _ => return self.fail("initial values other than numbers are not implemented"),
        };
        out.extend_from_slice(&value.to_le_bytes()[..element.min(8) as usize]);
        Ok(())
    }
}
