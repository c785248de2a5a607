//! What a device reports about itself: enough to tell one product from another, and to
//! derive its peaks.

use crate::toolchain::{Arch, Target};

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
    /// The GPU that CUDA kernels are planned for.
    ///
    /// # Errors
    /// No compute capability, or an older one than kernels are written for; no number of
    /// multiprocessors. In words, without the device's name.
    pub fn target(&self) -> Result<Target, String> {
        let Some((major, minor)) = self.compute_capability else {
            return Err("no compute capability, so it runs no CUDA kernels".to_owned());
        };
        let arch = Arch { major, minor };
        if arch < Arch::OLDEST {
            let oldest = Arch::OLDEST;
            return Err(format!(
                "{arch}, and {oldest} is the oldest that the kernels are written for"
            ));
        }
        let sms = self.sm_count.and_then(|sms| u32::try_from(sms).ok());
        sms.map(|sms| Target::new(arch, sms))
            .ok_or_else(|| "no number of multiprocessors".to_owned())
    }

    /// Whether the name has `words` in it, with no letter or digit before or
    /// after: an `L40S` is not an `L4`.
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
