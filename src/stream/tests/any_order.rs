//! Both sessions against a log and a table, with a network that delays, repeats
//! and loses: whatever happens on the way, they end at the same place.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use super::log::{Log, moved};
use crate::model::change::RecordKey;
use crate::model::revision::Position;
use crate::routing::live::Live;
use crate::store::Changes;
use crate::stream::client::session::{Action, Session as Client, Work, refusal};
use crate::stream::server::session::{Session as Server, Step};
use crate::stream::server::snapshots::chunks;
use crate::wire::net_change_set;
use crate::wire::request::{Ack, Request, Status};
use crate::wire::response::{Delta, Response, Welcome};

/// What may happen next.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// An environment moves to a deployment.
    Move(u8, u8),
    /// An environment comes to point at nothing that exists.
    Break(u8),
    /// An environment and its pools go.
    Delete(u8),
    /// The server does what it can.
    Send,
    /// The proxy hears one message.
    Hear,
    /// The control plane hears one message.
    Listen,
    /// The proxy's last message arrives once more.
    Repeat,
    /// The stream breaks; everything under way is lost.
    Lose,
    /// Time passes.
    Pass,
    /// The log forgets its past.
    Trim,
    /// The store is restored: another history.
    Restore,
    /// An older copy of the store takes its place, without saying so.
    CopyBack(usize),
    /// The proxy says what it is doing.
    Status,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..3_u8, 0..3_u8).prop_map(|(n, deployment)| Event::Move(n, deployment)),
        1 => (0..3_u8).prop_map(Event::Break),
        1 => (0..3_u8).prop_map(Event::Delete),
        8 => Just(Event::Send),
        8 => Just(Event::Hear),
        8 => Just(Event::Listen),
        1 => Just(Event::Repeat),
        1 => Just(Event::Lose),
        2 => Just(Event::Pass),
        1 => Just(Event::Trim),
        1 => Just(Event::Restore),
        1 => (1..4_usize).prop_map(Event::CopyBack),
        2 => Just(Event::Status),
    ]
}

struct World {
    log: Log,
    lineages: u128,
    live: Arc<Live>,
    stream: Option<Ends>,
    now: Instant,
    /// Deployments each environment has a pool of.
    pools: [Vec<u8>; 3],
}

struct Ends {
    server: Server,
    client: Client,
    down: VecDeque<Response>,
    up: VecDeque<Request>,
    heard: Option<Request>,
}

impl World {
    fn new() -> Self {
        let pools = Default::default();
        let (log, live) = (Log::new(1), Live::new(1));
        Self { log, lineages: 1, live, stream: None, now: Instant::now(), pools }
    }

    fn happen(&mut self, event: Event) {
        let before = self.live.position();
        match event {
            Event::Move(n, deployment) => self.moves(n, deployment),
            Event::Break(n) => drop(self.log.commit(vec![super::log::environment(n, Some(99))], &[])),
            Event::Delete(n) => self.deletes(n),
            Event::Send => self.send(),
            Event::Hear => self.hear(),
            Event::Listen => self.listen(),
            Event::Repeat => self.repeat(),
            Event::Lose => self.stream = None,
            Event::Pass => self.now += Duration::from_secs(70),
            Event::Trim => self.log.trim(),
            Event::Restore => {
                self.lineages += 1;
                self.log.restore(self.lineages);
                // The control plane was restarted for it.
                self.stream = None;
            }
            Event::CopyBack(changes) => {
                self.log.copy_back(changes);
                self.stream = None;
            }
            Event::Status => {
                let applied = self.live.position();
                if let Some(ends) = &mut self.stream {
                    ends.up.push_back(Request::Status(Status { applied, ..Status::default() }));
                }
            }
        }
        self.check(before);
    }

    fn moves(&mut self, n: u8, deployment: u8) {
        self.log.commit(moved(n, deployment), &[]);
        if !self.pools[usize::from(n)].contains(&deployment) {
            self.pools[usize::from(n)].push(deployment);
        }
    }

    fn deletes(&mut self, n: u8) {
        let pools = std::mem::take(&mut self.pools[usize::from(n)]);
        let mut keys: Vec<RecordKey> =
            pools.iter().map(|deployment| RecordKey::Pool(super::log::pool_key(n, *deployment))).collect();
        keys.push(RecordKey::Environment(super::log::environment_id(n)));
        self.log.commit(Vec::new(), &keys);
    }

    /// Opens a stream if there is none, and carries out one step.
    fn send(&mut self) {
        let head = self.log.head();
        let Some(ends) = &mut self.stream else {
            let mut server = Server::new(self.live.position());
            if let Step::Compare(at) = server.next(head, self.now) {
                server.compared(self.log.position(at.revision));
            }
            let welcome = Welcome {
                head,
                mode: server.mode(head),
                heartbeat_interval: Duration::from_secs(1),
                status_interval: Duration::from_secs(1),
                reconnect_spread: Duration::ZERO,
                minor: 1,
                build: "test".into(),
            };
            let down = VecDeque::from([Response::Welcome(welcome)]);
            let client = Client::new(self.now);
            self.stream = Some(Ends { server, client, down, up: VecDeque::new(), heard: None });
            return;
        };
        match ends.server.next(head, self.now) {
            Step::Wait | Step::WaitUntil(_) => ends.down.push_back(Response::Heartbeat(head)),
            Step::Compare(at) => ends.server.compared(self.log.position(at.revision)),
            Step::Delta { from, net } => send_delta(ends, &self.log, from, net),
            Step::Snapshot => {
                let snapshot = self.log.whole();
                ends.server.sends_snapshot(snapshot.position);
                ends.down.extend(chunks(&snapshot, false).map(Response::SnapshotChunk));
            }
        }
    }

    fn hear(&mut self) {
        let Some(ends) = &mut self.stream else { return };
        let Some(response) = ends.down.pop_front() else { return };
        let have = self.live.position();
        let action = ends.client.receive(response, have, self.now).expect("the server keeps to the protocol");
        match action {
            Action::None | Action::Begin(_) | Action::Leave(_) => {}
            Action::Refuse(nack) => ends.up.push_back(Request::Nack(nack)),
            Action::Apply(work) => {
                let revision = work.revision();
                let applied = match work {
                    Work::Snapshot { position, records, .. } => self.live.apply_snapshot(position, records),
                    Work::Delta { from, to, changes } => self.live.apply_delta(from, to, changes),
                };
                ends.up.push_back(match applied {
                    Ok(()) => Request::Ack(Ack { applied: self.live.position(), durable: None }),
                    Err(refused) => {
                        assert_eq!(self.live.position(), have, "invariant 6: refused is untouched");
                        Request::Nack(refusal(have, revision, &refused))
                    }
                });
            }
        }
    }

    fn listen(&mut self) {
        let Some(ends) = &mut self.stream else { return };
        let Some(request) = ends.up.pop_front() else { return };
        ends.heard = Some(request.clone());
        self.take(&request);
    }

    fn repeat(&mut self) {
        let heard = self.stream.as_ref().and_then(|ends| ends.heard.clone());
        if let Some(request) = heard {
            self.take(&request);
        }
    }

    fn take(&mut self, request: &Request) {
        let Some(ends) = &mut self.stream else { return };
        match request {
            Request::Ack(ack) => {
                let applied = ack.applied.unwrap();
                assert!(ends.server.ack(applied, self.now), "nobody corrupts a table here");
                self.count(applied);
            }
            Request::Nack(nack) => ends.server.nack(nack, self.now),
            Request::Status(status) => {
                let Some(applied) = status.applied else { return };
                ends.server.seen(applied);
                self.count(applied);
            }
            _ => {}
        }
    }

    /// What control is told of a position that was said.
    fn count(&self, said: Position) {
        let Some(ends) = &self.stream else { return };
        let Some(counted) = ends.server.recognised(said) else { return };
        assert_eq!(counted, said.revision);
        assert!(self.log.has_been_at(said), "{said:?} counts, and is of another past");
        let serves = self.live.position().expect("it has said so");
        assert!(serves.revision >= counted, "invariant 6: {counted} counts, {serves:?} is served");
    }

    /// What holds after every event.
    fn check(&self, before: Option<Position>) {
        let after = self.live.position();
        if let (Some(before), Some(after)) = (before, after)
            && before.lineage == after.lineage
        {
            assert!(after.revision >= before.revision, "invariant 3: {before:?} -> {after:?}");
        }
    }

    /// Every environment is put right and everything arrives.
    fn settle(&mut self) {
        loop {
            for n in 0..3 {
                self.moves(n, 0);
            }
            // An older copy has to get past what the proxy has applied.
            let (head, serves) = (self.log.head(), self.live.position());
            if serves.is_none_or(|at| at.lineage != head.lineage || at.revision < head.revision) {
                break;
            }
        }
        for _ in 0..200 {
            for event in [Event::Send, Event::Hear, Event::Listen] {
                self.happen(event);
            }
            if self.live.position() == Some(self.log.head()) {
                return;
            }
            self.now += Duration::from_secs(1);
        }
        panic!(
            "{:?} is not {:?}: {:?}",
            self.live.position(),
            self.log.head(),
            self.stream.as_ref().map(|e| &e.server)
        );
    }
}

fn send_delta(ends: &mut Ends, log: &Log, from: Position, net: bool) {
    let Changes::Log(changes) = log.changes(from.revision, if net { usize::MAX } else { 200 }) else {
        return ends.server.out_of_reach();
    };
    let to = changes.last().expect("the head is ahead").position;
    let mut change_sets: Vec<_> = changes.into_iter().map(|change| change.bytes).collect();
    if net {
        change_sets = vec![net_change_set(&change_sets).unwrap()];
    }
    ends.server.sends_delta(from, to);
    ends.down.push_back(Response::Delta(Delta { from, to, change_sets }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn invariant_3_and_6_hold_in_any_order_and_all_ends_are_the_same(events in vec(event(), 0..120)) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
        }
        world.settle();
    }
}
