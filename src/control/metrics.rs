//! What the control plane counts.
//!
//! Labels are enums of the model and the API: the number of series does not grow
//! with projects or environments.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::rest::error::ErrorCode;
use crate::telemetry::metrics::Metrics as Registry;

/// The control plane's metrics. Cloning shares.
#[derive(Clone)]
pub(super) struct Metrics {
    refusals: Family<Refusal, Counter>,
    applied: Histogram,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Refusal {
    code: &'static str,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Self {
        // 1 ms to 32 s: a loopback proxy applies in one or two, a far fleet in hundreds.
        let metrics =
            Self { refusals: Family::default(), applied: Histogram::new(exponential_buckets(0.001, 2.0, 16)) };
        registry.register(|registry| {
            registry.register(
                "api_refusals",
                "Requests that the API answered with an error, by its code",
                metrics.refusals.clone(),
            );
            registry.register(
                "promotion_applied_seconds",
                "From the commit of a move to its being applied by every required proxy",
                metrics.applied.clone(),
            );
        });
        metrics
    }

    pub(super) fn refused(&self, code: ErrorCode) {
        self.refusals.get_or_create(&Refusal { code: code.as_str() }).inc();
    }

    pub(super) fn applied(&self, after: Duration) {
        self.applied.observe(after.as_secs_f64());
    }
}
