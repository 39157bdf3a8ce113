//! nghttp and h2load, over plaintext and over TLS: every request is answered, no stream fails.

use std::net::SocketAddr;
use std::process::Output;

use tokio::process::Command;

use crate::support::*;
use crate::tls::{HOST, Secure};

const AUTHORITY: &str = ":authority: support-production.localhost";

/// What the program said; nothing where it is not installed.
async fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match soon(Command::new(program).args(arguments).kill_on_drop(true).output()).await {
        Ok(output) => Some(output),
        Err(_) => {
            println!("skipped: no {program} here; on Debian it is in nghttp2-client");
            None
        }
    }
}

/// Asks `address` with both, as often as the tests say.
async fn are_all_answered(scheme: &str, address: SocketAddr) {
    let url = &format!("{scheme}://{address}/");
    if let Some(output) = run("nghttp", &["-nv", "--no-verify-peer", "-m", "20", "-H", AUTHORITY, url]).await {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        assert_eq!(said.matches(":status: 200").count(), 20, "{said}");
        assert!(!said.contains("RST_STREAM"), "{said}");
    }
    // It names the host of its URL in a handshake, and none where that is an address.
    let (to, url) = (format!("--connect-to={address}"), format!("{scheme}://{HOST}:{}/", address.port()));
    let load = ["-n", "1000", "-c", "4", "-m", "25", &to, &url];
    if let Some(output) = run("h2load", &load).await {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let all = "1000 total, 1000 started, 1000 done, 1000 succeeded, 0 failed, 0 errored, 0 timeout";
        assert!(said.contains(all) && said.contains("1000 2xx"), "{said}");
    }
}

#[tokio::test]
async fn nghttp_and_h2load_are_served_over_plaintext() {
    let address = Replica::listen().await.always("served");
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).pool_at("production", 1, &[address]).publish();
    are_all_answered("http", stage.address()).await;
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn nghttp_and_h2load_are_served_over_tls() {
    let replica = Replica::listen().await;
    let secure = Secure::serving(&[HOST, "127.0.0.1"], &replica);
    replica.always("served");
    are_all_answered("https", secure.stage.running.tls_addresses()[0]).await;
    until(|| secure.stage.in_flight("production", 1) == 0).await;
}
