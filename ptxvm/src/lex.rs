//! PTX text to tokens.
//!
//! Dots belong to the word (`ld.global.v4.u32`, `%tid.x`), so an opcode or a register is
//! one token.

use crate::error::ParseError;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    /// A name, an opcode, a directive or a number.
    Word(&'a str),
    /// The text between double quotes.
    Text(&'a str),
    /// Any other single character.
    Punct(u8),
}

/// One token and the line that it starts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub kind: Kind<'a>,
    pub line: u32,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

/// Splits `source` into tokens, without comments and white space.
pub(crate) fn lex(source: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let bytes = source.as_bytes();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
            }
            byte if byte.is_ascii_whitespace() || byte == 0 => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => at = end_of_line(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                at = end_of_comment(bytes, at, &mut line)?;
            }
            b'"' => {
                let end = end_of_text(bytes, at + 1, line)?;
                tokens.push(Token { kind: Kind::Text(&source[at + 1..end]), line });
                at = end + 1;
            }
            byte if is_word(byte) => {
                at = end_of_word(bytes, at);
                push_words(&source[start..at], line, &mut tokens);
            }
            byte if byte.is_ascii_graphic() => {
                tokens.push(Token { kind: Kind::Punct(byte), line });
                at += 1;
            }
            byte => {
                return Err(ParseError::new(
                    line,
                    format!("byte {byte:#04x} is not allowed in PTX"),
                ));
            }
        }
    }
    Ok(tokens)
}

/// Directives need no space between them (`.reg.b16`).
fn push_words<'a>(word: &'a str, line: u32, tokens: &mut Vec<Token<'a>>) {
    let mut rest = word;
    while rest.starts_with('.')
        && let Some(at) = rest[1..].find('.')
    {
        tokens.push(Token { kind: Kind::Word(&rest[..at + 1]), line });
        rest = &rest[at + 1..];
    }
    tokens.push(Token { kind: Kind::Word(rest), line });
}

fn end_of_line(bytes: &[u8], from: usize) -> usize {
    bytes[from..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |n| from + n)
}

fn end_of_comment(bytes: &[u8], from: usize, line: &mut u32) -> Result<usize, ParseError> {
    let first = *line;
    let mut at = from + 2;
    while at + 1 < bytes.len() {
        if &bytes[at..at + 2] == b"*/" {
            return Ok(at + 2);
        }
        *line += u32::from(bytes[at] == b'\n');
        at += 1;
    }
    Err(ParseError::new(first, "the comment has no end"))
}

fn end_of_text(bytes: &[u8], from: usize, line: u32) -> Result<usize, ParseError> {
    bytes[from..]
        .iter()
        .position(|&byte| byte == b'"' || byte == b'\n')
        .map(|n| from + n)
        .filter(|&end| bytes[end] == b'"')
        .ok_or_else(|| ParseError::new(line, "the string has no end on its line"))
}

/// A word may contain `::` (`L2::128B`), and ends at the single colon of a label.
fn end_of_word(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    loop {
        if at < bytes.len() && is_word(bytes[at]) {
            at += 1;
        } else if bytes[at..].starts_with(b"::") {
            at += 2;
        } else {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<String> {
        let word = |token: Token<'_>| match token.kind {
            Kind::Word(word) | Kind::Text(word) => Some(word.to_owned()),
            Kind::Punct(_) => None,
        };
        lex(source).unwrap().into_iter().filter_map(word).collect()
    }

    #[test]
    fn words_keep_dots_and_double_colons() {
        assert_eq!(
            words("cp.async.L2::128B [%r4], [%rd7], 16; // x\nDONE: \"a b\""),
            ["cp.async.L2::128B", "%r4", "%rd7", "16", "DONE", "a b"]
        );
    }

    #[test]
    fn directives_are_apart() {
        assert_eq!(
            words(".reg.b16 %h; .param.align 8"),
            [".reg", ".b16", "%h", ".param", ".align", "8"]
        );
    }

    #[test]
    fn lines_are_counted_through_comments() {
        let tokens = lex("a /* \n\n */ b\nc").unwrap();
        assert_eq!(tokens.iter().map(|t| t.line).collect::<Vec<_>>(), [1, 3, 4]);
    }

    #[test]
    fn open_ends_are_errors() {
        assert_eq!(lex("\n/* x").unwrap_err().line, 2);
        assert!(lex("\"x\ny\"").is_err());
        assert!(lex("é").is_err());
    }
}
