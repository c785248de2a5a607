//! Kernels: parameters, directives, registers, labels and statements.

use crate::lex::Kind;
use crate::parse::cursor::{Parser, Result};
use crate::parse::variable::scalar;
use crate::syntax::*;

/// Most registers of a bank in one kernel.
const MAX_REGISTERS: u32 = 1 << 15;
const MAX_NESTING: usize = 64;

impl<'a> Parser<'a> {
    pub(super) fn entry(&mut self) -> Result<()> {
        let line = self.line();
        let name = self.word()?;
        let params = if self.eat(b'(') { self.params()? } else { Vec::new() };
        let function = Function { name, line, params, ..Function::default() };
        if let Some(function) = self.definition(function)? {
            self.source.entries.push(function);
        }
        Ok(())
    }

    /// A device function.
    pub(super) fn func(&mut self) -> Result<()> {
        let results = if self.eat(b'(') { self.params()? } else { Vec::new() };
        let line = self.line();
        let name = self.word()?;
        let params = if self.eat(b'(') { self.params()? } else { Vec::new() };
        let function = Function { name, line, params, results, ..Function::default() };
        if let Some(function) = self.definition(function)? {
            self.source.functions.push(function);
        }
        Ok(())
    }

    /// The directives and the body; nothing for a declaration.
    fn definition(&mut self, mut function: Function<'a>) -> Result<Option<Function<'a>>> {
        loop {
            match self.peek() {
                Some(Kind::Punct(b'{')) => break,
                Some(Kind::Punct(b';')) => {
                    self.at += 1;
                    return Ok(None);
                }
                _ => self.performance(&mut function)?,
            }
        }
        self.at += 1;
        let start = self.at;
        function.scopes.push(Scope::default());
        if let Err(error) = self.body(&mut function) {
            // Other kernels of the module may be usable.
            self.at = start;
            self.skip_group()?;
            function.error = Some(error);
        }
        Ok(Some(function))
    }

    pub(super) fn params(&mut self) -> Result<Vec<Param<'a>>> {
        let (mut params, mut offset) = (Vec::new(), 0u64);
        while !self.eat(b')') {
            let space = self.word()?;
            if space != ".param" {
                self.at -= 1;
                return self.fail(format!(
                    "parameters in '{space}' are not implemented, only in '.param'"
                ));
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
                        None => {
                            return self.fail(format!(
                                "parameter type '{word}' is not implemented"
                            ));
                        }
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
                return self.fail(format!("parameter '{name}' has {bytes} bytes, or an alignment, that is not possible"));
            }
            offset = offset.next_multiple_of(align);
            params.push(Param { name, bytes, offset });
            offset += bytes;
            self.eat(b',');
        }
        Ok(params)
    }

    pub(super) fn performance(&mut self, function: &mut Function<'a>) -> Result<()> {
        match self.word()? {
            ".maxntid" => function.max_threads = Some(self.triple()?),
            ".reqntid" => function.required_threads = Some(self.triple()?),
            ".reqnctapercluster" => function.cluster = Some(self.triple()?),
            ".minnctapersm" => function.min_blocks = Some(self.small()?),
            ".maxclusterrank" => function.max_cluster = Some(self.small()?),
            ".maxnreg" => function.max_registers = Some(self.small()?),
            ".maxnctapersm" => {
                self.integer()?;
            }
            ".explicitcluster" => function.explicit_cluster = true,
            ".blocksareclusters" | ".noreturn" | ".unique" => {}
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

    pub(super) fn triple(&mut self) -> Result<[u32; 3]> {
        let mut triple = [1; 3];
        for (n, value) in triple.iter_mut().enumerate() {
            if n > 0 && !self.eat(b',') {
                break;
            }
            *value = self.small()?;
        }
        Ok(triple)
    }

    pub(super) fn body(&mut self, function: &mut Function<'a>) -> Result<()> {
        let mut open = vec![0usize];
        while let Some(&scope) = open.last() {
            match self.peek() {
                None => return self.fail("the kernel has no closing '}'"),
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

    pub(super) fn is_label(&self) -> bool {
        self.tokens.get(self.at + 1).is_some_and(|t| t.kind == Kind::Punct(b':'))
    }

    pub(super) fn label(
        &mut self,
        function: &mut Function<'a>,
        scope: usize,
    ) -> Result<()> {
        let name = self.word()?;
        self.at += 1;
        if self.eat_word(".callprototype") {
            let prototype = self.prototype()?;
            function.scopes[scope].prototypes.insert(name, prototype);
            return Ok(());
        }
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
            return self.fail(format!("label '{name}' is defined twice"));
        }
        Ok(())
    }

    /// `(.param .b32 _) _ (.param .b64 _, .param .b32 _);`
    fn prototype(&mut self) -> Result<Prototype> {
        let bytes =
            |params: Vec<Param<'a>>| params.iter().map(|param| param.bytes).collect();
        let results = if self.eat(b'(') { self.params()? } else { Vec::new() };
        self.word()?;
        let params = if self.eat(b'(') { self.params()? } else { Vec::new() };
        while !self.eat(b';') {
            self.word()?;
        }
        Ok(Prototype { results: bytes(results), params: bytes(params) })
    }

    pub(super) fn directive(
        &mut self,
        function: &mut Function<'a>,
        scope: usize,
    ) -> Result<()> {
        match self.word()? {
            ".reg" => self.registers(function, scope),
            ".loc" => self.loc(function),
            ".pragma" => {
                self.at += 1;
                self.expect(b';')
            }
            ".shared" | ".local" | ".global" | ".const" | ".param" => {
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

    pub(super) fn loc(&mut self, function: &mut Function<'a>) -> Result<()> {
        let file = self.small()?;
        let line = self.small()?;
        self.skip_same_line();
        function.places.push(Place { file, line });
        Ok(())
    }

    pub(super) fn registers(
        &mut self,
        function: &mut Function<'a>,
        scope: usize,
    ) -> Result<()> {
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

    pub(super) fn statement(
        &mut self,
        function: &mut Function<'a>,
        scope: usize,
    ) -> Result<()> {
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
}
