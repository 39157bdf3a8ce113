//! `GET /api/v1/moves/{id}/events` and `GET /api/v1/promotions/{id}/events`:
//! one move, as it happens, as server-sent events.
//!
//! Each event's `event:` line is [`MoveEvent::name`], its `data:` line the JSON
//! of the event. The stream begins with where the move stands, so that nothing
//! is missed by asking late, and ends after an event that is the last one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::id::{DeploymentId, InstanceId};
use crate::model::name::DeploymentRef;
use crate::model::pool::PoolState;
use crate::model::revision::Revision;
use crate::rest::history::Promotion;
use crate::rest::moves::Move;
use crate::rest::proxies::{ProxyState, RefusedChange};

/// What became of a move.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum MoveEvent {
    /// It waits for its target; said again when there is something new about that.
    Waiting {
        /// The move.
        #[serde(rename = "move")]
        pending: Move,
    },
    /// A later move of the same environment took its place. The last event.
    Superseded {
        /// The move.
        #[serde(rename = "move")]
        pending: Move,
    },
    /// The target did not become ready in time. The last event.
    TargetNotReady {
        /// The move.
        #[serde(rename = "move")]
        pending: Move,
    },
    /// It could no longer be allowed when the target was ready; the move says why. The last event.
    Refused {
        /// The move.
        #[serde(rename = "move")]
        pending: Move,
    },
    /// The pointer has moved.
    Committed {
        /// Its row in the history.
        promotion: Promotion,
    },
    /// Some proxy has not applied it yet; said again now and then.
    Applying {
        /// The change.
        revision: Revision,
        /// Live and suspect proxies.
        required: u32,
        /// Those of them that have applied it.
        applied: u32,
        /// Proxies that are gone: not waited for.
        unconfirmed: u32,
        /// Those that are waited for: the first 20.
        lagging: Vec<Laggard>,
        /// How many are waited for.
        lagging_count: usize,
        /// Those of them that refuse it: waiting alone does not help them.
        refusing_count: usize,
    },
    /// Every live and suspect proxy has applied it. The last event, unless
    /// something was served before.
    Applied {
        /// The change.
        revision: Revision,
        /// Live and suspect proxies.
        required: u32,
        /// Proxies that are gone: they follow on reconnecting.
        unconfirmed: u32,
        /// From the commit until half of the proxies had it; null where that was not seen.
        #[serde(default)]
        p50_ms: Option<f64>,
        /// Until all but one in a hundred had it.
        #[serde(default)]
        p99_ms: Option<f64>,
        /// Until the last one had it.
        #[serde(default)]
        all_ms: Option<f64>,
    },
    /// What was served before takes no new requests and finishes those it has;
    /// said again when the counts change.
    Closing {
        /// What was served before.
        deployment_id: DeploymentId,
        /// That deployment's ref.
        #[serde(rename = "ref", default)]
        reference: Option<DeploymentRef>,
        /// Requests that run on it.
        in_flight: u64,
        /// Who keeps it from being stopped and why, as sentences: the first 20.
        blocked_by: Vec<String>,
        /// How many keep it.
        blocked_by_count: usize,
    },
    /// What was served before has no request any more and is at rest. The last event.
    Drained {
        /// What was served before.
        deployment_id: DeploymentId,
        /// That deployment's ref.
        #[serde(rename = "ref", default)]
        reference: Option<DeploymentRef>,
        /// When.
        drained_at: Timestamp,
        /// Requests that still ran then, because `max_drain` was over.
        streams_cut: u64,
    },
    /// What was served before is not closing, or was opened again: it stays for
    /// pins and a rollback, unless its state says that it is at rest. The last event.
    Kept {
        /// What was served before.
        deployment_id: DeploymentId,
        /// That deployment's ref.
        #[serde(rename = "ref", default)]
        reference: Option<DeploymentRef>,
        /// Where it stands.
        state: PoolState,
        /// Requests that run on it.
        in_flight: u64,
    },
}

/// A proxy that is waited for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Laggard {
    /// The proxy.
    pub proxy_id: String,
    /// This run of it.
    pub instance_id: InstanceId,
    /// Live or suspect.
    pub state: ProxyState,
    /// How long ago it was heard.
    pub silent_for_ms: u64,
    /// What it serves; 0 while that is nothing of this store.
    pub applied_revision: Revision,
    /// The change it refuses, while it does.
    #[serde(default)]
    pub refused: Option<RefusedChange>,
}

impl MoveEvent {
    /// The event's name, as in the `event:` line of the stream.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "waiting",
            Self::Superseded { .. } => "superseded",
            Self::TargetNotReady { .. } => "target_not_ready",
            Self::Refused { .. } => "refused",
            Self::Committed { .. } => "committed",
            Self::Applying { .. } => "applying",
            Self::Applied { .. } => "applied",
            Self::Closing { .. } => "closing",
            Self::Drained { .. } => "drained",
            Self::Kept { .. } => "kept",
        }
    }
}
