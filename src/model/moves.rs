//! A pending move: a pointer that will move when its target is ready.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::id::{DeploymentId, EnvironmentId, PromotionId};
use crate::model::promotion::Kind;

/// A move that was asked for and could not be committed at once. Waiting holds
/// no lock; a later move of the same environment supersedes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PendingMove {
    /// Its number; a later request has a larger one.
    pub number: u64,
    /// The environment whose pointer is to move.
    pub environment: EnvironmentId,
    /// Where to.
    pub deployment: DeploymentId,
    /// What kind of move.
    pub kind: Kind,
    /// An environment that pointed at the target when it was asked for.
    pub source_environment: Option<EnvironmentId>,
    /// Name of the key that asked.
    pub actor: String,
    /// Why, in the actor's words.
    pub reason: Option<String>,
    /// Whether the pool that is served before it closes in the same change.
    pub scale_previous_to_zero: bool,
    /// Where it stands.
    pub state: MoveState,
    /// Why it ended the way it did, for people.
    pub detail: Option<String>,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When waiting ends without a move.
    pub deadline: Timestamp,
    /// When it ended, in whatever way; none while it waits, and for moves that
    /// ended before this was kept.
    pub ended_at: Option<Timestamp>,
    /// The history row it became.
    pub promotion: Option<PromotionId>,
}

/// Where a pending move stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveState {
    /// The target is not ready yet.
    Waiting,
    /// The pointer moved.
    Committed,
    /// A later move of the same environment took its place.
    Superseded,
    /// The target did not become ready in time.
    TargetNotReady,
    /// It could no longer be allowed when the target was ready.
    Refused,
}

impl MoveState {
    /// The word used in the API and the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Committed => "committed",
            Self::Superseded => "superseded",
            Self::TargetNotReady => "target_not_ready",
            Self::Refused => "refused",
        }
    }
}
