//! gRPC with Python's own library at both ends: all four kinds of calls, statuses,
//! trailers and cancelling through the real binary.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::Story;
use super::support::api::text;

const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/grpc_peer.py");

/// A server of gRPC; ends when dropped.
struct Server {
    child: Child,
    port: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its end is what it waits for; where it has ended already, that is fine too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Python that has these modules, where there is one.
pub(super) fn python(modules: &str) -> Option<String> {
    let python = std::env::var("REPOINT_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let import = format!("import {modules}");
    let has_them = Command::new(&python).args(["-c", &import]).stderr(Stdio::null()).status();
    has_them.is_ok_and(|status| status.success()).then_some(python)
}

fn serve(python: &str) -> Server {
    let mut child = Command::new(python)
        .args([PEER, "serve"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python was just there");
    let mut port = String::new();
    let out = child.stdout.take().expect("it is piped");
    BufReader::new(out).read_line(&mut port).expect("it says its port");
    Server { child, port: port.trim().to_owned() }
}

#[test]
fn every_kind_of_grpc_call_passes_through() {
    let Some(python) = python("grpc") else {
        println!("skipped: no Python with grpcio here; `pip install grpcio`, or name one in REPOINT_TEST_PYTHON");
        return;
    };
    let server = serve(&python);
    let story = Story::begin();
    let body = json!({
        "project_id": story.project.id,
        "environment_id": story.environment("production"),
        "source": { "kind": "endpoints", "endpoints": [format!("http://127.0.0.1:{}", server.port)], "protocol": "h2c" },
        "wait_ms": 30_000,
    });
    let deployed = story.api.post("/api/v1/deployments", &body).ok();
    assert!(deployed["promotion"].is_object(), "it was pointed at: {deployed}");
    assert!(!text(&deployed["id"]).is_empty());

    let call = Command::new(&python)
        .args([PEER, "call", &story.server.ingress().to_string(), &story.host("production")])
        .output()
        .expect("Python was just there");
    let said = String::from_utf8_lossy(&call.stdout);
    let expected = "unary: unary word unary\n\
        client stream: a+b+c\n\
        server stream: token 0, token 1, token 2\n\
        both: heard one, heard two, heard three\n\
        status: FAILED_PRECONDITION not today: 100 %\n\
        no method: UNIMPLEMENTED\n\
        cancelled: begun yes\n\
        no environment: UNIMPLEMENTED environment_not_found: no environment answers to this host; \
        see `repoint env list` for the hosts there are\n";
    assert_eq!(said, expected, "{}", String::from_utf8_lossy(&call.stderr));
}
