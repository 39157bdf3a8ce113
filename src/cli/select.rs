//! From what somebody typed to the object meant: projects, environments, deployments.
//!
//! A project is named, or follows from the manifest, or is the only one. An
//! environment is `environment`, `project/environment` or an id. A deployment is
//! a ref, an id, or the beginning of either that only one has.

use std::time::Duration;

use crate::bundle::pack::manifest_of;
use crate::cli::client::NO_QUERY;
use crate::cli::error::Error;
use crate::cli::near;
use crate::cli::session::Session;
use crate::model::id::{DeploymentId, EnvironmentId, ProjectId};
use crate::model::manifest::FILE_NAME;
use crate::model::name::{DeploymentRef, ProjectName};
use crate::rest::deployments::{Deployment, ListDeployments};
use crate::rest::environments::{Environment, EnvironmentDetail, ListEnvironments};
use crate::rest::projects::{ListProjects, Project};

/// Newest deployments among which a beginning or a near ref is looked for.
const DEPLOYMENTS_SEARCHED_MAX: usize = 1_000;

/// Names fetched to choose from or to find a near one.
const NAMES_SEARCHED_MAX: usize = 1_000;

/// What environments and deployments are looked for in.
pub struct Owner {
    id: ProjectId,
    name: ProjectName,
}

impl From<&Project> for Owner {
    fn from(project: &Project) -> Self {
        Self { id: project.id, name: project.name.clone() }
    }
}

impl From<&Environment> for Owner {
    fn from(environment: &Environment) -> Self {
        Self { id: environment.project_id, name: environment.project.clone() }
    }
}

/// The project a command is about.
pub fn project(session: &Session) -> Result<Project, Error> {
    match project_name(session)? {
        Some(name) => project_named(session, &name),
        None => only_project(session),
    }
}

/// What names the project: flag or variable, else the manifest here.
pub fn project_name(session: &Session) -> Result<Option<String>, Error> {
    if session.project.is_some() || !session.directory.join(FILE_NAME).exists() {
        return Ok(session.project.clone());
    }
    Ok(manifest_of(&session.directory)?.project.map(|name| name.to_string()))
}

/// The project of this name or id.
pub fn project_named(session: &Session, text: &str) -> Result<Project, Error> {
    match find_project(session, text)? {
        Some(project) => Ok(project),
        None => {
            let hint = near_projects(session, text)?;
            Err(Error::NotFound { noun: "project".to_owned(), name: text.to_owned(), hint })
        }
    }
}

/// The project of this name or id, if there is one.
pub fn find_project(session: &Session, text: &str) -> Result<Option<Project>, Error> {
    if let Ok(id) = text.parse::<ProjectId>() {
        return session.client.get(&format!("/api/v1/projects/{id}"), &NO_QUERY, Duration::ZERO)?.read().map(Some);
    }
    let Ok(name) = text.parse::<ProjectName>() else { return Ok(None) };
    let query = ListProjects { name: Some(name.clone()), ..ListProjects::default() };
    let found = session.client.list::<Project>("/api/v1/projects", &query, NAMES_SEARCHED_MAX)?;
    Ok(found.items.into_iter().find(|project| project.name == name))
}

/// What to say about a project that is not there.
pub fn near_projects(session: &Session, text: &str) -> Result<String, Error> {
    let projects = projects(session)?;
    Ok(near::hint(text, projects.iter().map(|project| project.name.as_str())))
}

fn only_project(session: &Session) -> Result<Project, Error> {
    let mut projects = projects(session)?;
    match projects.len() {
        1 => Ok(projects.remove(0)),
        0 => Err(Error::Usage(
            "choose a project: there is none yet; make one with `repoint project create NAME`".to_owned(),
        )),
        _ => {
            let names: Vec<&str> = projects.iter().map(|project| project.name.as_str()).collect();
            Err(Error::Usage(format!(
                "choose a project: give --project or REPOINT_PROJECT; there are {}",
                names.join(", ")
            )))
        }
    }
}

fn projects(session: &Session) -> Result<Vec<Project>, Error> {
    session.client.list("/api/v1/projects", &ListProjects::default(), NAMES_SEARCHED_MAX).map(|page| page.items)
}

/// The environment meant, in the command's project unless `text` says another.
pub fn environment(session: &Session, text: &str) -> Result<Environment, Error> {
    if let Ok(id) = text.parse::<EnvironmentId>() {
        return environment_detail(session, id).map(|(detail, _)| detail.environment);
    }
    match text.split_once('/') {
        Some((project, name)) => environment_of(session, &Owner::from(&project_named(session, project)?), name),
        None => environment_of(session, &Owner::from(&project(session)?), text),
    }
}

/// The environment meant, in the deployment's project unless `text` says another.
pub fn environment_beside(session: &Session, deployment: &Deployment, text: &str) -> Result<Environment, Error> {
    if text.contains('/') || text.parse::<EnvironmentId>().is_ok() {
        return environment(session, text);
    }
    let path = format!("/api/v1/projects/{}", deployment.project_id);
    let project: Project = session.client.get(&path, &NO_QUERY, Duration::ZERO)?.read()?;
    environment_of(session, &Owner::from(&project), text)
}

/// The environment of this name in a project.
pub fn environment_of(session: &Session, project: &Owner, name: &str) -> Result<Environment, Error> {
    let mut environments = environments(session, project.id)?;
    match environments.iter().position(|environment| environment.name.as_str() == name) {
        Some(at) => Ok(environments.swap_remove(at)),
        None => Err(Error::NotFound {
            noun: format!("environment in project {}", project.name),
            name: name.to_owned(),
            hint: near::hint(name, environments.iter().map(|environment| environment.name.as_str())),
        }),
    }
}

/// Every environment of a project.
pub fn environments(session: &Session, project: ProjectId) -> Result<Vec<Environment>, Error> {
    let query = ListEnvironments { project_id: Some(project), ..ListEnvironments::default() };
    session.client.list("/api/v1/environments", &query, NAMES_SEARCHED_MAX).map(|page| page.items)
}

/// An environment with what stands behind it, and the server's own text of it.
pub fn environment_detail(session: &Session, id: EnvironmentId) -> Result<(EnvironmentDetail, String), Error> {
    let answer = session.client.get(&format!("/api/v1/environments/{id}"), &NO_QUERY, Duration::ZERO)?;
    Ok((answer.read()?, answer.text))
}

/// The deployment meant; the newest of the command's project where nothing is said.
pub fn deployment(session: &Session, text: Option<&str>) -> Result<Deployment, Error> {
    match text {
        Some(text) => match deployment_by_id(session, text)? {
            Some(deployment) => Ok(deployment),
            None => deployment_of(session, &Owner::from(&project(session)?), text),
        },
        None => {
            let project = project(session)?;
            let newest = deployments(session, project.id, None, 1)?.pop();
            newest.ok_or_else(|| {
                Error::Usage(format!("choose a deployment: {} has none yet; run `repoint deploy`", project.name))
            })
        }
    }
}

/// The deployment with this id, where `text` is one.
pub fn deployment_by_id(session: &Session, text: &str) -> Result<Option<Deployment>, Error> {
    let Ok(id) = text.parse::<DeploymentId>() else { return Ok(None) };
    session.client.get(&format!("/api/v1/deployments/{id}"), &NO_QUERY, Duration::ZERO)?.read().map(Some)
}

/// The deployment of this ref, or of this beginning of a ref or id, in a project.
pub fn deployment_of(session: &Session, project: &Owner, text: &str) -> Result<Deployment, Error> {
    if let Ok(reference) = text.parse::<DeploymentRef>() {
        let found = deployments(session, project.id, Some(&reference), DEPLOYMENTS_SEARCHED_MAX)?;
        if let Some(found) = found.into_iter().find(|deployment| deployment.reference == reference) {
            return Ok(found);
        }
    }
    let newest = deployments(session, project.id, None, DEPLOYMENTS_SEARCHED_MAX)?;
    match only_beginning(&newest, text)? {
        Some(found) => Ok(found.clone()),
        None => Err(Error::NotFound {
            noun: format!("deployment in project {}", project.name),
            name: text.to_owned(),
            hint: near::hint(text, newest.iter().map(|deployment| deployment.reference.as_str())),
        }),
    }
}

fn deployments(
    session: &Session,
    project: ProjectId,
    reference: Option<&DeploymentRef>,
    limit: usize,
) -> Result<Vec<Deployment>, Error> {
    let query =
        ListDeployments { project_id: Some(project), reference: reference.cloned(), ..ListDeployments::default() };
    session.client.list("/api/v1/deployments", &query, limit).map(|page| page.items)
}

fn only_beginning<'a>(deployments: &'a [Deployment], text: &str) -> Result<Option<&'a Deployment>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let begins = |deployment: &&Deployment| {
        deployment.reference.as_str().starts_with(text) || deployment.id.to_string().starts_with(text)
    };
    let found: Vec<&Deployment> = deployments.iter().filter(begins).collect();
    if found.len() > 1 {
        let refs: Vec<&str> = found.iter().take(10).map(|deployment| deployment.reference.as_str()).collect();
        return Err(Error::Usage(format!(
            "choose a deployment: {text:?} begins {} of them: {}",
            found.len(),
            refs.join(", ")
        )));
    }
    Ok(found.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::console::captured;
    use crate::cli::fake::{self, Fake};

    /// What choosing came to, as text.
    fn choose<T>(fake: &Fake, choice: impl Fn(&Session) -> Result<T, Error>, name: impl Fn(&T) -> String) -> String {
        let (mut console, _, _) = captured::console(false, None);
        match choice(&fake.session(&mut console)) {
            Ok(found) => name(&found),
            Err(error) => format!("{}: {error}", error.exit_code()),
        }
    }

    #[test]
    fn an_environment_is_found_by_name_full_name_and_id() {
        let fake = Fake::start(fake::world);
        for text in ["staging", "support/staging", fake::STAGING] {
            let found = choose(&fake, |session| environment(session, text), |found| found.name.to_string());
            assert_eq!(found, "staging", "{text}");
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_near_ones() {
        let fake = Fake::start(fake::world);
        let unknown = |text| choose(&fake, |session| environment(session, text), |found| found.name.to_string());
        assert_eq!(unknown("stagin"), "1: find environment in project support \"stagin\"; did you mean staging?");
        assert_eq!(unknown("suport/staging"), "1: find project \"suport\"; did you mean support?");
        assert!(unknown("x y").contains("there are preview, staging, production"));
        let unknown =
            |text| choose(&fake, |session| deployment(session, Some(text)), |found| found.reference.to_string());
        assert_eq!(unknown("bcdfghjj"), "1: find deployment in project support \"bcdfghjj\"; did you mean bcdfghjk?");
    }

    #[test]
    fn a_deployment_is_found_by_ref_beginning_and_id_or_is_the_newest() {
        let fake = Fake::start(fake::world);
        let found = |text| choose(&fake, |session| deployment(session, text), |found| found.reference.to_string());
        assert_eq!(found(Some("bcdfghjk")), "bcdfghjk");
        assert_eq!(found(Some("bcdfw")), "bcdfwxyz");
        assert_eq!(found(Some(fake::NEW)), "bcdfwxyz");
        assert_eq!(found(None), "bcdfwxyz");
        assert_eq!(found(Some("bcdf")), "2: choose a deployment: \"bcdf\" begins 2 of them: bcdfwxyz, bcdfghjk");
    }

    #[test]
    fn the_project_is_named_or_in_the_manifest_or_the_only_one() {
        let fake = Fake::start(fake::world);
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE_NAME), "project = \"agents\"\n[worker]\ncommand = [\"a\"]").unwrap();
        let with = |flag: Option<&str>, directory: &std::path::Path| {
            let (mut console, _, _) = captured::console(false, None);
            let mut session = fake.session(&mut console);
            (session.project, session.directory) = (flag.map(str::to_owned), directory.to_owned());
            match project(&session) {
                Ok(project) => project.name.to_string(),
                Err(error) => error.to_string(),
            }
        };
        assert_eq!(with(None, "/nonexistent".as_ref()), "support");
        assert_eq!(with(Some("support"), directory.path()), "support");
        assert_eq!(with(None, directory.path()), "find project \"agents\"; there is only support");
    }

    #[test]
    fn among_several_projects_one_has_to_be_chosen() {
        let fake = Fake::start(|_| {
            let mut other = fake::project();
            other["name"] = "agents".into();
            (200, serde_json::json!({"items": [other, fake::project()]}).to_string())
        });
        let chosen = choose(&fake, project, |found| found.name.to_string());
        assert_eq!(chosen, "2: choose a project: give --project or REPOINT_PROJECT; there are agents, support");
        let fake = Fake::start(|_| (200, r#"{"items":[]}"#.to_owned()));
        assert!(choose(&fake, project, |found| found.name.to_string()).contains("repoint project create"));
    }
}
