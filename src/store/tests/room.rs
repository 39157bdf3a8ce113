//! How much room the files take.

use std::time::Instant;

use super::*;
use crate::store::row::query;

/// Of one transaction: more than the log may be long when it begins anew.
const LARGE: usize = 12 << 20;

impl Fixture {
    fn log_bytes(&self) -> usize {
        let log = self.directory.path().join("data/repoint.db-wal");
        std::fs::metadata(log).unwrap().len() as usize
    }

    async fn write_bundle(&self, digest: &str, bytes: usize) {
        let insert = "INSERT INTO bundles (digest, size, manifest, created_at) VALUES ($1, 0, $2, 0)";
        let mut writing = self.write().await;
        writing.execute(query(insert).bind(digest.to_owned()).bind("x".repeat(bytes))).await.unwrap();
        writing.commit().await.unwrap();
    }
}

#[tokio::test]
async fn the_log_of_a_large_transaction_is_given_back() {
    let fixture = Fixture::new().await;
    fixture.write_bundle("large", LARGE).await;
    assert!(fixture.log_bytes() > LARGE);
    assert!(fixture.store.truncate_log().await.unwrap());
    assert_eq!(fixture.log_bytes(), 0);
    assert_eq!(fixture.hosts(&fixture.staging).await, ["support-staging.localhost"], "nothing is lost with it");
}

#[tokio::test]
async fn while_somebody_reads_the_log_stays_and_later_commits_give_it_back() {
    let fixture = Fixture::new().await;
    let mut reading = fixture.read().await;
    reading.projects(&Page { limit: 1, after: None }).await.unwrap();
    fixture.write_bundle("large", LARGE).await;
    assert!(!fixture.store.truncate_log().await.unwrap(), "neither waits nor fails");
    assert!(fixture.log_bytes() > LARGE);
    drop(reading);

    let began = Instant::now();
    for n in 0.. {
        fixture.write_bundle(&n.to_string(), 1).await;
        if fixture.log_bytes() <= 8 << 20 {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "the log stays {} bytes long", fixture.log_bytes());
    }
}
