//! Coarse alarms: what finds connections that have been silent for too long.
//!
//! Setting an alarm writes one cell; one sweep per core and tick rings those
//! that are due. A timer of the runtime per request would cost every request a
//! few percent to end connections a fraction of a second more precisely. The
//! same registry tells client connections that they are to come to an end, and
//! how many there are. Knows nothing of what a connection is.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How often a core looks at its alarms. An alarm never rings early, and at most
/// two ticks late.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// The alarms of one core.
pub(super) struct Alarms {
    /// As of the last sweep.
    now: Cell<Instant>,
    slots: RefCell<Slots>,
    empty: Notify,
}

#[derive(Default)]
struct Slots {
    set: Vec<Option<Rc<State>>>,
    free: Vec<usize>,
}

#[derive(Default)]
struct State {
    due: Cell<Option<Instant>>,
    rung: Cell<bool>,
    asked: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Alarms {
    /// None set yet.
    pub(super) fn new(now: Instant) -> Rc<Self> {
        Rc::new(Self { now: Cell::new(now), slots: RefCell::default(), empty: Notify::new() })
    }

    /// A new alarm, off.
    pub(super) fn add(self: &Rc<Self>) -> Alarm {
        let state = Rc::new(State::default());
        let mut slots = self.slots.borrow_mut();
        let slot = slots.free.pop().unwrap_or(slots.set.len());
        if slot == slots.set.len() {
            slots.set.push(None);
        }
        slots.set[slot] = Some(Rc::clone(&state));
        Alarm { alarms: Rc::clone(self), slot, state }
    }

    /// Rings what is due.
    pub(super) fn sweep(&self, now: Instant) {
        self.now.set(now);
        for state in self.slots.borrow().set.iter().flatten() {
            if state.due.get().is_some_and(|due| due <= now) {
                state.ring();
            }
        }
    }

    /// Asks every holder of an alarm to come to an end.
    pub(super) fn ask(&self) {
        for state in self.slots.borrow().set.iter().flatten() {
            state.asked.set(true);
            state.wake();
        }
    }

    /// How many alarms there are.
    pub(super) fn count(&self) -> usize {
        let slots = self.slots.borrow();
        slots.set.len() - slots.free.len()
    }

    /// Resolves when there are none.
    pub(super) async fn none(&self) {
        while self.count() > 0 {
            self.empty.notified().await;
        }
    }
}

/// One alarm; dropped with what it watches over.
pub(super) struct Alarm {
    alarms: Rc<Alarms>,
    slot: usize,
    state: Rc<State>,
}

impl Alarm {
    /// Rings unless it is set anew within `limit`.
    pub(super) fn within(&self, limit: Duration) {
        // The sweep's time is up to a tick old: one more keeps it from ringing early.
        self.state.due.set(self.alarms.now.get().checked_add(limit.saturating_add(TICK)));
    }

    /// Does not ring.
    pub(super) fn off(&self) {
        self.state.due.set(None);
    }

    /// Whether it is going to ring.
    pub(super) fn is_on(&self) -> bool {
        self.state.due.get().is_some()
    }

    /// Whether it has rung.
    pub(super) fn has_rung(&self) -> bool {
        self.state.rung.get()
    }

    /// Whether its holder was asked to come to an end.
    pub(super) fn is_asked(&self) -> bool {
        self.state.asked.get()
    }

    /// Resolves when it has rung; also wakes when its holder is asked to end.
    pub(super) fn poll_rung(&self, cx: &Context<'_>) -> Poll<()> {
        if self.has_rung() {
            return Poll::Ready(());
        }
        let mut waker = self.state.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut slots = self.alarms.slots.borrow_mut();
        slots.set[self.slot] = None;
        slots.free.push(self.slot);
        if slots.free.len() == slots.set.len() {
            self.alarms.empty.notify_one();
        }
    }
}

impl State {
    fn ring(&self) {
        self.due.set(None);
        self.rung.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn an_alarm_rings_after_its_limit_and_never_before() {
        let start = Instant::now();
        let alarms = Alarms::new(start);
        let alarm = alarms.add();
        alarm.within(LIMIT);
        // Set just before the next sweep, a tick after the time it was set at.
        alarms.sweep(start + LIMIT);
        assert!(!alarm.has_rung());
        alarms.sweep(start + LIMIT + TICK);
        assert!(alarm.has_rung());
    }

    #[test]
    fn an_alarm_that_is_set_anew_or_off_does_not_ring() {
        let start = Instant::now();
        let alarms = Alarms::new(start);
        let (anew, off) = (alarms.add(), alarms.add());
        anew.within(LIMIT);
        off.within(LIMIT);
        alarms.sweep(start + LIMIT);
        anew.within(LIMIT);
        off.off();
        alarms.sweep(start + LIMIT + TICK);
        assert!(!anew.has_rung() && !off.has_rung());
    }

    #[test]
    fn a_limit_beyond_time_never_rings() {
        let alarms = Alarms::new(Instant::now());
        let alarm = alarms.add();
        alarm.within(Duration::from_secs(u64::MAX - 1));
        alarms.sweep(Instant::now() + LIMIT);
        assert!(!alarm.has_rung());
    }

    #[tokio::test]
    async fn alarms_are_counted_and_their_end_is_awaited() {
        let alarms = Alarms::new(Instant::now());
        let (first, second) = (alarms.add(), alarms.add());
        drop(first);
        assert_eq!(alarms.count(), 1);
        alarms.ask();
        assert!(second.is_asked());
        let third = alarms.add();
        assert!(!third.is_asked());
        drop((second, third));
        alarms.none().await;
    }
}
