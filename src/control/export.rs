//! Export: what is routed, as the lines that an import reads.
//!
//! Read at one instant, page by page, while the client takes it. Bundles are
//! left out, because a line cannot carry their bytes; a pointer at one becomes a
//! line that says so.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::control::Control;
use crate::control::error::Error;
use crate::model::deployment::{Deployment, Source};
use crate::model::environment::Environment;
use crate::model::id::ProjectId;
use crate::model::name::ProjectName;
use crate::model::policy::Policy;
use crate::rest::deployments::CreateSource;
use crate::rest::environments::PolicyUpdate;
use crate::rest::transfer::{DeploymentLine, EnvironmentLine, Line, PointerLine, ProjectLine, SkippedLine};
use crate::store::{Page, Transaction};

/// Exports at once. Each holds one of the store's few connections for reading.
pub(super) const EXPORTS_MAX: usize = 1;

/// Longest export. A client that is slower than that gets half a file, and its
/// connection breaks off rather than ends.
const EXPORT_TIME_MAX: Duration = Duration::from_secs(300);

/// Objects read at a time.
const PAGE: u32 = 1_000;

/// Pieces on their way, of some 400 KiB each.
const PIECES_MAX: usize = 4;

/// What is sent: a piece of the file, or that it breaks off.
type Piece = Result<Bytes, io::Error>;

impl Control {
    /// The lines of everything, as they are read.
    ///
    /// # Errors
    ///
    /// When another export runs.
    pub(super) fn export(&self) -> Result<mpsc::Receiver<Piece>, Error> {
        let place = Arc::clone(&self.exports).try_acquire_owned();
        let place = place.map_err(|_| Error::Overloaded("another export runs already"))?;
        let (pieces, taken) = mpsc::channel(PIECES_MAX);
        let (control, mut drain) = (self.clone(), self.drain.clone());
        tokio::spawn(async move {
            let exported = tokio::select! {
                exported = tokio::time::timeout(EXPORT_TIME_MAX, write(&control, &pieces)) => exported,
                () = drain.insisted() => return,
            };
            let broken = match exported {
                Ok(Ok(())) => None,
                Ok(Err(Broken::Gone)) => None,
                Ok(Err(Broken::Failed(error))) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "an export failed");
                    Some("the store failed")
                }
                Err(_) => Some("it took too long"),
            };
            if let Some(why) = broken {
                let _ = pieces.send(Err(io::Error::other(why))).await;
            }
            drop(place);
        });
        Ok(taken)
    }
}

/// Why an export ended early.
enum Broken {
    /// Nobody takes it any more.
    Gone,
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Broken {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

async fn write(control: &Control, pieces: &mpsc::Sender<Piece>) -> Result<(), Broken> {
    let mut tx = control.store.read().await?;
    let projects = projects(&mut tx, pieces).await?;
    let mut page = Page { limit: PAGE, after: None };
    loop {
        let listed = tx.all_deployments(&page).await?;
        let lines = listed.items.into_iter().filter_map(|deployment| deployment_line(deployment, &projects));
        send(pieces, lines.collect()).await?;
        page.after = listed.next;
        if page.after.is_none() {
            break;
        }
    }
    loop {
        let listed = tx.environments(None, &page).await?;
        let lines = environment_lines(&mut tx, listed.items).await?;
        send(pieces, lines).await?;
        page.after = listed.next;
        if page.after.is_none() {
            return Ok(());
        }
    }
}

async fn projects(
    tx: &mut Transaction,
    pieces: &mpsc::Sender<Piece>,
) -> Result<HashMap<ProjectId, ProjectName>, Broken> {
    let (mut names, mut page) = (HashMap::new(), Page { limit: PAGE, after: None });
    loop {
        let listed = tx.projects(&page).await?;
        let lines = listed.items.iter().map(|project| Line::Project(ProjectLine { name: project.name.clone() }));
        send(pieces, lines.collect()).await?;
        names.extend(listed.items.into_iter().map(|project| (project.id, project.name)));
        page.after = listed.next;
        if page.after.is_none() {
            return Ok(names);
        }
    }
}

fn deployment_line(deployment: Deployment, projects: &HashMap<ProjectId, ProjectName>) -> Option<Line> {
    let Source::Endpoints { endpoints, protocol, health_path, host } = deployment.source else { return None };
    Some(Line::Deployment(DeploymentLine {
        project: projects.get(&deployment.project)?.clone(),
        reference: deployment.reference,
        source: CreateSource::Endpoints { endpoints, protocol, health_path, host },
        message: deployment.message,
        git_commit: deployment.git_commit,
    }))
}

/// Each environment, followed by its pointer.
async fn environment_lines(tx: &mut Transaction, environments: Vec<Environment>) -> Result<Vec<Line>, Error> {
    let pointers: Vec<_> = environments.iter().filter_map(|environment| environment.pointer).collect();
    let deployments = tx.deployments_of_ids(&pointers).await?;
    let deployments: HashMap<_, _> = deployments.into_iter().map(|deployment| (deployment.id, deployment)).collect();
    let mut lines = Vec::new();
    for environment in environments {
        let pointed = environment.pointer.and_then(|pointer| deployments.get(&pointer));
        let pointer = pointed.map(|deployment| pointer_line(&environment, deployment));
        lines.push(Line::Environment(environment_line(environment)));
        lines.extend(pointer);
    }
    Ok(lines)
}

fn pointer_line(environment: &Environment, deployment: &Deployment) -> Line {
    let (project, reference) = (environment.project_name.clone(), deployment.reference.clone());
    let environment = environment.name.clone();
    match deployment.is_managed() {
        false => Line::Pointer(PointerLine { project, environment, reference }),
        true => Line::Skipped(SkippedLine {
            project,
            environment,
            reference,
            reason: "its deployment is a bundle, whose bytes no line carries; deploy it again".to_owned(),
        }),
    }
}

/// Everything that can be set, so that reading it back sets all of it.
fn environment_line(environment: Environment) -> EnvironmentLine {
    EnvironmentLine {
        project: environment.project_name,
        name: environment.name,
        // The first is the one made from its names.
        hosts: Some(environment.hosts.into_iter().skip(1).collect()),
        policy: Some(policy(&environment.policy)),
        min_replicas: Some(environment.bounds.map(|bounds| bounds.min)),
        max_replicas: Some(environment.bounds.map(|bounds| bounds.max)),
        locked: Some(environment.locked.is_some()),
        locked_reason: environment.locked.filter(|reason| !reason.is_empty()),
    }
}

fn policy(policy: &Policy) -> PolicyUpdate {
    PolicyUpdate {
        pins: Some(policy.pins),
        deployment_hosts: Some(policy.deployment_hosts),
        request_body_max: Some(policy.request_body_max),
        connect_timeout_ms: Some(policy.connect_timeout_ms),
        response_start_timeout_ms: Some(policy.response_start_timeout_ms),
        response_idle_timeout_ms: Some(policy.response_idle_timeout_ms),
        sse_idle_timeout_ms: Some(policy.sse_idle_timeout_ms),
        grpc_idle_timeout_ms: Some(policy.grpc_idle_timeout_ms),
        websocket_idle_timeout_ms: Some(policy.websocket_idle_timeout_ms),
        in_flight_max: Some(policy.in_flight_max),
        endpoint_concurrency_max: Some(policy.endpoint_concurrency_max),
        queue_max: Some(policy.queue_max),
        queue_timeout_ms: Some(policy.queue_timeout_ms),
        slow_start_ms: Some(policy.slow_start_ms),
        max_drain_ms: Some(policy.max_drain_ms),
        keep_previous_warm_ms: Some(policy.keep_previous_warm_ms),
    }
}

async fn send(pieces: &mpsc::Sender<Piece>, lines: Vec<Line>) -> Result<(), Broken> {
    let mut text = Vec::new();
    for line in lines {
        text.extend(serde_json::to_vec(&line).unwrap_or_default());
        text.push(b'\n');
    }
    if text.is_empty() {
        return Ok(());
    }
    pieces.send(Ok(text.into())).await.map_err(|_| Broken::Gone)
}
