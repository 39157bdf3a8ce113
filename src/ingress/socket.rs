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

/// A listening socket that was bound before this process began, by an init
/// system or by the process that this one replaces. What waits in its queue is
/// reset only when nobody has it any more.
#[derive(Debug)]
pub struct Given {
    /// The socket.
    pub listener: TcpListener,
    /// The address that was asked for, which may have had port 0.
    pub asked: SocketAddr,
    /// Whether its connections speak TLS.
    pub encrypted: bool,
    /// Whether it is listened on whatever the settings say: who bound it decides.
    pub is_fixed: bool,
}

impl Given {
    /// Another descriptor of the same socket, with the same queue.
    pub(super) fn share(&self) -> io::Result<Self> {
        Ok(Self { listener: self.listener.try_clone()?, ..*self })
    }
}

/// The sockets of one listening address.
pub(super) struct Bound {
    /// The address, with the port the kernel chose where 0 was asked for.
    pub(super) address: SocketAddr,
    /// One listening socket per core, where they are our own; of those that were
    /// given as many as were given.
    pub(super) sockets: Vec<Given>,
}

/// Binds every address of `listen`, and `[::1]` beside IPv4 loopback ones, for
/// connections of one kind. What is `given` for an address is taken instead, and
/// nothing is bound beside it: whoever gave it decided on that.
pub(super) fn bind_all(
    listen: &[SocketAddr],
    encrypted: bool,
    given: &mut Vec<Given>,
    config: &Config,
) -> Result<Vec<Bound>, Error> {
    let mut all = Vec::new();
    for address in listen {
        let flag = if encrypted { "--tls-listen" } else { "--ingress" };
        let failed = |source| Error::Bind { address: *address, flag, source };
        let adopted = adopt(*address, encrypted, given, config).map_err(failed)?;
        let is_given = adopted.is_some();
        let bound = adopted.map_or_else(|| bind(*address, encrypted, config), Ok).map_err(failed)?;
        let twin = loopback_twin(bound.address).filter(|twin| !listen.contains(twin));
        all.push(bound);
        let Some(twin) = twin else { continue };
        if is_given {
            all.extend(adopt(twin, encrypted, given, config).map_err(failed)?);
            continue;
        }
        // Best effort: a machine without IPv6 has no [::1], and that is no fault.
        match bind(twin, encrypted, config) {
            Ok(bound) => all.push(bound),
            Err(error) => tracing::warn!(address = %twin, %error, "not listening on the IPv6 loopback address"),
        }
    }
    Ok(all)
}

/// Deals sockets out to cores, each with whether it is for TLS. Where there are
/// fewer than cores, some cores share one: each accepts what it comes to first.
pub(super) fn deal(bound: &[Bound], cores: usize) -> io::Result<Vec<Vec<(TcpListener, bool)>>> {
    let mut dealt: Vec<Vec<_>> = (0..cores).map(|_| Vec::new()).collect();
    for Bound { sockets, .. } in bound {
        for index in 0..sockets.len().max(cores) {
            let socket = &sockets[index % sockets.len()];
            dealt[index % cores].push((socket.listener.try_clone()?, socket.encrypted));
        }
    }
    Ok(dealt)
}

fn loopback_twin(address: SocketAddr) -> Option<SocketAddr> {
    let is_loopback = address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST);
    is_loopback.then(|| SocketAddr::from((Ipv6Addr::LOCALHOST, address.port())))
}

/// The sockets that were given for an address.
fn adopt(asked: SocketAddr, encrypted: bool, given: &mut Vec<Given>, config: &Config) -> io::Result<Option<Bound>> {
    let local = |given: &Given| given.listener.local_addr().ok().filter(|_| given.encrypted == encrypted);
    let found = given.iter().find_map(|given| local(given).filter(|local| given.asked == asked || *local == asked));
    let Some(address) = found else { return Ok(None) };
    let sockets: Vec<_> = given.extract_if(.., |given| local(given) == Some(address)).collect();
    for socket in &sockets {
        socket.listener.set_nonblocking(true)?;
        listen(&SockRef::from(&socket.listener), config)?;
    }
    Ok(Some(Bound { address, sockets }))
}

fn bind(asked: SocketAddr, encrypted: bool, config: &Config) -> io::Result<Bound> {
    // With SO_REUSEPORT from the start, a second process would share the port
    // silently and take half of the connections. Bound plainly first, an owner
    // shows; set after that, it lets only our own sockets join.
    let first = socket(asked)?;
    first.bind(&asked.into())?;
    first.set_reuse_port(true)?;
    let address = first.local_addr()?.as_socket().unwrap_or(asked);
    let mut sockets = vec![first];
    for _ in 1..config.cores() {
        let next = socket(address)?;
        next.set_reuse_port(true)?;
        next.bind(&address.into())?;
        sockets.push(next);
    }
    for socket in &sockets {
        listen(&SockRef::from(socket), config)?;
    }
    let given = |socket: Socket| Given { listener: socket.into(), asked, encrypted, is_fixed: false };
    Ok(Bound { address, sockets: sockets.into_iter().map(given).collect() })
}

fn listen(socket: &SockRef<'_>, config: &Config) -> io::Result<()> {
    tune(socket, config.peer_timeout.duration())?;
    socket.listen(BACKLOG)
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
        bind_all(&config.listen, false, &mut Vec::new(), &config)
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
            assert_eq!(socket.listener.local_addr().unwrap(), bound[0].address);
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
        let listener = &bound[0].sockets[0].listener;
        listener.set_nonblocking(false).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(Duration::from_secs(60)));
    }
    #[test]
    fn given_sockets_are_taken_for_the_address_that_was_asked_for_and_dealt_to_every_core() {
        let config = config("127.0.0.1:0", 2);
        let first = bind_all(&config.listen, false, &mut Vec::new(), &config).unwrap();
        let given = || first.iter().flat_map(|bound| &bound.sockets);
        let shared = || given().map(|given| given.share().unwrap()).collect::<Vec<_>>();
        let more = Config { threads: Some(3.try_into().unwrap()), ..config.clone() };
        let second = bind_all(&config.listen, false, &mut shared(), &more).unwrap();
        let addresses = |bound: &[Bound]| bound.iter().map(|bound| bound.address).collect::<Vec<_>>();
        assert_eq!(addresses(&second), addresses(&first), "nothing new is bound, the IPv6 twin included");
        assert_eq!(second[0].sockets.len(), 2);
        let dealt = |cores| deal(&second[..1], cores).unwrap().iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!((dealt(1), dealt(2), dealt(3)), (vec![2], vec![1, 1], vec![1, 1, 1]), "none is left out");

        let other = bind_all(&config.listen, true, &mut shared(), &config).unwrap();
        assert_ne!(other[0].address, first[0].address, "what is given for plain connections is not taken for TLS");
    }

    #[test]
    fn nothing_is_bound_beside_what_was_given() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let asked = listener.local_addr().unwrap();
        let given = Given { listener, asked, encrypted: false, is_fixed: true };
        let bound = bind_all(&[asked], false, &mut vec![given], &config("127.0.0.1:0", 2)).unwrap();
        assert_eq!((bound.len(), bound[0].address, bound[0].sockets.len()), (1, asked, 1));
    }
}
