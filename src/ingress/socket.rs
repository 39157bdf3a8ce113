//! Sockets: who owns an address, one listening socket per core, options.
//!
//! Owns what is asked of the kernel. Accepted sockets inherit what is set on
//! the listening one (Linux copies it), so a new connection costs no calls.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::ingress::Error;
use crate::ingress::config::Config;

/// Connections that may wait to be accepted, per socket. The kernel cuts it to
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The sockets of one listening address, one per core.
pub(super) struct Bound {
    /// The address, with the port the kernel chose where 0 was asked for.
    pub(super) address: SocketAddr,
    /// One listening socket per core.
    pub(super) sockets: Vec<TcpListener>,
}

/// Binds every address of `listen`, and `[::1]` beside IPv4 loopback ones.
pub(super) fn bind_all(listen: &[SocketAddr], config: &Config) -> Result<Vec<Bound>, Error> {
    let mut all = Vec::new();
    for address in listen {
        let bound = bind(*address, config).map_err(|source| Error::Bind { address: *address, source })?;
        let twin = loopback_twin(bound.address).filter(|twin| !listen.contains(twin));
        all.push(bound);
        // Best effort: a machine without IPv6 has no [::1], and that is no fault.
        if let Some(twin) = twin {
            match bind(twin, config) {
                Ok(bound) => all.push(bound),
                Err(error) => tracing::warn!(address = %twin, %error, "not listening on the IPv6 loopback address"),
            }
        }
    }
    Ok(all)
}

fn loopback_twin(address: SocketAddr) -> Option<SocketAddr> {
    let is_loopback = address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST);
    is_loopback.then(|| SocketAddr::from((Ipv6Addr::LOCALHOST, address.port())))
}

fn bind(address: SocketAddr, config: &Config) -> io::Result<Bound> {
    // With SO_REUSEPORT from the start, a second process would share the port
    // silently and take half of the connections. Bound plainly first, an owner
    // shows; set after that, it lets only our own sockets join.
    let first = socket(address)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    let address = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    for _ in 1..config.cores() {
        let next = socket(address)?;
        next.set_reuse_port(true)?;
        next.bind(&address.into())?;
        sockets.push(next);
    }
    for socket in &sockets {
        tune(&SockRef::from(socket), config.peer_timeout.duration())?;
        socket.listen(BACKLOG)?;
    }
    Ok(Bound { address, sockets: sockets.into_iter().map(TcpListener::from).collect() })
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier process in TIME_WAIT do not keep the port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// What every connection gets, on both sides: no delay for small writes, and a
/// peer that is gone without a word is found.
pub(super) fn tune(socket: &SockRef<'_>, peer_timeout: Duration) -> io::Result<()> {
    // The kernel counts in whole seconds and refuses none.
    let peer_timeout = peer_timeout.max(Duration::from_secs(2));
    socket.set_tcp_nodelay(true)?;
    // Silent peers are asked after half of the time that sent bytes may stay
    // unacknowledged, and then every 10 s.
    let keepalive = TcpKeepalive::new().with_time(peer_timeout / 2).with_interval(Duration::from_secs(10));
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(peer_timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: &str, threads: usize) -> Config {
        Config {
            listen: vec![listen.parse().unwrap()],
            threads: Some(threads.try_into().unwrap()),
            ..Config::default()
        }
    }

    fn opened(listen: &str, threads: usize) -> Result<Vec<Bound>, Error> {
        let config = config(listen, threads);
        bind_all(&config.listen, &config)
    }

    #[test]
    fn an_address_in_use_is_refused_also_when_the_owner_shares_its_port() {
        let owner = opened("127.0.0.1:0", 2).unwrap();
        let taken = owner[0].address.to_string();
        let refused = opened(&taken, 2).err().unwrap();
        assert!(refused.to_string().contains(&taken), "{refused}");
        assert!(refused.to_string().contains("--ingress"), "{refused}");
    }

    #[test]
    fn each_core_has_its_own_socket_of_one_port() {
        let bound = opened("127.0.0.1:0", 3).unwrap();
        assert_eq!(bound[0].sockets.len(), 3);
        assert_ne!(bound[0].address.port(), 0);
        for socket in &bound[0].sockets {
            assert_eq!(socket.local_addr().unwrap(), bound[0].address);
        }
    }

    #[test]
    fn a_loopback_address_brings_its_ipv6_twin_along() {
        let bound = opened("127.0.0.1:0", 1).unwrap();
        let Some(twin) = bound.get(1) else { return assert!(TcpListener::bind("[::1]:0").is_err()) };
        assert_eq!(twin.address, SocketAddr::from((Ipv6Addr::LOCALHOST, bound[0].address.port())));
        assert_eq!(opened("[::1]:0", 1).unwrap().len(), 1);
    }

    #[test]
    fn accepted_sockets_inherit_their_options() {
        let bound = opened("127.0.0.1:0", 1).unwrap();
        let _client = std::net::TcpStream::connect(bound[0].address).unwrap();
        let listener = &bound[0].sockets[0];
        listener.set_nonblocking(false).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(Duration::from_secs(60)));
    }
}
