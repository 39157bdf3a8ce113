//! What deletes much is refused at commit, and stamped where somebody means it.

use super::*;

/// A store with `count` environments more than the two it begins with.
async fn with_environments(count: usize) -> (Fixture, Vec<EnvironmentId>) {
    let fixture = Fixture::new().await;
    let mut writing = fixture.write().await;
    let mut ids = Vec::new();
    for n in 0..count {
        let environment = environment(&fixture.project, &format!("e{n:03}"));
        writing.insert_environment(&environment).await.unwrap();
        ids.push(environment.id);
    }
    writing.commit().await.unwrap();
    (fixture, ids)
}

async fn deleting(fixture: &Fixture, ids: &[EnvironmentId]) -> Transaction {
    let mut writing = fixture.write().await;
    for id in ids {
        writing.delete_environment(*id).await.unwrap();
    }
    writing
}

#[tokio::test]
async fn deleting_more_than_an_accident_should_is_refused_and_changes_nothing() {
    let (fixture, ids) = with_environments(150).await;
    let (head, before) = (fixture.store.head(), fixture.store.snapshot().await.unwrap());
    let refused = deleting(&fixture, &ids[..101]).await.commit().await.unwrap_err();
    let Error::MassChange(change) = &refused else { panic!("{refused:?}") };
    assert_eq!((change.environments.gone, change.environments.of), (101, 152));
    assert!(refused.to_string().contains("allow_mass_change=true"), "{refused}");
    assert_eq!((fixture.store.head(), fixture.store.snapshot().await.unwrap()), (head, before));
    // A hundred go without a word.
    deleting(&fixture, &ids[..100]).await.commit().await.unwrap();
    assert!(!only_change(&fixture, head.revision).await.mass_change_allowed);
    assert_eq!(fixture.store.snapshot().await.unwrap().mass_change_at, Revision(0));
}

#[tokio::test]
async fn what_somebody_allowed_carries_the_stamp_and_is_remembered() {
    let (fixture, ids) = with_environments(150).await;
    let head = fixture.store.head().revision;
    let mut writing = deleting(&fixture, &ids).await;
    writing.allow_mass_change();
    let revision = writing.commit().await.unwrap();
    let change = only_change(&fixture, head).await;
    assert_eq!((change.mass_change_allowed, change.deletes.len()), (true, 150));
    let fixture = fixture.reopen("localhost").await;
    assert_eq!(fixture.store.snapshot().await.unwrap().mass_change_at, revision);
    // What is allowed and deletes little needs no stamp.
    let mut writing = fixture.write().await;
    writing.allow_mass_change();
    writing.delete_environment(fixture.staging.id).await.unwrap();
    let little = writing.commit().await.unwrap();
    assert!(!only_change(&fixture, revision).await.mass_change_allowed);
    assert!(little > fixture.store.snapshot().await.unwrap().mass_change_at);
}

#[tokio::test]
async fn the_state_as_it_stands_can_be_stamped() {
    let fixture = Fixture::new().await;
    let before = fixture.store.head();
    let mut writing = fixture.write().await;
    writing.stamp_state();
    let revision = writing.commit().await.unwrap();
    let change = only_change(&fixture, before.revision).await;
    assert_eq!((change.mass_change_allowed, change.upserts.len(), change.deletes.len()), (true, 0, 0));
    let snapshot = fixture.store.snapshot().await.unwrap();
    assert_eq!((snapshot.mass_change_at, snapshot.position.digest), (revision, before.digest));
}

#[tokio::test]
async fn pools_with_endpoints_are_counted_and_those_without_are_not() {
    let (fixture, ids) = with_environments(1).await;
    let mut keys = Vec::new();
    for _ in 0..101 {
        keys.push(PoolKey { environment: ids[0], deployment: fixture.deployment().await });
    }
    let put = async |pool: &dyn Fn(PoolKey) -> Pool| {
        let mut writing = fixture.write().await;
        for key in &keys {
            writing.put_pool(&pool(*key)).await.unwrap();
        }
        writing.commit().await
    };
    let at_rest = |key| Pool { state: PoolState::Stopped, ..Pool::starting(key, Bounds::default()) };
    put(&running).await.unwrap();
    let refused = put(&at_rest).await.unwrap_err();
    assert!(matches!(&refused, Error::MassChange(change) if change.pools.gone == 101), "{refused:?}");
    let starting = |key| Pool::starting(key, Bounds::default());
    put(&starting).await.unwrap();
    put(&at_rest).await.unwrap();
}
