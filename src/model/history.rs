//! The history as a stack: what a rollback goes back to.
//!
//! Deploy and promote push; a rollback pops down to its target and still writes
//! its own row. Each row remembers the row beneath it, so the stack is a linked
//! list through an append-only history and never has to be replayed.

use crate::model::id::DeploymentId;
use crate::model::promotion::Refused;

/// The rows of an environment's history that are on its stack, top first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stack(Vec<Entry>);

/// One row on the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The row's sequence.
    pub sequence: u64,
    /// Sequence of the row beneath.
    pub below: Option<u64>,
    /// What the pointer named after it.
    pub deployment: DeploymentId,
}

/// Where a rollback lands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The deployment to point at.
    pub deployment: DeploymentId,
    /// What lies beneath it: the `below` of the rollback's own row.
    pub below: Option<u64>,
    /// Nearer entries passed over because they no longer exist.
    pub skipped: Vec<DeploymentId>,
}

impl Stack {
    /// A stack from its rows, top first, as the store walks them.
    pub fn new(top_first: Vec<Entry>) -> Self {
        Self(top_first)
    }

    /// The `below` of a row that pushes.
    pub fn top_sequence(&self) -> Option<u64> {
        self.0.first().map(|entry| entry.sequence)
    }

    /// Where a rollback lands: the nearest earlier deployment that still
    /// exists, or the `asked` one.
    ///
    /// # Errors
    ///
    /// [`Refused::NoRollbackTarget`] or [`Refused::NotInHistory`].
    pub fn target(
        &self,
        asked: Option<DeploymentId>,
        exists: impl Fn(DeploymentId) -> bool,
    ) -> Result<Target, Refused> {
        let earlier = self.0.iter().skip(1);
        match asked {
            Some(asked) => earlier
                .into_iter()
                .find(|entry| entry.deployment == asked && exists(asked))
                .map(|entry| Target { deployment: asked, below: entry.below, skipped: Vec::new() })
                .ok_or(Refused::NotInHistory),
            None => {
                // Going back to what is served already would move nothing.
                let current = self.0.first().map(|entry| entry.deployment);
                let mut skipped = Vec::new();
                for entry in earlier.filter(|entry| Some(entry.deployment) != current) {
                    if exists(entry.deployment) {
                        return Ok(Target { deployment: entry.deployment, below: entry.below, skipped });
                    }
                    skipped.push(entry.deployment);
                }
                Err(Refused::NoRollbackTarget)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    /// A history kept the way the store keeps it: rows with `below`, never edited.
    #[derive(Default)]
    struct History(Vec<Entry>);

    impl History {
        fn stack(&self) -> Stack {
            let mut rows = Vec::new();
            let mut next = self.0.last().copied();
            while let Some(entry) = next {
                rows.push(entry);
                next = entry.below.map(|sequence| self.0[sequence as usize - 1]);
            }
            Stack::new(rows)
        }

        fn write(&mut self, below: Option<u64>, deployment: DeploymentId) {
            let sequence = self.0.len() as u64 + 1;
            self.0.push(Entry { sequence, below, deployment });
        }

        fn push(&mut self, deployment: DeploymentId) {
            self.write(self.stack().top_sequence(), deployment);
        }

        fn rollback(&mut self, asked: Option<DeploymentId>) -> Result<DeploymentId, Refused> {
            let target = self.stack().target(asked, |_| true)?;
            self.write(target.below, target.deployment);
            Ok(target.deployment)
        }
    }

    fn deployment(n: u128) -> DeploymentId {
        Uuid::from_u128(n).into()
    }

    #[test]
    fn two_rollbacks_walk_back_two_steps() {
        let [a, b, c] = [1, 2, 3].map(deployment);
        let mut history = History::default();
        [a, b, c].into_iter().for_each(|d| history.push(d));
        assert_eq!(history.rollback(None), Ok(b));
        assert_eq!(history.rollback(None), Ok(a));
        assert_eq!(history.rollback(None), Err(Refused::NoRollbackTarget));
    }

    #[test]
    fn a_bad_deployment_is_never_gone_back_to() {
        let [a, bad, worse] = [1, 2, 3].map(deployment);
        let mut history = History::default();
        history.push(a);
        history.push(bad);
        assert_eq!(history.rollback(None), Ok(a));
        history.push(worse);
        assert_eq!(history.rollback(None), Ok(a));
    }

    #[test]
    fn an_asked_target_pops_down_to_it() {
        let [a, b, c, never] = [1, 2, 3, 4].map(deployment);
        let mut history = History::default();
        [a, b, c].into_iter().for_each(|d| history.push(d));
        assert_eq!(history.rollback(Some(never)), Err(Refused::NotInHistory));
        assert_eq!(history.rollback(Some(a)), Ok(a));
        assert_eq!(history.rollback(Some(b)), Err(Refused::NotInHistory));
        assert_eq!(history.rollback(None), Err(Refused::NoRollbackTarget));
    }

    #[test]
    fn targets_that_no_longer_exist_are_skipped_and_named() {
        let [a, gone, c] = [1, 2, 3].map(deployment);
        let mut history = History::default();
        [a, gone, c].into_iter().for_each(|d| history.push(d));
        let target = history.stack().target(None, |d| d != gone).unwrap();
        assert_eq!((target.deployment, target.skipped), (a, vec![gone]));
        assert_eq!(history.stack().target(None, |_| false), Err(Refused::NoRollbackTarget));
    }

    #[test]
    fn an_empty_history_has_no_target() {
        assert_eq!(Stack::default().target(None, |_| true), Err(Refused::NoRollbackTarget));
        let mut history = History::default();
        history.push(deployment(1));
        assert_eq!(history.stack().target(None, |_| true), Err(Refused::NoRollbackTarget));
    }
}
