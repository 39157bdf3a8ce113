//! `/api/v1/bundles/{digest}`.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;

use crate::bundle::digest::Digest;
use crate::control::api::extract::{Text, now};
use crate::control::{Control, Error};
use crate::rest::bundles::Bundle;

pub(super) async fn put(
    State(control): State<Control>,
    Text(digest): Text,
    body: Body,
) -> Result<(StatusCode, Json<Bundle>), Error> {
    let (bundle, is_new) = control.receive_bundle(parsed(&digest)?, body.into_data_stream(), now()).await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(bundle)))
}

pub(super) async fn one(State(control): State<Control>, Text(digest): Text) -> Result<Json<Bundle>, Error> {
    Ok(Json(control.bundle(parsed(&digest)?).await?))
}

fn parsed(text: &str) -> Result<Digest, Error> {
    text.parse().map_err(|error: crate::bundle::digest::InvalidDigest| Error::Invalid(error.to_string()))
}
