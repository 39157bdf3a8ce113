//! The control stream's protobuf forms, and their conversion to and from the model.
//!
//! Owns what bytes mean: records and change sets as the store keeps them and
//! the stream sends them, and the messages of both ends. Going out cannot fail;
//! coming in is checked field by field, because the bytes are another process's.
//! Knows no sockets and no state. `store` encodes records, `stream` does both.
//!
//! `proto/repoint/control/v1/control.proto` is the public description;
//! `tests/wire_fresh.rs` keeps the generated code true to it.

pub mod change_set;
pub mod field;
pub mod position;
pub mod record;
pub mod request;
pub mod response;

pub use change_set::{
    DecodedChangeSet, assemble_change_set, assemble_stamped_change_set, decode_change_set, encode_change_set,
    minor_needed, net_change_set,
};
pub use record::{decode_record, encode_record, minor_of};

/// Generated from the `.proto`.
pub mod proto {
    #![allow(missing_docs, unused_qualifications, clippy::all, clippy::needless_pass_by_value, reason = "generated")]
    include!("generated/repoint.control.v1.rs");
}

/// The newest protocol minor this build understands. Raised by every addition
/// to the `.proto`, because prost drops fields it does not know without a word.
pub const MINOR: u32 = 4;

/// Why bytes or a message are refused. Reads as "failed to …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not protobuf, or cut short.
    #[error("decode {what}: {detail}")]
    Malformed {
        /// What it should have been.
        what: &'static str,
        /// What the decoder says.
        detail: String,
    },
    /// A field that must be there is not.
    #[error("read {field}: it is missing")]
    Missing {
        /// Which.
        field: &'static str,
    },
    /// Bytes of a wrong length.
    #[error("read {field}: {found} bytes, not {expected}")]
    Length {
        /// Which.
        field: &'static str,
        /// How many it has.
        found: usize,
        /// How many it should have.
        expected: usize,
    },
    /// A text that breaks its rule.
    #[error("read {field}: failed to {detail}")]
    Text {
        /// Which.
        field: &'static str,
        /// What its own parser says.
        detail: String,
    },
    /// Something a newer protocol minor may know.
    #[error("understand {what}: this build speaks protocol minor {MINOR}; run a newer repoint here")]
    Unsupported {
        /// What.
        what: &'static str,
    },
}

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
