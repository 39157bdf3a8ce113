//! What the files are called.

use std::str::FromStr;

use crate::stream::last_known_good::format::Kind;

/// A file name that is ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name {
    /// What the file is for.
    pub kind: Kind,
    /// Its number.
    pub sequence: u64,
}

/// Ends the names of files that are not finished.
pub const TEMPORARY: &str = ".tmp";

/// The name of a checkpoint.
pub fn checkpoint(sequence: u64) -> String {
    format!("checkpoint-{sequence:08}")
}

/// The name of the journal that continues the checkpoint of the same number.
pub fn journal(sequence: u64) -> String {
    format!("journal-{sequence:08}")
}

impl FromStr for Name {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let (kind, sequence) = match (name.strip_prefix("checkpoint-"), name.strip_prefix("journal-")) {
            (Some(sequence), _) => (Kind::Checkpoint, sequence),
            (_, Some(sequence)) => (Kind::Journal, sequence),
            _ => return Err(()),
        };
        // `+1` would parse, too, and another file has that number.
        let is_plain = sequence.bytes().all(|byte| byte.is_ascii_digit());
        let sequence = sequence.parse().ok().filter(|_| is_plain).ok_or(())?;
        Ok(Self { kind, sequence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_text_and_others_are_left_alone() {
        assert_eq!(checkpoint(7).parse(), Ok(Name { kind: Kind::Checkpoint, sequence: 7 }));
        assert_eq!(journal(123_456_789).parse(), Ok(Name { kind: Kind::Journal, sequence: 123_456_789 }));
        for other in ["lock", "proxy_id", "checkpoint-", "checkpoint-1.tmp", "journal-+1", "checkpoint-x"] {
            assert_eq!(other.parse::<Name>(), Err(()), "{other}");
        }
    }
}
