//! What is done to a pool, as pure steps from one value to the next.
//!
//! Writing the result is the caller's business; making it true is the
//! supervisor's.

use jiff::Timestamp;

use crate::control::error::Error;
use crate::model::bounds::{Bounds, InvalidBounds};
use crate::model::deployment::Deployment;
use crate::model::environment::Environment;
use crate::model::pool::{Pool, PoolKey, PoolState, Rest};
use crate::model::revision::Revision;

/// Bounds that a request names; what is absent stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct BoundsAsked {
    pub min: Option<u32>,
    pub max: Option<u32>,
}

impl BoundsAsked {
    fn onto(self, bounds: Bounds) -> Result<Bounds, InvalidBounds> {
        bounds.with(self.min, self.max)
    }
}

/// The pool with these bounds, wanted again if it was not. One that was closing
/// opens at once: the replicas it still has take requests again, and every proof
/// that it was idle is void (invariant 9).
pub(super) fn opened(pool: Pool, asked: BoundsAsked) -> Result<Pool, InvalidBounds> {
    let bounds = asked.onto(pool.bounds)?;
    let state = match pool.state {
        // Whatever its row still lists does not run any more.
        PoolState::Stopped | PoolState::Idle => return Ok(Pool::starting(pool.key, bounds)),
        PoolState::Closing if pool.ready_count() > 0 => PoolState::Running,
        PoolState::Closing => PoolState::Starting,
        state @ (PoolState::Starting | PoolState::Running | PoolState::Failing) => state,
    };
    Ok(Pool { state, bounds, closing_revision: None, closing_since: None, closing_to: None, left_at: None, ..pool })
}

/// A wanted pool where there was none. The environment's bounds go before the
/// deployment's, what is asked for goes before both.
pub(super) fn created(
    environment: &Environment,
    deployment: &Deployment,
    asked: BoundsAsked,
) -> Result<Pool, InvalidBounds> {
    let key = PoolKey { environment: environment.id, deployment: deployment.id };
    let bounds = asked.onto(environment.bounds.unwrap_or_else(|| deployment.bounds()))?;
    Ok(Pool::starting(key, bounds))
}

/// The pool as it takes no new requests from `revision` on, and goes to `rest`
/// when its last one has ended. Terminating outdoes sleeping, whichever comes
/// first. `None` where there is nothing to change.
pub(super) fn closed(pool: Pool, rest: Rest, revision: Revision, now: Timestamp) -> Option<Pool> {
    match (pool.state, rest) {
        (PoolState::Starting | PoolState::Running | PoolState::Failing, rest) => Some(Pool {
            state: PoolState::Closing,
            closing_revision: Some(revision),
            closing_since: Some(now),
            closing_to: Some(rest),
            ..pool
        }),
        (PoolState::Closing, Rest::Stopped) if !pool.is_terminated() => {
            Some(Pool { closing_to: Some(Rest::Stopped), ..pool })
        }
        (PoolState::Idle, Rest::Stopped) => Some(Pool { state: PoolState::Stopped, ..pool }),
        (PoolState::Closing | PoolState::Idle | PoolState::Stopped, _) => None,
    }
}

/// Which way a pool is scaled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scale {
    /// No bound may fall.
    Up,
    /// No bound may rise.
    Down,
}

/// The pool with other bounds.
///
/// # Errors
///
/// When a bound would go the other way, or the bounds contradict themselves.
pub(super) fn scaled(pool: Pool, way: Scale, asked: BoundsAsked) -> Result<Pool, Error> {
    let (before, bounds) = (pool.bounds, asked.onto(pool.bounds)?);
    let wrong_way = match way {
        Scale::Up => bounds.min < before.min || bounds.max < before.max,
        Scale::Down => bounds.min > before.min || bounds.max > before.max,
    };
    if wrong_way {
        let (asked, other) = match way {
            Scale::Up => ("scale-up", "lower a bound; use scale-down for that"),
            Scale::Down => ("scale-down", "raise a bound; use scale-up for that"),
        };
        return Err(Error::Invalid(format!(
            "{asked} from {}..{} to {}..{} replicas would {other}",
            before.min, before.max, bounds.min, bounds.max
        )));
    }
    Ok(Pool { bounds, ..pool })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::pool::{Endpoint, EndpointState};
    use uuid::Uuid;

    fn pool(state: PoolState, endpoint: Option<EndpointState>) -> Pool {
        let key = PoolKey { environment: Uuid::from_u128(1).into(), deployment: Uuid::from_u128(2).into() };
        let endpoints = endpoint.map(|state| Endpoint {
            id: Uuid::from_u128(3).into(),
            address: "127.0.0.1:1".parse().unwrap(),
            authority: None,
            secure: false,
            state,
            pid: None,
            since: Timestamp::UNIX_EPOCH,
        });
        Pool { state, endpoints: endpoints.into_iter().collect(), ..Pool::starting(key, Bounds { min: 2, max: 4 }) }
    }

    fn asked(min: Option<u32>, max: Option<u32>) -> BoundsAsked {
        BoundsAsked { min, max }
    }

    #[test]
    fn opening_goes_by_what_still_runs() {
        use PoolState::{Closing, Failing, Idle, Running, Starting, Stopped};
        let cases = [
            (Stopped, None, Starting),
            (Idle, None, Starting),
            (Stopped, Some(EndpointState::Ready), Starting),
            (Closing, Some(EndpointState::Ready), Running),
            (Closing, Some(EndpointState::Draining), Starting),
            (Closing, None, Starting),
            (Starting, None, Starting),
            (Running, Some(EndpointState::Ready), Running),
            (Failing, None, Failing),
        ];
        for (state, endpoint, expected) in cases {
            let now = Timestamp::UNIX_EPOCH;
            let before = closed(pool(Running, endpoint), Rest::Idle, Revision(9), now).unwrap();
            let before = Pool { left_at: Some(now), ..before };
            let after = opened(Pool { state, ..before }, BoundsAsked::default()).unwrap();
            assert_eq!((after.state, after.closing_revision, after.closing_since), (expected, None, None), "{state:?}");
            assert_eq!((after.closing_to, after.left_at), (None, None), "{state:?}");
            assert!(!after.is_ready() || expected == Running, "{state:?}");
        }
    }

    #[test]
    fn closing_names_the_change_and_happens_once() {
        let now = Timestamp::UNIX_EPOCH;
        let close = |pool: &Pool, rest| closed(pool.clone(), rest, Revision(10), now);
        let closing = closed(pool(PoolState::Running, None), Rest::Stopped, Revision(9), now).unwrap();
        assert_eq!((closing.state, closing.closing_revision), (PoolState::Closing, Some(Revision(9))));
        for rest in [Rest::Idle, Rest::Stopped] {
            assert_eq!(close(&closing, rest), None);
            assert_eq!(close(&pool(PoolState::Stopped, None), rest), None);
        }
    }

    #[test]
    fn terminating_outdoes_sleeping() {
        let now = Timestamp::UNIX_EPOCH;
        let close = |pool: &Pool, rest| closed(pool.clone(), rest, Revision(10), now);
        let sleepy = closed(pool(PoolState::Running, None), Rest::Idle, Revision(9), now).unwrap();
        assert!(!sleepy.is_terminated());
        assert_eq!(close(&sleepy, Rest::Idle), None);
        let terminated = close(&sleepy, Rest::Stopped).unwrap();
        assert!(terminated.is_terminated());
        assert_eq!(terminated.closing_revision, Some(Revision(9)), "it takes nothing new since the first");
        assert_eq!(close(&terminated, Rest::Idle), None);
        let idle = pool(PoolState::Idle, None);
        assert_eq!(close(&idle, Rest::Idle), None);
        assert_eq!(close(&idle, Rest::Stopped).unwrap().state, PoolState::Stopped);
    }

    #[test]
    fn scaling_goes_one_way() {
        let ok = |way, min, max| scaled(pool(PoolState::Running, None), way, asked(min, max)).map(|p| p.bounds);
        assert_eq!(ok(Scale::Up, Some(3), None).unwrap(), Bounds { min: 3, max: 4 });
        assert_eq!(ok(Scale::Up, Some(6), None).unwrap(), Bounds { min: 6, max: 6 });
        assert_eq!(ok(Scale::Down, None, Some(1)).unwrap(), Bounds { min: 1, max: 1 });
        assert_eq!(ok(Scale::Down, Some(2), Some(4)).unwrap(), Bounds { min: 2, max: 4 });
        for (way, min, max) in [(Scale::Up, Some(1), Some(9)), (Scale::Up, None, Some(3)), (Scale::Down, Some(3), None)]
        {
            let error = ok(way, min, max).unwrap_err();
            assert!(matches!(&error, Error::Invalid(text) if text.contains("use scale-")), "{error}");
        }
        assert!(matches!(ok(Scale::Down, Some(0), None), Err(Error::NotYetSupported(_))));
    }
}
