//! What `printf` of the device prints: C's formats.

use std::fmt;

/// What one call of `printf` printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printed {
    /// `ctaid`.
    pub block: [u32; 3],
    /// `tid`.
    pub thread: [u32; 3],
    /// The text, with its end of line if it has one.
    pub text: String,
}

impl fmt::Display for Printed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The arguments of a call of `printf`.
pub(crate) trait Arguments {
    /// What reading them may end in.
    type Error;

    /// The next argument, of so many bytes.
    fn next(&mut self, bytes: u64) -> Result<u64, Self::Error>;

    /// The text at this address.
    fn text(&mut self, address: u64) -> Result<Vec<u8>, Self::Error>;
}

/// One conversion: `%-08.3lx`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Conversion {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
    /// Whether the integer has 64 bits, and how many bits of it count.
    long: bool,
    bits: u32,
    kind: u8,
}

/// Wider fields, in characters, are cut, so that no text can allocate all memory.
const MAX_WIDTH: u64 = 4096;

/// The text that `format` gives for these arguments, and the number of arguments.
pub(crate) fn format<A: Arguments>(
    format: &[u8],
    arguments: &mut A,
) -> Result<(String, u32), A::Error> {
    let (mut out, mut at, mut count) = (Vec::new(), 0, 0);
    while at < format.len() {
        let byte = format[at];
        at += 1;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let start = at;
        let Some(conversion) = conversion(format, &mut at, arguments)? else {
            // Not a conversion: the text itself.
            out.push(b'%');
            at = start;
            continue;
        };
        if conversion.kind == b'%' {
            out.push(b'%');
            continue;
        }
        count += 1;
        let value = arguments.next(bytes(&conversion))?;
        let text = match conversion.kind {
            b's' => {
                let mut text = arguments.text(value)?;
                text.truncate(conversion.precision.unwrap_or(usize::MAX));
                pad(
                    &conversion,
                    String::new(),
                    String::from_utf8_lossy(&text).into(),
                    false,
                )
                .into_bytes()
            }
            b'c' => pad(&conversion, String::new(), char::from(value as u8).into(), false)
                .into_bytes(),
            _ => number(&conversion, value).into_bytes(),
        };
        out.extend(text);
    }
    Ok((String::from_utf8_lossy(&out).into_owned(), count))
}

/// The bytes of a conversion's argument.
fn bytes(conversion: &Conversion) -> u64 {
    match conversion.kind {
        b'd' | b'i' | b'u' | b'o' | b'x' | b'X' | b'c' if !conversion.long => 4,
        _ => 8,
    }
}

/// Reads what follows a `%`; nothing if it is not a conversion.
fn conversion<A: Arguments>(
    format: &[u8],
    at: &mut usize,
    arguments: &mut A,
) -> Result<Option<Conversion>, A::Error> {
    let mut found = Conversion { bits: 32, ..Conversion::default() };
    let peek = |at: usize| format.get(at).copied().unwrap_or(0);
    loop {
        match peek(*at) {
            b'-' => found.left = true,
            b'+' => found.plus = true,
            b' ' => found.space = true,
            b'#' => found.alternate = true,
            b'0' => found.zeros = true,
            _ => break,
        }
        *at += 1;
    }
    let width = size(format, at, arguments)?;
    found.left |= width < 0;
    found.width = width.unsigned_abs().min(MAX_WIDTH) as usize;
    if peek(*at) == b'.' {
        *at += 1;
        let precision = size(format, at, arguments)?;
        found.precision = u64::try_from(precision).ok().map(|n| n.min(MAX_WIDTH) as usize);
    }
    loop {
        match peek(*at) {
            b'h' => found.bits /= 2,
            b'l' | b'j' | b'z' | b't' | b'L' => (found.long, found.bits) = (true, 64),
            _ => break,
        }
        *at += 1;
    }
    found.kind = peek(*at);
    *at += 1;
    Ok(b"diuoxXfFeEgGaAcsp%".contains(&found.kind).then_some(found))
}

/// A number or `*`.
fn size<A: Arguments>(
    format: &[u8],
    at: &mut usize,
    arguments: &mut A,
) -> Result<i64, A::Error> {
    if format.get(*at) == Some(&b'*') {
        *at += 1;
        return Ok(i64::from(arguments.next(4)? as u32 as i32));
    }
    let mut value = 0i64;
    while let Some(digit) = format.get(*at).filter(|byte| byte.is_ascii_digit()) {
        value = value.saturating_mul(10).saturating_add(i64::from(digit - b'0'));
        *at += 1;
    }
    Ok(value)
}

/// Puts a sign or prefix and digits into the field.
fn pad(conversion: &Conversion, sign: String, digits: String, zeros: bool) -> String {
    let length = sign.chars().count() + digits.chars().count();
    let missing = conversion.width.saturating_sub(length);
    if conversion.left {
        sign + &digits + &" ".repeat(missing)
    } else if zeros {
        sign + &"0".repeat(missing) + &digits
    } else {
        " ".repeat(missing) + &sign + &digits
    }
}

fn sign(conversion: &Conversion, negative: bool) -> &'static str {
    match (negative, conversion.plus, conversion.space) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    }
}

fn number(conversion: &Conversion, value: u64) -> String {
    let kind = conversion.kind;
    if b"fFeEgGaA".contains(&kind) {
        return float(conversion, f64::from_bits(value));
    }
    let unused = 64 - conversion.bits;
    let unsigned = value << unused >> unused;
    let mut prefix = String::new();
    let mut digits = match kind {
        b'd' | b'i' => {
            let signed = (value << unused) as i64 >> unused;
            prefix += sign(conversion, signed < 0);
            signed.unsigned_abs().to_string()
        }
        b'o' => format!("{unsigned:o}"),
        b'x' => format!("{unsigned:x}"),
        b'X' => format!("{unsigned:X}"),
        b'p' => format!("{value:x}"),
        _ => unsigned.to_string(),
    };
    if kind == b'p' || conversion.alternate && unsigned != 0 {
        prefix += match kind {
            b'x' | b'p' => "0x",
            b'X' => "0X",
            b'o' => "0",
            _ => "",
        };
    }
    if let Some(precision) = conversion.precision {
        let missing = precision.saturating_sub(digits.len());
        digits = "0".repeat(missing) + &digits;
    }
    pad(conversion, prefix, digits, conversion.zeros && conversion.precision.is_none())
}

fn float(conversion: &Conversion, value: f64) -> String {
    let sign = sign(conversion, value.is_sign_negative()).to_owned();
    let (size, precision) = (value.abs(), conversion.precision.unwrap_or(6));
    let text = if size.is_nan() {
        "nan".to_owned()
    } else if size.is_infinite() {
        "inf".to_owned()
    } else {
        match conversion.kind.to_ascii_lowercase() {
            b'f' => format!("{size:.precision$}"),
            b'e' => exponential(size, precision),
            b'g' => general(size, precision.max(1), conversion.alternate),
            _ => hexadecimal(size),
        }
    };
    let text =
        if conversion.kind.is_ascii_uppercase() { text.to_ascii_uppercase() } else { text };
    pad(conversion, sign, text, conversion.zeros && size.is_finite())
}

/// `1.500000e+01`: two digits of the exponent at least.
fn exponential(size: f64, precision: usize) -> String {
    let text = format!("{size:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let value: i32 = exponent.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if value < 0 { '-' } else { '+' }, value.abs())
}

/// The shorter of both forms, without zeros at the end.
fn general(size: f64, precision: usize, keep: bool) -> String {
    let text = exponential(size, precision - 1);
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let value: i32 = exponent.parse().unwrap_or(0);
    let trim = |digits: &str| match digits.contains('.') && !keep {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => digits.to_owned(),
    };
    if value < -4 || value >= precision as i32 {
        return format!("{}e{exponent}", trim(digits));
    }
    let decimals = (precision as i32 - 1 - value).max(0) as usize;
    trim(&format!("{size:.decimals$}"))
}

fn hexadecimal(size: f64) -> String {
    let (bits, fraction) = (size.to_bits(), size.to_bits() & ((1 << 52) - 1));
    let exponent = (bits >> 52) as i32;
    let digits = format!("{fraction:013x}");
    let digits = digits.trim_end_matches('0');
    let point = if digits.is_empty() { "" } else { "." };
    match (exponent, fraction) {
        (0, 0) => "0x0p+0".to_owned(),
        (0, _) => format!("0x0{point}{digits}p-1022"),
        _ => format!("0x1{point}{digits}p{:+}", exponent - 1023),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct List(Vec<u64>);

    impl Arguments for List {
        type Error = ();

        fn next(&mut self, _: u64) -> Result<u64, ()> {
            Ok(self.0.remove(0))
        }

        fn text(&mut self, address: u64) -> Result<Vec<u8>, ()> {
            Ok(format!("text {address}").into_bytes())
        }
    }

    fn printed(text: &str, arguments: &[u64]) -> String {
        format(text.as_bytes(), &mut List(arguments.to_vec())).unwrap().0
    }

    #[test]
    fn integers() {
        let minus = (-7i32) as u32 as u64;
        assert_eq!(
            printed("%d|%5d|%-5d|%05d", &[minus, 42, 42, minus]),
            "-7|   42|42   |-0007"
        );
        assert_eq!(printed("%u %x %#X %o", &[minus, 255, 255, 8]), "4294967289 ff 0XFF 10");
        assert_eq!(printed("%lld %llu", &[u64::MAX, u64::MAX]), "-1 18446744073709551615");
        assert_eq!(printed("%+d % d %.3d %hhd", &[5, 5, 5, 0x1ff]), "+5  5 005 -1");
        assert_eq!(printed("%*d|%p", &[4, 7, 0x10]), "   7|0x10");
    }

    #[test]
    fn floats() {
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let text = printed("%f %.2f %8.3f|%-8.1f|", &bits(&[1.5, 2.0 / 3.0, -1.0, 2.25]));
        assert_eq!(text, "1.500000 0.67   -1.000|2.2     |");
        assert_eq!(
            printed("%e %.1E", &bits(&[12345.678, 0.00015])),
            "1.234568e+04 1.5E-04"
        );
        let text = printed("%g %g %g %g", &bits(&[0.0001, 1e-5, 1e6, 123456.0]));
        assert_eq!(text, "0.0001 1e-05 1e+06 123456");
        let text = printed("%f %5F %a", &bits(&[f64::NAN, f64::INFINITY, 3.0]));
        assert_eq!(text, "nan   INF 0x1.8p+1");
    }

    #[test]
    fn texts() {
        assert_eq!(printed("%s|%8.4s|%c%%", &[3, 3, 65]), "text 3|    text|A%");
        assert_eq!(printed("100%! done %y", &[]), "100%! done %y");
        assert_eq!(printed("%", &[]), "%");
    }
}
