//! What the supervisor's helpers tell it.
//!
//! They all write to one queue. It has no bound, because each writer has: a
//! replica ends once, a probe tells only what changed.

use std::path::PathBuf;
use std::process::ExitStatus;

use crate::bundle;
use crate::bundle::digest::Digest;
use crate::logs::write::Capture;
use crate::model::id::EndpointId;
use crate::model::pool::{PoolError, PoolKey};

use super::health::Health;
use super::probe::Target;
use super::resolve::Resolved;

/// Something happened.
#[derive(Debug)]
pub(super) enum Event {
    /// A replica's process has ended, and with it its whole group.
    Ended { pool: PoolKey, replica: EndpointId, status: std::io::Result<ExitStatus>, capture: Capture },
    /// What went wrong is ready to be recorded.
    Fault { pool: PoolKey, error: PoolError },
    /// A bundle is unpacked, or could not be.
    Unpacked { pool: PoolKey, digest: Digest, result: Result<PathBuf, bundle::Error> },
    /// What is known about a target has changed.
    Probed(Target, Health),
    /// What a name came to has changed.
    Resolved(String, Resolved),
}
