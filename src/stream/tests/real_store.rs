//! The same with the real store: what a transaction commits, a proxy serves.

use std::path::Path;

use jiff::Timestamp;
use uuid::Uuid;

use super::cluster::{Control, LIMIT, Proxy, fleet_shows};
use crate::model::bounds::Bounds;
use crate::model::deployment::{Deployment, HostHeader, Source};
use crate::model::environment::Environment;
use crate::model::host::HostPattern;
use crate::model::id::DeploymentId;
use crate::model::manifest::Protocol;
use crate::model::name::DeploymentRef;
use crate::model::policy::Policy;
use crate::model::pool::{Endpoint, EndpointState, Pool, PoolKey, PoolState};
use crate::model::project::Project;
use crate::store::{Config, Store};

struct Shop {
    store: Store,
    project: Project,
    environment: Environment,
}

impl Shop {
    async fn open(directory: &Path) -> Self {
        let store = Store::open(&config(directory)).await.unwrap();
        let project =
            Project { id: Uuid::now_v7().into(), name: "support".parse().unwrap(), created_at: Timestamp::UNIX_EPOCH };
        let environment = Environment {
            id: Uuid::now_v7().into(),
            project: project.id,
            project_name: project.name.clone(),
            name: "staging".parse().unwrap(),
            hosts: vec![HostPattern::of_environment(
                &project.name,
                &"staging".parse().unwrap(),
                &"localhost".parse().unwrap(),
            )],
            pointer: None,
            bounds: None,
            policy: Policy::default(),
            locked: None,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        };
        let mut writing = store.write().await.unwrap();
        writing.insert_project(&project).await.unwrap();
        writing.insert_environment(&environment).await.unwrap();
        writing.commit().await.unwrap();
        Self { store, project, environment }
    }

    /// A ready pool of a new deployment, and the pointer to it, in one transaction.
    async fn promotes(&mut self) -> DeploymentId {
        let id = Uuid::now_v7();
        let mut random = [0; 8];
        random.copy_from_slice(&id.as_bytes()[8..]);
        let deployment = Deployment {
            id: id.into(),
            reference: DeploymentRef::from_bytes(random),
            project: self.project.id,
            source: Source::Endpoints {
                endpoints: vec!["http://127.0.0.1:9001".into()],
                protocol: Protocol::Http1,
                health_path: None,
                host: HostHeader::Client,
            },
            message: None,
            git_commit: None,
            created_by: "admin".into(),
            created_at: Timestamp::UNIX_EPOCH,
        };
        let key = PoolKey { environment: self.environment.id, deployment: deployment.id };
        let endpoint = Endpoint {
            id: Uuid::now_v7().into(),
            address: "127.0.0.1:9001".parse().unwrap(),
            authority: None,
            secure: false,
            state: EndpointState::Ready,
            pid: None,
            since: Timestamp::UNIX_EPOCH,
        };
        let pool =
            Pool { state: PoolState::Running, endpoints: vec![endpoint], ..Pool::starting(key, Bounds::default()) };
        self.environment.pointer = Some(deployment.id);
        let mut writing = self.store.write().await.unwrap();
        writing.insert_deployment(&deployment).await.unwrap();
        writing.put_pool(&pool).await.unwrap();
        writing.update_environment(&self.environment).await.unwrap();
        writing.commit().await.unwrap();
        deployment.id
    }
}

fn config(directory: &Path) -> Config {
    Config { data_dir: directory.join("data"), base_domain: "localhost".parse().unwrap(), shared_hosts: Vec::new() }
}

fn served(proxy: &Proxy) -> Option<DeploymentId> {
    proxy.claim("support-staging.localhost").ok().map(|claimed| claimed.pool.key.deployment)
}

#[tokio::test]
async fn what_a_transaction_commits_a_proxy_serves() {
    let directory = tempfile::tempdir().unwrap();
    let mut shop = Shop::open(directory.path()).await;
    let control = Control::start(shop.store.clone()).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(shop.store.head()).await;
    for _ in 0..20 {
        let deployment = shop.promotes().await;
        let propagation = control.fleet.wait_applied(shop.store.head().revision, LIMIT).await;
        assert!(propagation.complete && propagation.applied == 1, "{propagation:?}");
        assert_eq!(served(&proxy), Some(deployment), "complete means served");
    }
    assert_eq!(proxy.metrics.snapshots.get(), 1);
    assert_eq!(proxy.live.position(), Some(shop.store.head()), "the digests of both sides agree");
}

#[tokio::test]
async fn a_store_that_was_closed_and_opened_goes_on_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let mut shop = Shop::open(directory.path()).await;
    shop.promotes().await;
    let control = Control::start(shop.store.clone()).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(shop.store.head()).await;

    let address = control.address;
    control.stop().await;
    let deployment = shop.promotes().await;
    shop.store.close().await;
    let Shop { store, project, environment } = shop;
    drop(store);
    let store = Store::open(&config(directory.path())).await.unwrap();
    let shop = Shop { store, project, environment };
    let control = Control::start_at(address, shop.store.clone()).await;
    proxy.reaches(shop.store.head()).await;
    assert_eq!(served(&proxy), Some(deployment));
    assert_eq!(control.metrics.snapshots.get(), 0, "resuming costs one position");
    fleet_shows(&control.fleet, |fleet| fleet.proxies()[0].applied_revision == Some(shop.store.head().revision)).await;
}
