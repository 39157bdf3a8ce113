//! `repoint promote` and `repoint rollback`: moving a pointer, and saying how it went.

use clap::Args;

use crate::cli::args::Common;
use crate::cli::error::Error;
use crate::cli::follow::{self, Landed, Names};
use crate::cli::select::Owner;
use crate::cli::session::Session;
use crate::cli::watch::{self, Wait};
use crate::cli::{Done, replicas, select, text};
use crate::rest::deployments::Deployment;
use crate::rest::environments::Environment;
use crate::rest::error::ErrorCode;
use crate::rest::moves::{self as shape, Moved};

/// Arguments of `repoint promote`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  repoint promote k3v9x2ab --to staging\n  \
                        repoint promote k3v9x2ab --to support/production --reason \"faster answers\" --yes\n  \
                        repoint promote k3v9x2ab --to staging --scale-previous-to-zero --wait=drained")]
pub struct Promote {
    #[command(flatten)]
    pub(super) common: Common,
    /// Which deployment: its ref, its id, or the beginning of either
    deployment: String,
    /// The environment to point at it: environment, project/environment or an id
    #[arg(long, value_name = "ENVIRONMENT")]
    to: String,
    /// Replicas kept running there
    #[arg(long, value_name = "N")]
    min_replicas: Option<u32>,
    /// Replicas at most there
    #[arg(long, value_name = "N")]
    max_replicas: Option<u32>,
    /// Drain and stop the replicas that were served before
    #[arg(long)]
    scale_previous_to_zero: bool,
    /// Start the deployment again where it was terminated
    #[arg(long)]
    start: bool,
    /// Refuse unless the environment serves this deployment now
    #[arg(long, value_name = "DEPLOYMENT")]
    expect_current: Option<String>,
    /// Why, for the history
    #[arg(long, short = 'm')]
    reason: Option<String>,
    /// Do not ask; needed for production where there is no terminal
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
}

/// Arguments of `repoint rollback`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  repoint rollback staging\n  repoint rollback production --to k3v9x2ab --yes")]
pub struct Rollback {
    #[command(flatten)]
    pub(super) common: Common,
    /// Which environment: environment, project/environment or an id
    environment: String,
    /// Go back to this deployment [default: the one that `repoint env show` names]
    #[arg(long, value_name = "DEPLOYMENT")]
    to: Option<String>,
    /// Refuse unless the environment serves this deployment now
    #[arg(long, value_name = "DEPLOYMENT")]
    expect_current: Option<String>,
    /// Why, for the history
    #[arg(long, short = 'm')]
    reason: Option<String>,
    /// Do not ask; needed for production where there is no terminal
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
}

impl Promote {
    pub(super) fn run(&self, session: &mut Session) -> Result<Done, Error> {
        let goal = self.wait.goal(self.scale_previous_to_zero)?;
        let (deployment, environment) = self.chosen(session)?;
        let names = Names { deployment: deployment.reference.to_string(), environment: full_name(&environment) };
        confirm_production(
            session,
            &environment,
            &format!("promote {} to {}", names.deployment, names.environment),
            self.yes,
        )?;
        let expected = in_project(session, &environment, self.expect_current.as_deref())?;
        let body = shape::Promote {
            source_deployment_id: deployment.id,
            target_environment_id: environment.id,
            min_replicas: self.min_replicas,
            max_replicas: self.max_replicas,
            scale_previous_to_zero: self.scale_previous_to_zero,
            expected_current_deployment_id: expected.map(|deployment| Some(deployment.id)),
            reason: self.reason.clone(),
            start: self.start,
            wait_ms: Some(if goal.is_some() { 0 } else { shape::WAIT_MS_DEFAULT }),
        };
        let answer = session.client.post("/api/v1/deployments/promote", &body, session.patience.step);
        if matches!(&answer, Err(Error::Refused { code, .. }) if code == ErrorCode::TargetNotReady.as_str()) {
            replicas::remark_errors(session, deployment.id, environment.id);
        }
        let answer = answer?;
        if let Some(goal) = goal {
            return watch::to_the_goal(session, &answer, &names, goal, self.wait.patience());
        }
        let landed = follow::to_the_end(session, answer, &names)?;
        report(session, &landed, &names)?;
        Ok(landed.done())
    }

    fn chosen(&self, session: &Session) -> Result<(Deployment, Environment), Error> {
        if let Some(deployment) = select::deployment_by_id(session, &self.deployment)? {
            let environment = select::environment_beside(session, &deployment, &self.to)?;
            return Ok((deployment, environment));
        }
        let environment = select::environment(session, &self.to)?;
        let deployment = select::deployment_of(session, &Owner::from(&environment), &self.deployment)?;
        Ok((deployment, environment))
    }
}

impl Rollback {
    pub(super) fn run(&self, session: &mut Session) -> Result<Done, Error> {
        let goal = self.wait.goal(false)?;
        let environment = select::environment(session, &self.environment)?;
        let deployment = in_project(session, &environment, self.to.as_deref())?;
        let back_to = match &deployment {
            Some(deployment) => deployment.reference.to_string(),
            None => self.announced(session, &environment)?,
        };
        let names = Names { deployment: back_to, environment: full_name(&environment) };
        confirm_production(
            session,
            &environment,
            &format!("roll {} back to {}", names.environment, names.deployment),
            self.yes,
        )?;
        let expected = in_project(session, &environment, self.expect_current.as_deref())?;
        let body = shape::Rollback {
            environment_id: environment.id,
            target_deployment_id: deployment.map(|deployment| deployment.id),
            expected_current_deployment_id: expected.map(|deployment| Some(deployment.id)),
            immediate: false,
            reason: self.reason.clone(),
            wait_ms: Some(if goal.is_some() { 0 } else { shape::WAIT_MS_DEFAULT }),
        };
        let answer = session.client.post("/api/v1/deployments/rollback", &body, session.patience.step)?;
        if let Some(goal) = goal {
            return watch::to_the_goal(session, &answer, &names, goal, self.wait.patience());
        }
        let landed = follow::to_the_end(session, answer, &names)?;
        report(session, &landed, &names)?;
        Ok(landed.done())
    }

    /// Where the server says a rollback lands. Where it names nothing the
    /// request is made all the same: the refusal says why.
    fn announced(&self, session: &Session, environment: &Environment) -> Result<String, Error> {
        let (detail, _) = select::environment_detail(session, environment.id)?;
        let target = detail.rollback_target.map(|id| text::name_of(detail.rollback_target_ref.as_ref(), id));
        Ok(target.unwrap_or_else(|| "its earlier deployment".to_owned()))
    }
}

/// `project/environment`.
pub fn full_name(environment: &Environment) -> String {
    format!("{}/{}", environment.project, environment.name)
}

/// Asks before production changes what it serves.
pub fn confirm_production(
    session: &mut Session,
    environment: &Environment,
    question: &str,
    yes: bool,
) -> Result<(), Error> {
    if environment.name.as_str() != "production" {
        return Ok(());
    }
    let question = match environment.current_deployment_id {
        Some(id) => format!("{question}, which serves {} now", text::name_of(environment.current_ref.as_ref(), id)),
        None => question.to_owned(),
    };
    session.console.confirm(&question, yes)
}

fn in_project(session: &Session, environment: &Environment, text: Option<&str>) -> Result<Option<Deployment>, Error> {
    let Some(text) = text else { return Ok(None) };
    match select::deployment_by_id(session, text)? {
        Some(deployment) => Ok(Some(deployment)),
        None => select::deployment_of(session, &Owner::from(environment), text).map(Some),
    }
}

fn report(session: &mut Session, landed: &Landed, names: &Names) -> Result<(), Error> {
    if session.console.is_json() {
        return session.console.print(&landed.text);
    }
    session.console.print(&outcome(&landed.moved, names))?;
    for warning in warnings(&landed.moved, names) {
        session.console.remark(&format!("warning: {warning}"));
    }
    Ok(())
}

/// What a committed move came to, in a line.
pub fn outcome(moved: &Moved, names: &Names) -> String {
    let row = &moved.promotion;
    let to = row.to_ref.as_ref().map_or_else(|| names.deployment.clone(), ToString::to_string);
    if !moved.changed {
        return format!("{} serves {to} already; nothing moved", names.environment);
    }
    let from = row.from_deployment_id.map(|id| format!(" (was {})", text::name_of(row.from_ref.as_ref(), id)));
    let spread = &moved.propagation;
    let mut line = format!(
        "{} serves {to}{}; revision {}, applied by {} of {} in {} ms",
        names.environment,
        from.unwrap_or_default(),
        moved.revision,
        spread.applied,
        text::count(u64::from(spread.required), "proxy", "proxies"),
        spread.elapsed_ms
    );
    if let Some(previous) = moved.previous.as_ref().filter(|previous| previous.in_flight > 0) {
        let name = text::name_of(previous.reference.as_ref(), previous.deployment_id);
        line.push_str(&format!("; {name} finishes {}", text::count(previous.in_flight, "request", "requests")));
    }
    line
}

/// What a committed move leaves to be looked after.
pub fn warnings(moved: &Moved, names: &Names) -> Vec<String> {
    let spread = &moved.propagation;
    let mut warnings = Vec::new();
    if !moved.skipped.is_empty() {
        let skipped: Vec<String> = moved.skipped.iter().map(ToString::to_string).collect();
        warnings.push(format!("passed over {}: no longer there", skipped.join(", ")));
    }
    for refused in &spread.refused {
        warnings.push(format!("proxy {} refused the change: {}", refused.proxy_id, refused.reason));
    }
    if spread.unconfirmed > 0 {
        let gone = text::count(u64::from(spread.unconfirmed), "proxy is", "proxies are");
        warnings.push(format!("{gone} gone and will follow on reconnecting; see `repoint proxies`"));
    }
    if !spread.complete {
        warnings.push(format!(
            "the move of {} is committed, but only {} of {} proxies have applied it; see `repoint proxies`",
            names.environment, spread.applied, spread.required
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fake::{self, Fake};

    fn server() -> Fake {
        Fake::start(|asked| match asked.line.starts_with("POST") {
            true => (200, fake::moved(2)),
            false => fake::world(asked),
        })
    }

    fn posts(fake: &Fake) -> usize {
        fake.lines().iter().filter(|line| line.starts_with("POST")).count()
    }

    #[test]
    fn production_asks_and_without_a_terminal_wants_a_yes() {
        let fake = server();
        for args in [vec!["promote", "bcdfwxyz", "--to", "production"], vec!["rollback", "support/production"]] {
            let run = |yes: &[&str], answers| {
                let args: Vec<&str> = args.iter().copied().chain(yes.iter().copied()).collect();
                fake.run_answering(&args, answers).exit_code
            };
            let before = posts(&fake);
            assert_eq!(run(&[], None), 2);
            assert_eq!(run(&[], Some("n\n")), 2);
            assert_eq!(posts(&fake), before, "a refusal asks the server for nothing");
            assert_eq!(run(&[], Some("y\n")), 0);
            assert_eq!(run(&["--yes"], None), 0);
            assert_eq!(posts(&fake), before + 2);
        }
    }

    #[test]
    fn the_question_says_what_is_served_now() {
        let outcome = server().run_answering(&["promote", "bcdfw", "--to", "production"], Some("y\n"));
        let question = "promote bcdfwxyz to support/production, which serves bcdfghjk now? [y/N] ";
        assert!(outcome.remarks.starts_with(question), "{}", outcome.remarks);
    }

    #[test]
    fn a_rollback_names_its_deployment_and_what_it_expects() {
        let fake = server();
        let outcome = fake.run(["rollback", "staging", "--to", "bcdfghjk", "--expect-current", fake::NEW]);
        assert_eq!(outcome.exit_code, 0, "{}", outcome.remarks);
        let body: serde_json::Value = serde_json::from_str(&fake.asked().last().unwrap().body).unwrap();
        assert_eq!(body["target_deployment_id"], fake::OLD);
        assert_eq!(body["expected_current_deployment_id"], fake::NEW);
    }

    #[test]
    fn a_refusal_is_passed_on() {
        let fake = Fake::start(|asked| match asked.line.starts_with("POST") {
            true => fake::refusal(409, "no_rollback_target", "nothing to go back to; promote one"),
            false => fake::world(asked),
        });
        let outcome = fake.run(["rollback", "staging"]);
        assert_eq!((outcome.exit_code, outcome.results.as_str()), (1, ""));
        assert_eq!(outcome.remarks, "error: nothing to go back to; promote one\n");
    }

    #[test]
    fn what_needs_looking_after_is_a_warning() {
        let mut moved: Moved = serde_json::from_str(&fake::moved(1)).unwrap();
        moved.propagation.unconfirmed = 1;
        moved.propagation.refused = vec![shape::RefusedBy { proxy_id: "p1".into(), reason: "unsupported".into() }];
        let names = Names { deployment: "bcdfwxyz".into(), environment: "support/staging".into() };
        let warnings = warnings(&moved, &names).join("\n");
        for part in ["proxy p1 refused the change: unsupported", "1 proxy is gone", "only 1 of 2"] {
            assert!(warnings.contains(part), "{warnings}");
        }
        moved.changed = false;
        assert_eq!(outcome(&moved, &names), "support/staging serves bcdfwxyz already; nothing moved");
    }
}
