//! What this CPU is, from what the system says about it. Every source may be
//! missing; what is then assumed stands among the facts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{simd, threads};
use crate::device::contract::slug;
use crate::device::{DeviceInfo, DeviceKind, Telemetry};
use crate::residency::{CacheLevel, CacheSize};
use crate::statistics::median;

/// Cache capacity that is assumed where the system does not tell: more than
/// the last cache of most machines, so that "cold" is not claimed too early.
const ASSUMED_CACHE_BYTES: u64 = 64 << 20;

/// The fact that names [`units_not_driven`].
const UNITS_NOT_DRIVEN: &str = "units_not_driven";

/// Memory that is assumed where the system does not tell.
const ASSUMED_MEMORY_BYTES: u64 = 1 << 30;

/// Everything about this machine that a campaign records.
pub fn device_info() -> DeviceInfo {
    // First, as all that is measured here is measured on these threads.
    let pinned = threads::pin();
    let threads = rayon::current_num_threads();
    let mut facts = vec![
        ("threads".to_owned(), threads.to_string()),
        ("threads_pinned".to_owned(), pinned),
        ("simd".to_owned(), simd::level().to_owned()),
    ];
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name =
        model_name(&cpu).unwrap_or_else(|| format!("{} CPU", std::env::consts::ARCH));
    if let Some(clock_hz) = base_clock_hz(&cpu, Path::new("/sys/devices/system/cpu/cpu0")) {
        facts.push(("base_clock_hz".to_owned(), clock_hz.to_string()));
    }
    let idle = units_not_driven(&cpu);
    if !idle.is_empty() {
        facts.push((UNITS_NOT_DRIVEN.to_owned(), idle.join(" ")));
    }
    let pages = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if let Some(setting) = pages.ok().as_deref().and_then(chosen) {
        facts.push(("huge_pages".to_owned(), setting.to_owned()));
    }
    let mut caches = caches(Path::new("/sys/devices/system/cpu"));
    if caches.is_empty() {
        caches.push(CacheSize { level: CacheLevel::L3, bytes: ASSUMED_CACHE_BYTES });
        facts.push((
            "assumed_cache_bytes".to_owned(),
            format!("{ASSUMED_CACHE_BYTES}: the system lists no caches"),
        ));
    }
    let memory_bytes = memory_bytes().unwrap_or_else(|| {
        facts.push((
            "assumed_memory_bytes".to_owned(),
            format!("{ASSUMED_MEMORY_BYTES}: the system does not say what is free"),
        ));
        ASSUMED_MEMORY_BYTES
    });
    DeviceInfo {
        kind: DeviceKind::Measured,
        backend: "cpu".to_owned(),
        slug: format!("cpu-{}-{threads}c", slug(&name)),
        name,
        caches,
        units: threads as u64,
        memory_bytes,
        timer: "std::time::Instant".to_owned(),
        timer_quantum_s: timer_quantum_s(),
        launch_overhead_s: launch_overhead_s(),
        facts,
    }
}

fn model_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    let (_, name) = line.split_once(':')?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// The clock that the processor is sold with: what the system calls its base frequency, or
/// in a virtual machine, which has no frequencies to choose from, the one that it lists.
fn base_clock_hz(cpuinfo: &str, cpu: &Path) -> Option<u64> {
    let frequencies = cpu.join("cpufreq");
    if frequencies.exists() {
        let text = fs::read_to_string(frequencies.join("base_frequency")).ok()?;
        return text.trim().parse::<u64>().ok()?.checked_mul(1000);
    }
    let line = cpuinfo.lines().find(|line| line.starts_with("cpu MHz"))?;
    let mhz: f64 = line.split_once(':')?.1.trim().parse().ok()?;
    (mhz > 0.0).then_some((1e6 * mhz) as u64)
}

/// Units for products of small formats, which no kernel here drives, by the names that
/// Linux lists them under.
fn units_not_driven(cpuinfo: &str) -> Vec<&'static str> {
    const UNITS: [&str; 7] =
        ["amx_bf16", "amx_fp16", "avx512_fp16", "fphp", "bf16", "sme", "smef16f32"];
    let is_list = |line: &&str| line.starts_with("flags") || line.starts_with("Features");
    let Some((_, flags)) = cpuinfo.lines().find(is_list).and_then(|l| l.split_once(':'))
    else {
        return Vec::new();
    };
    UNITS.into_iter().filter(|unit| flags.split_whitespace().any(|f| f == *unit)).collect()
}

/// The choice in brackets of a file like `always [madvise] never`.
fn chosen(text: &str) -> Option<&str> {
    Some(text.split_once('[')?.1.split_once(']')?.0)
}

/// Data caches by level, each summed over its instances.
fn caches(cpus: &Path) -> Vec<CacheSize> {
    // An instance is a level and the CPUs that share it: every one of them
    // lists it.
    let mut instances = BTreeMap::new();
    for cpu in entries(cpus, "cpu") {
        for index in entries(&cpu.join("cache"), "index") {
            let read = |file| fs::read_to_string(index.join(file)).ok();
            let (Some(level), Some(kind), Some(size), Some(shared)) =
                (read("level"), read("type"), read("size"), read("shared_cpu_list"))
            else {
                continue;
            };
            let level: Option<u32> = level.trim().parse().ok();
            if let (Some(level), Some(bytes)) = (level, cache_bytes(size.trim()))
                && kind.trim() != "Instruction"
            {
                instances.insert((level, shared), bytes);
            }
        }
    }
    let mut levels = BTreeMap::new();
    for ((level, _), bytes) in instances {
        *levels.entry(level).or_insert(0) += bytes;
    }
    let sized = |(level, bytes)| Some(CacheSize { level: CacheLevel::new(level)?, bytes });
    levels.into_iter().filter_map(sized).collect()
}

/// Entries of a folder whose name is `prefix` and a number.
fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let is_numbered = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix(prefix));
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).filter(is_numbered).collect()
}

/// Reads `48K`, `2M` or a plain number.
fn cache_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match &text[digits..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

/// Nine tenths of what is free, of the machine and of the control group. The
/// rest is for results and for the system.
fn memory_bytes() -> Option<u64> {
    let available = mem_available(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = group_headroom(Path::new("/sys/fs/cgroup"), &groups);
    Some(available.min(limit.unwrap_or(u64::MAX)) / 10 * 9)
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Bytes that the tightest control group above this process still grants.
fn group_headroom(root: &Path, groups: &str) -> Option<u64> {
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, limit, used) = if controllers.is_empty() {
            (root.to_owned(), "memory.max", "memory.current")
        } else if controllers.split(',').any(|c| c == "memory") {
            (root.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes")
        } else {
            continue;
        };
        let group = root.join(path.trim_start_matches('/'));
        for folder in group.ancestors().take_while(|folder| folder.starts_with(&root)) {
            let number = |file| -> Option<u64> {
                fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
            };
            if let (Some(limit), Some(used)) = (number(limit), number(used)) {
                let left = limit.saturating_sub(used);
                least = Some(least.map_or(left, |least| least.min(left)));
            }
        }
    }
    least
}

/// What the processor's sensors say: the hottest one, and how often a core or package was
/// slowed down for its heat.
pub fn telemetry(sys: &Path) -> Telemetry {
    let number = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let counts =
        entries(&sys.join("devices/system/cpu"), "cpu").into_iter().flat_map(|cpu| {
            let folder = cpu.join("thermal_throttle");
            ["core_throttle_count", "package_throttle_count"]
                .map(|file| number(folder.join(file)))
        });
    let counts: Vec<u64> = counts.flatten().collect();
    let zones = entries(&sys.join("class/thermal"), "thermal_zone").into_iter();
    let of_cpu = zones.filter(|zone| {
        let kind = fs::read_to_string(zone.join("type")).unwrap_or_default();
        ["pkg", "cpu", "soc"].iter().any(|word| kind.to_lowercase().contains(word))
    });
    let hottest = of_cpu.filter_map(|zone| number(zone.join("temp"))).max();
    Telemetry {
        temperature_c: hottest.map(|thousandths| thousandths as f64 / 1000.0),
        thermal_slowdown: (!counts.is_empty()).then(|| counts.iter().sum()),
        ..Telemetry::default()
    }
}

/// Smallest step that the clock is seen to make.
pub fn timer_quantum_s() -> f64 {
    let step = || {
        let start = Instant::now();
        loop {
            let elapsed = start.elapsed();
            if !elapsed.is_zero() {
                return elapsed.as_secs_f64();
            }
        }
    };
    (0..1000).map(|_| step()).fold(f64::INFINITY, f64::min)
}

/// Median time of an empty kernel that every thread takes part in. A parallel
/// loop over nothing would not do: one thread would take all of it.
pub fn launch_overhead_s() -> f64 {
    let launch = || {
        let start = Instant::now();
        rayon::broadcast(|context| std::hint::black_box(context.index()));
        start.elapsed().as_secs_f64()
    };
    let times: Vec<f64> = rayon::scope(|_| (0..201).map(|_| launch()).collect());
    median(&times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_caches_are_read() {
        assert_eq!(cache_bytes("48K"), Some(48 << 10));
        assert_eq!(cache_bytes("480M"), Some(480 << 20));
        assert_eq!(cache_bytes("12"), Some(12));
        assert_eq!(cache_bytes("12 apples"), None);
    }

    #[test]
    fn caches_are_summed_over_instances_and_shared_ones_counted_once() {
        let root = tempfile::tempdir().unwrap();
        for cpu in 0..2 {
            let own = cpu.to_string();
            let caches = [
                ("index0", "1", "Data", "48K", own.as_str()),
                ("index1", "1", "Instruction", "64K", own.as_str()),
                ("index2", "3", "Unified", "8M", "0-1"),
            ];
            for (index, level, kind, size, shared) in caches {
                let folder = root.path().join(format!("cpu{cpu}/cache/{index}"));
                fs::create_dir_all(&folder).unwrap();
                let files = [
                    ("level", level),
                    ("type", kind),
                    ("size", size),
                    ("shared_cpu_list", shared),
                ];
                for (file, text) in files {
                    fs::write(folder.join(file), format!("{text}\n")).unwrap();
                }
            }
        }
        let found = caches(root.path());
        let found: Vec<_> = found.iter().map(|c| (c.level.to_string(), c.bytes)).collect();
        assert_eq!(found, [("L1".to_owned(), 96 << 10), ("L3".to_owned(), 8 << 20)]);
        assert_eq!(caches(&root.path().join("nowhere")), []);
    }

    #[test]
    fn heat_is_read() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(telemetry(root.path()), Telemetry::default());
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "3\n");
        write("devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", "4\n");
        write("devices/system/cpu/cpu1/thermal_throttle/package_throttle_count", "2\n");
        for (zone, kind, temp) in [
            (0, "acpitz", "99000"),
            (1, "x86_pkg_temp", "61500"),
            (2, "cpu-thermal", "60000"),
        ] {
            write(&format!("class/thermal/thermal_zone{zone}/type"), kind);
            write(&format!("class/thermal/thermal_zone{zone}/temp"), temp);
        }
        let read = telemetry(root.path());
        assert_eq!((read.temperature_c, read.thermal_slowdown), (Some(61.5), Some(9)));
    }

    #[test]
    fn the_tightest_control_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("a/b");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("memory.max"), "max\n").unwrap();
        fs::write(group.join("memory.current"), "10\n").unwrap();
        fs::write(root.path().join("a/memory.max"), "100\n").unwrap();
        fs::write(root.path().join("a/memory.current"), "40\n").unwrap();
        assert_eq!(group_headroom(root.path(), "0::/a/b\n"), Some(60));
        assert_eq!(group_headroom(root.path(), ""), None);
    }

    #[test]
    fn units_and_pages_are_read() {
        let text = "model name\t: X  9\nflags\t\t: fpu avx512_fp16 amx_tile amx_bf16\n";
        assert_eq!(units_not_driven(text), ["amx_bf16", "avx512_fp16"]);
        assert_eq!(model_name(text).as_deref(), Some("X  9"));
        assert_eq!(units_not_driven("Features : fp bf16"), ["bf16"]);
        assert_eq!(units_not_driven(""), Vec::<&str>::new());
        assert_eq!(chosen("always [madvise] never\n"), Some("madvise"));
        assert_eq!(chosen("always"), None);
    }

    #[test]
    fn the_base_clock_is_read_where_it_is_known() {
        let root = tempfile::tempdir().unwrap();
        let text = "model name : X\ncpu MHz\t\t: 2100.500\n";
        assert_eq!(base_clock_hz(text, root.path()), Some(2_100_500_000));
        assert_eq!(base_clock_hz("", root.path()), None);
        // Where frequencies change, the one in cpuinfo is that of the moment.
        fs::create_dir(root.path().join("cpufreq")).unwrap();
        assert_eq!(base_clock_hz(text, root.path()), None);
        fs::write(root.path().join("cpufreq/base_frequency"), "2600000\n").unwrap();
        assert_eq!(base_clock_hz(text, root.path()), Some(2_600_000_000));
    }

    #[test]
    fn free_memory_is_read() {
        assert_eq!(mem_available("MemTotal: 9 kB\nMemAvailable:    4 kB\n"), Some(4096));
        assert_eq!(mem_available("nothing"), None);
    }

    #[test]
    fn this_machine_is_described() {
        let info = device_info();
        assert!(info.memory_bytes > 0);
        assert!(info.last_level_cache_bytes() > 0);
        assert!(info.timer_quantum_s > 0.0 && info.timer_quantum_s < 1e-3);
        assert!(info.launch_overhead_s > 0.0);
    }
}
