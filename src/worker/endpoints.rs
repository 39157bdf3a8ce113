//! Endpoint deployments: which addresses their URLs come to, and which are ready.
//!
//! Pure. Somebody else runs these workers; Repoint asks how they are and routes
//! to those that answer. What was ready stays so until probes say otherwise:
//! after a restart nothing is concluded from not having asked yet.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;

use crate::model::deployment::Deployment;
use crate::model::endpoint_url::{EndpointUrl, Host, InvalidEndpoint, check_address};
use crate::model::id::EndpointId;
use crate::model::manifest::Protocol;
use crate::model::pool::{Endpoint, EndpointState};

use super::health::{Health, Verdict};
use super::probe::Target;
use super::resolve::Resolved;

/// What is known about the outside.
#[derive(Debug, Default)]
pub(super) struct Outside {
    pub health: HashMap<Target, Health>,
    /// The last addresses each name came to.
    pub names: HashMap<String, BTreeSet<IpAddr>>,
    /// Why a name could not be resolved, while it cannot.
    pub unresolved: HashMap<String, String>,
}

impl Outside {
    /// Takes in what a name came to. Addresses known before hold when a resolver fails.
    pub fn resolved(&mut self, name: String, resolved: Resolved) {
        match resolved {
            Ok(addresses) => {
                self.unresolved.remove(&name);
                self.names.insert(name, addresses);
            }
            Err(error) => drop(self.unresolved.insert(name, error)),
        }
    }
}

impl Outside {
    /// Forgets a name that is not watched any more.
    pub fn forget_name(&mut self, name: &str) {
        self.names.remove(name);
        self.unresolved.remove(name);
    }
}

/// How the endpoints of a deployment are asked for their health.
#[derive(Clone, Copy, Default)]
pub(super) struct Asking<'a> {
    path: Option<&'a str>,
    protocol: Protocol,
}

impl<'a> Asking<'a> {
    /// As the deployment says.
    pub(super) fn of(deployment: &'a Deployment) -> Self {
        Self { path: deployment.health_path(), protocol: deployment.protocol() }
    }
}

/// What is probed to know how an endpoint is.
pub(super) fn target(endpoint: &Endpoint, asking: Asking<'_>) -> Target {
    let host = endpoint.authority.clone().unwrap_or_else(|| endpoint.address.to_string());
    let (path, protocol) = (asking.path.map(str::to_owned), asking.protocol);
    Target { address: endpoint.address, path, host, protocol, secure: endpoint.secure }
}

/// The names among these URLs.
pub(super) fn names(urls: &[String]) -> impl Iterator<Item = String> {
    let parsed = urls.iter().filter_map(|url| EndpointUrl::parse(url).ok());
    parsed.filter_map(|url| match url.host() {
        Host::Name(name) => Some(name.clone()),
        Host::Address(_) => None,
    })
}

/// What a pool's endpoints should be, given what they are. An address that stays keeps its id.
pub(super) fn endpoints(
    before: &[Endpoint],
    urls: &[String],
    asking: Asking<'_>,
    outside: &Outside,
    fresh: impl Fn(SocketAddr, &EndpointUrl) -> Endpoint,
    own_listeners: &[SocketAddr],
) -> Vec<Endpoint> {
    let mut after: Vec<Endpoint> = Vec::new();
    // URLs were checked when the deployment was created; one that no longer passes is left out.
    for url in urls.iter().filter_map(|url| EndpointUrl::parse(url).ok()) {
        let authority = url.authority();
        let is_known = |endpoint: &&Endpoint| {
            endpoint.authority.as_ref() == Some(&authority) && endpoint.secure == url.is_secure()
        };
        let addresses: BTreeSet<SocketAddr> = match addresses(&url, outside) {
            Some(addresses) => addresses.map(|ip| SocketAddr::new(ip, url.port())).collect(),
            // Not resolved yet in this run: what was known holds.
            None => before.iter().filter(is_known).map(|endpoint| endpoint.address).collect(),
        };
        for address in addresses.into_iter().filter(|address| check_address(*address, own_listeners).is_ok()) {
            let known = before.iter().filter(is_known).find(|endpoint| endpoint.address == address);
            let mut endpoint = known.cloned().unwrap_or_else(|| fresh(address, &url));
            endpoint.state = match outside.health.get(&target(&endpoint, asking)).map(|health| health.verdict) {
                Some(Verdict::Healthy) => EndpointState::Ready,
                Some(Verdict::Unhealthy) => EndpointState::Unready,
                Some(Verdict::Unknown) | None => endpoint.state,
            };
            // The same URL twice is one endpoint.
            if !after.iter().any(|other| other.id == endpoint.id || is_same_place(other, &endpoint)) {
                after.push(endpoint);
            }
        }
    }
    after
}

/// An endpoint seen for the first time.
pub(super) fn fresh(id: EndpointId, address: SocketAddr, url: &EndpointUrl, now: Timestamp) -> Endpoint {
    let (authority, secure) = (Some(url.authority()), url.is_secure());
    Endpoint { id, address, authority, secure, state: EndpointState::Unready, pid: None, since: now }
}

/// Why none of the endpoints takes requests, for people; `None` as long as one does or too little is known.
pub(super) fn trouble(
    endpoints: &[Endpoint],
    urls: &[String],
    asking: Asking<'_>,
    outside: &Outside,
    own_listeners: &[SocketAddr],
) -> Option<String> {
    if endpoints.iter().any(|endpoint| endpoint.state == EndpointState::Ready) {
        return None;
    }
    let unanswered = endpoints.iter().filter_map(|endpoint| {
        let health = outside.health.get(&target(endpoint, asking))?;
        let error = health.error.as_ref().filter(|_| health.verdict == Verdict::Unhealthy)?;
        Some(format!("{} does not answer: {error}", endpoint.address))
    });
    let unresolved = names(urls).filter_map(|name| {
        let error = outside.unresolved.get(&name)?;
        Some(format!("{name} does not resolve: {error}"))
    });
    let refused = refusals(urls, outside, own_listeners).map(|refused| refused.to_string());
    let reasons: BTreeSet<String> = unanswered.chain(unresolved).chain(refused).collect();
    (!reasons.is_empty()).then(|| reasons.into_iter().collect::<Vec<_>>().join("; "))
}

/// Addresses that names came to and requests must not go to.
fn refusals(urls: &[String], outside: &Outside, own_listeners: &[SocketAddr]) -> impl Iterator<Item = InvalidEndpoint> {
    let urls = urls.iter().filter_map(|url| EndpointUrl::parse(url).ok());
    let addresses =
        urls.filter_map(|url| Some(addresses(&url, outside)?.map(move |ip| SocketAddr::new(ip, url.port()))));
    addresses.flatten().filter_map(|address| check_address(address, own_listeners).err())
}

fn addresses<'a>(url: &EndpointUrl, outside: &'a Outside) -> Option<Box<dyn Iterator<Item = IpAddr> + 'a>> {
    match url.host() {
        Host::Address(ip) => Some(Box::new(std::iter::once(*ip))),
        Host::Name(name) => Some(Box::new(outside.names.get(name)?.iter().copied())),
    }
}

fn is_same_place(a: &Endpoint, b: &Endpoint) -> bool {
    (a.address, &a.authority, a.secure) == (b.address, &b.authority, b.secure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Probe;
    use uuid::Uuid;

    fn knowing(answers: &[(&str, &str, bool)]) -> Outside {
        let mut outside = Outside::default();
        for (address, host, good) in answers {
            let target = Target {
                address: address.parse().unwrap(),
                path: None,
                host: (*host).to_owned(),
                protocol: Protocol::Http1,
                secure: false,
            };
            let mut health = Health::new(false);
            for _ in 0..3 {
                health.take(if *good { Ok(()) } else { Err("refused".to_owned()) }, &Probe::default());
            }
            outside.health.insert(target, health);
        }
        outside
    }

    fn after(before: &[Endpoint], urls: &[&str], outside: &Outside) -> Vec<Endpoint> {
        let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
        let own = ["127.0.0.1:8080".parse().unwrap()];
        let fresh = |address, url: &EndpointUrl| fresh(Uuid::new_v4().into(), address, url, Timestamp::UNIX_EPOCH);
        endpoints(before, &urls, Asking::default(), outside, fresh, &own)
    }

    fn states(endpoints: &[Endpoint]) -> Vec<(String, EndpointState)> {
        endpoints.iter().map(|endpoint| (endpoint.address.to_string(), endpoint.state)).collect()
    }

    const ONE: &str = "127.0.0.1:9001";

    #[test]
    fn an_endpoint_is_ready_when_it_answers_and_keeps_its_id() {
        let new = after(&[], &["http://127.0.0.1:9001"], &Outside::default());
        assert_eq!(states(&new), [(ONE.to_owned(), EndpointState::Unready)]);
        assert_eq!(new[0].authority.as_deref(), Some(ONE));
        let ready = after(&new, &["http://127.0.0.1:9001/"], &knowing(&[(ONE, ONE, true)]));
        assert_eq!(states(&ready), [(ONE.to_owned(), EndpointState::Ready)]);
        assert_eq!(ready[0].id, new[0].id);
        let ill = after(&ready, &["http://127.0.0.1:9001"], &knowing(&[(ONE, ONE, false)]));
        assert_eq!(states(&ill), [(ONE.to_owned(), EndpointState::Unready)]);
    }

    #[test]
    fn what_was_ready_stays_so_until_probes_say_otherwise() {
        let ready = after(&[], &["http://a.internal:9001"], &Outside::default());
        assert_eq!(ready, [], "the name is not resolved yet");
        let mut known = fresh(
            Uuid::nil().into(),
            ONE.parse().unwrap(),
            &EndpointUrl::parse("http://a.internal:9001").unwrap(),
            Timestamp::UNIX_EPOCH,
        );
        known.state = EndpointState::Ready;
        let kept = after(&[known.clone()], &["http://a.internal:9001"], &Outside::default());
        assert_eq!(kept, [known]);
    }

    #[test]
    fn a_name_is_as_many_endpoints_as_it_has_addresses() {
        let url = ["http://a.internal:9001"];
        let mut outside = Outside::default();
        let addresses = |last: &[u8]| last.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect();
        outside.resolved("a.internal".to_owned(), Ok(addresses(&[1, 2])));
        let two = after(&[], &url, &outside);
        assert_eq!(two.len(), 2);
        outside.resolved("a.internal".to_owned(), Ok(addresses(&[2, 3])));
        let moved = after(&two, &url, &outside);
        assert_eq!((moved.len(), moved[0].id), (2, two[1].id));
        outside.resolved("a.internal".to_owned(), Err("down".to_owned()));
        assert_eq!(after(&moved, &url, &outside).len(), 2, "a resolver that fails takes nothing away");
    }

    #[test]
    fn the_same_url_twice_is_one_endpoint() {
        assert_eq!(after(&[], &["http://127.0.0.1:9001", "http://127.0.0.1:9001/"], &Outside::default()).len(), 1);
    }

    #[test]
    fn names_that_lead_to_forbidden_places_are_not_followed() {
        let mut outside = Outside::default();
        let metadata = IpAddr::from([169, 254, 169, 254]);
        outside.resolved("evil.example".to_owned(), Ok([metadata, IpAddr::from([127, 0, 0, 1])].into()));
        assert_eq!(after(&[], &["http://evil.example:8080"], &outside), []);
        let urls = ["http://evil.example:8080".to_owned()];
        let trouble = trouble(&[], &urls, Asking::default(), &outside, &["127.0.0.1:8080".parse().unwrap()]).unwrap();
        assert!(trouble.contains("link-local") && trouble.contains("Repoint's own"), "{trouble}");
    }

    #[test]
    fn trouble_is_told_once_nothing_answers() {
        let urls = ["http://127.0.0.1:9001".to_owned(), "http://gone.internal".to_owned()];
        let refs: Vec<&str> = urls.iter().map(String::as_str).collect();
        let mut outside = knowing(&[(ONE, ONE, false)]);
        outside.resolved("gone.internal".to_owned(), Err("no such name".to_owned()));
        let told = |outside: &Outside| trouble(&after(&[], &refs, outside), &urls, Asking::default(), outside, &[]);
        assert_eq!(
            told(&outside).unwrap(),
            "127.0.0.1:9001 does not answer: refused; gone.internal does not resolve: no such name"
        );
        outside.health = knowing(&[(ONE, ONE, true)]).health;
        assert_eq!(told(&outside), None);
        assert_eq!(told(&Outside::default()), None, "nothing is known yet");
    }
}
