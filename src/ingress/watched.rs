//! Which environments have metrics of their own: patterns of their names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// Environments that may have metrics of their own, and patterns that may name
/// them. Each has 24 series, and a scrape is read by people's dashboards.
pub const WATCHED_MAX: usize = 100;

/// `project/environment`, where `*` stands for any part of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnvironmentPattern {
    project: String,
    environment: String,
}

/// Why a text is no such pattern. Reads as "failed to …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("use {0:?} as environments to watch: write project/environment, as support/production or support/*")]
pub struct InvalidPattern(String);

impl EnvironmentPattern {
    /// Whether it names this environment.
    pub fn covers(&self, project: &str, environment: &str) -> bool {
        covers(self.project.as_bytes(), project.as_bytes())
            && covers(self.environment.as_bytes(), environment.as_bytes())
    }
}

/// Goes back to the last `*` only: what came before it has found its earliest
/// place, and a later one could not help.
fn covers(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut read, mut star) = (0, 0, None);
    while read < text.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, read));
            at += 1;
        } else if pattern.get(at) == Some(&text[read]) {
            (at, read) = (at + 1, read + 1);
        } else if let Some((star_at, taken)) = star {
            star = Some((star_at, taken + 1));
            (at, read) = (star_at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

impl FromStr for EnvironmentPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let invalid = || InvalidPattern(text.chars().take(128).collect());
        let is_name = |name: &str| {
            let may = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'*';
            !name.is_empty() && name.bytes().all(may)
        };
        let (project, environment) = text.split_once('/').ok_or_else(invalid)?;
        if !is_name(project) || !is_name(environment) {
            return Err(invalid());
        }
        Ok(Self { project: project.to_owned(), environment: environment.to_owned() })
    }
}

impl<'de> Deserialize<'de> for EnvironmentPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for EnvironmentPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.environment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_part_of_a_name() {
        let covers =
            |pattern: &str, project, name| pattern.parse::<EnvironmentPattern>().unwrap().covers(project, name);
        assert!(covers("support/production", "support", "production"));
        assert!(covers("*/production", "support", "production"));
        assert!(covers("*/*", "a", "b"));
        assert!(covers("sup*t/pr*-*u", "support", "pr-7-preview-eu"));
        assert!(covers("a*a/*", "aa", "x"));
        for (pattern, project, name) in [
            ("support/production", "support", "production-eu"),
            ("support/production", "supports", "production"),
            ("a*a/*", "a", "x"),
            ("*b/x", "abc", "x"),
            ("support/pr-*", "support", "production"),
        ] {
            assert!(!covers(pattern, project, name), "{pattern} {project}/{name}");
        }
    }

    #[test]
    fn what_names_no_environment_is_refused() {
        for bad in ["", "support", "/", "support/", "/production", "a/b/c", "A/b", "a b/c", "{a}/b"] {
            assert!(bad.parse::<EnvironmentPattern>().is_err(), "{bad}");
        }
        assert_eq!("a-1/*".parse::<EnvironmentPattern>().unwrap().to_string(), "a-1/*");
    }
}
