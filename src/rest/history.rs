//! `GET /api/v1/environments/{id}/promotion-history`: newest first, paged.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::id::{DeploymentId, EnvironmentId, PromotionId};
use crate::model::name::DeploymentRef;
use crate::model::promotion::Kind;
use crate::model::revision::Revision;

/// A row of the promotion history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Promotion {
    /// Its id.
    pub id: PromotionId,
    /// Its place in the environment's history; 1 is the first, without gaps.
    pub sequence: u64,
    /// What kind of move.
    pub kind: Kind,
    /// The environment that moved.
    pub environment_id: EnvironmentId,
    /// What the pointer named before.
    pub from_deployment_id: Option<DeploymentId>,
    /// That deployment's ref.
    #[serde(default)]
    pub from_ref: Option<DeploymentRef>,
    /// What it names since.
    pub to_deployment_id: DeploymentId,
    /// That deployment's ref.
    #[serde(default)]
    pub to_ref: Option<DeploymentRef>,
    /// An environment that pointed at it when it was promoted, where known.
    #[serde(default)]
    pub source_environment_id: Option<EnvironmentId>,
    /// Name of the key that asked for it.
    pub actor: String,
    /// Why, in the actor's words.
    #[serde(default)]
    pub reason: Option<String>,
    /// The committed change that carried it.
    pub revision: Revision,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// When every live and suspect proxy had applied it.
    #[serde(default)]
    pub applied_at: Option<Timestamp>,
    /// When what was served before had no request any more and was put to rest,
    /// if it came to that.
    #[serde(default)]
    pub previous_drained_at: Option<Timestamp>,
    /// Requests that still ran on it then, because `max_drain` was over.
    #[serde(default)]
    pub streams_cut: Option<u64>,
}
