//! `POST /api/v1/import` and `GET /api/v1/export`: lines in, lines out.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::control::api::auth::Admin;
use crate::control::api::extract::{Query, caller};
use crate::control::import::read;
use crate::control::{Control, Error};
use crate::rest::transfer::{ImportQuery, MEDIA_TYPE, Said};

/// What is refused is refused with a status of its own; the 200 begins when all
/// that is left to do is to write.
pub(super) async fn import(
    State(control): State<Control>,
    Admin(actor): Admin,
    Query(query): Query<ImportQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    check_media_type(&headers)?;
    let caller = caller(actor, query.wait_ms)?;
    let place = control.import_place()?;
    let file = read(body.into_data_stream()).await?;
    let prepared = control.prepare_import(file, &caller, place).await?;
    let said = ReceiverStream::new(control.import(prepared, caller)).map(|said| Ok::<_, Infallible>(line(&said)));
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], Body::from_stream(said)).into_response())
}

pub(super) async fn export(State(control): State<Control>, Admin(_): Admin) -> Result<Response, Error> {
    let lines = ReceiverStream::new(control.export()?);
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], Body::from_stream(lines)).into_response())
}

fn line(said: &Said) -> Bytes {
    let mut text = serde_json::to_vec(said).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

/// Lines, or nothing said. `curl --data-binary` says something else of its own
/// accord, so the answer names the header.
fn check_media_type(headers: &HeaderMap) -> Result<(), Error> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let found = String::from_utf8_lossy(value.as_bytes()).chars().take(128).collect::<String>();
    let essence = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence == MEDIA_TYPE {
        true => Ok(()),
        false => Err(Error::MediaType { found, wanted: MEDIA_TYPE }),
    }
}
