//! Hosts a route may claim: exact names, or one leading `*.` label.
//!
//! A `HostPattern` is lower-case, without port and without a trailing dot,
//! because nothing else can be built. Reading the host of a live request is
//! `routing::address`'s business.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::model::name::{DeploymentRef, EnvironmentName, ProjectName};

/// A host that a route claims: `agents.example.com` or `*.example.com`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct HostPattern(String);

/// Why a text is not a host. Reads as "failed to …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "use {0:?} as a host: give a DNS name such as agents.example.com, or *.example.com, without scheme, port or path"
)]
pub struct InvalidHost(String);

impl HostPattern {
    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host an environment has from its names: `{project}-{environment}.{base_domain}`.
    pub fn of_environment(project: &ProjectName, environment: &EnvironmentName, base_domain: &Self) -> Self {
        Self(format!("{project}-{environment}.{base_domain}"))
    }

    /// The host of a deployment in an environment; `preview` goes without saying.
    pub fn of_deployment(
        project: &ProjectName,
        reference: &DeploymentRef,
        environment: &EnvironmentName,
        base_domain: &Self,
    ) -> Self {
        match environment.as_str() {
            "preview" => Self(format!("{project}--{reference}.{base_domain}")),
            _ => Self(format!("{project}--{reference}--{environment}.{base_domain}")),
        }
    }
}

impl FromStr for HostPattern {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let invalid = || InvalidHost(text.chars().take(128).collect());
        let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let name = lower.strip_prefix("*.").unwrap_or(&lower);
        // RFC 1035 §2.3.4: 253 visible characters, labels of 1 to 63.
        let valid = !name.is_empty() && lower.len() <= 253 && name.split('.').all(is_host_label);
        if valid { Ok(Self(lower)) } else { Err(invalid()) }
    }
}

impl<'de> Deserialize<'de> for HostPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// RFC 1123 §2.1, with the underscore that resolvers and browsers accept.
fn is_host_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_folded() {
        assert_eq!("Agents.Example.COM.".parse::<HostPattern>().unwrap().as_str(), "agents.example.com");
        assert_eq!("*.example.com".parse::<HostPattern>().unwrap().as_str(), "*.example.com");
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in ["", ".", "*", "*.", "a..b", "http://a", "a:80", "a/b", "-a.b", "a.*.b", "a b", &"a".repeat(64)] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
    }
}
