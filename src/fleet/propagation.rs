//! How far a change has got: what a promote answers.

use std::time::Duration;

use crate::fleet::member::Reason;
use crate::model::revision::Revision;

/// How far a change has got.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Propagation {
    /// Live and suspect proxies.
    pub required: u32,
    /// Those of them that have applied it.
    pub applied: u32,
    /// Those of them that have not and have refused a change.
    pub refused: Vec<Refusal>,
    /// Proxies that are gone and had not applied it: they may still serve the
    /// old pointer, and are not waited for.
    pub unconfirmed: u32,
    /// How long was waited.
    pub elapsed_ms: u64,
    /// All required have applied it.
    pub complete: bool,
}

/// A proxy that refused a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Which proxy.
    pub proxy_id: String,
    /// The revision it did not move to.
    pub revision: Revision,
    /// Why.
    pub reason: Reason,
    /// What is wrong, for people.
    pub detail: String,
}

impl Propagation {
    /// The same, after a wait.
    pub(super) fn after(self, elapsed: Duration) -> Self {
        Self { elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX), ..self }
    }
}
