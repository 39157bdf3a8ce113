//! Projects.

use serde_json::json;

use crate::plane::Plane;

#[tokio::test]
async fn a_project_comes_with_its_three_environments() {
    let plane = Plane::start().await;
    let made = plane.post("projects", json!({ "name": "support" })).await.ok();
    assert_eq!(made.status, 201);
    let environments: Vec<_> = made.body["environments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|at| (at["name"].as_str().unwrap(), at["url"].as_str().unwrap()))
        .collect();
    let expected =
        ["preview", "staging", "production"].map(|name| (name, format!("http://support-{name}.localhost:8080")));
    assert_eq!(environments, expected.each_ref().map(|(name, url)| (*name, url.as_str())));
    assert_eq!(plane.get(&format!("projects/{}", made.id())).await.ok().body, made.body);
    assert_eq!(plane.get("projects?name=support").await.ok().body["items"], json!([made.body]));
    assert_eq!(plane.get("projects?name=nobody").await.ok().body["items"], json!([]));
}

#[tokio::test]
async fn a_taken_name_or_host_refuses_the_whole_project() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let hosts = json!({ "project_id": project.id, "name": "odd", "hosts": ["sales-staging.localhost"] });
    let odd = plane.post("environments", hosts).await.ok().id();
    let before = plane.everything().await;

    let taken = plane.post("projects", json!({ "name": "support" })).await.refused(409, "name_taken");
    assert!(taken.message().contains("support"), "{taken:?}");
    let taken = plane.post("projects", json!({ "name": "sales" })).await.refused(409, "host_taken");
    assert_eq!(taken.body["error"]["details"]["environment_id"], json!(odd));
    assert!(taken.message().contains("support/odd"), "{taken:?}");
    assert_eq!(plane.everything().await, before);
}

#[tokio::test]
async fn projects_are_listed_in_pages() {
    let plane = Plane::start().await;
    for name in ["aaa", "bbb", "ccc"] {
        plane.project(name).await;
    }
    let first = plane.get("projects?limit=2").await.ok().body;
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = plane.get(&format!("projects?limit=2&cursor={cursor}")).await.ok().body;
    assert_eq!(second["items"][0]["name"], "ccc");
    assert!(second["next_cursor"].is_null());
    plane.get("projects?cursor=nonsense").await.refused(400, "invalid_request");
}

#[tokio::test]
async fn a_project_that_serves_is_kept_unless_forced() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.serve_fresh(&project, &project.staging).await;
    let before = plane.everything().await;
    let path = format!("projects/{}", project.id);
    let kept = plane.delete(&path).await.refused(409, "project_in_use");
    assert_eq!(kept.body["error"]["details"]["environments"][0]["id"], json!(project.staging));
    assert_eq!(plane.everything().await, before);

    let forced = format!("{path}?force=true");
    let (deleted, ()) = tokio::join!(plane.delete(&forced), async {
        crate::plane::until("the pool to close", || async {
            plane.pool(&project.staging, &deployment).await.filter(|pool| !pool.state.is_wanted())
        })
        .await;
        plane.stopped(&project.staging, &deployment).await;
    });
    assert_eq!((deleted.status, &deleted.body["deleted"]), (200, &json!(true)));
    plane.get(&path).await.refused(404, "project_not_found");
    plane.get(&format!("environments/{}", project.staging)).await.refused(404, "environment_not_found");
}

#[tokio::test]
async fn a_project_that_serves_nothing_goes_at_once() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let path = format!("projects/{}", project.id);
    assert_eq!(plane.delete(&path).await.ok().body, json!({ "id": project.id, "deleted": true }));
    plane.delete(&path).await.refused(404, "project_not_found");
    plane.project("support").await;
}
