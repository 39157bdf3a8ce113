//! What a request says about where it wants to go.
//!
//! Borrowed from the request as it arrived. The host is folded into a buffer on
//! the stack, so that matching neither allocates nor copies the request.

/// Where a request wants to go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Address<'a> {
    /// `Host` or `:authority` as received; a port and a trailing dot may follow.
    pub host: &'a [u8],
    /// `X-Deployment-ID`: a deployment's id or ref.
    pub pin: Option<&'a [u8]>,
    /// `X-Project`, looked at on shared hosts only.
    pub project: Option<&'a [u8]>,
    /// `X-Environment`, looked at on shared hosts only.
    pub environment: Option<&'a [u8]>,
}

/// Longest host there can be (RFC 1035 §2.3.4).
const HOST_MAX: usize = 253;

/// A host in lower case without port and trailing dot, on the stack.
pub struct Folded {
    bytes: [u8; HOST_MAX],
    length: usize,
}

impl Folded {
    /// Folds a host as received; `None` when it is too long to be one.
    pub fn host(received: &[u8]) -> Option<Self> {
        let name = without_port(received);
        let mut folded = Self::of_parts(name.strip_suffix(b".").unwrap_or(name), b"")?;
        folded.bytes.make_ascii_lowercase();
        Some(folded)
    }

    /// The wildcard that covers this host: its first label replaced by `*`.
    pub fn wildcard(&self) -> Option<Self> {
        let dot = self.as_bytes().iter().position(|b| *b == b'.')?;
        Self::of_parts(b"*", &self.as_bytes()[dot..])
    }

    /// The folded bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn of_parts(first: &[u8], second: &[u8]) -> Option<Self> {
        let (mut bytes, length) = ([0; HOST_MAX], first.len() + second.len());
        bytes.get_mut(..first.len())?.copy_from_slice(first);
        bytes.get_mut(first.len()..length)?.copy_from_slice(second);
        Some(Self { bytes, length })
    }
}

/// The names inside the host of a deployment:
/// `{project}--{ref}[--{environment}]`, before `.{base_domain}`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeploymentHost<'a> {
    /// The project's name.
    pub project: &'a [u8],
    /// The deployment's ref.
    pub reference: &'a [u8],
    /// The environment's name; `preview` goes without saying.
    pub environment: &'a [u8],
}

impl<'a> DeploymentHost<'a> {
    /// Reads a folded host; `None` when it is not of this form.
    pub fn parse(host: &'a [u8], base_domain: &[u8]) -> Option<Self> {
        let label = host.strip_suffix(base_domain)?.strip_suffix(b".")?;
        if label.contains(&b'.') {
            return None;
        }
        let (project, rest) = split_twin_hyphen(label)?;
        let (reference, environment) = split_twin_hyphen(rest).unwrap_or((rest, b"preview"));
        Some(Self { project, reference, environment })
    }
}

fn split_twin_hyphen(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.windows(2).position(|pair| pair == b"--")?;
    Some((&text[..at], &text[at + 2..]))
}

/// RFC 3986 §3.2.2: a port follows the last colon, unless that colon is inside
/// the brackets of an IPv6 literal.
fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|b| *b == b':') {
        Some(colon) if host[colon + 1..].iter().all(u8::is_ascii_digit) => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(host: &str) -> String {
        String::from_utf8(Folded::host(host.as_bytes()).unwrap().as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn hosts_are_compared_without_case_port_and_trailing_dot() {
        for host in ["Agents.Example.COM", "agents.example.com.", "agents.example.com:8080", "AGENTS.example.com.:80"] {
            assert_eq!(folded(host), "agents.example.com");
        }
        assert_eq!(folded("[::1]:8080"), "[::1]");
        assert_eq!(folded("[::1]"), "[::1]");
    }

    #[test]
    fn what_is_too_long_for_a_host_is_none() {
        assert!(Folded::host(&[b'a'; 254]).is_none());
        assert!(Folded::host(&[b'a'; 253]).is_some());
        assert!(Folded::host(&[b'A'; 254]).is_none());
        assert!(Folded::host(&[b'A'; 253]).is_some());
    }

    #[test]
    fn a_wildcard_covers_one_label() {
        let wildcard = Folded::host(b"a.b.example.com").unwrap().wildcard().unwrap();
        assert_eq!(wildcard.as_bytes(), b"*.b.example.com");
        assert!(Folded::host(b"localhost").unwrap().wildcard().is_none());
    }

    #[test]
    fn deployment_hosts_name_project_ref_and_environment() {
        let parse = |host: &'static [u8]| DeploymentHost::parse(host, b"localhost");
        let host = parse(b"support--k3v9x2ab.localhost").unwrap();
        assert_eq!(
            (host.project, host.reference, host.environment),
            (&b"support"[..], &b"k3v9x2ab"[..], &b"preview"[..])
        );
        let host = parse(b"a-b--k3v9x2ab--my-env.localhost").unwrap();
        assert_eq!((host.project, host.environment), (&b"a-b"[..], &b"my-env"[..]));
        for other in [&b"support-preview.localhost"[..], b"localhost", b"x.a--b.localhost", b"a--b.example.com"] {
            assert_eq!(DeploymentHost::parse(other, b"localhost"), None);
        }
    }
}
