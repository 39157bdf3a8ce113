//! `GET POST /api/v1/deployments`, `GET /api/v1/deployments/{id}`, and what is done to a deployment's pools:
//! `POST …/{id}/start`, `/terminate`, `/scale-up`, `/scale-down`.
//!
//! Those four answer with [`super::status::DeploymentStatus`], narrowed to the
//! pools they touched, and take an empty body for an empty object.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::deployment::{HostHeader, Source};
use crate::model::id::{DeploymentId, EnvironmentId, ProjectId};
use crate::model::manifest::Protocol;
use crate::model::name::DeploymentRef;
use crate::rest::history::Promotion;
use crate::rest::moves::Move;

/// Body of POST.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateDeployment {
    /// Its project.
    pub project_id: ProjectId,
    /// Where its replicas come from.
    pub source: CreateSource,
    /// What the author says about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The commit it was packed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// Point this environment at it once it is ready (a move of kind `deploy`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment_id: Option<EnvironmentId>,
    /// Replicas kept running in that environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<u32>,
    /// Replicas at most in that environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<u32>,
    /// Longest wait for the move before answering; see [`super::moves::WAIT_MS_DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// Where a new deployment's replicas come from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum CreateSource {
    /// A bundle that was uploaded before.
    Bundle {
        /// `sha256:` and the hash of the uploaded bytes, in hex.
        digest: String,
    },
    /// Workers that something else runs.
    Endpoints {
        /// Their URLs.
        endpoints: Vec<String>,
        /// What they speak; `http1` unless given.
        #[serde(default)]
        protocol: Protocol,
        /// Ready when this path answers 2xx; without one, when the port accepts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        health_path: Option<String>,
        /// Which `Host` they see; the client's unless given.
        #[serde(default)]
        host: HostHeader,
    },
    /// An OCI reference; understood, answered `not_yet_supported`.
    Image {
        /// The reference.
        reference: String,
    },
}

/// Query of the list; newest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListDeployments {
    /// Those of this project; it must be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_id: Option<ProjectId>,
    /// Only the one with this ref; give `project_id` too, refs are unique per project.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<DeploymentRef>,
    /// Items at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A deployment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Its short name, unique in the project.
    #[serde(rename = "ref")]
    pub reference: DeploymentRef,
    /// Its project.
    pub project_id: ProjectId,
    /// Where its replicas come from.
    pub source: Source,
    /// The digest of its bundle; null for endpoints.
    #[serde(default)]
    pub digest: Option<String>,
    /// What the author said about it.
    #[serde(default)]
    pub message: Option<String>,
    /// The commit it was packed from.
    #[serde(default)]
    pub git_commit: Option<String>,
    /// Its own host, which reaches its pool in `preview`.
    pub url: String,
    /// Name of the key that created it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
}

/// Answer to POST, 201: the deployment, and how far its move got in `wait_ms`.
/// Both are absent when no environment was named.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CreatedDeployment {
    /// The deployment.
    #[serde(flatten)]
    pub deployment: Deployment,
    /// The move to the named environment; follow it with `GET /api/v1/moves/{id}`.
    #[serde(rename = "move", default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Move>,
    /// The row it became, once the pointer moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<Promotion>,
}

/// Body of `start`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StartDeployment {
    /// Only here; everywhere it has a pool unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_id: Option<EnvironmentId>,
}

/// Body of `terminate`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TerminateDeployment {
    /// Only here; everywhere it has a pool unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_id: Option<EnvironmentId>,
    /// Also where it is current: requests there get `503` afterwards.
    pub force: bool,
}

/// Body of `scale-up` and `scale-down`. What is absent stays.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScaleDeployment {
    /// Only here; everywhere it has a pool unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_id: Option<EnvironmentId>,
    /// Replicas kept running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<u32>,
    /// Replicas at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROJECT: &str = "01980000-0000-7000-8000-000000000001";

    fn read(source: &str) -> Result<CreateDeployment, serde_json::Error> {
        serde_json::from_str(&format!(r#"{{"project_id":"{PROJECT}","source":{source}}}"#))
    }

    #[test]
    fn the_sources_of_the_specification_are_read() {
        let endpoints = r#"{"kind":"endpoints","endpoints":["http://127.0.0.1:9001"],"health_path":"/healthz"}"#;
        let CreateSource::Endpoints { protocol, host, .. } = read(endpoints).unwrap().source else { panic!() };
        assert_eq!((protocol, host), (Protocol::Http1, HostHeader::Client));
        assert!(read(r#"{"kind":"bundle","digest":"sha256:00"}"#).is_ok());
        assert!(read(r#"{"kind":"image","reference":"r"}"#).is_ok());
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let error = read(r#"{"kind":"bundle","digest":"sha256:00","digst":1}"#).unwrap_err();
        assert!(error.to_string().contains("digst"), "{error}");
        let body = format!(r#"{{"project_id":"{PROJECT}","source":{{"kind":"bundle","digest":"d"}},"mesage":"x"}}"#);
        let error = serde_json::from_str::<CreateDeployment>(&body).unwrap_err();
        assert!(error.to_string().contains("mesage"), "{error}");
        let error = serde_json::from_str::<ScaleDeployment>(r#"{"min":1}"#).unwrap_err();
        assert!(error.to_string().contains("min"), "{error}");
    }
}
