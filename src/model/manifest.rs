//! The manifest, `repoint.toml`: how a bundle is started and what it asks for.
//!
//! Read by the command line to pack and by the server from inside the bundle;
//! the server's reading is the one that counts. Parsing is pure: text in, value
//! or a message with the line out.

use serde::{Deserialize, Serialize};

use crate::model::bounds::Bounds;
use crate::model::name::{EnvironmentName, ProjectName};

/// File name of the manifest at the root of a bundle.
pub const FILE_NAME: &str = "repoint.toml";

/// A parsed `repoint.toml`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The project it deploys to, unless the caller names another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// How a replica is started.
    pub worker: Worker,
    /// Where and how large it is deployed.
    #[serde(default)]
    pub deploy: Deploy,
    /// Limits of each replica.
    #[serde(default)]
    pub limits: Limits,
}

/// How a replica is started, probed and stopped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// Program and arguments, run in the unpacked bundle.
    pub command: Vec<String>,
    /// What the replica speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// Ready when this path answers 2xx; without one, when the port accepts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_path: Option<String>,
    /// Longest wait for a pool to become ready.
    #[serde(default = "Worker::ready_timeout_default")]
    pub ready_timeout: Span,
    /// From SIGTERM to SIGKILL.
    #[serde(default = "Worker::stop_grace_default")]
    pub stop_grace: Span,
    /// Send a request again when a reused connection closed before it answered:
    /// for handlers declared idempotent.
    #[serde(default)]
    pub retry_on_reused_close: bool,
}

/// What a replica speaks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1 (RFC 9112).
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge (RFC 9113 §3.3).
    H2c,
}

/// Where and how large a bundle is deployed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Deploy {
    /// Environment that `repoint deploy` points at it; `preview` unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentName>,
    /// Replicas kept running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<u32>,
    /// Replicas at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<u32>,
    /// Patterns left out of the bundle besides `.gitignore`'s and `.git`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
}

/// Limits of each replica.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Address space, as `"512MiB"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Open files at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
}

/// Why a manifest is refused. Reads as "failed to …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidManifest {
    /// Not TOML, a field unknown or of the wrong type; the text names line and field.
    #[error("read repoint.toml: {0}")]
    Syntax(String),
    /// There is nothing to run.
    #[error(
        "read repoint.toml: worker.command is empty; give the program and its arguments, as [\"python3\", \"worker.py\"]"
    )]
    NoCommand,
    /// The probe could never succeed.
    #[error("read repoint.toml: worker.health_path {0:?} must start with / and hold visible ASCII only")]
    HealthPath(String),
    /// The bounds contradict themselves.
    #[error("read repoint.toml: {0}")]
    Bounds(#[from] crate::model::bounds::InvalidBounds),
    /// A time that is no use.
    #[error("read repoint.toml: worker.{field} must be between {least} and {most}")]
    Time {
        /// Which one.
        field: &'static str,
        /// The least allowed.
        least: Span,
        /// The most allowed.
        most: Span,
    },
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    ///
    /// When the text is no valid manifest; the message names line or field.
    pub fn parse(text: &str) -> Result<Self, InvalidManifest> {
        let manifest: Self = toml::from_str(text).map_err(|e| InvalidManifest::Syntax(e.to_string()))?;
        let worker = &manifest.worker;
        if worker.command.first().is_none_or(|program| program.is_empty()) {
            return Err(InvalidManifest::NoCommand);
        }
        if let Some(path) = &worker.health_path
            && !is_path(path)
        {
            return Err(InvalidManifest::HealthPath(path.clone()));
        }
        within("ready_timeout", worker.ready_timeout, Span::seconds(1), Span::seconds(3600))?;
        within("stop_grace", worker.stop_grace, Span::seconds(0), Span::seconds(3600))?;
        manifest.bounds()?;
        Ok(manifest)
    }

    /// The bounds a new pool starts with.
    ///
    /// # Errors
    ///
    /// When the two contradict each other.
    pub fn bounds(&self) -> Result<Bounds, crate::model::bounds::InvalidBounds> {
        Bounds::default().with(self.deploy.min_replicas, self.deploy.max_replicas)
    }
}

impl Worker {
    fn ready_timeout_default() -> Span {
        // 120 s: an interpreter that imports a large model library, with room.
        Span::seconds(120)
    }

    fn stop_grace_default() -> Span {
        Span::seconds(30)
    }
}

/// Whether `path` can be the target of a probe (RFC 9112 §3.2.1, origin-form).
pub fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|b| b.is_ascii_graphic())
}

fn within(field: &'static str, value: Span, least: Span, most: Span) -> Result<(), InvalidManifest> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(InvalidManifest::Time { field, least, most }) }
}

/// A length of time, written `"120s"`, `"250ms"`, `"5m"` or `"1h"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(std::time::Duration);

impl Span {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    /// As a standard duration.
    pub const fn duration(self) -> std::time::Duration {
        self.0
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no length of time; write it as \"250ms\", \"120s\", \"5m\" or \"1h\"");
        let (number, unit_ms) =
            split_unit(&text, &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)]).ok_or_else(wrong)?;
        let ms = number.checked_mul(unit_ms).ok_or_else(wrong)?;
        Ok(Self(std::time::Duration::from_millis(ms)))
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_millis() {
            ms if ms.is_multiple_of(1000) => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

/// A size in bytes, written `"512MiB"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no size; write it as \"512MiB\" or \"2GiB\"");
        let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
        let (number, unit) = split_unit(&text, &units).ok_or_else(wrong)?;
        number.checked_mul(unit).map(Self).ok_or_else(wrong)
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        match size.0 {
            bytes if bytes.is_multiple_of(1 << 30) => format!("{}GiB", bytes >> 30),
            bytes if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
            bytes => format!("{}KiB", bytes >> 10),
        }
    }
}

fn split_unit(text: &str, units: &[(&str, u64)]) -> Option<(u64, u64)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    Some((number.parse().ok()?, factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
        project = "support"
        [worker]
        command = ["python3", "worker.py"]
        protocol = "http1"
        health_path = "/healthz"
        ready_timeout = "90s"
        stop_grace = "250ms"
        [deploy]
        environment = "preview"
        min_replicas = 1
        max_replicas = 4
        ignore = ["*.log"]
        [limits]
        memory = "512MiB"
        open_files = 4096
    "#;

    #[test]
    fn a_full_manifest_reads_and_survives_storage() {
        let manifest = Manifest::parse(FULL).unwrap();
        assert_eq!(manifest.worker.stop_grace.duration().as_millis(), 250);
        assert_eq!(manifest.limits.memory, Some(Size(512 << 20)));
        let stored = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&stored).unwrap(), manifest);
    }

    #[test]
    fn the_least_manifest_is_a_command() {
        let manifest = Manifest::parse("[worker]\ncommand = [\"./serve\"]").unwrap();
        assert_eq!(manifest.worker.ready_timeout, Span::seconds(120));
        assert_eq!(manifest.bounds().unwrap(), Bounds { min: 1, max: 2 });
    }

    #[test]
    fn refusals_name_the_field() {
        let cases = [
            ("", "worker"),
            ("[worker]\ncommand = []", "worker.command"),
            ("[worker]\ncommand = [\"a\"]\nport = 1", "port"),
            ("[worker]\ncommand = [\"a\"]\nhealth_path = \"x\"", "health_path"),
            ("[worker]\ncommand = [\"a\"]\nready_timeout = \"soon\"", "soon"),
            ("[worker]\ncommand = [\"a\"]\nready_timeout = \"0s\"", "ready_timeout"),
            ("[worker]\ncommand = [\"a\"]\nprotocol = \"h3\"", "h3"),
            ("[worker]\ncommand = [\"a\"]\n[deploy]\nmin_replicas = 3\nmax_replicas = 2", "min_replicas"),
            ("project = \"Bad\"\n[worker]\ncommand = [\"a\"]", "project"),
        ];
        for (text, named) in cases {
            let message = Manifest::parse(text).unwrap_err().to_string();
            assert!(message.contains(named), "{text:?} gave {message:?}");
        }
    }
}
