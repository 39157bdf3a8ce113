//! A proxy with a folder on a real disk, over a real stream.

use std::os::unix::fs::PermissionsExt;

use crate::model::id::InstanceId;
use crate::routing::table::Unresolved;
use crate::stream::last_known_good::folder::{Error, Folder};
use crate::stream::tests::cluster::{Control, LIMIT, Proxy, fleet_shows};
use crate::stream::tests::log::{Log, deployment_id, environment, host, moved};

#[tokio::test]
async fn a_proxy_begins_with_its_table_and_resumes_with_what_it_lacks() {
    let state = tempfile::tempdir().unwrap();
    let log = Log::new(1);
    log.commit(moved(1, 1), &[]);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::keeping(control.address, state.path());
    proxy.reaches(log.head()).await;
    let revision = Some(log.head().revision);
    fleet_shows(&control.fleet, |fleet| fleet.proxies().iter().any(|proxy| proxy.durable_revision == revision)).await;
    drop(proxy.stop().await);

    log.commit(moved(1, 2), &[]);
    let address = control.address;
    control.stop().await;
    let mut proxy = Proxy::keeping(address, state.path());
    let served = |proxy: &Proxy| proxy.claim(&host(1)).map(|claimed| claimed.pool.key.deployment);
    assert_eq!(served(&proxy), Ok(deployment_id(1)), "invariant 7: before anything was heard");

    let control = Control::start_at(address, log.clone()).await;
    proxy.reaches(log.head()).await;
    assert_eq!(served(&proxy), Ok(deployment_id(2)));
    assert_eq!((proxy.metrics.snapshots.get(), proxy.metrics.deltas.get()), (0, 1), "only what it lacked");
    let revision = Some(log.head().revision);
    fleet_shows(&control.fleet, |fleet| fleet.proxies().iter().any(|proxy| proxy.durable_revision == revision)).await;
}

#[tokio::test]
async fn a_proxy_at_the_head_says_so_without_being_sent_anything() {
    let state = tempfile::tempdir().unwrap();
    let log = Log::new(1);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::keeping(control.address, state.path());
    proxy.reaches(log.head()).await;
    let revision = Some(log.head().revision);
    fleet_shows(&control.fleet, |fleet| fleet.proxies().iter().any(|proxy| proxy.durable_revision == revision)).await;
    drop(proxy.stop().await);

    let control = control.restart(log.clone()).await;
    let proxy = Proxy::keeping(control.address, state.path());
    fleet_shows(&control.fleet, |fleet| fleet.proxies().iter().any(|proxy| proxy.durable_revision == revision)).await;
    assert_eq!((proxy.metrics.snapshots.get(), proxy.metrics.deltas.get()), (0, 0));
}

#[tokio::test]
async fn a_store_that_was_restored_replaces_what_is_kept() {
    let state = tempfile::tempdir().unwrap();
    let log = Log::new(1);
    log.commit(moved(1, 1), &[]);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::keeping(control.address, state.path());
    proxy.reaches(log.head()).await;
    drop(proxy.stop().await);

    log.restore(2);
    let control = control.restart(log.clone()).await;
    let mut proxy = Proxy::keeping(control.address, state.path());
    proxy.reaches(log.head()).await;
    let revision = Some(log.head().revision);
    fleet_shows(&control.fleet, |fleet| fleet.proxies().iter().any(|proxy| proxy.durable_revision == revision)).await;
    drop(proxy.stop().await);
    let address = control.address;
    control.stop().await;
    let proxy = Proxy::keeping(address, state.path());
    assert_eq!(proxy.live.position(), Some(log.head()));
}

#[tokio::test]
async fn invariant_6_what_is_refused_is_not_kept() {
    let state = tempfile::tempdir().unwrap();
    let log = Log::new(1);
    log.commit(moved(1, 1), &[]);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::keeping(control.address, state.path());
    proxy.reaches(log.head()).await;
    let good = log.head();
    log.commit(vec![environment(1, Some(99))], &[]);
    let refused = tokio::time::timeout(LIMIT, async {
        while proxy.metrics.refused.get() == 0 {
            tokio::task::yield_now().await;
        }
    });
    assert!(refused.await.is_ok(), "it points at nothing");
    drop(proxy.stop().await);
    let proxy = Proxy::keeping("127.0.0.1:1".parse().unwrap(), state.path());
    assert_eq!(proxy.live.position(), Some(good));
    assert_eq!(proxy.claim(&host(1)).map(|claimed| claimed.pool.key.deployment), Ok(deployment_id(1)));
}

#[tokio::test]
async fn invariant_7_nothing_is_known_without_a_table() {
    let state = tempfile::tempdir().unwrap();
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let proxy = Proxy::keeping(nowhere, state.path());
    assert_eq!(proxy.live.position(), None);
    assert_eq!(proxy.claim(&host(1)).map(drop), Err(Unresolved::TableNotLoaded));
}

#[test]
fn a_folder_has_one_owner_who_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data/proxy");
    let first = Folder::own(&path).unwrap();
    let refused = Folder::own(&path).unwrap_err();
    assert!(matches!(&refused, Error::Owned { pid: Some(pid), .. } if *pid == std::process::id()), "{refused:?}");
    let said = refused.to_string();
    assert!(said.contains(path.to_str().unwrap()) && said.contains("--data-dir"), "{said}");
    drop(first);
    assert!(Folder::own(&path).is_ok());
}

#[tokio::test]
async fn what_is_kept_is_for_its_owner_only() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("proxy");
    let log = Log::new(1);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::keeping(control.address, &path);
    proxy.reaches(log.head()).await;
    log.commit(moved(1, 1), &[]);
    proxy.reaches(log.head()).await;
    drop(proxy.stop().await);
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let files: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn a_name_is_kept_until_another_is_given() {
    let parent = tempfile::tempdir().unwrap();
    let folder = Folder::own(&parent.path().join("proxy")).unwrap();
    assert_eq!(folder.proxy_id(None, || "first".into()), "first");
    assert_eq!(folder.proxy_id(None, || "second".into()), "first");
    assert_eq!(folder.proxy_id(Some("given"), || "second".into()), "given");
    assert_eq!(folder.proxy_id(None, || "second".into()), "given");
    std::fs::write(parent.path().join("proxy/proxy_id"), b"\xff\0 two words").unwrap();
    assert_eq!(folder.proxy_id(None, || "second".into()), "second", "what is no name is not used");
}

fn run(n: u128) -> InstanceId {
    uuid::Uuid::from_u128(n).into()
}

#[test]
fn runs_that_have_ended_are_known_to_the_next_one() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("proxy");
    let noted = |n| Folder::own(&path).unwrap().note_run(run(n)).ended;
    assert_eq!(noted(1), []);
    assert_eq!(noted(2), [run(1)]);
    for n in 3..=40 {
        noted(n);
    }
    assert_eq!(noted(41), (9..=40).map(run).collect::<Vec<_>>(), "the latest ones");
    let files = std::fs::read_dir(&path).unwrap().flatten();
    let marks = files.filter(|file| file.file_name().to_string_lossy().starts_with("run-")).count();
    assert_eq!(marks, 1, "what marked the others is gone");
    std::fs::write(path.join("instance_ids"), b"no run\n\xff").unwrap();
    assert_eq!(noted(42), [], "what cannot be read names nobody");
}

#[test]
fn a_run_whose_process_is_there_has_not_ended_whoever_has_the_folder() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("proxy");
    let first = Folder::own(&path).unwrap().note_run(run(1));
    // Its folder is somebody else's now, and it still finishes what it has.
    for n in 2..=50 {
        let second = Folder::own(&path).unwrap().note_run(run(n));
        assert!(second.mark.is_some() && !second.ended.contains(&run(1)), "run {n}");
    }
    drop(first.mark);
    let third = Folder::own(&path).unwrap().note_run(run(51));
    assert!(third.ended.contains(&run(1)) && third.ended.contains(&run(50)), "{third:?}");
}
