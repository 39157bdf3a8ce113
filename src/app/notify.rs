//! What an init system is told that wants to be told (`sd_notify(3)`): ready,
//! stopping, still alive.
//!
//! Without `NOTIFY_SOCKET` in the environment all of it does nothing. A message
//! that cannot be sent is no reason to serve anybody less.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

/// Requests are served; `status` is for people.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Nothing new is taken any more.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("finishing what runs")]);
}

/// A successor prepares. Ends with [`ready`] or [`succeeded_by`].
pub(super) fn reloading() {
    let Ok(now) = NotifyState::monotonic_usec_now() else { return };
    tell(&[NotifyState::Reloading, now, NotifyState::Status("a successor prepares")]);
}

/// The main process is another one now, which speaks for itself. Nothing that
/// is said here counts any more, so nothing is.
pub(super) fn succeeded_by(pid: Option<u32>) {
    if let Some(pid) = pid {
        tell(&[NotifyState::MainPid(pid), NotifyState::Ready]);
    }
    IS_SUCCEEDED.store(true, Ordering::Relaxed);
}

static IS_SUCCEEDED: AtomicBool = AtomicBool::new(false);

/// What is going on, for people.
pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Says that the control runtime is alive, as often as the init system wants to
/// hear it. Request threads are not asked: nothing here waits for them.
pub(super) fn keep_watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    // Half of the limit, as sd_watchdog_enabled(3) has it: one may come late.
    let mut ticks = interval((limit / 2).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::spawn(async move {
        loop {
            ticks.tick().await;
            tell(&[NotifyState::Watchdog]);
        }
    });
}

fn tell(what: &[NotifyState<'_>]) {
    if IS_SUCCEEDED.load(Ordering::Relaxed) {
        return;
    }
    if let Err(error) = sd_notify::notify(what) {
        warn!(%error, "the init system is not told how this server is");
    }
}
