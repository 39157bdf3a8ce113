//! Looking at the settings of an ingress without starting one.
//!
//! Reads the files that a start reads and tries what a start needs, and tells
//! everything that is wrong rather than the first of it. Leaves nothing behind:
//! no file, no socket.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::{Access, access};

use crate::ingress::Error;
use crate::ingress::config::{AccessLog, Config, Spans};
use crate::ingress::tls;
use crate::ingress::watched::WATCHED_MAX;
use crate::replica_tls::ReplicaTls;
use crate::telemetry::otlp;

/// What would keep an ingress with these settings from starting, or from serving
/// everything they name. Addresses are the caller's: it knows those of the others.
pub fn check(config: &Config) -> Vec<Error> {
    let mut problems = Vec::new();
    if config.metrics_environments.len() > WATCHED_MAX {
        problems.push(Error::Watched(config.metrics_environments.len()));
    }
    problems.extend(spans(&config.spans).err());
    problems.extend(ReplicaTls::new(&config.replica_ca).err().map(Error::ReplicaCa));
    // Without an address nothing of it is used; it is read all the same, so that
    // adding one is not when it turns out to be wrong.
    if !config.tls.certificates.is_empty() || !config.tls.listen.is_empty() || config.tls.self_signed {
        problems.extend(tls::check(&config.tls).into_iter().map(Error::Tls));
    }
    if let AccessLog::File(path) = &config.access_log {
        problems.extend(is_appendable(path).err().map(Error::AccessLog));
    }
    problems
}

/// Whether spans could be sent.
pub(super) fn spans(spans: &Spans) -> Result<(), Error> {
    if !(0.0..=1.0).contains(&spans.ratio) {
        return Err(Error::SpansRatio(spans.ratio));
    }
    Ok(spans.endpoint.as_deref().map_or(Ok(()), otlp::check)?)
}

fn is_appendable(path: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if !fs::metadata(parent)?.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            Ok(access(parent, Access::WRITE_OK)?)
        }
        opened => opened.map(drop),
    }
}
