//! Routes: an environment and its pools, as a table holds them.
//!
//! Built from records when a change is applied, immutable afterwards; only the
//! counters behind claims move. What a usual request reads lies in one piece of
//! memory: the host it is compared with, and the pool the pointer leads to. A
//! million of these are held, so each field is as small as it can be said.

use std::sync::Arc;

use crate::model::change::EnvironmentRecord;
use crate::model::host::HostPattern;
use crate::model::id::{DeploymentId, EnvironmentId};
use crate::model::policy::Policy;
use crate::model::revision::Digest;
use crate::routing::pool::PoolRoute;
use crate::routing::text::Text;

/// An environment and every pool that serves it.
// In this order: what a usual resolve reads lies side by side, in two or three
// cache lines, and each line is a wait for memory.
#[repr(C)]
pub struct EnvironmentRoute {
    head: Head,
    /// The pool the pointer leads to where there is one, else any.
    first: Option<PoolRoute>,
    /// Further pools; most environments have one.
    more: Option<Arc<Vec<PoolRoute>>>,
    /// Its id.
    pub id: EnvironmentId,
    /// What it asks of the ingress; environments that ask the same share it.
    pub policy: Arc<Policy>,
    digest: [u8; 16],
}

/// What the record of an environment says, read.
pub(super) struct Facts {
    /// What it is matched by.
    pub(super) head: Head,
    /// The digest of the record.
    pub(super) digest: Digest,
    /// What it asks of the ingress.
    pub(super) policy: Arc<Policy>,
    /// The deployment its pointer names.
    pub(super) pointer: Option<DeploymentId>,
}

/// How an environment is matched: what a pointer move leaves as it is.
#[derive(Clone)]
#[repr(C)]
pub(super) struct Head {
    /// Hosts after the first.
    more_hosts: Option<Arc<Vec<Box<str>>>>,
    /// The first host, then its names where that host does not begin with them.
    text: Text,
    project: Range,
    name: Range,
    host_length: u8,
}

/// A part of a text. A start is at most a host and a name long.
#[derive(Clone, Copy)]
struct Range {
    start: [u8; 2],
    length: u8,
}

impl Head {
    /// Reads a record. Names and hosts are as long as their types allow.
    pub(super) fn new(record: &EnvironmentRecord) -> Self {
        let (project, name) = (record.project.as_str(), record.name.as_str());
        let host = record.hosts.first().map_or("", HostPattern::as_str);
        // The host an environment has from its names begins with both of them.
        let in_host = host.strip_prefix(project).and_then(|rest| rest.strip_prefix('-')?.strip_prefix(name)).is_some();
        let names_at = if in_host { 0 } else { host.len() };
        let range = |start: usize, text: &str| Range { start: (start as u16).to_ne_bytes(), length: text.len() as u8 };
        let text = if in_host { Text::from(host) } else { Text::from([host, project, "-", name].concat().as_str()) };
        let more_hosts = record.hosts.iter().skip(1).map(|host| host.as_str().into()).collect::<Vec<Box<str>>>();
        Self {
            text,
            host_length: host.len() as u8,
            project: range(names_at, project),
            name: range(names_at + project.len() + 1, name),
            more_hosts: (!more_hosts.is_empty()).then(|| Arc::new(more_hosts)),
        }
    }

    /// The host at this place in its list; lower-case, as bytes.
    #[inline]
    pub(super) fn host(&self, at: usize) -> Option<&[u8]> {
        if at > 0 {
            return self.more_hosts.as_ref()?.get(at - 1).map(|host| host.as_bytes());
        }
        (self.host_length > 0).then(|| &self.text.as_bytes()[..usize::from(self.host_length)])
    }

    /// Whether this is the host at this place in its list.
    #[inline(always)]
    pub(super) fn is_host(&self, at: usize, host: &[u8]) -> bool {
        if at > 0 {
            return self.host(at) == Some(host);
        }
        host.len() == usize::from(self.host_length) && self.text.as_bytes().get(..host.len()) == Some(host)
    }

    /// Every host, in their order.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &[u8]> {
        (0..).map_while(|at| self.host(at))
    }

    /// Its project's name.
    pub(super) fn project(&self) -> &[u8] {
        self.part(self.project)
    }

    /// Its name.
    pub(super) fn name(&self) -> &[u8] {
        self.part(self.name)
    }

    /// Whether the same keys lead to it and to what this record describes.
    pub(super) fn is_matched_by(&self, record: &EnvironmentRecord) -> bool {
        self.project() == record.project.as_str().as_bytes()
            && self.name() == record.name.as_str().as_bytes()
            && self.hosts().eq(record.hosts.iter().map(|host| host.as_str().as_bytes()))
    }

    /// Whether the same keys lead to both.
    pub(super) fn is_matched_like(&self, other: &Self) -> bool {
        self.project() == other.project() && self.name() == other.name() && self.hosts().eq(other.hosts())
    }

    fn part(&self, range: Range) -> &[u8] {
        &self.text.as_bytes()[usize::from(u16::from_ne_bytes(range.start))..][..usize::from(range.length)]
    }
}

impl EnvironmentRoute {
    /// Where among the pools the pointer's own is.
    pub(super) const CURRENT: usize = 0;

    /// A route from its record and the pools of its environment; the pointer
    /// names one of them, or nothing.
    pub(super) fn new(id: EnvironmentId, facts: Facts, mut pools: Vec<PoolRoute>) -> Self {
        let Facts { head, digest, policy, pointer } = facts;
        pools.iter_mut().for_each(|pool| pool.is_current = Some(pool.key.deployment) == pointer);
        let current = pools.iter().position(|pool| pool.is_current);
        let first = (!pools.is_empty()).then(|| pools.swap_remove(current.unwrap_or(Self::CURRENT)));
        let more = (!pools.is_empty()).then(|| Arc::new(pools));
        Self { id, policy, digest: digest.0.to_ne_bytes(), head, first, more }
    }

    /// What its record says.
    pub(super) fn facts(&self) -> Facts {
        let (head, policy) = (self.head.clone(), Arc::clone(&self.policy));
        Facts { head, digest: self.digest(), policy, pointer: self.pointer() }
    }

    /// The digest of its record.
    pub(super) fn digest(&self) -> Digest {
        Digest(u128::from_ne_bytes(self.digest))
    }

    /// Its project's name.
    pub fn project(&self) -> &str {
        ascii(self.head.project())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        ascii(self.head.name())
    }

    /// The same, without another look at whether it is text.
    pub fn name_bytes(&self) -> &[u8] {
        self.head.name()
    }

    /// The deployment its pointer names.
    pub fn pointer(&self) -> Option<DeploymentId> {
        self.current().map(|pool| pool.key.deployment)
    }

    /// The pool its pointer leads to.
    #[inline]
    pub fn current(&self) -> Option<&PoolRoute> {
        self.first.as_ref().filter(|pool| pool.is_current)
    }

    /// Where among its pools the deployment with this id or ref is.
    pub fn position_of(&self, id_or_ref: &[u8]) -> Option<usize> {
        self.pools().position(|pool| pool.is_named(id_or_ref))
    }

    /// The pool at a position.
    #[inline]
    pub fn pool(&self, at: usize) -> Option<&PoolRoute> {
        match at.checked_sub(1) {
            None => self.first.as_ref(),
            Some(at) => self.more.as_ref()?.get(at),
        }
    }

    /// Every pool that serves it.
    pub fn pools(&self) -> impl Iterator<Item = &PoolRoute> {
        self.first.iter().chain(self.more.iter().flat_map(|pools| pools.iter()))
    }

    /// Claims that run on any of its pools.
    pub fn in_flight(&self) -> u64 {
        self.pools().filter_map(PoolRoute::counters_made).map(|counters| counters.pool.in_flight()).sum()
    }

    /// The pool of this deployment.
    pub fn pool_of(&self, deployment: DeploymentId) -> Option<&PoolRoute> {
        self.pools().find(|pool| pool.key.deployment == deployment)
    }

    /// What it is matched by.
    #[inline]
    pub(super) fn head(&self) -> &Head {
        &self.head
    }
}

/// Names are ASCII: nothing else can be built.
fn ascii(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn head(hosts: &[&str]) -> Head {
        let record = EnvironmentRecord {
            id: Uuid::from_u128(1).into(),
            project: "support".parse().unwrap(),
            name: "staging".parse().unwrap(),
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            pointer: None,
            policy: Policy::default(),
        };
        Head::new(&record)
    }

    #[test]
    fn names_and_hosts_are_read_back_however_they_lie() {
        let long = format!("{}.example.com", ["a"; 60].join("."));
        let own = "support-staging.localhost";
        for hosts in [&[][..], &[own], &[own, "b.example"], &["b.example", own], &[long.as_str()], &["support.example"]]
        {
            let head = head(hosts);
            assert_eq!((head.project(), head.name()), (&b"support"[..], &b"staging"[..]), "{hosts:?}");
            assert!(head.hosts().eq(hosts.iter().map(|host| host.as_bytes())), "{hosts:?}");
            for (at, host) in hosts.iter().map(|host| host.as_bytes()).enumerate() {
                assert!(head.is_host(at, host) && !head.is_host(at, &host[1..]) && !head.is_host(hosts.len(), host));
                let others = [[host, b"x"].concat(), [&host[1..], b"x"].concat()];
                assert!(others.iter().all(|other| !head.is_host(at, other)), "{hosts:?}");
            }
        }
    }

    #[test]
    fn a_route_with_one_pool_stays_small() {
        // A million of them are 264 MB; whoever adds a field adds it knowingly.
        assert_eq!((size_of::<Head>(), size_of::<PoolRoute>(), size_of::<EnvironmentRoute>()), (64, 152, 264));
    }

    #[test]
    fn heads_that_are_matched_alike_say_so() {
        let own = head(&["support-staging.localhost"]);
        assert!(own.is_matched_like(&head(&["support-staging.localhost"])));
        assert!(!own.is_matched_like(&head(&["support-staging.localhost", "b.example"])));
        assert!(!own.is_matched_like(&head(&[])));
    }
}
