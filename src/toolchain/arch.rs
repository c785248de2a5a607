//! GPU architectures, and what a launch plan must know of a GPU.

use std::fmt;
use std::str::FromStr;

/// A GPU architecture by its compute capability, such as 9.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arch {
    /// Before the point.
    pub major: u32,
    /// After it.
    pub minor: u32,
}

impl Arch {
    /// A100.
    pub const SM_80: Arch = Arch { major: 8, minor: 0 };
    /// L4, L40S, RTX 40.
    pub const SM_89: Arch = Arch { major: 8, minor: 9 };
    /// H100, H200.
    pub const SM_90: Arch = Arch { major: 9, minor: 0 };
    /// RTX 50, RTX PRO 6000.
    pub const SM_120: Arch = Arch { major: 12, minor: 0 };

    /// The oldest that the kernels are written for.
    pub const OLDEST: Arch = Arch::SM_80;

    /// The compiler's name for machine code of this architecture. Hopper and
    /// data-centre Blackwell have instructions that only the `a` target knows.
    pub fn compiler_name(self) -> String {
        let suffix = if matches!(self.major, 9 | 10) { "a" } else { "" };
        format!("sm_{}{}{suffix}", self.major, self.minor)
    }

    /// Shared memory of an SM, and the most that one block may take of it, in
    /// bytes (CUDA C++ Programming Guide, table "Technical Specifications per
    /// Compute Capability").
    const fn shared_bytes(self) -> (u32, u32) {
        let kib = match (self.major, self.minor) {
            (8, 0 | 7) => 164,
            (9..=11, _) => 228,
            _ => 100,
        };
        (kib << 10, (kib - 1) << 10)
    }

    /// Multiprocessors of a usual GPU of this architecture: what is compiled may
    /// depend on it, but not on the GPU at hand.
    pub const fn usual_sms(self) -> u32 {
        match (self.major, self.minor) {
            (8, 0) => 108,  // A100
            (8, _) => 84,   // A40, RTX A6000; L40S has 142, L4 58
            (9, _) => 132,  // H100
            (12, _) => 170, // RTX 5090
            _ => 148,       // B200
        }
    }

    /// Threads that an SM holds, from the same table.
    const fn threads_per_sm(self) -> u32 {
        match (self.major, self.minor) {
            (8, 0) | (9..=11, _) => 2048,
            _ => 1536,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.compiler_name())
    }
}

impl FromStr for Arch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error =
            || format!("`{text}` is no architecture; write sm_80, sm_90a or sm_120");
        let digits = text.strip_prefix("sm_").ok_or_else(error)?;
        let number: u32 = digits.trim_end_matches('a').parse().map_err(|_| error())?;
        let arch = Arch { major: number / 10, minor: number % 10 };
        if arch < Arch::OLDEST {
            return Err(format!(
                "{text} is older than {}, the oldest supported",
                Arch::OLDEST
            ));
        }
        Ok(arch)
    }
}

/// What a launch plan must know of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Architecture.
    pub arch: Arch,
    /// Multiprocessors.
    pub sms: u32,
    /// Threads that an SM holds.
    pub threads_per_sm: u32,
    /// Shared memory of an SM, in bytes.
    pub shared_bytes_per_sm: u32,
    /// Most shared memory of one block, in bytes.
    pub shared_bytes_per_block: u32,
}

impl Target {
    /// A GPU of an architecture with a number of SMs, with the limits that
    /// NVIDIA documents for the architecture.
    pub const fn new(arch: Arch, sms: u32) -> Self {
        let (shared_bytes_per_sm, shared_bytes_per_block) = arch.shared_bytes();
        Target {
            arch,
            sms,
            threads_per_sm: arch.threads_per_sm(),
            shared_bytes_per_sm,
            shared_bytes_per_block,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_have_one_spelling() {
        for name in ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120"] {
            assert_eq!(name.parse::<Arch>().unwrap().to_string(), name);
        }
        assert_eq!("sm_90".parse::<Arch>().unwrap(), Arch::SM_90);
        for wrong in ["90", "sm_", "sm_75", "sm_x", ""] {
            assert!(wrong.parse::<Arch>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_are_the_documented_ones() {
        let h100 = Target::new(Arch::SM_90, 132);
        assert_eq!((h100.shared_bytes_per_block, h100.threads_per_sm), (232_448, 2048));
        let ada = Target::new(Arch::SM_89, 128);
        assert_eq!((ada.shared_bytes_per_block, ada.threads_per_sm), (101_376, 1536));
        assert_eq!(Target::new(Arch::SM_80, 108).shared_bytes_per_sm, 167_936);
    }
}
