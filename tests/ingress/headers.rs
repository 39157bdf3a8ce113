//! Headers: what ends at this hop, what is added, what cannot be forged.

use repoint::model::deployment::HostHeader;

use crate::support::*;

/// What a replica gets to see of a request with these lines.
async fn seen(stage: &Stage, replica: &Replica, lines: &[&str]) -> Message {
    let mut client = stage.send(&get("/path?query=1", lines)).await;
    let mut upstream = replica.accept().await;
    let request = upstream.message().await;
    upstream.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    client.message().await;
    request
}

#[tokio::test]
async fn a_replica_is_told_who_asked_whom_for_what() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let request = seen(&stage, &replica, &["X-Own: kept", "Cookie: a=1"]).await;
    let expected = [
        ("host", "support-production.localhost"),
        ("x-own", "kept"),
        ("cookie", "a=1"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "support-production.localhost"),
        ("via", "1.1 repoint"),
        ("x-environment", "production"),
        ("x-deployment-id", &deployment(1).to_string()),
    ];
    for (name, value) in expected {
        assert_eq!(request.header(name), Some(value), "{request}");
    }
    assert_eq!(request.line, "GET /path?query=1 HTTP/1.1");
    assert_eq!(request.header("x-request-id").map(str::len), Some(32));
    assert_eq!(request.header("traceparent").map(str::len), Some(55));
    assert_eq!(request.header("connection"), None);
}

#[tokio::test]
async fn what_belongs_to_the_clients_hop_ends_here() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let lines = [
        "Connection: keep-alive, X-Private, X-Forwarded-For",
        "Connection: x-deployment-id, host",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: gzip",
        "Upgrade: h2c",
        "HTTP2-Settings: AAAA",
        "X-Private: secret",
        "X-Public: open",
    ];
    let request = seen(&stage, &replica, &lines).await;
    for name in ["connection", "keep-alive", "proxy-connection", "te", "upgrade", "http2-settings", "x-private"] {
        assert_eq!(request.header(name), None, "{request}");
    }
    assert_eq!(request.header("x-public"), Some("open"));
    assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"), "a client cannot strip ours");
    assert_eq!(request.header("host"), Some("support-production.localhost"));
    assert!(request.header("x-deployment-id").is_some());
}

#[tokio::test]
async fn what_belongs_to_the_replicas_hop_ends_here() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream
        .say(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Private\r\nKeep-Alive: timeout=9\r\nProxy-Connection: x\r\n\
             X-Private: secret\r\nX-Public: open\r\nX-Deployment-ID: forged\r\nX-Environment: forged\r\n\
             Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
    let answer = client.message().await;
    for name in ["connection", "keep-alive", "proxy-connection", "x-private"] {
        assert_eq!(answer.header(name), None, "{answer}");
    }
    assert_eq!(answer.header("x-public"), Some("open"));
    assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(answer.header("x-deployment-id"), Some(deployment(1).to_string().as_str()));
    assert_eq!(answer.header("x-environment"), Some("production"));
}

#[tokio::test]
async fn forwarding_headers_cannot_be_forged() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let lines = [
        "X-Forwarded-For: 203.0.113.9",
        "X-Forwarded-For: 203.0.113.8",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: bank.example.com",
        "X-Forwarded-Port: 443",
        "X-Forwarded-Prefix: /admin",
        "Forwarded: for=203.0.113.9",
        "X_Forwarded_For: 203.0.113.7",
        "X_Deployment_ID: forged",
        "X-Environment: forged",
        "X_Plain: kept",
    ];
    let request = seen(&stage, &replica, &lines).await;
    assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.header("x-forwarded-proto"), Some("http"));
    assert_eq!(request.header("x-forwarded-host"), Some("support-production.localhost"));
    for name in ["forwarded", "x-forwarded-port", "x-forwarded-prefix", "x_forwarded_for", "x_deployment_id"] {
        assert_eq!(request.header(name), None, "{request}");
    }
    assert_eq!(request.header("x-environment"), Some("production"));
    assert_eq!(request.header("x_plain"), Some("kept"));
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_added_to() {
    let replica = Replica::listen().await;
    let mut stage = Stage::with(|config| config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]);
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]).publish();
    let lines = [
        "X-Forwarded-For: 203.0.113.9",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: agents.example.com",
        "Via: 1.1 front",
    ];
    let request = seen(&stage, &replica, &lines).await;
    assert_eq!(request.all("x-forwarded-for"), ["203.0.113.9", "127.0.0.1"]);
    assert_eq!(request.header("x-forwarded-proto"), Some("https"));
    assert_eq!(request.header("x-forwarded-host"), Some("agents.example.com"));
    assert_eq!(request.all("via"), ["1.1 front", "1.1 repoint"]);
}

#[tokio::test]
async fn request_ids_and_traces_are_continued_when_valid() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let line = format!("traceparent: {trace}");
    let request = seen(&stage, &replica, &["X-Request-ID: mine-1", &line, "tracestate: a=b"]).await;
    assert_eq!(request.header("x-request-id"), Some("mine-1"));
    assert_eq!(request.header("traceparent"), Some(trace));
    assert_eq!(request.header("tracestate"), Some("a=b"));

    let long = format!("X-Request-ID: {}", "a".repeat(129));
    let request = seen(&stage, &replica, &[&long, "traceparent: 00-nonsense", "tracestate: a=b"]).await;
    assert_eq!(request.header("x-request-id").map(str::len), Some(32));
    assert_eq!(request.header("traceparent").map(str::len), Some(55));
    assert_eq!(request.header("tracestate"), None);
}

#[tokio::test]
async fn a_replica_may_want_its_own_host() {
    let replica = Replica::listen().await;
    let mut stage = Stage::serving(&[&replica]);
    stage.change_pool(|pool| pool.host = HostHeader::Endpoint).publish();
    let request = seen(&stage, &replica, &[]).await;
    assert_eq!(request.header("host"), Some(replica.address.to_string().as_str()));
    assert_eq!(request.header("x-forwarded-host"), Some("support-production.localhost"));

    stage.change_pool(|pool| pool.endpoints[0].authority = Some("worker.example.com:9000".into())).publish();
    assert_eq!(seen(&stage, &replica, &[]).await.header("host"), Some("worker.example.com:9000"));
}
