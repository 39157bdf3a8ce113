//! `GET /api/v1/events`: server-sent events as things happen.
//!
//! Each event's `event:` line is [`crate::model::event::What::name`], its
//! `data:` line the JSON of a [`crate::model::event::Event`]. What happened
//! before the request is not sent: read the state first, then watch.

use serde::{Deserialize, Serialize};

use crate::model::id::EnvironmentId;

/// Query of the GET.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsQuery {
    /// Only what happens here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_id: Option<EnvironmentId>,
}
