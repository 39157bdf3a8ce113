//! Projects: made whole, with the environments that every project has.

use jiff::Timestamp;
use uuid::Uuid;

use crate::control::Control;
use crate::control::environment::{claim, fresh};
use crate::control::error::{Error, Noun};
use crate::model::environment::Environment;
use crate::model::id::ProjectId;
use crate::model::name::EnvironmentName;
use crate::model::project::Project;
use crate::rest::page::LIMIT_MAX;
use crate::rest::projects::CreateProject;
use crate::store::{Page, Transaction};

impl Control {
    /// Makes a project with its environments, or nothing.
    ///
    /// # Errors
    ///
    /// Refusals, which change nothing: the name, or one of the hosts that follow
    /// from it, is taken.
    pub async fn create_project(
        &self,
        ask: CreateProject,
        now: Timestamp,
    ) -> Result<(Project, Vec<Environment>), Error> {
        let mut tx = self.store.write().await?;
        if tx.project_by_name(&ask.name).await?.is_some() {
            return Err(Error::NameTaken { noun: Noun::Project, name: ask.name.to_string() });
        }
        let project = Project { id: Uuid::now_v7().into(), name: ask.name, created_at: now };
        tx.insert_project(&project).await?;
        let mut environments = Vec::new();
        for name in EnvironmentName::DEFAULTS {
            let name = name.parse().map_err(|_| Error::Internal("a default environment has no valid name"))?;
            let environment = fresh(&self.config, &project, name, now)?;
            claim(&mut tx, &environment).await?;
            tx.insert_environment(&environment).await?;
            environments.push(environment);
        }
        tx.commit().await?;
        Ok((project, environments))
    }
}

/// Every environment of a project, however many pages that takes.
pub(super) async fn environments_of(tx: &mut Transaction, project: ProjectId) -> Result<Vec<Environment>, Error> {
    let mut environments = Vec::new();
    let mut page = Page { limit: LIMIT_MAX, after: None };
    loop {
        let listed = tx.environments(Some(project), &page).await?;
        environments.extend(listed.items);
        match listed.next {
            Some(next) => page.after = Some(next),
            None => return Ok(environments),
        }
    }
}
