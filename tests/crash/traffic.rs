//! Users of an ingress: one that asks all the time, one that holds a stream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::support::http::Client;
use super::support::replica::Replica;
use super::support::until;

/// Asks for `/` on one connection until it is ended, which panics if any answer was not a 200.
pub struct Load {
    done: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    running: Option<JoinHandle<Vec<String>>>,
}

impl Load {
    pub fn begin(ingress: SocketAddr, host: &str) -> Self {
        let (done, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop, count, host) = (Arc::clone(&done), Arc::clone(&answers), host.to_owned());
        let running = std::thread::spawn(move || {
            let (mut client, mut wrong) = (Client::connect(ingress), Vec::new());
            while !stop.load(Ordering::SeqCst) && wrong.len() < 10 {
                match client.request("GET", &host, "/", &[], b"") {
                    Ok(response) if response.status == 200 => {}
                    Ok(response) => wrong.push(format!("{response:?}")),
                    Err(error) => {
                        wrong.push(error.to_string());
                        client = Client::connect(ingress);
                    }
                }
                count.fetch_add(1, Ordering::SeqCst);
                // What is under test needs the cores more.
                std::thread::sleep(Duration::from_millis(1));
            }
            wrong
        });
        Self { done, answers, running: Some(running) }
    }

    /// Waits until another request was begun and answered.
    pub fn goes_on(&self) {
        let before = self.answers.load(Ordering::SeqCst);
        until("the load to go on", || (self.answers.load(Ordering::SeqCst) >= before + 2).then_some(()));
    }

    pub fn end(mut self) {
        self.done.store(true, Ordering::SeqCst);
        let wrong = self.running.take().expect("it ends once").join().expect("it does not panic");
        assert_eq!(wrong, Vec::<String>::new());
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
    }
}

/// A stream that stays where it began.
pub struct Stream {
    client: Client,
    events: u64,
}

impl Stream {
    pub fn open(ingress: SocketAddr, host: &str, replica: &Replica) -> Self {
        let mut client = Client::connect(ingress);
        client.send("GET", host, "/stream", &[], b"").expect("sent");
        let (status, _) = client.head().expect("the head comes before the first event");
        assert_eq!(status, 200);
        replica.streams_open(1);
        Self { client, events: 0 }
    }

    /// Sends an event from the replica and waits for it here.
    pub fn goes_on(&mut self, replica: &Replica) {
        self.events += 1;
        replica.emit(&format!("event {}", self.events));
        let chunk = self.client.chunk().expect("the stream goes on").expect("it is not over");
        let chunk = String::from_utf8_lossy(&chunk).into_owned();
        assert!(chunk.ends_with(&format!("event {}\n\n", self.events)), "{chunk}");
    }
}
