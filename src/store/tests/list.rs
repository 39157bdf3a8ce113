//! Lists, history, moves, bundles and keys: what goes in comes out.

use std::slice;

use super::*;
use crate::model::event::What;
use crate::model::promotion::Refused;
use crate::store::ApiKey;

#[tokio::test]
async fn lists_are_paged_to_their_end() {
    let fixture = Fixture::new().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.insert(0, fixture.deployment().await);
    }
    let mut reading = fixture.read().await;
    let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let listed = reading.deployments(fixture.project.id, &page(2, after)).await.unwrap();
        found.extend(listed.items.iter().map(|deployment| deployment.id));
        pages += 1;
        after = listed.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((found, pages), (made.clone(), 3), "newest first");
    let latest = reading.latest_deployment(fixture.project.id).await.unwrap().unwrap();
    assert_eq!(latest.id, made[0]);
    let by_ref = reading.deployment_by_ref(fixture.project.id, &latest.reference).await.unwrap();
    assert_eq!(by_ref, Some(latest));
    let wrong = page(2, Some("yesterday".into()));
    assert!(matches!(reading.deployments(fixture.project.id, &wrong).await, Err(Error::Cursor)));
    assert!(matches!(reading.promotions(fixture.staging.id, &wrong).await, Err(Error::Cursor)));
}

#[tokio::test]
async fn environments_and_projects_are_found_by_name_and_listed() {
    let fixture = Fixture::new().await;
    let mut reading = fixture.read().await;
    let both = [fixture.staging.clone(), fixture.production.clone()];
    for project in [None, Some(fixture.project.id)] {
        let listed = reading.environments(project, &page(10, None)).await.unwrap();
        assert_eq!((&listed.items[..], listed.next), (&both[..], None));
    }
    let stranger = Some(Uuid::nil().into());
    assert!(reading.environments(stranger, &page(10, None)).await.unwrap().items.is_empty());
    let first = reading.environments(None, &page(1, None)).await.unwrap();
    let second = reading.environments(None, &page(1, first.next)).await.unwrap();
    assert_eq!((&second.items[..], second.next), (&both[1..], None));
    let found = reading.environment_by_name(fixture.project.id, &fixture.staging.name).await.unwrap();
    assert_eq!(found, Some(fixture.staging.clone()));
    assert_eq!(reading.project_by_name(&fixture.project.name).await.unwrap(), Some(fixture.project.clone()));
    assert_eq!(reading.projects(&page(10, None)).await.unwrap().items, slice::from_ref(&fixture.project));
}

#[tokio::test]
async fn environments_are_found_by_their_pointer() {
    let fixture = Fixture::new().await;
    let deployment = fixture.deployment().await;
    let mut writing = fixture.write().await;
    let moved = Environment { pointer: Some(deployment), locked: Some("freeze".into()), ..fixture.staging.clone() };
    writing.update_environment(&moved).await.unwrap();
    assert_eq!(writing.environments_pointing_at(deployment).await.unwrap(), [moved]);
}

#[tokio::test]
async fn the_stack_is_walked_along_the_rows_beneath() {
    let fixture = Fixture::new().await;
    let environment = fixture.production.id;
    let [a, bad, worse] = [fixture.deployment().await, fixture.deployment().await, fixture.deployment().await];
    let mut writing = fixture.write().await;
    assert_eq!(writing.stack(environment).await.unwrap().target(None, |_| true), Err(Refused::NoRollbackTarget));
    // A, B (bad), back to A, C (bad): going back is A again.
    for (sequence, below, to) in [(1, None, a), (2, Some(1), bad), (3, None, a), (4, Some(3), worse)] {
        writing.insert_promotion(&promotion(environment, sequence, below, to)).await.unwrap();
    }
    let stack = writing.stack(environment).await.unwrap();
    assert_eq!(stack.top_sequence(), Some(4));
    let target = stack.target(None, |_| true).unwrap();
    assert_eq!((target.deployment, target.below), (a, None));
    assert_eq!(stack.target(Some(bad), |_| true), Err(Refused::NotInHistory));
    assert_eq!(writing.last_sequence(environment).await.unwrap(), 4);
    assert_eq!(writing.last_sequence(fixture.staging.id).await.unwrap(), 0);
    assert!(writing.insert_promotion(&promotion(environment, 4, None, a)).await.is_err(), "a sequence is used once");
}

#[tokio::test]
async fn history_is_listed_newest_first_and_applied_is_set_once() {
    let fixture = Fixture::new().await;
    let deployment = fixture.deployment().await;
    let mut writing = fixture.write().await;
    let rows: Vec<_> = (1..=3).map(|n| promotion(fixture.staging.id, n, None, deployment)).collect();
    for row in &rows {
        writing.insert_promotion(row).await.unwrap();
    }
    writing.set_applied(rows[0].id, at(10)).await.unwrap();
    writing.set_applied(rows[0].id, at(20)).await.unwrap();
    let first = writing.promotions(fixture.staging.id, &page(2, None)).await.unwrap();
    assert_eq!(first.items, [rows[2].clone(), rows[1].clone()]);
    let second = writing.promotions(fixture.staging.id, &page(2, first.next)).await.unwrap();
    assert_eq!(second.items, [Promotion { applied_at: Some(at(10)), ..rows[0].clone() }]);
    assert_eq!(second.next, None);
}

#[tokio::test]
async fn a_later_move_supersedes_those_that_wait() {
    let fixture = Fixture::new().await;
    let deployment = fixture.deployment().await;
    let mut events = fixture.store.events();
    let mut writing = fixture.write().await;
    let ours = pending_move(fixture.staging.id, deployment);
    let first = writing.insert_move(&ours).await.unwrap();
    let second = writing.insert_move(&ours).await.unwrap();
    let other = writing.insert_move(&pending_move(fixture.production.id, deployment)).await.unwrap();
    assert_eq!([second, other], [first + 1, first + 2]);
    assert_eq!(writing.pending_move(first).await.unwrap(), Some(PendingMove { number: first, ..ours.clone() }));

    assert_eq!(writing.supersede_waiting(fixture.staging.id, at(20)).await.unwrap(), [first, second]);
    assert_eq!(writing.supersede_waiting(fixture.staging.id, at(20)).await.unwrap(), [0; 0]);
    writing.end_move(other, MoveState::TargetNotReady, Some("it crashed".into()), None, at(30)).await.unwrap();
    writing.end_move(first, MoveState::Refused, None, None, at(40)).await.unwrap();
    writing.commit().await.unwrap();

    let mut reading = fixture.read().await;
    let ended = |number, environment_id, state| What::MoveEnded { number, environment_id, state };
    for (number, environment, state, ended_at) in [
        (first, fixture.staging.id, MoveState::Superseded, at(20)),
        (second, fixture.staging.id, MoveState::Superseded, at(20)),
        (other, fixture.production.id, MoveState::TargetNotReady, at(30)),
    ] {
        let read = reading.pending_move(number).await.unwrap().unwrap();
        assert_eq!((read.state, read.ended_at), (state, Some(ended_at)));
        assert_eq!(events.try_recv().unwrap().what, ended(number, environment, state));
    }
    assert!(events.try_recv().is_err());
    assert!(reading.waiting_moves().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_move_number_is_never_given_twice() {
    let fixture = Fixture::new().await;
    let deployment = fixture.deployment().await;
    let mut writing = fixture.write().await;
    let first = writing.insert_move(&pending_move(fixture.staging.id, deployment)).await.unwrap();
    assert_eq!(writing.waiting_moves().await.unwrap().len(), 1);
    writing.delete_environment(fixture.staging.id).await.unwrap();
    let second = writing.insert_move(&pending_move(fixture.production.id, deployment)).await.unwrap();
    assert!(second > first);
}

#[tokio::test]
async fn a_bundle_is_registered_once() {
    let fixture = Fixture::new().await;
    let mut writing = fixture.write().await;
    assert_eq!(writing.bundle("sha256:00").await.unwrap(), None);
    writing.insert_bundle("sha256:00", 7, "[worker]", at(1)).await.unwrap();
    writing.insert_bundle("sha256:00", 7, "[worker]", at(2)).await.unwrap();
    let bundle = writing.bundle("sha256:00").await.unwrap().unwrap();
    assert_eq!((bundle.size, bundle.created_at, &*bundle.manifest_toml), (7, at(1), "[worker]"));
}

#[tokio::test]
async fn a_key_is_found_by_its_hash() {
    let fixture = Fixture::new().await;
    let mut writing = fixture.write().await;
    assert!(!writing.has_keys().await.unwrap());
    let key = ApiKey {
        id: Uuid::now_v7().into(),
        name: "admin".into(),
        hash: vec![0, 255, 7],
        role: "admin".into(),
        created_at: at(1),
    };
    writing.insert_key(&key).await.unwrap();
    assert_eq!(writing.key_by_hash(&key.hash).await.unwrap(), Some(key));
    assert_eq!(writing.key_by_hash(&[]).await.unwrap(), None);
    assert!(writing.has_keys().await.unwrap());
}
