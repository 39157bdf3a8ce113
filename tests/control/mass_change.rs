//! Deleting much: refused before anything is taken out of service, unless it is meant.

use serde_json::json;

use crate::plane::{Plane, Project};

/// A project with more environments than may go at once; one of them serves.
async fn large(plane: &Plane) -> Project {
    let project = plane.project("support").await;
    for n in 0..101 {
        let body = json!({ "project_id": project.id, "name": format!("e{n:03}") });
        plane.post("environments", body).await.ok();
    }
    plane.serve_fresh(&project, &project.staging).await;
    project
}

#[tokio::test]
async fn a_large_project_is_deleted_only_where_somebody_means_it() {
    let plane = Plane::start().await;
    let project = large(&plane).await;
    let before = plane.everything().await;
    let path = format!("projects/{}?force=true", project.id);
    let refused = plane.delete(&path).await.refused(409, "mass_change_refused");
    assert!(refused.message().contains("104 of 104 environments"), "{refused:?}");
    assert!(refused.message().contains("allow_mass_change=true"), "{refused:?}");
    assert_eq!(plane.everything().await, before, "it serves what it served");

    let current = plane.current(&project.staging).await.unwrap();
    let deleted = async { plane.delete(&format!("{path}&allow_mass_change=true")).await.ok() };
    let stopped = async {
        crate::plane::until("the pool to close", || async {
            let pool = plane.pool(&project.staging, &current).await?;
            (pool.state == repoint::model::pool::PoolState::Closing).then_some(())
        })
        .await;
        plane.stopped(&project.staging, &current).await;
    };
    let (deleted, ()) = tokio::join!(deleted, stopped);
    assert_eq!((deleted.status, &deleted.body["deleted"]), (200, &json!(true)));
    plane.get(&format!("projects/{}", project.id)).await.refused(404, "project_not_found");
}

#[tokio::test]
async fn an_operator_says_that_the_state_is_meant() {
    let plane = Plane::start().await;
    let before = plane.store.head();
    let allowed = plane.post("proxies/allow-mass-change", json!({})).await.ok();
    let head = plane.store.head();
    assert_eq!((allowed.body["revision"].as_u64(), head.digest), (Some(head.revision.0), before.digest));
    assert_eq!(head.revision, before.revision.next());
    let headers = [("x-api-key", "wrong")];
    plane.send_with("POST", "proxies/allow-mass-change", &headers, None).await.refused(401, "unauthorized");
    assert_eq!(plane.store.head(), head, "a refusal changes nothing");
}
