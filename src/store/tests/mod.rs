//! What the store promises, on a real database file. A second database behind
//! the same face has to keep the same promises.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use crate::model::bounds::Bounds;
use crate::model::change::{Record, RecordKey};
use crate::model::deployment::{Deployment, HostHeader, Source};
use crate::model::environment::Environment;
use crate::model::host::HostPattern;
use crate::model::id::{DeploymentId, EnvironmentId};
use crate::model::manifest::Protocol;
use crate::model::moves::{MoveState, PendingMove};
use crate::model::policy::Policy;
use crate::model::pool::{Endpoint, EndpointState, Pool, PoolKey, PoolState};
use crate::model::project::Project;
use crate::model::promotion::{Kind, Promotion};
use crate::model::revision::{Digest, Revision};
use crate::store::{Changes, Config, Error, Page, Store, Transaction};
use crate::wire::DecodedChangeSet;

mod commit;
mod list;
mod log;
mod mass_change;
mod members;
mod open;
mod pool;
mod room;
mod turn;

/// A store in a directory of its own, with a project and two environments.
struct Fixture {
    directory: tempfile::TempDir,
    store: Store,
    project: Project,
    staging: Environment,
    production: Environment,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&config(directory.path(), "localhost")).await.unwrap();
        let project = Project { id: Uuid::now_v7().into(), name: "support".parse().unwrap(), created_at: at(1) };
        let staging = environment(&project, "staging");
        let production = environment(&project, "production");
        let mut writing = store.write().await.unwrap();
        writing.insert_project(&project).await.unwrap();
        writing.insert_environment(&staging).await.unwrap();
        writing.insert_environment(&production).await.unwrap();
        writing.commit().await.unwrap();
        Self { directory, store, project, staging, production }
    }

    fn config(&self, base_domain: &str) -> Config {
        config(self.directory.path(), base_domain)
    }

    /// Lets go of the directory and opens it again.
    async fn reopen(self, base_domain: &str) -> Self {
        let config = self.config(base_domain);
        self.store.close().await;
        drop(self.store);
        let store = Store::open(&config).await.unwrap();
        Self { store, ..self }
    }

    async fn write(&self) -> Transaction {
        self.store.write().await.unwrap()
    }

    async fn read(&self) -> Transaction {
        self.store.read().await.unwrap()
    }

    async fn deployment(&self) -> DeploymentId {
        let deployment = deployment(&self.project);
        let mut writing = self.write().await;
        writing.insert_deployment(&deployment).await.unwrap();
        writing.commit().await.unwrap();
        deployment.id
    }

    /// A deployment with a running pool in `environment`.
    async fn running(&self, environment: &Environment) -> PoolKey {
        let key = PoolKey { environment: environment.id, deployment: self.deployment().await };
        let mut writing = self.write().await;
        writing.put_pool(&running(key)).await.unwrap();
        writing.commit().await.unwrap();
        key
    }

    /// The change sets after a revision, decoded.
    async fn changes(&self, after: Revision) -> Vec<DecodedChangeSet> {
        match self.store.changes_after(after, usize::MAX).await.unwrap() {
            Changes::Log(log) => {
                log.iter().map(|change| crate::wire::decode_change_set(&change.bytes).unwrap()).collect()
            }
            Changes::BehindFloor => panic!("the log does not reach back to {after}"),
        }
    }

    async fn hosts(&self, environment: &Environment) -> Vec<String> {
        let found = self.read().await.environment(environment.id).await.unwrap().unwrap();
        found.hosts.iter().map(ToString::to_string).collect()
    }
}

/// The only change after a revision.
async fn only_change(fixture: &Fixture, after: Revision) -> DecodedChangeSet {
    let mut changes = fixture.changes(after).await;
    assert_eq!(changes.len(), 1, "{changes:?}");
    changes.remove(0)
}

fn config(data_dir: &Path, base_domain: &str) -> Config {
    Config { data_dir: data_dir.join("data"), base_domain: base_domain.parse().unwrap(), shared_hosts: Vec::new() }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn environment(project: &Project, name: &str) -> Environment {
    let name = name.parse().unwrap();
    Environment {
        id: Uuid::now_v7().into(),
        project: project.id,
        project_name: project.name.clone(),
        hosts: vec![HostPattern::of_environment(&project.name, &name, &"localhost".parse().unwrap())],
        name,
        pointer: None,
        bounds: Some(Bounds { min: 2, max: 3 }),
        policy: Policy::default(),
        locked: None,
        created_at: at(2),
        updated_at: at(3),
    }
}

fn deployment(project: &Project) -> Deployment {
    let id = Uuid::now_v7();
    let mut random = [0; 8];
    random.copy_from_slice(&id.as_bytes()[8..]);
    Deployment {
        id: id.into(),
        reference: crate::model::name::DeploymentRef::from_bytes(random),
        project: project.id,
        source: Source::Endpoints {
            endpoints: vec!["http://127.0.0.1:9001".into()],
            protocol: Protocol::Http1,
            health_path: Some("/healthz".into()),
            host: HostHeader::Endpoint,
        },
        message: Some("first".into()),
        git_commit: None,
        created_by: "admin".into(),
        created_at: at(4),
    }
}

fn endpoint(state: EndpointState) -> Endpoint {
    Endpoint {
        secure: false,
        id: Uuid::now_v7().into(),
        address: "127.0.0.1:9001".parse().unwrap(),
        authority: Some("localhost:9001".into()),
        state,
        pid: Some(7),
        since: at(5),
    }
}

fn running(key: PoolKey) -> Pool {
    let endpoints = vec![endpoint(EndpointState::Ready)];
    Pool { state: PoolState::Running, endpoints, ..Pool::starting(key, Bounds::default()) }
}

fn promotion(environment: EnvironmentId, sequence: u64, below: Option<u64>, to: DeploymentId) -> Promotion {
    Promotion {
        id: Uuid::now_v7().into(),
        sequence,
        below,
        environment,
        kind: Kind::Promote,
        from: None,
        to,
        source_environment: None,
        actor: "admin".into(),
        reason: Some("because".into()),
        revision: Revision(sequence),
        requested_at: at(6),
        committed_at: at(7),
        applied_at: None,
        previous_drained_at: None,
        streams_cut: None,
    }
}

fn pending_move(environment: EnvironmentId, deployment: DeploymentId) -> PendingMove {
    PendingMove {
        number: 0,
        environment,
        deployment,
        kind: Kind::Deploy,
        source_environment: None,
        actor: "admin".into(),
        reason: None,
        scale_previous_to_zero: true,
        state: MoveState::Waiting,
        detail: None,
        requested_at: at(8),
        deadline: at(128),
        ended_at: None,
        promotion: None,
    }
}

fn page(limit: u32, after: Option<String>) -> Page {
    Page { limit, after }
}

/// What the digest has to be, from the snapshot alone.
async fn recomputed(store: &Store) -> Digest {
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.position, store.head());
    let of = |bytes: &bytes::Bytes| {
        let record = crate::wire::decode_record(bytes).unwrap();
        Digest::of_record(&record.key().to_string(), bytes)
    };
    snapshot.records.iter().map(of).fold(Digest::default(), Digest::with)
}
