//! What proxies are told of a pool, and what is kept of its errors.

use std::collections::HashSet;
use std::slice;

use super::*;
use crate::model::change::{PoolRecord, PoolRecordState};
use crate::model::policy::Policy;
use crate::model::pool::{PoolError, PoolErrorKind};
use crate::store::{Scope, Work, WorkKey};

impl Fixture {
    /// What the snapshot says of a pool.
    async fn pool_record(&self, key: PoolKey) -> Option<PoolRecord> {
        let snapshot = self.store.snapshot().await.unwrap();
        let records = snapshot.records.iter().map(|bytes| crate::wire::decode_record(bytes).unwrap());
        let pool = |record| if let Record::Pool(pool) = record { Some(pool) } else { None };
        records.filter_map(pool).find(|pool| pool.key == key)
    }

    async fn put(&self, pool: &Pool) {
        let mut writing = self.write().await;
        writing.put_pool(pool).await.unwrap();
        writing.commit().await.unwrap();
    }

    async fn point(&self, deployment: Option<DeploymentId>) {
        let mut writing = self.write().await;
        writing.update_environment(&Environment { pointer: deployment, ..self.production.clone() }).await.unwrap();
        writing.commit().await.unwrap();
    }
}

#[tokio::test]
async fn a_pool_comes_back_as_it_was_put() {
    let fixture = Fixture::new().await;
    let key = fixture.running(&fixture.production).await;
    let pool = Pool {
        closing_revision: Some(Revision(7)),
        closing_since: Some(at(9)),
        endpoints: vec![endpoint(EndpointState::Draining), endpoint(EndpointState::Unready)],
        ..running(key)
    };
    for state in PoolState::ALL {
        let pool = Pool { state, ..pool.clone() };
        fixture.put(&pool).await;
        assert_eq!(fixture.read().await.pool(key).await.unwrap(), Some(pool.clone()));
        let mut reading = fixture.read().await;
        assert_eq!(reading.pools_of_deployment(key.deployment).await.unwrap(), slice::from_ref(&pool));
        assert_eq!(reading.pools_of_environment(key.environment).await.unwrap(), [pool]);
        assert!(reading.pools_of_environment(fixture.staging.id).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn proxies_are_told_where_requests_may_go() {
    let fixture = Fixture::new().await;
    let key = fixture.running(&fixture.production).await;
    let [ready, draining, unready] =
        [EndpointState::Ready, EndpointState::Draining, EndpointState::Unready].map(endpoint);
    let mut pool = Pool { endpoints: vec![draining.clone(), unready, ready.clone()], ..running(key) };
    for (state, told) in [
        (PoolState::Starting, PoolRecordState::Open),
        (PoolState::Running, PoolRecordState::Open),
        (PoolState::Failing, PoolRecordState::Open),
        (PoolState::Closing, PoolRecordState::Closing),
    ] {
        pool.state = state;
        fixture.put(&pool).await;
        let record = fixture.pool_record(key).await.unwrap();
        assert_eq!(record.state, told);
        assert_eq!(record.host, HostHeader::Endpoint);
        let endpoints: Vec<_> = record.endpoints.iter().map(|endpoint| (endpoint.id, endpoint.draining)).collect();
        assert_eq!(endpoints, [(ready.id, false), (draining.id, true)], "in the order of ids");
    }
    let head = fixture.store.head();
    pool.endpoints.reverse();
    fixture.put(&pool).await;
    assert_eq!(fixture.store.head(), head, "another order is no difference");
}

#[tokio::test]
async fn a_stopped_pool_is_told_of_only_while_the_pointer_names_it() {
    let fixture = Fixture::new().await;
    let key = fixture.running(&fixture.production).await;
    fixture.put(&Pool { state: PoolState::Stopped, ..running(key) }).await;
    assert_eq!(fixture.pool_record(key).await, None);

    fixture.point(Some(key.deployment)).await;
    let record = fixture.pool_record(key).await.unwrap();
    assert_eq!((record.state, record.endpoints.len()), (PoolRecordState::Closing, 0));

    fixture.point(None).await;
    assert_eq!(fixture.pool_record(key).await, None);
}

#[tokio::test]
async fn a_repeated_error_is_counted_and_old_ones_give_way() {
    let fixture = Fixture::new().await;
    let key = fixture.running(&fixture.production).await;
    let error = |n: i64| PoolError {
        at: at(n),
        kind: PoolErrorKind::CrashLoop,
        message: format!("exited {}", n / 2),
        output: vec![format!("line {n}")],
        count: 1,
    };
    let mut writing = fixture.write().await;
    for n in 0..210 {
        writing.record_pool_error(key, &error(n)).await.unwrap();
    }
    let errors = writing.pool_errors(key, 1000).await.unwrap();
    assert_eq!(errors.len(), 100);
    assert_eq!(errors[0], PoolError { count: 2, ..error(209) });
    assert_eq!(errors[99].message, "exited 5");
    assert_eq!(writing.pool_errors(key, 3).await.unwrap().len(), 3);
    let other_kind = PoolError { kind: PoolErrorKind::Killed, ..error(209) };
    writing.record_pool_error(key, &other_kind).await.unwrap();
    assert_eq!(writing.pool_errors(key, 1).await.unwrap(), [other_kind]);

    writing.delete_pool(key).await.unwrap();
    writing.record_pool_error(key, &error(1)).await.unwrap();
    assert!(writing.pool_errors(key, 10).await.unwrap().is_empty(), "nothing is kept for a pool that is gone");
    writing.commit().await.unwrap();
}

#[tokio::test]
async fn the_supervisor_reads_what_is_wanted_with_what_it_takes_to_run_it() {
    let fixture = Fixture::new().await;
    let key = fixture.running(&fixture.production).await;
    let other = fixture.running(&fixture.staging).await;
    let running = async |scope| fixture.read().await.running_pools(scope).await.unwrap();
    let all = running(Scope::Everything).await;
    assert_eq!(all.iter().map(|running| running.pool.key).collect::<HashSet<_>>(), [key, other].into());
    let of_environment = running(Scope::Environment(key.environment)).await;
    assert_eq!(running(Scope::Pool(key)).await, of_environment);
    let found = &of_environment[0];
    let mut reading = fixture.read().await;
    assert_eq!(Some(&found.pool), reading.pool(key).await.unwrap().as_ref());
    assert_eq!(Some(&found.deployment), reading.deployment(key.deployment).await.unwrap().as_ref());
    assert_eq!((&found.environment, &found.policy), (&fixture.production.name, &fixture.production.policy));
    assert_eq!(found.project, fixture.production.project_name);
    for (endpoints, left) in [(vec![endpoint(EndpointState::Draining)], 1), (vec![], 0)] {
        fixture.put(&Pool { state: PoolState::Stopped, endpoints, ..super::running(key) }).await;
        assert_eq!(running(Scope::Pool(key)).await.len(), left, "one at rest is not read");
    }
    assert_eq!(running(Scope::Everything).await.len(), 1);
}

#[tokio::test]
async fn a_pointer_that_moves_is_one_environment_to_look_at_again() {
    let fixture = Fixture::new().await;
    let key = fixture.running(&fixture.production).await;
    let mut work = fixture.store.watch_work();
    fixture.point(Some(key.deployment)).await;
    assert_eq!(work.take(), Work::Keys([WorkKey::Environment(key.environment)].into()));
    fixture.point(Some(key.deployment)).await;
    assert!(work.take().is_none(), "it did not move");
    let policy = Policy { max_drain_ms: 7, ..fixture.production.policy.clone() };
    let mut writing = fixture.write().await;
    let pointer = Some(key.deployment);
    writing.update_environment(&Environment { pointer, policy, ..fixture.production.clone() }).await.unwrap();
    writing.commit().await.unwrap();
    assert_eq!(work.take(), Work::Keys([WorkKey::Environment(key.environment)].into()), "max_drain is part of it");
}
