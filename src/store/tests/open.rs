//! Opening: who owns the directory, and what a restart keeps.

use super::*;

#[tokio::test]
async fn reopening_keeps_everything() {
    let fixture = Fixture::new().await;
    let key = fixture.running(&fixture.staging).await;
    let head = fixture.store.head();
    let snapshot = fixture.store.snapshot().await.unwrap();

    let fixture = fixture.reopen("localhost").await;

    assert_eq!(fixture.store.head(), head);
    assert_eq!(fixture.store.snapshot().await.unwrap(), snapshot);
    let mut reading = fixture.read().await;
    assert_eq!(reading.environment(fixture.staging.id).await.unwrap(), Some(fixture.staging.clone()));
    assert_eq!(reading.pool(key).await.unwrap().unwrap().ready_count(), 1);
}

#[tokio::test]
async fn a_new_store_has_a_lineage_of_its_own() {
    let (one, other) = (Fixture::new().await, Fixture::new().await);
    assert_ne!(one.store.head().lineage, other.store.head().lineage);
}

#[tokio::test]
async fn a_second_open_is_refused_also_while_only_a_transaction_is_left() {
    let fixture = Fixture::new().await;
    let config = fixture.config("localhost");
    assert!(matches!(Store::open(&config).await, Err(Error::Owned(_))));
    let reading = fixture.read().await;
    drop(fixture.store);
    assert!(matches!(Store::open(&config).await, Err(Error::Owned(_))));
    drop(reading);
    assert!(Store::open(&config).await.is_ok());
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let fixture = Fixture::new().await;
    let config = fixture.config("localhost");
    let newer = crate::store::row::query("UPDATE schema_version SET version = 99");
    newer.execute(&fixture.store.0.database.writer).await.unwrap();
    fixture.store.close().await;
    drop(fixture.store);
    for _ in 0..2 {
        assert!(matches!(Store::open(&config).await, Err(Error::Newer { found: 99, .. })));
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named_with_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), "localhost");
    std::fs::create_dir(&config.data_dir).unwrap();
    std::fs::write(config.data_dir.join("repoint.db"), "not a database, but long enough to be read as one").unwrap();
    let refused = Store::open(&config).await.err().unwrap();
    assert!(matches!(refused, Error::Unusable { .. }), "{refused:?}");
    assert!(refused.to_string().contains("--data-dir"), "{refused}");
}

#[tokio::test]
async fn a_path_with_signs_of_a_url_opens() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory.path().join("50% a?b#c ü"), "localhost");
    Store::open(&config).await.unwrap().close().await;
    assert!(config.data_dir.join("repoint.db").metadata().unwrap().len() > 0);
}

#[tokio::test]
async fn connections_sync_fully_and_readers_cannot_write() {
    let fixture = Fixture::new().await;
    let database = &fixture.store.0.database;
    let pragma = async |pool: &sqlx::AnyPool, text: &'static str, column: &str| {
        let row = crate::store::row::query(text).fetch_one(pool).await.unwrap();
        sqlx::Row::get::<i64, _>(&row, column)
    };
    assert_eq!(pragma(&database.writer, "PRAGMA synchronous", "synchronous").await, 2);
    assert_eq!(pragma(&database.writer, "PRAGMA foreign_keys", "foreign_keys").await, 1);
    let mode = crate::store::row::query("PRAGMA journal_mode").fetch_one(&database.readers).await.unwrap();
    assert_eq!(sqlx::Row::get::<String, _>(&mode, 0), "wal");
    assert!(fixture.read().await.insert_project(&fixture.project).await.is_err());
}

#[tokio::test]
async fn another_base_domain_rewrites_every_first_host_in_one_change() {
    let fixture = Fixture::new().await;
    let mut production = fixture.production.clone();
    production.hosts.push("agents.example.com".parse().unwrap());
    let mut writing = fixture.write().await;
    writing.update_environment(&production).await.unwrap();
    let before = writing.commit().await.unwrap();

    let fixture = fixture.reopen("agents.test").await;

    let change = only_change(&fixture, before).await;
    let mut keys: Vec<_> = change.upserts.iter().map(|(record, _)| record.key()).collect();
    keys.sort();
    let mut expected =
        [RecordKey::Settings, RecordKey::Environment(fixture.staging.id), RecordKey::Environment(production.id)];
    expected.sort();
    assert_eq!(keys, expected);
    assert_eq!(fixture.hosts(&fixture.staging).await, ["support-staging.agents.test"]);
    assert_eq!(fixture.hosts(&production).await, ["support-production.agents.test", "agents.example.com"]);
    let revision = fixture.store.head().revision;
    assert_eq!(fixture.reopen("agents.test").await.store.head().revision, revision);
}

#[tokio::test]
async fn a_base_domain_that_makes_a_claimed_host_is_refused() {
    let fixture = Fixture::new().await;
    let mut production = fixture.production.clone();
    production.hosts.push("support-staging.agents.test".parse().unwrap());
    let mut writing = fixture.write().await;
    writing.update_environment(&production).await.unwrap();
    writing.commit().await.unwrap();
    let config = fixture.config("agents.test");
    fixture.store.close().await;
    drop(fixture.store);

    let refused = Store::open(&config).await.err().unwrap();

    assert!(matches!(refused, Error::HostTaken { owner, .. } if owner == production.id), "{refused}");
    let store = Store::open(&Config { base_domain: "localhost".parse().unwrap(), ..config }).await.unwrap();
    let kept = store.read().await.unwrap().environment(fixture.staging.id).await.unwrap().unwrap();
    assert_eq!(kept.hosts, fixture.staging.hosts);
}
