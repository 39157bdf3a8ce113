//! Deployments: made once and never changed (invariant 5).
//!
//! A deployment that names an environment goes through the same walk as a
//! promote (`promotion.rs`), in the transaction that creates it: where the move
//! is refused, no deployment remains.

use std::time::Duration;

use uuid::Uuid;

use crate::control::error::Error;
use crate::control::outcome::Outcome;
use crate::control::pool::BoundsAsked;
use crate::control::promotion::{Allowed, Caller, Next, advance};
use crate::control::source::source;
use crate::control::{Control, find};
use crate::model::deployment::Deployment;
use crate::model::environment::Ask;
use crate::model::moves::PendingMove;
use crate::model::name::DeploymentRef;
use crate::model::promotion::{Kind, Promotion};
use crate::rest::deployments::CreateDeployment;
use crate::store::Transaction;

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
        self.applied.commit(tx, next.as_ref().and_then(Next::committed)).await?;
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
}
