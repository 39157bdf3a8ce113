//! Environments: made, looked at, changed and locked. The pointer is moved
//! elsewhere (`promotion.rs`), and removing one has a file of its own.

use jiff::Timestamp;
use uuid::Uuid;

use crate::control::error::{Error, Noun};
use crate::control::{Config, Control, find};
use crate::model::bounds::Bounds;
use crate::model::environment::Environment;
use crate::model::host::HostPattern;
use crate::model::id::EnvironmentId;
use crate::model::name::{EnvironmentName, ProjectName};
use crate::model::policy::Policy;
use crate::model::project::Project;
use crate::rest::environments::{CreateEnvironment, UpdateEnvironment};
use crate::store::Transaction;

/// Hosts of one environment besides its own. A routing record stays small, and
/// whoever needs more has a wildcard.
const HOSTS_MAX: usize = 64;

/// Longest project and environment name together. RFC 1035 §2.3.4 allows labels
/// of 63 characters; `{project}--{ref}--{environment}` needs twelve between them.
const NAMES_MAX: usize = 63 - 12;

/// Longest time a policy may ask for: a week. Longer is a slip of the unit.
const TIME_MAX_MS: u64 = 7 * 24 * 3600 * 1000;

/// Longest reason, in bytes, that is kept with a lock or a move.
pub(super) const REASON_MAX: usize = 1024;

impl Control {
    /// Adds an environment to a project.
    ///
    /// # Errors
    ///
    /// Refusals, which change nothing.
    pub async fn create_environment(&self, ask: CreateEnvironment, now: Timestamp) -> Result<Environment, Error> {
        let mut tx = self.store.write().await?;
        let project = find::project(&mut tx, ask.project_id).await?;
        if tx.environment_by_name(project.id, &ask.name).await?.is_some() {
            return Err(Error::NameTaken { noun: Noun::Environment, name: ask.name.to_string() });
        }
        let bounds = bounds(None, Some(ask.min_replicas), Some(ask.max_replicas))?;
        let policy = checked(ask.policy.onto(Policy::default()))?;
        let fresh = fresh(&self.config, &project, ask.name, now)?;
        let hosts = hosts(&self.config, &fresh, ask.hosts)?;
        let environment = Environment { hosts, bounds, policy, ..fresh };
        claim(&mut tx, &environment).await?;
        tx.insert_environment(&environment).await?;
        tx.commit().await?;
        Ok(environment)
    }

    /// Changes what is given; what is absent stays. Locking is such a change.
    ///
    /// # Errors
    ///
    /// Refusals, which change nothing.
    pub async fn update_environment(
        &self,
        id: EnvironmentId,
        ask: UpdateEnvironment,
        now: Timestamp,
    ) -> Result<Environment, Error> {
        let mut tx = self.store.write().await?;
        let before = find::environment(&mut tx, id).await?;
        let mut after = updated(&self.config, &before, ask)?;
        if after.hosts != before.hosts {
            claim(&mut tx, &after).await?;
        }
        if after == before {
            return Ok(before);
        }
        after.updated_at = now;
        tx.update_environment(&after).await?;
        tx.commit().await?;
        Ok(after)
    }
}

/// The environment with what is asked for; what is absent stays. Whether its
/// hosts are free is another question.
pub(super) fn updated(config: &Config, before: &Environment, ask: UpdateEnvironment) -> Result<Environment, Error> {
    let mut after = before.clone();
    after.locked = lock(before.locked.clone(), ask.locked, ask.locked_reason)?;
    after.bounds = bounds(before.bounds, ask.min_replicas, ask.max_replicas)?;
    if let Some(policy) = ask.policy {
        after.policy = checked(policy.onto(before.policy.clone()))?;
    }
    if let Some(asked) = ask.hosts {
        after.hosts = hosts(config, before, asked)?;
    }
    Ok(after)
}

/// An environment as its names alone make it.
pub(super) fn fresh(
    config: &Config,
    project: &Project,
    name: EnvironmentName,
    now: Timestamp,
) -> Result<Environment, Error> {
    check_names(&project.name, &name)?;
    Ok(Environment {
        id: Uuid::now_v7().into(),
        project: project.id,
        project_name: project.name.clone(),
        hosts: vec![HostPattern::of_environment(&project.name, &name, &config.base_domain)],
        name,
        pointer: None,
        bounds: None,
        policy: Policy::default(),
        locked: None,
        created_at: now,
        updated_at: now,
    })
}

fn check_names(project: &ProjectName, environment: &EnvironmentName) -> Result<(), Error> {
    let length = project.as_str().len() + environment.as_str().len();
    if length <= NAMES_MAX {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "name: {project} and {environment} have {length} characters together; deployment hosts leave room for \
         {NAMES_MAX}, so choose a shorter name"
    )))
}

/// Refuses hosts that others have, naming them.
pub(super) async fn claim(tx: &mut Transaction, environment: &Environment) -> Result<(), Error> {
    for host in &environment.hosts {
        let Some(owner) = tx.host_owner(host).await?.filter(|owner| *owner != environment.id) else { continue };
        let owner_name = match tx.environment(owner).await? {
            Some(other) => format!("{}/{}", other.project_name, other.name),
            None => owner.to_string(),
        };
        return Err(Error::HostTaken { host: host.to_string(), owner, owner_name });
    }
    Ok(())
}

/// The environment's own host, then those that were asked for, each once.
fn hosts(config: &Config, environment: &Environment, asked: Vec<HostPattern>) -> Result<Vec<HostPattern>, Error> {
    let mut hosts: Vec<HostPattern> = environment.hosts.iter().take(1).cloned().collect();
    for host in asked {
        check_host(config, &host)?;
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    if hosts.len() > HOSTS_MAX + 1 {
        return Err(Error::Invalid(format!("hosts: give at most {HOSTS_MAX}; one *.domain covers many")));
    }
    Ok(hosts)
}

/// Refuses hosts that mean something already.
fn check_host(config: &Config, host: &HostPattern) -> Result<(), Error> {
    let base = &config.base_domain;
    if host == base || config.shared_hosts.contains(host) {
        return Err(Error::Invalid(format!(
            "hosts: {host} is a shared host, on which X-Project and X-Environment choose; give another"
        )));
    }
    let Some(label) = host.as_str().strip_suffix(base.as_str()).and_then(|rest| rest.strip_suffix('.')) else {
        return Ok(());
    };
    if label == "*" {
        return Err(Error::Invalid(format!(
            "hosts: {host} would catch every host that Repoint makes from names; give one below another domain"
        )));
    }
    if label.contains("--") {
        return Err(Error::Invalid(format!(
            "hosts: {host} has -- in it, which below {base} marks the host of a deployment; give another"
        )));
    }
    Ok(())
}

/// Bounds with one or both sides given, absent (they stay) or null (back to the deployment's).
fn bounds(before: Option<Bounds>, min: Option<Option<u32>>, max: Option<Option<u32>>) -> Result<Option<Bounds>, Error> {
    let (min, max) = match (min, max) {
        (None, None) => return Ok(before),
        (Some(None), None | Some(None)) | (None, Some(None)) => return Ok(None),
        (min, max) => (min.flatten(), max.flatten()),
    };
    Ok(Some(before.unwrap_or_default().with(min, max)?))
}

/// Requests that may be let wait for one pool: each keeps its client's connection.
const QUEUE_MAX: u64 = 10_000;

fn checked(policy: Policy) -> Result<Policy, Error> {
    let times = [
        ("connect_timeout_ms", policy.connect_timeout_ms, 1),
        ("response_start_timeout_ms", policy.response_start_timeout_ms, 0),
        ("response_idle_timeout_ms", policy.response_idle_timeout_ms, 0),
        ("sse_idle_timeout_ms", policy.sse_idle_timeout_ms, 0),
        ("grpc_idle_timeout_ms", policy.grpc_idle_timeout_ms, 0),
        ("websocket_idle_timeout_ms", policy.websocket_idle_timeout_ms, 0),
        ("queue_timeout_ms", policy.queue_timeout_ms, 0),
        ("slow_start_ms", policy.slow_start_ms, 0),
        ("max_drain_ms", policy.max_drain_ms, 0),
        ("keep_previous_warm_ms", policy.keep_previous_warm_ms, 0),
    ];
    for (field, value, least) in times {
        if !(least..=TIME_MAX_MS).contains(&value) {
            return Err(Error::Invalid(format!(
                "policy.{field}: {value} is not between {least} and {TIME_MAX_MS} milliseconds"
            )));
        }
    }
    if policy.queue_max > QUEUE_MAX {
        return Err(Error::Invalid(format!("policy.queue_max: {} is more than {QUEUE_MAX}", policy.queue_max)));
    }
    Ok(policy)
}

fn lock(before: Option<String>, locked: Option<bool>, reason: Option<String>) -> Result<Option<String>, Error> {
    if reason.as_ref().is_some_and(|reason| reason.len() > REASON_MAX) {
        return Err(Error::Invalid(format!("locked_reason: give at most {REASON_MAX} bytes")));
    }
    match (locked, reason) {
        (Some(true), reason) => Ok(Some(reason.or(before).unwrap_or_default())),
        (Some(false), None) => Ok(None),
        (None, None) => Ok(before),
        (Some(false) | None, Some(_)) => {
            Err(Error::Invalid("locked_reason: give it together with locked: true".into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            data_dir: "/nowhere".into(),
            base_domain: "agents.example".parse().unwrap(),
            shared_hosts: vec!["gate.example".parse().unwrap()],
            url_port: Some(8080),
            own_listeners: Vec::new(),
        }
    }

    fn project(name: &str) -> Project {
        Project { id: Uuid::from_u128(1).into(), name: name.parse().unwrap(), created_at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn hosts_that_mean_something_already_are_refused() {
        let cases = [
            ("agents.example", Some("shared host")),
            ("gate.example", Some("shared host")),
            ("*.agents.example", Some("catch every host")),
            ("support--k3v9x2ab.agents.example", Some("--")),
            ("support.agents.example", None),
            ("a--b.example", None),
            ("notagents.example", None),
            ("*.customer.example", None),
        ];
        for (host, refused) in cases {
            let result = check_host(&config(), &host.parse().unwrap());
            match (refused, result) {
                (Some(word), Err(error)) => assert!(error.to_string().contains(word), "{error}"),
                (None, Ok(())) => {}
                (_, other) => panic!("{host}: {other:?}"),
            }
        }
    }

    #[test]
    fn its_own_host_comes_first_and_each_once() {
        let fresh = fresh(&config(), &project("support"), "staging".parse().unwrap(), Timestamp::UNIX_EPOCH).unwrap();
        let asked = ["a.example", "support-staging.agents.example", "a.example"].map(|host| host.parse().unwrap());
        let hosts = hosts(&config(), &fresh, asked.to_vec()).unwrap();
        let hosts: Vec<_> = hosts.iter().map(HostPattern::as_str).collect();
        assert_eq!(hosts, ["support-staging.agents.example", "a.example"]);
        let many = (0..=HOSTS_MAX).map(|n| format!("h{n}.example").parse().unwrap()).collect();
        assert!(super::hosts(&config(), &fresh, many).is_err());
    }

    #[test]
    fn names_leave_room_for_deployment_hosts() {
        let name = |length: usize| "e".repeat(length).parse::<EnvironmentName>().unwrap();
        let project = project(&"p".repeat(30));
        assert!(fresh(&config(), &project, name(21), Timestamp::UNIX_EPOCH).is_ok());
        let error = fresh(&config(), &project, name(22), Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(error.to_string().contains("52 characters"), "{error}");
    }

    #[test]
    fn bounds_are_absent_null_or_given() {
        let before = Some(Bounds { min: 2, max: 3 });
        let cases = [
            (None, None, before),
            (Some(Some(1)), None, Some(Bounds { min: 1, max: 3 })),
            (None, Some(Some(5)), Some(Bounds { min: 2, max: 5 })),
            (Some(None), None, None),
            (None, Some(None), None),
            (Some(None), Some(None), None),
        ];
        for (min, max, expected) in cases {
            assert_eq!(bounds(before, min, max).unwrap(), expected, "{min:?} {max:?}");
        }
        assert!(matches!(bounds(None, Some(Some(0)), None), Err(Error::NotYetSupported(_))));
        assert!(matches!(bounds(None, Some(Some(3)), Some(Some(2))), Err(Error::Invalid(_))));
    }

    #[test]
    fn locking_keeps_its_reason_and_asks_for_sense() {
        let freeze = || Some("freeze".to_owned());
        assert_eq!(lock(None, Some(true), None).unwrap(), Some(String::new()));
        assert_eq!(lock(None, Some(true), freeze()).unwrap(), freeze());
        assert_eq!(lock(freeze(), Some(true), None).unwrap(), freeze());
        assert_eq!(lock(freeze(), None, None).unwrap(), freeze());
        assert_eq!(lock(freeze(), Some(false), None).unwrap(), None);
        assert!(lock(None, None, freeze()).is_err());
        assert!(lock(None, Some(false), freeze()).is_err());
        assert!(lock(None, Some(true), Some("x".repeat(REASON_MAX + 1))).is_err());
    }

    #[test]
    fn a_policy_out_of_range_is_refused_by_field() {
        let error = checked(Policy { connect_timeout_ms: 0, ..Policy::default() }).unwrap_err();
        assert!(error.to_string().contains("policy.connect_timeout_ms"), "{error}");
        assert!(checked(Policy { max_drain_ms: u64::MAX, ..Policy::default() }).is_err());
        assert!(checked(Policy::default()).is_ok());
    }
}
