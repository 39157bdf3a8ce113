//! What went wrong with a replica, as people read it in `deployment errors`.
//!
//! Pure. Messages hold no times, ports or process ids: the store counts equal
//! ones, so that a crash loop is one line with a number.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use jiff::Timestamp;

use crate::bundle;
use crate::model::pool::{PoolError, PoolErrorKind};

/// Lines of output kept with an error: a stack trace with what led to it.
pub(super) const OUTPUT_LINES: usize = 20;

/// A replica ended that should have run on.
pub(super) fn of_end(status: &io::Result<ExitStatus>, output: Vec<String>, at: Timestamp) -> PoolError {
    let taken = ["address already in use", "eaddrinuse", "address in use"];
    let says_taken = |line: &String| taken.iter().any(|text| line.to_ascii_lowercase().contains(text));
    let (kind, message) = match status {
        Ok(status) if status.signal().is_some() => (
            PoolErrorKind::Killed,
            format!("{}, which repoint did not send; if it needs more memory, raise limits.memory", ending(status)),
        ),
        Ok(_) if output.iter().any(says_taken) => (
            PoolErrorKind::PortTaken,
            "the worker ended because its port was in use; make it listen on $PORT, once".to_owned(),
        ),
        Ok(status) => (
            PoolErrorKind::CrashLoop,
            format!("{}; a worker has to run until it gets SIGTERM, see its output", ending(status)),
        ),
        Err(error) => (PoolErrorKind::Killed, format!("the worker was lost: {error}")),
    };
    PoolError { at, kind, message, output, count: 1 }
}

/// How a process ended, in words.
pub(super) fn ending(status: &ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("the worker exited with status {code}"),
        (None, Some(signal)) => format!("the worker was ended by signal {signal}"),
        (None, None) => "the worker ended".to_owned(),
    }
}

/// A replica is not ready when it should be.
pub(super) fn of_unready(probe_error: Option<&str>, timeout: &str, output: Vec<String>, at: Timestamp) -> PoolError {
    let why = match probe_error {
        Some("nothing listens there") => "nothing listens on its port; make it listen on $PORT".to_owned(),
        Some(error) => format!("{error}; see its output, or raise worker.ready_timeout"),
        None => "its probe has not answered yet; raise worker.ready_timeout".to_owned(),
    };
    let message = format!("the worker was not ready within {timeout}: {why}");
    PoolError { at, kind: PoolErrorKind::ReadinessTimeout, message, output, count: 1 }
}

/// A probe that had succeeded fails now.
pub(super) fn of_illness(error: Option<&str>, output: Vec<String>, at: Timestamp) -> PoolError {
    let message = format!("the worker runs but no longer answers its probe: {}", error.unwrap_or("no answer"));
    PoolError { at, kind: PoolErrorKind::Unhealthy, message, output, count: 1 }
}

/// No worker of an endpoint deployment answers.
pub(super) fn of_trouble(reasons: &str, at: Timestamp) -> PoolError {
    let message = format!("no endpoint takes requests: {reasons}");
    PoolError { at, kind: PoolErrorKind::Unhealthy, message, output: Vec::new(), count: 1 }
}

/// A bundle cannot be unpacked.
pub(super) fn of_bundle(error: &bundle::Error, at: Timestamp) -> PoolError {
    let (kind, message) = match error {
        bundle::Error::Rejected(rejected) => {
            (PoolErrorKind::ImageInvalid, format!("the bundle is damaged: {rejected}"))
        }
        missing if missing.is_missing() => (
            PoolErrorKind::ImageMissing,
            "the bundle is not on this machine; deploy the same directory again, which uploads it".to_owned(),
        ),
        bundle::Error::Io { source, .. } => {
            (PoolErrorKind::SchedulingFailed, format!("failed to unpack the bundle: {error}: {source}"))
        }
    };
    PoolError { at, kind, message, output: Vec::new(), count: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(raw: i32, output: &[&str]) -> PoolError {
        let output = output.iter().map(|line| (*line).to_owned()).collect();
        of_end(&Ok(ExitStatus::from_raw(raw)), output, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn ends_are_told_apart() {
        let cases = [
            (0, &["bye"][..], PoolErrorKind::CrashLoop, "status 0"),
            (3 << 8, &[], PoolErrorKind::CrashLoop, "status 3"),
            (9, &[], PoolErrorKind::Killed, "signal 9"),
            (1 << 8, &["OSError: [Errno 98] Address already in use"], PoolErrorKind::PortTaken, "$PORT"),
            (1 << 8, &["Error: listen EADDRINUSE: address"], PoolErrorKind::PortTaken, "$PORT"),
        ];
        for (raw, output, kind, part) in cases {
            let error = end(raw, output);
            assert_eq!(error.kind, kind);
            assert!(error.message.contains(part), "{}", error.message);
        }
    }

    #[test]
    fn a_worker_that_never_listens_is_told_which_variable_to_read() {
        let error = of_unready(Some("nothing listens there"), "2s", Vec::new(), Timestamp::UNIX_EPOCH);
        assert_eq!(error.kind, PoolErrorKind::ReadinessTimeout);
        assert!(error.message.contains("$PORT"), "{}", error.message);
    }

    #[test]
    fn a_missing_bundle_is_not_called_damaged() {
        let source = io::Error::from(io::ErrorKind::NotFound);
        let missing = bundle::Error::Io { doing: "open the bundle", path: "x".into(), source };
        assert_eq!(of_bundle(&missing, Timestamp::UNIX_EPOCH).kind, PoolErrorKind::ImageMissing);
        let source = io::Error::from(io::ErrorKind::StorageFull);
        let full = bundle::Error::Io { doing: "unpack the file", path: "x".into(), source };
        assert_eq!(of_bundle(&full, Timestamp::UNIX_EPOCH).kind, PoolErrorKind::SchedulingFailed);
        let rejected = bundle::Rejected::NoManifest.into();
        assert_eq!(of_bundle(&rejected, Timestamp::UNIX_EPOCH).kind, PoolErrorKind::ImageInvalid);
    }
}
