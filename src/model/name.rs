//! Names that are valid because nothing else can be built.
//!
//! Parsed at the border (REST, wire, command line), trusted inside. Every name
//! is also a DNS label (RFC 1123 §2.1), because hosts are made from it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

/// Why a text is not a name. Reads as "failed to …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("use {text:?} as {noun}: {rule}")]
pub struct InvalidName {
    noun: &'static str,
    text: String,
    rule: &'static str,
}

macro_rules! names {
    ($($(#[$meta:meta])* $name:ident($noun:literal, $rule:literal, $check:expr)),+ $(,)?) => {$(
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let valid: fn(&str) -> bool = $check;
                if valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    // Echo a bounded part: the text may be anything a client sent.
                    Err(InvalidName { noun: $noun, text: text.chars().take(64).collect(), rule: $rule })
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    )+};
}

names! {
    /// A project's name, unique in the installation.
    ProjectName(
        "a project name",
        "use 3 to 30 lower-case letters, digits and single inner hyphens, starting with a letter",
        |text| is_label(text, 3, 30)
    ),
    /// An environment's name, unique in its project.
    EnvironmentName(
        "an environment name",
        "use 1 to 30 lower-case letters, digits and single inner hyphens, starting with a letter",
        |text| is_label(text, 1, 30)
    ),
    /// A deployment's short name, unique in its project.
    DeploymentRef(
        "a deployment ref",
        "a ref is 8 lower-case letters and digits, as `repoint deployment list` shows it",
        |text| text.len() == 8 && text.bytes().all(|b| REF_ALPHABET.contains(&b))
    ),
}

impl EnvironmentName {
    /// The environments every project is created with; they cannot be deleted.
    pub const DEFAULTS: [&'static str; 3] = ["preview", "staging", "production"];

    /// Whether this is one of the environments that cannot be deleted.
    pub fn is_default(&self) -> bool {
        Self::DEFAULTS.contains(&self.as_str())
    }
}

impl DeploymentRef {
    /// Makes a ref from 8 numbers of any size, such as random bytes.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes.iter().map(|b| char::from(REF_ALPHABET[usize::from(*b) % REF_ALPHABET.len()])).collect())
    }
}

/// No vowels and no look-alikes (l, 1, o, 0): a ref is read aloud and must not
/// spell anything. 2^37 values; collisions in a project are retried.
const REF_ALPHABET: &[u8] = b"bcdfghjkmnpqrstvwxyz23456789";

fn is_label(text: &str, least: usize, most: usize) -> bool {
    (least..=most).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        // `--` separates the parts of a deployment host.
        && !text.contains("--")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        for good in ["abc", "a-b", "agent-7-b", &"a".repeat(30)] {
            assert!(good.parse::<ProjectName>().is_ok(), "{good}");
        }
        for bad in ["", "ab", "Abc", "7ab", "-ab", "ab-", "a--b", "a_b", "a.b", "ä-b", &"a".repeat(31)] {
            assert!(bad.parse::<ProjectName>().is_err(), "{bad}");
        }
        assert!("p".parse::<EnvironmentName>().is_ok());
    }

    #[test]
    fn refs_made_from_bytes_parse() {
        for bytes in [[0; 8], [255; 8], [1, 2, 3, 4, 5, 6, 7, 200]] {
            let made = DeploymentRef::from_bytes(bytes);
            assert_eq!(made.as_str().parse::<DeploymentRef>(), Ok(made));
        }
        assert!("k3v9x2a".parse::<DeploymentRef>().is_err());
    }

    #[test]
    fn the_refusal_says_what_is_allowed() {
        let error = "Bad".parse::<ProjectName>().unwrap_err();
        assert!(error.to_string().contains("lower-case"), "{error}");
    }
}
