//! `GET POST /api/v1/projects`, `GET DELETE /api/v1/projects/{id}`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::id::{EnvironmentId, ProjectId};
use crate::model::name::{EnvironmentName, ProjectName};

/// Body of POST.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateProject {
    /// Its name, unique in the installation.
    pub name: ProjectName,
}

/// Query of the list; oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListProjects {
    /// Only the project of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<ProjectName>,
    /// Items at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A project.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Project {
    /// Its id.
    pub id: ProjectId,
    /// Its name.
    pub name: ProjectName,
    /// When it was created.
    pub created_at: Timestamp,
    /// Its environments, the defaults first.
    #[serde(default)]
    pub environments: Vec<EnvironmentLink>,
}

/// An environment, as its project lists it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EnvironmentLink {
    /// Its id.
    pub id: EnvironmentId,
    /// Its name.
    pub name: EnvironmentName,
    /// Where requests reach it.
    pub url: String,
}
