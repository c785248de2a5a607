//! What on this machine makes times longer or less certain, before a campaign begins.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::device::DeviceInfo;
use crate::host_load::HostLoad;

/// Share of the CPU from which others are mentioned.
const LOAD_SHARE: f64 = 0.05;

/// How long the load is watched: enough ticks on one core.
const WATCHED: Duration = Duration::from_millis(500);

/// Sentences about what disturbs measuring on a device now. Nothing that cannot be found
/// out is mentioned.
pub fn disturbances(info: &DeviceInfo) -> Vec<String> {
    let mut found = Vec::new();
    if info.runs_on_host() {
        let before = HostLoad::now();
        std::thread::sleep(WATCHED);
        let share = HostLoad::now().zip(before).and_then(|(b, a)| b.others_since(&a));
        found.extend(share.and_then(load));
        found.extend(governor(Path::new("/sys/devices/system/cpu/cpu0/cpufreq")));
    }
    if let Some(ordinal) = info.backend.strip_prefix("cuda:") {
        found.extend(processes_on_gpu(ordinal));
    }
    found
}

fn load(share: f64) -> Option<String> {
    (share > LOAD_SHARE).then(|| {
        format!(
            "other programs use {:.0}% of the CPU; rounds that they disturb are measured again \
             and left out",
            100.0 * share
        )
    })
}

/// Where frequencies follow the load, the first launches of a point are slower.
fn governor(cpufreq: &Path) -> Option<String> {
    let text = fs::read_to_string(cpufreq.join("scaling_governor")).ok()?;
    let governor = text.trim();
    (!governor.is_empty() && governor != "performance").then(|| {
        format!(
            "the frequency governor of the CPU is `{governor}`; with `performance` times \
             vary less"
        )
    })
}

/// Other processes that compute on a GPU, as `nvidia-smi` lists them.
fn processes_on_gpu(ordinal: &str) -> Option<String> {
    let output = Command::new("nvidia-smi")
        .args(["-i", ordinal, "--query-compute-apps=pid", "--format=csv,noheader"])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    // In a container the numbers are the host's, and this process has another one.
    let is_seen = |pid: u32| Path::new(&format!("/proc/{pid}")).exists();
    others(&String::from_utf8_lossy(&output.stdout), std::process::id(), is_seen)
}

fn others(listed: &str, own: u32, is_seen: impl Fn(u32) -> bool) -> Option<String> {
    let pids = listed.lines().filter_map(|line| line.trim().parse::<u32>().ok());
    let others: Vec<String> =
        pids.filter(|&pid| pid != own && is_seen(pid)).map(|pid| pid.to_string()).collect();
    (!others.is_empty()).then(|| {
        format!(
            "other processes use this GPU: {}; end them for times to trust",
            others.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_disturbs_is_a_sentence() {
        assert_eq!(load(0.03), None);
        assert!(load(0.48).unwrap().contains("48% of the CPU"));
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(governor(folder.path()), None);
        let set = |name: &str| {
            fs::write(folder.path().join("scaling_governor"), name).unwrap();
            governor(folder.path())
        };
        assert_eq!(set("performance\n"), None);
        assert!(set("powersave\n").unwrap().contains("`powersave`"));
        let seen = |pid| pid < 1000;
        assert_eq!(others("", 7, seen), None);
        assert_eq!(others("7\n", 7, seen), None);
        assert_eq!(others("4242\n", 7, seen), None);
        assert!(others("7\n812\n[N/A]\n", 7, seen).unwrap().contains(": 812;"));
    }
}
