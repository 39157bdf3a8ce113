//! `/api/v1/bundles/{digest}`.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};

use crate::bundle::PACKED_BYTES_MAX;
use crate::bundle::digest::Digest;
use crate::control::api::extract::Text;
use crate::control::{Control, Error, now};
use crate::rest::bundles::Bundle;

pub(super) async fn put(
    State(control): State<Control>,
    Text(digest): Text,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Bundle>), Error> {
    check_length(&headers)?;
    let (bundle, is_new) = control.receive_bundle(parsed(&digest)?, body.into_data_stream(), now()).await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(bundle)))
}

pub(super) async fn one(State(control): State<Control>, Text(digest): Text) -> Result<Json<Bundle>, Error> {
    Ok(Json(control.bundle(parsed(&digest)?).await?))
}

/// Refuses what says that it is too large before it is sent.
fn check_length(headers: &HeaderMap) -> Result<(), Error> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if length > PACKED_BYTES_MAX => Err(Error::TooLarge { what: "a bundle", limit: PACKED_BYTES_MAX }),
        _ => Ok(()),
    }
}

fn parsed(text: &str) -> Result<Digest, Error> {
    text.parse().map_err(|error: crate::bundle::digest::InvalidDigest| Error::Invalid(error.to_string()))
}
