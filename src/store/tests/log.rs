//! Catching up: the log, its floor, and positions in it.

use super::*;
use crate::store::log::CHANGES_MAX;

impl Fixture {
    /// Commits `count` changes of one environment.
    async fn change(&self, count: usize) {
        for n in 0..count {
            let mut environment = self.staging.clone();
            environment.policy.connect_timeout_ms = 1 + n as u64;
            let mut writing = self.write().await;
            writing.update_environment(&environment).await.unwrap();
            writing.commit().await.unwrap();
        }
    }

    async fn log(&self, after: Revision, bytes_max: usize) -> Vec<u64> {
        match self.store.changes_after(after, bytes_max).await.unwrap() {
            Changes::Log(log) => log.iter().map(|change| change.position.revision.0).collect(),
            Changes::BehindFloor => panic!("behind the floor"),
        }
    }
}

#[tokio::test]
async fn the_log_answers_alike_from_memory_and_from_disk() {
    let mut fixture = Fixture::new().await;
    fixture.change(5).await;
    let head = fixture.store.head();
    for _ in 0..2 {
        let first = fixture.log(Revision(0), usize::MAX).await;
        assert_eq!(first, (1..=head.revision.0).collect::<Vec<_>>());
        assert_eq!(fixture.log(Revision(3), 0).await, [4], "at least one");
        assert_eq!(fixture.log(Revision(3), 1).await, [4], "the one that exceeds is the last");
        assert_eq!(fixture.log(head.revision, usize::MAX).await, [0; 0]);
        assert_eq!(fixture.log(Revision(99), usize::MAX).await, [0; 0], "nothing follows what is not reached");
        let Changes::Log(log) = fixture.store.changes_after(Revision(0), usize::MAX).await.unwrap() else { panic!() };
        assert_eq!(log.last().unwrap().position, head);
        for change in &log {
            let revision = change.position.revision;
            assert_eq!(fixture.store.position_at(revision).await.unwrap(), Some(change.position));
        }
        assert_eq!(fixture.store.position_at(Revision(0)).await.unwrap().unwrap().digest, Digest::default());
        assert_eq!(fixture.store.position_at(Revision(99)).await.unwrap(), None);
        fixture = fixture.reopen("localhost").await;
    }
}

#[tokio::test]
async fn behind_the_floor_only_a_snapshot_helps() {
    let fixture = Fixture::new().await;
    fixture.change(5).await;
    let fixture = fixture.reopen("localhost").await;
    let trim = crate::store::row::query("DELETE FROM changes WHERE revision <= 3");
    trim.execute(&fixture.store.0.database.writer).await.unwrap();
    assert_eq!(fixture.store.changes_after(Revision(2), usize::MAX).await.unwrap(), Changes::BehindFloor);
    assert_eq!(fixture.log(Revision(3), 0).await, [4]);
    assert_eq!(fixture.store.position_at(Revision(2)).await.unwrap(), None);
}

#[tokio::test]
async fn the_log_lets_go_of_what_is_past_the_floor() {
    let fixture = Fixture::new().await;
    // As if that many had been committed before.
    let ahead = crate::store::row::query("UPDATE head SET revision = revision + $1").bind(CHANGES_MAX as i64 + 200);
    ahead.execute(&fixture.store.0.database.writer).await.unwrap();
    fixture.change(256).await;
    let fixture = fixture.reopen("localhost").await;
    assert_eq!(fixture.store.changes_after(Revision(0), 0).await.unwrap(), Changes::BehindFloor);
    assert_eq!(fixture.store.position_at(Revision(1)).await.unwrap(), None);
    let head = fixture.store.head().revision;
    assert_eq!(fixture.log(Revision(head.0 - 255), usize::MAX).await.len(), 255);
}
