//! What production may serve at any moment of the run.

use std::sync::Mutex;

/// The moves so far: which began, and which are known to be applied.
pub struct Timeline(Mutex<State>);

struct State {
    /// Where each move leads; the first is where the run begins.
    moves: Vec<String>,
    /// How many of them were answered `complete: true`.
    settled: usize,
}

/// A moment of the run, taken when a request is sent.
#[derive(Clone, Copy)]
pub struct Moment {
    settled: usize,
}

impl Timeline {
    /// A run that begins with everything settled on `deployment`.
    pub fn new(deployment: String) -> Self {
        Self(Mutex::new(State { moves: vec![deployment], settled: 1 }))
    }

    /// A move is about to be asked for.
    pub fn begin(&self, to: &str) {
        self.state().moves.push(to.to_owned());
    }

    /// The latest move was answered `complete: true`.
    pub fn settle(&self) {
        let mut state = self.state();
        state.settled = state.moves.len();
    }

    /// Now, for a request that is about to be sent.
    pub fn now(&self) -> Moment {
        Moment { settled: self.state().settled }
    }

    /// Whether a request sent at `sent` and answered now may have been served by
    /// `deployment`: by the last one settled when it was sent, or by any that a
    /// move began towards since. Answers also whether that was only one.
    pub fn allows(&self, sent: Moment, deployment: &str) -> (bool, bool) {
        let state = self.state();
        let since = &state.moves[sent.settled - 1..];
        (since.iter().any(|to| to == deployment), since.len() == 1)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics while holding it")
    }
}
