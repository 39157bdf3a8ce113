//! `GET POST /api/v1/environments`, `GET PUT DELETE /api/v1/environments/{id}`.
//!
//! PUT is partial: absent fields stay. Locking is a PUT of `locked`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::host::HostPattern;
use crate::model::id::{DeploymentId, EnvironmentId, ProjectId};
use crate::model::name::{DeploymentRef, EnvironmentName, ProjectName};
use crate::model::policy::{Door, Policy};
use crate::rest::moves::Move;
use crate::rest::nullable;
use crate::rest::status::PoolSummary;

/// Body of POST.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateEnvironment {
    /// Its project.
    pub project_id: ProjectId,
    /// Its name, unique in the project.
    pub name: EnvironmentName,
    /// Hosts besides the one made from its names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// What it asks of the ingress; defaults stand for what is absent.
    #[serde(default)]
    pub policy: PolicyUpdate,
    /// Replicas that its pools keep running, unless a move says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<u32>,
    /// Replicas that its pools have at most, unless a move says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<u32>,
}

/// Query of the list; by project, then in order of creation.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListEnvironments {
    /// Only those of this project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_id: Option<ProjectId>,
    /// Items at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Body of PUT. What is absent stays.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateEnvironment {
    /// Every host besides the one made from its names; replaces the earlier ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<HostPattern>>,
    /// What it asks of the ingress; what is absent in it stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyUpdate>,
    /// Replicas that its pools keep running. Null here or in `max_replicas`
    /// gives both back to the deployment.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<Option<u32>>,
    /// Replicas that its pools have at most.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<Option<u32>>,
    /// Refuse deploys and promotes, or allow them again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked: Option<bool>,
    /// Why, for those who are refused; only together with `locked: true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked_reason: Option<String>,
}

/// A partial [`Policy`]: the same fields, what is absent stays.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyUpdate {
    /// Whether `X-Deployment-ID` on a request may choose another open pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pins: Option<Door>,
    /// Whether deployment hosts reach this environment; null: the default.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    pub deployment_hosts: Option<Option<Door>>,
    /// Largest request body, in bytes; 0 means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_body_max: Option<u64>,
    /// Longest wait for a connection to a replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout_ms: Option<u64>,
    /// Longest wait for a replica to begin its answer; 0 means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_start_timeout_ms: Option<u64>,
    /// Longest pause inside a unary answer; 0 means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_idle_timeout_ms: Option<u64>,
    /// Longest pause inside a stream of server-sent events; 0 means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sse_idle_timeout_ms: Option<u64>,
    /// Longest pause inside a gRPC answer; 0 means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_idle_timeout_ms: Option<u64>,
    /// Longest silence of both ends of a tunnel; 0 means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub websocket_idle_timeout_ms: Option<u64>,
    /// Requests that run at once on one proxy; 0 means half of what it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight_max: Option<u64>,
    /// Requests that one replica is given at once by one proxy; 0 means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_concurrency_max: Option<u64>,
    /// Requests that may wait for a replica of one pool on one proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_max: Option<u64>,
    /// Longest wait for a replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_timeout_ms: Option<u64>,
    /// How long a replica that comes to others is given less; 0 means not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start_ms: Option<u64>,
    /// Longest wait for running requests when a pool is to be stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_drain_ms: Option<u64>,
    /// How long a pool that nothing needs any more keeps its replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_previous_warm_ms: Option<u64>,
}

impl PolicyUpdate {
    /// `policy` with what is given here in its place.
    pub fn onto(&self, mut policy: Policy) -> Policy {
        policy.pins = self.pins.unwrap_or(policy.pins);
        policy.deployment_hosts = self.deployment_hosts.unwrap_or(policy.deployment_hosts);
        policy.request_body_max = self.request_body_max.unwrap_or(policy.request_body_max);
        policy.connect_timeout_ms = self.connect_timeout_ms.unwrap_or(policy.connect_timeout_ms);
        policy.response_start_timeout_ms = self.response_start_timeout_ms.unwrap_or(policy.response_start_timeout_ms);
        policy.response_idle_timeout_ms = self.response_idle_timeout_ms.unwrap_or(policy.response_idle_timeout_ms);
        policy.sse_idle_timeout_ms = self.sse_idle_timeout_ms.unwrap_or(policy.sse_idle_timeout_ms);
        policy.grpc_idle_timeout_ms = self.grpc_idle_timeout_ms.unwrap_or(policy.grpc_idle_timeout_ms);
        policy.websocket_idle_timeout_ms = self.websocket_idle_timeout_ms.unwrap_or(policy.websocket_idle_timeout_ms);
        policy.in_flight_max = self.in_flight_max.unwrap_or(policy.in_flight_max);
        policy.endpoint_concurrency_max = self.endpoint_concurrency_max.unwrap_or(policy.endpoint_concurrency_max);
        policy.queue_max = self.queue_max.unwrap_or(policy.queue_max);
        policy.queue_timeout_ms = self.queue_timeout_ms.unwrap_or(policy.queue_timeout_ms);
        policy.slow_start_ms = self.slow_start_ms.unwrap_or(policy.slow_start_ms);
        policy.max_drain_ms = self.max_drain_ms.unwrap_or(policy.max_drain_ms);
        policy.keep_previous_warm_ms = self.keep_previous_warm_ms.unwrap_or(policy.keep_previous_warm_ms);
        policy
    }
}

/// An environment, as lists show it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Environment {
    /// Its id.
    pub id: EnvironmentId,
    /// Its project.
    pub project_id: ProjectId,
    /// Its project's name.
    pub project: ProjectName,
    /// Its name.
    pub name: EnvironmentName,
    /// Where requests reach it.
    pub url: String,
    /// Every host it answers to; the first is the one made from its names.
    pub hosts: Vec<HostPattern>,
    /// The deployment it serves.
    pub current_deployment_id: Option<DeploymentId>,
    /// That deployment's ref.
    #[serde(default)]
    pub current_ref: Option<DeploymentRef>,
    /// Whether deploys and promotes are refused.
    pub locked: bool,
    /// Why, if somebody said so.
    #[serde(default)]
    pub locked_reason: Option<String>,
    /// Replicas that its pools keep running; null: the deployment's own.
    #[serde(default)]
    pub min_replicas: Option<u32>,
    /// Replicas that its pools have at most; null: the deployment's own.
    #[serde(default)]
    pub max_replicas: Option<u32>,
    /// What it asks of the ingress.
    pub policy: Policy,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its settings or its pointer changed last.
    pub updated_at: Timestamp,
}

/// An environment with what stands behind it: answer to GET of one, POST and PUT.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EnvironmentDetail {
    /// The environment.
    #[serde(flatten)]
    pub environment: Environment,
    /// Where a rollback would land now; null: nowhere.
    pub rollback_target: Option<DeploymentId>,
    /// That deployment's ref.
    #[serde(default)]
    pub rollback_target_ref: Option<DeploymentRef>,
    /// Its pools, the current deployment's first.
    pub pools: Vec<PoolSummary>,
    /// The move that waits for its target, if one does.
    #[serde(default)]
    pub pending_move: Option<Move>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(text: &str) -> UpdateEnvironment {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn absent_null_and_value_are_told_apart() {
        assert_eq!(update("{}"), UpdateEnvironment::default());
        assert_eq!(update(r#"{"min_replicas":null}"#).min_replicas, Some(None));
        assert_eq!(update(r#"{"min_replicas":2}"#).min_replicas, Some(Some(2)));
        let policy = update(r#"{"policy":{"deployment_hosts":null}}"#).policy.unwrap();
        assert_eq!(policy.deployment_hosts, Some(None));
        assert_eq!(serde_json::to_string(&update(r#"{"min_replicas":null}"#)).unwrap(), r#"{"min_replicas":null}"#);
    }

    #[test]
    fn what_is_absent_in_a_policy_stays() {
        let before = Policy { connect_timeout_ms: 7, deployment_hosts: Some(Door::Open), ..Policy::default() };
        let update: PolicyUpdate = serde_json::from_str(r#"{"pins":"off","deployment_hosts":null}"#).unwrap();
        let after = update.onto(before.clone());
        assert_eq!(after, Policy { pins: Door::Off, deployment_hosts: None, ..before });
    }

    #[test]
    fn every_field_of_a_policy_can_be_set() {
        let other = Policy {
            pins: Door::Off,
            deployment_hosts: Some(Door::Open),
            request_body_max: 1,
            connect_timeout_ms: 2,
            response_start_timeout_ms: 3,
            response_idle_timeout_ms: 4,
            sse_idle_timeout_ms: 7,
            grpc_idle_timeout_ms: 8,
            websocket_idle_timeout_ms: 9,
            in_flight_max: 10,
            endpoint_concurrency_max: 11,
            queue_max: 12,
            queue_timeout_ms: 13,
            slow_start_ms: 14,
            max_drain_ms: 5,
            keep_previous_warm_ms: 6,
        };
        let update: PolicyUpdate = serde_json::from_value(serde_json::to_value(&other).unwrap()).unwrap();
        assert_eq!(update.onto(Policy::default()), other);
    }

    #[test]
    fn unknown_fields_and_bad_hosts_are_refused_by_name() {
        let error = serde_json::from_str::<UpdateEnvironment>(r#"{"lock":true}"#).unwrap_err();
        assert!(error.to_string().contains("lock"), "{error}");
        let error = serde_json::from_str::<UpdateEnvironment>(r#"{"hosts":["http://a"]}"#).unwrap_err();
        assert!(error.to_string().contains("http://a"), "{error}");
        let error = serde_json::from_str::<UpdateEnvironment>(r#"{"policy":{"pin":"off"}}"#).unwrap_err();
        assert!(error.to_string().contains("pin"), "{error}");
    }
}
