//! Requests as spans. The collector is played by these tests, with the messages and the server that the OpenTelemetry
//! project generates from its own definitions; a real collector is not part of them.

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::support::*;

/// A collector that hands out what it gets.
struct Collector {
    url: String,
    batches: mpsc::UnboundedReceiver<ExportTraceServiceRequest>,
    spans: Vec<Span>,
    resource: HashMap<String, String>,
}

struct Service(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, batches) = mpsc::unbounded_channel();
        let service = TraceServiceServer::new(Service(sender));
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { url, batches, spans: Vec::new(), resource: HashMap::new() }
    }

    /// The next span, in the order in which requests ended.
    async fn span(&mut self) -> Span {
        while self.spans.is_empty() {
            for of in soon(self.batches.recv()).await.expect("it goes on").resource_spans {
                self.resource.extend(facts(&of.resource.expect("a process").attributes));
                self.spans.extend(of.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        self.spans.remove(0)
    }
}

fn facts(attributes: &[KeyValue]) -> HashMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|fact| (fact.key.clone(), text(&fact.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An ingress that sends its spans there.
fn stage_for(url: &str, ratio: f64) -> Stage {
    Stage::with(|config| {
        config.spans.endpoint = Some(url.to_owned());
        config.spans.ratio = ratio;
        config.spans.resource = vec![("service.instance.id".to_owned(), "eu-1".to_owned())];
    })
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

#[tokio::test]
async fn a_request_is_a_span_between_its_client_and_its_replica() {
    let mut collector = Collector::listen().await;
    let replica = Replica::listen().await;
    let mut stage = stage_for(&collector.url, 0.0);
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]).publish();
    let given = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    let lines = [given.as_str(), "tracestate: vendor=1", "Content-Length: 4"];
    let mut client = stage.send(&(post("/a?token=secret", &lines) + "body")).await;
    let mut upstream = replica.accept().await;
    let seen = upstream.message().await;
    upstream.say(&ok("answer")).await;
    client.message().await;

    let span = collector.span().await;
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    assert_eq!(seen.header("traceparent").unwrap(), format!("00-{TRACE}-{}-01", hex(&span.span_id)));
    assert_eq!((seen.header("tracestate").unwrap(), span.trace_state.as_str()), ("vendor=1", "vendor=1"));
    assert_eq!((span.name.as_str(), span.kind, span.flags, span.status.clone()), ("POST", 2, 0x301, None));
    let took = Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano);
    assert!(took < LIMIT && span.start_time_unix_nano > 1_700_000_000_000_000_000, "{span:?}");
    let facts = facts(&span.attributes);
    for (name, value) in [
        ("http.request.method", "POST"),
        ("url.path", "/a"),
        ("url.scheme", "http"),
        ("server.address", "support-production.localhost"),
        ("network.protocol.version", "1.1"),
        ("client.address", "127.0.0.1"),
        ("http.response.status_code", "200"),
        ("http.request.body.size", "4"),
        ("http.response.body.size", "6"),
        ("repoint.project", "support"),
        ("repoint.environment", "production"),
        ("repoint.deployment.id", &deployment(1).to_string()),
        ("repoint.upstream.address", &replica.address.to_string()),
    ] {
        assert_eq!(facts.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!format!("{span:?}").contains("secret"), "the query is left out");
    assert!(!facts.contains_key("error.type"));
    let resource = |name: &str| collector.resource.get(name).map(String::as_str);
    assert_eq!((resource("service.name"), resource("service.instance.id")), (Some("repoint"), Some("eu-1")));
    until(|| stage.metric("repoint_otlp_spans_exported_total") == 1.0).await;
    assert_eq!(stage.metric("repoint_otlp_spans_dropped_total"), 0.0);
}

#[tokio::test]
async fn a_trace_that_is_not_recorded_is_passed_on_and_one_that_begins_here_is_drawn_by_lot() {
    let mut collector = Collector::listen().await;
    let replica = Replica::listen().await;
    let mut stage = stage_for(&collector.url, 0.0);
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]).publish();
    let mut client = stage.connect().await;
    let unsampled = format!("traceparent: 00-{TRACE}-{PARENT}-00");
    let sampled = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    client.say(&get("/unsampled", &[&unsampled])).await;
    let mut upstream = replica.accept().await;
    assert_eq!(upstream.message().await.header("traceparent").unwrap(), &unsampled["traceparent: ".len()..]);
    upstream.say(&ok("")).await;
    client.message().await;
    for lines in [&[][..], &["traceparent: junk", "tracestate: vendor=1"], &[&sampled, &sampled]] {
        client.say(&get("/root", lines)).await;
        let seen = upstream.message().await;
        let told = seen.header("traceparent").unwrap();
        assert!(told.ends_with("-00") && told.len() == 55 && !told.contains(TRACE), "{told}");
        assert!(seen.header("tracestate").is_none(), "{lines:?}");
        upstream.say(&ok("")).await;
        client.message().await;
    }
    client.say(&get("/sampled", &[&sampled])).await;
    upstream.message().await;
    upstream.say(&ok("")).await;
    client.message().await;
    let span = collector.span().await;
    assert_eq!(facts(&span.attributes)["url.path"], "/sampled", "nothing was recorded before it");
}

#[tokio::test]
async fn requests_that_reach_no_replica_are_spans_too() {
    let mut collector = Collector::listen().await;
    let mut stage = stage_for(&collector.url, 1.0);
    stage.environment("production", Some(1)).pool_at("production", 1, &[nobody().await]).publish();
    let mut client = stage.connect().await;
    client.say(&head("BREW", "/pot", "nowhere.localhost:8080", &[])).await;
    assert_eq!(client.message().await.status(), 404);
    client.say(&get("/", &[])).await;
    assert_eq!(client.message().await.status(), 502);

    let unknown = collector.span().await;
    let told = facts(&unknown.attributes);
    assert_eq!((unknown.name.as_str(), told["http.request.method"].as_str()), ("HTTP", "_OTHER"));
    assert_eq!((told["http.request.method_original"].as_str(), told["server.port"].as_str()), ("BREW", "8080"));
    assert_eq!((told["error.type"].as_str(), unknown.status), ("environment_not_found", None));
    assert!(unknown.parent_span_id.is_empty() && unknown.trace_id.len() == 16 && unknown.flags == 0x101);
    let failed = collector.span().await;
    let status = failed.status.expect("it went wrong");
    assert_eq!((status.code, status.message.as_str()), (2, "connect_failed"));
    assert_eq!(facts(&failed.attributes)["error.type"], "connect_failed");
    assert_ne!(failed.trace_id, unknown.trace_id);
}

#[tokio::test]
async fn texts_that_a_client_chose_are_cut() {
    let mut collector = Collector::listen().await;
    let stage = stage_for(&collector.url, 1.0);
    let (long, state) = ("a".repeat(9_000), format!("tracestate: v={}", "b".repeat(600)));
    let given = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    let mut client = stage.connect().await;
    client.say(&head(&long.to_uppercase(), &format!("/{long}"), &long, &[&given, &state])).await;
    assert_eq!(client.message().await.status(), 503, "there is no table");
    let span = collector.span().await;
    let facts = facts(&span.attributes);
    for name in ["url.path", "server.address", "http.request.method_original"] {
        assert_eq!(facts[name].len(), 1024, "{name}");
    }
    assert_eq!((span.name.as_str(), span.trace_state.as_str()), ("HTTP", ""));
}

#[tokio::test]
async fn the_last_spans_are_sent_before_the_process_ends() {
    let mut collector = Collector::listen().await;
    let address = Replica::listen().await.always("hello");
    let mut stage = stage_for(&collector.url, 1.0);
    stage.environment("production", Some(1)).pool_at("production", 1, &[address]).publish();
    let mut client = stage.send(&get("/last", &[])).await;
    client.message().await;
    drop(client);
    stage.running.drain(LIMIT).await;
    tokio::task::spawn_blocking(move || drop(stage)).await.unwrap();
    assert_eq!(facts(&collector.span().await.attributes)["url.path"], "/last");
}

#[tokio::test]
async fn a_dead_collector_costs_a_counter_and_nothing_else() {
    let address = Replica::listen().await.always("hello");
    let mut stage = stage_for(&format!("http://{}", nobody().await), 1.0);
    stage.environment("production", Some(1)).pool_at("production", 1, &[address]).publish();
    let mut client = stage.connect().await;
    for _ in 0..20 {
        client.say(&get("/", &[])).await;
        assert_eq!(client.message().await.body, "hello");
    }
    until(|| stage.metric("repoint_otlp_spans_dropped_total") == 20.0).await;
    assert!(stage.metric("repoint_otlp_export_failures_total") >= 1.0);
    assert_eq!(stage.metric("repoint_otlp_spans_exported_total"), 0.0);
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_up_nobody() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let address = Replica::listen().await.always("hello");
    let mut stage = Stage::with(|config| {
        config.spans.endpoint = Some(url);
        config.spans.queue_max = 4;
    });
    stage.environment("production", Some(1)).pool_at("production", 1, &[address]).publish();
    let mut client = stage.connect().await;
    let (mut asked, begun) = (0, std::time::Instant::now());
    while stage.metric("repoint_otlp_spans_dropped_total") < 10.0 {
        client.say(&get("/", &[])).await;
        assert_eq!(client.message().await.body, "hello");
        asked += 1;
        assert!(begun.elapsed() < LIMIT, "{asked} requests and still room");
    }
}
