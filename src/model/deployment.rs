//! A deployment: an immutable build, and where its replicas come from.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::bounds::Bounds;
use crate::model::id::{DeploymentId, ProjectId};
use crate::model::manifest::{Manifest, Protocol, Span};
use crate::model::name::DeploymentRef;

/// An immutable build. Invariant 5: it never changes; only its pools do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Its short name, unique in the project.
    pub reference: DeploymentRef,
    /// Its project.
    pub project: ProjectId,
    /// Where its replicas come from.
    pub source: Source,
    /// What the author said about it.
    pub message: Option<String>,
    /// The commit it was packed from.
    pub git_commit: Option<String>,
    /// Name of the key that created it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
}

/// Where a deployment's replicas come from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Source {
    /// A packed directory that Repoint starts as local processes.
    Bundle {
        /// `sha256:` and the hash of the uploaded bytes, in hex.
        digest: String,
        /// Read by the server from inside the bundle.
        manifest: Manifest,
    },
    /// Workers that something else runs.
    Endpoints {
        /// Their URLs.
        endpoints: Vec<String>,
        /// What they speak.
        #[serde(default)]
        protocol: Protocol,
        /// Ready when this path answers 2xx; without one, when the port accepts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        health_path: Option<String>,
        /// Which `Host` they see: the client's (the default) or their own.
        #[serde(default)]
        host: HostHeader,
    },
}

/// Which `Host` a replica sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostHeader {
    /// The one the client sent.
    #[default]
    Client,
    /// The endpoint's own, for outside URLs that need it.
    Endpoint,
}

impl Deployment {
    /// Whether Repoint starts and stops its replicas.
    pub fn is_managed(&self) -> bool {
        matches!(self.source, Source::Bundle { .. })
    }

    /// The digest that names its bytes, or its configuration.
    pub fn digest(&self) -> Option<&str> {
        match &self.source {
            Source::Bundle { digest, .. } => Some(digest),
            Source::Endpoints { .. } => None,
        }
    }

    /// The bounds its pools start with.
    pub fn bounds(&self) -> Bounds {
        match &self.source {
            // Checked when the manifest was read.
            Source::Bundle { manifest, .. } => manifest.bounds().unwrap_or_default(),
            Source::Endpoints { .. } => Bounds::default(),
        }
    }

    /// Longest wait for one of its pools to become ready.
    pub fn ready_timeout(&self) -> Span {
        match &self.source {
            Source::Bundle { manifest, .. } => manifest.worker.ready_timeout,
            Source::Endpoints { .. } => Span::seconds(120),
        }
    }

    /// What its replicas speak.
    pub fn protocol(&self) -> Protocol {
        match &self.source {
            Source::Bundle { manifest, .. } => manifest.worker.protocol,
            Source::Endpoints { protocol, .. } => *protocol,
        }
    }

    /// The path that answers 2xx when a replica is ready.
    pub fn health_path(&self) -> Option<&str> {
        match &self.source {
            Source::Bundle { manifest, .. } => manifest.worker.health_path.as_deref(),
            Source::Endpoints { health_path, .. } => health_path.as_deref(),
        }
    }
}
