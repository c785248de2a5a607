//! Where the threads run. One that moves to another core leaves its caches behind, and two
//! that meet on one core halve each other: both in the middle of a launch.

use std::fs;
use std::path::Path;

/// Ties every thread of the rayon pool to a CPU of its own, cores before the second
/// hyperthreads of cores, and says where they are or why they are not.
pub fn pin() -> String {
    match place(rayon::current_num_threads()) {
        Ok(places) => {
            let tied = rayon::broadcast(|context| tie_to(places[context.index()]));
            match tied.into_iter().find_map(Result::err) {
                None => format!("to CPUs {}", spelled(&places)),
                Some(why) => format!("no: {why}"),
            }
        }
        Err(why) => format!("no: {why}"),
    }
}

/// The CPUs for so many threads.
fn place(threads: usize) -> Result<Vec<usize>, String> {
    let allowed = allowed_cpus()?;
    if threads > allowed.len() {
        return Err(format!("{threads} threads share {} CPUs", allowed.len()));
    }
    let root = Path::new("/sys/devices/system/cpu");
    Ok(cores_first(allowed, |cpu| siblings(root, cpu)).into_iter().take(threads).collect())
}

/// The same CPUs, the first hyperthread of every core before the second of any.
fn cores_first(mut cpus: Vec<usize>, siblings: impl Fn(usize) -> Vec<usize>) -> Vec<usize> {
    let known = cpus.clone();
    cpus.sort_by_cached_key(|&cpu| {
        let before = |sibling: &usize| *sibling < cpu && known.contains(sibling);
        (siblings(cpu).iter().filter(|sibling| before(sibling)).count(), cpu)
    });
    cpus
}

/// The hyperthreads of the core that a CPU belongs to; none where the system is silent.
fn siblings(root: &Path, cpu: usize) -> Vec<usize> {
    let file = root.join(format!("cpu{cpu}/topology/thread_siblings_list"));
    fs::read_to_string(file).map_or_else(|_| Vec::new(), |text| cpu_list(text.trim()))
}

/// Reads `0-3,8`.
fn cpu_list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// Writes `0-3,8`.
fn spelled(cpus: &[usize]) -> String {
    let mut sorted = cpus.to_vec();
    sorted.sort_unstable();
    let runs = sorted.chunk_by(|a, b| a + 1 == *b);
    let text = |run: &[usize]| match run {
        [] => String::new(),
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
    };
    runs.map(text).collect::<Vec<_>>().join(",")
}

#[cfg(target_os = "linux")]
fn allowed_cpus() -> Result<Vec<usize>, String> {
    use rustix::thread::{CpuSet, sched_getaffinity};
    let set =
        sched_getaffinity(None).map_err(|e| format!("the system does not say: {e}"))?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

#[cfg(target_os = "linux")]
fn tie_to(cpu: usize) -> Result<(), String> {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|e| format!("CPU {cpu} was refused: {e}"))
}

#[cfg(not(target_os = "linux"))]
fn allowed_cpus() -> Result<Vec<usize>, String> {
    Err("this system ties no threads to CPUs".to_owned())
}

#[cfg(not(target_os = "linux"))]
fn tie_to(_: usize) -> Result<(), String> {
    allowed_cpus().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read_and_written() {
        assert_eq!(cpu_list("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(cpu_list(""), Vec::<usize>::new());
        assert_eq!(cpu_list("a,2-x,5"), [5]);
        assert_eq!(spelled(&[8, 0, 2, 1]), "0-2,8");
        assert_eq!(spelled(&[]), "");
    }

    #[test]
    fn every_core_gets_a_thread_before_one_gets_two() {
        // Two packages of two cores; neighbours share a core on the first, CPUs that are
        // four apart on others.
        let pairs = |cpu: usize| vec![cpu & !1, cpu | 1];
        assert_eq!(cores_first(vec![0, 1, 2, 3], pairs), [0, 2, 1, 3]);
        let apart = |cpu: usize| vec![cpu % 4, cpu % 4 + 4];
        assert_eq!(cores_first((0..8).collect(), apart), [0, 1, 2, 3, 4, 5, 6, 7]);
        // Where the first hyperthread of a core is not ours, the second is as good.
        assert_eq!(cores_first(vec![1, 2, 3], pairs), [1, 2, 3]);
        assert_eq!(cores_first(vec![5, 3], |_| Vec::new()), [3, 5]);
    }

    #[test]
    fn siblings_are_read() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("cpu1/topology");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("thread_siblings_list"), "1,5\n").unwrap();
        assert_eq!(siblings(root.path(), 1), [1, 5]);
        assert_eq!(siblings(root.path(), 2), Vec::<usize>::new());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn threads_stay_where_they_were_put() {
        let before = allowed_cpus().unwrap();
        let threads = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let said = threads.install(pin);
        assert_eq!(said, format!("to CPUs {}", before[0]));
        assert_eq!(threads.install(allowed_cpus).unwrap(), [before[0]]);
        assert_eq!(allowed_cpus().unwrap(), before);
    }

    #[test]
    fn more_threads_than_cpus_are_left_alone() {
        let many = allowed_cpus().map_or(1, |cpus| cpus.len() + 1);
        let why = place(many).unwrap_err();
        assert!(why.contains("share") || why.contains("system"), "{why}");
    }
}
