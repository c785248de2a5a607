//! GPU architectures, and what a launch plan must know of a GPU.

use std::fmt;
use std::str::FromStr;

/// Shared memory of an SM that the system takes for each block, in bytes, on every
/// architecture that is supported (CUDA C++ Programming Guide, "Shared Memory" of compute
/// capabilities 8.x to 12.x).
pub const RESERVED_SHARED_BYTES: u32 = 1024;

/// A GPU architecture by its compute capability, such as 9.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arch {
    /// Before the dot.
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

    /// All that a name may mean: those of the compilers from CUDA 12.0 on, from
    /// [`Arch::OLDEST`] on (<https://developer.nvidia.com/cuda-gpus>).
    pub const KNOWN: [Arch; 11] = {
        const fn of(major: u32, minor: u32) -> Arch {
            Arch { major, minor }
        }
        [
            Arch::SM_80,
            of(8, 6),
            of(8, 7),
            Arch::SM_89,
            Arch::SM_90,
            of(10, 0),
            of(10, 1),
            of(10, 3),
            of(11, 0),
            Arch::SM_120,
            of(12, 1),
        ]
    };

    /// The oldest that the kernels are written for.
    pub const OLDEST: Arch = Arch::SM_80;

    /// Whether a launch may begin while the one before it ends (griddepcontrol).
    pub fn can_overlap_launches(self) -> bool {
        self >= Arch::SM_90
    }

    /// The compiler's name for machine code of this architecture. Hopper and
    /// data-centre Blackwell have instructions that only the `a` target knows.
    pub fn compiler_name(self) -> String {
        let suffix = if matches!(self.major, 9 | 10) { "a" } else { "" };
        format!("sm_{}{}{suffix}", self.major, self.minor)
    }

    /// The limits of an SM and of one block (CUDA C++ Programming Guide,
    /// table "Technical Specifications per Compute Capability").
    pub const fn limits(self) -> SmLimits {
        let threads_per_sm = match (self.major, self.minor) {
            (8, 0) | (9..=11, _) => 2048,
            _ => 1536,
        };
        let shared_kib = match (self.major, self.minor) {
            (8, 0 | 7) => 164,
            (9..=11, _) => 228,
            _ => 100,
        };
        SmLimits {
            threads_per_sm,
            shared_bytes_per_sm: shared_kib << 10,
            shared_bytes_per_block: (shared_kib - 1) << 10,
            reserved_shared_bytes: RESERVED_SHARED_BYTES,
        }
    }

    /// Bytes of an SM's L1 where blocks take little shared memory: of the memory that both are
    /// in (CUDA C++ Programming Guide, "Unified Data Cache Size"), what the smallest share of
    /// shared memory leaves that [`RESERVED_SHARED_BYTES`] of a few blocks fit in.
    pub const fn l1_bytes(self) -> u32 {
        const SMALLEST_SHARED_KIB: u32 = 8;
        let unified_kib = match (self.major, self.minor) {
            (8, 0 | 7) => 192,
            (9..=11, _) => 256,
            _ => 128,
        };
        (unified_kib - SMALLEST_SHARED_KIB) << 10
    }

    /// Multiprocessors of a typical GPU of this architecture: what is compiled may
    /// depend on it, but not on the GPU that it runs on.
    pub const fn usual_sms(self) -> u32 {
        match (self.major, self.minor) {
            (8, 0) => 108,  // A100
            (8, _) => 84,   // A40, RTX A6000; L40S has 142, L4 58
            (9, _) => 132,  // H100
            (12, _) => 170, // RTX 5090
            _ => 148,       // B200
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
        let known = Arch::KNOWN.map(Arch::compiler_name);
        let error =
            |why: &str| format!("`{text}` {why}; write one of {}", known.join(", "));
        let of_name = Arch::KNOWN.into_iter().zip(&known).find(|(_, name)| {
            // With or without the letter of its own instructions.
            text == name.as_str() || name.strip_suffix('a') == Some(text)
        });
        if let Some((arch, _)) = of_name {
            return Ok(arch);
        }
        let number = text.strip_prefix("sm_").and_then(|digits| digits.parse::<u32>().ok());
        let oldest = 10 * Arch::OLDEST.major + Arch::OLDEST.minor;
        Err(match number {
            Some(number) if number < oldest => {
                error(&format!("is older than {}, the oldest supported", Arch::OLDEST))
            }
            _ => error("is not an architecture"),
        })
    }
}

/// The limits of an SM, and of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmLimits {
    /// Most threads of an SM.
    pub threads_per_sm: u32,
    /// Shared memory of an SM, in bytes.
    pub shared_bytes_per_sm: u32,
    /// Most shared memory of one block, static and dynamic, in bytes.
    pub shared_bytes_per_block: u32,
    /// Shared memory of an SM that the system takes for each block, in bytes.
    pub reserved_shared_bytes: u32,
}

impl SmLimits {
    /// Most shared memory of a block, static and dynamic, where so many share an SM, in
    /// bytes.
    pub const fn shared_bytes_of_block(&self, blocks_per_sm: u32) -> u32 {
        let share = self.shared_bytes_per_sm / blocks_per_sm - self.reserved_shared_bytes;
        if share < self.shared_bytes_per_block {
            share
        } else {
            self.shared_bytes_per_block
        }
    }

    /// In which these limits and others differ: name, value here, value there.
    fn differences(&self, other: &SmLimits) -> Vec<(&'static str, u32, u32)> {
        let values = |limits: &SmLimits| {
            [
                ("threads_per_sm", limits.threads_per_sm),
                ("shared_bytes_per_sm", limits.shared_bytes_per_sm),
                ("shared_bytes_per_block", limits.shared_bytes_per_block),
                ("reserved_shared_bytes", limits.reserved_shared_bytes),
            ]
        };
        let pairs = values(self).into_iter().zip(values(other));
        pairs
            .filter(|((_, here), (_, there))| here != there)
            .map(|((name, here), (_, there))| (name, here, there))
            .collect()
    }
}

/// What a launch plan must know of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Architecture.
    pub arch: Arch,
    /// Multiprocessors.
    pub sms: u32,
    /// What each of them has.
    pub limits: SmLimits,
}

impl Target {
    /// A GPU of an architecture with a number of SMs, with the limits that
    /// NVIDIA documents for the architecture.
    pub const fn new(arch: Arch, sms: u32) -> Self {
        Target { arch, sms, limits: arch.limits() }
    }

    /// Compares the limits that a driver reports with the documented ones of the
    /// architecture, which kernels are compiled for: in words, where they differ and
    /// kernels run all the same, at most with fewer blocks on an SM.
    ///
    /// # Errors
    /// A limit of shared memory for a block below the one that kernels are compiled for,
    /// with both values.
    pub fn check_limits(&self) -> Result<Option<String>, String> {
        let documented = self.arch.limits();
        let (here, there) =
            (self.limits.shared_bytes_per_block, documented.shared_bytes_per_block);
        if here < there {
            return Err(format!(
                "the driver gives a block at most {here} bytes of shared memory, and kernels \
                 for {} are compiled for the documented {there}; this is a bug in the table of \
                 architectures, please report it",
                self.arch
            ));
        }
        let differences = self.limits.differences(&documented);
        let words: Vec<String> = differences
            .iter()
            .map(|(name, here, there)| format!("{name} {here}, documented {there}"))
            .collect();
        Ok((!words.is_empty()).then(|| words.join("; ")))
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
        for arch in Arch::KNOWN {
            assert_eq!(arch.to_string().parse::<Arch>(), Ok(arch));
        }
        for wrong in [
            "90",
            "sm_",
            "sm_75",
            "sm_x",
            "",
            "sm_999",
            "sm_81",
            "sm_80a",
            "sm_90aa",
            "sm_+90",
            "sm_4294967296",
        ] {
            let why = wrong.parse::<Arch>().unwrap_err();
            assert!(why.contains("write one of sm_80, sm_86, "), "{why}");
        }
        assert!("sm_75".parse::<Arch>().unwrap_err().contains("older than sm_80"));
    }

    #[test]
    fn limits_are_the_documented_ones() {
        let h100 = Arch::SM_90.limits();
        assert_eq!((h100.shared_bytes_per_block, h100.threads_per_sm), (232_448, 2048));
        let ada = Arch::SM_89.limits();
        assert_eq!((ada.shared_bytes_per_block, ada.threads_per_sm), (101_376, 1536));
        assert_eq!(Arch::SM_80.limits().shared_bytes_per_sm, 167_936);
    }

    /// Shared memory can take all but 28 KiB of what it shares with L1, and L1 all but 8 KiB.
    #[test]
    fn the_first_cache_is_what_shared_memory_leaves() {
        let kib = Arch::KNOWN.map(|arch| arch.l1_bytes() >> 10);
        let unified =
            Arch::KNOWN.map(|arch| (arch.limits().shared_bytes_per_sm >> 10) + 28);
        assert_eq!(kib, unified.map(|kib| kib - 8));
        assert_eq!(Arch::SM_90.l1_bytes(), 248 << 10);
        assert_eq!(Arch::SM_89.l1_bytes(), 120 << 10);
    }

    #[test]
    fn blocks_share_what_the_system_leaves() {
        let h100 = Arch::SM_90.limits();
        let of_block = [1, 2, 3].map(|blocks| h100.shared_bytes_of_block(blocks));
        assert_eq!(of_block, [227 << 10, 113 << 10, 75 << 10]);
        let wide = SmLimits { shared_bytes_per_block: 64 << 10, ..h100 };
        assert_eq!(wide.shared_bytes_of_block(2), 64 << 10);
    }

    #[test]
    fn a_drivers_limits_are_compared_with_the_table() {
        let documented = Target::new(Arch::SM_90, 132);
        assert_eq!(documented.check_limits(), Ok(None));
        let with = |change: fn(&mut SmLimits)| {
            let mut target = documented;
            change(&mut target.limits);
            target.check_limits()
        };
        let words = with(|limits| limits.reserved_shared_bytes = 2048).unwrap().unwrap();
        assert_eq!(words, "reserved_shared_bytes 2048, documented 1024");
        let more = with(|limits| {
            limits.shared_bytes_per_sm = 256 << 10;
            limits.shared_bytes_per_block = 255 << 10;
        });
        let words = more.unwrap().unwrap();
        assert!(
            words.contains("shared_bytes_per_sm 262144, documented 233472; "),
            "{words}"
        );
        let less = with(|limits| limits.shared_bytes_per_block = 99 << 10).unwrap_err();
        for part in ["at most 101376 bytes", "sm_90a", "documented 232448", "report"] {
            assert!(less.contains(part), "{less}");
        }
    }
}
