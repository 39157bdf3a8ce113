//! Our reading of requests held against hyper's and what is made of it: whatever
//! we take for a usual request, they take for the same one.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::ingress::config::Config;
use crate::ingress::core::http1;
use crate::ingress::downstream::http1::request::{Parsed, Rules, parse};
use crate::ingress::fuzz::fuzz;
use crate::ingress::headers::{Said, prepare};
use crate::ingress::identify::identify;
use crate::ingress::outbound::Outbound;
use crate::ingress::upstream::http1::body::{Body, Step};

/// A request, as it is told to a replica.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    line: String,
    fields: Vec<(String, Vec<u8>)>,
    said: Said,
    address: String,
    idempotent: bool,
    /// `None`: it has no end.
    body: Option<Vec<u8>>,
}

impl Told {
    fn new(parts: &Parts, said: Said, address: String, idempotent: bool, body: Option<Vec<u8>>) -> Self {
        let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            (name.as_str().to_owned(), value.as_bytes().to_owned())
        };
        let mut fields: Vec<_> = parts.headers.iter().map(field).collect();
        // In a map they stand in no order but that of the same name.
        fields.sort_by(|left, right| left.0.cmp(&right.0));
        // Said by how the body is framed.
        fields.retain(|(name, _)| name != "content-length");
        Self { line: format!("{} {}", parts.method, parts.uri), fields, said, address, idempotent, body }
    }
}

/// The requests that we read, up to the first that is not usual, and whether that
/// is where it ends.
fn ours(input: &[u8], rules: &Rules<'_>) -> Vec<Told> {
    let mut bytes = Bytes::copy_from_slice(input);
    let mut told = Vec::new();
    while let Parsed::Request(request, body) = parse(&mut bytes, rules) {
        let whole = match read(body, &mut bytes) {
            Ok(whole) => whole,
            // We are stricter with chunks.
            Err(_) => break,
        };
        let is_last = whole.is_none() || !request.keeps;
        let address = format!("{:?}", request.asked.address());
        let mut outbound = Outbound::Lines(request.lines);
        told.push(Told::new(outbound.map(), request.said, address, request.found.idempotent, whole));
        if is_last {
            break;
        }
    }
    told
}

fn read(mut body: Body, bytes: &mut Bytes) -> Result<Option<Vec<u8>>, String> {
    let mut whole = Vec::new();
    loop {
        match body.step(bytes).map_err(|malformed| malformed.to_string())? {
            Step::Data(data) => whole.extend_from_slice(&data),
            Step::Trailers(_) => {}
            Step::End => return Ok(Some(whole)),
            Step::More => return Ok(None),
        }
    }
}

/// The requests that hyper reads; `rounds` is how often it is asked to go on.
fn theirs(input: &[u8], rules: &Rules<'_>, rounds: usize) -> Vec<Told> {
    let told = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let told = Rc::clone(&told);
        async move {
            // What is refused here was not usual.
            if let Ok((asked, found)) = identify(&request, rules.config) {
                let address = format!("{:?}", asked.address());
                let (parts, body) = request.into_parts();
                let (parts, said) = prepare(parts, &asked, &found, rules.is_trusted);
                let at = told.borrow().len();
                told.borrow_mut().push(Told::new(&parts, said, address, found.idempotent, None));
                if let Ok(whole) = body.collect().await {
                    told.borrow_mut()[at].body = Some(whole.to_bytes().to_vec());
                }
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut connection = pin!(http1(rules.config).serve_connection(TokioIo::new(Input(input.to_vec())), service));
    for _ in 0..rounds {
        if connection.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            break;
        }
    }
    told.take()
}

/// What a client has sent, who then waits.
struct Input(Vec<u8>);

impl AsyncRead for Input {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let taken = self.0.len().min(into.remaining());
        into.put_slice(&self.0.drain(..taken).collect::<Vec<_>>());
        if taken > 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl AsyncWrite for Input {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// How many requests both read.
fn compared(input: &[u8], is_trusted: bool) -> usize {
    let config = Config::default();
    let rules = Rules { config: &config, is_trusted };
    let ours = ours(input, &rules);
    if ours.is_empty() {
        return 0;
    }
    let theirs = theirs(input, &rules, 8 * (ours.len() + 1));
    let text = String::from_utf8_lossy(input);
    for (at, ours) in ours.iter().enumerate() {
        assert_eq!(Some(ours), theirs.get(at), "request {at} of {text:?}");
    }
    ours.len()
}

#[test]
fn fuzz_differential() {
    fuzz("differential", |input| format!("{}", compared(input, input.len().is_multiple_of(2)).min(3)));
}

#[test]
fn usual_requests_are_read_alike() {
    let usual = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a?b=c HTTP/1.1\r\nhost:a.localhost:80 \r\nX-Project: p\r\nX-Deployment-ID: d\r\nX-Environment: e\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nIdempotency-Key: 1\r\n\r\nabc",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nForwarded: for=b\r\nX-Forwarded-For: c\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: r\r\ntracestate: a=b\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n",
    ];
    for is_trusted in [false, true] {
        for head in usual {
            assert_eq!(compared(head.as_bytes(), is_trusted), 1, "{head:?}");
        }
        let all = usual.concat();
        assert_eq!(compared(all.as_bytes(), is_trusted), usual.len(), "one behind the other");
    }
}

#[test]
fn what_is_not_usual_is_left_to_hyper() {
    let config = Config::default();
    let rules = Rules { config: &config, is_trusted: false };
    let fields = "A: 1\r\n".repeat(200);
    for head in [
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
        "GET /# HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\ntraceparent: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: a\r\nX-Request-ID: b\r\n\r\n",
        &format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"),
        &format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(20_000)),
        &format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}", "a".repeat(70_000)),
    ] {
        let parsed = parse(&mut Bytes::copy_from_slice(head.as_bytes()), &rules);
        assert!(matches!(parsed, Parsed::Unusual), "{:?}", &head[..head.len().min(80)]);
    }
}
