//! Carrying actions out, and taking in what came of them.
//!
//! Thin: what is done was decided by `plan`, what it means is decided by
//! `observed`.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::Signal;

use crate::bundle;
use crate::bundle::digest::Digest;
use crate::fleet::blocker::Blockers;
use crate::logs::write::Capture;
use crate::model::deployment::Source;
use crate::model::event::What;
use crate::model::id::EndpointId;
use crate::model::pool::{PoolError, PoolErrorKind, PoolKey};
use crate::store;

use super::event::Event;
use super::fault::{self, OUTPUT_LINES};
use super::launch::signal;
use super::observed::{Phase, Proof};
use super::plan::Action;
use super::supervisor::Supervisor;

/// For what a replica has left in its pipes when it ended. A process that outlives it and holds them is waited for no
/// longer.
const PIPES_PATIENCE: Duration = Duration::from_millis(500);

impl Supervisor {
    /// Carries one action out. Only the store's failures are answered; all others are the pool's, and recorded there.
    pub(super) async fn carry_out(&mut self, action: Action) -> Result<(), store::Error> {
        match action {
            Action::Start(pool) => self.start_replica(pool).await,
            Action::Drain(pool, replica) => self.drain(pool, replica),
            Action::Stop(pool, replica) => self.stop_replica(pool, replica),
            Action::Kill(pool, replica) => self.kill(pool, replica),
            Action::ReportUnready(pool, replica) => self.report_unready(pool, replica),
            Action::GiveUp(pool, replica) => self.give_up(pool, replica),
            Action::Finish { pool, cut } => self.finish_closing(pool, cut).await?,
            Action::Alarm(pool) => self.alarm(pool),
            Action::AlarmReplica(pool, replica) => self.alarm_replica(pool, replica),
            Action::Forget(pool) => self.forget(pool).await?,
        }
        Ok(())
    }

    /// Takes in what happened.
    pub(super) fn take_in(&mut self, event: Event) {
        match event {
            Event::Ended { pool, replica, status, capture } => self.ended(pool, replica, status, capture),
            Event::Fault { pool, error } => self.faults.push((pool, error)),
            Event::Unpacked { pool, digest, result } => self.unpacked(pool, digest, result),
            Event::Resolved(name, resolved) => {
                self.names.of(&name).for_each(|pool| self.desired.note(pool));
                self.outside.resolved(name, resolved);
            }
            Event::Probed(target, health) => {
                if let Some((pool, replica)) = self.probed(&target, &health) {
                    let error = health.error.clone();
                    self.tell(pool, replica, move |output, at| fault::of_illness(error.as_deref(), output, at));
                }
                self.targets.of(&target).for_each(|pool| self.desired.note(pool));
                self.outside.health.insert(target, health);
            }
        }
    }

    async fn start_replica(&mut self, key: PoolKey) {
        let Some(pool) = self.desired.get(&key).cloned() else { return };
        let Source::Bundle { digest, manifest } = &pool.deployment.source else { return };
        let seen = self.observed.pools.entry(key).or_default();
        // An earlier start of the same round may have failed, or found that the bundle is not there yet.
        if seen.preparing || seen.start_after.is_some_and(|after| after > Instant::now()) {
            return;
        }
        let Ok(digest) = digest.parse::<Digest>() else {
            return self.start_failed(key, invalid_digest(digest));
        };
        let Some(bundle) = self.unpacked.get(&digest).filter(|folder| folder.is_dir()).cloned() else {
            return self.unpack(key, digest);
        };
        match self.launcher.launch(&pool, manifest, &bundle).await {
            Ok((id, replica)) => {
                tracing::info!(pool = %key, replica = %id, pid = replica.pid, address = %replica.address, "replica started");
                self.observed.pools.entry(key).or_default().replicas.insert(id, replica);
            }
            Err(error) => self.start_failed(key, error.fault(Timestamp::now())),
        }
    }

    fn start_failed(&mut self, key: PoolKey, fault: PoolError) {
        tracing::warn!(pool = %key, kind = fault.kind.as_str(), reason = fault.message, "replica not started");
        self.observed.pools.entry(key).or_default().failed(&self.config.restart, Instant::now());
        self.faults.push((key, fault));
    }

    fn unpack(&mut self, key: PoolKey, digest: Digest) {
        self.observed.pools.entry(key).or_default().preparing = true;
        let (told, data_dir) = (self.told.clone(), self.config.data_dir.clone());
        tokio::task::spawn_blocking(move || {
            let archive = bundle::archive_path(&data_dir, &digest);
            let result = bundle::unpack::unpack(&archive, &data_dir.join("unpacked"), &digest);
            // Nobody listens any more when the supervisor has ended.
            let _ = told.send(Event::Unpacked { pool: key, digest, result });
        });
    }

    fn unpacked(&mut self, pool: PoolKey, digest: Digest, result: Result<std::path::PathBuf, bundle::Error>) {
        if let Some(seen) = self.observed.pools.get_mut(&pool) {
            seen.preparing = false;
        }
        match result {
            Ok(folder) => drop(self.unpacked.insert(digest, folder)),
            Err(error) => self.start_failed(pool, fault::of_bundle(&error, Timestamp::now())),
        }
    }

    /// The rows are written at the end of the turn; from the change they make on, idleness can be proved.
    fn drain(&mut self, pool: PoolKey, id: EndpointId) {
        let seen = self.observed.pools.get_mut(&pool);
        if let Some(replica) = seen.and_then(|seen| seen.replicas.get_mut(&id)) {
            let since = Instant::now();
            replica.phase = Phase::Draining { since, revision: None, proof: Proof::default(), alarmed: false };
            tracing::info!(%pool, replica = %id, "replica drains");
        }
    }

    fn stop_replica(&mut self, pool: PoolKey, id: EndpointId) {
        let seen = self.observed.pools.get_mut(&pool);
        if let Some(replica) = seen.and_then(|seen| seen.replicas.get_mut(&id)) {
            replica.stopping(Instant::now());
            tracing::info!(%pool, replica = %id, pid = replica.pid, "replica asked to end");
            signal(replica.pid, Signal::TERM);
        }
    }

    fn kill(&mut self, pool: PoolKey, id: EndpointId) {
        let seen = self.observed.pools.get_mut(&pool);
        if let Some(replica) = seen.and_then(|seen| seen.replicas.get_mut(&id))
            && let Phase::Stopping { killed, .. } = &mut replica.phase
        {
            *killed = true;
            tracing::warn!(%pool, replica = %id, pid = replica.pid, "replica did not end in time and is killed");
            signal(replica.pid, Signal::KILL);
        }
    }

    fn report_unready(&mut self, pool: PoolKey, id: EndpointId) {
        let Some(seen) = self.observed.pools.get_mut(&pool) else { return };
        let Some(replica) = seen.replicas.get_mut(&id) else { return };
        replica.timeout_told = true;
        seen.timed_out = true;
        let probe_error = replica.probe_error.clone();
        let desired = self.desired.get(&pool);
        let timeout = desired.map(|pool| pool.deployment.ready_timeout().to_string()).unwrap_or_default();
        self.tell(pool, id, move |output, at| fault::of_unready(probe_error.as_deref(), &timeout, output, at));
    }

    fn give_up(&mut self, pool: PoolKey, id: EndpointId) {
        if let Some(seen) = self.observed.pools.get_mut(&pool) {
            seen.gave_up(id, &self.config.restart, Instant::now());
            if let Some(replica) = seen.replicas.get(&id) {
                tracing::warn!(%pool, replica = %id, pid = replica.pid, "replica was not ready in time");
                signal(replica.pid, Signal::TERM);
            }
        }
    }

    async fn finish_closing(&mut self, pool: PoolKey, cut: bool) -> Result<(), store::Error> {
        let running = if cut { self.fleet.in_flight(pool) } else { 0 };
        if !self.finish(pool, running).await? {
            return Ok(());
        }
        if cut {
            tracing::warn!(%pool, running, "max_drain is over: the pool is stopped with requests still running");
        } else {
            tracing::info!(%pool, "pool drained");
        }
        let seen = self.observed.pools.get(&pool);
        let replicas: Vec<EndpointId> = seen.map(|seen| seen.replicas.keys().copied().collect()).unwrap_or_default();
        replicas.into_iter().for_each(|id| self.stop_replica(pool, id));
        Ok(())
    }

    fn alarm(&mut self, pool: PoolKey) {
        let Some(closing) = self.observed.pools.get_mut(&pool).and_then(|seen| seen.closing.as_mut()) else { return };
        closing.alarmed = true;
        let Some(revision) = closing.revision else { return };
        self.tell_blocked(pool, &self.fleet.blocking_closing(revision));
    }

    fn alarm_replica(&mut self, pool: PoolKey, id: EndpointId) {
        let seen = self.observed.pools.get_mut(&pool);
        let Some(replica) = seen.and_then(|seen| seen.replicas.get_mut(&id)) else { return };
        let Phase::Draining { revision: Some(revision), alarmed, .. } = &mut replica.phase else { return };
        *alarmed = true;
        let revision = *revision;
        self.tell_blocked(pool, &self.fleet.blocking_closing(revision));
    }

    /// Nothing is stopped, whatever its time: a proxy that does not know may still send requests there. So somebody
    /// should look.
    fn tell_blocked(&self, pool: PoolKey, blockers: &Blockers) {
        let (blocked_by, blocked_by_count) = (blockers.sentences(), blockers.count);
        tracing::error!(
            %pool, blocked_by = blocked_by.join("; "), blocked_by_count,
            "max_drain is over and nothing can be stopped; see `repoint proxies`, and `repoint proxies forget` what is dead"
        );
        let PoolKey { environment, deployment } = pool;
        self.store.publish(What::StopBlocked {
            environment_id: environment,
            deployment_id: deployment,
            blocked_by,
            blocked_by_count,
        });
    }

    async fn forget(&mut self, pool: PoolKey) -> Result<(), store::Error> {
        self.observed.pools.remove(&pool);
        // Stopping makes everything unwanted, and a pool at rest is not loaded: neither is a reason to lose output.
        if !self.is_stopping() && self.store.read().await?.pool(pool).await?.is_none() {
            self.forget_output(pool);
        }
        Ok(())
    }

    fn ended(&mut self, pool: PoolKey, id: EndpointId, status: std::io::Result<ExitStatus>, capture: Capture) {
        let now = Instant::now();
        let ending = status.as_ref().map_or_else(|error| format!("lost: {error}"), fault::ending);
        tracing::info!(%pool, replica = %id, ending, "replica ended");
        capture.note(ending);
        let mut failed = false;
        if let Some(seen) = self.observed.pools.get_mut(&pool)
            && let Some(replica) = seen.replicas.get(&id)
        {
            self.launcher.ended(replica, now);
            failed = seen.ended(id, &self.config.restart, now);
        }
        let (told, logs, folder) = (self.told.clone(), self.logs.clone(), self.launcher.folder_of(id));
        tokio::spawn(async move {
            capture.finish(PIPES_PATIENCE).await;
            if let Err(error) = tokio::fs::remove_dir_all(&folder).await {
                tracing::warn!(%error, folder = %folder.display(), "a working folder could not be removed");
            }
            if failed {
                let output = last_lines(&logs, pool, id).await;
                let error = fault::of_end(&status, output, Timestamp::now());
                // Nobody listens any more when the supervisor has ended.
                let _ = told.send(Event::Fault { pool, error });
            }
        });
    }

    /// Tells of a fault with the last lines that were printed, which are read on the side.
    fn tell(
        &self,
        pool: PoolKey,
        replica: EndpointId,
        fault: impl FnOnce(Vec<String>, Timestamp) -> PoolError + Send + 'static,
    ) {
        let (told, logs) = (self.told.clone(), self.logs.clone());
        tokio::spawn(async move {
            let error = fault(last_lines(&logs, pool, replica).await, Timestamp::now());
            let _ = told.send(Event::Fault { pool, error });
        });
    }
}

/// The last lines printed; none if they cannot be read, because an error without output is better than none.
async fn last_lines(logs: &crate::logs::LogFolder, pool: PoolKey, replica: EndpointId) -> Vec<String> {
    let logs = logs.clone();
    let read = tokio::task::spawn_blocking(move || logs.tail(pool, Some(replica), OUTPUT_LINES)).await;
    let lines = read.ok().and_then(Result::ok).unwrap_or_default();
    lines.into_iter().map(|line| line.text).collect()
}

fn invalid_digest(digest: &str) -> PoolError {
    PoolError {
        at: Timestamp::now(),
        kind: PoolErrorKind::ImageInvalid,
        message: format!("the deployment names its bundle {digest:?}, which is no digest; deploy again"),
        output: Vec::new(),
        count: 1,
    }
}
