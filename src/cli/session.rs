//! A session: the server a command talks to, and the console it talks on.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::args::Common;
use crate::cli::client::Client;
use crate::cli::console::Console;
use crate::cli::context;
use crate::cli::error::Error;

/// Where the REST API is unless somebody says otherwise: `repoint up`'s default.
const SERVER_DEFAULT: &str = "http://127.0.0.1:8090";

/// What every command needs.
pub struct Session<'a> {
    /// The server.
    pub client: Client,
    /// Results, remarks and questions.
    pub console: &'a mut Console,
    /// `--project` or `REPOINT_PROJECT`.
    pub project: Option<String>,
    /// Where `repoint.toml` is looked for.
    pub directory: PathBuf,
    /// How long a committed move is followed.
    pub patience: Patience,
}

/// How long a move is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// For the proxies, once the move is committed.
    pub applied: Duration,
    /// Longest single question in between.
    pub step: Duration,
    /// Beyond the move's own deadline, for a server that has other things to do.
    pub deadline_grace: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            // 40 s: longer than a proxy needs to be found suspect and to come back.
            applied: Duration::from_secs(40),
            // 2 s: a person sees that it goes on.
            step: Duration::from_secs(2),
            deadline_grace: Duration::from_secs(30),
        }
    }
}

impl<'a> Session<'a> {
    /// A session with the server that flags, variables or the context name.
    pub fn open(common: &Common, console: &'a mut Console) -> Result<Self, Error> {
        let given = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
        let client = connect(given(&common.server), given(&common.api_key))?;
        Ok(Self {
            client,
            console,
            project: given(&common.project),
            directory: PathBuf::from("."),
            patience: Patience::default(),
        })
    }
}

fn connect(server: Option<String>, key: Option<String>) -> Result<Client, Error> {
    if let (Some(server), Some(key)) = (&server, &key) {
        return Client::new(server, Some(key.clone()), "--api-key or REPOINT_API_KEY".to_owned());
    }
    let context = match context::read() {
        // Without a home there is no context; that alone is no reason to fail.
        Err(context::Error::Nowhere) => None,
        other => other?,
    };
    let address = server.or_else(|| context.as_ref().map(|context| context.server.clone()));
    let address = address.unwrap_or_else(|| SERVER_DEFAULT.to_owned());
    if let Some(key) = key {
        return Client::new(&address, Some(key), "--api-key or REPOINT_API_KEY".to_owned());
    }
    let keyless = Client::new(&address, None, String::new())?;
    // A key is shown to the server that made it and to no other.
    let own = context.filter(|context| context.server.trim_end_matches('/') == keyless.server());
    match own {
        Some(own) => Client::new(&address, Some(own.api_key), format!("the context {}", context::path()?.display())),
        None => Ok(keyless),
    }
}
