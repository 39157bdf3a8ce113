//! `POST /api/v1/import` and `GET /api/v1/export`: what is routed, as text.
//!
//! Both are `application/x-ndjson`: one JSON object a line, whose `kind` says
//! what it describes. Names stand for objects, never ids, so that a file can be
//! written by hand and read into any store. Lines may come in any order.
//!
//! An import answers with lines too: [`Said::Progress`] while it works, and as
//! the last one what came of it. What is refused before anything is written is
//! answered like every other refusal, `import_invalid` with [`LineError`]s in
//! its details.

use serde::{Deserialize, Serialize};

use crate::model::host::HostPattern;
use crate::model::name::{DeploymentRef, EnvironmentName, ProjectName};
use crate::model::revision::Revision;
use crate::rest::deployments::CreateSource;
use crate::rest::environments::PolicyUpdate;
use crate::rest::error::{ErrorBody, ErrorCode};
use crate::rest::moves::Propagation;
use crate::rest::nullable;

/// The media type of a file of lines.
pub const MEDIA_TYPE: &str = "application/x-ndjson";

/// One line of a file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// A project, with the three environments that every project has.
    Project(ProjectLine),
    /// A deployment of endpoints.
    Deployment(DeploymentLine),
    /// An environment and its settings.
    Environment(EnvironmentLine),
    /// What an environment points at.
    Pointer(PointerLine),
    /// What an export had to leave out, for whoever reads the file; imports pass over it.
    Skipped(SkippedLine),
}

/// A project.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectLine {
    /// Its name.
    pub name: ProjectName,
}

/// A deployment. One that is there already has to be the same: deployments never change.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentLine {
    /// Its project.
    pub project: ProjectName,
    /// Its short name, unique in the project: 8 of `bcdfghjkmnpqrstvwxyz23456789`.
    #[serde(rename = "ref")]
    pub reference: DeploymentRef,
    /// Where its replicas are; `endpoints` is the only kind that a file carries.
    pub source: CreateSource,
    /// What the author says about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The commit it was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
}

/// An environment. What is absent stays, or is the default of a new one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentLine {
    /// Its project.
    pub project: ProjectName,
    /// Its name, unique in the project.
    pub name: EnvironmentName,
    /// Every host besides the one made from its names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<HostPattern>>,
    /// What it asks of the ingress; what is absent in it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyUpdate>,
    /// Replicas that its pools keep running; null: the deployment's own.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<Option<u32>>,
    /// Replicas that its pools have at most; null: the deployment's own.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<Option<u32>>,
    /// Whether deploys and promotes are refused from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked: Option<bool>,
    /// Why; only together with `locked: true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_reason: Option<String>,
}

/// What an environment points at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointerLine {
    /// The project of both.
    pub project: ProjectName,
    /// The environment.
    pub environment: EnvironmentName,
    /// The deployment.
    #[serde(rename = "ref")]
    pub reference: DeploymentRef,
}

/// A pointer that an export left out, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SkippedLine {
    /// The project of both.
    pub project: ProjectName,
    /// The environment that has the pointer.
    pub environment: EnvironmentName,
    /// What it points at.
    #[serde(rename = "ref")]
    pub reference: DeploymentRef,
    /// Why a file cannot carry that.
    pub reason: String,
}

/// Query of the import.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImportQuery {
    /// Longest wait for the proxies before the last line; see [`super::moves::WAIT_MS_DEFAULT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// One line of the answer to an import.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Said {
    /// How far it is.
    Progress(Progress),
    /// The last line: it is committed.
    Imported(Imported),
    /// The last line: it failed, and nothing of it is there.
    Error(ErrorBody),
}

/// How far an import is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done: `waiting`, `checking`, `writing`, `committing`, `applying`; more may be added.
    pub step: String,
    /// So many rows of so many.
    pub done: u64,
    /// Rows in this step; 0 where they are not counted.
    pub of: u64,
}

/// What an import came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Imported {
    /// Whether anything is different now.
    pub changed: bool,
    /// The change that carried all of it, or the head where nothing changed.
    pub revision: Revision,
    /// Projects of the file.
    pub projects: Tally,
    /// Deployments of the file.
    pub deployments: Tally,
    /// Environments of the file, and those that its new projects came with.
    pub environments: Tally,
    /// Pointers of the file; `changed` ones were moved from another deployment.
    pub pointers: Tally,
    /// From the start of the transaction to its end, in which nobody else could write.
    pub transaction_ms: u64,
    /// How far it is applied.
    pub propagation: Propagation,
}

/// How many there are of a noun.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// That were not there before.
    pub created: u64,
    /// That were there and are different now.
    pub changed: u64,
    /// That were there like this.
    pub unchanged: u64,
}

/// What is wrong with one line of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LineError {
    /// Its number; the first is 1.
    pub line: u64,
    /// For programs; the code that the same mistake has elsewhere in the API.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Line, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn every_kind_of_line_is_read_and_written_alike() {
        let lines = [
            r#"{"kind":"project","name":"support"}"#,
            r#"{"kind":"deployment","project":"support","ref":"k3v9x2bb","source":{"kind":"endpoints","endpoints":["http://127.0.0.1:9001"],"protocol":"http1","host":"client"}}"#,
            r#"{"kind":"environment","project":"support","name":"production","hosts":["a.example"],"min_replicas":null,"locked":true}"#,
            r#"{"kind":"pointer","project":"support","environment":"production","ref":"k3v9x2bb"}"#,
            r#"{"kind":"skipped","project":"support","environment":"production","ref":"k3v9x2bb","reason":"a bundle"}"#,
        ];
        for line in lines {
            assert_eq!(serde_json::to_string(&read(line).unwrap()).unwrap(), line);
        }
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (line, named) in [
            (r#"{"kind":"secret"}"#, "secret"),
            (r#"{"name":"support"}"#, "kind"),
            (r#"{"kind":"project","name":"support","owner":"me"}"#, "owner"),
            (r#"{"kind":"project","name":"No"}"#, "lower-case"),
            (r#"{"kind":"environment","project":"support","name":"a","policy":{"pin":"off"}}"#, "pin"),
            (r#"{"kind":"pointer","project":"support","environment":"a","ref":"LOUD"}"#, "8 lower-case"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(named), "{line}: {error}");
        }
    }
}
