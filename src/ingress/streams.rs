//! HTTP/2 requests as tasks, each on the thread of its connection and with an
//! alarm that ends it.
//!
//! A client that leaves a stream's window shut keeps hyper from asking for more of
//! the answer, so that nobody would notice. Who makes the body takes the alarm of
//! the task it is made on; when it rings, the task is dropped, with it the claim
//! and the connection to the replica, and the stream is reset. Knows nothing of
//! what an answer is.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use hyper::rt::Executor;

use crate::ingress::alarm::{Alarm, Alarms};

/// The requests of one core.
#[derive(Clone)]
pub(super) struct Streams {
    alarms: Rc<Alarms>,
    current: Rc<RefCell<Option<Rc<Alarm>>>>,
}

impl Streams {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { alarms: Alarms::new(Instant::now()), current: Rc::default() }
    }

    /// The alarm of the request that is being worked on. `None`: it came over HTTP/1.
    pub(super) fn current(&self) -> Option<Rc<Alarm>> {
        self.current.borrow().clone()
    }

    /// Ends those that are due.
    pub(super) fn sweep(&self, now: Instant) {
        self.alarms.sweep(now);
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        let (alarm, current) = (Rc::new(self.alarms.add()), Rc::clone(&self.current));
        tokio::task::spawn_local(async move {
            let mut future = pin!(future);
            poll_fn(|cx| {
                if alarm.poll_rung(cx).is_ready() {
                    return Poll::Ready(());
                }
                current.replace(Some(Rc::clone(&alarm)));
                let polled = future.as_mut().poll(cx).map(drop);
                current.replace(None);
                polled
            })
            .await;
        });
    }
}
