//! A promotion: one row of an environment's history, and why a move is refused.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::id::{DeploymentId, EnvironmentId, PromotionId};
use crate::model::revision::Revision;

/// A committed move of a pointer. Append-only: the facts never change, the
/// three outcomes at the end are set once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Promotion {
    /// Its id.
    pub id: PromotionId,
    /// Its place in the environment's history; 1 is the first, without gaps.
    pub sequence: u64,
    /// Sequence of the row beneath it on the history stack: what a rollback
    /// from here goes back to.
    pub below: Option<u64>,
    /// The environment that moved.
    pub environment: EnvironmentId,
    /// What kind of move.
    pub kind: Kind,
    /// What the pointer named before.
    pub from: Option<DeploymentId>,
    /// What it names since.
    pub to: DeploymentId,
    /// An environment that pointed at `to` when it was promoted, where known.
    pub source_environment: Option<EnvironmentId>,
    /// Name of the key that asked for it.
    pub actor: String,
    /// Why, in the actor's words.
    pub reason: Option<String>,
    /// The committed change that carried it.
    pub revision: Revision,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// When every live and suspect proxy had applied it. Set once.
    pub applied_at: Option<Timestamp>,
    /// When what was served before had no request any more and was put to rest,
    /// if it came to that. Set once.
    pub previous_drained_at: Option<Timestamp>,
    /// Requests that still ran on it then, because `max_drain` was over. Set
    /// together with the time.
    pub streams_cut: Option<u64>,
}

/// What kind of move.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A new deployment pointed at by the command that created it.
    Deploy,
    /// An existing deployment.
    Promote,
    /// Back to what the environment served before.
    Rollback,
}

impl Kind {
    /// The word used in the API and the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Promote => "promote",
            Self::Rollback => "rollback",
        }
    }
}

/// Why a move is refused. A refusal changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Somebody locked the environment.
    #[error("the environment is locked{}; unlock it first with `repoint env unlock`, or roll back, which a lock allows", because(.reason))]
    Locked {
        /// Why, if they said so.
        reason: String,
    },
    /// Deployments do not cross projects.
    #[error("no such deployment in this environment's project; deploy it there first")]
    OtherProject,
    /// The pool was terminated on purpose.
    #[error(
        "the deployment was terminated in this environment; start it first with `repoint deployment start`, or promote with start: true"
    )]
    Terminated,
    /// The caller expected another current deployment.
    #[error("the environment's pointer moved meanwhile; look at its current deployment and decide again")]
    PointerMoved {
        /// What it names now.
        current: Option<DeploymentId>,
    },
    /// There is nothing beneath the current deployment.
    #[error("the environment has no earlier deployment to go back to; promote the one you want instead")]
    NoRollbackTarget,
    /// The asked target was never served here, or was rolled back past.
    #[error("the deployment is not on this environment's history stack; promote it instead")]
    NotInHistory,
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}
