//! What is said over the REST API: the shape of every request and answer.
//!
//! Owns field names, the closed list of error codes and their HTTP statuses. No
//! logic, no I/O and no transport: `control::api` answers in these shapes and
//! `cli` asks in them, so that the two cannot drift apart. Requests refuse
//! unknown fields; answers tolerate them, so that an older command line can
//! read a newer server.
//!
//! Fields may be added, never renamed.

pub mod bundles;
pub mod deployments;
pub mod environments;
pub mod error;
pub mod events;
pub mod history;
pub mod logs;
pub mod move_events;
pub mod moves;
pub mod page;
pub mod projects;
pub mod proxies;
pub mod status;
pub mod transfer;

use serde::{Deserialize, Deserializer, Serialize};

/// Header that carries the API key; `Authorization: Bearer` is understood too.
pub const KEY_HEADER: &str = "x-api-key";

/// Query of DELETE on a project or an environment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeleteQuery {
    /// Drain what is served and delete it all the same.
    pub force: bool,
    /// Delete it although it is more than an accident should be able to.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_mass_change: bool,
}

/// Answer to a DELETE.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Deleted {
    /// What is gone.
    pub id: String,
    /// False with a 202: nothing new arrives there, what runs finishes, and the
    /// same request again finds it gone.
    pub deleted: bool,
}

/// Reads a field that may be absent, `null` or a value, as `None`,
/// `Some(None)` and `Some(Some(_))`: serde alone takes `null` for absent.
fn nullable<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}
