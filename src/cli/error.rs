//! Why a command failed, what it exits with and what it says.

use serde_json::{Value, json};

use crate::bundle::pack;
use crate::cli::context;
use crate::rest::moves::Move;

/// Why a command failed. Reads as "failed to …", but for what the server said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something has to be said differently, or said at all.
    #[error("{0}")]
    Usage(String),
    /// Nobody was there to say yes, or they said no.
    #[error("{question}: {why}")]
    Unconfirmed {
        /// What was to be confirmed.
        question: String,
        /// Why it was not, and what to do.
        why: &'static str,
    },
    /// No connection, or it broke.
    #[error(
        "reach the server at {server}: {reason}; is `repoint up` running? Start it, or name another server with --server \
         or REPOINT_SERVER"
    )]
    Unreachable {
        /// Where it was looked for.
        server: String,
        /// What happened.
        reason: String,
    },
    /// Something else listens there.
    #[error("read the answer of {server}: {detail}; is this the API address that `repoint up` printed?")]
    NoApi {
        /// Who answered.
        server: String,
        /// With what.
        detail: String,
    },
    /// The key is missing or wrong.
    #[error("be let in by {server}: {reason}")]
    Unauthorized {
        /// Who refused.
        server: String,
        /// Where the key came from, and what to do.
        reason: String,
    },
    /// The server refused, in its own words.
    #[error("{message}")]
    Refused {
        /// Its code, a word that this build may not know.
        code: String,
        /// For people.
        message: String,
        /// The body as it was.
        body: Value,
    },
    /// A pending move ended without moving the pointer.
    #[error("{message}")]
    NotMoved {
        /// What happened and what to do, for people.
        message: String,
        /// The move.
        ended: Box<Move>,
    },
    /// A name that nothing has.
    #[error("find {noun} {name:?}{hint}")]
    NotFound {
        /// Which noun, and where it was looked for.
        noun: String,
        /// As given.
        name: String,
        /// Near names, or what there is.
        hint: String,
    },
    /// The context file.
    #[error(transparent)]
    Context(#[from] context::Error),
    /// The directory cannot be deployed as it is.
    #[error(transparent)]
    Directory(#[from] pack::Error),
    /// A file that was named cannot be read or written.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// With which.
        path: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Standard output is closed or full.
    #[error("write to standard output: {0}")]
    Output(#[source] std::io::Error),
}

impl Error {
    /// What the process exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Unconfirmed { .. } => 2,
            _ => 1,
        }
    }

    /// The line for people.
    pub fn line(&self) -> String {
        match self {
            // The server speaks in sentences of its own.
            Self::Refused { .. } | Self::NotMoved { .. } => format!("error: {self}"),
            _ => format!("error: failed to {}", self.chain()),
        }
    }

    /// This error and what caused it.
    fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let said = error.to_string();
            // Some messages name their cause already.
            if !text.ends_with(&said) && !text.contains(&format!("{said};")) {
                text = format!("{text}: {said}");
            }
            cause = error.source();
        }
        text
    }

    /// The object for programs: the server's own where it sent one.
    pub fn json(&self) -> Value {
        match self {
            Self::Refused { body, .. } => body.clone(),
            Self::NotMoved { message, ended } => {
                json!({"error": {"code": ended.state.as_str(), "message": message, "details": {"move": ended}}})
            }
            _ => {
                json!({"error": {"code": self.code(), "message": format!("failed to {}", self.chain()), "details": {}}})
            }
        }
    }

    /// Codes of the command line itself. Where the server has a word for the same thing it is that word.
    fn code(&self) -> &str {
        match self {
            Self::Usage(_) => "usage",
            Self::Unconfirmed { .. } => "confirmation_needed",
            Self::Unreachable { .. } => "server_unreachable",
            Self::NoApi { .. } => "answer_invalid",
            Self::Unauthorized { .. } => "unauthorized",
            Self::Refused { code, .. } => code,
            Self::NotMoved { ended, .. } => ended.state.as_str(),
            Self::NotFound { noun, .. } if noun.starts_with("environment") => "environment_not_found",
            Self::NotFound { noun, .. } if noun.starts_with("project") => "project_not_found",
            Self::NotFound { .. } => "deployment_not_found",
            Self::Context(_) => "context_unusable",
            Self::Directory(_) => "directory_invalid",
            Self::File { .. } => "file_unusable",
            Self::Output(_) => "output_failed",
        }
    }
}
