//! The REST API, as a script would use it.

use std::net::SocketAddr;

use serde_json::{Value, json};
use ureq::http::{Request, Response};

use super::until;

/// A server's API and a key to it.
#[derive(Clone)]
pub struct Api {
    base: String,
    key: String,
    agent: ureq::Agent,
}

/// A status and a JSON body.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The body of a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.body);
        self.body
    }

    /// Status and code of a refusal.
    #[track_caller]
    pub fn refused(self) -> (u16, String) {
        assert!(self.status >= 400, "{} {}", self.status, self.body);
        let code = self.body["error"]["code"].as_str();
        (self.status, code.unwrap_or_else(|| panic!("no error code in {}", self.body)).to_owned())
    }
}

/// A project and the ids of its environments.
#[derive(Clone)]
pub struct Project {
    pub id: String,
    pub name: String,
    environments: Vec<(String, String)>,
}

impl Project {
    /// The id of the environment of that name.
    #[track_caller]
    pub fn environment(&self, name: &str) -> &str {
        let found = self.environments.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("no environment {name}")).1
    }

    /// The host of the environment of that name.
    pub fn host(&self, environment: &str) -> String {
        format!("{}-{environment}.localhost", self.name)
    }
}

impl Api {
    pub fn new(address: SocketAddr, key: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(super::DEADLINE * 2))
            .build()
            .into();
        Self { base: format!("http://{address}"), key: key.to_owned(), agent }
    }

    pub fn get(&self, path: &str) -> Answer {
        let request = self.agent.get(format!("{}{path}", self.base)).header("x-api-key", &self.key);
        read(request.call())
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, body.to_string().as_bytes())
    }

    pub fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, body.to_string().as_bytes())
    }

    pub fn delete(&self, path: &str) -> Answer {
        let request = self.agent.delete(format!("{}{path}", self.base)).header("x-api-key", &self.key);
        read(request.call())
    }

    /// Sends bytes as they are.
    pub fn send(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        let request = request.header("x-api-key", &self.key).header("content-type", "application/json");
        read(self.agent.run(request.body(body).expect("a request")))
    }

    /// Imports lines of JSON; all of them, or a panic that says why not.
    #[track_caller]
    pub fn import(&self, lines: &str) {
        let request = self.agent.post(format!("{}/api/v1/import", self.base)).header("x-api-key", &self.key);
        let mut answer = request.content_type("application/x-ndjson").send(lines).expect("the API answers");
        let said = answer.body_mut().read_to_string().expect("its answer is text");
        let last = said.lines().last().unwrap_or_default();
        assert!(answer.status().is_success() && !last.contains("error"), "{} {last}", answer.status());
    }

    /// Every event of a stream that ends by itself.
    #[track_caller]
    pub fn events(&self, path: &str) -> Vec<Value> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("x-api-key", &self.key);
        let mut answer = request.call().expect("the API answers");
        let said = answer.body_mut().read_to_string().expect("a stream of text");
        assert!(answer.status().is_success(), "{} {said}", answer.status());
        let data = said.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).expect("events are JSON")).collect()
    }

    /// The answer of a server that may die before it has given it: nothing then.
    pub fn try_get(&self, path: &str) -> Option<Answer> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("x-api-key", &self.key);
        try_read(request.call().ok()?)
    }

    /// Sends bytes as they are, to such a server.
    pub fn try_send(&self, method: &str, path: &str, body: &[u8]) -> Option<Answer> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        let request = request.header("x-api-key", &self.key).header("content-type", "application/json");
        let answer = self.agent.run(request.body(body).expect("a request")).ok()?;
        try_read(answer)
    }

    /// Creates a project.
    #[track_caller]
    pub fn project(&self, name: &str) -> Project {
        let body = self.post("/api/v1/projects", &json!({ "name": name })).ok();
        let environments = body["environments"].as_array().expect("its environments").iter();
        let environments = environments.map(|e| (text(&e["name"]), text(&e["id"]))).collect();
        Project { id: text(&body["id"]), name: name.to_owned(), environments }
    }

    /// Deploys workers that run already; answers the whole body.
    pub fn deploy_endpoints(&self, project: &Project, addresses: &[SocketAddr], environment: Option<&str>) -> Answer {
        let endpoints: Vec<_> = addresses.iter().map(|address| format!("http://{address}")).collect();
        let mut body = json!({
            "project_id": project.id,
            "source": { "kind": "endpoints", "endpoints": endpoints, "health_path": "/healthz" },
            "wait_ms": 30_000,
        });
        if let Some(environment) = environment {
            body["environment_id"] = project.environment(environment).into();
        }
        self.post("/api/v1/deployments", &body)
    }

    /// Promotes and answers the whole body.
    pub fn promote(&self, deployment: &str, environment: &str) -> Answer {
        let body =
            json!({ "source_deployment_id": deployment, "target_environment_id": environment, "wait_ms": 30_000 });
        self.post("/api/v1/deployments/promote", &body)
    }

    /// Rolls back and answers the whole body.
    pub fn rollback(&self, environment: &str) -> Answer {
        let body = json!({ "environment_id": environment, "wait_ms": 30_000 });
        self.post("/api/v1/deployments/rollback", &body)
    }

    /// What an environment serves.
    #[track_caller]
    pub fn current(&self, environment: &str) -> Option<String> {
        let body = self.get(&format!("/api/v1/environments/{environment}")).ok();
        body["current_deployment_id"].as_str().map(str::to_owned)
    }

    /// An environment's history, newest first.
    #[track_caller]
    pub fn history(&self, environment: &str) -> Vec<Value> {
        let path = format!("/api/v1/environments/{environment}/promotion-history");
        self.get(&path).ok()["items"].as_array().expect("a list").clone()
    }

    /// Waits until every proxy the control plane knows has applied its head.
    pub fn settled(&self, proxies: usize) {
        until("every proxy to be at the head", || {
            let body = self.get("/api/v1/proxies").ok();
            let items = body["items"].as_array()?;
            let at_head =
                |proxy: &&Value| proxy["state"] == "live" && proxy["applied_revision"] == body["head_revision"];
            (items.iter().filter(at_head).count() >= proxies).then_some(())
        });
    }
}

/// A JSON text as text.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn read(answer: Result<Response<ureq::Body>, ureq::Error>) -> Answer {
    try_read(answer.expect("the API answers")).expect("its answer is text")
}

fn try_read(mut answer: Response<ureq::Body>) -> Option<Answer> {
    let status = answer.status().as_u16();
    let body = answer.body_mut().read_to_string().ok()?;
    let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
    Some(Answer { status, body })
}
