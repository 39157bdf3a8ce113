//! Moving a pointer: `POST /api/v1/deployments/promote` and `/rollback`, and following a move.
//!
//! A move that can be made now answers 200 with [`Moved`]; one that has to wait
//! for readiness answers 202 with [`Pending`]. `GET /api/v1/moves/{id}` shows a
//! move until it ends and answers with [`Pending`] too;
//! `GET /api/v1/promotions/{id}/propagation` waits further for the proxies
//! after a move was committed and answers with [`Moved`]. Both GETs take
//! [`WaitQuery`].

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::id::{DeploymentId, EnvironmentId, PromotionId};
use crate::model::moves::MoveState;
use crate::model::name::DeploymentRef;
use crate::model::pool::PoolState;
use crate::model::promotion::Kind;
use crate::model::revision::Revision;
use crate::rest::history::Promotion;
use crate::rest::nullable;

/// How long a move waits before it answers, unless `wait_ms` says otherwise.
pub const WAIT_MS_DEFAULT: u64 = 2_000;

/// The largest `wait_ms`: shorter than the patience of most HTTP clients.
pub const WAIT_MS_MAX: u64 = 60_000;

/// Body of `promote`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promote {
    /// What to point at.
    pub source_deployment_id: DeploymentId,
    /// The environment whose pointer moves.
    pub target_environment_id: EnvironmentId,
    /// Replicas kept running there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<u32>,
    /// Replicas at most there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<u32>,
    /// Drain and stop the pool that was served before.
    #[serde(default)]
    pub scale_previous_to_zero: bool,
    /// Refuse unless the pointer names this now; null means nothing.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    pub expected_current_deployment_id: Option<Option<DeploymentId>>,
    /// Why, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Start the deployment again where it was terminated.
    #[serde(default)]
    pub start: bool,
    /// Longest wait before answering.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// Body of `POST /api/v1/promotions`: several moves in one change, all or none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromoteAll {
    /// The moves, [`PROMOTIONS_MAX`] at most and one of each environment.
    pub promotions: Vec<PromoteOne>,
    /// Why, for the history of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Longest wait before answering.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// Moves of one list: what a transaction of a second or two carries.
pub const PROMOTIONS_MAX: usize = 1_000;

/// One move of a list. Its target has to be ready: nothing in a list waits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromoteOne {
    /// What to point at.
    pub source_deployment_id: DeploymentId,
    /// The environment whose pointer moves.
    pub target_environment_id: EnvironmentId,
    /// Refuse unless the pointer names this now; null means nothing.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    pub expected_current_deployment_id: Option<Option<DeploymentId>>,
    /// Drain and stop the pool that was served before.
    #[serde(default)]
    pub scale_previous_to_zero: bool,
}

/// Answer to a list of moves, 200.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MovedAll {
    /// Whether this request moved any pointer.
    pub changed: bool,
    /// The one change that carried them; where nothing moved, the head.
    pub revision: Revision,
    /// What came of each, in the order they were asked for.
    pub promotions: Vec<MovedOne>,
    /// How far the change is applied.
    pub propagation: Propagation,
}

/// One move of a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MovedOne {
    /// Whether this request moved the pointer; false: it named the target already.
    pub changed: bool,
    /// Its row in the history; where nothing moved, the row that made the target current.
    pub promotion: Promotion,
    /// What was served before; null where nothing was, or nothing moved.
    #[serde(default)]
    pub previous: Option<Previous>,
}

/// Body of `rollback`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The environment whose pointer moves back.
    pub environment_id: EnvironmentId,
    /// Go back to this one; the environment's `rollback_target` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_deployment_id: Option<DeploymentId>,
    /// Refuse unless the pointer names this now; null means nothing.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    pub expected_current_deployment_id: Option<Option<DeploymentId>>,
    /// Move before the target is ready; understood, answered `not_yet_supported`.
    #[serde(default)]
    pub immediate: bool,
    /// Why, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Longest wait before answering.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// Query of the two GETs that follow a move.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WaitQuery {
    /// Answer when there is an outcome, or after this long; at once unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// Answer to a move that is committed, 200.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moved {
    /// Whether this request moved the pointer; false: it named the target already.
    pub changed: bool,
    /// The committed change that carried the move.
    pub revision: Revision,
    /// Its row in the history; where nothing moved, the row that made the target current.
    pub promotion: Promotion,
    /// How far it is applied.
    pub propagation: Propagation,
    /// What was served before; null where nothing was, or nothing moved.
    #[serde(default)]
    pub previous: Option<Previous>,
    /// Nearer rollback targets passed over because they no longer exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<DeploymentId>,
}

/// How far a committed move is applied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Propagation {
    /// Live and suspect proxies.
    pub required: u32,
    /// Those of them that have applied it.
    pub applied: u32,
    /// Those that refused it.
    pub refused: Vec<RefusedBy>,
    /// Proxies that are gone: not waited for.
    pub unconfirmed: u32,
    /// From the commit to this answer, or to the last required proxy.
    pub elapsed_ms: u64,
    /// Whether all required proxies have applied it.
    pub complete: bool,
}

/// A proxy that refused a change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RefusedBy {
    /// Which proxy.
    pub proxy_id: String,
    /// Why, from the control stream's closed list.
    pub reason: String,
}

/// The pool that was served before a move.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Previous {
    /// Its deployment.
    pub deployment_id: DeploymentId,
    /// That deployment's ref.
    #[serde(rename = "ref", default)]
    pub reference: Option<DeploymentRef>,
    /// Where it stands now.
    pub state: PoolState,
    /// Requests that still run on it, as last reported.
    pub in_flight: u64,
}

/// Answer to a move that waits for its target, 202; and to `GET /api/v1/moves/{id}`, 200.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pending {
    /// The move.
    #[serde(rename = "move")]
    pub pending: Move,
}

/// A move that was asked for and could not be committed at once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Move {
    /// Its number; a later request has a larger one.
    pub id: u64,
    /// The environment whose pointer is to move.
    pub environment_id: EnvironmentId,
    /// Where to.
    pub deployment_id: DeploymentId,
    /// What kind of move.
    pub kind: Kind,
    /// Where it stands.
    pub state: MoveState,
    /// What it waits for, or why it ended the way it did, for people.
    #[serde(default)]
    pub detail: Option<String>,
    /// Name of the key that asked.
    pub actor: String,
    /// Why, in the actor's words.
    #[serde(default)]
    pub reason: Option<String>,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When waiting ends without a move.
    pub deadline: Timestamp,
    /// When it ended, in whatever way; null while it waits, and for moves that
    /// ended before servers kept it.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// The history row it became, once committed.
    #[serde(default)]
    pub promotion_id: Option<PromotionId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_promote_of_the_specification_is_read() {
        let id = "01980000-0000-7000-8000-000000000001";
        let base = format!(r#""source_deployment_id":"{id}","target_environment_id":"{id}""#);
        let read = |more: &str| serde_json::from_str::<Promote>(&format!("{{{base}{more}}}"));
        assert!(read(r#","scale_previous_to_zero":true"#).unwrap().scale_previous_to_zero);
        assert_eq!(read("").unwrap().expected_current_deployment_id, None);
        assert_eq!(
            read(r#","expected_current_deployment_id":null"#).unwrap().expected_current_deployment_id,
            Some(None)
        );
        assert!(read(r#","wait":1"#).unwrap_err().to_string().contains("wait"));
        assert!(read(r#","wait_ms":"long""#).is_err());
    }

    #[test]
    fn an_answer_with_fields_of_a_newer_server_is_read() {
        let text = r#"{"required":3,"applied":3,"refused":[],"unconfirmed":0,"elapsed_ms":4,"complete":true,"new":1}"#;
        assert!(serde_json::from_str::<Propagation>(text).unwrap().complete);
    }
}
