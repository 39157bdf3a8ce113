//! Following a move: first until it is committed, then until the proxies have it.
//!
//! A move that waits for its deployment is followed until the server says how it
//! ended; the server keeps that time. A committed move is followed for as long
//! as the session's patience lasts, and is committed all the same afterwards.

use std::time::{Duration, Instant};

use crate::cli::client::Answer;
use crate::cli::error::Error;
use crate::cli::progress::Progress;
use crate::cli::session::Session;
use crate::cli::{Done, replicas, text};
use crate::model::id::PromotionId;
use crate::model::moves::MoveState;
use crate::rest::moves::{Move, Moved, Pending, WaitQuery};

/// What moves where, for people.
pub struct Names {
    /// The deployment's ref.
    pub deployment: String,
    /// `project/environment`.
    pub environment: String,
}

/// A committed move, and the server's own text of it.
pub struct Landed {
    /// The move.
    pub moved: Moved,
    /// As the server put it.
    pub text: String,
}

impl Landed {
    /// Whether every proxy that is waited for has it.
    pub fn done(&self) -> Done {
        if self.moved.propagation.complete { Done::Complete } else { Done::NotApplied }
    }
}

/// Between two questions that were answered at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Follows the answer to a promote or a rollback to its end.
pub fn to_the_end(session: &mut Session, answer: Answer, names: &Names) -> Result<Landed, Error> {
    // 202: it waits for its deployment.
    if answer.status == 202 {
        let Pending { pending } = answer.read()?;
        let promotion = until_committed(session, pending, names)?;
        return until_applied(session, promotion, None, names);
    }
    let moved: Moved = answer.read()?;
    let (promotion, is_complete) = (moved.promotion.id, moved.propagation.complete);
    let landed = Landed { moved, text: answer.text };
    if is_complete { Ok(landed) } else { until_applied(session, promotion, Some(landed), names) }
}

/// Waits until a move is committed. Answers its row in the history.
pub fn until_committed(session: &mut Session, mut pending: Move, names: &Names) -> Result<PromotionId, Error> {
    let path = format!("/api/v1/moves/{}", pending.id);
    let allowed = pending.deadline.duration_since(pending.requested_at);
    let allowed = Duration::try_from(allowed).unwrap_or_default() + session.patience.deadline_grace;
    let (began, waits) =
        (Instant::now(), format!("waiting until {} is ready in {}", names.deployment, names.environment));
    let mut progress = Progress::waiting(session.console, waits.clone());
    let mut heard = Instant::now();
    while pending.state == MoveState::Waiting {
        if began.elapsed() > allowed {
            let message = format!(
                "{} still waits for {} longer than it should; look at `repoint env show {0}`",
                names.environment, names.deployment
            );
            return Err(Error::NotMoved { message, ended: Box::new(pending) });
        }
        if let Some(answer) = ask(session, &path, &mut progress, &mut heard)? {
            Pending { pending } = answer.read()?;
        }
        let text = match &pending.detail {
            Some(detail) => format!("{waits}: {detail}"),
            None => waits.clone(),
        };
        progress.goes_on(session.console, &text);
    }
    drop(progress);
    if let (MoveState::Committed, Some(promotion)) = (pending.state, pending.promotion_id) {
        return Ok(promotion);
    }
    if pending.state == MoveState::TargetNotReady {
        replicas::remark_errors(session, pending.deployment_id, pending.environment_id);
    }
    Err(Error::NotMoved { message: not_moved(&pending, names), ended: Box::new(pending) })
}

/// Waits until every proxy has a committed move, or patience ends. `known` is
/// what an earlier answer said.
pub fn until_applied(
    session: &mut Session,
    promotion: PromotionId,
    mut known: Option<Landed>,
    names: &Names,
) -> Result<Landed, Error> {
    let path = format!("/api/v1/promotions/{promotion}/propagation");
    let began = Instant::now();
    let waits = format!("{} serves {} as soon as every proxy has it", names.environment, names.deployment);
    let mut progress = Progress::waiting(session.console, waits);
    let mut heard = Instant::now();
    loop {
        match known {
            Some(landed) if landed.moved.propagation.complete || began.elapsed() >= session.patience.applied => {
                return Ok(landed);
            }
            Some(landed) => {
                let so_far = &landed.moved.propagation;
                let text = format!("{} of {} proxies have it", so_far.applied, so_far.required);
                progress.goes_on(session.console, &text);
                known = Some(landed);
            }
            None => {}
        }
        if let Some(answer) = ask(session, &path, &mut progress, &mut heard)? {
            known = Some(later(answer.read()?, answer.text, known));
        }
    }
}

/// A later look at a committed move. What only the first answer can know stays:
/// whether this command moved the pointer, and what it passed over.
fn later(mut moved: Moved, mut text: String, known: Option<Landed>) -> Landed {
    if let Some(Landed { moved: first, .. }) = known
        && (first.changed, &first.skipped) != (moved.changed, &moved.skipped)
    {
        (moved.changed, moved.skipped) = (first.changed, first.skipped);
        text = serde_json::to_string(&moved).unwrap_or(text);
    }
    Landed { moved, text }
}

/// Asks once and lets the server wait. `None`: it is away for the moment, which
/// a restart explains; a move survives that.
fn ask(
    session: &mut Session,
    path: &str,
    progress: &mut Progress,
    heard: &mut Instant,
) -> Result<Option<Answer>, Error> {
    let (began, step) = (Instant::now(), session.patience.step);
    let wait_ms = u64::try_from(step.as_millis()).unwrap_or(u64::MAX);
    let answer = session.client.get(path, &WaitQuery { wait_ms: Some(wait_ms) }, step);
    if began.elapsed() < PAUSE {
        std::thread::sleep(PAUSE.saturating_sub(began.elapsed()));
    }
    match answer {
        Ok(answer) => {
            *heard = Instant::now();
            Ok(Some(answer))
        }
        Err(Error::Unreachable { .. }) if heard.elapsed() <= session.patience.deadline_grace => {
            progress.goes_on(session.console, "the server does not answer; trying again");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Why a pending move did not move anything, for people.
pub fn not_moved(ended: &Move, names: &Names) -> String {
    let Names { deployment, environment } = names;
    let detail = ended.detail.as_deref().unwrap_or("no reason was given");
    // Servers of before this was kept say none.
    let when = ended.ended_at.map(|at| format!(" at {}", text::moment(at))).unwrap_or_default();
    match ended.state {
        MoveState::Superseded => {
            format!("{environment} was not pointed at {deployment}: a later move took this one's place{when}")
        }
        MoveState::TargetNotReady => format!(
            "{deployment} did not become ready in {environment}, which serves what it served before: {detail}; given up{when}; \
             see `repoint deployment errors {deployment}`"
        ),
        MoveState::Refused => format!("{environment} was not pointed at {deployment}: {detail}; refused{when}"),
        MoveState::Waiting | MoveState::Committed => format!("{environment} has no row for {deployment}: {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::fake::{self, Fake};

    const PROMOTE: &str = "POST /api/v1/deployments/promote";

    /// Answers the promote, then each look at the move or its propagation in turn; the last answer stays.
    fn server(promote: (u16, String), looks: Vec<(u16, String)>) -> Fake {
        let looked = std::cell::Cell::new(0);
        Fake::start(move |asked| match asked.line.as_str() {
            PROMOTE => promote.clone(),
            line if line.contains("/moves/") || line.contains("/propagation") => {
                let at = looked.replace(looked.get() + 1).min(looks.len() - 1);
                looks[at].clone()
            }
            line if line.contains("/errors") => (200, format!("{{\"items\":[{}]}}", error())),
            _ => fake::world(asked),
        })
    }

    fn error() -> &'static str {
        r#"{"environment_id":"01980000-0000-7000-8000-0000000000b2","environment":"staging","at":"2026-11-23T12:00:00Z",
            "kind":"CrashLoop","message":"it exited with status 1","output":["no module named flask"],"count":3}"#
    }

    fn pending(state: &str) -> (u16, String) {
        (200, fake::pending(state, "no replica is ready").to_string())
    }

    #[test]
    fn a_move_that_is_made_at_once_is_told_in_a_line() {
        let fake = server((200, fake::moved(2)), vec![]);
        let outcome = fake.run(["promote", "bcdfwxyz", "--to", "staging"]);
        let line = "support/staging serves bcdfwxyz (was bcdfghjk); revision 42, applied by 2 of 2 proxies in 4 ms; \
                    bcdfghjk finishes 1 request\n";
        assert_eq!((outcome.exit_code, outcome.results.as_str()), (0, line), "{}", outcome.remarks);
        let body: serde_json::Value = serde_json::from_str(&fake.asked().last().unwrap().body).unwrap();
        assert_eq!(body["source_deployment_id"], fake::NEW);
        assert_eq!(body["target_environment_id"], fake::STAGING);
    }

    #[test]
    fn a_move_that_waits_is_followed_until_every_proxy_has_it() {
        let looks = vec![pending("waiting"), pending("committed"), (200, fake::moved(1)), (200, fake::moved(2))];
        let fake = server((202, pending("waiting").1), looks);
        let outcome = fake.run(["promote", "bcdfwxyz", "--to", "staging", "--json"]);
        assert_eq!((outcome.exit_code, outcome.remarks.as_str()), (0, ""));
        assert_eq!(outcome.results, format!("{}\n", fake::moved(2)));
    }

    #[test]
    fn committed_but_not_applied_everywhere_exits_with_3() {
        let fake = server((200, fake::moved(1)), vec![(200, fake::moved(1))]);
        let outcome = fake.run(["promote", "bcdfwxyz", "--to", "staging"]);
        assert_eq!(outcome.exit_code, 3);
        assert!(outcome.results.contains("applied by 1 of 2 proxies"), "{}", outcome.results);
        assert!(outcome.remarks.contains("warning: the move of support/staging is committed"), "{}", outcome.remarks);
    }

    #[test]
    fn whether_anything_moved_is_what_the_first_answer_said() {
        let first = fake::moved(1).replace("\"changed\":true", "\"changed\":false");
        let fake = server((200, first), vec![(200, fake::moved(2))]);
        let outcome = fake.run(["promote", "bcdfwxyz", "--to", "staging", "--json"]);
        let moved: serde_json::Value = serde_json::from_str(&outcome.results).unwrap();
        assert_eq!((outcome.exit_code, &moved["changed"]), (0, &serde_json::Value::Bool(false)));
    }

    #[test]
    fn a_deployment_that_never_gets_ready_fails_with_its_last_words() {
        let fake = server((202, pending("waiting").1), vec![pending("target_not_ready")]);
        let outcome = fake.run(["promote", "bcdfwxyz", "--to", "staging"]);
        assert_eq!((outcome.exit_code, outcome.results.as_str()), (1, ""));
        for part in ["| no module named flask", "did not become ready", "repoint deployment errors bcdfwxyz"] {
            assert!(outcome.remarks.contains(part), "{part}: {}", outcome.remarks);
        }
    }

    #[test]
    fn last_words_are_shown_too_where_the_server_waited_itself() {
        let fake = server(fake::refusal(409, "target_not_ready", "it is not ready"), vec![]);
        let outcome = fake.run(["promote", "bcdfwxyz", "--to", "staging"]);
        assert_eq!(outcome.exit_code, 1);
        assert!(outcome.remarks.contains("| no module named flask"), "{}", outcome.remarks);
        assert!(outcome.remarks.ends_with("error: it is not ready\n"), "{}", outcome.remarks);
    }

    #[test]
    fn other_ends_of_a_move_are_told_apart() {
        for (state, words) in [("superseded", "a later move took"), ("refused", "no replica is ready")] {
            let fake = server((202, pending("waiting").1), vec![pending(state)]);
            let outcome = fake.run(["promote", "bcdfwxyz", "--to", "staging", "--json"]);
            let object: serde_json::Value = serde_json::from_str(&outcome.remarks).unwrap();
            assert_eq!((outcome.exit_code, object["error"]["code"].as_str()), (1, Some(state)));
            assert!(object["error"]["message"].as_str().unwrap().contains(words), "{object}");
            assert_eq!(object["error"]["details"]["move"]["id"], 9);
            assert_eq!(object["error"]["details"]["move"]["ended_at"], "2026-11-23T12:00:01.5Z");
        }
    }

    #[test]
    fn a_move_that_ended_without_moving_is_told_with_its_time() {
        for state in ["superseded", "target_not_ready", "refused"] {
            let fake = server((202, pending("waiting").1), vec![pending(state)]);
            let outcome = fake.run(["promote", "bcdfwxyz", "--to", "staging"]);
            assert!(outcome.remarks.contains(" at 2026-11-23 12:00:01Z"), "{state}: {}", outcome.remarks);
        }
        let older = pending("refused").1.replace("ended_at", "ended_at_unknown");
        let fake = server((202, pending("waiting").1), vec![(200, older)]);
        let outcome = fake.run(["promote", "bcdfwxyz", "--to", "staging"]);
        assert!(outcome.remarks.contains("; refused\n"), "an older server says no time: {}", outcome.remarks);
    }

    #[test]
    fn a_move_that_the_server_forgets_to_end_is_not_followed_for_ever() {
        let fake = server((202, pending("waiting").1), vec![pending("waiting")]);
        let outcome = fake.run(["promote", "bcdfwxyz", "--to", "staging"]);
        assert_eq!(outcome.exit_code, 1);
        assert!(outcome.remarks.contains("longer than it should"), "{}", outcome.remarks);
    }
}
