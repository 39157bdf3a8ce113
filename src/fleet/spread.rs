//! How a change spreads over the fleet: how long it took, and who lags behind.
//!
//! What a person looks at while a move is on its way. Pure; `control::timeline`
//! tells it. [`propagation`](crate::fleet::propagation) is the short form that
//! every answer carries.

use std::time::{Duration, Instant};

use crate::fleet::Config;
use crate::fleet::blocker::NAMED_MAX;
use crate::fleet::member::{Member, Refused, State};
use crate::model::id::InstanceId;
use crate::model::member::MemberKey;
use crate::model::revision::Revision;

/// How far a change has got, by name and in time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Spread {
    /// Live and suspect proxies.
    pub required: u32,
    /// Those of them that have applied it.
    pub applied: u32,
    /// Proxies that are gone and had not applied it.
    pub unconfirmed: u32,
    /// The first [`NAMED_MAX`] of those that are waited for.
    pub lagging: Vec<Laggard>,
    /// All of those that are waited for.
    pub lagging_count: usize,
    /// How many of those have refused it, and cannot be helped by waiting.
    pub refusing_count: usize,
    /// How long it took, over the proxies that were seen to apply it.
    pub times: Option<Times>,
}

/// A proxy that is waited for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Laggard {
    /// The proxy.
    pub proxy_id: String,
    /// This run of it.
    pub instance_id: InstanceId,
    /// Live or suspect.
    pub state: State,
    /// How long ago it was heard.
    pub silent_for: Duration,
    /// What it serves.
    pub applied: Option<Revision>,
    /// The change it refuses, while it does.
    pub refused: Option<Refused>,
}

/// How long proxies took, from the commit on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    /// Half of them were as quick.
    pub p50: Duration,
    /// All but one in a hundred were as quick.
    pub p99: Duration,
    /// The last one.
    pub all: Duration,
    /// How many were seen.
    pub measured: u32,
}

impl Spread {
    /// Whether every proxy that is waited for has applied it.
    pub fn is_complete(&self) -> bool {
        self.lagging_count == 0
    }

    pub(super) fn of<'a>(
        members: impl Iterator<Item = (&'a MemberKey, &'a Member)>,
        config: &Config,
        revision: Revision,
        committed: Instant,
        now: Instant,
    ) -> Self {
        let (mut spread, mut times) = (Self::default(), Vec::new());
        for (key, member) in members {
            let applied = member.applied >= Some(revision);
            let state = member.state(config, now);
            if state == State::Gone {
                spread.unconfirmed += u32::from(!applied);
                continue;
            }
            spread.required += 1;
            if applied {
                spread.applied += 1;
                times.extend(member.arrived_at(revision).map(|at| at.saturating_duration_since(committed)));
                continue;
            }
            spread.lagging_count += 1;
            spread.refusing_count += usize::from(member.refuses_for_good(revision));
            if spread.lagging.len() < NAMED_MAX {
                spread.lagging.push(laggard(key, member, state, now));
            }
        }
        spread.times = Times::of(times);
        spread
    }
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let all = *times.last()?;
        // The smallest time that so many in a hundred do not exceed.
        let rank = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
        Some(Self { p50: rank(50), p99: rank(99), all, measured: u32::try_from(times.len()).unwrap_or(u32::MAX) })
    }
}

fn laggard(key: &MemberKey, member: &Member, state: State, now: Instant) -> Laggard {
    Laggard {
        proxy_id: key.proxy_id.clone(),
        instance_id: key.instance_id,
        state,
        silent_for: member.silent(now),
        applied: member.applied,
        refused: member.refused.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_proxies_and_not_between_them() {
        assert_eq!(Times::of(Vec::new()), None);
        let of = |count: u64| Times::of((1..=count).rev().map(Duration::from_millis).collect()).unwrap();
        let millis = |times: Times| (times.p50.as_millis(), times.p99.as_millis(), times.all.as_millis());
        assert_eq!(millis(of(1)), (1, 1, 1));
        assert_eq!(millis(of(4)), (2, 4, 4));
        assert_eq!(millis(of(1_000)), (500, 990, 1_000));
        assert_eq!(of(1_000).measured, 1_000);
    }
}
