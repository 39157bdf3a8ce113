//! Numbers of both ends of the control stream.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::metrics::Metrics;

/// What the control plane counts.
#[derive(Clone, Default, Debug)]
pub struct ServerMetrics {
    pub(super) streams: Gauge,
    pub(super) snapshots: Counter,
    pub(super) deltas: Counter,
    pub(super) refused: Counter,
}

/// What a proxy counts.
#[derive(Clone, Default, Debug)]
pub struct ClientMetrics {
    pub(super) connected: Gauge,
    pub(super) applied_revision: Gauge,
    pub(super) head_revision: Gauge,
    pub(super) heard: Gauge,
    pub(super) connects: Counter,
    pub(super) snapshots: Counter,
    pub(super) deltas: Counter,
    pub(super) refused: Counter,
}

impl ServerMetrics {
    /// Counts that are on `metrics`.
    pub fn registered(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("stream_server");
            registry.register("streams", "Control streams that are open", own.streams.clone());
            registry.register("snapshots", "Snapshots sent", own.snapshots.clone());
            registry.register("deltas", "Deltas sent", own.deltas.clone());
            registry.register("refused", "Frames that a proxy refused", own.refused.clone());
        });
        own
    }
}

impl ClientMetrics {
    /// Counts that are on `metrics`.
    pub fn registered(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("stream_client");
            registry.register("connected", "1 while the control stream is up", own.connected.clone());
            registry.register("applied_revision", "Revision of the routing table", own.applied_revision.clone());
            registry.register(
                "head_revision",
                "Revision the control plane was at when last heard",
                own.head_revision.clone(),
            );
            // Staleness is `time()` minus this, and needs nothing to run here to grow.
            registry.register("heard_timestamp_seconds", "When the control plane was last heard", own.heard.clone());
            registry.register("connects", "Control streams opened", own.connects.clone());
            registry.register("snapshots", "Snapshots applied", own.snapshots.clone());
            registry.register("deltas", "Deltas applied", own.deltas.clone());
            registry.register("refused", "Frames refused", own.refused.clone());
        });
        own
    }
}
