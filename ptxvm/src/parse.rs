//! Tokens to a [`Source`].
//!
//! A hand-written parser: PTX has one shape of instruction, and the decoder wants
//! to name the line of whatever it does not know.

use std::collections::HashMap;

use crate::bank::Bank;
use crate::error::ParseError;
use crate::lex::{Kind, Token, lex};
use crate::syntax::*;

/// More registers than this in one kernel is no kernel of ours.
const MAX_REGISTERS: u32 = 1 << 15;
/// Larger variables are refused, so that no text can claim all memory.
const MAX_VARIABLE: u64 = 1 << 24;
const MAX_NESTING: usize = 64;

type Result<T> = std::result::Result<T, ParseError>;

/// Parses a module.
pub(crate) fn parse(text: &str) -> Result<Source<'_>> {
    let mut parser = Parser { tokens: lex(text)?, at: 0, source: Source::default() };
    parser.module()?;
    Ok(parser.source)
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    source: Source<'a>,
}

/// A scalar type's width in bytes, registers' bank and width in bits.
fn scalar(name: &str) -> Option<(u64, Bank, u32)> {
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
    fn line(&self) -> u32 {
        let at = self.at.min(self.tokens.len().saturating_sub(1));
        self.tokens.get(at).map_or(1, |token| token.line)
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(ParseError::new(self.line(), message))
    }

    fn peek(&self) -> Option<Kind<'a>> {
        self.tokens.get(self.at).map(|token| token.kind)
    }

    fn next(&mut self) -> Option<Kind<'a>> {
        let kind = self.peek();
        self.at += 1;
        kind
    }

    fn eat(&mut self, punct: u8) -> bool {
        let found = self.peek() == Some(Kind::Punct(punct));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, punct: u8) -> Result<()> {
        if self.eat(punct) {
            return Ok(());
        }
        self.fail(format!("expected '{}'", punct as char))
    }

    fn word(&mut self) -> Result<&'a str> {
        match self.peek() {
            Some(Kind::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            _ => self.fail("expected a name"),
        }
    }

    fn eat_word(&mut self, wanted: &str) -> bool {
        let found = matches!(self.peek(), Some(Kind::Word(word)) if word == wanted);
        self.at += usize::from(found);
        found
    }

    fn integer(&mut self) -> Result<u64> {
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

    fn small(&mut self) -> Result<u32> {
        let value = self.integer()?;
        u32::try_from(value).or_else(|_| self.fail(format!("{value} is too large here")))
    }

    /// Skips a `{ ... }` group, the opening brace already eaten.
    fn skip_group(&mut self) -> Result<()> {
        let mut depth = 1usize;
        while depth > 0 {
            match self.next() {
                Some(Kind::Punct(b'{')) => depth += 1,
                Some(Kind::Punct(b'}')) => depth -= 1,
                Some(_) => {}
                None => return self.fail("'{' without '}'"),
            }
        }
        Ok(())
    }

    fn module(&mut self) -> Result<()> {
        while let Some(kind) = self.peek() {
            let Kind::Word(word) = kind else {
                return self.fail("expected a directive");
            };
            match word {
                ".version" => self.version()?,
                ".target" => {
                    self.at += 1;
                    self.source.target = Some(self.word()?);
                    self.skip_same_line();
                }
                ".address_size" => {
                    self.at += 1;
                    if self.integer()? != 64 {
                        return self.fail("only 64-bit addresses are implemented");
                    }
                }
                ".file" => self.file()?,
                ".section" => {
                    self.at += 2;
                    while self.peek().is_some() && !self.eat(b'{') {
                        self.at += 1;
                    }
                    self.skip_group()?;
                }
                ".visible" | ".weak" | ".extern" | ".common" | ".entry" | ".func"
                | ".global" | ".const" | ".shared" => self.linked()?,
                ".alias" | ".pragma" => {
                    while self.peek().is_some() && !self.eat(b';') {
                        self.at += 1;
                    }
                }
                _ => return self.fail(format!("directive '{word}' is not implemented")),
            }
        }
        Ok(())
    }

    fn skip_same_line(&mut self) {
        if self.at > 0 && self.at < self.tokens.len() {
            let line = self.tokens[self.at - 1].line;
            while self.at < self.tokens.len() && self.tokens[self.at].line == line {
                self.at += 1;
            }
        }
    }

    fn version(&mut self) -> Result<()> {
        self.at += 1;
        let word = self.word()?;
        let parts = word.split_once('.').and_then(|(major, minor)| {
            Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
        });
        match parts {
            Some((6..=9, _)) => self.source.version = parts,
            _ => return self.fail(format!("PTX version '{word}' is not implemented")),
        }
        Ok(())
    }

    fn file(&mut self) -> Result<()> {
        self.at += 1;
        let number = self.small()?;
        if let Some(Kind::Text(name)) = self.peek() {
            let name = name.rsplit(['/', '\\']).next().unwrap_or(name);
            self.source.files.insert(number, name.to_owned());
        }
        self.at += 1;
        self.skip_same_line();
        Ok(())
    }

    /// What may follow `.visible`, `.extern` and the like.
    fn linked(&mut self) -> Result<()> {
        let mut external = false;
        loop {
            let word = self.word()?;
            match word {
                ".visible" | ".weak" | ".common" => {}
                ".extern" => external = true,
                ".entry" => return self.entry(),
                ".func" => return self.func(),
                _ => {
                    self.at -= 1;
                    let variables = self.variables(external)?;
                    self.source.variables.extend(variables);
                    return Ok(());
                }
            }
        }
    }

    /// A device function is skipped: a call is refused when it is decoded.
    fn func(&mut self) -> Result<()> {
        loop {
            match self.next() {
                Some(Kind::Punct(b';')) => return Ok(()),
                Some(Kind::Punct(b'{')) => return self.skip_group(),
                Some(_) => {}
                None => return self.fail("function without an end"),
            }
        }
    }

    /// `.shared .align 4 .b8 name[16], other;` with initial values.
    fn variables(&mut self, external: bool) -> Result<Vec<Variable<'a>>> {
        let space = match self.word()? {
            ".global" => VariableSpace::Global,
            ".const" => VariableSpace::Const,
            ".shared" => VariableSpace::Shared,
            ".local" => VariableSpace::Local,
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
            return self.fail(format!("alignment {align}"));
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

    fn variable(
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
        let mut init = Vec::new();
        if self.eat(b'=') {
            self.initial(element, &mut init, 0)?;
        }
        let bytes = if sized { count.saturating_mul(element) } else { init.len() as u64 };
        if bytes > MAX_VARIABLE || init.len() as u64 > bytes {
            return self.fail(format!("variable '{name}' of {bytes} bytes"));
        }
        let dynamic = external && !sized && space == VariableSpace::Shared;
        if external && !dynamic {
            return self.fail(format!("external variable '{name}' is not implemented"));
        }
        Ok(Variable { name, space, align, bytes, init, dynamic })
    }

    fn initial(&mut self, element: u64, out: &mut Vec<u8>, depth: usize) -> Result<()> {
        if depth > 4 {
            return self.fail("initial values nested too deeply");
        }
        if self.eat(b'{') {
            while !self.eat(b'}') {
                self.initial(element, out, depth + 1)?;
                self.eat(b',');
            }
            return Ok(());
        }
        let value = match self.operand(0)? {
            Operand::Int(value) | Operand::Double(value) => value,
            Operand::Float(bits) => u64::from(bits),
            _ => return self.fail("only numbers are implemented as initial values"),
        };
        out.extend_from_slice(&value.to_le_bytes()[..element.min(8) as usize]);
        Ok(())
    }

    fn entry(&mut self) -> Result<()> {
        let line = self.line();
        let name = self.word()?;
        let params = if self.eat(b'(') { self.params()? } else { Vec::new() };
        let mut function = Function {
            name,
            line,
            params,
            max_threads: None,
            required_threads: None,
            cluster: None,
            statements: Vec::new(),
            scopes: vec![Scope::default()],
            places: Vec::new(),
            register_counts: [0; 3],
        };
        loop {
            match self.peek() {
                Some(Kind::Punct(b'{')) => break,
                Some(Kind::Punct(b';')) => {
                    self.at += 1;
                    return Ok(());
                }
                _ => self.performance(&mut function)?,
            }
        }
        self.at += 1;
        self.body(&mut function)?;
        self.source.entries.push(function);
        Ok(())
    }

    fn params(&mut self) -> Result<Vec<Param<'a>>> {
        let (mut params, mut offset) = (Vec::new(), 0u64);
        while !self.eat(b')') {
            if self.word()? != ".param" {
                self.at -= 1;
                return self.fail("expected '.param'");
            }
            let (mut align, mut element) = (0, 0);
            let name = loop {
                let word = self.word()?;
                match word {
                    ".align" => align = self.integer()?,
                    ".ptr" | ".global" | ".const" | ".shared" | ".local" => {}
                    _ if !word.starts_with('.') => break word,
                    _ => match scalar(word) {
                        Some((bytes, ..)) => element = bytes,
                        None => return self.fail(format!("parameter type '{word}'")),
                    },
                }
            };
            let count = if self.eat(b'[') { self.integer()? } else { 1 };
            if count != 1 || matches!(self.peek(), Some(Kind::Punct(b']'))) {
                self.eat(b']');
            }
            let bytes = count.saturating_mul(element);
            // `.ptr .align` states what a pointer points to, not where it lies.
            let align = if count == 1 && element == 8 { 8 } else { align.max(element) };
            if bytes == 0 || bytes > 1 << 16 || !align.is_power_of_two() || align > 4096 {
                return self.fail(format!("parameter '{name}' of {bytes} bytes"));
            }
            offset = offset.next_multiple_of(align);
            params.push(Param { name, bytes, offset });
            offset += bytes;
            self.eat(b',');
        }
        Ok(params)
    }

    fn performance(&mut self, function: &mut Function<'a>) -> Result<()> {
        match self.word()? {
            ".maxntid" => function.max_threads = Some(self.triple()?),
            ".reqntid" => function.required_threads = Some(self.triple()?),
            ".reqnctapercluster" => function.cluster = Some(self.triple()?),
            ".minnctapersm" | ".maxnreg" | ".maxclusterrank" | ".maxnctapersm" => {
                self.integer()?;
            }
            ".explicitcluster" | ".blocksareclusters" | ".noreturn" => {}
            ".pragma" => {
                self.at += 1;
                self.expect(b';')?;
            }
            other => {
                self.at -= 1;
                return self.fail(format!("directive '{other}' is not implemented"));
            }
        }
        Ok(())
    }

    fn triple(&mut self) -> Result<[u32; 3]> {
        let mut triple = [1; 3];
        for (n, value) in triple.iter_mut().enumerate() {
            if n > 0 && !self.eat(b',') {
                break;
            }
            *value = self.small()?;
        }
        Ok(triple)
    }

    fn body(&mut self, function: &mut Function<'a>) -> Result<()> {
        let mut open = vec![0usize];
        while let Some(&scope) = open.last() {
            match self.peek() {
                None => return self.fail("kernel without '}'"),
                Some(Kind::Punct(b'{')) => {
                    self.at += 1;
                    if open.len() > MAX_NESTING {
                        return self.fail("blocks nested too deeply");
                    }
                    open.push(function.scopes.len());
                    let scope = Scope { parent: Some(scope), ..Scope::default() };
                    function.scopes.push(scope);
                }
                Some(Kind::Punct(b'}')) => {
                    self.at += 1;
                    open.pop();
                }
                Some(Kind::Punct(b';')) => self.at += 1,
                Some(Kind::Word(word)) if word.starts_with('.') => {
                    self.directive(function, scope)?;
                }
                Some(Kind::Word(_)) if self.is_label() => {
                    self.label(function, scope)?;
                }
                _ => self.statement(function, scope)?,
            }
        }
        Ok(())
    }

    fn is_label(&self) -> bool {
        self.tokens.get(self.at + 1).is_some_and(|t| t.kind == Kind::Punct(b':'))
    }

    fn label(&mut self, function: &mut Function<'a>, scope: usize) -> Result<()> {
        let name = self.word()?;
        self.at += 1;
        if self.eat_word(".branchtargets") {
            let mut targets = vec![self.word()?];
            while self.eat(b',') {
                targets.push(self.word()?);
            }
            self.expect(b';')?;
            function.scopes[scope].targets.insert(name, targets);
            return Ok(());
        }
        let at = function.statements.len();
        if function.scopes[scope].labels.insert(name, at).is_some() {
            return self.fail(format!("label '{name}' stands twice"));
        }
        Ok(())
    }

    fn directive(&mut self, function: &mut Function<'a>, scope: usize) -> Result<()> {
        match self.word()? {
            ".reg" => self.registers(function, scope),
            ".loc" => self.loc(function),
            ".pragma" => {
                self.at += 1;
                self.expect(b';')
            }
            ".shared" | ".local" | ".global" | ".const" => {
                self.at -= 1;
                for variable in self.variables(false)? {
                    function.scopes[scope].variables.insert(variable.name, variable);
                }
                Ok(())
            }
            other => {
                self.at -= 1;
                self.fail(format!("directive '{other}' is not implemented"))
            }
        }
    }

    fn loc(&mut self, function: &mut Function<'a>) -> Result<()> {
        let file = self.small()?;
        let line = self.small()?;
        self.skip_same_line();
        function.places.push(Place { file, line });
        Ok(())
    }

    fn registers(&mut self, function: &mut Function<'a>, scope: usize) -> Result<()> {
        let word = self.word()?;
        let Some((_, bank, bits)) = scalar(word) else {
            self.at -= 1;
            return self.fail(format!("register type '{word}' is not implemented"));
        };
        loop {
            let name = self.word()?;
            let count = if self.eat(b'<') {
                let count = self.small()?;
                self.expect(b'>')?;
                Some(count)
            } else {
                None
            };
            let used = &mut function.register_counts[bank as usize];
            let first = Register { bank, index: *used as u16, bits };
            *used = used.saturating_add(count.unwrap_or(1));
            if *used > MAX_REGISTERS {
                return self.fail("too many registers");
            }
            function.scopes[scope].registers.insert(name, Declared { first, count });
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';')
    }

    fn statement(&mut self, function: &mut Function<'a>, scope: usize) -> Result<()> {
        let line = self.line();
        let guard = if self.eat(b'@') {
            let negated = self.eat(b'!');
            Some((self.word()?, negated))
        } else {
            None
        };
        let opcode = self.word()?;
        let mut operands = Vec::new();
        if !self.eat(b';') {
            loop {
                operands.push(self.operand(0)?);
                if self.eat(b';') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        let place = (function.places.len() as u32).wrapping_sub(1);
        function.statements.push(Statement { guard, opcode, operands, line, place, scope });
        Ok(())
    }

    fn operand(&mut self, depth: usize) -> Result<Operand<'a>> {
        let first = self.single(depth)?;
        if !self.eat(b'|') {
            return Ok(first);
        }
        Ok(Operand::Pair(Box::new(first), Box::new(self.single(depth)?)))
    }

    fn single(&mut self, depth: usize) -> Result<Operand<'a>> {
        if depth > 4 {
            return self.fail("operands nested too deeply");
        }
        match self.next() {
            Some(Kind::Punct(b'!')) => Ok(Operand::Not(self.word()?)),
            Some(Kind::Punct(b'-')) => match self.single(depth + 1)? {
                Operand::Int(value) => Ok(Operand::Int(value.wrapping_neg())),
                Operand::Double(bits) => Ok(Operand::Double(bits ^ 1 << 63)),
                _ => self.fail("'-' before something that is no number"),
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
            Some(Kind::Word(word)) => {
                if word.starts_with(|c: char| c.is_ascii_digit()) {
                    return match number(word) {
                        Some(operand) => Ok(operand),
                        None => self.fail(format!("number '{word}'")),
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
    fn offset(&mut self) -> Result<i64> {
        if self.eat(b'+') || self.peek() == Some(Kind::Punct(b'-')) {
            return Ok(self.integer()? as i64);
        }
        Ok(0)
    }

    fn address(&mut self, depth: usize) -> Result<Operand<'a>> {
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

/// Decimal, hexadecimal, octal or binary, with the `U` suffix that PTX allows.
fn integer(word: &str) -> Option<u64> {
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

fn number(word: &str) -> Option<Operand<'static>> {
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

/// The first entry or variable that carries a name already taken.
pub(crate) fn duplicate<'a>(source: &Source<'a>) -> Option<&'a str> {
    let mut seen = HashMap::new();
    let names = source.entries.iter().map(|entry| entry.name);
    names.chain(source.variables.iter().map(|v| v.name)).find(|name| {
        let taken = seen.insert(*name, ()).is_some();
        taken && !name.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = ".version 9.0\n.target sm_90a\n.address_size 64\n";

    #[test]
    fn a_kernel_is_taken_apart() {
        let text = format!(
            "{HEAD}.const .align 4 .b8 tab[8] = {{1, 2}};\n\
             .extern .shared .align 16 .b8 smem[];\n\
             .visible .entry k(.param .align 8 .b8 p[32], .param .u64 q)\n\
             .maxntid 128, 1, 1\n{{\n.reg .b32 %r<3>;\n.reg .pred p;\n.loc 1 7 0\n\
             @!p ld.global.v2.u32 {{%r1, %r2}}, [%rd1+-4];\n{{ .reg .pred p;\n\
             L: setp.eq.f32 p|_, %r1, 0f3F800000; bra L; }}\nret;\n}}\n"
        );
        let source = parse(&text).unwrap();
        assert_eq!(source.variables.len(), 2);
        assert_eq!(source.variables[0].init, [1, 2]);
        assert!(source.variables[1].dynamic);
        let entry = &source.entries[0];
        assert_eq!((entry.params[1].offset, entry.params[1].bytes), (32, 8));
        assert_eq!(entry.statements.len(), 4);
        let load = &entry.statements[0];
        assert_eq!(load.guard, Some(("p", true)));
        assert_eq!(load.operands[1], Operand::Address(Base::Name("%rd1"), -4, vec![]));
        assert_eq!(entry.label(1, "L"), Some(1));
        assert_eq!(entry.label(0, "L"), None);
        let outer = entry.register(0, "p").unwrap();
        assert_ne!(entry.register(1, "p").unwrap(), outer);
        assert_eq!(entry.register(1, "%r2").unwrap().index, 2);
        assert_eq!(entry.register(0, "%r3"), None);
    }

    #[test]
    fn numbers_in_all_their_spellings() {
        assert_eq!(number("0f3F800000"), Some(Operand::Float(0x3f80_0000)));
        assert_eq!(number("0x10U"), Some(Operand::Int(16)));
        assert_eq!(number("017"), Some(Operand::Int(15)));
        assert_eq!(number("1.5"), Some(Operand::Double(1.5f64.to_bits())));
        assert_eq!(number("1x"), None);
    }

    #[test]
    fn what_is_unknown_names_its_line() {
        let text = format!("{HEAD}.visible .entry k()\n{{\n.callprototype _ ();\n}}");
        let error = parse(&text).unwrap_err();
        assert_eq!(error.line, 6);
        assert!(error.message.contains(".callprototype"), "{error}");
    }
}
