//! Import: many objects in one change, all of them or none.
//!
//! A file is read and judged line by line before anybody is kept waiting
//! (`lines`, `plan`); the names in its URLs are resolved; only then does it take
//! the turn to write, is judged again against what the store has by now, and is
//! written in one transaction (`write`). Everything moves in one change, so that
//! no proxy ever shows half of a file (invariant 1).
//!
//! Endpoints are trusted: a new pool counts as ready at once, and the supervisor
//! probes it afterwards like every other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::Instrument as _;

use crate::control::error::Error;
use crate::control::promotion::Caller;
use crate::control::{Config, Control};
use crate::model::revision::Revision;
use crate::rest::error::ErrorBody;
use crate::rest::transfer::{Imported, Progress, Said};
use crate::store::Transaction;

mod faults;
mod hosts;
mod lines;
mod names;
mod plan;
mod pointers;
mod write;

pub use lines::File;
pub(super) use lines::read;

use names::Names;
use plan::{Plan, plan};

/// Imports at once. One: a second one could only wait for the first, with its file in memory.
pub(super) const IMPORTS_MAX: usize = 1;

/// Lines of an answer on their way. More are not needed: progress may be left out.
const SAID_MAX: usize = 64;

/// How often, and how many times, the store's log is tried to be cut after an
/// import: for as long as a snapshot of a million environments may be read.
const CUT_EVERY: Duration = Duration::from_secs(1);
const CUT_TRIES: u32 = 60;

/// A file that could be imported as the store is now.
pub struct Prepared {
    file: File,
    names: Names,
    /// What an import of the unchanged store would come to.
    plan: Plan,
    _place: OwnedSemaphorePermit,
}

/// What judging a file needs to know beside the store.
struct Asked<'a> {
    config: &'a Config,
    caller: &'a Caller,
    names: &'a Names,
}

impl Control {
    /// A place for one import, to be taken before its file is read.
    ///
    /// # Errors
    ///
    /// When another import runs.
    pub(super) fn import_place(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.imports).try_acquire_owned().map_err(|_| Error::Overloaded("another import runs already"))
    }

    /// Judges a file, without anybody having to wait for it.
    ///
    /// # Errors
    ///
    /// [`Error::ImportInvalid`] with every line that cannot be carried out.
    pub(super) async fn prepare_import(
        &self,
        file: File,
        caller: &Caller,
        place: OwnedSemaphorePermit,
    ) -> Result<Prepared, Error> {
        let mut names = Names::default();
        let asked = Asked { config: &self.config, caller, names: &names };
        let first = plan(&mut self.store.read().await?, &file, &asked).await?;
        if first.unresolved.is_empty() {
            return Ok(Prepared { file, names, plan: first, _place: place });
        }
        names.resolve(first.unresolved).await;
        let asked = Asked { config: &self.config, caller, names: &names };
        let plan = plan(&mut self.store.read().await?, &file, &asked).await?;
        Ok(Prepared { file, names, plan, _place: place })
    }

    /// Carries an import out, also when nobody listens to what is said any more.
    pub(super) fn import(&self, prepared: Prepared, caller: Caller) -> mpsc::Receiver<Said> {
        let (said, hears) = mpsc::channel(SAID_MAX);
        let control = self.clone();
        let carried = async move {
            let hold = control.drain.hold();
            let last = match control.carry_out_import(prepared, &caller, &said).await {
                Ok(imported) => Said::Imported(imported),
                Err(error) => Said::Error(told(&error)),
            };
            let wrote = matches!(&last, Said::Imported(imported) if imported.changed);
            // Whoever asked may have left; the import is as done as it would be otherwise.
            let _ = said.send(last).await;
            drop((said, hold));
            if wrote {
                control.cut_log().await;
            }
        };
        tokio::spawn(carried.in_current_span());
        hears
    }

    async fn carry_out_import(
        &self,
        prepared: Prepared,
        caller: &Caller,
        said: &mpsc::Sender<Said>,
    ) -> Result<Imported, Error> {
        let deadline = |wait| tokio::time::Instant::now() + wait;
        let Prepared { file, names, plan, _place } = prepared;
        let (tallies, revision, transaction) = if plan.is_empty() {
            (plan.tallies, self.store.head().revision, None)
        } else {
            drop(plan);
            progress(said, "waiting", 0, 0);
            let asked = Asked { config: &self.config, caller, names: &names };
            let mut tx = self.store.write().await?;
            let began = Instant::now();
            progress(said, "checking", 0, file.len());
            // Judged again: what was true before the turn may not be any more.
            let plan = plan::plan(&mut tx, &file, &asked).await?;
            if !plan.unresolved.is_empty() {
                return Err(Error::Overloaded("what the file names changed meanwhile; import it again"));
            }
            drop(file);
            let (tallies, revision) = self.commit_import(tx, plan, said).await?;
            (tallies, revision, Some(began.elapsed()))
        };
        progress(said, "applying", 0, 0);
        let propagation = self.propagated(revision, deadline(caller.wait)).await;
        let transaction_ms = transaction.map_or(0, |took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        if transaction.is_some() {
            tracing::info!(
                actor = caller.actor, %revision, environments = tallies.environments.created,
                pointers = tallies.pointers.created + tallies.pointers.changed, transaction_ms, "imported"
            );
        }
        Ok(Imported {
            changed: transaction.is_some(),
            revision,
            projects: tallies.projects,
            deployments: tallies.deployments,
            environments: tallies.environments,
            pointers: tallies.pointers,
            transaction_ms,
            propagation: crate::control::api::shown_propagation(propagation),
        })
    }

    /// Gives back the room that an import took in the store's log, once those who
    /// read all of it anew have done so. After that it is left to later commits.
    async fn cut_log(&self) {
        let mut drain = self.drain.clone();
        for _ in 0..CUT_TRIES {
            match self.store.truncate_log().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    return tracing::warn!(error, "the store's log could not be cut after an import");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(CUT_EVERY) => {}
                () = drain.asked() => return,
            }
        }
    }

    async fn commit_import(
        &self,
        mut tx: Transaction,
        plan: Plan,
        said: &mpsc::Sender<Said>,
    ) -> Result<(plan::Tallies, Revision), Error> {
        let tallies = plan.tallies;
        let has_moves = !plan.moves.is_empty();
        write::write(&mut tx, plan, |done, of| progress(said, "writing", done, of)).await?;
        progress(said, "committing", 0, 0);
        let moves = if has_moves { Some(tx.next_revision().await?) } else { None };
        let revision = self.applied.commit_change(tx, moves).await?;
        Ok((tallies, revision))
    }
}

/// Progress is for people: what does not fit at once is not said.
fn progress(said: &mpsc::Sender<Said>, step: &str, done: usize, of: usize) {
    let _ = said.try_send(Said::Progress(Progress { step: step.to_owned(), done: done as u64, of: of as u64 }));
}

fn told(error: &Error) -> ErrorBody {
    let body = error.body();
    if body.code == crate::rest::error::ErrorCode::Internal {
        tracing::error!(error = error as &dyn std::error::Error, "an import failed");
    }
    body
}
