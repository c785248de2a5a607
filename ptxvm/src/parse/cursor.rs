//! The position in the tokens, and how it advances.

use crate::error::ParseError;
use crate::lex::{Kind, Token};
use crate::syntax::Source;

pub(super) type Result<T> = std::result::Result<T, ParseError>;

pub(super) struct Parser<'a> {
    pub(super) tokens: Vec<Token<'a>>,
    pub(super) at: usize,
    pub(super) source: Source<'a>,
}

impl<'a> Parser<'a> {
    pub(super) fn line(&self) -> u32 {
        let at = self.at.min(self.tokens.len().saturating_sub(1));
        self.tokens.get(at).map_or(1, |token| token.line)
    }

    pub(super) fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(ParseError::new(self.line(), message))
    }

    pub(super) fn peek(&self) -> Option<Kind<'a>> {
        self.tokens.get(self.at).map(|token| token.kind)
    }

    pub(super) fn next(&mut self) -> Option<Kind<'a>> {
        let kind = self.peek();
        self.at += 1;
        kind
    }

    pub(super) fn eat(&mut self, punct: u8) -> bool {
        let found = self.peek() == Some(Kind::Punct(punct));
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, punct: u8) -> Result<()> {
        if self.eat(punct) {
            return Ok(());
        }
        self.fail(format!("expected '{}'", punct as char))
    }

    pub(super) fn word(&mut self) -> Result<&'a str> {
        match self.peek() {
            Some(Kind::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            _ => self.fail("expected a name"),
        }
    }

    pub(super) fn eat_word(&mut self, wanted: &str) -> bool {
        let found = matches!(self.peek(), Some(Kind::Word(word)) if word == wanted);
        self.at += usize::from(found);
        found
    }

    pub(super) fn integer(&mut self) -> Result<u64> {
        let negative = self.eat(b'-');
        let word = self.word()?;
        match integer(word) {
            Some(value) if negative => Ok(value.wrapping_neg()),
            Some(value) => Ok(value),
            None => {
                self.at -= 1;
                self.fail(format!("expected an integer, found '{word}'"))
            }
        }
    }

    pub(super) fn small(&mut self) -> Result<u32> {
        let value = self.integer()?;
        u32::try_from(value).or_else(|_| self.fail(format!("{value} is too large here")))
    }

    /// Skips a `{ ... }` group, after its opening brace.
    pub(super) fn skip_group(&mut self) -> Result<()> {
        let mut depth = 1usize;
        while depth > 0 {
            match self.next() {
                Some(Kind::Punct(b'{')) => depth += 1,
                Some(Kind::Punct(b'}')) => depth -= 1,
                Some(_) => {}
                None => return self.fail("'{' without a closing '}'"),
            }
        }
        Ok(())
    }

    pub(super) fn skip_same_line(&mut self) {
        if self.at > 0 && self.at < self.tokens.len() {
            let line = self.tokens[self.at - 1].line;
            while self.at < self.tokens.len() && self.tokens[self.at].line == line {
                self.at += 1;
            }
        }
    }
}

/// Decimal, hexadecimal, octal or binary, with the `U` suffix that PTX allows.
pub(super) fn integer(word: &str) -> Option<u64> {
    if !word.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits = word.strip_suffix('U').unwrap_or(word);
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    if let Some(binary) = digits.strip_prefix("0b").or_else(|| digits.strip_prefix("0B")) {
        return u64::from_str_radix(binary, 2).ok();
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return u64::from_str_radix(&digits[1..], 8).ok();
    }
    digits.parse().ok()
}
