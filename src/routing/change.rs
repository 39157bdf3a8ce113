//! Changes: what is asked of a table, and why it is refused.
//!
//! Knows nothing of tables: `routing::draft` makes the next one of a change,
//! [`live`](crate::routing::live) publishes it.

use crate::model::change::{Record, RecordKey};
use crate::model::id::{DeploymentId, EnvironmentId};
use crate::model::mass_change::MassChange;
use crate::model::revision::{Digest, Revision};

/// One step of a change.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are upserts, and each is taken apart as soon as it is applied"
)]
pub enum Change {
    /// A new or replaced record, with its digest.
    Upsert(Record, Digest),
    /// A record that is no more.
    Delete(RecordKey),
}

/// Why a change is refused. The table stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It belongs to another store's history.
    #[error("apply a change of another lineage")]
    WrongLineage,
    /// It does not begin where this table stands.
    #[error("apply a change that begins at revision {from}: this table is at {have}")]
    Gap {
        /// Where the table stands.
        have: Revision,
        /// Where the change begins.
        from: Revision,
    },
    /// What it adds up to is not what the sender says.
    #[error("apply a change whose digest does not hold")]
    DigestMismatch,
    /// A snapshot without the stamp lacks too much of what is served.
    #[error(
        "apply a snapshot that lacks so much of the table: {0}; if that is meant, give \
         `repoint proxies allow-mass-change`"
    )]
    MassChange(MassChange),
    /// A record contradicts the others.
    #[error("apply {key}: {why}")]
    Invalid {
        /// Which record.
        key: RecordKey,
        /// What is wrong with it.
        why: String,
    },
}

impl Change {
    /// The record it is about.
    pub fn key(&self) -> RecordKey {
        match self {
            Self::Upsert(record, _) => record.key(),
            Self::Delete(key) => *key,
        }
    }
}

/// A change in the order in which it is carried out: the settings, then each
/// environment with its pools, of every record only the last word.
pub(super) struct Ordered {
    changes: Vec<Change>,
    /// Places in `changes`.
    order: Vec<u32>,
}

/// What a change says about one environment.
pub(super) struct Group {
    pub(super) id: EnvironmentId,
    /// About the environment itself, and each of these pools.
    pub(super) steps: Vec<Change>,
}

impl Ordered {
    pub(super) fn new(changes: Vec<Change>) -> Self {
        let mut order: Vec<u32> = (0..changes.len() as u32).collect();
        let rank = |at: &u32| rank(changes[*at as usize].key());
        order.sort_by_key(rank);
        // Of several steps for one record the last stays.
        order.reverse();
        order.dedup_by_key(|at| rank(at));
        order.reverse();
        Self { changes, order }
    }

    /// Every step.
    pub(super) fn steps(&self) -> impl Iterator<Item = &Change> {
        self.order.iter().map(|at| &self.changes[*at as usize])
    }

    /// The step about the settings, then the groups. Each record is given away,
    /// so that a snapshot is not in memory twice for longer than it must.
    pub(super) fn into_parts(mut self) -> (Option<Change>, impl Iterator<Item = Group>) {
        let about = |changes: &[Change], at: &u32| rank(changes[*at as usize].key()).0;
        let first = self.order.first().filter(|at| about(&self.changes, at).is_none()).copied();
        let settings = first.map(|at| self.take(at));
        let mut at = usize::from(first.is_some());
        let groups = std::iter::from_fn(move || {
            let id = about(&self.changes, self.order.get(at)?)?;
            let mut steps = Vec::new();
            while let Some(step) = self.order.get(at).filter(|step| about(&self.changes, step) == Some(id)).copied() {
                steps.push(self.take(step));
                at += 1;
            }
            Some(Group { id, steps })
        });
        (settings, groups)
    }

    fn take(&mut self, at: u32) -> Change {
        std::mem::replace(&mut self.changes[at as usize], Change::Delete(RecordKey::Settings))
    }
}

/// Settings first, then every environment before its pools.
fn rank(key: RecordKey) -> (Option<EnvironmentId>, Option<DeploymentId>) {
    match key {
        RecordKey::Settings => (None, None),
        RecordKey::Environment(id) => (Some(id), None),
        RecordKey::Pool(key) => (Some(key.environment), Some(key.deployment)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    use crate::model::pool::PoolKey;

    #[test]
    fn steps_are_grouped_by_environment_and_the_last_word_stays() {
        let environment = |n| RecordKey::Environment(Uuid::from_u128(n).into());
        let pool = |e, d| {
            let (environment, deployment) = (Uuid::from_u128(e).into(), Uuid::from_u128(d).into());
            RecordKey::Pool(PoolKey { environment, deployment })
        };
        let keys = [pool(2, 1), environment(2), pool(1, 1), RecordKey::Settings, pool(2, 1), environment(1)];
        let ordered = Ordered::new(keys.into_iter().map(Change::Delete).collect());
        assert_eq!(ordered.steps().count(), 5);
        let (settings, groups) = ordered.into_parts();
        assert_eq!(settings.map(|step| step.key()), Some(RecordKey::Settings));
        let groups: Vec<Vec<_>> = groups.map(|group| group.steps.iter().map(Change::key).collect()).collect();
        assert_eq!(groups, [vec![environment(1), pool(1, 1)], vec![environment(2), pool(2, 1)]]);
    }
}
