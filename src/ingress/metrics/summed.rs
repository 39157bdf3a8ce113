//! The sum of what the cores counted, made when somebody scrapes.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::ingress::access_log::Dropped;
use crate::ingress::error::Code;
use crate::ingress::metrics::{CLASSES, Counter, Counters, HANDSHAKE_FAILURES, PROXY_HEADER_FAILURES, durations};

/// Sums what the cores counted, at scrape.
#[derive(Debug)]
pub(in crate::ingress) struct Summed {
    pub(in crate::ingress) cores: Vec<Arc<Counters>>,
    pub(in crate::ingress) dropped: Dropped,
}

impl Collector for Summed {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let e = &mut encoder;
        self.labelled(e, "ingress_requests", "Requests by status class", ("class", &CLASSES), |c| &c.requests)?;
        let codes = Code::ALL.map(Code::as_str);
        self.labelled(e, "ingress_errors", "Requests that ended badly, by reason", ("code", &codes), |c| &c.errors)?;
        self.gauge(e, "ingress_requests_in_flight", "Requests without a complete answer", |c| &c.in_flight)?;
        self.gauge(e, "ingress_requests_queued", "Requests that wait for a replica with room", |c| &c.queued)?;
        self.gauge(e, "ingress_connections", "Open client connections", |c| &c.connections)?;
        self.gauge(e, "ingress_tunnels", "Open tunnels", |c| &c.tunnels)?;
        self.counter(e, "ingress_connections_accepted", "Client connections accepted", |c| &c.accepted)?;
        self.counter(e, "ingress_connections_refused", "Client connections over the limit", |c| &c.refused)?;
        self.counter(e, "ingress_tls_handshakes", "TLS handshakes completed", |c| &c.handshakes)?;
        let reasons = ("reason", &HANDSHAKE_FAILURES);
        let help = "TLS handshakes that failed, by reason";
        self.labelled(e, "ingress_tls_handshake_failures", help, reasons, |c| &c.handshake_failures)?;
        let reasons = ("reason", &PROXY_HEADER_FAILURES);
        let help = "Connections closed for want of a PROXY header, by reason";
        self.labelled(e, "ingress_proxy_header_failures", help, reasons, |c| &c.proxy_header_failures)?;
        self.counter(e, "ingress_upstream_connects", "Connections opened to replicas", |c| &c.upstream_connects)?;
        let help = "Connections to replicas that failed to open";
        self.counter(e, "ingress_upstream_connect_failures", help, |c| &c.upstream_connect_failures)?;
        self.counter(e, "ingress_upstream_reuses", "Requests sent on kept connections", |c| &c.upstream_reuses)?;
        self.counter(e, "ingress_retries", "Requests sent again", |c| &c.retries)?;
        let help = "Requests not sent again because too many were";
        self.counter(e, "ingress_retries_refused", help, |c| &c.retries_refused)?;
        let help = "Times a replica was left out because connections to it failed, per thread";
        self.counter(e, "ingress_upstream_ejections", help, |c| &c.ejections)?;
        let help = "Replicas that are left out because connections to them failed, per thread";
        self.gauge(e, "ingress_upstream_ejected", help, |c| &c.ejected)?;
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
        let help = "From a request's head to the last byte of its answer, by status class";
        let name = "ingress_request_duration_seconds";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (index, class) in CLASSES.iter().enumerate() {
            let cores = self.cores.iter().map(|core| &core.durations[index]);
            durations::encode(&mut metric.encode_family(&[("class", *class)])?, &cores)?;
        }
        let help = "From a request's head to the head of its answer";
        let mut metric =
            encoder.encode_descriptor("ingress_answer_start_seconds", help, None, MetricType::Histogram)?;
        durations::encode(&mut metric, &self.cores.iter().map(|core| &core.answer_starts))
    }
}

pub(super) fn count(metric: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
    metric.encode_counter::<NoLabelSet, u64, u64>(&value, None)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ingress::metrics::class;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn a_scrape_sums_what_the_cores_counted() {
        let cores = vec![Arc::new(Counters::default()), Arc::new(Counters::default())];
        for (core, status) in [(0, Some(200)), (1, Some(204)), (1, None)] {
            cores[core].requests[class(status)].one();
        }
        cores[1].errors[Code::ConnectFailed as usize].one();
        cores[0].in_flight.one();
        cores[0].durations[class(Some(200))].observe(Duration::from_millis(7));
        cores[1].durations[class(Some(200))].observe(Duration::from_secs(3_600));
        let metrics = Metrics::default();
        let summed = Summed { cores, dropped: Dropped::default() };
        metrics.register(|registry| registry.register_collector(Box::new(summed)));
        let text = metrics.text().unwrap();
        for line in [
            "repoint_ingress_requests_total{class=\"2xx\"} 2",
            "repoint_ingress_requests_total{class=\"none\"} 1",
            "repoint_ingress_errors_total{code=\"connect_failed\"} 1",
            "repoint_ingress_requests_in_flight 1",
            "repoint_ingress_request_duration_seconds_count{class=\"2xx\"} 2",
            "repoint_ingress_request_duration_seconds_bucket{le=\"0.01\",class=\"2xx\"} 1",
            "repoint_ingress_request_duration_seconds_bucket{le=\"+Inf\",class=\"2xx\"} 2",
            "repoint_ingress_access_log_dropped_total 0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
    }
}
