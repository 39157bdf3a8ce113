//! One step of the control plane, done again and again, and killed each time a
//! little later.

use std::collections::BTreeSet;
use std::time::Duration;

use super::audit::{Facts, audit};
use super::plane::Plane;
use super::support::api::{Answer, Api};
use super::support::{until, within};

/// A step and how to tell what became of it.
pub struct Step<'a> {
    pub name: &'a str,
    /// About how many places to be killed at: evenly among all, the first and the last included, and half as many
    /// again among those that are no plain writes.
    pub points: usize,
    /// Brings about the state that the step begins in.
    pub prepare: &'a mut dyn FnMut(&Api),
    /// Does it. Nothing, when the server died before it had answered.
    pub act: &'a mut dyn FnMut(&Api) -> Option<Answer>,
    /// Whether everything that follows from it has happened. Nothing, when the server is dead.
    pub through: &'a mut dyn FnMut(&Api) -> Option<bool>,
    /// The same of what may follow or not; waited for a moment, so that it is killed there too.
    pub echo: &'a mut dyn FnMut(&Api) -> Option<bool>,
}

/// The longest wait for an echo. Without one the walk is shorter, not wrong.
const ECHO_MAX: Duration = Duration::from_secs(1);

/// A server that was killed, not yet started again.
pub struct Crash<'a> {
    pub plane: &'a mut Plane,
    /// What the dead server had answered.
    pub answer: Option<Answer>,
    /// What it left.
    pub facts: Facts,
}

/// Does the step without a kill to count its calls, then once for each point.
/// `after` looks at what is left and starts the server again.
pub fn walk(plane: &mut Plane, step: Step<'_>, after: &mut dyn FnMut(Crash<'_>)) {
    let Step { name, points, prepare, act, through, echo } = step;
    let mut run = |plane: &mut Plane, kill_at: u64| {
        let api = plane.api();
        prepare(&api);
        plane.page.arm(kill_at);
        let answer = act(&api);
        plane.page.answered();
        until(&format!("{name} to be through"), || (plane.is_dead() || through(&api) == Some(true)).then_some(()));
        within(ECHO_MAX, || (plane.is_dead() || echo(&api) == Some(true)).then_some(()));
        let count = plane.page.count();
        let died = count >= kill_at;
        let at = if died { format!("at call {kill_at}: {}", plane.page.what()) } else { "after the last call".into() };
        println!("{name} killed {at}; answered: {:?}", answer.as_ref().map(|answer| answer.status));
        plane.kill();
        let facts = audit(plane.data_dir());
        after(Crash { plane, answer, facts });
        count
    };
    let calls = run(plane, u64::MAX);
    assert!(calls > 3, "{name} changes something: {calls} calls");
    let mut places = evenly(&plane.page.turning_points(), points / 2);
    places.extend(evenly(&(1..=calls).collect::<Vec<_>>(), points));
    for place in places {
        run(plane, place);
    }
}

/// So many of them, the first and the last included.
pub fn evenly(all: &[u64], count: usize) -> BTreeSet<u64> {
    let count = count.min(all.len());
    (0..count).map(|nth| all[nth * (all.len() - 1) / (count - 1).max(1)]).collect()
}
