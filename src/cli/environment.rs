//! `repoint env`: list, create, show, set, delete, lock, unlock.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::args::Common;
use crate::cli::error::Error;
use crate::cli::session::Session;
use crate::cli::settings::Settings;
use crate::cli::table::{Table, fields};
use crate::cli::{Done, select, text};
use crate::model::host::HostPattern;
use crate::model::name::EnvironmentName;
use crate::model::policy::Door;
use crate::rest::DeleteQuery;
use crate::rest::environments::{CreateEnvironment, EnvironmentDetail, UpdateEnvironment};

/// Arguments of `repoint env`.
#[derive(Debug, Args)]
pub struct EnvironmentArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) command: EnvironmentCommand,
}

/// What to do with environments. They are named `environment`, `project/environment` or by id.
#[derive(Debug, Subcommand)]
pub enum EnvironmentCommand {
    /// Show the project's environments and what they serve
    #[command(after_help = "Example:\n  repoint env list --project support")]
    List,
    /// Make an environment
    #[command(after_help = "Example:\n  repoint env create canary --hosts canary.example.com")]
    Create {
        /// Its name, or project/name
        name: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Show an environment: pointer, rollback target, pools and settings
    #[command(after_help = "Example:\n  repoint env show production")]
    Show {
        /// Which
        name: String,
    },
    /// Change settings of an environment; what is not named stays
    #[command(after_help = "Examples:\n  repoint env set production --hosts agents.example.com,*.example.org\n  \
                            repoint env set staging --max-drain 5m --pins off")]
    Set {
        /// Which
        name: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Delete an environment
    #[command(after_help = "Examples:\n  repoint env delete canary\n  repoint env delete canary --force --yes")]
    Delete {
        /// Which
        name: String,
        /// Drain what it serves and delete it all the same
        #[arg(long)]
        force: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Refuse deploys and promotes until it is unlocked; rollbacks stay possible
    #[command(after_help = "Example:\n  repoint env lock production --reason \"audit until Friday\"")]
    Lock {
        /// Which
        name: String,
        /// Why, for those who are refused
        #[arg(long)]
        reason: Option<String>,
    },
    /// Allow deploys and promotes again
    #[command(after_help = "Example:\n  repoint env unlock production")]
    Unlock {
        /// Which
        name: String,
    },
}

impl EnvironmentCommand {
    pub(super) fn run(&self, session: &mut Session) -> Result<Done, Error> {
        match self {
            Self::List => list(session),
            Self::Create { name, settings } => create(session, name, settings),
            Self::Show { name } => show(session, name),
            Self::Set { name, settings } => {
                let update = settings.update();
                if update == UpdateEnvironment::default() {
                    let what = "change an environment: name a setting, as `repoint env set --help` shows them";
                    return Err(Error::Usage(what.to_owned()));
                }
                set(session, name, &update, "changed")
            }
            Self::Delete { name, force, yes } => delete(session, name, *force, *yes),
            Self::Lock { name, reason } => {
                let update = UpdateEnvironment {
                    locked: Some(true),
                    locked_reason: reason.clone(),
                    ..UpdateEnvironment::default()
                };
                set(session, name, &update, "locked")
            }
            Self::Unlock { name } => {
                let update = UpdateEnvironment { locked: Some(false), ..UpdateEnvironment::default() };
                set(session, name, &update, "unlocked")
            }
        }
    }
}

fn list(session: &mut Session) -> Result<Done, Error> {
    let project = select::project(session)?;
    let environments = select::environments(session, project.id)?;
    if session.console.is_json() {
        session.console.print_json(&crate::rest::page::Page { items: environments, next_cursor: None })?;
        return Ok(Done::Complete);
    }
    let mut table = Table::new(["NAME", "CURRENT", "LOCKED", "URL"]);
    for environment in &environments {
        let current = environment.current_deployment_id.map(|id| text::name_of(environment.current_ref.as_ref(), id));
        let locked = if environment.locked { "yes" } else { "-" };
        table.row([environment.name.to_string(), text::or_dash(current), locked.into(), environment.url.clone()]);
    }
    session.console.print_table(&table)?;
    Ok(Done::Complete)
}

fn create(session: &mut Session, name: &str, settings: &Settings) -> Result<Done, Error> {
    let (project, name) = match name.split_once('/') {
        Some((project, name)) => (select::project_named(session, project)?, name),
        None => (select::project(session)?, name),
    };
    let name: EnvironmentName =
        name.parse().map_err(|error: crate::model::name::InvalidName| Error::Usage(error.to_string()))?;
    let body = CreateEnvironment {
        project_id: project.id,
        name,
        hosts: settings.hosts().unwrap_or_default(),
        policy: settings.policy(),
        min_replicas: settings.min_replicas,
        max_replicas: settings.max_replicas,
    };
    let answer = session.client.post("/api/v1/environments", &body, Duration::ZERO)?;
    if session.console.is_json() {
        session.console.print(&answer.text)?;
        return Ok(Done::Complete);
    }
    let made: EnvironmentDetail = answer.read()?;
    session.console.print(&format!("created environment {}/{}", project.name, made.environment.name))?;
    session.console.print(&format!("  {}", made.environment.url))?;
    Ok(Done::Complete)
}

fn set(session: &mut Session, name: &str, update: &UpdateEnvironment, done: &str) -> Result<Done, Error> {
    let environment = select::environment(session, name)?;
    let answer = session.client.put(&format!("/api/v1/environments/{}", environment.id), update)?;
    match session.console.is_json() {
        true => session.console.print(&answer.text)?,
        false => session.console.print(&format!("{done} {}/{}", environment.project, environment.name))?,
    }
    Ok(Done::Complete)
}

fn delete(session: &mut Session, name: &str, force: bool, yes: bool) -> Result<Done, Error> {
    let environment = select::environment(session, name)?;
    let full_name = format!("{}/{}", environment.project, environment.name);
    if force {
        session.console.confirm(&format!("delete {full_name} with everything it serves"), yes)?;
    }
    let answer = session.client.delete(
        &format!("/api/v1/environments/{}", environment.id),
        &DeleteQuery { force, ..DeleteQuery::default() },
    )?;
    match session.console.is_json() {
        true => session.console.print(&answer.text)?,
        false => session.console.print(&text::deleted(&full_name, &answer.read()?))?,
    }
    Ok(Done::Complete)
}

fn show(session: &mut Session, name: &str) -> Result<Done, Error> {
    let environment = select::environment(session, name)?;
    let (detail, answer) = select::environment_detail(session, environment.id)?;
    if session.console.is_json() {
        session.console.print(&answer)?;
        return Ok(Done::Complete);
    }
    session.console.print(&fields(&description(&detail)))?;
    if !detail.pools.is_empty() {
        let mut table = Table::new(["POOL", "STATE", "READY", "REPLICAS", "IN FLIGHT"]);
        for pool in &detail.pools {
            table.row([
                text::name_of(pool.reference.as_ref(), pool.deployment_id),
                pool.state.as_str().to_owned(),
                pool.ready.to_string(),
                format!("{}-{}", pool.min_replicas, pool.max_replicas),
                pool.in_flight.to_string(),
            ]);
        }
        session.console.print("")?;
        session.console.print_table(&table)?;
    }
    Ok(Done::Complete)
}

fn description(detail: &EnvironmentDetail) -> Vec<(&'static str, String)> {
    let environment = &detail.environment;
    let policy = &environment.policy;
    let current = environment.current_deployment_id.map(|id| text::name_of(environment.current_ref.as_ref(), id));
    let target = detail.rollback_target.map(|id| text::name_of(detail.rollback_target_ref.as_ref(), id));
    let hosts: Vec<&str> = environment.hosts.iter().map(HostPattern::as_str).collect();
    let locked = match (&environment.locked_reason, environment.locked) {
        (Some(reason), true) => format!("yes: {reason}"),
        (None, true) => "yes".to_owned(),
        (_, false) => "no".to_owned(),
    };
    let door = |open: bool| if open { "open" } else { "off" }.to_owned();
    let mut rows = vec![
        ("environment", format!("{}/{}", environment.project, environment.name)),
        ("id", environment.id.to_string()),
        ("url", environment.url.clone()),
        ("hosts", hosts.join(", ")),
        ("current", text::or_dash(current)),
        ("rollback to", text::or_dash(target)),
        ("locked", locked),
        ("pins", door(policy.pins == Door::Open)),
        ("deployment hosts", door(policy.deployment_hosts_open(environment.name.as_str()))),
        ("max drain", format!("{} s", policy.max_drain_ms / 1_000)),
        ("previous warm", format!("{} s", policy.keep_previous_warm_ms / 1_000)),
        ("changed", text::moment(environment.updated_at)),
    ];
    if environment.min_replicas.is_some() || environment.max_replicas.is_some() {
        let bounds = format!("{}-{}", text::or_dash(environment.min_replicas), text::or_dash(environment.max_replicas));
        rows.push(("replicas", bounds));
    }
    if let Some(pending) = &detail.pending_move {
        let waits = pending.detail.as_deref().unwrap_or("its deployment is not ready yet");
        rows.push(("pending", format!("{} to {}: {waits}", pending.kind.as_str(), pending.deployment_id)));
    }
    rows
}

#[cfg(test)]
mod tests {
    use crate::cli::fake::{self, Asked, Fake, Outcome};
    use serde_json::{Value, json};

    fn server() -> Fake {
        Fake::start(|asked| match asked.line.split(' ').next() {
            Some("PUT" | "POST") => {
                let mut detail = fake::environment("canary", "b2");
                detail["rollback_target"] = Value::Null;
                detail["pools"] = json!([]);
                (200, detail.to_string())
            }
            Some("DELETE") => (200, format!(r#"{{"id":"{}","deleted":true}}"#, fake::STAGING)),
            _ => fake::world(asked),
        })
    }

    fn last(fake: &Fake) -> (String, Value) {
        let Asked { line, body, .. } = fake.asked().pop().unwrap();
        (line, serde_json::from_str(&body).unwrap_or_default())
    }

    fn done(outcome: &Outcome) -> &str {
        assert_eq!(outcome.exit_code, 0, "{}", outcome.remarks);
        &outcome.results
    }

    #[test]
    fn only_what_is_named_is_changed() {
        let fake = server();
        let set = fake.run(["env", "set", "staging", "--hosts", "a.example, *.b.example", "--max-drain", "5m"]);
        assert_eq!(done(&set), "changed support/staging\n");
        let body = json!({"hosts": ["a.example", "*.b.example"], "policy": {"max_drain_ms": 300_000}});
        assert_eq!(last(&fake), (format!("PUT /api/v1/environments/{}", fake::STAGING), body));
        done(&fake.run(["env", "set", "staging", "--hosts", "", "--deployment-hosts", "default"]));
        assert_eq!(last(&fake).1, json!({"hosts": [], "policy": {"deployment_hosts": null}}));
        let before = fake.lines().len();
        assert_eq!(fake.run(["env", "set", "staging"]).exit_code, 2);
        assert_eq!(fake.lines().len(), before, "nothing named, nothing asked");
    }

    #[test]
    fn locking_gives_the_reason_and_unlocking_none() {
        let fake = server();
        assert_eq!(done(&fake.run(["env", "lock", "staging", "--reason", "audit"])), "locked support/staging\n");
        assert_eq!(last(&fake).1, json!({"locked": true, "locked_reason": "audit"}));
        assert_eq!(done(&fake.run(["env", "unlock", "support/staging"])), "unlocked support/staging\n");
        assert_eq!(last(&fake).1, json!({"locked": false}));
    }

    #[test]
    fn an_environment_is_created_in_the_named_project() {
        let fake = server();
        let created = fake.run(["env", "create", "support/canary", "--min-replicas", "2"]);
        assert!(done(&created).starts_with("created environment support/canary\n  http://"));
        let body = json!({"project_id": fake::PROJECT, "name": "canary", "policy": {}, "min_replicas": 2});
        assert_eq!(last(&fake), ("POST /api/v1/environments".to_owned(), body));
        assert_eq!(fake.run(["env", "create", "Canary"]).exit_code, 2);
    }

    #[test]
    fn deleting_what_is_served_asks_and_deleting_the_rest_does_not() {
        let fake = server();
        assert_eq!(done(&fake.run(["env", "delete", "staging"])), "deleted support/staging\n");
        assert!(last(&fake).0.ends_with("?force=false"));
        assert_eq!(fake.run(["env", "delete", "staging", "--force"]).exit_code, 2);
        done(&fake.run(["env", "delete", "staging", "--force", "--yes", "--json"]));
        assert!(last(&fake).0.ends_with("?force=true"));
    }

    #[test]
    fn an_environment_is_shown_with_its_defaults() {
        let fake = server();
        let shown = fake.run(["env", "show", "production"]);
        for line in ["environment       support/production", "current           bcdfghjk", "deployment hosts  off"] {
            assert!(done(&shown).contains(line), "{line}: {}", shown.results);
        }
        let list = fake.run(["env", "list"]);
        assert_eq!(done(&list).lines().count(), 4);
        let json = fake.run(["env", "list", "--json"]);
        assert_eq!(serde_json::from_str::<Value>(done(&json)).unwrap()["items"][1]["name"], "staging");
    }
}
