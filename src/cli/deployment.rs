//! `repoint deployment`: list, status, errors, logs; what changes replicas is in `replicas`.

use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::args::Common;
use crate::cli::client::{Answer, NO_QUERY};
use crate::cli::error::Error;
use crate::cli::session::Session;
use crate::cli::table::Table;
use crate::cli::{Done, replicas, select, text};
use crate::model::pool::EndpointState;
use crate::rest::deployments::{Deployment, ListDeployments};
use crate::rest::environments::Environment;
use crate::rest::logs::{LogLine, LogsQuery, Stream};
use crate::rest::page::Page;
use crate::rest::status::{DeploymentError, DeploymentStatus};

/// Arguments of `repoint deployment`.
#[derive(Debug, Args)]
pub struct DeploymentArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) command: DeploymentCommand,
}

/// What to do with deployments. Without a deployment it is the newest of the project.
#[derive(Debug, Subcommand)]
pub enum DeploymentCommand {
    /// Show the project's deployments, newest first, and where they are served
    #[command(after_help = "Example:\n  repoint deployment list --limit 10")]
    List {
        /// Deployments shown at most
        #[arg(long, default_value_t = 50, value_parser = text::limit)]
        limit: usize,
    },
    /// Show a deployment's pools and replicas
    #[command(after_help = "Examples:\n  repoint deployment status\n  repoint deployment status k3v9x2ab")]
    Status {
        /// Ref, id, or the beginning of either [default: the newest]
        deployment: Option<String>,
    },
    /// Show what went wrong with a deployment's replicas
    #[command(after_help = "Example:\n  repoint deployment errors k3v9x2ab --env staging")]
    Errors {
        /// Ref, id, or the beginning of either [default: the newest]
        deployment: Option<String>,
        /// Only in this environment
        #[arg(long, value_name = "ENVIRONMENT")]
        env: Option<String>,
    },
    /// Show what a deployment's replicas wrote
    #[command(after_help = "Example:\n  repoint deployment logs --follow --tail 20")]
    Logs {
        /// Ref, id, or the beginning of either [default: the newest]
        deployment: Option<String>,
        /// Only in this environment
        #[arg(long, value_name = "ENVIRONMENT")]
        env: Option<String>,
        /// Go on with new lines as they are written
        #[arg(long, short)]
        follow: bool,
        /// So many lines at the end of what there is
        #[arg(long, value_name = "LINES", default_value_t = crate::rest::logs::TAIL_DEFAULT)]
        tail: u32,
    },
    /// Start a terminated deployment again
    #[command(after_help = "Example:\n  repoint deployment start k3v9x2ab --env staging")]
    Start {
        /// Ref, id, or the beginning of either [default: the newest]
        deployment: Option<String>,
        /// Only in this environment
        #[arg(long, value_name = "ENVIRONMENT")]
        env: Option<String>,
    },
    /// Stop a deployment's replicas once their requests have ended
    #[command(after_help = "Example:\n  repoint deployment terminate k3v9x2ab")]
    Terminate {
        /// Ref, id, or the beginning of either [default: the newest]
        deployment: Option<String>,
        /// Only in this environment
        #[arg(long, value_name = "ENVIRONMENT")]
        env: Option<String>,
        /// Also where it is served: requests there are refused afterwards
        #[arg(long)]
        force: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Change how many replicas a deployment has
    #[command(after_help = "Example:\n  repoint deployment scale k3v9x2ab --min 2 --max 4 --env production")]
    #[command(group = clap::ArgGroup::new("bounds").args(["min", "max"]).required(true).multiple(true))]
    Scale {
        /// Ref, id, or the beginning of either [default: the newest]
        deployment: Option<String>,
        /// Only in this environment
        #[arg(long, value_name = "ENVIRONMENT")]
        env: Option<String>,
        /// Replicas kept running
        #[arg(long, value_name = "N", visible_alias = "min-replicas")]
        min: Option<u32>,
        /// Replicas at most
        #[arg(long, value_name = "N", visible_alias = "max-replicas")]
        max: Option<u32>,
    },
}

impl DeploymentCommand {
    pub(super) fn run(&self, session: &mut Session) -> Result<Done, Error> {
        match self {
            Self::List { limit } => list(session, *limit),
            Self::Status { deployment } => status(session, deployment.as_deref()),
            Self::Errors { deployment, env } => errors(session, deployment.as_deref(), env.as_deref()),
            Self::Logs { deployment, env, follow, tail } => {
                let query = LogsQuery { tail: Some(*tail), follow: *follow, ..LogsQuery::default() };
                logs(session, deployment.as_deref(), env.as_deref(), query)
            }
            Self::Start { deployment, env } => replicas::start(session, deployment.as_deref(), env.as_deref()),
            Self::Terminate { deployment, env, force, yes } => {
                replicas::terminate(session, deployment.as_deref(), env.as_deref(), *force, *yes)
            }
            Self::Scale { deployment, env, min, max } => {
                replicas::scale(session, deployment.as_deref(), env.as_deref(), *min, *max)
            }
        }
    }
}

fn list(session: &mut Session, limit: usize) -> Result<Done, Error> {
    let project = select::project(session)?;
    let query = ListDeployments { project_id: Some(project.id), ..ListDeployments::default() };
    let page = session.client.list::<Deployment>("/api/v1/deployments", &query, limit)?;
    if session.console.is_json() {
        session.console.print_json(&page)?;
        return Ok(Done::Complete);
    }
    if page.items.is_empty() {
        session.console.remark(&format!("{} has no deployment yet; run `repoint deploy`", project.name));
        return Ok(Done::Complete);
    }
    let environments = select::environments(session, project.id)?;
    let mut table = Table::new(["REF", "CREATED", "BY", "SERVED IN", "MESSAGE"]);
    for deployment in &page.items {
        table.row([
            deployment.reference.to_string(),
            text::moment(deployment.created_at),
            deployment.created_by.clone(),
            served_in(deployment, &environments),
            text::or_dash(deployment.message.as_deref()),
        ]);
    }
    session.console.print_table(&table)?;
    text::more(session.console, page.next_cursor.as_deref());
    Ok(Done::Complete)
}

fn served_in(deployment: &Deployment, environments: &[Environment]) -> String {
    let served = environments.iter().filter(|environment| environment.current_deployment_id == Some(deployment.id));
    let names: Vec<&str> = served.map(|environment| environment.name.as_str()).collect();
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

/// A deployment's status, as an answer.
pub fn status_of(session: &Session, deployment: &Deployment) -> Result<Answer, Error> {
    session.client.get(&format!("/api/v1/deployments/{}/status", deployment.id), &NO_QUERY, Duration::ZERO)
}

fn status(session: &mut Session, which: Option<&str>) -> Result<Done, Error> {
    let deployment = select::deployment(session, which)?;
    let answer = status_of(session, &deployment)?;
    if session.console.is_json() {
        session.console.print(&answer.text)?;
        return Ok(Done::Complete);
    }
    let status: DeploymentStatus = answer.read()?;
    session.console.print(&format!("{}  {}", deployment.reference, deployment.url))?;
    print_pools(session, &status)?;
    print_endpoints(session, &status)?;
    Ok(Done::Complete)
}

/// Shows a deployment's pools.
pub fn print_pools(session: &mut Session, status: &DeploymentStatus) -> Result<(), Error> {
    if status.pools.is_empty() {
        session.console.remark("it was brought to no environment yet; run `repoint promote`");
        return Ok(());
    }
    let mut table = Table::new(["ENVIRONMENT", "STATE", "READY", "REPLICAS", "IN FLIGHT", "SERVED"]);
    for pool in &status.pools {
        table.row([
            pool.environment.to_string(),
            pool.state.as_str().to_owned(),
            pool.ready.to_string(),
            format!("{}-{}", pool.min_replicas, pool.max_replicas),
            pool.in_flight.to_string(),
            if pool.current { "yes" } else { "-" }.to_owned(),
        ]);
    }
    session.console.print_table(&table)
}

fn print_endpoints(session: &mut Session, status: &DeploymentStatus) -> Result<(), Error> {
    let mut table = Table::new(["REPLICA", "ENVIRONMENT", "STATE", "PROCESS", "UP"]);
    let mut count = 0;
    for pool in &status.pools {
        for endpoint in &pool.endpoints {
            count += 1;
            table.row([
                endpoint.address.clone(),
                pool.environment.to_string(),
                word(endpoint.state).to_owned(),
                text::or_dash(endpoint.pid),
                text::uptime(endpoint.uptime_seconds),
            ]);
        }
    }
    if count == 0 {
        return Ok(());
    }
    session.console.print("")?;
    session.console.print_table(&table)
}

fn word(state: EndpointState) -> &'static str {
    match state {
        EndpointState::Unready => "not ready",
        EndpointState::Ready => "ready",
        EndpointState::Draining => "draining",
    }
}

fn errors(session: &mut Session, which: Option<&str>, environment: Option<&str>) -> Result<Done, Error> {
    let deployment = select::deployment(session, which)?;
    let environment = environment.map(|text| select::environment_beside(session, &deployment, text)).transpose()?;
    let answer = replicas::errors_of(session, deployment.id, environment.map(|environment| environment.id))?;
    if session.console.is_json() {
        session.console.print(&answer.text)?;
        return Ok(Done::Complete);
    }
    let page: Page<DeploymentError> = answer.read()?;
    if page.items.is_empty() {
        session.console.remark(&format!("nothing went wrong with {}", deployment.reference));
    }
    for line in page.items.iter().flat_map(replicas::lines) {
        session.console.print(&line)?;
    }
    Ok(Done::Complete)
}

fn logs(
    session: &mut Session,
    which: Option<&str>,
    environment: Option<&str>,
    mut query: LogsQuery,
) -> Result<Done, Error> {
    let deployment = select::deployment(session, which)?;
    if let Some(text) = environment {
        query.environment_id = Some(select::environment_beside(session, &deployment, text)?.id);
    }
    let bytes = session.client.stream(&format!("/api/v1/deployments/{}/logs", deployment.id), &query)?;
    for line in BufReader::new(bytes).lines() {
        let line = line.map_err(|error| session.client.broken(&error))?;
        // Empty lines only keep the connection alive.
        if line.is_empty() {
            continue;
        }
        match serde_json::from_str::<LogLine>(&line) {
            Ok(read) if !session.console.is_json() => session.console.print(&written(&read))?,
            _ => session.console.print(&line)?,
        }
    }
    Ok(Done::Complete)
}

fn written(line: &LogLine) -> String {
    let id = line.endpoint_id.to_string();
    // The end of a UUIDv7 is chance: six digits tell a deployment's replicas apart.
    let replica = id.get(id.len() - 6..).unwrap_or(&id);
    let mark = match line.stream {
        Stream::Stdout => "|",
        Stream::Stderr => "!",
        Stream::Note => "*",
    };
    format!("{} {} {replica} {mark} {}", text::moment(line.at), line.environment, line.text)
}

#[cfg(test)]
mod tests {
    use crate::cli::fake::{self, Fake};
    use serde_json::{Value, json};

    const AT: &str = "2026-11-23T12:00:00Z";

    fn pool(environment: &str, suffix: &str, state: &str) -> Value {
        json!({
            "environment_id": format!("01980000-0000-7000-8000-0000000000{suffix}"), "environment": environment,
            "current": true, "state": state, "ready": 1, "min_replicas": 1, "max_replicas": 3, "in_flight": 3,
            "endpoints": [{"id": fake::OLD, "address": "127.0.0.1:20001", "state": "ready", "pid": 7, "since": AT,
                           "uptime_seconds": 65}]
        })
    }

    fn server() -> Fake {
        Fake::start(|asked| match asked.line.rsplit('/').next().and_then(|last| last.split('?').next()) {
            Some("status" | "start" | "terminate" | "scale-up" | "scale-down") => {
                let pools = [pool("preview", "b1", "stopped"), pool("staging", "b2", "running")];
                (200, json!({"deployment_id": fake::NEW, "ref": "bcdfwxyz", "pools": pools}).to_string())
            }
            Some("errors") => {
                let error = json!({"environment_id": fake::STAGING, "environment": "staging", "at": AT, "count": 3,
                                   "kind": "CrashLoop", "message": "it exits", "output": ["boom"]});
                (200, json!({"items": [error]}).to_string())
            }
            Some("logs") => {
                let line = json!({"at": AT, "environment": "staging", "endpoint_id": fake::OLD, "stream": "stderr", "text": "hello"});
                (200, format!("{line}\n\n{line}\n"))
            }
            _ => fake::world(asked),
        })
    }

    fn results<const N: usize>(fake: &Fake, args: [&str; N]) -> String {
        let outcome = fake.run(args);
        assert_eq!(outcome.exit_code, 0, "{}", outcome.remarks);
        outcome.results
    }

    #[test]
    fn without_a_deployment_it_is_the_newest() {
        let fake = server();
        let text = results(&fake, ["deployment", "status"]);
        assert!(text.starts_with("bcdfwxyz  http://support--bcdfwxyz.localhost:8080\n"), "{text}");
        assert!(text.contains("staging      running  1      1-3       3          yes"), "{text}");
        assert!(text.contains("127.0.0.1:20001  staging      ready  7        1m 5s"), "{text}");
        assert!(fake.lines().contains(&format!("GET /api/v1/deployments/{}/status", fake::NEW)));
    }

    #[test]
    fn the_list_says_where_each_is_served() {
        let text = results(&server(), ["deployment", "list"]);
        assert!(text.contains("bcdfghjk  2026-11-23 12:00:00Z  admin  preview, staging, production  -"), "{text}");
        assert!(text.contains("bcdfwxyz  2026-11-23 12:00:00Z  admin  -   "), "{text}");
    }

    #[test]
    fn errors_and_logs_are_shown_for_one_environment() {
        let fake = server();
        let text = results(&fake, ["deployment", "errors", "bcdfw", "--env", "staging"]);
        assert_eq!(text, "2026-11-23 12:00:00Z  staging  CrashLoop (3 times): it exits\n    | boom\n");
        assert!(fake.lines().last().unwrap().ends_with(&format!("/errors?environment_id={}", fake::STAGING)));
        let text = results(&fake, ["deployment", "logs", "--env", "staging", "--tail", "5"]);
        assert_eq!(text.lines().collect::<Vec<_>>(), ["2026-11-23 12:00:00Z staging 0000d1 ! hello"; 2]);
        let asked = format!("/logs?environment_id={}&follow=false&tail=5", fake::STAGING);
        assert!(fake.lines().last().unwrap().ends_with(&asked), "{:?}", fake.lines().last());
        let json = results(&fake, ["deployment", "logs", "--json"]);
        assert!(json.lines().all(|line| serde_json::from_str::<Value>(line).unwrap()["text"] == "hello"));
    }

    #[test]
    fn scaling_touches_only_pools_that_run() {
        let fake = server();
        results(&fake, ["deployment", "scale", "--min", "2", "--max", "2"]);
        let posts: Vec<_> = fake.asked().into_iter().filter(|asked| asked.line.starts_with("POST")).collect();
        let said: Vec<Value> = posts.iter().map(|asked| serde_json::from_str(&asked.body).unwrap()).collect();
        let staging = fake::STAGING;
        let up = json!({"environment_id": staging, "min_replicas": 2});
        assert_eq!(said, [up, json!({"environment_id": staging, "max_replicas": 2})]);
        assert_eq!(fake.run(["deployment", "scale", "--min", "3", "--max", "2"]).exit_code, 2);
        assert!(posts[0].line.ends_with("/scale-up") && posts[1].line.ends_with("/scale-down"));
    }

    #[test]
    fn terminating_what_is_served_asks() {
        let fake = server();
        assert_eq!(fake.run(["deployment", "terminate", "--force"]).exit_code, 2);
        assert!(results(&fake, ["deployment", "terminate"]).starts_with("terminated bcdfwxyz\n"));
        let text = results(&fake, ["deployment", "terminate", "--force", "-y", "--json"]);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["ref"], "bcdfwxyz");
        assert!(results(&fake, ["deployment", "start", "bcdfwxyz"]).starts_with("started bcdfwxyz\n"));
    }
}
