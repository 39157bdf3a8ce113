//! Durations: histograms with one set of bounds, kept per core.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{MetricEncoder, NoLabelSet};

use crate::ingress::metrics::Counter;

/// A histogram of durations.
#[derive(Debug, Default)]
pub(in crate::ingress) struct Durations {
    buckets: [Counter; BOUNDS_MS.len() + 1],
    sum_us: Counter,
}

/// Upper bounds in milliseconds. From what a cache hit takes to an agent run of
/// five minutes; what is longer shares the last bucket.
const BOUNDS_MS: [u64; 14] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000, 30_000, 120_000, 300_000];

impl Durations {
    /// Counts one.
    pub(in crate::ingress) fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MS.iter().position(|bound| us <= bound * 1_000).unwrap_or(BOUNDS_MS.len());
        self.buckets[bucket].one();
        self.sum_us.add(us);
    }
}

/// Writes the sum of some histograms.
pub(super) fn encode<'d>(
    metric: &mut MetricEncoder<'_>,
    cores: &(impl Iterator<Item = &'d Durations> + Clone),
) -> fmt::Result {
    let sum = |of: &dyn Fn(&Durations) -> u64| cores.clone().map(of).fold(0, u64::wrapping_add);
    let bounds = BOUNDS_MS.iter().map(|ms| Duration::from_millis(*ms).as_secs_f64()).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> =
        bounds.enumerate().map(|(at, bound)| (bound, sum(&|durations| durations.buckets[at].value()))).collect();
    let total = buckets.iter().map(|(_, count)| count).sum();
    let seconds = Duration::from_micros(sum(&|durations| durations.sum_us.value())).as_secs_f64();
    metric.encode_histogram::<NoLabelSet>(seconds, total, &buckets, None)
}
