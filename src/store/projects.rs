//! Projects, as rows.

use uuid::Uuid;

use crate::model::id::{EnvironmentId, ProjectId};
use crate::model::name::ProjectName;
use crate::model::project::Project;
use crate::store::row::{Row, micros, query};
use crate::store::{Error, Listed, Page, Transaction};

impl Transaction {
    /// Adds a project.
    ///
    /// # Errors
    ///
    /// [`Error::NameTaken`] when another has its name.
    pub async fn insert_project(&mut self, project: &Project) -> Result<(), Error> {
        let insert =
            query("INSERT INTO projects (id, name, created_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING")
                .bind(project.id.to_string())
                .bind(project.name.to_string())
                .bind(micros(project.created_at));
        match self.execute(insert).await? {
            0 => Err(Error::NameTaken(project.name.to_string())),
            _ => Ok(()),
        }
    }

    /// The project of this id.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn project(&mut self, id: ProjectId) -> Result<Option<Project>, Error> {
        let select = query("SELECT id, name, created_at FROM projects WHERE id = $1").bind(id.to_string());
        self.first("project", select).await?.map(|row| project(&row)).transpose()
    }

    /// The project of this name.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn project_by_name(&mut self, name: &ProjectName) -> Result<Option<Project>, Error> {
        let select = query("SELECT id, name, created_at FROM projects WHERE name = $1").bind(name.to_string());
        self.first("project", select).await?.map(|row| project(&row)).transpose()
    }

    /// The projects of these names, as far as they are there, in any order.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn projects_named(&mut self, names: &[ProjectName]) -> Result<Vec<Project>, Error> {
        let keys: Vec<[String; 1]> = names.iter().map(|name| [name.to_string()]).collect();
        let select = "SELECT id, name, created_at FROM wanted CROSS JOIN projects WHERE name = a";
        self.all_of("project", select, &keys).await?.iter().map(project).collect()
    }

    /// Projects, oldest first.
    ///
    /// # Errors
    ///
    /// [`Error::Cursor`], or when the database fails.
    pub async fn projects(&mut self, page: &Page) -> Result<Listed<Project>, Error> {
        let after = page.cursor(Uuid::nil())?;
        let select = query("SELECT id, name, created_at FROM projects WHERE id > $1 ORDER BY id LIMIT $2")
            .bind(after.to_string())
            .bind(page.rows_max());
        let rows = self.all("project", select).await?;
        let projects = rows.iter().map(project).collect::<Result<_, _>>()?;
        Ok(page.list(projects, |project: &Project| project.id))
    }

    /// Deletes a project with everything below it. That it is unused is the
    /// caller's to check.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn delete_project(&mut self, id: ProjectId) -> Result<(), Error> {
        let environments = query("SELECT id FROM environments WHERE project_id = $1").bind(id.to_string());
        for row in self.all("environment", environments).await? {
            self.delete_environment(row.parsed::<EnvironmentId>("id")?).await?;
        }
        self.execute(query("DELETE FROM deployments WHERE project_id = $1").bind(id.to_string())).await?;
        self.execute(query("DELETE FROM projects WHERE id = $1").bind(id.to_string())).await?;
        Ok(())
    }
}

fn project(row: &Row) -> Result<Project, Error> {
    Ok(Project { id: row.parsed("id")?, name: row.parsed("name")?, created_at: row.time("created_at")? })
}
