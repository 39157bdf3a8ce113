//! Positions on the wire.

use bytes::Bytes;

use crate::model::revision::{Digest, Position, Revision};
use crate::wire::field::{id, id_bytes, required, sixteen};
use crate::wire::{Error, proto};

/// A position going out.
pub fn encode_position(position: Position) -> proto::Position {
    proto::Position {
        lineage: id_bytes(position.lineage.uuid()),
        revision: position.revision.0,
        digest: Bytes::copy_from_slice(&position.digest.0.to_be_bytes()),
    }
}

/// A position coming in.
///
/// # Errors
///
/// When lineage or digest are not 16 bytes.
pub fn decode_position(position: &proto::Position) -> Result<Position, Error> {
    Ok(Position {
        lineage: id("position.lineage", &position.lineage)?,
        revision: Revision(position.revision),
        digest: Digest(u128::from_be_bytes(sixteen("position.digest", &position.digest)?)),
    })
}

/// A position that must be there.
pub(super) fn required_position(field: &'static str, position: Option<&proto::Position>) -> Result<Position, Error> {
    decode_position(required(field, position)?)
}

/// A position that may be absent.
pub(super) fn optional_position(position: Option<&proto::Position>) -> Result<Option<Position>, Error> {
    position.map(decode_position).transpose()
}
