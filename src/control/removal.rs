//! Removing environments and projects without cutting a request.
//!
//! One change takes the pointer away and closes the pools; when the supervisor
//! has found them idle and stopped them, the rows go. Until then the environment
//! stays listed without a pointer. Each step looks at everything again, so that
//! whoever promotes in between, now or when the target is ready, wins and the removal is refused.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::control::error::Error;
use crate::control::project::environments_of;
use crate::control::write::{close_pool, supersede_waiting};
use crate::control::{Control, find, now};
use crate::model::environment::Environment;
use crate::model::id::{EnvironmentId, ProjectId};
use crate::model::pool::Rest;
use crate::store::{self, Transaction};

/// How long a DELETE waits for running requests; then it answers that it goes
/// on, and is to be repeated.
const DRAIN_WAIT: Duration = Duration::from_secs(10);

/// What is to be removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doomed {
    /// An environment.
    Environment(EnvironmentId),
    /// A project with everything below it.
    Project(ProjectId),
}

/// What whoever asks allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leave {
    /// Drain what is served.
    pub force: bool,
    /// Delete more than an accident should be able to.
    pub mass_change: bool,
}

/// Which look this is. The first takes pointers away, and waiting moves back; those
/// that are there later were asked for meanwhile, and whoever asked wins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Round {
    First(Leave),
    Later,
}

impl Control {
    /// Removes it, draining first what is served if `leave` allows that. Answers
    /// whether it is gone; false: requests still run, nothing new arrives, ask again.
    ///
    /// # Errors
    ///
    /// Refusals, which change nothing.
    pub async fn remove(&self, doomed: Doomed, leave: Leave) -> Result<bool, Error> {
        let deadline = Instant::now() + DRAIN_WAIT;
        let mut work = self.store.watch_work();
        let mut drain = self.drain.clone();
        let mut round = Round::First(leave);
        loop {
            work.take();
            let Some(drains) = self.step(doomed, round).await? else { return Ok(true) };
            round = Round::Later;
            tokio::select! {
                rung = work.until(|work| work.has_environment(|id| drains.contains(&id))) => if !rung { return Ok(false) },
                () = tokio::time::sleep_until(deadline) => return Ok(false),
                () = drain.asked() => return Ok(false),
            }
        }
    }

    /// One look. `None`: it is gone; else the environments that are waited for.
    async fn step(&self, doomed: Doomed, round: Round) -> Result<Option<HashSet<EnvironmentId>>, Error> {
        let mut tx = self.store.write().await?;
        let environments = match doomed {
            Doomed::Environment(id) => vec![find::environment(&mut tx, id).await?],
            Doomed::Project(id) => {
                find::project(&mut tx, id).await?;
                environments_of(&mut tx, id).await?
            }
        };
        let mut waiting = HashSet::new();
        for environment in environments.iter().filter(|_| round == Round::Later) {
            if tx.waiting_move_of(environment.id).await?.is_some() {
                waiting.insert(environment.id);
            }
        }
        let in_use = |at: &Environment| at.pointer.is_some() || waiting.contains(&at.id);
        let leave = if let Round::First(leave) = round { leave } else { Leave::default() };
        check(doomed, &environments, in_use, leave.force)?;
        if matches!(round, Round::First(_)) && !leave.mass_change {
            // Asked before anything is taken out of service.
            let refused = tx.mass_change_of(environments.len()).await?;
            refused.map_or(Ok(()), |change| Err(Error::from(store::Error::MassChange(change))))?;
        }
        // Later steps go on with what the first was allowed.
        tx.allow_mass_change();
        let mut drains = HashSet::new();
        for environment in environments {
            let id = environment.id;
            if !close(&mut tx, environment).await? {
                drains.insert(id);
            }
        }
        if drains.is_empty() {
            match doomed {
                Doomed::Environment(id) => tx.delete_environment(id).await?,
                Doomed::Project(id) => tx.delete_project(id).await?,
            }
        }
        tx.commit().await?;
        Ok((!drains.is_empty()).then_some(drains))
    }
}

fn check(
    doomed: Doomed,
    environments: &[Environment],
    in_use: impl Fn(&Environment) -> bool,
    force: bool,
) -> Result<(), Error> {
    let serving = || environments.iter().filter(|environment| in_use(environment));
    match doomed {
        Doomed::Environment(_) => {
            if let Some(kept) = environments.iter().find(|environment| environment.name.is_default()) {
                return Err(Error::EnvironmentProtected(kept.name.clone()));
            }
            match serving().next() {
                Some(environment) if !force => Err(Error::EnvironmentInUse(environment.name.clone())),
                _ => Ok(()),
            }
        }
        Doomed::Project(_) => {
            let serving: Vec<_> = serving().map(|environment| (environment.id, environment.name.clone())).collect();
            if serving.is_empty() || force { Ok(()) } else { Err(Error::ProjectInUse(serving)) }
        }
    }
}

/// Takes an environment out of service. Answers whether nothing of it runs any more.
async fn close(tx: &mut Transaction, environment: Environment) -> Result<bool, Error> {
    let (id, now) = (environment.id, now());
    supersede_waiting(tx, id).await?;
    if environment.pointer.is_some() {
        tx.update_environment(&Environment { pointer: None, updated_at: now, ..environment }).await?;
    }
    let mut drained = true;
    for pool in tx.pools_of_environment(id).await? {
        drained &= pool.state.is_at_rest();
        close_pool(tx, pool.key, Rest::Stopped, now).await?;
    }
    Ok(drained)
}
