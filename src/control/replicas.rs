//! Starting, stopping and scaling what a deployment runs on: its pools.
//!
//! Only what is wanted is written here; the supervisor makes it true, and drains
//! before it stops anything (invariant 9).

use crate::control::error::{Error, Noun};
use crate::control::pool::{self, BoundsAsked, Scale};
use crate::control::promotion::Caller;
use crate::control::write::{close_pool, put_changed};
use crate::control::{Control, find};
use crate::model::deployment::Deployment;
use crate::model::environment::Environment;
use crate::model::id::{DeploymentId, EnvironmentId};
use crate::model::name::EnvironmentName;
use crate::model::pool::{Pool, PoolKey, Rest};
use crate::rest::deployments::{ScaleDeployment, StartDeployment, TerminateDeployment};
use crate::store::Transaction;

/// Pools that something was done to, with their deployment.
#[derive(Clone, Debug)]
pub struct Touched {
    /// The deployment.
    pub deployment: Deployment,
    /// Its pools, as they stand now.
    pub pools: Vec<(Environment, Pool)>,
}

impl Control {
    /// Keeps replicas running again, where they were terminated or never started.
    ///
    /// # Errors
    ///
    /// Refusals, which change nothing.
    pub async fn start_deployment(&self, id: DeploymentId, ask: StartDeployment) -> Result<Touched, Error> {
        let mut tx = self.store.write().await?;
        let deployment = managed(&mut tx, id).await?;
        let mut chosen = Vec::new();
        match ask.environment_id {
            Some(environment) => chosen.push(find::environment_of(&mut tx, deployment.project, environment).await?),
            None => {
                for (environment, _) in pools_of(&mut tx, &deployment, None).await? {
                    chosen.push(environment);
                }
                if chosen.is_empty() {
                    chosen.push(preview(&mut tx, &deployment).await?);
                }
            }
        }
        let mut pools = Vec::new();
        for environment in chosen {
            let before = tx.pool(PoolKey { environment: environment.id, deployment: deployment.id }).await?;
            let after = match before.clone() {
                Some(pool) => pool::opened(pool, BoundsAsked::default())?,
                None => pool::created(&environment, &deployment, BoundsAsked::default())?,
            };
            put_changed(&mut tx, before.as_ref(), after.clone()).await?;
            pools.push((environment, after));
        }
        tx.commit().await?;
        Ok(Touched { deployment, pools })
    }

    /// Takes a deployment out of service: its pools finish what they have, then
    /// their replicas stop, and none start until somebody says so.
    ///
    /// # Errors
    ///
    /// [`Error::Serving`] where it is current, unless forced; nothing changes then.
    pub async fn terminate_deployment(
        &self,
        id: DeploymentId,
        ask: TerminateDeployment,
        caller: &Caller,
    ) -> Result<Touched, Error> {
        let mut tx = self.store.write().await?;
        let deployment = find::deployment(&mut tx, id).await?;
        let pools = pools_of(&mut tx, &deployment, ask.environment_id).await?;
        let serving: Vec<(EnvironmentId, EnvironmentName)> = pools
            .iter()
            .filter(|(environment, _)| environment.pointer == Some(deployment.id))
            .map(|(environment, _)| (environment.id, environment.name.clone()))
            .collect();
        if !serving.is_empty() && !ask.force {
            return Err(Error::Serving { reference: deployment.reference, environments: serving });
        }
        let mut touched = Vec::new();
        for (environment, pool) in pools {
            close_pool(&mut tx, pool.key, Rest::Stopped, caller.at).await?;
            let after = tx.pool(pool.key).await?.unwrap_or(pool);
            touched.push((environment, after));
        }
        tx.commit().await?;
        tracing::info!(deployment = %id, actor = caller.actor, force = ask.force, "deployment terminated");
        Ok(Touched { deployment, pools: touched })
    }

    /// Changes how many replicas a deployment's pools may have, one way only.
    ///
    /// # Errors
    ///
    /// When any of the pools would be scaled the other way; none is changed then.
    pub(super) async fn scale_deployment(
        &self,
        id: DeploymentId,
        way: Scale,
        ask: ScaleDeployment,
    ) -> Result<Touched, Error> {
        let bounds = BoundsAsked { min: ask.min_replicas, max: ask.max_replicas };
        if bounds == BoundsAsked::default() {
            return Err(Error::Invalid("there is nothing to scale to; give min_replicas, max_replicas or both".into()));
        }
        let mut tx = self.store.write().await?;
        let deployment = managed(&mut tx, id).await?;
        let mut pools = Vec::new();
        for (environment, pool) in pools_of(&mut tx, &deployment, ask.environment_id).await? {
            let after = pool::scaled(pool.clone(), way, bounds)?;
            put_changed(&mut tx, Some(&pool), after.clone()).await?;
            pools.push((environment, after));
        }
        tx.commit().await?;
        Ok(Touched { deployment, pools })
    }
}

/// A deployment whose replicas Repoint starts.
async fn managed(tx: &mut Transaction, id: DeploymentId) -> Result<Deployment, Error> {
    let deployment = find::deployment(tx, id).await?;
    if deployment.is_managed() { Ok(deployment) } else { Err(Error::NotManaged(deployment.reference)) }
}

/// A deployment's pools, or the one in the named environment, which must be there.
pub(super) async fn pools_of(
    tx: &mut Transaction,
    deployment: &Deployment,
    only: Option<EnvironmentId>,
) -> Result<Vec<(Environment, Pool)>, Error> {
    if let Some(id) = only {
        let environment = find::environment_of(tx, deployment.project, id).await?;
        let pool = tx.pool(PoolKey { environment: id, deployment: deployment.id }).await?.ok_or_else(|| {
            Error::NoPool { reference: deployment.reference.clone(), environment: environment.name.clone() }
        })?;
        return Ok(vec![(environment, pool)]);
    }
    let mut pools = Vec::new();
    for pool in tx.pools_of_deployment(deployment.id).await? {
        pools.push((find::environment(tx, pool.key.environment).await?, pool));
    }
    Ok(pools)
}

async fn preview(tx: &mut Transaction, deployment: &Deployment) -> Result<Environment, Error> {
    let name = EnvironmentName::DEFAULTS[0].parse().map_err(|_| Error::Internal("preview is no name"))?;
    let found = tx.environment_by_name(deployment.project, &name).await?;
    found.ok_or_else(|| Error::not_found(Noun::Environment, name))
}
