//! Architectures: what each of them can run, and the limits that it sets to launches.
//!
//! The requirements are those of the PTX ISA's "Target ISA Notes" and "PTX ISA Notes".

use std::fmt;

/// What a module is compiled for, or a device is: `sm_90`, `sm_90a`, `sm_100f`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    /// The compute capability times ten.
    pub sm: u32,
    /// `a`: this architecture only; `f`: its family only.
    pub suffix: Option<char>,
}

/// Most bytes of static shared memory of a block, and of all of it without opting in.
pub(crate) const STATIC_SHARED: u32 = 48 * 1024;

/// A version of the PTX ISA.
pub(crate) type Version = (u32, u32);

/// Architectures, and the first version of the ISA that names them.
const KNOWN: [(u32, Version); 22] = [
    (50, (4, 0)),
    (52, (4, 1)),
    (53, (4, 2)),
    (60, (5, 0)),
    (61, (5, 0)),
    (62, (5, 0)),
    (70, (6, 0)),
    (72, (6, 1)),
    (75, (6, 3)),
    (80, (7, 0)),
    (86, (7, 1)),
    (87, (7, 4)),
    (88, (9, 0)),
    (89, (7, 8)),
    (90, (7, 8)),
    (100, (8, 6)),
    (101, (8, 6)),
    (103, (8, 8)),
    (110, (9, 0)),
    (120, (8, 7)),
    (121, (8, 8)),
    (130, (9, 1)),
];

impl Target {
    /// The target that `name` means, if there is one.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("sm_")?;
        let digits = rest.trim_end_matches(['a', 'f']);
        let sm = digits.parse().ok()?;
        let suffix = match &rest[digits.len()..] {
            "" => None,
            "a" if sm >= 90 => Some('a'),
            "f" if sm >= 100 => Some('f'),
            _ => return None,
        };
        KNOWN.iter().any(|known| known.0 == sm).then_some(Self { sm, suffix })
    }

    /// The first version of the ISA that names this target.
    pub(crate) fn version(self) -> Version {
        let plain = KNOWN.iter().find(|known| known.0 == self.sm);
        let plain = plain.map_or((6, 0), |known| known.1);
        match (self.sm, self.suffix) {
            (90, Some(_)) => (8, 0),
            (_, Some('f')) => plain.max((8, 8)),
            _ => plain,
        }
    }

    /// Whether code for this target runs on `device`.
    pub(crate) fn runs_on(self, device: Target) -> bool {
        match self.suffix {
            None => device.sm >= self.sm,
            Some('f') => device.family() == self.family() && device.sm >= self.sm,
            Some(_) => device.sm == self.sm,
        }
    }

    fn family(self) -> u32 {
        // sm_110 is what was called sm_101; both belong to no other's family.
        if matches!(self.sm, 101 | 110) { 11 } else { self.sm / 10 }
    }

    /// Most bytes of shared memory of a block, static and dynamic, after opting in.
    pub(crate) fn shared_opt_in(self) -> u32 {
        1024 * match self.sm {
            0..70 => 48,
            70..75 => 96,
            75 => 64,
            80 | 87 => 163,
            86 | 88 | 89 | 120 | 121 => 99,
            _ => 227,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}", self.sm)?;
        self.suffix.map_or(Ok(()), |suffix| write!(f, "{suffix}"))
    }
}

/// Hardware that an instruction needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hardware {
    /// Any that the ISA's version allows.
    Any,
    /// This architecture and all after it.
    From(u32),
    /// A target with a suffix, of this architecture or one after it.
    Suffixed(u32),
    /// The architecture with the suffix `a`, and no other.
    Only(u32),
}

use Hardware::{Any, From, Only, Suffixed};

impl Hardware {
    fn has(self, target: Target) -> bool {
        match self {
            Any => true,
            From(sm) => target.sm >= sm,
            Suffixed(sm) => target.suffix.is_some() && target.sm >= sm,
            Only(sm) => target.suffix == Some('a') && target.sm == sm,
        }
    }
}

impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Any => write!(f, "any architecture"),
            From(sm) => write!(f, "sm_{sm} or later"),
            Suffixed(sm) => write!(f, "sm_{sm}a or a later one with 'a' or 'f'"),
            Only(sm) => write!(f, "sm_{sm}a"),
        }
    }
}

/// An instruction, or one with certain modifiers, and what it needs.
///
/// The pattern's first word is the instruction (`*` for any). Every other word is a modifier
/// that the opcode must have, or alternatives (`a|b`), or one that it must not have (`!a`);
/// `#count` stands for an operand that counts arrivals, `#ignore` for a predicate that says
/// to ignore the source, and `@89` for a module for that architecture.
type Rule = (&'static str, Hardware, Version);

/// Floating-point and integer arithmetic.
const ARITHMETIC: &[Rule] = &[
    ("* bf16|bf16x2", From(80), (7, 0)),
    ("add|sub|mul bf16|bf16x2", From(90), (7, 8)),
    ("add|min|max u16x2|s16x2", From(90), (8, 0)),
    ("abs f16|f16x2", Any, (6, 5)),
    ("min|max f16|f16x2", From(80), (7, 0)),
    ("min|max NaN", From(80), (7, 0)),
    ("fma relu", From(80), (7, 0)),
    ("tanh", From(75), (7, 0)),
    ("ex2 f16|f16x2", From(75), (7, 0)),
    ("ex2|tanh bf16|bf16x2", From(90), (7, 8)),
    ("set|setp bf16|bf16x2", From(90), (7, 8)),
    ("bmsk|szext", From(70), (7, 6)),
    ("dp4a|dp2a", From(61), (5, 0)),
    ("cvt pack", From(72), (6, 5)),
    ("cvt tf32", From(80), (7, 0)),
    ("cvt tf32 rn|rz", From(90), (7, 8)),
    ("cvt tf32 satfinite", From(80), (8, 1)),
    ("cvt tf32 rn|rz satfinite", From(100), (8, 6)),
    ("cvt f16x2", From(80), (7, 0)),
    ("cvt relu", From(80), (7, 0)),
    ("cvt f16|f16x2|bf16|bf16x2 satfinite !e4m3x2 !e5m2x2", Any, (8, 1)),
    ("cvt f32 bf16 !rn !rz", From(80), (7, 1)),
    ("cvt bf16 !f32", From(90), (7, 8)),
    ("cvt e4m3x2|e5m2x2", From(89), (7, 8)),
    ("cvt e4m3x2|e5m2x2 @89", From(89), (8, 1)),
];

/// Loads, stores, atomics, and what belongs to them.
const MEMORY: &[Rule] = &[
    ("* shared::cta", From(30), (7, 8)),
    ("* shared::cluster", From(90), (7, 8)),
    ("* param::entry", Any, (8, 3)),
    ("cvta|isspacep param", From(70), (7, 7)),
    ("ld|st|atom|red|fence cluster", From(90), (7, 8)),
    ("ld|st|atom|red relaxed|acquire|release|acq_rel", From(70), (6, 0)),
    ("ld|st mmio", From(70), (8, 2)),
    ("ld|st L1::evict_normal|L1::evict_unchanged|L1::evict_first", From(70), (7, 4)),
    ("ld|st L1::evict_last|L1::no_allocate", From(70), (7, 4)),
    ("ld L2::64B|L2::128B", From(75), (7, 4)),
    ("ld L2::256B", From(80), (7, 4)),
    ("* L2::cache_hint", From(80), (7, 4)),
    ("ld|st v8", From(100), (8, 8)),
    ("ld|st v4 b64|u64|s64|f64", From(100), (8, 8)),
    ("ld|st L2::evict_last|L2::evict_first|L2::evict_normal", From(100), (8, 8)),
    ("prefetch L2::evict_last|L2::evict_normal", From(80), (7, 4)),
    ("prefetch tensormap", From(90), (8, 0)),
    ("applypriority|discard|createpolicy", From(80), (7, 4)),
    ("atom|red add noftz f16", From(70), (6, 3)),
    ("atom|red add noftz f16x2", From(60), (6, 2)),
    ("atom|red bf16|bf16x2", From(90), (7, 8)),
    ("atom|red v2|v4|v8", From(90), (8, 1)),
    ("atom cas b16", From(70), (6, 3)),
    ("st async", From(90), (8, 1)),
    ("mapa|getctarank", From(90), (7, 8)),
];

/// Synchronisation, exchanges and asynchronous copies.
const ORDER: &[Rule] = &[
    ("shfl|vote sync", Any, (6, 0)),
    ("match", From(70), (6, 0)),
    ("activemask", Any, (6, 2)),
    ("redux", From(80), (7, 0)),
    ("elect", From(90), (8, 0)),
    ("nanosleep", From(70), (6, 3)),
    ("bar|barrier cta", Any, (7, 8)),
    ("barrier cluster", From(90), (7, 8)),
    ("barrier cluster release|acquire|relaxed", From(90), (8, 0)),
    ("fence", From(70), (6, 0)),
    ("fence proxy alias", From(70), (7, 5)),
    ("fence proxy async", From(90), (8, 0)),
    ("fence proxy tensormap::generic", From(90), (8, 3)),
    ("fence proxy async::generic", From(90), (8, 6)),
    ("fence sync_restrict::shared::cluster|sync_restrict::shared::cta", From(90), (8, 6)),
    ("fence mbarrier_init", From(90), (8, 0)),
    ("tensormap", From(90), (8, 3)),
    ("tensormap replace", Suffixed(90), (8, 3)),
    ("griddepcontrol", From(90), (7, 8)),
    ("setmaxnreg", Suffixed(90), (8, 0)),
    ("mbarrier", From(80), (7, 0)),
    ("mbarrier parity", From(80), (7, 1)),
    ("mbarrier try_wait", From(90), (7, 8)),
    ("mbarrier expect_tx|complete_tx", From(90), (8, 0)),
    ("mbarrier acquire|release|cta", From(80), (8, 0)),
    ("mbarrier cluster", From(90), (8, 0)),
    ("mbarrier arrive|arrive_drop|test_wait|try_wait relaxed", From(90), (8, 6)),
    ("mbarrier arrive|arrive_drop #count", From(90), (7, 8)),
    ("cp async", From(80), (7, 0)),
    ("cp async #ignore", From(80), (7, 5)),
    ("cp async L2::64B|L2::128B|L2::256B", From(80), (7, 4)),
    ("cp bulk", From(90), (8, 0)),
    ("cp bulk shared::cta global !bulk_group !prefetch", From(90), (8, 6)),
    ("cp bulk cp_mask", From(100), (8, 6)),
];

/// Products of matrices.
const MATRIX: &[Rule] = &[
    ("ldmatrix", From(75), (6, 5)),
    ("stmatrix", From(90), (7, 8)),
    ("movmatrix", From(75), (7, 8)),
    ("mma", From(70), (6, 4)),
    ("mma m16n8k8|m8n8k16", From(75), (6, 5)),
    ("mma m16n8k16|m16n8k4|m16n8k32", From(80), (7, 0)),
    ("mma bf16|tf32|f64", From(80), (7, 0)),
    ("mma m16n8k8|m16n8k16|m16n8k4 f64", From(90), (7, 8)),
    ("mma e4m3|e5m2", From(89), (8, 4)),
    ("mma m16n8k16 e4m3|e5m2", From(89), (8, 7)),
    ("mma e4m3|e5m2 f16", From(89), (8, 7)),
    ("mma kind::f8f6f4", Suffixed(100), (8, 6)),
    ("wgmma", Only(90), (8, 0)),
    ("wgmma s8 u8", Only(90), (8, 4)),
];

/// Registers that only some architectures have, by what their names begin with.
const REGISTERS: [(&str, Hardware, Version); 7] = [
    ("%clusterid", From(90), (7, 8)),
    ("%nclusterid", From(90), (7, 8)),
    ("%cluster_", From(90), (7, 8)),
    ("%is_explicit_cluster", From(90), (7, 8)),
    ("%lanemask", From(20), (2, 0)),
    ("%dynamic_smem_size", From(20), (4, 1)),
    ("%total_smem_size", From(20), (4, 1)),
];

/// What a module declares: its target and its version of the ISA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Platform {
    pub target: Target,
    pub version: Version,
}

impl Platform {
    /// What this platform lacks for the instruction of these parts (`cp`, `async`, `cg`).
    pub(crate) fn lacks(self, parts: &[&str]) -> Option<String> {
        let rules = [ARITHMETIC, MEMORY, ORDER, MATRIX].into_iter().flatten();
        rules
            .filter(|rule| matches(rule.0, parts, self.target))
            .find_map(|&(_, hardware, version)| self.without(hardware, version))
    }

    /// What this platform lacks for a special register.
    pub(crate) fn lacks_register(self, name: &str) -> Option<String> {
        let rule = REGISTERS.iter().find(|rule| name.starts_with(rule.0))?;
        self.without(rule.1, rule.2)
    }

    /// What this platform lacks of the given needs.
    pub(crate) fn without(self, hardware: Hardware, version: Version) -> Option<String> {
        let Self { target, version: own } = self;
        if !hardware.has(target) {
            return Some(format!(
                "needs .target {hardware}, but the module is for {target}"
            ));
        }
        (own < version).then(|| {
            format!(
                "needs PTX ISA {}.{}, but the module has .version {}.{}",
                version.0, version.1, own.0, own.1
            )
        })
    }
}

fn matches(pattern: &str, parts: &[&str], target: Target) -> bool {
    let mut words = pattern.split(' ');
    let (Some(name), Some((own, modifiers))) = (words.next(), parts.split_first()) else {
        return false;
    };
    let named = name == "*" || name.split('|').any(|name| name == *own);
    named
        && words.all(|word| match word.split_at(1) {
            ("!", absent) => !modifiers.contains(&absent),
            ("@", sm) => sm.parse() == Ok(target.sm),
            _ => word.split('|').any(|word| modifiers.contains(&word)),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(target: &str, version: Version) -> Platform {
        Platform { target: Target::parse(target).unwrap(), version }
    }

    fn runs(opcode: &str, target: &str, version: Version) -> bool {
        let parts: Vec<&str> = opcode.split('.').collect();
        platform(target, version).lacks(&parts).is_none()
    }

    #[test]
    fn targets_and_devices() {
        let target = |name| Target::parse(name).unwrap();
        for (code, device, wanted) in [
            ("sm_80", "sm_90", true),
            ("sm_90", "sm_80", false),
            ("sm_90a", "sm_90", true),
            ("sm_90a", "sm_100", false),
            ("sm_100f", "sm_103", true),
            ("sm_103f", "sm_100", false),
            ("sm_100f", "sm_120", false),
        ] {
            assert_eq!(target(code).runs_on(target(device)), wanted, "{code} on {device}");
        }
        assert_eq!(Target::parse("sm_80a"), None);
        assert_eq!(Target::parse("sm_99"), None);
        assert_eq!(Target::parse("compute_80"), None);
        assert_eq!(target("sm_100f").to_string(), "sm_100f");
        assert_eq!(target("sm_100f").version(), (8, 8));
    }

    #[test]
    fn suffixes_are_needed() {
        let latest = (9, 0);
        let wgmma = "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16";
        assert!(runs(wgmma, "sm_90a", latest));
        assert!(!runs(wgmma, "sm_90", latest) && !runs(wgmma, "sm_100a", latest));
        let registers = "setmaxnreg.inc.sync.aligned.u32";
        assert!(runs(registers, "sm_90a", latest) && runs(registers, "sm_100a", latest));
        assert!(!runs(registers, "sm_90", latest) && !runs(registers, "sm_120", latest));
    }

    #[test]
    fn versions_are_needed() {
        assert!(runs("mbarrier.init.shared.b64", "sm_80", (7, 0)));
        assert!(!runs("mbarrier.init.shared::cta.b64", "sm_80", (7, 7)));
        assert!(runs("cvt.rn.f16x2.e4m3x2", "sm_90", (7, 8)));
        assert!(!runs("cvt.rn.f16x2.e4m3x2", "sm_89", (8, 0)));
        assert!(runs("cvt.rn.f16x2.e4m3x2", "sm_89", (8, 1)));
        assert!(!runs("ld.global.v8.b32", "sm_100", (8, 7)));
    }
}
