//! Who keeps something from being stopped, and by what: for the alarm, and for
//! whoever is woken by it.

use std::fmt;
use std::time::Duration;

use crate::fleet::member::State;
use crate::model::id::InstanceId;

/// Everybody who keeps something from being stopped: the first few, and how many.
/// With ten thousand proxies that lag, sentences about all would be a megabyte
/// in each event and each status.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Blockers {
    /// The first [`NAMED_MAX`] of them.
    pub named: Vec<Blocker>,
    /// All of them.
    pub count: usize,
}

/// Enough to see what they have in common; `repoint proxies` shows the rest.
pub const NAMED_MAX: usize = 20;

/// One reason why a pool or an endpoint cannot be stopped yet (invariant 9).
/// Reads as a sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Blocker {
    /// The control plane has started a moment ago: proxies that it does not know
    /// of may be about to come back.
    Settling {
        /// For how long it goes on waiting.
        left: Duration,
    },
    /// A proxy that may still serve it.
    Proxy {
        /// The proxy.
        proxy_id: String,
        /// This run of it.
        instance_id: InstanceId,
        /// Whether it is live, suspect, or gone and still within its grace.
        state: State,
        /// How long ago it was heard.
        silent_for: Duration,
        /// What it lacks.
        why: Why,
    },
}

/// What a proxy lacks before something that a change closed may be stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// It has not applied the change: it may send new requests there.
    NotApplied,
    /// The change is not on its disk: after a restart it would send requests there.
    NotDurable,
    /// It has said nothing complete since it applied the change.
    Unreported,
    /// It carries requests there.
    Busy {
        /// How many, as last reported.
        in_flight: u64,
    },
}

impl Blockers {
    /// The named ones, as sentences.
    pub fn sentences(&self) -> Vec<String> {
        self.named.iter().map(Blocker::to_string).collect()
    }
}

impl FromIterator<Blocker> for Blockers {
    fn from_iter<I: IntoIterator<Item = Blocker>>(blockers: I) -> Self {
        let mut blockers = blockers.into_iter();
        let named: Vec<_> = blockers.by_ref().take(NAMED_MAX).collect();
        let count = named.len() + blockers.count();
        Self { named, count }
    }
}

impl Blocker {
    /// Whether requests there are all that is waited for: their time may run
    /// out (`max_drain`). Nothing else may be overruled.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Proxy { why: Why::Busy { .. }, .. })
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settling { left } => {
                write!(f, "for {} s more, proxies may come back that this start does not know of", left.as_secs() + 1)
            }
            Self::Proxy { proxy_id, instance_id, state, silent_for, why } => {
                write!(f, "proxy {proxy_id} (run {instance_id}) {why}")?;
                match state {
                    State::Live => Ok(()),
                    State::Suspect | State::Gone => write!(f, ", and is silent for {} s", silent_for.as_secs()),
                }
            }
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotApplied => f.write_str("has not applied the change that closes it"),
            Self::NotDurable => f.write_str("has not got the change that closes it on disk"),
            Self::Unreported => f.write_str("has not yet said what it carries"),
            Self::Busy { in_flight: 1 } => f.write_str("carries a request of it"),
            Self::Busy { in_flight } => write!(f, "carries {in_flight} requests of it"),
        }
    }
}
