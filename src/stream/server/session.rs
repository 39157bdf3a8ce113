//! What to send to one proxy next: a cursor into the log, and at most one frame
//! that is not acknowledged yet.
//!
//! Pure: the head and `now` are arguments, reads and sends are the caller's.
//! `stream` carries the steps out.

use std::time::{Duration, Instant};

use crate::model::revision::{Position, Revision};
use crate::wire::proto::NackReason;
use crate::wire::request::Nack;
use crate::wire::response::SyncMode;

/// The server's side of one stream.
#[derive(Debug)]
pub struct Session {
    state: State,
    /// Since this position the proxy's table is known to be of this history.
    trusted: Option<Position>,
    /// Where its table stands, as it said last.
    stands: Option<Position>,
    /// The furthest position it has been sent.
    sent: Option<Position>,
    refusals: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The proxy says that it stands here; the log has not been asked.
    Claimed(Position),
    /// Nothing it has can be built upon.
    Bare,
    /// It stands here.
    Idle(Position),
    /// A frame between these is on its way.
    Awaiting { from: Option<Position>, to: Position },
    /// It refused a frame.
    Held(Hold),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Hold {
    /// Where it stays; `None`: nothing it has can be built upon.
    stuck: Option<Position>,
    /// Nothing is sent before the head is past this: the same would be refused again.
    past: Option<Revision>,
    /// Nothing is sent before this.
    until: Instant,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing until something is said or the head moves.
    Wait,
    /// Nothing until then either.
    WaitUntil(Instant),
    /// Ask the log where it stood at this position's revision.
    Compare(Position),
    /// Send what follows this position; `net`: as one change, each record once.
    Delta {
        /// Where the proxy stands.
        from: Position,
        /// Whether replaced values are left out.
        net: bool,
    },
    /// Send everything.
    Snapshot,
}

/// First pause after a refusal; doubled by each further one.
const HOLD_MIN: Duration = Duration::from_secs(1);
/// 60 s: a proxy that refuses for hours costs one frame a minute.
const HOLD_MAX: Duration = Duration::from_secs(60);

impl Session {
    /// A proxy says where it stands.
    pub fn new(claimed: Option<Position>) -> Self {
        let state = claimed.map_or(State::Bare, State::Claimed);
        Self { state, trusted: None, stands: claimed, sent: None, refusals: 0 }
    }

    /// What to do next.
    pub fn next(&self, head: Position, now: Instant) -> Step {
        match self.state {
            State::Claimed(at) if at.lineage != head.lineage => Step::Snapshot,
            // Rule 10: older state is never sent as newer.
            State::Claimed(_) if self.is_ahead(head) => Step::Wait,
            State::Claimed(at) => Step::Compare(at),
            State::Bare => Step::Snapshot,
            State::Idle(at) if at.revision < head.revision => Step::Delta { from: at, net: false },
            State::Idle(_) | State::Awaiting { .. } => Step::Wait,
            State::Held(hold) if now < hold.until => Step::WaitUntil(hold.until),
            State::Held(hold) if hold.past.is_some_and(|past| head.revision <= past) => Step::Wait,
            State::Held(Hold { stuck: Some(from), .. }) => Step::Delta { from, net: true },
            State::Held(Hold { stuck: None, .. }) => Step::Snapshot,
        }
    }

    /// How the stream begins, as far as the log has been asked.
    pub fn mode(&self, head: Position) -> SyncMode {
        match self.state {
            State::Idle(_) => SyncMode::Resume,
            State::Claimed(_) if self.is_ahead(head) => SyncMode::Resume,
            _ => SyncMode::Snapshot,
        }
    }

    /// Whether the proxy stands where this log has not been yet.
    pub fn is_ahead(&self, head: Position) -> bool {
        matches!(self.state, State::Claimed(at) if at.lineage == head.lineage && at.revision > head.revision)
    }

    /// Where the log stood at the revision that was asked for.
    pub fn compared(&mut self, logged: Option<Position>) {
        if let State::Claimed(at) = self.state {
            let known = logged == Some(at);
            self.state = if known { State::Idle(at) } else { State::Bare };
            self.trusted = known.then_some(at);
            self.sent = self.trusted;
        }
    }

    /// The log does not reach back to where the proxy stands.
    pub fn out_of_reach(&mut self) {
        self.state = State::Bare;
    }

    /// Whether a snapshot may lack much of what the proxy has, because somebody
    /// allowed the change at `allowed_at` to: of that change the proxy does not know.
    pub fn is_stamped_for(&self, snapshot: Position, allowed_at: Revision) -> bool {
        let knows = |at: Position| at.lineage == snapshot.lineage && at.revision >= allowed_at;
        allowed_at > Revision(0) && !self.stands.is_some_and(knows)
    }

    /// A delta is about to be sent. Said before it is, because the answer may
    /// come at once.
    pub fn sends_delta(&mut self, from: Position, to: Position) {
        self.state = State::Awaiting { from: Some(from), to };
        self.sent = Some(to);
    }

    /// A snapshot is about to be sent.
    pub fn sends_snapshot(&mut self, to: Position) {
        self.state = State::Awaiting { from: None, to };
        self.sent = Some(to);
        self.trusted = self.trusted.or(Some(to));
    }

    /// The proxy has published this. Answers whether it is what was sent; if it
    /// is not, everything is sent again.
    pub fn ack(&mut self, applied: Position, now: Instant) -> bool {
        match self.state {
            State::Awaiting { to, .. } if applied != to && applied.revision == to.revision => {
                self.distrust(now);
                return false;
            }
            // Any other revision: an older ack, overtaken by the frame.
            _ => self.seen(applied),
        }
        true
    }

    /// A status names what is published, too: an ack that was lost costs nothing.
    pub fn seen(&mut self, applied: Position) {
        let arrived = match self.state {
            State::Awaiting { to, .. } => to == applied,
            // A refusal of what it had before crossed the frame that heals it.
            State::Held(_) => self.sent == Some(applied),
            State::Claimed(_) | State::Bare | State::Idle(_) => false,
        };
        if arrived {
            self.state = State::Idle(applied);
            self.stands = Some(applied);
            self.trusted = self.trusted.or(Some(applied));
            self.refusals = 0;
        }
    }

    /// The proxy has refused something, and stays where it was.
    pub fn nack(&mut self, nack: &Nack, now: Instant) {
        let whole = match nack.reason {
            NackReason::WrongLineage | NackReason::Gap | NackReason::DigestMismatch => true,
            NackReason::Unspecified
            | NackReason::Invalid
            | NackReason::Unsupported
            | NackReason::TooLarge
            | NackReason::MassChange => false,
        };
        match self.state {
            // 0: a message it could not even read.
            State::Awaiting { from, to } if nack.refused == to.revision || nack.refused == Revision(0) => {
                let stuck = from.filter(|from| !whole && nack.stuck == Some(*from));
                if nack.reason == NackReason::DigestMismatch {
                    self.trusted = None;
                }
                let past = (!whole).then_some(to.revision);
                self.hold(stuck, past, now);
            }
            // It found out by itself, from a heartbeat.
            _ if nack.reason == NackReason::DigestMismatch => self.distrust(now),
            _ => {}
        }
    }

    /// The revision a position of the proxy stands for in this history, if it
    /// is known to be of it: what fleet may count.
    pub fn recognised(&self, position: Position) -> Option<Revision> {
        let (trusted, sent) = (self.trusted?, self.sent?);
        let since = position.revision > trusted.revision || position == trusted;
        let of_this_history = position.lineage == trusted.lineage && since && position.revision <= sent.revision;
        of_this_history.then_some(position.revision)
    }

    /// A proxy that diverged says so with every heartbeat, until a snapshot has
    /// healed it: only the first time begins a pause.
    fn distrust(&mut self, now: Instant) {
        self.trusted = None;
        if !matches!(self.state, State::Held(Hold { stuck: None, past: None, .. })) {
            self.hold(None, None, now);
        }
    }

    fn hold(&mut self, stuck: Option<Position>, past: Option<Revision>, now: Instant) {
        let pause = HOLD_MIN.saturating_mul(1 << self.refusals.min(6)).min(HOLD_MAX);
        self.refusals += 1;
        self.state = State::Held(Hold { stuck, past, until: now + pause });
    }
}

#[cfg(test)]
mod tests;
