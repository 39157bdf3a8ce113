//! Any history of changes, beside a map of the records that is looked through
//! for each answer: environments that come and go and leave their slots to
//! others, hosts that change hands, pools that leave and come back under running
//! requests, and readers that still have older tables.

use std::collections::BTreeMap;

use super::*;

type Records = HashMap<RecordKey, Record>;

/// One thing among those that a change says.
#[derive(Clone, Debug)]
enum Part {
    /// What an environment is from now on, with the pool its pointer names.
    Environment {
        n: u8,
        name: u8,
        hosts: Vec<&'static str>,
        pointer: Option<u8>,
        brings_pool: bool,
    },
    Pool {
        n: u8,
        deployment: u8,
        state: PoolRecordState,
        endpoints: Vec<(u8, bool)>,
    },
    DropPool(u8, u8),
    /// With its pools, or, where it has some, in vain.
    DropEnvironment(u8, bool),
}

#[derive(Clone, Debug)]
enum Step {
    Change(Vec<Part>),
    /// Everything anew, with these differences.
    Snapshot(Vec<Part>),
    /// A reader keeps the table in force.
    Keep,
    /// A request comes to an environment, and takes the endpoint at this place.
    Claim(u8, usize),
    /// A request ends.
    End(usize),
}

const ENVIRONMENTS: std::ops::Range<u8> = 0..5;
const DEPLOYMENTS: std::ops::Range<u8> = 0..3;
const LONG: &str = "a-host-that-is-too-long-to-lie-in-its-route.agents.example.com";
const HOSTS: [&str; 6] =
    ["a.example.com", "b.example.com", "*.agents.example.com", "x.agents.example.com", LONG, "*.example.com"];

fn part() -> impl Strategy<Value = Part> {
    let hosts = proptest::sample::subsequence(&HOSTS, 0..4).prop_shuffle();
    let name = prop_oneof![9 => Just(None), 1 => ENVIRONMENTS.prop_map(Some)];
    let pointer = proptest::option::weighted(0.8, DEPLOYMENTS);
    let environment = (ENVIRONMENTS, name, hosts, pointer, proptest::bool::weighted(0.8)).prop_map(
        |(n, name, hosts, pointer, brings_pool)| Part::Environment {
            n,
            name: name.unwrap_or(n),
            hosts,
            pointer,
            brings_pool,
        },
    );
    let state = prop_oneof![2 => Just(PoolRecordState::Open), 1 => Just(PoolRecordState::Closing)];
    let endpoints = proptest::collection::btree_map(0..3u8, proptest::bool::weighted(0.3), 0..3);
    let pool = (ENVIRONMENTS, DEPLOYMENTS, state, endpoints).prop_map(|(n, deployment, state, endpoints)| Part::Pool {
        n,
        deployment,
        state,
        endpoints: endpoints.into_iter().collect(),
    });
    prop_oneof![
        5 => environment,
        5 => pool,
        2 => (ENVIRONMENTS, DEPLOYMENTS).prop_map(|(n, deployment)| Part::DropPool(n, deployment)),
        2 => (ENVIRONMENTS, proptest::bool::weighted(0.9)).prop_map(|(n, whole)| Part::DropEnvironment(n, whole)),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let parts = || proptest::collection::vec(part(), 1..4);
    let step = prop_oneof![
        10 => parts().prop_map(Step::Change),
        1 => parts().prop_map(Step::Snapshot),
        2 => Just(Step::Keep),
        4 => (ENVIRONMENTS, 0..3usize).prop_map(|(n, at)| Step::Claim(n, at)),
        2 => (0..16usize).prop_map(Step::End),
    ];
    proptest::collection::vec(step, 0..60)
}

fn open_pool(n: u8, deployment: u8) -> PoolRecord {
    some_pool(n, deployment, PoolRecordState::Open, &[(0, false)])
}

fn some_pool(n: u8, deployment: u8, state: PoolRecordState, endpoints: &[(u8, bool)]) -> PoolRecord {
    let endpoint = |(at, draining): &(u8, bool)| EndpointRecord {
        id: Uuid::from_u128(u128::from(n) << 16 | u128::from(deployment) << 8 | u128::from(*at)).into(),
        address: "127.0.0.1:9001".parse().unwrap(),
        authority: None,
        secure: false,
        draining: *draining,
    };
    PoolRecord { endpoints: endpoints.iter().map(endpoint).collect(), ..pool(n, deployment, state) }
}

/// What a change comes to, key by key: the last word counts.
fn written(parts: &[Part], records: &Records) -> BTreeMap<RecordKey, Option<Record>> {
    let mut written = BTreeMap::new();
    for part in parts {
        match part {
            Part::Environment { n, name, hosts, pointer, brings_pool } => {
                let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
                let named = environment(*name, *pointer);
                let record = EnvironmentRecord { id: environment_id(*n), hosts, ..named };
                written.insert(RecordKey::Environment(record.id), Some(Record::Environment(record)));
                if let Some(deployment) = pointer.filter(|_| *brings_pool) {
                    let key = RecordKey::Pool(pool_key(*n, deployment));
                    written.entry(key).or_insert_with(|| Some(Record::Pool(open_pool(*n, deployment))));
                }
            }
            Part::Pool { n, deployment, state, endpoints } => {
                let record = some_pool(*n, *deployment, *state, endpoints);
                written.insert(RecordKey::Pool(record.key), Some(Record::Pool(record)));
            }
            Part::DropPool(n, deployment) => drop(written.insert(RecordKey::Pool(pool_key(*n, *deployment)), None)),
            Part::DropEnvironment(n, whole) => {
                written.insert(RecordKey::Environment(environment_id(*n)), None);
                let pools = DEPLOYMENTS.map(|deployment| RecordKey::Pool(pool_key(*n, deployment)));
                for key in pools.filter(|_| *whole) {
                    if records.contains_key(&key) || written.contains_key(&key) {
                        written.insert(key, None);
                    }
                }
            }
        }
    }
    written
}

fn environments(records: &Records) -> impl Iterator<Item = &EnvironmentRecord> {
    records.values().filter_map(|record| match record {
        Record::Environment(environment) => Some(environment),
        Record::Pool(_) | Record::Settings(_) => None,
    })
}

fn pool_of(records: &Records, key: PoolKey) -> Option<&PoolRecord> {
    match records.get(&RecordKey::Pool(key)) {
        Some(Record::Pool(pool)) => Some(pool),
        _ => None,
    }
}

/// Whether a table may hold these records.
fn is_valid(records: &Records) -> bool {
    let (mut hosts, mut names) = (std::collections::HashSet::new(), std::collections::HashSet::new());
    let keys_are_free = environments(records)
        .all(|environment| names.insert(&environment.name) && environment.hosts.iter().all(|host| hosts.insert(host)));
    let pointed = |environment: &EnvironmentRecord| {
        let key = environment.pointer.map(|deployment| PoolKey { environment: environment.id, deployment });
        key.is_none_or(|key| pool_of(records, key).is_some())
    };
    let has_environment = |key: &RecordKey| match key {
        RecordKey::Pool(key) => records.contains_key(&RecordKey::Environment(key.environment)),
        RecordKey::Environment(_) | RecordKey::Settings => true,
    };
    keys_are_free && environments(records).all(pointed) && records.keys().all(has_environment)
}

/// What an address leads to once its environment is known.
fn leads(records: &Records, environment: Option<&EnvironmentRecord>, pin: Option<u8>) -> Result<PoolKey, Unresolved> {
    let environment = environment.ok_or(Unresolved::EnvironmentNotFound)?;
    let asked = pin.map(deployment_id).or(environment.pointer).ok_or(Unresolved::EnvironmentEmpty)?;
    let key = PoolKey { environment: environment.id, deployment: asked };
    let is_open = pool_of(records, key).is_some_and(|pool| pool.state == PoolRecordState::Open);
    let closed = if pin.is_some() { Unresolved::DeploymentNotFound } else { Unresolved::DeploymentTerminated };
    if is_open { Ok(key) } else { Err(closed) }
}

/// A table leads every address where the records do.
fn agrees(table: &Table, records: &Records) -> Result<(), TestCaseError> {
    let by_host =
        |host: &str| environments(records).find(|known| known.hosts.iter().any(|known| known.as_str() == host));
    let resolve = |address: &Address<'_>| table.resolve(address).map(|resolved| resolved.pool.key);
    for host in HOSTS.into_iter().chain(["y.agents.example.com", "c.example.com", "c.d.example.com"]) {
        let wildcard = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let environment = by_host(host).or_else(|| by_host(&wildcard?));
        prop_assert_eq!(resolve(&at(host)), leads(records, environment, None), "{}", host);
        for deployment in DEPLOYMENTS {
            let pin = deployment_id(deployment).to_string();
            let pinned = Address { pin: Some(pin.as_bytes()), ..at(host) };
            prop_assert_eq!(resolve(&pinned), leads(records, environment, Some(deployment)), "{} pinned", host);
        }
    }
    for n in ENVIRONMENTS {
        let name = format!("env{n}");
        let environment = environments(records).find(|environment| environment.name.as_str() == name);
        let named = Address { project: Some(b"support"), environment: Some(name.as_bytes()), ..at("api.example.com") };
        // That host is shared where nobody has it, also not by a wildcard of its own.
        prop_assert_eq!(resolve(&named), leads(records, environment, None), "{}", name);
    }
    Ok(())
}

/// A running request.
struct Running {
    pool: PoolKey,
    endpoint: Option<crate::model::id::EndpointId>,
    _claims: (Claimed, Option<Claim>),
}

/// What is busy is what runs where the records let nothing new begin.
fn busy(running: &[Running], records: &Records) -> Busy {
    let is_open = |key| pool_of(records, key).is_some_and(|pool| pool.state == PoolRecordState::Open);
    let takes = |key, id| {
        pool_of(records, key).is_some_and(|pool| pool.endpoints.iter().any(|known| known.id == id && !known.draining))
    };
    let (mut pools, mut endpoints) = (BTreeMap::new(), BTreeMap::new());
    for request in running {
        if !is_open(request.pool) {
            *pools.entry(request.pool).or_default() += 1;
        }
        if let Some(id) = request.endpoint.filter(|id| !takes(request.pool, *id)) {
            *endpoints.entry(id).or_default() += 1;
        }
    }
    Busy { pools: pools.into_iter().collect(), endpoints: endpoints.into_iter().collect() }
}

fn sorted(busy: Busy) -> Busy {
    let Busy { mut pools, mut endpoints } = busy;
    pools.sort_unstable();
    endpoints.sort_unstable();
    Busy { pools, endpoints }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_history_leads_where_its_records_do_and_older_tables_where_theirs_did(steps in steps()) {
        let (live, mut sender) = started(vec![]);
        let mut reader = live.reader();
        let (mut kept, mut running) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Change(parts) | Step::Snapshot(parts) if parts.is_empty() => {}
                Step::Change(ref parts) | Step::Snapshot(ref parts) => {
                    let mut next = Sender { position: sender.position, records: sender.records.clone() };
                    let (upserts, deletes): (Vec<_>, Vec<_>) =
                        written(parts, &sender.records).into_iter().partition(|(_, record)| record.is_some());
                    let upserts = upserts.into_iter().filter_map(|(_, record)| record).collect();
                    let deletes = deletes.into_iter().map(|(key, _)| key).collect();
                    let (from, to, changes) = next.step(upserts, deletes);
                    let applied = match step {
                        Step::Change(_) => live.apply_delta(from, to, changes),
                        _ => {
                            let records = next.records.values().map(|record| (record.clone(), digest(record)));
                            live.apply_snapshot(to, records.collect())
                        }
                    };
                    prop_assert_eq!(applied.is_ok(), is_valid(&next.records), "{:?}", applied);
                    if applied.is_ok() {
                        sender = next;
                    }
                }
                Step::Keep => kept.push((Arc::clone(reader.current()), sender.records.clone())),
                Step::Claim(n, place) => {
                    let name = format!("env{n}");
                    let named = Address {
                        project: Some(b"support"),
                        environment: Some(name.as_bytes()),
                        ..at("api.example.com")
                    };
                    if let Ok(claimed) = reader.claim(&named, usize::from(n % 2)) {
                        let pool = claimed.pool.key;
                        let claim = claimed.pool.claim_endpoint(place, 0);
                        let endpoint = claim.as_ref().map(|_| claimed.pool.endpoints[place].id);
                        running.push(Running { pool, endpoint, _claims: (claimed, claim) });
                    }
                }
                Step::End(at) => if !running.is_empty() {
                    running.swap_remove(at % running.len());
                },
            }
            prop_assert_eq!(live.position(), Some(sender.position));
            agrees(reader.current(), &sender.records)?;
            prop_assert_eq!(sorted(live.busy()), busy(&running, &sender.records));
            for (table, records) in &kept {
                agrees(table, records)?;
            }
        }
    }
}
