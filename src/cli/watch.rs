//! `--wait`: a move, shown live until every proxy has it, or until what was
//! served before has drained.
//!
//! Reads the server's event stream of the move and says each step as a line; on
//! a terminal what still counts moves in one line. A server that is away for a
//! moment is asked again, and tells where the move stands then.

use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use crate::cli::client::{Answer, NO_QUERY};
use crate::cli::error::Error;
use crate::cli::follow::{Names, not_moved};
use crate::cli::progress::Progress;
use crate::cli::session::Session;
use crate::cli::{Done, replicas, text};
use crate::model::moves::MoveState;
use crate::rest::history::Promotion;
use crate::rest::move_events::{Laggard, MoveEvent};
use crate::rest::moves::{Move, Moved, Pending};
use crate::rest::proxies::ProxyState;

/// What to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Goal {
    /// Every live and suspect proxy has applied the move
    Applied,
    /// And what was served before has no request any more
    Drained,
}

/// Between two attempts to hear from a server that is away.
const PAUSE: Duration = Duration::from_millis(250);

/// Proxies named in a line; the rest are counted.
const NAMED_MAX: usize = 3;

/// Arguments of commands that move a pointer.
#[derive(Debug, Args)]
pub struct Wait {
    /// Show the move as it happens, until this is so; with --json as one event a line
    #[arg(long, value_name = "GOAL")]
    wait: Option<Goal>,
    /// Longest such wait; 0 for no limit. The move goes on all the same
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = text::parse_milliseconds, requires = "wait")]
    wait_timeout: u64,
}

impl Wait {
    /// What to wait for; `closes` says whether the move closes what is served now.
    pub fn goal(&self, closes: bool) -> Result<Option<Goal>, Error> {
        match self.wait {
            Some(Goal::Drained) if !closes => Err(Error::Usage(
                "wait until it has drained: this move leaves what is served now running, for pins and a rollback; \
                 give promote --scale-previous-to-zero, or --wait=applied"
                    .to_owned(),
            )),
            goal => Ok(goal),
        }
    }

    /// How long at most; `None`: without a limit.
    pub fn patience(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.wait_timeout)).filter(|patience| !patience.is_zero())
    }
}

/// Watches the move that `answer` tells of until `goal`, `patience` at most.
pub fn to_the_goal(
    session: &mut Session,
    answer: &Answer,
    names: &Names,
    goal: Goal,
    patience: Option<Duration>,
) -> Result<Done, Error> {
    let path = match answer.status {
        202 => format!("/api/v1/moves/{}/events", answer.read::<Pending>()?.pending.id),
        _ => {
            let moved: Moved = answer.read()?;
            if !moved.changed && !session.console.is_json() {
                session.console.remark(&format!("{} serves {} already", names.environment, names.deployment));
            }
            format!("/api/v1/promotions/{}/events", moved.promotion.id)
        }
    };
    let ends = patience.map(|patience| Instant::now() + patience);
    let mut watching = Watching { names, goal, progress: None, is_committed: false, is_just_applied: false, ends };
    let mut heard = Instant::now();
    loop {
        match watching.listen(session, &path) {
            Ok(Some(done)) => return Ok(done),
            Ok(None) => heard = Instant::now(),
            Err(Error::Unreachable { .. }) if heard.elapsed() <= session.patience.deadline_grace => {
                watching.goes_on(session, "the server does not answer; trying again");
            }
            Err(error) => return Err(error),
        }
        if watching.is_over() {
            return watching.gives_up(session);
        }
        std::thread::sleep(PAUSE);
    }
}

struct Watching<'a> {
    names: &'a Names,
    goal: Goal,
    /// The line that moves, while something counts.
    progress: Option<Progress>,
    is_committed: bool,
    /// Nothing was told since it was applied everywhere.
    is_just_applied: bool,
    /// When patience is over, if it ever is.
    ends: Option<Instant>,
}

impl Watching<'_> {
    /// Reads one stream. `None`: it ended early, and is to be opened again.
    fn listen(&mut self, session: &mut Session, path: &str) -> Result<Option<Done>, Error> {
        let stream = session.client.stream(path, &NO_QUERY)?;
        for line in BufReader::new(stream).lines() {
            // A stream that breaks off is opened again, like one that ends early.
            let Ok(line) = line else { return Ok(None) };
            let told = line.strip_prefix("data: ").and_then(|data| Some((data, serde_json::from_str(data).ok()?)));
            // Comments, and events of a newer server.
            if let Some((data, event)) = told {
                if session.console.is_json() {
                    session.console.print(data)?;
                }
                if let Some(done) = self.takes(session, event)? {
                    return Ok(Some(done));
                }
            }
            if self.is_over() {
                return self.gives_up(session).map(Some);
            }
        }
        // Nothing was served before: there is nothing to drain.
        Ok(self.is_just_applied.then_some(Done::Complete))
    }

    /// Shows an event. Answers how it went, when that is all there is to wait for.
    fn takes(&mut self, session: &mut Session, event: MoveEvent) -> Result<Option<Done>, Error> {
        self.is_just_applied = matches!(event, MoveEvent::Applied { .. });
        match event {
            MoveEvent::Waiting { pending } => self.goes_on(session, &waiting(&pending, self.names)),
            MoveEvent::Superseded { pending }
            | MoveEvent::Refused { pending }
            | MoveEvent::TargetNotReady { pending } => {
                return Err(self.not_moved(session, pending));
            }
            MoveEvent::Committed { promotion } => {
                if !std::mem::replace(&mut self.is_committed, true) {
                    self.step(session, &committed(&promotion, self.names))?;
                }
            }
            MoveEvent::Applying { required, applied, lagging, lagging_count, refusing_count, .. } => {
                self.goes_on(session, &applying(required, applied, &lagging, lagging_count));
                // Only another change helps them, and somebody has to make it.
                if refusing_count == lagging_count {
                    return self.gives_up(session).map(Some);
                }
            }
            MoveEvent::Applied { required, unconfirmed, p50_ms, p99_ms, all_ms, .. } => {
                self.step(session, &applied(required, p50_ms, p99_ms, all_ms))?;
                if unconfirmed > 0 {
                    let gone = text::count(u64::from(unconfirmed), "proxy is", "proxies are");
                    session.console.remark(&format!(
                        "warning: {gone} gone and will follow on reconnecting; see `repoint proxies`"
                    ));
                }
                if self.goal == Goal::Applied {
                    return Ok(Some(Done::Complete));
                }
            }
            MoveEvent::Closing { deployment_id, reference, in_flight, blocked_by, blocked_by_count } => {
                let name = text::name_of(reference.as_ref(), deployment_id);
                self.goes_on(session, &closing(&name, in_flight, &blocked_by, blocked_by_count));
            }
            MoveEvent::Drained { deployment_id, reference, streams_cut, .. } => {
                let name = text::name_of(reference.as_ref(), deployment_id);
                self.step(session, &drained(&name, streams_cut))?;
                return Ok(Some(Done::Complete));
            }
            MoveEvent::Kept { deployment_id, reference, state, .. } => {
                let name = text::name_of(reference.as_ref(), deployment_id);
                self.step(session, &format!("{name} is not closing: it is {} there", state.as_str()))?;
                return Ok(Some(if state.is_at_rest() { Done::Complete } else { Done::NotApplied }));
            }
        }
        Ok(None)
    }

    fn is_over(&self) -> bool {
        self.ends.is_some_and(|ends| Instant::now() >= ends)
    }

    /// Something that is done: a line of the result.
    fn step(&mut self, session: &mut Session, line: &str) -> Result<(), Error> {
        self.progress = None;
        // Where programs read, the event itself is the result.
        if session.console.is_json() { Ok(()) } else { session.console.print(line) }
    }

    /// Something that still counts: the line that moves.
    fn goes_on(&mut self, session: &mut Session, line: &str) {
        match &mut self.progress {
            Some(progress) => progress.goes_on(session.console, line),
            None => self.progress = Some(Progress::waiting(session.console, line.to_owned())),
        }
    }

    fn gives_up(&mut self, session: &mut Session) -> Result<Done, Error> {
        self.progress = None;
        let what = match (self.is_committed, self.goal) {
            (false, _) => "the move still waits, and is made when its deployment is ready",
            (true, Goal::Applied) => "the move is committed, and not applied everywhere; see `repoint proxies`",
            (true, Goal::Drained) => "the move is committed, and what was served before has not drained",
        };
        session.console.remark(&format!("warning: {what}"));
        Ok(Done::NotApplied)
    }

    fn not_moved(&mut self, session: &mut Session, pending: Move) -> Error {
        self.progress = None;
        if pending.state == MoveState::TargetNotReady {
            replicas::remark_errors(session, pending.deployment_id, pending.environment_id);
        }
        Error::NotMoved { message: not_moved(&pending, self.names), ended: Box::new(pending) }
    }
}

fn waiting(pending: &Move, names: &Names) -> String {
    let waits = format!("waiting until {} is ready in {}", names.deployment, names.environment);
    pending.detail.as_ref().map_or(waits.clone(), |detail| format!("{waits}: {detail}"))
}

fn committed(row: &Promotion, names: &Names) -> String {
    let to = text::name_of(row.to_ref.as_ref(), row.to_deployment_id);
    let from = row.from_deployment_id.map(|id| format!(" (was {})", text::name_of(row.from_ref.as_ref(), id)));
    format!("{} points at {to}{}; revision {}", names.environment, from.unwrap_or_default(), row.revision)
}

fn applying(required: u32, applied: u32, lagging: &[Laggard], lagging_count: usize) -> String {
    let named: Vec<String> = lagging.iter().take(NAMED_MAX).map(lags).collect();
    let more = match lagging_count.saturating_sub(named.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "applied by {applied} of {}; waiting for {}{more}",
        text::count(u64::from(required), "proxy", "proxies"),
        named.join(", ")
    )
}

fn lags(laggard: &Laggard) -> String {
    let name = &laggard.proxy_id;
    match (&laggard.refused, laggard.state) {
        (Some(refused), _) => format!("{name} (refuses it: {}, {})", refused.reason, refused.detail),
        (None, ProxyState::Live) => name.clone(),
        (None, ProxyState::Suspect | ProxyState::Gone) => {
            format!("{name} (silent for {} s)", laggard.silent_for_ms / 1_000)
        }
    }
}

fn applied(required: u32, p50_ms: Option<f64>, p99_ms: Option<f64>, all_ms: Option<f64>) -> String {
    let proxies = text::count(u64::from(required), "proxy", "proxies");
    match (all_ms, p50_ms, p99_ms) {
        (Some(all), Some(p50), Some(p99)) if required > 1 => {
            format!("applied by {proxies} in {all:.1} ms (p50 {p50:.1} ms, p99 {p99:.1} ms)")
        }
        (Some(all), ..) => format!("applied by {proxies} in {all:.1} ms"),
        (None, ..) => format!("applied by {proxies}"),
    }
}

fn closing(name: &str, in_flight: u64, blocked_by: &[String], blocked_by_count: usize) -> String {
    let finishes = format!("{name} finishes {}", text::count(in_flight, "request", "requests"));
    let named: Vec<&str> = blocked_by.iter().take(NAMED_MAX).map(String::as_str).collect();
    match blocked_by_count.saturating_sub(named.len()) {
        _ if named.is_empty() => finishes,
        0 => format!("{finishes}: {}", named.join("; ")),
        more => format!("{finishes}: {}; and {more} more", named.join("; ")),
    }
}

fn drained(name: &str, streams_cut: u64) -> String {
    match streams_cut {
        0 => format!("{name} has drained"),
        cut => format!("{name} has drained; {} cut", text::count(cut, "request was", "requests were")),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::{Value, json};

    use crate::cli::fake::{self, Fake, Outcome};

    fn committed() -> Value {
        let moved: Value = serde_json::from_str(&fake::moved(0)).unwrap();
        json!({ "event": "committed", "promotion": moved["promotion"] })
    }

    fn applying(applied: u32, refused: Option<&Value>) -> Value {
        let lagging = json!([{
            "proxy_id": "eu-2", "instance_id": fake::OLD, "state": "suspect", "silent_for_ms": 12_000,
            "applied_revision": 41, "refused": refused
        }]);
        let refusing = u32::from(refused.is_some());
        json!({ "event": "applying", "revision": 42, "required": 2, "applied": applied, "unconfirmed": 0,
                "lagging": lagging, "lagging_count": 1, "refusing_count": refusing })
    }

    fn applied() -> Value {
        json!({ "event": "applied", "revision": 42, "required": 2, "unconfirmed": 1,
                "p50_ms": 3.0, "p99_ms": 11.5, "all_ms": 12.0 })
    }

    fn closing() -> Value {
        json!({ "event": "closing", "deployment_id": fake::OLD, "ref": "bcdfghjk", "in_flight": 3,
                "blocked_by": ["proxy eu-1 (run x) carries 3 requests of it"], "blocked_by_count": 1 })
    }

    fn drained() -> Value {
        json!({ "event": "drained", "deployment_id": fake::OLD, "ref": "bcdfghjk",
                "drained_at": "2026-11-23T12:00:00Z", "streams_cut": 1 })
    }

    fn pending(state: &str) -> Value {
        let pending = fake::pending(state, "no replica is ready");
        json!({ "event": state, "move": pending["move"] })
    }

    /// Answers a promote with `status`, and each look at its stream with the next of `streams`.
    fn server(status: u16, streams: Vec<Vec<Value>>) -> Fake {
        let looked = Cell::new(0);
        Fake::start(move |asked| match asked.line.as_str() {
            line if line.starts_with("POST") && status == 202 => (202, fake::pending("waiting", "soon").to_string()),
            line if line.starts_with("POST") => (status, fake::moved(0)),
            line if line.ends_with("/events") => {
                let at = looked.replace(looked.get() + 1).min(streams.len() - 1);
                let said = streams[at].iter();
                (200, said.map(|event| format!(": here\nevent: x\ndata: {event}\n\n")).collect())
            }
            line if line.contains("/errors") => (200, json!({ "items": [] }).to_string()),
            _ => fake::world(asked),
        })
    }

    fn promote(fake: &Fake, more: &[&str]) -> Outcome {
        let args = ["promote", "bcdfwxyz", "--to", "staging"];
        fake.run_answering(&args.iter().chain(more).copied().collect::<Vec<_>>(), None)
    }

    #[test]
    fn a_move_is_shown_step_by_step_until_every_proxy_has_it() {
        let fake = server(202, vec![vec![pending("waiting"), committed(), applying(1, None), applied(), closing()]]);
        let outcome = promote(&fake, &["--wait=applied"]);
        assert_eq!(outcome.exit_code, 0, "{}", outcome.remarks);
        assert_eq!(
            outcome.results,
            "support/staging points at bcdfwxyz (was bcdfghjk); revision 42\n\
             applied by 2 proxies in 12.0 ms (p50 3.0 ms, p99 11.5 ms)\n"
        );
        for part in [
            "waiting until bcdfwxyz is ready in support/staging: no replica is ready",
            "applied by 1 of 2 proxies; waiting for eu-2 (silent for 12 s)",
            "warning: 1 proxy is gone and will follow",
        ] {
            assert!(outcome.remarks.contains(part), "{part}: {}", outcome.remarks);
        }
        let body: Value =
            serde_json::from_str(&fake.asked().iter().find(|asked| !asked.body.is_empty()).unwrap().body).unwrap();
        assert_eq!(body["wait_ms"], 0, "the stream shows what the answer would wait for");
        assert!(fake.lines().contains(&"GET /api/v1/moves/9/events".to_owned()), "{:?}", fake.lines());
    }

    #[test]
    fn what_was_served_before_is_shown_until_it_has_drained() {
        let fake = server(200, vec![vec![committed(), applied(), closing(), drained()]]);
        let outcome = promote(&fake, &["--wait=drained", "--scale-previous-to-zero"]);
        assert_eq!(outcome.exit_code, 0, "{}", outcome.remarks);
        assert!(outcome.results.ends_with("bcdfghjk has drained; 1 request was cut\n"), "{}", outcome.results);
        let told = "bcdfghjk finishes 3 requests: proxy eu-1 (run x) carries 3 requests of it";
        assert!(outcome.remarks.contains(told), "{}", outcome.remarks);
        // Where nothing was served before, the stream ends with the last proxy.
        let fake = server(200, vec![vec![committed(), applied()]]);
        assert_eq!(promote(&fake, &["--wait=drained", "--scale-previous-to-zero"]).exit_code, 0);
    }

    #[test]
    fn waiting_for_a_drain_that_nothing_begins_is_refused_before_anything_moves() {
        let fake = server(200, vec![vec![committed()]]);
        let outcome = promote(&fake, &["--wait=drained"]);
        assert_eq!(outcome.exit_code, 2);
        assert!(outcome.remarks.contains("--scale-previous-to-zero"), "{}", outcome.remarks);
        assert_eq!(fake.run(["rollback", "staging", "--wait=drained"]).exit_code, 2);
        assert!(fake.lines().iter().all(|line| !line.starts_with("POST")), "{:?}", fake.lines());
    }

    #[test]
    fn programs_read_one_event_a_line() {
        let fake = server(200, vec![vec![committed(), applying(1, None), applied()]]);
        let outcome = promote(&fake, &["--wait=applied", "--json"]);
        let events: Vec<Value> = outcome.results.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(events, [committed(), applying(1, None), applied()]);
        assert_eq!((outcome.exit_code, outcome.remarks.as_str()), (0, ""));
    }

    #[test]
    fn a_proxy_that_only_another_change_can_help_is_not_waited_for() {
        let refused = json!({ "revision": 42, "reason": "unsupported", "detail": "run a newer repoint" });
        let fake = server(200, vec![vec![committed(), applying(1, Some(&refused))]]);
        let outcome = promote(&fake, &["--wait=applied"]);
        assert_eq!(outcome.exit_code, 3);
        assert!(outcome.remarks.contains("eu-2 (refuses it: unsupported, run a newer repoint)"), "{}", outcome.remarks);
        assert!(outcome.remarks.contains("not applied everywhere"), "{}", outcome.remarks);
    }

    #[test]
    fn a_stream_that_breaks_off_is_opened_again_and_told_once() {
        let streams = vec![vec![committed()], vec![committed(), applying(1, None)], vec![committed(), applied()]];
        let fake = server(200, streams);
        let outcome = promote(&fake, &["--wait=applied"]);
        assert_eq!(outcome.exit_code, 0, "{}", outcome.remarks);
        assert_eq!(outcome.results.matches("points at").count(), 1, "{}", outcome.results);
    }

    #[test]
    fn patience_ends_and_the_move_goes_on() {
        let fake = server(200, vec![vec![committed(), applying(1, None)]]);
        let outcome = promote(&fake, &["--wait=applied", "--wait-timeout=100ms"]);
        assert_eq!(outcome.exit_code, 3);
        assert!(outcome.remarks.contains("the move is committed, and not applied everywhere"), "{}", outcome.remarks);
    }

    #[test]
    fn a_move_that_ends_without_moving_fails_with_its_reason() {
        for state in ["superseded", "refused", "target_not_ready"] {
            let fake = server(202, vec![vec![pending("waiting"), pending(state)]]);
            let outcome = promote(&fake, &["--wait=applied"]);
            assert_eq!((outcome.exit_code, outcome.results.as_str()), (1, ""), "{state}");
            assert!(outcome.remarks.contains("support/staging"), "{}", outcome.remarks);
        }
        let fake = server(202, vec![vec![pending("refused")]]);
        let outcome = promote(&fake, &["--wait=applied", "--json"]);
        let error: Value = serde_json::from_str(outcome.remarks.trim()).unwrap();
        assert_eq!(error["error"]["code"], "refused");
    }

    #[test]
    fn a_drain_that_somebody_takes_back_is_not_a_drain() {
        let kept = json!({ "event": "kept", "deployment_id": fake::OLD, "ref": "bcdfghjk", "state": "running",
                           "in_flight": 0 });
        let fake = server(200, vec![vec![committed(), applied(), closing(), kept]]);
        let outcome = promote(&fake, &["--wait=drained", "--scale-previous-to-zero"]);
        assert_eq!(outcome.exit_code, 3);
        assert!(outcome.results.ends_with("bcdfghjk is not closing: it is running there\n"), "{}", outcome.results);
    }
}
