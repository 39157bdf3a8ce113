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
use crate::store::row::{json, micros, number, query};
use crate::store::{Error, Transaction, pools};

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
        .await
    }

    /// Adds deployments whose refs are free in their projects.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn insert_deployments(&mut self, deployments: &[Deployment]) -> Result<(), Error> {
        let into = "deployments (id, project_id, reference, source, message, git_commit, created_by, created_at)";
        self.insert_all(&Insert { into, columns: 8, then: "" }, deployments, |query, deployment| {
            query
                .bind(deployment.id.to_string())
                .bind(deployment.project.to_string())
                .bind(deployment.reference.to_string())
                .bind(json(&deployment.source))
                .bind(deployment.message.clone())
                .bind(deployment.git_commit.clone())
                .bind(deployment.created_by.clone())
                .bind(micros(deployment.created_at))
        })
        .await
    }

    /// Adds pools that are not there yet.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn insert_pools(&mut self, pools: &[Pool]) -> Result<(), Error> {
        let into = "pools (environment_id, deployment_id, state, bounds, closing_revision, closing_since, endpoints)";
        self.insert_all(&Insert { into, columns: 7, then: "" }, pools, |query, pool| {
            query
                .bind(pool.key.environment.to_string())
                .bind(pool.key.deployment.to_string())
                .bind(pool.state.as_str())
                .bind(json(&pool.bounds))
                .bind(pool.closing_revision.map(|revision| number(revision.0)))
                .bind(pool.closing_since.map(micros))
                .bind(json(&pool.endpoints))
        })
        .await?;
        for pool in pools {
            self.touch_pool(pool.key);
        }
        Ok(())
    }

    /// Adds rows to the history, each with the event that tells of it.
    ///
    /// # Errors
    ///
    /// When the database fails, also because a sequence is used.
    pub async fn insert_promotions(&mut self, promotions: &[Promotion]) -> Result<(), Error> {
        let into = "promotions (id, environment_id, sequence, below, kind, from_deployment_id, to_deployment_id,
            source_environment_id, actor, reason, revision, requested_at, committed_at, applied_at)";
        self.insert_all(&Insert { into, columns: 14, then: "" }, promotions, |query, promotion| {
            query
                .bind(promotion.id.to_string())
                .bind(promotion.environment.to_string())
                .bind(number(promotion.sequence))
                .bind(promotion.below.map(number))
                .bind(promotion.kind.as_str())
                .bind(promotion.from.map(|id| id.to_string()))
                .bind(promotion.to.to_string())
                .bind(promotion.source_environment.map(|id| id.to_string()))
                .bind(promotion.actor.clone())
                .bind(promotion.reason.clone())
                .bind(number(promotion.revision.0))
                .bind(micros(promotion.requested_at))
                .bind(micros(promotion.committed_at))
                .bind(promotion.applied_at.map(micros))
        })
        .await?;
        // Each is another one: no look for what was noted already, as `note` has it.
        self.touched.events.extend(promotions.iter().map(|promotion| What::PointerMoved {
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
