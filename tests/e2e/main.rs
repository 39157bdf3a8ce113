//! Whole stories on the real binary, real sockets and real replicas.

#[path = "../support/mod.rs"]
mod support;

mod activation;
mod commands;
mod failures;
mod full_disk;
mod grpc;
mod handover;
mod import;
mod known_good;
mod overload;
mod partition;
mod promotions;
mod readme;
mod refusals;
mod replacements;
mod seen;
mod self_signed;
mod stopping;
mod streams;
mod third_party;
mod tls;
mod workers;

use support::api::{Api, Project, text};
use support::http;
use support::replica::Replica;
use support::server::Server;

/// One server with one project, and the verbs the stories are told with.
struct Story {
    server: Server,
    api: Api,
    project: Project,
}

impl Story {
    fn begin() -> Self {
        Self::on(Server::up())
    }

    fn on(server: Server) -> Self {
        let api = server.api();
        let project = api.project("support");
        api.settled(usize::from(server.has("ingress")));
        Self { server, api, project }
    }

    /// Deploys a running replica to preview and answers the deployment's id.
    #[track_caller]
    fn deploy(&self, replica: &Replica) -> String {
        self.deploy_to(replica, "preview")
    }

    #[track_caller]
    fn deploy_to(&self, replica: &Replica, environment: &str) -> String {
        let body = self.api.deploy_endpoints(&self.project, &[replica.address()], Some(environment)).ok();
        assert!(body["promotion"].is_object(), "it was pointed at: {body}");
        text(&body["id"])
    }

    #[track_caller]
    fn promote(&self, deployment: &str, environment: &str) {
        let body = self.api.promote(deployment, self.environment(environment)).ok();
        assert_eq!(body["propagation"]["complete"], true, "{body}");
    }

    #[track_caller]
    fn rollback(&self, environment: &str) {
        let body = self.api.rollback(self.environment(environment)).ok();
        assert_eq!(body["propagation"]["complete"], true, "{body}");
    }

    fn environment(&self, name: &str) -> &str {
        self.project.environment(name)
    }

    fn host(&self, environment: &str) -> String {
        self.project.host(environment)
    }

    #[track_caller]
    fn get(&self, environment: &str) -> http::Response {
        http::get(self.server.ingress(), &self.host(environment), "/")
    }

    /// What an environment answers with.
    #[track_caller]
    fn served(&self, environment: &str) -> String {
        let response = self.get(environment);
        assert_eq!(response.status, 200, "{response:?}");
        response.body
    }
}
