//! Repoint with all of it: control plane, API, metrics, limits, claims. Its environments come by REST.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::site::{CONNECTIONS_MAX, Tls};
use super::{Mode, Peer, Process, host, write};
use crate::Ask;
use crate::pointers::Expected;
use crate::support::server::Server;

/// Starts it and imports the environments.
pub fn start(ask: &Ask, mode: Mode, replicas: &[u16], tls: &Tls) -> Result<Peer, String> {
    let folder = tempfile::tempdir().map_err(|error| format!("make a folder: {error}"))?;
    write(&folder.path().join("tls.crt"), &tls.certificate)?;
    write(&folder.path().join("tls.key"), &tls.key)?;
    let path = folder.path().to_str().unwrap_or_default();
    let connections_max = CONNECTIONS_MAX.to_string();
    let mut arguments = vec!["--threads", "1", "--connections-max", &connections_max];
    if mode == Mode::Tls {
        arguments.extend(["--tls-listen", "127.0.0.1:0", "--tls-certificates", path]);
    }
    let server = Server::up_from(&ask.repoint, &arguments);
    import(&server, ask.environments, replicas)?;
    let address = if mode == Mode::Tls { server.address_of("tls") } else { server.ingress() };
    let authority = Some(tls.certificate.as_str().into());
    Ok(Peer {
        name: "repoint".to_owned(),
        addresses: vec![address],
        environments: ask.environments,
        turn: None,
        expected: Expected::Still,
        authority,
        process: Process::Repoint(Box::new(server)),
        _folder: Some(folder),
    })
}

fn import(server: &Server, environments: usize, replicas: &[u16]) -> Result<(), String> {
    let reference = |k: usize| format!("pbbbbbb{}", char::from(b"bcdfghjkmnpqrstvwxyz"[k]));
    let mut lines = json!({ "kind": "project", "name": "compare" }).to_string() + "\n";
    for (k, port) in replicas.iter().enumerate() {
        let source = json!({ "kind": "endpoints", "endpoints": [format!("http://127.0.0.1:{port}")] });
        let line = json!({ "kind": "deployment", "project": "compare", "ref": reference(k), "source": source });
        let _ = writeln!(lines, "{line}");
    }
    for n in 0..environments {
        let name = format!("e{n}");
        let line = json!({ "kind": "environment", "project": "compare", "name": name, "hosts": [host(n)] });
        let _ = writeln!(lines, "{line}");
        let pointer = reference(n % replicas.len());
        let line = json!({ "kind": "pointer", "project": "compare", "environment": name, "ref": pointer });
        let _ = writeln!(lines, "{line}");
    }
    let api = server.api();
    api.import(&lines);
    let list = |path: &str| api.get(path).ok()["items"].as_array().cloned().unwrap_or_default();
    let project = text(&list("/api/v1/projects")[0]["id"]);
    let known = list(&format!("/api/v1/deployments?project_id={project}"));
    let id = |k: usize| known.iter().find(|made| made["ref"] == reference(k).as_str()).map(|made| text(&made["id"]));
    let first = list(&format!("/api/v1/environments?project_id={project}&limit=50"));
    let first = first.iter().find(|made| made["name"] == "e0").ok_or("the import has no environment e0")?;
    // Each is promoted once: the first move to a deployment waits until it was probed.
    for k in (0..replicas.len()).chain([0]) {
        let body = json!({ "source_deployment_id": id(k), "target_environment_id": first["id"], "wait_ms": 10_000 });
        api.post("/api/v1/deployments/promote", &body).ok();
    }
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
