//! An environment: a named pointer to a deployment, and the rules of moving it.
//!
//! The rules are pure: they look at values and answer with a decision. The
//! caller (`control::promotion`) loads the values, commits the decision in one
//! transaction, and starts what has to be started.

use jiff::Timestamp;

use crate::model::bounds::Bounds;
use crate::model::deployment::Deployment;
use crate::model::history::{Stack, Target};
use crate::model::host::HostPattern;
use crate::model::id::{DeploymentId, EnvironmentId, ProjectId};
use crate::model::name::{EnvironmentName, ProjectName};
use crate::model::policy::Policy;
use crate::model::pool::Pool;
use crate::model::promotion::Refused;

/// A named pointer to a deployment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Environment {
    /// Its id.
    pub id: EnvironmentId,
    /// Its project.
    pub project: ProjectId,
    /// Its project's name, part of its host.
    pub project_name: ProjectName,
    /// Its name, unique in the project.
    pub name: EnvironmentName,
    /// Every host it answers to; the first is the one made from its names.
    pub hosts: Vec<HostPattern>,
    /// The deployment it serves.
    pub pointer: Option<DeploymentId>,
    /// Bounds its pools start with; `None`: the deployment's own.
    pub bounds: Option<Bounds>,
    /// What it asks of the ingress.
    pub policy: Policy,
    /// Why deploys and promotes are refused, while they are.
    pub locked: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its settings or its pointer changed last.
    pub updated_at: Timestamp,
}

/// What a move asks for, beside its target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ask {
    /// Refuse unless the pointer names this now; the inner `None` is "nothing".
    pub expected_current: Option<Option<DeploymentId>>,
    /// Start a terminated deployment again.
    pub start: bool,
}

/// What a move comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The pointer names the target already; nothing is written.
    AlreadyCurrent,
    /// The target is ready: commit now.
    Now,
    /// The target has to become ready first: a pending move.
    WhenReady,
}

impl Environment {
    /// Whether this environment may point at `deployment`, and when. `pool` is
    /// the deployment's pool here, if there is one.
    ///
    /// # Errors
    ///
    /// Why not; nothing is to be changed then.
    pub fn promote(&self, deployment: &Deployment, pool: Option<&Pool>, ask: Ask) -> Result<Decision, Refused> {
        if deployment.project != self.project {
            return Err(Refused::OtherProject);
        }
        self.check_expected(ask)?;
        if self.pointer == Some(deployment.id) && pool.is_none_or(|pool| pool.state.is_wanted()) {
            return Ok(Decision::AlreadyCurrent);
        }
        self.check_unlocked()?;
        if pool.is_some_and(Pool::is_terminated) && !ask.start {
            return Err(Refused::Terminated);
        }
        Ok(when(pool))
    }

    /// Where a rollback lands, and when. A lock does not stop it: getting back
    /// to a good build must always be possible.
    ///
    /// # Errors
    ///
    /// Why not; nothing is to be changed then.
    pub fn rollback(
        &self,
        stack: &Stack,
        asked: Option<DeploymentId>,
        ask: Ask,
        exists: impl Fn(DeploymentId) -> bool,
    ) -> Result<Landing, Refused> {
        self.check_expected(ask)?;
        if asked.is_some() && asked == self.pointer {
            return Ok(Landing::AlreadyCurrent);
        }
        stack.target(asked, exists).map(Landing::At)
    }

    fn check_expected(&self, ask: Ask) -> Result<(), Refused> {
        match ask.expected_current {
            Some(expected) if expected != self.pointer => Err(Refused::PointerMoved { current: self.pointer }),
            _ => Ok(()),
        }
    }

    /// Refuses while the environment is locked; also asked again when a pending
    /// deploy or promote is about to be committed.
    ///
    /// # Errors
    ///
    /// [`Refused::Locked`].
    pub fn check_unlocked(&self) -> Result<(), Refused> {
        match &self.locked {
            Some(reason) => Err(Refused::Locked { reason: reason.clone() }),
            None => Ok(()),
        }
    }
}

/// Where a rollback lands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Landing {
    /// The asked deployment is current; no pointer moves.
    AlreadyCurrent,
    /// Here.
    At(Target),
}

impl Landing {
    /// Whether a rollback that lands here, on a deployment with this pool, can be
    /// committed now. What is current and takes no requests is opened again.
    pub fn decision(&self, pool: Option<&Pool>) -> Decision {
        match self {
            Self::AlreadyCurrent if pool.is_none_or(|pool| pool.state.is_wanted()) => Decision::AlreadyCurrent,
            Self::AlreadyCurrent | Self::At(_) => when(pool),
        }
    }
}

fn when(pool: Option<&Pool>) -> Decision {
    match pool {
        Some(pool) if pool.is_ready() => Decision::Now,
        _ => Decision::WhenReady,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::deployment::{HostHeader, Source};
    use crate::model::history::Entry;
    use crate::model::manifest::Protocol;
    use crate::model::pool::{Endpoint, EndpointState, PoolKey, PoolState, Rest};
    use uuid::Uuid;

    fn environment(pointer: Option<u128>) -> Environment {
        Environment {
            id: Uuid::from_u128(100).into(),
            project: Uuid::from_u128(10).into(),
            project_name: "support".parse().unwrap(),
            name: "staging".parse().unwrap(),
            hosts: vec!["support-staging.localhost".parse().unwrap()],
            pointer: pointer.map(|n| Uuid::from_u128(n).into()),
            bounds: None,
            policy: Policy::default(),
            locked: None,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn deployment(n: u128, project: u128) -> Deployment {
        Deployment {
            id: Uuid::from_u128(n).into(),
            reference: "bcdfghjk".parse().unwrap(),
            project: Uuid::from_u128(project).into(),
            source: Source::Endpoints {
                endpoints: vec!["http://127.0.0.1:1".into()],
                protocol: Protocol::Http1,
                health_path: None,
                host: HostHeader::Client,
            },
            message: None,
            git_commit: None,
            created_by: "admin".into(),
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn pool(state: PoolState, ready: bool) -> Pool {
        let key = PoolKey { environment: Uuid::from_u128(100).into(), deployment: Uuid::from_u128(1).into() };
        let endpoint = Endpoint {
            id: Uuid::from_u128(7).into(),
            address: "127.0.0.1:1".parse().unwrap(),
            authority: None,
            secure: false,
            state: if ready { EndpointState::Ready } else { EndpointState::Unready },
            pid: None,
            since: Timestamp::UNIX_EPOCH,
        };
        Pool { state, endpoints: vec![endpoint], ..Pool::starting(key, Bounds::default()) }
    }

    #[test]
    fn promote_decides_by_the_pool() {
        let cases = [
            (None, Ok(Decision::WhenReady)),
            (Some(pool(PoolState::Starting, false)), Ok(Decision::WhenReady)),
            (Some(pool(PoolState::Failing, false)), Ok(Decision::WhenReady)),
            (Some(pool(PoolState::Running, true)), Ok(Decision::Now)),
            (Some(pool(PoolState::Stopped, false)), Err(Refused::Terminated)),
            (Some(pool(PoolState::Closing, true)), Err(Refused::Terminated)),
            (Some(Pool { closing_to: Some(Rest::Idle), ..pool(PoolState::Closing, false) }), Ok(Decision::WhenReady)),
            (Some(pool(PoolState::Idle, false)), Ok(Decision::WhenReady)),
        ];
        for (pool, expected) in cases {
            let decision = environment(Some(2)).promote(&deployment(1, 10), pool.as_ref(), Ask::default());
            assert_eq!(decision, expected, "{pool:?}");
        }
    }

    #[test]
    fn start_brings_a_terminated_deployment_back() {
        let ask = Ask { start: true, ..Ask::default() };
        let stopped = pool(PoolState::Stopped, false);
        assert_eq!(environment(None).promote(&deployment(1, 10), Some(&stopped), ask), Ok(Decision::WhenReady));
    }

    #[test]
    fn what_is_current_already_moves_nothing() {
        let running = pool(PoolState::Running, true);
        let mut environment = environment(Some(1));
        assert_eq!(
            environment.promote(&deployment(1, 10), Some(&running), Ask::default()),
            Ok(Decision::AlreadyCurrent)
        );
        environment.locked = Some("freeze".into());
        assert_eq!(
            environment.promote(&deployment(1, 10), Some(&running), Ask::default()),
            Ok(Decision::AlreadyCurrent)
        );
    }

    #[test]
    fn deployments_do_not_cross_projects() {
        let other = environment(None).promote(&deployment(1, 11), None, Ask::default());
        assert_eq!(other, Err(Refused::OtherProject));
    }

    #[test]
    fn an_unexpected_current_deployment_refuses() {
        let ask = |n: Option<u128>| Ask { expected_current: Some(n.map(|n| Uuid::from_u128(n).into())), start: false };
        let environment = environment(Some(2));
        let current = environment.pointer;
        assert_eq!(environment.promote(&deployment(1, 10), None, ask(Some(3))), Err(Refused::PointerMoved { current }));
        assert_eq!(environment.promote(&deployment(1, 10), None, ask(None)), Err(Refused::PointerMoved { current }));
        assert_eq!(environment.promote(&deployment(1, 10), None, ask(Some(2))), Ok(Decision::WhenReady));
        let rollback = environment.rollback(&Stack::default(), None, ask(Some(3)), |_| true);
        assert_eq!(rollback, Err(Refused::PointerMoved { current }));
    }

    #[test]
    fn a_lock_stops_promotes_and_never_a_rollback() {
        let mut environment = environment(Some(2));
        environment.locked = Some("release freeze".into());
        let refused = environment.promote(&deployment(1, 10), None, Ask::default()).unwrap_err();
        assert_eq!(refused, Refused::Locked { reason: "release freeze".into() });
        assert!(refused.to_string().contains("release freeze"));
        let entry = |sequence, n| Entry { sequence, below: None, deployment: Uuid::from_u128(n).into() };
        let stack = Stack::new(vec![entry(2, 2), entry(1, 1)]);
        assert!(matches!(environment.rollback(&stack, None, Ask::default(), |_| true), Ok(Landing::At(_))));
    }

    #[test]
    fn rollback_to_what_is_current_moves_nothing() {
        let environment = environment(Some(2));
        let landing = environment.rollback(&Stack::default(), environment.pointer, Ask::default(), |_| true);
        assert_eq!(landing, Ok(Landing::AlreadyCurrent));
    }

    #[test]
    fn a_rollback_opens_what_is_current_and_was_terminated() {
        let at = Landing::At(Target { deployment: Uuid::from_u128(1).into(), below: None, skipped: Vec::new() });
        let cases = [
            (&Landing::AlreadyCurrent, Some(pool(PoolState::Running, true)), Decision::AlreadyCurrent),
            (&Landing::AlreadyCurrent, Some(pool(PoolState::Failing, false)), Decision::AlreadyCurrent),
            (&Landing::AlreadyCurrent, None, Decision::AlreadyCurrent),
            (&Landing::AlreadyCurrent, Some(pool(PoolState::Closing, true)), Decision::WhenReady),
            (&Landing::AlreadyCurrent, Some(pool(PoolState::Stopped, false)), Decision::WhenReady),
            (&Landing::AlreadyCurrent, Some(pool(PoolState::Idle, false)), Decision::WhenReady),
            (&at, Some(pool(PoolState::Idle, false)), Decision::WhenReady),
            (&at, Some(pool(PoolState::Running, true)), Decision::Now),
            (&at, Some(pool(PoolState::Starting, false)), Decision::WhenReady),
            (&at, None, Decision::WhenReady),
        ];
        for (landing, pool, expected) in cases {
            assert_eq!(landing.decision(pool.as_ref()), expected, "{landing:?} {pool:?}");
        }
    }
}
