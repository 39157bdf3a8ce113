//! Environments, as rows: settings and the pointer. Their hosts are next door.

use std::collections::HashMap;
use std::slice;

use uuid::Uuid;

use crate::model::change::RecordKey;
use crate::model::environment::Environment;
use crate::model::id::{DeploymentId, EnvironmentId, ProjectId};
use crate::model::name::EnvironmentName;
use crate::model::policy::Policy;
use crate::model::pool::PoolKey;
use crate::store::bulk::Insert;
use crate::store::row::{Query, Row, json, micros, query};
use crate::store::work::WorkKey;
use crate::store::{Error, Listed, Page, Transaction};

macro_rules! columns {
    () => {
        "environments.id, project_id, projects.name AS project_name, environments.name, pointer, bounds, policy, locked, environments.created_at, updated_at"
    };
}

macro_rules! wanted {
    ($condition:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            " FROM wanted CROSS JOIN environments JOIN projects ON projects.id = project_id WHERE ",
            $condition
        )
    };
}

macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT ", columns!(), " FROM environments JOIN projects ON projects.id = project_id ", $rest)
    };
}

const PUT: Insert = Insert {
    into: "environments (id, project_id, name, pointer, bounds, policy, locked, created_at, updated_at)",
    columns: 9,
    then: "ON CONFLICT (id) DO UPDATE SET pointer = excluded.pointer, bounds = excluded.bounds,
        policy = excluded.policy, locked = excluded.locked, updated_at = excluded.updated_at",
};

/// Binds the columns of [`PUT`].
fn bind(query: Query, environment: &Environment) -> Query {
    query
        .bind(environment.id.to_string())
        .bind(environment.project.to_string())
        .bind(environment.name.to_string())
        .bind(environment.pointer.map(|id| id.to_string()))
        .bind(environment.bounds.as_ref().map(json))
        .bind(json(&environment.policy))
        .bind(environment.locked.clone())
        .bind(micros(environment.created_at))
        .bind(micros(environment.updated_at))
}

impl Transaction {
    /// Adds an environment with its hosts.
    ///
    /// # Errors
    ///
    /// [`Error::NameTaken`] or [`Error::HostTaken`], and nothing is written;
    /// or when the database fails.
    pub async fn insert_environment(&mut self, environment: &Environment) -> Result<(), Error> {
        self.check_hosts(environment).await?;
        let insert = Insert { then: "ON CONFLICT (project_id, name) DO NOTHING", ..PUT };
        if self.insert_all(&insert, slice::from_ref(environment), bind).await? == 0 {
            return Err(Error::NameTaken(environment.name.to_string()));
        }
        self.touch_pointer(environment.id, environment.pointer);
        self.replace_hosts(environment).await
    }

    /// The environment of this id.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn environment(&mut self, id: EnvironmentId) -> Result<Option<Environment>, Error> {
        let found = self.environments_of(query(select!("WHERE environments.id = $1")).bind(id.to_string())).await?;
        Ok(found.into_iter().next())
    }

    /// The environment of this name in a project.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn environment_by_name(
        &mut self,
        project: ProjectId,
        name: &EnvironmentName,
    ) -> Result<Option<Environment>, Error> {
        let select = query(select!("WHERE project_id = $1 AND environments.name = $2"));
        let found = self.environments_of(select.bind(project.to_string()).bind(name.to_string())).await?;
        Ok(found.into_iter().next())
    }

    /// Environments, oldest first: of one project, or all.
    ///
    /// # Errors
    ///
    /// [`Error::Cursor`], or when the database fails.
    pub async fn environments(
        &mut self,
        project: Option<ProjectId>,
        page: &Page,
    ) -> Result<Listed<Environment>, Error> {
        let after = page.cursor(Uuid::nil())?.to_string();
        let select = match project {
            Some(project) => {
                query(select!("WHERE environments.id > $1 AND project_id = $3 ORDER BY environments.id LIMIT $2"))
                    .bind(after)
                    .bind(page.rows_max())
                    .bind(project.to_string())
            }
            None => query(select!("WHERE environments.id > $1 ORDER BY environments.id LIMIT $2"))
                .bind(after)
                .bind(page.rows_max()),
        };
        let environments = self.environments_of(select).await?;
        Ok(page.list(environments, |environment| environment.id))
    }

    /// The environments of these ids, as far as they are there, in any order.
    pub(super) async fn environments_of_ids(&mut self, ids: &[EnvironmentId]) -> Result<Vec<Environment>, Error> {
        let keys: Vec<[String; 1]> = ids.iter().map(|id| [id.to_string()]).collect();
        let rows = self.all_of("environment", wanted!("environments.id = a"), &keys).await?;
        self.with_hosts(&rows).await
    }

    /// The environments of these names in their projects, as far as they are
    /// there, in any order.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn environments_named(
        &mut self,
        names: &[(ProjectId, EnvironmentName)],
    ) -> Result<Vec<Environment>, Error> {
        let keys: Vec<_> = names.iter().map(|(project, name)| [project.to_string(), name.to_string()]).collect();
        let select = wanted!("environments.project_id = a AND environments.name = b");
        let rows = self.all_of("environment", select, &keys).await?;
        self.with_hosts(&rows).await
    }

    /// An environment other than `except` whose pointer names a deployment; where
    /// there are several, any of them.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn source_environment(
        &mut self,
        deployment: DeploymentId,
        except: EnvironmentId,
    ) -> Result<Option<EnvironmentId>, Error> {
        // In no order: sorted by id, a deployment that serves ten thousand environments would have all of them read.
        let select = query("SELECT id FROM environments WHERE pointer = $1 AND id <> $2 LIMIT 1");
        let select = select.bind(deployment.to_string()).bind(except.to_string());
        self.first("environment", select).await?.map(|row| row.parsed("id")).transpose()
    }

    /// Writes many environments with their hosts: new ones, and new settings or
    /// pointers of those that are there. `before` are the pointers that those had.
    /// That names and hosts are free is checked by the caller.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn put_environments(
        &mut self,
        environments: &[Environment],
        before: &HashMap<EnvironmentId, DeploymentId>,
    ) -> Result<(), Error> {
        self.insert_all(&PUT, environments, bind).await?;
        for environment in environments {
            self.touch_pointer(environment.id, environment.pointer);
            let before = before.get(&environment.id).copied();
            if before != environment.pointer {
                self.touch_pointer(environment.id, before);
            }
            self.touched.work.add(WorkKey::Environment(environment.id));
        }
        Ok(())
    }

    /// Environments whose pointer names a deployment.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn environments_pointing_at(&mut self, deployment: DeploymentId) -> Result<Vec<Environment>, Error> {
        let select = query(select!("WHERE pointer = $1 ORDER BY environments.id"));
        self.environments_of(select.bind(deployment.to_string())).await
    }

    /// Replaces everything about an environment but its id, project and name.
    ///
    /// # Errors
    ///
    /// [`Error::HostTaken`], and nothing is written; or when the database fails.
    pub async fn update_environment(&mut self, environment: &Environment) -> Result<(), Error> {
        self.check_hosts(environment).await?;
        let before = query("SELECT pointer, policy FROM environments WHERE id = $1").bind(environment.id.to_string());
        let Some(before) = self.first("environment", before).await? else { return Ok(()) };
        let update = query(
            "UPDATE environments SET pointer = $2, bounds = $3, policy = $4, locked = $5, updated_at = $6 WHERE id = $1",
        )
        .bind(environment.id.to_string())
        .bind(environment.pointer.map(|id| id.to_string()))
        .bind(environment.bounds.as_ref().map(json))
        .bind(json(&environment.policy))
        .bind(environment.locked.clone())
        .bind(micros(environment.updated_at));
        self.execute(update).await?;
        let policy_before: Policy = before.json("policy")?;
        let before = before.parsed_if_any("pointer")?;
        if before != environment.pointer {
            // A stopped pool has a record only while the pointer names it.
            self.touch_pointer(environment.id, before);
        }
        if before != environment.pointer || policy_before != environment.policy {
            self.touched.work.add(WorkKey::Environment(environment.id));
        }
        self.touch_pointer(environment.id, environment.pointer);
        self.replace_hosts(environment).await
    }

    /// Deletes an environment with its hosts, pools, moves and history.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn delete_environment(&mut self, id: EnvironmentId) -> Result<(), Error> {
        for pool in self.pools_of_environment(id).await? {
            self.delete_pool(pool.key).await?;
        }
        for delete in [
            "DELETE FROM moves WHERE environment_id = $1",
            "DELETE FROM promotions WHERE environment_id = $1",
            "DELETE FROM hosts WHERE environment_id = $1",
            "DELETE FROM environments WHERE id = $1",
        ] {
            self.execute(query(delete).bind(id.to_string())).await?;
        }
        self.touched.work.add(WorkKey::Environment(id));
        self.touch_environment(id);
        Ok(())
    }

    fn touch_pointer(&mut self, environment: EnvironmentId, pointer: Option<DeploymentId>) {
        self.touch_environment(environment);
        if let Some(deployment) = pointer {
            self.touched.records.insert(RecordKey::Pool(PoolKey { environment, deployment }));
        }
    }

    async fn environments_of(&mut self, select: Query) -> Result<Vec<Environment>, Error> {
        let rows = self.all("environment", select).await?;
        self.with_hosts(&rows).await
    }

    async fn with_hosts(&mut self, rows: &[Row]) -> Result<Vec<Environment>, Error> {
        let mut environments = rows.iter().map(environment).collect::<Result<Vec<_>, _>>()?;
        self.read_hosts(&mut environments).await?;
        Ok(environments)
    }
}

/// An environment, still without its hosts.
fn environment(row: &Row) -> Result<Environment, Error> {
    Ok(Environment {
        id: row.parsed("id")?,
        project: row.parsed("project_id")?,
        project_name: row.parsed("project_name")?,
        name: row.parsed("name")?,
        hosts: Vec::new(),
        pointer: row.parsed_if_any("pointer")?,
        bounds: row.json_if_any("bounds")?,
        policy: row.json("policy")?,
        locked: row.text_if_any("locked")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}
