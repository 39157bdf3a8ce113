//! `GET /api/v1/deployments/{id}/logs`: what the replicas wrote.
//!
//! The answer is `application/x-ndjson`, one [`LogLine`] a line, oldest first.
//! With `follow=true` it goes on until the client leaves; empty lines in between
//! keep the connection alive and mean nothing.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::id::{EndpointId, EnvironmentId};
use crate::model::name::EnvironmentName;

/// Content type of the answer.
pub const CONTENT_TYPE: &str = "application/x-ndjson";

/// Lines at the end that are shown unless `tail` says otherwise.
pub const TAIL_DEFAULT: u32 = 100;

/// Query of `logs`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogsQuery {
    /// Only replicas here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_id: Option<EnvironmentId>,
    /// Only this replica, by its endpoint's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica: Option<EndpointId>,
    /// So many lines at the end of what there is; [`TAIL_DEFAULT`] unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
    /// Go on with new lines as they are written.
    pub follow: bool,
}

/// One line of a replica's output.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was read from the replica.
    pub at: Timestamp,
    /// The environment the replica serves.
    pub environment: EnvironmentName,
    /// The replica.
    pub endpoint_id: EndpointId,
    /// Where it comes from.
    pub stream: Stream,
    /// The line, without its end; bytes that are no UTF-8 are replaced.
    pub text: String,
}

/// Where a line comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
    /// Not the replica but the supervisor, about it: started, ended, why.
    Note,
}
