//! Bundles whose workers can be told from every other process there is.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use repoint::bundle::pack;
use serde_json::{Value, json};
use uuid::Uuid;

use super::support::api::{Answer, Api, Project, text};
use super::support::server::{BINARY, signal};
use super::support::until;

/// The workers of one test.
pub struct Workers {
    project: Project,
    /// Part of the command of each.
    mark: String,
    /// Being asked to end is nothing to them.
    are_deaf: bool,
}

impl Workers {
    pub fn of(project: Project) -> Self {
        Self { project, mark: format!("crash-{}", Uuid::new_v4()), are_deaf: false }
    }

    /// Those that only the guard can end once their supervisor is dead. It takes its time.
    pub fn deaf(mut self) -> Self {
        self.are_deaf = true;
        self
    }

    pub fn environment(&self, name: &str) -> &str {
        self.project.environment(name)
    }

    pub fn host(&self, name: &str) -> String {
        self.project.host(name)
    }

    /// Uploads a new bundle and deploys it to preview.
    pub fn deploy(&self, api: &Api, version: &str) -> Option<Answer> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let trap = if self.are_deaf { "trap '' TERM; " } else { "" };
        let worker = format!("{trap}exec '{BINARY}' demo-worker --version {}-{version}", self.mark);
        let manifest = format!(
            "project = \"support\"\n[worker]\ncommand = [\"sh\", \"-c\", {worker:?}]\nhealth_path = \"/healthz\"\n\
             stop_grace = \"100ms\"\n"
        );
        std::fs::write(folder.path().join("repoint.toml"), manifest).expect("a folder takes a file");
        let mut packed = pack::pack(folder.path(), &[], &mut |_| {}).expect("it can be packed");
        let mut bytes = Vec::new();
        packed.file.read_to_end(&mut bytes).expect("it can be read");
        let digest = packed.digest.to_string();
        api.try_send("PUT", &format!("/api/v1/bundles/{digest}"), &bytes)?.ok();
        let body = json!({
            "project_id": self.project.id, "source": { "kind": "bundle", "digest": digest },
            "environment_id": self.environment("preview"), "wait_ms": 60_000,
        });
        api.try_send("POST", "/api/v1/deployments", body.to_string().as_bytes())
    }

    /// The same, of a server that lives. Answers the deployment.
    pub fn deployed(&self, api: &Api, version: &str) -> String {
        let body = self.deploy(api, version).expect("an answer").ok();
        assert!(body["promotion"].is_object(), "{body}");
        text(&body["id"])
    }

    /// The processes there are.
    pub fn alive(&self) -> BTreeSet<u64> {
        let processes = std::fs::read_dir("/proc").expect("this is Linux").flatten();
        let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &u64| {
            let command = std::fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(&self.mark)
        })
        .collect()
    }

    /// The pools there are, as the API shows them.
    pub fn pools(&self, api: &Api) -> Option<Vec<Value>> {
        let deployments = api.try_get(&format!("/api/v1/deployments?project_id={}&limit=100", self.project.id))?;
        let mut pools = Vec::new();
        for deployment in deployments.body["items"].as_array()? {
            let status = api.try_get(&format!("/api/v1/deployments/{}/status", deployment["id"].as_str()?))?;
            pools.extend(status.body["pools"].as_array()?.iter().map(|pool| {
                let mut pool = pool.clone();
                pool["deployment_id"] = deployment["id"].clone();
                pool
            }));
        }
        Some(pools)
    }

    /// Whether what runs is exactly what is wanted: each pool has as many ready
    /// replicas as it should, and no process is there that none of them lists.
    pub fn are_settled(&self, api: &Api) -> Option<bool> {
        let pools = self.pools(api)?;
        let mut listed = BTreeSet::new();
        for pool in &pools {
            let endpoints = pool["endpoints"].as_array()?;
            listed.extend(endpoints.iter().filter_map(|endpoint| endpoint["pid"].as_u64()));
            let wanted = match pool["state"].as_str()? {
                "running" => pool["min_replicas"].as_u64()?,
                "idle" | "stopped" => 0,
                _ => return Some(false),
            };
            if pool["ready"] != wanted || endpoints.len() as u64 != wanted {
                return Some(false);
            }
        }
        Some(listed == self.alive())
    }

    pub fn settle(&self, api: &Api) {
        until("exactly what is wanted to run", || self.are_settled(api).filter(|settled| *settled));
    }

    /// Waits until nobody is left.
    pub fn are_gone(&self) {
        until("every worker to be gone", || self.alive().is_empty().then_some(()));
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Only where a test failed: nothing else could end them.
        for pid in self.alive() {
            signal(u32::try_from(pid).expect("a process id"), "KILL");
        }
    }
}
