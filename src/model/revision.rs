//! Revision, digest and position: where in a store's history somebody is.
//!
//! A position names a lineage, the revision reached in it, and a digest over
//! every record as it stands there. The digest is order-free, so it can be kept
//! incrementally by both sides of the control stream.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::model::id::Lineage;

/// The growing number of a committed change. Revision 0 is the empty store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Sum modulo 2^128 over all records of the first 16 bytes of
/// SHA-256(key ‖ 0x00 ‖ stored bytes), read as a big-endian number.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of one record.
    pub fn of_record(key: &str, bytes: &[u8]) -> Self {
        let hash = Sha256::new().chain_update(key).chain_update([0]).chain_update(bytes).finalize();
        let mut first = [0; 16];
        first.copy_from_slice(&hash[..16]);
        Self(u128::from_be_bytes(first))
    }

    /// This digest with a record added.
    pub fn with(self, record: Self) -> Self {
        Self(self.0.wrapping_add(record.0))
    }

    /// This digest with a record taken away.
    pub fn without(self, record: Self) -> Self {
        Self(self.0.wrapping_sub(record.0))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A place in a store's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// Which history.
    pub lineage: Lineage,
    /// How far into it.
    pub revision: Revision,
    /// What every record adds up to there.
    pub digest: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_forgets_the_order_and_what_was_taken_away() {
        let (a, b) = (Digest::of_record("a", b"1"), Digest::of_record("b", b"2"));
        assert_eq!(Digest::default().with(a).with(b), Digest::default().with(b).with(a));
        assert_eq!(Digest::default().with(a).with(b).without(a), b);
        assert_ne!(Digest::of_record("ab", b"c"), Digest::of_record("a", b"bc"));
    }
}
