//! What proxies are told of a pool, and what is kept of its errors.

use std::slice;

use super::*;
use crate::model::change::{PoolRecord, PoolRecordState};
use crate::model::pool::{PoolError, PoolErrorKind};

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
