//! One core without sockets: the steps of a request one at a time, and whole
//! requests between a client and a replica that are memory.
//!
//! For who measures: `benches/request`. Does nothing a request's own way, but
//! calls what it goes through; knows nothing of clocks or counting. No request of
//! a running ingress comes by here.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Version};

use crate::ingress::Error;
use crate::ingress::added::{Origin, Ours};
use crate::ingress::config::Config;
use crate::ingress::core::{Core, Shared};
use crate::ingress::downstream::http1::request::{Parsed, Request as Lined, Rules, parse};
use crate::ingress::downstream::io::Stream;
use crate::ingress::downstream::serve::http1;
use crate::ingress::downstream::{Connection, Peer};
use crate::ingress::headers;
use crate::ingress::identify::identify;
use crate::ingress::limits::Limit;
use crate::ingress::memory::Memory;
use crate::ingress::metrics::{self, Counters};
use crate::ingress::outbound::Outbound;
use crate::ingress::request_body::RequestBody;
use crate::ingress::upstream::http1::outgoing::Outgoing;
use crate::ingress::upstream::queue::Queues;
use crate::replica_tls::ReplicaTls;
use crate::routing::live::{Claimed, Live};

/// One core, with one client connection.
pub struct Steps {
    core: Rc<Core>,
    connection: Rc<Connection>,
}

/// Client connections that are open at once: the one of single steps, and one that is
/// served.
const CONNECTIONS: usize = 2;

/// A request of HTTP/1.1 whose head was read.
pub struct Head(Box<Lined>);

impl Steps {
    /// The first core of those `live` was made for. Of the settings, those count that
    /// are about requests: nothing is listened on, logged or exported.
    ///
    /// # Errors
    ///
    /// When there is no telling whom to trust as a replica.
    pub fn new(config: Config, live: Arc<Live>) -> Result<Self, Error> {
        let counters: Vec<_> = (0..config.cores()).map(|_| Arc::<Counters>::default()).collect();
        let first = Arc::clone(&counters[0]);
        let shared = Arc::new(Shared {
            live,
            certificates: None,
            connections: Limit::new(config.connections_max.max(CONNECTIONS)),
            streams: Limit::new(config.streams_max),
            queues: Queues::default(),
            replica_tls: ReplicaTls::new(&config.replica_ca)?,
            counters,
            access_log: None,
            watched: None,
            spans: None,
            is_succeeded: Arc::default(),
            config,
        });
        let core = Core::new(0, &shared, &first);
        let connection = connect(&core);
        Ok(Self { core, connection })
    }

    /// Reads a head, with what `identify` and `headers` do beside: what it asks for is
    /// found, and what must not travel on is left out. `None`: it is not a usual one.
    pub fn read(&self, bytes: &mut Bytes) -> Option<Head> {
        match parse(bytes, &Rules { config: self.core.config(), is_trusted: false }) {
            Parsed::Request(request, _) => Some(Head(request)),
            Parsed::Part | Parsed::Unusual => None,
        }
    }

    /// Resolves, takes the claim, and looks at the limits. `None`: it is not to run.
    pub fn claim(&self, head: &Head) -> Option<Claimed> {
        let claimed = self.core.claim(&head.0.asked.address()).ok()?;
        self.core.admit(&claimed).ok()?;
        Some(claimed)
    }

    /// Writes the head as the replica gets it, with what we say of the request.
    /// Answers how long it is.
    pub fn write(&self, head: Head, claimed: &Claimed) -> usize {
        let Lined { asked, said, lines, .. } = *head.0;
        let added = said.added(&asked, &self.connection, Version::HTTP_11, None);
        let ours = Ours::new(&added, Origin::of(claimed));
        let body = RequestBody::empty();
        let written = Outgoing::request(&Outbound::Lines(lines), ours, &body, self.core.buffers.take()).into_buffer();
        let length = written.len();
        self.core.buffers.give(written);
        length
    }

    /// Makes a request that hyper has read fit for any replica: identify, header
    /// hygiene, and what we say of it. Answers how many fields of it are left.
    pub fn prepare(&self, request: Request<()>) -> Option<usize> {
        let (asked, found) = identify(&request, self.core.config()).ok()?;
        let received = request.version();
        let (parts, said) = headers::prepare(request.into_parts().0, &asked, &found, false);
        let _added = said.added(&asked, &self.connection, received, None);
        Some(parts.headers.len())
    }

    /// Keeps a connection to every endpoint of the pool that was claimed, on which
    /// each request is answered with these bytes.
    pub fn answer(&self, claimed: &Claimed, answer: &Bytes) {
        for endpoint in claimed.pool.endpoints.iter() {
            self.core.upstream.keep_in_memory(endpoint, Memory::answering(answer.clone()));
        }
    }

    /// Serves a client connection on which the same request comes so many times,
    /// from its first byte to its last. Answers how many were answered with 2xx.
    pub fn serve(&self, request: &Bytes, times: u64) -> u64 {
        let class = &self.core.counters.requests[metrics::class(Some(200))];
        let before = class.value();
        let stream = Stream::Memory(Box::new(Memory::asking(request.clone(), times)));
        // Neither side ever lets it wait.
        let ended = http1(&self.core, &connect(&self.core), stream, Bytes::new()).now_or_never();
        if ended.is_some() { class.value() - before } else { 0 }
    }
}

fn connect(core: &Rc<Core>) -> Rc<Connection> {
    let address = std::net::Ipv4Addr::LOCALHOST.into();
    let permit = core.limits.connections.take().expect("as many are allowed as are open at once");
    Connection::new(Peer::new(address, core), core, permit)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::change::{
        EndpointRecord, EnvironmentRecord, PoolRecord, PoolRecordState, Record, SettingsRecord,
    };
    use crate::model::deployment::HostHeader;
    use crate::model::manifest::Protocol;
    use crate::model::name::DeploymentRef;
    use crate::model::policy::Policy;
    use crate::model::pool::PoolKey;
    use crate::model::revision::{Digest, Position, Revision};

    const HEAD: &[u8] = b"GET /a HTTP/1.1\r\nhost: shop.test\r\nx-forwarded-for: 192.0.2.9\r\naccept: */*\r\n\r\n";
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

    /// One environment, `shop.test`, with one pool.
    fn steps() -> Steps {
        let config = Config { threads: std::num::NonZeroUsize::new(1), ..Config::default() };
        let live = Live::new(config.cores());
        let [environment, deployment, endpoint, lineage] = [1, 2, 3, 4].map(Uuid::from_u128);
        let key = PoolKey { environment: environment.into(), deployment: deployment.into() };
        let endpoint = EndpointRecord {
            id: endpoint.into(),
            address: "192.0.2.1:9000".parse().unwrap(),
            authority: None,
            secure: false,
            draining: false,
        };
        let records = [
            Record::Settings(SettingsRecord { base_domain: "test".parse().unwrap(), shared_hosts: Vec::new() }),
            Record::Environment(EnvironmentRecord {
                id: key.environment,
                project: "shop".parse().unwrap(),
                name: "production".parse().unwrap(),
                hosts: vec!["shop.test".parse().unwrap()],
                pointer: Some(key.deployment),
                policy: Policy::default(),
            }),
            Record::Pool(PoolRecord {
                key,
                reference: DeploymentRef::from_bytes(*b"abcdefgh"),
                state: PoolRecordState::Open,
                protocol: Protocol::Http1,
                host: HostHeader::Client,
                retry_on_reused_close: false,
                endpoints: vec![endpoint],
            }),
        ];
        let digest = Digest(0).with(Digest(1)).with(Digest(2)).with(Digest(3));
        let position = Position { lineage: lineage.into(), revision: Revision(1), digest };
        let digests = (1..).map(Digest);
        live.apply_snapshot(position, records.into_iter().zip(digests).collect()).unwrap();
        Steps::new(config, live).unwrap()
    }

    #[test]
    fn whole_requests_go_from_memory_to_memory() {
        let steps = steps();
        let claimed = steps.claim(&steps.read(&mut Bytes::from_static(HEAD)).unwrap()).unwrap();
        steps.answer(&claimed, &Bytes::from_static(ANSWER));
        drop(claimed);

        assert_eq!(steps.serve(&Bytes::from_static(HEAD), 3), 3);

        let counters = &steps.core.counters;
        assert_eq!((counters.upstream_reuses.value(), counters.upstream_connects.value()), (3, 0));
        assert_eq!((counters.sent.value(), counters.in_flight.value()), (15, 0));
        assert_eq!(counters.connections.value(), 1, "the one of single steps");
    }

    #[test]
    fn an_answer_that_is_none_does_not_count() {
        let steps = steps();
        let claimed = steps.claim(&steps.read(&mut Bytes::from_static(HEAD)).unwrap()).unwrap();
        steps.answer(&claimed, &Bytes::from_static(b"HTTP/1.1 500 Internal\r\ncontent-length: 0\r\n\r\n"));
        assert_eq!(steps.serve(&Bytes::from_static(HEAD), 1), 0);
    }

    #[test]
    fn each_step_does_what_a_request_goes_through() {
        let steps = steps();
        let head = steps.read(&mut Bytes::from_static(HEAD)).unwrap();
        let claimed = steps.claim(&head).unwrap();
        assert_eq!(claimed.pool.in_flight_of(0), 1);
        // The client's own word on where it came from has made room for eight fields.
        assert!(steps.write(head, &claimed) > HEAD.len() + 200);
        let pool = claimed.pool.clone();
        drop(claimed);
        assert_eq!(pool.in_flight_of(0), 0);

        let request = || Request::get("http://shop.test/").version(Version::HTTP_2);
        let asked = request().header("x-forwarded-for", "192.0.2.9").header("accept", "*/*").body(()).unwrap();
        assert_eq!(steps.prepare(asked), Some(2), "accept, and the host that was in the target");
        let twice = Request::get("/").header("host", "a").header("host", "b").body(()).unwrap();
        assert_eq!(steps.prepare(twice), None);
        assert!(steps.read(&mut Bytes::from_static(b"GET / HTTP/1.0\r\n\r\n")).is_none());
        let elsewhere = steps.read(&mut Bytes::from_static(b"GET / HTTP/1.1\r\nhost: other.test\r\n\r\n")).unwrap();
        assert!(steps.claim(&elsewhere).is_none());
    }
}
