//! `repoint deployment start|terminate|scale`: what is done to a deployment's pools; and what went wrong with them.

use std::time::Duration;

use crate::cli::client::Answer;
use crate::cli::error::Error;
use crate::cli::session::Session;
use crate::cli::{Done, deployment, select, text};
use crate::model::bounds::Bounds;
use crate::model::id::{DeploymentId, EnvironmentId};
use crate::rest::deployments::{Deployment, ScaleDeployment, StartDeployment, TerminateDeployment};
use crate::rest::page::Page;
use crate::rest::status::{DeploymentError, DeploymentStatus, ErrorsQuery, PoolStatus};

/// Starts a terminated deployment again.
pub fn start(session: &mut Session, which: Option<&str>, environment: Option<&str>) -> Result<Done, Error> {
    let (deployment, environment_id) = chosen(session, which, environment)?;
    let body = StartDeployment { environment_id };
    let answer = session.client.post(&path(&deployment, "start"), &body, Duration::ZERO)?;
    show(session, &answer, &format!("started {}", deployment.reference))
}

/// Terminates a deployment: no new requests, then no replicas.
pub fn terminate(
    session: &mut Session,
    which: Option<&str>,
    environment: Option<&str>,
    force: bool,
    yes: bool,
) -> Result<Done, Error> {
    let (deployment, environment_id) = chosen(session, which, environment)?;
    // Without `force` the server refuses where it is current.
    if force {
        let question = format!("terminate {} also where it is served", deployment.reference);
        session.console.confirm(&question, yes)?;
    }
    let body = TerminateDeployment { environment_id, force };
    let answer = session.client.post(&path(&deployment, "terminate"), &body, Duration::ZERO)?;
    show(session, &answer, &format!("terminated {}", deployment.reference))
}

/// Changes how many replicas a deployment has.
pub fn scale(
    session: &mut Session,
    which: Option<&str>,
    environment: Option<&str>,
    min: Option<u32>,
    max: Option<u32>,
) -> Result<Done, Error> {
    if min.is_some() && max.is_some() {
        // One at a time they would pull each other along and contradict nobody.
        Bounds::default().with(min, max).map_err(|error| Error::Usage(error.to_string()))?;
    }
    let (deployment, environment_id) = chosen(session, which, environment)?;
    let status: DeploymentStatus = deployment::status_of(session, &deployment)?.read()?;
    let is_meant = |pool: &&PoolStatus| match environment_id {
        Some(id) => pool.environment_id == id,
        None => pool.state.is_wanted(),
    };
    let pools: Vec<&PoolStatus> = status.pools.iter().filter(is_meant).collect();
    if pools.is_empty() {
        return Err(Error::Usage(format!(
            "scale {}: it runs nowhere; start it first with `repoint deployment start {0}`",
            deployment.reference
        )));
    }
    for pool in pools {
        let bounds = Bounds { min: pool.min_replicas, max: pool.max_replicas };
        for step in steps(bounds, min, max) {
            let body = ScaleDeployment {
                environment_id: Some(pool.environment_id),
                min_replicas: step.min,
                max_replicas: step.max,
            };
            session.client.post(&path(&deployment, step.endpoint), &body, Duration::ZERO)?;
        }
    }
    let answer = deployment::status_of(session, &deployment)?;
    show(session, &answer, &format!("scaled {}", deployment.reference))
}

/// One request to `scale-up` or `scale-down`.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    endpoint: &'static str,
    min: Option<u32>,
    max: Option<u32>,
}

/// The requests that bring `bounds` to what is asked: the API raises and lowers
/// in two different places, so that neither is done by mistake.
fn steps(bounds: Bounds, min: Option<u32>, max: Option<u32>) -> Vec<Step> {
    let raised = Step {
        endpoint: "scale-up",
        min: min.filter(|min| *min > bounds.min),
        max: max.filter(|max| *max > bounds.max),
    };
    let lowered = Step {
        endpoint: "scale-down",
        min: min.filter(|min| *min < bounds.min),
        max: max.filter(|max| *max < bounds.max),
    };
    [raised, lowered].into_iter().filter(|step| step.min.is_some() || step.max.is_some()).collect()
}

fn chosen(
    session: &Session,
    which: Option<&str>,
    environment: Option<&str>,
) -> Result<(Deployment, Option<EnvironmentId>), Error> {
    let deployment = select::deployment(session, which)?;
    let environment_id = match environment {
        Some(text) => Some(select::environment_beside(session, &deployment, text)?.id),
        None => None,
    };
    Ok((deployment, environment_id))
}

fn path(deployment: &Deployment, action: &str) -> String {
    format!("/api/v1/deployments/{}/{action}", deployment.id)
}

fn show(session: &mut Session, answer: &Answer, done: &str) -> Result<Done, Error> {
    if session.console.is_json() {
        session.console.print(&answer.text)?;
        return Ok(Done::Complete);
    }
    session.console.print(done)?;
    deployment::print_pools(session, &answer.read()?)?;
    Ok(Done::Complete)
}

/// What went wrong with a deployment's replicas, newest first, as an answer.
pub fn errors_of(session: &Session, id: DeploymentId, environment_id: Option<EnvironmentId>) -> Result<Answer, Error> {
    session.client.get(&format!("/api/v1/deployments/{id}/errors"), &ErrorsQuery { environment_id }, Duration::ZERO)
}

/// One thing that went wrong, for people, with the replica's last words.
pub fn lines(error: &DeploymentError) -> Vec<String> {
    let what = &error.error;
    let times = if what.count > 1 { format!(" ({} times)", what.count) } else { String::new() };
    let head =
        format!("{}  {}  {}{times}: {}", text::moment(what.at), error.environment, what.kind.as_str(), what.message);
    std::iter::once(head).chain(what.output.iter().map(|line| format!("    | {line}"))).collect()
}

/// Shows what went wrong last, beside a failure that is reported anyway; what
/// cannot be fetched is left out.
pub fn remark_errors(session: &mut Session, id: DeploymentId, environment_id: EnvironmentId) {
    let answer = errors_of(session, id, Some(environment_id));
    let Ok(page) = answer.and_then(|answer| answer.read::<Page<DeploymentError>>()) else { return };
    for line in page.items.first().map(lines).unwrap_or_default() {
        session.console.remark(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raising_and_lowering_are_two_requests() {
        let bounds = Bounds { min: 2, max: 4 };
        let step = |endpoint, min, max| Step { endpoint, min, max };
        assert_eq!(steps(bounds, Some(3), Some(5)), [step("scale-up", Some(3), Some(5))]);
        assert_eq!(steps(bounds, Some(1), None), [step("scale-down", Some(1), None)]);
        let both = [step("scale-up", Some(3), None), step("scale-down", None, Some(3))];
        assert_eq!(steps(bounds, Some(3), Some(3)), both);
        assert_eq!(steps(bounds, Some(2), Some(4)), []);
    }
}
