//! Carries out the moves that wait for their target.
//!
//! Woken by the store, by the nearest deadline and at start. What is to become
//! of a move is a pure decision, taken again inside the write transaction that
//! acts on it: a move that was superseded meanwhile is never committed, however
//! late its target becomes ready.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::control::error::Error;
use crate::control::promotion::{commit_move, newest_row};
use crate::control::sleep::note_left;
use crate::control::{Control, now};
use crate::model::environment::Environment;
use crate::model::moves::{MoveState, PendingMove};
use crate::model::pool::{Pool, PoolKey, PoolState};
use crate::model::promotion::Kind;
use crate::store::{Transaction, Work, WorkKey};

/// After the store failed, and from one look to the next while a deadline is far.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Everything that waits is looked at so often without being called for. No
/// wake-up is ever lost; this is for mistakes.
const LOOK_AT_ALL: Duration = Duration::from_secs(30);

/// Runs until the drain asks to stop. Moves that wait then wait on disk.
pub(super) async fn run(control: Control) {
    // Held until a settlement that is under way is through.
    let _hold = control.drain.hold();
    let mut watch = control.store.watch_work();
    let mut drain = control.drain.clone();
    let (mut work, mut looked_at_all) = (Work::Everything, Instant::now());
    loop {
        work.merge(&watch.take());
        if looked_at_all.elapsed() >= LOOK_AT_ALL {
            work = Work::Everything;
        }
        if work == Work::Everything {
            looked_at_all = Instant::now();
        }
        let pause = match control.settle_moves(&mut work).await {
            Ok(nearest) if work.is_none() => nearest.map_or(LOOK_AT_ALL, until),
            Ok(nearest) => nearest.map_or(LOOK_INTERVAL, until).min(LOOK_INTERVAL),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "failed to carry out waiting moves");
                LOOK_INTERVAL
            }
        };
        tokio::select! {
            rung = watch.changed() => match rung {
                Some(touched) => work.merge(&touched),
                None => return,
            },
            () = tokio::time::sleep(pause) => {}
            () = drain.asked() => return,
        }
    }
}

/// Never in a loop: a deadline that just passed and a clock that steps back are looked at again after a moment.
fn until(deadline: Timestamp) -> Duration {
    let left = Duration::try_from(deadline.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
    left.clamp(DEADLINE_SLACK, LOOK_AT_ALL)
}

/// A deadline is met at most so late.
const DEADLINE_SLACK: Duration = Duration::from_millis(10);

impl Control {
    /// Settles what can be settled of the waiting moves that `work` concerns and
    /// of those whose time is over, and leaves in `work` what failed; answers the
    /// nearest deadline of those left.
    async fn settle_moves(&self, work: &mut Work) -> Result<Option<Timestamp>, Error> {
        let now = now();
        // Bound first: in the head of the loop the transaction would last as long as the loop.
        let waiting = self.concerned(work, now).await?;
        *work = Work::default();
        for pending in waiting {
            let decided = {
                let mut tx = self.store.read().await?;
                let (environment, pool) = around(&mut tx, &pending).await?;
                Step::of(&pending, environment.as_ref(), pool.as_ref(), now)
            };
            // One move that cannot be settled keeps none of the others waiting.
            if decided != Step::Wait
                && let Err(error) = self.settle(pending.number).await
            {
                let error: &dyn std::error::Error = &error;
                tracing::error!(number = pending.number, error, "failed to settle a waiting move");
                work.add(WorkKey::Environment(pending.environment));
            }
        }
        Ok(self.store.read().await?.nearest_deadline().await?)
    }

    async fn concerned(&self, work: &Work, now: Timestamp) -> Result<Vec<PendingMove>, Error> {
        let mut tx = self.store.read().await?;
        let Work::Keys(keys) = work else { return Ok(tx.waiting_moves().await?) };
        let mut waiting = tx.overdue_moves(now).await?;
        for environment in keys.iter().map(|key| key.environment()).collect::<BTreeSet<_>>() {
            waiting.extend(tx.waiting_move_of(environment).await?);
        }
        Ok(waiting)
    }

    /// Decides again, now that nobody else writes, and does it.
    async fn settle(&self, number: u64) -> Result<(), Error> {
        let now = now();
        let mut tx = self.store.write().await?;
        let Some(pending) = tx.pending_move(number).await? else { return Ok(()) };
        if pending.state != MoveState::Waiting {
            return Ok(());
        }
        // Two clocks of one machine may step: nothing ends before it was asked for.
        let now = now.max(pending.requested_at);
        let (environment, pool) = around(&mut tx, &pending).await?;
        match (Step::of(&pending, environment.as_ref(), pool.as_ref(), now), environment) {
            (Step::Commit, Some(environment)) => {
                if environment.pointer == Some(pending.deployment) {
                    // It was terminated while current, and runs again: no pointer to move.
                    let row = newest_row(&mut tx, environment.id).await?.map(|row| row.id);
                    tx.end_move(number, MoveState::Committed, None, row, now).await?;
                    tx.commit().await?;
                } else {
                    let promotion = commit_move(&mut tx, environment, &pending, now).await?;
                    tx.end_move(number, MoveState::Committed, None, Some(promotion.id), now).await?;
                    self.applied.commit(tx, Some(&promotion)).await?;
                }
            }
            (Step::End { state, detail }, _) => {
                let detail = match detail {
                    Some(detail) => detail,
                    None => not_ready(&mut tx, &pending).await?,
                };
                tracing::info!(number, environment = %pending.environment, detail, "move ended without moving");
                tx.end_move(number, state, Some(detail), None, now).await?;
                note_left(&mut tx, pending.environment, now).await?;
                tx.commit().await?;
            }
            (Step::Wait | Step::Commit, _) => {}
        }
        Ok(())
    }
}

async fn around(tx: &mut Transaction, pending: &PendingMove) -> Result<(Option<Environment>, Option<Pool>), Error> {
    let key = PoolKey { environment: pending.environment, deployment: pending.deployment };
    Ok((tx.environment(pending.environment).await?, tx.pool(key).await?))
}

/// What is to become of a waiting move.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    /// Its target is not ready yet.
    Wait,
    /// Its target is ready: the pointer moves.
    Commit,
    /// It ends without a move. Without a detail, what went wrong with the target last is the detail.
    End { state: MoveState, detail: Option<String> },
}

impl Step {
    /// A ready target is committed even past the deadline: the control plane may
    /// have been down for that long, and nobody took the request back.
    fn of(pending: &PendingMove, environment: Option<&Environment>, pool: Option<&Pool>, now: Timestamp) -> Self {
        let refused = |detail: String| Self::End { state: MoveState::Refused, detail: Some(detail) };
        let Some(environment) = environment else {
            return refused("the environment was deleted while the move waited".to_owned());
        };
        let Some(pool) =
            pool.filter(|pool| !matches!(pool.state, PoolState::Stopped | PoolState::Idle | PoolState::Closing))
        else {
            let name = &environment.name;
            return refused(format!(
                "the deployment was terminated in {name} while the move waited; start it, then move again"
            ));
        };
        if pool.is_ready() {
            return match (pending.kind, environment.check_unlocked()) {
                (Kind::Deploy | Kind::Promote, Err(locked)) => refused(locked.to_string()),
                (Kind::Rollback, _) | (_, Ok(())) => Self::Commit,
            };
        }
        if now >= pending.deadline {
            return Self::End { state: MoveState::TargetNotReady, detail: None };
        }
        Self::Wait
    }
}

/// Why a target is not ready: what went wrong with it last.
async fn not_ready(tx: &mut Transaction, pending: &PendingMove) -> Result<String, Error> {
    let key = PoolKey { environment: pending.environment, deployment: pending.deployment };
    // A pool remembers earlier attempts too; what happened before this one is not its reason.
    let last = tx.pool_errors(key, 1).await?.into_iter().find(|error| error.at >= pending.requested_at);
    Ok(last.map_or_else(|| "no replica became ready in time".to_owned(), |error| error.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::bounds::Bounds;
    use crate::model::policy::Policy;
    use crate::model::pool::{Endpoint, EndpointState};
    use uuid::Uuid;

    fn environment(locked: bool) -> Environment {
        Environment {
            id: Uuid::from_u128(1).into(),
            project: Uuid::from_u128(10).into(),
            project_name: "support".parse().unwrap(),
            name: "staging".parse().unwrap(),
            hosts: Vec::new(),
            pointer: None,
            bounds: None,
            policy: Policy::default(),
            locked: locked.then(|| "freeze".to_owned()),
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn pool(state: PoolState) -> Pool {
        let key = PoolKey { environment: Uuid::from_u128(1).into(), deployment: Uuid::from_u128(2).into() };
        let endpoint = Endpoint {
            id: Uuid::from_u128(3).into(),
            address: "127.0.0.1:1".parse().unwrap(),
            authority: None,
            secure: false,
            state: EndpointState::Ready,
            pid: None,
            since: Timestamp::UNIX_EPOCH,
        };
        let endpoints = if state == PoolState::Running { vec![endpoint] } else { Vec::new() };
        Pool { state, endpoints, ..Pool::starting(key, Bounds::default()) }
    }

    fn pending(kind: Kind) -> PendingMove {
        PendingMove {
            number: 1,
            environment: Uuid::from_u128(1).into(),
            deployment: Uuid::from_u128(2).into(),
            kind,
            source_environment: None,
            actor: "admin".into(),
            reason: None,
            scale_previous_to_zero: false,
            state: MoveState::Waiting,
            detail: None,
            requested_at: Timestamp::UNIX_EPOCH,
            deadline: at(120),
            ended_at: None,
            promotion: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_waiting_move_goes_by_its_target_its_lock_and_its_deadline() {
        use PoolState::{Closing, Failing, Idle, Running, Starting, Stopped};
        let cases = [
            (Kind::Promote, Some(Starting), false, 119, "wait"),
            (Kind::Promote, Some(Failing), false, 119, "wait"),
            (Kind::Promote, Some(Starting), true, 119, "wait"),
            (Kind::Promote, Some(Starting), false, 120, "target_not_ready"),
            (Kind::Rollback, Some(Failing), false, 121, "target_not_ready"),
            (Kind::Promote, Some(Running), false, 1, "commit"),
            (Kind::Promote, Some(Running), false, 9999, "commit"),
            (Kind::Promote, Some(Running), true, 1, "refused"),
            (Kind::Deploy, Some(Running), true, 1, "refused"),
            (Kind::Rollback, Some(Running), true, 1, "commit"),
            (Kind::Promote, Some(Stopped), false, 1, "refused"),
            (Kind::Rollback, Some(Closing), false, 1, "refused"),
            (Kind::Promote, Some(Idle), false, 1, "refused"),
            (Kind::Deploy, None, false, 1, "refused"),
        ];
        for (kind, state, locked, second, expected) in cases {
            let pool = state.map(pool);
            let step = Step::of(&pending(kind), Some(&environment(locked)), pool.as_ref(), at(second));
            let word = match step {
                Step::Wait => "wait",
                Step::Commit => "commit",
                Step::End { state, .. } => state.as_str(),
            };
            assert_eq!(word, expected, "{kind:?} {state:?} locked: {locked} at {second}");
        }
    }

    #[test]
    fn a_move_of_an_environment_that_is_gone_ends() {
        let step = Step::of(&pending(Kind::Promote), None, Some(&pool(PoolState::Running)), at(1));
        assert!(
            matches!(step, Step::End { state: MoveState::Refused, detail: Some(text) } if text.contains("deleted"))
        );
    }
}
