//! What an import adds: many rows of each noun, in the transaction of one change.
//!
//! The caller (`control::import`) has checked in the same transaction that
//! nothing is taken; what is written here by mistake fails as a whole.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::model::deployment::Deployment;
use crate::model::event::What;
use crate::model::id::EnvironmentId;
use crate::model::pool::{Pool, PoolKey};
use crate::model::project::Project;
use crate::model::promotion::Promotion;
use crate::model::revision::Revision;
use crate::store::bulk::Insert;
use crate::store::row::{micros, number, query};
use crate::store::{Error, Transaction, deployments, pools, promotions};

impl Transaction {
    /// Adds projects whose names are free.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn insert_projects(&mut self, projects: &[Project]) -> Result<(), Error> {
        let insert = Insert { into: "projects (id, name, created_at)", columns: 3, then: "" };
        self.insert_all(&insert, projects, |query, project| {
            query.bind(project.id.to_string()).bind(project.name.to_string()).bind(micros(project.created_at))
        })
        .await?;
        Ok(())
    }

    /// Adds deployments whose refs are free in their projects.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn insert_deployments(&mut self, new: &[Deployment]) -> Result<(), Error> {
        self.insert_all(&deployments::NEW, new, deployments::bind).await?;
        Ok(())
    }

    /// Adds pools that are not there yet.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn insert_pools(&mut self, new: &[Pool]) -> Result<(), Error> {
        self.insert_all(&Insert { then: "", ..pools::PUT }, new, pools::bind).await?;
        for pool in new {
            self.touch_pool(pool.key);
        }
        Ok(())
    }

    /// Adds rows to the history, each with the event that tells of it.
    ///
    /// # Errors
    ///
    /// When the database fails, also because a sequence is used.
    pub async fn insert_promotions(&mut self, new: &[Promotion]) -> Result<(), Error> {
        self.insert_all(&promotions::NEW, new, promotions::bind).await?;
        // Each is another one: no look for what was noted already, as `note` has it.
        self.touched.events.extend(new.iter().map(|promotion| What::PointerMoved {
            environment_id: promotion.environment,
            kind: promotion.kind,
            from: promotion.from,
            to: promotion.to,
            revision: promotion.revision,
        }));
        Ok(())
    }

    /// The latest sequence of each environment's history that has one.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn last_sequences(
        &mut self,
        environments: &[EnvironmentId],
    ) -> Result<HashMap<EnvironmentId, u64>, Error> {
        let select = "SELECT environment_id, MAX(sequence) AS latest FROM wanted CROSS JOIN promotions
            WHERE environment_id = a GROUP BY environment_id";
        let keys: Vec<[String; 1]> = environments.iter().map(|id| [id.to_string()]).collect();
        let rows = self.all_of("promotion", select, &keys).await?;
        rows.iter().map(|row| Ok((row.parsed("environment_id")?, row.count("latest")?))).collect()
    }

    /// The pools of these keys, as far as there are any.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn pools_of_keys(&mut self, keys: &[PoolKey]) -> Result<HashMap<PoolKey, Pool>, Error> {
        let select = "SELECT pools.* FROM wanted CROSS JOIN pools WHERE environment_id = a AND deployment_id = b";
        let keys: Vec<_> = keys.iter().map(|key| [key.environment.to_string(), key.deployment.to_string()]).collect();
        let rows = self.all_of("pool", select, &keys).await?;
        rows.iter().map(|row| pools::pool(row).map(|pool| (pool.key, pool))).collect()
    }

    /// Notes that every live and suspect proxy has applied a change with all its moves.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn set_change_applied(&mut self, revision: Revision, at: Timestamp) -> Result<(), Error> {
        let update = query("UPDATE promotions SET applied_at = $2 WHERE revision = $1 AND applied_at IS NULL");
        self.execute(update.bind(number(revision.0)).bind(micros(at))).await?;
        Ok(())
    }
}
