//! `PUT GET /api/v1/bundles/{digest}`: the bytes of a deployment, and whether they are there.
//!
//! PUT takes the gzip-compressed tar itself, streamed, and answers 201, or 200
//! when these bytes were there already. GET describes them and never sends them.

use serde::{Deserialize, Serialize};

use crate::model::manifest::Manifest;

/// Content type of an uploaded bundle.
pub const CONTENT_TYPE: &str = "application/gzip";

/// An uploaded bundle.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bundle {
    /// `sha256:` and the hash of the uploaded bytes, in hex.
    pub digest: String,
    /// Packed size.
    pub size_bytes: u64,
    /// `repoint.toml` as the server read it from inside.
    pub manifest: Manifest,
}
