//! Committing: all or nothing, and a change only where something differs.

use super::*;
use crate::model::event::What;
use crate::store::{Work, WorkKey};

#[tokio::test]
async fn invariant_4_pointer_history_and_change_log_commit_together() {
    let fixture = Fixture::new().await;
    let key = fixture.running(&fixture.production).await;
    let before = fixture.store.head().revision;
    let mut moved = fixture.production.clone();
    moved.pointer = Some(key.deployment);

    let mut writing = fixture.write().await;
    let revision = writing.next_revision().await.unwrap();
    let row = Promotion { revision, ..promotion(moved.id, 1, None, key.deployment) };
    writing.update_environment(&moved).await.unwrap();
    writing.insert_promotion(&row).await.unwrap();
    assert_eq!(writing.commit().await.unwrap(), revision);

    assert_eq!(revision, before.next());
    let fixture = fixture.reopen("localhost").await;
    let change = only_change(&fixture, before).await;
    assert_eq!(change.revision, revision);
    assert!(matches!(&change.upserts[..], [(Record::Environment(record), _)] if record.pointer == moved.pointer));
    let mut reading = fixture.read().await;
    assert_eq!(reading.environment(moved.id).await.unwrap().unwrap().pointer, moved.pointer);
    assert_eq!(reading.promotion(row.id).await.unwrap(), Some(row));
}

#[tokio::test]
async fn invariant_4_a_dropped_transaction_leaves_nothing() {
    let fixture = Fixture::new().await;
    let key = fixture.running(&fixture.production).await;
    let (head, snapshot) = (fixture.store.head(), fixture.store.snapshot().await.unwrap());
    let mut events = fixture.store.events();
    let mut moved = fixture.production.clone();
    moved.pointer = Some(key.deployment);

    let mut writing = fixture.write().await;
    writing.update_environment(&moved).await.unwrap();
    writing.insert_promotion(&promotion(moved.id, 1, None, key.deployment)).await.unwrap();
    writing.note(What::Draining { environment_id: moved.id, deployment_id: key.deployment });
    drop(writing);

    let mut reading = fixture.write().await;
    assert_eq!(reading.environment(moved.id).await.unwrap().unwrap().pointer, None);
    assert_eq!(reading.last_sequence(moved.id).await.unwrap(), 0);
    drop(reading);
    assert_eq!(fixture.store.head(), head);
    assert_eq!(fixture.store.snapshot().await.unwrap(), snapshot);
    assert!(events.try_recv().is_err());
}

#[tokio::test]
async fn invariant_4_a_commit_survives_a_crash() {
    let fixture = Fixture::new().await;
    let key = fixture.running(&fixture.production).await;
    // What lies on disk while the store is open is all that a crash leaves.
    let crashed = tempfile::tempdir().unwrap();
    let config = config(crashed.path(), "localhost");
    std::fs::create_dir(&config.data_dir).unwrap();
    for file in ["repoint.db", "repoint.db-wal"] {
        std::fs::copy(fixture.directory.path().join("data").join(file), config.data_dir.join(file)).unwrap();
    }
    let survivor = Store::open(&config).await.unwrap();
    assert_eq!(survivor.head(), fixture.store.head());
    assert_eq!(survivor.snapshot().await.unwrap(), fixture.store.snapshot().await.unwrap());
    assert!(survivor.read().await.unwrap().pool(key).await.unwrap().is_some());
}

#[tokio::test]
async fn writing_what_is_there_makes_no_revision() {
    let fixture = Fixture::new().await;
    let key = fixture.running(&fixture.production).await;
    let head = fixture.store.head();
    let (head_woken, mut work_woken) = (fixture.store.watch_head(), fixture.store.watch_work());
    let mut writing = fixture.write().await;
    let pool = writing.pool(key).await.unwrap().unwrap();
    writing.put_pool(&pool).await.unwrap();
    // No part of any record: proxies need not hear of it.
    writing
        .update_environment(&Environment { updated_at: at(99), bounds: None, ..fixture.production.clone() })
        .await
        .unwrap();
    assert_eq!(writing.commit().await.unwrap(), head.revision);
    assert_eq!(fixture.store.head(), head);
    assert!(!head_woken.has_changed().unwrap() && work_woken.take().is_none());
}

#[tokio::test]
async fn the_kept_digest_is_that_of_the_snapshot() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.store.head().digest, recomputed(&fixture.store).await);
    let key = fixture.running(&fixture.production).await;
    assert_eq!(fixture.store.head().digest, recomputed(&fixture.store).await);
    let mut writing = fixture.write().await;
    writing.put_pool(&Pool { state: PoolState::Stopped, ..running(key) }).await.unwrap();
    writing.delete_environment(fixture.staging.id).await.unwrap();
    writing.commit().await.unwrap();
    assert_eq!(fixture.store.head().digest, recomputed(&fixture.store).await);
    let fixture = fixture.reopen("localhost").await;
    assert_eq!(fixture.store.head().digest, recomputed(&fixture.store).await);
}

#[tokio::test]
async fn watchers_and_subscribers_hear_of_a_commit_after_it() {
    let fixture = Fixture::new().await;
    let key = PoolKey { environment: fixture.staging.id, deployment: fixture.deployment().await };
    let (mut head, mut work, mut events) =
        (fixture.store.watch_head(), fixture.store.watch_work(), fixture.store.events());
    let what = What::Draining { environment_id: key.environment, deployment_id: key.deployment };

    let mut writing = fixture.write().await;
    writing.put_pool(&running(key)).await.unwrap();
    writing.note(what.clone());
    writing.note(what.clone());
    assert!(!head.has_changed().unwrap() && work.take().is_none() && events.try_recv().is_err());
    let revision = writing.commit().await.unwrap();

    assert_eq!(head.borrow_and_update().revision, revision);
    assert_eq!(work.take(), Work::Keys([WorkKey::Pool(key)].into()));
    assert_eq!(events.try_recv().unwrap().what, what);
    assert!(events.try_recv().is_err(), "a note made twice is one event");
    fixture.store.publish(what);
    assert!(events.try_recv().is_ok());
}

#[tokio::test]
async fn a_taken_host_names_its_owner_and_changes_nothing() {
    let fixture = Fixture::new().await;
    let mut greedy = fixture.staging.clone();
    greedy.locked = Some("freeze".into());
    greedy.hosts.push(fixture.production.hosts[0].clone());
    let mut writing = fixture.write().await;
    let refused = writing.update_environment(&greedy).await.unwrap_err();
    assert!(matches!(refused, Error::HostTaken { owner, .. } if owner == fixture.production.id), "{refused}");
    let new = Environment { hosts: greedy.hosts.clone(), ..environment(&fixture.project, "preview") };
    assert!(matches!(writing.insert_environment(&new).await, Err(Error::HostTaken { .. })));
    // Even a caller who commits after a refusal has changed nothing.
    writing.commit().await.unwrap();
    let mut reading = fixture.read().await;
    assert_eq!(reading.environment(greedy.id).await.unwrap(), Some(fixture.staging.clone()));
    assert_eq!(reading.environment(new.id).await.unwrap(), None);
    let host = &fixture.production.hosts[0];
    assert_eq!(reading.host_owner(host).await.unwrap(), Some(fixture.production.id));
}

#[tokio::test]
async fn taken_names_are_refused() {
    let fixture = Fixture::new().await;
    let mut writing = fixture.write().await;
    let again = Project { id: Uuid::now_v7().into(), ..fixture.project.clone() };
    assert!(matches!(writing.insert_project(&again).await, Err(Error::NameTaken(name)) if name == "support"));
    let again = Environment { hosts: Vec::new(), ..environment(&fixture.project, "staging") };
    assert!(matches!(writing.insert_environment(&again).await, Err(Error::NameTaken(name)) if name == "staging"));
    let first = deployment(&fixture.project);
    let second = Deployment { id: Uuid::now_v7().into(), ..first.clone() };
    writing.insert_deployment(&first).await.unwrap();
    assert!(matches!(writing.insert_deployment(&second).await, Err(Error::NameTaken(_))));
}

#[tokio::test]
async fn deleting_a_project_takes_everything_below_along() {
    let fixture = Fixture::new().await;
    let key = fixture.running(&fixture.production).await;
    let mut writing = fixture.write().await;
    writing
        .update_environment(&Environment { pointer: Some(key.deployment), ..fixture.production.clone() })
        .await
        .unwrap();
    writing.insert_promotion(&promotion(key.environment, 1, None, key.deployment)).await.unwrap();
    writing.insert_move(&pending_move(key.environment, key.deployment)).await.unwrap();
    writing.commit().await.unwrap();

    let mut writing = fixture.write().await;
    writing.delete_project(fixture.project.id).await.unwrap();
    writing.commit().await.unwrap();

    let left = fixture.store.snapshot().await.unwrap().records;
    assert_eq!(left.len(), 1, "only the settings record is left");
    assert_eq!(fixture.store.head().digest, recomputed(&fixture.store).await);
    let mut reading = fixture.read().await;
    assert_eq!(reading.project(fixture.project.id).await.unwrap(), None);
    assert_eq!(reading.deployment(key.deployment).await.unwrap(), None);
    assert!(reading.pools().await.unwrap().is_empty() && reading.waiting_moves().await.unwrap().is_empty());
}

#[tokio::test]
async fn outcomes_of_a_move_are_set_once_and_at_the_latest_move_away() {
    let fixture = Fixture::new().await;
    let key = fixture.running(&fixture.production).await;
    let other = fixture.deployment().await;
    let mut writing = fixture.write().await;
    for (sequence, from, to) in [(1, key.deployment, other), (2, other, key.deployment), (3, key.deployment, other)] {
        let row = Promotion { from: Some(from), ..promotion(key.environment, sequence, None, to) };
        writing.insert_promotion(&row).await.unwrap();
    }
    writing.commit().await.unwrap();
    for (time, cut) in [(20, 3), (30, 0)] {
        let mut writing = fixture.write().await;
        writing.set_drained(key, at(time), cut).await.unwrap();
        writing.commit().await.unwrap();
        let rows = fixture.read().await.promotions(key.environment, &Page { limit: 9, after: None }).await.unwrap();
        let outcomes: Vec<_> = rows.items.iter().map(|row| (row.previous_drained_at, row.streams_cut)).collect();
        assert_eq!(outcomes, [(Some(at(20)), Some(3)), (None, None), (None, None)], "the first time counts");
    }
}
