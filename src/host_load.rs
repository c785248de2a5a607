//! How much of the host's CPU time went to others while a point was measured:
//! the first thing to suspect when two campaigns of one machine differ.

use std::fs;
use std::thread::{Builder, JoinHandle};

/// Counters of the host and of this process, in clock ticks since boot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HostLoad {
    /// All ticks of all CPUs, idle ones too.
    total: u64,
    /// Ticks that were not idle, or that the hypervisor took.
    busy: u64,
    /// Ticks of this process with its threads.
    own: u64,
}

/// Counters that were asked for.
#[derive(Debug)]
pub enum AskedLoad {
    /// They are there.
    Known(Option<HostLoad>),
    /// The thread that reads them.
    Asked(JoinHandle<Option<HostLoad>>),
}

impl AskedLoad {
    /// The counters, after waiting for them; `None` where the system has none.
    pub fn wait(self) -> Option<HostLoad> {
        match self {
            AskedLoad::Known(load) => load,
            AskedLoad::Asked(thread) => thread.join().ok().flatten(),
        }
    }
}

/// Ticks below which one more or less is several percent.
const FEWEST_TICKS: u64 = 40;

impl HostLoad {
    /// Reads the counters; `None` where the system has none.
    pub fn now() -> Option<Self> {
        parse(
            &fs::read_to_string("/proc/stat").ok()?,
            &fs::read_to_string("/proc/self/stat").ok()?,
        )
    }

    /// Asks for the counters without waiting for them: a host of many CPUs takes
    /// milliseconds to add them up.
    pub fn ask() -> AskedLoad {
        let asked = Builder::new().name("host load".to_owned()).spawn(HostLoad::now);
        asked.map_or_else(|_| AskedLoad::Known(HostLoad::now()), AskedLoad::Asked)
    }

    /// Share of all CPU time since `earlier` that others had. `None` when the counters
    /// have moved too little to tell a share of a few percent.
    pub fn others_since(&self, earlier: &HostLoad) -> Option<f64> {
        let total = self.total.checked_sub(earlier.total);
        let total = total.filter(|&ticks| ticks >= FEWEST_TICKS)?;
        let busy = self.busy.checked_sub(earlier.busy)?;
        let own = self.own.checked_sub(earlier.own)?;
        Some(busy.saturating_sub(own) as f64 / total as f64)
    }
}

/// The first line of `/proc/stat` is `cpu user nice system idle iowait irq
/// softirq steal guest guest_nice`; guest time is in user time already. Fields
/// 14 and 15 of `/proc/self/stat` are the process's user and system time,
/// counted after the name in parentheses, which may hold spaces (proc(5)).
fn parse(stat: &str, own: &str) -> Option<HostLoad> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let ticks: Vec<u64> = numbers.take(8).map_while(|n| n.parse().ok()).collect();
    let [user, nice, system, idle, iowait, irq, softirq, steal] = ticks[..] else {
        return None;
    };
    let (_, after_name) = own.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11).map_while(|n| n.parse().ok());
    let busy = user + nice + system + irq + softirq + steal;
    Some(HostLoad {
        total: busy + idle + iowait,
        busy,
        own: fields
            .next()
            .zip(fields.next())
            .map(|(user, system): (u64, u64)| user + system)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 0 50 800 10 5 5 30 7 0\ncpu0 1 2 3\n";
    const OWN: &str = "1 (a ) b) S 1 1 1 0 -1 0 0 0 0 0 60 20 0 0 20 0 1 0 5 0 0";

    #[test]
    fn counters_are_read_where_proc_has_them() {
        assert_eq!(parse(STAT, OWN), Some(HostLoad { total: 1000, busy: 190, own: 80 }));
        assert_eq!(parse("cpu  1 2", OWN), None);
        assert_eq!(parse(STAT, "1 (x) S"), None);
        assert_eq!(parse("", ""), None);
    }

    #[test]
    fn counters_that_were_asked_for_are_those_of_that_time() {
        let asked = HostLoad::ask();
        let known = AskedLoad::Known(HostLoad::now());
        let (asked, known) = (asked.wait(), known.wait());
        assert_eq!(asked.is_some(), known.is_some());
        if let (Some(asked), Some(known)) = (asked, known) {
            assert!(asked.total.abs_diff(known.total) < 1000, "{asked:?} {known:?}");
        }
    }

    #[test]
    fn others_have_what_is_busy_and_not_ours() {
        let earlier = HostLoad { total: 1000, busy: 190, own: 80 };
        let later = HostLoad { total: 1200, busy: 340, own: 180 };
        assert_eq!(later.others_since(&earlier), Some(0.25));
        assert_eq!(earlier.others_since(&earlier), None);
        assert_eq!(earlier.others_since(&later), None);
    }
}
