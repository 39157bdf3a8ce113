//! What happened, for those who watch: `GET /api/v1/events`.
//!
//! Published after the transaction that made it true. An event carries facts
//! for people and dashboards; nothing in Repoint depends on receiving one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::id::{DeploymentId, EnvironmentId};
use crate::model::pool::PoolState;
use crate::model::promotion::Kind;
use crate::model::revision::Revision;

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A pointer moved; the move is committed.
    PointerMoved {
        /// The environment.
        environment_id: EnvironmentId,
        /// What kind of move.
        kind: Kind,
        /// What it named before.
        from: Option<DeploymentId>,
        /// What it names now.
        to: DeploymentId,
        /// The change that carried it.
        revision: Revision,
    },
    /// Every live and suspect proxy has applied a move.
    Applied {
        /// The environment.
        environment_id: EnvironmentId,
        /// The change they applied.
        revision: Revision,
    },
    /// A pool's state changed.
    PoolState {
        /// The environment it serves.
        environment_id: EnvironmentId,
        /// The deployment its replicas run.
        deployment_id: DeploymentId,
        /// Where it stands now.
        state: PoolState,
        /// How many endpoints take requests.
        ready: usize,
    },
    /// A pool takes no new requests and waits for the running ones.
    Draining {
        /// The environment it serves.
        environment_id: EnvironmentId,
        /// The deployment its replicas run.
        deployment_id: DeploymentId,
    },
    /// Every proxy has shown the pool idle.
    Drained {
        /// The environment it served.
        environment_id: EnvironmentId,
        /// The deployment its replicas ran.
        deployment_id: DeploymentId,
    },
    /// Something that is to be stopped cannot be, although its time is over:
    /// somebody should look.
    StopBlocked {
        /// The environment it serves.
        environment_id: EnvironmentId,
        /// The deployment its replicas run.
        deployment_id: DeploymentId,
        /// Who holds it up and why, as sentences: the first 20 of them.
        blocked_by: Vec<String>,
        /// How many hold it up.
        blocked_by_count: usize,
    },
    /// A pending move ended without moving the pointer.
    MoveEnded {
        /// Its number.
        number: u64,
        /// The environment.
        environment_id: EnvironmentId,
        /// How: `superseded`, `target_not_ready` or `refused`.
        state: crate::model::moves::MoveState,
    },
}

impl What {
    /// The event's name, as in the `event:` line of the stream.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PointerMoved { .. } => "pointer_moved",
            Self::Applied { .. } => "applied",
            Self::PoolState { .. } => "pool_state",
            Self::Draining { .. } => "draining",
            Self::Drained { .. } => "drained",
            Self::StopBlocked { .. } => "stop_blocked",
            Self::MoveEnded { .. } => "move_ended",
        }
    }
}
