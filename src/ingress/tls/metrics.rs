//! Numbers of the certificates that are served, and of reading them again.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::ingress::tls::Served;
use crate::telemetry::metrics::Metrics;

/// Certificates that have a series: those that end first. Settings may name
/// thousands, and nobody looks at more.
const SERIES_MAX: usize = 100;

/// What came of reading files.
pub(super) struct Reloads {
    done: Counter,
    failed: Counter,
    unusable: Gauge,
    served: Arc<Served>,
}

impl Reloads {
    pub(super) fn new(served: Arc<Served>) -> Self {
        Self { done: Counter::default(), failed: Counter::default(), unusable: Gauge::default(), served }
    }

    pub(super) fn register(&self, metrics: &Metrics) {
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("ingress_tls");
            registry.register("reloads", "Times that changed certificates were taken up", self.done.clone());
            let help = "Files of certificates that could not be read, once for each change and request";
            registry.register("reload_failures", help, self.failed.clone());
            let help = "Files of certificates that cannot be read now; what was served before is served on";
            registry.register("files_unusable", help, self.unusable.clone());
            registry.register_collector(Box::new(Ends(Arc::clone(&self.served))));
        });
    }

    /// Something new is served.
    pub(super) fn done(&self) {
        self.done.inc();
    }

    /// So much is wrong, and so much of it is new.
    pub(super) fn failed(&self, (wrong, new): (usize, usize)) {
        self.unusable.set(i64::try_from(wrong).unwrap_or(i64::MAX));
        self.failed.inc_by(new as u64);
    }
}

/// When certificates end, looked up when it is asked for.
#[derive(Debug)]
struct Ends(Arc<Served>);

impl Collector for Ends {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let certificates = self.0.now();
        let all = certificates.all.iter().map(|certificate| (certificate.path.as_path(), certificate));
        // By file: settings that name one twice make one series of it.
        let by_file: BTreeMap<&Path, _> = all.collect();
        let mut ends: Vec<(Timestamp, &Path)> =
            by_file.into_iter().map(|(path, certificate)| (certificate.validity.not_after, path)).collect();
        ends.sort_unstable();
        let help = "Certificates that are served";
        encoder.encode_descriptor("certificates", help, None, MetricType::Gauge)?.encode_gauge(&(ends.len() as u64))?;
        let help = "Until when a certificate is good; the hundred that end first";
        let name = "certificate_not_after_timestamp_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (not_after, path) in ends.into_iter().take(SERIES_MAX) {
            let labels = [("certificate", path.display().to_string())];
            family.encode_family(&labels)?.encode_gauge(&not_after.as_second())?;
        }
        Ok(())
    }
}
