//! Many at once.

use serde_json::json;

use crate::plane::Plane;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_promotions_at_once_end_in_one_chain_without_gaps() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let mut deployments = Vec::new();
    for _ in 0..50 {
        let deployment = plane.deployment(&project).await;
        plane.ready(&project.staging, &deployment).await;
        deployments.push(deployment);
    }
    let asks =
        deployments.iter().map(|deployment| plane.promote(deployment, &project.staging, json!({ "wait_ms": 0 })));
    for answer in futures_util::future::join_all(asks).await {
        assert_eq!((answer.status, &answer.body["changed"]), (200, &json!(true)), "{answer:?}");
    }

    let mut history = plane.history(&project.staging).await;
    history.reverse();
    assert_eq!(history.len(), 50);
    let mut before = json!(null);
    let mut revision = 0;
    for (row, sequence) in history.iter().zip(1..) {
        assert_eq!(row["sequence"], json!(sequence));
        assert_eq!(row["from_deployment_id"], before, "each row begins where the one before it ended");
        assert!(row["revision"].as_u64().unwrap() > revision, "in the order of their revisions");
        (before, revision) = (row["to_deployment_id"].clone(), row["revision"].as_u64().unwrap());
    }
    assert_eq!(json!(plane.current(&project.staging).await), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_expect_the_same_current_deployment_one_wins() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let current = plane.serve_fresh(&project, &project.staging).await;
    let mut asks = Vec::new();
    for _ in 0..10 {
        let deployment = plane.deployment(&project).await;
        plane.ready(&project.staging, &deployment).await;
        asks.push(deployment);
    }
    let ask = json!({ "expected_current_deployment_id": current });
    let asks = asks.iter().map(|deployment| plane.promote(deployment, &project.staging, ask.clone()));
    let answers = futures_util::future::join_all(asks).await;
    let won = answers.iter().filter(|answer| answer.status == 200).count();
    let lost = answers.iter().filter(|answer| answer.code() == "pointer_moved").count();
    assert_eq!((won, lost), (1, 9));
    assert_eq!(plane.history(&project.staging).await.len(), 2);
}
