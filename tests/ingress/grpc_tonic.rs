//! gRPC as tonic speaks it, at both ends: answers, errors of the replica, errors of ours.

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use repoint::model::manifest::Protocol;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::support::*;

/// Counts what it gets, and refuses nothing at all.
struct Counting;

#[tonic::async_trait]
impl TraceService for Counting {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let environment = request.metadata().get("x-environment").map(|name| name.to_str().unwrap().to_owned());
        let count = request.into_inner().resource_spans.len() as i64;
        if count == 0 {
            return Err(Status::failed_precondition("nothing is in it"));
        }
        let error_message = environment.unwrap_or_default();
        let partial_success = Some(ExportTracePartialSuccess { rejected_spans: count, error_message });
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

async fn client(stage: &Stage, host: &str) -> TraceServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", stage.address())).unwrap();
    let endpoint = endpoint.origin(format!("http://{host}").parse().unwrap());
    TraceServiceClient::new(soon(endpoint.connect()).await.unwrap())
}

fn request(count: usize) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans::default(); count] }
}

#[tokio::test]
async fn tonic_is_answered_and_told_of_errors_in_trailers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Counting));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).pool_at("production", 1, &[address]);
    stage.change_pool(|pool| pool.protocol = Protocol::H2c);
    stage.environment("empty", None).publish();

    let mut known = client(&stage, "support-production.localhost").await;
    for count in [1, 2, 5_000] {
        let answer = soon(known.export(request(count))).await.unwrap();
        assert_eq!(answer.metadata().get("x-environment").unwrap(), "production");
        let counted = answer.into_inner().partial_success.unwrap();
        assert_eq!((counted.rejected_spans, counted.error_message.as_str()), (count as i64, "production"));
    }
    let refused = soon(known.export(request(0))).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "nothing is in it"));

    let empty = soon(client(&stage, "support-empty.localhost").await.export(request(1))).await.unwrap_err();
    assert_eq!(empty.code(), Code::Unavailable, "{empty}");
    let unknown = soon(client(&stage, "nowhere.localhost").await.export(request(1))).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented, "{unknown}");
    until(|| stage.in_flight("production", 1) == 0).await;
}
