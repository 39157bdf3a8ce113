//! Numbers of what is kept on disk.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::metrics::Metrics;

/// What a proxy that keeps its table counts.
#[derive(Clone, Default, Debug)]
pub struct DiskMetrics {
    pub(super) durable_revision: Gauge,
    pub(super) journal_bytes: Gauge,
    pub(super) checkpoints: Counter,
    pub(super) failures: Counter,
    pub(super) failing: Gauge,
    pub(super) load_seconds: Gauge<f64, AtomicU64>,
}

impl DiskMetrics {
    /// Counts that are on `metrics`.
    pub fn registered(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("last_known_good");
            registry.register(
                "durable_revision",
                "Revision that a restart would begin with",
                own.durable_revision.clone(),
            );
            registry.register("journal_bytes", "Size of the journal", own.journal_bytes.clone());
            registry.register("checkpoints", "Checkpoints written to shorten the journal", own.checkpoints.clone());
            registry.register("failures", "Attempts to keep the table on disk that failed", own.failures.clone());
            registry.register("failing", "1 while changes are applied and not kept on disk", own.failing.clone());
            registry.register("load_seconds", "Time it took to load the table at start", own.load_seconds.clone());
        });
        own
    }
}
