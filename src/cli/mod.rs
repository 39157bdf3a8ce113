//! The client commands: what a person or a script says to a running server.
//!
//! Owns arguments, questions, waiting, output and exit codes. Knows nothing of
//! how the server decides: it asks over REST in the shapes of [`crate::rest`]
//! and shows what it is told. `main` parses the command line and calls [`run`].
//!
//! Results go to standard output, everything else (questions, progress,
//! warnings, errors) to standard error. With `--json` results are the server's
//! JSON and errors one `{"error":…}` object; progress is not shown then.

pub mod args;
pub mod context;

mod client;
mod console;
mod deploy;
mod deployment;
mod environment;
mod error;
#[cfg(test)]
mod fake;
mod follow;
mod history;
mod near;
mod project;
mod promotion;
mod progress;
mod proxies;
mod replicas;
mod select;
mod session;
mod settings;
mod table;
mod text;
mod transfer;
mod watch;

use std::process::ExitCode;

use crate::cli::args::Command;
use crate::cli::console::Console;
use crate::cli::error::Error;
use crate::cli::session::Session;

/// How a command that did not fail ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Done {
    /// Everything asked for is done.
    Complete,
    /// The move is committed, and some proxy had not applied it in time.
    NotApplied,
}

/// Carries out a client command and says how it went: 0 done, 1 failed, 2 usage
/// or confirmation needed, 3 committed but not applied everywhere in time.
pub fn run(command: &Command) -> ExitCode {
    let common = command.common();
    let mut console = Console::of_process(common.json);
    let outcome = Session::open(common, &mut console).and_then(|mut session| command.carry_out(&mut session));
    ExitCode::from(conclude(outcome, &mut console))
}

fn conclude(outcome: Result<Done, Error>, console: &mut Console) -> u8 {
    match outcome {
        Ok(Done::Complete) => 0,
        Ok(Done::NotApplied) => 3,
        // Whoever read our output has seen enough, as in `repoint deployment list | head -1`.
        Err(Error::Output(source)) if source.kind() == std::io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            console.fail(&error);
            error.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_reader_that_has_seen_enough_is_no_failure() {
        let (mut console, _, remarks) = console::captured::console(false, None);
        let gone = Err(Error::Output(io::ErrorKind::BrokenPipe.into()));
        assert_eq!((conclude(gone, &mut console), remarks.get().as_str()), (0, ""));
        let full = Err(Error::Output(io::ErrorKind::StorageFull.into()));
        assert_eq!(conclude(full, &mut console), 1);
        assert!(remarks.get().contains("standard output"));
    }
}
