//! From an error to bytes: the shape of every answer that is not a success.

use std::panic::AssertUnwindSafe;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use crate::control::{Control, Error};
use crate::rest::error::{ErrorAnswer, ErrorCode};

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let body = self.body();
        let code = body.code;
        if matches!(code, ErrorCode::Internal | ErrorCode::StorageFull) {
            tracing::error!(error = &self as &dyn std::error::Error, "the API failed to answer");
        }
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(ErrorAnswer { error: body })).into_response();
        let headers = response.headers_mut();
        match code {
            // RFC 9110 §11.6.1: a 401 names a way to authenticate.
            ErrorCode::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
            }
            ErrorCode::Unavailable => {
                headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response.extensions_mut().insert(code);
        response
    }
}

/// Counts what was refused, by code.
pub(super) async fn count(State(control): State<Control>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if let Some(code) = response.extensions().get::<ErrorCode>() {
        control.metrics.refused(*code);
    }
    response
}

/// A handler that panics answers like any other that fails, and takes no
/// connection down with it.
pub(super) async fn catch_panics(request: Request, next: Next) -> Response {
    // A transaction that was cut short is rolled back when it is dropped.
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => Error::Internal("a request handler panicked").into_response(),
    }
}

pub(super) async fn no_such_path(request: Request) -> Error {
    Error::NoSuchPath(bounded(request.uri().path()))
}

pub(super) async fn method_not_allowed(request: Request) -> Error {
    Error::MethodNotAllowed(bounded(request.uri().path()), bounded(request.method().as_str()))
}

pub(super) async fn secrets() -> Error {
    Error::NotYetSupported("secrets are not supported yet; give workers their settings in the bundle for now")
}

pub(super) async fn keys() -> Error {
    Error::NotYetSupported("API keys cannot be managed yet; use the admin key of the data directory")
}

pub(super) async fn openapi() -> Error {
    Error::NotYetSupported("there is no OpenAPI document yet; the README lists the API")
}

fn bounded(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_handler_that_panics_answers_in_the_error_shape() {
        let panics = || async { std::hint::black_box(None::<()>).expect("a test wants this panic") };
        let router: Router = Router::new().route("/", get(panics)).layer(from_fn(catch_panics));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("\"code\":\"internal\""), "{answer}");
    }
}
