//! The live table as its callers see it, beside a naive map that says what is right.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::model::change::{EndpointRecord, EnvironmentRecord, PoolRecord, PoolRecordState, RecordKey, SettingsRecord};
use crate::model::deployment::HostHeader;
use crate::model::id::{DeploymentId, EnvironmentId};
use crate::model::manifest::Protocol;
use crate::model::name::DeploymentRef;
use crate::model::policy::{Door, Policy};

mod histories;

fn environment_id(n: u8) -> EnvironmentId {
    Uuid::from_u128(1_000 + u128::from(n)).into()
}

fn deployment_id(n: u8) -> DeploymentId {
    Uuid::from_u128(2_000 + u128::from(n)).into()
}

fn pool_key(environment: u8, deployment: u8) -> PoolKey {
    PoolKey { environment: environment_id(environment), deployment: deployment_id(deployment) }
}

fn reference(n: u8) -> DeploymentRef {
    DeploymentRef::from_bytes([0, 0, 0, 0, 0, 0, 0, n])
}

fn settings() -> Record {
    let shared_hosts = vec!["api.example.com".parse().unwrap()];
    Record::Settings(SettingsRecord { base_domain: "localhost".parse().unwrap(), shared_hosts })
}

fn environment(n: u8, pointer: Option<u8>) -> EnvironmentRecord {
    EnvironmentRecord {
        id: environment_id(n),
        project: "support".parse().unwrap(),
        name: format!("env{n}").parse().unwrap(),
        hosts: vec![format!("support-env{n}.localhost").parse().unwrap()],
        pointer: pointer.map(deployment_id),
        policy: Policy::default(),
    }
}

fn pool(environment: u8, deployment: u8, state: PoolRecordState) -> PoolRecord {
    PoolRecord {
        key: pool_key(environment, deployment),
        reference: reference(deployment),
        state,
        protocol: Protocol::Http1,
        host: HostHeader::Client,
        retry_on_reused_close: false,
        endpoints: vec![EndpointRecord {
            id: Uuid::from_u128(u128::from(environment) * 256 + u128::from(deployment)).into(),
            address: "127.0.0.1:9001".parse().unwrap(),
            authority: None,
            secure: false,
            draining: false,
        }],
    }
}

fn open(environment: u8, deployment: u8) -> Record {
    Record::Pool(pool(environment, deployment, PoolRecordState::Open))
}

fn closing(environment: u8, deployment: u8) -> Record {
    Record::Pool(pool(environment, deployment, PoolRecordState::Closing))
}

/// Digests as a sender would make them; any injective text will do here.
fn digest(record: &Record) -> Digest {
    Digest::of_record(&record.key().to_string(), format!("{record:?}").as_bytes())
}

/// A sender that keeps the digest and counts revisions.
struct Sender {
    position: Position,
    records: HashMap<RecordKey, Record>,
}

impl Sender {
    fn new() -> Self {
        let lineage = Uuid::from_u128(1).into();
        Self {
            position: Position { lineage, revision: Revision(0), digest: Digest::default() },
            records: HashMap::new(),
        }
    }

    fn step(&mut self, upserts: Vec<Record>, deletes: Vec<RecordKey>) -> (Position, Position, Vec<Change>) {
        let from = self.position;
        let deleted = deletes.iter().map(|key| (*key, None)).collect::<Vec<_>>();
        for (key, record) in deleted.into_iter().chain(upserts.iter().map(|r| (r.key(), Some(r.clone())))) {
            if let Some(old) = self.records.remove(&key) {
                self.position.digest = self.position.digest.without(digest(&old));
            }
            if let Some(record) = record {
                self.position.digest = self.position.digest.with(digest(&record));
                self.records.insert(key, record);
            }
        }
        self.position.revision = from.revision.next();
        let changes = deletes.into_iter().map(Change::Delete);
        let changes = changes.chain(upserts.into_iter().map(|record| Change::Upsert(record.clone(), digest(&record))));
        (from, self.position, changes.collect())
    }

    fn snapshot(&mut self, live: &Live, records: Vec<Record>) {
        self.step(records, Vec::new());
        let records = self.records.values().map(|record| (record.clone(), digest(record))).collect();
        live.apply_snapshot(self.position, records).unwrap();
    }

    fn apply(&mut self, live: &Live, upserts: Vec<Record>, deletes: Vec<RecordKey>) {
        let (from, to, changes) = self.step(upserts, deletes);
        live.apply_delta(from, to, changes).unwrap();
    }
}

fn at(host: &str) -> Address<'_> {
    Address { host: host.as_bytes(), ..Address::default() }
}

fn served(live: &Live, address: &Address<'_>) -> Result<DeploymentId, Unresolved> {
    live.reader().claim(address, 0).map(|claimed| claimed.pool.key.deployment)
}

fn started(records: Vec<Record>) -> (Arc<Live>, Sender) {
    let (live, mut sender) = (Live::new(2), Sender::new());
    sender.snapshot(&live, [settings()].into_iter().chain(records).collect());
    (live, sender)
}

#[test]
fn invariant_7_without_a_table_nothing_is_said_to_be_missing() {
    let live = Live::new(1);
    assert_eq!(served(&live, &at("support-env1.localhost")), Err(Unresolved::TableNotLoaded));
    assert_eq!(live.position(), None);
}

#[test]
fn every_door_leads_where_it_says() {
    let mut hosts = environment(1, Some(1));
    hosts.hosts.extend(["agents.example.com".parse().unwrap(), "*.agents.example.com".parse().unwrap()]);
    let (live, _) = started(vec![Record::Environment(hosts), open(1, 1), open(1, 2)]);
    let (first, second) = (Ok(deployment_id(1)), Ok(deployment_id(2)));
    for host in ["support-env1.localhost", "SUPPORT-env1.localhost.:8080", "agents.example.com", "x.agents.example.com"]
    {
        assert_eq!(served(&live, &at(host)), first, "{host}");
    }
    for host in ["localhost", "support-env2.localhost", "x.y.agents.example.com", "", "example.com"] {
        assert_eq!(served(&live, &at(host)), Err(Unresolved::EnvironmentNotFound), "{host}");
    }
    for host in ["localhost:8080", "api.example.com"] {
        let shared = Address { project: Some(b"support"), environment: Some(b"env1"), ..at(host) };
        assert_eq!(served(&live, &shared), first);
        let other = Address { environment: Some(b"env9"), ..shared };
        assert_eq!(served(&live, &other), Err(Unresolved::EnvironmentNotFound));
    }
    // Names choose on shared hosts only.
    let elsewhere = Address { project: Some(b"support"), environment: Some(b"env1"), ..at("example.com") };
    assert_eq!(served(&live, &elsewhere), Err(Unresolved::EnvironmentNotFound));
    let pin = |pin: &str| served(&live, &Address { pin: Some(pin.as_bytes()), ..at("agents.example.com") });
    assert_eq!(pin(&deployment_id(2).to_string()), second);
    assert_eq!(pin(reference(2).as_str()), second);
    assert_eq!(pin(reference(3).as_str()), Err(Unresolved::DeploymentNotFound));
    let by_host = |n| served(&live, &at(&format!("support--{}--env1.localhost", reference(n))));
    assert_eq!((by_host(2), by_host(3)), (second, Err(Unresolved::DeploymentNotRunning)));
}

#[test]
fn doors_that_are_off_lead_nowhere() {
    let mut guarded = environment(1, Some(1));
    guarded.policy.pins = Door::Off;
    guarded.policy.deployment_hosts = Some(Door::Off);
    let (live, _) = started(vec![Record::Environment(guarded), open(1, 1), open(1, 2)]);
    let pin = |n| {
        let pin = deployment_id(n).to_string();
        served(&live, &Address { pin: Some(pin.as_bytes()), ..at("support-env1.localhost") })
    };
    assert_eq!(pin(2), Err(Unresolved::DeploymentNotFound));
    assert_eq!(pin(1), Ok(deployment_id(1)), "what is served anyway may be asked for");
    let host = format!("support--{}--env1.localhost", reference(1));
    assert_eq!(served(&live, &at(&host)), Err(Unresolved::DeploymentNotRunning));
    let current = deployment_id(1).to_string();
    let pinned = Address { pin: Some(current.as_bytes()), ..at(&host) };
    assert_eq!(served(&live, &pinned), Err(Unresolved::DeploymentNotRunning), "a pin opens no shut door");
}

#[test]
fn an_environment_without_pointer_is_empty_and_one_with_a_closed_pool_terminated() {
    let (live, mut sender) = started(vec![Record::Environment(environment(1, None))]);
    let host = at("support-env1.localhost");
    assert_eq!(served(&live, &host), Err(Unresolved::EnvironmentEmpty));
    sender.apply(&live, vec![Record::Environment(environment(1, Some(1))), open(1, 1)], vec![]);
    assert_eq!(served(&live, &host), Ok(deployment_id(1)));
    sender.apply(&live, vec![closing(1, 1)], vec![]);
    assert_eq!(served(&live, &host), Err(Unresolved::DeploymentTerminated));
}

#[test]
fn invariant_2_a_closing_pool_grants_no_claim_through_any_door() {
    let (live, mut sender) = started(vec![Record::Environment(environment(1, Some(1))), open(1, 1), open(1, 2)]);
    let mut reader = live.reader();
    let held = reader.claim(&at("support-env1.localhost"), 0).unwrap();
    let stale = held.pool.clone();
    sender.apply(&live, vec![Record::Environment(environment(1, Some(2))), closing(1, 1)], vec![]);
    assert!(stale.claim(1).is_none(), "a request that resolved by the older table");
    let pin = deployment_id(1).to_string();
    let pinned = Address { pin: Some(pin.as_bytes()), ..at("support-env1.localhost") };
    assert_eq!(served(&live, &pinned), Err(Unresolved::DeploymentNotFound));
    let by_host = format!("support--{}--env1.localhost", reference(1));
    assert_eq!(served(&live, &at(&by_host)), Err(Unresolved::DeploymentNotRunning));
    assert_eq!(served(&live, &at("support-env1.localhost")), Ok(deployment_id(2)));
    assert_eq!(live.busy().pools, [(pool_key(1, 1), 1)]);
    drop(held);
    assert_eq!(live.busy(), Busy::default());
    sender.apply(&live, vec![open(1, 1)], vec![]);
    assert_eq!(served(&live, &pinned), Ok(deployment_id(1)), "opened again");
}

#[test]
fn a_pool_gone_from_the_table_is_busy_until_its_last_claim_ends() {
    let (live, mut sender) = started(vec![Record::Environment(environment(1, None)), open(1, 1)]);
    let pin = deployment_id(1).to_string();
    let held = live.reader().claim(&Address { pin: Some(pin.as_bytes()), ..at("support-env1.localhost") }, 0).unwrap();
    sender.apply(&live, vec![], vec![RecordKey::Pool(pool_key(1, 1))]);
    assert_eq!(live.busy().pools, [(pool_key(1, 1), 1)]);
    assert!(held.pool.claim(0).is_none());
    drop(held);
    assert_eq!(live.busy(), Busy::default());
}

#[test]
fn a_draining_endpoint_takes_no_claims_and_is_busy_until_idle() {
    let (live, mut sender) = started(vec![Record::Environment(environment(1, Some(1))), open(1, 1)]);
    let claimed = live.reader().claim(&at("support-env1.localhost"), 0).unwrap();
    let endpoint = &claimed.pool.endpoints[0];
    let running = claimed.pool.claim_endpoint(0, 0).unwrap();
    let mut draining = pool(1, 1, PoolRecordState::Open);
    draining.endpoints[0].draining = true;
    sender.apply(&live, vec![Record::Pool(draining)], vec![]);
    assert!(claimed.pool.claim_endpoint(0, 0).is_none());
    assert_eq!(live.busy().endpoints, [(endpoint.id, 1)]);
    drop(running);
    assert_eq!(live.busy(), Busy::default());
}

#[test]
fn an_endpoint_that_fell_ill_keeps_its_claims_when_it_comes_back() {
    for comes_back_draining in [true, false] {
        let (live, mut sender) = started(vec![Record::Environment(environment(1, Some(1))), open(1, 1)]);
        let claimed = live.reader().claim(&at("support-env1.localhost"), 0).unwrap();
        let endpoint = &claimed.pool.endpoints[0];
        let running = claimed.pool.claim_endpoint(0, 0).unwrap();
        let mut without = pool(1, 1, PoolRecordState::Open);
        let mut back = without.endpoints.remove(0);
        sender.apply(&live, vec![Record::Pool(without.clone())], vec![]);
        if !comes_back_draining {
            sender.apply(&live, vec![open(1, 1)], vec![]);
            assert!(claimed.pool.claim_endpoint(0, 0).is_some(), "it takes requests again");
        }
        back.draining = true;
        without.endpoints.push(back);
        sender.snapshot(&live, vec![Record::Pool(without)]);
        assert_eq!(live.busy().endpoints, [(endpoint.id, 1)], "the running request is still counted");
        drop(running);
        assert_eq!(live.busy(), Busy::default());
    }
}

#[test]
fn a_refused_change_leaves_everything_as_it_was() {
    let (live, mut sender) = started(vec![Record::Environment(environment(1, Some(1))), open(1, 1)]);
    let before = live.position();
    let mut thief = environment(2, None);
    thief.hosts = environment(1, None).hosts;
    let refused: [(Vec<Record>, Vec<RecordKey>); 5] = [
        (vec![Record::Environment(thief)], vec![]),
        (vec![Record::Environment(environment(1, Some(9)))], vec![]),
        (vec![open(9, 1)], vec![]),
        (vec![], vec![RecordKey::Environment(environment_id(1))]),
        (vec![], vec![RecordKey::Settings]),
    ];
    for (upserts, deletes) in refused {
        let mut other = Sender { position: sender.position, records: sender.records.clone() };
        let (from, to, changes) = other.step(upserts, deletes);
        assert!(matches!(live.apply_delta(from, to, changes), Err(Refusal::Invalid { .. })));
        assert_eq!(live.position(), before);
    }
    let (from, to, changes) = sender.step(vec![open(1, 2)], vec![]);
    let lied = Position { digest: Digest(7), ..to };
    assert_eq!(live.apply_delta(from, lied, changes.clone()), Err(Refusal::DigestMismatch));
    let elsewhere = Position { lineage: Uuid::from_u128(9).into(), ..from };
    assert_eq!(live.apply_delta(elsewhere, to, changes.clone()), Err(Refusal::WrongLineage));
    assert_eq!(live.position(), before);
    live.apply_delta(from, to, changes.clone()).unwrap();
    let again = live.apply_delta(from, to, changes);
    assert_eq!(again, Err(Refusal::Gap { have: to.revision, from: from.revision }), "invariant 3");
}

#[test]
fn invariant_3_an_older_snapshot_of_the_same_lineage_is_refused() {
    let (live, mut sender) = started(vec![]);
    let (older, records) = (sender.position, sender.records.clone());
    sender.apply(&live, vec![Record::Environment(environment(1, None))], vec![]);
    let records = || records.values().map(|record| (record.clone(), digest(record))).collect::<Vec<_>>();
    assert!(matches!(live.apply_snapshot(older, records()), Err(Refusal::Gap { .. })));
    let restored = Position { lineage: Uuid::from_u128(2).into(), ..older };
    assert_eq!(live.apply_snapshot(restored, records()), Ok(()), "another lineage starts over");
}

#[test]
fn a_host_may_change_hands_within_one_change() {
    let (live, mut sender) = started(vec![Record::Environment(environment(1, Some(1))), open(1, 1)]);
    let (mut old, mut new) = (environment(1, Some(1)), environment(2, Some(2)));
    new.hosts.append(&mut old.hosts);
    sender.apply(&live, vec![Record::Environment(old), Record::Environment(new), open(2, 2)], vec![]);
    assert_eq!(served(&live, &at("support-env1.localhost")), Ok(deployment_id(2)));
}

#[test]
fn invariant_1_a_change_of_two_environments_is_never_seen_by_half() {
    let moved = |n| vec![Record::Environment(environment(1, Some(n))), Record::Environment(environment(2, Some(n)))];
    let pools = [open(1, 1), open(1, 2), open(2, 1), open(2, 2)];
    let (live, mut sender) = started(moved(1).into_iter().chain(pools).collect());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut reader = live.reader();
            while !done.load(Ordering::Relaxed) {
                let table = Arc::clone(reader.current());
                let one = |host| table.resolve(&at(host)).map(|r| r.pool.key.deployment);
                assert_eq!(one("support-env1.localhost"), one("support-env2.localhost"));
            }
        });
        for n in 0..2_000 {
            sender.apply(&live, moved(1 + (n % 2) as u8), vec![]);
        }
        done.store(true, Ordering::Relaxed);
    });
}
