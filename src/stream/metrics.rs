//! Numbers of both ends of the control stream.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::fleet::Fleet;
use crate::fleet::member::State;
use crate::fleet::members::ProxyView;
use crate::telemetry::metrics::Metrics;

/// What the control plane counts.
#[derive(Clone, Default, Debug)]
pub struct ServerMetrics {
    pub(super) streams: Gauge,
    pub(super) snapshots: Counter,
    pub(super) deltas: Counter,
    pub(super) refused: Counter,
    pub(super) diverged: Counter,
    pub(super) turned_away: Counter,
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
            registry.register(
                "diverged",
                "Times a proxy's table did not add up to the store's digest: an alarm",
                own.diverged.clone(),
            );
            registry.register(
                "turned_away",
                "Introductions put off because too many came at a time",
                own.turned_away.clone(),
            );
        });
        own
    }
}

/// Shows on `metrics` how many members there are, and what is the matter with them.
pub fn register_members(metrics: &Metrics, fleet: &Fleet) {
    let members = MemberMetrics(fleet.clone());
    metrics.register(|registry| registry.register_collector(Box::new(members)));
}

/// Looked up when it is asked for: states change by silence, which rings no bell.
#[derive(Debug)]
struct MemberMetrics(Fleet);

impl Collector for MemberMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let proxies = self.0.proxies();
        let count = |is: &dyn Fn(&ProxyView) -> bool| proxies.iter().filter(|proxy| is(proxy)).count() as u64;
        let help = "Runs of proxies that are remembered, by how much is known";
        let mut family = encoder.encode_descriptor("fleet_members", help, None, MetricType::Gauge)?;
        for state in [State::Live, State::Suspect, State::Gone] {
            let labels = [("state", state.as_str())];
            family.encode_family(&labels)?.encode_gauge(&count(&|proxy| proxy.state == state))?;
        }
        let applied = proxies.iter().filter(|proxy| proxy.state != State::Gone).map(|proxy| proxy.applied_revision);
        let last = applied.map(|revision| revision.map_or(0, |revision| revision.0)).min().unwrap_or(0);
        let help = "The oldest revision that a live or suspect proxy serves; 0 where one has none";
        encoder.encode_descriptor("fleet_applied_revision_min", help, None, MetricType::Gauge)?.encode_gauge(&last)?;
        let mut gauge = |name, help, is: &dyn Fn(&ProxyView) -> bool| {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&count(is))
        };
        gauge("fleet_members_refusing", "Runs of proxies that refuse a change", &|proxy| proxy.refused.is_some())?;
        gauge("fleet_members_ahead", "Runs of proxies that have changes which the store lacks", &|proxy| proxy.ahead)
    }
}

impl ClientMetrics {
    /// When the control plane was last heard, in seconds since 1970; `None`
    /// before the first time.
    pub fn heard_at(&self) -> Option<i64> {
        Some(self.heard.get()).filter(|at| *at > 0)
    }

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
