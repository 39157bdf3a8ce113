//! The pace of a round with a rate: requests fall due evenly, whatever the answers do.
//!
//! A latency counts from when its request was due, so a proxy that stalls is charged for every request that it kept
//! from being sent. The clock is the kernel's: the runtime's own timers are a millisecond wide, which would send what
//! is due in one as one burst and measure that.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

pub struct Pace {
    every: Duration,
    due: RefCell<VecDeque<Instant>>,
    /// Rings once for each request that falls due, for whoever has waited longest.
    bell: Notify,
    is_over: Cell<bool>,
    /// Connections that are not open yet: nothing is due before all are.
    missing: Cell<usize>,
    opened: Notify,
}

impl Pace {
    /// For so many connections.
    pub fn new(every: Duration, connections: usize) -> Self {
        Self {
            every,
            due: RefCell::default(),
            bell: Notify::new(),
            is_over: Cell::new(false),
            missing: Cell::new(connections),
            opened: Notify::new(),
        }
    }

    /// A connection is open.
    pub fn open(&self) {
        self.missing.set(self.missing.get().saturating_sub(1));
        self.opened.notify_one();
    }

    /// When the next request was due; none after the end.
    pub async fn next(&self) -> Option<Instant> {
        loop {
            let due = self.due.borrow_mut().pop_front();
            if due.is_some() || self.is_over.get() {
                return due;
            }
            self.bell.notified().await;
        }
    }

    /// Lets requests fall due until then.
    pub async fn keep(&self, until: Instant) -> io::Result<()> {
        let all_open = async {
            while self.missing.get() > 0 {
                self.opened.notified().await;
            }
        };
        // Those that cannot be opened are errors already.
        let _ = tokio::time::timeout_at(until.into(), all_open).await;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let every = Timespec { tv_sec: 0, tv_nsec: i64::from(self.every.subsec_nanos()) };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: every, it_value: every })?;
        let timer = watched(timer)?;
        let mut next = Instant::now() + self.every;
        while next < until {
            let mut ready = timer.readable().await?;
            let mut passed = [0; 8];
            match rustix::io::read(timer.get_ref(), &mut passed) {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    ready.clear_ready();
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            ready.clear_ready();
            for _ in 0..u64::from_ne_bytes(passed) {
                self.due.borrow_mut().push_back(next);
                self.bell.notify_one();
                next += self.every;
            }
        }
        self.is_over.set(true);
        self.bell.notify_waiters();
        Ok(())
    }
}

#[expect(unsafe_code, reason = "the runtime cannot see by itself that a descriptor stays what it is")]
fn watched(timer: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is the owned one's until that is dropped, and is dropped with what is made here.
    unsafe { AsyncFd::register(timer) }.map_err(io::Error::from)
}
