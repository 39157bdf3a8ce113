//! What is wrong is said, with its place and its remedy, and changes nothing.

use repoint::rest::error::ErrorCode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::plane::Plane;

#[tokio::test]
async fn bodies_that_do_not_fit_are_told_where() {
    let plane = Plane::start().await;
    let headers = [("x-api-key", plane.key.as_str())];
    let cases = [
        ("{", "line 1"),
        ("", "name"),
        ("[\"support\"]", "array"),
        ("{\"name\":\"support\"", "line 1"),
        ("{\"name\":7}", "name"),
        ("{\"name\":null}", "name"),
        ("{\"name\":\"support\",\n\"nmae\":1}", "nmae"),
        ("{\"name\":\"support\"} trailing", "line 1"),
        ("{\"name\":\"support\",\"name\":\"sales\"}", "duplicate"),
        ("\u{0}", "line 1"),
    ];
    for (body, named) in cases {
        let answer = plane.send_with("POST", "projects", &headers, Some(body.as_bytes().to_vec())).await;
        let refused = answer.refused(400, "invalid_request");
        assert!(refused.message().contains(named), "{body:?}: {refused:?}");
    }
    let bytes = plane.send_with("POST", "projects", &headers, Some(vec![b'"', 0xff, b'"'])).await;
    bytes.refused(400, "invalid_request");
    let deep = "[".repeat(100_000);
    let body = format!("{{\"name\":{deep}");
    plane.send_with("POST", "projects", &headers, Some(body.into_bytes())).await.refused(400, "invalid_request");
    assert_eq!(plane.get("projects").await.ok().body["items"], json!([]));
}

#[tokio::test]
async fn names_that_are_no_names_are_refused_with_the_rule() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let long = "a".repeat(31);
    for name in ["", "ab", "Support", "7up", "a--b", "-ab", "ab-", "a.b", "a b", "ä-b", &long] {
        let refused = plane.post("projects", json!({ "name": name })).await.refused(400, "invalid_request");
        assert!(refused.message().contains("lower-case letters"), "{refused:?}");
    }
    for name in ["", "Staging", "a--b", &long] {
        let body = json!({ "project_id": project.id, "name": name });
        let refused = plane.post("environments", body).await.refused(400, "invalid_request");
        assert!(refused.message().contains("name"), "{refused:?}");
    }
    for host in ["http://a.example", "a.example:80", "a..example", "*", "", "-a.example"] {
        let body = json!({ "project_id": project.id, "name": "canary", "hosts": [host] });
        let refused = plane.post("environments", body).await.refused(400, "invalid_request");
        assert!(refused.message().contains("hosts"), "{refused:?}");
    }
}

#[tokio::test]
async fn a_huge_body_is_not_read_to_its_end() {
    let plane = Plane::start().await;
    let body = format!("{{\"name\":\"{}\"}}", "x".repeat(1024 * 1024));
    let headers = [("x-api-key", plane.key.as_str())];
    let refused = plane.send_with("POST", "projects", &headers, Some(body.into_bytes())).await;
    let refused = refused.refused(413, "payload_too_large");
    assert_eq!(refused.body["error"]["details"]["limit"], 1024 * 1024);
}

#[tokio::test]
async fn another_content_type_is_named() {
    let plane = Plane::start().await;
    let headers = [("x-api-key", plane.key.as_str()), ("content-type", "application/x-www-form-urlencoded")];
    let refused = plane.send_with("POST", "projects", &headers, Some(b"{\"name\":\"support\"}".to_vec())).await;
    let refused = refused.refused(415, "unsupported_media_type");
    assert!(refused.message().contains("application/json"), "{refused:?}");
}

#[tokio::test]
async fn unknown_paths_and_methods_answer_in_the_error_shape() {
    let plane = Plane::start().await;
    let unknown = plane.get("nonsense").await.refused(404, "not_found");
    assert!(unknown.message().contains("/api/v1/nonsense"), "{unknown:?}");
    plane.send_with("GET", "/", &[], None).await.refused(404, "not_found");
    let wrong = plane.delete("projects").await.refused(405, "method_not_allowed");
    assert!(wrong.headers["allow"].to_str().unwrap().contains("POST"));
    for path in ["projects/x", "environments/staging", "deployments/k3v9x2ab", "promotions/1/propagation"] {
        let refused = plane.get(path).await;
        assert_eq!(refused.status, 404, "{refused:?}");
        assert!(refused.code().ends_with("_not_found") && refused.message().contains("give an id"), "{refused:?}");
    }
    plane.get("projects/%ff").await.refused(400, "invalid_request");
}

#[tokio::test]
async fn queries_and_waits_have_limits_that_are_named() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.deployment(&project).await;
    for query in ["limit=0", "limit=201", "limit=many", "limt=1", "limit=1&limit=2"] {
        let refused = plane.get(&format!("projects?{query}")).await.refused(400, "invalid_request");
        assert!(refused.message().contains("lim"), "{refused:?}");
    }
    let before = plane.everything().await;
    for wait in [json!(60001), json!(-1), json!("long"), json!(1.5)] {
        let refused = plane.promote(&deployment, &project.staging, json!({ "wait_ms": wait })).await;
        let refused = refused.refused(400, "invalid_request");
        assert!(refused.message().contains("wait_ms"), "{refused:?}");
    }
    let reason = json!({ "reason": "x".repeat(2000) });
    plane.promote(&deployment, &project.staging, reason).await.refused(400, "invalid_request");
    let message = crate::plane::merged(crate::plane::endpoints(&project), json!({ "message": "x".repeat(5000) }));
    plane.post("deployments", message).await.refused(400, "invalid_request");
    assert_eq!(plane.everything().await, before);
}

#[tokio::test]
async fn what_is_not_built_yet_is_refused_and_not_ignored() {
    let plane = Plane::start().await;
    for (method, path) in
        [("GET", "secrets"), ("PUT", "secrets/TOKEN"), ("POST", "keys"), ("DELETE", "keys/x"), ("GET", "openapi.json")]
    {
        let headers = [("x-api-key", plane.key.as_str())];
        plane.send_with(method, path, &headers, None).await.refused(400, "not_yet_supported");
    }
    let headers = [("x-api-key", plane.key.as_str()), ("idempotency-key", "once")];
    let body = Some(b"{\"name\":\"support\"}".to_vec());
    let refused = plane.send_with("POST", "projects", &headers, body).await.refused(400, "not_yet_supported");
    assert!(refused.message().contains("Idempotency-Key"), "{refused:?}");
    assert_eq!(plane.get("projects").await.ok().body["items"], json!([]));
}

#[tokio::test]
async fn refusals_are_counted_by_code() {
    let plane = Plane::start().await;
    plane.get("nonsense").await.refused(404, "not_found");
    plane.post("projects", json!({})).await.refused(400, "invalid_request");
    let text = plane.metrics.text().unwrap();
    for code in [ErrorCode::NotFound, ErrorCode::InvalidRequest] {
        assert!(text.contains(&format!("repoint_api_refusals_total{{code=\"{code}\"}} 1")), "{text}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_http_harm_nobody() {
    let plane = Plane::start().await;
    let mut stream = TcpStream::connect(plane.address).await.unwrap();
    stream.write_all(b"\x16\x03\x01 hello\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") || answer.is_empty(), "{answer}");
    plane.get("projects").await.ok();
}
