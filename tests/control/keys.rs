//! Who may ask.

use std::os::unix::fs::PermissionsExt;

use repoint::control::keys::{self, ensure_admin_key};

use crate::plane::Plane;

#[tokio::test]
async fn without_a_known_key_nothing_is_answered() {
    let plane = Plane::start().await;
    for headers in [vec![], vec![("x-api-key", "rpt_wrong")], vec![("authorization", "Basic eDp5")]] {
        let refused = plane.send_with("GET", "projects", &headers, None).await.refused(401, "unauthorized");
        assert!(refused.message().contains("admin.key"), "{refused:?}");
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
    }
    let bearer = format!("Bearer {}", plane.key);
    plane.send_with("GET", "projects", &[("authorization", &bearer)], None).await.ok();
    let healthy = plane.send_with("GET", "/healthz", &[], None).await.ok();
    assert_eq!(healthy.body, "ok\n");
}

#[tokio::test]
async fn a_wrong_key_is_told_nothing_of_what_exists() {
    let plane = Plane::start().await;
    let wrong = [("x-api-key", "rpt_wrong")];
    for path in ["projects", "nonsense", "environments/x"] {
        plane.send_with("GET", path, &wrong, None).await.refused(401, "unauthorized");
    }
    plane
        .send_with("POST", "projects", &wrong, Some(b"{\"name\":\"support\"}".to_vec()))
        .await
        .refused(401, "unauthorized");
    assert_eq!(plane.get("projects").await.ok().body["items"], serde_json::json!([]));
}

#[tokio::test]
async fn the_first_start_makes_a_private_key_and_later_ones_keep_it() {
    let plane = Plane::start().await;
    let path = plane.data_dir().join(keys::FILE_NAME);
    assert!(plane.key.starts_with("rpt_") && plane.key.len() == 68);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let key = plane.key.clone();
    let plane = plane.restart().await;
    assert_eq!(plane.key, key);
    plane.get("projects").await.ok();
    assert_eq!(ensure_admin_key(&plane.store, &plane.data_dir()).await.unwrap(), None);

    // Taken away on purpose: none is made, the old one still works.
    std::fs::remove_file(&path).unwrap();
    assert_eq!(ensure_admin_key(&plane.store, &plane.data_dir()).await.unwrap(), None);
    assert!(!path.exists());
    plane.get("projects").await.ok();
}

#[tokio::test]
async fn a_key_put_into_the_file_is_learned() {
    let plane = Plane::start().await;
    let path = plane.data_dir().join(keys::FILE_NAME);
    let own = format!("rpt_{}", "0f".repeat(32));
    std::fs::write(&path, format!("{own}\n")).unwrap();
    assert_eq!(ensure_admin_key(&plane.store, &plane.data_dir()).await.unwrap(), None);
    plane.send_with("GET", "projects", &[("x-api-key", &own)], None).await.ok();

    std::fs::write(&path, "hunter2\n").unwrap();
    let error = ensure_admin_key(&plane.store, &plane.data_dir()).await.unwrap_err().to_string();
    assert!(error.contains("admin.key") && error.contains("remove the file"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}
