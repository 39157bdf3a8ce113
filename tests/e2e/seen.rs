//! Seen from outside: what a host would resolve to, and settings that are looked at before they are used.

use std::process::{Command, Output};

use serde_json::Value;

use super::Story;
use super::support::api::text;
use super::support::http;
use super::support::replica::Replica;
use super::support::server::{BINARY, Server, folder};
use super::support::until;

/// What `/routes` says to a query.
fn routes(server: &Server, query: &str) -> (u16, Value) {
    let response = http::get(server.admin(), "admin", &format!("/routes?{query}"));
    let told = serde_json::from_str(&response.body).unwrap_or_else(|_| panic!("JSON: {response:?}"));
    (response.status, told)
}

#[test]
fn routes_tell_what_a_host_resolves_to_and_how() {
    let story = Story::begin();
    let (old, new) = (Replica::start("old"), Replica::start("new"));
    let first = story.deploy_to(&old, "production");
    let second = story.deploy_to(&new, "production");
    let host = story.host("production");
    let (status, told) = routes(&story.server, &format!("host={host}:8080"));
    assert_eq!(status, 200, "{told}");
    assert_eq!(
        (text(&told["environment"]["project"]), text(&told["environment"]["name"])),
        ("support".into(), "production".into())
    );
    assert_eq!((text(&told["matched_by"]), text(&told["chosen_by"])), ("host".into(), "pointer".into()));
    assert_eq!(text(&told["deployment"]["id"]), second);
    assert_eq!(text(&told["pool"]["state"]), "open");
    assert_eq!(text(&told["pool"]["endpoints"][0]["address"]), new.address().to_string());
    assert_eq!(text(&told["pool"]["endpoints"][0]["state"]), "ready");
    let head = story.api.get("/api/v1/proxies").ok()["head_revision"].clone();
    assert_eq!((&told["table"]["revision"], &told["table"]["connected"]), (&head, &Value::Bool(true)));
    assert!(told["table"]["heard_seconds_ago"].as_i64().expect("a number") < 60, "{told}");

    let (_, told) = routes(&story.server, &format!("host={host}&deployment={first}"));
    assert_eq!((text(&told["deployment"]["id"]), text(&told["chosen_by"])), (first, "pin".into()));
    let (_, told) = routes(&story.server, "host=localhost&project=support&environment=production");
    assert_eq!((text(&told["deployment"]["id"]), text(&told["matched_by"])), (second.clone(), "headers".into()));
    let reference = text(&told["deployment"]["ref"]);
    let named = |environment: &str| format!("host=support--{reference}--{environment}.localhost");
    assert_eq!(routes(&story.server, &named("production")).1["error"]["code"], "deployment_not_running");
    story.promote(&second, "staging");
    let (status, told) = routes(&story.server, &named("staging"));
    assert_eq!(
        (status, text(&told["matched_by"]), text(&told["chosen_by"])),
        (200, "deployment_host".into(), "deployment_host".into())
    );
}

#[test]
fn routes_answer_with_the_code_a_request_gets() {
    let story = Story::begin();
    let replica = Replica::start("v1");
    story.deploy_to(&replica, "production");
    let production = story.host("production");
    let staging = story.host("staging");
    for (host, pin) in [("nowhere.localhost", None), (&staging, None), (&production, Some("zzzzzzzz")), ("a@b", None)] {
        let mut client = http::Client::connect(story.server.ingress());
        let headers: Vec<_> = pin.map(|pin| ("X-Deployment-ID", pin)).into_iter().collect();
        let request = client.request("GET", host, "/", &headers, b"").expect("an answer");
        let pin = pin.map_or_else(String::new, |pin| format!("&deployment={pin}"));
        let (status, told) = routes(&story.server, &format!("host={host}{pin}"));
        let answered: Value = serde_json::from_str(&request.body).expect("an error of ours");
        assert_eq!(status, request.status, "{host}: {told}");
        assert_eq!(told["error"]["code"], answered["error"]["code"], "{host}: {told}");
    }
    let (status, told) = routes(&story.server, "hots=x");
    assert_eq!((status, text(&told["error"]["code"])), (400, "bad_request".into()), "{told}");
    let (_, told) = routes(&story.server, &format!("host={}", story.host("staging")));
    assert_eq!(text(&told["environment"]["name"]), "staging", "also where nothing is deployed: {told}");
}

#[test]
fn routes_of_a_proxy_say_how_old_its_table_is() {
    let mut control = Server::control();
    let proxy = Server::proxy(&control);
    let told = until("a table", || {
        let (status, told) = routes(&proxy, "host=nowhere.localhost");
        (status == 404).then_some(told)
    });
    assert!(told["table"]["revision"].is_number() && told["table"]["connected"] == true, "{told}");
    control.kill();
    until("the proxy to notice", || {
        let (_, told) = routes(&proxy, "host=nowhere.localhost");
        (told["table"]["connected"] == false && told["table"]["revision"].is_number()).then_some(())
    });
}

/// What `repoint check` says of a settings file.
fn check(settings: &str, more: &[&str]) -> Output {
    let folder = folder();
    let (file, data) = (folder.path().join("settings.toml"), folder.path().join("data"));
    std::fs::write(&file, settings).expect("a file of ours");
    let free =
        ["--ingress", "127.0.0.1:0", "--api", "127.0.0.1:0", "--stream", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let output = Command::new(BINARY)
        .arg("check")
        .arg("--config")
        .arg(&file)
        .args(if more.contains(&"--admin") { &free[..6] } else { &free[..] })
        .args(if more.contains(&"--data-dir") { vec![] } else { vec!["--data-dir".as_ref(), data.as_os_str()] })
        .args(more)
        .output()
        .expect("the binary under test runs");
    assert!(!data.exists(), "it leaves nothing behind");
    output
}

fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn check_passes_settings_that_a_server_starts_with() {
    let output = check("base-domain = \"agents.example.com\"\n[fleet]\nlive = \"5s\"\n", &[]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("can be used"), "{output:?}");
}

#[test]
fn check_tells_everything_that_is_wrong_and_what_to_do() {
    let said = complaint(&check("base-domian = \"x\"\n", &[]));
    assert!(said.contains("base-domian") && said.contains("settings.toml"), "{said}");
    let files = folder();
    let path = |name: &str| files.path().join(name).display().to_string();
    for name in ["one", "other"] {
        let made = rcgen::generate_simple_self_signed([format!("{name}.example.com")]).expect("a certificate");
        std::fs::write(path(&format!("{name}.pem")), made.cert.pem()).expect("a file of ours");
        std::fs::write(path(&format!("{name}.key")), made.signing_key.serialize_pem()).expect("a file of ours");
    }
    let settings = format!(
        "worker-ports = \"9-1\"\nbase-domain = \"*.example.com\"\naccess-log = \"/nowhere/at/all.log\"\n\
         [tls]\nlisten = [\"192.0.2.1:0\"]\ndefault = \"other.pem\"\n\
         certificates = [{{ certificate = {:?}, key = {:?} }}, {:?}]\n",
        path("one.pem"),
        path("other.key"),
        path("absent.pem"),
    );
    let said = complaint(&check(&settings, &["--token-file", &path("absent.token")]));
    for told in [
        "--worker-ports",
        "*.example.com",
        "access log",
        "give the key that it was made with",
        "absent.pem",
        "default has to name",
        "192.0.2.1",
        "absent.token",
        "8 to put right",
    ] {
        assert!(said.contains(told), "{told}: {said}");
    }
}

#[test]
fn check_tells_addresses_that_clash_but_not_those_of_what_runs() {
    let server = Server::up();
    let admin = server.admin().to_string();
    let output = check("", &["--admin", &admin]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("is in use now"), "{output:?}");
    let twice = format!("[tls]\nlisten = [{admin:?}]\ncertificates = []\n");
    let said = complaint(&check(&twice, &["--admin", &admin]));
    assert!(said.contains("another port") && said.contains("at least one entry"), "{said}");
    let said = complaint(&check("", &["--data-dir", "/dev/null/data"]));
    assert!(said.contains("--data-dir"), "{said}");
}

/// The value of a metric, by its whole name with labels.
fn metric(server: &Server, name: &str) -> Option<f64> {
    let text = http::get(server.admin(), "admin", "/metrics").body;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok())
}

#[test]
fn metrics_show_the_environments_that_were_named_and_how_far_proxies_are() {
    let story = Story::on(Server::up_with(&["--metrics-environments", "support/production"]));
    let replica = Replica::start("v1");
    story.deploy_to(&replica, "production");
    story.deploy_to(&replica, "staging");
    assert_eq!((story.served("production"), story.served("staging")), ("v1".into(), "v1".into()));
    let of = |environment: &str| {
        format!(
            "repoint_ingress_environment_requests_total{{project=\"support\",environment=\"{environment}\",class=\"2xx\"}}"
        )
    };
    until("the request to be counted", || metric(&story.server, &of("production")).filter(|count| *count == 1.0));
    assert_eq!(metric(&story.server, &of("staging")), None);
    let head = story.api.get("/api/v1/proxies").ok()["head_revision"].as_f64().expect("a number");
    until("the oldest table to be the head", || {
        metric(&story.server, "repoint_fleet_applied_revision_min").filter(|revision| *revision == head)
    });
}

#[test]
fn a_list_of_too_many_environments_is_refused() {
    let named: Vec<_> = (0..101).map(|n| format!("\"support/e-{n}\"")).collect();
    let said = complaint(&check(&format!("metrics-environments = [{}]", named.join(",")), &[]));
    assert!(said.contains("100 at most"), "{said}");
    let said = complaint(&check("metrics-environments = [\"Support\"]", &[]));
    assert!(said.contains("project/environment"), "{said}");
}

#[test]
fn the_access_log_is_set_by_flags() {
    let folder = folder();
    let path = folder.path().join("access.log");
    let log = path.to_str().expect("temporary paths are UTF-8");
    let flags = ["--access-log", log, "--access-log-format", "text", "--access-log-sample", "4000000000"];
    let story = Story::on(Server::up_with(&flags));
    let replica = Replica::start("v1");
    story.deploy_to(&replica, "production");
    assert_eq!((story.served("production"), story.get("staging").status), ("v1".into(), 503));
    let line = until("a line", || std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')));
    assert!(line.contains("\"GET / HTTP/1.1\" 503 ") && line.contains(" error=environment_empty "), "{line}");
    assert!(line.ends_with(" weight=1\n") && line.lines().count() == 1, "{line}");
    let said = complaint_of_arguments(&["check", "--access-log-format", "xml"]);
    assert!(said.contains("json or text"), "{said}");
}

fn complaint_of_arguments(arguments: &[&str]) -> String {
    let output = Command::new(BINARY).args(arguments).output().expect("the binary under test runs");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The first bytes that somebody sends to a listener, before it answers anything.
fn first_bytes(listener: &std::net::TcpListener) -> String {
    use std::io::Read as _;
    let (mut stream, _) = listener.accept().expect("a connection");
    stream.set_read_timeout(Some(super::support::DEADLINE)).expect("a socket takes a timeout");
    let mut bytes = [0; 24];
    stream.read_exact(&mut bytes).expect("an HTTP/2 preface is as long");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn spans_go_to_the_collector_of_the_flag_or_of_the_standard_variable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let server = Server::up_with(&["--otlp-endpoint", &url]);
    assert_eq!(http::get(server.ingress(), "nowhere.localhost", "/").status, 404);
    assert!(first_bytes(&listener).starts_with("PRI * HTTP/2.0"));
    drop(server);

    let folder = folder();
    let data = folder.path().join("data").display().to_string();
    let free = "127.0.0.1:0";
    let command =
        ["up", "--json", "--data-dir", &data, "--ingress", free, "--api", free, "--stream", free, "--admin", free];
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", url.into())];
    let (mut child, said) = super::support::server::start(&command.map(str::to_owned), folder.path(), variables);
    let addresses: Value = serde_json::from_str(&said).expect("where it listens");
    let ingress = addresses["ingress"][0].as_str().and_then(|address| address.parse().ok()).expect("an address");
    assert_eq!(http::get(ingress, "nowhere.localhost", "/").status, 404);
    assert!(first_bytes(&listener).starts_with("PRI * HTTP/2.0"));
    super::support::server::signal(child.id(), "TERM");
    assert!(child.wait().expect("it is our child").success());

    let said = complaint(&check("otlp-sample-ratio = 2.0\n", &["--otlp-endpoint", "https://collector:4317"]));
    assert!(said.contains("otlp-sample-ratio"), "{said}");
    let said = complaint(&check("", &["--otlp-endpoint", "https://collector:4317"]));
    assert!(said.contains("http://127.0.0.1:4317"), "{said}");
}

#[test]
fn a_file_of_authorities_that_cannot_be_used_is_told_once() {
    let said = complaint(&check("replica-ca = [\"/nowhere/ca.pem\"]\n", &[]));
    assert_eq!(said.matches("/nowhere/ca.pem").count(), 1, "{said}");
}
