//! The turn to write: one at a time, and never lost with whoever had it.

use std::pin::pin;
use std::task::Poll;

use super::*;

impl Fixture {
    /// Adds one to a number that is read before it is written.
    async fn increment(&self) {
        let mut writing = self.write().await;
        let mut environment = writing.environment(self.staging.id).await.unwrap().unwrap();
        environment.policy.max_drain_ms += 1;
        writing.update_environment(&environment).await.unwrap();
        writing.commit().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_take_turns() {
    let fixture = std::sync::Arc::new(Fixture::new().await);
    let before = fixture.store.head().revision;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let fixture = std::sync::Arc::clone(&fixture);
        tasks.spawn(async move { fixture.increment().await });
    }
    tasks.join_all().await;
    let found = fixture.read().await.environment(fixture.staging.id).await.unwrap().unwrap();
    assert_eq!(found.policy.max_drain_ms, Policy::default().max_drain_ms + 100);
    assert_eq!(fixture.store.head().revision.0, before.0 + 100);
    assert_eq!(fixture.changes(before).await.len(), 100);
}

/// Polls a future `polls` times and drops it: before the last answer has come,
/// or when it is there but not taken. Whether the future ended before that.
async fn cut<F: Future>(future: F, polls: usize, answered: bool) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Pending if left == 0 && !answered => Poll::Ready(false),
            polled => polled.map(|_| true),
        }
    })
    .await
}

#[tokio::test]
async fn a_writer_cancelled_at_any_point_is_undone_and_frees_the_turn() {
    let fixture = Fixture::new().await;
    let mut expected = Policy::default().max_drain_ms;
    let (mut undone, mut carried_through) = (0, 0);
    // How often a writer has to wait depends on timing, so every number of polls
    // is tried again until cuts before and within the commit have been seen.
    for round in 0..10_000 {
        let before = fixture.store.head().revision;
        let ended = cut(fixture.increment(), round % 8, round % 16 < 8).await;
        let turn = tokio::time::timeout(Duration::from_secs(10), fixture.write());
        let mut writing = turn.await.expect("the turn is free");
        // A commit that had begun was carried through before this turn came.
        let committed = fixture.store.head().revision.0 - before.0;
        expected += committed;
        let stored = writing.environment(fixture.staging.id).await.unwrap().unwrap();
        assert_eq!(stored.policy.max_drain_ms, expected, "round {round}");
        assert_eq!(writing.position().await.unwrap(), fixture.store.head());
        match (ended, committed) {
            (true, committed) => assert_eq!(committed, 1),
            (false, 0) => undone += 1,
            (false, _) => carried_through += 1,
        }
        if undone >= 50 && carried_through >= 10 {
            break;
        }
    }
    assert!(undone >= 50 && carried_through >= 10, "{undone} undone, {carried_through} carried through");
    assert_eq!(fixture.store.head().digest, recomputed(&fixture.store).await);
}

#[tokio::test]
async fn a_writer_dropped_within_a_long_query_is_undone() {
    let fixture = Fixture::new().await;
    let mut writing = fixture.write().await;
    writing.delete_environment(fixture.staging.id).await.unwrap();
    let endless =
        crate::store::row::query("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n");
    let reading = writing.all("number", endless);
    assert!(!cut(reading, 2, true).await);
    drop(writing);
    let turn = tokio::time::timeout(Duration::from_secs(10), fixture.write());
    let found = turn.await.expect("the turn is free").environment(fixture.staging.id).await.unwrap();
    assert_eq!(found, Some(fixture.staging.clone()));
}

#[tokio::test]
async fn a_reader_sees_one_instant_and_stops_no_writer() {
    let fixture = Fixture::new().await;
    let mut reading = fixture.read().await;
    let before = reading.environment(fixture.staging.id).await.unwrap();
    fixture.increment().await;
    assert_eq!(reading.environment(fixture.staging.id).await.unwrap(), before);
    assert_ne!(fixture.read().await.environment(fixture.staging.id).await.unwrap(), before);
}
