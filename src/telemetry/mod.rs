//! Logs, metrics, spans and the admin listener.
//!
//! Owns how Repoint is seen from outside: one subscriber for log lines, one
//! registry each module adds its own metrics to, one way to a collector of spans,
//! one small listener for probes and scrapes. Knows nothing of what is measured.

pub mod admin;
pub mod log;
pub mod metrics;
pub mod otlp;
