//! Change sets on the wire and in the change log.
//!
//! Records ride inside as the bytes they are stored in, so that whoever applies
//! a change set can keep the digest without encoding anything again.

use bytes::Bytes;
use prost::Message;

use crate::model::change::{ChangeSet, Record, RecordKey};
use crate::model::revision::Revision;
use crate::wire::field::{message, text};
use crate::wire::record::minor_of;
use crate::wire::{Error, MINOR, decode_record, encode_record, proto};

/// A change set as it came, with the record bytes its digest is over.
#[derive(Clone, PartialEq, Debug)]
pub struct DecodedChangeSet {
    /// The change's place in the log.
    pub revision: Revision,
    /// The least protocol minor that understands it.
    pub minor_min: u32,
    /// An operator allowed it to delete many records at once.
    pub mass_change_allowed: bool,
    /// New or replaced records, each with its bytes as stored.
    pub upserts: Vec<(Record, Bytes)>,
    /// Records that are no more.
    pub deletes: Vec<RecordKey>,
}

/// The bytes of a change set, as stored and sent.
pub fn encode_change_set(change: &ChangeSet) -> Bytes {
    assemble_change_set(change.revision, change.upserts.iter().map(encode_record).collect(), &change.deletes)
}

/// The bytes of a change set whose records are encoded already.
pub fn assemble_change_set(revision: Revision, upserts: Vec<Bytes>, deletes: &[RecordKey]) -> Bytes {
    assemble_stamped_change_set(revision, upserts, deletes, false)
}

/// The same, with the stamp of an operator who allowed it to delete much.
pub fn assemble_stamped_change_set(
    revision: Revision,
    upserts: Vec<Bytes>,
    deletes: &[RecordKey],
    mass_change_allowed: bool,
) -> Bytes {
    let change = proto::ChangeSet {
        revision: revision.0,
        minor_min: minor_needed(&upserts),
        mass_change_allowed,
        upserts,
        deletes: deletes.iter().map(RecordKey::to_string).collect(),
    };
    change.encode_to_vec().into()
}

/// Reads a change set.
///
/// # Errors
///
/// When the bytes are no change set, when it needs a newer protocol minor, or
/// when a record in it is refused.
pub fn decode_change_set(bytes: &[u8]) -> Result<DecodedChangeSet, Error> {
    let change: proto::ChangeSet = message("a change set", bytes)?;
    if change.minor_min > MINOR {
        return Err(Error::Unsupported { what: "a change set of a newer protocol minor" });
    }
    let upserts = change.upserts.into_iter().map(|bytes| Ok((decode_record(&bytes)?, bytes)));
    Ok(DecodedChangeSet {
        revision: Revision(change.revision),
        minor_min: change.minor_min,
        mass_change_allowed: change.mass_change_allowed,
        upserts: upserts.collect::<Result<_, Error>>()?,
        deletes: change.deletes.iter().map(|key| text("change_set.deletes", key)).collect::<Result<_, _>>()?,
    })
}

/// What several change sets come to: each key once, with its latest state. The
/// result stands at the last one's revision. A value that a later change replaced
/// is not in it, and the minor which that needed is not needed any more: or a proxy
/// that is too old for it would refuse what heals it, too.
///
/// # Errors
///
/// When one of them cannot be read.
pub fn net_change_set(changes: &[Bytes]) -> Result<Bytes, Error> {
    let mut net = proto::ChangeSet::default();
    let mut latest = std::collections::BTreeMap::<RecordKey, Option<Bytes>>::new();
    for bytes in changes {
        let change = decode_change_set(bytes)?;
        net.revision = change.revision.0;
        net.mass_change_allowed |= change.mass_change_allowed;
        latest.extend(change.deletes.into_iter().map(|key| (key, None)));
        latest.extend(change.upserts.into_iter().map(|(record, bytes)| (record.key(), Some(bytes))));
    }
    for (key, bytes) in latest {
        match bytes {
            Some(bytes) => net.upserts.push(bytes),
            None => net.deletes.push(key.to_string()),
        }
    }
    net.minor_min = minor_needed(&net.upserts);
    Ok(net.encode_to_vec().into())
}

/// The least protocol minor that understands all of these encoded records.
pub fn minor_needed(records: &[Bytes]) -> u32 {
    records.iter().map(|record| minor_of(record)).max().unwrap_or(1)
}
