//! Cores, descriptors, and the processor time and memory of processes.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Where proxies run.
pub const PROXY_CORE: usize = 0;
/// Where load and replicas run.
pub const LOAD_CORE: usize = 1;

/// Ties this thread, and what it starts from here on, to a core.
pub fn pin_to(core: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).map_err(|error| format!("tie a thread to core {core}: {error}; two cores are needed"))
}

/// As many descriptors as the system lets us have.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Best effort: who needs more than there are says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Nanoseconds that a process, its threads and its descendants have run (`schedstat`, proc(5)).
pub fn cpu_of(pid: u32) -> u64 {
    family(pid).into_iter().flat_map(threads).filter_map(|path| nanoseconds(&path)).sum()
}

/// Bytes of anonymous memory of a process and its descendants, shared pages by their share (`smaps_rollup`, proc(5)).
/// Not the pages of its binary, which come in as code is run, nor what the kernel keeps for its sockets.
pub fn memory_of(pid: u32) -> u64 {
    let anonymous = |pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss_Anon:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    family(pid).into_iter().filter_map(anonymous).sum::<u64>() * 1024
}

fn nanoseconds(schedstat: &str) -> Option<u64> {
    fs::read_to_string(schedstat).ok()?.split_whitespace().next()?.parse().ok()
}

fn threads(pid: u32) -> Vec<String> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks.flatten().map(|task| format!("{}/schedstat", task.path().display())).collect()
}

fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while at < all.len() {
        let pid = all[at];
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        at += 1;
    }
    all
}
