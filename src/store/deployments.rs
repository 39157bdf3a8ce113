//! Deployments and the register of bundles, as rows that are never updated
//! (invariant 5).

use std::slice;

use jiff::Timestamp;
use uuid::Uuid;

use crate::model::deployment::Deployment;
use crate::model::id::{DeploymentId, ProjectId};
use crate::model::name::DeploymentRef;
use crate::store::bulk::Insert;
use crate::store::row::{Query, Row, json, micros, number, query};
use crate::store::{Error, Listed, Page, Transaction};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, project_id, reference, source, message, git_commit, created_by, created_at FROM deployments ",
            $rest
        )
    };
}

/// A deployment's row.
pub(super) const NEW: Insert = Insert {
    into: "deployments (id, project_id, reference, source, message, git_commit, created_by, created_at)",
    columns: 8,
    then: "",
};

/// Binds the columns of [`NEW`].
pub(super) fn bind(query: Query, deployment: &Deployment) -> Query {
    query
        .bind(deployment.id.to_string())
        .bind(deployment.project.to_string())
        .bind(deployment.reference.to_string())
        .bind(json(&deployment.source))
        .bind(deployment.message.clone())
        .bind(deployment.git_commit.clone())
        .bind(deployment.created_by.clone())
        .bind(micros(deployment.created_at))
}

impl Transaction {
    /// Adds a deployment.
    ///
    /// # Errors
    ///
    /// [`Error::NameTaken`] when its ref is used in the project: make another;
    /// or when the database fails.
    pub async fn insert_deployment(&mut self, deployment: &Deployment) -> Result<(), Error> {
        let insert = Insert { then: "ON CONFLICT (project_id, reference) DO NOTHING", ..NEW };
        match self.insert_all(&insert, slice::from_ref(deployment), bind).await? {
            0 => Err(Error::NameTaken(deployment.reference.to_string())),
            _ => Ok(()),
        }
    }

    /// The deployment of this id.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn deployment(&mut self, id: DeploymentId) -> Result<Option<Deployment>, Error> {
        let select = query(select!("WHERE id = $1")).bind(id.to_string());
        self.first("deployment", select).await?.map(|row| deployment(&row)).transpose()
    }

    /// The deployment of this ref in a project.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn deployment_by_ref(
        &mut self,
        project: ProjectId,
        reference: &DeploymentRef,
    ) -> Result<Option<Deployment>, Error> {
        let select = query(select!("WHERE project_id = $1 AND reference = $2"));
        let select = select.bind(project.to_string()).bind(reference.to_string());
        self.first("deployment", select).await?.map(|row| deployment(&row)).transpose()
    }

    /// The deployments of these refs in their projects, as far as they are there,
    /// in any order.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn deployments_named(&mut self, refs: &[(ProjectId, DeploymentRef)]) -> Result<Vec<Deployment>, Error> {
        let keys: Vec<_> = refs.iter().map(|(project, name)| [project.to_string(), name.to_string()]).collect();
        let select = "SELECT deployments.* FROM wanted CROSS JOIN deployments WHERE project_id = a AND reference = b";
        self.all_of("deployment", select, &keys).await?.iter().map(deployment).collect()
    }

    /// A page of all deployments, oldest first.
    ///
    /// # Errors
    ///
    /// [`Error::Cursor`], or when the database fails.
    pub async fn all_deployments(&mut self, page: &Page) -> Result<Listed<Deployment>, Error> {
        let after = page.cursor(Uuid::nil())?;
        let select = query(select!("WHERE id > $1 ORDER BY id LIMIT $2")).bind(after.to_string()).bind(page.rows_max());
        let rows = self.all("deployment", select).await?;
        let deployments = rows.iter().map(deployment).collect::<Result<_, _>>()?;
        Ok(page.list(deployments, |deployment: &Deployment| deployment.id))
    }

    /// The deployments of these ids, as far as they are there, in any order.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn deployments_of_ids(&mut self, ids: &[DeploymentId]) -> Result<Vec<Deployment>, Error> {
        let keys: Vec<[String; 1]> = ids.iter().map(|id| [id.to_string()]).collect();
        let select = "SELECT deployments.* FROM wanted CROSS JOIN deployments WHERE id = a";
        self.all_of("deployment", select, &keys).await?.iter().map(deployment).collect()
    }

    /// A project's deployments, newest first.
    ///
    /// # Errors
    ///
    /// [`Error::Cursor`], or when the database fails.
    pub async fn deployments(&mut self, project: ProjectId, page: &Page) -> Result<Listed<Deployment>, Error> {
        let before = page.cursor(Uuid::max())?;
        let select = query(select!("WHERE project_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3"))
            .bind(project.to_string())
            .bind(before.to_string())
            .bind(page.rows_max());
        let rows = self.all("deployment", select).await?;
        let deployments = rows.iter().map(deployment).collect::<Result<_, _>>()?;
        Ok(page.list(deployments, |deployment: &Deployment| deployment.id))
    }

    /// A project's newest deployment.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn latest_deployment(&mut self, project: ProjectId) -> Result<Option<Deployment>, Error> {
        let listed = self.deployments(project, &Page { limit: 1, after: None }).await?;
        Ok(listed.items.into_iter().next())
    }

    /// Registers a bundle whose bytes are in place. Doing so again changes
    /// nothing: its name is the hash of its bytes.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn insert_bundle(
        &mut self,
        digest: &str,
        size: u64,
        manifest_toml: &str,
        at: Timestamp,
    ) -> Result<(), Error> {
        let insert = query(
            "INSERT INTO bundles (digest, size, manifest, created_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (digest) DO NOTHING",
        );
        let insert = insert.bind(digest.to_owned()).bind(number(size)).bind(manifest_toml.to_owned()).bind(micros(at));
        self.execute(insert).await?;
        Ok(())
    }

    /// The bundle of this name.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn bundle(&mut self, digest: &str) -> Result<Option<BundleRow>, Error> {
        let select = query("SELECT digest, size, manifest, created_at FROM bundles WHERE digest = $1");
        let Some(row) = self.first("bundle", select.bind(digest.to_owned())).await? else { return Ok(None) };
        Ok(Some(BundleRow {
            digest: row.text("digest")?,
            size: row.count("size")?,
            manifest_toml: row.text("manifest")?,
            created_at: row.time("created_at")?,
        }))
    }
}

/// A registered bundle; its bytes are a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BundleRow {
    /// `sha256:` and the hash of its bytes, in hex.
    pub digest: String,
    /// Packed size in bytes.
    pub size: u64,
    /// The manifest inside, as text.
    pub manifest_toml: String,
    /// When it was uploaded first.
    pub created_at: Timestamp,
}

pub(super) fn deployment(row: &Row) -> Result<Deployment, Error> {
    Ok(Deployment {
        id: row.parsed("id")?,
        reference: row.parsed("reference")?,
        project: row.parsed("project_id")?,
        source: row.json("source")?,
        message: row.text_if_any("message")?,
        git_commit: row.text_if_any("git_commit")?,
        created_by: row.text("created_by")?,
        created_at: row.time("created_at")?,
    })
}
