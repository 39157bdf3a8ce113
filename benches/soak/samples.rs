//! What the server processes hold, sample by sample, and whether it grew.

use std::time::{Duration, Instant};

/// The samples of one process.
pub struct Watched {
    name: &'static str,
    pid: u32,
    began: Instant,
    samples: Vec<(Duration, [u64; 3])>,
}

/// What is sampled, and how much more of it the second half of a run may have:
/// so many percent, or so much where that is more.
const KINDS: [(&str, u64, u64); 3] = [("RSS, KiB", 10, 16 * 1024), ("descriptors", 10, 32), ("threads", 0, 4)];

/// Share of a run that is left out: what is allocated once is allocated in it.
const WARM_UP: f64 = 0.1;

impl Watched {
    /// Watches a process that this run has started.
    pub fn new(name: &'static str, pid: u32) -> Self {
        Self { name, pid, began: Instant::now(), samples: Vec::new() }
    }

    /// Takes a sample.
    pub fn sample(&mut self) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("this is Linux, and it runs");
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel says it");
            line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
        };
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).expect("it is ours").count() as u64;
        self.samples.push((self.began.elapsed(), [number("VmRSS:"), descriptors, number("Threads:")]));
    }

    /// Prints each series; answers whether none has grown.
    pub fn report(&self) -> bool {
        let end = self.began.elapsed();
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for (at, values) in &self.samples {
            let share = at.as_secs_f64() / end.as_secs_f64();
            if share >= WARM_UP {
                if share < WARM_UP + (1.0 - WARM_UP) / 2.0 { first.push(*values) } else { second.push(*values) }
            }
        }
        let mut passed = !first.is_empty() && !second.is_empty();
        for (kind, (what, percent, least)) in KINDS.into_iter().enumerate() {
            let (before, after) = (median(&first, kind), median(&second, kind));
            let max = self.samples.iter().map(|(_, values)| values[kind]).max().unwrap_or(0);
            let allowed = before + (before * percent / 100).max(least);
            let verdict = if after <= allowed { "" } else { "  GREW" };
            println!(
                "{:26}{before} then {after}, max {max} (allowed {allowed}){verdict}",
                format!("{} {what}", self.name)
            );
            passed &= after <= allowed;
        }
        passed
    }
}

fn median(samples: &[[u64; 3]], kind: usize) -> u64 {
    let mut values: Vec<_> = samples.iter().map(|values| values[kind]).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}
