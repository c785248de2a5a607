//! Tokens to a [`Source`].
//!
//! The parser is written by hand: PTX has a single form of statement, and errors name the
//! line of what is not implemented.

mod cursor;
mod kernel;
mod operand;
mod variable;

use std::collections::HashMap;

use crate::lex::{Kind, lex};
use crate::parse::cursor::{Parser, Result};
use crate::syntax::Source;

/// Parses a module.
pub(crate) fn parse(text: &str) -> Result<Source<'_>> {
    let mut parser = Parser { tokens: lex(text)?, at: 0, source: Source::default() };
    parser.module()?;
    Ok(parser.source)
}

impl<'a> Parser<'a> {
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

    /// A declaration with its linkage (`.visible`, `.extern` and so on).
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
}

/// The first name that two kernels or variables have.
pub(crate) fn duplicate<'a>(source: &Source<'a>) -> Option<&'a str> {
    let mut seen = HashMap::new();
    let names = source.entries.iter().chain(&source.functions).map(|entry| entry.name);
    names.chain(source.variables.iter().map(|v| v.name)).find(|name| {
        let taken = seen.insert(*name, ()).is_some();
        taken && !name.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::operand::number;
    use crate::syntax::{Base, Operand};

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
        let text = format!("{HEAD}.visible .entry k()\n{{\n.calltargets f;\n}}");
        let source = parse(&text).unwrap();
        let error = source.entries[0].error.as_ref().unwrap();
        assert_eq!(error.line, 6);
        assert!(error.message.contains(".calltargets"), "{error}");
    }
}
