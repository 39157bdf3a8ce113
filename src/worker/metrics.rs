//! What the supervisor counts.

use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::metrics::Metrics as Registry;

/// The supervisor's metrics. Cloning shares.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    /// Pools and replicas whose `max_drain` is over and that cannot be stopped.
    pub stops_blocked: Gauge,
}

impl Metrics {
    pub fn register(registry: &Registry) -> Self {
        let metrics = Self { stops_blocked: Gauge::default() };
        registry.register(|registry| {
            registry.register(
                "worker_stops_blocked",
                "Pools and draining replicas whose max_drain is over and that a proxy keeps from being stopped",
                metrics.stops_blocked.clone(),
            );
        });
        metrics
    }
}
