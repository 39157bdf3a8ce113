//! A control plane that feeds one proxy with very many environments: the real server of the control stream over
//! records in memory, in a process of its own. An import of as many into a store would take minutes, and is another
//! measurement.

use std::fmt;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use repoint::drain::Drain;
use repoint::fleet::{self, Fleet};
use repoint::model::change::{EndpointRecord, EnvironmentRecord, PoolRecord, PoolRecordState, Record, SettingsRecord};
use repoint::model::deployment::HostHeader;
use repoint::model::manifest::Protocol;
use repoint::model::name::DeploymentRef;
use repoint::model::policy::Policy;
use repoint::model::pool::PoolKey;
use repoint::model::revision::{Digest, Position, Revision};
use repoint::store::{Changes, Error, MembersChange, Snapshot};
use repoint::stream::metrics::ServerMetrics;
use repoint::stream::server;
use repoint::stream::source::Source;
use repoint::stream::token_file;
use repoint::wire::encode_record;
use tokio::sync::watch;
use uuid::Uuid;

/// What tells this binary to be that control plane.
pub const ARGUMENT: &str = "feed";

/// Is it, in the process that was started for that; until its standard input is closed.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let [environments, lineage, address, token] = arguments else {
        return Err(format!("{ARGUMENT} ENVIRONMENTS LINEAGE ADDRESS TOKEN_FILE"));
    };
    let number = |text: &String| text.parse::<usize>().map_err(|_| format!("{text} is no number"));
    let state = State::new(number(environments)?, number(lineage)? as u64);
    let address: SocketAddr = address.parse().map_err(|_| format!("{address} is no address"))?;
    let token = token_file::ensure(Path::new(token)).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| format!("start a runtime: {error}"))?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind(address));
    let listener = listener.map_err(|error| format!("listen at {address}: {error}"))?;
    let bound = listener.local_addr().map_err(|error| error.to_string())?;
    let fleet = Fleet::new(fleet::Config { settle: Duration::ZERO, ..fleet::Config::default() });
    let drain = Drain::new();
    let config = server::Config::new(token);
    runtime.spawn(server::serve(listener, state, fleet, config, ServerMetrics::default(), drain.watch()));
    println!("{bound}");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0);
}

/// A state that never changes.
#[derive(Clone)]
struct State {
    records: Arc<Vec<Bytes>>,
    head: Arc<watch::Sender<Position>>,
}

impl State {
    fn new(environments: usize, lineage: u64) -> Self {
        let settings = SettingsRecord { base_domain: parsed("agents.example.com"), shared_hosts: Vec::new() };
        let all = std::iter::once(Record::Settings(settings))
            .chain((0..environments).map(environment))
            .chain((0..environments).map(pool));
        let mut digest = Digest::default();
        let mut records = Vec::with_capacity(1 + 2 * environments);
        for record in all {
            let bytes = encode_record(&record);
            digest = digest.with(Digest::of_record(&record.key().to_string(), &bytes));
            records.push(bytes);
        }
        // One number for both, so that a later history is seen to be another also by its revision.
        let revision = Revision(lineage);
        let head = Position { lineage: Uuid::from_u128(lineage.into()).into(), revision, digest };
        Self { records: Arc::new(records), head: Arc::new(watch::Sender::new(head)) }
    }

    fn head(&self) -> Position {
        *self.head.borrow()
    }
}

impl Source for State {
    fn watch_head(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }

    async fn changes_after(&self, after: Revision, _: usize) -> Result<Changes, Error> {
        Ok(if after < self.head().revision { Changes::BehindFloor } else { Changes::Log(Vec::new()) })
    }

    async fn position_at(&self, revision: Revision) -> Result<Option<Position>, Error> {
        Ok(Some(self.head()).filter(|head| head.revision == revision))
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        Ok(Snapshot { position: self.head(), records: self.records.to_vec(), mass_change_at: Revision(0) })
    }

    async fn keep_members(&self, _: MembersChange) -> Result<(), Error> {
        // Nobody comes back to this run.
        Ok(())
    }
}

/// Three to a project, with hosts as they are made from names.
const NAMES: [&str; 3] = ["production", "staging", "preview"];

fn environment(n: usize) -> Record {
    let (project, name) = (format!("team-{:06}", n / NAMES.len()), NAMES[n % NAMES.len()]);
    Record::Environment(EnvironmentRecord {
        id: Uuid::from_u128(1 << 64 | n as u128).into(),
        hosts: vec![parsed(&format!("{project}-{name}.agents.example.com"))],
        project: parsed(&project),
        name: parsed(name),
        pointer: Some(Uuid::from_u128(2 << 64 | n as u128).into()),
        policy: Policy::default(),
    })
}

fn pool(n: usize) -> Record {
    let environment = Uuid::from_u128(1 << 64 | n as u128).into();
    Record::Pool(PoolRecord {
        key: PoolKey { environment, deployment: Uuid::from_u128(2 << 64 | n as u128).into() },
        reference: DeploymentRef::from_bytes((n as u64).to_ne_bytes()),
        state: PoolRecordState::Open,
        protocol: Protocol::Http1,
        host: HostHeader::Client,
        retry_on_reused_close: false,
        endpoints: vec![EndpointRecord {
            id: Uuid::from_u128(3 << 64 | n as u128).into(),
            address: SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 8_080)),
            authority: None,
            secure: false,
            draining: false,
        }],
    })
}

fn parsed<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: fmt::Debug,
{
    text.parse().expect("made to be valid")
}
