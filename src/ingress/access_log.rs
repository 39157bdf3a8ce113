//! The access log: one line per finished request, JSON or text.
//!
//! Owns the form of a line and the way out: a writer that drops and counts
//! rather than stalls a core. Path and host are kept as the client sent them,
//! the query is left out, because tokens travel in it. `exchange` fills lines in.

mod combined;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU32;

use http::{HeaderValue, Method, Uri, Version};
use jiff::Timestamp;
use serde::Serialize;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use crate::ingress::config::{AccessLog, Config, LogFormat};

/// Lines that may wait for the writer; further ones are dropped and counted.
/// About 16 MiB at usual lengths.
const QUEUE_LINES: usize = 32 * 1024;

/// Where lines go in; one per core.
#[derive(Clone)]
pub(super) struct Writer {
    out: NonBlocking,
    format: LogFormat,
    /// One in so many is written.
    sample: NonZeroU32,
}

/// Writes what waits when dropped.
pub(super) struct Guard {
    _worker: WorkerGuard,
}

/// How many lines were dropped.
#[derive(Clone, Debug, Default)]
pub(super) struct Dropped(Option<ErrorCounter>);

impl Dropped {
    /// So many.
    pub(super) fn lines(&self) -> u64 {
        self.0.as_ref().map_or(0, |counter| counter.dropped_lines() as u64)
    }
}

/// Opens the log; nothing when it is off.
pub(super) fn open(config: &Config) -> io::Result<Option<(Writer, Guard, Dropped)>> {
    let out: Box<dyn Write + Send> = match &config.access_log {
        AccessLog::Off => return Ok(None),
        AccessLog::Stdout => Box::new(io::stdout()),
        AccessLog::File(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
    };
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE_LINES);
    let (out, worker) = builder.thread_name("access-log").finish(out);
    let dropped = Dropped(Some(out.error_counter()));
    let writer = Writer { out, format: config.access_log_format, sample: config.access_log_sample };
    Ok(Some((writer, Guard { _worker: worker }, dropped)))
}

impl Writer {
    /// For how many requests the line of this one stands: `None`, it is not to be
    /// written. Drawn by lot; one that went wrong is written in any case, and for
    /// itself alone.
    pub(super) fn weight(&self, went_wrong: bool) -> Option<u32> {
        match self.sample.get() {
            _ if went_wrong => Some(1),
            1 => Some(1),
            sample => (fastrand::u32(..sample) == 0).then_some(sample),
        }
    }

    /// Whether lines stand for more requests than one.
    pub(super) fn is_sampled(&self) -> bool {
        self.sample.get() > 1
    }

    /// Writes a line, or drops and counts it.
    pub(super) fn write(&mut self, line: &Line<'_>) {
        let mut bytes = Vec::with_capacity(512);
        match self.format {
            LogFormat::Text => combined::write(&mut bytes, line),
            // Writing into memory does not fail, and no map in a line has keys that
            // are not text.
            LogFormat::Json => drop(serde_json::to_writer(&mut bytes, line)),
        }
        bytes.push(b'\n');
        // A lossy writer counts what it cannot take and reports no error.
        let _ = self.out.write_all(&bytes);
    }
}

/// What is remembered of a request's head until its line is written. Handles on
/// the bytes that arrived, not copies.
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) host: Option<HeaderValue>,
    pub(super) traceparent: Option<HeaderValue>,
    pub(super) tracestate: Option<HeaderValue>,
}

impl Head {
    /// The host that was asked for, as it was written.
    pub(super) fn authority(&self) -> &str {
        let target = || self.uri.authority().map_or("", |authority| authority.as_str());
        if self.host.is_some() { text(&self.host) } else { target() }
    }
}

/// A header's value, where it is visible ASCII; else nothing.
pub(super) fn text(value: &Option<HeaderValue>) -> &str {
    value.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// One line. Absent facts are left out.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    pub(super) time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) project: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) environment: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) deployment: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) revision: Option<u64>,
    pub(super) client: &'a str,
    pub(super) protocol: &'static str,
    pub(super) method: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    /// Absent when the client left before there was an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    /// The replica it was sent to last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upstream: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<&'static str>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// From the request's head to the head of its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) answer_ms: Option<f64>,
    /// From the request's head to the last byte of its answer.
    pub(super) duration_ms: f64,
    pub(super) retries: u32,
    pub(super) tunnel: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) request_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) trace_id: &'a str,
    /// For how many requests it stands, where not each has its line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) weight: Option<u32>,
}

/// The name of a protocol version, as access logs spell it.
pub(super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(in crate::ingress::access_log) fn line<'a>() -> Line<'a> {
        Line {
            time: Timestamp::UNIX_EPOCH,
            project: None,
            environment: Some("staging"),
            deployment: None,
            revision: Some(7),
            client: "127.0.0.1",
            protocol: protocol(Version::HTTP_11),
            method: "GET",
            host: "a.localhost",
            path: "/\"\n",
            status: Some(200),
            upstream: None,
            error: None,
            bytes_in: 0,
            bytes_out: 5,
            answer_ms: Some(0.5),
            duration_ms: 1.0,
            retries: 0,
            tunnel: false,
            request_id: "",
            trace_id: "",
            weight: None,
        }
    }

    fn to(access_log: AccessLog) -> Config {
        Config { access_log, ..Config::default() }
    }

    #[test]
    fn one_in_so_many_is_written_and_what_went_wrong_in_any_case() {
        let folder = tempfile::tempdir().unwrap();
        let config = to(AccessLog::File(folder.path().join("access.log")));
        let sampled = Config { access_log_sample: NonZeroU32::new(10).unwrap(), ..config.clone() };
        let (writer, ..) = open(&sampled).unwrap().unwrap();
        let written =
            (0..10_000).filter_map(|_| writer.weight(false)).inspect(|weight| assert_eq!(*weight, 10)).count();
        // Ten standard deviations.
        assert!((700..1_300).contains(&written), "{written}");
        assert!((0..1_000).all(|_| writer.weight(true) == Some(1)));
        let (writer, ..) = open(&config).unwrap().unwrap();
        assert!((0..1_000).all(|_| writer.weight(false) == Some(1)) && !writer.is_sampled());
    }

    #[test]
    fn a_line_is_one_object_whatever_the_client_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let (mut writer, guard, dropped) = open(&to(AccessLog::File(path.clone()))).unwrap().unwrap();
        writer.write(&line());
        writer.write(&line());
        drop(guard);
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 2);
        let object: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((&object["path"], &object["revision"]), (&"/\"\n".into(), &7.into()));
        assert!(object.get("error").is_none());
        assert_eq!(dropped.lines(), 0);
    }

    #[test]
    fn a_log_that_is_off_costs_nothing_and_one_that_cannot_be_opened_says_so() {
        assert!(open(&to(AccessLog::Off)).unwrap().is_none());
        assert!(open(&to(AccessLog::File("/does/not/exist/access.log".into()))).is_err());
    }
}
