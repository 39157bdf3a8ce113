//! The thread that waits for the disk, and what it does when that fails.
//!
//! Owns the [`Writer`] and the pace of trying again. Says a failure once per
//! reason: a disk that is full for a day is one line, and one more when it is
//! over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{error, info};

use crate::model::revision::Position;
use crate::stream::last_known_good::Config;
use crate::stream::last_known_good::disk::Disk;
use crate::stream::last_known_good::metrics::DiskMetrics;
use crate::stream::last_known_good::now;
use crate::stream::last_known_good::queue::{Pause, Shared, delta_bytes};
use crate::stream::last_known_good::writer::{Failure, Item, Writer};

/// What runs on the thread.
pub struct Worker<D> {
    writer: Writer<D>,
    shared: Arc<Shared>,
    config: Config,
    durable: watch::Sender<Option<Position>>,
    metrics: DiskMetrics,
    /// Taken from the queue and not on disk yet.
    waiting: VecDeque<Item>,
    is_settled: bool,
    is_closed: bool,
    /// The disk does not take what waits.
    writing: Trouble,
    /// It takes no checkpoint; the journal only grows longer.
    compacting: Trouble,
    /// A whole table was asked for.
    asking: Trouble,
}

/// A run of failures.
#[derive(Default)]
struct Trouble {
    count: u32,
    said: Option<String>,
    /// Nothing is tried before this.
    until: Option<Instant>,
}

/// First pause after a failure: a hiccup is over by then.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Longest pause: a disk that has room again is noticed before the operator looks.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A large table takes a while to arrive, and asking again would begin anew.
const ASK_PAUSE_MIN: Duration = Duration::from_secs(60);
const ASK_PAUSE_MAX: Duration = Duration::from_secs(600);

impl<D: Disk> Worker<D> {
    /// Will write what comes into `shared`, and say on `durable` how far that is.
    pub fn new(
        writer: Writer<D>,
        shared: Arc<Shared>,
        config: Config,
        durable: watch::Sender<Option<Position>>,
        metrics: DiskMetrics,
    ) -> Self {
        Self {
            writer,
            shared,
            config,
            durable,
            metrics,
            waiting: VecDeque::new(),
            is_settled: false,
            is_closed: false,
            writing: Trouble::default(),
            compacting: Trouble::default(),
            asking: Trouble::default(),
        }
    }

    /// Works until the queue is closed. What is left then is tried once more.
    pub fn run(mut self) {
        while self.turn() {}
    }

    /// Waits for something to do and does it; answers whether that was not the last.
    pub fn turn(&mut self) -> bool {
        if self.is_closed || self.may_rest() && !self.shared.rest() {
            return false;
        }
        self.take();
        if let Err(failure) = self.step() {
            self.failed(&failure);
        }
        self.metrics.journal_bytes.set(i64::try_from(self.writer.journal_bytes()).unwrap_or(i64::MAX));
        !self.is_closed
    }

    /// Whether a turn would not wait, for a simulation that has no thread to spare.
    #[cfg(test)]
    pub fn is_due(&self) -> bool {
        let queue = self.shared.queue();
        let pausing = !self.writing.is_over();
        let again = !self.is_settled || !self.waiting.is_empty();
        let asks = self.asking.is_over() && queue.is_lost && !queue.wants_snapshot;
        queue.is_closed || !pausing && (again || !queue.items.is_empty() || asks)
    }

    /// Whether a pause has begun, or one that is asked for may begin: there is
    /// nothing to write any more, or no getting it written.
    fn may_rest(&self) -> bool {
        let queue = self.shared.queue();
        let is_done = self.is_settled && self.waiting.is_empty() && queue.items.is_empty();
        match queue.pause {
            Pause::Over => false,
            Pause::Asked => is_done || self.writing.until.is_some(),
            Pause::Begun => true,
        }
    }

    /// Waits for something to do, and takes it from the queue.
    fn take(&mut self) {
        if let Some(until) = self.writing.until {
            // Nothing that comes makes a full disk less full.
            drop(self.shared.wait(Some(until), |_| false));
        }
        let again = !self.is_settled || !self.waiting.is_empty();
        let may_ask = self.asking.is_over();
        let pauses = [&self.asking, &self.compacting].into_iter().filter(|trouble| !trouble.is_over());
        let until = pauses.filter_map(|trouble| trouble.until).min();
        let mut queue = self.shared.wait(until, |queue| {
            again || !queue.items.is_empty() || (may_ask && queue.is_lost && !queue.wants_snapshot)
        });
        if queue.is_lost {
            self.waiting.clear();
        }
        self.waiting.append(&mut queue.items);
        self.is_closed = queue.is_closed;
    }

    fn step(&mut self) -> Result<(), Failure> {
        if !self.is_settled {
            self.writer.settle()?;
            self.is_settled = true;
            self.say();
        }
        if self.shared.queue().is_lost {
            return self.ask();
        }
        #[cfg(test)]
        if crate::stream::tests::sabotage::is_durable_first(&self.waiting, &self.durable) {
            return Ok(());
        }
        self.writer.write(&mut self.waiting)?;
        self.written();
        if self.writer.journal_bytes() >= self.config.checkpoint_bytes && self.compacting.is_over() && !self.is_closed {
            self.compact()?;
        }
        Ok(())
    }

    /// Everything that was taken is on disk.
    fn written(&mut self) {
        {
            let mut queue = self.shared.queue();
            queue.delta_bytes = queue.items.iter().map(delta_bytes).sum();
        }
        self.say();
        self.metrics.failing.set(0);
        self.asking = Trouble::default();
        if std::mem::take(&mut self.writing).said.is_some() {
            info!("the table is kept on disk again");
        }
    }

    fn compact(&mut self) -> Result<(), Failure> {
        match self.writer.compact(&[]) {
            Ok(()) => {
                self.metrics.checkpoints.inc();
                self.compacting = Trouble::default();
                Ok(())
            }
            Err(Failure::Disk(failure)) => {
                self.metrics.failures.inc();
                if self.compacting.add(&failure.to_string()) {
                    error!(reason = %failure, "no new checkpoint can be written: the journal grows until it can");
                }
                Ok(())
            }
            Err(lost @ Failure::Lost(_)) => Err(lost),
        }
    }

    /// Asks for a whole table, if the disk would take one.
    fn ask(&mut self) -> Result<(), Failure> {
        if self.asking.is_over() {
            self.writer.probe()?;
            self.asking.pause(ASK_PAUSE_MIN, ASK_PAUSE_MAX);
            self.shared.queue().wants_snapshot = true;
            self.durable.send_modify(|_| {});
        }
        Ok(())
    }

    fn failed(&mut self, failure: &Failure) {
        self.metrics.failures.inc();
        self.metrics.failing.set(1);
        if matches!(failure, Failure::Lost(_)) {
            self.shared.queue().lose();
            self.waiting.clear();
            self.is_settled = true;
        }
        let is_news = self.writing.add(&failure.to_string());
        if is_news {
            error!(
                reason = %failure, revision_on_disk = self.writer.position().map_or(0, |at| at.revision.0),
                "changes are applied and not kept: a restart would begin with an older table"
            );
        }
    }

    /// Says how far the disk is.
    fn say(&self) {
        let now = self.writer.position();
        let moved = self.durable.send_if_modified(|durable| {
            // Invariant 3: within a lineage it never goes back.
            let goes_back = matches!((&*durable, now), (Some(old), Some(new))
                if old.lineage == new.lineage && new.revision < old.revision);
            !goes_back && std::mem::replace(durable, now) != now
        });
        if moved {
            let revision = now.map_or(0, |at| at.revision.0);
            self.metrics.durable_revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
        }
    }
}

impl Trouble {
    /// One more; answers whether its reason is news.
    fn add(&mut self, reason: &str) -> bool {
        self.pause(PAUSE_MIN, PAUSE_MAX);
        let is_news = self.said.as_deref() != Some(reason);
        self.said = Some(reason.to_owned());
        is_news
    }

    fn pause(&mut self, least: Duration, most: Duration) {
        let pause = least.saturating_mul(1 << self.count.min(16)).min(most);
        self.count = self.count.saturating_add(1);
        self.until = Some(now() + pause);
    }

    fn is_over(&self) -> bool {
        self.until.is_none_or(|until| until <= now())
    }
}
