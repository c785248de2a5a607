//! Lists and ranges of numbers on the command line.

use anyhow::Context;

/// Largest number of values of an option: a typing error must not fill a disk.
const MOST: usize = 1 << 24;

/// Reads `1,8,64`, `1..16` (both ends), `1024..8192+1024`, `1..4096*2`, or a list of
/// these.
fn numbers(text: &str) -> Result<Vec<u64>, String> {
    let mut all = Vec::new();
    for part in text.split(',').map(str::trim) {
        all.extend(range(part)?);
        if all.len() > MOST {
            return Err(format!("`{text}` has more than {MOST} values"));
        }
    }
    Ok(all)
}

/// [`numbers`], the text of an option `--name`.
pub fn of_option(name: &str, text: &str) -> anyhow::Result<Vec<u64>> {
    numbers(text).map_err(anyhow::Error::msg).with_context(|| format!("--{name}"))
}

fn range(text: &str) -> Result<Vec<u64>, String> {
    let number = |part: &str| {
        let message = || {
            format!(
                "`{text}` is neither a number above 0 nor a range such as 1..16, \
                 1024..8192+1024 or 1..4096*2"
            )
        };
        part.trim().parse::<u64>().ok().filter(|&n| n > 0).ok_or_else(message)
    };
    let Some((first, rest)) = text.split_once("..") else { return Ok(vec![number(text)?]) };
    let (last, step): (&str, Box<dyn Fn(u64) -> u64>) =
        if let Some((last, by)) = rest.split_once('*') {
            let by = number(by)?;
            if by < 2 {
                return Err(format!("`{text}` does not end; multiply by 2 or more"));
            }
            (last, Box::new(move |n| n.saturating_mul(by)))
        } else if let Some((last, by)) = rest.split_once('+') {
            let by = number(by)?;
            (last, Box::new(move |n| n.saturating_add(by)))
        } else {
            (rest, Box::new(|n| n.saturating_add(1)))
        };
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("`{text}` ends before it begins"));
    }
    let values = std::iter::successors(Some(first), |&n| Some(step(n)).filter(|&m| m > n));
    Ok(values.take_while(|&n| n <= last).take(MOST + 1).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::numbers;

    #[test]
    fn lists_and_ranges() {
        assert_eq!(numbers("1,8, 64").unwrap(), [1, 8, 64]);
        assert_eq!(numbers("3..6").unwrap(), [3, 4, 5, 6]);
        assert_eq!(numbers("1..100*4").unwrap(), [1, 4, 16, 64]);
        assert_eq!(numbers("1024..3000+1024,7").unwrap(), [1024, 2048, 7]);
        for wrong in ["", "0", "x", "1..", "5..1", "1..9*1", "1..9+0", "-1", "1..99999999"]
        {
            assert!(numbers(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nonsense_never_panics(text in "[0-9.,*+ ]{0,24}") {
            let _ = numbers(&text);
        }
    }
}
