//! What the demo worker answers, by path.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde_json::json;

use crate::demo::body::{Answer, Tokens};

/// A version of the demo worker.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) version: String,
    pub(super) deployment: String,
}

/// Largest body that is echoed.
const ECHO_MAX: usize = 16 * 1024 * 1024;

impl Worker {
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Answer> {
        let query = request.uri().query().unwrap_or_default().to_owned();
        match request.uri().path() {
            "/" => self.front(request.headers()),
            "/healthz" => whole(StatusCode::OK, "text/plain", "ok\n"),
            "/stream" => self.stream(&query),
            "/sleep" => {
                tokio::time::sleep(Duration::from_millis(number(&query, "ms", 1_000).min(SLEEP_MS_MAX))).await;
                whole(StatusCode::OK, "text/plain", self.line())
            }
            "/echo" => self.echo(request).await,
            _ => whole(
                StatusCode::NOT_FOUND,
                "text/plain",
                "try /, /stream?tokens=20&delay_ms=200, /echo or /sleep?ms=500\n",
            ),
        }
    }

    fn front(&self, headers: &HeaderMap) -> Response<Answer> {
        let wants_page = headers.get(ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"text/html"));
        if wants_page {
            whole(StatusCode::OK, "text/html; charset=utf-8", self.page())
        } else {
            whole(StatusCode::OK, "text/plain", self.line())
        }
    }

    fn line(&self) -> String {
        format!("hello from {}, deployment {}\n", self.version, self.deployment)
    }

    /// A page that shows at a glance which version serves it.
    fn page(&self) -> String {
        let colour = if self.version == "v1" { "#1f4e8c" } else { "#a8431a" };
        let (version, deployment) = (&self.version, &self.deployment);
        format!(
            "<!doctype html><title>{version}</title><body style=\"background:{colour};color:white;font:2rem system-ui;padding:4rem\">\
             <h1>{version}</h1><p><small>deployment {deployment}</small></p><pre id=o></pre><script>\
             new EventSource('/stream?tokens=100000&delay_ms=300').onmessage=e=>{{const t=JSON.parse(e.data);\
             o.textContent=t.version+' #'+t.token+' '+t.text+'\\n'+o.textContent.slice(0,400)}}</script>"
        )
    }

    fn stream(&self, query: &str) -> Response<Answer> {
        let tokens = Tokens {
            prefix: format!("{{\"version\":\"{}\",\"deployment\":\"{}\"", self.version, self.deployment),
            next: 0,
            count: number(query, "tokens", 20),
            delay: Duration::from_millis(number(query, "delay_ms", 200).min(SLEEP_MS_MAX)),
            // The first token comes at once.
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
        };
        let mut response = Response::new(Answer::Tokens(tokens));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response
    }

    async fn echo(&self, request: Request<Incoming>) -> Response<Answer> {
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, ECHO_MAX).collect().await else {
            return whole(StatusCode::PAYLOAD_TOO_LARGE, "text/plain", format!("echoes at most {ECHO_MAX} bytes\n"));
        };
        let headers = head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()));
        let echoed = json!({
            "version": self.version,
            "deployment": self.deployment,
            "method": head.method.as_str(),
            "path": head.uri.to_string(),
            "headers": headers.collect::<serde_json::Map<String, serde_json::Value>>(),
            "body": String::from_utf8_lossy(&body.to_bytes()),
        });
        whole(StatusCode::OK, "application/json", format!("{echoed}\n"))
    }
}

/// An hour: a stream may be watched for long, a typing error should not last for ever.
const SLEEP_MS_MAX: u64 = 3_600_000;

/// A number from a query, or `default` where it is absent or none.
fn number(query: &str, name: &str, default: u64) -> u64 {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok()).unwrap_or(default)
}

fn whole(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_one_event_a_token() {
        let worker = Worker { version: "v2".into(), deployment: "d".into() };
        let body = worker.stream("tokens=3&delay_ms=50").into_body().collect().await.unwrap().to_bytes();
        let events: Vec<_> = std::str::from_utf8(&body).unwrap().split_terminator("\n\n").collect();
        assert_eq!(events.len(), 3);
        let last: serde_json::Value = serde_json::from_str(events[2].strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!((&last["version"], &last["token"]), (&"v2".into(), &2.into()));
    }

    #[test]
    fn numbers_in_queries_have_defaults() {
        assert_eq!(number("tokens=7&ms=x", "tokens", 1), 7);
        assert_eq!(number("tokens=7&ms=x", "ms", 9), 9);
        assert_eq!(number("", "ms", 9), 9);
    }
}
