//! A network that a test can cut: connections to it are carried on to a server,
//! until it is cut, and again once it is mended.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A running relay. Ends with the test.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    is_cut: bool,
    open: Vec<TcpStream>,
}

impl Relay {
    /// Carries what arrives on to `server`.
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Mutex::new(Shared::default()));
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // Whoever dials while it is cut, or while the server is gone, is hung up on.
                let _ = carry(near, server, &accepting);
            }
        });
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection, and lets no further one through.
    pub fn cut(&self) {
        let mut shared = self.shared.lock().expect(CALM);
        shared.is_cut = true;
        for stream in shared.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.shared.lock().expect(CALM).is_cut = false;
    }
}

fn carry(near: TcpStream, server: SocketAddr, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let mut shared = shared.lock().expect(CALM);
    if shared.is_cut {
        return Ok(());
    }
    let far = TcpStream::connect(server)?;
    shared.open.extend([near.try_clone()?, far.try_clone()?]);
    for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        std::thread::spawn(move || copy(from, to));
    }
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

const CALM: &str = "no thread panics while it holds this";
