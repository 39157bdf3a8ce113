//! Pools together with what it takes to run them, as the supervisor reads them.
//!
//! One joined query, whether for one pool or for all of them: asking for each
//! pool's environment and deployment would be three hundred thousand questions
//! where there are a hundred thousand pools.

use crate::model::deployment::Deployment;
use crate::model::id::EnvironmentId;
use crate::model::name::{EnvironmentName, ProjectName};
use crate::model::policy::Policy;
use crate::model::pool::{Pool, PoolKey};
use crate::store::deployments::deployment;
use crate::store::pools::pool;
use crate::store::row::{Row, query};
use crate::store::{Error, Transaction};

/// A pool with what it takes to run it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunningPool {
    /// Its row.
    pub pool: Pool,
    /// What its replicas run.
    pub deployment: Deployment,
    /// Its project's name.
    pub project: ProjectName,
    /// Its environment's name.
    pub environment: EnvironmentName,
    /// Its environment's policy.
    pub policy: Policy,
}

/// Which pools are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// All.
    Everything,
    /// Those that serve an environment.
    Environment(EnvironmentId),
    /// One.
    Pool(PoolKey),
}

/// Pools at rest, without anything left of them, need no looking after.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT pools.*, environments.name AS environment_name, environments.policy, ",
            "projects.name AS project_name, deployments.id, deployments.project_id, deployments.reference, ",
            "deployments.source, deployments.message, deployments.git_commit, deployments.created_by, ",
            "deployments.created_at FROM pools ",
            "JOIN environments ON environments.id = pools.environment_id ",
            "JOIN projects ON projects.id = environments.project_id ",
            "JOIN deployments ON deployments.id = pools.deployment_id ",
            "WHERE NOT (pools.state IN ('stopped', 'idle') AND pools.endpoints = '[]')",
            $rest
        )
    };
}

impl Transaction {
    /// The pools that are wanted, or of which something is left.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn running_pools(&mut self, scope: Scope) -> Result<Vec<RunningPool>, Error> {
        let select = match scope {
            Scope::Everything => query(select!("")),
            Scope::Environment(id) => query(select!(" AND pools.environment_id = $1")).bind(id.to_string()),
            Scope::Pool(key) => query(select!(" AND pools.environment_id = $1 AND pools.deployment_id = $2"))
                .bind(key.environment.to_string())
                .bind(key.deployment.to_string()),
        };
        self.all("pool", select).await?.iter().map(running).collect()
    }
}

fn running(row: &Row) -> Result<RunningPool, Error> {
    Ok(RunningPool {
        pool: pool(row)?,
        deployment: deployment(row)?,
        project: row.parsed("project_name")?,
        environment: row.parsed("environment_name")?,
        policy: row.json("policy")?,
    })
}
