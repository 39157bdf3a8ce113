//! Deployments: made once, then only their pools are started, scaled and closed.
//!
//! A deployment that names an environment goes through the same walk as a
//! promote (`promotion.rs`), in the transaction that creates it: where the move
//! is refused, no deployment remains.

use std::net::SocketAddr;
use std::time::Duration;

use uuid::Uuid;

use crate::control::error::{Error, Noun};
use crate::control::outcome::Outcome;
use crate::control::pool::{self, BoundsAsked, Scale};
use crate::control::promotion::{Allowed, Caller, Next, advance, close_pool, put_changed};
use crate::control::{Control, find};
use crate::model::deployment::{Deployment, Source};
use crate::model::endpoint_url::{InvalidEndpoint, check_endpoint};
use crate::model::environment::{Ask, Environment};
use crate::model::id::{DeploymentId, EnvironmentId};
use crate::model::manifest::{Manifest, Protocol, is_path};
use crate::model::moves::PendingMove;
use crate::model::name::{DeploymentRef, EnvironmentName};
use crate::model::pool::{Pool, PoolKey};
use crate::model::promotion::{Kind, Promotion};
use crate::rest::deployments::{CreateDeployment, CreateSource, ScaleDeployment, StartDeployment, TerminateDeployment};
use crate::store::Transaction;

/// Endpoints of one deployment. More want a load balancer of their own in front.
const ENDPOINTS_MAX: usize = 64;

/// Refs tried before giving up: with a million deployments in a project, one try
/// in 300,000 hits a ref that is taken.
const REF_TRIES: usize = 8;

/// A deployment that was made, and how far its move got.
#[derive(Clone, Debug)]
pub struct Deployed {
    /// The deployment.
    pub deployment: Deployment,
    /// The move to the named environment, while it waits or where it failed.
    pub pending: Option<PendingMove>,
    /// The row it became.
    pub promotion: Option<Promotion>,
}

/// Pools that something was done to, with their deployment.
#[derive(Clone, Debug)]
pub struct Touched {
    /// The deployment.
    pub deployment: Deployment,
    /// Its pools, as they stand now.
    pub pools: Vec<(Environment, Pool)>,
}

impl Control {
    /// Makes a deployment, and points the named environment at it once it is ready.
    ///
    /// # Errors
    ///
    /// Refusals, after which there is no deployment. A move that fails later is no
    /// error: the answer tells how it ended.
    pub async fn deploy(&self, ask: CreateDeployment, caller: &Caller) -> Result<Deployed, Error> {
        let bounds = BoundsAsked { min: ask.min_replicas, max: ask.max_replicas };
        if ask.environment_id.is_none() && bounds != BoundsAsked::default() {
            return Err(Error::Invalid(
                "min_replicas and max_replicas hold in an environment; give environment_id too".to_owned(),
            ));
        }
        let mut tx = self.store.write().await?;
        let project = find::project(&mut tx, ask.project_id).await?;
        let deployment = Deployment {
            id: Uuid::now_v7().into(),
            reference: Self::free_ref(&mut tx, &ask).await?,
            project: project.id,
            source: source(&mut tx, ask.source, &self.config.own_listeners).await?,
            message: ask.message,
            git_commit: ask.git_commit,
            created_by: caller.actor.clone(),
            created_at: caller.at,
        };
        tx.insert_deployment(&deployment).await?;
        let next = match ask.environment_id {
            None => None,
            Some(id) => {
                let environment = find::environment_of(&mut tx, project.id, id).await?;
                environment.promote(&deployment, None, Ask::default())?;
                let allowed = Allowed {
                    environment,
                    deployment: deployment.clone(),
                    pool: None,
                    kind: Kind::Deploy,
                    bounds,
                    scale_previous_to_zero: false,
                    reason: None,
                };
                Some(advance(&mut tx, allowed, caller).await?)
            }
        };
        tx.commit().await?;
        tracing::info!(deployment = %deployment.id, reference = %deployment.reference, project = %project.name, "deployed");
        self.deployed(deployment, next, caller.wait).await
    }

    async fn deployed(&self, deployment: Deployment, next: Option<Next>, wait: Duration) -> Result<Deployed, Error> {
        let Some(next) = next else { return Ok(Deployed { deployment, pending: None, promotion: None }) };
        let number = match &next {
            Next::Waits(number) => Some(*number),
            Next::Stays(_) | Next::Committed(_) => None,
        };
        let promotion = match self.outcome(next, wait).await {
            Ok(Outcome::Moved(moved)) => Some(moved.promotion),
            // The deployment exists whatever became of its move; the move says what that is.
            Ok(Outcome::Waits(_))
            | Err(Error::TargetNotReady { .. } | Error::Superseded { .. } | Error::MoveRefused { .. }) => None,
            Err(error) => return Err(error),
        };
        let pending = match number {
            Some(number) => Some(self.followed_move(number, Duration::ZERO).await?),
            None => None,
        };
        Ok(Deployed { deployment, pending, promotion })
    }

    async fn free_ref(tx: &mut Transaction, ask: &CreateDeployment) -> Result<DeploymentRef, Error> {
        for _ in 0..REF_TRIES {
            let mut chance = [0; 8];
            getrandom::fill(&mut chance).map_err(|_| Error::Internal("the system gave no random bytes"))?;
            let reference = DeploymentRef::from_bytes(chance);
            if tx.deployment_by_ref(ask.project_id, &reference).await?.is_none() {
                return Ok(reference);
            }
        }
        Err(Error::Internal("no free deployment ref was found"))
    }

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
            close_pool(&mut tx, pool.key, caller.at).await?;
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

/// What a deployment is made from, checked as far as can be without trying it.
async fn source(tx: &mut Transaction, asked: CreateSource, own_listeners: &[SocketAddr]) -> Result<Source, Error> {
    match asked {
        CreateSource::Bundle { digest } => {
            let bundle = tx.bundle(&digest).await?.ok_or_else(|| Error::not_found(Noun::Bundle, &digest))?;
            // It was checked when it was uploaded; a newer build may still read it differently.
            let manifest = Manifest::parse(&bundle.manifest_toml).map_err(|e| Error::BundleInvalid(e.to_string()))?;
            Ok(Source::Bundle { digest, manifest })
        }
        CreateSource::Endpoints { protocol: Protocol::H2c, .. } => {
            Err(Error::NotYetSupported("protocol \"h2c\" is not supported yet; leave it out, or give \"http1\""))
        }
        CreateSource::Endpoints { endpoints, protocol, health_path, host } => {
            if !(1..=ENDPOINTS_MAX).contains(&endpoints.len()) {
                return Err(Error::Invalid(format!("source.endpoints: give 1 to {ENDPOINTS_MAX} URLs")));
            }
            for url in &endpoints {
                check_endpoint(url, own_listeners).map_err(|error| refused(&error))?;
            }
            if let Some(path) = health_path.as_deref().filter(|path| !is_path(path)) {
                let path: String = path.chars().take(64).collect();
                return Err(Error::Invalid(format!(
                    "source.health_path: {path:?} must start with / and hold visible ASCII only"
                )));
            }
            Ok(Source::Endpoints { endpoints, protocol, health_path, host })
        }
        CreateSource::Image { .. } => Err(Error::NotYetSupported(
            "image sources are not supported yet; deploy a bundle, or endpoints that something else runs",
        )),
    }
}

fn refused(error: &InvalidEndpoint) -> Error {
    if error.is_not_yet() {
        return Error::NotYetSupported("https endpoints are not supported yet; give http:// URLs");
    }
    Error::Invalid(format!("source.endpoints: cannot {error}"))
}
