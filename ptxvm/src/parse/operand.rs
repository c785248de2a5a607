//! Operands and numbers.

use crate::lex::Kind;
use crate::parse::cursor::{Parser, Result, integer};
use crate::syntax::{Base, Operand};

impl<'a> Parser<'a> {
    pub(super) fn operand(&mut self, depth: usize) -> Result<Operand<'a>> {
        let first = self.single(depth)?;
        if !self.eat(b'|') {
            return Ok(first);
        }
        Ok(Operand::Pair(Box::new(first), Box::new(self.single(depth)?)))
    }

    pub(super) fn single(&mut self, depth: usize) -> Result<Operand<'a>> {
        if depth > 4 {
            return self.fail("operands nested too deeply");
        }
        match self.next() {
            Some(Kind::Punct(b'!')) => Ok(Operand::Not(self.word()?)),
            Some(Kind::Punct(b'-')) => match self.single(depth + 1)? {
                Operand::Int(value) => Ok(Operand::Int(value.wrapping_neg())),
                Operand::Double(bits) => Ok(Operand::Double(bits ^ 1 << 63)),
                _ => self.fail("'-' before something that is not a number"),
            },
            Some(Kind::Punct(b'[')) => self.address(depth),
            Some(Kind::Punct(b'{')) => {
                let mut list = Vec::new();
                while !self.eat(b'}') {
                    list.push(self.operand(depth + 1)?);
                    if self.peek() != Some(Kind::Punct(b'}')) {
                        self.expect(b',')?;
                    }
                }
                Ok(Operand::List(list))
            }
            // The results or arguments of a call.
            Some(Kind::Punct(b'(')) => {
                let mut list = Vec::new();
                while !self.eat(b')') {
                    list.push(self.operand(depth + 1)?);
                    if self.peek() != Some(Kind::Punct(b')')) {
                        self.expect(b',')?;
                    }
                }
                Ok(Operand::List(list))
            }
            Some(Kind::Word(word)) => {
                if word.starts_with(|c: char| c.is_ascii_digit()) {
                    return match number(word) {
                        Some(operand) => Ok(operand),
                        None => self.fail(format!("'{word}' is not a number")),
                    };
                }
                match self.offset()? {
                    0 => Ok(Operand::Name(word)),
                    offset => Ok(Operand::Offset(word, offset)),
                }
            }
            _ => {
                self.at -= 1;
                self.fail("expected an operand")
            }
        }
    }

    /// `+4`, `+-4`, `-4` or nothing.
    pub(super) fn offset(&mut self) -> Result<i64> {
        if self.eat(b'+') || self.peek() == Some(Kind::Punct(b'-')) {
            return Ok(self.integer()? as i64);
        }
        Ok(0)
    }

    pub(super) fn address(&mut self, depth: usize) -> Result<Operand<'a>> {
        let word = self.word()?;
        let base = match integer(word) {
            Some(value) => Base::Absolute(value),
            None => Base::Name(word),
        };
        let offset = self.offset()?;
        let mut more = Vec::new();
        while self.eat(b',') {
            more.push(self.operand(depth + 1)?);
        }
        self.expect(b']')?;
        Ok(Operand::Address(base, offset, more))
    }
}

pub(super) fn number(word: &str) -> Option<Operand<'static>> {
    if let Some(hex) = word.strip_prefix("0f").or_else(|| word.strip_prefix("0F")) {
        return u32::from_str_radix(hex, 16).ok().map(Operand::Float);
    }
    if let Some(hex) = word.strip_prefix("0d").or_else(|| word.strip_prefix("0D")) {
        return u64::from_str_radix(hex, 16).ok().map(Operand::Double);
    }
    if let Some(value) = integer(word) {
        return Some(Operand::Int(value));
    }
    word.parse::<f64>().ok().map(|value| Operand::Double(value.to_bits()))
}
