//! Single fields coming in: ids, texts, numbers of enums.
//!
//! Owns the checks every conversion shares and the wording of their errors.
//! Used by the other files of `wire` only.

use std::fmt::Display;
use std::str::FromStr;

use bytes::Bytes;
use uuid::Uuid;

use crate::model::pool::PoolKey;
use crate::wire::{Error, proto};

/// Decodes a message of the generated code.
pub(super) fn message<M: prost::Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, Error> {
    M::decode(bytes).map_err(|error| Error::Malformed { what, detail: error.to_string() })
}

/// What must be there.
pub(super) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, Error> {
    value.ok_or(Error::Missing { field })
}

/// An id.
pub(super) fn id<T: From<Uuid>>(field: &'static str, bytes: &[u8]) -> Result<T, Error> {
    Ok(Uuid::from_bytes(sixteen(field, bytes)?).into())
}

/// Exactly 16 bytes.
pub(super) fn sixteen(field: &'static str, bytes: &[u8]) -> Result<[u8; 16], Error> {
    bytes.try_into().map_err(|_| Error::Length { field, found: bytes.len(), expected: 16 })
}

/// A text with a rule of its own.
pub(super) fn text<T>(field: &'static str, text: &str) -> Result<T, Error>
where
    T: FromStr<Err: Display>,
{
    text.parse().map_err(|error: T::Err| Error::Text { field, detail: error.to_string() })
}

/// Texts with a rule of their own.
pub(super) fn texts<T>(field: &'static str, texts: &[String]) -> Result<Vec<T>, Error>
where
    T: FromStr<Err: Display>,
{
    texts.iter().map(|one| text(field, one)).collect()
}

/// The value of an enum that this build knows.
pub(super) fn known<E: TryFrom<i32>>(what: &'static str, number: i32) -> Result<E, Error> {
    E::try_from(number).map_err(|_| Error::Unsupported { what })
}

/// An id going out.
pub(super) fn id_bytes(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

/// A pool's key going out.
pub(super) fn pool_key_out(key: PoolKey) -> proto::PoolKey {
    proto::PoolKey { environment_id: id_bytes(key.environment.uuid()), deployment_id: id_bytes(key.deployment.uuid()) }
}

/// A pool's key coming in.
pub(super) fn pool_key(field: &'static str, key: Option<&proto::PoolKey>) -> Result<PoolKey, Error> {
    let key = required(field, key)?;
    Ok(PoolKey { environment: id(field, &key.environment_id)?, deployment: id(field, &key.deployment_id)? })
}
