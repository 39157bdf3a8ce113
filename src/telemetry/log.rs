//! Log lines: where they go and what they look like.
//!
//! Lines go to standard error, so that standard output stays for what a command
//! answers. `REPOINT_LOG` filters as `RUST_LOG` does (`info`, `repoint=debug`).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter does not parse.
    #[error("read REPOINT_LOG={0:?}: give a level such as info, or module=level pairs such as repoint=debug")]
    Filter(String),
    /// Somebody set up logging already.
    #[error("set up logging twice in one process")]
    Twice,
}

/// What `REPOINT_LOG` says, or all from `info` on.
///
/// # Errors
///
/// When it does not parse.
pub fn filter() -> Result<EnvFilter, Error> {
    match std::env::var("REPOINT_LOG") {
        Ok(text) => text.parse().map_err(|_| Error::Filter(text)),
        Err(_) => Ok(EnvFilter::new("info")),
    }
}

/// Sends this process's log lines to standard error.
///
/// # Errors
///
/// When `REPOINT_LOG` does not parse, or logging is set up already.
pub fn init(format: Format) -> Result<(), Error> {
    let filter = filter()?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let done = match format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    };
    done.map_err(|_| Error::Twice)
}
