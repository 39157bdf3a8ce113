//! Descriptors, memory and the loopback device, as the kernel counts them.

use std::fs;

use rustix::process::{Resource, getrlimit};

use crate::machine;

/// As many descriptors as that; a line that says what to do where there are fewer.
pub fn require_descriptors(count: usize) -> Result<(), String> {
    machine::raise_descriptors();
    match getrlimit(Resource::Nofile).current {
        Some(have) if have < count as u64 => Err(format!(
            "{count} open files are needed in one process, and {have} are allowed: raise the limit (ulimit -Hn) or ask \
             for fewer proxies"
        )),
        _ => Ok(()),
    }
}

/// Bytes of memory that a process has in use.
pub fn memory_of(pid: u32) -> u64 {
    status_of(pid, "VmRSS:")
}

/// The most there were of it.
pub fn memory_peak_of(pid: u32) -> u64 {
    status_of(pid, "VmHWM:")
}

/// Begins the peak anew: it is what is in use now.
pub fn reset_memory_peak_of(pid: u32) -> Result<(), String> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").map_err(|error| format!("begin the memory peak anew: {error}"))
}

/// Bytes that went over loopback since the machine started.
pub fn loopback_bytes() -> u64 {
    let devices = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let line = devices.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn status_of(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1_024
}
