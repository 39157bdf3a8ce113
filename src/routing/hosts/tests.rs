//! The hosts beside a naive map, with hashes that collide on purpose.

use std::collections::HashMap;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::model::change::EnvironmentRecord;
use crate::model::id::EnvironmentId;
use crate::model::policy::Policy;
use crate::model::revision::Digest;
use crate::routing::route::{Facts, Head};

fn id(at: u16) -> EnvironmentId {
    Uuid::from_u128(1 << 64 | u128::from(at)).into()
}

fn host(at: u16) -> String {
    format!("h{at}.example.com")
}

/// A route with one host; `digest` tells one route of an environment from the next.
fn route(at: u16, digest: u128) -> Arc<EnvironmentRoute> {
    let record = EnvironmentRecord {
        id: id(at),
        project: "support".parse().unwrap(),
        name: "staging".parse().unwrap(),
        hosts: vec![host(at).parse().unwrap()],
        pointer: None,
        policy: Policy::default(),
    };
    let facts = Facts { head: Head::new(&record), digest: Digest(digest), policy: Arc::default(), pointer: None };
    Arc::new(EnvironmentRoute::new(id(at), facts, Vec::new()))
}

/// Which route a host leads to.
fn found(hosts: &Hosts, hash: u64, at: u16) -> Option<(EnvironmentId, Digest)> {
    hosts.get(hash, host(at).as_bytes()).map(|route| (route.id, route.digest()))
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16),
    Replace(u16),
    Remove(u16),
    Clone,
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..400u16;
    prop_oneof![
        6 => at.clone().prop_map(Step::Insert),
        3 => at.clone().prop_map(Step::Replace),
        3 => at.prop_map(Step::Remove),
        1 => Just(Step::Clone),
    ]
}

proptest! {
    #[test]
    fn any_history_leads_where_a_naive_map_does(steps in prop::collection::vec(step(), 1..600)) {
        let hasher = KeyHasher::default();
        let hash = |at: u16| hasher.hash(host(at).as_bytes());
        let (mut hosts, mut naive) = (Hosts::with_capacity(0), HashMap::new());
        let mut older: Vec<(Hosts, HashMap<u16, u128>)> = Vec::new();
        for (step, digest) in steps.into_iter().zip(1u128..) {
            match step {
                Step::Insert(at) => {
                    naive.entry(at).or_insert_with(|| {
                        hosts.insert(&hasher, hash(at), &route(at, digest), 0);
                        digest
                    });
                }
                Step::Replace(at) => {
                    hosts.replace(hash(at), &route(at, digest), 0);
                    naive.entry(at).and_modify(|known| *known = digest);
                }
                Step::Remove(at) => {
                    hosts.remove(hash(at), &route(at, digest), 0);
                    naive.remove(&at);
                }
                Step::Clone => older.push((hosts.clone(), naive.clone())),
            }
        }
        older.push((hosts, naive));
        for (hosts, naive) in older {
            for at in 0..400 {
                let expected = naive.get(&at).map(|digest| (id(at), Digest(*digest)));
                prop_assert_eq!(found(&hosts, hash(at), at), expected);
            }
            prop_assert_eq!(hosts.count, naive.len());
        }
    }
}

#[test]
fn hosts_of_one_hash_are_told_apart_and_keep_apart() {
    let hasher = KeyHasher::default();
    for hash in [0, 1, u64::MAX, 0x1234_5678_0000_003e] {
        let mut hosts = Hosts::with_capacity(0);
        // More than two groups hold, and from the last home on around the end of the chunk.
        (0..11).for_each(|at| hosts.insert(&hasher, hash, &route(at, 1), 0));
        hosts.remove(hash, &route(4, 9), 0);
        hosts.replace(hash, &route(7, 2), 0);
        for at in 0..12 {
            let digest = if at == 7 { 2 } else { 1 };
            let expected = (at != 4 && at < 11).then(|| (id(at), Digest(digest)));
            assert_eq!(found(&hosts, hash, at), expected, "host {at} at hash {hash:x}");
        }
    }
}

#[test]
fn a_host_of_another_environment_is_left_alone() {
    let hasher = KeyHasher::default();
    let mut hosts = Hosts::with_capacity(0);
    hosts.insert(&hasher, 6, &route(1, 1), 0);
    hosts.replace(6, &route(2, 2), 0);
    hosts.remove(6, &route(2, 2), 0);
    hosts.remove(6, &route(1, 2), 1);
    assert_eq!(found(&hosts, 6, 1), Some((id(1), Digest(1))));
    assert_eq!(hosts.count, 1);
}

#[test]
fn a_group_is_a_cache_line() {
    assert_eq!((size_of::<Group>(), align_of::<Group>()), (64, 64));
}
