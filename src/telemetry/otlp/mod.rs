//! Spans on their way to an OpenTelemetry collector (OTLP over gRPC, plaintext).
//!
//! Owns the queue, the batches and a thread with a runtime of its own, so that a
//! collector that is slow or dead costs those who make spans a full queue, which
//! drops and counts. Knows nothing of what a span says: whoever makes one hands
//! in what can become it, and the thread does the rest.

pub mod message;

use std::sync::{Mutex, mpsc as sync_mpsc};
use std::time::Duration;

use http::uri::PathAndQuery;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, oneshot};
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::telemetry::metrics::Metrics;
use crate::telemetry::otlp::message::{
    ExportRequest, ExportResponse, KeyValue, Resource, ResourceSpans, Scope, ScopeSpans, Span,
};

/// Where spans go.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// The collector: `http://host:4317`.
    pub endpoint: String,
    /// Facts about this process: `service.name` and others, by name.
    pub resource: Vec<(String, String)>,
    /// Spans that may wait; further ones are dropped and counted. 8,192: some
    /// seconds' worth, and some 5 MB at usual lengths.
    pub queue_max: usize,
}

/// Why spans cannot be exported. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No place that could be reached.
    #[error(
        "send spans to {0:?}: give --otlp-endpoint or OTEL_EXPORTER_OTLP_ENDPOINT a collector's gRPC address as \
         http://127.0.0.1:4317, or off; TLS is not spoken there"
    )]
    Endpoint(String),
    /// There are no threads or descriptors left.
    #[error("start the thread that sends spans")]
    Thread(#[source] std::io::Error),
}

/// Spans in one message.
const BATCH_MAX: usize = 512;
/// How long a span waits for others.
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// Longest wait for a collector's answer: OTLP exporters' default.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the last spans when the process stops.
const LAST_TIMEOUT: Duration = Duration::from_secs(2);
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Where what becomes a span is handed in. Cloning shares.
pub struct Queue<T> {
    sender: mpsc::Sender<T>,
    dropped: Counter,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), dropped: self.dropped.clone() }
    }
}

impl<T> Queue<T> {
    /// Hands it in, or drops and counts it. Never waits.
    pub fn push(&self, what: T) {
        if self.sender.try_send(what).is_err() {
            self.dropped.inc();
        }
    }
}

/// The thread that sends. Dropping it sends what waits, for two seconds at most.
pub struct Exporting {
    stop: Option<oneshot::Sender<()>>,
    /// Locked by nobody: so that a reference to this may be sent to other threads.
    done: Mutex<sync_mpsc::Receiver<()>>,
}

impl Drop for Exporting {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Whether it was done in time or not: the process ends.
        let _ = self.done.get_mut().map(|done| done.recv_timeout(LAST_TIMEOUT));
    }
}

/// Looks whether a collector could be there; nothing is sent.
///
/// # Errors
///
/// When this is no address of one.
pub fn check(endpoint: &str) -> Result<(), Error> {
    read(endpoint).map(drop)
}

/// Starts the thread that sends; counts on `metrics`.
///
/// # Errors
///
/// When the endpoint is none, or there is no thread for it.
pub fn start<T>(config: Config, metrics: &Metrics) -> Result<(Queue<T>, Exporting), Error>
where
    T: Into<Span> + Send + 'static,
{
    let endpoint = read(&config.endpoint)?;
    let counts = Counts::registered(metrics);
    let (sender, receiver) = mpsc::channel(config.queue_max.max(1));
    let (stop, stopped) = oneshot::channel();
    let (finished, done) = sync_mpsc::channel();
    let queue = Queue { sender, dropped: counts.dropped.clone() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
    let run = move || {
        runtime.block_on(async {
            // Connects with the first batch, and again whenever it has to.
            let collector = Collector { config, channel: endpoint.connect_lazy(), counts, is_failing: false };
            collector.run(receiver, stopped).await;
        });
        // Nobody waits where the process did not end in order.
        let _ = finished.send(());
    };
    std::thread::Builder::new().name("otlp".to_owned()).spawn(run).map_err(Error::Thread)?;
    Ok((queue, Exporting { stop: Some(stop), done: Mutex::new(done) }))
}

fn read(endpoint: &str) -> Result<Endpoint, Error> {
    let refused = || Error::Endpoint(endpoint.to_owned());
    let uri: http::Uri = endpoint.parse().map_err(|_| refused())?;
    if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) {
        return Err(refused());
    }
    Ok(Endpoint::from(uri).connect_timeout(CONNECT_TIMEOUT).timeout(EXPORT_TIMEOUT))
}

/// What is counted.
struct Counts {
    exported: Counter,
    dropped: Counter,
    failures: Counter,
}

impl Counts {
    fn registered(metrics: &Metrics) -> Self {
        let own = Self { exported: Counter::default(), dropped: Counter::default(), failures: Counter::default() };
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("otlp");
            registry.register("spans_exported", "Spans that the collector has taken", own.exported.clone());
            let help = "Spans dropped because the queue was full or the collector did not take them";
            registry.register("spans_dropped", help, own.dropped.clone());
            registry.register("export_failures", "Batches that the collector did not take", own.failures.clone());
        });
        own
    }
}

/// The sending side.
struct Collector {
    config: Config,
    channel: Channel,
    counts: Counts,
    is_failing: bool,
}

impl Collector {
    async fn run<T: Into<Span>>(mut self, mut queue: mpsc::Receiver<T>, mut stopped: oneshot::Receiver<()>) {
        loop {
            let mut batch = Vec::new();
            let is_over = tokio::select! {
                is_over = gather(&mut queue, &mut batch) => is_over,
                _ = &mut stopped => true,
            };
            if is_over {
                queue.close();
                queue.recv_many(&mut batch, self.config.queue_max).await;
                let last = self.export(batch);
                // The rest is counted by whoever sees the process end.
                let _ = tokio::time::timeout(LAST_TIMEOUT, last).await;
                return;
            }
            self.export(batch).await;
        }
    }

    /// Sends a batch, once: what a collector does not take is dropped and counted.
    /// Trying again would keep older spans at the cost of newer ones.
    async fn export<T: Into<Span>>(&mut self, batch: Vec<T>) {
        let count = batch.len() as u64;
        if count == 0 {
            return;
        }
        let request = self.request(batch.into_iter().map(Into::into).collect());
        match tokio::time::timeout(EXPORT_TIMEOUT, self.send(request)).await {
            Ok(Ok(rejected)) => {
                self.counts.exported.inc_by(count.saturating_sub(rejected));
                self.counts.dropped.inc_by(rejected.min(count));
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!(endpoint = self.config.endpoint, "the collector takes spans again");
                }
            }
            Ok(Err(status)) => self.failed(count, status.message()),
            Err(_) => self.failed(count, "it did not answer in time"),
        }
    }

    /// Told once, until it works again.
    fn failed(&mut self, count: u64, reason: &str) {
        self.counts.dropped.inc_by(count);
        self.counts.failures.inc();
        if !std::mem::replace(&mut self.is_failing, true) {
            let endpoint = &self.config.endpoint;
            tracing::warn!(
                endpoint,
                reason,
                "failed to send spans; they are dropped until the collector takes them (gRPC, as a rule port 4317)"
            );
        }
    }

    /// Answers how many the collector has rejected.
    async fn send(&self, request: ExportRequest) -> Result<u64, tonic::Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let codec: ProstCodec<ExportRequest, ExportResponse> = ProstCodec::default();
        let answer = grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(EXPORT), codec).await?;
        let partial = answer.into_inner().partial_success;
        Ok(partial.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0)))
    }

    fn request(&self, spans: Vec<Span>) -> ExportRequest {
        let scope = Scope { name: env!("CARGO_PKG_NAME").to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let facts = self.config.resource.iter().map(|(name, value)| KeyValue::text(name, value.clone()));
        let resource = Resource { attributes: facts.collect() };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
        ExportRequest { resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans }] }
    }
}

/// Waits for a span, and then for others to go with it. Answers whether nobody
/// will hand in any more.
async fn gather<T>(queue: &mut mpsc::Receiver<T>, batch: &mut Vec<T>) -> bool {
    if queue.recv_many(batch, BATCH_MAX).await == 0 {
        return true;
    }
    let enough = tokio::time::sleep(BATCH_WAIT);
    tokio::pin!(enough);
    while batch.len() < BATCH_MAX {
        tokio::select! {
            count = queue.recv_many(batch, BATCH_MAX - batch.len()) => if count == 0 { return true },
            () = &mut enough => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_addresses_are_sent_to() {
        for good in ["http://127.0.0.1:4317", "http://collector:4317/", "http://[::1]:4317"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1:4317", "https://collector:4317", "http://", "a b"] {
            let error = check(bad).unwrap_err().to_string();
            assert!(error.contains("http://127.0.0.1:4317"), "{bad}: {error}");
        }
    }
}
