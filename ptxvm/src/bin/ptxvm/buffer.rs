//! The contents of buffers: what they begin with, and what they must hold.

use crate::format::{Format, Number};
use crate::outcome::Mismatch;
use crate::spec::{Buffer, Expect, Init, Spec};
use crate::{Result, usage};

/// The elements of a buffer.
pub fn elements(name: &str, buffer: &Buffer) -> Result<usize> {
    let count = buffer.shape.iter().try_fold(1u64, |all, &n| all.checked_mul(n));
    let bytes = count.and_then(|count| count.checked_mul(buffer.format.bytes() as u64));
    match (count, bytes) {
        (Some(count @ 1..), Some(_)) => Ok(count as usize),
        _ => usage(format!("buffer.{name}: the shape {:?} is not possible", buffer.shape)),
    }
}

/// What a buffer begins with; nothing if it is not written.
pub fn initial(spec: &Spec, name: &str, buffer: &Buffer) -> Result<Option<Vec<u8>>> {
    let count = elements(name, buffer)?;
    let format = buffer.format;
    let all = |value: &mut dyn FnMut(usize) -> Number| {
        let mut bytes = Vec::with_capacity(count * format.bytes());
        for at in 0..count {
            match format.encode(value(at)) {
                Ok(element) => bytes.extend(element),
                Err(why) => return usage(format!("buffer.{name}, element {at}: {why}")),
            }
        }
        Ok(Some(bytes))
    };
    match &buffer.init {
        Init::Unwritten => Ok(None),
        Init::Zeros => Ok(Some(vec![0; count * format.bytes()])),
        Init::Constant(value) => all(&mut |_| *value),
        Init::Counting { start, step, modulo } => all(&mut |at| {
            let at = modulo.map_or(at as u64, |modulo| at as u64 % modulo.max(1));
            Number::Float(start + step * at as f64)
        }),
        Init::Random { seed, low, high } => {
            let mut state = *seed;
            all(&mut |_| Number::Float(uniform(&mut state, format, *low, *high)))
        }
        Init::Values(values) => {
            if values.len() != count {
                return usage(format!(
                    "buffer.{name}: {} values for {count} elements",
                    values.len()
                ));
            }
            all(&mut |at| values[at])
        }
        Init::File(path) => {
            let bytes = file(spec, path)?;
            if bytes.len() != count * format.bytes() {
                return usage(format!(
                    "buffer.{name}: {} has {} bytes, but {count} elements of {format:?} have {}",
                    path.display(),
                    bytes.len(),
                    count * format.bytes()
                ));
            }
            Ok(Some(bytes))
        }
    }
}

/// The next number of the sequence SplitMix64, in a range; an integer for integers.
fn uniform(state: &mut u64, format: Format, low: f64, high: f64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    let unit = ((z ^ z >> 31) >> 11) as f64 / (1u64 << 53) as f64;
    if format.is_float() {
        low + unit * (high - low)
    } else {
        (low + unit * (high - low + 1.0)).floor().clamp(low, high)
    }
}

fn file(spec: &Spec, path: &std::path::Path) -> Result<Vec<u8>> {
    let path = spec.folder.join(path);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(bytes),
        Err(error) => usage(format!("cannot read {}: {error}", path.display())),
    }
}

/// The elements of `bytes` that are not as expected. An element without a tolerance must
/// have exactly the expected bits.
pub fn compare(
    spec: &Spec,
    name: &str,
    (buffer, expect): (&Buffer, &Expect),
    bytes: &[u8],
    written: impl Fn(usize) -> bool,
) -> Result<Vec<Mismatch>> {
    let (format, size) = (buffer.format, buffer.format.bytes());
    let wanted = expected(spec, name, buffer, expect)?;
    let mut wrong = Vec::new();
    for (n, wanted) in wanted.chunks(size).enumerate() {
        let index = expect.from + n;
        let got = &bytes[index * size..][..size];
        let (value, close) = (format.decode(wanted), format.decode(got));
        let margin = expect.absolute + expect.relative * value.abs();
        let same = got == wanted
            || (close - value).abs() <= margin && margin > 0.0
            || value.is_nan() && close.is_nan();
        if !same || !written(index) {
            let got = written(index).then_some(close);
            wrong.push(Mismatch { buffer: name.to_owned(), index, expected: value, got });
        }
    }
    Ok(wrong)
}

/// The bytes that a buffer must hold from `expect.from` on.
fn expected(spec: &Spec, name: &str, buffer: &Buffer, expect: &Expect) -> Result<Vec<u8>> {
    let (count, size) = (elements(name, buffer)?, buffer.format.bytes());
    let left = count.saturating_sub(expect.from);
    let encode = |value: Number| match buffer.format.encode(value) {
        Ok(bytes) => Ok(bytes),
        Err(why) => usage(format!("expect.{name}: {why}")),
    };
    let bytes = match (&expect.values, expect.constant, &expect.file) {
        (Some(values), None, None) => {
            let encoded = values.iter().map(|&value| encode(value));
            encoded.collect::<Result<Vec<_>>>()?.concat()
        }
        (None, Some(value), None) => encode(value)?.repeat(left),
        (None, None, Some(path)) => file(spec, path)?,
        _ => {
            return usage(format!(
                "expect.{name} must have one of 'values', 'constant' and 'file'"
            ));
        }
    };
    if bytes.is_empty() || bytes.len() % size != 0 || bytes.len() / size > left {
        return usage(format!(
            "expect.{name}: {} bytes from element {} on do not fit a buffer of {count} elements \
             of {size} bytes",
            bytes.len(),
            expect.from
        ));
    }
    Ok(bytes)
}
