//! `repoint deploy`: a directory becomes a deployment, and an environment points at it.
//!
//! Packs, uploads what the server does not have yet, creates the deployment and
//! follows its move. Whatever has to be asked is asked before anything is sent.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::bundle::pack::{self, Packed};
use crate::cli::args::Common;
use crate::cli::client::NO_QUERY;
use crate::cli::error::Error;
use crate::cli::follow::{self, Landed, Names};
use crate::cli::progress::{self, Counter, Progress};
use crate::cli::promotion::{confirm_production, full_name, outcome, warnings};
use crate::cli::select::Owner;
use crate::cli::session::Session;
use crate::cli::{Done, near, project, select, text};
use crate::model::id::EnvironmentId;
use crate::model::name::{EnvironmentName, ProjectName};
use crate::rest::bundles;
use crate::rest::deployments::{CreateDeployment, CreateSource, CreatedDeployment, Deployment};
use crate::rest::environments::Environment;
use crate::rest::error::ErrorCode;
use crate::rest::moves::{Moved, WAIT_MS_DEFAULT};

/// Arguments of `repoint deploy`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  repoint deploy\n  repoint deploy ./agent --env staging -m \"faster answers\"\n  \
                        repoint deploy --env production --yes")]
pub struct Deploy {
    #[command(flatten)]
    pub(super) common: Common,
    /// The directory that holds repoint.toml
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// Environment to point at it [default: the one in repoint.toml, else preview]
    #[arg(long, value_name = "ENVIRONMENT")]
    env: Option<String>,
    /// Replicas kept running there
    #[arg(long, value_name = "N")]
    min_replicas: Option<u32>,
    /// Replicas at most there
    #[arg(long, value_name = "N")]
    max_replicas: Option<u32>,
    /// What to say about it
    #[arg(long, short)]
    message: Option<String>,
    /// Do not ask; needed for production and for a new project where there is no terminal
    #[arg(long, short)]
    yes: bool,
}

/// What `deploy --json` prints.
#[derive(Serialize)]
struct Deployed<'a> {
    deployment: &'a Deployment,
    environment: &'a Environment,
    #[serde(flatten)]
    moved: &'a Moved,
}

impl Deploy {
    pub(super) fn run(&self, session: &mut Session) -> Result<Done, Error> {
        if !self.directory.is_dir() {
            return Err(Error::Usage(format!("deploy {}: there is no such directory", self.directory.display())));
        }
        let manifest = pack::manifest_of(&self.directory)?;
        session.directory.clone_from(&self.directory);
        let default = manifest.deploy.environment.as_ref().map_or("preview", EnvironmentName::as_str);
        let environment = self.destination(session, self.env.as_deref().unwrap_or(default))?;
        confirm_production(session, &environment, &format!("deploy to {}", full_name(&environment)), self.yes)?;

        let mut packed = pack_shown(session, &self.directory)?;
        upload(session, &mut packed)?;
        let created = self.create(session, &environment, &packed)?;
        let names =
            Names { deployment: created.deployment.reference.to_string(), environment: full_name(&environment) };
        let landed = followed(session, &created, &names)?;
        report(session, &created.deployment, &environment, &landed, &names)?;
        Ok(landed.done())
    }

    /// The environment that is to serve it. Its project is made where there is none.
    fn destination(&self, session: &mut Session, text: &str) -> Result<Environment, Error> {
        if text.parse::<EnvironmentId>().is_ok() {
            return select::environment(session, text);
        }
        let (named, name) = match text.split_once('/') {
            Some((project, name)) => (Some(project.to_owned()), name),
            None => (select::project_name(session)?, text),
        };
        let project = match named {
            None => select::project(session)?,
            Some(named) => match select::find_project(session, &named)? {
                Some(project) => project,
                None => self.new_project(session, &named, name)?,
            },
        };
        select::environment_of(session, &Owner::from(&project), name)
    }

    fn new_project(
        &self,
        session: &mut Session,
        named: &str,
        environment: &str,
    ) -> Result<crate::rest::projects::Project, Error> {
        let name: ProjectName =
            named.parse().map_err(|error: crate::model::name::InvalidName| Error::Usage(error.to_string()))?;
        // It would be made for nothing.
        if !EnvironmentName::DEFAULTS.contains(&environment) {
            return Err(Error::NotFound {
                noun: format!("environment in the new project {name}"),
                name: environment.to_owned(),
                hint: near::hint(environment, EnvironmentName::DEFAULTS),
            });
        }
        let hint = select::near_projects(session, named)?;
        session.console.confirm(&format!("create project {name}, which does not exist yet{hint}"), self.yes)?;
        let (project, _) = project::create_named(session, &name)?;
        session.console.remark(&format!("created project {name}"));
        Ok(project)
    }

    fn create(
        &self,
        session: &Session,
        environment: &Environment,
        packed: &Packed,
    ) -> Result<CreatedDeployment, Error> {
        let body = CreateDeployment {
            project_id: environment.project_id,
            source: CreateSource::Bundle { digest: packed.digest.to_string() },
            message: self.message.clone(),
            git_commit: git_commit(&self.directory),
            environment_id: Some(environment.id),
            min_replicas: self.min_replicas,
            max_replicas: self.max_replicas,
            wait_ms: Some(WAIT_MS_DEFAULT),
        };
        session.client.post("/api/v1/deployments", &body, session.patience.step)?.read()
    }
}

fn pack_shown(session: &mut Session, directory: &Path) -> Result<Packed, Error> {
    let progress = Progress::bytes(session.console, format!("packing {}", directory.display()));
    let counter = progress.counter();
    // The manifest's own `ignore` is honoured by `pack`.
    let packed = pack::pack(directory, &[], &mut |so_far| counter.set(so_far.bytes, so_far.bytes_total))?;
    let files = text::count(packed.files as u64, "file", "files");
    progress.finish(session.console, &format!("packed {files}, {}", progress::size(packed.size)));
    Ok(packed)
}

fn upload(session: &mut Session, packed: &mut Packed) -> Result<(), Error> {
    let path = format!("/api/v1/bundles/{}", packed.digest);
    match session.client.get(&path, &NO_QUERY, Duration::ZERO) {
        Ok(_) => {
            session.console.remark("the server has these bytes already");
            return Ok(());
        }
        Err(Error::Refused { code, .. }) if code == ErrorCode::BundleNotFound.as_str() => {}
        Err(error) => return Err(error),
    }
    let progress = Progress::bytes(session.console, format!("uploading {}", progress::size(packed.size)));
    let mut counted = Counted { bytes: &mut packed.file, sent: 0, total: packed.size, counter: progress.counter() };
    session.client.upload(&path, bundles::CONTENT_TYPE, packed.size, &mut counted)?;
    progress.finish(session.console, &format!("uploaded {}", packed.digest));
    Ok(())
}

/// Reads on and tells how far it is.
struct Counted<'a> {
    bytes: &'a mut dyn Read,
    sent: u64,
    total: u64,
    counter: Counter,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read(buffer)?;
        self.sent += read as u64;
        self.counter.set(self.sent, self.total);
        Ok(read)
    }
}

fn followed(session: &mut Session, created: &CreatedDeployment, names: &Names) -> Result<Landed, Error> {
    let promotion = match (&created.promotion, &created.pending) {
        (Some(promotion), _) => promotion.id,
        (None, Some(pending)) => follow::until_committed(session, pending.clone(), names)?,
        (None, None) => {
            return Err(Error::NoApi {
                server: session.client.server().to_owned(),
                detail: format!("it created {} and says nothing of its move", names.deployment),
            });
        }
    };
    follow::until_applied(session, promotion, None, names)
}

fn report(
    session: &mut Session,
    deployment: &Deployment,
    environment: &Environment,
    landed: &Landed,
    names: &Names,
) -> Result<(), Error> {
    let moved = &landed.moved;
    if session.console.is_json() {
        return session.console.print_json(&Deployed { deployment, environment, moved });
    }
    session.console.print(&outcome(moved, names))?;
    session.console.print(&format!("  environment  {}", environment.url))?;
    session.console.print(&format!("  deployment   {}", deployment.url))?;
    for warning in warnings(moved, names) {
        session.console.remark(&format!("warning: {warning}"));
    }
    Ok(())
}

/// The commit that is checked out, marked where files differ from it. `None`
/// where there is no repository, or no git to ask.
fn git_commit(directory: &Path) -> Option<String> {
    let mut git = Command::new("git");
    git.arg("-C").arg(directory).args(["describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]);
    let output = git.stderr(std::process::Stdio::null()).output().ok().filter(|output| output.status.success())?;
    let commit = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!commit.is_empty()).then_some(commit)
}

#[cfg(test)]
mod tests {
    use crate::cli::fake::{self, Asked, Fake};
    use serde_json::json;

    const MANIFEST: &str = "project = \"support\"\n[worker]\ncommand = [\"python3\", \"worker.py\"]\n";

    fn directory(manifest: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("repoint.toml"), manifest).unwrap();
        std::fs::write(directory.path().join("worker.py"), "print(1)").unwrap();
        directory
    }

    /// A server without bundles, or with every one.
    fn server(has_bundles: bool) -> Fake {
        Fake::start(move |asked| answer(asked, has_bundles))
    }

    fn answer(asked: &Asked, has_bundles: bool) -> (u16, String) {
        let bundle = asked.line.contains("/bundles/");
        match asked.line.split(' ').next() {
            Some("GET") if bundle && has_bundles => (200, "{}".to_owned()),
            Some("GET") if bundle => fake::refusal(404, "bundle_not_found", "upload it first"),
            Some("GET") if asked.line.contains("/moves/") => (200, fake::pending("committed", "").to_string()),
            Some("GET") if asked.line.contains("/propagation") => (200, fake::moved(2)),
            Some("PUT") => (201, "{}".to_owned()),
            Some("POST") if asked.line.ends_with("/projects") => (201, fake::project().to_string()),
            Some("POST") => {
                let mut created = fake::deployment(fake::NEW, "bcdfwxyz");
                created["move"] = fake::pending("waiting", "starting")["move"].clone();
                (201, created.to_string())
            }
            _ => fake::world(asked),
        }
    }

    fn run(fake: &Fake, directory: &tempfile::TempDir, more: &[&str]) -> fake::Outcome {
        let mut args = vec!["deploy", directory.path().to_str().unwrap()];
        args.extend(more);
        fake.run_answering(&args, None)
    }

    #[test]
    fn a_directory_is_packed_uploaded_created_and_followed() {
        let (fake, directory) = (server(false), directory(MANIFEST));
        let outcome = run(&fake, &directory, &["-m", "first"]);
        assert_eq!(outcome.exit_code, 0, "{}", outcome.remarks);
        assert!(
            outcome.results.contains("  environment  http://support-preview.localhost:8080\n"),
            "{}",
            outcome.results
        );
        assert!(outcome.results.contains("  deployment   http://support--bcdfwxyz.localhost:8080\n"));
        for line in ["packing ", "packed 2 files", "uploading ", "waiting until bcdfwxyz is ready in support/preview"] {
            assert!(outcome.remarks.contains(line), "{line}: {}", outcome.remarks);
        }
        let asked = fake.asked();
        let put = asked.iter().find(|asked| asked.line.starts_with("PUT /api/v1/bundles/sha256:")).unwrap();
        assert!(put.headers.contains("content-type: application/gzip") && !put.body.is_empty());
        let post = asked.iter().find(|asked| asked.line == "POST /api/v1/deployments").unwrap();
        let body: serde_json::Value = serde_json::from_str(&post.body).unwrap();
        assert_eq!(body["source"], json!({"kind": "bundle", "digest": put.line.rsplit('/').next().unwrap()}));
        assert_eq!((body["message"].as_str(), body["project_id"].as_str()), (Some("first"), Some(fake::PROJECT)));
    }

    #[test]
    fn what_the_server_has_is_not_uploaded_again() {
        let (fake, directory) = (server(true), directory(MANIFEST));
        let outcome = run(&fake, &directory, &["--json"]);
        assert_eq!((outcome.exit_code, outcome.remarks.as_str()), (0, ""));
        assert!(!fake.lines().iter().any(|line| line.starts_with("PUT")));
        let result: serde_json::Value = serde_json::from_str(&outcome.results).unwrap();
        assert_eq!(result["deployment"]["ref"], "bcdfwxyz");
        assert_eq!(result["environment"]["name"], "preview");
        assert_eq!(result["propagation"]["complete"], true);
    }

    #[test]
    fn nothing_is_sent_before_what_has_to_be_confirmed() {
        let fake = server(false);
        let new_project = MANIFEST.replace("support", "suport");
        for (manifest, more) in [(MANIFEST, &["--env", "production"][..]), (&new_project, &[])] {
            let outcome = run(&fake, &directory(manifest), more);
            assert_eq!(outcome.exit_code, 2, "{}", outcome.remarks);
            assert!(outcome.remarks.contains("--yes"), "{}", outcome.remarks);
        }
        assert!(fake.lines().iter().all(|line| line.starts_with("GET")), "{:?}", fake.lines());
        assert_eq!(run(&fake, &directory(&new_project), &["--yes"]).exit_code, 0);
        assert!(fake.lines().contains(&"POST /api/v1/projects".to_owned()));
    }

    #[test]
    fn a_new_project_is_not_made_for_an_environment_it_will_not_have() {
        let fake = server(false);
        let outcome = run(&fake, &directory(&MANIFEST.replace("support", "agents")), &["--yes", "--env", "stagin"]);
        assert!(outcome.remarks.contains("did you mean staging?"), "{}", outcome.remarks);
        assert_eq!(outcome.exit_code, 1);
        assert!(fake.lines().iter().all(|line| line.starts_with("GET")));
    }

    #[test]
    fn a_directory_that_cannot_be_deployed_says_why() {
        let fake = server(false);
        let broken = directory("[worker]\ncommand = []\n");
        assert!(run(&fake, &broken, &[]).remarks.contains("worker.command is empty"));
        let empty = tempfile::tempdir().unwrap();
        let outcome = run(&fake, &empty, &[]);
        assert_eq!(outcome.exit_code, 1);
        assert!(outcome.remarks.contains("repoint.toml"), "{}", outcome.remarks);
        assert_eq!(fake.run(["deploy", "/nonexistent"]).exit_code, 2);
        assert_eq!(fake.lines().len(), 0);
    }
}
