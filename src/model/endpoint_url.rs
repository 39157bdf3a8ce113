//! The URL of a worker that something else runs, and where it may point.
//!
//! Pure: names are resolved by whoever probes (`worker`), which then judges the
//! addresses they came to with [`check_address`]. `control` refuses a bad URL
//! before anything is stored.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A worker's URL, without path: `http://10.0.0.7:9001` or `https://agents.internal`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct EndpointUrl {
    secure: bool,
    host: Host,
    port: u16,
}

/// Where a worker's URL points.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name, in lower case, to be resolved again and again.
    Name(String),
}

/// Why a URL or an address is refused as an endpoint. Reads as "failed to …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// No URL of the expected form.
    #[error("use {url:?} as an endpoint: it {what}; give a URL such as http://10.0.0.7:9001")]
    Url {
        /// As given, shortened.
        url: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An address that is nobody's worker.
    #[error("use {address} as an endpoint: it is {what}; give the address of a worker")]
    Address {
        /// Which.
        address: SocketAddr,
        /// What it is instead.
        what: &'static str,
    },
}

/// Reads a URL and judges what can be judged without resolving names.
///
/// # Errors
///
/// When it is no http or https URL, or points where no worker is.
pub fn check_endpoint(url: &str, own_listeners: &[SocketAddr]) -> Result<EndpointUrl, InvalidEndpoint> {
    let endpoint = EndpointUrl::parse(url)?;
    match &endpoint.host {
        Host::Address(ip) => check_address(SocketAddr::new(*ip, endpoint.port), own_listeners)?,
        // RFC 6761 §6.3: such names are always this machine.
        Host::Name(name) if name == "localhost" || name.ends_with(".localhost") => {
            let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            for ip in loopback {
                check_address(SocketAddr::new(ip, endpoint.port), own_listeners)?;
            }
        }
        Host::Name(_) => {}
    }
    Ok(endpoint)
}

/// Judges an address that requests would be sent to.
///
/// # Errors
///
/// When it is link-local (cloud metadata lives there), no single machine, or one of Repoint's own listeners, which would
/// send requests round in circles or hand the API to strangers.
pub fn check_address(address: SocketAddr, own_listeners: &[SocketAddr]) -> Result<(), InvalidEndpoint> {
    let ip = address.ip().to_canonical();
    let what = match ip {
        _ if ip.is_unspecified() => Some("no address of a machine"),
        _ if ip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("a broadcast address"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("link-local"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("link-local"),
        _ if own_listeners.iter().any(|own| is_same(SocketAddr::new(ip, address.port()), *own)) => {
            Some("one of Repoint's own listeners")
        }
        _ => None,
    };
    what.map_or(Ok(()), |what| Err(InvalidEndpoint::Address { address, what }))
}

/// Whether connecting to `address` would reach the listener `own`. A listener on every address is reached through any
/// loopback address; its other addresses are unknown here, so that only the machine's own loopback is judged.
fn is_same(address: SocketAddr, own: SocketAddr) -> bool {
    let own_ip = own.ip().to_canonical();
    address.port() == own.port() && (own_ip == address.ip() || own_ip.is_unspecified() && address.ip().is_loopback())
}

impl EndpointUrl {
    /// Reads a URL.
    ///
    /// # Errors
    ///
    /// When it is no http or https URL with a host and nothing behind it.
    pub fn parse(url: &str) -> Result<Self, InvalidEndpoint> {
        let shown = || url.chars().take(128).collect::<String>();
        let wrong = |what| InvalidEndpoint::Url { url: shown(), what };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("has no scheme"))?;
        let secure = scheme.eq_ignore_ascii_case("https");
        if !secure && !scheme.eq_ignore_ascii_case("http") {
            return Err(wrong("is no http or https URL"));
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '\\']) {
            return Err(wrong("has a path, which requests bring themselves"));
        }
        if authority.contains('@') {
            return Err(wrong("names a user, which would be shown to everybody"));
        }
        let (host, port) = split_port(authority);
        let port = match port {
            None => default_port(secure),
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(|| wrong("has no valid port"))?,
        };
        let host = read_host(host).ok_or_else(|| wrong("has no valid host"))?;
        Ok(Self { secure, host, port })
    }

    /// Where it points.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Whether it is reached over TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// The port; 80, or 443 over TLS, unless given.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, as the endpoint's own `Host` header has it; without the port where it goes without saying.
    pub fn authority(&self) -> String {
        match (&self.host, self.port == default_port(self.secure)) {
            (Host::Address(IpAddr::V6(ip)), true) => format!("[{ip}]"),
            (Host::Address(ip), true) => ip.to_string(),
            (Host::Address(ip), false) => SocketAddr::new(*ip, self.port).to_string(),
            (Host::Name(name), true) => name.clone(),
            (Host::Name(name), false) => format!("{name}:{}", self.port),
        }
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.secure { "https" } else { "http" }, self.authority())
    }
}

/// The host in an authority: what a replica proves to be over TLS.
pub fn host_of(authority: &str) -> &str {
    let (host, _) = split_port(authority);
    host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host)
}

/// RFC 9110 §4.2: what goes without saying.
fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

/// RFC 3986 §3.2: the colons of an IPv6 address are inside brackets.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rfind(':') {
        Some(at) if !authority[at..].contains(']') => (&authority[..at], Some(&authority[at + 1..])),
        _ => (authority, None),
    }
}

fn read_host(host: &str) -> Option<Host> {
    if let Some(inner) = host.strip_prefix('[') {
        return Some(Host::Address(inner.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.into()));
    }
    if let Ok(ip) = host.parse() {
        return Some(Host::Address(IpAddr::V4(ip)));
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_label = |label: &str| {
        // Underscores are no host names (RFC 952), but container names have them.
        let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        plain && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    // A last label of digits only, or written in hex, is an address to some resolvers: 2852039166 is 169.254.169.254.
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    (name.len() <= 253 && name.split('.').all(is_label) && !numeric).then_some(Host::Name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        let own = ["127.0.0.1:8080".parse().unwrap(), "0.0.0.0:8090".parse().unwrap(), "[::1]:8080".parse().unwrap()];
        check_endpoint(url, &own).expect_err(url).to_string()
    }

    #[test]
    fn plain_urls_are_read() {
        let cases = [
            ("http://127.0.0.1:9001", "http://127.0.0.1:9001"),
            ("HTTP://Agents.Internal:9001/", "http://agents.internal:9001"),
            ("http://agents.internal.", "http://agents.internal"),
            ("http://[2001:db8::1]:80", "http://[2001:db8::1]"),
            ("http://[::1]:9001", "http://[::1]:9001"),
            ("http://worker_1:9001", "http://worker_1:9001"),
            ("http://agents.internal:443", "http://agents.internal:443"),
            ("https://agents.internal:443", "https://agents.internal"),
            ("https://agents.internal:80", "https://agents.internal:80"),
            ("HTTPS://[2001:db8::1]:9443", "https://[2001:db8::1]:9443"),
        ];
        for (text, expected) in cases {
            let url = check_endpoint(text, &[]).unwrap();
            assert_eq!(url.to_string(), expected);
            assert_eq!(EndpointUrl::parse(&url.to_string()).unwrap(), url);
        }
    }

    #[test]
    fn the_host_of_an_authority_has_neither_port_nor_brackets() {
        for url in
            ["https://a.internal", "https://a.internal:9", "https://10.0.0.7:9", "https://[::1]:9", "https://[::1]"]
        {
            let url = EndpointUrl::parse(url).unwrap();
            let host = match url.host() {
                Host::Address(ip) => ip.to_string(),
                Host::Name(name) => name.clone(),
            };
            assert_eq!(host_of(&url.authority()), host);
        }
    }

    #[test]
    fn what_is_no_plain_url_is_refused() {
        for url in [
            "",
            "127.0.0.1:9001",
            "ftp://a",
            "http://",
            "http://:80",
            "http://a:0",
            "http://a:99999",
            "http://a:x",
            "http://a/path",
            "http://a?q",
            "http://a#f",
            "http://user:secret@a",
            "http://a b",
            "http://-a",
            "http://a..b",
            "http://[::1",
            "http://[127.0.0.1]",
            "http://::1:80",
            "http://2852039166",
            "http://0xa9fea9fe",
            "http://127.1",
        ] {
            let message = refused(url);
            assert!(message.contains("such as http://"), "{message}");
            assert!(!message.contains("loopback"), "{message}");
        }
    }

    #[test]
    fn link_local_and_own_listeners_are_refused() {
        for url in [
            "http://169.254.169.254",
            "http://[fe80::1]:9001",
            "http://[::ffff:169.254.169.254]",
            "http://0.0.0.0:9001",
            "http://224.0.0.1:9001",
            "http://255.255.255.255:9001",
            "http://127.0.0.1:8080",
            "http://[::ffff:127.0.0.1]:8080",
            "http://localhost:8080",
            "http://api.localhost:8090",
            "http://127.0.0.7:8090",
        ] {
            assert!(refused(url).contains("give the address of a worker"), "{url}");
        }
        let own = ["127.0.0.1:8080".parse().unwrap()];
        assert!(check_endpoint("http://127.0.0.1:8081", &own).is_ok());
        assert!(check_address("10.0.0.1:8080".parse().unwrap(), &own).is_ok());
    }
}
