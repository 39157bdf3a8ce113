//! What every client of the run is given, and what they count together.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::checks::Tally;
use crate::timeline::{Moment, Timeline};

/// Why a client was not served as it should have been.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// An environment under load.
pub struct Site {
    pub address: SocketAddr,
    pub host: String,
    pub timeline: Arc<Timeline>,
    /// What the replicas of each deployment call themselves.
    pub labels: HashMap<String, &'static str>,
    pub shared: Arc<Shared>,
}

/// What all clients share.
#[derive(Default)]
pub struct Shared {
    pub tally: Arc<Tally>,
    pub done: AtomicBool,
    pub unary: AtomicU64,
    pub streaming: AtomicU64,
    pub websockets: AtomicU64,
    pub messages: AtomicU64,
    pub slow_readers: AtomicU64,
    pub slow_heads: AtomicU64,
    pub slow_bodies: AtomicU64,
}

impl Shared {
    /// Whether the run is over.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }
}

impl Site {
    /// Whether `deployment` may have answered what was sent at `sent`.
    pub fn check(&self, sent: Moment, deployment: &str) -> Result<(), Failure> {
        match self.timeline.allows(sent, deployment) {
            (false, _) => Err(format!("{deployment} served a request sent after the pointer had left it").into()),
            (true, exact) => {
                self.shared.tally.exact.fetch_add(u64::from(exact), Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// What replicas of `deployment` call themselves.
    pub fn label(&self, deployment: &str) -> Result<&'static str, Failure> {
        self.labels.get(deployment).copied().ok_or_else(|| format!("{deployment} is none of ours").into())
    }
}

/// The pace of a client.
pub async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// The deployment that an answer says it comes from.
pub fn deployment(headers: &http::HeaderMap) -> Result<String, Failure> {
    Ok(headers.get("x-deployment-id").ok_or("an answer without X-Deployment-ID")?.to_str()?.to_owned())
}
