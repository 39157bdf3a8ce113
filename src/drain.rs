//! Stopping in two stages: ask, then insist.
//!
//! Owns the signal and the wait. Knows nothing of what is being stopped: whoever
//! must be waited for holds a [`Hold`], and letting go of it is all there is to
//! say. The ingress, the control stream and the worker supervisor listen;
//! `app` owns the [`Drain`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// The one who stops things. Dropping it insists: what listens is not left running
/// without anybody who could stop it.
#[derive(Debug)]
pub struct Drain {
    stage: watch::Sender<Stage>,
    holds: Arc<watch::Sender<()>>,
}

/// How far the stop has come; it only moves forward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// Nobody has asked.
    Running,
    /// Take nothing new, finish what there is.
    Asked,
    /// Cut what is left.
    Insisted,
}

impl Drain {
    /// Nothing to stop yet.
    pub fn new() -> Self {
        Self { stage: watch::Sender::new(Stage::Running), holds: Arc::new(watch::Sender::new(())) }
    }

    /// The listening side.
    pub fn watch(&self) -> Watch {
        Watch { stage: self.stage.subscribe(), holds: Arc::clone(&self.holds) }
    }

    /// Asks, waits until every hold is gone or `grace` has passed, then insists.
    /// Answers how many holds were still out when it insisted. Does not wait for
    /// those: what is cut lets go on its own.
    pub async fn drain(&self, grace: Duration) -> usize {
        self.ask();
        let done = tokio::time::timeout(grace, self.idle()).await.is_ok();
        let cut = if done { 0 } else { self.holds.receiver_count() };
        self.insist();
        cut
    }

    /// Asks everyone to come to an end.
    pub fn ask(&self) {
        self.advance(Stage::Asked);
    }

    /// Tells everyone that the time is up; also ends a running [`Drain::drain`],
    /// as soon as the holds are gone. A second Ctrl-C lands here.
    pub fn insist(&self) {
        self.advance(Stage::Insisted);
    }

    /// Resolves when nobody holds any more.
    pub async fn idle(&self) {
        self.holds.closed().await;
    }

    fn advance(&self, to: Stage) {
        self.stage.send_if_modified(|stage| {
            let forward = *stage < to;
            *stage = to.max(*stage);
            forward
        });
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.insist();
    }
}

/// The listening side of a [`Drain`].
#[derive(Clone, Debug)]
pub struct Watch {
    stage: watch::Receiver<Stage>,
    holds: Arc<watch::Sender<()>>,
}

impl Watch {
    /// How far the stop has come.
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Resolves when the stop has been asked for.
    pub async fn asked(&mut self) {
        self.reached(Stage::Asked).await;
    }

    /// Resolves when what is left is to be cut.
    pub async fn insisted(&mut self) {
        self.reached(Stage::Insisted).await;
    }

    /// Something the drain waits for, until it is dropped.
    pub fn hold(&self) -> Hold {
        Hold { _held: self.holds.subscribe() }
    }

    async fn reached(&mut self, stage: Stage) {
        // An error means that the `Drain` is gone, which insists: see its `Drop`.
        let _ = self.stage.wait_for(|now| *now >= stage).await;
    }
}

/// Keeps a drain waiting. Not `Clone`: each hold counts once in what was cut.
#[derive(Debug)]
pub struct Hold {
    _held: watch::Receiver<()>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_drain_ends_when_the_last_hold_is_dropped() {
        let drain = Drain::new();
        let mut watch = drain.watch();
        let hold = watch.hold();
        let holder = tokio::spawn(async move {
            watch.asked().await;
            drop(hold);
        });
        assert_eq!(drain.drain(LONG).await, 0);
        holder.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_left_at_the_deadline_is_counted_and_told() {
        let drain = Drain::new();
        let mut watch = drain.watch();
        let _holds = (watch.hold(), watch.hold());
        assert_eq!(drain.drain(Duration::from_millis(1)).await, 2);
        watch.insisted().await;
        assert_eq!(watch.stage(), Stage::Insisted);
    }

    #[tokio::test]
    async fn insisting_ends_a_drain_that_waits() {
        let drain = Arc::new(Drain::new());
        let mut watch = drain.watch();
        let hold = watch.hold();
        let draining = tokio::spawn({
            let drain = Arc::clone(&drain);
            async move { drain.drain(LONG).await }
        });
        watch.asked().await;
        drain.insist();
        watch.insisted().await;
        drop(hold);
        assert_eq!(draining.await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_stage_is_never_taken_back() {
        let drain = Drain::new();
        drain.insist();
        drain.ask();
        assert_eq!(drain.watch().stage(), Stage::Insisted);
    }

    #[tokio::test]
    async fn a_drain_that_is_gone_insists() {
        let drain = Drain::new();
        let mut watch = drain.watch();
        drop(drain);
        watch.insisted().await;
    }
}
