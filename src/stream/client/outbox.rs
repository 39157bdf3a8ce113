//! What the proxy has to say, latest wins.
//!
//! Cells, not a queue: while the connection cannot take more, a newer ack takes
//! the place of an older one and a status is read only when it is sent. So the
//! reader never waits for the writer, and a lost wake-up or a slow line costs
//! nothing but time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::routing::live::Live;
use crate::stream::client::pace::Pace;
use crate::stream::client::report::Reports;
use crate::wire::request::{Ack, Hello, Nack, Request};

/// The cells of one stream.
pub struct Outbox {
    live: Arc<Live>,
    cells: Mutex<Cells>,
    filled: Notify,
}

struct Cells {
    hello: Option<Hello>,
    /// The rest of a status whose first part is gone.
    parts: VecDeque<Request>,
    nack: Option<Nack>,
    ack: Option<Ack>,
    pace: Pace,
    /// Whether anything was acknowledged on this stream.
    has_acked: bool,
    status: Due,
    goodbye: bool,
    closed: bool,
    reports: Reports,
}

/// Which status is wanted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Due {
    /// None.
    Not,
    /// What is busy, because something became idle.
    Busy,
    /// Also the load, because the interval is over.
    Whole,
}

impl Outbox {
    pub fn new(live: Arc<Live>, hello: Hello) -> Self {
        let cells = Cells {
            hello: Some(hello),
            parts: VecDeque::new(),
            nack: None,
            ack: None,
            pace: Pace::new(Instant::now()),
            has_acked: false,
            status: Due::Not,
            goodbye: false,
            closed: false,
            reports: Reports::default(),
        };
        Self { live, cells: Mutex::new(cells), filled: Notify::new() }
    }

    pub fn ack(&self, ack: Ack) {
        self.fill(|cells| {
            cells.ack = Some(ack);
            cells.has_acked = true;
        });
    }

    /// The same with news from the disk only. Not before the stream has shown
    /// that the table is of its history: the news may be older than that.
    pub fn durable(&self, ack: Ack) {
        self.fill(|cells| {
            if cells.has_acked {
                cells.ack = Some(ack);
            }
        });
    }

    pub fn nack(&self, nack: Nack) {
        self.fill(|cells| cells.nack = Some(nack));
    }

    pub fn status(&self, due: Due) {
        self.fill(|cells| cells.status = cells.status.max(due));
    }

    /// Goodbye, and nothing after it.
    pub fn goodbye(&self) {
        self.fill(|cells| cells.goodbye = true);
    }

    /// The next thing to send, once there is one; `None` after the last.
    pub async fn next(&self) -> Option<Request> {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            match self.ack_due() {
                Some(due) => tokio::select! {
                    biased;
                    () = self.filled.notified() => {}
                    () = sleep_until(due) => {}
                },
                None => self.filled.notified().await,
            }
        }
    }

    /// When what waits to be acknowledged may be.
    fn ack_due(&self) -> Option<Instant> {
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.ack.is_some().then(|| cells.pace.due(Instant::now()))
    }

    /// `None`: nothing yet. `Some(None)`: nothing ever again.
    fn take(&self) -> Option<Option<Request>> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let cells = &mut *cells;
        if cells.closed {
            return Some(None);
        }
        let request = cells
            .parts
            .pop_front()
            .or_else(|| cells.hello.take().map(Request::Hello))
            .or_else(|| cells.nack.take().map(Request::Nack))
            .or_else(|| cells.take_ack(Instant::now()).map(Request::Ack))
            .or_else(|| match std::mem::replace(&mut cells.status, Due::Not) {
                Due::Not => None,
                due => {
                    cells.parts = cells.reports.read(&self.live, due == Due::Whole).into();
                    cells.parts.pop_front()
                }
            });
        if request.is_none() && cells.goodbye {
            cells.closed = true;
            return Some(Some(Request::Goodbye));
        }
        request.map(Some)
    }

    fn fill(&self, fill: impl FnOnce(&mut Cells)) {
        fill(&mut self.cells.lock().unwrap_or_else(PoisonError::into_inner));
        self.filled.notify_one();
    }
}

impl Cells {
    /// The ack, where it is not too early for it; before a goodbye it never is.
    fn take_ack(&mut self, now: Instant) -> Option<Ack> {
        if !self.goodbye && self.pace.due(now) > now {
            return None;
        }
        let ack = self.ack.take()?;
        self.pace.goes(now);
        Some(ack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::revision::{Digest, Position, Revision};
    use uuid::Uuid;

    fn at(revision: u64) -> Option<Position> {
        let lineage = Uuid::from_u128(1).into();
        Some(Position { lineage, revision: Revision(revision), digest: Digest::default() })
    }

    fn outbox() -> Outbox {
        let hello = Hello {
            proxy_id: "a".into(),
            instance_id: Uuid::from_u128(1).into(),
            build: "b".into(),
            minor: 1,
            zone: String::new(),
            position: None,
            keeps_table: false,
            ended: Vec::new(),
        };
        Outbox::new(Live::new(1), hello)
    }

    #[tokio::test]
    async fn the_latest_ack_wins_and_hello_is_first() {
        let outbox = outbox();
        for revision in 1..=5 {
            outbox.ack(Ack { applied: at(revision), durable: None });
        }
        assert!(matches!(outbox.next().await, Some(Request::Hello(_))));
        assert_eq!(outbox.next().await, Some(Request::Ack(Ack { applied: at(5), durable: None })));
        assert_eq!(outbox.take(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn acks_of_a_storm_are_put_together_and_the_last_one_comes() {
        let outbox = outbox();
        assert!(matches!(outbox.next().await, Some(Request::Hello(_))));
        let (begun, mut sent) = (Instant::now(), 0);
        for revision in 1..=1_000 {
            outbox.ack(Ack { applied: at(revision), durable: None });
            while outbox.take().is_some() {
                sent += 1;
            }
            tokio::time::advance(std::time::Duration::from_millis(1)).await;
        }
        assert!((100..200).contains(&sent), "{sent} in {:?}", begun.elapsed());
        outbox.ack(Ack { applied: at(1_001), durable: None });
        assert_eq!(outbox.next().await, Some(Request::Ack(Ack { applied: at(1_001), durable: None })));
        for revision in 1_002..2_000 {
            outbox.ack(Ack { applied: at(revision), durable: None });
            outbox.take();
        }
        outbox.goodbye();
        assert_eq!(outbox.next().await, Some(Request::Ack(Ack { applied: at(1_999), durable: None })));
        assert_eq!(outbox.next().await, Some(Request::Goodbye));
    }

    #[tokio::test]
    async fn goodbye_is_last() {
        let outbox = outbox();
        outbox.goodbye();
        outbox.status(Due::Whole);
        assert!(matches!(outbox.next().await, Some(Request::Hello(_))));
        assert!(matches!(outbox.next().await, Some(Request::Status(_))));
        assert_eq!(outbox.next().await, Some(Request::Goodbye));
        outbox.status(Due::Whole);
        assert_eq!(outbox.next().await, None);
    }
}
