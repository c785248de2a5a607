//! What a device reports about itself: enough to tell one product from another, and to
//! derive its peaks.

/// The name of a device and the numbers that its driver reports. A number that it does
/// not report is `None`; a CPU reports none of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Identity {
    /// The vendor's name for it.
    pub name: String,
    /// Major and minor compute capability.
    pub compute_capability: Option<(u32, u32)>,
    /// Streaming multiprocessors in use.
    pub sm_count: Option<u64>,
    /// Highest clock of the multiprocessors, in Hz.
    pub sm_clock_hz: Option<f64>,
    /// Highest clock of the memory, in Hz, at two transfers per clock.
    pub memory_clock_hz: Option<f64>,
    /// Width of the memory bus in bits.
    pub memory_bus_bits: Option<u64>,
}

impl Identity {
    /// Reads the numbers from provenance columns. A number is unknown if its column is
    /// missing, does not parse or is zero.
    pub fn read<'a>(name: &str, column: impl Fn(&str) -> Option<&'a str>) -> Self {
        let positive = |text: &str| {
            column(text)?.parse::<f64>().ok().filter(|x| x.is_finite() && *x > 0.0)
        };
        let count = |text: &str| column(text)?.parse::<u64>().ok().filter(|n| *n > 0);
        let capability = |text: &str| {
            let (major, minor) = text.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        };
        Identity {
            name: name.to_owned(),
            compute_capability: column("compute_capability").and_then(capability),
            sm_count: count("sm_count"),
            sm_clock_hz: positive("sm_clock_max_hz"),
            memory_clock_hz: positive("memory_clock_max_hz"),
            memory_bus_bits: count("memory_bus_bits"),
        }
    }

    /// Whether the name contains `words` with no letter or digit before or after them: an
    /// `L40S` is not an `L4`.
    pub fn is_named(&self, words: &str) -> bool {
        let is_outside = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
        self.name.match_indices(words).any(|(at, _)| {
            is_outside(self.name[..at].chars().next_back())
                && is_outside(self.name[at + words.len()..].chars().next())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_and_what_is_not_a_number_is_unknown() {
        let read = |value: &'static str| {
            Identity::read("NVIDIA H200", move |name| match name {
                "compute_capability" => Some("9.0"),
                "sm_count" => Some("132"),
                "memory_clock_max_hz" => Some(value),
                _ => None,
            })
        };
        let identity = read("3201000000");
        assert_eq!(identity.compute_capability, Some((9, 0)));
        assert_eq!(identity.sm_count, Some(132));
        assert_eq!(identity.memory_clock_hz, Some(3.201e9));
        assert_eq!((identity.sm_clock_hz, identity.memory_bus_bits), (None, None));
        for nothing in ["", "0", "-1", "inf", "NaN", "3 GHz"] {
            assert_eq!(read(nothing).memory_clock_hz, None, "{nothing}");
        }
    }

    #[test]
    fn names_match_in_whole_words() {
        let is_named = |name: &str, words| {
            Identity { name: name.into(), ..Identity::default() }.is_named(words)
        };
        assert!(is_named("NVIDIA L4", "L4"));
        assert!(is_named("Tesla V100-SXM2-16GB", "V100-SXM2"));
        assert!(is_named("Intel(R) Xeon(R) Processor", "Xeon"));
        for (name, words) in [
            ("NVIDIA L40S", "L4"),
            ("NVIDIA L40S", "L40"),
            ("NVIDIA GH200 480GB", "H200"),
            ("NVIDIA RTX A4000", "A4"),
            ("NVIDIA T400 4GB", "T4"),
        ] {
            assert!(!is_named(name, words), "{name} is not {words}");
        }
    }
}
