//! Counters of the ingress: plain ones per core, summed when scraped.
//!
//! Each core writes its own cache lines with a load and a store; nothing on the
//! request path is shared. Labels come from enums, and there is no series per
//! environment. Knows nothing of how numbers are served.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::ingress::access_log::Dropped;
use crate::ingress::error::Code;

/// A number that only one thread writes.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub(super) fn one(&self) {
        self.add(1);
    }

    /// Counts `more`. Not `fetch_add`: with a single writer a load and a store
    /// are enough, and cost a tenth.
    pub(super) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// Takes one off, for gauges.
    pub(super) fn less(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one core counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counters {
    /// Answers by status class: 1xx to 5xx, then none (the client left).
    pub(super) requests: [Counter; CLASSES.len()],
    /// Requests that ended badly, by reason.
    pub(super) errors: [Counter; Code::ALL.len()],
    /// Requests that have no complete answer yet.
    pub(super) in_flight: Counter,
    /// Open client connections.
    pub(super) connections: Counter,
    /// Client connections ever accepted.
    pub(super) accepted: Counter,
    /// TLS handshakes that came to their end.
    pub(super) handshakes: Counter,
    /// TLS handshakes that did not, by reason.
    pub(super) handshake_failures: [Counter; HANDSHAKE_FAILURES.len()],
    /// Client connections answered 503 at the limit.
    pub(super) refused: Counter,
    /// Connections opened to replicas.
    pub(super) upstream_connects: Counter,
    /// Connections to replicas that could not be opened.
    pub(super) upstream_connect_failures: Counter,
    /// Requests sent on a kept connection.
    pub(super) upstream_reuses: Counter,
    /// Requests sent again.
    pub(super) retries: Counter,
    /// Bytes of request bodies and what tunnels carried to replicas.
    pub(super) received: Counter,
    /// Bytes of response bodies and what tunnels carried to clients.
    pub(super) sent: Counter,
    /// Open tunnels.
    pub(super) tunnels: Counter,
    /// From a request's head to the last byte of its answer.
    pub(super) durations: Durations,
}

/// Why a TLS handshake came to nothing; the label is at its place in
/// [`HANDSHAKE_FAILURES`].
#[derive(Clone, Copy, Debug)]
pub(super) enum HandshakeFailure {
    Timeout,
    Draining,
    Closed,
    PlainHttp,
    Protocol,
    Alert,
    UnrecognizedName,
    ClientCertificate,
    Overloaded,
}

const HANDSHAKE_FAILURES: [&str; 9] = [
    "timeout",
    "draining",
    "closed",
    "plain_http",
    "protocol",
    "alert",
    "unrecognized_name",
    "client_certificate",
    "overloaded",
];

const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

impl Counters {
    /// Counts an answer by its status; `None`: the client left before there was one.
    pub(super) fn answered(&self, status: Option<u16>) {
        let class = status.map_or(CLASSES.len(), |status| usize::from(status / 100));
        if let Some(counter) = self.requests.get(class.wrapping_sub(1)) {
            counter.one();
        }
    }
}

/// A histogram of durations.
#[derive(Debug, Default)]
pub(super) struct Durations {
    buckets: [Counter; BOUNDS_MS.len() + 1],
    sum_us: Counter,
}

/// Upper bounds in milliseconds. From what a cache hit takes to an agent run of
/// five minutes; what is longer shares the last bucket.
const BOUNDS_MS: [u64; 14] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000, 30_000, 120_000, 300_000];

impl Durations {
    /// Counts one.
    pub(super) fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MS.iter().position(|bound| us <= bound * 1_000).unwrap_or(BOUNDS_MS.len());
        self.buckets[bucket].one();
        self.sum_us.add(us);
    }
}

/// Sums what the cores counted, at scrape.
#[derive(Debug)]
pub(super) struct Summed {
    pub(super) cores: Vec<Arc<Counters>>,
    pub(super) dropped: Dropped,
}

impl Collector for Summed {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let e = &mut encoder;
        self.labelled(e, "ingress_requests", "Requests by status class", ("class", &CLASSES), |c| &c.requests)?;
        let codes = Code::ALL.map(Code::as_str);
        self.labelled(e, "ingress_errors", "Requests that ended badly, by reason", ("code", &codes), |c| &c.errors)?;
        self.gauge(e, "ingress_requests_in_flight", "Requests without a complete answer", |c| &c.in_flight)?;
        self.gauge(e, "ingress_connections", "Open client connections", |c| &c.connections)?;
        self.gauge(e, "ingress_tunnels", "Open tunnels", |c| &c.tunnels)?;
        self.counter(e, "ingress_connections_accepted", "Client connections accepted", |c| &c.accepted)?;
        self.counter(e, "ingress_connections_refused", "Client connections over the limit", |c| &c.refused)?;
        self.counter(e, "ingress_tls_handshakes", "TLS handshakes completed", |c| &c.handshakes)?;
        let reasons = ("reason", &HANDSHAKE_FAILURES);
        let help = "TLS handshakes that failed, by reason";
        self.labelled(e, "ingress_tls_handshake_failures", help, reasons, |c| &c.handshake_failures)?;
        self.counter(e, "ingress_upstream_connects", "Connections opened to replicas", |c| &c.upstream_connects)?;
        let help = "Connections to replicas that failed to open";
        self.counter(e, "ingress_upstream_connect_failures", help, |c| &c.upstream_connect_failures)?;
        self.counter(e, "ingress_upstream_reuses", "Requests sent on kept connections", |c| &c.upstream_reuses)?;
        self.counter(e, "ingress_retries", "Requests sent again", |c| &c.retries)?;
        self.counter(e, "ingress_received_bytes", "Bytes of request bodies and tunnels", |c| &c.received)?;
        self.counter(e, "ingress_sent_bytes", "Bytes of response bodies and tunnels", |c| &c.sent)?;
        let help = "Access-log lines dropped because the writer was behind";
        let mut metric = e.encode_descriptor("ingress_access_log_dropped", help, None, MetricType::Counter)?;
        count(&mut metric, self.dropped.lines())?;
        self.durations(e)
    }
}

impl Summed {
    fn sum(&self, of: impl Fn(&Counters) -> &Counter) -> u64 {
        self.cores.iter().map(|core| of(core).value()).fold(0, u64::wrapping_add)
    }

    fn counter(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        of: impl Fn(&Counters) -> &Counter,
    ) -> fmt::Result {
        count(&mut encoder.encode_descriptor(name, help, None, MetricType::Counter)?, self.sum(of))
    }

    fn gauge(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        of: impl Fn(&Counters) -> &Counter,
    ) -> fmt::Result {
        encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&self.sum(of))
    }

    fn labelled<const N: usize>(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        (label, values): (&str, &[&str; N]),
        of: impl Fn(&Counters) -> &[Counter; N],
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (index, value) in values.iter().enumerate() {
            count(&mut metric.encode_family(&[(label, *value)])?, self.sum(|core| &of(core)[index]))?;
        }
        Ok(())
    }

    fn durations(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let bounds = BOUNDS_MS.iter().map(|ms| Duration::from_millis(*ms).as_secs_f64()).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> =
            bounds.enumerate().map(|(at, bound)| (bound, self.sum(|core| &core.durations.buckets[at]))).collect();
        let total = buckets.iter().map(|(_, count)| count).sum();
        let seconds = Duration::from_micros(self.sum(|core| &core.durations.sum_us)).as_secs_f64();
        let help = "From a request's head to the last byte of its answer";
        let name = "ingress_request_duration_seconds";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(seconds, total, &buckets, None)
    }
}

fn count(metric: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
    metric.encode_counter::<NoLabelSet, u64, u64>(&value, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn a_scrape_sums_what_the_cores_counted() {
        let cores = vec![Arc::new(Counters::default()), Arc::new(Counters::default())];
        cores[0].answered(Some(200));
        cores[1].answered(Some(204));
        cores[1].answered(None);
        cores[1].errors[Code::ConnectFailed as usize].one();
        cores[0].in_flight.one();
        cores[0].durations.observe(Duration::from_millis(7));
        cores[1].durations.observe(Duration::from_secs(3_600));
        let metrics = Metrics::default();
        let summed = Summed { cores, dropped: Dropped::default() };
        metrics.register(|registry| registry.register_collector(Box::new(summed)));
        let text = metrics.text().unwrap();
        for line in [
            "repoint_ingress_requests_total{class=\"2xx\"} 2",
            "repoint_ingress_requests_total{class=\"none\"} 1",
            "repoint_ingress_errors_total{code=\"connect_failed\"} 1",
            "repoint_ingress_requests_in_flight 1",
            "repoint_ingress_request_duration_seconds_count 2",
            "repoint_ingress_request_duration_seconds_bucket{le=\"0.01\"} 1",
            "repoint_ingress_request_duration_seconds_bucket{le=\"+Inf\"} 2",
            "repoint_ingress_access_log_dropped_total 0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn gauges_go_down_again() {
        let counter = Counter::default();
        counter.one();
        counter.less();
        assert_eq!(counter.value(), 0);
    }
}
