//! `POST /api/v1/promotions`: several pointers in one change, or none.

use serde_json::{Value, json};

use crate::plane::{Plane, Project};

fn moves(list: &[(&str, &str)]) -> Value {
    let one = |(deployment, environment): &(&str, &str)| json!({ "source_deployment_id": deployment, "target_environment_id": environment });
    json!({ "promotions": list.iter().map(one).collect::<Vec<_>>(), "reason": "together" })
}

/// A deployment that is ready in staging and production, which serve another one.
async fn ready_in_both(plane: &Plane, project: &Project) -> String {
    let deployment = plane.deployment(project).await;
    for environment in [&project.staging, &project.production] {
        plane.serve_fresh(project, environment).await;
        plane.ready(environment, &deployment).await;
    }
    deployment
}

#[tokio::test]
async fn several_pointers_move_in_one_change() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let next = ready_in_both(&plane, &project).await;
    let before = plane.store.head().revision;
    let asked = moves(&[(&next, &project.staging), (&next, &project.production)]);
    let done = plane.post("promotions", asked.clone()).await.ok().body;
    assert_eq!((&done["changed"], &done["revision"]), (&json!(true), &json!(before.next())));
    assert_eq!((plane.store.head().revision, &done["propagation"]["complete"]), (before.next(), &json!(true)));
    for (at, environment) in [&project.staging, &project.production].into_iter().enumerate() {
        let row = &plane.history(environment).await[0];
        assert_eq!((&row["to_deployment_id"], &row["reason"]), (&json!(next), &json!("together")));
        assert_eq!((&row["revision"], &row["sequence"]), (&done["revision"], &json!(2)));
        assert_eq!(done["promotions"][at]["promotion"]["id"], row["id"], "in the order they were asked for");
        assert_eq!(done["promotions"][at]["previous"]["state"], "running");
    }
    let again = plane.post("promotions", asked).await.ok().body;
    assert_eq!((&again["changed"], &again["promotions"][0]["changed"]), (&json!(false), &json!(false)));
    assert_eq!(plane.store.head().revision, before.next(), "what is current already is no change");
}

#[tokio::test]
async fn one_that_is_refused_refuses_all_of_them() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let next = ready_in_both(&plane, &project).await;
    let unready = plane.deployment(&project).await;
    let refused = async |list: &[(&str, &str)], status, code| {
        let before = plane.everything().await;
        let refused = plane.post("promotions", moves(list)).await.refused(status, code);
        assert_eq!(plane.everything().await, before, "nothing moved, and nothing waits");
        refused
    };
    let (staging, production) = (project.staging.as_str(), project.production.as_str());
    let told = refused(&[(&next, staging), (&unready, production)], 409, "target_not_ready").await;
    assert_eq!(told.body["error"]["details"]["index"], 1);
    assert!(told.message().contains("promotions[1]") && told.message().contains("production"), "{told:?}");
    refused(&[(&next, staging), (&next, production), (&next, staging)], 400, "invalid_request").await;
    refused(&[(&next, staging), (&next, &project.id)], 404, "environment_not_found").await;
    plane.put(&format!("environments/{production}"), json!({ "locked": true })).await.ok();
    refused(&[(&next, staging), (&next, production)], 409, "environment_locked").await;
    refused(&[], 400, "invalid_request").await;
    refused(&vec![(next.as_str(), staging); 1_001], 400, "invalid_request").await;

    let mut asked = moves(&[(&next, staging)]);
    asked["promotions"][0]["expected_current_deployment_id"] = json!(null);
    let before = plane.everything().await;
    plane.post("promotions", asked).await.refused(409, "pointer_moved");
    assert_eq!(plane.everything().await, before);
}

#[tokio::test]
async fn previous_pools_close_in_the_same_change_where_asked() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let next = ready_in_both(&plane, &project).await;
    let old = plane.current(&project.staging).await.unwrap();
    let mut asked = moves(&[(&next, &project.staging), (&next, &project.production)]);
    asked["promotions"][0]["scale_previous_to_zero"] = json!(true);
    let done = plane.post("promotions", asked).await.ok().body;
    assert_eq!(done["promotions"][0]["previous"]["state"], "closing");
    assert_eq!(done["promotions"][1]["previous"]["state"], "running");
    assert_eq!(json!(plane.pool(&project.staging, &old).await.unwrap().closing_revision), done["revision"]);
}
