//! Classes of shapes: problems that one configuration of a kernel is expected to suit.

use std::fmt;
use std::str::FromStr;

use super::table::Problem;
use crate::quantity;

/// What problems share for which a kernel is tuned once: their operation, all keys but those
/// of size ([`super::Facts::size_keys`]), and about how many bytes they move. Whole numbers
/// are taken up to the next power of two: products of 9 to 16 rows are one class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShapeClass {
    /// `gemm:m=16,dtype=bf16,w_dtype=int4`.
    pub shape: String,
    /// Bytes of the largest power of four that is no more than the problem's.
    pub size_bytes: u64,
}

/// The factor between sizes.
const STEP: u64 = 4;

impl ShapeClass {
    /// The class of a problem.
    pub fn of(problem: &Problem) -> Self {
        let facts = problem.op().facts();
        let rounded = |(key, value): (&str, String)| match value.parse::<u64>() {
            Ok(number) => {
                format!("{key}={}", number.checked_next_power_of_two().unwrap_or(number))
            }
            Err(_) => format!("{key}={value}"),
        };
        let shapes = problem.fields().into_iter();
        let kept = shapes.filter(|(key, _)| !facts.size_keys.contains(key)).map(rounded);
        let shape = format!("{}:{}", facts.name, kept.collect::<Vec<_>>().join(","));
        let power = problem.work().bytes().max(1).ilog(STEP);
        ShapeClass { shape, size_bytes: STEP.pow(power) }
    }

    /// How many steps of size lie between two classes of one shape; `None` between shapes.
    pub fn steps_to(&self, other: &ShapeClass) -> Option<u32> {
        let steps =
            self.size_bytes.max(1).ilog(STEP).abs_diff(other.size_bytes.max(1).ilog(STEP));
        (self.shape == other.shape).then_some(steps)
    }
}

/// `gemm:m=16,dtype=bf16 from 64 MiB`: sizes up to the next power of four.
impl fmt::Display for ShapeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.shape, quantity::bytes(self.size_bytes as f64))
    }
}

impl FromStr for ShapeClass {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a class of shapes; write `gemm:m=16,dtype=bf16 from 64 MiB`"
            )
        };
        let (shape, size) = text.split_once(" from ").ok_or_else(wrong)?;
        let size_bytes = super::parse_bytes(size).ok_or_else(wrong)?;
        let is_power = size_bytes > 0 && STEP.pow(size_bytes.ilog(STEP)) == size_bytes;
        if !is_power || !shape.contains(':') {
            return Err(wrong());
        }
        Ok(ShapeClass { shape: shape.to_owned(), size_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Op;

    fn class(text: &str) -> ShapeClass {
        ShapeClass::of(&text.parse().unwrap_or_else(|why| panic!("{text}: {why}")))
    }

    #[test]
    fn sizes_are_one_class_up_to_a_factor_and_shapes_are_not() {
        let gemm = |m: u64, n: u64| {
            class(&format!("gemm:m={m},n={n},k=8192,dtype=bf16,w_dtype=int4"))
        };
        let of = gemm(9, 32768);
        assert_eq!(of.to_string(), "gemm:m=16,dtype=bf16,w_dtype=int4 from 64 MiB");
        assert_eq!(gemm(16, 40000), of);
        assert_eq!(gemm(17, 32768).steps_to(&of), None);
        assert_eq!(gemm(12, 8192).steps_to(&of), Some(1));
        assert_eq!(gemm(12, 65536 * 4).steps_to(&of), Some(2));
    }

    #[test]
    fn every_size_key_is_a_key_and_every_class_reads_back() {
        for op in Op::ALL {
            let facts = op.facts();
            for key in facts.size_keys {
                assert!(op.key(key).is_some(), "{op} has no key {key}");
            }
            for example in facts.examples {
                let class = class(example);
                assert_eq!(class.to_string().parse::<ShapeClass>(), Ok(class.clone()));
                for key in facts.size_keys {
                    assert!(!class.shape.contains(&format!(":{key}=")), "{class}");
                    assert!(!class.shape.contains(&format!(",{key}=")), "{class}");
                }
            }
        }
    }

    #[test]
    fn other_texts_are_refused_with_what_to_write() {
        for text in
            ["", "gemm:m=1", "gemm:m=1 from", "gemm:m=1 from 3 MiB", "gemm from 4 MiB"]
        {
            assert!(
                text.parse::<ShapeClass>().unwrap_err().contains("write `gemm"),
                "{text}"
            );
        }
    }
}
