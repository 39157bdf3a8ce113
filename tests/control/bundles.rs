//! Uploads.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use repoint::bundle::pack::pack;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::plane::{Answer, Plane, until};

/// A small bundle with this manifest: its digest and bytes.
fn packed(manifest: &str) -> (String, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("repoint.toml"), manifest).unwrap();
    fs::write(dir.path().join("worker.py"), "print('hello')\n").unwrap();
    let mut packed = pack(dir.path(), &[], &mut |_| {}).unwrap();
    let mut bytes = Vec::new();
    packed.file.read_to_end(&mut bytes).unwrap();
    (packed.digest.to_string(), bytes)
}

const MANIFEST: &str = "[worker]\ncommand = [\"python3\", \"worker.py\"]\n";

async fn upload(plane: &Plane, digest: &str, bytes: Vec<u8>) -> Answer {
    let headers = [("x-api-key", plane.key.as_str()), ("content-type", "application/gzip")];
    plane.send_with("PUT", &format!("bundles/{digest}"), &headers, Some(bytes)).await
}

fn kept(plane: &Plane) -> Vec<String> {
    let Ok(entries) = fs::read_dir(plane.data_dir().join("bundles")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_bundle_is_kept_under_its_digest_and_deployed() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let (digest, bytes) = packed(MANIFEST);
    let path = format!("bundles/{digest}");
    plane.get(&path).await.refused(404, "bundle_not_found");

    let new = upload(&plane, &digest, bytes.clone()).await;
    assert_eq!((new.status, &new.body["digest"]), (201, &json!(digest)));
    assert_eq!(new.body["size_bytes"], json!(bytes.len()));
    assert_eq!(new.body["manifest"]["worker"]["command"], json!(["python3", "worker.py"]));
    assert_eq!(kept(&plane), [format!("{}.tar.gz", digest.trim_start_matches("sha256:"))]);
    assert_eq!(upload(&plane, &digest, bytes).await.status, 200, "again is fine");
    assert_eq!(plane.get(&path).await.ok().body, new.body);

    let body = json!({ "project_id": project.id, "source": { "kind": "bundle", "digest": digest } });
    let (one, two) = (plane.post("deployments", body.clone()).await.ok(), plane.post("deployments", body).await.ok());
    assert_eq!((&one.body["digest"], &two.body["digest"]), (&json!(digest), &json!(digest)));
    assert_ne!(one.id(), two.id(), "same bytes deployed twice are two deployments");
}

#[tokio::test]
async fn a_bundle_that_is_not_what_it_says_is_not_kept() {
    let plane = Plane::start().await;
    let (digest, bytes) = packed(MANIFEST);
    let (other, other_bytes) = packed("[worker]\ncommand = [\"true\"]\n");
    let lies = upload(&plane, &digest, other_bytes).await.refused(400, "bundle_digest_mismatch");
    assert_eq!(lies.body["error"]["details"], json!({ "announced": digest, "found": other }));
    let mut cut = bytes;
    cut.truncate(cut.len() / 2);
    let cut_digest = format!("{:?}", repoint::bundle::digest::Digest::of(&cut[..]).unwrap());
    upload(&plane, &cut_digest, cut).await.refused(400, "bundle_invalid");
    let text = b"not a bundle".to_vec();
    let text_digest = repoint::bundle::digest::Digest::of(&text[..]).unwrap().to_string();
    upload(&plane, &text_digest, text).await.refused(400, "bundle_invalid");
    for bad in ["sha256:..%2f..%2fetc", "nonsense", &digest.to_uppercase()] {
        upload(&plane, bad, Vec::new()).await.refused(400, "invalid_request");
    }
    assert_eq!(kept(&plane), Vec::<String>::new());
    plane.get(&format!("bundles/{digest}")).await.refused(404, "bundle_not_found");
}

#[tokio::test]
async fn a_bundle_that_is_too_large_is_refused_before_it_is_sent() {
    let plane = Plane::start().await;
    let mut stream = TcpStream::connect(plane.address).await.unwrap();
    let (key, digest) = (&plane.key, packed(MANIFEST).0);
    let head = format!(
        "PUT /api/v1/bundles/{digest} HTTP/1.1\r\nHost: api\r\nX-API-KEY: {key}\r\nContent-Length: 268435457\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let status = BufReader::new(stream).lines().next_line().await.unwrap().unwrap();
    assert_eq!(status, "HTTP/1.1 413 Payload Too Large");
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let plane = Plane::start().await;
    let (digest, bytes) = packed(MANIFEST);
    let (key, length) = (&plane.key, bytes.len());
    let head = format!(
        "PUT /api/v1/bundles/{digest} HTTP/1.1\r\nHost: api\r\nX-API-KEY: {key}\r\nContent-Length: {length}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(plane.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&bytes[..length / 2]).await.unwrap();
    until("the upload to begin", || async { (!kept(&plane).is_empty()).then_some(()) }).await;
    drop(stream);
    until("the upload to be gone", || async { kept(&plane).is_empty().then_some(()) }).await;
    plane.get(&format!("bundles/{digest}")).await.refused(404, "bundle_not_found");
}

#[tokio::test]
async fn what_a_crash_left_of_uploads_is_swept_away() {
    let plane = Plane::start().await;
    let (digest, bytes) = packed(MANIFEST);
    upload(&plane, &digest, bytes).await.ok();
    fs::write(plane.data_dir().join("bundles/upload-1.tar.gz"), "cut sh").unwrap();
    let plane = plane.restart().await;
    assert_eq!(kept(&plane).len(), 1);
    plane.get(&format!("bundles/{digest}")).await.ok();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn no_other_user_reads_what_was_uploaded() {
    let plane = Plane::start().await;
    let folder = plane.data_dir().join("bundles");
    let (digest, bytes) = packed(MANIFEST);
    upload(&plane, &digest, bytes).await.ok();
    let archive = folder.join(&kept(&plane)[0]);
    assert_eq!((mode(&folder), mode(&archive)), (0o700, 0o600));

    // What an installation from before this promise looks like.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let plane = plane.restart().await;
    assert_eq!(mode(&folder), 0o700, "tightened at the next start");
    plane.get(&format!("bundles/{digest}")).await.ok();
}
