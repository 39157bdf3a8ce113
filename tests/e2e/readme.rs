//! What the README tells a reader to try, tried.

use std::process::Command;

use super::support::http;
use super::support::server::{Server, folder};
use super::support::until;

#[test]
fn the_demo_is_what_the_readme_says() {
    let server = Server::up_with(&["--demo"]);
    let served = |environment: &str| http::get(server.ingress(), &format!("demo-{environment}.localhost"), "/").body;
    until("v2 in preview", || served("preview").contains("hello from v2").then_some(()));
    for environment in ["staging", "production"] {
        assert!(served(environment).contains("hello from v1"), "{environment}: {}", served(environment));
    }

    let mut stream = http::Client::connect(server.ingress());
    stream.send("GET", "demo-production.localhost", "/stream?tokens=1000&delay_ms=20", &[], b"").expect("sent");
    assert_eq!(stream.head().expect("its head").0, 200);
    let list = server.cli(&["deployment", "list", "-p", "demo"]);
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let newest = list.lines().nth(1).and_then(|line| line.split(' ').next()).expect("a ref").to_owned();
    let promote = server.cli(&["promote", &newest, "--to", "production", "-p", "demo", "--yes"]);
    assert!(promote.status.success(), "{}", String::from_utf8_lossy(&promote.stderr));
    assert!(served("production").contains("hello from v2"));
    for _ in 0..20 {
        let token = stream.chunk().expect("the stream goes on").expect("it is not over");
        assert!(String::from_utf8_lossy(&token).contains("\"version\":\"v1\""));
    }
    assert!(server.cli(&["rollback", "production", "-p", "demo", "--yes"]).status.success());
    assert!(served("production").contains("hello from v1"));
}

#[test]
fn the_python_worker_of_the_readme_deploys() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: no python3 on this machine; the README's Python worker was not tried");
        return;
    }
    let server = Server::up();
    let folder = folder();
    for file in ["worker.py", "repoint.toml"] {
        std::fs::write(folder.path().join(file), here_document(file)).expect("a folder takes a file");
    }
    let deploy = || server.cli(&["deploy", folder.path().to_str().expect("UTF-8"), "--yes"]);
    let first = deploy();
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let served = || http::get(server.ingress(), "hello-preview.localhost", "/").body;
    assert_eq!(served(), "hello from preview\n");

    let changed = here_document("worker.py").replace("hello from", "good evening from");
    std::fs::write(folder.path().join("worker.py"), changed).expect("a folder takes a file");
    assert!(deploy().status.success());
    assert_eq!(served(), "good evening from preview\n");
    assert!(server.cli(&["rollback", "preview", "-p", "hello"]).status.success());
    assert_eq!(served(), "hello from preview\n");
}

/// The text between `cat > FILE <<'END'` and `END` in the README.
fn here_document(file: &str) -> String {
    let readme = include_str!("../../README.md");
    let begin = format!("    cat > {file} <<'END'\n");
    let (_, rest) = readme.split_once(&begin).unwrap_or_else(|| panic!("the README writes {file}"));
    let (text, _) = rest.split_once("    END\n").expect("the document ends");
    text.lines().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect()
}
